//! A figure over the commits of a branch: its epochs, its change points and their causes.

use serde::{Serialize, Serializer};

use super::cause::{Confirmation, Dueled};
use super::sessions::part;
use super::sides::{is_sound, newer_side};
use super::statistics::change_points::{ChangePoint, MOST_P, change_points};
use crate::format::commit;
use crate::result::{Count, Document, Metric, SessionKind, Stored, Utc, median};

/// A session's figure and the place of its commit in the branch.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Point {
    /// From 0, the oldest commit that has a session.
    pub(crate) at: usize,
    /// The whole hash.
    pub(crate) commit: String,
    /// True if the session measured uncommitted changes too.
    pub(crate) dirty: bool,
    pub(crate) subject: String,
    pub(crate) start: Utc,
    pub(crate) runs: usize,
    /// In the unit that is shown.
    pub(crate) value: f64,
    /// Index of its epoch.
    pub(crate) epoch: usize,
}

impl Point {
    /// Returns the first digits of the commit, with a plus where there were changes beside it.
    pub(crate) fn short(&self) -> String {
        commit(Some(&self.commit)).to_owned() + if self.dirty { "+" } else { "" }
    }
}

/// Everything that must be the same for two sessions of a scenario to be compared.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Epoch {
    pub(crate) machine: String,
    /// Version of the generator.
    pub(crate) generator: String,
    /// Build profile of the server.
    pub(crate) build: Option<String>,
    /// The whole load, or the shard that was measured.
    pub(crate) part: String,
}

impl Epoch {
    fn of(document: &Document) -> Self {
        Self {
            machine: document.machine.id.clone(),
            generator: document.tool.version.clone(),
            build: document.subject.build.clone(),
            part: part(document),
        }
    }

    pub(crate) fn text(&self) -> String {
        let build = self.build.as_deref().unwrap_or("unknown");
        let Self { machine, generator, part, .. } = self;
        let part = if part == "the whole" { String::new() } else { format!(", {part}") };
        format!("machine {machine}, generator {generator}, build {build}{part}")
    }
}

/// A change point of a history.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Change {
    /// Index of the last point of the old level.
    pub(crate) last: usize,
    /// Index of the first point of the new level, in the same epoch.
    pub(crate) first: usize,
    /// Means of both levels.
    pub(crate) before: f64,
    pub(crate) after: f64,
    pub(crate) ratio: f64,
    pub(crate) p: f64,
    /// Commits that may have made it: those after the last point's, up to the first one's.
    pub(crate) commits: usize,
    /// Cause, where it was asked for.
    pub(crate) confirmation: Option<Confirmation>,
    /// Points whose commits are compared, the nearest first.
    #[serde(skip)]
    sides: Vec<[usize; 2]>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct History {
    /// Version of this form.
    schema: u32,
    pub(crate) scenario: String,
    #[serde(serialize_with = "name")]
    pub(crate) metric: Metric,
    unit: &'static str,
    pub(crate) epochs: Vec<Epoch>,
    pub(crate) points: Vec<Point>,
    /// Sessions left out, because their scenario of this name is another.
    pub(crate) others: usize,
    /// `None` unless they were looked for.
    pub(crate) change_points: Option<Vec<Change>>,
}

fn name<S: Serializer>(metric: &Metric, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(metric.name())
}

impl History {
    /// Returns the figures of the sessions by commits of `log` (hash and subject, oldest first).
    pub(crate) fn of(
        scenario: &str,
        metric: Metric,
        log: &[(String, String)],
        found: &[Stored],
    ) -> Self {
        let place = |document: &Document| {
            let commit = document.subject.commit.as_deref()?;
            log.iter().position(|(hash, _)| hash.starts_with(commit))
        };
        let mut placed: Vec<(usize, &Document)> = found
            .iter()
            .filter_map(|stored| Some((place(&stored.document)?, &stored.document)))
            .collect();
        placed.sort_by_key(|(at, document)| (*at, document.session.start));
        let hash = |document: &Document| document.scenario(scenario).map(|one| one.hash.clone());
        placed.retain(|(_, document)| document.scenario(scenario).is_some());
        // The newest session has the present meaning of the name. A duel has times of its own.
        let is_duel = |document: &Document| document.session.kind == SessionKind::Ab;
        let newest = placed.iter().rfind(|(_, document)| !is_duel(document)).or(placed.last());
        let newest = newest.and_then(|(_, document)| hash(document));
        let all = placed.len();
        placed.retain(|(_, document)| hash(document) == newest);
        let mut history = Self {
            schema: 1,
            scenario: scenario.to_owned(),
            metric,
            unit: metric.unit(),
            epochs: Vec::new(),
            points: Vec::new(),
            others: all - placed.len(),
            change_points: None,
        };
        let first = placed.first().map_or(0, |(at, _)| *at);
        for (at, document) in placed {
            history.add(at - first, &log[at], document);
        }
        history
    }

    fn add(&mut self, at: usize, (hash, subject): &(String, String), document: &Document) {
        let Some((value, runs)) = figure(document, &self.scenario, self.metric) else { return };
        let epoch = Epoch::of(document);
        let known = self.epochs.iter().position(|one| *one == epoch);
        let epoch = known.unwrap_or_else(|| {
            self.epochs.push(epoch);
            self.epochs.len() - 1
        });
        self.points.push(Point {
            at,
            commit: hash.clone(),
            dirty: document.subject.dirty == Some(true),
            subject: subject.clone(),
            start: document.session.start,
            runs,
            value,
            epoch,
        });
    }

    /// Returns the index of the point before this one in the same epoch.
    pub(crate) fn before(&self, index: usize) -> Option<usize> {
        let epoch = self.points[index].epoch;
        (0..index).rev().find(|&earlier| self.points[earlier].epoch == epoch)
    }

    /// Looks for change points within each epoch.
    pub(crate) fn find_changes(&mut self) {
        let mut changes: Vec<Change> =
            (0..self.epochs.len()).flat_map(|epoch| self.changes_of(epoch)).collect();
        changes.sort_by_key(|change| change.first);
        self.change_points = Some(changes);
    }

    fn changes_of(&self, epoch: usize) -> Vec<Change> {
        let of_epoch = |index: &usize| self.points[*index].epoch == epoch;
        let places: Vec<usize> = (0..self.points.len()).filter(of_epoch).collect();
        let values: Vec<f64> = places.iter().map(|&index| self.points[index].value).collect();
        // A change of less than half of the threshold would be too small to act on.
        let found = change_points(&values, MOST_P, self.metric.default_threshold() / 2.0);
        let borders: Vec<usize> = found.iter().map(|one| one.index).collect();
        let change = |(number, found): (usize, &ChangePoint)| {
            let index = found.index;
            let begin = if number == 0 { 0 } else { borders[number - 1] };
            let end = borders.get(number + 1).copied().unwrap_or(places.len());
            let (last, first) = (places[index - 1], places[index]);
            let beyond = [index.saturating_sub(2).max(begin), (index + 1).min(end - 1)];
            let beyond = beyond.map(|place| places[place]);
            let is_other = beyond != [last, first];
            Change {
                last,
                first,
                before: found.before,
                after: found.after,
                ratio: found.ratio(),
                p: found.p,
                commits: self.points[first].at - self.points[last].at,
                confirmation: None,
                sides: [[last, first]].into_iter().chain(is_other.then_some(beyond)).collect(),
            }
        };
        found.iter().enumerate().map(change).collect()
    }

    /// Finds the cause of each change point by `duel`, which compares two commits today.
    pub(crate) fn confirm<E>(
        &mut self,
        mut duel: impl FnMut(&[String; 2]) -> Result<Dueled, E>,
    ) -> Result<(), E> {
        let points = &self.points;
        for change in self.change_points.iter_mut().flatten() {
            let commit = |index: usize| points[index].commit.clone();
            let sides: Vec<[String; 2]> =
                change.sides.iter().map(|side| side.map(commit)).collect();
            let dirty = [change.last, change.first].into_iter().find(|&index| points[index].dirty);
            let mut duel = |commits: &[String; 2]| match dirty {
                Some(index) => Ok(Dueled::Failed(format!(
                    "the session of {} measured uncommitted changes, which cannot be built",
                    points[index].short()
                ))),
                None => duel(commits),
            };
            change.confirmation = Some(Confirmation::by_duels(change.ratio, &sides, &mut duel)?);
        }
        Ok(())
    }
}

/// Returns a session's figure, in the unit that is shown, and the number of runs behind it.
fn figure(document: &Document, scenario: &str, metric: Metric) -> Option<(f64, usize)> {
    let load = &document.scenario(scenario)?.parameters;
    let runs = newer_side(document).filter(|run| run.scenario == scenario && is_sound(run));
    let measured = runs.filter_map(|run| metric.of(run, load));
    let is_it = |count: &&Count| count.scenario == scenario && count.counter == metric.name();
    let counted = document.counts.iter().filter(is_it).map(|count| count.per_message);
    let values: Vec<f64> = measured.chain(counted).collect();
    let count = values.len();
    Some((metric.shown(median(values)?), count))
}

#[cfg(test)]
mod tests;
