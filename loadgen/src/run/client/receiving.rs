//! Received bytes and the echoes in them.

use engine::{Nanos, Output};
use protocol::{Event, MessageKind, Opcode, ProtocolError};

use super::super::check::{self, EchoOutcome, Judged};
use super::super::ledger::Times;
use super::super::tally::duration_ns;
use super::{Client, Conn, Stage, WorkerPhase};

/// Echo as it is counted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Echo {
    pub(super) times: Times,
    /// Time of its arrival, and the second of the window, if it came within one.
    pub(super) at: Nanos,
    pub(super) second: Option<u32>,
}

impl Client {
    /// Reads frames of an open connection, or of one whose first messages are being exchanged, in
    /// the way that its load needs.
    #[inline(never)]
    pub(super) fn read_otherwise(&mut self, c: &mut Conn, bytes: &mut [u8], out: &mut Output<'_>) {
        let is_first = matches!(self.links[c.link as usize].stage, Stage::FirstMessages { .. });
        if is_first || self.shared.judges_answers() {
            self.read_frames::<true, true>(c, bytes, out);
        } else if self.is_plain {
            self.read_frames::<false, false>(c, bytes, out);
        } else {
            self.read_frames::<true, false>(c, bytes, out);
        }
    }

    /// Reads what follows the first messages, unless they have failed.
    fn read_on(&mut self, c: &mut Conn, bytes: &mut [u8], out: &mut Output<'_>) {
        if matches!(self.links[c.link as usize].stage, Stage::Open) {
            self.read_otherwise(c, bytes, out);
        }
    }

    /// Reads frames. `DEFLATE`: the load may offer compression. `WHOLE`: messages are assembled, as
    /// first messages are, and answers that are not the echoes of generated messages.
    pub(super) fn read_frames<const DEFLATE: bool, const WHOLE: bool>(
        &mut self,
        c: &mut Conn,
        bytes: &mut [u8],
        out: &mut Output<'_>,
    ) {
        let mut at = 0;
        loop {
            match c.protocol.next(&self.limits, bytes, &mut at) {
                Ok(Some(Event::Data(chunk))) => {
                    let (kind, first, last) = (chunk.kind, chunk.first, chunk.last);
                    let (payload, is_compressed) = (chunk.payload.clone(), chunk.compressed);
                    c.protocol.skip(chunk);
                    if WHOLE {
                        let of = (kind, (first, last), is_compressed);
                        match self.read_piece(c.link, of, &bytes[payload], out) {
                            Ok(true) => continue,
                            // The first messages are over, and perhaps the connection.
                            Ok(false) => return self.read_on(c, &mut bytes[at..], out),
                            Err(error) => {
                                c.protocol.fail();
                                return self.breaks_protocol(c.link, &error, out);
                            }
                        }
                    }
                    // Echoes that come after the drain are counted as lost already. Where a message
                    // is kept, its true echo may still come before the server's Close.
                    if self.phase == WorkerPhase::Closing
                        && self.links[c.link as usize].held.is_none()
                    {
                        continue;
                    }
                    if !DEFLATE || !is_compressed {
                        if DEFLATE {
                            let count = &mut self.tally.compression.received_uncompressed;
                            *count += u64::from(last);
                            if first {
                                self.begin_uncompressed(c.link);
                            }
                        }
                        self.read_chunk(c.link, kind, first && last, last, &bytes[payload]);
                    } else if let Err(error) =
                        self.read_compressed(c.link, kind, (first, last), &bytes[payload])
                    {
                        c.protocol.fail();
                        return self.breaks_protocol(c.link, &error, out);
                    }
                }
                Ok(Some(Event::Ping(ping))) => {
                    self.outgoing.control(Opcode::Pong, ping.payload(), out);
                }
                Ok(Some(Event::Pong(_))) => self.tally.pings.answered += 1,
                Ok(Some(Event::Close(close))) => return self.peer_closes(c.link, &close, out),
                Ok(None) => return,
                Err(error) => return self.breaks_protocol(c.link, &error, out),
            }
        }
    }

    /// Ends a connection on which the server broke a rule.
    #[cold]
    fn breaks_protocol(&mut self, link: u32, error: &ProtocolError, out: &mut Output<'_>) {
        let detail = format!("broke the protocol: {error} ({})", error.section());
        self.outgoing.close(Some(error.close_code()), out);
        self.tally.errors.protocol += 1;
        self.end(link, detail, out);
    }

    /// Raw echo: messages are told apart by their length alone.
    pub(super) fn read_raw(&mut self, link: u32, mut bytes: &[u8], out: &mut Output<'_>) {
        while !bytes.is_empty() {
            let state = &self.links[link as usize];
            if state.ledger.outstanding() == 0 {
                self.tally.errors.protocol += 1;
                return self.end(link, "sent more bytes than it was sent".to_owned(), out);
            }
            let (got, content) = (state.arriving.got(), &self.shared.content);
            let oldest = || {
                content.len_of(self.shard.number(link), state.ledger.oldest().unwrap_or_default())
            };
            let len = content.only_len().unwrap_or_else(oldest);
            let (piece, rest) = bytes.split_at(bytes.len().min(len - got));
            let last = got + piece.len() == len;
            self.read_chunk(link, self.shared.content.kind(), got == 0 && last, last, piece);
            bytes = rest;
        }
    }

    #[inline]
    fn read_chunk(&mut self, link: u32, kind: MessageKind, whole: bool, last: bool, piece: &[u8]) {
        let number = self.shard.number(link);
        let content = &self.shared.content;
        let state = &mut self.links[link as usize];
        // Nearly every echo is whole, and the oldest one due.
        let oldest = state.ledger.oldest();
        let judged = if !self.shared.load.verify {
            state.arriving.skip(piece);
            last.then(|| state.arriving.finish_unseen(&state.ledger))
        } else if whole && oldest.is_some_and(|oldest| content.matches(number, oldest, piece)) {
            Some(Judged { sequence: oldest, sound: true, is_foreign: false })
        } else {
            state.arriving.feed(content, number, &state.ledger, piece);
            last.then(|| state.arriving.finish(content, number, &state.ledger))
        };
        if let Some(judged) = judged {
            self.count_echo(link, kind, judged);
        }
    }

    /// Handles a complete echo.
    // Compressed echoes come here too. With a second caller it is no longer inlined by itself,
    // which costs 28 instructions a message.
    #[inline(always)]
    pub(super) fn count_echo(&mut self, link: u32, kind: MessageKind, judged: Judged) {
        let state = &mut self.links[link as usize];
        let content = &self.shared.content;
        let EchoOutcome { times, is_fault, unnamed } = check::count_echo(
            judged,
            kind != content.kind(),
            content.is_stamped() && self.shared.load.verify,
            &mut state.ledger,
            &mut self.tally.integrity,
        );
        if is_fault && self.is_true_echo(link, judged) {
            return;
        }
        let Some(times) = times else { return self.tally.failed(self.position.second()) };
        self.outstanding -= 1;
        if self.schedule.is_none() || self.links[link as usize].left == 0 {
            self.mark(link);
        }
        let echo = Echo { times, at: self.now, second: self.position.second() };
        if let Some(sequence) = unnamed {
            return self.hold(link, sequence, echo);
        }
        if is_fault {
            self.count_wrong(echo.second);
        }
        self.count(echo);
    }

    pub(super) fn count_wrong(&mut self, second: Option<u32>) {
        self.tally.wrong += 1;
        self.tally.failed(second);
    }

    #[inline]
    pub(super) fn count(&mut self, echo: Echo) {
        let Echo { times, at, second } = echo;
        if self.schedule.is_some() {
            let planned = self.shared.window.position(times.due).second();
            self.tally.received_planned(times, at, planned, second);
        } else {
            self.tally.received(duration_ns(times.sent, at), second);
        }
    }

    // Messages that look like ours and have no valid number of ours. A message of the server's own
    // may come before the echo, so the echo decides.

    /// Keeps such a message until its kind is known.
    #[cold]
    fn hold(&mut self, link: u32, sequence: u64, echo: Echo) {
        self.release_held(link);
        self.links[link as usize].held = Some(Box::new((sequence, echo)));
    }

    /// Counts the kept message as the corrupted echo, because no other echo has come in its place.
    pub(super) fn release_held(&mut self, link: u32) {
        if let Some(held) = self.links[link as usize].held.take() {
            self.tally.integrity.corrupted += 1;
            self.count_wrong(held.1.second);
            self.count(held.1);
        }
        if self.answers.is_some() {
            self.release_unexplained(link);
        }
    }

    /// Returns true if an echo that seems repeated is the true one; it is counted then.
    #[cold]
    fn is_true_echo(&mut self, link: u32, judged: Judged) -> bool {
        let held = &mut self.links[link as usize].held;
        let Some(held) = held.take_if(|held| judged.sound && judged.sequence == Some(held.0))
        else {
            return false;
        };
        self.tally.integrity.duplicated -= 1;
        self.tally.integrity.unsolicited += 1;
        self.tally.failed(held.1.second);
        self.count(Echo { times: held.1.times, at: self.now, second: self.position.second() });
        true
    }

    /// The connection has room in its pipeline.
    #[inline]
    pub(super) fn mark(&mut self, link: u32) {
        let state = &mut self.links[link as usize];
        if !state.is_dirty {
            state.is_dirty = true;
            self.dirty.push(link);
        }
    }
}
