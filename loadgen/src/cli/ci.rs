//! `sparring-loadgen ci`: a server against its base on a runner of a CI system, with a control.

use std::env;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;

use super::output::{FormatArguments, Output};
use super::pairs::{PairsArguments, arm_of, commit};
use super::session::{DUEL_PAIRS, Finished, JudgeArguments};
use super::{OUTPUT, SERVER, print, say, usage, with_causes};
use crate::compare::{Conclusion, MIN_PAIRS};
use crate::experiment::{Arm, Experiment, Setup, arm_name};
use crate::report::annotations::{Annotation, Level, annotations};
use crate::report::{Blocks, Format};
use crate::result::{Placebo, Presentation, SessionVerdict};

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen ci --base 'node base/server.js {port}' --head 'node head/server.js {port}'
  sparring-loadgen ci --base-dir base --head-dir head --base 'node server.js {port}' --head 'node server.js {port}' \\
                      --scenario pipeline --threshold server-cpu=3% --markdown report.md --confirm

A duel with a control. Each round runs the base, the base once more (the placebo) and the head, in an order that rotates,
saturated and at a fixed rate. The placebo has a port of its own and another working folder: links to what is in the base's.
Verdicts are those of `duel`, with two conditions: the same rule must not call the placebo changed, and a change must show
against the base and against the placebo. Where the placebo is called changed, or has fewer than 8 valid pairs, the runner
cannot tell, and nothing is red.

The table goes to standard output, as Markdown to the file of --markdown, and to the end of $GITHUB_STEP_SUMMARY where that is
set. With GITHUB_ACTIONS=true there are annotations too (::error, ::warning, ::notice).

Exit status: 0 not regressed, or this runner cannot tell; 1 error, a server that fails in every attempt, or an echo that was not
what was sent; 2 wrong usage; 11 regressed; 12 inconclusive, with --fail-inconclusive; 13 the head has too few valid runs; 130,
143, 129 ended by SIGINT (Ctrl-C), SIGTERM, SIGHUP.";

/// Name of the arm that is the base once more.
const PLACEBO: &str = "placebo";

/// The commands are split as a shell would but run without one.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct CiArguments {
    /// The server to compare with, of the branch that a change goes to; {port} becomes a free port.
    #[arg(long, value_name = "COMMAND", help_heading = SERVER)]
    base: String,

    /// The server in question, with the change.
    #[arg(long, value_name = "COMMAND", help_heading = SERVER)]
    head: String,

    /// Working folder of the base [default: the present one].
    #[arg(long, value_name = "DIR", help_heading = SERVER)]
    base_dir: Option<PathBuf>,

    /// Working folder of the head [default: the present one].
    #[arg(long, value_name = "DIR", help_heading = SERVER)]
    head_dir: Option<PathBuf>,

    /// Working folder of the placebo, such as a copy of the base's [default: a temporary one with
    /// links to what is in the base's].
    #[arg(long, value_name = "DIR", help_heading = SERVER)]
    placebo_dir: Option<PathBuf>,

    /// A name for the base in tables and results.
    #[arg(long, value_name = "NAME", value_parser = arm_name, default_value = "base", help_heading = SERVER)]
    base_name: String,

    /// A name for the head.
    #[arg(long, value_name = "NAME", value_parser = arm_name, default_value = "head", help_heading = SERVER)]
    head_name: String,

    /// The commit that the base was built from, for the result.
    #[arg(long, value_name = "HASH", value_parser = commit, help_heading = SERVER)]
    base_commit: Option<String>,

    /// The commit that the head was built from.
    #[arg(long, value_name = "HASH", value_parser = commit, help_heading = SERVER)]
    head_commit: Option<String>,

    /// Rounds: runs of each of the three arms under each load.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(MIN_PAIRS as i64..=1000))]
    rounds: u32,

    /// Write the result as Markdown too; - prints Markdown in place of text.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    markdown: Option<PathBuf>,

    #[command(flatten)]
    judge: JudgeArguments,

    #[command(flatten)]
    pairs: PairsArguments,
}

impl CiArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let to_error = self.pairs.session.has_standard_output();
        // Otherwise the Markdown has a file of its own.
        let is_printed = self.markdown.as_deref() == Some(Path::new("-"));
        let placebo_folder = self.placebo_folder()?;
        let (experiment, setup) = self.experiment(placebo_folder.path())?;
        let format = FormatArguments::new(is_printed);
        let command = self.pairs.command(&experiment, &setup, &self.judge, format, DUEL_PAIRS)?;
        let file = self.markdown.as_deref().filter(|_| !is_printed);
        let mut output = file.map(|path| Output::open("--markdown", path)).transpose()?;
        let finished = command.finish();
        let annotated = annotated(&finished);
        if is_on_github() {
            annotated.iter().try_for_each(|line| print(&line.to_string(), to_error))?;
        }
        let finished = finished.inspect_err(|failure| {
            append_to_summary(&(failed(&with_causes(failure)) + "\n"));
        })?;
        let text = markdown(&finished);
        if let (Some(output), false) = (&mut output, text.is_empty()) {
            output.write(text.as_bytes())?;
        }
        append_to_summary(&text);
        finished.fault.map_or(Ok(finished.code), |fault| Err(fault.into()))
    }

    fn placebo_folder(&self) -> anyhow::Result<PlaceboFolder> {
        let given = [
            ("--base-dir", &self.base_dir),
            ("--head-dir", &self.head_dir),
            ("--placebo-dir", &self.placebo_dir),
        ];
        for (flag, folder) in given {
            if let Some(folder) = folder.as_deref().filter(|folder| !folder.is_dir()) {
                let folder = folder.display();
                return Err(usage(format!(
                    "{flag} `{folder}` is not a valid folder: expected one that exists"
                )));
            }
        }
        match &self.placebo_dir {
            Some(folder) => Ok(PlaceboFolder::Given(folder.clone())),
            None => PlaceboFolder::of_links(self.base_dir.as_deref().unwrap_or(Path::new(".")))
                .context("cannot make a folder for the placebo; --placebo-dir names one"),
        }
    }

    fn experiment(&self, placebo_folder: &Path) -> anyhow::Result<(Experiment, Setup)> {
        if self.base_name == self.head_name
            || [&self.base_name, &self.head_name].contains(&&PLACEBO.to_owned())
        {
            let (base, head) = (&self.base_name, &self.head_name);
            return Err(usage(format!(
                "--base-name `{base}` and --head-name `{head}` are not valid: expected two names beside `{PLACEBO}`"
            )));
        }
        let base = Arm {
            directory: self.base_dir.clone(),
            commit: self.base_commit.clone(),
            ..arm_of(&self.base_name, &self.base)?
        };
        let placebo = Arm {
            name: PLACEBO.to_owned(),
            directory: Some(placebo_folder.to_owned()),
            ..base.clone()
        };
        let head = Arm {
            directory: self.head_dir.clone(),
            commit: self.head_commit.clone(),
            ..arm_of(&self.head_name, &self.head)?
        };
        let arms = vec![base, placebo, head];
        let (mut experiment, mut setup) =
            self.pairs.experiment("ci", Presentation::Verdict, arms, self.rounds)?;
        experiment.description = "a server, its base, and the base once more".to_owned();
        let tag = || format!("{}-against-{}", self.head_name, self.base_name);
        setup.tag = setup.tag.or_else(|| Some(tag()));
        Ok((experiment, setup))
    }
}

/// The working folder of the placebo.
#[derive(Debug)]
enum PlaceboFolder {
    Given(PathBuf),
    /// A temporary folder with a link to each entry of the base's. Dropping removes it.
    Links(PathBuf),
}

impl PlaceboFolder {
    fn of_links(base: &Path) -> anyhow::Result<Self> {
        let folder = env::temp_dir().join(format!("sparring-placebo-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        // From here on it is removed.
        let links = Self::Links(folder.clone());
        let base =
            base.canonicalize().with_context(|| format!("cannot read {}", base.display()))?;
        for entry in
            fs::read_dir(&base).with_context(|| format!("cannot read {}", base.display()))?
        {
            let entry = entry?;
            symlink(entry.path(), folder.join(entry.file_name()))?;
        }
        Ok(links)
    }

    fn path(&self) -> &Path {
        match self {
            Self::Given(folder) | Self::Links(folder) => folder,
        }
    }
}

impl Drop for PlaceboFolder {
    fn drop(&mut self) {
        if let Self::Links(folder) = self {
            // It has links alone, and what a server has written into it.
            let _ = fs::remove_dir_all(folder);
        }
    }
}

/// Returns true on a runner of GitHub Actions, and of systems that speak its language.
fn is_on_github() -> bool {
    env::var_os("GITHUB_ACTIONS").is_some_and(|value| value == "true")
}

/// Returns the annotations of a result, or of what kept it from being made.
fn annotated(finished: &anyhow::Result<Finished>) -> Vec<Annotation> {
    let error = |error: String| vec![Annotation::new(Level::Error, "sparring", error)];
    let finished = match finished {
        Err(failure) => return error(with_causes(failure)),
        Ok(Finished { fault: Some(fault), .. }) => return error(fault.to_string()),
        Ok(finished) => finished,
    };
    let last = finished.sessions.last().map(|concluded| &concluded.document.verdict);
    let Some(Some(SessionVerdict::Comparison(conclusion))) = last else { return Vec::new() };
    let level = match finished.code {
        0 if cannot_tell(conclusion) => Level::Warning,
        0 => Level::Notice,
        _ => Level::Error,
    };
    let confirmation = finished.confirmation.as_ref();
    let mut lines = annotations(conclusion, level);
    lines.extend(confirmation.map(|text| Annotation::new(level, "sparring", text)));
    lines
}

fn cannot_tell(conclusion: &Conclusion) -> bool {
    conclusion.placebo.as_ref().is_some_and(Placebo::cannot_tell)
}

/// Returns all sessions as Markdown, with a final newline; nothing after a dry run.
fn markdown(finished: &Finished) -> String {
    let sessions = finished.sessions.iter();
    let parts = sessions.map(|concluded| concluded.blocks.render(Format::Markdown));
    let fault = finished.fault.as_ref().map(|fault| failed(&fault.to_string()));
    let parts: Vec<String> = parts.chain(finished.confirmation.clone()).chain(fault).collect();
    if parts.is_empty() { String::new() } else { parts.join("\n\n") + "\n" }
}

/// Returns an error as Markdown.
fn failed(why: &str) -> String {
    Blocks::default().notes(vec![format!("FAILED {why}")]).render(Format::Markdown)
}

/// Appends a text to the summary of the job, where the CI system has one. The verdict does not
/// depend on it.
fn append_to_summary(text: &str) {
    let Some(path) =
        env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty() && !text.is_empty())
    else {
        return;
    };
    let file = File::options().append(true).create(true).open(&path);
    if let Err(error) = file.and_then(|mut file| file.write_all(text.as_bytes())) {
        let path = Path::new(&path).display();
        say(&format!("NOTE: cannot write $GITHUB_STEP_SUMMARY {path}: {error}"));
    }
}
