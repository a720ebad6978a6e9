//! The directory of a result: JSON, CSV, percentile files, charts and a page.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use super::chart::{self, Group, escape};
use super::{Outcome, Work, table};
use crate::measure::Latencies;

/// All runs of one scenario against one target.
pub(crate) struct Entry<'a> {
    pub(crate) scenario: &'a str,
    pub(crate) target: &'a str,
    pub(crate) runs: &'a [Outcome],
}

/// Writes everything; `text` is what the terminal was told.
pub(crate) fn write(directory: &Path, entries: &[Entry<'_>], text: &str) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let about = about();
    let runs: Vec<Value> = entries
        .iter()
        .flat_map(|entry| entry.runs.iter().map(|run| run_json(entry, run)))
        .collect();
    let whole = json!({ "about": about, "runs": runs });
    fs::write(directory.join("result.json"), format!("{whole:#}\n"))?;
    fs::write(directory.join("result.csv"), csv(&runs))?;
    for entry in entries {
        if let Some(latencies) = merged(entry.runs) {
            let name = format!("{}-{}.hgrm", file_name(entry.scenario), file_name(entry.target));
            fs::write(directory.join(name), latencies.percentile_file())?;
        }
    }
    let charts = charts(entries);
    for (name, svg) in &charts {
        fs::write(directory.join(format!("{name}.svg")), svg)?;
    }
    fs::write(directory.join("report.html"), page(&about, &charts, text))
}

/// What it takes to repeat the run.
fn about() -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let line = |path: &str, name: &str| {
        let text = read(path);
        let value = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
        value.trim_start_matches([' ', '\t', ':']).to_owned()
    };
    let unix_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs());
    json!({
        "tool": concat!("sluice-bench ", env!("CARGO_PKG_VERSION")),
        "arguments": std::env::args().collect::<Vec<_>>(),
        "unix_seconds": unix_seconds,
        "kernel": read("/proc/sys/kernel/osrelease"),
        "system": line("/etc/os-release", "PRETTY_NAME=").trim_matches('"'),
        "cpu": line("/proc/cpuinfo", "model name"),
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": line("/proc/meminfo", "MemTotal"),
    })
}

fn run_json(entry: &Entry<'_>, run: &Outcome) -> Value {
    let percentile = |percent| run.latencies.percentile(percent).as_secs_f64() * 1e6;
    let remarks: Vec<String> =
        run.remarks.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    json!({
        "scenario": entry.scenario,
        "target": entry.target,
        "parameters": run.label,
        "unit": run.work.unit(),
        "count": run.work.count(),
        "sent": run.sent,
        "seconds": run.elapsed.as_secs_f64(),
        "per_second": run.per_second(),
        "broker_us_each": run.broker_microseconds_each(),
        "broker_cores": run.broker_cores(),
        "tool_us_each": run.own_microseconds_each(),
        "tool_cores": run.own_cores(),
        "tool_bound": run.tool_was_the_bottleneck(),
        "others_cores": run.others_cores,
        "bytes_per_connection": run.bytes_each(),
        "resident_bytes": run.resident_bytes,
        "p50_us": percentile(50.0),
        "p90_us": percentile(90.0),
        "p99_us": percentile(99.0),
        "p99_9_us": percentile(99.9),
        "p99_99_us": percentile(99.99),
        "max_us": run.latencies.max().as_secs_f64() * 1e6,
        "lost": run.faults.lost,
        "duplicates": run.faults.duplicates,
        "reordered": run.faults.reordered,
        "remarks": remarks.join("; "),
        "problems": run.problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
    })
}

/// The same as the JSON, a line for each run.
fn csv(runs: &[Value]) -> String {
    let Some(names) = runs.first().and_then(Value::as_object) else { return String::new() };
    let mut text = names.keys().cloned().collect::<Vec<_>>().join(",") + "\n";
    for run in runs.iter().filter_map(Value::as_object) {
        let cell = |value: &Value| match value {
            Value::Null => String::new(),
            Value::String(text) => format!("\"{}\"", text.replace('"', "\"\"")),
            other => other.to_string(),
        };
        text += &(run.values().map(cell).collect::<Vec<_>>().join(",") + "\n");
    }
    text
}

fn merged(runs: &[Outcome]) -> Option<Latencies> {
    let (first, rest) = runs.split_first()?;
    let mut latencies = first.latencies.clone();
    rest.iter().for_each(|run| latencies.merge(&run.latencies));
    (latencies.count() > 0).then_some(latencies)
}

fn file_name(text: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let words: String = text.chars().map(plain).collect();
    words.split('-').filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
}

/// In the order in which they were first used.
fn distinct<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut seen: Vec<String> = Vec::new();
    for name in names {
        if !seen.iter().any(|one| one == name) {
            seen.push(name.to_owned());
        }
    }
    seen
}

fn median_of(runs: &[Outcome], value: impl Fn(&Outcome) -> Option<f64>) -> Option<f64> {
    let mut values: Vec<f64> = runs.iter().filter_map(value).collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    let lower = *values.get(values.len().saturating_sub(1) / 2)?;
    Some((lower + upper) / 2.0)
}

/// By file name.
fn charts(entries: &[Entry<'_>]) -> Vec<(String, String)> {
    let targets = distinct(entries.iter().map(|entry| entry.target));
    let scenarios = distinct(entries.iter().map(|entry| entry.scenario));
    let runs = |scenario: &str, target: &str| {
        let found = entries.iter().find(|one| one.scenario == scenario && one.target == target);
        found.map_or(&[][..], |entry| entry.runs)
    };
    let bars = |title: &str, show: fn(f64) -> String, value: fn(&Outcome) -> Option<f64>| {
        let group = |scenario: &String| Group {
            name: scenario.clone(),
            values: targets
                .iter()
                .map(|target| {
                    median_of(runs(scenario, target), value).map(|value| (value, show(value)))
                })
                .collect(),
        };
        let groups: Vec<Group> = scenarios.iter().map(group).collect();
        let groups: Vec<Group> =
            groups.into_iter().filter(|one| one.values.iter().any(Option::is_some)).collect();
        (!groups.is_empty()).then(|| chart::bars(title, &targets, &groups))
    };
    let all = [
        (
            "cpu",
            bars(
                "CPU time of the broker for each message or login (less is better)",
                |v| format!("{v:.2} µs"),
                |run| {
                    if matches!(run.work, Work::Connections(_)) {
                        None
                    } else {
                        run.broker_microseconds_each()
                    }
                },
            ),
        ),
        (
            "throughput",
            bars(
                "Messages delivered, or logins, a second",
                |v| format!("{v:.0}/s"),
                |run| {
                    if matches!(run.work, Work::Connections(_)) {
                        None
                    } else {
                        Some(run.per_second())
                    }
                },
            ),
        ),
        (
            "memory",
            bars(
                "Memory of the broker for each connection (less is better)",
                |v| format!("{v:.0} bytes"),
                Outcome::bytes_each,
            ),
        ),
    ];
    let mut charts: Vec<(String, String)> =
        all.into_iter().filter_map(|(name, svg)| Some((name.to_owned(), svg?))).collect();
    for scenario in &scenarios {
        let latencies: Vec<Option<Latencies>> =
            targets.iter().map(|target| merged(runs(scenario, target))).collect();
        let svg = chart::percentiles(&format!("Latency: {scenario}"), &targets, |one, percent| {
            let latencies = latencies.get(one)?.as_ref()?;
            Some(latencies.percentile(percent).as_secs_f64() * 1e6)
        });
        charts.push((format!("latency-{}", file_name(scenario)), svg));
    }
    charts
}

fn page(about: &Value, charts: &[(String, String)], text: &str) -> String {
    let mut rows = Vec::new();
    for (name, value) in about.as_object().into_iter().flatten() {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Array(words) => {
                words.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
            }
            other => other.to_string(),
        };
        rows.push(vec![name.clone(), value]);
    }
    rows.insert(0, vec!["how it was run".into(), String::new()]);
    let mut page = String::from(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\"><title>sluice-bench</title><style>:root{color-scheme:light dark}body{max-width:900px;margin:2rem auto;padding:0 1rem;font:15px/1.5 system-ui,sans-serif;background:#fff;color:#1f2328}pre{overflow-x:auto;font-size:12px;background:#f6f8fa;padding:1rem;border-radius:6px}svg{width:100%;margin:1rem 0}@media(prefers-color-scheme:dark){body{background:#0d1117;color:#f0f6fc}pre{background:#151b23}}</style><h1>sluice-bench</h1>",
    );
    charts.iter().for_each(|(_, svg)| page.push_str(svg));
    let _ = write!(page, "<h2>Figures</h2><pre>{}</pre>", escape(text.trim()));
    let _ = write!(page, "<h2>To repeat it</h2><pre>{}</pre></html>", escape(&plain(&rows)));
    page
}

fn plain(rows: &[Vec<String>]) -> String {
    let flushed = |row: &Vec<String>| match row.as_slice() {
        [name, value] => format!("{name:<14}{value}\n"),
        _ => table(std::slice::from_ref(row)),
    };
    rows.iter().skip(1).map(flushed).collect()
}
