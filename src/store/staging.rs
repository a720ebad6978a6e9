//! The changes of many turns as the writes of one commit: what comes and goes in between is never written.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::record::{Encoder, Epoch, QueuedFields, filter_key, inbound_key, place_key};
use crate::hooks::{Table, Write};
use crate::mqtt::Message;
use crate::session::{Change, QueuedRecord};

#[derive(Debug)]
struct Staged {
    value: Option<Vec<u8>>,
    /// The store does not have the record yet, in whatever form.
    fresh: bool,
}

/// A message that somebody waits for.
#[derive(Debug)]
pub(super) struct Stored {
    /// Kept, so that its address is nobody else's.
    pub(super) message: Message,
    pub(super) number: u64,
    pub(super) references: u32,
}

/// Stored messages, by their addresses.
pub(super) type Messages = HashMap<usize, Stored>;

pub(super) struct Staging {
    epoch: Epoch,
    writes: HashMap<(Table, Vec<u8>), Staged>,
    messages: Messages,
    next_message: u64,
}

impl Staging {
    pub(super) fn new(epoch: Epoch, messages: Messages, next_message: u64) -> Self {
        Self { epoch, writes: HashMap::new(), messages, next_message }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.writes.is_empty()
    }

    /// Takes a change in.
    pub(super) fn stage(&mut self, change: Change) {
        match change {
            Change::Session(record) => {
                let mut value = Encoder::new(self.epoch);
                value.session(&record);
                self.put(Table::Sessions, record.client_id.as_bytes().into(), value, false);
            }
            Change::Ended { client_id } => {
                self.delete(Table::Sessions, client_id.as_bytes().into())
            }
            Change::Subscribed(session, record) => {
                let mut value = Encoder::new(self.epoch);
                value.subscription(&record);
                self.put(Table::Subscriptions, filter_key(session, &record.filter), value, false);
            }
            Change::Unsubscribed(session, filter) => {
                self.delete(Table::Subscriptions, filter_key(session, &filter));
            }
            Change::Queued(session, place, record) => self.queued(session, place, &record),
            Change::InFlight(session, place, packet_id) => {
                let mut value = Encoder::new(self.epoch);
                value.in_flight(packet_id);
                self.put(Table::Flights, place_key(session, place), value, true);
            }
            Change::Released { session, place, message, packet_id, order } => {
                let mut value = Encoder::new(self.epoch);
                value.released(packet_id, order);
                self.put(Table::Flights, place_key(session, place), value, false);
                self.delete(Table::Queued, place_key(session, place));
                self.release(&message);
            }
            Change::Completed(session, place) => {
                self.delete(Table::Flights, place_key(session, place));
            }
            Change::Removed { session, place, message, flew } => {
                self.delete(Table::Queued, place_key(session, place));
                if flew {
                    self.delete(Table::Flights, place_key(session, place));
                }
                self.release(&message);
            }
            Change::Held(session, packet_id) => {
                let value = Encoder::new(self.epoch);
                self.put(Table::Inbound, inbound_key(session, packet_id), value, true);
            }
            Change::Freed(session, packet_id) => {
                self.delete(Table::Inbound, inbound_key(session, packet_id));
            }
            Change::Retained(topic, stamp, Some(message)) => {
                let mut value = Encoder::new(self.epoch);
                value.retained(stamp, &message);
                self.put(Table::Retained, topic.as_bytes().into(), value, false);
            }
            Change::Retained(topic, _, None) => {
                self.delete(Table::Retained, topic.as_bytes().into());
            }
        }
    }

    /// The writes, to be committed. Give them [back](Self::put_back) if that failed.
    pub(super) fn take(&mut self) -> Vec<Write> {
        let mut writes: Vec<_> = self
            .writes
            .drain()
            .map(|((table, key), staged)| Write { table, key, value: staged.value })
            .collect();
        writes.sort_unstable_by(|a, b| (a.table, &a.key).cmp(&(b.table, &b.key)));
        writes
    }

    /// A commit failed: its writes may have been made, and have to be made again.
    pub(super) fn put_back(&mut self, writes: Vec<Write>) {
        for Write { table, key, value } in writes {
            self.writes.insert((table, key), Staged { value, fresh: false });
        }
    }

    fn queued(&mut self, session: u64, place: u64, record: &QueuedRecord) {
        let number = self.reference(&record.message);
        let mut value = Encoder::new(self.epoch);
        value.queued(&QueuedFields::new(number, record));
        self.put(Table::Queued, place_key(session, place), value, true);
    }

    /// One more waits for a message; gives its number.
    fn reference(&mut self, message: &Message) -> u64 {
        if let Some(stored) = self.messages.get_mut(&message.address()) {
            stored.references += 1;
            return stored.number;
        }
        let number = self.next_message;
        self.next_message += 1;
        let stored = Stored { message: message.clone(), number, references: 1 };
        self.messages.insert(message.address(), stored);
        let mut value = Encoder::new(self.epoch);
        value.message(message);
        self.put(Table::Messages, number.to_be_bytes().into(), value, true);
        number
    }

    /// One less waits for a message. When it was the last one, the message goes.
    fn release(&mut self, message: &Message) {
        let Some(stored) = self.messages.get_mut(&message.address()) else { return };
        stored.references -= 1;
        if stored.references == 0 {
            let number = stored.number;
            self.messages.remove(&message.address());
            self.delete(Table::Messages, number.to_be_bytes().into());
        }
    }

    fn put(&mut self, table: Table, key: Vec<u8>, value: Encoder, fresh: bool) {
        let value = Some(value.seal(table, &key));
        let new = Staged { value: None, fresh };
        self.writes.entry((table, key)).or_insert(new).value = value;
    }

    fn delete(&mut self, table: Table, key: Vec<u8>) {
        match self.writes.entry((table, key)) {
            Entry::Occupied(entry) if entry.get().fresh => _ = entry.remove(),
            Entry::Occupied(mut entry) => entry.get_mut().value = None,
            Entry::Vacant(entry) => _ = entry.insert(Staged { value: None, fresh: false }),
        }
    }
}
