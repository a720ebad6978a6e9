//! The command line: parse, load the configuration, run.

use std::error::Error;
use std::process::ExitCode;

use sluice::Broker;
use sluice::config::cli::{CommandLine, Task};
use sluice::hooks::Hooks;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The status of a process that was started wrongly.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match CommandLine::task() {
        Err(error) => {
            eprintln!("sluice: {error}");
            ExitCode::from(USAGE)
        }
        Ok(Task::Check(file, config, changes)) => match Broker::check_files(&config) {
            Ok(()) => {
                println!("{}: right", file.display());
                for change in changes {
                    println!("{change}");
                }
                ExitCode::SUCCESS
            }
            Err(error) => failure(&error),
        },
        Ok(Task::Passwd(passwd)) => match passwd.run() {
            Ok(changes) => {
                println!("{}: {changes}", passwd.file.display());
                ExitCode::SUCCESS
            }
            Err(error) => failure(&error),
        },
        Ok(Task::Certs(certs)) => match certs.run() {
            Ok(advice) => {
                println!("{advice}");
                ExitCode::SUCCESS
            }
            Err(error) => failure(&error),
        },
        Ok(Task::Store(tool)) => match tool.run(&mut std::io::stdout().lock()) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => failure(&*error),
        },
        Ok(Task::Run(config, asked)) => {
            match sluice::run(*config, Hooks::default(), || asked.config()) {
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
