//! The flags and the making of a session of pairs, for `duel` and `aa`.

use std::path::{Path, PathBuf};

use clap::Args;
use engine::EngineKind;

use super::cpus::{CpuList, check_own_cpus, cpu_list};
use super::output::{FormatArguments, Output, open_output};
use super::plan::PlanArguments;
use super::terminal::Terminal;
use super::{Failure, LOAD, OUTPUT, SERVER, say};
use crate::compare::sides::SIDES;
use crate::duel::{self, DuelError, Fixed, Options, Side, about};
use crate::experiment::Session;
use crate::host::machine::Machine;
use crate::load::Transport;
use crate::report::format::count;
use crate::result::{SessionKind, Store};
use crate::run::{Plan, execute};
use crate::suite::Places;
use crate::target::spawn::Spawn;
use crate::target::url::Url;

/// The folder of results where nothing else is said, if there is one.
const RESULTS: &str = "bench-results";

/// Times take units (500ms, 10s), sizes too (4096, 64KiB).
#[derive(Debug, Args)]
pub(super) struct PairsArguments {
    /// Where the servers accept; {port} becomes a free port, in the commands too.
    #[arg(long, value_name = "URL", help_heading = SERVER)]
    url: Option<Url>,

    /// Processors to confine the servers to [default: one core, and another for the generator].
    #[arg(long, value_name = "LIST", value_parser = cpu_list, help_heading = SERVER)]
    spawn_cpus: Option<CpuList>,

    /// No runs at a fixed rate: throughput, server CPU and memory are judged, latencies are not.
    #[arg(long, conflicts_with_all = ["rate_per_s", "rate_per_connection"], help_heading = LOAD)]
    saturation_only: bool,

    #[command(flatten)]
    pub(super) plan: PlanArguments,

    /// Store the session in this folder [default: bench-results, where there is one].
    #[arg(long, value_name = "DIR", conflicts_with = "no_store", help_heading = OUTPUT)]
    results: Option<PathBuf>,

    /// Do not store it.
    #[arg(long, help_heading = OUTPUT)]
    no_store: bool,

    /// Write the session as JSON too; - is standard output, which then has nothing else.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    json: Option<PathBuf>,

    /// A name for the session.
    #[arg(long, value_name = "NAME", help_heading = OUTPUT)]
    tag: Option<String>,

    /// Neither progress nor notes: the result alone.
    #[arg(short, long, help_heading = OUTPUT)]
    pub(super) quiet: bool,

    /// Check the flags, print what would be measured and how long it takes, and start nothing.
    #[arg(long, help_heading = OUTPUT)]
    dry_run: bool,

    #[command(flatten)]
    pub(super) format: FormatArguments,
}

impl PairsArguments {
    /// Returns the session that was typed, with `engine` as its engine, since that is not settled
    /// yet.
    pub(super) fn options(
        &self,
        kind: SessionKind,
        commands: [&str; 2],
        pairs: u32,
        engine: EngineKind,
    ) -> Result<Options, Failure> {
        let usage = |error: &dyn std::fmt::Display| Failure::Usage(error.to_string());
        let mut load = self.plan(engine)?;
        let rate = load.load.rate_per_s.take();
        if rate.is_some() && self.plan.load.has_scenarios_rate() {
            if self.saturation_only {
                return Err(Failure::Usage(format!(
                    "--saturation-only leaves nothing of scenario `{}`, which is about a fixed rate: choose another",
                    load.scenario
                )));
            }
            // The saturating half is another load than the scenario.
            load.scenario.push_str("-saturated");
        }
        let fixed = match (self.saturation_only, rate) {
            (true, _) => Fixed::Off,
            (false, Some(rate)) => Fixed::Rate(rate),
            (false, None) => Fixed::Calibrated,
        };
        let (cpus, marks) = self.places(&mut load);
        let mut servers = Vec::new();
        for (side, command) in SIDES.iter().zip(commands) {
            let spawn = Spawn::parse(command).map_err(|_| {
                Failure::Usage(format!(
                    "command {side} `{command}` is no command: it is empty, or a quote is not closed"
                ))
            })?;
            servers.push(Spawn { cpus: cpus.clone(), ..spawn });
        }
        let [a, b]: [Spawn; 2] = servers.try_into().map_err(|_| usage(&"two servers are needed"))?;
        // As every run will be.
        let fixed_rate = if let Fixed::Rate(rate) = fixed { Some(rate) } else { None };
        let first = load.clone().with(|plan| {
            plan.target.spawn = Some(a.clone());
            plan.load.rate_per_s = fixed_rate;
        });
        first.check().map_err(|error| usage(&error))?;
        let sides = SIDES.map(|name| Side { name: name.to_owned(), ..Side::default() });
        Ok(Options { kind, servers: [a, b], sides, load, fixed, pairs, tag: self.tag.clone(), marks })
    }

    fn plan(&self, engine: EngineKind) -> Result<Plan, Failure> {
        let default = match self.plan.transport() {
            Transport::Wss => "wss://127.0.0.1:{port}/",
            Transport::Ws => "ws://127.0.0.1:{port}/",
            Transport::Tcp => "tcp://127.0.0.1:{port}",
        };
        let default = || default.parse::<Url>().map_err(|error| Failure::Usage(error.to_string()));
        let plan = self.plan.plan(self.url.clone().map_or_else(default, Ok)?, engine)?;
        let scenario = self.plan.load.scenario.clone().or_else(|| self.tag.clone());
        Ok(plan.with(|plan| plan.scenario = scenario.unwrap_or_else(|| "load".to_owned())))
    }

    /// The servers' processors, and what to say about them; gives the generator its own.
    fn places(&self, load: &mut Plan) -> (Vec<usize>, Vec<String>) {
        if let Some(list) = &self.spawn_cpus {
            return (list.0.clone(), Vec::new());
        }
        match Places::here() {
            Some(places) if load.placement.cpus.is_empty() && load.placement.threads == 1 => {
                load.placement.cpus = vec![places.client];
                (vec![places.server], places.mark.into_iter().collect())
            }
            _ => (Vec::new(), Vec::new()),
        }
    }

    /// The folder to store in, and to look for the machine's noise in.
    pub(super) fn results(&self) -> Option<&Path> {
        let default = Path::new(RESULTS);
        let folder = self.results.as_deref().or_else(|| default.is_dir().then_some(default));
        folder.filter(|_| !self.no_store)
    }

    pub(super) fn output(&self) -> Result<Option<Output>, Failure> {
        self.json.as_deref().map(open_output).transpose()
    }

    /// Returns true for a dry run, after printing what the session would measure.
    pub(super) fn is_only_checked(&self, options: &Options) -> bool {
        if self.dry_run && !self.quiet {
            announce(options);
        }
        self.dry_run
    }

    /// Makes a session; `terminal` shows each of its runs.
    pub(super) fn make(
        &self,
        options: &Options,
        machine: Machine,
        terminal: &mut Terminal,
    ) -> Result<Session, Failure> {
        if !self.quiet {
            announce(options);
        }
        let notes = terminal.notes();
        let mut notes = |line: &str| {
            if !self.quiet {
                notes(line);
            }
        };
        let made = duel::measure(options, machine, &execute, terminal, &mut notes);
        terminal.close();
        made.map_err(|error| match error {
            DuelError::Interrupted => Failure::Run(crate::run::RunError::Interrupted),
            error => Failure::Error(error.to_string()),
        })
    }

    /// Checks that the processors may be used and that the session can be stored, before anything
    /// is measured.
    pub(super) fn check(&self, machine: &Machine) -> Result<(), Failure> {
        check_own_cpus([
            ("--cpus", self.plan.placement.cpus.as_ref()),
            ("--spawn-cpus", self.spawn_cpus.as_ref()),
        ])?;
        self.results().map_or(Ok(()), |folder| Store::new(folder).check(&machine.id)).map_err(Failure::from)
    }
}

/// Prints what is measured and how long it takes.
fn announce(options: &Options) {
    let phases = match options.fixed {
        Fixed::Off => "saturated",
        Fixed::Rate(_) | Fixed::Calibrated => "saturated and at a fixed rate",
    };
    let cpus = |cpus: &[usize]| match cpus {
        [] => "no particular CPU".to_owned(),
        cpus => format!("CPU {}", cpus.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")),
    };
    say(&format!(
        "{}, each {phases}, a fresh server for every run: about {}",
        count(options.pairs.into(), "pair"),
        about(options.duration())
    ));
    let (servers, generator) = (cpus(&options.servers[0].cpus), cpus(&options.load.placement.cpus));
    say(&format!("servers on {servers}, generator on {generator}"));
    options.marks.iter().for_each(|mark| say(&format!("NOTE: {mark}")));
}
