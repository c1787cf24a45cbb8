//! Tables of the documents, which `scripts/tables.sh` writes from stored sessions.

use std::fs;

use super::documents::{documents, root};
use super::{loadgen, text};

#[test]
fn every_table_of_the_documents_matches_its_session() {
    let root = root();
    let mut tables = 0;
    for path in documents() {
        let document = fs::read_to_string(&path).expect("readable");
        for part in document.split("\n<!-- show: ").skip(1) {
            let (words, rest) = part.split_once(" -->\n").expect("the marker ends");
            let (table, _) = rest.split_once("\n<!-- /show -->").expect("the table ends");
            let words: Vec<&str> = words.split_whitespace().collect();
            let mut command = loadgen(&[&["show"], &words[..]].concat());
            let output =
                command.current_dir(&root).env("COLUMNS", "100").output().expect("it runs");
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
