//! The subscriptions of this shard's sessions: a list at each trie node, 24 bytes a subscription.

use hashbrown::HashTable;

use super::hash::{Seed, spread};
use super::slab::{NIL, Slab, Vacant};
use super::{SessionKey, SubscriptionHandle, SubscriptionOptions};
use crate::mqtt::QoS;

/// A list longer than this is looked up by session in the index, not searched.
pub(super) const SEARCH_AT_MOST: usize = 16;

/// Session keys that say what else an entry is.
const VACANT: SessionKey = u32::MAX;
const GROUP_LINK: SessionKey = u32::MAX - 1;

const GROUP: u32 = 1 << 31;

/// Options as granted, in four bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted(u32);

impl Granted {
    pub(super) fn new(options: &SubscriptionOptions) -> Self {
        // Identifiers have 28 bits [3.8.2.1.2].
        let identifier = options.identifier.map_or(0, |identifier| identifier.get() << 4);
        Self(
            identifier
                | u32::from(options.qos.as_u8())
                | u32::from(options.no_local) << 2
                | u32::from(options.retain_as_published) << 3,
        )
    }

    #[inline]
    pub(super) fn qos(self) -> QoS {
        match self.0 & 3 {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        }
    }

    #[inline]
    pub(super) fn no_local(self) -> bool {
        self.0 & 4 != 0
    }

    #[inline]
    pub(super) fn retain_as_published(self) -> bool {
        self.0 & 8 != 0
    }

    #[inline]
    pub(super) fn identifier(self) -> Option<u32> {
        (self.0 >> 4 != 0).then_some(self.0 >> 4)
    }
}

/// What a subscription belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// The trie node of a plain filter.
    Node(u32),
    /// A shared group.
    Group(u32),
}

impl Owner {
    fn bits(self) -> u32 {
        match self {
            Self::Node(node) => node,
            Self::Group(group) => group | GROUP,
        }
    }

    fn from_bits(bits: u32) -> Self {
        if bits & GROUP == 0 { Self::Node(bits) } else { Self::Group(bits & !GROUP) }
    }
}

/// A subscription, or the link of a group in the list of its node.
#[derive(Debug)]
struct Entry {
    owner: u32,
    session: SessionKey,
    /// `Granted`; of a link, the group.
    value: u32,
    /// Neighbours in the circular list of a node; of a group's member `next` is its position there.
    next: u32,
    prev: u32,
    /// Where its session keeps the handle.
    place: u32,
}

impl Vacant for Entry {
    fn vacate(&mut self, next: u32) {
        self.session = VACANT;
        self.next = next;
    }

    fn next_vacant(&self) -> u32 {
        self.next
    }
}

/// What stands in the list of a node.
#[derive(Clone, Copy, Debug)]
pub(super) enum Listed {
    Plain(SessionKey, Granted),
    Group(u32),
}

#[derive(Debug)]
pub(super) struct Subscriptions {
    entries: Slab<Entry>,
    /// Entries of long lists, by owner and session.
    index: HashTable<u32>,
    links: usize,
    seed: Seed,
}

impl Subscriptions {
    /// What an entry takes.
    pub(super) const ENTRY_BYTES: usize = size_of::<Entry>() + 2 * size_of::<SubscriptionHandle>();

    pub(super) fn new(seed: Seed) -> Self {
        Self { entries: Slab::new(), index: HashTable::new(), links: 0, seed }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.links
    }

    /// The owner and options of a session's subscription; `None` if the handle is not the session's.
    pub(super) fn get(
        &self,
        session: SessionKey,
        handle: SubscriptionHandle,
    ) -> Option<(Owner, Granted)> {
        let entry = self.entries.get(handle.0)?;
        let is_its_own = entry.session == session && session < GROUP_LINK;
        is_its_own.then(|| (Owner::from_bits(entry.owner), Granted(entry.value)))
    }

    pub(super) fn session(&self, entry: u32) -> SessionKey {
        self.entries[entry].session
    }

    pub(super) fn granted(&self, entry: u32) -> Granted {
        Granted(self.entries[entry].value)
    }

    pub(super) fn set_granted(&mut self, entry: u32, granted: Granted) {
        self.entries[entry].value = granted.0;
    }

    /// Where the session of a subscription keeps its handle.
    pub(super) fn place(&self, entry: u32) -> usize {
        self.entries[entry].place as usize
    }

    pub(super) fn set_place(&mut self, entry: u32, place: usize) {
        self.entries[entry].place = place as u32;
    }

    /// The position of a member in its group.
    pub(super) fn position(&self, entry: u32) -> u32 {
        self.entries[entry].next
    }

    pub(super) fn set_position(&mut self, entry: u32, position: usize) {
        self.entries[entry].next = position as u32;
    }

    /// A new entry for a member of a group.
    pub(super) fn insert_member(
        &mut self,
        group: u32,
        session: SessionKey,
        granted: Granted,
    ) -> u32 {
        let owner = Owner::Group(group).bits();
        self.entries.insert(Entry {
            owner,
            session,
            value: granted.0,
            next: 0,
            prev: NIL,
            place: NIL,
        })
    }

    pub(super) fn remove_member(&mut self, entry: u32) {
        self.entries.remove(entry);
    }

    /// A new plain subscription; plain ones stand before the links of groups. Gives the list's head.
    pub(super) fn push_plain(
        &mut self,
        head: u32,
        node: u32,
        session: SessionKey,
        granted: Granted,
    ) -> u32 {
        let entry =
            Entry { owner: node, session, value: granted.0, next: NIL, prev: NIL, place: NIL };
        let entry = self.entries.insert(entry);
        self.link_before(head, entry);
        entry
    }

    /// Puts a group into the list of its node, last. Gives the link and the list's head.
    pub(super) fn push_group(&mut self, head: u32, node: u32, group: u32) -> (u32, u32) {
        let entry = Entry {
            owner: node,
            session: GROUP_LINK,
            value: group,
            next: NIL,
            prev: NIL,
            place: NIL,
        };
        let entry = self.entries.insert(entry);
        self.link_before(head, entry);
        self.links += 1;
        (entry, if head == NIL { entry } else { head })
    }

    /// Takes an entry out of its list and frees it. Gives the list's head.
    pub(super) fn unlink(&mut self, head: u32, entry: u32) -> u32 {
        let Entry { next, prev, session, .. } = self.entries[entry];
        self.links -= usize::from(session == GROUP_LINK);
        self.entries.remove(entry);
        if next == entry {
            return NIL;
        }
        self.entries[next].prev = prev;
        self.entries[prev].next = next;
        if head == entry { next } else { head }
    }

    /// Whether the list holds a plain subscription: if so, the first one is.
    pub(super) fn has_plain(&self, head: u32) -> bool {
        head != NIL && self.entries[head].session != GROUP_LINK
    }

    /// What stands in a list.
    pub(super) fn list(&self, head: u32) -> impl Iterator<Item = Listed> {
        self.walk(head).map(|entry| {
            let Entry { session, value, .. } = self.entries[entry];
            match session {
                GROUP_LINK => Listed::Group(value),
                _ => Listed::Plain(session, Granted(value)),
            }
        })
    }

    /// The plain subscriptions of a list.
    pub(super) fn plain(&self, head: u32) -> impl Iterator<Item = u32> {
        self.walk(head).take_while(|&entry| self.entries[entry].session != GROUP_LINK)
    }

    pub(super) fn index_find(&self, owner: Owner, session: SessionKey) -> Option<u32> {
        let owner = owner.bits();
        let is_it = |&entry: &u32| {
            let entry = &self.entries[entry];
            entry.owner == owner && entry.session == session
        };
        self.index.find(self.hash(owner, session), is_it).copied()
    }

    pub(super) fn index_insert(&mut self, entry: u32) {
        let Self { entries, index, seed, .. } = self;
        let hash = |&entry: &u32| hash(*seed, entries[entry].owner, entries[entry].session);
        index.insert_unique(hash(&entry), entry, hash);
    }

    /// To be called before the entry is freed.
    pub(super) fn index_remove(&mut self, entry: u32) {
        let Entry { owner, session, .. } = self.entries[entry];
        let hash = self.hash(owner, session);
        if let Ok(found) = self.index.find_entry(hash, |&other| other == entry) {
            found.remove();
        }
    }

    /// About the bytes that its entries take, and their handles with the sessions.
    pub(super) fn counted_bytes(&self) -> usize {
        self.entries.len() * Self::ENTRY_BYTES
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.entries.heap_bytes() + self.index.allocation_size()
    }

    fn walk(&self, head: u32) -> impl Iterator<Item = u32> {
        let first = (head != NIL).then_some(head);
        std::iter::successors(first, move |&entry| {
            Some(self.entries[entry].next).filter(|&next| next != head)
        })
    }

    /// Between the head of a circular list and its last entry.
    fn link_before(&mut self, head: u32, entry: u32) {
        let (next, prev) = match head {
            NIL => (entry, entry),
            _ => (head, self.entries[head].prev),
        };
        self.entries[entry].next = next;
        self.entries[entry].prev = prev;
        self.entries[next].prev = entry;
        self.entries[prev].next = entry;
    }

    fn hash(&self, owner: u32, session: SessionKey) -> u64 {
        hash(self.seed, owner, session)
    }
}

fn hash(seed: Seed, owner: u32, session: SessionKey) -> u64 {
    spread(seed.pair(u64::from(owner) << 32 | 1, session) as u32)
}
