//! tungstenite as the independent peer, in both roles, over pipes in memory.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::rc::Rc;

use protocol::handshake::HeadLimits;
use protocol::handshake::client::{Request, check_response, find_response};
use protocol::handshake::server::{answer, find_head};
use protocol::{MessageKind, Opcode, Role, encode_close};
use tungstenite::protocol::CloseFrame;
use tungstenite::protocol::frame::Frame;
use tungstenite::protocol::frame::coding::{CloseCode, Data, OpCode};
use tungstenite::{HandshakeError, Message, WebSocket};

use crate::end::End;

/// Socket for tungstenite that would block where there is nothing to read.
#[derive(Clone, Default)]
struct Wire {
    to_them: Rc<RefCell<VecDeque<u8>>>,
    from_them: Rc<RefCell<Vec<u8>>>,
}

impl Wire {
    fn put(&self, bytes: &[u8]) {
        self.to_them.borrow_mut().extend(bytes);
    }

    fn sent(&self) -> Vec<u8> {
        self.from_them.take()
    }
}

impl Read for Wire {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let mut bytes = self.to_them.borrow_mut();
        if bytes.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { bytes.read(buf) }
    }
}

impl Write for Wire {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.from_them.borrow_mut().extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns messages of every length form, text and binary.
fn messages() -> Vec<Message> {
    let mixed = "mixed 日本語 κόσμε 😀 ";
    let mut messages = Vec::new();
    for times in [0, 1, 3, 5, 50, 4000] {
        messages.push(Message::text(mixed.repeat(times)));
        messages.push(Message::binary(vec![0xfe; times * 31]));
    }
    messages
}

fn kind_and_payload(message: &Message) -> (MessageKind, Vec<u8>) {
    let kind = if message.is_text() { MessageKind::Text } else { MessageKind::Binary };
    (kind, message.clone().into_data().into())
}

fn their_client() -> (WebSocket<Wire>, Wire) {
    let limits = HeadLimits::default();
    let wire = Wire::default();
    let Err(HandshakeError::Interrupted(waiting)) =
        tungstenite::client("ws://localhost:9001/echo?x=1", wire.clone())
    else {
        panic!("the client must wait for the response");
    };
    let request = wire.sent();
    let end = find_head(&request, &mut 0, &limits).unwrap();
    assert_eq!(end, Some(request.len()));
    let accepted = answer(&request, &limits).unwrap();
    assert_eq!((accepted.target(), accepted.host()), ("/echo?x=1", "localhost:9001"));
    wire.put(accepted.response());
    let (websocket, _) = waiting.handshake().expect("the client takes our 101");
    (websocket, wire)
}

fn their_server() -> (WebSocket<Wire>, Wire) {
    let wire = Wire::default();
    let Err(HandshakeError::Interrupted(waiting)) = tungstenite::accept(wire.clone()) else {
        panic!("the server must wait for the request");
    };
    let nonce = [0x5a; 16];
    let request = Request {
        host: "localhost",
        target: "/",
        nonce,
        origin: None,
        subprotocols: &[],
        deflate: None,
        headers: &[],
    };
    let mut bytes = Vec::new();
    request.encode(&mut bytes);
    wire.put(&bytes);
    let websocket = waiting.handshake().expect("the server takes our request");
    let response = wire.sent();
    let end = find_response(&response, &mut 0, &HeadLimits::default()).unwrap();
    assert_eq!(end, Some(response.len()));
    check_response(&response, &nonce, &[], None).unwrap();
    (websocket, wire)
}

#[test]
fn our_server_with_their_client() {
    let (mut theirs, wire) = their_client();
    let mut ours = End::new(Role::Server);
    for (i, message) in messages().into_iter().enumerate() {
        theirs.send(message.clone()).unwrap();
        let mut reply = Vec::new();
        for piece in wire.sent().chunks_mut(i * 1000 + 5) {
            ours.read(piece, &mut reply);
        }
        let (kind, payload) = ours.received.pop().expect("the message has arrived");
        assert!((kind, &payload) == (kind_and_payload(&message).0, &kind_and_payload(&message).1));
        ours.send(kind, &payload, 777, &mut reply);
        wire.put(&reply);
        assert!(theirs.read().unwrap() == message);
    }
}

#[test]
fn our_client_with_their_server() {
    let (mut theirs, wire) = their_server();
    let mut ours = End::new(Role::Client);
    for (i, message) in messages().into_iter().enumerate() {
        let (kind, payload) = kind_and_payload(&message);
        let mut bytes = Vec::new();
        ours.send(kind, &payload, 777, &mut bytes);
        wire.put(&bytes);
        assert!(theirs.read().unwrap() == message);
        theirs.send(message).unwrap();
        for piece in wire.sent().chunks_mut(i * 1000 + 5) {
            ours.read(piece, &mut bytes);
        }
        assert!(ours.received.pop() == Some((kind, payload)));
    }
}

#[test]
fn their_fragments_and_pings_reach_our_server() {
    let (mut theirs, wire) = their_client();
    let mut ours = End::new(Role::Server);
    let part = |payload: &'static [u8], opcode, last| {
        Message::Frame(Frame::message(payload, OpCode::Data(opcode), last))
    };
    theirs.send(part(b"\xe6\x97", Data::Text, false)).unwrap();
    theirs.send(Message::Ping("are you there".into())).unwrap();
    theirs.send(part(b"", Data::Continue, false)).unwrap();
    theirs.send(part(b"\xa5", Data::Continue, true)).unwrap();
    let mut reply = Vec::new();
    ours.read(&mut wire.sent(), &mut reply);
    assert_eq!(ours.received, [(MessageKind::Text, "日".into())]);
    wire.put(&reply);
    assert_eq!(theirs.read().unwrap(), Message::Pong("are you there".into()));
}

#[test]
fn our_ping_is_answered_by_their_server() {
    let (mut theirs, wire) = their_server();
    let mut ours = End::new(Role::Client);
    let mut bytes = Vec::new();
    ours.control(Opcode::Ping, b"\x00\xff", &mut bytes);
    wire.put(&bytes);
    assert_eq!(theirs.read().unwrap(), Message::Ping(vec![0, 255].into()));
    theirs.flush().unwrap();
    ours.read(&mut wire.sent(), &mut bytes);
    assert_eq!(ours.pongs, [b"\x00\xff"]);
}

#[test]
fn their_client_closes_and_accepts_our_answer() {
    let (mut theirs, wire) = their_client();
    let mut ours = End::new(Role::Server);
    let frame = CloseFrame { code: CloseCode::Library(4001), reason: "enough".into() };
    theirs.close(Some(frame.clone())).unwrap();
    let mut reply = Vec::new();
    ours.read(&mut wire.sent(), &mut reply);
    assert_eq!(ours.closed, Some(Some(4001)));
    wire.put(&reply);
    assert_eq!(theirs.read().unwrap(), Message::Close(Some(frame)));
}

#[test]
fn our_client_closes_and_accepts_their_answer() {
    let (mut theirs, wire) = their_server();
    let mut ours = End::new(Role::Client);
    let mut frame = [0; 131];
    let len = encode_close(Some(1001), "going", ours.key(), &mut frame);
    wire.put(&frame[..len]);
    let expected = CloseFrame { code: CloseCode::Away, reason: "going".into() };
    assert_eq!(theirs.read().unwrap(), Message::Close(Some(expected)));
    theirs.flush().ok();
    ours.read(&mut wire.sent(), &mut Vec::new());
    assert_eq!(ours.closed, Some(Some(1001)));
}
