//! Servers that are measured by their metrics: our own, by the agent, and false ones.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use loadgen::result::{CostSource, Document, InvalidKind, Run, SessionVerdict};
use rustix::process::{Pid, Signal, kill_process};

use super::echo::{Echo, Fault};
use super::{ended, loadgen, run, text};

/// Returns the run of a document on standard output.
fn measured(output: &Output) -> (Document, Run) {
    let document: Document = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", text(&output.stderr)));
    let run = document.runs[0].clone();
    (document, run)
}

/// A program that serves, killed on drop.
struct Program(Child);

impl Program {
    /// Starts a program. Returns it with the first line that it prints.
    fn start(mut command: Command) -> (Self, String) {
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut program = Self(child.expect("it runs"));
        let output = program.0.stdout.as_mut().expect("piped");
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line).expect("a line");
        (program, line)
    }

    /// Starts the agent for this process. Returns it with its URL.
    fn agent(pid: u32) -> (Self, String) {
        let pid = pid.to_string();
        let (program, line) =
            Self::start(loadgen(&["agent", "--pid", &pid, "--listen", "127.0.0.1:0"]));
        let url = line.split_whitespace().last().expect("a URL").to_owned();
        assert!(line.starts_with(&format!("serving process {pid} at http://")), "{line}");
        (program, url)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Checks that a run has the cost of a server with this many threads.
fn assert_has_cost(run: &Run, threads: f64) {
    let server = run.server.as_ref().unwrap_or_else(|| panic!("{:?}", run.notes));
    assert_eq!(server.cost_source, Some(CostSource::Metrics));
    let cpu_ns = server.cpu_ns_per_message * run.received as f64;
    let uncertain = 1.0 + server.cpu_uncertainty.expect("known");
    assert!(
        cpu_ns > 0.0 && cpu_ns <= run.phases.measure as f64 * threads * uncertain,
        "{server:?}"
    );
    assert!(server.rss_bytes > Some(0) && server.rss_bytes_per_connection.is_some());
    assert!(server.user_ns_per_message.is_some() && server.page_faults_per_message.is_some());
}

/// Returns the server's program, which cargo builds with the tests of the workspace.
fn server_program() -> Option<PathBuf> {
    let program =
        Path::new(env!("CARGO_BIN_EXE_sparring-loadgen")).with_file_name("sparring-server");
    program.is_file().then_some(program)
}

#[test]
fn our_server_is_measured_by_its_metrics() {
    let Some(program) = server_program() else {
        println!("skipped: sparring-server is not built beside sparring-loadgen (cargo build)");
        return;
    };
    // The port is printed on standard error, which is not read here.
    let admin = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
    let mut command = Command::new(program);
    command.args(["--listen", "127.0.0.1:0", "--engine", "epoll", "--threads", "2"]);
    command.args(["--admin", &admin.to_string()]).stderr(Stdio::null());
    let (_server, line) = Program::start(command);
    let url = line.split_whitespace().nth(2).expect("a URL");
    let metrics = format!("http://{admin}/metrics");
    let output = run(url, &["--server-metrics", &metrics, "--json", "-", "--threshold", "rss>1B"]);
    let (document, run) = measured(&output);
    assert_has_cost(&run, 3.0);
    let server = run.server.as_ref().expect("known");
    assert_eq!((server.engine.as_deref(), server.cost_resolution_ns), (Some("epoll"), Some(1)));
    assert!(document.subject.build.is_some(), "{:?}", document.subject);
    // Counters are those between the readings, which are not within the window.
    let messages = server.counters["messages"];
    assert!(messages > 0 && messages <= run.messages.expect("counted").sent, "{server:?}");
    let Some(SessionVerdict::Goals(goals)) = &document.verdict else {
        panic!("{:?}", document.verdict);
    };
    assert!(goals.thresholds[0].met, "{goals:?}");
}

#[test]
fn the_agent_serves_the_cost_of_any_server() {
    // This process is the server.
    let server = Echo::ws(Fault::None);
    let (mut agent, metrics) = Program::agent(std::process::id());
    let output = run(&server.ws_url(), &["--server-metrics", &metrics, "--json", "-"]);
    let (_, run) = measured(&output);
    assert_has_cost(&run, 1024.0);
    kill_process(Pid::from_child(&agent.0), Signal::TERM).expect("our own child");
    assert_eq!(agent.0.wait().expect("our own child").code(), Some(0));
}

#[test]
fn the_agent_says_that_its_process_has_ended() {
    let server = Echo::ws(Fault::None);
    let sleeping = Command::new("sleep").arg("60").spawn().expect("a process");
    let mut sleeping = Program(sleeping);
    let (_agent, metrics) = Program::agent(sleeping.0.id());
    sleeping.0.kill().expect("our own child");
    sleeping.0.wait().expect("our own child");
    let output = run(&server.ws_url(), &["--server-metrics", &metrics]);
    let said = text(&output.stderr);
    let expected = format!("503 Service Unavailable (process {} has ended)", sleeping.0.id());
    assert!(output.status.code() == Some(2) && said.contains(&expected), "{said}");
}

/// Starts a server of metrics that answers with `answer(n)` to its n-th request, from 0. An empty
/// answer never comes. Returns its URL.
fn metrics(answer: impl Fn(usize) -> Vec<u8> + Send + Sync + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let at = listener.local_addr().expect("bound");
    let number = AtomicUsize::new(0);
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.read(&mut [0; 1024]);
            let answer = answer(number.fetch_add(1, Ordering::Relaxed));
            // The client may have gone.
            let _ = stream.write_all(&answer);
            if answer.is_empty() {
                let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
                let _ = stream.read(&mut [0; 1]);
            }
        }
    });
    format!("http://{at}/metrics")
}

fn ok(content: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\n\r\n{content}").into_bytes()
}

/// Metrics of a process that spends 300 ms from one request to the next.
fn process(number: usize, start: f64) -> String {
    let cpu = 0.3 * (number + 1) as f64;
    format!(
        "process_cpu_seconds_total {cpu}\nprocess_start_time_seconds {start}\n\
         sparring_cpu_resolution_seconds 1e-9\n"
    )
}

#[test]
fn metrics_that_cannot_be_read_are_wrong_usage() {
    let server = Echo::ws(Fault::None);
    let closed = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
    let endless = || [&b"HTTP/1.1 200 OK\r\n\r\n"[..], &vec![b'#'; 100 << 20]].concat();
    for (url, part) in [
        (format!("http://{closed}/metrics"), "cannot connect: Connection refused"),
        (metrics(|_| ok("up 1\n")), "it has no process_cpu_seconds_total"),
        (
            metrics(|_| ok("process_cpu_seconds_total{a=\"1\"} 1\nprocess_cpu_seconds_total 2\n")),
            "2 series of process_cpu_seconds_total",
        ),
        (metrics(|_| b"HTTP/1.1 500 Oh\r\n\r\nbroken\n".to_vec()), "it answers 500 Oh (broken)"),
        (metrics(|_| ok("<html>\n")), "line 1 of the answer is not in Prometheus' text format"),
        (metrics(|_| b"SSH-2.0\r\n".to_vec()), "the answer is not HTTP/1.1"),
        (
            metrics(|_| b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nup".to_vec()),
            "connection ended",
        ),
        (metrics(|_| Vec::new()), "no whole answer came within 2 s"),
        (metrics(move |_| endless()), "the answer has more than 8 MiB"),
    ] {
        let output = run(&server.ws_url(), &["--server-metrics", &url]);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{part}: {said}");
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains(part) && said.contains("sparring-loadgen agent"), "{part}: {said}");
    }
}

#[test]
fn a_server_that_was_started_again_makes_the_run_invalid() {
    let server = Echo::ws(Fault::None);
    let url = metrics(|number| ok(&process(number, if number < 2 { 1e9 } else { 1e9 + 60.0 })));
    let output = run(&server.ws_url(), &["--server-metrics", &url, "--json", "-"]);
    let (_, run) = measured(&output);
    let (_, reason) = run
        .invalid()
        .find(|(kind, _)| *kind == InvalidKind::ServerRestarted)
        .unwrap_or_else(|| panic!("{:?}", run.invalid_reasons));
    assert!(reason.contains("started again") && run.server.is_none(), "{reason}");
    assert_eq!(output.status.code(), Some(13));
}

#[test]
fn metrics_that_vanish_leave_the_cost_unknown() {
    let server = Echo::ws(Fault::None);
    let url = metrics(|number| match number {
        0 | 1 => ok(&process(number, 1e9)),
        _ => b"HTTP/1.1 404 Gone\r\n\r\n".to_vec(),
    });
    let output = run(&server.ws_url(), &["--server-metrics", &url, "--json", "-"]);
    let (_, run) = measured(&output);
    assert!(run.server.is_none() && run.received > 0);
    assert!(run.notes.iter().any(|note| note.contains("it answers 404 Gone")), "{:?}", run.notes);
}

#[test]
fn a_coarse_clock_leaves_the_cost_unknown() {
    let server = Echo::ws(Fault::None);
    let coarse = |number| process(number, 1e9).replace("1e-9", "0.01");
    let url = metrics(move |number| ok(&coarse(number)));
    let output = run(&server.ws_url(), &["--server-metrics", &url, "--json", "-"]);
    let (_, run) = measured(&output);
    let cost = run.server.as_ref().expect("read");
    // 10 ms of 300 ms.
    assert!(cost.cpu_uncertainty > Some(0.03) && cost.cpu_ns().is_none(), "{cost:?}");
    assert!(run.notes.iter().any(|note| note.contains("CPU time is not known")), "{:?}", run.notes);
    assert!(text(&output.stderr).contains("CPU per message not known"), "{}", text(&output.stderr));
}

#[test]
fn unusable_flags_of_metrics_name_value_and_example() {
    let url = "http://127.0.0.1:9100/metrics";
    for (flags, words) in [
        (&["--server-metrics", "https://h/metrics"][..], &["https is not supported", url][..]),
        (&["--server-metrics", "127.0.0.1:9100"], &["`127.0.0.1:9100`", "http://", url]),
        (&["--server-metrics", "http://h:{port}/"], &["port has to be known"]),
        (&["--server-metrics", "http://[::1/"], &["IPv6"]),
        (&["--server-metrics", url, "--spawn", "server"], &["--spawn"]),
    ] {
        let output = run("ws://127.0.0.1:1/", flags);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
    }
    for (flags, words) in [
        (&[][..], &["--pid", "--cgroup", "--systemd"][..]),
        (&["--pid", "1", "--cgroup", "/"], &["cannot be used with"]),
        (&["--pid", "4194305"], &["--pid 4194305 is no process"]),
        (&["--cgroup", "/no/such/group"], &["--cgroup /no/such/group is no control group"]),
        (&["--pid", "1", "--listen", "9100"], &["--listen", "127.0.0.1:9100"]),
    ] {
        let mut command = loadgen(&[&["agent"], flags].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let output = ended(command.spawn().expect("it runs"));
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {said}");
        assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
    }
}
