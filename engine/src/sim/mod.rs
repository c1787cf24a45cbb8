//! Simulated kernel and network under the real uring engine. Only in builds with the feature `sim`,
//! for tests.
//!
//! A [`Simulation`] has a seed, a clock, and everything that the engine sees of the outside world:
//! rings, receive buffers, sockets, listeners. Workers ([`SimulatedWorker`]) are the engine's own
//! code with a handler. They run on one thread in an order that the seed decides, as it decides all
//! faults ([`Faults`]). Nothing blocks: a worker that waits is not run until something has happened
//! for it, and when nothing can happen the clock jumps. A seed always gives the same run.
//!
//! [`Simulation::run`] reports a [`Violation`]. The simulated kernel checks what a real one does
//! not: a buffer returned while a send out of it is in progress, or returned twice; two sends at a
//! time on a socket; a descriptor closed with operations in progress, or used afterwards. It also
//! checks a worker's memory against its [`Bounds`].

mod buffers;
mod faults;
mod kernel;
mod kernel_state;
mod network;
mod random;
mod ring;
mod socket;
mod worker;
mod world;

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt::Write;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::rc::Rc;

use rustix::net::{AddressFamily, SocketType};

pub use crate::mutation::{Guard, Mutation, switch_on};
pub use faults::{Faults, Happened};
pub use random::Random;
pub use worker::{Bounds, SimulatedWorker, Step};

use crate::config::{Config, Listener};
use crate::error::EngineError;
use crate::handler::Handler;
use crate::time::Nanos;
use socket::Listening;
use world::World;

/// Violated rule, and the state of the world at that time.
#[derive(Debug, thiserror::Error)]
#[error("{what}\n{state}")]
pub struct Violation {
    /// The violation.
    pub what: String,
    /// State of all workers and their rings.
    pub state: String,
}

/// A world with its workers.
pub struct Simulation {
    world: Rc<RefCell<World>>,
    random: Random,
    steps_left: u64,
}

impl Simulation {
    /// Creates a world in which `faults` happen as `seed` decides. After `steps` steps
    /// [`Simulation::run`] reports that it hangs.
    #[must_use]
    pub fn new(seed: u64, faults: Faults, steps: u64) -> Self {
        let mut random = Random::new(seed);
        let world = World::new(Random::new(random.word()), faults);
        Self { world: Rc::new(RefCell::new(world)), random, steps_left: steps }
    }

    /// Creates a listening socket of this world, for [`Config::listeners`]. Its descriptor is that
    /// of a socket which is never bound.
    ///
    /// # Errors
    ///
    /// Those of socket(2): descriptors are exhausted.
    pub fn listener(&mut self, addr: SocketAddr, peer_addresses: bool) -> io::Result<Listener> {
        let socket = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None)?;
        let socket = TcpListener::from(socket);
        let listening = Listening { fd: socket.as_raw_fd(), addr, queue: VecDeque::new() };
        self.world.borrow_mut().listeners.push(listening);
        Ok(Listener { socket, peer_addresses })
    }

    /// Creates a worker of this world.
    ///
    /// # Errors
    ///
    /// Those of [`remote`](crate::remote()).
    pub fn worker<'c, H: Handler>(
        &mut self,
        config: &'c Config,
        bounds: Bounds,
        handler: H,
    ) -> Result<SimulatedWorker<'c, H>, EngineError> {
        SimulatedWorker::new(&self.world, config, bounds, handler)
    }

    /// Returns the time of this world.
    #[must_use]
    pub fn clock(&self) -> Nanos {
        self.world.borrow().clock
    }

    /// Returns whether the connection with this source address was reset: by a fault, or by a close
    /// with unread input.
    #[must_use]
    pub fn was_reset(&self, from: SocketAddr) -> bool {
        self.world.borrow().broken.contains(&from)
    }

    /// Returns the counts of what has happened so far.
    #[must_use]
    pub fn happened(&self) -> Happened {
        self.world.borrow().happened
    }

    /// Runs workers and network, one step at a time, until `done` returns true.
    ///
    /// # Errors
    ///
    /// [`Violation`]: a rule was violated, nothing can happen although the run is not done, or it
    /// takes too many steps.
    pub fn run(
        &mut self,
        workers: &mut [&mut dyn Step],
        mut done: impl FnMut(&Self, &[&mut dyn Step]) -> bool,
    ) -> Result<(), Violation> {
        let mut movable = Vec::new();
        loop {
            let told = self.world.borrow_mut().violation.take();
            if let Some(what) = told {
                return Err(self.violation(&what, workers));
            }
            if done(self, workers) {
                return Ok(());
            }
            if self.steps_left == 0 {
                return Err(self.violation("it hangs: too many steps", workers));
            }
            self.steps_left -= 1;
            let awake: Vec<usize> =
                (0..workers.len()).filter(|&n| !workers[n].is_asleep()).collect();
            let mut world = self.world.borrow_mut();
            world.movable(&mut movable);
            if self.random.chance(world.faults.signals)
                && let Some(n) = (0..workers.len()).find(|&n| workers[n].is_waiting())
            {
                world.happened.signals += 1;
                drop(world);
                workers[n].step();
            } else if awake.is_empty() && movable.is_empty() {
                let jumped = world.jump();
                drop(world);
                if !jumped {
                    return Err(self.violation("it hangs: nothing can happen", workers));
                }
            } else {
                world.clock.0 += self.random.below(2_000) as u64;
                let choice = self.random.below(awake.len() + movable.len());
                match awake.get(choice) {
                    Some(&n) => {
                        drop(world);
                        workers[n].step();
                    }
                    None => world.carry(movable[choice - awake.len()]),
                }
            }
        }
    }

    /// Returns a violation that the caller has found, with the state of the world.
    #[must_use]
    pub fn violation(&self, what: &str, workers: &[&mut dyn Step]) -> Violation {
        let mut state = format!("at {:?}, {} steps left\n", self.clock(), self.steps_left);
        workers.iter().for_each(|w| w.dump(&mut state));
        self.world.borrow().dump_network(&mut state);
        Violation { what: what.to_owned(), state }
    }
}

impl World {
    /// Advances the clock to the next event. Returns whether there is one.
    fn jump(&mut self) -> bool {
        let of_rings = (0..self.rings.len())
            .filter(|&r| !self.rings[r].gone)
            .filter_map(|r| self.next_event(r));
        let Some(next) = of_rings.chain(self.next_move()).min() else { return false };
        self.clock = self.clock.max(next);
        true
    }

    fn dump_network(&self, text: &mut String) {
        for (id, s) in
            self.sockets.iter().enumerate().filter(|(_, s)| !(s.orphan && s.outgoing.is_empty()))
        {
            let _ = writeln!(
                text,
                "  socket {id} of {:?}: peer {:?}, outgoing {}, incoming {}, fin {}/{}, broken {}, orphan {}",
                s.from,
                s.peer,
                s.outgoing.len(),
                s.incoming.len(),
                s.fin_sent,
                s.fin_arrived,
                s.broken,
                s.orphan
            );
        }
    }
}
