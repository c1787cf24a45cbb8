//! The live view on a terminal, and Ctrl-C.

use std::fs;
use std::io;
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::process::getpgrp;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcsetattr};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::{flag, low_level};

use super::report::span;
use super::say;
use crate::result::percentile;
use crate::result::table::grouped;
use crate::run::{Phase, Progress, Snapshot};

/// The rate shown is that of about the last second.
const RATE_OVER: Duration = Duration::from_secs(1);
const BAR_WIDTH: usize = 20;
/// Columns of the small histogram.
const HISTOGRAM_WIDTH: usize = 40;
/// How long a panic waits until the view is cleared.
const CLEARING: Duration = Duration::from_millis(500);
/// Heights of a column.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Base of a shell's exit code for a program that a signal ended. The signal's number is added to it.
const ENDED_BY_SIGNAL: u8 = 128;
/// The first signal that was caught; 0 for none.
static CAUGHT: AtomicU8 = AtomicU8::new(0);

/// Returns the exit code of a command that was ended early: the code of the signal that ended it.
pub(super) fn interrupted_code() -> u8 {
    match CAUGHT.load(Ordering::Relaxed) {
        0 => super::INTERRUPTED,
        signal => ENDED_BY_SIGNAL + signal,
    }
}

/// Handler of Ctrl-C, SIGTERM and SIGHUP. The first signal asks the run to end with the results so far. A
/// second signal ends the program at once, except SIGHUP: the kernel and a shell both send it when a terminal
/// is closed.
#[derive(Clone, Debug)]
pub(super) struct Interrupt {
    wish: Arc<AtomicBool>,
    /// What is taken off the terminal before the second signal ends the program.
    screen: Screen,
}

/// The view, and the terminal's modes as they were before it.
#[derive(Clone, Debug)]
struct Screen {
    bar: ProgressBar,
    modes: Arc<OnceLock<Termios>>,
}

impl Screen {
    fn hidden() -> Self {
        Self { bar: ProgressBar::hidden(), modes: Arc::default() }
    }

    /// Shows the view on standard error, where that is a terminal and this process is in its foreground.
    fn show(&self) {
        if !is_in_foreground() {
            return;
        }
        self.bar.set_draw_target(ProgressDrawTarget::stderr());
        self.bar.set_length(0);
        if self.bar.is_hidden() {
            return;
        }
        // The ^C that a terminal echoes would move the cursor, and what is above it could not be cleared any more.
        if let Ok(modes) = tcgetattr(io::stderr()) {
            let mut silent = modes.clone();
            silent.local_modes.remove(LocalModes::ECHOCTL);
            let modes = self.modes.get_or_init(|| modes);
            if modes.local_modes.contains(LocalModes::ECHOCTL) {
                // Where it fails the view is less tidy, and that is all.
                let _ = tcsetattr(io::stderr(), OptionalActions::Now, &silent);
            }
        }
    }

    /// As it was before.
    fn clear(&self) {
        self.bar.finish_and_clear();
        if let Some(modes) = self.modes.get()
            && is_in_foreground()
        {
            let _ = tcsetattr(io::stderr(), OptionalActions::Now, modes);
        }
    }
}

/// Whether the terminal is ours. Another process's the kernel would stop us for setting (SIGTTOU), and a shell has put its own
/// modes back by then.
fn is_in_foreground() -> bool {
    tcgetpgrp(io::stderr()).is_ok_and(|group| group == getpgrp())
}

impl Interrupt {
    /// Catches the signals from now on.
    pub(super) fn catch() -> io::Result<Self> {
        let interrupt = Self { wish: Arc::default(), screen: Screen::hidden() };
        let ending = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            // A third signal ends the program also where the second waits for a terminal that takes nothing.
            flag::register_conditional_shutdown(signal, 128 + signal, ending.clone())?;
        }
        let mut signals = Signals::new([SIGINT, SIGTERM])?;
        // nohup(1) ignores SIGHUP, so that a session continues after its terminal is closed.
        if !is_ignored(SIGHUP) {
            signals.handle().add_signal(SIGHUP)?;
        }
        let caught = interrupt.clone();
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for signal in signals.forever() {
                let number = u8::try_from(signal).unwrap_or_default();
                let _ = CAUGHT.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed);
                if caught.wish.swap(true, Ordering::Relaxed) && signal != SIGHUP {
                    ending.store(true, Ordering::Relaxed);
                    caught.screen.clear();
                    low_level::exit(128 + signal);
                }
            }
        })?;
        Ok(interrupt)
    }
}

/// Returns true where this process was started with the signal ignored: a bit of `SigIgn` (proc(5)), which
/// counts signals from 1.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored =
        status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    ignored.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Shows a run on standard error where that is a terminal, and nothing elsewhere.
///
/// Nothing of it outlives the program: the terminal is as it was before at the end, before an error is printed, at the second
/// signal and by a panic. The cursor is never hidden.
#[derive(Debug)]
pub(super) struct Terminal {
    interrupt: Interrupt,
    bar: ProgressBar,
    /// Echoes at some time of the last seconds.
    before: Option<(Instant, u64)>,
    rate: f64,
    phase: Option<Phase>,
    /// The lines about the latencies of the last second.
    latencies: String,
    is_quiet: bool,
}

impl Terminal {
    /// `quiet`: nothing on a terminal either.
    pub(super) fn new(interrupt: Interrupt, quiet: bool) -> Self {
        if !quiet {
            interrupt.screen.show();
        }
        let bar = interrupt.screen.bar.clone();
        if !bar.is_hidden() {
            clear_on_panic(interrupt.screen.clone());
        }
        Self {
            interrupt,
            bar,
            before: None,
            rate: 0.0,
            phase: None,
            latencies: String::new(),
            is_quiet: quiet,
        }
    }

    /// Takes the view off the terminal.
    pub(super) fn clear(&self) {
        self.interrupt.screen.clear();
    }

    /// Prints above the view, or where there is none on standard error alone.
    pub(super) fn say(&self, line: &str) {
        if self.bar.is_hidden() { say(line) } else { self.bar.println(line) }
    }

    /// Prints notes as [`say`](Self::say) does, while a session has the view.
    pub(super) fn notes(&self) -> impl Fn(&str) + use<> {
        let bar = self.bar.clone();
        move |line| if bar.is_hidden() { say(line) } else { bar.println(line) }
    }

    fn count(&mut self, at: &Snapshot) {
        if self.phase != Some(at.phase) && matches!(at.phase, Phase::Start | Phase::Connect | Phase::Warmup) {
            (self.before, self.rate) = (None, 0.0);
            self.latencies.clear();
            // The view was cleared after the run before, if there was one.
            if self.bar.is_finished() {
                self.bar.reset();
            }
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

impl Drop for Terminal {
    fn drop(&mut self) {
        self.clear();
    }
}

/// In a release a panic aborts, and nothing is dropped: what is on the terminal must go before its message comes.
fn clear_on_panic(screen: Screen) {
    let message = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        // The library draws nothing on a thread that panics. Bounded, for that thread may hold the view.
        let (screen, (done, cleared)) = (screen.clone(), mpsc::channel());
        thread::spawn(move || {
            screen.clear();
            done.send(())
        });
        let _ = cleared.recv_timeout(CLEARING);
        message(info);
    }));
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
        self.bar.set_message(describe(at, self.rate, &self.latencies));
    }

    fn second(&mut self, latencies: &Histogram<u32>) {
        if !self.bar.is_hidden() {
            self.latencies = latency_lines(latencies);
        }
    }

    fn note(&mut self, text: &str) {
        if !self.is_quiet {
            self.say(&format!("note: {text}"));
        }
    }

    fn interrupted(&mut self) -> bool {
        self.interrupt.wish.load(Ordering::Relaxed)
    }
}

fn describe(at: &Snapshot, rate: f64, latencies: &str) -> String {
    match at.phase {
        Phase::Start => "waiting for the server".to_owned(),
        Phase::Connect => {
            format!("{} of {} connections", grouped(at.open as f64), grouped(at.connections as f64))
        }
        _ => format!(
            "{:.1} s  {} connections  {} msg/s  {} errors{latencies}",
            at.elapsed.as_secs_f64(),
            grouped(at.open as f64),
            grouped(rate),
            grouped(at.errors as f64),
        ),
    }
}

/// Percentiles and the shape of the last second's latencies.
fn latency_lines(latencies: &Histogram<u32>) -> String {
    if latencies.is_empty() {
        return "\nlatency  no echo in the last second".to_owned();
    }
    let quantiles = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];
    let shown =
        quantiles.iter().filter_map(|(name, q)| Some(format!("{name} {}", span(percentile(latencies, *q)?))));
    let shown = shown.collect::<Vec<_>>().join("  ");
    let (low, high) = (latencies.min_nz(), latencies.max());
    format!(
        "\nlatency  {shown}  max {}\n         {} {} {}",
        span(high),
        span(low),
        columns(latencies, HISTOGRAM_WIDTH),
        span(high),
    )
}

/// The histogram in columns of equal ratio from its lowest to its highest value. What is not empty can be seen.
fn columns(histogram: &Histogram<u32>, width: usize) -> String {
    let (low, high) = (histogram.min_nz() as f64, histogram.max() as f64);
    let mut counts = vec![0; width];
    for step in histogram.iter_recorded() {
        // Where lowest and highest are one, everything is in the first column: 0 / 0 counts as 0.
        let place = (step.value_iterated_to() as f64 / low).ln() / (high / low).ln();
        let column = (place * width as f64) as usize;
        counts[column.min(width - 1)] += u64::from(step.count_at_value());
    }
    let most = counts.iter().copied().max().unwrap_or(0).max(1);
    let full = BLOCKS.len() as u64 - 1;
    counts.iter().map(|count| BLOCKS[(count * full).div_ceil(most) as usize]).collect()
}

fn style() -> ProgressStyle {
    let template = format!("{{prefix:8}} {{bar:{BAR_WIDTH}}} {{msg}}");
    // The template is constant: it is right, or the default does as well.
    ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use indicatif::{InMemoryTerm, TermLike};

    use super::*;

    fn histogram(values: &[(u64, u64)]) -> Histogram<u32> {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("bounds");
        values.iter().for_each(|&(ns, count)| histogram.record_n(ns, count as u32).expect("in range"));
        histogram
    }

    fn snapshot(phase: Phase) -> Snapshot {
        Snapshot {
            phase,
            elapsed: Duration::from_millis(1500),
            planned: Duration::from_secs(10),
            open: 64,
            connections: 64,
            sent: 10_064,
            received: 10_000,
            errors: 2,
        }
    }

    fn on(screen: &InMemoryTerm) -> Terminal {
        let interrupt = Interrupt { wish: Arc::default(), screen: Screen::hidden() };
        let terminal = Terminal::new(interrupt, true);
        terminal.bar.set_draw_target(ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), 255));
        terminal
    }

    #[test]
    fn the_view_has_rate_errors_connections_and_the_shape_of_latency() {
        let screen = InMemoryTerm::new(24, 100);
        let mut terminal = on(&screen);
        terminal.second(&histogram(&[(100_000, 20_000), (400_000, 500), (2_000_000, 5)]));
        terminal.phase = Some(Phase::Measure);
        terminal.tick(&snapshot(Phase::Measure));
        let seen = screen.contents();
        for part in
            ["measure", "64 connections", "0 msg/s", "2 errors", "p50 100 us", "p99 40", "max 2.0", "█", "▁"]
        {
            assert!(seen.contains(part), "{part} not in:\n{seen}");
        }
        assert_eq!(seen.lines().count(), 3, "{seen}");
        terminal.clear();
        assert_eq!(screen.contents(), "");
    }

    #[test]
    fn a_second_run_is_shown_too() {
        let screen = InMemoryTerm::new(24, 100);
        let mut terminal = on(&screen);
        terminal.tick(&snapshot(Phase::Measure));
        terminal.tick(&snapshot(Phase::Close));
        assert_eq!(screen.contents(), "");
        terminal.tick(&snapshot(Phase::Connect));
        assert!(screen.contents().contains("64 of 64 connections"), "{}", screen.contents());
    }

    #[test]
    fn a_panic_clears_the_view_before_it_speaks() {
        let screen = InMemoryTerm::new(24, 100);
        let mut terminal = on(&screen);
        let seen = screen.clone();
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |_| seen.write_line("the message").expect("in memory")));
        clear_on_panic(terminal.interrupt.screen.clone());
        terminal.tick(&snapshot(Phase::Measure));
        assert!(screen.contents().contains("msg/s"));
        let ended = panic::catch_unwind(|| panic!("as the test wants it"));
        panic::set_hook(before);
        assert!(ended.is_err());
        assert_eq!(screen.contents(), "the message");
    }

    #[test]
    fn columns_lose_nothing_and_show_the_rare() {
        assert_eq!(columns(&histogram(&[(1000, 8), (1_000_000, 1)]), 4), "█  ▁");
        assert_eq!(columns(&histogram(&[(5000, 3)]), 3).chars().filter(|c| *c == '█').count(), 1);
        assert!(latency_lines(&histogram(&[])).contains("no echo"));
        assert!(!latency_lines(&histogram(&[(1000, 50)])).contains("p50"), "50 samples carry no median");
    }
}
