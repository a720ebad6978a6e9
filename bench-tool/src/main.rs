//! Loads, measures and compares MQTT brokers.

/// A line on standard error; that nobody reads it is no error.
macro_rules! say {
    ($($words:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr(), $($words)*);
    }};
}

mod cli;
mod compare;
mod disk;
mod engine;
mod floor;
mod live;
mod load;
mod measure;
mod report;
mod scenario;
mod signals;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use clap::CommandFactory;
use rustix::thread::{CpuSet, sched_setaffinity};
use sluice::config::cli::parsed;

use cli::{Cli, Command, RunArgs};
use engine::{EngineError, Monitor};
use floor::Floor;
use live::Live;
use report::{Outcome, Status, status_of};
use scenario::{RunError, Setup};

/// How long the disk is measured alone after a run, and how long to wait for quiet before that.
const DISK_ALONE: Duration = Duration::from_secs(1);
const DISK_QUIET_WITHIN: Duration = Duration::from_secs(3);

type Error = Box<dyn std::error::Error>;

/// What was asked for makes no sense.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Misuse(String);

impl From<String> for Misuse {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&str> for Misuse {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

fn main() -> ExitCode {
    if std::env::args_os().skip(1).eq(["-h"]) {
        // For a command it is the host; alone it can only be a question.
        let _ = Cli::command().print_help();
        return ExitCode::SUCCESS;
    }
    let asked = parsed::<Cli>().map_err(|error| Misuse(error).into());
    let status = match asked.and_then(|asked| act(asked.command)) {
        Ok(status) => status,
        Err(error) => {
            say!("sluice-bench: {error}");
            status_of_error(&*error)
        }
    };
    ExitCode::from(status as u8)
}

fn act(command: Command) -> Result<Status, Error> {
    if let Command::Floor(args) = command {
        return floor(args.bind).map(|()| Status::Success);
    }
    if let Some(directory) = command.out() {
        // Before the run: its result is not to be lost for this.
        std::fs::create_dir_all(directory)
            .map_err(|error| format!("{}: {error}", directory.display()))?;
    }
    let stop = signals::stop_on_signal()?;
    match command {
        Command::Conn(args) => load::run_conn(&args, &stop),
        Command::Pub(args) => load::run_pub(&args, &stop),
        Command::Sub(args) => load::run_sub(&args, &stop),
        Command::Run(args) => run(&args, stop),
        Command::Compare(args) => compare::run(&args, &stop),
        Command::Torture(args) => cli::run_torture(&args, &stop),
        Command::Disk(args) => disk::run(&args, &stop),
        Command::Floor(_) => Ok(Status::Success),
    }
}

fn run(args: &RunArgs, stop: Arc<std::sync::atomic::AtomicBool>) -> Result<Status, Error> {
    args.parameters.check_used(args.scenario).map_err(Misuse)?;
    let parameters = args.parameters.apply(args.scenario.defaults()).map_err(Misuse)?;
    args.scenario.check(&parameters).map_err(Misuse)?;
    args.broker.check()?;
    if let Some(core) = args.core {
        let allowed = measure::allowed_cores();
        if !allowed.contains(&core) {
            return Err(Misuse(measure::no_such_core(core, &allowed)).into());
        }
        pin_to(&[core])?;
    }
    if let Some(directory) = args.disk.as_ref().filter(|directory| !directory.is_dir()) {
        return Err(format!("{}: is no directory", directory.display()).into());
    }
    let monitor = Arc::new(Monitor::default());
    let setup = Setup {
        endpoint: args.broker.endpoint()?,
        login: args.broker.login(),
        id_prefix: args.broker.id_prefix.clone().unwrap_or_else(|| "bench".into()),
        connect_burst: args.broker.connect_burst,
        threads: args.broker.threads()?,
        broker: args.broker.processes(),
        disk: args.disk.clone(),
        stop: Arc::clone(&stop),
        monitor: Arc::clone(&monitor),
    };
    let live = Live::start(&monitor, String::new());
    let mut outcome = args.scenario.run(&setup, &parameters)?;
    drop(live);
    if let Some(directory) = &args.disk {
        // What the broker has still to write is to be written.
        measure::wait_until_quiet(DISK_QUIET_WITHIN);
        disk::measure_alone(&mut outcome, directory, DISK_ALONE, &stop);
    }
    tell(&outcome, &args.broker.shown(), args.out.as_deref())
}

/// Prints a result, and writes its files.
fn tell(outcome: &Outcome, target: &str, out: Option<&Path>) -> Result<Status, Error> {
    let text = report::describe(outcome);
    if let Some(directory) = out {
        let runs = std::slice::from_ref(outcome);
        let entries = &[report::Entry { scenario: &outcome.label, target, runs }];
        let setting = serde_json::Map::new();
        let report = report::Report { entries, baseline: None, text: &text, setting };
        report::write_files(directory, &report)?;
        say!("written to {}", directory.display());
    }
    print(&text)?;
    Ok(status_of(&outcome.problems))
}

/// To standard output; that nobody reads it to its end is no error.
fn print(text: &str) -> io::Result<()> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}

/// What the tool ends with when there is no result.
fn status_of_error(error: &(dyn std::error::Error + 'static)) -> Status {
    if let Some(error) = error.downcast_ref::<RunError>() {
        return error.status();
    }
    if error.is::<Misuse>() {
        return Status::Usage;
    }
    match error.downcast_ref::<EngineError>() {
        Some(EngineError::Interrupted) => Status::Interrupted,
        None | Some(EngineError::Io(_)) => Status::Error,
        Some(_) => Status::Connections,
    }
}

fn floor(address: SocketAddr) -> Result<(), Error> {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    engine::make_room_for(most.map_or(100_000, |most| most.saturating_sub(1_000) as usize))?;
    let floor = Floor::bind(address).map_err(|error| format!("{address}: {error}"))?;
    say!("floor: relaying on {}", floor.address()?);
    Ok(floor.serve()?)
}

/// Pins this thread, and the processes it starts from now on.
fn pin_to(cores: &[usize]) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    Ok(sched_setaffinity(None, &set)?)
}
