//! One record, decoded by itself.

use crate::hooks::{Table, Write};
use crate::mqtt::{Message, PacketId};
use crate::session::{SessionRecord, SubscriptionRecord};
use crate::store::record::{
    Decoder, Encoder, Epoch, Epochs, QueuedFields, RELEASED, SENT, filter_key, inbound_key,
    place_key, split_number,
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
                let (session, place) = place_of(key)?;
                Self::Queued { session, place, fields: value.queued()? }
            }
            Table::Flights => {
                let (session, place) = place_of(key)?;
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
                (Table::Sessions, record.client_id.as_bytes().to_vec())
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
                (Table::Messages, number.to_be_bytes().to_vec())
            }
            Self::Retained { stamp, message } => {
                value.retained(*stamp, message);
                (Table::Retained, message.topic_bytes().to_vec())
            }
        };
        let value = Some(value.seal(table, &key));
        Write { table, key, value, fresh: false }
    }
}

fn whole_number(key: &[u8]) -> Option<u64> {
    split_number(key).filter(|(_, rest)| rest.is_empty()).map(|(number, _)| number)
}

fn place_of(key: &[u8]) -> Option<(u64, u64)> {
    let (session, rest) = split_number(key)?;
    Some((session, whole_number(rest)?))
}
