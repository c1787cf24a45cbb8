//! The user's own messages: a file, or the lines of one, perhaps with placeholders.
//!
//! A message depends on the seed, its connection and its number alone, and on the time of sending
//! where it has one. So the shards of a load send the messages of the whole load.

use bytes::Bytes;
use protocol::MessageKind;

use super::answers::{Id, id_of};
use super::payload::Content;
use super::plan::{PlanError, require};
use super::template::{Place, Template, TemplateError, of_place};
use crate::load::{Load, Match, Payload, PayloadFile, PayloadOrder};

/// The user's own messages.
#[derive(Clone, Debug)]
pub(crate) struct OwnMessages {
    /// At least one.
    templates: Vec<Template>,
    /// Values of the field that tells messages apart, of those that are the same each time. Empty
    /// where there is no such field.
    ids: Vec<Option<Id>>,
    order: PayloadOrder,
    seed: u64,
    kind: MessageKind,
    has_time: bool,
    longest: usize,
}

impl OwnMessages {
    /// Returns the messages of a load, if it has any of the user's own. The error names the flag.
    pub(crate) fn of(load: &Load) -> Result<Option<Self>, PlanError> {
        let (flag, file, is_one) = match (&load.payload_file, &load.payload_lines) {
            (Some(file), _) => ("--payload-file", file, true),
            (None, Some(file)) => ("--payload-lines", file, false),
            (None, None) => return Ok(None),
        };
        let texts = texts(flag, file, is_one)?;
        let kind = match load.payload {
            Payload::Binary => MessageKind::Binary,
            Payload::TextAscii | Payload::TextMixed | Payload::TextJson => MessageKind::Text,
        };
        if kind == MessageKind::Text {
            check_text(flag, file)?;
        }
        let template = |(index, text): (usize, &Bytes)| match load.template {
            false => Ok(Template::plain(text.clone())),
            true => template(flag, text, (!is_one).then_some(index + 1)),
        };
        let templates = texts.iter().enumerate().map(template).collect::<Result<Vec<_>, _>>()?;
        let ids = match &load.matching {
            Match::Id { sent, .. } => {
                let id = |(index, template): (usize, &Template)| {
                    let mut message = Vec::new();
                    template.build(Place::default(), load.seed, &mut message);
                    let place = place(flag, (!is_one).then_some(index + 1));
                    let reason = format!(
                        "{place}: a message has no field `{sent}` with a text or a number, which \
                         --match {} needs: expected JSON, for example {{\"{sent}\":{{seq}}}} with \
                         --template",
                        load.matching
                    );
                    let id = id_of(&message, sent).ok_or(PlanError(reason))?;
                    Ok(template.literal().map(|_| id))
                };
                templates.iter().enumerate().map(id).collect::<Result<_, PlanError>>()?
            }
            _ => Vec::new(),
        };
        Ok(Some(Self {
            ids,
            order: load.payload_order,
            seed: load.seed,
            kind,
            has_time: templates.iter().any(Template::has_time),
            longest: templates.iter().map(Template::longest).max().unwrap_or_default(),
            templates,
        }))
    }

    pub(crate) fn kind(&self) -> MessageKind {
        self.kind
    }

    /// Returns true if messages have the time of sending.
    pub(crate) fn has_time(&self) -> bool {
        self.has_time
    }

    /// Returns the length of the longest message.
    pub(crate) fn longest(&self) -> usize {
        self.longest
    }

    /// Returns the messages, by their [indices](Self::index_of).
    pub(crate) fn templates(&self) -> &[Template] {
        &self.templates
    }

    /// Returns the value of a message's field, where it is the same each time.
    pub(crate) fn known_id(&self, place: Place) -> Option<Id> {
        self.ids[self.index_of(place)]
    }

    /// Returns the index of a message's template.
    pub(crate) fn index_of(&self, place: Place) -> usize {
        let count = self.templates.len();
        match self.order {
            _ if count == 1 => 0,
            PayloadOrder::InTurn => (place.sequence % count as u64) as usize,
            PayloadOrder::Random => of_place(place, !self.seed).below(count),
        }
    }

    /// Returns a message. `scratch` is memory for one with placeholders.
    #[inline]
    pub(crate) fn message<'a>(&'a self, place: Place, scratch: &'a mut Vec<u8>) -> &'a [u8] {
        let template = &self.templates[self.index_of(place)];
        if let Some(text) = template.literal() {
            return text;
        }
        scratch.clear();
        template.build(place, self.seed, scratch);
        scratch
    }
}

/// Returns the messages of a file.
fn texts(flag: &str, file: &PayloadFile, is_one: bool) -> Result<Vec<Bytes>, PlanError> {
    let content = file.content();
    let unknown = format!("the content of {flag} is not known: a document stores its hash alone");
    let content = content.ok_or(PlanError(unknown))?;
    Ok(if is_one { vec![content.clone()] } else { file.each_line().collect() })
}

fn check_text(flag: &str, file: &PayloadFile) -> Result<(), PlanError> {
    let content = file.content().map(|content| &content[..]).unwrap_or_default();
    let error = std::str::from_utf8(content).err();
    let at = error.map_or(0, |error| error.valid_up_to());
    let reason = format!(
        "{flag} is not UTF-8 at byte {at}, so it cannot be sent as text: leave out --text, or \
         convert it, for example with `iconv -t UTF-8`"
    );
    require(error.is_none(), reason)
}

fn template(flag: &str, text: &Bytes, line: Option<usize>) -> Result<Template, PlanError> {
    let named = |error: TemplateError| PlanError(format!("{}: {error}", place(flag, line)));
    Template::parse(text).map_err(named)
}

/// Names a flag, and a line of its file.
fn place(flag: &str, line: Option<usize>) -> String {
    line.map_or_else(|| flag.to_owned(), |line| format!("{flag}, line {line}"))
}

/// The messages of a load.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    Generated(&'a Content),
    Own(&'a OwnMessages),
}

impl<'a> Source<'a> {
    pub(crate) fn kind(self) -> MessageKind {
        match self {
            Self::Generated(content) => content.kind(),
            Self::Own(own) => own.kind(),
        }
    }

    /// Returns true if a message has the time of sending.
    pub(crate) fn has_time(self) -> bool {
        matches!(self, Self::Own(own) if own.has_time())
    }

    /// Returns a message. `scratch` is memory for one that is not known before.
    pub(crate) fn message<'b>(self, place: Place, scratch: &'b mut Vec<u8>) -> &'b [u8]
    where
        'a: 'b,
    {
        match self {
            Self::Own(own) => own.message(place, scratch),
            Self::Generated(content) => {
                let parts = content.parts(place.connection, place.sequence);
                scratch.clear();
                scratch.extend_from_slice(parts.head());
                scratch.extend_from_slice(parts.body());
                scratch
            }
        }
    }

    /// Returns the index of a message that is the same as all others of this index.
    pub(crate) fn repeated(self, place: Place) -> Option<usize> {
        let Self::Own(own) = self else { return None };
        let index = own.index_of(place);
        own.templates[index].literal().map(|_| index)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::load::Payload;

    /// Returns a load with these lines.
    pub(crate) fn lines(content: &[u8], template: bool) -> Load {
        let name = format!("sparring-own-{}-{:?}", std::process::id(), std::thread::current().id());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, content).expect("a temporary file");
        let file = PayloadFile::lines(path.to_str().expect("UTF-8")).expect("lines");
        std::fs::remove_file(&path).expect("own file");
        Load { payload_lines: Some(file), template, payload: Payload::TextMixed, ..Load::default() }
    }

    fn of(load: &Load) -> OwnMessages {
        OwnMessages::of(load).expect("messages").expect("own ones")
    }

    fn message(own: &OwnMessages, connection: u32, sequence: u64) -> String {
        let place = Place { connection, sequence, time_ns: 0 };
        String::from_utf8(own.message(place, &mut Vec::new()).to_vec()).expect("UTF-8")
    }

    #[test]
    fn lines_are_sent_in_turn_or_at_random() {
        let load = lines(b"a\nb\nc{seq}\n", false);
        let own = of(&load);
        let sent: Vec<String> = (0..5).map(|sequence| message(&own, 7, sequence)).collect();
        assert_eq!(sent, ["a", "b", "c{seq}", "a", "b"]);
        let random = of(&Load { payload_order: PayloadOrder::Random, ..load.clone() });
        let count = |line: &&str| (0..3000).filter(|&n| message(&random, 7, n) == *line).count();
        assert!(["a", "b", "c{seq}"].iter().all(|line| (900..1100).contains(&count(line))));
        let sequence = |seed, connection| {
            let load = Load { payload_order: PayloadOrder::Random, seed, ..load.clone() };
            let own = of(&load);
            (0..40).map(|n| message(&own, connection, n)).collect::<String>()
        };
        assert_eq!(sequence(1, 1), sequence(1, 1));
        assert!(sequence(1, 1) != sequence(2, 1) && sequence(1, 1) != sequence(1, 2));
        assert_eq!(message(&of(&Load { template: true, ..load }), 0, 5), "c5");
    }

    #[test]
    fn faults_name_flag_place_and_remedy() {
        let fault = |load: &Load| OwnMessages::of(load).expect_err("a fault").to_string();
        let text = fault(&lines(b"fine\nnot \xff", false));
        assert!(text.starts_with("--payload-lines is not UTF-8 at byte 9,"), "{text}");
        assert!(
            OwnMessages::of(&Load { payload: Payload::Binary, ..lines(b"\xff", false) }).is_ok()
        );
        let placeholder = fault(&lines(b"{seq}\n{sq}", true));
        let begin = "--payload-lines, line 2: `{sq}` at byte 0 is not a placeholder";
        assert!(placeholder.starts_with(begin), "{placeholder}");
        let stored = serde_json::to_value(lines(b"a", false)).expect("JSON");
        let stored: Load = serde_json::from_value(stored).expect("a load");
        assert!(fault(&stored).starts_with("the content of --payload-lines is not known"));
        for line in ["no JSON", "{\"id\":[]}", "{\"ID\":1}"] {
            let content = format!("{{\"id\":1}}\n{line}");
            let matching = "id:id".parse().expect("a rule");
            let fault = fault(&Load { matching, ..lines(content.as_bytes(), false) });
            assert!(
                fault.starts_with("--payload-lines, line 2: a message has no field"),
                "{fault}"
            );
        }
    }
}
