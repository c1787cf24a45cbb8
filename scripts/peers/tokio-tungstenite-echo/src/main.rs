//! Echo server on tokio-tungstenite: the loop of the library's own example. With `batched` as
//! second argument, echoes are queued as long as further messages have arrived, and flushed
//! together. `batched-4k` does so with the smaller of the two read buffers in the library's
//! documentation. The larger, 128 KiB, is its default and is filled with zeros before every read.

use echo_server::MAX_MESSAGE;
use futures_util::future::FutureExt;
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};

fn main() -> std::io::Result<()> {
    let variant = echo_server::variant(&["batched", "batched-4k"]);
    let mut config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    if variant == Some("batched-4k") {
        config = config.read_buffer_size(4 << 10);
    }
    echo_server::serve(move |stream| echo(stream, config, variant.is_some()))
}

async fn echo(stream: TcpStream, config: WebSocketConfig, batched: bool) -> Result<(), Error> {
    let mut socket = tokio_tungstenite::accept_async_with_config(stream, Some(config)).await?;
    while let Some(message) = socket.next().await {
        let message = message?;
        match batched {
            true => echo_all(&mut socket, message).await?,
            false if is_data(&message) => socket.send(message).await?,
            false => {}
        }
    }
    Ok(())
}

/// Echoes `message` and the messages that have arrived after it in one flush.
async fn echo_all(socket: &mut WebSocketStream<TcpStream>, message: Message) -> Result<(), Error> {
    let mut next = Some(message);
    while let Some(message) = next {
        if is_data(&message) {
            socket.feed(message).await?;
        }
        next = socket.next().now_or_never().flatten().transpose()?;
    }
    socket.flush().await
}

fn is_data(message: &Message) -> bool {
    message.is_text() || message.is_binary()
}
