//! Raw TCP echo, the limit against which the WebSocket echo is measured.

use std::io;
use std::net::SocketAddr;

use engine::{Cause, CloseMode, ConnId, Handler, Origin, Output, Worker};

use crate::limiter::LimitReached;
use crate::refusal::Refusals;
use crate::snapshot::WorkerMetrics;
use crate::stats::EchoCounters;
use crate::worker::{PUBLISH, Service, WorkerLifecycle};

/// Raw TCP echo of a worker: every read is sent back unchanged.
#[derive(Debug, Default)]
pub struct RawEcho {
    reads: u64,
    refusals: Refusals,
    lifecycle: WorkerLifecycle,
}

/// State of a raw connection.
#[derive(Debug)]
pub enum RawConnection {
    /// The connection was admitted. Its peer address is kept where limits need it.
    Admitted(Option<Box<SocketAddr>>),
    /// The connection was refused, and is being closed.
    Refused,
}

impl RawEcho {
    /// Creates a raw echo for one worker. It admits every connection and reports to no server.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn with_lifecycle(lifecycle: WorkerLifecycle) -> Self {
        Self { lifecycle, ..Self::default() }
    }

    fn metrics(&self) -> WorkerMetrics {
        let refusals = self.refusals.by_rule().to_vec();
        WorkerMetrics {
            echo_counters: Service::echo_counters(self),
            refusals,
            ..WorkerMetrics::default()
        }
    }

    /// Refuses a connection by aborting it. No answer is sent, because raw TCP has no message for a
    /// refusal.
    fn refuse(
        &mut self,
        limit: LimitReached,
        peer: Option<SocketAddr>,
        out: &mut Output<'_>,
    ) -> RawConnection {
        self.refusals.handshake(out.now(), &limit.into(), peer);
        out.close(CloseMode::Abort);
        RawConnection::Refused
    }
}

impl Service for RawEcho {
    fn echo_counters(&self) -> EchoCounters {
        EchoCounters { messages: self.reads, refused: self.refusals.count() }
    }
}

impl Handler for RawEcho {
    type Conn = RawConnection;

    fn start(&mut self, _: &mut Worker<'_, Self>) {
        self.lifecycle.started();
    }

    fn opened(&mut self, _: ConnId, from: Origin, out: &mut Output<'_>) -> RawConnection {
        let peer = if let Origin::Accepted { peer, .. } = from { peer } else { None };
        match self.lifecycle.enter(peer, out.now()) {
            Ok(()) => {
                RawConnection::Admitted(peer.filter(|_| self.lifecycle.wants_peers()).map(Box::new))
            }
            Err(limit) => self.refuse(limit, peer, out),
        }
    }

    fn connect_failed(&mut self, _: &mut Worker<'_, Self>, _: u64, _: io::Error) {
        unreachable!("a server connects to nobody");
    }

    #[inline]
    fn received(
        &mut self,
        _: ConnId,
        _: &mut RawConnection,
        bytes: &mut [u8],
        out: &mut Output<'_>,
    ) {
        self.reads += 1;
        out.echo(0..bytes.len());
    }

    fn eof(&mut self, _: ConnId, _: &mut RawConnection, out: &mut Output<'_>) {
        out.close(CloseMode::Flush);
    }

    fn drained(&mut self, _: ConnId, _: &mut RawConnection, _: &mut Output<'_>) {}

    fn deadline(&mut self, _: ConnId, _: &mut RawConnection, _: &mut Output<'_>) {}

    fn closed(&mut self, _: ConnId, connection: RawConnection, _: Cause) {
        if let RawConnection::Admitted(peer) = connection {
            self.lifecycle.leave(peer.map(|peer| *peer));
        }
    }

    fn alarm(&mut self, w: &mut Worker<'_, Self>) {
        if self.lifecycle.alarm(w, false) {
            for id in w.ids() {
                w.with(id, |_, out| out.close(CloseMode::Flush));
            }
        }
    }

    fn woken(&mut self, w: &mut Worker<'_, Self>, bits: u64) {
        let metrics = (bits & PUBLISH != 0).then(|| self.metrics());
        self.lifecycle.woken(w, bits, metrics);
    }

    fn turn_end(&mut self, w: &mut Worker<'_, Self>) {
        self.lifecycle.turn_end(w);
    }
}
