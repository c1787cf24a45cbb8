//! The echo server: WebSocket messages, or raw bytes, come back as they were sent.
//!
//! One worker per core, each with its own listening socket, connections and counters; nothing is
//! shared while bytes flow. [`Server`] starts the workers, [`WebSocketEcho`] is what each of them
//! does. From socket to socket a byte passes an engine's receive,
//! [`WebSocketEcho::received`](engine::Handler::received), the frame reader of `protocol`, the
//! in-place transform of `echo`, and the engine's send.
#![forbid(unsafe_code)]

mod admin;
mod admission;
pub mod cli;
pub mod config;
mod connection;
mod counted;
mod deflate;
mod echo;
mod error;
mod faults;
mod http;
mod injected_cost;
mod limiter;
mod page;
mod proxy;
mod rate;
mod raw;
mod refusal;
mod server;
mod signals;
mod snapshot;
mod stats;
mod tls;
mod version;
mod websocket;
mod worker;

pub use admission::{Admission, Origins};
pub use connection::{Connection, Heartbeat};
pub use deflate::{DeflateEcho, DeflateSettings};
pub use error::ServeError;
pub use faults::{FaultError, FaultPlan, FaultSettings};
pub use injected_cost::InjectedCost;
pub use limiter::AddressLimits;
pub use proxy::{Networks, NetworksError};
pub use rate::{Rate, RatePolicy, Rates};
pub use raw::{RawConnection, RawEcho};
pub use server::{Drain, Server};
pub use stats::{DeflateCounters, EchoCounters, Stats};
pub use tls::{Identity, IdentityError, TlsOptions};
pub use websocket::WebSocketEcho;
pub use worker::{DRAIN, STOP};
