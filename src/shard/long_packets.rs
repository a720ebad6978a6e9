//! SUBSCRIBE and UNSUBSCRIBE in steps: all others of the shard wait for a few filters only.
//!
//! A read may do a few filters at once, which is enough for nearly everybody. Whoever asks for more is held
//! with what is left and stands in a queue. Each turn the first of it go on, and then to its end again if
//! that was not enough: nobody is kept waiting by those who always want more, and packets that have to wait
//! are not looked at meanwhile.

use std::collections::{HashMap, VecDeque};

use crate::mqtt::{QoS, topic};
use crate::net::ConnId;
use crate::router::SubscriptionHandle;

use super::ended::LEVELS_EACH;
use super::input::Reader;

/// What a connection may do at once, in levels of filters.
pub(super) const LEVELS_AT_ONCE: usize = 256;

/// What one that has waited may do in its turn.
const LEVELS_PER_STEP: usize = 1024;

/// So many of those that wait have their turn in one turn of the loop.
const STEPS_PER_TURN: usize = 8;

/// Bytes of a filter that cost as much as a level.
const BYTES_PER_LEVEL: usize = 32;

/// A subscription that is to get the retained messages. Its filter is in the packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct WantedScan {
    /// Which filter of the packet it is.
    pub(super) index: usize,
    pub(super) handle: SubscriptionHandle,
    pub(super) qos: QoS,
    /// The store knows that it wants them.
    pub(super) noted: bool,
}

/// What was done of a packet.
#[derive(Debug, Default)]
pub(super) struct Begun {
    /// Of its first filters.
    pub(super) reasons: Vec<u8>,
    /// To be made when all filters are done.
    pub(super) scans: Vec<WantedScan>,
    /// Its place in the queue.
    place: u64,
    /// It is its turn.
    is_next: bool,
}

/// The packets that wait.
#[derive(Debug, Default)]
pub(super) struct LongPackets {
    begun: HashMap<ConnId, Begun>,
    /// Connections with their places. Of those that went on for another reason the place is not that of
    /// their packet any more.
    queue: VecDeque<(ConnId, u64)>,
    last_place: u64,
}

impl LongPackets {
    /// What was done of the packet that a connection begins with now. If it is its turn, it may do more in this read.
    pub(super) fn take(&mut self, reader: &mut Reader<'_>) -> Begun {
        if self.begun.is_empty() {
            return Begun::default();
        }
        let begun = self.begun.remove(&reader.id).unwrap_or_default();
        if begun.is_next {
            reader.most_levels = LEVELS_PER_STEP;
        }
        begun
    }

    /// Keeps that; the connection waits for its turn.
    pub(super) fn put(&mut self, id: ConnId, begun: Begun) {
        self.last_place += 1;
        let place = self.last_place;
        self.begun.insert(id, Begun { place, is_next: false, ..begun });
        self.queue.push_back((id, place));
    }

    /// A connection is gone.
    pub(super) fn forget(&mut self, id: ConnId) {
        if !self.begun.is_empty() {
            self.begun.remove(&id);
        }
    }

    /// Whether somebody stands in the queue.
    pub(super) fn go_on(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether no packet waits.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_empty()
    }

    /// Notes those who go on when they are read the next time.
    pub(super) fn take_next(&mut self, next: &mut Vec<ConnId>) {
        let mut left = STEPS_PER_TURN;
        while left > 0
            && let Some((id, place)) = self.queue.pop_front()
        {
            if let Some(begun) = self.begun.get_mut(&id).filter(|begun| begun.place == place) {
                begun.is_next = true;
                next.push(id);
                left -= 1;
            }
        }
    }
}

impl Reader<'_> {
    /// Whether it may do another filter in this read.
    pub(super) fn may_go_on(&self) -> bool {
        self.levels < self.most_levels
    }

    /// Notes that it has done a filter.
    pub(super) fn did(&mut self, filter: &str) {
        let size = topic::level_count(filter) + filter.len() / BYTES_PER_LEVEL;
        self.levels += LEVELS_EACH + size;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(packets: &mut LongPackets, ids: impl IntoIterator<Item = u32>) {
        for id in ids {
            packets.put(ConnId(id), Begun::default());
        }
    }

    fn next(packets: &mut LongPackets) -> Vec<ConnId> {
        let mut next = Vec::new();
        packets.take_next(&mut next);
        next
    }

    #[test]
    fn they_take_turns() {
        let mut packets = LongPackets::default();
        put(&mut packets, 0..12);
        let first = next(&mut packets);
        assert_eq!(first, Vec::from_iter((0..8).map(ConnId)));
        put(&mut packets, 0..8);
        let second = next(&mut packets);
        assert_eq!(second, [8, 9, 10, 11, 0, 1, 2, 3].map(ConnId));
    }

    #[test]
    fn nobody_has_two_places() {
        let mut packets = LongPackets::default();
        put(&mut packets, [1, 2, 3]);
        packets.forget(ConnId(1));
        let begun = packets.begun.remove(&ConnId(2)).unwrap();
        packets.put(ConnId(2), begun);
        assert_eq!(next(&mut packets), [ConnId(3), ConnId(2)]);
        assert_eq!(next(&mut packets), []);
    }
}
