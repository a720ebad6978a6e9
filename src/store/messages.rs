//! The messages of the store: which has which number, and how many wait for it.
//!
//! In memory the receivers of a message share it, so it is told by its address while anybody holds it. One
//! that is in the store only is told by its number, which whoever reads it back is given. Most of those
//! have one receiver, and are not in these tables at all: memory is for messages in memory, and for those
//! that several wait for.

use std::collections::VecDeque;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use crate::mqtt::Message;

/// Messages in memory that are looked at in one go, beside twice as many as have come.
const LOOKED_AT: usize = 64;

#[derive(Debug)]
struct Held {
    /// Kept, so that its address is nobody else's.
    message: Message,
    number: u64,
    references: u32,
    /// The store does not have it.
    is_new: bool,
    /// A session keeps it in the store only: it is among the `unheld`.
    listed: bool,
}

#[derive(Debug, Default)]
pub(super) struct Messages {
    /// Those in memory.
    by_address: HashMap<usize, Held>,
    /// Addresses of new ones, in their order; of some that have gone, too.
    new: Vec<usize>,
    /// Of those that are listed, by number.
    addresses: HashMap<u64, usize>,
    /// References of those that are in the store only, by number, if they have more than one.
    counts: HashMap<u64, u32>,
    /// Messages, by number, that a session keeps in the store only: perhaps nobody holds them in memory.
    unheld: VecDeque<u64>,
    /// How many have come since they were last looked at.
    new_unheld: usize,
    next: u64,
}

impl Messages {
    /// From what is in the store: the numbers with more than one reference, and the first that is free.
    pub(super) fn new(shared: impl IntoIterator<Item = (u64, u32)>, next: u64) -> Self {
        Self { counts: shared.into_iter().collect(), next, ..Self::default() }
    }

    /// One more waits for a message, in the store only if it is `paged`; gives its number.
    pub(super) fn reference(&mut self, message: Message, paged: bool) -> u64 {
        let address = message.address();
        let (next, new) = (&mut self.next, &mut self.new);
        let held = self.by_address.entry(address).or_insert_with(|| {
            let number = *next;
            *next += 1;
            new.push(address);
            Held { message, number, references: 0, is_new: true, listed: false }
        });
        held.references += 1;
        let number = held.number;
        if paged && !held.listed {
            held.listed = true;
            self.addresses.insert(number, address);
            self.unheld.push_back(number);
            self.new_unheld += 1;
        }
        number
    }

    /// Gives those that the store does not have, which it has to have now.
    pub(super) fn take_new(&mut self, mut each: impl FnMut(u64, &Message)) {
        for address in self.new.drain(..) {
            if let Some(held) = self.by_address.get_mut(&address)
                && std::mem::take(&mut held.is_new)
            {
                each(held.number, &held.message);
            }
        }
    }

    /// One less waits for a message, told by its number if that is not 0. Gives the number if it was the
    /// last, and the store has it.
    pub(super) fn release(&mut self, message: &Message, number: u64) -> Option<u64> {
        match number {
            0 => self.release_held(message.address()),
            number => self.release_number(number),
        }
    }

    /// As [`release`](Self::release).
    pub(super) fn release_number(&mut self, number: u64) -> Option<u64> {
        if let Some(&address) = self.addresses.get(&number) {
            return self.release_held(address);
        }
        let Some(references) = self.counts.get_mut(&number) else { return Some(number) };
        *references -= 1;
        if *references == 1 {
            self.counts.remove(&number);
        }
        None
    }

    fn release_held(&mut self, address: usize) -> Option<u64> {
        let Entry::Occupied(mut entry) = self.by_address.entry(address) else { return None };
        entry.get_mut().references -= 1;
        if entry.get().references > 0 {
            return None;
        }
        let Held { number, is_new, listed, .. } = entry.remove();
        if listed {
            self.addresses.remove(&number);
        }
        (!is_new).then_some(number)
    }

    /// Gives back the memory for more than there are.
    pub(super) fn shrink(&mut self) {
        self.by_address.shrink_to_fit();
        self.new.shrink_to_fit();
        self.addresses.shrink_to_fit();
        self.counts.shrink_to_fit();
        self.unheld.shrink_to_fit();
    }

    /// Looks at some of those that may be in the store only, all of them in turn.
    pub(super) fn forget_unheld(&mut self) {
        let most = LOOKED_AT + 2 * std::mem::take(&mut self.new_unheld);
        for _ in 0..most.min(self.unheld.len()) {
            let Some(number) = self.unheld.pop_front() else { break };
            let Some(&address) = self.addresses.get(&number) else { continue };
            let Entry::Occupied(entry) = self.by_address.entry(address) else { continue };
            if entry.get().is_new || !entry.get().message.is_unique() {
                self.unheld.push_back(number);
                continue;
            }
            let references = entry.remove().references;
            self.addresses.remove(&number);
            if references > 1 {
                self.counts.insert(number, references);
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
            assert_eq!(messages.reference(message(), true), number);
            messages.take_new(|_, _| {});
            messages.forget_unheld();
        }
        assert_eq!((messages.by_address.len(), messages.counts.len()), (0, 0));
        assert_eq!((messages.addresses.len(), messages.new.len()), (0, 0));
        assert_eq!(messages.release_number(77), Some(77));
    }

    #[test]
    fn one_that_somebody_holds_is_known_until_nobody_does() {
        let mut messages = Messages::new([], 1);
        let held = message();
        assert_eq!(messages.reference(held.clone(), true), 1);
        messages.take_new(|_, _| {});
        messages.forget_unheld();
        assert_eq!(messages.reference(held.clone(), false), 1);
        drop(held);
        messages.forget_unheld();
        assert_eq!((messages.by_address.len(), messages.counts.len()), (0, 1), "two wait for it");
        assert_eq!(messages.release_number(1), None);
        assert_eq!(messages.counts.len(), 0);
        assert_eq!(messages.release_number(1), Some(1));
    }

    #[test]
    fn one_that_the_store_has_not_is_kept_until_it_has_or_nobody_waits() {
        let mut messages = Messages::new([], 1);
        messages.reference(message(), true);
        messages.forget_unheld();
        let (brief, mut new) = (message(), Vec::new());
        messages.reference(brief.clone(), false);
        assert_eq!(messages.release(&brief, 0), None, "the store never had it");
        messages.reference(brief.clone(), false);
        messages.take_new(|number, _| new.push(number));
        assert_eq!(new, [1, 3]);
        assert_eq!(messages.release(&brief, 0), Some(3));
        messages.take_new(|number, _| panic!("{number} was taken"));
    }
}
