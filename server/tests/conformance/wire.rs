//! Bytes on the wire: requests, a client's frames, connections that cannot hang.

use std::io::{self, Read, Write};
use std::net::TcpStream;

use crate::playground::Target;

/// The key of RFC 6455 1.3 and the answer to it.
pub(crate) const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
pub(crate) const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
pub(crate) const FIN: u8 = 0x80;

/// A request that opens a WebSocket.
pub(crate) fn request(host: &str, path: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: {KEY}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    .into_bytes()
}

/// A masked frame; `first` is the whole first byte.
pub(crate) fn raw(first: u8, payload: &[u8]) -> Vec<u8> {
    masked_by([0x37, 0xfa, 0x21, 0x3d], first, payload)
}

/// A masked frame with FIN.
pub(crate) fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    raw(FIN | opcode, payload)
}

pub(crate) fn masked_by(key: [u8; 4], first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = header(first, payload.len() as u64);
    frame.extend_from_slice(&key);
    frame.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
    frame
}

/// A masked frame's header without the key, in the shortest form.
pub(crate) fn header(first: u8, len: u64) -> Vec<u8> {
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
pub(crate) fn close(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(CLOSE, &[&code.to_be_bytes(), reason].concat())
}

pub(crate) fn connect(target: &Target) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&target.address, target.patience)?;
    stream.set_read_timeout(Some(target.patience))?;
    stream.set_write_timeout(Some(target.patience))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A connection with its handshake done.
pub(crate) fn open(target: &Target) -> io::Result<TcpStream> {
    let mut stream = connect(target)?;
    stream.write_all(&request(&target.host, &target.path))?;
    let head = read_head(&mut stream)?;
    match head.starts_with(b"HTTP/1.1 101 ") {
        true => Ok(stream),
        false => Err(io::Error::other(format!("no 101: {}", head.escape_ascii()))),
    }
}

/// Reads to the empty line that ends a head and no further, or to the end of the stream.
pub(crate) fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte)? == 1 {
        head.push(byte[0]);
    }
    Ok(head)
}
