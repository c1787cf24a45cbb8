//! Control frames while messages wait: the server reads slowly, and the pipeline is full.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use engine::EngineKind;
use loadgen::run::{Silent, execute};
use loadgen::target::trust::Trust;
use protocol::handshake::{HeadLimits, server as handshake};
use protocol::{Header, Opcode};
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::{engines, plan};

/// Sizes of messages and depths: more than any buffer of the kernel, in messages of all kinds.
const LOADS: [(usize, u32); 4] = [(2 << 20, 8), (300_000, 64), (64 << 10, 256), (5_000, 4_000)];

/// Reads one frame; returns its opcode.
fn read_frame(stream: &mut impl Read, head: &mut Vec<u8>) -> io::Result<Opcode> {
    let header = loop {
        if let Some((header, _)) = Header::parse(head).map_err(io::Error::other)? {
            break header;
        }
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    };
    head.clear();
    io::copy(&mut stream.take(header.payload_len), &mut io::sink())?;
    Ok(header.opcode)
}

/// Answers the opening handshake, waits for the first byte of the first message, and then sends
/// `frame`. Returns the number of messages before the answer with opcode `answer`, and the rest of
/// the stream after it where it is a Close.
fn messages_before(
    stream: &mut (impl Read + Write),
    frame: &[u8],
    answer: Opcode,
) -> io::Result<(u32, u64)> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let accepted = handshake::answer(&head, &HeadLimits::default()).map_err(io::Error::other)?;
    stream.write_all(accepted.response())?;
    let mut first = [0];
    stream.read_exact(&mut first)?;
    stream.write_all(frame)?;
    stream.flush()?;
    let (mut head, mut messages) = (first.to_vec(), 0);
    loop {
        match read_frame(stream, &mut head)? {
            Opcode::Text | Opcode::Binary => messages += 1,
            opcode if opcode == answer => break,
            _ => {}
        }
    }
    let rest = if answer == Opcode::Close { bytes_until_the_end(stream) } else { 0 };
    Ok((messages, rest))
}

/// Returns the number of bytes until the stream ends, even with an error: a reset does not unsend
/// them.
fn bytes_until_the_end(stream: &mut impl Read) -> u64 {
    let (mut buffer, mut bytes) = ([0; 4096], 0);
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return bytes,
            Ok(read) => bytes += read as u64,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return bytes,
        }
    }
}

fn identity() -> Arc<ServerConfig> {
    let certified =
        rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(certified.signing_key.serialize_der()).expect("a key");
    let chain = vec![certified.cert.der().clone()];
    Arc::new(
        ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .expect("its key"),
    )
}

/// Has a generator with one connection send `depth` messages of `len` bytes at once to such a
/// server.
fn meet(
    engine: EngineKind,
    tls: Option<&Arc<ServerConfig>>,
    (len, depth): (usize, u32),
    frame: &'static [u8],
    answer: Opcode,
) -> (u32, u64) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    // Accepted connections inherit the size. The kernel takes few bytes while the server does not
    // read.
    rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 64 << 10).expect("a socket");
    let scheme = if tls.is_some() { "wss" } else { "ws" };
    let url = format!("{scheme}://{}/", listener.local_addr().expect("bound"));
    let plan = plan(&url, engine).with(|plan| {
        plan.load.connections = 1;
        plan.load.message_bytes = len.into();
        plan.load.pipeline = depth;
        plan.target.trust = if tls.is_some() { Trust::Anybody } else { Trust::System };
    });
    // The server closes under load, so the run is not successful.
    let generator = thread::spawn(move || drop(execute(&plan, &mut Silent)));
    let (stream, _): (TcpStream, _) = listener.accept().expect("a connection");
    let seen = match tls.cloned() {
        None => messages_before(&mut { stream }, frame, answer),
        Some(config) => {
            let connection = ServerConnection::new(config).expect("a session");
            messages_before(&mut StreamOwned::new(connection, stream), frame, answer)
        }
    };
    drop(listener);
    generator.join().expect("the generator ends");
    seen.expect("an answer")
}

#[test]
fn bytes_before_a_read_error_count() {
    struct Reset(u8);
    impl Read for Reset {
        fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
            self.0 += 1;
            if self.0 <= 2 { Ok(5) } else { Err(io::ErrorKind::ConnectionReset.into()) }
        }
    }
    assert_eq!(bytes_until_the_end(&mut Reset(0)), 10);
}

#[test]
fn a_pong_passes_the_messages_that_wait() {
    let identity = identity();
    for engine in engines() {
        for (load, tls) in LOADS.iter().flat_map(|load| [(*load, None), (*load, Some(&identity))]) {
            let (before, _) = meet(engine, tls, load, b"\x89\x03hey", Opcode::Pong);
            let is_tls = tls.is_some();
            assert!(
                before <= load.1 / 2,
                "{engine}, {load:?}, TLS {is_tls}: after {before} messages"
            );
        }
    }
}

#[test]
fn no_message_follows_a_close() {
    for engine in engines() {
        for load in LOADS {
            let (before, rest) = meet(engine, None, load, b"\x88\x02\x03\xe8", Opcode::Close);
            assert_eq!(rest, 0, "{engine}, {load:?}: bytes after the Close");
            assert!(before <= load.1 / 2, "{engine}, {load:?}: after {before} messages");
        }
    }
}
