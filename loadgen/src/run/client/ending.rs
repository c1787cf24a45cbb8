//! Life and end of connections, on either side.

use std::sync::atomic::Ordering;
use std::time::Duration;

use engine::{Cause, CloseMode, Nanos, Output, Worker};
use protocol::Opcode;

use super::super::error::RunError;
use super::super::ledger::Ledger;
use super::super::pace::PaceMeter;
use super::super::shared::{Position, Report};
use super::super::tally::duration_ns;
use super::opening::Unopened;
use super::{CLOSING_TIME, Client, ConnectionState, NORMAL_CLOSURE, Stage, WorkerPhase};
use crate::load::Transport;
use crate::result::Errors;
use crate::target::opening::quoted;
use crate::target::trust::explain;

impl Client {
    /// Returns true if the run needs no connection any more, so that a failure is not an error.
    pub(super) fn is_over(&self) -> bool {
        matches!(self.phase, WorkerPhase::Draining | WorkerPhase::Closing)
    }

    // Pings, and the end of a connection's time.

    /// Sets the times of a connection that has just opened.
    pub(super) fn begin_life(&mut self, link: u32, out: &mut Output<'_>) {
        let is_loaded = link < self.shard.count();
        let ends = self.shared.load.lifetime.filter(|_| is_loaded);
        let number = self.number(link);
        let state = &mut self.links[link as usize];
        state.ends_at = ends.map_or(Nanos::NEVER, |span| self.now + span);
        if let Some(interval) = self.shared.load.ping_interval {
            // Spread over the interval, so that connections opened together do not ping together.
            let share = f64::from(number % 1024 + 1) / 1024.0;
            state.ping_at = self.now + interval.mul_f64(share);
        }
        self.set_deadline(link, out);
    }

    fn set_deadline(&self, link: u32, out: &mut Output<'_>) {
        let state = &self.links[link as usize];
        let at = state.ends_at.min(state.ping_at);
        if at != Nanos::NEVER {
            out.set_deadline(Some(at));
        }
    }

    /// Ends the life of an open connection, or sends a ping, where it is time.
    pub(super) fn on_time(&mut self, link: u32, out: &mut Output<'_>) {
        let is_over = self.is_over();
        let state = &mut self.links[link as usize];
        if state.ends_at <= self.now {
            state.ends_at = Nanos::NEVER;
            state.left = 0;
            self.mark(link);
        }
        let state = &mut self.links[link as usize];
        // Nothing more is sent once the load has ended, not even a ping.
        if state.ping_at <= self.now && !is_over {
            state.ping_at = self.now + self.shared.load.ping_interval.unwrap_or(Duration::MAX);
            self.tally.pings.sent += 1;
            self.outgoing.control(Opcode::Ping, b"sparring", out);
        }
        self.set_deadline(link, out);
    }

    // Connections that are complete.

    /// Closes a complete connection; another takes its place.
    pub(super) fn retire(&mut self, link: u32, position: Position, w: &mut Worker<'_, Self>) {
        let state = &mut self.links[link as usize];
        let Some(id) = state.id else { return };
        state.stage = Stage::Closing;
        state.is_retired = true;
        state.ledger.begin_anew();
        self.open -= 1;
        self.retiring += 1;
        self.tally.cycles += u64::from(position.second().is_some());
        let deadline = w.now() + CLOSING_TIME;
        w.with(id, |_, out| self.say_goodbye(deadline, out));
    }

    fn say_goodbye(&mut self, deadline: Nanos, out: &mut Output<'_>) {
        match self.shared.load.transport {
            Transport::Tcp => out.close(CloseMode::Flush),
            // The server closes first (RFC 6455 7.1.1), so that its end is in TIME_WAIT.
            Transport::Ws | Transport::Wss => {
                self.outgoing.close(Some(NORMAL_CLOSURE), out);
                out.set_deadline(Some(deadline));
            }
        }
    }

    // Connections that end otherwise.

    /// Answers the Close of the other end.
    pub(super) fn peer_closes(&mut self, link: u32, close: &protocol::Close, out: &mut Output<'_>) {
        if let Stage::Closing = self.links[link as usize].stage {
            // The answer to ours: the server closes now (RFC 6455 7.1.1).
            return;
        }
        self.outgoing.close(close.code(), out);
        let code = close.code().map_or_else(|| "no code".to_owned(), |code| format!("code {code}"));
        let reason = quoted(close.reason());
        let colon = if reason.is_empty() { "" } else { ": " };
        let why = format!("sent a Close ({code}{colon}{reason})");
        if let Stage::FirstMessages { .. } = self.links[link as usize].stage {
            return self.first_messages_failed(link, format!("the server {why}"), out);
        }
        self.tally.errors.closed += 1;
        self.end(link, why, out);
    }

    /// Ends a connection because of a fault that is counted already.
    pub(super) fn end(&mut self, link: u32, why: String, out: &mut Output<'_>) {
        if let Stage::FirstMessages { .. } = self.links[link as usize].stage {
            return self.first_messages_failed(link, format!("the server {why}"), out);
        }
        out.close(CloseMode::Flush);
        self.lose(link, why);
    }

    /// Handles a lost connection, whose outstanding messages will not come back.
    pub(super) fn lose(&mut self, link: u32, why: String) {
        self.release_held(link);
        let state = &mut self.links[link as usize];
        let was_open = matches!(state.stage, Stage::Open);
        let has_lived = state.has_lived(self.now);
        state.stage = Stage::Closing;
        if self.shared.load.reconnect && self.phase == WorkerPhase::Loading {
            state.down_since.get_or_insert(self.now);
        }
        let lost = u64::from(state.ledger.begin_anew());
        self.outstanding -= lost;
        self.tally.integrity.lost += lost;
        self.tally.integrity.lost_with_connection += lost;
        self.tally.ends += 1;
        self.tally.failed(self.position.second());
        if was_open {
            self.open -= 1;
            if has_lived {
                self.links[link as usize].failures = 0;
                self.succeed();
            } else {
                self.lost_at_once(link, &why);
            }
            let is_early = self.phase == WorkerPhase::Connecting
                || (self.phase == WorkerPhase::Waiting && !has_lived);
            if is_early && !self.shared.load.reconnect {
                self.phase = WorkerPhase::Waiting;
                return self.report_failure(|opened| RunError::LostEarly { cause: why, opened });
            }
            self.check_all_lost(why);
        }
    }

    /// Handles a connection that was closed as soon as it was open.
    fn lost_at_once(&mut self, link: u32, why: &str) {
        let why = format!("the server closes connections at once: {why}");
        if self.shared.load.reconnect
            && !self.is_over()
            && !self.shared.has_told.swap(true, Ordering::Relaxed)
        {
            self.report(Report::LostAtOnce(why.clone()));
        }
        self.fail(link, why);
    }

    /// Reports that all connections are lost and none will follow.
    pub(super) fn check_all_lost(&self, why: String) {
        let none_to_come = self.opening == 0 && self.retiring == 0 && self.reopen.is_empty();
        if self.open == 0 && none_to_come && !self.shared.load.reconnect {
            self.report(Report::AllConnectionsLost(why));
        }
    }

    /// Handles the connections that the engine has reported closed; others may take their places.
    pub(super) fn handle_gone(&mut self) {
        let mut gone = std::mem::take(&mut self.gone);
        for (link, cause) in gone.drain(..) {
            self.release_held(link);
            self.connection_gone(link, &cause);
            let state = &mut self.links[link as usize];
            state.stage = Stage::Closed;
            if std::mem::take(&mut state.is_retired) {
                self.retiring -= 1;
                self.reopen.push(link);
            } else if self.shared.load.reconnect && !self.is_over() {
                self.retry(link);
            }
        }
        self.gone = gone;
    }

    fn connection_gone(&mut self, link: u32, cause: &Cause) {
        match (&self.links[link as usize].stage, cause) {
            (_, Cause::Shutdown) => {}
            (Stage::Open, _) => {
                let Errors { timeout, io, closed, .. } = &mut self.tally.errors;
                *match cause {
                    Cause::WriteStalled => timeout,
                    Cause::Io(_) => io,
                    _ => closed,
                } += 1;
                self.lose(link, describe(cause));
            }
            (Stage::Handshaking { .. }, Cause::Layer(_)) => {
                self.not_open(link, describe(cause), Unopened::Handshake);
            }
            (Stage::FirstMessages { .. }, _) => {
                let detail = format!("the server {}", describe(cause));
                self.not_open(link, detail, Unopened::FirstMessages);
            }
            (Stage::Handshaking { .. }, _) => {
                self.not_open(
                    link,
                    format!("the server {} without answering", describe(cause)),
                    Unopened::Handshake,
                );
            }
            _ => {}
        }
    }

    /// Ends the load, if it has not ended, and closes all connections.
    pub(super) fn close_all(&mut self, w: &mut Worker<'_, Self>) {
        self.look();
        if self.phase == WorkerPhase::Loading {
            self.end_load(w);
        }
        self.phase = WorkerPhase::Closing;
        self.ended_at = Some(self.now);
        let deadline = w.now() + CLOSING_TIME;
        for link in 0..self.links.len() {
            let state = &mut self.links[link];
            let is_open = matches!(state.stage, Stage::Open | Stage::FirstMessages { .. });
            if let (Some(id), true) =
                (state.id, is_open || matches!(state.stage, Stage::Handshaking { .. }))
            {
                state.stage = Stage::Closing;
                w.with(id, |_, out| match is_open {
                    true => self.say_goodbye(deadline, out),
                    false => out.close(CloseMode::Abort),
                });
            }
        }
    }
}

/// Conservation of messages: every planned message has one outcome, per connection and in sum.
impl Client {
    /// Classifies the messages without an echo, and checks that the counts add up.
    pub(super) fn finish_counts(&mut self) {
        let end = self.ended_at.unwrap_or(self.now);
        if self.phase == WorkerPhase::Loading {
            // The worker was stopped, or its engine failed.
            self.count_rest();
        }
        self.tally.paces = self.pace.as_ref().map(PaceMeter::paces).unwrap_or_default();
        let has_kept_pace = self.has_kept_pace();
        for index in 0..self.links.len() {
            if let Some(since) = self.links[index].down_since.take() {
                self.tally.outages.add(end.since(since));
            }
            self.release_held(index as u32);
            self.classify_unanswered(index, end, has_kept_pace);
        }
        self.tally.enter_repeated();
        self.tally.finish_stages();
        self.tally.imbalance = self.imbalance();
    }

    /// Returns true if the echoes of an open loop kept up with its plan.
    fn has_kept_pace(&self) -> bool {
        let burst = self.shared.load.burst();
        let share = f64::from(self.shard.count()) / f64::from(self.shard.connections);
        self.tally.paces.iter().all(|pace| pace.is_kept(burst))
            && self.tally.staged.as_ref().is_none_or(|staged| staged.stages.are_kept(burst, share))
    }

    /// Classifies the messages of a connection that have no echo. A message is lost where a later
    /// one came back, or where the server has been silent for too long. Otherwise the server may
    /// still answer it.
    fn classify_unanswered(&mut self, link: usize, end: Nanos, has_kept_pace: bool) {
        let shared = &self.shared;
        let has_waited = |since: Nanos| end.since(since) >= shared.load.answer_timeout;
        let ConnectionState { ledger, heard_at, .. } = &mut self.links[link];
        // An overloaded server may work off other connections first.
        let is_silent = has_waited(*heard_at) && has_kept_pace;
        let mut staged = self.tally.staged.as_mut().map(|staged| &mut staged.stages);
        let lost = ledger.give_up(|times, overtaken| {
            let is_lost = overtaken || (is_silent && has_waited(times.sent));
            if let Some(stages) = staged.as_mut().filter(|_| is_lost) {
                stages.lost(times.due);
            }
            is_lost
        });
        self.outstanding -= u64::from(lost);
        self.tally.integrity.lost += u64::from(lost);
        let window = &shared.window;
        for (times, _) in self.links[link].ledger.unanswered() {
            // A closed loop counts the messages that were outstanding when the window ended. An
            // open loop counts those that were planned in it.
            let second = match shared.load.is_open_loop() {
                true => window.position(times.due).second(),
                false => window.last_second(),
            };
            let age_ns = duration_ns(times.due, end);
            self.tally.unanswered(age_ns, second);
            if let Some(staged) = &mut self.tally.staged {
                staged.stages.unanswered(times.due, age_ns);
            }
        }
    }

    /// Returns a description of the first count that does not add up.
    fn imbalance(&self) -> Option<String> {
        if let Some((link, state)) =
            self.links.iter().enumerate().find(|(_, state)| !state.ledger.is_balanced())
        {
            return Some(format!("connection {}: {:?}", self.number(link as u32), state.ledger));
        }
        let sum = |count: fn(&Ledger) -> u64| {
            self.links.iter().map(|link| count(&link.ledger)).sum::<u64>()
        };
        let tally = &self.tally;
        let counts = [
            ("sent", tally.sent.total, sum(Ledger::next)),
            ("answered", tally.received.total, sum(Ledger::answered)),
            ("lost", tally.integrity.lost, sum(Ledger::lost)),
            ("outstanding", tally.outstanding.count, sum(|ledger| ledger.outstanding().into())),
            ("outstanding at the end", self.outstanding, tally.outstanding.count),
        ];
        let wrong = counts.into_iter().find(|(_, counted, sum)| counted != sum)?;
        Some(format!("{}: {} were counted, the connections have {}", wrong.0, wrong.1, wrong.2))
    }
}

pub(super) fn describe(cause: &Cause) -> String {
    match cause {
        Cause::PeerClosed => "closed the connection".to_owned(),
        Cause::Closed => "did not close in time".to_owned(),
        Cause::Reset => "reset the connection".to_owned(),
        Cause::WriteStalled => "took no more bytes".to_owned(),
        Cause::Io(error) => format!("connection failed: {error}"),
        Cause::Layer(error) => error.downcast_ref().map_or_else(|| error.to_string(), explain),
        Cause::Shutdown => "the run ended".to_owned(),
    }
}
