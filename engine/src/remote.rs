//! Waking a worker from another thread.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// State of a handle, on cache lines of its own. Handles of several workers are made one after the
/// other, and a wake of one worker must not take a line from another. It is 128 bytes, because
/// processors fetch lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Shared {
    bits: AtomicU64,
    event: OwnedFd,
}

/// Handle with which another thread wakes a worker. Clones wake the same worker.
#[derive(Clone, Debug)]
pub struct Remote(Arc<Shared>);

/// Worker's end of a [`Remote`], which [`run`](crate::run) takes.
#[derive(Debug)]
pub struct Inbox(Arc<Shared>);

/// Creates a handle and the worker's end, over an eventfd(2).
///
/// # Errors
///
/// Fails with the error of eventfd(2), for example when descriptors are exhausted.
pub fn remote() -> io::Result<(Remote, Inbox)> {
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let shared = Arc::new(Shared { bits: AtomicU64::new(0), event });
    Ok((Remote(shared.clone()), Inbox(shared)))
}

impl Remote {
    /// Wakes the worker. `bits` are combined (OR) with the bits of earlier calls that have not
    /// reached [`Handler::woken`](crate::Handler::woken) yet. Without bits the handler is told
    /// nothing. The highest bit is for TLS.
    pub fn wake(&self, bits: u64) {
        // Release pairs with the Acquire of `take`: the worker sees what was written before the
        // wake.
        if self.0.bits.fetch_or(bits, Ordering::Release) == 0 {
            // The write fails only if the counter would overflow (EAGAIN), and then the worker
            // wakes anyway.
            let _ = rustix::io::write(&self.0.event, &1u64.to_ne_bytes());
        }
    }
}

impl Inbox {
    /// Returns a handle that wakes this worker.
    pub(crate) fn remote(&self) -> Remote {
        Remote(Arc::clone(&self.0))
    }

    /// Takes the bits of all wakes since the last call. The eventfd is emptied first, so that no
    /// wake is lost in between.
    pub(crate) fn take(&self) -> u64 {
        let _ = rustix::io::read(&self.0.event, &mut [0u8; 8]);
        self.0.bits.swap(0, Ordering::Acquire)
    }

    /// Descriptor that is readable while there are bits to take.
    pub(crate) fn event(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_of_two_workers_share_no_cache_line() {
        let inboxes: Vec<Inbox> = (0..16).map(|_| remote().expect("eventfd").1).collect();
        let address = |inbox: &Inbox| std::ptr::from_ref(&*inbox.0).addr();
        let mut places: Vec<usize> = inboxes.iter().map(address).collect();
        places.sort_unstable();
        assert!(places.iter().all(|place| place % 128 == 0), "{places:x?}");
        assert!(places.windows(2).all(|pair| pair[1] - pair[0] >= 128), "{places:x?}");
    }

    #[test]
    fn bits_of_several_wakes_are_joined() {
        let (remote, inbox) = remote().expect("eventfd");
        assert_eq!(inbox.take(), 0);
        remote.wake(1);
        remote.clone().wake(4);
        assert_eq!(inbox.take(), 5);
        assert_eq!(inbox.take(), 0);
        remote.wake(2);
        assert_eq!(inbox.take(), 2);
    }
}
