//! Connection limits of the process and of each client address.
//!
//! State that workers share is used when a connection opens and when it closes, never in between.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use engine::{ConnId, Nanos};
use protocol::handshake::server::Refusal;

use crate::admission::Rejection;
use crate::counted::counted;
use crate::rate::{Bucket, Rate};

/// Limits of one client address. The default has none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressLimits {
    /// Most open connections. 0: without a limit.
    pub connections: u32,
    /// Rate limit of new connections.
    pub connect_rate: Option<Rate>,
}

impl AddressLimits {
    /// Returns whether a limit needs the addresses of clients.
    #[must_use]
    pub fn are_on(&self) -> bool {
        self.connections > 0 || self.connect_rate.is_some()
    }
}

/// Limit that refuses a connection. All are answered with 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitReached {
    GoingDown,
    /// `--max-connections`, or the limit on open files.
    OfServer(usize),
    /// `--max-connections-per-ip`.
    OfAddress(u32),
    /// `--connect-rate-per-ip`.
    ConnectRate(Rate),
}

impl From<LimitReached> for Rejection {
    fn from(limit: LimitReached) -> Self {
        match limit {
            LimitReached::GoingDown => Refusal::going_down().into(),
            LimitReached::OfServer(max) => {
                let most = counted(max as u64, "open connection");
                let detail = format!(
                    "this server allows {most} in all, and there are as many: close some, or raise \
                     --max-connections (by default it is what the limit on open files allows)"
                );
                Self::with_detail(Refusal::too_many_connections(), detail)
            }
            LimitReached::OfAddress(max) => {
                let most = counted(u64::from(max), "open connection");
                let detail = format!(
                    "this server allows {most} from one address (--max-connections-per-ip {max}), and there \
                     are as many: close some, or raise that limit"
                );
                Self::with_detail(Refusal::too_many_from_address(), detail)
            }
            LimitReached::ConnectRate(rate) => {
                let rate = rate.count();
                let most = counted(rate, "new connection");
                let detail = format!(
                    "this server allows {most} a second from one address (--connect-rate-per-ip {rate}): \
                     connect more slowly, or raise that limit"
                );
                Self::with_detail(Refusal::connecting_too_fast(), detail)
            }
        }
    }
}

/// Client for which limits apply: an IPv4 address, or an IPv6 /64, which belongs to one site (RFC
/// 6177). All hosts of a link share the /64 of link-local addresses, so these count each for
/// themselves, with their interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ClientKey {
    V4([u8; 4]),
    V6([u8; 8]),
    LinkLocal { address: [u8; 16], zone: u32 },
}

impl ClientKey {
    pub(crate) fn of(peer: SocketAddr) -> Self {
        let zone = if let SocketAddr::V6(peer) = peer { peer.scope_id() } else { 0 };
        match peer.ip().to_canonical() {
            IpAddr::V4(address) => Self::V4(address.octets()),
            IpAddr::V6(address) if address.is_unicast_link_local() => {
                Self::LinkLocal { address: address.octets(), zone }
            }
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Self::V6([a, b, c, d, e, f, g, h])
            }
        }
    }
}

#[derive(Debug, Default)]
struct ClientRecord {
    open: u32,
    begun: Bucket,
}

/// Clients with open connections, and clients whose token bucket is not full.
#[derive(Debug)]
struct ClientTable {
    limits: AddressLimits,
    records: BTreeMap<ClientKey, ClientRecord>,
    /// Most records. There are more than connections, so that a record without connections can
    /// always be removed.
    capacity: usize,
}

impl ClientTable {
    fn enter(&mut self, client: ClientKey, now: Nanos) -> Result<(), LimitReached> {
        if self.records.len() >= self.capacity && !self.records.contains_key(&client) {
            self.make_room(now);
        }
        let record = self.records.entry(client).or_default();
        if self.limits.connections > 0 && record.open >= self.limits.connections {
            return Err(LimitReached::OfAddress(self.limits.connections));
        }
        if let Some(rate) = self.limits.connect_rate
            && !record.begun.take(rate, now)
        {
            return Err(LimitReached::ConnectRate(rate));
        }
        record.open += 1;
        Ok(())
    }

    fn leave(&mut self, client: ClientKey) {
        if let Some(record) = self.records.get_mut(&client) {
            record.open = record.open.saturating_sub(1);
            if record.open == 0 && self.limits.connect_rate.is_none() {
                self.records.remove(&client);
            }
        }
    }

    /// Removes the records of clients without connections and with a full bucket. If that is not
    /// enough, it removes all records without connections. Then an attacker with very many
    /// addresses gets a full bucket for each, but memory stays bounded.
    fn make_room(&mut self, now: Nanos) {
        self.records.retain(|_, record| record.open > 0 || !record.begun.is_full(now));
        if self.records.len() >= self.capacity {
            self.records.retain(|_, record| record.open > 0);
        }
    }
}

/// Count of the process's connections, shared by all workers.
#[derive(Debug)]
pub(crate) struct ConnectionCount {
    /// True if new connections are refused because the server is going down.
    closed: AtomicBool,
    open: AtomicUsize,
    max: usize,
    clients: Option<Mutex<ClientTable>>,
}

impl ConnectionCount {
    /// Least capacity of the client table.
    const MIN_CAPACITY: usize = 65_536;

    /// Admits at most `max` connections, and each client within its limits.
    pub(crate) fn new(max: usize, limits: AddressLimits) -> Self {
        let capacity = max.saturating_mul(2).max(Self::MIN_CAPACITY);
        let clients = ClientTable { limits, records: BTreeMap::new(), capacity };
        let clients = limits.are_on().then(|| Mutex::new(clients));
        Self { closed: AtomicBool::new(false), open: AtomicUsize::new(0), max, clients }
    }

    /// Refuses all new connections from now on, on every worker.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Returns whether the server is going down.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    fn enter(&self, peer: Option<SocketAddr>, now: Nanos) -> Result<(), LimitReached> {
        if self.is_closed() {
            return Err(LimitReached::GoingDown);
        }
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.max {
            self.open.fetch_sub(1, Ordering::Relaxed);
            return Err(LimitReached::OfServer(self.max));
        }
        self.enter_client(peer, now).inspect_err(|_| {
            self.open.fetch_sub(1, Ordering::Relaxed);
        })
    }

    /// Counts an admitted connection for its client.
    fn enter_client(&self, peer: Option<SocketAddr>, now: Nanos) -> Result<(), LimitReached> {
        let refused = self.with_client(peer, |clients, client| clients.enter(client, now).err());
        refused.map_or(Ok(()), Err)
    }

    fn leave(&self, peer: Option<SocketAddr>) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.with_client(peer, |clients, client| {
            clients.leave(client);
            None::<()>
        });
    }

    fn with_client<T>(
        &self,
        peer: Option<SocketAddr>,
        f: impl FnOnce(&mut ClientTable, ClientKey) -> Option<T>,
    ) -> Option<T> {
        let (clients, peer) = (self.clients.as_ref()?, peer?);
        // No change is left half done, so the table is valid after a panic elsewhere.
        let mut clients = clients.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut clients, ClientKey::of(peer))
    }
}

impl Default for ConnectionCount {
    /// Admits every connection.
    fn default() -> Self {
        Self::new(usize::MAX, AddressLimits::default())
    }
}

/// Connection limiter of a worker. It counts the worker's connections beside those of the process.
#[derive(Debug, Default)]
pub(crate) struct ConnectionLimiter {
    connection_count: Arc<ConnectionCount>,
    open_here: usize,
}

impl ConnectionLimiter {
    pub(crate) fn new(connection_count: Arc<ConnectionCount>) -> Self {
        Self { connection_count, open_here: 0 }
    }

    /// Admits a connection. Its end must be reported with [`leave`](ConnectionLimiter::leave).
    pub(crate) fn enter(
        &mut self,
        peer: Option<SocketAddr>,
        now: Nanos,
    ) -> Result<(), LimitReached> {
        self.connection_count.enter(peer, now)?;
        self.open_here += 1;
        Ok(())
    }

    /// Counts a connection for its client, which [`enter`](ConnectionLimiter::enter) was not told.
    pub(crate) fn enter_client(&self, client: SocketAddr, now: Nanos) -> Result<(), LimitReached> {
        self.connection_count.enter_client(Some(client), now)
    }

    /// Reports the end of an admitted connection, with the `peer` of
    /// [`enter`](ConnectionLimiter::enter).
    pub(crate) fn leave(&mut self, peer: Option<SocketAddr>) {
        self.connection_count.leave(peer);
        self.open_here -= 1;
    }

    /// Number of this worker's admitted connections.
    pub(crate) fn open_here(&self) -> usize {
        self.open_here
    }

    /// Returns whether connections have to keep their peer address.
    pub(crate) fn wants_peers(&self) -> bool {
        self.connection_count.clients.is_some()
    }
}

/// Refused connections that have not closed yet, the oldest first.
///
/// They wait until their answer has been read, or for a TLS handshake to carry it. A new connection
/// never waits for them: when too many are left, the oldest ones are aborted.
#[derive(Debug)]
pub(crate) struct RefusedConnections {
    waiting: VecDeque<ConnId>,
    capacity: usize,
    /// Connections at the front whose answer has been offered to the kernel, because they are not
    /// of this turn.
    answered: usize,
}

impl RefusedConnections {
    /// Returns a list of which at most `capacity` wait at the end of a turn, besides the refused
    /// connections of the turn itself.
    pub(crate) fn new(capacity: usize) -> Self {
        Self { waiting: VecDeque::new(), capacity, answered: 0 }
    }

    pub(crate) fn add(&mut self, id: ConnId) {
        self.waiting.push_back(id);
    }

    /// Removes a connection that has closed.
    pub(crate) fn remove(&mut self, id: ConnId) {
        if let Some(index) = self.waiting.iter().position(|&waiting| waiting == id) {
            self.waiting.remove(index);
            self.answered -= usize::from(index < self.answered);
        }
    }

    /// Removes and returns the oldest connections beyond the capacity, at the end of a turn.
    pub(crate) fn take_excess(&mut self) -> impl Iterator<Item = ConnId> + '_ {
        let excess = self.waiting.len().saturating_sub(self.capacity).min(self.answered);
        self.answered = self.waiting.len() - excess;
        self.waiting.drain(..excess)
    }
}

impl Default for RefusedConnections {
    /// Returns a list without a limit, so that no connection is aborted.
    fn default() -> Self {
        Self::new(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Nanos = Nanos(1 << 40);

    fn peer(text: &str) -> Option<SocketAddr> {
        Some(SocketAddr::new(text.parse().expect("an address"), 1))
    }

    fn limits(connections: u32, connect_rate: u64) -> AddressLimits {
        AddressLimits { connections, connect_rate: Rate::per_second(connect_rate) }
    }

    #[test]
    fn the_limit_is_that_of_all_workers() {
        let connection_count = Arc::new(ConnectionCount::new(2, AddressLimits::default()));
        let mut workers = [
            ConnectionLimiter::new(Arc::clone(&connection_count)),
            ConnectionLimiter::new(connection_count),
        ];
        assert_eq!((workers[0].enter(None, NOW), workers[1].enter(None, NOW)), (Ok(()), Ok(())));
        assert_eq!(workers[0].enter(None, NOW), Err(LimitReached::OfServer(2)));
        workers[1].leave(None);
        assert_eq!(workers[0].enter(None, NOW), Ok(()));
        assert_eq!((workers[0].open_here(), workers[1].open_here()), (2, 0));
    }

    #[test]
    fn one_address_does_not_take_the_place_of_another() {
        let mut limiter = ConnectionLimiter::new(Arc::new(ConnectionCount::new(3, limits(2, 0))));
        let (a, b) = (peer("192.0.2.1"), peer("192.0.2.2"));
        assert_eq!((limiter.enter(a, NOW), limiter.enter(a, NOW)), (Ok(()), Ok(())));
        // What is refused holds no place.
        for _ in 0..10 {
            assert_eq!(limiter.enter(a, NOW), Err(LimitReached::OfAddress(2)));
        }
        assert_eq!(limiter.enter(b, NOW), Ok(()));
        limiter.leave(a);
        assert_eq!(limiter.enter(a, NOW), Ok(()));
    }

    #[test]
    fn a_64_is_one_customer_and_a_mapped_address_its_ipv4_one() {
        let same = |a: &str, b: &str| {
            ClientKey::of(a.parse().expect("address")) == ClientKey::of(b.parse().expect("address"))
        };
        assert!(same("[2001:db8:1:2::1]:1", "[2001:db8:1:2:ffff::9]:2"));
        assert!(!same("[2001:db8:1:2::1]:1", "[2001:db8:1:3::1]:1"));
        assert!(same("[::ffff:192.0.2.1]:1", "192.0.2.1:1"));
        assert!(!same("192.0.2.1:1", "192.0.2.2:1"));
        // Link-local addresses: another host, the same on another link, the same again.
        assert!(!same("[fe80::1%2]:1", "[fe80::2%2]:1"));
        assert!(!same("[fe80::1%2]:1", "[fe80::1%3]:1"));
        assert!(same("[fe80::1%2]:1", "[fe80::1%2]:2"));
    }

    #[test]
    fn connections_that_come_too_fast_are_refused() {
        let mut limiter = ConnectionLimiter::new(Arc::new(ConnectionCount::new(100, limits(0, 2))));
        let a = peer("2001:db8::1");
        for _ in 0..2 {
            assert_eq!(limiter.enter(a, NOW), Ok(()));
            limiter.leave(a);
        }
        assert!(matches!(limiter.enter(a, NOW), Err(LimitReached::ConnectRate(_))));
        assert_eq!(limiter.enter(a, NOW + std::time::Duration::from_millis(500)), Ok(()));
    }

    #[test]
    fn very_many_addresses_cost_bounded_memory() {
        let mut clients =
            ClientTable { limits: limits(0, 1), records: BTreeMap::new(), capacity: 100 };
        for n in 0..10_000u32 {
            let client = ClientKey::V4(n.to_be_bytes());
            assert_eq!(clients.enter(client, NOW), Ok(()));
            // Of the first fifty a connection stays open: they are not forgotten.
            if n >= 50 {
                clients.leave(client);
            }
            assert!(clients.records.len() <= 100);
        }
        let first = ClientKey::V4(0u32.to_be_bytes());
        assert!(matches!(clients.enter(first, NOW), Err(LimitReached::ConnectRate(_))));
    }

    #[test]
    fn cuts_off_the_oldest_refused_after_their_answer() {
        let id = |slot| ConnId { slot, generation: 0 };
        let mut refused = RefusedConnections::new(2);
        let end_turn_with = |refused: &mut RefusedConnections, added: std::ops::Range<u32>| {
            added.for_each(|slot| refused.add(id(slot)));
            refused.take_excess().map(|id| id.slot).collect::<Vec<_>>()
        };
        // The connections of this turn have not been answered yet.
        assert_eq!(end_turn_with(&mut refused, 0..5), [0; 0]);
        assert_eq!(end_turn_with(&mut refused, 5..6), [0, 1, 2, 3]);
        refused.remove(id(4));
        refused.remove(id(99));
        assert_eq!(end_turn_with(&mut refused, 6..9), [5]);
        assert_eq!(end_turn_with(&mut refused, 0..0), [6]);
        assert_eq!(end_turn_with(&mut refused, 0..0), [0; 0]);
    }
}
