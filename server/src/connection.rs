//! State of a WebSocket connection, and its heartbeat.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use engine::Nanos;

use crate::deflate::Compression;
use crate::echo::Assembly;
use crate::faults::Faulty;
use crate::http::Head;
use crate::rate::Usage;

/// State of a connection, inline in the engine's table: at most 72 bytes.
#[derive(Debug)]
pub struct Connection {
    pub(crate) stage: Stage,
    pub(crate) assembly: Assembly,
    /// State that most connections never need.
    pub(crate) account: Option<Box<Account>>,
    /// Address of an IPv4 peer; that of another one is in its account.
    peer_v4: Option<(Ipv4Addr, u16)>,
    /// Time at which bytes last arrived.
    heard: Tick,
    /// Pings sent since then.
    unanswered: u8,
    /// True if a deadline has found the connection inside a frame without payload so far. Cleared
    /// when a frame ends or its payload arrives.
    is_stuck: bool,
    /// True once a ping was sent.
    pub(crate) was_pinged: bool,
    /// True while the limits per address do not count the connection: its peer is a proxy, and its
    /// request has not named the client yet.
    pub(crate) is_uncounted: bool,
    /// Inflating of a message that waits for its turn.
    pub(crate) parked: Parked,
}

const _: () =
    assert!(size_of::<Connection>() <= 72, "the engine keeps one of these for every connection");

/// State of a connection with a message whose inflating goes on in later turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parked {
    /// No message waits.
    No,
    /// The connection is not read from until the message is echoed.
    Yes,
    /// The same, and the client has sent its FIN.
    AtEof,
}

#[derive(Debug)]
pub(crate) enum Stage {
    /// The request is incomplete.
    Handshake { head: Option<Box<Head>>, listener: u16 },
    /// The WebSocket is open.
    Open(protocol::Connection),
    /// The WebSocket is open, and has faults.
    Faulty(Box<Faulty>),
    /// The connection was refused: it is answered and closed.
    Refused,
}

/// State of a connection with an IPv6 peer, with compression, or with a limit that it has reached.
#[derive(Debug)]
pub(crate) struct Account {
    /// Address of a peer that is not an IPv4 one.
    peer: Option<SocketAddr>,
    pub(crate) usage: Usage,
    /// End of a pause; [`Nanos::NEVER`] while no rate pauses the connection.
    paused_until: Nanos,
    /// Compression that the handshake agreed on; `None`: no compression.
    pub(crate) compression: Option<Box<Compression>>,
    /// Time at which a deadline found the connection inside a frame without payload so far.
    stuck_since: Tick,
    /// Unsent bytes at the last check, saturated.
    unsent: u32,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            peer: None,
            usage: Usage::default(),
            paused_until: Nanos::NEVER,
            compression: None,
            stuck_since: Tick(0),
            unsent: 0,
        }
    }
}

impl Stage {
    /// The reader of frames of an open WebSocket.
    pub(crate) fn socket(&self) -> Option<&protocol::Connection> {
        match self {
            Self::Open(socket) => Some(socket),
            Self::Faulty(faulty) => Some(&faulty.socket),
            Self::Handshake { .. } | Self::Refused => None,
        }
    }
}

impl Connection {
    pub(crate) fn new(stage: Stage, peer: Option<SocketAddr>, now: Nanos) -> Self {
        let mut this = Self {
            stage,
            assembly: Assembly::default(),
            account: None,
            peer_v4: None,
            heard: Tick::at(now),
            unanswered: 0,
            is_stuck: false,
            was_pinged: false,
            is_uncounted: false,
            parked: Parked::No,
        };
        this.set_peer(peer);
        this
    }

    /// Sets the address of the peer, or of the client that the peer connects for.
    pub(crate) fn set_peer(&mut self, peer: Option<SocketAddr>) {
        self.peer_v4 = None;
        match peer {
            Some(SocketAddr::V4(peer)) => self.peer_v4 = Some((*peer.ip(), peer.port())),
            Some(SocketAddr::V6(_)) => self.account_mut().peer = peer,
            None => {}
        }
    }

    /// Address that the limits per address count the connection for.
    pub(crate) fn counted_peer(&self) -> Option<SocketAddr> {
        self.peer().filter(|_| !self.is_uncounted)
    }

    pub(crate) fn peer(&self) -> Option<SocketAddr> {
        self.peer_v4.map(SocketAddr::from).or_else(|| self.account.as_ref()?.peer)
    }

    /// The account, which begins here if there is none.
    pub(crate) fn account_mut(&mut self) -> &mut Account {
        self.account.get_or_insert_default()
    }

    /// Returns the end of a pause; [`Nanos::NEVER`] while no rate pauses the connection.
    pub(crate) fn paused_until(&self) -> Nanos {
        self.account.as_ref().map_or(Nanos::NEVER, |account| account.paused_until)
    }

    /// Returns the end of a pause, where a rate pauses the connection.
    pub(crate) fn pause_end(&self) -> Option<Nanos> {
        Some(self.paused_until()).filter(|&at| at != Nanos::NEVER)
    }

    /// Sets the end of a pause; [`Nanos::NEVER`]: it is over.
    pub(crate) fn set_paused_until(&mut self, at: Nanos) {
        self.account_mut().paused_until = at;
    }

    /// Compression that the handshake agreed on.
    pub(crate) fn compression(&mut self) -> Option<&mut Compression> {
        self.account.as_mut()?.compression.as_deref_mut()
    }

    /// Returns the time for which it has certainly been inside the same frame without payload. It
    /// begins at the deadline that found the connection there, if no frame has ended since then.
    pub(crate) fn stuck(&mut self, now: Nanos) -> Duration {
        let was_stuck = std::mem::replace(&mut self.is_stuck, true);
        let since = &mut self.account_mut().stuck_since;
        if !was_stuck {
            *since = Tick::at(now);
        }
        since.until(now)
    }

    /// Returns the time since bytes last arrived.
    pub(crate) fn silent(&self, now: Nanos) -> Duration {
        self.heard.until(now)
    }

    /// Records that a frame has ended, or that its payload arrives.
    #[inline]
    pub(crate) fn clear_stuck(&mut self) {
        self.is_stuck = false;
    }

    /// Counts the connection as alive where fewer bytes are unsent than at the last check. A ping
    /// is written after the check, because the kernel's acceptance of it tells nothing about the
    /// peer.
    pub(crate) fn check_output(&mut self, unsent: usize, now: Nanos) {
        let unsent = u32::try_from(unsent).unwrap_or(u32::MAX);
        if unsent == 0 && self.account.is_none() {
            return;
        }
        if unsent < std::mem::replace(&mut self.account_mut().unsent, unsent) {
            self.heard(now);
        }
    }

    /// Records a sign of life. Any bytes are one, not only a Pong (RFC 6455 5.5.2).
    #[inline]
    pub(crate) fn heard(&mut self, now: Nanos) {
        self.heard = Tick::at(now);
        self.unanswered = 0;
    }
}

/// Rules for pinging a silent connection and for closing it.
///
/// A connection is silent while nothing arrives and the peer accepts no output. Received bytes
/// reschedule nothing. The deadline fires at its set time, computes how long the connection has
/// been silent, and moves on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// Silence after which a connection is closed with 1001. Zero: never.
    pub idle_timeout: Duration,
    /// Silence after which a connection is pinged. After two pings without a sign of life it is
    /// dropped. Zero: never.
    pub ping_interval: Duration,
}

/// Action to take when a connection's deadline fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeadlineAction {
    /// No action.
    Wait,
    /// Send a ping.
    Ping,
    /// Close the connection: it was silent for the idle timeout.
    Idle,
    /// Drop the connection: two pings were not answered.
    Dead,
}

/// Most pings that may stay unanswered.
const MAX_UNANSWERED: u8 = 2;

impl Heartbeat {
    /// Returns the action for a deadline, and the time of the next one.
    pub(crate) fn action(
        &self,
        connection: &mut Connection,
        now: Nanos,
    ) -> (DeadlineAction, Option<Nanos>) {
        let silent = connection.silent(now);
        let ping_due = self.ping_interval * (u32::from(connection.unanswered) + 1);
        let pings = !self.ping_interval.is_zero() && silent >= ping_due;
        if !self.idle_timeout.is_zero() && silent >= self.idle_timeout {
            (DeadlineAction::Idle, None)
        } else if pings && connection.unanswered == MAX_UNANSWERED {
            (DeadlineAction::Dead, None)
        } else if pings {
            connection.unanswered += 1;
            // The answer has a full interval, however late the deadline came.
            (DeadlineAction::Ping, self.next(now, silent, self.ping_interval))
        } else {
            (DeadlineAction::Wait, self.next(now, silent, ping_due.saturating_sub(silent)))
        }
    }

    /// Returns the first deadline of a connection from which bytes have just arrived.
    pub(crate) fn first(&self, now: Nanos) -> Option<Nanos> {
        self.next(now, Duration::ZERO, self.ping_interval)
    }

    fn next(&self, now: Nanos, silent: Duration, until_ping: Duration) -> Option<Nanos> {
        let ping = (!self.ping_interval.is_zero()).then_some(until_ping);
        let idle = (!self.idle_timeout.is_zero()).then(|| self.idle_timeout.saturating_sub(silent));
        ping.into_iter().chain(idle).min().map(|span| now + span)
    }
}

/// Time in four bytes: counts of 10 ms, which wrap after 497 days.
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
        assert_eq!(
            seconds(0, 0).action(&mut idle(at(0)), at(1 << 30)),
            (DeadlineAction::Wait, None)
        );
    }

    #[test]
    fn two_unanswered_pings_and_the_connection_is_dead() {
        let heartbeat = seconds(0, 30);
        let mut c = idle(at(0));
        assert_eq!(heartbeat.first(at(0)), Some(at(30_000)));
        assert_eq!(heartbeat.action(&mut c, at(30_000)), (DeadlineAction::Ping, Some(at(60_000))));
        assert_eq!(heartbeat.action(&mut c, at(60_000)), (DeadlineAction::Ping, Some(at(90_000))));
        assert_eq!(heartbeat.action(&mut c, at(90_000)).0, DeadlineAction::Dead);
    }

    #[test]
    fn any_traffic_starts_over() {
        let heartbeat = seconds(0, 30);
        let mut c = idle(at(0));
        assert_eq!(heartbeat.action(&mut c, at(30_000)).0, DeadlineAction::Ping);
        c.heard(at(45_000));
        assert_eq!(heartbeat.action(&mut c, at(60_000)), (DeadlineAction::Wait, Some(at(75_000))));
        assert_eq!(heartbeat.action(&mut c, at(75_000)).0, DeadlineAction::Ping);
        assert_eq!(heartbeat.action(&mut c, at(105_000)).0, DeadlineAction::Ping);
    }

    #[test]
    fn a_late_deadline_leaves_a_full_interval_for_the_answer() {
        let heartbeat = seconds(0, 30);
        let mut c = idle(at(0));
        assert_eq!(
            heartbeat.action(&mut c, at(500_000)),
            (DeadlineAction::Ping, Some(at(530_000)))
        );
    }

    #[test]
    fn idle_is_the_earlier_of_both_when_it_is_shorter() {
        let heartbeat = seconds(40, 30);
        let mut c = idle(at(0));
        assert_eq!(heartbeat.action(&mut c, at(30_000)), (DeadlineAction::Ping, Some(at(40_000))));
        assert_eq!(heartbeat.action(&mut c, at(40_000)).0, DeadlineAction::Idle);
        c.heard(at(41_000));
        assert_eq!(heartbeat.action(&mut c, at(42_000)), (DeadlineAction::Wait, Some(at(71_000))));
    }

    #[test]
    fn a_frame_without_payload_is_stuck_until_one_ends() {
        let mut c = idle(at(0));
        assert_eq!(c.stuck(at(10_000)), Duration::ZERO);
        assert_eq!(c.stuck(at(30_000)), Duration::from_secs(20));
        // More bytes of the same frame change nothing.
        c.heard(at(31_000));
        assert_eq!(c.stuck(at(40_000)), Duration::from_secs(30));
        c.clear_stuck();
        assert_eq!(c.stuck(at(50_000)), Duration::ZERO);
    }

    #[test]
    fn output_that_is_taken_is_a_sign_of_life() {
        let heartbeat = seconds(40, 0);
        let mut c = idle(at(0));
        c.check_output(5000, at(10_000));
        c.check_output(5002, at(20_000));
        assert_eq!(heartbeat.action(&mut c, at(20_000)), (DeadlineAction::Wait, Some(at(40_000))));
        c.check_output(4999, at(30_000));
        assert_eq!(heartbeat.action(&mut c, at(40_000)), (DeadlineAction::Wait, Some(at(70_000))));
    }

    #[test]
    fn a_peer_keeps_its_zone() {
        for peer in ["[fe80::1%7]:5", "[::1]:5", "127.0.0.1:5"] {
            let peer = Some(peer.parse().expect("an address"));
            let stage = Stage::Handshake { head: None, listener: 0 };
            assert_eq!(Connection::new(stage, peer, at(0)).peer(), peer);
        }
    }

    #[test]
    fn ticks_come_around_without_harm() {
        let turn = Nanos((1 << 32) * Tick::NANOS);
        let mut c = idle(Nanos(turn.0 - 1));
        let (action, next) = seconds(10, 0).action(&mut c, turn + Duration::from_secs(9));
        assert_eq!(action, DeadlineAction::Wait);
        assert!(next.is_some_and(|at| at > turn + Duration::from_secs(9)));
    }
}
