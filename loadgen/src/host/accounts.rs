//! CPU time and memory of a server since its start, as counters that only grow: of a process with
//! its descendants, or of a control group.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cgroup::Cgroup;
use super::procfs::{
    Cost, CostSource, Memory, ProcessKey, Stat, TICK_NS, memory, own_cost, schedstat, settled_tree,
    stat, tasks, unwaited,
};

/// Most threads that are told apart.
const MAX_THREADS: usize = 1024;

/// Figures of a server at one moment. Times are in nanoseconds.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Figures {
    pub(crate) cost: Cost,
    /// Most by which the difference of two costs may be wrong.
    pub(crate) resolution_ns: u64,
    pub(crate) memory: Memory,
    /// Time since 1970 at which the first of the living processes started.
    pub(crate) start: Duration,
    pub(crate) threads: usize,
    /// Time of each thread on a processor or waiting for one, by process and thread. Empty where
    /// there are more than [`MAX_THREADS`].
    pub(crate) busy_ns: BTreeMap<(u32, u32), u64>,
}

/// A server that runs on this machine.
#[derive(Debug)]
pub(crate) enum Account {
    /// A process and its descendants.
    Tree(Tree),
    /// Everything in a control group, and in the groups below it.
    Group(Cgroup),
}

#[derive(Debug)]
pub(crate) struct Tree {
    root: ProcessKey,
    living: BTreeMap<ProcessKey, (Cost, Cost)>,
    /// Cost of processes that have left the tree, as last read.
    gone: Cost,
    /// Cost of ended children that processes had at the first reading.
    earlier: Option<BTreeMap<ProcessKey, Cost>>,
}

impl Account {
    /// Returns the account of a process; `None` where there is no such process.
    pub(crate) fn of_process(pid: u32) -> Option<Self> {
        let root = (pid, stat(pid)?.start);
        Some(Self::Tree(Tree::new(root)))
    }

    /// Returns the account of the control group at `folder`; `None` where it is none that counts
    /// CPU time.
    pub(crate) fn of_group(folder: &Path) -> Option<Self> {
        let group = Cgroup::at(folder);
        group.times()?;
        Some(Self::Group(group))
    }

    pub(crate) fn source(&self) -> CostSource {
        match self {
            Self::Tree(_) => CostSource::Procfs,
            Self::Group(group) => group.version.into(),
        }
    }

    /// Reads the figures; `None` where no process is left.
    pub(crate) fn read(&mut self) -> Option<Figures> {
        match self {
            Self::Tree(tree) => tree.read(),
            Self::Group(group) => read_group(group),
        }
    }
}

impl Tree {
    fn new(root: ProcessKey) -> Self {
        Self { root, living: BTreeMap::new(), gone: Cost::default(), earlier: None }
    }

    fn read(&mut self) -> Option<Figures> {
        let (pid, start) = self.root;
        // The number of an ended process may be given again.
        let processes = settled_tree(pid);
        processes.get(&pid).filter(|root| root.start == start)?;
        let cost =
            |(&pid, stat): (&u32, &Stat)| ((pid, stat.start), (own_cost(pid, stat), stat.children));
        let living: BTreeMap<_, _> = processes.iter().map(cost).collect();
        self.gone = self.gone.plus(unwaited(&self.living, &living));
        self.living = living;
        let sum = |sum: Cost, (own, children): &(Cost, Cost)| sum.plus(*own).plus(*children);
        // User and system time of ended children are rounded down to whole ticks. What ended before
        // the first reading is in no difference.
        let children = || self.living.iter().map(|(&key, &(_, children))| (key, children));
        let earlier = self.earlier.get_or_insert_with(|| children().collect());
        let has_ended =
            |(key, children)| earlier.get(&key).copied().unwrap_or_default() != children;
        let rounded = children().filter(|&each| has_ended(each)).count() as u64;
        Some(Figures {
            cost: self.living.values().fold(self.gone, sum),
            resolution_ns: (2 * TICK_NS * rounded).max(1),
            ..figures(&processes)
        })
    }
}

fn read_group(group: &Cgroup) -> Option<Figures> {
    let pids = processes_below(group.folder());
    let processes: BTreeMap<u32, Stat> =
        pids.into_iter().filter_map(|pid| Some((pid, stat(pid)?))).collect();
    let cost = group.times()?;
    let resolution_ns = CostSource::from(group.version).resolution_ns();
    (!processes.is_empty()).then(|| Figures { cost, resolution_ns, ..figures(&processes) })
}

/// Returns the processes of a control group and of those below it.
fn processes_below(folder: &Path) -> Vec<u32> {
    let list = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
    let own = list.lines().filter_map(|line| line.parse().ok());
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    own.chain(folders.flat_map(|entry| processes_below(&entry.path()))).collect()
}

/// Returns what living processes hold, without their cost.
fn figures(processes: &BTreeMap<u32, Stat>) -> Figures {
    let pids: Vec<u32> = processes.keys().copied().collect();
    let threads: Vec<(u32, u32)> =
        pids.iter().flat_map(|&pid| tasks(pid).into_iter().map(move |tid| (pid, tid))).collect();
    let busy = |&(pid, tid): &(u32, u32)| {
        let (on_cpu, waiting) = schedstat(pid, tid)?;
        Some(((pid, tid), on_cpu + waiting))
    };
    let told_apart = if threads.len() > MAX_THREADS { &[][..] } else { &threads };
    Figures {
        memory: memory(&pids),
        start: processes.values().map(|stat| since_1970(stat.start)).min().unwrap_or_default(),
        threads: threads.len(),
        busy_ns: told_apart.iter().filter_map(busy).collect(),
        ..Figures::default()
    }
}

/// Returns a time of start since 1970, from one in ticks since the machine was started.
fn since_1970(ticks: u64) -> Duration {
    let up = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let up = Duration::new(up.tv_sec.cast_unsigned(), up.tv_nsec as u32);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let age = up.saturating_sub(Duration::from_nanos(ticks.saturating_mul(TICK_NS)));
    now.saturating_sub(age)
}

/// Returns the folder of the control group at `path`, which is below the mount of a hierarchy or
/// the whole path.
pub(crate) fn group_folder(path: &Path) -> io::Result<PathBuf> {
    if path.is_dir() && Account::of_group(path).is_some() {
        return Ok(path.to_owned());
    }
    let below = path.strip_prefix("/").unwrap_or(path);
    let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/cpuacct"];
    let mut folders = mounts.into_iter().map(|mount| Path::new(mount).join(below));
    folders
        .find(|folder| folder.is_dir() && Account::of_group(folder).is_some())
        .ok_or_else(|| io::Error::other("no such control group counts CPU time"))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A process that is killed on drop.
    struct Process(Child);

    impl Process {
        fn start(command: &str) -> Self {
            let mut shell = Command::new("sh");
            let shell = shell.args(["-c", command]).stdin(Stdio::piped()).stdout(Stdio::piped());
            let child = shell.spawn();
            Self(child.expect("a shell"))
        }

        /// Waits until it has printed something.
        fn wait(&mut self) {
            let output = self.0.stdout.as_mut().expect("piped");
            io::Read::read_exact(output, &mut [0]).expect("a line");
        }
    }

    impl Drop for Process {
        fn drop(&mut self) {
            let _ = self.0.kill();
            let _ = self.0.wait();
        }
    }

    #[test]
    fn a_process_counts_with_its_children_dead_or_alive() {
        // The inner shells are children: one has ended, one sleeps, and one comes later.
        let busy = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let mut process = Process::start(&format!(
            "sh -c '{busy}'; sleep 60 & printf x; read go; sh -c '{busy}'; printf y; exec sleep 60"
        ));
        process.wait();
        let mut account = Account::of_process(process.0.id()).expect("it runs");
        let figures = account.read().expect("it runs");
        assert_eq!((account.source(), figures.threads), (CostSource::Procfs, 2));
        assert!(figures.cost.total_ns >= TICK_NS, "{figures:?}");
        assert_eq!(figures.resolution_ns, 1);
        assert!(figures.memory.resident > figures.memory.anonymous);
        assert_eq!(figures.busy_ns.len(), 2);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("set");
        assert!(figures.start < now && now - figures.start < Duration::from_secs(600));
        process.0.stdin.take().expect("piped").write_all(b"go\n").expect("it reads");
        process.wait();
        let later = account.read().expect("it runs");
        assert!(later.cost.total_ns >= figures.cost.total_ns + TICK_NS, "{later:?}");
        assert_eq!(later.resolution_ns, 2 * TICK_NS);
    }

    #[test]
    fn an_ended_process_has_no_figures() {
        let mut process = Process::start("echo x; exec sleep 60");
        process.wait();
        let mut account = Account::of_process(process.0.id()).expect("it runs");
        assert!(account.read().is_some_and(|figures| figures.resolution_ns == 1));
        process.0.kill().expect("our own child");
        process.0.wait().expect("our own child");
        assert_eq!(account.read(), None);
        // Another process with its number is another server.
        let me = std::process::id();
        let root = (me, stat(me).expect("this process").start + 1);
        let mut other = Tree::new(root);
        assert_eq!(other.read(), None);
        assert!(Account::of_process(u32::MAX).is_none());
    }

    #[test]
    fn a_group_counts_with_the_groups_below_it() {
        let folder = std::env::temp_dir().join(format!("sparring-group-{}", std::process::id()));
        let inner = folder.join("inner");
        fs::create_dir_all(&inner).expect("a temporary folder");
        let write = |path: PathBuf, text: &str| fs::write(path, text).expect("written");
        write(folder.join("cpu.stat"), "usage_usec 3000\nuser_usec 1000\nsystem_usec 2000\n");
        write(folder.join("cgroup.procs"), "");
        let mut account = Account::of_group(&folder).expect("it counts");
        assert_eq!(account.read(), None);
        write(inner.join("cgroup.procs"), &format!("{}\n", std::process::id()));
        let figures = account.read();
        let found = group_folder(&folder).expect("it counts");
        fs::remove_dir_all(&folder).expect("our own folder");
        let figures = figures.expect("a process");
        assert_eq!((figures.cost.total_ns, figures.resolution_ns), (3_000_000, 1000));
        assert!(figures.threads > 0 && figures.memory.resident > 0);
        assert_eq!((found, account.source()), (folder.clone(), CostSource::CgroupV2));
        assert!(Account::of_group(&folder).is_none() && group_folder(&folder).is_err());
    }
}
