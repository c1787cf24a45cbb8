//! [`Ring`] and [`BufferRing`] over the simulated kernel.

use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::NonNull;
use std::rc::Rc;

use crate::config::UringConfig;
use crate::sim::buffers::Buffers;
use crate::sim::kernel_state::Kernel;
use crate::sim::world::World;
use crate::time::Nanos;
use crate::token::Token;
use crate::uring::ring::{BufferRing, Completion, Full, Op, Ring, Wait};

/// A worker's ring in a simulated world.
pub(crate) struct SimulatedRing {
    world: Rc<RefCell<World>>,
    index: usize,
}

/// Receive buffers of a simulated ring, whose memory the world owns.
pub(crate) struct SimulatedBuffers {
    world: Rc<RefCell<World>>,
    index: usize,
    memory: NonNull<u8>,
    /// Bytes of a buffer.
    size: usize,
    count: usize,
}

impl SimulatedRing {
    /// A ring of exactly the configured sizes, however small, and its buffers. `accepted` direct
    /// descriptors are chosen on accept.
    pub(super) fn new(
        world: &Rc<RefCell<World>>,
        config: &UringConfig,
        accepted: usize,
    ) -> (Self, SimulatedBuffers) {
        let buffers = Buffers::new(usize::from(config.buffers), config.buffer_size as usize);
        let (memory, size, count) = (buffers.memory(), buffers.size(), buffers.count());
        let kernel =
            Kernel::new(config.sq_entries as usize, config.cq_entries as usize, buffers, accepted);
        let rings = &mut world.borrow_mut().rings;
        rings.push(kernel);
        let index = rings.len() - 1;
        let buffers = SimulatedBuffers { world: world.clone(), index, memory, size, count };
        (Self { world: world.clone(), index }, buffers)
    }

    pub(super) fn index(&self) -> usize {
        self.index
    }
}

impl Drop for SimulatedRing {
    fn drop(&mut self) {
        let mut world = self.world.borrow_mut();
        let kernel = &mut world.rings[self.index];
        // The memory that entries and operations point at is freed with the worker.
        kernel.queue.clear();
        let left = kernel.pending.len();
        kernel.pending.clear();
        let finishing = kernel.finishing;
        kernel.gone = true;
        let table = std::mem::take(&mut kernel.table);
        table.into_iter().flatten().for_each(|socket| world.release(socket));
        if left > 0 && finishing {
            world.violate(format!("{left} operations outlived their worker"));
        }
    }
}

impl Ring for SimulatedRing {
    /// Reading the clock takes time, so that spinning comes to an end.
    fn clock(&self) -> Nanos {
        let mut world = self.world.borrow_mut();
        world.clock.0 += 500;
        world.clock
    }

    unsafe fn push(&mut self, token: Token, op: Op) -> Result<(), Full> {
        // SAFETY: the caller promises the same.
        let room = unsafe { self.world.borrow_mut().push(self.index, token, op) };
        room.then_some(()).ok_or(Full)
    }

    fn unsubmitted(&mut self) -> usize {
        self.world.borrow().rings[self.index].queue.len()
    }

    fn enter(&mut self, wait: Wait) -> io::Result<()> {
        self.world.borrow_mut().enter(self.index, wait)
    }

    fn completion(&mut self) -> Option<Completion> {
        self.world.borrow_mut().completion(self.index)
    }

    fn overflowed(&mut self) -> bool {
        !self.world.borrow().rings[self.index].overflow.is_empty()
    }

    fn ready(&mut self) -> bool {
        !self.world.borrow().rings[self.index].completed.is_empty()
    }

    fn socket(&mut self, slot: u32, to: SocketAddr, from: Option<SocketAddr>) -> io::Result<()> {
        let mut world = self.world.borrow_mut();
        let errors = world.faults.socket_errors;
        if world.random.chance(errors) {
            world.happened.socket_errors += 1;
            let errno = world.random.pick(&[libc::EMFILE, libc::EADDRNOTAVAIL]);
            return Err(io::Error::from_raw_os_error(errno));
        }
        let socket = world.new_socket(from, Some(to));
        world.make_socket(self.index, slot, socket);
        Ok(())
    }

    fn tells_peer_addresses(&mut self) -> io::Result<bool> {
        Ok(!self.world.borrow().faults.untold_peers)
    }

    /// The descriptor of an eventfd, which stands for the ring.
    fn descriptor(&self) -> io::Result<OwnedFd> {
        let stand_in = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        self.world.borrow_mut().rings[self.index].descriptor = Some(stand_in.as_raw_fd());
        Ok(stand_in)
    }

    fn hands_over(&mut self) -> io::Result<bool> {
        Ok(true)
    }

    fn sends_finish_inside_enter(&mut self) -> io::Result<bool> {
        Ok(!self.world.borrow().faults.late_sends)
    }
}

impl BufferRing for SimulatedBuffers {
    fn count(&self) -> usize {
        self.count
    }

    /// The world has recorded it with the completion.
    fn taken(&mut self, _: u16) {}

    fn bytes(&mut self, id: u16, len: usize) -> &mut [u8] {
        let mut world = self.world.borrow_mut();
        assert!(usize::from(id) < self.count && len <= self.size);
        if !world.rings[self.index].buffers.is_engines(id) {
            world.violate(format!("buffer {id} was used after it was given back"));
        }
        // SAFETY: inside the buffers, as asserted, which live as long as the world that self keeps
        // alive. The world writes to a buffer that is the engine's only in `give_back`, which the
        // reference to self that this one borrows from excludes.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.memory.add(usize::from(id) * self.size).as_ptr(),
                len,
            )
        }
    }

    fn give_back(&mut self, id: u16) {
        self.world.borrow_mut().give_back(self.index, id);
    }

    fn offer(&mut self, id: u16) {
        self.world.borrow_mut().offer(self.index, id);
    }

    fn publish(&mut self) {
        self.world.borrow_mut().rings[self.index].buffers.publish();
    }
}
