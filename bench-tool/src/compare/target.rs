//! A broker under test: found, started on its cores, awaited, stopped.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use sluice::mqtt::Version;

use super::config::{Comparison, Source, TargetPlan};
use crate::cli;
use crate::engine::{ClientSpec, Endpoint, EngineOptions, Fleet};
use crate::measure::ProcessGroup;
use crate::signals;

/// How long a broker may take to end after SIGTERM.
const STOP_PATIENCE: Duration = Duration::from_secs(5);

/// How long a broker that runs anyway may take to accept a connection.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// Lines of a broker's output that are shown when something goes wrong.
const SAID_LINES: usize = 3;

/// Whether a target can be used on this machine.
pub(super) enum Availability {
    Here,
    /// Why not.
    Missing(String),
}

/// A target that answers.
pub(super) struct Running {
    address: SocketAddr,
    pids: Vec<u32>,
    started: Option<Started>,
}

/// A process of ours; dropping it ends it.
struct Started {
    child: Child,
    directory: PathBuf,
}

/// Prepares a target, and looks for its program.
pub(super) fn availability(
    target: &TargetPlan,
    comparison: &Comparison,
) -> Result<Availability, crate::Error> {
    let command = match &target.source {
        Source::Command { command, .. } => command,
        Source::Address { host, port, .. } => return Ok(is_answering(host, *port)),
    };
    if let Some(prepare) = &target.prepare {
        eprintln!("{}: {}", target.name, prepare.join(" "));
        let (program, arguments) = split(prepare);
        let done =
            Command::new(program).args(arguments).current_dir(&comparison.directory).status();
        match done {
            Ok(status) if status.success() => {}
            Ok(status) => {
                return Ok(Availability::Missing(format!("preparing it ended with {status}")));
            }
            Err(error) => return Ok(Availability::Missing(format!("{program}: {error}"))),
        }
    }
    let (program, _) = split(command);
    let program = Places::new(comparison, Path::new(""), 0)?.fill(program);
    if is_installed(&program) {
        return Ok(Availability::Here);
    }
    Ok(Availability::Missing(format!("{program} is not installed")))
}

/// Whether somebody listens there.
fn is_answering(host: &str, port: u16) -> Availability {
    let tried = cli::resolve(host, port).and_then(|address| {
        TcpStream::connect_timeout(&address, ANSWER_PATIENCE).map_err(|error| error.to_string())
    });
    match tried {
        Ok(_) => Availability::Here,
        Err(error) => Availability::Missing(format!("nobody answers at {host}:{port}: {error}")),
    }
}

/// What the target says its version is: the first line that its command prints, whatever it ends with.
pub(super) fn version(target: &TargetPlan, comparison: &Comparison) -> Option<String> {
    let places = Places::new(comparison, Path::new(""), 0).ok()?;
    let words: Vec<String> = target.version.as_ref()?.iter().map(|one| places.fill(one)).collect();
    let (program, arguments) = split(&words);
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(|line| line.trim().to_owned())
}

impl Running {
    /// Starts the target, if it is not one that runs anyway, and waits until it lets a client in.
    pub(super) fn start(
        target: &TargetPlan,
        comparison: &Comparison,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self, crate::Error> {
        let (command, cores, files, env, ready_within) = match &target.source {
            Source::Address { host, port, pids } => {
                let address = cli::resolve(host, *port)?;
                return Ok(Self { address, pids: pids.clone(), started: None });
            }
            Source::Command { command, cores, files, env, ready_within } => {
                (command, cores, files, env, *ready_within)
            }
        };
        let port = free_port()?;
        let directory = fresh_directory()?;
        let places = Places::new(comparison, &directory, port)?;
        for (name, content) in files {
            fs::write(directory.join(name), places.fill(content))?;
        }
        let words: Vec<String> = command.iter().map(|word| places.fill(word)).collect();
        let env: Vec<(&str, String)> =
            env.iter().map(|(name, value)| (name.as_str(), places.fill(value))).collect();
        let mut command = command_in(&words, &directory)?;
        command.envs(env);
        let child = spawn_on(cores, comparison, command)
            .map_err(|error| format!("{}: {error}", words.join(" ")))?;
        signals::adopt(Pid::from_child(&child));
        let pids = vec![child.id()];
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut running = Self { address, pids, started: Some(Started { child, directory }) };
        running.wait_until_ready(Duration::from_secs_f64(ready_within), stop)?;
        Ok(running)
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn processes(&self) -> ProcessGroup {
        ProcessGroup::new(self.pids.clone())
    }

    /// The last lines of its output.
    pub(super) fn said(&self) -> Option<String> {
        let output = fs::read(self.started.as_ref()?.directory.join("output")).ok()?;
        let output = String::from_utf8_lossy(&output);
        let lines: Vec<&str> = output.lines().rev().take(SAID_LINES).collect();
        let lines: Vec<&str> = lines.into_iter().rev().collect();
        (!lines.is_empty()).then(|| lines.join(" | "))
    }

    fn wait_until_ready(
        &mut self,
        patience: Duration,
        stop: &Arc<AtomicBool>,
    ) -> Result<(), crate::Error> {
        let started = Instant::now();
        loop {
            let Err(error) = probe(self.address, stop) else { return Ok(()) };
            let ended = self.started.as_mut().and_then(|started| started.child.try_wait().ok()?);
            let said = || self.said().unwrap_or_else(|| "nothing".into());
            if let Some(status) = ended {
                return Err(format!("ended at once with {status}; it said: {}", said()).into());
            }
            if started.elapsed() > patience || stop.load(Ordering::Relaxed) {
                let seconds = patience.as_secs_f64();
                return Err(
                    format!("not ready in {seconds} s: {error}; it said: {}", said()).into()
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

/// Connects one client and disconnects it.
fn probe(address: SocketAddr, stop: &Arc<AtomicBool>) -> Result<(), crate::Error> {
    let options = EngineOptions {
        endpoint: Endpoint::plain(address),
        login: super::login(Version::V311),
        connect_burst: 1,
        spin: false,
        stop: Arc::clone(stop),
        monitor: Arc::default(),
        connect_interval: Duration::ZERO,
    };
    let mut engine = Fleet::new(&options, 1)?;
    engine.add_client(ClientSpec { client_id: "bench-probe".into(), ..ClientSpec::default() });
    engine.connect_all()?;
    engine.disconnect_all()?;
    Ok(())
}

/// What the words in braces stand for.
struct Places {
    values: Vec<(&'static str, String)>,
}

impl Places {
    fn new(comparison: &Comparison, directory: &Path, port: u16) -> io::Result<Self> {
        let this = std::env::current_exe()?;
        let beside = this.parent().unwrap_or(Path::new("."));
        Ok(Self {
            values: vec![
                ("{port}", port.to_string()),
                ("{self}", this.display().to_string()),
                ("{beside}", beside.display().to_string()),
                ("{here}", comparison.directory.display().to_string()),
                ("{files}", directory.display().to_string()),
            ],
        })
    }

    fn fill(&self, text: &str) -> String {
        let filled = |text: String, (name, value): &(&str, String)| text.replace(name, value);
        self.values.iter().fold(text.to_owned(), filled)
    }
}

/// Starts a process pinned from its first instruction: it inherits this thread's cores.
fn spawn_on(cores: &[usize], comparison: &Comparison, mut command: Command) -> io::Result<Child> {
    if cores.is_empty() {
        return command.spawn();
    }
    crate::pin_to(cores)?;
    let child = command.spawn();
    let own: Vec<usize> = match comparison.tool_cores.as_slice() {
        [] => (0..thread::available_parallelism()?.get()).collect(),
        cores => cores.to_vec(),
    };
    crate::pin_to(&own)?;
    child
}

/// A command whose output goes to a file of that directory.
fn command_in(words: &[String], directory: &Path) -> io::Result<Command> {
    let output = File::create(directory.join("output"))?;
    let (program, arguments) = split(words);
    let mut command = Command::new(program);
    // Ctrl-C is for this tool, which still needs the broker to end a run.
    command.args(arguments).stdin(Stdio::null()).process_group(0);
    command.stdout(output.try_clone()?).stderr(output);
    Ok(command)
}

fn split(words: &[String]) -> (&str, &[String]) {
    words.split_first().map_or(("", words), |(first, rest)| (first.as_str(), rest))
}

fn is_installed(program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).is_file();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian puts servers where a user's PATH may not look.
    std::env::split_paths(&path)
        .chain([PathBuf::from("/usr/sbin")])
        .any(|directory| directory.join(program).is_file())
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

fn fresh_directory() -> io::Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("sluice-bench-{}-{number}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    fs::create_dir(&directory)?;
    Ok(directory)
}

impl Drop for Started {
    fn drop(&mut self) {
        let deadline = Instant::now() + STOP_PATIENCE;
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        while matches!(self.child.try_wait(), Ok(None)) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                break;
            }
            thread::sleep(Duration::from_millis(10));
        }
        signals::release(Pid::from_child(&self.child));
        let _ = fs::remove_dir_all(&self.directory);
    }
}
