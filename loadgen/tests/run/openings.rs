//! Opening connections: every address of a name, interim responses, and retries where connections
//! are closed at once.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use engine::{EngineKind, Nanos};
use loadgen::load::Arrival;
use loadgen::run::{
    Opened, Plan, Progress, Rehearsal, RunError, Silent, Snapshot, WorkerEvent, execute,
};
use protocol::handshake::{HeadLimits, server as handshake};

use super::echo::{Echo, Fault};
use super::{assert_balanced, counted, engines, failure, plan, run};

/// Time limit far beyond the needs of these tests.
const BOUND: Duration = Duration::from_secs(60);

/// Server's action after it has read an opening handshake and answered it.
#[derive(Clone, Copy)]
enum After {
    /// Ends its output.
    End,
    /// Ends its output by a reset.
    Reset,
    /// Leaves the connection open.
    Nothing,
}

/// Answers opening handshakes with `before`, the valid response, and `behind` in the same segment.
/// Counts them.
fn server(
    before: &'static str,
    behind: impl Fn(u64) -> Vec<u8> + Send + Sync + 'static,
    after: After,
) -> (String, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("ws://{}/", listener.local_addr().expect("bound"));
    let (count, behind) = (Arc::new(AtomicU64::new(0)), Arc::new(behind));
    let seen = count.clone();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let (number, behind) = (seen.fetch_add(1, Ordering::Relaxed), behind.clone());
            thread::spawn(move || answer(stream, before, &behind(number), after));
        }
    });
    (url, count)
}

fn answer(mut stream: TcpStream, before: &str, behind: &[u8], after: After) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    let accepted = handshake::answer(&head, &HeadLimits::default()).map_err(io::Error::other)?;
    stream.write_all(&[before.as_bytes(), accepted.response(), behind].concat())?;
    match after {
        After::End => return Ok(()),
        After::Reset => rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?,
        After::Nothing => drop(io::copy(&mut stream, &mut io::sink())),
    }
    Ok(())
}

/// Returns a Close 1008 with this reason.
fn close(reason: &str) -> Vec<u8> {
    let len = u8::try_from(2 + reason.len()).expect("short");
    [&[0x88, len, 0x03, 0xf0], reason.as_bytes()].concat()
}

/// Returns an address of this machine without a listener.
fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .expect("a free port")
}

/// Collector of notes that come before a run is over.
#[derive(Default)]
struct Notes(Vec<String>);

impl Progress for Notes {
    fn tick(&mut self, _: &Snapshot) {}

    fn note(&mut self, text: &str) {
        self.0.push(text.to_owned());
    }
}

// Several addresses.

/// Drives one worker through a short load on a real engine. Returns its counts and the addresses in
/// use, or the reason why a connection was not opened.
fn rehearse(
    plan: &Plan,
    addresses: Vec<SocketAddr>,
) -> Result<(loadgen::run::Counted, String), String> {
    let (rehearsal, mut client) = Rehearsal::new(plan, addresses);
    let (remote, inbox) = engine::remote().expect("an eventfd");
    let (kind, config) = (plan.placement.engine, Rehearsal::config(plan));
    let worker = thread::spawn(move || {
        engine::run(kind, &config, inbox, &mut client).expect("the engine runs");
        client
    });
    let news = || {
        let began = Instant::now();
        while began.elapsed() < BOUND {
            if let Some(news) = rehearsal.next_event() {
                return news;
            }
            thread::sleep(Duration::from_millis(1));
        }
        panic!("nothing happens");
    };
    let first = news();
    if first == WorkerEvent::Connected {
        remote.wake(rehearsal.load(Nanos::monotonic(), plan.load.window()));
        let end = news();
        assert_eq!(end, WorkerEvent::Drained, "{}", plan.placement.engine);
    }
    remote.wake(if first == WorkerEvent::Connected { Rehearsal::CLOSE } else { Rehearsal::STOP });
    let client = worker.join().expect("the worker ends");
    match first {
        WorkerEvent::Unopened(why) => Err(why),
        _ => Ok((Rehearsal::outcome(client), rehearsal.addresses_in_use().unwrap_or_default())),
    }
}

/// Sends at random intervals: their window ends with the last echo, however slow the machine.
fn open_loop(plan: &mut Plan, rate_per_s: f64) {
    (plan.load.rate_per_s, plan.load.arrival) = (Some(rate_per_s), Arrival::Poisson);
}

#[test]
fn tries_every_address_in_every_mode() {
    type Change = fn(&mut Plan);
    let modes: [(&str, Change); 5] = [
        ("closed loop", |_| {}),
        ("open loop", |plan| open_loop(plan, 2000.0)),
        ("churn by messages", |plan| plan.load.messages_per_connection = Some(1)),
        ("churn in an open loop", |plan| {
            plan.load.messages_per_connection = Some(2);
            open_loop(plan, 1000.0);
        }),
        ("reconnect", |plan| plan.load.reconnect = true),
    ];
    for engine in engines() {
        for (mode, change) in modes {
            let server = Echo::ws(Fault::None);
            let mut plan = plan(&server.ws_url(), engine);
            counted(&mut plan, 200);
            change(&mut plan);
            let addresses = vec![closed_port(), closed_port(), server.at];
            let (counted, in_use) =
                rehearse(&plan, addresses).unwrap_or_else(|e| panic!("{engine} {mode}: {e}"));
            assert_eq!(counted.messages.echoed, counted.messages.sent, "{engine} {mode}");
            assert!(
                counted.messages.echoed >= 200 && counted.errors.total() == 0,
                "{engine} {mode}: {counted:?}"
            );
            assert_eq!(in_use, server.at.to_string(), "{engine} {mode}");
        }
    }
}

#[test]
fn names_every_address_without_a_listener() {
    for engine in engines() {
        let addresses = vec![closed_port(), closed_port()];
        let plan = plan("ws://example.invalid/", engine);
        let error = rehearse(&plan, addresses.clone()).expect_err("no listener");
        assert!(error.contains("refused"), "{error}");
        assert!(
            addresses.iter().all(|at| error.contains(&at.to_string())),
            "{addresses:?} not in: {error}"
        );
    }
}

#[test]
fn finds_a_server_that_has_moved_to_another_address() {
    for engine in engines() {
        let first = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let (old, second) = (first.local_addr().expect("bound"), Echo::ws(Fault::None));
        // The server accepts the connections of the plan and closes its listener. It ends the
        // connections with the first message.
        let moving = thread::spawn(move || {
            let streams: Vec<_> = (0..4).map(|_| first.accept().expect("a client").0).collect();
            drop(first);
            for mut stream in streams {
                thread::spawn(move || {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        let mut byte = [0];
                        stream.read_exact(&mut byte)?;
                        head.push(byte[0]);
                    }
                    let accepted = handshake::answer(&head, &HeadLimits::default())
                        .map_err(io::Error::other)?;
                    stream.write_all(accepted.response())?;
                    stream.read_exact(&mut [0])
                });
            }
        });
        let mut plan = plan("ws://example.invalid/", engine);
        plan.load.reconnect = true;
        counted(&mut plan, 200);
        let (counted, in_use) = rehearse(&plan, vec![old, second.at]).expect("connections");
        moving.join().expect("it has moved");
        assert!(counted.messages.echoed > 0, "{engine}: {counted:?}");
        assert_eq!(in_use, format!("{old}, {}", second.at), "{engine}");
    }
}

#[test]
fn stores_the_address_in_use() {
    let server = Echo::ws(Fault::None);
    let mut plan = plan(&server.ws_url(), EngineKind::Epoll);
    counted(&mut plan, 10);
    assert_eq!(run(&plan).address, Some(server.at.to_string()));
}

#[test]
fn connects_from_addresses_of_the_family_in_use() {
    if TcpListener::bind("[::1]:0").is_err() {
        println!("skipped: no IPv6 here");
        return;
    }
    for engine in engines() {
        let server = Echo::ws(Fault::None);
        let other = TcpListener::bind("[::1]:0").and_then(|l| l.local_addr()).expect("a free port");
        let mut plan = plan(&server.ws_url(), engine);
        counted(&mut plan, 50);
        plan.placement.source_ips =
            ["::1", "127.0.0.7"].map(|ip| ip.parse().expect("an address")).to_vec();
        rehearse(&plan, vec![other, server.at]).expect("connections");
        let peers = server.seen.peers.lock().expect("peers");
        assert!(peers.iter().all(|peer| peer.to_string() == "127.0.0.7"), "{peers:?}");
    }
}

// Responses.

const INTERIM: &str =
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\n\r\n";

#[test]
fn skips_interim_responses() {
    for engine in engines() {
        let (url, _) = server(INTERIM, |_| close("after an interim response"), After::End);
        // Only this server continues after the response. Its Close shows that the generator
        // accepted the response.
        let error = failure(&plan(&url, engine)).to_string();
        assert!(error.contains("1008: after an interim response"), "{error}");
    }
}

#[test]
fn refuses_interim_responses_without_end() {
    for engine in engines() {
        let (url, _) = server(
            "HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
             HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n\
             HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n",
            |_| Vec::new(),
            After::Nothing,
        );
        let error = failure(&plan(&url, engine)).to_string();
        assert!(error.contains("more than 8 interim (1xx) responses"), "{error}");
    }
}

// Connections that are closed as soon as they are open.

#[test]
fn reports_at_once_why_connections_close_at_once() {
    for engine in engines() {
        for connections in [1, 2, 40] {
            let (url, _) = server("", |_| close("token \u{1b}[31mmissing"), After::End);
            let error =
                failure(&plan(&url, engine).with(|plan| plan.load.connections = connections))
                    .to_string();
            assert!(
                error.contains("1008: token \\u{1b}[31mmissing"),
                "{engine} {connections}: {error}"
            );
        }
        for (after, said) in
            [(After::End, "closed the connection"), (After::Reset, "reset the connection")]
        {
            let (url, _) = server("", |_| Vec::new(), after);
            // A reset may come before the response is read, and both ends may come after the load
            // has begun.
            let error = match execute(&plan(&url, engine), &mut Silent) {
                Ok(run) => run.ended_early.expect("no connection is left").cause,
                Err(error) => error.to_string(),
            };
            assert!(
                error.contains(said) || error.contains("without answering"),
                "{engine}: {error}"
            );
        }
    }
}

#[test]
fn ends_where_one_connection_of_several_is_closed() {
    for engine in engines() {
        for threads in [1, 2] {
            let (url, _) = server(
                "",
                |number| if number == 1 { close("one too many") } else { Vec::new() },
                After::Nothing,
            );
            let error = failure(&plan(&url, engine).with(|plan| plan.placement.threads = threads));
            assert!(matches!(error, RunError::LostEarly { .. }), "{engine}: {error}");
            assert!(error.to_string().contains("1008: one too many"), "{engine}: {error}");
        }
    }
}

#[test]
fn gives_up_on_the_connection_that_is_always_closed() {
    for engine in engines() {
        let (url, _) = server(
            "",
            |number| if number > 2 { close("one too many") } else { Vec::new() },
            After::Nothing,
        );
        let patience = Duration::from_millis(500);
        let error = failure(&plan(&url, engine).with(|plan| {
            plan.load.reconnect = true;
            plan.load.answer_timeout = patience;
        }));
        assert!(
            matches!(error, RunError::NoneStays { opened: Opened { open: 3, .. }, .. }),
            "{engine}: {error}"
        );
        assert!(error.to_string().contains("1008: one too many"), "{engine}: {error}");
    }
}

/// Opening all connections takes longer than the retries of a single one may.
#[test]
fn opens_a_connection_again_before_the_load() {
    for engine in engines() {
        let (url, _) = server(
            "",
            |number| if number == 1 { close("busy") } else { Vec::new() },
            After::Nothing,
        );
        let patience = Duration::from_millis(500);
        let plan = plan(&url, engine).with(|plan| {
            plan.load.reconnect = true;
            plan.load.answer_timeout = patience;
            plan.load.connections = 12;
        });
        let run = run(&plan.with(|plan| plan.load.connect_rate = Some(8.0)));
        // All connections are open in the end. The server then answers nothing, which is a separate
        // fault.
        let cause = run.ended_early.expect("the server does not answer").cause;
        assert!(
            cause.contains("stopped answering") && cause.contains("12 messages"),
            "{engine}: {cause}"
        );
    }
}

#[test]
fn gives_up_on_a_server_that_closes_every_connection() {
    for engine in engines() {
        for threads in [1, 2] {
            let (url, seen) = server("", |_| close("token missing"), After::End);
            let patience = Duration::from_secs(2);
            let plan = plan(&url, engine).with(|plan| {
                plan.load.reconnect = true;
                plan.placement.threads = threads;
                plan.load.answer_timeout = patience;
            });
            let mut notes = Notes::default();
            let began = Instant::now();
            let error = execute(&plan, &mut notes).expect_err("no connection stays");
            assert!(matches!(error, RunError::NoneStays { .. }), "{engine}: {error}");
            assert!(
                error.to_string().contains("at once: sent a Close (code 1008: token missing)"),
                "{error}"
            );
            assert!(began.elapsed() >= patience, "{engine}: not before its time");
            assert_eq!(notes.0.len(), 1, "{:?}", notes.0);
            assert!(notes.0[0].contains("1008: token missing"), "{:?}", notes.0);
            // The first delay is 50 to 100 ms, and each further one is twice as long. That is six
            // attempts in two seconds, or seven where it takes a little longer.
            let (attempts, seconds) = (seen.load(Ordering::Relaxed), began.elapsed().as_secs());
            assert!(
                attempts <= 4 * (8 + 2 * seconds),
                "{attempts} attempts in {seconds} s are a storm"
            );
        }
    }
}

/// Covers a server that closes every new connection once the load has begun.
#[test]
fn gives_up_within_the_load_too() {
    for engine in engines() {
        let turned = Arc::new(Mutex::new(None));
        let when = turned.clone();
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("ws://{}/", listener.local_addr().expect("bound"));
        thread::spawn(move || {
            for (number, stream) in listener.incoming().map_while(Result::ok).enumerate() {
                // The first four connections live until the load begins. All others are closed at
                // once.
                if number < 4 {
                    thread::spawn(move || {
                        let mut peer = stream.try_clone()?;
                        let reader = thread::spawn(move || answer(stream, "", b"", After::Nothing));
                        thread::sleep(Duration::from_millis(300));
                        peer.write_all(&close("moved"))?;
                        reader.join().expect("it ends")
                    });
                } else {
                    when.lock().expect("a time").get_or_insert_with(Instant::now);
                    thread::spawn(move || answer(stream, "", &close("token expired"), After::End));
                }
            }
        });
        let plan = plan(&url, engine).with(|plan| {
            plan.load.reconnect = true;
            plan.load.measure = Duration::from_secs(3600);
            plan.load.answer_timeout = Duration::from_secs(2);
        });
        let run = run(&plan);
        assert_balanced(&run);
        let cause = run.ended_early.expect("it ended early").cause;
        assert!(
            cause.contains("token expired") && cause.contains("gave up after"),
            "{engine}: {cause}"
        );
        assert!(turned.lock().expect("a time").is_some());
    }
}

#[test]
fn names_where_a_redirect_leads() {
    let moved = "302 Found\r\nLocation: ws://127.0.0.1:1/else\twhere";
    let server = Echo::ws(Fault::Instead("101 Switching Protocols", moved));
    for engine in engines() {
        let error = failure(&plan(&server.ws_url(), engine)).to_string();
        let said = "302 Found\" instead of 101: it redirects to ws://127.0.0.1:1/else\\twhere";
        assert!(error.contains(said), "{error}");
    }
}
