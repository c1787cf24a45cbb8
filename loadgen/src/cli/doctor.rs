//! `sparring-loadgen doctor`: reports what would invalidate a measurement on this machine.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use super::cpus::{CpuList, check_cpus, check_own_cpus, cpu_list};
use super::output::FormatArguments;
use super::{OUTPUT, print_plain, usage};
use crate::doctor::{Finding, Intent, Severity, examine};
use crate::host::system::System;
use crate::load::value::time;
use crate::report::text::findings;

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen doctor                            without the load that is to be measured
  sparring-loadgen doctor -c 20000                   and whether 20,000 connections are possible
  sparring-loadgen doctor --cpus 2,3 --spawn-cpus 0,1
                                                     and whether generator and server are apart
  sparring-loadgen doctor --json | jq .findings

Severities: INVALIDATES: what is measured now is not to be trusted, or cannot be done as asked.
hint: makes figures worse, or limits what can be measured. unknown: the kernel does not say. fine:
nothing to fix. Nothing is ever changed: the commands are for you to read, and to run.

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
    #[arg(long, conflicts_with = "markdown", help_heading = OUTPUT)]
    json: bool,

    #[command(flatten)]
    format: FormatArguments,

    /// Only what is not fine.
    #[arg(short, long, help_heading = OUTPUT)]
    quiet: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    schema: u32,
    /// True if something invalidates a measurement.
    invalidates: bool,
    findings: &'a [Finding],
}

/// Raised when the meaning of a field changes.
const SCHEMA: u32 = 2;

impl DoctorArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let list = |list: &Option<CpuList>| list.clone().map(|list| list.0).unwrap_or_default();
        let intent = Intent {
            connections: self.connections,
            cpus: list(&self.cpus),
            server_cpus: list(&self.spawn_cpus),
            is_debug_build: cfg!(debug_assertions),
        };
        if !self.root.join("proc").is_dir() {
            return Err(usage(format!(
                "--root {}: there is no folder proc below it",
                self.root.display()
            )));
        }
        self.check_processors()?;
        let findings = examine(&self.root, self.watch, &intent);
        let invalidates = findings.iter().any(|finding| finding.severity == Severity::Invalidates);
        if self.json {
            let report = Report { schema: SCHEMA, invalidates, findings: &findings };
            print_plain(&serde_json::to_string_pretty(&report)?)?;
        } else {
            self.format.print_text(
                &findings::findings(&findings, self.quiet, self.format.format()),
                false,
            )?;
        }
        Ok(u8::from(invalidates))
    }

    /// Checks that the processors may be used. Of another machine the mask is all that is known.
    fn check_processors(&self) -> anyhow::Result<()> {
        let (cpus, spawn_cpus) = (self.cpus.as_ref(), self.spawn_cpus.as_ref());
        if self.root == Path::new("/") {
            return check_own_cpus(cpus, spawn_cpus, None);
        }
        let allowed = System::below(&self.root).allowed();
        if allowed.is_empty() {
            return Ok(());
        }
        check_cpus("--cpus", cpus, &allowed)?;
        check_cpus("--spawn-cpus", spawn_cpus, &allowed)
    }
}
