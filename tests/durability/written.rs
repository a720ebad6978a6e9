//! The records in what an engine writes to its log: what a write is about.

/// Bytes in front of the first commit in a segment of the log, and what they begin with.
const SEGMENT_HEAD: usize = 64;
const SEGMENT_MAGIC: &[u8] = b"SLUICEL1";
/// Bytes in front of the records of a commit; the first eight say how many bytes those are.
const FRAME_HEAD: usize = 24;
/// In the byte of the table: the record is gone.
const GONE: u8 = 0x80;
/// Of an SQLite database, and what a leaf of a table without row numbers begins with.
const PAGE: usize = 4096;
const LEAF: u8 = 0x0A;

/// A record that is put or, without a value, removed; in a page of SQLite all are that it has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) key: Vec<u8>,
    pub(crate) value: Option<Vec<u8>>,
}

/// Nothing if it is no write of that kind.
pub(crate) fn records(file: &str, bytes: &[u8]) -> Vec<Record> {
    let found = match file {
        _ if file.ends_with(".log") => commit(bytes),
        _ if file.ends_with("-wal") => leaf(bytes),
        _ => None,
    };
    found.unwrap_or_default()
}

fn commit(bytes: &[u8]) -> Option<Vec<Record>> {
    let head = if bytes.starts_with(SEGMENT_MAGIC) { SEGMENT_HEAD } else { 0 };
    let (frame, rest) = bytes.get(head..)?.split_at_checked(FRAME_HEAD)?;
    let len = u64::from_le_bytes(*frame.first_chunk()?);
    let mut rest = rest.get(..usize::try_from(len).ok()?)?;
    let mut found = Vec::new();
    while let Some((table, more)) = rest.split_first() {
        let len = |at: usize| Some(u32::from_le_bytes(*more.get(at..)?.first_chunk()?) as usize);
        let (key, after) = more.get(8..)?.split_at_checked(len(0)?)?;
        let (value, after) = after.split_at_checked(len(4)?)?;
        let value = (table & GONE == 0).then(|| value.to_vec());
        found.push(Record { key: key.to_vec(), value });
        rest = after;
    }
    Some(found)
}

fn leaf(page: &[u8]) -> Option<Vec<Record>> {
    if page.len() != PAGE || page[0] != LEAF {
        return None;
    }
    let two = |at: usize| Some(usize::from(u16::from_be_bytes(*page.get(at..)?.first_chunk()?)));
    let cell = |n: usize| {
        let mut rest = page.get(two(8 + 2 * n)?..)?;
        let _payload = number(&mut rest)?;
        let mut head = rest.get(1..usize::from(*rest.first()?))?;
        let mut body = rest.get(1 + head.len()..)?;
        let mut blob = || {
            let len = usize::try_from((number(&mut head)? - 12) / 2).ok()?;
            let (blob, after) = body.split_at_checked(len)?;
            body = after;
            Some(blob.to_vec())
        };
        Some(Record { key: blob()?, value: Some(blob()?) })
    };
    (0..two(3)?).map(cell).collect()
}

/// Seven bits a byte, the highest first.
fn number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    loop {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number = number << 7 | u64::from(byte & 0x7F);
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
}
