//! Echo server on fastwebsockets: the loop of the library's own example. The library validates the
//! text. It leaves the check for an upgrade request to its user, so this server makes it.

use echo_server::MAX_MESSAGE;
use fastwebsockets::upgrade::{UpgradeFut, is_upgrade_request, upgrade};
use fastwebsockets::{FragmentCollector, OpCode, WebSocketError};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::task::unconstrained;

fn main() -> std::io::Result<()> {
    echo_server::serve(answer_on)
}

async fn answer_on(stream: TcpStream) -> Result<(), hyper::Error> {
    http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(stream), service_fn(answer))
        .with_upgrades()
        .await
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Empty<Bytes>>, WebSocketError> {
    if is_upgrade_request(&request)
        && let Ok((response, upgraded)) = upgrade(&mut request)
    {
        // As in the library's example.
        tokio::spawn(unconstrained(echo(upgraded)));
        return Ok(response);
    }
    let mut refusal = Response::new(Empty::new());
    *refusal.status_mut() = StatusCode::BAD_REQUEST;
    Ok(refusal)
}

async fn echo(upgraded: UpgradeFut) -> Result<(), WebSocketError> {
    let mut socket = upgraded.await?;
    // The library refuses a message of this length, too.
    socket.set_max_message_size(MAX_MESSAGE + 1);
    let mut socket = FragmentCollector::new(socket);
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            OpCode::Close => return Ok(()),
            _ => {}
        }
    }
}
