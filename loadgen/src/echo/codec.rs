//! Compression of one connection (RFC 7692).

use bytes::BytesMut;
use protocol::deflate::{CompressorSettings, Deflater, History, Inflater, MIN_DEFLATE_BITS};
use protocol::handshake::deflate::Parameters;
use protocol::{Limits, MessageKind, ProtocolError};

/// Bytes that are inflated at a time.
const STEP: usize = 16 << 10;

/// State that the client's end of a connection needs to inflate and to compress.
#[derive(Debug)]
pub(super) struct Codec {
    inflater: Inflater,
    /// Bytes that the server's messages refer to.
    history: Option<History>,
    /// Compressor; `None` where the server allows no window that it can keep to.
    pub(super) deflater: Option<Deflater>,
    inflated: Vec<u8>,
}

impl Codec {
    pub(super) fn new(agreed: Parameters) -> Self {
        let window_bits = agreed.client_max_window_bits;
        let settings = CompressorSettings { window_bits, ..CompressorSettings::default() };
        Self {
            inflater: Inflater::new(),
            history: (!agreed.server_no_context_takeover)
                .then(|| History::new(agreed.server_max_window_bits)),
            deflater: (window_bits >= MIN_DEFLATE_BITS)
                .then(|| Deflater::new(settings, !agreed.client_no_context_takeover)),
            inflated: vec![0; STEP],
        }
    }

    /// Inflates a chunk of a message, the first or the last of it, to the end of `message`.
    pub(super) fn inflate(
        &mut self,
        limits: &Limits,
        (kind, first, last): (MessageKind, bool, bool),
        payload: &[u8],
        message: &mut BytesMut,
    ) -> Result<(), ProtocolError> {
        if first {
            self.inflater.begin(kind, self.history.as_mut());
        }
        let (scratch, history) = (&mut self.inflated, self.history.as_mut());
        let take = |piece: &[u8]| message.extend_from_slice(piece);
        self.inflater.inflate_all(limits, payload, last, scratch, history, take)
    }
}
