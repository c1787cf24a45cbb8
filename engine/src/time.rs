//! Monotonic time in nanoseconds, and the CPU time of processes.

use std::ops::{Add, Sub};
use std::time::Duration;

/// Time in nanoseconds of `CLOCK_MONOTONIC` (clock_gettime(2)), comparable across the threads of a
/// machine.
///
/// Under a simulator it counts from zero. Arithmetic saturates: [`Nanos::NEVER`] plus any span is
/// [`Nanos::NEVER`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Nanos(pub u64);

impl Nanos {
    /// Time that is never reached.
    pub const NEVER: Self = Self(u64::MAX);

    /// Reads `CLOCK_MONOTONIC`.
    #[must_use]
    pub fn monotonic() -> Self {
        let t = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        // The kernel's monotonic clock starts near zero at boot: it is neither negative nor beyond
        // 584 years.
        Self(t.tv_sec.cast_unsigned() * 1_000_000_000 + t.tv_nsec.cast_unsigned())
    }

    /// Returns the time `span` later. A zero span means "off" on the command lines: it gives
    /// [`Nanos::NEVER`].
    #[must_use]
    pub(crate) fn limit_after(self, span: Duration) -> Self {
        if span.is_zero() { Self::NEVER } else { self + span }
    }

    /// Returns the span from `earlier` to this time, zero where `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// Returns the CPU time of a process, with its threads that have ended (clock_getcpuclockid(3)).
/// `None` where there is no such process.
#[must_use]
pub fn process_cpu_time(pid: u32) -> Option<Duration> {
    let mut clock = 0;
    // SAFETY: `clock` outlives the call, which writes one clockid_t to it and keeps no pointer.
    if unsafe { libc::clock_getcpuclockid(pid.cast_signed(), &raw mut clock) } != 0 {
        return None;
    }
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call, which writes one timespec to it and keeps no pointer.
    if unsafe { libc::clock_gettime(clock, &raw mut time) } != 0 {
        return None;
    }
    Some(Duration::new(u64::try_from(time.tv_sec).ok()?, u32::try_from(time.tv_nsec).ok()?))
}

impl Add<Duration> for Nanos {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub for Nanos {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.since(earlier)
    }
}

/// Returns the CPU time of the calling thread.
#[must_use]
pub fn thread_cpu_time() -> Duration {
    let spent = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(spent.tv_sec.cast_unsigned(), spent.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates() {
        assert_eq!(Nanos::NEVER + Duration::from_secs(1), Nanos::NEVER);
        assert_eq!(Nanos(1) - Nanos(5), Duration::ZERO);
        assert_eq!(Nanos(5) + Duration::from_nanos(7), Nanos(12));
        assert_eq!(Nanos(5) + Duration::MAX, Nanos::NEVER);
    }

    #[test]
    fn process_cpu_time_keeps_ended_threads() {
        let me = std::process::id();
        let spin = || {
            let thread_time = || rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            while thread_time().tv_nsec < 20_000_000 && thread_time().tv_sec == 0 {}
        };
        let before = process_cpu_time(me).expect("this process");
        std::thread::spawn(spin).join().expect("no panic");
        assert!(process_cpu_time(me).expect("this process") >= before + Duration::from_millis(20));
        // The kernel assigns no number beyond 2^22.
        assert_eq!(process_cpu_time((1 << 22) + 1), None);
    }

    #[test]
    fn the_clock_does_not_run_backwards() {
        let a = Nanos::monotonic();
        assert!(Nanos::monotonic() >= a);
    }
}
