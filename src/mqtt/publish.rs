//! PUBLISH, the packet that has to be fast.

use std::num::{NonZeroU16, NonZeroU32};

use super::frame::{Reader, put_varint, varint_len};
use super::property::{self, EXPIRY, TOPIC_ALIAS};
use super::{
    DecodeError, Limits, PacketId, Properties, PropertiesOf, Property, QoS, ReasonCode, Version,
};

/// A PUBLISH, borrowing the bytes it was decoded from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Publish<'a> {
    /// The DUP flag.
    pub dup: bool,
    /// The QoS.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// The Topic Name. [`decode_publish`] does not check it: hold it against
    /// [`topic::check_name`](super::topic::check_name) unless it is known. Empty only with an alias.
    pub topic: &'a [u8],
    /// The Packet Identifier; present exactly if the QoS is above 0.
    pub packet_id: Option<PacketId>,
    /// The properties; none in 3.x.
    pub properties: PublishProperties<'a>,
    /// The Application Message.
    pub payload: &'a [u8],
}

/// The checked properties of a PUBLISH.
#[derive(Clone, Copy, Debug, Default)]
pub struct PublishProperties<'a> {
    /// The whole block, without its length.
    pub raw: &'a [u8],
    /// 0 or 1: the payload is UTF-8. Not checked here.
    pub payload_format_indicator: Option<u8>,
    /// Seconds.
    pub message_expiry_interval: Option<u32>,
    /// The Topic Alias.
    pub topic_alias: Option<NonZeroU16>,
    /// Whether there are Subscription Identifiers: a Protocol Error if a client sends them
    /// [MQTT-3.3.4-6], which only the receiver can tell.
    pub subscription_identifiers: bool,
    /// From the first to the last forwardable property.
    forward: &'a [u8],
    /// Whether others stand between those.
    scattered: bool,
}

impl<'a> PublishProperties<'a> {
    /// Reads and checks a block without its length.
    pub fn parse(raw: &'a [u8], limits: &Limits) -> Result<Self, DecodeError> {
        let mut this = Self { raw, ..Self::default() };
        let (mut start, mut end, mut len) = (raw.len(), raw.len(), 0);
        property::check_block(raw, PropertiesOf::Publish, limits, |property, range| {
            match property {
                Property::MessageExpiryInterval(seconds) => {
                    this.message_expiry_interval = Some(seconds);
                    return;
                }
                Property::TopicAlias(alias) => {
                    this.topic_alias = Some(alias);
                    return;
                }
                Property::SubscriptionIdentifier(_) => {
                    this.subscription_identifiers = true;
                    return;
                }
                Property::PayloadFormatIndicator(value) => {
                    this.payload_format_indicator = Some(value);
                }
                _ => {}
            }
            start = start.min(range.start);
            end = range.end;
            len += range.len();
        })?;
        this.forward = raw.get(start..end).unwrap_or_default();
        this.scattered = this.forward.len() != len;
        Ok(this)
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = Property<'a>> + use<'a> {
        Properties::trusted(self.raw).iter()
    }

    /// Those a server passes on unaltered and in order: Payload Format Indicator, Content Type,
    /// Response Topic, Correlation Data and User Properties.
    #[must_use]
    pub fn forwardable(&self) -> Properties<'a> {
        Properties::forwardable(self.forward)
    }

    /// The forwardable ones as one slice; `scratch` is overwritten if it takes copying, because they do
    /// not stand together, as they nearly always do.
    #[inline]
    pub fn forwardable_in<'s>(&self, scratch: &'s mut Vec<u8>) -> &'s [u8]
    where
        'a: 's,
    {
        if !self.scattered {
            return self.forward;
        }
        scratch.clear();
        self.forwardable().write_to(scratch);
        scratch
    }

    /// The Subscription Identifiers, in order.
    pub fn identifiers(&self) -> impl Iterator<Item = NonZeroU32> + use<'a> {
        let raw: &[u8] = if self.subscription_identifiers { self.raw } else { &[] };
        Properties::trusted(raw).iter().filter_map(|property| match property {
            Property::SubscriptionIdentifier(id) => Some(id),
            _ => None,
        })
    }

    /// All but those that an encoder writes from their fields.
    pub(super) fn without_fields(&self) -> Properties<'a> {
        Properties::hiding(self.raw, EXPIRY | TOPIC_ALIAS)
    }
}

impl PartialEq for PublishProperties<'_> {
    /// The same properties; the order counts among those without a field of their own.
    fn eq(&self, other: &Self) -> bool {
        self.message_expiry_interval == other.message_expiry_interval
            && self.topic_alias == other.topic_alias
            && self.without_fields() == other.without_fields()
    }
}

impl Eq for PublishProperties<'_> {}

/// Decodes the body of a PUBLISH; all is checked but the topic's text (see [`Publish::topic`]).
///
/// Malformed: QoS 3 [MQTT-3.3.1-4], DUP with QoS 0 [MQTT-3.3.1-2] (3.1 does not forbid that).
/// Protocol Error: Packet Identifier 0, an empty topic without an alias, what [`Properties`] says.
#[inline]
pub fn decode_publish<'a>(
    version: Version,
    first_byte: u8,
    body: &'a [u8],
    limits: &Limits,
) -> Result<Publish<'a>, DecodeError> {
    let mut r = Reader::new(body);
    let dup = first_byte & 0x08 != 0;
    let topic = r.bytes()?;
    let (qos, packet_id) = match first_byte & 0x06 {
        0 if dup && version != Version::V31 => {
            return Err(DecodeError::malformed("DUP with QoS 0"));
        }
        0 => (QoS::AtMostOnce, None),
        0x02 => (QoS::AtLeastOnce, Some(r.packet_id()?)),
        0x04 => (QoS::ExactlyOnce, Some(r.packet_id()?)),
        _ => return Err(DecodeError::malformed("QoS 3")),
    };
    let mut properties = PublishProperties::default();
    if version.is_v5() {
        match r.rest.split_first() {
            Some((0, rest)) => r.rest = rest,
            _ => {
                properties = PublishProperties::parse(r.block()?, limits)?;
            }
        }
    }
    if topic.is_empty() && properties.topic_alias.is_none() {
        return Err(no_topic(version));
    }
    let retain = first_byte & 0x01 != 0;
    Ok(Publish { dup, qos, retain, topic, packet_id, properties, payload: r.rest })
}

#[cold]
fn no_topic(version: Version) -> DecodeError {
    let reason =
        if version.is_v5() { ReasonCode::ProtocolError } else { ReasonCode::TopicNameInvalid };
    DecodeError::new(reason, "empty topic name without an alias")
}

/// Whether the very bytes of this PUBLISH can be sent to a receiver of the same version (3.1 and
/// 3.1.1 being one) as QoS 0, RETAIN 0, DUP 0: no alias, no expiry, no Subscription Identifier.
#[inline]
#[must_use]
pub fn publish_wire_reusable(version: Version, publish: &Publish<'_>) -> bool {
    let plain = publish.qos == QoS::AtMostOnce && !publish.retain && !publish.dup;
    let properties = &publish.properties;
    // Nothing else was in the block if all of it can be forwarded.
    plain
        && (!version.is_v5() || properties.forward.len() == properties.raw.len())
        && !properties.scattered
}

/// A PUBLISH to be sent.
#[derive(Clone, Copy, Debug)]
pub struct PublishOut<'a> {
    /// The DUP flag.
    pub dup: bool,
    /// The QoS.
    pub qos: QoS,
    /// The RETAIN flag.
    pub retain: bool,
    /// The topic, checked already; empty with an alias that the peer knows.
    pub topic: &'a [u8],
    /// Required exactly if the QoS is above 0.
    pub packet_id: Option<PacketId>,
    /// The block of forwardable properties, without a length. Ignored in 3.x, as all properties are.
    pub properties: &'a [u8],
    /// Seconds left.
    pub message_expiry_interval: Option<u32>,
    /// The alias to use or to establish.
    pub topic_alias: Option<NonZeroU16>,
    /// The identifiers of all the subscriptions that matched; none is 0.
    pub subscription_identifiers: &'a [u32],
    /// The Application Message.
    pub payload: &'a [u8],
}

impl<'a> PublishOut<'a> {
    /// A PUBLISH of QoS 0 with nothing but topic and payload.
    #[must_use]
    pub const fn new(topic: &'a [u8], payload: &'a [u8]) -> Self {
        Self {
            dup: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic,
            packet_id: None,
            properties: &[],
            message_expiry_interval: None,
            topic_alias: None,
            subscription_identifiers: &[],
            payload,
        }
    }

    #[inline]
    fn first_byte(&self) -> u8 {
        0x30 | u8::from(self.dup) << 3 | self.qos.as_u8() << 1 | u8::from(self.retain)
    }

    /// Bytes of the property block, without its length.
    #[inline]
    fn properties_len(&self) -> usize {
        let expiry = if self.message_expiry_interval.is_some() { 5 } else { 0 };
        let alias = if self.topic_alias.is_some() { 3 } else { 0 };
        let ids = self.subscription_identifiers.iter().map(|&id| 1 + varint_len(id)).sum::<usize>();
        self.properties.len() + expiry + alias + ids
    }

    /// Bytes after the fixed header, and of the property block.
    #[inline]
    fn body_len(&self, version: Version) -> (usize, usize) {
        let id = if self.qos == QoS::AtMostOnce { 0 } else { 2 };
        let plain = 2 + self.topic.len() + id + self.payload.len();
        if !version.is_v5() {
            return (plain, 0);
        }
        let properties = self.properties_len();
        (plain + varint_len(properties as u32) + properties, properties)
    }
}

/// The length of the whole packet in bytes, to be held against the receiver's Maximum Packet Size.
#[inline]
#[must_use]
pub fn publish_len(version: Version, publish: &PublishOut<'_>) -> usize {
    let (body, _) = publish.body_len(version);
    1 + varint_len(body as u32) + body
}

/// Appends a whole PUBLISH.
#[inline]
pub fn encode_publish(version: Version, publish: &PublishOut<'_>, out: &mut Vec<u8>) {
    let (body, properties) = publish.body_len(version);
    out.reserve(5 + body);
    put_head(version, publish, body, properties, out);
    out.extend_from_slice(publish.payload);
}

/// Appends all of a PUBLISH but the payload, which its Remaining Length counts.
#[inline]
pub fn encode_publish_head(version: Version, publish: &PublishOut<'_>, out: &mut Vec<u8>) {
    let (body, properties) = publish.body_len(version);
    out.reserve(5 + body - publish.payload.len());
    put_head(version, publish, body, properties, out);
}

#[inline]
fn put_head(
    version: Version,
    publish: &PublishOut<'_>,
    body: usize,
    properties: usize,
    out: &mut Vec<u8>,
) {
    let [hi, lo] = (publish.topic.len() as u16).to_be_bytes();
    if body < 0x80 {
        out.extend_from_slice(&[publish.first_byte(), body as u8, hi, lo]);
    } else {
        out.push(publish.first_byte());
        put_varint(out, body as u32);
        out.extend_from_slice(&[hi, lo]);
    }
    out.extend_from_slice(publish.topic);
    if publish.qos != QoS::AtMostOnce {
        debug_assert!(publish.packet_id.is_some(), "QoS above 0 without a Packet Identifier");
        let id = publish.packet_id.map_or(0, PacketId::get);
        out.extend_from_slice(&id.to_be_bytes());
    }
    if !version.is_v5() {
        return;
    }
    if properties == 0 {
        return out.push(0);
    }
    put_varint(out, properties as u32);
    put_properties(publish, out);
}

fn put_properties(publish: &PublishOut<'_>, out: &mut Vec<u8>) {
    if let Some(seconds) = publish.message_expiry_interval {
        Property::MessageExpiryInterval(seconds).encode(out);
    }
    if let Some(alias) = publish.topic_alias {
        Property::TopicAlias(alias).encode(out);
    }
    out.extend_from_slice(publish.properties);
    for &id in publish.subscription_identifiers {
        out.push(0x0B);
        put_varint(out, id);
    }
}
