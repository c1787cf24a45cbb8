//! Comparison of echoes with the messages that were sent.
//!
//! Every echo is compared, byte for byte, with the message whose number it carries. The kinds of
//! fault:
//!
//! * *corrupted*: the length or any byte differs from the message whose number the echo carries. An
//!   echo whose number cannot be ours (another connection's, or never sent) is corrupted too. It
//!   takes the place of the oldest message due where it looks like one of ours: it has the right
//!   opcode and a length that some message has. Should the true echo of that message still come,
//!   the first one was unsolicited.
//! * *unsolicited*: nothing is due, or the message does not look like any of ours. It is not an
//!   echo and takes no place.
//! * *wrong opcode*: text came back as binary or the other way round. Counted in addition to the
//!   content, not instead of it.
//! * *duplicated*: right, but it had come before. It is not a received message.
//! * *reordered*: right, but a later one had come before it (RFC 4737: the late one is the
//!   reordered one).
//! * *lost*: the connection ended before the echo came. On a connection that stayed open, one of
//!   these is true. A later message came back and this one did not until the end of the drain. The
//!   connection was silent for the answer timeout and longer. Four times the pipeline's depth of
//!   later messages have been sent since. (Should the echo come after all, it counts as
//!   duplicated.)
//! * *outstanding*: none of these, at the end. The server may still answer it, so it does not count
//!   as a fault of the echo.
//!
//! A message shorter than [`STAMP`] bytes carries no number. Where messages are that short, every
//! echo is compared with the oldest message due, so that a wrong order shows as wrong content.
//! There, any difference counts as corrupted. A message that comes when none is due is unsolicited
//! before the first echo of a connection, and duplicated after it.

use super::ledger::{Ledger, Times};
use super::payload::{Content, STAMP};
use crate::result::Integrity;

/// An echo that comes in several pieces, or that is not the one expected next.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PartialEcho {
    /// Bytes so far.
    got: usize,
    stamp: [u8; STAMP],
    /// The message that it claims to be, once that is known.
    sequence: Option<u64>,
    unsound: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    /// The message it is compared with; `None` where it names none of ours, or none is due.
    pub(crate) sequence: Option<u64>,
    /// Its content is that message's.
    pub(crate) sound: bool,
    /// True if its number is not one of ours and its length is not one of our messages' either.
    pub(crate) is_foreign: bool,
}

impl PartialEcho {
    pub(crate) fn got(&self) -> usize {
        self.got
    }

    /// Takes the next piece of the echo, perhaps empty.
    pub(crate) fn feed(
        &mut self,
        content: &Content,
        connection: u32,
        ledger: &Ledger,
        piece: &[u8],
    ) {
        let mut rest = piece;
        if content.is_stamped() {
            rest = self.feed_stamp(content, connection, ledger, piece);
        } else if self.got == 0 {
            self.sequence = ledger.oldest();
        }
        self.compare(content, connection, rest);
    }

    /// Takes what belongs to the stamp; returns what is behind it.
    fn feed_stamp<'a>(
        &mut self,
        content: &Content,
        connection: u32,
        ledger: &Ledger,
        piece: &'a [u8],
    ) -> &'a [u8] {
        if self.got >= STAMP {
            return piece;
        }
        let (stamp, rest) = piece.split_at(piece.len().min(STAMP - self.got));
        self.stamp[self.got..self.got + stamp.len()].copy_from_slice(stamp);
        self.got += stamp.len();
        if self.got == STAMP {
            let near = ledger.oldest().unwrap_or_default();
            self.sequence = content
                .read_stamp(&self.stamp, near)
                .filter(|&(of, sequence)| of == connection && ledger.has_sent(sequence))
                .map(|(_, sequence)| sequence);
        }
        rest
    }

    fn compare(&mut self, content: &Content, connection: u32, mut piece: &[u8]) {
        let Some(sequence) = self.sequence else {
            self.unsound |= !piece.is_empty();
            self.got += piece.len();
            return;
        };
        let mut stamp = [0; STAMP];
        while !piece.is_empty() && !self.unsound {
            let expected = content.rest(connection, sequence, self.got, &mut stamp);
            let (now, later) = piece.split_at(piece.len().min(expected.len()));
            // Nothing more is expected: it is too long.
            self.unsound = now.is_empty() || now != &expected[..now.len()];
            self.got += now.len();
            piece = later;
        }
        self.got += piece.len();
    }

    /// Takes the next piece of an echo that is not checked.
    pub(crate) fn skip(&mut self, piece: &[u8]) {
        self.got += piece.len();
    }

    /// Ends an echo that was not checked: it is taken for the oldest one due.
    pub(crate) fn finish_unseen(&mut self, ledger: &Ledger) -> Judged {
        *self = Self::default();
        let sequence = ledger.oldest();
        Judged { sequence, sound: sequence.is_some(), is_foreign: false }
    }

    /// Ends an echo; the next one begins.
    pub(crate) fn finish(&mut self, content: &Content, connection: u32, ledger: &Ledger) -> Judged {
        let mut echo = std::mem::take(self);
        if echo.sequence.is_none() && echo.got > 0 && echo.got < STAMP {
            // An echo cut off within its number may belong to the oldest message.
            let begins = |sequence: &u64| {
                content.stamp(connection, *sequence).starts_with(&echo.stamp[..echo.got])
            };
            echo.sequence = ledger.oldest().filter(begins);
        }
        let len = echo.sequence.map(|sequence| content.len_of(connection, sequence));
        let is_foreign = echo.sequence.is_none() && content.lens().all(|len| len != echo.got);
        Judged {
            sequence: echo.sequence,
            sound: !echo.unsound && len == Some(echo.got),
            is_foreign,
        }
    }
}

/// Outcome of an echo.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EchoOutcome {
    /// Times at which its message was due and sent; `None` where the echo answers none.
    pub(crate) times: Option<Times>,
    /// True if something was wrong with it, and is counted.
    pub(crate) is_fault: bool,
    /// The message whose place a message without a valid number of ours has taken. It is corrupted,
    /// unless the true echo of that message still comes. It is not counted yet.
    pub(crate) unnamed: Option<u64>,
}

/// Counts a judged echo. `stamped` is true if messages carry numbers and echoes are checked.
// Inlined in both of its callers, as it would be in one.
#[inline(always)]
pub(crate) fn count_echo(
    judged: Judged,
    has_wrong_opcode: bool,
    stamped: bool,
    ledger: &mut Ledger,
    integrity: &mut Integrity,
) -> EchoOutcome {
    if !judged.sound {
        return count_unsound(judged, has_wrong_opcode, stamped, ledger, integrity);
    }
    let (times, is_late) = judged.sequence.and_then(|sequence| ledger.receive(sequence)).unzip();
    let is_late = is_late == Some(true);
    integrity.reordered += u64::from(is_late);
    integrity.duplicated += u64::from(times.is_none());
    integrity.wrong_opcode += u64::from(has_wrong_opcode);
    EchoOutcome { times, is_fault: is_late || times.is_none() || has_wrong_opcode, unnamed: None }
}

/// Counts an echo that differs from every message that it could be.
#[cold]
fn count_unsound(
    judged: Judged,
    has_wrong_opcode: bool,
    stamped: bool,
    ledger: &mut Ledger,
    integrity: &mut Integrity,
) -> EchoOutcome {
    let names_none = judged.sequence.is_none();
    let looks_foreign = match stamped {
        true => ledger.outstanding() == 0 || judged.is_foreign || has_wrong_opcode,
        false => !ledger.has_answered(),
    };
    let fault = |times| EchoOutcome { times, is_fault: true, unnamed: None };
    if names_none && looks_foreign {
        integrity.unsolicited += 1;
        return fault(None);
    }
    integrity.wrong_opcode += u64::from(has_wrong_opcode);
    if names_none && !stamped {
        integrity.duplicated += 1;
        return fault(None);
    }
    // The echo answers the message with its number where that is due, else the oldest. Otherwise
    // one flipped bit would also count as a loss.
    let mut answered = [judged.sequence, ledger.oldest()].into_iter().flatten();
    let taken = answered.find_map(|sequence| Some((sequence, ledger.receive(sequence)?.0)));
    if names_none && let Some((sequence, times)) = taken {
        return EchoOutcome { times: Some(times), is_fault: false, unnamed: Some(sequence) };
    }
    integrity.corrupted += 1;
    fault(taken.map(|(_, times)| times))
}

#[cfg(test)]
mod tests {
    use engine::Nanos;

    use super::*;
    use crate::load::Payload;

    const CONNECTION: u32 = 5;

    struct Bench {
        content: Content,
        ledger: Ledger,
        integrity: Integrity,
        received: u64,
    }

    impl Bench {
        fn new(payload: Payload, len: usize, pipeline: u32) -> Self {
            let mut ledger = Ledger::closed(pipeline);
            for i in 0..pipeline {
                ledger.send(Times { due: Nanos(i.into()), sent: Nanos(i.into()) });
            }
            let content = Content::new(payload, &[(len, 1)], 1);
            Self { content, ledger, integrity: Integrity::default(), received: 0 }
        }

        fn message(&self, sequence: u64) -> Vec<u8> {
            let mut message = self.content.stamp(CONNECTION, sequence).to_vec();
            let class = self.content.class_of(CONNECTION, sequence);
            message.truncate(if self.content.has_stamp(class) { STAMP } else { 0 });
            message.extend_from_slice(self.content.body(CONNECTION, sequence));
            message
        }

        /// An echo in pieces of `cut` bytes.
        fn echo(&mut self, bytes: &[u8], cut: usize) {
            let mut arriving = PartialEcho::default();
            arriving.feed(&self.content, CONNECTION, &self.ledger, &[]);
            for piece in bytes.chunks(cut) {
                arriving.feed(&self.content, CONNECTION, &self.ledger, piece);
            }
            let judged = arriving.finish(&self.content, CONNECTION, &self.ledger);
            let stamped = self.content.is_stamped();
            let faults = self.integrity.total();
            let outcome = count_echo(judged, false, stamped, &mut self.ledger, &mut self.integrity);
            assert_eq!(outcome.is_fault, self.integrity.total() > faults);
            self.integrity.corrupted += u64::from(outcome.unnamed.is_some());
            assert!(self.ledger.is_balanced());
            self.received += u64::from(outcome.times.is_some());
        }
    }

    fn integrity(duplicated: u64, reordered: u64, corrupted: u64) -> Integrity {
        Integrity { duplicated, reordered, corrupted, ..Integrity::default() }
    }

    #[test]
    fn every_cut_of_a_right_echo_is_right() {
        for payload in [Payload::Binary, Payload::TextAscii, Payload::TextMixed] {
            for len in [0, 1, 15, 16, 17, 40] {
                for cut in 1..=len.max(1) {
                    let mut bench = Bench::new(payload, len, 4);
                    (0..4).for_each(|s| bench.echo(&bench.message(s), cut));
                    assert_eq!((bench.integrity, bench.received), (Integrity::default(), 4));
                }
            }
        }
    }

    #[test]
    fn every_flipped_byte_is_one_corruption_and_no_loss() {
        for len in [1, 15, 16, 17, 40] {
            for at in 0..len {
                let mut bench = Bench::new(Payload::Binary, len, 4);
                let mut bad = bench.message(0);
                bad[at] ^= 0x80;
                bench.echo(&bad, 7);
                (1..4).for_each(|s| bench.echo(&bench.message(s), 7));
                assert_eq!(bench.integrity.corrupted, 1, "byte {at} of {len}");
                assert_eq!(bench.integrity.total(), 1);
                assert_eq!((bench.received, bench.ledger.outstanding()), (4, 0));
            }
        }
    }

    #[test]
    fn another_length_is_corrupted() {
        for len in [0, 5, 16, 40] {
            let mut bench = Bench::new(Payload::Binary, len, 4);
            let mut long = bench.message(0);
            long.push(0);
            bench.echo(&long, 100);
            assert_eq!(bench.integrity, integrity(0, 0, 1));
            if len > 0 {
                bench.echo(&bench.message(1)[..len - 1], 7);
                assert_eq!(bench.integrity, integrity(0, 0, 2));
            }
        }
    }

    #[test]
    fn duplicates_and_reordering_are_told_by_the_number() {
        let mut bench = Bench::new(Payload::TextMixed, 40, 4);
        for sequence in [0, 0, 2, 1, 3, 2] {
            bench.echo(&bench.message(sequence), 9);
        }
        assert_eq!(bench.integrity, integrity(2, 1, 0));
        assert_eq!((bench.received, bench.ledger.outstanding()), (4, 0));
        bench.echo(&bench.message(4), 9);
        assert_eq!(
            bench.integrity,
            Integrity { unsolicited: 1, ..integrity(2, 1, 0) },
            "never sent"
        );
        assert_eq!(bench.received, 4);
    }

    fn unsolicited(count: u64) -> Integrity {
        Integrity { unsolicited: count, ..Integrity::default() }
    }

    #[test]
    fn a_foreign_message_takes_no_place() {
        for payload in [Payload::Binary, Payload::TextAscii] {
            let mut bench = Bench::new(payload, 40, 4);
            for foreign in [&b""[..], b"hi", b"Request served by 1781505b56ee58", &[b'x'; 400]] {
                let before = bench.integrity.unsolicited;
                bench.echo(foreign, 7);
                assert_eq!(bench.integrity, unsolicited(before + 1));
            }
            assert_eq!((bench.received, bench.ledger.outstanding()), (0, 4));
            (0..4).for_each(|s| bench.echo(&bench.message(s), 7));
            assert_eq!((bench.integrity, bench.received), (unsolicited(4), 4));
            // Nothing is due, so even the right length does not make it an echo.
            bench.echo(&[b'x'; 40], 7);
            assert_eq!((bench.integrity, bench.received), (unsolicited(5), 4));
        }
    }

    #[test]
    fn a_greeting_without_numbers_is_unsolicited_when_nothing_is_due() {
        let mut bench = Bench::new(Payload::TextAscii, 5, 2);
        bench.ledger.begin_anew();
        bench.echo(b"hello", 3);
        assert_eq!((bench.integrity, bench.received), (unsolicited(1), 0));
        bench.ledger.send(Times { due: Nanos(9), sent: Nanos(9) });
        bench.echo(&bench.message(2), 3);
        bench.echo(&bench.message(2), 3);
        assert_eq!(bench.integrity, Integrity { duplicated: 1, ..unsolicited(1) });
    }

    #[test]
    fn without_a_number_order_is_content_and_a_surplus_is_a_duplicate() {
        let mut bench = Bench::new(Payload::Binary, 8, 2);
        for sequence in [1, 0, 0] {
            bench.echo(&bench.message(sequence), 3);
        }
        assert_eq!(bench.integrity, integrity(1, 0, 2));
        assert_eq!(bench.received, 2);
    }

    #[test]
    fn sizes_with_and_without_room_for_a_number_are_compared_in_order() {
        let mut bench = Bench::new(Payload::TextMixed, 5, 16);
        bench.content = Content::new(Payload::TextMixed, &[(5, 1), (40, 1), (0, 1)], 1);
        (0..8).for_each(|s| bench.echo(&bench.message(s), 3));
        assert_eq!((bench.integrity, bench.received), (Integrity::default(), 8));
        let mut bad = bench.message(8);
        bad.push(b'x');
        bench.echo(&bad, 100);
        assert_eq!(bench.integrity, integrity(0, 0, 1));
    }
}
