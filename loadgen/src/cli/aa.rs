//! `sparring-loadgen aa`: what this machine does to two identical servers.

use clap::Args;

use super::Failure;
use super::judge::{DUEL_PAIRS, JudgeArguments};
use super::pairs::{PairsArguments, arm_of};
use crate::compare::sides::SIDES;
use crate::result::Show;

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
    #[arg(long, value_name = "N", default_value_t = DUEL_PAIRS, value_parser = clap::value_parser!(u32).range(8..=1000))]
    duel_pairs: u32,

    #[command(flatten)]
    pairs_arguments: PairsArguments,
}

impl AaArguments {
    pub(super) fn execute(&self) -> Result<u8, Failure> {
        let arms = SIDES.map(|name| arm_of(name, &self.command));
        let arms = arms.into_iter().collect::<Result<Vec<_>, _>>()?;
        let (experiment, setup) = self.pairs_arguments.experiment(Show::Noise, arms, self.pairs)?;
        let judge = JudgeArguments::default();
        self.pairs_arguments.carry_out(&experiment, &setup, &judge, self.duel_pairs)
    }
}
