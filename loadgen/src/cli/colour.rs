//! Colour of verdicts and problems in the texts on a terminal.
//!
//! The texts themselves have none, so that what is stored, piped or compared is the same
//! everywhere. Whether a stream takes colour is for `anstream` to decide: a terminal that is not
//! `dumb`, unless NO_COLOR is set; always with CLICOLOR_FORCE.

use std::env;
use std::fmt::Write as _;
use std::io;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

use crate::format::{Tone, tone};

fn style(tone: Tone) -> Style {
    match tone {
        Tone::Bad => AnsiColor::Red.on_default().bold(),
        Tone::Doubtful => AnsiColor::Yellow.on_default(),
        Tone::Good => AnsiColor::Green.on_default(),
    }
}

/// Leaves a dumb terminal without colour, which `anstream` would give it where CI is set.
pub(super) fn choose() {
    let is_dumb = env::var_os("TERM").is_some_and(|name| name == "dumb");
    let is_forced = env::var_os("CLICOLOR_FORCE").is_some_and(|value| value != "0");
    if is_dumb && !is_forced {
        ColorChoice::Never.write_global();
    }
}

/// Returns the text with its verdicts and problems in colour.
pub(super) fn highlight(text: &str) -> String {
    let mut highlighted = String::with_capacity(text.len());
    // A name such as `echo-ws-limited` is one word.
    let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    for piece in text.split_inclusive(|c: char| !is_part(c)) {
        let word = piece.trim_end_matches(|c: char| !is_part(c));
        let Some(style) = tone(word).map(style) else {
            highlighted.push_str(piece);
            continue;
        };
        let _ = write!(highlighted, "{style}{word}{style:#}{}", &piece[word.len()..]);
    }
    highlighted
}

pub(super) fn is_on_standard_error() -> bool {
    AutoStream::choice(&io::stderr()) != ColorChoice::Never
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_have_a_colour_and_other_words_none() {
        assert_eq!(highlight("INVALID: no"), "\u{1b}[1m\u{1b}[31mINVALID\u{1b}[0m: no");
        assert_eq!(highlight("p  improved"), "p  \u{1b}[32mimproved\u{1b}[0m");
        for text in [
            "unchanged, met, all as sent",
            "NOTE: INVALIDATED",
            "disregressed",
            "echo-ws-limited",
            "",
        ] {
            assert_eq!(highlight(text), text);
        }
    }

    #[test]
    fn nothing_else_is_changed() {
        let text = "B against A: REGRESSED (echo µs)\n  INVALID: …\n";
        assert_eq!(anstream::adapter::strip_str(&highlight(text)).to_string(), text);
    }
}
