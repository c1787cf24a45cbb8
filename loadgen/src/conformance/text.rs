//! Text is UTF-8 (RFC 6455 5.6, 8.1; RFC 3629).

use super::case::Case;
use super::observe::End;
use super::wire::{BINARY, CONTINUATION, FIN, PING, PONG, TEXT, frame, header, raw};

const SECTION: &str = "RFC 6455 8.1";

pub(super) fn cases() -> Vec<Case> {
    [valid(), split(), invalid(), early()].concat()
}

fn fault(id: impl Into<String>, sent: impl Into<String>, bytes: Vec<u8>) -> Case {
    Case::frames(id, sent, SECTION, bytes, &[], End::Close(1007))
}

fn valid() -> Vec<Case> {
    let texts = [
        ("nul", "\0"),
        ("last-1", "\u{7f}"),
        ("first-2", "\u{80}"),
        ("last-2", "\u{7ff}"),
        ("first-3", "\u{800}"),
        ("before-surrogates", "\u{d7ff}"),
        ("after-surrogates", "\u{e000}"),
        ("nonchar", "\u{fffe}\u{ffff}\u{fdd0}"),
        ("first-4", "\u{10000}"),
        ("last-4", "\u{10ffff}"),
        ("bom", "\u{feff}a"),
        ("mixed", "Hello-\u{b5}@\u{df}\u{f6}\u{e4}\u{fc}\u{e0}\u{e1}-\u{1f600}-UTF-8!!"),
    ];
    let case = |(name, text): (&str, &str)| {
        let (id, sent) = (format!("utf8-{name}"), format!("text {}", text.escape_unicode()));
        Case::frames(
            id,
            sent,
            SECTION,
            frame(TEXT, text.as_bytes()),
            &[(TEXT, text.as_bytes())],
            End::Open,
        )
    };
    texts.into_iter().map(case).collect()
}

fn split() -> Vec<Case> {
    let smile = "a\u{1f600}z".as_bytes();
    let two = |at: usize| [raw(TEXT, &smile[..at]), raw(FIN, &smile[at..])].concat();
    let case = |id: String, sent: String, bytes| {
        Case::frames(id, sent, SECTION, bytes, &[(TEXT, smile)], End::Open)
    };
    let mut cases: Vec<Case> = (2..5)
        .map(|at| {
            case(
                format!("utf8-split-{at}"),
                format!("a character cut by fragments after byte {at}"),
                two(at),
            )
        })
        .collect();
    let bytewise: Vec<u8> = smile
        .iter()
        .enumerate()
        .flat_map(|(n, &byte)| {
            raw(
                if n == 0 { TEXT } else { CONTINUATION }
                    | if n == smile.len() - 1 { FIN } else { 0 },
                &[byte],
            )
        })
        .collect();
    cases.push(case("utf8-split-all".into(), "every byte a fragment".into(), bytewise));
    cases.push(
        case("utf8-reads".into(), "a character cut by reads".into(), frame(TEXT, smile))
            .in_writes_of(1),
    );
    let around = [raw(TEXT, &smile[..3]), frame(PING, b"p"), raw(FIN, &smile[3..])].concat();
    let replies: [(u8, &[u8]); 2] = [(PONG, b"p"), (TEXT, smile)];
    cases.push(Case::frames(
        "utf8-ping",
        "a ping inside a character",
        SECTION,
        around,
        &replies,
        End::Open,
    ));
    cases
}

fn invalid() -> Vec<Case> {
    let sequences: [(&str, &[u8]); 17] = [
        ("lone", b"\x80"),
        ("overlong-2", b"\xc0\x80"),
        ("overlong-2-last", b"\xc1\xbf"),
        ("overlong-3", b"\xe0\x80\x80"),
        ("overlong-3-last", b"\xe0\x9f\xbf"),
        ("overlong-4", b"\xf0\x80\x80\x80"),
        ("overlong-4-last", b"\xf0\x8f\xbf\xbf"),
        ("surrogate-first", b"\xed\xa0\x80"),
        ("surrogate-last", b"\xed\xbf\xbf"),
        ("above", b"\xf4\x90\x80\x80"),
        ("f5", b"\xf5\x80\x80\x80"),
        ("fe", b"\xfe"),
        ("ff", b"\xff"),
        ("cut-2", b"\xc3"),
        ("cut-3", b"\xe2\x82"),
        ("cut-4", b"\xf0\x9f\x98"),
        ("broken-off", b"\xe2\x82a"),
    ];
    let case = |(name, bytes): (&str, &[u8])| {
        let text = [b"ab".as_slice(), bytes].concat();
        fault(
            format!("utf8-bad-{name}"),
            format!("text ab{}", bytes.escape_ascii()),
            frame(TEXT, &text),
        )
    };
    sequences.into_iter().map(case).collect()
}

/// As soon as the bytes that make it invalid are there.
fn early() -> Vec<Case> {
    let long = [vec![b'a'; 5000], vec![0xff], vec![b'a'; 5000]].concat();
    let cut = [header(FIN | TEXT, 1000), vec![0; 4], b"abc\xff".to_vec()].concat();
    let replied: [(u8, &[u8]); 1] = [(TEXT, b"good")];
    vec![
        fault("utf8-early-fragment", "an invalid fragment, no end", raw(TEXT, b"a\xff")),
        fault("utf8-early-frame", "an invalid byte in an unfinished frame", cut),
        fault(
            "utf8-second",
            "an invalid second fragment",
            [raw(TEXT, b"good"), raw(CONTINUATION, b"\xff")].concat(),
        ),
        fault(
            "utf8-cut-across",
            "a character broken off across fragments",
            [raw(TEXT, b"\xe2\x82"), raw(FIN, b"a")].concat(),
        ),
        fault(
            "utf8-cut-end",
            "a character cut by an empty last fragment",
            [raw(TEXT, b"a\xc3"), raw(FIN, b"")].concat(),
        ),
        fault(
            "utf8-surrogate-split",
            "a surrogate cut by fragments",
            [raw(TEXT, b"\xed"), raw(CONTINUATION, b"\xa0")].concat(),
        ),
        fault("utf8-deep", "an invalid byte after 5,000", frame(TEXT, &long)),
        fault("utf8-bytewise", "invalid text byte by byte", frame(TEXT, b"ab\xc0\x80"))
            .in_writes_of(1),
        Case::frames(
            "utf8-reply-first",
            "good text, then invalid",
            SECTION,
            [frame(TEXT, b"good"), frame(TEXT, b"\xff")].concat(),
            &replied,
            End::Close(1007),
        ),
        Case::frames(
            "utf8-binary",
            "the same bytes as binary",
            SECTION,
            frame(BINARY, b"\xff\xc0"),
            &[(BINARY, b"\xff\xc0")],
            End::Open,
        ),
    ]
}
