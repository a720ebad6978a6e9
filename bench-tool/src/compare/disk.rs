//! What brokers do with the disk, side by side with what it allows.

use std::time::Duration;

use crate::measure::{Alone, DiskUse};
use crate::report::{Chosen, Outcome, short, thousands};

pub(super) const TITLE: &str = "On disk: what was taken in and how long its acknowledgement took; what that wrote and how often it was synced;\nand what appending and syncing alone, in batches of that many messages, reaches on the same disk";

/// Of the runs of one scenario against one target.
type Show = fn(&[Outcome]) -> Option<String>;

/// What is shown of each scenario.
const LINES: [(&str, Show); 8] = [
    ("messages taken in", |runs| per_second(runs, |used| Some(used.messages_per_second()))),
    ("until acknowledged, p50 / p99", acknowledged),
    ("bytes written for each", |runs| {
        of_disk(runs, DiskUse::written_bytes_each).map(|bytes| format!("{bytes:.0}"))
    }),
    ("messages in a sync", |runs| {
        of_disk(runs, DiskUse::messages_per_sync).map(|messages| format!("{messages:.0}"))
    }),
    ("disk alone, messages", |runs| per_second(runs, DiskUse::allowed_per_second)),
    ("disk alone, one sync, p50 / p99", |runs| alone(runs, |alone| (alone.p50, alone.p99))),
    ("disk alone, any time, p50 / p99", |runs| {
        alone(runs, |alone| (alone.wait_p50, alone.wait_p99))
    }),
    ("reached of disk alone", |runs| {
        of_disk(runs, DiskUse::share).map(|share| format!("{:.0} %", share * 100.0))
    }),
];

/// The table; empty if the disk was not looked at. `outcomes` by scenario, then by target.
pub(super) fn rows(
    scenarios: &[String],
    targets: &[String],
    outcomes: &[Vec<Vec<Outcome>>],
) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for (scenario, by_target) in scenarios.iter().zip(outcomes) {
        if by_target.iter().flatten().all(|run| run.disk.is_none()) {
            continue;
        }
        rows.push(vec![scenario.clone()]);
        for (name, show) in LINES {
            let marked =
                |runs: &Vec<Outcome>| Some(format!("{}{}", Chosen::of(runs).mark(), show(runs)?));
            let cells: Vec<Option<String>> = by_target.iter().map(marked).collect();
            if cells.iter().any(Option::is_some) {
                let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "-".into()));
                rows.push([format!("  {name}")].into_iter().chain(cells).collect());
            }
        }
    }
    if !rows.is_empty() {
        rows.insert(0, [String::new()].into_iter().chain(targets.iter().cloned()).collect());
    }
    rows
}

/// The median of the runs that have such a value.
fn of_disk(runs: &[Outcome], value: impl Fn(&DiskUse) -> Option<f64>) -> Option<f64> {
    Chosen::of(runs).median(|run| value(run.disk.as_ref()?))
}

fn per_second(runs: &[Outcome], value: impl Fn(&DiskUse) -> Option<f64>) -> Option<String> {
    of_disk(runs, value).map(|value| format!("{}/s", thousands(value)))
}

fn acknowledged(runs: &[Outcome]) -> Option<String> {
    let chosen = Chosen::of(runs);
    let at = |percent| chosen.percentile(|run| &run.acknowledgements, percent).map(short);
    Some(format!("{} / {}", at(50.0)?, at(99.0)?))
}

fn alone(runs: &[Outcome], of: impl Fn(Alone) -> (Duration, Duration)) -> Option<String> {
    let p50 = of_disk(runs, |used| Some(of(used.alone?).0.as_secs_f64()))?;
    let p99 = of_disk(runs, |used| Some(of(used.alone?).1.as_secs_f64()))?;
    let show = |seconds| short(Duration::from_secs_f64(seconds));
    Some(format!("{} / {}", show(p50), show(p99)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_has_a_line_for_each_figure() {
        let (p50, p99) = (Duration::from_micros(800), Duration::from_millis(3));
        let (wait_p50, wait_p99) = (Duration::from_micros(1_200), Duration::from_millis(7));
        let used = DiskUse {
            messages: 50_000,
            outstanding: 3_200,
            paced: false,
            message_bytes: 270,
            elapsed: Duration::from_secs(1),
            written_bytes: Some(25_000_000),
            syncs: Some(500),
            alone: Some(Alone { batches_per_second: 1_000.0, p50, p99, wait_p50, wait_p99 }),
        };
        let mut synced = Outcome { disk: Some(used), ..Outcome::default() };
        synced.acknowledgements.record(2_000_000, 1);
        let unsynced =
            DiskUse { messages: 90_000, elapsed: Duration::from_secs(1), ..DiskUse::default() };
        let unsynced = Outcome { disk: Some(unsynced), ..Outcome::default() };
        let outcomes = vec![vec![vec![synced], vec![unsynced]], vec![vec![Outcome::default()]]];
        let names = |names: [&str; 2]| names.map(str::to_owned);
        let rows = rows(&names(["lasting", "other"]), &names(["a", "b"]), &outcomes);
        let shown: Vec<&[String]> = rows.iter().skip(2).map(|row| &row[1..]).collect();
        assert_eq!(rows[0], ["", "a", "b"]);
        assert_eq!(rows[1], ["lasting"]);
        assert_eq!(
            shown,
            [
                ["50.0k/s", "90.0k/s"],
                ["2.00 ms / 2.00 ms", "-"],
                ["500", "-"],
                ["100", "-"],
                ["100.0k/s", "-"],
                ["800 µs / 3.00 ms", "-"],
                ["1.20 ms / 7.00 ms", "-"],
                ["50 %", "-"],
            ]
        );
    }
}
