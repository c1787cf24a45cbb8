//! The server behind proxies: the PROXY protocol before a connection, and fields in a request.

mod forwarded;
mod header;
mod networks;
mod protocol;

use std::net::SocketAddr;

pub(crate) use self::header::ProxyHeaderError;
pub use self::networks::{Networks, NetworksError};
pub(crate) use self::protocol::ProxyProtocol;
use crate::admission::Rejection;

/// Returns the client that a request's fields name, where it came from the trusted `peer`.
///
/// # Errors
///
/// 400 where the fields are malformed or contradict each other.
pub(crate) fn client_of_request(
    head: &[u8],
    most_fields: usize,
    peer: SocketAddr,
    trusted: &Networks,
) -> Result<SocketAddr, Rejection> {
    let mut fields = vec![httparse::EMPTY_HEADER; most_fields];
    let mut request = httparse::Request::new(&mut fields);
    match request.parse(head) {
        Ok(_) => forwarded::client(request.headers, peer, trusted),
        // The request is refused for that.
        Err(_) => Ok(peer),
    }
}
