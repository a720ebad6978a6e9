//! Several brokers, the same scenarios, in turn: A B C A B C, medians, ratios against a baseline.

mod config;
mod results;
mod target;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sluice::mqtt::Version;

use crate::cli::CompareArgs;
use crate::engine::{Login, make_room_for};
use crate::measure::wait_until_quiet;
use crate::report::{Problem, Status};
use crate::scenario::Setup;
use config::{Comparison, Pace, ScenarioPlan, TargetPlan};
use results::Results;
use target::{Availability, Running};

/// Runs the comparison and prints the tables. Returns how it went.
pub(crate) fn run(args: &CompareArgs, stop: &Arc<AtomicBool>) -> Result<Status, crate::Error> {
    let mut comparison = config::load(&args.file)?;
    comparison.keep_only(&args.target, &args.scenario)?;
    let mut pace = if args.quick { comparison.quick } else { comparison.full };
    if let Some(repetitions) = args.repetitions {
        pace.repetitions = repetitions.max(1);
    }
    make_room_for(comparison.most_clients())?;
    if !comparison.tool_cores.is_empty() {
        crate::pin_to(&comparison.tool_cores)?;
    }
    let targets = available(&comparison)?;
    let mut results = Results::new(&comparison, &targets);
    let runs = comparison.scenarios.len() * targets.len() * pace.repetitions as usize;
    let mut done = 0;
    'all: for _ in 0..pace.repetitions {
        for (row, scenario) in comparison.scenarios.iter().enumerate() {
            for (column, target) in targets.iter().enumerate() {
                if stop.load(Ordering::Relaxed) {
                    results.note(Problem::interrupted());
                    break 'all;
                }
                done += 1;
                eprint!("[{done}/{runs}] {}, {}: ", scenario.name, target.name);
                match run_once(&comparison, &pace, scenario, target, stop) {
                    Ok(outcome) => {
                        eprintln!("{}", results::brief(&outcome));
                        results.add(row, column, outcome);
                    }
                    Err(error) => {
                        eprintln!("FAILED: {error}");
                        let text = format!("{}, {}: {error}", scenario.name, target.name);
                        results.note(Problem::new(crate::status_of_error(&*error), text));
                    }
                }
            }
        }
    }
    let text = results.describe();
    print!("{text}");
    if let Some(directory) = &args.out {
        crate::report::write_files(directory, &results.entries(), &text)?;
        eprintln!("written to {}", directory.display());
    }
    Ok(results.status())
}

/// Those that can be started here; the others are named.
fn available(comparison: &Comparison) -> Result<Vec<&TargetPlan>, crate::Error> {
    let mut targets = Vec::new();
    for target in &comparison.targets {
        match target::availability(target, comparison)? {
            Availability::Here => targets.push(target),
            Availability::Missing(what) => eprintln!("{}: skipped, {what}", target.name),
        }
    }
    if targets.is_empty() {
        return Err("none of the targets is available".into());
    }
    Ok(targets)
}

fn run_once(
    comparison: &Comparison,
    pace: &Pace,
    scenario: &ScenarioPlan,
    target: &TargetPlan,
    stop: &Arc<AtomicBool>,
) -> Result<crate::report::Outcome, crate::Error> {
    let running = Running::start(target, comparison, stop)?;
    wait_until_quiet(Duration::from_secs_f64(pace.quiet_within));
    let setup = Setup {
        target: running.address(),
        login: login(scenario.version),
        id_prefix: "bench".into(),
        connect_burst: 64,
        spin: false,
        broker: running.processes(),
        stop: Arc::clone(stop),
        monitor: Arc::default(),
    };
    let mut parameters = scenario.parameters;
    parameters.seconds = scenario.seconds.unwrap_or(pace.seconds);
    parameters.warm_up_seconds = pace.warm_up;
    let outcome = scenario.run.run(&setup, &parameters);
    match (outcome, running.said()) {
        (Err(error), Some(said)) => {
            eprintln!("{}: it said: {said}", target.name);
            Err(error.into())
        }
        (outcome, _) => Ok(outcome?),
    }
}

fn login(version: Version) -> Login {
    Login { version, keep_alive_seconds: 0, username: None, password: None }
}
