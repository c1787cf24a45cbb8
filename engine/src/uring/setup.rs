//! Setting a ring up: flags stepped down where a kernel refuses them, errors that say cause and
//! remedy.

use std::io;
use std::time::{Duration, Instant};

use io_uring::{Builder, IoUring, opcode};
use rustix::process::{Resource, getrlimit};

use crate::config::UringConfig;
use crate::error::EngineError;

/// The oldest kernel whose io_uring has all that the engine is built on: multishot receives into
/// provided buffers (6.0), deferred task work (6.1).
const NEEDED: (u32, u32) = (6, 1);
const NEEDED_TEXT: &str = "6.1";

/// The kernel tears rings down in the background, and their memory counts until then. So new rings
/// that need the full quota may have to wait for old ones (25 ms were measured).
const MEMLOCK_PATIENCE: Duration = Duration::from_millis(500);
const MEMLOCK_PAUSE: Duration = Duration::from_millis(10);

/// Attempts to enter a ring that is not refused permanently.
const TRIES: u32 = 20;

/// Below these sizes a ring is not worth having.
const SMALLEST: (u32, u32) = (64, 256);

/// Asks for set-up flags.
type SetFlags = fn(&mut Builder);

/// Sets of set-up flags, the best first. Each later one does without something that older kernels
/// lack.
const STEPS: [(&str, SetFlags); 4] = [
    ("single issuer, deferred task work, no submission array", |b| {
        b.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun().setup_taskrun_flag();
        b.setup_no_sqarray();
    }),
    ("single issuer, deferred task work", |b| {
        b.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun().setup_taskrun_flag();
    }),
    ("cooperative task work", |b| {
        b.setup_coop_taskrun().setup_taskrun_flag();
    }),
    ("no set-up flags", |_| {}),
];

/// Makes a ring of the configured sizes, or of smaller ones where locked memory is short.
pub(super) fn ring(config: &UringConfig) -> Result<IoUring, EngineError> {
    let (mut sq, mut cq) =
        (config.sq_entries.max(1), config.cq_entries.max(config.sq_entries.max(1) * 2));
    let patience = Instant::now() + MEMLOCK_PATIENCE;
    loop {
        match step_down(sq, cq) {
            Err(e) if e.raw_os_error() == Some(libc::ENOMEM) => {
                if Instant::now() < patience {
                    std::thread::sleep(MEMLOCK_PAUSE);
                } else if sq > SMALLEST.0 || cq > SMALLEST.1 {
                    (sq, cq) = ((sq / 2).max(SMALLEST.0), (cq / 2).max(SMALLEST.1));
                    tracing::warn!(sq, cq, "locked memory is short: trying a smaller ring");
                } else {
                    return Err(EngineError::Memlock {
                        sq_entries: sq,
                        cq_entries: cq,
                        limit: memlock_limit(),
                    });
                }
            }
            other => return other.map_err(explain),
        }
    }
}

fn step_down(sq: u32, cq: u32) -> io::Result<IoUring> {
    let mut last = io::Error::from_raw_os_error(libc::EINVAL);
    for (step, (name, flags)) in STEPS.iter().enumerate() {
        let mut builder = IoUring::builder();
        builder.setup_cqsize(cq).setup_clamp();
        if step + 1 < STEPS.len() {
            builder.setup_submit_all();
            flags(&mut builder);
        }
        match builder.build(sq) {
            Ok(ring) => {
                if step > 0 {
                    tracing::info!(
                        flags = name,
                        "the kernel refused better set-up flags for io_uring"
                    );
                }
                return Ok(ring);
            }
            Err(e) if e.raw_os_error() == Some(libc::EINVAL) => last = e,
            Err(e) => return Err(e),
        }
    }
    Err(last)
}

/// Why io_uring_setup(2) failed, for people.
pub(super) fn explain(source: io::Error) -> EngineError {
    match source.raw_os_error() {
        Some(libc::ENOSYS) => EngineError::Missing,
        Some(libc::EPERM | libc::EACCES) => match disabled() {
            Some(value) => EngineError::Disabled { value },
            None => EngineError::Refused { call: "io_uring_setup", source },
        },
        Some(libc::EMFILE | libc::ENFILE) => {
            let limit = file_limit();
            EngineError::Descriptors {
                wanted: limit.saturating_add(16),
                what: "an io_uring instance",
                limit,
            }
        }
        Some(libc::EINVAL) => {
            too_old().unwrap_or(EngineError::System { what: "io_uring_setup", source })
        }
        _ => EngineError::System { what: "io_uring_setup", source },
    }
}

/// Returns the reason why io_uring_enter(2) or io_uring_register(2) failed on a ring that could be
/// set up. `what` describes failures other than refusals.
pub(super) fn explain_call(
    call: &'static str,
    what: &'static str,
) -> impl Fn(io::Error) -> EngineError {
    move |source| match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES | libc::ENOSYS) => EngineError::Refused { call, source },
        _ => EngineError::System { what, source },
    }
}

/// Enters a ring once, with an operation that does nothing. A filter may allow the setup of a ring
/// and then refuse its use.
pub(super) fn try_enter(ring: &mut IoUring) -> Result<(), EngineError> {
    let nop = opcode::Nop::new().build();
    // SAFETY: the operation refers to no memory. A ring of at least one entry that is empty has
    // room for it.
    unsafe { ring.submission().push(&nop) }.expect("an empty ring has room");
    for _ in 0..TRIES {
        match ring.submit_and_wait(1) {
            Err(error)
                if matches!(
                    error.raw_os_error(),
                    Some(libc::EINTR | libc::EAGAIN | libc::EBUSY)
                ) =>
            {
                std::thread::sleep(MEMLOCK_PAUSE);
            }
            outcome => {
                return outcome.map(drop).map_err(explain_call("io_uring_enter", "io_uring_enter"));
            }
        }
    }
    let source = io::Error::from_raw_os_error(libc::EAGAIN);
    Err(EngineError::System { what: "io_uring_enter", source })
}

/// The kernel is older than the engine needs.
pub(super) fn too_old() -> Option<EngineError> {
    let found = rustix::system::uname().release().to_string_lossy().into_owned();
    (version(&found)? < NEEDED).then_some(EngineError::KernelTooOld {
        engine: "uring",
        needed: NEEDED_TEXT,
        found,
    })
}

/// Major and minor number of a kernel release such as `6.1.0-18-amd64`.
fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// `kernel.io_uring_disabled`, where it forbids something.
fn disabled() -> Option<String> {
    let value = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?;
    let value = value.trim();
    (value != "0").then(|| value.to_owned())
}

pub(super) fn file_limit() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Error for a ring beside which no more memory may be locked.
pub(super) fn out_of_locked_memory(ring: &IoUring) -> EngineError {
    let (sq_entries, cq_entries) = (ring.params().sq_entries(), ring.params().cq_entries());
    EngineError::Memlock { sq_entries, cq_entries, limit: memlock_limit() }
}

fn memlock_limit() -> String {
    match getrlimit(Resource::Memlock).current {
        Some(bytes) => format!("{} KiB", bytes / 1024),
        None => "none".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_releases_are_read() {
        assert_eq!(version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(version("5.15.167.4-microsoft-standard-WSL2"), Some((5, 15)));
        assert_eq!(version("7.0-rc1"), Some((7, 0)));
        assert_eq!(version("unknown"), None);
        assert!(version("5.19.17") < Some(NEEDED) && version("6.10.1") > Some(NEEDED));
    }

    #[test]
    fn refusals_name_the_remedy() {
        let of = |errno| explain(io::Error::from_raw_os_error(errno)).to_string();
        assert!(of(libc::ENOSYS).contains("epoll"));
        assert!(of(libc::EPERM).contains("epoll"));
        assert!(of(libc::EMFILE).contains("ulimit -n"));
    }
}
