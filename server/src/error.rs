//! Reasons why the server does not run, with the remedies.

use std::io;
use std::net::SocketAddr;

use engine::EngineError;
use rustix::io::Errno;

use crate::counted::counted;
use crate::tls::IdentityError;

/// The server could not start, or a worker ended with an error. One line each: cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The engine does not start, or the kernel refused it in mid-run.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// A name given to `--listen` or `--admin` has no address.
    #[error("cannot resolve `{host}` of {flag} ({source}): check the name, or give an address")]
    Resolve {
        /// Flag that has the name.
        flag: &'static str,
        /// The name.
        host: String,
        /// The resolver's error.
        source: io::Error,
    },
    /// The zone of an IPv6 address is not an interface.
    #[error(
        "`{zone}` in {listen} of {flag} names no interface of this host ({source}): choose one of `ip link`"
    )]
    Zone {
        /// Flag that has the address.
        flag: &'static str,
        /// The address.
        listen: String,
        /// The part behind the `%`.
        zone: String,
        /// The kernel's error.
        source: io::Error,
    },
    /// An address cannot be listened on.
    #[error("cannot listen on {address} of {flag} ({source}): {remedy}")]
    Listen {
        /// Flag that has the address.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// The kernel's error.
        source: io::Error,
        /// The remedy.
        remedy: &'static str,
    },
    /// More connections are asked for than the limit on open files allows.
    #[error(
        "too few file descriptors for {connections} (limit {limit}): raise it with `ulimit -n {needed}` \
         (LimitNOFILE= in a unit), or ask for fewer with --max-connections",
        connections = counted(*wanted, "connection")
    )]
    Connections {
        /// Connections asked for.
        wanted: u64,
        /// Limit that is enough for them and for the server itself.
        needed: u64,
        /// The limit in force, already raised to the hard one.
        limit: u64,
    },
    /// A worker cannot be kept on its processor.
    #[error(
        "cannot keep a worker on processor {cpu} ({source}): give other processors with --cpus"
    )]
    Pin {
        /// The processor.
        cpu: usize,
        /// Error of sched_setaffinity(2).
        source: io::Error,
    },
    /// A listener of wss:// without a certificate.
    #[error(
        "wss://{listen}/ of --listen needs a certificate: give --tls-cert and --tls-key, or --tls-self-signed"
    )]
    NoIdentity {
        /// The listener.
        listen: String,
    },
    /// A certificate or key cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// A system call that the start cannot do without.
    #[error("{what}: {source}")]
    System {
        /// The call and its object.
        what: &'static str,
        /// The kernel's error.
        source: io::Error,
    },
    /// A worker panicked; its message is on standard error.
    #[error("a worker panicked: this is a fault of the server")]
    Panicked,
}

impl ServeError {
    /// Shorthand for `map_err`.
    pub(crate) fn system(what: &'static str) -> impl Fn(io::Error) -> Self {
        move |source| Self::System { what, source }
    }

    pub(crate) fn listen(flag: &'static str, address: SocketAddr, source: io::Error) -> Self {
        let lacks_zone = matches!(address, SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0);
        let remedy = match Errno::from_io_error(&source) {
            _ if lacks_zone => {
                "a link-local address needs its interface, as in [fe80::1%eth0]:9001"
            }
            Some(Errno::ADDRINUSE) => {
                "another process listens there: end it, or choose another port (0 takes a free one)"
            }
            Some(Errno::ACCESS) => "choose a port of 1024 or more, or grant CAP_NET_BIND_SERVICE",
            Some(Errno::ADDRNOTAVAIL) => {
                "no interface of this host has that address: choose one of `ip address`"
            }
            Some(Errno::MFILE | Errno::NFILE) => {
                "too few file descriptors: raise the limit with `ulimit -n` (LimitNOFILE= in a unit)"
            }
            Some(Errno::AFNOSUPPORT) => "this host has no such address family: choose another",
            _ => "choose another address",
        };
        Self::Listen { flag, address, source, remedy }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_one_line_with_cause_and_remedy() {
        let address = "127.0.0.1:9001".parse().expect("address");
        let taken = ServeError::listen("--listen", address, Errno::ADDRINUSE.into()).to_string();
        assert!(taken.contains("127.0.0.1:9001") && taken.contains("--listen"), "{taken}");
        let refused = ServeError::listen("--listen", address, Errno::ACCESS.into()).to_string();
        assert!(refused.contains("Permission denied") && refused.contains("1024"), "{refused}");
        let few = ServeError::Connections { wanted: 5000, needed: 5072, limit: 1024 }.to_string();
        assert!(few.contains("ulimit -n 5072") && few.contains("--max-connections"), "{few}");
        assert!(![taken, refused, few].iter().any(|line| line.contains('\n')));
    }
}
