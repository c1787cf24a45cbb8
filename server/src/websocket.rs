//! The WebSocket echo: what a worker does with its connections.

use std::io;
use std::net::SocketAddr;

use engine::tls::TlsError;
use engine::{Cause, CloseMode, ConnId, Handler, Nanos, Origin, Output, Worker};
use protocol::close::{GOING_AWAY, POLICY_VIOLATION};
use protocol::handshake::server::Refusal;
use protocol::{Opcode, ProtocolError};

use crate::admission::{Declined, is_on_loopback};
use crate::board::Ledger;
use crate::burn::Treadmill;
use crate::config::Rules;
use crate::connection::{Beat, Connection, Stage};
use crate::echo::{self, Echo, Flow};
use crate::gate::LimitReached;
use crate::http::{self, Progress, Reception};
use crate::page::Page;
use crate::rate::{MAX_DEBT, RatePolicy};
use crate::refusal::Refusals;
use crate::stats::Tally;
use crate::worker::{Life, SHOW, Service};

/// One worker's WebSocket echo (RFC 6455, the server's role).
///
/// Every message comes back as one unfragmented frame of the same kind, after it has arrived whole and is valid; pings are
/// answered by pongs, a Close by the same Close. Input that breaks a rule is answered by what the RFC names, after the
/// replies to what came before it.
#[derive(Debug)]
pub struct WebSocketEcho {
    rules: Rules,
    page: Page,
    echo: Echo,
    /// True where reads are charged, because rates are set or CPU time is to be burnt.
    charges: bool,
    /// Arrivals that have been charged to connections.
    charged: u64,
    treadmill: Option<Treadmill>,
    refusals: Refusals,
    ledger: Ledger,
    /// When a connection was last opened: about now, for those that end in their TLS handshake.
    last_opened: Nanos,
    /// Of each listener, whether it is reached under a loopback address.
    on_loopback: Vec<bool>,
    life: Life,
}

impl WebSocketEcho {
    /// An echo under `rules`, for one worker.
    #[must_use]
    pub fn new(rules: Rules) -> Self {
        Self::with_life(rules, Life::default())
    }

    pub(crate) fn with_life(rules: Rules, life: Life) -> Self {
        let (echo, page) = (Echo::new(rules.limits), Page::new(rules.admission.path.as_deref()));
        let treadmill = rules.burn.map(Treadmill::new);
        let (refusals, ledger, on_loopback) = (Refusals::default(), Ledger::default(), Vec::new());
        // CPU time is burnt where rates are charged, so that the path of a message has no branch for it.
        let charges = rules.rates.is_on() || treadmill.is_some();
        let (charged, last_opened) = (0, Nanos(0));
        Self {
            rules,
            page,
            echo,
            charges,
            charged,
            treadmill,
            refusals,
            ledger,
            last_opened,
            on_loopback,
            life,
        }
    }

    /// What was counted so far.
    #[must_use]
    pub fn tally(&self) -> Tally {
        Tally { messages: self.echo.messages(), refused: self.refusals.count() }
    }

    fn ledger(&self) -> Ledger {
        Ledger { tally: self.tally(), refusals: self.refusals.by_rule().to_vec(), ..self.ledger.clone() }
    }

    // ---- beginnings

    /// Tells a connection to go. Its request may not have come yet: what comes is read and dropped.
    #[cold]
    fn turn_away(
        &mut self,
        id: ConnId,
        limit: LimitReached,
        peer: Option<SocketAddr>,
        out: &mut Output<'_>,
    ) -> Connection {
        self.life.note_refused(id);
        let declined = limit.into();
        self.refusals.handshake(out.now(), &declined, peer);
        out.append(&declined.response());
        out.close(CloseMode::Flush);
        Connection::new(Stage::Refused, peer, out.now())
    }

    /// Reads on in a request; kept out of the way that frames take. What a refused connection sends is dropped.
    #[inline(never)]
    fn handshake(&mut self, c: &mut Connection, bytes: &mut [u8], out: &mut Output<'_>) {
        let Stage::Handshake { head, listener } = &mut c.stage else { return };
        // A listener that nobody has asked about, as in tests of the handler alone, counts as reached by everybody.
        let on_loopback = self.on_loopback.get(usize::from(*listener)).copied().unwrap_or(true);
        let reception = Reception { rules: &self.rules, page: &self.page, on_loopback };
        match http::read(head, reception, bytes, out) {
            Ok(Progress::Incomplete) => {}
            Ok(Progress::Open(frames)) => {
                self.ledger.opened += 1;
                c.stage = Stage::Open(protocol::Connection::new(protocol::Role::Server));
                out.set_deadline(self.first_deadline(out.now()));
                if frames < bytes.len() {
                    self.frames(c, bytes, frames, out);
                }
            }
            Ok(Progress::Page) => {
                self.ledger.pages += 1;
                self.finish(c, out);
            }
            Err(declined) => self.decline(c, &declined, out),
        }
    }

    #[cold]
    fn decline(&mut self, c: &mut Connection, declined: &Declined, out: &mut Output<'_>) {
        self.refusals.handshake(out.now(), declined, c.peer());
        out.append(&declined.response());
        self.finish(c, out);
    }

    // ---- frames

    #[inline]
    fn frames(&mut self, c: &mut Connection, bytes: &mut [u8], at: usize, out: &mut Output<'_>) {
        let Stage::Open(socket) = &mut c.stage else { return };
        let arrivals = self.echo.arrivals();
        let flow = self.echo.read(socket, &mut c.assembly, bytes, at, out);
        if self.echo.arrivals() != arrivals {
            c.is_not_stuck();
        }
        match flow {
            Ok(Flow::Open) if self.charges => self.charge(c, (bytes.len() - at) as u64, out),
            Ok(Flow::Open) => {}
            Ok(Flow::Closed(close)) => {
                self.ledger.closes.by_client.count(close.code());
                echo::control(Opcode::Close, close.payload(), out);
                self.finish(c, out);
            }
            Err(error) => self.fault(c, &error, out),
        }
    }

    /// Charges a read to its connection, which was answered whatever it cost; what comes next has to wait.
    #[inline(never)]
    fn charge(&mut self, c: &mut Connection, bytes: u64, out: &mut Output<'_>) {
        let arrivals = self.uncharged();
        if let Some(treadmill) = &mut self.treadmill {
            treadmill.burn(arrivals);
        }
        let now = out.now();
        let Some(paid) = c.account.usage.charge(&self.rules.rates, arrivals, bytes, now) else { return };
        if self.rules.rates.policy == RatePolicy::Close || paid > now + MAX_DEBT {
            return self.dismiss(c, "rate-exceeded", out);
        }
        c.account.paused_until = paid;
        out.pause();
        out.set_deadline(earlier(Some(paid), self.message_end(c)));
    }

    /// Returns the time by which a message must be complete whose payload has begun to come.
    fn message_end(&self, c: &Connection) -> Option<Nanos> {
        let timeout = self.rules.message_timeout;
        self.echo.begun(&c.assembly).filter(|_| !timeout.is_zero()).map(|begun| begun + timeout)
    }

    /// What has arrived since the last read that was charged or ended its connection: where there are rates, all are.
    fn uncharged(&mut self) -> u64 {
        let arrivals = self.echo.arrivals();
        arrivals - std::mem::replace(&mut self.charged, arrivals)
    }

    /// Ends a connection whose frames broke a rule. The replies to what came before have been written.
    #[cold]
    fn fault(&mut self, c: &mut Connection, error: &ProtocolError, out: &mut Output<'_>) {
        self.refusals.frames(out.now(), error, c.peer());
        self.close(c, error.close_code(), error.rule(), out);
    }

    /// Ends a connection whose conduct is against a rule of ours (RFC 6455 7.4.1: 1008 where no other code fits).
    #[cold]
    fn dismiss(&mut self, c: &mut Connection, rule: &'static str, out: &mut Output<'_>) {
        self.refusals.conduct(out.now(), POLICY_VIOLATION, rule, c.peer());
        self.close(c, POLICY_VIOLATION, rule, out);
    }

    fn close(&mut self, c: &mut Connection, code: u16, reason: &str, out: &mut Output<'_>) {
        self.ledger.closes.by_server.count(Some(code));
        echo::close(code, reason, out);
        self.finish(c, out);
    }

    fn finish(&mut self, c: &mut Connection, out: &mut Output<'_>) {
        self.uncharged();
        self.echo.discard(&mut c.assembly, out);
        out.close(CloseMode::Flush);
    }

    // ---- time

    /// The first deadline of an open WebSocket. None is set when bytes arrive: it fires where it was set, finds what has come
    /// meanwhile, and moves on.
    fn first_deadline(&self, now: Nanos) -> Option<Nanos> {
        earlier(self.rules.heartbeat.first(now), self.next_look(now))
    }

    /// When to look for an unfinished message again: one that begins after a look is found before its time is up.
    fn next_look(&self, now: Nanos) -> Option<Nanos> {
        let timeout = self.rules.message_timeout;
        (!timeout.is_zero()).then(|| now + timeout)
    }

    /// A request that does not come in time: 408 where it has begun, and no answer to a connection that only stays open.
    fn handshake_timed_out(&mut self, c: &mut Connection, begun: bool, out: &mut Output<'_>) {
        if begun {
            self.decline(c, &Refusal::timeout().into(), out);
        } else {
            out.close(CloseMode::Abort);
        }
    }

    /// The one deadline of an open WebSocket: the end of a pause, a message's time, the heartbeat, whichever comes first.
    fn look_after(&mut self, c: &mut Connection, out: &mut Output<'_>) {
        let now = out.now();
        if c.account.paused_until <= now {
            c.account.paused_until = Nanos::NEVER;
            out.resume();
            // The connection was not read from, so nothing could come.
            c.heard(now);
        }
        let Some(look) = self.look_at_message(c, out) else { return };
        if c.account.paused_until != Nanos::NEVER {
            return out.set_deadline(earlier(look, Some(c.account.paused_until)));
        }
        c.look_at_output(out.unsent(), now);
        let (beat, next) = self.rules.heartbeat.beat(c, now);
        match beat {
            Beat::Wait => {}
            Beat::Ping => echo::control(Opcode::Ping, &[], out),
            // A Close behind output that the peer does not accept would never reach the peer.
            Beat::Idle if out.unsent() > 0 => return out.close(CloseMode::Abort),
            Beat::Idle => return self.farewell(c, "idle timeout", out),
            Beat::Dead => return out.close(CloseMode::Abort),
        }
        out.set_deadline(earlier(next, look));
    }

    /// When to look again at what the connection has begun; `None` when its time was up.
    fn look_at_message(&mut self, c: &mut Connection, out: &mut Output<'_>) -> Option<Option<Nanos>> {
        let (now, timeout) = (out.now(), self.rules.message_timeout);
        let Stage::Open(socket) = &c.stage else { return None };
        let elapsed = if timeout.is_zero() || socket.is_between_messages() {
            c.is_not_stuck();
            return Some(self.next_look(now));
        } else if let Some(begun) = self.echo.begun(&c.assembly) {
            c.is_not_stuck();
            now.since(begun)
        } else {
            c.stuck(now)
        };
        if elapsed >= timeout {
            self.dismiss(c, "message-timeout", out);
            return None;
        }
        Some(Some(now + (timeout - elapsed)))
    }

    /// Closes an open WebSocket with 1001; a request that has begun gets a 503, and a connection that has said nothing no
    /// answer.
    fn farewell(&mut self, c: &mut Connection, reason: &str, out: &mut Output<'_>) {
        match c.stage {
            Stage::Open(_) => self.close(c, GOING_AWAY, reason, out),
            Stage::Handshake { head: Some(_), .. } => self.decline(c, &Refusal::going_down().into(), out),
            Stage::Handshake { head: None, .. } => out.close(CloseMode::Abort),
            Stage::Refused => {}
        }
    }
}

fn earlier(a: Option<Nanos>, b: Option<Nanos>) -> Option<Nanos> {
    a.into_iter().chain(b).min()
}

impl Service for WebSocketEcho {
    fn tally(&self) -> Tally {
        Self::tally(self)
    }
}

impl Handler for WebSocketEcho {
    type Conn = Connection;

    fn start(&mut self, w: &mut Worker<'_, Self>) {
        self.on_loopback = (0..u16::MAX).map_while(|n| w.local_addr(n)).map(is_on_loopback).collect();
        self.life.started();
    }

    fn opened(&mut self, id: ConnId, from: Origin, out: &mut Output<'_>) -> Connection {
        let (listener, peer) = match from {
            Origin::Accepted { listener, peer } => (listener, peer),
            Origin::Connected { .. } => unreachable!("a server connects to nobody"),
        };
        self.last_opened = out.now();
        if let Err(limit) = self.life.enter(peer, out.now()) {
            return self.turn_away(id, limit, peer, out);
        }
        if !self.rules.handshake_timeout.is_zero() {
            out.set_deadline(Some(out.now() + self.rules.handshake_timeout));
        }
        Connection::new(Stage::Handshake { head: None, listener }, peer, out.now())
    }

    fn connect_failed(&mut self, _: &mut Worker<'_, Self>, _: u64, _: io::Error) {
        unreachable!("a server connects to nobody");
    }

    #[inline]
    fn received(&mut self, _: ConnId, c: &mut Connection, bytes: &mut [u8], out: &mut Output<'_>) {
        c.heard(out.now());
        if let Stage::Open(_) = c.stage {
            self.frames(c, bytes, 0, out);
        } else {
            self.handshake(c, bytes, out);
        }
    }

    fn eof(&mut self, _: ConnId, c: &mut Connection, out: &mut Output<'_>) {
        self.finish(c, out);
    }

    fn drained(&mut self, _: ConnId, _: &mut Connection, _: &mut Output<'_>) {}

    fn deadline(&mut self, _: ConnId, c: &mut Connection, out: &mut Output<'_>) {
        match &c.stage {
            Stage::Open(_) => self.look_after(c, out),
            Stage::Handshake { head, .. } => {
                let begun = head.is_some();
                self.handshake_timed_out(c, begun, out);
            }
            Stage::Refused => {}
        }
    }

    fn closed(&mut self, id: ConnId, c: Connection, cause: Cause) {
        if let Some(error) = TlsError::of(&cause) {
            self.refusals.tls(self.last_opened, error, c.peer());
        }
        if matches!(c.stage, Stage::Refused) {
            self.life.forget_refused(id);
        } else {
            self.life.leave(c.peer());
        }
        self.echo.forget(c.assembly);
    }

    fn alarm(&mut self, w: &mut Worker<'_, Self>) {
        if self.life.alarm(w) {
            for id in w.ids() {
                w.with(id, |c, out| self.farewell(c, "", out));
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
