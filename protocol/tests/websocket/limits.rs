//! Limits on messages, checked on headers alone.

use protocol::{Limits, ProtocolError, Role};

use crate::frames::{FIN, KEY, masked, plain, with_length};
use crate::reader::{Seen, Unmasking, binary, read, read_every_way, text};

const SMALL: Limits = Limits { max_message: 10, max_fragments: 3 };
const TOO_BIG: Seen = Seen::Error(ProtocolError::MessageTooBig { max: 10 });
const TOO_MANY: Seen = Seen::Error(ProtocolError::TooManyFragments { max: 3 });

fn server_reads_small(bytes: &[u8]) -> Vec<Seen> {
    read_every_way(Role::Server, &SMALL, bytes)
}

#[test]
fn message_of_exactly_the_maximum_is_accepted() {
    assert_eq!(server_reads_small(&masked(FIN | 2, &[7; 10])), [binary(&[7; 10])]);
    let fragments = [masked(2, &[7; 4]), masked(0, &[7; 6]), masked(FIN, b"")].concat();
    assert_eq!(server_reads_small(&fragments), [binary(&[7; 10])]);
}

#[test]
fn rejects_message_beyond_the_maximum_from_its_header_alone() {
    for len in [11, 126, 65_536] {
        let bytes = masked(FIN | 2, &vec![7; len]);
        assert_eq!(server_reads_small(&bytes), [TOO_BIG]);
        let length_only = &bytes[..protocol::server_header_len(len as u64)];
        assert_eq!(server_reads_small(length_only), [TOO_BIG], "before the masking key has come");
    }
    assert_eq!(ProtocolError::MessageTooBig { max: 10 }.close_code(), 1009);
    let seen = read_every_way(Role::Client, &SMALL, &plain(FIN | 1, &[b'x'; 11]));
    assert_eq!(seen, [TOO_BIG]);
}

#[test]
fn rejects_fragments_at_the_header_beyond_the_maximum() {
    let fragments = [masked(2, &[7; 6]), masked(0, &[7; 4]), masked(0, &[7; 1])].concat();
    let header_only = &fragments[..fragments.len() - 5];
    assert_eq!(server_reads_small(header_only), [TOO_BIG]);
}

#[test]
fn sum_of_fragments_cannot_overflow() {
    let limits = Limits { max_message: u64::MAX, max_fragments: u32::MAX };
    let huge = [&[127][..], &(u64::MAX >> 1).to_be_bytes()].concat();
    let start = with_length(2, &huge, b"abc", Some(KEY));
    let seen = read(Role::Server, &limits, Unmasking::Append, [&start[..]]);
    assert!(matches!(&seen[..], [Seen::Unfinished(_, part)] if part == b"abc"));

    let near = Limits { max_message: (u64::MAX >> 1) + 10, max_fragments: 3 };
    let bytes = [masked(2, &[7; 20]), with_length(0, &huge, b"", Some(KEY))].concat();
    let max = near.max_message;
    let expected = [Seen::Error(ProtocolError::MessageTooBig { max })];
    assert_eq!(read_every_way(Role::Server, &near, &bytes), expected);
}

#[test]
fn each_message_is_counted_separately() {
    let bytes: Vec<u8> = (0..5)
        .flat_map(|_| {
            [
                masked(1, b"aaaa"),
                masked(0, b"bbb"),
                masked(FIN, b"ccc"),
                masked(FIN | 1, b"0123456789"),
            ]
        })
        .flatten()
        .collect();
    let expected: Vec<Seen> =
        (0..5).flat_map(|_| [text("aaaabbbccc"), text("0123456789")]).collect();
    assert_eq!(server_reads_small(&bytes), expected);
}

#[test]
fn rejects_one_fragment_too_many_from_its_first_byte() {
    let three = [masked(1, b""), masked(0, b""), masked(FIN, b"")].concat();
    assert_eq!(server_reads_small(&three), [text("")]);
    let four = [masked(1, b""), masked(0, b""), masked(0, b""), vec![FIN]].concat();
    assert_eq!(server_reads_small(&four), [TOO_MANY]);
    assert_eq!(ProtocolError::TooManyFragments { max: 3 }.close_code(), 1008);
}

#[test]
fn control_frames_count_neither_as_fragments_nor_as_bytes() {
    let bytes =
        [masked(1, b"12345"), masked(FIN | 9, &[0; 125]), masked(0, b"67890"), masked(FIN, b"")]
            .concat();
    assert_eq!(server_reads_small(&bytes), [Seen::Ping([0; 125].into()), text("1234567890")]);
}

#[test]
fn control_frames_are_accepted_whatever_the_maximum() {
    let limits = Limits { max_message: 0, max_fragments: 0 };
    let bytes = [masked(FIN | 9, b"ping"), masked(FIN | 1, b"")].concat();
    let expected = [Seen::Ping(b"ping".into()), text("")];
    assert_eq!(read_every_way(Role::Server, &limits, &bytes), expected);
}

#[test]
fn assembly_grows_with_received_not_with_declared_bytes() {
    use bytes::BytesMut;
    use protocol::{Connection, Event};
    let declared = [&[127][..], &(60u64 << 20).to_be_bytes()].concat();
    let mut input = with_length(FIN | 2, &declared, &[7; 100], Some(KEY));
    let mut connection = Connection::new(Role::Server);
    let mut message = BytesMut::new();
    let Ok(Some(Event::Data(chunk))) = connection.next(&Limits::default(), &mut input, &mut 0)
    else {
        panic!("a chunk was expected");
    };
    connection.unmask_append(chunk, &input, &mut message).unwrap();
    assert_eq!(message.len(), 100);
    assert!(message.capacity() < 4096, "{}", message.capacity());
}
