//! A comparison as annotations of a CI system: workflow commands of GitHub Actions, which Gitea and
//! Forgejo read too.

use std::fmt;

use super::text::comparison::{headline, shown_change};
use crate::compare::Judgement;
use crate::result::{Conclusion, Verdict};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    Error,
    Warning,
    Notice,
}

/// A line that the CI system shows beside the change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Annotation {
    level: Level,
    title: String,
    message: String,
}

impl Annotation {
    pub(crate) fn new(level: Level, title: impl Into<String>, message: impl Into<String>) -> Self {
        Self { level, title: title.into(), message: message.into() }
    }
}

impl fmt::Display for Annotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Error => "error",
            Level::Warning => "warning",
            Level::Notice => "notice",
        };
        // As @actions/core escapes: a line break would end the command, and a colon or a comma its
        // property.
        let message = self.message.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        let title = self.title.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        let title = title.replace(':', "%3A").replace(',', "%2C");
        write!(f, "::{level} title={title}::{message}")
    }
}

/// Returns the verdict, and each metric that changed. `level` is that of the verdict; metrics that
/// are not worse are notices.
pub(crate) fn annotations(conclusion: &Conclusion, level: Level) -> Vec<Annotation> {
    let verdict = Annotation::new(level, "sparring", headline(conclusion));
    let of = |judgement: &Judgement| {
        let level = match judgement.verdict? {
            Verdict::Regressed => level,
            Verdict::Improved => Level::Notice,
            Verdict::Unchanged | Verdict::Inconclusive => return None,
        };
        let title = format!("{} {}", judgement.scenario, judgement.metric.name());
        Some(Annotation::new(level, title, shown_change(judgement)))
    };
    [verdict].into_iter().chain(conclusion.judgements.iter().filter_map(of)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::example::duel;
    use crate::compare::sides::default_thresholds;

    #[test]
    fn a_regressed_metric_is_named_in_a_line_of_its_own() {
        let conclusion = Conclusion::of_arms(&duel(10, 1.06), &default_thresholds);
        let lines: Vec<String> =
            annotations(&conclusion, Level::Error).iter().map(ToString::to_string).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(
            lines[0].starts_with("::error title=sparring::B against A: REGRESSED"),
            "{lines:?}"
        );
        let metric = "::error title=echo server-cpu::regressed by +6.2 %25 (95 %25 interval";
        assert!(lines[1].starts_with(metric), "{lines:?}");
    }

    #[test]
    fn an_annotation_is_one_line_whatever_is_in_it() {
        let hostile = Annotation::new(Level::Notice, "a,b::c\n", "50 %\r\n::error::x");
        assert_eq!(hostile.to_string(), "::notice title=a%2Cb%3A%3Ac%0A::50 %25%0D%0A::error::x");
    }
}
