//! Records in an SQLite database, for those who want to open it with a tool they know.

mod pages;
mod salvage;
mod wal;

use std::path::Path;

use rusqlite::{Connection, ErrorCode, params};

use super::{MENDS, Torn, replace};
use crate::hooks::{Commit, Store, StoreError, Table, Write};

/// Files that it has beside a database.
pub(super) const BESIDE: [&str; 2] = [LOG, INDEX];
/// Its log, as long as it is open.
pub(super) const LOG: &str = "-wal";
/// What it knows of its log. Whoever closes the database in good order removes this first.
const INDEX: &str = "-shm";
/// Pages of the log before it is written into the database.
const CHECKPOINT_PAGES: u32 = 4000;

pub(super) struct Sqlite {
    connection: Connection,
    /// What `synchronous` is set to.
    commit: Option<Commit>,
    /// The last commit failed, and not for want of room.
    is_broken: bool,
}

impl From<rusqlite::Error> for StoreError {
    fn from(error: rusqlite::Error) -> Self {
        let way = if salvage::is_damage(&error) { MENDS } else { "" };
        Self(format!("{error}{way}"))
    }
}

impl Sqlite {
    /// Opens or makes it. A last commit that is there in part is cut off, and the log tells of it.
    pub(super) fn open(path: &Path) -> Result<Self, StoreError> {
        Self::prepare(path, Torn::IsTold)?;
        Self::open_as_it_is(path)
    }

    /// As [`open`](Self::open), after a failure. Of a last commit that is there in part nothing is said:
    /// whoever made it makes it again.
    pub(super) fn reopen(path: &Path) -> Result<Self, StoreError> {
        Self::prepare(path, Torn::IsExpected)?;
        Self::open_as_it_is(path)
    }

    fn open_as_it_is(path: &Path) -> Result<Self, StoreError> {
        if wal::is_alone(path)? {
            let name = path.display();
            return Err(StoreError(format!("{name}: nothing is in it, but in its log{MENDS}")));
        }
        Ok(Self::with_tables(Self::connect(path)?)?)
    }

    fn prepare(path: &Path, told: Torn) -> Result<(), StoreError> {
        replace::end(path, &BESIDE)?;
        let log = wal::beside(path);
        if told == Torn::IsTold && wal::is_missing(path)? {
            tracing::error!(
                "{}: missing, though the database was in use: what only it had is lost",
                log.display()
            );
        }
        let torn = wal::mend(&log)?;
        wal::write_again(&log)?;
        if torn > 0 && told == Torn::IsTold {
            tracing::warn!(
                "{}: the last commit is there in part, {torn} bytes were cut off",
                log.display()
            );
        }
        Ok(())
    }

    fn connect(path: &Path) -> rusqlite::Result<Connection> {
        let connection = Connection::open(path)?;
        connection.pragma_update(None, "journal_mode", "wal")?;
        connection.pragma_update(None, "wal_autocheckpoint", CHECKPOINT_PAGES)?;
        Ok(connection)
    }

    fn with_tables(connection: Connection) -> rusqlite::Result<Self> {
        for table in Table::ALL {
            let name = table.name();
            connection.execute_batch(&format!(
                "create table if not exists {name} (key blob primary key, value blob not null) \
                 without rowid"
            ))?;
        }
        Ok(Self { connection, commit: None, is_broken: false })
    }

    /// Opens it, and has SQLite look at all of its pages. What can be read of a damaged database goes into a
    /// new one, the old one is set aside, and the log tells of it.
    pub(super) fn open_mended(path: &Path) -> Result<Self, StoreError> {
        salvage::open(path)
    }

    fn make(&mut self, writes: &[Write], commit: Commit) -> rusqlite::Result<()> {
        if self.commit != Some(commit) {
            let synchronous = match commit {
                Commit::System => "normal",
                Commit::Disk => "full",
            };
            self.connection.pragma_update(None, "synchronous", synchronous)?;
            self.commit = Some(commit);
        }
        if writes.is_empty() {
            // A transaction without changes syncs nothing, and earlier ones may not have been.
            return match commit {
                Commit::System => Ok(()),
                Commit::Disk => self.connection.query_row("pragma wal_checkpoint", [], |_| Ok(())),
            };
        }
        let transaction = self.connection.transaction()?;
        for Write { table, key, value, .. } in writes {
            let name = table.name();
            match value {
                Some(value) => transaction
                    .prepare_cached(&format!("insert or replace into {name} values (?, ?)"))?
                    .execute(params![&**key, value])?,
                None => transaction
                    .prepare_cached(&format!("delete from {name} where key = ?"))?
                    .execute(params![&**key])?,
            };
        }
        transaction.commit()
    }
}

impl Store for Sqlite {
    fn commit(&mut self, writes: &[Write], commit: Commit) -> Result<(), StoreError> {
        let done = self.make(writes, commit);
        let error = done.as_ref().err();
        self.is_broken =
            error.is_some_and(|error| error.sqlite_error_code() != Some(ErrorCode::DiskFull));
        Ok(done?)
    }

    fn wants_reopening(&self) -> bool {
        self.is_broken
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let name = table.name();
        let select = format!("select value from {name} where key = ?");
        let mut select = self.connection.prepare_cached(&select)?;
        let mut rows = select.query([key])?;
        Ok(match rows.next()? {
            Some(row) => Some(row.get_ref(0)?.as_blob().unwrap_or_default().to_vec()),
            None => None,
        })
    }

    fn range(
        &self,
        table: Table,
        from: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let name = table.name();
        let select = format!("select key, value from {name} where key >= ? order by key");
        let mut select = self.connection.prepare_cached(&select)?;
        let mut rows = select.query([from])?;
        while let Some(row) = rows.next()? {
            let key = row.get_ref(0)?.as_blob().unwrap_or_default();
            if !each(key, row.get_ref(1)?.as_blob().unwrap_or_default()) {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It would remove the log of a database in which nothing is.
    #[test]
    fn a_log_without_its_database_stays() {
        let [directory, copy] = [(); 2].map(|()| tempfile::tempdir().expect("a directory"));
        let path = directory.path().join("db.sqlite");
        let mut store = Sqlite::open(&path).expect("new");
        let value = Some(b"v".to_vec());
        let write = Write { table: Table::Retained, key: (*b"t").into(), value, fresh: false };
        store.commit(&[write], Commit::Disk).expect("room");
        for there in [None, Some(""), Some("S")] {
            let path = copy.path().join("db.sqlite");
            let log = wal::beside(&path);
            std::fs::copy(wal::beside(&directory.path().join("db.sqlite")), &log).expect("copied");
            if let Some(there) = there {
                std::fs::write(&path, there).expect("written");
            }
            for opened in [Sqlite::open(&path), Sqlite::reopen(&path)] {
                let error = opened.err().expect("it is not there").to_string();
                assert!(error.contains("a start of the broker mends"), "{error}");
            }
            assert!(log.metadata().expect("it stays").len() > 0);
            let store = Sqlite::open_mended(&path).expect("mended");
            assert_eq!(store.get(Table::Retained, b"t"), Ok(Some(b"v".to_vec())));
            drop(store);
            std::fs::remove_file(&path).expect("there is a new one");
        }
    }

    /// The log is synced before anything of it goes into the database.
    #[test]
    fn a_commit_of_nothing_syncs_those_before() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("db.sqlite");
        let mut store = Sqlite::open(&path).expect("new");
        let value = Some(b"what was committed before".to_vec());
        let write = Write { table: Table::Retained, key: (*b"t").into(), value, fresh: false };
        store.commit(&[write], Commit::System).expect("room");
        let is_there = || {
            let bytes = std::fs::read(&path).expect("a file");
            memchr::memmem::find(&bytes, b"what was committed before").is_some()
        };
        store.commit(&[], Commit::System).expect("room");
        assert!(!is_there());
        store.commit(&[], Commit::Disk).expect("room");
        assert!(is_there());
    }
}
