//! Ends of connections: `closed` once for each, with the right cause, and nothing after it.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use engine::{Cause, CloseMode};

use crate::stage::{Case, Event, LIMIT, Running, Script, expect, pattern, read_to_end, round_trip};

pub(crate) fn nothing_sent_at_all(case: &Case) {
    let running = Running::echo(case);
    let client = running.connect();
    let id = running.wait_opened();
    drop(client);
    assert!(matches!(running.event(), Event::Eof(eof) if eof == id));
    assert!(matches!(running.event(), Event::Closed(closed, Cause::PeerClosed) if closed == id));
    let (counters, events) = running.finish();
    assert!(events.is_empty(), "{events:?}");
    assert_eq!((counters.bytes_in, counters.bytes_out), (0, 0));
}

pub(crate) fn the_client_half_closes_and_still_reads(case: &Case) {
    let script =
        Script::default().received(|_, bytes, out| out.echo(0..bytes.len())).eof(|_, out| {
            out.append(b", and a farewell");
            out.close(CloseMode::Flush);
        });
    let running = Running::start(case, case.config(), script);
    let mut client = running.connect();
    let id = running.wait_opened();
    client.write_all(b"question").expect("write");
    client.shutdown(Shutdown::Write).expect("shutdown");
    assert_eq!(read_to_end(&mut client), b"question, and a farewell");
    assert!(matches!(running.wait_closed(id), Cause::PeerClosed));
    running.finish();
}

pub(crate) fn half_open_until_the_handler_closes(case: &Case) {
    let running = Running::start(case, case.config(), Script::default());
    let mut client = running.connect();
    let id = running.wait_opened();
    client.shutdown(Shutdown::Write).expect("shutdown");
    running.wait_for(|e| matches!(e, Event::Eof(_)).then_some(()));
    for round in 0..20 {
        let bytes = pattern(5000, round);
        let sent = bytes.clone();
        assert!(running.with(id, move |out| out.append(&sent)).is_some(), "half-open is open");
        expect(&mut client, &bytes);
    }
    running.some_turns();
    // A call that came before the engine knew of the end of its last write may be followed by a
    // `drained`.
    assert!(running.events_so_far().iter().all(|e| matches!(e, Event::Drained(_))));
    running.with(id, |out| out.close(CloseMode::Flush));
    assert_eq!(read_to_end(&mut client), b"");
    assert!(matches!(running.wait_closed(id), Cause::PeerClosed));
    running.finish();
}

pub(crate) fn the_server_half_closes_and_discards(case: &Case) {
    let script = Script::default().opened(|_, out| {
        out.append(b"bye");
        out.close(CloseMode::Flush);
    });
    let running = Running::start(case, case.config(), script);
    let mut client = running.connect();
    assert_eq!(read_to_end(&mut client), b"bye");
    client.write_all(&pattern(100_000, 1)).expect("the server still reads");
    let id = running.wait_opened();
    running.some_turns();
    assert!(running.events_so_far().is_empty(), "bytes after the close are discarded");
    assert_eq!(running.ask(|w| (w.connections(), w.ids().len())), (1, 0), "closing is not open");
    assert!(running.with(id, |_| {}).is_none(), "closing is not open");
    drop(client);
    assert!(matches!(running.wait_closed(id), Cause::PeerClosed));
    assert_eq!(running.ask(|w| w.connections()), 0);
    running.finish();
}

/// Closes with a reset in place of a FIN.
fn reset(client: std::net::TcpStream) {
    rustix::net::sockopt::set_socket_linger(&client, Some(Duration::ZERO)).expect("linger");
    drop(client);
}

pub(crate) fn reset_by_the_peer(case: &Case) {
    let running = Running::echo(case);
    let mut bystander = running.connect();
    running.wait_opened();
    let mut client = running.connect();
    let id = running.wait_opened();
    round_trip(&mut client, b"one");
    reset(client);
    assert!(matches!(running.wait_closed(id), Cause::Reset));
    round_trip(&mut bystander, b"unharmed");
    running.finish();
}

pub(crate) fn reset_while_bytes_wait(case: &Case) {
    let running = Running::start(case, case.config(), Script::default());
    let client = running.connect();
    let id = running.wait_opened();
    running.with(id, |out| out.give(BytesMut::from(&pattern(16 << 20, 2)[..])));
    assert!(running.with(id, |out| out.unsent()).expect("open") > 0);
    reset(client);
    assert!(matches!(running.wait_closed(id), Cause::Reset));
    running.finish();
}

pub(crate) fn abort_in_the_first_output(case: &Case) {
    let script = Script::default().opened(|_, out| {
        out.append(b"never seen");
        out.close(CloseMode::Flush);
        out.close(CloseMode::Abort);
    });
    let running = Running::start(case, case.config(), script);
    for _ in 0..20 {
        let mut client = running.connect();
        let id = running.wait_opened();
        assert!(matches!(running.wait_closed(id), Cause::Closed));
        let mut bytes = Vec::new();
        match client.read_to_end(&mut bytes) {
            Ok(_) => assert!(bytes.is_empty()),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
    }
    let (counters, events) = running.finish();
    assert!(events.is_empty(), "{events:?}");
    assert_eq!((counters.accepted, counters.closed, counters.bytes_out), (20, 20, 0));
}

pub(crate) fn abort_drops_what_is_unsent(case: &Case) {
    let running = Running::start(case, case.config(), Script::default());
    let mut client = running.connect();
    let id = running.wait_opened();
    running.with(id, |out| out.give(BytesMut::from(&pattern(16 << 20, 3)[..])));
    running.with(id, |out| out.close(CloseMode::Abort));
    assert!(running.with(id, |_| {}).is_none(), "aborted");
    assert!(matches!(running.wait_closed(id), Cause::Closed));
    let mut bytes = Vec::new();
    if let Err(error) = client.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "not ended");
    }
    assert!(bytes.len() < 16 << 20, "everything was sent");
    running.finish();
}

pub(crate) fn flush_sends_everything(case: &Case) {
    let script = Script::default().opened(|_, out| {
        out.append(b"head");
        out.give(BytesMut::from(&pattern(8 << 20, 4)[..]));
        out.append(b"tail");
        out.close(CloseMode::Flush);
    });
    let running = Running::start(case, case.config(), script);
    let mut client = running.connect();
    let id = running.wait_opened();
    running.some_turns();
    let bytes = read_to_end(&mut client);
    assert_eq!(bytes.len(), (8 << 20) + 8);
    assert!(bytes[..4] == *b"head" && bytes[bytes.len() - 4..] == *b"tail");
    assert!(bytes[4..bytes.len() - 4] == pattern(8 << 20, 4)[..]);
    drop(client);
    assert!(matches!(running.wait_closed(id), Cause::PeerClosed));
    running.finish();
}

/// Covers a client that has sent its FIN before the server closes: nothing is left to wait for.
pub(crate) fn flush_after_eof_ends_at_once(case: &Case) {
    let mut config = case.config();
    config.linger.time = Duration::from_secs(3600);
    let running = Running::start(case, config, Script::default());
    let client = running.connect();
    let id = running.wait_opened();
    client.shutdown(Shutdown::Write).expect("shutdown");
    running.wait_for(|e| matches!(e, Event::Eof(_)).then_some(()));
    running.with(id, |out| {
        out.append(b"last");
        out.close(CloseMode::Flush);
    });
    assert!(matches!(running.wait_closed(id), Cause::PeerClosed));
    let mut client = client;
    assert_eq!(read_to_end(&mut client), b"last");
    running.finish();
}

/// Echoes into a close that does not wait for the peer.
fn finishing() -> Script {
    Script::default().received(|_, bytes, out| {
        out.echo(0..bytes.len());
        out.close(CloseMode::Finish);
    })
}

/// Settings of a worker that would linger without end.
fn lingering_for_ever(case: &Case) -> engine::Config {
    let mut config = case.config();
    config.linger = engine::Linger { bytes: u64::MAX, time: Duration::from_secs(3600) };
    config
}

/// Checks that the FIN follows the output, and that the peer's FIN is not awaited.
pub(crate) fn finish_sends_everything_and_does_not_wait(case: &Case) {
    let script = Script::default().received(|_, bytes, out| {
        out.echo(0..bytes.len());
        out.give(BytesMut::from(&pattern(8 << 20, 4)[..]));
        out.append(b"tail");
        out.close(CloseMode::Finish);
    });
    let running = Running::start(case, lingering_for_ever(case), script);
    for _ in 0..3 {
        let mut client = running.connect();
        let id = running.wait_opened();
        client.write_all(b"head").expect("write");
        let bytes = read_to_end(&mut client);
        assert_eq!(bytes.len(), (8 << 20) + 8);
        assert!(bytes[..4] == *b"head" && bytes[bytes.len() - 4..] == *b"tail");
        assert!(bytes[4..bytes.len() - 4] == pattern(8 << 20, 4)[..]);
        // The client still has its end open.
        assert!(matches!(running.wait_closed(id), Cause::Closed));
    }
    running.finish();
}

pub(crate) fn finish_after_eof_ends_as_closed_by_the_peer(case: &Case) {
    let running = Running::start(case, lingering_for_ever(case), Script::default());
    let mut client = running.connect();
    let id = running.wait_opened();
    client.shutdown(Shutdown::Write).expect("shutdown");
    running.wait_for(|e| matches!(e, Event::Eof(_)).then_some(()));
    running.with(id, |out| {
        out.append(b"last");
        out.close(CloseMode::Finish);
    });
    assert!(matches!(running.wait_closed(id), Cause::PeerClosed));
    assert_eq!(read_to_end(&mut client), b"last");
    running.finish();
}

/// Covers connections whose receive is not armed: paused, and closed in the first call.
pub(crate) fn finish_needs_no_receive(case: &Case) {
    let script = Script::default().opened(|_, out| {
        out.append(b"first and last");
        out.close(CloseMode::Finish);
    });
    let running = Running::start(case, lingering_for_ever(case), script);
    let mut client = running.connect();
    assert_eq!(read_to_end(&mut client), b"first and last");
    let id = running.wait_opened();
    assert!(matches!(running.wait_closed(id), Cause::Closed));
    running.finish();

    let running = Running::start(case, lingering_for_ever(case), Script::default());
    let mut client = running.connect();
    let id = running.wait_opened();
    running.with(id, |out| out.pause());
    running.some_turns();
    running.with(id, |out| {
        out.append(b"out of the pause");
        out.close(CloseMode::Finish);
    });
    assert_eq!(read_to_end(&mut client), b"out of the pause");
    assert!(matches!(running.wait_closed(id), Cause::Closed));
    running.finish();
}

pub(crate) fn bytes_after_a_finish_are_answered_by_a_reset(case: &Case) {
    let running = Running::start(case, lingering_for_ever(case), finishing());
    let mut client = running.connect();
    let id = running.wait_opened();
    client.write_all(b"last").expect("write");
    assert_eq!(read_to_end(&mut client), b"last");
    assert!(matches!(running.wait_closed(id), Cause::Closed));
    client.write_all(b"late").expect("the first write finds a socket that can send");
    let error = std::iter::repeat_with(|| client.write_all(b"later"))
        .find_map(Result::err)
        .expect("an error");
    assert!(matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{error}");
    let (counters, events) = running.finish();
    assert!(events.iter().all(|e| matches!(e, Event::Drained(_))), "{events:?}");
    assert_eq!(counters.bytes_in, 4);
}

pub(crate) fn a_finish_to_a_peer_that_does_not_read_is_bounded(case: &Case) {
    let mut config = lingering_for_ever(case);
    config.write_stall = Duration::from_millis(100);
    let running = Running::start(case, config, Script::default());
    let client = running.connect();
    let id = running.wait_opened();
    running.with(id, |out| {
        out.give(BytesMut::from(&pattern(16 << 20, 9)[..]));
        out.close(CloseMode::Finish);
    });
    assert!(matches!(running.wait_closed(id), Cause::WriteStalled));
    drop(client);
    running.finish();
}

/// Checks that no close needs a thread of the kernel, which would share the worker's processor.
pub(crate) fn finish_starts_no_thread_of_the_kernel(case: &Case) {
    let running = Running::start(case, lingering_for_ever(case), finishing());
    let worker = running.ask(|_| rustix::thread::gettid());
    for _ in 0..50 {
        let mut client = running.connect();
        let id = running.wait_opened();
        client.write_all(b"last").expect("write");
        assert_eq!(read_to_end(&mut client), b"last");
        assert!(matches!(running.wait_closed(id), Cause::Closed));
    }
    let of_this_worker = format!("iou-wrk-{}", worker.as_raw_nonzero());
    for task in std::fs::read_dir("/proc/self/task").expect("the list of threads") {
        // Threads of other tests may end meanwhile.
        let name = std::fs::read_to_string(task.expect("a thread").path().join("comm"));
        assert_ne!(name.unwrap_or_default().trim_end(), of_this_worker);
    }
    running.finish();
}

pub(crate) fn lingering_is_bounded_in_time(case: &Case) {
    let mut config = case.config();
    config.linger.time = Duration::from_millis(120);
    let script = Script::default().opened(|_, out| out.close(CloseMode::Flush));
    let since = Instant::now();
    let running = Running::start(case, config, script);
    let client = running.connect();
    let id = running.wait_opened();
    assert!(matches!(running.wait_closed(id), Cause::Closed));
    assert!(since.elapsed() >= Duration::from_millis(120), "too early");
    drop(client);
    running.finish();
}

pub(crate) fn an_abort_ends_what_closes_gently(case: &Case) {
    let mut config = case.config();
    config.linger.time = Duration::from_secs(3600);
    let script = Script::default().opened(|_, out| {
        out.append(b"farewell");
        out.close(CloseMode::Flush);
    });
    let running = Running::start(case, config, script);
    let mut client = running.connect();
    let id = running.wait_opened();
    assert_eq!(read_to_end(&mut client), b"farewell");
    running.ask(move |w| w.abort(id));
    assert!(matches!(running.wait_closed(id), Cause::Closed));
    // The connection is gone: the abort does nothing, and does not affect the connection that has
    // its slot now.
    let mut next = running.connect();
    running.wait_opened();
    running.ask(move |w| w.abort(id));
    assert_eq!(read_to_end(&mut next), b"farewell");
    running.finish();
}

pub(crate) fn lingering_is_bounded_in_bytes(case: &Case) {
    let mut config = case.config();
    config.linger.time = Duration::from_secs(3600);
    config.linger.bytes = 100_000;
    // What one turn has received already is discarded whole.
    (config.uring.buffers, config.uring.buffer_size) = (256, 4096);
    let script = Script::default().opened(|_, out| out.close(CloseMode::Flush));
    let running = Running::start(case, config, script);
    let mut client = running.connect();
    let id = running.wait_opened();
    let chunk = pattern(50_000, 5);
    // The server stops reading and closes: from then on writes fail.
    while client.write_all(&chunk).is_ok() {}
    assert!(matches!(running.wait_closed(id), Cause::Closed));
    let (counters, _) = running.finish();
    assert!(counters.bytes_in < 100_000 + (4 << 20), "{} bytes read", counters.bytes_in);
}

pub(crate) fn closing_ends_all_calls(case: &Case) {
    let script = Script::default().received(|_, bytes, out| {
        out.set_deadline(Some(out.now() + Duration::from_millis(20)));
        out.echo(0..bytes.len());
        out.close(CloseMode::Flush);
    });
    let mut config = case.config();
    config.linger.time = Duration::from_millis(200);
    let running = Running::start(case, config, script);
    let mut client = running.connect();
    let id = running.wait_opened();
    client.write_all(b"first").expect("write");
    expect(&mut client, b"first");
    client.write_all(b"second").expect("write");
    let mut seen = Vec::new();
    let cause = running.wait_for(|e| match e {
        Event::Closed(closed, cause) if closed == id => Some(cause),
        other => {
            seen.push(other);
            None
        }
    });
    assert!(matches!(cause, Cause::Closed), "{cause:?}");
    assert!(matches!(&seen[..], [Event::Received(_, bytes)] if bytes == b"first"), "{seen:?}");
    drop(client);
    running.finish();
}

/// Bytes and FIN arrive while paused: the engine reports neither before the handler resumes.
pub(crate) fn pause_holds_bytes_and_end_back(case: &Case) {
    let script = Script::default().received(|_, bytes, out| {
        if bytes.ends_with(b"stop") {
            out.pause();
        }
    });
    let running = Running::start(case, case.config(), script);
    let mut other = running.connect();
    running.wait_opened();
    let mut client = running.connect();
    let id = running.wait_opened();
    client.write_all(b"stop").expect("write");
    running.wait_for(|e| matches!(e, Event::Received(received, _) if received == id).then_some(()));
    let late = pattern(100_000, 6);
    client.write_all(&late).expect("write");
    client.shutdown(Shutdown::Write).expect("shutdown");
    for _ in 0..5 {
        // The other connection is served by now, so the engine would have reported anything of the
        // paused one.
        other.write_all(b"x").expect("write");
        running.wait_for(|e| match e {
            Event::Received(received, _) if received != id => Some(()),
            Event::Drained(_) => None,
            event => panic!("told while paused: {event:?}"),
        });
    }
    assert!(running.with(id, |out| out.append(b"still writes")).is_some());
    expect(&mut client, b"still writes");
    running.with(id, |out| out.resume());
    let mut bytes = Vec::new();
    running.wait_for(|e| match e {
        Event::Received(received, more) if received == id => {
            bytes.extend_from_slice(&more);
            None
        }
        Event::Eof(eof) if eof == id => Some(()),
        Event::Drained(_) => None,
        event => panic!("{event:?}"),
    });
    assert!(bytes == late);
    running.finish();
}

pub(crate) fn reset_while_paused(case: &Case) {
    for half_closes_first in [false, true] {
        let script = Script::default().received(|_, _, out| out.pause());
        let running = Running::start(case, case.config(), script);
        let mut client = running.connect();
        let id = running.wait_opened();
        client.write_all(b"stop").expect("write");
        running.wait_for(|e| matches!(e, Event::Received(..)).then_some(()));
        // Input that arrived before the reset is not read any more.
        client.write_all(&pattern(100_000, 7)).expect("write");
        if half_closes_first {
            client.shutdown(Shutdown::Write).expect("shutdown");
            running.some_turns();
        }
        reset(client);
        assert!(matches!(running.wait_closed(id), Cause::Reset));
        running.finish();
    }
}

/// Checks that a reset is detected in a later pause too, and that a receive reports one that
/// follows a pause.
pub(crate) fn reset_after_a_pause(case: &Case) {
    for paused_again in [false, true] {
        let running = Running::echo(case);
        let mut client = running.connect();
        let id = running.wait_opened();
        for _ in 0..3 {
            running.with(id, |out| out.pause());
            running.some_turns();
            running.with(id, |out| out.resume());
            round_trip(&mut client, b"goes on");
        }
        if paused_again {
            running.with(id, |out| out.pause());
            running.some_turns();
        }
        reset(client);
        assert!(matches!(running.wait_closed(id), Cause::Reset));
        running.finish();
    }
}

/// Pauses after every call, and resumes at the end of that turn or of the next: what was held back
/// comes before what arrives in the meantime.
pub(crate) fn pauses_between_all_calls_keep_the_order(case: &Case) {
    for a_turn_later in [false, true] {
        let paused = Arc::new(AtomicBool::new(false));
        let just_paused = paused.clone();
        let script = Script::default()
            .received(move |_, bytes, out| {
                out.echo(0..bytes.len());
                out.pause();
                just_paused.store(true, Ordering::Relaxed);
            })
            .turn_end(move |w| {
                if paused.swap(false, Ordering::Relaxed) && a_turn_later {
                    return w.set_alarm(Some(w.now()));
                }
                for id in w.ids() {
                    w.with(id, |_, out| out.resume());
                }
            });
        let running = Running::start(case, case.config(), script);
        let mut client = running.connect();
        let bytes = pattern(4 << 20, 8);
        let mut writer = client.try_clone().expect("a second handle");
        let sent = bytes.clone();
        let writing = std::thread::spawn(move || writer.write_all(&sent).expect("write"));
        expect(&mut client, &bytes);
        writing.join().expect("written");
        drop(client);
        running.finish();
    }
}

pub(crate) fn paused_from_the_first_call(case: &Case) {
    let script = Script::default().opened(|_, out| out.pause());
    let running = Running::start(case, case.config(), script);
    let mut client = running.connect();
    let id = running.wait_opened();
    client.write_all(b"early").expect("write");
    running.some_turns();
    assert!(running.events_so_far().is_empty());
    // Paused and resumed within a call: nothing changes.
    running.with(id, |out| {
        out.resume();
        out.pause();
    });
    running.some_turns();
    assert!(running.events_so_far().is_empty());
    running.with(id, |out| out.resume());
    let bytes =
        running.wait_for(|e| if let Event::Received(_, bytes) = e { Some(bytes) } else { None });
    assert_eq!(bytes, b"early");
    running.finish();
}

/// Pauses when the engine may have a receive under way already.
pub(crate) fn paused_between_two_messages(case: &Case) {
    let running = Running::echo(case);
    let mut other = running.connect();
    running.wait_opened();
    let mut client = running.connect();
    let id = running.wait_opened();
    for round in 0..10u8 {
        round_trip(&mut client, &[round]);
        running.with(id, |out| out.pause());
        running.events_so_far();
        client.write_all(b"held").expect("write");
        for _ in 0..3 {
            round_trip(&mut other, b"x");
        }
        let told = |e: &Event| matches!(e, Event::Received(received, _) if *received == id);
        assert!(!running.events_so_far().iter().any(told), "told while paused");
        running.with(id, |out| out.resume());
        expect(&mut client, b"held");
    }
    running.finish();
}

/// Drains as a server does: accepts no new connections, sends a last message to all, and stops when
/// all are closed.
pub(crate) fn a_drain_sends_a_last_message_to_all(case: &Case) {
    const COUNT: usize = 100;
    let running = Running::start(case, case.config(), Script::default());
    let mut clients: Vec<_> = (0..COUNT).map(|_| running.connect()).collect();
    let ids: Vec<_> = clients.iter().map(|_| running.wait_opened()).collect();
    // More for some than their sockets hold: it must leave before the last message does.
    let owed = pattern(6 << 20, 1);
    for id in ids.iter().take(3).copied() {
        let bytes = BytesMut::from(&owed[..]);
        running.with(id, move |out| out.give(bytes));
    }
    running.ask(|w| {
        w.listening(0, false);
        for id in w.ids() {
            w.with(id, |_, out| {
                out.append(b"going away");
                out.close(CloseMode::Flush);
            });
        }
    });
    let mut owing = 0;
    for client in &mut clients {
        let said = read_to_end(client);
        assert!(said.ends_with(b"going away"));
        owing += usize::from(said.len() == owed.len() + 10 && said.starts_with(&owed));
        client.shutdown(Shutdown::Write).expect("shutdown");
    }
    assert_eq!(owing, 3, "what was owed before has come as well");
    for _ in 0..COUNT {
        running.wait_for(|e| matches!(e, Event::Closed(_, Cause::PeerClosed)).then_some(()));
    }
    assert_eq!(running.ask(|w| w.connections()), 0);
    running.finish();
}

pub(crate) fn stop_closes_everything(case: &Case) {
    let mut running = Running::echo(case);
    let mut clients: Vec<_> = (0..20).map(|_| running.connect()).collect();
    for client in &mut clients {
        round_trip(client, b"here");
    }
    let since = Instant::now();
    running.ask(|w| {
        for id in w.ids() {
            w.with(id, |_, out| out.append(b"last words"));
        }
        w.stop();
    });
    let (counters, events) = running.join();
    assert!(since.elapsed() < LIMIT);
    let shut = events.iter().filter(|e| matches!(e, Event::Closed(_, Cause::Shutdown))).count();
    assert_eq!((shut, counters.closed), (20, 20));
    for client in &mut clients {
        assert_eq!(read_to_end(client), b"last words");
    }
}

pub(crate) fn stop_in_start(case: &Case) {
    let mut running = Running::start(case, case.config(), Script::default().start(|w| w.stop()));
    let (counters, events) = running.join();
    assert_eq!(counters.accepted, 0);
    assert!(events.is_empty());
}

/// A runtime that catches panics of its tasks must not leave a worker that runs on with half a
/// handler.
pub(crate) fn a_panic_of_the_handler_is_not_swallowed(case: &Case) {
    let script = Script::default().received(|_, _, _| panic!("on purpose"));
    let mut running = Running::start(case, case.config(), script);
    let mut client = running.connect();
    client.write_all(b"x").expect("write");
    assert!(running.wait_for_end().is_err(), "the run went on");
}
