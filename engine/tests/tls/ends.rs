//! `Tls` without an engine, and rustls' own buffered client as its peer.

use std::io::{Read, Write};
use std::sync::{Arc, OnceLock};

use engine::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use engine::rustls::{
    self, CipherSuiteCommon, ClientConfig, ClientConnection, RootCertStore, ServerConfig,
    SupportedCipherSuite, SupportedProtocolVersion, Tls12CipherSuite, Tls13CipherSuite,
};
use engine::tls::{ServerSettings, Tls, TlsSettings, server_config};
use engine::{Cause, CloseMode, Commands, ConnId, Handler, Nanos, Origin, Output, Record, Worker};

/// Answer to a client that does not speak TLS.
pub(crate) const NOT_TLS: &[u8] = b"this port speaks TLS\n";
const ID: ConnId = ConnId { slot: 0, generation: 0 };

pub(crate) struct Identity {
    pub(crate) certificate: CertificateDer<'static>,
    key: Vec<u8>,
}

/// A certificate for localhost and its key.
pub(crate) fn identity() -> &'static Identity {
    static IDENTITY: OnceLock<Identity> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])
            .expect("a certificate");
        Identity { certificate: made.cert.into(), key: made.signing_key.serialize_der() }
    })
}

pub(crate) fn server() -> Arc<ServerConfig> {
    let identity = identity();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.clone()));
    server_config(vec![identity.certificate.clone()], key, ServerSettings::default())
        .expect("a server's side")
}

/// Returns a server's settings with keys that allow `limit` records, in place of 2^24.
pub(crate) fn server_of_few_records(limit: u64) -> Arc<ServerConfig> {
    let with_limit = |suite: SupportedCipherSuite| match suite {
        SupportedCipherSuite::Tls13(suite) => {
            let common =
                CipherSuiteCommon { confidentiality_limit: limit, ..common(&suite.common) };
            let (hkdf_provider, aead_alg) = (suite.hkdf_provider, suite.aead_alg);
            // The suites of a provider have a static lifetime.
            let suite = Tls13CipherSuite { common, hkdf_provider, aead_alg, quic: None };
            SupportedCipherSuite::Tls13(Box::leak(Box::new(suite)))
        }
        SupportedCipherSuite::Tls12(suite) => {
            let common =
                CipherSuiteCommon { confidentiality_limit: limit, ..common(&suite.common) };
            let (prf_provider, kx, sign, aead_alg) =
                (suite.prf_provider, suite.kx, suite.sign, suite.aead_alg);
            let suite = Tls12CipherSuite { common, prf_provider, kx, sign, aead_alg };
            SupportedCipherSuite::Tls12(Box::leak(Box::new(suite)))
        }
    };
    let mut provider = rustls::crypto::ring::default_provider();
    provider.cipher_suites = provider.cipher_suites.into_iter().map(with_limit).collect();
    let identity = identity();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(identity.key.clone()));
    let config = ServerConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![identity.certificate.clone()], key)
        .expect("a server's side");
    Arc::new(config)
}

fn common(of: &CipherSuiteCommon) -> CipherSuiteCommon {
    let (suite, hash_provider, confidentiality_limit) =
        (of.suite, of.hash_provider, of.confidentiality_limit);
    CipherSuiteCommon { suite, hash_provider, confidentiality_limit }
}

/// Events that the handler received, in order.
#[derive(Debug, PartialEq)]
pub(crate) enum Told {
    Opened,
    Secured,
    Received(Vec<u8>),
    Eof,
    Deadline,
    Closed(String),
}

type OnCall = Box<dyn FnMut(&Told, &mut Output<'_>)>;

/// Handler that records every call, sends everything back, and runs an additional action of a test.
pub(crate) struct Echo {
    pub(crate) told: Vec<Told>,
    besides: OnCall,
}

impl Echo {
    fn tell(&mut self, told: Told, out: &mut Output<'_>) {
        (self.besides)(&told, out);
        self.told.push(told);
    }
}

impl Handler for Echo {
    type Conn = ();

    fn start(&mut self, _: &mut Worker<'_, Self>) {}
    fn opened(&mut self, _: ConnId, _: Origin, out: &mut Output<'_>) {
        self.tell(Told::Opened, out);
    }
    fn secured(&mut self, _: ConnId, (): &mut (), _: bool, out: &mut Output<'_>) {
        self.tell(Told::Secured, out);
    }
    fn connect_failed(&mut self, _: &mut Worker<'_, Self>, _: u64, _: std::io::Error) {}
    fn received(&mut self, _: ConnId, (): &mut (), bytes: &mut [u8], out: &mut Output<'_>) {
        out.echo(0..bytes.len());
        self.tell(Told::Received(bytes.to_vec()), out);
    }
    fn eof(&mut self, _: ConnId, (): &mut (), out: &mut Output<'_>) {
        self.tell(Told::Eof, out);
        out.close(CloseMode::Flush);
    }
    fn drained(&mut self, _: ConnId, (): &mut (), _: &mut Output<'_>) {}
    fn deadline(&mut self, _: ConnId, (): &mut (), out: &mut Output<'_>) {
        self.tell(Told::Deadline, out);
        out.close(CloseMode::Abort);
    }
    fn closed(&mut self, _: ConnId, (): (), cause: Cause) {
        self.told.push(Told::Closed(format!("{cause:?}")));
    }
    fn alarm(&mut self, _: &mut Worker<'_, Self>) {}
    fn woken(&mut self, _: &mut Worker<'_, Self>, _: u64) {}
    fn turn_end(&mut self, _: &mut Worker<'_, Self>) {}
}

/// The server's end: one connection of a `Tls<Echo>`, with the engine's part played by the test.
pub(crate) struct Near {
    tls: Tls<Echo>,
    record: Record,
    conn: Option<<Tls<Echo> as Handler>::Conn>,
    /// Output that the client has not taken yet.
    pub(crate) wire: Vec<u8>,
    pub(crate) commands: Commands,
}

impl Near {
    pub(crate) fn new() -> Self {
        Self::with(|_, _| {})
    }

    /// Creates an end whose handler runs `besides` in every call.
    pub(crate) fn with(besides: impl FnMut(&Told, &mut Output<'_>) + 'static) -> Self {
        Self::of(server(), besides)
    }

    pub(crate) fn of(
        config: Arc<ServerConfig>,
        besides: impl FnMut(&Told, &mut Output<'_>) + 'static,
    ) -> Self {
        let echo = Echo { told: Vec::new(), besides: Box::new(besides) };
        let settings = TlsSettings {
            listeners: vec![Some(config.into())],
            answer_to_plain: NOT_TLS.to_vec(),
            ..TlsSettings::default()
        };
        let (wire, commands) = (Vec::new(), Commands::default());
        let mut near = Self {
            tls: Tls::new(echo, settings),
            record: Record::new(),
            conn: None,
            wire,
            commands,
        };
        let from = Origin::Accepted { listener: 0, peer: None };
        near.conn = Some(near.tls.opened(ID, from, &mut near.record.begin(Nanos(0), 0, 0)));
        near.take(&[]);
        near
    }

    /// Does the engine's work after a call: moves output to the wire, records commands.
    fn take(&mut self, input: &[u8]) {
        for segment in self.record.segments() {
            self.wire.extend_from_slice(self.record.bytes(segment, input));
        }
        self.record.discard_segments();
        self.record.clear_arena();
        let new = self.record.take_commands();
        self.commands.close = new.close.or(self.commands.close);
        self.commands.pause = new.pause.or(self.commands.pause);
        self.commands.deadline = new.deadline.or(self.commands.deadline);
    }

    /// Receives `bytes` in one read.
    pub(crate) fn receive(&mut self, bytes: &[u8]) {
        if bytes.is_empty() || self.commands.close.is_some() {
            return;
        }
        let (mut bytes, conn) = (bytes.to_vec(), self.conn.as_mut().expect("open"));
        let mut out = self.record.begin(Nanos(0), 0, bytes.len());
        self.tls.received(ID, conn, &mut bytes, &mut out);
        self.take(&bytes);
    }

    pub(crate) fn eof(&mut self) {
        if self.commands.close.is_none() {
            let conn = self.conn.as_mut().expect("open");
            self.tls.eof(ID, conn, &mut self.record.begin(Nanos(0), 0, 0));
            self.take(&[]);
        }
    }

    pub(crate) fn deadline(&mut self) {
        let conn = self.conn.as_mut().expect("open");
        self.tls.deadline(ID, conn, &mut self.record.begin(Nanos(0), 0, 0));
        self.take(&[]);
    }

    /// Ends the connection as an engine does, and returns the handler's events, up to the cause.
    pub(crate) fn end(mut self) -> Vec<Told> {
        self.tls.closed(ID, self.conn.take().expect("open"), Cause::PeerClosed);
        self.tls.into_inner().told
    }

    /// Returns the handler's events so far.
    pub(crate) fn told(&self) -> &[Told] {
        &self.tls.inner().told
    }

    /// Returns the bytes that the handler received, all calls together.
    pub(crate) fn heard(&self) -> Vec<u8> {
        let bytes =
            |told: &Told| if let Told::Received(bytes) = told { bytes.clone() } else { Vec::new() };
        self.told().iter().flat_map(bytes).collect()
    }
}

/// The client's end, by the library's buffered API.
pub(crate) struct Far(pub(crate) ClientConnection);

impl Far {
    pub(crate) fn new(version: &'static SupportedProtocolVersion) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(identity().certificate.clone()).expect("a root");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[version])
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        Self(ClientConnection::new(Arc::new(config), name).expect("a client"))
    }

    /// Returns the bytes that the client has to send.
    pub(crate) fn flight(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        while self.0.wants_write() {
            self.0.write_tls(&mut wire).expect("to memory");
        }
        wire
    }

    /// Returns a record for each of the pieces.
    pub(crate) fn records<'a>(&mut self, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
        let mut wire = Vec::new();
        for piece in pieces {
            self.0.writer().write_all(piece).expect("to memory");
            wire.extend(self.flight());
        }
        wire
    }

    /// Reads the server's output and returns its plaintext.
    pub(crate) fn take(&mut self, near: &mut Near) -> Result<Vec<u8>, rustls::Error> {
        let wire = std::mem::take(&mut near.wire);
        let (mut rest, mut plain) = (&wire[..], Vec::new());
        while !rest.is_empty() {
            self.0.read_tls(&mut rest).expect("from memory");
            self.0.process_new_packets()?;
            self.drain(&mut plain);
        }
        Ok(plain)
    }

    fn drain(&mut self, plain: &mut Vec<u8>) {
        let mut buffer = [0; 4096];
        while let Ok(len @ 1..) = self.0.reader().read(&mut buffer) {
            plain.extend_from_slice(&buffer[..len]);
        }
    }
}

pub(crate) const VERSIONS: [&SupportedProtocolVersion; 2] =
    [&rustls::version::TLS12, &rustls::version::TLS13];

/// Returns both ends after their handshake, whose flights `cut` hands over.
pub(crate) fn secured_by(
    version: &'static SupportedProtocolVersion,
    mut near: Near,
    mut cut: impl FnMut(&mut Near, &[u8]),
) -> (Near, Far, Vec<u8>) {
    let (mut far, mut plain) = (Far::new(version), Vec::new());
    for _ in 0..10 {
        let flight = far.flight();
        if flight.is_empty() && near.wire.is_empty() {
            break;
        }
        cut(&mut near, &flight);
        plain.extend(far.take(&mut near).expect("a handshake"));
    }
    assert!(!far.0.is_handshaking(), "the handshake does not end");
    (near, far, plain)
}

/// Returns both ends after their handshake.
pub(crate) fn secured(version: &'static SupportedProtocolVersion) -> (Near, Far) {
    let (near, far, _) = secured_by(version, Near::new(), Near::receive);
    (near, far)
}
