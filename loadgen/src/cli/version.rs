//! Identity of this binary.

use std::fmt::Write as _;

use engine::EngineKind;

const VERSION: &str = env!("CARGO_PKG_VERSION");
const COMMIT: &str = env!("SPARRING_COMMIT");
const DIRTY: &str = env!("SPARRING_DIRTY");
const PROFILE: &str = env!("SPARRING_PROFILE");
const RUSTC: &str = env!("SPARRING_RUSTC");

/// For people: one line.
pub(super) fn line() -> String {
    let commit = COMMIT.get(..12).unwrap_or(COMMIT);
    let changed = if DIRTY == "true" { " with changes" } else { "" };
    format!("sparring-loadgen {VERSION} (commit {commit}{changed}, {PROFILE} build)")
}

/// For machines: a line `key: value` for each fact.
pub(super) fn facts() -> String {
    let mut text = format!(
        "name: sparring-loadgen\nversion: {VERSION}\ncommit: {COMMIT}\ndirty: {DIRTY}\nprofile: {PROFILE}\nrustc: {RUSTC}\n"
    );
    for engine in EngineKind::ALL {
        let state =
            engine.probe().map_or_else(|error| format!("refused: {error}"), |()| "available".to_owned());
        let _ = writeln!(text, "engine {engine}: {state}");
    }
    let _ = write!(text, "kernel: {}", protocol::mask::kernel());
    text
}
