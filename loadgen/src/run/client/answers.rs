//! The user's own messages, and answers that are not the echoes of generated messages.
//!
//! A message that comes in pieces is assembled. Then it is a first message, or the answer to one
//! that was sent, as `run/answers.rs` decides.

use std::ops::Range;

use engine::{Nanos, Output};
use protocol::frame::RSV1;
use protocol::{MessageKind, ProtocolError};

use super::super::answers::Sent;
use super::super::outgoing::Outgoing;
use super::super::payload::Parts;
use super::super::shared::Shared;
use super::super::template::Place;
use super::receiving::Echo;
use super::{Client, Stage, WorkerPhase};
use crate::load::Match;

/// Most buffers that are kept for messages in pieces, and most bytes of each.
const SPARE: usize = 16;
const SPARE_BYTES: usize = 1 << 20;
/// Most unexplained messages of a connection that may still turn out to be unsolicited.
const MOST_HELD: usize = 64;

/// State of a worker whose messages of the server are assembled.
pub(super) struct Answers {
    links: Vec<LinkAnswers>,
    /// Memory for a message that is built.
    scratch: Vec<u8>,
    spare: Vec<Vec<u8>>,
}

#[derive(Default)]
struct LinkAnswers {
    /// The message that is being received.
    partial: Vec<u8>,
    sent: Sent,
    /// Messages that fit nothing, each with the message whose place it has taken.
    held: Vec<(u64, Echo)>,
}

/// Kind of a message, true for its first and its last piece, and true where it is compressed.
pub(super) type Piece = (MessageKind, (bool, bool), bool);

impl Answers {
    /// Returns the state of a worker's connections; `None` where the load needs none.
    pub(super) fn new(shared: &Shared, links: usize) -> Option<Box<Self>> {
        shared.assembles_answers().then(|| {
            let links = (0..links).map(|_| LinkAnswers::default()).collect();
            Box::new(Self { links, scratch: Vec::new(), spare: Vec::new() })
        })
    }

    /// Begins a connection, which sends this message next.
    pub(super) fn open(&mut self, link: u32, next: u64) {
        self.links[link as usize].sent.begin(next);
    }
}

impl Client {
    /// Returns the time that a message contains which counts as sent at `sent`.
    fn time_ns(&self, sent: Nanos) -> u64 {
        self.shared.epoch_ns.saturating_add(sent.0)
    }

    /// Writes the user's own messages, as far as unsent bytes allow. Returns the first that is
    /// left.
    pub(super) fn write_own(
        &mut self,
        link: u32,
        mut sequences: Range<u64>,
        out: &mut Output<'_>,
    ) -> u64 {
        let Self { shared, links, answers, outgoing, compression, tally, shard, now, .. } = self;
        let (Some(own), Some(answers)) = (&shared.own, answers) else { return sequences.end };
        let Answers { links: own_links, scratch, .. } = &mut **answers;
        let (rules, connection) = (shared.rules(), shard.number(link));
        let (ledger, sent) = (&links[link as usize].ledger, &mut own_links[link as usize].sent);
        sent.forget(ledger);
        while Outgoing::has_room(out)
            && let Some(sequence) = sequences.next()
        {
            let time_ns =
                shared.epoch_ns.saturating_add(ledger.sent_at(sequence).unwrap_or(*now).0);
            let place = Place { connection, sequence, time_ns };
            let (message, id) = rules.build(place, scratch);
            sent.push(own.has_time().then_some(time_ns), id);
            let index = own.index_of(place);
            let compressed = compression.as_mut();
            let counts = &mut tally.compression;
            match compressed.and_then(|own| own.own_parts(shared, counts, link, index, message)) {
                Some(parts) => {
                    outgoing.send_payload(own.kind(), &parts, RSV1, out);
                    tally.compression.has_sent(parts.len(), message.len());
                }
                None => {
                    outgoing.send_payload(own.kind(), &Parts::new(&[], message), 0, out);
                    tally.compression.sent_uncompressed += u64::from(shared.load.offer().is_some());
                }
            }
        }
        sequences.start
    }

    /// Sends the first message of a connection.
    pub(super) fn write_first_message(&mut self, link: u32, out: &mut Output<'_>) {
        let sequence = self.links[link as usize].ledger.next();
        let place =
            Place { connection: self.number(link), sequence, time_ns: self.time_ns(self.now) };
        let first = self.shared.first_messages.as_ref();
        let Some(template) = first.and_then(|first| first.message.as_ref()) else { return };
        let mut message = Vec::new();
        template.build(place, self.shared.load.seed, &mut message);
        let parts = Parts::new(&[], &message);
        self.outgoing.send_payload(MessageKind::Text, &parts, 0, out);
    }

    /// Takes a piece of a message, and handles the message at its end. Returns false if that was
    /// the last of the first messages.
    pub(super) fn read_piece(
        &mut self,
        link: u32,
        (kind, (first, last), is_compressed): Piece,
        piece: &[u8],
        out: &mut Output<'_>,
    ) -> Result<bool, ProtocolError> {
        let Some(answers) = &mut self.answers else { return Ok(true) };
        let LinkAnswers { partial, held, .. } = &mut answers.links[link as usize];
        // Answers that come after the drain are counted as lost already.
        if self.phase == WorkerPhase::Closing && held.is_empty() {
            return Ok(true);
        }
        let tally = &mut self.tally.compression;
        if !is_compressed {
            tally.received_uncompressed += u64::from(last && self.compression.is_some());
            if first && last {
                return Ok(self.read_message(link, kind, piece, out));
            }
        }
        let mut message = match first {
            true => answers.spare.pop().unwrap_or_default(),
            false => std::mem::take(partial),
        };
        match &mut self.compression {
            Some(compression) if is_compressed => {
                let of = (first, last);
                compression.inflate_whole(&self.limits, link, of, piece, &mut message)?;
                tally.received.payload_bytes += piece.len() as u64;
                if last {
                    tally.received.messages += 1;
                    tally.received.message_bytes += message.len() as u64;
                    tally.inflated += 1;
                }
            }
            _ => message.extend_from_slice(piece),
        }
        if last {
            return Ok(self.read_whole(link, kind, message, out));
        }
        *partial = message;
        Ok(true)
    }

    /// Handles a message that was assembled.
    fn read_whole(
        &mut self,
        link: u32,
        kind: MessageKind,
        mut message: Vec<u8>,
        out: &mut Output<'_>,
    ) -> bool {
        let goes_on = self.read_message(link, kind, &message, out);
        if let Some(answers) = &mut self.answers
            && answers.spare.len() < SPARE
            && message.capacity() <= SPARE_BYTES
        {
            message.clear();
            answers.spare.push(message);
        }
        goes_on
    }

    fn read_message(
        &mut self,
        link: u32,
        kind: MessageKind,
        message: &[u8],
        out: &mut Output<'_>,
    ) -> bool {
        if !matches!(self.links[link as usize].stage, Stage::FirstMessages { .. }) {
            self.judge(link, kind, message);
            return true;
        }
        self.read_first_message(link, message, out);
        matches!(self.links[link as usize].stage, Stage::FirstMessages { .. })
    }

    /// Finds the message that an answer belongs to, and counts both.
    fn judge(&mut self, link: u32, kind: MessageKind, answer: &[u8]) {
        let connection = self.shard.number(link);
        let rules = self.shared.rules();
        let Some(answers) = &mut self.answers else { return };
        let Answers { links, scratch, .. } = &mut **answers;
        let LinkAnswers { sent, held, .. } = &links[link as usize];
        let state = &mut self.links[link as usize];
        let held = held.iter().map(|(sequence, _)| *sequence);
        let found = rules.find((connection, sent, &state.ledger), held, answer, scratch);
        let has_wrong_opcode = *rules.matching == Match::Echo && kind != rules.source.kind();
        let is_ordered = rules.is_ordered();
        let taken = match found {
            Some(sequence) => Some(sequence),
            None => state.ledger.oldest().filter(|_| rules.has_corrupted()),
        };
        let second = self.position.second();
        let Some(sequence) = taken else {
            self.tally.integrity.unsolicited += 1;
            return self.tally.failed(second);
        };
        let Some((times, is_late)) = state.ledger.receive(sequence) else {
            return self.came_again(link, sequence, second);
        };
        self.outstanding -= 1;
        if self.schedule.is_none() || self.links[link as usize].left == 0 {
            self.mark(link);
        }
        self.tally.answer_bytes += if second.is_some() { answer.len() as u64 } else { 0 };
        let echo = Echo { times, at: self.now, second };
        if found.is_none() {
            return self.hold_unexplained(link, sequence, echo);
        }
        let is_late = is_late && is_ordered;
        self.tally.integrity.reordered += u64::from(is_late);
        self.tally.integrity.wrong_opcode += u64::from(has_wrong_opcode);
        if is_late || has_wrong_opcode {
            self.count_wrong(second);
        }
        self.count(echo);
    }

    /// Handles the answer to a message that has one already. It is the true one where an
    /// unexplained message has taken its place, which was unsolicited then.
    #[cold]
    fn came_again(&mut self, link: u32, sequence: u64, second: Option<u32>) {
        let Some(answers) = &mut self.answers else { return };
        let held = &mut answers.links[link as usize].held;
        match held.iter().position(|(taken, _)| *taken == sequence) {
            Some(index) => {
                let (_, Echo { times, second: before, .. }) = held.remove(index);
                self.tally.integrity.unsolicited += 1;
                self.tally.failed(before);
                self.count(Echo { times, at: self.now, second });
            }
            None => {
                self.tally.integrity.duplicated += 1;
                self.tally.failed(second);
            }
        }
    }

    /// Keeps a message that fits nothing until its kind is known.
    #[cold]
    fn hold_unexplained(&mut self, link: u32, sequence: u64, echo: Echo) {
        let Some(answers) = &mut self.answers else { return };
        let held = &mut answers.links[link as usize].held;
        held.push((sequence, echo));
        if held.len() > MOST_HELD {
            let (_, oldest) = held.remove(0);
            self.count_corrupted(oldest);
        }
    }

    /// Counts the messages that fit nothing as corrupted answers, because no other answers have
    /// come in their places.
    pub(super) fn release_unexplained(&mut self, link: u32) {
        let Some(answers) = &mut self.answers else { return };
        for (_, echo) in std::mem::take(&mut answers.links[link as usize].held) {
            self.count_corrupted(echo);
        }
    }

    fn count_corrupted(&mut self, echo: Echo) {
        self.tally.integrity.corrupted += 1;
        self.count_wrong(echo.second);
        self.count(echo);
    }
}
