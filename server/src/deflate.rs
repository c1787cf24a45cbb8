//! Compression of a connection (RFC 7692), as an echo needs it.
//!
//! An echo returns the same messages in the same order, so the bytes that the client's compressor
//! made can go back as they are. They are valid in the other direction where the following holds.
//!
//! - No reference reaches further back than the server may: the client's window is at most that of
//!   the server.
//! - What a reference reaches is the same in both directions. Without context takeover that is the
//!   message itself. With it, these are the compressed messages before, inflated and joined: every
//!   one of them was returned as it came, in the same order, and the server compressed nothing of
//!   its own in between. Messages that are not compressed, and control frames, are in no window.
//!   A message that was refused ends the connection, so nothing follows it.
//! - A client that takes its context over needs a server that may do so, too.
//!
//! [`Way::of`] decides this for the whole connection, from what the handshake agreed on. Otherwise
//! the server compresses by itself.

use protocol::deflate::{CompressorSettings, Deflater, History, Inflater, MAX_WINDOW_BITS};
use protocol::handshake::deflate::{Parameters, ServerPolicy};

/// Way in which compressed messages are echoed where both ways are possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeflateEcho {
    /// As the client's compressor made them.
    #[default]
    Passthrough,
    /// Inflated, and compressed again.
    Recompress,
}

/// Compression that the server agrees to.
#[derive(Clone, Copy, Debug)]
pub struct DeflateSettings {
    /// Compression that it agrees to in a handshake.
    pub policy: ServerPolicy,
    /// Way in which it echoes.
    pub echo: DeflateEcho,
    /// Memory of its compressors ([`CompressorSettings::memory_level`]).
    pub memory_level: u8,
}

/// Way in which a connection's compressed messages are echoed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The bytes that came.
    Passthrough,
    /// Compressed by the server, with a window of this many bits.
    Recompress(u8),
}

impl Way {
    fn of(agreed: &Parameters, echo: DeflateEcho) -> Self {
        let reaches_too_far = agreed.client_max_window_bits > agreed.server_max_window_bits;
        let takes_over_alone =
            agreed.server_no_context_takeover && !agreed.client_no_context_takeover;
        if echo == DeflateEcho::Passthrough && !reaches_too_far && !takes_over_alone {
            Self::Passthrough
        } else {
            Self::Recompress(agreed.server_max_window_bits)
        }
    }
}

/// Compression of a connection.
#[derive(Debug)]
pub(crate) struct Compression {
    pub(crate) way: Way,
    context: Option<Box<Context>>,
}

const _: () = assert!(size_of::<Compression>() <= 16, "every connection with compression has one");

/// State that a connection with context takeover keeps between messages.
#[derive(Debug)]
struct Context {
    /// Bytes that the client's next message may refer to.
    received: Option<History>,
    /// True if the server may refer to earlier messages.
    takes_over: bool,
    /// The server's compressor, while it is in use.
    deflater: Option<Deflater>,
}

impl Compression {
    pub(crate) fn new(agreed: &Parameters, settings: &DeflateSettings) -> Self {
        let way = Way::of(agreed, settings.echo);
        let received = (!agreed.client_no_context_takeover)
            .then(|| History::new(agreed.client_max_window_bits));
        let takes_over = !agreed.server_no_context_takeover && matches!(way, Way::Recompress(_));
        let has_context = received.is_some() || takes_over;
        let context =
            has_context.then(|| Box::new(Context { received, takes_over, deflater: None }));
        Self { way, context }
    }

    /// Returns whether it keeps something between messages.
    pub(crate) fn has_context(&self) -> bool {
        self.context.is_some()
    }

    /// Bytes that the client's messages refer to and are added to.
    pub(crate) fn received(&mut self) -> Option<&mut History> {
        self.context.as_mut()?.received.as_mut()
    }

    /// Gives back memory while the connection is silent: what was received is packed, and the
    /// compressor goes. Its next message refers to nothing, which it need not.
    pub(crate) fn rest(&mut self, deflate: &mut Deflate) {
        let Some(context) = &mut self.context else { return };
        context.deflater = None;
        if let Some(received) = &mut context.received {
            let mut packer = deflate.take_deflater(MAX_WINDOW_BITS);
            received.pack(&mut packer);
            deflate.put_deflater(MAX_WINDOW_BITS, packer);
        }
    }

    /// Returns a compressor that has begun a message; `None` where the bytes that came go back.
    pub(crate) fn take_deflater(&mut self, deflate: &mut Deflate) -> Option<Deflater> {
        let Way::Recompress(window_bits) = self.way else { return None };
        let mut deflater = match &mut self.context {
            Some(context) if context.takes_over => {
                let own = context.deflater.take();
                own.unwrap_or_else(|| deflate.new_deflater(window_bits, true))
            }
            _ => deflate.take_deflater(window_bits),
        };
        deflater.begin();
        Some(deflater)
    }

    /// Keeps a compressor that has ended a message.
    pub(crate) fn put_deflater(&mut self, deflater: Deflater, deflate: &mut Deflate) {
        match (&mut self.context, self.way) {
            (Some(context), _) if context.takes_over => context.deflater = Some(deflater),
            (_, Way::Recompress(window_bits)) => deflate.put_deflater(window_bits, deflater),
            (_, Way::Passthrough) => {}
        }
    }
}

/// Most inflaters of a worker that are kept for use again, and most compressors.
const KEPT: usize = 4;

/// Compressors and inflaters that the connections of a worker share. Each message takes its own.
#[derive(Debug)]
pub(crate) struct Deflate {
    compressor: CompressorSettings,
    inflaters: Vec<Inflater>,
    /// Compressors without context takeover, each with the bits of its window.
    deflaters: Vec<(u8, Deflater)>,
}

impl Deflate {
    pub(crate) fn new(settings: Option<&DeflateSettings>) -> Self {
        let mut compressor = CompressorSettings::default();
        if let Some(DeflateSettings { memory_level, .. }) = settings {
            compressor.memory_level = *memory_level;
        }
        Self { compressor, inflaters: Vec::new(), deflaters: Vec::new() }
    }

    pub(crate) fn take_inflater(&mut self) -> Inflater {
        self.inflaters.pop().unwrap_or_default()
    }

    pub(crate) fn put_inflater(&mut self, inflater: Inflater) {
        if self.inflaters.len() < KEPT {
            self.inflaters.push(inflater);
        }
    }

    fn new_deflater(&self, window_bits: u8, takes_over: bool) -> Deflater {
        Deflater::new(CompressorSettings { window_bits, ..self.compressor }, takes_over)
    }

    fn take_deflater(&mut self, window_bits: u8) -> Deflater {
        match self.deflaters.iter().rposition(|(bits, _)| *bits == window_bits) {
            Some(place) => self.deflaters.swap_remove(place).1,
            None => self.new_deflater(window_bits, false),
        }
    }

    fn put_deflater(&mut self, window_bits: u8, deflater: Deflater) {
        if self.deflaters.len() == KEPT {
            self.deflaters.remove(0);
        }
        self.deflaters.push((window_bits, deflater));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_pass_through_where_both_directions_reach_the_same() {
        let way = |server_alone, client_alone, server_max_window_bits, client_max_window_bits| {
            let agreed = Parameters {
                server_no_context_takeover: server_alone,
                client_no_context_takeover: client_alone,
                server_max_window_bits,
                client_max_window_bits,
            };
            [DeflateEcho::Passthrough, DeflateEcho::Recompress].map(|echo| Way::of(&agreed, echo))
        };
        use Way::{Passthrough, Recompress};
        // Neither end takes context over, or both do, or only the server may.
        for (server, client) in [(true, true), (false, false), (false, true)] {
            assert_eq!(way(server, client, 15, 15), [Passthrough, Recompress(15)]);
            assert_eq!(way(server, client, 12, 9), [Passthrough, Recompress(12)]);
            assert_eq!(way(server, client, 9, 9), [Passthrough, Recompress(9)]);
            // The client's compressor reaches further than the server may.
            assert_eq!(way(server, client, 9, 10), [Recompress(9), Recompress(9)]);
        }
        // The client takes over what the server must not refer to.
        assert_eq!(way(true, false, 15, 15), [Recompress(15), Recompress(15)]);
    }
}
