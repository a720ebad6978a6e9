//! What can still be read of a database of which files have rotted on disk, moved into a new one.
//!
//! fjall finds damage when it comes across it, and then neither opens nor reads on nor merges what it has.
//! So all files are compared with their checksums before it opens them. If one is wrong, every record of
//! every block that is whole, and of the journals, goes into a new database, and the old one is set aside.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::path::Path;

use super::Lsm;
use super::journal::Journals;
use super::table::{Record, Records};
use super::tree::{self, Files, Look};
use crate::hooks::{StoreError, Table, Write};
use crate::store::batches::Batches;
use crate::store::{Torn, damage, replace};

/// Opens a database of which all files are whole, or what is left of it.
pub(super) fn open(path: &Path) -> Result<Lsm, StoreError> {
    let mended = Lsm::prepare(path, Torn::IsTold)?;
    let bytes = tree::bytes(path)?;
    if bytes > 0 {
        let path = path.display();
        tracing::info!("{path}: tables of {bytes} bytes are compared with their checksums");
    }
    let files = Files::read(path, mended.has_commits, Look::AtAll)?;
    for file in &files.damaged {
        tracing::error!("{}: the file is damaged", file.display());
    }
    if files.damaged.is_empty() {
        match Lsm::build(path) {
            Err(error) if is_damage(&error) => {
                tracing::error!("{}: the database cannot be opened: {error}", path.display());
            }
            opened => return Ok(opened?),
        }
    }
    let journals = Journals::read(path)?;
    replace::with(path, &[], |draft| {
        let mut new = Lsm::build(draft)?;
        Table::ALL.iter().try_for_each(|table| copy(&files, &journals, *table, &mut new))
    })?;
    Ok(Lsm::build(path)?)
}

/// Whether it is of no use to try once more.
pub(super) fn is_damage(error: &fjall::Error) -> bool {
    use fjall::Error::{
        InvalidTag, InvalidTrailer, InvalidVersion, JournalRecovery, Unrecoverable,
    };
    match error {
        fjall::Error::Storage(lsm_tree::Error::Io(error)) | fjall::Error::Io(error) => {
            damage::is_unreadable(error) || error.kind() == std::io::ErrorKind::UnexpectedEof
        }
        fjall::Error::Storage(_)
        | InvalidTag(_)
        | InvalidTrailer
        | InvalidVersion(_)
        | JournalRecovery(_)
        | Unrecoverable => true,
        _ => false,
    }
}

/// A record as it stands in one place; the latest of a key comes first.
type Version = (Reverse<Vec<u8>>, u64, Option<Vec<u8>>);

/// A place with records in the order of their keys.
enum Source {
    File(Records),
    Journals(std::vec::IntoIter<Version>),
}

impl Source {
    fn next(&mut self) -> Result<Option<Version>, StoreError> {
        Ok(match self {
            Self::File(records) => records
                .next()?
                .map(|Record { key, sequence, value }| (Reverse(key), sequence, value)),
            Self::Journals(versions) => versions.next(),
        })
    }
}

/// What the journals have of a table.
fn journaled(journals: &Journals, keyspace: u64) -> Source {
    let mut versions = Vec::new();
    journals.each(&mut |item| {
        if item.keyspace == keyspace {
            let value = item.value.map(<[u8]>::to_vec);
            versions.push((Reverse(item.key.to_vec()), item.sequence, value));
        }
    });
    versions.sort_unstable_by(|one: &Version, other| other.cmp(one));
    Source::Journals(versions.into_iter())
}

/// Copies what can be read of a table, and says how much that is.
fn copy(files: &Files, journals: &Journals, table: Table, to: &mut Lsm) -> Result<(), StoreError> {
    let mut sources = vec![journaled(journals, files.keyspaces[table as usize])];
    for file in &files.tables[table as usize] {
        sources.push(Source::File(Records::of(file)?));
    }
    let mut heap = BinaryHeap::new();
    for (index, source) in sources.iter_mut().enumerate() {
        heap.extend(source.next()?.map(|version| (version, index)));
    }
    let mut batches = Batches::new(to);
    let mut last = None;
    while let Some(((Reverse(key), _, value), index)) = heap.pop() {
        if let Some(source) = sources.get_mut(index) {
            heap.extend(source.next()?.map(|version| (version, index)));
        }
        if last.as_ref() != Some(&key)
            && let Some(value) = value
        {
            batches.put(Write {
                table,
                key: key.as_slice().into(),
                value: Some(value),
                fresh: true,
            })?;
        }
        last = Some(key);
    }
    let records = batches.finish()?;
    tracing::warn!("{records} records of the table {} were read", table.name());
    for source in &sources {
        if let Source::File(records) = source
            && records.lost > 0
        {
            let (file, lost) = (records.path().display(), records.lost);
            tracing::error!("{file}: {lost} bytes of records could not be read");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::PathBuf;

    use lsm_tree::AbstractTree;

    use crate::hooks::{Commit, Store};
    use crate::store::damage::SET_ASIDE;

    const RECORDS: u32 = 2_000;

    fn key(n: u32) -> Vec<u8> {
        n.to_be_bytes().to_vec()
    }

    fn put(n: u32, value: Option<&str>) -> Write {
        let value = value.map(|value| format!("{value} of {n}").into_bytes());
        Write { table: Table::Queued, key: key(n).into(), value, fresh: false }
    }

    /// Every number, then every third one once more, then without every fifth: each in a file of its own;
    /// and a last one that is in the journal only.
    fn database(path: &Path) -> Vec<u32> {
        let mut lsm = Lsm::open(path).expect("new");
        let steps: [&dyn Fn(u32) -> Option<Write>; 3] = [
            &|n| Some(put(n, Some("old"))),
            &|n| n.is_multiple_of(3).then(|| put(n, Some("new"))),
            &|n| n.is_multiple_of(5).then(|| put(n, None)),
        ];
        for step in steps {
            let writes: Vec<_> = (0..RECORDS).filter_map(step).collect();
            lsm.commit(&writes, Commit::Disk).expect("room");
            lsm.tables[Table::Queued as usize].rotate_memtable_and_wait().expect("room");
        }
        lsm.commit(&[put(RECORDS, Some("last"))], Commit::Disk).expect("room");
        (0..=RECORDS).filter(|n| !n.is_multiple_of(5) || *n == RECORDS).collect()
    }

    fn files(lsm: &Lsm) -> Vec<PathBuf> {
        let version = lsm.tables[Table::Queued as usize].tree.current_version();
        version.iter_tables().map(|file| file.path.to_path_buf()).collect()
    }

    fn last_journal(path: &Path) -> PathBuf {
        let journals = damage::entries(path).expect("a directory").into_iter();
        let journals = journals.filter(|path| path.extension().is_some_and(|it| it == "jnl"));
        journals.max().expect("a journal")
    }

    fn read(lsm: &Lsm) -> Vec<(u32, String)> {
        let mut found = Vec::new();
        lsm.scan(Table::Queued, &mut |key, value| {
            let n = u32::from_be_bytes(key.try_into().expect("a number"));
            found.push((n, String::from_utf8(value.to_vec()).expect("text")));
        })
        .expect("all of it can be read");
        found
    }

    fn value(n: u32) -> String {
        let word = match n {
            RECORDS => "last",
            n if n.is_multiple_of(3) => "new",
            _ => "old",
        };
        format!("{word} of {n}")
    }

    #[test]
    fn what_is_whole_stays_where_it_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fjall");
        let there = database(&path);
        let lsm = open(&path).expect("whole");
        assert_eq!(read(&lsm), there.iter().map(|n| (*n, value(*n))).collect::<Vec<_>>());
        assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 1);
    }

    /// fjall would end the process.
    #[test]
    fn what_does_not_belong_there_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fjall");
        let there = database(&path).len();
        let strays = ["keyspaces/copy", "keyspaces/1/tables/copy", "9.jnl"];
        for stray in strays.map(|stray| path.join(stray)) {
            fs::create_dir(&stray).expect("made");
            let said = format!("{}: it does not belong there: move it away", stray.display());
            for opened in [open(&path), Lsm::open(&path), Lsm::reopen(&path)] {
                assert_eq!(opened.err().map(|error| error.to_string()), Some(said.clone()));
            }
            fs::remove_dir(&stray).expect("it is empty");
        }
        let link = path.join("99.jnl");
        std::os::unix::fs::symlink(last_journal(&path), &link).expect("made");
        let error = open(&path).err().expect("a link").to_string();
        assert!(error.starts_with(&link.display().to_string()), "{error}");
        fs::remove_file(link).expect("it is there");
        // What it has of its own is made anew.
        fs::remove_file(path.join("lock")).expect("it is there");
        assert_eq!(read(&open(&path).expect("whole")).len(), there);
    }

    /// Somebody who runs a second broker has removed the lock of the first.
    #[test]
    fn what_is_open_is_not_mended() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fjall");
        database(&path);
        let lsm = Lsm::open(&path).expect("whole");
        let journal = last_journal(&path);
        // As it is in the middle of a commit.
        let mut bytes = fs::read(&journal).expect("a file");
        bytes.truncate(damage::written_len(&bytes));
        bytes.push(1);
        fs::write(&journal, &bytes).expect("written");
        for opened in [open(&path), Lsm::open(&path), Lsm::reopen(&path)] {
            let error = opened.err().expect("it is open").to_string();
            assert_eq!(error, "another process has it open");
            assert!(fs::read(&journal).expect("a file") == bytes, "it was mended");
        }
        drop(lsm);
        Lsm::open(&path).expect("it is not open any more");
        assert!(fs::read(&journal).expect("a file") != bytes, "it was not mended");
    }

    /// The journal goes back to the beginning here.
    #[test]
    fn without_its_tables_what_the_journals_have_is_there() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fjall");
        let there = database(&path);
        fs::remove_dir_all(path.join("keyspaces")).expect("removed");
        let found = read(&open(&path).expect("mended"));
        assert_eq!(found, there.iter().map(|n| (*n, value(*n))).collect::<Vec<_>>());
    }

    /// One block has fewer than 300 of these records.
    #[test]
    fn what_can_be_read_of_a_damaged_file_is_moved() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fjall");
        let there = database(&path);
        let file = files(&Lsm::open(&path).expect("whole")).pop().expect("the oldest");
        let whole = fs::read(&file).expect("a file");
        // In the head of a block, in records, and in what fjall needs to open it: its index, what is in it,
        // where all that is.
        let len = whole.len();
        let places = [0, 5_000, 20_000, len - 8_000, len - 1_500, len - 700, len - 200, len - 1];
        for at in places {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            fs::write(&file, &bytes).expect("written");
            let lsm = open(&path).expect("mended");
            let found = read(&lsm);
            assert!(found.len() > there.len() - 300, "{} with byte {at} damaged", found.len());
            assert!(found.iter().all(|(n, text)| *text == value(*n) && there.contains(n)));
            assert_eq!(found.last().expect("some").0, RECORDS);
            drop(lsm);
            let aside = path.with_extension(format!("{SET_ASIDE}0"));
            assert!(
                fs::read(aside.join(file.strip_prefix(&path).expect("below"))).expect("a file")
                    == bytes
            );
            assert_eq!(read(&open(&path).expect("whole")), found);
            // As it was.
            fs::remove_dir_all(&path).expect("removed");
            fs::rename(&aside, &path).expect("moved");
        }
    }
}
