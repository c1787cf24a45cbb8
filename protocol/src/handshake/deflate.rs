//! Negotiation of permessage-deflate (RFC 7692 5 to 7.1), for both ends.
//!
//! The client puts an [`Offer`] into its request. The server decides by its [`ServerPolicy`] and
//! names the result in its answer. Then both know the same [`Parameters`].
//!
//! A window is a number of bits, the base-2 logarithm of its size in bytes: 8 (256 bytes) to 15
//! (32 KiB).

use std::fmt;
use std::ops::RangeInclusive;

use thiserror::Error;

use super::field::{Extension, Parameter, quoted};
use crate::deflate::MIN_DEFLATE_BITS;

/// Name of the extension.
///
/// This name and those of its parameters are compared exactly. Neither RFC 6455 9.1 nor RFC 7692
/// 7.1 says that they ignore case, and an answer in another case than the peer's would not be
/// recognized by peers that compare exactly too. An offer in another case is declined.
pub(super) const NAME: &str = "permessage-deflate";

const SERVER_NO_CONTEXT_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_CONTEXT_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_MAX_WINDOW_BITS: &str = "server_max_window_bits";
const CLIENT_MAX_WINDOW_BITS: &str = "client_max_window_bits";

/// Every parameter of the extension (RFC 7692 7.1).
const PARAMETERS: [&str; 4] = [
    SERVER_NO_CONTEXT_TAKEOVER,
    CLIENT_NO_CONTEXT_TAKEOVER,
    SERVER_MAX_WINDOW_BITS,
    CLIENT_MAX_WINDOW_BITS,
];

/// Windows that can be negotiated (RFC 7692 7.1.2).
pub(super) const WINDOW_BITS: RangeInclusive<u8> = 8..=15;

/// Window of an end that nothing was said of.
const LARGEST_WINDOW_BITS: u8 = *WINDOW_BITS.end();

/// Parameters that both ends of a connection have agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parameters {
    /// The server begins every message with an empty window (RFC 7692 7.1.1.1).
    pub server_no_context_takeover: bool,
    /// The client begins every message with an empty window (RFC 7692 7.1.1.2).
    pub client_no_context_takeover: bool,
    /// Largest window with which the server compresses, 8 to 15 bits; 15 where nothing was said
    /// (RFC 7692 7.1.2.1).
    pub server_max_window_bits: u8,
    /// Largest window with which the client compresses, 8 to 15 bits; 15 where nothing was said
    /// (RFC 7692 7.1.2.2).
    pub client_max_window_bits: u8,
}

/// Parameters that one offer or one answer states.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stated {
    server_no_context_takeover: bool,
    client_no_context_takeover: bool,
    server_max_window_bits: Option<u8>,
    /// `Some(None)`: without a value, which only an offer may do.
    client_max_window_bits: Option<Option<u8>>,
}

impl Stated {
    /// Reads an offer of a client. `None`: this is another extension, or the offer is declined: it
    /// is invalid (RFC 7692 7), or demands a window of 256 bytes, for which no [compressor
    /// here](crate::deflate::MIN_DEFLATE_BITS) is made.
    pub(super) fn read_offer(extension: &Extension<'_>) -> Option<Self> {
        let stated = (extension.name == NAME.as_bytes()).then(|| Self::read(extension).ok());
        stated.flatten().filter(|stated| {
            stated.server_max_window_bits.is_none_or(|bits| bits >= MIN_DEFLATE_BITS)
        })
    }

    fn read(extension: &Extension<'_>) -> Result<Self, AnswerError> {
        let mut stated = Stated::default();
        let mut seen = [false; PARAMETERS.len()];
        for parameter in extension.parameters() {
            let is_it = |name: &&str| name.as_bytes() == parameter.name;
            let Some(index) = PARAMETERS.iter().position(is_it) else {
                return Err(AnswerError::UnknownParameter { parameter: quoted(parameter.name) });
            };
            let name = PARAMETERS[index];
            if std::mem::replace(&mut seen[index], true) {
                return Err(AnswerError::RepeatedParameter { parameter: name });
            }
            match name {
                SERVER_NO_CONTEXT_TAKEOVER => {
                    stated.server_no_context_takeover = read_flag(name, &parameter)?;
                }
                CLIENT_NO_CONTEXT_TAKEOVER => {
                    stated.client_no_context_takeover = read_flag(name, &parameter)?;
                }
                SERVER_MAX_WINDOW_BITS => {
                    let bits = read_window(name, &parameter)?;
                    let missing = AnswerError::MissingValue { parameter: name };
                    stated.server_max_window_bits = Some(bits.ok_or(missing)?);
                }
                _ => stated.client_max_window_bits = Some(read_window(name, &parameter)?),
            }
        }
        Ok(stated)
    }
}

/// Writes the extension as the value of Sec-WebSocket-Extensions.
impl fmt::Display for Stated {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(NAME)?;
        if self.server_no_context_takeover {
            write!(out, "; {SERVER_NO_CONTEXT_TAKEOVER}")?;
        }
        if self.client_no_context_takeover {
            write!(out, "; {CLIENT_NO_CONTEXT_TAKEOVER}")?;
        }
        if let Some(bits) = self.server_max_window_bits {
            write!(out, "; {SERVER_MAX_WINDOW_BITS}={bits}")?;
        }
        match self.client_max_window_bits {
            Some(Some(bits)) => write!(out, "; {CLIENT_MAX_WINDOW_BITS}={bits}"),
            Some(None) => write!(out, "; {CLIENT_MAX_WINDOW_BITS}"),
            None => Ok(()),
        }
    }
}

/// Returns true, unless the parameter has a value.
fn read_flag(name: &'static str, parameter: &Parameter<'_>) -> Result<bool, AnswerError> {
    match parameter.value {
        None => Ok(true),
        Some(value) => {
            let value = quoted(&value.token().collect::<Vec<_>>());
            Err(AnswerError::UnexpectedValue { parameter: name, value })
        }
    }
}

/// Returns the window that the parameter has as its value: a decimal number without leading zeros
/// (RFC 7692 7.1.2.1).
fn read_window(name: &'static str, parameter: &Parameter<'_>) -> Result<Option<u8>, AnswerError> {
    let Some(value) = parameter.value else { return Ok(None) };
    let mut token = value.token();
    match [token.next(), token.next(), token.next()] {
        [Some(digit @ b'8'..=b'9'), None, _] => Ok(Some(digit - b'0')),
        [Some(b'1'), Some(digit @ b'0'..=b'5'), None] => Ok(Some(10 + digit - b'0')),
        _ => {
            let value = quoted(&value.token().collect::<Vec<_>>());
            Err(AnswerError::InvalidValue { parameter: name, value })
        }
    }
}

/// A server's choice of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServerPolicy {
    /// True if both ends may refer to earlier messages (context takeover, RFC 7692 7.1.1). If
    /// false, the answer forbids it to both. If true, the client may still forbid it to the server.
    pub takeover: bool,
    /// Largest window for both directions: 9 to 15 bits. Another value counts as the nearest of
    /// these. A client that does not offer `client_max_window_bits` cannot be limited: its window
    /// has 15 bits.
    pub max_window_bits: u8,
}

impl ServerPolicy {
    /// Accepts an offer. Returns the parameters, and the answer that states them.
    ///
    /// Every offer that was read can be accepted, because the server may always choose a smaller
    /// window than the offered one.
    pub(super) fn accept(&self, offer: &Stated) -> (Parameters, Stated) {
        let largest = self.max_window_bits.clamp(MIN_DEFLATE_BITS, LARGEST_WINDOW_BITS);
        let server_bits = offer.server_max_window_bits.unwrap_or(LARGEST_WINDOW_BITS).min(largest);
        // An echo may return the client's compressed bytes, so the client's window should not be
        // larger than the server's.
        let client_bits = offer
            .client_max_window_bits
            .map(|offered| offered.unwrap_or(LARGEST_WINDOW_BITS).min(server_bits));
        let parameters = Parameters {
            server_no_context_takeover: offer.server_no_context_takeover || !self.takeover,
            // Repeated where the offer has it. The offer alone is a promise (RFC 7692 7.1.1.2), but
            // some clients, Autobahn's for one, keep their window unless the answer repeats it.
            client_no_context_takeover: offer.client_no_context_takeover || !self.takeover,
            server_max_window_bits: server_bits,
            client_max_window_bits: client_bits.unwrap_or(LARGEST_WINDOW_BITS),
        };
        let is_limit = |bits: &u8| *bits < LARGEST_WINDOW_BITS;
        let answer = Stated {
            server_no_context_takeover: parameters.server_no_context_takeover,
            client_no_context_takeover: parameters.client_no_context_takeover,
            // What the offer states must be stated in the answer, whatever the value.
            server_max_window_bits: Some(server_bits)
                .filter(|bits| offer.server_max_window_bits.is_some() || is_limit(bits)),
            client_max_window_bits: client_bits.filter(is_limit).map(Some),
        };
        (parameters, answer)
    }
}

/// A client's offer. It always has `client_max_window_bits`, so that the server may limit the
/// client's window. The default offer limits nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offer {
    /// Demands that the server begins every message with an empty window (RFC 7692 7.1.1.1).
    pub server_no_context_takeover: bool,
    /// Promises that the client begins every message with an empty window, whatever the answer
    /// (RFC 7692 7.1.1.2).
    pub client_no_context_takeover: bool,
    /// Demands that the server's window has at most this many bits, 8 to 15 (RFC 7692 7.1.2.1).
    pub server_max_window_bits: Option<u8>,
    /// Promises that the client's window has at most this many bits, 8 to 15 (RFC 7692 7.1.2.2).
    /// `None` offers the parameter without a value.
    pub client_max_window_bits: Option<u8>,
}

impl Offer {
    /// Returns the value of the request's Sec-WebSocket-Extensions field. The windows are written
    /// as they are: [`Request::check`](super::client::Request::check) checks them.
    pub fn encode(&self) -> String {
        let offer = Stated {
            server_no_context_takeover: self.server_no_context_takeover,
            client_no_context_takeover: self.client_no_context_takeover,
            server_max_window_bits: self.server_max_window_bits,
            client_max_window_bits: Some(self.client_max_window_bits),
        };
        offer.to_string()
    }

    /// Returns whether both windows can be negotiated.
    pub(super) fn is_valid(&self) -> bool {
        let windows = [self.server_max_window_bits, self.client_max_window_bits];
        windows.into_iter().flatten().all(|bits| WINDOW_BITS.contains(&bits))
    }

    /// Checks the server's answer to this offer, an extension with the name [`NAME`].
    ///
    /// # Errors
    ///
    /// Returns the first rule of RFC 7692 7.1 that the answer breaks.
    pub(super) fn check(&self, answer: &Extension<'_>) -> Result<Parameters, AnswerError> {
        let answer = Stated::read(answer)?;
        if self.server_no_context_takeover && !answer.server_no_context_takeover {
            return Err(AnswerError::IgnoredDemand { parameter: SERVER_NO_CONTEXT_TAKEOVER });
        }
        if self.server_max_window_bits.is_some() && answer.server_max_window_bits.is_none() {
            return Err(AnswerError::IgnoredDemand { parameter: SERVER_MAX_WINDOW_BITS });
        }
        let client_bits = match answer.client_max_window_bits {
            Some(None) => {
                return Err(AnswerError::MissingValue { parameter: CLIENT_MAX_WINDOW_BITS });
            }
            stated => stated.flatten(),
        };
        Ok(Parameters {
            server_no_context_takeover: answer.server_no_context_takeover,
            // The client's own promises hold, even where the answer does not repeat them.
            client_no_context_takeover: self.client_no_context_takeover
                || answer.client_no_context_takeover,
            server_max_window_bits: agreed_window(
                SERVER_MAX_WINDOW_BITS,
                answer.server_max_window_bits,
                self.server_max_window_bits,
            )?,
            client_max_window_bits: agreed_window(
                CLIENT_MAX_WINDOW_BITS,
                client_bits,
                self.client_max_window_bits,
            )?,
        })
    }
}

/// Returns the window of the answer, or else the offered one. The answer's must not be larger.
fn agreed_window(
    parameter: &'static str,
    answered: Option<u8>,
    offered: Option<u8>,
) -> Result<u8, AnswerError> {
    let offered = offered.unwrap_or(LARGEST_WINDOW_BITS);
    let answered = answered.unwrap_or(offered);
    if answered > offered {
        return Err(AnswerError::AboveOffer { parameter, answered, offered });
    }
    Ok(answered)
}

/// Reason why the server's answer to an [`Offer`] fails the connection (RFC 7692 7 and 7.1). Text
/// from the server is escaped, and at most 200 characters long.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerError {
    /// The answer has a parameter that the extension does not have.
    #[error("the server's permessage-deflate has an unknown parameter: \"{parameter}\"")]
    UnknownParameter {
        /// The parameter's name, escaped.
        parameter: String,
    },
    /// The answer has a parameter more than once.
    #[error("the server's permessage-deflate has \"{parameter}\" more than once")]
    RepeatedParameter {
        /// The parameter's name.
        parameter: &'static str,
    },
    /// The answer has a value for a parameter that has none.
    #[error("the server's permessage-deflate has \"{parameter}={value}\": expected no value")]
    UnexpectedValue {
        /// The parameter's name.
        parameter: &'static str,
        /// The value, escaped.
        value: String,
    },
    /// The answer lacks the value of a window.
    #[error(
        "the server's permessage-deflate has \"{parameter}\" without a value: expected 8 to 15"
    )]
    MissingValue {
        /// The parameter's name.
        parameter: &'static str,
    },
    /// The answer has a window that is not a number from 8 to 15.
    #[error(
        "the server's permessage-deflate has \"{parameter}={value}\": expected 8 to 15, without \
         leading zeros"
    )]
    InvalidValue {
        /// The parameter's name.
        parameter: &'static str,
        /// The value, escaped.
        value: String,
    },
    /// The answer has a larger window than the offer.
    #[error(
        "the server's permessage-deflate has \"{parameter}={answered}\": expected at most the \
         offered {offered}"
    )]
    AboveOffer {
        /// The parameter's name.
        parameter: &'static str,
        /// The answer's window in bits.
        answered: u8,
        /// The offer's window in bits.
        offered: u8,
    },
    /// The answer lacks a parameter with which the offer limits the server.
    #[error("the server's permessage-deflate lacks \"{parameter}\", which the offer demands")]
    IgnoredDemand {
        /// The parameter's name.
        parameter: &'static str,
    },
}

impl AnswerError {
    /// Short, stable name for logs and counters.
    pub fn rule(&self) -> &'static str {
        match self {
            AnswerError::UnknownParameter { .. } => "deflate-unknown-parameter",
            AnswerError::RepeatedParameter { .. } => "deflate-repeated-parameter",
            AnswerError::UnexpectedValue { .. } => "deflate-unexpected-value",
            AnswerError::MissingValue { .. } => "deflate-missing-value",
            AnswerError::InvalidValue { .. } => "deflate-invalid-value",
            AnswerError::AboveOffer { .. } => "deflate-above-offer",
            AnswerError::IgnoredDemand { .. } => "deflate-ignored-demand",
        }
    }
}
