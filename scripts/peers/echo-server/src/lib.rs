//! What the echo servers on tokio have in common: the address on the command line, one thread, TCP_NODELAY, a task for each
//! connection. The library that is measured begins with the accepted stream.

use std::io;

use tokio::net::{TcpListener, TcpStream};

/// The longest message that every server takes, bytes.
pub const MAX_MESSAGE: usize = 16 << 20;

/// Listens at the address that is the first argument (a free port of loopback where there is none), says where on standard
/// output, and runs `echo` for each connection, on this thread alone.
///
/// # Errors
///
/// What binding and accepting say. How a connection ends is that connection's affair.
pub fn serve<F>(echo: impl Fn(TcpStream) -> F) -> io::Result<()>
where
    F: Future<Output: Send + 'static> + Send + 'static,
{
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:0".into());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = TcpListener::bind(address).await?;
        println!("listening on ws://{}/", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(echo(stream));
        }
    })
}

/// The second argument, one of those that a server knows; without it the server does as its library's examples do.
///
/// # Panics
///
/// Where it is another: a server that is measured must not do something else than it was asked to.
#[must_use]
pub fn variant<'a>(known: &[&'a str]) -> Option<&'a str> {
    let word = std::env::args().nth(2)?;
    let found = known.iter().find(|&&known| known == word);
    assert!(found.is_some(), "the second argument is one of {known:?} or nothing, not `{word}`");
    found.copied()
}
