//! Messages in flight to a client, by packet identifier.
//!
//! Identifiers are given in sequence, so a slot's place is its distance from the oldest one: an
//! acknowledgement in order costs an index and a pop. Slots that stay behind while thousands of
//! later ones are acknowledged move to a map aside, so the span of slots stays near the number in
//! flight.

use std::collections::{BTreeMap, VecDeque};

use super::queue::Entry;
use crate::mqtt::{PacketId, QoS};

/// What one packet identifier stands for.
#[derive(Debug)]
pub(super) enum Slot {
    /// Nothing (any more).
    Free,
    /// A PUBLISH not acknowledged: PUBACK or PUBREC is awaited.
    Publish(Entry),
    /// A PUBREL was sent: PUBCOMP is awaited.
    Release(Release),
}

/// The second half of a QoS 2 flow.
#[derive(Clone, Copy, Debug)]
pub(super) struct Release {
    /// In the store; 0: not stored.
    pub(super) place: u64,
    /// Place among the PUBRECs [MQTT-4.6.0-4].
    pub(super) order: u32,
    /// When the PUBREL was last sent; milliseconds, truncated.
    pub(super) sent_at_ms: u32,
    /// How often it was sent again on this connection; 3.x.
    pub(super) retries: u8,
}

impl Release {
    pub(super) fn restored(place: u64) -> Self {
        Self { place, order: 0, sent_at_ms: 0, retries: 0 }
    }
}

/// Identifiers in a ring: 1 to 65,535.
const RING: u32 = 65_535;
/// A span of slots up to this is never worth compacting.
const SPAN_FREE: usize = 256;
/// Slots spanned for each one in flight before the oldest move aside.
const SPAN_FACTOR: usize = 8;
/// The longest span; well below the ring, so that an identifier has one place only.
const SPAN_MOST: usize = 32_768;

/// What may be in flight at a time.
#[derive(Clone, Copy, Debug)]
pub(super) struct WindowSize {
    pub(super) messages: u16,
    /// Of messages that were sent and not acknowledged; one alone may be larger.
    pub(super) bytes: u32,
}

/// The slots in use, oldest first.
#[derive(Debug)]
pub(super) struct Window {
    slots: VecDeque<Slot>,
    /// Of the messages in flight that are not `unsent`.
    bytes: u64,
    /// Identifier of the first slot; of the next to be given when there is none.
    base: PacketId,
    in_flight: u16,
    /// How many slots are `unsent`.
    unsent: u16,
    /// Orders given to PUBRECs so far.
    releases: u32,
    aside: Option<Box<Aside>>,
}

/// What is rarely there.
#[derive(Debug, Default)]
struct Aside {
    /// Slots left behind, with their place in the sequence of sending.
    stragglers: BTreeMap<PacketId, (u64, Slot)>,
    moved: u64,
    /// What is to be sent again, in order; identifiers acknowledged meanwhile are skipped.
    resend: VecDeque<PacketId>,
}

impl Window {
    pub(super) fn new() -> Self {
        Self {
            slots: VecDeque::new(),
            bytes: 0,
            base: PacketId::MIN,
            in_flight: 0,
            unsent: 0,
            releases: 0,
            aside: None,
        }
    }

    /// Gives memory back that is not in use.
    pub(super) fn shrink(&mut self) {
        if self.slots.is_empty() {
            self.slots = VecDeque::new();
        }
    }

    /// How many slots are spanned.
    #[cfg(test)]
    pub(super) fn span(&self) -> usize {
        self.slots.len()
    }

    /// Identifiers in use.
    #[inline]
    pub(super) fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// Whether a new PUBLISH of a message of so many bytes may be sent under a window of `size`.
    #[inline]
    pub(super) fn has_room(&self, message: usize, size: WindowSize) -> bool {
        self.in_flight < size.messages && self.unsent == 0 && self.has_bytes(message, size)
    }

    #[inline]
    fn has_bytes(&self, message: usize, size: WindowSize) -> bool {
        self.bytes == 0 || self.bytes + message as u64 <= u64::from(size.bytes)
    }

    /// Messages that the client may not have: PUBACK or PUBREC is awaited.
    pub(super) fn unacknowledged(&self) -> usize {
        let aside = self.aside.iter().flat_map(|aside| aside.stragglers.values());
        let slots = aside.map(|(_, slot)| slot).chain(&self.slots);
        slots.filter(|slot| matches!(slot, Slot::Publish(_))).count()
    }

    /// Whether something waits to be sent again on this connection.
    #[inline]
    pub(super) fn has_unsent(&self) -> bool {
        self.unsent > 0
    }

    /// The identifier the next [`insert`](Self::insert) uses. Call only with fewer than 65,535
    /// in flight.
    #[inline]
    pub(super) fn next_id(&mut self) -> PacketId {
        if self.slots.len() >= SPAN_FREE && self.slots.len() >= self.span_limit() {
            self.compact();
        }
        if self.aside.is_some() { self.next_id_beside() } else { self.end() }
    }

    /// As [`next_id`](Self::next_id), past the identifiers of stragglers.
    #[cold]
    fn next_id_beside(&mut self) -> PacketId {
        while self.aside.as_ref().is_some_and(|a| a.stragglers.contains_key(&self.end())) {
            if self.slots.len() >= SPAN_MOST {
                while !self.slots.is_empty() {
                    self.move_aside();
                }
            }
            if self.slots.is_empty() {
                self.base = advance(self.base, 1);
            } else {
                self.slots.push_back(Slot::Free);
            }
        }
        self.end()
    }

    /// The identifier after the last slot's.
    #[inline]
    fn end(&self) -> PacketId {
        advance(self.base, self.slots.len())
    }

    #[inline]
    fn span_limit(&self) -> usize {
        (SPAN_FACTOR * usize::from(self.in_flight)).min(SPAN_MOST)
    }

    /// Takes the slot of the identifier that [`next_id`](Self::next_id) just gave.
    #[inline]
    pub(super) fn insert(&mut self, entry: Entry) {
        self.bytes += entry.message.size() as u64;
        self.slots.push_back(Slot::Publish(entry));
        self.in_flight += 1;
    }

    /// The slot of `id`, if it is in use.
    #[inline]
    pub(super) fn get_mut(&mut self, id: PacketId) -> Option<&mut Slot> {
        let index = distance(self.base, id);
        // Two lookups in the rare case, because of what the borrow checker cannot see.
        if !matches!(self.slots.get(index), None | Some(Slot::Free)) {
            return self.slots.get_mut(index);
        }
        let aside = self.aside.as_mut()?;
        aside.stragglers.get_mut(&id).map(|(_, slot)| slot)
    }

    /// Frees the slot of `id` if it is the oldest and a QoS 1 message: what a client that
    /// acknowledges in order does every time.
    #[inline]
    pub(super) fn ack_oldest(&mut self, id: PacketId) -> bool {
        let is_it = id == self.base
            && matches!(self.slots.front(), Some(Slot::Publish(entry))
                if entry.qos == QoS::AtLeastOnce && !entry.unsent);
        if is_it {
            if let Some(Slot::Publish(entry)) = self.slots.pop_front() {
                self.bytes -= entry.message.size() as u64;
            }
            self.in_flight -= 1;
            self.base = advance(id, 1);
            self.pop_free();
        }
        is_it
    }

    /// Frees the slot of `id` and gives what was in it.
    #[inline]
    pub(super) fn remove(&mut self, id: PacketId) -> Slot {
        let index = distance(self.base, id);
        let slot = match self.slots.get_mut(index) {
            Some(slot) if !matches!(slot, Slot::Free) => std::mem::replace(slot, Slot::Free),
            _ => self.remove_straggler(id),
        };
        match &slot {
            Slot::Free => return slot,
            Slot::Publish(entry) if entry.unsent => self.unsent -= 1,
            Slot::Publish(entry) => self.bytes -= entry.message.size() as u64,
            Slot::Release(_) => {}
        }
        self.in_flight -= 1;
        if index == 0 {
            self.pop_free();
        }
        slot
    }

    /// Turns the PUBLISH of `id` into its PUBREL, and gives what it was.
    pub(super) fn release(&mut self, id: PacketId, sent_at_ms: u32) -> Option<Entry> {
        let order = self.releases;
        let slot = self.get_mut(id)?;
        let Slot::Publish(entry) = slot else { return None };
        let place = entry.place().map_or(0, |(place, _)| place);
        let release = Release { place, order, sent_at_ms, retries: 0 };
        let was = std::mem::replace(slot, Slot::Release(release));
        self.releases = order.wrapping_add(1);
        let Slot::Publish(entry) = was else { return None };
        match entry.unsent {
            true => self.unsent -= 1,
            false => self.bytes -= entry.message.size() as u64,
        }
        Some(entry)
    }

    /// Takes in what was in flight under `id` in an earlier life, in the order of sending.
    pub(super) fn restore(&mut self, id: PacketId, slot: Slot) {
        debug_assert!(self.slots.is_empty(), "nothing was sent yet in this one");
        // A store that was filled by hand may have it twice.
        self.remove(id);
        if let Slot::Publish(entry) = &slot {
            self.bytes += entry.message.size() as u64;
        }
        let aside = self.aside.get_or_insert_default();
        aside.stragglers.insert(id, (aside.moved, slot));
        aside.moved += 1;
        self.in_flight += 1;
        self.base = advance(id, 1);
    }

    /// The PUBREL of `id` comes after all that this was called for before.
    pub(super) fn order_release(&mut self, id: PacketId) {
        let order = self.releases;
        if let Some(Slot::Release(release)) = self.get_mut(id) {
            release.order = order;
            self.releases = order.wrapping_add(1);
        }
    }

    /// Marks every PUBLISH to be sent again. Gives the PUBRELs to send first, in their order.
    pub(super) fn start_resend(&mut self) -> Vec<PacketId> {
        let mut publishes = VecDeque::new();
        let mut releases = Vec::new();
        for (id, slot) in self.in_order() {
            match slot {
                Slot::Free => {}
                Slot::Publish(entry) => {
                    entry.unsent = true;
                    entry.retries = 0;
                    publishes.push_back(id);
                }
                Slot::Release(release) => {
                    release.retries = 0;
                    releases.push((release.order, id));
                }
            }
        }
        self.bytes = 0;
        let newest = self.releases;
        releases.sort_unstable_by_key(|&(order, _)| std::cmp::Reverse(newest.wrapping_sub(order)));
        self.unsent = u16::try_from(publishes.len()).unwrap_or(u16::MAX);
        if self.aside.is_some() || !publishes.is_empty() {
            self.aside.get_or_insert_default().resend = publishes;
        }
        releases.into_iter().map(|(_, id)| id).collect()
    }

    /// The next PUBLISH to be sent again under a window of `size`; it counts as sent.
    pub(super) fn next_resend(&mut self, size: WindowSize) -> Option<PacketId> {
        while self.unsent > 0 && self.in_flight - self.unsent < size.messages {
            let id = *self.aside.as_ref()?.resend.front()?;
            let unsent = match self.get_mut(id) {
                Some(Slot::Publish(entry)) if entry.unsent => Some(entry.message.size()),
                _ => None,
            };
            if unsent.is_some_and(|message| !self.has_bytes(message, size)) {
                return None;
            }
            let aside = self.aside.as_mut()?;
            aside.resend.pop_front();
            if aside.resend.is_empty() && aside.stragglers.is_empty() {
                self.aside = None;
            }
            let Some(message) = unsent else { continue };
            if let Some(Slot::Publish(entry)) = self.get_mut(id) {
                entry.unsent = false;
            }
            self.unsent -= 1;
            self.bytes += message as u64;
            return Some(id);
        }
        None
    }

    /// Every slot, in the order of sending.
    pub(super) fn in_order(&mut self) -> impl Iterator<Item = (PacketId, &mut Slot)> {
        let mut aside: Vec<(u64, PacketId, &mut Slot)> = match &mut self.aside {
            Some(aside) => aside.stragglers.iter_mut().map(|(id, (at, s))| (*at, *id, s)).collect(),
            None => Vec::new(),
        };
        aside.sort_unstable_by_key(|&(at, _, _)| at);
        let base = self.base;
        let rest = self.slots.iter_mut().enumerate().map(move |(i, s)| (advance(base, i), s));
        aside.into_iter().map(|(_, id, slot)| (id, slot)).chain(rest)
    }

    fn remove_straggler(&mut self, id: PacketId) -> Slot {
        let Some(aside) = self.aside.as_mut() else { return Slot::Free };
        let slot = aside.stragglers.remove(&id).map_or(Slot::Free, |(_, slot)| slot);
        if aside.stragglers.is_empty() && aside.resend.is_empty() {
            self.aside = None;
        }
        slot
    }

    #[inline]
    fn pop_free(&mut self) {
        while let Some(Slot::Free) = self.slots.front() {
            self.slots.pop_front();
            self.base = advance(self.base, 1);
        }
    }

    /// Moves the oldest slots aside while the span is out of proportion to what is in flight.
    #[cold]
    fn compact(&mut self) {
        while self.slots.len() >= SPAN_FREE && self.slots.len() >= self.span_limit() {
            self.move_aside();
        }
    }

    fn move_aside(&mut self) {
        let Some(slot) = self.slots.pop_front() else { return };
        let id = self.base;
        self.base = advance(id, 1);
        if !matches!(slot, Slot::Free) {
            let aside = self.aside.get_or_insert_default();
            aside.stragglers.insert(id, (aside.moved, slot));
            aside.moved += 1;
        }
        self.pop_free();
    }
}

/// The identifier `by` places after `id`.
#[inline]
fn advance(id: PacketId, by: usize) -> PacketId {
    // `by` is at most the ring's length, so one turn is enough.
    let mut at = u32::from(id.get()) + u32::try_from(by).unwrap_or(0);
    if at > RING {
        at -= RING;
    }
    u16::try_from(at).ok().and_then(PacketId::new).unwrap_or(PacketId::MIN)
}

/// How many places `id` is after `base`.
#[inline]
fn distance(base: PacketId, id: PacketId) -> usize {
    let (base, id) = (u32::from(base.get()), u32::from(id.get()));
    (if id >= base { id - base } else { id + RING - base }) as usize
}
