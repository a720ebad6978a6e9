//! What can still be read of a database of which pages are damaged, moved into a new one.

use std::path::Path;

use hashbrown::HashSet;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode};

use super::pages::{Node, Pages, columns};
use super::{BESIDE, Sqlite, wal};
use crate::hooks::{Commit, Store, StoreError, Table, Write};
use crate::store::batches::Batches;
use crate::store::{Torn, damage, record, replace};

/// Pages above one another, at most: each has several below it.
const DEPTH: usize = 32;

/// Opens a database of which all pages are whole, or what is left of it.
pub(super) fn open(path: &Path) -> Result<Sqlite, StoreError> {
    Sqlite::prepare(path, Torn::IsTold)?;
    // Its log is read, too.
    let bytes = damage::bytes(path)? + damage::bytes(&wal::beside(path))?;
    if bytes > 0 {
        tracing::info!("{}: SQLite looks at all pages of {bytes} bytes", path.display());
    }
    let found = match open_whole(path)? {
        Ok(whole) => return Ok(whole),
        Err(found) => found,
    };
    tracing::error!("{}: the database is damaged: {found}", path.display());
    let pages = Pages::open(path)?;
    replace::with(path, &BESIDE, |draft| {
        let mut new = Sqlite::open(draft)?;
        Reading::new(&pages).all(&mut new)?;
        // What is in its log goes into its file with that.
        Ok(new.connection.close().map_err(|(_, error)| error)?)
    })?;
    Sqlite::open(path)
}

/// What is damaged of it otherwise.
fn open_whole(path: &Path) -> Result<Result<Sqlite, String>, StoreError> {
    if wal::is_alone(path)? {
        return Ok(Err("nothing is in it, but in its log".to_owned()));
    }
    // Before SQLite has it open: whoever closes a file takes its locks.
    if damage::bytes(path)? > 0 && Pages::open(path)?.lacks_some()? {
        return Ok(Err("its end is missing".to_owned()));
    }
    let connection = match Sqlite::connect(path) {
        Err(error) if is_damage(&error) => return Ok(Err(error.to_string())),
        connection => connection?,
    };
    if let Some(found) = damage(&connection)? {
        // It is to be set aside as it is.
        connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true)?;
        return Ok(Err(found));
    }
    Ok(Ok(Sqlite::with_tables(connection)?))
}

/// What is wrong; nothing if it is whole.
fn damage(connection: &Connection) -> Result<Option<String>, StoreError> {
    match look(connection) {
        Err(error) if is_damage(&error) => Ok(Some(error.to_string())),
        found => Ok(found?),
    }
}

fn look(connection: &Connection) -> rusqlite::Result<Option<String>> {
    let found = connection.query_row("pragma quick_check(1)", [], |row| row.get::<_, String>(0))?;
    if found != "ok" {
        return Ok(Some(found.replace('\n', " ")));
    }
    if connection.is_readonly("main")? {
        return Ok(Some("it says that it is not to be written".to_owned()));
    }
    let mut names = connection.prepare("select name from sqlite_schema where type = 'table'")?;
    let names: Vec<String> = names.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    let is_ours = |name: &String| Table::ALL.iter().any(|table| table.name() == name);
    for table in Table::ALL {
        let name = table.name();
        if names.iter().any(|there| there == name) {
            connection.prepare(&format!("select key, value from {name} order by key"))?;
        } else if !names.iter().all(is_ours) {
            return Ok(Some(format!("there is no table {name}")));
        }
    }
    Ok(None)
}

/// Whether it is of no use to try once more, and not for want of something.
pub(super) fn is_damage(error: &rusqlite::Error) -> bool {
    const READ: [i32; 3] = [
        rusqlite::ffi::SQLITE_IOERR_READ,
        rusqlite::ffi::SQLITE_IOERR_SHORT_READ,
        rusqlite::ffi::SQLITE_IOERR_CORRUPTFS,
    ];
    match error.sqlite_error() {
        Some(error) => match error.code {
            ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::Unknown => true,
            ErrorCode::SystemIoFailure => READ.contains(&error.extended_code),
            _ => false,
        },
        None => false,
    }
}

/// Reads the records of all tables.
struct Reading<'a> {
    pages: &'a Pages,
    /// The pages that something leads to.
    seen: HashSet<u32>,
    /// Pages that should have records, or a part of one, and cannot be read.
    lost: u32,
}

impl<'a> Reading<'a> {
    fn new(pages: &'a Pages) -> Self {
        Self { pages, seen: HashSet::new(), lost: 0 }
    }

    fn all(&mut self, to: &mut Sqlite) -> Result<(), StoreError> {
        let roots = self.pages.roots()?;
        let root = |table: Table| match roots.iter().find(|(name, _)| name == table.name()) {
            Some((_, root)) => *root,
            // All are made in their order, before there is anything in one of them.
            None => table as u32 + 2,
        };
        for table in Table::ALL {
            let mut batches = Batches::new(to);
            self.tree(root(table), DEPTH, &mut |key, value| {
                batches.put(Write { table, key: key.into(), value: Some(value), fresh: true })
            })?;
            let records = batches.finish()?;
            tracing::warn!("{records} records of the table {} were read", table.name());
        }
        if self.lost > 0 {
            let (lost, found) = (self.lost, self.others(to)?);
            tracing::error!(
                "{lost} pages of records cannot be read; {found} records were found that nothing leads to \
                 without them"
            );
        }
        Ok(())
    }

    /// Notes that something leads to a page; says whether nothing did before.
    fn see(&mut self, number: u32) -> bool {
        self.seen.insert(number)
    }

    /// The records below a page.
    fn tree(
        &mut self,
        number: u32,
        depth: usize,
        each: &mut impl FnMut(Vec<u8>, Vec<u8>) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let Some(depth) = depth.checked_sub(1) else { return Ok(()) };
        let node = match self.see(number) {
            true => self.pages.node(number)?,
            false => None,
        };
        let Some(node) = node.filter(Node::has_keys) else {
            self.lost += 1;
            return Ok(());
        };
        for cell in &node.cells {
            if let Some(below) = cell.before {
                self.tree(below, depth, each)?;
            }
            let Some((payload, others)) = self.pages.payload(cell)? else {
                self.lost += 1;
                continue;
            };
            for other in others {
                self.see(other);
            }
            if let Some([key, value]) = columns(&payload).as_deref() {
                each(key.to_vec(), value.to_vec())?;
            }
        }
        node.last.map_or(Ok(()), |last| self.tree(last, depth, each))
    }

    /// The records of pages that nothing leads to, if they are not there: each says itself to which table
    /// it belongs.
    fn others(&mut self, to: &mut Sqlite) -> Result<usize, StoreError> {
        for free in self.pages.free()? {
            self.see(free);
        }
        let mut found = 0;
        for number in self.pages.numbers().filter(|number| *number > 1) {
            if !self.see(number) {
                continue;
            }
            let Some(node) = self.pages.node(number)?.filter(Node::has_keys) else { continue };
            let mut writes = Vec::new();
            for cell in &node.cells {
                let Some((payload, _)) = self.pages.payload(cell)? else { continue };
                let Some((table, key, value)) = whole(&payload) else { continue };
                if to.get(table, key)?.is_none() {
                    let (key, value) = (key.into(), Some(value.to_vec()));
                    writes.push(Write { table, key, value, fresh: true });
                }
            }
            to.commit(&writes, Commit::System)?;
            found += writes.len();
        }
        Ok(found)
    }
}

/// A record whose own checksum is right, with the table that this is so for.
fn whole(payload: &[u8]) -> Option<(Table, &[u8], &[u8])> {
    let [key, value] = columns(payload)?[..] else { return None };
    let table = Table::ALL.into_iter().find(|table| record::is_whole(*table, key, value))?;
    Some((table, key, value))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const RECORDS: u32 = 3_000;
    /// What SQLite has by default.
    const PAGE: usize = 4096;

    fn key(n: u32) -> Vec<u8> {
        [7_u64.to_be_bytes(), u64::from(n).to_be_bytes()].concat()
    }

    fn value(n: u32) -> Vec<u8> {
        record::sealed(Table::Queued, &key(n), format!("the value of {n}").as_bytes())
    }

    fn database(path: &Path) {
        let mut store = Sqlite::open(path).expect("new");
        let put = |n: u32| Write {
            table: Table::Queued,
            key: key(n).into(),
            value: Some(value(n)),
            fresh: true,
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

    /// The list of tables, and what leads to all others of a table.
    #[test]
    fn a_page_that_others_hang_on_costs_what_is_in_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("db.sqlite");
        database(&path);
        let whole = fs::read(&path).expect("a file");
        let root = Pages::open(&path).expect("a database").roots().expect("a page");
        let root = root.iter().find(|(name, _)| name == Table::Queued.name()).expect("there").1;
        assert_eq!(root, Table::Queued as u32 + 2);
        let node = Pages::open(&path).expect("a database").node(root).expect("a page");
        let in_root = node.expect("whole").cells.len();
        assert!(in_root > 10);
        // In the head of the file: version, room for others, number of pages, format.
        let heads = [0, 18, 19, 20, 31, 47].map(|at| (at..at + 1, 0));
        let pages = [(0..PAGE, 0), (PAGE * (root as usize - 1)..PAGE * root as usize, in_root)];
        for (damaged, lost) in heads.into_iter().chain(pages) {
            let mut bytes = whole.clone();
            bytes[damaged.clone()].iter_mut().for_each(|byte| *byte ^= 0x24);
            fs::write(&path, &bytes).expect("written");
            let found = read(&open(&path).expect("mended"));
            assert_eq!(found.len(), RECORDS as usize - lost, "{damaged:?}");
        }
    }

    /// A database of records that are so long, each of one byte.
    fn fill(path: &Path, records: [(u8, usize); 3]) {
        let writes = records.map(|(n, len)| Write {
            table: Table::Queued,
            key: [n; 16].into(),
            value: Some(vec![n; len]),
            fresh: true,
        });
        let mut store = Sqlite::open(path).expect("new");
        store.commit(&writes, Commit::Disk).expect("room");
    }

    /// All pages that lead somewhere are whole.
    #[test]
    fn an_end_that_is_missing_is_damage() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("db.sqlite");
        fill(&path, [(1, 20), (2, 20), (3, 5 * PAGE)]);
        let whole = fs::read(&path).expect("a file");
        for (cut, left) in [(0, 3), (1, 2), (1000, 2), (PAGE, 2), (PAGE + 1, 2)] {
            fs::write(&path, &whole[..whole.len() - cut]).expect("written");
            let store = open(&path).expect("mended");
            let mut found = Vec::new();
            store.scan(Table::Queued, &mut |key, _| found.push(key[0])).expect("readable");
            assert_eq!(found, [1, 2, 3][..left], "without {cut} bytes");
        }
    }

    /// A record that goes on in pages of which one leads nowhere.
    #[test]
    fn a_record_that_is_there_in_part_is_counted() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("db.sqlite");
        fill(&path, [(1, 20), (0xEE, 5 * PAGE), (2, 20)]);
        let mut bytes = fs::read(&path).expect("a file");
        // Behind the number of the next page there is nothing else.
        let is_part = |page: &[u8]| page[4..].iter().all(|byte| *byte == 0xEE);
        let at = PAGE * bytes.chunks(PAGE).position(is_part).expect("some");
        bytes[at..at + 4].fill(0xFF);
        fs::write(&path, bytes).expect("written");
        let pages = Pages::open(&path).expect("a database");
        let (mut reading, mut found) = (Reading::new(&pages), Vec::new());
        let mut each = |key: Vec<u8>, _| {
            found.push(key[0]);
            Ok(())
        };
        reading.tree(Table::Queued as u32 + 2, DEPTH, &mut each).expect("readable");
        assert_eq!((reading.lost, found), (1, vec![1, 2]));
    }
}
