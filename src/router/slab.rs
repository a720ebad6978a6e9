//! A slab in chunks: growing it copies nothing, and a million entries waste no half of a doubled vector.

use std::ops::{Index, IndexMut};

/// No entry.
pub(super) const NIL: u32 = u32::MAX;

const CHUNK_BITS: u32 = 9;
const CHUNK: usize = 1 << CHUNK_BITS;

/// An entry that, when vacant, holds the link of the free list in a field of its own.
pub(super) trait Vacant {
    /// Gives up what the entry owns and remembers the next vacant one.
    fn vacate(&mut self, next: u32);
    /// The next vacant entry; asked only of a vacant one.
    fn next_vacant(&self) -> u32;
}

#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Vec<T>>,
    free: u32,
    filled: u32,
    len: usize,
}

impl<T: Vacant> Slab<T> {
    pub(super) fn new() -> Self {
        Self { chunks: Vec::new(), free: NIL, filled: 0, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, value: T) -> u32 {
        self.len += 1;
        if self.free != NIL {
            let index = self.free;
            self.free = self[index].next_vacant();
            self[index] = value;
            return index;
        }
        let index = self.filled;
        self.filled += 1;
        match self.chunks.last_mut().filter(|chunk| chunk.len() < CHUNK) {
            Some(chunk) => chunk.push(value),
            None => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(value);
                self.chunks.push(chunk);
            }
        }
        index
    }

    pub(super) fn remove(&mut self, index: u32) {
        self.len -= 1;
        if self.len == 0 {
            // Nobody holds an index any more: the memory goes back.
            *self = Self::new();
            return;
        }
        let next = std::mem::replace(&mut self.free, index);
        self[index].vacate(next);
    }

    /// For indices that came from outside: `None` when there never was such an entry.
    pub(super) fn get(&self, index: u32) -> Option<&T> {
        self.chunks.get((index >> CHUNK_BITS) as usize)?.get(index as usize % CHUNK)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.chunks.capacity() * size_of::<Vec<T>>() + self.chunks.len() * CHUNK * size_of::<T>()
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: u32) -> &T {
        &self.chunks[(index >> CHUNK_BITS) as usize][index as usize % CHUNK]
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, index: u32) -> &mut T {
        &mut self.chunks[(index >> CHUNK_BITS) as usize][index as usize % CHUNK]
    }
}
