//! Runs seeds, one after the other.

use std::net::SocketAddr;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};

use engine::sim::{Bounds, Happened, Random, SimulatedWorker, Simulation, Step, Violation};
use engine::{Config, SpreadMember};

use crate::STOP;
use crate::client::Client;
use crate::plan::{Setting, like};
use crate::server::Server;
use crate::story::{Stories, stories};

/// Number of seeds in an ordinary test run.
const SEEDS: u64 = 2_000;

/// Limit of steps, far more than any seed takes.
const STEPS: u64 = 2_000_000;

/// Runs a seed. The error names the fault and the state.
pub(crate) fn run(seed: u64) -> Result<Happened, String> {
    run_with(seed, |_| {})
}

/// Runs a seed with a changed setting.
pub(crate) fn run_with(seed: u64, change: fn(&mut Setting)) -> Result<Happened, String> {
    let run = AssertUnwindSafe(|| Seed::new(seed, change).run());
    catch_unwind(run).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        Err(text.or(panic.downcast_ref::<&str>().copied()).unwrap_or("a panic").to_owned())
    })
}

struct Seed {
    random: Random,
    setting: Setting,
    /// Configurations of the server's workers.
    servers: Vec<Config>,
    sim: Simulation,
    stories: Stories,
    addr: SocketAddr,
}

impl Seed {
    fn new(seed: u64, change: fn(&mut Setting)) -> Self {
        let mut random = Random::new(seed);
        let mut setting = Setting::draw(&mut random);
        change(&mut setting);
        let mut sim = Simulation::new(random.word(), setting.faults, STEPS);
        let addr = SocketAddr::from(([127, 0, 0, 1], 80));
        let mut ends = engine::spread(setting.servers);
        let servers = (0..setting.servers).map(|_| {
            let listener = sim.listener(addr, setting.peer_addresses).expect("a descriptor");
            let spread = ends.pop().filter(|_| setting.servers > 1);
            Config { listeners: vec![listener], spread, ..like(&setting.server) }
        });
        let servers = servers.collect();
        let stories = stories(&setting.plans);
        Self { random, setting, servers, sim, stories, addr }
    }

    fn run(mut self) -> Result<Happened, String> {
        let setting = &self.setting;
        let mut servers = Vec::new();
        for config in &self.servers {
            let random = Random::new(self.random.word());
            let server = Server::new(self.stories.clone(), random, setting.peer_addresses);
            servers
                .push(self.sim.worker(config, bounds(setting, false), server).expect("a worker"));
        }
        let client = Client::new(
            self.stories.clone(),
            Random::new(self.random.word()),
            self.addr,
            setting.parallel,
        );
        let mut client =
            self.sim.worker(&setting.client, bounds(setting, true), client).expect("a worker");
        let counts = || {
            let spread = self.servers[0].spread.as_ref();
            spread.map(SpreadMember::connections).unwrap_or_default()
        };
        self.sim =
            go(self.sim, setting, &mut servers, &mut client, counts).map_err(|violation| {
                let stories = self.stories.borrow();
                let open: Vec<_> =
                    stories.iter().filter(|s| s.is_open()).map(|s| format!("{s:?}\n")).collect();
                format!("{violation}{}", open.concat())
            })?;
        for story in self.stories.borrow().iter() {
            story.check(&self.sim, &self.setting)?;
        }
        Ok(self.sim.happened())
    }
}

type Run = Result<Simulation, Violation>;

/// Runs until all connections are gone, and then until the workers have ended. `counts` are those
/// of the spread.
fn go<'c>(
    mut sim: Simulation,
    setting: &Setting,
    servers: &mut [SimulatedWorker<'c, Server>],
    client: &mut SimulatedWorker<'c, Client>,
    counts: impl Fn() -> Vec<usize>,
) -> Run {
    let all = setting.plans.len();
    if let Some(turns) = setting.stop_after {
        let done =
            |sim: &Simulation, w: &[&mut dyn Step]| sim.happened().turns >= turns || all_gone(w);
        sim.run(&mut workers(servers, client), done)?;
    } else {
        sim.run(&mut workers(servers, client), |_, w| all_gone(w))?;
        let out = [&*client as &dyn Step].into_iter().chain(servers.iter().map(|s| s as &dyn Step));
        let out: usize = out.map(Step::buffers_out).sum();
        let wrong = if client.handler().over < all {
            Some("connections are missing".to_owned())
        } else if out > 0 {
            Some(format!("{out} buffers are out without connections"))
        } else if counts().iter().any(|&count| count > 0) {
            Some(format!("without connections the workers count {:?}", counts()))
        } else {
            None
        };
        if let Some(wrong) = wrong {
            return Err(sim.violation(&wrong, &workers(servers, client)));
        }
    }
    servers.iter().for_each(|server| server.wake(STOP));
    client.wake(STOP);
    sim.run(&mut workers(servers, client), |_, w| w.iter().all(|w| w.is_over()))?;
    Ok(sim)
}

fn workers<'w, 'c>(
    servers: &'w mut [SimulatedWorker<'c, Server>],
    client: &'w mut SimulatedWorker<'c, Client>,
) -> Vec<&'w mut (dyn Step + 'w)> {
    let servers = servers.iter_mut().map(|server| server as &mut dyn Step);
    std::iter::once(client as &mut dyn Step).chain(servers).collect()
}

fn all_gone(workers: &[&mut dyn Step]) -> bool {
    workers.iter().all(|w| w.connections() == 0 && w.is_waiting())
}

/// Returns the most bytes that a connection may hold: the high-water mark, and what one turn
/// receives or writes besides.
fn bounds(setting: &Setting, client: bool) -> Bounds {
    let config = if client { &setting.client } else { &setting.server };
    let turn = usize::from(config.uring.buffers) * config.uring.buffer_size as usize;
    let writes = setting.plans.iter().map(|p| p.window.min(p.total)).max().unwrap_or(0);
    let written = if client { writes } else { 2 * turn };
    Bounds { unsent: config.high_water + written + STASH_PIECE, stashed: 2 * turn }
}

/// Stashed bytes are delivered in pieces of at most this size.
const STASH_PIECE: usize = 16 << 10;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable)
        .ok()
        .map(|text| text.parse().unwrap_or_else(|e| panic!("{variable}={text}: {e}")))
}

/// Runs seeds on all processors; returns the first that fails, or the counts of all events.
fn run_all(seeds: Range<u64>) -> Result<Happened, (u64, String)> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get() as u64).min(8);
    let share = |first: u64| {
        let mut happened = Happened::default();
        for seed in seeds.clone().skip(first as usize).step_by(threads as usize) {
            happened += run(seed).map_err(|what| (seed, what))?;
        }
        Ok(happened)
    };
    let outcomes = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|first| scope.spawn(move || share(first))).collect();
        running.into_iter().map(|t| t.join().expect("panics are caught")).collect::<Vec<_>>()
    });
    let mut all = Happened::default();
    let mut failed = Vec::new();
    for outcome in outcomes {
        match outcome {
            Ok(more) => all += more,
            Err(failure) => failed.push(failure),
        }
    }
    failed.into_iter().min().map_or(Ok(all), Err)
}

#[test]
fn every_byte_comes_back_or_the_connection_fails_with_a_cause() {
    let seeds = match number("SPARRING_SIM_SEED") {
        Some(seed) => {
            println!("{:#?}", Seed::new(seed, |_| {}).setting);
            seed..seed + 1
        }
        None => 0..number("SPARRING_SIM_SEEDS").unwrap_or(SEEDS),
    };
    let happened = run_all(seeds.clone()).unwrap_or_else(|(seed, what)| {
        panic!(
            "seed {seed}: {what}\n\
             again with: SPARRING_SIM_SEED={seed} cargo test -p sparring-engine --test simulation every_byte"
        )
    });
    let table: Vec<String> =
        happened.named().iter().map(|(name, n)| format!("{name} {n}")).collect();
    println!("{} seeds: {}", seeds.end - seeds.start, table.join(", "));
    if seeds.contains(&(SEEDS - 1)) {
        let never = happened.named().into_iter().filter(|(_, n)| *n == 0).map(|(name, _)| name);
        assert_eq!(never.collect::<Vec<_>>(), [""; 0], "faults that never happened");
    }
}

#[test]
fn a_seed_repeats_itself() {
    for seed in [3, 4, 5, 6] {
        let runs = [run(seed), run(seed)].map(|r| r.map(|h| h.named()));
        assert_eq!(runs[0], runs[1]);
    }
}
