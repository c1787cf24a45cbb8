//! Which message of a connection a message of the server answers, where that is not the plain echo
//! of a generated message.
//!
//! An answer is compared with the messages that are due, from the oldest on, then with those whose
//! places unexplained messages have taken, and then with the last ones that were answered. So a
//! repeated answer and one in another order are told from one that fits nothing. The rules:
//!
//! * *echo*, *prefix*, *contains*: an answer that fits no message takes the place of the oldest one
//!   due, as a corrupted echo. If the true answer of that message still comes, the first one was
//!   unsolicited.
//! * *id*: an answer without the value of a message that is due is unsolicited and takes no place.
//!   Where several messages have the value, it answers the oldest. Order is not checked.
//! * *any*: each message of the server answers the oldest one due.
//!
//! A message that comes when none is due is unsolicited, unless it repeats one of the last answers.

use std::collections::VecDeque;
use std::fmt;
use std::time::{Duration, Instant};

use engine::Nanos;
use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use sha2::{Digest, Sha256};

use super::ledger::{Ledger, Times};
use super::own::Source;
use super::template::Place;
use crate::load::{Field, Match};
use crate::result::MessageCost;

/// Messages that were answered last, with which an answer is still compared.
const RECENT: u64 = 64;
/// Most messages due that an answer is compared with.
const MOST_COMPARED: usize = 1024;
/// Time for which the cost of a message is sampled, and most messages in it.
const SAMPLE: Duration = Duration::from_millis(20);
const SAMPLES: u64 = 2_000;

/// Value of a field that tells messages apart. A short one is its bytes, a longer one their hash.
pub(crate) type Id = u128;

/// Rule of a run for answers, and its messages.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules<'a> {
    pub(crate) matching: &'a Match,
    pub(crate) source: Source<'a>,
    /// False if answers are counted without being checked.
    pub(crate) verify: bool,
}

/// Facts about the messages of a connection that cannot be calculated again.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// The first message of the connection.
    begin: u64,
    /// The first message that is known here.
    first: u64,
    /// Times that messages contain.
    times: VecDeque<u64>,
    /// Values of their fields.
    ids: VecDeque<Id>,
}

impl Sent {
    /// Begins a connection, which sends this message next.
    pub(crate) fn begin(&mut self, next: u64) {
        (self.begin, self.first) = (next, next);
        self.times.clear();
        self.ids.clear();
    }

    /// Enters the next message.
    pub(crate) fn push(&mut self, time_ns: Option<u64>, id: Option<Id>) {
        self.times.extend(time_ns);
        self.ids.extend(id);
    }

    /// Forgets messages that were answered long ago.
    pub(crate) fn forget(&mut self, ledger: &Ledger) {
        let keep = ledger.oldest_or_next().saturating_sub(RECENT);
        while self.first < keep {
            self.first += 1;
            self.times.pop_front();
            self.ids.pop_front();
        }
    }

    /// Returns the time that a message contains.
    fn time(&self, sequence: u64) -> Option<u64> {
        self.times.get(usize::try_from(sequence.checked_sub(self.first)?).ok()?).copied()
    }

    /// Returns the message with this value: the oldest one due, or else the last one before.
    fn with_id(&self, id: Id, ledger: &Ledger) -> Option<u64> {
        let all = || (self.first..).zip(&self.ids).filter(|(_, own)| **own == id);
        let mut due = all().map(|(sequence, _)| sequence).filter(|&one| ledger.is_due(one));
        due.next().or_else(|| all().last().map(|(sequence, _)| sequence))
    }
}

impl Rules<'_> {
    /// Returns the message that an answer fits, due or not. `held`: messages whose places
    /// unexplained answers have taken.
    pub(crate) fn find(
        &self,
        (connection, sent, ledger): (u32, &Sent, &Ledger),
        held: impl Iterator<Item = u64>,
        answer: &[u8],
        scratch: &mut Vec<u8>,
    ) -> Option<u64> {
        let fits: fn(&[u8], &[u8]) -> bool = match self.matching {
            _ if !self.verify => return ledger.oldest(),
            Match::Any => return ledger.oldest(),
            Match::Id { answer: field, .. } => return sent.with_id(id_of(answer, field)?, ledger),
            Match::Echo => |message, answer| message == answer,
            Match::Prefix => |message, answer| answer.starts_with(message),
            Match::Contains => contains,
        };
        let first = sent.begin.max(ledger.oldest_or_next().saturating_sub(RECENT));
        let answered = (first..ledger.next()).rev().filter(|&one| !ledger.is_due(one));
        let answered = answered.take(MOST_COMPARED);
        let mut compared = None;
        for sequence in ledger.due().take(MOST_COMPARED).chain(held).chain(answered) {
            let time_ns = match self.source.has_time() {
                false => 0,
                true => match sent.time(sequence) {
                    Some(time_ns) => time_ns,
                    None => continue,
                },
            };
            let place = Place { connection, sequence, time_ns };
            let repeated = self.source.repeated(place);
            if repeated.is_some() && repeated == compared {
                continue;
            }
            compared = repeated;
            if fits(self.source.message(place, scratch), answer) {
                return Some(sequence);
            }
        }
        None
    }

    /// Returns true if an answer that fits no message takes the place of the oldest one due.
    pub(crate) fn has_corrupted(&self) -> bool {
        !matches!(self.matching, Match::Id { .. })
    }

    /// Returns true if answers must come in the order of their messages.
    pub(crate) fn is_ordered(&self) -> bool {
        !matches!(self.matching, Match::Id { .. })
    }

    /// Returns the time that building a message and checking its answer take, measured apart from
    /// the run. The answer is the message itself.
    pub(crate) fn cost(&self) -> MessageCost {
        let (mut scratch, mut other) = (Vec::new(), Vec::new());
        let (mut sent, mut ledger) = (Sent::default(), Ledger::closed(1));
        let (mut build, mut check, mut sequence) = (Duration::ZERO, Duration::ZERO, 0);
        while sequence == 0 || sequence < SAMPLES && build + check < SAMPLE {
            let place = Place { connection: 0, sequence, time_ns: 1_800_000_000_000_000_000 };
            let began = Instant::now();
            // The clock is read once for eight.
            for _ in 0..7 {
                std::hint::black_box(self.build(place, &mut scratch));
            }
            let (message, id) = self.build(place, &mut scratch);
            build += began.elapsed();
            sent.forget(&ledger);
            sent.push(Some(place.time_ns), id);
            ledger.send(Times { due: Nanos(0), sent: Nanos(0) });
            let began = Instant::now();
            for _ in 0..8 {
                let of = (0, &sent, &ledger);
                let found = self.find(of, std::iter::empty(), message, &mut other);
                std::hint::black_box(found);
            }
            check += began.elapsed();
            ledger.receive(sequence);
            sequence += 1;
        }
        let each = |sum: Duration| sum.as_nanos() as f64 / (8 * sequence) as f64;
        MessageCost { build_ns: each(build), check_ns: each(check) }
    }

    /// Returns a message, and the value of its field where the rule has one.
    pub(crate) fn build<'b>(
        &'b self,
        place: Place,
        scratch: &'b mut Vec<u8>,
    ) -> (&'b [u8], Option<Id>) {
        let message = self.source.message(place, scratch);
        let id = match (self.matching, self.source) {
            (Match::Id { sent, .. }, Source::Own(own)) => {
                // A message without the field, which a template may give, is never answered.
                own.known_id(place).or_else(|| id_of(message, sent)).or(Some(NO_ID))
            }
            _ => None,
        };
        (message, id)
    }
}

fn contains(message: &[u8], answer: &[u8]) -> bool {
    message.is_empty() || answer.windows(message.len()).any(|part| part == message)
}

/// A value that no field has.
const NO_ID: Id = 0;

/// Returns the value of a field of JSON, where it is a text or a number.
pub(crate) fn id_of(json: &[u8], field: &Field) -> Option<Id> {
    let mut json = serde_json::Deserializer::from_slice(json);
    let found = Finder(field.steps()).deserialize(&mut json).ok()?;
    json.end().ok()?;
    found
}

/// Search for the value at the end of this path.
#[derive(Clone, Copy)]
struct Finder<'a>(&'a [String]);

impl Finder<'_> {
    fn value(self, kind: u8, bytes: &[u8]) -> Option<Id> {
        self.0.is_empty().then(|| id(kind, bytes))
    }
}

fn id(kind: u8, bytes: &[u8]) -> Id {
    let mut id = [0; 16];
    match id.get_mut(2..2 + bytes.len()) {
        Some(rest) => {
            rest.copy_from_slice(bytes);
            (id[0], id[1]) = (kind, bytes.len() as u8);
        }
        None => {
            id.copy_from_slice(&Sha256::digest(bytes)[..16]);
            (id[0], id[1]) = (kind, u8::MAX);
        }
    }
    Id::from_le_bytes(id)
}

impl<'de> DeserializeSeed<'de> for Finder<'_> {
    type Value = Option<Id>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<Id>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Finder<'_> {
    type Value = Option<Id>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Option<Id>, A::Error> {
        let mut found = None;
        while let Some(is_next) = map.next_key_seed(IsStep(self.0.first()))? {
            if is_next {
                found = map.next_value_seed(Finder(&self.0[1..]))?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Option<Id>, A::Error> {
        let wanted = self.0.first().and_then(|step| step.parse::<usize>().ok());
        let (mut found, mut at) = (None, 0);
        loop {
            if wanted == Some(at) {
                match list.next_element_seed(Finder(&self.0[1..]))? {
                    Some(value) => found = value,
                    None => return Ok(found),
                }
            } else if list.next_element::<IgnoredAny>()?.is_none() {
                return Ok(found);
            }
            at += 1;
        }
    }

    fn visit_str<E>(self, text: &str) -> Result<Option<Id>, E> {
        Ok(self.value(b'"', text.as_bytes()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Option<Id>, E> {
        Ok(self.value(b'0', &number.to_le_bytes()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Option<Id>, E> {
        Ok(self.value(b'-', &number.to_le_bytes()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Option<Id>, E> {
        Ok(self.value(b'.', &number.to_le_bytes()))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Option<Id>, E> {
        Ok(None)
    }

    fn visit_unit<E>(self) -> Result<Option<Id>, E> {
        Ok(None)
    }
}

/// Comparison of a member's name with the next step of a path.
struct IsStep<'a>(Option<&'a String>);

impl<'de> DeserializeSeed<'de> for IsStep<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for IsStep<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E>(self, name: &str) -> Result<bool, E> {
        Ok(self.0.is_some_and(|step| step == name))
    }
}

#[cfg(test)]
mod tests {
    use super::super::own::OwnMessages;
    use super::super::own::tests::lines;
    use super::super::payload::Content;
    use super::*;
    use crate::load::{Load, Payload};

    /// A connection that has sent some messages.
    struct Bench {
        load: Load,
        own: OwnMessages,
        sent: Sent,
        ledger: Ledger,
    }

    impl Bench {
        fn new(content: &str, matching: &str, count: u64) -> Self {
            let load = lines(content.as_bytes(), true);
            let load = Load { matching: matching.parse().expect("a rule"), ..load };
            let own = OwnMessages::of(&load).expect("messages").expect("own ones");
            let ledger = Ledger::closed(8);
            let mut bench = Self { load, own, sent: Sent::default(), ledger };
            (0..count).for_each(|_| bench.send());
            bench
        }

        fn rules(&self) -> Rules<'_> {
            Rules { matching: &self.load.matching, source: Source::Own(&self.own), verify: true }
        }

        fn place(sequence: u64) -> Place {
            Place { connection: 3, sequence, time_ns: 1000 + sequence }
        }

        fn send(&mut self) {
            let place = Self::place(self.ledger.next());
            let id = self.rules().build(place, &mut Vec::new()).1;
            self.sent.forget(&self.ledger);
            self.sent.push(Some(place.time_ns), id);
            self.ledger.send(Times { due: Nanos(0), sent: Nanos(0) });
        }

        fn find(&self, answer: &str) -> Option<u64> {
            let of = (3, &self.sent, &self.ledger);
            self.rules().find(of, std::iter::empty(), answer.as_bytes(), &mut Vec::new())
        }
    }

    #[test]
    fn answers_are_found_by_content_due_or_answered() {
        let mut bench = Bench::new("m{seq} at {time_ns}", "echo", 5);
        assert_eq!(bench.find("m0 at 1000"), Some(0));
        assert_eq!(bench.find("m4 at 1004"), Some(4));
        assert_eq!(bench.find("m4 at 1003"), None);
        bench.ledger.receive(0);
        bench.ledger.receive(2);
        assert_eq!(bench.find("m0 at 1000"), Some(0), "answered before");
        assert_eq!(bench.find("m2 at 1002"), Some(2), "answered before");
        assert_eq!(bench.find("m5 at 1005"), None, "never sent");
        for _ in 0..200 {
            bench.send();
            let oldest = bench.ledger.oldest().expect("due");
            bench.ledger.receive(oldest);
        }
        assert_eq!(bench.find("m0 at 1000"), None, "long ago");
        assert!(bench.sent.times.len() < 100, "{}", bench.sent.times.len());
        let next = bench.ledger.next();
        bench.ledger.begin_anew();
        bench.sent.begin(next);
        let last = format!("m{} at {}", next - 1, 999 + next);
        assert_eq!(bench.find(&last), None, "of the connection before");
    }

    #[test]
    fn rules_differ_in_what_may_stand_around_a_message() {
        for (rule, fine, not) in [
            ("prefix", &["a0", "a0!", "a1 and more"][..], &["", "a", "!a0", "b0"][..]),
            ("contains", &["a0", "you said a0.", "xa1"], &["", "a", "a 0"]),
            ("any", &["", "x"], &[]),
        ] {
            let bench = Bench::new("a{seq}", rule, 2);
            assert!(fine.iter().all(|answer| bench.find(answer).is_some()), "{rule}");
            assert!(not.iter().all(|answer| bench.find(answer).is_none()), "{rule}");
        }
        assert_eq!(Bench::new("a", "any", 0).find("a"), None, "nothing is due");
    }

    #[test]
    fn ids_are_found_in_any_order() {
        let mut bench = Bench::new("{\"id\":{seq},\"to\":\"x\"}", "id:re.0=id", 4);
        let answer = |id: &str| format!("{{\"ok\":[1,{{}}],\"re\":[{id},7],\"more\":null}}");
        for id in [3, 0, 2, 1] {
            assert_eq!(bench.find(&answer(&id.to_string())), Some(id));
        }
        for wrong in ["4", "\"1\"", "1.0", "null", "[1]", "-1"] {
            assert_eq!(bench.find(&answer(wrong)), None, "{wrong}");
        }
        for wrong in ["", "1", "[]", "{\"re\":1}", "{\"re\":[1]} ?", "{\"re\":[1", "\u{1f600}"] {
            assert_eq!(bench.find(wrong), None, "{wrong}");
        }
        bench.ledger.receive(1);
        assert_eq!(bench.find(&answer("1")), Some(1), "answered before");
        let same = Bench::new("{\"id\":\"a text of more than 14 bytes\"}", "id:id", 3);
        assert_eq!(same.find("{\"id\":\"a text of more than 14 bytes\"}"), Some(0), "the oldest");
        assert_eq!(same.find("{\"id\":\"a text of more than 14 bytez\"}"), None);
        assert_eq!(same.find("{\"id\":\"a text\\u0020of more than 14 bytes\"}"), Some(0));
    }

    #[test]
    fn repeated_lines_are_the_oldest_then_the_held() {
        let mut bench = Bench::new("a", "echo", 2);
        assert_eq!(bench.find("a"), Some(0));
        bench.ledger.receive(0);
        assert_eq!(bench.find("a"), Some(1));
        bench.ledger.receive(1);
        let held = bench.rules().find(
            (3, &bench.sent, &bench.ledger),
            [0].into_iter(),
            b"a",
            &mut Vec::new(),
        );
        assert_eq!(held, Some(0));
    }

    #[test]
    fn generated_messages_are_found_too() {
        let content = Content::new(Payload::TextAscii, &[(20, 1)], 1);
        let source = Source::Generated(&content);
        let rules = Rules { matching: &Match::Contains, source, verify: true };
        let mut ledger = Ledger::closed(2);
        for _ in 0..2 {
            ledger.send(Times { due: Nanos(0), sent: Nanos(0) });
        }
        let (place, mut scratch) = (Bench::place(1), Vec::new());
        let answer = [b"You said: ", source.message(place, &mut scratch)].concat();
        let of = (3, &Sent::default(), &ledger);
        assert_eq!(rules.find(of, std::iter::empty(), &answer, &mut Vec::new()), Some(1));
        let cost = rules.cost();
        assert!(cost.build_ns > 0.0 && cost.check_ns > 0.0, "{cost:?}");
    }
}
