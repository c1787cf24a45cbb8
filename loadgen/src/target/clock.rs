//! The server's clock against this machine's.
//!
//! Any HTTP answer with a Date bounds the difference: the server made it between the request and
//! the answer, in the second that it names. Answers on both sides of a second's edge bound it to
//! the time between them. A server may name its time more exactly, in the field that P.-H. Kamp
//! proposed for this purpose (X-HTTPSTIME: seconds since 1970 with decimals). `sparring-server`
//! does. Then one exchange bounds the difference to its round trip, as NTP does.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow, bail};
use engine::rustls::{ClientConnection, StreamOwned};
use engine::tls::TlsClient;
use serde::{Deserialize, Serialize};

use super::http::{self, Bounds};
use super::url::Url;
use crate::load::Transport;

/// Exchanges, at least: the shortest round trip bounds the difference most.
const LEAST: u32 = 4;
/// Width of bounds that is narrow enough.
const NARROW: Duration = Duration::from_millis(25);
/// Pause between two exchanges. It is the width of bounds that a Date gives.
const PAUSE: Duration = Duration::from_millis(20);
/// Longest time of all exchanges: a second's edge comes within.
const LONGEST: Duration = Duration::from_millis(1200);
/// Longest time of an exchange.
const PATIENCE: Duration = Duration::from_secs(2);
/// Bounds of the head of an answer.
const HEAD: Bounds = Bounds { bytes: 64 << 10, time: PATIENCE };
/// Time of a server since 1970, and its resolution.
type ServerTime = (Duration, Duration);

/// Bounds of a difference of two clocks, in nanoseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClockOffset {
    /// The difference is at least this.
    pub low_ns: i64,
    /// The difference is at most this.
    pub high_ns: i64,
}

impl ClockOffset {
    /// Returns the bounds of `self - other`.
    pub(crate) fn minus(self, other: Self) -> Self {
        Self {
            low_ns: self.low_ns.saturating_sub(other.high_ns),
            high_ns: self.high_ns.saturating_sub(other.low_ns),
        }
    }

    /// Returns the least difference, in either direction.
    pub(crate) fn at_least_ns(self) -> u64 {
        let distance = self.low_ns.max(self.high_ns.saturating_neg()).max(0);
        distance.unsigned_abs()
    }

    /// Returns the greatest difference, in either direction.
    pub(crate) fn at_most_ns(self) -> u64 {
        self.low_ns.unsigned_abs().max(self.high_ns.unsigned_abs())
    }
}

/// Returns the bounds of the clock of the server at `url` minus the clock of this machine.
pub(crate) fn offset(
    url: &Url,
    addresses: &[SocketAddr],
    tls: Option<&TlsClient>,
) -> anyhow::Result<ClockOffset> {
    if url.transport == Transport::Tcp {
        bail!("a tcp:// server has no Date");
    }
    let began = Instant::now();
    let (mut bounds, mut exchanges) = (None, 0);
    loop {
        let exchanged = exchange(url, addresses, tls)?;
        let found = bounds.map_or(Some(exchanged), |bounds| intersection(bounds, exchanged));
        let found = found.ok_or_else(|| anyhow!("the server's answers have no clock in common"))?;
        exchanges += 1;
        let width = Duration::from_nanos(found.high_ns.abs_diff(found.low_ns));
        if (exchanges >= LEAST && width <= NARROW) || began.elapsed() >= LONGEST {
            return Ok(found);
        }
        bounds = Some(found);
        thread::sleep(PAUSE);
    }
}

/// Returns the bounds that both have.
fn intersection(a: ClockOffset, b: ClockOffset) -> Option<ClockOffset> {
    let (low_ns, high_ns) = (a.low_ns.max(b.low_ns), a.high_ns.min(b.high_ns));
    (low_ns <= high_ns).then_some(ClockOffset { low_ns, high_ns })
}

/// Sends a request and returns the bounds that its answer gives.
fn exchange(
    url: &Url,
    addresses: &[SocketAddr],
    tls: Option<&TlsClient>,
) -> anyhow::Result<ClockOffset> {
    let mut stream = http::connect(addresses, PATIENCE).context("cannot connect")?;
    let request =
        format!("GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", url.host_field());
    let (sent, head, received) = match tls {
        None => ask(&mut stream, &request),
        Some(tls) => {
            let session = ClientConnection::new(tls.config.clone(), tls.server.clone())?;
            let mut stream = StreamOwned::new(session, stream);
            while stream.conn.is_handshaking() {
                stream.conn.complete_io(&mut stream.sock)?;
            }
            ask(&mut stream, &request)
        }
    }
    .context("the server does not answer a GET")?;
    let time = server_time(&head).context("the server's answer to a GET has no Date")?;
    bounds(sent, time, received).context("the clock is not set")
}

/// Returns the head of the answer, with the times before the request and after the answer.
fn ask(
    stream: &mut (impl Read + Write),
    request: &str,
) -> io::Result<(SystemTime, String, SystemTime)> {
    let sent = SystemTime::now();
    stream.write_all(request.as_bytes())?;
    stream.flush()?;
    let head = http::read_until(stream, HEAD, |bytes, _| {
        let received = SystemTime::now();
        let end = bytes.windows(4).position(|bytes| bytes == b"\r\n\r\n")?;
        Some((String::from_utf8_lossy(&bytes[..end]).into_owned(), received))
    })?;
    let (head, received) =
        head.ok_or_else(|| io::Error::other("the head of the answer does not end"))?;
    Ok((sent, head, received))
}

/// Returns the server's time in the head of an answer, since 1970, and its resolution.
fn server_time(head: &str) -> Option<ServerTime> {
    let fields = || head.lines().skip(1).filter_map(|line| line.split_once(':'));
    let field = |wanted: &str| {
        let found = fields().find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.trim())
    };
    let exact = field("X-HTTPSTIME").and_then(decimal_seconds);
    exact.or_else(|| Some((http_date(field("Date")?)?, Duration::from_secs(1))))
}

/// Reads seconds with decimals.
fn decimal_seconds(text: &str) -> Option<ServerTime> {
    let (seconds, decimals) = text.split_once('.').unwrap_or((text, ""));
    if decimals.len() > 9 || !decimals.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let nanos = format!("{decimals:0<9}").parse().ok()?;
    let resolution = 10u64.pow(9 - decimals.len() as u32);
    Some((Duration::new(seconds.parse().ok()?, nanos), Duration::from_nanos(resolution)))
}

/// Reads `Sun, 06 Nov 1994 08:49:37 GMT`, the one form that may be generated (RFC 9110 5.6.7).
fn http_date(text: &str) -> Option<Duration> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split(' ').collect();
    let [_, day, month, year, time, "GMT"] = words[..] else { return None };
    let month = MONTHS.iter().position(|name| *name == month)? + 1;
    let time = humantime::parse_rfc3339(&format!("{year}-{month:02}-{day}T{time}Z")).ok()?;
    time.duration_since(UNIX_EPOCH).ok()
}

/// Returns the bounds from an answer that the server made between the two instants, at a time of
/// its own that it has cut to a resolution.
fn bounds(
    sent: SystemTime,
    (time, resolution): ServerTime,
    received: SystemTime,
) -> Option<ClockOffset> {
    let ns = |at: SystemTime| i64::try_from(at.duration_since(UNIX_EPOCH).ok()?.as_nanos()).ok();
    let time = i64::try_from(time.as_nanos()).ok()?;
    let latest = time.checked_add(i64::try_from(resolution.as_nanos()).ok()?)?;
    Some(ClockOffset { low_ns: time - ns(received)?, high_ns: latest - ns(sent)? })
}

#[cfg(test)]
mod tests {
    use std::mem;
    use std::net::TcpListener;

    use super::*;

    const MS: i64 = 1_000_000;

    #[test]
    fn dates_and_decimal_seconds_are_read() {
        let date = "HTTP/1.1 400 Bad Request\r\nDATE: Sun, 06 Nov 1994 08:49:37 GMT";
        let second = Duration::from_secs(784_111_777);
        assert_eq!(server_time(date), Some((second, Duration::from_secs(1))));
        let exact = format!("{date}\r\nX-HTTPSTIME: 784111777.25");
        let time = second + Duration::from_millis(250);
        assert_eq!(server_time(&exact), Some((time, Duration::from_millis(10))));
        for text in [
            "HTTP/1.1 200 OK",
            "HTTP/1.1 200 OK\r\nDate: Sunday, 06-Nov-94 08:49:37 GMT",
            "HTTP/1.1 200 OK\r\nDate: Sun, 06 Nov 1994 08:49:37 CET",
            "HTTP/1.1 200 OK\r\nX-HTTPSTIME: 1.0000000000",
            "HTTP/1.1 200 OK\r\nX-HTTPSTIME: 1.-5",
        ] {
            assert_eq!(server_time(text), None, "{text}");
        }
    }

    #[test]
    fn an_answer_bounds_the_clock_by_round_trip_and_resolution() {
        let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        let second = Duration::from_secs(1);
        // The server is 5.2 s ahead. Its answers are of both sides of a second's edge.
        let before = bounds(at(10_770), (Duration::from_secs(15), second), at(10_790));
        let after = bounds(at(10_795), (Duration::from_secs(16), second), at(10_815));
        let (before, after) = (before.expect("set"), after.expect("set"));
        assert_eq!((before.low_ns, before.high_ns), (4210 * MS, 5230 * MS));
        let both = intersection(before, after).expect("one clock");
        assert_eq!((both.low_ns, both.high_ns), (5185 * MS, 5230 * MS));
        let other = ClockOffset { low_ns: 6000 * MS, high_ns: 7000 * MS };
        assert_eq!(intersection(both, other), None);
    }

    #[test]
    fn bounds_of_a_difference_hold_in_both_directions() {
        let offset = |low_ns, high_ns| ClockOffset { low_ns, high_ns };
        let skew = offset(200, 230).minus(offset(-5, 10));
        assert_eq!((skew, skew.at_least_ns(), skew.at_most_ns()), (offset(190, 235), 190, 235));
        let back = offset(-5, 10).minus(offset(200, 230));
        assert_eq!((back, back.at_least_ns(), back.at_most_ns()), (offset(-235, -190), 190, 235));
        let unclear = offset(0, 60).minus(offset(0, 60));
        assert_eq!((unclear.at_least_ns(), unclear.at_most_ns()), (0, 60));
    }

    /// Starts a server whose clock is ahead by `ahead`.
    fn server(ahead: Duration, answer: fn(Duration) -> String) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let at = listener.local_addr().expect("bound");
        thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a client");
                let length = stream.read(&mut [0; 1024]).expect("a request");
                assert!(length > 0);
                let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("set");
                stream.write_all(answer(now + ahead).as_bytes()).expect("taken");
            }
        });
        at
    }

    #[test]
    fn the_clock_of_a_server_is_within_the_bounds() {
        let exact = |now: Duration| {
            format!(
                "HTTP/1.1 200 OK\r\nX-HTTPSTIME: {}.{:09}\r\n\r\n",
                now.as_secs(),
                now.subsec_nanos()
            )
        };
        let dated = |now: Duration| {
            let time = humantime::format_rfc3339_seconds(UNIX_EPOCH + now).to_string();
            let [year, month, day] = [&time[..4], &time[5..7], &time[8..10]];
            let names = "JanFebMarAprMayJunJulAugSepOctNovDec";
            let month = 3 * (month.parse::<usize>().expect("a month") - 1);
            let (month, time) = (&names[month..month + 3], &time[11..19]);
            format!("HTTP/1.1 426 No\r\nDate: Sun, {day} {month} {year} {time} GMT\r\n\r\n")
        };
        let url: Url = "ws://127.0.0.1:1/".parse().expect("url");
        for (answer, ahead_ms) in [(exact as fn(Duration) -> String, 200), (dated, 3600)] {
            let ahead = Duration::from_millis(ahead_ms);
            let found = offset(&url, &[server(ahead, answer)], None).expect("a clock");
            let ahead_ns = ahead_ms as i64 * MS;
            assert!((found.low_ns..=found.high_ns).contains(&ahead_ns), "{found:?}");
            assert!(found.high_ns - found.low_ns < 1000 * MS, "{found:?}");
        }
    }

    /// An answer whose first read a signal interrupts.
    struct Interrupted {
        answer: &'static [u8],
        is_interrupted: bool,
    }

    impl Read for Interrupted {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            if mem::replace(&mut self.is_interrupted, true) {
                self.answer.read(into)
            } else {
                Err(io::ErrorKind::Interrupted.into())
            }
        }
    }

    impl Write for Interrupted {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_interrupted_answer_is_read_to_its_end() {
        let answer = b"HTTP/1.1 200 OK\r\n\r\n";
        let mut stream = Interrupted { answer, is_interrupted: false };
        let (_, head, _) = ask(&mut stream, "GET / HTTP/1.1\r\n\r\n").expect("a head");
        assert_eq!(head, "HTTP/1.1 200 OK");
    }

    #[test]
    fn a_server_without_a_clock_is_an_error_that_says_so() {
        let at = server(Duration::ZERO, |_| "HTTP/1.1 400 Bad Request\r\n\r\n".to_owned());
        let error = |url: &str| {
            let url: Url = url.parse().expect("url");
            offset(&url, &[at], None).expect_err("no clock").to_string()
        };
        assert_eq!(error("ws://127.0.0.1:1/"), "the server's answer to a GET has no Date");
        assert_eq!(error("tcp://127.0.0.1:1"), "a tcp:// server has no Date");
    }
}
