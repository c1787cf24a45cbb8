//! Compressed messages into their echoes (RFC 7692).
//!
//! They take the ways of other messages: in place where a whole frame lies in one read, else by
//! assembling. What is inflated is checked and, where the bytes that came go back, dropped. The
//! reads of a turn inflate a bounded amount. A connection with more to do is parked, and
//! [resumed](super::Echo::resume) in turn with the others that are.

use bytes::BytesMut;
use engine::Output;
use protocol::deflate::{Deflater, History, Inflater};
use protocol::frame::mark_compressed;
use protocol::{Chunk, MessageKind, ProtocolError, server_header_len, write_server_header_before};

use super::{Assembly, Echo, Peer, Replies, framed};
use crate::deflate::Way;

/// Work that the reads of a turn may spend on inflating: one for each byte that comes out,
/// [`READ_WORK`] for each that goes in, and [`BEGIN_WORK`] for each message. A unit takes 14 ns or
/// less, whatever the input.
pub(super) const TURN_WORK: usize = 256 << 10;

/// Work that each read may do in any case, so that the usual ones park nothing.
pub(super) const MIN_READ_WORK: usize = 64 << 10;

/// Work of a parked connection's turn.
const RESUMED_WORK: usize = 64 << 10;

/// Work of a message besides its bytes: the inflater is given what the message may refer to.
const BEGIN_WORK: usize = 64;

/// Work of inflating a byte of input, besides what comes out: blocks that are empty, or have codes
/// of their own, cost time without output.
const READ_WORK: usize = 8;

/// Work of compressing a byte again.
const DEFLATE_WORK: usize = 2;

/// Most bytes of input, and of output, of one step.
const STEP: usize = 8 << 10;

/// Compressed message that has not been inflated to its end.
#[derive(Debug)]
pub(super) struct Inflation {
    inflater: Inflater,
    /// Compressor of the echo, where it is compressed again.
    deflater: Option<Deflater>,
    kind: MessageKind,
    /// True if the message's last byte has arrived.
    last: bool,
    /// Parked: bytes of the message that are not inflated yet, unmasked.
    pending: BytesMut,
    /// Parked: what arrived behind these bytes.
    pub(super) input: BytesMut,
}

impl Inflation {
    fn new(inflater: Inflater, kind: MessageKind) -> Self {
        let (pending, input) = (BytesMut::new(), BytesMut::new());
        Self { inflater, deflater: None, kind, last: false, pending, input }
    }
}

impl Echo {
    /// Inflates a chunk, and echoes the message that it ends. Returns false where that takes more
    /// work than a read may: the message is open then, and has what is left, with `input[at..]`.
    #[inline(never)]
    #[cold]
    pub(super) fn echo_compressed(
        &mut self,
        mut peer: Peer<'_>,
        chunk: Chunk,
        input: &mut [u8],
        at: usize,
        replies: &mut Replies,
        out: &mut Output<'_>,
    ) -> Result<bool, ProtocolError> {
        let is_done = self.inflate_chunk(&mut peer, chunk, input, replies, out)?;
        if !is_done {
            self.keep(peer.assembly, BytesMut::from(&input[at..]), out);
        }
        Ok(is_done)
    }

    fn inflate_chunk(
        &mut self,
        peer: &mut Peer<'_>,
        chunk: Chunk,
        input: &mut [u8],
        replies: &mut Replies,
        out: &mut Output<'_>,
    ) -> Result<bool, ProtocolError> {
        let passes = peer.compression().way == Way::Passthrough;
        if passes && chunk.is_whole_compressed() {
            return self.pass_in_place(peer, chunk, input, replies, out);
        }
        let Chunk { kind, first, last, .. } = chunk;
        let payload = peer.socket.unmask_in_place(chunk, input)?;
        replies.flush(input, out);
        if first {
            let inflater = self.begin(peer, kind);
            let deflater = peer.compression().take_deflater(&mut self.deflate);
            let inflation = Inflation { deflater, ..Inflation::new(inflater, kind) };
            self.assemblies.open(peer.assembly, out).inflation = Some(inflation);
        }
        let message = self.assemblies.open(peer.assembly, out);
        if passes {
            message.buffer.extend_from_slice(&input[payload.clone()]);
        }
        let mut inflation = message.inflation.take().expect("begun with the first chunk");
        inflation.last = last;
        self.go_on(peer, inflation, &input[payload], out)
    }

    /// Returns a whole frame as it came, unmasked, where it lies.
    fn pass_in_place(
        &mut self,
        peer: &mut Peer<'_>,
        chunk: Chunk,
        input: &mut [u8],
        replies: &mut Replies,
        out: &mut Output<'_>,
    ) -> Result<bool, ProtocolError> {
        let kind = chunk.kind;
        let header_len = server_header_len(chunk.payload.len() as u64);
        let to = replies.payload_start(chunk.payload.start, header_len);
        let payload = peer.socket.unmask_shift(chunk, input, to)?;
        let bytes = &input[payload.clone()];
        let mut inflater = self.begin(peer, kind);
        let history = peer.compression().received();
        match self.inflate(&mut inflater, bytes, true, history, None) {
            Ok(None) => {
                self.deflate.put_inflater(inflater);
                self.deflated.passed += 1;
                let len = payload.len();
                let start = write_server_header_before(input, payload.start, kind.opcode(), len);
                mark_compressed(&mut input[start..]);
                replies.add(start..payload.end);
                self.messages += 1;
                Ok(true)
            }
            Ok(Some(read)) => {
                let pending = BytesMut::from(&bytes[read..]);
                let inflation = Inflation { last: true, pending, ..Inflation::new(inflater, kind) };
                let message = self.assemblies.open(peer.assembly, out);
                message.buffer.extend_from_slice(bytes);
                message.inflation = Some(inflation);
                Ok(false)
            }
            Err(error) => {
                self.deflate.put_inflater(inflater);
                peer.socket.fail();
                Err(error)
            }
        }
    }

    /// Continues a parked message. Returns what arrived behind it once it is echoed, and `None`
    /// where it stays parked.
    pub(crate) fn resume(
        &mut self,
        peer: &mut Peer<'_>,
        out: &mut Output<'_>,
    ) -> Result<Option<BytesMut>, ProtocolError> {
        self.work_left = RESUMED_WORK;
        self.read_work_left = RESUMED_WORK;
        let message = self.assemblies.open(peer.assembly, out);
        let Some(mut inflation) = message.inflation.take() else {
            return Ok(Some(BytesMut::new()));
        };
        let (pending, input) =
            (std::mem::take(&mut inflation.pending), std::mem::take(&mut inflation.input));
        if self.go_on(peer, inflation, &pending, out)? {
            return Ok(Some(input));
        }
        self.keep(peer.assembly, input, out);
        Ok(None)
    }

    /// Keeps what arrived behind a parked message.
    fn keep(&mut self, assembly: &mut Assembly, input: BytesMut, out: &mut Output<'_>) {
        if let Some(inflation) = &mut self.assemblies.open(assembly, out).inflation {
            inflation.input = input;
        }
    }

    /// Inflates further bytes of the message, and echoes it if they are its last. Returns false
    /// where that takes more work than is left.
    fn go_on(
        &mut self,
        peer: &mut Peer<'_>,
        mut inflation: Inflation,
        bytes: &[u8],
        out: &mut Output<'_>,
    ) -> Result<bool, ProtocolError> {
        let message = self.assemblies.open(peer.assembly, out);
        let mut buffer = std::mem::take(&mut message.buffer);
        let last = inflation.last;
        let Inflation { inflater, deflater, .. } = &mut inflation;
        let again = deflater.as_mut().map(|deflater| (deflater, &mut buffer));
        let read = self.inflate(inflater, bytes, last, peer.compression().received(), again);
        let message = self.assemblies.open(peer.assembly, out);
        message.buffer = buffer;
        match read {
            Ok(None) if last => {
                let mut frame = self.assemblies.take(peer.assembly);
                if let Some(mut deflater) = inflation.deflater {
                    deflater.finish(&mut frame);
                    peer.compression().put_deflater(deflater, &mut self.deflate);
                    self.deflated.recompressed += 1;
                } else {
                    self.deflated.passed += 1;
                }
                self.messages += 1;
                let mut frame = framed(frame, inflation.kind);
                mark_compressed(&mut frame);
                out.give(frame);
                self.deflate.put_inflater(inflation.inflater);
                Ok(true)
            }
            Ok(None) => {
                message.inflation = Some(inflation);
                Ok(true)
            }
            Ok(Some(read)) => {
                inflation.pending = BytesMut::from(&bytes[read..]);
                message.inflation = Some(inflation);
                Ok(false)
            }
            Err(error) => {
                self.deflate.put_inflater(inflation.inflater);
                peer.socket.fail();
                Err(error)
            }
        }
    }

    fn begin(&mut self, peer: &mut Peer<'_>, kind: MessageKind) -> Inflater {
        self.spend(BEGIN_WORK);
        let mut inflater = self.deflate.take_inflater();
        inflater.begin(kind, peer.compression().received());
        inflater
    }

    /// Inflates bytes of a message, and compresses what comes out `again`. Returns how many of them
    /// are inflated where that takes more work than is left, and `None` when all are.
    fn inflate(
        &mut self,
        inflater: &mut Inflater,
        input: &[u8],
        last: bool,
        mut history: Option<&mut History>,
        mut again: Option<(&mut Deflater, &mut BytesMut)>,
    ) -> Result<Option<usize>, ProtocolError> {
        self.inflated.resize(STEP, 0);
        let mut read = 0;
        loop {
            if self.read_work_left == 0 {
                return Ok(Some(read));
            }
            let end = input.len().min(read + STEP);
            let ends = last && end == input.len();
            let step =
                inflater.inflate(&self.limits, &input[read..end], ends, &mut self.inflated)?;
            let inflated = &self.inflated[..step.written];
            if let Some(history) = &mut history {
                history.push(inflated);
            }
            let mut work = step.written + READ_WORK * step.read;
            if let Some((deflater, out)) = &mut again {
                deflater.push(inflated, out);
                work += DEFLATE_WORK * step.written;
            }
            read += step.read;
            self.deflated.bytes_in += step.read as u64;
            self.deflated.bytes_inflated += step.written as u64;
            self.spend(work);
            if step.done && end == input.len() {
                return Ok(None);
            }
        }
    }

    fn spend(&mut self, work: usize) {
        self.work_left = self.work_left.saturating_sub(work);
        self.read_work_left = self.read_work_left.saturating_sub(work);
    }
}
