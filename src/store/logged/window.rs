//! Reads records of the log, many at once.

use super::frame;
use super::live::{Live, Place};
use super::segments::Segments;
use crate::hooks::{StoreError, Write};

/// What was read last.
#[derive(Default)]
pub(super) struct Window {
    /// Of its first byte.
    start: Option<Place>,
    bytes: Vec<u8>,
}

impl Window {
    /// Bytes that are read at once, if a record does not need more.
    const BYTES: usize = 128 << 10;

    /// Takes about so many bytes of records off the end of some places. Gives those that are still there, if
    /// there are any, and where the last of them is.
    pub(super) fn next(
        &mut self,
        segments: &impl Segments,
        places: &mut Vec<Place>,
        bytes: u64,
        live: &Live,
    ) -> Result<Option<(Place, Vec<Write>)>, StoreError> {
        self.forget();
        let (mut writes, mut last, mut sum) = (Vec::new(), None, 0);
        while sum < bytes
            && let Some(place) = places.pop()
        {
            let (write, len) = self.record(segments, place)?;
            sum += len as u64;
            if live.is_at(&write, place) {
                writes.push(write);
                last = Some(place);
            }
        }
        Ok(last.map(|last| (last, writes)))
    }

    /// What was read may have been written over.
    pub(super) fn forget(&mut self) {
        self.start = None;
    }

    /// A record, and its length.
    pub(super) fn record(
        &mut self,
        segments: &impl Segments,
        place: Place,
    ) -> Result<(Write, usize), StoreError> {
        if let Some(found) = self.behind(place).and_then(frame::record) {
            return Ok(found);
        }
        self.fill(segments, place, Self::BYTES)?;
        let len = match self.behind(place).and_then(frame::lengths) {
            Some((key, value)) => frame::RECORD_HEAD + key + value,
            None => 0,
        };
        if len > Self::BYTES {
            self.fill(segments, place, len)?;
        }
        self.behind(place).and_then(frame::record).ok_or_else(|| {
            let name = segments.name(place.segment());
            StoreError(format!("{name}: what was written at byte {} is not there", place.at()))
        })
    }

    /// What it has from a place on.
    fn behind(&self, place: Place) -> Option<&[u8]> {
        let start = self.start.filter(|start| start.segment() == place.segment())?;
        let skipped = place.at().checked_sub(start.at())?;
        self.bytes.get(usize::try_from(skipped).ok()?..)
    }

    fn fill(
        &mut self,
        segments: &impl Segments,
        place: Place,
        len: usize,
    ) -> Result<(), StoreError> {
        self.forget();
        self.bytes.clear();
        // A length that was damaged on the disk is not made room for.
        while self.bytes.len() < len {
            let there = self.bytes.len();
            self.bytes.resize(len.min(2 * there.max(Self::BYTES)), 0);
            let rest = self.bytes.get_mut(there..).unwrap_or_default();
            let wanted = rest.len();
            let read = segments.read_at(place.segment(), place.at() + there as u64, rest)?;
            self.bytes.truncate(there + read);
            if read < wanted {
                break;
            }
        }
        self.start = Some(place);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::Table;
    use crate::store::logged::segments::{Files, Segment};

    /// It was right when it was written.
    #[test]
    fn a_length_that_was_damaged_takes_no_more_than_there_is() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut files = Files::open(directory.path()).expect("made");
        let mut bytes = vec![Table::Queued as u8];
        bytes.extend([8_u32.to_le_bytes(), u32::MAX.to_le_bytes()].concat());
        bytes.resize(3 * Window::BYTES, 7);
        files.write(Segment::A, 0, &bytes).expect("room");
        let mut window = Window::default();
        let error = window.record(&files, Place::new(Segment::A, 0)).expect_err("it is damaged");
        assert!(error.to_string().ends_with("what was written at byte 0 is not there"), "{error}");
        assert!(window.bytes.capacity() <= 8 * Window::BYTES, "{}", window.bytes.capacity());
    }
}
