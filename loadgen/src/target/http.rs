//! A request over HTTP/1.1 with its answer, within a bounded time and size.

use std::io::{self, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Connects to the first of `addresses` that accepts. Each attempt, and each read and write on the
/// connection, takes `patience` at most.
pub(super) fn connect(addresses: &[SocketAddr], patience: Duration) -> io::Result<TcpStream> {
    let mut failed = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for address in addresses {
        match TcpStream::connect_timeout(address, patience) {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(patience))?;
                stream.set_write_timeout(Some(patience))?;
                return Ok(stream);
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Bounds of an answer.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// Most bytes.
    pub(super) bytes: usize,
    /// Longest time, even if bytes keep coming.
    pub(super) time: Duration,
}

/// Reads until `found` returns a value for the bytes so far, of which it is told whether they are
/// all. `None` where the peer ended its stream without that.
///
/// # Errors
///
/// The error of a read; [`io::ErrorKind::TimedOut`] and [`io::ErrorKind::FileTooLarge`] beyond the
/// bounds.
pub(super) fn read_until<T>(
    stream: &mut impl Read,
    bounds: Bounds,
    mut found: impl FnMut(&[u8], bool) -> Option<T>,
) -> io::Result<Option<T>> {
    let (mut bytes, mut piece, began) = (Vec::new(), [0; 16 << 10], Instant::now());
    loop {
        let length = match stream.read(&mut piece) {
            // A read with a timeout ends so after SIGSTOP and SIGCONT (signal(7)).
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            // The error of a read that took too long.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            length => length?,
        };
        bytes.extend_from_slice(&piece[..length]);
        if let Some(value) = found(&bytes, length == 0) {
            return Ok(Some(value));
        }
        if length == 0 {
            return Ok(None);
        }
        if bytes.len() > bounds.bytes {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        if began.elapsed() > bounds.time {
            return Err(io::ErrorKind::TimedOut.into());
        }
    }
}
