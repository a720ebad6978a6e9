//! When the messages of open loops are due, and which of the flows is next.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Messages a second of one publisher, at least: one in eleven days.
const LEAST_RATE: f64 = 1e-6;

/// Whether messages can be sent at this rate.
///
/// # Errors
/// The least, in one line.
pub(crate) fn check_rate(rate: f64) -> Result<(), String> {
    match rate.is_finite() && rate >= LEAST_RATE {
        true => Ok(()),
        false => Err(format!("rate {rate}: at least {LEAST_RATE:.6} messages a second")),
    }
}

/// Messages are due at whole ticks of the clock, the same for all flows. What is due at one is sent in one turn,
/// where a time of its own for each message would cost a wake-up each.
pub(crate) const TICK_NS: u64 = 1_000_000;

/// Bursts are due at finer ticks: each is worth a wake-up.
const BURST_TICK_NS: u64 = 50_000;

/// When the messages of one flow are due.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Between two bursts.
    interval_ns: f64,
    /// Messages that are due at the same time.
    burst: u64,
    tick_ns: u64,
    origin_ns: u64,
    sent_at_origin: u64,
}

impl Pace {
    /// So many messages a second, from [`start`](Self::start) on; `burst` (at least 1) of them at a time.
    pub(crate) fn new(rate: f64, burst: u32) -> Self {
        let tick_ns = if burst > 1 { BURST_TICK_NS } else { TICK_NS };
        let interval_ns = 1e9 / rate * f64::from(burst);
        Self { interval_ns, burst: burst.into(), tick_ns, origin_ns: u64::MAX, sent_at_origin: 0 }
    }

    /// Message `sequence` and the others of its burst are due after `share` (0 to 1) of the interval, and then one
    /// burst in each.
    pub(crate) fn start(&mut self, now_ns: u64, share: f64, sequence: u64) {
        self.origin_ns = now_ns + (self.interval_ns * share) as u64;
        self.sent_at_origin = sequence;
    }

    pub(crate) fn due_ns(&self, sequence: u64) -> u64 {
        self.exact_ns(sequence).checked_next_multiple_of(self.tick_ns).unwrap_or(u64::MAX)
    }

    /// Messages due by now, counted from sequence 0.
    pub(crate) fn due_until(&self, now_ns: u64) -> u64 {
        let tick_ns = now_ns - now_ns % self.tick_ns;
        let Some(since) = tick_ns.checked_sub(self.origin_ns) else { return self.sent_at_origin };
        let bursts = (since as f64 / self.interval_ns) as u64;
        let mut due = self.sent_at_origin + bursts * self.burst;
        // The quotient may be one off what the product says, which alone counts.
        while self.exact_ns(due) <= tick_ns {
            due += self.burst;
        }
        while due > self.sent_at_origin && self.exact_ns(due - 1) > tick_ns {
            due -= self.burst;
        }
        due
    }

    /// Before it is put off to a tick.
    fn exact_ns(&self, sequence: u64) -> u64 {
        let bursts = (sequence - self.sent_at_origin) / self.burst;
        self.origin_ns.saturating_add((bursts as f64 * self.interval_ns) as u64)
    }
}

/// The flows that wait for nothing but the time, so that a turn costs what is due and not what there is.
#[derive(Debug, Default)]
pub(crate) struct Agenda(BinaryHeap<Reverse<(u64, u32)>>);

impl Agenda {
    pub(crate) fn add(&mut self, due_ns: u64, flow: u32) {
        self.0.push(Reverse((due_ns, flow)));
    }

    /// When the next of them is due.
    #[inline]
    pub(crate) fn next_ns(&self) -> Option<u64> {
        self.0.peek().map(|Reverse((due_ns, _))| *due_ns)
    }

    /// Takes out one that is due by now.
    pub(crate) fn take_due(&mut self, now_ns: u64) -> Option<u32> {
        self.next_ns().filter(|due_ns| *due_ns <= now_ns)?;
        self.0.pop().map(|Reverse((_, flow))| flow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_come_in_the_order_in_which_they_are_due() {
        let mut agenda = Agenda::default();
        for (due_ns, flow) in [(30, 1), (10, 2), (20, 3)] {
            agenda.add(due_ns, flow);
        }
        assert_eq!(agenda.next_ns(), Some(10));
        assert_eq!(agenda.take_due(9), None);
        let due: Vec<u32> = std::iter::from_fn(|| agenda.take_due(25)).collect();
        assert_eq!(due, [2, 3]);
        assert_eq!(agenda.next_ns(), Some(30));
    }

    #[test]
    fn messages_are_due_at_ticks_that_do_not_drift() {
        let mut pace = Pace::new(3.0, 1);
        assert_eq!(pace.due_until(u64::MAX - 1), 0);
        pace.start(1_000, 0.5, 7);
        assert_eq!(pace.due_ns(7), 167_000_000);
        assert_eq!(pace.due_until(166_999_999), 7);
        assert_eq!(pace.due_until(167_000_000), 8);
        let exact_ns: u64 = 1_000 + 166_666_666 + 1_000_000_000_000_000;
        assert_eq!(pace.due_ns(7 + 3_000_000), exact_ns.next_multiple_of(TICK_NS));
    }

    #[test]
    fn a_burst_is_due_at_one_time_and_keeps_the_rate() {
        let mut pace = Pace::new(1_000.0, 4);
        pace.start(0, 0.25, 10);
        // 4 ms between bursts, the first after a quarter of that.
        assert_eq!(pace.due_until(999_999), 10);
        assert_eq!(pace.due_until(1_000_000), 14);
        let due: Vec<u64> = (10..19).map(|sequence| pace.due_ns(sequence)).collect();
        let [first, second, third] = [1_000_000, 5_000_000, 9_000_000];
        assert_eq!(due, [first, first, first, first, second, second, second, second, third]);
        assert_eq!(pace.due_until(1_001_000_000), 10 + 1_004);
    }

    #[test]
    fn what_is_due_at_a_time_is_due_by_that_time() {
        for (rate, burst) in [
            (0.3, 1),
            (7.0, 1),
            (999.9, 1),
            (8_246.0, 1),
            (123_456.7, 1),
            (123_456.7, 64),
            (7.0, 3),
        ] {
            let mut pace = Pace::new(rate, burst);
            pace.start(987_654_321, 0.3, 0);
            for sequence in (0..1_000).chain(1 << 30..(1 << 30) + 100) {
                let due_ns = pace.due_ns(sequence);
                assert!(pace.due_until(due_ns) > sequence, "{rate} {burst} {sequence}");
                assert!(pace.due_until(due_ns - 1) <= sequence, "{rate} {burst} {sequence}");
            }
        }
    }
}
