//! Answers to [`Worker`](crate::Worker).

use std::net::SocketAddr;

use super::connection::HandlerState;
use super::{Connections, Io};
use crate::accounting::{Counters, Load};
use crate::connection::{Cause, ConnId, Connect, State};
use crate::handler::{Handler, WorkerCore};
use crate::output::Output;
use crate::time::Nanos;

impl<H: Handler, I: Io> WorkerCore<H> for Connections<H, I> {
    fn now(&self) -> Nanos {
        self.now
    }

    fn clock(&self) -> Nanos {
        Nanos::monotonic()
    }

    fn connect(&mut self, connect: Connect) {
        if let Err(error) = self.begin_connect(&connect) {
            self.ended.connects.push((connect.tag, error));
        }
    }

    fn call(&mut self, id: ConnId, f: &mut dyn FnMut(&mut H::Conn, &mut Output<'_>)) -> bool {
        self.call_handler(id, f)
    }

    fn abort(&mut self, id: ConnId) {
        self.end(id, Cause::Closed);
    }

    fn connections(&self) -> usize {
        self.counts.opened
    }

    fn ids(&self) -> Vec<ConnId> {
        self.table.iter().filter(|(_, c)| c.state == State::Open).map(|(id, _)| id).collect()
    }

    fn set_alarm(&mut self, at: Option<Nanos>) {
        self.timers.alarm = at.unwrap_or(Nanos::NEVER);
    }

    fn listening(&mut self, listener: u16, on: bool) {
        self.listeners.set_wanted(usize::from(listener), on);
        if let Some(spread) = &self.spread {
            spread.set_accepting(listener, on);
        }
    }

    fn local_addr(&self, listener: u16) -> Option<SocketAddr> {
        self.listeners.address(usize::from(listener))
    }

    fn stop(&mut self) {
        self.is_stopping = true;
    }

    fn counters(&self) -> Counters {
        self.counters
    }

    fn load(&self) -> Load {
        let mut load = Load::default();
        for (_, c) in self.table.iter() {
            if matches!(c.handler, HandlerState::Opened(_)) {
                load.add(c.is_paused || c.is_throttled, I::unsent(&c.io));
            }
        }
        load
    }
}
