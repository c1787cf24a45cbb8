//! The minimal part of RFC 6455 for an echo of small frames, shared by the reference servers
//! `epoll-echo`, `tokio-uring-echo` and `tokio-plain-echo`.
//!
//! They handle a load generator's traffic correctly: unfragmented masked frames, text checked to be
//! UTF-8, pings, a Close. Everything else ends the connection without a Close frame. A server for
//! other users needs more; see `server/`.
#![forbid(unsafe_code)]

use std::ops::Range;

use base64::Engine;
use sha1::{Digest, Sha1};

/// Error for unsupported input.
#[derive(Debug)]
pub struct Unsupported;

/// Returns the answer to an opening handshake and the length of the request; `None` while it is not
/// complete.
pub fn accept(request: &[u8]) -> Result<Option<(String, usize)>, Unsupported> {
    let Some(end) = request.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
    let head = std::str::from_utf8(&request[..end]).map_err(|_| Unsupported)?;
    let field = |line: &str| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim().to_owned())
    };
    let key = head.lines().find_map(field).ok_or(Unsupported)?;
    let hash = Sha1::digest(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let accept = base64::engine::general_purpose::STANDARD.encode(hash);
    let answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ";
    Ok(Some((format!("{answer}{accept}\r\n\r\n"), end + 4)))
}

/// Outcome of the frames in a buffer.
pub struct Echoes {
    /// The replies, which are adjacent in the buffer.
    pub replies: Range<usize>,
    /// Bytes of the complete frames; the beginning of another may follow them.
    pub consumed: usize,
    /// True if they include a Close: no further frame is read.
    pub closed: bool,
}

/// Turns the complete frames in `bytes` into their replies, in place; see [`echo_unchecked`].
/// Fails where a text is not UTF-8.
#[inline]
pub fn echo(bytes: &mut [u8]) -> Result<Echoes, Unsupported> {
    echo_frames::<true>(bytes)
}

/// Turns the complete frames in `bytes` into their replies, in place, whatever their payload.
///
/// A reply is four bytes shorter than its frame. The first payload stays in its place, with the
/// header directly before it, and the others move to follow it.
#[inline]
pub fn echo_unchecked(bytes: &mut [u8]) -> Result<Echoes, Unsupported> {
    echo_frames::<false>(bytes)
}

#[inline]
fn echo_frames<const VALIDATES: bool>(bytes: &mut [u8]) -> Result<Echoes, Unsupported> {
    let mut echoes = Echoes { replies: 0..0, consumed: 0, closed: false };
    while let Some(frame) = parse(&bytes[echoes.consumed..])? {
        let payload = echoes.consumed + frame.header;
        unmask(&mut bytes[payload..payload + frame.payload], frame.mask);
        let opcode = bytes[echoes.consumed] & 0x0f;
        let is_text = VALIDATES && opcode == 1;
        if is_text && std::str::from_utf8(&bytes[payload..payload + frame.payload]).is_err() {
            return Err(Unsupported);
        }
        // A server's header is four bytes shorter, because it has no key: 2, 4 or 10 bytes.
        let header = frame.header - 4;
        if echoes.replies.is_empty() {
            echoes.replies = payload - header..payload - header;
        }
        let at = echoes.replies.end;
        write_header(
            &mut bytes[at..at + header],
            if opcode == 9 { 10 } else { opcode },
            frame.payload,
        );
        if at + header < payload {
            bytes.copy_within(payload..payload + frame.payload, at + header);
        }
        echoes.replies.end = at + header + frame.payload;
        echoes.consumed = payload + frame.payload;
        if opcode == 8 {
            echoes.closed = true;
            break;
        }
    }
    Ok(echoes)
}

struct Frame {
    header: usize,
    payload: usize,
    mask: [u8; 4],
}

/// Returns the header of a complete frame; `None` where it is incomplete.
#[inline]
fn parse(bytes: &[u8]) -> Result<Option<Frame>, Unsupported> {
    let [first, second, ..] = *bytes else { return Ok(None) };
    if !matches!(first, 0x81 | 0x82 | 0x88 | 0x89 | 0x8a) || second < 0x80 {
        return Err(Unsupported);
    }
    let (header, payload) = match (second & 0x7f, bytes) {
        (len @ 0..126, _) => (6, usize::from(len)),
        (126, [_, _, a, b, ..]) => (8, usize::from(u16::from_be_bytes([*a, *b]))),
        (127, [_, _, len @ ..]) if len.len() >= 8 => {
            let len = u64::from_be_bytes(len[..8].try_into().expect("eight bytes"));
            (14, usize::try_from(len).map_err(|_| Unsupported)?)
        }
        _ => return Ok(None),
    };
    if bytes.len() < header || bytes.len() - header < payload {
        return Ok(None);
    }
    let mask = bytes[header - 4..header].try_into().expect("four bytes");
    Ok(Some(Frame { header, payload, mask }))
}

#[inline]
fn unmask(payload: &mut [u8], mask: [u8; 4]) {
    let wide = u64::from(u32::from_ne_bytes(mask)) * 0x1_0000_0001;
    let (words, rest) = payload.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

#[inline]
fn write_header(header: &mut [u8], opcode: u8, payload: usize) {
    header[0] = 0x80 | opcode;
    match header.len() {
        2 => header[1] = payload as u8,
        4 => {
            header[1] = 126;
            header[2..].copy_from_slice(&(payload as u16).to_be_bytes());
        }
        _ => {
            header[1] = 127;
            header[2..].copy_from_slice(&(payload as u64).to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x12, 0x34, 0x56, 0x78];
        let mut frame = vec![0x80 | opcode];
        match payload.len() {
            len @ 0..126 => frame.push(0x80 | len as u8),
            len => {
                frame.push(0x80 | 126);
                frame.extend_from_slice(&(len as u16).to_be_bytes());
            }
        }
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    }

    #[test]
    fn complete_frames_become_their_replies() {
        let (short, long) = ([b'a'; 11], [b'b'; 300]);
        let mut bytes = [frame(1, &short), frame(9, b"x"), frame(2, &long), frame(2, &[])].concat();
        let whole = bytes.len();
        bytes.extend_from_slice(&frame(1, &short)[..9]);
        let echoes = echo(&mut bytes).expect("valid frames");
        assert_eq!(echoes.consumed, whole);
        let expected =
            [&[0x81, 11][..], &short, &[0x8a, 1, b'x', 0x82, 126, 1, 44], &long, &[0x82, 0]]
                .concat();
        assert!(bytes[echoes.replies] == expected);
    }

    #[test]
    fn invalid_text_and_other_kinds_of_frames_are_refused() {
        assert!(echo(&mut frame(1, &[0xff])).is_err());
        assert!(echo(&mut [0x01, 0x80, 0, 0, 0, 0]).is_err());
        assert!(echo(&mut [0x81, 0x01, 0, 0]).is_err());
        assert!(echo(&mut frame(8, &[3, 232])).expect("a Close").closed);
    }

    #[test]
    fn the_rfcs_handshake_is_answered() {
        let request = b"GET / HTTP/1.1\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        assert!(accept(&request[..20]).expect("incomplete").is_none());
        let (answer, len) = accept(request).expect("valid").expect("complete");
        assert_eq!(len, request.len());
        assert!(answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }
}
