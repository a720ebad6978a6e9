//! The runs of one scenario against one target as one number, and the ratio of two of those.

use std::time::Duration;

use super::{Headline, Outcome};
use crate::measure::Latencies;

/// The runs of one scenario against one target that figures are taken from: those that nothing disturbed, if there
/// are any.
pub(crate) struct Chosen<'a> {
    runs: Vec<&'a Outcome>,
    is_disturbed: bool,
}

impl<'a> Chosen<'a> {
    pub(crate) fn of(runs: &'a [Outcome]) -> Self {
        let quiet: Vec<&Outcome> = runs.iter().filter(|run| !run.is_disturbed()).collect();
        let is_disturbed = quiet.is_empty() && !runs.is_empty();
        Self { runs: if is_disturbed { runs.iter().collect() } else { quiet }, is_disturbed }
    }

    /// What stands before a figure.
    pub(crate) fn mark(&self) -> &'static str {
        if self.is_disturbed { "~" } else { "" }
    }

    /// Whether that is so in one of them.
    pub(crate) fn any(&self, is_so: impl Fn(&Outcome) -> bool) -> bool {
        self.runs.iter().any(|run| is_so(run))
    }

    /// Of those that have such a value.
    pub(crate) fn values(&self, value: impl Fn(&Outcome) -> Option<f64>) -> Vec<f64> {
        self.runs.iter().filter_map(|run| value(run)).collect()
    }

    /// Of those that have such a value, if any.
    pub(crate) fn median(&self, value: impl Fn(&Outcome) -> Option<f64>) -> Option<f64> {
        Some(self.values(value)).filter(|values| !values.is_empty()).map(median)
    }

    /// The median of the runs' percentiles: one in which the machine stood still does not decide it.
    pub(crate) fn percentile(
        &self,
        of: impl Fn(&Outcome) -> &Latencies,
        percent: f64,
    ) -> Option<Duration> {
        let seconds = self.median(|run| {
            let latencies = Some(of(run)).filter(|latencies| latencies.count() > 0)?;
            Some(latencies.percentile(percent).as_secs_f64())
        });
        seconds.map(Duration::from_secs_f64)
    }

    /// The latencies of all their messages, if there are any.
    pub(crate) fn latencies(&self) -> Option<Latencies> {
        let mut all = Latencies::new();
        self.runs.iter().for_each(|run| all.merge(&run.latencies));
        (all.count() > 0).then_some(all)
    }
}

/// The headline numbers of the runs of one scenario against one target.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    pub(crate) median: Headline,
    /// Distance between the lowest and the highest as a part of the median; 0 for one run.
    pub(crate) spread: f64,
    mark: &'static str,
}

impl Summary {
    pub(crate) fn of(runs: &[Outcome]) -> Option<Self> {
        let chosen = Chosen::of(runs);
        let first = runs.iter().find_map(Outcome::headline)?;
        let values = chosen.values(|run| Some(run.headline()?.value()));
        if values.is_empty() {
            return None;
        }
        let lowest = values.iter().copied().fold(f64::MAX, f64::min);
        let highest = values.iter().copied().fold(f64::MIN, f64::max);
        let median = median(values);
        let spread = if median > 0.0 { (highest - lowest) / median } else { 0.0 };
        Some(Self { median: first.with_value(median), spread, mark: chosen.mark() })
    }

    pub(crate) fn show(&self) -> String {
        let spread = if self.spread > 0.0 {
            format!(" ±{:.0}%", self.spread * 50.0)
        } else {
            String::new()
        };
        format!("{}{}{spread}", self.mark, self.median)
    }

    /// How many times this one's number the baseline's is.
    pub(crate) fn ratio(&self, baseline: &Summary) -> Option<f64> {
        let ratio = baseline.median.value() / self.median.value();
        ratio.is_finite().then_some(ratio)
    }
}

/// 0 of nothing.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let upper = values.get(values.len() / 2);
    let lower = values.get(values.len().saturating_sub(1) / 2);
    upper.zip(lower).map_or(0.0, |(upper, lower)| (upper + lower) / 2.0)
}

/// A ratio with as many digits as it deserves.
pub(crate) fn times(ratio: f64) -> String {
    if ratio >= 10.0 { format!("{ratio:.0}×") } else { format!("{ratio:.2}×") }
}

/// What a ratio of spending says about the one that spends `1 / ratio` of the other.
pub(crate) fn less(ratio: f64) -> String {
    if ratio >= 1.0 {
        format!("{} less", times(ratio))
    } else {
        format!("{} more", times(1.0 / ratio))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_of_even_and_odd_counts() {
        assert_eq!(median(vec![9.0, 2.0, 1.0]), 2.0);
        assert_eq!(median(vec![1.0, 9.0, 4.0, 2.0]), 3.0);
        assert_eq!(median(vec![]), 0.0);
    }

    #[test]
    fn undisturbed_runs_speak_before_disturbed_ones() {
        let runs = [
            Outcome::costing(1_000_000, 0.0),
            Outcome::costing(9_000_000, 1.0),
            Outcome::costing(1_200_000, 0.1),
        ];
        assert_eq!(Summary::of(&runs).unwrap().show(), "1.10 µs ±9%");
        let runs = [Outcome::costing(9_000_000, 1.0)];
        assert_eq!(Summary::of(&runs).unwrap().show(), "~9.00 µs");
        assert!(Summary::of(&[]).is_none());
    }

    /// One in which the machine stood still for a while, and one that the host disturbed for certain.
    #[test]
    fn percentiles_are_medians_of_undisturbed_runs() {
        let run = |milliseconds: u64, stolen_cores| {
            let stolen_cores = Some(stolen_cores);
            let mut run = Outcome { stolen_cores, ..Outcome::costing(1, 0.0) };
            run.latencies.record(milliseconds * 1_000_000, 100);
            run
        };
        let runs = [run(1, 0.0), run(2, 0.01), run(500, 0.02), run(600, 0.03), run(700, 0.03)];
        let shown = |runs: &[Outcome]| {
            let chosen = Chosen::of(runs);
            let p99 = chosen.percentile(|run| &run.latencies, 99.0);
            let messages = chosen.latencies().map(|all| all.count());
            (chosen.mark(), p99.map(|p99| p99.as_millis()), messages)
        };
        assert_eq!(shown(&runs), ("", Some(2), Some(300)));
        assert_eq!(shown(&runs[3..]), ("~", Some(650), Some(200)));
        assert_eq!(shown(&[Outcome::default()]), ("", None, None));
        assert_eq!(shown(&[]), ("", None, None));
    }

    #[test]
    fn a_ratio_is_what_the_baseline_spends_more() {
        let summary = |cpu_ns| Summary::of(&[Outcome::costing(cpu_ns, 0.0)]).unwrap();
        let ratio = |own, base| summary(own).ratio(&summary(base)).map(times);
        assert_eq!(ratio(500_000, 5_000_000).as_deref(), Some("10×"));
        assert_eq!(ratio(500_000, 750_000).as_deref(), Some("1.50×"));
        assert_eq!(ratio(0, 1), None);
        assert_eq!(less(20.4), "20× less");
        assert_eq!(less(0.5), "2.00× more");
    }
}
