//! Metrics and health checks, as monitoring sees them.

mod program;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use program::{LONG, Program, client_frame, connect, engines, expect, rest, run};
use rustix::process::Signal;

/// Server with its admin address, which it prints on standard error.
struct WorkerHandle {
    server: Program,
    admin: SocketAddr,
}

impl WorkerHandle {
    fn start(arguments: &[&str]) -> Self {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        let arguments = [&["--admin", "127.0.0.1:0"], arguments].concat();
        let server = Program::start_logging(&["--listen", "127.0.0.1:0"], &arguments, writer);
        let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
        let line =
            lines.find(|line| line.starts_with("admin at http://")).expect("the admin's line");
        // A full pipe would stop the server.
        std::thread::spawn(move || lines.for_each(drop));
        let admin =
            line.split('/').nth(2).and_then(|address| address.parse().ok()).expect("an address");
        Self { server, admin }
    }

    fn ask(&self, request: &[u8]) -> String {
        let mut stream = connect(self.admin);
        stream.write_all(request).expect("request");
        String::from_utf8(rest(&mut stream)).expect("text")
    }

    fn get(&self, path: &str) -> (u16, String) {
        let answer = self.ask(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes());
        let (head, content) = answer.split_once("\r\n\r\n").expect("a head");
        let status =
            head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        (status, content.to_owned())
    }

    /// Returns every sample by its name and labels.
    fn metrics(&self) -> BTreeMap<String, u64> {
        let (status, content) = self.get("/metrics");
        assert_eq!(status, 200);
        let samples = content.lines().filter(|line| !line.starts_with('#')).map(|line| {
            let (name, value) = line.rsplit_once(' ').expect("name and value");
            (name.to_owned(), value.parse::<f64>().expect("a number") as u64)
        });
        samples.collect()
    }

    /// Waits until a metric has a value: an event that a client has seen may reach the counters a
    /// turn later.
    fn until(&self, name: &str, value: u64) {
        self.until_it_is(name, |now| now == value);
    }

    fn until_it_is(&self, name: &str, right: impl Fn(u64) -> bool) {
        let end = Instant::now() + LONG;
        while !right(self.metrics()[name]) {
            assert!(Instant::now() < end, "{name} is {} for good", self.metrics()[name]);
        }
    }
}

#[test]
fn connections_are_spread_evenly_over_the_workers() {
    const WORKERS: usize = 16;
    for engine in engines() {
        eprintln!("engine {engine}");
        let watched = WorkerHandle::start(&["--engine", &engine, "--threads", "16"]);
        let counts = || {
            let metrics = watched.metrics();
            let count =
                |worker| metrics[&format!("sparring_worker_connections{{worker=\"{worker}\"}}")];
            (0..WORKERS).map(count).collect::<Vec<_>>()
        };
        let mut open = Vec::new();
        for n in 1..=4 * WORKERS {
            open.push(watched.server.open());
            if n % 7 == 0 || n == 4 * WORKERS {
                let counts = counts();
                let (most, least) = (counts.iter().max(), counts.iter().min());
                assert_eq!(counts.iter().sum::<u64>(), n as u64, "{counts:?}");
                assert!(
                    most.zip(least).is_some_and(|(most, least)| most - least <= 1),
                    "{counts:?}"
                );
            }
        }
        let cpu = "sparring_worker_cpu_seconds_total{worker=\"15\"}";
        assert!(watched.metrics().contains_key(cpu), "{cpu}");
    }
}

#[test]
fn every_event_is_counted() {
    for engine in engines() {
        eprintln!("engine {engine}");
        let watched =
            WorkerHandle::start(&["--engine", &engine, "--threads", "2", "--max-connections", "3"]);
        let server = &watched.server;
        let mut open = server.open();
        for _ in 0..5 {
            open.write_all(&client_frame(1, b"hello")).expect("frame");
            expect(&mut open, b"\x81\x05hello");
        }
        watched.until("sparring_messages_total", 5);
        watched.until("sparring_connections{state=\"open\"}", 1);
        let mut faulty = server.open();
        faulty.write_all(b"\x81\x01?").expect("unmasked frame");
        rest(&mut faulty);
        let mut leaving = server.open();
        leaving.write_all(&client_frame(8, b"\x10\xe1")).expect("close 4321");
        rest(&mut leaving);
        drop((faulty, leaving));
        watched.until("sparring_connections{state=\"open\"}", 1);
        let mut page = server.connect();
        page.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("request");
        rest(&mut page);
        let metrics = watched.metrics();
        for (name, value) in [
            ("sparring_websockets_total", 3),
            ("sparring_pages_total", 1),
            ("sparring_refusals_total{rule=\"unmasked-frame\"}", 1),
            ("sparring_closes_total{by=\"server\",code=\"1002\"}", 1),
            ("sparring_closes_total{by=\"client\",code=\"4xxx\"}", 1),
            ("sparring_closes_total{by=\"client\",code=\"1000\"}", 0),
            ("sparring_accepted_total", 4),
            ("sparring_worker_up{worker=\"1\"}", 1),
            ("sparring_draining", 0),
            ("sparring_backlog_bytes", 0),
        ] {
            assert_eq!(metrics.get(name), Some(&value), "{name}");
        }
        assert!(metrics["sparring_bytes_total{direction=\"in\"}"] > 5 * 11);
        assert!(metrics["sparring_worker_enters_total{worker=\"0\"}"] > 0);
    }
}

#[test]
fn slow_readers_appear_in_the_metrics() {
    for engine in engines() {
        eprintln!("engine {engine}");
        let watched =
            WorkerHandle::start(&["--engine", &engine, "--threads", "1", "--high-water", "64KiB"]);
        let stream = watched.server.open();
        let mut input = stream.try_clone().expect("clone");
        let flooding = std::thread::spawn(move || {
            let flood = client_frame(2, &[7; 125]).repeat(1000);
            while input.write_all(&flood).is_ok() {}
        });
        watched.until("sparring_paused_readers", 1);
        // The kernel's buffers may still take a part of the 64 KiB, and then be full for good.
        watched.until_it_is("sparring_backlog_bytes", |bytes| bytes > 0);
        stream.shutdown(std::net::Shutdown::Both).expect("shutdown");
        drop(stream);
        flooding.join().expect("no panic");
        watched.until("sparring_paused_readers", 0);
        watched.until("sparring_backlog_bytes", 0);
    }
}

#[test]
fn a_draining_server_is_healthy_but_not_ready() {
    let watched = WorkerHandle::start(&["--drain-timeout", "1h"]);
    assert_eq!(watched.get("/readyz"), (200, "ready\n".to_owned()));
    assert_eq!(watched.get("/healthz"), (200, "healthy\n".to_owned()));
    let mut open = watched.server.open();
    watched.server.signal(Signal::TERM);
    expect(&mut open, b"\x88\x02\x03\xe9");
    assert_eq!(watched.get("/readyz"), (503, "draining\n".to_owned()));
    assert_eq!(watched.get("/healthz").0, 200);
    assert_eq!(watched.metrics()["sparring_draining"], 1);
    drop(open);
    assert_eq!(watched.server.end().0.code(), Some(0));
}

#[test]
fn odd_requests_do_no_harm() {
    let watched = WorkerHandle::start(&[]);
    assert_eq!(watched.get("/").0, 404);
    assert!(watched.ask(b"POST /metrics HTTP/1.1\r\nHost: h\r\n\r\n").starts_with("HTTP/1.1 405 "));
    assert!(watched.ask(b"\x16\x03\x01\r\n\r\n").starts_with("HTTP/1.1 400 "));
    let head = watched.ask(b"HEAD /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
    let mut long = connect(watched.admin);
    // The request may be longer than what the server reads: it answers at its limit and may close
    // before the rest.
    let _ = long.write_all(&[b'a'; 9 << 10]);
    let mut answer = Vec::new();
    let _ = std::io::Read::read_to_end(&mut long, &mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 431 "));
    let mut silent = connect(watched.admin);
    assert!(rest(&mut silent).starts_with(b"HTTP/1.1 408 "));
}

#[test]
fn silent_and_slow_clients_delay_no_others() {
    let watched = WorkerHandle::start(&["--drain-timeout", "1h"]);
    let silent: Vec<_> = (0..8).map(|_| connect(watched.admin)).collect();
    let mut slow = connect(watched.admin);
    slow.write_all(b"GET /metrics HTTP/1.1\r\n").expect("half a request");
    let began = Instant::now();
    assert_eq!(watched.get("/healthz").0, 200);
    assert_eq!(watched.get("/metrics").0, 200);
    // One after another, with two seconds each, they would delay the first answer by 18 s.
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    // The shutdown does not wait for them either.
    let mut open = watched.server.open();
    watched.server.signal(Signal::TERM);
    expect(&mut open, b"\x88\x02\x03\xe9");
    drop(open);
    assert_eq!(watched.server.end().0.code(), Some(0));
    drop((silent, slow));
}

#[test]
fn many_admin_connections_are_bounded() {
    let watched = WorkerHandle::start(&[]);
    let count =
        || std::fs::read_dir(format!("/proc/{}/fd", watched.server.pid())).expect("proc").count();
    let before = count();
    let mut oldest = connect(watched.admin);
    let others: Vec<_> = (0..300).map(|_| connect(watched.admin)).collect();
    // The server aborts the oldest connections.
    let _ = std::io::Read::read_to_end(&mut oldest, &mut Vec::new());
    assert_eq!(watched.get("/healthz").0, 200);
    assert!(count() <= before + 70, "{} descriptors, {before} before", count());
    drop(others);
}

#[test]
fn the_metrics_describe_the_server() {
    for engine in engines() {
        let watched = WorkerHandle::start(&["--engine", &engine]);
        let version = env!("CARGO_PKG_VERSION");
        let metrics = watched.metrics();
        let name = metrics
            .keys()
            .find(|name| name.starts_with("sparring_build_info{"))
            .expect("build info");
        for label in [format!("engine=\"{engine}\""), format!("version=\"{version}\"")] {
            assert!(name.contains(&label), "{name}");
        }
        assert_eq!(metrics[name], 1);
    }
}

#[test]
fn an_admin_port_in_use_is_an_error() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = taken.local_addr().expect("address").to_string();
    let output = run(&["--listen", "127.0.0.1:0", "--admin", &address]);
    assert_eq!(output.status.code(), Some(1));
    let message = String::from_utf8(output.stderr).expect("text");
    assert!(message.contains(&address) && message.contains("--admin"), "{message}");
}

/// Prometheus' own parser, from its Python client, reads the metrics.
#[test]
fn prometheus_parses_the_metrics() {
    const PARSE: &str = "import sys\nfrom prometheus_client.parser import text_string_to_metric_families as parse\n\
        families = list(parse(sys.stdin.read()))\nassert all(f.documentation and f.type != 'unknown' for f in families)\n\
        names = {f.name for f in families}\nassert len(names) == len(families), 'a family comes twice'\n\
        print(sum(len(f.samples) for f in families))";
    let python = std::env::var("SPARRING_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_it = Command::new(&python)
        .args(["-c", "import prometheus_client.parser"])
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !has_it {
        println!("skipped: no prometheus_client in {python} (pip install prometheus_client)");
        return;
    }
    let watched = WorkerHandle::start(&["--threads", "2"]);
    let mut post = watched.server.connect();
    post.write_all(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("request");
    rest(&mut post);
    let (_, content) = watched.get("/metrics");
    let mut child = Command::new(python)
        .args(["-c", PARSE])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python");
    child.stdin.take().expect("piped").write_all(content.as_bytes()).expect("metrics");
    let output = child.wait_with_output().expect("python");
    assert!(output.status.success());
    let samples: usize =
        String::from_utf8(output.stdout).expect("text").trim().parse().expect("a number");
    assert_eq!(samples, content.lines().filter(|line| !line.starts_with('#')).count());
}

/// Returns the names of metrics in a query of Prometheus.
fn metrics_in(query: &str) -> Vec<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = query.split(|c| !is_name(c)).filter(|word| word.starts_with("sparring_"));
    words.map(str::to_owned).collect()
}

/// Returns every query of a dashboard: those of its panels and of its variables.
fn queries(value: &serde_json::Value) -> Vec<String> {
    match value {
        serde_json::Value::Object(fields) => {
            let own = fields.iter().filter(|(key, _)| ["expr", "query"].contains(&key.as_str()));
            let own = own.filter_map(|(_, value)| value.as_str()).map(str::to_owned);
            own.chain(fields.values().flat_map(queries)).collect()
        }
        serde_json::Value::Array(values) => values.iter().flat_map(queries).collect(),
        _ => Vec::new(),
    }
}

#[test]
fn every_metric_of_the_dashboard_exists() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/deploy/grafana.json");
    let dashboard = std::fs::read(file).expect("the dashboard");
    let dashboard = serde_json::from_slice(&dashboard).expect("JSON");
    let watched = WorkerHandle::start(&["--threads", "1"]);
    let (_, content) = watched.get("/metrics");
    let families = content.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let families: Vec<&str> = families.filter_map(|line| line.split(' ').next()).collect();
    let named: Vec<String> = queries(&dashboard).iter().flat_map(|one| metrics_in(one)).collect();
    assert!(named.len() > 20, "{named:?}");
    for name in &named {
        assert!(families.contains(&name.as_str()), "{name} is not among {families:?}");
    }
}

#[test]
fn the_log_can_be_json() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let arguments = ["--log-format", "json", "--engine", "epoll", "--max-connections-per-ip", "9"];
    let server = Program::start_logging(&["--listen", "127.0.0.1:0"], &arguments, writer);
    let mut stream = server.connect();
    let request = "GET /?<> HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\nOrigin: http://\"quoted\\\r\n\r\n";
    stream.write_all(request.as_bytes()).expect("request");
    assert!(rest(&mut stream).starts_with(b"HTTP/1.1 403 "));
    let line = BufReader::new(reader).lines().next().expect("a line").expect("text");
    let event: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(
        (&event["level"], &event["rule"]),
        (&"WARN".into(), &"forbidden-origin".into()),
        "{line}"
    );
    assert_eq!(event["said"], "http://\\\"quoted\\\\", "{line}");
    assert_eq!(event["peer"], stream.local_addr().expect("address").to_string(), "{line}");
}

/// Monitoring costs the connections nothing: a request for the metrics wakes each worker once.
#[test]
fn requests_for_metrics_wake_each_worker_once() {
    let watched = WorkerHandle::start(&["--threads", "1"]);
    let mut stream = watched.server.open();
    let end = Instant::now() + Duration::from_millis(300);
    while Instant::now() < end {
        watched.metrics();
        stream.write_all(&client_frame(1, b"hello")).expect("frame");
        expect(&mut stream, b"\x81\x05hello");
    }
}
