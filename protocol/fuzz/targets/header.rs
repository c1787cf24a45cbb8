//! A frame's header: parsed from any bytes, and encoded from any values.

use protocol::{
    Header, MaskingKey, Opcode, ProtocolError, client_header_len, server_header_len,
    write_server_header_before,
};

/// Parses the bytes, and a header with values taken from the bytes.
pub fn target(data: &[u8]) {
    parse(data);
    if let Some(header) = header_of(data) {
        encode(header);
    }
}

type Parsed = Result<Option<(Header, usize)>, ProtocolError>;

/// Checks that the parser needs more bytes until one decides, and that later bytes do not change
/// the result.
fn parse(bytes: &[u8]) {
    let mut decided: Option<Parsed> = None;
    for end in 0..=bytes.len().min(Header::MAX_LEN + 1) {
        let parsed = Header::parse(&bytes[..end]);
        match &decided {
            Some(earlier) => assert_eq!(&parsed, earlier, "after {end} bytes"),
            None if parsed == Ok(None) => assert!(end < Header::MAX_LEN, "{end} bytes are enough"),
            None => decided = Some(check(bytes, end, parsed)),
        }
    }
    if let Some(earlier) = decided {
        assert_eq!(Header::parse(bytes), earlier, "what follows a header does not matter");
    }
}

/// Returns the outcome, which the byte at `end` decided.
fn check(bytes: &[u8], end: usize, parsed: Parsed) -> Parsed {
    if let Ok(Some((header, len))) = parsed {
        assert_eq!(len, end, "a header is there with its last byte");
        assert!(header.payload_len >> 63 == 0);
        let mut encoded = [0; Header::MAX_LEN];
        assert_eq!(header.encode(&mut encoded), len);
        assert_eq!(header.encoded_len(), len);
        assert_eq!(encoded[..len], bytes[..len], "{header:?}");
    }
    parsed
}

/// Returns a header with any values: first byte, length, key.
fn header_of(data: &[u8]) -> Option<Header> {
    let (&first, rest) = data.split_first()?;
    let (length, rest) = rest.split_first_chunk()?;
    let opcode = Opcode::from_u4(first & 15)?;
    let (fin, rsv) = (first & 0x80 != 0, first >> 4 & 7);
    // The last byte of the length gives the shift, so that short lengths are as common as long
    // ones.
    let payload_len = (u64::from_be_bytes(*length) >> 1) >> (length[7] % 64);
    let mask = rest.first_chunk().map(|&key| MaskingKey::from_bytes(key));
    Some(Header { fin, rsv, opcode, mask, payload_len })
}

fn encode(header: Header) {
    let mut encoded = [0; Header::MAX_LEN];
    let len = header.encode(&mut encoded);
    assert_eq!(Header::parse(&encoded[..len]), Ok(Some((header, len))));
    let by_role = if header.mask.is_some() { client_header_len } else { server_header_len };
    assert_eq!(len, by_role(header.payload_len));
    if let Ok(payload_len) = usize::try_from(header.payload_len) {
        before_payload(header.opcode, payload_len);
    }
}

/// Checks that a server's header before a payload parses back.
fn before_payload(opcode: Opcode, payload_len: usize) {
    let mut buf = [0xee; 32];
    let start = write_server_header_before(&mut buf, 20, opcode, payload_len);
    let header = Header { fin: true, rsv: 0, opcode, mask: None, payload_len: payload_len as u64 };
    assert_eq!(Header::parse(&buf[start..20]), Ok(Some((header, 20 - start))));
    let untouched = buf[..start].iter().chain(&buf[20..]);
    assert!(untouched.copied().all(|byte| byte == 0xee), "only the header is written");
}
