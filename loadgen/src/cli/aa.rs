//! `sparring-loadgen aa`: what this machine does to two identical servers.

use clap::Args;
use engine::EngineKind;

use super::keep::{keep, no_fault};
use super::output::Output;
use super::pairs::{PairsArguments, run_notes};
use super::terminal::Terminal;
use super::{Failure, INTERRUPTED, INVALID, catch_signals, show, start_log, terminal};
use crate::compare::noise::{MIN_RECORDED, of_session};
use crate::compare::{Conclusion, sides};
use crate::host::machine::Machine;
use crate::result::SessionKind;
use crate::result::table::count;

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen aa 'target/release/sparring-server --listen 127.0.0.1:{port}' --scenario echo -d 3s -w 1s

Run it when the machine is as quiet as it will be when servers are compared, once for each load that is compared. The noise
is the 95th percentile of the absolute estimate of duels between identical servers, drawn from the recorded pairs; `duel`
then takes twice of it as threshold wherever that is more than the default.

Exit status: 0 recorded; 1 error, a server that fails in every attempt, or an echo that was not what was sent; 2 wrong usage;
13 too few valid pairs; 130, 143, 129 ended by SIGINT (Ctrl-C), SIGTERM, SIGHUP, with what was recorded.";

/// Records pairs of one server against itself.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct AaArguments {
    /// The server; {port} becomes a free port.
    #[arg(value_name = "COMMAND")]
    command: String,

    /// Pairs to record.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u32).range(8..=1000))]
    pairs: u32,

    /// Pairs of the duels whose noise is shown.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(8..=1000))]
    duel_pairs: u32,

    #[command(flatten)]
    session: PairsArguments,
}

impl AaArguments {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        let commands = [self.command.as_str(); 2];
        let options = |engine| self.session.options(SessionKind::Aa, commands, self.pairs, engine);
        let checked = options(EngineKind::Uring)?;
        if self.session.is_only_checked(&checked) {
            return Ok(0);
        }
        start_log();
        let (engine, _) =
            self.session.plan.placement.engine.settle().map_err(|error| Failure::Run(error.into()))?;
        let machine = Machine::here();
        self.session.check(&machine)?;
        let mut output = self.session.output()?;
        let mut terminal = Terminal::new(catch_signals()?, self.session.quiet);
        let session = self.session.make(&options(engine)?, machine, &mut terminal)?;
        let mut document = session.document;
        document.verdict = Some(Conclusion::of_noise(of_session(&document, self.duel_pairs as usize)).into());
        let mut lines = vec![String::new(), show::noise_table(&document, terminal::width())];
        lines.extend(run_notes(&document));
        let recorded = |scenario: &crate::result::Scenario| sides::pairs(&document, &scenario.name).0.len();
        let fewest = document.scenarios.iter().map(recorded).min().unwrap_or(0);
        if fewest < MIN_RECORDED {
            lines.push(format!(
                "only {}: noise needs at least {MIN_RECORDED}",
                count(fewest as u64, "valid pair")
            ));
        }
        let to_error = output.as_ref().is_some_and(Output::is_standard);
        keep(&document, self.session.results(), output.as_mut(), &lines.join("\n"), to_error)?;
        no_fault(session.fault)?;
        Ok(match (document.session.interrupted, fewest < MIN_RECORDED) {
            (true, _) => INTERRUPTED,
            (false, true) => INVALID,
            (false, false) => 0,
        })
    }
}
