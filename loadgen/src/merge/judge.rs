//! Rules that tell whether shards were one load at one time.
//!
//! A reason of a shard is one of the whole, with the shard's name. Where each shard keeps to a
//! limit of the lag's 99th percentile, or of the share of messages not sent, the whole does too. So
//! these rules are not applied again. Whether echoes kept up with the plan is decided by the shards
//! alone, because documents do not have the messages under way. Compression is compared, because
//! connections of different shards may have agreed on different parameters.

use std::time::Duration;

use super::{Part, Reasons, common};
use crate::result::{ClockOffset, InvalidKind};

/// Largest valid difference of the clocks of two shards.
const LARGEST_SKEW: Duration = Duration::from_millis(50);
/// Least share of the longest window in which all shards must have measured.
const COMMON_SHARE: f64 = 0.9;

/// Returns the reasons why the whole is not valid.
pub(super) fn reasons(parts: &[Part]) -> Reasons {
    let of_shards = parts.iter().map(|part| (part, part.run().invalid().collect::<Vec<_>>()));
    let of_shards = with_names(&of_shards.collect::<Vec<_>>());
    let mut reasons: Reasons = of_shards
        .into_iter()
        .map(|((kind, text), name)| (kind, format!("{name}: {text}")))
        .collect();
    for part in parts.iter().filter(|part| part.run().interrupted) {
        let reason = format!("{} was ended before its time", part.name());
        reasons.push((InvalidKind::InterruptedShard, reason));
    }
    if common(parts.iter().map(|part| part.run().compression.map(|one| one.agreed))).is_none() {
        let reason = "connections of different shards agreed on different compression";
        reasons.push((InvalidKind::MixedCompression, reason.to_owned()));
    }
    let skew = |reason| (InvalidKind::ClockSkew, reason);
    reasons.extend(skew_reasons(parts).into_iter().map(skew));
    let apart = |reason| (InvalidKind::WindowsApart, reason);
    reasons.extend(window_reasons(parts).into_iter().map(apart));
    reasons
}

/// Returns the notes of the shards with their names, and what is not known of their clocks.
pub(super) fn notes(parts: &[Part]) -> Vec<String> {
    let of_shards = parts.iter().map(|part| (part, part.run().notes.iter().collect::<Vec<_>>()));
    let mut notes = with_names(&of_shards.collect::<Vec<_>>());
    let unknown = parts.iter().map(|part| {
        let why = part.shard.clock_unknown.as_ref();
        (part, why.into_iter().collect::<Vec<_>>())
    });
    let unknown = with_names(&unknown.collect::<Vec<_>>());
    let mut texts: Vec<String> =
        notes.drain(..).map(|(text, name)| format!("{name}: {text}")).collect();
    texts.extend(
        unknown.into_iter().map(|(why, name)| {
            format!("{name}: the skew of the clock is not known, because {why}")
        }),
    );
    if common(parts.iter().map(|part| part.scenario().generator.engine.clone())).is_none() {
        texts.push("the shards ran on different engines".to_owned());
    }
    if let Some(reference) = middle_clock(parts) {
        let skews = parts.iter().zip(skews(parts));
        let unclear = skews.filter_map(|(part, skew)| Some((part, skew?))).filter(|(_, skew)| {
            let limit = LARGEST_SKEW.as_nanos() as u64;
            skew.at_least_ns() <= limit && skew.at_most_ns() > limit
        });
        texts.extend(unclear.map(|(part, skew)| {
            format!(
                "the clock of {} may be up to {:.0} ms from that of {}: the server's answers bound \
                 it no closer",
                part.name(),
                skew.at_most_ns() as f64 / 1e6,
                parts[reference].name(),
            )
        }));
    }
    texts
}

/// Returns each text with the name of its shard. A text that every shard has is there once.
fn with_names<T: Copy + PartialEq>(of_shards: &[(&Part, Vec<T>)]) -> Vec<(T, String)> {
    let is_of_all =
        |text: &T| of_shards.len() > 1 && of_shards.iter().all(|(_, texts)| texts.contains(text));
    let mut named = Vec::new();
    for (part, texts) in of_shards {
        for text in texts {
            let name = if is_of_all(text) { "every shard".to_owned() } else { part.name() };
            if !named.contains(&(*text, name.clone())) {
                named.push((*text, name));
            }
        }
    }
    named
}

/// Returns the index of the part whose clock is in the middle of the known ones.
fn middle_clock(parts: &[Part]) -> Option<usize> {
    let known = parts.iter().enumerate().filter_map(|(index, part)| {
        let ClockOffset { low_ns, high_ns } = part.shard.clock?;
        Some((low_ns.midpoint(high_ns), index))
    });
    middle(known.collect())
}

/// Returns the index with the middle value.
fn middle(mut values: Vec<(i64, usize)>) -> Option<usize> {
    values.sort_unstable();
    values.get(values.len().saturating_sub(1) / 2).map(|(_, index)| *index)
}

/// Returns the bounds of the difference of two machines' clocks. Of each clock the difference from
/// the server's is known.
fn skew(own: ClockOffset, other: ClockOffset) -> ClockOffset {
    other.minus(own)
}

/// Returns the clock of each part minus that in the middle.
pub(super) fn skews(parts: &[Part]) -> Vec<Option<ClockOffset>> {
    let reference = middle_clock(parts);
    let of = |(index, part): (usize, &Part)| match reference {
        Some(reference) if reference == index => Some(ClockOffset { low_ns: 0, high_ns: 0 }),
        Some(reference) => Some(skew(part.shard.clock?, parts[reference].shard.clock?)),
        None => None,
    };
    parts.iter().enumerate().map(of).collect()
}

/// Names the shards whose clocks are too far from that in the middle, or else the two that are too
/// far from each other.
fn skew_reasons(parts: &[Part]) -> Vec<String> {
    let limit = LARGEST_SKEW.as_nanos() as u64;
    let sentence = |part: &Part, other: &Part, skew: ClockOffset| {
        let ms = skew.at_least_ns() as f64 / 1e6;
        let direction = if skew.low_ns > 0 { "ahead of" } else { "behind" };
        let (part, other) = (part.name(), other.name());
        format!("the clock of {part} is at least {ms:.0} ms {direction} that of {other}")
    };
    let Some(reference) = middle_clock(parts) else { return Vec::new() };
    let far = parts.iter().zip(skews(parts)).filter_map(|(part, skew)| Some((part, skew?)));
    let far = far.filter(|(_, skew)| skew.at_least_ns() > limit);
    let named: Vec<String> =
        far.map(|(part, skew)| sentence(part, &parts[reference], skew)).collect();
    if !named.is_empty() {
        return named;
    }
    let known: Vec<(&Part, ClockOffset)> =
        parts.iter().filter_map(|part| Some((part, part.shard.clock?))).collect();
    let pairs = known.iter().flat_map(|one| known.iter().map(move |other| (one, other)));
    let pairs = pairs.map(|(one, other)| (one.0, other.0, skew(one.1, other.1)));
    let farthest = pairs.max_by_key(|(_, _, skew)| skew.low_ns);
    let farthest = farthest.filter(|(_, _, skew)| skew.low_ns > limit as i64);
    farthest.map(|(one, other, skew)| sentence(one, other, skew)).into_iter().collect()
}

/// A window by the clock of its shard, in nanoseconds since 1970.
#[derive(Clone, Copy)]
struct Window {
    start: u64,
    end: u64,
}

impl Window {
    fn of(part: &Part) -> Self {
        let start = part.shard.load_start.unix_ns() + part.load().warmup.as_nanos() as u64;
        Self { start, end: start + part.run().phases.measure }
    }

    /// Returns the time that both have.
    fn overlap(self, other: Self) -> u64 {
        self.end.min(other.end).saturating_sub(self.start.max(other.start))
    }
}

/// Names the shards that measured at another time than the one in the middle, or else the first and
/// the last one.
fn window_reasons(parts: &[Part]) -> Vec<String> {
    let windows: Vec<Window> = parts.iter().map(Window::of).collect();
    let starts = windows.iter().enumerate().map(|(index, window)| (window.start as i64, index));
    let starts: Vec<(i64, usize)> = starts.collect();
    let longest = windows.iter().map(|window| window.end - window.start).max().unwrap_or(0);
    let is_enough = |common: u64| common as f64 >= COMMON_SHARE * longest as f64;
    let sentence = |index: usize, other: usize| {
        let (own, its) = (windows[index], windows[other]);
        let seconds = |ns: u64| Duration::from_nanos(ns).as_secs_f64();
        format!(
            "{} measured {:.3} s from {}, and {} {:.3} s from {}: all must measure for {:.0} % of \
             the longest window together (--start-at)",
            parts[index].name(),
            seconds(own.end - own.start),
            start_of(own),
            parts[other].name(),
            seconds(its.end - its.start),
            start_of(its),
            COMMON_SHARE * 100.0
        )
    };
    let Some(reference) = middle(starts.clone()) else { return Vec::new() };
    let apart =
        (0..parts.len()).filter(|index| !is_enough(windows[*index].overlap(windows[reference])));
    let named: Vec<String> = apart.map(|index| sentence(index, reference)).collect();
    let common = Window {
        start: windows.iter().map(|window| window.start).max().unwrap_or(0),
        end: windows.iter().map(|window| window.end).min().unwrap_or(0),
    };
    if !named.is_empty() || is_enough(common.end.saturating_sub(common.start)) {
        return named;
    }
    let (first, last) = (starts.iter().min(), starts.iter().max());
    let both = first.zip(last).map(|(first, last)| sentence(last.1, first.1));
    both.into_iter().collect()
}

fn start_of(window: Window) -> String {
    crate::result::Utc::at(std::time::UNIX_EPOCH + Duration::from_nanos(window.start)).to_string()
}
