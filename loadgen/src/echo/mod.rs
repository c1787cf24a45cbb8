//! A small echoing client: connects, sends every message back, leaves the ending to the server.
//!
//! It is a strict client for tests of servers (`sparring-loadgen echo`). It is also tested itself:
//! the Autobahn testsuite runs the same cases against it as against any other client. One
//! connection at a time. A message comes back whole, as one masked frame of the same kind, after
//! all of it has arrived and is valid.

mod codec;

use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, anyhow};
use bytes::BytesMut;
use engine::tls::{Tls, TlsSettings, TlsVersions};
use engine::{
    Cause, CloseMode, Config, ConnId, Connect, EngineKind, Handler, Linger, Origin, Output, Worker,
};
use protocol::deflate::MAX_WINDOW_BITS;
use protocol::frame::{MAX_CONTROL_LEN, RSV1};
use protocol::handshake::deflate::Parameters;
use protocol::{Chunk, Connection, Event, Header, Limits, MaskingKey, MessageKind, Opcode};
use protocol::{ProtocolError, Role, encode_close, encode_control, mask};

use crate::load::{Deflate, Transport};
use crate::run::{PlanError, check_tls, require};
use crate::target::client_certificate::ClientCertificate;
use crate::target::opening::{
    Failures, HandshakeRequest, Opening, Response, describe_failures, quoted,
};
use crate::target::trust::{Trust, explain};
use crate::target::url::{Port, Url};
use codec::Codec;

/// Stands for the number of the connection in a URL's path or query.
pub const NUMBER_PLACEHOLDER: &str = "{n}";

/// Connections to make.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The server. [`NUMBER_PLACEHOLDER`] in its target becomes the number of the connection.
    pub url: Url,
    /// One connection for each of these numbers, one after the other; `None` makes one.
    pub repeat: Option<RangeInclusive<u32>>,
    /// The event loop.
    pub engine: EngineKind,
    /// Longest time for connecting, and again for the opening handshake.
    pub connect_timeout: Duration,
    /// Longest time from the last Close to the end of the TCP connection. The server closes it
    /// first (RFC 6455 7.1.1), so that its end keeps the port in TIME_WAIT, not ours.
    pub closing_timeout: Duration,
    /// Limits of received messages.
    pub limits: Limits,
    /// The accepted certificates, over `wss`.
    pub trust: Trust,
    /// The certificate for a server that asks for one.
    pub certificate: Option<ClientCertificate>,
    /// Compression to offer. What comes compressed goes back compressed.
    pub deflate: Deflate,
}

impl Plan {
    /// One connection to `url`, with the limits of the server: 64 MiB a message.
    pub fn new(url: Url, engine: EngineKind) -> Self {
        Self {
            url,
            repeat: None,
            engine,
            connect_timeout: Duration::from_secs(10),
            closing_timeout: Duration::from_secs(2),
            limits: Limits::default(),
            trust: Trust::default(),
            certificate: None,
            deflate: Deflate::Off,
        }
    }

    /// Checks that the parts fit together. The error names the first that does not.
    pub(crate) fn check(&self) -> Result<(), PlanError> {
        let Self { url, repeat, .. } = self;
        require(
            url.transport.is_websocket() && url.port != Port::Chosen,
            format!(
                "`{url}` has nothing to echo: a ws:// URL with the port of a running server is needed"
            ),
        )?;
        require(
            repeat.is_some() || !url.target.contains(NUMBER_PLACEHOLDER),
            format!("{NUMBER_PLACEHOLDER} in the URL needs --repeat FROM..TO"),
        )?;
        check_tls(&self.trust, self.certificate.as_ref(), url.transport)?;
        require(!self.connect_timeout.is_zero(), "--connect-timeout must be more than 0")?;
        let Some(numbers) = repeat else { return Ok(()) };
        let (first, last) = (numbers.start(), numbers.end());
        let reason = format!(
            "--repeat {first}..{last} is empty: the first number must not be above the last"
        );
        require(!numbers.is_empty(), reason)
    }
}

/// End of a WebSocket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The server sent a Close, which was answered by the same.
    Closed {
        /// Its code, where it had one.
        code: Option<u16>,
        /// Its reason, escaped.
        reason: String,
    },
    /// The server broke this rule and was told so by a Close.
    Failed(ProtocolError),
    /// The connection ended without a Close.
    Lost(String),
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed { code: None, .. } => f.write_str("the server closed it without a code"),
            Self::Closed { code: Some(code), reason } => {
                let colon = if reason.is_empty() { "" } else { ": " };
                write!(f, "the server closed it with {code}{colon}{reason}")
            }
            Self::Failed(error) => {
                let (code, section) = (error.close_code(), error.section());
                write!(f, "closed with {code}, for the server broke a rule: {error} ({section})")
            }
            Self::Lost(why) => write!(f, "lost: {why}"),
        }
    }
}

/// A connection that is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndedConnection {
    /// Its number, from [`Plan::repeat`].
    pub number: Option<u32>,
    /// Messages echoed.
    pub messages: u64,
    /// Its end.
    pub ending: Ending,
}

/// Makes the connections of `plan` one after the other, and calls `watch` when one is over.
///
/// Blocks until the servers have closed all of them; a WebSocket may stay open for ever.
///
/// # Errors
///
/// Fails if the plan cannot be carried out, or a connection cannot be opened. A connection that
/// opened and ended is never an error, however it ended.
pub fn execute(plan: &Plan, watch: impl FnMut(&EndedConnection) + 'static) -> anyhow::Result<()> {
    plan.check()?;
    let (_remote, inbox) = engine::remote().context("cannot make an eventfd")?;
    let Port::Number(port) = plan.url.port else { unreachable!("the plan was checked") };
    let addresses = plan
        .url
        .resolve(port)
        .with_context(|| format!("cannot resolve host `{}`", plan.url.host))?;
    let mut client = EchoClient::new(plan, addresses, Box::new(watch));
    if plan.url.transport == Transport::Wss {
        let (certificate, versions) = (plan.certificate.as_ref(), TlsVersions::default());
        let secured = plan.trust.client(&plan.url.host, certificate, versions)?;
        let settings = TlsSettings { connects: vec![secured], ..TlsSettings::default() };
        let mut tls = Tls::new(client, settings);
        engine::run(plan.engine, &config(plan), inbox, &mut tls)?;
        client = tls.into_inner();
    } else {
        engine::run(plan.engine, &config(plan), inbox, &mut client)?;
    }
    client.failure.map_or(Ok(()), Err)
}

fn config(plan: &Plan) -> Config {
    Config {
        max_accepted: 0,
        max_connects: 1,
        linger: Linger { time: plan.closing_timeout, ..Config::default().linger },
        ..Config::default()
    }
}

/// Masking keys and nonces. The server chooses the payloads, so the keys must not be predictable to
/// it (RFC 6455 5.3, 10.3). They are hashes of a counter with a secret key, by the standard
/// library.
#[derive(Debug, Default)]
struct Secrets {
    hash: RandomState,
    used: u64,
}

impl Secrets {
    fn next(&mut self) -> [u8; 8] {
        self.used += 1;
        self.hash.hash_one(self.used).to_ne_bytes()
    }

    fn masking_key(&mut self) -> MaskingKey {
        let [a, b, c, d, ..] = self.next();
        MaskingKey::from_bytes([a, b, c, d])
    }

    /// 16 bytes, fresh for every handshake (RFC 6455 4.1).
    fn nonce(&mut self) -> [u8; 16] {
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.next());
        nonce[8..].copy_from_slice(&self.next());
        nonce
    }
}

/// Handler of one connection at a time.
struct EchoClient {
    plan: Plan,
    /// Numbers of the connections that are still to be made.
    numbers: RangeInclusive<u32>,
    /// Addresses in the order of attempts. The address that worked last is the first.
    addresses: Vec<SocketAddr>,
    /// Failed attempts for the connection that is being made.
    failures: Failures,
    /// The connection that is being made, and the last one while none is.
    connection: EndedConnection,
    /// True if nothing is under way, so that the next connection can begin.
    is_idle: bool,
    /// Error that ends the run.
    failure: Option<anyhow::Error>,
    secrets: Secrets,
    watch: Box<dyn FnMut(&EndedConnection)>,
}

/// Stage of a connection.
enum Stage {
    Handshaking(Box<Opening>),
    Open {
        protocol: Connection,
        message: BytesMut,
        codec: Option<Box<Codec>>,
    },
    /// The last Close is sent, or nothing can be sent any more.
    Ended,
}

impl Stage {
    fn open(deflate: Option<Parameters>) -> Self {
        let role = Role::Client;
        let protocol = match deflate {
            Some(_) => Connection::with_deflate(role),
            None => Connection::new(role),
        };
        let codec = deflate.map(|agreed| Box::new(Codec::new(agreed)));
        Self::Open { protocol, message: BytesMut::new(), codec }
    }
}

impl EchoClient {
    fn new(
        plan: &Plan,
        addresses: Vec<SocketAddr>,
        watch: Box<dyn FnMut(&EndedConnection)>,
    ) -> Self {
        Self {
            plan: plan.clone(),
            numbers: plan.repeat.clone().unwrap_or(1..=1),
            addresses,
            failures: Failures::new(),
            connection: EndedConnection {
                number: None,
                messages: 0,
                ending: Ending::Lost(String::new()),
            },
            is_idle: true,
            failure: None,
            secrets: Secrets::default(),
            watch,
        }
    }

    // Opening.

    fn begin_next(&mut self, w: &mut Worker<'_, Self>) {
        let next = if self.failure.is_none() { self.numbers.next() } else { None };
        let Some(number) = next else { return w.stop() };
        self.is_idle = false;
        self.connection.number = self.plan.repeat.as_ref().map(|_| number);
        self.connection.messages = 0;
        self.failures.clear();
        self.connect(w, 0);
    }

    fn connect(&self, w: &mut Worker<'_, Self>, attempt: usize) {
        let (to, tag) = (self.addresses[attempt], attempt as u64);
        w.connect(Connect { to, from: None, tag, timeout: self.plan.connect_timeout });
    }

    fn target(&self) -> String {
        let target = self.plan.url.target.clone();
        match self.connection.number {
            Some(number) => target.replace(NUMBER_PLACEHOLDER, &number.to_string()),
            None => target,
        }
    }

    fn handshake_failed(&mut self, detail: String) {
        self.failure = Some(anyhow!("opening handshake for {} failed: {detail}", self.target()));
    }

    // Frames.

    fn read_frames(&mut self, stage: &mut Stage, bytes: &mut [u8], out: &mut Output<'_>) {
        let Stage::Open { protocol, message, codec } = stage else { return };
        let mut at = 0;
        let ending = loop {
            match protocol.next(&self.plan.limits, bytes, &mut at) {
                Ok(Some(Event::Data(chunk))) => {
                    let Chunk { kind, first, last, compressed, .. } = chunk;
                    if first {
                        *message = out.buffer();
                    }
                    let mut codec = codec.as_deref_mut().filter(|_| compressed);
                    let result = match &mut codec {
                        None => protocol.unmask_append(chunk, bytes, message),
                        Some(codec) => protocol.unmask_in_place(chunk, bytes).and_then(|payload| {
                            let payload = &bytes[payload];
                            codec.inflate(&self.plan.limits, (kind, first, last), payload, message)
                        }),
                    };
                    if let Err(error) = result {
                        break self.fail(error, out);
                    }
                    if last {
                        self.connection.messages += 1;
                        self.send_back(kind, std::mem::take(message), codec, out);
                    }
                }
                Ok(Some(Event::Ping(ping))) => self.control(Opcode::Pong, ping.payload(), out),
                Ok(Some(Event::Pong(_))) => {}
                Ok(Some(Event::Close(close))) => {
                    // The answer is the same Close (RFC 6455 5.5.1).
                    self.control(Opcode::Close, close.payload(), out);
                    break Ending::Closed { code: close.code(), reason: quoted(close.reason()) };
                }
                Ok(None) => return,
                Err(error) => break self.fail(error, out),
            }
        };
        self.end(stage, ending, out);
        out.set_deadline(Some(out.now() + self.plan.closing_timeout));
    }

    /// Sends a message, compressed where there is a codec.
    fn send_back(
        &mut self,
        kind: MessageKind,
        mut message: BytesMut,
        codec: Option<&mut Codec>,
        out: &mut Output<'_>,
    ) {
        let mut rsv = 0;
        if let Some(deflater) = codec.and_then(|codec| codec.deflater.as_mut()) {
            let mut payload = out.buffer();
            deflater.deflate(&message, &mut payload);
            out.recycle(std::mem::replace(&mut message, payload));
            rsv = RSV1;
        }
        let key = self.secrets.masking_key();
        let (opcode, payload_len) = (kind.opcode(), message.len() as u64);
        let header = Header { fin: true, rsv, opcode, mask: Some(key), payload_len };
        let mut bytes = [0; Header::MAX_LEN];
        let len = header.encode(&mut bytes);
        out.append(&bytes[..len]);
        mask::in_place(&mut message, key);
        out.give(message);
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8], out: &mut Output<'_>) {
        let mut frame = [0; MAX_CONTROL_LEN];
        let len = encode_control(opcode, payload, Some(self.secrets.masking_key()), &mut frame);
        out.append(&frame[..len]);
    }

    // Ending.

    /// A broken rule has a Close with its code for an answer (RFC 6455 7.1.7).
    fn fail(&mut self, error: ProtocolError, out: &mut Output<'_>) -> Ending {
        let mut frame = [0; MAX_CONTROL_LEN];
        let key = self.secrets.masking_key();
        let len = encode_close(Some(error.close_code()), error.rule(), Some(key), &mut frame);
        out.append(&frame[..len]);
        Ending::Failed(error)
    }

    fn end(&mut self, stage: &mut Stage, ending: Ending, out: &mut Output<'_>) {
        self.connection.ending = ending;
        if let Stage::Open { message, .. } = std::mem::replace(stage, Stage::Ended) {
            out.recycle(message);
        }
    }
}

fn describe(cause: &Cause) -> String {
    match cause {
        Cause::PeerClosed => "the server closed the connection without a Close".to_owned(),
        Cause::Closed => "given up".to_owned(),
        Cause::Reset => "the server reset the connection".to_owned(),
        Cause::WriteStalled => "the server took no more bytes".to_owned(),
        Cause::Io(error) => error.to_string(),
        Cause::Layer(error) => error.downcast_ref().map_or_else(|| error.to_string(), explain),
        Cause::Shutdown => "the program ended".to_owned(),
    }
}

impl Handler for EchoClient {
    type Conn = Stage;

    fn start(&mut self, w: &mut Worker<'_, Self>) {
        self.begin_next(w);
    }

    fn opened(&mut self, _: ConnId, _: Origin, out: &mut Output<'_>) -> Stage {
        self.addresses.rotate_left(self.failures.len());
        let request = HandshakeRequest {
            host: self.plan.url.host_field(),
            target: self.target(),
            headers: self.plan.url.authorization().into_iter().collect(),
            deflate: self.plan.deflate.offer(MAX_WINDOW_BITS),
            ..Default::default()
        };
        let (nonce, timeout) = (self.secrets.nonce(), self.plan.connect_timeout);
        Stage::Handshaking(Box::new(Opening::begin(&request, nonce, timeout, out)))
    }

    fn connect_failed(&mut self, w: &mut Worker<'_, Self>, tag: u64, source: io::Error) {
        let attempt = tag as usize;
        self.failures.push((self.addresses[attempt], source));
        if attempt + 1 < self.addresses.len() {
            return self.connect(w, attempt + 1);
        }
        self.failure = Some(anyhow!(describe_failures(&self.failures)));
        self.is_idle = true;
    }

    fn received(&mut self, _: ConnId, stage: &mut Stage, bytes: &mut [u8], out: &mut Output<'_>) {
        let Stage::Handshaking(opening) = stage else { return self.read_frames(stage, bytes, out) };
        let deflate = self.plan.deflate.offer(MAX_WINDOW_BITS);
        match opening.read(&HandshakeRequest { deflate, ..Default::default() }, bytes) {
            Ok(None) => {}
            Ok(Some(Response { used, deflate, .. })) => {
                out.set_deadline(None);
                *stage = Stage::open(deflate);
                self.read_frames(stage, &mut bytes[used..], out);
            }
            Err(error) => {
                self.handshake_failed(error.to_string());
                *stage = Stage::Ended;
                out.close(CloseMode::Abort);
            }
        }
    }

    fn eof(&mut self, _: ConnId, stage: &mut Stage, out: &mut Output<'_>) {
        match stage {
            Stage::Handshaking(_) => {
                self.handshake_failed(
                    "the server closed the connection without answering".to_owned(),
                );
                *stage = Stage::Ended;
            }
            Stage::Open { .. } => self.end(stage, Ending::Lost(describe(&Cause::PeerClosed)), out),
            Stage::Ended => {}
        }
        out.close(CloseMode::Flush);
    }

    fn drained(&mut self, _: ConnId, _: &mut Stage, _: &mut Output<'_>) {}

    fn deadline(&mut self, _: ConnId, stage: &mut Stage, out: &mut Output<'_>) {
        if let Stage::Handshaking(_) = stage {
            self.handshake_failed(format!("no answer within {:?}", self.plan.connect_timeout));
            *stage = Stage::Ended;
        }
        out.close(CloseMode::Abort);
    }

    fn closed(&mut self, _: ConnId, stage: Stage, cause: Cause) {
        match stage {
            Stage::Handshaking(_) => self.handshake_failed(describe(&cause)),
            Stage::Open { .. } => self.connection.ending = Ending::Lost(describe(&cause)),
            Stage::Ended => {}
        }
        if self.failure.is_none() {
            (self.watch)(&self.connection);
        }
        self.is_idle = true;
    }

    fn alarm(&mut self, _: &mut Worker<'_, Self>) {}

    fn woken(&mut self, _: &mut Worker<'_, Self>, _: u64) {}

    fn turn_end(&mut self, w: &mut Worker<'_, Self>) {
        if self.is_idle {
            self.begin_next(w);
        }
    }
}
