//! What can still be read of a database of which pages are damaged, moved into a new one.
//!
//! A read of a damaged page fails, and with it what goes on from there. So a table is read from its
//! beginning and from its end, each as far as that goes, and what is between from keys in the middle.

use std::path::Path;

use rusqlite::{Connection, ErrorCode, params};

use super::Sqlite;
use crate::hooks::{StoreError, Table, Write};
use crate::store::batches::Batches;
use crate::store::exchange;

/// Files that SQLite has beside a database.
pub(super) const BESIDE: [&str; 2] = ["-wal", "-shm"];
/// How often what is between two keys is cut in two to find what can be read of it.
const CUTS: u32 = 10;

/// Opens a database of which all pages are whole, or what is left of it.
pub(super) fn open(path: &Path) -> Result<Sqlite, StoreError> {
    // That of its log counts: it is read, too.
    let bytes: u64 = BESIDE.iter().chain(&[""]).map(|suffix| bytes(path, suffix)).sum();
    let old = Sqlite::open(path)?;
    if bytes > 0 {
        tracing::info!("{}: SQLite looks at all pages of {bytes} bytes", path.display());
    }
    let Some(found) = damage(&old.connection)? else { return Ok(old) };
    tracing::error!("{}: the database is damaged: {found}", path.display());
    let mut new = Sqlite::open(&exchange::draft(path, &BESIDE)?)?;
    for table in Table::ALL {
        let mut batches = Batches::new(&mut new);
        Gap::all(&old.connection, table).read(&mut batches)?;
        let records = batches.finish()?;
        tracing::warn!("{records} records of the table {} were read", table.name());
    }
    // What is in its log goes into its file with that.
    new.connection.close().map_err(|(_, error)| error)?;
    drop(old);
    exchange::take_draft(path, &BESIDE)?;
    Sqlite::open(path)
}

/// Of a file whose name goes on with a suffix; none if it is not there.
fn bytes(path: &Path, suffix: &str) -> u64 {
    exchange::beside(path, suffix).metadata().map_or(0, |metadata| metadata.len())
}

/// What SQLite finds wrong; nothing if it is whole.
fn damage(connection: &Connection) -> Result<Option<String>, StoreError> {
    let found = connection.query_row("pragma quick_check(1)", [], |row| row.get::<_, String>(0));
    match found {
        Ok(found) => Ok((found != "ok").then(|| found.replace('\n', " "))),
        Err(error) if is_damage(&error) => Ok(Some(error.to_string())),
        Err(error) => Err(error.into()),
    }
}

fn is_damage(error: &rusqlite::Error) -> bool {
    error.sqlite_error_code() == Some(ErrorCode::DatabaseCorrupt)
}

/// Keys of a table that have not been read.
struct Gap<'a> {
    connection: &'a Connection,
    table: Table,
    /// The first that may be one of them.
    from: Vec<u8>,
    /// The first that is not, if there is one.
    end: Option<Vec<u8>>,
    cuts: u32,
}

impl<'a> Gap<'a> {
    fn all(connection: &'a Connection, table: Table) -> Self {
        Self { connection, table, from: Vec::new(), end: None, cuts: CUTS }
    }

    /// Reads what can be read.
    fn read(mut self, batches: &mut Batches<'_>) -> Result<(), StoreError> {
        if self.forward(batches)? || self.backward(batches)? {
            return Ok(());
        }
        let Some(cuts) = self.cuts.checked_sub(1) else { return Ok(()) };
        let Some(middle) = middle(&self.from, self.end.as_deref()) else { return Ok(()) };
        let Self { connection, table, from, end, .. } = self;
        let below = Self { connection, table, from, end: Some(middle.clone()), cuts };
        below.read(batches)?;
        Self { connection, table, from: middle, end, cuts }.read(batches)
    }

    /// As far as that goes; says whether that is everything.
    fn forward(&mut self, batches: &mut Batches<'_>) -> Result<bool, StoreError> {
        self.each("asc", batches, |gap, mut key| {
            key.push(0);
            gap.from = key;
        })
    }

    fn backward(&mut self, batches: &mut Batches<'_>) -> Result<bool, StoreError> {
        self.each("desc", batches, |gap, key| gap.end = Some(key))
    }

    fn each(
        &mut self,
        order: &str,
        batches: &mut Batches<'_>,
        narrow: impl Fn(&mut Self, Vec<u8>),
    ) -> Result<bool, StoreError> {
        let (table, name) = (self.table, self.table.name());
        let select = format!(
            "select key, value from {name} where key >= ?1 and (?2 is null or key < ?2) \
             order by key {order}"
        );
        let mut select = self.connection.prepare_cached(&select)?;
        let mut rows = select.query(params![self.from, self.end])?;
        loop {
            match rows.next() {
                Ok(None) => return Ok(true),
                Ok(Some(row)) => {
                    let (key, value): (Vec<u8>, _) = (row.get(0)?, Some(row.get(1)?));
                    batches.put(Write { table, key: key.clone(), value, fresh: true })?;
                    narrow(self, key);
                }
                Err(error) if is_damage(&error) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A key about in the middle of a gap, if there is one within.
fn middle(from: &[u8], end: Option<&[u8]>) -> Option<Vec<u8>> {
    let end = end.unwrap_or(&[u8::MAX; 8]);
    let shared = from.iter().zip(end).take_while(|(a, b)| a == b).count();
    let number = |key: &[u8]| {
        let mut bytes = [0; 8];
        bytes.iter_mut().zip(key.get(shared..)?).for_each(|(to, byte)| *to = *byte);
        Some(u64::from_be_bytes(bytes))
    };
    let (low, high) = (number(from)?, number(end)?);
    let half = high.checked_sub(low)? / 2;
    let prefix = from.get(..shared)?;
    (half > 0).then(|| [prefix, &(low + half).to_be_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::hooks::{Commit, Store};

    const RECORDS: u32 = 3_000;
    /// What SQLite has by default.
    const PAGE: usize = 4096;

    fn value(n: u32) -> Vec<u8> {
        format!("the value of {n}").into_bytes()
    }

    fn database(path: &Path) {
        let mut store = Sqlite::open(path).expect("new");
        let put = |n: u32| {
            let key = [7_u64.to_be_bytes(), u64::from(n).to_be_bytes()].concat();
            Write { table: Table::Queued, key, value: Some(value(n)), fresh: true }
        };
        store.commit(&(0..RECORDS).map(put).collect::<Vec<_>>(), Commit::Disk).expect("room");
    }

    fn read(store: &Sqlite) -> Vec<u32> {
        let mut found = Vec::new();
        store
            .scan(Table::Queued, &mut |key, text| {
                let n = u64::from_be_bytes(key[8..].try_into().expect("a number")) as u32;
                assert_eq!(text, value(n));
                found.push(n);
            })
            .expect("all of it can be read");
        found
    }

    /// The page that has a value; the root of the table has some, too.
    fn page_of(bytes: &[u8], n: u32) -> usize {
        let value = value(n);
        let at = bytes.windows(value.len()).position(|window| window == value).expect("is there");
        at / PAGE * PAGE
    }

    #[test]
    fn what_can_be_read_is_moved() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("db.sqlite");
        database(&path);
        let whole = fs::read(&path).expect("a file");
        for damaged in [&[0][..], &[RECORDS - 1], &[500, 2_500]] {
            let mut bytes = whole.clone();
            for n in damaged {
                let page = page_of(&bytes, *n);
                bytes[page..page + 64].fill(0xA5);
            }
            fs::write(&path, &bytes).expect("written");
            let store = open(&path).expect("mended");
            let found = read(&store);
            // A page has fewer than 130 of them.
            assert!(found.len() > RECORDS as usize - 130 * damaged.len(), "{}", found.len());
            assert!(damaged.iter().all(|n| !found.contains(n)));
            drop(store);
            assert_eq!(read(&open(&path).expect("whole")), found);
        }
        let aside: Vec<_> =
            (0..3).map(|count| fs::read(path.with_extension(format!("damaged-{count}")))).collect();
        assert!(
            aside.iter().all(|bytes| bytes.as_ref().is_ok_and(|bytes| bytes.len() == whole.len()))
        );
    }

    #[test]
    fn the_middle_is_between() {
        let end = |bytes: &'static [u8]| Some(bytes);
        assert_eq!(middle(b"", None), Some(vec![0x7f, 255, 255, 255, 255, 255, 255, 255]));
        assert_eq!(middle(b"ab", end(b"ad")), Some(b"ac\0\0\0\0\0\0\0".to_vec()));
        assert_eq!(middle(b"ab", end(b"ac")), Some(b"ab\x80\0\0\0\0\0\0".to_vec()));
        assert_eq!(middle(b"ab\0", end(b"ab\0\0\0\0\0\0\0\0\x01")), None);
    }
}
