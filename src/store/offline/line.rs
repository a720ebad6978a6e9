//! Records as lines of JSON. What they look like is promised to people: see the README.

use std::net::SocketAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::entry::Entry;
use super::when::When;
use crate::hooks::{Table, Write};
use crate::mqtt::topic::{Filter, check_name};
use crate::mqtt::{
    Limits, MAX_REMAINING_LENGTH, Message, PacketId, Properties, PropertiesOf, Property, QoS,
};
use crate::session::{CameBy, IdentityRecord, SessionRecord, SubscriptionRecord, Will};
use crate::store::record::{NUMBERS, QueuedFields, damaged_key};

/// The version of the lines that are written, and the only one that is read.
pub(super) const VERSION: u32 = 1;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Line {
    /// The first line.
    Dump {
        version: u32,
    },
    Session(Box<Session>),
    Subscription(Subscription),
    Inbound {
        session: u64,
        packet_identifier: u16,
    },
    Queued(Queued),
    InFlight {
        session: u64,
        place: u64,
        packet_identifier: u16,
    },
    Released {
        session: u64,
        place: u64,
        packet_identifier: u16,
        order: u64,
    },
    Message {
        number: u64,
        message: Body,
    },
    Retained {
        stamp: u64,
        shard: u8,
        message: Body,
    },
    /// As it was found, or set aside.
    Damaged {
        /// In base64: the table's name, a slash, the key there.
        key: String,
        /// In base64.
        value: String,
    },
    /// The last line: what is cut off has none.
    End,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Session {
    client_id: String,
    pub(super) number: u64,
    session_expiry_interval: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    disconnected_at: Option<When>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    will: Option<WillLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    will_at: Option<When>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    identity: Option<Identity>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Subscription {
    session: u64,
    filter: String,
    qos: u8,
    #[serde(default, skip_serializing_if = "is_default")]
    no_local: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    retain_as_published: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    subscription_identifier: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    retained_after: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Queued {
    session: u64,
    place: u64,
    /// Its number.
    message: u64,
    qos: u8,
    #[serde(default, skip_serializing_if = "is_default")]
    retain: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    packet_identifier: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    share: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    subscription_identifiers: Vec<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<When>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct WillLine {
    delay_interval: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    message_expiry_interval: Option<u32>,
    message: Body,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Identity {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    /// The name in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    certificate: Option<String>,
    peer: SocketAddr,
    protocol_version: u8,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Body {
    topic: String,
    qos: u8,
    #[serde(default, skip_serializing_if = "is_default")]
    retain: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires_at: Option<When>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    properties: Vec<PropertyLine>,
    /// If it is UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload: Option<String>,
    /// If it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
}

/// One that is passed on with a message.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum PropertyLine {
    PayloadFormatIndicator(u8),
    ContentType(String),
    ResponseTopic(String),
    /// In base64.
    CorrelationData(String),
    UserProperty(String, String),
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

impl Line {
    /// A record as it stands in its table.
    pub(super) fn of(table: Table, key: &[u8], value: &[u8]) -> Self {
        let line = Entry::read(table, key, value).and_then(Self::entry);
        line.unwrap_or_else(|| Self::damaged(&damaged_key(table, key), value))
    }

    pub(super) fn damaged(key: &[u8], value: &[u8]) -> Self {
        Self::Damaged { key: STANDARD.encode(key), value: STANDARD.encode(value) }
    }

    fn entry(entry: Entry) -> Option<Self> {
        Some(match entry {
            Entry::Session(record) => Self::Session(Box::new(session_line(*record)?)),
            Entry::Subscription(session, record) => {
                Self::Subscription(subscription_line(session, record))
            }
            Entry::Inbound(session, id) => Self::Inbound { session, packet_identifier: id.get() },
            Entry::Queued { session, place, fields } => {
                Self::Queued(queued_line(session, place, fields))
            }
            Entry::InFlight { session, place, packet_id } => {
                Self::InFlight { session, place, packet_identifier: packet_id.get() }
            }
            Entry::Released { session, place, packet_id, order } => {
                Self::Released { session, place, packet_identifier: packet_id.get(), order }
            }
            Entry::Message(number, message) => Self::Message { number, message: body(&message)? },
            Entry::Retained { stamp: (stamp, shard), message } => {
                Self::Retained { stamp, shard, message: body(&message)? }
            }
        })
    }

    /// The record to store; what is wrong with it otherwise. There is none for the first and the last line.
    pub(super) fn write(self) -> Result<Option<Write>, String> {
        let entry = match self {
            Self::Dump { .. } | Self::End => return Ok(None),
            Self::Damaged { key, value } => {
                let (key, value) = (decode("key", &key)?, Some(decode("value", &value)?));
                return Ok(Some(Write {
                    table: Table::Damaged,
                    key: key.into(),
                    value,
                    fresh: false,
                }));
            }
            Self::Session(session) => Entry::Session(Box::new(session_record(*session)?)),
            Self::Subscription(line) => subscription_entry(line)?,
            Self::Inbound { session, packet_identifier } => {
                Entry::Inbound(take_number("session", session)?, take_id(packet_identifier)?)
            }
            Self::Queued(line) => queued_entry(line)?,
            Self::InFlight { session, place, packet_identifier } => {
                let (session, place) = take_place(session, place)?;
                Entry::InFlight { session, place, packet_id: take_id(packet_identifier)? }
            }
            Self::Released { session, place, packet_identifier, order } => {
                let (session, place) = take_place(session, place)?;
                let (packet_id, order) =
                    (take_id(packet_identifier)?, take_number("order", order)?);
                Entry::Released { session, place, packet_id, order }
            }
            Self::Message { number, message } => {
                Entry::Message(take_number("number", number)?, take_body(message)?)
            }
            Self::Retained { stamp, shard, message } => {
                let stamp = (take_number("stamp", stamp)?, shard);
                Entry::Retained { stamp, message: take_body(message)? }
            }
        };
        Ok(Some(entry.write()))
    }
}

fn session_line(record: SessionRecord) -> Option<Session> {
    let will = match record.will {
        None => None,
        Some(will) => Some(WillLine {
            delay_interval: will.delay_interval,
            message_expiry_interval: will.message_expiry_interval,
            message: body(&will.message)?,
        }),
    };
    let identity = record.identity.map(|identity| Identity {
        user: identity.user.map(String::from),
        certificate: identity.certificate.map(String::from),
        peer: identity.peer,
        protocol_version: identity.protocol_version,
    });
    Some(Session {
        client_id: record.client_id.into(),
        number: record.session,
        session_expiry_interval: record.session_expiry_interval,
        disconnected_at: record.disconnected_at.map(When::from),
        will,
        will_at: record.will_at.map(When::from),
        identity,
    })
}

fn session_record(session: Session) -> Result<SessionRecord, String> {
    let will = match session.will {
        None => None,
        Some(will) => Some(Will {
            message: take_body(will.message)?,
            message_expiry_interval: will.message_expiry_interval,
            delay_interval: will.delay_interval,
        }),
    };
    let identity = session.identity.map(|identity| IdentityRecord {
        user: identity.user.map(String::into_boxed_str),
        certificate: identity.certificate.map(String::into_boxed_str),
        peer: identity.peer,
        protocol_version: identity.protocol_version,
    });
    Ok(SessionRecord {
        client_id: session.client_id.into(),
        session: take_number("number", session.number)?,
        session_expiry_interval: session.session_expiry_interval,
        disconnected_at: session.disconnected_at.map(When::into),
        will,
        will_at: session.will_at.map(When::into),
        identity,
    })
}

fn subscription_line(session: u64, record: SubscriptionRecord) -> Subscription {
    Subscription {
        session,
        filter: record.filter.into(),
        qos: record.qos.as_u8(),
        no_local: record.no_local,
        retain_as_published: record.retain_as_published,
        subscription_identifier: record.identifier,
        retained_after: record.retained_after.map(String::from),
    }
}

fn subscription_entry(line: Subscription) -> Result<Entry, String> {
    let record = SubscriptionRecord {
        filter: take_filter(line.filter)?,
        qos: take_qos(line.qos)?,
        no_local: line.no_local,
        retain_as_published: line.retain_as_published,
        identifier: take_identifier(line.subscription_identifier)?,
        retained_after: line.retained_after.map(String::into_boxed_str),
    };
    Ok(Entry::Subscription(take_number("session", line.session)?, record))
}

fn queued_line(session: u64, place: u64, fields: QueuedFields) -> Queued {
    Queued {
        session,
        place,
        message: fields.message,
        qos: fields.qos.as_u8(),
        retain: fields.retain,
        packet_identifier: fields.packet_id.map(PacketId::get),
        share: fields.share().map(str::to_owned),
        subscription_identifiers: fields.identifiers().to_vec(),
        expires_at: fields.expires_at.map(When::from),
    }
}

fn queued_entry(line: Queued) -> Result<Entry, String> {
    let identifiers = line.subscription_identifiers.into_iter().map(take_identifier);
    let identifiers = identifiers.collect::<Result<Vec<_>, _>>()?;
    let fields = QueuedFields {
        message: take_number("message", line.message)?,
        qos: take_qos(line.qos)?,
        retain: line.retain,
        packet_id: line.packet_identifier.map(take_id).transpose()?,
        came_by: CameBy::new(&identifiers, None, line.share.as_deref()),
        expires_at: line.expires_at.map(When::into),
    };
    let (session, place) = take_place(line.session, line.place)?;
    Ok(Entry::Queued { session, place, fields })
}

/// `None`: its properties are not what they should be.
fn body(message: &Message) -> Option<Body> {
    let block =
        Properties::parse(message.properties(), PropertiesOf::Publish, &Limits::NONE).ok()?;
    let properties = block.iter().map(property_line).collect::<Option<_>>()?;
    let (payload, payload_base64) = match std::str::from_utf8(message.payload()) {
        Ok("") => (None, None),
        Ok(text) => (Some(text.to_owned()), None),
        Err(_) => (None, Some(STANDARD.encode(message.payload()))),
    };
    Some(Body {
        topic: message.topic().to_owned(),
        qos: message.qos().as_u8(),
        retain: message.retain(),
        expires_at: message.expires_at().map(When::from),
        properties,
        payload,
        payload_base64,
    })
}

fn take_body(body: Body) -> Result<Message, String> {
    let Body { topic, qos, retain, expires_at, properties, payload, payload_base64 } = body;
    check_name(topic.as_bytes(), &Limits::NONE)
        .map_err(|error| format!("topic {topic:?}: {error}"))?;
    let mut block = Vec::new();
    for property in &properties {
        take_property(property, &mut block)?;
    }
    Properties::parse(&block, PropertiesOf::Publish, &Limits::NONE)
        .map_err(|error| format!("properties: {error}"))?;
    let payload = match (payload, payload_base64) {
        (Some(_), Some(_)) => return Err("payload and payload_base64: one of them".to_owned()),
        (Some(text), None) => text.into_bytes(),
        (None, Some(base64)) => decode("payload_base64", &base64)?,
        (None, None) => Vec::new(),
    };
    let len = topic.len() + block.len() + payload.len();
    if len > MAX_REMAINING_LENGTH as usize {
        return Err(format!("a message of {len} bytes, which no packet has room for"));
    }
    let expires_at = expires_at.map(When::into);
    Ok(Message::restore(&topic, take_qos(qos)?, retain, &payload, &block, expires_at))
}

fn property_line(property: Property<'_>) -> Option<PropertyLine> {
    Some(match property {
        Property::PayloadFormatIndicator(value) => PropertyLine::PayloadFormatIndicator(value),
        Property::ContentType(text) => PropertyLine::ContentType(text.to_owned()),
        Property::ResponseTopic(text) => PropertyLine::ResponseTopic(text.to_owned()),
        Property::CorrelationData(data) => PropertyLine::CorrelationData(STANDARD.encode(data)),
        Property::UserProperty(name, value) => {
            PropertyLine::UserProperty(name.to_owned(), value.to_owned())
        }
        _ => return None,
    })
}

fn take_property(property: &PropertyLine, block: &mut Vec<u8>) -> Result<(), String> {
    let data;
    let property = match property {
        PropertyLine::PayloadFormatIndicator(value) => Property::PayloadFormatIndicator(*value),
        PropertyLine::ContentType(text) => Property::ContentType(text),
        PropertyLine::ResponseTopic(text) => Property::ResponseTopic(text),
        PropertyLine::CorrelationData(base64) => {
            data = decode("correlation_data", base64)?;
            Property::CorrelationData(&data)
        }
        PropertyLine::UserProperty(name, value) => Property::UserProperty(name, value),
    };
    let longest = match property {
        Property::ContentType(text) | Property::ResponseTopic(text) => text.len(),
        Property::CorrelationData(data) => data.len(),
        Property::UserProperty(name, value) => name.len().max(value.len()),
        _ => 0,
    };
    if longest > usize::from(u16::MAX) {
        return Err(format!("properties: {longest} bytes in one, at most 65535"));
    }
    property.encode(block);
    Ok(())
}

fn take_qos(qos: u8) -> Result<QoS, String> {
    QoS::from_u8(qos).ok_or_else(|| format!("qos {qos}: 0, 1 or 2"))
}

fn take_filter(filter: String) -> Result<Box<str>, String> {
    match Filter::parse(&filter, &Limits::NONE) {
        Ok(_) => Ok(filter.into()),
        Err(error) => Err(format!("filter {filter:?}: {error}")),
    }
}

/// One that is called `name` in the line.
fn take_number(name: &str, number: u64) -> Result<u64, String> {
    match NUMBERS.contains(&number) {
        true => Ok(number),
        false => Err(format!("{name} {number}: from {} to {}", NUMBERS.start(), NUMBERS.end())),
    }
}

fn take_place(session: u64, place: u64) -> Result<(u64, u64), String> {
    Ok((take_number("session", session)?, take_number("place", place)?))
}

/// What a Variable Byte Integer has room for.
fn take_identifier(identifier: u32) -> Result<u32, String> {
    match identifier <= MAX_REMAINING_LENGTH {
        true => Ok(identifier),
        false => {
            Err(format!("subscription_identifier {identifier}: at most {MAX_REMAINING_LENGTH}"))
        }
    }
}

fn take_id(id: u16) -> Result<PacketId, String> {
    PacketId::new(id).ok_or_else(|| "packet_identifier 0: from 1 on".to_owned())
}

fn decode(name: &str, base64: &str) -> Result<Vec<u8>, String> {
    STANDARD.decode(base64).map_err(|error| format!("{name}: {error}"))
}
