//! The raw echo: what arrives goes back, the limit to measure the WebSocket echo against.

use std::io;
use std::net::SocketAddr;

use engine::{Cause, CloseMode, ConnId, Handler, Origin, Output, Worker};

use crate::board::Ledger;
use crate::gate::LimitReached;
use crate::refusal::Refusals;
use crate::stats::Tally;
use crate::worker::{Life, SHOW, Service};

/// One worker's raw TCP echo: every read is sent back as it is.
#[derive(Debug, Default)]
pub struct RawEcho {
    reads: u64,
    refusals: Refusals,
    life: Life,
}

/// What is kept of a raw connection.
#[derive(Debug)]
pub enum Guest {
    /// It was let in; its address where limits need it.
    Welcome(Option<Box<SocketAddr>>),
    /// It was not, and is being closed.
    Refused,
}

impl RawEcho {
    /// A raw echo, for one worker.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn with_life(life: Life) -> Self {
        Self { life, ..Self::default() }
    }

    fn ledger(&self) -> Ledger {
        let refusals = self.refusals.by_rule().to_vec();
        Ledger { tally: Service::tally(self), refusals, ..Ledger::default() }
    }

    /// There is no word for it in this protocol.
    fn turn_away(&mut self, limit: LimitReached, peer: Option<SocketAddr>, out: &mut Output<'_>) -> Guest {
        self.refusals.handshake(out.now(), &limit.into(), peer);
        out.close(CloseMode::Abort);
        Guest::Refused
    }
}

impl Service for RawEcho {
    fn tally(&self) -> Tally {
        Tally { messages: self.reads, refused: self.refusals.count() }
    }
}

impl Handler for RawEcho {
    type Conn = Guest;

    fn start(&mut self, _: &mut Worker<'_, Self>) {
        self.life.started();
    }

    fn opened(&mut self, _: ConnId, from: Origin, out: &mut Output<'_>) -> Guest {
        let peer = if let Origin::Accepted { peer, .. } = from { peer } else { None };
        match self.life.enter(peer, out.now()) {
            Ok(()) => Guest::Welcome(peer.filter(|_| self.life.wants_peers()).map(Box::new)),
            Err(limit) => self.turn_away(limit, peer, out),
        }
    }

    fn connect_failed(&mut self, _: &mut Worker<'_, Self>, _: u64, _: io::Error) {
        unreachable!("a server connects to nobody");
    }

    #[inline]
    fn received(&mut self, _: ConnId, _: &mut Guest, bytes: &mut [u8], out: &mut Output<'_>) {
        self.reads += 1;
        out.echo(0..bytes.len());
    }

    fn eof(&mut self, _: ConnId, _: &mut Guest, out: &mut Output<'_>) {
        out.close(CloseMode::Flush);
    }

    fn drained(&mut self, _: ConnId, _: &mut Guest, _: &mut Output<'_>) {}

    fn deadline(&mut self, _: ConnId, _: &mut Guest, _: &mut Output<'_>) {}

    fn closed(&mut self, _: ConnId, guest: Guest, _: Cause) {
        if let Guest::Welcome(peer) = guest {
            self.life.leave(peer.map(|peer| *peer));
        }
    }

    fn alarm(&mut self, w: &mut Worker<'_, Self>) {
        if self.life.alarm(w) {
            for id in w.ids() {
                w.with(id, |_, out| out.close(CloseMode::Flush));
            }
        }
    }

    fn woken(&mut self, w: &mut Worker<'_, Self>, bits: u64) {
        let ledger = (bits & SHOW != 0).then(|| self.ledger());
        self.life.woken(w, bits, ledger);
    }

    fn turn_end(&mut self, w: &mut Worker<'_, Self>) {
        self.life.turn_end(w);
    }
}
