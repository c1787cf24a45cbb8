//! The server of a run.

use std::time::Duration;

use engine::rustls::pki_types::ServerName;

use super::plan::{PlanError, require};
use crate::load::{Load, Transport};
use crate::result::{Route, Setting};
use crate::target::client_certificate::ClientCertificate;
use crate::target::metrics::MetricsUrl;
use crate::target::opening::HandshakeRequest;
use crate::target::place::Place;
use crate::target::spawn::Spawn;
use crate::target::template;
use crate::target::trust::Trust;
use crate::target::url::Url;

/// The server of a run: where it is, how to open a connection, and how to start it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its URL. The scheme is [`Load::transport`], too.
    pub url: Url,
    /// Further servers. Connections take all of them in turn, by their numbers.
    pub others: Vec<Url>,
    /// Where connections are made to in place of the URL's host.
    pub connect_to: Option<Place>,
    /// The Host field; `None`: the URL's.
    pub host: Option<String>,
    /// The server's name in TLS, which its certificate must have; `None`: the URL's host.
    pub sni: Option<String>,
    /// The Origin field of the opening handshake.
    pub origin: Option<String>,
    /// Subprotocols to offer, the preferred one first.
    pub subprotocols: Vec<String>,
    /// Further fields of the opening handshake.
    pub headers: Vec<(String, String)>,
    /// The accepted certificates, over `wss`.
    pub trust: Trust,
    /// The certificate for a server that asks for one.
    pub certificate: Option<ClientCertificate>,
    /// The server to start for this run and to end with it.
    pub spawn: Option<Spawn>,
    /// The proxy to start before that server: the generator connects to the proxy.
    pub via: Option<Spawn>,
    /// Longest time until a started server accepts.
    pub start_timeout: Duration,
    /// The metrics of a server that was not started here.
    pub metrics: Option<MetricsUrl>,
    /// Settings of the server, where the caller knows them: only recorded.
    pub known: Setting,
}

impl Target {
    /// Returns a server that is running, with a plain opening handshake.
    pub fn new(url: Url) -> Self {
        Self {
            url,
            others: Vec::new(),
            connect_to: None,
            host: None,
            sni: None,
            origin: None,
            subprotocols: Vec::new(),
            headers: Vec::new(),
            trust: Trust::default(),
            certificate: None,
            spawn: None,
            via: None,
            start_timeout: Duration::from_secs(20),
            metrics: None,
            known: Setting::default(),
        }
    }

    /// Returns the URLs of all servers.
    pub(crate) fn urls(&self) -> impl Iterator<Item = &Url> {
        std::iter::once(&self.url).chain(&self.others)
    }

    /// Returns the server's name in TLS.
    pub(crate) fn server_name<'a>(&'a self, url: &'a Url) -> &'a str {
        self.sni.as_deref().unwrap_or(&url.host)
    }

    /// Returns the request of the opening handshake with the server at `url`.
    pub(crate) fn request(&self, url: &Url, load: &Load) -> HandshakeRequest {
        let headers: Vec<_> = self.headers.iter().cloned().chain(url.authorization()).collect();
        let texts = headers.iter().map(|(_, value)| value).chain([&url.target]);
        let is_template =
            texts.map(|text| template::has_placeholder(text)).any(|has| has == Ok(true));
        HandshakeRequest {
            deflate: load.offer(),
            host: self.host.clone().unwrap_or_else(|| url.host_field()),
            target: url.target.clone(),
            origin: self.origin.clone(),
            subprotocols: self.subprotocols.clone(),
            headers,
            is_template,
        }
    }

    /// Returns what of the way to the server decides whether results compare.
    pub(crate) fn route(&self) -> Route {
        let targets = u32::try_from(1 + self.others.len()).unwrap_or(u32::MAX);
        Route { targets, client_certificate: self.certificate.is_some() }
    }

    /// Checks that the parts fit together, and that the opening handshake can be written.
    pub(super) fn check(&self, load: &Load) -> Result<(), PlanError> {
        check_tls(&self.trust, self.certificate.as_ref(), self.url.transport)?;
        self.check_tls_flags(load)?;
        if let Some(other) = self.others.iter().find(|url| url.transport != self.url.transport) {
            return Err(PlanError(format!(
                "{} and {other} have different schemes: the connections of a run have one",
                self.url
            )));
        }
        for (what, is_given) in
            [("several URLs", !self.others.is_empty()), ("--connect-to", self.connect_to.is_some())]
        {
            let reason = format!(
                "{what} and --spawn do not go together: the server is started at the URL's address \
                 (--host and --sni give it other names)"
            );
            require(!is_given || self.spawn.is_none(), reason)?;
        }
        self.urls().try_for_each(|url| self.check_request(url, load))
    }

    fn check_tls_flags(&self, load: &Load) -> Result<(), PlanError> {
        for (flag, is_given) in [
            ("--sni", self.sni.is_some()),
            ("--tls-min", load.tls_min.is_some()),
            ("--tls-max", load.tls_max.is_some()),
            ("--tls-resume", load.tls_resume_percent > 0),
        ] {
            let reason = format!("{flag} needs a wss:// URL: there is no TLS otherwise");
            require(!is_given || self.url.transport == Transport::Wss, reason)?;
        }
        if let Some(name) = &self.sni {
            let is_name = ServerName::try_from(name.as_str()).is_ok();
            let reason =
                format!("`{name}` is not a valid --sni: expected a host name, as in example.org");
            require(is_name, reason)?;
        }
        let versions = load.tls_versions();
        require(
            versions.min <= versions.max,
            "--tls-min 1.3 is above --tls-max 1.2: expected a version between them, as in --tls-min 1.2",
        )
    }

    fn check_request(&self, url: &Url, load: &Load) -> Result<(), PlanError> {
        if !url.transport.is_websocket() {
            return Ok(());
        }
        let named = |flag: &str| {
            let flag = flag.to_owned();
            move |why: String| PlanError(format!("{flag}: {why}"))
        };
        template::has_placeholder(&url.target).map_err(named(&format!("the URL {url}")))?;
        for (name, value) in &self.headers {
            // The value may be a secret.
            template::has_placeholder(value).map_err(named(&format!("--header {name}")))?;
        }
        let is_authorized =
            self.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("Authorization"));
        require(
            url.credentials.is_none() || !is_authorized,
            "--header Authorization and the user of the URL do not go together: give one of them",
        )?;
        self.request(url, load).check().map_err(|error| {
            PlanError(format!("--header, --origin, --subprotocol, --host or the URL: {error}"))
        })
    }
}

/// Checks that flags of certificates have an effect, and that the client's can be used.
pub(crate) fn check_tls(
    trust: &Trust,
    certificate: Option<&ClientCertificate>,
    transport: Transport,
) -> Result<(), PlanError> {
    for flag in trust.flag().into_iter().chain(certificate.map(|_| "--cert")) {
        let reason = format!("{flag} needs a wss:// URL: no certificate is shown otherwise");
        require(transport == Transport::Wss, reason)?;
    }
    let checked = certificate.map(ClientCertificate::load).transpose();
    checked.map(drop).map_err(|error| PlanError(error.to_string()))
}
