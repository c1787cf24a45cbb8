//! Beginnings of connections: accepted at a listener, or connected by the worker.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use super::{Connection, Connections, HandlerState, Io};
use crate::connection::{ConnId, Connect, Origin, State};
use crate::handler::Handler;
use crate::incoming::{self, AcceptState, Accepted};
use crate::outgoing;
use crate::spread::{HandedOver, Membership};
use crate::time::Nanos;

impl<H: Handler, I: Io> Connections<H, I> {
    /// Returns whether the worker accepts at a listener. One that stops does not: what it opened
    /// after the report of all ends would never be closed.
    pub(crate) fn is_accepting(&self, listener: usize) -> bool {
        !self.is_stopping && self.listeners.is_accepting(listener)
    }

    /// Accepts one connection at `socket`, the socket of a listener, if the worker accepts there.
    pub(crate) fn accept(
        &mut self,
        handler: &mut H,
        listener: usize,
        socket: impl AsFd,
    ) -> Accepted {
        if !self.is_accepting(listener) {
            return Accepted::Stopped;
        }
        if self.counts.accepted >= self.limits.max_accepted {
            return self.stop_accepting(AcceptState::Full);
        }
        let (socket, peer) = match incoming::accept(socket) {
            Ok(Some(accepted)) => accepted,
            Ok(None) => return Accepted::QueueEmpty,
            Err(error) if incoming::is_passing(error) => return Accepted::One,
            Err(_) => return self.stop_accepting(AcceptState::Starved(self.now + incoming::RETRY)),
        };
        let mut accepted = Some(HandedOver { socket, listener: listener as u16, peer });
        if let Some(spread) = &self.spread {
            accepted = accepted.and_then(|accepted| spread.place(accepted));
        }
        match accepted.map(|accepted| self.open_accepted(handler, accepted)) {
            Some(Err(_)) => self.stop_accepting(AcceptState::Starved(self.now + incoming::RETRY)),
            // It is open here, or on its way to another worker.
            Some(Ok(())) | None => Accepted::One,
        }
    }

    /// Notes that other workers may have handed connections over.
    pub(crate) fn expect_handed_over(&mut self) {
        self.expects_handed_over = self.spread.is_some();
    }

    /// Opens the connections that other workers have handed over. Those beyond
    /// [`Config::max_accepted`](crate::Config::max_accepted) wait until some have gone.
    pub(crate) fn accept_handed_over(&mut self, handler: &mut H) {
        while self.expects_handed_over && self.counts.accepted < self.limits.max_accepted {
            match self.spread.as_ref().and_then(Membership::take) {
                Some(accepted) => {
                    // Without memory for it the connection is closed: its listener is another's.
                    let _ = self.open_accepted(handler, accepted);
                }
                None => self.expects_handed_over = false,
            }
        }
    }

    /// Opens an accepted connection that is counted for this worker.
    fn open_accepted(&mut self, handler: &mut H, accepted: HandedOver) -> io::Result<()> {
        let HandedOver { socket, listener, peer } = accepted;
        let id = self.insert(socket, State::Open, 0).inspect_err(|_| self.count_end())?;
        self.counts.accepted += 1;
        self.counters.accepted += 1;
        self.open(handler, id, Origin::Accepted { listener, peer });
        Ok(())
    }

    /// Counts the end of an accepted connection among the workers.
    pub(super) fn count_end(&self) {
        if let Some(spread) = &self.spread {
            spread.count_end();
        }
    }

    fn stop_accepting(&mut self, state: AcceptState) -> Accepted {
        self.listeners.state = state;
        self.counters.accept_pauses += 1;
        Accepted::Stopped
    }

    /// Begins a connect; its outcome comes through [`Connections::complete_connect`].
    pub(super) fn begin_connect(&mut self, connect: &Connect) -> io::Result<()> {
        if self.counts.outgoing >= self.limits.max_connects {
            return Err(outgoing::too_many(self.limits.max_connects));
        }
        let socket = outgoing::begin(connect, &self.limits.outgoing)?;
        let id = self.insert(socket, State::Connecting, connect.tag)?;
        self.counts.outgoing += 1;
        self.set_limit(id, Nanos::monotonic().limit_after(connect.timeout));
        Ok(())
    }

    /// Handles the outcome of a connect that has not timed out.
    pub(crate) fn complete_connect(
        &mut self,
        handler: &mut H,
        id: ConnId,
        outcome: io::Result<()>,
    ) {
        let Some(c) = self.table.get_mut(id).filter(|c| c.state == State::Connecting) else {
            return;
        };
        let HandlerState::Unopened { tag } = c.handler else { return };
        if let Err(error) = outcome {
            return self.fail_connect(id, error);
        }
        c.state = State::Open;
        self.counters.connected += 1;
        self.set_limit(id, Nanos::NEVER);
        self.open(handler, id, Origin::Connected { tag });
    }

    /// Removes a connection whose connect has failed. The handler is told in the next turn.
    pub(super) fn fail_connect(&mut self, id: ConnId, error: io::Error) {
        if let Some(HandlerState::Unopened { tag }) = self.take(id) {
            self.ended.connects.push((tag, error));
        }
    }

    fn insert(&mut self, socket: OwnedFd, state: State, tag: u64) -> io::Result<ConnId> {
        let io = &mut self.io;
        self.table
            .insert_with(|id| Ok(Connection::new(io.register(id, socket, state)?, state, tag)))
    }

    fn open(&mut self, handler: &mut H, id: ConnId, from: Origin) {
        self.counts.opened += 1;
        self.call_with_input(id, None, |state, _, out| {
            *state = HandlerState::Opened(handler.opened(id, from, out));
        });
    }
}
