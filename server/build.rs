//! Tells the binary what it was built from, for `--version`.

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    let commit = output("git", &["rev-parse", "HEAD"]);
    // Without optional locks, or looking would refresh the index, which is watched: every build would be a new one.
    let status = ["--no-optional-locks", "status", "--porcelain", "--", ":/", ":(exclude,top)bench-results"];
    let dirty = output("git", &status);
    tell("SPARRING_COMMIT", commit.as_deref().unwrap_or("unknown"));
    tell(
        "SPARRING_DIRTY",
        dirty.map_or("unknown", |changes| if changes.is_empty() { "false" } else { "true" }),
    );
    tell("SPARRING_PROFILE", &profile().unwrap_or_else(|| "unknown".to_owned()));
    let rustc = env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
    tell("SPARRING_RUSTC", output(&rustc, &["--version"]).as_deref().unwrap_or("unknown"));
    watch();
}

fn tell(name: &str, value: &str) {
    println!("cargo::rustc-env={name}={value}");
}

/// What a command prints, `None` where it cannot be run or fails: sources may come without git.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The profile's own name: cargo's `PROFILE` knows only the two built-in ones, the output folder knows all.
fn profile() -> Option<String> {
    let out = env::var("OUT_DIR").ok()?;
    let folder = Path::new(&out).ancestors().find(|path| path.ends_with("build"))?.parent()?;
    folder.file_name()?.to_str().map(str::to_owned)
}

/// Runs this script again when the commit, the index or a source has changed.
fn watch() {
    for part in ["HEAD", "index"] {
        if let Some(path) = output("git", &["rev-parse", "--git-path", part]) {
            println!("cargo::rerun-if-changed={path}");
        }
    }
    for source in ["build.rs", "Cargo.toml", "src", "../engine/src", "../protocol/src", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={source}");
    }
}
