//! The raw echo: what arrives goes back, the limit to measure the WebSocket echo against.

use std::io;

use engine::{Cause, CloseMode, ConnId, Handler, Origin, Output, Worker};

use crate::stats::Tally;
use crate::worker::{Life, Service};

/// One worker's raw TCP echo: every read is sent back as it is.
#[derive(Debug, Default)]
pub struct RawEcho {
    reads: u64,
    life: Life,
}

impl RawEcho {
    /// A raw echo, for one worker.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn with_life(life: Life) -> Self {
        Self { reads: 0, life }
    }
}

impl Service for RawEcho {
    fn tally(&self) -> Tally {
        Tally { messages: self.reads, refused: 0 }
    }
}

impl Handler for RawEcho {
    type Conn = ();

    fn start(&mut self, _: &mut Worker<'_, Self>) {
        self.life.started();
    }

    fn opened(&mut self, _: ConnId, _: Origin, out: &mut Output<'_>) {
        if self.life.is_draining() {
            out.close(CloseMode::Abort);
        }
    }

    fn connect_failed(&mut self, _: &mut Worker<'_, Self>, _: u64, _: io::Error) {
        unreachable!("a server connects to nobody");
    }

    #[inline]
    fn received(&mut self, _: ConnId, (): &mut (), bytes: &mut [u8], out: &mut Output<'_>) {
        self.reads += 1;
        out.echo(0..bytes.len());
    }

    fn eof(&mut self, _: ConnId, (): &mut (), out: &mut Output<'_>) {
        out.close(CloseMode::Flush);
    }

    fn drained(&mut self, _: ConnId, (): &mut (), _: &mut Output<'_>) {}

    fn deadline(&mut self, _: ConnId, (): &mut (), _: &mut Output<'_>) {}

    fn closed(&mut self, _: ConnId, (): (), _: Cause) {}

    fn alarm(&mut self, w: &mut Worker<'_, Self>) {
        w.stop();
    }

    fn woken(&mut self, w: &mut Worker<'_, Self>, bits: u64) {
        if self.life.woken(w, bits) {
            for id in w.ids() {
                w.with(id, |(), out| out.close(CloseMode::Flush));
            }
        }
    }

    fn turn_end(&mut self, w: &mut Worker<'_, Self>) {
        self.life.turn_end(w);
    }
}
