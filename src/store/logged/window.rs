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
        self.start = None;
        self.bytes.resize(len, 0);
        let len = segments.read_at(place.segment(), place.at(), &mut self.bytes)?;
        self.bytes.truncate(len);
        self.start = Some(place);
        Ok(())
    }
}
