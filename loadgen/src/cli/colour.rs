//! Colour of the words that a reader looks for, on a terminal.
//!
//! The texts themselves have none, so that what is stored, piped or compared is the same
//! everywhere. Whether a stream takes colour is for `anstream` to decide: a terminal that is not
//! `dumb`, unless NO_COLOR is set; always with CLICOLOR_FORCE.

use std::fmt::Write as _;
use std::io;

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

const BAD: Style = AnsiColor::Red.on_default().bold();
const DOUBTFUL: Style = AnsiColor::Yellow.on_default();
const GOOD: Style = AnsiColor::Green.on_default();

fn style(word: &str) -> Option<Style> {
    match word {
        "INVALID" | "REGRESSED" | "regressed" | "MISSED" | "FAILED" | "SPOILS" | "WRONG" | "NO" => Some(BAD),
        "INCONCLUSIVE" | "INTERRUPTED" | "ENDED" | "FORCED" | "ADVISORY" | "limited" => Some(DOUBTFUL),
        "IMPROVED" | "improved" => Some(GOOD),
        _ => None,
    }
}

/// Returns the text with its words of weight in colour.
pub(super) fn painted(text: &str) -> String {
    let mut painted = String::with_capacity(text.len());
    for piece in text.split_inclusive(|c: char| !c.is_ascii_alphabetic()) {
        let word = piece.trim_end_matches(|c: char| !c.is_ascii_alphabetic());
        let Some(style) = style(word) else {
            painted.push_str(piece);
            continue;
        };
        let _ = write!(painted, "{style}{word}{style:#}{}", &piece[word.len()..]);
    }
    painted
}

/// Returns true where standard error takes colour.
pub(super) fn is_on_standard_error() -> bool {
    AutoStream::choice(&io::stderr()) != ColorChoice::Never
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_weight_have_a_colour_and_others_none() {
        assert_eq!(painted("INVALID: no"), "\u{1b}[1m\u{1b}[31mINVALID\u{1b}[0m: no");
        assert_eq!(painted("p  improved"), "p  \u{1b}[32mimproved\u{1b}[0m");
        for text in ["unchanged, met, all as sent", "NOTE: INVALIDATED", "disregressed", ""] {
            assert_eq!(painted(text), text);
        }
    }

    #[test]
    fn nothing_else_is_changed() {
        let text = "B against A: REGRESSED (echo µs)\n  INVALID: …\n";
        assert_eq!(anstream::adapter::strip_str(&painted(text)).to_string(), text);
    }
}
