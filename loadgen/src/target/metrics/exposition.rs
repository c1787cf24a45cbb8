//! Prometheus' text format, version 0.0.4: a sample on each line, `NAME{LABEL="VALUE",...} NUMBER`.
//! Lines that begin with `#` describe samples and are not read.

/// One sample.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sample {
    pub(super) name: String,
    pub(super) labels: Vec<(String, String)>,
    pub(super) value: f64,
}

impl Sample {
    pub(super) fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }
}

/// Line that is not in the format: its number, and its text.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WrongLine(pub(super) usize, pub(super) String);

/// Most characters of a wrong line that are shown.
const SHOWN: usize = 60;

/// Returns the samples of an answer.
///
/// # Errors
///
/// The first line that is not in the format.
pub(super) fn samples(text: &str) -> Result<Vec<Sample>, WrongLine> {
    let lines = (1..).zip(text.lines().map(|line| line.trim_matches([' ', '\t', '\r'])));
    let is_sample = |(_, line): &(usize, &str)| !line.is_empty() && !line.starts_with('#');
    let read = |(number, line): (usize, &str)| {
        let shown = || line.chars().take(SHOWN).collect::<String>().escape_debug().to_string();
        sample(line).ok_or_else(|| WrongLine(number, shown()))
    };
    lines.filter(is_sample).map(read).collect()
}

fn sample(line: &str) -> Option<Sample> {
    let (name, rest) = word(line, |c| c == ':')?;
    let (name_end, rest) = (rest, rest.trim_start());
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(rest) => labels(rest)?,
        // White space ends a name without labels.
        None if rest.len() < name_end.len() => (Vec::new(), rest),
        None => return None,
    };
    let mut numbers = rest.split_ascii_whitespace();
    let value = numbers.next()?.parse().ok()?;
    // A time in milliseconds may follow.
    let is_over = numbers.next().is_none_or(|time| time.parse::<i64>().is_ok());
    (is_over && numbers.next().is_none()).then(|| Sample { name: name.to_owned(), labels, value })
}

/// Splits a name off: letters, digits and underscores, and what else `is_allowed`. It does not
/// begin with a digit.
fn word(text: &str, is_allowed: fn(char) -> bool) -> Option<(&str, &str)> {
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_' || is_allowed(c);
    let (word, rest) = text.split_at(text.find(|c| !is_part(c)).unwrap_or(text.len()));
    (!word.is_empty() && !word.starts_with(|c: char| c.is_ascii_digit())).then_some((word, rest))
}

/// Labels of a sample, and the text behind them.
type Labels<'a> = (Vec<(String, String)>, &'a str);

/// Splits labels off, up to and with the closing brace.
fn labels(mut text: &str) -> Option<Labels<'_>> {
    let mut labels = Vec::new();
    loop {
        text = text.trim_start();
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = word(text, |_| false)?;
        let rest = rest.trim_start().strip_prefix('=')?.trim_start().strip_prefix('"')?;
        let (value, rest) = quoted(rest)?;
        labels.push((name.to_owned(), value));
        text = rest.trim_start();
        match text.strip_prefix(',') {
            Some(rest) => text = rest,
            None if text.starts_with('}') => {}
            None => return None,
        }
    }
}

/// Splits a value off, up to and with the closing quotation mark.
fn quoted(text: &str) -> Option<(String, &str)> {
    let (mut value, mut letters) = (String::new(), text.char_indices());
    loop {
        match letters.next()? {
            (at, '"') => return Some((value, &text[at + 1..])),
            (_, '\\') => value.push(match letters.next()?.1 {
                'n' => '\n',
                letter @ ('\\' | '"') => letter,
                _ => return None,
            }),
            (_, letter) => value.push(letter),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(line: &str) -> Sample {
        let mut all = samples(line).unwrap_or_else(|error| panic!("{line}: {error:?}"));
        assert_eq!(all.len(), 1, "{line}");
        all.remove(0)
    }

    #[test]
    fn samples_have_names_labels_and_values() {
        let text = "# HELP up Is it?\n# TYPE up gauge\n\nup 1\n  a:b_c{x=\"1\",y=\"\"} 2.5e3 1700000000000\r\n";
        let all = samples(text).expect("the format");
        assert_eq!((all[0].name.as_str(), all[0].value), ("up", 1.0));
        assert_eq!((all[1].name.as_str(), all[1].value), ("a:b_c", 2500.0));
        assert_eq!(
            (all[1].label("x"), all[1].label("y"), all[1].label("z")),
            (Some("1"), Some(""), None)
        );
        assert_eq!(samples(""), Ok(Vec::new()));
    }

    #[test]
    fn every_form_of_a_sample_is_read() {
        assert_eq!(one("a{} 1").labels, []);
        assert_eq!(one("a { x = \"1\" , } 1").label("x"), Some("1"));
        assert_eq!(one("a{x=\"1\"}2").value, 2.0);
        assert_eq!(one("a\t-1").value, -1.0);
        assert_eq!(one(r#"a{x="q\"b\\n\n, }"} 1"#).label("x"), Some("q\"b\\n\n, }"));
        assert!(one("a NaN").value.is_nan());
        assert_eq!((one("a +Inf").value, one("a -Inf").value), (f64::INFINITY, f64::NEG_INFINITY));
    }

    #[test]
    fn a_line_in_another_form_is_named() {
        for line in [
            "a",
            "1a 1",
            "a one",
            "a 1 2 3",
            "a 1 2.5",
            "a{ 1",
            "a{x} 1",
            "a{x=1} 1",
            "a{x=\"1} 1",
            "a{x=\"1\" y=\"2\"} 1",
            "a{x=\"\\t\"} 1",
            "a{:x=\"1\"} 1",
            "a-b 1",
            "<html>",
        ] {
            assert_eq!(
                samples(&format!("up 1\n{line}\n")),
                Err(WrongLine(2, line.escape_debug().to_string()))
            );
        }
        let long = samples(&"x".repeat(1000)).expect_err("no value");
        assert_eq!(long.1.len(), SHOWN);
    }
}
