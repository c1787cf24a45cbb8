//! Which end of the connection we are.

/// Who *we* are. A server reads masked frames and sends unmasked ones, a client the reverse (RFC 6455 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// We accepted the connection.
    Server,
    /// We opened the connection.
    Client,
}

impl Role {
    /// Returns whether the frames that this role *reads* are masked (RFC 6455 5.1).
    #[inline]
    pub fn reads_masked(self) -> bool {
        matches!(self, Role::Server)
    }
}
