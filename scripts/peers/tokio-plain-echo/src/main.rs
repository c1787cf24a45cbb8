//! Echo server on plain tokio, without a WebSocket library, as the fastest entries of public
//! benchmarks are written: what has arrived is answered in its buffer with one write. Text is not
//! validated, and a message must come in one frame.

use std::io::{self, ErrorKind};

use echo_server::MAX_MESSAGE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Bytes that a connection's buffer has at first. It grows to the longest frame.
const BUFFER: usize = 4 << 10;
/// Longest header of a client's frame.
const HEADER: usize = 14;

fn main() -> io::Result<()> {
    echo_server::serve(echo)
}

async fn echo(mut stream: TcpStream) -> io::Result<()> {
    let (mut buffer, mut kept) = (vec![0; BUFFER], 0);
    loop {
        kept += read(&mut stream, &mut buffer[kept..]).await?;
        let answer = least_websocket::accept(&buffer[..kept]).map_err(|_| invalid())?;
        if let Some((answer, len)) = answer {
            stream.write_all(answer.as_bytes()).await?;
            buffer.copy_within(len..kept, 0);
            kept -= len;
            break;
        }
    }
    loop {
        let echoes =
            least_websocket::echo_unchecked(&mut buffer[..kept]).map_err(|_| invalid())?;
        stream.write_all(&buffer[echoes.replies]).await?;
        if echoes.closed {
            return Ok(());
        }
        buffer.copy_within(echoes.consumed..kept, 0);
        kept -= echoes.consumed;
        if kept == buffer.len() {
            if kept >= MAX_MESSAGE + HEADER {
                return Err(invalid());
            }
            buffer.resize((2 * kept).min(MAX_MESSAGE + HEADER), 0);
        }
        kept += read(&mut stream, &mut buffer[kept..]).await?;
    }
}

async fn read(stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    match stream.read(buffer).await? {
        0 => Err(ErrorKind::UnexpectedEof.into()),
        got => Ok(got),
    }
}

fn invalid() -> io::Error {
    ErrorKind::InvalidData.into()
}
