//! The server behind nginx, HAProxy and Caddy with the configurations of scripts/deploy, and under
//! a load balancer's probes.

mod program;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use engine::rustls::ClientConnection;
use engine::rustls::pki_types::ServerName;
use engine::tls::{Trust, client_config};
use program::{LONG, Program, client_frame, connect, engines, expect, read_head};

/// Part of every line about a refusal. The line about a refused io_uring lacks it.
const REFUSAL: &str = "server::refusal";
use rustix::net::sockopt;
use rustix::process::Signal;

const DEPLOY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/deploy");

#[derive(Clone, Copy)]
enum Kind {
    Nginx,
    HaProxy,
    Caddy,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Nginx => "nginx",
            Self::HaProxy => "haproxy",
            Self::Caddy => "caddy",
        }
    }

    /// Returns whether the program is installed; prints a line where it is not.
    fn is_here(self) -> bool {
        match Command::new(self.name())
            .arg(if matches!(self, Self::Caddy) { "version" } else { "-v" })
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
        {
            Ok(_) => true,
            Err(error) => {
                println!("skipped: no {} here: {error}", self.name());
                false
            }
        }
    }

    fn configuration(self) -> &'static str {
        match self {
            Self::Nginx => "nginx.conf",
            Self::HaProxy => "haproxy.cfg",
            Self::Caddy => "Caddyfile",
        }
    }
}

/// A proxy before a server, with a folder for the files of both.
struct Site {
    server: Option<Program>,
    proxy: Child,
    address: SocketAddr,
    folder: PathBuf,
}

impl Site {
    /// Starts both. `change` edits the proxy's configuration.
    fn start(kind: Kind, name: &str, flags: &[&str], change: impl Fn(String) -> String) -> Self {
        let folder = std::env::temp_dir().join(format!(
            "sparring-{}-{name}-{}",
            kind.name(),
            std::process::id()
        ));
        std::fs::create_dir_all(&folder).expect("a folder");
        let log = File::create(folder.join("server.log")).expect("a file");
        let flags = [&["--threads", "1", "--admin", "127.0.0.1:0"][..], flags].concat();
        let server = Program::start_logging(&["--listen", "127.0.0.1:0"], &flags, log);
        let said = std::fs::read_to_string(folder.join("server.log")).expect("a log");
        let admin = said.split("admin at http://").nth(1).and_then(|rest| rest.split('/').next());
        let admin = admin.unwrap_or_else(|| panic!("no admin address: {said}"));
        let text = std::fs::read_to_string(format!("{DEPLOY}/{}", kind.configuration()));
        let text = text
            .expect("the configuration")
            .replace("127.0.0.1:9001", &server.address().to_string())
            .replace("127.0.0.1:9100", admin)
            .replace("port 9100", &format!("port {}", admin.rsplit(':').next().expect("a port")))
            .replace("inter 2s", "inter 100ms");
        let text = change(for_user(kind, text, &folder));
        // Another process may get the port before the proxy does.
        let (proxy, address) = (0..5)
            .find_map(|_| {
                let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
                let configuration = folder.join(kind.configuration());
                let text = text
                    .replace("listen 8080", &format!("listen {address}"))
                    .replace("bind :8080", &format!("bind {address}"))
                    .replace(
                        "\n:8080 {",
                        &format!("\nhttp://:{} {{\n\tbind 127.0.0.1", address.port()),
                    );
                std::fs::write(&configuration, text).expect("a file");
                let mut proxy = start(kind, &folder, &configuration);
                is_up(&mut proxy, address).then_some((proxy, address))
            })
            .unwrap_or_else(|| panic!("no proxy: {}", read(&folder, "proxy.log")));
        Self { server: Some(server), proxy, address, folder }
    }

    fn status(&self, line: &str) -> u16 {
        let head = self.request(line, "").0;
        head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status")
    }

    /// Sends a request; returns the answer's head and content.
    fn request(&self, line: &str, more: &str) -> (String, String) {
        let mut stream = connect(self.address);
        write!(
            stream,
            "{line} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{more}\r\n",
            self.address
        )
        .expect("request");
        answer(&mut stream)
    }

    /// Performs an opening handshake as a page does.
    fn upgrade(&self, origin: &str) -> TcpStream {
        let mut stream = connect(self.address);
        write!(
            stream,
            "GET /chat HTTP/1.1\r\nHost: {}\r\nOrigin: {origin}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            self.address
        )
        .expect("request");
        stream
    }

    fn echoes(&self, origin: &str) {
        let mut stream = self.upgrade(origin);
        let head = read_head(&mut stream);
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        for _ in 0..3 {
            stream.write_all(&client_frame(1, b"hello")).expect("frame");
            expect(&mut stream, b"\x81\x05hello");
        }
        stream.write_all(&client_frame(8, b"\x03\xe8")).expect("frame");
        expect(&mut stream, b"\x88\x02\x03\xe8");
    }

    /// Performs an opening handshake from an address, with these fields, and checks the status.
    fn upgraded_from(&self, from: &str, fields: &str, status: u16) -> TcpStream {
        let mut stream = program::connect_from(from, self.address);
        write!(
            stream,
            "GET /chat HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{fields}\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            self.address
        )
        .expect("request");
        let head = read_head(&mut stream);
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{from}: {head}");
        stream
    }

    fn log(&self) -> String {
        read(&self.folder, "server.log")
    }

    /// Returns the URL under which a browser finds the site.
    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // nginx ends its workers on this signal.
        if let Some(pid) = rustix::process::Pid::from_raw(self.proxy.id() as i32) {
            let _ = rustix::process::kill_process(pid, Signal::TERM);
        }
        let _ = self.proxy.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// Lets nginx write only into the folder, whatever the user.
fn for_user(kind: Kind, text: String, folder: &Path) -> String {
    let folder = folder.display();
    let paths = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|name| format!("    {name}_temp_path {folder}/{name};\n"))
        .concat();
    match kind {
        Kind::Nginx => text.replace("http {\n", &format!("http {{\n{paths}")),
        Kind::HaProxy | Kind::Caddy => text,
    }
}

fn start(kind: Kind, folder: &Path, configuration: &Path) -> Child {
    let log = File::create(folder.join("proxy.log")).expect("a file");
    let mut command = Command::new(kind.name());
    match kind {
        Kind::Nginx => command
            .args(["-e", "stderr", "-g"])
            .arg(format!("daemon off; pid {}/nginx.pid;", folder.display()))
            .arg("-c"),
        Kind::HaProxy => command.args(["-db", "-f"]),
        Kind::Caddy => {
            command.env("HOME", folder).args(["run", "--adapter", "caddyfile", "--config"])
        }
    };
    command
        .arg(configuration)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("a proxy")
}

fn read(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).expect("a log")
}

/// Waits until the proxy answers with the health of its server. Returns false if the proxy has
/// ended.
fn is_up(proxy: &mut Child, address: SocketAddr) -> bool {
    let end = Instant::now() + LONG;
    while Instant::now() < end {
        if proxy.try_wait().expect("wait").is_some() {
            return false;
        }
        if let Ok(mut stream) = TcpStream::connect(address) {
            stream.set_read_timeout(Some(LONG)).expect("timeout");
            let request = b"GET /readyz HTTP/1.1\r\nHost: health\r\nConnection: close\r\n\r\n";
            let mut response = Vec::new();
            let _ = stream.write_all(request).and_then(|()| stream.read_to_end(&mut response));
            if response.starts_with(b"HTTP/1.1 200 ") {
                return true;
            }
        }
        thread::sleep(Duration::from_millis(20));
    }
    let _ = proxy.kill();
    let _ = proxy.wait();
    panic!("the proxy does not answer")
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port()
}

/// Reads an answer. A proxy may leave the connection open after the content. After a HEAD it is
/// closed without content.
fn answer(stream: &mut TcpStream) -> (String, String) {
    let head = read_head(stream);
    let head_in_small = head.to_ascii_lowercase();
    let length =
        head_in_small.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut content = String::new();
    stream.take(length.unwrap_or(u64::MAX)).read_to_string(&mut content).expect("the content");
    (head, content)
}

/// Checks the page, the echo, the Origin check and the health check. The log has only the one
/// refusal.
fn serves_behind(kind: Kind) {
    if !kind.is_here() {
        return;
    }
    let mut site = Site::start(kind, "default", &[], |text| text);
    let (head, page) = site.request("GET /", "");
    assert!(head.starts_with("HTTP/1.1 200 ") && page.contains("<html"), "{head}");
    assert_eq!(site.status("HEAD /"), 200);
    // The page's own WebSocket, without any flag.
    site.echoes(&site.url());
    assert!(!site.log().contains(REFUSAL), "{}", site.log());
    let (head, text) = answer(&mut site.upgrade("https://evil.example"));
    assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    assert!(text.contains("--origin 'https://evil.example'"), "{text}");
    let refused = site.log().matches(REFUSAL).count();
    assert_eq!(refused, 1, "{}", site.log());
    assert!(site.log().contains("--origin 'https://evil.example'"), "{}", site.log());
    // The health check finds that the server has gone.
    let server = site.server.take().expect("the server");
    server.signal(Signal::TERM);
    server.end();
    let end = Instant::now() + LONG;
    while site.status("GET /readyz") == 200 {
        assert!(Instant::now() < end, "still healthy");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn serves_behind_nginx() {
    serves_behind(Kind::Nginx);
}

#[test]
fn serves_behind_haproxy() {
    serves_behind(Kind::HaProxy);
}

#[test]
fn serves_behind_caddy() {
    serves_behind(Kind::Caddy);
}

/// Each real proxy names the client, from another address of the loopback network, and does not
/// pass on what the client says of itself.
#[test]
fn limits_are_those_of_the_clients_behind_a_proxy() {
    let flags = ["--trusted-proxy", "127.0.0.1", "--max-connections-per-ip", "1"];
    for kind in [Kind::Nginx, Kind::HaProxy, Kind::Caddy].into_iter().filter(|kind| kind.is_here())
    {
        let site = Site::start(kind, "clients", &flags, |text| text);
        let _first = site.upgraded_from("127.0.0.7", "", 101);
        let _second = site.upgraded_from("127.0.0.8", "", 101);
        // A second connection of the first client, whatever it says.
        site.upgraded_from("127.0.0.7", "X-Forwarded-For: 192.0.2.1\r\n", 503);
        site.upgraded_from("127.0.0.7", "Forwarded: for=192.0.2.1\r\n", 503);
        assert!(site.log().contains("peer=127.0.0.7:0"), "{}: {}", kind.name(), site.log());
        assert!(!site.log().contains("192.0.2.1"), "{}: {}", kind.name(), site.log());
    }
}

/// HAProxy sends both versions of the PROXY protocol, in its health checks too.
#[test]
fn limits_are_those_of_the_clients_behind_the_proxy_protocol() {
    if !Kind::HaProxy.is_here() {
        return;
    }
    for version in
        ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"]
    {
        let with_header = |text: String| {
            let text = text.replace(" check port", &format!(" {version} check port"));
            text.replace("http-request set-header X-Forwarded-For", "# ")
        };
        let flags = ["--proxy-protocol", "127.0.0.1", "--max-connections-per-ip", "1"];
        let site = Site::start(Kind::HaProxy, "header", &flags, with_header);
        let _first = site.upgraded_from("127.0.0.7", "", 101);
        let _second = site.upgraded_from("127.0.0.8", "", 101);
        site.upgraded_from("127.0.0.7", "", 503);
        assert!(site.log().contains("peer=127.0.0.7:"), "{version}: {}", site.log());
        assert!(!site.log().contains("proxy-header"), "{version}: {}", site.log());
    }
}

/// nginx sends version 1 of the PROXY protocol in its proxy of TCP.
#[test]
fn limits_are_those_of_the_clients_behind_a_stream_of_nginx() {
    const MODULE: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";
    if !Kind::Nginx.is_here() {
        return;
    }
    if !Path::new(MODULE).exists() {
        println!("skipped: no {MODULE} here (Debian: libnginx-mod-stream)");
        return;
    }
    let stream = |text: String| {
        let server = text.lines().find_map(|line| line.trim().strip_prefix("server 127"));
        let server = server.and_then(|rest| rest.strip_suffix(';')).expect("the server");
        format!(
            "load_module {MODULE};\nevents {{}}\nstream {{\n server {{\n listen 8080;\n \
             proxy_pass 127{server};\n proxy_protocol on;\n }}\n}}\n"
        )
    };
    let flags = ["--proxy-protocol", "127.0.0.1", "--max-connections-per-ip", "1"];
    let site = Site::start(Kind::Nginx, "stream", &flags, stream);
    let _first = site.upgraded_from("127.0.0.7", "", 101);
    let _second = site.upgraded_from("127.0.0.8", "", 101);
    site.upgraded_from("127.0.0.7", "", 503);
    assert!(site.log().contains("peer=127.0.0.7:"), "{}", site.log());
}

/// HAProxy's plain check, with a header and without one, asks the port of the WebSocket.
#[test]
fn plain_check_of_haproxy_finds_the_server_healthy() {
    if !Kind::HaProxy.is_here() {
        return;
    }
    for (flags, options) in
        [(&[][..], ""), (&["--proxy-protocol", "127.0.0.1"], " send-proxy-v2 check-send-proxy")]
    {
        let plain = |text: String| {
            let lines = text.lines().filter(|line| !line.trim().starts_with("http-check"));
            let lines = lines.map(|line| match line.split_once(" check port ") {
                Some((server, _)) => format!("{server}{options} check inter 100ms"),
                None => line.to_owned(),
            });
            lines.collect::<Vec<_>>().join("\n") + "\n"
        };
        let site = Site::start(Kind::HaProxy, "check", flags, plain);
        site.upgraded_from("127.0.0.7", "", 101);
        assert!(!site.log().contains(REFUSAL), "{}", site.log());
    }
}

/// A site with a name is accepted by --origin, and no other site.
#[test]
fn origin_flag_lets_a_site_behind_a_proxy_in() {
    for kind in [Kind::Nginx, Kind::HaProxy].into_iter().filter(|kind| kind.is_here()) {
        let site = Site::start(kind, "origin", &["--origin", "https://echo.example"], |text| text);
        site.echoes("https://echo.example");
        let (head, _) = answer(&mut site.upgrade(&site.url()));
        assert!(head.starts_with("HTTP/1.1 403 "), "{head}");
    }
}

/// Covers common configurations that change the Host: the answer and the log name the fix.
#[test]
fn says_what_to_do_where_nginx_changes_the_host() {
    if !Kind::Nginx.is_here() {
        return;
    }
    for (host, says) in
        [("$host", "proxy_set_header Host $http_host"), ("$proxy_host", "start the server with")]
    {
        let site = Site::start(Kind::Nginx, "host", &[], |text| text.replace("$http_host", host));
        let (head, text) = answer(&mut site.upgrade(&site.url()));
        let flag = format!("--origin '{}'", site.url());
        assert!(head.starts_with("HTTP/1.1 403 "), "{host}: {head}");
        assert!(text.contains(says) && text.contains(&flag), "{host}: {text}");
        assert!(site.log().contains(says) && site.log().contains(&flag), "{host}: {}", site.log());
    }
    let without_upgrade = |text: String| text.replace("proxy_set_header Upgrade", "# ");
    let site = Site::start(Kind::Nginx, "upgrade", &[], without_upgrade);
    let (_, text) = answer(&mut site.upgrade(&site.url()));
    assert!(text.contains("has to forward Upgrade and Connection"), "{text}");
    let old = Site::start(Kind::Nginx, "old", &[], |text| {
        text.replace("proxy_http_version 1.1;", "proxy_http_version 1.0;")
    });
    let (_, text) = answer(&mut old.upgrade(&old.url()));
    assert!(text.contains("proxy_http_version 1.1"), "{text}");
}

/// Covers a load balancer that checks whether the port is open, or requests `/`.
#[test]
fn probes_leave_no_line_in_the_log() {
    for engine in engines() {
        let path = std::env::temp_dir()
            .join(format!("sparring-probes-{engine}-{}.log", std::process::id()));
        let log = File::create(&path).expect("a file");
        let listen = ["--listen", "ws://127.0.0.1:0", "--listen", "wss://127.0.0.1:0"];
        let flags = ["--engine", &engine, "--threads", "1", "--tls-self-signed"];
        let server = Program::start_logging(&listen, &flags, log);
        for listener in [0, 1] {
            for _ in 0..20 {
                drop(connect(server.address_of(listener)));
                // HAProxy's plain check resets the connection.
                let reset = connect(server.address_of(listener));
                sockopt::set_socket_linger(&reset, Some(Duration::ZERO)).expect("linger");
            }
        }
        // A handshake, then the end with and without a close_notify.
        for notifies in [true, false] {
            let config = client_config(Trust::Anybody).expect("a client's side");
            let name = ServerName::try_from("localhost").expect("a name");
            let mut tls = ClientConnection::new(config, name).expect("a client");
            let mut stream = connect(server.address_of(1));
            while tls.is_handshaking() {
                tls.complete_io(&mut stream).expect("a handshake");
            }
            if notifies {
                tls.send_close_notify();
                tls.complete_io(&mut stream).expect("a close_notify");
            }
        }
        for method in ["GET", "HEAD"] {
            let mut stream = server.connect();
            write!(stream, "{method} / HTTP/1.1\r\nHost: health\r\n\r\n").expect("request");
            assert!(answer(&mut stream).0.starts_with("HTTP/1.1 200 "));
        }
        server.signal(Signal::TERM);
        server.end();
        let said = std::fs::read_to_string(&path).expect("a log");
        std::fs::remove_file(&path).expect("the log");
        assert!(!said.contains("WARN") && !said.contains(REFUSAL), "{engine}: {said}");
    }
}
