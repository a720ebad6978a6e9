//! Several brokers, the same scenarios, in turn: A B C A B C, medians, ratios against a baseline.

mod certs;
mod config;
mod disk;
mod duration;
mod place;
mod plan;
mod results;
mod run;
mod target;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Map, Value, json};

use crate::Misuse;
use crate::cli::CompareArgs;
use crate::engine::make_room_for;
use crate::report::{Problem, Report, Status, write_files};
use certs::Certificates;
use plan::{Comparison, TargetPlan};
use results::Results;
use run::Run;
use target::Availability;

pub(crate) use config::toml_error;

/// Runs the comparison and prints the tables. Returns how it went.
pub(crate) fn run(args: &CompareArgs, stop: &Arc<AtomicBool>) -> Result<Status, crate::Error> {
    let mut comparison = config::load(&args.file)?;
    comparison.keep_only(&args.target, &args.scenario).map_err(Misuse)?;
    if args.quick {
        comparison.keep_quick(&args.scenario);
    }
    let mut pace = if args.quick { comparison.quick } else { comparison.full };
    if let Some(repetitions) = args.repetitions {
        pace.repetitions = repetitions;
    }
    let (comparison, pace) = (&comparison, &pace);
    make_room_for(comparison.most_clients())?;
    if !comparison.tool_cores.is_empty() {
        crate::pin_to(&comparison.tool_cores)?;
    }
    let certs = &Certificates::make(comparison)?;
    let targets = available(comparison, certs)?;
    let mut results = Results::new(comparison, &targets);
    let pairs =
        comparison.scenarios.iter().map(|one| targets.iter().filter(|t| one.runs_on(t)).count());
    let runs = pairs.sum::<usize>() * pace.repetitions as usize;
    let takes = duration::expected(comparison, &targets, pace);
    say!("{runs} runs of {} targets, about {}", targets.len(), duration::show(takes));
    let mut done = 0;
    'all: for _ in 0..pace.repetitions {
        for (row, scenario) in comparison.scenarios.iter().enumerate() {
            for (column, target) in targets.iter().enumerate() {
                if stop.load(Ordering::Relaxed) {
                    results.note(Problem::interrupted());
                    break 'all;
                }
                if !scenario.runs_on(target) {
                    continue;
                }
                done += 1;
                let name = format!("[{done}/{runs}] {}, {}: ", scenario.name, target.name);
                let whole =
                    scenario.half_of.as_ref().map(|base| results.sent_per_second(base, column));
                let run = Run { comparison, certs, pace, scenario, target, stop };
                match run.once(&name, whole) {
                    Ok(outcome) => {
                        say!("{name}{}", results::brief(&outcome));
                        results.add(row, column, outcome);
                    }
                    Err(error) => {
                        say!("{name}FAILED: {error}");
                        let text = format!("{}, {}: {error}", scenario.name, target.name);
                        results.note(Problem::new(crate::status_of_error(&*error), text));
                    }
                }
            }
        }
    }
    let text = results.describe();
    if let Some(directory) = &args.out {
        let entries = &results.entries();
        let baseline = Some(comparison.baseline.as_str());
        let setting = setting(comparison, certs, &targets, &args.file)?;
        write_files(directory, &Report { entries, baseline, text: &text, setting })?;
        say!("written to {}", directory.display());
    }
    crate::print(&text)?;
    Ok(results.status())
}

/// Those that can be started here; the others are named.
fn available<'c>(
    comparison: &'c Comparison,
    certs: &Certificates,
) -> Result<Vec<&'c TargetPlan>, crate::Error> {
    let mut targets = Vec::new();
    for target in &comparison.targets {
        match target::availability(target, comparison, certs)? {
            Availability::Here => targets.push(target),
            Availability::Missing(what) => {
                say!("{}: skipped, {what}", target.name);
            }
        }
    }
    if targets.is_empty() {
        return Err("none of the targets is available".into());
    }
    Ok(targets)
}

/// What it takes to repeat the comparison, besides the machine.
fn setting(
    comparison: &Comparison,
    certs: &Certificates,
    targets: &[&TargetPlan],
    file: &Path,
) -> Result<Map<String, Value>, crate::Error> {
    let version = |target: &&TargetPlan| {
        (
            target.name.clone(),
            target::version(target, comparison, certs).map_or(Value::Null, Value::from),
        )
    };
    let versions: Map<String, Value> = targets.iter().map(version).collect();
    let mut setting = Map::new();
    setting.insert("versions".into(), Value::Object(versions));
    setting.insert("tool_on_cores".into(), json!(comparison.tool_cores));
    setting.insert("file".into(), json!(file.display().to_string()));
    setting.insert("configuration".into(), json!(std::fs::read_to_string(file)?));
    Ok(setting)
}
