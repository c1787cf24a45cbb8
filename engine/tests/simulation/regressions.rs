//! Faults that the simulation found in the engine, each under the circumstances that it needs.

use std::time::Duration;

use engine::sim::Faults;
use engine::{CloseMode, Linger, SendCompletions, Spin};

use crate::plan::{End, Setting};
use crate::seeds::run_with;

/// All of so many seeds run clean under these circumstances.
fn clean(seeds: u64, change: fn(&mut Setting)) {
    for seed in 0..seeds {
        if let Err(what) = run_with(seed, change) {
            panic!("seed {seed}: {what}");
        }
    }
}

/// No connection may fail; what each worker is given besides is the test's.
fn gentle(setting: &mut Setting, faults: Faults) {
    setting.gentle = true;
    setting.faults = faults;
    setting.stop_after = None;
    setting.parallel = setting.parallel.min(setting.client.max_connects);
    for config in [&mut setting.server, &mut setting.client] {
        config.write_stall = Duration::ZERO;
        config.linger = Linger { bytes: 1 << 20, time: Duration::from_secs(2) };
    }
    setting.client.high_water = 1 << 20;
    for plan in &mut setting.plans {
        (plan.client, plan.server, plan.waits) = (End::Last, End::Last, false);
    }
}

/// A send with a completion was under way and more output waited when the connection was aborted: the send's completion went on
/// with the output that waited, which such a connection does not send, and nothing closed its descriptor any more.
#[test]
fn an_abort_with_a_send_and_a_backlog_under_way_closes() {
    clean(40, |setting| {
        gentle(setting, Faults { late_sends: true, ..Faults::default() });
        setting.server.uring.send_completions = SendCompletions::All;
        for plan in &mut setting.plans {
            (plan.server, plan.waits) = (End::After(plan.total / 2, CloseMode::Abort), true);
        }
    });
}

/// A submission that made room in a full queue also freed the message headers: that of the entry which then found room was
/// written over by the next one.
#[test]
fn a_full_queue_does_not_mix_messages_up() {
    clean(40, |setting| {
        gentle(setting, Faults::default());
        setting.server.uring.sq_entries = 2;
        setting.server.uring.send_completions = SendCompletions::Auto;
        setting.parallel = setting.client.max_connects.min(12);
        setting.server.max_accepted = 64;
    });
}

/// A spinning worker whose submission was refused took completions in, and then waited for further ones.
#[test]
fn a_spinning_worker_does_not_wait_with_completions_in_hand() {
    clean(200, |setting| {
        gentle(
            setting,
            Faults { failed_enters: 300, refused_sends: 200, short_submits: 300, ..Faults::default() },
        );
        setting.server.spin = Spin::For(Duration::from_micros(2));
        setting.client.spin = Spin::For(Duration::from_micros(2));
        setting.server.uring.sq_entries = 2;
    });
}

/// A connection that was closed gently lost what it had yet to send when the other end had sent as many bytes as a linger
/// discards.
#[test]
fn a_gentle_close_sends_everything_however_much_comes_in() {
    clean(40, |setting| {
        gentle(setting, Faults::default());
        setting.server.linger.bytes = 100;
        for plan in &mut setting.plans {
            (plan.server, plan.waits) = (End::After(plan.total / 2, CloseMode::Flush), true);
        }
    });
}
