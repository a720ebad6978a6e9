//! The lock on a data directory, and whether it is still the one that stands there.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use super::damage::room;
use super::directory::{DirectoryError, failed, whole};
use crate::hooks::{Commit, Store, StoreError, Table, Write};

pub(super) const LOCK_FILE: &str = "lock";
/// Written and removed to see whether the directory takes anything.
const PROBE_FILE: &str = "probe";
/// Bytes of it. An engine that is opened anew may need more; then it is tried again.
const PROBE_BYTES: usize = 1 << 20;

/// A process that was killed has its files and sockets until the system has taken back its memory.
const LET_GO_WITHIN: Duration = Duration::from_secs(1);
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(10);

/// Whether to try again what another process may have that is ending: after a moment, for a second.
pub(crate) fn until_let_go() -> impl FnMut() -> bool {
    let until = Instant::now() + LET_GO_WITHIN;
    move || {
        thread::sleep(TRY_AGAIN_AFTER);
        Instant::now() < until
    }
}

/// A file that is open, and has to stay at its path: writing to one that was removed goes on as if nothing
/// had happened.
#[derive(Debug)]
struct Named {
    path: PathBuf,
    /// Of its device, and there; given to nothing else as long as it is open.
    number: (u64, u64),
}

impl Named {
    fn is_there(&self) -> io::Result<bool> {
        Ok(number(&self.path)? == Some(self.number))
    }
}

fn number(path: &Path) -> io::Result<Option<(u64, u64)>> {
    match fs::metadata(path) {
        Ok(found) => Ok(Some((found.dev(), found.ino()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Keeps other processes from a directory, until it is dropped.
#[derive(Debug)]
pub(super) struct Lock {
    directory: PathBuf,
    lock: Named,
    _file: File,
}

impl Lock {
    /// Whoever starts a broker again may do so at once: who has the lock is given a moment to end.
    pub(super) fn take(directory: &Path) -> Result<Self, DirectoryError> {
        Self::take_while(directory, until_let_go())
    }

    /// Tries until another process has let it go, or `again` says that this is enough.
    fn take_while(
        directory: &Path,
        mut again: impl FnMut() -> bool,
    ) -> Result<Self, DirectoryError> {
        let path = directory.join(LOCK_FILE);
        let file = loop {
            let mut options = File::options();
            // Whoever had it may have removed the file.
            let file = options.write(true).create(true).truncate(false).open(&path);
            let file = file.map_err(failed(directory))?;
            match file.try_lock() {
                Ok(()) => break file,
                Err(TryLockError::WouldBlock) if again() => {}
                Err(TryLockError::WouldBlock) => {
                    return Err(DirectoryError::InUse(directory.to_owned()));
                }
                Err(TryLockError::Error(error)) => return Err(failed(directory)(error)),
            }
        };
        let found = file.metadata().map_err(failed(directory))?;
        let lock = Named { path, number: (found.dev(), found.ino()) };
        Ok(Self { directory: directory.to_owned(), lock, _file: file })
    }

    /// Whoever removes a directory takes the names of its files: only the name tells.
    ///
    /// # Errors
    /// The directory is not there any more, or another one is, or that cannot be told.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self.lock.is_there()? {
            true => Ok(()),
            false => Err(StoreError(format!(
                "the data directory {}, or the file \"{LOCK_FILE}\" in it, was removed or replaced: \
                 put it back, or start anew",
                whole(&self.directory)
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

/// The records of a directory, which are safe only as long as it is there, with what they are in.
pub(super) struct Locked<S> {
    store: S,
    lock: Arc<Lock>,
    files: Vec<Named>,
    /// All of them were there after the last commit.
    are_there: bool,
}

impl<S> Locked<S> {
    /// In these files, as far as they are there: the store has them open.
    pub(super) fn new(store: S, lock: Arc<Lock>, files: &[PathBuf]) -> io::Result<Self> {
        let named = |path: &PathBuf| {
            let number = number(path).transpose()?;
            Some(number.map(|number| Named { path: path.clone(), number }))
        };
        let files = files.iter().filter_map(named).collect::<io::Result<_>>()?;
        Ok(Self { store, lock, files, are_there: true })
    }

    fn check_files(&self) -> Result<(), StoreError> {
        for file in &self.files {
            if !file.is_there()? {
                let path = file.path.display();
                return Err(StoreError(format!(
                    "{path} was removed or replaced: put it back, or start anew"
                )));
            }
        }
        Ok(())
    }
}

impl<S: Store> Store for Locked<S> {
    fn commit(&mut self, writes: &[Write], commit: Commit) -> Result<(), StoreError> {
        // Another process may have the directory by now.
        self.lock.check()?;
        if !self.are_there {
            self.check_files()?;
        }
        self.are_there = false;
        self.store.commit(writes, commit).map_err(|StoreError(error)| {
            // What the system says of a full disk does not name it.
            let directory = &self.lock.directory;
            StoreError(format!("{}: {error}{}", whole(directory), room(directory, &error)))
        })?;
        self.check_files()?;
        self.are_there = true;
        self.lock.check()
    }

    fn wants_reopening(&self) -> bool {
        // What has no name any more would be lost with it.
        let has_files = || self.check_files().is_ok();
        self.store.wants_reopening() && has_files() && self.lock.takes_bytes()
    }

    fn catch_up(&mut self) -> bool {
        self.lock.check().is_ok() && self.store.catch_up()
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

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// As a process has it that was killed just now.
    #[test]
    fn who_lets_go_is_waited_for() {
        let directory = TempDir::new().expect("a directory");
        let mut first = Lock::take(directory.path()).ok();
        assert!(first.is_some());
        let mut tries = 0;
        let second = Lock::take_while(directory.path(), || {
            tries += 1;
            if tries == 3 {
                first = None;
            }
            tries < 100
        });
        let second = second.expect("it was let go");
        assert_eq!(tries, 3);
        let mut tries = 0;
        let third = Lock::take_while(directory.path(), || {
            tries += 1;
            tries < 5
        });
        assert!(matches!(third, Err(DirectoryError::InUse(_))), "{third:?}");
        assert_eq!(tries, 5);
        second.check().expect("it is still the one");
    }
}
