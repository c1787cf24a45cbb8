//! Echo server on tokio-websockets: the loop of the library's own example for benchmarks.

use echo_server::MAX_MESSAGE;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio::task::unconstrained;
use tokio_websockets::{Config, Error, Limits, ServerBuilder};

fn main() -> std::io::Result<()> {
    // The library's example also sends every message in one frame.
    echo_server::serve(|stream| unconstrained(echo(stream)))
}

async fn echo(stream: TcpStream) -> Result<(), Error> {
    let server = ServerBuilder::new()
        .config(Config::default().frame_size(usize::MAX))
        .limits(Limits::default().max_payload_len(Some(MAX_MESSAGE)));
    let (_request, mut socket) = server.accept(stream).await?;
    while let Some(message) = socket.next().await {
        match message {
            Ok(message) if message.is_text() || message.is_binary() => socket.send(message).await?,
            Ok(_) => {}
            // The library has only queued its close frame so far.
            Err(_) => return socket.close().await,
        }
    }
    Ok(())
}
