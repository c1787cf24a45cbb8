//! `Tls` between a simulated engine and rustls' own buffered client: its input, its output, its
//! ends.
//!
//! `engines/tls.rs` tests it over sockets and every engine.

mod ends;

use engine::rustls::version::{TLS12, TLS13};
use engine::{CloseMode, Nanos};
use proptest::prelude::*;

use crate::ends::{Far, NOT_TLS, Near, Told, VERSIONS, secured, secured_by, server_of_few_records};

#[test]
fn events_reach_the_handler_in_order() {
    for version in VERSIONS {
        let (mut near, mut far) = secured(version);
        near.receive(&far.records([&b"hello"[..]]));
        assert_eq!(far.take(&mut near).expect("an echo"), b"hello");
        assert_eq!(near.told(), [Told::Opened, Told::Secured, Told::Received(b"hello".to_vec())]);
        assert_eq!(near.end().last(), Some(&Told::Closed("PeerClosed".to_owned())));
    }
}

/// The client's whole side of a connection is cut in two at each possible place, and byte by byte.
#[test]
fn every_cut_gives_the_same_events() {
    for version in VERSIONS {
        let byte_by_byte =
            |near: &mut Near, wire: &[u8]| wire.chunks(1).for_each(|byte| near.receive(byte));
        let (mut near, mut far, _) = secured_by(version, Near::new(), byte_by_byte);
        let wire = far.records([&b"first"[..], b"second"]);
        byte_by_byte(&mut near, &wire);
        assert_eq!(near.heard(), b"firstsecond");
        assert_eq!(far.take(&mut near).expect("echoes"), b"firstsecond");

        let longest = wire.len().max(600);
        for at in 1..longest {
            let cut = |near: &mut Near, wire: &[u8]| {
                let at = at.min(wire.len());
                near.receive(&wire[..at]);
                near.receive(&wire[at..]);
            };
            let (mut near, mut far, _) = secured_by(version, Near::new(), cut);
            cut(&mut near, &far.records([&b"first"[..], b"second"]));
            assert_eq!(near.heard(), b"firstsecond", "cut at {at}");
            assert_eq!(far.take(&mut near).expect("echoes"), b"firstsecond", "cut at {at}");
        }
    }
}

#[test]
fn sizes_from_one_byte_to_many_records() {
    for version in VERSIONS {
        let (mut near, mut far) = secured(version);
        for len in [1, 100, 16_383, 16_384, 16_385, 65_536, 1 << 20] {
            let bytes: Vec<u8> = (0..len).map(|n| (n % 251) as u8).collect();
            // The library's own buffer takes 64 KiB at a time.
            for piece in bytes.chunks(60_000) {
                let wire = far.records([piece]);
                for read in wire.chunks(50_000) {
                    near.receive(read);
                }
                assert_eq!(far.take(&mut near).expect("an echo"), piece, "{len} bytes");
            }
        }
    }
}

/// One read is one call of the handler, and its whole output in that call is one record.
#[test]
fn many_records_in_one_read_are_one_call_and_one_record() {
    let (mut near, mut far) = secured(&TLS13);
    let pieces: Vec<Vec<u8>> = (0..50u8).map(|n| vec![n; 7]).collect();
    near.receive(&far.records(pieces.iter().map(Vec::as_slice)));
    assert_eq!(near.told()[2..], [Told::Received(pieces.concat())]);
    let length = usize::from(u16::from_be_bytes([near.wire[3], near.wire[4]]));
    assert_eq!(near.wire.len(), 5 + length, "more than one record");
    assert_eq!(far.take(&mut near).expect("an echo"), pieces.concat());
}

/// Sizes below and above each limit: pieces that are joined, a record, the arena.
const PIECES: [usize; 9] = [3, 9000, 1, 1, 20_000, (3 << 20) + 1, 8191, 8192, 5];

#[test]
fn pieces_of_every_size_keep_their_order() {
    let besides = |told: &Told, out: &mut engine::Output<'_>| {
        if let Told::Received(_) = told {
            for (n, len) in PIECES.into_iter().enumerate() {
                let mut buffer = out.buffer();
                buffer.resize(len, n as u8);
                if n % 2 == 0 { out.give(buffer) } else { out.append(&buffer) }
            }
        }
    };
    let (mut near, mut far, _) = secured_by(&TLS13, Near::with(besides), Near::receive);
    near.receive(&far.records([&b"?"[..]]));
    let mut wanted = b"?".to_vec();
    for (n, len) in PIECES.into_iter().enumerate() {
        wanted.resize(wanted.len() + len, n as u8);
    }
    assert_eq!(far.take(&mut near).expect("pieces"), wanted);
}

#[test]
fn used_up_keys_are_updated_in_tls_1_3() {
    let near = Near::of(server_of_few_records(20), |_, _| {});
    let (mut near, mut far, _) = secured_by(&TLS13, near, Near::receive);
    // Ten times as many records as one key may encrypt, alone and several in a call.
    for round in 0..100u8 {
        let sent = vec![round; if round % 10 == 0 { 50_000 } else { 10 }];
        near.receive(&far.records([&sent[..]]));
        assert!(far.take(&mut near).expect("an echo") == sent, "round {round}");
    }
    assert_eq!(near.commands.close, None);
}

#[test]
fn used_up_keys_end_a_tls_1_2_connection() {
    let near = Near::of(server_of_few_records(20), |_, _| {});
    let (mut near, mut far, _) = secured_by(&TLS12, near, Near::receive);
    let mut echoes = 0;
    while near.commands.close.is_none() {
        assert!(echoes < 20, "more records than are safe");
        near.receive(&far.records([&b"hello"[..]]));
        echoes += usize::from(far.take(&mut near).expect("an echo or the end") == b"hello");
    }
    // The messages before are complete, and the end is announced.
    assert!(echoes > 10 && near.commands.close == Some(CloseMode::Flush));
    assert!(far.0.process_new_packets().expect("no fault").peer_has_closed());
    let told = near.end();
    assert!(
        matches!(told.last(), Some(Told::Closed(cause)) if cause.contains("KeysExhausted")),
        "{:?}",
        told.last()
    );
}

/// The peer answers a close_notify, so its last bytes are still to come.
#[test]
fn a_finish_waits_for_the_peers_close_notify() {
    for version in VERSIONS {
        let besides = |told: &Told, out: &mut engine::Output<'_>| {
            if let Told::Secured = told {
                out.append(b"over");
                out.close(CloseMode::Finish);
            }
        };
        let (near, mut far, plain) = secured_by(version, Near::with(besides), Near::receive);
        assert_eq!((plain, near.commands.close), (b"over".to_vec(), Some(CloseMode::Flush)));
        assert!(far.0.process_new_packets().expect("state").peer_has_closed(), "no close_notify");
    }
}

#[test]
fn early_output_waits_for_the_handshake() {
    let besides = |told: &Told, out: &mut engine::Output<'_>| match told {
        Told::Opened => {
            out.append(b"welcome ");
            assert_eq!(out.unsent(), 8);
            out.set_deadline(Some(Nanos(5)));
        }
        Told::Secured => out.append(b"to TLS"),
        _ => {}
    };
    let near = Near::with(besides);
    assert!(near.wire.is_empty(), "plaintext before the handshake");
    assert_eq!(near.commands.deadline, Some(Some(Nanos(5))), "the deadline does not wait");
    let (_, _, plain) = secured_by(&TLS13, near, Near::receive);
    assert_eq!(plain, b"welcome to TLS");
}

/// A server at its limit reports that, and reports it in TLS.
#[test]
fn a_close_before_the_handshake_has_its_reason() {
    let full = |told: &Told, out: &mut engine::Output<'_>| {
        if let Told::Opened = told {
            out.append(b"full");
            out.close(CloseMode::Flush);
        }
    };
    for version in VERSIONS {
        let near = Near::with(full);
        assert_eq!(near.commands.close, None, "closed before anything could be said");
        let (near, mut far, plain) = secured_by(version, near, Near::receive);
        assert_eq!((plain, near.commands.close), (b"full".to_vec(), Some(CloseMode::Flush)));
        assert!(far.0.process_new_packets().expect("state").peer_has_closed(), "no close_notify");
        assert_eq!(near.told(), [Told::Opened], "a call after the close");
    }
    // A client that does not shake hands is not waited for.
    let mut near = Near::with(full);
    assert!(near.commands.deadline.flatten().is_some(), "nothing ends the wait");
    near.deadline();
    assert_eq!(near.commands.close, Some(CloseMode::Abort));
    assert_eq!(near.told(), [Told::Opened]);
}

#[test]
fn the_deadline_ends_an_endless_handshake() {
    let mut near = Near::new();
    let hello = Far::new(&TLS13).flight();
    near.receive(&hello[..hello.len() / 2]);
    near.deadline();
    assert_eq!(near.commands.close, Some(CloseMode::Abort));
    assert_eq!(near.told(), [Told::Opened, Told::Deadline]);
}

#[test]
fn close_notify_goes_both_ways() {
    for version in VERSIONS {
        let (mut near, mut far) = secured(version);
        let mut wire = far.records([&b"last"[..]]);
        far.0.send_close_notify();
        wire.extend(far.flight());
        // Bytes after the close_notify are ignored.
        wire.extend([0; 40]);
        near.receive(&wire);
        assert_eq!(near.told()[2..], [Told::Received(b"last".to_vec()), Told::Eof]);
        assert_eq!(near.commands.close, Some(CloseMode::Flush));
        assert_eq!(far.take(&mut near).expect("an echo"), b"last");
        assert!(far.0.process_new_packets().expect("state").peer_has_closed(), "no close_notify");
        assert_eq!(near.end().last(), Some(&Told::Closed("PeerClosed".to_owned())));
    }
}

/// A FIN without close_notify: complete records count, an incomplete one does not.
#[test]
fn a_truncated_record_is_dropped() {
    let (mut near, mut far) = secured(&TLS13);
    let wire = far.records([&b"whole"[..], b"cut off"]);
    near.receive(&wire[..wire.len() - 1]);
    near.eof();
    assert_eq!(near.told()[2..], [Told::Received(b"whole".to_vec()), Told::Eof]);
}

#[test]
fn an_end_in_the_handshake_is_reported() {
    let mut near = Near::new();
    near.receive(&Far::new(&TLS13).flight());
    near.eof();
    let told = near.end();
    assert_eq!(told, [Told::Opened, Told::Closed("Layer(Unfinished)".to_owned())]);
}

#[test]
fn a_plain_client_gets_an_answer() {
    let mut near = Near::new();
    near.receive(b"GET / HTTP/1.1\r\n\r\n");
    assert_eq!((&near.wire[..], near.commands.close), (NOT_TLS, Some(CloseMode::Flush)));
    assert_eq!(near.end(), [Told::Opened, Told::Closed("Layer(NotTls)".to_owned())]);
}

/// Whatever the fault, the alert is sent first (RFC 8446 6.2).
#[test]
fn a_changed_byte_causes_an_alert_and_the_end() {
    for version in VERSIONS {
        for at in [5usize, 10, 20] {
            let (mut near, mut far) = secured(version);
            let mut wire = far.records([&b"genuine"[..]]);
            wire[at] ^= 1;
            near.receive(&wire);
            assert_eq!(near.commands.close, Some(CloseMode::Flush));
            let error = far.take(&mut near).expect_err("an alert");
            assert!(matches!(error, engine::rustls::Error::AlertReceived(_)), "{error}");
            assert_eq!(near.told().len(), 2, "unauthenticated bytes");
            assert!(
                matches!(near.end().last(), Some(Told::Closed(cause)) if cause.contains("DecryptError"))
            );
        }
    }
}

#[test]
fn a_client_may_update_its_keys() {
    let (mut near, mut far) = secured(&TLS13);
    for round in 0..3u8 {
        far.0.refresh_traffic_keys().expect("a key update");
        let wire = far.records([&[round; 9][..]]);
        wire.chunks(7).for_each(|piece| near.receive(piece));
        assert_eq!(far.take(&mut near).expect("an echo"), [round; 9]);
    }
}

/// A message that came while the handler had paused its reads is not reported late either: pausing
/// is the engine's task.
#[test]
fn pauses_wait_for_the_handshake() {
    let besides = |told: &Told, out: &mut engine::Output<'_>| {
        if let Told::Opened = told {
            out.pause();
        }
    };
    let near = Near::with(besides);
    assert_eq!(near.commands.pause, None, "a handshake that is not read");
    let (near, ..) = secured_by(&TLS13, near, Near::receive);
    assert_eq!(near.commands.pause, Some(true));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Arbitrary bytes cause no panic and yield no plaintext, and an end has a cause.
    #[test]
    fn arbitrary_bytes_secure_nothing(mut reads in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..400), 1..6), record in any::<bool>()) {
        if record {
            // A header that is valid, so that the rest is examined.
            let len = (reads[0].len() as u16).to_be_bytes();
            reads[0].splice(0..0, [22, 3, 1, len[0], len[1]]);
        }
        let mut near = Near::new();
        reads.iter().for_each(|read| near.receive(read));
        near.eof();
        prop_assert!(near.heard().is_empty());
        let told = near.end();
        prop_assert!(matches!(told.last(), Some(Told::Closed(cause)) if cause.starts_with("Layer(")), "{told:?}");
    }

    /// Bytes are inserted into a genuine connection: the handler receives a prefix of what was
    /// sent.
    #[test]
    fn damaged_records_yield_no_plaintext(
        at in any::<prop::sample::Index>(), with in any::<u8>(), cut in 1..200usize, in_handshake in any::<bool>(),
    ) {
        let mut near = Near::new();
        let mut far = Far::new(&TLS13);
        let damage = |wire: &mut Vec<u8>| if !wire.is_empty() { let at = at.index(wire.len()); wire[at] ^= with; };
        for _ in 0..3 {
            let mut flight = far.flight();
            if in_handshake { damage(&mut flight); }
            flight.chunks(cut).for_each(|piece| near.receive(piece));
            if far.take(&mut near).is_err() { return Ok(()); }
        }
        if far.0.is_handshaking() { return Ok(()); }
        let mut wire = far.records([&b"one"[..], b"two", b"three"]);
        damage(&mut wire);
        wire.chunks(cut).for_each(|piece| near.receive(piece));
        prop_assert!(b"onetwothree".starts_with(&near.heard()[..]), "{:?}", near.heard());
    }
}
