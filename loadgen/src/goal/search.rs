//! The highest rate that meets all thresholds: bracket, bisect with short trials, confirm at full
//! length.
//!
//! Between the bracket's ends every trial is short and the next one lies at the geometric mean,
//! because what a server carries spans orders of magnitude. A short trial can be lucky; so the rate
//! that is reported has held for the full length, and steps down where it did not.

use std::time::Duration;

use crate::result::{FoundRate, Trial, TrialOutcome};

/// The bracket is narrow enough when its ends are within two per cent.
const NARROW: f64 = 1.02;
/// After a confirmation failed the next is tried this much lower.
const STEP_DOWN: f64 = 0.95;
const MAX_CONFIRMATIONS: u32 = 6;
/// Trials in all, at most: no bracket needs as many.
const MAX_TRIALS: usize = 64;

/// Where is searched, and how long trials take. Rates are in messages a second.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) lowest: f64,
    pub(crate) highest: f64,
    pub(crate) first: f64,
    pub(crate) short: Duration,
    /// The confirmation, and no trial is longer.
    pub(crate) full: Duration,
    /// Echoes that a trial must have to be judged; one at a low rate lasts longer for it.
    pub(crate) samples: u64,
}

/// Function that makes a trial: a rate, a length, and whether it is a confirmation.
type Attempt<'a, E> = &'a mut dyn FnMut(f64, Duration, bool) -> Result<TrialOutcome, E>;

/// Makes trials until the highest rate is known. An error of `attempt` ends the search.
pub(crate) fn find<E>(range: &Range, attempt: Attempt<'_, E>) -> Result<FoundRate, E> {
    let mut search = Search { range, attempt, trials: Vec::new() };
    let found = match search.bracket()? {
        Some((low, high)) => {
            let low = search.bisect(low, high)?;
            search.confirm(low)?
        }
        None => None,
    };
    let conclusion = search.conclude(found);
    Ok(FoundRate { rate_per_s: found, conclusion, trials: search.trials })
}

struct Search<'a, E> {
    range: &'a Range,
    attempt: Attempt<'a, E>,
    trials: Vec<Trial>,
}

impl<E> Search<'_, E> {
    /// Returns true if the thresholds are met at `rate`. A trial that the generator or the
    /// machine limited is repeated once. Such a trial tells nothing about the server, and the
    /// machine may have been disturbed.
    fn try_rate(&mut self, rate: f64, is_confirmation: bool) -> Result<bool, E> {
        let length = if is_confirmation { self.range.full } else { self.range.trial_length(rate) };
        let measure_ns = u64::try_from(length.as_nanos()).unwrap_or(u64::MAX);
        let mut met = false;
        for _ in 0..2 {
            let outcome = (self.attempt)(rate, length, is_confirmation)?;
            met = outcome == TrialOutcome::Met;
            let is_limited = matches!(outcome, TrialOutcome::GeneratorLimit(_));
            self.trials.push(Trial { rate_per_s: rate, measure_ns, is_confirmation, outcome });
            if !is_limited {
                break;
            }
        }
        Ok(met)
    }

    /// Doubles from the first rate until the thresholds are missed; or halves until they are met.
    /// Returns the rate that was met and the one that was not: the highest twice where all are met;
    /// `None` where none is.
    fn bracket(&mut self) -> Result<Option<(f64, f64)>, E> {
        let Range { lowest, highest, first, .. } = *self.range;
        let mut rate = first.clamp(lowest, highest);
        if self.try_rate(rate, false)? {
            while rate < highest {
                let next = (rate * 2.0).min(highest);
                if !self.try_rate(next, false)? {
                    return Ok(Some((rate, next)));
                }
                rate = next;
            }
            return Ok(Some((highest, highest)));
        }
        while rate > lowest {
            let next = (rate / 2.0).max(lowest);
            if self.try_rate(next, false)? {
                return Ok(Some((next, rate)));
            }
            rate = next;
        }
        Ok(None)
    }

    /// Narrows the bracket; returns its lower end.
    fn bisect(&mut self, mut low: f64, mut high: f64) -> Result<f64, E> {
        while high / low > NARROW && self.trials.len() < MAX_TRIALS {
            let middle = readable((low * high).sqrt());
            if middle <= low || middle >= high {
                break;
            }
            if self.try_rate(middle, false)? { low = middle } else { high = middle }
        }
        Ok(low)
    }

    /// Confirms at full length, lower and lower until it holds.
    fn confirm(&mut self, rate: f64) -> Result<Option<f64>, E> {
        let mut rate = rate;
        for _ in 0..MAX_CONFIRMATIONS {
            if self.try_rate(rate, true)? {
                return Ok(Some(rate));
            }
            let next = readable(rate * STEP_DOWN).max(self.range.lowest);
            if next >= rate {
                break;
            }
            rate = next;
        }
        Ok(None)
    }

    /// Reason why no higher rate was found, from the nearest failed trial above it.
    fn conclude(&self, found: Option<f64>) -> String {
        let Range { lowest, highest, .. } = *self.range;
        let above = |trial: &&Trial| found.is_none_or(|rate| trial.rate_per_s > rate);
        let failed =
            self.trials.iter().filter(above).filter(|trial| trial.outcome != TrialOutcome::Met);
        // Of several trials at one rate the last one counts, because it repeats the others.
        let nearest = failed.rev().min_by(|a, b| a.rate_per_s.total_cmp(&b.rate_per_s));
        let Some(Trial { rate_per_s: rate, outcome, .. }) = nearest else {
            return format!(
                "every rate up to {highest:.0} a second, the highest that was to be tried, meets the thresholds"
            );
        };
        match (found, outcome) {
            (Some(_), TrialOutcome::GeneratorLimit(why)) => format!(
                "at {rate:.0} a second the generator was the limit, and the server may carry more: {why}"
            ),
            (None, TrialOutcome::GeneratorLimit(why)) => format!(
                "already at {rate:.0} a second the generator was the limit, and nothing is known about the server: {why}"
            ),
            (None, TrialOutcome::Missed(why)) if *rate <= lowest => {
                format!(
                    "even {rate:.0} a second, the lowest rate that was to be tried, misses: {why}"
                )
            }
            (None, TrialOutcome::Missed(why)) => {
                format!("no rate was confirmed at full length, down to {rate:.0} a second: {why}")
            }
            (Some(_), TrialOutcome::Missed(why)) => format!("at {rate:.0} a second: {why}"),
            (_, TrialOutcome::Met) => String::new(),
        }
    }
}

impl Range {
    /// A trial is short, but long enough to be judged, and never longer than a confirmation.
    fn trial_length(&self, rate: f64) -> Duration {
        // A tenth more: not every planned message is back within the window.
        let needed =
            Duration::try_from_secs_f64(self.samples as f64 * 1.1 / rate).unwrap_or(self.full);
        self.short.max(needed).min(self.full)
    }
}

/// Three digits: rates that people can say, and type again.
fn readable(rate: f64) -> f64 {
    let unit = 10f64.powf(rate.log10().floor() - 2.0);
    (rate / unit).round() * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    const RANGE: Range = Range {
        lowest: 100.0,
        highest: 1e6,
        first: 1000.0,
        short: Duration::from_secs(2),
        full: Duration::from_secs(10),
        samples: 10_000,
    };

    /// Searches a server that carries short trials up to one rate, and long ones up to another.
    fn search(range: &Range, short: f64, full: f64) -> FoundRate {
        let mut attempt = |rate: f64, _: Duration, is_confirmation: bool| {
            let capacity = if is_confirmation { full } else { short };
            let missed = || TrialOutcome::Missed("p99<2ms: 5ms".to_owned());
            Ok::<_, ()>(if rate <= capacity { TrialOutcome::Met } else { missed() })
        };
        find(range, &mut attempt).expect("no attempt fails")
    }

    #[test]
    fn the_highest_rate_is_found_within_two_per_cent_and_confirmed() {
        for capacity in [137.0, 999.0, 5_000.0, 123_456.0, 999_999.0] {
            let found = search(&RANGE, capacity, capacity);
            let rate = found.rate_per_s.expect("there is one");
            assert!(rate <= capacity && rate > capacity / 1.025, "{rate} for {capacity}");
            let last = found.trials.last().expect("trials");
            assert!(
                last.is_confirmation
                    && last.outcome == TrialOutcome::Met
                    && last.rate_per_s == rate
            );
            assert!(found.conclusion.contains("p99<2ms: 5ms"), "{}", found.conclusion);
            assert!(found.trials.len() < 25);
        }
    }

    #[test]
    fn luck_in_a_short_trial_is_not_believed() {
        let found = search(&RANGE, 5_000.0, 4_500.0);
        let rate = found.rate_per_s.expect("there is one");
        assert!(rate <= 4_500.0 && rate > 4_200.0, "{rate}");
        let found = search(&RANGE, 5_000.0, 500.0);
        assert_eq!(found.rate_per_s, None);
        assert!(found.conclusion.starts_with("no rate was confirmed"), "{}", found.conclusion);
    }

    #[test]
    fn the_ends_of_the_range_are_said() {
        let found = search(&RANGE, 1e9, 1e9);
        assert_eq!(found.rate_per_s, Some(1e6));
        assert!(found.conclusion.starts_with("every rate up to 1000000"), "{}", found.conclusion);
        let found = search(&RANGE, 50.0, 50.0);
        assert_eq!(found.rate_per_s, None);
        assert!(
            found.conclusion.starts_with("even 100 a second, the lowest"),
            "{}",
            found.conclusion
        );
    }

    #[test]
    fn a_generator_that_is_the_limit_is_named() {
        let limited = |capacity: f64| {
            let mut attempt = |rate: f64, _: Duration, _: bool| {
                let limit = || TrialOutcome::GeneratorLimit("lag p99 3ms".to_owned());
                Ok::<_, ()>(if rate <= capacity { TrialOutcome::Met } else { limit() })
            };
            find(&RANGE, &mut attempt).expect("no attempt fails")
        };
        let found = limited(20_000.0);
        assert!(found.rate_per_s.is_some_and(|rate| rate > 19_500.0));
        assert!(
            found.conclusion.contains(
                "the generator was the limit, and the server may carry more: lag p99 3ms"
            ),
            "{}",
            found.conclusion
        );
        let found = limited(10.0);
        assert!(
            found.conclusion.contains("nothing is known about the server"),
            "{}",
            found.conclusion
        );
    }

    #[test]
    fn repeats_a_trial_that_the_generator_limited_once() {
        let mut disturbed = true;
        let mut attempt = |rate: f64, _: Duration, _: bool| {
            // Every other trial is disturbed.
            disturbed = !disturbed;
            Ok::<_, ()>(match rate <= 20_000.0 {
                _ if !disturbed => {
                    TrialOutcome::GeneratorLimit("the machine stood still".to_owned())
                }
                true => TrialOutcome::Met,
                false => TrialOutcome::Missed("p99<2ms: 5ms".to_owned()),
            })
        };
        let found = find(&RANGE, &mut attempt).expect("no attempt fails");
        assert!(found.rate_per_s.is_some_and(|rate| rate > 19_500.0), "{found:?}");
        assert!(found.conclusion.contains("p99<2ms: 5ms"), "{}", found.conclusion);
        // Each trial has its own line, as each run has.
        assert!(found.trials.len().is_multiple_of(2));
        assert!(found.trials.chunks(2).all(|pair| pair[0].rate_per_s == pair[1].rate_per_s));
    }

    #[test]
    fn trials_are_short_but_long_enough_to_be_judged() {
        let seconds = |rate| RANGE.trial_length(rate).as_secs_f64();
        assert_eq!((seconds(100.0), seconds(1e5)), (10.0, 2.0));
        assert!((seconds(2_000.0) - 5.5).abs() < 1e-9);
        let found = search(&RANGE, 3_000.0, 3_000.0);
        let full = 10_000_000_000;
        assert!(found.trials.iter().all(|trial| trial.measure_ns <= full));
        assert!(
            found.trials.iter().all(|trial| !trial.is_confirmation || trial.measure_ns == full)
        );
    }

    #[test]
    fn an_error_ends_the_search() {
        let mut attempts = 0;
        let mut attempt = |_: f64, _: Duration, _: bool| {
            attempts += 1;
            if attempts == 3 { Err("gone") } else { Ok(TrialOutcome::Met) }
        };
        assert_eq!(find(&RANGE, &mut attempt), Err("gone"));
        assert_eq!(attempts, 3);
    }
}
