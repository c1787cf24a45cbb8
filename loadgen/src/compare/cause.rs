//! The cause of a change point, by duels of the commits on both sides of it: the code or the
//! machine.

use serde::Serialize;

use super::statistics::Estimate;
use crate::format::change;

/// Cause of a change point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Cause {
    /// Today too the later commit differs from the earlier one, by more than half of the step.
    Code,
    /// Today both commits are equal, to within half of the step.
    Machine,
    /// The interval leaves both open.
    Unknown,
}

impl Cause {
    /// Returns the cause of a step by the factor `step`, of which a duel of both commits says
    /// `estimate`.
    ///
    /// Half of the step is the border, because it is as far from "nothing changed" as from "all of
    /// it is the code's".
    pub(crate) fn of(step: f64, estimate: &Estimate) -> Self {
        let Some((low, high)) = estimate.interval else { return Self::Unknown };
        let (half, direction) = (step.ln().abs() / 2.0, step.ln().signum());
        let [one, middle, other] = [low, estimate.shift, high].map(|ratio| direction * ratio.ln());
        let (low, high) = (one.min(other), one.max(other));
        if low > 0.0 && middle > half {
            Self::Code
        } else if low > -half && high < half {
            Self::Machine
        } else {
            Self::Unknown
        }
    }
}

/// Outcome of the duel of two commits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Dueled {
    Compared(Estimate),
    /// There is no result, for this reason.
    Failed(String),
}

/// Conclusion about a change point.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Confirmation {
    pub(crate) cause: Cause,
    /// The earlier and the later commit that were compared.
    pub(crate) commits: [String; 2],
    /// Ratio of the later to the earlier one; `None` where there was no duel, or no result.
    pub(crate) ratio: Option<f64>,
    /// Its 95 % interval.
    pub(crate) interval: Option<(f64, f64)>,
    /// Reason why there is no result.
    pub(crate) failed: Option<String>,
}

impl Confirmation {
    /// Compares the commits of each pair in turn, the nearest first, until one of them shows that
    /// the code changed, or leaves it open.
    ///
    /// A change point may be found a session beside its place. So where the nearest commits are
    /// equal, those beyond them are compared before the machine is named.
    pub(crate) fn by_duels<E>(
        step: f64,
        sides: &[[String; 2]],
        duel: &mut impl FnMut(&[String; 2]) -> Result<Dueled, E>,
    ) -> Result<Self, E> {
        let mut last = None;
        for commits in sides {
            // One commit on both sides is equal to itself.
            let dueled = if commits[0] == commits[1] { None } else { Some(duel(commits)?) };
            let confirmation = Self::of(step, commits, dueled);
            let is_settled = confirmation.cause != Cause::Machine;
            last = Some(confirmation);
            if is_settled {
                break;
            }
        }
        let nothing = || Self::of(step, &Default::default(), None);
        Ok(last.unwrap_or_else(nothing))
    }

    fn of(step: f64, commits: &[String; 2], dueled: Option<Dueled>) -> Self {
        let commits = commits.clone();
        let none =
            Self { cause: Cause::Machine, commits, ratio: None, interval: None, failed: None };
        match dueled {
            None => none,
            Some(Dueled::Failed(why)) => Self { cause: Cause::Unknown, failed: Some(why), ..none },
            Some(Dueled::Compared(estimate)) => Self {
                cause: Cause::of(step, &estimate),
                ratio: Some(estimate.shift),
                interval: estimate.interval,
                ..none
            },
        }
    }

    /// Returns the conclusion in a line: `code, +3.1 % (2.2 to 4.0)`.
    pub(crate) fn text(&self) -> String {
        let figures = || {
            let percent = |ratio: f64| format!("{:.1}", (ratio - 1.0) * 100.0);
            let interval = |(low, high)| format!(" ({} to {})", percent(low), percent(high));
            let interval = self.interval.map(interval).unwrap_or_default();
            self.ratio.map(|ratio| format!("{}{interval}", change(ratio)))
        };
        match (self.cause, &self.failed, figures()) {
            (Cause::Code, _, figures) => format!("code, {}", figures.unwrap_or_default()),
            (Cause::Machine, _, Some(figures)) => {
                format!("the machine: both commits are equal today, {figures}")
            }
            (Cause::Machine, _, None) => "the machine: it is one commit".to_owned(),
            (Cause::Unknown, Some(why), _) => format!("cannot tell: {why}"),
            (Cause::Unknown, None, figures) => {
                format!("cannot tell, {}", figures.unwrap_or_else(|| "too few pairs".to_owned()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(shift: f64, low: f64, high: f64) -> Estimate {
        Estimate { shift, interval: Some((low, high)), p: 0.01 }
    }

    fn sides(names: &[[&str; 2]]) -> Vec<[String; 2]> {
        names.iter().map(|side| side.map(str::to_owned)).collect()
    }

    /// The confirmation of a step of 3 %, and the duels that it took.
    fn confirmed(names: &[[&str; 2]], recorded: &[Dueled]) -> (Confirmation, usize) {
        let mut left = recorded.iter();
        let mut duel = |_: &[String; 2]| left.next().cloned().ok_or("a duel too many");
        let found = Confirmation::by_duels(1.03, &sides(names), &mut duel).expect("recorded");
        (found, recorded.len() - left.len())
    }

    #[test]
    fn the_interval_decides_between_code_and_machine() {
        let cause = |step, shift, low, high| Cause::of(step, &estimate(shift, low, high));
        assert_eq!(cause(1.03, 1.031, 1.022, 1.040), Cause::Code);
        assert_eq!(cause(1.03, 1.001, 0.994, 1.008), Cause::Machine);
        assert_eq!(cause(1.03, 1.010, 1.001, 1.020), Cause::Unknown);
        assert_eq!(cause(1.03, 1.020, 0.995, 1.040), Cause::Unknown);
        // The other direction is not this step.
        assert_eq!(cause(1.03, 0.97, 0.96, 0.98), Cause::Unknown);
        assert_eq!(cause(0.97, 0.971, 0.962, 0.98), Cause::Code);
        let none = Estimate { shift: 1.03, interval: None, p: 1.0 };
        assert_eq!(Cause::of(1.03, &none), Cause::Unknown);
    }

    #[test]
    fn neighbours_are_compared_before_the_machine_is_named() {
        let equal = Dueled::Compared(estimate(1.001, 0.994, 1.008));
        let slower = Dueled::Compared(estimate(1.031, 1.022, 1.040));
        let both = [["b", "c"], ["a", "d"]];
        let (code, duels) = confirmed(&both, std::slice::from_ref(&slower));
        assert_eq!((code.text().as_str(), duels), ("code, +3.1 % (2.2 to 4.0)", 1));
        let (beside, duels) = confirmed(&both, &[equal.clone(), slower]);
        assert_eq!((beside.cause, beside.commits.concat(), duels), (Cause::Code, "ad".into(), 2));
        let (machine, duels) = confirmed(&both, &[equal.clone(), equal]);
        assert_eq!(
            (machine.text().as_str(), duels),
            ("the machine: both commits are equal today, +0.1 % (-0.6 to 0.8)", 2)
        );
    }

    #[test]
    fn one_commit_on_both_sides_needs_no_duel() {
        let (same, duels) = confirmed(&[["a", "a"]], &[]);
        assert_eq!((same.text().as_str(), duels), ("the machine: it is one commit", 0));
        let failed = Dueled::Failed("b does not build".to_owned());
        let (unknown, _) = confirmed(&[["a", "b"], ["a", "c"]], &[failed]);
        assert_eq!(unknown.text(), "cannot tell: b does not build");
    }
}
