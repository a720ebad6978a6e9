//! The pages of a database of SQLite, read without it.
//!
//! A table is a tree of pages, each with some of its records. A page that is damaged hides those below it,
//! so records are found in three ways: from the root of their table on; and below a damaged page by looking
//! at all pages that nothing leads to. Those of no use any more are told by the list of free ones. What
//! clients send cannot look like such a page: it stands behind the head of one, or behind a page number.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::wal::{self, Changed};
use crate::store::damage;

/// What SQLite has by default.
const PAGE_LEN: usize = 4096;
/// What a database begins with.
const MAGIC: &[u8] = b"SQLite format 3\0";
/// Where in the first page it is said how many there are.
const COUNT_AT: usize = 28;
/// Bytes in front of the first page's own head.
const FILE_HEAD: usize = 100;
/// The kinds of pages with records: of a tree of keys, and of a tree of rows (the list of tables).
const INNER: u8 = 0x02;
const LEAF: u8 = 0x0A;
const ROWS: u8 = 0x0D;

pub(super) struct Pages {
    file: File,
    changed: Changed,
    len: usize,
    /// Those in the file have the numbers up to this one.
    in_file: u32,
    /// The numbers of those that only the log has.
    beyond: Vec<u32>,
}

impl Pages {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let changed = Changed::read(&wal::beside(path))?;
        // Without its file it may have a log.
        let file = File::options().read(true).append(true).create(true).open(path)?;
        let mut pages = Self { file, changed, len: PAGE_LEN, in_file: 0, beyond: Vec::new() };
        let head = pages.page(1)?.unwrap_or_default();
        let len = head.get(16..18).map(|len| usize::from(u16::from_be_bytes([len[0], len[1]])));
        let len = len.filter(|len| len.is_power_of_two() && *len >= 512);
        pages.len = pages.changed.page_len.or(len).unwrap_or(PAGE_LEN);
        let in_file = pages.file.metadata()?.len() / pages.len as u64;
        pages.in_file = u32::try_from(in_file).unwrap_or(u32::MAX);
        pages.beyond = pages.changed.above(pages.in_file);
        Ok(pages)
    }

    /// Of all pages that are there, in their order.
    pub(super) fn numbers(&self) -> impl Iterator<Item = u32> {
        (1..=self.in_file).chain(self.beyond.iter().copied())
    }

    fn count(&self) -> usize {
        self.in_file as usize + self.beyond.len()
    }

    /// Whether the end of the file is missing. SQLite does not look at what is in the last page of a long record,
    /// and fails when that is read.
    pub(super) fn lacks_some(&self) -> io::Result<bool> {
        let head = self.page(1)?.filter(|head| head.starts_with(MAGIC)).unwrap_or_default();
        let count = number(&head, COUNT_AT).unwrap_or(0);
        if count <= self.in_file {
            return Ok(false);
        }
        let free = self.free()?;
        let is_there = |number| self.changed.page(number).is_some() || free.contains(&number);
        Ok(!(self.in_file + 1..=count).all(is_there))
    }

    /// Nothing if it is not there, or the disk does not give it.
    fn page(&self, number: u32) -> io::Result<Option<Vec<u8>>> {
        if let Some(page) = self.changed.page(number) {
            return Ok(Some(page.to_vec()));
        }
        let Some(before) = number.checked_sub(1) else { return Ok(None) };
        let mut page = vec![0; self.len];
        match self.file.read_exact_at(&mut page, u64::from(before) * self.len as u64) {
            Ok(()) => Ok(Some(page)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) if damage::is_unreadable(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What a page with records has; nothing if it is none, or damaged.
    pub(super) fn node(&self, number: u32) -> io::Result<Option<Node>> {
        Ok(self.page(number)?.and_then(|page| Node::of(&page, number)))
    }

    /// The payload of a cell, with what is of it in other pages, which it gives as well.
    pub(super) fn payload(&self, cell: &Cell) -> io::Result<Option<(Vec<u8>, Vec<u32>)>> {
        if cell.len / self.len > self.count() {
            return Ok(None);
        }
        let (mut payload, mut next, mut others) = (cell.local.clone(), cell.next, Vec::new());
        while payload.len() < cell.len {
            let Some(page) = self.page(next)? else { return Ok(None) };
            others.push(next);
            next = number(&page, 0).unwrap_or(0);
            let rest = cell.len - payload.len();
            payload.extend(page.iter().skip(4).take(rest));
        }
        Ok(Some((payload, others)))
    }

    /// The roots of tables, by their names, as far as they can be read.
    pub(super) fn roots(&self) -> io::Result<Vec<(String, u32)>> {
        let mut roots = Vec::new();
        for cell in
            self.node(1)?.filter(|node| node.kind == ROWS).map_or(Vec::new(), |node| node.cells)
        {
            let Some((payload, _)) = self.payload(&cell)? else { continue };
            let columns = columns(&payload).unwrap_or_default();
            if let [_, name, _, root, ..] = &columns[..]
                && let Ok(name) = std::str::from_utf8(name)
            {
                let root = root.iter().fold(0, |root, byte| root << 8 | u32::from(*byte));
                roots.push((name.to_owned(), root));
            }
        }
        Ok(roots)
    }

    /// The pages that are not in use, as far as they can be read.
    pub(super) fn free(&self) -> io::Result<Vec<u32>> {
        let head = self.page(1)?.filter(|head| head.starts_with(MAGIC)).unwrap_or_default();
        let (mut free, mut next) = (Vec::new(), number(&head, 32).unwrap_or(0));
        while free.len() <= self.count()
            && let Some(page) = self.page(next)?
        {
            free.push(next);
            let count = number(&page, 4).unwrap_or(0) as usize;
            free.extend((0..count.min(page.len() / 4)).filter_map(|n| number(&page, 8 + 4 * n)));
            next = number(&page, 0).unwrap_or(0);
        }
        Ok(free)
    }
}

/// A page with records.
pub(super) struct Node {
    kind: u8,
    pub(super) cells: Vec<Cell>,
    /// The page below it with what comes last.
    pub(super) last: Option<u32>,
}

/// A record, as far as it is in its page.
pub(super) struct Cell {
    /// The page below with what comes before it.
    pub(super) before: Option<u32>,
    len: usize,
    local: Vec<u8>,
    /// The page with the rest.
    next: u32,
}

impl Node {
    fn of(page: &[u8], at: u32) -> Option<Self> {
        let head = if at == 1 { FILE_HEAD } else { 0 };
        let kind = *page.get(head)?;
        let head_len = match kind {
            INNER => 12,
            LEAF | ROWS => 8,
            _ => return None,
        };
        let count = short(page, head + 3)?;
        let mut places = Vec::with_capacity(count);
        for n in 0..count {
            places.push(short(page, head + head_len + 2 * n)?);
        }
        let mut end = head + head_len + 2 * count;
        let (mut cells, mut taken) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for place in places {
            let (cell, cell_end) = Cell::of(page, place, kind)?;
            cells.push(cell);
            taken.push(place..cell_end);
        }
        // A place that is wrong would have others read what a client sent as a record.
        taken.sort_unstable_by_key(|cell| cell.start);
        for cell in taken {
            if cell.start < end {
                return None;
            }
            end = cell.end;
        }
        let last = if kind == INNER { Some(number(page, head + 8)?) } else { None };
        Some(Self { kind, cells, last })
    }

    /// Whether it is of a tree of keys.
    pub(super) fn has_keys(&self) -> bool {
        self.kind != ROWS
    }
}

impl Cell {
    fn of(page: &[u8], place: usize, kind: u8) -> Option<(Self, usize)> {
        let mut at = place;
        let before = if kind == INNER { Some(number(page, at)?) } else { None };
        at += if kind == INNER { 4 } else { 0 };
        let len = usize::try_from(varint(page, &mut at)?).ok()?;
        if kind == ROWS {
            varint(page, &mut at)?;
        }
        let most = if kind == ROWS { page.len() - 35 } else { (page.len() - 12) * 64 / 255 - 23 };
        let least = (page.len() - 12) * 32 / 255 - 23;
        let here = match len {
            len if len <= most => len,
            len => match least + (len - least) % (page.len() - 4) {
                here if here <= most => here,
                _ => least,
            },
        };
        let local = page.get(at..at.checked_add(here)?)?.to_vec();
        at += here;
        let next = if here < len { number(page, at)? } else { 0 };
        at += if here < len { 4 } else { 0 };
        Some((Self { before, len, local, next }, at))
    }
}

/// The columns of a record, as bytes.
pub(super) fn columns(payload: &[u8]) -> Option<Vec<&[u8]>> {
    let mut at = 0;
    let mut place = usize::try_from(varint(payload, &mut at)?).ok()?;
    let (head_end, mut columns) = (place, Vec::new());
    while at < head_end {
        let len = match varint(payload, &mut at)? {
            0 | 8 | 9 => 0,
            len @ 1..=4 => len,
            5 => 6,
            6 | 7 => 8,
            kind => kind.checked_sub(12)? / 2,
        };
        let end = place.checked_add(usize::try_from(len).ok()?)?;
        columns.push(payload.get(place..end)?);
        place = end;
    }
    Some(columns)
}

fn short(bytes: &[u8], at: usize) -> Option<usize> {
    bytes.get(at..)?.first_chunk().map(|bytes| usize::from(u16::from_be_bytes(*bytes)))
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

/// Seven bits in each byte, the highest first; all eight of a ninth.
fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut number = 0;
    for n in 0..9 {
        let byte = *bytes.get(*at)?;
        *at += 1;
        if n == 8 {
            return Some(number << 8 | u64::from(byte));
        }
        number = number << 7 | u64::from(byte & 0x7F);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}
