//! Messages between the opening handshake of a connection and its load: greetings of the server,
//! the first message, and its answer.

use engine::{CloseMode, Output};

use super::super::error::ANSWERED;
use super::opening::Unopened;
use super::{Client, Stage};
use crate::target::opening::quoted;

impl Client {
    /// Begins the first messages of a connection whose opening handshake is complete.
    pub(super) fn begin_first_messages(&mut self, link: u32, out: &mut Output<'_>) {
        let Some(first) = &self.shared.first_messages else { return };
        let to_skip = first.skip;
        self.links[link as usize].stage = Stage::FirstMessages { began: self.now, to_skip };
        out.set_deadline(Some(self.now + self.shared.load.connect_timeout));
        if to_skip == 0 {
            self.send_first_message(link, out);
        }
    }

    /// Sends the first message, if there is one. Nothing more is awaited where no answer is
    /// expected.
    fn send_first_message(&mut self, link: u32, out: &mut Output<'_>) {
        self.write_first_message(link, out);
        if self.shared.first_messages.as_ref().is_some_and(|first| first.expected.is_none()) {
            self.end_first_messages(link, out);
        }
    }

    /// Handles a message of the server.
    pub(super) fn read_first_message(&mut self, link: u32, message: &[u8], out: &mut Output<'_>) {
        let Stage::FirstMessages { to_skip, .. } = &mut self.links[link as usize].stage else {
            return;
        };
        if let Some(left) = to_skip.checked_sub(1) {
            *to_skip = left;
            if left == 0 {
                self.send_first_message(link, out);
            }
            return;
        }
        let first = self.shared.first_messages.as_ref();
        let expected = first.and_then(|first| first.expected.as_ref());
        if expected.is_none_or(|expected| expected.is_match(message)) {
            return self.end_first_messages(link, out);
        }
        let what = self.awaited();
        let answer = quoted(&String::from_utf8_lossy(message));
        let detail = format!("{what} does not match --expect-first{ANSWERED}`{answer}`");
        self.first_messages_failed(link, detail, out);
    }

    /// Describes the message that --expect-first is about.
    fn awaited(&self) -> &'static str {
        match self.shared.load.first_message {
            Some(_) => "the answer to --first-message",
            None => "the server's first message",
        }
    }

    fn end_first_messages(&mut self, link: u32, out: &mut Output<'_>) {
        if let Stage::FirstMessages { began, .. } = self.links[link as usize].stage
            && self.is_measured_opening()
        {
            self.tally.exchanged(began, self.now);
        }
        out.set_deadline(None);
        self.now_open(link, out);
    }

    /// Handles a connection on which messages of the server did not come in time.
    pub(super) fn first_messages_late(&mut self, link: u32, out: &mut Output<'_>) {
        self.tally.errors.timeout += 1;
        let Stage::FirstMessages { to_skip, .. } = self.links[link as usize].stage else { return };
        let (all, within) = (self.shared.load.skip_first, self.shared.load.connect_timeout);
        let detail = match to_skip {
            0 => format!("{} did not come within {within:?}", self.awaited()),
            left => format!(
                "{} of {all} messages that --skip-first skips came within {within:?}",
                all - left
            ),
        };
        self.first_messages_failed(link, detail, out);
    }

    /// Ends a connection whose first messages failed.
    pub(super) fn first_messages_failed(
        &mut self,
        link: u32,
        detail: String,
        out: &mut Output<'_>,
    ) {
        self.links[link as usize].stage = Stage::Closing;
        // A Close may have been written, as the answer to one.
        out.close(CloseMode::Flush);
        self.not_open(link, detail, Unopened::FirstMessages);
    }
}
