//! A shard that ends by itself does not go unnoticed: the program ends, and says why.
//!
//! Has a `main` of its own, because it is also the program that fails: as `failing_shard broker` it
//! runs a broker with a hook that panics for one client.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};
use std::{env, thread};

use rustix::process::{Pid, Signal, kill_process};
use sluice::Config;
use sluice::config::{Durability, Limits, Listener, Store};
use sluice::hooks::{Client, Hook, Hooks};

/// The client that the hook does not survive.
const BOMB: &str = "bomb";

struct Fuse;

impl Hook for Fuse {
    fn connected(&self, client: &Client<'_>, _: bool) {
        assert_ne!(client.client_id, BOMB, "a hook that fails");
    }
}

fn main() -> ExitCode {
    if env::args().nth(1).as_deref() == Some("broker") {
        return broker();
    }
    the_program_ends_with_status_1_and_says_which_shard_and_why();
    println!("a shard that ends by itself is noticed: ok");
    ExitCode::SUCCESS
}

/// What `main.rs` does with a configuration, but for the hook.
fn broker() -> ExitCode {
    let store = Store { durability: Durability::Memory, ..Store::default() };
    let listeners = vec![Listener::on(std::net::SocketAddr::from(([127, 0, 0, 1], 0)))];
    // What else the machine does holds turns up, too.
    let limits = Limits { max_turn: None, ..Limits::default() };
    let config = Config { shards: 3, listeners, store, limits, ..Config::default() };
    let hooks = Hooks { hook: Arc::new(Fuse), ..Hooks::default() };
    match sluice::run(config.clone(), hooks, || Ok(config.clone())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sluice: {error}");
            ExitCode::FAILURE
        }
    }
}

/// A clean CONNECT of MQTT 3.1.1.
fn connect(client_id: &str) -> Vec<u8> {
    let len = u8::try_from(client_id.len()).expect("it is short");
    [b"\x10", &[12 + len][..], b"\0\x04MQTT\x04\x02\0\0\0", &[len], client_id.as_bytes()].concat()
}

fn the_program_ends_with_status_1_and_says_which_shard_and_why() {
    let mut child = Command::new(env::current_exe().expect("it knows itself"))
        .arg("broker")
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut log = BufReader::new(child.stderr.take().expect("its log is a pipe"));
    let mut line = String::new();
    let address = loop {
        line.clear();
        assert_ne!(log.read_line(&mut line).expect("its log can be read"), 0, "it ended");
        if let Some((_, rest)) = line.split_once(" listening on ") {
            break rest.split(' ').next().expect("an address follows").to_owned();
        }
    };
    let open = || TcpStream::connect(&address).expect("it listens");
    let mut other = open();
    other.write_all(&connect("other")).expect("CONNECT is sent");
    other.read_exact(&mut [0; 4]).expect("CONNACK comes");
    let failed = Instant::now();
    let mut bomb = open();
    bomb.write_all(&connect(BOMB)).expect("CONNECT is sent");

    // The log ends with the process; one that goes on without the shard does not end.
    let pid = Pid::from_child(&child);
    let (ended, is_ended) = mpsc::channel::<()>();
    let watchdog = thread::spawn(move || {
        if is_ended.recv_timeout(Duration::from_secs(20)) == Err(RecvTimeoutError::Timeout) {
            kill_process(pid, Signal::KILL).expect("it is ours");
        }
    });
    let mut rest = String::new();
    log.read_to_string(&mut rest).expect("its log can be read");
    let status = child.wait().expect("its status can be asked");
    drop(ended);
    watchdog.join().expect("it ends");
    assert_eq!(status.code(), Some(1), "{rest}");
    assert!(failed.elapsed() < Duration::from_secs(8), "the other shards waited for it");
    let last = rest.lines().last().unwrap_or_default();
    assert!(last.starts_with("sluice: shard ") && last.contains("panicked: "), "{rest}");
    assert!(rest.contains("a hook that fails"), "{rest}");
    assert_eq!(other.read(&mut [0; 1]).expect("it is closed in good order"), 0);
}
