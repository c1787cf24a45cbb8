//! Frames and messages (RFC 6455 5).

use super::case::Case;
use super::observe::End;
use super::servers::Variant;
use super::wire::{
    BINARY, CLOSE, CONTINUATION, FIN, PING, PONG, TEXT, close, frame, header, masked_by, raw,
};

const KEY: [u8; 4] = [1, 2, 3, 4];

pub(super) fn cases() -> Vec<Case> {
    [
        echoes(),
        fragments(),
        cuts(),
        control(),
        bits(),
        masks(),
        lengths(),
        sequence(),
        limits(),
        deadlines(),
    ]
    .concat()
}

fn fault(
    id: impl Into<String>,
    sent: impl Into<String>,
    section: &'static str,
    bytes: Vec<u8>,
) -> Case {
    Case::frames(id, sent, section, bytes, &[], End::Close(1002))
}

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|n| b'a' + (n % 23) as u8).collect()
}

fn echoes() -> Vec<Case> {
    let mut cases = Vec::new();
    for (opcode, kind) in [(TEXT, "text"), (BINARY, "binary")] {
        for len in [0, 1, 125, 126, 127, 65_535, 65_536, 300_000] {
            let (id, sent) = (format!("frame-{kind}-{len}"), format!("{kind} of {len} bytes"));
            let message = payload(len);
            let bytes = frame(opcode, &message);
            cases.push(Case::frames(
                id,
                sent,
                "RFC 6455 5.2",
                bytes,
                &[(opcode, &message)],
                End::Open,
            ));
        }
    }
    let many = |n: usize| {
        let all: Vec<Vec<u8>> = (0..n).map(|n| format!("{n}").into_bytes()).collect();
        let bytes = all.iter().flat_map(|message| frame(TEXT, message)).collect();
        let replies: Vec<(u8, &[u8])> =
            all.iter().map(|message| (TEXT, message.as_slice())).collect();
        Case::frames(
            format!("frame-many-{n}"),
            format!("{n} frames in one write"),
            "RFC 6455 5.4",
            bytes,
            &replies,
            End::Open,
        )
    };
    let all_bytes: Vec<u8> = (0..=255).collect();
    cases.extend([many(2), many(100), many(10_000)]);
    cases.push(Case::frames(
        "frame-all-bytes",
        "binary of all bytes",
        "RFC 6455 5.6",
        frame(BINARY, &all_bytes),
        &[(BINARY, &all_bytes)],
        End::Open,
    ));
    cases
}

fn fragments() -> Vec<Case> {
    let in_pieces = |first: u8, pieces: &[&[u8]]| -> Vec<u8> {
        let last = pieces.len() - 1;
        let piece = |(n, payload): (usize, &&[u8])| {
            raw(
                if n == 0 { first } else { CONTINUATION } | if n == last { FIN } else { 0 },
                payload,
            )
        };
        pieces.iter().enumerate().flat_map(piece).collect()
    };
    let case = |id, sent, bytes, replies: &[(u8, &[u8])]| {
        Case::frames(id, sent, "RFC 6455 5.4", bytes, replies, End::Open)
    };
    let ping_between = [raw(TEXT, b"ab"), frame(PING, b"p"), raw(FIN, b"cd")].concat();
    let bytewise: Vec<&[u8]> = vec![b"x"; 200];
    let empties: Vec<&[u8]> = vec![b""; 200];
    vec![
        case(
            "frag-two",
            "text in two fragments",
            in_pieces(TEXT, &[b"ab", b"cd"]),
            &[(TEXT, b"abcd")],
        ),
        case(
            "frag-three",
            "binary in three fragments",
            in_pieces(BINARY, &[b"a", b"b", b"c"]),
            &[(BINARY, b"abc")],
        ),
        case(
            "frag-empty-ends",
            "text between empty fragments",
            in_pieces(TEXT, &[b"", b"ab", b""]),
            &[(TEXT, b"ab")],
        ),
        case(
            "frag-all-empty",
            "200 empty fragments",
            in_pieces(BINARY, &empties),
            &[(BINARY, b"")],
        ),
        case(
            "frag-bytes",
            "200 fragments of a byte",
            in_pieces(BINARY, &bytewise),
            &[(BINARY, &[b'x'; 200])],
        ),
        case(
            "frag-ping",
            "a ping between fragments",
            ping_between.clone(),
            &[(PONG, b"p"), (TEXT, b"abcd")],
        ),
        case(
            "frag-ping-bytewise",
            "the same byte by byte",
            ping_between,
            &[(PONG, b"p"), (TEXT, b"abcd")],
        )
        .in_writes_of(1),
        case(
            "frag-pong",
            "a pong between fragments",
            [raw(TEXT, b"ab"), frame(PONG, b"p"), raw(FIN, b"cd")].concat(),
            &[(TEXT, b"abcd")],
        ),
        case(
            "frag-then-whole",
            "a fragmented message, then a whole one",
            [in_pieces(TEXT, &[b"a", b"b"]), frame(BINARY, b"c")].concat(),
            &[(TEXT, b"ab"), (BINARY, b"c")],
        ),
        case(
            "frag-large",
            "two fragments of 100 KB",
            in_pieces(BINARY, &[&payload(100_000), &payload(100_000)]),
            &[(BINARY, &[payload(100_000), payload(100_000)].concat())],
        ),
        Case::frames(
            "frag-close",
            "a Close between fragments",
            "RFC 6455 5.5.1",
            [raw(TEXT, b"ab"), frame(CLOSE, b"\x03\xe8")].concat(),
            &[],
            End::Answer(vec![3, 0xe8]),
        ),
    ]
}

fn cuts() -> Vec<Case> {
    let message = payload(300);
    let bytes = [frame(TEXT, b"hello"), frame(BINARY, &message), frame(PING, b"p")].concat();
    let replies: [(u8, &[u8]); 3] = [(TEXT, b"hello"), (BINARY, &message), (PONG, b"p")];
    let case = |len: usize| {
        let (id, sent) = (format!("cut-{len}"), format!("three frames in writes of {len} bytes"));
        Case::frames(id, sent, "RFC 6455 5.2", bytes.clone(), &replies, End::Open).in_writes_of(len)
    };
    let large = payload(70_000);
    let mut cases: Vec<Case> = [1, 2, 3, 5, 7, 13, 64].into_iter().map(case).collect();
    cases.push(
        Case::frames(
            "cut-large",
            "70,000 bytes in writes of 4,001",
            "RFC 6455 5.2",
            frame(TEXT, &large),
            &[(TEXT, &large)],
            End::Open,
        )
        .in_writes_of(4001),
    );
    cases.push(
        fault(
            "cut-fault",
            "an unmasked frame byte by byte",
            "RFC 6455 5.1",
            b"\x81\x03abc".to_vec(),
        )
        .in_writes_of(1),
    );
    cases
}

fn control() -> Vec<Case> {
    let long = payload(125);
    let case = |id, sent, bytes, replies: &[(u8, &[u8])]| {
        Case::frames(id, sent, "RFC 6455 5.5.2", bytes, replies, End::Open)
    };
    let pings: Vec<u8> = (0..100).flat_map(|n: u8| frame(PING, &[n])).collect();
    let numbers: Vec<[u8; 1]> = (0..100).map(|n| [n]).collect();
    let pongs: Vec<(u8, &[u8])> = numbers.iter().map(|n| (PONG, n.as_slice())).collect();
    let over = payload(126);
    vec![
        case("ping-empty", "an empty ping", frame(PING, b""), &[(PONG, b"")]),
        case(
            "ping-bytes",
            "a ping of bytes that are no text",
            frame(PING, b"\x00\xff\xfe"),
            &[(PONG, b"\x00\xff\xfe")],
        ),
        case("ping-125", "a ping of 125 bytes", frame(PING, &long), &[(PONG, &long)]),
        case("ping-100", "100 pings in one write", pings, &pongs),
        case("pong-unasked", "a pong nobody asked for", frame(PONG, b"here"), &[]),
        case("pong-empty", "an empty pong nobody asked for", frame(PONG, b""), &[]),
        fault("ping-126", "a ping of 126 bytes", "RFC 6455 5.5", frame(PING, &over)),
        fault("pong-126", "a pong of 126 bytes", "RFC 6455 5.5", frame(PONG, &over)),
        fault(
            "close-126",
            "a Close of 126 bytes",
            "RFC 6455 5.5",
            frame(CLOSE, &[b"\x03\xe8", &over[..124]].concat()),
        ),
        fault(
            "ping-64-bit",
            "a ping with a 64-bit length",
            "RFC 6455 5.5",
            [vec![0x89, 0xff], 70_000u64.to_be_bytes().to_vec()].concat(),
        ),
        fault("ping-fragment", "a ping without FIN", "RFC 6455 5.5", raw(PING, b"p")),
        fault("pong-fragment", "a pong without FIN", "RFC 6455 5.5", raw(PONG, b"p")),
        fault("close-fragment", "a Close without FIN", "RFC 6455 5.5", raw(CLOSE, b"\x03\xe8")),
    ]
}

fn bits() -> Vec<Case> {
    let mut cases = Vec::new();
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        let (id, sent) = (format!("opcode-{opcode}"), format!("reserved opcode {opcode}"));
        cases.push(fault(id, sent, "RFC 6455 5.2", frame(opcode, b"abc")));
    }
    for (bits, name) in [(0x40, "1"), (0x20, "2"), (0x10, "3"), (0x70, "123")] {
        let sent = format!("text with RSV{name}");
        cases.push(fault(
            format!("rsv{name}-text"),
            sent,
            "RFC 6455 5.2",
            raw(FIN | bits | TEXT, b"abc"),
        ));
    }
    cases.extend([
        fault("rsv1-ping", "a ping with RSV1", "RFC 7692 6.1", raw(FIN | 0x40 | PING, b"abc")),
        fault(
            "rsv1-close",
            "a Close with RSV1",
            "RFC 7692 6.1",
            raw(FIN | 0x40 | CLOSE, b"\x03\xe8"),
        ),
        fault(
            "rsv1-continuation",
            "a continuation with RSV1",
            "RFC 7692 6.1",
            [raw(TEXT, b"a"), raw(FIN | 0x40, b"b")].concat(),
        ),
        fault(
            "rsv2-empty",
            "an empty binary with RSV2",
            "RFC 6455 5.2",
            raw(FIN | 0x20 | BINARY, b""),
        ),
    ]);
    cases
}

fn masks() -> Vec<Case> {
    let unmasked =
        |opcode: u8, payload: &[u8]| [&[FIN | opcode, payload.len() as u8], payload].concat();
    let mut cases = Vec::new();
    for (opcode, name) in [(TEXT, "text"), (BINARY, "binary"), (PING, "ping"), (PONG, "pong")] {
        let sent = format!("an unmasked {name}");
        cases.push(fault(
            format!("unmasked-{name}"),
            sent,
            "RFC 6455 5.1",
            unmasked(opcode, b"abc"),
        ));
    }
    cases.extend([
        fault("unmasked-empty", "an unmasked empty text", "RFC 6455 5.1", unmasked(TEXT, b"")),
        fault("unmasked-close", "an unmasked Close", "RFC 6455 5.1", unmasked(CLOSE, b"\x03\xe8")),
        fault(
            "unmasked-fragment",
            "an unmasked continuation",
            "RFC 6455 5.1",
            [raw(TEXT, b"a"), unmasked(CONTINUATION, b"b")].concat(),
        ),
    ]);
    for (name, key) in [("zero", [0; 4]), ("ones", [0xff; 4]), ("mixed", [0, 0xff, 0x80, 1])] {
        let message = payload(77);
        let bytes = masked_by(key, FIN | TEXT, &message);
        let sent = format!("text under a key: {name}");
        cases.push(Case::frames(
            format!("key-{name}"),
            sent,
            "RFC 6455 5.3",
            bytes,
            &[(TEXT, &message)],
            End::Open,
        ));
    }
    cases
}

/// A binary frame whose length is written in 16 or 64 bits.
fn long_form(len: u64, wide: bool) -> Vec<u8> {
    let length =
        if wide { len.to_be_bytes().to_vec() } else { (len as u16).to_be_bytes().to_vec() };
    [vec![FIN | BINARY, if wide { 0xff } else { 0xfe }], length, KEY.to_vec()].concat()
}

fn lengths() -> Vec<Case> {
    let mut cases = Vec::new();
    for (len, wide) in
        [(0, false), (1, false), (125, false), (0, true), (125, true), (126, true), (65_535, true)]
    {
        let bits = if wide { 64 } else { 16 };
        let bytes = [long_form(len, wide), vec![0; len as usize]].concat();
        cases.push(fault(
            format!("len-{len}-in-{bits}"),
            format!("length {len} in {bits} bits"),
            "RFC 6455 5.2",
            bytes,
        ));
    }
    cases.extend([
        fault(
            "len-top-bit",
            "a 64-bit length with its top bit",
            "RFC 6455 5.2",
            long_form(1 << 63, true),
        ),
        fault("len-all-bits", "a 64-bit length of ones", "RFC 6455 5.2", long_form(u64::MAX, true)),
    ]);
    for (name, len) in [("max", i64::MAX as u64), ("1t", 1 << 40)] {
        let sent = format!("a header that declares {len} bytes");
        cases.push(Case::frames(
            format!("too-big-{name}"),
            sent,
            "RFC 6455 7.4.1",
            long_form(len, true),
            &[],
            End::Close(1009),
        ));
    }
    let next = [raw(BINARY, b"abc"), header(FIN, i64::MAX as u64), KEY.to_vec()].concat();
    cases.push(Case::frames(
        "too-big-sum-max",
        "a fragment, then one of 2^63-1",
        "RFC 6455 7.4.1",
        next,
        &[],
        End::Close(1009),
    ));
    cases
}

fn sequence() -> Vec<Case> {
    let seq = |id, sent, bytes| fault(id, sent, "RFC 6455 5.4", bytes);
    let good = frame(TEXT, b"good");
    let replied: [(u8, &[u8]); 1] = [(TEXT, b"good")];
    let after = |id, sent, bytes: &[Vec<u8>]| {
        Case::frames(
            id,
            sent,
            "RFC 6455 7.1.7",
            [good.clone(), bytes.concat()].concat(),
            &replied,
            End::Close(1002),
        )
    };
    vec![
        seq("seq-continuation", "a continuation without a start", frame(CONTINUATION, b"a")),
        seq("seq-continuation-open", "the same without FIN", raw(CONTINUATION, b"a")),
        after(
            "seq-after-whole",
            "a continuation after a whole message",
            &[frame(CONTINUATION, b"a")],
        ),
        seq(
            "seq-text-inside",
            "a text inside a message",
            [raw(TEXT, b"a"), frame(TEXT, b"b")].concat(),
        ),
        seq(
            "seq-binary-inside",
            "a binary inside a text",
            [raw(TEXT, b"a"), frame(BINARY, b"b")].concat(),
        ),
        seq(
            "seq-fragment-inside",
            "a new start inside a message",
            [raw(BINARY, b"a"), raw(BINARY, b"b")].concat(),
        ),
        after("seq-reply-first", "a good frame, then an unmasked one", &[b"\x81\x01a".to_vec()]),
        after("seq-nothing-after", "good, reserved opcode, good", &[frame(3, b""), good.clone()]),
        after(
            "seq-no-pong-after",
            "good, RSV, ping",
            &[raw(FIN | 0x10 | TEXT, b"a"), frame(PING, b"p")],
        ),
    ]
}

fn limits() -> Vec<Case> {
    let small = |id, sent, bytes, replies: &[(u8, &[u8])], end| {
        Case::frames(id, sent, "RFC 6455 10.4", bytes, replies, end).on(Variant::Small)
    };
    let flood = |n: usize, payload: &[u8], fin: bool| -> Vec<u8> {
        let piece = |k: usize| {
            raw(if k == 0 { BINARY } else { 0 } | if fin && k == n - 1 { FIN } else { 0 }, payload)
        };
        (0..n).flat_map(piece).collect()
    };
    let most = payload(1 << 16);
    let half = payload(1 << 15);
    let over = |len| {
        [raw(BINARY, &half), raw(CONTINUATION, &half), header(FIN, len), KEY.to_vec()].concat()
    };
    vec![
        small(
            "limit-fits",
            "a message of exactly the maximum",
            frame(BINARY, &most),
            &[(BINARY, &most)],
            End::Open,
        ),
        small(
            "limit-one-frame",
            "a header of the maximum and 1",
            [header(FIN | BINARY, 65_537), KEY.to_vec()].concat(),
            &[],
            End::Close(1009),
        ),
        small(
            "limit-header-alone",
            "the same without its key",
            header(FIN | TEXT, 65_537),
            &[],
            End::Close(1009),
        ),
        small(
            "limit-sum",
            "fragments of the maximum, then 1 byte more",
            over(1),
            &[],
            End::Close(1009),
        ),
        small(
            "limit-sum-fits",
            "fragments of the maximum, then an empty one",
            over(0),
            &[(BINARY, &half.repeat(2))],
            End::Open,
        ),
        small(
            "limit-reply-first",
            "a good frame, then one too big",
            [frame(TEXT, b"good"), header(FIN | TEXT, 1 << 20)].concat(),
            &[(TEXT, b"good")],
            End::Close(1009),
        ),
        small(
            "limit-fragments-fit",
            "100 fragments",
            flood(100, b"x", true),
            &[(BINARY, &[b'x'; 100])],
            End::Open,
        ),
        small(
            "limit-fragments",
            "101 fragments of a byte",
            flood(101, b"x", false),
            &[],
            End::Close(1008),
        ),
        small(
            "limit-fragments-empty",
            "1,000 empty fragments",
            flood(1000, b"", false),
            &[],
            End::Close(1008),
        ),
        Case::frames(
            "frag-5000-empty",
            "5,000 empty fragments",
            "RFC 6455 5.4",
            flood(5000, b"", true),
            &[(BINARY, b"")],
            End::Open,
        ),
    ]
}

fn deadlines() -> Vec<Case> {
    let late = |id, sent, bytes| {
        Case::frames(id, sent, "RFC 6455 7.4.1", bytes, &[], End::Close(1001))
            .on(Variant::ShortDeadlines)
    };
    vec![
        late("late-header", "half a header, then nothing", vec![0x81]),
        late("late-payload", "half a payload, then nothing", frame(TEXT, b"hello")[..8].to_vec()),
        late("late-message", "a fragment, then nothing", raw(TEXT, b"hello")),
        late("late-ping", "half a ping, then nothing", frame(PING, b"hello")[..8].to_vec()),
        unfinished("slow-header", "half a header, pings impossible", vec![0x81]),
        unfinished("slow-payload", "half a payload", frame(TEXT, b"hello")[..8].to_vec()),
        unfinished("slow-message", "a fragment without a last one", raw(TEXT, b"hello")),
        unfinished("slow-empty-fragment", "an empty fragment without a last one", raw(TEXT, b"")),
        unfinished("slow-close", "half a Close", close(1000, b"")[..7].to_vec()),
    ]
}

/// The other deadline: not of silence, but of what was begun.
fn unfinished(id: &str, sent: &str, bytes: Vec<u8>) -> Case {
    Case::frames(id, sent, "RFC 6455 7.4.1", bytes, &[], End::Close(1008))
        .on(Variant::MessagePolicy)
}
