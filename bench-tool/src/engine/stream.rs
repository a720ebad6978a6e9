//! One subscriber's side: what it received from which publisher.

use std::ops::Range;

use super::payload::PayloadHead;
use crate::measure::{Seen, SequenceTracker, StreamFaults};

/// Follows what one subscriber receives from a range of publishers.
#[derive(Debug)]
pub(crate) struct Stream {
    run: u32,
    first_publisher: u32,
    trackers: Box<[SequenceTracker]>,
    /// Messages that are not of this run, or not of these publishers.
    pub(crate) foreign: u64,
}

/// What a message turned out to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observed {
    pub(crate) head: PayloadHead,
    pub(crate) seen: Seen,
    /// The number that was to come next; what lies between it and a fresh one was passed over.
    pub(crate) expected: u64,
}

impl Stream {
    pub(crate) fn new(run: u32, publishers: Range<u32>) -> Self {
        let first_publisher = publishers.start;
        let trackers = publishers.map(|_| SequenceTracker::default()).collect();
        Self { run, first_publisher, trackers, foreign: 0 }
    }

    /// Takes in one message; `None` if it has no business here.
    #[inline]
    pub(crate) fn observe(&mut self, payload: &[u8]) -> Option<Observed> {
        let head = PayloadHead::decode(payload).filter(|head| head.run == self.run);
        let found = head.and_then(|head| {
            let index = head.publisher.wrapping_sub(self.first_publisher) as usize;
            Some((head, self.trackers.get_mut(index)?))
        });
        let Some((head, tracker)) = found else {
            self.foreign += 1;
            return None;
        };
        let expected = tracker.next();
        Some(Observed { head, seen: tracker.observe(head.sequence), expected })
    }

    /// What is wrong, given how much each publisher has sent.
    pub(crate) fn faults(&self, sent_by: impl Fn(u32) -> u64) -> StreamFaults {
        let mut faults = StreamFaults::default();
        for (publisher, tracker) in (self.first_publisher..).zip(&self.trackers) {
            faults.add(tracker.faults(sent_by(publisher)));
        }
        faults
    }
}
