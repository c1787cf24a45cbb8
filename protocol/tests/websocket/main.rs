//! The protocol's behaviour through its public face. Test names are the specification.

mod cuts;
mod end;
mod examples;
mod frames;
mod handshake;
mod limits;
mod pair;
mod reader;
mod rejects;
mod tungstenite_peer;
