//! The top-level modules of the crate, of which each uses only those before it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The modules from the lowest to the highest.
const ORDER: [&str; 15] = [
    "format",
    "load",
    "host",
    "target",
    "result",
    "run",
    "goal",
    "compare",
    "experiment",
    "conformance",
    "doctor",
    "echo",
    "selfcheck",
    "report",
    "cli",
];

#[test]
fn modules_use_only_lower_ones() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let known: BTreeSet<String> = ORDER.map(str::to_owned).into();
    assert_eq!(modules(&sources), known, "every module has its place in the order");
    let mut faults = BTreeSet::new();
    for (place, module) in ORDER.iter().enumerate() {
        for file in files(&sources.join(module)) {
            let text = fs::read_to_string(&file).expect("a source is readable");
            let is_higher = |used: &String| ORDER[place + 1..].contains(&used.as_str());
            faults.extend(
                used_in(&text)
                    .into_iter()
                    .filter(is_higher)
                    .map(|used| (*module, used, file.clone())),
            );
        }
    }
    assert!(faults.is_empty(), "a module uses a higher one: {faults:#?}");
}

#[test]
fn used_modules_are_found_in_source_text() {
    let text = "use crate::{load, run::Plan};\n/// [`crate::cli`]\nlet a = crate::host::Machine::here();\n\
                #[cfg(test)]\nmod tests {\n    use crate::report;\n}\n";
    assert_eq!(used_in(text), ["host", "load", "run"].map(str::to_owned).into());
}

/// Returns the modules that `lib.rs` declares.
fn modules(sources: &Path) -> BTreeSet<String> {
    let text = fs::read_to_string(sources.join("lib.rs")).expect("lib.rs is readable");
    let declared = text.lines().filter_map(|line| {
        let name =
            line.strip_prefix("pub mod ").or_else(|| line.strip_prefix("pub(crate) mod "))?;
        name.strip_suffix(';')
    });
    declared.map(str::to_owned).collect()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder of sources is readable").flatten();
    let nested = entries.map(|entry| entry.path()).map(|path| match path.is_dir() {
        true => files(&path),
        false => vec![path],
    });
    nested
        .flatten()
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect()
}

/// Returns the modules that a source uses outside its tests and comments.
fn used_in(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code: Vec<&str> =
        code.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let code = code.join("\n");
    let mut used = BTreeSet::new();
    for path in code.split("crate::").skip(1) {
        // Either a path, or a list of paths in braces.
        let list =
            path.strip_prefix('{').and_then(|list| list.split_once("};")).map(|(list, _)| list);
        for path in
            list.unwrap_or(path).split(',').take(if list.is_some() { usize::MAX } else { 1 })
        {
            let end = path.trim().find(|c: char| !c.is_ascii_lowercase() && c != '_');
            used.insert(path.trim()[..end.unwrap_or(path.trim().len())].to_owned());
        }
    }
    used
}
