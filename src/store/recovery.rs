//! Reading everything back. What is damaged is set aside, what belongs to nobody is removed.

use hashbrown::HashMap;

use super::record::{Decoder, Epoch, RELEASED, SENT, split_number};
use super::staging::{Messages, Staging, Stored};
use super::writer::{Link, Open, Writer};
use crate::hooks::{Commit, Store, StoreError, Table, Write};
use crate::mqtt::{Message, PacketId};
use crate::session::{QueuedRecord, SessionRecord, SubscriptionRecord};

/// Records between two lines about the progress.
const PROGRESS_RECORDS: u64 = 250_000;
/// Writes in one commit that tidies up.
const WRITES_PER_COMMIT: usize = 4096;

/// A session as it was stored.
#[derive(Debug)]
pub struct StoredSession {
    /// The session itself.
    pub record: SessionRecord,
    /// Its subscriptions.
    pub subscriptions: Vec<SubscriptionRecord>,
    /// Identifiers of QoS 2 messages that wait for PUBREL.
    pub inbound: Vec<PacketId>,
    /// What it has to deliver, in the order of places.
    pub kept: Vec<(u64, Kept)>,
}

/// What stands at a place of a session.
#[derive(Debug)]
pub enum Kept {
    /// A message, queued or in flight.
    Message {
        /// As it was queued; with its identifier if it is in flight.
        record: Box<QueuedRecord>,
        /// Whether it was told to be in flight after it was queued.
        flew: bool,
    },
    /// The second half of a QoS 2 flow.
    Released {
        /// The identifier.
        packet_id: PacketId,
        /// The order among the PUBRELs.
        order: u64,
    },
}

/// A retained message as it was stored.
#[derive(Debug)]
pub struct RetainedRecord {
    /// The topic.
    pub topic: Box<str>,
    /// Stamp and shard.
    pub stamp: (u64, u8),
    /// The message.
    pub message: Message,
}

/// What was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Records read.
    pub records: u64,
    /// Messages among them.
    pub messages: u64,
    /// Records that were damaged, and set aside.
    pub damaged: u64,
    /// Records that belonged to nothing, and were removed.
    pub stray: u64,
}

/// Everything that was stored.
#[derive(Debug, Default)]
pub struct Recovered {
    /// In no order.
    pub sessions: Vec<StoredSession>,
    /// In the order of topics.
    pub retained: Vec<RetainedRecord>,
    /// A session number from which on all are free.
    pub next_session: u64,
    /// What was found.
    pub report: Report,
}

/// Opens a store, reads everything, and gives the writer for it with a link for each shard.
///
/// # Errors
/// What cannot be opened or read.
pub fn recover(
    mut open: Open,
    commit: Commit,
    epoch: Epoch,
    shards: u8,
) -> Result<(Recovered, Writer, Vec<Link>), StoreError> {
    let mut store = open()?;
    let mut reading = Reading { epoch, ..Reading::default() };
    reading.read(&*store)?;
    let Reading { sessions, retained, messages, writes, report, next_session, .. } = reading;
    for writes in writes.chunks(WRITES_PER_COMMIT) {
        store.commit(writes, commit)?;
    }
    let next_message = messages.keys().max().map_or(1, |last| last + 1);
    let messages: Messages =
        messages.into_values().map(|stored| (stored.message.address(), stored)).collect();
    let staging = Staging::new(epoch, messages, next_message);
    let (writer, links) = Writer::new(open, store, commit, staging, shards);
    Ok((Recovered { sessions, retained, next_session, report }, writer, links))
}

#[derive(Default)]
struct Reading {
    epoch: Epoch,
    sessions: Vec<StoredSession>,
    /// Places in `sessions`, by number.
    numbers: HashMap<u64, usize>,
    /// Flights in their second half, with the place of their session in `sessions`.
    released: Vec<(usize, u64, Kept)>,
    retained: Vec<RetainedRecord>,
    messages: HashMap<u64, Stored>,
    writes: Vec<Write>,
    report: Report,
    next_session: u64,
}

/// Why a record is not taken.
enum Unfit {
    Damaged,
    /// What it belongs to is not there.
    Stray,
}

impl Reading {
    fn read(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        self.table(store, Table::Messages, Self::message)?;
        self.table(store, Table::Sessions, Self::session)?;
        self.table(store, Table::Subscriptions, Self::subscription)?;
        self.table(store, Table::Inbound, Self::inbound)?;
        self.table(store, Table::Queued, Self::queued)?;
        self.table(store, Table::Flights, Self::flight)?;
        self.table(store, Table::Retained, Self::retained)?;
        for (at, place, kept) in std::mem::take(&mut self.released) {
            if let Some(session) = self.sessions.get_mut(at) {
                session.kept.push((place, kept));
            }
        }
        for session in &mut self.sessions {
            session.kept.sort_by_key(|(place, _)| *place);
        }
        self.drop_unreferenced();
        Ok(())
    }

    fn table(
        &mut self,
        store: &dyn Store,
        table: Table,
        take: impl Fn(&mut Self, &[u8], Decoder<'_>) -> Result<(), Unfit>,
    ) -> Result<(), StoreError> {
        store.scan(table, &mut |key, value| {
            self.report.records += 1;
            if self.report.records.is_multiple_of(PROGRESS_RECORDS) {
                tracing::info!("reading the store: {} records", self.report.records);
            }
            let taken = match Decoder::open(table, key, value, self.epoch) {
                Some(decoder) => take(self, key, decoder),
                None => Err(Unfit::Damaged),
            };
            match taken {
                Ok(()) => return,
                Err(Unfit::Stray) => self.report.stray += 1,
                Err(Unfit::Damaged) => {
                    self.report.damaged += 1;
                    let aside = [table.name().as_bytes(), b"/", key].concat();
                    let value = Some(value.to_vec());
                    self.writes.push(Write { table: Table::Damaged, key: aside, value });
                }
            }
            self.writes.push(Write { table, key: key.to_vec(), value: None });
        })
    }

    fn message(&mut self, key: &[u8], mut value: Decoder<'_>) -> Result<(), Unfit> {
        let (number, _) = split_number(key).ok_or(Unfit::Damaged)?;
        let message = value.message().ok_or(Unfit::Damaged)?;
        self.messages.insert(number, Stored { message, number, references: 0 });
        self.report.messages += 1;
        Ok(())
    }

    fn session(&mut self, key: &[u8], mut value: Decoder<'_>) -> Result<(), Unfit> {
        let client_id = std::str::from_utf8(key).map_err(|_| Unfit::Damaged)?;
        let record = value.session(client_id).ok_or(Unfit::Damaged)?;
        self.next_session = self.next_session.max(record.session + 1);
        self.numbers.insert(record.session, self.sessions.len());
        let (subscriptions, inbound, kept) = (Vec::new(), Vec::new(), Vec::new());
        self.sessions.push(StoredSession { record, subscriptions, inbound, kept });
        Ok(())
    }

    /// The place in `sessions` of the one that a key begins with, and the rest of the key.
    fn place_of<'a>(&mut self, key: &'a [u8]) -> Result<(usize, &'a [u8]), Unfit> {
        let (number, rest) = split_number(key).ok_or(Unfit::Damaged)?;
        // Nor must a new session find what this one left.
        self.next_session = self.next_session.max(number.saturating_add(1));
        Ok((*self.numbers.get(&number).ok_or(Unfit::Stray)?, rest))
    }

    fn of<'a>(&mut self, key: &'a [u8]) -> Result<(&mut StoredSession, &'a [u8]), Unfit> {
        let (at, rest) = self.place_of(key)?;
        Ok((self.sessions.get_mut(at).ok_or(Unfit::Stray)?, rest))
    }

    fn subscription(&mut self, key: &[u8], mut value: Decoder<'_>) -> Result<(), Unfit> {
        let (session, filter) = self.of(key)?;
        let filter = std::str::from_utf8(filter).map_err(|_| Unfit::Damaged)?;
        session.subscriptions.push(value.subscription(filter).ok_or(Unfit::Damaged)?);
        Ok(())
    }

    fn inbound(&mut self, key: &[u8], _: Decoder<'_>) -> Result<(), Unfit> {
        let (session, rest) = self.of(key)?;
        let id = rest.try_into().map_err(|_| Unfit::Damaged)?;
        session.inbound.push(PacketId::new(u16::from_be_bytes(id)).ok_or(Unfit::Damaged)?);
        Ok(())
    }

    fn queued(&mut self, key: &[u8], mut value: Decoder<'_>) -> Result<(), Unfit> {
        let fields = value.queued().ok_or(Unfit::Damaged)?;
        let number = fields.message;
        let stored = self.messages.get(&number).ok_or(Unfit::Stray)?;
        let record = Box::new(fields.of(stored.message.clone()));
        let (session, rest) = self.of(key)?;
        let (place, _) = split_number(rest).ok_or(Unfit::Damaged)?;
        session.kept.push((place, Kept::Message { record, flew: false }));
        if let Some(stored) = self.messages.get_mut(&number) {
            stored.references += 1;
        }
        Ok(())
    }

    /// After all that are queued.
    fn flight(&mut self, key: &[u8], mut value: Decoder<'_>) -> Result<(), Unfit> {
        let state = value.u8().ok_or(Unfit::Damaged)?;
        let id = value.packet_id().flatten().ok_or(Unfit::Damaged)?;
        let (at, rest) = self.place_of(key)?;
        let (place, _) = split_number(rest).ok_or(Unfit::Damaged)?;
        match state {
            RELEASED => {
                let order = value.u64().ok_or(Unfit::Damaged)?;
                self.released.push((at, place, Kept::Released { packet_id: id, order }));
                Ok(())
            }
            SENT => {
                let session = self.sessions.get_mut(at).ok_or(Unfit::Stray)?;
                let found = session.kept.binary_search_by_key(&place, |(place, _)| *place);
                match found.ok().and_then(|index| session.kept.get_mut(index)) {
                    Some((_, Kept::Message { record, flew })) => {
                        record.packet_id = Some(id);
                        *flew = true;
                        Ok(())
                    }
                    _ => Err(Unfit::Stray),
                }
            }
            _ => Err(Unfit::Damaged),
        }
    }

    fn retained(&mut self, key: &[u8], mut value: Decoder<'_>) -> Result<(), Unfit> {
        let topic = std::str::from_utf8(key).map_err(|_| Unfit::Damaged)?;
        let stamp = value.u64().zip(value.u8()).ok_or(Unfit::Damaged)?;
        let message = value.message().ok_or(Unfit::Damaged)?;
        if message.is_expired(self.epoch.to_time(self.epoch.unix_ms)) {
            return Err(Unfit::Stray);
        }
        self.retained.push(RetainedRecord { topic: topic.into(), stamp, message });
        Ok(())
    }

    fn drop_unreferenced(&mut self) {
        let Self { messages, writes, report, .. } = self;
        messages.retain(|number, stored| {
            if stored.references > 0 {
                return true;
            }
            report.stray += 1;
            let key = number.to_be_bytes().to_vec();
            writes.push(Write { table: Table::Messages, key, value: None });
            false
        });
    }
}
