//! TLS state of a worker: calls of the handler behind TLS, and encryption of their output.

use std::time::Duration;

use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;

use super::config::TlsSettings;
use super::error::TlsError;
use super::session::{Session, Side, Stage};
use crate::connection::{CloseMode, Origin};
use crate::output::{Commands, Output, Record, Segment};

/// Time limit for the TLS handshake of a connection that the handler has already closed. The
/// handler's last output, such as a refusal, can be sent only after the handshake.
const LAST_HANDSHAKE: Duration = Duration::from_secs(2);
/// Smallest segment, in bytes, that is encrypted on its own when a call's output has several
/// segments. Smaller segments are joined first.
const LARGE: usize = 8 << 10;

/// TLS state of a worker.
pub(super) struct Layer {
    pub(super) settings: TlsSettings,
    /// Record of what the handler asked for in a call, before encryption.
    pub(super) record: Record,
    /// Plaintext of a read.
    pub(super) plain: Vec<u8>,
    /// Small segments of output, joined.
    pub(super) joined: Vec<u8>,
}

impl Layer {
    /// State for connections with these settings.
    pub(super) fn new(settings: TlsSettings) -> Self {
        Self { settings, record: Record::new(), plain: Vec::new(), joined: Vec::new() }
    }

    pub(super) fn session(&self, from: Origin) -> Option<Box<Session>> {
        let side = match from {
            Origin::Accepted { listener, .. } => {
                let server = self.settings.listeners.get(usize::from(listener))?.as_ref()?;
                UnbufferedServerConnection::new(server.current()).map(|end| (Side::Server(end), 0))
            }
            Origin::Connected { tag } => {
                let index = (tag >> 32) as usize;
                let client = self.settings.connects.get(index)?;
                UnbufferedClientConnection::new(client.config.clone(), client.server.clone())
                    .map(|end| (Side::Client(end), index))
            }
        };
        // Creating a session fails only without random bytes, which Linux always has, or for
        // contradictory settings.
        let (side, client) = side.expect("a TLS session begins");
        Some(Box::new(Session::new(side, client)))
    }

    /// Calls the handler with a separate plaintext output, then applies that output.
    pub(super) fn call_handler<C, R>(
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

    pub(super) fn apply_output(
        &mut self,
        session: &mut Session,
        input: &[u8],
        out: &mut Output<'_>,
    ) {
        let commands = self.record.take_commands();
        let sent = match &mut session.stage {
            Stage::Handshake(waiting) => {
                let pieces = self.record.segments().iter();
                pieces.for_each(|piece| {
                    waiting.bytes.extend_from_slice(self.record.bytes(piece, input));
                });
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

    /// Encrypts the handler's output: small segments joined, each large one on its own.
    fn send(
        &mut self,
        session: &mut Session,
        input: &[u8],
        out: &mut Output<'_>,
    ) -> Result<(), TlsError> {
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
        let waiting =
            if let Stage::Handshake(waiting) = &mut session.stage { Some(waiting) } else { None };
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

    pub(super) fn close(&mut self, session: &mut Session, mode: CloseMode, out: &mut Output<'_>) {
        // The peer answers our close_notify, so its last bytes have not arrived yet.
        let mode = if mode == CloseMode::Finish { CloseMode::Flush } else { mode };
        match (&mut session.stage, mode) {
            (Stage::Over, _) => return,
            (_, CloseMode::Abort) => {}
            (Stage::Handshake(waiting), _) => {
                waiting.close = true;
                return out.set_deadline(Some(out.now() + LAST_HANDSHAKE));
            }
            (Stage::Secured | Stage::HalfClosed, _) => {
                if let Err(error) = session.close_notify(out) {
                    return self.fail(session, error, out);
                }
            }
        }
        session.stage = Stage::Over;
        out.close(mode);
    }

    /// Ends a connection because of a TLS error. If the error has an alert, the alert has already
    /// been written.
    #[cold]
    pub(super) fn fail(&mut self, session: &mut Session, error: TlsError, out: &mut Output<'_>) {
        if error == TlsError::NotTls && session.is_server() {
            out.append(&self.settings.answer_to_plain);
        }
        session.failure = Some(match (error, self.settings.connects.get(session.client)) {
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

fn send_joined(
    joined: &mut Vec<u8>,
    session: &mut Session,
    out: &mut Output<'_>,
) -> Result<(), TlsError> {
    let sent = if joined.is_empty() { Ok(()) } else { session.encrypt(joined, out) };
    joined.clear();
    sent
}
