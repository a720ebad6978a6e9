//! The directory of a result: JSON, CSV, percentile files, charts and a page.

use std::fs;
use std::io;
use std::path::Path;

use serde_json::{Map, Value, json};

use super::about::about;
use super::chart::{self, Group, Line};
use super::page::{self, plain};
use super::record::run_json;
use super::summary::{Chosen, less, times};
use super::{Outcome, Work};
use crate::measure::Latencies;

/// All runs of one scenario against one target.
pub(crate) struct Entry<'a> {
    pub(crate) scenario: &'a str,
    pub(crate) target: &'a str,
    pub(crate) runs: &'a [Outcome],
}

/// Everything that is written.
pub(crate) struct Report<'a> {
    pub(crate) entries: &'a [Entry<'a>],
    /// The target that ratios are against.
    pub(crate) baseline: Option<&'a str>,
    /// What the terminal was told.
    pub(crate) text: &'a str,
    /// What else it takes to repeat the run, by name; `versions` holds the version of each target.
    pub(crate) setting: Map<String, Value>,
}

impl Report<'_> {
    pub(super) fn targets(&self) -> Vec<String> {
        distinct(self.entries.iter().map(|entry| entry.target))
    }

    pub(super) fn scenarios(&self) -> Vec<String> {
        distinct(self.entries.iter().map(|entry| entry.scenario))
    }

    pub(super) fn runs(&self, scenario: &str, target: &str) -> &[Outcome] {
        let mut entries = self.entries.iter();
        let found = entries.find(|one| one.scenario == scenario && one.target == target);
        found.map_or(&[][..], |entry| entry.runs)
    }
}

/// Writes everything.
pub(crate) fn write(directory: &Path, report: &Report<'_>) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    let mut about = about();
    if let Some(about) = about.as_object_mut() {
        about.extend(report.setting.clone());
    }
    let runs: Vec<Value> = report
        .entries
        .iter()
        .flat_map(|entry| entry.runs.iter().map(|run| run_json(entry, run)))
        .collect();
    let whole = json!({ "about": about, "runs": runs });
    fs::write(directory.join("result.json"), format!("{whole:#}\n"))?;
    fs::write(directory.join("result.csv"), csv(&runs, &about))?;
    for entry in report.entries {
        if let Some(latencies) = Chosen::of(entry.runs).latencies() {
            let name = format!("{}-{}.hgrm", file_name(entry.scenario), file_name(entry.target));
            fs::write(directory.join(name), latencies.percentile_file())?;
        }
    }
    let charts = charts(report);
    for (name, svg) in &charts {
        fs::write(directory.join(format!("{name}.svg")), svg)?;
    }
    fs::write(directory.join("report.html"), page::build(report, &about, &charts))
}

/// The same as the JSON, a line for each run; the last columns repeat what all runs have in common.
fn csv(runs: &[Value], about: &Value) -> String {
    let common = ["tool", "arguments", "started", "system", "kernel", "cpu", "cores", "memory"];
    let cell = |value: &Value| match value {
        Value::Null => String::new(),
        Value::Number(number) => number.to_string(),
        Value::Bool(is_so) => is_so.to_string(),
        other => format!("\"{}\"", plain(other).replace('"', "\"\"")),
    };
    let mut text = String::new();
    for run in runs.iter().filter_map(Value::as_object) {
        if text.is_empty() {
            let names = run.keys().map(String::as_str).chain(["target_version"]).chain(common);
            text = names.collect::<Vec<_>>().join(",") + "\n";
        }
        let target = run.get("target").and_then(Value::as_str).unwrap_or_default();
        let version = about.get("versions").and_then(|versions| versions.get(target));
        let shared = common.iter().map(|name| about.get(*name).unwrap_or(&Value::Null));
        let cells = run.values().chain([version.unwrap_or(&Value::Null)]).chain(shared);
        text += &(cells.map(cell).collect::<Vec<_>>().join(",") + "\n");
    }
    text
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

/// By file name.
fn charts(report: &Report<'_>) -> Vec<(String, String)> {
    let is_rate = |run: &Outcome| !matches!(run.work, Work::Connections(_));
    let each = |run: &Outcome| run.broker_microseconds_each().filter(|_| is_rate(run));
    let per_second = |run: &Outcome| Some(run.per_second()).filter(|_| is_rate(run));
    let bars = |name: &str,
                title: &str,
                note: &str,
                value: &dyn Fn(&Outcome) -> Option<f64>,
                show: &dyn Fn(f64) -> String,
                is_less_better: bool| {
        let groups = groups(report, value, show, is_less_better);
        (!groups.is_empty())
            .then(|| (name.to_owned(), chart::bars(title, note, &report.targets(), &groups)))
    };
    let cpu = bars(
        "cpu",
        "CPU time of the broker for each message",
        "Less is better. Each group has a scale of its own; storm: for each client that connects and subscribes.",
        &each,
        &|us| if us < 1.0 { format!("{us:.3} µs") } else { format!("{us:.2} µs") },
        true,
    );
    let throughput = bars(
        "throughput",
        "Messages delivered a second",
        "More is better. Where a broker is limited by this tool or by a fixed rate, look at its CPU time instead.",
        &per_second,
        &|rate| format!("{}/s", super::thousands(rate)),
        false,
    );
    let memory = bars(
        "memory",
        "Memory of the broker for each idle connection",
        "Less is better. Growth of resident memory, divided by the number of connections.",
        &Outcome::bytes_each,
        &|bytes| format!("{bytes:.0} bytes"),
        true,
    );
    let latencies =
        report.scenarios().into_iter().filter_map(|scenario| latency(report, &scenario));
    [cpu, throughput, memory].into_iter().flatten().chain(latencies).collect()
}

/// A group of bars for each scenario, with ratios against the baseline.
fn groups(
    report: &Report<'_>,
    value: &dyn Fn(&Outcome) -> Option<f64>,
    show: &dyn Fn(f64) -> String,
    is_less_better: bool,
) -> Vec<Group> {
    let targets = report.targets();
    let group = |scenario: String| {
        let of = |target: &str| {
            let chosen = Chosen::of(report.runs(&scenario, target));
            Some((chosen.median(value)?, chosen.mark()))
        };
        let baseline = report.baseline.and_then(of).map(|(value, _)| value);
        let shown = |target: &String| {
            let (value, mark) = of(target)?;
            let other = baseline.filter(|_| Some(target.as_str()) != report.baseline);
            let ratio = other.map(|base| if is_less_better { base / value } else { value / base });
            let ratio = ratio.filter(|ratio| ratio.is_finite());
            let ratio = ratio.map_or_else(String::new, |ratio| {
                let words =
                    if is_less_better { less(ratio) } else { format!("{} as many", times(ratio)) };
                format!("  ({words})")
            });
            Some((value, format!("{mark}{}{ratio}", show(value))))
        };
        let values = targets.iter().map(shown).collect();
        Group { name: scenario, values }
    };
    let groups = report.scenarios().into_iter().map(group);
    groups.filter(|group| group.values.iter().any(Option::is_some)).collect()
}

fn latency(report: &Report<'_>, scenario: &str) -> Option<(String, String)> {
    let found: Vec<(usize, String, Latencies)> = (0..)
        .zip(report.targets())
        .filter_map(|(index, target)| {
            let chosen = Chosen::of(report.runs(scenario, &target));
            Some((index, format!("{}{target}", chosen.mark()), chosen.latencies()?))
        })
        .collect();
    type At<'a> = Box<dyn Fn(f64) -> std::time::Duration + 'a>;
    let at: Vec<At<'_>> = found
        .iter()
        .map(|(_, _, latencies)| Box::new(|part| latencies.percentile(part * 100.0)) as At<'_>)
        .collect();
    let lines: Vec<Line<'_>> = found
        .iter()
        .zip(&at)
        .map(|((index, name, latencies), at)| Line {
            name,
            index: *index,
            count: latencies.count(),
            at,
        })
        .collect();
    let name = format!("latency-{}", file_name(scenario));
    (!lines.is_empty()).then(|| (name, chart::percentiles(scenario, &lines)))
}
