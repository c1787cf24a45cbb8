//! Findings of `doctor` and of the conformance battery.

use std::fmt::Write as _;

use crate::conformance::{CaseResult, summary as verdicts};
use crate::doctor::{Finding, Severity};
use crate::format::count;
use crate::report::terminal::wrapped;
use crate::report::{Blocks, Format, Table};
use crate::target::url::Url;

/// Columns before what was seen.
const INDENT: usize = 25;

/// Returns the findings, the worst first; each with its reason and remedy where it has some. With
/// `quiet` those that are fine are left out.
pub(crate) fn findings(findings: &[Finding], quiet: bool, format: Format) -> String {
    let is_shown = |finding: &&Finding| !(quiet && finding.severity == Severity::Fine);
    let shown = findings.iter().filter(is_shown);
    match format {
        Format::Terminal { width } => {
            shown.map(|finding| terminal(finding, width)).collect::<String>() + &summary(findings)
        }
        Format::Markdown => {
            let header = ["severity", "check", "seen", "why", "fix"];
            let rows = shown.map(|Finding { check, severity, seen, why, fix }| {
                [&severity.to_string(), *check, seen, why, fix].map(ToOwned::to_owned)
            });
            let table = Table::new(header, header.len(), []).rows(rows);
            Blocks::default().table(table).legend(vec![summary(findings)]).render(format)
        }
    }
}

/// Returns the cases of the conformance battery, of which only those that `is_shown`, and the
/// counts of all verdicts.
pub(crate) fn cases(
    url: &Url,
    results: &[CaseResult],
    is_shown: impl Fn(&CaseResult) -> bool,
) -> Blocks {
    let header = ["id", "verdict", "seen", "expected", "sent", "section"];
    let shown = results.iter().filter(|result| is_shown(result));
    let rows = shown.map(|CaseResult { id, sent, expected, seen, verdict, section }| {
        [id.as_str(), verdict.name(), seen, expected, sent, section].map(str::to_owned)
    });
    let table = Table::new(header, header.len(), [5, 4, 3]).rows(rows);
    Blocks::default().table(table).legend(vec![format!("{url}: {}", verdicts(results))])
}

/// A remedy is not wrapped: it is a command to copy.
fn terminal(finding: &Finding, width: usize) -> String {
    let Finding { check, severity, seen, why, fix } = finding;
    let mut text = wrapped(&format!("{severity:<11} {check:<12} {seen}"), width, INDENT) + "\n";
    if !fix.is_empty() {
        let _ = writeln!(text, "{}", wrapped(&format!("{:INDENT$}{why}", ""), width, INDENT));
        let _ = writeln!(text, "{:INDENT$}fix: {fix}", "");
    }
    text
}

fn summary(findings: &[Finding]) -> String {
    let number = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (faults, hints, unknown) =
        (number(Severity::Invalidates), number(Severity::Hint), number(Severity::Unknown));
    let verdict = match faults {
        0 => "Nothing found that invalidates a measurement".to_owned(),
        1 => "1 finding invalidates a measurement".to_owned(),
        _ => format!("{faults} findings invalidate a measurement"),
    };
    let unknown = if unknown == 0 { String::new() } else { format!(", {unknown} unknown") };
    format!("{verdict}; {}{unknown}", count(hints as u64, "hint"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(found: &[Finding], quiet: bool, width: usize) -> String {
        findings(found, quiet, Format::Terminal { width })
    }

    fn finding(severity: Severity) -> Finding {
        let has_more = severity >= Severity::Hint;
        let text = |text: &str| if has_more { text.to_owned() } else { String::new() };
        Finding {
            check: "c",
            severity,
            seen: "seen".to_owned(),
            why: text("why"),
            fix: text("do it"),
        }
    }

    #[test]
    fn the_table_has_remedies_where_there_are_some() {
        let findings = [Severity::Invalidates, Severity::Unknown, Severity::Fine].map(finding);
        let text = table(&findings, false, 80);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6);
        assert!(
            lines[0].starts_with("INVALIDATES c ") && lines[2].ends_with("fix: do it"),
            "{text}"
        );
        assert_eq!(lines[5], "1 finding invalidates a measurement; 0 hints, 1 unknown");
        assert_eq!(table(&findings, true, 80).lines().count(), 5);
        let long = Finding { why: "word ".repeat(40), ..finding(Severity::Invalidates) };
        assert!(table(&[long], false, 80).lines().all(|line| line.len() <= 80));
        let markdown = super::findings(&findings, false, Format::Markdown);
        assert!(markdown.contains("| INVALIDATES | c | seen | why | do it |"), "{markdown}");
        assert!(summary(&[finding(Severity::Hint)]).starts_with("Nothing found"));
    }
}
