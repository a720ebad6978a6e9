//! The write-ahead log of SQLite, looked at before it is opened.
//!
//! SQLite takes over the commits that are whole, up to the first that is not, and does not say so.

use std::fs::File;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use hashbrown::HashMap;

use super::{INDEX, LOG};
use crate::store::{damage, replace};

const HEADER_LEN: usize = 32;
const FRAME_HEADER_LEN: usize = 24;
/// Bytes of a page that SQLite can have.
const PAGE_LENS: RangeInclusive<usize> = 512..=65_536;
/// In front of a log whose checksums are over little-endian words; with its last bit set, over big-endian ones.
const MAGIC: u32 = 0x377F_0682;

/// Where the log of a database is.
pub(super) fn beside(path: &Path) -> PathBuf {
    replace::beside(path, LOG)
}

/// Cuts off what the disk does not give, and what is behind: SQLite would open nothing. So it does with commits
/// that are damaged, and those behind them. One with a damaged beginning, which is nothing to it, is emptied. What
/// there was is set aside. Says how many bytes at the end are the last commit in part; 0 if there is no log.
pub(super) fn mend(path: &Path) -> io::Result<usize> {
    let Some((bytes, unreadable)) = read(path)? else { return Ok(0) };
    let (log, name) = (Log::of(&bytes), path.display());
    let tail = log.as_ref().map(Log::tail).unwrap_or_default();
    let is_damaged = log.is_none() && bytes.iter().any(|byte| *byte != 0);
    if is_damaged {
        tracing::error!("{name}: its beginning is damaged, and all of it was set aside");
    }
    if unreadable > 0 {
        tracing::error!(
            "{name}: the disk does not give {unreadable} bytes of it; what there was of it was set aside"
        );
    }
    if is_damaged || unreadable > 0 {
        damage::set_aside(path, 0, &bytes)?;
    } else if tail.has_more {
        let (at, lost) = (tail.from, bytes.get(tail.from..tail.end).unwrap_or_default());
        tracing::error!(
            "{name}: {} bytes of commits are damaged, or come behind what is, and were set aside",
            lost.len()
        );
        damage::set_aside(path, at, lost)?;
    } else {
        return Ok(tail.end - tail.from);
    }
    let file = File::options().write(true).open(path)?;
    file.set_len(tail.from as u64)?;
    file.sync_all()?;
    Ok(0)
}

/// Whether there is no log, but what SQLite knew of it.
pub(super) fn is_missing(path: &Path) -> io::Result<bool> {
    Ok(!beside(path).try_exists()? && replace::beside(path, INDEX).try_exists()?)
}

/// Whether nothing is in a database, and something in its log, which SQLite would remove then. To it a file of one
/// byte is empty, too.
pub(super) fn is_alone(path: &Path) -> io::Result<bool> {
    Ok(damage::bytes(path)? <= 1 && !Changed::read(&beside(path))?.places.is_empty())
}

/// Has the disk have what can be read of it. Behind a part that it has not got nothing in the log counts, whether
/// or not another program that reads the database keeps it from being taken in.
pub(super) fn write_again(path: &Path) -> io::Result<()> {
    match damage::write_again(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        written => written,
    }
}

fn read(path: &Path) -> io::Result<Option<(Vec<u8>, usize)>> {
    match damage::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// The pages that the commits of a log have changed, by their numbers.
#[derive(Default)]
pub(super) struct Changed {
    pub(super) page_len: Option<usize>,
    bytes: Vec<u8>,
    places: HashMap<u32, usize>,
}

impl Changed {
    pub(super) fn read(path: &Path) -> io::Result<Self> {
        let Some((bytes, _)) = read(path)? else { return Ok(Self::default()) };
        let Some(log) = Log::of(&bytes) else { return Ok(Self::default()) };
        let (page_len, places) = (Some(log.page_len), log.committed().0);
        Ok(Self { page_len, bytes, places })
    }

    pub(super) fn page(&self, number: u32) -> Option<&[u8]> {
        let place = *self.places.get(&number)?;
        self.bytes.get(place..place + self.page_len?)
    }

    /// The numbers above one, in their order.
    pub(super) fn above(&self, number: u32) -> Vec<u32> {
        let mut above: Vec<_> = self.places.keys().copied().filter(|of| *of > number).collect();
        above.sort_unstable();
        above
    }
}

/// What is in a log behind its last whole commit, and was written after it.
#[derive(Default)]
struct Tail {
    from: usize,
    end: usize,
    /// It is of more commits than one. Only the last had not been acknowledged.
    has_more: bool,
}

struct Log<'a> {
    bytes: &'a [u8],
    page_len: usize,
    is_big_endian: bool,
}

impl<'a> Log<'a> {
    fn of(bytes: &'a [u8]) -> Option<Self> {
        let magic = word(bytes, 0)?;
        let page_len = usize::try_from(word(bytes, 8)?).ok()?;
        let log = Self { bytes, page_len, is_big_endian: magic & 1 == 1 };
        let sums = log.sum((0, 0), bytes.get(..24)?);
        let is_length = page_len.is_power_of_two() && PAGE_LENS.contains(&page_len);
        let is_log = magic & !1 == MAGIC && is_length;
        (is_log && sums == (word(bytes, 24)?, word(bytes, 28)?)).then_some(log)
    }

    fn frame_len(&self) -> usize {
        FRAME_HEADER_LEN + self.page_len
    }

    fn salts(&self) -> Option<&'a [u8]> {
        self.bytes.get(16..24)
    }

    /// Where the latest of each page is, where the last commit ends that is whole, and where frames do.
    fn committed(&self) -> (HashMap<u32, usize>, usize, usize) {
        let frame_len = self.frame_len();
        let mut sums = (word(self.bytes, 24).unwrap_or(0), word(self.bytes, 28).unwrap_or(0));
        let (mut at, mut committed) = (HEADER_LEN, HEADER_LEN);
        let (mut places, mut pending) = (HashMap::new(), Vec::new());
        while let Some(frame) = self.bytes.get(at..at + frame_len) {
            sums = self.sum(sums, frame.get(..8).unwrap_or_default());
            sums = self.sum(sums, frame.get(FRAME_HEADER_LEN..).unwrap_or_default());
            if (word(frame, 16), word(frame, 20)) != (Some(sums.0), Some(sums.1)) {
                break;
            }
            if frame.get(8..16) != self.salts() {
                // It is none of an earlier round, whose sums are others; but SQLite goes by that.
                at += frame_len;
                break;
            }
            pending.push((word(frame, 0).unwrap_or(0), at + FRAME_HEADER_LEN));
            at += frame_len;
            if word(frame, 4) != Some(0) {
                committed = at;
                places.extend(pending.drain(..));
            }
        }
        (places, committed, at)
    }

    fn tail(&self) -> Tail {
        let (_, from, mut end) = self.committed();
        let (frame_len, mut commits) = (self.frame_len(), Vec::new());
        // What an earlier round of the log left behind has other salts.
        for at in (from..self.bytes.len()).step_by(frame_len) {
            let is_of_this_round = at < end || self.bytes.get(at + 8..at + 16) == self.salts();
            if is_of_this_round {
                end = (at + frame_len).min(self.bytes.len());
                commits.extend(word(self.bytes, at + 4).filter(|pages| *pages > 0).map(|_| end));
            }
        }
        Tail { from, end, has_more: commits.first().is_some_and(|first| *first < end) }
    }

    fn sum(&self, (mut first, mut second): (u32, u32), bytes: &[u8]) -> (u32, u32) {
        for pair in bytes.chunks_exact(8) {
            let [a, b] = [0, 4].map(|at| {
                let word = word(pair, at).unwrap_or(0);
                if self.is_big_endian { word } else { word.swap_bytes() }
            });
            first = first.wrapping_add(a).wrapping_add(second);
            second = second.wrapping_add(b).wrapping_add(first);
        }
        (first, second)
    }
}

/// Big-endian, as all numbers of the log are.
fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::sqlite::pages::Pages;

    /// A log with a commit of one page.
    fn log(page_len: u32, number: u32, page: &[u8]) -> Vec<u8> {
        let sum = Log { bytes: &[], page_len: 512, is_big_endian: false };
        let put = |bytes: &mut Vec<u8>, words: &[u32]| {
            bytes.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        };
        let mut bytes = Vec::new();
        put(&mut bytes, &[MAGIC, 3_007_000, page_len, 0, 7, 8]);
        let sums = sum.sum((0, 0), &bytes);
        put(&mut bytes, &[sums.0, sums.1]);
        let mut head = Vec::new();
        put(&mut head, &[number, number]);
        let sums = sum.sum(sum.sum(sums, &head), page);
        put(&mut head, &[7, 8, sums.0, sums.1]);
        bytes.extend(head);
        bytes.extend(page);
        bytes
    }

    #[test]
    fn a_length_that_no_page_has_is_none() {
        for (len, is_one) in [(4096, true), (65_536, true), (131_072, false), (1 << 31, false)] {
            assert_eq!(Log::of(&log(len, 1, &[0; 4096])).is_some(), is_one, "{len}");
        }
    }

    /// A number says nothing about how many pages there are.
    #[test]
    fn a_page_beyond_all_others_is_one_more() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("db.sqlite");
        std::fs::write(&path, [0; 3 * 4096]).expect("written");
        std::fs::write(beside(&path), log(4096, u32::MAX, &[0; 4096])).expect("written");
        let pages = Pages::open(&path).expect("files");
        assert_eq!(pages.numbers().collect::<Vec<_>>(), [1, 2, 3, u32::MAX]);
    }
}
