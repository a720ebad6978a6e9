//! Retained messages: the last writer wins, what was cleared is remembered for a while, all of it bounded.
//!
//! A table finds a topic's slot, so that the common case, one more value of a known topic, costs one
//! look-up; an ordered map beside it, which only new and forgotten topics change, serves wildcards.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hashbrown::HashTable;

use super::hash::{Seed, spread};
use super::slab::{NIL, Slab, Vacant};
use super::{Router, RouterLimits};
use crate::mqtt::Message;
use crate::mqtt::topic::is_reserved;
use crate::timer::Time;

/// The order of what was written to a retained topic: the highest wins. A Lamport clock, later than
/// every stamp that its shard has seen, then the shard that wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(pub u64, pub u8);

/// There is no room for a retained message (reason code 0x97); what was there stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetainedFull;

impl std::fmt::Display for RetainedFull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no room for another retained message")
    }
}

impl std::error::Error for RetainedFull {}

/// How long a cleared topic is remembered, lest an older value that comes late appear again.
const REMEMBERED: Duration = Duration::from_secs(60);

/// The most slots one call of `expire_retained` deals with.
const EXPIRE_AT_MOST: usize = 256;

/// What a slot costs beside its message: slot, key, table and map entries.
const OVERHEAD_BYTES: usize = 128;

#[derive(Debug)]
struct Slot {
    key: Arc<str>,
    stamp: Stamp,
    state: State,
}

#[derive(Debug)]
enum State {
    Message(Message),
    /// Cleared: in the list of the cleared, oldest first.
    Cleared {
        until: Time,
        prev: u32,
        next: u32,
    },
    Vacant(u32),
}

impl Vacant for Slot {
    fn vacate(&mut self, next: u32) {
        self.key = Arc::default();
        self.state = State::Vacant(next);
    }

    fn next_vacant(&self) -> u32 {
        match self.state {
            State::Vacant(next) => next,
            _ => NIL,
        }
    }
}

/// A table entry; with the hash in it, growing the table touches no slot.
#[derive(Clone, Copy, Debug)]
struct Found {
    hash: u32,
    slot: u32,
}

#[derive(Debug)]
pub(super) struct Retained {
    slots: Slab<Slot>,
    table: HashTable<Found>,
    /// By `ordered_key`, which sorts level by level.
    order: BTreeMap<Arc<str>, u32>,
    /// The slots of the messages that expire, soonest first: a wheel would give them up all at once.
    expiring: BTreeSet<(Time, u32)>,
    oldest_cleared: u32,
    newest_cleared: u32,
    count: usize,
    /// How many of them are the broker's own, which no limit of the clients' bounds.
    own: usize,
    bytes: usize,
    max_count: usize,
    max_bytes: usize,
    /// What the cleared take together.
    cleared_bytes: usize,
    max_cleared: usize,
    max_cleared_bytes: usize,
    seed: Seed,
}

/// A topic with NUL, which no topic contains, for `/`: sorted by bytes, a topic stands right
/// before all those below it.
pub(super) fn ordered_key(topic: &str) -> String {
    topic.replace('/', "\0")
}

/// The topic of an `ordered_key`.
pub(super) fn topic_of(key: &str) -> String {
    key.replace('\0', "/")
}

fn is_key_of(key: &str, topic: &str) -> bool {
    key.len() == topic.len()
        && key.bytes().zip(topic.bytes()).all(|(k, t)| k == t || (k == 0 && t == b'/'))
}

impl Router {
    /// Replaces the retained message of a topic, or with `None` clears it, if `stamp` is newer
    /// than that of the last one to do so. Gives whether it was.
    ///
    /// # Errors
    /// When there is no room: nothing changes.
    pub fn retain(
        &mut self,
        topic: &str,
        message: Option<Message>,
        stamp: Stamp,
        now: Time,
    ) -> Result<bool, RetainedFull> {
        self.retained.retain(topic, message, stamp, now)
    }

    /// The same with what another shard, or an earlier process, had room for: whatever the limits say, so that
    /// all shards retain the same. Gives whether it was newer.
    pub fn accept_retained(
        &mut self,
        topic: &str,
        message: Option<Message>,
        stamp: Stamp,
        now: Time,
    ) -> bool {
        self.retained.accept(topic, message, stamp, now)
    }

    /// Removes what expired up to `now`, so many at a time, and tells `expired` of each topic and its
    /// stamp. Gives whether there may be more to remove.
    pub fn expire_retained(&mut self, now: Time, expired: impl FnMut(&str, Stamp)) -> bool {
        self.retained.expire(now, expired)
    }

    /// A moment before which [`expire_retained`](Self::expire_retained) finds nothing to do.
    #[must_use]
    pub fn next_retained_expiry(&self) -> Option<Time> {
        self.retained.next_expiry()
    }

    /// How many messages are retained.
    #[must_use]
    pub fn retained_count(&self) -> usize {
        self.retained.count - self.retained.own
    }

    /// How many bytes the retained messages are accounted with.
    #[must_use]
    pub fn retained_bytes(&self) -> usize {
        self.retained.bytes
    }

    /// How many cleared topics are remembered.
    #[must_use]
    pub fn tombstone_count(&self) -> usize {
        self.retained.slots.len() - self.retained.count
    }
}

impl Retained {
    pub(super) fn new(seed: Seed, limits: &RouterLimits) -> Self {
        Self {
            slots: Slab::new(),
            table: HashTable::new(),
            order: BTreeMap::new(),
            expiring: BTreeSet::new(),
            oldest_cleared: NIL,
            newest_cleared: NIL,
            count: 0,
            own: 0,
            bytes: 0,
            max_count: limits.max_retained_messages,
            max_bytes: limits.max_retained_bytes,
            cleared_bytes: 0,
            max_cleared: limits.max_tombstones,
            max_cleared_bytes: limits.max_tombstone_bytes,
            seed,
        }
    }

    /// The live message of a topic.
    pub(super) fn get(&self, topic: &str) -> Option<&Message> {
        self.message(self.find(topic)?)
    }

    /// The message of a slot.
    pub(super) fn message(&self, slot: u32) -> Option<&Message> {
        match &self.slots[slot].state {
            State::Message(message) => Some(message),
            State::Cleared { .. } | State::Vacant(_) => None,
        }
    }

    pub(super) fn order(&self) -> &BTreeMap<Arc<str>, u32> {
        &self.order
    }

    fn retain(
        &mut self,
        topic: &str,
        message: Option<Message>,
        stamp: Stamp,
        now: Time,
    ) -> Result<bool, RetainedFull> {
        let slot = self.find(topic);
        let newer = self.is_newer(slot, stamp);
        if newer {
            if let Some(message) = &message {
                self.check_room(slot, message)?;
            }
            self.set(slot, topic, message, stamp, now);
        }
        Ok(newer)
    }

    fn accept(&mut self, topic: &str, message: Option<Message>, stamp: Stamp, now: Time) -> bool {
        let slot = self.find(topic);
        let newer = self.is_newer(slot, stamp);
        if newer {
            self.set(slot, topic, message, stamp, now);
        }
        newer
    }

    fn is_newer(&self, slot: Option<u32>, stamp: Stamp) -> bool {
        slot.is_none_or(|slot| self.slots[slot].stamp < stamp)
    }

    fn set(
        &mut self,
        slot: Option<u32>,
        topic: &str,
        message: Option<Message>,
        stamp: Stamp,
        now: Time,
    ) {
        let slot = slot.unwrap_or_else(|| self.insert(topic));
        self.take(slot);
        self.slots[slot].stamp = stamp;
        match message {
            Some(message) => self.put(slot, message),
            None => self.clear(slot, now),
        }
    }

    fn expire(&mut self, now: Time, mut expired: impl FnMut(&str, Stamp)) -> bool {
        for _ in 0..EXPIRE_AT_MOST {
            match self.expiring.first() {
                Some(&(at, slot)) if at <= now => {
                    if let Some(message) = self.message(slot) {
                        expired(message.topic(), self.slots[slot].stamp);
                    }
                    // The stamp stays: an older value that comes late is not to appear again.
                    self.take(slot);
                    self.clear(slot, now);
                }
                _ => break,
            }
        }
        for _ in 0..EXPIRE_AT_MOST {
            if self.next_cleared().is_none_or(|until| until > now) {
                break;
            }
            self.forget(self.oldest_cleared);
        }
        self.next_expiry().is_some_and(|at| at <= now)
    }

    fn next_expiry(&self) -> Option<Time> {
        let expiring = self.expiring.first().map(|&(at, _)| at);
        expiring.into_iter().chain(self.next_cleared()).min()
    }

    fn check_room(&self, slot: Option<u32>, message: &Message) -> Result<(), RetainedFull> {
        let old = slot.and_then(|slot| self.message(slot));
        if is_reserved(message.topic_bytes()) {
            return Ok(());
        }
        let count = self.count - self.own + usize::from(old.is_none());
        let bytes = self.bytes + cost(message) - old.map_or(0, cost);
        let fits = count <= self.max_count && bytes <= self.max_bytes;
        // What takes no more than the value it replaces always fits.
        let no_more = old.is_some_and(|old| cost(message) <= cost(old));
        if fits || no_more { Ok(()) } else { Err(RetainedFull) }
    }

    /// Takes out what a slot holds, for something else to be put in.
    fn take(&mut self, slot: u32) {
        match std::mem::replace(&mut self.slots[slot].state, State::Vacant(NIL)) {
            State::Message(message) => {
                message.expires_at().map(|at| self.expiring.remove(&(at, slot)));
                self.count -= 1;
                self.own -= usize::from(is_reserved(message.topic_bytes()));
                self.bytes -= cost(&message);
            }
            State::Cleared { prev, next, .. } => {
                self.cleared_bytes -= self.cleared_cost(slot);
                self.unlink_cleared(prev, next);
            }
            State::Vacant(_) => {}
        }
    }

    fn put(&mut self, slot: u32, message: Message) {
        self.expiring.extend(message.expires_at().map(|at| (at, slot)));
        self.count += 1;
        self.own += usize::from(is_reserved(message.topic_bytes()));
        self.bytes += cost(&message);
        self.slots[slot].state = State::Message(message);
    }

    fn clear(&mut self, slot: u32, now: Time) {
        let prev = std::mem::replace(&mut self.newest_cleared, slot);
        let until = now.plus(REMEMBERED);
        self.slots[slot].state = State::Cleared { until, prev, next: NIL };
        match prev {
            NIL => self.oldest_cleared = slot,
            _ => self.set_cleared_next(prev, slot),
        }
        self.cleared_bytes += self.cleared_cost(slot);
        while self.slots.len() - self.count > self.max_cleared
            || self.cleared_bytes > self.max_cleared_bytes
        {
            self.forget(self.oldest_cleared);
        }
    }

    fn cleared_cost(&self, slot: u32) -> usize {
        self.slots[slot].key.len() + OVERHEAD_BYTES
    }

    fn next_cleared(&self) -> Option<Time> {
        match self.slots.get(self.oldest_cleared)?.state {
            State::Cleared { until, .. } => Some(until),
            _ => None,
        }
    }

    fn unlink_cleared(&mut self, prev: u32, next: u32) {
        match prev {
            NIL => self.oldest_cleared = next,
            _ => self.set_cleared_next(prev, next),
        }
        match next {
            NIL => self.newest_cleared = prev,
            _ => {
                if let State::Cleared { prev: of_next, .. } = &mut self.slots[next].state {
                    *of_next = prev;
                }
            }
        }
    }

    fn set_cleared_next(&mut self, slot: u32, to: u32) {
        if let State::Cleared { next, .. } = &mut self.slots[slot].state {
            *next = to;
        }
    }

    fn find(&self, topic: &str) -> Option<u32> {
        let hash = self.hash(topic);
        let is_it = |one: &Found| one.hash == hash && is_key_of(&self.slots[one.slot].key, topic);
        self.table.find(spread(hash), is_it).map(|one| one.slot)
    }

    fn insert(&mut self, topic: &str) -> u32 {
        let key: Arc<str> = ordered_key(topic).into();
        let state = State::Vacant(NIL);
        let slot =
            self.slots.insert(Slot { key: Arc::clone(&key), stamp: Stamp::default(), state });
        self.order.insert(key, slot);
        let hash = self.hash(topic);
        let rehash = |one: &Found| spread(one.hash);
        self.table.insert_unique(spread(hash), Found { hash, slot }, rehash);
        slot
    }

    fn forget(&mut self, slot: u32) {
        self.take(slot);
        let key = Arc::clone(&self.slots[slot].key);
        let hash = spread(self.hash(&topic_of(&key)));
        if let Ok(found) = self.table.find_entry(hash, |one| one.slot == slot) {
            found.remove();
        }
        self.order.remove(&key);
        self.slots.remove(slot);
    }

    fn hash(&self, topic: &str) -> u32 {
        self.seed.hash(topic.as_bytes()) as u32
    }
}

fn cost(message: &Message) -> usize {
    message.size() + message.topic().len() + OVERHEAD_BYTES
}
