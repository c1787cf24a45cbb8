//! Echo server on sockudo-ws: the loop of the library's own example. With `batched` as second
//! argument it uses the loop that the library's manual has for echoes: they are queued with `feed`,
//! and the library sends them when it has nothing left to read. `deflate` and `takeover` are
//! `batched` with permessage-deflate, without and with context takeover. Text is validated, which
//! is the default.

use bytes::BytesMut;
use echo_server::MAX_MESSAGE;
use futures_util::{Sink, SinkExt, Stream, StreamExt};
use sockudo_ws::deflate::{DeflateConfig, negotiate_server_deflate};
use sockudo_ws::handshake::{build_response, generate_accept_key, parse_request};
use sockudo_ws::{CompressedWebSocketStream, Config, Error, Message, WebSocketStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn main() -> std::io::Result<()> {
    let variant = echo_server::variant(&["batched", "deflate", "takeover"]);
    let batched = variant.is_some();
    let deflate = match variant {
        Some("deflate") => Some(DeflateConfig {
            server_no_context_takeover: true,
            client_no_context_takeover: true,
            ..DeflateConfig::default()
        }),
        Some("takeover") => Some(DeflateConfig::default()),
        _ => None,
    };
    // The manual calls this before the runtime starts, because the first call takes up to 200 ms.
    sockudo_ws::init_clock();
    echo_server::serve(move |stream| serve(stream, batched, deflate.clone()))
}

async fn serve(
    mut stream: TcpStream,
    batched: bool,
    deflate: Option<DeflateConfig>,
) -> Result<(), Error> {
    let agreed = shake_hands(&mut stream, deflate.as_ref()).await?;
    let limits =
        Config::builder().max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE).build();
    match agreed {
        None => echo(WebSocketStream::server(stream, limits), batched).await,
        Some(agreed) => {
            echo(CompressedWebSocketStream::server(stream, limits, agreed), batched).await
        }
    }
}

async fn echo(
    mut socket: impl Stream<Item = Result<Message, Error>> + Sink<Message, Error = Error> + Unpin,
    batched: bool,
) -> Result<(), Error> {
    while let Some(message) = socket.next().await {
        match message? {
            message @ (Message::Text(_) | Message::Binary(_)) if batched => {
                socket.feed(message).await?
            }
            message @ (Message::Text(_) | Message::Binary(_)) => socket.send(message).await?,
            Message::Close(_) => break,
            Message::Ping(_) | Message::Pong(_) => {}
        }
    }
    Ok(())
}

/// The library's example does this by hand as well. Returns the compression that was agreed on.
async fn shake_hands(
    stream: &mut TcpStream,
    deflate: Option<&DeflateConfig>,
) -> Result<Option<DeflateConfig>, Error> {
    let mut request = BytesMut::with_capacity(4096);
    loop {
        if stream.read_buf(&mut request).await? == 0 {
            return Err(Error::ConnectionClosed);
        }
        if let Some((parsed, _)) = parse_request(&request)? {
            let agreed =
                deflate.and_then(|policy| negotiate_server_deflate(parsed.extensions?, policy));
            let extension = agreed.as_ref().map(|agreed| agreed.to_response_header());
            let accept = generate_accept_key(parsed.key);
            let response = build_response(&accept, None, extension.as_deref());
            stream.write_all(&response).await?;
            return Ok(agreed.map(|agreed| agreed.config));
        }
    }
}
