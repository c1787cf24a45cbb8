//! Faults that the simulation found in the engine, each with the setting that reproduces it.

use std::time::Duration;

use engine::sim::Faults;
use engine::{CloseMode, Linger, SendCompletions, Spin};

use crate::plan::{End, Setting};
use crate::seeds::run_with;

/// Checks that the first `seeds` seeds pass with a changed setting.
fn clean(seeds: u64, change: fn(&mut Setting)) {
    for seed in 0..seeds {
        if let Err(what) = run_with(seed, change) {
            panic!("seed {seed}: {what}");
        }
    }
}

/// Changes a setting so that no connection may fail; each test adds to the workers what it needs.
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

/// A connection was aborted with a send under way and more output waiting. The send's completion
/// went on with that output, which an aborted connection does not send, and nothing closed its
/// descriptor any more.
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

/// A submission that made room in a full queue also freed the message headers. The entry that then
/// found room kept its header there, and the next one overwrote it.
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

/// A spinning worker whose submission was refused took completions off the queue, and then waited
/// for further ones.
#[test]
fn a_spinning_worker_does_not_wait_with_completions_in_hand() {
    clean(200, |setting| {
        gentle(
            setting,
            Faults {
                failed_enters: 300,
                refused_sends: 200,
                short_submits: 300,
                ..Faults::default()
            },
        );
        setting.server.spin = Spin::For(Duration::from_micros(2));
        setting.client.spin = Spin::For(Duration::from_micros(2));
        setting.server.uring.sq_entries = 2;
    });
}

/// A connection that was closed gently lost its unsent output when the peer had sent as many bytes
/// as a linger discards.
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
