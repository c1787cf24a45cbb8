//! Proxies between generator and server: their cost, their ends, and `duel`.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use loadgen::result::InvalidKind;

use super::command::{
    FINE, SPAWNED, assert_fails, document, ended, listens, loadgen, output, run_short, scratch,
    server_command, text, until,
};
use super::spawn::{MESSAGES, SERVER_BURNS, burn, quoted, serving_with_work};

/// CPU time that the relay burns for each piece that it passes to the server: a message.
const RELAY_BURNS: Duration = Duration::from_millis(3);
/// Environment variable with port, server and way of working for the relay that this test program
/// becomes.
const RELAY: &str = "SPARRING_TEST_RELAY";
/// Pieces after which a relay ends that is to end in the middle of a run.
const PIECES: u32 = 100;

/// Not a test, but a relay to a server. `SPARRING_TEST_RELAY` has its port, the server's address
/// and the way of working: `burn` burns CPU time for each piece from the generator, `end` ends in
/// the middle of the load.
#[test]
#[ignore = "the proxy that other tests start"]
fn relay_with_work() {
    let Ok(work) = std::env::var(RELAY) else { return };
    let [port, server, way] = work.split(' ').collect::<Vec<_>>()[..] else { panic!("{work}") };
    let ends = (way == "end").then(|| &*Box::leak(Box::new(AtomicU32::new(PIECES))));
    let burns = if way == "burn" { RELAY_BURNS } else { Duration::ZERO };
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).expect("a free port");
    for client in listener.incoming().map_while(Result::ok) {
        let Ok(server) = TcpStream::connect(server) else { continue };
        let (client_back, server_back) =
            (client.try_clone().expect("a socket"), server.try_clone().expect("a socket"));
        thread::spawn(move || {
            pass(client, server, || {
                burn(burns);
                if ends.is_some_and(|left| left.fetch_sub(1, Ordering::Relaxed) == 1) {
                    eprintln!("the relay ends as the test wants it");
                    std::process::exit(5);
                }
            });
        });
        thread::spawn(move || pass(server_back, client_back, || {}));
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, each: impl Fn()) {
    to.set_nodelay(true).expect("a socket");
    let mut piece = [0; 1 << 16];
    while let Ok(len @ 1..) = from.read(&mut piece) {
        each();
        if to.write_all(&piece[..len]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}

/// Returns the command of a relay, for --via.
fn relay(way: &str) -> String {
    let this = quoted(std::env::current_exe().expect("this program").to_str().expect("UTF-8"));
    let name = "via::relay_with_work";
    format!("env '{RELAY}={{port}} {{server}} {way}' {this} --exact {name} --ignored --nocapture")
}

fn assert_near(what: &str, cost_ns: f64, work: Duration) {
    let share = cost_ns / work.as_nanos() as f64;
    // The documented bound is a tenth: at the borders of the window a part of a message is missing.
    assert!((0.9..1.1).contains(&share), "{what}: {share} of the work");
}

#[test]
fn server_and_proxy_have_their_costs_apart() {
    let server = serving_with_work("connection");
    // The second relay is a grandchild, beside a shell that waits for it.
    let behind_shell = format!("sh -c {}", quoted(&format!("{} & wait", relay("burn"))));
    for via in [relay("burn"), behind_shell] {
        let words = ["run", "tcp://127.0.0.1:{port}", "-c", "2", "-s", "16", "-w", "0"];
        let more = ["-n", MESSAGES, "--engine", "epoll", "--json", "-", "--allow-invalid"];
        let spawn = ["--spawn", &server, "--via", &via];
        let output = output(&[&words[..], &more, &spawn].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let document = document(&output);
        let run = &document.runs[0];
        assert_near("server", run.server.as_ref().expect("cost").cpu_ns_per_message, SERVER_BURNS);
        let proxy = run.proxy.as_ref().expect("its cost");
        assert_near("proxy", proxy.cpu_ns_per_message, RELAY_BURNS);
        assert!(proxy.rss_bytes.is_some_and(|bytes| bytes > 0), "{proxy:?}");
        let table = text(&output.stderr);
        assert!(table.contains("\n  server  ") && table.contains("\n  proxy  "), "{table}");
        assert!(document.scenarios[0].server.proxy.is_some());
        let json = serde_json::from_slice(&output.stdout).expect("JSON");
        let schema = fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../bench-results/schema.json"));
        let schema = serde_json::from_slice(&schema.expect("the schema is there")).expect("JSON");
        jsonschema::validate(&schema, &json).expect("the document follows the schema");
    }
}

/// Returns the command that writes the address of the server into a file and becomes the relay.
fn noting(file: &std::path::Path, way: &str) -> String {
    let relay = relay(way);
    let script = format!("echo {{server}} > {0}.new; mv {0}.new {0}; exec {relay}", file.display());
    format!("sh -c {}", quoted(&script))
}

fn noted(file: &std::path::Path) -> SocketAddr {
    fs::read_to_string(file).expect("written").trim().parse().expect("an address")
}

#[test]
fn a_proxy_that_ends_within_a_run_is_named() {
    let folder = scratch("via-ends");
    let file = folder.join("server");
    let (server, via) = (server_command("none"), noting(&file, "end"));
    let words = ["run", SPAWNED, "-c", "4", "-w", "0", "-d", "1h", "--engine", "epoll"];
    let output =
        output(&[&words[..], &["--json", "-", "--spawn", &server, "--via", &via]].concat());
    let said = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["the proxy (--via) ended during the run", "exit status: 5", "as the test wants it"]
    {
        assert!(said.contains(part), "{part} not in: {said}");
    }
    let run = document(&output).runs.remove(0);
    assert!(run.invalid_kinds.contains(&InvalidKind::ProxyEnded), "{:?}", run.invalid_reasons);
    assert!(run.ended_early.is_some_and(|end| end.cause.contains("the proxy")));
    assert!(!text(&output.stdout).contains("as the test wants it"), "its output is not stored");
    assert!(!listens(noted(&file)), "the server has ended");
    fs::remove_dir_all(&folder).expect("our own folder");
}

#[test]
fn a_server_that_ends_behind_its_proxy_is_named() {
    let (server, via) = (server_command("exit"), relay("pass"));
    let words = ["run", SPAWNED, "-d", "1h", "--engine", "epoll", "--spawn", &server];
    assert_names(&output(&[&words[..], &["--via", &via]].concat()), "the server ended during");
}

fn assert_names(output: &Output, part: &str) {
    let said = text(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains(part), "{part} not in: {said}");
}

#[test]
fn a_proxy_that_does_not_start_is_named() {
    let server = server_command("none");
    let fails = |via: &str, code: i32, parts: &[&str]| {
        let words = ["run", SPAWNED, "--engine", "epoll", "--spawn-timeout", "2s"];
        assert_fails(&[&words[..], &["--spawn", &server, "--via", via]].concat(), code, parts);
    };
    fails("/no/such/relay {port} {server}", 1, &["cannot run `/no/such/relay`", "the proxy ended"]);
    fails("sleep 3600 {port} {server}", 1, &["the proxy"]);
    fails("sleep {port}", 2, &["--via needs {server}"]);
    fails("'open", 2, &["--via `'open`"]);
}

#[test]
fn nothing_of_server_and_proxy_outlives_a_killed_generator() {
    let folder = scratch("via-killed");
    let file = folder.join("server");
    let at = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let at = at.expect("a port");
    let (server, via) = (server_command("none"), noting(&file, "pass"));
    let url = format!("ws://{at}/");
    let words = ["run", &url, "-d", "1h", "--engine", "epoll", "--spawn", &server, "--via", &via];
    let mut child = loadgen(&words).stdout(Stdio::null()).spawn().expect("runs");
    until("the proxy listens", || listens(at) || ended(&mut child));
    let server = noted(&file);
    assert!(listens(server));
    child.kill().expect("our own child");
    child.wait().expect("killed");
    until("both have ended", || !listens(at) && !listens(server));
    fs::remove_dir_all(&folder).expect("our own folder");
}

#[test]
fn a_duel_via_a_proxy_has_a_direct_arm_and_a_proxied_one() {
    let folder = scratch("via-duel");
    let (server, via) = (server_command("none"), relay("pass"));
    let words = ["duel", &server, "--via", &via, "--pairs", "2", "--saturation-only", "-c", "4"];
    let times = ["-d", "60ms", "-w", "10ms", "--settle", "0", "--engine", "epoll"];
    let results = ["--results", folder.to_str().expect("UTF-8"), "--json", "-"];
    let output = output(&[&words[..], &times, &results].concat());
    let said = text(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 11 | 13)), "{said}");
    assert!(said.contains("proxied against direct: "), "{said}");
    let document = document(&output);
    let order: Vec<&str> = document.runs.iter().map(|run| run.arm.as_str()).collect();
    assert_eq!(order, ["direct", "proxied", "proxied", "direct"]);
    for run in &document.runs {
        assert_eq!(run.proxy.is_some(), run.arm == "proxied");
    }
    let proxies: Vec<bool> = document.arms.iter().map(|arm| arm.proxy.is_some()).collect();
    assert_eq!(proxies, [false, true]);
    fs::remove_dir_all(&folder).expect("our own folder");
}

/// Returns the command of HAProxy or nginx with its configuration in `folder`; `None` where it is
/// not installed.
fn installed(name: &str, folder: &std::path::Path) -> Option<String> {
    let is_there =
        Command::new(name).arg("-v").output().is_ok_and(|output| output.status.success());
    if !is_there {
        println!("skipped: {name} is not installed");
        return None;
    }
    let file = folder.join(name);
    if name == "haproxy" {
        let configuration = "defaults\n mode tcp\n timeout connect 5s\n timeout client 1h\n \
                             timeout server 1h\nlisten echo\n bind 127.0.0.1:${PORT}\n \
                             server echo ${SERVER}\n";
        fs::write(&file, configuration).expect("written");
        return Some(format!("env PORT={{port}} SERVER={{server}} haproxy -f {}", file.display()));
    }
    let configuration = format!(
        "daemon off; pid {0}.pid; error_log stderr; events {{}} http {{ access_log off; \
         client_body_temp_path {0}.body; proxy_temp_path {0}.proxy; fastcgi_temp_path {0}.fastcgi; \
         uwsgi_temp_path {0}.uwsgi; scgi_temp_path {0}.scgi; \
         server {{ listen 127.0.0.1:PORT; location / {{ proxy_pass http://SERVER; \
         proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade; \
         proxy_set_header Connection upgrade; }} }} }}",
        file.display()
    );
    fs::write(&file, configuration).expect("written");
    let script = format!(
        "sed 's/PORT/{{port}}/; s/SERVER/{{server}}/' {0} > {0}.conf; exec nginx -c {0}.conf",
        file.display()
    );
    Some(format!("sh -c {}", quoted(&script)))
}

#[test]
fn known_proxies_are_measured() {
    for name in ["haproxy", "nginx"] {
        let folder = scratch(name);
        if let Some(via) = installed(name, &folder) {
            let output = run_short(&[
                SPAWNED,
                "--spawn",
                &server_command("none"),
                "--via",
                &via,
                "--json",
                "-",
            ]);
            assert_eq!(output.status.code(), Some(FINE), "{name}: {}", text(&output.stderr));
            let run = document(&output).runs.remove(0);
            let proxy = run.proxy.expect("its cost");
            assert!(proxy.cpu_ns_per_message > 1000.0, "{name}: {proxy:?}");
        }
        fs::remove_dir_all(&folder).expect("our own folder");
    }
}
