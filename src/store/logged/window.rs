//! Reads records of the log, many at once.

use super::frame;
use super::live::Place;
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

    /// The first records of some places, about so many bytes of them.
    pub(super) fn next(
        &mut self,
        segments: &impl Segments,
        places: &[Place],
        bytes: u64,
    ) -> Result<Vec<Write>, StoreError> {
        self.forget();
        let (mut writes, mut sum) = (Vec::new(), 0);
        for place in places {
            if sum >= bytes {
                break;
            }
            let (write, len) = self.record(segments, *place)?;
            sum += len as u64;
            writes.push(write);
        }
        Ok(writes)
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
