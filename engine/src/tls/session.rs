//! One TLS connection: rustls' state machine over the bytes of a turn.

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, UnbufferedStatus, WriteTraffic,
};
use rustls::{CommonState, Error};

use super::error::TlsError;
use crate::output::Output;

/// Length of a record's header (RFC 8446 5.1).
const HEADER: usize = 5;
/// Most plaintext of a record (RFC 8446 5.1).
const RECORD: usize = 1 << 14;
/// Output of one call beyond which it does not go into the arena.
const MUCH: usize = 1 << 20;
/// Of that so much goes into a buffer: whole records.
const PIECE: usize = 16 * RECORD;
/// What a record is longer than its plaintext, at most: header, explicit nonce, type, tag.
const OVERHEAD: usize = 48;
/// Content types are consecutive from change_cipher_spec to heartbeat (RFC 8446 B.1, RFC 6520).
const CONTENT_TYPES: std::ops::RangeInclusive<u8> = 20..=24;
/// What a client begins with: a record that is part of a handshake.
const HANDSHAKE: u8 = 22;

/// The two ends as rustls has them.
trait End {
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

/// Which end is ours.
pub(super) enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

/// How far the connection has come.
pub(super) enum Stage {
    /// The TLS handshake is under way; what the handler wants meanwhile waits for it.
    Handshake(Held),
    Secured,
    /// The other end has said that nothing more comes (close_notify), and the handler knows.
    HalfClosed,
    /// Closed by our side: nothing goes in or out.
    Over,
}

/// What the handler asked for before there was somebody to say it to.
#[derive(Default)]
pub(super) struct Held {
    pub(super) bytes: Vec<u8>,
    pub(super) close: bool,
    pub(super) pause: bool,
}

/// What a read brought besides plaintext.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// The other end has closed its direction.
    pub(super) ended: bool,
}

pub(super) struct Session {
    side: Side,
    pub(super) stage: Stage,
    /// Ciphertext that cannot be used yet: a record, or a message of the handshake, that is not whole. Empty and without
    /// memory at other times.
    stash: Vec<u8>,
    /// Whether the other end has said anything.
    begun: bool,
    pub(super) failure: Option<TlsError>,
}

impl Session {
    pub(super) fn new(side: Side) -> Self {
        let stage = Stage::Handshake(Held::default());
        Self { side, stage, stash: Vec::new(), begun: false, failure: None }
    }

    pub(super) fn is_server(&self) -> bool {
        matches!(self.side, Side::Server(_))
    }

    /// Whether the other end has said anything.
    pub(super) fn has_begun(&self) -> bool {
        self.begun
    }

    pub(super) fn is_handshaking(&self) -> bool {
        match &self.side {
            Side::Server(end) => end.is_handshaking(),
            Side::Client(end) => end.is_handshaking(),
        }
    }

    /// Whether the handler has closed it, which may wait for the handshake.
    pub(super) fn is_closing(&self) -> bool {
        match &self.stage {
            Stage::Handshake(held) => held.close,
            Stage::Secured | Stage::HalfClosed => false,
            Stage::Over => true,
        }
    }

    /// Bytes of the handler's that wait for the handshake.
    pub(super) fn held(&self) -> usize {
        if let Stage::Handshake(held) = &self.stage { held.bytes.len() } else { 0 }
    }

    /// Has a client say hello.
    pub(super) fn begin(&mut self, out: &mut Output<'_>) -> Result<(), TlsError> {
        self.pump_stash(&mut Vec::new(), out)?;
        Ok(())
    }

    /// Takes ciphertext in, decrypting it where it lies. Plaintext is appended to `plain`; what the protocol itself has to
    /// say goes out, an alert before an error.
    pub(super) fn read(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Output<'_>,
    ) -> Result<Progress, TlsError> {
        if !std::mem::replace(&mut self.begun, true) {
            self.looks_like_tls(bytes[0])?;
        }
        let (mut at, mut progress) = (0, Progress::default());
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

    fn looks_like_tls(&self, first: u8) -> Result<(), TlsError> {
        let right = if self.is_server() { first == HANDSHAKE } else { CONTENT_TYPES.contains(&first) };
        if right { Ok(()) } else { Err(TlsError::NotTls) }
    }

    /// Keeps what is not whole yet, with room for the rest of its record.
    fn stash(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.stash.reserve_exact(rest.len() + missing(rest).unwrap_or_default());
            self.stash.extend_from_slice(rest);
        }
    }

    fn pump_stash(&mut self, plain: &mut Vec<u8>, out: &mut Output<'_>) -> Result<Progress, TlsError> {
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
    ) -> Result<(usize, Progress), TlsError> {
        match &mut self.side {
            Side::Server(end) => pump(end, bytes, plain, out),
            Side::Client(end) => pump(end, bytes, plain, out),
        }
    }

    /// Sends `plain` in as few records as can be. Much of it goes in buffers of its own: the arena would grow to the next power
    /// of two, and what the kernel does not take at once would be copied out of it.
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

    /// Tells the other end that nothing more comes.
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
        }
    }
}

/// Bytes to the end of the record whose beginning this is, or to the end of its header; `None` where the record is whole and
/// only part of what it belongs to.
fn missing(stash: &[u8]) -> Option<usize> {
    let whole = match stash {
        [_, _, _, high, low, ..] => HEADER + usize::from(u16::from_be_bytes([*high, *low])),
        _ => HEADER,
    };
    whole.checked_sub(stash.len()).filter(|&missing| missing > 0)
}

/// Goes on until more bytes are needed: how many were used, and what they brought.
fn pump<E: End>(
    end: &mut E,
    bytes: &mut [u8],
    plain: &mut Vec<u8>,
    out: &mut Output<'_>,
) -> Result<(usize, Progress), TlsError> {
    let (mut used, mut progress) = (0, Progress::default());
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
                last_words(end, &mut bytes[used..], out);
                return Err(error.into());
            }
        }
        used += discard;
        if !goes_on {
            return Ok((used, progress));
        }
    }
}

/// Sends the alert for an error (RFC 8446 6.2), or the end. The error was found in `bytes`. rustls keeps
/// offsets into them, but does not read them as long as it has output.
#[cold]
fn last_words<E: End>(end: &mut E, bytes: &mut [u8], out: &mut Output<'_>) {
    while end.state().wants_write()
        && let Ok(ConnectionState::EncodeTlsData(data)) = end.process(bytes).state
    {
        encode(data, out);
    }
}

/// Writes a record of the protocol's own into the output.
fn encode<D>(mut data: EncodeTlsData<'_, D>, out: &mut Output<'_>) {
    let mut room = RECORD / 4;
    loop {
        match data.encode(out.reserve(room)) {
            Ok(len) => return out.commit(len),
            Err(EncodeError::InsufficientSize(wanted)) => room = wanted.required_size,
            Err(EncodeError::AlreadyEncoded) => return,
        }
    }
}

/// The writing half of either end, once there are keys for it.
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

/// Has `f` write when it may. `stash` is what waits to be read: rustls keeps offsets into it, and wants to see it again.
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
                    // The connection uses TLS 1.2, which cannot change its keys. rustls has queued its
                    // close_notify.
                    Err(EncryptError::EncryptExhausted) => {
                        last_words(end, stash, out);
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
