//! The common part of the echo servers on tokio: the address on the command line, one thread,
//! TCP_NODELAY, a task per connection. The measured library begins with the accepted stream.

use std::io;

use tokio::net::{TcpListener, TcpStream};

/// Longest message that every server accepts, in bytes.
pub const MAX_MESSAGE: usize = 16 << 20;

/// Listens at the address in the first argument, else on a free port of loopback. Prints the
/// address on standard output, and runs `echo` for each connection, on this thread alone.
///
/// # Errors
///
/// Returns the errors of binding and accepting. Each connection handles its own errors.
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

/// Returns the second argument, which must be one of `known`; without it the server does as its
/// library's examples do.
///
/// # Panics
///
/// Panics if it is another: a measured server must do exactly what was requested.
#[must_use]
pub fn variant<'a>(known: &[&'a str]) -> Option<&'a str> {
    let word = std::env::args().nth(2)?;
    let found = known.iter().find(|&&known| known == word);
    assert!(found.is_some(), "the second argument is one of {known:?} or nothing, not `{word}`");
    found.copied()
}
