//! The machine a session ran on, as far as it explains the figures and identifies no person.
//!
//! No host name, user name, home directory or environment: results are meant to be committed and
//! published.

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::system::{System, field};

/// A machine and the state it was in when a session began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// Twelve hexadecimal digits over what does not change while the machine stays the same: CPU,
    /// cores, threads, memory in whole GiB, virtualisation. Results are kept below it and compare
    /// only within it.
    pub id: String,
    /// The CPU's own name (`/proc/cpuinfo`).
    pub cpu: String,
    /// Physical cores that are online.
    pub cores: u32,
    /// Logical CPUs that are online.
    pub threads: u32,
    /// True if cores run several threads (`/sys/devices/system/cpu/smt/active`); `null` where
    /// the kernel does not say.
    pub smt: Option<bool>,
    /// Memory the kernel manages, bytes.
    pub memory_bytes: u64,
    /// The kernel's release, such as `6.12.9-amd64`.
    pub kernel: String,
    /// CPU frequency governor; `null` where the machine does not let the kernel choose (most
    /// virtual ones).
    pub governor: Option<String>,
    /// One line per CPU vulnerability that costs time or is left open; those the CPU does not have
    /// are left out.
    pub mitigations: Vec<String>,
    /// `none`, or the hypervisor's name where it is known, or `hypervisor`.
    pub virtualisation: String,
    /// TCP congestion control that new sockets get.
    pub congestion_control: Option<String>,
    /// Limits of the process.
    pub limits: Limits,
    /// Load average over one minute when the session began.
    pub load_at_start: f64,
}

/// Resource limits of the measuring process (getrlimit(2)) and what the kernel allows.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Open descriptors: soft limit; `null` is unlimited.
    pub nofile_soft: Option<u64>,
    /// Open descriptors: hard limit; `null` is unlimited.
    pub nofile_hard: Option<u64>,
    /// Locked memory in bytes: soft limit; `null` is unlimited.
    pub memlock_soft: Option<u64>,
    /// `/proc/sys/kernel/io_uring_disabled`: 0 allowed, 1 for privileged groups, 2 off; `null`
    /// before Linux 6.6.
    pub io_uring_disabled: Option<u8>,
}

impl Machine {
    /// Describes the machine this process runs on.
    pub fn here() -> Self {
        Self::below(Path::new("/"))
    }

    /// Describes the machine whose `proc` and `sys` lie below `root`.
    fn below(root: &Path) -> Self {
        let system = System::below(root);
        let cpuinfo = system.text("proc/cpuinfo").unwrap_or_default();
        let vendor = system.text("sys/class/dmi/id/sys_vendor").unwrap_or_default();
        let online = system.online();
        let cores: BTreeSet<Vec<usize>> = online.iter().map(|&cpu| system.siblings(cpu)).collect();
        let load =
            system.text("proc/loadavg").and_then(|text| text.split(' ').next()?.parse().ok());
        let mut machine = Self {
            id: String::new(),
            cpu: cpu_model(&cpuinfo),
            cores: cores.len() as u32,
            threads: online.len() as u32,
            smt: system.text("sys/devices/system/cpu/smt/active").map(|active| active == "1"),
            memory_bytes: system.memory_kib("MemTotal").unwrap_or(0) * 1024,
            kernel: system.text("proc/sys/kernel/osrelease").unwrap_or_default(),
            governor: system.text("sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
            mitigations: mitigations(&system),
            virtualisation: virtualisation(&cpuinfo, &vendor),
            congestion_control: system.text("proc/sys/net/ipv4/tcp_congestion_control"),
            limits: limits(&system),
            load_at_start: load.unwrap_or(0.0),
        };
        machine.id = machine.stable_hash();
        machine
    }

    fn stable_hash(&self) -> String {
        // Firmware and kernel updates move the total by some MiB, hence whole GiB.
        let gib = (self.memory_bytes + (1 << 29)) >> 30;
        let stable =
            format!("{}|{}|{}|{gib}|{}", self.cpu, self.cores, self.threads, self.virtualisation);
        short_hash(stable.as_bytes())
    }
}

fn cpu_model(cpuinfo: &str) -> String {
    if let Some(name) = field(cpuinfo, "model name") {
        return name.to_owned();
    }
    // 64-bit Arm has numbers instead of a name.
    match (field(cpuinfo, "CPU implementer"), field(cpuinfo, "CPU part")) {
        (Some(implementer), Some(part)) => format!("Arm implementer {implementer} part {part}"),
        _ => "unknown".to_owned(),
    }
}

fn mitigations(system: &System) -> Vec<String> {
    const FOLDER: &str = "sys/devices/system/cpu/vulnerabilities";
    let line = |name: String| {
        let state = system.text(&format!("{FOLDER}/{name}"))?;
        (state != "Not affected").then(|| format!("{name}: {state}"))
    };
    system.names(FOLDER).into_iter().filter_map(line).collect()
}

/// The hypervisor, from a list of vendors: an unknown one could name a person.
fn virtualisation(cpuinfo: &str, vendor: &str) -> String {
    const KNOWN: [(&str, &str); 7] = [
        ("Amazon EC2", "Amazon EC2"),
        ("Google", "Google Compute Engine"),
        ("Microsoft", "Hyper-V"),
        ("QEMU", "QEMU"),
        ("VMware", "VMware"),
        ("innotek", "VirtualBox"),
        ("Xen", "Xen"),
    ];
    let virtual_cpu = field(cpuinfo, "flags")
        .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor"));
    let known = KNOWN.iter().find(|(prefix, _)| vendor.starts_with(prefix)).map(|(_, name)| *name);
    match (virtual_cpu, known) {
        (true, known) => known.unwrap_or("hypervisor").to_owned(),
        // Arm CPUs have no such flag, and the product alone tells bare-metal instances.
        (false, Some(name)) if field(cpuinfo, "flags").is_none() => name.to_owned(),
        (false, _) => "none".to_owned(),
    }
}

fn limits(system: &System) -> Limits {
    let bounded = |limit: u64| Some(limit).filter(|limit| *limit != u64::MAX);
    let nofile = system.limit("Max open files");
    Limits {
        nofile_soft: nofile.and_then(|(soft, _)| bounded(soft)),
        nofile_hard: nofile.and_then(|(_, hard)| bounded(hard)),
        memlock_soft: system.limit("Max locked memory").and_then(|(soft, _)| bounded(soft)),
        io_uring_disabled: system.value("proc/sys/kernel/io_uring_disabled"),
    }
}

/// Returns the first twelve hexadecimal digits of SHA-256.
pub(crate) fn short_hash(bytes: &[u8]) -> String {
    shortened(Sha256::new_with_prefix(bytes))
}

pub(crate) fn shortened(digest: Sha256) -> String {
    digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const CPUINFO: &str = "processor\t: 0\nmodel name\t: AMD EPYC 9B14\nflags\t\t: fpu sse2 hypervisor avx2\n\n\
                           processor\t: 1\nmodel name\t: AMD EPYC 9B14\n";
    const LIMITS: &str = "Limit                     Soft Limit           Hard Limit           Units     \n\
                          Max open files            1024                 1048576              files     \n\
                          Max locked memory         8388608              unlimited            bytes     \n";

    /// A tree of `/proc` and `/sys` with two cores of two threads each, siblings half the machine
    /// apart.
    fn fake_root(name: &str) -> std::path::PathBuf {
        let root =
            std::env::temp_dir().join(format!("sparring-machine-{name}-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("has a parent"))
                .expect("temporary directory is writable");
            fs::write(path, text).expect("temporary directory is writable");
        };
        write("proc/cpuinfo", CPUINFO);
        write("proc/meminfo", "MemTotal:       24567890 kB\nMemFree: 1 kB\n");
        write("proc/loadavg", "0.42 0.30 0.10 1/100 4242\n");
        write("proc/self/limits", LIMITS);
        write("proc/sys/kernel/osrelease", "6.12.9-amd64\n");
        write("proc/sys/kernel/io_uring_disabled", "2\n");
        write("proc/sys/net/ipv4/tcp_congestion_control", "cubic\n");
        write("sys/class/dmi/id/sys_vendor", "QEMU\n");
        write("sys/devices/system/cpu/online", "0-3\n");
        write("sys/devices/system/cpu/smt/active", "1\n");
        write("sys/devices/system/cpu/vulnerabilities/meltdown", "Not affected\n");
        write("sys/devices/system/cpu/vulnerabilities/spectre_v2", "Mitigation: Retpolines\n");
        for (cpu, siblings) in [(0, "0,2"), (1, "1,3"), (2, "0,2"), (3, "1,3")] {
            let path = format!("sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            write(&path, &format!("{siblings}\n"));
        }
        root
    }

    #[test]
    fn a_machine_is_described_from_proc_and_sys() {
        let root = fake_root("described");
        let machine = Machine::below(&root);
        fs::remove_dir_all(root).expect("own directory");
        assert_eq!(machine.cpu, "AMD EPYC 9B14");
        assert_eq!((machine.cores, machine.threads, machine.smt), (2, 4, Some(true)));
        assert_eq!(machine.memory_bytes, 24_567_890 * 1024);
        assert_eq!(machine.kernel, "6.12.9-amd64");
        assert_eq!(machine.governor, None);
        assert_eq!(machine.mitigations, ["spectre_v2: Mitigation: Retpolines"]);
        assert_eq!(machine.virtualisation, "QEMU");
        assert_eq!(machine.congestion_control.as_deref(), Some("cubic"));
        assert_eq!(machine.limits.nofile_soft, Some(1024));
        assert_eq!(machine.limits.nofile_hard, Some(1_048_576));
        assert_eq!(machine.limits.memlock_soft, Some(8_388_608));
        assert_eq!(machine.limits.io_uring_disabled, Some(2));
        assert!((machine.load_at_start - 0.42).abs() < 1e-9);
    }

    #[test]
    fn the_id_survives_what_changes_and_not_what_does_not() {
        let machine =
            Machine { cpu: "X".into(), cores: 2, memory_bytes: 24 << 30, ..Machine::default() };
        let after_update = Machine {
            kernel: "7.0".into(),
            load_at_start: 3.0,
            memory_bytes: (24 << 30) - 12_345_678,
            ..machine.clone()
        };
        assert_eq!(machine.stable_hash(), after_update.stable_hash());
        for other in [
            Machine { cpu: "Y".into(), ..machine.clone() },
            Machine { cores: 4, ..machine.clone() },
            Machine { threads: 4, ..machine.clone() },
            Machine { memory_bytes: 48 << 30, ..machine.clone() },
            Machine { virtualisation: "none".into(), ..machine.clone() },
        ] {
            assert_ne!(machine.stable_hash(), other.stable_hash(), "{other:?}");
        }
        assert_eq!(machine.stable_hash().len(), 12);
    }

    #[test]
    fn an_unlimited_limit_is_null() {
        let root = fake_root("unlimited");
        let unlimited =
            "Max open files            unlimited            unlimited            files\n";
        fs::write(root.join("proc/self/limits"), unlimited)
            .expect("temporary directory is writable");
        let found = limits(&System::below(&root));
        fs::remove_dir_all(root).expect("own directory");
        assert_eq!(found, Limits { io_uring_disabled: Some(2), ..Limits::default() });
    }

    #[test]
    fn a_vendor_that_is_not_known_is_not_quoted() {
        assert_eq!(virtualisation("flags : hypervisor\n", "Somebody's Workshop"), "hypervisor");
        assert_eq!(virtualisation("flags : fpu\n", "Somebody's Workshop"), "none");
        assert_eq!(virtualisation("Features : asimd\n", "Amazon EC2"), "Amazon EC2");
    }

    #[test]
    fn an_arm_cpu_is_named_by_its_numbers() {
        assert_eq!(
            cpu_model("CPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"),
            "Arm implementer 0x41 part 0xd0c"
        );
        assert_eq!(cpu_model(""), "unknown");
    }

    #[test]
    fn this_machine_has_an_id_and_a_cpu() {
        let machine = Machine::here();
        assert_eq!(machine.id.len(), 12);
        assert!(machine.threads >= 1 && machine.cores >= 1 && machine.cores <= machine.threads);
    }
}
