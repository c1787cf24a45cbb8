//! The protocol's behaviour through its public API. The names of the tests are the specification.

mod cuts;
mod deflate;
mod end;
mod examples;
#[allow(dead_code, reason = "shared with other tests, which use the rest of it")]
mod frames;
mod handshake;
mod limits;
mod negotiation;
mod pair;
mod reader;
mod rejects;
mod tungstenite_peer;
