//! Processes between the generator and its server: the hidden subcommand [`GUARD`].
//!
//! The generator starts the *supervisor*, this program again. The supervisor makes a control group
//! where it may, and starts the *guard*, which confines itself and then becomes the server's
//! command. Processes of the server whose parent ends become children of the supervisor. It waits
//! for them, so that their cost is known, and can end them all.
//!
//! Supervisor and generator talk over a socket, the supervisor's standard input:
//!
//! | from | message | meaning |
//! |---|---|---|
//! | supervisor | `PID FOLDER\n` | the server's first process, and its control group (empty: none) |
//! | generator | [`TERMINATE`] | send SIGTERM to the whole server |
//! | generator | end of file | kill the whole server; sent by the kernel where the generator is killed |
//! | supervisor | `STATUS\n` | the whole server has ended, with this wait status |

use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::thread;

use rustix::io::Errno;
use rustix::process::{
    Pid, Resource, Rlimit, Signal, WaitOptions, WaitStatus, getpid, getppid, getrlimit,
    kill_process, kill_process_group, set_child_subreaper, set_parent_process_death_signal,
    setrlimit, wait,
};
use rustix::thread::{CpuSet, sched_setaffinity};

use super::LOOK_EVERY;
use crate::host::cgroup::Cgroup;
use crate::host::procfs;

/// Name of the hidden subcommand that becomes the supervisor, and the server.
pub(crate) const GUARD: &str = "spawn-guard";
pub(super) const SUPERVISE: &str = "supervise";
const BECOME: &str = "become";
/// Command to the supervisor to send SIGTERM.
pub(super) const TERMINATE: u8 = b'T';
/// Exit code of a shell, and of the guard, when a command cannot be run.
const CANNOT_RUN: i32 = 127;
/// This program. The link still leads to it after its file was replaced by a newer build.
pub(super) const MYSELF: &str = "/proc/self/exe";
/// Attempts to remove a control group whose last process is ending.
const REMOVE_ATTEMPTS: usize = 200;

/// Limits that the generator raises for itself and that a server must not inherit.
const RAISED: [Resource; 2] = [Resource::Nofile, Resource::Memlock];
/// Limits that the generator was started with.
static INHERITED: OnceLock<[Rlimit; RAISED.len()]> = OnceLock::new();

/// Returns the limits of this process for a server, as they were at the first call.
pub(crate) fn inherited_limits() -> &'static [Rlimit; RAISED.len()] {
    INHERITED.get_or_init(|| RAISED.map(getrlimit))
}

/// Encodes the soft and the hard limit of each resource; `null` stands for none.
pub(super) fn encode_limits(limits: &[Rlimit]) -> String {
    let pairs: Vec<_> = limits.iter().map(|limit| (limit.current, limit.maximum)).collect();
    serde_json::to_string(&pairs).unwrap_or_default()
}

fn decode_limits(text: &str) -> Option<Vec<Rlimit>> {
    let pairs: Vec<(Option<u64>, Option<u64>)> = serde_json::from_str(text).ok()?;
    Some(pairs.into_iter().map(|(current, maximum)| Rlimit { current, maximum }).collect())
}

/// Carries out the hidden subcommand: supervises a server, or becomes it. Returns the exit code.
pub(crate) fn guard(arguments: &[OsString]) -> i32 {
    let (ended, program) = match arguments {
        [part, command @ ..] if part == SUPERVISE => (supervise(command), command.get(2)),
        [part, parent, cpus, limits, program, rest @ ..] if part == BECOME => {
            (become_server(parent, cpus, limits, program, rest), Some(program))
        }
        _ => (Err(io::Error::other(format!("{GUARD} is for the load generator itself"))), None),
    };
    let Err(error) = ended else { return 0 };
    let program = program.map(|program| program.to_string_lossy()).unwrap_or_default();
    // Where standard error is closed, the error cannot be reported.
    let _ = writeln!(io::stderr(), "cannot run `{program}`: {error}");
    CANNOT_RUN
}

/// Starts the server and stays until all of it has ended.
fn supervise(command: &[OsString]) -> io::Result<()> {
    let mut generator = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    set_child_subreaper(Some(getpid()))?;
    let cgroup = Cgroup::enter_new();
    let child = start_guard(command);
    if let Some(cgroup) = &cgroup {
        // Where it fails, the supervisor counts as a part of the server.
        let _ = cgroup.leave();
    }
    let ended = child.and_then(|child| {
        let folder = cgroup.as_ref().map(Cgroup::folder).unwrap_or_else(|| "".as_ref());
        // Where the generator is gone, the commands end.
        let _ = writeln!(generator, "{} {}", child.id(), folder.display());
        let (leader, cgroup, commands) =
            (Pid::from_child(&child), cgroup.clone(), generator.try_clone()?);
        thread::Builder::new().spawn(move || apply_commands(leader, cgroup.as_ref(), commands))?;
        wait_for_all(&child)
    });
    if let Some(cgroup) = &cgroup {
        let _ = (0..REMOVE_ATTEMPTS).any(|_| {
            thread::sleep(LOOK_EVERY);
            cgroup.remove()
        });
    }
    let _ = writeln!(generator, "{}", ended?.as_raw());
    Ok(())
}

fn start_guard(command: &[OsString]) -> io::Result<Child> {
    Command::new(MYSELF)
        .arg0("sparring-loadgen")
        .args([GUARD, BECOME, &std::process::id().to_string()])
        .args(command)
        .process_group(0)
        .stdin(Stdio::null())
        .spawn()
}

/// Waits until no process of the server is left. Returns the status of the first process; where
/// that is a success, the status of the last one. The first process may have existed only to start
/// the others.
fn wait_for_all(first: &Child) -> io::Result<WaitStatus> {
    let first = Pid::from_child(first);
    let mut ended: Option<WaitStatus> = None;
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) => {
                let is_starter = ended.is_none_or(|status| status.exit_status() == Some(0));
                if pid == first || is_starter {
                    ended = Some(status);
                }
            }
            Ok(None) | Err(Errno::INTR) => {}
            // ECHILD: no process is left.
            Err(error) => return ended.ok_or(error.into()),
        }
    }
}

/// Carries out the generator's commands until the server is to be killed or the generator is gone.
fn apply_commands(leader: Pid, cgroup: Option<&Cgroup>, mut commands: UnixStream) {
    let mut command = [0];
    while matches!(commands.read(&mut command), Ok(1)) {
        if command == [TERMINATE] {
            signal_server(leader, Signal::TERM);
        }
    }
    // Processes may be started meanwhile. The end of the last one ends this process.
    loop {
        if let Some(cgroup) = cgroup {
            cgroup.kill();
        }
        signal_server(leader, Signal::KILL);
        thread::sleep(LOOK_EVERY);
    }
}

/// Sends a signal to the process group of `leader` and to all processes that have left it.
fn signal_server(leader: Pid, signal: Signal) {
    let group = leader.as_raw_nonzero().get().cast_unsigned();
    let (members, others): (Vec<_>, Vec<_>) = procfs::descendants(std::process::id())
        .into_iter()
        .partition(|(_, stat)| stat.group == group);
    // The number of an empty group may belong to another one. Ended targets are no error.
    if !members.is_empty() {
        let _ = kill_process_group(leader, signal);
    }
    for pid in others.iter().filter_map(|(pid, _)| Pid::from_raw(pid.cast_signed())) {
        let _ = kill_process(pid, signal);
    }
}

/// Becomes the server. Returns only where that fails.
fn become_server(
    parent: &OsStr,
    cpus: &OsStr,
    limits: &OsStr,
    program: &OsStr,
    rest: &[OsString],
) -> io::Result<()> {
    // This covers the case that generator and supervisor are killed together.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    // The parent may have ended before the request to the kernel.
    let expected = parent.to_str().and_then(|pid| pid.parse().ok()).and_then(Pid::from_raw);
    if getppid() != expected {
        return Err(io::Error::other("the load generator has ended"));
    }
    confine(cpus.to_str().unwrap_or_default())?;
    let limits = limits.to_str().and_then(decode_limits).unwrap_or_default();
    RAISED.into_iter().zip(limits).try_for_each(|(resource, limit)| setrlimit(resource, limit))?;
    Err(Command::new(program).args(rest).exec())
}

fn confine(cpus: &str) -> io::Result<()> {
    if cpus.is_empty() {
        return Ok(());
    }
    let list = engine::affinity::parse_cpu_list(cpus).map_err(io::Error::other)?;
    let mut set = CpuSet::new();
    list.iter().for_each(|&cpu| set.set(cpu));
    sched_setaffinity(None, &set)
        .map_err(|error| io::Error::other(format!("processors {cpus} (--spawn-cpus): {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_read_as_they_were_written() {
        let limits = [
            Rlimit { current: Some(1024), maximum: Some(4096) },
            Rlimit { current: Some(65536), maximum: None },
        ];
        assert_eq!(decode_limits(&encode_limits(&limits)).as_deref(), Some(&limits[..]));
        assert_eq!(decode_limits("1024"), None);
    }
}
