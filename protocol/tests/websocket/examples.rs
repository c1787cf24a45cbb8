//! The RFC's examples, and further valid traffic.

use protocol::{
    Connection, Event, Header, Limits, MaskingKey, Opcode, Role, client_header_len, encode_close,
    encode_control, server_header_len, write_server_header_before,
};

use crate::frames::{FIN, KEY, frame, masked, plain};
use crate::reader::{Seen, binary, client_reads, server_reads, text};

#[test]
fn reads_unmasked_text_of_rfc6455_5_7() {
    assert_eq!(client_reads(&[0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]), [text("Hello")]);
}

#[test]
fn reads_masked_text_of_rfc6455_5_7() {
    let bytes = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(server_reads(&bytes), [text("Hello")]);
}

#[test]
fn reads_fragmented_unmasked_text_of_rfc6455_5_7() {
    let bytes = [0x01, 0x03, 0x48, 0x65, 0x6c, 0x80, 0x02, 0x6c, 0x6f];
    assert_eq!(client_reads(&bytes), [text("Hello")]);
}

#[test]
fn reads_unmasked_ping_and_masked_pong_of_rfc6455_5_7() {
    let ping = [0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f];
    assert_eq!(client_reads(&ping), [Seen::Ping(b"Hello".into())]);
    let pong = [0x8a, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
    assert_eq!(server_reads(&pong), [Seen::Pong(b"Hello".into())]);
}

#[test]
fn reads_binary_of_256_bytes_and_64_kib_of_rfc6455_5_7() {
    let payload: Vec<u8> = (0..=255).cycle().take(65_536).collect();
    let short = [&[0x82, 0x7e, 0x01, 0x00][..], &payload[..256]].concat();
    assert_eq!(client_reads(&short), [binary(&payload[..256])]);
    let long = [&[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0][..], &payload].concat();
    assert_eq!(client_reads(&long), [binary(&payload)]);
}

#[test]
fn reads_lengths_around_every_form_of_the_length() {
    for len in [0, 1, 7, 8, 125, 126, 127, 4095, 4097, 65_535, 65_536] {
        let payload: Vec<u8> = (0..len).map(|i| b'a' + (i % 26) as u8).collect();
        assert_eq!(server_reads(&masked(FIN | 2, &payload)), [binary(&payload)]);
        let content = String::from_utf8(payload.clone()).unwrap();
        assert_eq!(client_reads(&plain(FIN | 1, &payload)), [text(&content)]);
    }
}

#[test]
fn reads_empty_messages_and_empty_fragments() {
    assert_eq!(server_reads(&masked(FIN | 1, b"")), [text("")]);
    let fragments =
        [masked(2, b""), masked(0, b""), masked(0, b"x"), masked(0, b""), masked(FIN, b"")];
    assert_eq!(server_reads(&fragments.concat()), [binary(b"x")]);
}

#[test]
fn reads_control_frames_between_fragments() {
    let bytes = [
        masked(1, b"Hel"),
        masked(FIN | 9, b"one"),
        masked(FIN | 10, b""),
        masked(0, b""),
        masked(FIN | 9, &[0xff; 125]),
        masked(FIN, b"lo"),
    ];
    let expected = [
        Seen::Ping(b"one".into()),
        Seen::Pong(b"".into()),
        Seen::Ping([0xff; 125].into()),
        text("Hello"),
    ];
    assert_eq!(server_reads(&bytes.concat()), expected);
}

#[test]
fn reads_characters_cut_by_fragments_and_control_frames() {
    let content = "κόσμε 日本語 😀".as_bytes();
    let last = content.len() - 1;
    let mut bytes = masked(1, &content[..1]);
    for at in 1..last {
        bytes.extend(masked(FIN | 9, b"?"));
        bytes.extend(masked(0, &content[at..=at]));
    }
    bytes.extend(masked(FIN, &content[last..]));
    let seen = server_reads(&bytes);
    assert_eq!(seen.last(), Some(&text("κόσμε 日本語 😀")));
    assert_eq!(seen.len(), last);
}

#[test]
fn reads_long_text_with_characters_across_every_block() {
    let content = "日本語 κόσμε 😀 plain ".repeat(700);
    assert!(content.len() > 5 * 4096);
    for lead in ["", "x", "xy", "xyz"] {
        let content = format!("{lead}{content}");
        assert_eq!(server_reads(&masked(FIN | 1, content.as_bytes())), [text(&content)]);
    }
}

#[test]
fn reads_a_frame_with_a_key_of_zeros() {
    let bytes = frame(FIN | 1, b"visible", Some([0; 4]));
    assert_eq!(server_reads(&bytes), [text("visible")]);
}

#[test]
fn discards_input_after_a_close_with_or_without_code() {
    let follows = [masked(FIN | 1, b"late"), vec![0xff; 40]].concat();
    let empty = [masked(FIN | 8, b""), follows.clone()].concat();
    assert_eq!(server_reads(&empty), [Seen::Close(None, String::new())]);
    let bye = [masked(FIN | 1, b"hi"), masked(FIN | 8, b"\x0f\xa0bye"), follows].concat();
    assert_eq!(server_reads(&bye), [text("hi"), Seen::Close(Some(4000), "bye".into())]);
}

#[test]
fn reads_a_close_between_fragments() {
    let bytes = [masked(1, b"never ends"), masked(FIN | 8, b"\x03\xe8")].concat();
    assert_eq!(server_reads(&bytes), [Seen::Close(Some(1000), String::new())]);
}

#[test]
fn reads_many_frames_in_one_input() {
    let bytes: Vec<u8> =
        (0..200u8).flat_map(|i| masked(FIN | 2, &vec![i; usize::from(i)])).collect();
    let expected: Vec<Seen> = (0..200u8).map(|i| binary(&vec![i; usize::from(i)])).collect();
    assert_eq!(server_reads(&bytes), expected);
}

#[test]
fn several_frames_become_their_echoes_in_place() {
    let messages = ["first", &"second ".repeat(40), "", "日本語", &"x".repeat(70_000)];
    let mut input: Vec<u8> =
        messages.iter().flat_map(|message| masked(FIN | 1, message.as_bytes())).collect();
    let expected: Vec<u8> =
        messages.iter().flat_map(|message| plain(FIN | 1, message.as_bytes())).collect();

    let mut connection = Connection::new(Role::Server);
    let (mut at, mut end, mut start) = (0, 0, None);
    while let Some(event) = connection.next(&Limits::default(), &mut input, &mut at).unwrap() {
        let Event::Data(chunk) = event else { panic!("{event:?}") };
        assert!(chunk.is_whole());
        let header_len = server_header_len(chunk.payload.len() as u64);
        let to = if start.is_none() { chunk.payload.start } else { end + header_len };
        let payload = connection.unmask_shift(chunk, &mut input, to).unwrap();
        let echo =
            write_server_header_before(&mut input, payload.start, Opcode::Text, payload.len());
        start.get_or_insert(echo);
        end = payload.end;
    }
    assert!(connection.is_between_messages());
    assert_eq!(input[start.unwrap()..end], expected);
}

#[test]
fn chunk_is_not_whole_when_its_header_came_earlier() {
    let bytes = masked(FIN | 2, b"0123456789");
    for cut in 1..bytes.len() {
        let mut connection = Connection::new(Role::Server);
        for (i, piece) in [&bytes[..cut], &bytes[cut..]].into_iter().enumerate() {
            let (mut input, mut at) = (piece.to_vec(), 0);
            while let Some(event) =
                connection.next(&Limits::default(), &mut input, &mut at).unwrap()
            {
                let Event::Data(chunk) = event else { panic!("{event:?}") };
                assert!(!chunk.is_whole(), "cut at {cut}");
                connection.skip(chunk);
            }
            assert_eq!(connection.is_between_messages(), i == 1, "cut at {cut}");
        }
    }
}

#[test]
fn skipped_chunks_are_neither_unmasked_nor_validated() {
    let mut bytes = [plain(1, b"\xff\xfe"), plain(FIN, b"\xce"), plain(FIN | 1, b"ok")].concat();
    let mut connection = Connection::new(Role::Client);
    let mut at = 0;
    let mut lengths = Vec::new();
    while let Some(Event::Data(chunk)) =
        connection.next(&Limits::default(), &mut bytes, &mut at).unwrap()
    {
        lengths.push(chunk.payload.len());
        match lengths.len() {
            // The rest of a message whose beginning was skipped cannot be validated.
            2 => assert!(connection.unmask_in_place(chunk, &mut bytes).is_ok()),
            _ => connection.skip(chunk),
        }
    }
    assert_eq!(lengths, [2, 1, 2]);

    let mut invalid = plain(FIN | 1, b"\xff");
    at = 0;
    let Ok(Some(Event::Data(chunk))) = connection.next(&Limits::default(), &mut invalid, &mut at)
    else {
        panic!("a message was expected");
    };
    assert!(
        connection.unmask_in_place(chunk, &mut invalid).is_err(),
        "the next message is validated again"
    );
}

#[test]
fn header_encodes_and_parses_every_shape() {
    let masks = [None, Some(MaskingKey::from_bytes(KEY))];
    for payload_len in [0, 1, 125, 126, 127, 65_535, 65_536, (1 << 63) - 1] {
        for mask in masks {
            for (fin, rsv, opcode) in [
                (true, 0, Opcode::Text),
                (false, 4, Opcode::Binary),
                (true, 7, Opcode::Continuation),
            ] {
                let header = Header { fin, rsv, opcode, mask, payload_len };
                let mut out = [0; Header::MAX_LEN];
                let len = header.encode(&mut out);
                assert_eq!(len, header.encoded_len());
                let expected = if mask.is_some() {
                    client_header_len(payload_len)
                } else {
                    server_header_len(payload_len)
                };
                assert_eq!(len, expected);
                assert_eq!(Header::parse(&out).unwrap(), Some((header, len)));
                for cut in 0..len {
                    assert_eq!(
                        Header::parse(&out[..cut]).unwrap(),
                        None,
                        "{header:?} cut at {cut}"
                    );
                }
            }
        }
    }
}

#[test]
fn server_header_before_ends_where_the_payload_starts() {
    for len in [0, 5, 125, 126, 65_535, 65_536] {
        let payload = vec![b'p'; len];
        let mut buf = [&[0xee; 14][..], &payload].concat();
        let start = write_server_header_before(&mut buf, 14, Opcode::Binary, len);
        assert_eq!(buf[start..], plain(FIN | 2, &payload));
        assert!(
            buf[..start].iter().all(|&byte| byte == 0xee),
            "nothing before the header is touched"
        );
    }
}

#[test]
fn control_frames_are_encoded_as_rfc6455_draws_them() {
    let mut out = [0; 131];
    for len in [0, 1, 124, 125] {
        let payload = vec![b'?'; len];
        let end = encode_control(Opcode::Ping, &payload, None, &mut out);
        assert_eq!(out[..end], plain(FIN | 9, &payload));
        let end =
            encode_control(Opcode::Pong, &payload, Some(MaskingKey::from_bytes(KEY)), &mut out);
        assert_eq!(out[..end], masked(FIN | 10, &payload));
    }
}

#[test]
fn long_close_reasons_are_cut_at_a_character() {
    let mut out = [0; 131];
    let end = encode_close(None, "a reason cannot stand alone", None, &mut out);
    assert_eq!(out[..end], plain(FIN | 8, b""));
    let end = encode_close(Some(1001), "bye", Some(MaskingKey::from_bytes(KEY)), &mut out);
    assert_eq!(out[..end], masked(FIN | 8, b"\x03\xe9bye"));
    let long = "日".repeat(60);
    let end = encode_close(Some(1000), &long, None, &mut out);
    assert_eq!(client_reads(&out[..end]), [Seen::Close(Some(1000), "日".repeat(41))]);
}

#[test]
#[should_panic(expected = "126 bytes in a control frame")]
fn control_payload_beyond_125_bytes_panics() {
    encode_control(Opcode::Ping, &[0; 126], None, &mut [0; 131]);
}
