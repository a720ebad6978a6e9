//! Records as bytes: little-endian, each with a checksum over table, key and value at its end.
//!
//! Keys that begin with a number have it big-endian, so that their order is that of the numbers.

use std::ops::RangeInclusive;
use std::time::Duration;

use crate::hooks::{Key, Table};
use crate::mqtt::topic::Filter;
use crate::mqtt::{Limits, Message, PacketId, QoS};
use crate::session::{
    CameBy, IdentityRecord, QueuedRecord, SessionRecord, SubscriptionRecord, Will,
};
use crate::timer::Time;

const CHECKSUM_LEN: usize = 4;

/// Bytes of a client identifier, topic name or filter at most: what they are part of is a key, also that
/// under which it is set aside as damaged, and fjall takes no longer ones than 65,535 bytes.
pub const MAX_NAME_BYTES: u16 = 65_000;

/// What sessions, places, messages and orders are numbered with, and stamps: 0 stands for none, and behind the
/// highest there are others to be given.
pub(super) const NUMBERS: RangeInclusive<u64> = 1..=u64::MAX >> 1;

/// What an identity may have.
const HAS_USER: u8 = 1;
const HAS_CERTIFICATE: u8 = 2;

/// Between the broker's clock, which begins anew at each start, and the time of day in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Epoch {
    /// The time of day, in milliseconds since 1970, at [`Time`] 0.
    pub unix_ms: u64,
}

/// A flight that waits for PUBACK or PUBREC.
pub(super) const SENT: u8 = 0;
/// A flight that waits for PUBCOMP.
pub(super) const RELEASED: u8 = 1;

/// In the flags of a queued message: the moment it expires follows at the end.
const EXPIRES: u8 = 8;

/// In the flags of a subscription: the topic follows behind which it still has to get retained messages.
const WANTS_RETAINED: u8 = 16;

/// Where the number of the [epoch](Epochs) is in the flags of a message, and of a queued one.
const EPOCH_OF_MESSAGE: u8 = 3;
const EPOCH_OF_QUEUED: u8 = 4;
const EPOCH_MASK: u8 = 15;

/// Bytes of a record that its encoder has room for from the beginning: most have fewer.
const ROOM: usize = 48;

/// Stands for no time.
const NO_TIME: u64 = u64::MAX;

impl Epoch {
    fn to_unix(self, time: Time) -> u64 {
        self.unix_ms.saturating_add(time.0)
    }

    /// Times before the start are 0.
    fn to_time(self, unix_ms: u64) -> Time {
        Time(unix_ms.saturating_sub(self.unix_ms))
    }
}

/// The epochs of one life: the time of day is set now and then, and the broker's clock is not. What is
/// written goes by the last one, so that the next start reads it right. What is read back in this life goes
/// by the one that it was written by, whose number stands in it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Epochs {
    all: [Epoch; Self::MOST],
    last: u8,
}

impl From<Epoch> for Epochs {
    fn from(start: Epoch) -> Self {
        Self { all: [start; Self::MOST], last: 0 }
    }
}

impl Epochs {
    /// There are four bits for the number: what is set after that is not followed.
    const MOST: usize = 16;

    /// By how much the time of day has to be set to begin another one. A leap second does not.
    const STEP_MS: u64 = 2000;

    /// The time of day is that of `seen` now. Says whether what is written goes by that from now on.
    pub(super) fn follow(&mut self, seen: Epoch) -> bool {
        if seen.unix_ms.abs_diff(self.last().unix_ms) < Self::STEP_MS {
            return true;
        }
        let next = self.last + 1;
        let Some(free) = self.all.get_mut(usize::from(next)) else { return false };
        (*free, self.last) = (seen, next);
        true
    }

    fn start(&self) -> Epoch {
        self.numbered(0)
    }

    fn last(&self) -> Epoch {
        self.numbered(self.last)
    }

    fn numbered(&self, number: u8) -> Epoch {
        self.all.get(usize::from(number)).copied().unwrap_or_default()
    }
}

/// Writes the fields of a record.
pub(super) struct Encoder {
    bytes: Vec<u8>,
    epoch: Epoch,
    /// The number of the epoch.
    number: u8,
}

impl Encoder {
    pub(super) fn new(epochs: &Epochs) -> Self {
        Self::with_room(epochs, ROOM)
    }

    /// For a record of about so many bytes.
    pub(super) fn with_room(epochs: &Epochs, room: usize) -> Self {
        let (epoch, number) = (epochs.last(), epochs.last);
        Self { bytes: Vec::with_capacity(room), epoch, number }
    }

    fn u8(&mut self, value: u8) {
        self.bytes.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.u32(u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        self.bytes.extend_from_slice(bytes);
    }

    fn time(&mut self, time: Option<Time>) {
        self.u64(time.map_or(NO_TIME, |time| self.epoch.to_unix(time)));
    }

    pub(super) fn message(&mut self, message: &Message) {
        let flags = message.qos().as_u8() | u8::from(message.retain()) << 2;
        self.u8(flags | self.number << EPOCH_OF_MESSAGE);
        self.time(message.expires_at());
        self.bytes(message.topic_bytes());
        self.bytes(message.properties());
        self.bytes(message.payload());
    }

    pub(super) fn session(&mut self, record: &SessionRecord) {
        self.u64(record.session);
        self.u32(record.session_expiry_interval);
        self.time(record.disconnected_at);
        self.time(record.will_at);
        self.u8(record.will.is_some().into());
        if let Some(will) = &record.will {
            self.u64(will.message_expiry_interval.map_or(NO_TIME, u64::from));
            self.u32(will.delay_interval);
            self.message(&will.message);
        }
        self.u8(record.identity.is_some().into());
        if let Some(identity) = &record.identity {
            let has_user = u8::from(identity.user.is_some()) * HAS_USER;
            let has_certificate = u8::from(identity.certificate.is_some()) * HAS_CERTIFICATE;
            self.u8(has_user | has_certificate);
            self.bytes(identity.user.as_deref().unwrap_or_default().as_bytes());
            self.bytes(identity.peer.to_string().as_bytes());
            self.u8(identity.protocol_version);
            if let Some(certificate) = &identity.certificate {
                self.bytes(certificate.as_bytes());
            }
        }
    }

    pub(super) fn subscription(&mut self, record: &SubscriptionRecord) {
        let flags = u8::from(record.no_local) << 2 | u8::from(record.retain_as_published) << 3;
        let wants = if record.retained_after.is_some() { WANTS_RETAINED } else { 0 };
        self.u8(record.qos.as_u8() | flags | wants);
        self.u32(record.identifier);
        if let Some(topic) = &record.retained_after {
            self.bytes(topic.as_bytes());
        }
    }

    pub(super) fn queued(&mut self, fields: &QueuedFields) {
        self.u64(fields.message);
        let expires = if fields.expires_at.is_some() { EXPIRES } else { 0 };
        let flags = fields.qos.as_u8() | u8::from(fields.retain) << 2 | expires;
        self.u8(flags | self.number << EPOCH_OF_QUEUED);
        self.u16(fields.packet_id.map_or(0, |id| id.get()));
        self.bytes(fields.share().unwrap_or_default().as_bytes());
        let identifiers = fields.identifiers();
        self.u16(u16::try_from(identifiers.len()).unwrap_or(u16::MAX));
        for &identifier in identifiers.iter().take(usize::from(u16::MAX)) {
            self.u32(identifier);
        }
        if fields.expires_at.is_some() {
            self.time(fields.expires_at);
        }
    }

    pub(super) fn in_flight(&mut self, packet_id: PacketId) {
        self.u8(SENT);
        self.u16(packet_id.get());
    }

    pub(super) fn released(&mut self, packet_id: PacketId, order: u64) {
        self.u8(RELEASED);
        self.u16(packet_id.get());
        self.u64(order);
    }

    pub(super) fn retained(&mut self, stamp: (u64, u8), message: &Message) {
        self.u64(stamp.0);
        self.u8(stamp.1);
        self.message(message);
    }

    /// The record's value, checksum and all.
    pub(super) fn seal(mut self, table: Table, key: &[u8]) -> Vec<u8> {
        let checksum = checksum(table, key, &self.bytes);
        self.u32(checksum);
        self.bytes
    }
}

fn checksum(table: Table, key: &[u8], value: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&[table as u8]);
    hasher.update(key);
    hasher.update(value);
    hasher.finalize()
}

/// What is stored of a queued message, beside the message.
#[derive(Debug)]
pub(super) struct QueuedFields {
    /// The message's number.
    pub(super) message: u64,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) packet_id: Option<PacketId>,
    /// Without the number of the group.
    pub(super) came_by: Option<Box<CameBy>>,
    /// When the message expires: so this is known without a look at it.
    pub(super) expires_at: Option<Time>,
}

impl QueuedFields {
    /// The filter of the shared subscription it came by.
    pub(super) fn share(&self) -> Option<&str> {
        self.came_by.as_ref()?.share.as_deref()
    }

    /// The Subscription Identifiers to deliver with.
    pub(super) fn identifiers(&self) -> &[u32] {
        self.came_by.as_ref().map_or(&[], |by| &by.identifiers)
    }

    pub(super) fn of(self, message: Message) -> QueuedRecord {
        let Self { message: number, qos, retain, packet_id, came_by, .. } = self;
        QueuedRecord { message, qos, retain, packet_id, number, paged: false, came_by }
    }
}

/// Reads the fields of a record; `None` for one that is not whole.
pub(super) struct Decoder<'a> {
    bytes: &'a [u8],
    epochs: &'a Epochs,
}

impl<'a> Decoder<'a> {
    /// Over the fields of a record whose checksum is right.
    pub(super) fn open(
        table: Table,
        key: &[u8],
        value: &'a [u8],
        epochs: &'a Epochs,
    ) -> Option<Self> {
        let (bytes, stored) = value.split_at_checked(value.len().checked_sub(CHECKSUM_LEN)?)?;
        let right = u32::from_le_bytes(stored.try_into().ok()?) == checksum(table, key, bytes);
        right.then_some(Self { bytes, epochs })
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        Some(*first)
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.take().map(u8::from_le_bytes)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }

    /// One of [`NUMBERS`].
    pub(super) fn number(&mut self) -> Option<u64> {
        self.u64().filter(|number| NUMBERS.contains(number))
    }

    pub(super) fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = self.u32()? as usize;
        let (first, rest) = self.bytes.split_at_checked(len)?;
        self.bytes = rest;
        Some(first)
    }

    fn time(&mut self, epoch: Epoch) -> Option<Option<Time>> {
        let at = self.u64()?;
        Some((at != NO_TIME).then(|| epoch.to_time(at)))
    }

    /// The epoch whose number is in flags, `at` that bit.
    fn epoch_in(&self, flags: u8, at: u8) -> Epoch {
        self.epochs.numbered(flags >> at & EPOCH_MASK)
    }

    /// What a message takes in memory, and when it expires, if it is whole; nothing is made of it.
    pub(super) fn message_size(&mut self) -> Option<(usize, Option<Time>)> {
        let flags = self.u8()?;
        QoS::from_u8(flags & 3)?;
        let expires_at = self.time(self.epoch_in(flags, EPOCH_OF_MESSAGE))?;
        let (topic, properties) = (self.text()?, self.bytes()?);
        let size = Message::size_of(topic.len(), properties.len(), self.bytes()?.len());
        Some((size, expires_at))
    }

    pub(super) fn message(&mut self) -> Option<Message> {
        let flags = self.u8()?;
        let qos = QoS::from_u8(flags & 3)?;
        let expires_at = self.time(self.epoch_in(flags, EPOCH_OF_MESSAGE))?;
        let topic = std::str::from_utf8(self.bytes()?).ok()?;
        let properties = self.bytes()?;
        let payload = self.bytes()?;
        Some(Message::restore(topic, qos, flags & 4 != 0, payload, properties, expires_at))
    }

    pub(super) fn session(&mut self, client_id: &str) -> Option<SessionRecord> {
        let session = self.number()?;
        let mut session_expiry_interval = self.u32()?;
        let since = self.u64()?;
        let start = self.epochs.start();
        // Seconds that passed before the start do not count any more.
        if since < start.unix_ms && session_expiry_interval != u32::MAX {
            let passed = Duration::from_millis(start.unix_ms - since).as_secs();
            let passed = u32::try_from(passed).unwrap_or(u32::MAX);
            session_expiry_interval = session_expiry_interval.saturating_sub(passed);
        }
        let disconnected_at = (since != NO_TIME).then(|| start.to_time(since));
        let will_at = self.time(start)?;
        let will = match self.u8()? {
            0 => None,
            _ => {
                let interval = self.u64()?;
                Some(Will {
                    message_expiry_interval: u32::try_from(interval).ok(),
                    delay_interval: self.u32()?,
                    message: self.message()?,
                })
            }
        };
        let identity = match self.u8()? {
            0 => None,
            _ => Some(self.identity()?),
        };
        Some(SessionRecord {
            client_id: client_id.into(),
            session,
            session_expiry_interval,
            disconnected_at,
            will,
            will_at,
            identity,
        })
    }

    fn identity(&mut self) -> Option<IdentityRecord> {
        let has = self.u8()?;
        let user = self.text()?;
        let user = (has & HAS_USER != 0).then(|| user.into());
        let peer = self.text()?.parse().ok()?;
        let protocol_version = self.u8()?;
        let certificate = if has & HAS_CERTIFICATE != 0 { Some(self.text()?.into()) } else { None };
        Some(IdentityRecord { user, certificate, peer, protocol_version })
    }

    fn text(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.bytes()?).ok()
    }

    pub(super) fn subscription(&mut self, filter: &str) -> Option<SubscriptionRecord> {
        // The limits of today do not take away what was granted.
        Filter::parse(filter, &Limits::NONE).ok()?;
        let flags = self.u8()?;
        Some(SubscriptionRecord {
            filter: filter.into(),
            qos: QoS::from_u8(flags & 3)?,
            no_local: flags & 4 != 0,
            retain_as_published: flags & 8 != 0,
            identifier: self.u32()?,
            retained_after: match flags & WANTS_RETAINED {
                0 => None,
                _ => Some(self.text()?.into()),
            },
        })
    }

    pub(super) fn queued(&mut self) -> Option<QueuedFields> {
        let message = self.number()?;
        let flags = self.u8()?;
        let qos = QoS::from_u8(flags & 3)?;
        let retain = flags & 4 != 0;
        let packet_id = self.packet_id()?;
        let share = self.text()?;
        let share = (!share.is_empty()).then_some(share);
        let count = self.u16()?;
        let identifiers = (0..count).map(|_| self.u32()).collect::<Option<Vec<_>>>()?;
        let came_by = CameBy::new(&identifiers, None, share);
        let expires_at = match flags & EXPIRES {
            0 => None,
            _ => self.time(self.epoch_in(flags, EPOCH_OF_QUEUED))?,
        };
        Some(QueuedFields { message, qos, retain, packet_id, came_by, expires_at })
    }

    pub(super) fn packet_id(&mut self) -> Option<Option<PacketId>> {
        self.u16().map(PacketId::new)
    }
}

/// Whether a record of a table is as it was written.
pub(super) fn is_whole(table: Table, key: &[u8], value: &[u8]) -> bool {
    Decoder::open(table, key, value, &Epoch::default().into()).is_some()
}

/// A value of whatever fields, with its checksum.
#[cfg(test)]
pub(super) fn sealed(table: Table, key: &[u8], fields: &[u8]) -> Vec<u8> {
    let encoder = Encoder::new(&Epoch::default().into());
    Encoder { bytes: fields.to_vec(), ..encoder }.seal(table, key)
}

/// The key under which a damaged record is set aside.
pub(super) fn damaged_key(table: Table, key: &[u8]) -> Key {
    match table {
        Table::Damaged => key.into(),
        _ => [table.name().as_bytes(), b"/", key].concat().into(),
    }
}

/// Bytes of a key of a table at most: fjall takes no longer ones, also when it is set aside as damaged.
pub(super) fn longest_key(table: Table) -> usize {
    usize::from(u16::MAX) - damaged_key(table, b"").len()
}

/// The key of what belongs to a session.
#[inline]
pub(super) fn place_key(session: u64, place: u64) -> Key {
    (u128::from(session) << 64 | u128::from(place)).to_be_bytes().into()
}

pub(super) fn inbound_key(session: u64, packet_id: PacketId) -> Key {
    let mut key = [0; 10];
    key[..8].copy_from_slice(&session.to_be_bytes());
    key[8..].copy_from_slice(&packet_id.get().to_be_bytes());
    key.into()
}

pub(super) fn filter_key(session: u64, filter: &str) -> Key {
    [&session.to_be_bytes()[..], filter.as_bytes()].concat().into()
}

/// One of [`NUMBERS`] at the front of a key, and the rest.
pub(super) fn split_number(key: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = key.split_first_chunk()?;
    let number = u64::from_be_bytes(*number);
    NUMBERS.contains(&number).then_some((number, rest))
}

/// A key, or the rest of one, that is one of [`NUMBERS`] and nothing else.
pub(super) fn whole_number(key: &[u8]) -> Option<u64> {
    split_number(key).filter(|(_, rest)| rest.is_empty()).map(|(number, _)| number)
}

/// Session and place of a [`place_key`].
pub(super) fn split_place(key: &[u8]) -> Option<(u64, u64)> {
    let (session, place) = split_number(key)?;
    Some((session, whole_number(place)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_of_the_longest_names_are_short_enough() {
        let name = "n".repeat(MAX_NAME_BYTES.into());
        for key in [Key::from(name.as_str()), filter_key(u64::MAX, &name)] {
            for table in Table::ALL {
                let aside = damaged_key(table, &key);
                assert!(u16::try_from(aside.len()).is_ok(), "{} bytes", aside.len());
            }
        }
    }
}
