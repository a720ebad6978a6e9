//! The journals of fjall, mended before it opens them.
//!
//! fjall cuts a last batch that is there in part without a word, and opens nothing when a batch has a wrong
//! checksum. So the journals are read before: a torn tail is cut off, a damaged batch with whole ones behind
//! it is taken out and set aside as a file, and both are told.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;

use xxhash_rust::xxh3::Xxh3;

use crate::store::Torn;
use crate::store::directory::SET_ASIDE;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
/// Behind the checksum of each batch.
const MAGIC: &[u8] = b"FJL\x03";
/// What an item has in front of its key: tag, type, compression, table, three lengths.
const ITEM_HEAD: usize = 1 + 1 + 1 + 8 + 2 + 4 + 4;

/// Mends all journals of a directory.
pub(super) fn mend(directory: &Path, torn: Torn) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "jnl") {
            mend_one(&path, torn)?;
        }
    }
    Ok(())
}

fn mend_one(path: &Path, torn: Torn) -> io::Result<()> {
    let bytes = fs::read(path)?;
    let found = Found::of(&bytes);
    if !found.damaged.is_empty() {
        let lost: usize = found.damaged.iter().map(Range::len).sum();
        for range in &found.damaged {
            let aside = path.with_extension(format!("{SET_ASIDE}{}", range.start));
            fs::write(&aside, bytes.get(range.clone()).unwrap_or_default())?;
            File::open(&aside)?.sync_all()?;
        }
        let draft = path.with_extension("draft");
        let mut file = File::create(&draft)?;
        for range in &found.whole {
            file.write_all(bytes.get(range.clone()).unwrap_or_default())?;
        }
        file.sync_all()?;
        fs::rename(&draft, path)?;
        if let Some(directory) = path.parent() {
            File::open(directory)?.sync_all()?;
        }
        tracing::error!(
            "{}: {lost} bytes of commits are damaged, and were set aside",
            path.display()
        );
    } else if found.torn > 0 {
        let file = File::options().write(true).open(path)?;
        file.set_len(found.whole.last().map_or(0, |last| last.end) as u64)?;
        file.sync_all()?;
    }
    if found.torn > 0 && torn == Torn::IsTold {
        tracing::warn!(
            "{}: the last commit is there in part, {} bytes were cut off",
            path.display(),
            found.torn
        );
    }
    Ok(())
}

/// What a journal is made of.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    whole: Vec<Range<usize>>,
    /// With whole batches behind.
    damaged: Vec<Range<usize>>,
    /// The bytes of what is at the end and not whole.
    torn: usize,
}

impl Found {
    fn of(bytes: &[u8]) -> Self {
        let mut found = Self::default();
        // Beyond it there is room that was set apart.
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        let bytes = bytes.get(..end).unwrap_or_default();
        let batch = |at: usize| bytes.get(at..).and_then(Batch::whole);
        let (mut at, mut sequence) = (0, 0);
        while at < end {
            if let Some(batch) = batch(at) {
                found.whole.push(at..at + batch.len);
                (at, sequence) = (at + batch.len, batch.sequence);
                continue;
            }
            let is_next = |next: &usize| {
                bytes.get(*next) == Some(&START)
                    && batch(*next).is_some_and(|batch| batch.sequence > sequence)
            };
            let Some(next) = (at + 1..end).find(is_next) else {
                found.torn = end - at;
                break;
            };
            found.damaged.push(at..next);
            at = next;
        }
        found
    }
}

/// The first batch of some bytes.
struct Batch {
    len: usize,
    sequence: u64,
}

impl Batch {
    /// Nothing if it is not whole, or its checksum is wrong.
    fn whole(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader { bytes, at: 0 };
        if reader.u8()? != START {
            return None;
        }
        let count = reader.number(4)?;
        let sequence = reader.number(8)?;
        let items = reader.at;
        for _ in 0..count {
            match reader.u8()? {
                ITEM => {
                    reader.skip(ITEM_HEAD - 1 - 2 - 4 - 4)?;
                    let key = reader.number(2)?;
                    reader.skip(4)?;
                    let value = reader.number(4)?;
                    reader.skip(usize::try_from(key + value).ok()?)?;
                }
                CLEAR => reader.skip(8)?,
                _ => return None,
            }
        }
        let mut checksum = Xxh3::new();
        checksum.update(bytes.get(items..reader.at)?);
        let is_whole = reader.u8()? == END
            && reader.number(8)? == checksum.digest()
            && bytes.get(reader.at..)?.starts_with(MAGIC);
        is_whole.then_some(Self { len: reader.at + MAGIC.len(), sequence })
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn u8(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// A little-endian number of so many bytes.
    fn number(&mut self, len: usize) -> Option<u64> {
        let bytes = self.bytes.get(self.at..self.at + len)?;
        self.at += len;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    }

    fn skip(&mut self, len: usize) -> Option<()> {
        self.at = self.at.checked_add(len).filter(|at| *at <= self.bytes.len())?;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Lsm;
    use super::*;
    use crate::hooks::{Commit, Store, Table, Write};

    const BATCHES: usize = 8;

    /// A journal as fjall writes it, without the room behind.
    fn journal() -> Vec<u8> {
        let directory = tempfile::tempdir().expect("a directory");
        let mut store = Lsm::open(directory.path()).expect("new");
        for n in 0..BATCHES {
            let put = |table| Write {
                table,
                key: vec![n as u8; 5],
                value: Some(vec![7; 40 * n]),
                fresh: false,
            };
            let gone = Write { table: Table::Inbound, key: vec![1], value: None, fresh: false };
            let writes = [put(Table::Queued), put(Table::Messages), gone];
            store.commit(&writes, Commit::System).expect("room");
        }
        let path = fs::read_dir(directory.path()).expect("a directory").find_map(|entry| {
            let path = entry.expect("an entry").path();
            (path.extension()? == "jnl").then_some(path)
        });
        let mut bytes = fs::read(path.expect("a journal")).expect("a file");
        bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).expect("batches") + 1);
        bytes
    }

    #[test]
    fn what_fjall_writes_is_whole() {
        let mut bytes = journal();
        let found = Found::of(&bytes);
        assert!(found.whole.len() >= BATCHES && found.damaged.is_empty() && found.torn == 0);
        assert_eq!(found.whole.last().expect("some").end, bytes.len());
        bytes.resize(bytes.len() + 1000, 0);
        assert_eq!(Found::of(&bytes), found);
    }

    #[test]
    fn wherever_it_is_cut_the_whole_ones_stay() {
        let bytes = journal();
        let all = Found::of(&bytes).whole;
        for len in 0..bytes.len() {
            let found = Found::of(&bytes[..len]);
            let whole = all.iter().filter(|range| range.end <= len).count();
            assert_eq!(found.whole, all[..whole], "cut to {len}");
            assert!(found.damaged.is_empty());
        }
    }

    #[test]
    fn whichever_bit_is_wrong_all_other_batches_stay() {
        let bytes = journal();
        let all = Found::of(&bytes).whole;
        for at in 0..bytes.len() {
            let batch = all.iter().find(|range| range.contains(&at)).expect("of one");
            if (5..13).contains(&(at - batch.start)) {
                // The number in the sequence, which no checksum covers.
                continue;
            }
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            let found = Found::of(&bytes);
            let others: Vec<_> = all.iter().filter(|range| !range.contains(&at)).cloned().collect();
            assert_eq!(found.whole, others, "bit {} of byte {at}", at % 8);
            assert_eq!(found.damaged.len() + usize::from(found.torn > 0), 1);
        }
    }
}
