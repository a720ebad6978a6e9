//! What the other shards want: plain filters, and shared groups with their numbers of members.

use super::choice::LOOK_AT_MOST;
use super::groups::{GroupCount, GroupId, Remote};
use super::{Router, SessionKey, SubscriptionHandle};
use crate::mqtt::QoS;
use crate::mqtt::topic::{self, Filter};

impl Router {
    /// Another shard has its first plain subscription with this filter: once, until it is
    /// [removed](Self::remove_interest).
    pub fn add_interest(&mut self, shard: u8, filter: &str) {
        let Some(bit) = self.bit(shard) else { return };
        if !self.foreign.add(shard, filter) {
            self.trie.add_interest(filter, bit);
        }
        self.invalidate(filter);
    }

    /// Another shard has no plain subscription with this filter any more.
    pub fn remove_interest(&mut self, shard: u8, filter: &str) {
        let Some(bit) = self.bit(shard) else { return };
        // What came when there was no place for its shape is with the trie, place or no place now.
        if self.trie.remove_interest(filter, bit) || self.foreign.remove(shard, filter) {
            self.invalidate(filter);
        }
    }

    /// Another shard has these numbers of members of a shared group.
    pub fn set_group_online(&mut self, shard: u8, count: &GroupCount) {
        if self.bit(shard).is_none() {
            return;
        }
        let GroupCount { ref share, ref filter, id, online, members, since, ref load } = *count;
        let existing = self.trie.find(filter).and_then(|node| self.groups.find(node, share));
        let group = match existing {
            Some(group) => group,
            None if members == 0 => return,
            None => {
                let node = self.trie.insert(filter);
                self.group_or_insert(node, share, filter)
            }
        };
        let load = load.clone();
        self.groups.set_remote(group, Remote { shard, online, members, id, since, load });
        self.prune_group(group);
    }

    /// The id of a group, by its share name and filter.
    #[must_use]
    pub fn group(&self, share: &str, filter: &str) -> Option<GroupId> {
        let node = self.trie.find(filter)?;
        self.groups.find(node, share).map(|group| self.groups.id(group))
    }

    /// The handle of a session that is a member of a group here.
    #[must_use]
    pub fn member(&self, session: SessionKey, group: GroupId) -> Option<SubscriptionHandle> {
        let group = self.groups.resolve(group)?;
        self.groups.member(&self.subs, group, session).map(SubscriptionHandle)
    }

    /// The group with this [number](GroupId::index), if it wants `topic`.
    #[must_use]
    pub fn group_wanting(&self, index: u32, topic: &str) -> Option<GroupId> {
        let group = self.groups.get(index)?;
        topic::matches(&self.trie.filter(group.node), topic).then(|| self.groups.id(index))
    }

    /// The filter of the group with this [number](GroupId::index), with `$share/` in front.
    #[must_use]
    pub fn group_filter(&self, index: u32) -> Option<String> {
        let group = self.groups.get(index)?;
        Some(format!("$share/{}/{}", self.groups.share(index), self.trie.filter(group.node)))
    }

    /// How many members of a group are sessions of this shard.
    #[must_use]
    pub fn members_here(&self, group: GroupId) -> usize {
        self.groups.resolve(group).map_or(0, |index| self.groups.group(index).members.len())
    }

    /// The connected members of a group that are sessions of this shard, as far as one choice
    /// looks at them, each with the QoS it was granted.
    pub fn online_here(&self, group: GroupId) -> impl Iterator<Item = (SessionKey, QoS)> + '_ {
        let group = self.groups.resolve(group).map(|index| self.groups.group(index));
        group.into_iter().flat_map(move |group| {
            let online = (group.online as usize).min(LOOK_AT_MOST);
            let granted = |entry| self.subs.granted(entry).qos();
            let members = group.members.iter().take(online);
            members.map(move |member| (member.session, granted(member.entry)))
        })
    }

    /// A bit for each other shard with members of a group.
    #[must_use]
    pub fn shards_with_members(&self, group: GroupId) -> u64 {
        self.elsewhere(group, |remote| remote.members > 0)
    }

    /// A bit for each other shard with connected members of a group.
    #[must_use]
    pub fn shards_online(&self, group: GroupId) -> u64 {
        self.elsewhere(group, |remote| remote.online > 0)
    }

    fn elsewhere(&self, group: GroupId, which: impl Fn(&Remote) -> bool) -> u64 {
        let group = self.groups.resolve(group).map(|index| self.groups.group(index));
        let remote = group.into_iter().flat_map(|group| group.remote.iter());
        remote.filter(|one| which(one)).fold(0, |mask, one| mask | 1 << one.shard)
    }

    /// Whether a session has a subscription with this filter.
    #[must_use]
    pub fn has_subscription(&self, session: SessionKey, filter: &Filter<'_>) -> bool {
        let Some(node) = self.trie.find(filter.filter) else { return false };
        match filter.share {
            None => self.find_plain(node, session).is_ok(),
            Some(share) => self
                .groups
                .find(node, share)
                .is_some_and(|group| self.groups.member(&self.subs, group, session).is_some()),
        }
    }

    /// A shard's bit; none for this shard itself, nor past the 64th.
    fn bit(&self, shard: u8) -> Option<u64> {
        if shard == self.shard { None } else { 1u64.checked_shl(u32::from(shard)) }
    }
}
