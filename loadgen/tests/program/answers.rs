//! The user's own messages, and servers whose answers are not echoes: right ones, servers that
//! nobody here wrote, and servers that misbehave in one way each.

use std::fs;
use std::io::{BufRead, BufReader, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;

use serde_json::Value;
use server::config::{Config, EchoSettings};
use server::{DeflateEcho, DeflateSettings, Server};

use super::echo::frames::{BINARY, TEXT, server_frame};
use super::misbehaving::{Behaviour, COUNTED, IMPATIENT, PATIENT, echoes, trial};
use super::{FINE, Scratch, loadgen, text};

/// Files of messages for all tests.
struct Files(Scratch);

impl Files {
    /// JSON with braces of all kinds, and no line feed.
    const JSON: &str = "{\"text\":\"{seq} {\",\"list\":[{},{\"a\":{}}]}";
    const LINES: &str = "one\n\n{\"three\":3}\r\nf\u{f6}ur\n";
    const TEMPLATE: &str = "{\"id\":{seq},\"of\":\"{connection}\",\"at\":{time_ns},\
                            \"salt\":\"{random:16}\",\"list\":[{}]}";

    fn new() -> Self {
        let files = Self(Scratch::new("answers"));
        for (name, content) in [
            ("json", Self::JSON),
            ("lines", Self::LINES),
            ("template", Self::TEMPLATE),
            ("graphql", "{user{name}}"),
            ("three", "{seq}\n{random:5}\nplain\n"),
        ] {
            fs::write(files.0.file(name), content).expect("a temporary file");
        }
        fs::write(files.0.file("binary"), b"\xff\0{\xfe").expect("a temporary file");
        files
    }

    fn path(name: &str) -> String {
        static FILES: LazyLock<Files> = LazyLock::new(Files::new);
        FILES.0.file(name)
    }
}

/// Flags of JSON messages with a number.
fn numbered() -> Vec<String> {
    ["--text", "--template", "--payload-file", &Files::path("template")].map(str::to_owned).to_vec()
}

fn words(flags: &[String]) -> Vec<&str> {
    flags.iter().map(String::as_str).collect()
}

/// Returns the field of a message, as JSON.
fn field(payload: &[u8], name: &str) -> String {
    let json: Value = serde_json::from_slice(payload).expect("JSON");
    json[name].to_string()
}

/// Checks that a run is fine and has these words about its echoes.
fn assert_fine(name: &str, behaviour: Behaviour, flags: &[&[&str]], verdict: &str) {
    let (said, code) = trial(behaviour, flags);
    // 13: other tests kept the machine busy.
    assert!(code == Some(FINE) || code == Some(13), "{name}: {said}");
    assert_eq!(echoes(&said), verdict, "{name}: {said}");
    assert!(said.contains(" errors none "), "{name}: {said}");
    assert!(said.contains("2,000 sent = 2,000 echoed"), "{name}: {said}");
}

const CHECKED: &str = "all as they were sent (every one checked)";

#[test]
fn own_messages_are_sent_and_checked() {
    let plain: Behaviour = |peer| peer.replace(1, server_frame);
    let [json, lines, template, three, binary] =
        ["json", "lines", "template", "three", "binary"].map(Files::path);
    for flags in [
        &["--payload-file", &json, "--text"][..],
        &["--payload-file", &binary, "--fragments", "3"],
        &["--payload-lines", &lines, "--text"],
        &["--payload-lines", &lines, "--payload-order", "random"],
        &["--payload-file", &template, "--template", "--text", "--fragments", "2"],
        &["--payload-lines", &three, "--template", "-R", "4k"],
    ] {
        let name = format!("{flags:?}");
        assert_fine(&name, plain, &[&COUNTED, &PATIENT, flags, &["--pipeline", "8"]], CHECKED);
    }
}

/// Messages as the server sees them: files as they are, and placeholders by connection and number.
#[test]
fn own_messages_arrive_as_they_were_written() {
    let exact: Behaviour = |peer| {
        peer.open()?;
        peer.serve(u64::MAX, |stream, _, opcode, payload| {
            let is_right = opcode == TEXT && payload == Files::JSON.as_bytes();
            stream.write_all(&if is_right { server_frame(opcode, payload) } else { Vec::new() })
        })
    };
    let json = Files::path("json");
    let flags: [&[&str]; 3] = [&COUNTED, &IMPATIENT, &["--payload-file", &json, "--text"]];
    assert_fine("exact", exact, &flags, CHECKED);
    let numbers: Behaviour = |peer| {
        peer.open()?;
        peer.serve(u64::MAX, |stream, number, opcode, payload| {
            let json: Value = serde_json::from_slice(payload).expect("JSON");
            let since_1970 = std::time::UNIX_EPOCH.elapsed().expect("a clock").as_nanos() as i128;
            let at = i128::from(json["at"].as_u64().unwrap_or_default());
            let is_right = json["id"] == number - 1
                && json["salt"].as_str().is_some_and(|salt| salt.len() == 16)
                && json["of"].as_str().is_some_and(|of| of.parse::<u32>().is_ok_and(|of| of < 4))
                // Far beyond what a busy machine needs.
                && (since_1970 - at).abs() < 600_000_000_000;
            stream.write_all(&if is_right { server_frame(opcode, payload) } else { Vec::new() })
        })
    };
    let numbered = numbered();
    assert_fine("numbers", numbers, &[&COUNTED, &IMPATIENT, &words(&numbered)], CHECKED);
}

#[test]
fn names_what_is_wrong_with_the_echoes_of_own_messages() {
    let numbered = numbered();
    let json = Files::path("json");
    let same = ["--payload-file", &json, "--text"];
    let [numbered, same] = [&words(&numbered)[..], &same[..]];
    let corrupt: Behaviour = |peer| {
        peer.replace(10, |opcode, payload| {
            let mut wrong = payload.to_vec();
            wrong[payload.len() - 1] ^= 1;
            server_frame(opcode, &wrong)
        })
    };
    let truncate: Behaviour = |peer| {
        peer.replace(10, |opcode, payload| server_frame(opcode, &payload[..payload.len() - 1]))
    };
    let duplicate: Behaviour =
        |peer| peer.replace(10, |opcode, payload| server_frame(opcode, payload).repeat(2));
    let unasked: Behaviour = |peer| {
        peer.replace(10, |opcode, payload| {
            [server_frame(opcode, b"nobody asked"), server_frame(opcode, payload)].concat()
        })
    };
    let binary: Behaviour =
        |peer| peer.replace(10, |opcode, payload| server_frame(TEXT + BINARY - opcode, payload));
    let lose: Behaviour = |peer| peer.replace(10, |_, _| Vec::new());
    for (name, behaviour, flags, patience, verdict) in [
        ("corrupt", corrupt, numbered, &PATIENT, "corrupted"),
        ("truncate", truncate, numbered, &PATIENT, "corrupted"),
        ("duplicate", duplicate, numbered, &PATIENT, "duplicated"),
        ("unasked", unasked, numbered, &PATIENT, "that nobody asked for"),
        ("binary", binary, numbered, &PATIENT, "with the wrong opcode"),
        ("binary", binary, same, &PATIENT, "with the wrong opcode"),
        ("lose", lose, numbered, &IMPATIENT, "lost"),
        ("corrupt", corrupt, same, &PATIENT, "corrupted"),
        ("truncate", truncate, same, &PATIENT, "corrupted"),
    ] {
        let (said, code) = trial(behaviour, &[&COUNTED, patience, flags, &["--pipeline", "8"]]);
        assert_eq!((code, &echoes(&said)[..]), (Some(1), verdict), "{name}: {said}");
    }
    // Messages that are all the same: the unasked one is known by the surplus at the end.
    let once: Behaviour = |peer| {
        peer.open()?;
        peer.serve(u64::MAX, |stream, number, opcode, payload| {
            let before = if number == 9 { server_frame(opcode, b"hi") } else { Vec::new() };
            stream.write_all(&[before, server_frame(opcode, payload)].concat())
        })
    };
    let (said, code) = trial(once, &[&COUNTED, &PATIENT, same, &["--pipeline", "8"]]);
    assert_eq!((code, &echoes(&said)[..]), (Some(1), "that nobody asked for"), "{said}");
}

#[test]
fn answers_that_are_not_echoes_are_matched() {
    let numbered = numbered();
    let numbered = &words(&numbered)[..];
    let generated = &["-s", "40", "--text"][..];
    let appends: Behaviour = |peer| {
        peer.replace(1, |opcode, payload| server_frame(opcode, &[payload, b" (served)\n"].concat()))
    };
    let says: Behaviour = |peer| {
        peer.replace(1, |_, payload| server_frame(TEXT, &[b"You said: ", payload, b"!"].concat()))
    };
    let nods: Behaviour = |peer| peer.replace(1, |_, _| server_frame(TEXT, b"ok"));
    let id: Behaviour = |peer| {
        peer.replace(1, |opcode, payload| {
            let answer = format!("{{\"ok\":true,\"re\":[{}]}}", field(payload, "id"));
            server_frame(opcode, answer.as_bytes())
        })
    };
    for (name, behaviour, rule, flags, verdict) in [
        (
            "appends",
            appends,
            "prefix",
            numbered,
            "answers that all begin with what was sent (--match prefix)",
        ),
        (
            "appends",
            appends,
            "prefix",
            generated,
            "answers that all begin with what was sent (--match prefix)",
        ),
        (
            "says",
            says,
            "contains",
            numbered,
            "answers that all contain what was sent (--match contains)",
        ),
        (
            "says",
            says,
            "contains",
            generated,
            "answers that all contain what was sent (--match contains)",
        ),
        ("nods", nods, "any", numbered, "answers that were counted not looked at (--match any)"),
        ("nods", nods, "any", generated, "answers that were counted not looked at (--match any)"),
        (
            "id",
            id,
            "id:re.0=id",
            numbered,
            "answers that all have the value of a message in `re.` (--match id)",
        ),
    ] {
        let flags: [&[&str]; 4] =
            [&COUNTED, &PATIENT, flags, &["--pipeline", "8", "--match", rule]];
        assert_fine(name, behaviour, &flags, verdict);
    }
    // What is not asked for is still named.
    let (said, code) = trial(says, &[&COUNTED, &PATIENT, numbered, &["--match", "prefix"]]);
    assert_eq!((code, &echoes(&said)[..]), (Some(1), "corrupted"), "{said}");
}

#[test]
fn names_what_is_wrong_with_ids() {
    let numbered = numbered();
    let numbered = &words(&numbered)[..];
    /// Returns the answer with this value.
    fn answer(id: &str) -> Vec<u8> {
        server_frame(TEXT, format!("{{\"id\":{id}}}").as_bytes())
    }
    let swaps: Behaviour = |peer| {
        peer.open()?;
        let mut held = Vec::new();
        peer.serve(u64::MAX, |stream, _, _, payload| {
            held.push(answer(&field(payload, "id")));
            // The generator keeps eight in flight, and ends after the last of them.
            if held.len() < 8 {
                return Ok(());
            }
            held.reverse();
            stream.write_all(&std::mem::take(&mut held).concat())
        })
    };
    let wrong: Behaviour =
        |peer| peer.replace(10, |_, payload| answer(&format!("\"{}\"", field(payload, "id"))));
    let missing: Behaviour = |peer| peer.replace(10, |_, _| server_frame(TEXT, b"{\"ok\":true}"));
    let twice: Behaviour =
        |peer| peer.replace(10, |_, payload| answer(&field(payload, "id")).repeat(2));
    let event: Behaviour = |peer| {
        peer.replace(10, |_, payload| {
            [server_frame(TEXT, b"{\"event\":1}"), answer(&field(payload, "id"))].concat()
        })
    };
    let rule = ["--match", "id:id", "--pipeline", "8"];
    // 4 connections x 8 in flight.
    let eights = ["-n", "32"];
    let (said, code) = trial(swaps, &[&eights, &PATIENT, numbered, &rule]);
    assert!(code == Some(FINE) || code == Some(13), "{said}");
    assert!(echoes(&said).starts_with("answers that all have"), "{said}");
    assert!(said.contains("32 sent = 32 echoed"), "{said}");
    // With the echo as the rule the same server is at fault.
    let (said, code) = trial(swaps, &[&eights, &IMPATIENT, numbered, &["--pipeline", "8"]]);
    assert!(code == Some(1) && echoes(&said).contains("corrupted"), "{said}");
    for (name, behaviour, patience, verdict) in [
        ("wrong", wrong, &IMPATIENT, "lost, that nobody asked for"),
        ("missing", missing, &IMPATIENT, "lost, that nobody asked for"),
        ("twice", twice, &PATIENT, "duplicated"),
        ("event", event, &PATIENT, "that nobody asked for"),
    ] {
        let (said, code) = trial(behaviour, &[&COUNTED, patience, numbered, &rule]);
        // Figures and commas are left out.
        let verdict = verdict.replace(',', "");
        let echoes = echoes(&said).split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!((code, echoes), (Some(1), verdict), "{name}: {said}");
    }
}

#[test]
fn own_messages_are_compressed() {
    let policy = protocol::handshake::deflate::ServerPolicy { takeover: true, max_window_bits: 15 };
    let numbered = numbered();
    let lines = Files::path("lines");
    for echo in [DeflateEcho::Passthrough, DeflateEcho::Recompress] {
        let deflate = Some(DeflateSettings { policy, echo, memory_level: 8 });
        let settings = EchoSettings { deflate, ..EchoSettings::default() };
        let server = Server::start(&Config { settings, ..Config::default() }).expect("a server");
        let url = format!("ws://{}/", server.addresses()[0]);
        for deflate in ["on", "takeover"] {
            for flags in [&words(&numbered)[..], &["--payload-lines", &lines, "--text"]] {
                let own = ["run", &url, "-c", "4", "--pipeline", "4", "--deflate", deflate];
                let output = loadgen(&[&own, &COUNTED[..], &PATIENT, flags].concat())
                    .output()
                    .expect("the program runs");
                let said = text(&output.stdout) + &text(&output.stderr);
                let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
                assert!(matches!(output.status.code(), Some(0 | 13)), "{said}");
                assert_eq!(echoes(&said), CHECKED, "{said}");
                assert!(said.contains("2,000 inflated"), "{said}");
            }
        }
    }
}

/// A document names a file by its length and hash, and a first message by its length.
#[test]
fn documents_name_no_private_file_or_text() {
    let server = super::echo::Echo::ws(super::echo::Fault::None);
    let path = Files::path("template");
    let flags =
        ["--payload-file", &path, "--template", "--first-message", "hush-hush", "--json", "-"];
    let output = super::run(&server.ws_url(), &flags);
    let json = text(&output.stdout);
    let document: Value = serde_json::from_str(&json).expect("a document");
    let parameters = &document["scenarios"][0]["parameters"];
    assert_eq!(parameters["payload_file"]["bytes"], Files::TEMPLATE.len());
    assert_eq!(parameters["payload_file"]["sha256"].as_str().map(str::len), Some(64));
    assert_eq!(parameters["first_message"], serde_json::json!({ "bytes": 9 }));
    let run = &document["runs"][0];
    assert!(run["message_cost"]["build_ns"].as_f64().is_some_and(|ns| ns > 0.0), "{run}");
    // Compared before the load, and no echo of the load.
    assert_eq!(run["integrity"]["unsolicited"], 4, "the echoes of the first messages");
    for private in ["hush-hush", &path, "answers", "salt"] {
        assert!(!json.contains(private), "{private}: {json}");
    }
}

#[test]
fn unusable_messages_are_refused_with_their_flag() {
    let [json, binary, template, graphql] =
        ["json", "binary", "template", "graphql"].map(Files::path);
    for (flags, parts) in [
        (
            &["--payload-file", &binary, "--text"][..],
            &["--payload-file is not UTF-8 at byte 0"][..],
        ),
        (&["--payload-file", "/dev/null"], &["--payload-file", "it is empty", "as in"]),
        (&["--payload-file", "/no/such"], &["--payload-file", "/no/such", "cannot open it"]),
        (&["--payload-file", "/dev/zero"], &["--payload-file", "more than 64 MiB"]),
        (&["--payload-file", &graphql, "--template"], &["has no closing brace", "{random:16}"]),
        (&["--payload-file", &json, "-s", "5"], &["--payload-file", "--size"]),
        (&["--template"], &["--template needs"]),
        (&["--match", "ids"], &["--match", "`ids` is not a valid match", "id:request.id"]),
        (&["--match", "id:id"], &["--match id:id needs --payload-file"]),
        (&["--match", "id:no", "--payload-file", &template, "--template"], &["no field `no`"]),
        (&["--expect-first", "("], &["--expect-first `(` is not a valid regular expression"]),
    ] {
        let output = super::run("ws://127.0.0.1:1/", flags);
        let said = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {said}");
        assert!(parts.iter().all(|part| said.contains(part)), "{flags:?}: {said}");
    }
}

/// Server of the Python library `websockets`, where that is installed.
pub(super) struct Websockets {
    child: Child,
    pub(super) url: String,
}

impl Websockets {
    /// Starts a server with this handler; `None`, with a line, where the library is missing.
    pub(super) fn start(handler: &str) -> Option<Self> {
        let python = std::env::var("SPARRING_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let known = Command::new(&python).args(["-c", "import websockets.asyncio"]).output();
        if !known.is_ok_and(|known| known.status.success()) {
            println!("skipped: Python's websockets is not installed (pip install websockets)");
            return None;
        }
        let program = format!(
            "import asyncio, json\nfrom websockets.asyncio.server import serve\n{handler}\n
async def main():
    async with serve(handler, '127.0.0.1', 0) as server:
        print(server.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().create_future()
asyncio.run(main())"
        );
        let mut command = Command::new(python);
        command.args(["-c", &program]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it was there");
        let mut port = String::new();
        let output = child.stdout.take().expect("piped");
        BufReader::new(output).read_line(&mut port).expect("a port");
        Some(Self { child, url: format!("ws://127.0.0.1:{}/", port.trim()) })
    }
}

impl Drop for Websockets {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn drives_a_server_of_python_that_answers_in_another_order() {
    let Some(server) = Websockets::start(
        "
async def handler(socket):
    held = []
    while True:
        try:
            held.append(json.loads(await asyncio.wait_for(socket.recv(), 0.05)))
        except asyncio.TimeoutError:
            pass
        except Exception:
            return
        else:
            if len(held) < 4:
                continue
        for message in reversed(held):
            await socket.send(json.dumps({'answer': {'to': message['id']}}))
        held.clear()",
    ) else {
        return;
    };
    let numbered = numbered();
    let flags = ["--pipeline", "4", "--match", "id:answer.to=id"];
    let own = ["run", &server.url, "-c", "4"];
    let words = [&own[..], &COUNTED, &PATIENT, &words(&numbered), &flags].concat();
    let output = loadgen(&words).output().expect("the program runs");
    let said = text(&output.stdout) + &text(&output.stderr);
    assert!(matches!(output.status.code(), Some(0 | 13)), "{said}");
    assert!(said.contains("2,000 sent = 2,000 echoed"), "{said}");
    assert!(said.contains("in `answer.to`"), "{said}");
}
