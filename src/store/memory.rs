//! Records in memory: for tests, which can take from it what a crash of the machine would.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::logged::{Segment, Segments};
use crate::hooks::{Commit, Store, StoreError, Table, Write};

type Tables = [BTreeMap<Vec<u8>, Vec<u8>>; Table::COUNT];

#[derive(Debug, Default)]
struct Disk {
    tables: Tables,
    /// As of the last commit to disk.
    synced: Tables,
    fails: Option<String>,
}

/// The records that all its clones share, as those who open one directory do.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Disk>>);

impl Memory {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is when the machine stops now: what was not committed to disk is gone.
    #[must_use]
    pub fn crashed(&self) -> Self {
        let synced = &self.disk().synced;
        let disk = Disk { tables: synced.clone(), synced: synced.clone(), fails: None };
        Self(Arc::new(Mutex::new(disk)))
    }

    /// What there is when the process stops now.
    #[must_use]
    pub fn killed(&self) -> Self {
        let Disk { tables, synced, .. } = &*self.disk();
        let disk = Disk { tables: tables.clone(), synced: synced.clone(), fails: None };
        Self(Arc::new(Mutex::new(disk)))
    }

    /// Has every commit fail for this reason, or with `None` go on.
    pub fn fail(&self, reason: Option<&str>) {
        self.disk().fails = reason.map(str::to_owned);
    }
}

impl Store for Memory {
    fn commit(&mut self, writes: &[Write], commit: Commit) -> Result<(), StoreError> {
        let disk = &mut *self.disk();
        if let Some(reason) = &disk.fails {
            return Err(StoreError(reason.clone()));
        }
        for Write { table, key, value, .. } in writes {
            let Some(records) = disk.tables.get_mut(*table as usize) else { continue };
            match value {
                Some(value) => records.insert(key.to_vec(), value.clone()),
                None => records.remove(&**key),
            };
        }
        if commit == Commit::Disk {
            disk.synced.clone_from(&disk.tables);
        }
        Ok(())
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.disk().tables.get(table as usize).and_then(|records| records.get(key).cloned()))
    }

    fn range(
        &self,
        table: Table,
        from: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let disk = self.disk();
        let records = disk.tables.get(table as usize).into_iter();
        for (key, value) in records.flat_map(|records| records.range(from.to_vec()..)) {
            if !each(key, value) {
                break;
            }
        }
        Ok(())
    }
}

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

#[derive(Clone, Debug, Default)]
struct File {
    bytes: Vec<u8>,
    /// As of the last sync.
    synced: Vec<u8>,
}

#[derive(Clone, Debug, Default)]
struct Two {
    files: [File; 2],
    /// Writes and syncs that are left to be done before one fails.
    until_failure: Option<u32>,
}

impl Two {
    fn take_one(&mut self) -> io::Result<()> {
        match &mut self.until_failure {
            Some(0) => Err(io::Error::other("the disk fails")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }
}

/// The segments of a [log](super::Logged) that all its clones share.
#[derive(Clone, Debug, Default)]
pub struct MemorySegments(Arc<Mutex<Two>>);

impl MemorySegments {
    fn two(&self) -> MutexGuard<'_, Two> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What there is when the machine stops now: `reached` says of each sector that was written since
    /// the last sync whether it has come to the disk.
    #[must_use]
    pub fn crashed(&self, mut reached: impl FnMut() -> bool) -> Self {
        let mut files = self.two().files.clone();
        for file in &mut files {
            let mut written = file.bytes.clone();
            // The disk may not know yet what was cut off.
            if let Some(cut) = file.synced.get(written.len()..)
                && !cut.is_empty()
                && !reached()
            {
                written.extend_from_slice(cut);
            }
            file.synced.resize(written.len(), 0);
            for (old, new) in file.synced.chunks_mut(SECTOR).zip(written.chunks(SECTOR)) {
                if old != new && reached() {
                    old.copy_from_slice(new);
                }
            }
            file.bytes.clone_from(&file.synced);
        }
        Self(Arc::new(Mutex::new(Two { files, until_failure: None })))
    }

    /// What there is when the process stops now.
    #[must_use]
    pub fn killed(&self) -> Self {
        let files = self.two().files.clone();
        Self(Arc::new(Mutex::new(Two { files, until_failure: None })))
    }

    /// After so many writes and syncs all further ones fail.
    pub fn fail_after(&self, operations: u32) {
        self.two().until_failure = Some(operations);
    }
}

impl Segments for MemorySegments {
    fn read(&self, segment: Segment) -> io::Result<Vec<u8>> {
        Ok(self.two().files[segment as usize].bytes.clone())
    }

    fn read_at(&self, segment: Segment, at: u64, into: &mut [u8]) -> io::Result<usize> {
        let bytes = &self.two().files[segment as usize].bytes;
        let at = usize::try_from(at).map_err(io::Error::other)?;
        let found = bytes.get(at..).unwrap_or_default();
        let len = found.len().min(into.len());
        into[..len].copy_from_slice(&found[..len]);
        Ok(len)
    }

    fn write(&mut self, segment: Segment, at: u64, bytes: &[u8]) -> io::Result<()> {
        let two = &mut *self.two();
        let done = two.take_one();
        // What fails has done half of it.
        let len = if done.is_ok() { bytes.len() } else { bytes.len() / 2 };
        let bytes = &bytes[..len];
        let file = &mut two.files[segment as usize].bytes;
        let at = usize::try_from(at).map_err(io::Error::other)?;
        file.resize(file.len().max(at + bytes.len()), 0);
        file[at..at + bytes.len()].copy_from_slice(bytes);
        done
    }

    fn sync(&mut self, segment: Segment) -> io::Result<()> {
        let two = &mut *self.two();
        two.take_one()?;
        let file = &mut two.files[segment as usize];
        file.synced.clone_from(&file.bytes);
        Ok(())
    }

    fn set_aside(&mut self, _: Segment, _: usize, _: &[u8]) -> io::Result<()> {
        Ok(())
    }

    fn cut(&mut self, segment: Segment, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.two().files[segment as usize].bytes.truncate(len);
        Ok(())
    }

    fn name(&self, segment: Segment) -> String {
        format!("segment {segment:?}")
    }
}
