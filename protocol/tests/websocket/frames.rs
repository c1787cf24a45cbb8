//! Frames built byte by byte from RFC 6455 5.2, without the crate under test. The tests of all
//! crates build their frames here.

pub(crate) const FIN: u8 = 0x80;
pub(crate) const RSV1: u8 = 0x40;
pub(crate) const CONTINUATION: u8 = 0;
pub(crate) const TEXT: u8 = 1;
pub(crate) const BINARY: u8 = 2;
pub(crate) const CLOSE: u8 = 8;
pub(crate) const PING: u8 = 9;
pub(crate) const PONG: u8 = 10;
pub(crate) const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// Returns a frame with the length in its shortest form, masked where a key is given.
pub(crate) fn frame(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let length = match payload.len() {
        len @ 0..=125 => vec![len as u8],
        len @ 126..=0xffff => [&[126][..], &(len as u16).to_be_bytes()].concat(),
        len => [&[127][..], &(len as u64).to_be_bytes()].concat(),
    };
    with_length(first, &length, payload, key)
}

/// Returns a frame whose length is written as given, the first byte without its mask bit.
pub(crate) fn with_length(
    first: u8,
    length: &[u8],
    payload: &[u8],
    key: Option<[u8; 4]>,
) -> Vec<u8> {
    let mut bytes = vec![first];
    bytes.extend_from_slice(length);
    match key {
        None => bytes.extend_from_slice(payload),
        Some(key) => {
            bytes[1] |= 0x80;
            bytes.extend_from_slice(&key);
            bytes.extend(payload.iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]));
        }
    }
    bytes
}

/// Returns a frame of a client.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, payload, Some(KEY))
}

/// Returns a frame of a server.
pub(crate) fn plain(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, payload, None)
}

/// Returns a client's frame that is masked with zeros, so that its payload is readable.
pub(crate) fn readable(first: u8, payload: &[u8]) -> Vec<u8> {
    frame(first, payload, Some([0; 4]))
}

/// Returns a client's whole message or control frame, readable.
pub(crate) fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    readable(FIN | opcode, payload)
}

/// Returns a server's whole message or control frame.
pub(crate) fn server_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    plain(FIN | opcode, payload)
}

/// Returns a server's Close.
pub(crate) fn server_close(code: u16, reason: &str) -> Vec<u8> {
    server_frame(CLOSE, &[&code.to_be_bytes(), reason.as_bytes()].concat())
}
