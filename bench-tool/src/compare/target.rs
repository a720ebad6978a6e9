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

use super::certs::Certificates;
use super::place::{Places, Ports};
use super::plan::{Address, Comparison, ScenarioPlan, Source, TargetPlan};
use crate::cli;
use crate::engine::{
    ClientSpec, Endpoint, EngineError, EngineOptions, Fleet, TlsOptions, USUAL_PATH,
    WebSocketTarget,
};
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
    host: String,
    address: SocketAddr,
    /// If it is spoken.
    tls: Option<TlsOptions>,
    /// Of WebSocket, if that is.
    path: Option<String>,
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
    certs: &Certificates,
) -> Result<Availability, crate::Error> {
    let command = match &target.source {
        Source::Command { command, .. } => command,
        Source::Addresses { addresses, .. } => return Ok(are_answering(addresses)),
    };
    let places = Places::new(comparison, certs.directory(), Path::new(""), Ports::default())?;
    if let Some(prepare) = &target.prepare {
        let prepare: Vec<String> = prepare.iter().map(|word| places.fill(word)).collect();
        say!("{}: {}", target.name, prepare.join(" "));
        let (program, arguments) = split(&prepare);
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
    let program = places.fill(program);
    match find_program(&program) {
        Some(_) => Ok(Availability::Here),
        None => Ok(Availability::Missing(format!("{program} is not installed"))),
    }
}

/// Whether somebody listens at each of them.
fn are_answering(addresses: &[Address]) -> Availability {
    for Address { host, port, .. } in addresses {
        let tried = cli::resolve(host, *port).and_then(|address| {
            TcpStream::connect_timeout(&address, ANSWER_PATIENCE).map_err(|error| error.to_string())
        });
        if let Err(error) = tried {
            return Availability::Missing(format!("nobody answers at {host}:{port}: {error}"));
        }
    }
    Availability::Here
}

/// What the target says its version is: the first line that its command prints, whatever it ends with.
pub(super) fn version(
    target: &TargetPlan,
    comparison: &Comparison,
    certs: &Certificates,
) -> Option<String> {
    let ports = Ports::default();
    let places = Places::new(comparison, certs.directory(), Path::new(""), ports).ok()?;
    let words: Vec<String> = target.version.as_ref()?.iter().map(|one| places.fill(one)).collect();
    let output = command_of(&words).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().next().map(|line| line.trim().to_owned())
}

impl Running {
    /// Starts the target, if it is not one that runs anyway, and waits until it lets a client in the way that
    /// the scenario wants.
    pub(super) fn start(
        target: &TargetPlan,
        scenario: &ScenarioPlan,
        comparison: &Comparison,
        certs: &Certificates,
        stop: &Arc<AtomicBool>,
    ) -> Result<Self, crate::Error> {
        if let Source::Addresses { addresses, pids } = &target.source {
            let is_wanted = |one: &&Address| scenario.carrier.is_none_or(|c| c == one.carrier);
            let found = addresses.iter().find(is_wanted).ok_or("it has no such address")?;
            let tls = TlsOptions { ca: target.ca.clone(), ..scenario.tls.clone() };
            return Ok(Self {
                address: cli::resolve(&found.host, found.port)?,
                host: found.host.clone(),
                tls: found.carrier.is_tls().then_some(tls),
                path: found.carrier.is_web_socket().then(|| found.path.clone()),
                pids: pids.clone(),
                started: None,
            });
        }
        let [tcp, tls, ws, wss] = free_ports()?;
        let ports = Ports { tcp, tls, ws, wss };
        let (started, ready_within) = Started::launch(target, comparison, certs, ports)?;
        let carrier = scenario.carrier.unwrap_or_default();
        let ca = Some(target.ca.clone().unwrap_or_else(|| certs.ca()));
        let tls = TlsOptions { ca, ..scenario.tls.clone() };
        let mut running = Self {
            host: Ipv4Addr::LOCALHOST.to_string(),
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, ports.of(carrier))),
            tls: carrier.is_tls().then_some(tls),
            path: carrier.is_web_socket().then(|| USUAL_PATH.to_owned()),
            pids: vec![started.child.id()],
            started: Some(started),
        };
        running.wait_until_ready(ready_within, stop)?;
        Ok(running)
    }

    /// The way to it, on which nobody has gone yet.
    pub(super) fn endpoint(&self) -> Result<Endpoint, String> {
        let tls = self.tls.as_ref().map(|options| options.load(&self.host)).transpose()?;
        let host = format!("{}:{}", self.host, self.address.port());
        let web_socket = self.path.clone().map(|path| WebSocketTarget { host, path });
        Ok(Endpoint { address: self.address, tls: tls.map(Arc::new), web_socket })
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
            let Err(error) = probe(self.endpoint()?, stop) else { return Ok(()) };
            let ended = self.started.as_mut().and_then(|started| started.child.try_wait().ok()?);
            let said = || self.said().unwrap_or_else(|| "nothing".into());
            if let Some(status) = ended {
                return Err(format!("ended at once with {status}; it said: {}", said()).into());
            }
            if stop.load(Ordering::Relaxed) {
                return Err(EngineError::Interrupted.into());
            }
            if started.elapsed() > patience {
                let seconds = patience.as_secs_f64();
                return Err(
                    format!("not ready in {seconds} s: {error}; it said: {}", said()).into()
                );
            }
            thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Started {
    /// Runs a target's command on its cores. Returns how long it may take to let somebody in, too.
    fn launch(
        target: &TargetPlan,
        comparison: &Comparison,
        certs: &Certificates,
        ports: Ports,
    ) -> Result<(Self, Duration), crate::Error> {
        let Source::Command { command, cores, files, env, ready_within } = &target.source else {
            return Err("it has no command".into());
        };
        let directory = fresh_directory(comparison.disk.as_deref())?;
        let places = Places::new(comparison, certs.directory(), &directory, ports)?;
        for (name, content) in files {
            fs::write(directory.join(name), places.fill(content))?;
        }
        let words: Vec<String> = command.iter().map(|word| places.fill(word)).collect();
        let mut command = command_in(&words, &directory)?;
        command.envs(env.iter().map(|(name, value)| (name, places.fill(value))));
        let child = spawn_on(cores, comparison, command)
            .map_err(|error| format!("{}: {error}", words.join(" ")))?;
        signals::adopt(Pid::from_child(&child));
        Ok((Self { child, directory }, Duration::from_secs_f64(*ready_within)))
    }
}

/// Connects one client and disconnects it.
fn probe(endpoint: Endpoint, stop: &Arc<AtomicBool>) -> Result<(), crate::Error> {
    let options = EngineOptions {
        endpoint,
        login: super::run::login(Version::V311),
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
    let mut command = command_of(words);
    // Ctrl-C is for this tool, which still needs the broker to end a run.
    command.stdin(Stdio::null()).process_group(0);
    command.stdout(output.try_clone()?).stderr(output);
    Ok(command)
}

fn split(words: &[String]) -> (&str, &[String]) {
    words.split_first().map_or(("", words), |(first, rest)| (first.as_str(), rest))
}

fn command_of(words: &[String]) -> Command {
    let (program, arguments) = split(words);
    let mut command = Command::new(find_program(program).unwrap_or_else(|| program.into()));
    command.args(arguments);
    command
}

/// The file of a program.
fn find_program(program: &str) -> Option<PathBuf> {
    if program.contains('/') {
        return Some(PathBuf::from(program)).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Debian puts servers where a user's PATH may not look.
    let mut places = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    places.find_map(|place| Some(place.join(program)).filter(|path| path.is_file()))
}

/// Ports that nobody listens on, each another.
fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    let held = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let mut ports = [0; N];
    for (port, listener) in ports.iter_mut().zip(held) {
        *port = listener?.local_addr()?.port();
    }
    Ok(ports)
}

/// In that directory, which is made if it is not there, or with what else is temporary.
pub(super) fn fresh_directory(parent: Option<&Path>) -> io::Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let name = format!("sluice-bench-{}-{number}", std::process::id());
    let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
    fs::create_dir_all(&parent)?;
    let directory = parent.canonicalize()?.join(name);
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
