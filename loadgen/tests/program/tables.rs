//! Tables of the documents, which `scripts/tables.sh` writes from stored sessions.

use std::fs;
use std::path::{Path, PathBuf};

use super::{loadgen, text};

/// Documents of the project, at its top and up to two folders below.
fn documents(root: &Path) -> Vec<PathBuf> {
    let entries = |folder: &Path| {
        let entries = fs::read_dir(folder).map(|entries| entries.flatten().collect::<Vec<_>>());
        entries.unwrap_or_default().into_iter().map(|entry| entry.path())
    };
    let folders = |folder: &Path| {
        entries(folder).filter(|path| path.is_dir() && !path.ends_with("target")).collect::<Vec<_>>()
    };
    let below = folders(root);
    let deeper = below.iter().flat_map(|folder| folders(folder)).collect::<Vec<_>>();
    let all = [root.to_owned()].into_iter().chain(below).chain(deeper);
    let is_document = |path: &PathBuf| path.extension().is_some_and(|end| end == "md");
    all.flat_map(|folder| entries(&folder)).filter(is_document).collect()
}

#[test]
fn every_table_of_the_documents_is_that_of_its_session() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut tables = 0;
    for path in documents(&root) {
        let document = fs::read_to_string(&path).expect("readable");
        for part in document.split("\n<!-- show: ").skip(1) {
            let (words, rest) = part.split_once(" -->\n").expect("the marker ends");
            let (table, _) = rest.split_once("\n<!-- /show -->").expect("the table ends");
            let words: Vec<&str> = words.split_whitespace().collect();
            let mut command = loadgen(&[&["show"], &words[..]].concat());
            let output = command.current_dir(&root).env("COLUMNS", "100").output().expect("it runs");
            assert!(output.status.success(), "{words:?}: {}", text(&output.stderr));
            let shown = text(&output.stdout);
            let expected = match words.contains(&"--markdown") {
                true => shown.trim_end().to_owned(),
                false => format!("```text\n{}\n```", shown.trim_end()),
            };
            assert_eq!(table, expected, "{}: run scripts/tables.sh", path.display());
            tables += 1;
        }
    }
    assert!(tables > 0, "no document has a table");
}
