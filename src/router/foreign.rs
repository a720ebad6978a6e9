//! The plain filters that other shards want: of each a fingerprint, without its text.
//!
//! The *shape* of a filter is where it has wildcards. A shape and a topic give the one filter of that
//! shape that matches the topic, so one look-up for each shape in use finds all that match. There
//! are few shapes, because devices differ in names; and no more than [`MAX_SHAPES`], so that nobody
//! makes a route dear. A filter of one shape too many stays with the trie.
//!
//! Two filters with one fingerprint are two entries, of which each goes by itself. Their shards get
//! messages for both, and match again: it costs them, once in a very long time, a look-up.

use hashbrown::HashTable;

use super::hash::{Seed, shrink_sparse};

/// The most look-ups for a topic.
pub(super) const MAX_SHAPES: usize = 64;

/// The table is split so that growing it never halts the loop for long.
const SEGMENTS: usize = 64;

/// The part of an entry that is the shard; the rest is the fingerprint.
const SHARD: u64 = 63;

/// The fingerprint of no levels.
const START: u64 = 0;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shape {
    /// One bit for each level that is `+`.
    plus: u64,
    /// How many levels there are, `#` left out. Filters without wildcards have any number of them.
    levels: usize,
    /// Whether `#` follows.
    hash: bool,
}

impl Shape {
    const LITERAL: Self = Self { plus: 0, levels: usize::MAX, hash: false };

    /// `None`: a `+` stands too deep.
    fn of(filter: &str) -> Option<Self> {
        let mut shape = Self { plus: 0, levels: 0, hash: false };
        for level in filter.as_bytes().split(|&byte| byte == b'/') {
            match level {
                b"#" => shape.hash = true,
                b"+" => {
                    shape.plus |= 1u64.checked_shl(shape.levels as u32)?;
                    shape.levels += 1;
                }
                _ => shape.levels += 1,
            }
        }
        Some(if shape.plus == 0 && !shape.hash { Self::LITERAL } else { shape })
    }

    fn begins_with_wildcard(self) -> bool {
        self.plus & 1 != 0 || (self.hash && self.levels == 0)
    }
}

/// A level of the topic at hand.
#[derive(Clone, Copy, Debug)]
struct Level {
    hash: u64,
    /// The fingerprint of everything down to it.
    print: u64,
}

#[derive(Debug)]
pub(super) struct Foreign {
    /// Those in use, and how many entries have each.
    shapes: Vec<(Shape, usize)>,
    entries: Entries,
    seed: Seed,
    hash_plus: u64,
    hash_hash: u64,
    /// Kept so that matching allocates nothing.
    topic: Vec<Level>,
}

impl Foreign {
    pub(super) fn new(seed: Seed) -> Self {
        Self {
            shapes: Vec::new(),
            entries: Entries::new(),
            seed,
            hash_plus: seed.hash(b"+"),
            hash_hash: seed.hash(b"#"),
            topic: Vec::new(),
        }
    }

    /// Adds a filter that a shard wants; false if there is no place for its shape.
    pub(super) fn add(&mut self, shard: u8, filter: &str) -> bool {
        let Some(shape) = Shape::of(filter) else { return false };
        match self.shapes.iter().position(|(known, _)| *known == shape) {
            Some(place) => self.shapes[place].1 += 1,
            None if self.shapes.len() < MAX_SHAPES => self.shapes.push((shape, 1)),
            None => return false,
        }
        self.entries.insert(self.fingerprint(filter), shard);
        true
    }

    /// Takes a filter out that was added for this shard; false if it was not.
    pub(super) fn remove(&mut self, shard: u8, filter: &str) -> bool {
        let shape = Shape::of(filter);
        let Some(place) = self.shapes.iter().position(|(known, _)| Some(*known) == shape) else {
            return false;
        };
        if !self.entries.remove(self.fingerprint(filter), shard) {
            return false;
        }
        self.shapes[place].1 -= 1;
        if self.shapes[place].1 == 0 {
            self.shapes.swap_remove(place);
        }
        true
    }

    /// One bit for each shard that wants a topic.
    ///
    /// No filter that starts with a wildcard matches a topic that starts with `$`. [MQTT-4.7.2-1]
    pub(super) fn shards(&mut self, topic: &str) -> u64 {
        if self.shapes.is_empty() {
            return 0;
        }
        let mut print = START;
        self.topic.clear();
        for level in topic.as_bytes().split(|&byte| byte == b'/') {
            let hash = self.seed.hash(level);
            print = self.seed.chain(print, hash);
            self.topic.push(Level { hash, print });
        }
        let reserved = topic.starts_with('$');
        let mut shards = 0;
        for &(shape, _) in &self.shapes {
            if reserved && shape.begins_with_wildcard() {
                continue;
            }
            if let Some(print) = self.candidate(shape) {
                shards |= self.entries.shards(print);
            }
        }
        shards
    }

    /// About the bytes that its entries take.
    pub(super) fn counted_bytes(&self) -> usize {
        self.len() * 2 * size_of::<u64>()
    }

    /// How many filters there are, counted for each shard that wants one.
    pub(super) fn len(&self) -> usize {
        self.shapes.iter().map(|(_, count)| count).sum()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.entries.heap_bytes()
            + self.shapes.capacity() * size_of::<(Shape, usize)>()
            + self.topic.capacity() * size_of::<Level>()
    }

    fn fingerprint(&self, filter: &str) -> u64 {
        let levels = filter.as_bytes().split(|&byte| byte == b'/');
        levels.fold(START, |print, level| self.seed.chain(print, self.seed.hash(level)))
    }

    /// The fingerprint of the filter of this shape that matches the topic at hand.
    fn candidate(&self, shape: Shape) -> Option<u64> {
        if shape == Shape::LITERAL {
            return self.topic.last().map(|level| level.print);
        }
        // `a/#` matches `a` as well.
        let fits =
            shape.levels == self.topic.len() || (shape.hash && shape.levels < self.topic.len());
        if !fits {
            return None;
        }
        let literal = shape.levels.min(shape.plus.trailing_zeros() as usize);
        let mut print = literal.checked_sub(1).map_or(START, |last| self.topic[last].print);
        for (depth, level) in self.topic[..shape.levels].iter().enumerate().skip(literal) {
            let is_plus = shape.plus.checked_shr(depth as u32).is_some_and(|bits| bits & 1 != 0);
            print = self.seed.chain(print, if is_plus { self.hash_plus } else { level.hash });
        }
        Some(if shape.hash { self.seed.chain(print, self.hash_hash) } else { print })
    }
}

/// Fingerprints with shards, of which there may be several alike.
#[derive(Debug)]
struct Entries(Box<[HashTable<u64>]>);

impl Entries {
    fn new() -> Self {
        Self((0..SEGMENTS).map(|_| HashTable::new()).collect())
    }

    fn insert(&mut self, print: u64, shard: u8) {
        let entry = entry(print, shard);
        self.0[segment(print)].insert_unique(hash(entry), entry, |&entry| hash(entry));
    }

    /// False if there is none.
    fn remove(&mut self, print: u64, shard: u8) -> bool {
        let entry = entry(print, shard);
        let table = &mut self.0[segment(print)];
        let Ok(found) = table.find_entry(hash(entry), |&other| other == entry) else {
            return false;
        };
        found.remove();
        shrink_sparse(table, |&entry| hash(entry));
        true
    }

    fn shards(&self, print: u64) -> u64 {
        let alike = self.0[segment(print)].iter_hash(hash(print));
        let same = alike.filter(|&&entry| entry & !SHARD == print & !SHARD);
        same.fold(0, |shards, entry| shards | 1 << (entry & SHARD))
    }

    fn heap_bytes(&self) -> usize {
        self.0.iter().map(HashTable::allocation_size).sum()
    }
}

fn entry(print: u64, shard: u8) -> u64 {
    (print & !SHARD) | (u64::from(shard) & SHARD)
}

/// Of the fingerprint alone: entries of one filter lie together, whatever their shards.
fn hash(entry: u64) -> u64 {
    (entry & !SHARD).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_right(32)
}

fn segment(print: u64) -> usize {
    (print >> 58) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_with_one_fingerprint_go_one_by_one() {
        let mut entries = Entries::new();
        // Only the bits that an entry has room for count.
        for print in [0x1234_5678_9ABC_DE00, 0x1234_5678_9ABC_DE01] {
            entries.insert(print, 3);
        }
        entries.insert(0x1234_5678_9ABC_DE00, 63);
        let shards = |entries: &Entries| entries.shards(0x1234_5678_9ABC_DE00);
        assert_eq!(shards(&entries), 1 << 3 | 1 << 63);
        assert!(entries.remove(0x1234_5678_9ABC_DE01, 3));
        assert_eq!(shards(&entries), 1 << 3 | 1 << 63, "the other one is still wanted");
        assert!(entries.remove(0x1234_5678_9ABC_DE00, 3));
        assert!(!entries.remove(0x1234_5678_9ABC_DE00, 3));
        assert_eq!(shards(&entries), 1 << 63);
    }

    #[test]
    fn entries_spread_and_their_memory_goes_back() {
        let seed = Seed::new(7);
        let mut foreign = Foreign::new(seed);
        let filters: Vec<String> = (0..100_000).map(|n| format!("a/{n}")).collect();
        filters.iter().for_each(|filter| assert!(foreign.add(1, filter)));
        let longest = foreign.entries.0.iter().map(HashTable::len).max().unwrap_or_default();
        assert!(longest < 2 * 100_000 / SEGMENTS, "{longest} in one segment");
        let full = foreign.heap_bytes();
        filters.iter().for_each(|filter| assert!(foreign.remove(1, filter)));
        assert_eq!(foreign.len(), 0);
        assert!(foreign.heap_bytes() < full / 4, "{} of {full} bytes", foreign.heap_bytes());
    }

    #[test]
    fn a_topic_of_many_levels_costs_a_bounded_number_of_look_ups() {
        let mut foreign = Foreign::new(Seed::new(7));
        for depth in 0..127 {
            foreign.add(1, &format!("{}+/#", "a/".repeat(depth)));
            foreign.add(2, &format!("{}b/#", "a/".repeat(depth)));
        }
        assert_eq!(foreign.shapes.len(), MAX_SHAPES);
        assert_eq!(foreign.shards(&vec!["a"; 128].join("/")), 0b10);
    }

    #[test]
    fn no_more_shapes_than_a_route_can_afford() {
        let mut foreign = Foreign::new(Seed::new(7));
        let filters: Vec<String> = (0..200).map(|n| format!("{}+", "a/".repeat(n % 60))).collect();
        let taken = filters.iter().filter(|filter| foreign.add(1, filter)).count();
        assert_eq!((taken, foreign.shapes.len()), (200, 60));
        assert!(foreign.add(1, "a") && foreign.add(1, "a/b/c"), "of one shape");
        for filter in ["#", "a/#", "a/b/#"] {
            assert!(foreign.add(1, filter));
        }
        assert!(!foreign.add(1, "a/b/c/#"), "one too many");
        assert!(!foreign.add(1, &format!("{}+", "a/".repeat(64))), "too deep");
        assert!(foreign.remove(1, "#"));
        assert!(foreign.add(1, "a/b/c/#"), "there is a place again");
    }
}
