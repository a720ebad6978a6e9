//! The trie of topic filters: one compact node a level, found by (parent, level text) in one table.

use hashbrown::{HashMap, HashTable};

use super::hash::{Seed, shrink_sparse, spread};
use super::slab::{NIL, Slab, Vacant};
use crate::mqtt::topic;

/// The node all filters begin at; it never goes away.
pub(super) const ROOT: u32 = 0;

/// The table is split so that growing it never halts the loop for long.
const SEGMENTS: usize = 64;

const HAS_HASH: u32 = 1 << 31;
const INDEXED: u32 = 1 << 30;
const WANTED: u32 = 1 << 29;
const COUNT: u32 = WANTED - 1;

/// One level of one or more filters; 32 bytes.
#[derive(Debug)]
pub(super) struct Node {
    text: Text,
    parent: u32,
    /// The child `+`.
    plus: u32,
    /// How many children there are, and flags.
    children: u32,
    /// The local subscriptions of the filter ending here.
    pub(super) list: u32,
}

impl Node {
    fn new(parent: u32, text: &[u8]) -> Self {
        Self { text: Text::new(text), parent, plus: NIL, children: 0, list: NIL }
    }

    fn is_unused(&self) -> bool {
        self.children & COUNT == 0 && self.is_no_filter()
    }

    /// Whether no filter that anybody wants ends here.
    #[inline]
    fn is_no_filter(&self) -> bool {
        self.list == NIL && !self.is_wanted()
    }

    /// Whether [`Trie::interest`] has something to say.
    #[inline]
    fn is_wanted(&self) -> bool {
        self.children & WANTED != 0
    }

    #[inline]
    fn has_hash(&self) -> bool {
        self.children & HAS_HASH != 0
    }

    #[inline]
    fn has_literals(&self) -> bool {
        self.children & COUNT > u32::from(self.plus != NIL) + u32::from(self.has_hash())
    }

    /// Whether the subscriptions of the list are in the index by session.
    pub(super) fn is_indexed(&self) -> bool {
        self.children & INDEXED != 0
    }

    pub(super) fn set_indexed(&mut self, indexed: bool) {
        self.children = if indexed { self.children | INDEXED } else { self.children & !INDEXED };
    }
}

impl Vacant for Node {
    fn vacate(&mut self, next: u32) {
        *self = Self::new(next, b"");
    }

    fn next_vacant(&self) -> u32 {
        self.parent
    }
}

/// The longest text without an allocation.
const SHORT: usize = 14;

/// A level's text in 16 bytes; short ones, which most are, without an allocation.
#[derive(Debug)]
enum Text {
    Short(u8, [u8; SHORT]),
    Long(Box<Box<[u8]>>),
}

impl Text {
    fn new(text: &[u8]) -> Self {
        let mut bytes = [0; SHORT];
        match bytes.get_mut(..text.len()) {
            Some(place) => {
                place.copy_from_slice(text);
                Self::Short(text.len() as u8, bytes)
            }
            None => Self::Long(Box::new(text.into())),
        }
    }

    #[inline]
    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short(len, bytes) => bytes.get(..usize::from(*len)).unwrap_or_default(),
            Self::Long(bytes) => bytes,
        }
    }

    fn heap_bytes(&self) -> usize {
        match self {
            Self::Short(..) => 0,
            Self::Long(bytes) => Self::long_bytes(bytes.len()),
        }
    }

    /// What a text of this length takes on the heap.
    fn bytes_of(len: usize) -> usize {
        if len <= SHORT { 0 } else { Self::long_bytes(len) }
    }

    /// The fat pointer's own allocation, and the text in the allocator's granularity.
    fn long_bytes(len: usize) -> usize {
        16 + len.next_multiple_of(16)
    }
}

#[derive(Clone, Copy, Debug)]
struct Key {
    hash: u32,
    node: u32,
}

#[derive(Debug)]
pub(super) struct Trie {
    nodes: Slab<Node>,
    table: Box<[HashTable<Key>]>,
    /// The other shards, one bit each, that want what the filter ending at a node matches. Few nodes
    /// have any: those of filters that `Foreign` has no place for.
    interest: HashMap<u32, u64, foldhash::fast::RandomState>,
    seed: Seed,
    hash_level: u64,
    long_texts: usize,
}

/// The states of a walk, kept so that matching allocates nothing.
#[derive(Debug, Default)]
pub(super) struct Walk {
    here: Vec<u32>,
    next: Vec<u32>,
}

impl Walk {
    pub(super) fn shrink_to(&mut self, capacity: usize) {
        for nodes in [&mut self.here, &mut self.next] {
            nodes.clear();
            nodes.shrink_to(capacity);
        }
    }
}

impl Trie {
    pub(super) fn new(seed: Seed) -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::new(NIL, b""));
        let table = (0..SEGMENTS).map(|_| HashTable::new()).collect();
        let interest = HashMap::default();
        Self { nodes, table, interest, seed, hash_level: seed.hash(b"#"), long_texts: 0 }
    }

    pub(super) fn node(&self, index: u32) -> &Node {
        &self.nodes[index]
    }

    pub(super) fn node_mut(&mut self, index: u32) -> &mut Node {
        &mut self.nodes[index]
    }

    /// The shards that want what the filter ending at a node matches.
    #[inline]
    pub(super) fn interest(&self, index: u32) -> u64 {
        if !self.nodes[index].is_wanted() {
            return 0;
        }
        self.interest.get(&index).copied().unwrap_or_default()
    }

    /// Adds a shard, one bit, to those that want a filter.
    pub(super) fn add_interest(&mut self, filter: &str, shard: u64) {
        let index = self.insert(filter);
        self.nodes[index].children |= WANTED;
        *self.interest.entry(index).or_default() |= shard;
    }

    /// Takes a shard out of those that want a filter; false if it is not among them.
    pub(super) fn remove_interest(&mut self, filter: &str, shard: u64) -> bool {
        if self.interest.is_empty() {
            return false;
        }
        let Some(index) = self.find(filter) else { return false };
        let Some(shards) = self.interest.get_mut(&index).filter(|all| **all & shard != 0) else {
            return false;
        };
        *shards &= !shard;
        if *shards == 0 {
            self.interest.remove(&index);
            self.nodes[index].children &= !WANTED;
            self.prune(index);
        }
        true
    }

    /// The node of a filter, made if there is none.
    pub(super) fn insert(&mut self, filter: &str) -> u32 {
        levels(filter).fold(ROOT, |node, level| self.child_or_insert(node, level))
    }

    /// The node of a filter.
    pub(super) fn find(&self, filter: &str) -> Option<u32> {
        levels(filter).try_fold(ROOT, |node, level| match level {
            b"+" => Some(self.nodes[node].plus).filter(|&plus| plus != NIL),
            _ => self.child(node, level, self.seed.hash(level)),
        })
    }

    /// Frees a node, and those above it, as far as nothing uses them.
    pub(super) fn prune(&mut self, mut index: u32) {
        while index != ROOT && self.nodes[index].is_unused() {
            let parent = self.nodes[index].parent;
            self.detach(index, parent);
            self.long_texts -= self.nodes[index].text.heap_bytes();
            self.nodes.remove(index);
            index = parent;
        }
    }

    /// The text of the filter that ends at a node.
    pub(super) fn filter(&self, mut index: u32) -> String {
        let mut levels = Vec::new();
        while index != ROOT {
            levels.push(self.nodes[index].text.as_bytes());
            index = self.nodes[index].parent;
        }
        levels.reverse();
        String::from_utf8_lossy(&levels.join(&b'/')).into_owned()
    }

    /// Calls `found` with the node of each filter that matches the topic and is in use, once.
    ///
    /// The work is bounded by the number of nodes that match a prefix of the topic.
    /// No filter that starts with a wildcard matches a topic that starts with `$`. [MQTT-4.7.2-1]
    pub(super) fn matches(&self, topic: &str, walk: &mut Walk, mut found: impl FnMut(u32, &Node)) {
        let Walk { here, next } = walk;
        here.clear();
        here.push(ROOT);
        let mut wildcards = !topic.starts_with('$');
        for level in levels(topic) {
            let hash = self.seed.hash(level);
            next.clear();
            for &index in here.iter() {
                let node = &self.nodes[index];
                if wildcards {
                    if node.has_hash() {
                        self.found_hash(index, &mut found);
                    }
                    if node.plus != NIL {
                        next.push(node.plus);
                    }
                }
                if node.has_literals() {
                    next.extend(self.child(index, level, hash));
                }
            }
            if next.is_empty() {
                return;
            }
            wildcards = true;
            std::mem::swap(here, next);
        }
        for &index in here.iter() {
            let node = &self.nodes[index];
            if !node.is_no_filter() {
                found(index, node);
            }
            // `a/#` matches `a` as well.
            if node.has_hash() {
                self.found_hash(index, &mut found);
            }
        }
    }

    /// Bytes on the heap, the allocator's own overhead left out.
    pub(super) fn heap_bytes(&self) -> usize {
        let table: usize = self.table.iter().map(HashTable::allocation_size).sum();
        self.nodes.heap_bytes() + table + self.interest.allocation_size() + self.long_texts
    }

    /// About the bytes that its nodes take, however many were there before.
    pub(super) fn counted_bytes(&self) -> usize {
        self.node_count() * (size_of::<Node>() + 2 * size_of::<Key>()) + self.long_texts
    }

    /// The most that a filter adds to [`counted_bytes`](Self::counted_bytes).
    pub(super) fn most_bytes(filter: &str) -> usize {
        let one =
            |level: &str| size_of::<Node>() + 2 * size_of::<Key>() + Text::bytes_of(level.len());
        topic::levels(filter).map(one).sum()
    }

    /// How many nodes there are, the root left out.
    pub(super) fn node_count(&self) -> usize {
        self.nodes.len() - 1
    }

    #[inline]
    fn found_hash(&self, parent: u32, found: &mut impl FnMut(u32, &Node)) {
        if let Some(index) = self.child(parent, b"#", self.hash_level) {
            found(index, &self.nodes[index]);
        }
    }

    #[inline]
    fn child(&self, parent: u32, level: &[u8], level_hash: u64) -> Option<u32> {
        let hash = self.seed.pair(level_hash, parent) as u32;
        let is_it = |key: &Key| {
            key.hash == hash && {
                let node = &self.nodes[key.node];
                node.parent == parent && node.text.as_bytes() == level
            }
        };
        self.table[segment(hash)].find(spread(hash), is_it).map(|key| key.node)
    }

    fn child_or_insert(&mut self, parent: u32, level: &[u8]) -> u32 {
        let level_hash = self.seed.hash(level);
        let existing = match level {
            b"+" => Some(self.nodes[parent].plus).filter(|&plus| plus != NIL),
            _ => self.child(parent, level, level_hash),
        };
        if let Some(index) = existing {
            return index;
        }
        let node = Node::new(parent, level);
        self.long_texts += node.text.heap_bytes();
        let index = self.nodes.insert(node);
        let above = &mut self.nodes[parent];
        above.children += 1;
        if level == b"+" {
            above.plus = index;
            return index;
        }
        if level == b"#" {
            above.children |= HAS_HASH;
        }
        let hash = self.seed.pair(level_hash, parent) as u32;
        let key = Key { hash, node: index };
        self.table[segment(hash)].insert_unique(spread(hash), key, |key| spread(key.hash));
        index
    }

    fn detach(&mut self, index: u32, parent: u32) {
        let level = self.nodes[index].text.as_bytes();
        if level == b"+" {
            self.nodes[parent].plus = NIL;
        } else {
            let is_hash = level == b"#";
            let hash = self.seed.pair(self.seed.hash(level), parent) as u32;
            let table = &mut self.table[segment(hash)];
            if let Ok(entry) = table.find_entry(spread(hash), |key| key.node == index) {
                entry.remove();
            }
            shrink_sparse(table, |key| spread(key.hash));
            if is_hash {
                self.nodes[parent].children &= !HAS_HASH;
            }
        }
        self.nodes[parent].children -= 1;
    }
}

fn segment(hash: u32) -> usize {
    (hash >> 26) as usize
}

fn levels(text: &str) -> impl Iterator<Item = &[u8]> {
    text.as_bytes().split(|&byte| byte == b'/')
}
