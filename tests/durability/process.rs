//! The program as a process of its own, which can be killed.

use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::packet::ConnAck;
use crate::common::{Client, Connect, Version, let_pass};
use crate::trace::traced;

/// A data directory, and a broker that uses it when it runs.
pub(crate) struct Broker {
    data: TempDir,
    engine: &'static str,
    durability: &'static str,
    shards: u8,
    /// What it is told of its configuration beside.
    settings: &'static [(&'static str, &'static str)],
    address: SocketAddr,
    running: Option<Child>,
    log: String,
    /// What it said since then.
    later: Arc<Mutex<String>>,
    trace: Option<Trace>,
}

/// Where its system calls are written to, and how many bytes of each.
struct Trace {
    directory: TempDir,
    bytes: usize,
}

impl Broker {
    pub(crate) fn start(engine: &'static str, shards: u8) -> Self {
        Self::start_on(TempDir::new().expect("a directory"), engine, shards)
    }

    /// On what is in that directory.
    pub(crate) fn start_on(data: TempDir, engine: &'static str, shards: u8) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut broker = Self {
            data,
            engine,
            durability: "os",
            shards,
            settings: &[],
            address,
            running: None,
            log: String::new(),
            later: Arc::default(),
            trace: None,
        };
        broker.restart_with(shards);
        broker
    }

    /// With some variables of its configuration.
    pub(crate) fn start_set(
        engine: &'static str,
        shards: u8,
        settings: &'static [(&'static str, &'static str)],
    ) -> Self {
        let mut broker = Self::start(engine, shards);
        broker.settings = settings;
        broker.restart();
        broker
    }

    /// With another `--durability` than "os".
    pub(crate) fn start_with(engine: &'static str, durability: &'static str, shards: u8) -> Self {
        let mut broker = Self::start(engine, shards);
        broker.durability = durability;
        broker.restart();
        broker
    }

    /// With its system calls written to [`trace`](Self::trace), so many bytes of each.
    pub(crate) fn start_traced(
        engine: &'static str,
        durability: &'static str,
        bytes: usize,
        settings: &'static [(&'static str, &'static str)],
    ) -> Self {
        let mut broker = Self::start(engine, 2);
        (broker.durability, broker.settings) = (durability, settings);
        broker.trace = Some(Trace { directory: TempDir::new().expect("a directory"), bytes });
        broker.restart();
        broker
    }

    pub(crate) fn trace(&self) -> std::path::PathBuf {
        self.trace.as_ref().expect("it is traced").directory.path().join("trace")
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn data(&self) -> &std::path::Path {
        self.data.path()
    }

    pub(crate) fn process(&self) -> &Child {
        self.running.as_ref().expect("it runs")
    }

    /// What it said up to where it listens, at its last start.
    pub(crate) fn log(&self) -> &str {
        &self.log
    }

    /// Waits until it says something with these words, since it listens; gives the line.
    pub(crate) fn wait_to_say(&self, words: &str) -> String {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let later = self.later.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let line = later.split_inclusive('\n').find(|line| line.contains(words));
            if let Some(line) = line.filter(|line| line.ends_with('\n')) {
                return line.to_owned();
            }
            assert!(Instant::now() < until, "nothing with \"{words}\" in {later}");
            let_pass(Duration::from_millis(5));
        }
    }

    /// The command that starts it; a write beyond the limit on a file's size is an error, not its end.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new("sh");
        command
            .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_sluice")])
            .args(["--bind", &self.address.to_string()])
            .args(["--shards", &self.shards.to_string(), "--durability", self.durability])
            .arg("--data")
            .arg(self.data.path())
            .env("SLUICE_STORE_ENGINE", self.engine)
            .env("SLUICE_SYS_INTERVAL", "0s")
            .env("SLUICE_QUEUE_IN_MEMORY", "2")
            .envs(self.settings.iter().copied());
        command
    }

    /// Kills it, as far as it runs: it cannot do anything about it.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.running.take() {
            child.kill().expect("it is ours");
            child.wait().expect("it ends");
        }
    }

    /// Has it stop, and waits until it has.
    pub(crate) fn stop(&mut self) {
        let pid = Pid::from_child(self.process());
        kill_process(pid, Signal::TERM).expect("it is ours");
        assert!(self.wait().success());
    }

    /// Waits for its end.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let mut child = self.running.take().expect("it runs");
        child.wait().expect("it ends")
    }

    pub(crate) fn restart(&mut self) {
        self.restart_with(self.shards);
    }

    /// Kills it and starts it again with so many shards, on the same port.
    pub(crate) fn restart_with(&mut self, shards: u8) {
        self.kill();
        self.shards = shards;
        let mut command = self.command();
        if let Some(Trace { bytes, .. }) = self.trace {
            command = traced(&command, &self.trace(), bytes);
        }
        command.stdin(Stdio::null()).stderr(Stdio::piped());
        let mut child = spawn(&mut command);
        let mut log = BufReader::new(child.stderr.take().expect("its log is a pipe"));
        self.log.clear();
        while !self.log.contains(" listening on ") {
            let read = log.read_line(&mut self.log).expect("its log can be read");
            assert_ne!(read, 0, "it ended before it listened: {}", self.log);
        }
        let (_, rest) = self.log.split_once(" listening on ").expect("it says so");
        let (address, _) = rest.split_once(' ').expect("more follows");
        self.address = address.parse().expect("an address");
        self.running = Some(child);
        // Nobody else reads it, and it must not be full.
        self.later = Arc::default();
        let later = self.later.clone();
        std::thread::spawn(move || {
            let mut line = String::new();
            while log.read_line(&mut line).is_ok_and(|read| read > 0) {
                if std::env::var_os("SHOW_LOG").is_some() {
                    eprint!("{line}");
                }
                later.lock().unwrap_or_else(PoisonError::into_inner).push_str(&line);
                line.clear();
            }
        });
    }

    /// A connection that must be accepted, and its CONNACK.
    pub(crate) fn connect_with(&self, connect: &Connect) -> (Client, ConnAck) {
        let (client, connack) = Client::connect(self.address, connect);
        assert_eq!(connack.code, 0, "CONNECT of {}", connect.client_id);
        (client, connack)
    }

    pub(crate) fn connect(&self, version: Version, client_id: &str) -> Client {
        self.connect_with(&Connect::new(version, client_id)).0
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Held by whoever has a data directory in this process: until it is another program, a new process has
/// what this one has open, locks among it.
pub(crate) static OPENS: RwLock<()> = RwLock::new(());

/// Starts a program.
pub(crate) fn spawn(command: &mut Command) -> Child {
    let _spawns = OPENS.read().unwrap_or_else(PoisonError::into_inner);
    command.spawn().unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()))
}

/// Makes `name::fjall` and `name::sqlite` of a function that takes a broker.
macro_rules! engines {
    ($test:ident) => {
        mod $test {
            #[test]
            fn fjall() {
                super::$test(crate::process::Broker::start("fjall", 2));
            }

            #[test]
            fn sqlite() {
                super::$test(crate::process::Broker::start("sqlite", 3));
            }
        }
    };
}

pub(crate) use engines;
