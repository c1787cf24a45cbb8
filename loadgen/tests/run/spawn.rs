//! Servers that the program starts: their cost, their inherited state, and the end of all their
//! processes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::Duration;

use loadgen::result::{CostSource, Server};
use rustix::time::{ClockId, clock_gettime};

use super::command::{
    FINE, SPAWNED, document, ended, listens, loadgen, run_short, scratch, server_command, text,
    until,
};

/// CPU time that the server burns for each message.
pub(super) const SERVER_BURNS: Duration = Duration::from_millis(5);
/// Messages of a run: the window ends with the last echo.
pub(super) const MESSAGES: &str = "200";
const MESSAGE_BYTES: usize = 16;
/// Environment variable with the way of working for the server that this test program becomes.
const WORK: &str = "SPARRING_TEST_WORK";

pub(super) fn quoted(word: &str) -> String {
    shlex::try_quote(word).expect("no NUL").into_owned()
}

/// Returns a command that starts `server` in the background and ends soon.
fn starter(server: &str) -> String {
    format!("sh -c {}", quoted(&format!("{server} & sleep 0.3")))
}

/// Returns the command of a server that has left its process group and its session.
fn deserter(server: &str) -> String {
    starter(&format!("setsid {server}"))
}

fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a port")
}

// Cost of a server.

/// Not a test, but an echo server of raw bytes that burns CPU time for each message.
/// `SPARRING_TEST_WORK` has the port and the way of working: `connection` works in a thread per
/// connection, `thread` in one per message, `process` in a process per connection. `child` alone is
/// such a process.
#[test]
#[ignore = "the server that other tests spawn"]
fn serve_with_work() {
    let Ok(work) = std::env::var(WORK) else { return };
    if work == "child" {
        let socket = std::io::stdin().as_fd().try_clone_to_owned().expect("the connection");
        return echo(TcpStream::from(socket), false);
    }
    let (port, way) = work.split_once(' ').expect("port and way");
    let listener = TcpListener::bind(format!("127.0.0.1:{port}")).expect("a free port");
    println!("\nlistening on tcp://127.0.0.1:{port} (engine blocking, 1 thread)");
    for connection in listener.incoming().map_while(Result::ok) {
        let way = way.to_owned();
        thread::spawn(move || match way.as_str() {
            "process" => drop(child(connection).wait()),
            way => echo(connection, way == "thread"),
        });
    }
}

fn child(connection: TcpStream) -> Child {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "spawn::serve_with_work", "--ignored", "--nocapture"])
        .env(WORK, "child")
        .stdin(OwnedFd::from(connection))
        .stdout(Stdio::null())
        .spawn()
        .expect("a process")
}

fn echo(mut connection: TcpStream, thread_per_message: bool) {
    connection.set_nodelay(true).expect("a socket");
    let mut message = [0; MESSAGE_BYTES];
    while connection.read_exact(&mut message).is_ok() {
        if thread_per_message {
            thread::spawn(|| burn(SERVER_BURNS)).join().expect("no panic");
        } else {
            burn(SERVER_BURNS);
        }
        connection.write_all(&message).expect("the generator reads");
    }
}

pub(super) fn burn(work: Duration) {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
    };
    let end = now() + work;
    while now() < end {}
}

/// Returns the command of a server that works in this way, for --spawn.
pub(super) fn serving_with_work(way: &str) -> String {
    let this = quoted(std::env::current_exe().expect("this program").to_str().expect("UTF-8"));
    format!(
        "env '{WORK}={{port}} {way}' {this} --exact spawn::serve_with_work --ignored --nocapture"
    )
}

/// Returns the arguments of a run against a server that works in this way.
fn work(way: &str) -> Vec<String> {
    let server = serving_with_work(way);
    let words =
        ["run", "tcp://127.0.0.1:{port}", "-c", "2", "-s", "16", "-w", "0", "--engine", "epoll"];
    let more = ["-n", MESSAGES, "--json", "-", "--allow-invalid", "--spawn", &server];
    words.into_iter().chain(more).map(str::to_owned).collect()
}

/// Returns the server's stored cost, which must be that of the work and little else.
fn assert_costs_its_work(way: &str, output: &Output) -> Server {
    assert_eq!(output.status.code(), Some(0), "{way}: {}", text(&output.stderr));
    let run = document(output).runs.remove(0);
    let server = run.server.expect("its cost");
    let share = server.cpu_ns_per_message / SERVER_BURNS.as_nanos() as f64;
    // The documented bound is a tenth: at the borders of the window a part of a message is missing.
    assert!((0.9..1.1).contains(&share), "{way}: {share} of the work, by {:?}", server.cost_source);
    assert!(
        !run.notes.iter().any(|note| note.contains("/proc/PID/stat")),
        "{way}: {:?}",
        run.notes
    );
    server
}

const WAYS: [&str; 3] = ["connection", "thread", "process"];

#[test]
fn work_costs_the_same_in_threads_and_processes() {
    for way in WAYS {
        let words = work(way);
        let server = assert_costs_its_work(
            way,
            &loadgen(&words.iter().map(String::as_str).collect::<Vec<_>>()).output().expect("runs"),
        );
        let source = server.cost_source.expect("named");
        assert_eq!(server.cost_resolution_ns, Some(source.resolution_ns()));
        // The kernel keeps no counts of the switches of ended threads.
        assert_eq!(server.voluntary_switches_per_message.is_none(), way == "thread");
    }
}

/// Returns the program in a place where no control group can be made below this folder, because an
/// empty one hides it. `None` where that is not possible.
fn hiding(folder: &str) -> Option<Command> {
    let script = format!("mount -t tmpfs none {folder} && exec \"$@\"");
    let hidden = |program: &str| {
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, "sh", program]);
        command
    };
    let is_possible = hidden("true").output().is_ok_and(|output| output.status.success());
    is_possible.then(|| hidden(env!("CARGO_BIN_EXE_sparring-loadgen")))
}

#[test]
fn work_costs_the_same_in_every_source() {
    // Where both versions are mounted, version 2 is below `unified`.
    let sources = [
        ("/sys/fs/cgroup", &[CostSource::Procfs][..]),
        ("/sys/fs/cgroup/unified", &[CostSource::CgroupV1, CostSource::Procfs]),
    ];
    for (hidden, sources) in sources {
        for way in WAYS {
            let Some(mut program) = hiding(hidden) else {
                println!("skipped: {hidden} cannot be hidden here");
                continue;
            };
            let output = program.args(work(way)).output().expect("runs");
            let source = assert_costs_its_work(way, &output).cost_source.expect("named");
            assert!(sources.contains(&source), "{source:?}");
        }
    }
}

// Inherited limits, signals and environment.

#[test]
fn a_server_inherits_what_the_shell_had() {
    let folder = scratch("inherits");
    let files = ["of-shell", "of-server"].map(|name| folder.join(name));
    // These are limits, blocked and ignored signals, and the environment except the shell's own
    // variables.
    let facts = |file: &Path| {
        let facts = "ulimit -Sn; ulimit -Sl; grep -E 'Sig(Blk|Ign)' /proc/self/status; env | grep -v ^_= | sort";
        format!("{{ {facts}; }} > {}", file.display())
    };
    let server = quoted(&format!("{}; exec {}", facts(&files[1]), server_command("none")));
    let server = format!("sh -c {server}");
    let shell = format!("ulimit -Sn 1000; ulimit -Sl 64; {}; exec \"$@\"", facts(&files[0]));
    let program = env!("CARGO_BIN_EXE_sparring-loadgen");
    let words = ["-c", "4", "-d", "100ms", "-w", "0", "--engine", "epoll", "--spawn", &server];
    let output = Command::new("sh")
        .args(["-c", &shell, "sh", program, "run", SPAWNED])
        .args(words)
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(FINE), "{}", text(&output.stderr));
    let [of_shell, of_server] = files.map(|file| std::fs::read_to_string(file).expect("written"));
    assert!(of_shell.starts_with("1000\n64\n"), "{of_shell}");
    assert_eq!(of_server, of_shell);
    std::fs::remove_dir_all(&folder).expect("our own folder");
}

// Remaining processes of a server.

/// Runs the program with a server that is started by `start`.
fn run_started(start: fn(&str) -> String, fault: &str, at: SocketAddr) -> Output {
    let server = start(&server_command(fault).replace("{port}", &at.port().to_string()));
    run_short(&[&format!("ws://{at}/"), "--spawn", &server, "--json", "-"])
}

#[test]
fn a_server_whose_starter_has_ended_is_measured_and_ended() {
    for start in [starter, deserter] {
        let at = free_address();
        let output = run_started(start, "none", at);
        assert_eq!(output.status.code(), Some(FINE), "{}", text(&output.stderr));
        let server = document(&output).runs.remove(0).server.expect("its cost");
        assert!(server.cpu_ns_per_message > 0.0 && server.rss_bytes.is_some_and(|bytes| bytes > 0));
        assert!(!listens(at));
    }
}

#[test]
fn a_server_whose_starter_has_ended_is_gone_after_a_failure() {
    for start in [starter, deserter] {
        let at = free_address();
        let output = run_started(start, "not-found", at);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("404"), "{}", text(&output.stderr));
        assert!(!listens(at));
    }
}

#[test]
fn a_run_ends_with_the_last_process_of_its_server() {
    // The exit status would be that of a shell that stays for a while.
    let start = |server: &str| format!("sh -c {}", quoted(&format!("{server} &")));
    let output = run_started(start, "exit", free_address());
    let said = text(&output.stderr);
    assert!(
        said.contains("the server ended during the run") && said.contains("exit status: 3"),
        "{said}"
    );
}

#[test]
fn nothing_of_a_server_outlives_a_killed_generator() {
    for start in [starter, deserter] {
        let at = free_address();
        let server = start(&server_command("none").replace("{port}", &at.port().to_string()));
        let words =
            ["run", &format!("ws://{at}/"), "-d", "1h", "--engine", "epoll", "--spawn", &server];
        let mut child = loadgen(&words).stdout(Stdio::null()).spawn().expect("runs");
        until("the server listens", || listens(at) || ended(&mut child));
        child.kill().expect("our own child");
        child.wait().expect("killed");
        until("the server has ended", || !listens(at));
    }
}

#[test]
fn the_control_group_is_removed() {
    let folder = scratch("cgroup");
    let groups = folder.join("groups");
    let noting = |server: &str| {
        format!(
            "sh -c {}",
            quoted(&format!("cat /proc/self/cgroup > {}; exec {server}", groups.display()))
        )
    };
    let output = run_short(&[SPAWNED, "--spawn", &noting(&server_command("none"))]);
    assert_eq!(output.status.code(), Some(FINE), "{}", text(&output.stderr));
    let found = group_folders(&std::fs::read_to_string(&groups).expect("written"));
    if found.is_empty() {
        println!("skipped: no control group can be made here");
    }
    assert!(found.iter().all(|folder| !Path::new(folder).exists()), "{found:?}");

    let at = free_address();
    let server = noting(&server_command("none").replace("{port}", &at.port().to_string()));
    let words =
        ["run", &format!("ws://{at}/"), "-d", "1h", "--engine", "epoll", "--spawn", &server];
    let mut child = loadgen(&words).stdout(Stdio::null()).spawn().expect("runs");
    until("the server listens", || listens(at) || ended(&mut child));
    let found = group_folders(&std::fs::read_to_string(&groups).expect("written"));
    child.kill().expect("our own child");
    child.wait().expect("killed");
    until("the group is gone", || found.iter().all(|folder| !Path::new(folder).exists()));
    std::fs::remove_dir_all(&folder).expect("our own folder");
}

/// Returns the folders where the control groups of a server may be mounted.
fn group_folders(membership: &str) -> Vec<String> {
    let paths = membership.lines().filter_map(|line| line.splitn(3, ':').nth(2));
    let paths = paths.filter(|path| path.contains("/sparring-server-"));
    let mounts = ["", "/unified", "/cpuacct", "/cpu,cpuacct"];
    paths.flat_map(|path| mounts.map(|mount| format!("/sys/fs/cgroup{mount}{path}"))).collect()
}

// Port of a server.

#[test]
fn a_run_that_loses_its_port_is_repeated_with_another() {
    let folder = scratch("race");
    let marker = folder.join("port");
    let first = format!(
        "if [ ! -e {0} ]; then echo {{port}} > {0}.new; mv {0}.new {0}; ",
        marker.display()
    );
    let server = server_command("none");
    let command =
        |lost: &str| format!("sh -c {}", quoted(&format!("{first}{lost}; fi; exec {server}")));

    // The server finds its address in use.
    let refused = command("echo 'bind: Address already in use' >&2; exit 1");
    let output = run_short(&[SPAWNED, "--spawn", &refused]);
    assert_eq!(output.status.code(), Some(FINE), "{}", text(&output.stderr));
    std::fs::remove_file(&marker).expect("written");

    // Another process listens there.
    let waiting = command("exec sleep 3600");
    let words = [
        "run", SPAWNED, "-c", "4", "-d", "100ms", "-w", "0", "--engine", "epoll", "--spawn",
        &waiting,
    ];
    let child =
        loadgen(&words).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    until("the server starts", || marker.exists());
    let port = std::fs::read_to_string(&marker).expect("written");
    let _somebody = TcpListener::bind(format!("127.0.0.1:{}", port.trim())).expect("still free");
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.code(), Some(FINE), "{}", text(&output.stderr));
    std::fs::remove_dir_all(&folder).expect("our own folder");
}

#[test]
fn a_server_that_is_always_refused_its_port_is_an_error() {
    let command = "sh -c 'echo x >&2; echo Address already in use >&2; exit 5'";
    let output = run_short(&[SPAWNED, "--spawn", command]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("exit status: 5") && said.contains("Address already in use"), "{said}");
}
