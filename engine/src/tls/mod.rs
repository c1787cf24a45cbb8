//! TLS over the seam: [`Tls`] stands between an engine and a handler that knows nothing of it.
//!
//! Ciphertext is decrypted in the receive buffer, and the plaintext of a read goes to the handler
//! in one call of [`received`](Handler::received). The output of a call is sent as few records.
//! Between calls a connection keeps only rustls' state and the beginning of a record that has not
//! arrived whole.
//!
//! The handler is told of a connection when TCP has opened it ([`opened`](Handler::opened)), so
//! that its deadline covers the TLS handshake. Output that it writes before waits until
//! [`secured`](Handler::secured). [`CloseMode::Flush`] sends close_notify. The peer's close_notify,
//! or a FIN without it, is [`eof`](Handler::eof). A connection that fails sends an alert and ends
//! with [`Cause::Layer`]; see [`TlsError::of`].
//!
//! Connections of plain listeners pass through with one branch for each call.

mod config;
mod der;
mod error;
mod identity;
mod key_file;
mod session;
mod worker;

use std::io;
use std::time::Duration;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;

pub use config::{TlsClient, TlsSettings, Trust, client_config, server_config};
pub use error::{TlsError, webpki_error};
pub use identity::{IdentityError, NamedFile, read_identity};

use self::session::{Session, Side, Stage, Waiting};
use self::worker::Inner;
use crate::connection::{Cause, CloseMode, ConnId, Origin};
use crate::handler::Handler;
use crate::handler::Worker;
use crate::output::{Commands, Output, Record, Segment};

/// Time that a connection which the handler has closed has for its TLS handshake, so that the peer
/// receives the reason.
const LAST_HANDSHAKE: Duration = Duration::from_secs(2);
/// Bytes from which on a segment of output is encrypted in place. Smaller segments are joined
/// first.
const LARGE: usize = 8 << 10;

/// Adaptor that adds TLS to a handler.
pub struct Tls<H: Handler> {
    inner: H,
    layer: Layer,
}

/// State of a connection: the handler's, and that of TLS where the connection is not plain.
pub struct TlsConn<C> {
    inner: C,
    session: Option<Box<Session>>,
}

impl<C: std::fmt::Debug> std::fmt::Debug for TlsConn<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let is_tls = self.session.is_some();
        f.debug_struct("TlsConn").field("inner", &self.inner).field("is_tls", &is_tls).finish()
    }
}

impl<H: Handler> std::fmt::Debug for Tls<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("settings", &self.layer.settings).finish_non_exhaustive()
    }
}

impl<H: Handler> Tls<H> {
    /// Adds TLS to `inner`, as the settings say for each connection.
    pub fn new(inner: H, settings: TlsSettings) -> Self {
        let layer = Layer { settings, record: Record::new(), plain: Vec::new(), joined: Vec::new() };
        Self { inner, layer }
    }

    /// Returns the inner handler.
    pub fn inner(&self) -> &H {
        &self.inner
    }

    /// Returns the inner handler, after the worker has ended.
    pub fn into_inner(self) -> H {
        self.inner
    }

    /// Calls `f` with the inner handler and its view of the worker.
    fn with_worker<R>(
        &mut self,
        w: &mut Worker<'_, Self>,
        f: impl FnOnce(&mut H, &mut Worker<'_, H>) -> R,
    ) -> R {
        let mut inner = Inner { outer: w, layer: &mut self.layer };
        f(&mut self.inner, &mut inner)
    }

    /// Handles the end of the TLS handshake: sends the output that has waited, and tells the
    /// handler.
    fn secured(&mut self, id: ConnId, c: &mut TlsConn<H::Conn>, out: &mut Output<'_>) {
        let TlsConn { inner, session: Some(session) } = c else { return };
        let Stage::Handshake(waiting) = std::mem::replace(&mut session.stage, Stage::Secured) else { return };
        let Waiting { bytes, close, pause } = waiting;
        if !bytes.is_empty()
            && let Err(error) = session.encrypt(&bytes, out)
        {
            return self.layer.fail(session, error, out);
        }
        if close {
            return self.layer.close(session, CloseMode::Flush, out);
        }
        if pause {
            out.pause();
        }
        self.layer.call_handler(session, inner, &mut [], out, |c, _, out| self.inner.secured(id, c, out));
    }
}

/// TLS state of a worker.
struct Layer {
    settings: TlsSettings,
    /// Record of what the handler asked for in a call, before encryption.
    record: Record,
    /// Plaintext of a read.
    plain: Vec<u8>,
    /// Small segments of output, joined.
    joined: Vec<u8>,
}

impl Layer {
    fn session(&self, from: Origin) -> Option<Box<Session>> {
        let side = match from {
            Origin::Accepted { listener, .. } => {
                let config = self.settings.listeners.get(usize::from(listener))?.clone()?;
                UnbufferedServerConnection::new(config).map(Side::Server)
            }
            Origin::Connected { .. } => {
                let TlsClient { config, server, .. } = self.settings.connects.clone()?;
                UnbufferedClientConnection::new(config, server).map(Side::Client)
            }
        };
        // It fails only without random bytes, which Linux always has, or for contradictory
        // settings.
        Some(Box::new(Session::new(side.expect("a TLS session begins"))))
    }

    /// Calls the handler with an own output, and applies it.
    fn call_handler<C, R>(
        &mut self,
        session: &mut Session,
        c: &mut C,
        input: &mut [u8],
        out: &mut Output<'_>,
        f: impl FnOnce(&mut C, &mut [u8], &mut Output<'_>) -> R,
    ) -> R {
        let unsent = out.unsent() + session.waiting_bytes();
        let result = f(c, input, &mut self.record.begin(out.now(), unsent, input.len()));
        self.apply_output(session, input, out);
        result
    }

    fn apply_output(&mut self, session: &mut Session, input: &[u8], out: &mut Output<'_>) {
        let commands = self.record.take_commands();
        let sent = match &mut session.stage {
            Stage::Handshake(waiting) => {
                let pieces = self.record.segments().iter();
                pieces.for_each(|piece| waiting.bytes.extend_from_slice(self.record.bytes(piece, input)));
                Ok(())
            }
            Stage::Secured | Stage::HalfClosed => {
                // Output that is discarded need not be encrypted.
                let dropped = commands.close == Some(CloseMode::Abort);
                if dropped { Ok(()) } else { self.send(session, input, out) }
            }
            Stage::Over => Ok(()),
        };
        self.record.discard_segments();
        self.record.clear_arena();
        match sent {
            Ok(()) => self.apply_commands(session, commands, out),
            Err(error) => self.fail(session, error, out),
        }
    }

    /// Encrypts the handler's output: small segments joined, large ones in place.
    fn send(&mut self, session: &mut Session, input: &[u8], out: &mut Output<'_>) -> Result<(), TlsError> {
        let pieces: &[Segment] = self.record.segments();
        if let [piece] = pieces {
            return session.encrypt(self.record.bytes(piece, input), out);
        }
        for piece in pieces {
            let bytes = self.record.bytes(piece, input);
            if bytes.len() < LARGE {
                self.joined.extend_from_slice(bytes);
            }
            if bytes.len() >= LARGE || self.joined.len() >= LARGE {
                send_joined(&mut self.joined, session, out)?;
            }
            if bytes.len() >= LARGE {
                session.encrypt(bytes, out)?;
            }
        }
        send_joined(&mut self.joined, session, out)
    }

    /// Applies the handler's requests besides output. Those that need a secured connection wait for
    /// it.
    fn apply_commands(&mut self, session: &mut Session, commands: Commands, out: &mut Output<'_>) {
        if let Some(at) = commands.deadline {
            out.set_deadline(at);
        }
        let waiting = if let Stage::Handshake(waiting) = &mut session.stage { Some(waiting) } else { None };
        match (commands.pause, waiting) {
            (Some(pause), Some(waiting)) => waiting.pause = pause,
            (Some(true), None) => out.pause(),
            (Some(false), None) => out.resume(),
            (None, _) => {}
        }
        if let Some(mode) = commands.close {
            self.close(session, mode, out);
        }
    }

    fn close(&mut self, session: &mut Session, mode: CloseMode, out: &mut Output<'_>) {
        match (&mut session.stage, mode) {
            (Stage::Over, _) => return,
            (Stage::Handshake(waiting), CloseMode::Flush) => {
                waiting.close = true;
                return out.set_deadline(Some(out.now() + LAST_HANDSHAKE));
            }
            (Stage::Secured | Stage::HalfClosed, CloseMode::Flush) => {
                if let Err(error) = session.close_notify(out) {
                    return self.fail(session, error, out);
                }
            }
            (_, CloseMode::Abort) => {}
        }
        session.stage = Stage::Over;
        out.close(mode);
    }

    /// Ends a connection for an error of TLS. Its alert has been written.
    #[cold]
    fn fail(&mut self, session: &mut Session, error: TlsError, out: &mut Output<'_>) {
        if error == TlsError::NotTls && session.is_server() {
            out.append(&self.settings.answer_to_plain);
        }
        session.failure = Some(match (error, &self.settings.connects) {
            (TlsError::Protocol(rustls::Error::AlertReceived(alert)), Some(client))
                if !session.is_server() && client.misses_certificate(alert) =>
            {
                TlsError::CertificateWanted
            }
            (error, _) => error,
        });
        session.stage = Stage::Over;
        out.close(CloseMode::Flush);
    }
}

fn send_joined(joined: &mut Vec<u8>, session: &mut Session, out: &mut Output<'_>) -> Result<(), TlsError> {
    let sent = if joined.is_empty() { Ok(()) } else { session.encrypt(joined, out) };
    joined.clear();
    sent
}

impl<H: Handler> Handler for Tls<H> {
    type Conn = TlsConn<H::Conn>;

    fn start(&mut self, w: &mut Worker<'_, Self>) {
        self.with_worker(w, H::start);
    }

    fn opened(&mut self, id: ConnId, from: Origin, out: &mut Output<'_>) -> Self::Conn {
        let Some(mut session) = self.layer.session(from) else {
            return TlsConn { inner: self.inner.opened(id, from, out), session: None };
        };
        let inner = self.inner.opened(id, from, &mut self.layer.record.begin(out.now(), out.unsent(), 0));
        self.layer.apply_output(&mut session, &[], out);
        if matches!(session.stage, Stage::Handshake(_))
            && let Err(error) = session.begin(out)
        {
            self.layer.fail(&mut session, error, out);
        }
        TlsConn { inner, session: Some(session) }
    }

    fn connect_failed(&mut self, w: &mut Worker<'_, Self>, tag: u64, error: io::Error) {
        self.with_worker(w, |inner, w| inner.connect_failed(w, tag, error));
    }

    #[inline]
    fn received(&mut self, id: ConnId, c: &mut Self::Conn, bytes: &mut [u8], out: &mut Output<'_>) {
        let Some(session) = &mut c.session else {
            return self.inner.received(id, &mut c.inner, bytes, out);
        };
        if !matches!(session.stage, Stage::Handshake(_) | Stage::Secured) {
            return;
        }
        let mut plain = std::mem::take(&mut self.layer.plain);
        let progress = match session.read(bytes, &mut plain, out) {
            Ok(progress) => progress,
            Err(error) => {
                plain.clear();
                self.layer.plain = plain;
                return self.layer.fail(session, error, out);
            }
        };
        if matches!(session.stage, Stage::Handshake(_)) && !session.is_handshaking() {
            self.secured(id, c, out);
        }
        let Some(session) = &mut c.session else { return };
        if matches!(session.stage, Stage::Secured) && !plain.is_empty() {
            let f =
                |c: &mut _, bytes: &mut [u8], out: &mut Output<'_>| self.inner.received(id, c, bytes, out);
            self.layer.call_handler(session, &mut c.inner, &mut plain, out, f);
        }
        plain.clear();
        self.layer.plain = plain;
        if progress.ended {
            self.eof(id, c, out);
        }
    }

    fn eof(&mut self, id: ConnId, c: &mut Self::Conn, out: &mut Output<'_>) {
        let Some(session) = &mut c.session else { return self.inner.eof(id, &mut c.inner, out) };
        match session.stage {
            // A probe of the port.
            Stage::Handshake(_) if session.is_server() && !session.has_begun() => {
                self.layer.close(session, CloseMode::Abort, out);
            }
            Stage::Handshake(_) => self.layer.fail(session, TlsError::Unfinished, out),
            Stage::Secured => {
                session.stage = Stage::HalfClosed;
                self.layer.call_handler(session, &mut c.inner, &mut [], out, |c, _, out| {
                    self.inner.eof(id, c, out);
                });
            }
            Stage::HalfClosed | Stage::Over => {}
        }
    }

    fn drained(&mut self, id: ConnId, c: &mut Self::Conn, out: &mut Output<'_>) {
        let Some(session) = &mut c.session else { return self.inner.drained(id, &mut c.inner, out) };
        if matches!(session.stage, Stage::Secured | Stage::HalfClosed) {
            self.layer.call_handler(session, &mut c.inner, &mut [], out, |c, _, out| {
                self.inner.drained(id, c, out);
            });
        }
    }

    fn deadline(&mut self, id: ConnId, c: &mut Self::Conn, out: &mut Output<'_>) {
        let Some(session) = &mut c.session else { return self.inner.deadline(id, &mut c.inner, out) };
        if matches!(&session.stage, Stage::Handshake(waiting) if waiting.close) {
            self.layer.close(session, CloseMode::Abort, out);
        } else {
            self.layer.call_handler(session, &mut c.inner, &mut [], out, |c, _, out| {
                self.inner.deadline(id, c, out);
            });
        }
    }

    fn closed(&mut self, id: ConnId, c: Self::Conn, cause: Cause) {
        let failure = c.session.and_then(|session| session.failure);
        self.inner.closed(id, c.inner, failure.map_or(cause, |failure| Cause::Layer(Box::new(failure))));
    }

    fn alarm(&mut self, w: &mut Worker<'_, Self>) {
        self.with_worker(w, H::alarm);
    }

    fn woken(&mut self, w: &mut Worker<'_, Self>, bits: u64) {
        self.with_worker(w, |inner, w| inner.woken(w, bits));
    }

    fn turn_end(&mut self, w: &mut Worker<'_, Self>) {
        self.with_worker(w, H::turn_end);
    }
}
