//! The command line: parse, load the configuration, run.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use sluice::config::cli::{CommandLine, Task};
use sluice::config::process::{EndSignals, raise_open_files, start_log, warn_about};
use sluice::{Broker, Config};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The status of a process that was started wrongly; clap's is the same.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match CommandLine::parse().task() {
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(USAGE)
        }
        Ok(Task::Checked(file)) => {
            println!("{}: right", file.display());
            ExitCode::SUCCESS
        }
        Ok(Task::Run(config)) => match run(*config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("sluice: {error}");
                ExitCode::FAILURE
            }
        },
    }
}

fn run(mut config: Config) -> Result<(), Box<dyn Error>> {
    start_log(&config.log);
    warn_about(&config);
    raise_open_files(&mut config);
    let mut signals = EndSignals::register()?;
    let shards = config.shard_count();
    let broker = Broker::start(config)?;
    let addresses: Vec<String> = broker.addresses().iter().map(ToString::to_string).collect();
    tracing::info!(
        "sluice {} listening on {} with {shards} shard{}",
        env!("CARGO_PKG_VERSION"),
        addresses.join(", "),
        if shards == 1 { "" } else { "s" }
    );
    let signal = signals.wait();
    tracing::info!("{signal}: stopping");
    broker.stop();
    tracing::info!("stopped");
    Ok(())
}
