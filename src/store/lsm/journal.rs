//! The journals of fjall, mended before it opens them.
//!
//! fjall cuts a last batch that is there in part without a word, and opens nothing when a batch has a wrong
//! checksum. So the journals are read before: a torn tail is cut off, a damaged batch with whole ones behind
//! it is taken out and set aside as a file, and both are told.
//!
//! What clients send lies in a journal as it is, and nothing in a batch is secret: a payload may be a batch.
//! So from one batch to the next the way goes by their lengths. Only where those are damaged is a beginning
//! looked for, and it is one only if whole batches follow from it up to the end. A tail that was not
//! written to its end is never searched.

use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::path::Path;

use xxhash_rust::xxh3::xxh3_64;

use super::reader::Reader;
use crate::store::{Torn, damage};

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
/// Behind the checksum of each batch.
const MAGIC: &[u8] = b"FJL\x03";
/// Tag, number of items, sequence number.
const BATCH_HEAD: usize = 1 + 4 + 8;
/// What an item has in front of its key: tag, type, compression, table, three lengths.
const ITEM_HEAD: usize = 1 + 1 + 1 + 8 + 2 + 4 + 4;
/// The type of an item that is there; all others say that it is gone.
const VALUE: u8 = 0;

/// Mends all journals of a directory.
pub(super) fn mend(directory: &Path, torn: Torn) -> io::Result<()> {
    for path in damage::entries(directory)? {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("jnl") => mend_one(&path, torn)?,
            // What was broken off.
            Some(damage::DRAFT) => fs::remove_file(path)?,
            _ => {}
        }
    }
    Ok(())
}

fn mend_one(path: &Path, told: Torn) -> io::Result<()> {
    let (bytes, unreadable) = damage::read(path)?;
    let part = |range: &Range<usize>| bytes.get(range.clone()).unwrap_or_default();
    let found = Found::of(&bytes);
    for range in &found.damaged {
        damage::set_aside(path, range.start, part(range))?;
    }
    if found.damaged.is_empty() && found.unwritten.is_empty() && unreadable == 0 {
        if found.torn > 0 {
            let file = File::options().write(true).open(path)?;
            file.set_len(found.whole.last().map_or(0, |last| last.end) as u64)?;
            file.sync_all()?;
        }
    } else {
        damage::rewrite(path, &found.whole.iter().map(part).collect::<Vec<_>>())?;
    }
    let name = path.display();
    if unreadable > 0 {
        tracing::error!("{name}: the disk does not give {unreadable} bytes of it");
    }
    let sum = |ranges: &[Range<usize>]| ranges.iter().map(Range::len).sum::<usize>();
    if let Some(last) = found.damaged.last() {
        let rest = match found.whole.last() {
            Some(whole) if whole.end > last.end => "",
            _ => ": where they go on cannot be told, so that is all of its rest",
        };
        let lost = sum(&found.damaged);
        tracing::error!("{name}: {lost} bytes of commits are damaged, and were set aside{rest}");
    }
    let torn = found.torn + sum(&found.unwritten);
    if torn > 0 && told == Torn::IsTold {
        tracing::warn!("{name}: the last commit is there in part, {torn} bytes were cut off");
    }
    Ok(())
}

/// A record in a journal, or that it is gone.
pub(super) struct Item<'a> {
    pub(super) keyspace: u64,
    pub(super) sequence: u64,
    pub(super) key: &'a [u8],
    pub(super) value: Option<&'a [u8]>,
}

/// The journals of a directory, which have been mended.
pub(super) struct Journals(Vec<(Vec<u8>, Vec<Range<usize>>)>);

impl Journals {
    pub(super) fn read(directory: &Path) -> io::Result<Self> {
        let mut journals = Vec::new();
        for path in damage::entries(directory)? {
            if path.extension().is_some_and(|extension| extension == "jnl") {
                let (bytes, _) = damage::read(&path)?;
                let whole = Found::of(&bytes).whole;
                journals.push((bytes, whole));
            }
        }
        Ok(Self(journals))
    }

    pub(super) fn are_empty(&self) -> bool {
        self.0.iter().all(|(_, whole)| whole.is_empty())
    }

    pub(super) fn each(&self, each: &mut impl FnMut(Item<'_>)) {
        for (bytes, whole) in &self.0 {
            for batch in whole {
                let mut reader = Reader::at(bytes, batch.start);
                let Some((_, sequence)) = head(&mut reader) else { continue };
                while let Some(part) = part(&mut reader) {
                    let of = |range| bytes.get(range).unwrap_or_default();
                    match part {
                        Part::Item { keyspace, key, value } => {
                            let (key, value) = (of(key), value.map(of));
                            each(Item { keyspace, sequence, key, value });
                        }
                        Part::Clear => {}
                        Part::End { .. } | Part::Other => break,
                    }
                }
            }
        }
    }
}

/// What a journal is made of.
#[derive(Debug, Default, PartialEq, Eq)]
struct Found {
    whole: Vec<Range<usize>>,
    damaged: Vec<Range<usize>>,
    /// Of which some pages did not come to the disk before the machine stopped: the log in front has them.
    unwritten: Vec<Range<usize>>,
    /// The bytes of what is at the end and not whole.
    torn: usize,
}

impl Found {
    fn of(bytes: &[u8]) -> Self {
        let mut found = Self::default();
        // Beyond it there is room that was set apart.
        let end = damage::written_len(bytes);
        let bytes = bytes.get(..end).unwrap_or_default();
        let (mut at, mut sequence) = (0, 0);
        while at < end {
            let (next, lost) = match Standing::of(bytes, at) {
                Standing::Whole(batch) => {
                    sequence = batch.sequence;
                    found.whole.push(at..batch.end);
                    at = batch.end;
                    continue;
                }
                Standing::Torn => {
                    found.torn = end - at;
                    break;
                }
                Standing::Wrong(next) if damage::has_hole(bytes, &(at..next)) => {
                    (next, &mut found.unwritten)
                }
                Standing::Wrong(next) => (next, &mut found.damaged),
                Standing::Lost => {
                    (later(bytes, at + 1, sequence).unwrap_or(end), &mut found.damaged)
                }
            };
            lost.push(at..next);
            at = next;
        }
        found
    }
}

/// Where batches begin again from which all is whole.
fn later(bytes: &[u8], from: usize, sequence: u64) -> Option<usize> {
    let mut at = from;
    while at < bytes.len() {
        at += bytes.get(at..)?.iter().position(|byte| *byte == START)?;
        match chain(bytes, at, sequence) {
            None => return Some(at),
            // Within what is whole there is none.
            Some(end) => at = end.max(at + 1),
        }
    }
    None
}

/// How far batches go that are whole and later, one behind the other; nothing if that is to the end.
fn chain(bytes: &[u8], mut at: usize, mut sequence: u64) -> Option<usize> {
    while at < bytes.len() {
        match Standing::of(bytes, at) {
            Standing::Whole(batch) if batch.sequence > sequence => {
                (at, sequence) = (batch.end, batch.sequence);
            }
            _ => return Some(at),
        }
    }
    None
}

struct Batch {
    end: usize,
    sequence: u64,
}

/// What is where a batch should begin.
enum Standing {
    Whole(Batch),
    /// It goes on beyond the end, or where nothing was written.
    Torn,
    /// Its checksum is wrong; the next one begins there.
    Wrong(usize),
    /// Nobody knows where it ends.
    Lost,
}

impl Standing {
    fn of(bytes: &[u8], at: usize) -> Self {
        let mut reader = Reader::at(bytes, at);
        let is_start = bytes.get(at) == Some(&START);
        let Some((count, sequence)) = head(&mut reader) else { return Self::Torn };
        if damage::has_hole_at(bytes, at, BATCH_HEAD) {
            return Self::Torn;
        }
        let (items, mut found) = (reader.at, 0);
        loop {
            let at = reader.at;
            match part(&mut reader) {
                None => return Self::Torn,
                Some(Part::Item { .. } | Part::Clear) => found += 1,
                Some(Part::End { checksum }) => {
                    let is_right =
                        || bytes.get(items..at).is_some_and(|items| xxh3_64(items) == checksum);
                    return match found == count {
                        true if is_start && is_right() => {
                            Self::Whole(Batch { end: reader.at, sequence })
                        }
                        true => Self::Wrong(reader.at),
                        false => Self::Lost,
                    };
                }
                Some(Part::Other) if damage::has_hole_at(bytes, at, ITEM_HEAD) => {
                    return Self::Torn;
                }
                Some(Part::Other) => return Self::Lost,
            }
        }
    }
}

/// What a batch is made of.
enum Part {
    Item { keyspace: u64, key: Range<usize>, value: Option<Range<usize>> },
    Clear,
    End { checksum: u64 },
    Other,
}

/// Goes behind the head of a batch; gives how many parts it has, and its sequence number.
fn head(reader: &mut Reader<'_>) -> Option<(u32, u64)> {
    reader.skip(1)?;
    Some((reader.u32()?, reader.u64()?))
}

/// Nothing if it is not there to its end.
fn part(reader: &mut Reader<'_>) -> Option<Part> {
    Some(match reader.u8()? {
        ITEM => {
            let (kind, _compression) = (reader.u8()?, reader.u8()?);
            let (keyspace, key_len) = (reader.u64()?, reader.u16()?);
            let (len, on_disk) = (reader.u32()?, reader.u32()?);
            // Nothing is compressed.
            if len != on_disk {
                return Some(Part::Other);
            }
            let key = reader.skip(key_len.into())?;
            let value = reader.skip(usize::try_from(len).ok()?)?;
            Part::Item { keyspace, key, value: (kind == VALUE).then_some(value) }
        }
        CLEAR => {
            reader.skip(8)?;
            Part::Clear
        }
        END => {
            let checksum = reader.u64()?;
            match reader.take(MAGIC.len())? == MAGIC {
                true => Part::End { checksum },
                false => Part::Other,
            }
        }
        _ => Part::Other,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Lsm;
    use super::*;
    use crate::hooks::{Commit, Store, Table, Write};

    const BATCHES: usize = 8;

    /// A journal as fjall writes it, without the room behind.
    fn journal() -> Vec<u8> {
        journal_with(&[])
    }

    /// With two more batches, which have this as a value.
    fn journal_with(value: &[u8]) -> Vec<u8> {
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
        for n in 0..if value.is_empty() { 0 } else { 2 } {
            let (table, key, value) = (Table::Messages, vec![n; 5], Some(value.to_vec()));
            let write = Write { table, key, value, fresh: false };
            store.commit(&[write], Commit::System).expect("room");
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

    /// As a client can send it: whole, with a number that comes later, and of whatever table.
    fn forged() -> Vec<u8> {
        let item = |keyspace: u64, key: &[u8], value: &[u8]| {
            let mut item = vec![ITEM, VALUE, 0];
            item.extend(keyspace.to_le_bytes());
            item.extend((key.len() as u16).to_le_bytes());
            item.extend([(value.len() as u32).to_le_bytes(); 2].concat());
            [&item, key, value].concat()
        };
        let items = item(1, b"forged", b"a session of whoever it likes");
        let mut batch = [&[START][..], &1_u32.to_le_bytes(), &(1_u64 << 40).to_le_bytes()].concat();
        batch.extend(&items);
        batch.push(END);
        batch.extend(xxh3_64(&items).to_le_bytes());
        batch.extend(MAGIC);
        assert_eq!(Found::of(&batch).whole.first(), Some(&(0..batch.len())));
        batch
    }

    /// Forged batches, with zeros between them, so that one ends wherever a page does.
    fn payload() -> Vec<u8> {
        let mut payload = Vec::new();
        while payload.len() < 12_000 {
            payload.extend(forged());
            payload.resize(payload.len() + 300, 0);
            payload.extend([forged(), forged()].concat());
        }
        payload
    }

    #[test]
    fn what_a_client_sends_is_never_taken_for_a_batch() {
        let bytes = journal_with(&payload());
        let all = Found::of(&bytes).whole;
        let own = |bytes: &[u8], how: &str| {
            let found = Found::of(bytes);
            for whole in &found.whole {
                assert!(all.contains(whole), "{how}: {whole:?}");
            }
            found
        };
        let (last, others) = all.split_last().expect("some");
        // It is torn wherever the process may be killed.
        for len in (last.start + 1..last.end).step_by(29) {
            let found = own(&bytes[..len], "cut");
            assert_eq!((found.whole.as_slice(), found.damaged.len()), (others, 0), "cut to {len}");
        }
        // Of what was not synced, the disk has some pages, and not others.
        let pages = last.start / 4096..bytes.len().div_ceil(4096);
        for hole in pages.clone() {
            for end in pages.clone() {
                let mut bytes = bytes.clone();
                let len = bytes.len();
                bytes[(hole * 4096).max(others.last().expect("some").end)
                    ..((hole + 1) * 4096).min(len)]
                    .fill(0);
                bytes.truncate((end + 1) * 4096);
                own(&bytes, &format!("without page {hole}, up to {end}"));
            }
        }
        // One bit of what leads through it is wrong.
        for batch in &all[all.len() - 2..] {
            for bit in 0..8 * (BATCH_HEAD + ITEM_HEAD + 5) {
                let mut bytes = bytes.clone();
                bytes[batch.start + bit / 8] ^= 1 << (bit % 8);
                let found = Found::of(&bytes);
                for whole in &found.whole {
                    let is_own = all.iter().any(|own| own.start == whole.start);
                    assert!(is_own, "bit {bit} of {batch:?}: {whole:?}");
                }
            }
        }
    }

    #[test]
    fn what_was_not_written_is_no_damage() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("0.jnl");
        let mut bytes = journal_with(&[7; 20_000]);
        let all = Found::of(&bytes).whole;
        let before = &all[all.len() - 2];
        let page = (before.start + 200).next_multiple_of(4096);
        assert!(page + 4096 < before.end);
        bytes[page..page + 4096].fill(0);
        fs::write(&path, &bytes).expect("written");
        mend_one(&path, Torn::IsTold).expect("mended");
        assert_eq!(damage::entries(directory.path()).expect("a directory").len(), 1);
        let found = Found::of(&fs::read(&path).expect("a file"));
        assert_eq!((found.whole.len(), found.torn), (all.len() - 1, 0));
    }

    #[test]
    fn what_nobody_can_tell_is_set_aside_whatever_is_in_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("0.jnl");
        let mut bytes = journal_with(&[0; 20_000]);
        let all = Found::of(&bytes).whole;
        let [.., before, last] = &all[..] else { panic!("two") };
        bytes[before.start + BATCH_HEAD] ^= 4;
        bytes[last.end - 1] ^= 4;
        fs::write(&path, &bytes).expect("written");
        mend_one(&path, Torn::IsTold).expect("mended");
        let aside = path.with_extension(format!("{}{}", damage::SET_ASIDE, before.start));
        assert!(fs::read(aside).expect("set aside") == bytes[before.start..]);
        let found = Found::of(&fs::read(&path).expect("a file"));
        assert_eq!((found.whole.len(), found.torn), (all.len() - 2, 0));
    }

    #[test]
    fn whichever_bit_is_wrong_all_other_batches_stay() {
        let bytes = journal();
        let all = Found::of(&bytes).whole;
        let mut cut = 0;
        for at in 0..bytes.len() {
            let (number, batch) =
                all.iter().enumerate().find(|(_, range)| range.contains(&at)).expect("of one");
            if (5..13).contains(&(at - batch.start)) {
                // The number in the sequence, which no checksum covers.
                continue;
            }
            let mut bytes = bytes.clone();
            bytes[at] ^= 1 << (at % 8);
            let found = Found::of(&bytes);
            let others: Vec<_> = all.iter().filter(|range| !range.contains(&at)).cloned().collect();
            assert_eq!(found.damaged.len() + usize::from(found.torn > 0), 1);
            // A key that is said to be longer than all there is looks like a tail that was not written.
            let is_cut = found.torn > 0 && found.whole == all[..number];
            assert!(found.whole == others || is_cut, "bit {} of byte {at}", at % 8);
            cut += usize::from(is_cut && number + 1 < all.len());
        }
        assert!(cut < bytes.len() / 40, "{cut}");
    }
}
