//! Stored sessions on a branch, and histories drawn from recorded noise.

use std::convert::Infallible;

use super::super::recorded;
use super::super::statistics::Estimate;
use super::super::statistics::{CONFIDENCE, signed_rank};
use super::*;
use crate::compare::cause::Cause;
use crate::result::example;
use crate::run::Random;

fn hash(number: usize) -> String {
    format!("{number:016x}")
}

fn branch(commits: usize) -> Vec<(String, String)> {
    (0..commits).map(|number| (hash(number), format!("Do {number}"))).collect()
}

/// A session of commit `number`, whose runs have this rate.
fn session(number: usize, at_s: u64, rate: f64) -> Stored {
    let mut document = example::document();
    document.subject.commit = Some(hash(number)[..12].to_owned() + &hash(number)[12..]);
    document.session.start = Utc::from_unix_ms(1_800_000_000_000 + at_s * 1000);
    document.runs.iter_mut().for_each(|run| run.rate_per_s = rate);
    Stored { path: "f.json".into(), document }
}

fn history(found: &[Stored]) -> History {
    let mut history = History::of("echo", Metric::Throughput, &branch(100), found);
    history.find_changes();
    history
}

fn changes(history: &History) -> &[Change] {
    history.change_points.as_deref().expect("looked for")
}

#[test]
fn sessions_are_in_the_order_of_the_branch() {
    let found = [session(2, 1, 3.0), session(0, 2, 1.0), session(999, 3, 9.0)];
    let history = history(&found);
    let seen: Vec<_> = history.points.iter().map(|p| (p.at, p.subject.as_str(), p.value)).collect();
    assert_eq!(seen, [(0, "Do 0", 1.0), (2, "Do 2", 3.0)]);
    assert_eq!((history.others, history.epochs.len()), (0, 1));
}

#[test]
fn another_definition_of_the_scenario_is_left_out() {
    let mut old = session(0, 1, 1.0);
    let scenario = &mut old.document.scenarios[0];
    scenario.parameters.connections = 1;
    scenario.rehash();
    let history = history(&[old, session(1, 2, 2.0)]);
    assert_eq!((history.points.len(), history.others), (1, 1));
    assert_eq!(history.points[0].value, 2.0);
}

#[test]
fn a_duel_does_not_define_the_scenario() {
    let mut duel = session(1, 2, 2.0);
    duel.document.session.kind = SessionKind::Ab;
    duel.document.scenarios[0].parameters.connections = 1;
    duel.document.scenarios[0].rehash();
    let history = history(&[session(0, 1, 1.0), duel]);
    assert_eq!((history.points.len(), history.others), (1, 1));
    assert_eq!(history.points[0].value, 1.0);
}

#[test]
fn what_was_counted_has_a_point_too() {
    let mut stored = session(0, 1, 1.0);
    stored.document.runs.clear();
    stored.document.counts = vec![Count {
        scenario: "echo".into(),
        counter: "instructions".into(),
        per_message: 480.25,
        messages: 100_000,
    }];
    let points =
        |metric| History::of("echo", metric, &branch(1), std::slice::from_ref(&stored)).points;
    assert_eq!(points(Metric::Instructions)[0].value, 480.25);
    assert!(points(Metric::ServerCpu).is_empty());
}

#[test]
fn invalid_runs_have_no_point() {
    let mut bad = session(0, 1, 1.0);
    bad.document.runs.iter_mut().for_each(|run| run.valid = false);
    assert!(history(&[bad]).points.is_empty());
}

/// Sessions whose rate falls by 5 % at the eighth, with a little spread.
fn stepped(other: impl Fn(&mut Document)) -> Vec<Stored> {
    let of = |number: usize| {
        let level = if number < 8 { 100.0 } else { 95.0 };
        let rate = level + (number * 7 % 5) as f64 / 10.0;
        let mut stored = session(2 * number, number as u64, rate);
        if number >= 8 {
            other(&mut stored.document);
        }
        stored
    };
    (0..16).map(of).collect()
}

#[test]
fn a_step_names_the_commits_between_its_sessions() {
    let history = history(&stepped(|_| {}));
    let [change] = changes(&history) else { panic!("{:?}", history.change_points) };
    assert_eq!((change.last, change.first, change.commits), (7, 8, 2));
    assert!((change.ratio - 0.95).abs() < 0.003 && change.p < 1e-6, "{change:?}");
    assert_eq!(change.sides, [[7, 8], [6, 9]]);
    let json = serde_json::to_value(&history).expect("JSON");
    assert_eq!(
        (&json["metric"], &json["change_points"][0]["first"]),
        (&"throughput".into(), &8.into())
    );
}

#[test]
fn nothing_is_compared_across_epochs() {
    let kinds: [fn(&mut Document); 4] = [
        |new| new.machine.id = "another".into(),
        |new| new.tool.version = "9.0.0".into(),
        |new| new.subject.build = Some("ci".into()),
        |new| {
            new.runs[0].shard = Some(crate::result::ShardRecord {
                number: 2,
                count: 4,
                load_start: new.runs[0].start,
                clock: None,
                clock_unknown: None,
            });
        },
    ];
    for (number, other) in kinds.into_iter().enumerate() {
        let history = history(&stepped(other));
        assert_eq!((history.epochs.len(), changes(&history).len()), (2, 0), "kind {number}");
        assert_eq!((history.before(8), history.before(9)), (None, Some(8)));
    }
}

#[test]
fn a_step_is_found_where_epochs_alternate() {
    // Two machines take turns; only one of them becomes slower.
    let mut found = stepped(|_| {});
    for number in 0..16 {
        let mut other = session(2 * number + 1, 50, 300.0 + (number * 3 % 5) as f64 / 10.0);
        other.document.machine.id = "another".into();
        found.push(other);
    }
    let history = history(&found);
    let [change] = changes(&history) else { panic!("{:?}", history.change_points) };
    assert_eq!((change.last, change.first, change.commits), (14, 16, 2));
}

#[test]
fn the_same_history_has_the_same_change_points() {
    let found = stepped(|_| {});
    assert_eq!(history(&found), history(&found));
}

#[test]
fn uncommitted_changes_are_not_confirmed() {
    let mut history = history(&stepped(|new| new.subject.dirty = Some(true)));
    let never = |_: &[String; 2]| -> Result<Dueled, Infallible> { unreachable!("cannot be built") };
    let Ok(()) = history.confirm(never);
    let confirmation = changes(&history)[0].confirmation.as_ref().expect("confirmed");
    assert!(confirmation.text().starts_with("cannot tell: the session of"), "{confirmation:?}");
}

/// A step of a synthetic history.
#[derive(Clone, Copy)]
struct Step {
    at: usize,
    factor: f64,
    is_code: bool,
}

/// Commits and sessions of a synthetic history, and the least distance of its steps and ends.
const SESSIONS: usize = 60;
const APART: usize = 6;

/// Three steps of the code and three of the machine, of 3 % to either side each.
fn steps(random: &mut Random) -> Vec<Step> {
    let places = loop {
        let mut places: Vec<usize> =
            (0..6).map(|_| APART + random.below(SESSIONS - 2 * APART)).collect();
        places.sort_unstable();
        if places.windows(2).all(|pair| pair[1] - pair[0] >= APART) {
            break places;
        }
    };
    let mut are_code = [true, true, true, false, false, false];
    for last in (1..6).rev() {
        are_code.swap(last, random.below(last + 1));
    }
    let factor = |bits: u64| if bits & 1 == 0 { 1.03 } else { 1.0 / 1.03 };
    let step = |(at, is_code)| Step { at, factor: factor(random.next()), is_code };
    places.into_iter().zip(are_code).map(step).collect()
}

fn level(steps: &[Step], at: usize, is_meant: impl Fn(&Step) -> bool) -> f64 {
    steps.iter().filter(|step| step.at <= at && is_meant(step)).map(|step| step.factor).product()
}

/// A synthetic history whose change points have been confirmed by drawn duels.
fn drawn(steps: &[Step], random: &mut Random) -> History {
    let point = |at: usize| Point {
        at,
        commit: hash(at),
        dirty: false,
        subject: String::new(),
        start: Utc::from_unix_ms(0),
        runs: 10,
        value: recorded::session(100.0 * level(steps, at, |_| true), &mut *random),
        epoch: 0,
    };
    let mut history = History::of("echo", Metric::ServerCpu, &[], &[]);
    history.epochs = vec![Epoch::of(&example::document())];
    history.points = (0..SESSIONS).map(point).collect();
    history.find_changes();
    let place = |commit: &str| usize::from_str_radix(commit, 16).expect("a number");
    // What ab.sh measures: 20 pairs, of the code alone.
    let duel = |commits: &[String; 2]| -> Result<Dueled, Infallible> {
        let [a, b] = commits.each_ref().map(|one| level(steps, place(one), |step| step.is_code));
        let logs = recorded::duel(20, b / a, random);
        let log = signed_rank::estimate(&logs, CONFIDENCE).expect("pairs");
        let interval = log.interval.map(|(low, high)| (low.exp(), high.exp()));
        Ok(Dueled::Compared(Estimate { shift: log.shift.exp(), interval, p: log.p }))
    };
    let Ok(()) = history.confirm(duel);
    history
}

/// 100 histories of 60 sessions, with three steps of the code and three of the machine.
#[test]
fn steps_of_the_code_are_found_and_those_of_the_machine_acquitted() {
    let (mut found, mut confirmed, mut of, mut blamed, mut acquitted) = (0, 0, 0, 0, 0);
    for seed in 0..100 {
        let mut random = Random::new(23, seed);
        let steps = steps(&mut random);
        let history = drawn(&steps, &mut random);
        for step in steps.iter().filter(|step| step.is_code) {
            let is_near = |change: &&Change| change.first.abs_diff(step.at) <= 1;
            let near: Vec<&Change> = changes(&history).iter().filter(is_near).collect();
            let is_code = |change: &&Change| {
                change.confirmation.as_ref().is_some_and(|one| one.cause == Cause::Code)
            };
            (found, of) = (found + usize::from(!near.is_empty()), of + 1);
            confirmed += usize::from(near.iter().any(is_code));
        }
        for change in changes(&history) {
            let confirmation = change.confirmation.as_ref().expect("confirmed");
            let place = |commit: &String| usize::from_str_radix(commit, 16).expect("a number");
            let [a, b] = confirmation.commits.each_ref().map(place);
            let has_code = steps.iter().any(|step| step.is_code && step.at > a && step.at <= b);
            blamed += usize::from(confirmation.cause == Cause::Code && !has_code);
            acquitted += usize::from(confirmation.cause == Cause::Machine);
        }
    }
    let alarms: usize =
        (0..100).map(|seed| changes(&drawn(&[], &mut Random::new(24, seed))).len()).sum();
    println!(
        "{alarms} change points in 100 histories without a step; \
         {found} of {of} steps of the code found within one commit, {confirmed} confirmed; \
         {acquitted} change points acquitted, {blamed} commits blamed without a step"
    );
    assert!(found * 100 >= of * 95, "{found} of {of}");
    assert!(confirmed * 100 >= of * 94, "{confirmed} of {of}");
    assert_eq!(blamed, 0);
    assert!(acquitted >= 200, "{acquitted}");
}
