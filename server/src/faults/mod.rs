//! Faults on demand: what a server with `--faults` does wrong on purpose, for a connection whose
//! URL asks for it.
//!
//! A connection with faults has a state of its own. Its input is read by the same echo as that of
//! every other connection, but the frames of the echo go through a queue, in which they are changed
//! and held back. Nothing of this exists for a connection without faults.

mod plan;
mod random;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use engine::{CloseMode, ConnId, Nanos, Record};
use protocol::handshake::server::Refusal;
use protocol::{Close, Header, Opcode, ProtocolError, encode_control};

use self::plan::{Cut, Delay, Time};
pub use self::plan::{FaultError, FaultPlan};
use self::random::SplitMix64;
use crate::admission::Rejection;

/// Settings of faults, shared by all workers.
#[derive(Clone, Debug, Default)]
pub struct FaultSettings {
    /// Faults of connections whose URL names none. `None`: they have none.
    pub default: Option<FaultPlan>,
    /// Bytes of held echoes above which a connection is not read from.
    pub high_water: usize,
    /// Connections with faults so far.
    opened: Arc<AtomicU64>,
}

impl FaultSettings {
    /// Creates settings with the faults of connections whose URL names none.
    #[must_use]
    pub fn new(default: Option<FaultPlan>, high_water: usize) -> Self {
        Self { default, high_water, opened: Arc::default() }
    }

    /// Splits a request target into the served path and the faults of the connection.
    ///
    /// # Errors
    ///
    /// 400 for a fault that is not valid; the status that the faults name for this connection.
    pub(crate) fn of_target<'a>(
        &self,
        target: &'a str,
    ) -> Result<(&'a str, Option<Box<FaultyOpening>>), Rejection> {
        const INVALID: Refusal =
            Refusal::of_server(400, "invalid-fault", "--faults", "this fault is not valid");
        let (path, asked) = FaultPlan::of_target(target)
            .map_err(|error| Rejection::with_detail(INVALID, error.to_string()))?;
        let Some(plan) = asked.or_else(|| self.default.clone()) else { return Ok((path, None)) };
        // The order among connections does not matter, only that each has a number of its own.
        let number = self.opened.fetch_add(1, Ordering::Relaxed) + 1;
        Ok((path, Some(Box::new(FaultyOpening { plan, number }))))
    }

    /// Value of the field that every answer of this server has, see [`FAULTS_FIELD`].
    pub(crate) fn field(opening: Option<&FaultyOpening>) -> String {
        opening.map_or_else(|| "none".to_owned(), |opening| opening.plan.to_string())
    }
}

/// Field of an opening handshake's answer that names the faults of the connection.
pub(crate) const FAULTS_FIELD: &str = "X-Sparring-Faults";

/// Rule of refusals that a client has asked for.
pub(crate) const REFUSED_ON_REQUEST: &str = "refused-on-request";

/// Faults of a connection that opens.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct FaultyOpening {
    plan: FaultPlan,
    /// Number of this connection among those with faults; the first is 1.
    number: u64,
}

impl FaultyOpening {
    /// Returns the refusal that the plan wants for this connection.
    pub(crate) fn refusal(&self) -> Option<Rejection> {
        let status = self.plan.refuse.as_ref()?.at(self.number)?;
        let refusal =
            Refusal::of_server(status, REFUSED_ON_REQUEST, "--faults", "refused on request");
        let detail = format!("refused because the faults of this connection are {}", self.plan);
        Some(Rejection::with_detail(refusal, detail))
    }
}

/// Counts of faults, by their name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct FaultCounters([u64; FaultCounters::NAMES.len()]);

/// Fault that is counted, in the order of [`FaultCounters::NAMES`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Delay,
    Stall,
    Close,
    Abort,
    Refuse,
    Fragment,
    Ping,
    Truncate,
    Greet,
}

impl FaultCounters {
    pub(crate) const NAMES: [&str; 9] =
        ["delay", "stall", "close", "abort", "refuse", "fragment", "ping", "truncate", "greet"];

    pub(crate) fn count(&mut self, fault: Fault) {
        self.0[fault as usize] += 1;
    }

    /// Iterates over names and counts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        Self::NAMES.into_iter().zip(self.0)
    }
}

/// State of a worker for all of its connections with faults.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    pub(crate) counters: FaultCounters,
    /// Connections with something held, by the time of the first of it.
    due: BTreeSet<(Nanos, u32, u32)>,
    /// Output of the echo, before it is changed.
    pub(crate) record: Record,
}

impl Faults {
    /// Time of the first thing that is held.
    pub(crate) fn first(&self) -> Option<Nanos> {
        self.due.first().map(|&(at, ..)| at)
    }

    /// Takes a connection whose time has come.
    pub(crate) fn take_due(&mut self, now: Nanos) -> Option<ConnId> {
        let &(_, slot, generation) = self.due.first().filter(|&&(at, ..)| at <= now)?;
        self.due.pop_first();
        Some(ConnId { slot, generation })
    }

    /// Schedules a connection for the first thing that it holds.
    pub(crate) fn schedule(&mut self, id: ConnId, faulty: &mut Faulty) {
        let next = faulty.held.front().map(|held| held.at);
        if faulty.scheduled != next {
            self.forget(id, faulty);
            self.due.extend(next.map(|at| (at, id.slot, id.generation)));
            faulty.scheduled = next;
        }
    }

    /// Removes a connection from the schedule.
    pub(crate) fn forget(&mut self, id: ConnId, faulty: &mut Faulty) {
        if let Some(at) = faulty.scheduled.take() {
            self.due.remove(&(at, id.slot, id.generation));
        }
    }
}

/// Something that a connection with faults sends or does at its time, in the order of the queue.
#[derive(Debug)]
pub(crate) enum Step {
    /// Send these bytes.
    Send(BytesMut),
    /// Go on after a stall.
    GoOn,
    /// Close with this code on request.
    Close(u16),
    /// End the connection without a Close.
    End,
    /// Answer the peer's Close.
    AnswerClose(Close, CloseMode),
    /// Close for invalid frames.
    Fault(ProtocolError),
    /// Close after the peer's FIN.
    Eof,
}

#[derive(Debug)]
struct Held {
    at: Nanos,
    step: Step,
}

/// State of an open WebSocket with faults.
#[derive(Debug)]
pub(crate) struct Faulty {
    pub(crate) socket: protocol::Connection,
    plan: FaultPlan,
    random: SplitMix64,
    /// Messages echoed so far.
    messages: u64,
    held: VecDeque<Held>,
    /// Bytes that are held, with their costs.
    held_bytes: usize,
    /// Time of the last thing in the queue: nothing behind it comes earlier.
    last: Nanos,
    /// Latest time for what comes into the queue now.
    latest: Nanos,
    /// Stalls in the queue.
    stalls: u32,
    /// True if the end of the connection is in the queue: nothing comes behind it.
    ends: bool,
    /// Time for which [`Faults`] has this connection scheduled.
    scheduled: Option<Nanos>,
}

impl Faulty {
    /// Longest time that anything is held. Many stalls of messages that came together would add up
    /// to more, and a connection that is not read from does not learn of its peer's end.
    const MAX_HELD: Duration = Duration::from_secs(3600);
    /// Memory of a held step, besides its bytes.
    const STEP_COST: usize = 64;

    /// Begins a connection. What happens before its first message is in its queue.
    pub(crate) fn new(opening: FaultyOpening, now: Nanos, counters: &mut FaultCounters) -> Self {
        let FaultyOpening { plan, number } = opening;
        let mut this = Self {
            socket: protocol::Connection::new(protocol::Role::Server),
            random: SplitMix64::new(plan.seed.unwrap_or(number)),
            plan,
            messages: 0,
            held: VecDeque::new(),
            held_bytes: 0,
            last: now,
            latest: now + Self::MAX_HELD,
            stalls: 0,
            ends: false,
            scheduled: None,
        };
        if let Some(text) = this.plan.greet.take() {
            counters.count(Fault::Greet);
            this.hold(now, Step::Send(frame(Opcode::Text as u8 | FIN, text.as_bytes())));
        }
        this.follow(0, counters);
        this
    }

    /// Returns whether nothing may be read now.
    pub(crate) fn is_blocked(&self, high_water: usize) -> bool {
        self.stalls > 0 || self.ends || self.held_bytes > high_water
    }

    /// Puts replies of the echo into the queue: whole frames of the server's.
    pub(crate) fn add_replies(
        &mut self,
        mut replies: &[u8],
        now: Nanos,
        counters: &mut FaultCounters,
    ) {
        self.latest = now + Self::MAX_HELD;
        while let Ok(Some((header, header_len))) = Header::parse(replies) {
            let len = header_len + header.payload_len as usize;
            let (reply, rest) = replies.split_at(len);
            replies = rest;
            if self.ends {
                return;
            }
            match header.opcode {
                Opcode::Text | Opcode::Binary => self.add_echo(reply, header_len, now, counters),
                _ => self.hold(now, Step::Send(BytesMut::from(reply))),
            }
        }
    }

    /// Puts one echo into the queue, with its faults and what follows it.
    fn add_echo(
        &mut self,
        echo: &[u8],
        header_len: usize,
        now: Nanos,
        counters: &mut FaultCounters,
    ) {
        self.messages += 1;
        let number = self.messages;
        let delay = self.plan.delay.as_ref().and_then(|delay| delay.at(number));
        let at = now
            + match delay {
                None => Duration::ZERO,
                Some(Delay::Fixed(time)) => time,
                Some(Delay::Exponential(mean)) => self.random.exponential(mean),
            };
        delay.inspect(|_| counters.count(Fault::Delay));
        let (first, mut payload) = (echo[0], &echo[header_len..]);
        if let Some(left) = self.plan.truncate.as_ref().and_then(|fault| fault.at(number)) {
            counters.count(Fault::Truncate);
            payload = &payload[..payload.len().min(left as usize)];
        }
        let fragment = self.plan.fragment.as_ref().and_then(|fault| fault.at(number));
        let mut frames = match fragment {
            None => frame(first, payload),
            Some(most) => {
                counters.count(Fault::Fragment);
                fragments(first, payload, most as usize)
            }
        };
        if self.plan.abort.as_ref().and_then(|fault| fault.at(number)) == Some(Cut::Partial) {
            frames.truncate(frames.len() / 2);
        }
        self.hold(at, Step::Send(frames));
        if self.plan.ping.is_some_and(|every| number.is_multiple_of(every)) {
            counters.count(Fault::Ping);
            let mut ping = [0; protocol::frame::MAX_CONTROL_LEN];
            let text = number.to_string();
            let len = encode_control(Opcode::Ping, text.as_bytes(), None, &mut ping);
            self.hold(now, Step::Send(BytesMut::from(&ping[..len])));
        }
        self.follow(number, counters);
    }

    /// Puts into the queue what follows the echo of this message, or the opening.
    fn follow(&mut self, number: u64, counters: &mut FaultCounters) {
        if let Some(Time(span)) = self.plan.stall.as_ref().and_then(|fault| fault.at(number)) {
            counters.count(Fault::Stall);
            self.stalls += 1;
            self.hold(self.last + span, Step::GoOn);
        }
        let last = self.last;
        if self.plan.abort.as_ref().is_some_and(|fault| fault.at(number).is_some()) {
            counters.count(Fault::Abort);
            self.end(last, Step::End);
        } else if let Some(code) = self.plan.close.as_ref().and_then(|fault| fault.at(number)) {
            counters.count(Fault::Close);
            self.end(last, Step::Close(code));
        }
    }

    /// Puts the end of the connection into the queue, unless it is there.
    pub(crate) fn end(&mut self, now: Nanos, step: Step) {
        if !self.ends {
            self.hold(now, step);
            self.ends = true;
        }
    }

    /// Records that the schedule has given the connection back.
    pub(crate) fn was_taken(&mut self) {
        self.scheduled = None;
    }

    fn hold(&mut self, at: Nanos, step: Step) {
        self.last = self.last.max(at.min(self.latest));
        self.held_bytes += cost(&step);
        self.held.push_back(Held { at: self.last, step });
    }

    /// Takes the first step whose time has come.
    pub(crate) fn take_due(&mut self, now: Nanos) -> Option<Step> {
        let held = self.held.pop_front_if(|held| held.at <= now)?;
        self.held_bytes -= cost(&held.step);
        self.stalls -= u32::from(matches!(held.step, Step::GoOn));
        Some(held.step)
    }

    /// Puts a step back to the front of the queue, for this time.
    pub(crate) fn put_back(&mut self, at: Nanos, step: Step) {
        self.held_bytes += cost(&step);
        self.held.push_front(Held { at, step });
    }
}

fn cost(step: &Step) -> usize {
    Faulty::STEP_COST + if let Step::Send(bytes) = step { bytes.len() } else { 0 }
}

/// First bit of a frame: the message ends with it.
const FIN: u8 = 0x80;

/// Most frames of a fragmented message, so that a message takes a bounded time.
const MAX_FRAMES: usize = 262_144;

/// Appends a frame with this first byte.
fn put_frame(first: u8, payload: &[u8], frames: &mut BytesMut) {
    let header = Header {
        fin: true,
        rsv: 0,
        opcode: Opcode::Binary,
        mask: None,
        payload_len: payload.len() as u64,
    };
    let mut bytes = [0; Header::MAX_LEN];
    let len = header.encode(&mut bytes);
    bytes[0] = first;
    frames.extend_from_slice(&bytes[..len]);
    frames.extend_from_slice(payload);
}

fn frame(first: u8, payload: &[u8]) -> BytesMut {
    let mut frame = BytesMut::with_capacity(Header::MAX_LEN + payload.len());
    put_frame(first, payload, &mut frame);
    frame
}

/// Returns a message as frames with at most `most` bytes of payload, or with more where there were
/// too many frames.
fn fragments(first: u8, payload: &[u8], most: usize) -> BytesMut {
    let most = most.max(payload.len().div_ceil(MAX_FRAMES));
    let count = payload.len().div_ceil(most).max(1);
    let mut frames = BytesMut::with_capacity(payload.len() + count * 4);
    for n in 0..count {
        let part = &payload[n * most..payload.len().min((n + 1) * most)];
        let opcode = if n == 0 { first & !FIN } else { 0 };
        let fin = if n + 1 == count { FIN } else { 0 };
        put_frame(opcode | fin, part, &mut frames);
    }
    frames
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn faulty(plan: &str, number: u64) -> (Faulty, FaultCounters) {
        let plan = plan.parse().unwrap_or_else(|error| panic!("{error}"));
        let mut counters = FaultCounters::default();
        let faulty = Faulty::new(FaultyOpening { plan, number }, Nanos(0), &mut counters);
        (faulty, counters)
    }

    /// Adds echoes of one byte at these times, in milliseconds.
    fn add(faulty: &mut Faulty, arrivals: &[u64]) {
        for &at in arrivals {
            let echo = frame(Opcode::Binary as u8 | FIN, b"x");
            faulty.add_replies(&echo, Nanos(at * MS), &mut FaultCounters::default());
        }
    }

    /// Returns the times of all steps in the queue, in milliseconds, and empties it.
    fn times(faulty: &mut Faulty) -> Vec<u64> {
        let times = faulty.held.iter().map(|held| held.at.0 / MS).collect();
        while faulty.take_due(Nanos::NEVER).is_some() {}
        assert_eq!((faulty.held_bytes, faulty.stalls), (0, 0));
        times
    }

    #[test]
    fn delays_are_exact_and_keep_the_order() {
        let (mut every, _) = faulty("delay=5ms", 1);
        add(&mut every, &[0, 1, 1, 10]);
        assert_eq!(times(&mut every), [5, 6, 6, 15]);
        // What follows a message that waits, waits too.
        let (mut second, _) = faulty("delay=5ms@2", 1);
        add(&mut second, &[0, 1, 2, 10, 11]);
        assert_eq!(times(&mut second), [0, 6, 6, 15, 15]);
        let (mut stalled, _) = faulty("stall=10ms@2", 1);
        add(&mut stalled, &[0, 1, 2, 3]);
        assert!(stalled.is_blocked(usize::MAX));
        // Echo, echo, end of the stall, and so on.
        assert_eq!(times(&mut stalled), [0, 1, 11, 11, 11, 21]);
        assert!(!stalled.is_blocked(usize::MAX));
    }

    #[test]
    fn nothing_is_held_for_more_than_an_hour() {
        let (mut faulty, _) = faulty("stall=40m@1&delay=10ms", 1);
        add(&mut faulty, &[0, 0, 0, 5]);
        let hour = 3_600_000;
        let stall = 2_400_000;
        let expected = [10, stall + 10, stall + 10, hour, hour, hour, hour, hour + 5];
        assert_eq!(times(&mut faulty), expected);
    }

    #[test]
    fn random_delays_are_repeated_by_their_seed() {
        let delays = |plan: &str, number| {
            let (mut faulty, _) = faulty(plan, number);
            add(&mut faulty, &[0; 50]);
            times(&mut faulty)
        };
        let plan = "delay=exp:20ms";
        assert_eq!(delays(plan, 1), delays(plan, 1));
        assert_ne!(delays(plan, 1), delays(plan, 2));
        let seeded = "delay=exp:20ms&seed=1";
        assert_eq!(delays(seeded, 7), delays(plan, 1));
        assert!(delays(plan, 3).is_sorted());
    }

    #[test]
    fn nothing_follows_the_end() {
        let (mut closed, counters) = faulty("close=1011@2&ping=1", 1);
        add(&mut closed, &[0; 9]);
        closed.end(Nanos(0), Step::Eof);
        let steps: Vec<Step> = std::iter::from_fn(|| closed.take_due(Nanos(0))).collect();
        // Two echoes, each with a ping.
        assert_eq!(steps.len(), 5);
        assert!(matches!(steps[4], Step::Close(1011)), "{steps:?}");
        assert_eq!(counters.iter().map(|(_, count)| count).sum::<u64>(), 0);
    }

    #[test]
    fn held_bytes_block_and_release() {
        let (mut held, _) = faulty("delay=5ms", 1);
        add(&mut held, &[0; 10]);
        let bytes = 10 * (Faulty::STEP_COST + 3);
        assert!(held.is_blocked(bytes - 1) && !held.is_blocked(bytes));
        assert!(held.take_due(Nanos(5 * MS - 1)).is_none());
        assert!(held.take_due(Nanos(5 * MS)).is_some());
        assert!(!held.is_blocked(bytes - 1));
    }

    #[test]
    fn fragments_join_to_the_message() {
        let text = Opcode::Text as u8 | FIN;
        assert_eq!(fragments(text, b"", 3)[..], *b"\x81\x00");
        assert_eq!(fragments(text, b"abc", 3)[..], *b"\x81\x03abc");
        assert_eq!(fragments(text, b"abcd", 3)[..], *b"\x01\x03abc\x80\x01d");
        let many = fragments(text, &vec![0; 3 * MAX_FRAMES], 1);
        assert_eq!(many.len(), MAX_FRAMES * 5);
    }

    #[test]
    fn due_connections_are_taken_in_order_and_once() {
        let (mut faults, id) = (Faults::default(), |slot| ConnId { slot, generation: 7 });
        let mut all: Vec<Faulty> = [9, 3, 6].map(|_| faulty("delay=1ms", 1).0).into();
        for (slot, (faulty, at)) in all.iter_mut().zip([9, 3, 6]).enumerate() {
            add(faulty, &[at]);
            faults.schedule(id(slot as u32), faulty);
            faults.schedule(id(slot as u32), faulty);
        }
        faults.forget(id(2), &mut all[2]);
        assert_eq!(faults.first(), Some(Nanos(4 * MS)));
        assert_eq!(faults.take_due(Nanos(4 * MS - 1)), None);
        assert_eq!(faults.take_due(Nanos(20 * MS)), Some(id(1)));
        assert_eq!(faults.take_due(Nanos(20 * MS)), Some(id(0)));
        assert_eq!((faults.take_due(Nanos::NEVER), faults.first()), (None, None));
    }
}
