//! SIGTERM and SIGINT. The first begins a drain, the second ends the process at once.

use std::io;
use std::process;
use std::thread;

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::server::Drain;

/// Signals that are caught but not acted on yet.
#[derive(Debug)]
pub(crate) struct PendingSignals(Signals);

/// Catches the signals. Signals before [`PendingSignals::drain`] wait.
pub(crate) fn catch() -> io::Result<PendingSignals> {
    Signals::new([SIGTERM, SIGINT]).map(PendingSignals)
}

impl PendingSignals {
    /// Acts on the signals, on an own thread.
    pub(crate) fn drain(mut self, drain: Drain) -> io::Result<()> {
        let act = move || {
            let mut signals = self.0.forever();
            if let Some(signal) = signals.next() {
                tracing::info!(signal, "draining; a second signal ends at once");
                drain.begin();
            }
            if let Some(signal) = signals.next() {
                // The exit status that shells use for a process killed by the signal.
                process::exit(128 + signal);
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(act).map(drop)
    }
}
