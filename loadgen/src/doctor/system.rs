//! Files of `proc` and `sys` below some root.

use std::fs;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use engine::affinity::parse_cpu_list;

/// Where `proc` and `sys` are read.
#[derive(Debug)]
pub(super) struct System {
    root: PathBuf,
}

impl System {
    pub(super) fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// A file's text without white space around it; `None` where it is missing, not for us, or empty.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// A file that holds one number or word.
    pub(super) fn value<T: FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// The value behind `name` and a colon or white space, in files of such lines.
    pub(super) fn field(&self, path: &str, name: &str) -> Option<String> {
        field(&self.text(path)?, name)
    }

    /// Names of the entries of a folder, sorted.
    pub(super) fn names(&self, path: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(path)) else { return Vec::new() };
        let mut names: Vec<String> =
            entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Logical processors that are online; empty where nobody tells.
    pub(super) fn online(&self) -> Vec<usize> {
        self.cpu_list("sys/devices/system/cpu/online")
    }

    pub(super) fn cpu_list(&self, path: &str) -> Vec<usize> {
        self.text(path).and_then(|list| parse_cpu_list(&list).ok()).unwrap_or_default()
    }

    /// The processors this process may use.
    pub(super) fn allowed(&self) -> Vec<usize> {
        let list = self.field("proc/self/status", "Cpus_allowed_list");
        list.and_then(|list| parse_cpu_list(&list).ok()).unwrap_or_default()
    }

    /// The threads of the core that `cpu` is one of; `cpu` alone where nobody tells.
    pub(super) fn siblings(&self, cpu: usize) -> Vec<usize> {
        let list = self.cpu_list(&format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"));
        if list.is_empty() { vec![cpu] } else { list }
    }
}

/// The value behind `name` and a colon or white space, in text of such lines.
pub(super) fn field(text: &str, name: &str) -> Option<String> {
    text.lines().find_map(|line| {
        let rest = line.trim_start().strip_prefix(name)?;
        let value = rest
            .trim_start_matches([' ', '\t'])
            .strip_prefix(':')
            .or_else(|| rest.starts_with([' ', '\t']).then_some(rest))?;
        Some(value.trim().to_owned())
    })
}

/// A list of processors as the kernel and taskset(1) write it: `0-2,5`.
pub(super) fn listed(cpus: &[usize]) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for &cpu in cpus {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let range = |(first, last): &(usize, usize)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    ranges.iter().map(range).collect::<Vec<_>>().join(",")
}

/// Of a line such as `some avg10=1.50 avg60=...`, the number behind `name=`.
pub(super) fn assigned(line: &str, name: &str) -> Option<f64> {
    line.split_ascii_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}
