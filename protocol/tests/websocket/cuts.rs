//! Random conversations, valid and invalid, cut at random: the result is that of the whole.

use proptest::prelude::*;
use proptest::sample::Index;
use protocol::{Limits, Role};

use crate::frames::{FIN, frame, with_length};
use crate::reader::{Unmasking, read};

/// Returns frames that mostly fit together, so that conversations get somewhere before they fail.
fn piece(mask: bool) -> impl Strategy<Value = Vec<u8>> {
    let key = any::<[u8; 4]>().prop_map(move |key| mask.then_some(key));
    let payload = prop_oneof![
        4 => "[a-zé日😀]{0,40}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => "[a-z日]{100,300}".prop_map(String::into_bytes),
    ];
    (payload, key, 0..100u8).prop_map(|(payload, key, choice)| match choice {
        0..20 => frame(FIN | 1, &payload, key),
        20..35 => frame(FIN | 2, &payload, key),
        35..65 => {
            let at = payload.len() / 2;
            let ping = frame(FIN | 9, b"between", key);
            [frame(1 + choice % 2, &payload[..at], key), ping, frame(FIN, &payload[at..], key)]
                .concat()
        }
        65..75 => frame(FIN | 9, &payload[..payload.len().min(125)], key),
        75..80 => frame(FIN | 10, b"", key),
        80..84 => frame(choice % 3, &payload, key),
        84..87 => frame(FIN | 8, &[&[3, 232][..], &payload[..payload.len().min(60)]].concat(), key),
        87..89 => frame(FIN | 8, &payload[..payload.len().min(125)], key),
        89..91 => frame(FIN | 8 | (choice % 3), &payload, key.xor(Some([1; 4]))),
        91..94 => frame(payload.len() as u8, &payload, key),
        94..97 => with_length(FIN | 2, &[126, 0, payload.len() as u8 & 0x7f], &payload, key),
        _ => payload,
    })
}

fn conversation(mask: bool) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(piece(mask), 1..8).prop_map(|pieces| pieces.concat())
}

fn check(role: Role, bytes: &[u8], cuts: &[Index], unmasking: Unmasking) {
    let limits = Limits { max_message: 600, max_fragments: 4 };
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
    cuts.sort_unstable();
    let starts = std::iter::once(0).chain(cuts.iter().copied());
    let ends = cuts.iter().copied().chain([bytes.len()]);
    let pieces = starts.zip(ends).map(|(start, end)| &bytes[start..end]);
    let whole = read(role, &limits, Unmasking::Append, [bytes]);
    assert_eq!(read(role, &limits, unmasking, pieces), whole, "cut at {cuts:?}");
    assert_eq!(read(role, &limits, unmasking, bytes.chunks(1)), whole, "byte by byte");
}

fn unmasking() -> impl Strategy<Value = Unmasking> {
    prop_oneof![Just(Unmasking::InPlace), Just(Unmasking::Shift), Just(Unmasking::Append)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn server_sees_the_same_events_however_bytes_are_cut(
        bytes in conversation(true),
        cuts in prop::collection::vec(any::<Index>(), 0..12),
        unmasking in unmasking(),
    ) {
        check(Role::Server, &bytes, &cuts, unmasking);
    }

    #[test]
    fn client_sees_the_same_events_however_bytes_are_cut(
        bytes in conversation(false),
        cuts in prop::collection::vec(any::<Index>(), 0..12),
        unmasking in unmasking(),
    ) {
        check(Role::Client, &bytes, &cuts, unmasking);
    }

    #[test]
    fn any_bytes_give_the_same_events_however_cut(
        bytes in prop::collection::vec(any::<u8>(), 0..80),
        cuts in prop::collection::vec(any::<Index>(), 0..6),
    ) {
        check(Role::Server, &bytes, &cuts, Unmasking::Shift);
        check(Role::Client, &bytes, &cuts, Unmasking::InPlace);
    }
}
