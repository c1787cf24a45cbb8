//! A relay between plain sockets, which the battery has, and a server that speaks TLS: bytes pass
//! as they are, an end as an end, a reset as a reset.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use engine::rustls::pki_types::ServerName;
use engine::rustls::{ClientConfig, ClientConnection};
use engine::tls::{Trust, client_config};

/// Where plain connections are relayed to `server`, for as long as the process lives. Whose
/// certificate it shows does not matter here.
pub(super) fn relay(server: SocketAddr, name: &str) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let here = listener.local_addr()?;
    let config = client_config(Trust::Anybody).map_err(io::Error::other)?;
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    thread::spawn(move || {
        for plain in listener.incoming().flatten() {
            let (config, name) = (Arc::clone(&config), name.clone());
            thread::spawn(move || Pair::open(plain, server, config, name).map(Pair::carry));
        }
    });
    Ok(here)
}

/// Two connections that are to look like one.
struct Pair {
    plain: TcpStream,
    secure: TcpStream,
    session: Mutex<ClientConnection>,
    /// One side was reset, and so must the other be.
    is_reset: AtomicBool,
}

impl Pair {
    fn open(
        plain: TcpStream,
        server: SocketAddr,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Arc<Self>> {
        let mut secure = TcpStream::connect(server)?;
        plain.set_nodelay(true)?;
        secure.set_nodelay(true)?;
        let mut session = ClientConnection::new(config, name).map_err(io::Error::other)?;
        while session.is_handshaking() {
            session.complete_io(&mut secure)?;
        }
        Ok(Arc::new(Self {
            plain,
            secure,
            session: Mutex::new(session),
            is_reset: AtomicBool::new(false),
        }))
    }

    fn carry(self: Arc<Self>) {
        let pair = Arc::clone(&self);
        let up = thread::spawn(move || pair.reset_unless(pair.up()));
        self.reset_unless(self.down());
        let _ = up.join();
        if self.is_reset.load(Ordering::Relaxed) {
            for stream in [&self.plain, &self.secure] {
                let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
            }
        }
    }

    /// Ends both sides after an error, which wakes a thread that waits for bytes.
    fn reset_unless(&self, result: io::Result<()>) {
        if result.is_err() {
            self.is_reset.store(true, Ordering::Relaxed);
            let _ = self.plain.shutdown(Shutdown::Read);
            let _ = self.secure.shutdown(Shutdown::Read);
        }
    }

    fn session(&self) -> MutexGuard<'_, ClientConnection> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To the server. Written without the lock: it may have to read before it takes more.
    fn up(&self) -> io::Result<()> {
        let mut bytes = vec![0; 1 << 16];
        loop {
            let len = read(&self.plain, &mut bytes)?;
            if len == 0 && self.is_reset.load(Ordering::Relaxed) {
                return Ok(());
            }
            let mut records = Vec::new();
            let mut session = self.session();
            if len == 0 {
                session.send_close_notify();
            }
            session.writer().write_all(&bytes[..len])?;
            while session.wants_write() {
                session.write_tls(&mut records)?;
            }
            drop(session);
            (&self.secure).write_all(&records)?;
            if len == 0 {
                return self.secure.shutdown(Shutdown::Write);
            }
        }
    }

    fn down(&self) -> io::Result<()> {
        let (mut bytes, mut plain) = (vec![0; 1 << 14], Vec::new());
        loop {
            // Whatever came with the handshake is there already.
            let mut session = self.session();
            let ended = session.process_new_packets().map_err(io::Error::other)?.peer_has_closed();
            let _ = session.reader().read_to_end(&mut plain);
            drop(session);
            (&self.plain).write_all(&plain)?;
            plain.clear();
            if ended {
                return self.plain.shutdown(Shutdown::Write);
            }
            let len = read(&self.secure, &mut bytes)?;
            if len == 0 {
                return Err(ErrorKind::ConnectionReset.into());
            }
            let mut rest = &bytes[..len];
            while !rest.is_empty() {
                let mut session = self.session();
                session.read_tls(&mut rest)?;
                session.process_new_packets().map_err(io::Error::other)?;
                let _ = session.reader().read_to_end(&mut plain);
            }
        }
    }
}

fn read(mut stream: &TcpStream, bytes: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(bytes) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
