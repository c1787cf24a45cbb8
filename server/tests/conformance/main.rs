//! The conformance battery: what an echo server answers to usual, unusual and hostile input, seen from outside.
//!
//! Raw sockets, frames built by hand, no WebSocket library. Every case has a bystander, a connection that must go on
//! echoing during the case and after it. `cargo test` runs all cases against our server on each engine that works here
//! and wants every verdict OK. With `SPARRING_CONFORMANCE_URL=ws://host:port/path` (or wss) the test `any_server` runs them against
//! whatever listens there, prints the table and ends the process with 0 only when all is OK; see scripts/conformance.sh.

mod bystander;
mod case;
mod close;
mod frames;
mod handshake;
mod load;
mod observe;
mod playground;
#[path = "../program/mod.rs"]
mod program;
mod relay;
mod table;
mod text;
mod wire;

use std::time::Duration;

use case::{Case, Verdict};
use playground::{ORIGIN, PATH, Playground};
use program::{LONG, Program, engines};
use relay::relay;
use table::{print, summary};

const URL: &str = "SPARRING_CONFORMANCE_URL";

/// What a foreign server has for each answer: it may be slow, and many cases end by its silence.
const PATIENCE_WITH_OTHERS: Duration = Duration::from_secs(3);

/// A silent connection of the hurried server has this long: more than a bystander on a busy machine pauses.
const HURRY: &str = "1s";

fn cases(playground: &Playground) -> Vec<Case> {
    let cases = [handshake::cases(playground), frames::cases(), text::cases(), close::cases(), load::cases()]
        .concat();
    assert!(cases.len() >= 130, "the battery has shrunk to {} cases", cases.len());
    cases
}

fn all_ok_on(engine: &str, scheme: &str) {
    if !engines().iter().any(|found| found == engine) {
        return;
    }
    // Hundreds of connections for each engine, all engines in one process.
    engine::socket::raise_file_limit();
    let start = |limits: &[&str]| {
        let common = ["--engine", engine, "--threads", "1", "--log", "off"];
        let tls: &[&str] = if scheme == "wss" { &["--tls-self-signed"] } else { &[] };
        let listen = format!("{scheme}://127.0.0.1:0");
        Program::start_with(&["--listen", &listen], &[&common, tls, limits].concat())
    };
    let reach = |program: &Program| match scheme {
        "wss" => relay(program.address(), "localhost").expect("a relay"),
        _ => program.address(),
    };
    let usual = start(&[]);
    let small = start(&["--max-message", "64KiB", "--max-fragments", "100"]);
    let choosy = start(&["--path", PATH, "--origin", ORIGIN]);
    let hurried = start(&["--handshake-timeout", HURRY, "--idle-timeout", HURRY]);
    let policed = start(&["--message-timeout", "300ms", "--subprotocol", "chat"]);
    let playground = Playground::own([&usual, &small, &choosy, &hurried, &policed], reach, LONG);
    let results = case::run_all(&cases(&playground), &playground);
    let failures: Vec<_> = results.into_iter().filter(|result| result.verdict != Verdict::Ok).collect();
    if !failures.is_empty() {
        print(&failures);
        panic!("{engine} over {scheme}: {} cases are not OK", failures.len());
    }
}

#[test]
fn our_server_on_uring() {
    all_ok_on("uring", "ws");
}

#[test]
fn our_server_on_epoll() {
    all_ok_on("epoll", "ws");
}

#[test]
fn our_server_on_tokio_uring() {
    all_ok_on("tokio-uring", "ws");
}

#[test]
fn our_server_on_uring_over_tls() {
    all_ok_on("uring", "wss");
}

#[test]
fn our_server_on_epoll_over_tls() {
    all_ok_on("epoll", "wss");
}

#[test]
fn our_server_on_tokio_uring_over_tls() {
    all_ok_on("tokio-uring", "wss");
}

/// As scripts/conformance.sh finds a server that was started without flags: at `/`, where browsers get a page.
#[test]
fn our_server_at_the_root() {
    let server = Program::start(&["--engine", "epoll", "--threads", "1", "--log", "off"]);
    let url = format!("ws://{}/", server.address());
    let playground = Playground::foreign(&url, LONG).expect("our server");
    let results = case::run_all(&handshake::cases(&playground), &playground);
    let failures: Vec<_> = results
        .into_iter()
        .filter(|result| !matches!(result.verdict, Verdict::Ok | Verdict::Skipped))
        .collect();
    print(&failures);
    assert!(failures.is_empty(), "{} cases are not OK", failures.len());
}

/// The whole process is this test's when a URL is given: the table is its output, its exit code the verdict.
#[test]
fn any_server() {
    let Ok(url) = std::env::var(URL) else { return };
    let playground = match Playground::foreign(&url, PATIENCE_WITH_OTHERS) {
        Ok(playground) => playground,
        Err(reason) => {
            eprintln!("{url}: {reason}");
            std::process::exit(2);
        }
    };
    let results = case::run_all(&cases(&playground), &playground);
    print(&results);
    println!("\n{url}: {}", summary(&results));
    let fine = results.iter().all(|result| matches!(result.verdict, Verdict::Ok | Verdict::Skipped));
    std::process::exit(i32::from(!fine));
}
