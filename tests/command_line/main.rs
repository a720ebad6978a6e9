//! The command line, as a shell sees it: output, exit status, signals.

mod check;
mod errors;
mod files;
mod log;
mod run;
mod tls;

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;
use std::{env, fs, thread};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// The program with an environment that sets nothing of its own.
fn sluice() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sluice"));
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("SLUICE_") {
            command.env_remove(name);
        }
    }
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
    log: BufReader<Box<dyn Read>>,
    /// The lines of its log up to the one that says where it listens.
    start: Vec<String>,
}

impl Running {
    fn start(command: &mut Command) -> Self {
        command.env("SLUICE_STORE_DURABILITY", "memory");
        // What else the machine does holds turns up, too.
        command.env("SLUICE_LIMITS_MAX_TURN", "unlimited");
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the program starts");
        let log = child.stderr.take().expect("its log is a pipe");
        let mut log: BufReader<Box<dyn Read>> = BufReader::new(Box::new(log));
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

    /// The next line of its log.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.log.read_line(&mut line).expect("its log can be read");
        line
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).expect("the signal is sent");
    }

    /// The exit status and the rest of the log.
    fn end(mut self) -> (Option<i32>, String) {
        // The log ends with the process.
        let pid = Pid::from_child(&self.child);
        let (ended, is_ended) = mpsc::channel::<()>();
        let watchdog = thread::spawn(move || {
            if is_ended.recv_timeout(Duration::from_secs(20)) == Err(RecvTimeoutError::Timeout) {
                kill_process(pid, Signal::KILL).expect("it is ours");
            }
        });
        let mut rest = String::new();
        self.log.read_to_string(&mut rest).expect("its log can be read");
        let status = self.child.wait().expect("its status can be asked");
        drop(ended);
        watchdog.join().expect("it ends");
        (status.code(), rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
