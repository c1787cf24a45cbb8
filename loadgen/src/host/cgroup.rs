//! The server's own control group: cgroups(7).
//!
//! The kernel counts for a control group everything that has run in it, also threads and processes
//! that have ended. We enable no controller, so the scheduling of the server stays the same. (In
//! version 1 `cpuacct` may be mounted together with `cpu`. Then the server gets its share of a
//! processor as a group.)

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};

use super::procfs::{Cost, CostSource};
use super::system::number;

/// Beginning of a group's name. The number of the process that made it follows.
const PREFIX: &str = "sparring-server-";

/// Version of the hierarchy that a control group is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    /// The controller `cpuacct`.
    V1,
    /// The unified hierarchy.
    V2,
}

impl From<Version> for CostSource {
    fn from(version: Version) -> Self {
        match version {
            Version::V1 => Self::CgroupV1,
            Version::V2 => Self::CgroupV2,
        }
    }
}

/// Control group that was made for one server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cgroup {
    folder: PathBuf,
    pub(crate) version: Version,
}

impl Cgroup {
    /// Makes a control group below the caller's own and moves the caller into it. Returns `None`
    /// where that is not allowed, or where the group does not report its CPU time.
    pub(crate) fn enter_new() -> Option<Self> {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let own = own_groups(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"), "cpuacct");
        own.into_iter().find_map(|mut own| {
            let (parent, version) = (own.folders.pop()?, own.version);
            // Without permission to move back, the caller stays where it is.
            OpenOptions::new().write(true).open(parent.join("cgroup.procs")).ok()?;
            let group =
                Self { folder: parent.join(format!("{PREFIX}{}", std::process::id())), version };
            remove_abandoned(&parent);
            fs::create_dir(&group.folder).ok()?;
            if group.times().is_some() && enter(&group.folder).is_ok() {
                return Some(group);
            }
            group.remove();
            None
        })
    }

    pub(crate) fn at(folder: &Path) -> Self {
        let version = if folder.join("cpu.stat").exists() { Version::V2 } else { Version::V1 };
        Self { folder: folder.to_owned(), version }
    }

    /// Moves the caller back to its former control group.
    pub(crate) fn leave(&self) -> io::Result<()> {
        self.folder.parent().map_or(Ok(()), enter)
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the CPU time of everything that has run in it.
    pub(crate) fn times(&self) -> Option<Cost> {
        let read = |file: &str| fs::read_to_string(self.folder.join(file)).ok();
        if self.version == Version::V2 {
            return parse_cpu_stat(&read("cpu.stat")?);
        }
        let ns = |file: &str| read(file)?.trim().parse().ok();
        cost(ns("cpuacct.usage"), ns("cpuacct.usage_user"), ns("cpuacct.usage_sys"))
    }

    /// Kills everything in it, where the kernel can do so in one step (version 2, Linux 5.14). The
    /// caller also kills the processes one by one.
    pub(crate) fn kill(&self) {
        let _ = fs::write(self.folder.join("cgroup.kill"), "1");
    }

    /// Removes the group. Returns false while a process of it is ending.
    pub(crate) fn remove(&self) -> bool {
        fs::remove_dir(&self.folder).is_ok() || !self.folder.exists()
    }
}

/// Removes groups of supervisors that were killed together with their generators.
fn remove_abandoned(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let maker = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse::<u32>().ok());
        let is_alive = |maker: u32| Path::new(&format!("/proc/{maker}")).exists();
        if maker.is_some_and(|maker| maker == std::process::id() || !is_alive(maker)) {
            // The kernel refuses where the group has a process.
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// Moves the caller into the control group at `folder`.
fn enter(folder: &Path) -> io::Result<()> {
    fs::write(folder.join("cgroup.procs"), "0")
}

fn parse_cpu_stat(text: &str) -> Option<Cost> {
    let ns = |name: &str| number(text, name)?.checked_mul(1000);
    cost(ns("usage_usec"), ns("user_usec"), ns("system_usec"))
}

fn cost(total_ns: Option<u64>, user_ns: Option<u64>, system_ns: Option<u64>) -> Option<Cost> {
    Some(Cost { total_ns: total_ns?, user_ns: user_ns?, system_ns: system_ns?, faults: 0 })
}

/// A control group of a process, in a hierarchy that is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnGroup {
    /// Folders of the groups around it, the outermost mounted one first, and its own.
    pub(crate) folders: Vec<PathBuf>,
    pub(crate) version: Version,
}

/// Returns a process's control groups that have a controller, version 2 first. `membership` is its
/// `/proc/PID/cgroup`, `mounts` its `mountinfo`.
pub(crate) fn own_groups(membership: &str, mounts: &str, controller: &str) -> Vec<OwnGroup> {
    let find = |version: Version| {
        // The lines have the form `0::PATH` or `N:cpu,cpuacct:PATH`.
        let path = membership.lines().find_map(|line| {
            let mut fields = line.splitn(3, ':');
            let controllers = fields.nth(1)?;
            let fits = match version {
                Version::V2 => controllers.is_empty(),
                Version::V1 => controllers.split(',').any(|name| name == controller),
            };
            fields.next().filter(|_| fits)
        })?;
        let folders = |line| mounted_at(line, version, controller, Path::new(path));
        Some(OwnGroup { folders: mounts.lines().find_map(folders)?, version })
    };
    [Version::V2, Version::V1].into_iter().filter_map(find).collect()
}

/// Returns the folders from the mount point of a hierarchy to the control group at `path`, where a
/// line of `mountinfo` describes the hierarchy.
fn mounted_at(line: &str, version: Version, controller: &str, path: &Path) -> Option<Vec<PathBuf>> {
    let (mount, filesystem) = line.split_once(" - ")?;
    let mut filesystem = filesystem.split(' ');
    let fits = match (version, filesystem.next()?) {
        (Version::V2, "cgroup2") => true,
        (Version::V1, "cgroup") => filesystem.nth(1)?.split(',').any(|option| option == controller),
        _ => false,
    };
    // In a container the mount may begin below the hierarchy's root.
    let mut mount = mount.split(' ').skip(3);
    let (root, point) = (mount.next()?, Path::new(mount.next()?));
    let below = path.strip_prefix(root).ok().filter(|_| fits)?;
    let mut folders: Vec<PathBuf> = below.ancestors().map(|below| point.join(below)).collect();
    folders.reverse();
    Some(folders)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn abandoned_groups_are_removed() {
        let parent =
            std::env::temp_dir().join(format!("sparring-abandoned-{}", std::process::id()));
        let of = |maker: &str| parent.join(format!("{PREFIX}{maker}"));
        // No process has the highest number. Process 1 always exists.
        let names = ["4294967295", "1", "other"];
        names
            .into_iter()
            .for_each(|name| fs::create_dir_all(of(name)).expect("a temporary folder"));
        remove_abandoned(&parent);
        let left = names.map(|name| of(name).exists());
        fs::remove_dir_all(&parent).expect("our own folder");
        assert_eq!(left, [false, true, true]);
    }

    const MOUNTS: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
        33 31 0:30 /docker/a /sys/fs/cgroup/cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
        34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n\
        41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";

    #[test]
    fn own_groups_are_found_in_both_versions() {
        let membership = "3:cpuset:/\n2:cpu,cpuacct:/docker/a/b\n0::/user.slice/x:y\n";
        let found = |membership: &str| {
            let groups = own_groups(membership, MOUNTS, "cpuacct");
            groups
                .into_iter()
                .map(|mut group| (group.folders.pop().expect("one"), group.version))
                .collect::<Vec<_>>()
        };
        let expected = [
            (PathBuf::from("/sys/fs/cgroup/unified/user.slice/x:y"), Version::V2),
            (PathBuf::from("/sys/fs/cgroup/cpuacct/b"), Version::V1),
        ];
        assert_eq!(found(membership), expected);
        // The group is outside of the mounted part of the hierarchy.
        assert_eq!(found("2:cpuacct:/elsewhere\n"), []);
        assert_eq!(found(""), []);
    }

    #[test]
    fn folders_run_from_the_mount_point_to_the_group() {
        let groups = own_groups("2:cpu,cpuacct:/docker/a/b/c\n", MOUNTS, "cpu");
        let expected =
            ["/sys/fs/cgroup/cpuacct/", "/sys/fs/cgroup/cpuacct/b", "/sys/fs/cgroup/cpuacct/b/c"];
        assert_eq!(groups[0].folders, expected.map(PathBuf::from));
    }

    #[test]
    fn cpu_stat_is_read_in_nanoseconds() {
        let text = "usage_usec 966527\nuser_usec 193305\nsystem_usec 773222\nnice_usec 0\n";
        let expected = cost(Some(966_527_000), Some(193_305_000), Some(773_222_000));
        assert_eq!(parse_cpu_stat(text), expected);
        assert_eq!(parse_cpu_stat("nr_periods 0\n"), None);
    }
}
