//! The world outside the workers: the clock, the network, and the kernel's side of each ring.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use crate::sim::faults::{Faults, Happened};
use crate::sim::kernel_state::Kernel;
use crate::sim::random::Random;
use crate::sim::socket::{Listening, Socket, SocketId};
use crate::time::Nanos;

pub(super) struct World {
    pub(super) clock: Nanos,
    pub(super) random: Random,
    pub(super) faults: Faults,
    pub(super) happened: Happened,
    pub(super) sockets: Vec<Socket>,
    /// Sockets to which something can still happen.
    pub(super) moving: Vec<SocketId>,
    pub(super) listeners: Vec<Listening>,
    pub(super) rings: Vec<Kernel>,
    /// Source addresses of connections that were reset.
    pub(super) broken: BTreeSet<SocketAddr>,
    /// First violation.
    pub(super) violation: Option<String>,
}

impl World {
    pub(super) fn new(random: Random, faults: Faults) -> Self {
        Self {
            clock: Nanos(0),
            random,
            faults,
            happened: Happened::default(),
            sockets: Vec::new(),
            moving: Vec::new(),
            listeners: Vec::new(),
            rings: Vec::new(),
            broken: BTreeSet::new(),
            violation: None,
        }
    }

    /// Records a violation. Only the first is kept: later ones may be its consequence.
    pub(super) fn violate(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }
}
