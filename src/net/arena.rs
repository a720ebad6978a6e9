//! The receive buffer of one turn.

use std::ops::Range;

use super::driver::READ_CHUNK;

/// What a shard received in the present turn, back to back.
///
/// The driver appends, completions name ranges, and the bytes stay put until [`Arena::reset`]: a parsed
/// packet may be written on from here at the end of the turn. The memory is initialised once, not once
/// a read; pages never written to are not resident.
#[derive(Debug)]
pub struct Arena {
    bytes: Vec<u8>,
    used: usize,
    size: usize,
}

impl Arena {
    /// Default size in bytes.
    pub const DEFAULT_SIZE: usize = 256 * 1024;

    /// An arena of `size` bytes, at least [`READ_CHUNK`].
    #[must_use]
    pub fn new(size: usize) -> Self {
        let size = size.max(READ_CHUNK);
        Self { bytes: vec![0; size], used: 0, size }
    }

    /// The bytes of a completion of this turn; empty if the range is of an earlier one.
    #[must_use]
    #[inline]
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        self.bytes.get(range).unwrap_or_default()
    }

    /// Everything received since the last reset, from offset 0 on.
    #[must_use]
    #[inline]
    pub fn all(&self) -> &[u8] {
        self.bytes(0..self.used)
    }

    /// Forgets everything; ranges given out before are void.
    #[inline]
    pub fn reset(&mut self) {
        self.used = 0;
        if self.bytes.len() > self.size {
            self.bytes = vec![0; self.size];
        }
    }

    /// Whether there is no room left for a whole read.
    #[must_use]
    #[inline]
    pub fn is_full(&self) -> bool {
        self.bytes.len() - self.used < READ_CHUNK
    }

    /// How many bytes are in use.
    #[must_use]
    #[inline]
    pub fn used(&self) -> usize {
        self.used
    }

    /// Room for `len` more bytes? An empty arena makes room, whatever `len` is, so that a caller who
    /// resets on `false` gets on.
    pub(super) fn make_room(&mut self, len: usize) -> bool {
        if self.bytes.len() - self.used >= len {
            return true;
        }
        if self.used > 0 {
            return false;
        }
        self.bytes.resize(len, 0);
        true
    }

    /// The unused part, to read into; [`Arena::commit`] takes in what was read.
    #[inline]
    pub(super) fn spare(&mut self) -> &mut [u8] {
        self.bytes.get_mut(self.used..).unwrap_or_default()
    }

    /// Takes the next `len` bytes into use and names them.
    #[inline]
    pub(super) fn commit(&mut self, len: usize) -> Range<usize> {
        let start = self.used;
        self.used = (start + len).min(self.bytes.len());
        start..self.used
    }
}

impl Default for Arena {
    fn default() -> Self {
        Self::new(Self::DEFAULT_SIZE)
    }
}
