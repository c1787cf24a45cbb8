//! `sparring-loadgen echo`: the echoing client.

use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::time::Duration;

use clap::Args;
use engine::{EngineChoice, EngineKind};

use super::plan::TlsArguments;
use super::{LIMITS, WORKERS, start_log, usage};
use crate::echo::{EndedConnection, Plan, execute};
use crate::load::Deflate;
use crate::load::value::time;
use crate::target::url::Url;

const EXAMPLES: &str = "\
Examples:
  sparring-loadgen echo ws://127.0.0.1:8080/chat                  echoes until the server closes, or Ctrl-C
  sparring-loadgen echo 'ws://127.0.0.1:9001/runCase?case={n}&agent=sparring' --repeat 1..517
                                                                  the Autobahn testsuite's cases, one by one

Every message comes back when all of it has arrived, in one frame of its kind. Pings are answered, and a Close by the
same Close. A server that breaks the protocol gets the Close code that RFC 6455 names, as soon as the bytes show it. A
line for each connection says how it ended, which is not an error, however it did.

Exit status: 0 every connection was opened and has ended; 1 error; 2 wrong usage.";

/// Ends when the server has closed the connection, or the last of them.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(super) struct EchoArguments {
    /// The server: ws://HOST[:PORT]/PATH, or wss://. {n} in path or query: the number of the
    /// connection, with --repeat.
    url: Url,

    /// One connection for each of these numbers, the last included, one after the other.
    #[arg(long, value_name = "FROM..TO", value_parser = numbers)]
    repeat: Option<RangeInclusive<u32>>,

    /// Compression to offer (permessage-deflate, RFC 7692): none, without context takeover, or with
    /// it. What comes compressed goes back compressed.
    #[arg(long, value_enum, default_value_t = Deflate::Off)]
    deflate: Deflate,

    #[command(flatten)]
    tls: TlsArguments,

    /// The event loop: auto takes uring where the kernel allows it, else epoll; one named never
    /// falls back.
    #[arg(long, value_name = "auto|uring|tokio-uring|epoll", default_value = "auto", help_heading = WORKERS)]
    engine: EngineChoice,

    /// For connecting, and again for the handshakes.
    #[arg(long, value_name = "TIME", value_parser = time, default_value = "10s", help_heading = LIMITS)]
    connect_timeout: Duration,

    /// Errors alone.
    #[arg(short, long)]
    quiet: bool,
}

fn numbers(text: &str) -> Result<RangeInclusive<u32>, String> {
    let ends =
        text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..=to.parse().ok()?));
    ends.ok_or_else(|| "two numbers are needed, as in 1..517".to_owned())
}

impl EchoArguments {
    /// Returns the plan that was typed, with `engine` as its engine, because the flags may leave
    /// that open.
    fn plan(&self, engine: EngineKind) -> anyhow::Result<Plan> {
        let plan = Plan {
            repeat: self.repeat.clone(),
            connect_timeout: self.connect_timeout,
            trust: self.tls.trust(),
            certificate: self.tls.certificate()?,
            deflate: self.deflate,
            ..Plan::new(self.url.clone(), engine)
        };
        plan.check().map_err(usage)?;
        Ok(plan)
    }

    pub(super) fn execute(&self) -> anyhow::Result<u8> {
        let plan = self.plan(EngineKind::Uring)?;
        start_log();
        let (engine, why) = self.engine.resolve()?;
        if self.engine == EngineChoice::Auto && !self.quiet {
            eprintln!("engine {engine}: {why}");
        }
        let quiet = self.quiet;
        let watch = move |visit: &EndedConnection| {
            if !quiet {
                // A closed pipe is not a reason to stop echoing.
                let _ = writeln!(io::stdout(), "{}", line(visit));
            }
        };
        execute(&Plan { engine, ..plan }, watch)?;
        Ok(0)
    }
}

fn line(visit: &EndedConnection) -> String {
    let number = visit.number.map(|number| format!("{number}: ")).unwrap_or_default();
    let messages = if visit.messages == 1 { "message" } else { "messages" };
    format!("{number}{} {messages} echoed; {}", visit.messages, visit.ending)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use protocol::ProtocolError;

    use super::*;
    use crate::cli::{Arguments, Command};
    use crate::echo::Ending;

    fn plan(arguments: &[&str]) -> Result<Plan, String> {
        let words = ["sparring-loadgen", "echo"].iter().chain(arguments);
        let parsed = Arguments::try_parse_from(words).map_err(|error| error.to_string())?;
        let Some(Command::Echo(echo)) = parsed.command else { return Err("not echo".to_owned()) };
        echo.plan(EngineKind::Epoll).map_err(|error| error.to_string())
    }

    #[test]
    fn defaults_are_those_of_a_plan() {
        let typed = plan(&["ws://h/"]).expect("a URL is enough");
        let default = Plan::new("ws://h/".parse().expect("url"), EngineKind::Epoll);
        assert_eq!(format!("{typed:?}"), format!("{default:?}"));
    }

    #[test]
    fn flags_reach_the_plan() {
        let plan = plan(&[
            "ws://h/{n}",
            "--repeat",
            "3..9",
            "--connect-timeout",
            "2s",
            "--engine",
            "epoll",
            "--deflate",
            "takeover",
        ]);
        let plan = plan.expect("flags");
        assert_eq!((plan.repeat, plan.connect_timeout), (Some(3..=9), Duration::from_secs(2)));
        assert_eq!(plan.deflate, Deflate::Takeover);
    }

    #[test]
    fn what_cannot_be_echoed_is_refused_by_name() {
        let cases: [(&[&str], &str); 8] = [
            (&["tcp://h:1"], "tcp://h:1"),
            (&["ws://h/", "--insecure"], "--insecure"),
            (&["ws://h:{port}/"], "{port}"),
            (&["ws://h/{n}"], "--repeat"),
            (&["ws://h/", "--repeat", "5"], "--repeat"),
            (&["ws://h/", "--repeat", "5..4"], "--repeat"),
            (&["ws://h/", "--connect-timeout", "0"], "--connect-timeout"),
            (&["ws://h/", "--engine", "kqueue"], "--engine"),
        ];
        for (arguments, named) in cases {
            let error = plan(arguments).expect_err(named);
            assert!(error.contains(named), "{arguments:?}: {error}");
        }
    }

    #[test]
    fn a_line_says_how_a_connection_ended() {
        let line = |number, messages, ending| line(&EndedConnection { number, messages, ending });
        let closed = |code, reason: &str| Ending::Closed { code, reason: reason.to_owned() };
        assert_eq!(
            line(None, 1, closed(None, "")),
            "1 message echoed; the server closed it without a code"
        );
        assert_eq!(
            line(Some(7), 2, closed(Some(1000), "bye")),
            "7: 2 messages echoed; the server closed it with 1000: bye"
        );
        assert_eq!(
            line(None, 0, Ending::Failed(ProtocolError::MaskedFrame)),
            "0 messages echoed; closed with 1002, for the server broke a rule: a server's frame is masked (RFC 6455 5.1)"
        );
    }
}
