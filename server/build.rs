//! Passes the program's commit, local changes, profile and compiler to it, for `--version`.

use std::env;
use std::path::Path;
use std::process::Command;

/// Sources of a program of this workspace, seen from its crate: a change makes the build dirty.
/// Other files, such as documents and the index of git, change no program, so that they start no
/// build either.
const SOURCES: [&str; 10] = [
    "../server/build.rs",
    "../server/src/version.rs",
    "Cargo.toml",
    "src",
    "../engine/Cargo.toml",
    "../engine/src",
    "../protocol/Cargo.toml",
    "../protocol/src",
    "../Cargo.toml",
    "../Cargo.lock",
];

fn main() {
    let commit = output("git", &["rev-parse", "HEAD"]);
    // Without optional locks: git would otherwise write to its index.
    let status = [&["--no-optional-locks", "status", "--porcelain", "--"], &SOURCES[..]].concat();
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

/// Returns the output of a command, `None` where it cannot be run or fails: sources may come
/// without git.
fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

/// The profile's own name: cargo's `PROFILE` knows only the two built-in ones, the output folder
/// knows all.
fn profile() -> Option<String> {
    let out = env::var("OUT_DIR").ok()?;
    let folder = Path::new(&out).ancestors().find(|path| path.ends_with("build"))?.parent()?;
    folder.file_name()?.to_str().map(str::to_owned)
}

/// Runs this script again when the commit or a source has changed.
fn watch() {
    let branch = output("git", &["symbolic-ref", "--quiet", "HEAD"]);
    // The reflog of HEAD changes with every commit. Where none is kept, the branch does, loose or
    // packed.
    for part in ["HEAD", "logs/HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        // cargo takes a file that is missing for a changed one.
        match output("git", &["rev-parse", "--git-path", part]) {
            Some(path) if Path::new(&path).exists() => println!("cargo::rerun-if-changed={path}"),
            _ => {}
        }
    }
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
}
