//! One seed: a run's phases, as the coordinator goes through them, in a simulated world.

use std::net::SocketAddr;
use std::time::Duration;

use engine::sim::{Bounds, Random, SimulatedWorker, Simulation, Step as _, Violation};
use loadgen::result::Messages;
use loadgen::run::{Client, Counted, Rehearsal, WorkerEvent};
use server::{DRAIN, STOP, WebSocketEcho};

use crate::setting::Setting;

/// Limit of steps, far more than any seed takes.
const STEPS: u64 = 5_000_000;

pub(crate) struct Duel {
    setting: Setting,
    sim: Simulation,
    addr: SocketAddr,
    span: Duration,
}

impl Duel {
    pub(crate) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let mut setting = Setting::draw(&mut random);
        let span = Duration::from_micros(random.between(200, 3_000) as u64);
        let mut sim = Simulation::new(random.word(), setting.faults, STEPS);
        let addr = SocketAddr::from(([127, 0, 0, 1], 80));
        setting
            .server
            .listeners
            .push(sim.listener(addr, setting.peer_addresses).expect("a descriptor"));
        Self { setting, sim, addr, span }
    }

    pub(crate) fn setting(&self) -> &Setting {
        &self.setting
    }

    pub(crate) fn run(mut self) -> Result<Counted, String> {
        let setting = &self.setting;
        let (rehearsal, client) = Rehearsal::new(&setting.plan, vec![self.addr]);
        let echo = WebSocketEcho::new(setting.settings.clone());
        let mut server = self.sim.worker(&setting.server, bounds(setting), echo).expect("a worker");
        let mut client =
            self.sim.worker(&setting.client, bounds(setting), client).expect("a worker");
        phases(&mut self.sim, setting, &rehearsal, self.span, &mut client, &mut server)
            .map_err(|violation| violation.to_string())?;
        let echo_counters = server.into_handler().echo_counters();
        let outcome = Rehearsal::outcome(client.into_handler());
        check(setting, &outcome, echo_counters.messages, echo_counters.refused)
            .map_err(|what| format!("{what}: {outcome:?}, {echo_counters:?}"))?;
        Ok(outcome)
    }
}

/// Runs the phases: connecting, load, drain, the end of the client, the end of the server.
fn phases(
    sim: &mut Simulation,
    setting: &Setting,
    rehearsal: &Rehearsal,
    span: Duration,
    client: &mut SimulatedWorker<'_, Client>,
    server: &mut SimulatedWorker<'_, WebSocketEcho>,
) -> Result<(), Violation> {
    let connected = until_news(sim, rehearsal, client, server)?;
    if connected == WorkerEvent::Connected {
        client.wake(rehearsal.load(sim.clock() + Duration::from_micros(10), span));
        if setting.drains {
            let half = sim.clock() + span / 2;
            sim.run(&mut [client, server], |sim, _| sim.clock() >= half)?;
            server.wake(DRAIN);
        }
        let end = until_news(sim, rehearsal, client, server)?;
        if setting.gentle && end != WorkerEvent::Drained {
            return Err(sim.violation(&format!("{end:?}"), &[client, server]));
        }
    } else if setting.gentle {
        return Err(sim.violation(&format!("{connected:?}"), &[client, server]));
    }
    end_client(sim, setting, connected == WorkerEvent::Connected, client, server)?;
    sim.run(&mut [client, server], |_, w| w[1].connections() == 0 && w[1].is_waiting())?;
    if server.buffers_out() > 0 {
        return Err(sim.violation("buffers are out without connections", &[client, server]));
    }
    server.wake(STOP);
    sim.run(&mut [client, server], |_, w| w[1].is_over())
}

/// Ends the client as the coordinator does: gently after a successful run, and at once after a
/// failure or when the gentle way takes too long.
fn end_client(
    sim: &mut Simulation,
    setting: &Setting,
    gently: bool,
    client: &mut SimulatedWorker<'_, Client>,
    server: &mut SimulatedWorker<'_, WebSocketEcho>,
) -> Result<(), Violation> {
    if gently {
        client.wake(Rehearsal::CLOSE);
        let patience = sim.clock() + Duration::from_secs(10);
        sim.run(&mut [client, server], |sim, w| w[0].is_over() || sim.clock() >= patience)?;
        if setting.gentle && !client.is_over() {
            return Err(sim.violation("the client does not end", &[client, server]));
        }
    }
    if !client.is_over() {
        client.wake(Rehearsal::STOP);
    }
    sim.run(&mut [client, server], |_, w| w[0].is_over())
}

fn until_news(
    sim: &mut Simulation,
    rehearsal: &Rehearsal,
    client: &mut SimulatedWorker<'_, Client>,
    server: &mut SimulatedWorker<'_, WebSocketEcho>,
) -> Result<WorkerEvent, Violation> {
    let mut news = None;
    sim.run(&mut [client, server], |_, _| {
        news = news.take().or_else(|| rehearsal.next_event());
        news.is_some()
    })?;
    news.ok_or_else(|| sim.violation("no news", &[]))
}

/// Checks the counts of both ends.
fn check(
    setting: &Setting,
    outcome: &Counted,
    echoed: u64,
    refused: u64,
) -> Result<(), &'static str> {
    let (integrity, messages) = (outcome.integrity, outcome.messages);
    if integrity.total() > integrity.lost || outcome.errors.protocol > 0 || refused > 0 {
        return Err("wrong bytes");
    }
    let Messages { planned, not_sent, sent, echoed: received, wrong, lost, outstanding } = messages;
    if outcome.imbalance.is_some()
        || planned != sent + not_sent
        || sent != received + wrong + lost + outstanding
    {
        return Err("the message counts do not add up");
    }
    // A message that was not compared must not count as wrong. Lost messages are those of
    // connections that ended.
    if wrong > 0 || integrity.faults() > 0 && outcome.errors.total() == 0 && setting.gentle {
        return Err("a correct server was blamed for faults");
    }
    if received > echoed || echoed > sent {
        return Err("more came than was sent");
    }
    let lost = outcome.errors.total() > 0 || received < sent;
    if setting.gentle && lost {
        return Err("lost although nothing was broken");
    }
    Ok(())
}

/// Returns the server's high-water mark, the messages of one connection, and the input of two
/// turns.
fn bounds(setting: &Setting) -> Bounds {
    let plan = &setting.plan;
    let outstanding =
        plan.load.pipeline.max(plan.load.rate_per_s.map_or(0, |_| plan.load.max_outstanding))
            as usize;
    let turn = |c: &engine::Config| usize::from(c.uring.buffers) * c.uring.buffer_size as usize;
    let turns = 2 * turn(&setting.server).max(turn(&setting.client));
    // A piece of a stash, and a request or a Close.
    let more = (16 << 10) + 1_000;
    let frames = outstanding * (plan.load.message_bytes.largest() + 14);
    Bounds { unsent: setting.server.high_water + frames + turns + more, stashed: turns }
}
