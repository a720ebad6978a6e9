//! The changes of many turns as the writes of one commit: what comes and goes in between is never written.
//!
//! That is the lot of most messages, so nothing is encoded before the commit.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::messages::Messages;
use super::record::{
    Encoder, Epoch, Epochs, QueuedFields, damaged_key, filter_key, inbound_key, place_key,
    split_place,
};
use crate::hooks::{Key, Table, Write};
use crate::mqtt::PacketId;
use crate::session::{Change, QueuedRecord, SessionNumber};

/// Bytes of the record of a message beyond its [size](crate::mqtt::Message::size), at most.
const ROOM_OF_MESSAGE: usize = 32;

#[derive(Debug)]
struct Staged {
    value: Option<Vec<u8>>,
    /// The store does not have the record yet, in whatever form.
    fresh: bool,
}

/// A queued message that the store does not have.
#[derive(Debug)]
struct Place {
    session: SessionNumber,
    place: u64,
    fields: QueuedFields,
    /// The identifier under which it is in flight, if it had to wait before.
    flight: Option<PacketId>,
}

pub(super) struct Staging {
    epochs: Epochs,
    /// In the order in which they came; `None`: gone again.
    places: Vec<Option<Place>>,
    /// Where in `places`, by session and place.
    by_place: HashMap<(SessionNumber, u64), u32>,
    /// All else.
    writes: HashMap<(Table, Key), Staged>,
    messages: Messages,
}

impl Staging {
    pub(super) fn new(epoch: Epoch, messages: Messages) -> Self {
        let (by_place, writes) = (HashMap::new(), HashMap::new());
        Self { epochs: epoch.into(), places: Vec::new(), by_place, writes, messages }
    }

    pub(super) fn epochs(&self) -> Epochs {
        self.epochs
    }

    /// The time of day is that of `seen` now. Says whether it is [followed](Epochs::follow).
    pub(super) fn follow(&mut self, seen: Epoch) -> bool {
        self.epochs.follow(seen)
    }

    /// Lets go of messages that nobody holds in memory any more.
    pub(super) fn forget_unheld(&mut self) {
        self.messages.forget_unheld();
    }

    /// Lets go of what has come and gone, when nothing else is [there](Self::is_empty).
    pub(super) fn clear(&mut self) {
        self.places.clear();
        self.messages.take_new(|number, _| debug_assert!(false, "{number} has no place"));
    }

    /// Gives back the memory for what was there. While a store fails that is far more than else.
    pub(super) fn shrink(&mut self) {
        self.places.shrink_to_fit();
        self.by_place.shrink_to_fit();
        self.writes.shrink_to_fit();
        self.messages.shrink();
    }

    /// For how many records there is memory.
    #[cfg(test)]
    pub(super) fn room(&self) -> usize {
        self.places.capacity() + self.by_place.capacity() + self.writes.capacity()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty() && self.by_place.is_empty()
    }

    /// How many records are there.
    pub(super) fn len(&self) -> usize {
        self.writes.len() + self.by_place.len()
    }

    /// By session, of the places from a `wanted` one on: the first of which it is not known that the store has
    /// it. A look at all that is there.
    pub(super) fn first_places(
        &self,
        wanted: &HashMap<SessionNumber, u64>,
    ) -> HashMap<SessionNumber, u64> {
        let put = |(table, key): &(Table, Key), staged: &Staged| {
            let is_put = *table == Table::Queued && staged.value.is_some();
            is_put.then(|| split_place(key)).flatten()
        };
        let tried = self.writes.iter().filter_map(|(key, staged)| put(key, staged));
        let mut first = HashMap::new();
        for (session, place) in self.by_place.keys().copied().chain(tried) {
            if wanted.get(&session).is_some_and(|from| place >= *from) {
                let first = first.entry(session).or_insert(place);
                *first = place.min(*first);
            }
        }
        first
    }

    /// Whether a record is there only until the next commit.
    pub(super) fn is_removed(&self, table: Table, key: &[u8]) -> bool {
        let is_removal = |staged: &Staged| staged.value.is_none();
        !self.writes.is_empty() && self.writes.get(&(table, key.into())).is_some_and(is_removal)
    }

    /// Takes a change in.
    pub(super) fn stage(&mut self, change: Change) {
        match change {
            Change::Queued(session, place, record) => self.queued(session, place, record),
            Change::InFlight(session, place, packet_id) => {
                if let Some(staged) = self.place(session, place) {
                    staged.flight = Some(packet_id);
                    return;
                }
                let mut value = Encoder::new(&self.epochs);
                value.in_flight(packet_id);
                self.put(Table::Flights, place_key(session, place), value, true);
            }
            Change::Released { session, place, message, number, packet_id, order, flew } => {
                let mut value = Encoder::new(&self.epochs);
                value.released(packet_id, order);
                let is_new = self.take_back(session, place);
                if !is_new {
                    self.delete(Table::Queued, place_key(session, place));
                }
                self.put(Table::Flights, place_key(session, place), value, is_new || !flew);
                let gone = self.messages.release(&message, number);
                self.release(gone);
            }
            Change::Completed(session, place) => {
                self.delete(Table::Flights, place_key(session, place));
            }
            Change::Removed { session, place, message, number, flew } => {
                if !self.take_back(session, place) {
                    self.delete(Table::Queued, place_key(session, place));
                    if flew {
                        self.delete(Table::Flights, place_key(session, place));
                    }
                }
                let gone = self.messages.release(&message, number);
                self.release(gone);
            }
            other => self.stage_other(other),
        }
    }

    /// Changes that do not come with each message.
    fn stage_other(&mut self, change: Change) {
        match change {
            Change::Session(record) => {
                let mut value = Encoder::new(&self.epochs);
                value.session(&record);
                self.put(Table::Sessions, record.client_id.as_bytes().into(), value, false);
            }
            Change::Ended { client_id } => {
                self.delete(Table::Sessions, client_id.as_bytes().into())
            }
            Change::Subscribed(session, record) => {
                let mut value = Encoder::new(&self.epochs);
                value.subscription(&record);
                self.put(Table::Subscriptions, filter_key(session, &record.filter), value, false);
            }
            Change::Unsubscribed(session, filter) => {
                self.delete(Table::Subscriptions, filter_key(session, &filter));
            }
            Change::Held(session, packet_id) => {
                let value = Encoder::new(&self.epochs);
                self.put(Table::Inbound, inbound_key(session, packet_id), value, true);
            }
            Change::Freed(session, packet_id) => {
                self.delete(Table::Inbound, inbound_key(session, packet_id));
            }
            Change::Retained(topic, stamp, Some(message)) => {
                let room = message.size() + ROOM_OF_MESSAGE;
                let mut value = Encoder::with_room(&self.epochs, room);
                value.retained(stamp, &message);
                self.put(Table::Retained, topic.as_bytes().into(), value, false);
            }
            Change::Retained(topic, _, None) => {
                self.delete(Table::Retained, topic.as_bytes().into());
            }
            // The writer sees to what is forgotten.
            Change::Forgotten(..) | Change::Undone => {}
            Change::Queued(..)
            | Change::InFlight(..)
            | Change::Released { .. }
            | Change::Completed(..)
            | Change::Removed { .. } => unreachable!("they come with each message"),
        }
    }

    /// Takes the writes out, behind what is in `writes`, to be committed. Give them [back](Self::put_back) if
    /// that failed.
    pub(super) fn take(&mut self, writes: &mut Vec<Write>) {
        writes.reserve(self.writes.len() + 2 * self.by_place.len());
        let epochs = &self.epochs;
        let mut put = |table, key: Key, value: Encoder| {
            let value = Some(value.seal(table, &key));
            writes.push(Write { table, key, value, fresh: true });
        };
        self.messages.take_new(|number, message| {
            let mut value = Encoder::with_room(epochs, message.size() + ROOM_OF_MESSAGE);
            value.message(message);
            put(Table::Messages, number.to_be_bytes().into(), value);
        });
        self.by_place.clear();
        for Place { session, place, fields, flight } in self.places.drain(..).flatten() {
            let mut value = Encoder::new(epochs);
            value.queued(&fields);
            put(Table::Queued, place_key(session, place), value);
            if let Some(packet_id) = flight {
                let mut value = Encoder::new(epochs);
                value.in_flight(packet_id);
                put(Table::Flights, place_key(session, place), value);
            }
        }
        writes.extend(self.writes.drain().map(|((table, key), staged)| {
            let Staged { value, fresh } = staged;
            Write { table, key, value, fresh }
        }));
    }

    /// A commit failed: its writes may have been made, and have to be made again.
    pub(super) fn put_back(&mut self, writes: &mut Vec<Write>) {
        for Write { table, key, value, .. } in writes.drain(..) {
            self.writes.insert((table, key), Staged { value, fresh: false });
        }
    }

    fn queued(&mut self, session: SessionNumber, place: u64, record: QueuedRecord) {
        let QueuedRecord { message, qos, retain, packet_id, paged, came_by, .. } = record;
        let expires_at = message.expires_at();
        let message = self.messages.reference(message, paged);
        let fields = QueuedFields { message, qos, retain, packet_id, came_by, expires_at };
        #[expect(clippy::cast_possible_truncation, reason = "memory ends before")]
        self.by_place.insert((session, place), self.places.len() as u32);
        self.places.push(Some(Place { session, place, fields, flight: None }));
    }

    fn place(&mut self, session: SessionNumber, place: u64) -> Option<&mut Place> {
        let at = *self.by_place.get(&(session, place))?;
        self.places.get_mut(at as usize)?.as_mut()
    }

    /// Takes back what is queued at a place, if the store does not have it; says so.
    fn take_back(&mut self, session: SessionNumber, place: u64) -> bool {
        let Some(at) = self.by_place.remove(&(session, place)) else { return false };
        if let Some(staged) = self.places.get_mut(at as usize) {
            *staged = None;
        }
        true
    }

    /// A queued record that nobody holds in memory is gone, with the message that it was of.
    pub(super) fn forget(&mut self, key: Key, message: u64) {
        let record = (Table::Queued, key);
        if self.writes.get(&record).is_some_and(|staged| staged.value.is_none()) {
            // The store has it until the next commit: it was read twice.
            return;
        }
        self.delete(record.0, record.1);
        let gone = self.messages.release_number(message);
        self.release(gone);
    }

    /// A record that cannot be read is set aside.
    pub(super) fn set_aside(&mut self, table: Table, key: &[u8], value: Vec<u8>) {
        let aside = Staged { value: Some(value), fresh: false };
        self.writes.insert((Table::Damaged, damaged_key(table, key)), aside);
        self.delete(table, key.into());
    }

    fn release(&mut self, message: Option<u64>) {
        if let Some(number) = message {
            self.delete(Table::Messages, number.to_be_bytes().into());
        }
    }

    fn put(&mut self, table: Table, key: Key, value: Encoder, fresh: bool) {
        let value = Some(value.seal(table, &key));
        let new = Staged { value: None, fresh };
        self.writes.entry((table, key)).or_insert(new).value = value;
    }

    fn delete(&mut self, table: Table, key: Key) {
        match self.writes.entry((table, key)) {
            Entry::Occupied(entry) if entry.get().fresh => _ = entry.remove(),
            Entry::Occupied(mut entry) => entry.get_mut().value = None,
            Entry::Vacant(entry) => _ = entry.insert(Staged { value: None, fresh: false }),
        }
    }
}
