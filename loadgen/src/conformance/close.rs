//! The closing handshake (RFC 6455 5.5.1, 7).

use std::io::Write;
use std::net::Shutdown;
use std::thread;
use std::time::{Duration, Instant};

use super::case::{Case, Outcome, Verdict};
use super::observe::{End, Last, observe_frames};
use super::servers::Target;
use super::wire::{self, BINARY, CLOSE, PING, TEXT, close, frame, raw};

/// Longer than any reasonable server reads from a peer that it has closed.
const LINGER_AT_MOST: Duration = Duration::from_secs(15);

pub(super) fn cases() -> Vec<Case> {
    [answered(), refused(), order(), scenarios()].concat()
}

fn case(id: String, sent: String, bytes: Vec<u8>, end: End) -> Case {
    Case::frames(id, sent, "RFC 6455 7.4", bytes, &[], end)
}

fn answered() -> Vec<Case> {
    let codes = [
        1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000,
        4999,
    ];
    let echo = |code: u16| {
        let end = End::Answer(code.to_be_bytes().to_vec());
        case(format!("close-{code}"), format!("Close {code}"), close(code, b""), end)
    };
    let mut cases: Vec<Case> = codes.into_iter().map(echo).collect();
    let longest = "\u{e4}".repeat(61) + "z";
    for (name, reason) in
        [("reason", "bye"), ("reason-utf8", "\u{1f600}"), ("reason-123", &longest)]
    {
        let payload = [b"\x03\xe8", reason.as_bytes()].concat();
        let sent = format!("Close 1000 with a reason of {} bytes", reason.len());
        cases.push(case(
            format!("close-{name}"),
            sent,
            close(1000, reason.as_bytes()),
            End::Answer(payload),
        ));
    }
    cases.push(case(
        "close-empty".into(),
        "an empty Close".into(),
        frame(CLOSE, b""),
        End::Answer(Vec::new()),
    ));
    cases.push(
        case(
            "close-bytewise".into(),
            "Close 1000 byte by byte".into(),
            close(1000, b"x"),
            End::Answer(b"\x03\xe8x".to_vec()),
        )
        .in_writes_of(1),
    );
    cases
}

fn refused() -> Vec<Case> {
    let codes = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535];
    let refused = |code: u16| {
        case(
            format!("close-bad-{code}"),
            format!("Close {code}"),
            close(code, b""),
            End::Close(1002),
        )
    };
    let mut cases: Vec<Case> = codes.into_iter().map(refused).collect();
    cases.push(case(
        "close-one-byte".into(),
        "a Close of one byte".into(),
        frame(CLOSE, b"\x03"),
        End::Close(1002),
    ));
    for (name, reason) in
        [("invalid", &b"\xff"[..]), ("surrogate", b"\xed\xa0\x80"), ("cut", b"ab\xc3")]
    {
        let sent = format!("Close 1000 with reason {}", reason.escape_ascii());
        cases.push(case(
            format!("close-reason-{name}"),
            sent,
            close(1000, reason),
            End::Close(1007),
        ));
    }
    cases
}

fn order() -> Vec<Case> {
    let bye = || End::Answer(b"\x03\xe8".to_vec());
    let after = |id, sent, bytes: Vec<u8>| {
        Case::frames(id, sent, "RFC 6455 5.5.1", [close(1000, b""), bytes].concat(), &[], bye())
    };
    vec![
        after("close-then-text", "a Close, then a text", frame(TEXT, b"late")),
        after("close-then-ping", "a Close, then a ping", frame(PING, b"late")),
        after("close-then-close", "a Close, then another", close(1001, b"")),
        after("close-then-junk", "a Close, then junk", vec![0xff; 300]),
        after(
            "close-then-flood",
            "a Close, then 500 KB of binary",
            frame(BINARY, &[0x5a; 500_000]),
        ),
        Case::frames(
            "close-reply-first",
            "a text, then a Close",
            "RFC 6455 5.5.1",
            [frame(TEXT, b"first"), close(1000, b"")].concat(),
            &[(TEXT, b"first")],
            bye(),
        ),
        Case::frames(
            "fault-then-flood",
            "a reserved opcode, then 500 KB",
            "RFC 6455 7.1.7",
            [frame(3, b""), frame(BINARY, &[0x5a; 500_000])].concat(),
            &[],
            End::Close(1002),
        ),
        Case::frames(
            "fault-then-close",
            "an unmasked frame, then a Close",
            "RFC 6455 7.1.7",
            [b"\x81\x01a".to_vec(), close(1000, b"")].concat(),
            &[],
            End::Close(1002),
        ),
    ]
}

fn scenarios() -> Vec<Case> {
    vec![
        Case::scenario(
            "close-never-tcp",
            "a Close; TCP is never closed",
            "RFC 6455 7.1.1",
            "dropped after a time",
            never_closes,
        ),
        Case::scenario(
            "close-half",
            "two texts, then the end of TCP's sending side",
            "RFC 6455 7.1.5",
            "both echoes, end",
            half_close,
        ),
        Case::scenario(
            "close-half-inside",
            "half a message, then the end of sending",
            "RFC 6455 7.1.5",
            "end",
            half_close_inside,
        ),
    ]
}

/// After the Close the server reads on for a while, but not for ever: writes begin to fail.
fn never_closes(target: &Target) -> Outcome {
    let Ok(mut stream) = wire::open(target) else {
        return (Verdict::Broken, "no connection".into());
    };
    if stream.write_all(&close(1000, b"")).is_err() {
        return (Verdict::Wrong, "no Close taken".into());
    }
    let seen = observe_frames(&stream, Vec::new(), &mut |_| ());
    if seen.last != Last::Eof {
        return (Verdict::Lax, seen.to_string());
    }
    let begun = Instant::now();
    while begun.elapsed() < LINGER_AT_MOST {
        if stream.write_all(&[0]).is_err() {
            return (Verdict::Ok, "dropped".into());
        }
        thread::sleep(Duration::from_millis(50));
    }
    (Verdict::Lax, format!("still read after {} s", LINGER_AT_MOST.as_secs()))
}

fn half_close(target: &Target) -> Outcome {
    half_closed(
        target,
        &[frame(TEXT, b"one"), frame(TEXT, b"two")].concat(),
        &[(TEXT, b"one".to_vec()), (TEXT, b"two".to_vec())],
    )
}

fn half_close_inside(target: &Target) -> Outcome {
    half_closed(target, &raw(TEXT, b"one"), &[])
}

fn half_closed(target: &Target, bytes: &[u8], replies: &[(u8, Vec<u8>)]) -> Outcome {
    let Ok(mut stream) = wire::open(target) else {
        return (Verdict::Broken, "no connection".into());
    };
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    End::Eof.judge(replies, &observe_frames(&stream, Vec::new(), &mut |_| ()))
}
