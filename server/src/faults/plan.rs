//! Faults that a client asks for in its URL, as text and as values.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use protocol::close::is_sendable;

/// A value, and the messages of a connection that it applies to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Nth<T> {
    pub(super) value: T,
    /// Every Nth message. 0: as soon as the WebSocket is open, before its first message.
    pub(super) n: u64,
}

impl<T: Copy> Nth<T> {
    /// Returns the value where it applies to message `number`; the first is 1, and 0 is the
    /// opening.
    pub(super) fn at(&self, number: u64) -> Option<T> {
        let applies =
            if self.n == 0 { number == 0 } else { number > 0 && number.is_multiple_of(self.n) };
        applies.then_some(self.value)
    }
}

impl<T: fmt::Display> fmt::Display for Nth<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.value)?;
        if self.n == 1 { Ok(()) } else { write!(f, "@{}", self.n) }
    }
}

/// Time by which echoes are held back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Delay {
    Fixed(Duration),
    /// From the exponential distribution with this mean.
    Exponential(Duration),
}

/// A time in the form in which it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Time(pub(super) Duration);

/// End of a connection without a Close frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// Behind the whole echo.
    Whole,
    /// In the middle of the echo's frame.
    Partial,
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One word: a space would have to be encoded in a URL.
        let text = humantime::format_duration(self.0).to_string();
        text.split(' ').try_for_each(|part| f.write_str(part))
    }
}

impl fmt::Display for Delay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Fixed(time) => Time(time).fmt(f),
            Self::Exponential(mean) => write!(f, "exp:{}", Time(mean)),
        }
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Whole => "whole",
            Self::Partial => "partial",
        })
    }
}

/// Faults of a connection. Its text is that of a query: `delay=5ms&close=1011@100`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FaultPlan {
    pub(super) delay: Option<Nth<Delay>>,
    pub(super) stall: Option<Nth<Time>>,
    pub(super) close: Option<Nth<u16>>,
    pub(super) abort: Option<Nth<Cut>>,
    /// HTTP status in place of the 101. Counts connections in place of messages.
    pub(super) refuse: Option<Nth<u16>>,
    /// Most bytes of payload in a frame.
    pub(super) fragment: Option<Nth<u32>>,
    /// A ping behind every Nth echo.
    pub(super) ping: Option<u64>,
    /// Most bytes of payload in an echo.
    pub(super) truncate: Option<Nth<u32>>,
    /// Text message that the server sends first.
    pub(super) greet: Option<String>,
    pub(super) seed: Option<u64>,
}

/// Text that is no fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{shown}` is not a valid fault: {expected}")]
pub struct FaultError {
    /// The parameter with its value, escaped and cut.
    shown: String,
    expected: String,
}

/// Name, expected value, and an example of each parameter.
const PARAMETERS: [(&str, &str, &str); 10] = [
    ("delay", "a time up to 1h, or exp: and the mean of random times, and @N", "delay=exp:5ms@10"),
    ("stall", "a time up to 1h, and @N", "stall=2s@100"),
    ("close", "a close code that may be sent, and @N", "close=1011@100"),
    ("abort", "whole or partial, and @N", "abort=partial@100"),
    ("refuse", "an HTTP status from 300 to 599, and @N for every Nth connection", "refuse=503@10"),
    ("fragment", "the bytes of a frame, at least 1, and @N", "fragment=100@10"),
    ("ping", "a number of messages, at least 1", "ping=10"),
    ("truncate", "the bytes that are left of a message, and @N", "truncate=5@100"),
    ("greet", "a text of at most 1000 bytes in UTF-8", "greet=hello"),
    ("seed", "a whole number", "seed=7"),
];

const MAX_TIME: Duration = Duration::from_secs(3600);
const MAX_GREETING: usize = 1000;

impl FromStr for FaultPlan {
    type Err = FaultError;

    fn from_str(text: &str) -> Result<Self, FaultError> {
        Self::parse(text.split('&'), false)
    }
}

impl FaultPlan {
    /// Part of a path in front of faults.
    const FOLDER: &str = "/faults/";

    /// Splits a request target into the path that is served and the faults of the connection, which
    /// stand in the query, or in the path behind `/faults/`. `None`: it names none.
    ///
    /// # Errors
    ///
    /// [`FaultError`] for the first parameter that is unknown, malformed or repeated.
    pub(crate) fn of_target(target: &str) -> Result<(&str, Option<Self>), FaultError> {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let (served, in_path) = path.split_once(Self::FOLDER).unwrap_or((path, ""));
        let served = if served.is_empty() { "/" } else { served };
        let in_query = query.split('&').filter(|part| !part.is_empty());
        let in_path = in_path.split('/').filter(|part| !part.is_empty());
        let plan = Self::parse(in_path.chain(in_query), true)?;
        Ok((served, Some(plan).filter(|plan| *plan != Self::default())))
    }

    fn parse<'a>(
        parts: impl Iterator<Item = &'a str>,
        is_encoded: bool,
    ) -> Result<Self, FaultError> {
        let mut plan = Self::default();
        for part in parts {
            let text = if is_encoded { decoded(part) } else { Some(part.to_owned()) };
            let text = text.ok_or_else(|| {
                FaultError::new(part, "a % needs two hexadecimal digits of UTF-8, as in %20")
            })?;
            plan.set(&text)?;
        }
        Ok(plan)
    }

    fn set(&mut self, text: &str) -> Result<(), FaultError> {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let Some(&(_, expected, example)) = PARAMETERS.iter().find(|(known, ..)| *known == name)
        else {
            let known = PARAMETERS.map(|(name, ..)| name).join(", ");
            let expected = format!("expected one of {known}, for example delay=5ms");
            return Err(FaultError::new(text, &expected));
        };
        let is_valid = match name {
            "delay" => put(&mut self.delay, nth(value, 1, delay)),
            "stall" => put(&mut self.stall, nth(value, 0, |text| time(text).map(Time))),
            "close" => put(&mut self.close, nth(value, 0, close_code)),
            "abort" => put(&mut self.abort, nth(value, 0, cut)),
            "refuse" => put(&mut self.refuse, nth(value, 1, status)),
            "fragment" => put(&mut self.fragment, nth(value, 1, |text| number(text, 1))),
            "ping" => put(&mut self.ping, number(value, 1)),
            "truncate" => put(&mut self.truncate, nth(value, 1, |text| number(text, 0))),
            "greet" => {
                put(&mut self.greet, Some(value.to_owned()).filter(|t| t.len() <= MAX_GREETING))
            }
            _ => put(&mut self.seed, number(value, 0)),
        };
        match is_valid {
            Some(true) => Ok(()),
            Some(false) => Err(FaultError::new(text, &format!("{name} is given twice"))),
            None => {
                let expected = format!("expected {expected}, for example {example}");
                Err(FaultError::new(text, &expected))
            }
        }
    }
}

impl FaultError {
    fn new(text: &str, expected: &str) -> Self {
        let shown = text.escape_debug().take(200).collect();
        Self { shown, expected: expected.to_owned() }
    }
}

/// Sets a parameter. `None`: the value is invalid. `Some(false)`: it was set before.
fn put<T>(place: &mut Option<T>, value: Option<T>) -> Option<bool> {
    let is_first = place.is_none();
    *place = Some(value?);
    Some(is_first)
}

/// Parses a value and its `@N`, which is at least `least`; without it, N is 1.
fn nth<T>(text: &str, least: u8, value: impl FnOnce(&str) -> Option<T>) -> Option<Nth<T>> {
    let (text, n) = match text.split_once('@') {
        Some((text, n)) => (text, number(n, least)?),
        None => (text, 1),
    };
    Some(Nth { value: value(text)?, n })
}

fn number<T: FromStr + PartialOrd + From<u8>>(text: &str, least: u8) -> Option<T> {
    let is_digits = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|number| is_digits && *number >= T::from(least))
}

fn time(text: &str) -> Option<Duration> {
    let time = humantime::parse_duration(text).ok()?;
    (!time.is_zero() && time <= MAX_TIME).then_some(time)
}

fn delay(text: &str) -> Option<Delay> {
    match text.strip_prefix("exp:") {
        Some(mean) => time(mean).map(Delay::Exponential),
        None => time(text).map(Delay::Fixed),
    }
}

fn close_code(text: &str) -> Option<u16> {
    number(text, 0).filter(|&code| is_sendable(code))
}

fn cut(text: &str) -> Option<Cut> {
    [Cut::Whole, Cut::Partial].into_iter().find(|cut| cut.to_string() == text)
}

fn status(text: &str) -> Option<u16> {
    number(text, 0).filter(|status| (300..=599).contains(status))
}

/// Decodes a part of a URL (RFC 3986 2.1). Browsers write a space in a query as `+`.
fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [byte, after @ ..] = rest {
        rest = after;
        bytes.push(match (byte, after) {
            (b'%', [high, low, after @ ..]) => {
                rest = after;
                let digit = |byte: u8| char::from(byte).to_digit(16);
                (digit(*high)? * 16 + digit(*low)?) as u8
            }
            (b'%', _) => return None,
            (b'+', _) => b' ',
            _ => *byte,
        });
    }
    String::from_utf8(bytes).ok()
}

/// Text of a value that is not plain, for a URL or a header field.
struct Encoded<'a>(&'a str);

impl fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.bytes().try_for_each(|byte| {
            if byte.is_ascii_alphanumeric() || b"-._~:@,".contains(&byte) {
                write!(f, "{}", char::from(byte))
            } else {
                write!(f, "%{byte:02X}")
            }
        })
    }
}

impl fmt::Display for FaultPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { delay, stall, close, abort, refuse, fragment, ping, truncate, greet, seed } =
            self;
        let text = |name: &str, value: Option<&dyn fmt::Display>| {
            value.map(|value| format!("{name}={value}"))
        };
        fn any<T: fmt::Display>(value: &Option<T>) -> Option<&dyn fmt::Display> {
            value.as_ref().map(|value| value as &dyn fmt::Display)
        }
        let greet = greet.as_deref().map(Encoded);
        let all = [
            text("delay", any(delay)),
            text("stall", any(stall)),
            text("close", any(close)),
            text("abort", any(abort)),
            text("refuse", any(refuse)),
            text("fragment", any(fragment)),
            text("ping", any(ping)),
            text("truncate", any(truncate)),
            text("greet", any(&greet)),
            text("seed", any(seed)),
        ];
        f.write_str(&all.into_iter().flatten().collect::<Vec<_>>().join("&"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(text: &str) -> FaultPlan {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn every_parameter_has_an_example_that_works() {
        for (name, _, example) in PARAMETERS {
            assert_eq!(plan(example).to_string(), example, "{name}");
        }
        let all = PARAMETERS.map(|(.., example)| example).join("&");
        assert_eq!(plan(&all).to_string(), all);
    }

    #[test]
    fn faults_stand_in_the_query_or_in_the_path() {
        let of = |target| FaultPlan::of_target(target).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(of("/"), ("/", None));
        assert_eq!(of("/chat?"), ("/chat", None));
        assert_eq!(of("/faults/"), ("/", None));
        let both = Some(plan("delay=5ms&close=1011@100"));
        assert_eq!(of("/?delay=5ms&close=1011@100"), ("/", both.clone()));
        assert_eq!(of("/chat?close=1011%40100&delay=5ms"), ("/chat", both.clone()));
        assert_eq!(of("/faults/delay=5ms/close=1011@100"), ("/", both.clone()));
        assert_eq!(of("/chat/faults/delay=5ms?close=1011@100"), ("/chat", both));
        let greeting = FaultPlan { greet: Some("h\u{e4} lo=".into()), ..FaultPlan::default() };
        assert_eq!(greeting.to_string(), "greet=h%C3%A4%20lo%3D");
        assert_eq!(of("/?greet=h%C3%A4+lo%3d"), ("/", Some(greeting)));
    }

    #[test]
    fn faults_that_are_wrong_name_parameter_value_and_example() {
        for wrong in [
            "delay=5",
            "delay=0ms",
            "delay=2h",
            "delay=5ms@0",
            "delay=exp:",
            "delay=5ms@x",
            "delay",
            "delay=-5ms",
            "stall=forever",
            "stall=1s@",
            "close=1005",
            "close=999",
            "close=+1000",
            "close=1000@-1",
            "abort=maybe",
            "abort",
            "refuse=200",
            "refuse=600",
            "refuse=503@0",
            "fragment=0",
            "fragment=1@1@1",
            "ping=0",
            "ping=",
            "truncate=-1",
            "truncate=5000000000",
            "seed=x",
            "seed=18446744073709551616",
        ] {
            let name = wrong.split('=').next().expect("a name");
            let error = wrong.parse::<FaultPlan>().expect_err(wrong).to_string();
            let example = PARAMETERS.iter().find(|(known, ..)| *known == name).expect("known").2;
            assert!(error.contains(&format!("`{wrong}`")) && error.contains(example), "{error}");
        }
        let error = "dely=5ms".parse::<FaultPlan>().expect_err("unknown").to_string();
        assert!(error.contains("`dely=5ms`") && error.contains("one of delay, stall"), "{error}");
        let error = "ping=1&ping=2".parse::<FaultPlan>().expect_err("twice").to_string();
        assert!(error.contains("`ping=2`") && error.contains("twice"), "{error}");
        for target in ["/?greet=%", "/?greet=%f", "/?greet=%ff", "/?greet=%zz", "/faults/x"] {
            assert!(FaultPlan::of_target(target).is_err(), "{target}");
        }
        let long = format!("greet={}", "a".repeat(MAX_GREETING + 1));
        let error = long.parse::<FaultPlan>().expect_err("too long").to_string();
        assert!(error.len() < 400, "{error}");
    }

    #[test]
    fn numbers_of_messages_are_exact() {
        let at = |n| (0..=10).filter(move |&number| Nth { value: (), n }.at(number).is_some());
        assert_eq!(at(1).collect::<Vec<_>>(), (1..=10).collect::<Vec<_>>());
        assert_eq!(at(3).collect::<Vec<_>>(), [3, 6, 9]);
        assert_eq!(at(0).collect::<Vec<_>>(), [0]);
    }
}
