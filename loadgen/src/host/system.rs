//! Files of `proc` and `sys` below some root.

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use engine::affinity::parse_cpu_list;

/// A machine by its `proc` and `sys`, which lie below some root.
#[derive(Debug)]
pub(crate) struct System {
    root: PathBuf,
}

impl System {
    pub(crate) fn below(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    /// Returns a file's text, trimmed; `None` where it is missing, not for us, or empty.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.root.join(path)).ok()?;
        Some(text.trim().to_owned()).filter(|text| !text.is_empty())
    }

    /// Returns the value of a file that holds one number or word.
    pub(crate) fn value<T: FromStr>(&self, path: &str) -> Option<T> {
        self.text(path)?.parse().ok()
    }

    /// Returns the value of a [`field`] of a file.
    pub(crate) fn field(&self, path: &str, name: &str) -> Option<String> {
        Some(field(&self.text(path)?, name)?.to_owned())
    }

    /// Returns an amount of `proc/meminfo`, KiB.
    pub(crate) fn memory_kib(&self, name: &str) -> Option<u64> {
        kib(&self.text("proc/meminfo")?, name)
    }

    /// Returns a soft and a hard limit of `proc/self/limits`; `u64::MAX` is unlimited.
    pub(crate) fn limit(&self, name: &str) -> Option<(u64, u64)> {
        let line = self.field("proc/self/limits", name)?;
        let number =
            |word: &str| if word == "unlimited" { Some(u64::MAX) } else { word.parse().ok() };
        let mut columns = line.split_ascii_whitespace();
        Some((number(columns.next()?)?, number(columns.next()?)?))
    }

    /// Returns the ports that the kernel may choose for outgoing connections (ip(7)).
    pub(crate) fn local_ports(&self) -> Option<RangeInclusive<u16>> {
        let range = self.text("proc/sys/net/ipv4/ip_local_port_range")?;
        let mut ends = range.split_ascii_whitespace().map(str::parse);
        Some(ends.next()?.ok()?..=ends.next()?.ok()?)
    }

    /// Returns the names of a folder's entries, sorted.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.root.join(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// Returns the logical processors that are online; none where the files do not say.
    pub(crate) fn online(&self) -> Vec<usize> {
        cpu_list(self.text("sys/devices/system/cpu/online"))
    }

    /// Returns the processors this process may use; none where the files do not say.
    pub(crate) fn allowed(&self) -> Vec<usize> {
        cpu_list(self.field("proc/self/status", "Cpus_allowed_list"))
    }

    /// Returns the threads of the core that `cpu` is one of; `cpu` alone where the files do not
    /// say.
    pub(crate) fn siblings(&self, cpu: usize) -> Vec<usize> {
        let path = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
        let list = cpu_list(self.text(&path));
        if list.is_empty() { vec![cpu] } else { list }
    }
}

fn cpu_list(text: Option<String>) -> Vec<usize> {
    text.and_then(|list| parse_cpu_list(&list).ok()).unwrap_or_default()
}

/// Returns the value behind `name` and a colon or white space, in text of such lines.
pub(crate) fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let rest = line.trim_start().strip_prefix(name)?;
        let value = rest.trim_start_matches([' ', '\t']).strip_prefix(':');
        let value = value.or_else(|| rest.starts_with([' ', '\t']).then_some(rest))?;
        Some(value.trim())
    })
}

pub(crate) fn number(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.parse().ok()
}

/// Returns the number of a [`field`] in `kB`, which are KiB.
pub(crate) fn kib(text: &str, name: &str) -> Option<u64> {
    field(text, name)?.trim_end_matches("kB").trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_range_contains_both_ends() {
        let root = std::env::temp_dir().join(format!("sparring-system-{}", std::process::id()));
        let folder = root.join("proc/sys/net/ipv4");
        fs::create_dir_all(&folder).expect("temporary directory is writable");
        let range = |text: &str| {
            fs::write(folder.join("ip_local_port_range"), text)
                .expect("temporary directory is writable");
            System::below(&root).local_ports()
        };
        let ranges = [range("32768\t60999\n"), range("")];
        fs::remove_dir_all(&root).expect("own directory");
        assert_eq!(ranges, [Some(32768..=60999), None]);
        assert_eq!((32768..=60999_u16).len(), 28_232);
    }
}
