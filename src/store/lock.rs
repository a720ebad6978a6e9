//! The lock on a data directory, and whether it is still the one that stands there.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::directory::{DirectoryError, failed};
use crate::hooks::{Commit, Store, StoreError, Table, Write};

pub(super) const LOCK_FILE: &str = "lock";
/// Written and removed to see whether the directory takes anything.
const PROBE_FILE: &str = "probe";
/// Bytes of it. An engine that is opened anew may need more; then it is tried again.
const PROBE_BYTES: usize = 1 << 20;

/// Keeps other processes from a directory, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    directory: PathBuf,
    path: PathBuf,
    file: File,
}

impl Lock {
    pub(super) fn take(directory: &Path) -> Result<Self, DirectoryError> {
        let path = directory.join(LOCK_FILE);
        let file = File::create(&path).map_err(failed(directory))?;
        match file.try_lock() {
            Ok(()) => Ok(Self { directory: directory.to_owned(), path, file }),
            Err(TryLockError::WouldBlock) => Err(DirectoryError::InUse(directory.to_owned())),
            Err(TryLockError::Error(error)) => Err(failed(directory)(error)),
        }
    }

    /// Whoever removes a directory takes the names of its files, and writing to them goes on as if
    /// nothing had happened: only the name tells.
    ///
    /// # Errors
    /// The directory is not there any more, or another one is, or that cannot be told.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        let own = self.file.metadata()?;
        match fs::metadata(&self.path) {
            Ok(found) if (found.dev(), found.ino()) == (own.dev(), own.ino()) => Ok(()),
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Err(StoreError(format!(
                "the data directory {}, or the file \"{LOCK_FILE}\" in it, was removed or replaced: \
                 put it back, or start anew",
                self.directory.display()
            ))),
        }
    }

    /// Whether the directory is there and takes bytes again.
    fn takes_bytes(&self) -> bool {
        let path = self.directory.join(PROBE_FILE);
        let write = |mut file: File| {
            file.write_all(&vec![0; PROBE_BYTES])?;
            file.sync_all()
        };
        let is_written = self.check().is_ok() && File::create(&path).and_then(write).is_ok();
        // It may be there in part.
        let _ = fs::remove_file(&path);
        is_written
    }
}

/// The records of a directory, which are safe only as long as it is there.
pub(super) struct Locked<S> {
    pub(super) store: S,
    pub(super) lock: Arc<Lock>,
}

impl<S: Store> Store for Locked<S> {
    fn commit(&mut self, writes: &[Write], commit: Commit) -> Result<(), StoreError> {
        // Another process may have the directory by now.
        self.lock.check()?;
        self.store.commit(writes, commit)?;
        self.lock.check()
    }

    fn wants_reopening(&self) -> bool {
        self.store.wants_reopening() && self.lock.takes_bytes()
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(table, key)
    }

    fn range(
        &self,
        table: Table,
        from: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.store.range(table, from, each)
    }
}
