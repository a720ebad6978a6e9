//! The real program against the floor, and against brokers that misbehave: results, exit statuses, signals.

mod broker;
mod compare;
mod disk;
mod errors;
mod files;
mod hearer;
mod load;
mod partial;
mod terminal;
mod tls;
mod torture;
mod turns;
mod web_socket;

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use sluice::{Broker, Config};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sluice-bench");

/// The statuses that the README lists.
const ERROR: i32 = 1;
const USAGE: i32 = 2;
const MESSAGES: i32 = 3;
const CONNECTIONS: i32 = 4;
const BROKER_DIED: i32 = 5;
const INTERRUPTED: i32 = 130;

/// A process that is ended with the test.
struct Running {
    child: Child,
    errors: BufReader<std::process::ChildStderr>,
}

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let mut child = Command::new(PROGRAM)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let errors = BufReader::new(child.stderr.take().unwrap());
        Self { child, errors }
    }

    /// The next line on standard error that holds these words.
    fn wait_for(&mut self, words: &str) -> String {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            assert!(self.errors.read_line(&mut line).unwrap() > 0, "no line with {words}");
        }
        line
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Status, standard output, rest of standard error.
    fn end(mut self) -> (Option<i32>, String, String) {
        let (mut output, mut errors) = (String::new(), String::new());
        self.errors.read_to_string(&mut errors).unwrap();
        self.child.stdout.take().unwrap().read_to_string(&mut output).unwrap();
        (self.child.wait().unwrap().code(), output, errors)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A broker in this process. What else the machine does holds its turns up, and it refuses nobody for that.
fn broker_of(text: &str) -> Broker {
    let mut config = Config::parse("test", text, []).unwrap();
    config.limits.max_turn = None;
    Broker::start(config).unwrap()
}

/// The floor, and where it listens.
fn floor() -> (Running, SocketAddr) {
    let mut floor = Running::start(&["floor", "--bind", "127.0.0.1:0"]);
    let line = floor.wait_for("relaying on");
    let address = line.trim().rsplit(' ').next().unwrap().parse().unwrap();
    (floor, address)
}

fn run(arguments: &[&str]) -> Output {
    Command::new(PROGRAM).args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Runs a command against an address.
fn run_at(address: SocketAddr, arguments: &[&str]) -> (Option<i32>, String, String) {
    let port = address.port().to_string();
    let (command, rest) = arguments.split_first().unwrap();
    let output = run(&[&[*command, "-p", &port], rest].concat());
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// Has messages pass for half a second; longer only if none comes within that, on a machine that has much else
/// to do.
fn pass_at(address: SocketAddr, arguments: &[&str]) -> (Option<i32>, String, String) {
    let for_so_long =
        |seconds| run_at(address, &[arguments, &["-W", seconds, "--warm-up", "0"]].concat());
    let first = for_so_long("0.5");
    if first.1.contains("delivered             0 in") { for_so_long("20") } else { first }
}

fn start_at(address: SocketAddr, arguments: &[&str]) -> Running {
    let port = address.port().to_string();
    let (command, rest) = arguments.split_first().unwrap();
    Running::start(&[&[*command, "-p", &port], rest].concat())
}

/// Lines of standard error, but for what a slow machine shows of a run under way.
fn lines_told(errors: &str) -> usize {
    errors.lines().filter(|line| !line.contains(" connected  missing ")).count()
}

#[test]
fn interrupted_twice_it_ends_at_once() {
    // A broker that lets in and never closes: saying goodbye to it takes seconds.
    let address = broker::start(broker::Manner::NeverCloses);
    let mut conn = start_at(address, &["conn", "-c", "1"]);
    conn.wait_for("1/1 connected");
    conn.signal(Signal::INT);
    conn.wait_for("once more to end at once");
    conn.signal(Signal::INT);
    let (status, output, _) = conn.end();
    assert_eq!(status, Some(INTERRUPTED));
    assert_eq!(output, "");
}

#[test]
fn a_result_that_nobody_reads_is_still_written() {
    let (_floor, address) = floor();
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().to_str().unwrap();
    let pairs = ["run", "p2p", "--publishers", "1", "-W", "0.1", "--warm-up", "0", "--out", out];
    let mut run = start_at(address, &pairs);
    drop(run.child.stdout.take());
    let errors = run.wait_for("written to");
    assert_eq!(run.child.wait().unwrap().code(), Some(0), "{errors}");
    assert!(directory.path().join("report.html").exists());
}

#[test]
fn an_output_directory_that_cannot_be_is_named_before_the_run() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let out = file.path().to_str().unwrap();
    let address = broker::nobody();
    for arguments in [&["pub", "-t", "a", "--out", out][..], &["run", "p2p", "--out", out]] {
        let (status, _, errors) = run_at(address, arguments);
        assert_eq!(status, Some(ERROR), "{errors}");
        assert!(errors.starts_with(&format!("sluice-bench: {out}: ")), "{errors}");
    }
}

#[test]
fn nobody_there_is_one_line() {
    let address = broker::nobody();
    for arguments in [&["conn", "-c", "3"][..], &["pub", "-t", "a"], &["run", "p2p"]] {
        let (status, output, errors) = run_at(address, arguments);
        assert_eq!(status, Some(CONNECTIONS), "{errors}");
        assert_eq!(output, "");
        assert_eq!(lines_told(&errors), 1, "{errors}");
        let told = format!("could not connect to {address}, the first: client");
        assert!(errors.contains(&told), "{errors}");
        assert!(errors.contains("Connection refused"), "{errors}");
    }
}

#[test]
fn a_broker_that_refuses_is_quoted() {
    let address = broker::start(broker::Manner::Refuses);
    let (status, _, errors) = run_at(address, &["conn", "-c", "2"]);
    assert_eq!(status, Some(CONNECTIONS));
    assert!(errors.contains("2 of 2 clients could not connect"), "{errors}");
    assert!(errors.contains("refused by the broker: Not authorized"), "{errors}");
}

#[test]
fn wrong_usage_is_told_apart() {
    assert_eq!(run(&["pub"]).status.code(), Some(USAGE));
    assert_eq!(run(&["run", "p2p", "--size", "1"]).status.code(), Some(USAGE));
}
