//! Worker of the real engine in a simulated world.

use std::cell::RefCell;
use std::fmt::Write;
use std::rc::Rc;

use crate::accounting::Counters;
use crate::config::Config;
use crate::error::EngineError;
use crate::handler::Handler;
use crate::remote::{Remote, remote};
use crate::sim::ring::{SimulatedBuffers, SimulatedRing};
use crate::sim::world::World;
use crate::uring::core::Core;
use crate::uring::ring::Ring;

/// Worker that runs step by step, with any handler.
pub trait Step {
    /// Runs the worker until it waits, or to the end of the turn.
    fn step(&mut self);
    /// Returns whether the worker has ended, and its last connection with it.
    fn is_over(&self) -> bool;
    /// Returns whether the worker is over, or waits and no event would wake it now.
    fn is_asleep(&self) -> bool;
    /// Returns whether it waits inside an enter.
    fn is_waiting(&self) -> bool;
    /// Returns the number of connections and of connects in progress.
    fn connections(&self) -> usize;
    /// Returns the number of receive buffers that the engine has.
    fn buffers_out(&self) -> usize;
    /// Returns its index in the world.
    fn index(&self) -> usize;
    /// Writes its state as text.
    fn dump(&self, text: &mut String);
}

/// Most bytes that a connection may hold.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Output that the kernel has not accepted.
    pub unsent: usize,
    /// Input that arrived during a pause.
    pub stashed: usize,
}

/// The uring engine's core with a handler.
pub struct SimulatedWorker<'c, H: Handler> {
    world: Rc<RefCell<World>>,
    index: usize,
    core: Option<Core<'c, SimulatedRing, SimulatedBuffers, H>>,
    handler: H,
    remote: Remote,
    begun: bool,
    waiting: bool,
    bounds: Bounds,
    end: Option<Result<Counters, EngineError>>,
}

impl<'c, H: Handler> SimulatedWorker<'c, H> {
    pub(super) fn new(
        world: &Rc<RefCell<World>>,
        config: &'c Config,
        bounds: Bounds,
        handler: H,
    ) -> Result<Self, EngineError> {
        let (remote, inbox) = remote().map_err(EngineError::system("eventfd"))?;
        let accepted = if config.listeners.is_empty() { 0 } else { config.max_accepted };
        let (ring, buffers) = SimulatedRing::new(world, &config.uring, accepted);
        let index = ring.index();
        let core = Core::new((ring, buffers), config, inbox, accepted as u32)?;
        let world = world.clone();
        let core = Some(core);
        Ok(Self {
            world,
            index,
            core,
            handler,
            remote,
            begun: false,
            waiting: false,
            bounds,
            end: None,
        })
    }

    /// Wakes the worker as [`Remote::wake`] does.
    pub fn wake(&self, bits: u64) {
        self.remote.wake(bits);
        self.world.borrow_mut().rings[self.index].woken = true;
    }

    /// Returns the handler.
    pub fn handler(&mut self) -> &mut H {
        &mut self.handler
    }

    /// Returns the handler, after the run.
    pub fn into_handler(self) -> H {
        self.handler
    }

    /// Returns the result of the run, as [`run`](crate::run) would, once it is over.
    pub fn end(&self) -> Option<&Result<Counters, EngineError>> {
        self.end.as_ref()
    }

    fn violate(&self, what: String) {
        self.world.borrow_mut().violate(format!("worker {}: {what}", self.index));
    }

    /// Checks the engine's promises between turns.
    fn check(&mut self) {
        let Some(core) = &self.core else { return };
        let held = core.held_bytes();
        if held.unsent > self.bounds.unsent || held.stashed > self.bounds.stashed {
            self.violate(format!("a connection holds {held:?}, above {:?}", self.bounds));
        }
    }

    fn finish(&mut self) {
        let Some(core) = self.core.take() else { return };
        self.world.borrow_mut().rings[self.index].finishing = true;
        let end = core.finish(&mut self.handler);
        if !self.world.borrow().rings[self.index].gone {
            self.violate("the worker's operations did not end, so its ring was leaked".to_owned());
        }
        if let Err(error) = &end {
            self.violate(format!("the run failed: {error}"));
        }
        self.end = Some(end);
    }
}

impl<H: Handler> Step for SimulatedWorker<'_, H> {
    fn step(&mut self) {
        let Some(core) = &mut self.core else { return };
        if !self.begun {
            self.begun = true;
            core.begin(&mut self.handler);
        }
        if self.waiting {
            self.world.borrow_mut().leave_enter(self.index);
            self.waiting = false;
        } else {
            core.submit_and_wait();
            self.waiting = self.world.borrow().rings[self.index].waiting.is_some();
        }
        let unsubmitted = core.ring().unsubmitted();
        if unsubmitted > 0 && !core.is_over() {
            self.violate(format!("waits with {unsubmitted} entries unsubmitted"));
        }
        if self.waiting {
            return;
        }
        let Some(core) = &mut self.core else { return };
        core.finish_turn(&mut self.handler);
        self.world.borrow_mut().happened.turns += 1;
        let over = core.is_over();
        self.check();
        if over {
            self.finish();
        }
    }

    fn is_over(&self) -> bool {
        self.end.is_some()
    }

    fn is_asleep(&self) -> bool {
        self.is_over() || self.waiting && !self.world.borrow().wakes(self.index)
    }

    fn is_waiting(&self) -> bool {
        self.waiting
    }

    fn connections(&self) -> usize {
        self.core.as_ref().map_or(0, Core::used_slots)
    }

    fn buffers_out(&self) -> usize {
        self.world.borrow().rings[self.index].buffers.out()
    }

    fn index(&self) -> usize {
        self.index
    }

    fn dump(&self, text: &mut String) {
        let _ = writeln!(
            text,
            "worker {}: waiting {}, over {}",
            self.index,
            self.waiting,
            self.is_over()
        );
        if let Some(core) = &self.core {
            core.dump(text);
        }
        self.world.borrow().dump_ring(self.index, text);
    }
}
