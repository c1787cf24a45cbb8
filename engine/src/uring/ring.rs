//! The engine's view of the kernel: what it submits, what comes back.
//!
//! [`Ring`] is the seam at which a simulator can stand in for the kernel: everything the engine knows of the outside
//! world, the clock included, comes through it.

use std::io;
use std::net::SocketAddr;
use std::os::fd::RawFd;

use crate::time::Nanos;
use crate::token::Token;

/// An operation. Connections are named by slot: the index of their direct descriptor in the ring's table.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Op {
    /// Accept into a free direct descriptor, whose index is the result; `multishot` goes on until told otherwise.
    Accept { listener: RawFd, multishot: bool, address: *mut PeerAddress },
    /// Connect the socket in `slot`.
    Connect { slot: u32, to: *const TargetAddress },
    /// Receive into provided buffers until told otherwise, or, `once`, into one.
    Receive { slot: u32, once: bool },
    /// Send bytes.
    Send { slot: u32, bytes: *const u8, len: u32, mode: SendMode },
    /// Send several pieces in one.
    SendMessage { slot: u32, message: *const libc::msghdr, mode: SendMode },
    /// Half-close: nothing more will be sent.
    Shutdown { slot: u32 },
    /// Cancel the operation that was submitted with this token.
    Cancel { target: Token },
    /// Cancel everything.
    CancelAll,
    /// Free a direct descriptor.
    Close { slot: u32 },
    /// Tell whenever a descriptor is readable.
    Poll { fd: RawFd },
    /// Reports the connection's reset, also while it is not read from.
    Watch { slot: u32 },
}

/// How a send treats a full socket, and whether it reports success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SendMode {
    /// Takes what fits and does not wait; no completion when everything fitted.
    Silent,
    /// Takes what fits and does not wait; always a completion.
    Prompt,
    /// Waits until some fits; always a completion.
    Patient,
}

/// What came back for an operation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Completion {
    /// The token it was submitted with.
    pub(crate) token: Token,
    /// Result: a count or an index, or an error number below zero.
    pub(crate) result: i32,
    /// The provided buffer that holds what was received.
    pub(crate) buffer: Option<u16>,
    /// The operation goes on: further completions will come.
    pub(crate) more: bool,
    /// A receive left bytes that had arrived.
    pub(crate) unread: bool,
}

/// How long an enter waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not at all, and nothing is taken in but what the submitted operations say themselves, where the kernel can put the rest off:
    /// it receives no more while what was received before is being worked on.
    Submit,
    /// Not at all: submit, and take in what is there.
    No,
    /// Until there is a completion, or this point has passed.
    Until(Nanos),
}

/// Where the kernel writes the other end's address on accept.
#[repr(C)]
pub(crate) struct PeerAddress {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

/// An address to connect to, in the kernel's form.
#[repr(C)]
pub(crate) struct TargetAddress {
    storage: libc::sockaddr_storage,
    len: libc::socklen_t,
}

/// What the engine needs of io_uring.
pub(crate) trait Ring {
    /// Reads the clock.
    fn clock(&self) -> Nanos;

    /// Queues an operation; when the queue is full, it says so and nothing is queued.
    ///
    /// # Safety
    ///
    /// What the operation points at (addresses, bytes, message headers) stays valid and in place until its completion has
    /// been taken in; for a silent send, until the enter that consumed it has returned and the completions that were there
    /// then have been taken in. Message headers and connect addresses need to last only until the enter has consumed the
    /// operation.
    unsafe fn push(&mut self, token: Token, op: Op) -> Result<(), Full>;

    /// Operations queued and not yet consumed by an enter.
    fn unsubmitted(&mut self) -> usize;

    /// Submits what is queued, perhaps not all of it, and waits.
    ///
    /// # Errors
    ///
    /// Of io_uring_enter(2); a wait that ran out is not an error.
    fn enter(&mut self, wait: Wait) -> io::Result<()>;

    /// The next completion that is there.
    fn completion(&mut self) -> Option<Completion>;

    /// Whether the kernel holds completions back that found no room in the queue.
    fn overflowed(&mut self) -> bool;

    /// Whether an enter would bring completions: they are there, or work is pending that makes some.
    fn ready(&mut self) -> bool;

    /// The first `len` bytes of a receive buffer that a completion handed over and that was not given back yet.
    fn buffer(&mut self, id: u16, len: usize) -> &mut [u8];

    /// Gives a receive buffer back: nothing refers to its bytes any more.
    fn give_back(&mut self, id: u16);

    /// Puts a buffer that was given back, or never used, into the ring; the kernel sees it after the next [`Ring::publish`].
    fn offer(&mut self, id: u16);

    /// Makes the buffers offered visible to the kernel.
    fn publish(&mut self);

    /// Receive buffers in all.
    fn buffers(&self) -> usize;

    /// Makes a socket, bound to `from` where given, and puts it into the direct descriptor `slot`.
    ///
    /// # Errors
    ///
    /// Of the calls that make it.
    fn socket(&mut self, slot: u32, to: SocketAddr, from: Option<SocketAddr>) -> io::Result<()>;

    /// Whether a send that need not wait has finished, and its error completion is there, when the enter returns.
    ///
    /// # Errors
    ///
    /// When the trial itself cannot be made.
    fn sends_finish_inside_enter(&mut self) -> io::Result<bool>;
}

/// The submission queue is full.
#[derive(Debug)]
pub(crate) struct Full;

impl PeerAddress {
    pub(crate) fn new() -> Self {
        // SAFETY: all zeroes is a valid sockaddr_storage: family AF_UNSPEC and no address.
        let storage = unsafe { std::mem::zeroed() };
        Self { storage, len: size_of::<libc::sockaddr_storage>() as libc::socklen_t }
    }

    pub(crate) fn as_ptrs(this: *mut Self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        // SAFETY: `this` points to a PeerAddress that the caller of `push` keeps in place; only addresses of its fields are taken.
        unsafe { ((&raw mut (*this).storage).cast(), &raw mut (*this).len) }
    }

    /// What the kernel wrote, and ready for the next accept.
    pub(crate) fn take(&mut self) -> Option<SocketAddr> {
        let addr = to_socket_addr(&self.storage);
        *self = Self::new();
        addr
    }
}

impl TargetAddress {
    pub(crate) fn new(addr: SocketAddr) -> Self {
        let mut this = PeerAddress::new();
        let storage = &raw mut this.storage;
        let len = match addr {
            SocketAddr::V4(v4) => {
                let raw = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: v4.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                    sin_zero: [0; 8],
                };
                // SAFETY: sockaddr_storage is larger than and aligned for every address family's structure.
                unsafe { storage.cast::<libc::sockaddr_in>().write(raw) };
                size_of::<libc::sockaddr_in>()
            }
            SocketAddr::V6(v6) => {
                let raw = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: v6.port().to_be(),
                    sin6_flowinfo: v6.flowinfo(),
                    sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                    sin6_scope_id: v6.scope_id(),
                };
                // SAFETY: as above.
                unsafe { storage.cast::<libc::sockaddr_in6>().write(raw) };
                size_of::<libc::sockaddr_in6>()
            }
        };
        Self { storage: this.storage, len: len as libc::socklen_t }
    }

    pub(crate) fn as_parts(this: *const Self) -> (*const libc::sockaddr, libc::socklen_t) {
        // SAFETY: `this` points to a TargetAddress that the caller of `push` keeps in place.
        unsafe { ((&raw const (*this).storage).cast(), (*this).len) }
    }
}

fn to_socket_addr(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that a sockaddr_in was written; the storage is large enough and aligned for it.
            let v4 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in>() };
            let ip = v4.sin_addr.s_addr.to_ne_bytes();
            Some((ip, u16::from_be(v4.sin_port)).into())
        }
        libc::AF_INET6 => {
            // SAFETY: likewise for sockaddr_in6.
            let v6 = unsafe { &*(&raw const *storage).cast::<libc::sockaddr_in6>() };
            let ip = v6.sin6_addr.s6_addr.into();
            let addr = std::net::SocketAddrV6::new(
                ip,
                u16::from_be(v6.sin6_port),
                v6.sin6_flowinfo,
                v6.sin6_scope_id,
            );
            Some(addr.into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back() {
        for text in ["127.0.0.1:80", "[::1]:65535", "[fe80::1%3]:9"] {
            let addr: SocketAddr = text.parse().expect("address");
            let target = TargetAddress::new(addr);
            assert_eq!(to_socket_addr(&target.storage), Some(addr));
        }
        assert_eq!(PeerAddress::new().take(), None);
    }
}
