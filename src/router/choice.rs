//! Who of a shared group gets a message: first which shard, then which of its members.

use super::groups::{Group, GroupId, Remote};
use super::hash::stable_hash;
use super::slab::NIL;
use super::{Router, SessionKey, SubscriptionOptions};

/// How a shared group picks the member that gets a message.
///
/// Connected members come first; the others only when none of those can take it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// Any, with equal chances.
    Random,
    /// The one with the fewest unacknowledged messages; among shards: each in turn, by its
    /// number of members.
    LeastInFlight,
    /// Always the same one, until it leaves or disconnects.
    Sticky,
    /// By the publisher's client id: one publisher, one member, as long as they stay the same.
    ClientId,
    /// By the topic: one topic, one member, as long as they stay the same.
    Topic,
}

/// Of whom and what a message is, as far as strategies care. Both are hashes by
/// [`stable_hash`], so that all shards choose alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Publisher {
    /// Of the publisher's client id.
    pub client_id_hash: u64,
    /// Of the topic.
    pub topic_hash: u64,
}

/// The shard that serves a message of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardChoice {
    /// The shard.
    pub shard: u8,
    /// The group's id on that shard.
    pub group: GroupId,
    /// Whether a member is connected there.
    pub online: bool,
}

/// The most members one choice looks at, so that it stays cheap however large the group.
pub(super) const LOOK_AT_MOST: usize = 256;

impl Router {
    /// Which shard serves the next message of a group: those with connected members first, by
    /// their number. `None`: the group is gone.
    pub fn choose_shard(&mut self, group: GroupId, publisher: &Publisher) -> Option<ShardChoice> {
        let index = self.groups.resolve(group)?;
        let here = self.here(index, group);
        if self.groups.group(index).remote.is_empty() {
            let choice = ShardChoice { shard: self.shard, group, online: here.online > 0 };
            return (here.members > 0).then_some(choice);
        }
        let place = self.shard_place(index, publisher);
        let group = self.groups.group_mut(index);
        let anybody_online = here.online > 0 || group.remote.iter().any(|one| one.online > 0);
        let weight = |one: &Remote| if anybody_online { one.online } else { one.members };
        let shards = in_order(group, here);
        if self.strategy == Strategy::Sticky {
            let kept = shards.clone().find(|one| one.shard == group.sticky_shard);
            if let Some(kept) = kept.filter(|one| weight(one) > 0) {
                return Some(kept.choice());
            }
        }
        let total: u64 = shards.clone().map(|one| u64::from(weight(&one))).sum();
        let mut place = place.checked_rem(total)?;
        let chosen = shards.clone().find(|one| {
            let weight = u64::from(weight(one));
            let found = place < weight;
            place = place.saturating_sub(weight);
            found
        })?;
        group.sticky_shard = chosen.shard;
        Some(chosen.choice())
    }

    /// Which other shard with connected members serves a message of a group, if there is one.
    pub fn choose_other_shard(
        &mut self,
        group: GroupId,
        publisher: &Publisher,
    ) -> Option<ShardChoice> {
        let index = self.groups.resolve(group)?;
        let place = self.shard_place(index, publisher);
        let shards = &self.groups.group(index).remote;
        let total: u64 = shards.iter().map(|one| u64::from(one.online)).sum();
        let mut place = place.checked_rem(total)?;
        let chosen = shards.iter().find(|one| {
            let found = place < u64::from(one.online);
            place = place.saturating_sub(one.online.into());
            found
        });
        chosen.map(|one| one.choice())
    }

    /// Which member of this shard gets the next message of a group.
    ///
    /// `in_flight` gives a session's number of unacknowledged messages; `usize::MAX` says that it
    /// cannot take any, and another one is asked: the connected first, then the rest, 256 of them
    /// at most. `None`: nobody can take it, or the group is gone.
    pub fn choose_member(
        &mut self,
        group: GroupId,
        publisher: &Publisher,
        in_flight: impl Fn(SessionKey) -> usize,
    ) -> Option<(SessionKey, SubscriptionOptions)> {
        let index = self.groups.resolve(group)?;
        let group = self.groups.group(index);
        let (online, all) = (group.online as usize, group.members.len());
        let chosen = self
            .choose_among(index, 0..online, publisher, &in_flight)
            .or_else(|| self.choose_among(index, online..all, publisher, &in_flight))?;
        let group = self.groups.group_mut(index);
        let member = *group.members.get(chosen)?;
        group.member_cursor = chosen as u32 + 1;
        group.sticky_member = member.entry;
        Some((member.session, self.subs.granted(member.entry).into()))
    }

    fn choose_among(
        &mut self,
        index: u32,
        part: std::ops::Range<usize>,
        publisher: &Publisher,
        in_flight: &impl Fn(SessionKey) -> usize,
    ) -> Option<usize> {
        if part.is_empty() {
            return None;
        }
        let len = part.len();
        let first = self.member_place(index, &part, publisher);
        let members = &self.groups.group(index).members;
        // At most once round, from the first choice on.
        let places = (0..len.min(LOOK_AT_MOST)).map(|step| {
            let place = first + step;
            part.start + if place < len { place } else { place - len }
        });
        let load =
            |place: usize| members.get(place).map_or(usize::MAX, |one| in_flight(one.session));
        if self.strategy == Strategy::LeastInFlight {
            let (load, place) = places
                .map(|place| (load(place), place))
                .reduce(|best, one| if one.0 < best.0 { one } else { best })?;
            return (load < usize::MAX).then_some(place);
        }
        let mut places = places;
        places.find(|&place| load(place) < usize::MAX)
    }

    /// Where in a part of the members to look first, relative to its start.
    fn member_place(
        &mut self,
        index: u32,
        part: &std::ops::Range<usize>,
        publisher: &Publisher,
    ) -> usize {
        let len = part.len();
        let group = self.groups.group(index);
        let cursor = group.member_cursor as usize;
        let next = if part.contains(&cursor) { cursor - part.start } else { 0 };
        match self.strategy {
            Strategy::RoundRobin | Strategy::LeastInFlight => next,
            Strategy::Random => self.random.usize(..len),
            Strategy::Sticky => {
                let kept = group.sticky_member;
                let place =
                    if kept == NIL { usize::MAX } else { self.subs.position(kept) as usize };
                if part.contains(&place) { place - part.start } else { next }
            }
            // Other bits than those the shard was chosen by.
            Strategy::ClientId => (publisher.client_id_hash.rotate_right(32) % len as u64) as usize,
            Strategy::Topic => (publisher.topic_hash.rotate_right(32) % len as u64) as usize,
        }
    }

    fn shard_place(&mut self, index: u32, publisher: &Publisher) -> u64 {
        match self.strategy {
            Strategy::RoundRobin | Strategy::LeastInFlight => {
                let cursor = &mut self.groups.group_mut(index).shard_cursor;
                *cursor = cursor.wrapping_add(1);
                u64::from(*cursor)
            }
            Strategy::Random => self.random.u64(..),
            // Every shard begins with the same one.
            Strategy::Sticky => stable_hash(self.groups.share(index).as_bytes()),
            Strategy::ClientId => publisher.client_id_hash,
            Strategy::Topic => publisher.topic_hash,
        }
    }

    fn here(&self, index: u32, id: GroupId) -> Remote {
        let group = self.groups.group(index);
        Remote { shard: self.shard, online: group.online, members: group.members.len() as u32, id }
    }
}

/// All shards with members, this one included, in the order that is the same on all of them.
fn in_order(group: &Group, here: Remote) -> impl Iterator<Item = Remote> + Clone + use<> {
    let mut shards: smallvec::SmallVec<[Remote; 8]> = group.remote.iter().copied().collect();
    let place = shards.partition_point(|one| one.shard < here.shard);
    shards.insert(place, here);
    shards.into_iter()
}

impl Remote {
    fn choice(self) -> ShardChoice {
        ShardChoice { shard: self.shard, group: self.id, online: self.online > 0 }
    }
}
