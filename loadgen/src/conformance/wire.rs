//! Bytes on the wire: requests, a client's frames, connections that cannot hang.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use super::servers::Target;

/// The key of RFC 6455 1.3 and the answer to it.
pub(super) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(super) const NONCE: &[u8; 16] = b"the sample nonce";
pub(super) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(super) const TEXT: u8 = 1;
pub(super) const BINARY: u8 = 2;
pub(super) const CONTINUATION: u8 = 0;
pub(super) const CLOSE: u8 = 8;
pub(super) const PING: u8 = 9;
pub(super) const PONG: u8 = 10;
pub(super) const FIN: u8 = 0x80;

/// A request that opens a WebSocket.
pub(super) fn request(host: &str, path: &str) -> Vec<u8> {
    request_with(host, path, "")
}

/// The same with further lines.
pub(super) fn request_with(host: &str, path: &str, lines: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n{lines}\r\n"
    )
    .into_bytes()
}

/// A masked frame; `first` is the whole first byte.
pub(super) fn raw(first: u8, payload: &[u8]) -> Vec<u8> {
    masked_by([0x37, 0xfa, 0x21, 0x3d], first, payload)
}

/// A masked frame with FIN.
pub(super) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    raw(FIN | opcode, payload)
}

pub(super) fn masked_by(key: [u8; 4], first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len() as u64);
    frame.extend_from_slice(&key);
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// A masked frame's header without the key, in the shortest form.
pub(super) fn header(first: u8, len: u64) -> Vec<u8> {
    let mut header = vec![first];
    match len {
        0..=125 => header.push(0x80 | len as u8),
        126..=65_535 => {
            header.push(0x80 | 126);
            header.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            header.push(0x80 | 127);
            header.extend_from_slice(&len.to_be_bytes());
        }
    }
    header
}

/// A Close frame with code and reason.
pub(super) fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes(), reason].concat())
}

pub(super) fn connect(target: &Target) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target.address, target.patience)?;
    stream.set_read_timeout(Some(target.patience))?;
    stream.set_write_timeout(Some(target.patience))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection with its handshake done.
pub(super) fn open(target: &Target) -> io::Result<TcpStream> {
    let mut stream = connect(target)?;
    stream.write_all(&request(&target.host, &target.path))?;
    let head = read_head(&mut stream)?;
    match head.starts_with(b"HTTP/1.1 101 ") {
        true => Ok(stream),
        false => Err(io::Error::other(format!("no 101: {}", head.escape_ascii()))),
    }
}

/// Reads to the empty line that ends a head and no further, or to the end of the stream.
pub(super) fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    Ok(head)
}
