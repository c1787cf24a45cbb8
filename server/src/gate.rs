//! Who is let in: connections of the whole process, and of each address.
//!
//! What is shared between workers is touched when a connection comes and when it goes, never in between.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use engine::{ConnId, Nanos};
use protocol::handshake::server::Refusal;

use crate::admission::Declined;
use crate::counted::counted;
use crate::rate::{Bucket, Rate};

/// What one address may have; by default anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressLimits {
    /// Connections open at once; 0: any number.
    pub connections: u32,
    /// Connections begun in a second.
    pub connect_rate: Option<Rate>,
}

impl AddressLimits {
    /// Whether addresses have to be known.
    #[must_use]
    pub fn are_on(&self) -> bool {
        self.connections > 0 || self.connect_rate.is_some()
    }
}

/// Reason why a connection is not let in. All are answered with 503.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LimitReached {
    GoingDown,
    /// `--max-connections`, or what the limit on open files allows.
    OfServer(usize),
    /// `--max-connections-per-ip`.
    OfAddress(u32),
    /// `--connect-rate-per-ip`.
    ConnectRate(Rate),
}

impl From<LimitReached> for Declined {
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
pub(crate) enum Customer {
    V4([u8; 4]),
    V6([u8; 8]),
    LinkLocal { address: [u8; 16], zone: u32 },
}

impl Customer {
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
struct Account {
    open: u32,
    begun: Bucket,
}

/// What is known of the customers: those with open connections, and those whose bucket is not full.
#[derive(Debug)]
struct Customers {
    limits: AddressLimits,
    accounts: BTreeMap<Customer, Account>,
    /// Accounts kept at most; more than connections there can be, so that there is always one to give up.
    capacity: usize,
}

impl Customers {
    fn enter(&mut self, customer: Customer, now: Nanos) -> Result<(), LimitReached> {
        if self.accounts.len() >= self.capacity && !self.accounts.contains_key(&customer) {
            self.make_room(now);
        }
        let account = self.accounts.entry(customer).or_default();
        if self.limits.connections > 0 && account.open >= self.limits.connections {
            return Err(LimitReached::OfAddress(self.limits.connections));
        }
        if let Some(rate) = self.limits.connect_rate
            && !account.begun.take(rate, now)
        {
            return Err(LimitReached::ConnectRate(rate));
        }
        account.open += 1;
        Ok(())
    }

    fn leave(&mut self, customer: Customer) {
        if let Some(account) = self.accounts.get_mut(&customer) {
            account.open = account.open.saturating_sub(1);
            if account.open == 0 && self.limits.connect_rate.is_none() {
                self.accounts.remove(&customer);
            }
        }
    }

    /// Forgets those of whom nothing is to be remembered; when that is nobody, the rates of all who have nothing open: an
    /// attacker with very many addresses gains a fresh bucket for each, and costs bounded memory.
    fn make_room(&mut self, now: Nanos) {
        self.accounts.retain(|_, account| account.open > 0 || !account.begun.is_full(now));
        if self.accounts.len() >= self.capacity {
            self.accounts.retain(|_, account| account.open > 0);
        }
    }
}

/// The connections of the process, counted by all workers.
#[derive(Debug)]
pub(crate) struct Census {
    /// Nobody is let in any more: the server is going down.
    closed: AtomicBool,
    open: AtomicUsize,
    max: usize,
    customers: Option<Mutex<Customers>>,
}

impl Census {
    /// Accounts of addresses kept, at least.
    const ACCOUNTS: usize = 65_536;

    /// At most `max` connections, each address within its limits.
    pub(crate) fn new(max: usize, limits: AddressLimits) -> Self {
        let capacity = max.saturating_mul(2).max(Self::ACCOUNTS);
        let customers = Customers { limits, accounts: BTreeMap::new(), capacity };
        let customers = limits.are_on().then(|| Mutex::new(customers));
        Self { closed: AtomicBool::new(false), open: AtomicUsize::new(0), max, customers }
    }

    /// Nobody is let in from now on, by whatever worker.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Whether the server is going down.
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
        let refused = self.with_customer(peer, |customers, customer| customers.enter(customer, now).err());
        match refused {
            Some(limit) => {
                self.open.fetch_sub(1, Ordering::Relaxed);
                Err(limit)
            }
            None => Ok(()),
        }
    }

    fn leave(&self, peer: Option<SocketAddr>) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.with_customer(peer, |customers, customer| {
            customers.leave(customer);
            None::<()>
        });
    }

    fn with_customer<T>(
        &self,
        peer: Option<SocketAddr>,
        f: impl FnOnce(&mut Customers, Customer) -> Option<T>,
    ) -> Option<T> {
        let (customers, peer) = (self.customers.as_ref()?, peer?);
        // Every change is made whole, so a panic elsewhere spoils nothing.
        let mut customers = customers.lock().unwrap_or_else(PoisonError::into_inner);
        f(&mut customers, Customer::of(peer))
    }
}

impl Default for Census {
    /// Everybody is let in.
    fn default() -> Self {
        Self::new(usize::MAX, AddressLimits::default())
    }
}

/// A worker's door: it counts its own connections besides those of the process.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    census: Arc<Census>,
    open_here: usize,
}

impl Gate {
    pub(crate) fn new(census: Arc<Census>) -> Self {
        Self { census, open_here: 0 }
    }

    /// Lets a connection in, which must [`leave`](Gate::leave) then.
    pub(crate) fn enter(&mut self, peer: Option<SocketAddr>, now: Nanos) -> Result<(), LimitReached> {
        self.census.enter(peer, now)?;
        self.open_here += 1;
        Ok(())
    }

    /// `peer` as at [`enter`](Gate::enter).
    pub(crate) fn leave(&mut self, peer: Option<SocketAddr>) {
        self.census.leave(peer);
        self.open_here -= 1;
    }

    /// Connections of this worker that were let in.
    pub(crate) fn open_here(&self) -> usize {
        self.open_here
    }

    /// Whether connections have to remember where they come from.
    pub(crate) fn wants_peers(&self) -> bool {
        self.census.customers.is_some()
    }
}

/// Refused connections that have not closed yet, the oldest first.
///
/// They wait until their answer has been read, or for a TLS handshake to carry it. A new connection never
/// waits for them: when too many are left, the oldest ones are aborted.
#[derive(Debug)]
pub(crate) struct RefusedConnections {
    waiting: VecDeque<ConnId>,
    capacity: usize,
    /// Connections at the front whose answer has been offered to the kernel, because they are not of this turn.
    answered: usize,
}

impl RefusedConnections {
    /// Returns a list of which at most `capacity` wait at the end of a turn, besides the refused connections
    /// of the turn itself.
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
        let census = Arc::new(Census::new(2, AddressLimits::default()));
        let mut workers = [Gate::new(Arc::clone(&census)), Gate::new(census)];
        assert_eq!((workers[0].enter(None, NOW), workers[1].enter(None, NOW)), (Ok(()), Ok(())));
        assert_eq!(workers[0].enter(None, NOW), Err(LimitReached::OfServer(2)));
        workers[1].leave(None);
        assert_eq!(workers[0].enter(None, NOW), Ok(()));
        assert_eq!((workers[0].open_here(), workers[1].open_here()), (2, 0));
    }

    #[test]
    fn one_address_does_not_take_the_place_of_another() {
        let mut gate = Gate::new(Arc::new(Census::new(3, limits(2, 0))));
        let (a, b) = (peer("192.0.2.1"), peer("192.0.2.2"));
        assert_eq!((gate.enter(a, NOW), gate.enter(a, NOW)), (Ok(()), Ok(())));
        // What is refused holds no place.
        for _ in 0..10 {
            assert_eq!(gate.enter(a, NOW), Err(LimitReached::OfAddress(2)));
        }
        assert_eq!(gate.enter(b, NOW), Ok(()));
        gate.leave(a);
        assert_eq!(gate.enter(a, NOW), Ok(()));
    }

    #[test]
    fn a_64_is_one_customer_and_a_mapped_address_its_ipv4_one() {
        let same = |a: &str, b: &str| {
            Customer::of(a.parse().expect("address")) == Customer::of(b.parse().expect("address"))
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
        let mut gate = Gate::new(Arc::new(Census::new(100, limits(0, 2))));
        let a = peer("2001:db8::1");
        for _ in 0..2 {
            assert_eq!(gate.enter(a, NOW), Ok(()));
            gate.leave(a);
        }
        assert!(matches!(gate.enter(a, NOW), Err(LimitReached::ConnectRate(_))));
        assert_eq!(gate.enter(a, NOW + std::time::Duration::from_millis(500)), Ok(()));
    }

    #[test]
    fn very_many_addresses_cost_bounded_memory() {
        let mut customers = Customers { limits: limits(0, 1), accounts: BTreeMap::new(), capacity: 100 };
        for n in 0..10_000u32 {
            let customer = Customer::V4(n.to_be_bytes());
            assert_eq!(customers.enter(customer, NOW), Ok(()));
            // Of the first fifty a connection stays open: they are not forgotten.
            if n >= 50 {
                customers.leave(customer);
            }
            assert!(customers.accounts.len() <= 100);
        }
        let first = Customer::V4(0u32.to_be_bytes());
        assert!(matches!(customers.enter(first, NOW), Err(LimitReached::ConnectRate(_))));
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
