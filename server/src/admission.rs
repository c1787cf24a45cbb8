//! Which right requests become WebSockets: paths, Origins, subprotocols.

use std::net::SocketAddr;

use protocol::handshake::server::{Accepted, Refusal};

/// Whose pages may connect. A request without an Origin comes from no browser's page and is always let in (RFC 6455 10.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// On listeners that programs of this host can reach under a loopback address only the server's own page, as any page in a
    /// browser could drive the server otherwise; on others every page.
    #[default]
    Guarded,
    /// Every page.
    Any,
    /// Pages of these Origins, as browsers send them (RFC 6454 6.2).
    Listed(Vec<String>),
}

impl Origins {
    fn allow(&self, origin: &str, host: &str, on_loopback: bool) -> bool {
        match self {
            Self::Any => true,
            Self::Guarded => !on_loopback || is_own_page(origin, host),
            Self::Listed(known) => known.iter().any(|known| known.eq_ignore_ascii_case(origin)),
        }
    }
}

/// Whether a listener is reached by programs of this host under a loopback address.
pub(crate) fn is_on_loopback(listener: SocketAddr) -> bool {
    let address = listener.ip().to_canonical();
    address.is_loopback() || address.is_unspecified()
}

/// Whether a page comes from the host and port that it now connects to. Only where that host is given as an address or as
/// `localhost`: any other name may have been pointed here by whoever owns it (DNS rebinding).
fn is_own_page(origin: &str, host: &str) -> bool {
    let authority = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    let name = host.rsplit_once(':').filter(|(_, port)| !port.contains(']')).map_or(host, |(name, _)| name);
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let is_fixed = address.eq_ignore_ascii_case("localhost") || address.parse::<std::net::IpAddr>().is_ok();
    is_fixed && authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

/// Which right requests are let in, and what is agreed with them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// The only path, without a query; `None`: every path.
    pub path: Option<String>,
    /// Whose pages.
    pub origins: Origins,
    /// Subprotocols that may be agreed on. A client that offers none of them gets none and may go (RFC 6455 4.2.2).
    pub subprotocols: Vec<String>,
}

/// A refusal, and what of the request it is about: for the log, escaped.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Declined {
    pub(crate) refusal: Refusal,
    pub(crate) said: Option<String>,
}

impl From<Refusal> for Declined {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, said: None }
    }
}

impl Declined {
    /// Letters of a client's in the log, at most.
    const SAID: usize = 200;

    fn about(refusal: Refusal, said: &str) -> Self {
        let said = said.escape_debug().take(Self::SAID).collect();
        Self { refusal, said: Some(said) }
    }
}

impl Admission {
    /// Lets a request in, with the subprotocol that was agreed on in its answer.
    ///
    /// # Errors
    ///
    /// 404 for another path, 403 for another Origin.
    pub(crate) fn admit(&self, request: &mut Accepted, on_loopback: bool) -> Result<(), Declined> {
        let asked = request.target().split('?').next().unwrap_or_default();
        if self.path.as_ref().is_some_and(|path| path != asked) {
            return Err(Declined::about(Refusal::unknown_path(), asked));
        }
        if let Some(origin) = request.origin()
            && !self.origins.allow(origin, request.host(), on_loopback)
        {
            return Err(Declined::about(Refusal::forbidden_origin(), origin));
        }
        request.select_subprotocol(|offered| self.subprotocols.iter().any(|known| known == offered));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_the_servers_own_by_host_and_port() {
        for (origin, host) in [
            ("http://127.0.0.1:9001", "127.0.0.1:9001"),
            ("https://127.0.0.1:9001", "127.0.0.1:9001"),
            ("http://localhost:9001", "LocalHost:9001"),
            ("http://[::1]:9001", "[::1]:9001"),
            ("http://[::1]", "[::1]"),
            ("http://192.0.2.7", "192.0.2.7"),
        ] {
            assert!(is_own_page(origin, host), "{origin} at {host}");
        }
        for (origin, host) in [
            ("http://127.0.0.1:9002", "127.0.0.1:9001"),
            ("http://localhost:9001", "127.0.0.1:9001"),
            ("http://evil.example:9001", "evil.example:9001"),
            ("http://localhost.evil.example:9001", "localhost.evil.example:9001"),
            ("null", "localhost"),
            ("file://localhost", "localhost"),
            ("http://localhost:9001/", "localhost:9001"),
        ] {
            assert!(!is_own_page(origin, host), "{origin} at {host}");
        }
    }

    #[test]
    fn pages_are_held_off_where_loopback_leads() {
        let on_loopback = |text: &str| is_on_loopback(text.parse().expect("address"));
        assert!(
            ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "0.0.0.0:1", "[::]:1"].into_iter().all(on_loopback)
        );
        assert!(!on_loopback("192.0.2.1:1") && !on_loopback("[2001:db8::1]:1"));
        let foreign = |origins: &Origins, on| origins.allow("http://other.example", "localhost:1", on);
        assert!(!foreign(&Origins::Guarded, true) && foreign(&Origins::Guarded, false));
        assert!(foreign(&Origins::Any, true));
        let listed = Origins::Listed(vec!["http://other.example".to_owned()]);
        assert!(foreign(&listed, true) && !listed.allow("http://localhost:1", "localhost:1", true));
    }

    #[test]
    fn what_clients_say_is_escaped_and_cut() {
        let declined = Declined::about(Refusal::unknown_path(), "/\u{1b}[31m\n\"");
        assert_eq!(declined.said.as_deref(), Some("/\\u{1b}[31m\\n\\\""));
        let long = Declined::about(Refusal::unknown_path(), &"a".repeat(10_000));
        assert_eq!(long.said.map(|said| said.len()), Some(200));
    }
}
