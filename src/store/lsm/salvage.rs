//! What can still be read of tables that have rotted on disk, moved into a new database.
//!
//! fjall finds damage when it comes across it, and then neither reads on nor merges what it has. So the
//! files are compared with their checksums at the start. If one is wrong, every block that is whole goes
//! into a new database, and the old one is set aside as it was found.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use fjall::Keyspace;
use lsm_tree::{AbstractTree, InternalValue, SeqNo, UserKey, UserValue};
use xxhash_rust::xxh3::Xxh3;

use super::Lsm;
use crate::hooks::{StoreError, Table, Write};
use crate::store::batches::Batches;
use crate::store::exchange;

/// Bytes of a file that are read at once.
const READ_BYTES: usize = 256 << 10;
/// Blocks one behind the other that cannot be read before a file is given up.
const BLOCKS_SKIPPED: usize = 32 << 10;
/// What the system says of a disk that does not give what is on it.
const EIO: i32 = 5;

/// Opens a database of which all files are whole, or what is left of it.
pub(super) fn open(path: &Path) -> Result<Lsm, StoreError> {
    let old = Lsm::open(path)?;
    let damaged = damaged_files(path, &old)?;
    if damaged.is_empty() {
        return Ok(old);
    }
    for file in &damaged {
        tracing::error!("{}: the file is damaged", file.display());
    }
    let mut new = Lsm::open(&exchange::draft(path, &[])?)?;
    for table in Table::ALL {
        let Some(keyspace) = old.tables.get(table as usize) else { continue };
        let records = copy(keyspace, table, &damaged, &mut new)?;
        tracing::warn!("{records} records of the table {} were read", table.name());
    }
    drop((old, new));
    exchange::take_draft(path, &[])?;
    Lsm::open(path)
}

/// The files of tables whose checksum is wrong. The log says before how much there is to read.
fn damaged_files(path: &Path, database: &Lsm) -> io::Result<Vec<PathBuf>> {
    let versions: Vec<_> =
        database.tables.iter().map(|table| table.tree.current_version()).collect();
    let files: Vec<_> = versions.iter().flat_map(|version| version.iter_tables()).collect();
    let mut bytes = 0;
    for file in &files {
        bytes += file.path.metadata()?.len();
    }
    if !files.is_empty() {
        tracing::info!(
            "{}: {} files of {bytes} bytes in all are compared with their checksums",
            path.display(),
            files.len()
        );
    }
    let (mut damaged, mut buffer) = (Vec::new(), vec![0; READ_BYTES]);
    for file in files {
        if checksum(&file.path, &mut buffer)? != Some(file.checksum().into_u128()) {
            damaged.push(file.path.to_path_buf());
        }
    }
    Ok(damaged)
}

/// Nothing if the disk does not give all of it.
fn checksum(path: &Path, buffer: &mut [u8]) -> io::Result<Option<u128>> {
    let (mut file, mut checksum) = (File::open(path)?, Xxh3::new());
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(Some(checksum.digest128())),
            Ok(len) => checksum.update(buffer.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(EIO) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// A record as it stands in one file, or that it is gone; the latest of a key comes first.
type Version = (Reverse<UserKey>, SeqNo, Option<UserValue>);

type Records<'a> = Box<dyn Iterator<Item = lsm_tree::Result<Version>> + 'a>;

fn as_version(record: lsm_tree::Result<InternalValue>) -> lsm_tree::Result<Version> {
    record.map(|InternalValue { key, value }| {
        let value = (!key.is_tombstone()).then_some(value);
        (Reverse(key.user_key), key.seqno, value)
    })
}

/// The next record that can be read.
fn next(records: &mut Records<'_>) -> Result<Option<Version>, StoreError> {
    for _ in 0..BLOCKS_SKIPPED {
        match records.next() {
            Some(Err(error)) if is_damage(&error) => {}
            next => return Ok(next.transpose().map_err(fjall::Error::from)?),
        }
    }
    Ok(None)
}

/// Whether reading it once more would not help.
fn is_damage(error: &lsm_tree::Error) -> bool {
    match error {
        lsm_tree::Error::Io(error) => {
            error.kind() == io::ErrorKind::UnexpectedEof || error.raw_os_error() == Some(EIO)
        }
        _ => true,
    }
}

/// Copies what can be read, and gives how many records that is.
fn copy(
    from: &Keyspace,
    table: Table,
    damaged: &[PathBuf],
    to: &mut Lsm,
) -> Result<u64, StoreError> {
    // What has only been in its journal is a file of its own then.
    from.tree.flush_active_memtable(0).map_err(fjall::Error::from)?;
    let version = from.tree.current_version();
    let mut sources: Vec<Records<'_>> = Vec::new();
    for file in version.iter_tables() {
        sources.push(Box::new(file.iter().map(as_version)));
        if damaged.contains(&file.path) {
            // In the order of the file, too: its index may be what is damaged.
            match file.scan() {
                Ok(scan) => sources.push(Box::new(scan.map(as_version))),
                Err(error) if is_damage(&error) => {}
                Err(error) => return Err(fjall::Error::from(error).into()),
            }
        }
    }
    let mut heap = BinaryHeap::new();
    for (index, source) in sources.iter_mut().enumerate() {
        heap.extend(next(source)?.map(|version| (version, index)));
    }
    let mut batches = Batches::new(to);
    let mut last = None;
    while let Some(((Reverse(key), _, value), index)) = heap.pop() {
        if let Some(source) = sources.get_mut(index) {
            heap.extend(next(source)?.map(|version| (version, index)));
        }
        if last.as_ref() != Some(&key)
            && let Some(value) = value
        {
            let (key, value) = (key.to_vec(), Some(value.to_vec()));
            batches.put(Write { table, key, value, fresh: true })?;
        }
        last = Some(key);
    }
    batches.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    use crate::hooks::{Commit, Store};
    use crate::store::directory::SET_ASIDE;

    const RECORDS: u32 = 2_000;

    fn key(n: u32) -> Vec<u8> {
        n.to_be_bytes().to_vec()
    }

    fn put(n: u32, value: Option<&str>) -> Write {
        let value = value.map(|value| format!("{value} of {n}").into_bytes());
        Write { table: Table::Queued, key: key(n), value, fresh: false }
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

    /// One block has fewer than 300 of these records.
    #[test]
    fn what_can_be_read_of_a_damaged_file_is_moved() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fjall");
        let there = database(&path);
        let file = files(&Lsm::open(&path).expect("whole")).pop().expect("the oldest");
        let whole = fs::read(&file).expect("a file");
        // In front of what fjall needs to open it: its index, what is in it, where all that is.
        for (count, at) in [0, 5_000, 20_000, whole.len() - 8_000].into_iter().enumerate() {
            let mut bytes = whole.clone();
            bytes[at] ^= 4;
            fs::write(&file, &bytes).expect("written");
            let lsm = open(&path).expect("mended");
            let found = read(&lsm);
            assert!(found.len() > there.len() - 300, "{} with byte {at} damaged", found.len());
            assert!(found.iter().all(|(n, text)| *text == value(*n) && there.contains(n)));
            assert_eq!(found.last().expect("some").0, RECORDS);
            drop(lsm);
            let aside = path.with_extension(format!("{SET_ASIDE}{count}"));
            assert!(
                fs::read(aside.join(file.strip_prefix(&path).expect("below"))).expect("a file")
                    == bytes
            );
            assert_eq!(read(&open(&path).expect("whole")), found);
            // As it was.
            fs::remove_dir_all(&path).expect("removed");
            copy_all(&aside, &path);
        }
    }

    fn copy_all(from: &Path, to: &Path) {
        fs::create_dir(to).expect("made");
        for entry in fs::read_dir(from).expect("a directory") {
            let entry = entry.expect("an entry");
            let target = to.join(entry.file_name());
            if entry.path().is_dir() {
                copy_all(&entry.path(), &target);
            } else {
                fs::copy(entry.path(), target).expect("copied");
            }
        }
    }
}
