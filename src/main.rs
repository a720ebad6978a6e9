//! The command line: parse, load the configuration, run.

use std::error::Error;
use std::fmt::Arguments;
use std::io::{self, Write};
use std::process::ExitCode;

use rustix::fs::Mode;
use rustix::process::umask;
use sluice::Broker;
use sluice::config::cli::{CommandLine, EXAMPLE, Task};
use sluice::config::process::outlive_file_size;
use sluice::hooks::Hooks;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The status of a process that was started wrongly.
const USAGE: u8 = 2;

fn main() -> ExitCode {
    match CommandLine::task() {
        Err(error) => {
            tell(format_args!("{error}"));
            ExitCode::from(USAGE)
        }
        Ok(Task::Example) => say(format_args!("{}", EXAMPLE.trim_end())),
        Ok(Task::Check(file, config, changes)) => match Broker::check_files(&config) {
            Ok(warnings) => {
                for warning in warnings {
                    tell(format_args!("warning: {warning}"));
                }
                let lines: String = changes.iter().map(|change| format!("\n{change}")).collect();
                say(format_args!("{}: right{lines}", file.display()))
            }
            Err(error) => failure(&error),
        },
        Ok(Task::Passwd(passwd)) => match passwd.run() {
            Ok(changes) => say(format_args!("{}: {changes}", passwd.file.display())),
            Err(error) => failure(&error),
        },
        Ok(Task::Certs(certs)) => match certs.run() {
            Ok(advice) => say(format_args!("{advice}")),
            Err(error) => failure(&error),
        },
        Ok(Task::Store(tool)) => {
            keep_to_oneself();
            outlive_file_size();
            match tool.run(&mut std::io::stdout().lock()) {
                Ok(true) => ExitCode::SUCCESS,
                Ok(false) => ExitCode::FAILURE,
                Err(error) => failure(&*error),
            }
        }
        Ok(Task::Run(config, asked)) => {
            keep_to_oneself();
            outlive_file_size();
            match sluice::run(*config, Hooks::default(), || asked.config()) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => failure(&error),
            }
        }
    }
}

/// Has nobody else read what is made from now on: there are messages in it.
fn keep_to_oneself() {
    umask(Mode::RWXG | Mode::RWXO);
}

/// Tells what was done. Who does not listen to the end, like `head`, has heard enough.
fn say(what: Arguments<'_>) -> ExitCode {
    match writeln!(io::stdout(), "{what}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => failure(&error),
        Ok(()) | Err(_) => ExitCode::SUCCESS,
    }
}

fn failure(error: &dyn Error) -> ExitCode {
    tell(format_args!("{error}"));
    ExitCode::FAILURE
}

/// Where that cannot be written, the exit status has to say it alone.
fn tell(what: Arguments<'_>) {
    let _ = writeln!(io::stderr(), "sluice: {what}");
}
