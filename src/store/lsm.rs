//! Records in a log-structured merge tree (fjall).

mod compaction;
mod journal;
mod numbers;
mod reader;
mod salvage;
mod table;
mod tree;

use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use compaction::Compaction;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use journal::Mended;
use lsm_tree::AbstractTree;
use tree::{Files, Look};

use super::{MENDS, Torn, damage, free_bytes, replace};
use crate::hooks::{Commit, Store, StoreError, Table, Write};

/// Memory for blocks that were read: only a start reads.
const CACHE_BYTES: u64 = 8 << 20;
/// Threads that merge in the background.
const WORKERS: usize = 1;
/// Bytes of changes before they are sorted into files.
const MEMTABLE_BYTES: u64 = 16 << 20;
/// Bytes of changes to a table that wait to be sorted into files, beyond which who writes waits as well: it takes as long
/// as a merge, for which there is one thread.
const UNSORTED_BYTES: u64 = 128 << 20;
/// What only fjall's thread can end is looked at so often.
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(10);
/// Bytes of changes that a start may have to read again, about.
const JOURNAL_BYTES: u64 = 128 << 20;
pub(super) use tree::{KEYSPACES, LOCK};

/// Files it keeps open.
pub(super) const OPEN_FILES: usize = 64;

pub(super) struct Lsm {
    path: PathBuf,
    /// It has the database, too: it ends first.
    compaction: Compaction,
    database: Database,
    tables: Vec<Keyspace>,
}

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> Self {
        let way = if salvage::is_damage(&error) { MENDS } else { "" };
        Self(match error {
            fjall::Error::Io(error) | fjall::Error::Storage(lsm_tree::Error::Io(error)) => {
                format!("{error}{way}")
            }
            fjall::Error::Locked => "another process has it open".to_owned(),
            fjall::Error::Storage(error) => {
                format!("a file that all depends on is damaged: {error}{way}")
            }
            other => format!("{other}{way}"),
        })
    }
}

impl Lsm {
    /// Opens or makes it. A last commit that is there in part is cut off, one that is damaged is set aside,
    /// and the log tells of both.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        Self::open_whole(path, Torn::IsTold)
    }

    /// As [`open`](Self::open), after a failure. Of a last commit that is there in part nothing is said:
    /// whoever made it makes it again.
    pub(super) fn reopen(path: &Path) -> Result<Self, StoreError> {
        Self::open_whole(path, Torn::IsExpected)
    }

    /// In place of a table that is gone fjall would begin an empty one, and what is written to that would be in the
    /// way of whoever mends the other.
    fn open_whole(path: &Path, torn: Torn) -> Result<Self, StoreError> {
        let mended = Self::prepare(path, torn)?;
        match Files::read(path, mended.has_commits, Look::AtNames)?.damaged.first() {
            Some(file) => Err(StoreError(format!("{}: missing or damaged{MENDS}", file.display()))),
            None => Ok(Self::build(path)?),
        }
    }

    /// Has the disk have what can be read, before it is opened. It may have lacked that since a failure.
    pub(super) fn write_again(path: &Path) -> Result<(), StoreError> {
        if tree::is_open(path)? {
            return Err(fjall::Error::Locked.into());
        }
        Ok(journal::write_again(path)?)
    }

    fn prepare(path: &Path, torn: Torn) -> Result<Mended, StoreError> {
        if tree::is_open(path)? {
            return Err(fjall::Error::Locked.into());
        }
        replace::end(path, &[])?;
        tree::clear_unmade(path)?;
        tree::make_openable(path)?;
        let mended = journal::mend(path, torn)?;
        if mended.journals == 0 && tree::is_made(path)? {
            tracing::error!("{}: no journal is there: what it had is lost", path.display());
        }
        Ok(mended)
    }

    fn build(path: &Path) -> Result<Self, fjall::Error> {
        let database = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .worker_threads(WORKERS)
            .max_cached_files(Some(OPEN_FILES))
            .max_journaling_size(JOURNAL_BYTES)
            .open()?;
        // See `sort_large`.
        let options = || KeyspaceCreateOptions::default().max_memtable_size(u64::MAX);
        let tables = Table::ALL
            .iter()
            .map(|table| database.keyspace(table.name(), options))
            .collect::<Result<Vec<_>, _>>()?;
        // fjall has the disk know of what is in the directories that it makes, and not of all of those.
        damage::sync_directory(&path.join(KEYSPACES))?;
        damage::sync_above(path)?;
        let compaction = Compaction::start(path, &database, &tables)?;
        Ok(Self { path: path.to_owned(), compaction, database, tables })
    }

    /// Opens it, and compares its files with their checksums before. If one is damaged, all that can be read
    /// goes into a new database, the old one is set aside, and the log tells of it.
    pub(super) fn open_mended(path: &Path) -> Result<Self, StoreError> {
        salvage::open(path)
    }

    /// What went wrong with a commit. Of what failed in the background, most often for want of room, fjall does
    /// not say what it was.
    fn wrong(&self, error: fjall::Error) -> StoreError {
        match error {
            fjall::Error::Poisoned => {
                let free = free_bytes(&self.path);
                let free = free.map(|free| format!(", {free}{}", damage::FREE));
                let free = free.unwrap_or_default();
                StoreError(format!("fjall could not write to its files{free}"))
            }
            // Nothing was read.
            fjall::Error::Io(error) => error.into(),
            error => error.into(),
        }
    }

    /// Has what has become large in memory sorted into files, unless that is going on. fjall would do that by itself,
    /// but asks its worker for it with each commit: when a thousand have asked, that one waits for itself.
    fn sort_large(&self) -> Result<(), fjall::Error> {
        for table in &self.tables {
            let is_large = table.tree.active_memtable().size() > MEMTABLE_BYTES;
            if is_large && table.sealed_memtable_count() == 0 {
                table.rotate_memtable()?;
            }
        }
        while self.has_much_unsorted() {
            // That fails if the thread has.
            self.database.persist(PersistMode::Buffer)?;
            thread::sleep(LOOK_AGAIN_AFTER);
        }
        Ok(())
    }

    fn has_much_unsorted(&self) -> bool {
        self.tables.iter().any(|table| {
            table.sealed_memtable_count() > 0
                && table.tree.active_memtable().size() > UNSORTED_BYTES
        })
    }

    /// Has what is in memory sorted into a file.
    #[cfg(test)]
    pub(super) fn sort(&self, table: Table) {
        self.tables[table as usize].rotate_memtable_and_wait().expect("room");
    }
}

/// Whether a key can be one. It is the end of the process for fjall if not.
fn takes(key: &[u8]) -> bool {
    !key.is_empty() && u16::try_from(key.len()).is_ok()
}

impl Store for Lsm {
    fn commit(&mut self, writes: &[Write], commit: Commit) -> Result<(), StoreError> {
        let mode = match commit {
            Commit::System => PersistMode::Buffer,
            Commit::Disk => PersistMode::SyncData,
        };
        if writes.is_empty() {
            return self.database.persist(mode).map_err(|error| self.wrong(error));
        }
        if let Some(Write { key, .. }) = writes.iter().find(|write| !takes(&write.key)) {
            return Err(StoreError(format!(
                "a key of {} bytes, which fjall does not take",
                key.len()
            )));
        }
        let mut batch = self.database.batch().durability(Some(mode));
        let mut removed = [0; Table::COUNT];
        for Write { table: name, key, value, .. } in writes {
            let Some(table) = self.tables.get(*name as usize) else { continue };
            match value {
                Some(value) => batch.insert(table, &**key, value.as_slice()),
                None => {
                    batch.remove(table, &**key);
                    removed[*name as usize] += 1;
                }
            }
        }
        batch.commit().map_err(|error| self.wrong(error))?;
        self.compaction.note_removed(&removed);
        self.sort_large().map_err(|error| self.wrong(error))
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(table) = self.tables.get(table as usize) else { return Ok(None) };
        Ok(table.get(key)?.map(|value| value.to_vec()))
    }

    fn range(
        &self,
        table: Table,
        from: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let Some(table) = self.tables.get(table as usize) else { return Ok(()) };
        for record in table.range(from..) {
            let (key, value) = record.into_inner()?;
            if !each(&key, &value) {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::mpsc;
    use std::time::Instant;

    use super::*;

    /// It does so in the background, and only says that it has failed.
    #[test]
    fn what_fjall_cannot_sort_into_files_is_told_in_words() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut lsm = Lsm::open(directory.path()).expect("new");
        let key = b"t".to_vec();
        let write =
            Write { table: Table::Retained, key: key.into(), value: Some(Vec::new()), fresh: true };
        lsm.commit(std::slice::from_ref(&write), Commit::System).expect("room");
        let number = Table::Retained as u64 + 1;
        let tables = directory.path().join(format!("keyspaces/{number}/tables"));
        fs::remove_dir_all(tables).expect("it is there");
        lsm.tables[Table::Retained as usize].rotate_memtable().expect("room in memory");
        let error = loop {
            if let Err(error) = lsm.commit(std::slice::from_ref(&write), Commit::System) {
                break error.to_string();
            }
            std::thread::yield_now();
        };
        assert!(error.starts_with("fjall could not write to its files, "), "{error}");
        assert!(error.ends_with(damage::FREE), "{error}");
    }

    /// fjall's one worker must not come to wait for itself, when more has been asked of it meanwhile than is kept.
    #[test]
    fn what_is_large_in_memory_is_sorted_into_files_when_fjall_was_busy_for_long() {
        /// So much is kept.
        const ASKED: u32 = 1_000;
        const TABLES: [Table; 2] = [Table::Messages, Table::Retained];
        let directory = tempfile::tempdir().expect("a directory");
        let mut lsm = Lsm::open(directory.path()).expect("new");
        let tables = TABLES.map(|table| lsm.tables[table as usize].clone());
        let is_large = |table: &Keyspace| table.tree.active_memtable().size() > MEMTABLE_BYTES;
        let is_waiting = |table: &Keyspace| table.sealed_memtable_count() > 0;
        let mut count: u32 = 0;
        let mut commit = |len| {
            count += 1;
            let (key, value) = (count.to_be_bytes().to_vec(), Some(vec![7; len]));
            let write =
                |table| Write { table, key: key.clone().into(), value: value.clone(), fresh: true };
            lsm.commit(&TABLES.map(write), Commit::System).expect("room");
        };
        let busy = tables.each_ref().map(|table| table.tree.get_flush_lock());
        while !tables.iter().any(is_waiting) {
            commit(1 << 20);
        }
        while !tables.iter().all(is_large) {
            commit(1 << 20);
        }
        (0..ASKED).for_each(|_| commit(1));
        drop(busy);
        let until = Instant::now() + Duration::from_secs(20);
        while tables.iter().any(|table| is_large(table) || is_waiting(table)) {
            assert!(Instant::now() < until, "it waits for itself");
            commit(1);
        }
    }

    /// What waits for a long merge is in memory.
    #[test]
    fn who_writes_waits_when_much_is_unsorted() {
        const LEN: usize = 4 << 20;
        let directory = tempfile::tempdir().expect("a directory");
        let mut lsm = Lsm::open(directory.path()).expect("new");
        let table = lsm.tables[Table::Messages as usize].clone();
        let mut count: u32 = 0;
        let mut commit = move |lsm: &mut Lsm, len| {
            count += 1;
            let (key, value) = (count.to_be_bytes().to_vec(), Some(vec![7; len]));
            let write = Write { table: Table::Messages, key: key.into(), value, fresh: true };
            lsm.commit(&[write], Commit::System).expect("room");
        };
        let busy = table.tree.get_flush_lock();
        while table.sealed_memtable_count() == 0
            || table.tree.active_memtable().size() < UNSORTED_BYTES - LEN as u64
        {
            commit(&mut lsm, LEN);
        }
        let (written, is_written) = mpsc::channel();
        let writing = thread::spawn(move || {
            commit(&mut lsm, 2 * LEN);
            written.send(()).expect("somebody listens");
        });
        while table.tree.active_memtable().size() <= UNSORTED_BYTES {
            assert!(!writing.is_finished(), "it was written");
            thread::yield_now();
        }
        let too_early = is_written.recv_timeout(Duration::from_millis(100));
        assert_eq!(too_early, Err(mpsc::RecvTimeoutError::Timeout));
        drop(busy);
        writing.join().expect("it went on");
    }

    #[test]
    fn a_write_that_fails_is_no_damage() {
        let directory = tempfile::tempdir().expect("a directory");
        let lsm = Lsm::open(directory.path()).expect("new");
        let error = || std::io::Error::from(rustix::io::Errno::IO);
        assert_eq!(lsm.wrong(fjall::Error::Io(error())).to_string(), error().to_string());
    }
}
