//! Messages into their echoes.
//!
//! A server's frame header is exactly 4 bytes shorter than the client's, so a whole frame is turned
//! into its echo inside the buffer that it arrived in: payload unmasked, new header directly before
//! it. Of several frames in one read the first stays where it is and the others move forward to
//! stand directly behind it, so that all replies of a read are one range of bytes:
//!
//! ```text
//! arrived   | head A | payload A | head B | payload B | head C | payload C |
//! leaves        |hd A| payload A |hd B| payload B |hd C| payload C |
//! ```
//!
//! A message that is not whole in one read, or is fragmented, is assembled in a buffer of its own
//! first, with room for the reply's header in front. Its memory follows what has arrived, never a
//! declared length.

mod compressed;

use std::num::NonZeroU32;
use std::ops::Range;

use bytes::{Buf, BytesMut};
use engine::{Nanos, Output};
use protocol::frame::MAX_CONTROL_LEN;
use protocol::{
    Chunk, Close, Connection, Event, Limits, MessageKind, Opcode, ProtocolError, encode_close,
    encode_control, server_header_len, write_server_header_before,
};

use self::compressed::{Inflation, MIN_READ_WORK, TURN_WORK};
use crate::connection::Account;
use crate::deflate::{Compression, Deflate};
use crate::stats::DeflateCounters;

/// The longest header a server writes.
const HEADER_ROOM: usize = 10;

/// Outcome of a read.
#[derive(Debug)]
pub(crate) enum Flow {
    /// The connection goes on.
    Open,
    /// The other end sent this Close, and nothing behind it so far.
    Closed(Close),
    /// The other end sent this Close, and more behind it, which RFC 6455 5.5.1 forbids.
    ClosedAndSent(Close),
    /// Inflating takes more work than a read may. What is left of the read is kept, and nothing may
    /// be read before [`Echo::resume`] has continued.
    Parked,
}

/// Connection as the transform sees it.
#[derive(Debug)]
pub(crate) struct Peer<'a> {
    pub(crate) socket: &'a mut Connection,
    pub(crate) assembly: &'a mut Assembly,
    pub(crate) account: &'a mut Option<Box<Account>>,
}

impl Peer<'_> {
    /// The same for a call that few messages need: the parts themselves stay in registers.
    #[inline(always)]
    fn reborrow(&mut self) -> Peer<'_> {
        Peer { socket: self.socket, assembly: self.assembly, account: self.account }
    }

    fn compression(&mut self) -> &mut Compression {
        let compression = self.account.as_mut().and_then(|account| account.compression.as_mut());
        compression.expect("the handshake agreed on it")
    }
}

/// The transform, with what one worker keeps for it.
#[derive(Debug)]
pub(crate) struct Echo {
    limits: Limits,
    messages: u64,
    /// Pings and pongs.
    controls: u64,
    assemblies: Assemblies,
    deflate: Deflate,
    deflated: DeflateCounters,
    /// Work that may still be spent on inflating in this turn.
    work_left: usize,
    /// Work that the current read, or the turn of a parked connection, may still do.
    read_work_left: usize,
    /// Output of a step.
    inflated: Vec<u8>,
}

impl Echo {
    pub(crate) fn new(limits: Limits, deflate: Deflate) -> Self {
        Self {
            limits,
            messages: 0,
            controls: 0,
            assemblies: Assemblies::default(),
            deflate,
            deflated: DeflateCounters::default(),
            work_left: TURN_WORK,
            read_work_left: 0,
            inflated: Vec::new(),
        }
    }

    /// Compressed messages so far.
    pub(crate) fn deflated(&self) -> DeflateCounters {
        self.deflated
    }

    /// Begins the next turn of the worker.
    pub(crate) fn turn_end(&mut self) {
        self.work_left = TURN_WORK;
    }

    /// Gives back memory of a connection that is silent.
    pub(crate) fn rest(&mut self, compression: &mut Compression) {
        compression.rest(&mut self.deflate);
    }

    /// Messages echoed so far.
    pub(crate) fn messages(&self) -> u64 {
        self.messages
    }

    /// Messages, pings and pongs so far: what a rate of messages counts.
    #[inline]
    pub(crate) fn arrivals(&self) -> u64 {
        self.messages + self.controls
    }

    /// When the connection's unfinished message began, if some of its payload has come.
    pub(crate) fn begun(&self, assembly: &Assembly) -> Option<Nanos> {
        assembly.0.map(|place| self.assemblies.unfinished[index(place)].begun)
    }

    /// Echoes what is complete in `input[at..]` and keeps the rest. On an error everything before
    /// the fault has been echoed and nothing after it will be. `origin`: where
    /// `input` lies.
    #[inline(always)]
    pub(crate) fn read(
        &mut self,
        mut peer: Peer<'_>,
        input: &mut [u8],
        mut at: usize,
        origin: Input,
        out: &mut Output<'_>,
    ) -> Result<Flow, ProtocolError> {
        let mut replies = Replies { range: at..at, origin };
        self.read_work_left = self.work_left.max(MIN_READ_WORK);
        let outcome = loop {
            let done = match peer.socket.next(&self.limits, input, &mut at) {
                Ok(Some(Event::Data(chunk))) if chunk.is_whole() => {
                    self.echo_in_place(peer.socket, chunk, input, &mut replies)
                }
                Ok(Some(Event::Data(chunk))) if chunk.compressed => {
                    match self.echo_compressed(peer.reborrow(), chunk, input, at, &mut replies, out)
                    {
                        Ok(true) => Ok(()),
                        Ok(false) => break Ok(Flow::Parked),
                        Err(error) => Err(error),
                    }
                }
                Ok(Some(Event::Data(chunk))) => {
                    self.assemble(peer.reborrow(), chunk, input, &mut replies, out)
                }
                Ok(Some(Event::Ping(ping))) => {
                    replies.flush(input, out);
                    self.answer(ping.payload(), out);
                    Ok(())
                }
                Ok(Some(Event::Pong(_))) => {
                    self.controls += 1;
                    Ok(())
                }
                Ok(Some(Event::Close(close))) if at < input.len() => {
                    break Ok(Flow::ClosedAndSent(close));
                }
                Ok(Some(Event::Close(close))) => break Ok(Flow::Closed(close)),
                Ok(None) => break Ok(Flow::Open),
                Err(error) => Err(error),
            };
            if let Err(error) = done {
                break Err(error);
            }
        };
        replies.flush(input, out);
        outcome
    }

    /// Answers a ping (RFC 6455 5.5.3); kept out of the way that messages take.
    #[inline(never)]
    fn answer(&mut self, ping: &[u8], out: &mut Output<'_>) {
        self.controls += 1;
        control(Opcode::Pong, ping, out);
    }

    #[inline]
    fn echo_in_place(
        &mut self,
        socket: &mut Connection,
        chunk: Chunk,
        input: &mut [u8],
        replies: &mut Replies,
    ) -> Result<(), ProtocolError> {
        let opcode = chunk.kind.opcode();
        let header_len = server_header_len(chunk.payload.len() as u64);
        let stays = chunk.payload.start;
        let to = replies.payload_start(stays, header_len);
        // On an error `replies` still ends before this message.
        let payload = if to == stays {
            socket.unmask_in_place(chunk, input)?
        } else {
            socket.unmask_shift(chunk, input, to)?
        };
        let start = write_server_header_before(input, payload.start, opcode, payload.len());
        replies.add(start..payload.end);
        self.messages += 1;
        Ok(())
    }

    fn assemble(
        &mut self,
        peer: Peer<'_>,
        chunk: Chunk,
        input: &[u8],
        replies: &mut Replies,
        out: &mut Output<'_>,
    ) -> Result<(), ProtocolError> {
        let (kind, last) = (chunk.kind, chunk.last);
        let message = self.assemblies.open(peer.assembly, out);
        peer.socket.unmask_append(chunk, input, &mut message.buffer)?;
        if last {
            self.messages += 1;
            replies.flush(input, out);
            out.give(framed(self.assemblies.take(peer.assembly), kind));
        }
        Ok(())
    }

    /// Drops an unfinished message; its buffer is used again.
    pub(crate) fn discard(&mut self, assembly: &mut Assembly, out: &mut Output<'_>) {
        if assembly.is_open() {
            out.recycle(self.assemblies.take(assembly));
        }
    }

    /// Drops an unfinished message and its memory.
    pub(crate) fn forget(&mut self, mut assembly: Assembly) {
        if assembly.is_open() {
            drop(self.assemblies.take(&mut assembly));
        }
    }
}

/// Where the input of a read lies.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Input {
    /// In the bytes of this call of the engine, which it can send from.
    Received,
    /// In memory of this handler.
    Kept,
}

/// The range of the input that holds finished replies which are not handed to the engine yet.
#[derive(Debug)]
struct Replies {
    range: Range<usize>,
    origin: Input,
}

impl Replies {
    /// Returns the index for the payload of the next reply: after the last reply, with room for a
    /// header. Without an earlier reply the payload stays at `lies`. The result is never greater
    /// than `lies`, because a client's header is longer than the server's.
    #[inline]
    fn payload_start(&self, lies: usize, header_len: usize) -> usize {
        if self.range.is_empty() { lies } else { self.range.end + header_len }
    }

    #[inline]
    fn add(&mut self, reply: Range<usize>) {
        debug_assert!(reply.start >= self.range.end);
        if self.range.is_empty() {
            self.range = reply;
        } else {
            debug_assert_eq!(reply.start, self.range.end);
            self.range.end = reply.end;
        }
    }

    /// Hands the replies to the engine, so that something else can stand behind them.
    #[inline]
    fn flush(&mut self, input: &[u8], out: &mut Output<'_>) {
        match self.origin {
            Input::Received => out.echo(self.range.clone()),
            Input::Kept => out.append(&input[self.range.clone()]),
        }
        self.range.start = self.range.end;
    }
}

/// Puts the reply's header into the room before the assembled payload.
fn framed(mut buffer: BytesMut, kind: MessageKind) -> BytesMut {
    let len = buffer.len() - HEADER_ROOM;
    let start = write_server_header_before(&mut buffer, HEADER_ROOM, kind.opcode(), len);
    buffer.advance(start);
    buffer
}

/// Takes a buffer that holds nothing but the room for a header.
fn with_header_room(out: &mut Output<'_>) -> BytesMut {
    let mut buffer = out.buffer();
    // The last use moved the buffer's beginning behind the room its header did not need. Asking for
    // more than is there moves it back; without that every use would shorten the buffer until it
    // had to grow again.
    let _ = buffer.try_reclaim(buffer.capacity() + 1);
    buffer.extend_from_slice(&[0; HEADER_ROOM]);
    buffer
}

/// Sends a control frame.
pub(crate) fn control(opcode: Opcode, payload: &[u8], out: &mut Output<'_>) {
    let mut frame = [0; MAX_CONTROL_LEN];
    let len = encode_control(opcode, payload, None, &mut frame);
    out.append(&frame[..len]);
}

/// Sends a Close frame with a code.
pub(crate) fn close(code: u16, reason: &str, out: &mut Output<'_>) {
    let mut frame = [0; MAX_CONTROL_LEN];
    let len = encode_close(Some(code), reason, None, &mut frame);
    out.append(&frame[..len]);
}

/// A connection's place among the worker's unfinished messages, if it has one: four bytes in place
/// of a buffer, which most connections never need.
#[derive(Debug, Default)]
pub(crate) struct Assembly(Option<NonZeroU32>);

impl Assembly {
    fn is_open(&self) -> bool {
        self.0.is_some()
    }
}

/// The unfinished messages of one worker.
#[derive(Debug, Default)]
struct Assemblies {
    unfinished: Vec<Unfinished>,
    free: Vec<NonZeroU32>,
}

#[derive(Debug)]
struct Unfinished {
    /// Payload so far, after the room for the header.
    buffer: BytesMut,
    begun: Nanos,
    /// State of a compressed message.
    inflation: Option<Inflation>,
}

impl Assemblies {
    /// The connection's message, which begins here if it has none.
    fn open(&mut self, assembly: &mut Assembly, out: &mut Output<'_>) -> &mut Unfinished {
        let place = *assembly.0.get_or_insert_with(|| {
            let buffer = with_header_room(out);
            self.insert(Unfinished { buffer, begun: out.now(), inflation: None })
        });
        &mut self.unfinished[index(place)]
    }

    fn insert(&mut self, message: Unfinished) -> NonZeroU32 {
        if let Some(place) = self.free.pop() {
            self.unfinished[index(place)] = message;
            return place;
        }
        self.unfinished.push(message);
        u32::try_from(self.unfinished.len())
            .ok()
            .and_then(NonZeroU32::new)
            .expect("fewer connections than 2^32")
    }

    /// Ends the connection's message. Returns its buffer.
    fn take(&mut self, assembly: &mut Assembly) -> BytesMut {
        assembly.0.take().map_or_else(BytesMut::new, |place| {
            self.free.push(place);
            let message = &mut self.unfinished[index(place)];
            message.inflation = None;
            std::mem::take(&mut message.buffer)
        })
    }
}

/// Places count from one, so that "none" costs no bytes.
fn index(place: NonZeroU32) -> usize {
    place.get() as usize - 1
}
