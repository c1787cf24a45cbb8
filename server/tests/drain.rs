//! The drain, on every engine: received messages are echoed, new connections are refused, and the
//! exit status reports the outcome.

mod program;

use std::io::{Read, Write};
use std::net::Shutdown;

use program::{Program, client_frame, engines, expect, rest};
use rustix::process::Signal;

const CLOSE_1001: &[u8] = b"\x88\x02\x03\xe9";

fn on_every_engine(arguments: &[&str], test: impl Fn(Program)) {
    for engine in engines() {
        for threads in ["1", "2"] {
            eprintln!("engine {engine}, threads {threads}");
            test(Program::start(
                &[&["--engine", &engine, "--threads", threads], arguments].concat(),
            ));
        }
    }
}

#[test]
fn received_messages_are_echoed_before_the_close() {
    on_every_engine(&[], |server| {
        let mut streams: Vec<_> = (0..20).map(|_| server.open()).collect();
        // These are fewer bytes than the sockets' buffers hold, so all have arrived when the signal
        // comes.
        let messages: Vec<u8> = (0..40).flat_map(|n| client_frame(2, &[n; 100])).collect();
        for stream in &mut streams {
            stream.write_all(&messages).expect("messages");
        }
        server.signal(Signal::TERM);
        let echoes: Vec<u8> =
            (0..40u8).flat_map(|n| [&[0x82, 100][..], &[n; 100]].concat()).collect();
        for (n, stream) in streams.iter_mut().enumerate() {
            let answer = rest(stream);
            assert!(answer.starts_with(&echoes), "{n}: {} of {} bytes", answer.len(), echoes.len());
            assert_eq!(&answer[echoes.len()..], CLOSE_1001, "{n}");
        }
        drop(streams);
        assert_eq!(server.end().0.code(), Some(0));
    });
}

#[test]
fn new_connections_are_refused_in_a_drain() {
    on_every_engine(&["--drain-timeout", "1h"], |server| {
        let mut last = server.open();
        server.signal(Signal::TERM);
        expect(&mut last, CLOSE_1001);
        for _ in 0..10 {
            let mut stream = server.connect();
            let _ = stream.write_all(program::REQUEST);
            let answer = String::from_utf8(rest(&mut stream)).expect("text");
            assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
            for field in ["\r\nConnection: close\r\n", "\r\nRetry-After: "] {
                assert!(answer.contains(field), "{answer}");
            }
        }
        // The server's answer to the Close, and the end.
        last.write_all(&client_frame(8, b"\x03\xe9")).expect("close");
        drop(last);
        assert_eq!(server.end().0.code(), Some(0));
    });
}

#[test]
fn input_after_the_close_is_discarded() {
    on_every_engine(&[], |server| {
        let mut stream = server.open();
        server.signal(Signal::TERM);
        expect(&mut stream, CLOSE_1001);
        stream.write_all(&client_frame(1, b"too late")).expect("frame");
        stream.shutdown(Shutdown::Write).expect("half-close");
        assert_eq!(rest(&mut stream), b"");
        assert_eq!(server.end().0.code(), Some(0));
    });
}

#[test]
fn a_drain_without_connections_ends_at_once() {
    on_every_engine(&["--drain-timeout", "1h"], |server| {
        server.signal(Signal::TERM);
        assert_eq!(server.end().0.code(), Some(0));
    });
}

#[test]
fn a_peer_that_stays_is_disconnected() {
    on_every_engine(&["--drain-timeout", "200ms", "--close-timeout", "1h"], |server| {
        let mut stubborn = server.open();
        server.signal(Signal::TERM);
        expect(&mut stubborn, CLOSE_1001);
        assert_eq!(server.end().0.code(), Some(3));
        // In order or by a reset, the connection ends.
        let _ = stubborn.read(&mut [0]);
    });
}

#[test]
fn a_server_of_raw_connections_drains_too() {
    on_every_engine(&["--protocol", "tcp"], |server| {
        let mut stream = server.connect();
        stream.write_all(b"first").expect("bytes");
        expect(&mut stream, b"first");
        stream.write_all(b"last").expect("bytes");
        server.signal(Signal::TERM);
        assert_eq!(rest(&mut stream), b"last");
        drop(stream);
        assert_eq!(server.end().0.code(), Some(0));
    });
}
