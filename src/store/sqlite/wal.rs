//! The write-ahead log of SQLite, looked at before it is opened.
//!
//! SQLite takes over the commits that are whole, up to the first that is not, and does not say so.

use std::fs;
use std::io;
use std::path::Path;

const HEADER_LEN: usize = 32;
const FRAME_HEADER_LEN: usize = 24;
/// In front of a log whose checksums are over little-endian words; with its last bit set, over big-endian ones.
const MAGIC: u32 = 0x377F_0682;

/// How many bytes at the end of a log belong to no commit that is whole; 0 if there is no log.
pub(super) fn torn_bytes(path: &Path) -> io::Result<usize> {
    match fs::read(path) {
        Ok(log) => Ok(Log::of(&log).map_or(0, |log| log.torn())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
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
        let is_log = magic & !1 == MAGIC && page_len.is_power_of_two() && page_len >= 512;
        (is_log && sums == (word(bytes, 24)?, word(bytes, 28)?)).then_some(log)
    }

    fn torn(&self) -> usize {
        let frame_len = FRAME_HEADER_LEN + self.page_len;
        let salts = self.bytes.get(16..24);
        let mut sums = (word(self.bytes, 24).unwrap_or(0), word(self.bytes, 28).unwrap_or(0));
        let (mut at, mut committed) = (HEADER_LEN, HEADER_LEN);
        while let Some(frame) = self.bytes.get(at..at + frame_len)
            && frame.get(8..16) == salts
        {
            sums = self.sum(sums, frame.get(..8).unwrap_or_default());
            sums = self.sum(sums, frame.get(FRAME_HEADER_LEN..).unwrap_or_default());
            if (word(frame, 16), word(frame, 20)) != (Some(sums.0), Some(sums.1)) {
                break;
            }
            at += frame_len;
            if word(frame, 4) != Some(0) {
                committed = at;
            }
        }
        // What an earlier round of the log left behind has other salts.
        let mut end = at;
        while self.bytes.get(end + 8..end + 16).is_some_and(|found| Some(found) == salts) {
            end = (end + frame_len).min(self.bytes.len());
        }
        end - committed
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
