//! Identity of the program, for `--version`. Every program of this workspace has this file, by a
//! link.

use std::fmt::Write as _;

use engine::EngineKind;

const NAME: &str = env!("CARGO_PKG_NAME");
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");
pub(crate) const COMMIT: &str = env!("SPARRING_COMMIT");
const DIRTY: &str = env!("SPARRING_DIRTY");
pub(crate) const PROFILE: &str = env!("SPARRING_PROFILE");
const RUSTC: &str = env!("SPARRING_RUSTC");

/// Returns one line for people.
pub(crate) fn line() -> String {
    let commit = COMMIT.get(..12).unwrap_or(COMMIT);
    let changed = if DIRTY == "true" { " with changes" } else { "" };
    format!("{NAME} {VERSION} (commit {commit}{changed}, {PROFILE} build)")
}

/// Returns a line `key: value` for each fact, for programs.
pub(crate) fn facts() -> String {
    let mut text = format!(
        "name: {NAME}\nversion: {VERSION}\ncommit: {COMMIT}\ndirty: {DIRTY}\nprofile: {PROFILE}\nrustc: {RUSTC}\n"
    );
    for engine in EngineKind::ALL {
        let state = engine
            .probe()
            .map_or_else(|error| format!("refused: {error}"), |()| "available".to_owned());
        let _ = writeln!(text, "engine {engine}: {state}");
    }
    let _ = write!(text, "kernel: {}", protocol::mask::kernel());
    text
}
