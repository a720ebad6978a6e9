//! Messages that expire in queues: they go when somebody else needs the place, and otherwise in steps.
//!
//! The timer of an absent session wakes it a moment after its first message has expired. Those that expired
//! together are not removed together: a turn does so many, and waits for a store that is far behind. Nor are all
//! queues looked through together that are on disk: clients want pages of theirs.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::router::SessionKey;
use crate::session::{DropCause, SessionLimits};
use crate::timer::Time;

use super::Core;
use super::store::Keeper;

/// Messages dropped in one turn because they expired, and sessions looked at for it.
pub(super) const EXPIRED_PER_TURN: u32 = 1024;

/// How long after its first message an absent session is looked at: others expire by then, too.
const EXPIRY_DELAY: Duration = Duration::from_secs(1);

/// Sessions in whose queues something has expired.
#[derive(Debug, Default)]
pub(super) struct ExpiringQueues {
    due: BTreeSet<SessionKey>,
    /// Those of which something is on disk only, and has to be looked for there: when others want no pages.
    on_disk: BTreeSet<SessionKey>,
}

impl ExpiringQueues {
    pub(super) fn insert(&mut self, key: SessionKey) {
        self.due.insert(key);
    }
}

impl<S> Core<S> {
    /// Whether a session takes a message of `size` bytes, once what has expired in its queue is gone.
    pub(super) fn has_room(
        &mut self,
        key: SessionKey,
        size: usize,
        limits: &SessionLimits,
    ) -> bool {
        let Some(slot) = self.sessions.get_mut(key) else { return true };
        if slot.session.has_room(size, limits) {
            return true;
        }
        let expired = slot.session.make_room(size, limits, self.now);
        self.stats.dropped[DropCause::Expired as usize].add(expired.into());
        expired > 0 && slot.session.has_room(size, limits)
    }

    /// A message waits for an absent session, perhaps for a time only.
    #[inline]
    pub(super) fn arm_expiry(&mut self, key: SessionKey) {
        let Some(slot) = self.sessions.get(key) else { return };
        let Some(at) = slot.session.next_expiry() else { return };
        let armed = slot.timer.and_then(|timer| self.timers.deadline(timer));
        if armed.is_none_or(|armed| armed > at.max(self.now).plus(EXPIRY_DELAY)) {
            self.arm_absent(key);
        }
    }

    /// When an absent session is to be looked at for what has expired.
    pub(super) fn expiry_due(&self, key: SessionKey) -> Option<Time> {
        let at = self.sessions.get(key)?.session.next_expiry()?;
        Some(at.max(self.now).plus(EXPIRY_DELAY))
    }

    /// Drops some of what has expired in queues.
    pub(super) fn expire_queues(&mut self) {
        let mut budget = EXPIRED_PER_TURN;
        while budget > 0
            && self.may_expire_queues()
            && let Some(key) = self.next_expiring_queue()
        {
            budget -= 1;
            let paged = self.sessions.get(key).and_then(|slot| slot.session.paged());
            if paged.is_some() && !self.may_look() {
                self.expiring_queues.on_disk.insert(key);
            } else {
                self.expire_queue(key, &mut budget);
            }
        }
    }

    fn next_expiring_queue(&mut self) -> Option<SessionKey> {
        let may_look = self.may_look();
        let ExpiringQueues { due, on_disk } = &mut self.expiring_queues;
        if may_look { on_disk.pop_first().or_else(|| due.pop_first()) } else { due.pop_first() }
    }

    /// Whether there is something to drop without waiting. Asked before a sleep.
    pub(super) fn may_expire_queues(&self) -> bool {
        let ExpiringQueues { due, on_disk } = &self.expiring_queues;
        let is_some = !due.is_empty() || !on_disk.is_empty() && self.may_look();
        is_some && !self.mailbox.is_store_full()
    }

    /// Whether the store may be asked to look through a queue for which nobody waits.
    fn may_look(&self) -> bool {
        self.store.as_ref().is_none_or(Keeper::may_look)
    }

    /// Drops what has expired in a queue, so much at most; more of it follows.
    pub(super) fn expire_queue(&mut self, key: SessionKey, budget: &mut u32) {
        let Some(slot) = self.sessions.get_mut(key) else { return };
        let expired = slot.session.expire(self.now, *budget);
        *budget = budget.saturating_sub(expired);
        self.stats.dropped[DropCause::Expired as usize].add(expired.into());
        if slot.session.next_expiry().is_some_and(|at| at <= self.now) {
            self.expiring_queues.insert(key);
        }
        self.has_less(key, expired);
    }

    /// What has expired is gone from a queue: those go on who wait for room there.
    pub(super) fn has_less(&mut self, key: SessionKey, expired: u32) {
        let Some(slot) = self.sessions.get(key) else { return };
        if slot.connection.is_none() {
            self.arm_absent(key);
        }
        if expired > 0 {
            self.scans.resume(key);
            self.relieve(key);
        }
    }
}
