//! The whole program: its output, its exit codes, its signals.

mod program;

use std::collections::BTreeSet;
use std::io::Write;
use std::net::TcpListener;

use program::{Program, client_frame, connect, expect, read_head, rest, run};
use rustix::process::Signal;

const CLOSE_1001: &[u8] = b"\x88\x02\x03\xe9";

fn stderr(output: &std::process::Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

#[test]
fn the_documented_request_is_answered() {
    let server = Program::start(&[]);
    let mut stream = server.connect();
    stream.write_all(program::REQUEST).expect("request");
    let response = read_head(&mut stream);
    assert!(response.starts_with("HTTP/1.1 101 Switching Protocols\r\n"), "{response}");
    assert!(
        response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
        "{response}"
    );
    stream.write_all(b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58").expect("hello");
    expect(&mut stream, b"\x81\x05Hello");
}

#[test]
fn completions_and_manual_page_have_the_flags() {
    for flags in [&["--man"][..], &["--completions", "bash"], &["--completions", "fish"]] {
        let printed = run(flags);
        let text = String::from_utf8_lossy(&printed.stdout).replace('\\', "");
        assert!(printed.status.success() && text.contains("max-connections-per-ip"), "{flags:?}");
    }
}

#[test]
fn one_line_for_each_listener() {
    let listen = ["--listen", "127.0.0.1:0", "--listen", "ws://127.0.0.1:0/"];
    let server = Program::start_with(&listen, &["--engine", "epoll", "--threads", "2"]);
    for (index, line) in server.lines.iter().enumerate() {
        let address = server.address_of(index);
        assert_eq!(*line, format!("listening on ws://{address}/ (engine epoll, 2 threads)"));
        let mut stream = connect(address);
        stream.write_all(program::REQUEST).expect("request");
        assert!(read_head(&mut stream).contains(" 101 "));
    }
}

#[test]
fn the_congestion_control_is_announced_where_it_is_set() {
    let server = Program::start(&["--engine", "epoll", "--threads", "1", "--congestion", "reno"]);
    let address = server.address();
    let line = format!("listening on ws://{address}/ (engine epoll, 1 thread, congestion reno)");
    assert_eq!(server.lines[0], line);
}

#[test]
fn an_unusable_congestion_control_is_refused() {
    let output = run(&["--congestion", "no-such"]);
    assert_eq!(output.status.code(), Some(2));
    let message = stderr(&output);
    assert!(
        message.contains("--congestion") && message.contains("one of ") && message.contains("reno"),
        "{message}"
    );
}

#[test]
fn raw_bytes_are_echoed_unchanged() {
    let server = Program::start(&["--protocol", "tcp", "--engine", "epoll", "--threads", "1"]);
    assert_eq!(
        server.lines[0],
        format!("listening on tcp://{} (engine epoll, 1 thread)", server.address())
    );
    let mut stream = server.connect();
    stream.write_all(b"GET anything\0\xff").expect("bytes");
    expect(&mut stream, b"GET anything\0\xff");
    stream.shutdown(std::net::Shutdown::Write).expect("half-close");
    assert_eq!(rest(&mut stream), b"");
}

#[test]
fn a_port_in_use_is_an_error() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("listen");
    let address = taken.local_addr().expect("address").to_string();
    let output = run(&["--listen", &address]);
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(message.contains(&address) && message.contains("--listen"), "{message}");
    assert_eq!(message.lines().count(), 1, "{message}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_port_of_another_such_server_is_an_error_too() {
    let server = Program::start(&[]);
    let output = run(&["--listen", &server.address().to_string()]);
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));
}

#[test]
fn a_port_without_permission_is_an_error() {
    if !TcpListener::bind("127.0.0.1:1")
        .is_err_and(|e| e.kind() == std::io::ErrorKind::PermissionDenied)
    {
        eprintln!("skipped: this user may listen on port 1");
        return;
    }
    let output = run(&["--listen", "127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("CAP_NET_BIND_SERVICE"), "{}", stderr(&output));
}

#[test]
fn a_host_without_an_address_is_an_error() {
    let output = run(&["--listen", "no such host:9001"]);
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(message.contains("no such host") && message.contains("--listen"), "{message}");
}

#[test]
fn an_address_of_another_host_is_an_error() {
    // TEST-NET-1 (RFC 5737): no host has this address.
    let output = run(&["--listen", "192.0.2.1:0"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("192.0.2.1:0"), "{}", stderr(&output));
}

#[test]
fn more_connections_than_descriptors_is_an_error() {
    let output = run(&["--listen", "127.0.0.1:0", "--max-connections", "4000000000"]);
    assert_eq!(output.status.code(), Some(1));
    let message = stderr(&output);
    assert!(message.contains("--max-connections") && message.contains("ulimit -n"), "{message}");
    assert!(output.stdout.is_empty());
}

#[test]
fn wrong_flags_are_named() {
    for arguments in [
        &["--engine", "kqueue"][..],
        &["--max-message", "huge"],
        &["--cpus", "1022"],
        &["--listen", "wss://127.0.0.1:0/"],
        &["--no-such-flag"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(arguments[0]), "{}", stderr(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn prints_its_version_for_people_and_programs() {
    let line = String::from_utf8(run(&["--version"]).stdout).expect("text");
    assert!(line.starts_with("sparring-server 0.") && line.lines().count() == 1, "{line}");
    let facts = String::from_utf8(run(&["--version", "--verbose"]).stdout).expect("text");
    let keys: Vec<&str> = facts.lines().filter_map(|line| Some(line.split_once(": ")?.0)).collect();
    let engines = ["engine uring", "engine tokio-uring", "engine epoll"];
    let expected =
        [&["name", "version", "commit", "dirty", "profile", "rustc"][..], &engines, &["kernel"]];
    assert_eq!(keys, expected.concat());
    assert!(facts.contains("\nengine epoll: available\n"), "{facts}");
}

/// Returns the standard error of a server that has started and ended.
fn stderr_of(arguments: &[&str]) -> String {
    let path = std::env::temp_dir().join(format!(
        "sparring-stderr-{}-{}",
        std::process::id(),
        arguments.len()
    ));
    let log = std::fs::File::create(&path).expect("a file");
    let server = Program::start_logging(&["--listen", "127.0.0.1:0"], arguments, log);
    server.signal(Signal::TERM);
    server.end();
    let text = std::fs::read_to_string(&path).expect("a log");
    std::fs::remove_file(&path).expect("the log");
    text
}

/// The line is printed on request, and for an unusual choice.
#[test]
fn says_why_this_engine_where_it_matters() {
    let asked = stderr_of(&["--engine", "auto"]);
    assert!(asked.contains("engine uring: ") || asked.contains("engine epoll: "), "{asked}");
    let is_usual = asked.contains("engine uring: ");
    let unasked = stderr_of(&[]);
    assert_eq!(unasked.contains("engine "), !is_usual, "{unasked}");
    let named = stderr_of(&["--engine", "epoll", "--threads", "1"]);
    assert!(!named.contains("engine "), "{named}");
}

/// Link-local addresses need an interface, which the listener's line, the log and errors name.
#[test]
fn listens_on_link_local_addresses_with_their_interface() {
    let interfaces = std::fs::read_to_string("/proc/net/if_inet6").unwrap_or_default();
    let link_local = interfaces.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [address, _, _, "20", _, name] = fields[..] else { return None };
        let address = u128::from_str_radix(address, 16).ok()?;
        Some((std::net::Ipv6Addr::from(address), name.to_owned()))
    });
    let Some((address, name)) = link_local else {
        println!("skipped: no interface here has a link-local address");
        return;
    };
    let path = std::env::temp_dir().join(format!("sparring-zone-{}", std::process::id()));
    let log = std::fs::File::create(&path).expect("a file");
    let listen = format!("[{address}%{name}]:0");
    let server = Program::start_logging(&["--listen", &listen], &["--threads", "1"], log);
    // A URL has an encoded percent sign (RFC 6874).
    let url = format!("listening on ws://[{address}%25{name}]:");
    assert!(server.lines[0].starts_with(&url), "{}", server.lines[0]);
    let mut open = server.open();
    open.write_all(&client_frame(1, b"hello")).expect("frame");
    expect(&mut open, b"\x81\x05hello");
    let mut refused = server.connect();
    let peer = refused.local_addr().expect("an address").to_string();
    refused.write_all(b"PUT / HTTP/1.1\r\nHost: h\r\n\r\n").expect("request");
    rest(&mut refused);
    drop((open, refused));
    server.signal(Signal::TERM);
    server.end();
    let said = std::fs::read_to_string(&path).expect("a log");
    std::fs::remove_file(&path).expect("the log");
    assert!(peer.contains('%') && said.contains(&format!("peer={peer}")), "{peer}: {said}");
    let without = run(&["--listen", &format!("[{address}]:0")]);
    let text = String::from_utf8(without.stderr).expect("text");
    assert!(without.status.code() == Some(1) && text.contains("needs its interface"), "{text}");
    let wrong = run(&["--listen", &format!("[{address}%no-such]:0")]);
    let text = String::from_utf8(wrong.stderr).expect("text");
    assert!(
        wrong.status.code() == Some(1) && text.contains("`no-such`") && text.contains("ip link"),
        "{text}"
    );
}

#[test]
fn a_signal_closes_with_1001_and_ends_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        // A single worker accepts the connections in their order.
        let server = Program::start(&["--stats", "--threads", "1"]);
        let mut idle = server.connect();
        let mut open = server.open();
        open.write_all(&client_frame(1, b"hello")).expect("frame");
        expect(&mut open, b"\x81\x05hello");
        server.signal(signal);
        // The Close comes, then the end of the stream; a connection whose handshake has not begun
        // is dropped.
        assert_eq!(rest(&mut open), CLOSE_1001);
        assert_eq!(rest(&mut idle), b"");
        drop((open, idle));
        let (status, printed) = server.end();
        assert_eq!(status.code(), Some(0));
        let stats: serde_json::Value = serde_json::from_str(&printed).expect("one line of JSON");
        assert_eq!((&stats["messages"], &stats["refused"]), (&1.into(), &0.into()), "{printed}");
        assert_eq!((&stats["accepted"], &stats["closed"]), (&2.into(), &2.into()), "{printed}");
    }
}

#[test]
fn a_drain_answers_a_begun_request_with_503() {
    let server = Program::start(&["--threads", "1"]);
    let mut begun = server.connect();
    begun.write_all(&program::REQUEST[..20]).expect("half a request");
    // The one worker has read that half by the time it echoes to a later connection.
    let mut open = server.open();
    open.write_all(&client_frame(1, b"hello")).expect("frame");
    expect(&mut open, b"\x81\x05hello");
    server.signal(Signal::TERM);
    let answer = String::from_utf8(rest(&mut begun)).expect("text");
    assert!(
        answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: "),
        "{answer}"
    );
    assert_eq!(rest(&mut open), CLOSE_1001);
    drop((begun, open));
    assert_eq!(server.end().0.code(), Some(0));
}

#[test]
fn the_line_of_a_listener_names_the_path() {
    let server = Program::start(&["--path", "/chat"]);
    assert!(
        server.lines[0].contains(&format!(" ws://{}/chat (", server.address())),
        "{:?}",
        server.lines
    );
    for wrong in ["chat", "/chat?a", "/a b"] {
        assert_eq!(run(&["--path", wrong]).status.code(), Some(2), "{wrong}");
    }
}

#[test]
fn a_drain_ends_without_the_peer() {
    let server = Program::start(&["--drain-timeout", "100ms"]);
    let mut stubborn = server.open();
    server.signal(Signal::TERM);
    expect(&mut stubborn, CLOSE_1001);
    assert_eq!(server.end().0.code(), Some(3), "it had to be cut off");
}

#[test]
fn a_second_signal_ends_at_once() {
    let server = Program::start(&["--drain-timeout", "1h"]);
    let mut stubborn = server.open();
    server.signal(Signal::TERM);
    expect(&mut stubborn, CLOSE_1001);
    server.signal(Signal::TERM);
    assert_eq!(server.end().0.code(), Some(128 + 15));
}

#[test]
fn runs_on_after_its_standard_output_is_closed() {
    let mut server = Program::start(&["--stats"]);
    server.close_stdout();
    let mut stream = server.open();
    stream.write_all(&client_frame(2, b"x")).expect("frame");
    expect(&mut stream, b"\x82\x01x");
    server.signal(Signal::TERM);
    drop(stream);
    assert_eq!(server.end().0.code(), Some(0));
}

#[test]
fn every_refusal_has_its_line_in_the_log() {
    let path = std::env::temp_dir().join(format!("sparring-refusals-{}.log", std::process::id()));
    let log = std::fs::File::create(&path).expect("a log file");
    let server = Program::start_logging(&["--listen", "127.0.0.1:0"], &["--stats"], log);
    let mut unmasked = server.open();
    unmasked.write_all(b"\x81\x01?").expect("frame");
    assert_eq!(rest(&mut unmasked)[2..4], 1002u16.to_be_bytes());
    let mut post = server.connect();
    post.write_all(b"POST / HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("request");
    assert!(rest(&mut post).starts_with(b"HTTP/1.1 405 "));
    drop((unmasked, post));
    server.signal(Signal::TERM);
    let (_, printed) = server.end();
    assert!(printed.contains("\"refused\":2"), "{printed}");
    let log = std::fs::read_to_string(&path).expect("the log");
    std::fs::remove_file(path).expect("own file");
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(" refused: ")).collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(
        lines[0].contains("unmasked-frame")
            && lines[0].contains("5.1")
            && lines[0].contains("1002"),
        "{log}"
    );
    assert!(lines[1].contains("405"), "{log}");
}

#[test]
fn every_flag_in_the_readme_exists() {
    let help = String::from_utf8(run(&["--help"]).stdout).expect("text");
    let flags = |text: &str| -> BTreeSet<String> {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '-');
        let is_flag = |word: &&str| {
            word.strip_prefix("--").is_some_and(|name| !name.starts_with('-') && !name.is_empty())
        };
        words.filter(is_flag).map(str::to_owned).collect()
    };
    // The build has a flag of its own.
    let known: BTreeSet<String> = &flags(&help) | &["--release".to_owned()].into();
    let unknown: Vec<String> =
        flags(include_str!("../README.md")).difference(&known).cloned().collect();
    assert!(unknown.is_empty(), "server/README.md: {unknown:?}");
}
