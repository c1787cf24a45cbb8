//! The live view on a terminal, and Ctrl-C.

use std::env;
use std::fs;
use std::io::{self, Write};
use std::mem;
use std::os::fd::AsFd;
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use rustix::process::getpgrp;
use rustix::termios::{
    LocalModes, OptionalActions, Termios, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use signal_hook::{flag, low_level};

use super::{colour, say};
use crate::format::{about, count, grouped, span};
use crate::report::terminal::USUAL_WIDTH;
use crate::result::percentile;
use crate::run::{Phase, Progress, Snapshot};

/// The rate shown is that of about the last second.
const RATE_OVER: Duration = Duration::from_secs(1);
const BAR_WIDTH: usize = 20;
const HISTOGRAM_WIDTH: usize = 30;
/// Longest time that a panic waits until the view is closed.
const CLOSING: Duration = Duration::from_millis(500);
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Base of a shell's exit code for a program that a signal ended. The signal's number is added to
/// it.
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

/// The view at the bottom of a terminal, shared by all who print while there is one.
///
/// Lines are not padded to the margin. A narrower terminal would wrap padded lines, and the view
/// could then not find its rows to clear them.
#[derive(Clone, Default)]
pub(super) struct Screen {
    view: Arc<Mutex<View>>,
}

#[derive(Default)]
struct View {
    /// The terminal; `None` without a live view.
    terminal: Option<Box<dyn Write + Send>>,
    lines: Vec<String>,
    /// Columns that the terminal had then.
    columns: usize,
    /// The terminal's modes before something was shown.
    modes: Option<Termios>,
}

/// Erases from the cursor to the end of the screen.
const TO_END: &str = "\u{1b}[J";

impl View {
    /// Returns the sequence that moves the cursor to the first row of the view, in a terminal of
    /// `columns`. A narrower terminal has broken long lines.
    fn to_first_row(&self, columns: usize) -> String {
        let rows = |line: &String| line.chars().count().div_ceil(columns.max(1)).max(1);
        match self.lines.iter().map(rows).sum::<usize>() {
            0 => String::new(),
            1 => "\r".to_owned(),
            rows => format!("\r\u{1b}[{}A", rows - 1),
        }
    }

    /// Returns the text that shows the lines from the first column on.
    fn shown(&self) -> String {
        self.lines.join("\u{1b}[K\r\n") + TO_END
    }

    /// Writes all at once, so that nothing comes between. A terminal that is gone shows nothing.
    fn write(&mut self, text: &str) {
        if let Some(terminal) = &mut self.terminal {
            let _ = terminal.write_all(text.as_bytes()).and_then(|()| terminal.flush());
        }
    }

    /// Keeps the terminal from echoing ^C, which would move the cursor: what is above it could not
    /// be cleared any more.
    fn silence_echo(&mut self) {
        if self.modes.is_some() || !is_in_foreground() {
            return;
        }
        let Ok(modes) = tcgetattr(io::stderr()) else { return };
        if modes.local_modes.contains(LocalModes::ECHOCTL) {
            let mut silent = modes.clone();
            silent.local_modes.remove(LocalModes::ECHOCTL);
            // Where it fails the view is less tidy, and that is all.
            let _ = tcsetattr(io::stderr(), OptionalActions::Now, &silent);
        }
        self.modes = Some(modes);
    }

    fn restore_modes(&mut self) {
        if let Some(modes) = self.modes.take()
            && is_in_foreground()
        {
            let _ = tcsetattr(io::stderr(), OptionalActions::Now, &modes);
        }
    }

    fn erase(&mut self) {
        let first = self.to_first_row(screen_width());
        if !mem::take(&mut self.lines).is_empty() {
            self.write(&(first + TO_END));
        }
    }
}

impl Screen {
    fn lock(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Allows a view on standard error, where that is a terminal that can move its cursor and this
    /// process is in its foreground.
    fn show(&self) {
        let moves_cursor =
            env::var_os("TERM").is_some_and(|name| !name.is_empty() && name != "dumb");
        if is_in_foreground() && moves_cursor {
            self.lock().terminal = Some(Box::new(io::stderr()));
        }
    }

    fn is_hidden(&self) -> bool {
        self.lock().terminal.is_none()
    }

    /// Shows `text` in place of what is shown. Nothing is shown once the view is closed.
    fn draw(&self, text: &str) {
        let (mut view, columns) = (self.lock(), screen_width());
        if view.terminal.is_none() {
            return;
        }
        view.silence_echo();
        let first = view.to_first_row(columns);
        // Behind the last column a terminal may or may not begin another row.
        let most = columns.saturating_sub(1).max(1);
        view.lines = text.lines().map(|line| line.chars().take(most).collect()).collect();
        // Erased rows do not remember that they were parts of one line, and stay rows in a wider
        // terminal.
        let erased = if view.columns == columns { "" } else { TO_END };
        view.columns = columns;
        let shown = view.shown();
        view.write(&format!("{first}{erased}{shown}"));
    }

    /// Prints a line above the view, or where there is none on standard error alone.
    pub(super) fn say(&self, line: &str) {
        let mut view = self.lock();
        if view.terminal.is_none() {
            return say(line);
        }
        let line =
            if colour::is_on_standard_error() { colour::highlight(line) } else { line.to_owned() };
        let (first, shown) = (view.to_first_row(screen_width()), view.shown());
        view.write(&format!("{first}{TO_END}{line}\r\n{shown}"));
    }

    /// Takes the view off the terminal until something is drawn again.
    pub(super) fn erase(&self) {
        self.lock().erase();
    }

    /// Ends the view: leaves the terminal as it was before, and keeps other threads from drawing
    /// again.
    pub(super) fn close(&self) {
        let mut view = self.lock();
        view.erase();
        view.restore_modes();
        view.terminal = None;
    }
}

fn screen_width() -> usize {
    columns_of(io::stderr()).unwrap_or(USUAL_WIDTH)
}

/// Returns true if this process is in the foreground of the terminal. The kernel stops others
/// that set its modes (SIGTTOU), and a shell has put its own modes back by then.
fn is_in_foreground() -> bool {
    tcgetpgrp(io::stderr()).is_ok_and(|group| group == getpgrp())
}

fn columns_of(stream: impl AsFd) -> Option<usize> {
    tcgetwinsize(stream).ok().map(|size| usize::from(size.ws_col)).filter(|columns| *columns > 0)
}

/// Returns the width of printed text: COLUMNS where it is set, else that of the terminal at
/// standard output, else 80.
pub(super) fn width() -> usize {
    let given =
        env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).filter(|columns| *columns > 0);
    given.or_else(|| columns_of(io::stdout())).unwrap_or(USUAL_WIDTH)
}

/// Catches Ctrl-C, SIGTERM and SIGHUP from now on. The first signal sets `wish`, which asks the run
/// to end with the results so far. A second one takes the view off the terminal and ends the
/// program at once, except SIGHUP: the kernel and a shell both send it when a terminal is closed.
fn catch_signals(wish: Arc<AtomicBool>, screen: Screen) -> io::Result<()> {
    let ending = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        // A third signal ends the program also where the second waits for a terminal that takes
        // nothing.
        flag::register_conditional_shutdown(signal, 128 + signal, ending.clone())?;
    }
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    // nohup(1) ignores SIGHUP, so that a session continues after its terminal is closed.
    if !is_ignored(SIGHUP) {
        signals.handle().add_signal(SIGHUP)?;
    }
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        for signal in signals.forever() {
            let number = u8::try_from(signal).unwrap_or_default();
            let _ = CAUGHT.compare_exchange(0, number, Ordering::Relaxed, Ordering::Relaxed);
            if wish.swap(true, Ordering::Relaxed) && signal != SIGHUP {
                ending.store(true, Ordering::Relaxed);
                screen.close();
                low_level::exit(128 + signal);
            }
        }
    })?;
    Ok(())
}

/// Returns true if this process was started with the signal ignored: a bit of `SigIgn`
/// (proc(5)), which counts signals from 1.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status
        .lines()
        .find_map(|line| u64::from_str_radix(line.strip_prefix("SigIgn:")?.trim(), 16).ok());
    ignored.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Shows a run on standard error where that is a terminal, and nothing elsewhere.
///
/// It restores the terminal at the end, before an error is printed, at the second signal, and on a
/// panic. The cursor is never hidden.
#[derive(Default)]
pub(super) struct Terminal {
    /// True once the user wants the run to end.
    wish: Arc<AtomicBool>,
    pub(super) screen: Screen,
    /// Expected end of the session.
    end: Option<Instant>,
    /// Echoes at some time of the last seconds.
    before: Option<(Instant, u64)>,
    rate: f64,
    phase: Option<Phase>,
    latencies: String,
    is_quiet: bool,
}

impl Terminal {
    /// Catches the signals, and shows runs from now on. `quiet`: nothing on a terminal either.
    pub(super) fn start(quiet: bool) -> anyhow::Result<Self> {
        let mut terminal = Self::default();
        terminal.is_quiet = quiet;
        let caught = catch_signals(terminal.wish.clone(), terminal.screen.clone());
        caught.context("cannot catch signals")?;
        if !quiet {
            terminal.screen.show();
        }
        if !terminal.screen.is_hidden() {
            close_on_panic(terminal.screen.clone());
        }
        Ok(terminal)
    }

    fn count(&mut self, at: &Snapshot) {
        if self.phase != Some(at.phase) && matches!(at.phase, Phase::Connect | Phase::Warmup) {
            (self.before, self.rate) = (None, 0.0);
            self.latencies.clear();
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
        self.screen.close();
    }
}

/// In a release a panic aborts, and nothing is dropped: what is on the terminal must go before its
/// message comes.
fn close_on_panic(screen: Screen) {
    let message = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        // Bounded, for the thread that panics may hold the view.
        let (screen, (done, closed)) = (screen.clone(), mpsc::channel());
        thread::spawn(move || {
            screen.close();
            done.send(())
        });
        let _ = closed.recv_timeout(CLOSING);
        message(info);
    }));
}

impl Progress for Terminal {
    fn expect(&mut self, total: Duration) {
        self.end = Instant::now().checked_add(total);
    }

    fn tick(&mut self, at: &Snapshot) {
        if self.screen.is_hidden() {
            return;
        }
        self.count(at);
        if at.phase == Phase::Close {
            return self.screen.erase();
        }
        let left = left(at, self.end.map(|end| end.saturating_duration_since(Instant::now())));
        self.screen.draw(&describe(at, self.rate, left, &self.latencies));
    }

    fn second(&mut self, latencies: &Histogram<u32>) {
        if !self.screen.is_hidden() {
            self.latencies = latency_lines(latencies);
        }
    }

    fn note(&mut self, text: &str) {
        if !self.is_quiet {
            self.screen.say(&format!("note: {text}"));
        }
    }

    fn interrupted(&mut self) -> bool {
        self.wish.load(Ordering::Relaxed)
    }
}

/// Returns the time until the session ends, or until the phase does where that is later or all that
/// is known. `None` where it is unknown.
fn left(at: &Snapshot, session: Option<Duration>) -> Option<Duration> {
    let phase = at.planned.checked_sub(at.elapsed).unwrap_or_default();
    [session.unwrap_or_default(), phase].into_iter().max().filter(|left| !left.is_zero())
}

/// The view: a line with a bar, and the latencies.
fn describe(at: &Snapshot, rate: f64, left: Option<Duration>, latencies: &str) -> String {
    let (name, left) =
        (at.phase.name(), left.map(|left| format!("  {} left", about(left))).unwrap_or_default());
    let open = grouped(at.open as f64);
    match at.phase {
        Phase::Connect => {
            let progress = bar(at.open as f64 / at.connections.max(1) as f64);
            format!("{name:8} {progress} {open} of {}{left}", count(at.connections, "connection"))
        }
        _ => {
            let progress = bar(at.elapsed.as_secs_f64() / at.planned.as_secs_f64());
            let (rate, seconds) = (grouped(rate), at.elapsed.as_secs_f64());
            let (open, errors) = (count(at.open, "connection"), count(at.errors, "error"));
            let counts = format!("{:8} {rate} msg/s  {open}  {errors}", "");
            format!("{name:8} {progress} {seconds:.1} s{left}\n{counts}{latencies}")
        }
    }
}

/// Returns a bar of which this share is full; all of it beyond 1 and for NaN.
fn bar(share: f64) -> String {
    let full = ((share.min(1.0) * BAR_WIDTH as f64) as usize).min(BAR_WIDTH);
    "█".repeat(full) + &"░".repeat(BAR_WIDTH - full)
}

fn latency_lines(latencies: &Histogram<u32>) -> String {
    if latencies.is_empty() {
        return "\nlatency  no echo in the last second".to_owned();
    }
    let quantiles = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999)];
    let shown = quantiles
        .iter()
        .filter_map(|(name, q)| Some(format!("{name} {}", span(percentile(latencies, *q)?))));
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

/// The histogram in columns of equal ratio from its lowest to its highest value. What is not empty
/// can be seen.
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

#[cfg(test)]
mod tests {
    use indicatif::{InMemoryTerm, TermLike};

    use super::*;

    fn histogram(values: &[(u64, u64)]) -> Histogram<u32> {
        let mut histogram = Histogram::new_with_bounds(1, 60_000_000_000, 2).expect("bounds");
        values
            .iter()
            .for_each(|&(ns, count)| histogram.record_n(ns, count as u32).expect("in range"));
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

    struct Memory(InMemoryTerm);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.write_str(std::str::from_utf8(bytes).expect("UTF-8")).map(|()| bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn on(screen: &InMemoryTerm) -> Terminal {
        let terminal = Terminal::default();
        terminal.screen.lock().terminal = Some(Box::new(Memory(screen.clone())));
        terminal
    }

    #[test]
    fn the_view_has_rate_errors_connections_and_latency() {
        let screen = InMemoryTerm::new(24, 100);
        let mut terminal = on(&screen);
        terminal.second(&histogram(&[(100_000, 20_000), (400_000, 500), (2_000_000, 5)]));
        terminal.phase = Some(Phase::Measure);
        terminal.tick(&snapshot(Phase::Measure));
        let seen = screen.contents();
        for part in [
            "measure",
            "64 connections",
            "0 msg/s",
            "2 errors",
            "p50 100 us",
            "p99 40",
            "max 2.0",
            "█",
            "▁",
        ] {
            assert!(seen.contains(part), "{part} not in:\n{seen}");
        }
        assert_eq!(seen.lines().count(), 4, "{seen}");
        assert!(seen.lines().all(|line| line.chars().count() <= 64), "{seen}");
        terminal.screen.close();
        assert_eq!(screen.contents(), "");
    }

    #[test]
    fn time_left_is_that_of_the_session_or_of_the_phase() {
        let at = snapshot(Phase::Measure);
        let seconds = |session: Option<u64>| {
            left(&at, session.map(Duration::from_secs)).map(|d| d.as_millis())
        };
        assert_eq!([None, Some(0), Some(60)].map(seconds), [Some(8500), Some(8500), Some(60_000)]);
        let unknown = Snapshot { planned: Duration::ZERO, ..at };
        assert_eq!(left(&unknown, None), None);
        assert!(describe(&at, 1.0, left(&at, None), "").contains("1.5 s  9 s left\n"));
    }

    #[test]
    fn rows_of_a_view_change_with_the_width() {
        let lines = ["x".repeat(60), String::new(), "x".repeat(20)].to_vec();
        let view = View { lines, ..View::default() };
        let up = [80, 60, 30, 19].map(|columns| view.to_first_row(columns));
        assert_eq!(up, ["\r\u{1b}[2A", "\r\u{1b}[2A", "\r\u{1b}[3A", "\r\u{1b}[6A"]);
        assert_eq!(View::default().to_first_row(80), "");
    }

    #[test]
    fn nothing_is_shown_before_something_is_known() {
        let screen = InMemoryTerm::new(24, 100);
        let terminal = on(&screen);
        assert_eq!(screen.contents(), "");
        terminal.screen.say("a line");
        assert_eq!(screen.contents(), "a line");
        terminal.screen.draw("one\ntwo");
        terminal.screen.say("another");
        terminal.screen.draw("three");
        assert_eq!(screen.contents(), "a line\nanother\nthree");
        terminal.screen.close();
        assert_eq!(screen.contents(), "a line\nanother");
    }

    #[test]
    fn a_closed_view_is_not_drawn_again() {
        let screen = InMemoryTerm::new(24, 100);
        let terminal = on(&screen);
        terminal.screen.draw("one");
        terminal.screen.erase();
        assert_eq!(screen.contents(), "");
        terminal.screen.draw("two");
        assert_eq!(screen.contents(), "two");
        terminal.screen.close();
        terminal.screen.draw("three");
        assert_eq!(screen.contents(), "");
        assert!(terminal.screen.lock().lines.is_empty());
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
    fn a_panic_closes_the_view_before_its_message() {
        let screen = InMemoryTerm::new(24, 100);
        let mut terminal = on(&screen);
        let seen = screen.clone();
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |_| seen.write_line("the message").expect("in memory")));
        close_on_panic(terminal.screen.clone());
        terminal.tick(&snapshot(Phase::Measure));
        assert!(screen.contents().contains("msg/s"));
        let ended = panic::catch_unwind(|| panic!("as the test wants it"));
        panic::set_hook(before);
        assert!(ended.is_err());
        assert_eq!(screen.contents(), "the message");
        // In a release other threads may run until the process is aborted.
        terminal.tick(&snapshot(Phase::Measure));
        assert_eq!(screen.contents(), "the message");
    }

    #[test]
    fn columns_lose_nothing_and_show_the_rare() {
        assert_eq!(columns(&histogram(&[(1000, 8), (1_000_000, 1)]), 4), "█  ▁");
        assert_eq!(columns(&histogram(&[(5000, 3)]), 3).chars().filter(|c| *c == '█').count(), 1);
        assert!(latency_lines(&histogram(&[])).contains("no echo"));
        assert!(
            !latency_lines(&histogram(&[(1000, 50)])).contains("p50"),
            "50 samples carry no median"
        );
    }
}
