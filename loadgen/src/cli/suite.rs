//! `sparring-loadgen suite`: a whole session of scenarios, against our own server or several servers side by side.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use engine::EngineKind;
use engine::socket::Congestion;

use crate::compare::sessions::last_change;
use crate::experiment;
use crate::host::machine::Machine;
use crate::report::{Blocks, text};
use crate::result::{Conformance, Document, Store};
use crate::run::{Progress, RunError};
use crate::suite::{
    self, Arm, ArmError, Checkout, Options, Outcome, Setup, Spec, Suite, SuiteError, interleaved,
};

use super::keep::{keep, no_fault};
use super::output::FormatArguments;
use super::terminal::Terminal;
use super::{EXIT_STATUS, Failure, catch_signals, print_line, start_log};
use crate::load::value::time;

const SIDE_BY_SIDE: &str = "Side by side (engines, arms, peers)";

/// Times of a run in an interleaved session: short, because more rounds tell more than longer runs.
const WARMUP: Duration = Duration::from_millis(300);
const MEASURE: Duration = Duration::from_millis(1200);

const SUITE_EXAMPLES: &str = "\
Examples:
  sparring-loadgen suite quick                            our server, the main scenarios once
  sparring-loadgen suite engines --rounds 2               our server on each engine, side by side
  sparring-loadgen suite arms --scenarios echo,pipeline \\
      --arm 'ours=sparring-server --listen 127.0.0.1:{port} --threads 1' \\
      --arm 'theirs=node server.js {port}'                any WebSocket echo servers
  scripts/peers.sh                                        well-known servers, installed and set beside ours

";

#[derive(Debug, Args)]
#[command(after_help = format!("{SUITE_EXAMPLES}{EXIT_STATUS}"))]
pub(super) struct SuiteArguments {
    /// The suite: smoke takes seconds, quick about a minute, the others say beforehand.
    #[arg(value_enum)]
    suite: SuiteName,

    /// The executable of our server [default: sparring-server beside this program].
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,

    /// The folder of results.
    #[arg(long, value_name = "DIR", default_value = "bench-results")]
    results: PathBuf,

    /// The commit our server was built from [default: what it says itself].
    #[arg(long, value_name = "HASH")]
    commit: Option<String>,

    /// The source had changes beside that commit.
    #[arg(long, requires = "commit")]
    dirty: bool,

    /// A name for the session.
    #[arg(long, value_name = "NAME")]
    tag: Option<String>,

    /// The engine of both sides, but for scenarios about an engine; side by side, of the generator alone [default: uring,
    /// or epoll where io_uring is refused].
    #[arg(long, value_name = "uring|tokio-uring|epoll")]
    engine: Option<EngineKind>,

    /// Congestion control of both sides, one of net.ipv4.tcp_available_congestion_control [default: the kernel's].
    #[arg(long, value_name = "NAME")]
    congestion: Option<Congestion>,

    /// Rounds: runs of each arm in each scenario [default: 10].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000), help_heading = SIDE_BY_SIDE)]
    rounds: Option<u32>,

    /// Which scenarios, by their names and separated by commas [default: all].
    #[arg(long, value_name = "NAMES", value_delimiter = ',', help_heading = SIDE_BY_SIDE)]
    scenarios: Vec<String>,

    /// A server that takes part: any command, {port} where its port goes. Repeatable; the first arm is the reference.
    #[arg(long = "arm", value_name = "NAME=COMMAND", help_heading = SIDE_BY_SIDE)]
    arms: Vec<Arm>,

    /// A server that cannot be had here, and why: the result names it. Repeatable.
    #[arg(long, value_name = "NAME=WHY", value_parser = Arm::absent, help_heading = SIDE_BY_SIDE)]
    absent: Vec<Arm>,

    /// The version of an arm's server, for the result. Repeatable.
    #[arg(long = "version-of", value_name = "NAME=VERSION", value_parser = version_of, help_heading = SIDE_BY_SIDE)]
    versions: Vec<(String, String)>,

    /// Counts of `sparring-loadgen conformance` for an arm, for the result: OK,LAX,WRONG,BROKEN,SKIPPED.
    /// Repeatable.
    #[arg(long, value_name = "NAME=COUNTS", value_parser = suite::counts, help_heading = SIDE_BY_SIDE)]
    conformance: Vec<(String, Conformance)>,

    /// Measured time of each run [default: 1200ms].
    #[arg(short, long, value_name = "TIME", value_parser = time, help_heading = SIDE_BY_SIDE)]
    duration: Option<Duration>,

    /// Load before that which does not count [default: 300ms].
    #[arg(short, long, value_name = "TIME", value_parser = time, help_heading = SIDE_BY_SIDE)]
    warmup: Option<Duration>,

    /// No progress.
    #[arg(short, long)]
    quiet: bool,

    #[command(flatten)]
    format: FormatArguments,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum SuiteName {
    /// Our server, the main scenarios once.
    Quick,
    /// Our server, all scenarios three times.
    Full,
    /// Our server, the main scenarios for a blink: correctness alone.
    Smoke,
    /// Our server on each engine side by side, in interleaved rounds, and every --arm.
    Engines,
    /// Every --arm side by side, in interleaved rounds.
    Arms,
    /// Every --arm side by side in the scenarios of scripts/peers.sh, with a table for each and one over all.
    Peers,
}

fn version_of(text: &str) -> Result<(String, String), ArmError> {
    suite::named(text).map(|(name, version)| (name, version.to_owned()))
}

impl SuiteArguments {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        let session = self.session()?;
        start_log();
        session.check()?;
        let machine = Machine::here();
        let store = Store::new(&self.results);
        store.check(&machine.id)?;
        let mut view = Terminal::new(catch_signals()?, self.quiet);
        let measured = session.measure(machine, &mut view);
        view.close();
        let measured = measured?;
        let document = &measured.document;
        let text = text::session(document, None).render(self.format.format());
        keep(document, Some(&self.results), None, &text, false)?;
        if matches!(session, Session::Own(_)) {
            print_line("")?;
            self.format.print(&change(&store, document)?, false)?;
        }
        let outcome = Outcome::of(&measured);
        if matches!(self.suite, SuiteName::Smoke) && outcome == Outcome::Failed {
            for complaint in suite::complaints(document) {
                print_line(&format!("FAILED {complaint}"))?;
            }
        }
        no_fault(measured.fault)?;
        Ok(outcome.exit_code())
    }

    fn session(&self) -> Result<Session, Failure> {
        let own = |suite| self.refuse_side_by_side().and_then(|()| self.own(suite)).map(Session::Own);
        match self.suite {
            SuiteName::Quick => own(Suite::Quick),
            SuiteName::Full => own(Suite::Full),
            SuiteName::Smoke => own(Suite::Smoke),
            SuiteName::Engines => {
                let (own, specs) = (Arm::engines(), Spec::side_by_side());
                self.side_by_side(interleaved::ENGINES, own, specs).map(Session::SideBySide)
            }
            SuiteName::Arms => {
                self.side_by_side("arms", Vec::new(), Spec::side_by_side()).map(Session::SideBySide)
            }
            SuiteName::Peers => {
                self.side_by_side(interleaved::PEERS, Vec::new(), Spec::peers()).map(Session::SideBySide)
            }
        }
    }

    fn own(&self, suite: Suite) -> Result<Options, Failure> {
        Ok(Options { suite, setup: self.setup()? })
    }

    fn setup(&self) -> Result<Setup, Failure> {
        Ok(Setup {
            server: self.server()?,
            results: self.results.clone(),
            checkout: self.checkout(),
            tag: self.tag.clone(),
            engine: self.engine,
            congestion: self.congestion.clone(),
        })
    }

    fn side_by_side(
        &self,
        suite: &'static str,
        own: Vec<Arm>,
        specs: Vec<Spec>,
    ) -> Result<interleaved::Options, Failure> {
        let present = own.len() + self.arms.len();
        let given = self.arms.iter().chain(&self.absent).cloned();
        let mut arms: Vec<Arm> = own.into_iter().chain(given).collect();
        if present < 2 {
            return Err(Failure::Usage("--arm: at least two arms can be set side by side".to_owned()));
        }
        let repeated =
            arms.iter().enumerate().find(|(at, arm)| arms[..*at].iter().any(|a| a.name == arm.name));
        if let Some((_, arm)) = repeated {
            return Err(Failure::Usage(format!("--arm: two arms have the name `{}`", arm.name)));
        }
        self.add_what_is_known(&mut arms)?;
        let measure = self.duration.unwrap_or(MEASURE);
        if measure.is_zero() {
            return Err(Failure::Usage("--duration must be longer than zero".to_owned()));
        }
        Ok(interleaved::Options {
            suite,
            scenarios: self.chosen(specs, &arms)?,
            arms,
            rounds: self.rounds.unwrap_or(10),
            warmup: self.warmup.unwrap_or(WARMUP),
            measure,
            setup: self.setup()?,
        })
    }

    /// Versions and counts of the arms that they name.
    fn add_what_is_known(&self, arms: &mut [Arm]) -> Result<(), Failure> {
        let find = |arms: &mut [Arm], flag: &str, name: &str| {
            let at = arms.iter().position(|arm| arm.name == name);
            at.ok_or_else(|| Failure::Usage(format!("{flag}: no arm has the name `{name}`")))
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

    /// The scenarios asked for that at least two arms take, in the usual order.
    fn chosen(&self, mut specs: Vec<Spec>, arms: &[Arm]) -> Result<Vec<Spec>, Failure> {
        specs.retain(|spec| arms.iter().filter(|arm| arm.takes(spec)).count() >= 2);
        if let Some(unknown) = self.scenarios.iter().find(|name| specs.iter().all(|spec| spec.name != **name))
        {
            let names: Vec<&str> = specs.iter().map(|spec| spec.name.as_str()).collect();
            let names = names.join(", ");
            return Err(Failure::Usage(format!("--scenarios: unknown scenario `{unknown}`: of {names}")));
        }
        if !self.scenarios.is_empty() {
            specs.retain(|spec| self.scenarios.contains(&spec.name));
        }
        Ok(specs)
    }

    fn refuse_side_by_side(&self) -> Result<(), Failure> {
        let given = [
            (self.rounds.is_some(), "--rounds"),
            (!self.scenarios.is_empty(), "--scenarios"),
            (!self.arms.is_empty(), "--arm"),
            (!self.absent.is_empty(), "--absent"),
            (!self.versions.is_empty(), "--version-of"),
            (!self.conformance.is_empty(), "--conformance"),
            (self.duration.is_some(), "--duration"),
            (self.warmup.is_some(), "--warmup"),
        ];
        match given.into_iter().find(|(given, _)| *given) {
            Some((_, flag)) => Err(Failure::Usage(format!(
                "{flag} is for the suites `engines`, `arms` and `peers`: the others are fixed, so that they compare"
            ))),
            None => Ok(()),
        }
    }

    fn server(&self) -> Result<PathBuf, Failure> {
        let beside = || std::env::current_exe().map(|path| path.with_file_name("sparring-server"));
        let server = self.server.clone().map_or_else(beside, Ok);
        server.map_err(|error| Failure::Error(format!("--server: {error}")))
    }

    fn checkout(&self) -> Option<Checkout> {
        self.commit.clone().map(|commit| Checkout { commit, dirty: self.dirty })
    }
}

/// The session that a command line asks for.
#[derive(Debug)]
enum Session {
    /// Our server through a fixed suite.
    Own(Options),
    /// Several arms.
    SideBySide(interleaved::Options),
}

impl Session {
    fn check(&self) -> Result<(), SuiteError> {
        match self {
            Self::Own(options) => options.check(),
            Self::SideBySide(options) => options.check(),
        }
    }

    fn measure(&self, machine: Machine, terminal: &mut Terminal) -> Result<experiment::Session, SuiteError> {
        let mut notes = terminal.notes();
        let progress: &mut dyn Progress = terminal;
        match self {
            Self::Own(options) => suite::measure(options, machine, progress, &mut notes),
            Self::SideBySide(options) => interleaved::measure(options, machine, progress, &mut notes),
        }
    }
}

/// Returns the change since the last session of this machine, after the session was stored.
fn change(store: &Store, document: &Document) -> Result<Blocks, Failure> {
    let (change, unreadable) = last_change(store, document)?;
    let skipped = unreadable.iter().map(|error| format!("skipped: {error}")).collect();
    let none = "No earlier valid session of this machine has these scenarios: nothing to compare with.";
    let none = || Blocks::default().notes(vec![none.to_owned()]);
    Ok(Blocks::default().notes(skipped).then(change.as_ref().map_or_else(none, text::since)))
}

impl From<SuiteError> for Failure {
    fn from(error: SuiteError) -> Self {
        match error {
            SuiteError::Usage { .. } => Self::Usage(error.to_string()),
            SuiteError::Interrupted => Self::Run(RunError::Interrupted),
            error => Self::Error(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Arguments, Command};
    use super::*;

    fn session(arguments: &[&str]) -> Result<Session, String> {
        let words = ["sparring-loadgen", "suite"].iter().chain(arguments);
        let parsed = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
        let Some(Command::Suite(suite)) = parsed.command else { return Err("not suite".to_owned()) };
        suite.session().map_err(|error| error.to_string())
    }

    fn side_by_side(arguments: &[&str]) -> interleaved::Options {
        match session(arguments) {
            Ok(Session::SideBySide(options)) => options,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn engines_are_set_side_by_side_in_all_scenarios() {
        let options = side_by_side(&["engines"]);
        assert_eq!((options.arms, options.scenarios), (Arm::engines(), Spec::side_by_side()));
        assert_eq!((options.rounds, options.warmup, options.measure), (10, WARMUP, MEASURE));
    }

    #[test]
    fn every_flag_reaches_the_options() {
        let options = side_by_side(&[
            "engines",
            "--rounds=2",
            "--scenarios=pipeline,echo",
            "--arm=theirs=node {port}",
            "-d=2s",
            "-w=0",
            "--engine=epoll",
            "--congestion=reno",
        ]);
        assert_eq!(options.arms.last().map(|arm| arm.name.as_str()), Some("theirs"));
        assert_eq!(
            options.scenarios.iter().map(|spec| spec.name.as_str()).collect::<Vec<_>>(),
            ["echo", "pipeline"]
        );
        assert_eq!((options.rounds, options.measure.as_secs(), options.warmup), (2, 2, Duration::ZERO));
        assert_eq!(options.setup.engine, Some(EngineKind::Epoll));
        assert_eq!(options.setup.congestion.map(|name| name.to_string()).as_deref(), Some("reno"));
    }

    #[test]
    fn other_peoples_servers_are_not_asked_for_raw_bytes() {
        let two = ["--arm=a=x {port}", "--arm=b=y {port}"];
        let options = side_by_side(&[&["arms"], &two[..]].concat());
        assert!(options.scenarios.iter().all(|spec| !spec.name.starts_with("tcp")));
        let error = session(&["arms", two[0], two[1], "--scenarios=tcp"]).expect_err("raw bytes");
        assert!(error.contains("`tcp`") && error.contains("pipeline"), "{error}");
    }

    #[test]
    fn what_is_known_of_peers_reaches_their_arms() {
        let options = side_by_side(&[
            "peers",
            "--arm=ours=x {port}",
            "--arm=ws=y {port}",
            "--absent=bun=npm is not installed",
            "--version-of=ws=8.23.0",
            "--conformance=ws=259,53,14,0,26",
        ]);
        assert_eq!((options.suite, options.scenarios), ("peers", Spec::peers()));
        let names: Vec<&str> = options.arms.iter().map(|arm| arm.name.as_str()).collect();
        assert_eq!(names, ["ours", "ws", "bun"]);
        let ws = &options.arms[1];
        assert_eq!((ws.version.as_deref(), ws.conformance.map(|c| c.wrong)), (Some("8.23.0"), Some(14)));
    }

    #[test]
    fn unusable_flags_are_named() {
        for (arguments, named) in [
            (&["engines", "--rounds=0"][..], "--rounds"),
            (&["engines", "--scenarios=slow"], "--scenarios"),
            (&["engines", "--arm=x"], "NAME=COMMAND"),
            (&["engines", "--arm=epoll=x {port}"], "`epoll`"),
            (&["engines", "-d=0"], "--duration"),
            (&["arms"], "--arm"),
            (&["arms", "--arm=one=x {port}"], "two arms"),
            (&["peers", "--arm=one=x {port}", "--absent=two=gone"], "two arms"),
            (&["peers", "--arm=a=x {port}", "--arm=b=x {port}", "--version-of=c=1"], "`c`"),
            (&["peers", "--arm=a=x {port}", "--arm=b=x {port}", "--conformance=a=1,2"], "SKIPPED"),
            (&["peers", "--arm=a=x {port}", "--arm=b=x {port}", "--scenarios=rate-1x1"], "rate-20k"),
            (&["quick", "--absent=a=gone"], "--absent"),
            (&["quick", "--rounds=2"], "--rounds"),
            (&["full", "--scenarios=echo"], "--scenarios"),
            (&["smoke", "--arm=a=x {port}"], "--arm"),
            (&["quick", "-d=1s"], "--duration"),
        ] {
            let error = session(arguments).expect_err(named);
            assert!(error.contains(named), "{arguments:?}: {error}");
        }
    }
}
