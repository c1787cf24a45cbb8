//! `sparring-loadgen compare`: two stored sessions, or the two sides of one.

use std::path::Path;

use anyhow::{anyhow, bail, ensure};
use clap::Args;

use super::output::FormatArguments;
use super::selection::SelectionArguments;
use super::{INVALID, REGRESSED};
use crate::compare::noise::Noises;
use crate::compare::sessions::{cautions_between, refusals};
use crate::compare::{Conclusion, MIN_PAIRS, Metric, Threshold, Verdict};
use crate::report::text::comparison::comparison;
use crate::report::{Blocks, Field};
use crate::result::{Document, Scenario, Selection, SessionKind, Store, Stored, commit_of};

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen compare a.json b.json       two files
  sparring-loadgen compare HEAD~1 HEAD         the newest stored sessions of two commits
  sparring-loadgen compare duel.json           the sides of one interleaved session, judged again

Where a stored duel of both commits exists it is taken: its runs alternated, and its pairs decide. Otherwise the comparison
is ADVISORY (Mann-Whitney over the runs of each side): between the sessions the machine itself may have changed.

Exit status: 0 compared; 1 they do not compare, or cannot be read; 2 wrong usage; 11 an interleaved comparison says
regressed; 13 nothing could be judged of an interleaved one.";

/// Refuses other machines, builds, scenarios and engines; marks another generator.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CompareArguments {
    /// A file, a tag, a commit (hash or a name that git knows), or `last`; of several the newest
    /// that compares.
    base: String,

    /// The other side, named like BASE. Without it BASE must be an interleaved session.
    new: Option<String>,

    /// Compare also sessions of different machines, builds, scenarios or engines. The output says
    /// so.
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    selection: SelectionArguments,

    #[command(flatten)]
    format: FormatArguments,
}

impl CompareArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let base = self.selection.named(&self.base)?;
        let Some(new) = &self.new else { return self.one(newest(base)?) };
        if let Some(duel) = self.duel(new)? {
            return self.one(duel);
        }
        let new = newest(self.selection.named(new)?)?;
        let base = best(base, &new)?;
        self.two(&base, &new)
    }

    fn duel(&self, new: &str) -> anyhow::Result<Option<Stored>> {
        let commit = |name: &str| {
            let hash = name.len() >= 7 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
            if hash { Some(name.to_owned()) } else { commit_of(name) }
        };
        let (Some(a), Some(b)) = (commit(&self.base), commit(new)) else { return Ok(None) };
        let (found, _) = self.selection.store().select(&self.selection.only)?;
        Ok(found.into_iter().rfind(|stored| stored.document.is_duel_of(&a, &b)))
    }

    fn one(&self, Stored { path, document }: Stored) -> anyhow::Result<u8> {
        let path = path.display();
        ensure!(
            document.session.kind == SessionKind::Ab,
            "{path} is not an interleaved session: name a second one to compare it with"
        );
        let compared = interleaved(&self.selection.results, &document)?;
        let blocks = Blocks::default().title(format!("{path}, interleaved"));
        self.format.print(&blocks.then(comparison(&compared)), false)?;
        Ok(match compared.overall {
            None => INVALID,
            Some(Verdict::Regressed) => REGRESSED,
            Some(_) => 0,
        })
    }

    fn two(&self, base: &Stored, new: &Stored) -> anyhow::Result<u8> {
        let (compared, notes) = sessions(&self.selection.results, base, new, self.force)?;
        let side = |name: &String, stored: &Stored| {
            let measured = stored.document.session.start;
            Field::new(name, format!("{} ({measured})", stored.path.display()))
        };
        let [a, b] = &compared.sides;
        let blocks = Blocks::default().fields(vec![side(a, base), side(b, new)]);
        self.format.print(&blocks.then(comparison(&compared)).notes(notes), false)?;
        Ok(0)
    }
}

fn newest(mut found: Vec<Stored>) -> anyhow::Result<Stored> {
    found.pop().ok_or_else(|| anyhow!("there is no such session"))
}

/// The newest of `found` that compares with `new` and is another one; else the newest, so that the
/// refusal says why.
fn best(mut found: Vec<Stored>, new: &Stored) -> anyhow::Result<Stored> {
    let compares = |stored: &Stored| {
        stored.path != new.path && refusals(&stored.document, &new.document).is_empty()
    };
    if let Some(at) = found.iter().rposition(compares) {
        found.truncate(at + 1);
    }
    newest(found)
}

/// Compares two sessions, also those that do not compare where that is forced. Returns what must be
/// known of it too.
pub(super) fn sessions(
    results: &Path,
    base: &Stored,
    new: &Stored,
    is_forced: bool,
) -> anyhow::Result<(Conclusion, Vec<String>)> {
    let refusals = refusals(&base.document, &new.document);
    if !refusals.is_empty() && !is_forced {
        let (base, new, why) = (base.path.display(), new.path.display(), refusals.join(" "));
        bail!("{base} and {new} do not compare. {why} --force compares them all the same");
    }
    let thresholds = thresholds(results, &new.document)?;
    let compared = Conclusion::of_sessions(&base.document, &new.document, &thresholds);
    let is_same = base.document == new.document;
    let same = is_same.then(|| "A and B are the same session: every figure is equal".to_owned());
    let forced = refusals.into_iter().map(|refusal| format!("FORCED: {refusal}"));
    let cautions = cautions_between(&base.document, &new.document).into_iter();
    let cautions = cautions.map(|caution| format!("NOTE: {caution}"));
    Ok((compared, same.into_iter().chain(forced).chain(cautions).collect()))
}

/// The sides of an interleaved session against the thresholds of its machine.
fn interleaved(results: &Path, document: &Document) -> anyhow::Result<Conclusion> {
    Ok(Conclusion::of_arms(document, &thresholds(results, document)?))
}

/// Returns the stored conclusion of an interleaved session, against the thresholds of its time. A
/// session without a verdict is judged now.
pub(super) fn concluded(results: &Path, document: &Document) -> anyhow::Result<Conclusion> {
    Conclusion::stored(document).cloned().map_or_else(|| interleaved(results, document), Ok)
}

/// Returns the thresholds of metrics on the machine of `document`, whose noise may be among the
/// stored results.
fn thresholds(
    results: &Path,
    document: &Document,
) -> anyhow::Result<impl Fn(&Scenario, Metric) -> Threshold + use<>> {
    let noises = noises(results, &document.machine.id)?;
    let pairs = MIN_PAIRS.max(document.rounds() as usize);
    Ok(move |scenario: &Scenario, metric| noises.threshold(scenario, metric, pairs))
}

pub(super) fn noises(results: &Path, machine: &str) -> anyhow::Result<Noises> {
    let selection = Selection { machine: Some(machine.to_owned()), ..Selection::default() };
    let (found, _) = Store::new(results).select(&selection)?;
    Ok(Noises::among(found.into_iter().map(|stored| (stored.file_name(), stored.document))))
}
