//! Killed before its first start has come to its end: nothing is stored then, and so nothing is lost.

use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::log::Log;
use crate::process::{Broker, spawn};

/// A broker on a new directory that is killed when it opens its `nth` file; says whether it was.
fn is_killed_at(nth: usize, data: &TempDir, engine: &str) -> bool {
    let mut strace = Command::new("strace");
    strace
        .args(["-D", "-f", "-q", "-o", "/dev/null", "-e", "trace=openat", "-e"])
        .arg(format!("inject=openat:signal=KILL:when={nth}"))
        .args([env!("CARGO_BIN_EXE_sluice"), "--bind", "127.0.0.1:0", "--shards", "1", "--data"])
        .arg(data.path())
        .env("SLUICE_STORE_ENGINE", engine)
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    let mut child = spawn(&mut strace);
    let log = Log::of(child.stderr.take().expect("its log is a pipe"));
    let has_started = log.wait_for(" listening on ");
    child.kill().expect("it is ours");
    child.wait().expect("it ends");
    assert!(!log.text().contains("strace: "), "this test has to trace its broker: {}", log.text());
    !has_started
}

/// The files before the first are those of the program itself, and of the system.
fn is_no_loss(engine: &'static str, first: usize, step: usize) {
    for nth in (first..).step_by(step) {
        let data = TempDir::new().expect("a directory");
        let was_killed = is_killed_at(nth, &data, engine);
        assert!(was_killed || nth > first, "the first is before it listens");
        let broker = Broker::start_on(data, engine, 1);
        let log = broker.log();
        assert!(!log.contains("ERROR"), "killed at {nth}: {log}");
        if !was_killed {
            break;
        }
    }
}

#[test]
fn is_no_loss_under_fjall() {
    is_no_loss("fjall", 11, 29);
}

#[test]
fn is_no_loss_under_sqlite() {
    is_no_loss("sqlite", 11, 3);
}
