//! SUBSCRIBE and UNSUBSCRIBE with many filters, in steps: all others of the shard wait for a few of them only.
//!
//! What is done is kept here; meanwhile the connection is held with the whole packet, which comes again in
//! the next turn.

use std::collections::HashMap;

use crate::net::ConnId;
use crate::router::SubscriptionHandle;

use super::scans::RetainedScan;

/// Filters of one packet in one turn.
const PER_PACKET: usize = 32;

/// Filters of all packets with more than that in one turn.
const PER_TURN: usize = 4 * PER_PACKET;

/// What was done of a packet.
#[derive(Default)]
pub(super) struct Begun {
    /// Of its first filters.
    pub(super) reasons: Vec<u8>,
    /// To be made when all filters are done.
    pub(super) scans: Vec<(SubscriptionHandle, RetainedScan)>,
}

/// The packets that are done in part.
#[derive(Default)]
pub(super) struct LongPackets {
    begun: HashMap<ConnId, Begun>,
    /// The turn in which `used` filters were done.
    turn: u64,
    used: usize,
}

impl LongPackets {
    /// What was done of the packet that a connection begins with now.
    pub(super) fn take(&mut self, id: ConnId) -> Begun {
        match self.begun.is_empty() {
            true => Begun::default(),
            false => self.begun.remove(&id).unwrap_or_default(),
        }
    }

    /// Keeps that.
    pub(super) fn put(&mut self, id: ConnId, begun: Begun) {
        self.begun.insert(id, begun);
    }

    /// A connection is gone.
    pub(super) fn forget(&mut self, id: ConnId) {
        if !self.begun.is_empty() {
            self.begun.remove(&id);
        }
    }

    /// Whether no packet is done in part.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.begun.is_empty()
    }

    /// How many filters of a packet may be done now, which has so many, and has so many left.
    pub(super) fn grant(&mut self, turn: u64, filters: usize, left: usize) -> usize {
        if filters <= PER_PACKET {
            return left;
        }
        if self.turn != turn {
            (self.turn, self.used) = (turn, 0);
        }
        let granted = left.min(PER_PACKET).min(PER_TURN - self.used);
        self.used += granted;
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_does_so_many_filters_of_a_packet_and_of_all() {
        let mut packets = LongPackets::default();
        assert_eq!(packets.grant(7, PER_PACKET, PER_PACKET), PER_PACKET);
        let granted: Vec<_> = (0..6).map(|_| packets.grant(7, 1000, 1000)).collect();
        assert_eq!(granted, [32, 32, 32, 32, 0, 0]);
        assert_eq!(packets.grant(7, 10, 10), 10, "short ones go on");
        assert_eq!(packets.grant(8, 1000, 5), 5);
        assert_eq!(packets.grant(8, 1000, 1000), 32);
    }
}
