//! The runs of one scenario against one target as one number, and the ratio of two of those.

use super::{Headline, Outcome};

/// The headline numbers of the runs of one scenario against one target.
#[derive(Clone, Debug)]
pub(crate) struct Summary {
    pub(crate) median: Headline,
    /// Distance between the lowest and the highest as a part of the median; 0 for one run.
    pub(crate) spread: f64,
    pub(crate) is_disturbed: bool,
}

impl Summary {
    pub(crate) fn of(runs: &[Outcome]) -> Option<Self> {
        // Undisturbed runs, if there are any, speak for themselves.
        let quiet: Vec<&Outcome> = runs.iter().filter(|outcome| !outcome.is_disturbed()).collect();
        let is_disturbed = quiet.is_empty();
        let chosen: Vec<&Outcome> = if is_disturbed { runs.iter().collect() } else { quiet };
        let headlines: Vec<Headline> = chosen.iter().filter_map(|run| run.headline()).collect();
        let first = *headlines.first()?;
        let values: Vec<f64> = headlines.iter().map(|headline| headline.value()).collect();
        let lowest = values.iter().copied().fold(f64::MAX, f64::min);
        let highest = values.iter().copied().fold(f64::MIN, f64::max);
        let median = median(values);
        let spread = if median > 0.0 { (highest - lowest) / median } else { 0.0 };
        Some(Self { median: first.with_value(median), spread, is_disturbed })
    }

    pub(crate) fn show(&self) -> String {
        let mark = if self.is_disturbed { "~" } else { "" };
        let spread = if self.spread > 0.0 {
            format!(" ±{:.0}%", self.spread * 50.0)
        } else {
            String::new()
        };
        format!("{mark}{}{spread}", self.median)
    }

    /// How many times this one's number the baseline's is.
    pub(crate) fn ratio(&self, baseline: &Summary) -> Option<f64> {
        let ratio = baseline.median.value() / self.median.value();
        ratio.is_finite().then_some(ratio)
    }
}

/// 0 of nothing.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
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
