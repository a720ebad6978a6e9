//! The bytes that wait in the queues of all sessions of all shards, within one limit.
//!
//! A shard takes of what is free in chunks: to queue a message is to compare two numbers of its own.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::session::QueuedBytes;

/// What a shard takes at a time, at most.
const MAX_CHUNK: u64 = 64 * 1024;

/// What no shard has taken yet.
#[derive(Debug)]
pub(crate) struct Budget {
    free: AtomicU64,
    chunk: u64,
}

impl Budget {
    pub(super) fn new(bytes: u64, shards: usize) -> Self {
        // However little there is, a few chunks for each.
        let chunk = bytes / (8 * shards.max(1) as u64);
        Self { free: AtomicU64::new(bytes), chunk: chunk.clamp(1, MAX_CHUNK) }
    }

    /// Takes a chunk, or `least` if that is more or all there is; else nothing.
    fn take(&self, least: u64) -> u64 {
        let wanted = least.max(self.chunk);
        let some = |free: u64| [wanted, least].into_iter().find(|&bytes| bytes <= free);
        let taken = self.free.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |free| {
            some(free).map(|bytes| free - bytes)
        });
        taken.ok().and_then(some).unwrap_or(0)
    }

    fn give(&self, bytes: u64) {
        self.free.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// One shard's part.
#[derive(Debug, Default)]
pub(super) struct Allowance {
    used: QueuedBytes,
    taken: u64,
}

impl Allowance {
    /// What the shard's sessions count their queues by.
    pub(super) fn account(&self) -> QueuedBytes {
        self.used.clone()
    }

    /// Whether so many bytes more may be queued.
    #[inline]
    pub(super) fn has(&mut self, bytes: usize, budget: &Budget) -> bool {
        let wanted = self.used.get() + bytes as u64;
        wanted <= self.taken || self.takes(wanted - self.taken, budget)
    }

    #[cold]
    fn takes(&mut self, missing: u64, budget: &Budget) -> bool {
        let taken = budget.take(missing);
        self.taken += taken;
        taken > 0
    }

    /// Bytes that may be queued without taking more.
    pub(super) fn free(&self) -> u64 {
        self.taken.saturating_sub(self.used.get())
    }

    /// Gives back what is not needed.
    #[inline]
    pub(super) fn settle(&mut self, budget: &Budget) {
        if self.taken > 0 && self.free() >= 2 * budget.chunk {
            let spare = self.free() - budget.chunk;
            self.taken -= spare;
            budget.give(spare);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::{Message, QoS};
    use crate::session::{Delivery, Session, SessionLimits};
    use crate::shard::connection::Out;
    use crate::timer::Time;

    fn queue(session: &mut Session, bytes: usize) -> usize {
        let qos = QoS::AtLeastOnce;
        let message = Message::new("t", qos, false, &vec![0; bytes], &[], None, Time(0));
        let delivery =
            Delivery { message: &message, qos, retain: false, identifiers: &[], group: None };
        let limits = SessionLimits::default();
        let none = None::<&mut Out<'_>>;
        let _ = session.deliver(delivery, Time(0), none, &limits);
        message.size()
    }

    #[test]
    fn shards_never_have_more_than_there_is() {
        let budget = Budget::new(1000, 2);
        let mut shares = [Allowance::default(), Allowance::default()];
        let mut sessions =
            [0, 1].map(|at| Session::counted("client", shares[at as usize].account()));
        let mut queued = 0;
        let mut refused = 0;
        for at in [0, 1, 0, 1, 0, 0, 1, 1, 0, 1, 0, 0] {
            if shares[at].has(140, &budget) {
                queued += queue(&mut sessions[at], 100);
            } else {
                refused += 1;
            }
            assert!(queued <= 1000);
        }
        assert!(refused > 0 && queued > 700, "{queued} bytes, {refused} refused");
        // A session that is gone has nothing queued.
        sessions[0] = Session::new("other");
        shares[0].settle(&budget);
        assert!(shares[1].has(140, &budget));
    }

    #[test]
    fn what_is_not_used_goes_back() {
        let budget = Budget::new(1 << 20, 1);
        let mut share = Allowance::default();
        assert!(share.has(1 << 20, &budget));
        assert!(!share.has((1 << 20) + 1, &budget));
        share.settle(&budget);
        assert_eq!(share.free(), MAX_CHUNK);
        assert!(share.has(1 << 20, &budget));
    }
}
