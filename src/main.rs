//! The command line: parse, load the configuration, run.

use std::process::ExitCode;

use clap::Parser;
use sluice::config::cli::{CommandLine, Task};
use sluice::hooks::Hooks;

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
        Ok(Task::Run(config)) => match sluice::server::run(*config, Hooks::default()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("sluice: {error}");
                ExitCode::FAILURE
            }
        },
    }
}
