//! The minimal WebSocket echo server on tokio-uring, as a reference for the tokio-uring engine: a
//! task per connection that reads, answers in the buffer, writes, and reads again; no timers, no
//! limits.
//!
//! A connection that sends frames larger than the buffer is dropped.
//!
//! Usage: `tokio-uring-echo [ADDR]`; prints `listening on ws://ADDR/`.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;

use tokio_uring::buf::BoundedBuf;
use tokio_uring::net::{TcpListener, TcpStream};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Bytes of a connection's buffer.
const BUFFER: usize = 4 << 10;

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let address: SocketAddr = address.parse().map_err(io::Error::other)?;
    let mut ring = tokio_uring::uring_builder();
    // DEFER_TASKRUN is not set: the runtime waits on epoll, where nothing would run the deferred
    // work.
    ring.setup_clamp().setup_cqsize(4096).setup_single_issuer().setup_coop_taskrun();
    tokio_uring::builder().entries(1024).uring_builder(&ring).start(async {
        let listener = TcpListener::bind(address)?;
        println!("listening on ws://{}/", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            // An error there concerns only that connection.
            tokio_uring::spawn(async move { serve(&stream).await });
        }
    })
}

async fn serve(stream: &TcpStream) -> io::Result<()> {
    let (mut buffer, mut kept) = open(stream).await?;
    loop {
        let echoes =
            least_websocket::echo(&mut buffer[..kept]).map_err(|_| ErrorKind::InvalidData)?;
        let (left, end) = (echoes.consumed, kept);
        if !echoes.replies.is_empty() {
            let (outcome, slice) = stream.write_all(buffer.slice(echoes.replies)).await;
            outcome?;
            buffer = slice.into_inner();
        }
        if echoes.closed {
            return Ok(());
        }
        buffer.copy_within(left..end, 0);
        (buffer, kept) = receive(stream, buffer, end - left).await?;
    }
}

/// Performs the opening handshake; returns the buffer, with the bytes after the request at its
/// beginning.
async fn open(stream: &TcpStream) -> io::Result<(Vec<u8>, usize)> {
    let (mut buffer, mut kept) = (vec![0; BUFFER], 0);
    loop {
        (buffer, kept) = receive(stream, buffer, kept).await?;
        let answer =
            least_websocket::accept(&buffer[..kept]).map_err(|_| ErrorKind::InvalidData)?;
        if let Some((answer, len)) = answer {
            stream.write_all(answer.into_bytes()).await.0?;
            buffer.copy_within(len..kept, 0);
            return Ok((buffer, kept - len));
        }
    }
}

/// Reads after the first `kept` bytes; returns the buffer and its new length.
async fn receive(stream: &TcpStream, buffer: Vec<u8>, kept: usize) -> io::Result<(Vec<u8>, usize)> {
    if kept == buffer.len() {
        return Err(ErrorKind::InvalidData.into());
    }
    let (outcome, slice) = stream.read(buffer.slice(kept..)).await;
    match outcome? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        got => Ok((slice.into_inner(), kept + got)),
    }
}
