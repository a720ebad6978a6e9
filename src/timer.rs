//! Time as a parameter, and the timer wheel.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::chunks::Chunks;

/// A moment on the broker's monotonic clock, in milliseconds since an arbitrary start.
///
/// Only the event loop reads the clock; everything else is handed a `Time`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Time(pub u64);

impl Time {
    /// The moment `after` later, saturating.
    #[must_use]
    pub fn plus(self, after: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(after.as_millis()).unwrap_or(u64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

const LEVEL_BITS: u32 = 6;
const SLOTS: usize = 1 << LEVEL_BITS;
/// Eleven levels of six bits span every `u64`: no deadline is ever clamped.
const LEVELS: usize = 11;
const NIL: u32 = u32::MAX;

/// Names one pending timer; stale after it fired or was cancelled, and then harmless.
///
/// Eight bytes, and `Option<TimerKey>` takes no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TimerKey {
    index: u32,
    generation: NonZeroU32,
}

/// A hierarchical timer wheel with a tick of one millisecond.
///
/// Insert and cancel cost O(1); a timer is moved at most once a level on its way down. It never
/// fires before its time, and fires with the first [`advance`](Wheel::advance) at or after it.
/// An entry takes at most 32 bytes beside its value.
#[derive(Debug)]
pub struct Wheel<T> {
    now: u64,
    len: usize,
    free: u32,
    /// One bit a level that holds anything.
    levels: u16,
    /// One bit a slot that holds anything, for each level.
    occupied: [u64; LEVELS],
    lists: Box<[List]>,
    entries: Chunks<Entry<T>>,
}

#[derive(Clone, Copy, Debug)]
struct List {
    head: u32,
    tail: u32,
}

const EMPTY: List = List { head: NIL, tail: NIL };

#[derive(Debug)]
struct Entry<T> {
    at: u64,
    prev: u32,
    /// The next entry of the slot, or of the free list.
    next: u32,
    generation: NonZeroU32,
    slot: u16,
    value: Option<T>,
}

impl<T> Wheel<T> {
    /// An empty wheel that stands at `start`.
    #[must_use]
    pub fn new(start: Time) -> Self {
        Self {
            now: start.0,
            len: 0,
            free: NIL,
            levels: 0,
            occupied: [0; LEVELS],
            lists: vec![EMPTY; LEVELS * SLOTS].into_boxed_slice(),
            entries: Chunks::new(),
        }
    }

    /// How many timers are pending.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no timer is pending.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Has `value` come out of [`advance`](Self::advance) once the time is `at`; with the very
    /// next one when `at` is not after the time the wheel stands at.
    pub fn insert(&mut self, at: Time, value: T) -> TimerKey {
        let at = at.0.max(self.now);
        let index = self.free;
        let key = if let Some(entry) = self.entries.get_mut(index as usize) {
            self.free = entry.next;
            entry.at = at;
            entry.value = Some(value);
            TimerKey { index, generation: entry.generation }
        } else {
            let index = u32::try_from(self.entries.len()).unwrap_or(NIL);
            let generation = NonZeroU32::MIN;
            let entry = Entry { at, prev: NIL, next: NIL, generation, slot: 0, value: Some(value) };
            self.entries.push(entry);
            TimerKey { index, generation }
        };
        self.len += 1;
        self.link(key.index);
        key
    }

    /// Takes a pending timer out; `None` if it fired or was cancelled before.
    pub fn cancel(&mut self, key: TimerKey) -> Option<T> {
        let entry = self.entries.get(key.index as usize)?;
        if entry.generation != key.generation || entry.value.is_none() {
            return None;
        }
        self.unlink(key.index);
        self.release(key.index)
    }

    /// The time a pending timer fires at.
    #[must_use]
    pub fn deadline(&self, key: TimerKey) -> Option<Time> {
        let entry = self.entries.get(key.index as usize)?;
        (entry.generation == key.generation && entry.value.is_some()).then_some(Time(entry.at))
    }

    /// Moves the wheel to `now` and appends what is due to `expired`: in time order, and in order
    /// of insertion within a millisecond.
    pub fn advance(&mut self, now: Time, expired: &mut Vec<T>) {
        while let Some((level, slot, start)) = self.first_slot() {
            if start > now.0 {
                break;
            }
            self.now = start;
            let mut index = self.take_slot(level, slot);
            while let Some(next) = self.entries.get(index as usize).map(|entry| entry.next) {
                if level == 0 {
                    expired.extend(self.release(index));
                } else {
                    self.link(index);
                }
                index = next;
            }
        }
        self.now = self.now.max(now.0);
    }

    /// A moment before which nothing fires: exact when it is less than 64 ms away, a lower bound
    /// otherwise.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Time> {
        self.first_slot().map(|(_, _, start)| Time(start))
    }

    /// The first slot that holds anything, and the earliest time it covers.
    fn first_slot(&self) -> Option<(usize, usize, u64)> {
        if self.levels == 0 {
            return None;
        }
        // Whatever a lower level holds is due before anything above it.
        let level = self.levels.trailing_zeros();
        let slot = self.occupied[level as usize].trailing_zeros();
        let below = level * LEVEL_BITS;
        let above = u64::MAX.checked_shl(below + LEVEL_BITS).unwrap_or(0);
        let start = (self.now & above) | (u64::from(slot) << below);
        Some((level as usize, slot as usize, start))
    }

    fn take_slot(&mut self, level: usize, slot: usize) -> u32 {
        self.vacate(level, slot);
        std::mem::replace(&mut self.lists[level * SLOTS + slot], EMPTY).head
    }

    fn vacate(&mut self, level: usize, slot: usize) {
        self.occupied[level] &= !(1 << slot);
        if self.occupied[level] == 0 {
            self.levels &= !(1 << level);
        }
    }

    /// Appends to the slot its time belongs to, as seen from `now`: the level is that of the
    /// highest digit in which the two differ.
    fn link(&mut self, index: u32) {
        let entry = &mut self.entries[index as usize];
        let level = ((entry.at ^ self.now) | 1).ilog2() / LEVEL_BITS;
        let slot = (entry.at >> (level * LEVEL_BITS)) as usize % SLOTS;
        let position = level as usize * SLOTS + slot;
        let list = &mut self.lists[position];
        entry.slot = position as u16;
        entry.prev = list.tail;
        entry.next = NIL;
        let tail = std::mem::replace(&mut list.tail, index);
        if tail == NIL {
            list.head = index;
            self.occupied[level as usize] |= 1 << slot;
            self.levels |= 1 << level;
        } else {
            self.entries[tail as usize].next = index;
        }
    }

    fn unlink(&mut self, index: u32) {
        let Entry { prev, next, slot, .. } = self.entries[index as usize];
        let position = usize::from(slot);
        match prev {
            NIL => self.lists[position].head = next,
            _ => self.entries[prev as usize].next = next,
        }
        match next {
            NIL => self.lists[position].tail = prev,
            _ => self.entries[next as usize].prev = prev,
        }
        if self.lists[position].head == NIL {
            self.vacate(position / SLOTS, position % SLOTS);
        }
    }

    fn release(&mut self, index: u32) -> Option<T> {
        let entry = &mut self.entries[index as usize];
        entry.generation = entry.generation.checked_add(1).unwrap_or(NonZeroU32::MIN);
        entry.next = std::mem::replace(&mut self.free, index);
        self.len -= 1;
        entry.value.take()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn fired(wheel: &mut Wheel<u32>, now: u64) -> Vec<u32> {
        let mut out = Vec::new();
        wheel.advance(Time(now), &mut out);
        out
    }

    #[test]
    fn an_entry_costs_at_most_32_bytes_beside_its_value() {
        assert!(size_of::<Entry<u64>>() <= 32 + 8);
        assert!(size_of::<Entry<u32>>() <= 32 + 4);
        assert_eq!(size_of::<Option<TimerKey>>(), 8);
    }

    #[test]
    fn fires_in_time_order_and_in_order_of_insertion() {
        let mut wheel = Wheel::new(Time(1000));
        for (at, value) in [(5000, 3), (1001, 1), (5000, 4), (90, 0), (1_000_000, 5), (1001, 2)] {
            wheel.insert(Time(at), value);
        }
        assert_eq!(wheel.next_deadline(), Some(Time(1000)));
        assert_eq!(fired(&mut wheel, 1000), [0]);
        assert_eq!(fired(&mut wheel, 1000), Vec::<u32>::new());
        assert_eq!(fired(&mut wheel, 4999), [1, 2]);
        assert_eq!(fired(&mut wheel, 5000), [3, 4]);
        assert_eq!(fired(&mut wheel, u64::MAX), [5]);
        assert!(wheel.is_empty());
        assert_eq!(wheel.next_deadline(), None);
    }

    #[test]
    fn a_stale_key_touches_nothing() {
        let mut wheel = Wheel::new(Time(0));
        let first = wheel.insert(Time(10), 1);
        assert_eq!(wheel.deadline(first), Some(Time(10)));
        assert_eq!(wheel.cancel(first), Some(1));
        assert_eq!(wheel.cancel(first), None);
        let second = wheel.insert(Time(20), 2);
        assert_eq!(wheel.cancel(first), None);
        assert_eq!(wheel.deadline(first), None);
        assert_eq!(fired(&mut wheel, 20), [2]);
        assert_eq!(wheel.cancel(second), None);
    }

    #[test]
    fn the_end_of_time_is_a_deadline_like_any_other() {
        let mut wheel = Wheel::new(Time(7));
        wheel.insert(Time(u64::MAX), 1);
        assert_eq!(fired(&mut wheel, u64::MAX - 1), Vec::<u32>::new());
        assert_eq!(fired(&mut wheel, u64::MAX), [1]);
        wheel.insert(Time(0), 2);
        assert_eq!(fired(&mut wheel, u64::MAX), [2]);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u64),
        Cancel(usize),
        Advance(u64),
    }

    fn distance() -> impl Strategy<Value = u64> {
        prop_oneof![0..4u64, 0..200u64, 0..10_000u64, 0..10_000_000u64, 0..u64::MAX / 2]
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => distance().prop_map(Step::Insert),
            1 => any::<usize>().prop_map(Step::Cancel),
            2 => distance().prop_map(Step::Advance),
        ]
    }

    proptest! {
        #[test]
        fn behaves_as_a_sorted_list(start in distance(), steps in prop::collection::vec(step(), 1..200)) {
            let mut wheel = Wheel::new(Time(start));
            let mut model: Vec<(u64, u32, TimerKey)> = Vec::new();
            let mut now = start;
            for (number, step) in (0u32..).zip(steps) {
                match step {
                    Step::Insert(after) => {
                        // Some lie in the past.
                        let at = now.saturating_add(after).saturating_sub(3);
                        let key = wheel.insert(Time(at), number);
                        model.push((at.max(now), number, key));
                    }
                    Step::Cancel(which) if !model.is_empty() => {
                        let (_, value, key) = model.swap_remove(which % model.len());
                        prop_assert_eq!(wheel.cancel(key), Some(value));
                        prop_assert_eq!(wheel.cancel(key), None);
                    }
                    Step::Cancel(_) => {}
                    Step::Advance(after) => {
                        now = now.saturating_add(after);
                        model.sort_by_key(|&(at, value, _)| (at, value));
                        let due = model.partition_point(|&(at, ..)| at <= now);
                        let expected: Vec<u32> = model.drain(..due).map(|(_, v, _)| v).collect();
                        prop_assert_eq!(fired(&mut wheel, now), expected);
                    }
                }
                prop_assert_eq!(wheel.len(), model.len());
                let first = model.iter().map(|&(at, ..)| at).min();
                let bound = wheel.next_deadline().map(|time| time.0);
                prop_assert_eq!(bound.is_some(), first.is_some());
                prop_assert!(bound <= first);
            }
        }
    }
}
