//! Compression of a worker's connections, where the load offers it.
//!
//! A compressed echo is compared by its bytes as long as they are those that were sent. From the
//! first other byte on it is inflated and compared in pieces: the bytes before are known.
//!
//! With context takeover the same bytes are the same message only while all echoes before it had
//! the bytes of their messages too: then the server's window is ours. So after the first other byte
//! every echo of the connection is inflated. The window with which that begins is not kept until
//! then, because it is known: it has the messages that were sent.

use engine::{Nanos, Output, Worker};
use protocol::deflate::{History, Inflater, MIN_DEFLATE_BITS};
use protocol::frame::RSV1;
use protocol::handshake::deflate::Parameters;
use protocol::{Limits, MessageKind, ProtocolError};

use super::super::check::{Judged, PartialEcho};
use super::super::compressed::{Compressor, Precompressed, Scratch, push_messages};
use super::super::ledger::Ledger;
use super::super::outgoing::Outgoing;
use super::super::payload::Parts;
use super::super::shared::Shared;
use super::super::tally::CompressionTally;
use super::Client;

/// Bytes that are inflated at a time.
const STEP: usize = 16 << 10;

/// State of a worker whose connections offer compression.
pub(super) struct Compression {
    links: Vec<LinkCompression>,
    /// Inflaters without a message.
    inflaters: Vec<Inflater>,
    inflated: Box<[u8]>,
    scratch: Scratch,
    /// Messages of this turn that were compressed after their time was read: the connection, and
    /// the first of them.
    entered: Vec<(u32, u64)>,
}

/// Compression of one connection.
#[derive(Default)]
struct LinkCompression {
    encoder: Encoder,
    /// Bytes to which the server's next message may refer. Empty while `may_be_same` is true.
    history: Option<Box<History>>,
    /// True if the next echo is the right one where its bytes are those that were sent.
    may_be_same: bool,
    echo: CompressedEcho,
}

/// Source of a connection's payloads.
#[derive(Default)]
enum Encoder {
    /// Messages are sent without compression.
    #[default]
    Plain,
    /// Messages were compressed before the run.
    Before { window_bits: u8, takes_over: bool },
    /// Messages are compressed one after the other, for a window of this size. Generated ones are
    /// until a cycle begins.
    Now { window_bits: u8, compressor: Box<Compressor> },
}

impl Encoder {
    /// Returns the messages that were compressed before the run, if this connection sends them.
    fn precompressed<'a>(&self, shared: &'a Shared) -> Option<&'a Precompressed> {
        match *self {
            Self::Before { window_bits, takes_over } => {
                Some(shared.precompressed(window_bits, takes_over))
            }
            Self::Plain | Self::Now { .. } => None,
        }
    }
}

/// A compressed echo that is being received.
#[derive(Default)]
enum CompressedEcho {
    #[default]
    None,
    /// So far its bytes are those of this message.
    Same {
        sequence: u64,
        len: usize,
    },
    Inflating(Inflater),
}

impl Compression {
    /// Returns the state of a worker's connections; `None` where the load offers no compression.
    pub(super) fn new(shared: &Shared, links: usize) -> Option<Box<Self>> {
        shared.load.offer().map(|_| {
            Box::new(Self {
                links: (0..links).map(|_| LinkCompression::default()).collect(),
                inflaters: Vec::new(),
                inflated: vec![0; STEP].into(),
                scratch: Scratch::default(),
                entered: Vec::new(),
            })
        })
    }

    /// Begins a connection with the server's answer to the offer. `first`: its first message, if it
    /// sends messages.
    pub(super) fn open(
        &mut self,
        shared: &Shared,
        link: u32,
        answer: Option<Parameters>,
        first: Option<u64>,
    ) {
        let link = &mut self.links[link as usize];
        self.inflaters.extend(link.echo.take_inflater());
        *link = LinkCompression::default();
        let Some(agreed) = answer else { return };
        link.history = (!agreed.server_no_context_takeover)
            .then(|| Box::new(History::new(agreed.server_max_window_bits)));
        let window_bits = agreed.client_max_window_bits;
        let Some(first) = first.filter(|_| window_bits >= MIN_DEFLATE_BITS) else { return };
        let takes_over = !agreed.client_no_context_takeover;
        let is_compressed_on_send = match shared.own {
            Some(_) => shared.load.compresses_own_messages_on_send(),
            None => takes_over && first % shared.content.cycle() > 0,
        };
        link.encoder = if is_compressed_on_send {
            let settings = shared.load.compressor(window_bits);
            let compressor = Box::new(Compressor::new(settings, takes_over));
            Encoder::Now { window_bits, compressor }
        } else {
            // Compressed now where the server's answer is another than before.
            shared.precompressed(window_bits, takes_over);
            // Messages of the server that come first are in its window alone.
            let is_ours = link.history.is_none() || !shared.assembles_answers();
            link.may_be_same = takes_over == link.history.is_some()
                && window_bits <= agreed.server_max_window_bits
                && is_ours;
            Encoder::Before { window_bits, takes_over }
        };
    }

    /// Sends messages, as far as unsent bytes allow. Returns the first message that is left.
    #[allow(clippy::too_many_arguments, reason = "the parts of a worker that sending takes")]
    pub(super) fn send(
        &mut self,
        shared: &Shared,
        outgoing: &mut Outgoing,
        tally: &mut CompressionTally,
        (link, connection): (u32, u32),
        mut sequences: std::ops::Range<u64>,
        out: &mut Output<'_>,
    ) -> u64 {
        let content = &shared.content;
        let Self { links, scratch, .. } = self;
        let encoder = &mut links[link as usize].encoder;
        if let Encoder::Plain = encoder {
            let start = sequences.start;
            let left = outgoing.send(content, connection, sequences, out);
            tally.sent_uncompressed += left - start;
            return left;
        }
        while Outgoing::has_room(out)
            && let Some(sequence) = sequences.next()
        {
            if let Encoder::Now { window_bits, .. } = *encoder
                && sequence % content.cycle() == 0
            {
                *encoder = Encoder::Before { window_bits, takes_over: true };
            }
            let parts = match encoder {
                Encoder::Before { window_bits, takes_over } => {
                    let set = shared.precompressed(*window_bits, *takes_over);
                    set.parts(content, connection, sequence)
                }
                Encoder::Now { compressor, .. } => {
                    tally.compressed_on_send += 1;
                    compressor.parts(content, connection, sequence, scratch)
                }
                Encoder::Plain => break,
            };
            outgoing.send_payload(content.kind(), &parts, RSV1, out);
            tally.has_sent(parts.len(), content.len_of(connection, sequence));
        }
        sequences.start
    }

    /// Returns the compressed payload of one of the user's own messages, by its index; `None` where
    /// the connection sends without compression.
    pub(super) fn own_parts<'a>(
        &'a mut self,
        shared: &'a Shared,
        tally: &mut CompressionTally,
        link: u32,
        index: usize,
        message: &[u8],
    ) -> Option<Parts<'a>> {
        let Self { links, scratch, .. } = self;
        match &mut links[link as usize].encoder {
            Encoder::Plain => None,
            Encoder::Before { window_bits, takes_over } => {
                Some(shared.precompressed(*window_bits, *takes_over).own_parts(index))
            }
            Encoder::Now { compressor, .. } => {
                tally.compressed_on_send += 1;
                Some(compressor.deflate(message, scratch))
            }
        }
    }

    /// Appends a piece of a compressed message to `message`, inflated.
    pub(super) fn inflate_whole(
        &mut self,
        limits: &Limits,
        link: u32,
        (first, last): (bool, bool),
        piece: &[u8],
        message: &mut Vec<u8>,
    ) -> Result<(), ProtocolError> {
        let link = link as usize;
        if first {
            self.inflaters.extend(self.links[link].echo.take_inflater());
            self.links[link].echo = self.inflater(link);
        }
        let LinkCompression { echo, history, .. } = &mut self.links[link];
        let CompressedEcho::Inflating(inflater) = echo else { return Ok(()) };
        let (scratch, history) = (&mut self.inflated, history.as_deref_mut());
        let take = |inflated: &[u8]| message.extend_from_slice(inflated);
        inflater.inflate_all(limits, piece, last, scratch, history, take)?;
        if last {
            self.inflaters.extend(self.links[link].echo.take_inflater());
        }
        Ok(())
    }

    /// Takes a piece of a compressed echo. Returns the judgement at its end.
    fn receive(
        &mut self,
        of: &EchoContext<'_>,
        tally: &mut CompressionTally,
        arriving: &mut PartialEcho,
        (first, last): (bool, bool),
        piece: &[u8],
    ) -> Result<Option<Judged>, ProtocolError> {
        let EchoContext { shared, ledger, connection, .. } = *of;
        let content = &shared.content;
        let set = self.links[of.link].encoder.precompressed(shared);
        if first {
            let link = &mut self.links[of.link];
            self.inflaters.extend(link.echo.take_inflater());
            let echo = match ledger.oldest() {
                Some(sequence) if link.may_be_same => CompressedEcho::Same { sequence, len: 0 },
                _ => self.inflating(of),
            };
            self.links[of.link].echo = echo;
        }
        let echo = &mut self.links[of.link].echo;
        if let (CompressedEcho::Same { sequence, len }, Some(set)) = (echo, set) {
            let (sequence, before) = (*sequence, *len);
            let parts = set.parts(content, connection, sequence);
            *len += piece.len();
            if parts.has_at(before, piece) && (!last || *len == parts.len()) {
                return Ok(last.then(|| {
                    tally.same_bytes += 1;
                    tally.received.message_bytes += content.len_of(connection, sequence) as u64;
                    Judged { sequence: Some(sequence), sound: true, is_foreign: false }
                }));
            }
            self.links[of.link].echo = self.inflating(of);
            let same = [parts.head(), parts.body()];
            let mut left = before;
            for part in same {
                let part = &part[..part.len().min(left)];
                left -= part.len();
                self.inflate(of, arriving, part, false)?;
            }
        }
        self.inflate(of, arriving, piece, last)?;
        if !last {
            return Ok(None);
        }
        tally.inflated += 1;
        tally.received.message_bytes += arriving.got() as u64;
        let link = &mut self.links[of.link];
        self.inflaters.extend(link.echo.take_inflater());
        Ok(Some(arriving.finish(content, connection, ledger)))
    }

    /// Returns an inflater that has begun a message of a connection. It does not check text,
    /// because every byte is compared.
    fn inflating(&mut self, of: &EchoContext<'_>) -> CompressedEcho {
        self.keep_history(of);
        self.inflater(of.link)
    }

    fn inflater(&mut self, link: usize) -> CompressedEcho {
        let mut inflater = self.inflaters.pop().unwrap_or_default();
        inflater.begin(MessageKind::Binary, self.links[link].history.as_deref_mut());
        CompressedEcho::Inflating(inflater)
    }

    /// Keeps the window of a connection with context takeover from now on. So far the server has
    /// sent the bytes of every message before the oldest outstanding one.
    fn keep_history(&mut self, of: &EchoContext<'_>) {
        let link = &mut self.links[of.link];
        let Some(history) = &mut link.history else { return };
        if !std::mem::take(&mut link.may_be_same) {
            return;
        }
        let end = of.ledger.oldest().unwrap_or(of.ledger.next());
        push_messages(&of.shared.content, of.connection, of.first..end, history);
    }

    /// Inflates a piece and compares it.
    fn inflate(
        &mut self,
        of: &EchoContext<'_>,
        arriving: &mut PartialEcho,
        piece: &[u8],
        last: bool,
    ) -> Result<(), ProtocolError> {
        let LinkCompression { echo, history, .. } = &mut self.links[of.link];
        let CompressedEcho::Inflating(inflater) = echo else { return Ok(()) };
        let (scratch, history) = (&mut self.inflated, history.as_deref_mut());
        inflater.inflate_all(of.limits, piece, last, scratch, history, |inflated| {
            arriving.feed(&of.shared.content, of.connection, of.ledger, inflated);
        })
    }
}

/// Facts that an echo is compared with.
struct EchoContext<'a> {
    shared: &'a Shared,
    limits: &'a Limits,
    ledger: &'a Ledger,
    link: usize,
    /// Number of the connection, and its first message.
    connection: u32,
    first: u64,
}

impl CompressedEcho {
    fn take_inflater(&mut self) -> Option<Inflater> {
        match std::mem::take(self) {
            Self::Inflating(inflater) => Some(inflater),
            Self::None | Self::Same { .. } => None,
        }
    }
}

impl Client {
    /// Takes a piece of a compressed echo.
    pub(super) fn read_compressed(
        &mut self,
        link: u32,
        kind: MessageKind,
        (first, last): (bool, bool),
        piece: &[u8],
    ) -> Result<(), ProtocolError> {
        let Some(compression) = &mut self.compression else { return Ok(()) };
        let connection = self.shard.number(link);
        let state = &mut self.links[link as usize];
        let tally = &mut self.tally.compression;
        tally.received.payload_bytes += piece.len() as u64;
        tally.received.messages += u64::from(last);
        let judged = if self.shared.load.verify {
            let of = EchoContext {
                shared: &self.shared,
                limits: &self.limits,
                ledger: &state.ledger,
                link: link as usize,
                connection,
                first: state.first,
            };
            compression.receive(&of, tally, &mut state.arriving, (first, last), piece)?
        } else {
            state.arriving.skip(piece);
            last.then(|| state.arriving.finish_unseen(&state.ledger))
        };
        if let Some(judged) = judged {
            self.count_echo(link, kind, judged);
        }
        Ok(())
    }

    /// Handles the beginning of an echo that is not compressed. The server's window does not
    /// contain this echo, so from here on it differs from the window of the sent messages.
    #[cold]
    pub(super) fn begin_uncompressed(&mut self, link: u32) {
        let Some(compression) = &mut self.compression else { return };
        let state = &self.links[link as usize];
        compression.keep_history(&EchoContext {
            shared: &self.shared,
            limits: &self.limits,
            ledger: &state.ledger,
            link: link as usize,
            connection: self.shard.number(link),
            first: state.first,
        });
    }

    /// Notes messages that are compressed while they are sent.
    pub(super) fn note_entered(&mut self, link: u32, first: u64) {
        if let Some(compression) = &mut self.compression
            && let Encoder::Now { .. } = compression.links[link as usize].encoder
        {
            compression.entered.push((link, first));
        }
    }

    /// Moves the time of sending behind the compressing of this turn's messages: one clock read for
    /// all. `from`: the time that they were entered with. Where a turn has so much output that the
    /// engine sends a part of it earlier, that part counts as sent late.
    #[inline]
    pub(super) fn exclude_compressing(&mut self, from: Nanos, w: &mut Worker<'_, Self>) {
        let Some(compression) = &mut self.compression else { return };
        if compression.entered.is_empty() {
            return;
        }
        let spent = w.clock().since(from);
        for (link, first) in compression.entered.drain(..) {
            self.links[link as usize].ledger.delay_from(first, spent);
        }
    }
}
