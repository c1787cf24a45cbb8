//! `--threshold` and `--find-rate`: what a run has to reach, and the highest rate that does.

use std::time::Duration;

use clap::Args;

use super::usage;
use crate::format::grouped;
use crate::goal::search::Range;
use crate::goal::threshold::Threshold;
use crate::load::value::{rate, time};
use crate::load::{Load, Stages};
use crate::result::{GoalJudgement, InvalidKind, Run, TrialOutcome};
use crate::run::{MAX_RATE, Plan, RunError};

const GOALS: &str = "Goals";

/// The goals of a run.
#[derive(Debug, Default, Args)]
pub(super) struct GoalArguments {
    /// A goal of the run. If it is missed, the exit status is 10. Metrics: pN, mean, max (of the
    /// latency), rate, errors, server-cpu (per message) or rss, with <, <=, > or >=. Of one stage:
    /// 'stage2:p99<2ms'. Repeatable: all must be met.
    #[arg(long, value_name = "'p99<2ms'", help_heading = GOALS)]
    threshold: Vec<Threshold>,

    /// Search the highest rate of an open loop that meets this: bracket, bisect with short trials,
    /// confirm at full length. Repeatable: all have to hold.
    #[arg(long, value_name = "'p99<2ms'", help_heading = GOALS,
          conflicts_with_all = ["rate_per_s", "rate_per_connection", "stages", "messages"])]
    find_rate: Vec<Threshold>,

    /// Rates between which --find-rate searches [default: what -d can judge, up to what the
    /// generator can send].
    #[arg(long, value_name = "LOW..HIGH", value_parser = rates, requires = "find_rate", help_heading = GOALS)]
    rate_range: Option<(f64, f64)>,

    /// Measured time of a short trial of --find-rate. A low rate takes longer, until its sample can
    /// be judged, up to -d.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "2s", requires = "find_rate", help_heading = GOALS)]
    trial: Duration,
}

fn rates(text: &str) -> Result<(f64, f64), String> {
    let (low, high) = text.split_once("..").ok_or("two rates are needed, as in 1k..100k")?;
    match (rate(low)?, rate(high)?) {
        (low, high) if low > 0.0 && low <= high && high <= MAX_RATE => Ok((low, high)),
        _ => Err("the first rate must be more than 0 and not above the second, which may be 1000M"
            .to_owned()),
    }
}

impl GoalArguments {
    pub(super) fn is_search(&self) -> bool {
        !self.find_rate.is_empty()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.threshold.is_empty() && self.find_rate.is_empty()
    }

    pub(super) fn check(&self, plan: &Plan) -> anyhow::Result<()> {
        let mut all = self.threshold.iter().chain(&self.find_rate);
        let is_unknown = plan.target.spawn.is_none() && plan.target.metrics.is_none();
        let of_process = all.find(|threshold| is_unknown && threshold.needs_server());
        let stage = self.check_stages(plan);
        let unlimited = self.find_rate.iter().find(|threshold| !threshold.limits_rate());
        Err(usage(if let Some(threshold) = of_process {
            let why = "otherwise the server's process is not known";
            format!("{threshold} needs --spawn or --server-metrics: {why}")
        } else if let Some(why) = stage {
            why
        } else if let Some(threshold) = unlimited {
            format!(
                "--find-rate {threshold} limits no rate: something that grows with the load must stay below a limit"
            )
        } else if self.is_search() && plan.load.messages.is_some() {
            "--find-rate cannot search with a limited number of messages: leave -n out, or choose another scenario"
                .to_owned()
        } else if self.is_search() && plan.load.stages.is_some() {
            "--find-rate tries one rate at a time: choose a scenario without stages".to_owned()
        } else if self.trial.is_zero() {
            "--trial must be longer than zero".to_owned()
        } else {
            return Ok(());
        }))
    }

    /// Returns the reason why a threshold is about no stage of the plan.
    fn check_stages(&self, plan: &Plan) -> Option<String> {
        let thresholds = || self.threshold.iter().chain(&self.find_rate);
        no_such_stage(thresholds(), &plan.load)
    }

    pub(super) fn judge(&self, run: &Run) -> Vec<GoalJudgement> {
        self.find_rate.iter().chain(&self.threshold).map(|threshold| threshold.judge(run)).collect()
    }

    pub(super) fn range(&self, plan: &Plan) -> Range {
        let samples = self.find_rate.iter().map(Threshold::samples).max().unwrap_or(1);
        let judged = samples as f64 * 1.1 / plan.load.measure.as_secs_f64().max(1e-3);
        let (lowest, highest) = self.rate_range.unwrap_or((judged.max(1.0).ceil(), MAX_RATE));
        Range {
            lowest,
            highest,
            first: (lowest * 4.0).clamp(FIRST_RATE.min(highest), highest),
            short: self.trial,
            full: plan.load.measure,
            samples,
        }
    }
}

/// Returns the reason why a threshold is about no stage of the load that has a length.
pub(super) fn no_such_stage<'a>(
    mut thresholds: impl Iterator<Item = &'a Threshold>,
    load: &Load,
) -> Option<String> {
    let numbers: Vec<u32> =
        load.stages.iter().flat_map(Stages::ramps).map(|ramp| ramp.number).collect();
    let threshold = thresholds.find(|one| one.stage().is_some_and(|n| !numbers.contains(&n)))?;
    Some(match &load.stages {
        None => {
            format!("--threshold {threshold} needs --stages, for example --stages 10k:30s,50k:10s")
        }
        Some(stages) => {
            let numbers: Vec<String> = numbers.iter().map(ToString::to_string).collect();
            format!(
                "--threshold {threshold}: --stages {stages} has no such stage with a length: \
                 expected {}",
                numbers.join(", ")
            )
        }
    })
}

/// Where a search begins unless its range lies elsewhere, messages a second: every server carries
/// it.
const FIRST_RATE: f64 = 2_000.0;
const SHORT_WARMUP: Duration = Duration::from_millis(500);

pub(super) fn trial_plan(plan: &Plan, rate: f64, measure: Duration, is_confirmation: bool) -> Plan {
    let warmup =
        if is_confirmation { plan.load.warmup } else { plan.load.warmup.min(SHORT_WARMUP) };
    let length = humantime::format_duration(measure).to_string().replace(' ', "");
    let scenario = format!("{}@{rate:.0}/{length}", plan.scenario);
    plan.clone().with(|plan| {
        plan.load.rate_per_s = Some(rate);
        plan.load.measure = measure;
        plan.load.warmup = warmup;
        plan.scenario = scenario;
    })
}

/// Returns the outcome of a finished trial. An invalid trial never counts as met.
pub(super) fn outcome(run: &Run, judgements: &[GoalJudgement]) -> TrialOutcome {
    let faults = run.errors.total() + run.integrity.faults();
    // Every run of a debug build has this reason, so it is not a limit found at this rate.
    let (servers, others): (Vec<_>, Vec<_>) = run
        .invalid()
        .filter(|(kind, _)| !kind.is_of_the_build())
        .partition(|(kind, _)| kind.is_servers());
    let reasons = |of: &[(InvalidKind, &str)]| {
        of.iter().map(|(_, reason)| *reason).collect::<Vec<_>>().join("; ")
    };
    if faults == 0 && !others.is_empty() {
        return TrialOutcome::GeneratorLimit(reasons(&others));
    }
    // Lost connections and wrong echoes are the server's doing, whatever else is true.
    if !servers.is_empty() {
        return TrialOutcome::Missed(reasons(&servers));
    }
    if faults > 0 {
        let what = if faults == 1 { "error or wrong echo" } else { "errors and wrong echoes" };
        return TrialOutcome::Missed(format!("{faults} {what}"));
    }
    if !run.valid && run.invalid_reasons.is_empty() {
        return TrialOutcome::GeneratorLimit("the run is not valid".to_owned());
    }
    let missed: Vec<&str> =
        judgements.iter().filter(|each| !each.met).map(|each| each.text.as_str()).collect();
    if missed.is_empty() { TrialOutcome::Met } else { TrialOutcome::Missed(missed.join("; ")) }
}

/// Returns the outcome of a trial without a result. A server that gives up under load has missed;
/// any other error ends the search.
pub(super) fn failed_outcome(error: RunError) -> Result<TrialOutcome, RunError> {
    match error {
        RunError::LostEarly { .. }
        | RunError::NoneStays { .. }
        | RunError::AllClosed { .. }
        | RunError::ServerEnded { .. }
        | RunError::ProxyEnded { .. } => Ok(TrialOutcome::Missed(error.to_string())),
        other => Err(other),
    }
}

/// A trial in a line, while the search goes on.
pub(super) fn trial_line(
    number: usize,
    rate: f64,
    measure: Duration,
    is_confirmation: bool,
    outcome: &TrialOutcome,
) -> String {
    let kind = if is_confirmation { "confirmation" } else { "trial" };
    let shown = match outcome {
        TrialOutcome::Met => "met".to_owned(),
        TrialOutcome::Missed(why) => format!("missed: {why}"),
        TrialOutcome::GeneratorLimit(why) => format!("generator limit: {why}"),
    };
    format!(
        "{kind} {number}: {:>11} msg/s for {:.1} s: {shown}",
        grouped(rate),
        measure.as_secs_f64()
    )
}

#[cfg(test)]
mod tests {
    use engine::EngineKind;

    use super::*;
    use crate::result::example;

    fn goals(find: &[&str]) -> GoalArguments {
        let find_rate = find.iter().map(|text| text.parse().expect("a threshold")).collect();
        GoalArguments { find_rate, trial: Duration::from_secs(2), ..GoalArguments::default() }
    }

    fn plan() -> Plan {
        Plan::new("ws://127.0.0.1:1/".parse().expect("url"), EngineKind::Epoll)
    }

    fn run() -> Run {
        let mut run = example::document().runs.remove(0);
        (run.valid, run.invalid_reasons) = (true, Vec::new());
        run
    }

    #[test]
    fn the_range_is_what_can_be_judged() {
        let range = goals(&["p99<2ms"]).range(&plan());
        assert_eq!((range.lowest, range.highest, range.first), (1100.0, MAX_RATE, 4400.0));
        let limited = GoalArguments { rate_range: Some((10.0, 50.0)), ..goals(&["max<2ms"]) };
        let range = limited.range(&plan());
        assert_eq!((range.lowest, range.highest, range.first), (10.0, 50.0, 50.0));
        assert_eq!(rates("1k..100k"), Ok((1e3, 1e5)));
        assert!(["5", "5..1", "0..5", "a..b", "1..2000M"].iter().all(|text| rates(text).is_err()));
    }

    #[test]
    fn goals_that_cannot_be_judged_are_refused() {
        let refused = |goals: GoalArguments| goals.check(&plan()).expect_err("refused").to_string();
        assert!(refused(goals(&["server-cpu<4us"])).contains("--spawn"));
        assert!(refused(goals(&["rate>1k"])).contains("--find-rate rate>1k limits no rate"));
        assert!(
            refused(GoalArguments { trial: Duration::ZERO, ..goals(&["p99<2ms"]) })
                .contains("--trial")
        );
        assert!(goals(&["p99<2ms", "errors<1"]).check(&plan()).is_ok());
    }

    #[test]
    fn a_goal_of_a_stage_needs_that_stage() {
        let goals = |text: &str| GoalArguments {
            threshold: vec![text.parse().expect("a threshold")],
            trial: Duration::from_secs(2),
            ..GoalArguments::default()
        };
        let staged = plan().with(|plan| {
            plan.load.stages = Some("1k:1s,5k:0s,5k:1s".parse().expect("stages"));
        });
        assert!(goals("stage3:p99<2ms").check(&staged).is_ok());
        for number in [2, 4] {
            let text = format!("stage{number}:p99<2ms");
            let error = goals(&text).check(&staged).expect_err("no such stage").to_string();
            assert!(error.contains(&text) && error.contains("expected 1, 3"), "{error}");
        }
        let error = goals("stage1:p99<2ms").check(&plan()).expect_err("no stages").to_string();
        assert!(error.contains("needs --stages, for example"), "{error}");
    }

    #[test]
    fn whose_limit_it_was_is_told_apart() {
        let judged = |met| {
            vec![GoalJudgement {
                threshold: "t".into(),
                value: None,
                met,
                text: "t: 5ms".into(),
                at_least: false,
            }]
        };
        let with = |reasons: &[(InvalidKind, &str)]| {
            let mut run = run();
            reasons.iter().for_each(|(kind, reason)| run.invalidate(*kind, *reason));
            run
        };
        assert_eq!(outcome(&run(), &judged(true)), TrialOutcome::Met);
        assert_eq!(outcome(&run(), &judged(false)), TrialOutcome::Missed("t: 5ms".into()));
        let debug = with(&[(InvalidKind::DebugGenerator, "build it with --release")]);
        assert_eq!(outcome(&debug, &judged(true)), TrialOutcome::Met);
        // The words of a reason do not decide who was the limit.
        let late = (InvalidKind::LateSends, "the generator sent late to the server");
        assert_eq!(
            outcome(&with(&[late]), &judged(true)),
            TrialOutcome::GeneratorLimit(late.1.into())
        );
        let full = (InvalidKind::OutstandingLimit, "--max-outstanding");
        assert_eq!(outcome(&with(&[full]), &judged(true)), TrialOutcome::Missed(full.1.into()));
        assert!(matches!(
            outcome(&with(&[full, late]), &judged(true)),
            TrialOutcome::GeneratorLimit(_)
        ));
        // An invalid trial never counts as met, and its reason comes before the results of the
        // thresholds.
        let unknown = Run { valid: false, ..run() };
        assert!(matches!(outcome(&unknown, &judged(true)), TrialOutcome::GeneratorLimit(_)));
        for kind in [InvalidKind::RateNotKept, InvalidKind::LostConnections, InvalidKind::NoEcho] {
            assert_eq!(
                outcome(&with(&[(kind, "why")]), &judged(true)),
                TrialOutcome::Missed("why".into())
            );
            assert_eq!(
                outcome(&with(&[(kind, "why")]), &judged(false)),
                TrialOutcome::Missed("why".into())
            );
        }
        for kind in [
            InvalidKind::BusyGenerator,
            InvalidKind::Clock,
            InvalidKind::Standstill,
            InvalidKind::Unknown,
        ] {
            assert_eq!(
                outcome(&with(&[(kind, "why")]), &judged(false)),
                TrialOutcome::GeneratorLimit("why".into())
            );
        }
        let mut wrong = run();
        wrong.integrity.lost = 3;
        assert_eq!(
            outcome(&wrong, &judged(true)),
            TrialOutcome::Missed("3 errors and wrong echoes".into())
        );
    }

    #[test]
    fn trials_have_scenarios_of_their_own() {
        let short = trial_plan(&plan(), 52_000.4, Duration::from_millis(2500), false);
        assert_eq!(
            (short.scenario.as_str(), short.load.rate_per_s),
            ("run@52000/2s500ms", Some(52_000.4))
        );
        assert_eq!(
            (short.load.warmup, short.load.measure),
            (SHORT_WARMUP, Duration::from_millis(2500))
        );
        assert_eq!(
            trial_plan(&plan(), 5.0, Duration::from_secs(10), true).load.warmup,
            plan().load.warmup
        );
    }
}
