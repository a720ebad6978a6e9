//! `torture`: kills brokers, and says what became of what they had acknowledged.

use std::fs;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::Args;
use rustix::process::Pid;
use sluice_bench::torture::{Plan, Process, Target, Targets, check, play};

use crate::Misuse;
use crate::report::Status;
use crate::signals;

/// What to kill, and how often.
#[derive(Debug, Args)]
pub(crate) struct TortureArgs {
    /// The brokers, as TOML.
    file: PathBuf,
    /// Those of the file that are meant; all, if none is named.
    target: Vec<String>,
    /// How often each is killed.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    kills: u32,
    /// Milliseconds between a start and the kill, by chance.
    #[arg(long, value_name = "FROM..TO", default_value = "50..500", value_parser = range)]
    kill_after: RangeInclusive<u64>,
    /// Messages a second of each of the eight publishers, about.
    #[arg(long, default_value_t = 200.0)]
    rate: f64,
    /// Seconds without a message, at the end, after which what is owed counts as lost.
    #[arg(long, value_name = "SECONDS", default_value_t = 6.0, value_parser = seconds)]
    overdue: f64,
    /// What chance begins with; by chance, if it is not given.
    #[arg(long)]
    seed: Option<u64>,
}

fn range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let parsed = text
        .split_once("..")
        .and_then(|(from, to)| Some((from.parse::<u64>().ok()?, to.parse::<u64>().ok()?)));
    match parsed {
        Some((from, to)) if from <= to => Ok(from..=to),
        _ => Err("not like 50..500".to_owned()),
    }
}

fn seconds(text: &str) -> Result<f64, String> {
    let parsed = text.parse().ok().filter(|seconds| (0.0..=3600.0).contains(seconds));
    parsed.ok_or_else(|| "not from 0 to 3600".to_owned())
}

/// Each broker in turn.
pub(crate) fn run(args: &TortureArgs, stop: &AtomicBool) -> Result<Status, crate::Error> {
    if !(args.rate.is_finite() && args.rate > 0.0) {
        return Err(Misuse(format!("a rate of {}: more than 0", args.rate)).into());
    }
    let name = args.file.display().to_string();
    let text = fs::read_to_string(&args.file).map_err(|error| format!("{name}: {error}"))?;
    let Targets { targets } =
        toml::from_str(&text).map_err(|error| crate::compare::toml_error(&name, &text, &error))?;
    if let Some(unknown) = args.target.iter().find(|one| targets.iter().all(|t| t.name != **one)) {
        let known: Vec<&str> = targets.iter().map(|target| target.name.as_str()).collect();
        let text = format!("{name} has no target {unknown}, but {}", known.join(", "));
        return Err(Misuse(text).into());
    }
    let is_meant = |target: &&Target| args.target.is_empty() || args.target.contains(&target.name);
    let here = args.file.parent().unwrap_or(Path::new("."));
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..1 << 32));
    let plan = Plan {
        kills: args.kills,
        kill_after_ms: args.kill_after.clone(),
        rate: args.rate,
        overdue: Duration::from_secs_f64(args.overdue),
        seed,
    };
    let (mut status, mut played) = (Status::Success, 0);
    for target in targets.iter().filter(is_meant) {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        if let Some(found) = torture(target, here, &plan, stop)? {
            status = status.and(found);
            played += 1;
        }
    }
    if stop.load(Ordering::Relaxed) {
        status = status.and(Status::Interrupted);
    }
    match played {
        0 if status == Status::Success => Err("none of the targets is installed".into()),
        _ => Ok(status),
    }
}

/// `None`: it is not installed.
fn torture(
    target: &Target,
    here: &Path,
    plan: &Plan,
    stop: &AtomicBool,
) -> Result<Option<Status>, crate::Error> {
    let mut broker = match Process::start(target, here, watch) {
        Ok(broker) => broker,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let beside = target.command.first().is_some_and(|program| program.ends_with("/sluice"));
            let way = if beside { " (cargo build --release --workspace builds both)" } else { "" };
            say!("{}: skipped: {error}{way}", target.name);
            return Ok(None);
        }
        Err(error) => return Err(format!("{}: {error}", target.name).into()),
    };
    let mut kills = 0;
    let history = play(&mut broker, plan, stop, |count| {
        kills = count;
        say!("{}: killed {count} of {} times", target.name, plan.kills);
    })
    .map_err(|error| format!("{}: {error}", target.name))?;
    let verdict = check(&history);
    let said = format!("{}, killed {kills} times, --seed {}\n{verdict}", target.name, plan.seed);
    crate::print(&said)?;
    if verdict.is_right() {
        let is_whole = verdict.acknowledged > 0 || stop.load(Ordering::Relaxed);
        return Ok(Some(if is_whole { Status::Success } else { Status::Error }));
    }
    say!("{} said: {}", target.name, broker.said());
    Ok(Some(Status::Messages))
}

fn watch(pid: Pid, runs: bool) {
    match runs {
        true => signals::adopt(pid),
        false => signals::release(pid),
    }
}
