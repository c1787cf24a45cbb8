//! Tests of the checks on a healthy machine, which is a tree of files, and after changes of those
//! files.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

const CPU: &str = "sys/devices/system/cpu";

struct Tree(PathBuf);

impl Drop for Tree {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Tree {
    /// Creates the files of a healthy machine: two processors on separate cores, and no other busy
    /// process.
    fn healthy(name: &str) -> Self {
        let tree = Self(
            std::env::temp_dir().join(format!("sparring-doctor-{name}-{}", std::process::id())),
        );
        for (path, text) in [
            ("proc/sys/kernel/osrelease", "6.12.9-amd64"),
            ("proc/sys/kernel/io_uring_disabled", "0"),
            ("proc/sys/net/ipv4/ip_local_port_range", "32768\t60999"),
            ("proc/sys/net/core/somaxconn", "4096"),
            ("proc/sys/net/ipv4/tcp_max_syn_backlog", "4096"),
            ("proc/sys/net/ipv4/tcp_congestion_control", "cubic"),
            (
                "proc/net/sockstat",
                "sockets: used 9\nTCP: inuse 5 orphan 0 tw 3 alloc 9 mem 1\nUDP: inuse 1",
            ),
            ("proc/self/limits", LIMITS),
            ("proc/self/status", "Name:\tx\nCpus_allowed:\t3\nCpus_allowed_list:\t0-1"),
            ("proc/self/cgroup", "0::/user.slice/a"),
            ("proc/self/mountinfo", MOUNTS),
            ("sys/fs/cgroup/user.slice/cpu.max", "max 100000"),
            (
                "proc/diskstats",
                "   8  0 sda 1 0 8 1 1 0 8 1 0 500 2\n   8  1 sda1 1 0 8 1 1 0 8 1 0 400 2",
            ),
            ("proc/meminfo", "MemTotal: 8000000 kB\nMemFree: 1 kB\nMemAvailable: 6000000 kB"),
            ("proc/cpuinfo", "model name\t: X\nflags\t\t: fpu sse2"),
            ("proc/stat", "cpu  100 0 100 1000 0 0 0 0 0 0\ncpu0 50 0 50 500 0 0 0 0 0 0"),
            ("proc/uptime", "100.00 50.00"),
            ("proc/77/stat", "77 (a ) b) S 1 77 77 0 -1 0 1 2 3 4 250 31 0 0 20 0 1 0 12 13 14"),
            (
                "proc/pressure/cpu",
                "some avg10=0.00 avg60=1.00 avg300=1.00 total=1\nfull avg10=99.00",
            ),
            ("proc/pressure/io", "some avg10=0.10 avg60=1.00 avg300=1.00 total=1"),
            ("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc"),
            (
                "sys/devices/system/clocksource/clocksource0/available_clocksource",
                "hpet tsc acpi_pm",
            ),
        ] {
            tree.write(path, text);
        }
        tree.write(&format!("{CPU}/online"), "0-1");
        for cpu in 0..2 {
            tree.write(&format!("{CPU}/cpu{cpu}/topology/thread_siblings_list"), &cpu.to_string());
            tree.write(&format!("{CPU}/cpu{cpu}/cpufreq/scaling_governor"), "performance");
        }
        tree.write(&format!("{CPU}/cpu0/thermal_throttle/core_throttle_count"), "7");
        tree.write(&format!("{CPU}/intel_pstate/no_turbo"), "1");
        tree.idle_state(0, "POLL", 0, false);
        tree.idle_state(1, "C1", 2, false);
        tree
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("has a parent"))
            .expect("temporary directory is writable");
        fs::write(path, format!("{text}\n")).expect("temporary directory is writable");
    }

    fn idle_state(&self, number: u32, name: &str, latency_us: u32, disabled: bool) {
        let folder = format!("{CPU}/cpu0/cpuidle/state{number}");
        self.write(&format!("{folder}/name"), name);
        self.write(&format!("{folder}/latency"), &latency_us.to_string());
        self.write(&format!("{folder}/disable"), &u8::from(disabled).to_string());
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.0.join(path)).expect("it was there");
    }

    fn activity(&self) -> Activity {
        Activity::now(&System::below(&self.0))
    }

    /// Returns the findings for this tree, compared with the earlier activity `before`.
    fn examine(&self, before: &Activity, intent: &Intent) -> Vec<Finding> {
        let system = System::below(&self.0);
        judge(&Evidence { system: &system, intent, before, after: &self.activity() })
    }

    /// Returns the finding of one check.
    fn find(&self, before: &Activity, intent: &Intent, check: &str) -> Finding {
        let findings = self.examine(before, intent);
        findings
            .into_iter()
            .find(|finding| finding.check == check)
            .expect("every check has a finding")
    }
}

const MOUNTS: &str = "30 23 0:26 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw";

const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
                      Max open files            1024                 1048576              files     \n\
                      Max locked memory         8388608              unlimited            bytes     ";

/// Returns the finding of `check` after a second in which these files changed.
fn after(name: &str, check: &str, changes: &[(&str, &str)]) -> Finding {
    after_with(name, check, changes, &Intent::default())
}

fn after_with(name: &str, check: &str, changes: &[(&str, &str)], intent: &Intent) -> Finding {
    let tree = Tree::healthy(name);
    let before = tree.activity();
    tree.write("proc/uptime", "101.00 50.00");
    changes.iter().for_each(|(path, text)| tree.write(path, text));
    tree.find(&before, intent, check)
}

fn assert_found(finding: &Finding, severity: Severity, seen: &str, fix: &str) {
    assert_eq!(finding.severity, severity, "{finding:?}");
    assert!(finding.seen.contains(seen), "{seen} not in {finding:?}");
    assert!(finding.fix.contains(fix), "{fix} not in {finding:?}");
    let has_reason = !finding.why.is_empty() && !finding.fix.is_empty();
    assert_eq!(has_reason, severity >= Severity::Hint, "{finding:?}");
}

#[test]
fn nothing_is_found_on_a_healthy_machine() {
    let tree = Tree::healthy("healthy");
    let before = tree.activity();
    tree.write("proc/uptime", "101.00 50.00");
    for finding in tree.examine(&before, &Intent::default()) {
        assert_found(&finding, Severity::Fine, "", "");
    }
}

#[test]
fn what_cannot_be_read_is_unknown_and_never_fine() {
    let empty = Tree(std::env::temp_dir().join("sparring-doctor-no-such-folder"));
    for finding in empty.examine(&Activity::default(), &Intent::default()) {
        let expected = if finding.check == "build" { Severity::Fine } else { Severity::Unknown };
        assert_eq!(finding.severity, expected, "{finding:?}");
    }
}

#[test]
fn the_worst_comes_first_and_names_are_unique() {
    let tree = Tree::healthy("order");
    tree.write("proc/sys/net/ipv4/tcp_congestion_control", "bbr");
    let intent = Intent { is_debug_build: true, ..Intent::default() };
    let findings = tree.examine(&Activity::default(), &intent);
    assert_eq!((findings[0].check, findings[0].severity), ("build", Severity::Invalidates));
    assert!(findings.windows(2).all(|pair| pair[0].severity >= pair[1].severity));
    let mut names: Vec<&str> = findings.iter().map(|finding| finding.check).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), CHECKS.len());
}

#[test]
fn limits_of_the_process_and_of_the_kernel() {
    use Severity::{Fine, Hint, Invalidates};
    let limits = |nofile: &str, memlock: &str| {
        format!(
            "Max open files   1024   {nofile}   files\nMax locked memory   {memlock}   {memlock}   bytes"
        )
    };
    let few = limits("4096", "65536");
    let found = after("nofile", "descriptors", &[("proc/self/limits", &few)]);
    assert_found(&found, Hint, "at most 4096", "--nofile=65536:65536");
    let many = Intent { connections: Some(10_000), ..Intent::default() };
    let found = after_with("nofile-c", "descriptors", &[("proc/self/limits", &few)], &many);
    assert_found(&found, Invalidates, "at most 4096", "--nofile=16384:16384");
    let enough = Intent { connections: Some(3000), ..Intent::default() };
    assert_found(
        &after_with("nofile-e", "descriptors", &[("proc/self/limits", &few)], &enough),
        Fine,
        "",
        "",
    );
    assert_found(
        &after("memlock", "memlock", &[("proc/self/limits", &few)]),
        Hint,
        "64 KiB",
        "--memlock=",
    );
    let found = after("off", "io_uring", &[("proc/sys/kernel/io_uring_disabled", "2")]);
    assert_found(&found, Hint, "switched off", "sudo sysctl kernel.io_uring_disabled=0");
    let found = after("group", "io_uring", &[("proc/sys/kernel/io_uring_disabled", "1")]);
    assert_found(&found, Hint, "one group", "io_uring_group");
    let found = after("old", "io_uring", &[("proc/sys/kernel/osrelease", "5.15.0-generic")]);
    assert_found(&found, Hint, "5.15", "newer kernel");
    let found = after(
        "memory",
        "memory",
        &[("proc/meminfo", "MemTotal: 1000000 kB\nMemAvailable: 9000 kB")],
    );
    assert_found(&found, Invalidates, "8 of 976 MiB", "ps ");
}

#[test]
fn settings_of_the_network() {
    use Severity::{Fine, Hint, Invalidates};
    let range = "proc/sys/net/ipv4/ip_local_port_range";
    assert_found(
        &after("ports", "ports", &[(range, "50000\t60999")]),
        Hint,
        "11000 local",
        "1024 65535",
    );
    let many = Intent { connections: Some(30_000), ..Intent::default() };
    assert_found(
        &after_with("ports-c", "ports", &[], &many),
        Invalidates,
        "28232 local",
        "1024 65535",
    );
    let sockets = ("proc/net/sockstat", "TCP: inuse 5 orphan 0 tw 20000 alloc 9 mem 1");
    assert_found(&after("tw", "time-wait", &[sockets]), Hint, "20000 closed", "tcp_tw_reuse");
    let found = after("backlog", "backlog", &[("proc/sys/net/core/somaxconn", "128")]);
    assert_found(&found, Hint, "somaxconn = 128", "net.core.somaxconn=4096");
    let found = after("bbr", "congestion", &[("proc/sys/net/ipv4/tcp_congestion_control", "bbr")]);
    assert_found(&found, Hint, "bbr", "cubic");
    let tracked = |count| {
        [
            ("proc/sys/net/netfilter/nf_conntrack_count", count),
            ("proc/sys/net/netfilter/nf_conntrack_max", "20000"),
        ]
    };
    assert_found(&after("conntrack", "conntrack", &tracked("9")), Hint, "9 connections", "NOTRACK");
    assert_found(&after("conntrack-0", "conntrack", &tracked("0")), Fine, "", "");
    let found = after_with("conntrack-c", "conntrack", &tracked("0"), &many);
    assert_found(&found, Invalidates, "at most 20000", "nf_conntrack_max");
}

#[test]
fn processors_that_are_shared() {
    use Severity::{Fine, Hint, Invalidates};
    let one = ("proc/self/status", "Cpus_allowed_list:\t1");
    assert_found(&after("one", "processors", &[one]), Invalidates, "1 processor (1)", "taskset");
    let both = |ours: &[usize], servers: &[usize]| Intent {
        cpus: ours.to_vec(),
        server_cpus: servers.to_vec(),
        ..Intent::default()
    };
    let beyond = after_with("beyond", "processors", &[one], &both(&[], &[0]));
    assert_found(&beyond, Fine, "1 processor (1)", "");
    assert_found(
        &after_with("alone", "processors", &[one], &both(&[], &[1])),
        Invalidates,
        "1 processor",
        "taskset",
    );
    let found = after_with("same", "processors", &[], &both(&[0, 1], &[1]));
    assert_found(&found, Invalidates, "share 1", "--spawn-cpus");
    let siblings = |cpu: usize| format!("{CPU}/cpu{cpu}/topology/thread_siblings_list");
    let (first, second) = (siblings(0), siblings(1));
    let one_core = [(first.as_str(), "0-1"), (second.as_str(), "0-1")];
    assert_found(
        &after("smt", "smt", &one_core),
        Hint,
        "2 processors on 1 core (such as 0-1)",
        "smt/control",
    );
    let found = after_with("smt-overlap", "smt", &one_core, &both(&[1], &[0]));
    assert_found(&found, Invalidates, "processor 1", "--spawn-cpus");
    let online = format!("{CPU}/online");
    let (third, fourth) = (siblings(2), siblings(3));
    let cores = [
        (online.as_str(), "0-3"),
        (first.as_str(), "0,2"),
        (second.as_str(), "1,3"),
        (third.as_str(), "0,2"),
        (fourth.as_str(), "1,3"),
    ];
    let found = after_with("smt-apart", "smt", &cores, &both(&[1], &[0]));
    assert_found(&found, Fine, "different ones", "");
}

#[test]
fn processors_that_change_their_speed() {
    use Severity::{Fine, Hint, Invalidates};
    let governor = format!("{CPU}/cpu1/cpufreq/scaling_governor");
    let found = after("governor", "governor", &[(&governor, "powersave")]);
    assert_found(&found, Invalidates, "performance, powersave", "scaling_governor");
    let no_turbo = format!("{CPU}/intel_pstate/no_turbo");
    assert_found(&after("turbo", "turbo", &[(&no_turbo, "0")]), Hint, "on", "echo 1 | sudo tee");
    let tree = Tree::healthy("boost");
    tree.remove(&no_turbo);
    tree.write(&format!("{CPU}/cpufreq/boost"), "1");
    let found = tree.find(&Activity::default(), &Intent::default(), "turbo");
    assert_found(&found, Hint, "on", "cpufreq/boost");
    let count = format!("{CPU}/cpu0/thermal_throttle/core_throttle_count");
    assert_found(&after("heat", "throttling", &[(&count, "9")]), Invalidates, "2 times", "cooling");
    let tree = Tree::healthy("idle");
    tree.idle_state(2, "C6", 133, false);
    let found = tree.find(&Activity::default(), &Intent::default(), "c-states");
    assert_found(&found, Hint, "C6, 133 us", "cpupower idle-set -D 10");
    tree.idle_state(2, "C6", 133, true);
    let found = tree.find(&Activity::default(), &Intent::default(), "c-states");
    assert_found(&found, Fine, "C1, 2 us", "");
    let clock = "sys/devices/system/clocksource/clocksource0/current_clocksource";
    assert_found(
        &after("clock", "clocksource", &[(clock, "hpet")]),
        Invalidates,
        "hpet",
        "echo tsc | sudo tee /sys/",
    );
}

#[test]
fn others_on_the_machine() {
    use Severity::{Fine, Hint, Invalidates};
    let found = after("vm", "hypervisor", &[("proc/cpuinfo", "flags\t: fpu hypervisor sse2")]);
    assert_found(&found, Hint, "virtual machine", "scripts/ab.sh");
    let found = after("quota", "quota", &[("sys/fs/cgroup/user.slice/cpu.max", "150000 100000")]);
    assert_found(&found, Invalidates, "1.50 processors", "--cpuset-cpus");
    let found = after("quota-v1", "quota", &quota_v1("20000", "-1"));
    assert_found(&found, Invalidates, "0.20 processors (cpu.cfs_quota_us)", "--cpuset-cpus");
    // The smallest quota of the group and of its ancestors applies.
    let found = after("quota-parent", "quota", &quota_v1("20000", "5000"));
    assert_found(&found, Invalidates, "0.05 processors (cpu.cfs_quota_us)", "--cpuset-cpus");
    assert_found(&after("quota-none", "quota", &quota_v1("-1", "-1")), Fine, "none", "");
    let found = after("steal", "steal", &[("proc/stat", "cpu  100 0 100 1190 0 0 0 10 0 0")]);
    assert_found(&found, Invalidates, "5.0 %", "another host");
    let found = after("steal-some", "steal", &[("proc/stat", "cpu  100 0 100 1199 0 0 0 1 0 0")]);
    assert_found(&found, Hint, "0.5 %", "another host");
    let found = after(
        "cpu",
        "pressure",
        &[("proc/pressure/cpu", "some avg10=26.74 avg60=1 avg300=1 total=1")],
    );
    assert_found(&found, Invalidates, "cpu 26.7 %", "top");
    let io = ("proc/pressure/io", "some avg10=2.50 avg60=1 avg300=1 total=1");
    let disk = ("proc/diskstats", "   8  0 sda 1 0 8 1 1 0 8 1 0 900 2");
    assert_found(&after("io", "pressure", &[io, disk]), Hint, "io 2.5 %", "top");
    let io = ("proc/pressure/io", "some avg10=100.00 avg60=1 avg300=1 total=1");
    assert_found(&after("io-only", "pressure", &[io]), Fine, "io 100.0 % (not for a disk", "");
    let process = |ticks: u32| {
        format!("77 (a ) b) R 1 77 77 0 -1 0 1 2 3 4 {ticks} 31 0 0 20 0 1 0 12 13 14")
    };
    let found = after("busy", "others", &[("proc/77/stat", &process(320))]);
    assert_found(&found, Invalidates, "a ) b (77) 70 %", "77");
    assert_found(
        &after("rather", "others", &[("proc/77/stat", &process(255))]),
        Hint,
        "(77) 5 %",
        "77",
    );
    let new = ("proc/78/stat", "78 (cc1) R 1 77 77 0 -1 0 1 2 3 4 40 10 0 0 20 0 1 0 12 13 14");
    assert_found(&after("new", "others", &[new]), Invalidates, "cc1 (78) 50 %", "78");
    assert_found(&after("idle-one", "others", &[]), Fine, "no other process", "");
}

/// Returns the files of a version 1 hierarchy whose groups have these quotas, in microseconds per
/// period of 100,000.
fn quota_v1<'a>(own: &'a str, parent: &'a str) -> [(&'a str, &'a str); 6] {
    [
        ("proc/self/cgroup", "3:cpuset:/\n2:cpu,cpuacct:/docker/a\n0::/"),
        (
            "proc/self/mountinfo",
            "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n\
             34 31 0:31 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw",
        ),
        ("sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us", parent),
        ("sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_period_us", "100000"),
        ("sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_quota_us", own),
        ("sys/fs/cgroup/cpu,cpuacct/docker/a/cpu.cfs_period_us", "100000"),
    ]
}

#[test]
fn this_machine_can_be_examined() {
    let findings = examine(Path::new("/"), Duration::from_millis(50), &Intent::default());
    assert_eq!(findings.len(), CHECKS.len());
    let found =
        |check: &str| findings.iter().find(|finding| finding.check == check).expect("a finding");
    for check in ["descriptors", "ports", "processors", "io_uring", "others"] {
        assert_ne!(found(check).severity, Severity::Unknown, "{check}");
    }
}
