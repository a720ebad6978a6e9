//! The command line: parse, load the configuration, run.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use sluice::config::cli::{CommandLine, Task};
use sluice::config::process::{Asked, Asks, raise_open_files, start_log, warn_about};
use sluice::{Broker, Config};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The status of a process that was started wrongly; clap's is the same.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    match command_line.clone().task() {
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(USAGE)
        }
        Ok(Task::Checked(file)) => {
            println!("{}: right", file.display());
            ExitCode::SUCCESS
        }
        Ok(Task::Passwd(passwd)) => match passwd.run() {
            Ok(changes) => {
                println!("{}: {changes}", passwd.file.display());
                ExitCode::SUCCESS
            }
            Err(error) => failure(&error),
        },
        Ok(Task::Run(config)) => match run(*config, &command_line) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => failure(&*error),
        },
    }
}

fn failure(error: &dyn Error) -> ExitCode {
    eprintln!("sluice: {error}");
    ExitCode::FAILURE
}

fn run(mut config: Config, command_line: &CommandLine) -> Result<(), Box<dyn Error>> {
    start_log(&config.log);
    warn_about(&config);
    raise_open_files(&mut config);
    let mut signals = Asks::register()?;
    let shards = config.shard_count();
    let broker = Broker::start(config)?;
    let addresses: Vec<String> = broker.addresses().iter().map(ToString::to_string).collect();
    tracing::info!(
        "sluice {} listening on {} with {shards} shard{}",
        env!("CARGO_PKG_VERSION"),
        addresses.join(", "),
        if shards == 1 { "" } else { "s" }
    );
    let signal = loop {
        match signals.wait() {
            Asked::Reload => reload(&broker, command_line),
            Asked::Stop(signal) => break signal,
        }
    };
    tracing::info!("{signal}: stopping");
    broker.stop();
    tracing::info!("stopped");
    Ok(())
}

/// Reads the settings again, and puts in force what can change while the broker runs.
fn reload(broker: &Broker, command_line: &CommandLine) {
    let config = match command_line.clone().task() {
        Ok(Task::Run(config)) => config,
        Ok(_) => return,
        Err(error) => {
            tracing::error!("SIGHUP: nothing is changed: {error}");
            return;
        }
    };
    match broker.reload(&config) {
        Ok(()) => tracing::info!("SIGHUP: the settings of who may come in are read again"),
        Err(error) => tracing::error!("SIGHUP: nothing is changed: {error}"),
    }
}
