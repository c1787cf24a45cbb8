//! Deadlines, the alarm, wakes. The tests never bound how late an event may be; they check that it
//! is never early.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use engine::Nanos;

use crate::stage::{Case, Event, Running, Script, round_trip};

pub(crate) fn deadlines_fire_once_and_never_early(case: &Case) {
    let due: Arc<Mutex<Vec<Nanos>>> = Arc::default();
    let set = due.clone();
    let script = Script::default().opened(move |_, out| {
        let mut due = set.lock().expect("lock");
        let at = out.now() + Duration::from_millis(20 + 15 * (due.len() as u64 % 7));
        due.push(at);
        out.set_deadline(Some(at));
    });
    let running = Running::start(case, case.config(), script);
    let mut clients = Vec::new();
    let mut ids = Vec::new();
    for _ in 0..30 {
        clients.push(running.connect());
    }
    let mut rung = Vec::new();
    while rung.len() < 30 {
        match running.event() {
            Event::Opened(id, _) => ids.push(id),
            Event::Deadline(id, now) => rung.push((id, now)),
            other => panic!("{other:?}"),
        }
    }
    let due = due.lock().expect("lock");
    for (id, now) in rung {
        let index = ids.iter().position(|i| *i == id).expect("opened");
        assert!(now >= due[index], "early by {:?}", due[index].since(now));
    }
    running.some_turns();
    let (_, events) = running.finish();
    assert!(events.iter().all(|e| matches!(e, Event::Closed(..))), "{events:?}");
}

pub(crate) fn a_deadline_moves_and_is_unset(case: &Case) {
    let running = Running::start(case, case.config(), Script::default());
    let (_first, _second) = (running.connect(), running.connect());
    let moved = running.wait_opened();
    let unset = running.wait_opened();
    let at = running.with(unset, |out| {
        out.set_deadline(Some(out.now() + Duration::from_millis(30)));
        out.now() + Duration::from_millis(150)
    });
    let at = at.expect("open");
    for ahead in [3_600_000, 20, 500, 40] {
        running.with(moved, move |out| {
            out.set_deadline(Some(out.now() + Duration::from_millis(ahead)));
        });
    }
    running.with(moved, move |out| out.set_deadline(Some(at)));
    running.with(unset, |out| out.set_deadline(None));
    match running.event() {
        Event::Deadline(id, now) => assert!(id == moved && now >= at),
        other => panic!("{other:?}"),
    }
    // A deadline in the past fires as well.
    running.with(unset, |out| out.set_deadline(Some(Nanos(1))));
    assert!(matches!(running.event(), Event::Deadline(id, _) if id == unset));
    running.finish();
}

/// Checks that deadlines that pass at once are spread over turns. Input that arrives meanwhile does
/// not wait for all of them.
pub(crate) fn a_turn_handles_few_of_many_deadlines(case: &Case) {
    const COUNT: usize = 200;
    let script = Script::default().deadline(|_, out| out.close(engine::CloseMode::Abort));
    let running = Running::start(case, case.config(), script);
    let _clients: Vec<_> = (0..COUNT).map(|_| running.connect()).collect();
    for _ in 0..COUNT {
        running.wait_opened();
    }
    running.ask(|w| {
        let at = w.now() + Duration::from_millis(50);
        for id in w.ids() {
            w.with(id, |_, out| out.set_deadline(Some(at)));
        }
    });
    let (mut of_turns, mut closed) = (std::collections::HashMap::new(), 0);
    while closed < COUNT {
        match running.event() {
            Event::Deadline(_, now) => *of_turns.entry(now.0).or_insert(0) += 1,
            Event::Closed(..) => closed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(of_turns.values().sum::<usize>(), COUNT);
    assert!(of_turns.values().all(|&deadlines| deadlines <= 32), "{of_turns:?}");
    running.finish();
}

pub(crate) fn alarms_fire_once_and_never_early(case: &Case) {
    let running = Running::start(case, case.clients_only(), Script::default());
    for micros in [0, 1, 100, 3_000, 25_000] {
        let at = running.ask(move |w| {
            let at = w.clock() + Duration::from_micros(micros);
            w.set_alarm(Some(at));
            at
        });
        match running.event() {
            Event::Alarm(now) => assert!(now >= at, "early by {:?}", at.since(now)),
            other => panic!("{other:?}"),
        }
    }
    // Of a replaced deadline only the later one fires. An unset deadline does not fire.
    let at = running.ask(|w| {
        w.set_alarm(Some(w.now() + Duration::from_millis(5)));
        let at = w.now() + Duration::from_millis(60);
        w.set_alarm(Some(at));
        at
    });
    assert!(matches!(running.event(), Event::Alarm(now) if now >= at));
    running.ask(|w| {
        w.set_alarm(Some(w.now() + Duration::from_millis(20)));
        w.set_alarm(None);
    });
    std::thread::sleep(Duration::from_millis(60));
    running.some_turns();
    let (_, events) = running.finish();
    assert!(events.is_empty(), "{events:?}");
}

pub(crate) fn wakes_are_joined_and_never_lost(case: &Case) {
    let running = Running::start(case, case.clients_only(), Script::default());
    let threads: Vec<_> = (0..8)
        .map(|bit| {
            let remote = running.remote.clone();
            std::thread::spawn(move || {
                for round in 0..50 {
                    if round == 49 {
                        remote.wake(1 << (bit + 8));
                    }
                    remote.wake(1 << bit);
                }
            })
        })
        .collect();
    let mut seen = 0;
    while seen != 0xffff {
        match running.event() {
            Event::Woken(bits) => seen |= bits,
            other => panic!("{other:?}"),
        }
    }
    for thread in threads {
        thread.join().expect("waker");
    }
    running.finish();
}

pub(crate) fn one_clock_read_for_a_turn(case: &Case) {
    let times: Arc<Mutex<Vec<Nanos>>> = Arc::default();
    let (inside, at_end) = (times.clone(), times.clone());
    let script = Script::default()
        .received(move |_, bytes, out| {
            inside.lock().expect("lock").push(out.now());
            out.echo(0..bytes.len());
        })
        .turn_end(move |w| {
            // Every receive of this turn saw the turn's own time.
            assert!(at_end.lock().expect("lock").drain(..).all(|t| t == w.now()));
            assert!(w.clock() >= w.now());
        });
    let running = Running::start(case, case.config(), script);
    let mut clients: Vec<_> = (0..10).map(|_| running.connect()).collect();
    for _ in 0..20 {
        for client in &mut clients {
            round_trip(client, b"tick");
        }
    }
    running.finish();
}
