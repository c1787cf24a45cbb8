//! The server: start, supervision and end of its workers.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use engine::socket::{self, Congestion};
use engine::tls::{HandshakeThread, Tls, TlsServer, TlsSettings};
use engine::{EngineKind, Handler, Linger, Listener, Remote};
use protocol::handshake::server::Refusal;
use tracing::{info, warn};

use crate::admin::{Admin, AdminListener};
use crate::config::{Config, ListenAddress, Protocol, Scheme, Spread};
use crate::counted::counted;
use crate::error::ServeError;
use crate::limiter::{ConnectionCount, ConnectionLimiter, RefusedConnections};
use crate::proxy::ProxyProtocol;
use crate::raw::RawEcho;
use crate::snapshot::SnapshotSlot;
use crate::stats::Stats;
use crate::tls::{Identity, Reload};
use crate::websocket::WebSocketEcho;
use crate::worker::{self, DRAIN, Plan, STOP, WorkerEvent};

/// Default limit of connections. The tables of a larger limit would cost too much memory.
const DEFAULT_MAX_CONNECTIONS: u64 = 262_144;

/// Interval at which the allocator can return memory.
const HOUSEKEEPING: Duration = Duration::from_secs(2);

/// Makes the allocator return free memory promptly. It returns memory to the kernel a second after
/// a free, but only when a block of some size is freed then. After a burst of connections or of
/// large messages that may never happen, because small messages need no allocation.
fn prompt_allocator() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(1 << 20)));
}

/// Running server, whose workers all accept connections.
#[derive(Debug)]
pub struct Server {
    /// Scheme of each listener.
    schemes: Vec<Scheme>,
    /// Fingerprint of the certificate of wss:// listeners.
    fingerprint: Option<String>,
    /// Certificate that can be read again.
    reload: Option<Reload>,
    path: String,
    addresses: Vec<SocketAddr>,
    engine: EngineKind,
    engine_reason: String,
    congestion: Option<Congestion>,
    /// Faults, as the announcement names them.
    faults: String,
    remotes: Vec<Remote>,
    workers: Vec<JoinHandle<()>>,
    events: Receiver<WorkerEvent>,
    connection_count: Arc<ConnectionCount>,
    admin: Option<Admin>,
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
        let (engine, engine_reason) = config.engine.resolve()?;
        let room = Capacity::of(config, engine, limit)?;
        let tls = tls_settings(config)?;
        let (addresses, sockets) = bind(config)?;
        warn_of_strangers(config, &addresses);
        if let Some(burn) = config.settings.burn {
            warn!(
                "slowed on purpose: {burn} of CPU time are burnt for each message (--burn-per-message)"
            );
        }
        let faults = config.settings.faults.as_ref().map(|faults| match &faults.default {
            None => ", faults".to_owned(),
            Some(plan) => format!(", faults {plan}"),
        });
        if faults.is_some() {
            warn!("answers with faults on purpose where a URL asks for them (--faults)");
        }
        let admin = config.admin.as_ref().map(AdminListener::bind).transpose()?;
        let (sender, events) = channel();
        let mut server = Self {
            schemes: config
                .listen
                .iter()
                .map(|l| l.scheme.unwrap_or(config.protocol.scheme()))
                .collect(),
            fingerprint: tls.as_ref().map(|(_, _, fingerprint)| fingerprint.clone()),
            reload: tls.as_ref().and_then(|(_, server, _)| reload(config, server)),
            path: config.settings.admission.path.clone().unwrap_or_default(),
            addresses,
            engine,
            engine_reason,
            congestion: config.congestion.clone(),
            faults: faults.unwrap_or_default(),
            remotes: Vec::new(),
            workers: Vec::new(),
            events,
            connection_count: Arc::new(ConnectionCount::new(
                room.connections,
                config.address_limits,
            )),
            admin: None,
        };
        let mut slots = Vec::new();
        let mut spread = spreads(config).then(|| engine::spread(config.cpus.len()).into_iter());
        for (index, (&cpu, listeners)) in config.cpus.iter().zip(sockets).enumerate() {
            let (remote, inbox) =
                engine::remote().map_err(ServeError::system("creating an eventfd"))?;
            let slot = Arc::new(SnapshotSlot::default());
            slots.push(Arc::clone(&slot));
            let plan = Plan {
                index,
                cpu,
                engine,
                config: engine::Config {
                    spread: spread.as_mut().and_then(Iterator::next),
                    ..engine_config(config, listeners, room.table)
                },
                inbox,
                events: sender.clone(),
                drain_timeout: config.drain_timeout,
                limiter: ConnectionLimiter::new(Arc::clone(&server.connection_count)),
                refused: RefusedConnections::new(room.refused),
                slot,
            };
            let tls = tls.as_ref().map(|(settings, ..)| settings.clone());
            server.spawn(config, tls, remote.clone(), plan)?;
            server.remotes.push(remote);
        }
        drop(sender);
        server.wait_for_start()?;
        if let Some(post) = admin {
            let workers = server.remotes.iter().cloned().zip(slots).collect();
            server.admin =
                Some(post.serve(engine, workers, Arc::clone(&server.connection_count))?);
        }
        Ok(server)
    }

    fn spawn(
        &mut self,
        config: &Config,
        tls: Option<TlsSettings>,
        remote: Remote,
        plan: Plan,
    ) -> Result<(), ServeError> {
        let settings = config.settings.clone();
        let web_socket = move |lifecycle| WebSocketEcho::with_lifecycle(settings, lifecycle);
        if let Some(trusted) = config.proxy_protocol.clone() {
            let timeout = config.settings.handshake_timeout;
            let worker = worker::spawn(plan, move |lifecycle| {
                // Without listeners that use it, TLS is a look at each connection.
                let inner = with_tls(web_socket(lifecycle), tls, remote)?;
                Ok(ProxyProtocol::new(inner, trusted, timeout))
            })?;
            self.workers.push(worker);
            return Ok(());
        }
        self.workers.push(match (config.protocol, tls) {
            (Protocol::WebSocket, None) => {
                worker::spawn(plan, |lifecycle| Ok(web_socket(lifecycle)))?
            }
            (Protocol::WebSocket, tls) => {
                worker::spawn(plan, |lifecycle| with_tls(web_socket(lifecycle), tls, remote))?
            }
            (Protocol::Tcp, _) => {
                worker::spawn(plan, |lifecycle| Ok(RawEcho::with_lifecycle(lifecycle)))?
            }
        });
        Ok(())
    }

    fn wait_for_start(&mut self) -> Result<(), ServeError> {
        for _ in 0..self.workers.len() {
            match self.events.recv() {
                Ok(WorkerEvent::Started) => {}
                Ok(WorkerEvent::Ended(Err(error))) => return Err(error),
                // No worker can have ended or drained yet.
                Ok(WorkerEvent::Ended(Ok(_)) | WorkerEvent::Drained { .. }) | Err(_) => {
                    return Err(ServeError::Panicked);
                }
            }
        }
        Ok(())
    }

    /// Returns the addresses of the listeners, in the order of [`Config::listen`].
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Returns the engine, and the reason for the choice.
    #[must_use]
    pub fn engine(&self) -> (EngineKind, &str) {
        (self.engine, &self.engine_reason)
    }

    /// Returns a line for each listener, for which programs that start the server wait.
    pub fn announcements(&self) -> impl Iterator<Item = String> + '_ {
        let (engine, threads) = (self.engine, self.workers.len());
        let threads = counted(threads as u64, "thread");
        let urls =
            self.addresses.iter().zip(&self.schemes).map(|(&address, scheme)| scheme.url(address));
        let path = self.path.trim_start_matches('/');
        let congestion =
            self.congestion.as_ref().map(|name| format!(", congestion {name}")).unwrap_or_default();
        urls.map(move |url| {
            let faults = &self.faults;
            format!("listening on {url}{path} (engine {engine}, {threads}{congestion}{faults})")
        })
    }

    /// Returns the SHA-256 of the certificate of wss:// listeners, in the form that browsers show.
    #[must_use]
    pub fn fingerprint(&self) -> Option<&str> {
        self.fingerprint.as_deref()
    }

    /// Returns what reads the certificate again; `None` where it does not lie in files.
    pub(crate) fn reload(&self) -> Option<Reload> {
        self.reload.clone()
    }

    /// Returns the address of metrics and health checks.
    #[must_use]
    pub fn admin(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Admin::address)
    }

    /// Returns a handle that ends the server from any thread.
    #[must_use]
    pub fn drain(&self) -> Drain {
        Drain {
            remotes: self.remotes.clone(),
            connection_count: Arc::clone(&self.connection_count),
        }
    }

    /// Waits until all workers have ended. Returns the sum of their counters.
    ///
    /// # Errors
    ///
    /// The error of the first worker that failed. The others are stopped.
    pub fn wait(mut self) -> Result<Stats, ServeError> {
        let mut stats = Stats::default();
        let (mut drained, mut ended) = (0, 0);
        while ended < self.workers.len() {
            match self.events.recv_timeout(HOUSEKEEPING) {
                Err(RecvTimeoutError::Timeout) => prompt_allocator(),
                Ok(WorkerEvent::Started) => {}
                Ok(WorkerEvent::Drained { cut }) => {
                    stats.cut += cut as u64;
                    drained += 1;
                    // Until the last worker is done, all continue to refuse new connections.
                    if drained == self.workers.len() {
                        self.remotes.iter().for_each(|remote| remote.wake(STOP));
                    }
                }
                Ok(WorkerEvent::Ended(result)) => {
                    stats += result?;
                    ended += 1;
                }
                Err(RecvTimeoutError::Disconnected) => return Err(ServeError::Panicked),
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
    /// Ends all workers with the server.
    fn drop(&mut self) {
        self.remotes.iter().for_each(|remote| remote.wake(STOP));
        self.join();
    }
}

/// Handle that drains a server; see [`DRAIN`].
#[derive(Clone, Debug)]
pub struct Drain {
    remotes: Vec<Remote>,
    connection_count: Arc<ConnectionCount>,
}

impl Drain {
    /// Begins the drain. [`Server::wait`] returns when it is done. Further calls have no effect.
    pub fn begin(&self) {
        self.connection_count.close();
        self.remotes.iter().for_each(|remote| remote.wake(DRAIN));
    }
}

/// Adds TLS to a handler, with a thread for handshakes where there are any.
fn with_tls<H: Handler>(
    inner: H,
    tls: Option<TlsSettings>,
    remote: Remote,
) -> Result<Tls<H>, ServeError> {
    let Some(settings) = tls else { return Ok(Tls::new(inner, TlsSettings::default())) };
    let thread = HandshakeThread::start(remote)
        .map_err(ServeError::system("starting a thread for TLS handshakes"))?;
    Ok(Tls::new(inner, settings).with_handshakes(thread))
}

/// Capacity of the process and of each worker.
struct Capacity {
    /// Most connections of the process.
    connections: usize,
    /// Slots of each worker's table.
    table: usize,
    /// Number of refused connections of each worker that may wait until their answer has been read.
    refused: usize,
}

impl Capacity {
    /// Slots of a worker for refused connections. Half of them may stay until their answer has been
    /// read. The other half is for new connections, which therefore never wait for a refused one.
    const REFUSED: u64 = 128;
    /// Divisor of a worker's slots that gives those for an uneven spread: a worker may have up to a
    /// tenth more than the mean.
    const UNEVEN: u64 = 11;

    fn of(config: &Config, engine: EngineKind, limit: u64) -> Result<Self, ServeError> {
        let workers = config.cpus.len() as u64;
        // Standard streams, resolver, log, admin listener; for each worker a ring, an eventfd and
        // its listeners, doubled for safety.
        let fixed = 40 + workers * (4 + 2 * config.listen.len() as u64);
        let refused = Self::REFUSED.min(limit / 8 / workers.max(1)).max(2);
        let spare = if spreads(config) { 64 * config.listen.len() as u64 } else { 0 };
        // On io_uring a connection is no descriptor of the process. It has a place in the table of
        // its worker's ring, for which the limit on open files counts anew.
        let has_tables = engine == EngineKind::Uring && spreads(config);
        let reserve = if has_tables { refused + spare } else { fixed + workers * refused };
        let mut room = limit.saturating_sub(reserve);
        if has_tables {
            room = if limit > fixed { (room - room / Self::UNEVEN) * workers } else { 0 };
        }
        let wanted = config.max_connections.unwrap_or(room.clamp(1, DEFAULT_MAX_CONNECTIONS));
        if wanted > room {
            let each = wanted.div_ceil(workers);
            let slots = if has_tables { each + each / (Self::UNEVEN - 1) + 1 } else { wanted };
            let needed = slots.saturating_add(reserve).max(fixed + 1);
            return Err(ServeError::Connections { wanted, needed, limit });
        }
        // The kernel spreads connections by hash: of few connections, a worker may get far more
        // than its share. A worker that hands them to others has them for a moment, and needs room
        // to accept more.
        let uneven = wanted.div_ceil(workers).saturating_mul(2).saturating_add(64);
        let as_size = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let table = as_size((wanted.min(uneven) + refused + spare).min(limit));
        Ok(Self { connections: as_size(wanted), table, refused: as_size(refused / 2) })
    }
}

/// Returns whether the workers spread their connections evenly.
fn spreads(config: &Config) -> bool {
    config.spread == Spread::Even && config.cpus.len() > 1
}

/// Warns where other hosts can reach the server and no limit per address is set.
fn warn_of_strangers(config: &Config, addresses: &[SocketAddr]) {
    let Some(address) = addresses.iter().find(|address| !address.ip().to_canonical().is_loopback())
    else {
        return;
    };
    let off = [
        ("--max-connections-per-ip", config.address_limits.connections == 0),
        ("--connect-rate-per-ip", config.address_limits.connect_rate.is_none()),
        ("--message-rate or --byte-rate", !config.settings.rates.is_on()),
    ];
    let off: Vec<&str> =
        off.into_iter().filter_map(|(flag, is_off)| is_off.then_some(flag)).collect();
    if !off.is_empty() {
        warn!(
            "{address} can be reached from other hosts, and nothing limits what one of them takes: see {}",
            off.join(", ")
        );
    }
}

/// Returns the TLS settings, the settings that all wss:// listeners share, and the certificate's
/// fingerprint; `None` where no listener uses TLS.
fn tls_settings(config: &Config) -> Result<Option<(TlsSettings, TlsServer, String)>, ServeError> {
    let Some(listen) = config.listen.iter().find(|listen| listen.is_tls()) else { return Ok(None) };
    let Some(identity) = &config.identity else {
        return Err(ServeError::NoIdentity { listen: listen.to_string() });
    };
    let loaded = identity.load(&config.tls)?;
    let server = TlsServer::from(loaded.config);
    let of_listener = |listen: &ListenAddress| listen.is_tls().then(|| server.clone());
    let settings = TlsSettings {
        listeners: config.listen.iter().map(of_listener).collect(),
        answer_to_plain: Refusal::plain_on_tls_port().response(),
        ..TlsSettings::default()
    };
    Ok(Some((settings, server, loaded.fingerprint)))
}

fn reload(config: &Config, server: &TlsServer) -> Option<Reload> {
    let identity = config.identity.clone().filter(Identity::is_in_files)?;
    Some(Reload { identity, options: config.tls.clone(), server: server.clone() })
}

/// Listens on every address once for each worker. Returns the addresses, and the sockets of each
/// worker.
fn bind(config: &Config) -> Result<(Vec<SocketAddr>, Vec<Vec<TcpListener>>), ServeError> {
    let workers = config.cpus.len();
    let mut addresses = Vec::new();
    let mut of_workers: Vec<Vec<TcpListener>> = (0..workers).map(|_| Vec::new()).collect();
    for listen in &config.listen {
        let address = listen.resolve("--listen")?;
        let failed = |source| ServeError::listen("--listen", address, source);
        let sockets =
            socket::listen_with(address, workers, config.congestion.as_ref()).map_err(failed)?;
        let bound = sockets[0].local_addr().map_err(failed)?;
        if let Some(hint) = listen.not_covered(bound) {
            info!("{hint}");
        }
        addresses.push(bound);
        for (of_worker, socket) in of_workers.iter_mut().zip(sockets) {
            of_worker.push(socket);
        }
    }
    Ok((addresses, of_workers))
}

fn engine_config(
    config: &Config,
    sockets: Vec<TcpListener>,
    max_accepted: usize,
) -> engine::Config {
    // Limits per address need the peer addresses, and so does every log line about a refusal.
    let listener = |socket| Listener { socket, peer_addresses: true };
    let defaults = engine::Config::default();
    engine::Config {
        listeners: sockets.into_iter().map(listener).collect(),
        max_accepted,
        max_connects: 0,
        high_water: config.high_water,
        write_stall: config.write_timeout,
        linger: Linger { time: config.close_timeout, ..defaults.linger },
        spin: config.spin,
        receive_buffer: config.receive_buffer,
        uring: config.uring,
        ..defaults
    }
}
