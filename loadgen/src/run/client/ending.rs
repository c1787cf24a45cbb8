//! How connections end, whoever ends them.

use engine::{Cause, CloseMode, Output, Worker};

use super::super::shared::Report;
use super::{CLOSING_TIME, Client, Doing, NORMAL_CLOSURE, Stage};
use crate::result::Transport;

impl Client {
    /// The other end has begun to close.
    pub(super) fn peer_closes(&mut self, link: u32, close: &protocol::Close, out: &mut Output<'_>) {
        if self.doing == Doing::Closing {
            // The answer to ours: the server closes now (RFC 6455 7.1.1), which we see as the end of its bytes.
            return;
        }
        self.outgoing.close(close.code(), out);
        let code = close.code().map_or_else(|| "no code".to_owned(), |code| format!("code {code}"));
        self.tally.errors.closed += 1;
        self.end(link, format!("sent a Close ({code}{}{})", colon(close.reason()), close.reason()), out);
    }

    /// Ends a connection because of a fault that is counted already.
    pub(super) fn end(&mut self, link: u32, why: String, out: &mut Output<'_>) {
        out.close(CloseMode::Flush);
        self.lose(link, why);
    }

    /// A connection is lost: what is outstanding on it will not come.
    pub(super) fn lose(&mut self, link: u32, why: String) {
        let state = &mut self.links[link as usize];
        let was_open = matches!(state.stage, Stage::Open);
        state.stage = Stage::Closing;
        self.outstanding -= u64::from(state.ledger.outstanding());
        state.ledger.begin_anew();
        self.tally.failed(self.position.second());
        if !was_open {
            return;
        }
        self.open -= 1;
        if self.open == 0 {
            self.report(Report::Deserted(why));
        }
    }

    /// Gives up what is outstanding and closes everything.
    pub(super) fn close_all(&mut self, w: &mut Worker<'_, Self>) {
        self.doing = Doing::Closing;
        self.tally.integrity.lost += self.outstanding;
        self.outstanding = 0;
        let deadline = w.now() + CLOSING_TIME;
        for link in 0..self.links.len() {
            let state = &mut self.links[link];
            let (Stage::Open, Some(id)) = (&state.stage, state.id) else { continue };
            state.stage = Stage::Closing;
            w.with(id, |_, out| match self.shared.transport {
                Transport::Tcp => out.close(CloseMode::Flush),
                // The server closes first (RFC 6455 7.1.1), so that its end keeps the port in TIME_WAIT, not ours.
                Transport::Ws => {
                    self.outgoing.close(Some(NORMAL_CLOSURE), out);
                    out.set_deadline(Some(deadline));
                }
            });
        }
    }
}

/// A separator where there is something to separate.
fn colon(text: &str) -> &'static str {
    if text.is_empty() { "" } else { ": " }
}

pub(super) fn describe(cause: &Cause) -> String {
    match cause {
        Cause::PeerClosed => "closed the connection".to_owned(),
        Cause::Closed => "did not close in time".to_owned(),
        Cause::Reset => "reset the connection".to_owned(),
        Cause::WriteStalled => "took no more bytes".to_owned(),
        Cause::Io(error) => format!("connection failed: {error}"),
        Cause::Shutdown => "the run ended".to_owned(),
    }
}
