//! Loads, measures and compares MQTT brokers.

mod cli;
mod compare;
mod engine;
mod floor;
mod measure;
mod report;
mod scenario;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::Parser;
use rustix::thread::{CpuSet, sched_setaffinity};

use cli::{Cli, Command, RunArgs};
use floor::Floor;
use measure::ProcessGroup;
use scenario::Setup;

type Error = Box<dyn std::error::Error>;

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(args) => run(&args),
        Command::Compare(args) => {
            stop_on_signal().map_err(Error::from).and_then(|stop| compare::run(&args, &stop))
        }
        Command::Floor(args) => floor(args.bind).map(|()| true).map_err(Error::from),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sluice-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether all went well.
fn run(args: &RunArgs) -> Result<bool, Error> {
    let parameters = args.parameters.apply(args.scenario.defaults())?;
    if let Some(core) = args.core {
        pin_to(&[core])?;
    }
    let setup = Setup {
        target: args.broker.address()?,
        login: args.broker.login(),
        id_prefix: args.broker.id_prefix.clone(),
        connect_burst: args.broker.connect_burst,
        spin: args.spin,
        broker: ProcessGroup::new(args.broker.pid.clone()),
        stop: stop_on_signal()?,
    };
    let outcome = args.scenario.run(&setup, &parameters)?;
    let text = report::describe(&outcome);
    print!("{text}");
    if let Some(directory) = &args.out {
        let target = format!("{}:{}", args.broker.host, args.broker.port);
        let runs = std::slice::from_ref(&outcome);
        let entry = report::Entry { scenario: &outcome.label, target: &target, runs };
        report::write_files(directory, &[entry], &text)?;
        eprintln!("written to {}", directory.display());
    }
    Ok(outcome.problems.is_empty())
}

fn floor(address: SocketAddr) -> std::io::Result<()> {
    let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    engine::make_room_for(most.map_or(100_000, |most| most.saturating_sub(1_000) as usize))?;
    let floor = Floor::bind(address)?;
    eprintln!("floor: relaying on {}", floor.address()?);
    floor.serve()
}

/// Pins this thread, and the processes it starts from now on.
fn pin_to(cores: &[usize]) -> std::io::Result<()> {
    let mut set = CpuSet::new();
    cores.iter().for_each(|core| set.set(*core));
    Ok(sched_setaffinity(None, &set)?)
}

/// A flag that SIGINT and SIGTERM set; a second one ends the process.
fn stop_on_signal() -> std::io::Result<Arc<AtomicBool>> {
    use signal_hook::consts::{SIGINT, SIGTERM};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}
