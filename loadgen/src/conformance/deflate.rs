//! Compressed messages (RFC 7692). A server that declines the extension skips them.

use std::io::Write;
use std::sync::Arc;

use bytes::BytesMut;
use protocol::deflate::{CompressorSettings, Deflater, History, Inflater, MIN_DEFLATE_BITS};
use protocol::frame::RSV1;
use protocol::handshake::client::{ResponseError, check_response};
use protocol::handshake::deflate::{Offer, Parameters};
use protocol::{Limits, MessageKind};

use super::case::{Case, Outcome, Verdict, exchange, no_connection};
use super::observe::{End, Frame, Seen, observe_frames};
use super::servers::{Target, Variant};
use super::wire::{
    self, BINARY, CONTINUATION, FIN, NONCE, PING, PONG, TEXT, frame, raw, read_head, request_with,
};

const COMPRESSED: u8 = RSV1 << 4;

/// Largest message of the server of [`Variant::Deflate`] where it is ours.
const MAX_MESSAGE: usize = 1 << 20;

/// Exchange of a case once the server has agreed to compress.
#[derive(Clone)]
pub(super) struct Deflated {
    offer: Offer,
    pieces: Vec<Piece>,
    /// Acceptable codes of the Close; none: the connection stays open.
    codes: &'static [u16],
    /// True if `pieces` are sent byte by byte.
    is_cut: bool,
}

/// A part of what is sent, and what comes back.
#[derive(Clone)]
enum Piece {
    /// A message in this number of frames, compressed by the client, and echoed.
    Message(u8, Arc<[u8]>, usize),
    /// These bytes, and these messages or control frames back.
    Bytes(Vec<u8>, Vec<Frame>),
}

impl Deflated {
    pub(super) fn run(&self, target: &Target) -> Outcome {
        let Ok(mut stream) = wire::connect(target) else { return no_connection() };
        let offer = self.offer.encode();
        let field = format!("Sec-WebSocket-Extensions: {offer}\r\n");
        let request = request_with(&target.host, &target.path, &field);
        let Ok(head) = stream.write_all(&request).and_then(|()| read_head(&mut stream)) else {
            return no_connection();
        };
        let agreed = match check_response(&head, NONCE, &[], Some(&self.offer)) {
            Ok(Some(agreed)) => agreed,
            Ok(None) => return (Verdict::Skipped, "declines permessage-deflate".into()),
            Err(error) => return (Verdict::Wrong, error.to_string()),
        };
        let Some((bytes, replies)) = self.conversation(&agreed) else {
            return (Verdict::Skipped, "the agreed window is too small to compress for".into());
        };
        let writes =
            if self.is_cut { bytes.chunks(1).map(<[u8]>::to_vec).collect() } else { vec![bytes] };
        let probe_behind = self.codes.is_empty().then_some(replies.len());
        let mut seen = exchange(&stream, &writes, probe_behind, |came| {
            observe_frames(&stream, Vec::new(), came)
        });
        if let Err(fault) = inflate(&agreed, &mut seen) {
            return (Verdict::Wrong, format!("{seen}: {fault}"));
        }
        let outcomes = self.codes.iter().map(|&code| End::Close(code).judge(&replies, &seen));
        let best = outcomes.min_by_key(|(verdict, _)| *verdict as u8);
        best.unwrap_or_else(|| End::Open.judge(&replies, &seen))
    }

    pub(super) fn expected(&self) -> String {
        match self.codes {
            [] => "echoes, open".into(),
            [code] => format!("Close {code}, end"),
            codes => {
                let codes: Vec<_> = codes.iter().map(u16::to_string).collect();
                format!("Close {}, end", codes.join(" or "))
            }
        }
    }

    /// Returns what is sent, and the messages and control frames that come back. `None`: the client
    /// cannot compress with the agreed window.
    fn conversation(&self, agreed: &Parameters) -> Option<(Vec<u8>, Vec<Frame>)> {
        let window_bits = agreed.client_max_window_bits;
        let settings = CompressorSettings { window_bits, ..CompressorSettings::default() };
        let mut deflater = (window_bits >= MIN_DEFLATE_BITS)
            .then(|| Deflater::new(settings, !agreed.client_no_context_takeover))?;
        let (mut sent, mut replies) = (Vec::new(), Vec::new());
        for piece in &self.pieces {
            match piece {
                Piece::Message(opcode, message, frames) => {
                    let mut payload = BytesMut::new();
                    deflater.deflate(message, &mut payload);
                    sent.extend(in_frames(*opcode, &payload, *frames));
                    replies.push((*opcode, message.to_vec()));
                }
                Piece::Bytes(bytes, back) => {
                    sent.extend_from_slice(bytes);
                    replies.extend_from_slice(back);
                }
            }
        }
        Some((sent, replies))
    }
}

/// A compressed message in frames of nearly equal length.
fn in_frames(opcode: u8, payload: &[u8], frames: usize) -> Vec<u8> {
    let part = |n: usize| &payload[payload.len() * n / frames..payload.len() * (n + 1) / frames];
    let first = |n| if n == 0 { opcode | COMPRESSED } else { CONTINUATION };
    let fin = |n| if n + 1 == frames { FIN } else { 0 };
    (0..frames).flat_map(|n| raw(first(n) | fin(n), part(n))).collect()
}

/// Inflates the compressed messages among the frames.
fn inflate(agreed: &Parameters, seen: &mut Seen) -> Result<(), String> {
    let limits = Limits { max_message: 64 << 20, max_fragments: 1 };
    let mut inflater = Inflater::new();
    let mut history =
        (!agreed.server_no_context_takeover).then(|| History::new(agreed.server_max_window_bits));
    for (first, payload) in &mut seen.frames {
        if *first & COMPRESSED == 0 || *first & FIN == 0 {
            continue;
        }
        inflater.begin(MessageKind::Binary, history.as_mut());
        let (mut message, history) = (Vec::new(), history.as_mut());
        let take = |piece: &[u8]| message.extend_from_slice(piece);
        let result =
            inflater.inflate_all(&limits, payload, true, &mut [0; 16 << 10], history, take);
        result.map_err(|error| format!("its echo: {error}"))?;
        (*first, *payload) = (*first & !COMPRESSED, message);
    }
    Ok(())
}

/// Checks that the server opens the WebSocket and declines the offer.
pub(super) fn decline(offer: &str, target: &Target) -> Outcome {
    let Ok(mut stream) = wire::connect(target) else { return no_connection() };
    let field = format!("Sec-WebSocket-Extensions: {offer}\r\n");
    let request = request_with(&target.host, &target.path, &field);
    let Ok(head) = stream.write_all(&request).and_then(|()| read_head(&mut stream)) else {
        return no_connection();
    };
    match check_response(&head, NONCE, &[], None) {
        Ok(_) => (Verdict::Ok, "101".into()),
        Err(error @ ResponseError::Status { .. }) => (Verdict::Lax, error.to_string()),
        Err(error) => (Verdict::Wrong, error.to_string()),
    }
}

pub(super) fn cases() -> Vec<Case> {
    [declined(), echoes(), payloads(), faults(), limits()].concat()
}

fn case(id: &str, sent: &str, section: &'static str, pieces: Vec<Piece>) -> Case {
    let deflated = Deflated { offer: Offer::default(), pieces, codes: &[], is_cut: false };
    Case::deflated(id, sent, section, deflated).on(Variant::Deflate)
}

/// Offers that a server must decline, because a parameter is invalid (RFC 7692 7.1).
fn declined() -> Vec<Case> {
    let offers = [
        ("unknown-parameter", "permessage-deflate; fast"),
        ("repeated", "permessage-deflate; client_max_window_bits; client_max_window_bits"),
        ("unexpected-value", "permessage-deflate; server_no_context_takeover=1"),
        ("missing-value", "permessage-deflate; server_max_window_bits"),
        ("bits-7", "permessage-deflate; server_max_window_bits=7"),
        ("bits-16", "permessage-deflate; client_max_window_bits=16"),
        ("bits-zero", "permessage-deflate; client_max_window_bits=010"),
        ("safari", "x-webkit-deflate-frame"),
    ];
    let case = |(id, offer): (&str, &'static str)| {
        let (id, sent) = (format!("deflate-declined-{id}"), format!("the offer {offer}"));
        Case::declined(id, sent, "RFC 7692 7", offer).on(Variant::Deflate)
    };
    offers.into_iter().map(case).collect()
}

fn message(opcode: u8, message: &[u8]) -> Piece {
    Piece::Message(opcode, message.into(), 1)
}

fn json(len: usize) -> Vec<u8> {
    let record = |n: u64| {
        let value = n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
        format!("{{\"id\":{n},\"name\":\"user-{value}\"}},").into_bytes()
    };
    (0..).flat_map(record).take(len).collect()
}

fn echoes() -> Vec<Case> {
    let mut cases = Vec::new();
    for len in [0, 1, 5, 125, 1000, 65_536, 300_000] {
        let (id, sent) = (format!("deflate-text-{len}"), format!("compressed text of {len} bytes"));
        cases.push(case(&id, &sent, "RFC 7692 7.2", vec![message(TEXT, &json(len))]));
    }
    let several: Vec<Piece> = (0..50).map(|n| message(BINARY, &json(300 + n))).collect();
    let between = vec![
        message(TEXT, &json(400)),
        Piece::Bytes(frame(TEXT, b"plain"), vec![(TEXT, b"plain".to_vec())]),
        message(TEXT, &json(400)),
        Piece::Bytes(frame(PING, b"p"), vec![(PONG, b"p".to_vec())]),
        message(TEXT, &json(400)),
    ];
    let fragments = |frames| vec![Piece::Message(TEXT, json(2000).into(), frames)];
    cases.extend([
        case(
            "deflate-several",
            "50 messages that resemble each other",
            "RFC 7692 7.2.3.2",
            several,
        ),
        case("deflate-between", "messages without compression in between", "RFC 7692 6", between),
        case("deflate-fragments", "a message in 5 frames", "RFC 7692 6.1", fragments(5)),
        case("deflate-fragments-bytes", "a message in 100 frames", "RFC 7692 6.1", fragments(100)),
    ]);
    let offer = Offer::default();
    let cut = Deflated { offer, pieces: fragments(3), codes: &[], is_cut: true };
    let cut = Case::deflated("deflate-bytewise", "byte by byte", "RFC 7692 7.2", cut);
    cases.push(cut.on(Variant::Deflate));
    for bits in 9..=15 {
        let offer = Offer {
            server_max_window_bits: Some(bits),
            client_max_window_bits: Some(bits),
            ..Offer::default()
        };
        let pieces = vec![message(BINARY, &json(40_000)), message(BINARY, &json(40_000))];
        let deflated = Deflated { offer, pieces, codes: &[], is_cut: false };
        let (id, sent) = (format!("deflate-window-{bits}"), format!("windows of {bits} bits"));
        cases.push(Case::deflated(&id, &sent, "RFC 7692 7.1.2", deflated).on(Variant::Deflate));
    }
    cases
}

/// Payloads of other compressors (RFC 7692 7.2.3).
fn payloads() -> Vec<Case> {
    let hello = |id: &str, sent: &str, section, payload: &[u8]| {
        let bytes = raw(FIN | COMPRESSED | TEXT, payload);
        case(id, sent, section, vec![Piece::Bytes(bytes, vec![(TEXT, b"Hello".to_vec())])])
    };
    let empty = Piece::Bytes(raw(FIN | COMPRESSED | TEXT, b"\x00"), vec![(TEXT, Vec::new())]);
    vec![
        hello(
            "deflate-stored",
            "a block without compression",
            "RFC 7692 7.2.3.3",
            b"\x00\x05\x00\xfa\xffHello\x00",
        ),
        hello(
            "deflate-bfinal",
            "a final block",
            "RFC 7692 7.2.3.4",
            b"\xf3\x48\xcd\xc9\xc9\x07\x00\x00",
        ),
        hello(
            "deflate-two-blocks",
            "two blocks",
            "RFC 7692 7.2.3.5",
            b"\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00",
        ),
        hello(
            "deflate-empty-blocks",
            "100 empty blocks in front",
            "RFC 7692 7.2.3.5",
            &[&b"\x00\x00\x00\xff\xff".repeat(100)[..], b"\xf2\x48\xcd\xc9\xc9\x07\x00"].concat(),
        ),
        case("deflate-empty", "an empty message", "RFC 7692 7.2.3.6", vec![empty]),
    ]
}

fn faults() -> Vec<Case> {
    let fault = |id: &str, sent: &str, section, bytes: Vec<u8>, codes| {
        let good = message(TEXT, b"good");
        let pieces = vec![good, Piece::Bytes(bytes, Vec::new())];
        let deflated = Deflated { offer: Offer::default(), pieces, codes, is_cut: false };
        Case::deflated(id, sent, section, deflated).on(Variant::Deflate)
    };
    // The RFC names no code for payloads that are not DEFLATE data.
    const INVALID: &[u16] = &[1007, 1002];
    let compressed = |payload: &[u8]| raw(FIN | COMPRESSED | TEXT, payload);
    let begun = raw(COMPRESSED | TEXT, b"\x00");
    vec![
        fault(
            "deflate-invalid",
            "a block of type 3",
            "RFC 1951 3.2.3",
            compressed(b"\xff\xff\xff"),
            INVALID,
        ),
        fault(
            "deflate-cut",
            "a message that ends within a block",
            "RFC 7692 7.2.2",
            compressed(b"\xf2\x48\xcd"),
            INVALID,
        ),
        fault(
            "deflate-far",
            "a reference to before the first message",
            "RFC 7692 7.2.3.2",
            compressed(b"\x02\x00\x23\xff\xff\x00"),
            INVALID,
        ),
        fault(
            "deflate-utf8",
            "text that is no UTF-8 once inflated",
            "RFC 6455 8.1",
            compressed(b"\x00\x01\x00\xfe\xff\xff\x00"),
            &[1007],
        ),
        fault(
            "deflate-rsv1-continuation",
            "RSV1 on a continuation",
            "RFC 7692 6.1",
            [begun, raw(FIN | COMPRESSED | CONTINUATION, b"\x00")].concat(),
            &[1002],
        ),
        fault(
            "deflate-rsv1-ping",
            "RSV1 on a ping",
            "RFC 7692 6.1",
            raw(FIN | COMPRESSED | PING, b""),
            &[1002],
        ),
        fault(
            "deflate-rsv2",
            "RSV2 on a message",
            "RFC 7692 6",
            raw(FIN | 0x20 | TEXT, b""),
            &[1002],
        ),
    ]
}

/// Against our server with a limit of 1 MiB.
fn limits() -> Vec<Case> {
    let zeros = |len: usize| vec![message(BINARY, &vec![0; len])];
    let mut most =
        case("deflate-limit", "1 MiB of zeros in a kilobyte", "RFC 6455 10.4", zeros(MAX_MESSAGE));
    most.on = Variant::DeflateSmall;
    let bomb = |id: &str, sent: &str, len| {
        let mut payload = BytesMut::new();
        Deflater::new(CompressorSettings::default(), false).deflate(&vec![0; len], &mut payload);
        let pieces = vec![Piece::Bytes(raw(FIN | COMPRESSED | BINARY, &payload), Vec::new())];
        let deflated = Deflated { offer: Offer::default(), pieces, codes: &[1009], is_cut: false };
        Case::deflated(id, sent, "RFC 6455 10.4", deflated).on(Variant::DeflateSmall)
    };
    vec![
        most,
        bomb("deflate-limit-beyond", "one byte more", MAX_MESSAGE + 1),
        bomb("deflate-bomb", "64 MiB of zeros", 64 << 20),
    ]
}
