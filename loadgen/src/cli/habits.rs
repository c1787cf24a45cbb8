//! Flags and arguments of other load generators, each answered with what it is here.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{CommandFactory, Error};

use super::Arguments;
use crate::url::Url;

/// A flag of other programs (wrk, oha, k6, hyperfine, tcpkali, curl).
struct Habit {
    flags: &'static [&'static str],
    /// Commands where it makes sense.
    commands: &'static [&'static str],
    /// What to write instead.
    hint: &'static str,
}

const LOADS: &[&str] = &["run", "duel", "aa"];
const CLIENTS: &[&str] = &["run", "duel", "aa", "echo"];

/// Short flags come with a value in the same word too (`-z10s`, `-z=10s`), long ones with `=`.
const HABITS: &[Habit] = &[
    Habit { flags: &["-H", "--headers"], commands: LOADS, hint: "a header is --header 'NAME: VALUE'" },
    Habit {
        flags: &["-z", "--test-time"],
        commands: LOADS,
        hint: "the time to measure is -d TIME, as in -d 10s",
    },
    Habit {
        flags: &["-T"],
        commands: LOADS,
        hint: "the time to measure is -d TIME; the longest wait for an echo is --timeout TIME",
    },
    Habit {
        flags: &["-m", "--message", "--body", "--data"],
        commands: LOADS,
        hint: "messages are generated: -s SIZE is their length, --text makes them text, --seed N varies them",
    },
    Habit {
        flags: &["--message-size", "--payload-size", "--bytes"],
        commands: LOADS,
        hint: "the length of a message is -s SIZE, as in -s 4KiB",
    },
    Habit {
        flags: &["-k", "--insecure-skip-tls-verify", "--no-check-certificate"],
        commands: CLIENTS,
        hint: "any certificate is taken with --insecure",
    },
    Habit { flags: &["--cacert"], commands: CLIENTS, hint: "certificates to trust are --ca FILE" },
    Habit {
        flags: &["-E", "--cert", "--key"],
        commands: CLIENTS,
        hint: "client certificates are not supported",
    },
    Habit {
        flags: &["-o", "--output", "--out", "--export-json", "--summary-export"],
        commands: LOADS,
        hint: "the result goes to a file with --json FILE",
    },
    Habit {
        flags: &["-u", "--vus", "--users", "--clients", "--concurrency"],
        commands: LOADS,
        hint: "the number of connections is -c N",
    },
    Habit {
        flags: &["-i", "--iterations", "--requests", "--count"],
        commands: LOADS,
        hint: "the number of messages is -n N",
    },
    Habit {
        flags: &["--runs", "--repeat"],
        commands: &["run"],
        hint: "a run is made once; `duel` and `aa` repeat runs in pairs",
    },
    Habit {
        flags: &["--runs", "--repeat"],
        commands: &["duel", "aa"],
        hint: "the number of pairs is --pairs N",
    },
    Habit {
        flags: &["--rps", "--qps", "-r", "--message-rate"],
        commands: LOADS,
        hint: "messages a second over all connections are -R RATE, as in -R 1000",
    },
    Habit { flags: &["-p", "--pipelining", "--depth"], commands: LOADS, hint: "the depth is --pipeline N" },
    Habit {
        flags: &["--stages", "--ramp-up", "--connections-per-second"],
        commands: LOADS,
        hint: "connections open as fast as they can, or at --connect-rate RATE",
    },
    Habit {
        flags: &["--disable-keepalive"],
        commands: LOADS,
        hint: "a connection for each message is --messages-per-connection 1",
    },
    Habit {
        flags: &["--latency", "--latencies"],
        commands: &["run"],
        hint: "latencies are always shown; --percentiles LIST chooses which",
    },
    Habit { flags: &["--no-tui", "--silent"], commands: CLIENTS, hint: "only errors are shown with -q" },
    Habit {
        flags: &["--protocols", "--protocol"],
        commands: LOADS,
        hint: "a subprotocol is --subprotocol NAME",
    },
    Habit {
        flags: &["--resolve", "--connect-to", "--host"],
        commands: LOADS,
        hint: "the URL names the host; /etc/hosts leads its name to another address",
    },
    Habit { flags: &["--ws", "--websocket"], commands: LOADS, hint: "ws:// in the URL asks for a WebSocket" },
    Habit { flags: &["--url"], commands: &["run", "echo"], hint: "the URL stands alone, without a flag" },
];

/// Here it is a flag without a value (`-q 1000` of oha).
const QUIET: &str = "-q";
const QUIET_HINT: &str =
    "-q shows only errors; messages a second over all connections are -R RATE, as in -R 1000";

/// Adds what to write instead to an error of the command line, where that is known.
pub(super) fn explain(mut error: Error, words: impl Iterator<Item = OsString>) -> Error {
    let words: Vec<String> = words.skip(1).map(|word| word.to_string_lossy().into_owned()).collect();
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
            .then(|| format!("a command comes first: sparring-loadgen run {}", words.join(" ")));
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
    let is_meant = |habit: &&Habit| habit.flags.contains(&flag) && habit.commands.contains(&command.as_str());
    HABITS.iter().find(is_meant).map(|habit| habit.hint.to_owned())
}

/// Returns true where a number behind -q, in a word of its own or not, makes an argument wrong.
fn is_quiet_with_a_rate(wrong: &str, words: &[String]) -> bool {
    let is_rate = |text: &str| text.starts_with(|first: char| first.is_ascii_digit());
    let behind =
        |word: &String| word.strip_prefix(QUIET).is_some_and(|rest| is_rate(rest.trim_start_matches('=')));
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

    /// Returns what is said about a wrong command line.
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
    fn every_habit_is_answered_in_all_its_forms() {
        for habit in HABITS {
            for (name, flag) in
                habit.commands.iter().flat_map(|name| habit.flags.iter().map(move |f| (*name, *f)))
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
                    assert!(text.contains(&format!("tip: {}", habit.hint)), "{name} {form:?}: {text}");
                    assert_eq!(text.matches("tip:").count(), 1, "{text}");
                }
            }
        }
    }

    #[test]
    fn every_hint_names_flags_of_its_command() {
        let commands = Arguments::command();
        let quiet = Habit { flags: &[], commands: LOADS, hint: QUIET_HINT };
        for habit in HABITS.iter().chain([&quiet]) {
            for name in habit.commands {
                let command = commands.find_subcommand(name).expect(name);
                let has = |flag: &str| {
                    command.get_arguments().any(|argument| {
                        argument.get_long().is_some_and(|long| flag == format!("--{long}"))
                            || argument.get_short().is_some_and(|short| flag == format!("-{short}"))
                    })
                };
                let named = habit.hint.split([' ', ';', ',', ':']).filter(|word| word.starts_with('-'));
                named.for_each(|flag| assert!(has(flag), "{name} has no {flag}: {}", habit.hint));
                habit.flags.iter().for_each(|flag| assert!(!has(flag), "{name} has {flag}"));
            }
        }
    }

    #[test]
    fn a_rate_behind_q_is_answered() {
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
    fn a_url_in_place_of_a_command_is_answered() {
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
    }

    #[test]
    fn other_errors_are_left_as_they_are() {
        for words in
            [&["run", "ws://h/", "--no-such"][..], &["run"], &["run", "ws://h/", "-c", "x"], &["echo", "x"]]
        {
            assert!(!said(words).contains("tip: the"), "{}", said(words));
        }
        assert!(said(&["run", "ws://h/", "--connection", "8"]).contains("--connections"));
    }
}
