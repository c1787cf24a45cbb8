//! Reasons why an engine does not start, with the remedies.

use std::io;

/// Error that prevents or ends the run of an engine.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The program was built without the engine.
    #[error("this program was built without the engine {engine} (cargo feature {engine})")]
    NotBuilt {
        /// The engine's name, which is the feature's too.
        engine: &'static str,
    },
    /// The kernel is older than the engine needs.
    #[error(
        "engine {engine} needs Linux {needed} or later, this is {found}: use --engine epoll, or a newer kernel"
    )]
    KernelTooOld {
        /// The engine's name.
        engine: &'static str,
        /// Lowest version, major and minor.
        needed: &'static str,
        /// Release of the running kernel.
        found: String,
    },
    /// `kernel.io_uring_disabled` forbids io_uring.
    #[error(
        "io_uring is switched off on this host (kernel.io_uring_disabled = {value}): \
         `sysctl kernel.io_uring_disabled=0` as root allows it, or use --engine epoll"
    )]
    Disabled {
        /// The setting: 1 refuses it to ordinary users, 2 to everyone.
        value: String,
    },
    /// The kernel refuses a system call of io_uring although the setting allows it. The reason is a
    /// seccomp filter, usually a container's.
    #[error(
        "{call} is refused to this process ({source}): probably a seccomp filter of a container; \
         allow io_uring_setup, io_uring_enter and io_uring_register there, or use --engine epoll"
    )]
    Refused {
        /// The system call.
        call: &'static str,
        /// The error that it returned.
        source: io::Error,
    },
    /// The kernel was built without io_uring.
    #[error("this kernel has no io_uring (ENOSYS): use --engine epoll")]
    Missing,
    /// The limit on locked memory is reached.
    #[error(
        "not enough locked memory for a ring of {sq_entries}/{cq_entries} entries (limit {limit} for all processes of this \
         user): raise it with `ulimit -l unlimited` (LimitMEMLOCK=infinity in a unit), or use fewer threads"
    )]
    Memlock {
        /// Entries of the smallest submission queue tried.
        sq_entries: u32,
        /// Entries of the smallest completion queue tried.
        cq_entries: u32,
        /// The limit, as text.
        limit: String,
    },
    /// The limit on open files is reached.
    #[error(
        "too few file descriptors for {what} (limit {limit}): raise it with `ulimit -n {wanted}` \
         (LimitNOFILE= in a unit), or ask for fewer connections"
    )]
    Descriptors {
        /// Limit that suffices.
        wanted: u64,
        /// Object that needs the descriptors.
        what: &'static str,
        /// The soft limit.
        limit: u64,
    },
    /// Another system call failed that set-up or the loop needs.
    #[error("{what}: {source}")]
    System {
        /// The call and its object.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
}

impl EngineError {
    /// Returns a function for `map_err` that wraps an error of `what`.
    pub(crate) fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { what, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_descriptors_come_with_a_limit_that_suffices() {
        let error =
            EngineError::Descriptors { wanted: 1040, what: "the tokio-uring runtime", limit: 1024 };
        let said = error.to_string();
        assert!(
            said.starts_with("too few file descriptors for the tokio-uring runtime (limit 1024): ")
        );
        assert!(said.contains("`ulimit -n 1040`"), "{said}");
    }
}
