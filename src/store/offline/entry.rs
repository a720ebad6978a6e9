//! One record, decoded by itself.

use crate::hooks::{Key, Table, Write};
use crate::mqtt::{Message, PacketId};
use crate::session::{SessionRecord, SubscriptionRecord};
use crate::store::record::{
    Decoder, Encoder, Epoch, Epochs, QueuedFields, RELEASED, SENT, filter_key, inbound_key,
    place_key, split_number, split_place, whole_number,
};

/// Against this one a `Time` is the time of day, in milliseconds since 1970.
const SINCE_1970: Epoch = Epoch { unix_ms: 0 };

/// A record that is whole.
#[derive(Debug)]
pub(super) enum Entry {
    Session(Box<SessionRecord>),
    Subscription(u64, SubscriptionRecord),
    Inbound(u64, PacketId),
    Queued { session: u64, place: u64, fields: QueuedFields },
    InFlight { session: u64, place: u64, packet_id: PacketId },
    Released { session: u64, place: u64, packet_id: PacketId, order: u64 },
    Message(u64, Message),
    Retained { stamp: (u64, u8), message: Message },
}

impl Entry {
    /// `None`: it is damaged. What stands in [`Table::Damaged`] always is.
    pub(super) fn read(table: Table, key: &[u8], value: &[u8]) -> Option<Self> {
        if table == Table::Damaged {
            return None;
        }
        let epochs = Epochs::from(SINCE_1970);
        let mut value = Decoder::open(table, key, value, &epochs)?;
        let text = |key| std::str::from_utf8(key).ok();
        Some(match table {
            Table::Sessions => Self::Session(Box::new(value.session(text(key)?)?)),
            Table::Subscriptions => {
                let (session, filter) = split_number(key)?;
                Self::Subscription(session, value.subscription(text(filter)?)?)
            }
            Table::Inbound => {
                let (session, id) = split_number(key)?;
                Self::Inbound(session, PacketId::new(u16::from_be_bytes(id.try_into().ok()?))?)
            }
            Table::Queued => {
                let (session, place) = split_place(key)?;
                Self::Queued { session, place, fields: value.queued()? }
            }
            Table::Flights => {
                let (session, place) = split_place(key)?;
                let (state, packet_id) = (value.u8()?, value.packet_id()??);
                match state {
                    SENT => Self::InFlight { session, place, packet_id },
                    RELEASED => {
                        Self::Released { session, place, packet_id, order: value.number()? }
                    }
                    _ => return None,
                }
            }
            Table::Messages => Self::Message(whole_number(key)?, value.message()?),
            Table::Retained => {
                let stamp = (value.number()?, value.u8()?);
                let message = value.message()?;
                if message.topic_bytes() != key {
                    return None;
                }
                Self::Retained { stamp, message }
            }
            Table::Damaged => return None,
        })
    }

    pub(super) fn write(&self) -> Write {
        let mut value = Encoder::new(&SINCE_1970.into());
        let (table, key) = match self {
            Self::Session(record) => {
                value.session(record);
                (Table::Sessions, Key::from(&*record.client_id))
            }
            Self::Subscription(session, record) => {
                value.subscription(record);
                (Table::Subscriptions, filter_key(*session, &record.filter))
            }
            Self::Inbound(session, packet_id) => {
                (Table::Inbound, inbound_key(*session, *packet_id))
            }
            Self::Queued { session, place, fields } => {
                value.queued(fields);
                (Table::Queued, place_key(*session, *place))
            }
            Self::InFlight { session, place, packet_id } => {
                value.in_flight(*packet_id);
                (Table::Flights, place_key(*session, *place))
            }
            Self::Released { session, place, packet_id, order } => {
                value.released(*packet_id, *order);
                (Table::Flights, place_key(*session, *place))
            }
            Self::Message(number, message) => {
                value.message(message);
                (Table::Messages, number.to_be_bytes().into())
            }
            Self::Retained { stamp, message } => {
                value.retained(*stamp, message);
                (Table::Retained, message.topic_bytes().into())
            }
        };
        let value = Some(value.seal(table, &key));
        Write { table, key, value, fresh: false }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::{Commit, Store};
    use crate::mqtt::QoS;
    use crate::store::record::sealed;
    use crate::store::{Memory, PROGRESS_RECORDS, recover};
    use crate::timer::Time;

    /// One of each kind.
    fn entries() -> [Entry; 8] {
        let (packet_id, qos) = (PacketId::MIN, QoS::AtLeastOnce);
        let message = Message::new("t", qos, true, b"text", b"", None, Time(0));
        let record = SessionRecord {
            client_id: "c".into(),
            session: 1,
            session_expiry_interval: u32::MAX,
            disconnected_at: None,
            will: None,
            will_at: None,
            identity: None,
        };
        let subscription = SubscriptionRecord {
            filter: "t".into(),
            qos,
            no_local: false,
            retain_as_published: false,
            identifier: 0,
            retained_after: None,
        };
        let fields = QueuedFields {
            message: 1,
            qos,
            retain: false,
            packet_id: None,
            came_by: None,
            expires_at: None,
        };
        [
            Entry::Session(Box::new(record)),
            Entry::Subscription(1, subscription),
            Entry::Inbound(1, packet_id),
            Entry::Queued { session: 1, place: 1, fields },
            Entry::InFlight { session: 1, place: 1, packet_id },
            Entry::Released { session: 1, place: 2, packet_id, order: 1 },
            Entry::Message(1, message.clone()),
            Entry::Retained { stamp: (1, 0), message },
        ]
    }

    /// How many records a start finds damaged.
    fn damaged(writes: &[Write]) -> u64 {
        let mut memory = Memory::default();
        memory.commit(writes, Commit::Disk).expect("memory");
        let open = Box::new(move || Ok(Box::new(memory.clone()) as Box<dyn Store>));
        let opened = recover(open, Commit::Disk, Epoch::default(), 1, PROGRESS_RECORDS);
        opened.expect("whole").0.report.damaged
    }

    /// [MQTT-4.7.1-1] Nobody takes in a dump that has it as a subscription.
    #[test]
    fn what_is_no_filter_is_damaged() {
        let mut entries = entries();
        let [_, Entry::Subscription(_, record), ..] = &mut entries else { unreachable!() };
        record.filter = "#/t".into();
        let writes = entries.map(|entry| entry.write());
        let Write { table, key, value, .. } = &writes[1];
        assert!(Entry::read(*table, key, value.as_deref().expect("a record")).is_none());
        assert_eq!(damaged(&writes), 1);
    }

    /// What `check` calls damaged, a start sets aside, and nothing else: here, records of which a byte follows
    /// behind the key.
    #[test]
    fn a_start_finds_the_same_records_damaged() {
        let writes = entries().map(|entry| entry.write());
        assert_eq!(damaged(&writes), 0);
        let mut found = Vec::new();
        for (at, Write { table, key, value, .. }) in writes.iter().enumerate() {
            let mut writes = writes.clone();
            let (key, value) = ([key, &b"x"[..]].concat(), value.as_deref().expect("a record"));
            let value = sealed(*table, &key, &value[..value.len() - 4]);
            let is_damaged = Entry::read(*table, &key, &value).is_none();
            writes[at] = Write { key: key.into(), value: Some(value), ..writes[at].clone() };
            assert_eq!(damaged(&writes), u64::from(is_damaged), "{table:?}");
            found.extend(is_damaged.then_some(*table));
        }
        use Table::{Flights, Inbound, Messages, Queued, Retained};
        assert_eq!(found, [Inbound, Queued, Flights, Flights, Messages, Retained]);
    }
}
