//! Wording and width of comments and documents.

use std::fs;
use std::path::{Path, PathBuf};

use super::documents::{documents, files, root};

/// Columns of a comment.
const WIDTH: usize = 100;

/// First words of a doc comment in place of a noun phrase or a verb.
const BAD_BEGINNINGS: [&str; 6] = ["What", "Whether", "How", "Whose", "Of", "So many"];

/// Phrases that a reader has to read twice, and that have a plain replacement.
const BAD_PHRASES: [&str; 7] =
    ["made up", "so many", " mends", "is no number", "treadmill", "last words", "swallow"];

/// Vague actors in comments, which can name the client, the caller or the code instead.
const VAGUE_ACTORS: [&str; 3] = ["everybody", "somebody", "whoever"];

/// Returns every Rust source of the project.
fn sources() -> Vec<PathBuf> {
    files(".rs")
}

/// Returns the text of a comment line, and its marker.
fn comment(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    let marker = ["///", "//!", "//"].into_iter().find(|marker| line.starts_with(marker))?;
    Some((marker, line[marker.len()..].trim()))
}

/// Returns the first of the phrases that is in a text.
fn bad_phrase(phrases: &[&'static str], text: &str) -> Option<&'static str> {
    let text = text.to_lowercase();
    phrases.iter().copied().find(|phrase| text.contains(phrase))
}

/// Returns the faults of a source's comments: line number and description.
fn faults(source: &str) -> Vec<(usize, String)> {
    let mut faults = Vec::new();
    let mut in_doc = false;
    for (number, line) in (1..).zip(source.lines()) {
        let Some((marker, text)) = comment(line) else {
            in_doc = false;
            continue;
        };
        if line.chars().count() > WIDTH && !text.contains("://") {
            faults.push((number, format!("{} columns", line.chars().count())));
        }
        for phrases in [&BAD_PHRASES[..], &VAGUE_ACTORS] {
            let phrase = bad_phrase(phrases, text);
            faults.extend(phrase.map(|phrase| (number, format!("\"{}\"", phrase.trim()))));
        }
        let begins =
            |word: &&&str| text.strip_prefix(**word).is_some_and(|rest| rest.starts_with(' '));
        if let Some(word) = BAD_BEGINNINGS.iter().find(begins)
            && marker != "//"
            && !in_doc
        {
            faults.push((number, format!("begins with \"{word}\"")));
        }
        in_doc = marker != "//";
    }
    faults
}

fn shown(path: &Path, faults: Vec<(usize, String)>) -> Vec<String> {
    let name = path.strip_prefix(root()).expect("a file of the project").display();
    faults.into_iter().map(|(number, fault)| format!("{name}:{number}: {fault}")).collect()
}

#[test]
fn comments_are_worded_and_wrapped_by_the_rules() {
    let read = |path: &PathBuf| fs::read_to_string(path).expect("a source");
    let wrong: Vec<String> =
        sources().iter().flat_map(|path| shown(path, faults(&read(path)))).collect();
    assert!(wrong.is_empty(), "{} faults\n{}", wrong.len(), wrong.join("\n"));
}

#[test]
fn documents_have_no_banned_phrase() {
    let wrong: Vec<String> = documents()
        .iter()
        .flat_map(|path| {
            let document = fs::read_to_string(path).expect("a document");
            let lines = (1..).zip(document.lines());
            let found = lines.filter_map(|(number, line)| {
                Some((number, bad_phrase(&BAD_PHRASES, line)?.to_owned()))
            });
            shown(path, found.collect())
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn each_kind_of_fault_in_a_comment_is_found() {
    let of = |source: &str| faults(source).into_iter().map(|(_, fault)| fault).collect::<Vec<_>>();
    assert_eq!(of(&format!("// {}", "a".repeat(98))), ["101 columns"]);
    assert!(of(&format!("// {} https://example.org", "a".repeat(98))).is_empty());
    assert_eq!(of("/// What it does."), ["begins with \"What\""]);
    assert!(of("/// Does it.\n/// What follows is a second line.").is_empty());
    assert!(of("// What a plain comment begins with is free.").is_empty());
    assert_eq!(of("    // Made up of two."), ["\"made up\""]);
    assert_eq!(of("// Whoever calls it."), ["\"whoever\""]);
    assert!(of("let what = \"/// What\";").is_empty());
}
