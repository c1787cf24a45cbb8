//! This project's client and server, joined in memory: handshake, echo, close.

use protocol::handshake::HeadLimits;
use protocol::handshake::client::{Request, check_response, find_response};
use protocol::handshake::server::{answer, find_head};
use protocol::{MessageKind, Opcode, Role, encode_close};

use crate::end::{End, carry};

#[test]
fn handshake_of_both_ends_agrees_byte_by_byte() {
    let limits = HeadLimits::default();
    let nonce = *b"the sample nonce";
    let request = Request {
        host: "server.example.com:9001",
        target: "/chat?room=1",
        nonce,
        origin: Some("http://example.com"),
        subprotocols: &["chat", "superchat"],
        deflate: None,
        headers: &[("User-Agent", "test")],
    };
    request.check().unwrap();
    let mut bytes = Vec::new();
    request.encode(&mut bytes);
    bytes.extend_from_slice(b"\x81\x80frames in the same segment");

    let mut scanned = 0;
    let end =
        (0..=bytes.len()).find_map(|len| find_head(&bytes[..len], &mut scanned, &limits).unwrap());
    let accepted = answer(&bytes[..end.unwrap()], &limits).unwrap();
    assert_eq!(bytes[end.unwrap()..], b"\x81\x80frames in the same segment"[..]);
    assert_eq!(accepted.target(), "/chat?room=1");
    assert_eq!(accepted.host(), "server.example.com:9001");
    assert_eq!(accepted.origin(), Some("http://example.com"));

    let response = [accepted.response(), b"\x81\x00"].concat();
    scanned = 0;
    let end = (0..=response.len())
        .find_map(|len| find_response(&response[..len], &mut scanned, &limits).unwrap());
    assert_eq!(end, Some(accepted.response().len()));
    check_response(accepted.response(), &nonce, request.subprotocols, None).unwrap();
}

#[test]
fn messages_pings_and_close_pass_in_both_directions() {
    let text = "mixed 日本語 κόσμε 😀 ".repeat(3000);
    for piece in [1, 7, 1000, usize::MAX] {
        let (mut client, mut server) = (End::new(Role::Client), End::new(Role::Server));
        let mut to_server = Vec::new();
        client.send(MessageKind::Text, text.as_bytes(), usize::MAX, &mut to_server);
        client.control(Opcode::Ping, b"are you there", &mut to_server);
        client.send(MessageKind::Binary, text.as_bytes(), 1000, &mut to_server);
        client.send(MessageKind::Text, b"", 1, &mut to_server);
        carry(&mut client, &mut server, to_server, piece);
        let expected = [
            (MessageKind::Text, text.clone().into_bytes()),
            (MessageKind::Binary, text.clone().into_bytes()),
            (MessageKind::Text, vec![]),
        ];
        assert!(server.received == expected, "in pieces of {piece}");
        assert_eq!(client.pongs, [b"are you there"]);

        let mut to_client = Vec::new();
        server.send(MessageKind::Text, text.as_bytes(), 333, &mut to_client);
        let mut to_server = Vec::new();
        for part in to_client.chunks_mut(piece) {
            client.read(part, &mut to_server);
        }
        assert!(client.received == [(MessageKind::Text, text.clone().into_bytes())]);
        assert_eq!(to_server, b"");

        let mut close = [0; 131];
        let len = encode_close(Some(1000), "done", client.key(), &mut close);
        carry(&mut client, &mut server, close[..len].to_vec(), piece);
        assert_eq!((client.closed, server.closed), (Some(Some(1000)), Some(Some(1000))));
        assert!(client.connection.is_closed() && server.connection.is_closed());
    }
}
