//! What the server keeps for one WebSocket, and its heartbeat.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use engine::Nanos;

use crate::echo::Assembly;
use crate::http::Head;
use crate::rate::Usage;

/// A connection's state, inline in the engine's table: at most 64 bytes, whatever it is doing.
#[derive(Debug)]
pub struct Connection {
    pub(crate) stage: Stage,
    pub(crate) assembly: Assembly,
    /// There only where limits need it.
    pub(crate) account: Option<Box<Account>>,
    /// When something last arrived.
    heard: Tick,
    /// The tick in which a deadline found it inside a frame of which no payload had come; the tick after for the one tick that
    /// is zero.
    stuck: Option<NonZeroU32>,
    /// Pings sent since.
    unanswered: u8,
}

const _: () = assert!(size_of::<Connection>() <= 64, "the engine keeps one of these for every connection");

#[derive(Debug)]
pub(crate) enum Stage {
    /// The request has not come, or not all of it.
    Handshake { head: Option<Box<Head>>, listener: u16 },
    /// A WebSocket.
    Open(protocol::Connection),
    /// It was not let in: an answer and the end.
    Refused,
}

/// What limits on rates and addresses need to know of a connection.
#[derive(Debug)]
pub(crate) struct Account {
    /// Where it comes from, for the addresses' table.
    pub(crate) peer: Option<SocketAddr>,
    pub(crate) usage: Usage,
    /// Its reads pause until then.
    pub(crate) paused: Option<Nanos>,
}

impl Connection {
    pub(crate) fn new(stage: Stage, account: Option<Box<Account>>, now: Nanos) -> Self {
        let assembly = Assembly::default();
        Self { stage, assembly, account, heard: Tick::at(now), stuck: None, unanswered: 0 }
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.account.as_ref().and_then(|account| account.peer)
    }

    /// How long it has certainly been inside the same frame without payload: since the deadline that found it there, if nothing
    /// has come since then. A few bytes at a time can stretch a header or a control frame, which cost nobody anything, but not
    /// a payload.
    pub(crate) fn stuck(&mut self, now: Nanos) -> Duration {
        match self.stuck.map(|tick| Tick(tick.get())) {
            Some(since) if self.heard.until(now) >= since.until(now) => since.until(now),
            _ => {
                self.stuck = Some(NonZeroU32::new(Tick::at(now).0).unwrap_or(NonZeroU32::MIN));
                Duration::ZERO
            }
        }
    }

    /// It is between frames, or its payload is coming.
    pub(crate) fn is_not_stuck(&mut self) {
        self.stuck = None;
    }

    /// Notes a sign of life: any bytes are one, a Pong is not needed (RFC 6455 5.5.2).
    #[inline]
    pub(crate) fn heard(&mut self, now: Nanos) {
        self.heard = Tick::at(now);
        self.unanswered = 0;
    }
}

/// When a silent connection is pinged, and when it is given up.
///
/// Nothing is rescheduled when bytes arrive: the deadline fires where it was set, finds how long the connection has been
/// silent, and moves on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// A connection from which nothing came for this long is closed with 1001; zero: never.
    pub idle_timeout: Duration,
    /// A connection silent for this long is pinged; after two pings without a sign of life it is dropped. Zero: never.
    pub ping_interval: Duration,
}

/// What a connection's deadline calls for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Nothing yet.
    Wait,
    /// A ping.
    Ping,
    /// A Close: silent for the idle timeout.
    Idle,
    /// The end: two pings were not answered.
    Dead,
}

/// Pings that may stay unanswered.
const MAX_UNANSWERED: u8 = 2;

impl Heartbeat {
    /// What the deadline calls for, and when the next one is due.
    pub(crate) fn beat(&self, connection: &mut Connection, now: Nanos) -> (Beat, Option<Nanos>) {
        let silent = connection.heard.until(now);
        let ping_due = self.ping_interval * (u32::from(connection.unanswered) + 1);
        let pings = !self.ping_interval.is_zero() && silent >= ping_due;
        if !self.idle_timeout.is_zero() && silent >= self.idle_timeout {
            (Beat::Idle, None)
        } else if pings && connection.unanswered == MAX_UNANSWERED {
            (Beat::Dead, None)
        } else if pings {
            connection.unanswered += 1;
            // The answer has a full interval, however late the deadline came.
            (Beat::Ping, self.next(now, silent, self.ping_interval))
        } else {
            (Beat::Wait, self.next(now, silent, ping_due.saturating_sub(silent)))
        }
    }

    /// The first deadline of a connection from which something has just come.
    pub(crate) fn first(&self, now: Nanos) -> Option<Nanos> {
        self.next(now, Duration::ZERO, self.ping_interval)
    }

    fn next(&self, now: Nanos, silent: Duration, until_ping: Duration) -> Option<Nanos> {
        let ping = (!self.ping_interval.is_zero()).then_some(until_ping);
        let idle = (!self.idle_timeout.is_zero()).then(|| self.idle_timeout.saturating_sub(silent));
        ping.into_iter().chain(idle).min().map(|span| now + span)
    }
}

/// A point in time in four bytes: counts of 10 ms, which come around after 497 days.
#[derive(Clone, Copy, Debug)]
struct Tick(u32);

impl Tick {
    const NANOS: u64 = 10_000_000;

    #[inline]
    fn at(now: Nanos) -> Self {
        Self((now.0 / Self::NANOS) as u32)
    }

    /// The span to `now`, rounded down.
    fn until(self, now: Nanos) -> Duration {
        let elapsed = Self::at(now).0.wrapping_sub(self.0);
        Duration::from_nanos(u64::from(elapsed) * Self::NANOS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Nanos {
        Nanos(ms * 1_000_000)
    }

    fn idle(now: Nanos) -> Connection {
        Connection::new(Stage::Handshake { head: None, listener: 0 }, None, now)
    }

    fn seconds(idle_timeout: u64, ping_interval: u64) -> Heartbeat {
        Heartbeat {
            idle_timeout: Duration::from_secs(idle_timeout),
            ping_interval: Duration::from_secs(ping_interval),
        }
    }

    #[test]
    fn switched_off_there_is_no_deadline() {
        assert_eq!(seconds(0, 0).first(at(5)), None);
        assert_eq!(seconds(0, 0).beat(&mut idle(at(0)), at(1 << 30)), (Beat::Wait, None));
    }

    #[test]
    fn two_unanswered_pings_and_the_connection_is_dead() {
        let heartbeat = seconds(0, 30);
        let mut c = idle(at(0));
        assert_eq!(heartbeat.first(at(0)), Some(at(30_000)));
        assert_eq!(heartbeat.beat(&mut c, at(30_000)), (Beat::Ping, Some(at(60_000))));
        assert_eq!(heartbeat.beat(&mut c, at(60_000)), (Beat::Ping, Some(at(90_000))));
        assert_eq!(heartbeat.beat(&mut c, at(90_000)).0, Beat::Dead);
    }

    #[test]
    fn any_traffic_starts_over() {
        let heartbeat = seconds(0, 30);
        let mut c = idle(at(0));
        assert_eq!(heartbeat.beat(&mut c, at(30_000)).0, Beat::Ping);
        c.heard(at(45_000));
        assert_eq!(heartbeat.beat(&mut c, at(60_000)), (Beat::Wait, Some(at(75_000))));
        assert_eq!(heartbeat.beat(&mut c, at(75_000)).0, Beat::Ping);
        assert_eq!(heartbeat.beat(&mut c, at(105_000)).0, Beat::Ping);
    }

    #[test]
    fn a_late_deadline_leaves_a_full_interval_for_the_answer() {
        let heartbeat = seconds(0, 30);
        let mut c = idle(at(0));
        assert_eq!(heartbeat.beat(&mut c, at(500_000)), (Beat::Ping, Some(at(530_000))));
    }

    #[test]
    fn idle_is_the_earlier_of_both_when_it_is_shorter() {
        let heartbeat = seconds(40, 30);
        let mut c = idle(at(0));
        assert_eq!(heartbeat.beat(&mut c, at(30_000)), (Beat::Ping, Some(at(40_000))));
        assert_eq!(heartbeat.beat(&mut c, at(40_000)).0, Beat::Idle);
        c.heard(at(41_000));
        assert_eq!(heartbeat.beat(&mut c, at(42_000)), (Beat::Wait, Some(at(71_000))));
    }

    #[test]
    fn a_frame_without_payload_is_stuck_while_nothing_comes() {
        let mut c = idle(at(0));
        assert_eq!(c.stuck(at(10_000)), Duration::ZERO);
        assert_eq!(c.stuck(at(30_000)), Duration::from_secs(20));
        c.heard(at(31_000));
        assert_eq!(c.stuck(at(40_000)), Duration::ZERO);
        c.is_not_stuck();
        assert_eq!(c.stuck(at(50_000)), Duration::ZERO);
    }

    #[test]
    fn ticks_come_around_without_harm() {
        let turn = Nanos((1 << 32) * Tick::NANOS);
        let mut c = idle(Nanos(turn.0 - 1));
        let (beat, next) = seconds(10, 0).beat(&mut c, turn + Duration::from_secs(9));
        assert_eq!(beat, Beat::Wait);
        assert!(next.is_some_and(|at| at > turn + Duration::from_secs(9)));
    }
}
