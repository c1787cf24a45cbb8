//! Deadlines of a WebSocket.

use engine::{CloseMode, Nanos, Output};
use protocol::Opcode;
use protocol::close::GOING_AWAY;
use protocol::handshake::server::Refusal;

use super::{REST, WebSocketEcho, earlier};
use crate::connection::{Connection, DeadlineAction, Parked, Stage};
use crate::echo;

impl WebSocketEcho {
    /// First deadline of an open WebSocket. Arriving bytes do not move it: it fires at its time,
    /// checks what has arrived, and is set again.
    pub(super) fn first_deadline(&self, c: &Connection, now: Nanos) -> Option<Nanos> {
        let check = earlier(self.next_check(now), next_rest(c, now));
        earlier(self.settings.heartbeat.first(now), check)
    }

    /// Time of the next check for an unfinished message: one that begins after a check is found
    /// before its limit.
    fn next_check(&self, now: Nanos) -> Option<Nanos> {
        let timeout = self.settings.message_timeout;
        (!timeout.is_zero()).then(|| now + timeout)
    }

    /// Handles a request that is late: 408 where it has begun, otherwise the connection is closed
    /// without an answer.
    pub(super) fn handshake_timed_out(
        &mut self,
        c: &mut Connection,
        begun: bool,
        out: &mut Output<'_>,
    ) {
        if begun {
            self.decline(c, &Refusal::timeout().into(), out);
        } else {
            out.close(CloseMode::Abort);
        }
    }

    /// Handles the deadline of an open WebSocket: the end of a pause, the limit of a message, or
    /// the heartbeat.
    pub(super) fn on_deadline(&mut self, c: &mut Connection, out: &mut Output<'_>) {
        let now = out.now();
        if c.paused_until() <= now {
            c.set_paused_until(Nanos::NEVER);
            if c.parked == Parked::No {
                out.resume();
            }
            // The connection was not read from, so nothing could arrive.
            c.heard(now);
        }
        let Some(look) = self.check_message(c, out) else { return };
        if c.paused_until() != Nanos::NEVER {
            return out.set_deadline(earlier(look, Some(c.paused_until())));
        }
        // An open message still refers to the context, and adds to it.
        let rests = c.silent(now) >= REST && self.echo.begun(&c.assembly).is_none();
        if let Some(compression) = c.compression().filter(|_| rests) {
            self.echo.rest(compression);
        }
        c.check_output(out.unsent(), now);
        let (action, next) = self.settings.heartbeat.action(c, now);
        match action {
            DeadlineAction::Wait => {}
            DeadlineAction::Ping => {
                c.was_pinged = true;
                echo::control(Opcode::Ping, &[], out);
            }
            // A Close behind output that the peer does not accept would never reach the peer.
            DeadlineAction::Idle if out.unsent() > 0 => return out.close(CloseMode::Abort),
            DeadlineAction::Idle => return self.close_going_away(c, "idle timeout", out),
            DeadlineAction::Dead => return out.close(CloseMode::Abort),
        }
        out.set_deadline(earlier(earlier(next, look), next_rest(c, now)));
    }

    /// Time of the next check of an unfinished message; `None` when the connection was closed for
    /// its limit.
    fn check_message(&mut self, c: &mut Connection, out: &mut Output<'_>) -> Option<Option<Nanos>> {
        let (now, timeout) = (out.now(), self.settings.message_timeout);
        let socket = c.stage.socket()?;
        let elapsed = if timeout.is_zero() || socket.is_between_messages() {
            c.clear_stuck();
            return Some(self.next_check(now));
        } else if let Some(begun) = self.echo.begun(&c.assembly) {
            c.clear_stuck();
            now.since(begun)
        } else {
            c.stuck(now)
        };
        if elapsed >= timeout {
            self.close_for_policy(c, "message-timeout", out);
            return None;
        }
        Some(Some(now + (timeout - elapsed)))
    }

    /// Closes an open WebSocket with 1001. A request that has begun gets a 503; a connection
    /// without one is closed without an answer.
    pub(super) fn close_going_away(
        &mut self,
        c: &mut Connection,
        reason: &str,
        out: &mut Output<'_>,
    ) {
        match c.stage {
            Stage::Open(_) | Stage::Faulty(_) => self.close(c, GOING_AWAY, reason, out),
            Stage::Handshake { head: Some(_), .. } => {
                self.decline(c, &Refusal::going_down().into(), out);
            }
            Stage::Handshake { head: None, .. } => out.close(CloseMode::Abort),
            Stage::Refused => {}
        }
    }
}

/// Time of the next check whether a connection gives memory back.
fn next_rest(c: &Connection, now: Nanos) -> Option<Nanos> {
    let compression = c.account.as_ref()?.compression.as_ref()?;
    let left = REST.saturating_sub(c.silent(now));
    compression.has_context().then(|| now + if left.is_zero() { REST } else { left })
}
