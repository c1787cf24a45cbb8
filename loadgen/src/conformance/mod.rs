//! The conformance battery: what an echo server answers to usual, unusual and hostile input, seen
//! from outside.
//!
//! Raw sockets, frames built by hand, no WebSocket library. Every case has a control connection,
//! which must go on echoing during the case and after it. The tests of our server run all cases
//! against it on every engine, with the limits of [`FLAGS`], and want every verdict to be
//! [`Verdict::Ok`].

mod case;
mod close;
mod control;
mod deflate;
mod frames;
mod handshake;
mod load;
mod observe;
mod relay;
mod servers;
mod text;
mod wire;

pub use case::{CaseResult, Verdict};
pub use servers::{ConformanceError, FLAGS, Servers};

/// Runs all cases, many at once.
#[must_use]
pub fn run(servers: &Servers) -> Vec<CaseResult> {
    let cases = [
        handshake::cases(servers),
        frames::cases(),
        text::cases(),
        close::cases(),
        deflate::cases(),
        load::cases(),
    ];
    case::run_all(&cases.concat(), servers)
}

/// Runs the cases of the opening handshake alone.
#[must_use]
pub fn run_handshakes(servers: &Servers) -> Vec<CaseResult> {
    case::run_all(&handshake::cases(servers), servers)
}

/// Returns the number of results with each verdict: `123 cases: 119 OK, 4 lax, ...`, all of them
/// named.
#[must_use]
pub fn summary(results: &[CaseResult]) -> String {
    let count = |verdict| results.iter().filter(|result| result.verdict == verdict).count();
    let counts = Verdict::ALL.map(|verdict| format!("{} {}", count(verdict), verdict.name()));
    format!("{} cases: {}", results.len(), counts.join(", "))
}
