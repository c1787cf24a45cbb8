//! Messages before the load: greetings, logins and their answers.

use std::io::Write as _;

use super::answers::Websockets;
use super::echo::frames::{TEXT, server_close, server_frame};
use super::misbehaving::{Behaviour, COUNTED, ENDLESS, IMPATIENT, PATIENT, Peer, echoes, trial};
use super::{FINE, loadgen, text};

const LOGIN: [&str; 4] = ["--first-message", "let me in", "--expect-first", "^welcome( back)?$"];

/// Opens a connection, and answers a login.
fn log_in(peer: &mut Peer, answer: &[u8]) -> std::io::Result<()> {
    peer.open()?;
    peer.serve(1, |stream, _, opcode, payload| {
        let is_right = opcode == TEXT && payload == b"let me in";
        stream.write_all(&if is_right { answer.to_vec() } else { server_close(1008, "no login") })
    })
}

#[test]
fn logs_in_before_the_load() {
    let server: Behaviour = |peer| {
        peer.open()?;
        let greetings = [server_frame(TEXT, b"hello"), server_frame(TEXT, b"motd")].concat();
        peer.send(&greetings)?;
        peer.serve(u64::MAX, |stream, number, opcode, payload| match number {
            1 if payload == b"let me in" => stream.write_all(&server_frame(TEXT, b"welcome back")),
            1 => stream.write_all(&server_close(1008, "no login")),
            _ => stream.write_all(&server_frame(opcode, payload)),
        })
    };
    let skip = ["--skip-first", "2"];
    for more in [&[][..], &["--messages-per-connection", "100"], &["--idle", "3"], &["--text"]] {
        let (said, code) = trial(server, &[&COUNTED, &PATIENT, &LOGIN, &skip, more]);
        assert!(code == Some(FINE) || code == Some(13), "{said}");
        assert_eq!(echoes(&said), "all as they were sent (every one checked)", "{said}");
        assert!(said.contains("2,000 sent = 2,000 echoed"), "{said}");
        // The time is told apart.
        assert!(said.contains(" first max ") || said.contains(" first p50 "), "{said}");
    }
    // The same server without the flags: its greetings are unasked, and its answer is an echo of
    // nothing.
    let (said, code) = trial(server, &[&ENDLESS, &PATIENT]);
    assert_eq!(code, Some(1), "{said}");
}

#[test]
fn names_what_failed_in_the_first_messages() {
    let mute: Behaviour = |peer| peer.open().and_then(|()| peer.wait());
    let one: Behaviour = |peer| {
        peer.open()?;
        peer.send(&server_frame(TEXT, b"hello"))?;
        peer.wait()
    };
    let denies: Behaviour = |peer| log_in(peer, &server_frame(TEXT, b"wrong password"));
    let closes: Behaviour = |peer| log_in(peer, &server_close(4001, "bad token"));
    let hangs_up: Behaviour = |peer| peer.open();
    let breaks: Behaviour = |peer| {
        peer.open()?;
        peer.send(&server_frame(3, b""))?;
        peer.wait()
    };
    let skip = &["--skip-first", "2"][..];
    for (name, behaviour, flags, part) in [
        ("mute", mute, &LOGIN[..], "the answer to --first-message did not come within 1s"),
        ("no greeting", mute, skip, "0 of 2 messages that --skip-first skips came within 1s"),
        ("one greeting", one, skip, "1 of 2 messages that --skip-first skips came within 1s"),
        (
            "denies",
            denies,
            &LOGIN,
            "the answer to --first-message does not match --expect-first; it answered: `wrong \
             password`",
        ),
        (
            "another greeting",
            one,
            &["--expect-first", "^hi"],
            "the server's first message does not match --expect-first; it answered: `hello`",
        ),
        ("closes", closes, &LOGIN, "the server sent a Close (code 4001: bad token)"),
        ("hangs up", hangs_up, &LOGIN, "the server closed the connection"),
        ("breaks", breaks, &LOGIN, "the server broke the protocol"),
    ] {
        let (said, code) = trial(behaviour, &[&ENDLESS, &IMPATIENT, flags]);
        assert_eq!(code, Some(1), "{name}: {said}");
        assert!(
            said.contains("the first messages with ws://") && said.contains(part),
            "{name}: {said}"
        );
        assert!(said.contains("of 4 connections w"), "{name}: {said}");
    }
}

#[test]
fn answers_without_an_expectation_are_unasked() {
    let greets: Behaviour = |peer| {
        peer.open()?;
        peer.serve(u64::MAX, |stream, number, opcode, payload| {
            let answer = if number == 1 {
                server_frame(TEXT, b"welcome")
            } else {
                server_frame(opcode, payload)
            };
            stream.write_all(&answer)
        })
    };
    let (said, code) = trial(greets, &[&COUNTED, &PATIENT, &["--first-message", "let me in"]]);
    assert_eq!((code, &echoes(&said)[..]), (Some(1), "that nobody asked for"), "{said}");
}

#[test]
fn logs_in_to_a_server_of_python() {
    let Some(server) = Websockets::start(
        "
async def handler(socket):
    await socket.send('hello')
    login = json.loads(await socket.recv())
    await socket.send('in' if login['user'].startswith('user-') else 'out')
    async for message in socket:
        await socket.send(message)",
    ) else {
        return;
    };
    let own = ["run", &server.url, "-c", "4"];
    for (user, code, part) in [
        ("{\"user\":\"user-{connection}\"}", 0, "2,000 sent = 2,000 echoed"),
        ("{\"user\":\"guest\"}", 1, "does not match --expect-first; it answered: `out`"),
    ] {
        let login = ["--first-message", user, "--template", "--expect-first", "^in$"];
        let words = [&own[..], &COUNTED, &PATIENT, &login, &["--skip-first", "1"]].concat();
        let output = loadgen(&words).output().expect("the program runs");
        let said = text(&output.stdout) + &text(&output.stderr);
        let found = output.status.code();
        assert!(found == Some(code) || (code == 0 && found == Some(13)), "{said}");
        assert!(said.contains(part), "{said}");
    }
}
