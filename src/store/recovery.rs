//! Reading everything back. What is damaged is set aside, what belongs to nobody is removed: if a session's own
//! record is damaged that is set aside, too, as it may be what the session had.

use std::time::Duration;

use hashbrown::HashMap;

use super::messages::Messages;
use super::pages::message;
use super::record::{
    Decoder, Epoch, Epochs, QueuedFields, RELEASED, SENT, damaged_key, place_key, split_number,
    whole_number,
};
use super::staging::Staging;
use super::writer::{Link, Open, Writer};
use crate::hooks::{Commit, Key, Store, StoreError, Table, Write};
use crate::mqtt::{Message, PacketId};
use crate::session::{Paged, Restored, SessionRecord, SubscriptionRecord};
use crate::timer::Time;

/// Records that a broker reads between two lines about its progress.
pub const PROGRESS_RECORDS: u64 = 250_000;
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
    /// What is in flight to it, in the order of places.
    pub kept: Vec<(u64, Restored)>,
    /// What is queued for it: that is not read, but said how much it is.
    pub paged: Paged,
    /// Messages that were queued for it, expired while the broker was not there, and are removed.
    pub expired: u32,
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
    /// Records that belonged to nothing, and were removed; set aside if a session's own record is damaged.
    pub stray: u64,
    /// Messages for a session, and retained ones, that had expired, and were removed.
    pub expired: u64,
    /// A session's own record is damaged: what belonged to nothing may be what it had.
    pub has_lost_session: bool,
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

/// Opens a store, reads everything but what waits in queues, and gives the writer for it with a link for
/// each shard. After each `progress` records the log says how far it is.
///
/// # Errors
/// What cannot be opened or read.
pub fn recover(
    mut open: Open,
    commit: Commit,
    epoch: Epoch,
    shards: u8,
    progress: u64,
) -> Result<(Recovered, Writer, Vec<Link>), StoreError> {
    let mut store = open()?;
    let mut reading = Reading::new(epoch, commit, progress);
    reading.read(&mut *store)?;
    let Reading { sessions, retained, messages, uses, report, next_session, .. } = reading;
    let next_message = messages.last().map_or(1, |last| last + 1);
    let references = uses.into_iter().map(|one| one.references);
    let shared = messages.into_iter().zip(references).filter(|(_, references)| *references > 1);
    let staging = Staging::new(epoch, Messages::new(shared, next_message));
    let (writer, links) = Writer::new(open, store, commit, staging, shards);
    Ok((Recovered { sessions, retained, next_session, report }, writer, links))
}

struct Reading {
    epochs: Epochs,
    commit: Commit,
    sessions: Vec<StoredSession>,
    /// Places in `sessions`, by number.
    numbers: HashMap<u64, usize>,
    /// By session number and place: what is in flight, until it is found queued.
    flights: HashMap<(u64, u64), PacketId>,
    retained: Vec<RetainedRecord>,
    /// The numbers of all messages, ascending.
    messages: Vec<u64>,
    /// What is known of each.
    uses: Vec<Use>,
    /// What is in flight, without the messages.
    in_flight: Vec<InFlight>,
    writes: Vec<Write>,
    /// What sets damaged sessions aside. It comes last: a start that does not come to its end must not have the
    /// next one find what they had, and no reason to set it aside.
    last_writes: Vec<Write>,
    report: Report,
    /// Records between two lines about that.
    progress: u64,
    next_session: u64,
    /// By how much the time of day was set back, at least.
    behind: Duration,
}

/// A message that is stored.
struct Use {
    /// Its bytes in memory.
    size: u32,
    /// How many wait for it.
    references: u32,
    /// Seconds from now until it expires, rounded up; [`NEVER`].
    expires_in: u32,
}

/// When everything is read.
const START: Time = Time(0);

/// By how much clocks are set without a word.
const BEHIND: Duration = Duration::from_secs(5);

/// Of what never expires.
const NEVER: u32 = u32::MAX;

/// A message in flight to a session.
struct InFlight {
    /// The place of the session in [`Reading::sessions`].
    index: usize,
    place: u64,
    fields: QueuedFields,
    flew: bool,
}

/// Nobody is away since a moment that is still to come: the time of day was set back, and what is to happen a
/// while after it does so that long after the start. Says how far off that moment is.
fn begin_waiting(record: &mut SessionRecord) -> Duration {
    let to_come = record.disconnected_at.unwrap_or(START).since(START);
    record.disconnected_at = record.disconnected_at.map(|at| at.min(START));
    if let Some(will) = &record.will {
        let latest = START.plus(Duration::from_secs(will.delay_interval.into()));
        record.will_at = record.will_at.map(|at| at.min(latest));
    }
    to_come
}

/// Why a record is not taken.
enum Unfit {
    Damaged,
    /// What it belongs to is not there.
    Stray,
    /// Nobody is to have it any more [MQTT-3.3.2-5].
    Expired,
}

type Take = fn(&mut Reading, &[u8], Decoder<'_>) -> Result<(), Unfit>;

impl Reading {
    fn new(epoch: Epoch, commit: Commit, progress: u64) -> Self {
        Self {
            epochs: epoch.into(),
            commit,
            sessions: Vec::new(),
            numbers: HashMap::new(),
            flights: HashMap::new(),
            retained: Vec::new(),
            messages: Vec::new(),
            uses: Vec::new(),
            in_flight: Vec::new(),
            writes: Vec::new(),
            last_writes: Vec::new(),
            report: Report::default(),
            progress,
            next_session: 0,
            behind: Duration::ZERO,
        }
    }

    fn read(&mut self, store: &mut dyn Store) -> Result<(), StoreError> {
        self.table(store, Table::Messages, Self::message)?;
        self.table(store, Table::Sessions, Self::session)?;
        self.table(store, Table::Subscriptions, Self::subscription)?;
        self.table(store, Table::Inbound, Self::inbound)?;
        self.table(store, Table::Flights, Self::flight)?;
        self.table(store, Table::Queued, Self::queued)?;
        self.table(store, Table::Retained, Self::retained)?;
        self.drop_flights_of_nothing();
        self.drop_unreferenced(store)?;
        self.tidy(store)?;
        self.writes = std::mem::take(&mut self.last_writes);
        self.tidy(store)?;
        self.fetch(store)?;
        if self.behind > BEHIND {
            tracing::warn!(
                "the time of day is earlier, by {} s at least, than when this was stored: messages expire that \
                 much later",
                self.behind.as_secs()
            );
        }
        for session in &mut self.sessions {
            session.kept.sort_by_key(|(place, _)| *place);
        }
        Ok(())
    }

    /// Reads a table, and removes from it what is damaged or stray.
    fn table(&mut self, store: &mut dyn Store, table: Table, take: Take) -> Result<(), StoreError> {
        let mut from = Some(Vec::new());
        while let Some(first) = from.take() {
            store.range(table, &first, &mut |key, value| {
                if self.writes.len() >= WRITES_PER_COMMIT {
                    from = Some(key.to_vec());
                    return false;
                }
                self.record(table, key, value, take);
                true
            })?;
            if from.is_some() {
                self.tidy(store)?;
            }
        }
        Ok(())
    }

    fn record(&mut self, table: Table, key: &[u8], value: &[u8], take: Take) {
        self.report.records += 1;
        if self.report.records.is_multiple_of(self.progress) {
            tracing::info!(
                "reading the store: {} records, now {}",
                self.report.records,
                table.name()
            );
        }
        let epochs = self.epochs;
        let taken = match Decoder::open(table, key, value, &epochs) {
            Some(decoder) => take(self, key, decoder),
            None => Err(Unfit::Damaged),
        };
        let (before, mut is_lost_session) = (self.writes.len(), false);
        match taken {
            Ok(()) => return,
            Err(Unfit::Stray) => {
                self.report.stray += 1;
                if self.report.has_lost_session {
                    self.set_aside(table, key, value.to_vec());
                }
            }
            Err(Unfit::Expired) => self.report.expired += 1,
            Err(Unfit::Damaged) => {
                self.report.damaged += 1;
                is_lost_session = table == Table::Sessions;
                self.report.has_lost_session |= is_lost_session;
                self.set_aside(table, key, value.to_vec());
            }
        }
        self.writes.push(Write { table, key: key.into(), value: None, fresh: false });
        if is_lost_session {
            self.last_writes.extend(self.writes.drain(before..));
        }
    }

    fn set_aside(&mut self, table: Table, key: &[u8], value: Vec<u8>) {
        let (key, value) = (damaged_key(table, key), Some(value));
        self.writes.push(Write { table: Table::Damaged, key, value, fresh: false });
    }

    /// Commits what tidies up.
    fn tidy(&mut self, store: &mut dyn Store) -> Result<(), StoreError> {
        for writes in std::mem::take(&mut self.writes).chunks(WRITES_PER_COMMIT) {
            store.commit(writes, self.commit)?;
        }
        Ok(())
    }

    fn message(&mut self, key: &[u8], mut value: Decoder<'_>) -> Result<(), Unfit> {
        let number = whole_number(key).ok_or(Unfit::Damaged)?;
        let (size, expires_at) = value.message_size().ok_or(Unfit::Damaged)?;
        let size = u32::try_from(size).unwrap_or(u32::MAX);
        let seconds = |at: Time| u32::try_from(at.0.div_ceil(1000)).unwrap_or(NEVER - 1);
        let expires_in = expires_at.map_or(NEVER, seconds);
        self.messages.push(number);
        self.uses.push(Use { size, references: 0, expires_in });
        self.report.messages += 1;
        Ok(())
    }

    fn session(&mut self, key: &[u8], mut value: Decoder<'_>) -> Result<(), Unfit> {
        let client_id = std::str::from_utf8(key).map_err(|_| Unfit::Damaged)?;
        let mut record = value.session(client_id).ok_or(Unfit::Damaged)?;
        self.behind = self.behind.max(begin_waiting(&mut record));
        self.next_session = self.next_session.max(record.session + 1);
        // What is stored under a number belongs to one.
        if self.numbers.try_insert(record.session, self.sessions.len()).is_err() {
            return Err(Unfit::Stray);
        }
        let (subscriptions, inbound, kept) = (Vec::new(), Vec::new(), Vec::new());
        let paged = Paged::default();
        let expired = 0;
        self.sessions.push(StoredSession { record, subscriptions, inbound, kept, paged, expired });
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

    /// Before all that are queued.
    fn flight(&mut self, key: &[u8], mut value: Decoder<'_>) -> Result<(), Unfit> {
        let state = value.u8().ok_or(Unfit::Damaged)?;
        let packet_id = value.packet_id().flatten().ok_or(Unfit::Damaged)?;
        let (session, rest) = self.of(key)?;
        let place = whole_number(rest).ok_or(Unfit::Damaged)?;
        match state {
            RELEASED => {
                let order = value.number().ok_or(Unfit::Damaged)?;
                session.kept.push((place, Restored::Released { packet_id, order }));
            }
            SENT => {
                let number = session.record.session;
                self.flights.insert((number, place), packet_id);
            }
            _ => return Err(Unfit::Damaged),
        }
        Ok(())
    }

    /// What is in flight is taken in, also if it has expired: its delivery has begun. Of the rest it is said how
    /// much there is.
    fn queued(&mut self, key: &[u8], mut value: Decoder<'_>) -> Result<(), Unfit> {
        let mut fields = value.queued().ok_or(Unfit::Damaged)?;
        let at = self.messages.binary_search(&fields.message).map_err(|_| Unfit::Stray)?;
        let (index, rest) = self.place_of(key)?;
        let place = whole_number(rest).ok_or(Unfit::Damaged)?;
        let session = self.sessions.get_mut(index).ok_or(Unfit::Stray)?;
        let Some(of) = self.uses.get_mut(at) else { return Ok(()) };
        let flight = self.flights.remove(&(session.record.session, place));
        let in_flight = flight.is_some() || fields.packet_id.is_some();
        if of.expires_in == 0 && !in_flight {
            session.expired += 1;
            return Err(Unfit::Expired);
        }
        of.references += 1;
        if in_flight {
            fields.packet_id = flight.or(fields.packet_id);
            self.in_flight.push(InFlight { index, place, fields, flew: flight.is_some() });
            return Ok(());
        }
        let paged = &mut session.paged;
        if paged.messages == 0 {
            paged.first = place;
        }
        paged.end = place + 1;
        paged.messages += 1;
        paged.bytes += u64::from(of.size);
        paged.shared |= fields.share().is_some();
        if of.expires_in != NEVER {
            let at = Time(u64::from(of.expires_in) * 1000);
            paged.next_expiry = Some(paged.next_expiry.map_or(at, |next| next.min(at)));
        }
        Ok(())
    }

    /// Reads the messages in flight, those of several sessions once.
    fn fetch(&mut self, store: &dyn Store) -> Result<(), StoreError> {
        let mut messages: HashMap<u64, Message> = HashMap::new();
        for InFlight { index, place, fields, flew } in std::mem::take(&mut self.in_flight) {
            let message = match messages.get(&fields.message) {
                Some(message) => message.clone(),
                // Its record was whole a moment ago.
                None => message(store, fields.message, &self.epochs, &mut Vec::new())?
                    .ok_or_else(|| StoreError("a message changes while it is read".to_owned()))?,
            };
            messages.insert(fields.message, message.clone());
            if let Some(session) = self.sessions.get_mut(index) {
                let record = fields.of(message);
                session.kept.push((place, Restored::Message { record, flew }));
            }
        }
        Ok(())
    }

    fn drop_flights_of_nothing(&mut self) {
        for (session, place) in std::mem::take(&mut self.flights).into_keys() {
            self.report.stray += 1;
            let key = place_key(session, place);
            self.writes.push(Write { table: Table::Flights, key, value: None, fresh: false });
        }
    }

    fn retained(&mut self, key: &[u8], mut value: Decoder<'_>) -> Result<(), Unfit> {
        let topic = std::str::from_utf8(key).map_err(|_| Unfit::Damaged)?;
        let stamp = value.number().zip(value.u8()).ok_or(Unfit::Damaged)?;
        let message = value.message().filter(|message| message.topic() == topic);
        let message = message.ok_or(Unfit::Damaged)?;
        if message.is_expired(START) {
            return Err(Unfit::Expired);
        }
        self.retained.push(RetainedRecord { topic: topic.into(), stamp, message });
        Ok(())
    }

    fn drop_unreferenced(&mut self, store: &mut dyn Store) -> Result<(), StoreError> {
        let uses = self.messages.iter().zip(&self.uses);
        let unused = uses.filter(|(_, one)| one.references == 0);
        // Those who waited for one that has expired are counted.
        let unused: Vec<_> = unused
            .map(|(&number, one)| (Key::from(number.to_be_bytes()), one.expires_in > 0))
            .collect();
        for (key, is_stray) in unused {
            self.report.stray += u64::from(is_stray);
            if is_stray
                && self.report.has_lost_session
                && let Some(value) = store.get(Table::Messages, &key)?
            {
                self.set_aside(Table::Messages, &key, value);
            }
            let table = Table::Messages;
            self.writes.push(Write { table, key, value: None, fresh: false });
            if self.writes.len() >= WRITES_PER_COMMIT {
                self.tidy(store)?;
            }
        }
        Ok(())
    }
}
