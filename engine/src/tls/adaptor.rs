//! The adaptor: a handler for the engine, and an engine for the handler behind it.

use std::io;
use std::net::SocketAddr;

use super::config::TlsSettings;
use super::error::TlsError;
use super::handshakes::{HandshakeThread, STEPS_DONE, Step};
use super::layer::Layer;
use super::session::{ReadResult, Session, Stage, Waiting};
use crate::accounting::{Counters, Load};
use crate::connection::{Cause, CloseMode, ConnId, Connect, Origin};
use crate::handler::{Handler, Worker, WorkerCore};
use crate::output::Output;
use crate::time::Nanos;

/// Adaptor that adds TLS to a handler.
pub struct Tls<H: Handler> {
    inner: H,
    layer: Layer,
    handshakes: Option<HandshakeThread>,
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
        let layer = Layer::new(settings);
        Self { inner, layer, handshakes: None }
    }

    /// Lets this thread carry out the handshakes of accepted connections, in place of the worker.
    #[must_use]
    pub fn with_handshakes(self, thread: HandshakeThread) -> Self {
        Self { handshakes: Some(thread), ..self }
    }

    /// Returns the inner handler.
    pub fn inner(&self) -> &H {
        &self.inner
    }

    /// Returns the inner handler, after the worker has ended.
    pub fn into_inner(self) -> H {
        self.inner
    }

    /// Gives received bytes of a handshake to the thread for handshakes.
    fn give_step(&mut self, id: ConnId, session: &mut Session, bytes: &[u8], out: &mut Output<'_>) {
        match session.take_step(bytes) {
            Ok(Some((end, bytes))) => {
                if let Some(thread) = &self.handshakes {
                    thread.give(Step::new(id, end, bytes));
                    out.pause();
                }
            }
            Ok(None) => {}
            Err(error) => self.layer.fail(session, error, out),
        }
    }

    /// Goes on with the connections whose steps the thread has carried out.
    fn finish_steps(&mut self, w: &mut Worker<'_, Self>) {
        let done = self.handshakes.as_ref().map(HandshakeThread::take_done).unwrap_or_default();
        for step in done {
            w.with(step.id, |c, out| self.finish_step(c, step, out));
        }
    }

    fn finish_step(&mut self, c: &mut TlsConn<H::Conn>, step: Step, out: &mut Output<'_>) {
        let Some(session) = &mut c.session else { return };
        // It may have been closed meanwhile.
        if !matches!(session.stage, Stage::Handshake(_)) {
            return;
        }
        let Step { id, end, bytes, mut plain, records, result } = step;
        session.take_back(end, bytes);
        out.resume();
        out.append(records.bytes());
        match result {
            Ok(result) => self.go_on(id, c, &mut plain, result, out),
            Err(error) => self.layer.fail(session, error, out),
        }
    }

    /// Goes on after a read: the handshake may be over, and plaintext or close_notify have come.
    fn go_on(
        &mut self,
        id: ConnId,
        c: &mut TlsConn<H::Conn>,
        plain: &mut [u8],
        result: ReadResult,
        out: &mut Output<'_>,
    ) {
        let Some(session) = &mut c.session else { return };
        if matches!(session.stage, Stage::Handshake(_)) && !session.is_handshaking() {
            self.secured(id, c, out);
        }
        let Some(session) = &mut c.session else { return };
        if matches!(session.stage, Stage::Secured) && !plain.is_empty() {
            let f = |c: &mut _, bytes: &mut [u8], out: &mut Output<'_>| {
                self.inner.received(id, c, bytes, out);
            };
            self.layer.call_handler(session, &mut c.inner, plain, out, f);
        }
        if result.ended {
            self.eof(id, c, out);
        }
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
        let Stage::Handshake(waiting) = std::mem::replace(&mut session.stage, Stage::Secured)
        else {
            return;
        };
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
        let is_resumed = session.is_resumed();
        self.layer.call_handler(session, inner, &mut [], out, |c, _, out| {
            self.inner.secured(id, c, is_resumed, out);
        });
    }
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
        let inner =
            self.inner.opened(id, from, &mut self.layer.record.begin(out.now(), out.unsent(), 0));
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
        if matches!(session.stage, Stage::Handshake(_))
            && self.handshakes.is_some()
            && session.is_server()
        {
            return self.give_step(id, session, bytes, out);
        }
        let mut plain = std::mem::take(&mut self.layer.plain);
        let result = match session.read(bytes, &mut plain, out) {
            Ok(result) => result,
            Err(error) => {
                plain.clear();
                self.layer.plain = plain;
                return self.layer.fail(session, error, out);
            }
        };
        self.go_on(id, c, &mut plain, result, out);
        plain.clear();
        self.layer.plain = plain;
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
        let Some(session) = &mut c.session else {
            return self.inner.drained(id, &mut c.inner, out);
        };
        if matches!(session.stage, Stage::Secured | Stage::HalfClosed) {
            self.layer.call_handler(session, &mut c.inner, &mut [], out, |c, _, out| {
                self.inner.drained(id, c, out);
            });
        }
    }

    fn deadline(&mut self, id: ConnId, c: &mut Self::Conn, out: &mut Output<'_>) {
        let Some(session) = &mut c.session else {
            return self.inner.deadline(id, &mut c.inner, out);
        };
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
        self.inner.closed(
            id,
            c.inner,
            failure.map_or(cause, |failure| Cause::Layer(Box::new(failure))),
        );
    }

    fn alarm(&mut self, w: &mut Worker<'_, Self>) {
        self.with_worker(w, H::alarm);
    }

    fn woken(&mut self, w: &mut Worker<'_, Self>, bits: u64) {
        if bits & STEPS_DONE != 0 {
            self.finish_steps(w);
        }
        if bits & !STEPS_DONE != 0 {
            self.with_worker(w, |inner, w| inner.woken(w, bits & !STEPS_DONE));
        }
    }

    fn turn_end(&mut self, w: &mut Worker<'_, Self>) {
        self.with_worker(w, H::turn_end);
    }
}

/// The engine's worker, with connections that are reached through TLS.
struct Inner<'a, 'w, H: Handler> {
    outer: &'a mut Worker<'w, Tls<H>>,
    layer: &'a mut Layer,
}

impl<H: Handler> WorkerCore<H> for Inner<'_, '_, H> {
    fn now(&self) -> Nanos {
        self.outer.now()
    }

    fn clock(&self) -> Nanos {
        self.outer.clock()
    }

    fn connect(&mut self, connect: Connect) {
        self.outer.connect(connect);
    }

    fn call(&mut self, id: ConnId, f: &mut dyn FnMut(&mut H::Conn, &mut Output<'_>)) -> bool {
        let layer = &mut *self.layer;
        let called = self.outer.with(id, |c, out| match &mut c.session {
            None => {
                f(&mut c.inner, out);
                true
            }
            // The handler sees the connection as closing.
            Some(session) if session.is_closing() => false,
            Some(session) => {
                layer.call_handler(session, &mut c.inner, &mut [], out, |c, _, out| f(c, out));
                true
            }
        });
        called.unwrap_or(false)
    }

    fn abort(&mut self, id: ConnId) {
        self.outer.abort(id);
    }

    fn connections(&self) -> usize {
        self.outer.connections()
    }

    fn ids(&self) -> Vec<ConnId> {
        self.outer.ids()
    }

    fn set_alarm(&mut self, at: Option<Nanos>) {
        self.outer.set_alarm(at);
    }

    fn listening(&mut self, listener: u16, on: bool) {
        self.outer.listening(listener, on);
    }

    fn local_addr(&self, listener: u16) -> Option<SocketAddr> {
        self.outer.local_addr(listener)
    }

    fn stop(&mut self) {
        self.outer.stop();
    }

    fn counters(&self) -> Counters {
        self.outer.counters()
    }

    fn load(&self) -> Load {
        self.outer.load()
    }
}
