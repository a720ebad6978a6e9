//! Which records of the log the engine has to get, and where they are.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::segments::Segment;
use crate::hooks::{Key, Table, Write};

/// Where a record is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place(u64);

/// Memory for so many records of a table is kept when there are fewer.
const RECORDS_KEPT: usize = 1 << 15;
/// Set in the places of the second segment.
const SECOND: u64 = 1 << 63;
/// Set in a [`Last`] of a record that the engine does not have, in whatever form.
const FRESH: u64 = 1 << 62;

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

    /// Whether it is in the same segment as another, and not behind it.
    fn is_up_to(self, other: Self) -> bool {
        self.segment() == other.segment() && self <= other
    }

    pub(super) const fn at(self) -> u64 {
        self.0 & !SECOND
    }
}

/// The place of a record's last change, and [`FRESH`]: in one number, as there is one for each record.
#[derive(Clone, Copy, Debug)]
struct Last(u64);

impl Last {
    fn new(Place(place): Place, fresh: bool) -> Self {
        Self(if fresh { place | FRESH } else { place })
    }

    fn place(self) -> Place {
        Place(self.0 & !FRESH)
    }

    fn is_fresh(self) -> bool {
        self.0 & FRESH != 0
    }
}

/// The last changes of records, by table.
type Lasts = [HashMap<Key, Last>; Table::COUNT];

/// The last change of each record that the engine has not got.
#[derive(Debug, Default)]
pub(super) struct Live {
    /// Of the active segment.
    new: Lasts,
    /// Of the full one, what was not changed since.
    old: Lasts,
    /// The engine has got what is in its segment up to here.
    given: Option<Place>,
    /// Some of the old has gone since its places were told to be given.
    has_gone: bool,
}

impl Live {
    /// Notes what was written there. A record that comes and goes is never the engine's.
    pub(super) fn note(&mut self, write: &Write, place: Place) {
        let (is_gone, table) = (write.value.is_none(), write.table as usize);
        let (new, old) = (&mut self.new[table], &mut self.old[table]);
        match new.entry(write.key.clone()) {
            Entry::Occupied(entry) if is_gone && entry.get().is_fresh() => _ = entry.remove(),
            Entry::Occupied(mut entry) => {
                let fresh = entry.get().is_fresh();
                entry.insert(Last::new(place, fresh));
            }
            Entry::Vacant(entry) => {
                // What is new replaces nothing.
                let fresh = (write.fresh && !is_gone) || {
                    let old = if old.is_empty() { None } else { old.remove(entry.key()) };
                    self.has_gone |= old.is_some();
                    let is_given =
                        |old: Last| self.given.is_some_and(|to| old.place().is_up_to(to));
                    old.is_some_and(|old| old.is_fresh() && !is_given(old))
                };
                if !(is_gone && fresh) {
                    entry.insert(Last::new(place, fresh));
                }
            }
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.new.iter().chain(&self.old).all(HashMap::is_empty)
    }

    /// The active segment is full, and the other takes its place. Of that nothing is needed any more.
    pub(super) fn change_segments(&mut self) {
        debug_assert!(self.old.iter().all(HashMap::is_empty), "it is still needed");
        std::mem::swap(&mut self.new, &mut self.old);
        self.given = None;
    }

    /// Where the records of the full segment are, to be given to the engine.
    pub(super) fn leaving_places(&mut self) -> Vec<Place> {
        self.has_gone = false;
        self.old_places()
    }

    /// Where those are, in the order of the segment, without what the engine has got.
    pub(super) fn old_places(&self) -> Vec<Place> {
        let given = self.given;
        let mut places = places(&self.old);
        places.retain(|place| !given.is_some_and(|to| place.is_up_to(to)));
        places
    }

    /// Where those of the active one are.
    pub(super) fn new_places(&self) -> Vec<Place> {
        places(&self.new)
    }

    /// Whether a record is where the places of its segment told.
    pub(super) fn is_at(&self, write: &Write, place: Place) -> bool {
        !self.has_gone || {
            let last = self.old[write.table as usize].get(&write.key);
            last.is_some_and(|last| last.place() == place)
        }
    }

    /// The engine has got what is in its segment up to here.
    pub(super) fn set_given(&mut self, to: Place) {
        self.given = Some(to);
    }

    /// The engine has got all of the full segment.
    pub(super) fn forget_old(&mut self) {
        forget(&mut self.old);
    }

    /// The engine has got everything.
    pub(super) fn forget(&mut self) {
        forget(&mut self.new);
        self.forget_old();
    }
}

fn places(of: &Lasts) -> Vec<Place> {
    let mut places: Vec<_> = of.iter().flat_map(HashMap::values).map(|last| last.place()).collect();
    places.sort_unstable();
    places
}

fn forget(what: &mut Lasts) {
    for table in what {
        table.clear();
        table.shrink_to(RECORDS_KEPT);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(key: &[u8], value: Option<&[u8]>, fresh: bool) -> Write {
        Write { table: Table::Queued, key: key.into(), value: value.map(<[u8]>::to_vec), fresh }
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
        assert_eq!(live.new_places(), [2, 4, 6, 8, 11].map(place));
    }

    /// What goes while the engine has it must be told to the engine, and nothing else.
    #[test]
    fn what_goes_before_the_engine_has_it_is_nothing() {
        let [in_a, in_b] = Segment::BOTH.map(|segment| move |at| Place::new(segment, at));
        let mut live = Live::default();
        for at in 0..4 {
            live.note(&write(&[at], Some(b"1"), true), in_a(at.into()));
        }
        live.note(&write(b"gone", None, false), in_a(4));
        live.change_segments();
        assert_eq!(live.leaving_places(), [0, 1, 2, 3, 4].map(in_a));
        assert!(live.is_at(&write(&[1], Some(b"1"), true), in_a(1)));
        live.set_given(in_a(0));
        live.note(&write(&[0], None, false), in_b(10));
        live.note(&write(&[1], None, false), in_b(11));
        live.note(&write(&[2], Some(b"2"), false), in_b(12));
        live.note(&write(b"gone", Some(b"2"), true), in_b(13));
        assert!(!live.is_at(&write(&[1], Some(b"1"), true), in_a(1)));
        assert!(!live.is_at(&write(&[2], Some(b"1"), true), in_a(2)));
        assert!(live.is_at(&write(&[3], Some(b"1"), true), in_a(3)));
        assert_eq!(live.old_places(), [3, 4].map(in_a));
        assert_eq!(live.new_places(), [10, 12, 13].map(in_b));
        live.note(&write(&[2], None, false), in_b(14));
        live.note(&write(b"gone", None, false), in_b(15));
        assert_eq!(live.new_places(), [in_b(10)]);
        live.forget_old();
        assert!(!live.is_empty());
        live.forget();
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
