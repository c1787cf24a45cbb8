//! One line in the log for each refused input, with the rule it broke, and few enough of them in a flood.

use std::time::Duration;

use engine::Nanos;
use protocol::ProtocolError;
use protocol::handshake::server::Refusal;
use tracing::warn;

/// A worker's refusals: counted all, logged as far as the limit allows.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    count: u64,
    window_end: Nanos,
    lines: u32,
    unlogged: u64,
}

impl Refusals {
    /// Lines in a window.
    const LINES: u32 = 10;
    const WINDOW: Duration = Duration::from_secs(1);

    /// Refusals so far.
    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    /// A request was refused with an HTTP status.
    pub(crate) fn handshake(&mut self, now: Nanos, refusal: &Refusal) {
        if self.may_log(now) {
            let (status, rule, section) = (refusal.status(), refusal.rule(), refusal.section());
            warn!(status, rule, section, "handshake refused: {}", refusal.detail());
        }
    }

    /// Frames were refused with a close code.
    pub(crate) fn frames(&mut self, now: Nanos, error: &ProtocolError) {
        if self.may_log(now) {
            let (code, rule) = (error.close_code(), error.rule());
            warn!(code, rule, section = format!("RFC 6455 {}", error.section()), "frames refused: {error}");
        }
    }

    fn may_log(&mut self, now: Nanos) -> bool {
        self.count += 1;
        if now >= self.window_end {
            if self.unlogged > 0 {
                warn!("{} more refusals were not logged", self.unlogged);
            }
            *self = Self { count: self.count, window_end: now + Self::WINDOW, ..Self::default() };
        }
        let may = self.lines < Self::LINES;
        if may {
            self.lines += 1;
        } else {
            self.unlogged += 1;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_refusals_is_no_flood_of_lines() {
        let mut refusals = Refusals::default();
        let logged = (0..1000).filter(|_| refusals.may_log(Nanos(5))).count();
        assert_eq!((logged, refusals.unlogged), (10, 990));
        assert!(refusals.may_log(Nanos(5) + Refusals::WINDOW));
        assert_eq!((refusals.unlogged, refusals.count()), (0, 1001));
    }
}
