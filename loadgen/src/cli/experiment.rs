//! `sparring-loadgen experiment`: servers x scenarios x rounds, from a file or by name.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use engine::socket::Congestion;
use engine::{EngineChoice, EngineKind};

use super::output::FormatArguments;
use super::session::{DUEL_PAIRS, ExperimentCommand, JudgeArguments, SessionArguments};
use super::{SERVER, resolve_engine, usage};
use crate::experiment::{self, Arm, Checkout, Experiment, Setup, counts, did_you_mean, named};
use crate::load::Catalogue;
use crate::load::value::time;
use crate::result::{Conformance, Presentation};

const EXPERIMENT: &str = "Experiment";

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen experiment quick
  sparring-loadgen experiment engines --rounds 2
  sparring-loadgen experiment arms --scenarios echo,pipeline \\
      --arm 'ours=sparring-server --listen 127.0.0.1:{port} --threads 1' \\
      --arm 'theirs=node server.js {port}'            any WebSocket echo servers
  sparring-loadgen experiment scripts/experiments/tls.toml
  sparring-loadgen experiment engines --resume bench-results/ID/FILE.json
  scripts/peers.sh                                    well-known servers, installed and set beside ours

Exit status: 0 fine; 1 error, a server that fails in every attempt, or an echo that was not what was sent; 2 wrong usage;
11 regressed; 12 inconclusive, with --fail-inconclusive; 13 the measurement is invalid; 130, 143, 129 ended by SIGINT (Ctrl-C),
SIGTERM, SIGHUP, with the result of what was measured.";

/// Returns the experiments that come with the program, and examples.
fn after_help() -> String {
    let line = |one: Experiment| format!("  {:<9} {}\n", one.name, one.description);
    let built_in: String = experiment::built_in().into_iter().map(line).collect();
    format!("Experiments that come with the program:\n{built_in}\n{EXAMPLES}")
}

#[derive(Debug, Args)]
#[command(after_help = after_help())]
pub(super) struct ExperimentArguments {
    /// The experiment: its name, or the path of a file (scripts/README.md has the format).
    #[arg(value_name = "NAME|FILE")]
    experiment: String,

    /// Rounds: runs of each arm in each scenario [default: the experiment's].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = EXPERIMENT)]
    rounds: Option<u32>,

    /// Scenarios, by their names and separated by commas [default: all of the experiment].
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = EXPERIMENT)]
    scenarios: Vec<String>,

    /// Measured time of each run [default: the experiment's].
    #[arg(short, long, value_name = "TIME", value_parser = time, help_heading = EXPERIMENT)]
    duration: Option<Duration>,

    /// Load before that which does not count [default: the experiment's].
    #[arg(short, long, value_name = "TIME", value_parser = time, help_heading = EXPERIMENT)]
    warmup: Option<Duration>,

    /// A file of further scenarios, which replace built-in ones of the same name.
    #[arg(long, value_name = "FILE", help_heading = EXPERIMENT)]
    catalogue: Option<PathBuf>,

    /// A further server: any command, {port} where its port goes. Repeatable; the first arm is the
    /// reference.
    #[arg(long = "arm", value_name = "NAME=COMMAND", help_heading = SERVER)]
    arms: Vec<Arm>,

    /// A server that cannot be had here, and why: the result names it. Repeatable.
    #[arg(long, value_name = "NAME=WHY", value_parser = Arm::absent, help_heading = SERVER)]
    absent: Vec<Arm>,

    /// The version of an arm's server, for the result. Repeatable.
    #[arg(long = "version-of", value_name = "NAME=VERSION", value_parser = named, help_heading = SERVER)]
    versions: Vec<(String, String)>,

    /// Counts of `sparring-loadgen conformance` for an arm, for the result:
    /// OK,LAX,WRONG,BROKEN,SKIPPED. Repeatable.
    #[arg(long, value_name = "NAME=COUNTS", value_parser = counts, help_heading = SERVER)]
    conformance: Vec<(String, Conformance)>,

    /// The executable of our server [default: sparring-server beside this program].
    #[arg(long, value_name = "PATH", help_heading = SERVER)]
    server: Option<PathBuf>,

    /// The commit our server was built from [default: what it says itself].
    #[arg(long, value_name = "HASH", help_heading = SERVER)]
    commit: Option<String>,

    /// The source had changes beside that commit.
    #[arg(long, requires = "commit", help_heading = SERVER)]
    dirty: bool,

    /// The engine of the generator, and of our server where neither arm nor scenario names one
    /// [default: uring, or epoll where io_uring is refused].
    #[arg(long, value_name = "uring|tokio-uring|epoll")]
    engine: Option<EngineKind>,

    /// Congestion control of both sides, one of net.ipv4.tcp_available_congestion_control [default:
    /// the kernel's].
    #[arg(long, value_name = "NAME")]
    congestion: Option<Congestion>,

    #[command(flatten)]
    judge: JudgeArguments,

    #[command(flatten)]
    session: SessionArguments,

    #[command(flatten)]
    format: FormatArguments,
}

impl ExperimentArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let (experiment, setup) = (&self.experiment()?, &self.setup()?);
        setup.check(&experiment.arms)?;
        let (session, judge, format) = (&self.session, &self.judge, self.format);
        let (results, duel_pairs) = (session.results(true), DUEL_PAIRS);
        ExperimentCommand { experiment, setup, session, results, judge, format, duel_pairs }
            .carry_out()
    }

    /// Returns the experiment after the changes of the flags.
    fn experiment(&self) -> anyhow::Result<Experiment> {
        let catalogue = Catalogue::with(self.catalogue.as_deref());
        let catalogue = catalogue.map_err(|error| usage(format!("--catalogue: {error:#}")))?;
        let mut experiment = Experiment::read(&self.experiment, &catalogue)
            .map_err(|error| usage(format!("{error:#}")))?;
        experiment.arms.extend(self.arms.iter().chain(&self.absent).cloned());
        if experiment.arms.len() > 1 && experiment.show == Presentation::Correctness {
            let name = &experiment.name;
            return Err(usage(format!("--arm: `{name}` has one server: `arms` takes several")));
        }
        if experiment.arms.len() > 1 && experiment.show.is_of_our_server() {
            experiment.show = Presentation::Arms;
        }
        self.add_facts(&mut experiment.arms)?;
        if experiment.arms.iter().filter(|arm| arm.absent.is_none()).count()
            < experiment.needed_arms()
        {
            return Err(usage("--arm: at least two arms can be compared"));
        }
        self.choose_scenarios(&mut experiment)?;
        experiment.rounds = self.rounds.unwrap_or(experiment.rounds);
        experiment.set_times(self.warmup, self.duration);
        if self.duration.is_some_and(|duration| duration.is_zero()) {
            return Err(usage("--duration must be longer than zero"));
        }
        experiment.check().map_err(|fault| usage(format!("--arm: {fault}")))?;
        match self.judge.first_flag() {
            Some(flag) if experiment.show != Presentation::Verdict => Err(usage(format!(
                "{flag}: `{}` has no verdict: expected an experiment with show = \"verdict\"",
                experiment.name
            ))),
            _ => Ok(experiment),
        }
    }

    /// Adds versions and counts to the arms that they name.
    fn add_facts(&self, arms: &mut [Arm]) -> anyhow::Result<()> {
        let find = |arms: &mut [Arm], flag: &str, name: &str| {
            let at = arms.iter().position(|arm| arm.name == name);
            at.ok_or_else(|| usage(format!("{flag}: no arm has the name `{name}`")))
        };
        for (name, version) in &self.versions {
            let at = find(arms, "--version-of", name)?;
            arms[at].version = Some(version.clone()).filter(|version| !version.is_empty());
        }
        for (name, counts) in &self.conformance {
            let at = find(arms, "--conformance", name)?;
            arms[at].conformance = Some(*counts);
        }
        Ok(())
    }

    /// Keeps the scenarios that were asked for and that enough arms take, in the usual order.
    fn choose_scenarios(&self, experiment: &mut Experiment) -> anyhow::Result<()> {
        let needed = experiment.needed_arms();
        let Experiment { arms, scenarios, promises, .. } = experiment;
        scenarios
            .retain(|scenario| arms.iter().filter(|arm| arm.takes(scenario)).count() >= needed);
        let names: Vec<String> = scenarios.iter().map(experiment::Scenario::full_name).collect();
        if let Some(unknown) = self.scenarios.iter().find(|name| !names.contains(name)) {
            let hint = did_you_mean(unknown, names.iter().map(String::as_str));
            return Err(usage(format!(
                "--scenarios: `{unknown}` is not a scenario of these arms{hint}: expected some of {}",
                names.join(", ")
            )));
        }
        if !self.scenarios.is_empty() {
            scenarios.retain(|scenario| self.scenarios.contains(&scenario.full_name()));
        }
        let is_left = |name: Option<&str>| {
            name.is_none_or(|name| scenarios.iter().any(|scenario| scenario.full_name() == name))
        };
        promises.retain(|promise| promise.scenarios().into_iter().all(is_left));
        Ok(())
    }

    fn setup(&self) -> anyhow::Result<Setup> {
        let (engine, mark) =
            resolve_engine(self.engine.map_or(EngineChoice::Auto, EngineChoice::Named))?;
        let server = match &self.server {
            Some(server) => server.clone(),
            None => std::env::current_exe().context("--server")?.with_file_name("sparring-server"),
        };
        let mut setup = Setup::new(server, engine);
        setup.plan.placement.congestion.clone_from(&self.congestion);
        setup.checkout = self.commit.clone().map(|commit| Checkout { commit, dirty: self.dirty });
        setup.tag.clone_from(&self.session.tag);
        setup.marks.extend(mark);
        Ok(setup)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Arguments, Command};
    use super::*;

    fn arguments(arguments: &[&str]) -> Result<Box<ExperimentArguments>, String> {
        let words = ["sparring-loadgen", "experiment"].iter().chain(arguments);
        let parsed = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
        let Some(Command::Experiment(experiment)) = parsed.command else {
            return Err("another".to_owned());
        };
        Ok(experiment)
    }

    fn experiment(words: &[&str]) -> Result<Experiment, String> {
        arguments(words)?.experiment().map_err(|error| error.to_string())
    }

    fn names(experiment: &Experiment) -> (Vec<String>, Vec<String>) {
        let arms = experiment.arms.iter().map(|arm| arm.name.clone()).collect();
        (arms, experiment.scenarios.iter().map(|scenario| scenario.name.clone()).collect())
    }

    #[test]
    fn every_flag_changes_the_experiment() {
        let words = [
            "engines",
            "--rounds=2",
            "--scenarios=pipeline,echo",
            "--arm=theirs=node {port}",
            "-d=2s",
            "-w=0",
        ];
        let changed = experiment(&words).expect("flags");
        let (arms, scenarios) = names(&changed);
        assert_eq!(arms.last().map(String::as_str), Some("theirs"));
        assert_eq!(scenarios, ["echo", "pipeline"]);
        let load = &changed.scenarios[0].load;
        assert_eq!((changed.rounds, load.measure.as_secs(), load.warmup), (2, 2, Duration::ZERO));
        assert!(changed.promises.iter().all(|promise| scenarios.contains(&promise.scenario)));
        assert_eq!(changed.promises.len(), 4);
        let setup = arguments(&["quick", "--engine=epoll", "--congestion=reno", "--tag=t"]);
        let setup = setup.expect("flags").setup().expect("a setup");
        assert_eq!((setup.server_engine, setup.tag.as_deref()), (EngineKind::Epoll, Some("t")));
        assert_eq!(
            setup.plan.placement.congestion.map(|name| name.to_string()).as_deref(),
            Some("reno")
        );
    }

    #[test]
    fn the_former_name_of_the_command_works() {
        let parsed =
            Arguments::try_parse_from(["sparring-loadgen", "suite", "quick"]).expect("parsed");
        assert!(matches!(parsed.command, Some(Command::Experiment(_))));
    }

    #[test]
    fn other_peoples_servers_are_not_asked_for_raw_bytes() {
        let two = ["--arm=a=x {port}", "--arm=b=y {port}"];
        let arms = experiment(&[&["arms"], &two[..]].concat()).expect("two arms");
        assert!(names(&arms).1.iter().all(|name| !name.starts_with("tcp")));
        let error =
            experiment(&["arms", two[0], two[1], "--scenarios=tcp"]).expect_err("raw bytes");
        assert!(error.contains("`tcp`") && error.contains("pipeline"), "{error}");
    }

    #[test]
    fn facts_about_peers_reach_their_arms() {
        let peers = experiment(&[
            "peers",
            "--arm=ours=x {port}",
            "--arm=ws=y {port}",
            "--absent=bun=npm is not installed",
            "--version-of=ws=8.23.0",
            "--conformance=ws=259,53,14,0,26",
        ])
        .expect("peers");
        assert_eq!(names(&peers).0, ["ours", "ws", "bun"]);
        let ws = &peers.arms[1];
        assert_eq!(
            (ws.version.as_deref(), ws.conformance.map(|c| c.wrong)),
            (Some("8.23.0"), Some(14))
        );
    }

    #[test]
    fn an_arm_beside_our_server_makes_a_comparison() {
        let both = experiment(&["quick", "--arm=theirs=x {port}"]).expect("two arms");
        assert_eq!(
            (both.show, names(&both).0),
            (Presentation::Arms, vec!["A".to_owned(), "theirs".to_owned()])
        );
    }

    #[test]
    fn unusable_flags_are_named() {
        for (words, named) in [
            (&["engines", "--rounds=0"][..], "--rounds"),
            (&["engines", "--scenarios=ecko"], "did you mean `echo`"),
            (&["engines", "--arm=x"], "NAME=COMMAND"),
            (&["engines", "--arm=epoll=x {port}"], "`epoll`"),
            (&["engines", "-d=0"], "--duration"),
            (&["arms"], "--arm"),
            (&["arms", "--arm=one=x {port}"], "two arms"),
            (&["peers", "--arm=one=x {port}", "--absent=two=gone"], "two arms"),
            (&["peers", "--arm=a=x {port}", "--arm=b=x {port}", "--version-of=c=1"], "`c`"),
            (&["peers", "--arm=a=x {port}", "--arm=b=x {port}", "--conformance=a=1,2"], "SKIPPED"),
            (
                &["peers", "--arm=a=x {port}", "--arm=b=x {port}", "--scenarios=rate-1x1"],
                "rate-20k",
            ),
            (&["quik"], "did you mean `quick`"),
            (&["quick", "--threshold=p99=1%"], "--threshold"),
            (&["smoke", "--arm=a=x {port}"], "`arms`"),
            (&["quick", "--catalogue=/no/such"], "--catalogue"),
        ] {
            let error = experiment(words).expect_err(named);
            assert!(error.contains(named), "{words:?}: {error}");
        }
    }
}
