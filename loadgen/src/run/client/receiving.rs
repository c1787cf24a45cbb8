//! From the bytes of a connection to counted echoes.

use engine::Output;
use protocol::{Event, MessageKind};

use super::super::check::{self, Judged, Settled};
use super::super::tally::duration_ns;
use super::{Client, Conn, Doing};

impl Client {
    pub(super) fn read_frames(&mut self, c: &mut Conn, bytes: &mut [u8], out: &mut Output<'_>) {
        let mut at = 0;
        loop {
            match c.protocol.next(&self.limits, bytes, &mut at) {
                Ok(Some(Event::Data(chunk))) => {
                    let (kind, first, last) = (chunk.kind, chunk.first, chunk.last);
                    let payload = chunk.payload.clone();
                    c.protocol.skip(chunk);
                    // What comes after the drain is lost already.
                    if self.doing != Doing::Closing {
                        self.read_chunk(c.link, kind, first && last, last, &bytes[payload]);
                    }
                }
                Ok(Some(Event::Ping(ping))) => self.outgoing.pong(ping.payload(), out),
                Ok(Some(Event::Pong(_))) => self.tally.pings.answered += 1,
                Ok(Some(Event::Close(close))) => return self.peer_closes(c.link, &close, out),
                Ok(None) => return,
                Err(error) => {
                    let detail = format!("broke the protocol: {error} (RFC 6455 {})", error.section());
                    self.outgoing.close(Some(error.close_code()), out);
                    self.tally.errors.protocol += 1;
                    return self.end(c.link, detail, out);
                }
            }
        }
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
            let len = match content.only_len() {
                Some(len) => len,
                None => content.len_of(self.lot.number(link), state.ledger.oldest().unwrap_or_default()),
            };
            let (piece, rest) = bytes.split_at(bytes.len().min(len - got));
            let last = got + piece.len() == len;
            self.read_chunk(link, self.shared.content.kind(), got == 0 && last, last, piece);
            bytes = rest;
        }
    }

    #[inline]
    fn read_chunk(&mut self, link: u32, kind: MessageKind, whole: bool, last: bool, piece: &[u8]) {
        let number = self.lot.number(link);
        let content = &self.shared.content;
        let state = &mut self.links[link as usize];
        if whole && self.shared.verify {
            // What nearly every echo is: whole, and the oldest one due.
            let oldest = state.ledger.oldest();
            if oldest.is_some_and(|oldest| content.matches(number, oldest, piece)) {
                return self.settle(link, kind, Judged { sequence: oldest, sound: true, is_foreign: false });
            }
        }
        if !self.shared.verify {
            state.arriving.skip(piece);
            if last {
                let judged = state.arriving.finish_unseen(&state.ledger);
                self.settle(link, kind, judged);
            }
            return;
        }
        state.arriving.feed(content, number, &state.ledger, piece);
        if last {
            let judged = state.arriving.finish(content, number, &state.ledger);
            self.settle(link, kind, judged);
        }
    }

    /// A whole echo has come.
    #[inline]
    fn settle(&mut self, link: u32, kind: MessageKind, judged: Judged) {
        let state = &mut self.links[link as usize];
        let content = &self.shared.content;
        let Settled { times, is_fault } = check::settle(
            judged,
            kind != content.kind(),
            content.is_stamped() && self.shared.verify,
            &mut state.ledger,
            &mut self.tally.integrity,
        );
        if is_fault {
            self.tally.failed(self.position.second());
            self.tally.wrong += u64::from(times.is_some());
        }
        let Some(times) = times else { return };
        self.outstanding -= 1;
        if self.schedule.is_some() {
            let planned = self.shared.window.position(times.due).second();
            self.tally.received_planned(times, self.now, planned, self.position.second());
            if self.links[link as usize].left == 0 {
                self.mark(link);
            }
        } else {
            self.tally.received(duration_ns(times.sent, self.now), self.position.second());
            self.mark(link);
        }
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
