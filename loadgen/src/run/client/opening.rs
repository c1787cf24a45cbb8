//! From the first connect to the open connection.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use engine::{CloseMode, Connect, Nanos, Output, Worker};

use super::super::shared::Report;
use super::{CONNECTING_AT_ONCE, Client, Doing, Stage, Times};
use crate::opening::Opening;

/// After a connection could not be opened again, nothing is tried for so long.
const RETRY: Duration = Duration::from_millis(100);

impl Client {
    /// Begins what is due of the connections that have not been begun.
    pub(super) fn connect_more(&mut self, w: &mut Worker<'_, Self>) {
        if self.doing != Doing::Connecting {
            return;
        }
        let now = w.clock();
        while self.begun < self.links.len() && self.opening < CONNECTING_AT_ONCE {
            let due = self.connect_due(self.begun as u32);
            if due > now {
                return self.wake_at(due, w);
            }
            self.begin_connect(self.begun as u32, now, w);
            self.begun += 1;
        }
    }

    /// When a connection may be begun: at even distances over all workers, where there is a rate.
    fn connect_due(&self, link: u32) -> Nanos {
        let Some(rate) = self.shared.connect_rate else { return Nanos(0) };
        self.started + Duration::from_secs_f64(f64::from(self.lot.number(link)) / rate)
    }

    fn begin_connect(&mut self, link: u32, now: Nanos, w: &mut Worker<'_, Self>) {
        self.opening += 1;
        self.links[link as usize].stage = Stage::Connecting(now);
        self.connect(w, link, 0);
    }

    /// Tries the address that is `attempt` places behind the one that worked last.
    pub(super) fn connect(&mut self, w: &mut Worker<'_, Self>, link: u32, attempt: u32) {
        let tag = u64::from(attempt) << 32 | u64::from(link);
        let sources = &self.shared.source_ips;
        let source = sources.get(self.lot.number(link) as usize % sources.len().max(1));
        let from = source.map(|&ip| SocketAddr::new(ip, 0));
        let to = self.address(attempt);
        w.connect(Connect { to, from, tag, timeout: self.shared.connect_timeout });
    }

    pub(super) fn address(&self, attempt: u32) -> SocketAddr {
        let addresses = &self.shared.addresses;
        addresses[(self.address + attempt as usize) % addresses.len()]
    }

    /// The TCP connection is there: asks for the WebSocket.
    pub(super) fn request(&mut self, began: Nanos, out: &mut Output<'_>) -> Stage {
        let (nonce, shared) = (self.outgoing.nonce(), &self.shared);
        let opening = Opening::begin(&shared.ask, nonce, shared.connect_timeout, out);
        let times = Times { began, connected: self.now, secured: self.now };
        Stage::Handshaking { times, opening: Box::new(opening) }
    }

    pub(super) fn now_open(&mut self, link: u32, times: Times, out: &mut Output<'_>) {
        let is_load = self.doing != Doing::Connecting;
        if !is_load || self.position.second().is_some() {
            self.tally.opened(times, self.now);
        }
        let state = &mut self.links[link as usize];
        if let Some(since) = state.down_since.take() {
            self.tally.outages.add(self.now.since(since));
        }
        state.stage = Stage::Open;
        state.left = self.shared.messages_per_connection;
        self.opening -= 1;
        self.open += 1;
        self.begin_life(link, out);
        if self.doing == Doing::Loading {
            self.mark(link);
        }
        if self.open == self.links.len() && !is_load {
            self.doing = Doing::Waiting;
            self.report(Report::Connected);
        }
    }

    /// Reads on in the response; returns how many of `bytes` belong to it once it is whole and right.
    pub(super) fn read_response(&mut self, link: u32, bytes: &[u8], out: &mut Output<'_>) -> Option<usize> {
        let Stage::Handshaking { times, opening } = &mut self.links[link as usize].stage else {
            return None;
        };
        let times = *times;
        match opening.read(&self.shared.ask, bytes) {
            Ok(None) => None,
            Ok(Some(used)) => {
                out.set_deadline(None);
                self.now_open(link, times, out);
                Some(used)
            }
            Err(error) => {
                self.handshake_failed(link, error.to_string(), out);
                None
            }
        }
    }

    // What fails before the load ends the run: there is something wrong with the server or the plan. Within it, with
    // connections opened again and again, it is counted.

    pub(super) fn handshake_failed(&mut self, link: u32, detail: String, out: &mut Output<'_>) {
        self.links[link as usize].stage = Stage::Closing;
        out.close(CloseMode::Abort);
        self.not_open(detail);
    }

    /// The opening handshake of a connection has failed.
    pub(super) fn not_open(&mut self, detail: String) {
        self.opening -= 1;
        if self.is_over() {
            return;
        }
        self.tally.errors.handshake += 1;
        self.tally.unopened += 1;
        if self.doing == Doing::Connecting {
            self.doing = Doing::Waiting;
        }
        if self.doing == Doing::Waiting {
            return self.report(Report::HandshakeFailed(detail));
        }
        self.tally.failed(self.position.second());
        self.check_deserted(detail);
    }

    pub(super) fn not_connected(&mut self, link: u32, to: SocketAddr, error: io::Error) {
        self.links[link as usize].stage = Stage::Closed;
        self.opening -= 1;
        if self.is_over() {
            return;
        }
        self.tally.errors.connect += 1;
        self.tally.unopened += 1;
        if self.doing == Doing::Connecting {
            self.doing = Doing::Waiting;
        }
        if self.doing == Doing::Waiting {
            return self.report(Report::ConnectFailed { to, source: error });
        }
        self.tally.failed(self.position.second());
        if self.shared.reconnect {
            self.retry(link);
        }
        self.check_deserted(format!("cannot connect to {to}: {error}"));
    }

    // Opening again.

    /// A connection that was lost is opened again, though not at once.
    pub(super) fn retry(&mut self, link: u32) {
        self.reopen.push(link);
        self.retry_at = self.now + RETRY;
    }

    /// Opens connections again whose place is empty.
    pub(super) fn reopen(&mut self, w: &mut Worker<'_, Self>) {
        if self.reopen.is_empty() || self.doing != Doing::Loading {
            return;
        }
        let now = w.clock();
        while now >= self.retry_at && self.opening < CONNECTING_AT_ONCE {
            let Some(link) = self.reopen.pop() else { break };
            self.begin_connect(link, now, w);
        }
        // In an open loop what is due next has its own say after this.
        self.wake_at(self.shared.window.end(), w);
    }

    /// When connections are opened again, if any wait for that.
    pub(super) fn next_reopening(&self) -> Nanos {
        // Those that wait for others to be open need no waking.
        if self.reopen.is_empty() || self.retry_at <= self.now { Nanos::NEVER } else { self.retry_at }
    }
}
