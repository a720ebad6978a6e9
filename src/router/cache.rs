//! The route cache: topics seen lately and their routes, bounded in entries and bytes.

use std::cell::Cell;

use hashbrown::HashTable;

use super::hash::Seed;
use super::route::Route;
use super::slab::NIL;

/// Names a cached route; stale once it was computed anew or gave way to another, and then harmless.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteId {
    index: u32,
    generation: u32,
}

impl RouteId {
    /// No route: never valid.
    pub const NONE: Self = Self { index: NIL, generation: 0 };
}

/// Counters of changed wildcard filters, by what they begin with.
const PREFIXES: usize = 4096;

/// The most entries one eviction passes over for having been used.
const LOOK_AT_MOST: usize = 64;

/// An evicted route's buffers are kept for the next one up to this size.
const KEEP_BYTES: usize = 1024;

#[derive(Debug)]
#[repr(C)]
struct Entry {
    generation: u32,
    /// Of the prefix's counter when this was computed.
    prefix_changes: u32,
    /// Of the cache's counter when this was computed; 0: changed since.
    changes: u64,
    prefix: u16,
    /// Since the clock's hand last came by.
    used: Cell<bool>,
    route: Route,
    hash: u64,
    bytes: usize,
}

/// Where `Cache::find` left off.
pub(super) enum Found {
    /// It is there and nothing changed since.
    Valid(RouteId),
    /// It has a place, and is to be computed.
    Stale(u32),
    Missing,
}

#[derive(Debug)]
pub(super) struct Cache {
    /// Changes of filters that may match anything.
    changes: u64,
    prefix_changes: Box<[u32]>,
    entries: Vec<Entry>,
    /// Places without a topic.
    free: Vec<u32>,
    table: HashTable<u32>,
    hand: usize,
    bytes: usize,
    max_entries: usize,
    max_bytes: usize,
    empty: Route,
    last_generation: u32,
    seed: Seed,
}

impl Cache {
    pub(super) fn new(seed: Seed, max_entries: usize, max_bytes: usize) -> Self {
        Self {
            changes: 1,
            prefix_changes: vec![0; PREFIXES].into_boxed_slice(),
            entries: Vec::new(),
            free: Vec::new(),
            table: HashTable::new(),
            hand: 0,
            bytes: 0,
            max_entries: max_entries.clamp(1, NIL as usize),
            max_bytes,
            empty: Route::default(),
            last_generation: 0,
            seed,
        }
    }

    #[inline]
    pub(super) fn recall(&self, id: RouteId, topic: &[u8]) -> bool {
        let Some(entry) = self.entries.get(id.index as usize) else { return false };
        let is_it = entry.generation == id.generation
            && self.is_valid(entry)
            && entry.route.topic.as_bytes() == topic;
        if is_it && !entry.used.get() {
            entry.used.set(true);
        }
        is_it
    }

    #[inline]
    pub(super) fn get(&self, id: RouteId) -> &Route {
        let entry = self.entries.get(id.index as usize);
        entry.filter(|entry| entry.generation == id.generation).map_or(&self.empty, |e| &e.route)
    }

    pub(super) fn hash(&self, topic: &str) -> u64 {
        self.seed.hash(topic.as_bytes())
    }

    pub(super) fn find(&self, hash: u64, topic: &str) -> Found {
        let Some(index) = self.position(hash, topic) else { return Found::Missing };
        let entry = &self.entries[index as usize];
        entry.used.set(true);
        if self.is_valid(entry) {
            Found::Valid(RouteId { index, generation: entry.generation })
        } else {
            Found::Stale(index)
        }
    }

    /// Makes a place for a topic that has none, if need be another's.
    pub(super) fn admit(&mut self, hash: u64, topic: &str) -> u32 {
        let prefix = self.prefix(topic) as u16;
        let index = if let Some(index) = self.free.pop() {
            index as usize
        } else if self.entries.len() < self.max_entries {
            self.entries.push(Entry {
                generation: 0,
                prefix_changes: 0,
                changes: 0,
                prefix,
                used: Cell::new(false),
                route: Route::default(),
                hash,
                bytes: 0,
            });
            self.entries.len() - 1
        } else {
            self.make_way()
        };
        let entry = &mut self.entries[index];
        entry.hash = hash;
        entry.prefix = prefix;
        entry.route.topic.clear();
        entry.route.topic.push_str(topic);
        let entries = &self.entries;
        let index = index as u32;
        self.table.insert_unique(hash, index, |&index| entries[index as usize].hash);
        index
    }

    /// Has `compute` fill in a route, and then keeps the whole within its bytes.
    pub(super) fn refresh(&mut self, index: u32, compute: impl FnOnce(&mut Route)) -> RouteId {
        self.last_generation = self.last_generation.checked_add(1).unwrap_or(1);
        let entry = &mut self.entries[index as usize];
        entry.generation = self.last_generation;
        entry.changes = self.changes;
        entry.prefix_changes = self.prefix_changes[usize::from(entry.prefix)];
        entry.route.clear();
        compute(&mut entry.route);
        let bytes = entry.route.heap_bytes();
        self.bytes = self.bytes - entry.bytes + bytes;
        entry.bytes = bytes;
        let id = RouteId { index, generation: self.last_generation };
        if self.bytes > self.max_bytes {
            self.shrink(index as usize);
        }
        id
    }

    /// Has the routes that a filter without wildcards matches, that is one, be computed anew.
    pub(super) fn invalidate_topic(&mut self, topic: &str) {
        if self.table.is_empty() {
            return;
        }
        if let Some(index) = self.position(self.hash(topic), topic) {
            self.entries[index as usize].changes = 0;
        }
    }

    /// Has the routes that a filter with wildcards may match be computed anew: those that share
    /// its first two levels, or all if a wildcard stands there.
    pub(super) fn invalidate_filter(&mut self, filter: &str) {
        let mut levels = filter.split('/');
        let is_literal = |level: Option<&str>| level.is_some_and(|one| one != "+" && one != "#");
        // `a/#` matches `a`, which has another prefix; `a/b/#` and `a/b` have the same.
        if is_literal(levels.next()) && is_literal(levels.next()) {
            let prefix = self.prefix(filter);
            let changes = &mut self.prefix_changes[prefix];
            *changes = changes.wrapping_add(1);
            if *changes != 0 {
                return;
            }
        }
        self.changes += 1;
    }

    /// Has all routes be computed anew.
    pub(super) fn invalidate_all(&mut self) {
        self.changes += 1;
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.entries.capacity() * size_of::<Entry>()
            + self.bytes
            + self.free.capacity() * size_of::<u32>()
            + self.table.allocation_size()
            + PREFIXES * size_of::<u32>()
    }

    #[inline]
    fn is_valid(&self, entry: &Entry) -> bool {
        entry.changes == self.changes
            && self.prefix_changes.get(usize::from(entry.prefix)) == Some(&entry.prefix_changes)
    }

    #[inline]
    fn position(&self, hash: u64, topic: &str) -> Option<u32> {
        let is_it = |&index: &u32| self.entries[index as usize].route.topic == topic;
        self.table.find(hash, is_it).copied()
    }

    /// The counter for whatever begins with the same two levels.
    fn prefix(&self, text: &str) -> usize {
        let mut slashes = memchr::memchr_iter(b'/', text.as_bytes());
        let end = slashes.nth(1).unwrap_or(text.len());
        let bytes = text.as_bytes().get(..end).unwrap_or_default();
        (self.seed.hash(bytes) >> 16) as usize % PREFIXES
    }

    /// The clock: the first one not used since the hand last came by gives its place.
    fn make_way(&mut self) -> usize {
        let mut index = self.step();
        for _ in 0..LOOK_AT_MOST {
            if !self.entries[index].used.replace(false) {
                break;
            }
            index = self.step();
        }
        self.evict(index);
        index
    }

    fn step(&mut self) -> usize {
        self.hand = if self.hand + 1 < self.entries.len() { self.hand + 1 } else { 0 };
        self.hand
    }

    fn evict(&mut self, index: usize) {
        let hash = self.entries[index].hash;
        if let Ok(found) = self.table.find_entry(hash, |&other| other as usize == index) {
            found.remove();
        }
        let entry = &mut self.entries[index];
        entry.generation = 0;
        entry.changes = 0;
        if entry.bytes > KEEP_BYTES {
            self.bytes -= entry.bytes;
            entry.bytes = 0;
            entry.route = Route::default();
        }
    }

    /// Throws out others until the bytes fit.
    fn shrink(&mut self, keep: usize) {
        // Twice round at most: the first may only find what was used lately.
        for _ in 0..2 * self.entries.len() {
            if self.bytes <= self.max_bytes || self.table.len() <= 1 {
                return;
            }
            let index = self.step();
            let entry = &mut self.entries[index];
            // A place without a topic has no bytes; a topic has at least its own.
            if index == keep || entry.bytes == 0 || entry.used.replace(false) {
                continue;
            }
            self.evict(index);
            let entry = &mut self.entries[index];
            self.bytes -= entry.bytes;
            entry.bytes = 0;
            entry.route = Route::default();
            self.free.push(index as u32);
        }
    }
}
