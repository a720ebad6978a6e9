//! Which connections a turn looks at, and in which order.

use std::collections::VecDeque;

use crate::net::driver::ConnId;

/// Bytes that a turn reads, about, from those that begin something: what comes of them is sent on, and may be
/// answered, before more is begun.
const BEGUN_PER_TURN: usize = 64 * 1024;

/// And from those that finish something. Acknowledgements of 16,000 messages fit in; who sends as much behind each of
/// his has half of a turn at most.
const FINISHED_PER_TURN: usize = 64 * 1024;

/// A connection that there may be something of, and the serial that tells whether the id is still its own.
pub(super) type Candidate = (ConnId, u32);

/// Connections that there may be something of.
#[derive(Debug, Default)]
pub(super) struct Ready {
    /// Those whose bytes finish what is under way, and those who begin something.
    expected: VecDeque<Candidate>,
    others: VecDeque<Candidate>,
    /// To be looked at in the next turn, whatever the poll says.
    later: Vec<Candidate>,
    /// Bytes that were read from each in this turn.
    finished: usize,
    begun: usize,
    /// And from the [first](Self::first), who counts when it is popped.
    read: usize,
    /// Of `others`, those who were there when the round began.
    round: usize,
}

impl Ready {
    /// Begins with the next turn.
    pub(super) fn begin_turn(&mut self) {
        self.others.extend(self.later.drain(..));
        (self.finished, self.begun) = (0, 0);
    }

    /// All who are there now are a round.
    pub(super) fn begin_round(&mut self) {
        self.round = self.others.len();
    }

    /// Whether some of the round are still to be looked at.
    pub(super) fn round_goes_on(&self) -> bool {
        self.round > 0
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
        let expected = self.expected.front().filter(|_| self.finished < FINISHED_PER_TURN);
        let other = || self.others.front().filter(|_| self.begun < BEGUN_PER_TURN);
        expected.or_else(other).copied()
    }

    /// So many bytes were read from the [first](Self::first).
    #[inline]
    pub(super) fn note_read(&mut self, bytes: usize) {
        self.read += bytes;
    }

    /// The [first](Self::first) was looked at.
    #[inline]
    pub(super) fn pop_first(&mut self) {
        let read = std::mem::take(&mut self.read);
        if self.finished < FINISHED_PER_TURN && self.expected.pop_front().is_some() {
            self.finished += read;
        } else {
            self.others.pop_front();
            self.begun += read;
            self.round = self.round.saturating_sub(1);
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
        (5..7).for_each(|id| ready.push((ConnId(id), 0), true));
        ready.push_later((ConnId(9), 0));
        assert_eq!(turn(&mut ready, BEGUN_PER_TURN / 2), [5, 6, 0, 1]);
        assert!(!ready.is_empty());
        ready.begin_turn();
        ready.push((ConnId(10), 0), true);
        ready.push((ConnId(11), 0), false);
        assert_eq!(turn(&mut ready, BEGUN_PER_TURN / 3 + 1), [10, 2, 3, 4]);
        ready.begin_turn();
        assert_eq!(turn(&mut ready, BEGUN_PER_TURN / 3 + 1), [9, 11]);
    }

    /// Who comes meanwhile belongs to the next one.
    #[test]
    fn a_round_lasts_until_all_who_were_there_were_looked_at() {
        let mut ready = Ready::default();
        (0..3).for_each(|id| ready.push((ConnId(id), 0), false));
        ready.begin_round();
        assert_eq!(turn(&mut ready, BEGUN_PER_TURN / 2), [0, 1]);
        assert!(ready.round_goes_on());
        ready.push_later((ConnId(0), 0));
        ready.begin_turn();
        ready.push((ConnId(3), 0), false);
        assert_eq!(turn(&mut ready, BEGUN_PER_TURN / 2), [2, 0]);
        assert!(!ready.round_goes_on() && !ready.is_empty());
        ready.begin_round();
        ready.begin_turn();
        assert_eq!(turn(&mut ready, 1), [3]);
        assert!(!ready.round_goes_on());
    }

    #[test]
    fn however_much_is_expected_others_have_half_of_a_turn() {
        let mut ready = Ready::default();
        (0..5).for_each(|id| ready.push((ConnId(id), 0), true));
        (5..8).for_each(|id| ready.push((ConnId(id), 0), false));
        for expected in [&[0, 1, 5, 6][..], &[2, 3, 7], &[4]] {
            assert!(!ready.is_empty());
            assert_eq!(turn(&mut ready, FINISHED_PER_TURN / 2), expected);
            ready.begin_turn();
        }
        assert!(ready.is_empty());
    }
}
