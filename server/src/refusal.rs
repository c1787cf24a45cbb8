//! Log of refused input, and counts by rule. Each refusal gets a line with the rule that was
//! violated, up to a limit of lines per second.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use engine::Nanos;
use engine::rustls::{AlertDescription, Error, PeerIncompatible};
use engine::tls::TlsError;
use protocol::ProtocolError;
use protocol::handshake::server::Refusal;
use tracing::warn;

use crate::admission::Rejection;
use crate::counted::counted;
use crate::proxy::ProxyHeaderError;

/// A worker's refusals: counted all, logged as far as the limit allows.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    /// A few dozen rules at most, each a constant of the program.
    by_rule: Vec<(&'static str, u64)>,
    window_end: Nanos,
    lines: u32,
    unlogged: u64,
}

/// Where a refused connection comes from, where that is known.
struct Peer(Option<SocketAddr>);

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(peer) => peer.fmt(f),
            None => f.write_str("-"),
        }
    }
}

impl Refusals {
    /// Lines in a window.
    const LINES: u32 = 10;
    const WINDOW: Duration = Duration::from_secs(1);

    /// Refusals so far.
    pub(crate) fn count(&self) -> u64 {
        self.by_rule.iter().map(|(_, count)| count).sum()
    }

    /// Number of violations of each rule that was violated.
    pub(crate) fn by_rule(&self) -> &[(&'static str, u64)] {
        &self.by_rule
    }

    /// A connection or its request was refused with an HTTP status.
    pub(crate) fn handshake(&mut self, now: Nanos, declined: &Rejection, peer: Option<SocketAddr>) {
        let refusal = declined.refusal;
        if self.may_log(now, refusal.rule()) {
            let (status, rule, section) = (refusal.status(), refusal.rule(), refusal.section());
            let (said, peer) = (declined.said.as_deref(), Peer(peer));
            warn!(status, rule, section, said, %peer, "handshake refused: {}", declined.detail());
        }
    }

    /// A connection's TLS failed, nearly always in its handshake.
    pub(crate) fn tls(&mut self, now: Nanos, error: &TlsError, peer: Option<SocketAddr>) {
        let refusal = match error {
            TlsError::NotTls => Refusal::plain_on_tls_port(),
            _ => Refusal::tls_failed(),
        };
        if self.may_log(now, refusal.rule()) {
            let (rule, section, peer) = (refusal.rule(), refusal.section(), Peer(peer));
            match error {
                TlsError::NotTls => {
                    warn!(rule, section, %peer, "handshake refused: {}", refusal.detail());
                }
                error => warn!(rule, section, %peer, "{}", explain(error)),
            }
        }
    }

    /// A connection of a trusted proxy has no valid header of the PROXY protocol.
    pub(crate) fn proxy_header(
        &mut self,
        now: Nanos,
        error: &ProxyHeaderError,
        peer: Option<SocketAddr>,
    ) {
        const RULE: &str = "proxy-header";
        if self.may_log(now, RULE) {
            let (section, peer) = ("proxy-protocol.txt 2", Peer(peer));
            warn!(rule = RULE, section, %peer, "connection refused: {error}");
        }
    }

    /// Frames were refused with a close code.
    pub(crate) fn frames(&mut self, now: Nanos, error: &ProtocolError, peer: Option<SocketAddr>) {
        if self.may_log(now, error.rule()) {
            let (code, rule, section) = (error.close_code(), error.rule(), error.section());
            let peer = Peer(peer);
            warn!(code, rule, section, %peer, "frames refused: {error}");
        }
    }

    /// A WebSocket was closed with this code for a rule of ours, not of the protocol's.
    pub(crate) fn conduct(
        &mut self,
        now: Nanos,
        code: u16,
        rule: &'static str,
        peer: Option<SocketAddr>,
    ) {
        if self.may_log(now, rule) {
            let peer = Peer(peer);
            warn!(code, rule, %peer, "WebSocket refused: {}", rule.replace('-', " "));
        }
    }

    fn may_log(&mut self, now: Nanos, rule: &'static str) -> bool {
        match self.by_rule.iter_mut().find(|(known, _)| *known == rule) {
            Some((_, count)) => *count += 1,
            None => self.by_rule.push((rule, 1)),
        }
        if now >= self.window_end {
            if self.unlogged > 0 {
                let verb = if self.unlogged == 1 { "was" } else { "were" };
                warn!("{} {verb} not logged", counted(self.unlogged, "more refusal"));
            }
            (self.window_end, self.lines, self.unlogged) = (now + Self::WINDOW, 0, 0);
        }
        let may = self.lines < Self::LINES;
        if may {
            self.lines += 1;
        } else {
            self.unlogged += 1;
        }
        may
    }
}

/// The commonest failure looks like a fault of the client's and is the certificate.
fn explain(error: &TlsError) -> String {
    use AlertDescription::{BadCertificate, CertificateExpired, CertificateUnknown, UnknownCA};
    // TLS 1.0 and 1.1 have no extension for signature algorithms.
    use PeerIncompatible::{
        SignatureAlgorithmsExtensionRequired, SupportedVersionsExtensionRequired, Tls12NotOffered,
        Tls12NotOfferedOrEnabled,
    };
    match error {
        TlsError::Protocol(Error::AlertReceived(
            alert @ (UnknownCA | CertificateUnknown | BadCertificate | CertificateExpired),
        )) => format!("the client does not trust this server's certificate (alert {alert:?})"),
        TlsError::Protocol(Error::AlertReceived(alert)) => {
            format!("the client gave up in TLS (alert {alert:?})")
        }
        TlsError::Protocol(Error::PeerIncompatible(
            SignatureAlgorithmsExtensionRequired
            | SupportedVersionsExtensionRequired
            | Tls12NotOffered
            | Tls12NotOfferedOrEnabled,
        )) => "the client offers no version of TLS that this server speaks (1.2 and 1.3, within \
                --tls-min and --tls-max)"
            .to_owned(),
        TlsError::Protocol(Error::NoCertificatesPresented) => {
            "the client has no certificate, and --tls-client-ca asks for one".to_owned()
        }
        // The only certificate that a server judges is the client's.
        TlsError::Protocol(Error::InvalidCertificate(error)) => {
            format!("the client's certificate is not one that --tls-client-ca accepts ({error})")
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_no_flood_of_lines() {
        let mut refusals = Refusals::default();
        let logged = (0..1000).filter(|_| refusals.may_log(Nanos(5), "one")).count();
        assert_eq!((logged, refusals.unlogged), (10, 990));
        assert!(refusals.may_log(Nanos(5) + Refusals::WINDOW, "another"));
        assert_eq!((refusals.unlogged, refusals.count()), (0, 1001));
        assert_eq!(refusals.by_rule(), [("one", 1000), ("another", 1)]);
    }
}
