//! Finds what was lost, repeated or overtaken in one stream of sequence numbers.

use std::ops::Range;

/// Gaps that a tracker remembers; when there are more, the oldest counts as lost for good.
const MAX_GAPS: usize = 16 * 1024;

/// What one received sequence number turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// Seen for the first time, and nothing sent later was seen before it.
    Fresh,
    /// Seen for the first time, but after one that was sent later.
    Late,
    /// Seen before.
    Duplicate,
}

/// What went wrong in one stream, or in several added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct StreamFaults {
    /// Sent and never received.
    pub(crate) lost: u64,
    /// Received once more than sent.
    pub(crate) duplicates: u64,
    /// Received after a message that was sent later.
    pub(crate) reordered: u64,
}

impl StreamFaults {
    pub(crate) fn add(&mut self, other: StreamFaults) {
        self.lost += other.lost;
        self.duplicates += other.duplicates;
        self.reordered += other.reordered;
    }
}

/// Follows the messages of one publisher at one subscriber; they are numbered from 0 without gaps.
#[derive(Debug, Default)]
pub(crate) struct SequenceTracker {
    /// The first that is expected; what is sent before it is nobody's business.
    first: u64,
    next: u64,
    duplicates: u64,
    reordered: u64,
    /// Fallen out of `gaps` unseen.
    forgotten: u64,
    /// Ascending, disjoint ranges below `next` that were not seen.
    gaps: Vec<Range<u64>>,
}

impl SequenceTracker {
    /// For somebody who came late: numbers before `first` are not missed.
    pub(crate) fn starting_at(first: u64) -> Self {
        Self { first, next: first, ..Self::default() }
    }

    /// Takes in one received number.
    #[inline]
    pub(crate) fn observe(&mut self, sequence: u64) -> Seen {
        if sequence == self.next {
            self.next += 1;
            return Seen::Fresh;
        }
        self.observe_out_of_turn(sequence)
    }

    /// One more than the highest number seen.
    #[inline]
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// What is wrong so far, if `sent` messages should have arrived by now.
    pub(crate) fn faults(&self, sent: u64) -> StreamFaults {
        let in_gaps: u64 = self.gaps.iter().map(|gap| gap.end - gap.start).sum();
        let tail = sent.saturating_sub(self.next);
        StreamFaults {
            lost: self.forgotten + in_gaps + tail,
            duplicates: self.duplicates,
            reordered: self.reordered,
        }
    }

    #[cold]
    fn observe_out_of_turn(&mut self, sequence: u64) -> Seen {
        if sequence > self.next {
            self.remember_gap(self.next..sequence);
            self.next = sequence + 1;
            return Seen::Fresh;
        }
        if sequence < self.first || self.fill_gap(sequence) {
            self.reordered += 1;
            Seen::Late
        } else {
            self.duplicates += 1;
            Seen::Duplicate
        }
    }

    fn remember_gap(&mut self, gap: Range<u64>) {
        if self.gaps.len() >= MAX_GAPS {
            // Half at once, so that a stream of gaps does not shift the list for each of them.
            let oldest = self.gaps.drain(..MAX_GAPS / 2);
            self.forgotten += oldest.map(|gap| gap.end - gap.start).sum::<u64>();
        }
        self.gaps.push(gap);
    }

    fn fill_gap(&mut self, sequence: u64) -> bool {
        let at = self.gaps.partition_point(|gap| gap.end <= sequence);
        let Some(gap) = self.gaps.get_mut(at).filter(|gap| gap.contains(&sequence)) else {
            return false;
        };
        let rest = sequence + 1..gap.end;
        gap.end = sequence;
        let emptied = gap.is_empty();
        match (emptied, rest.is_empty()) {
            (true, true) => drop(self.gaps.remove(at)),
            (true, false) => self.gaps[at] = rest,
            (false, true) => {}
            (false, false) => self.gaps.insert(at + 1, rest),
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(numbers: impl IntoIterator<Item = u64>, sent: u64) -> StreamFaults {
        let mut tracker = SequenceTracker::default();
        for number in numbers {
            tracker.observe(number);
        }
        tracker.faults(sent)
    }

    #[test]
    fn a_clean_stream_has_no_faults() {
        assert_eq!(faults(0..1000, 1000), StreamFaults::default());
    }

    #[test]
    fn who_comes_late_misses_nothing_from_before() {
        let mut tracker = SequenceTracker::starting_at(100);
        for number in [100, 101, 99, 103] {
            tracker.observe(number);
        }
        assert_eq!(tracker.faults(104), StreamFaults { lost: 1, reordered: 1, duplicates: 0 });
    }

    #[test]
    fn a_gap_and_a_missing_tail_are_losses() {
        let seen = [0, 1, 4, 5];
        assert_eq!(faults(seen, 8), StreamFaults { lost: 4, ..Default::default() });
    }

    #[test]
    fn nothing_received_is_everything_lost() {
        assert_eq!(faults([], 3), StreamFaults { lost: 3, ..Default::default() });
    }

    #[test]
    fn a_repeat_is_a_duplicate_each_time() {
        let seen = [0, 1, 1, 0, 1, 2];
        assert_eq!(faults(seen, 3), StreamFaults { duplicates: 3, ..Default::default() });
    }

    #[test]
    fn a_swap_is_one_reordering_and_no_loss() {
        let seen = [0, 2, 1, 3];
        assert_eq!(faults(seen, 4), StreamFaults { reordered: 1, ..Default::default() });
    }

    #[test]
    fn a_gap_is_filled_from_any_side_and_a_second_filling_is_a_duplicate() {
        let mut tracker = SequenceTracker::default();
        assert_eq!(tracker.observe(9), Seen::Fresh);
        for late in [0, 8, 4, 3, 5] {
            assert_eq!(tracker.observe(late), Seen::Late, "{late}");
        }
        assert_eq!(tracker.observe(4), Seen::Duplicate);
        let expected = StreamFaults { lost: 4, duplicates: 1, reordered: 5 };
        assert_eq!(tracker.faults(10), expected);
    }

    #[test]
    fn more_gaps_than_are_remembered_stay_counted() {
        let gaps = 3 * MAX_GAPS as u64;
        let odd = (0..gaps).map(|n| 2 * n + 1);
        assert_eq!(faults(odd, 2 * gaps), StreamFaults { lost: gaps, ..Default::default() });
    }

    #[test]
    fn agrees_with_a_plain_set_over_random_streams() {
        for seed in 0..200 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut tracker = SequenceTracker::default();
            let mut seen = std::collections::BTreeSet::new();
            let mut expected = StreamFaults::default();
            for _ in 0..200 {
                let number = random.u64(0..100);
                let overtaken = seen.last().is_some_and(|last| number < *last);
                if !seen.insert(number) {
                    expected.duplicates += 1;
                } else if overtaken {
                    expected.reordered += 1;
                }
                tracker.observe(number);
            }
            expected.lost = 100 - seen.len() as u64;
            assert_eq!(tracker.faults(100), expected, "seed {seed}");
        }
    }
}
