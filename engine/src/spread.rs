//! Even spread of a server's connections over its workers.
//!
//! The kernel chooses a listener of a `SO_REUSEPORT` group by hash, so that of few connections one
//! worker may get several times its share. Here the workers count their connections together. A
//! worker that has accepted a connection gives it to the worker with the fewest, which is mostly
//! itself. Choosing and counting are one step under a lock, so the counts are exact. The lock is
//! taken when a connection comes and when it ends, never for a message.
//!
//! While connections only come, the counts differ by at most one. A connection that replaces one
//! which has ended stays where it is if that unbalances the workers little, because handing over
//! wakes another worker.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::remote::Remote;

/// A worker's end of a spread, for [`Config::spread`](crate::Config::spread).
#[derive(Debug)]
pub struct SpreadMember {
    counts: Arc<Mutex<Counts>>,
    index: usize,
}

/// Creates a spread over this number of workers; returns the end of each.
#[must_use]
pub fn spread(workers: usize) -> Vec<SpreadMember> {
    let all = (0..workers).map(|_| Worker::default()).collect();
    let counts = Arc::new(Mutex::new(Counts { workers: all, unreplaced: 0 }));
    (0..workers).map(|index| SpreadMember { counts: Arc::clone(&counts), index }).collect()
}

impl SpreadMember {
    /// Returns the number of accepted connections of each worker at one moment. Those on their way
    /// to a worker are included. A worker that does not run has none.
    #[must_use]
    pub fn connections(&self) -> Vec<usize> {
        lock(&self.counts).workers.iter().map(|worker| worker.connections).collect()
    }

    /// Returns whether this is the first worker's end.
    pub(crate) fn is_first(&self) -> bool {
        self.index == 0
    }

    /// Lets the other workers hand connections over, as long as this worker has fewer than
    /// `capacity`.
    pub(crate) fn join(&self, capacity: usize, inlet: Inlet) -> Membership {
        lock(&self.counts).workers[self.index] =
            Worker { connections: 0, capacity, not_accepting: Vec::new(), inlet: Some(inlet) };
        Membership(Self { counts: Arc::clone(&self.counts), index: self.index })
    }
}

/// A connection on its way from the worker that has accepted it.
#[derive(Debug)]
pub(crate) struct HandedOver {
    pub(crate) socket: OwnedFd,
    pub(crate) listener: u16,
    pub(crate) peer: Option<SocketAddr>,
}

/// Way in which a worker takes connections that others have accepted.
#[derive(Debug)]
pub(crate) enum Inlet {
    /// The kernel puts them into the table of the worker's ring.
    Ring(Arc<OwnedFd>),
    /// They wait in a queue, and the worker is woken.
    Queue(VecDeque<HandedOver>, Remote),
}

/// Counts of all workers.
#[derive(Debug)]
struct Counts {
    workers: Vec<Worker>,
    /// Ends of connections that no later connection has replaced; at most as many as are open.
    unreplaced: usize,
}

/// A worker, as far as the others know it.
#[derive(Debug, Default)]
struct Worker {
    connections: usize,
    /// Number of connections from which on nothing is handed over.
    capacity: usize,
    /// Listeners at which the worker does not accept.
    not_accepting: Vec<u16>,
    /// `None` while the worker does not run.
    inlet: Option<Inlet>,
}

/// A running worker's place in a spread. Its drop takes the worker out, and closes connections that
/// have not been taken.
#[derive(Debug)]
pub(crate) struct Membership(SpreadMember);

impl Membership {
    fn lock(&self) -> MutexGuard<'_, Counts> {
        lock(&self.0.counts)
    }

    /// Chooses the worker of a connection that was accepted at a listener, and counts it there.
    /// Returns the connection if it stays; otherwise it is in the queue of the other worker.
    pub(crate) fn place(&self, connection: HandedOver) -> Option<HandedOver> {
        let mut counts = self.lock();
        let chosen = counts.choose(self.0.index, connection.listener);
        let inlet = chosen.and_then(|n| counts.workers[n].inlet.as_mut());
        let Some(Inlet::Queue(queue, remote)) = inlet else {
            return Some(connection);
        };
        queue.push_back(connection);
        let remote = (queue.len() == 1).then(|| remote.clone());
        drop(counts);
        // Later ones join the first, for which the worker is awake.
        if let Some(remote) = remote {
            remote.wake(0);
        }
        None
    }

    /// Chooses the worker of a connection that was accepted at a listener, and counts it there.
    /// Returns the other worker's index and ring; `None` if the connection stays.
    pub(crate) fn place_in_ring(&self, listener: u16) -> Option<(usize, Arc<OwnedFd>)> {
        let mut counts = self.lock();
        let chosen = counts.choose(self.0.index, listener)?;
        match &counts.workers[chosen].inlet {
            Some(Inlet::Ring(ring)) => Some((chosen, Arc::clone(ring))),
            _ => None,
        }
    }

    /// Counts a connection here that could not be handed to the worker `other`.
    pub(crate) fn keep(&self, other: usize) {
        let workers = &mut self.lock().workers;
        workers[other].count_down();
        let own = &mut workers[self.0.index];
        own.connections += usize::from(own.inlet.is_some());
    }

    /// Takes the next connection that another worker has handed over.
    pub(crate) fn take(&self) -> Option<HandedOver> {
        match &mut self.lock().workers[self.0.index].inlet {
            Some(Inlet::Queue(queue, _)) => queue.pop_front(),
            _ => None,
        }
    }

    /// Counts the end of a connection.
    pub(crate) fn count_end(&self) {
        let mut counts = self.lock();
        counts.workers[self.0.index].count_down();
        counts.unreplaced = (counts.unreplaced + 1).min(counts.total());
    }

    /// Takes the worker out: it ends.
    pub(crate) fn leave(&self) {
        let gone = std::mem::take(&mut self.lock().workers[self.0.index]);
        // The sockets in its queue are closed without the lock.
        drop(gone);
    }

    /// Notes whether the worker accepts at a listener.
    pub(crate) fn set_accepting(&self, listener: u16, is_on: bool) {
        let off = &mut self.lock().workers[self.0.index].not_accepting;
        off.retain(|&other| other != listener);
        if !is_on {
            off.push(listener);
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Worker {
    fn count_down(&mut self) {
        // The counts of a worker that has ended were cleared.
        self.connections = self.connections.saturating_sub(1);
    }

    fn takes(&self, listener: u16) -> bool {
        self.inlet.is_some()
            && self.connections < self.capacity
            && !self.not_accepting.contains(&listener)
    }
}

impl Counts {
    /// Counts a connection for the worker with the fewest, `own` before others. Returns the index
    /// of the other worker; `None` if it is `own`.
    fn choose(&mut self, own: usize, listener: u16) -> Option<usize> {
        let most = self.workers[own].connections.checked_sub(1 + self.slack());
        self.unreplaced = self.unreplaced.saturating_sub(1);
        let others = self.workers.iter().enumerate();
        let others = others.filter(|(n, w)| *n != own && w.takes(listener));
        let idlest = others.min_by_key(|(_, w)| w.connections);
        let other = idlest.filter(|(_, w)| most.is_some_and(|most| w.connections <= most));
        let other = other.map(|(n, _)| n);
        self.workers[other.unwrap_or(own)].connections += 1;
        other
    }

    /// Returns by how much a worker may exceed the idlest one and still keep the next connection.
    fn slack(&self) -> usize {
        if self.unreplaced == 0 { 0 } else { 1 + self.total() / (20 * self.workers.len()) }
    }

    fn total(&self) -> usize {
        self.workers.iter().map(|worker| worker.connections).sum()
    }
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    // Every step leaves the counts whole, also one that panics.
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::os::fd::OwnedFd;

    use super::*;
    use crate::remote::{Inbox, remote};

    fn joined(capacities: &[usize]) -> (Vec<SpreadMember>, Vec<Membership>, Vec<Inbox>) {
        let ends = spread(capacities.len());
        let (mut members, mut inboxes) = (Vec::new(), Vec::new());
        for (end, &capacity) in ends.iter().zip(capacities) {
            let (remote, inbox) = remote().expect("eventfd");
            members.push(end.join(capacity, Inlet::Queue(VecDeque::new(), remote)));
            inboxes.push(inbox);
        }
        (ends, members, inboxes)
    }

    fn connection(listener: u16) -> HandedOver {
        let socket: OwnedFd = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").into();
        HandedOver { socket, listener, peer: None }
    }

    #[test]
    fn a_connection_goes_to_the_idlest_worker() {
        let (ends, members, _inboxes) = joined(&[9, 9, 9]);
        assert!(members[0].place(connection(0)).is_some(), "all are equal");
        assert!(members[0].place(connection(0)).is_none());
        assert!(members[0].place(connection(0)).is_none());
        assert_eq!(ends[2].connections(), [1, 1, 1]);
        assert!(members[1].take().is_some() && members[2].take().is_some());
        assert!(members[1].take().is_none() && members[0].take().is_none());
    }

    #[test]
    fn a_connection_that_replaces_one_stays_if_it_may() {
        let (ends, members, _inboxes) = joined(&[99, 99]);
        for _ in 0..20 {
            members[0].place(connection(0));
        }
        members[1].count_end();
        members[1].count_end();
        assert_eq!(ends[0].connections(), [10, 8]);
        // One and a twentieth of the mean may be between them.
        assert!(members[0].place(connection(0)).is_none());
        assert!(members[0].place(connection(0)).is_some());
        assert_eq!(ends[0].connections(), [11, 9]);
        // All that had ended are replaced, so there is no slack any more.
        assert!(members[0].place(connection(0)).is_none());
        assert!(members[0].place(connection(0)).is_none());
        assert!(members[0].place(connection(0)).is_some());
        assert_eq!(ends[0].connections(), [12, 11]);
    }

    #[test]
    fn full_deaf_and_ended_workers_get_nothing() {
        let (ends, mut members, _inboxes) = joined(&[9, 1, 9, 9]);
        members[2].set_accepting(7, false);
        drop(members.remove(3));
        for _ in 0..4 {
            members[0].place(connection(7));
        }
        assert_eq!(ends[0].connections(), [3, 1, 0, 0]);
        members[2].set_accepting(7, true);
        members[0].place(connection(7));
        assert_eq!(ends[0].connections(), [3, 1, 1, 0]);
        drop(members.remove(2));
        assert_eq!(ends[0].connections(), [3, 1, 0, 0]);
    }

    #[test]
    fn a_connection_that_is_kept_counts_here() {
        let (ends, members, _inboxes) = joined(&[9, 9]);
        members[0].place(connection(0));
        members[0].place(connection(0));
        members[0].keep(1);
        assert_eq!(ends[0].connections(), [2, 0]);
    }
}
