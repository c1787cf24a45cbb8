//! SIGTERM and SIGINT: the first begins a drain, the second ends the process at once. SIGHUP reads
//! certificate and key again, where they lie in files.

use std::io;
use std::process;
use std::thread;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::server::Drain;
use crate::tls::Reload;

/// Signals that are caught but not acted on yet.
#[derive(Debug)]
pub(crate) struct PendingSignals(Signals);

/// Catches the signals. Signals before [`PendingSignals::act`] wait. `reloads`: SIGHUP is one of
/// them. Otherwise it ends the process, as when a terminal is closed.
pub(crate) fn catch(reloads: bool) -> io::Result<PendingSignals> {
    let hangup = reloads.then_some(SIGHUP);
    Signals::new([SIGTERM, SIGINT].into_iter().chain(hangup)).map(PendingSignals)
}

impl PendingSignals {
    /// Acts on the signals, on an own thread.
    pub(crate) fn act(mut self, drain: Drain, reload: Option<Reload>) -> io::Result<()> {
        let act = move || {
            let mut is_draining = false;
            for signal in self.0.forever() {
                if signal == SIGHUP {
                    reload.iter().for_each(Reload::reload);
                } else if is_draining {
                    // The exit status that shells use for a process killed by the signal.
                    process::exit(128 + signal);
                } else {
                    tracing::info!(signal, "draining; a second signal ends at once");
                    drain.begin();
                    is_draining = true;
                }
            }
        };
        thread::Builder::new().name("signals".to_owned()).spawn(act).map(drop)
    }
}
