//! The WebSocket echo of a worker.

mod deadlines;
mod faulty;

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use engine::tls::TlsError;
use engine::{Cause, CloseMode, ConnId, Handler, Nanos, Origin, Output, Worker};
use protocol::close::POLICY_VIOLATION;
use protocol::handshake::deflate::Parameters;
use protocol::{Close, Opcode, ProtocolError};

use crate::admission::{Rejection, is_on_loopback};
use crate::config::EchoSettings;
use crate::connection::{Connection, Parked, Stage};
use crate::deflate::{Compression, Deflate};
use crate::echo::{self, Echo, Flow, Input, Peer};
use crate::faults::{FaultCounters, Faults};
use crate::http::{self, HandshakeState, RequestContext};
use crate::injected_cost::CpuBurner;
use crate::limiter::LimitReached;
use crate::page::Page;
use crate::proxy::{self, ProxyHeaderError};
use crate::rate::{MAX_DEBT, RatePolicy};
use crate::refusal::Refusals;
use crate::snapshot::WorkerMetrics;
use crate::stats::{DeflateCounters, EchoCounters};
use crate::worker::{PUBLISH, Service, WorkerLifecycle};

/// WebSocket echo of a worker (RFC 6455, the server's role).
///
/// A message is returned as one unfragmented frame of the same kind, after it has arrived whole and
/// is valid. A ping is answered by a pong, a Close by the same Close. Invalid input is answered as
/// the RFC says, after the replies to earlier input.
#[derive(Debug)]
pub struct WebSocketEcho {
    settings: EchoSettings,
    page: Page,
    echo: Echo,
    /// True if reads are charged, because rates are limited or CPU time is burnt.
    charges: bool,
    /// Arrived messages and control frames that have been charged.
    charged: u64,
    burner: Option<CpuBurner>,
    refusals: Refusals,
    metrics: WorkerMetrics,
    /// Time at which a connection was last opened: about now, for connections that end in their TLS
    /// handshake.
    last_opened: Nanos,
    /// True if each listener is reached under a loopback address.
    on_loopback: Vec<bool>,
    /// Connections with a message that is inflated in turns, the next one first.
    parked: VecDeque<ConnId>,
    /// Connections with faults, where the server has them.
    faults: Option<Box<Faults>>,
    /// True if the end of the turn has work: connections are parked, or faults have been scheduled.
    has_turn_work: bool,
    lifecycle: WorkerLifecycle,
}

/// Silence after which a connection with context takeover gives memory back.
const REST: Duration = Duration::from_secs(30);

impl WebSocketEcho {
    /// Creates an echo with these settings, for one worker.
    #[must_use]
    pub fn new(settings: EchoSettings) -> Self {
        Self::with_lifecycle(settings, WorkerLifecycle::default())
    }

    pub(crate) fn with_lifecycle(settings: EchoSettings, lifecycle: WorkerLifecycle) -> Self {
        let deflate = Deflate::new(settings.deflate.as_ref());
        let (echo, page) =
            (Echo::new(settings.limits, deflate), Page::new(settings.admission.path.as_deref()));
        let burner = settings.burn.map(CpuBurner::new);
        let (refusals, metrics, on_loopback) =
            (Refusals::default(), WorkerMetrics::default(), Vec::new());
        // CPU time is burnt where reads are charged, so that the path of a message has no branch
        // for it.
        let charges = settings.rates.is_on() || burner.is_some();
        let (charged, last_opened) = (0, Nanos(0));
        let faults = settings.faults.as_ref().map(|_| Box::default());
        Self {
            settings,
            page,
            echo,
            charges,
            charged,
            burner,
            refusals,
            metrics,
            last_opened,
            on_loopback,
            parked: VecDeque::new(),
            faults,
            has_turn_work: false,
            lifecycle,
        }
    }

    /// Returns the counters of the handler.
    #[must_use]
    pub fn echo_counters(&self) -> EchoCounters {
        EchoCounters { messages: self.echo.messages(), refused: self.refusals.count() }
    }

    fn metrics(&self) -> WorkerMetrics {
        WorkerMetrics {
            echo_counters: self.echo_counters(),
            refusals: self.refusals.by_rule().to_vec(),
            deflate: DeflateCounters {
                connections: self.metrics.deflate.connections,
                ..self.echo.deflated()
            },
            faults: self.faults.as_ref().map_or_else(FaultCounters::default, |f| f.counters),
            ..self.metrics.clone()
        }
    }

    // ---- beginnings

    /// Refuses a connection. Its request may not have arrived yet, and is discarded.
    #[cold]
    fn refuse(
        &mut self,
        id: ConnId,
        limit: LimitReached,
        peer: Option<SocketAddr>,
        out: &mut Output<'_>,
    ) -> Connection {
        self.lifecycle.add_refused(id);
        let declined = limit.into();
        self.refusals.handshake(out.now(), &declined, peer);
        out.append(&declined.response());
        out.close(CloseMode::Flush);
        Connection::new(Stage::Refused, peer, out.now())
    }

    /// Continues to read a request, or a WebSocket with faults. Kept out of the path of frames.
    /// Input of a refused connection is discarded.
    #[inline(never)]
    fn handshake(
        &mut self,
        id: ConnId,
        c: &mut Connection,
        bytes: &mut [u8],
        out: &mut Output<'_>,
    ) {
        let (head, listener) = match &mut c.stage {
            Stage::Handshake { head, listener } => (head, listener),
            Stage::Faulty(_) => return self.faulty_received(id, c, bytes, 0, out),
            Stage::Open(_) | Stage::Refused => return,
        };
        // An unknown listener, as in tests of the handler alone, counts as one on loopback.
        let on_loopback = self.on_loopback.get(usize::from(*listener)).copied().unwrap_or(true);
        let request = match http::read(head, &self.settings.head, bytes) {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(refusal) => return self.decline(c, &refusal.into(), out),
        };
        let answer = self.identify(c, &request.head, out.now()).and_then(|()| {
            let (settings, page) = (&self.settings, &self.page);
            let context = RequestContext { settings, page, on_loopback };
            context.receive(&request.head, request.frames, out)
        });
        match answer {
            Ok(HandshakeState::Open { frames, faults: Some(faults), .. }) => {
                self.open_faulty(id, c, *faults, out);
                self.faulty_received(id, c, bytes, frames, out);
            }
            Ok(HandshakeState::Open { frames, deflate, faults: None }) => {
                self.open(c, deflate, out);
                if frames < bytes.len() {
                    self.frames(id, c, bytes, frames, out);
                }
            }
            Ok(HandshakeState::Page) => {
                self.metrics.pages += 1;
                self.finish(c, CloseMode::Flush, out);
            }
            Ok(HandshakeState::Healthy) => {
                self.metrics.probes += 1;
                self.finish(c, CloseMode::Flush, out);
            }
            Err(declined) => self.decline(c, &declined, out),
        }
    }

    /// Finds the client of a request that came through a trusted proxy, and counts it.
    fn identify(&mut self, c: &mut Connection, head: &[u8], now: Nanos) -> Result<(), Rejection> {
        let trusted = self.settings.trusted_proxies.as_ref().filter(|_| c.is_uncounted);
        let Some((trusted, peer)) = trusted.zip(c.peer()) else { return Ok(()) };
        let client = proxy::client_of_request(head, self.settings.head.fields, peer, trusted)?;
        c.set_peer(Some(client));
        self.lifecycle.enter_client(client, now)?;
        c.is_uncounted = false;
        Ok(())
    }

    fn open(&mut self, c: &mut Connection, deflate: Option<Parameters>, out: &mut Output<'_>) {
        self.metrics.opened += 1;
        if let Some((agreed, settings)) = deflate.zip(self.settings.deflate.as_ref()) {
            let compression = Compression::new(&agreed, settings);
            c.account_mut().compression = Some(Box::new(compression));
        }
        let role = protocol::Role::Server;
        c.stage = Stage::Open(if deflate.is_some() {
            self.metrics.deflate.connections += 1;
            protocol::Connection::with_deflate(role)
        } else {
            protocol::Connection::new(role)
        });
        out.set_deadline(self.first_deadline(c, out.now()));
    }

    #[cold]
    fn decline(&mut self, c: &mut Connection, declined: &Rejection, out: &mut Output<'_>) {
        self.count_refused_on_request(declined);
        self.refusals.handshake(out.now(), declined, c.peer());
        out.append(&declined.response());
        self.finish(c, CloseMode::Flush, out);
    }

    // ---- frames

    #[inline]
    fn frames(
        &mut self,
        id: ConnId,
        c: &mut Connection,
        bytes: &mut [u8],
        at: usize,
        out: &mut Output<'_>,
    ) {
        let flow = self.read(c, bytes, at, Input::Received, out);
        if (self.charges || !matches!(flow, Ok(Flow::Open)))
            && self.follow(c, flow, (bytes.len() - at) as u64, out)
        {
            c.parked = Parked::Yes;
            self.parked.push_back(id);
            self.has_turn_work = true;
            out.pause();
        }
    }

    // Inlined, because the origin of the input is then known.
    #[inline(always)]
    fn read(
        &mut self,
        c: &mut Connection,
        bytes: &mut [u8],
        at: usize,
        input: Input,
        out: &mut Output<'_>,
    ) -> Result<Flow, ProtocolError> {
        let Stage::Open(socket) = &mut c.stage else { return Ok(Flow::Open) };
        let peer = Peer { socket, assembly: &mut c.assembly, account: &mut c.account };
        let arrivals = self.echo.arrivals();
        let flow = self.echo.read(peer, bytes, at, input, out);
        if self.echo.arrivals() != arrivals {
            c.clear_stuck();
        }
        flow
    }

    /// Charges a read of `bytes` bytes, and does what its outcome asks for. Returns whether the
    /// connection is parked.
    #[inline(never)]
    fn follow(
        &mut self,
        c: &mut Connection,
        flow: Result<Flow, ProtocolError>,
        bytes: u64,
        out: &mut Output<'_>,
    ) -> bool {
        match flow {
            Ok(Flow::Open | Flow::Parked) if self.charges && !self.charge(c, bytes, out) => {}
            Ok(Flow::Open) => {}
            Ok(Flow::Parked) => return true,
            // A Pong to a ping may still follow the Close that the ping crossed.
            Ok(Flow::Closed(close)) if !c.was_pinged => {
                self.answer_close(c, &close, CloseMode::Finish, out);
            }
            Ok(Flow::Closed(close) | Flow::ClosedAndSent(close)) => {
                self.answer_close(c, &close, CloseMode::Flush, out);
            }
            Err(error) => self.fault(c, &error, out),
        }
        false
    }

    /// Gives a parked connection its turn. Returns whether it stays parked.
    fn resume(&mut self, c: &mut Connection, out: &mut Output<'_>) -> bool {
        let Stage::Open(socket) = &mut c.stage else { return false };
        let mut peer = Peer { socket, assembly: &mut c.assembly, account: &mut c.account };
        let flow = match self.echo.resume(&mut peer, out) {
            Ok(Some(mut input)) => self.read(c, &mut input, 0, Input::Kept, out),
            Ok(None) => Ok(Flow::Parked),
            Err(error) => Err(error),
        };
        // It was not read from, so nothing could arrive.
        c.heard(out.now());
        let goes_on = matches!(flow, Ok(Flow::Open));
        if self.follow(c, flow, 0, out) {
            return true;
        }
        let at_eof = std::mem::replace(&mut c.parked, Parked::No) == Parked::AtEof;
        if goes_on && at_eof {
            self.finish(c, CloseMode::Flush, out);
        } else if goes_on && c.paused_until() == Nanos::NEVER {
            // If its rate has just closed it, there is nothing to read any more.
            out.resume();
        }
        false
    }

    /// Does what the turn has left.
    #[cold]
    fn finish_work(&mut self, w: &mut Worker<'_, Self>) {
        self.set_fault_alarm(w);
        if !self.parked.is_empty() {
            self.resume_next(w);
        }
        self.has_turn_work = !self.parked.is_empty();
    }

    /// Gives one parked connection its turn, so that a turn of the worker stays short whatever is
    /// sent to inflate.
    fn resume_next(&mut self, w: &mut Worker<'_, Self>) {
        let Some(id) = self.parked.pop_front() else { return };
        // A connection that has ended meanwhile is skipped.
        if w.with(id, |c, out| self.resume(c, out)) == Some(true) {
            self.parked.push_back(id);
        }
        if !self.parked.is_empty() {
            WorkerLifecycle::hurry(w);
        }
    }

    /// Returns a Close, and closes. The close needs no half-close where nothing follows the peer's
    /// Close: no reset can destroy the answer then.
    fn answer_close(
        &mut self,
        c: &mut Connection,
        close: &Close,
        mode: CloseMode,
        out: &mut Output<'_>,
    ) {
        self.metrics.closes.by_client.count(close.code());
        echo::control(Opcode::Close, close.payload(), out);
        self.finish(c, mode, out);
    }

    /// Charges a read to its connection. The read has been answered whatever it costs; later input
    /// has to wait. Returns false if the connection was closed.
    #[inline(never)]
    fn charge(&mut self, c: &mut Connection, bytes: u64, out: &mut Output<'_>) -> bool {
        let arrivals = self.uncharged();
        if let Some(burner) = &mut self.burner {
            burner.burn(arrivals);
        }
        let now = out.now();
        let Some(paid) = c.account_mut().usage.charge(&self.settings.rates, arrivals, bytes, now)
        else {
            return true;
        };
        if self.settings.rates.policy == RatePolicy::Close || paid > now + MAX_DEBT {
            self.close_for_policy(c, "rate-exceeded", out);
            return false;
        }
        c.set_paused_until(paid);
        out.pause();
        out.set_deadline(earlier(Some(paid), self.message_end(c)));
        true
    }

    /// Returns the time by which a message must be complete whose payload has begun to come.
    fn message_end(&self, c: &Connection) -> Option<Nanos> {
        let timeout = self.settings.message_timeout;
        self.echo.begun(&c.assembly).filter(|_| !timeout.is_zero()).map(|begun| begun + timeout)
    }

    /// Takes the arrivals since the last read that was charged or ended its connection.
    fn uncharged(&mut self) -> u64 {
        let arrivals = self.echo.arrivals();
        arrivals - std::mem::replace(&mut self.charged, arrivals)
    }

    /// Closes a connection for invalid frames. The replies to earlier input have been written.
    #[cold]
    fn fault(&mut self, c: &mut Connection, error: &ProtocolError, out: &mut Output<'_>) {
        self.refusals.frames(out.now(), error, c.peer());
        self.close(c, error.close_code(), error.rule(), out);
    }

    /// Closes a connection that violates a policy of this server (RFC 6455 7.4.1: 1008 where no
    /// other code fits).
    #[cold]
    fn close_for_policy(&mut self, c: &mut Connection, rule: &'static str, out: &mut Output<'_>) {
        self.refusals.conduct(out.now(), POLICY_VIOLATION, rule, c.peer());
        self.close(c, POLICY_VIOLATION, rule, out);
    }

    fn close(&mut self, c: &mut Connection, code: u16, reason: &str, out: &mut Output<'_>) {
        self.metrics.closes.by_server.count(Some(code));
        echo::close(code, reason, out);
        self.finish(c, CloseMode::Flush, out);
    }

    fn finish(&mut self, c: &mut Connection, mode: CloseMode, out: &mut Output<'_>) {
        self.uncharged();
        self.echo.discard(&mut c.assembly, out);
        out.close(mode);
    }
}

fn earlier(a: Option<Nanos>, b: Option<Nanos>) -> Option<Nanos> {
    a.into_iter().chain(b).min()
}

impl Service for WebSocketEcho {
    fn echo_counters(&self) -> EchoCounters {
        Self::echo_counters(self)
    }
}

impl Handler for WebSocketEcho {
    type Conn = Connection;

    fn start(&mut self, w: &mut Worker<'_, Self>) {
        self.on_loopback =
            (0..u16::MAX).map_while(|n| w.local_addr(n)).map(is_on_loopback).collect();
        self.lifecycle.started();
    }

    fn opened(&mut self, id: ConnId, from: Origin, out: &mut Output<'_>) -> Connection {
        let (listener, peer) = match from {
            Origin::Accepted { listener, peer } => (listener, peer),
            Origin::Connected { .. } => unreachable!("a server connects to nobody"),
        };
        self.last_opened = out.now();
        let is_proxy =
            self.settings.trusted_proxies.as_ref().is_some_and(|list| list.contain_peer(peer));
        if let Err(limit) = self.lifecycle.enter(peer.filter(|_| !is_proxy), out.now()) {
            return self.refuse(id, limit, peer, out);
        }
        if !self.settings.handshake_timeout.is_zero() {
            out.set_deadline(Some(out.now() + self.settings.handshake_timeout));
        }
        let stage = Stage::Handshake { head: None, listener };
        let mut connection = Connection::new(stage, peer, out.now());
        connection.is_uncounted = is_proxy;
        connection
    }

    fn connect_failed(&mut self, _: &mut Worker<'_, Self>, _: u64, _: io::Error) {
        unreachable!("a server connects to nobody");
    }

    #[inline]
    fn received(&mut self, id: ConnId, c: &mut Connection, bytes: &mut [u8], out: &mut Output<'_>) {
        c.heard(out.now());
        if let Stage::Open(_) = c.stage {
            self.frames(id, c, bytes, 0, out);
        } else {
            self.handshake(id, c, bytes, out);
        }
    }

    fn eof(&mut self, id: ConnId, c: &mut Connection, out: &mut Output<'_>) {
        if let Stage::Faulty(_) = c.stage {
            self.faulty_eof(id, c, out);
        } else if c.parked == Parked::No {
            self.finish(c, CloseMode::Flush, out);
        } else {
            c.parked = Parked::AtEof;
        }
    }

    fn drained(&mut self, _: ConnId, _: &mut Connection, _: &mut Output<'_>) {}

    fn deadline(&mut self, _: ConnId, c: &mut Connection, out: &mut Output<'_>) {
        match &c.stage {
            Stage::Open(_) => self.on_deadline(c, out),
            Stage::Faulty(_) => self.faulty_deadline(c, out),
            Stage::Handshake { head, .. } => {
                let begun = head.is_some();
                self.handshake_timed_out(c, begun, out);
            }
            Stage::Refused => {}
        }
    }

    fn closed(&mut self, id: ConnId, mut c: Connection, cause: Cause) {
        if let (Stage::Faulty(faulty), Some(faults)) = (&mut c.stage, &mut self.faults) {
            faults.forget(id, faulty);
        }
        if let Some(error) = TlsError::of(&cause) {
            self.refusals.tls(self.last_opened, error, c.peer());
        }
        if let Some(error) = ProxyHeaderError::of(&cause) {
            self.refusals.proxy_header(self.last_opened, error, c.peer());
        }
        if matches!(c.stage, Stage::Refused) {
            self.lifecycle.remove_refused(id);
        } else {
            self.lifecycle.leave(c.counted_peer());
        }
        self.echo.forget(c.assembly);
    }

    fn alarm(&mut self, w: &mut Worker<'_, Self>) {
        self.release_due(w);
        if self.lifecycle.alarm(w, !self.parked.is_empty()) {
            for id in w.ids() {
                w.with(id, |c, out| self.close_going_away(c, "", out));
            }
        }
    }

    fn woken(&mut self, w: &mut Worker<'_, Self>, bits: u64) {
        let metrics = (bits & PUBLISH != 0).then(|| self.metrics());
        self.lifecycle.woken(w, bits, metrics);
    }

    fn turn_end(&mut self, w: &mut Worker<'_, Self>) {
        if self.has_turn_work {
            self.finish_work(w);
        }
        self.echo.turn_end();
        self.lifecycle.turn_end(w);
    }
}
