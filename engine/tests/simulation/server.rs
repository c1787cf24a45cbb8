//! A server that sends everything back, by every way to write.

use std::io;

use bytes::BytesMut;
use engine::sim::Random;
use engine::{Cause, CloseMode, ConnId, Handler, Nanos, Origin, Output, Worker};

use crate::STOP;
use crate::plan::End;
use crate::story::{Stories, check_origin};

#[derive(Default)]
struct Conn {
    /// The connection's number, once its first two bytes are there.
    tag: Option<u16>,
    /// The first byte, when it came alone.
    first: Option<u8>,
    /// Output to send when the turn ends.
    held: Vec<u8>,
    /// True if the connection closes at its next deadline.
    dawdling: bool,
    over: bool,
}

pub(crate) struct Server {
    stories: Stories,
    random: Random,
    peer_addresses: bool,
    conns: Vec<Conn>,
    /// Connections that hold output.
    holding: Vec<(ConnId, u32)>,
    paused: Vec<ConnId>,
    gone: Vec<ConnId>,
}

impl Server {
    pub(crate) fn new(stories: Stories, random: Random, peer_addresses: bool) -> Self {
        let (conns, holding, paused, gone) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { stories, random, peer_addresses, conns, holding, paused, gone }
    }

    /// Returns the connection's number, which its first two bytes are.
    fn learn(&mut self, id: ConnId, c: u32, bytes: &[u8]) -> Option<u16> {
        let conn = &mut self.conns[c as usize];
        if conn.tag.is_some() {
            return conn.tag;
        }
        let mut head = conn.first.into_iter().chain(bytes.iter().copied());
        let (first, second) = (head.next()?, head.next());
        let Some(second) = second else {
            conn.first = Some(first);
            return None;
        };
        let tag = u16::from_le_bytes([first, second]);
        conn.tag = Some(tag);
        let mut stories = self.stories.borrow_mut();
        assert!(usize::from(tag) < stories.len(), "bytes that no client sent");
        let side = &mut stories[usize::from(tag)].server;
        side.open(id);
        if let Some(first) = conn.first {
            side.take_in(tag, &[first]);
        }
        Some(tag)
    }

    /// Sends back what was received, by one of the ways to write.
    fn reply(&mut self, bytes: &[u8], out: &mut Output<'_>) {
        let mut at = 0;
        let pieces = self.random.pick(&[1, 1, 3, 20]);
        while at < bytes.len() {
            let len = bytes.len().div_ceil(pieces).min(bytes.len() - at);
            match self.random.below(3) {
                0 => out.echo(at..at + len),
                1 => out.append(&bytes[at..at + len]),
                _ => {
                    let mut buffer = out.buffer();
                    buffer.extend_from_slice(&bytes[at..at + len]);
                    out.give(buffer);
                }
            }
            at += len;
        }
    }

    /// Closes after a write where the plan says so.
    fn wrote(&mut self, c: u32, len: usize, out: &mut Output<'_>) {
        let conn = &mut self.conns[c as usize];
        let Some(tag) = conn.tag else { return };
        let story = &mut self.stories.borrow_mut()[usize::from(tag)];
        story.server.sent += len;
        if let End::After(sent, mode) = story.plan.server
            && story.server.sent >= sent
            && !conn.over
        {
            conn.over = true;
            story.server.closing = Some(mode);
            out.close(mode);
        }
    }

    fn pause_perhaps(&mut self, id: ConnId, per_mille: u32, out: &mut Output<'_>) {
        if self.random.chance(per_mille) {
            out.pause();
            let at = Nanos(out.now().0 + self.random.below(30_000_000) as u64);
            out.set_deadline(Some(at));
            self.paused.push(id);
        }
    }

    fn close(&mut self, c: u32, out: &mut Output<'_>) {
        let conn = &mut self.conns[c as usize];
        if !conn.over {
            conn.over = true;
            out.close(CloseMode::Flush);
            if let Some(tag) = conn.tag {
                self.stories.borrow_mut()[usize::from(tag)].server.closing = Some(CloseMode::Flush);
            }
        }
    }

    fn send_held(&mut self, c: u32, out: &mut Output<'_>) {
        let held = std::mem::take(&mut self.conns[c as usize].held);
        if !held.is_empty() {
            out.append(&held);
            self.wrote(c, held.len(), out);
        }
    }
}

impl Handler for Server {
    type Conn = u32;

    fn start(&mut self, _: &mut Worker<'_, Self>) {}

    fn opened(&mut self, _: ConnId, from: Origin, _: &mut Output<'_>) -> u32 {
        check_origin(from, self.peer_addresses, self.stories.borrow().len());
        self.conns.push(Conn::default());
        self.conns.len() as u32 - 1
    }

    fn connect_failed(&mut self, _: &mut Worker<'_, Self>, tag: u64, error: io::Error) {
        panic!("a server does not connect: {tag} {error}");
    }

    fn received(&mut self, id: ConnId, c: &mut u32, bytes: &mut [u8], out: &mut Output<'_>) {
        assert!(!self.conns[*c as usize].over, "bytes after the close");
        let known = self.conns[*c as usize].tag.is_some();
        let alone = self.conns[*c as usize].first;
        let Some(tag) = self.learn(id, *c, bytes) else { return };
        let plan = {
            let story = &mut self.stories.borrow_mut()[usize::from(tag)];
            story.server.take_in(tag, bytes);
            story.plan
        };
        let first = alone.filter(|_| !known);
        if self.random.chance(plan.holds) || !self.conns[*c as usize].held.is_empty() {
            let held = &mut self.conns[*c as usize].held;
            held.extend(first);
            held.extend_from_slice(bytes);
            self.holding.push((id, *c));
        } else {
            out.append(first.as_slice());
            self.reply(bytes, out);
            self.wrote(*c, first.as_slice().len() + bytes.len(), out);
        }
        if !self.conns[*c as usize].over {
            self.pause_perhaps(id, plan.pauses, out);
        }
    }

    fn eof(&mut self, _: ConnId, c: &mut u32, out: &mut Output<'_>) {
        assert!(!self.conns[*c as usize].over, "a FIN after the close");
        let tag = self.conns[*c as usize].tag;
        let mut dawdles = false;
        if let Some(tag) = tag {
            let story = &mut self.stories.borrow_mut()[usize::from(tag)];
            assert!(!std::mem::replace(&mut story.server.eof, true), "two FINs");
            dawdles = story.plan.dawdles;
        }
        self.send_held(*c, out);
        if dawdles && !self.conns[*c as usize].over {
            self.conns[*c as usize].dawdling = true;
            out.set_deadline(Some(Nanos(out.now().0 + 5_000_000)));
        } else {
            self.close(*c, out);
        }
    }

    fn drained(&mut self, _: ConnId, c: &mut u32, _: &mut Output<'_>) {
        assert!(!self.conns[*c as usize].over, "drained after the close");
    }

    fn deadline(&mut self, _: ConnId, c: &mut u32, out: &mut Output<'_>) {
        assert!(!self.conns[*c as usize].over, "a deadline after the close");
        if self.conns[*c as usize].dawdling {
            self.close(*c, out);
        } else {
            out.resume();
        }
    }

    fn closed(&mut self, id: ConnId, c: u32, cause: Cause) {
        let conn = &mut self.conns[c as usize];
        conn.over = true;
        conn.held = Vec::new();
        if let Some(tag) = conn.tag {
            self.stories.borrow_mut()[usize::from(tag)].server.end(id, cause);
        }
        self.gone.push(id);
    }

    fn alarm(&mut self, w: &mut Worker<'_, Self>) {
        w.listening(0, true);
    }

    fn woken(&mut self, w: &mut Worker<'_, Self>, bits: u64) {
        assert_eq!(bits, STOP, "only the test wakes a worker");
        w.stop();
    }

    fn turn_end(&mut self, w: &mut Worker<'_, Self>) {
        for (id, c) in std::mem::take(&mut self.holding) {
            if self.conns[c as usize].over {
                continue;
            }
            // Not found when it has failed meanwhile.
            w.with(id, |_, out| self.send_held(c, out));
        }
        if self.random.chance(2) {
            w.listening(0, false);
            w.set_alarm(Some(Nanos(w.now().0 + self.random.below(20_000_000) as u64)));
        }
        if self.random.chance(200)
            && let Some(id) = self.paused.pop()
        {
            w.with(id, |_, out| out.resume());
        }
        if let Some(&id) = self.gone.last() {
            let found = w.with(id, |_, _| ());
            assert!(found.is_none(), "a connection that is gone was found");
        }
    }
}

/// Returns a new buffer with these bytes.
pub(crate) fn owned(out: &mut Output<'_>, bytes: impl Iterator<Item = u8>) -> BytesMut {
    let mut buffer = out.buffer();
    buffer.extend(bytes);
    buffer
}
