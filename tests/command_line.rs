//! The command line, as a shell sees it: output, exit status, signals.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The program with an environment that sets nothing of its own, but that nothing is stored.
fn sluice() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("SLUICE_") {
            command.env_remove(name);
        }
    }
    command.env("SLUICE_STORE_DURABILITY", "memory");
    command.stdin(Stdio::null());
    command
}

/// Exit status, standard output, standard error of a run that ends by itself.
fn ends(command: &mut Command) -> (i32, String, String) {
    let output = command.output().expect("the program starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap_or(-1), text(&output.stdout), text(&output.stderr))
}

fn file(text: &str) -> (TempDir, String) {
    let dir = TempDir::new().expect("a temporary directory");
    let path = dir.path().join("sluice.toml");
    fs::write(&path, text).expect("the file is written");
    let path = path.display().to_string();
    (dir, path)
}

/// A broker that is running.
struct Running {
    child: Child,
    log: BufReader<std::process::ChildStderr>,
    /// The lines of its log up to the one that says where it listens.
    start: Vec<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
        let mut log = BufReader::new(child.stderr.take().expect("its log is a pipe"));
        let mut start = Vec::new();
        while !start.last().is_some_and(|line: &String| line.contains(" listening on ")) {
            let mut line = String::new();
            let read = log.read_line(&mut line).expect("its log can be read");
            assert_ne!(read, 0, "it ended before it listened: {start:?}");
            start.push(line);
        }
        Self { child, log, start }
    }

    fn started(&self) -> &str {
        self.start.last().expect("it has started")
    }

    fn addresses(&self) -> Vec<String> {
        let line = self.started();
        let (_, rest) = line.split_once(" listening on ").expect("it says where it listens");
        let (addresses, _) = rest.split_once(" with ").expect("it says how many shards it has");
        addresses.split(", ").map(str::to_owned).collect()
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the signal is sent");
    }

    /// The exit status and the rest of the log.
    fn end(mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + Duration::from_secs(20);
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("its status can be asked") {
                break status;
            }
            assert!(Instant::now() < deadline, "it does not end");
            thread::sleep(Duration::from_millis(10));
        };
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).expect("its log can be read");
        (status.code(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn help_shows_a_newcomer_around() {
    let (status, help, _) = ends(sluice().arg("--help"));
    assert_eq!(status, 0);
    for word in [
        "MQTT",
        "127.0.0.1:1883",
        "mosquitto_sub",
        "--config",
        "--bind",
        "--shards",
        "--log",
        "check",
    ] {
        assert!(help.contains(word), "{word} is not in:\n{help}");
    }
    let (status, version, _) = ends(sluice().arg("--version"));
    assert_eq!((status, version), (0, format!("sluice {}\n", env!("CARGO_PKG_VERSION"))));
}

#[test]
fn check_says_whether_a_file_is_right() {
    let (_dir, right) = file("[limits]\nmax_packet_size = \"64KiB\"\n");
    let (status, out, err) = ends(sluice().args(["check", &right]));
    assert_eq!((status, out, err), (0, format!("{right}: right\n"), String::new()));

    let (_dir, wrong) = file("# a file\n[limits]\nmax_packet_size = 64\n");
    let (status, out, err) = ends(sluice().args(["check", &wrong]));
    assert_eq!((status, out.as_str()), (2, ""));
    let line = format!("{wrong}:3: limits.max_packet_size: 64 has no unit; write a size ");
    assert!(err.starts_with(&line), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");

    let (status, _, err) = ends(sluice().args(["check", "/nowhere/sluice.toml"]));
    assert_eq!(status, 2);
    assert!(err.starts_with("/nowhere/sluice.toml: cannot be read: "), "{err}");
}

#[test]
fn check_takes_the_commented_file() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/sluice.toml");
    assert_eq!(ends(sluice().args(["check", path])).0, 0);
}

#[test]
fn what_is_wrong_is_said_before_anything_is_bound() {
    let (_dir, wrong) = file("colour = 1\n[[listener]]\nbind = \"127.0.0.1:0\"\n");
    let (status, _, err) = ends(sluice().args(["--config", &wrong]));
    assert_eq!(status, 2);
    assert!(err.contains(":1: colour: is not a known key"), "{err}");
    assert!(!err.contains("listening"), "{err}");

    let (status, _, err) = ends(sluice().env("SLUICE_QUEUE_MAX_BYTE", "1MiB"));
    assert_eq!(status, 2);
    assert!(err.contains("did you mean SLUICE_QUEUE_MAX_BYTES?"), "{err}");

    for flags in [
        ["--bind", "localhost:1883"],
        ["--bind", "1883"],
        ["--shards", "65"],
        ["--log", "loud"],
        ["--colour", "red"],
    ] {
        let (status, _, err) = ends(sluice().args(flags));
        assert_eq!(status, 2, "{flags:?}: {err}");
    }
    let twice = ["--bind", "127.0.0.1:2", "--bind", "127.0.0.1:2"];
    let (status, _, err) = ends(sluice().args(twice));
    assert_eq!(status, 2);
    assert!(err.starts_with("--bind: listener[1].bind: 127.0.0.1:2 is bound by another"), "{err}");
}

#[test]
fn it_says_where_it_listens_and_stops_on_a_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let flags = ["--bind", "127.0.0.1:0", "--bind", "127.0.0.1:0", "--shards", "2"];
        let broker = Running::start(sluice().args(flags));
        assert!(broker.started().contains(" with 2 shards"), "{}", broker.started());
        let addresses = broker.addresses();
        assert_eq!(addresses.len(), 2, "{addresses:?}");
        for address in &addresses {
            TcpStream::connect(address).expect("it listens where it says");
        }
        broker.signal(signal);
        let (status, log) = broker.end();
        assert_eq!(status, Some(0), "{log}");
        assert!(log.contains("stopped"), "{log}");
    }
}

#[test]
fn a_hang_up_does_not_end_it() {
    let broker = Running::start(sluice().args(["--bind", "127.0.0.1:0", "--shards", "1"]));
    assert!(broker.started().trim_end().ends_with(" with 1 shard"), "{}", broker.started());
    broker.signal(Signal::HUP);
    thread::sleep(Duration::from_millis(200));
    broker.signal(Signal::TERM);
    let (status, log) = broker.end();
    assert_eq!(status, Some(0), "{log}");
    assert!(log.contains("SIGHUP"), "{log}");
}

#[test]
fn a_flag_goes_before_a_variable_and_a_variable_before_the_file() {
    let (_dir, path) = file("shards = 1\n[[listener]]\nbind = \"127.0.0.2:0\"\n");
    let from_file = Running::start(sluice().args(["--config", &path]));
    assert!(from_file.started().contains("127.0.0.2:"), "{}", from_file.started());
    assert!(from_file.started().contains(" 1 shard"), "{}", from_file.started());

    let mut command = sluice();
    command.args(["--config", &path]).env("SLUICE_SHARDS", "2");
    command.env("SLUICE_LISTENER_0_BIND", "127.0.0.3:0");
    let from_variable = Running::start(&mut command);
    assert!(from_variable.started().contains("127.0.0.3:"), "{}", from_variable.started());
    assert!(from_variable.started().contains(" 2 shards"), "{}", from_variable.started());

    command.args(["--shards", "3", "--bind", "127.0.0.4:0"]);
    let from_flag = Running::start(&mut command);
    assert!(from_flag.started().contains("127.0.0.4:"), "{}", from_flag.started());
    assert!(from_flag.started().contains(" 3 shards"), "{}", from_flag.started());
}

#[test]
fn others_being_able_to_reach_it_is_worth_a_warning() {
    let open = Running::start(sluice().args(["--bind", "0.0.0.0:0", "--shards", "1"]));
    let log = open.start.concat();
    assert!(log.contains("WARN") && log.contains("no authentication"), "{log}");
    let own = Running::start(sluice().args(["--bind", "127.0.0.1:0", "--shards", "1"]));
    assert!(!own.start.concat().contains("authentication"), "{:?}", own.start);
}

#[test]
fn connections_it_cannot_serve_are_worth_a_warning() {
    let (_dir, path) = file("[limits]\nmax_connections = 4000000000\nmax_sessions = 4000000000\n");
    let args = ["--config", &path, "--bind", "127.0.0.1:0", "--shards", "1"];
    let broker = Running::start(sluice().args(args));
    let log = broker.start.concat();
    assert!(log.contains("WARN") && log.contains("limits.max_connections"), "{log}");
}

#[test]
fn a_taken_address_is_said() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let address = taken.local_addr().expect("it has an address").to_string();
    let (status, _, err) = ends(sluice().args(["--bind", &address, "--shards", "1"]));
    assert_eq!(status, 1, "{err}");
    assert!(err.contains(&address), "{err}");
}
