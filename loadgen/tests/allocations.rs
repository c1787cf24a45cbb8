//! No allocation per message in steady state on the generator's threads.

#![allow(unsafe_code, reason = "a global allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use engine::EngineKind;
use loadgen::load::Payload;
use loadgen::run::{Phase, Plan, Progress, Snapshot, execute};

#[path = "run/echo.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    reason = "shared with the other tests, which use the rest of it"
)]
mod echo;

use echo::{Echo, Fault};

/// Allocations on the generator's threads: those that are neither a server's nor a test's.
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

std::thread_local! {
    static IS_TEST: Cell<bool> = const { Cell::new(false) };
}

struct Counting;

impl Counting {
    fn count() {
        // A thread that is ending may have no locals any more; its allocations do not matter.
        let is_other = IS_TEST.try_with(Cell::get).unwrap_or(true)
            || echo::SERVES.try_with(Cell::get).unwrap_or(true);
        if !is_other {
            ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        }
    }
}

// SAFETY: every call goes on to `System` unchanged, which upholds the contract. Counting allocates
// nothing, because the thread locals are constants without destructors.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::count();
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        Self::count();
        // SAFETY: as above.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Allocation counts at the first and the last check within the measured window.
#[derive(Default)]
struct Watch {
    first: Option<(u64, u64)>,
    last: (u64, u64),
}

impl Progress for Watch {
    fn tick(&mut self, at: &Snapshot) {
        if at.phase == Phase::Measure {
            self.last = (ALLOCATIONS.load(Ordering::Relaxed), at.received);
            self.first.get_or_insert(self.last);
        }
    }
}

fn assert_steady(url: &str, engine: EngineKind, change: impl Fn(&mut Plan), what: &str) {
    let mut plan = Plan::new(url.parse().expect("url"), engine).with(|plan| {
        plan.load.connections = 8;
        plan.load.pipeline = 4;
        plan.load.settle = Duration::ZERO;
        plan.load.warmup = Duration::from_millis(500);
        plan.load.measure = Duration::from_secs(1);
        plan.load.answer_timeout = Duration::from_secs(30);
    });
    change(&mut plan);
    let mut watch = Watch::default();
    let run = execute(&plan, &mut watch).expect("a result");
    let (before, received_before) = watch.first.expect("the window was looked at");
    let (after, received) = watch.last;
    assert!(received > received_before && run.integrity.total() == 0);
    let (allocations, messages) = (after - before, received - received_before);
    println!("{what} on {engine}: {allocations} allocations for {messages} messages");
    // A buffer that reaches its final size late does not allocate for every message. Nor does the
    // histogram of a second (two blocks of memory), and the window may have begun before the first
    // check.
    let spare = 4 + doublings(&plan);
    assert!(
        allocations.saturating_sub(spare) * 1000 <= messages,
        "{what} on {engine}: {allocations} for {messages} messages"
    );
}

/// Returns the number of times that the rings of all connections' outstanding messages may double
/// in an open loop, from 4 slots on. When the machine stands still for some milliseconds, overdue
/// messages are sent at once, and the rings grow to hold them.
fn doublings(plan: &Plan) -> u64 {
    let each = plan.load.rate_per_s.map_or(0, |_| (plan.load.max_outstanding / 4).ilog2());
    u64::from(each * plan.load.connections)
}

/// There is one test: the count belongs to the process.
#[test]
fn the_generator_allocates_nothing_in_steady_state() {
    IS_TEST.set(true);
    for engine in [EngineKind::Uring, EngineKind::Epoll] {
        if let Err(reason) = engine.probe() {
            println!("skipped: {engine}: {reason}");
            continue;
        }
        let small = |_: &mut Plan| {};
        assert_steady(&Echo::ws(Fault::None).ws_url(), engine, small, "small messages");
        assert_steady(&Echo::ws(Fault::Fragments).ws_url(), engine, small, "fragments and pings");
        let open = |plan: &mut Plan| plan.load.rate_per_s = Some(20_000.0);
        assert_steady(&Echo::ws(Fault::None).ws_url(), engine, open, "an open loop");
        let text = |plan: &mut Plan| plan.load.payload = Payload::TextMixed;
        assert_steady(&Echo::ws(Fault::Trickle).ws_url(), engine, text, "single bytes");
        let spanning = |plan: &mut Plan| {
            (plan.load.message_bytes, plan.load.payload) = (5000.into(), Payload::TextMixed);
        };
        assert_steady(
            &Echo::ws(Fault::None).ws_url(),
            engine,
            spanning,
            "messages longer than a buffer",
        );
        let large = |plan: &mut Plan| {
            (plan.load.message_bytes, plan.load.pipeline) = ((64 << 10).into(), 1);
        };
        assert_steady(&Echo::ws(Fault::None).ws_url(), engine, large, "64 KiB");
        let raw = |plan: &mut Plan| plan.load.message_bytes = 38.into();
        assert_steady(&Echo::tcp(38, Fault::None).tcp_url(), engine, raw, "raw bytes");
    }
    assert!(ALLOCATIONS.load(Ordering::Relaxed) > 0, "setting up allocates: the counter counts");
}
