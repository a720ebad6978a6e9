//! Who of a shared group gets a message: first which shard, then which of its members.

use super::groups::{GroupId, Remote};
use super::hash::stable_hash;
use super::load::{GroupLoad, Level};
use super::slab::NIL;
use super::{Router, SessionKey, SubscriptionOptions};

/// How a shared group picks the member that gets a message.
///
/// Connected members come first; the others only when none of those can take it. What is said of members
/// holds whichever shards they are on, from when all shards have been told of them: that is, once they have
/// their SUBACK.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// Each in turn; each shard goes round by itself.
    #[default]
    RoundRobin,
    /// Any, with equal chances.
    Random,
    /// The one with the fewest unacknowledged messages, in flight and in its queue. Of a member on another
    /// shard what counts is what that shard [showed](Router::measure_loads) last, and what was sent there
    /// since.
    LeastInFlight,
    /// Always the same one, until it leaves or disconnects. Only what it has no room for goes to others.
    Sticky,
    /// By the publisher's client id: one publisher, one member, as long as they stay the same. Wills, and
    /// what a member left behind, are as of one publisher.
    ClientId,
    /// By the topic: one topic, one member, as long as they stay the same.
    Topic,
}

/// Of whom and what a message is, as far as strategies care: what they choose by is the same on all shards.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Publisher<'a> {
    /// The client, by a number that is the same on all shards.
    pub client: u64,
    /// The topic.
    pub topic: &'a str,
}

/// Hashed for the strategies that want it only: with each message that costs as much as a look-up.
impl Publisher<'_> {
    /// The number may be what the client's home was chosen by; where its messages go has to be independent of that.
    fn client_hash(&self) -> u64 {
        stable_hash(&self.client.to_le_bytes())
    }

    fn topic_hash(&self) -> u64 {
        stable_hash(self.topic.as_bytes())
    }
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
    /// their number, or as the strategy wants it. `None`: the group is gone.
    pub fn choose_shard(
        &mut self,
        group: GroupId,
        publisher: &Publisher<'_>,
    ) -> Option<ShardChoice> {
        let index = self.groups.resolve(group)?;
        let known = self.groups.group(index);
        if known.remote.is_empty() {
            let choice = ShardChoice { shard: self.shard, group, online: known.online > 0 };
            return (!known.members.is_empty()).then_some(choice);
        }
        let connected = self.standings(index, true, false).any(|one| one.online > 0);
        self.choose_of(index, true, connected, publisher)
    }

    /// Which other shard with connected members serves a message of a group, if there is one.
    pub fn choose_other_shard(
        &mut self,
        group: GroupId,
        publisher: &Publisher<'_>,
    ) -> Option<ShardChoice> {
        let index = self.groups.resolve(group)?;
        self.choose_of(index, false, true, publisher)
    }

    /// One of the [`standings`](Self::standings).
    fn choose_of(
        &mut self,
        index: u32,
        here: bool,
        connected: bool,
        publisher: &Publisher<'_>,
    ) -> Option<ShardChoice> {
        let place = self.shard_place(index, publisher);
        match self.groups.strategy() {
            Strategy::Sticky => {
                let mut shards = self.standings(index, here, connected);
                let oldest = shards.clone().map(|one| one.since).min()?;
                shards.find(|one| one.since == oldest).as_ref().map(Standing::choice)
            }
            Strategy::LeastInFlight => {
                // The other shards change what is read here.
                let mut shards = std::mem::take(&mut self.candidates);
                shards.extend(self.standings(index, here, connected));
                let least = shards.iter().map(|one| one.level).min();
                shards.retain(|one| Some(one.level) == least);
                let chosen = at_place(shards.iter().copied(), place);
                shards.clear();
                self.candidates = shards;
                chosen
            }
            Strategy::RoundRobin | Strategy::Random | Strategy::ClientId | Strategy::Topic => {
                at_place(self.standings(index, here, connected), place)
            }
        }
    }

    /// Which member of this shard gets the next message of a group.
    ///
    /// `in_flight` gives a session's number of unacknowledged messages; `usize::MAX` says that it
    /// cannot take any, and another one is asked: the connected first, then the rest, 256 of them
    /// at most. `None`: nobody can take it, or the group is gone.
    pub fn choose_member(
        &mut self,
        group: GroupId,
        publisher: &Publisher<'_>,
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
        Some((member.session, self.subs.granted(member.entry).into()))
    }

    fn choose_among(
        &mut self,
        index: u32,
        part: std::ops::Range<usize>,
        publisher: &Publisher<'_>,
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
        if self.groups.strategy() == Strategy::LeastInFlight {
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
        publisher: &Publisher<'_>,
    ) -> usize {
        let len = part.len();
        let group = self.groups.group(index);
        let cursor = group.member_cursor as usize;
        let next = if part.contains(&cursor) { cursor - part.start } else { 0 };
        match self.groups.strategy() {
            Strategy::RoundRobin | Strategy::LeastInFlight => next,
            Strategy::Random => self.random.usize(..len),
            Strategy::Sticky => {
                let kept = self.groups.kept(index).entry;
                let place =
                    if kept == NIL { usize::MAX } else { self.subs.position(kept) as usize };
                if part.contains(&place) { place - part.start } else { next }
            }
            // Other bits than those the shard was chosen by.
            Strategy::ClientId => (publisher.client_hash().rotate_right(32) % len as u64) as usize,
            Strategy::Topic => (publisher.topic_hash().rotate_right(32) % len as u64) as usize,
        }
    }

    fn shard_place(&mut self, index: u32, publisher: &Publisher<'_>) -> u64 {
        match self.groups.strategy() {
            Strategy::ClientId => publisher.client_hash(),
            Strategy::Topic => publisher.topic_hash(),
            Strategy::Random => self.random.u64(..),
            Strategy::RoundRobin | Strategy::LeastInFlight | Strategy::Sticky => {
                let cursor = &mut self.groups.group_mut(index).shard_cursor;
                *cursor = cursor.wrapping_add(1);
                // Shards do not all begin with the same one.
                u64::from(*cursor) + u64::from(self.shard)
            }
        }
    }

    fn here(&self, index: u32) -> Standing {
        let group = self.groups.group(index);
        let (online, members) = (group.online, group.members.len() as u32);
        Standing {
            shard: self.shard,
            group: self.groups.id(index),
            online,
            members,
            since: self.groups.kept(index).since,
            level: level_of(self.groups.load(index), online, members),
        }
    }

    /// How the shards with members stand, in an order that is the same on all of them: this one as well
    /// with `here`, only those with connected members with `connected`.
    fn standings(
        &self,
        index: u32,
        here: bool,
        connected: bool,
    ) -> impl Iterator<Item = Standing> + Clone {
        let remote = &self.groups.group(index).remote;
        let (before, after) = remote.split_at(remote.partition_point(|one| one.shard < self.shard));
        let here = here.then(|| self.here(index)).filter(|here| here.members > 0);
        let all = before.iter().map(Standing::of).chain(here).chain(after.iter().map(Standing::of));
        all.filter(move |one| !connected || one.online > 0)
    }
}

/// The shard at a place, when each takes up as many as it has members that count.
fn at_place(mut shards: impl Iterator<Item = Standing> + Clone, place: u64) -> Option<ShardChoice> {
    let total: u64 = shards.clone().map(|one| u64::from(one.weight())).sum();
    let mut place = place.checked_rem(total)?;
    let chosen = shards.find(|one| {
        let weight = u64::from(one.weight());
        let found = place < weight;
        place = place.saturating_sub(weight);
        found
    });
    chosen.as_ref().map(Standing::choice)
}

/// How a shard stands in a group when a message comes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    shard: u8,
    group: GroupId,
    online: u32,
    members: u32,
    since: u32,
    level: Level,
}

impl Standing {
    fn of(remote: &Remote) -> Self {
        Self {
            shard: remote.shard,
            group: remote.id,
            online: remote.online,
            members: remote.members,
            since: remote.since,
            level: level_of(remote.load.as_ref(), remote.online, remote.members),
        }
    }

    /// How many members it has that count.
    fn weight(&self) -> u32 {
        match (self.level.count, self.online) {
            (0, 0) => self.members,
            (0, online) => online,
            (at_least, _) => at_least,
        }
    }

    fn choice(&self) -> ShardChoice {
        ShardChoice { shard: self.shard, group: self.group, online: self.online > 0 }
    }
}

fn level_of(load: Option<&GroupLoad>, online: u32, members: u32) -> Level {
    let of = if online > 0 { online } else { members };
    load.map_or_else(Level::default, |load| load.level(of))
}
