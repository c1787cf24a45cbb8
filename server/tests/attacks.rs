//! Hostile and broken clients beside well-behaved ones, from outside: on every engine, over TCP and over TLS.

mod program;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};

use engine::rustls::pki_types::ServerName;
use engine::rustls::{ClientConnection, StreamOwned};
use engine::tls::{Trust, client_config};
use program::{LONG, Program, REQUEST, engines};
use rustix::net::{AddressFamily, SocketFlags, SocketType};

/// A client's end of a connection, with or without TLS.
enum Client {
    Plain(TcpStream),
    Secure(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Client {
    fn over(scheme: &str, stream: TcpStream) -> Self {
        if scheme == "ws" {
            return Self::Plain(stream);
        }
        let config = client_config(Trust::Anybody).expect("a client's side");
        let name = ServerName::try_from("localhost").expect("a name");
        let session = ClientConnection::new(config, name).expect("a client");
        Self::Secure(Box::new(StreamOwned::new(session, stream)))
    }

    /// With its opening handshake done.
    fn open(scheme: &str, server: &Program) -> Self {
        let mut client = Self::over(scheme, server.connect());
        client.write_all(REQUEST).expect("request");
        assert_eq!(client.status(), 101);
        client
    }

    /// Reads the head of an HTTP answer: its status.
    fn status(&mut self) -> u16 {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            self.read_exact(&mut byte).expect("a whole head");
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text");
        head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line")
    }
}

impl Read for Client {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Secure(stream) => stream.read(buffer),
        }
    }
}

impl Write for Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.write(bytes),
            Self::Secure(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.flush(),
            Self::Secure(stream) => stream.flush(),
        }
    }
}

/// Runs `test` against a server with one worker on each engine, over TCP and over TLS.
fn on_every_engine(arguments: &[&str], test: impl Fn(&Program, &str)) {
    engine::socket::raise_file_limit();
    for engine in engines() {
        for scheme in ["ws", "wss"] {
            eprintln!("engine {engine}, {scheme}");
            let listen = format!("{scheme}://127.0.0.1:0");
            let tls: &[&str] = if scheme == "wss" { &["--tls-self-signed"] } else { &[] };
            let common = ["--engine", &engine, "--threads", "1"];
            test(&Program::start_with(&["--listen", &listen], &[&common, tls, arguments].concat()), scheme);
        }
    }
}

/// From another address of the loopback network.
fn connect_from(from: &str, to: SocketAddr) -> TcpStream {
    let socket =
        rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = socket.expect("socket");
    let from: SocketAddr = format!("{from}:0").parse().expect("address");
    rustix::net::bind(&socket, &from).expect("bind");
    rustix::net::connect(&socket, &to).expect("connect");
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(LONG)).expect("timeout");
    stream
}

#[test]
fn refused_connections_delay_no_other_address() {
    // Refused connections that stay would stay longer than the victim waits.
    let limits = ["--max-connections", "20", "--max-connections-per-ip", "2", "--close-timeout", "2min"];
    on_every_engine(&limits, |server, scheme| {
        // They say nothing and read nothing. Over TLS two seconds is all that each has, so that it takes more of them.
        let count = if scheme == "ws" { 400 } else { 1500 };
        let refused: Vec<TcpStream> = (0..count).map(|_| server.connect()).collect();
        let mut victim = Client::over(scheme, connect_from("127.0.0.2", server.address()));
        victim.write_all(REQUEST).expect("request");
        assert_eq!(victim.status(), 101);
        drop(refused);
    });
}
