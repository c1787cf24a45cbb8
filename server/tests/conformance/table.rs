//! The table of a run.

use crate::case::{Result, Verdict};

impl Verdict {
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Lax => "lax",
            Self::Wrong => "wrong",
            Self::Broken => "broken",
            Self::Skipped => "skipped",
        }
    }
}

pub(crate) fn print(results: &[Result]) {
    row("id", "sent", "expected", "seen", "verdict", "section");
    for Result { id, sent, expected, seen, verdict, section } in results {
        row(id, sent, expected, seen, verdict.name(), section);
    }
}

fn row(id: &str, sent: &str, expected: &str, seen: &str, verdict: &str, section: &str) {
    println!("{id:<30} {sent:<50} {expected:<32} {seen:<44} {verdict:<8} {section}");
}

/// `123 OK, 4 lax, ...`, all of them named.
pub(crate) fn summary(results: &[Result]) -> String {
    let all = [Verdict::Ok, Verdict::Lax, Verdict::Wrong, Verdict::Broken, Verdict::Skipped];
    let count = |verdict| results.iter().filter(|result| result.verdict == verdict).count();
    let counts: Vec<String> =
        all.iter().map(|&verdict| format!("{} {}", count(verdict), verdict.name())).collect();
    format!("{} cases: {}", results.len(), counts.join(", "))
}
