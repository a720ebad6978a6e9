//! Messages that wait for their turn.

use std::collections::{BTreeSet, VecDeque};
use std::slice;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::change::{Paged, QueuedRecord};
use super::journal::Noted;
use super::limits::{InMemory, SessionLimits};
use super::outbound::Delivery;
use crate::mqtt::{Message, QoS};
use crate::timer::Time;

/// One message to one client, as it will be delivered.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) message: Message,
    /// Subscription Identifiers, if there is more than one.
    many: Option<Box<Box<[u32]>>>,
    /// In the store; 0: not stored. Inline, with the next two: an allocation for each message that is stored
    /// costs more than 24 bytes in each that is not.
    place: u64,
    /// Where in its turn it was noted to be queued, in the life of this process; or [`NOT_NOTED`].
    noted_at: u32,
    /// That turn. If there is none: the number of its message in the store, or 0.
    turn_or_number: u64,
    /// The one Subscription Identifier; 0 for none, and for more.
    identifier: u32,
    group: u32,
    /// When it was last sent; milliseconds, truncated. This and the rest are for messages in
    /// flight, here because they fit where padding would be.
    pub(super) sent_at_ms: u32,
    /// How often it was sent again on this connection by the clock; 3.x.
    pub(super) retries: u8,
    /// Whether it waits to be sent again on this connection.
    pub(super) unsent: bool,
    pub(super) qos: QoS,
    retain: bool,
    /// Whether it was noted to be in flight after it was queued.
    flew: bool,
}

const _: () = assert!(size_of::<Entry>() <= 64, "a queue is many of them");

/// Nothing that may be taken back: it was queued in an earlier life of the broker, or brought by an act of another
/// shard.
const NOT_NOTED: u32 = u32::MAX;

/// No shared group.
const NO_GROUP: u32 = u32::MAX;

impl Entry {
    #[inline]
    pub(super) fn new(delivery: &Delivery<'_>, sent_at_ms: u32) -> Self {
        let (identifier, many) = match delivery.identifiers {
            [] => (0, None),
            [one] => (*one, None),
            many => (0, Some(Box::new(many.into()))),
        };
        Self {
            message: delivery.message.clone(),
            many,
            place: 0,
            noted_at: NOT_NOTED,
            turn_or_number: 0,
            identifier,
            group: delivery.group.unwrap_or(NO_GROUP),
            sent_at_ms,
            retries: 0,
            unsent: false,
            qos: delivery.qos,
            retain: delivery.retain,
            flew: false,
        }
    }

    #[inline]
    pub(super) fn delivery(&self) -> Delivery<'_> {
        Delivery {
            message: &self.message,
            qos: self.qos,
            retain: self.retain,
            identifiers: match &self.many {
                Some(many) => many,
                None if self.identifier == 0 => &[],
                None => slice::from_ref(&self.identifier),
            },
            group: self.group(),
        }
    }

    pub(super) fn group(&self) -> Option<u32> {
        (self.group != NO_GROUP).then_some(self.group)
    }

    /// As it was stored, at that place.
    pub(super) fn restore(place: u64, record: &QueuedRecord) -> Self {
        let QueuedRecord { ref message, qos, retain, number, .. } = *record;
        let (identifiers, group) = (record.identifiers(), record.group());
        let mut entry = Self::new(&Delivery { message, qos, retain, identifiers, group }, 0);
        (entry.place, entry.turn_or_number) = (place, number);
        entry
    }

    /// The number of its message, if that was read from the store; else 0.
    pub(super) fn number(&self) -> u64 {
        if self.noted_at == NOT_NOTED { self.turn_or_number } else { 0 }
    }

    /// Its place in the store, and whether it was noted to be in flight after it was queued.
    #[inline]
    pub(super) fn place(&self) -> Option<(u64, bool)> {
        (self.place != 0).then_some((self.place, self.flew))
    }

    /// Where it was noted to be queued, if that may be taken back.
    #[inline]
    pub(super) fn noted(&self) -> Option<Noted> {
        let (turn, at) = (self.turn_or_number, self.noted_at);
        (at != NOT_NOTED).then_some(Noted { turn, at })
    }

    /// It has this place, and was noted to be queued there.
    #[inline]
    pub(super) fn set_place(&mut self, place: u64, noted: Option<Noted>) {
        let Noted { turn, at } = noted.unwrap_or(Noted { turn: 0, at: NOT_NOTED });
        (self.place, self.turn_or_number, self.noted_at) = (place, turn, at);
    }

    /// It is noted to be in flight. Gives its place, if it has one.
    pub(super) fn set_flew(&mut self) -> Option<u64> {
        self.flew |= self.place != 0;
        self.flew.then_some(self.place)
    }
}

/// Sums the bytes that wait in the queues of many sessions. One thread at a time changes it.
#[derive(Clone, Debug, Default)]
pub struct QueuedBytes(Arc<AtomicU64>);

impl QueuedBytes {
    /// The sum now.
    #[inline]
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn add(&self, bytes: usize) {
        self.0.store(self.get() + bytes as u64, Ordering::Relaxed);
    }

    fn subtract(&self, bytes: u64) {
        self.0.store(self.get() - bytes, Ordering::Relaxed);
    }
}

/// An empty queue keeps memory for this many entries.
const CAPACITY_KEPT: usize = 256;

/// So many places of entries that are gone are never worth closing up.
const GAPS_FREE: usize = 32;

/// The queue of one session, oldest first.
#[derive(Debug)]
pub(super) struct Queue {
    /// `None`: it has expired, and its place is not closed up yet. The first one is there.
    entries: VecDeque<Option<Entry>>,
    /// If some of the entries expire, or have.
    expiring: Option<Box<Expiring>>,
    bytes: u64,
    /// What `bytes` is counted in as well.
    total: QueuedBytes,
    /// How many of the entries are QoS 0.
    qos0: u32,
    /// What is in the store only: it comes after all entries of QoS 1 and 2.
    on_disk: Option<Box<OnDisk>>,
}

/// Which entries expire, by when they do.
#[derive(Debug, Default)]
struct Expiring {
    /// With their numbers: the first entry of the queue has `first`, and so on.
    order: BTreeSet<(Time, u64)>,
    first: u64,
    /// How many entries are gone, and still have a place.
    gaps: usize,
}

#[derive(Debug, Default)]
pub(super) struct OnDisk {
    pub(super) paged: Paged,
    /// As in [`PageRequest`](super::PageRequest::in_flight).
    pub(super) in_flight: Arc<[u64]>,
    /// The next page, or part of a look, was asked for.
    pub(super) asked: bool,
    /// Messages that were added since.
    pub(super) since: u32,
    /// There is too much, and what is oldest is to be dropped once it is read.
    pub(super) excess: bool,
    /// A look for what has expired.
    pub(super) look: Option<Look>,
    /// The next one does not begin before.
    pub(super) rests_until: Time,
}

/// How far a look through what is on disk has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    /// The place where it goes on.
    pub(super) from: u64,
    /// When the first of those that were seen, and stay, expires.
    pub(super) next_expiry: Option<Time>,
    /// Messages that the queue may still take beyond its limits meanwhile.
    pub(super) excess: u32,
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.total.subtract(self.bytes);
    }
}

impl Queue {
    pub(super) fn new(total: QueuedBytes) -> Self {
        Self { entries: VecDeque::new(), expiring: None, bytes: 0, total, qos0: 0, on_disk: None }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.on_disk.is_none()
    }

    /// Entries in memory.
    #[inline]
    fn count(&self) -> usize {
        self.entries.len() - self.expiring.as_ref().map_or(0, |expiring| expiring.gaps)
    }

    /// Places that entries take, or took.
    #[cfg(test)]
    pub(super) fn places(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn len(&self) -> usize {
        self.count() + self.on_disk.as_ref().map_or(0, |disk| disk.paged.messages as usize)
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes + self.on_disk.as_ref().map_or(0, |disk| disk.paged.bytes)
    }

    pub(super) fn on_disk(&self) -> Option<&OnDisk> {
        self.on_disk.as_deref()
    }

    pub(super) fn set_on_disk(&mut self, paged: Paged, in_flight: Vec<u64>) {
        let disk = OnDisk { paged, in_flight: in_flight.into(), ..OnDisk::default() };
        self.on_disk = (paged.messages > 0).then(|| Box::new(disk));
    }

    pub(super) fn on_disk_mut(&mut self) -> &mut Option<Box<OnDisk>> {
        &mut self.on_disk
    }

    /// Messages and bytes in memory.
    pub(super) fn in_memory(&self) -> (usize, u64) {
        (self.count(), self.bytes)
    }

    /// Whether a message of QoS 1 or 2 has to go to the store only, if it can.
    #[inline]
    pub(super) fn pages(&self, size: usize, most: InMemory) -> bool {
        self.on_disk.is_some()
            || self.count() >= most.messages as usize
            || self.bytes + size as u64 > most.bytes
    }

    /// Whether a QoS 0 message waits, which a later one must not overtake.
    #[inline]
    pub(super) fn has_qos0(&self) -> bool {
        self.qos0 > 0
    }

    pub(super) fn exceeds(&self, limits: &SessionLimits) -> bool {
        self.len() > limits.max_queued_messages as usize || self.bytes() > limits.max_queued_bytes
    }

    pub(super) fn has_room(&self, size: usize, limits: &SessionLimits) -> bool {
        self.len() < limits.max_queued_messages as usize
            && self.bytes().saturating_add(size as u64) <= limits.max_queued_bytes
    }

    /// Whether a full queue takes a message all the same, because its oldest ones are about to be dropped, or
    /// those that have expired. How far the store may be behind bounds how many, and [`Look::excess`].
    pub(super) fn takes_excess(&self) -> bool {
        self.on_disk.as_ref().is_some_and(|disk| {
            disk.excess || disk.look.as_ref().is_some_and(|look| look.excess > 0)
        })
    }

    /// Counts a message that is in the store only.
    pub(super) fn page_out(&mut self, place: u64, message: &Message, shared: bool, full: bool) {
        let disk = self.on_disk.get_or_insert_with(|| {
            let paged = Paged { first: place, ..Paged::default() };
            Box::new(OnDisk { paged, ..OnDisk::default() })
        });
        disk.paged.end = place + 1;
        disk.paged.messages += 1;
        disk.paged.bytes += message.size() as u64;
        disk.paged.shared |= shared;
        disk.paged.next_expiry = earliest(disk.paged.next_expiry, message.expires_at());
        disk.since += 1;
        if full && let Some(look) = &mut disk.look {
            look.excess = look.excess.saturating_sub(1);
        }
    }

    pub(super) fn push(&mut self, entry: Entry) {
        let size = entry.message.size();
        self.bytes += size as u64;
        self.total.add(size);
        self.qos0 += u32::from(entry.qos == QoS::AtMostOnce);
        if let Some(at) = entry.message.expires_at() {
            let expiring = self.expiring.get_or_insert_default();
            expiring.order.insert((at, expiring.first + self.entries.len() as u64));
        }
        self.entries.push_back(Some(entry));
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter().flatten()
    }

    #[inline]
    pub(super) fn front(&self) -> Option<&Entry> {
        self.entries.front()?.as_ref()
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()??;
        self.uncount(&entry);
        if let Some(expiring) = &mut self.expiring {
            if let Some(at) = entry.message.expires_at() {
                expiring.order.remove(&(at, expiring.first));
            }
            expiring.first += 1;
        }
        self.close_up();
        Some(entry)
    }

    /// Takes out the entry that expires first, if it has by `now`.
    pub(super) fn pop_expired(&mut self, now: Time) -> Option<Entry> {
        let expiring = self.expiring.as_mut()?;
        let (at, number) = *expiring.order.first().filter(|(at, _)| *at <= now)?;
        expiring.order.remove(&(at, number));
        let index = usize::try_from(number - expiring.first).ok()?;
        let entry = self.entries.get_mut(index)?.take()?;
        expiring.gaps += 1;
        self.uncount(&entry);
        self.close_up();
        Some(entry)
    }

    /// When the first entry in memory expires.
    #[inline]
    pub(super) fn next_expiry(&self) -> Option<Time> {
        self.expiring.as_ref()?.order.first().map(|(at, _)| *at)
    }

    /// Takes out every entry that `which` says, in order.
    pub(super) fn take(&mut self, which: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let mut taken = Vec::new();
        for _ in 0..self.entries.len() {
            match self.entries.pop_front() {
                Some(Some(entry)) if which(&entry) => {
                    self.uncount(&entry);
                    taken.push(entry);
                }
                Some(Some(entry)) => self.entries.push_back(Some(entry)),
                Some(None) | None => {}
            }
        }
        self.number();
        taken
    }

    /// Keeps what is gone from standing in front, and from taking more places than what is there.
    fn close_up(&mut self) {
        if let Some(expiring) = &mut self.expiring {
            while let Some(None) = self.entries.front() {
                self.entries.pop_front();
                expiring.first += 1;
                expiring.gaps -= 1;
            }
            if expiring.gaps > GAPS_FREE && expiring.gaps > self.entries.len() / 2 {
                self.entries.retain(Option::is_some);
                self.number();
            } else if expiring.order.is_empty() && expiring.gaps == 0 {
                self.expiring = None;
            }
        }
        if self.entries.is_empty() && self.entries.capacity() > CAPACITY_KEPT {
            self.entries = VecDeque::new();
        }
    }

    /// Numbers the entries anew: all are there.
    fn number(&mut self) {
        if self.expiring.is_some() {
            let numbered = (0..).zip(self.entries.iter().flatten());
            let order: BTreeSet<_> = numbered
                .filter_map(|(number, entry)| Some((entry.message.expires_at()?, number)))
                .collect();
            let expiring = Expiring { order, ..Expiring::default() };
            self.expiring = (!expiring.order.is_empty()).then(|| Box::new(expiring));
        }
    }

    fn uncount(&mut self, entry: &Entry) {
        let size = entry.message.size() as u64;
        self.bytes -= size;
        self.total.subtract(size);
        self.qos0 -= u32::from(entry.qos == QoS::AtMostOnce);
    }
}

/// The earlier of two moments that may not be.
pub(super) fn earliest(a: Option<Time>, b: Option<Time>) -> Option<Time> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
