//! The subscriptions of sessions that have ended go in steps: others want their turn.
//!
//! The session itself is gone at once. It leaves its shared groups, routes are made without it, and its
//! client may have another one. Its key is nobody's until the last of its subscriptions is gone.

use std::collections::VecDeque;

use hashbrown::HashSet;

use crate::mqtt::{QoS, topic};
use crate::router::{SessionKey, SubscriptionHandle};
use crate::session::{Change, SessionNumber};

use super::Core;
use super::distribute::Reach;
use super::parcel::Parcel;
use super::remote::Item;
use super::sessions::Slot;
use super::subscribe::full_filter;

/// What is removed in one turn for sessions that end in it, and as much again for those that ended
/// earlier; in levels of filters.
pub(super) const LEVELS_PER_TURN: usize = 2048;

/// What it costs to remove a subscription, besides its levels.
pub(super) const LEVELS_EACH: usize = 4;

/// Of the keys of those that a crash would bring back, room for so many stays.
const KEPT: usize = 1024;

/// What is left of a session that has ended.
#[derive(Debug)]
pub(super) struct Remains {
    key: SessionKey,
    handles: Vec<SubscriptionHandle>,
    /// Its number in the store, if it has one.
    number: Option<SessionNumber>,
}

impl Remains {
    pub(super) fn of(key: SessionKey, slot: &mut Slot) -> Self {
        let handles = std::mem::take(&mut slot.subscriptions).into_vec();
        Self { key, handles, number: slot.session.number() }
    }
}

/// The sessions of which there are remains.
#[derive(Debug)]
pub(super) struct EndedSessions {
    remains: VecDeque<Remains>,
    /// Those that are stored, until the turn is committed in which the session ended: a crash must
    /// not leave it without some of its subscriptions.
    uncommitted: VecDeque<(u64, Remains)>,
    /// The keys of those.
    leaving: HashSet<SessionKey>,
    /// How many of both are stored.
    stored: usize,
    /// What may still be removed for sessions that end in this turn.
    budget: usize,
}

impl Default for EndedSessions {
    fn default() -> Self {
        let (remains, uncommitted) = (VecDeque::new(), VecDeque::new());
        let leaving = HashSet::new();
        Self { remains, uncommitted, leaving, stored: 0, budget: LEVELS_PER_TURN }
    }
}

impl EndedSessions {
    /// Whether a crash would bring back the session that had the key.
    pub(super) fn may_come_back(&self, key: SessionKey) -> bool {
        self.leaving.contains(&key)
    }
}

impl<S> Core<S> {
    /// Removes what can be removed of a session in the turn in which it ends; of one that is stored nothing, or
    /// else nobody would know what it misses if a crash brings it back. The rest is sent nothing any more.
    pub(super) fn begin_removal(&mut self, remains: &mut Remains) {
        if remains.number.is_none() {
            let mut budget = self.ended.budget;
            self.remove_some(remains, &mut budget);
            self.ended.budget = budget;
        }
        if remains.handles.is_empty() {
            return;
        }
        for handle in &remains.handles {
            self.router.leave_group_of(remains.key, *handle);
        }
        if remains.number.is_some() {
            self.ended.leaving.insert(remains.key);
        }
        self.router.forget_routes();
    }

    /// The session's end is noted: sees to what is left of it.
    pub(super) fn go_on_removing(&mut self, remains: Remains) {
        if remains.handles.is_empty() {
            self.sessions.free(remains.key);
        } else if remains.number.is_some() {
            self.ended.stored += 1;
            self.ended.uncommitted.push_back((self.turn, remains));
        } else {
            self.ended.remains.push_back(remains);
        }
    }

    /// Goes on with what sessions have left, and tells other shards of their groups: so much in a turn.
    pub(super) fn remove_remains(&mut self) {
        self.ended.budget = LEVELS_PER_TURN;
        let settled = self.gate.settled();
        while let Some((_, remains)) =
            self.ended.uncommitted.pop_front_if(|(turn, _)| *turn <= settled)
        {
            self.ended.leaving.remove(&remains.key);
            self.ended.remains.push_back(remains);
            self.router.forget_routes();
        }
        if self.ended.leaving.is_empty() && self.ended.leaving.capacity() > KEPT {
            self.ended.leaving = HashSet::new();
        }
        if !self.may_remove() {
            return;
        }
        let mut budget = LEVELS_PER_TURN;
        while budget > 0
            && let Some(count) = self.router.next_group_news()
        {
            budget = budget.saturating_sub(LEVELS_EACH + topic::level_count(&count.filter));
            self.tell_group(Some(count));
        }
        while budget > 0
            && let Some(mut remains) = self.ended.remains.pop_front()
        {
            self.remove_some(&mut remains, &mut budget);
            if !remains.handles.is_empty() {
                self.ended.remains.push_front(remains);
            } else {
                self.ended.stored -= usize::from(remains.number.is_some());
                self.sessions.free(remains.key);
            }
        }
    }

    /// Nobody has to keep a message, but a session would have had to that a crash would bring back: what its
    /// publisher is told waits until it cannot.
    pub(super) fn pass_over(&mut self, parcel: &Parcel<'_>, reach: &mut Reach) {
        if parcel.qos == QoS::AtMostOnce {
            return;
        }
        reach.unstored |= parcel.publisher.is_unstored;
        if !reach.unstored {
            self.wait_for_commit();
        }
    }

    /// Whether there is something to remove, or to tell, without waiting. Asked before a sleep.
    pub(super) fn has_remains(&self) -> bool {
        self.may_remove() && (!self.ended.remains.is_empty() || self.router.has_group_news())
    }

    /// Whether the store would find something of an ended session at the next start.
    pub(super) fn has_stored_remains(&self) -> bool {
        self.ended.stored > 0
    }

    /// Whether other shards can be told. Those that stop with this one need not be.
    fn may_remove(&self) -> bool {
        self.mailbox.full() == 0 || self.stopping.is_stopping()
    }

    fn remove_some(&mut self, remains: &mut Remains, budget: &mut usize) {
        while *budget > 0
            && let Some(handle) = remains.handles.pop()
        {
            let levels = self.remove_subscription(remains.key, handle, remains.number);
            *budget = budget.saturating_sub(LEVELS_EACH + levels);
        }
    }

    /// Ends one subscription of a session that has ended; says how many levels it had.
    fn remove_subscription(
        &mut self,
        key: SessionKey,
        handle: SubscriptionHandle,
        number: Option<SessionNumber>,
    ) -> usize {
        let Some(gone) = self.router.unsubscribe_handle(key, handle) else { return 0 };
        self.shared.admission.release_subscription();
        if let (Some(number), Some(store)) = (number, &self.store) {
            let filter = full_filter(gone.share.as_deref(), &gone.filter);
            store.journal.note(Change::Unsubscribed(number, filter));
        }
        if gone.interest {
            self.tell_all(gone.filter.len(), || Item::NoInterest(gone.filter.as_str().into()));
        }
        let levels = topic::level_count(&gone.filter);
        self.tell_group(gone.group);
        levels
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::super::{Shard, Shared};
    use super::*;
    use crate::hooks::Hooks;
    use crate::net::sim::{ClientId, Faults, SimDriver, SimOptions, World};

    const COUNT: usize = 3000;

    /// A shard with a client that has subscribed to `COUNT` filters of its own.
    fn shard(filter: impl Fn(usize) -> String) -> (World, Shard<SimDriver>, ClientId) {
        let shared = Shared::new(Settings::for_tests(), Hooks::default(), 1, 1).into();
        let world = World::new(1, SimOptions { faults: Faults::NONE, buffer_bytes: 8 << 20 });
        let mut shard = Shard::assemble(vec![world.add_driver()], &shared).remove(0);
        let client = world.connect();
        let mut sent = b"\x10\x0c\0\x04MQTT\x04\x02\0\0\0\0".to_vec();
        for number in 0..COUNT {
            let filter = filter(number);
            let len = filter.len() + 5;
            sent.extend([0x82, len as u8 | 0x80, (len >> 7) as u8, 0, 1, 0, filter.len() as u8]);
            sent.extend([filter.as_bytes(), b"\0"].concat());
        }
        assert_eq!(world.client_send(client, &sent).expect("it is open"), sent.len());
        while shard.core.router.subscription_count() < COUNT {
            turn(&mut shard);
        }
        (world, shard, client)
    }

    fn turn(shard: &mut Shard<SimDriver>) {
        assert!(shard.turn(false).expect("a simulated driver does not fail"));
    }

    /// How many subscriptions each turn removes after the client has gone.
    fn removed(filter: impl Fn(usize) -> String) -> Vec<usize> {
        let (world, mut shard, client) = shard(filter);
        world.client_close(client);
        let mut removed = Vec::new();
        let mut left = COUNT;
        while left > 0 {
            turn(&mut shard);
            let now = shard.core.router.subscription_count();
            removed.push(left - now);
            left = now;
            assert_eq!(shard.core.sessions.len(), usize::from(removed == [0]), "it has ended");
            assert_eq!(shard.core.has_remains(), left > 0 && left < COUNT);
        }
        assert_eq!(shard.core.router.node_count(), 0);
        assert_eq!(shard.core.shared.admission.subscriptions(), 0);
        removed
    }

    #[test]
    fn what_a_turn_removes_is_bounded() {
        let removed = removed(|number| format!("filter/{number}"));
        let most = 2 * (LEVELS_PER_TURN / (LEVELS_EACH + 2) + 1);
        assert!(removed.iter().all(|&count| count <= most), "{removed:?}");
        assert!(removed.len() <= COUNT / most * 2 + 4, "{removed:?}");
    }

    #[test]
    fn deep_filters_take_more_turns() {
        let levels = "/".repeat(100);
        let removed = removed(|number| format!("{number}{levels}"));
        let most = 2 * (LEVELS_PER_TURN / (LEVELS_EACH + 101) + 1);
        assert!(removed.iter().all(|&count| count <= most), "{removed:?}");
    }

    #[test]
    fn a_key_is_free_with_the_last_subscription() {
        let (world, mut shard, client) = shard(|number| format!("$share/group/{number}"));
        world.client_close(client);
        while shard.core.sessions.len() > 0 {
            turn(&mut shard);
        }
        let next = |shard: &mut Shard<SimDriver>, name| {
            shard.core.sessions.insert(crate::session::Session::new(name))
        };
        assert_eq!(next(&mut shard, "a"), 1, "0 is taken");
        while shard.core.has_remains() {
            turn(&mut shard);
        }
        assert_eq!(next(&mut shard, "b"), 0);
        assert_eq!(shard.core.router.group_count(), 0);
    }
}
