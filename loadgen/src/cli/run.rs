//! `sparring-loadgen run`: what was typed, its translation into a [`Plan`], and what is printed and
//! written of the run.

use std::path::PathBuf;
use std::time::SystemTime;

use clap::Args;
use engine::{EngineChoice, EngineKind};
use hdrhistogram::Histogram;

use crate::goal::search;
use crate::host::machine::Machine;
use crate::load::value::time;
use crate::report::text;
use crate::result::{
    Document, Goals, InvalidKind, Run, Scenario, Session, SessionKind, SessionVerdict, Start,
};
use crate::run::{Outcome, Plan, ProcessShard, Progress, RunError, measure};
use crate::target::metrics::MetricsUrl;
use crate::target::spawn::{Role, Spawn};
use crate::target::subject::Subject;
use crate::target::url::Url;

use super::cpus::{CpuList, check_own_cpus, cpu_list};
use super::goal::{self, GoalArguments};
use super::output::{Files, FormatArguments, OutputArguments};
use super::plan::PlanArguments;
use super::terminal::Terminal;
use super::{EXIT_STATUS, INTERRUPTED, INVALID, MISSED, OUTPUT, SERVER, say, start_log, usage};

// Paragraphs are one line each, for clap to wrap; commands are short enough for 80 columns.
const RUN_EXAMPLES: &str = "\
Examples:
  64 connections with one message on each, or with sixteen:
    sparring-loadgen run ws://127.0.0.1:9001/
    sparring-loadgen run ws://127.0.0.1:9001/ --pipeline 16
  50,000 messages a second, whatever comes back:
    sparring-loadgen run ws://127.0.0.1:9001/ -R 50k -t 2
  Text of mixed scripts; connections that open, ask once, and close; TLS; raw bytes:
    sparring-loadgen run ws://[::1]:8080/a -c 8 -s 64KiB --text
    sparring-loadgen run ws://127.0.0.1:9001/ --scenario connect
    sparring-loadgen run wss://127.0.0.1:9443/ --insecure
    sparring-loadgen run tcp://127.0.0.1:9001 -s 38
  Own messages with a number, and a server that answers them in any order after a login:
    sparring-loadgen run ws://127.0.0.1:9001/ --payload-file order.json --template \\
        --match id:id --first-message TOKEN --expect-first '\"ok\"'
  Start the server too, and measure what it costs:
    sparring-loadgen run 'ws://127.0.0.1:{port}/' --json a.json \\
        --spawn 'sparring-server --listen 127.0.0.1:{port}'
  Through a proxy, whose CPU time is measured apart from the server's:
    sparring-loadgen run 'ws://127.0.0.1:{port}/' \\
        --spawn 'sparring-server --listen 127.0.0.1:{port}' \\
        --via 'python3 relay.py {port} {server}'
  A server on another host, by its own metrics or those of `sparring-loadgen agent`:
    sparring-loadgen run ws://192.0.2.7:9001/ \\
        --server-metrics http://192.0.2.7:9100/metrics
  The first of four generators that share a load, for `sparring-loadgen merge`:
    sparring-loadgen run ws://127.0.0.1:9001/ -R 50k \\
        --shard 1/4 --start-at 2026-03-01T09:30:00Z --json 1.json
  End with 10 where a threshold is missed; search the highest rate that meets one:
    sparring-loadgen run ws://127.0.0.1:9001/ -R 50k --threshold 'p99<2ms'
    sparring-loadgen run ws://127.0.0.1:9001/ --find-rate 'p99<2ms'

Without -R the load is a closed loop: each connection sends again when an echo is back, and latency runs from just before \
the send to the arrival of the echo. That finds capacity. With -R it is an open loop: messages are planned beforehand, and \
latency runs from the planned time, so that a server that stalls pays for the messages that had to wait. That measures \
latency as users see it. Every echo is compared with what was sent. Ctrl-C ends the run with what it has; a second one ends \
it at once.

A run is INVALID if something other than the server decided its figures, or if echoes or connections were lost or wrong. \
In any loop: a lost connection, a wrong or missing echo, a message outstanding at the end, no echo within the window, a \
debug build, or a generator that stood still for 100 ms at a time or for a tenth of the window. In an open loop: p99 of the \
lag above 500 us, more than 1 % of the planned messages not sent, fewer than 99 % back, or --max-outstanding reached. In a \
closed loop: a thread of the generator busy for more than 95 % of the window while the server's busiest one ran for less \
than 90 %, or more than 1 % of the connections waiting too long for an echo at the end.

";

const SHARDS: &str = "Several generators";

/// Reads a UTC time, or a time from now.
fn start_at(text: &str) -> Result<SystemTime, String> {
    let expected = "expected a UTC time or a time from now, as in 2026-03-01T09:30:00Z or +10s";
    match text.strip_prefix('+') {
        Some(span) => Ok(SystemTime::now() + time(span)?),
        None => humantime::parse_rfc3339(text).map_err(|_| expected.to_owned()),
    }
}

/// Sizes take units (4096, 64KiB, 1MiB), times too (500ms, 10s).
#[derive(Debug, Args)]
#[command(after_help = format!("{RUN_EXAMPLES}{EXIT_STATUS}"), allow_negative_numbers = true)]
pub(super) struct RunArguments {
    /// The server: ws://[USER:PASSWORD@]HOST[:PORT]/PATH, wss:// for TLS, or tcp://HOST:PORT for
    /// raw bytes. {connection} in the path or query: the number of the connection. {port}: a free
    /// port, with --spawn. Connections take several URLs in turn.
    #[arg(required = true, value_name = "URL")]
    urls: Vec<Url>,

    #[command(flatten)]
    plan: PlanArguments,

    /// Start this server for the run and end it afterwards; its CPU time and memory are measured.
    /// No shell is used.
    #[arg(long, value_name = "COMMAND", help_heading = SERVER)]
    spawn: Option<String>,

    /// Processors to confine that server to, as in 0,2-5.
    #[arg(long, value_name = "LIST", value_parser = cpu_list, requires = "spawn", help_heading = SERVER)]
    spawn_cpus: Option<CpuList>,

    /// Start this proxy before that server and connect to it; its CPU time is measured apart.
    /// {port} is the URL's port, {server} HOST:PORT of the server, which gets a {port} of its own.
    #[arg(long, value_name = "COMMAND", requires = "spawn", help_heading = SERVER)]
    via: Option<String>,

    /// Processors to confine that proxy to.
    #[arg(long, value_name = "LIST", value_parser = cpu_list, requires = "via", help_heading = SERVER)]
    via_cpus: Option<CpuList>,

    /// Measure the CPU time and memory of a server on another host by its metrics, at the borders
    /// of the window: those of `sparring-server --admin`, or of `sparring-loadgen agent` on its
    /// host.
    #[arg(long, value_name = "http://HOST:9100/metrics", conflicts_with = "spawn", help_heading = SERVER)]
    server_metrics: Option<MetricsUrl>,

    /// Take this part of the load, where N processes share it: 1/4 to 4/4, with the same flags.
    /// auto takes it from Slurm, or from a Kubernetes Indexed Job with SPARRING_SHARDS. `merge`
    /// adds the results.
    #[arg(long, value_name = "I/N|auto", help_heading = SHARDS)]
    shard: Option<ProcessShard>,

    /// Begin the load at this instant of the system's clock, with all connections open before: a
    /// UTC time, or a time from now.
    #[arg(long, value_name = "TIME|+10s", value_parser = start_at, help_heading = SHARDS)]
    start_at: Option<SystemTime>,

    /// Write the whole result as JSON; - is standard output, which then has nothing else.
    #[arg(long, value_name = "FILE", help_heading = OUTPUT)]
    json: Option<PathBuf>,

    #[command(flatten)]
    goals: GoalArguments,

    #[command(flatten)]
    output: OutputArguments,

    #[command(flatten)]
    format: FormatArguments,

    /// A name for the result.
    #[arg(long, value_name = "NAME", help_heading = OUTPUT)]
    tag: Option<String>,

    /// Exit with 0 although the measurement is invalid; it still says so.
    #[arg(long, help_heading = OUTPUT)]
    allow_invalid: bool,

    /// Neither progress nor table: errors alone, and why a run is INVALID or a goal was missed.
    #[arg(short, long, help_heading = OUTPUT)]
    quiet: bool,
}

impl RunArguments {
    /// Returns the plan that was typed, with `engine` as its engine, because the flags may leave
    /// that open.
    fn plan(&self, engine: EngineKind) -> anyhow::Result<Plan> {
        let (url, others) = self.urls.split_first().ok_or_else(|| usage("a URL is needed"))?;
        let mut plan = self.plan.plan(url.clone(), engine)?;
        plan.target.others = others.to_vec();
        if let Some(command) = &self.spawn {
            let cpus = self.spawn_cpus.clone().map(|list| list.0).unwrap_or_default();
            let spawn = Spawn::parse(Role::Server, command).map_err(usage)?;
            plan.target.spawn = Some(Spawn { cpus, ..spawn });
        }
        if let Some(command) = &self.via {
            let cpus = self.via_cpus.clone().map(|list| list.0).unwrap_or_default();
            let via = Spawn::parse(Role::Proxy, command).map_err(usage)?;
            plan.target.known.proxy = Subject::of_command(&via.command, None).command;
            plan.target.via = Some(Spawn { cpus, ..via });
        }
        plan.target.metrics.clone_from(&self.server_metrics);
        (plan.placement.shard, plan.placement.start_at) = (self.shard, self.start_at);
        // A scenario keeps its name, so that its results compare whatever their tags.
        if let Some(tag) = self.tag.as_ref().filter(|_| self.plan.load.scenario.is_none()) {
            plan.scenario.clone_from(tag);
        }
        plan.check()?;
        // Flags that would change nothing are a misunderstanding.
        if let Some(flag) = self.plan.load.of_open_loop()
            && !plan.load.is_open_loop()
            && !self.goals.is_search()
        {
            let why = "needs -R or --stages: without a rate the load is a closed loop, which sends when an echo is back";
            return Err(usage(format!("{flag} {why}")));
        }
        let is_shared = self.shard.is_some();
        for (flag, is_given, why) in [
            ("--find-rate and --shard", is_shared && self.goals.is_search(), "all must try a rate"),
            ("--threshold and --shard", is_shared && !self.goals.is_empty(), "give it to `merge`"),
            (
                "--find-rate and --start-at",
                self.start_at.is_some() && self.goals.is_search(),
                "a search has many runs",
            ),
        ] {
            if is_given {
                return Err(usage(format!("{flag} do not go together: {why}")));
            }
        }
        if self.plan.target.spawn_timeout.is_some() && plan.target.spawn.is_none() {
            return Err(usage("--spawn-timeout needs --spawn"));
        }
        Ok(plan)
    }

    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let plan = self.plan(EngineKind::Uring)?;
        self.goals.check(&plan)?;
        check_own_cpus(
            self.plan.placement.cpus.as_ref(),
            self.spawn_cpus.as_ref(),
            self.via_cpus.as_ref(),
        )?;
        start_log();
        let (engine, why) = self.plan.placement.engine.resolve()?;
        let plan = plan.with(|plan| plan.placement.engine = engine);
        let mut files = Files::open(self.json.as_deref(), &self.output)?;
        if self.plan.placement.engine == EngineChoice::Auto && !self.quiet {
            say(&format!("engine {engine}: {why}"));
        }
        let mut terminal = Terminal::start(self.quiet)?;
        let start = Start::now();
        let measured = if self.goals.is_search() {
            self.search(&plan, &mut terminal)
        } else {
            self.single(&plan, &mut terminal)
        };
        terminal.screen.close();
        let measured = measured?;
        // A failure here does not prevent the remaining outputs of the result.
        let document = self.document(&plan, &measured, start);
        let kept = files.write_document(&document);
        let last = measured.runs.last();
        let written = last.map_or(Ok(()), |(_, run)| files.write_run(run, &measured.seconds));
        let printed = self.print(&measured, &document, files.have_standard_output());
        kept.and(written).and(printed)?;
        Ok(measured.exit_code(self.allow_invalid))
    }

    fn print(
        &self,
        measured: &Measured,
        document: &Document,
        to_error: bool,
    ) -> anyhow::Result<()> {
        let complain = |complaint: String| say(&format!("sparring-loadgen: {complaint}"));
        if self.quiet {
            measured.complaints().into_iter().for_each(complain);
            return Ok(());
        }
        let printed = self.format.print(&text::run(document, &self.output.percentiles), to_error);
        let error = measured.error.iter().filter(|_| !measured.is_interrupted());
        error.for_each(|error| complain(error.to_string()));
        printed
    }

    fn single(&self, plan: &Plan, terminal: &mut Terminal) -> Result<Measured, RunError> {
        terminal.expect(plan.load.settle + plan.load.warmup + plan.load.measure);
        let Outcome { run, seconds, error, subject } = measure(plan, terminal)?;
        let thresholds = self.goals.judge(&run);
        let met = thresholds.iter().all(|each| each.met);
        let goals = (!self.goals.is_empty()).then_some(Goals { met, thresholds, find_rate: None });
        Ok(Measured { runs: vec![(plan.clone(), run)], seconds, error, goals, subject })
    }

    /// Searches the highest rate; the runs are those of its trials that have a result.
    fn search(&self, plan: &Plan, terminal: &mut Terminal) -> Result<Measured, RunError> {
        let (mut runs, mut seconds, mut error, mut number) = (Vec::new(), Vec::new(), None, 0);
        let mut subject = None;
        let found = search::find(&self.goals.range(plan), &mut |rate, window, is_confirmation| {
            number += 1;
            let trial = goal::trial_plan(plan, rate, window, is_confirmation);
            let outcome = match measure(&trial, terminal) {
                Ok(Outcome { run, seconds: latest, error: early, subject: found }) => {
                    (seconds, error, subject) = (latest, early, found);
                    let outcome = goal::outcome(&run, &self.goals.judge(&run));
                    let is_interrupted = run.interrupted;
                    runs.push((trial, run));
                    if is_interrupted {
                        return Err(RunError::Interrupted);
                    }
                    outcome
                }
                Err(error) => goal::failed_outcome(error)?,
            };
            if !self.quiet {
                terminal.screen.say(&goal::trial_line(
                    number,
                    rate,
                    window,
                    is_confirmation,
                    &outcome,
                ));
            }
            Ok(outcome)
        });
        let found = match found {
            // The result has everything that was measured until then.
            Err(failure) if !runs.is_empty() => {
                return Ok(Measured { runs, seconds, error: Some(failure), goals: None, subject });
            }
            found => found?,
        };
        let thresholds = runs.last().map(|(_, run)| self.goals.judge(run)).unwrap_or_default();
        let met = found.rate_per_s.is_some() && thresholds.iter().all(|each| each.met);
        let goals = Some(Goals { met, thresholds, find_rate: Some(found) });
        Ok(Measured { runs, seconds, error, goals, subject })
    }

    fn document(&self, plan: &Plan, measured: &Measured, start: Start) -> Document {
        let last = measured.runs.last();
        let words = plan.target.spawn.as_ref().map_or(&[][..], |spawn| &spawn.command);
        let subject = measured.subject.clone().unwrap_or_else(|| Subject::of_command(words, None));
        let engine = last.and_then(|(_, run)| run.server.as_ref()?.engine.clone());
        let debug = cfg!(debug_assertions).then(|| "the generator is a debug build".to_owned());
        let session = Session {
            tag: self.tag.clone(),
            order: if self.goals.is_search() { "search" } else { "single" }.to_owned(),
            interrupted: measured.is_interrupted() || last.is_some_and(|(_, run)| run.interrupted),
            marks: debug.into_iter().collect(),
            ..Session::new(SessionKind::Single, start)
        };
        let engine_of_generator = last.map_or("", |(plan, _)| plan.placement.engine.name());
        Document {
            subject: Subject { engine, ..subject },
            scenarios: measured.scenarios(),
            runs: measured.runs.iter().map(|(_, run)| run.clone()).collect(),
            verdict: measured.goals.clone().map(SessionVerdict::Goals),
            ..Document::new(session, engine_of_generator, Machine::here())
        }
    }
}

/// Everything that one command has measured: one run, or the trials of a search.
struct Measured {
    runs: Vec<(Plan, Run)>,
    /// The latencies of each second of the last run.
    seconds: Vec<Option<Histogram<u32>>>,
    /// Error that ended the load of the last run, or the search, before its time.
    error: Option<RunError>,
    goals: Option<Goals>,
    /// The server as its metrics describe it.
    subject: Option<Subject>,
}

impl Measured {
    fn scenarios(&self) -> Vec<Scenario> {
        let mut scenarios: Vec<Scenario> = Vec::new();
        for (plan, run) in &self.runs {
            if scenarios.iter().all(|scenario| scenario.name != plan.scenario) {
                let server = run.server.as_ref();
                let plan = plan.clone().with(|plan| {
                    plan.target.known.engine = server.and_then(|server| server.engine.clone());
                    plan.target.known.congestion =
                        server.and_then(|server| server.congestion.clone());
                });
                scenarios.push(plan.stored_scenario());
            }
        }
        scenarios
    }

    fn not_found(&self) -> Option<&str> {
        let found = self.goals.as_ref()?.find_rate.as_ref()?;
        found.rate_per_s.is_none().then_some(&found.conclusion)
    }

    /// Returns the problems of the run, a line each, for a quiet run: an exit status alone says too
    /// little.
    fn complaints(&self) -> Vec<String> {
        let invalid = self.runs.last().filter(|(_, run)| !run.valid);
        let invalid =
            invalid.map(|(_, run)| format!("INVALID: {}", run.invalid_reasons.join("; ")));
        let missed = missed_thresholds(self.goals.as_ref());
        let not_found = self.not_found().map(|why| format!("no rate found: {why}"));
        invalid.into_iter().chain(missed).chain(not_found).collect()
    }

    fn is_interrupted(&self) -> bool {
        matches!(self.error, Some(RunError::Interrupted))
    }

    /// That of the last run; a goal can be missed only by one that is valid.
    fn exit_code(&self, allows_invalid: bool) -> u8 {
        if self.is_interrupted() {
            INTERRUPTED
        } else if self.not_found().is_some() {
            MISSED
        } else if self.error.is_some() {
            1
        } else {
            let missed = self.goals.as_ref().is_some_and(|goals| !goals.met);
            match self.runs.last().map_or(0, |(_, run)| exit_code(run, allows_invalid)) {
                0 if missed => MISSED,
                code => code,
            }
        }
    }
}

/// Returns a line for each threshold that was missed.
pub(super) fn missed_thresholds(goals: Option<&Goals>) -> impl Iterator<Item = String> {
    let thresholds = goals.into_iter().flat_map(|goals| &goals.thresholds);
    let missed = thresholds.filter(|each| !each.met);
    missed.map(|each| format!("threshold MISSED: {}", each.text))
}

/// Returns the exit code. Wrong echoes and a broken load are errors in any case. An interrupted run
/// is known to be incomplete.
pub(super) fn exit_code(run: &Run, allows_invalid: bool) -> u8 {
    let is_broken =
        run.ended_early.is_some() || run.invalid_kinds.contains(&InvalidKind::Imbalance);
    if run.integrity.faults() > 0 || is_broken {
        return 1;
    }
    match (run.interrupted, run.valid) {
        (true, _) => INTERRUPTED,
        (false, false) if !allows_invalid => INVALID,
        (false, _) => 0,
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::{Arguments, Command};
    use super::*;
    use crate::load::Transport;
    use crate::run::{Target, Wait};
    use crate::target::place::Place;
    use crate::target::trust::Trust;

    fn plan(arguments: &[&str]) -> Result<Plan, String> {
        let words = ["sparring-loadgen", "run"].iter().chain(arguments);
        let parsed = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
        let Some(Command::Run(run)) = parsed.command else { return Err("not run".to_owned()) };
        run.plan(EngineKind::Epoll).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_a_plan() {
        let url = "ws://127.0.0.1:9001/";
        let typed = plan(&[url]).expect("a URL is enough");
        let default = Plan::new(url.parse().expect("url"), EngineKind::Epoll);
        assert_eq!(format!("{typed:?}"), format!("{default:?}"));
    }

    #[test]
    fn flags_reach_the_plan() {
        let line = "wss://h:{port}/x -t 3 --cpus 4-6 --spawn-cpus 0,1 --tag name --congestion reno \
                    --wait spin --source-ip 127.0.0.1-127.0.0.3 --subprotocol a --subprotocol b \
                    --origin http://o --insecure -R 50k";
        let words = line.split_ascii_whitespace();
        let words =
            words.chain(["--spawn", "server -p {port}", "--header", "X-A: b"]).collect::<Vec<_>>();
        let Plan { scenario, load, target, placement, .. } = plan(&words).expect("flags");
        assert_eq!(
            (scenario.as_str(), load.transport, load.rate_per_s),
            ("name", Transport::Wss, Some(50e3))
        );
        assert_eq!((placement.threads, placement.cpus), (3, vec![4, 5, 6]));
        assert_eq!((placement.wait, placement.source_ips.len()), (Some(Wait::Spin), 3));
        assert_eq!(placement.congestion.map(|name| name.to_string()).as_deref(), Some("reno"));
        let spawn = target.spawn.expect("a server");
        assert_eq!((spawn.command.len(), spawn.cpus), (3, vec![0, 1]));
        assert_eq!((target.subprotocols.len(), target.origin.as_deref()), (2, Some("http://o")));
        assert_eq!(
            (target.headers, target.trust),
            (vec![("X-A".to_owned(), "b".to_owned())], Trust::Anybody)
        );
    }

    #[test]
    fn a_proxy_is_part_of_what_compares() {
        let spawned = ["ws://h:{port}/", "--spawn", "server {port}"];
        let direct = plan(&spawned).expect("a server");
        let via = ["--via", "/opt/relay {port} {server}", "--via-cpus", "0"];
        let proxied = plan(&[&spawned[..], &via].concat()).expect("a proxy");
        let stored = proxied.stored_scenario();
        assert_eq!(stored.server.proxy.as_deref(), Some("relay {port} {server}"));
        assert_ne!(stored.hash, direct.stored_scenario().hash);
        assert_eq!(proxied.proxy_cpus(), [0]);
        let fixed = "server {port} and relay on a port of the URL";
        let words = ["ws://h:80/", "--spawn", fixed, "--via", "relay {server}"];
        assert!(plan(&words).is_ok());
        let error = plan(&["ws://h:{port}/", "--spawn", fixed, "--via", "relay {server}"]);
        assert!(error.expect_err("no port").contains("{port} in its command"));
    }

    #[test]
    fn the_way_to_the_server_reaches_the_plan() {
        let line = "wss://user:secret@h/{connection} wss://[::1]:9/ --connect-to 127.0.0.1:9443 \
                    --host vhost:1 --sni name --tls-min 1.3 --tls-resume 90 --insecure";
        let plan = plan(&line.split_ascii_whitespace().collect::<Vec<_>>()).expect("flags");
        assert!(!format!("{plan:?}").contains("secret"), "{plan:?}");
        let Target { url, others, connect_to, host, sni, .. } = &plan.target;
        assert_eq!((others.len(), connect_to.as_ref().map(Place::host)), (1, Some("127.0.0.1")));
        assert_eq!((host.as_deref(), sni.as_deref()), (Some("vhost:1"), Some("name")));
        let request = plan.target.request(url, &plan.load);
        assert_eq!((request.host.as_str(), request.is_template), ("vhost:1", true));
        assert_eq!(request.of_connection(7).target, "/7");
        let field = ("Authorization".to_owned(), "Basic dXNlcjpzZWNyZXQ=".to_owned());
        assert_eq!(request.headers, [field]);
        let stored = serde_json::to_value(plan.stored_scenario()).expect("JSON");
        assert_eq!(stored["route"], serde_json::json!({ "targets": 2 }));
        let parameters = &stored["parameters"];
        assert_eq!(
            (&parameters["tls_min"], &parameters["tls_resume_percent"]),
            (&"1.3".into(), &90.into())
        );
    }

    #[test]
    fn a_scenario_names_the_run_and_needs_its_protocol() {
        let typed =
            plan(&["ws://h/ws", "--scenario", "echo-ws-limited", "-s", "9"]).expect("a scenario");
        assert_eq!(
            (typed.scenario.as_str(), typed.load.messages_per_connection),
            ("echo-ws-limited", Some(10))
        );
        assert_eq!(typed.load.message_bytes, 9.into());
        let error = plan(&["ws://h/", "--scenario", "tcp"]).expect_err("raw bytes");
        assert!(error.contains("`tcp` needs a tcp:// URL"), "{error}");
    }

    #[test]
    fn unusable_flags_are_named() {
        for (flags, named) in [
            (&["-c", "0"][..], "-c"),
            (&["-c", "many"], "--connections"),
            (&["-t", "65"], "-t"),
            (&["-d", "0"], "-d"),
            (&["-d", "5"], "--duration"),
            (&["-R", "0"], "-R"),
            (&["-R", "fast"], "--rate"),
            (&["--rate-per-connection", "0"], "-R"),
            (&["--arrival", "burst"], "--arrival"),
            (&["--stages", ""], "--stages"),
            (&["--stages", "10k"], "as in 10k:30s,50k:10s,50k:1m,0:5s"),
            (&["--stages", "10k:-5s"], "time does not go backwards"),
            (&["--stages", "10k:5parsecs"], "--stages"),
            (&["--stages", "10k:0s"], "take no time"),
            (&["--stages", "2000M:1s"], "--stages"),
            (&["--stages", "1k:1s", "-d", "5s"], "--stages"),
            (&["--stages", "1k:1s", "-R", "5k"], "--stages"),
            (&["--stages", "1k:1s", "--find-rate", "p99<2ms"], "--stages"),
            (&["--max-outstanding", "0"], "--max-outstanding"),
            (&["--wait", "patiently"], "--wait"),
            (&["-n", "0"], "-n"),
            (&["--payload-size-list", "64:0"], "-s"),
            (&["--fragments", "0"], "--fragments"),
            (&["--mask", "zero"], "--mask"),
            (&["--connect-rate", "0"], "--connect-rate"),
            (&["--source-ip", "here"], "--source-ip"),
            (&["--header", "Upgrade: x"], "--header"),
            (&["--header", "nothing"], "--header"),
            (&["--subprotocol", "a b"], "--subprotocol"),
            (&["--ping-interval", "0"], "--ping-interval"),
            (&["--channel-lifetime", "0"], "--channel-lifetime"),
            (&["--messages-per-connection", "0"], "--messages-per-connection"),
            (&["--scenario", "none"], "`none` is unknown"),
            (&["-w", "soon"], "--warmup"),
            (&["-s", "large"], "--size"),
            (&["-s", "1GiB"], "-s"),
            (&["-s", "64MiB"], "--pipeline"),
            (&["--pipeline", "0"], "--pipeline"),
            (&["--cpus", "x"], "--cpus"),
            (&["--cpus", "0,1"], "--cpus"),
            (&["--engine", "kqueue"], "--engine"),
            (&["--congestion", "no-such"], "--congestion"),
            (&["--spawn", "a 'b"], "--spawn"),
            (&["--spawn-cpus", "0"], "--spawn"),
            (&["--via", "relay {port} {server}"], "--spawn"),
            (&["--spawn", "a {port}", "--via", "relay 'b"], "--via"),
            (&["--spawn", "a {port}", "--via-cpus", "0"], "--via"),
            (&["--spawn", "a 9001", "--via", "relay {port} {server}"], "{port} in the command of"),
            (&["--spawn", "a {port}", "--via", "relay {port}"], "{server} in its command"),
            (&["--text-kind", "runes"], "--text-kind"),
            (&["--connect-timeout", "0"], "--connect-timeout"),
            (&["--connect-to", "h"], "--connect-to"),
            (&["--connect-to", "h:1", "--spawn", "a"], "--connect-to"),
            (&["ws://i/", "--spawn", "a"], "several URLs"),
            (&["wss://i/"], "different schemes"),
            (&["--host", "a b"], "--host"),
            (&["--header", "X: {conection}"], "`{conection}` is not a known placeholder"),
            (&["ws://h/{seq}"], "`{seq}` is not a known placeholder"),
            (&["ws://u:p@h/", "--header", "authorization: x"], "--header Authorization"),
            (&["--sni", "h"], "--sni"),
            (&["--tls-min", "1.2"], "--tls-min"),
            (&["--tls-max", "1.1"], "--tls-max"),
            (&["--tls-resume", "50%"], "--tls-resume"),
            (&["--tls-resume", "101%"], "--tls-resume"),
            (&["--cert", "a.pem"], "--cert a.pem needs --key FILE, as in"),
            (&["--key", "a.pem"], "--key a.pem needs --cert FILE, as in"),
            (&["--cert", "/dev/null", "--key", "/dev/null"], "--cert"),
            (&["--timeout", "0"], "--timeout"),
            (&["--spawn-timeout", "0"], "--spawn-timeout"),
        ] {
            let error = plan(&[&["ws://h/"], flags].concat()).expect_err(named);
            assert!(error.contains(named), "{flags:?}: {error}");
        }
        assert!(
            plan(&["wss://h/", "--insecure"]).is_ok()
                && plan(&["wss://h/", "--ca", "a.pem"]).is_ok()
        );
        for flags in [&["--ca", "a.pem"][..], &["--insecure"]] {
            let error = plan(&[&["ws://h/"], flags].concat()).expect_err("needs TLS");
            assert!(error.contains(flags[0]) && error.contains("wss://"), "{error}");
        }
        for (flags, named) in [
            (&["--sni", "a b"][..], "`a b` is not a valid --sni"),
            (&["--tls-min", "1.3", "--tls-max", "1.2"], "--tls-min 1.3 is above"),
            (
                &["--cert", "/dev/null", "--key", "/dev/null"],
                "/dev/null of --cert has no certificate",
            ),
        ] {
            let error = plan(&[&["wss://h/"], flags].concat()).expect_err(named);
            assert!(error.contains(named), "{error}");
        }
        for url in ["http://h/", "ws://h:{port}/", "ws://h:0/"] {
            assert!(plan(&[url]).is_err(), "{url}");
        }
        for flags in [
            &["--fragments", "2"][..],
            &["--mask", "fixed"],
            &["--ping-interval", "1s"],
            &["--origin", "x"],
        ] {
            let error = plan(&[&["tcp://h:1"], flags].concat()).expect_err("needs frames");
            assert!(error.contains(flags[0]) && error.contains("ws://"), "{error}");
        }
        assert!(plan(&["tcp://h:1", "-s", "0"]).expect_err("nothing to send").contains("-s 0"));
    }

    #[test]
    fn values_at_the_limits_are_usable() {
        assert!(plan(&["ws://h/", "-s", "32", "--pipeline", "65536"]).is_ok());
        assert!(plan(&["ws://h/", "-s", "0", "-w", "0"]).is_ok());
        assert!(plan(&["ws://h/", "-s", "64MiB", "-c", "32"]).is_ok());
    }
}
