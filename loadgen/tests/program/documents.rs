//! Documents of the project: their sizes, links, line widths, and the commands that they name.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use super::{loadgen, text};

/// Columns of a line of prose.
const WIDTH: usize = 100;

/// Documents whose size is limited, with the limit in bytes.
const SIZES: [(&str, usize); 2] = [("README.md", 12 << 10), ("ARCHITECTURE.md", 15 << 10)];

/// Returns the folder of the project.
pub(super) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .expect("the folder of the project")
}

/// Returns every Markdown document of the project.
pub(super) fn documents() -> Vec<PathBuf> {
    files(".md")
}

/// Returns every file of the project whose name ends with `end`.
pub(super) fn files(end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder is readable").flatten() {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_project = !name.starts_with('.') && name != "target" && name != "node_modules";
            match entry.file_type() {
                Ok(kind) if kind.is_dir() && is_project => folders.push(path),
                Ok(kind) if kind.is_file() && name.ends_with(end) => found.push(path),
                _ => {}
            }
        }
    }
    found.sort();
    found
}

/// Kind of a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Prose,
    Table,
    Code,
    Comment,
    /// Written by `scripts/tables.sh`.
    Generated,
}

/// Returns each line with its kind.
fn lines(document: &str) -> Vec<(Kind, &str)> {
    let (mut in_fence, mut in_comment, mut is_generated) = (false, false, false);
    // An indented line continues a list item, unless a blank line or code comes before it.
    let (mut before, mut was_blank) = (Kind::Prose, true);
    let mut all = Vec::new();
    for line in document.lines() {
        let is_fence = line.trim_start().starts_with("```");
        is_generated =
            (is_generated || line.starts_with("<!-- show: ")) && line != "<!-- /show -->";
        let kind = if is_generated {
            Kind::Generated
        } else if is_fence || in_fence {
            in_fence ^= is_fence;
            Kind::Code
        } else if in_comment || line.starts_with("<!--") {
            in_comment = !line.contains("-->");
            Kind::Comment
        } else if line.starts_with("    ") && (was_blank || before == Kind::Code) {
            Kind::Code
        } else if line.starts_with('|') {
            Kind::Table
        } else {
            Kind::Prose
        };
        was_blank = line.trim().is_empty();
        if !was_blank {
            before = kind;
        }
        all.push((kind, line));
    }
    all
}

/// Returns the line without its links; of a link that begins on an earlier line, the part on this
/// line.
fn without_links(line: &str) -> String {
    let mut rest = String::from(line);
    while let Some(middle) = rest.find("](") {
        let begin = rest[..middle].rfind('[').unwrap_or(0);
        let Some(length) = rest[middle..].find(')') else { break };
        rest.replace_range(begin..=middle + length, "");
    }
    rest
}

/// Returns the numbers of lines of prose that are too wide.
fn wide_lines(document: &str) -> Vec<usize> {
    let all = lines(document).into_iter().zip(1..);
    let wide = all.filter(|((kind, line), _)| {
        *kind == Kind::Prose
            && line.chars().count() > WIDTH
            && without_links(line).chars().count() > WIDTH
    });
    wide.map(|(_, number)| number).collect()
}

/// Returns the targets of the links outside code.
fn links(document: &str) -> Vec<String> {
    let shown =
        lines(document).into_iter().filter(|(kind, _)| matches!(kind, Kind::Prose | Kind::Table));
    let shown: Vec<&str> = shown.map(|(_, line)| line).collect();
    // Every second part is a code span.
    let outside: String = shown.join("\n").split('`').step_by(2).collect::<Vec<_>>().join("`");
    let targets = outside.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
    targets.map(|(target, _)| target.to_owned()).collect()
}

/// Returns the anchors of the headings, as GitHub makes them.
fn anchors(document: &str) -> BTreeSet<String> {
    let mut counts = BTreeMap::<String, usize>::new();
    let headings = lines(document)
        .into_iter()
        .filter(|(kind, line)| *kind == Kind::Prose && line.starts_with('#'));
    let anchor = |(_, line): (Kind, &str)| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        let count = counts.entry(anchor.clone()).or_default();
        *count += 1;
        if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
    };
    headings.map(anchor).collect()
}

/// Returns the reason why a link of the document at `path` does not resolve.
fn broken(path: &Path, document: &str, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = path.parent().expect("a folder").join(file);
    let there = if file.is_empty() { Ok(document.to_owned()) } else { fs::read_to_string(&target) };
    match there {
        _ if !file.is_empty() && !target.exists() => Some(format!("({link}): no such file")),
        Ok(there) if !anchor.is_empty() && !anchors(&there).contains(anchor) => {
            Some(format!("({link}): no such heading"))
        }
        _ => None,
    }
}

#[test]
fn documents_have_at_most_their_size() {
    for (name, most) in SIZES {
        let size = fs::metadata(root().join(name)).expect("a document").len();
        assert!(size <= most as u64, "{name} has {size} bytes, {most} at most");
    }
}

#[test]
fn every_link_of_the_documents_resolves() {
    let mut faults = Vec::new();
    for path in documents() {
        let document = fs::read_to_string(&path).expect("readable");
        let found = links(&document).into_iter().filter_map(|link| broken(&path, &document, &link));
        faults.extend(found.map(|fault| format!("{}: {fault}", path.display())));
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn lines_of_prose_have_at_most_100_columns() {
    let mut faults = Vec::new();
    for path in documents() {
        let document = fs::read_to_string(&path).expect("readable");
        faults.extend(
            wide_lines(&document).into_iter().map(|line| format!("{}:{line}", path.display())),
        );
    }
    assert!(faults.is_empty(), "wider than {WIDTH} columns:\n{}", faults.join("\n"));
}

/// Returns the words of the commands in the code of a document: lines that begin with a word that
/// `is_program` accepts, with their continuations and without comments.
pub(super) fn commands(document: &str, is_program: impl Fn(&str) -> bool) -> Vec<Vec<String>> {
    let code = lines(document).into_iter().filter(|(kind, _)| *kind == Kind::Code);
    let code: Vec<&str> = code.map(|(_, line)| line).collect();
    let code = code.join("\n").replace("\\\n", " ");
    code.lines()
        .filter_map(shlex::split)
        .filter(|words| words.first().is_some_and(|word| is_program(word)))
        .collect()
}

#[test]
fn every_flag_of_the_generator_in_the_documents_exists() {
    let mut help = BTreeMap::<String, String>::new();
    let mut faults = Vec::new();
    let mut checked = 0;
    for path in documents() {
        let document = fs::read_to_string(&path).expect("readable");
        for words in commands(&document, |word| word.ends_with("sparring-loadgen")) {
            let Some(command) = words.get(1).filter(|word| !word.starts_with('-')) else {
                continue;
            };
            let help = help.entry(command.clone()).or_insert_with(|| {
                let output = loadgen(&[command, "--help"]).output().expect("the program runs");
                if output.status.success() { text(&output.stdout) } else { String::new() }
            });
            let known: BTreeSet<&str> =
                help.split(|c: char| !c.is_alphanumeric() && c != '-').collect();
            let flags = words[2..].iter().filter(|word| word.starts_with('-') && word.len() > 1);
            let unknown = flags.filter(|flag| !known.contains(flag.as_str())).cloned();
            faults.extend(unknown.map(|flag| format!("{}: {command} {flag}", path.display())));
            if help.is_empty() {
                faults.push(format!("{}: {command} is not a command", path.display()));
            }
            checked += 1;
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(checked > 20, "{checked} commands");
}

#[test]
fn every_flag_of_the_kubernetes_job_exists() {
    let manifest = fs::read_to_string(root().join("scripts/cluster/kubernetes.yaml"));
    let manifest = manifest.expect("readable");
    let help = text(&loadgen(&["run", "--help"]).output().expect("the program runs").stdout);
    let words = manifest.lines().filter_map(|line| line.trim().strip_prefix("- --"));
    let flags: Vec<&str> = words.filter_map(|word| word.split('=').next()).collect();
    let is_known = |flag: &str| help.contains(&format!("--{flag} "));
    let unknown: Vec<_> = flags.iter().filter(|flag| !is_known(flag)).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    assert!(flags.len() > 5, "{flags:?}");
}

#[test]
fn every_script_in_the_documents_exists_with_its_flags() {
    let mut faults = Vec::new();
    for path in documents() {
        let document = fs::read_to_string(&path).expect("readable");
        for words in
            commands(&document, |word| word.starts_with("scripts/") || word.starts_with(".ci/"))
        {
            let Ok(script) = fs::read_to_string(root().join(&words[0])) else {
                faults.push(format!("{}: {}", path.display(), words[0]));
                continue;
            };
            let own = words[1..].iter().take_while(|word| *word != "--");
            let flags = own.filter(|word| word.starts_with("--"));
            let unknown = flags.filter(|flag| !script.contains(flag.as_str()));
            faults.extend(unknown.map(|flag| format!("{}: {} {flag}", path.display(), words[0])));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn each_kind_of_fault_in_a_document_is_found() {
    let wide = "word ".repeat(21);
    assert_eq!(wide_lines(&format!("short\n{wide}\n")), [2]);
    assert_eq!(wide_lines(&format!("- {wide}\n  {wide}\n")), [1, 2]);
    let link = format!("[a link](https://{}.example/)", "x".repeat(100));
    let exempt = format!(
        "{link} and more\n| {wide} |\n```\n{wide}\n```\n\n    {wide}\n<!-- {wide} -->\n\
         <!-- show: a -->\n{wide}\n<!-- /show -->\n"
    );
    assert_eq!(wide_lines(&exempt), [0; 0]);

    let path = root().join("README.md");
    let document = "# One title\n\n## A `code`, twice\n\n## A `code`, twice\n\n[a](LICENSE-MIT) `[b](no)` [c](#one-title)\n";
    assert_eq!(links(document), ["LICENSE-MIT", "#one-title"]);
    let fault = |link: &str| broken(&path, document, link);
    let fine = ["LICENSE-MIT", "#one-title", "#a-code-twice-1", "server/", "https://example.org/"];
    assert_eq!(fine.map(fault), [None, None, None, None, None]);
    for link in
        ["no-such-file", "#no-such-heading", "server/README.md#no-such-heading", "#a-code-twice-2"]
    {
        assert!(fault(link).is_some(), "{link}");
    }

    let text = "    scripts/a.sh -x  # why\n\n    sparring-loadgen run URL --spawn 'a -b' \\\n        -R 50k\n\nsparring-loadgen in prose\n";
    assert_eq!(commands(text, |word| word.starts_with("scripts/")), [["scripts/a.sh", "-x"]]);
    assert_eq!(
        commands(text, |word| word == "sparring-loadgen"),
        [["sparring-loadgen", "run", "URL", "--spawn", "a -b", "-R", "50k"]]
    );
}
