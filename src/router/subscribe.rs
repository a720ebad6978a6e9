//! Subscribing and unsubscribing, and what the other shards have to be told of it.

use super::groups::{GroupCount, GroupId};
use super::slab::NIL;
use super::subscriptions::{Granted, Owner, SEARCH_AT_MOST};
use super::{Router, SessionKey, SubscriptionHandle, SubscriptionOptions};
use crate::mqtt::topic::{self, Filter};

/// What came of a SUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// The session had this subscription, whose options were replaced [MQTT-3.8.4-3].
    pub existed: bool,
    /// The first plain subscription with this filter here: tell the other shards.
    pub interest: bool,
    /// The group has more members here: tell the other shards. `None` if there are none.
    pub group: Option<GroupCount>,
    /// To find the subscription again; the session keeps it.
    pub handle: SubscriptionHandle,
}

/// What came of an UNSUBSCRIBE.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsubscribed {
    /// The last plain subscription with this filter here: tell the other shards.
    pub interest: bool,
    /// The group has fewer members here: tell the other shards. `None` if there are none.
    pub group: Option<GroupCount>,
    /// No longer valid; the session forgets it.
    pub handle: SubscriptionHandle,
    /// What [`set_place`](Router::set_place) said of it.
    pub place: usize,
}

/// A subscription that ended with its session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// The share name of a shared one.
    pub share: Option<String>,
    /// The topic filter.
    pub filter: String,
    /// The last plain subscription with this filter here: tell the other shards.
    pub interest: bool,
    /// The group has fewer members here: tell the other shards. `None` if there are none.
    pub group: Option<GroupCount>,
}

/// A subscription as the client wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// The share name of a shared one.
    pub share: Option<String>,
    /// The topic filter.
    pub filter: String,
    /// What was asked for.
    pub options: SubscriptionOptions,
}

impl Router {
    /// Adds a subscription or replaces its options. A member of a shared group counts as
    /// connected until [`member_online`](Self::member_online) says otherwise.
    pub fn subscribe(
        &mut self,
        session: SessionKey,
        filter: &Filter<'_>,
        options: SubscriptionOptions,
    ) -> Subscribed {
        let node = self.trie.insert(filter.filter);
        let granted = Granted::new(&options);
        match filter.share {
            Some(share) => self.subscribe_shared(session, node, share, filter.filter, granted),
            None => self.subscribe_plain(session, node, filter.filter, granted),
        }
    }

    /// Ends a subscription; `None` if the session does not have it.
    pub fn unsubscribe(
        &mut self,
        session: SessionKey,
        filter: &Filter<'_>,
    ) -> Option<Unsubscribed> {
        let node = self.trie.find(filter.filter)?;
        if let Some(share) = filter.share {
            let group = self.groups.find(node, share)?;
            let entry = self.groups.member(&self.subs, group, session)?;
            let (handle, place) = (SubscriptionHandle(entry), self.subs.place(entry));
            let group = self.leave_group(group, entry);
            return Some(Unsubscribed { interest: false, group, handle, place });
        }
        let entry = self.find_plain(node, session).ok()?;
        let (handle, place) = (SubscriptionHandle(entry), self.subs.place(entry));
        let interest = self.remove_plain(node, entry);
        self.invalidate(filter.filter);
        self.trie.prune(node);
        Some(Unsubscribed { interest, group: None, handle, place })
    }

    /// Remembers where among its handles a session keeps this one, for the session to find it there
    /// when the subscription [ends](Self::unsubscribe). `handle` must be valid.
    pub fn set_place(&mut self, handle: SubscriptionHandle, place: usize) {
        self.subs.set_place(handle.0, place);
    }

    /// Ends a subscription when its session ends; `None` if the handle is not the session's.
    pub fn unsubscribe_handle(
        &mut self,
        session: SessionKey,
        handle: SubscriptionHandle,
    ) -> Option<Ended> {
        match self.subs.get(session, handle)?.0 {
            Owner::Group(group) => {
                let share = Some(self.groups.share(group).to_owned());
                let filter = self.trie.filter(self.groups.group(group).node);
                let group = self.leave_group(group, handle.0);
                Some(Ended { share, filter, interest: false, group })
            }
            Owner::Node(node) => {
                let filter = self.trie.filter(node);
                let interest = self.remove_plain(node, handle.0);
                self.invalidate(&filter);
                self.trie.prune(node);
                Some(Ended { share: None, filter, interest, group: None })
            }
        }
    }

    /// If a session's subscription is shared: its group never chooses the session again. Costs little,
    /// and [`unsubscribe_handle`](Self::unsubscribe_handle) has to follow. What that is to the other shards
    /// waits in [`next_group_news`](Self::next_group_news).
    pub fn leave_group_of(&mut self, session: SessionKey, handle: SubscriptionHandle) {
        if let Some((Owner::Group(group), _)) = self.subs.get(session, handle) {
            self.groups.take_out(&mut self.subs, group, handle.0);
            self.group_changed(group);
        }
    }

    /// What a session's handle stands for; `None` if the handle is not the session's.
    #[must_use]
    pub fn subscription(
        &self,
        session: SessionKey,
        handle: SubscriptionHandle,
    ) -> Option<Subscription> {
        let (owner, granted) = self.subs.get(session, handle)?;
        let (share, node) = match owner {
            Owner::Node(node) => (None, node),
            Owner::Group(group) => {
                (Some(self.groups.share(group).to_owned()), self.groups.group(group).node)
            }
        };
        Some(Subscription { share, filter: self.trie.filter(node), options: granted.into() })
    }

    /// Says whether the session of a shared subscription is connected; plain ones do not mind. What that
    /// is to the other shards waits in [`next_group_news`](Self::next_group_news).
    pub fn member_online(&mut self, session: SessionKey, handle: SubscriptionHandle, online: bool) {
        if let Some((Owner::Group(group), _)) = self.subs.get(session, handle)
            && self.groups.set_online(&mut self.subs, group, handle.0, online)
        {
            self.group_changed(group);
        }
    }

    fn group_changed(&mut self, group: u32) {
        if self.shards > 1 {
            self.groups.add_news(group);
        }
    }

    /// Whether the other shards have to be told of a group.
    #[must_use]
    pub fn has_group_news(&self) -> bool {
        self.groups.has_news()
    }

    /// The next group that the other shards have to be told of, as it is now. Of one that [is left](Self::is_left)
    /// they are told later.
    pub fn next_group_news(&mut self) -> Option<GroupCount> {
        loop {
            let group = self.groups.next_news()?;
            if !self.groups.group(group).is_left() {
                return self.group_count_of(group);
            }
        }
    }

    /// If the other shards have to be told of the group with this [number](super::GroupId::index): it as it
    /// is now, unless it [is left](Self::is_left).
    pub fn group_news_of(&mut self, index: u32) -> Option<GroupCount> {
        let is_told = self.groups.take_news(index) && !self.groups.group(index).is_left();
        if is_told { self.group_count_of(index) } else { None }
    }

    /// A group as it is now, to tell the other shards.
    pub fn count_of(&self, group: GroupId) -> Option<GroupCount> {
        self.group_count_of(self.groups.resolve(group)?)
    }

    /// Whether nobody is left in a group on any shard, and subscriptions of who left here are still there: the
    /// other shards are told when those have ended.
    #[must_use]
    pub fn is_left(&self, group: GroupId) -> bool {
        self.groups.resolve(group).is_some_and(|index| self.groups.group(index).is_left())
    }

    fn subscribe_plain(
        &mut self,
        session: SessionKey,
        node: u32,
        filter: &str,
        granted: Granted,
    ) -> Subscribed {
        let (existed, interest, entry) = match self.find_plain(node, session) {
            Ok(entry) => {
                if self.subs.granted(entry) != granted {
                    self.subs.set_granted(entry, granted);
                    self.invalidate(filter);
                }
                (true, false, entry)
            }
            Err(at_most) => {
                let head = self.trie.node(node).list;
                let interest = !self.subs.has_plain(head);
                let entry = self.subs.push_plain(head, node, session, granted);
                self.trie.node_mut(node).list = entry;
                self.index_plain(node, entry, at_most + 1);
                self.invalidate(filter);
                (false, interest, entry)
            }
        };
        Subscribed { existed, interest, group: None, handle: SubscriptionHandle(entry) }
    }

    fn subscribe_shared(
        &mut self,
        session: SessionKey,
        node: u32,
        share: &str,
        filter: &str,
        granted: Granted,
    ) -> Subscribed {
        let group = self.group_or_insert(node, share, filter);
        if let Some(entry) = self.groups.member(&self.subs, group, session) {
            self.subs.set_granted(entry, granted);
            let handle = SubscriptionHandle(entry);
            return Subscribed { existed: true, interest: false, group: None, handle };
        }
        let entry = self.groups.join(&mut self.subs, group, session, granted);
        let group = self.group_count_of(group);
        Subscribed { existed: false, interest: false, group, handle: SubscriptionHandle(entry) }
    }

    /// The group of a filter's node, made if there is none.
    pub(super) fn group_or_insert(&mut self, node: u32, share: &str, filter: &str) -> u32 {
        if let Some(group) = self.groups.find(node, share) {
            return group;
        }
        let group = self.groups.insert(node, share);
        let head = self.trie.node(node).list;
        let (link, head) = self.subs.push_group(head, node, group);
        self.groups.group_mut(group).link = link;
        self.trie.node_mut(node).list = head;
        self.invalidate(filter);
        group
    }

    /// Frees a group that nobody here or elsewhere is a member of.
    pub(super) fn prune_group(&mut self, group: u32) {
        if !self.groups.is_unused(group) {
            return;
        }
        let (node, link) = (self.groups.group(group).node, self.groups.group(group).link);
        let filter = self.trie.filter(node);
        self.groups.remove(group);
        let head = self.trie.node(node).list;
        self.trie.node_mut(node).list = self.subs.unlink(head, link);
        self.invalidate(&filter);
        self.trie.prune(node);
    }

    /// Has the routes a filter may match computed anew.
    pub(super) fn invalidate(&mut self, filter: &str) {
        if topic::has_wildcard(filter) {
            self.cache.invalidate_filter(filter);
        } else {
            self.cache.invalidate_topic(filter);
        }
    }

    fn leave_group(&mut self, group: u32, entry: u32) -> Option<GroupCount> {
        self.groups.leave(&mut self.subs, group, entry);
        let count = self.group_count_of(group).filter(|_| !self.groups.group(group).is_left());
        self.prune_group(group);
        count
    }

    /// What to tell the other shards, if there are any.
    fn group_count_of(&self, index: u32) -> Option<GroupCount> {
        let group = self.groups.group(index);
        (self.shards > 1).then(|| GroupCount {
            share: self.groups.share(index).to_owned(),
            filter: self.trie.filter(group.node),
            id: self.groups.id(index),
            online: group.online,
            members: group.members.len() as u32,
            since: self.groups.kept(index).since,
            load: self.groups.load(index).cloned(),
        })
    }

    /// A session's entry in the list of a node; otherwise how many there are, as far as counted.
    pub(super) fn find_plain(&self, node: u32, session: SessionKey) -> Result<u32, usize> {
        let node_ = self.trie.node(node);
        if node_.is_indexed() {
            return self.subs.index_find(Owner::Node(node), session).ok_or(SEARCH_AT_MOST);
        }
        let mut count = 0;
        for entry in self.subs.plain(node_.list) {
            if self.subs.session(entry) == session {
                return Ok(entry);
            }
            count += 1;
        }
        Err(count)
    }

    /// Keeps the index of a list that has become long, and now has `count` entries.
    fn index_plain(&mut self, node: u32, entry: u32, count: usize) {
        let node = self.trie.node_mut(node);
        if node.is_indexed() {
            self.subs.index_insert(entry);
        } else if count > SEARCH_AT_MOST {
            node.set_indexed(true);
            let entries: Vec<u32> = self.subs.plain(node.list).collect();
            entries.into_iter().for_each(|entry| self.subs.index_insert(entry));
        }
    }

    /// Whether it was the last plain subscription of its node, which the caller prunes.
    fn remove_plain(&mut self, node: u32, entry: u32) -> bool {
        let node = self.trie.node_mut(node);
        if node.is_indexed() {
            self.subs.index_remove(entry);
        }
        node.list = self.subs.unlink(node.list, entry);
        let last = !self.subs.has_plain(node.list);
        if last {
            node.set_indexed(false);
        }
        debug_assert!(node.list != NIL || last);
        last
    }
}
