//! The outcomes of all runs, side by side.

use std::fmt::Write as _;

use super::config::{Comparison, TargetPlan};
use crate::report::{Entry, Headline, Outcome, Problem, Status, status_of, table, thousands};

pub(super) struct Results {
    scenarios: Vec<String>,
    targets: Vec<String>,
    /// Column of the baseline, if it was available.
    baseline: Option<usize>,
    /// By scenario, then by target.
    outcomes: Vec<Vec<Vec<Outcome>>>,
    notes: Vec<Problem>,
}

impl Results {
    pub(super) fn new(comparison: &Comparison, targets: &[&TargetPlan]) -> Self {
        let scenarios: Vec<String> =
            comparison.scenarios.iter().map(|scenario| scenario.name.clone()).collect();
        let targets: Vec<String> = targets.iter().map(|target| target.name.clone()).collect();
        let baseline = targets.iter().position(|name| *name == comparison.baseline);
        let outcomes = vec![vec![Vec::new(); targets.len()]; scenarios.len()];
        Self { scenarios, targets, baseline, outcomes, notes: Vec::new() }
    }

    pub(super) fn add(&mut self, scenario: usize, target: usize, outcome: Outcome) {
        for problem in &outcome.problems {
            let place = format!("{}, {}", self.scenarios[scenario], self.targets[target]);
            self.notes.push(Problem::new(problem.status, format!("{place}: {problem}")));
        }
        self.outcomes[scenario][target].push(outcome);
    }

    /// Something that went wrong.
    pub(super) fn note(&mut self, problem: Problem) {
        self.notes.push(problem);
    }

    pub(super) fn status(&self) -> Status {
        status_of(&self.notes)
    }

    /// What was run, for the files.
    pub(super) fn entries(&self) -> Vec<Entry<'_>> {
        let rows = self.scenarios.iter().zip(&self.outcomes);
        rows.flat_map(|(scenario, outcomes)| {
            let columns = self.targets.iter().zip(outcomes);
            columns.map(move |(target, runs)| Entry { scenario, target, runs })
        })
        .collect()
    }

    /// The tables, as text.
    pub(super) fn describe(&self) -> String {
        let mut text = String::from(
            "\nWhat the broker spends: CPU time per message, or memory per connection\n\n",
        );
        text.push_str(&table(&self.headline_rows()));
        text.push_str("\nThroughput per second; latency p50 / p99; this tool's CPU time\n\n");
        text.push_str(&table(&self.detail_rows()));
        let runs = self.outcomes.iter().flatten().flatten();
        let disturbed = runs.clone().filter(|outcome| outcome.is_disturbed()).count();
        if disturbed > 0 {
            let all = runs.count();
            let _ = writeln!(
                text,
                "\n~ {disturbed} of {all} runs were disturbed by other processes: their figures are too high"
            );
        }
        for note in &self.notes {
            let _ = writeln!(text, "PROBLEM: {note}");
        }
        text
    }

    fn headline_rows(&self) -> Vec<Vec<String>> {
        let mut head = vec![String::new()];
        head.extend(self.targets.iter().cloned());
        for (column, name) in self.targets.iter().enumerate() {
            if let Some(baseline) = self.baseline.filter(|baseline| *baseline != column) {
                head.push(format!("{}/{name}", self.targets[baseline]));
            }
        }
        let mut rows = vec![head];
        for (scenario, outcomes) in self.scenarios.iter().zip(&self.outcomes) {
            let summaries: Vec<Option<Summary>> =
                outcomes.iter().map(|runs| Summary::of(runs)).collect();
            let mut row = vec![scenario.clone()];
            let shown = |summary: &Option<Summary>| {
                summary.as_ref().map_or_else(|| "-".into(), Summary::show)
            };
            row.extend(summaries.iter().map(shown));
            for (column, summary) in summaries.iter().enumerate() {
                let Some(baseline) = self.baseline.filter(|baseline| *baseline != column) else {
                    continue;
                };
                let ratio = summaries[baseline].as_ref().zip(summary.as_ref());
                let ratio = ratio.map(|(base, own)| base.median.value() / own.median.value());
                row.push(ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}x")));
            }
            rows.push(row);
        }
        rows
    }

    fn detail_rows(&self) -> Vec<Vec<String>> {
        let mut rows = vec![vec![String::new()]];
        rows[0].extend(self.targets.iter().cloned());
        for (scenario, outcomes) in self.scenarios.iter().zip(&self.outcomes) {
            let mut row = vec![scenario.clone()];
            row.extend(outcomes.iter().map(|runs| details(runs)));
            rows.push(row);
        }
        rows
    }
}

/// The headline numbers of the runs of one scenario against one target.
struct Summary {
    median: Headline,
    /// Distance between the lowest and the highest as a part of the median; 0 for one run.
    spread: f64,
    is_disturbed: bool,
}

impl Summary {
    fn of(runs: &[Outcome]) -> Option<Self> {
        // Undisturbed runs, if there are any, speak for themselves.
        let quiet: Vec<&Outcome> = runs.iter().filter(|outcome| !outcome.is_disturbed()).collect();
        let is_disturbed = quiet.is_empty();
        let chosen: Vec<&Outcome> = if is_disturbed { runs.iter().collect() } else { quiet };
        let headlines: Vec<Headline> = chosen.iter().filter_map(|run| run.headline()).collect();
        let first = *headlines.first()?;
        let mut values: Vec<f64> = headlines.iter().map(|headline| headline.value()).collect();
        values.sort_by(f64::total_cmp);
        let (lowest, highest) = (*values.first()?, *values.last()?);
        let median = median(&values);
        let spread = if median > 0.0 { (highest - lowest) / median } else { 0.0 };
        Some(Self { median: first.with_value(median), spread, is_disturbed })
    }

    fn show(&self) -> String {
        let mark = if self.is_disturbed { "~" } else { "" };
        let spread = if self.spread > 0.0 {
            format!(" ±{:.0}%", self.spread * 50.0)
        } else {
            String::new()
        };
        format!("{mark}{}{spread}", self.median)
    }
}

/// Of values in order.
fn median(values: &[f64]) -> f64 {
    let middle = values.len() / 2;
    match (values.get(middle), values.len() % 2) {
        (Some(value), 1) => *value,
        (Some(value), _) => (value + values[middle - 1]) / 2.0,
        (None, _) => 0.0,
    }
}

/// Medians of the runs; percentiles over the messages of all of them.
fn details(runs: &[Outcome]) -> String {
    let Some((first, rest)) = runs.split_first() else { return "-".into() };
    let of_runs = |value: fn(&Outcome) -> f64| {
        let mut values: Vec<f64> = runs.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        median(&values)
    };
    let mut latencies = first.latencies.clone();
    rest.iter().for_each(|run| latencies.merge(&run.latencies));
    let milliseconds = |percent| latencies.percentile(percent).as_secs_f64() * 1e3;
    let (p50_ms, p99_ms) = (milliseconds(50.0), milliseconds(99.0));
    let per_second = thousands(of_runs(Outcome::per_second));
    let own = of_runs(Outcome::own_microseconds_each);
    let is_limit = runs.iter().any(Outcome::tool_was_the_bottleneck);
    let mark = if is_limit { " (tool-bound)" } else { "" };
    format!("{per_second}/s {p50_ms:.2}/{p99_ms:.1} ms {own:.2} µs{mark}")
}

/// One run in one line.
pub(super) fn brief(outcome: &Outcome) -> String {
    let headline = outcome.headline().map_or_else(|| "-".into(), |headline| headline.to_string());
    let mark = if outcome.is_disturbed() { " (disturbed)" } else { "" };
    let problems = match outcome.problems.as_slice() {
        [] => String::new(),
        problems => {
            let lines: Vec<String> = problems.iter().map(ToString::to_string).collect();
            format!(" PROBLEM: {}", lines.join("; "))
        }
    };
    format!("{headline}, {}/s{mark}{problems}", thousands(outcome.per_second()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Work;

    fn run(cpu_ns: u64, others_cores: f64) -> Outcome {
        Outcome {
            work: Work::Messages(1_000),
            broker_cpu_ns: Some(cpu_ns),
            others_cores: Some(others_cores),
            ..Outcome::default()
        }
    }

    #[test]
    fn the_median_of_even_and_odd_counts() {
        assert_eq!(median(&[1.0, 2.0, 9.0]), 2.0);
        assert_eq!(median(&[1.0, 2.0, 4.0, 9.0]), 3.0);
        assert_eq!(median(&[]), 0.0);
    }

    #[test]
    fn undisturbed_runs_speak_before_disturbed_ones() {
        let runs = [run(1_000_000, 0.0), run(9_000_000, 1.0), run(1_200_000, 0.1)];
        assert_eq!(Summary::of(&runs).unwrap().show(), "1.10 µs ±9%");
        let runs = [run(9_000_000, 1.0)];
        assert_eq!(Summary::of(&runs).unwrap().show(), "~9.00 µs");
        assert!(Summary::of(&[]).is_none());
    }

    #[test]
    fn ratios_are_against_the_baseline() {
        let mut results = Results {
            scenarios: vec!["s".into()],
            targets: vec!["ours".into(), "base".into()],
            baseline: Some(1),
            outcomes: vec![vec![Vec::new(), Vec::new()]],
            notes: Vec::new(),
        };
        results.add(0, 0, run(500_000, 0.0));
        results.add(0, 1, run(5_000_000, 0.0));
        let rows = results.headline_rows();
        assert_eq!(rows[0], ["", "ours", "base", "base/ours"]);
        assert_eq!(rows[1], ["s", "0.500 µs", "5.00 µs", "10.00x"]);
    }
}
