//! Bisections over 64 commits with recorded noise, and their limits.

use super::*;
use crate::compare::example::duel;
use crate::compare::recorded;
use crate::compare::verdict::{Judgement, Threshold, Verdict, judge};
use crate::result::Utc;
use crate::run::Random;

const COMMITS: usize = 64;
/// Pairs of a step of `git bisect run scripts/ab.sh --bisect`.
const PAIRS_OF_AB: usize = 20;

fn hash(number: usize) -> String {
    format!("{number:012x}")
}

fn bisection(commits: usize) -> Bisection {
    let hashes = (1..=commits).map(hash).collect();
    let figure = ("echo", Metric::ServerCpu);
    Bisection::new(figure, &hash(0), hashes, 0.995, 400).expect("commits")
}

impl Bisection {
    fn measured(&mut self, commit: &str, log_ratios: Vec<f64>) {
        let start = Utc::from_unix_ms(self.measurements.len() as u64);
        self.measurements.push(Measurement { commit: commit.to_owned(), start, log_ratios });
    }
}

/// Carries a bisection out; commit `first` and those after it take `factor` times the time. Returns
/// its last step, with pairs and commits that were measured.
fn carried_out(
    mut bisection: Bisection,
    first: usize,
    factor: f64,
    random: &mut Random,
) -> (Step, usize, usize) {
    loop {
        match bisection.next_step() {
            Step::Measure { commit, pairs } => {
                let number = usize::from_str_radix(&commit, 16).expect("a number");
                let factor = if number >= first { factor } else { 1.0 };
                bisection.measured(&commit, recorded::duel(pairs, factor, random));
            }
            step => {
                let built: BTreeSet<_> =
                    bisection.measurements.iter().map(|one| &one.commit).collect();
                return (step, bisection.pairs(), built.len());
            }
        }
    }
}

/// `git bisect run` with the verdicts of ab.sh: the commit that it names, and its pairs. It skips
/// where a verdict is inconclusive, and then takes the next commit.
fn plain(first: usize, factor: f64, random: &mut Random) -> (usize, usize) {
    let (mut good, mut bad, mut pairs) = (0, COMMITS, 0);
    let mut skipped = BTreeSet::new();
    while let Some(middle) = (good + 1..bad)
        .filter(|commit| !skipped.contains(commit))
        .min_by_key(|commit| commit.abs_diff(usize::midpoint(good, bad)))
    {
        pairs += PAIRS_OF_AB;
        let factor = if middle >= first { factor } else { 1.0 };
        let logs = recorded::duel(PAIRS_OF_AB, factor, random);
        let samples: Vec<(f64, f64)> = logs.iter().map(|log| (1.0, log.exp())).collect();
        let judged = Judgement::of_pairs("echo", Metric::ServerCpu, &samples).expect("ratios");
        let threshold = Some(Threshold::of(Metric::ServerCpu, None));
        let mut judged = [Judgement { threshold, ..judged }];
        judge(&mut judged);
        match judged[0].verdict {
            Some(Verdict::Regressed) => bad = middle,
            Some(Verdict::Inconclusive) | None => drop(skipped.insert(middle)),
            Some(_) => good = middle,
        }
    }
    (bad, pairs)
}

/// Prints its figures too: `cargo test -- --show-output`.
#[test]
fn the_commit_is_found_with_fewer_pairs_than_by_git_bisect() {
    const TRIALS: usize = 200;
    let (mut right, mut pairs, mut most, mut builds) = (0, 0, 0, 0);
    let (mut right_of_plain, mut pairs_of_plain) = (0, 0);
    for seed in 0..TRIALS as u64 {
        let mut random = Random::new(64, seed);
        let first = 1 + random.below(COMMITS);
        let (step, own, built) = carried_out(bisection(COMMITS), first, 1.025, &mut random);
        let is_right = matches!(&step, Step::Found { commits, .. } if *commits == [hash(first)]);
        right += usize::from(is_right);
        (pairs, most, builds) = (pairs + own, most.max(own), builds + built);
        let (found, own) = plain(first, 1.025, &mut random);
        right_of_plain += usize::from(found == first);
        pairs_of_plain += own;
    }
    let mean = |sum: usize| sum as f64 / TRIALS as f64;
    println!(
        "{right} of {TRIALS} right with {:.1} pairs ({most} at most) of {:.1} commits; plain: \
         {right_of_plain} right with {:.1} pairs",
        mean(pairs),
        mean(builds),
        mean(pairs_of_plain)
    );
    assert!(right * 100 >= TRIALS * 99, "{right} of {TRIALS}");
    assert!(pairs * 10 < pairs_of_plain * 7, "{pairs} pairs, plain {pairs_of_plain}");
}

#[test]
fn equal_ends_have_no_culprit() {
    let mut wrong = 0;
    for seed in 0..40 {
        let (step, pairs, _) = carried_out(bisection(8), 9, 1.0, &mut Random::new(1, seed));
        assert!(pairs >= BAD_BATCH);
        wrong += usize::from(step != Step::NoDifference);
    }
    // A test at 0.2 %, up to seven times.
    assert!(wrong <= 1, "{wrong} of 40");
}

#[test]
fn an_improvement_is_found_too() {
    let (step, ..) = carried_out(bisection(20), 13, 0.96, &mut Random(5));
    assert!(matches!(&step, Step::Found { commits, .. } if *commits == [hash(13)]), "{step:?}");
}

#[test]
fn the_only_commit_is_the_one() {
    let (step, pairs, _) = carried_out(bisection(1), 1, 1.04, &mut Random(5));
    assert_eq!(step, Step::Found { commits: vec![hash(1)], probability: 1.0 });
    assert!(pairs <= 30, "{pairs}");
}

#[test]
fn commits_that_cannot_be_measured_are_named_together() {
    let mut skipping = bisection(16);
    for commit in [8, 9] {
        skipping.skip(&hash(commit)).expect("a commit");
    }
    let (step, ..) = carried_out(skipping.clone(), 9, 1.05, &mut Random(7));
    let Step::Found { commits, .. } = step else { panic!("{step:?}") };
    assert_eq!(commits, [8, 9, 10].map(hash));
    assert_eq!(skipping.skip("ffffffff"), Err(BisectError::NotACommit("ffffffff".to_owned())));
    assert_eq!(skipping.skip(&hash(16)), Err(BisectError::SkippedBad(hash(16))));
}

#[test]
fn the_most_pairs_end_it_undecided() {
    let mut few = bisection(64);
    few.most_pairs = 12;
    let (step, pairs, _) = carried_out(few, 30, 1.02, &mut Random(9));
    assert!(matches!(step, Step::Undecided { .. }) && pairs < 80, "{step:?} {pairs}");
}

#[test]
fn a_disturbed_pair_does_not_decide() {
    let mut disturbed = bisection(16);
    disturbed.measured(&hash(16), [0.024, 0.026, 0.025, 0.03, 0.02, 0.027, 0.023, 0.025].to_vec());
    disturbed.measured(&hash(8), vec![0.001, -0.002, 0.4, 0.002]);
    let changed = disturbed.posterior().expect("measured").is_changed(7);
    assert!(changed < 0.01, "{changed}");
}

#[test]
fn the_state_is_kept_in_a_file() {
    let mut before = bisection(4);
    before.measured(&hash(4), vec![0.02, 0.03]);
    let json = serde_json::to_string(&before).expect("JSON");
    assert_eq!(serde_json::from_str::<Bisection>(&json).expect("readable"), before);
}

#[test]
fn the_pairs_of_a_duel_are_added_once() {
    let mut bisection = bisection(4);
    let mut document = duel(8, 1.05);
    document.arms[0].subject.commit = Some(hash(0));
    // A session may have more digits, or fewer.
    document.arms[1].subject.commit = Some(hash(2) + "aaaa");
    document.runs[2].valid = false;
    assert_eq!(bisection.add(&document), Ok(7));
    assert_eq!(bisection.add(&document), Err(BisectError::Again));
    let logs = bisection.log_ratios_of(&hash(2));
    assert!(logs.iter().all(|log| (0.03..0.07).contains(log)), "{logs:?}");
    document.arms[0].subject.commit = Some(hash(3));
    assert!(matches!(bisection.add(&document), Err(BisectError::OtherCommits(_))));
}
