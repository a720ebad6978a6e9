//! The changes of many turns as the writes of one commit: what comes and goes in between is never written.

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;

use super::messages::Messages;
use super::record::{
    Encoder, Epoch, QueuedFields, damaged_key, filter_key, inbound_key, place_key,
};
use crate::hooks::{Table, Write};
use crate::session::{Change, QueuedRecord};

#[derive(Debug)]
struct Staged {
    value: Option<Vec<u8>>,
    /// The store does not have the record yet, in whatever form.
    fresh: bool,
}

pub(super) struct Staging {
    epoch: Epoch,
    writes: HashMap<(Table, Vec<u8>), Staged>,
    messages: Messages,
}

impl Staging {
    pub(super) fn new(epoch: Epoch, messages: Messages) -> Self {
        Self { epoch, writes: HashMap::new(), messages }
    }

    pub(super) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Lets go of messages that nobody holds in memory any more.
    pub(super) fn forget_unheld(&mut self) {
        self.messages.forget_unheld();
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
            Change::Released { session, place, message, number, packet_id, order } => {
                let mut value = Encoder::new(self.epoch);
                value.released(packet_id, order);
                self.put(Table::Flights, place_key(session, place), value, false);
                self.delete(Table::Queued, place_key(session, place));
                let gone = self.messages.release(&message, number);
                self.release(gone);
            }
            // The writer sees to it.
            Change::Forgotten(..) => {}
            Change::Completed(session, place) => {
                self.delete(Table::Flights, place_key(session, place));
            }
            Change::Removed { session, place, message, number, flew } => {
                self.delete(Table::Queued, place_key(session, place));
                if flew {
                    self.delete(Table::Flights, place_key(session, place));
                }
                let gone = self.messages.release(&message, number);
                self.release(gone);
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
            .map(|((table, key), staged)| Write {
                table,
                key,
                value: staged.value,
                fresh: staged.fresh,
            })
            .collect();
        writes.sort_unstable_by(|a, b| (a.table, &a.key).cmp(&(b.table, &b.key)));
        writes
    }

    /// A commit failed: its writes may have been made, and have to be made again.
    pub(super) fn put_back(&mut self, writes: Vec<Write>) {
        for Write { table, key, value, .. } in writes {
            self.writes.insert((table, key), Staged { value, fresh: false });
        }
    }

    fn queued(&mut self, session: u64, place: u64, record: &QueuedRecord) {
        let (number, is_new) = self.messages.reference(&record.message, record.paged);
        if is_new {
            let mut value = Encoder::new(self.epoch);
            value.message(&record.message);
            self.put(Table::Messages, number.to_be_bytes().into(), value, true);
        }
        let mut value = Encoder::new(self.epoch);
        value.queued(&QueuedFields::new(number, record));
        self.put(Table::Queued, place_key(session, place), value, true);
    }

    /// A queued record that nobody holds in memory is gone, with the message that it was of.
    pub(super) fn forget(&mut self, key: Vec<u8>, message: u64) {
        self.delete(Table::Queued, key);
        let gone = self.messages.release_number(message);
        self.release(gone);
    }

    /// A record that cannot be read is set aside.
    pub(super) fn set_aside(&mut self, table: Table, key: &[u8], value: Vec<u8>) {
        let aside = Staged { value: Some(value), fresh: false };
        self.writes.insert((Table::Damaged, damaged_key(table, key)), aside);
        self.delete(table, key.to_vec());
    }

    fn release(&mut self, message: Option<u64>) {
        if let Some(number) = message {
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
