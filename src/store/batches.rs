//! Many records for a store that is filled.

use crate::hooks::{Commit, Store, StoreError, Write};

/// Records in one commit.
const WRITES_PER_COMMIT: usize = 4096;
/// Bytes in one commit, about.
const BYTES_PER_COMMIT: usize = 4 << 20;

/// Writes records to an empty store, many at once.
pub(super) struct Batches<'a> {
    to: &'a mut dyn Store,
    writes: Vec<Write>,
    bytes: usize,
    pub(super) count: u64,
}

impl<'a> Batches<'a> {
    pub(super) fn new(to: &'a mut dyn Store) -> Self {
        Self { to, writes: Vec::new(), bytes: 0, count: 0 }
    }

    pub(super) fn put(&mut self, write: Write) -> Result<(), StoreError> {
        self.bytes += write.key.len() + write.value.as_ref().map_or(0, Vec::len);
        self.writes.push(write);
        self.count += 1;
        if self.writes.len() < WRITES_PER_COMMIT && self.bytes < BYTES_PER_COMMIT {
            return Ok(());
        }
        self.commit(Commit::System)
    }

    /// Has everything on disk; gives how many records that are.
    pub(super) fn finish(mut self) -> Result<u64, StoreError> {
        self.commit(Commit::Disk)?;
        Ok(self.count)
    }

    fn commit(&mut self, commit: Commit) -> Result<(), StoreError> {
        self.to.commit(&self.writes, commit)?;
        self.writes.clear();
        self.bytes = 0;
        Ok(())
    }
}
