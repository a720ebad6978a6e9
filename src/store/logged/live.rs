//! Which records of the log the engine has to get, and where they are.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::segments::Segment;
use crate::hooks::{Table, Write};

/// Where a record is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

/// Set in those of the second segment.
const SECOND: u64 = 1 << 63;

impl Place {
    pub(super) const fn new(segment: Segment, at: u64) -> Self {
        match segment {
            Segment::A => Self(at),
            Segment::B => Self(at | SECOND),
        }
    }

    pub(super) const fn segment(self) -> Segment {
        if self.0 & SECOND == 0 { Segment::A } else { Segment::B }
    }

    pub(super) const fn at(self) -> u64 {
        self.0 & !SECOND
    }
}

/// Names a record; the usual keys without memory of their own.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Key {
    Short(Table, u8, [u8; 16]),
    Long(Table, Box<[u8]>),
}

impl Key {
    fn new(table: Table, key: &[u8]) -> Self {
        let mut short = [0; 16];
        match short.get_mut(..key.len()) {
            Some(to) => {
                to.copy_from_slice(key);
                #[expect(clippy::cast_possible_truncation, reason = "at most 16")]
                Self::Short(table, key.len() as u8, short)
            }
            None => Self::Long(table, key.into()),
        }
    }
}

#[derive(Debug)]
struct Last {
    place: Place,
    /// The engine has no record of that key, in whatever form.
    fresh: bool,
}

/// The last change of each record that the engine has not got.
#[derive(Debug, Default)]
pub(super) struct Live(HashMap<Key, Last>);

impl Live {
    /// Notes what was written there. A record that comes and goes is never the engine's.
    pub(super) fn note(&mut self, write: &Write, place: Place) {
        let entry = self.0.entry(Key::new(write.table, &write.key));
        let is_gone = write.value.is_none();
        match entry {
            Entry::Occupied(entry) if is_gone && entry.get().fresh => _ = entry.remove(),
            Entry::Occupied(mut entry) => entry.get_mut().place = place,
            Entry::Vacant(entry) => {
                _ = entry.insert(Last { place, fresh: write.fresh && !is_gone });
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where all of it is.
    pub(super) fn places(&self) -> Vec<Place> {
        let mut places: Vec<_> = self.0.values().map(|last| last.place).collect();
        places.sort_unstable();
        places
    }

    /// Takes all of it out, in the order of the log.
    pub(super) fn take(&mut self) -> Vec<Place> {
        let places = self.places();
        self.0.clear();
        places
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &[u8], value: Option<&[u8]>, fresh: bool) -> Write {
        Write { table: Table::Queued, key: key.to_vec(), value: value.map(<[u8]>::to_vec), fresh }
    }

    #[test]
    fn the_last_change_counts_and_what_came_and_went_is_nothing() {
        let place = |at| Place::new(Segment::A, at);
        let mut live = Live::default();
        for (at, key, value, fresh) in [
            (1, &b"new"[..], Some(&b"1"[..]), true),
            (2, b"new", Some(b"2"), false),
            (3, b"new and gone", Some(b""), true),
            (4, b"old", Some(b"3"), false),
            (5, b"old and gone", Some(b"4"), false),
            (6, b"a key of more than sixteen bytes", Some(b"5"), true),
        ] {
            live.note(&write(key, value, fresh), place(at));
        }
        live.note(&write(b"new and gone", None, false), place(7));
        live.note(&write(b"old and gone", None, false), place(8));
        live.note(&write(b"gone before", None, false), place(9));
        live.note(&write(b"gone before", Some(b"6"), true), place(10));
        live.note(&write(b"gone before", None, false), place(11));
        assert_eq!(live.take(), [2, 4, 6, 8, 11].map(place));
        assert!(live.is_empty());
    }

    #[test]
    fn places_of_both_segments_are_told_apart() {
        for segment in Segment::BOTH {
            let place = Place::new(segment, 5);
            assert_eq!((place.segment(), place.at()), (segment, 5));
        }
    }
}
