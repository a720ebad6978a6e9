//! What the log has and the engine has not, for those who read while nothing can be written.

use std::cell::RefCell;
use std::collections::BTreeMap;

use super::live::Place;
use super::segments::Segments;
use super::window::Window;
use crate::hooks::{Key, Store, StoreError, Table};

/// The records of the log, in front of those of the engine. It holds as long as the log does not grow.
pub(super) struct Overlay {
    /// Where each is, if it is not gone.
    records: BTreeMap<(Table, Key), Option<Place>>,
    window: RefCell<Window>,
}

impl Overlay {
    /// Of these places; of one record the later place counts.
    pub(super) fn new(
        segments: &impl Segments,
        places: impl Iterator<Item = Place>,
    ) -> Result<Self, StoreError> {
        let (mut records, mut window) = (BTreeMap::new(), Window::default());
        for place in places {
            let (write, _) = window.record(segments, place)?;
            records.insert((write.table, write.key), write.value.map(|_| place));
        }
        Ok(Self { records, window: RefCell::new(window) })
    }

    pub(super) fn get(
        &self,
        segments: &impl Segments,
        engine: &impl Store,
        table: Table,
        key: &[u8],
    ) -> Result<Option<Vec<u8>>, StoreError> {
        match self.records.get(&(table, key.into())) {
            None => engine.get(table, key),
            Some(None) => Ok(None),
            Some(Some(place)) => self.value(segments, *place).map(Some),
        }
    }

    /// As [`Store::range`].
    pub(super) fn range(
        &self,
        segments: &impl Segments,
        engine: &impl Store,
        (table, from): (Table, &[u8]),
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let own = self.records.range((table, Key::from(from))..);
        let own = own.take_while(|((of, _), _)| *of == table);
        let mut own = own.map(|((_, key), place)| (&**key, *place)).peekable();
        let mut goes_on = true;
        let give_own = |(key, place): (&[u8], Option<Place>), each: Each<'_>| match place {
            Some(place) => self.value(segments, place).map(|value| each(key, &value)),
            None => Ok(true),
        };
        let mut failed = None;
        engine.range(table, from, &mut |key, value| {
            let mut is_replaced = false;
            while let Some(one) = own.next_if(|(own, _)| *own <= key) {
                is_replaced = one.0 == key;
                match give_own(one, &mut *each) {
                    Ok(more) => goes_on = more,
                    Err(error) => (failed, goes_on) = (Some(error), false),
                }
                if !goes_on {
                    return false;
                }
            }
            goes_on = is_replaced || each(key, value);
            goes_on
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        while goes_on && let Some(one) = own.next() {
            goes_on = give_own(one, &mut *each)?;
        }
        Ok(())
    }

    fn value(&self, segments: &impl Segments, place: Place) -> Result<Vec<u8>, StoreError> {
        let (write, _) = self.window.borrow_mut().record(segments, place)?;
        Ok(write.value.unwrap_or_default())
    }
}

type Each<'a> = &'a mut dyn FnMut(&[u8], &[u8]) -> bool;
