//! Messages before the load of a connection: the server's greetings, the first message, and its
//! answer.

use bytes::Bytes;
use regex::bytes::Regex;

use super::plan::PlanError;
use super::template::Template;
use crate::load::Load;

/// Messages that each connection exchanges before its load: it skips messages of the server, then
/// sends one, then waits for one.
#[derive(Clone, Debug)]
pub(crate) struct FirstMessages {
    pub(crate) skip: u32,
    pub(crate) message: Option<Template>,
    pub(crate) expected: Option<Regex>,
}

impl FirstMessages {
    /// Returns those of a load, if it has any. The error names the flag.
    pub(crate) fn of(load: &Load) -> Result<Option<Self>, PlanError> {
        if !load.has_first_messages() {
            return Ok(None);
        }
        let known = |flag: &'static str, text: Option<&str>| match text {
            Some(text) => Ok(text.to_owned()),
            None => Err(PlanError(format!("the text of {flag} is not known: it is not stored"))),
        };
        let message = |text: String| match load.template {
            false => Ok(Template::plain(text.into())),
            true => Template::parse(&Bytes::from(text))
                .map_err(|error| PlanError(format!("--first-message: {error}"))),
        };
        let first = load.first_message.as_ref();
        let first = first.map(|text| known("--first-message", text.text()).and_then(message));
        let expected = load.expect_first.as_ref();
        let expected = expected.map(|text| known("--expect-first", text.text()).and_then(regex));
        Ok(Some(Self {
            skip: load.skip_first,
            message: first.transpose()?,
            expected: expected.transpose()?,
        }))
    }
}

fn regex(text: String) -> Result<Regex, PlanError> {
    Regex::new(&text).map_err(|error| {
        let error = error.to_string();
        // The last line says what is wrong, those before show the expression.
        let fault = error.lines().last().unwrap_or_default().trim_start_matches("error: ");
        PlanError(format!(
            "--expect-first `{text}` is not a valid regular expression: {fault}; expected one as \
             in '\"status\": ?\"ok\"'"
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_name_their_flags() {
        let fault = |load: Load| FirstMessages::of(&load).expect_err("a fault").to_string();
        let expect = fault(Load { expect_first: Some("(a".into()), ..Load::default() });
        let begin = "--expect-first `(a` is not a valid regular expression: unclosed group";
        assert!(expect.starts_with(begin), "{expect}");
        let first = Some("{user}".into());
        let load = Load { first_message: first, template: true, ..Load::default() };
        let placeholder = fault(load.clone());
        assert!(placeholder.starts_with("--first-message: `{user}` at byte 0"), "{placeholder}");
        let plain = FirstMessages::of(&Load { template: false, ..load }).expect("a text");
        assert!(plain.is_some_and(|first| first.message.is_some() && first.skip == 0));
        assert!(FirstMessages::of(&Load::default()).is_ok_and(|first| first.is_none()));
    }
}
