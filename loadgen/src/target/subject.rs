//! Identity of the server and of the generator in a result.

use std::env;
use std::ffi::OsString;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::host::machine::shortened;
use crate::host::regular;
use crate::host::system::field;

/// The generator that made a result.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tool {
    /// `sparring-loadgen`.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The commit it was built from; `null` where it was not built in a checkout.
    pub commit: Option<String>,
    /// First twelve hexadecimal digits of the SHA-256 of its executable: two builds of one commit
    /// may differ.
    pub binary_hash: Option<String>,
    /// Its engine, by name.
    pub engine: String,
    /// Cargo profile it was built with, such as `release`; `debug` never measures without saying
    /// so.
    pub build: String,
}

/// The server that was measured. Every field is `null` where it is not known, as for a server on
/// another machine.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The command that started it, its program reduced to the file name.
    pub command: Option<String>,
    /// The commit of its source.
    pub commit: Option<String>,
    /// True if the sources of the program differed from that commit.
    pub dirty: Option<bool>,
    /// First twelve hexadecimal digits of the SHA-256 of its executable.
    pub binary_hash: Option<String>,
    /// The engine a session measures by default; a scenario that names another says so in its
    /// parameters.
    pub engine: Option<String>,
    /// Cargo profile it was built with.
    pub build: Option<String>,
    /// The compiler it was built with, such as `rustc 1.95.0`.
    pub rustc: Option<String>,
}

impl Tool {
    /// Describes this program, driving its connections by `engine`.
    pub(crate) fn this(engine: &str) -> Self {
        Self {
            name: "sparring-loadgen".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            commit: option_env!("SPARRING_COMMIT")
                .filter(|commit| is_commit(commit))
                .map(str::to_owned),
            binary_hash: env::current_exe().and_then(|path| file_hash(&path)).ok(),
            engine: engine.to_owned(),
            build: option_env!("SPARRING_PROFILE").unwrap_or("unknown").to_owned(),
        }
    }
}

impl Subject {
    /// Describes the server that `words` start in a directory: its command, its executable and,
    /// where it is our own server, what it says of itself.
    pub(crate) fn of_command(words: &[String], directory: Option<&Path>) -> Self {
        let program = words.first().and_then(|word| find_program(word, directory));
        let is_own =
            |path: &&PathBuf| path.file_name().is_some_and(|name| name == "sparring-server");
        let command: Vec<String> = words.iter().map(|word| reduced(word)).collect();
        Self {
            command: (!words.is_empty()).then(|| command.join(" ")),
            binary_hash: program.as_deref().and_then(|path| file_hash(path).ok()),
            ..program.as_ref().filter(is_own).map(Self::of_own_server).unwrap_or_default()
        }
    }

    /// Asks our own server. Nothing is known about one that does not answer.
    fn of_own_server(program: &PathBuf) -> Self {
        let output =
            Command::new(program).args(["--version", "--verbose"]).stdin(Stdio::null()).output();
        output
            .map(|output| Self::of_version(&String::from_utf8_lossy(&output.stdout)))
            .unwrap_or_default()
    }

    /// Reads the output of `sparring-server --version --verbose`.
    fn of_version(text: &str) -> Self {
        let value = |name: &str| {
            let value = field(text, name)?.to_owned();
            Some(value).filter(|value| !value.is_empty() && value != "unknown")
        };
        Self {
            commit: value("commit").filter(|commit| is_commit(commit)),
            dirty: value("dirty").and_then(|dirty| dirty.parse().ok()),
            build: value("profile"),
            rustc: value("rustc"),
            ..Self::default()
        }
    }
}

/// Returns the executable that execvp(3) would run in a directory.
fn find_program(word: &str, directory: Option<&Path>) -> Option<PathBuf> {
    if word.contains('/') {
        let path = directory.unwrap_or_else(|| "".as_ref()).join(word);
        return Some(path).filter(|path| path.is_file());
    }
    env::split_paths(&env::var_os("PATH")?)
        .map(|folder| folder.join(word))
        .find(|path| path.is_file())
}

/// Returns true if `text` is a commit's name as git prints it, whole or abbreviated.
pub(crate) fn is_commit(text: &str) -> bool {
    (7..=64).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Returns the [`short_hash`](crate::host::machine::short_hash) of the file at `path`.
pub(crate) fn file_hash(path: &Path) -> io::Result<String> {
    let mut digest = Sha256::new();
    io::copy(&mut regular::open(path)?, &mut digest)?;
    Ok(shortened(digest))
}

/// Flags whose values are not stored: often a token, a password or the name of a private file.
const PRIVATE: [&str; 5] =
    ["--subprotocol", "--payload-file", "--payload-lines", "--first-message", "--expect-first"];

/// Returns the words of a command as they may be stored, enough to repeat it. Directories are left
/// out, host names and queries of URLs, values of handshake fields, and [`PRIVATE`] ones. Other
/// arguments of a server's command are stored as they are.
pub(crate) fn argv(words: impl Iterator<Item = OsString>) -> Vec<String> {
    let mut stored: Vec<String> = Vec::new();
    for word in words {
        let word = word.to_string_lossy();
        let flag = stored.last().map(String::as_str);
        stored.push(match (flag, word.split_once('=')) {
            (Some("--header"), _) => without_value(&word),
            (Some("--host" | "--sni"), _) => "HOST".to_owned(),
            (Some("--connect-to"), _) => reduced_place(&word),
            (Some(flag), _) if PRIVATE.contains(&flag) => "...".to_owned(),
            (_, Some(("--header", field))) => format!("--header={}", without_value(field)),
            (_, Some((flag @ ("--host" | "--sni"), _))) => format!("{flag}=HOST"),
            (_, Some(("--connect-to", place))) => format!("--connect-to={}", reduced_place(place)),
            (_, Some((flag, _))) if PRIVATE.contains(&flag) => format!("{flag}=..."),
            _ => reduced(&word),
        });
    }
    stored
}

/// Returns a field of the handshake with its name alone.
fn without_value(field: &str) -> String {
    format!("{}: ...", field.split(':').next().unwrap_or_default())
}

/// Returns a word, or a command in one word, without directories, host names and queries.
fn reduced(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if let Some((name, value)) = word.split_once('=')
        && name.chars().all(plain)
    {
        // --flag=VALUE, or NAME=COMMAND.
        return format!("{name}={}", reduced(value));
    }
    let words =
        shlex::split(word).filter(|_| word.contains(char::is_whitespace)).unwrap_or_default();
    let words: Vec<String> = words
        .iter()
        // A shell's command has words in a word, and so may a path.
        .map(
            |inner| {
                if inner == word || is_path(inner) { reduced_word(inner) } else { reduced(inner) }
            },
        )
        .collect();
    let command = shlex::try_join(words.iter().map(String::as_str)).unwrap_or_default();
    if command.is_empty() { reduced_word(word) } else { command }
}

fn reduced_word(word: &str) -> String {
    match (word.find("://"), word.find('=')) {
        (Some(scheme), equals) if equals.is_none_or(|equals| equals > scheme) => {
            reduced_url(word, scheme)
        }
        (_, Some(equals)) => format!("{}{}", &word[..=equals], reduced_word(&word[equals + 1..])),
        _ if is_path(word) => {
            word.trim_end_matches('/').rsplit('/').next().unwrap_or(word).to_owned()
        }
        _ => word.to_owned(),
    }
}

/// Returns a URL without user, host name, query and fragment. Addresses stay.
fn reduced_url(url: &str, scheme: usize) -> String {
    let (scheme, rest) = url.split_at(scheme + "://".len());
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let place = authority.rsplit('@').next().unwrap_or_default();
    format!("{scheme}{}{path}", reduced_place(place))
}

/// Returns `HOST:PORT` without a host name. Addresses stay.
fn reduced_place(place: &str) -> String {
    let colon = place.rfind(':').filter(|&colon| !place[colon..].contains(']'));
    let (host, port) = place.split_at(colon.unwrap_or(place.len()));
    let is_address =
        host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok() || host == "localhost";
    format!("{}{port}", if is_address { host } else { "HOST" })
}

/// Returns true for an absolute path, and for one relative to the current or home directory.
fn is_path(word: &str) -> bool {
    ["/", "./", "../", "~/"].iter().any(|start| word.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_servers_command_is_stored_without_directories_and_hosts() {
        let command =
            |line: &str| Subject::of_command(&words(line), None).command.expect("a command");
        let line = "/home/somebody/bin/server --listen 127.0.0.1:0 --key=/home/somebody/key.pem";
        assert_eq!(command(line), "server --listen 127.0.0.1:0 --key=key.pem");
        assert_eq!(
            command("./target/release/server --to ws://u:pw@h/p?token=x"),
            "server --to ws://HOST/p"
        );
        assert_eq!(command("../x/server ~/y/z/"), "server z");
    }

    #[test]
    fn a_server_of_ours_tells_what_it_was_built_from() {
        let text = "version: 0.1.0\ncommit: 0123456789abcdef\ndirty: false\nprofile: release\n\
                    rustc: rustc 1.95.0 (59807616e 2026-04-14)\nkernel: avx2\n";
        assert_eq!(
            Subject::of_version(text),
            Subject {
                commit: Some("0123456789abcdef".into()),
                dirty: Some(false),
                build: Some("release".into()),
                rustc: Some("rustc 1.95.0 (59807616e 2026-04-14)".into()),
                ..Subject::default()
            }
        );
        assert_eq!(Subject::of_version("commit: unknown\ndirty: unknown\n"), Subject::default());
        assert_eq!(Subject::of_version("<html>"), Subject::default());
    }

    #[test]
    fn a_foreign_server_is_known_by_its_command_and_file() {
        let subject = Subject::of_command(&words("sh -c true"), None);
        assert_eq!(subject.command.as_deref(), Some("sh -c true"));
        assert_eq!(subject.binary_hash.map(|hash| hash.len()), Some(12));
        assert_eq!(subject.commit, None);
        assert_eq!(Subject::of_command(&words("/no/such/program"), None).binary_hash, None);
        assert_eq!(Subject::of_command(&[], None), Subject::default());
    }

    #[test]
    fn commits_are_lower_case_hexadecimal() {
        assert!(is_commit("0123abc") && is_commit(&"a".repeat(64)));
        assert!(
            !is_commit("0123ab")
                && !is_commit("main")
                && !is_commit("0123ABC")
                && !is_commit(&"a".repeat(65))
        );
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

    #[test]
    fn a_stored_command_can_be_repeated_and_tells_nothing_else() {
        let stored = |words: &[&str]| argv(words.iter().map(OsString::from));
        let run = stored(&[
            "/home/somebody/bin/sparring-loadgen",
            "run",
            "ws://{port}.example.org:9001/chat?token=secret",
            "--header",
            "Authorization: Bearer secret",
            "--header=Cookie: secret",
            "--spawn=/home/somebody/sparring-server --listen 127.0.0.1:{port}",
            "-R",
            "50k",
        ]);
        assert_eq!(
            run,
            [
                "sparring-loadgen",
                "run",
                "ws://HOST:9001/chat",
                "--header",
                "Authorization: ...",
                "--header=Cookie: ...",
                "--spawn=sparring-server --listen '127.0.0.1:{port}'",
                "-R",
                "50k"
            ]
        );
        let duel = stored(&[
            "duel",
            "'/a b/server' {port}",
            "--url=ws://127.0.0.1:{port}/",
            "--arm",
            "x=/b/y {port}",
        ]);
        assert_eq!(
            duel,
            ["duel", "server '{port}'", "--url=ws://127.0.0.1:{port}/", "--arm", "x=y '{port}'"]
        );
        let nested = stored(&[
            "sh -c 'cd /home/me && ./server ws://u:pw@h/ {port}'",
            "--subprotocol",
            "token",
        ]);
        assert_eq!(
            nested,
            ["sh -c \"cd me '&&' server ws://HOST/ '{port}'\"", "--subprotocol", "..."]
        );
        for flag in PRIVATE {
            let joined = format!("{flag}=secret");
            let words = ["run", flag, "secret", &joined];
            assert_eq!(stored(&words), ["run", flag, "...", &format!("{flag}=...")]);
        }
        assert_eq!(stored(&["ws://user:word@[::1]:80/"]), ["ws://[::1]:80/"]);
        assert_eq!(stored(&["ws://name"]), ["ws://HOST"]);
        assert_eq!(
            stored(&["--host", "a.example", "--sni=b.example", "--connect-to", "c.example:9"]),
            ["--host", "HOST", "--sni=HOST", "--connect-to", "HOST:9"]
        );
        assert_eq!(stored(&["--connect-to=[::1]:9"]), ["--connect-to=[::1]:9"]);
        assert_eq!(stored(&["--cert", "/home/me/a.pem"]), ["--cert", "a.pem"]);
    }
}
