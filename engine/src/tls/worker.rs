//! View of the worker for the handler behind TLS.

use std::net::SocketAddr;

use super::{Layer, Tls};
use crate::accounting::{Counters, Load};
use crate::connection::{ConnId, Connect};
use crate::handler::Handler;
use crate::handler::{Worker, WorkerCore};
use crate::output::Output;
use crate::time::Nanos;

/// The engine's worker, with connections that are reached through TLS.
pub(super) struct Inner<'a, 'w, H: Handler> {
    pub(super) outer: &'a mut Worker<'w, Tls<H>>,
    pub(super) layer: &'a mut Layer,
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
