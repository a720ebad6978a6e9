//! How busy the members of a shared group are, shard by shard: what the strategy
//! [`LeastInFlight`](super::Strategy::LeastInFlight) goes by before a message leaves its publisher's shard.
//!
//! Each shard measures its own members, at the end of a turn, and shows the result to the others in two
//! counters of the group. Those who route messages to it add what they send, so that a burst does not all
//! go to whoever was the least busy before it.

use std::cmp::Ordering;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use super::choice::LOOK_AT_MOST;
use super::{GroupId, Router, SessionKey};

/// The most members that are looked at in one turn; the groups that this does not reach are the first of
/// the next one.
const MEASURE_AT_MOST: usize = 4 * LOOK_AT_MOST;

#[derive(Debug, Default)]
pub(super) struct Load {
    /// How many messages the least busy members have, in the high half, and how many members have so
    /// few. All 0 before it is measured.
    least: AtomicU64,
    /// Messages routed to the shard that `least` does not show yet.
    coming: AtomicU32,
    /// Those of them that have come. Its own shard alone uses it.
    arrived: AtomicU32,
}

/// How busy the members of a shared group on one shard are: that shard says it, the others see it.
#[derive(Clone, Debug, Default)]
pub struct GroupLoad(Arc<Load>);

impl PartialEq for GroupLoad {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for GroupLoad {}

impl GroupLoad {
    /// What one takes: itself, and what it shares, with the two counts of an [`Arc`].
    pub(super) const BYTES: usize = size_of::<Self>() + size_of::<Load>() + 2 * size_of::<usize>();

    /// How busy they are with what is on its way to them; `members` of them that count, if nobody has
    /// measured it.
    pub(super) fn level(&self, members: u32) -> Level {
        let least = self.0.least.load(Relaxed);
        let count = match least as u32 {
            0 => members,
            count => count,
        };
        let messages = (least >> 32) * u64::from(count);
        Level { messages: messages + u64::from(self.0.coming.load(Relaxed)), count }
    }

    fn show(&self, least: u32, count: u32) {
        self.0.least.store(u64::from(least) << 32 | u64::from(count), Relaxed);
        let arrived = self.0.arrived.swap(0, Relaxed);
        let coming = self.0.coming.fetch_sub(arrived, Relaxed);
        debug_assert!(coming >= arrived, "{arrived} came of {coming}");
    }
}

/// So many messages for so many of the least busy members: ordered by how many each of them has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Level {
    messages: u64,
    /// 0 if the strategy does not mind.
    pub(super) count: u32,
}

impl Ord for Level {
    fn cmp(&self, other: &Self) -> Ordering {
        let crossed = |one: &Self, other: &Self| u128::from(one.messages) * u128::from(other.count);
        crossed(self, other).cmp(&crossed(other, self))
    }
}

impl PartialOrd for Level {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Level {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Level {}

impl Router {
    /// A message goes to a shard for a group, which is this one's: before it is sent there, or
    /// given to a member here.
    #[inline]
    pub fn routed_to(&mut self, group: GroupId, shard: u8) {
        if self.groups.show_loads() {
            self.add_coming(group, shard);
        }
    }

    fn add_coming(&mut self, group: GroupId, shard: u8) {
        let Some(index) = self.groups.resolve(group) else { return };
        if shard == self.shard {
            if let Some(load) = self.groups.load(index) {
                load.0.coming.fetch_add(1, Relaxed);
            }
            self.arrived(group);
            return;
        }
        let mut remote = self.groups.group(index).remote.iter();
        let load = remote.find(|one| one.shard == shard).and_then(|one| one.load.as_ref());
        if let Some(load) = load {
            load.0.coming.fetch_add(1, Relaxed);
        }
    }

    /// A message that was [routed](Self::routed_to) here for a group has come.
    pub fn arrived(&mut self, group: GroupId) {
        if let Some(index) = self.groups.resolve(group)
            && let Some(load) = self.groups.load(index)
        {
            load.0.arrived.fetch_add(1, Relaxed);
            self.groups.add_busy(index);
        }
    }

    /// Whether [`measure_loads`](Self::measure_loads) has something to do.
    #[inline]
    #[must_use]
    pub fn has_loads(&self) -> bool {
        self.groups.busy_count() > 0
    }

    /// Shows the other shards how busy the members of groups are, of which `load` gives the number of
    /// messages; `usize::MAX` says that a member cannot take any. Those that had nothing, and whose group
    /// got nothing since, are not asked again; nor are more than 1,024 in one call, or 256 of a group.
    pub fn measure_loads(&mut self, load: impl Fn(SessionKey) -> usize) {
        let mut left = MEASURE_AT_MOST;
        for _ in 0..self.groups.busy_count() {
            if left == 0 {
                break;
            }
            let Some(index) = self.groups.next_busy() else { break };
            let group = self.groups.group(index);
            let first = group.first();
            let part = group.members.get(..first).unwrap_or_default();
            let start =
                if (group.member_cursor as usize) < first { group.member_cursor } else { 0 };
            let (before, after) = part.split_at(start as usize);
            let looked_at = first.min(LOOK_AT_MOST);
            let (mut least, mut count, mut most) = (u32::MAX, 0, 0);
            for member in after.iter().chain(before).take(looked_at) {
                let load = u32::try_from(load(member.session)).unwrap_or(u32::MAX);
                most = most.max(load);
                match load.cmp(&least) {
                    Ordering::Less => (least, count) = (load, 1),
                    Ordering::Equal => count += 1,
                    Ordering::Greater => {}
                }
            }
            // As many among those that were not looked at.
            let of_all = (count * first).checked_div(looked_at).unwrap_or(0);
            if let Some(shown) = self.groups.load(index) {
                shown.show(if count == 0 { 0 } else { least }, of_all as u32);
            }
            left = left.saturating_sub(looked_at.max(1));
            if most > 0 {
                self.groups.add_busy(index);
            }
        }
    }
}
