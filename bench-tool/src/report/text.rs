//! Results as text for a terminal.

use std::fmt::Write as _;
use std::time::Duration;

use super::{Outcome, Work};
use crate::measure::{DiskUse, Latencies, StreamFaults};

/// What is said instead of the memory of a connection.
const REUSED: &str = "not known: the broker took memory that it had from before; start it afresh";

/// Everything about one run.
pub(crate) fn describe(outcome: &Outcome) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "  {name:<22}{value}");
    };
    let unit = outcome.work.unit();
    let seconds = outcome.elapsed.as_secs_f64();
    let what = match outcome.work {
        Work::Messages(_) => "delivered",
        Work::Published(_) => "published",
        Work::Logins(_) | Work::Connections(_) => "let in",
    };
    line(
        what,
        format!("{} in {seconds:.2} s, {:.0}/s", outcome.work.count(), outcome.per_second()),
    );
    if outcome.sent > 0 {
        line("sent", outcome.sent.to_string());
    }
    if let (Some(each), Some(cores)) = (outcome.broker_microseconds_each(), outcome.broker_cores())
    {
        line("broker's CPU", format!("{each:.3} µs per {unit} ({cores:.2} cores)"));
    }
    if let Some(each) = outcome.own_microseconds_each() {
        let cores = outcome.own_cores();
        let spun = if outcome.spun() { ", spinning" } else { "" };
        line("this tool's CPU", format!("{each:.3} µs per {unit} ({cores:.2} cores{spun})"));
    }
    if let Some(each) = outcome.bytes_each() {
        line("memory", format!("{each:.0} bytes per connection"));
    } else if outcome.reuses_memory() {
        line("memory", REUSED.into());
    }
    if let Some(bytes) = outcome.resident_bytes {
        line("broker's memory", format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20)));
    }
    if outcome.latencies.count() > 0 {
        line("latency", percentiles(&outcome.latencies));
    }
    if outcome.acknowledgements.count() > 0 {
        line("acknowledgement", percentiles(&outcome.acknowledgements));
    }
    for (name, value) in outcome.disk.iter().flat_map(disk) {
        line(name, value);
    }
    if matches!(outcome.work, Work::Messages(_)) {
        line("faults", faults(outcome));
    }
    for (name, value) in &outcome.remarks {
        line(name, value.clone());
    }
    if let Some(what) = outcome.disturbance() {
        line("note", format!("{what}: figures may be worse than the broker's"));
    }
    if outcome.tool_was_the_bottleneck() {
        line("note", "this tool was the bottleneck: the broker could do more".into());
    }
    for problem in &outcome.problems {
        line("PROBLEM", problem.to_string());
    }
    format!("{}\n{text}", outcome.label)
}

/// What did not arrive as it was sent.
fn faults(outcome: &Outcome) -> String {
    let StreamFaults { lost, duplicates, reordered } = outcome.faults;
    let mut text = format!("{lost} lost, {duplicates} duplicates");
    text += &match outcome.unordered {
        None => format!(", {reordered} reordered"),
        Some(reason) => format!("; order is not looked at: {reason}"),
    };
    if outcome.sent_in_all > outcome.sent {
        text += &format!("; of {} sent, with the warm-up", outcome.sent_in_all);
    }
    text
}

/// What the broker did with the disk, and what the disk would have allowed.
fn disk(used: &DiskUse) -> Vec<(&'static str, String)> {
    let mut lines = Vec::new();
    if let Some(bytes) = used.written_bytes_each() {
        lines.push(("written to disk", format!("{bytes:.0} bytes per message")));
    }
    if let Some(syncs) = used.syncs_per_second() {
        let each = used.messages_per_sync();
        let each = each.map_or_else(String::new, |each| format!(", {each:.1} messages in each"));
        lines.push(("syncs", format!("{syncs:.0}/s{each}")));
    }
    if let Some((alone, allowed)) = used.alone.zip(used.allowed_per_second()) {
        let (p50, p99) = (short(alone.p50), short(alone.p99));
        let share = used.share();
        let share =
            share.map_or_else(String::new, |share| format!("; reached: {:.0} %", share * 100.0));
        let text = format!("{allowed:.0}/s in such batches, each p50 {p50}  p99 {p99}{share}");
        lines.push(("disk alone", text));
        let (p50, p99) = (short(alone.wait_p50), short(alone.wait_p99));
        lines.push(("", format!("who comes at any time waits p50 {p50}  p99 {p99}")));
    }
    lines
}

/// The usual percentiles in one line.
pub(crate) fn percentiles(latencies: &Latencies) -> String {
    let named = [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("p99.99", 99.99)];
    let mut text = String::new();
    for (name, percent) in named {
        let _ = write!(text, "{name} {}  ", short(latencies.percentile(percent)));
    }
    let _ = write!(text, "max {}", short(latencies.max()));
    text
}

pub(crate) fn short(time: Duration) -> String {
    let microseconds = time.as_secs_f64() * 1e6;
    if microseconds < 1_000.0 {
        format!("{microseconds:.0} µs")
    } else if microseconds < 10_000.0 {
        format!("{:.2} ms", microseconds / 1e3)
    } else if microseconds < 1_000_000.0 {
        format!("{:.1} ms", microseconds / 1e3)
    } else {
        format!("{:.2} s", microseconds / 1e6)
    }
}

/// A number of which only the size matters.
pub(crate) fn thousands(value: f64) -> String {
    if value >= 1e6 {
        format!("{:.2}M", value / 1e6)
    } else if value >= 1e3 {
        format!("{:.1}k", value / 1e3)
    } else {
        format!("{value:.0}")
    }
}

/// Lays out rows in columns; the first is flushed left, the others right.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            let _ = match column {
                0 => write!(text, "{cell:<width$}"),
                _ => write!(text, "  {cell:>width$}"),
            };
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
        if number == 0 {
            let line = widths.iter().sum::<usize>() + 2 * columns.saturating_sub(1);
            let _ = writeln!(text, "{}", "-".repeat(line));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Parameters, ScenarioName};

    #[test]
    fn faults_say_what_they_are_of_and_whether_order_is_owed() {
        let faults = |unordered, sent_in_all| {
            let faults = StreamFaults { lost: 1, duplicates: 2, reordered: 3 };
            super::faults(&Outcome {
                faults,
                unordered,
                sent: 5,
                sent_in_all,
                ..Outcome::default()
            })
        };
        assert_eq!(faults(None, 0), "1 lost, 2 duplicates, 3 reordered");
        let expected =
            "1 lost, 2 duplicates; order is not looked at: why; of 9 sent, with the warm-up";
        assert_eq!(faults(Some("why"), 9), expected);
    }

    #[test]
    fn what_was_not_done_has_no_cost() {
        let told = |work| {
            let outcome = Outcome {
                work,
                own_cpu_ns: 5_000,
                broker_cpu_ns: Some(5_000),
                ..Outcome::default()
            };
            describe(&outcome)
        };
        let nothing = told(Work::Messages(0));
        assert!(!nothing.contains("CPU"), "{nothing}");
        let two = told(Work::Messages(2));
        assert!(two.contains("this tool's CPU       2.500 µs per message"), "{two}");
        let in_all = told(Work::Connections(5));
        assert!(in_all.contains("broker's CPU          1.000 µs per client let in"), "{in_all}");
    }

    #[test]
    fn a_tool_that_spun_says_so() {
        let parameters = Some(Parameters { spin: true, ..ScenarioName::P2p.defaults() });
        let outcome = Outcome { parameters, own_cpu_ns: 1_000, ..Outcome::costing(1, 0.0) };
        let told = describe(&outcome);
        assert!(told.contains("per message (0.00 cores, spinning)"), "{told}");
    }

    #[test]
    fn a_table_is_aligned() {
        let rows = [["a", "µs"], ["long name", "1.25"], ["b", ""]];
        let rows: Vec<Vec<String>> =
            rows.iter().map(|row| row.iter().map(ToString::to_string).collect()).collect();
        let expected = "a            µs\n---------------\nlong name  1.25\nb\n";
        assert_eq!(table(&rows), expected);
    }
}
