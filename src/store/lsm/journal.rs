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
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_64;

use super::numbers;
use super::reader::Reader;
use crate::store::{Torn, damage};

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
/// Behind the checksum of each batch.
const MAGIC: &[u8] = b"FJL\x03";
/// Tag, number of items, sequence number.
const BATCH_HEAD: usize = NUMBER + 8;
/// Where in it the sequence number is.
const NUMBER: usize = 1 + 4;
/// How often the bytes of a journal are gone through, at most, to find where batches begin again: at each
/// byte of it something may look like a batch that goes on up to the end.
const SEARCHES: usize = 16;
/// What an item has in front of its key: tag, type, compression, table, three lengths.
const ITEM_HEAD: usize = 1 + 1 + 1 + 8 + 2 + 4 + 4;
/// The type of an item that is there; all others say that it is gone.
const VALUE: u8 = 0;

/// What is there after it was mended.
#[derive(Debug, Default)]
pub(super) struct Mended {
    pub(super) journals: usize,
    /// In one of them, at least.
    pub(super) has_commits: bool,
}

/// Mends all journals of a directory.
pub(super) fn mend(directory: &Path, torn: Torn) -> io::Result<Mended> {
    let mut mended = Mended::default();
    for path in damage::entries(directory)? {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("jnl") => {
                mended.has_commits |= mend_one(&path, torn)?;
                mended.journals += 1;
            }
            // What was broken off.
            Some(damage::DRAFT) => fs::remove_file(path)?,
            _ => {}
        }
    }
    Ok(mended)
}

/// Has the disk have what can be read of the journals. Behind a part that it has not got nothing is found, and
/// what is in front of that is not always in the log any more.
pub(super) fn write_again(directory: &Path) -> io::Result<()> {
    let is_journal = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "jnl");
    let mut journals = damage::entries(directory)?.into_iter().filter(is_journal);
    journals.try_for_each(|path| damage::write_again(&path))
}

/// Says whether a batch is in it.
fn mend_one(path: &Path, told: Torn) -> io::Result<bool> {
    let (mut bytes, unreadable) = damage::read(path)?;
    let found = Found::of(&bytes);
    let renumbered = renumber(&mut bytes, &found.whole);
    let part = |range: &Range<usize>| bytes.get(range.clone()).unwrap_or_default();
    for range in &found.damaged {
        damage::set_aside(path, range.start, part(range))?;
    }
    let is_whole = found.damaged.is_empty() && found.unwritten.is_empty() && renumbered == 0;
    if is_whole && unreadable == 0 {
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
    if renumbered > 0 {
        tracing::error!(
            "{name}: the numbers of {renumbered} commits are damaged, and follow from the others"
        );
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
    Ok(!found.whole.is_empty())
}

/// Sets the numbers of batches right, which no checksum covers; says how many were wrong.
fn renumber(bytes: &mut [u8], whole: &[Range<usize>]) -> usize {
    let number_of = |batch: &Range<usize>| Some(head(&mut Reader::at(bytes, batch.start))?.1);
    let found: Vec<_> = whole.iter().map(|batch| number_of(batch).unwrap_or(0)).collect();
    let mut wrong = 0;
    for ((batch, own), right) in whole.iter().zip(&found).zip(numbers::in_order(&found)) {
        let place = bytes.get_mut(batch.start + NUMBER..batch.start + BATCH_HEAD);
        if right != *own
            && let Some(place) = place
        {
            place.copy_from_slice(&right.to_le_bytes());
            wrong += 1;
        }
    }
    wrong
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

    /// Whether nothing was ever written to them.
    pub(super) fn are_empty(&self) -> bool {
        self.0.iter().all(|(bytes, _)| damage::written_len(bytes) == 0)
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
            let (next, lost) = match Standing::of(bytes, at).0 {
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
    let (mut at, mut left) = (from, bytes.len().saturating_mul(SEARCHES));
    while at < bytes.len() {
        at += bytes.get(at..)?.iter().position(|byte| *byte == START)?;
        let (end, seen) = chain(bytes, at, sequence);
        if end == bytes.len() {
            return Some(at);
        }
        left = left.checked_sub(seen)?;
        // Within what is whole there is none.
        at = end.max(at + 1);
    }
    None
}

/// How far batches go that are whole and later, one behind the other, and how many bytes were looked at.
fn chain(bytes: &[u8], mut at: usize, mut sequence: u64) -> (usize, usize) {
    let mut all_seen = 0;
    while at < bytes.len() {
        let (standing, seen) = Standing::of(bytes, at);
        all_seen += seen;
        match standing {
            Standing::Whole(batch) if batch.sequence > sequence => {
                (at, sequence) = (batch.end, batch.sequence);
            }
            _ => break,
        }
    }
    (at, all_seen)
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
    /// And how many bytes were looked at.
    fn of(bytes: &[u8], at: usize) -> (Self, usize) {
        let mut reader = Reader::at(bytes, at);
        let standing = Self::read(bytes, &mut reader);
        (standing, reader.at - at)
    }

    fn read(bytes: &[u8], reader: &mut Reader<'_>) -> Self {
        let at = reader.at;
        let is_start = bytes.get(at) == Some(&START);
        let Some((count, sequence)) = head(reader) else { return Self::Torn };
        if damage::has_hole_at(bytes, at, BATCH_HEAD) {
            return Self::Torn;
        }
        let (items, mut found) = (reader.at, 0);
        loop {
            let at = reader.at;
            match part(reader) {
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
mod tests;
