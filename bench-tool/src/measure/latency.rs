//! Latencies in an HdrHistogram.

use std::fmt::{self, Write as _};
use std::time::Duration;

use hdrhistogram::Histogram;

/// Latencies from sending to receiving, in nanoseconds, up to a minute, with three significant digits.
#[derive(Clone)]
pub(crate) struct Latencies(Histogram<u64>);

impl Latencies {
    const HIGHEST_NS: u64 = 60_000_000_000;

    pub(crate) fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, Self::HIGHEST_NS, 3);
        Self(histogram.expect("the bounds are constants that the histogram accepts"))
    }

    /// Counts `count` messages that took `nanoseconds` each; what is beyond a minute counts as one minute.
    #[inline]
    pub(crate) fn record(&mut self, nanoseconds: u64, count: u64) {
        self.0.saturating_record_n(nanoseconds, count);
    }

    pub(crate) fn clear(&mut self) {
        self.0.reset();
    }

    /// Adds what another thread or run has counted.
    pub(crate) fn merge(&mut self, other: &Latencies) {
        self.0.add(&other.0).expect("all are made with the same bounds");
    }

    /// What was counted since `earlier`; `None` if this is not what came of it.
    pub(crate) fn minus(&self, earlier: &Latencies) -> Option<Latencies> {
        let mut rest = self.clone();
        rest.0.subtract(&earlier.0).ok()?;
        Some(rest)
    }

    pub(crate) fn count(&self) -> u64 {
        self.0.len()
    }

    /// The value that `percent` of the messages do not exceed.
    pub(crate) fn percentile(&self, percent: f64) -> Duration {
        Duration::from_nanos(self.0.value_at_percentile(percent))
    }

    /// Messages that took longer.
    #[cfg(test)]
    pub(crate) fn count_above(&self, time: Duration) -> u64 {
        let highest = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.count() - self.0.count_between(0, highest)
    }

    /// The text that HdrHistogram's plotter reads, in microseconds.
    pub(crate) fn percentile_file(&self) -> String {
        let mut text = String::from("       Value     Percentile TotalCount 1/(1-Percentile)\n\n");
        let mut total = 0;
        for step in self.0.iter_quantiles(5) {
            total += step.count_since_last_iteration();
            let quantile = step.quantile_iterated_to();
            let value = step.value_iterated_to() as f64 / 1e3;
            let _ = write!(text, "{value:12.3} {quantile:14.12} {total:10}");
            let rarity = 1.0 / (1.0 - quantile);
            let _ =
                if rarity.is_finite() { writeln!(text, " {rarity:14.2}") } else { writeln!(text) };
        }
        let (mean, deviation) = (self.0.mean() / 1e3, self.0.stdev() / 1e3);
        let max = self.0.max() as f64 / 1e3;
        let _ = writeln!(text, "#[Mean    = {mean:12.3}, StdDeviation   = {deviation:12.3}]");
        let _ = writeln!(text, "#[Max     = {max:12.3}, Total count    = {:12}]", self.count());
        text
    }

    pub(crate) fn max(&self) -> Duration {
        Duration::from_nanos(self.0.max())
    }
}

impl fmt::Debug for Latencies {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Latencies({} values)", self.count())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(value: Duration, expected_ns: u64) -> bool {
        let value = u64::try_from(value.as_nanos()).unwrap();
        value.abs_diff(expected_ns) * 1000 <= expected_ns
    }

    #[test]
    fn percentiles_of_known_latencies() {
        let mut latencies = Latencies::new();
        for n in 1..=100_000_u64 {
            latencies.record(n * 1_000, 1);
        }
        assert!(within(latencies.percentile(50.0), 50_000_000));
        assert!(within(latencies.percentile(99.0), 99_000_000));
        assert!(within(latencies.percentile(99.99), 99_990_000));
        assert!(within(latencies.max(), 100_000_000));
    }

    #[test]
    fn merged_is_as_if_recorded_in_one() {
        let mut one = Latencies::new();
        let mut other = Latencies::new();
        one.record(1_000, 90);
        other.record(1_000_000, 10);
        one.merge(&other);
        assert_eq!(one.count(), 100);
        assert!(within(one.percentile(90.0), 1_000));
        assert!(within(one.percentile(91.0), 1_000_000));
    }

    #[test]
    fn what_came_since_can_be_told() {
        let mut earlier = Latencies::new();
        earlier.record(1_000, 5);
        let mut later = earlier.clone();
        later.record(9_000, 2);
        let since = later.minus(&earlier).unwrap();
        assert_eq!(since.count(), 2);
        assert!(within(since.percentile(1.0), 9_000));
        assert!(earlier.minus(&later).is_none());
    }

    /// Each of 1 to 1999 ns once, which the histogram keeps exactly: as many are as long, at most, as a line's value
    /// has nanoseconds.
    #[test]
    fn a_percentile_file_tells_known_latencies_line_by_line() {
        let mut latencies = Latencies::new();
        (1..=1999).for_each(|ns| latencies.record(ns, 1));
        let text = latencies.percentile_file();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "       Value     Percentile TotalCount 1/(1-Percentile)");
        assert_eq!(lines[1], "");
        let (values, ends) = lines[2..].split_at(lines.len() - 4);
        let mut reached = 0.0;
        for line in values {
            let columns: Vec<f64> =
                line.split_whitespace().map(|word| word.parse().unwrap()).collect();
            let (microseconds, part, total) = (columns[0], columns[1], columns[2]);
            assert_eq!((microseconds * 1e3).round(), total, "{line}");
            assert_eq!((part * 1999.0 - 1e-6).ceil().max(1.0), total, "{line}");
            assert!(part >= reached, "{line}");
            reached = part;
            match columns.get(3) {
                Some(rarity) => assert!((rarity * (1.0 - part) - 1.0).abs() < 0.01, "{line}"),
                None => assert_eq!(part, 1.0, "{line}"),
            }
        }
        assert_eq!(reached, 1.0);
        // Five in the first half, five in half of the rest, and so on until there is one left.
        assert!(values.len() > 50, "{text}");
        assert_eq!(values[5], "       1.000 0.500000000000       1000           2.00");
        assert_eq!(ends[0], "#[Mean    =        1.000, StdDeviation   =        0.577]");
        assert_eq!(ends[1], "#[Max     =        1.999, Total count    =         1999]");
    }

    #[test]
    fn beyond_a_minute_is_a_minute() {
        let mut latencies = Latencies::new();
        latencies.record(u64::MAX, 1);
        assert!(within(latencies.max(), Latencies::HIGHEST_NS));
    }
}
