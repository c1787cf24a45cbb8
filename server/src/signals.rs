//! SIGTERM and SIGINT: the first begins a drain, the second ends the process at once.

use std::io;
use std::process;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::server::Drain;

/// Signals that are caught but not acted on yet.
#[derive(Debug)]
pub(crate) struct Caught(Signals);

/// Catches the signals. What comes before [`Caught::drain`] waits.
pub(crate) fn catch() -> io::Result<Caught> {
    Signals::new([SIGTERM, SIGINT]).map(Caught)
}

impl Caught {
    /// Acts on the signals, on a thread of its own.
    pub(crate) fn drain(mut self, drain: Drain) -> io::Result<()> {
        let act = move || {
            let mut signals = self.0.forever();
            if let Some(signal) = signals.next() {
                tracing::info!(signal, "draining; a second signal ends at once");
                drain.begin();
            }
            if let Some(signal) = signals.next() {
                // As a shell reports a process that the signal killed.
                process::exit(128 + signal);
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(act).map(drop)
    }
}
