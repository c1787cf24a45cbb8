//! What was measured and what measured it: the server's and the generator's identity in a result.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The generator that made a result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// `sparring-loadgen`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The commit it was built from; `null` where it was not built in a checkout.
    pub commit: Option<String>,
    /// First twelve hexadecimal digits of the SHA-256 of its executable: two builds of one commit may differ.
    pub binary_hash: Option<String>,
    /// Its engine, by name.
    pub engine: String,
    /// Cargo profile it was built with, such as `release`; `debug` never measures without saying so.
    pub build: String,
}

/// The server that was measured. Every field is `null` where it is not known, as for a server on another machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The command that started it, its program reduced to the file name.
    pub command: Option<String>,
    /// The commit of its source.
    pub commit: Option<String>,
    /// Whether the checkout differed from that commit (`git status --porcelain`, bench-results left out).
    pub dirty: Option<bool>,
    /// First twelve hexadecimal digits of the SHA-256 of its executable.
    pub binary_hash: Option<String>,
    /// The engine a session measures by default; a scenario that names another says so in its parameters.
    pub engine: Option<String>,
    /// Cargo profile it was built with.
    pub build: Option<String>,
    /// The compiler it was built with, such as `rustc 1.95.0`.
    pub rustc: Option<String>,
}

/// The first twelve hexadecimal digits of the SHA-256 of the file at `path`.
///
/// # Errors
/// When the file cannot be read.
pub fn file_hash(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut block = vec![0; 64 * 1024];
    loop {
        match file.read(&mut block)? {
            0 => break,
            read => digest.update(&block[..read]),
        }
    }
    Ok(digest.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}

/// A command line without the directories of its words: they tell where somebody keeps things, not what was run.
#[must_use]
pub fn without_directories(words: &[String]) -> String {
    let reduced = words.iter().map(|word| match word.split_once('=') {
        Some((flag, value)) if flag.starts_with('-') => format!("{flag}={}", file_name(value)),
        _ => file_name(word).to_owned(),
    });
    reduced.collect::<Vec<_>>().join(" ")
}

/// The last component of an absolute path, or of one relative to the current or home directory; any other word as it is.
fn file_name(word: &str) -> &str {
    let is_path = ["/", "./", "../", "~/"].iter().any(|start| word.starts_with(start));
    if !is_path {
        return word;
    }
    word.trim_end_matches('/').rsplit('/').next().unwrap_or(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn directories_of_a_command_are_left_out() {
        let line =
            words("/home/somebody/bin/sparring-server --listen 127.0.0.1:0 --key=/home/somebody/key.pem");
        assert_eq!(without_directories(&line), "sparring-server --listen 127.0.0.1:0 --key=key.pem");
        assert_eq!(
            without_directories(&words("./target/release/server --url ws://h/p")),
            "server --url ws://h/p"
        );
        assert_eq!(without_directories(&words("../x/server ~/y/z/")), "server z");
    }

    #[test]
    fn a_file_is_known_by_its_content() {
        let path = std::env::temp_dir().join(format!("sparring-subject-{}", std::process::id()));
        std::fs::write(&path, "abc").expect("temporary directory is writable");
        // FIPS 180-2, appendix B.1.
        assert_eq!(file_hash(&path).expect("readable"), "ba7816bf8f01");
        std::fs::remove_file(&path).expect("own file");
        assert!(file_hash(&path).is_err());
    }
}
