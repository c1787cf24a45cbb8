//! Kinds of protocol, payload and masking.

use clap::ValueEnum;
use engine::tls;
use protocol::deflate::MAX_WINDOW_BITS;
use protocol::handshake::deflate::Offer;
use serde::{Deserialize, Serialize};

/// Masking keys of the frames that are sent (RFC 6455 section 5.3).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Mask {
    /// A fresh key for each frame.
    #[default]
    Random,
    /// One key for all frames.
    Fixed,
}

/// Protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    /// WebSocket over TCP (RFC 6455).
    Ws,
    /// WebSocket over TLS.
    Wss,
    /// Raw bytes over TCP: the limit to measure against.
    Tcp,
}

impl Transport {
    /// Returns the scheme of its URLs, before the `://`.
    pub fn scheme(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Tcp => "tcp",
        }
    }

    /// Returns true if messages are framed; otherwise there are only bytes.
    pub fn is_websocket(self) -> bool {
        self != Self::Tcp
    }
}

/// Compression that connections offer (RFC 7692).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Deflate {
    /// None.
    #[default]
    Off,
    /// Without context takeover: every message by itself.
    On,
    /// With context takeover, where the server agrees to it.
    Takeover,
}

impl Deflate {
    /// Returns the offer, with windows of at most this many bits.
    pub(crate) fn offer(self, window_bits: u8) -> Option<Offer> {
        let limit = (window_bits < MAX_WINDOW_BITS).then_some(window_bits);
        let takes_no_context_over = self == Self::On;
        (self != Self::Off).then_some(Offer {
            server_no_context_takeover: takes_no_context_over,
            client_no_context_takeover: takes_no_context_over,
            server_max_window_bits: limit,
            client_max_window_bits: limit,
        })
    }
}

/// Content of messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Payload {
    /// Seeded random bytes in binary messages.
    Binary,
    /// Seeded ASCII in text messages.
    TextAscii,
    /// Seeded text of mixed scripts (Latin, Cyrillic, CJK, emoji) in text messages.
    TextMixed,
    /// Seeded JSON in text messages: records whose values differ, as an API returns them. A message
    /// is a part of their list, and no whole document.
    TextJson,
}

/// Version of TLS that connections agree to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum TlsVersion {
    /// RFC 5246.
    #[value(name = "1.2")]
    #[serde(rename = "1.2")]
    Tls12,
    /// RFC 8446.
    #[value(name = "1.3")]
    #[serde(rename = "1.3")]
    Tls13,
}

impl From<TlsVersion> for tls::TlsVersion {
    fn from(version: TlsVersion) -> Self {
        match version {
            TlsVersion::Tls12 => Self::Tls12,
            TlsVersion::Tls13 => Self::Tls13,
        }
    }
}
