//! Shared subscriptions: the groups, their members here, and how many there are on other shards.

use std::collections::VecDeque;

use hashbrown::{HashMap, HashTable};
use smallvec::SmallVec;

use super::hash::{Seed, spread};
use super::load::GroupLoad;
use super::slab::{NIL, Slab, Vacant};
use super::subscriptions::{Granted, Owner, SEARCH_AT_MOST, Subscriptions};
use super::{SessionKey, Strategy};
use crate::chunks::Chunks;

/// Names a shared group on the shard that gave it out; stale once the group is gone, and then harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId {
    pub(super) index: u32,
    generation: u32,
}

impl GroupId {
    /// No group.
    pub const NONE: Self = Self { index: NIL, generation: 0 };

    /// A number that no other group of this shard has at the same time; a later one may.
    #[must_use]
    pub fn index(self) -> u32 {
        self.index
    }
}

/// How many members of a shared group a shard has: what it tells the others whenever that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupCount {
    /// The share name.
    pub share: String,
    /// The topic filter.
    pub filter: String,
    /// The group's id on the shard that tells.
    pub id: GroupId,
    /// Members that are connected.
    pub online: u32,
    /// All members; 0 when the group is gone from that shard.
    pub members: u32,
    /// The lower, the longer the strategy [`Sticky`](super::Strategy::Sticky) has kept to one of them.
    pub since: u32,
    /// How busy they are, if the strategy minds.
    pub load: Option<GroupLoad>,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) node: u32,
    /// The entry in the list of the node.
    pub(super) link: u32,
    share: u32,
    generation: u32,
    /// The members stand in two parts: these many that are connected first.
    pub(super) online: u32,
    pub(super) member_cursor: u32,
    pub(super) shard_cursor: u32,
    indexed: bool,
    /// Waits in the list of those that the other shards have to be told of.
    is_news: bool,
    /// Waits in the list of those whose load is to be measured.
    is_busy: bool,
    /// Members that were [taken out](Groups::take_out), and whose entries are still there.
    leaving: u32,
    pub(super) members: SmallVec<[Member; 2]>,
    /// In order of shards.
    pub(super) remote: Box<[Remote]>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Member {
    pub(super) session: SessionKey,
    pub(super) entry: u32,
}

/// The members on another shard.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) shard: u8,
    pub(super) online: u32,
    pub(super) members: u32,
    pub(super) id: GroupId,
    pub(super) since: u32,
    pub(super) load: Option<GroupLoad>,
}

/// Whom the strategy `Sticky` keeps to, among the members here.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kept {
    /// The member's entry.
    pub(super) entry: u32,
    /// Later than what any shard kept to when it became that.
    pub(super) since: u32,
}

impl Kept {
    const NOBODY: Self = Self { entry: NIL, since: 0 };
}

impl Group {
    /// How many members come first, in front of the others: those that are connected; or all, if none is.
    pub(super) fn first(&self) -> usize {
        if self.online > 0 { self.online as usize } else { self.members.len() }
    }

    /// Whether nobody is a member any more on any shard, and entries of who left here are still there.
    pub(super) fn is_left(&self) -> bool {
        self.members.is_empty() && self.remote.is_empty() && self.leaving > 0
    }
}

impl Vacant for Group {
    fn vacate(&mut self, next: u32) {
        self.generation = 0;
        self.is_news = false;
        self.is_busy = false;
        self.node = next;
        self.members = SmallVec::new();
        self.remote = Box::default();
    }

    fn next_vacant(&self) -> u32 {
        self.node
    }
}

#[derive(Debug)]
pub(super) struct Groups {
    groups: Slab<Group>,
    /// By node and share name.
    table: HashTable<u32>,
    shares: Shares,
    news: VecDeque<u32>,
    /// Those that have got messages lately, or whose members have something in flight.
    busy: VecDeque<u32>,
    strategy: Strategy,
    /// Whether other shards see how busy the members here are.
    show_loads: bool,
    /// By group, if the strategy is `Sticky`.
    kept: Chunks<Kept>,
    /// By group, if other shards see them.
    loads: Chunks<GroupLoad>,
    last_generation: u32,
    seed: Seed,
}

impl Groups {
    pub(super) fn new(seed: Seed, strategy: Strategy, shards: u8) -> Self {
        let shares = Shares {
            counted_bytes: 0,
            by_name: HashMap::default(),
            names: Vec::new(),
            free: Vec::new(),
        };
        Self {
            groups: Slab::new(),
            table: HashTable::new(),
            shares,
            news: VecDeque::new(),
            busy: VecDeque::new(),
            strategy,
            show_loads: shards > 1 && strategy == Strategy::LeastInFlight,
            kept: Chunks::new(),
            loads: Chunks::new(),
            last_generation: 0,
            seed,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.groups.len()
    }

    pub(super) fn find(&self, node: u32, share: &str) -> Option<u32> {
        let share = *self.shares.by_name.get(share)?;
        let is_it = |&index: &u32| {
            let group = &self.groups[index];
            group.node == node && group.share == share
        };
        self.table.find(hash(self.seed, node, share), is_it).copied()
    }

    /// A new group without members; its link in the node's list is yet to be set.
    pub(super) fn insert(&mut self, node: u32, share: &str) -> u32 {
        self.last_generation = self.last_generation.checked_add(1).unwrap_or(1);
        let share = self.shares.acquire(share);
        let index = self.groups.insert(Group {
            node,
            link: NIL,
            share,
            generation: self.last_generation,
            online: 0,
            member_cursor: 0,
            shard_cursor: 0,
            indexed: false,
            is_news: false,
            is_busy: false,
            leaving: 0,
            members: SmallVec::new(),
            remote: Box::default(),
        });
        if self.strategy == Strategy::Sticky {
            set(&mut self.kept, index, Kept::NOBODY, || Kept::NOBODY);
        }
        if self.show_loads {
            set(&mut self.loads, index, GroupLoad::default(), GroupLoad::default);
        }
        let Self { groups, table, seed, .. } = self;
        let rehash = |&index: &u32| hash(*seed, groups[index].node, groups[index].share);
        table.insert_unique(hash(*seed, node, share), index, rehash);
        index
    }

    pub(super) fn remove(&mut self, index: u32) {
        let Group { node, share, .. } = self.groups[index];
        let hash = hash(self.seed, node, share);
        if let Ok(found) = self.table.find_entry(hash, |&other| other == index) {
            found.remove();
        }
        self.shares.release(share);
        self.groups.remove(index);
    }

    pub(super) fn group(&self, index: u32) -> &Group {
        &self.groups[index]
    }

    pub(super) fn group_mut(&mut self, index: u32) -> &mut Group {
        &mut self.groups[index]
    }

    /// The group with this number, if there is one.
    pub(super) fn get(&self, index: u32) -> Option<&Group> {
        self.groups.get(index).filter(|group| group.generation != 0)
    }

    pub(super) fn id(&self, index: u32) -> GroupId {
        GroupId { index, generation: self.groups[index].generation }
    }

    /// The group an id names, unless it is gone.
    #[inline]
    pub(super) fn resolve(&self, id: GroupId) -> Option<u32> {
        let group = self.groups.get(id.index)?;
        (group.generation == id.generation && id.generation != 0).then_some(id.index)
    }

    pub(super) fn share(&self, index: u32) -> &str {
        self.shares.names.get(self.groups[index].share as usize).map_or("", |share| &share.name)
    }

    /// Nobody here and nobody elsewhere.
    pub(super) fn is_unused(&self, index: u32) -> bool {
        let group = &self.groups[index];
        group.members.is_empty() && group.remote.is_empty() && group.leaving == 0
    }

    pub(super) fn member(
        &self,
        subs: &Subscriptions,
        index: u32,
        session: SessionKey,
    ) -> Option<u32> {
        let group = &self.groups[index];
        if group.indexed {
            return subs.index_find(Owner::Group(index), session);
        }
        group.members.iter().find(|member| member.session == session).map(|member| member.entry)
    }

    /// Adds a member, connected.
    pub(super) fn join(
        &mut self,
        subs: &mut Subscriptions,
        index: u32,
        session: SessionKey,
        granted: Granted,
    ) -> u32 {
        let entry = subs.insert_member(index, session, granted);
        let group = &mut self.groups[index];
        subs.set_position(entry, group.members.len());
        if group.members.is_empty() {
            // Most groups stay small: no spare room.
            group.members.reserve_exact(1);
        }
        group.members.push(Member { session, entry });
        if group.indexed {
            subs.index_insert(entry);
        } else if group.members.len() > SEARCH_AT_MOST {
            group.indexed = true;
            group.members.iter().for_each(|member| subs.index_insert(member.entry));
        }
        self.set_online(subs, index, entry, true);
        entry
    }

    pub(super) fn leave(&mut self, subs: &mut Subscriptions, index: u32, entry: u32) {
        if subs.position(entry) != NIL {
            self.take_out(subs, index, entry);
        }
        self.groups[index].leaving -= 1;
        subs.remove_member(entry);
    }

    /// Makes a member one no more, whose entry stays until it [leaves](Self::leave).
    pub(super) fn take_out(&mut self, subs: &mut Subscriptions, index: u32, entry: u32) {
        self.set_online(subs, index, entry, false);
        let group = &mut self.groups[index];
        let position = subs.position(entry) as usize;
        group.members.swap_remove(position);
        if let Some(moved) = group.members.get(position) {
            subs.set_position(moved.entry, position);
        }
        if group.indexed {
            subs.index_remove(entry);
            group.indexed = !group.members.is_empty();
        }
        group.leaving += 1;
        subs.set_position(entry, NIL as usize);
        self.members_changed(subs, index);
    }

    /// Has `Sticky` keep to another member here if the one it keeps to has left, or is not connected and
    /// others are.
    fn members_changed(&mut self, subs: &Subscriptions, index: u32) {
        let group = &self.groups[index];
        if let Some(kept) = self.kept.get_mut(index as usize)
            && (kept.entry == NIL || subs.position(kept.entry) as usize >= group.first())
        {
            let elsewhere = group.remote.iter().map(|one| one.since).max();
            kept.since = kept.since.max(elsewhere.unwrap_or(0)).saturating_add(1);
            kept.entry = group.members.first().map_or(NIL, |member| member.entry);
        }
        self.add_busy(index);
    }

    /// Whom `Sticky` keeps to.
    pub(super) fn kept(&self, index: u32) -> Kept {
        self.kept.get(index as usize).copied().unwrap_or(Kept::NOBODY)
    }

    /// How busy the members here are, if other shards see it.
    pub(super) fn load(&self, index: u32) -> Option<&GroupLoad> {
        self.loads.get(index as usize)
    }

    /// How shared groups choose.
    #[inline]
    pub(super) fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// Whether other shards see how busy the members here are.
    #[inline]
    pub(super) fn show_loads(&self) -> bool {
        self.show_loads
    }

    /// The load of a group has to be measured.
    pub(super) fn add_busy(&mut self, index: u32) {
        let group = &mut self.groups[index];
        if self.show_loads && !std::mem::replace(&mut group.is_busy, true) {
            self.busy.push_back(index);
        }
    }

    pub(super) fn busy_count(&self) -> usize {
        self.busy.len()
    }

    /// The next group whose load has to be measured.
    pub(super) fn next_busy(&mut self) -> Option<u32> {
        while let Some(index) = self.busy.pop_front() {
            // One that is gone may have left its place to another.
            if self.get(index).is_some_and(|group| group.is_busy) {
                self.groups[index].is_busy = false;
                return Some(index);
            }
        }
        self.busy = VecDeque::new();
        None
    }

    /// The other shards have to be told of a group.
    pub(super) fn add_news(&mut self, index: u32) {
        let group = &mut self.groups[index];
        if !std::mem::replace(&mut group.is_news, true) {
            self.news.push_back(index);
        }
    }

    pub(super) fn has_news(&self) -> bool {
        !self.news.is_empty()
    }

    /// The next group that the other shards have to be told of.
    pub(super) fn next_news(&mut self) -> Option<u32> {
        while let Some(index) = self.news.pop_front() {
            // One that is gone was told of when it went, and its place may be another's.
            if self.take_news(index) {
                return Some(index);
            }
        }
        self.news = VecDeque::new();
        None
    }

    /// Whether the other shards have to be told of a group; they are now.
    pub(super) fn take_news(&mut self, index: u32) -> bool {
        let news = self.get(index).is_some_and(|group| group.is_news);
        if news {
            self.groups[index].is_news = false;
        }
        news
    }

    /// Says whether a member is connected. Gives whether that is news.
    pub(super) fn set_online(
        &mut self,
        subs: &mut Subscriptions,
        index: u32,
        entry: u32,
        online: bool,
    ) -> bool {
        let group = &mut self.groups[index];
        let position = subs.position(entry) as usize;
        if (position < group.online as usize) == online {
            return false;
        }
        // The border moves by one, past the member that changes sides.
        let border = if online { group.online } else { group.online - 1 } as usize;
        group.members.swap(position, border);
        for place in [position, border] {
            subs.set_position(group.members[place].entry, place);
        }
        group.online = if online { group.online + 1 } else { group.online - 1 };
        if online && group.online == 1 {
            // Others may have been kept to while nobody was connected here.
            if let Some(kept) = self.kept.get_mut(index as usize) {
                kept.entry = NIL;
            }
        }
        self.members_changed(subs, index);
        true
    }

    /// Says how many members another shard has.
    pub(super) fn set_remote(&mut self, index: u32, remote: Remote) {
        let list = &mut self.groups[index].remote;
        if remote.members > 0
            && let Some(known) = list.iter_mut().find(|one| one.shard == remote.shard)
        {
            *known = remote;
            return;
        }
        // Boxed without room to spare, because there may be a million groups.
        let mut shards = std::mem::take(list).into_vec();
        shards.retain(|one| one.shard != remote.shard);
        if remote.members > 0 {
            let place = shards.partition_point(|one| one.shard < remote.shard);
            shards.insert(place, remote);
        }
        *list = shards.into_boxed_slice();
    }

    /// What a group takes, its name left out.
    fn group_bytes(&self) -> usize {
        let kept = if self.strategy == Strategy::Sticky { size_of::<Kept>() } else { 0 };
        let load = if self.show_loads { GroupLoad::BYTES } else { 0 };
        size_of::<Group>() + 2 * size_of::<u32>() + kept + load
    }

    /// The most that a group of this name adds to [`counted_bytes`](Self::counted_bytes).
    pub(super) fn most_bytes(&self, share: &str) -> usize {
        self.group_bytes() + Shares::bytes_of(share)
    }

    /// About the bytes that groups take, those of their members that do not stand in them left out.
    pub(super) fn counted_bytes(&self) -> usize {
        self.len() * self.group_bytes() + self.shares.counted_bytes
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let one = |group: &Group| {
            let spilled = if group.members.spilled() { group.members.capacity() } else { 0 };
            spilled * size_of::<Member>() + group.remote.len() * size_of::<Remote>()
        };
        let each: usize = self.table.iter().map(|&index| one(&self.groups[index])).sum();
        let lists = (self.news.capacity() + self.busy.capacity()) * size_of::<u32>();
        let loads = self.loads.len() * GroupLoad::BYTES;
        lists
            + loads
            + self.kept.len() * size_of::<Kept>()
            + self.groups.heap_bytes()
            + self.table.allocation_size()
            + each
            + self.shares.heap_bytes()
    }
}

/// Sets the value at an index, filling up what is missing before it.
fn set<T>(list: &mut Chunks<T>, index: u32, value: T, filler: impl Fn() -> T) {
    while list.len() <= index as usize {
        list.push(filler());
    }
    list[index as usize] = value;
}

fn hash(seed: Seed, node: u32, share: u32) -> u64 {
    spread(seed.pair(u64::from(node) << 32 | 2, share) as u32)
}

/// The names of groups, each kept once however many filters it is used with.
#[derive(Debug)]
struct Shares {
    /// About what the names take.
    counted_bytes: usize,
    by_name: HashMap<Box<str>, u32, foldhash::fast::RandomState>,
    names: Vec<Share>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Share {
    name: Box<str>,
    groups: u32,
}

impl Shares {
    /// What a name takes, which is there twice.
    fn bytes_of(name: &str) -> usize {
        2 * (name.len() + 2 * size_of::<Share>())
    }

    fn acquire(&mut self, name: &str) -> u32 {
        if let Some(&index) = self.by_name.get(name) {
            self.names[index as usize].groups += 1;
            return index;
        }
        self.counted_bytes += Self::bytes_of(name);
        let share = Share { name: name.into(), groups: 1 };
        let index = match self.free.pop() {
            Some(index) => {
                self.names[index as usize] = share;
                index
            }
            None => {
                self.names.push(share);
                self.names.len() as u32 - 1
            }
        };
        self.by_name.insert(name.into(), index);
        index
    }

    fn release(&mut self, index: u32) {
        let share = &mut self.names[index as usize];
        share.groups -= 1;
        if share.groups == 0 {
            self.counted_bytes -= Self::bytes_of(&share.name);
            self.by_name.remove(&*std::mem::take(&mut share.name));
            self.free.push(index);
        }
    }

    fn heap_bytes(&self) -> usize {
        let texts: usize = self.names.iter().map(|share| 2 * share.name.len()).sum();
        self.by_name.allocation_size() + self.names.capacity() * size_of::<Share>() + texts
    }
}
