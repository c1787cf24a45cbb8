//! Ends of connections: draining, lingering, and the report to the handler.

use rustix::io::Errno;
use rustix::net::{Shutdown, shutdown};

use super::{Connections, HandlerState, Io};
use crate::connection::{Cause, ConnId, State};
use crate::handler::Handler;
use crate::time::Nanos;

impl<H: Handler, I: Io> Connections<H, I> {
    /// Ends a connection that has drained, or half-closes it and lingers until the peer's FIN.
    pub(crate) fn finish_draining(&mut self, id: ConnId) {
        let Some(c) = self.table.get_mut(id).filter(|c| c.state == State::Draining) else { return };
        if I::unsent(&c.io) > 0 {
            return;
        }
        if c.has_eof {
            return self.end(id, Cause::PeerClosed);
        }
        if c.is_finishing {
            return self.end(id, Cause::Closed);
        }
        if let Err(error) = shutdown(&c.io, Shutdown::Write) {
            // ENOTCONN: a reset has arrived in between.
            let is_reset = error == Errno::NOTCONN;
            return self.end(id, if is_reset { Cause::Reset } else { Cause::Io(error.into()) });
        }
        let linger = self.limits.linger;
        if linger.time.is_zero() || c.has_discarded_all {
            return self.end(id, Cause::Closed);
        }
        c.state = State::Lingering;
        self.set_limit(id, self.now + linger.time);
        self.resume_reading(id);
    }

    /// Counts discarded input of a closing connection. The linger ends when the count reaches the
    /// bound.
    pub(super) fn count_discarded(&mut self, id: ConnId, len: u64) {
        let Some(c) = self.table.get_mut(id) else { return };
        if !matches!(c.state, State::Draining | State::Lingering) {
            return;
        }
        let discarded = self.ended.discarded.entry(id).or_insert(0);
        *discarded += len;
        if *discarded >= self.limits.linger.bytes {
            c.has_discarded_all = true;
            if c.state == State::Lingering {
                self.end(id, Cause::Closed);
            }
        }
    }

    /// Ends a connection. The handler is told in the next turn, never from within another call.
    pub(crate) fn end(&mut self, id: ConnId, cause: Cause) {
        let Some(c) = self.table.get_mut(id).filter(|c| c.state != State::Closing) else { return };
        c.state = State::Closing;
        self.io.discard(id, &mut c.io, self.record.pool());
        self.timers.wheel.set(id.slot, Nanos::NEVER);
        self.ended.connections.push((id, cause));
    }

    /// Ends all connections, at the end of the run. Other workers hand none over any more.
    pub(crate) fn end_all(&mut self) {
        self.spread = None;
        let ids: Vec<ConnId> = self.table.iter().map(|(id, _)| id).collect();
        for id in ids {
            self.end(id, Cause::Shutdown);
        }
    }

    /// Removes the connections that have ended, closes their sockets, and tells the handler.
    pub(crate) fn report_closed(&mut self, handler: &mut H) {
        let mut ended = std::mem::take(&mut self.ended.connections);
        for (id, cause) in ended.drain(..) {
            if let Some(HandlerState::Opened(state)) = self.take(id) {
                self.counts.opened -= 1;
                self.counters.closed += 1;
                handler.closed(id, state, cause);
            }
        }
        self.ended.connections = ended;
    }

    /// Takes a connection out of the table, and closes its socket: others may be accepted again.
    pub(super) fn take(&mut self, id: ConnId) -> Option<HandlerState<H::Conn>> {
        let c = self.table.remove(id)?;
        self.timers.wheel.set(id.slot, Nanos::NEVER);
        self.ended.discarded.remove(&id);
        if c.is_accepted {
            self.counts.accepted -= 1;
            self.count_end();
        } else {
            self.counts.outgoing -= 1;
        }
        self.listeners.handle_closed(c.is_accepted);
        Some(c.handler)
    }
}
