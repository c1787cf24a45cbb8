//! `sparring-loadgen doctor`: reports what would invalidate a measurement on this machine.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use serde::Serialize;

use super::cpus::{CpuList, check_cpus, check_own_cpus, cpu_list};
use super::{Failure, OUTPUT, print_line, print_plain, terminal};
use crate::doctor::{self, Finding, Intent, Severity, examine};
use crate::load::value::time;
use crate::result::table::count;
use crate::result::text_table::wrapped;

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen doctor                            without the load that is to be measured
  sparring-loadgen doctor -c 20000                   and whether 20,000 connections are possible
  sparring-loadgen doctor --cpus 2,3 --spawn-cpus 0,1
                                                     and whether generator and server are apart
  sparring-loadgen doctor --json | jq .findings

Severities: SPOILS: what is measured now is not to be trusted, or cannot be done as asked. hint: makes figures
worse, or limits what can be measured. unknown: the kernel does not tell. fine. Nothing is ever changed: the
commands are for you to read, and to run.

Exit status: 0 nothing invalidates a measurement (there may be hints); 1 something does, or an error; \
2 wrong usage.";

/// Changes nothing.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct DoctorArguments {
    /// Connections that are to be opened from one address.
    #[arg(short, long, value_name = "N")]
    connections: Option<u32>,

    /// Processors that the generator is to use.
    #[arg(long, value_name = "LIST", value_parser = cpu_list)]
    cpus: Option<CpuList>,

    /// Processors that the server is to use, where it runs on this machine.
    #[arg(long, value_name = "LIST", value_parser = cpu_list)]
    spawn_cpus: Option<CpuList>,

    /// Time for which to watch other activity.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "1s")]
    watch: Duration,

    /// Read proc and sys below this folder: a host's, seen from a container, or a copy.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,

    /// One JSON object on standard output instead of the table.
    #[arg(long, help_heading = OUTPUT)]
    json: bool,

    /// Only what is not fine.
    #[arg(short, long, help_heading = OUTPUT)]
    quiet: bool,
}

/// The output of `--json`.
#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    /// True where something invalidates a measurement.
    spoiled: bool,
    findings: &'a [Finding],
}

/// Raised when the meaning of a field changes.
const SCHEMA: u32 = 1;

impl DoctorArguments {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        let list = |list: &Option<CpuList>| list.clone().map(|list| list.0).unwrap_or_default();
        let intent = Intent {
            connections: self.connections,
            cpus: list(&self.cpus),
            server_cpus: list(&self.spawn_cpus),
            is_debug_build: cfg!(debug_assertions),
        };
        if !self.root.join("proc").is_dir() {
            return Err(Failure::Usage(format!(
                "--root {}: there is no folder proc below it",
                self.root.display()
            )));
        }
        self.check_processors()?;
        let findings = examine(&self.root, self.watch, &intent);
        let spoiled = findings.iter().any(|finding| finding.severity == Severity::Spoils);
        if self.json {
            let report = Report { schema: SCHEMA, spoiled, findings: &findings };
            let text = serde_json::to_string_pretty(&report);
            print_plain(&text.context("cannot write the findings as JSON")?)?;
        } else {
            print_line(&table(&findings, self.quiet, terminal::width()))?;
        }
        Ok(u8::from(spoiled))
    }

    /// Checks that the processors may be used. Of another machine the mask is all that is known.
    fn check_processors(&self) -> Result<(), Failure> {
        let lists = [("--cpus", self.cpus.as_ref()), ("--spawn-cpus", self.spawn_cpus.as_ref())];
        if self.root == Path::new("/") {
            return check_own_cpus(lists);
        }
        let allowed = doctor::allowed(&self.root);
        if allowed.is_empty() {
            return Ok(());
        }
        lists.into_iter().try_for_each(|(flag, list)| check_cpus(flag, list, &allowed))
    }
}

/// Columns before what was seen.
const INDENT: usize = 22;

/// The worst first; each with its reason and remedy where it has some. A remedy is not wrapped: it
/// is a command to copy.
fn table(findings: &[Finding], quiet: bool, width: usize) -> String {
    let mut text = String::new();
    for finding in findings.iter().filter(|finding| !(quiet && finding.severity == Severity::Fine)) {
        let Finding { check, severity, seen, why, fix } = finding;
        let seen = wrapped(&format!("{severity:<8} {check:<12} {seen}"), width, INDENT);
        let _ = writeln!(text, "{seen}");
        if !fix.is_empty() {
            let _ = writeln!(text, "{}", wrapped(&format!("{:INDENT$}{why}", ""), width, INDENT));
            let _ = writeln!(text, "{:INDENT$}fix: {fix}", "");
        }
    }
    text + &summary(findings)
}

fn summary(findings: &[Finding]) -> String {
    let number = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let (spoils, hints, unknown) =
        (number(Severity::Spoils), number(Severity::Hint), number(Severity::Unknown));
    let verdict = match spoils {
        0 => "Nothing found that invalidates a measurement",
        1 => "1 finding invalidates a measurement",
        _ => return format!("{spoils} findings invalidate a measurement; {}", rest(hints, unknown)),
    };
    format!("{verdict}; {}", rest(hints, unknown))
}

fn rest(hints: usize, unknown: usize) -> String {
    let hints = count(hints as u64, "hint");
    if unknown == 0 { hints } else { format!("{hints}, {unknown} unknown") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity) -> Finding {
        let has_more = severity >= Severity::Hint;
        let text = |text: &str| if has_more { text.to_owned() } else { String::new() };
        Finding { check: "c", severity, seen: "seen".to_owned(), why: text("why"), fix: text("do it") }
    }

    #[test]
    fn the_table_has_remedies_where_there_are_some() {
        let findings = [Severity::Spoils, Severity::Unknown, Severity::Fine].map(finding);
        let text = table(&findings, false, 80);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 6);
        assert!(lines[0].starts_with("SPOILS   c") && lines[2].ends_with("fix: do it"), "{text}");
        assert_eq!(lines[5], "1 finding invalidates a measurement; 0 hints, 1 unknown");
        assert_eq!(table(&findings, true, 80).lines().count(), 5);
        let long = Finding { why: "word ".repeat(40), ..finding(Severity::Spoils) };
        assert!(table(&[long], false, 80).lines().all(|line| line.len() <= 80));
        assert!(summary(&[finding(Severity::Hint)]).starts_with("Nothing found"));
    }
}
