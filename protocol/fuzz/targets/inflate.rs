//! A compressed message of any bytes, cut as the input chooses, with any room and any history.

use std::ops::Range;

use bytes::BytesMut;
use protocol::deflate::{CompressorSettings, Deflater, History, Inflater};
use protocol::{Limits, MessageKind, ProtocolError};

use super::input::Input;

/// Options 0: text; 1 and 2: limit; 3 and 4: room of a call; 5: with a history; 6: the history is
/// packed.
pub fn target(data: &[u8]) {
    let input = Input::parse(data);
    let way = Way {
        kind: if input.option(0) { MessageKind::Text } else { MessageKind::Binary },
        max_message: [u64::MAX, 0, 40, 1000][usize::from(input.options >> 1 & 3)],
        room: [4096, 1, 7, 300][usize::from(input.options >> 3 & 3)],
        history: input.option(5),
        packed: input.option(6),
    };
    let whole = 0..input.bytes.len();
    // The last piece is empty: the message may end long after its bytes.
    let end = std::iter::once(whole.end..whole.end);
    let by_byte: Vec<Range<usize>> =
        whole.clone().map(|at| at..at + 1).chain(end.clone()).collect();
    let expected = way.read(input.bytes, &[whole], 4096);
    let chosen = input.pieces().into_iter().chain(end).collect();
    for pieces in [chosen, by_byte] {
        let read = way.read(input.bytes, &pieces, way.room);
        assert_eq!(read.1, expected.1, "cut into {pieces:?}");
        if expected.1.is_ok() {
            assert_eq!(read.0, expected.0, "cut into {pieces:?}");
        }
    }
    if expected.1.is_ok() {
        way.again(&expected.0);
    }
}

/// A way to read.
struct Way {
    kind: MessageKind,
    max_message: u64,
    room: usize,
    history: bool,
    packed: bool,
}

impl Way {
    /// Inflates the pieces, at most a megabyte of them. Returns what came out before the error.
    fn read(
        &self,
        bytes: &[u8],
        pieces: &[Range<usize>],
        room: usize,
    ) -> (Vec<u8>, Result<(), ProtocolError>) {
        let limits = Limits { max_message: self.max_message.min(1 << 20), max_fragments: u32::MAX };
        let mut inflater = Inflater::new();
        let mut history = self.history.then(|| History::new(9));
        if let Some(history) = &mut history {
            history.push(&b"what a message may refer to, ".repeat(40));
            if self.packed {
                history.pack(&mut Deflater::new(CompressorSettings::default(), false));
            }
        }
        inflater.begin(self.kind, history.as_mut());
        let (mut message, mut out) = (Vec::new(), vec![0; room]);
        for (number, piece) in pieces.iter().enumerate() {
            let mut rest = &bytes[piece.clone()];
            let last = number + 1 == pieces.len();
            loop {
                match inflater.inflate(&limits, rest, last, &mut out) {
                    Ok(step) => {
                        message.extend_from_slice(&out[..step.written]);
                        rest = &rest[step.read..];
                        if step.done {
                            assert!(rest.is_empty(), "done with input left");
                            break;
                        }
                        assert_eq!(step.written, room, "neither done nor full");
                    }
                    Err(error) => return (message, Err(error)),
                }
                assert!(message.len() as u64 <= limits.max_message);
            }
        }
        (message, Ok(()))
    }

    /// Checks that what was inflated, deflated again, is inflated to the same.
    fn again(&self, message: &[u8]) {
        let mut payload = BytesMut::new();
        Deflater::new(CompressorSettings::default(), false).deflate(message, &mut payload);
        let whole = 0..payload.len();
        let way = Way { history: false, ..*self };
        assert_eq!(way.read(&payload, &[whole], 4096), (message.to_vec(), Ok(())));
    }
}
