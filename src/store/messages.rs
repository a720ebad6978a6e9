//! The messages of the store: which has which number, and how many wait for it.
//!
//! In memory the receivers of a message share it, so it is told by its address while anybody holds it. One
//! that is in the store only is told by its number, which whoever reads it back is given. Most of those
//! have one receiver, and are not in these tables at all: memory is for messages in memory, and for those
//! that several wait for.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::mqtt::Message;

/// Messages in memory that are looked at in one go, beside twice as many as have come.
const LOOKED_AT: usize = 64;

#[derive(Debug)]
struct Held {
    /// Kept, so that its address is nobody else's.
    message: Message,
    number: u64,
}

#[derive(Debug, Default)]
struct Count {
    references: u32,
    /// Of the message in memory; 0: it is in the store only.
    address: usize,
    /// It is among the `unheld`.
    listed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Messages {
    by_address: HashMap<usize, Held>,
    /// By number: those in memory, and those with more than one reference. Any other has one.
    counts: HashMap<u64, Count>,
    /// Messages, by number, that a session keeps in the store only: perhaps nobody holds them in memory.
    unheld: VecDeque<u64>,
    /// How many have come since they were last looked at.
    new_unheld: usize,
    next: u64,
}

impl Messages {
    /// From what is in the store: the numbers with more than one reference, and the first that is free.
    pub(super) fn new(shared: impl IntoIterator<Item = (u64, u32)>, next: u64) -> Self {
        let counts = shared
            .into_iter()
            .map(|(number, references)| (number, Count { references, ..Count::default() }))
            .collect();
        Self { counts, next, ..Self::default() }
    }

    /// One more waits for a message, in the store only if it is `paged`; gives its number, and whether that
    /// is new.
    pub(super) fn reference(&mut self, message: &Message, paged: bool) -> (u64, bool) {
        let address = message.address();
        let next = self.next;
        let held = self
            .by_address
            .entry(address)
            .or_insert_with(|| Held { message: message.clone(), number: next });
        let number = held.number;
        let is_new = number == next;
        self.next += u64::from(is_new);
        let count = self.counts.entry(number).or_default();
        count.references += 1;
        count.address = address;
        if paged && !count.listed {
            count.listed = true;
            self.unheld.push_back(number);
            self.new_unheld += 1;
        }
        (number, is_new)
    }

    /// One less waits for a message, told by its number if that is not 0. Gives the number if it was the last.
    pub(super) fn release(&mut self, message: &Message, number: u64) -> Option<u64> {
        match number {
            0 => self.release_number(self.by_address.get(&message.address())?.number),
            number => self.release_number(number),
        }
    }

    /// As [`release`](Self::release).
    pub(super) fn release_number(&mut self, number: u64) -> Option<u64> {
        let Some(count) = self.counts.get_mut(&number) else { return Some(number) };
        count.references -= 1;
        if count.references == 0 {
            self.by_address.remove(&count.address);
            self.counts.remove(&number);
            return Some(number);
        }
        if count.references == 1 && count.address == 0 {
            self.counts.remove(&number);
        }
        None
    }

    /// Looks at some of those that may be in the store only, all of them in turn.
    pub(super) fn forget_unheld(&mut self) {
        let most = LOOKED_AT + 2 * std::mem::take(&mut self.new_unheld);
        for _ in 0..most.min(self.unheld.len()) {
            let Some(number) = self.unheld.pop_front() else { break };
            let Some(count) = self.counts.get_mut(&number) else { continue };
            let held = self.by_address.get(&count.address);
            if held.is_some_and(|held| !held.message.is_unique()) {
                self.unheld.push_back(number);
                continue;
            }
            self.by_address.remove(&count.address);
            (count.address, count.listed) = (0, false);
            if count.references == 1 {
                self.counts.remove(&number);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::QoS;
    use crate::timer::Time;

    fn message() -> Message {
        Message::new("t", QoS::AtLeastOnce, false, b"", b"", None, Time(0))
    }

    #[test]
    fn what_is_in_the_store_only_takes_no_memory() {
        let mut messages = Messages::new([], 1);
        for number in 1..=10_000 {
            assert_eq!(messages.reference(&message(), true), (number, true));
            messages.forget_unheld();
        }
        assert_eq!((messages.by_address.len(), messages.counts.len()), (0, 0));
        assert_eq!(messages.release_number(77), Some(77));
    }

    #[test]
    fn one_that_somebody_holds_is_known_until_nobody_does() {
        let mut messages = Messages::new([], 1);
        let held = message();
        assert_eq!(messages.reference(&held, true), (1, true));
        messages.forget_unheld();
        assert_eq!(messages.reference(&held, false), (1, false));
        drop(held);
        messages.forget_unheld();
        assert_eq!((messages.by_address.len(), messages.counts.len()), (0, 1), "two wait for it");
        assert_eq!(messages.release_number(1), None);
        assert_eq!(messages.counts.len(), 0);
        assert_eq!(messages.release_number(1), Some(1));
    }
}
