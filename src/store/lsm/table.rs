//! A table file of fjall, read block by block, whatever else of it is damaged.
//!
//! The blocks with records stand one behind the other from its beginning, each with a head that has its
//! length and two checksums. Behind them come the index, which says where each begins, what else fjall
//! wants to know, and a list of where all that is. From block to block the way goes by their lengths, and
//! past a head that is damaged by the index. A beginning is never looked for: what clients send lies there
//! as it is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::xxh3_128;

use super::reader::Reader;
use crate::store::damage;

const MAGIC: &[u8] = b"LSM\x03";
/// Magic, kind, checksum, two lengths, and the checksum of all that.
const HEAD: usize = 4 + 1 + 16 + 4 + 4 + 4;
const DATA: u8 = 0;
const INDEX: u8 = 1;
/// What a block ends with: how often a whole key stands in it, and what is there to search in it.
const BLOCK_END: usize = 31;
/// In place of the kind of a record: there are no more.
const NO_MORE: u8 = 255;
/// The kind of a record that is there; all others say that it is gone.
const VALUE: u8 = 0;

/// A record as it stands in a file, or that it is gone.
pub(super) struct Record {
    pub(super) key: Vec<u8>,
    pub(super) sequence: u64,
    pub(super) value: Option<Vec<u8>>,
}

/// Reads the records of a file in the order of their keys.
pub(super) struct Records {
    path: PathBuf,
    file: File,
    /// Where the next block begins.
    at: u64,
    /// Where the blocks with records end, or else the file.
    end: u64,
    /// Where the index says that blocks begin, in their order, once it was asked.
    index: Option<Vec<u64>>,
    block: std::vec::IntoIter<Record>,
    /// Bytes that could not be read.
    pub(super) lost: u64,
}

impl Records {
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let end = match section(&sections(&file)?, b"data") {
            Some(data) => data.start.saturating_add(data.len),
            None => file.metadata()?.len(),
        };
        let (path, block) = (path.to_owned(), Vec::new().into_iter());
        Ok(Self { path, file, at: 0, end, index: None, block, lost: 0 })
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Record>> {
        loop {
            if let Some(record) = self.block.next() {
                return Ok(Some(record));
            }
            if self.at >= self.end {
                return Ok(None);
            }
            let next = match block(&self.file, self.at, self.end)? {
                Some(Block { kind: DATA, end, data }) => {
                    match data.and_then(|data| records(&data)) {
                        Some(records) => self.block = records.into_iter(),
                        None => self.lost += end - self.at,
                    }
                    end
                }
                // Here the records end, if nothing else says so.
                Some(_) => self.end,
                None => {
                    let next = self.indexed(self.at)?.unwrap_or(self.end);
                    self.lost += next - self.at;
                    next
                }
            };
            self.at = next;
        }
    }

    /// The next block behind a place.
    fn indexed(&mut self, at: u64) -> io::Result<Option<u64>> {
        if self.index.is_none() {
            let (sections, mut found) = (sections(&self.file)?, Vec::new());
            if let Some(top) = section(&sections, b"tli") {
                found = places(&self.file, top.start)?;
            }
            if section(&sections, b"index").is_some() {
                let below = found.into_iter().map(|place| places(&self.file, place));
                found = below.collect::<io::Result<Vec<_>>>()?.concat();
            }
            self.index = Some(found);
        }
        let index = self.index.as_deref().unwrap_or_default();
        Ok(index.iter().copied().find(|place| *place > at && *place < self.end))
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The places of blocks that an index has, in their order.
fn places(file: &File, at: u64) -> io::Result<Vec<u64>> {
    let mut places = Vec::new();
    let Some(Block { kind: INDEX, data: Some(data), .. }) =
        block(file, at, file.metadata()?.len())?
    else {
        return Ok(places);
    };
    let mut reader = Reader::new(&data);
    let mut place = || -> Option<u64> {
        if reader.u8()? == NO_MORE {
            return None;
        }
        let place = reader.varint()?;
        // Its length, and the last of its records.
        reader.varint()?;
        reader.varint()?;
        let key = usize::try_from(reader.varint()?).ok()?;
        reader.skip(key)?;
        Some(place)
    };
    places.extend(std::iter::from_fn(&mut place));
    Ok(places)
}

struct Block {
    kind: u8,
    end: u64,
    /// Nothing if its checksum is wrong.
    data: Option<Vec<u8>>,
}

/// The block that begins there; nothing if its head is damaged.
fn block(file: &File, at: u64, limit: u64) -> io::Result<Option<Block>> {
    let Some(head) = read(file, at, HEAD as u64, limit)? else { return Ok(None) };
    let start = at + HEAD as u64;
    let mut reader = Reader::new(&head);
    let mut parse = || {
        let magic = reader.take(MAGIC.len())?;
        let (kind, checksum) = (reader.u8()?, reader.u128()?);
        // Without compression the second length is the same.
        let (len, _) = (reader.u32()?, reader.u32()?);
        let right = xxh3_128(head.get(..HEAD - 4)?) as u32;
        (magic == MAGIC && reader.u32()? == right).then_some((kind, checksum, u64::from(len)))
    };
    let Some((kind, checksum, len)) = parse() else { return Ok(None) };
    let end = start + len;
    if end > limit {
        return Ok(None);
    }
    let data = read(file, start, len, limit)?.filter(|data| xxh3_128(data) == checksum);
    Ok(Some(Block { kind, end, data }))
}

/// So many bytes from there on; nothing if that is beyond a limit, or the disk does not give them.
fn read(file: &File, at: u64, len: u64, limit: u64) -> io::Result<Option<Vec<u8>>> {
    if at.checked_add(len).is_none_or(|end| end > limit) {
        return Ok(None);
    }
    let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    match file.read_exact_at(&mut bytes, at) {
        Ok(()) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) if damage::is_unreadable(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The records of a block. Of a key most have only what differs from the last one that is whole.
fn records(data: &[u8]) -> Option<Vec<Record>> {
    let whole_each = usize::from(*data.get(data.len().checked_sub(BLOCK_END)?)?);
    let (mut reader, mut records, mut base): (_, Vec<Record>, &[u8]) =
        (Reader::new(data), Vec::new(), &[]);
    loop {
        let kind = reader.u8()?;
        if kind == NO_MORE {
            return Some(records);
        }
        let sequence = reader.varint()?;
        let is_whole = records.len().checked_rem(whole_each)? == 0;
        let shared = if is_whole { 0 } else { usize::try_from(reader.varint()?).ok()? };
        let rest = usize::try_from(reader.varint()?).ok()?;
        let rest = reader.take(rest)?;
        let key = [base.get(..shared)?, rest].concat();
        if is_whole {
            base = rest;
        }
        let value = match kind {
            VALUE => {
                let len = usize::try_from(reader.varint()?).ok()?;
                Some(reader.take(len)?.to_vec())
            }
            _ => None,
        };
        records.push(Record { key, sequence, value });
    }
}

/// A named part of a file.
pub(super) struct Section {
    pub(super) name: Vec<u8>,
    pub(super) start: u64,
    pub(super) len: u64,
}

pub(super) fn section<'a>(sections: &'a [Section], name: &[u8]) -> Option<&'a Section> {
    sections.iter().find(|section| section.name == name)
}

/// At the end of a file: magic, version, kind of checksum, checksum, place and length of the list.
const LIST_PLACE: usize = 4 + 1 + 1 + 16 + 8 + 8;

/// What is in a file; nothing if that cannot be told.
pub(super) fn sections(file: &File) -> io::Result<Vec<Section>> {
    Ok(list(file)?.as_deref().and_then(parse_list).unwrap_or_default())
}

fn list(file: &File) -> io::Result<Option<Vec<u8>>> {
    let len = file.metadata()?.len();
    let Some(at) = len.checked_sub(LIST_PLACE as u64) else { return Ok(None) };
    let Some(end) = read(file, at, LIST_PLACE as u64, len)? else { return Ok(None) };
    let mut reader = Reader::new(&end);
    let mut place = || {
        let is_known = reader.take(4)? == b"SFA!" && reader.take(2)? == [1, 0];
        let (checksum, at, len) = (reader.u128()?, reader.u64()?, reader.u64()?);
        is_known.then_some((checksum, at, len))
    };
    let Some((checksum, at, list_len)) = place() else { return Ok(None) };
    Ok(read(file, at, list_len, len)?.filter(|list| xxh3_128(list) == checksum))
}

fn parse_list(list: &[u8]) -> Option<Vec<Section>> {
    let mut reader = Reader::new(list);
    if reader.take(4)? != b"TOC!" {
        return None;
    }
    let count = reader.u32()?;
    let section = |_| {
        let (start, len) = (reader.u64()?, reader.u64()?);
        let name = reader.u16()?.into();
        Some(Section { name: reader.take(name)?.to_vec(), start, len })
    };
    (0..count).map(section).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file of which all is damaged but the list, which says that the index is where no file has anything.
    #[test]
    fn a_place_that_cannot_be_is_no_block() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("1");
        let mut list = [&b"TOC!"[..], &2_u32.to_le_bytes()].concat();
        for (name, start, len) in [("data", 0, 100), ("tli", u64::MAX, 100_u64)] {
            list.extend([start, len].map(u64::to_le_bytes).concat());
            list.extend((name.len() as u16).to_le_bytes());
            list.extend(name.as_bytes());
        }
        let mut bytes = [&[0xA5; 100][..], &list, b"SFA!\x01\x00"].concat();
        bytes.extend(xxh3_128(&list).to_le_bytes());
        bytes.extend([100, list.len() as u64].map(u64::to_le_bytes).concat());
        std::fs::write(&path, &bytes).expect("written");
        let mut records = Records::of(&path).expect("a file");
        assert_eq!(records.end, 100, "the list is whole");
        assert!(records.next().expect("readable").is_none());
        assert_eq!(records.lost, 100);
    }
}
