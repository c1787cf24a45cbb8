//! The contract of `Handler`, `Worker` and `Output`: one scenario for each sentence.
//!
//! `Stage` checks in every scenario of every module: all calls come on the worker's thread, one at
//! a time, `start` before the others; all calls of a turn have the same time; `received` and `eof`
//! follow no `eof`; no call follows `closed`, which comes once for every `opened`.
//!
//! Sentences whose scenario is elsewhere:
//!
//! | sentence | scenario |
//! |---|---|
//! | A failed connect carries its tag | `connect::refused` |
//! | The slot of a failed connect is free | `connect::a_failed_connect_frees_its_slot` |
//! | A connect is not reported within the call | `connect::connects_and_talks`, and below |
//! | A paused connection receives nothing; its FIN waits | `ends::pause_holds_bytes_and_end_back` |
//! | A reset ends a paused connection all the same | `ends::reset_while_paused` |
//! | Nothing but `closed` follows a close | `ends::closing_ends_all_calls` |
//! | A connection stays open behind `eof` | `ends::half_open_until_the_handler_closes` |
//! | `drained` says that a backlog is gone | `bytes::a_slow_reader_gets_everything`, and below |
//! | A deadline and an alarm are unset again | `timing::*_fire_once_and_never_early` |
//! | The bits of all wakes are joined | `timing::wakes_are_joined_and_never_lost`, and below |
//! | An abort ends a lingering connection | `ends::an_abort_ends_what_closes_gently` |
//! | An id of a gone connection finds nothing | `limits::slots_are_used_again_under_new_ids` |
//! | Closing connections count, and have no ids | `ends::the_server_half_closes_and_discards` |
//! | A listener starts and stops; its address | `limits::listening_off_and_on` |
//! | A stop closes with `Shutdown`, after the output | `ends::stop_closes_everything` |
//! | The harder of two close modes holds | `ends::abort_in_the_first_output` |
//! | A finish sends everything and does not wait | `ends::finish_*` |
//! | A plain connection has no `secured`; TLS has | below, `tls::echo_in_both_versions` |

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use engine::{Cause, CloseMode, ConnId, Connect, EngineKind, Worker};

use crate::stage::{
    Calls, Case, Event, LIMIT, Running, Script, Stage, expect, loopback, pattern, read_to_end,
    round_trip,
};

/// Command for the next `turn_end`.
type AtTurnEnd = Arc<Mutex<Option<Box<dyn FnOnce(&mut Worker<'_, Stage>) + Send>>>>;

/// Runs the test's command at the end of the next turn.
fn with_commands_at_turn_end(script: Script) -> (Script, AtTurnEnd) {
    let slot = AtTurnEnd::default();
    let command = slot.clone();
    let script = script.turn_end(move |w| {
        let command = command.lock().expect("lock").take();
        if let Some(command) = command {
            command(w);
        }
    });
    (script, slot)
}

/// Prepares a turn in which events, a deadline, the alarm and a wake are all due: at the end of the
/// turn before, the worker waits until the clock has passed both times.
struct RichTurn {
    running: Running,
    calls: Calls,
    at_turn_end: AtTurnEnd,
    client: TcpStream,
    id: ConnId,
}

impl RichTurn {
    fn start(case: &Case, script: Script) -> Self {
        let (script, calls) = script.noting_calls();
        let (script, at_turn_end) = with_commands_at_turn_end(script);
        let running = Running::start(case, case.config(), script);
        let client = running.connect();
        let id = running.wait_opened();
        Self { running, calls, at_turn_end, client, id }
    }

    /// Prepares one turn in which everything is due. The client's message `bytes` waits behind a
    /// pause. Another connection has a message too; with `ends` it has ended instead, and a connect
    /// has failed.
    fn prepare(&mut self, bytes: &[u8], ends: bool) {
        let id = self.id;
        self.running.with(id, |out| out.pause());
        self.client.write_all(bytes).expect("write");
        self.running.some_turns();
        let mut other = self.running.connect();
        let other_id = self.running.wait_opened();
        let remote = self.running.remote.clone();
        let (closer, others) = channel();
        let command = move |w: &mut Worker<'_, Stage>| {
            w.with(id, |_, out| {
                out.set_deadline(Some(out.now()));
                out.resume();
            });
            w.set_alarm(Some(w.now()));
            if ends {
                w.abort(other_id);
                w.connect(Connect {
                    to: loopback(1),
                    from: Some(unroutable()),
                    tag: 9,
                    timeout: LIMIT,
                });
            } else {
                other.write_all(b"x").expect("write");
            }
            remote.wake(1);
            // Two ticks of the deadlines' timer.
            while w.clock() < w.now() + Duration::from_millis(25) {}
            let _ = closer.send(other);
        };
        *self.at_turn_end.lock().expect("lock") = Some(Box::new(command));
        self.running.ask(|_| {});
        self.running.wait_for(|e| matches!(e, Event::Alarm(_)).then_some(()));
        drop(others.recv_timeout(LIMIT).expect("the command has run"));
    }

    /// Waits until all calls of the last preparation have come.
    fn wait_for(&self, call: &str, count: usize) {
        self.wait_until(call, || {
            self.calls.lock().expect("lock").iter().filter(|&&seen| seen == call).count() >= count
        });
    }

    fn wait_until(&self, call: &str, has_come: impl Fn() -> bool) {
        let since = Instant::now();
        while !has_come() {
            assert!(since.elapsed() < LIMIT, "no {call}");
            self.running.ask(|_| {});
        }
    }
}

/// Returns an address of TEST-NET-1 (RFC 5737), which no machine has.
fn unroutable() -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 0))
}

/// Returns the rank of a call in the order of a turn.
fn rank(call: &str) -> usize {
    const ORDER: [&str; 5] = ["events", "deadline", "alarm", "woken", "turn_end"];
    ORDER.iter().position(|&other| other == call).unwrap_or(0)
}

pub(crate) fn a_turn_calls_events_deadline_alarm_woken_turn_end(case: &Case) {
    let mut turn = RichTurn::start(case, Script::echo());
    let since = Instant::now();
    // An engine decides which events belong to one turn: repeats until one turn has had all of
    // them.
    for round in 1.. {
        turn.prepare(b"held", round % 2 == 0);
        expect(&mut turn.client, b"held");
        turn.wait_for("deadline", round);
        turn.wait_for("connect_failed", round / 2);
        let calls = turn.calls.lock().expect("lock").clone();
        let mut was_complete = false;
        for calls in calls.split_inclusive(|&call| call == "turn_end") {
            assert!(calls.is_sorted_by_key(|call| rank(call)), "order of a turn: {calls:?}");
            was_complete |= (1..5).all(|due| calls.iter().any(|call| rank(call) == due))
                && calls.contains(&"received");
        }
        if was_complete && round > 1 {
            break;
        }
        assert!(since.elapsed() < LIMIT, "no turn had calls of every kind");
    }
    turn.running.finish();
}

/// Every call writes its own letter, and records it: the wire has them in the order of the calls.
pub(crate) fn output_of_all_calls_keeps_the_order_of_the_calls(case: &Case) {
    let written: Arc<Mutex<Vec<u8>>> = Arc::default();
    let open: Arc<Mutex<Option<ConnId>>> = Arc::default();
    let note = |letter: u8| {
        let written = written.clone();
        move || {
            written.lock().expect("lock").push(letter);
            [letter]
        }
    };
    let on_worker = |letter: u8| {
        let (note, open) = (note(letter), open.clone());
        move |w: &mut Worker<'_, Stage>| {
            let id = open.lock().expect("lock").expect("open");
            w.with(id, |_, out| out.append(&note()));
        }
    };
    let (received, deadline, at_end) = (note(b'r'), note(b'd'), on_worker(b'e'));
    let observed = open.clone();
    let script = Script::default()
        .received(move |id, bytes, out| {
            if *observed.lock().expect("lock") == Some(id) {
                bytes[0] = received()[0];
                out.echo(0..1);
            }
        })
        .deadline(move |_, out| out.append(&deadline()))
        .woken(on_worker(b'w'))
        .alarm(on_worker(b'a'));
    let mut turn = RichTurn::start(case, script);
    *open.lock().expect("lock") = Some(turn.id);
    for round in 1..=5 {
        turn.prepare(b"m", round % 2 == 0);
        turn.wait_for("deadline", round);
        let has_received =
            || written.lock().expect("lock").iter().filter(|&&l| l == b'r').count() == round;
        turn.wait_until("received", has_received);
        *turn.at_turn_end.lock().expect("lock") = Some(Box::new(at_end.clone()));
        turn.running.some_turns();
    }
    turn.running.with(turn.id, |out| out.close(CloseMode::Flush));
    let bytes = read_to_end(&mut turn.client);
    let written = written.lock().expect("lock").clone();
    assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(&written));
    for letter in *b"rdwae" {
        assert_eq!(
            written.iter().filter(|&&other| other == letter).count(),
            5,
            "of {}",
            letter as char
        );
    }
    turn.running.finish();
}

/// Output of each call leaves at the end of its turn, without any other event.
pub(crate) fn output_of_every_call_leaves_without_another_event(case: &Case) {
    let soon = Duration::from_millis(1);
    let open: Arc<Mutex<Option<ConnId>>> = Arc::default();
    let write = |text: &'static [u8]| {
        let open = open.clone();
        move |w: &mut Worker<'_, Stage>| {
            let id = *open.lock().expect("lock");
            id.map(|id| w.with(id, |_, out| out.append(text)));
        }
    };
    let (at_end, end) = (write(b"turn_end"), Arc::new(AtomicBool::new(false)));
    let is_end = end.clone();
    let opened = open.clone();
    let script = Script::default()
        .opened(move |id, out| {
            *opened.lock().expect("lock") = Some(id);
            out.append(b"opened");
        })
        .received(|_, _, out| out.append(b"received"))
        .eof(|_, out| out.append(b"eof"))
        .deadline(|_, out| out.append(b"deadline"))
        .alarm(write(b"alarm"))
        .woken(write(b"woken"))
        .connect_failed(write(b"connect_failed"))
        .turn_end(move |w| {
            if is_end.swap(false, Ordering::Relaxed) {
                at_end(w);
            }
        });
    let running = Running::start(case, case.config(), script);
    let mut client = running.connect();
    expect(&mut client, b"opened");
    client.write_all(b"x").expect("write");
    expect(&mut client, b"received");
    let id = running.wait_opened();
    running.with(id, move |out| out.set_deadline(Some(out.now() + soon)));
    expect(&mut client, b"deadline");
    running.ask(move |w| w.set_alarm(Some(w.now() + soon)));
    expect(&mut client, b"alarm");
    running.remote.wake(1);
    expect(&mut client, b"woken");
    running.ask(|w| {
        w.connect(Connect { to: loopback(1), from: Some(unroutable()), tag: 1, timeout: LIMIT });
    });
    expect(&mut client, b"connect_failed");
    end.store(true, Ordering::Relaxed);
    running.ask(|_| {});
    expect(&mut client, b"turn_end");
    client.shutdown(Shutdown::Write).expect("shutdown");
    expect(&mut client, b"eof");
    running.finish();
}

/// The client's bytes are there before the connection is accepted.
pub(crate) fn output_of_opened_comes_before_all_other(case: &Case) {
    let script = Script::echo().opened(|_, out| out.append(b"first,"));
    let running = Running::start(case, case.config(), script);
    for _ in 0..20 {
        running.ask(|w| w.listening(0, false));
        running.some_turns();
        let mut client = running.connect();
        client.write_all(b"then the echo").expect("write");
        running.ask(|w| w.listening(0, true));
        expect(&mut client, b"first,then the echo");
    }
    running.finish();
}

/// Every turn ends with `turn_end`, even if it has only one call.
pub(crate) fn a_turn_end_follows_every_call(case: &Case) {
    let (script, calls) = Script::echo().noting_calls();
    let running = Running::start(case, case.config(), script);
    let mut client = running.connect();
    round_trip(&mut client, b"a message");
    running.wait_opened();
    running.ask(|w| w.set_alarm(Some(w.now())));
    running.wait_for(|e| matches!(e, Event::Alarm(_)).then_some(()));
    client.shutdown(Shutdown::Write).expect("shutdown");
    running.wait_for(|e| matches!(e, Event::Closed(..)).then_some(()));
    // The end of the run may cut the last turn short, so it is not checked.
    running.some_turns();
    let calls = calls.lock().expect("lock").clone();
    for call in ["opened", "received", "alarm", "woken", "eof", "closed"] {
        let at = calls.iter().position(|&seen| seen == call).unwrap_or_else(|| panic!("no {call}"));
        assert!(calls[at..].contains(&"turn_end"), "nothing ends the turn of {call}");
    }
    assert_eq!(calls[0], "start");
    running.finish();
}

pub(crate) fn a_plain_connection_is_never_secured(case: &Case) {
    let (script, calls) = Script::echo().noting_calls();
    let running = Running::start(case, case.config(), script);
    let mut client = running.connect();
    round_trip(&mut client, b"plain");
    drop(client);
    running.wait_for(|e| matches!(e, Event::Closed(..)).then_some(()));
    running.finish();
    assert!(!calls.lock().expect("lock").contains(&"secured"));
}

pub(crate) fn a_handler_may_change_the_bytes_that_it_echoes(case: &Case) {
    let script = Script::default().received(|_, bytes, out| {
        bytes.iter_mut().for_each(|byte| *byte = byte.wrapping_add(1));
        out.echo(1..bytes.len());
    });
    let running = Running::start(case, case.config(), script);
    let mut client = running.connect();
    for _ in 0..20 {
        client.write_all(b"-HAL").expect("write");
        expect(&mut client, b"IBM");
    }
    running.finish();
}

/// The tokio-uring engine alone may call `drained` where the peer was not slow.
pub(crate) fn drained_is_not_called_without_a_backlog(case: &Case) {
    if case.kind == EngineKind::TokioUring {
        return;
    }
    let open: Arc<Mutex<Vec<ConnId>>> = Arc::default();
    let at_end = open.clone();
    let script = Script::default()
        .received(move |id, bytes, out| {
            out.echo(0..bytes.len());
            assert!(out.unsent() >= bytes.len(), "a handler sees the bytes of its own turn");
            open.lock().expect("lock").push(id);
        })
        .turn_end(move |w| {
            for id in at_end.lock().expect("lock").drain(..) {
                w.with(id, |_, out| out.append(&[7; 1000]));
            }
        });
    let running = Running::start(case, case.config(), script);
    let mut client = running.connect();
    for _ in 0..100 {
        client.write_all(&[7; 24]).expect("write");
        expect(&mut client, &[7; 1024]);
    }
    running.some_turns();
    let events = running.events_so_far();
    assert!(!events.iter().any(|e| matches!(e, Event::Drained(_))), "{events:?}");
    running.finish();
}

/// At the call the backlog is empty. The call comes once, and its output leaves.
pub(crate) fn drained_comes_once_when_the_backlog_is_gone(case: &Case) {
    const BACKLOG: usize = 16 << 20;
    let script = Script::default().drained(|_, out| {
        assert_eq!(out.unsent(), 0, "nothing else was written in this turn");
        out.append(b"drained");
    });
    let running = Running::start(case, case.config(), script);
    let mut client = running.connect();
    let id = running.wait_opened();
    let bytes = pattern(BACKLOG, 1);
    let given = BytesMut::from(&bytes[..]);
    running.with(id, move |out| out.give(given));
    running.some_turns();
    assert!(
        running.with(id, |out| out.unsent()).expect("open") > 0,
        "the kernel has accepted 16 MiB"
    );
    assert!(running.events_so_far().is_empty(), "drained too early");
    expect(&mut client, &bytes);
    expect(&mut client, b"drained");
    if case.kind != EngineKind::TokioUring {
        running.some_turns();
        running.with(id, |out| out.close(CloseMode::Flush));
        assert_eq!(read_to_end(&mut client), b"", "drained twice");
    }
    running.finish();
}

/// `closed` comes later than the call that ends the connection, and once for each.
pub(crate) fn closed_comes_once_and_never_within_another_call(case: &Case) {
    let (script, calls) =
        Script::default().received(|_, _, out| out.close(CloseMode::Abort)).noting_calls();
    let running = Running::start(case, case.config(), script);
    let clients: Vec<_> = (0..3).map(|_| running.connect()).collect();
    let ids: Vec<_> = clients.iter().map(|_| running.wait_opened()).collect();
    let [by_worker, by_output, by_command] = ids[..] else { panic!("three connections") };
    running.ask(move |w| {
        w.abort(by_worker);
        w.abort(by_worker);
        assert!(w.with(by_worker, |_, _| {}).is_none(), "it has ended");
        w.with(by_output, |_, out| out.close(CloseMode::Abort));
        w.abort(by_output);
        assert_eq!(w.connections(), 3, "nothing was reported within the call");
    });
    for _ in 0..2 {
        running.wait_for(|e| matches!(e, Event::Closed(_, Cause::Closed)).then_some(()));
    }
    (&clients[2]).write_all(b"x").expect("write");
    running.wait_closed(by_command);
    running.some_turns();
    assert_eq!(calls.lock().expect("lock").iter().filter(|&&call| call == "closed").count(), 3);
    let (counters, _) = running.finish();
    assert_eq!((counters.accepted, counters.closed), (3, 3));
}

pub(crate) fn an_alarm_in_the_past_fires_in_the_next_turn(case: &Case) {
    let (script, calls) = Script::default().noting_calls();
    let (script, at_turn_end) = with_commands_at_turn_end(script);
    let running = Running::start(case, case.clients_only(), script);
    for _ in 0..20 {
        let noted = calls.clone();
        let command = move |w: &mut Worker<'_, Stage>| {
            w.set_alarm(Some(w.now()));
            noted.lock().expect("lock").clear();
        };
        *at_turn_end.lock().expect("lock") = Some(Box::new(command));
        running.ask(|_| {});
        running.wait_for(|e| matches!(e, Event::Alarm(_)).then_some(()));
        let calls = calls.lock().expect("lock").clone();
        let turns_before = calls.iter().take_while(|&&call| call != "alarm");
        assert_eq!(turns_before.filter(|&&call| call == "turn_end").count(), 0, "{calls:?}");
    }
    running.finish();
}

pub(crate) fn wakes_of_one_call_are_reported_together(case: &Case) {
    let running = Running::start(case, case.clients_only(), Script::default());
    for _ in 0..20 {
        let remote = running.remote.clone();
        running.ask(move |_| (0..6).for_each(|bit| remote.wake(1 << bit)));
        match running.event() {
            Event::Woken(bits) => assert_eq!(bits, 0b11_1111, "in parts"),
            other => panic!("{other:?}"),
        }
    }
    running.finish();
}

/// Neither a connect that fails at once nor one that succeeds is reported in the turn of the call.
pub(crate) fn the_outcome_of_a_connect_comes_in_a_later_turn(case: &Case) {
    let listener = TcpListener::bind(loopback(0)).expect("bind");
    let to = listener.local_addr().expect("address");
    let (script, calls) = Script::default().noting_calls();
    let running = Running::start(case, case.clients_only(), script);
    for from in [None, Some(unroutable())] {
        let noted = calls.clone();
        running.ask(move |w| {
            noted.lock().expect("lock").clear();
            w.connect(Connect { to, from, tag: 1, timeout: LIMIT });
        });
        running
            .wait_for(|e| matches!(e, Event::Opened(..) | Event::ConnectFailed(..)).then_some(()));
        let calls = calls.lock().expect("lock").clone();
        assert_eq!(calls[0], "turn_end", "{calls:?}");
    }
    running.finish();
}

pub(crate) fn with_finds_no_connection_that_is_closing_or_gone(case: &Case) {
    let mut config = case.config();
    config.linger.time = Duration::from_secs(3600);
    let running = Running::start(case, config, Script::default());
    let mut client = running.connect();
    let id = running.wait_opened();
    let is_found = |id| running.with(id, |_| {}).is_some();
    assert!(is_found(id));
    running.with(id, |out| {
        out.give(BytesMut::from(&pattern(16 << 20, 2)[..]));
        out.close(CloseMode::Flush);
    });
    assert!(!is_found(id), "draining");
    read_to_end(&mut client);
    running.some_turns();
    assert!(!is_found(id), "lingering");
    drop(client);
    running.wait_closed(id);
    assert!(!is_found(id), "gone");
    running.finish();
}

pub(crate) fn an_abort_discards_the_output_of_a_draining_connection(case: &Case) {
    let running = Running::start(case, case.config(), Script::default());
    let mut client = running.connect();
    let id = running.wait_opened();
    running.with(id, |out| {
        out.give(BytesMut::from(&pattern(16 << 20, 3)[..]));
        out.close(CloseMode::Flush);
    });
    running.some_turns();
    running.ask(move |w| w.abort(id));
    assert!(matches!(running.wait_closed(id), Cause::Closed));
    let mut bytes = Vec::new();
    // The rest of the connection may be a FIN or a reset.
    let _ = client.read_to_end(&mut bytes);
    assert!(bytes.len() < 16 << 20, "everything was sent");
    running.finish();
}

pub(crate) fn load_counts_connections_pauses_and_unsent_bytes(case: &Case) {
    let running = Running::start(case, case.config(), Script::default());
    let clients: Vec<_> = (0..3).map(|_| running.connect()).collect();
    let ids: Vec<_> = clients.iter().map(|_| running.wait_opened()).collect();
    let load = running.ask(|w| w.load());
    assert_eq!((load.connections, load.not_read, load.unsent), (3, 0, 0));
    running.with(ids[0], |out| out.pause());
    running.with(ids[1], |out| out.give(BytesMut::from(&pattern(16 << 20, 4)[..])));
    running.some_turns();
    let id = ids[1];
    let (load, unsent) = running.ask(move |w| (w.load(), w.with(id, |_, out| out.unsent())));
    let unsent = unsent.expect("open") as u64;
    assert!(
        unsent > 0 && (load.connections, load.not_read, load.unsent) == (3, 2, unsent),
        "{load:?}"
    );
    running.finish();
}

/// `unsent` counts the output of this call, and that of earlier calls in the turn.
pub(crate) fn unsent_counts_the_output_of_the_turn(case: &Case) {
    let running = Running::start(case, case.config(), Script::default());
    let _client = running.connect();
    let id = running.wait_opened();
    let counted = running.ask(move |w| {
        let first = w.with(id, |_, out| {
            let before = out.unsent();
            out.append(&[1; 100]);
            out.give(BytesMut::from(&[2; 50][..]));
            (before, out.unsent())
        });
        (first, w.with(id, |_, out| out.unsent()))
    });
    assert_eq!(counted, (Some((0, 150)), Some(150)));
    running.finish();
}

pub(crate) fn a_given_buffer_returns_to_the_pool_when_it_is_sent(case: &Case) {
    let running = Running::start(case, case.config(), Script::default());
    let mut client = running.connect();
    let id = running.wait_opened();
    let bytes = pattern(20_000, 5);
    let given = BytesMut::from(&bytes[..]);
    running.with(id, move |out| out.give(given));
    expect(&mut client, &bytes);
    let since = Instant::now();
    // The peer has everything; the engine may learn it a moment later.
    while running.with(id, |out| {
        let buffer = out.buffer();
        let capacity = buffer.capacity();
        out.recycle(buffer);
        capacity
    }) < Some(20_000)
    {
        assert!(since.elapsed() < LIMIT, "the buffer does not come back");
    }
    running.finish();
}

/// The clock advances within a turn, and the time of the turn does not.
pub(crate) fn the_clock_goes_on_while_the_time_of_a_turn_stays(case: &Case) {
    let running = Running::start(case, case.clients_only(), Script::default());
    let mut last = running.ask(|w| w.now());
    for _ in 0..20 {
        last = running.ask(move |w| {
            let begun = w.now();
            assert!(begun >= last, "time runs backwards");
            let read = w.clock();
            while w.clock() <= read {}
            assert!(read >= begun && w.now() == begun);
            begun
        });
    }
    running.finish();
}
