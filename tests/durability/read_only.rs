//! A data directory that cannot be written to: at the start, and under way.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::clients::{away, publish, publish_until_kept};
use crate::common::property::receive_maximum;
use crate::common::{Connect, Message, V5, code};
use crate::failing::{FAILS, WORKS};
use crate::process::Broker;
use crate::room::Room;

/// A start on it ends, and says why.
fn is_refused(data: &std::path::Path, engine: &str) {
    let room = Room::read_only(data);
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    command.args(["--bind", "127.0.0.1:0", "--data"]).arg(data).env("SLUICE_STORE_ENGINE", engine);
    let ended = room.enter(&command).output().expect("nsenter is there");
    let said = String::from_utf8_lossy(&ended.stderr);
    let why = format!("cannot use the data directory {}: Read-only file system", data.display());
    assert!(said.contains(&why), "{said}");
    assert!(said.contains("name one with --data"), "{said}");
    assert_eq!(ended.status.code(), Some(1), "{said}");
}

/// To look at what is in it is to write to it as well.
#[test]
fn a_look_at_it_is_refused() {
    let mut broker = Broker::start("fjall", 1);
    broker.kill();
    let room = Room::read_only(broker.data());
    for tool in ["check", "dump"] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
        command.args(["store", tool]).arg(broker.data());
        let ended = room.enter(&command).output().expect("nsenter is there");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(said.contains(": Read-only file system"), "{said}");
        let way = "; to read it is to write to it, as a start does: copy the whole directory to where you can write\n";
        assert!(said.ends_with(way), "{said}");
        assert_eq!((ended.status.code(), ended.stdout.len()), (Some(1), 0), "{said}");
    }
}

#[test]
fn a_start_on_it_is_refused() {
    is_refused(TempDir::new().expect("a directory").path(), "fjall");
    for engine in ["fjall", "sqlite"] {
        let mut broker = Broker::start(engine, 1);
        away(&broker, "away", "t");
        broker.connect(V5, "publisher").publish("t", "kept", 1);
        broker.kill();
        is_refused(broker.data(), engine);
        broker.restart();
        let (mut away, connack) = broker.connect_with(&Connect::lasting(V5, "away"));
        assert!(connack.session_present);
        away.expect("t", "kept");
    }
}

/// As long as it lasts, the system says to a broker that its file system is read-only, as it does after an
/// error of the disk. A mount of which files are open for writing cannot be made read-only.
struct ReadOnly(Child);

impl ReadOnly {
    const CALLS: &str = "pwrite64,fsync,fdatasync,ftruncate,fallocate";

    fn begin(broker: &Broker) -> Self {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-o", "/dev/null", "-p", &broker.process().id().to_string()]);
        strace.args(["-e", &format!("trace={}", Self::CALLS)]);
        strace.args(["-e", &format!("inject={}:error=EROFS", Self::CALLS)]);
        let mut strace = strace.stderr(Stdio::piped()).spawn().expect("strace is there");
        let mut said = BufReader::new(strace.stderr.take().expect("a pipe"));
        let mut line = String::new();
        said.read_line(&mut line).expect("it can be read");
        assert!(line.contains(" attached"), "this test has to trace its broker: {line}");
        // It says more when it ends.
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        Self(strace)
    }
}

impl Drop for ReadOnly {
    fn drop(&mut self) {
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let _ = self.0.wait();
    }
}

fn under_way(engine: &'static str) {
    let broker = Broker::start(engine, 2);
    let lasting = Connect::lasting(V5, "reader").with(receive_maximum(5));
    let (mut reader, _) = broker.connect_with(&lasting);
    reader.subscribe("t", 1);
    let mut publisher = broker.connect(V5, "publisher");
    publish(&mut publisher, "t", 0..50);
    let read_only = ReadOnly::begin(&broker);
    let refused = publisher.try_publish(Message::new("t", "50").qos(1));
    assert_eq!(refused, code::QUOTA_EXCEEDED);
    // SQLite knows no more than that it is an error of the disk.
    let why = if engine == "fjall" { "Read-only file system" } else { "disk I/O error" };
    broker.wait_said(FAILS);
    assert!(broker.log().contains(FAILS) && broker.log().contains(why), "{}", broker.log());
    for n in 0..50 {
        reader.expect("t", n.to_string());
    }
    drop(read_only);
    publish_until_kept(&mut publisher, "t");
    broker.wait_said(WORKS);
    let log = broker.log();
    assert_eq!((log.matches(FAILS).count(), log.matches(WORKS).count()), (1, 1), "{log}");
}

#[test]
fn under_way_under_fjall() {
    under_way("fjall");
}

#[test]
fn under_way_under_sqlite() {
    under_way("sqlite");
}
