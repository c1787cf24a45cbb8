//! The epoll(7) instance: registration and waiting.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Duration;

use rustix::event::epoll::{self, EventData, EventFlags};

/// Most events of one wait. Further ones come with the next wait.
const EVENTS: usize = 1024;

/// Interest of every connection: both directions, edge-triggered. It never changes, so that neither
/// a pause nor a full send buffer costs an epoll_ctl(2).
pub(super) const CONNECTION: EventFlags =
    EventFlags::IN.union(EventFlags::OUT).union(EventFlags::RDHUP).union(EventFlags::ET);

/// An epoll instance and the events of its last wait.
pub(super) struct Poller {
    epoll: OwnedFd,
    events: Box<[libc::epoll_event]>,
    /// epoll_pwait2(2), with its timeout in nanoseconds, works (Linux 5.11, and no seccomp filter).
    has_fine_timeouts: bool,
}

impl Poller {
    pub(super) fn new() -> io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let events = vec![libc::epoll_event { events: 0, u64: 0 }; EVENTS].into_boxed_slice();
        Ok(Self { epoll, events, has_fine_timeouts: true })
    }

    pub(super) fn add(&self, socket: impl AsFd, key: u64, interest: EventFlags) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(key), interest)?)
    }

    pub(super) fn modify(
        &self,
        socket: impl AsFd,
        key: u64,
        interest: EventFlags,
    ) -> io::Result<()> {
        Ok(epoll::modify(&self.epoll, socket, EventData::new_u64(key), interest)?)
    }

    /// Waits for events, at most for `timeout`; returns their number. A signal ends the wait with
    /// 0.
    pub(super) fn wait(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        match self.wait_once(timeout) {
            Ok(ready) => Ok(ready),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Returns key and flags of an event of the last wait.
    pub(super) fn event(&self, index: usize) -> (u64, EventFlags) {
        let event = self.events[index];
        (event.u64, EventFlags::from_bits_retain(event.events))
    }

    fn wait_once(&mut self, timeout: Option<Duration>) -> io::Result<usize> {
        match timeout {
            None => self.wait_coarse(-1),
            Some(Duration::ZERO) => self.wait_coarse(0),
            Some(span) if self.has_fine_timeouts => match self.wait_fine(span) {
                Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
                    self.has_fine_timeouts = false;
                    self.wait_coarse(ceil_ms(span))
                }
                outcome => outcome,
            },
            Some(span) => self.wait_coarse(ceil_ms(span)),
        }
    }

    fn wait_fine(&mut self, span: Duration) -> io::Result<usize> {
        let timeout = libc::timespec {
            tv_sec: span.as_secs().cast_signed(),
            tv_nsec: i64::from(span.subsec_nanos()),
        };
        // SAFETY: `events` is valid for writes of `EVENTS` entries, and `timeout` for reads. A null
        // mask changes no signals.
        let ready = unsafe {
            libc::syscall(
                libc::SYS_epoll_pwait2,
                self.epoll.as_raw_fd(),
                self.events.as_mut_ptr(),
                EVENTS as libc::c_int,
                &raw const timeout,
                std::ptr::null::<libc::sigset_t>(),
                size_of::<libc::sigset_t>(),
            )
        };
        usize::try_from(ready).map_err(|_| io::Error::last_os_error())
    }

    fn wait_coarse(&mut self, timeout_ms: libc::c_int) -> io::Result<usize> {
        // SAFETY: `events` is valid for writes of `EVENTS` entries.
        let ready = unsafe {
            libc::epoll_wait(
                self.epoll.as_raw_fd(),
                self.events.as_mut_ptr(),
                EVENTS as libc::c_int,
                timeout_ms,
            )
        };
        usize::try_from(ready).map_err(|_| io::Error::last_os_error())
    }
}

/// Returns the span in milliseconds, rounded up, so that a timer is never early.
fn ceil_ms(span: Duration) -> libc::c_int {
    libc::c_int::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(libc::c_int::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_round_up_to_milliseconds() {
        assert_eq!(ceil_ms(Duration::from_nanos(1)), 1);
        assert_eq!(ceil_ms(Duration::from_millis(7)), 7);
        assert_eq!(ceil_ms(Duration::MAX), libc::c_int::MAX);
    }

    #[test]
    fn an_idle_wait_is_never_early_on_either_call() {
        for has_fine_timeouts in [true, false] {
            let mut poller = Poller { has_fine_timeouts, ..Poller::new().expect("epoll") };
            let before = std::time::Instant::now();
            assert_eq!(poller.wait(Some(Duration::from_micros(2500))).expect("wait"), 0);
            assert!(before.elapsed() >= Duration::from_micros(2500));
        }
    }
}
