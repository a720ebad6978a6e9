//! Seeded hashing: topics and client ids come from strangers, who must not be able to aim at one bucket.

use std::hash::Hasher;

use foldhash::SharedSeed;
use foldhash::fast::FoldHasher;
use hashbrown::HashTable;

#[derive(Clone, Copy)]
pub(super) struct Seed {
    seed: u64,
    shared: &'static SharedSeed,
}

impl Seed {
    /// `seed` on top of the process's own random one. No result of the router depends on it.
    pub(super) fn new(seed: u64) -> Self {
        Self { seed, shared: SharedSeed::global_random() }
    }

    #[inline]
    pub(super) fn hash(self, bytes: &[u8]) -> u64 {
        let mut hasher = FoldHasher::with_seed(self.seed, self.shared);
        hasher.write(bytes);
        hasher.finish()
    }

    /// The hash of a sequence with one more part, of which `part` is the [hash](Self::hash).
    #[inline]
    pub(super) fn chain(self, sequence: u64, part: u64) -> u64 {
        let mixed = u128::from(sequence ^ 0x9E37_79B9_7F4A_7C15) * u128::from(part ^ self.seed);
        (mixed as u64) ^ ((mixed >> 64) as u64)
    }

    /// A hash of the pair, of which 32 bits serve as well as any others.
    #[inline]
    pub(super) fn pair(self, a: u64, b: u32) -> u64 {
        let mixed = u128::from(a ^ u64::from(b).wrapping_mul(0x9E37_79B9_7F4A_7C15))
            * u128::from((self.seed ^ 0xA076_1D64_78BD_642F) | 1);
        (mixed as u64) ^ ((mixed >> 64) as u64)
    }
}

impl std::fmt::Debug for Seed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Seed")
    }
}

/// What a table that is keyed by 32 bits makes of them: the low ones say where, the high ones are the tag.
#[inline]
pub(super) fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

/// Gives the memory of a table back that is three quarters empty, but for room to grow again.
pub(super) fn shrink_sparse<T>(table: &mut HashTable<T>, hash: impl Fn(&T) -> u64) {
    if table.capacity() > 64 && table.len() * 4 < table.capacity() {
        table.shrink_to(table.len() * 2, hash);
    }
}

/// A hash that is the same on every shard and in every run; not for tables.
#[must_use]
pub fn stable_hash(bytes: &[u8]) -> u64 {
    let fnv = bytes.iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01B3)
    });
    (fnv ^ (fnv >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93)
}
