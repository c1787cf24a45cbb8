//! The server: its workers, from the first to the last.

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;

use engine::socket::{self, Congestion};
use engine::{EngineKind, Listener, Remote};

use crate::config::{Config, Protocol};
use crate::error::ServeError;
use crate::raw::RawEcho;
use crate::stats::Stats;
use crate::websocket::WebSocketEcho;
use crate::worker::{self, DRAIN, Plan, Report, STOP};

/// Connections when nothing says how many: beyond it the tables of a worker cost more than anybody needs.
const DEFAULT_MAX_CONNECTIONS: u64 = 262_144;

/// A running server. All of its workers accept connections.
#[derive(Debug)]
pub struct Server {
    protocol: Protocol,
    path: String,
    addresses: Vec<SocketAddr>,
    engine: EngineKind,
    engine_reason: String,
    congestion: Option<Congestion>,
    remotes: Vec<Remote>,
    workers: Vec<JoinHandle<()>>,
    reports: Receiver<Report>,
}

impl Server {
    /// Starts the workers and waits until all of them accept.
    ///
    /// # Errors
    ///
    /// [`ServeError`]; then no worker is left.
    pub fn start(config: &Config) -> Result<Self, ServeError> {
        let limit = socket::raise_file_limit();
        socket::raise_memlock_limit();
        let (engine, engine_reason) = config.engine.settle()?;
        let share = connections_each(config, limit)?;
        let (addresses, sockets) = bind(config)?;
        let (sender, reports) = channel();
        let (remotes, workers) = (Vec::new(), Vec::new());
        let protocol = config.protocol;
        let path = config.rules.admission.path.clone().unwrap_or_default();
        let congestion = config.congestion.clone();
        let mut server =
            Self { protocol, path, addresses, engine, engine_reason, congestion, remotes, workers, reports };
        for (index, (&cpu, listeners)) in config.cpus.iter().zip(sockets).enumerate() {
            let (remote, inbox) = engine::remote().map_err(ServeError::system("creating an eventfd"))?;
            let reports = sender.clone();
            let drain_timeout = config.drain_timeout;
            let plan = Plan {
                index,
                cpu,
                engine,
                config: engine_config(config, listeners, share),
                inbox,
                reports,
                drain_timeout,
            };
            server.spawn(config, plan)?;
            server.remotes.push(remote);
        }
        drop(sender);
        server.wait_for_start()?;
        Ok(server)
    }

    fn spawn(&mut self, config: &Config, plan: Plan) -> Result<(), ServeError> {
        let rules = config.rules.clone();
        self.workers.push(match self.protocol {
            Protocol::WebSocket => worker::spawn(plan, move |life| WebSocketEcho::with_life(rules, life))?,
            Protocol::Tcp => worker::spawn(plan, RawEcho::with_life)?,
        });
        Ok(())
    }

    fn wait_for_start(&mut self) -> Result<(), ServeError> {
        for _ in 0..self.workers.len() {
            match self.reports.recv() {
                Ok(Report::Started) => {}
                Ok(Report::Ended(Err(error))) => return Err(error),
                Ok(Report::Ended(Ok(_))) | Err(_) => return Err(ServeError::Panicked),
            }
        }
        Ok(())
    }

    /// The addresses that are listened on, in the order of [`Config::listen`].
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The engine, and why this one.
    #[must_use]
    pub fn engine(&self) -> (EngineKind, &str) {
        (self.engine, &self.engine_reason)
    }

    /// A line for each listener, as programs that start the server wait for it.
    pub fn announcements(&self) -> impl Iterator<Item = String> + '_ {
        let (engine, threads) = (self.engine, self.workers.len());
        let noun = if threads == 1 { "thread" } else { "threads" };
        let urls = self.addresses.iter().map(|&address| self.protocol.url(address));
        let path = self.path.trim_start_matches('/');
        let congestion =
            self.congestion.as_ref().map(|name| format!(", congestion {name}")).unwrap_or_default();
        urls.map(move |url| {
            format!("listening on {url}{path} (engine {engine}, {threads} {noun}{congestion})")
        })
    }

    /// What ends the server from any thread.
    #[must_use]
    pub fn drain(&self) -> Drain {
        Drain(self.remotes.clone())
    }

    /// Waits until all workers have ended, and adds up what they counted.
    ///
    /// # Errors
    ///
    /// What the first worker that failed says; the others are stopped.
    pub fn wait(mut self) -> Result<Stats, ServeError> {
        let mut stats = Stats::default();
        let mut ended = 0;
        while ended < self.workers.len() {
            match self.reports.recv() {
                Ok(Report::Started) => {}
                Ok(Report::Ended(result)) => {
                    stats += result?;
                    ended += 1;
                }
                Err(_) => return Err(ServeError::Panicked),
            }
        }
        self.join();
        Ok(stats)
    }

    fn join(&mut self) {
        for worker in self.workers.drain(..) {
            // A panic has been reported as the worker's end.
            let _ = worker.join();
        }
    }
}

impl Drop for Server {
    /// No worker outlives its server.
    fn drop(&mut self) {
        self.remotes.iter().for_each(|remote| remote.wake(STOP));
        self.join();
    }
}

/// Ends a server gently; see [`DRAIN`].
#[derive(Clone, Debug)]
pub struct Drain(Vec<Remote>);

impl Drain {
    /// Begins the drain; [`Server::wait`] returns when it is done. Again is harmless.
    pub fn begin(&self) {
        self.0.iter().for_each(|remote| remote.wake(DRAIN));
    }
}

/// Connections that each worker takes: the process's limit in equal parts.
fn connections_each(config: &Config, limit: u64) -> Result<usize, ServeError> {
    let workers = config.cpus.len() as u64;
    // Standard streams, the resolver's and the log's needs; per worker a ring, an eventfd and its listeners, twice over.
    let reserve = 32 + workers * (4 + 2 * config.listen.len() as u64);
    let room = limit.saturating_sub(reserve);
    let wanted = config.max_connections.unwrap_or(room.clamp(1, DEFAULT_MAX_CONNECTIONS));
    if wanted > room {
        return Err(ServeError::Connections { wanted, reserve, limit });
    }
    Ok(usize::try_from(wanted.div_ceil(workers)).unwrap_or(usize::MAX))
}

/// Listens on every address once for each worker: the addresses, and the sockets of each worker.
fn bind(config: &Config) -> Result<(Vec<SocketAddr>, Vec<Vec<TcpListener>>), ServeError> {
    let workers = config.cpus.len();
    let mut addresses = Vec::new();
    let mut of_workers: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    for listen in &config.listen {
        let address = listen.resolve()?;
        let failed = |source| ServeError::listen(address, source);
        let sockets = socket::listen_with(address, workers, config.congestion.as_ref()).map_err(failed)?;
        addresses.push(sockets[0].local_addr().map_err(failed)?);
        for (of_worker, socket) in of_workers.iter_mut().zip(sockets) {
            of_worker.push(socket);
        }
    }
    Ok((addresses, of_workers))
}

fn engine_config(config: &Config, sockets: Vec<TcpListener>, max_accepted: usize) -> engine::Config {
    let listener = |socket| Listener { socket, peer_addresses: false };
    engine::Config {
        listeners: sockets.into_iter().map(listener).collect(),
        max_accepted,
        max_connects: 0,
        high_water: config.high_water,
        spin: config.spin,
        receive_buffer: config.receive_buffer,
        uring: config.uring,
        ..engine::Config::default()
    }
}
