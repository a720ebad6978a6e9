//! What of this shard's turns the other shards have confirmed, and which sessions wait for it.

use std::collections::VecDeque;

use crate::router::SessionKey;
use crate::session::Verdict;

use super::Core;
use super::ending::Ending;

/// What one client may have in its session's gate before its next SUBSCRIBE or UNSUBSCRIBE is not
/// read for a while.
pub(super) const MAX_PENDING: usize = 1024;

/// Confirmations, by shard; the last place is the store's.
pub(super) struct Gate {
    confirmed: [u64; 64],
    /// The last turn in which a shard was told of a new filter.
    interest: [u64; 64],
    /// Sessions that hold something back, by shard and in the order of turns.
    waiting: Vec<VecDeque<Waiting>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Waiting {
    turn: u64,
    session: SessionKey,
    serial: u32,
}

impl Gate {
    pub(super) fn new(shards: u8) -> Self {
        Self {
            confirmed: [0; 64],
            interest: [0; 64],
            waiting: (0..shards).map(|_| VecDeque::new()).collect(),
        }
    }

    /// Notes that `turn` told each shard in `mask` of a filter.
    pub(super) fn told(&mut self, mut mask: u64, turn: u64) {
        while mask != 0 {
            self.interest[mask.trailing_zeros() as usize] = turn;
            mask &= mask - 1;
        }
    }

    /// The shards that may not know every filter of this one yet.
    pub(super) fn uninformed(&self) -> u64 {
        (0..self.waiting.len())
            .filter(|&shard| self.interest[shard] > self.confirmed[shard])
            .fold(0, |mask, shard| mask | 1 << shard)
    }

    /// A session waits for every shard in `mask` to confirm `turn`.
    pub(super) fn wait(&mut self, mut mask: u64, turn: u64, session: SessionKey, serial: u32) {
        let waiting = Waiting { turn, session, serial };
        while mask != 0 {
            if let Some(queue) = self.waiting.get_mut(mask.trailing_zeros() as usize)
                && queue.back() != Some(&waiting)
            {
                queue.push_back(waiting);
            }
            mask &= mask - 1;
        }
    }
}

impl<S> Core<S> {
    /// `shard` has done everything that this shard sent it up to `turn`.
    pub(super) fn confirmed(&mut self, shard: u8, turn: u64) {
        let index = usize::from(shard);
        self.gate.confirmed[index] = self.gate.confirmed[index].max(turn);
        loop {
            let Some(queue) = self.gate.waiting.get_mut(index) else { return };
            let Some(first) = queue.pop_front_if(|first| first.turn <= turn) else { return };
            self.let_out(first.session, first.serial);
        }
    }

    fn let_out(&mut self, key: SessionKey, serial: u32) {
        let Some(slot) = self.sessions.get_serial(key, serial) else { return };
        let connection = slot.connection;
        let mut out = connection.and_then(|id| self.connections.out(id));
        let verdict = slot.session.confirm(&self.gate.confirmed, out.as_mut());
        if slot.session.pending() < MAX_PENDING
            && let Some(connection) = connection.and_then(|id| self.connections.get_mut(id))
            && std::mem::take(&mut connection.held_for_itself)
        {
            self.resumed.extend(slot.connection);
        }
        if verdict == Verdict::Close
            && let Some(id) = connection
        {
            self.end(id, Ending::NOT_KEPT);
        }
    }
}
