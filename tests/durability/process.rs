//! The program as a process of its own, which can be killed.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{PoisonError, RwLock};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::common::packet::ConnAck;
use crate::common::{Client, Connect, Version};
use crate::log::Log;
use crate::room::Room;
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
    log: Log,
    /// Where it finds another file system in place of its directory.
    room: Option<Room>,
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
        let mut broker = Self::new(data, engine, shards);
        broker.restart();
        broker
    }

    fn new(data: TempDir, engine: &'static str, shards: u8) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            data,
            engine,
            durability: "os",
            shards,
            settings: &[],
            address,
            running: None,
            log: Log::default(),
            room: None,
            trace: None,
        }
    }

    /// On a disk of so many bytes, under `fsync`.
    pub(crate) fn start_on_disk(engine: &'static str, bytes: u64) -> Self {
        let mut broker = Self::new(TempDir::new().expect("a directory"), engine, 2);
        broker.room = Some(Room::with_disk(broker.data(), bytes));
        broker.durability = "fsync";
        broker.restart();
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
        broker.restart_traced(bytes);
        broker
    }

    /// Kills it and starts it again, with its system calls written down.
    pub(crate) fn restart_traced(&mut self, bytes: usize) {
        self.trace = Some(Trace { directory: TempDir::new().expect("a directory"), bytes });
        self.restart();
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

    /// A file of its directory, as it is seen from here.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        let path = self.data().join(name);
        self.room.as_ref().map_or_else(|| path.clone(), |room| room.seen(&path))
    }

    pub(crate) fn process(&self) -> &Child {
        self.running.as_ref().expect("it runs")
    }

    /// What it has said since its last start.
    pub(crate) fn log(&self) -> String {
        self.log.text()
    }

    /// Waits until it has said something since its last start.
    pub(crate) fn wait_said(&self, words: &str) {
        assert!(self.log.wait_for(words), "it did not say \"{words}\": {}", self.log());
    }

    /// As [`wait_said`](Self::wait_said); gives the line.
    pub(crate) fn wait_to_say(&self, words: &str) -> String {
        self.wait_said(words);
        let log = self.log();
        log.lines().find(|line| line.contains(words)).expect("it says so").to_owned()
    }

    /// The command that starts it.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        command
            .args(["--bind", &self.address.to_string()])
            .args(["--shards", &self.shards.to_string(), "--durability", self.durability])
            .arg("--data")
            .arg(self.data.path())
            .env("SLUICE_STORE_ENGINE", self.engine)
            .env("SLUICE_SYS_INTERVAL", "0s")
            .env("SLUICE_QUEUE_IN_MEMORY", "2")
            // What else the machine does holds turns up, too.
            .env("SLUICE_LIMITS_MAX_TURN", "unlimited")
            .envs(self.settings.iter().copied());
        match &self.room {
            Some(room) => room.enter(&command),
            None => command,
        }
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

    /// What its next life is told.
    pub(crate) fn tell(
        &mut self,
        durability: &'static str,
        settings: &'static [(&'static str, &'static str)],
    ) {
        (self.durability, self.settings) = (durability, settings);
    }

    /// Its next life is on another directory, by another engine.
    pub(crate) fn move_to(&mut self, data: TempDir, engine: &'static str) {
        (self.data, self.engine) = (data, engine);
    }

    pub(crate) fn engine(&self) -> &'static str {
        self.engine
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
        self.log = Log::of(child.stderr.take().expect("its log is a pipe"));
        self.running = Some(child);
        self.wait_said(" listening on ");
        let log = self.log();
        let (_, rest) = log.split_once(" listening on ").expect("it says so");
        let (address, _) = rest.split_once(' ').expect("more follows");
        self.address = address.parse().expect("an address");
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
