//! A server's figures in Prometheus' text format (version 0.0.4).

use std::fmt::{Display, Write as _};
use std::time::Duration;

use crate::host::accounts::Figures;
use crate::host::procfs::CostSource;
use crate::target::metrics::{
    ANONYMOUS, CPU, CPU_BY_MODE, FAULTS, MODE, RESIDENT, RESOLUTION, START, THREAD_BUSY, THREADS,
};

/// Media type of the format.
pub(super) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Version, commit and cargo profile of this program.
pub(crate) type Build = [(&'static str, &'static str); 3];

struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        let _ = writeln!(self.0, "{name} {value}");
    }

    /// Writes a sample with a label, whose value needs no escape.
    fn labelled(&mut self, name: &str, label: &str, is: impl Display, value: impl Display) {
        let _ = writeln!(self.0, "{name}{{{label}=\"{is}\"}} {value}");
    }
}

/// Formats a time in seconds, to the nanosecond.
fn seconds(ns: u64) -> impl Display {
    let time = Duration::from_nanos(ns);
    format!("{}.{:09}", time.as_secs(), time.subsec_nanos())
}

pub(super) fn exposition(figures: &Figures, source: CostSource, build: &Build) -> String {
    let Figures { cost, resolution_ns, memory, start, threads, busy_ns } = figures;
    let mut text = Text(String::with_capacity(4 << 10));
    let source = match source {
        CostSource::CgroupV2 => "cgroup-v2",
        CostSource::CgroupV1 => "cgroup-v1",
        CostSource::Procfs | CostSource::Metrics => "procfs",
    };
    text.family("sparring_agent_info", "gauge", "1, with the agent and its source in the labels.");
    let labels: Vec<String> =
        build.iter().map(|(label, value)| format!("{label}=\"{value}\"")).collect();
    let labels = labels.join(",");
    let _ = writeln!(text.0, "sparring_agent_info{{{labels},source=\"{source}\"}} 1");
    text.single(
        CPU,
        "counter",
        "CPU time of all processes, ended ones included.",
        seconds(cost.total_ns),
    );
    let what = "Most by which two readings of that time may be wrong.";
    text.single(RESOLUTION, "gauge", what, seconds(*resolution_ns));
    text.family(CPU_BY_MODE, "counter", "CPU time in user space and in the kernel, sampled.");
    text.labelled(CPU_BY_MODE, MODE, "user", seconds(cost.user_ns));
    text.labelled(CPU_BY_MODE, MODE, "system", seconds(cost.system_ns));
    if source == "procfs" {
        text.single(FAULTS, "counter", "Page faults, with and without a read.", cost.faults);
    }
    text.single(RESIDENT, "gauge", "Resident memory of all processes.", memory.resident);
    text.single(ANONYMOUS, "gauge", "Resident memory that no file backs.", memory.anonymous);
    let start_ns = u64::try_from(start.as_nanos()).unwrap_or_default();
    let what = "Start of the oldest living process, in seconds since 1970.";
    text.single(START, "gauge", what, seconds(start_ns));
    text.single(THREADS, "gauge", "Threads of all processes.", threads);
    let what = "Time of each thread, PROCESS/THREAD, on a processor or waiting for one.";
    text.family(THREAD_BUSY, "counter", what);
    for ((pid, tid), ns) in busy_ns {
        text.labelled(THREAD_BUSY, "thread", format_args!("{pid}/{tid}"), seconds(*ns));
    }
    text.0
}
