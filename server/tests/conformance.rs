//! The conformance suite against this project's server, on every engine that works here.

mod program;

use loadgen::conformance::{CaseResult, FLAGS, Servers, Verdict, run, run_handshakes};
use loadgen::load::Transport;
use program::{LONG, Program, engines};

/// Least number of cases in the suite.
const FEWEST: usize = 380;

fn assert_ok(results: Vec<CaseResult>, of: &str) {
    let is_fine = |result: &CaseResult| matches!(result.verdict, Verdict::Ok | Verdict::Skipped);
    let failures: Vec<_> = results.into_iter().filter(|result| !is_fine(result)).collect();
    assert!(failures.is_empty(), "{of}: {failures:#?}");
}

fn all_ok_on(engine: &str, transport: Transport) {
    if !engines().iter().any(|found| found == engine) {
        return;
    }
    // Each engine needs hundreds of connections, and all engines run in one process.
    engine::socket::raise_file_limit();
    let scheme = transport.scheme();
    let programs = FLAGS.map(|limits| {
        let common = ["--engine", engine, "--threads", "1", "--log", "off"];
        let tls: &[&str] = if transport == Transport::Wss { &["--tls-self-signed"] } else { &[] };
        let listen = format!("{scheme}://127.0.0.1:0");
        Program::start_with(&["--listen", &listen], &[&common, tls, limits].concat())
    });
    let addresses = programs.each_ref().map(Program::address);
    let servers = Servers::own(addresses, programs[0].pid(), transport, LONG).expect("a relay");
    let results = run(&servers);
    assert!(results.len() >= FEWEST, "the battery has shrunk to {} cases", results.len());
    assert!(results.iter().all(|result| result.verdict != Verdict::Skipped));
    assert_ok(results, &format!("{engine} over {scheme}"));
}

#[test]
fn our_server_on_uring() {
    all_ok_on("uring", Transport::Ws);
}

#[test]
fn our_server_on_epoll() {
    all_ok_on("epoll", Transport::Ws);
}

#[test]
fn our_server_on_tokio_uring() {
    all_ok_on("tokio-uring", Transport::Ws);
}

#[test]
fn our_server_on_uring_over_tls() {
    all_ok_on("uring", Transport::Wss);
}

#[test]
fn our_server_on_epoll_over_tls() {
    all_ok_on("epoll", Transport::Wss);
}

#[test]
fn our_server_on_tokio_uring_over_tls() {
    all_ok_on("tokio-uring", Transport::Wss);
}

/// The server runs without flags and is tested at `/`, where browsers get a page.
#[test]
fn our_server_at_the_root() {
    let server = Program::start(&["--engine", "epoll", "--threads", "1", "--log", "off"]);
    let url = format!("ws://{}/", server.address()).parse().expect("a URL");
    let servers = Servers::foreign(&url, LONG).expect("our server");
    assert_ok(run_handshakes(&servers), "epoll at the root");
}
