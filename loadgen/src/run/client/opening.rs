//! Opening of connections.

use std::cmp::Reverse;
use std::net::SocketAddr;
use std::time::Duration;

use engine::{CloseMode, Connect, Nanos, Output, Worker};
use protocol::handshake::deflate::Parameters;

use super::super::check::PartialEcho;
use super::super::error::RunError;
use super::super::shared::Report;
use super::{CONNECTING_AT_ONCE, Client, OpeningTimes, Stage, WorkerPhase};
use crate::target::opening::{Failures, Opening, Response, describe_failures};
use crate::target::url;

/// Time after which a lost connection is reopened. It doubles with each further failed attempt.
const FIRST_RETRY: Duration = Duration::from_millis(100);
/// Upper limit of that time.
const LAST_RETRY: Duration = Duration::from_secs(5);

/// Returns the index of the address to try after this number of failures, where one is left. The
/// first is that of the address that worked last.
pub(super) fn next_address(first: usize, failures: usize, addresses: usize) -> Option<usize> {
    (failures < addresses).then(|| (first + failures) % addresses)
}

/// Part of an opening that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unopened {
    Connect,
    Handshake,
    FirstMessages,
}

impl Client {
    /// Begins the connections that are due, or reports that all are open. It runs at the end of a
    /// turn, because a Close may come together with a response.
    pub(super) fn connect_more(&mut self, w: &mut Worker<'_, Self>) {
        if self.phase != WorkerPhase::Connecting {
            return;
        }
        if self.open == self.links.len() {
            self.phase = WorkerPhase::Waiting;
            self.succeed();
            return self.report(Report::Connected);
        }
        let now = w.clock();
        while self.begun < self.links.len() && self.opening < CONNECTING_AT_ONCE {
            let due = self.connect_due(self.begun as u32);
            if due > now {
                return self.wake_at(due, w);
            }
            if self.waits_for_session(self.begun as u32) {
                return;
            }
            self.begin_connect(self.begun as u32, now, w);
            self.begun += 1;
        }
    }

    /// Returns the time to begin a connection: at even distances over all workers
    /// and processes.
    fn connect_due(&self, link: u32) -> Nanos {
        let Some(rate) = self.shared.load.connect_rate else { return Nanos(0) };
        self.started + Duration::from_secs_f64(f64::from(self.number(link)) / rate)
    }

    fn begin_connect(&mut self, link: u32, now: Nanos, w: &mut Worker<'_, Self>) {
        self.opening += 1;
        let (first, failures) = (self.addresses[self.destination(link)], Failures::new());
        let handshake = self.tls_handshakes;
        self.tls_handshakes += 1;
        let resumes = self.shared.secured.as_ref().is_some_and(|tls| tls.is_to_resume(handshake));
        let state = &mut self.links[link as usize];
        state.resumes = resumes;
        state.stage = Stage::Connecting { began: now, first, failures };
        self.connect(link, w);
    }

    /// Returns true if the next connection is to resume a session, there is none, and one of the
    /// connections that are being opened may bring it.
    fn waits_for_session(&self, link: u32) -> bool {
        let Some(tls) = &self.shared.secured else { return false };
        self.opening > 0
            && tls.is_to_resume(self.tls_handshakes)
            && !tls.has_session(self.destination(link))
    }

    /// Returns the index of a connection's server.
    pub(super) fn destination(&self, link: u32) -> usize {
        self.shared.destination(self.number(link))
    }

    /// Returns the index of the address that a connection is being made to, where one is left.
    pub(super) fn address_of(&self, link: u32) -> Option<usize> {
        let Stage::Connecting { first, failures, .. } = &self.links[link as usize].stage else {
            return None;
        };
        let addresses = &self.shared.destinations[self.destination(link)].addresses;
        next_address(*first, failures.len(), addresses.len())
    }

    /// Connects to the next address. Returns false if none is left.
    pub(super) fn connect(&mut self, link: u32, w: &mut Worker<'_, Self>) -> bool {
        let Some(index) = self.address_of(link) else { return false };
        let destination = self.destination(link);
        let to = self.shared.destinations[destination].addresses[index];
        let source = self.shared.source_ip(&to, self.number(link));
        let scope = if let SocketAddr::V6(to) = to { to.scope_id() } else { 0 };
        let from = source.map(|ip| url::source(ip, scope));
        let resumes = self.links[link as usize].resumes;
        let client = self.shared.secured.as_ref().map_or(0, |tls| tls.client(destination, resumes));
        w.connect(Connect {
            to,
            from,
            tag: (client as u64) << 32 | u64::from(link),
            timeout: self.shared.load.connect_timeout,
        });
        true
    }

    /// Begins the opening handshake on a TCP connection.
    pub(super) fn request(&mut self, link: u32, times: OpeningTimes, out: &mut Output<'_>) {
        let (nonce, number) = (self.outgoing.nonce(), self.number(link));
        let request = &self.shared.destinations[self.destination(link)].request;
        let timeout = self.shared.load.connect_timeout;
        let opening = Opening::begin(&request.of_connection(number), nonce, timeout, out);
        self.links[link as usize].stage = Stage::Handshaking { times, opening: Box::new(opening) };
    }

    /// Handles a connection whose opening handshake is complete. `answer`: what the server has
    /// agreed to of the offered compression.
    pub(super) fn handshake_done(
        &mut self,
        link: u32,
        times: OpeningTimes,
        answer: Option<Parameters>,
        out: &mut Output<'_>,
    ) {
        if self.is_measured_opening() {
            self.tally.opened(times, self.links[link as usize].resumes, self.now);
        }
        if let Some(compression) = &mut self.compression {
            self.tally.compression.answered(answer);
            let first = self.links[link as usize].ledger.next();
            compression.open(
                &self.shared,
                link,
                answer,
                (link < self.shard.count()).then_some(first),
            );
        }
        match self.shared.first_messages {
            None => self.now_open(link, out),
            Some(_) => self.begin_first_messages(link, out),
        }
    }

    /// Returns true if the times of opening a connection count now: before the load, and in the
    /// window.
    pub(super) fn is_measured_opening(&self) -> bool {
        self.phase == WorkerPhase::Connecting || self.position.second().is_some()
    }

    /// Handles a connection that is open, and whose load may begin.
    pub(super) fn now_open(&mut self, link: u32, out: &mut Output<'_>) {
        let state = &mut self.links[link as usize];
        if let Some(since) = state.down_since.take() {
            self.tally.outages.add(self.now.since(since));
        }
        state.stage = Stage::Open;
        (state.opened_at, state.first) = (self.now, state.ledger.next());
        state.unwritten = state.first;
        state.arriving = PartialEcho::default();
        state.left = self.shared.load.messages_per_connection.unwrap_or(u32::MAX);
        self.opening -= 1;
        self.open += 1;
        if let Some(answers) = &mut self.answers {
            answers.open(link, state.first);
        }
        self.begin_life(link, out);
        if self.phase == WorkerPhase::Loading && link < self.shard.count() {
            self.mark(link);
        }
    }

    /// Reads more of the response. Returns it once it is complete.
    pub(super) fn read_response(
        &mut self,
        link: u32,
        bytes: &[u8],
        out: &mut Output<'_>,
    ) -> Option<Response> {
        let destination = self.destination(link);
        let Stage::Handshaking { times, opening } = &mut self.links[link as usize].stage else {
            return None;
        };
        let times = *times;
        match opening.read(&self.shared.destinations[destination].request, bytes) {
            Ok(response) => response.inspect(|response| {
                out.set_deadline(None);
                if let Some(faults) = &response.faults {
                    self.tally.add_faults(faults);
                }
                self.handshake_done(link, times, response.deflate, out);
            }),
            Err(error) => {
                self.handshake_failed(link, error.to_string(), out);
                None
            }
        }
    }

    // What fails before the load ends the run: there is something wrong with the server or the
    // plan. Within it, with connections opened again and again, it is counted.

    pub(super) fn handshake_failed(&mut self, link: u32, detail: String, out: &mut Output<'_>) {
        self.links[link as usize].stage = Stage::Closing;
        out.close(CloseMode::Abort);
        self.not_open(link, detail, Unopened::Handshake);
    }

    pub(super) fn not_connected(&mut self, link: u32) {
        let stage = std::mem::take(&mut self.links[link as usize].stage);
        let detail = match stage {
            Stage::Connecting { failures, .. } => describe_failures(&failures),
            _ => String::new(),
        };
        self.not_open(link, detail, Unopened::Connect);
    }

    /// Handles a connection that could not be opened, because of the part that failed.
    pub(super) fn not_open(&mut self, link: u32, detail: String, part: Unopened) {
        self.opening -= 1;
        if self.is_over() {
            return;
        }
        let is_connected = part != Unopened::Connect;
        self.tally.errors.handshake += u64::from(is_connected);
        self.tally.errors.connect += u64::from(!is_connected);
        self.tally.unopened += 1;
        if self.phase == WorkerPhase::Connecting {
            self.phase = WorkerPhase::Waiting;
        }
        if self.phase == WorkerPhase::Waiting {
            let url = self.shared.destinations[self.destination(link)].url.to_string();
            return self.report_failure(|opened| match part {
                Unopened::Connect => RunError::Connect { detail, opened },
                Unopened::Handshake => RunError::Handshake { url, detail, opened },
                Unopened::FirstMessages => RunError::FirstMessages { url, detail, opened },
            });
        }
        self.tally.failed(self.position.second());
        let prefix = match part {
            Unopened::Connect => "",
            Unopened::Handshake => "the opening handshake fails: ",
            Unopened::FirstMessages => "the first messages fail: ",
        };
        self.fail(link, format!("{prefix}{detail}"));
        // After a failed handshake, the end of the TCP connection is reported later.
        if !is_connected && self.shared.load.reconnect {
            self.retry(link);
        }
        self.check_all_lost(detail);
    }

    // Opening again.

    /// Schedules a lost connection to be reopened: not at once, and later with each failed attempt.
    pub(super) fn retry(&mut self, link: u32) {
        let attempts = self.links[link as usize].failures;
        let delay = back_off(attempts, self.jitter.next());
        self.retries.push(Reverse((self.now + delay, link)));
    }

    /// Opens connections again whose place is empty.
    pub(super) fn reopen(&mut self, w: &mut Worker<'_, Self>) {
        if (self.reopen.is_empty() && self.retries.is_empty()) || self.is_over() {
            return;
        }
        let now = w.clock();
        while self.opening < CONNECTING_AT_ONCE {
            let Some(link) = self.reopen.pop().or_else(|| self.next_retry(now)) else { break };
            self.begin_connect(link, now, w);
        }
        // In an open loop what is due next has its own say after this.
        self.wake_at(self.shared.window.end(), w);
    }

    fn next_retry(&mut self, now: Nanos) -> Option<u32> {
        self.retries.peek().filter(|Reverse((at, _))| *at <= now)?;
        self.retries.pop().map(|Reverse((_, link))| link)
    }

    /// Returns the time at which the next waiting connection is reopened, if there is one.
    pub(super) fn next_reopening(&self) -> Nanos {
        // Those that wait for others to be open need no waking.
        let next = self.retries.peek().map(|Reverse((at, _))| *at);
        next.filter(|at| *at > self.now).unwrap_or(Nanos::NEVER)
    }

    // A connection that is closed as soon as it is open counts as a failed attempt.

    /// Counts a failed attempt to open a connection.
    pub(super) fn fail(&mut self, link: u32, why: String) {
        let state = &mut self.links[link as usize];
        if state.failures == 0 {
            state.failing_since = self.now;
        }
        state.failures = state.failures.saturating_add(1);
        let since = state.failing_since;
        if !self.shared.load.reconnect || self.is_over() {
            return;
        }
        if self.phase == WorkerPhase::Connecting
            && self.now.since(since) >= self.shared.load.answer_timeout
        {
            // The load needs all connections, and this one cannot be opened.
            self.phase = WorkerPhase::Waiting;
            let after = self.now.since(since);
            return self.report_failure(|opened| RunError::NoneStays { cause: why, after, opened });
        }
        self.failing.get_or_insert(self.tally.received.total);
        self.shared.gauges[self.worker].fails(self.now, why);
    }

    pub(super) fn succeed(&mut self) {
        if self.failing.take().is_some() {
            self.shared.gauges[self.worker].succeeds();
        }
    }
}

/// Returns the time until a connection is reopened after this many failed attempts. Half of it is
/// random, so that connections that were lost together are not reopened together.
fn back_off(attempts: u32, random: u64) -> Duration {
    let longest =
        FIRST_RETRY.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(LAST_RETRY);
    longest.mul_f64(0.5 + 0.5 * (random as f64 / u64::MAX as f64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backs_off_up_to_a_bound() {
        let millis = |attempts, random| back_off(attempts, random).as_millis();
        assert_eq!(
            [0, 1, 2, 3, 6, 7, 8].map(|n| millis(n, u64::MAX)),
            [100, 100, 200, 400, 3200, 5000, 5000]
        );
        assert_eq!((millis(1, 0), millis(u32::MAX, 0)), (50, 2500));
    }

    #[test]
    fn tries_each_address_once_from_the_one_that_worked_last() {
        let tried = [0, 1, 2, 3].map(|failures| next_address(1, failures, 3));
        assert_eq!(tried, [Some(1), Some(2), Some(0), None]);
    }
}
