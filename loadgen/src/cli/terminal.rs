//! Live progress on a terminal, and Ctrl-C.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::result::table::grouped;
use crate::run::{Phase, Progress, Snapshot};

/// The rate shown is that of about the last second.
const RATE_OVER: Duration = Duration::from_secs(1);
const BAR_WIDTH: usize = 20;

/// Ctrl-C (or SIGTERM): the first is a wish that the run ends with what it has, the second ends the program at once.
#[derive(Clone, Debug)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Catches the signals from now on.
    pub(super) fn catch() -> io::Result<Self> {
        let wish = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the wish unset, and sets it.
            flag::register_conditional_shutdown(signal, 128 + signal, wish.clone())?;
            flag::register(signal, wish.clone())?;
        }
        Ok(Self(wish))
    }
}

/// Shows a run on standard error where that is a terminal, and nothing elsewhere.
#[derive(Debug)]
pub(super) struct Terminal {
    interrupt: Interrupt,
    bar: ProgressBar,
    /// Echoes at some time of the last seconds.
    before: Option<(Instant, u64)>,
    rate: f64,
    phase: Option<Phase>,
}

impl Terminal {
    /// `quiet`: nothing on a terminal either.
    pub(super) fn new(interrupt: Interrupt, quiet: bool) -> Self {
        let target = if quiet { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
        let bar = ProgressBar::with_draw_target(Some(0), target);
        Self { interrupt, bar, before: None, rate: 0.0, phase: None }
    }

    /// Takes the progress off the terminal.
    pub(super) fn clear(&self) {
        self.bar.finish_and_clear();
    }

    fn count(&mut self, at: &Snapshot) {
        if self.phase != Some(at.phase) && matches!(at.phase, Phase::Connect | Phase::Warmup) {
            (self.before, self.rate) = (None, 0.0);
        }
        self.phase = Some(at.phase);
        let (since, received) = *self.before.get_or_insert((Instant::now(), at.received));
        let span = since.elapsed();
        if span >= RATE_OVER {
            self.rate = at.received.saturating_sub(received) as f64 / span.as_secs_f64();
            self.before = Some((Instant::now(), at.received));
        }
    }
}

impl Progress for Terminal {
    fn tick(&mut self, at: &Snapshot) {
        if self.bar.is_hidden() {
            return;
        }
        self.count(at);
        if at.phase == Phase::Close {
            return self.bar.finish_and_clear();
        }
        self.bar.set_style(style());
        self.bar.set_prefix(at.phase.name());
        self.bar.set_length(millis(at.planned).max(1));
        self.bar.set_position(millis(at.elapsed.min(at.planned)));
        self.bar.set_message(describe(at, self.rate));
    }

    fn interrupted(&mut self) -> bool {
        self.interrupt.0.load(Ordering::Relaxed)
    }
}

fn describe(at: &Snapshot, rate: f64) -> String {
    match at.phase {
        Phase::Start => "waiting for the server".to_owned(),
        Phase::Connect => {
            format!("{} of {} connections", grouped(at.open as f64), grouped(at.connections as f64))
        }
        _ => format!(
            "{:.1} s  {} connections  {} msg/s  {} errors",
            at.elapsed.as_secs_f64(),
            grouped(at.open as f64),
            grouped(rate),
            grouped(at.errors as f64),
        ),
    }
}

fn style() -> ProgressStyle {
    let template = format!("{{prefix:8}} {{bar:{BAR_WIDTH}}} {{msg}}");
    // The template is constant: it is right, or the default does as well.
    ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}
