//! Echo server on sockudo-ws: the loop of the library's own example. With `batched` as second
//! argument it uses the loop that the library's manual has for echoes: they are queued with `feed`,
//! and the library sends them when it has nothing left to read. Text is validated, which is the
//! default; permessage-deflate is not built in.

use bytes::BytesMut;
use echo_server::MAX_MESSAGE;
use futures_util::{SinkExt, StreamExt};
use sockudo_ws::handshake::{build_response, generate_accept_key, parse_request};
use sockudo_ws::{Config, Error, Message, WebSocketStream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn main() -> std::io::Result<()> {
    let batched = echo_server::variant(&["batched"]).is_some();
    // The manual calls this before the runtime starts, because the first call takes up to 200 ms.
    sockudo_ws::init_clock();
    echo_server::serve(move |stream| echo(stream, batched))
}

async fn echo(mut stream: TcpStream, batched: bool) -> Result<(), Error> {
    shake_hands(&mut stream).await?;
    let limits =
        Config::builder().max_message_size(MAX_MESSAGE).max_frame_size(MAX_MESSAGE).build();
    let mut socket = WebSocketStream::server(stream, limits);
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

/// The library's example does this by hand as well.
async fn shake_hands(stream: &mut TcpStream) -> Result<(), Error> {
    let mut request = BytesMut::with_capacity(4096);
    loop {
        if stream.read_buf(&mut request).await? == 0 {
            return Err(Error::ConnectionClosed);
        }
        if let Some((parsed, _)) = parse_request(&request)? {
            let response = build_response(&generate_accept_key(parsed.key), None, None);
            stream.write_all(&response).await?;
            return Ok(());
        }
    }
}
