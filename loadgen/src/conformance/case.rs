//! A case: what is sent, what is expected, and the verdict on what is seen.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use super::control::ControlConnection;
use super::deflate::{self, Deflated};
use super::observe::{Answer, End, Frame, Seen, describe_replies, observe_answer, observe_frames};
use super::servers::{Servers, Target, Variant};
use super::wire::{self, PING, frame};

/// Cases that run at once.
const SIDE_BY_SIDE: usize = 16;

/// Asks whether the connection is still open; its pong says yes.
pub(super) const PROBE: &[u8] = b"still open?";

/// Verdict on what a server did in a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// As the RFC asks.
    Ok,
    /// Tolerated, dropped without a code, or refused in another way than the most exact one.
    Lax,
    /// Another answer than the right one.
    Wrong,
    /// The server ended, or the control connection was disturbed.
    Broken,
    /// The case needs limits that only our server's flags set, or an extension that the server
    /// declines.
    Skipped,
}

#[derive(Clone)]
pub(super) struct Case {
    pub(super) id: String,
    pub(super) sent: String,
    pub(super) section: &'static str,
    pub(super) on: Variant,
    /// Measures something that other cases would disturb.
    pub(super) alone: bool,
    pub(super) check: Check,
}

#[derive(Clone)]
pub(super) enum Check {
    /// The first bytes of a connection, in these writes.
    Request(Vec<Vec<u8>>, Answer),
    /// Writes after a handshake, and the expected answers: the data and control frames that come
    /// back, and the end.
    Frames(Vec<Vec<u8>>, Vec<Frame>, End),
    /// The answer to this offer of extensions, which must decline it.
    Declined(&'static str),
    /// Compressed messages, where the server agrees.
    Deflated(Deflated),
    /// Anything else.
    Scenario(&'static str, fn(&Target) -> Outcome),
}

/// Verdict and what was seen.
pub(super) type Outcome = (Verdict, String);

impl Verdict {
    /// All of them, the best first.
    pub const ALL: [Self; 5] = [Self::Ok, Self::Lax, Self::Wrong, Self::Broken, Self::Skipped];

    /// Returns its word in tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "OK",
            Self::Lax => "lax",
            Self::Wrong => "wrong",
            Self::Broken => "broken",
            Self::Skipped => "skipped",
        }
    }
}

impl Case {
    fn new(
        id: impl Into<String>,
        sent: impl Into<String>,
        section: &'static str,
        check: Check,
    ) -> Self {
        Self {
            id: id.into(),
            sent: sent.into(),
            section,
            on: Variant::Default,
            alone: false,
            check,
        }
    }

    pub(super) fn request(
        id: &str,
        sent: &str,
        section: &'static str,
        bytes: Vec<u8>,
        answer: Answer,
    ) -> Self {
        Self::new(id, sent, section, Check::Request(vec![bytes], answer))
    }

    pub(super) fn frames(
        id: impl Into<String>,
        sent: impl Into<String>,
        section: &'static str,
        bytes: Vec<u8>,
        replies: &[(u8, &[u8])],
        end: End,
    ) -> Self {
        let replies = replies.iter().map(|&(opcode, payload)| (opcode, payload.to_vec())).collect();
        Self::new(id, sent, section, Check::Frames(vec![bytes], replies, end))
    }

    pub(super) fn scenario(
        id: &str,
        sent: &str,
        section: &'static str,
        expected: &'static str,
        run: fn(&Target) -> Outcome,
    ) -> Self {
        Self::new(id, sent, section, Check::Scenario(expected, run))
    }

    pub(super) fn declined(
        id: impl Into<String>,
        sent: impl Into<String>,
        section: &'static str,
        offer: &'static str,
    ) -> Self {
        Self::new(id, sent, section, Check::Declined(offer))
    }

    pub(super) fn deflated(
        id: &str,
        sent: &str,
        section: &'static str,
        deflated: Deflated,
    ) -> Self {
        Self::new(id, sent, section, Check::Deflated(deflated))
    }

    pub(super) fn on(mut self, on: Variant) -> Self {
        self.on = on;
        self
    }

    pub(super) fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// The same bytes in writes of `len` bytes.
    pub(super) fn in_writes_of(mut self, len: usize) -> Self {
        if let Check::Request(writes, _) | Check::Frames(writes, ..) = &mut self.check {
            *writes = writes.concat().chunks(len).map(<[u8]>::to_vec).collect();
        }
        self
    }

    pub(super) fn expected(&self) -> String {
        match &self.check {
            Check::Request(_, answer) => answer.to_string(),
            Check::Frames(_, replies, end) if replies.is_empty() => end.to_string(),
            Check::Frames(_, replies, end) => format!("{}, {end}", describe_replies(replies)),
            Check::Declined(_) => "101 without the extension".to_owned(),
            Check::Deflated(deflated) => deflated.expected(),
            Check::Scenario(expected, _) => (*expected).to_owned(),
        }
    }

    fn run(&self, target: &Target) -> Outcome {
        match &self.check {
            Check::Request(writes, answer) => {
                let Ok(stream) = wire::connect(target) else { return no_connection() };
                let offered = writes.concat();
                let probe_behind = match answer {
                    Answer::Opens(replies) => Some(replies.len()),
                    _ => None,
                };
                let seen = exchange(&stream, writes, probe_behind, |came| {
                    observe_answer(&stream, answer, came)
                });
                answer.judge(&offered, &seen)
            }
            Check::Frames(writes, replies, end) => {
                let Ok(stream) = wire::open(target) else { return no_connection() };
                let probe_behind = (*end == End::Open).then_some(replies.len());
                let seen = exchange(&stream, writes, probe_behind, |came| {
                    observe_frames(&stream, Vec::new(), came)
                });
                end.judge(replies, &seen)
            }
            Check::Declined(offer) => deflate::decline(offer, target),
            Check::Deflated(deflated) => deflated.run(target),
            Check::Scenario(_, run) => run(target),
        }
    }
}

pub(super) fn no_connection() -> Outcome {
    (Verdict::Broken, "no connection".into())
}

/// Writes on a separate thread, so that neither side waits for the other. A failed write is not a
/// finding, because the server may have closed the connection. The probe is sent after
/// `probe_behind` replies, so that no frame precedes the server's 101 (RFC 6455 4.1). The probe's
/// pong may overtake an echo (5.5.3), and would otherwise end a case too early.
pub(super) fn exchange(
    stream: &TcpStream,
    writes: &[Vec<u8>],
    probe_behind: Option<usize>,
    observe: impl FnOnce(&mut dyn FnMut(usize)) -> Seen,
) -> Seen {
    let (say_due, probe_due) = mpsc::channel();
    thread::scope(|scope| {
        scope.spawn(move || {
            let mut stream = stream;
            for write in writes {
                if stream.write_all(write).is_err() {
                    return;
                }
                // So that short sequences are not joined into one segment; the verdict does not
                // depend on it.
                if (2..64).contains(&writes.len()) {
                    thread::sleep(Duration::from_millis(1));
                }
            }
            if probe_due.recv().is_ok() {
                let _ = stream.write_all(&frame(PING, PROBE));
            }
        });
        let seen = observe(&mut |came| {
            if probe_behind == Some(came) {
                let _ = say_due.send(());
            }
        });
        drop(say_due);
        // Also wakes a writer that is stuck.
        let _ = stream.shutdown(Shutdown::Both);
        seen
    })
}

/// Result of a case.
#[derive(Clone, Debug)]
pub struct CaseResult {
    /// Name of the case.
    pub id: String,
    /// Description of what was sent.
    pub sent: String,
    /// Description of what the RFC requires.
    pub expected: String,
    /// Description of what came back.
    pub seen: String,
    /// The verdict.
    pub verdict: Verdict,
    /// Section of the RFC.
    pub section: &'static str,
}

/// Runs the cases, many at once, those that measure one after the other at the end.
pub(super) fn run_all(cases: &[Case], servers: &Servers) -> Vec<CaseResult> {
    let results = Mutex::new(Vec::new());
    let next = AtomicUsize::new(0);
    let take = |alone: bool| {
        while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
            if case.alone == alone {
                let result = run(case, servers);
                results.lock().unwrap_or_else(PoisonError::into_inner).push(result);
            }
        }
    };
    thread::scope(|scope| (0..SIDE_BY_SIDE).for_each(|_| drop(scope.spawn(|| take(false)))));
    next.store(0, Ordering::Relaxed);
    take(true);
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    results.sort_by_key(|result| cases.iter().position(|case| case.id == result.id));
    results
}

fn run(case: &Case, servers: &Servers) -> CaseResult {
    let (verdict, seen) = match Target::of(servers, case.on) {
        None => (Verdict::Skipped, "needs our server's flags".into()),
        Some(target) => with_control_connection(case, &target),
    };
    let Case { id, sent, section, .. } = case;
    CaseResult {
        id: id.clone(),
        sent: sent.clone(),
        expected: case.expected(),
        seen,
        verdict,
        section,
    }
}

fn with_control_connection(case: &Case, target: &Target) -> Outcome {
    match ControlConnection::open(target) {
        Err(error) => (Verdict::Broken, format!("no control connection: {error}")),
        Ok(control) => match control.during(|| case.run(target)) {
            (outcome, Ok(())) => outcome,
            ((_, seen), Err(error)) => {
                (Verdict::Broken, format!("{seen}; control connection: {error}"))
            }
        },
    }
}
