//! A TLS connection: rustls' state machine over the bytes of a turn.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{CommonState, Error, HandshakeKind};

use super::error::TlsError;
use crate::output::Output;

/// Length of a record's header (RFC 8446 5.1).
const HEADER: usize = 5;
/// Most plaintext of a record (RFC 8446 5.1).
const RECORD: usize = 1 << 14;
/// Largest plaintext, in bytes, that is encrypted into the arena. Larger plaintext goes into
/// separate buffers.
const MUCH: usize = 1 << 20;
/// Most plaintext, in bytes, that is encrypted into one separate buffer: a whole number of full
/// records.
const PIECE: usize = 16 * RECORD;
/// Most bytes of a record besides its plaintext: header, explicit nonce, type, tag.
const OVERHEAD: usize = 48;
/// Most bytes of a record's ciphertext (RFC 5246 6.2.3).
const LARGEST_RECORD: usize = RECORD + 2048;
/// Content types are consecutive from change_cipher_spec to heartbeat (RFC 8446 B.1, RFC 6520).
const CONTENT_TYPES: std::ops::RangeInclusive<u8> = 20..=24;
/// Content type of a client's first record: handshake.
const HANDSHAKE: u8 = 22;

/// Destination of records that rustls writes by itself.
pub(super) trait Sink {
    /// Returns room for at least this many bytes.
    fn reserve(&mut self, room: usize) -> &mut [u8];

    /// Keeps the first bytes of the last room.
    fn commit(&mut self, len: usize);
}

impl Sink for Output<'_> {
    fn reserve(&mut self, room: usize) -> &mut [u8] {
        Output::reserve(self, room)
    }

    fn commit(&mut self, len: usize) {
        Output::commit(self, len);
    }
}

/// A rustls connection of either role.
pub(super) trait End {
    type Data;

    fn state(&self) -> &CommonState;
    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl End for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn state(&self) -> &CommonState {
        self
    }

    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }
}

impl End for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn state(&self) -> &CommonState {
        self
    }

    fn process<'c, 'i>(&'c mut self, bytes: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(bytes)
    }
}

/// Role of our end.
pub(super) enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
    /// A server's, while the handshake thread has it.
    Away,
}

/// Stage of a connection.
pub(super) enum Stage {
    /// The TLS handshake is in progress. The handler's requests wait for it.
    Handshake(Waiting),
    Secured,
    /// The peer has sent close_notify, and the handler has been told.
    HalfClosed,
    /// Our side has closed the connection.
    Over,
}

/// Requests of the handler that wait for the TLS handshake.
#[derive(Default)]
pub(super) struct Waiting {
    pub(super) bytes: Vec<u8>,
    pub(super) close: bool,
    pub(super) pause: bool,
}

/// A server's end, and the bytes that it is to read.
pub(super) type ServerStep = (UnbufferedServerConnection, Vec<u8>);

/// Result of a read besides its plaintext.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ReadResult {
    /// True if the peer has sent close_notify.
    pub(super) ended: bool,
}

pub(super) struct Session {
    side: Side,
    pub(super) stage: Stage,
    /// Ciphertext of an incomplete record or handshake message. Empty and without memory otherwise.
    stash: Vec<u8>,
    /// True if the peer has sent anything.
    begun: bool,
    /// Index of a client's settings.
    pub(super) client: usize,
    pub(super) failure: Option<TlsError>,
}

impl Session {
    pub(super) fn new(side: Side, client: usize) -> Self {
        let stage = Stage::Handshake(Waiting::default());
        Self { side, stage, stash: Vec::new(), begun: false, client, failure: None }
    }

    /// Returns whether the handshake, which is over, has resumed a session.
    pub(super) fn is_resumed(&self) -> bool {
        let kind = match &self.side {
            Side::Server(end) => end.handshake_kind(),
            Side::Client(end) => end.handshake_kind(),
            Side::Away => None,
        };
        kind == Some(HandshakeKind::Resumed)
    }

    pub(super) fn is_server(&self) -> bool {
        matches!(self.side, Side::Server(_) | Side::Away)
    }

    /// Returns whether the peer has sent anything.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    pub(super) fn is_handshaking(&self) -> bool {
        match &self.side {
            Side::Server(end) => end.is_handshaking(),
            Side::Client(end) => end.is_handshaking(),
            Side::Away => true,
        }
    }

    /// Returns whether our side is closing the connection, because the handler asked for it or TLS
    /// failed. The handler's close may still wait for the handshake.
    pub(super) fn is_closing(&self) -> bool {
        match &self.stage {
            Stage::Handshake(waiting) => waiting.close,
            Stage::Secured | Stage::HalfClosed => false,
            Stage::Over => true,
        }
    }

    /// Bytes of output that wait for the handshake.
    pub(super) fn waiting_bytes(&self) -> usize {
        if let Stage::Handshake(waiting) = &self.stage { waiting.bytes.len() } else { 0 }
    }

    /// Sends a client's hello.
    pub(super) fn begin(&mut self, out: &mut Output<'_>) -> Result<(), TlsError> {
        self.pump_stash(&mut Vec::new(), out)?;
        Ok(())
    }

    /// Decrypts received bytes in place, and appends the plaintext to `plain`. Also sends rustls'
    /// own messages in response. If rustls rejects the input, its alert is sent before the error is
    /// returned.
    pub(super) fn read(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Output<'_>,
    ) -> Result<ReadResult, TlsError> {
        if !std::mem::replace(&mut self.begun, true) {
            self.looks_like_tls(bytes[0])?;
        }
        let (mut at, mut progress) = (0, ReadResult::default());
        while !self.stash.is_empty() && at < bytes.len() && !progress.ended {
            let take = missing(&self.stash).unwrap_or(usize::MAX).min(bytes.len() - at);
            self.stash.extend_from_slice(&bytes[at..at + take]);
            at += take;
            progress = self.pump_stash(plain, out)?;
        }
        if at < bytes.len() && !progress.ended {
            let (used, pumped) = self.pump(&mut bytes[at..], plain, out)?;
            progress = pumped;
            self.stash(&bytes[at + used..]);
        }
        if progress.ended {
            self.stash = Vec::new();
        }
        Ok(progress)
    }

    /// Takes received bytes of a handshake that is carried out elsewhere. Returns the server's end
    /// and all bytes of it, where a record is complete, or can never be. The connection must not be
    /// read until both are back.
    pub(super) fn take_step(&mut self, bytes: &[u8]) -> Result<Option<ServerStep>, TlsError> {
        if !std::mem::replace(&mut self.begun, true) {
            self.looks_like_tls(bytes[0])?;
        }
        self.stash.extend_from_slice(bytes);
        if missing(&self.stash).is_some_and(|missing| missing <= LARGEST_RECORD) {
            return Ok(None);
        }
        Ok(match std::mem::replace(&mut self.side, Side::Away) {
            Side::Server(end) => Some((end, std::mem::take(&mut self.stash))),
            side => {
                self.side = side;
                None
            }
        })
    }

    /// Takes back what [`take_step`](Self::take_step) gave away: the server's end, and bytes that
    /// were not used.
    pub(super) fn take_back(&mut self, end: UnbufferedServerConnection, bytes: Vec<u8>) {
        (self.side, self.stash) = (Side::Server(end), bytes);
    }

    fn looks_like_tls(&self, first: u8) -> Result<(), TlsError> {
        let right =
            if self.is_server() { first == HANDSHAKE } else { CONTENT_TYPES.contains(&first) };
        if right { Ok(()) } else { Err(TlsError::NotTls) }
    }

    /// Keeps incomplete ciphertext, with room for the rest of its record.
    fn stash(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.stash.reserve_exact(rest.len() + missing(rest).unwrap_or_default());
            self.stash.extend_from_slice(rest);
        }
    }

    fn pump_stash(
        &mut self,
        plain: &mut Vec<u8>,
        out: &mut Output<'_>,
    ) -> Result<ReadResult, TlsError> {
        let mut stash = std::mem::take(&mut self.stash);
        let (used, progress) = self.pump(&mut stash, plain, out)?;
        if used < stash.len() {
            stash.drain(..used);
            self.stash = stash;
        }
        Ok(progress)
    }

    fn pump(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Output<'_>,
    ) -> Result<(usize, ReadResult), TlsError> {
        match &mut self.side {
            Side::Server(end) => pump(end, bytes, plain, out),
            Side::Client(end) => pump(end, bytes, plain, out),
            Side::Away => Ok((0, ReadResult::default())),
        }
    }

    /// Sends `plain` in as few records as possible. Large output goes into separate buffers. In the
    /// arena, large output would make the arena grow to the next power of two. The part that the
    /// kernel does not accept at once would also have to be copied out of the arena.
    pub(super) fn encrypt(&mut self, plain: &[u8], out: &mut Output<'_>) -> Result<(), TlsError> {
        let is_much = plain.len() > MUCH;
        let write = |traffic: &mut dyn Traffic, out: &mut Output<'_>| {
            for piece in plain.chunks(if is_much { PIECE } else { MUCH }) {
                let room = piece.len() + OVERHEAD * (piece.len() / RECORD + 2);
                let f = |room: &mut [u8]| traffic.encrypt(piece, room);
                if is_much { into_buffer(room, out, f) } else { into_output(room, out, f) }?;
            }
            Ok(())
        };
        self.write(write, out)
    }

    /// Sends close_notify.
    pub(super) fn close_notify(&mut self, out: &mut Output<'_>) -> Result<(), TlsError> {
        let write = |traffic: &mut dyn Traffic, out: &mut Output<'_>| {
            into_output(2 * OVERHEAD, out, |room| traffic.close_notify(room))
        };
        self.write(write, out)
    }

    fn write(
        &mut self,
        f: impl FnMut(&mut dyn Traffic, &mut Output<'_>) -> Result<(), EncryptError>,
        out: &mut Output<'_>,
    ) -> Result<(), TlsError> {
        match &mut self.side {
            Side::Server(end) => write(end, &mut self.stash, f, out),
            Side::Client(end) => write(end, &mut self.stash, f, out),
            Side::Away => Ok(()),
        }
    }
}

/// Number of bytes missing from the record that begins here, or from its header. `None` where the
/// record is complete and only its handshake message is not.
fn missing(stash: &[u8]) -> Option<usize> {
    let whole = match stash {
        [_, _, _, high, low, ..] => HEADER + usize::from(u16::from_be_bytes([*high, *low])),
        _ => HEADER,
    };
    whole.checked_sub(stash.len()).filter(|&missing| missing > 0)
}

/// Processes bytes until more are needed. Returns how many were used, and the result.
pub(super) fn pump<E: End>(
    end: &mut E,
    bytes: &mut [u8],
    plain: &mut Vec<u8>,
    out: &mut impl Sink,
) -> Result<(usize, ReadResult), TlsError> {
    let (mut used, mut progress) = (0, ReadResult::default());
    loop {
        let UnbufferedStatus { mut discard, state } = end.process(&mut bytes[used..]);
        let mut goes_on = true;
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    let record = record?;
                    discard += record.discard;
                    plain.extend_from_slice(record.payload);
                }
            }
            Ok(ConnectionState::EncodeTlsData(data)) => encode(data, out),
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => progress.ended = true,
            Ok(
                ConnectionState::BlockedHandshake
                | ConnectionState::WriteTraffic(_)
                | ConnectionState::Closed,
            ) => {
                goes_on = false;
            }
            Ok(_) => return Err(Error::General("early data was not offered".to_owned()).into()),
            Err(error) => {
                used += discard;
                send_alert(end, &mut bytes[used..], out);
                return Err(error.into());
            }
        }
        used += discard;
        if !goes_on {
            return Ok((used, progress));
        }
    }
}

/// Sends the alert for an error (RFC 8446 6.2), or close_notify. The error was found in `bytes`.
/// rustls keeps offsets into them, but does not read them while it has output.
#[cold]
fn send_alert<E: End>(end: &mut E, bytes: &mut [u8], out: &mut impl Sink) {
    while end.state().wants_write()
        && let Ok(ConnectionState::EncodeTlsData(data)) = end.process(bytes).state
    {
        encode(data, out);
    }
}

/// Writes a record of the protocol itself to the output.
fn encode<D>(mut data: EncodeTlsData<'_, D>, out: &mut impl Sink) {
    let mut room = RECORD / 4;
    loop {
        match data.encode(out.reserve(room)) {
            Ok(len) => return out.commit(len),
            Err(EncodeError::InsufficientSize(wanted)) => room = wanted.required_size,
            Err(EncodeError::AlreadyEncoded) => return,
        }
    }
}

/// Writing half of either role, once it has keys.
trait Traffic {
    fn encrypt(&mut self, plain: &[u8], room: &mut [u8]) -> Result<usize, EncryptError>;
    fn close_notify(&mut self, room: &mut [u8]) -> Result<usize, EncryptError>;
}

impl<D> Traffic for WriteTraffic<'_, D> {
    fn encrypt(&mut self, plain: &[u8], room: &mut [u8]) -> Result<usize, EncryptError> {
        WriteTraffic::encrypt(self, plain, room)
    }

    fn close_notify(&mut self, room: &mut [u8]) -> Result<usize, EncryptError> {
        self.queue_close_notify(room)
    }
}

/// Calls `f` to write as soon as rustls allows it. `stash` is the unread ciphertext: rustls keeps
/// offsets into it, and needs it again.
fn write<E: End>(
    end: &mut E,
    stash: &mut [u8],
    mut f: impl FnMut(&mut dyn Traffic, &mut Output<'_>) -> Result<(), EncryptError>,
    out: &mut Output<'_>,
) -> Result<(), TlsError> {
    loop {
        match end.process(stash).state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                return match f(&mut traffic, out) {
                    Ok(()) => Ok(()),
                    // The connection uses TLS 1.2, which cannot change its keys. rustls has queued
                    // its close_notify.
                    Err(EncryptError::EncryptExhausted) => {
                        send_alert(end, stash, out);
                        Err(TlsError::KeysExhausted)
                    }
                    Err(error) => Err(Error::General(error.to_string()).into()),
                };
            }
            ConnectionState::EncodeTlsData(data) => encode(data, out),
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::PeerClosed => {}
            other => return Err(Error::General(format!("cannot write in state {other:?}")).into()),
        }
    }
}

fn into_output(
    mut room: usize,
    out: &mut Output<'_>,
    mut f: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), EncryptError> {
    loop {
        match f(out.reserve(room)) {
            Ok(len) => {
                out.commit(len);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(wanted)) => room = wanted.required_size,
            Err(error) => return Err(error),
        }
    }
}

fn into_buffer(
    mut room: usize,
    out: &mut Output<'_>,
    mut f: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(), EncryptError> {
    let mut buffer = out.buffer();
    loop {
        buffer.resize(room, 0);
        match f(&mut buffer) {
            Ok(len) => {
                buffer.truncate(len);
                out.give(buffer);
                return Ok(());
            }
            Err(EncryptError::InsufficientSize(wanted)) => room = wanted.required_size,
            Err(error) => {
                out.recycle(buffer);
                return Err(error);
            }
        }
    }
}
