//! Admission of valid requests: paths, Origins, subprotocols.

use std::net::SocketAddr;

use protocol::handshake::server::{Accepted, Refusal};

use crate::faults::REFUSED_ON_REQUEST;

/// Pages that may connect. A request without an Origin does not come from a page in a browser, and
/// is always admitted (RFC 6455 10.2).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Origins {
    /// On listeners that programs of this host can reach under a loopback address, only the
    /// server's own page. Otherwise any page in a browser could use the server. On other listeners,
    /// every page.
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
            Self::Guarded => !on_loopback || is_own_page(origin, host) == Ownership::Own,
            Self::Listed(known) => known.iter().any(|known| known.eq_ignore_ascii_case(origin)),
        }
    }
}

/// Returns true if programs of this host reach the listener under a loopback address.
pub(crate) fn is_on_loopback(listener: SocketAddr) -> bool {
    let address = listener.ip().to_canonical();
    address.is_loopback() || address.is_unspecified()
}

/// Relation of a page to the host that its request is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ownership {
    /// The page came from that host.
    Own,
    /// The page came from another port of the same host, and the request has no port: a proxy may
    /// have dropped it.
    PortMissing,
    Foreign,
}

/// Compares a page's Origin with the host and port that it now connects to. A page is the server's
/// own only where that host is an address or `localhost`. The owner of any other name can make it
/// resolve to this server (DNS rebinding).
///
/// A Host without a port equals an Origin without a port, and no other one. Browsers leave the
/// default port out of both, so this is the page of a server at port 80, or of a proxy that ends
/// TLS at port 443. A proxy at another port that drops the port looks the same to the server. Then
/// pages at the host's default ports count as its own, and the proxy's pages do not. So a proxy has
/// to forward the Host with its port.
fn is_own_page(origin: &str, host: &str) -> Ownership {
    let (authority, default_port) =
        match (origin.strip_prefix("http://"), origin.strip_prefix("https://")) {
            (Some(authority), _) => (authority, "80"),
            (_, Some(authority)) => (authority, "443"),
            _ => return Ownership::Foreign,
        };
    let (name, port) = split_port(host);
    let address = name.strip_prefix('[').and_then(|name| name.strip_suffix(']')).unwrap_or(name);
    let is_fixed =
        address.eq_ignore_ascii_case("localhost") || address.parse::<std::net::IpAddr>().is_ok();
    let (origin_name, origin_port) = split_port(authority);
    if !is_fixed || !origin_name.eq_ignore_ascii_case(name) {
        return Ownership::Foreign;
    }
    match (origin_port, port) {
        (None, None) => Ownership::Own,
        (Some(_), None) => Ownership::PortMissing,
        (origin_port, Some(port)) if origin_port.unwrap_or(default_port) == port => Ownership::Own,
        _ => Ownership::Foreign,
    }
}

/// Splits an authority into its host and its port.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    let split = authority.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
    split.map_or((authority, None), |(host, port)| (host, Some(port)))
}

/// Requirements of valid requests, and accepted subprotocols.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Admission {
    /// Only path, without a query. `None`: every path.
    pub path: Option<String>,
    /// Pages that may connect.
    pub origins: Origins,
    /// Accepted subprotocols. A client that offers none of them gets none, and may disconnect
    /// (RFC 6455 4.2.2).
    pub subprotocols: Vec<String>,
}

/// Refusal of a request, with an explanation.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) refusal: Refusal,
    /// Part of the request that caused it, escaped and bounded.
    pub(crate) said: Option<String>,
    /// Explanation for the client and the log, where it is more than the refusal's own.
    detail: Option<String>,
}

impl From<Refusal> for Rejection {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, said: None, detail: None }
    }
}

impl Rejection {
    /// Most characters of a client's text in the log or in an answer.
    const SAID: usize = 200;

    fn about(refusal: Refusal, said: &str) -> Self {
        Self { refusal, said: Some(escaped(said)), detail: None }
    }

    /// A refusal with an own explanation.
    pub(crate) fn with_detail(refusal: Refusal, detail: String) -> Self {
        Self { refusal, said: None, detail: Some(detail) }
    }

    /// A 403 for a page of `origin`, with the flag that admits it.
    fn forbidden_origin(origin: &str, host: &str, is_guarded: bool) -> Self {
        let said = escaped(origin);
        let forward = if is_guarded && is_own_page(origin, host) == Ownership::PortMissing {
            "have the proxy forward the Host with its port (nginx: proxy_set_header Host $http_host), or "
        } else {
            ""
        };
        // Users copy the flag: it is complete, and a shell expands nothing in it. The quotes are
        // for the brackets of an IPv6 address.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || ":/.-_[]".contains(c);
        let is_whole = said == origin;
        let value = if is_whole && said.chars().all(is_plain) {
            format!("'{said}'")
        } else {
            "URL".to_owned()
        };
        let detail = format!(
            "pages of the Origin \"{said}\" may not connect to the Host \"{}\": {forward}start the server \
             with --origin {value}",
            escaped(host)
        );
        Self { refusal: Refusal::forbidden_origin(), said: Some(said), detail: Some(detail) }
    }

    /// Returns whether the client has asked for the refusal.
    pub(crate) fn is_on_request(&self) -> bool {
        self.refusal.rule() == REFUSED_ON_REQUEST
    }

    /// Explanation in one line.
    pub(crate) fn detail(&self) -> &str {
        self.detail.as_deref().unwrap_or(self.refusal.detail())
    }

    /// Complete HTTP response, after which the connection is closed.
    pub(crate) fn response(&self) -> Vec<u8> {
        self.refusal.response_with(self.detail())
    }
}

fn escaped(text: &str) -> String {
    text.escape_debug().take(Rejection::SAID).collect()
}

impl Admission {
    /// Admits a request for `path`, and puts the accepted subprotocol into its response.
    ///
    /// # Errors
    ///
    /// 404 for another path, 403 for another Origin.
    pub(crate) fn admit(
        &self,
        path: &str,
        request: &mut Accepted,
        on_loopback: bool,
    ) -> Result<(), Rejection> {
        if self.path.as_ref().is_some_and(|only| only != path) {
            return Err(Rejection::about(Refusal::unknown_path(), path));
        }
        if let Some(origin) = request.origin()
            && !self.origins.allow(origin, request.host(), on_loopback)
        {
            let is_guarded = self.origins == Origins::Guarded;
            return Err(Rejection::forbidden_origin(origin, request.host(), is_guarded));
        }
        request
            .select_subprotocol(|offered| self.subprotocols.iter().any(|known| known == offered));
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
            ("http://localhost", "localhost"),
            // A proxy ends TLS at its default port.
            ("https://localhost", "localhost"),
            ("http://localhost", "localhost:80"),
            ("https://localhost", "localhost:443"),
        ] {
            assert_eq!(is_own_page(origin, host), Ownership::Own, "{origin} at {host}");
        }
        for (origin, host) in [
            ("http://127.0.0.1:9002", "127.0.0.1:9001"),
            ("http://localhost:9001", "127.0.0.1:9001"),
            ("http://localhost", "localhost:9001"),
            ("http://localhost", "localhost:443"),
            ("http://evil.example:9001", "evil.example:9001"),
            ("http://evil.example:9001", "evil.example"),
            ("http://localhost.evil.example:9001", "localhost.evil.example:9001"),
            ("null", "localhost"),
            ("file://localhost", "localhost"),
            ("http://localhost:9001/", "localhost:9001"),
        ] {
            assert_eq!(is_own_page(origin, host), Ownership::Foreign, "{origin} at {host}");
        }
    }

    /// A page of another program at another port of the host looks the same, so it is refused.
    #[test]
    fn a_host_without_a_port_equals_no_origin_with_one() {
        for (origin, host) in [
            ("http://localhost:8080", "localhost"),
            ("https://[::1]:8443", "[::1]"),
            // No browser sends a default port.
            ("http://127.0.0.1:80", "127.0.0.1"),
            ("https://localhost:443", "localhost"),
        ] {
            assert_eq!(is_own_page(origin, host), Ownership::PortMissing, "{origin} at {host}");
            assert!(!Origins::Guarded.allow(origin, host, true));
        }
        let detail =
            |origin, host| Rejection::forbidden_origin(origin, host, true).detail().to_owned();
        let missing = detail("http://localhost:8080", "localhost");
        assert!(
            missing.contains("$http_host") && missing.ends_with("--origin 'http://localhost:8080'"),
            "{missing}"
        );
        let foreign = detail("https://echo.example", "127.0.0.1:9001");
        assert!(
            !foreign.contains("$http_host") && foreign.ends_with("--origin 'https://echo.example'"),
            "{foreign}"
        );
    }

    #[test]
    fn a_remedy_holds_nothing_that_a_shell_expands() {
        for expanded in ["http://$(reboot)", "http://a'b"] {
            let declined = Rejection::forbidden_origin(expanded, "localhost:1", true);
            assert!(declined.detail().ends_with("--origin URL"), "{}", declined.detail());
        }
        let brackets = Rejection::forbidden_origin("http://[::1]:9001", "localhost:1", true);
        assert!(
            brackets.detail().ends_with("--origin 'http://[::1]:9001'"),
            "{}",
            brackets.detail()
        );
        let long = Rejection::forbidden_origin(&"a".repeat(10_000), &"b".repeat(10_000), true);
        assert!(
            long.detail().len() < 1000 && long.detail().ends_with("--origin URL"),
            "{}",
            long.detail()
        );
        let response = String::from_utf8(long.response()).expect("text");
        assert!(response.contains("403") && response.contains("--origin"), "{response}");
    }

    #[test]
    fn pages_are_held_off_where_loopback_leads() {
        let on_loopback = |text: &str| is_on_loopback(text.parse().expect("address"));
        assert!(
            ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "0.0.0.0:1", "[::]:1"]
                .into_iter()
                .all(on_loopback)
        );
        assert!(!on_loopback("192.0.2.1:1") && !on_loopback("[2001:db8::1]:1"));
        let foreign =
            |origins: &Origins, on| origins.allow("http://other.example", "localhost:1", on);
        assert!(!foreign(&Origins::Guarded, true) && foreign(&Origins::Guarded, false));
        assert!(foreign(&Origins::Any, true));
        let listed = Origins::Listed(vec!["http://other.example".to_owned()]);
        assert!(foreign(&listed, true) && !listed.allow("http://localhost:1", "localhost:1", true));
    }

    #[test]
    fn what_clients_say_is_escaped_and_cut() {
        let declined = Rejection::about(Refusal::unknown_path(), "/\u{1b}[31m\n\"");
        assert_eq!(declined.said.as_deref(), Some("/\\u{1b}[31m\\n\\\""));
        let long = Rejection::about(Refusal::unknown_path(), &"a".repeat(10_000));
        assert_eq!(long.said.map(|said| said.len()), Some(200));
    }
}
