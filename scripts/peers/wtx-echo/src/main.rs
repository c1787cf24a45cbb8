//! Echo server on wtx: the loop of the library's own examples. Text is validated, which is the
//! default; the extension for unmasked frames is declined.

use echo_server::MAX_MESSAGE;
use tokio::net::TcpStream;
use wtx::collection::Vector;
use wtx::web_socket::{OpCode, WebSocketAcceptor, WebSocketPayloadOrigin};

fn main() -> std::io::Result<()> {
    echo_server::serve(echo)
}

async fn echo(stream: TcpStream) -> wtx::Result<()> {
    let mut socket = WebSocketAcceptor::default().no_masking(false).accept(stream).await?;
    // The library refuses a message of this length, too.
    socket.set_max_payload_len(MAX_MESSAGE + 1);
    let (mut common, mut reader, mut writer) = socket.split_mut();
    let mut fragments = Vector::new();
    loop {
        let mut frame = reader
            .read_frame(&mut fragments, &mut common, WebSocketPayloadOrigin::Adaptive)
            .await?;
        match frame.op_code() {
            OpCode::Text | OpCode::Binary => writer.write_frame(&mut common, &mut frame).await?,
            OpCode::Close => return Ok(()),
            _ => {}
        }
        fragments.clear();
    }
}
