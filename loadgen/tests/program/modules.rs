//! The top-level modules of the crate, of which each uses only those before it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The modules from the lowest to the highest.
const ORDER: [&str; 17] = [
    "format",
    "load",
    "host",
    "target",
    "result",
    "run",
    "merge",
    "goal",
    "compare",
    "experiment",
    "agent",
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

/// Returns the paths that a `use` names, without its braces.
fn expanded(path: &str) -> Vec<String> {
    let Some((prefix, list)) = path.split_once('{') else { return vec![path.to_owned()] };
    let list = list.strip_suffix('}').unwrap_or(list);
    let (mut depth, mut begin, mut paths) = (0, 0, Vec::new());
    for (at, letter) in list.char_indices().chain([(list.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                paths.extend(expanded(&format!("{prefix}{}", &list[begin..at])));
                begin = at + 1;
            }
            _ => {}
        }
    }
    paths
}

/// Returns the modules of `known` that the `use`s of a module name, outside its tests.
fn imports(module: &str, text: &str, known: &BTreeSet<String>) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let statements = code.split(';').filter_map(|statement| {
        let line = statement.lines().find(|line| line.contains("use "))?;
        Some(statement[statement.find(line)?..].split_once("use ")?.1.to_owned())
    });
    let parent = module.rsplit_once("::").map_or("", |(parent, _)| parent);
    let paths = statements.flat_map(|path| expanded(&path.replace(char::is_whitespace, "")));
    let absolute = paths.filter_map(|path| {
        let path = path
            .strip_prefix("crate::")
            .map(str::to_owned)
            .or_else(|| path.strip_prefix("super::").map(|rest| format!("{parent}::{rest}")))
            .or_else(|| path.strip_prefix("self::").map(|rest| format!("{module}::{rest}")))?;
        Some(path.trim_start_matches("::").to_owned())
    });
    let longest = |path: String| {
        let ends = path.match_indices("::").map(|(at, _)| at).chain([path.len()]);
        ends.map(|end| path[..end].to_owned()).filter(|prefix| known.contains(prefix)).last()
    };
    absolute.filter_map(longest).filter(|used| used != module).collect()
}

/// Returns the modules that are part of a cycle, or depend on one.
fn cyclic(mut uses: BTreeMap<String, BTreeSet<String>>) -> BTreeMap<String, BTreeSet<String>> {
    loop {
        let free: Vec<String> = uses
            .iter()
            .filter(|(_, used)| used.is_empty())
            .map(|(module, _)| module.clone())
            .collect();
        if free.is_empty() {
            return uses;
        }
        uses.retain(|module, _| !free.contains(module));
        uses.values_mut().for_each(|used| used.retain(|module| !free.contains(module)));
    }
}

#[test]
fn modules_of_the_engine_form_no_cycle() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/src");
    let module = |file: &Path| {
        let path = file.strip_prefix(&sources).expect("a source of the engine").with_extension("");
        let path = path.to_string_lossy().replace('/', "::");
        path.strip_suffix("::mod").map_or(path.clone(), str::to_owned)
    };
    let texts: BTreeMap<String, String> = files(&sources)
        .iter()
        .filter(|file| !file.ends_with("lib.rs") && !file.ends_with("tests.rs"))
        .map(|file| (module(file), fs::read_to_string(file).expect("a source is readable")))
        .collect();
    let known: BTreeSet<String> = texts.keys().cloned().collect();
    let uses = texts.iter().map(|(module, text)| (module.clone(), imports(module, text, &known)));
    let uses: BTreeMap<_, _> = uses.collect();
    assert!(uses["uring::core"].contains("uring::queues"), "imports are found");
    let found = cyclic(uses);
    assert!(found.is_empty(), "modules that import each other: {found:#?}");
}

#[test]
fn cycles_of_modules_are_found() {
    let known: BTreeSet<String> = ["a", "a::b", "c"].map(str::to_owned).into();
    let text = "use std::io;\npub use super::c::{X, Y};\nuse crate::{a::b::{Z}, c};\n";
    assert_eq!(imports("a", text, &known), ["a::b", "c"].map(str::to_owned).into());
    let uses = |module: &str, used: &[&str]| {
        (module.to_owned(), used.iter().map(|used| (*used).to_owned()).collect())
    };
    assert!(cyclic([uses("a", &["b"]), uses("b", &[])].into()).is_empty());
    assert_eq!(cyclic([uses("a", &["b"]), uses("b", &["a"]), uses("c", &[])].into()).len(), 2);
}
