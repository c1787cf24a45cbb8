//! Hints for the flags and arguments of other load generators.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Error};

use super::Arguments;
use crate::target::url::Url;

struct ForeignFlag {
    flags: Vec<&'static str>,
    commands: &'static [&'static str],
    hint: &'static str,
}

const LOADS: &[&str] = &["run", "duel", "aa"];

/// Flags of other programs (wrk, oha, k6, hyperfine, tcpkali, curl) and their hints, by the
/// commands that have an equivalent. A short flag may have its value in the same word (`-z10s`,
/// `-z=10s`), a long one behind `=`.
const HINTS: [(&[&str], &str); 5] = [
    (
        LOADS,
        "-H --headers: a header is --header 'NAME: VALUE'
-z --test-time: the time to measure is -d TIME, as in -d 10s
-T: the time to measure is -d TIME; the longest wait for an echo is --timeout TIME
-m --message --body --data --input-file --data-file: own messages are --payload-file FILE; generated ones have the length -s SIZE
--message-size --payload-size --bytes: the length of a message is -s SIZE, as in -s 4KiB
-o --output --out --export-json --summary-export: the result goes to a file with --json FILE
-u --vus --users --clients --concurrency: the number of connections is -c N
-i --iterations --requests --count: the number of messages is -n N
--rps --qps -r --message-rate: messages a second over all connections are -R RATE, as in -R 1000
-p --pipelining --depth: the depth is --pipeline N
--ramp-up --connections-per-second: connections open as fast as they can, or at --connect-rate RATE
--disable-keepalive: a connection for each message is --messages-per-connection 1
--protocols --protocol: a subprotocol is --subprotocol NAME
--resolve: connections go to another place with --connect-to HOST:PORT
--servername: the name in TLS is --sni NAME
--ws --websocket: ws:// in the URL asks for a WebSocket",
    ),
    (
        &["run", "duel", "aa", "echo"],
        "-k --insecure-skip-tls-verify --no-check-certificate: any certificate is taken with --insecure
--cacert: certificates to trust are --ca FILE
-E: a client certificate is --cert FILE --key FILE
--no-tui --silent: only errors are shown with -q",
    ),
    (
        &["run"],
        "--runs --repeat: `run` measures once; `duel` and `aa` measure in pairs of runs
--latency --latencies: latencies are always shown; --percentiles LIST chooses which",
    ),
    (&["duel", "aa"], "--runs --repeat: the number of pairs is --pairs N"),
    (&["run", "echo"], "--url: the URL stands alone, without a flag"),
];

fn foreign_flags() -> impl Iterator<Item = ForeignFlag> {
    HINTS.into_iter().flat_map(|(commands, hints)| {
        let lines = hints.lines().filter_map(|line| line.split_once(": "));
        lines.map(|(flags, hint)| ForeignFlag { flags: flags.split(' ').collect(), commands, hint })
    })
}

/// The flag of oha for a rate (`-q 1000`); here it takes no value.
const QUIET: &str = "-q";
const QUIET_HINT: &str =
    "-q shows only errors; messages a second over all connections are -R RATE, as in -R 1000";

/// Adds a hint to an error of the command line, where one is known.
pub(super) fn explain(mut error: Error, words: impl Iterator<Item = OsString>) -> Error {
    let words: Vec<String> =
        words.skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
    if let Some(hint) = hint(&error, &words) {
        error.remove(ContextKind::SuggestedArg);
        error.remove(ContextKind::SuggestedSubcommand);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![hint.into()]));
    }
    error
}

fn hint(error: &Error, words: &[String]) -> Option<String> {
    let commands = Arguments::command();
    let Some(command) = words.iter().find(|word| commands.find_subcommand(word).is_some()) else {
        let is_of_the_command =
            matches!(error.kind(), ErrorKind::UnknownArgument | ErrorKind::InvalidSubcommand);
        return (is_of_the_command && words.iter().any(|word| is_target(word)))
            .then(|| shlex::try_join(words.iter().map(String::as_str)).ok())
            .flatten()
            .map(|line| format!("a command comes first: sparring-loadgen run {line}"));
    };
    let kind = match error.kind() {
        ErrorKind::UnknownArgument => ContextKind::InvalidArg,
        ErrorKind::ValueValidation => ContextKind::InvalidValue,
        _ => return None,
    };
    let Some(ContextValue::String(wrong)) = error.get(kind) else { return None };
    if LOADS.contains(&command.as_str()) && is_quiet_with_a_rate(wrong, words) {
        return Some(QUIET_HINT.to_owned());
    }
    if kind != ContextKind::InvalidArg {
        return None;
    }
    let flag = wrong.split([' ', '=']).next()?;
    let is_meant = |known: &ForeignFlag| {
        known.flags.contains(&flag) && known.commands.contains(&command.as_str())
    };
    foreign_flags().find(is_meant).map(|known| known.hint.to_owned())
}

/// Returns true if the wrong argument is a number behind -q, in a word of its own or not.
fn is_quiet_with_a_rate(wrong: &str, words: &[String]) -> bool {
    let is_rate = |text: &str| text.starts_with(|first: char| first.is_ascii_digit());
    let behind = |word: &String| {
        word.strip_prefix(QUIET).is_some_and(|rest| is_rate(rest.trim_start_matches('=')))
    };
    let is_next = |pair: &[String]| pair[0] == QUIET && is_rate(&pair[1]);
    if wrong.starts_with('-') { words.iter().any(behind) } else { words.windows(2).any(is_next) }
}

/// Returns true for a URL, and for a host with a port.
fn is_target(word: &str) -> bool {
    word.contains("://") || (word.contains(':') && format!("ws://{word}").parse::<Url>().is_ok())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    /// Returns the error text of a wrong command line.
    fn said(words: &[&str]) -> String {
        let words = ["sparring-loadgen"].iter().chain(words);
        let error = Arguments::try_parse_from(words.clone()).expect_err("a wrong command line");
        explain(error, words.map(OsString::from)).to_string()
    }

    /// A command with the arguments that it needs.
    fn command(name: &'static str) -> Vec<&'static str> {
        match name {
            "run" | "echo" => vec![name, "ws://h/"],
            "duel" => vec![name, "a", "b"],
            other => vec![other, "a"],
        }
    }

    #[test]
    fn every_foreign_flag_has_its_hint_in_all_forms() {
        for known in foreign_flags() {
            for (name, flag) in
                known.commands.iter().flat_map(|name| known.flags.iter().map(move |f| (*name, *f)))
            {
                let forms = match flag.starts_with("--") {
                    true => vec![vec![flag.to_owned(), "1".to_owned()], vec![format!("{flag}=1")]],
                    false => vec![
                        vec![flag.to_owned(), "1".to_owned()],
                        vec![format!("{flag}1")],
                        vec![format!("{flag}=1")],
                    ],
                };
                for form in forms.into_iter().chain([vec![flag.to_owned()]]) {
                    let words = command(name).into_iter().chain(form.iter().map(String::as_str));
                    let text = said(&words.collect::<Vec<_>>());
                    assert!(
                        text.contains(&format!("tip: {}", known.hint)),
                        "{name} {form:?}: {text}"
                    );
                    assert_eq!(text.matches("tip:").count(), 1, "{text}");
                }
            }
        }
    }

    #[test]
    fn every_hint_names_flags_of_its_command() {
        let commands = Arguments::command();
        let quiet = ForeignFlag { flags: Vec::new(), commands: LOADS, hint: QUIET_HINT };
        for known in foreign_flags().chain([quiet]) {
            for name in known.commands {
                let command = commands.find_subcommand(name).expect(name);
                let has = |flag: &str| {
                    command.get_arguments().any(|argument| {
                        argument.get_long().is_some_and(|long| flag == format!("--{long}"))
                            || argument.get_short().is_some_and(|short| flag == format!("-{short}"))
                    })
                };
                let named =
                    known.hint.split([' ', ';', ',', ':']).filter(|word| word.starts_with('-'));
                named.for_each(|flag| assert!(has(flag), "{name} has no {flag}: {}", known.hint));
                known.flags.iter().for_each(|flag| assert!(!has(flag), "{name} has {flag}"));
            }
        }
    }

    #[test]
    fn a_rate_behind_q_has_a_hint() {
        for words in [
            &["run", "ws://h/", "-q", "1000"][..],
            &["run", "-q", "1000", "ws://h/"],
            &["run", "ws://h/", "-q1000"],
            &["run", "ws://h/", "-q=1000"],
            &["duel", "a", "b", "-q", "50k"],
        ] {
            assert!(said(words).contains(QUIET_HINT), "{words:?}: {}", said(words));
        }
    }

    #[test]
    fn a_url_in_place_of_a_command_has_a_hint() {
        for words in [
            &["ws://127.0.0.1:9001/"][..],
            &["wss://h/", "-c", "8"],
            &["-c", "8", "ws://h/"],
            &["127.0.0.1:9001"],
            &["http://h"],
        ] {
            let meant = format!("sparring-loadgen run {}", words.join(" "));
            assert!(said(words).contains(&meant), "{words:?}: {}", said(words));
        }
        assert!(!said(&["runn"]).contains("comes first"));
        let words = ["ws://h/?a=1&b=2", "--header", "X-A: it's b"];
        let text = said(&words);
        let line =
            text.lines().find_map(|line| line.split_once("comes first: sparring-loadgen run "));
        let line = line.expect("a hint").1;
        assert_eq!(shlex::split(line).expect("a line for a shell"), words, "{line}");
    }

    #[test]
    fn other_errors_are_left_as_they_are() {
        for words in [
            &["run", "ws://h/", "--no-such"][..],
            &["run"],
            &["run", "ws://h/", "-c", "x"],
            &["echo", "x"],
        ] {
            assert!(!said(words).contains("tip: the"), "{}", said(words));
        }
        assert!(said(&["run", "ws://h/", "--connection", "8"]).contains("--connections"));
    }
}
