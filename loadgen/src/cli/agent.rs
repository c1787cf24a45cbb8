//! `sparring-loadgen agent`: metrics of a server that has none.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::{print_plain, usage, version};
use crate::agent::{Agent, end_signals};
use crate::host::accounts::{Account, group_folder};

const EXAMPLES: &str = "\
Examples:
  On the server's host, then on the generator's:
    sparring-loadgen agent --pid \"$(pidof -s nginx)\" --listen 192.0.2.7:9100
    sparring-loadgen run ws://192.0.2.7:8080/ \\
        --server-metrics http://192.0.2.7:9100/metrics
  A service, and a container's control group:
    sparring-loadgen agent --systemd nginx.service
    sparring-loadgen agent --cgroup /sys/fs/cgroup/system.slice/docker-0123.scope

A control group counts everything that has run in it, and is more exact than --pid where processes \
start and end. With --pid a process whose parent ends is no longer counted. The figures are read \
when they are asked for, and cost nothing otherwise. The address has no authentication.

Exit status: 0 ended by SIGINT, SIGTERM or SIGHUP; 1 error; 2 wrong usage.";

/// Serves CPU time and memory of a server at http://ADDRESS/metrics, for `run --server-metrics` and
/// Prometheus.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct AgentArguments {
    #[command(flatten)]
    server: ServerArguments,

    /// Address to serve at.
    #[arg(long, value_name = "ADDRESS:PORT", value_parser = address, default_value = "127.0.0.1:9100")]
    listen: SocketAddr,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ServerArguments {
    /// A process and its descendants.
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,

    /// A control group, by its folder or by its path below /sys/fs/cgroup.
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,

    /// The control group of a systemd unit.
    #[arg(long, value_name = "UNIT")]
    systemd: Option<String>,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    let expected = "expected an IP address and a port, for example 127.0.0.1:9100 or [::]:9100";
    text.parse().map_err(|_| expected.to_owned())
}

impl ServerArguments {
    /// Returns the server, and its name in words.
    fn account(&self) -> anyhow::Result<(Account, String)> {
        if let Some(pid) = self.pid {
            let account = Account::of_process(pid).ok_or_else(|| {
                usage(format!("--pid {pid} is no process: expected one of `ps -e`"))
            })?;
            return Ok((account, format!("process {pid}")));
        }
        let (path, flag, name) = match (&self.cgroup, &self.systemd) {
            (Some(path), _) => (path.clone(), "--cgroup", path.display().to_string()),
            (None, Some(unit)) => (group_of_unit(unit)?, "--systemd", unit.clone()),
            (None, None) => return Err(usage("one of --pid, --cgroup and --systemd is needed")),
        };
        let refused = || {
            let what = "is no control group that counts CPU time, as those below /sys/fs/cgroup";
            usage(format!("{flag} {name} {what} (cgroups(7))"))
        };
        let folder = group_folder(&path).map_err(|_| refused())?;
        let account = Account::of_group(&folder).ok_or_else(refused)?;
        Ok((account, format!("control group {name}")))
    }
}

/// Asks systemd for the control group of a unit.
fn group_of_unit(unit: &str) -> anyhow::Result<PathBuf> {
    let asked = Command::new("systemctl")
        .args(["show", "--property=ControlGroup", "--value", "--", unit])
        .output();
    let output = match asked {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(usage(format!(
                "--systemd {unit}: there is no systemctl here; name the control group with --cgroup"
            )));
        }
        output => output.context("cannot run systemctl")?,
    };
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or_default().to_owned();
        return Err(anyhow!("--systemd {unit}: systemctl failed ({}): {said}", output.status));
    }
    match String::from_utf8_lossy(&output.stdout).trim() {
        "" => Err(usage(format!(
            "--systemd {unit} is not running: start it, or choose one of `systemctl list-units`"
        ))),
        path => Ok(PathBuf::from(path)),
    }
}

impl AgentArguments {
    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let (account, name) = self.server.account()?;
        let listener = TcpListener::bind(self.listen)
            .with_context(|| format!("cannot listen at {} (--listen)", self.listen))?;
        let end = end_signals().context("cannot watch signals")?;
        let at = listener.local_addr().context("cannot listen")?;
        print_plain(&format!("serving {name} at http://{at}/metrics"))?;
        // A pipe is not flushed by a line.
        let _ = io::stdout().flush();
        let build = [
            ("version", version::VERSION),
            ("commit", version::COMMIT),
            ("profile", version::PROFILE),
        ];
        Agent { account, name, build }.serve(&listener, &end)?;
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port() {
        assert_eq!(address("[::]:9100").map(|at| at.port()), Ok(9100));
        for text in ["9100", "localhost:9100", "127.0.0.1"] {
            assert!(address(text).expect_err(text).contains("for example 127.0.0.1:9100"));
        }
    }
}
