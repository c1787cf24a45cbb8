//! The way from the generator to the server, as far as results compare only where it is the same.

use serde::{Deserialize, Serialize};

/// Way to the server. It names no host and no file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    /// Number of servers that connections take in turn.
    #[serde(skip_serializing_if = "is_one")]
    pub targets: u32,
    /// True if the generator has a certificate for servers that ask for one.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub client_certificate: bool,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_one(targets: &u32) -> bool {
    *targets == 1
}

impl Default for Route {
    fn default() -> Self {
        Self { targets: 1, client_certificate: false }
    }
}

impl Route {
    /// Returns true if it is that of a run without flags.
    pub(crate) fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}
