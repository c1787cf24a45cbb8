//! Environment of an experiment: servers, processors, and names for the result.

use std::path::PathBuf;

use engine::{EngineError, EngineKind, affinity};
use thiserror::Error;

use super::arm::is_name;
use super::{Arm, Scenario};
use crate::load::Transport;
use crate::run::{Plan, Wait};
use crate::target::spawn::Spawn;
use crate::target::subject::{Subject, is_commit};
use crate::target::trust::Trust;
use crate::target::url::{PORT_PLACEHOLDER, Port, Url};

#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) server: PathBuf,
    /// Engine of our own server, where neither arm nor scenario names one.
    pub(crate) server_engine: EngineKind,
    /// Source that our own server was built from; `None`: the server is asked.
    pub(crate) checkout: Option<Checkout>,
    pub(crate) tag: Option<String>,
    /// Target and placement of every run. Its load and labels are replaced.
    pub(crate) plan: Plan,
    /// True if the URL of `plan` was typed. Otherwise the protocol of the scenario decides.
    pub(crate) has_url: bool,
    /// Processors of the servers; empty: not pinned.
    pub(crate) server_cpus: Vec<usize>,
    /// Processors of proxies; empty: those of the servers.
    pub(crate) proxy_cpus: Vec<usize>,
    /// True if server and generator have cores of their own.
    pub(crate) is_apart: bool,
    /// Notes for the reader of the session, one sentence each.
    pub(crate) marks: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Checkout {
    pub(crate) commit: String,
    pub(crate) dirty: bool,
}

/// Reason why nothing can be measured: a flag that cannot be used.
#[derive(Debug, Error)]
#[error("{0}")]
pub(crate) struct SetupError(String);

pub(super) type Probe<'a> = &'a dyn Fn(EngineKind) -> Result<(), EngineError>;

impl Setup {
    /// Returns the setup of our own server at `server`, driven by `engine`, on the best processors
    /// of this machine.
    pub(crate) fn new(server: PathBuf, engine: EngineKind) -> Self {
        let places = Processors::here();
        let mut plan = Plan::new(url(Transport::Ws), engine);
        plan.placement.cpus = places.iter().map(|places| places.client).collect();
        Self {
            server,
            server_engine: engine,
            checkout: None,
            tag: None,
            plan,
            has_url: false,
            server_cpus: places.iter().map(|places| places.server).collect(),
            proxy_cpus: Vec::new(),
            is_apart: places.as_ref().is_some_and(|places| places.mark.is_none()),
            marks: places.and_then(|places| places.mark).into_iter().collect(),
        }
    }

    /// Checks everything that can be checked before anything runs.
    pub(crate) fn check(&self, arms: &[Arm]) -> Result<(), SetupError> {
        let checkout = self.checkout.as_ref().filter(|checkout| !is_commit(&checkout.commit));
        Err(SetupError(if let Some(tag) = self.tag.as_ref().filter(|tag| !is_name(tag, 40)) {
            format!(
                "--tag `{tag}` is not valid: expected 1 to 40 letters, digits, dots, hyphens or underscores"
            )
        } else if let Some(Checkout { commit, .. }) = checkout {
            format!(
                "--commit `{commit}` is not valid: expected the hash of a commit, 7 to 64 hexadecimal digits"
            )
        } else if arms.iter().any(Arm::is_own) && !self.server.is_file() {
            let server = self.server.display();
            format!(
                "no server at {server}: build it with `cargo build --release`, or name it with --server"
            )
        } else {
            return Ok(());
        }))
    }

    /// Returns the plan of the runs of a scenario on an arm. With one arm the settings of our
    /// server are part of the scenario; with several they are what the arms differ in.
    pub(crate) fn plan_of(
        &self,
        scenario: &Scenario,
        arm: &Arm,
        is_only: bool,
        spins: bool,
    ) -> Plan {
        let transport = scenario.load.transport;
        let engine = arm.engine.or(scenario.engine).unwrap_or(self.server_engine);
        let spawn = Spawn {
            command: self.words(scenario, arm),
            cpus: self.server_cpus.clone(),
            directory: arm.directory.clone(),
        };
        self.plan.clone().with(|plan| {
            plan.scenario = scenario.full_name();
            plan.arm = arm.name.clone();
            plan.load = scenario.load.clone();
            if !self.has_url {
                plan.target.url = url(transport);
            }
            if arm.is_own() && transport == Transport::Wss {
                plan.target.trust = Trust::Anybody;
            }
            plan.target.spawn = Some(spawn);
            plan.target.via = arm.via.clone().map(|command| Spawn {
                command,
                cpus: self.via_cpus(),
                directory: None,
            });
            let spins = spins && scenario.is_about_latency() && self.is_apart;
            plan.placement.wait = arm.wait.or(plan.placement.wait).or(spins.then_some(Wait::Spin));
            if arm.is_own() && is_only {
                plan.target.known.engine = Some(engine.name().to_owned());
                plan.target.known.threads = Some(1);
                plan.target.known.congestion =
                    plan.placement.congestion.as_ref().map(ToString::to_string);
            }
        })
    }

    /// Returns the processors of a proxy. It shares those of the server rather than the
    /// generator's, unless others were named.
    fn via_cpus(&self) -> Vec<usize> {
        let cpus = [&self.proxy_cpus, &self.server_cpus].into_iter().find(|cpus| !cpus.is_empty());
        cpus.cloned().unwrap_or_default()
    }

    /// Returns the words of the command that serves a scenario on an arm. Those of our own server
    /// name everything that matters, so that nothing is left to a default that may change.
    pub(super) fn words(&self, scenario: &Scenario, arm: &Arm) -> Vec<String> {
        if !arm.is_own() {
            return arm.command.clone().unwrap_or_default();
        }
        let engine = arm.engine.or(scenario.engine).unwrap_or(self.server_engine);
        let (scheme, protocol, tls) = match scenario.load.transport {
            Transport::Ws => ("", "ws", ""),
            Transport::Wss => ("wss://", "ws", " --tls-self-signed"),
            Transport::Tcp => ("", "tcp", ""),
        };
        let congestion = self.plan.placement.congestion.as_ref();
        let congestion = congestion.map(|name| format!(" --congestion {name}")).unwrap_or_default();
        // Nothing but the load is to happen on the connections.
        let flags = format!(
            "--listen {scheme}127.0.0.1:{PORT_PLACEHOLDER} --threads 1 --engine {engine} --protocol {protocol} \
             --stats --ping-interval 0 --idle-timeout 0{tls}{congestion}"
        );
        let server = self.server.to_string_lossy().into_owned();
        let flags = flags.split(' ').map(str::to_owned);
        [server].into_iter().chain(flags).chain(arm.flags.iter().cloned()).collect()
    }

    /// Returns the facts about the server of an arm, as it serves `scenario`.
    pub(super) fn subject(&self, scenario: &Scenario, arm: &Arm) -> Subject {
        let asked = Subject::of_command(&self.words(scenario, arm), arm.directory.as_deref());
        if !arm.is_own() {
            return Subject { commit: arm.commit.clone().or(asked.commit), ..asked };
        }
        let engine = Some(arm.engine.unwrap_or(self.server_engine).name().to_owned());
        let commit =
            self.checkout.as_ref().map(|checkout| checkout.commit.clone()).or(asked.commit);
        let dirty = self.checkout.as_ref().map(|checkout| checkout.dirty).or(asked.dirty);
        Subject { engine, commit, dirty, ..asked }
    }
}

/// Returns the address at which servers of a protocol listen.
pub(crate) fn url(transport: Transport) -> Url {
    let target = if transport.is_websocket() { "/" } else { "" };
    Url {
        transport,
        host: "127.0.0.1".to_owned(),
        zone: None,
        port: Port::Chosen,
        credentials: None,
        target: target.to_owned(),
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Processors {
    pub(crate) server: usize,
    pub(crate) client: usize,
    /// Mark for readers where server and generator share cores.
    pub(crate) mark: Option<String>,
}

impl Processors {
    /// The best that this process's affinity allows; `None` where the kernel does not tell it.
    pub(crate) fn here() -> Option<Self> {
        Self::among(&affinity::allowed().ok()?, affinity::siblings)
    }

    /// The best among `cpus`, of which `siblings` tells the ones that share a core.
    fn among(cpus: &[usize], siblings: impl Fn(usize) -> Vec<usize>) -> Option<Self> {
        let core = |cpu: usize| siblings(cpu).into_iter().chain([cpu]).min().unwrap_or(cpu);
        let mut cores: Vec<usize> = Vec::new();
        for &cpu in cpus {
            if !cores.iter().any(|&seen| core(seen) == core(cpu)) {
                cores.push(cpu);
            }
        }
        // The first core usually takes the interrupts of devices and most of what else runs.
        let cores = if cores.len() > 2 { &cores[1..] } else { &cores[..] };
        match (cores, cpus) {
            ([server, client, ..], _) => {
                Some(Self { server: *server, client: *client, mark: None })
            }
            (_, [server, client, ..]) => Some(Self {
                server: *server,
                client: *client,
                mark: Some(
                    "server and generator shared one physical core (two threads of it).".to_owned(),
                ),
            }),
            (_, [only]) => Some(Self {
                server: *only,
                client: *only,
                mark: Some("server and generator shared one CPU.".to_owned()),
            }),
            (_, []) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unusable_flags_are_named() {
        let server = std::env::current_exe().expect("a test has a path");
        let setup = Setup::new(server, EngineKind::Epoll);
        let ours = [Arm::own("A")];
        assert!(setup.check(&ours).is_ok());
        for tag in ["", "a b", "../x", &"x".repeat(41)] {
            let error = Setup { tag: Some(tag.to_owned()), ..setup.clone() }
                .check(&ours)
                .expect_err("refused");
            assert!(error.to_string().starts_with("--tag"), "{error}");
        }
        let checkout = Some(Checkout { commit: "main".into(), dirty: false });
        let error = Setup { checkout, ..setup.clone() }.check(&ours).expect_err("refused");
        assert!(error.to_string().starts_with("--commit `main`"), "{error}");
        let missing = Setup { server: "/no/such/server".into(), ..setup };
        let text = missing.check(&ours).expect_err("refused").to_string();
        assert!(text.contains("/no/such/server") && text.contains("cargo build"), "{text}");
        assert!(missing.check(&["x=x {port}".parse().expect("an arm")]).is_ok());
    }

    fn places(cpus: &[usize], siblings: fn(usize) -> Vec<usize>) -> (usize, usize, bool) {
        let places = Processors::among(cpus, siblings).expect("there are processors");
        (places.server, places.client, places.mark.is_some())
    }

    #[test]
    fn two_cores_are_one_for_each() {
        assert_eq!(places(&[0, 1], |cpu| vec![cpu]), (0, 1, false));
        // Two cores of two threads each, side by side and half the machine apart.
        assert_eq!(places(&[0, 1, 2, 3], |cpu| vec![cpu & !1, cpu | 1]), (0, 2, false));
        assert_eq!(places(&[0, 1, 2, 3], |cpu| vec![cpu % 2, cpu % 2 + 2]), (0, 1, false));
    }

    #[test]
    fn with_more_cores_the_first_is_left_to_the_interrupts() {
        assert_eq!(places(&[0, 1, 2, 3], |cpu| vec![cpu]), (1, 2, false));
    }

    #[test]
    fn sharing_is_marked() {
        assert_eq!(places(&[4, 5], |_| vec![4, 5]), (4, 5, true));
        assert_eq!(places(&[7], |_| Vec::new()), (7, 7, true));
        assert_eq!(Processors::among(&[], |_| Vec::new()), None);
    }

    #[test]
    fn this_machine_has_places() {
        assert!(Processors::here().is_some());
    }
}
