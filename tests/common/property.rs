//! Version 5 properties (section 2.2.2.2), in the order they stand on the wire.

use super::wire::{Cursor, field, variable};

/// One property: its identifier and a value of the data type that identifier has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Property {
    pub(crate) id: u8,
    pub(crate) value: Value,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Value {
    Byte(u8),
    TwoByte(u16),
    FourByte(u32),
    Variable(u32),
    Text(String),
    Binary(Vec<u8>),
    Pair(String, String),
}

pub(crate) const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
pub(crate) const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
pub(crate) const CONTENT_TYPE: u8 = 0x03;
pub(crate) const RESPONSE_TOPIC: u8 = 0x08;
pub(crate) const CORRELATION_DATA: u8 = 0x09;
pub(crate) const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
pub(crate) const SESSION_EXPIRY_INTERVAL: u8 = 0x11;
pub(crate) const ASSIGNED_CLIENT_IDENTIFIER: u8 = 0x12;
pub(crate) const SERVER_KEEP_ALIVE: u8 = 0x13;
pub(crate) const AUTHENTICATION_METHOD: u8 = 0x15;
pub(crate) const AUTHENTICATION_DATA: u8 = 0x16;
pub(crate) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
pub(crate) const WILL_DELAY_INTERVAL: u8 = 0x18;
pub(crate) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
pub(crate) const RESPONSE_INFORMATION: u8 = 0x1A;
pub(crate) const SERVER_REFERENCE: u8 = 0x1C;
pub(crate) const REASON_STRING: u8 = 0x1F;
pub(crate) const RECEIVE_MAXIMUM: u8 = 0x21;
pub(crate) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
pub(crate) const TOPIC_ALIAS: u8 = 0x23;
pub(crate) const MAXIMUM_QOS: u8 = 0x24;
pub(crate) const RETAIN_AVAILABLE: u8 = 0x25;
pub(crate) const USER_PROPERTY: u8 = 0x26;
pub(crate) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
pub(crate) const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
pub(crate) const SUBSCRIPTION_IDENTIFIERS_AVAILABLE: u8 = 0x29;
pub(crate) const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2A;

/// A property whose value is one byte.
pub(crate) fn byte(id: u8, value: u8) -> Property {
    Property { id, value: Value::Byte(value) }
}

/// A property whose value is a Two Byte Integer.
pub(crate) fn two(id: u8, value: u16) -> Property {
    Property { id, value: Value::TwoByte(value) }
}

/// A property whose value is a Four Byte Integer.
pub(crate) fn four(id: u8, value: u32) -> Property {
    Property { id, value: Value::FourByte(value) }
}

/// A property whose value is a UTF-8 Encoded String.
pub(crate) fn text(id: u8, value: &str) -> Property {
    Property { id, value: Value::Text(value.to_owned()) }
}

/// A property whose value is Binary Data.
pub(crate) fn binary(id: u8, value: &[u8]) -> Property {
    Property { id, value: Value::Binary(value.to_vec()) }
}

pub(crate) fn subscription_identifier(value: u32) -> Property {
    Property { id: SUBSCRIPTION_IDENTIFIER, value: Value::Variable(value) }
}

pub(crate) fn user(name: &str, value: &str) -> Property {
    Property { id: USER_PROPERTY, value: Value::Pair(name.to_owned(), value.to_owned()) }
}

pub(crate) fn session_expiry(seconds: u32) -> Property {
    four(SESSION_EXPIRY_INTERVAL, seconds)
}

pub(crate) fn message_expiry(seconds: u32) -> Property {
    four(MESSAGE_EXPIRY_INTERVAL, seconds)
}

pub(crate) fn receive_maximum(value: u16) -> Property {
    two(RECEIVE_MAXIMUM, value)
}

pub(crate) fn maximum_packet_size(value: u32) -> Property {
    four(MAXIMUM_PACKET_SIZE, value)
}

pub(crate) fn topic_alias(value: u16) -> Property {
    two(TOPIC_ALIAS, value)
}

pub(crate) fn topic_alias_maximum(value: u16) -> Property {
    two(TOPIC_ALIAS_MAXIMUM, value)
}

pub(crate) fn will_delay(seconds: u32) -> Property {
    four(WILL_DELAY_INTERVAL, seconds)
}

impl Property {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = vec![self.id];
        match &self.value {
            Value::Byte(value) => out.push(*value),
            Value::TwoByte(value) => out.extend(value.to_be_bytes()),
            Value::FourByte(value) => out.extend(value.to_be_bytes()),
            Value::Variable(value) => out.extend(variable(*value)),
            Value::Text(value) => out.extend(field(value)),
            Value::Binary(value) => out.extend(field(value)),
            Value::Pair(name, value) => {
                out.extend(field(name));
                out.extend(field(value));
            }
        }
        out
    }

    fn read(cursor: &mut Cursor<'_>) -> Self {
        let id = cursor.variable() as u8;
        let value = match id {
            0x01 | 0x17 | 0x19 | 0x24 | 0x25 | 0x28..=0x2A => Value::Byte(cursor.u8()),
            0x13 | 0x21 | 0x22 | 0x23 => Value::TwoByte(cursor.u16()),
            0x02 | 0x11 | 0x18 | 0x27 => Value::FourByte(cursor.u32()),
            0x0B => Value::Variable(cursor.variable()),
            0x03 | 0x08 | 0x12 | 0x15 | 0x1A | 0x1C | 0x1F => Value::Text(cursor.text()),
            0x09 | 0x16 => Value::Binary(cursor.bytes().to_vec()),
            0x26 => {
                let name = cursor.text();
                Value::Pair(name, cursor.text())
            }
            _ => panic!("the broker sent a property {id:#04x}, which does not exist"),
        };
        Self { id, value }
    }
}

/// Length and properties, as every packet of version 5 holds them.
pub(crate) fn block(properties: &[Property]) -> Vec<u8> {
    let raw: Vec<u8> = properties.iter().flat_map(Property::bytes).collect();
    let mut out = variable(raw.len() as u32);
    out.extend(raw);
    out
}

/// The properties of a packet the broker sent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Properties(pub(crate) Vec<Property>);

impl Properties {
    /// Reads a block and holds it against what a server may put in this packet.
    pub(crate) fn read(cursor: &mut Cursor<'_>, allowed: &[u8]) -> Self {
        let length = cursor.variable() as usize;
        let mut inner = Cursor::new(cursor.take(length), "properties");
        let mut list: Vec<Property> = Vec::new();
        while !inner.is_empty() {
            let property = Property::read(&mut inner);
            let id = property.id;
            assert!(allowed.contains(&id), "property {id:#04x} does not belong into this packet");
            let repeatable = id == USER_PROPERTY || id == SUBSCRIPTION_IDENTIFIER;
            assert!(
                repeatable || list.iter().all(|other| other.id != id),
                "property {id:#04x} sent twice"
            );
            list.push(property);
        }
        Self(list)
    }

    pub(crate) fn find(&self, id: u8) -> Option<&Value> {
        self.0.iter().find(|property| property.id == id).map(|property| &property.value)
    }

    pub(crate) fn has(&self, id: u8) -> bool {
        self.find(id).is_some()
    }

    /// An integer property, of whatever width.
    pub(crate) fn number(&self, id: u8) -> Option<u32> {
        self.find(id).map(|value| match value {
            Value::Byte(value) => u32::from(*value),
            Value::TwoByte(value) => u32::from(*value),
            Value::FourByte(value) | Value::Variable(value) => *value,
            other => panic!("property {id:#04x} is no number: {other:?}"),
        })
    }

    pub(crate) fn text(&self, id: u8) -> Option<&str> {
        self.find(id).map(|value| match value {
            Value::Text(value) => value.as_str(),
            other => panic!("property {id:#04x} is no text: {other:?}"),
        })
    }

    pub(crate) fn binary(&self, id: u8) -> Option<&[u8]> {
        self.find(id).map(|value| match value {
            Value::Binary(value) => value.as_slice(),
            other => panic!("property {id:#04x} is no binary data: {other:?}"),
        })
    }

    /// Every Subscription Identifier, sorted: their order has no meaning [MQTT-3.3.4-4].
    pub(crate) fn subscription_identifiers(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self
            .0
            .iter()
            .filter_map(|property| match property.value {
                Value::Variable(value) => Some(value),
                _ => None,
            })
            .collect();
        all.sort_unstable();
        all
    }

    /// Every User Property, in order.
    pub(crate) fn user(&self) -> Vec<(&str, &str)> {
        self.0
            .iter()
            .filter_map(|property| match &property.value {
                Value::Pair(name, value) => Some((name.as_str(), value.as_str())),
                _ => None,
            })
            .collect()
    }
}
