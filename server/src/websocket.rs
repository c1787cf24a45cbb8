//! The WebSocket echo: what a worker does with its connections.

use std::io;

use engine::{Cause, CloseMode, ConnId, Handler, Origin, Output, Worker};
use protocol::close::GOING_AWAY;
use protocol::handshake::server::Refusal;
use protocol::{Opcode, ProtocolError};

use crate::config::Rules;
use crate::connection::{Beat, Connection, Stage};
use crate::echo::{self, Echo, Flow};
use crate::http::{self, Progress};
use crate::refusal::Refusals;
use crate::stats::Tally;
use crate::worker::{Life, Service};

/// One worker's WebSocket echo (RFC 6455, the server's role).
///
/// Every message comes back as one unfragmented frame of the same kind, after it has arrived whole and is valid; pings are
/// answered by pongs, a Close by the same Close. Input that breaks a rule is answered by what the RFC names, after the
/// replies to what came before it.
#[derive(Debug)]
pub struct WebSocketEcho {
    rules: Rules,
    echo: Echo,
    refusals: Refusals,
    life: Life,
}

impl WebSocketEcho {
    /// An echo under `rules`, for one worker.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self::with_life(rules, Life::default())
    }

    pub(crate) fn with_life(rules: Rules, life: Life) -> Self {
        let echo = Echo::new(rules.limits);
        Self { rules, echo, refusals: Refusals::default(), life }
    }

    /// What was counted so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        Tally { messages: self.echo.messages(), refused: self.refusals.count() }
    }

    fn handshake(&mut self, c: &mut Connection, bytes: &mut [u8], out: &mut Output<'_>) {
        let Stage::Handshake(head) = &mut c.stage else { return };
        match http::read(head, &self.rules, bytes, out) {
            Ok(Progress::Incomplete) => {}
            Ok(Progress::Open(frames)) => {
                c.stage = Stage::Open(protocol::Connection::new(protocol::Role::Server));
                out.set_deadline(self.rules.heartbeat.first(out.now()));
                if frames < bytes.len() {
                    self.frames(c, bytes, frames, out);
                }
            }
            Err(refusal) => self.refuse(c, &refusal, out),
        }
    }

    #[inline]
    fn frames(&mut self, c: &mut Connection, bytes: &mut [u8], at: usize, out: &mut Output<'_>) {
        let Stage::Open(socket) = &mut c.stage else { return };
        match self.echo.read(socket, &mut c.assembly, bytes, at, out) {
            Ok(Flow::Open) => {}
            Ok(Flow::Closed(close)) => {
                echo::control(Opcode::Close, close.payload(), out);
                self.finish(c, out);
            }
            Err(error) => self.fault(c, &error, out),
        }
    }

    /// Ends a connection whose frames broke a rule. The replies to what came before have been written.
    #[cold]
    fn fault(&mut self, c: &mut Connection, error: &ProtocolError, out: &mut Output<'_>) {
        self.refusals.frames(out.now(), error);
        echo::close(error.close_code(), error.rule(), out);
        self.finish(c, out);
    }

    #[cold]
    fn refuse(&mut self, c: &mut Connection, refusal: &Refusal, out: &mut Output<'_>) {
        self.refusals.handshake(out.now(), refusal);
        out.append(&refusal.response());
        self.finish(c, out);
    }

    fn finish(&mut self, c: &mut Connection, out: &mut Output<'_>) {
        self.echo.discard(&mut c.assembly, out);
        out.close(CloseMode::Flush);
    }

    /// A request that does not come in time: 408 where it has begun, and no answer to a connection that only stays open.
    fn handshake_timed_out(&mut self, c: &mut Connection, begun: bool, out: &mut Output<'_>) {
        if begun {
            self.refuse(c, &Refusal::timeout(), out);
        } else {
            out.close(CloseMode::Abort);
        }
    }

    fn beat(&mut self, c: &mut Connection, out: &mut Output<'_>) {
        let (beat, next) = self.rules.heartbeat.beat(c, out.now());
        match beat {
            Beat::Wait => {}
            Beat::Ping => echo::control(Opcode::Ping, &[], out),
            Beat::Idle => self.farewell(c, "idle timeout", out),
            Beat::Dead => out.close(CloseMode::Abort),
        }
        out.set_deadline(next);
    }

    /// Closes an open WebSocket with 1001; a request that has begun gets a 503, and a connection that has said nothing no
    /// answer.
    fn farewell(&mut self, c: &mut Connection, reason: &str, out: &mut Output<'_>) {
        match c.stage {
            Stage::Open(_) => {
                echo::close(GOING_AWAY, reason, out);
                self.finish(c, out);
            }
            Stage::Handshake(Some(_)) => self.refuse(c, &Refusal::unavailable(), out),
            Stage::Handshake(None) => out.close(CloseMode::Abort),
        }
    }
}

impl Service for WebSocketEcho {
    fn tally(&self) -> Tally {
        Self::tally(self)
    }
}

impl Handler for WebSocketEcho {
    type Conn = Connection;

    fn start(&mut self, _: &mut Worker<'_, Self>) {
        self.life.started();
    }

    fn opened(&mut self, _: ConnId, _: Origin, out: &mut Output<'_>) -> Connection {
        if self.life.is_draining() {
            out.close(CloseMode::Abort);
        } else if !self.rules.handshake_timeout.is_zero() {
            out.set_deadline(Some(out.now() + self.rules.handshake_timeout));
        }
        Connection::new(out.now())
    }

    fn connect_failed(&mut self, _: &mut Worker<'_, Self>, _: u64, _: io::Error) {
        unreachable!("a server connects to nobody");
    }

    #[inline]
    fn received(&mut self, _: ConnId, c: &mut Connection, bytes: &mut [u8], out: &mut Output<'_>) {
        c.heard(out.now());
        match c.stage {
            Stage::Open(_) => self.frames(c, bytes, 0, out),
            Stage::Handshake(_) => self.handshake(c, bytes, out),
        }
    }

    fn eof(&mut self, _: ConnId, c: &mut Connection, out: &mut Output<'_>) {
        self.finish(c, out);
    }

    fn drained(&mut self, _: ConnId, _: &mut Connection, _: &mut Output<'_>) {}

    fn deadline(&mut self, _: ConnId, c: &mut Connection, out: &mut Output<'_>) {
        match &c.stage {
            Stage::Open(_) => self.beat(c, out),
            Stage::Handshake(head) => {
                let begun = head.is_some();
                self.handshake_timed_out(c, begun, out);
            }
        }
    }

    fn closed(&mut self, _: ConnId, c: Connection, _: Cause) {
        self.echo.forget(c.assembly);
    }

    fn alarm(&mut self, w: &mut Worker<'_, Self>) {
        w.stop();
    }

    fn woken(&mut self, w: &mut Worker<'_, Self>, bits: u64) {
        if self.life.woken(w, bits) {
            for id in w.ids() {
                w.with(id, |c, out| self.farewell(c, "", out));
            }
        }
    }

    fn turn_end(&mut self, w: &mut Worker<'_, Self>) {
        self.life.turn_end(w);
    }
}
