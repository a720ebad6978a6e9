//! Which connections a turn looks at, and in which order.

use std::collections::VecDeque;

use crate::net::driver::ConnId;

/// Bytes that a turn reads, about, from those that begin something: what comes of them is sent on, and may be
/// answered, before more is begun. What is expected does not count.
const BEGUN_PER_TURN: usize = 64 * 1024;

/// A connection that there may be something of, and the serial that tells whether the id is still its own.
pub(super) type Candidate = (ConnId, u32);

/// Connections that there may be something of.
#[derive(Debug, Default)]
pub(super) struct Ready {
    /// Those whose bytes finish what is under way.
    expected: VecDeque<Candidate>,
    others: VecDeque<Candidate>,
    /// To be looked at in the next turn, whatever the poll says.
    later: Vec<Candidate>,
    /// Bytes that were read from `others` in this turn.
    begun: usize,
}

impl Ready {
    /// Begins with the next turn.
    pub(super) fn begin_turn(&mut self) {
        self.others.extend(self.later.drain(..));
        self.begun = 0;
    }

    /// Whether nobody is to be looked at, now or in the next turn.
    pub(super) fn is_empty(&self) -> bool {
        self.expected.is_empty() && self.others.is_empty() && self.later.is_empty()
    }

    #[inline]
    pub(super) fn push(&mut self, candidate: Candidate, is_expected: bool) {
        if is_expected {
            self.expected.push_back(candidate);
        } else {
            self.others.push_back(candidate);
        }
    }

    pub(super) fn push_later(&mut self, candidate: Candidate) {
        self.later.push(candidate);
    }

    /// Whom to look at now; nobody if that is all for this turn.
    #[inline]
    pub(super) fn first(&self) -> Option<Candidate> {
        let other = || self.others.front().filter(|_| self.begun < BEGUN_PER_TURN);
        self.expected.front().or_else(other).copied()
    }

    /// So many bytes were read from the [first](Self::first).
    #[inline]
    pub(super) fn note_read(&mut self, bytes: usize) {
        if self.expected.is_empty() {
            self.begun += bytes;
        }
    }

    /// The [first](Self::first) was looked at.
    #[inline]
    pub(super) fn pop_first(&mut self) {
        if self.expected.pop_front().is_none() {
            self.others.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whom a turn looks at, each of whom gives so many bytes.
    fn turn(ready: &mut Ready, bytes: usize) -> Vec<u32> {
        std::iter::from_fn(|| {
            let (ConnId(first), _) = ready.first()?;
            ready.note_read(bytes);
            ready.pop_first();
            Some(first)
        })
        .collect()
    }

    #[test]
    fn what_is_expected_comes_first_and_each_in_its_order() {
        let mut ready = Ready::default();
        for (id, is_expected) in [(1, false), (2, true), (3, false), (4, true)] {
            ready.push((ConnId(id), 0), is_expected);
        }
        assert_eq!(turn(&mut ready, 1), [2, 4, 1, 3]);
        assert!(ready.is_empty());
    }

    #[test]
    fn a_turn_begins_so_much_and_the_rest_keeps_its_place() {
        let mut ready = Ready::default();
        (0..5).for_each(|id| ready.push((ConnId(id), 0), false));
        (5..9).for_each(|id| ready.push((ConnId(id), 0), true));
        ready.push_later((ConnId(9), 0));
        assert_eq!(turn(&mut ready, BEGUN_PER_TURN / 2), [5, 6, 7, 8, 0, 1]);
        assert!(!ready.is_empty());
        ready.begin_turn();
        ready.push((ConnId(10), 0), true);
        ready.push((ConnId(11), 0), false);
        assert_eq!(turn(&mut ready, BEGUN_PER_TURN / 3 + 1), [10, 2, 3, 4]);
        ready.begin_turn();
        assert_eq!(turn(&mut ready, BEGUN_PER_TURN / 3 + 1), [9, 11]);
    }

    #[test]
    fn a_turn_looks_at_somebody_however_much_is_expected() {
        let mut ready = Ready::default();
        (0..100).for_each(|id| ready.push((ConnId(id), 0), true));
        ready.push((ConnId(100), 0), false);
        assert_eq!(turn(&mut ready, BEGUN_PER_TURN).last(), Some(&100));
    }
}
