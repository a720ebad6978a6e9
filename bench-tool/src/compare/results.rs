//! The outcomes of all runs, side by side.

use std::fmt::Write as _;

use super::disk;
use super::plan::{Comparison, TargetPlan};
use crate::report::{
    Chosen, Entry, Outcome, Problem, Status, Summary, status_of, table, thousands, times,
};

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

    /// What was sent to a target in the scenario of that name, a second.
    pub(super) fn sent_per_second(&self, scenario: &str, target: usize) -> Option<f64> {
        let row = self.scenarios.iter().position(|name| name == scenario)?;
        let runs = &self.outcomes.get(row)?.get(target)?;
        Chosen::of(runs).median(|run| Some(run.sent_per_second()))
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
        let disk = disk::rows(&self.scenarios, &self.targets, &self.outcomes);
        if !disk.is_empty() {
            let _ = write!(text, "\n{}\n\n{}", disk::TITLE, table(&disk));
        }
        let runs = self.outcomes.iter().flatten().flatten();
        let disturbed = runs.clone().filter(|outcome| outcome.is_disturbed()).count();
        if disturbed > 0 {
            let all = runs.count();
            let _ = writeln!(
                text,
                "\n~ {disturbed} of {all} runs were disturbed by other processes or by the machine's host. Figures are of\nthe others; where there are none, they may be worse than the broker's, and are marked with ~"
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
                let both = summaries[baseline].as_ref().zip(summary.as_ref());
                let ratio = both.and_then(|(base, own)| own.ratio(base));
                row.push(ratio.map_or_else(|| "-".into(), times));
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

/// Medians of the runs.
fn details(runs: &[Outcome]) -> String {
    let chosen = Chosen::of(runs);
    let Some(per_second) = chosen.median(|run| Some(run.per_second())) else { return "-".into() };
    let per_second = format!("{}{}/s", chosen.mark(), thousands(per_second));
    let milliseconds = |percent| {
        let latency = chosen.percentile(|run| &run.latencies, percent);
        latency.unwrap_or_default().as_secs_f64() * 1e3
    };
    let (p50_ms, p99_ms) = (milliseconds(50.0), milliseconds(99.0));
    let own = chosen.median(Outcome::own_microseconds_each).unwrap_or_default();
    let spun = chosen.any(Outcome::spun);
    let own = if spun { "spinning".into() } else { format!("{own:.2} µs") };
    let is_limit = chosen.any(Outcome::tool_was_the_bottleneck);
    let mark = if is_limit { " (tool-bound)" } else { "" };
    format!("{per_second} {p50_ms:.2}/{p99_ms:.1} ms {own}{mark}")
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

    #[test]
    fn ratios_are_against_the_baseline() {
        let mut results = Results {
            scenarios: vec!["s".into()],
            targets: vec!["ours".into(), "base".into()],
            baseline: Some(1),
            outcomes: vec![vec![Vec::new(), Vec::new()]],
            notes: Vec::new(),
        };
        results.add(0, 0, Outcome::costing(500_000, 0.0));
        results.add(0, 1, Outcome::costing(5_000_000, 0.0));
        let rows = results.headline_rows();
        assert_eq!(rows[0], ["", "ours", "base", "base/ours"]);
        assert_eq!(rows[1], ["s", "0.500 µs", "5.00 µs", "10×"]);
    }
}
