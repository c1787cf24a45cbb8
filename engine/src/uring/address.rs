//! Socket addresses in the kernel's form.

use std::net::SocketAddr;

use rustix::net::SocketAddrAny;
use rustix::net::addr::{SocketAddrArg, SocketAddrLen};

/// An address that the kernel reads on connect, or writes on accept.
#[repr(C)]
pub(crate) struct Address {
    storage: libc::sockaddr_storage,
    len: SocketAddrLen,
}

impl Address {
    /// Room for an address.
    pub(crate) fn unset() -> Self {
        // SAFETY: all zeroes is a valid sockaddr_storage: family AF_UNSPEC and no address.
        let storage = unsafe { std::mem::zeroed() };
        Self { storage, len: size_of::<libc::sockaddr_storage>() as SocketAddrLen }
    }

    /// An address to connect to.
    pub(crate) fn of(address: SocketAddr) -> Self {
        let mut this = Self::unset();
        // SAFETY: the storage is valid for writes of its whole size.
        this.len = unsafe { address.write_sockaddr((&raw mut this.storage).cast()) };
        this
    }

    /// Length of an address of the family of `address`.
    pub(crate) fn len_of(address: SocketAddr) -> SocketAddrLen {
        Self::of(address).len
    }

    /// Takes the address that the kernel wrote, and makes room for the next. `None` where it wrote
    /// none.
    pub(crate) fn take(&mut self) -> Option<SocketAddr> {
        let Self { storage, .. } = std::mem::replace(self, Self::unset());
        if i32::from(storage.ss_family) == libc::AF_UNSPEC {
            return None;
        }
        let len = size_of::<libc::sockaddr_storage>() as SocketAddrLen;
        // SAFETY: the whole storage is initialised, by `unset` or by the kernel.
        unsafe { SocketAddrAny::read((&raw const storage).cast(), len) }.try_into().ok()
    }

    /// Pointers to the address and to its length. `this` points to an `Address` that stays in
    /// place.
    pub(crate) fn as_ptrs(this: *mut Self) -> (*mut libc::sockaddr, *mut libc::socklen_t) {
        // SAFETY: only addresses of fields are taken.
        unsafe { ((&raw mut (*this).storage).cast(), &raw mut (*this).len) }
    }

    /// A pointer to the address, and its length. `this` points to an `Address` that stays in place.
    pub(crate) fn as_parts(this: *const Self) -> (*const libc::sockaddr, libc::socklen_t) {
        // SAFETY: `this` is valid for reads, as its owner promises.
        unsafe { ((&raw const (*this).storage).cast(), (*this).len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_back() {
        for text in ["127.0.0.1:80", "[::1]:65535", "[fe80::1%3]:9"] {
            let address: SocketAddr = text.parse().expect("address");
            assert_eq!(Address::of(address).take(), Some(address));
        }
        assert_eq!(Address::unset().take(), None);
    }
}
