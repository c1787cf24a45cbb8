//! The flags and the making of a session of pairs, for `duel` and `aa`.

use std::path::PathBuf;

use clap::Args;
use engine::{EngineChoice, EngineKind};

use super::cpus::{CpuList, check_own_cpus, cpu_list};
use super::judge::{JudgeArguments, Making};
use super::plan::PlanArguments;
use super::session::SessionArguments;
use super::{Failure, LOAD, SERVER};
use crate::experiment::{Arm, Experiment, SHARE_OF_CAPACITY, Scenario, Setup};
use crate::load::{Load, Transport};
use crate::result::Show;
use crate::run::Plan;
use crate::target::spawn::Spawn;
use crate::target::url::Url;

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

    #[command(flatten)]
    pub(super) session: SessionArguments,
}

impl PairsArguments {
    /// Returns the experiment that was typed: `arms` under a load that saturates (throughput,
    /// server CPU and memory are judged) and at a fixed rate (latencies).
    pub(super) fn experiment(
        &self,
        show: Show,
        arms: Vec<Arm>,
        pairs: u32,
    ) -> Result<(Experiment, Setup), Failure> {
        let usage = |error: &dyn std::fmt::Display| Failure::Usage(error.to_string());
        let (engine, why) =
            self.plan.placement.engine.resolve().map_err(|error| Failure::Run(error.into()))?;
        let mut plan = self.plan(engine)?;
        let rate = plan.load.rate_per_s.take();
        let mut name = plan.scenario.clone();
        if rate.is_some() && self.plan.load.has_scenarios_rate() {
            if self.saturation_only {
                return Err(Failure::Usage(format!(
                    "--saturation-only leaves nothing of scenario `{name}`, which is about a fixed rate: choose another"
                )));
            }
            // The saturating half is another load than the scenario.
            name.push_str("-saturated");
        }
        let saturating = Scenario::new(&name, plan.load.clone());
        let mut scenarios = vec![saturating];
        if !self.saturation_only {
            let load = Load { rate_per_s: rate, ..plan.load.clone() };
            let share_of_capacity = rate.is_none().then_some(SHARE_OF_CAPACITY);
            scenarios.push(Scenario { share_of_capacity, ..Scenario::new(format!("{name}-fixed"), load) });
        }
        let experiment = Experiment {
            name: if show == Show::Noise { "aa" } else { "duel" }.to_owned(),
            description: "two servers in interleaved pairs".to_owned(),
            arms,
            scenarios,
            rounds: pairs,
            show,
            try_echoes: false,
            spin: false,
            promises: Vec::new(),
        };
        let mut setup = Setup::new(PathBuf::new(), engine);
        if let Some(list) = &self.spawn_cpus {
            (setup.server_cpus, setup.marks) = (list.0.clone(), Vec::new());
        } else if plan.placement.cpus.is_empty() && plan.placement.threads == 1 {
            plan.placement.cpus = std::mem::take(&mut setup.plan.placement.cpus);
        } else {
            (setup.server_cpus, setup.marks) = (Vec::new(), Vec::new());
        }
        if self.plan.placement.engine == EngineChoice::Auto && engine == EngineKind::Epoll {
            setup.marks.push(format!("io_uring is not available, this ran on epoll. {why}"));
        }
        setup.tag.clone_from(&self.session.tag);
        (setup.plan, setup.has_url) = (plan, true);
        setup.check(&experiment.arms)?;
        // As the last run will be.
        let last = experiment.scenarios.last().into_iter().flat_map(|scenario| {
            experiment.arms.iter().map(|arm| setup.plan_of(scenario, arm, false, false))
        });
        for plan in last {
            plan.check().map_err(|error| usage(&error))?;
        }
        Ok((experiment, setup))
    }

    fn plan(&self, engine: EngineKind) -> Result<Plan, Failure> {
        let default = match self.plan.transport() {
            Transport::Wss => "wss://127.0.0.1:{port}/",
            Transport::Ws => "ws://127.0.0.1:{port}/",
            Transport::Tcp => "tcp://127.0.0.1:{port}",
        };
        let default = || default.parse::<Url>().map_err(|error| Failure::Usage(error.to_string()));
        let plan = self.plan.plan(self.url.clone().map_or_else(default, Ok)?, engine)?;
        let scenario = self.plan.load.scenario.clone().or_else(|| self.session.tag.clone());
        Ok(plan.with(|plan| plan.scenario = scenario.unwrap_or_else(|| "load".to_owned())))
    }

    /// Checks that the processors may be used, then carries the experiment out. Returns the exit
    /// code.
    pub(super) fn carry_out(
        &self,
        experiment: &Experiment,
        setup: &Setup,
        judge: &JudgeArguments,
        duel_pairs: u32,
    ) -> Result<u8, Failure> {
        check_own_cpus([
            ("--cpus", self.plan.placement.cpus.as_ref()),
            ("--spawn-cpus", self.spawn_cpus.as_ref()),
        ])?;
        let results = self.session.results(false);
        Making { experiment, setup, session: &self.session, results, judge, duel_pairs }.carry_out()
    }
}

/// Returns an arm of a server's command. `{port}` may be missing where the URL names a port.
pub(super) fn arm_of(name: &str, command: &str) -> Result<Arm, Failure> {
    let spawn = Spawn::parse(command).map_err(|_| {
        Failure::Usage(format!(
            "command {name} `{command}` is not valid: it is empty, or a quote is not closed"
        ))
    })?;
    Ok(Arm { command: Some(spawn.command), ..Arm::own(name) })
}
