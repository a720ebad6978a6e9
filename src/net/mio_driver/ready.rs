//! Which connections a turn looks at, and in which order.

use std::collections::VecDeque;

use crate::net::driver::ConnId;

/// Bytes that a turn reads, about, from those that begin something: what comes of them is sent on, and may be
/// answered, before more is begun. What is expected does not count.
const BEGUN_PER_TURN: usize = 64 * 1024;

/// Connections that there may be something of.
#[derive(Debug, Default)]
pub(super) struct Ready {
    /// Those whose bytes finish what is under way.
    expected: VecDeque<ConnId>,
    others: VecDeque<ConnId>,
    /// To be looked at in the next turn, whatever the poll says.
    later: Vec<ConnId>,
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
    pub(super) fn push(&mut self, id: ConnId, is_expected: bool) {
        if is_expected {
            self.expected.push_back(id);
        } else {
            self.others.push_back(id);
        }
    }

    pub(super) fn push_later(&mut self, id: ConnId) {
        self.later.push(id);
    }

    /// Whom to look at now; nobody if that is all for this turn.
    #[inline]
    pub(super) fn first(&self) -> Option<ConnId> {
        let other = || self.others.front().filter(|_| self.begun < BEGUN_PER_TURN);
        self.expected.front().or_else(other).copied()
    }

    /// The [first](Self::first) was looked at, which gave so many bytes.
    #[inline]
    pub(super) fn pop_first(&mut self, bytes: usize) {
        if self.expected.pop_front().is_none() {
            self.others.pop_front();
            self.begun += bytes;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whom a turn looks at, each of whom gives so many bytes.
    fn turn(ready: &mut Ready, bytes: usize) -> Vec<u32> {
        std::iter::from_fn(|| {
            let first = ready.first()?;
            ready.pop_first(bytes);
            Some(first.0)
        })
        .collect()
    }

    #[test]
    fn what_is_expected_comes_first_and_each_in_its_order() {
        let mut ready = Ready::default();
        for (id, is_expected) in [(1, false), (2, true), (3, false), (4, true)] {
            ready.push(ConnId(id), is_expected);
        }
        assert_eq!(turn(&mut ready, 1), [2, 4, 1, 3]);
        assert!(ready.is_empty());
    }

    #[test]
    fn a_turn_begins_so_much_and_the_rest_keeps_its_place() {
        let mut ready = Ready::default();
        (0..5).for_each(|id| ready.push(ConnId(id), false));
        (5..9).for_each(|id| ready.push(ConnId(id), true));
        ready.push_later(ConnId(9));
        assert_eq!(turn(&mut ready, BEGUN_PER_TURN / 2), [5, 6, 7, 8, 0, 1]);
        assert!(!ready.is_empty());
        ready.begin_turn();
        ready.push(ConnId(10), true);
        ready.push(ConnId(11), false);
        assert_eq!(turn(&mut ready, BEGUN_PER_TURN / 3 + 1), [10, 2, 3, 4]);
        ready.begin_turn();
        assert_eq!(turn(&mut ready, BEGUN_PER_TURN / 3 + 1), [9, 11]);
    }

    #[test]
    fn a_turn_looks_at_somebody_however_much_is_expected() {
        let mut ready = Ready::default();
        (0..100).for_each(|id| ready.push(ConnId(id), true));
        ready.push(ConnId(100), false);
        assert_eq!(turn(&mut ready, BEGUN_PER_TURN).last(), Some(&100));
    }
}
