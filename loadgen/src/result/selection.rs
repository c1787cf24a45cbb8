//! Finding stored sessions: by machine, scenario, commit, tag, or file.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;

use super::document::{Arm, Document, SessionKind};
use super::store::{Store, StoreError};

/// Sessions that are meant; every field that is set must fit.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct Selection {
    /// Only sessions of this machine (an id, or its beginning).
    #[arg(long, value_name = "ID")]
    pub(crate) machine: Option<String>,

    /// Only sessions that have this scenario.
    #[arg(long, value_name = "NAME")]
    pub(crate) scenario: Option<String>,

    /// Only sessions of this commit (a hash, its beginning, or a name that git knows).
    #[arg(long, value_name = "COMMIT", value_parser = hash)]
    pub(crate) commit: Option<String>,

    /// Only sessions with this tag, or of this experiment.
    #[arg(long, value_name = "NAME")]
    pub(crate) tag: Option<String>,
}

/// Returns the hash of a commit that is named by its beginning or as git knows it.
fn hash(name: &str) -> Result<String, Infallible> {
    let is_hash = name.len() >= 4 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let resolved = if is_hash { None } else { commit_of(name) };
    Ok(resolved.unwrap_or_else(|| name.to_ascii_lowercase()))
}

impl Selection {
    /// Returns whether `document` is meant.
    pub(crate) fn fits(&self, document: &Document) -> bool {
        let is = |wanted: &Option<String>, test: &dyn Fn(&str) -> bool| {
            wanted.as_deref().is_none_or(test)
        };
        let Document { session, machine, scenarios, .. } = document;
        is(&self.machine, &|id| machine.id.starts_with(id))
            && is(&self.scenario, &|name| scenarios.iter().any(|scenario| scenario.name == name))
            && is(&self.commit, &|commit| document.commits().any(|own| own.starts_with(commit)))
            && is(&self.tag, &|tag| {
                [&session.tag, &session.suite].iter().any(|own| own.as_deref() == Some(tag))
            })
    }
}

impl Document {
    pub(crate) fn commits(&self) -> impl Iterator<Item = &str> {
        let arms = self.arms.iter().map(|arm| &arm.subject);
        arms.chain([&self.subject]).filter_map(|subject| subject.commit.as_deref())
    }

    /// Returns whether this is the interleaved comparison of a server of commit `a` with one of
    /// commit `b`.
    pub(crate) fn is_duel_of(&self, a: &str, b: &str) -> bool {
        let of = |arm: Option<&Arm>, commit: &str| {
            let own = arm.and_then(|arm| arm.subject.commit.as_deref());
            own.is_some_and(|own| own.starts_with(commit))
        };
        let is_of_two = self.arms.len() == 2 || self.placebo().is_some();
        let (first, last) = (self.arms.first(), self.arms.last());
        self.session.kind == SessionKind::Ab && is_of_two && of(first, a) && of(last, b)
    }

    /// Returns the name of the arm that is the first side once more: in an interleaved comparison
    /// with three arms the middle one.
    pub(crate) fn placebo(&self) -> Option<&str> {
        match &self.arms[..] {
            [_, placebo, _] if self.session.kind == SessionKind::Ab => Some(&placebo.name),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Stored {
    pub(crate) path: PathBuf,
    pub(crate) document: Document,
}

impl Stored {
    /// Returns the name of the file, without its folder.
    pub(crate) fn file_name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }
}

impl Store {
    /// The sessions that fit, oldest first, and the files that cannot be read: one damaged file
    /// does not hide the others.
    pub(crate) fn select(
        &self,
        selection: &Selection,
    ) -> Result<(Vec<Stored>, Vec<StoreError>), StoreError> {
        let (mut found, mut unreadable) = (Vec::new(), Vec::new());
        for machine in self.machines()? {
            for path in self.sessions(&machine)? {
                match Self::load(&path) {
                    Ok(document) if selection.fits(&document) => {
                        found.push(Stored { path, document });
                    }
                    Ok(_) => {}
                    Err(error) => unreadable.push(error),
                }
            }
        }
        found.sort_by_key(|stored| stored.document.session.start);
        Ok((found, unreadable))
    }

    /// Returns the sessions that `what` names, oldest first, at least one. `what` can be a file,
    /// also one below the root. Otherwise it is a tag or the name of an experiment, the beginning
    /// of a commit, or a revision that git resolves, tried in this order. `last` means all
    /// sessions.
    pub(crate) fn named(&self, what: &str) -> Result<Vec<Stored>, StoreError> {
        let path = Path::new(what);
        let below = self.root().join(path);
        let file = if !path.exists() && below.is_file() { below } else { path.to_owned() };
        // A directory may have the name of a tag or a branch.
        if file.exists() && !file.is_dir() || what.ends_with(".json") {
            return Ok(vec![Stored { document: Self::load(&file)?, path: file }]);
        }
        // What was counted has no runs to compare or to draw: it is found by `history` and as a
        // file.
        let find = |selection: Selection| {
            let has_runs = |stored: &Stored| stored.document.session.kind != SessionKind::Count;
            self.select(&selection)
                .map(|(found, _)| found.into_iter().filter(has_runs).collect::<Vec<_>>())
        };
        let of_commit = |commit| find(Selection { commit: Some(commit), ..Selection::default() });
        let mut found = match what {
            "last" => find(Selection::default())?,
            tag => find(Selection { tag: Some(tag.to_owned()), ..Selection::default() })?,
        };
        if found.is_empty() && what.len() >= 7 {
            found = of_commit(what.to_owned())?;
        }
        if found.is_empty() && what != "last" {
            match commit_of(what) {
                Some(commit) => found = of_commit(commit)?,
                // Says that it is one.
                None if file.is_dir() => drop(Self::load(&file)?),
                None => {}
            }
        }
        if found.is_empty() {
            return Err(StoreError::Nothing {
                what: what.to_owned(),
                root: self.root().to_owned(),
            });
        }
        Ok(found)
    }
}

/// Commit of a revision, from git in the current directory; `None` where git does not know it, or
/// is missing.
pub(crate) fn commit_of(revision: &str) -> Option<String> {
    let asked = Command::new("git")
        .args([
            "rev-parse",
            "--verify",
            "--quiet",
            "--end-of-options",
            &format!("{revision}^{{commit}}"),
        ])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let said = asked.ok().filter(|output| output.status.success())?.stdout;
    Some(String::from_utf8_lossy(&said).trim().to_owned())
        .filter(|commit| crate::target::subject::is_commit(commit))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::result::{Arm, Utc, example};

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            Self(
                std::env::temp_dir()
                    .join(format!("sparring-selection-{name}-{}", std::process::id())),
            )
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn session(commit: &str, tag: Option<&str>, at_s: u64) -> Document {
        let mut document = example::document();
        document.subject.commit = Some(commit.to_owned());
        document.session.tag = tag.map(str::to_owned);
        document.session.start = Utc::from_unix_ms(1_800_000_000_000 + at_s * 1000);
        document
    }

    #[test]
    fn sessions_are_found_by_what_is_known_of_them() {
        let document = session("0123456789ab", Some("before"), 0);
        let fits = |change: fn(&mut Selection, &str), text: &str| {
            let mut selection = Selection::default();
            change(&mut selection, text);
            selection.fits(&document)
        };
        assert!(Selection::default().fits(&document));
        for (change, right, wrong) in [
            (
                (|s: &mut Selection, t: &str| s.machine = Some(t.into()))
                    as fn(&mut Selection, &str),
                "0123",
                "9",
            ),
            (|s, t| s.scenario = Some(t.into()), "echo", "ech"),
            (|s, t| s.commit = Some(t.into()), "0123456", "123"),
            (|s, t| s.tag = Some(t.into()), "before", "befor"),
        ] {
            assert!(fits(change, right) && !fits(change, wrong), "{right} {wrong}");
        }
        assert!(
            fits(|s, t| s.tag = Some(t.into()), "quick"),
            "an experiment's name is as good as a tag"
        );
    }

    #[test]
    fn a_name_is_a_file_a_tag_or_a_commit_and_the_newest_comes_last() {
        let folder = Folder::new("named");
        let store = Store::new(&folder.0);
        let old = store.save(&session("aaaaaaaaaaaa", Some("one"), 0)).expect("stored");
        let new = store.save(&session("aaaaaaaabbbb", Some("two"), 9)).expect("stored");
        let paths = |what: &str| {
            let found = store.named(what).expect("found");
            found.into_iter().map(|stored| stored.path).collect::<Vec<_>>()
        };
        assert_eq!(paths("aaaaaaa"), [old.clone(), new.clone()]);
        assert_eq!(paths("last"), [old.clone(), new.clone()]);
        assert_eq!(paths("aaaaaaaab"), [new]);
        assert_eq!(paths(&old.to_string_lossy()), std::slice::from_ref(&old));
        assert_eq!(paths("one"), [old]);
        let error = store.named("no-such-thing").expect_err("nothing").to_string();
        assert!(error.contains("no-such-thing") && error.contains("list"), "{error}");
        assert!(matches!(store.named("gone.json"), Err(StoreError::Io { .. })));
    }

    #[test]
    fn a_damaged_file_does_not_hide_the_others() {
        let folder = Folder::new("damaged");
        let store = Store::new(&folder.0);
        let good = store.save(&session("aaaaaaaaaaaa", None, 0)).expect("stored");
        fs::write(good.with_file_name("cut.json"), "{").expect("written");
        let (found, unreadable) = store.select(&Selection::default()).expect("readable");
        assert_eq!((found.len(), unreadable.len()), (1, 1));
        assert!(
            Store::new("/nonexistent").select(&Selection::default()).expect("nothing").0.is_empty()
        );
    }

    #[test]
    fn both_servers_of_a_duel_are_known() {
        let mut duel = session("bbbbbbbbbbbb", None, 0);
        duel.session.kind = SessionKind::Ab;
        let mut before = duel.subject.clone();
        before.commit = Some("aaaaaaaaaaaa".into());
        let arm = |name: &str, subject: &crate::target::subject::Subject| Arm {
            name: name.into(),
            subject: subject.clone(),
            ..Arm::default()
        };
        duel.arms = vec![arm("A", &before), arm("B", &duel.subject)];
        assert!(
            duel.is_duel_of("aaaaaaa", "bbbbbbbbbbbb") && !duel.is_duel_of("bbbbbbb", "aaaaaaa")
        );
        assert!(Selection { commit: Some("aaaaaaa".into()), ..Selection::default() }.fits(&duel));
    }
}
