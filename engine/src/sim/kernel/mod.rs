//! The simulated kernel's side of one ring: queued entries, operations in progress, completions.
//!
//! It keeps the guarantees of the real kernel and no others. Completions of one receive are in
//! order. A full completion queue sends all later completions to the overflow list, and ends
//! multishot operations. A send that does not wait finishes inside the enter. The seed decides
//! everything else.

mod progress;
mod submission;
#[cfg(test)]
mod tests;

use std::fmt::Write;
use std::io;

use crate::sim::kernel_state::{Entry, Pieces};
use crate::sim::socket::SocketId;
use crate::sim::world::World;
use crate::time::Nanos;
use crate::token::Token;
use crate::uring::ring::{Completion, Op, Wait};

/// Returns the pieces of a send.
///
/// # Safety
///
/// A message header that `op` points at is valid.
unsafe fn pieces_of(op: Op) -> Pieces {
    match op {
        Op::Send { bytes, len, .. } => vec![(bytes, len as usize)],
        Op::SendMessage { message, .. } => {
            // SAFETY: the caller promises the header, and its vector has the stated length.
            let pieces =
                unsafe { std::slice::from_raw_parts((*message).msg_iov, (*message).msg_iovlen) };
            pieces.iter().map(|p| (p.iov_base.cast_const().cast(), p.iov_len)).collect()
        }
        _ => Vec::new(),
    }
}

impl World {
    // ---- the calls of a ring

    /// # Safety
    ///
    /// That of [`Ring::push`](crate::uring::ring::Ring::push).
    pub(super) unsafe fn push(&mut self, ring: usize, token: Token, op: Op) -> bool {
        // SAFETY: the caller promises that what `op` points at is valid from now on.
        let pieces = unsafe { pieces_of(op) };
        let kernel = &mut self.rings[ring];
        let room = kernel.queue.len() < kernel.queue_size;
        if room {
            kernel.queue.push_back(Entry { token, op, pieces });
        }
        room
    }

    pub(super) fn enter(&mut self, ring: usize, wait: Wait) -> io::Result<()> {
        self.fail_enter(ring)?;
        let queued = self.rings[ring].queue.len();
        let short = !self.rings[ring].finishing && self.random.chance(self.faults.short_submits);
        let consumed = if short { self.random.below(queued + 1) } else { queued };
        self.happened.short_submits += u64::from(consumed < queued);
        self.rings[ring].sent_to.clear();
        for _ in 0..consumed {
            if let Some(entry) = self.rings[ring].queue.pop_front() {
                self.issue(ring, entry);
            }
        }
        if matches!(wait, Wait::Until(_)) || !self.random.chance(self.faults.lazy_enters) {
            self.run_some(ring);
        }
        self.flush(ring);
        if let Wait::Until(until) = wait
            && consumed == queued
            && self.rings[ring].completed.is_empty()
            && until > self.clock
        {
            if self.rings[ring].finishing {
                self.wait_inside(ring, until);
            } else {
                self.rings[ring].waiting = Some(until);
            }
        }
        Ok(())
    }

    fn fail_enter(&mut self, ring: usize) -> io::Result<()> {
        let kernel = &mut self.rings[ring];
        kernel.failed_in_a_row += 1;
        if kernel.finishing
            || kernel.failed_in_a_row > 3
            || !self.random.chance(self.faults.failed_enters)
        {
            self.rings[ring].failed_in_a_row = 0;
            return Ok(());
        }
        self.happened.failed_enters += 1;
        let errno = self.random.pick(&[libc::EINTR, libc::EAGAIN, libc::EBUSY]);
        Err(io::Error::from_raw_os_error(errno))
    }

    /// Waits inside the call at the end of a worker, while the world continues.
    fn wait_inside(&mut self, ring: usize, until: Nanos) {
        let mut movable = Vec::new();
        while self.rings[ring].completed.is_empty() && self.clock < until {
            self.movable(&mut movable);
            if self.can_go_on(ring) {
                self.run_some(ring);
                self.flush(ring);
            } else if movable.is_empty() {
                let next = self.next_event(ring).into_iter().chain(self.next_move()).min();
                self.clock = next.unwrap_or(until).min(until).max(Nanos(self.clock.0 + 1));
            } else {
                let id = self.random.pick(&movable);
                self.carry(id);
                self.clock.0 += 1000;
            }
        }
    }

    /// Ends the wait of a worker inside an enter.
    pub(super) fn leave_enter(&mut self, ring: usize) {
        self.rings[ring].waiting = None;
        self.run_some(ring);
        self.flush(ring);
    }

    /// Returns whether a waiting worker has a reason to wake.
    pub(super) fn wakes(&self, ring: usize) -> bool {
        let kernel = &self.rings[ring];
        let Some(until) = kernel.waiting else { return true };
        !kernel.completed.is_empty() || self.clock >= until || self.can_go_on(ring)
    }

    fn can_go_on(&self, ring: usize) -> bool {
        let kernel = &self.rings[ring];
        !kernel.overflow.is_empty()
            || kernel.stale.iter().any(|(due, _)| *due <= self.clock)
            || kernel.pending.iter().any(|p| self.is_ready(ring, p))
    }

    /// Time at which an operation that cannot progress now will be able to.
    pub(super) fn next_event(&self, ring: usize) -> Option<Nanos> {
        let kernel = &self.rings[ring];
        let pending = kernel.pending.iter().map(|p| p.due);
        let stale = kernel.stale.iter().map(|(due, _)| *due);
        pending
            .chain(stale)
            .chain(kernel.waiting)
            .filter(|due| *due > self.clock && *due < Nanos::NEVER)
            .min()
    }

    pub(super) fn completion(&mut self, ring: usize) -> Option<Completion> {
        if self.random.chance(self.faults.unasked_work) && self.can_go_on(ring) {
            self.happened.unasked_work += 1;
            self.run_some(ring);
        }
        let kernel = &mut self.rings[ring];
        let completion = kernel.completed.pop_front()?;
        if let Some(at) = kernel.unreaped.iter().position(|(token, _)| *token == completion.token) {
            kernel.unreaped.remove(at);
        }
        Some(completion)
    }

    pub(super) fn give_back(&mut self, ring: usize, id: u16) {
        let kernel = &mut self.rings[ring];
        if let Some(token) = kernel.send_out_of(id)
            && !kernel.finishing
        {
            return self.violate(format!(
                "buffer {id} was given back before the send {token:?} out of it ended"
            ));
        }
        if !self.rings[ring].buffers.give_back(id) {
            self.violate(format!("buffer {id} was given back twice"));
        }
    }

    pub(super) fn offer(&mut self, ring: usize, id: u16) {
        if !self.rings[ring].buffers.offer(id) {
            self.violate(format!("buffer {id} was offered while it was in use or in the ring"));
        }
    }

    pub(super) fn make_socket(&mut self, ring: usize, slot: u32, socket: SocketId) {
        self.put(ring, slot as usize, socket);
    }

    fn put(&mut self, ring: usize, slot: usize, socket: SocketId) {
        let table = &mut self.rings[ring].table;
        if table.len() <= slot {
            table.resize(slot + 1, None);
        }
        if table[slot].replace(socket).is_some() {
            self.violate(format!("slot {slot} was used again before its descriptor was closed"));
        }
    }

    // ---- completions

    fn post(&mut self, ring: usize, token: Token, result: i32) {
        self.complete(ring, Completion { token, result, buffer: None, more: false, unread: false });
    }

    fn complete(&mut self, ring: usize, completion: Completion) {
        if self.has_room(ring) {
            self.rings[ring].completed.push_back(completion);
        } else {
            self.happened.overflows += 1;
            self.rings[ring].overflow.push_back(completion);
        }
    }

    /// Returns whether a completion fits. After an overflow all later ones overflow too, which
    /// keeps the order.
    fn has_room(&self, ring: usize) -> bool {
        let kernel = &self.rings[ring];
        kernel.overflow.is_empty() && kernel.completed.len() < kernel.completed_size
    }

    /// Completes a step of a multishot operation. It continues if the completion fits and the seed
    /// allows it.
    fn complete_multishot(&mut self, ring: usize, token: Token, result: i32) -> bool {
        let more = self.goes_on(ring);
        self.complete(ring, Completion { token, result, buffer: None, more, unread: false });
        more
    }

    /// Returns whether a multishot operation continues after its next completion.
    fn goes_on(&mut self, ring: usize) -> bool {
        let ends = self.random.chance(self.faults.missing_more);
        self.happened.missing_more += u64::from(ends);
        !ends && self.has_room(ring)
    }

    /// Moves overflowed completions into the queue.
    fn flush(&mut self, ring: usize) {
        let kernel = &mut self.rings[ring];
        while kernel.completed.len() < kernel.completed_size
            && let Some(completion) = kernel.overflow.pop_front()
        {
            kernel.completed.push_back(completion);
        }
    }

    pub(super) fn dump_ring(&self, ring: usize, text: &mut String) {
        let kernel = &self.rings[ring];
        let _ = writeln!(
            text,
            "  ring: {} queued, {} completed, {} overflowed, {} buffers out, waits until {:?}",
            kernel.queue.len(),
            kernel.completed.len(),
            kernel.overflow.len(),
            kernel.buffers.out(),
            kernel.waiting
        );
        for p in &kernel.pending {
            let _ = writeln!(text, "    {:?} due {:?}, cancelled {}", p.token, p.due, p.cancelled);
        }
    }
}
