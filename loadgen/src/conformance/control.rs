//! The connection that must notice nothing.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use super::servers::Target;
use super::wire::{TEXT, frame, open};

pub(super) struct ControlConnection {
    stream: TcpStream,
    sent: u32,
}

impl ControlConnection {
    /// Opens one and sees it echo.
    pub(super) fn open(target: &Target) -> io::Result<Self> {
        let mut control = Self { stream: open(target)?, sent: 0 };
        control.echo()?;
        Ok(control)
    }

    /// Echoes while `case` runs, and once more when it is done.
    pub(super) fn during<T>(mut self, case: impl FnOnce() -> T) -> (T, io::Result<()>) {
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let echoing = scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    self.echo()?;
                    thread::sleep(Duration::from_millis(10));
                }
                self.echo()
            });
            let result = case();
            done.store(true, Ordering::Release);
            let echoed = echoing.join().unwrap_or_else(|_| Err(io::Error::other("panicked")));
            (result, echoed)
        })
    }

    fn echo(&mut self) -> io::Result<()> {
        self.sent += 1;
        let message = format!("control {:06}", self.sent);
        self.stream.write_all(&frame(TEXT, message.as_bytes()))?;
        let mut got = [0; 16];
        self.stream.read_exact(&mut got)?;
        match got[..2] == [0x81, 14] && got[2..] == *message.as_bytes() {
            true => Ok(()),
            false => Err(io::Error::other(format!("{} for {message}", got.escape_ascii()))),
        }
    }
}
