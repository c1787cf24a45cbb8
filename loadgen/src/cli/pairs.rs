//! `sparring-loadgen duel` and `aa`: two servers, or one against itself, in interleaved pairs.

use std::path::PathBuf;

use clap::Args;
use engine::EngineKind;

use super::cpus::{CpuList, check_own_cpus, cpu_list};
use super::output::FormatArguments;
use super::plan::PlanArguments;
use super::session::{DUEL_PAIRS, ExperimentCommand, JudgeArguments, SessionArguments};
use super::{LOAD, SERVER, resolve_engine, usage};
use crate::experiment::{Arm, Experiment, SHARE_OF_CAPACITY, Scenario, Setup, arm_name, url};
use crate::load::Load;
use crate::result::{Presentation, SIDES};
use crate::run::Plan;
use crate::target::spawn::{Role, Spawn};
use crate::target::subject::is_commit;
use crate::target::url::Url;

const DUEL_EXAMPLES: &str = "\
Examples:
  sparring-loadgen duel 'old/sparring-server --listen 127.0.0.1:{port}' \\
                        'new/sparring-server --listen 127.0.0.1:{port}'
  sparring-loadgen duel 'node a.js {port}' 'node b.js {port}' --name-a ws-8.17 --name-b ws-8.18 --scenario pipeline
  sparring-loadgen duel 'a {port}' 'b {port}' -R 50k --pairs 20 --confirm
  sparring-loadgen duel 'a {port}' --via 'python3 relay.py {port} {server}' --threshold p50=50%

Every run has a freshly started server; the order is A B, B A, A B, ...; each pair runs saturated (throughput, server CPU
and memory are judged) and at a fixed rate (p50 and p99): at -R, or at half of what A does in a short run. For each metric:
the ratio B / A (Hodges-Lehmann) with its 95 % interval, and an exact signed-rank test, corrected for the number of
metrics (Holm). improved, regressed: certain, and beyond the threshold. unchanged: the whole interval within it.
Threshold: 2 % (p99 and memory 5 %), or twice the machine's noise where `aa` has recorded it. Ctrl-C gives the verdict
so far.

With --via one server is compared with itself behind a proxy: side A is direct, side B proxied. A table has the latency that
the proxy adds, and the CPU time of server and proxy apart. That is mostly a regression (11): --threshold says how much may be added.

A run that failed, is invalid or was disturbed is repeated, then its pair is replaced, then named; what was measured is
stored whatever happens. A server that fails in every attempt ends the duel.

Exit status: 0 not regressed; 1 error, a server that fails in every attempt, or an echo that was not what was sent; 2 wrong
usage; 11 regressed; 12 inconclusive, with --fail-inconclusive; 13 the measurement is invalid; 130, 143, 129 ended by SIGINT
(Ctrl-C), SIGTERM, SIGHUP.";

const AA_EXAMPLES: &str = "\
Examples:
  sparring-loadgen aa 'target/release/sparring-server --listen 127.0.0.1:{port}' --scenario echo -d 3s -w 1s

Run it when the machine is as quiet as it will be when servers are compared, once for each load that is compared. The noise
is the 95th percentile of the absolute estimate of duels between identical servers, drawn from the recorded pairs; `duel`
then takes twice of it as threshold wherever that is more than the default.

Exit status: 0 recorded; 1 error, a server that fails in every attempt, or an echo that was not what was sent; 2 wrong usage;
13 too few valid pairs; 130, 143, 129 ended by SIGINT (Ctrl-C), SIGTERM, SIGHUP, with what was recorded.";

/// A verdict needs at least 8 pairs. The commands are split as a shell would but run without one.
#[derive(Debug, Args)]
#[command(after_help = DUEL_EXAMPLES)]
pub(super) struct DuelArguments {
    /// The server to compare with; {port} becomes a free port.
    #[arg(value_name = "COMMAND A")]
    a: String,

    /// The server in question.
    #[arg(value_name = "COMMAND B", required_unless_present = "via", conflicts_with = "via")]
    b: Option<String>,

    /// Compare server A, direct, with itself behind this proxy: {port} is the proxy's port,
    /// {server} HOST:PORT of the server, which has a {port} of its own.
    #[arg(long, value_name = "COMMAND", help_heading = SERVER)]
    via: Option<String>,

    /// Processors to confine the proxy to [default: those of the servers].
    #[arg(long, value_name = "LIST", value_parser = cpu_list, help_heading = SERVER)]
    via_cpus: Option<CpuList>,

    #[command(flatten)]
    sides: SideArguments,

    /// Pairs of runs.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pairs: u32,

    #[command(flatten)]
    judge: JudgeArguments,

    #[command(flatten)]
    pairs_arguments: PairsArguments,

    #[command(flatten)]
    format: FormatArguments,
}

/// Names of the sides, and what is known of their servers.
#[derive(Debug, Args)]
struct SideArguments {
    /// A name for side A in tables, pages and results [default: A, or direct with --via].
    #[arg(long, value_name = "NAME", value_parser = arm_name, help_heading = SERVER)]
    name_a: Option<String>,

    /// A name for side B [default: B, or proxied with --via].
    #[arg(long, value_name = "NAME", value_parser = arm_name, help_heading = SERVER)]
    name_b: Option<String>,

    /// The version of the server of side A, for the result.
    #[arg(long, value_name = "VERSION", help_heading = SERVER)]
    version_a: Option<String>,

    /// The version of the server of side B.
    #[arg(long, value_name = "VERSION", help_heading = SERVER)]
    version_b: Option<String>,

    /// The commit that the server of side A was built from [default: what our own server says].
    #[arg(long, value_name = "HASH", value_parser = commit, help_heading = SERVER)]
    commit_a: Option<String>,

    /// The commit that the server of side B was built from.
    #[arg(long, value_name = "HASH", value_parser = commit, help_heading = SERVER)]
    commit_b: Option<String>,
}

/// Records pairs of one server against itself.
#[derive(Debug, Args)]
#[command(after_help = AA_EXAMPLES)]
pub(super) struct AaArguments {
    /// The server; {port} becomes a free port.
    #[arg(value_name = "COMMAND")]
    command: String,

    /// Pairs to record.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(8..=1000))]
    pairs: u32,

    /// Pairs of the duels whose noise is shown.
    #[arg(long, value_name = "N", default_value_t = DUEL_PAIRS, value_parser = clap::value_parser!(u32).range(8..=1000))]
    duel_pairs: u32,

    #[command(flatten)]
    pairs_arguments: PairsArguments,

    #[command(flatten)]
    format: FormatArguments,
}

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
    plan: PlanArguments,

    #[command(flatten)]
    pub(super) session: SessionArguments,
}

/// Checks the hash of a commit.
pub(super) fn commit(text: &str) -> Result<String, String> {
    match is_commit(text) {
        true => Ok(text.to_owned()),
        false => {
            Err(format!("`{text}` is not a valid commit: expected 7 to 64 hexadecimal digits"))
        }
    }
}

impl SideArguments {
    /// Returns both arms. `names` are those that are not given.
    fn arms(&self, names: [&str; 2], commands: [&str; 2]) -> anyhow::Result<Vec<Arm>> {
        let [name_a, name_b] = [(&self.name_a, names[0]), (&self.name_b, names[1])]
            .map(|(given, usual)| given.as_deref().unwrap_or(usual));
        if name_a == name_b {
            return Err(usage(format!("--name-a and --name-b are both `{name_a}`: give two")));
        }
        let (a, b) = (arm_of(name_a, commands[0])?, arm_of(name_b, commands[1])?);
        Ok(vec![
            Arm { version: self.version_a.clone(), commit: self.commit_a.clone(), ..a },
            Arm { version: self.version_b.clone(), commit: self.commit_b.clone(), ..b },
        ])
    }

    /// Returns a tag of the names of both sides, where one is given.
    fn tag(&self, arms: &[Arm]) -> Option<String> {
        let is_default = self.name_a.is_none() && self.name_b.is_none();
        let [a, b] = arms else { return None };
        (!is_default).then(|| format!("{}-against-{}", b.name, a.name))
    }
}

impl DuelArguments {
    fn experiment(&self) -> anyhow::Result<(Experiment, Setup)> {
        let mut arms = match (&self.b, &self.via) {
            (Some(b), _) => self.sides.arms(SIDES, [&self.a, b])?,
            (None, _) => self.sides.arms(["direct", "proxied"], [&self.a, &self.a])?,
        };
        // With two commands clap takes a requirement that conflicts with the second for met.
        if self.via_cpus.is_some() && self.via.is_none() {
            return Err(usage("--via-cpus needs --via: there is no proxy otherwise"));
        }
        if let Some(command) = &self.via {
            arms[1].via = Some(Spawn::parse(Role::Proxy, command).map_err(usage)?.command);
        }
        let tag = self.sides.tag(&arms);
        let (experiment, mut setup) =
            self.pairs_arguments.experiment("duel", Presentation::Verdict, arms, self.pairs)?;
        setup.proxy_cpus = self.via_cpus.clone().map(|list| list.0).unwrap_or_default();
        setup.tag = setup.tag.or(tag);
        Ok((experiment, setup))
    }

    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let (experiment, setup) = self.experiment()?;
        let pairs = &self.pairs_arguments;
        pairs.command(&experiment, &setup, &self.judge, self.format, DUEL_PAIRS)?.carry_out()
    }
}

impl AaArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let arms = vec![arm_of(SIDES[0], &self.command)?, arm_of(SIDES[1], &self.command)?];
        let (experiment, setup) =
            self.pairs_arguments.experiment("aa", Presentation::Noise, arms, self.pairs)?;
        let (judge, pairs) = (JudgeArguments::default(), &self.pairs_arguments);
        pairs.command(&experiment, &setup, &judge, self.format, self.duel_pairs)?.carry_out()
    }
}

impl PairsArguments {
    /// Returns the experiment that was typed: `arms` under a load that saturates (throughput,
    /// server CPU and memory are judged) and at a fixed rate (latencies).
    pub(super) fn experiment(
        &self,
        name: &str,
        show: Presentation,
        arms: Vec<Arm>,
        pairs: u32,
    ) -> anyhow::Result<(Experiment, Setup)> {
        let (engine, mark) = resolve_engine(self.plan.placement.engine)?;
        let mut plan = self.plan(engine)?;
        let experiment = Experiment {
            name: name.to_owned(),
            description: "two servers in interleaved pairs".to_owned(),
            arms,
            scenarios: self.scenarios(&plan)?,
            rounds: pairs,
            show,
            ..Experiment::default()
        };
        plan.load.rate_per_s = None;
        let mut setup = Setup::new(PathBuf::new(), engine);
        if let Some(list) = &self.spawn_cpus {
            (setup.server_cpus, setup.marks) = (list.0.clone(), Vec::new());
        } else if plan.placement.cpus.is_empty() && plan.placement.threads == 1 {
            plan.placement.cpus = std::mem::take(&mut setup.plan.placement.cpus);
        } else {
            (setup.server_cpus, setup.marks) = (Vec::new(), Vec::new());
        }
        setup.marks.extend(mark);
        setup.tag.clone_from(&self.session.tag);
        (setup.plan, setup.has_url) = (plan, true);
        setup.check(&experiment.arms)?;
        // As the last run will be.
        if let Some(scenario) = experiment.scenarios.last() {
            let mut plans =
                experiment.arms.iter().map(|arm| setup.plan_of(scenario, arm, false, false));
            plans.try_for_each(|plan| plan.check())?;
        }
        Ok((experiment, setup))
    }

    /// Returns the load of `plan` under saturation, and the same at a fixed rate.
    fn scenarios(&self, plan: &Plan) -> anyhow::Result<Vec<Scenario>> {
        if let Some(stages) = &plan.load.stages {
            return Err(usage(format!(
                "--stages {stages}: pairs compare loads of one rate, for example -R 50k"
            )));
        }
        let (mut name, rate) = (plan.scenario.clone(), plan.load.rate_per_s);
        if rate.is_some() && self.plan.load.has_scenarios_rate() {
            if self.saturation_only {
                return Err(usage(format!(
                    "--saturation-only leaves nothing of scenario `{name}`, which is about a fixed rate: choose another"
                )));
            }
            // The saturating half is another load than the scenario.
            name.push_str("-saturated");
        }
        let mut scenarios =
            vec![Scenario::new(&name, Load { rate_per_s: None, ..plan.load.clone() })];
        if !self.saturation_only {
            let share_of_capacity = rate.is_none().then_some(SHARE_OF_CAPACITY);
            let fixed = Scenario::new(format!("{name}-fixed"), plan.load.clone());
            scenarios.push(Scenario { share_of_capacity, ..fixed });
        }
        Ok(scenarios)
    }

    fn plan(&self, engine: EngineKind) -> anyhow::Result<Plan> {
        let url = self.url.clone().unwrap_or_else(|| url(self.plan.load.load.transport));
        let plan = self.plan.plan(url, engine)?;
        let scenario = self.plan.load.scenario.clone().or_else(|| self.session.tag.clone());
        Ok(plan.with(|plan| plan.scenario = scenario.unwrap_or_else(|| "load".to_owned())))
    }

    /// Returns the command that carries the experiment out. Fails if the processors may not be
    /// used.
    pub(super) fn command<'a>(
        &'a self,
        experiment: &'a Experiment,
        setup: &'a Setup,
        judge: &'a JudgeArguments,
        format: FormatArguments,
        duel_pairs: u32,
    ) -> anyhow::Result<ExperimentCommand<'a>> {
        let via_cpus = CpuList(setup.proxy_cpus.clone());
        let via_cpus = (!via_cpus.0.is_empty()).then_some(&via_cpus);
        check_own_cpus(self.plan.placement.cpus.as_ref(), self.spawn_cpus.as_ref(), via_cpus)?;
        let (session, results) = (&self.session, self.session.results(false));
        let command =
            ExperimentCommand { experiment, setup, session, results, judge, format, duel_pairs };
        Ok(command)
    }
}

/// Returns an arm of a server's command. `{port}` may be missing where the URL names a port.
pub(super) fn arm_of(name: &str, command: &str) -> anyhow::Result<Arm> {
    let invalid = |_| {
        usage(format!(
            "command {name} `{command}` is not valid: it is empty, or a quote is not closed"
        ))
    };
    let command = Some(Spawn::parse(Role::Server, command).map_err(invalid)?.command);
    Ok(Arm { command, ..Arm::own(name) })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Arguments, Command};
    use super::*;
    use crate::load::Payload;

    fn typed(more: &[&str]) -> Result<DuelArguments, String> {
        of_words(&[&["a {port}", "b {port}"], more].concat())
    }

    fn of_words(words: &[&str]) -> Result<DuelArguments, String> {
        let words = ["sparring-loadgen", "duel"].iter().chain(words);
        let parsed = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
        match parsed.command {
            Some(Command::Duel(duel)) => Ok(*duel),
            _ => Err("not duel".to_owned()),
        }
    }

    fn experiment(more: &[&str]) -> Result<(Experiment, Setup), String> {
        typed(more)?.experiment().map_err(|error| error.to_string())
    }

    #[test]
    fn flags_reach_the_session() {
        let (plain, _) = experiment(&[]).expect("two commands are enough");
        assert_eq!((plain.rounds, plain.scenarios[0].load.connections), (10, 64));
        assert_eq!(plain.scenarios[1].share_of_capacity, Some(0.5));
        assert_eq!(plain.arms[1].command.as_ref().expect("a command"), &["b", "{port}"]);
        let words = ["--pairs", "8", "-R", "5k", "-c", "9", "--spawn-cpus", "0", "--tag", "x"];
        let (duel, setup) = experiment(&words).expect("flags");
        assert_eq!((duel.rounds, duel.scenarios[0].load.connections), (8, 9));
        let rates: Vec<_> =
            duel.scenarios.iter().map(|scenario| scenario.load.rate_per_s).collect();
        assert_eq!((rates, setup.server_cpus), (vec![None, Some(5000.0)], vec![0]));
        assert_eq!((duel.scenarios[1].name.as_str(), setup.tag.as_deref()), ("x-fixed", Some("x")));
    }

    #[test]
    fn arms_have_names_versions_and_commits() {
        let words = [
            "--name-a",
            "ws-8.17",
            "--name-b=ws-8.18",
            "--version-b",
            "8.18.0",
            "--commit-a",
            "0123456789ab",
        ];
        let (duel, setup) = experiment(&words).expect("two names");
        let [a, b] = &duel.arms[..] else { panic!("{:?}", duel.arms) };
        assert_eq!((a.name.as_str(), b.name.as_str()), ("ws-8.17", "ws-8.18"));
        assert_eq!(
            (b.version.as_deref(), a.commit.as_deref()),
            (Some("8.18.0"), Some("0123456789ab"))
        );
        assert_eq!(setup.tag.as_deref(), Some("ws-8.18-against-ws-8.17"));
        let same = experiment(&["--name-a", "x", "--name-b", "x"]);
        assert!(same.is_err_and(|error| error.contains("both `x`")));
        assert!(typed(&["--name-a", "a b"]).is_err() && typed(&["--commit-b", "main"]).is_err());
    }

    #[test]
    fn one_server_is_compared_with_itself_behind_a_proxy() {
        let experiment =
            |words: &[&str]| of_words(words)?.experiment().map_err(|error| error.to_string());
        let via = ["a {port}", "--via", "relay -l {port} {server}"];
        let (duel, setup) = experiment(&via).expect("a server and a proxy");
        let [direct, proxied] = &duel.arms[..] else { panic!("{:?}", duel.arms) };
        assert_eq!((direct.name.as_str(), proxied.name.as_str()), ("direct", "proxied"));
        assert_eq!((&direct.command, &direct.via, &setup.tag), (&proxied.command, &None, &None));
        let plan = setup.plan_of(&duel.scenarios[0], proxied, false, false);
        assert_eq!(
            plan.target.via.expect("a proxy").command,
            ["relay", "-l", "{port}", "{server}"]
        );
        for (words, named) in [
            (&["a {port}"][..], "COMMAND B"),
            (&["a {port}", "b {port}", "--via", "relay {port} {server}"], "--via"),
            (&["a 9001", "--via", "relay {port} {server}", "--url", "ws://h:1/"], "{port}"),
            (&["a {port}", "--via", "relay {port}"], "{server}"),
            (&["a {port}", "b {port}", "--via-cpus", "0"], "--via"),
        ] {
            let error = experiment(words).expect_err(named);
            assert!(error.contains(named), "{words:?}: {error}");
        }
    }

    #[test]
    fn metrics_to_judge_are_named() {
        assert!(typed(&["--only", "server-cpu", "--only", "p99"]).is_ok());
        assert!(
            typed(&["--only", "speed"]).is_err_and(|error| error.contains("one of throughput"))
        );
    }

    #[test]
    fn a_scenario_is_a_load_by_name() {
        let (duel, _) = experiment(&["--scenario", "text", "--saturation-only"]).expect("known");
        let [text] = &duel.scenarios[..] else { panic!("{:?}", duel.scenarios) };
        assert_eq!(
            (&text.load.message_bytes, text.load.payload),
            (&1024.into(), Payload::TextMixed)
        );
        assert_eq!(text.name, "text");
        let (tcp, _) = experiment(&["--scenario", "tcp"]).expect("known");
        assert_eq!(tcp.scenarios[0].load.message_bytes, 38.into());
    }

    #[test]
    fn unusable_flags_are_named() {
        for (flags, named) in [
            (&["--scenario", "fast"][..], "`fast` is unknown"),
            (&["--pairs", "0"], "--pairs"),
            (&["-R", "5k", "--saturation-only"], "--saturation-only"),
            (&["--threshold", "speed=3%"], "throughput"),
            (&["--threshold", "p99"], "METRIC=PERCENT"),
            (&["--threshold", "p99=-1%"], "above 0"),
            (&["-c", "0"], "-c"),
        ] {
            let error = experiment(flags).expect_err(named);
            assert!(error.contains(named), "{flags:?}: {error}");
        }
    }
}
