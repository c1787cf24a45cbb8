//! The PROXY protocol as an adaptor: it reads the header, and the handler behind it sees a
//! connection that comes from the client.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use engine::{
    Cause, CloseMode, ConnId, Connect, Counters, Handler, Load, Nanos, Origin, Output, Record,
    Worker, WorkerCore,
};

use super::header::{self, ProxyHeaderError};
use super::networks::Networks;
use crate::stats::EchoCounters;
use crate::worker::Service;

/// Adaptor that reads the header of the PROXY protocol from connections of trusted proxies. Other
/// connections have none.
pub(crate) struct ProxyProtocol<H: Handler> {
    inner: H,
    trusted: Networks,
    /// Time limit of the header. Zero: none.
    timeout: Duration,
}

/// State of a connection.
pub(crate) enum ProxyConn<C> {
    /// The header is incomplete. The handler knows nothing of the connection yet.
    Waiting(Box<Waiting>),
    /// The handler has the connection.
    Open(C),
    /// The header was refused, which the handler is told when the connection has closed.
    Failed(C, ProxyHeaderError),
}

/// Connection whose header is incomplete.
pub(crate) struct Waiting {
    listener: u16,
    peer: Option<SocketAddr>,
    /// At most [`header::MAX_HEADER`] bytes.
    buffered: Vec<u8>,
}

impl Waiting {
    fn origin(&self, client: Option<SocketAddr>) -> Origin {
        Origin::Accepted { listener: self.listener, peer: client.or(self.peer) }
    }
}

impl<H: Handler> ProxyProtocol<H> {
    pub(crate) fn new(inner: H, trusted: Networks, timeout: Duration) -> Self {
        Self { inner, trusted, timeout }
    }

    /// Continues to read a header, and hands the connection to the handler when it is complete.
    fn read_header(
        &mut self,
        id: ConnId,
        mut waiting: Box<Waiting>,
        bytes: &mut [u8],
        out: &mut Output<'_>,
    ) -> ProxyConn<H::Conn> {
        let before = waiting.buffered.len();
        let taken = bytes.len().min(header::MAX_HEADER - before);
        waiting.buffered.extend_from_slice(&bytes[..taken]);
        match header::parse(&waiting.buffered) {
            Ok(None) => ProxyConn::Waiting(waiting),
            Err(error) => self.fail(id, &waiting, error, out),
            Ok(Some(header)) => {
                out.set_deadline(None);
                let mut conn = self.inner.opened(id, waiting.origin(header.client), out);
                // What follows moves to the front, so that ranges of it are ranges of this read.
                let follows = header.len - before;
                bytes.copy_within(follows.., 0);
                let left = bytes.len() - follows;
                if left > 0 {
                    self.inner.received(id, &mut conn, &mut bytes[..left], out);
                }
                ProxyConn::Open(conn)
            }
        }
    }

    /// Aborts a connection. The handler sees one that opens and fails, as with TLS.
    #[cold]
    fn fail(
        &mut self,
        id: ConnId,
        waiting: &Waiting,
        error: ProxyHeaderError,
        out: &mut Output<'_>,
    ) -> ProxyConn<H::Conn> {
        let mut discarded = Record::new();
        let conn =
            self.inner.opened(id, waiting.origin(None), &mut discarded.begin(out.now(), 0, 0));
        out.close(CloseMode::Abort);
        ProxyConn::Failed(conn, error)
    }

    /// Ends a connection whose header will not come any more.
    fn give_up(
        &mut self,
        id: ConnId,
        c: &mut ProxyConn<H::Conn>,
        error: ProxyHeaderError,
        out: &mut Output<'_>,
    ) {
        let ProxyConn::Waiting(waiting) = c else { return };
        if waiting.buffered.is_empty() {
            // A probe of the port.
            return out.close(CloseMode::Abort);
        }
        let waiting = std::mem::replace(waiting, Box::new(Waiting::none()));
        *c = self.fail(id, &waiting, error, out);
    }

    fn with_worker<R>(
        &mut self,
        w: &mut Worker<'_, Self>,
        f: impl FnOnce(&mut H, &mut Worker<'_, H>) -> R,
    ) -> R {
        f(&mut self.inner, &mut Inner { outer: w })
    }
}

impl Waiting {
    fn none() -> Self {
        Self { listener: 0, peer: None, buffered: Vec::new() }
    }
}

impl<S: Service> Service for ProxyProtocol<S> {
    fn echo_counters(&self) -> EchoCounters {
        self.inner.echo_counters()
    }
}

impl<H: Handler> Handler for ProxyProtocol<H> {
    type Conn = ProxyConn<H::Conn>;

    fn start(&mut self, w: &mut Worker<'_, Self>) {
        self.with_worker(w, H::start);
    }

    fn opened(&mut self, id: ConnId, from: Origin, out: &mut Output<'_>) -> Self::Conn {
        match from {
            Origin::Accepted { listener, peer } if self.trusted.contain_peer(peer) => {
                if !self.timeout.is_zero() {
                    out.set_deadline(Some(out.now() + self.timeout));
                }
                ProxyConn::Waiting(Box::new(Waiting { listener, peer, buffered: Vec::new() }))
            }
            from => ProxyConn::Open(self.inner.opened(id, from, out)),
        }
    }

    fn connect_failed(&mut self, w: &mut Worker<'_, Self>, tag: u64, error: io::Error) {
        self.with_worker(w, |inner, w| inner.connect_failed(w, tag, error));
    }

    #[inline]
    fn received(&mut self, id: ConnId, c: &mut Self::Conn, bytes: &mut [u8], out: &mut Output<'_>) {
        match c {
            ProxyConn::Open(c) => self.inner.received(id, c, bytes, out),
            ProxyConn::Waiting(waiting) => {
                let waiting = std::mem::replace(waiting, Box::new(Waiting::none()));
                *c = self.read_header(id, waiting, bytes, out);
            }
            ProxyConn::Failed(..) => {}
        }
    }

    fn eof(&mut self, id: ConnId, c: &mut Self::Conn, out: &mut Output<'_>) {
        match c {
            ProxyConn::Open(c) => self.inner.eof(id, c, out),
            _ => self.give_up(id, c, ProxyHeaderError::Unfinished, out),
        }
    }

    fn drained(&mut self, id: ConnId, c: &mut Self::Conn, out: &mut Output<'_>) {
        if let ProxyConn::Open(c) = c {
            self.inner.drained(id, c, out);
        }
    }

    fn deadline(&mut self, id: ConnId, c: &mut Self::Conn, out: &mut Output<'_>) {
        match c {
            ProxyConn::Open(c) => self.inner.deadline(id, c, out),
            _ => self.give_up(id, c, ProxyHeaderError::Late, out),
        }
    }

    fn closed(&mut self, id: ConnId, c: Self::Conn, cause: Cause) {
        match c {
            ProxyConn::Open(c) => self.inner.closed(id, c, cause),
            ProxyConn::Failed(c, error) => {
                self.inner.closed(id, c, Cause::Layer(Box::new(error)));
            }
            ProxyConn::Waiting(_) => {}
        }
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

/// The engine's worker, as the handler sees it.
struct Inner<'a, 'w, H: Handler> {
    outer: &'a mut Worker<'w, ProxyProtocol<H>>,
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
        let called = self.outer.with(id, |c, out| match c {
            ProxyConn::Open(c) => {
                f(c, out);
                true
            }
            ProxyConn::Waiting(_) | ProxyConn::Failed(..) => false,
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
