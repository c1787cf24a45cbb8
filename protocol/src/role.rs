//! The two ends of a connection.

/// Role of this end. A server reads masked frames and sends unmasked ones, a client the reverse
/// (RFC 6455 5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The end that accepted the connection.
    Server,
    /// The end that opened the connection.
    Client,
}

impl Role {
    /// Returns whether the frames that this role *reads* are masked (RFC 6455 5.1).
    #[inline]
    pub fn reads_masked(self) -> bool {
        matches!(self, Role::Server)
    }
}
