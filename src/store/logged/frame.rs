//! How segments, commits and records stand in the log.
//!
//! A segment begins with a head, twice: magic, life, number of its first frame, checksum. Then come frames,
//! one for each commit: length of its records, number, checksum; then the records. Zeros stand behind the
//! last frame. A segment is written over when it is not needed any more, so behind those there may be older
//! frames: their numbers do not go on from it. Those of an earlier opening have another life, which is in
//! each checksum, and is added to each number: what clients send cannot look like a frame.

use std::ops::Range;

use xxhash_rust::xxh3::xxh3_64_with_seed;

use crate::hooks::{Table, Write};

const MAGIC: [u8; 8] = *b"SLUICEL1";
const HEAD: usize = 32;
/// Bytes in front of the first frame. They are of one sector, so a disk has all of them or none.
pub(super) const SEGMENT_HEAD: usize = 2 * HEAD;
/// Bytes in front of the records of a commit.
pub(super) const FRAME_HEAD: usize = 24;
/// Bytes in front of the key of a record: table and lengths.
pub(super) const RECORD_HEAD: usize = 9;
/// In the byte of the table: the record is gone.
const GONE: u8 = 0x80;

/// Which segment of which opening it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) life: u64,
    /// The number of its first frame.
    pub(super) first: u64,
}

/// What a segment begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// It is not in use.
    Nothing,
    Head(Head),
    Damaged,
}

impl Beginning {
    pub(super) fn of(segment: &[u8]) -> Self {
        let bytes = segment.get(..SEGMENT_HEAD).unwrap_or(segment);
        let head = bytes.chunks(HEAD).find_map(Head::decode);
        match head {
            Some(head) => Self::Head(head),
            None if bytes.iter().all(|byte| *byte == 0) => Self::Nothing,
            None => Self::Damaged,
        }
    }
}

impl Head {
    pub(super) fn encode(self) -> [u8; SEGMENT_HEAD] {
        let mut bytes = [0; SEGMENT_HEAD];
        let sum = self.checksum().to_le_bytes();
        let parts = [MAGIC, self.life.to_le_bytes(), self.first.to_le_bytes(), sum];
        for (to, part) in bytes.chunks_exact_mut(8).zip(parts.into_iter().chain(parts)) {
            to.copy_from_slice(&part);
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        if *bytes.first_chunk::<8>()? != MAGIC {
            return None;
        }
        let head = Self { life: number(bytes, 8)?, first: number(bytes, 16)? };
        (number(bytes, 24)? == head.checksum()).then_some(head)
    }

    fn checksum(self) -> u64 {
        xxh3_64_with_seed(&self.first.to_le_bytes(), self.life)
    }
}

/// Makes a frame of a commit in a buffer, behind what is in it.
pub(super) fn encode(writes: &[Write], life: u64, sequence: u64, frame: &mut Vec<u8>) {
    let start = frame.len();
    let records = start + FRAME_HEAD;
    frame.resize(records, 0);
    for write in writes {
        let gone = if write.value.is_none() { GONE } else { 0 };
        let value = write.value.as_deref().unwrap_or_default();
        #[expect(clippy::cast_possible_truncation, reason = "a packet is far shorter")]
        let [k, v] = [write.key.len(), value.len()].map(|len| (len as u32).to_le_bytes());
        let head = [write.table as u8 | gone, k[0], k[1], k[2], k[3], v[0], v[1], v[2], v[3]];
        frame.extend_from_slice(&head);
        frame.extend_from_slice(&write.key);
        frame.extend_from_slice(value);
    }
    let body = frame.get(records..).unwrap_or_default();
    let shown = sequence.wrapping_add(life);
    let head = [body.len() as u64, shown, checksum(body, life, sequence)];
    for (to, part) in
        frame.get_mut(start..records).unwrap_or_default().chunks_exact_mut(8).zip(head)
    {
        to.copy_from_slice(&part.to_le_bytes());
    }
}

/// Bytes of a record in a frame.
pub(super) fn record_len(write: &Write) -> usize {
    RECORD_HEAD + write.key.len() + write.value.as_ref().map_or(0, Vec::len)
}

fn checksum(records: &[u8], life: u64, sequence: u64) -> u64 {
    xxh3_64_with_seed(records, life.wrapping_add(sequence))
}

/// The first record of some bytes, and its length. Nothing if it is not there to its end.
pub(super) fn record(bytes: &[u8]) -> Option<(Write, usize)> {
    let (key, value) = lengths(bytes)?;
    let table = *bytes.first()?;
    let end = RECORD_HEAD + key + value;
    let write = Write {
        table: *Table::ALL.get(usize::from(table & !GONE))?,
        key: bytes.get(RECORD_HEAD..RECORD_HEAD + key)?.into(),
        value: match table & GONE {
            0 => Some(bytes.get(RECORD_HEAD + key..end)?.to_vec()),
            _ => None,
        },
        fresh: false,
    };
    Some((write, end))
}

/// The lengths of key and value of a record, if its head is there.
pub(super) fn lengths(bytes: &[u8]) -> Option<(usize, usize)> {
    let len = |at: usize| {
        let len = u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?);
        usize::try_from(len).ok()
    };
    Some((len(1)?, len(5)?))
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// What a segment is made of.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The records of whole commits, in their order.
    pub(super) whole: Vec<Range<usize>>,
    /// With whole commits behind.
    pub(super) damaged: Vec<Range<usize>>,
    /// The bytes of a commit at the end that is not whole.
    pub(super) torn: usize,
    /// The number behind the last frame.
    pub(super) next: u64,
}

impl Found {
    pub(super) fn of(bytes: &[u8], head: Head) -> Self {
        let mut found = Self { next: head.first, ..Self::default() };
        let mut at = SEGMENT_HEAD;
        loop {
            if let Some((sequence, records)) = frame(bytes, at, head.life)
                && sequence == found.next
            {
                (at, found.next) = (records.end, sequence.wrapping_add(1));
                found.whole.push(records);
                continue;
            }
            // A number that is far ahead is none.
            let ahead = (bytes.len() / FRAME_HEAD) as u64;
            let later = (at + 1..(bytes.len() + 1).saturating_sub(FRAME_HEAD)).find_map(|at| {
                let sequence = number(bytes, at + 8)?.wrapping_sub(head.life);
                let is_ahead = sequence.wrapping_sub(found.next) <= ahead;
                is_ahead.then(|| frame(bytes, at, head.life)).flatten().map(|frame| (at, frame))
            });
            let Some((next, (sequence, records))) = later else {
                found.torn = torn(bytes, at, found.next.wrapping_add(head.life));
                return found;
            };
            found.damaged.push(at..next);
            (at, found.next) = (records.end, sequence.wrapping_add(1));
            found.whole.push(records);
        }
    }
}

/// The whole frame that begins there: its number, and where its records are.
fn frame(bytes: &[u8], at: usize, life: u64) -> Option<(u64, Range<usize>)> {
    let (len, sum) = (number(bytes, at)?, number(bytes, at + 16)?);
    let sequence = number(bytes, at + 8)?.wrapping_sub(life);
    let start = at + FRAME_HEAD;
    let records = start..start.checked_add(usize::try_from(len).ok()?)?;
    let body = bytes.get(records.clone())?;
    (checksum(body, life, sequence) == sum).then_some((sequence, records))
}

/// How many bytes, at least, are there of a frame that is not whole; all of them if it shows that number.
fn torn(bytes: &[u8], at: usize, shown: u64) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    let head = rest.get(..FRAME_HEAD).unwrap_or(rest);
    if head.iter().all(|byte| *byte == 0) {
        return 0;
    }
    if number(rest, 8) != Some(shown) {
        return head.len();
    }
    let len = number(rest, 0).and_then(|len| usize::try_from(len).ok()).unwrap_or(usize::MAX);
    len.saturating_add(FRAME_HEAD).min(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head = Head { life: 77 << 50, first: 5 };

    fn put(n: u64) -> Write {
        let value = Some(vec![n as u8; 30 * n as usize]);
        Write { table: Table::Queued, key: n.to_be_bytes().into(), value, fresh: true }
    }

    /// A segment with so many commits of one record, and where each of its frames ends.
    fn segment(head: Head, count: u64) -> (Vec<u8>, Vec<usize>) {
        let mut bytes = head.encode().to_vec();
        let ends = (0..count)
            .map(|n| {
                encode(&[put(n)], head.life, head.first + n, &mut bytes);
                bytes.len()
            })
            .collect();
        (bytes, ends)
    }

    #[test]
    fn a_head_comes_back() {
        let bytes = HEAD.encode();
        assert_eq!(Beginning::of(&bytes), Beginning::Head(HEAD));
        for bit in 0..bytes.len() * 8 {
            let mut other = bytes;
            other[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Beginning::of(&other), Beginning::Head(HEAD), "one of two, bit {bit}");
            other[(bit / 8 + SEGMENT_HEAD / 2) % SEGMENT_HEAD] ^= 1;
            assert_eq!(Beginning::of(&other), Beginning::Damaged, "bit {bit}");
        }
        assert_eq!(Beginning::of(&[0; SEGMENT_HEAD]), Beginning::Nothing);
        assert_eq!(Beginning::of(b""), Beginning::Nothing);
    }

    #[test]
    fn records_come_back() {
        let gone = Write { table: Table::Retained, key: (*b"t").into(), value: None, fresh: false };
        let empty = Write { value: Some(Vec::new()), ..gone.clone() };
        for write in [gone, empty, Write { fresh: false, ..put(9) }] {
            let mut bytes = HEAD.encode().to_vec();
            let at = bytes.len() + FRAME_HEAD;
            let writes = [write];
            encode(&writes, HEAD.life, HEAD.first, &mut bytes);
            assert_eq!(record_len(&writes[0]), bytes.len() - at);
            assert_eq!(record(&bytes[at..]), Some((writes[0].clone(), bytes.len() - at)));
            assert_eq!(record(&bytes[at..bytes.len() - 1]), None, "it is cut");
            assert_eq!(Found::of(&bytes, HEAD).whole.first(), Some(&(at..bytes.len())));
        }
    }

    #[test]
    fn wherever_a_segment_ends_what_is_whole_is_found() {
        let (bytes, ends) = segment(HEAD, 5);
        for len in SEGMENT_HEAD..=bytes.len() {
            let found = Found::of(&bytes[..len], HEAD);
            let whole = ends.iter().filter(|end| **end <= len).count();
            assert_eq!((found.whole.len(), found.next), (whole, HEAD.first + whole as u64));
            assert!(found.damaged.is_empty());
            let end = ends[..whole].last().copied().unwrap_or(SEGMENT_HEAD);
            assert_eq!(found.torn, len - end, "{len}");
        }
    }

    #[test]
    fn behind_the_highest_number_comes_0() {
        let head = Head { first: u64::MAX, ..HEAD };
        let (mut bytes, _) = segment(head, 1);
        encode(&[put(3)], head.life, 0, &mut bytes);
        for damaged in [false, true] {
            if damaged {
                bytes.insert(SEGMENT_HEAD, 1);
            }
            let found = Found::of(&bytes, head);
            assert_eq!(
                (found.whole.len(), found.next, found.damaged.len()),
                (2, 1, usize::from(damaged))
            );
        }
    }

    /// What an earlier use has left behind the last frame is not taken for one.
    #[test]
    fn what_is_older_is_not_read() {
        for life in [HEAD.life, HEAD.life + 1] {
            let (mut bytes, _) = segment(Head { life, first: HEAD.first + 1 }, 6);
            let (mut newer, _) = segment(Head { first: HEAD.first + 50, ..HEAD }, 2);
            newer.extend([0; FRAME_HEAD]);
            bytes[..newer.len()].copy_from_slice(&newer);
            let found = Found::of(&bytes, Head { first: HEAD.first + 50, ..HEAD });
            assert_eq!((found.whole.len(), found.torn), (2, 0));
            assert!(found.damaged.is_empty());
        }
    }

    #[test]
    fn each_flipped_bit_costs_its_own_commit_only() {
        let (bytes, ends) = segment(HEAD, 5);
        let all = Found::of(&bytes, HEAD).whole;
        for bit in SEGMENT_HEAD * 8..bytes.len() * 8 {
            let at = bit / 8;
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (bit % 8);
            let found = Found::of(&damaged, HEAD);
            let hit = ends.iter().take_while(|end| **end <= at).count();
            let others: Vec<_> =
                (0..all.len()).filter(|n| *n != hit).map(|n| all[n].clone()).collect();
            assert_eq!(found.whole, others, "bit {bit}");
            let is_last = hit + 1 == ends.len();
            assert_eq!((found.damaged.len(), found.torn > 0), (usize::from(!is_last), is_last));
        }
    }
}
