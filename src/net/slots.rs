//! A slab whose keys rest for the remainder of the turn in which they were released.

use super::driver::ConnId;
use crate::chunks::Chunks;

/// Values by [`ConnId`]. A plain slab would give out a key again at once, and what is still on its way
/// to the old connection would reach the new one.
#[derive(Debug)]
pub(super) struct Slots<T> {
    entries: Chunks<Option<T>>,
    free: Vec<u32>,
    released: Vec<u32>,
}

impl<T> Slots<T> {
    pub(super) const fn new() -> Self {
        Self { entries: Chunks::new(), free: Vec::new(), released: Vec::new() }
    }

    /// Stores `value`; gives it back if there are no ids left.
    pub(super) fn insert(&mut self, value: T) -> Result<ConnId, T> {
        if let Some(id) = self.free.pop() {
            if let Some(entry) = self.entries.get_mut(id as usize) {
                *entry = Some(value);
                return Ok(ConnId(id));
            }
            return Err(value);
        }
        match u32::try_from(self.entries.len()) {
            Ok(id) if id < u32::MAX => {
                self.entries.push(Some(value));
                Ok(ConnId(id))
            }
            _ => Err(value),
        }
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: ConnId) -> Option<&mut T> {
        self.entries.get_mut(id.index())?.as_mut()
    }

    /// Makes another value of the one that is there.
    pub(super) fn change(&mut self, id: ConnId, change: impl FnOnce(T) -> T) {
        if let Some(entry) = self.entries.get_mut(id.index()) {
            *entry = entry.take().map(change);
        }
    }

    pub(super) fn remove(&mut self, id: ConnId) -> Option<T> {
        let value = self.entries.get_mut(id.index())?.take()?;
        self.released.push(id.0);
        Some(value)
    }

    /// From here on released keys may be given out again.
    #[inline]
    pub(super) fn end_turn(&mut self) {
        if !self.released.is_empty() {
            self.free.append(&mut self.released);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.free.len() - self.released.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_rests_until_the_turn_ends() {
        let mut slots = Slots::new();
        let a = slots.insert('a').unwrap();
        assert_eq!(slots.remove(a), Some('a'));
        assert_eq!(slots.remove(a), None);
        let b = slots.insert('b').unwrap();
        assert_ne!(a, b);
        slots.end_turn();
        assert_eq!(slots.insert('c').unwrap(), a);
        assert_eq!(slots.len(), 2);
    }
}
