//! A vector in chunks. It grows without copying what is there: that of a million entries would halt the
//! loop, and the copy left behind is memory that an allocator gives back late.

use std::ops::{Index, IndexMut};

const CHUNK_BITS: u32 = 9;
/// Entries of a chunk.
const CHUNK: usize = 1 << CHUNK_BITS;

/// The vector.
#[derive(Debug)]
pub struct Chunks<T>(Vec<Vec<T>>);

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Chunks<T> {
    /// An empty one, which takes no memory.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// How many entries there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.last().map_or(0, |last| (self.0.len() - 1) * CHUNK + last.len())
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds an entry behind the last one.
    pub fn push(&mut self, value: T) {
        match self.0.last_mut().filter(|chunk| chunk.len() < CHUNK) {
            Some(chunk) => chunk.push(value),
            None => {
                let mut chunk = Vec::with_capacity(CHUNK);
                chunk.push(value);
                self.0.push(chunk);
            }
        }
    }

    /// The entry at `index`.
    #[inline]
    #[must_use]
    pub fn get(&self, index: usize) -> Option<&T> {
        self.0.get(index >> CHUNK_BITS)?.get(index % CHUNK)
    }

    /// The entry at `index`.
    #[inline]
    pub fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.0.get_mut(index >> CHUNK_BITS)?.get_mut(index % CHUNK)
    }

    /// All entries, in order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }
}

impl<T> Index<usize> for Chunks<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: usize) -> &T {
        &self.0[index >> CHUNK_BITS][index % CHUNK]
    }
}

impl<T> IndexMut<usize> for Chunks<T> {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.0[index >> CHUNK_BITS][index % CHUNK]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_where_they_are() {
        let mut chunks = Chunks::new();
        assert!(chunks.is_empty() && chunks.get(0).is_none());
        chunks.push(0);
        let first: *const usize = &chunks[0];
        for n in 1..=3 * CHUNK {
            chunks.push(n);
            assert_eq!((chunks.len(), chunks[n]), (n + 1, n));
        }
        assert_eq!(first, &raw const chunks[0]);
        chunks[CHUNK] = 7;
        assert_eq!((chunks.get(CHUNK), chunks.get(3 * CHUNK + 1)), (Some(&7), None));
        assert_eq!(chunks.get_mut(2 * CHUNK), Some(&mut (2 * CHUNK)));
        assert!(chunks.iter().enumerate().all(|(n, value)| *value == n || n == CHUNK));
        assert_eq!(chunks.iter().count(), chunks.len());
    }
}
