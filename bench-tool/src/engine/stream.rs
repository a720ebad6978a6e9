//! One subscriber's side: what it received from which publisher.

use std::collections::HashMap;
use std::ops::Range;

use super::payload::PayloadHead;
use crate::measure::{Seen, SequenceTracker, StreamFaults};

/// Publishers of other processes that one subscriber can follow; messages of more are only counted.
const MAX_STRANGERS: usize = 100_000;

/// Follows what one subscriber receives.
#[derive(Debug)]
pub(crate) enum Stream {
    /// From publishers of this run, all of whose messages are to come.
    Own { run: u32, first_publisher: u32, trackers: Box<[SequenceTracker]> },
    /// From whoever publishes, by run and publisher. Only what lies between messages can be missed.
    Anyone { trackers: HashMap<(u32, u32), Stranger> },
    /// A part of what is published: nothing can be said about what did not come.
    Share,
}

/// A publisher of another process.
#[derive(Debug)]
pub(crate) struct Stranger {
    tracker: SequenceTracker,
    /// Its messages come at QoS 1 or 2.
    is_reliable: bool,
}

/// What a message turned out to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Observed {
    pub(crate) head: PayloadHead,
    pub(crate) seen: Seen,
    /// The number that was to come next; what lies between it and a fresh one was passed over.
    pub(crate) expected: u64,
    /// The publisher is one of this run.
    pub(crate) is_own: bool,
}

impl Stream {
    pub(crate) fn own(run: u32, publishers: Range<u32>) -> Self {
        let first_publisher = publishers.start;
        let trackers = publishers.map(|_| SequenceTracker::default()).collect();
        Self::Own { run, first_publisher, trackers }
    }

    pub(crate) fn anyone() -> Self {
        Self::Anyone { trackers: HashMap::new() }
    }

    /// Takes in one message, which came at QoS 1 or 2 if `is_reliable`; `None` if it has no business here.
    #[inline]
    pub(crate) fn observe(&mut self, payload: &[u8], is_reliable: bool) -> Option<Observed> {
        let head = PayloadHead::decode(payload)?;
        if let Self::Own { run, first_publisher, trackers } = self {
            let index = head.publisher.wrapping_sub(*first_publisher) as usize;
            let tracker = trackers.get_mut(index).filter(|_| head.run == *run)?;
            let expected = tracker.next();
            let seen = tracker.observe(head.sequence);
            return Some(Observed { head, seen, expected, is_own: true });
        }
        Some(self.observe_stranger(head, is_reliable))
    }

    fn observe_stranger(&mut self, head: PayloadHead, is_reliable: bool) -> Observed {
        let expected = head.sequence;
        let unknown = Observed { head, seen: Seen::Fresh, expected, is_own: false };
        let Self::Anyone { trackers } = self else { return unknown };
        let known = trackers.len();
        let stranger = match trackers.entry((head.run, head.publisher)) {
            std::collections::hash_map::Entry::Occupied(entry) => entry.into_mut(),
            std::collections::hash_map::Entry::Vacant(_) if known >= MAX_STRANGERS => {
                return unknown;
            }
            std::collections::hash_map::Entry::Vacant(entry) => entry.insert(Stranger {
                tracker: SequenceTracker::starting_at(head.sequence),
                is_reliable,
            }),
        };
        let expected = stranger.tracker.next();
        Observed { seen: stranger.tracker.observe(head.sequence), expected, ..unknown }
    }

    /// What is wrong, given how much each publisher of this run has sent.
    pub(crate) fn faults(&self, sent_by: impl Fn(u32) -> u64) -> StreamFaults {
        let mut faults = StreamFaults::default();
        match self {
            Self::Own { first_publisher, trackers, .. } => {
                for (publisher, tracker) in (*first_publisher..).zip(trackers) {
                    faults.add(tracker.faults(sent_by(publisher)));
                }
            }
            Self::Anyone { trackers } => {
                trackers.values().for_each(|one| faults.add(one.tracker.faults(0)));
            }
            Self::Share => {}
        }
        faults
    }

    /// Messages missed of what others sent at QoS 1 or 2.
    pub(crate) fn reliable_lost(&self) -> u64 {
        let Self::Anyone { trackers } = self else { return 0 };
        let reliable = trackers.values().filter(|one| one.is_reliable);
        reliable.map(|one| one.tracker.faults(0).lost).sum()
    }
}
