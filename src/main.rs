//! The command line: parse, load the configuration, run.

use std::error::Error;
use std::process::ExitCode;

use clap::Parser;
use sluice::config::cli::{CommandLine, Task};
use sluice::hooks::Hooks;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The status of a process that was started wrongly; clap's is the same.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    let command_line = CommandLine::parse();
    match command_line.task() {
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
        Ok(Task::Run(config)) => {
            match sluice::server::run(*config, Hooks::default(), || command_line.config()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failure(&error),
            }
        }
    }
}

fn failure(error: &dyn Error) -> ExitCode {
    eprintln!("sluice: {error}");
    ExitCode::FAILURE
}
