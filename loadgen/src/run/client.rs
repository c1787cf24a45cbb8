//! One worker's connections: the handler that the engine drives.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::Sender;

use engine::{Cause, CloseMode, ConnId, Connect, Handler, Nanos, Origin, Output, Worker};
use protocol::{Connection, Event, Limits, MessageKind, Role};

use super::check::{self, Arriving, Judged, Settled};
use super::ledger::{Ledger, Slot, ring_len};
use super::outgoing::Outgoing;
use super::random::Random;
use super::shared::{Gauges, Position, Report, Shared, orders};
use super::tally::{Tally, duration_ns};
use crate::opening::Opening;
use crate::result::Transport;

/// Connections of one worker being opened at the same time: enough to hide the round trips, few enough for the queue of any
/// listener.
const CONNECTING_AT_ONCE: usize = 256;
/// How long the other end may take to close after our Close.
const CLOSING_TIME: std::time::Duration = std::time::Duration::from_secs(1);
/// Normal closure (RFC 6455 7.4.1).
const NORMAL_CLOSURE: u16 = 1000;

/// What the engine keeps for a connection.
pub(crate) struct Conn {
    /// Index of its [`Link`].
    link: u32,
    protocol: Connection,
}

const _: () = assert!(size_of::<Conn>() <= 64);

/// What the worker keeps for a connection.
struct Link {
    /// While it is open.
    id: Option<ConnId>,
    stage: Stage,
    ledger: Ledger,
    arriving: Arriving,
    /// Stands in the list of those that have room in their pipeline.
    is_dirty: bool,
}

enum Stage {
    /// Not begun, or given up.
    Closed,
    /// Since then; being connected, to the address of this index.
    Connecting(Nanos),
    /// The request is out; the connection was begun at this time.
    Handshaking {
        began: Nanos,
        opening: Box<Opening>,
    },
    Open,
    /// We have ended it, or know that it has ended.
    Closing,
}

/// What the worker is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    Connecting,
    /// All connections are open, or some cannot be opened; waiting for orders.
    Waiting,
    Loading,
    /// The window has ended: no more sending.
    Draining,
    Closing,
}

/// The handler.
pub(crate) struct Client {
    shared: Arc<Shared>,
    /// Index of its gauges.
    worker: usize,
    /// Number of its first connection, over all workers.
    first: u32,
    reports: Sender<Report>,
    links: Vec<Link>,
    /// Times of sending, [`ring_len`] for each link.
    sent_at: Vec<Nanos>,
    ring_len: usize,
    /// Links with room in their pipeline; all of one turn are filled together.
    dirty: Vec<u32>,
    outgoing: Outgoing,
    limits: Limits,
    tally: Tally,
    doing: Doing,
    /// The address that the last connection was made to, tried first by the next.
    address: usize,
    /// Links that have been told to connect.
    begun: usize,
    /// Of those, the ones that are not open yet.
    opening: usize,
    /// Links in [`Stage::Open`].
    open: usize,
    /// Connections of the engine that have not been reported closed.
    live: usize,
    outstanding: u64,
    /// The turn's time, and where it lies.
    now: Nanos,
    position: Position,
    is_drained: bool,
}

impl Client {
    /// The handler of worker number `worker` with connections `first..first + count`.
    pub(crate) fn new(
        shared: Arc<Shared>,
        worker: usize,
        first: u32,
        count: u32,
        reports: Sender<Report>,
    ) -> Self {
        let ring_len = ring_len(shared.pipeline);
        let random = Random::new(shared.seed, 1 + u64::from(first));
        let link = || Link {
            id: None,
            stage: Stage::Closed,
            ledger: Ledger::default(),
            arriving: Arriving::default(),
            is_dirty: false,
        };
        let count = count as usize;
        Self {
            worker,
            first,
            reports,
            links: (0..count).map(|_| link()).collect(),
            sent_at: vec![Nanos::NEVER; count * ring_len],
            ring_len,
            dirty: Vec::with_capacity(count),
            outgoing: Outgoing::new(shared.transport, &shared.content, random),
            limits: Limits::default(),
            tally: Tally::new(shared.seconds),
            doing: Doing::Connecting,
            address: 0,
            begun: 0,
            opening: 0,
            open: 0,
            live: 0,
            outstanding: 0,
            now: Nanos(0),
            position: Position::Before,
            is_drained: false,
            shared,
        }
    }

    /// What was counted.
    pub(crate) fn into_tally(self) -> Tally {
        self.tally
    }

    fn report(&self, report: Report) {
        // The coordinator is gone only when the run is over; then nobody needs to know.
        let _ = self.reports.send(report);
    }

    /// Looks once per turn where in the run it lies.
    #[inline]
    fn begin_turn(&mut self, now: Nanos) {
        if now != self.now {
            self.now = now;
            self.position = self.shared.window.position(now);
        }
    }

    fn number(&self, link: u32) -> u32 {
        self.first + link
    }

    // Opening.

    fn connect_more(&mut self, w: &mut Worker<'_, Self>) {
        if self.doing != Doing::Connecting || self.begun == self.links.len() {
            return;
        }
        let now = w.clock();
        while self.begun < self.links.len() && self.opening < CONNECTING_AT_ONCE {
            let link = self.begun;
            self.begun += 1;
            self.opening += 1;
            self.links[link].stage = Stage::Connecting(now);
            self.connect(w, link as u32, 0);
        }
    }

    /// Tries the address that is `attempt` places behind the one that worked last.
    fn connect(&mut self, w: &mut Worker<'_, Self>, link: u32, attempt: u32) {
        let tag = u64::from(attempt) << 32 | u64::from(link);
        let to = self.address(attempt);
        w.connect(Connect { to, from: None, tag, timeout: self.shared.connect_timeout });
    }

    fn address(&self, attempt: u32) -> SocketAddr {
        let addresses = &self.shared.addresses;
        addresses[(self.address + attempt as usize) % addresses.len()]
    }

    fn request(&mut self, began: Nanos, out: &mut Output<'_>) -> Stage {
        let (nonce, shared) = (self.outgoing.nonce(), &self.shared);
        let opening = Opening::begin(&shared.host, &shared.target, nonce, shared.connect_timeout, out);
        Stage::Handshaking { began, opening: Box::new(opening) }
    }

    fn now_open(&mut self, link: u32, began: Nanos) {
        self.links[link as usize].stage = Stage::Open;
        self.tally.connected(began, self.now);
        self.opening -= 1;
        self.open += 1;
        if self.open == self.links.len() && self.doing == Doing::Connecting {
            self.doing = Doing::Waiting;
            self.report(Report::Connected);
        }
    }

    fn handshake_failed(&mut self, link: u32, detail: String, out: &mut Output<'_>) {
        self.links[link as usize].stage = Stage::Closing;
        self.opening -= 1;
        self.tally.errors.handshake += 1;
        self.doing = Doing::Waiting;
        self.report(Report::HandshakeFailed(detail));
        out.close(CloseMode::Abort);
    }

    /// Reads on in the response; returns how many of `bytes` belong to it once it is whole and right.
    fn read_response(&mut self, link: u32, bytes: &[u8], out: &mut Output<'_>) -> Option<usize> {
        let Stage::Handshaking { began, opening } = &mut self.links[link as usize].stage else { return None };
        let began = *began;
        match opening.read(bytes) {
            Ok(None) => None,
            Ok(Some(used)) => {
                out.set_deadline(None);
                self.now_open(link, began);
                Some(used)
            }
            Err(error) => {
                self.handshake_failed(link, error.to_string(), out);
                None
            }
        }
    }

    // Receiving.

    fn read_frames(&mut self, c: &mut Conn, bytes: &mut [u8], out: &mut Output<'_>) {
        let mut at = 0;
        loop {
            match c.protocol.next(&self.limits, bytes, &mut at) {
                Ok(Some(Event::Data(chunk))) => {
                    let (kind, first, last) = (chunk.kind, chunk.first, chunk.last);
                    let payload = chunk.payload.clone();
                    c.protocol.skip(chunk);
                    // What comes after the drain is lost already.
                    if self.doing != Doing::Closing {
                        self.read_chunk(c.link, kind, first && last, last, &bytes[payload]);
                    }
                }
                Ok(Some(Event::Ping(ping))) => self.outgoing.pong(ping.payload(), out),
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Close(close))) => return self.peer_closes(c.link, &close, out),
                Ok(None) => return,
                Err(error) => {
                    let detail = format!("broke the protocol: {error} (RFC 6455 {})", error.section());
                    self.outgoing.close(Some(error.close_code()), out);
                    self.tally.errors.protocol += 1;
                    return self.end(c.link, detail, out);
                }
            }
        }
    }

    /// Raw echo: messages are told apart by their length alone.
    fn read_raw(&mut self, link: u32, mut bytes: &[u8], out: &mut Output<'_>) {
        while !bytes.is_empty() {
            let state = &self.links[link as usize];
            if state.ledger.outstanding() == 0 {
                self.tally.errors.protocol += 1;
                return self.end(link, "sent more bytes than it was sent".to_owned(), out);
            }
            let got = state.arriving.got();
            let (piece, rest) = bytes.split_at(bytes.len().min(self.shared.content.len() - got));
            let last = got + piece.len() == self.shared.content.len();
            self.read_chunk(link, self.shared.content.kind(), got == 0 && last, last, piece);
            bytes = rest;
        }
    }

    #[inline]
    fn read_chunk(&mut self, link: u32, kind: MessageKind, whole: bool, last: bool, piece: &[u8]) {
        let number = self.number(link);
        let content = &self.shared.content;
        let state = &mut self.links[link as usize];
        if whole {
            // What nearly every echo is: whole, and the oldest one due.
            let oldest = state.ledger.oldest();
            if oldest.is_some_and(|oldest| content.matches(number, oldest, piece)) {
                return self.settle(link, kind, Judged { sequence: oldest, sound: true });
            }
        }
        state.arriving.feed(content, number, &state.ledger, piece);
        if last {
            let judged = state.arriving.finish(content);
            self.settle(link, kind, judged);
        }
    }

    /// A whole echo has come.
    #[inline]
    fn settle(&mut self, link: u32, kind: MessageKind, judged: Judged) {
        let state = &mut self.links[link as usize];
        let ring = &mut self.sent_at[link as usize * self.ring_len..][..self.ring_len];
        let content = &self.shared.content;
        let has_wrong_opcode = kind != content.kind();
        self.tally.integrity.wrong_opcode += u64::from(has_wrong_opcode);
        let Settled { sent, is_fault } =
            check::settle(judged, content.is_stamped(), &mut state.ledger, ring, &mut self.tally.integrity);
        if is_fault || has_wrong_opcode {
            self.tally.failed(self.position.second());
        }
        let Some(sent) = sent else { return };
        self.outstanding -= 1;
        self.tally.received(duration_ns(sent, self.now), self.position.second());
        self.mark(link);
    }

    /// The connection has room in its pipeline.
    #[inline]
    fn mark(&mut self, link: u32) {
        let state = &mut self.links[link as usize];
        if !state.is_dirty {
            state.is_dirty = true;
            self.dirty.push(link);
        }
    }

    // Sending.

    /// Fills the pipelines of all connections that have room: one clock read, one send for each.
    fn refill(&mut self, w: &mut Worker<'_, Self>) {
        let now = w.clock();
        let position = self.shared.window.position(now);
        let mut dirty = std::mem::take(&mut self.dirty);
        for &link in &dirty {
            self.links[link as usize].is_dirty = false;
            if position == Position::After {
                continue;
            }
            if let (Stage::Open, Some(id)) = (&self.links[link as usize].stage, self.links[link as usize].id)
            {
                w.with(id, |_, out| self.fill(link, now, position, out));
            }
        }
        dirty.clear();
        self.dirty = dirty;
    }

    fn fill(&mut self, link: u32, now: Nanos, position: Position, out: &mut Output<'_>) {
        let state = &mut self.links[link as usize];
        let ring = &mut self.sent_at[link as usize * self.ring_len..][..self.ring_len];
        let first = state.ledger.next();
        while state.ledger.outstanding() < self.shared.pipeline {
            if state.ledger.send(ring, now) == Slot::TakenFromLost {
                self.tally.integrity.lost += 1;
                self.tally.failed(position.second());
                self.outstanding -= 1;
            }
        }
        let sequences = first..state.ledger.next();
        let count = (sequences.end - sequences.start) as u32;
        self.outstanding += u64::from(count);
        self.tally.sent(count, position.second());
        self.outgoing.send(&self.shared.content, self.first + link, sequences, out);
    }

    // Ending.

    /// The other end has begun to close.
    fn peer_closes(&mut self, link: u32, close: &protocol::Close, out: &mut Output<'_>) {
        if self.doing == Doing::Closing {
            // The answer to ours: the server closes now (RFC 6455 7.1.1), which we see as the end of its bytes.
            return;
        }
        self.outgoing.close(close.code(), out);
        let code = close.code().map_or_else(|| "no code".to_owned(), |code| format!("code {code}"));
        self.tally.errors.closed += 1;
        self.end(link, format!("sent a Close ({code}{}{})", colon(close.reason()), close.reason()), out);
    }

    /// Ends a connection because of a fault that is counted already.
    fn end(&mut self, link: u32, why: String, out: &mut Output<'_>) {
        out.close(CloseMode::Flush);
        self.lose(link, why);
    }

    /// A connection is lost: what is outstanding on it will not come.
    fn lose(&mut self, link: u32, why: String) {
        let state = &mut self.links[link as usize];
        let was_open = matches!(state.stage, Stage::Open);
        state.stage = Stage::Closing;
        self.outstanding -= u64::from(state.ledger.outstanding());
        state.ledger = Ledger::default();
        self.tally.failed(self.position.second());
        if !was_open {
            return;
        }
        self.open -= 1;
        if self.open == 0 {
            self.report(Report::Deserted(why));
        }
    }

    /// Gives up what is outstanding and closes everything.
    fn close_all(&mut self, w: &mut Worker<'_, Self>) {
        self.doing = Doing::Closing;
        self.tally.integrity.lost += self.outstanding;
        self.outstanding = 0;
        let deadline = w.now() + CLOSING_TIME;
        for link in 0..self.links.len() {
            let state = &mut self.links[link];
            let (Stage::Open, Some(id)) = (&state.stage, state.id) else { continue };
            state.stage = Stage::Closing;
            w.with(id, |_, out| match self.shared.transport {
                Transport::Tcp => out.close(CloseMode::Flush),
                // The server closes first (RFC 6455 7.1.1), so that its end keeps the port in TIME_WAIT, not ours.
                Transport::Ws => {
                    self.outgoing.close(Some(NORMAL_CLOSURE), out);
                    out.set_deadline(Some(deadline));
                }
            });
        }
    }

    fn write_gauges(&self) {
        let Gauges { open, sent, received, outstanding, faults } = &self.shared.gauges[self.worker];
        open.store(self.open as u64, Ordering::Relaxed);
        sent.store(self.tally.sent.total, Ordering::Relaxed);
        received.store(self.tally.received.total, Ordering::Relaxed);
        outstanding.store(self.outstanding, Ordering::Relaxed);
        faults.store(self.tally.faults(), Ordering::Relaxed);
    }
}

/// A separator where there is something to separate.
fn colon(text: &str) -> &'static str {
    if text.is_empty() { "" } else { ": " }
}

fn describe(cause: &Cause) -> String {
    match cause {
        Cause::PeerClosed => "closed the connection".to_owned(),
        Cause::Closed => "did not close in time".to_owned(),
        Cause::Reset => "reset the connection".to_owned(),
        Cause::WriteStalled => "took no more bytes".to_owned(),
        Cause::Io(error) => format!("connection failed: {error}"),
        Cause::Shutdown => "the run ended".to_owned(),
    }
}

impl Handler for Client {
    type Conn = Conn;

    fn start(&mut self, w: &mut Worker<'_, Self>) {
        self.begin_turn(w.now());
        let tid = rustix::thread::gettid().as_raw_nonzero().get().cast_unsigned();
        self.report(Report::Started { worker: self.worker, tid });
        self.connect_more(w);
    }

    fn opened(&mut self, id: ConnId, from: Origin, out: &mut Output<'_>) -> Conn {
        self.begin_turn(out.now());
        self.live += 1;
        let tag = match from {
            Origin::Connected { tag } => tag,
            Origin::Accepted { .. } => unreachable!("this handler has no listeners"),
        };
        let (link, attempt) = (tag as u32, (tag >> 32) as usize);
        self.address = (self.address + attempt) % self.shared.addresses.len();
        self.links[link as usize].id = Some(id);
        if let Stage::Connecting(began) = self.links[link as usize].stage {
            match self.shared.transport {
                Transport::Tcp => self.now_open(link, began),
                Transport::Ws => self.links[link as usize].stage = self.request(began, out),
            }
        }
        Conn { link, protocol: Connection::new(Role::Client) }
    }

    fn connect_failed(&mut self, w: &mut Worker<'_, Self>, tag: u64, error: io::Error) {
        self.begin_turn(w.now());
        let (link, attempt) = (tag as u32, (tag >> 32) as u32);
        if attempt as usize + 1 < self.shared.addresses.len() && self.doing == Doing::Connecting {
            return self.connect(w, link, attempt + 1);
        }
        let to = self.address(attempt);
        self.links[link as usize].stage = Stage::Closed;
        self.opening -= 1;
        self.tally.errors.connect += 1;
        self.doing = Doing::Waiting;
        self.report(Report::ConnectFailed { to, source: error });
    }

    #[inline]
    fn received(&mut self, _: ConnId, c: &mut Conn, bytes: &mut [u8], out: &mut Output<'_>) {
        self.begin_turn(out.now());
        match (&self.links[c.link as usize].stage, self.shared.transport) {
            (Stage::Open | Stage::Closing, Transport::Ws) => self.read_frames(c, bytes, out),
            (Stage::Open, Transport::Tcp) => self.read_raw(c.link, bytes, out),
            (Stage::Handshaking { .. }, _) => {
                if let Some(used) = self.read_response(c.link, bytes, out) {
                    self.read_frames(c, &mut bytes[used..], out);
                }
            }
            (Stage::Closing | Stage::Closed | Stage::Connecting(_), _) => {}
        }
    }

    fn eof(&mut self, _: ConnId, c: &mut Conn, out: &mut Output<'_>) {
        self.begin_turn(out.now());
        match self.links[c.link as usize].stage {
            Stage::Open => {
                self.tally.errors.closed += 1;
                self.end(c.link, describe(&Cause::PeerClosed), out);
            }
            Stage::Handshaking { .. } => {
                let detail = "the server closed the connection without answering".to_owned();
                self.handshake_failed(c.link, detail, out);
            }
            _ => out.close(CloseMode::Flush),
        }
    }

    fn drained(&mut self, _: ConnId, _: &mut Conn, _: &mut Output<'_>) {}

    fn deadline(&mut self, _: ConnId, c: &mut Conn, out: &mut Output<'_>) {
        self.begin_turn(out.now());
        if let Stage::Handshaking { .. } = self.links[c.link as usize].stage {
            self.tally.errors.timeout += 1;
            let detail = format!("no answer within {:?}", self.shared.connect_timeout);
            return self.handshake_failed(c.link, detail, out);
        }
        out.close(CloseMode::Abort);
    }

    fn closed(&mut self, _: ConnId, c: Conn, cause: Cause) {
        self.live -= 1;
        let state = &mut self.links[c.link as usize];
        state.id = None;
        match state.stage {
            Stage::Open if !matches!(cause, Cause::Shutdown) => {
                match cause {
                    Cause::WriteStalled => self.tally.errors.timeout += 1,
                    Cause::Io(_) => self.tally.errors.io += 1,
                    _ => self.tally.errors.closed += 1,
                }
                self.lose(c.link, describe(&cause));
            }
            Stage::Handshaking { .. } if !matches!(cause, Cause::Shutdown) => {
                self.opening -= 1;
                self.tally.errors.handshake += 1;
                self.doing = Doing::Waiting;
                let detail = format!("the server {} without answering", describe(&cause));
                self.report(Report::HandshakeFailed(detail));
            }
            _ => {}
        }
        self.links[c.link as usize].stage = Stage::Closed;
    }

    fn alarm(&mut self, w: &mut Worker<'_, Self>) {
        self.begin_turn(w.now());
    }

    fn woken(&mut self, w: &mut Worker<'_, Self>, bits: u64) {
        // The window may have been set or moved within this turn: look again.
        self.now = w.now();
        self.position = self.shared.window.position(self.now);
        if bits & orders::STOP != 0 {
            return w.stop();
        }
        if bits & orders::LOAD != 0 && self.doing == Doing::Waiting {
            self.doing = Doing::Loading;
            w.set_alarm(Some(self.shared.window.end()));
            (0..self.links.len()).for_each(|link| self.mark(link as u32));
        }
        if bits & orders::CLOSE != 0 && self.doing != Doing::Closing {
            self.close_all(w);
        }
    }

    #[inline]
    fn turn_end(&mut self, w: &mut Worker<'_, Self>) {
        self.begin_turn(w.now());
        match self.doing {
            Doing::Connecting => self.connect_more(w),
            Doing::Loading if self.position == Position::After => {
                self.doing = Doing::Draining;
                w.set_alarm(None);
            }
            Doing::Loading if !self.dirty.is_empty() => self.refill(w),
            Doing::Closing if self.live == 0 => w.stop(),
            _ => {}
        }
        if self.doing == Doing::Draining && self.outstanding == 0 && !self.is_drained {
            self.is_drained = true;
            self.report(Report::Drained);
        }
        self.write_gauges();
    }
}
