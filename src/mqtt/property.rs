//! The properties of 5.0: one by one, and as the checked block they travel in.

use std::num::{NonZeroU16, NonZeroU32};
use std::ops::Range;

use super::frame::{Reader, put_bytes, put_varint};
use super::{DecodeError, Limits, QoS, ReasonCode, topic};

/// One property, named as in the specification, borrowing its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Property<'a> {
    /// 0 or 1: the payload is UTF-8.
    PayloadFormatIndicator(u8),
    /// Seconds.
    MessageExpiryInterval(u32),
    ContentType(&'a str),
    /// A well-formed topic name.
    ResponseTopic(&'a str),
    CorrelationData(&'a [u8]),
    SubscriptionIdentifier(NonZeroU32),
    /// Seconds; `u32::MAX` is never.
    SessionExpiryInterval(u32),
    AssignedClientIdentifier(&'a str),
    /// Seconds.
    ServerKeepAlive(u16),
    AuthenticationMethod(&'a str),
    AuthenticationData(&'a [u8]),
    RequestProblemInformation(bool),
    /// Seconds.
    WillDelayInterval(u32),
    RequestResponseInformation(bool),
    ResponseInformation(&'a str),
    ServerReference(&'a str),
    ReasonString(&'a str),
    ReceiveMaximum(NonZeroU16),
    TopicAliasMaximum(u16),
    TopicAlias(NonZeroU16),
    /// QoS 0 or 1.
    MaximumQoS(QoS),
    RetainAvailable(bool),
    UserProperty(&'a str, &'a str),
    /// Bytes.
    MaximumPacketSize(NonZeroU32),
    WildcardSubscriptionAvailable(bool),
    SubscriptionIdentifierAvailable(bool),
    SharedSubscriptionAvailable(bool),
}

/// A set of property identifiers, one bit each.
const fn set(ids: &[u8]) -> u64 {
    let mut bits = 0;
    let mut index = 0;
    while index < ids.len() {
        bits |= 1 << ids[index];
        index += 1;
    }
    bits
}

pub(super) const EXPIRY: u64 = set(&[0x02]);
pub(super) const TOPIC_ALIAS: u64 = set(&[0x23]);
pub(super) const SUBSCRIPTION_ID: u64 = set(&[0x0B]);
pub(super) const WILL_DELAY: u64 = set(&[0x18]);
pub(super) const USER: u64 = set(&[0x26]);
/// What a server passes on unaltered [MQTT-3.3.2-4] [MQTT-3.3.2-15] to [MQTT-3.3.2-20].
const FORWARDABLE: u64 = set(&[0x01, 0x03, 0x08, 0x09, 0x26]);

/// Where a block of properties stands, which says what may be in it (table 2-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum PropertiesOf {
    Connect,
    /// The will's own, in the payload of CONNECT.
    Will,
    ConnAck,
    Publish,
    /// PUBACK, PUBREC, PUBREL and PUBCOMP.
    Ack,
    Subscribe,
    SubAck,
    Unsubscribe,
    UnsubAck,
    Disconnect,
    Auth,
}

impl PropertiesOf {
    /// The identifiers allowed.
    const fn allowed(self) -> u64 {
        match self {
            Self::Connect => set(&[0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27]),
            Self::Will => FORWARDABLE | EXPIRY | WILL_DELAY,
            Self::ConnAck => set(&[
                0x11, 0x12, 0x13, 0x15, 0x16, 0x1A, 0x1C, 0x1F, 0x21, 0x22, 0x24, 0x25, 0x26, 0x27,
                0x28, 0x29, 0x2A,
            ]),
            Self::Publish => FORWARDABLE | EXPIRY | TOPIC_ALIAS | SUBSCRIPTION_ID,
            Self::Ack | Self::SubAck | Self::UnsubAck => set(&[0x1F, 0x26]),
            Self::Subscribe => SUBSCRIPTION_ID | USER,
            Self::Unsubscribe => USER,
            Self::Disconnect => set(&[0x11, 0x1C, 0x1F, 0x26]),
            Self::Auth => set(&[0x15, 0x16, 0x1F, 0x26]),
        }
    }

    /// The identifiers that may come more than once.
    const fn repeatable(self) -> u64 {
        match self {
            // One for each subscription that matched [MQTT-3.3.4-4]; SUBSCRIBE takes only one.
            Self::Publish => USER | SUBSCRIPTION_ID,
            _ => USER,
        }
    }
}

fn flag(r: &mut Reader<'_>) -> Result<bool, DecodeError> {
    match r.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(DecodeError::protocol("property that must be 0 or 1 is neither")),
    }
}

fn non_zero_u16(r: &mut Reader<'_>) -> Result<NonZeroU16, DecodeError> {
    NonZeroU16::new(r.u16()?).ok_or(DecodeError::protocol("Receive Maximum 0"))
}

fn non_zero_u32(value: u32, detail: &'static str) -> Result<NonZeroU32, DecodeError> {
    NonZeroU32::new(value).ok_or(DecodeError::protocol(detail))
}

fn response_topic<'a>(r: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    let name = r.text()?;
    if name.is_empty() || topic::has_wildcard(name) {
        return Err(DecodeError::protocol("Response Topic is not a topic name"));
    }
    Ok(name)
}

fn topic_alias(r: &mut Reader<'_>) -> Result<NonZeroU16, DecodeError> {
    let error = DecodeError::new(ReasonCode::TopicAliasInvalid, "Topic Alias 0");
    NonZeroU16::new(r.u16()?).ok_or(error)
}

fn maximum_qos(r: &mut Reader<'_>) -> Result<QoS, DecodeError> {
    Ok(if flag(r)? { QoS::AtLeastOnce } else { QoS::AtMostOnce })
}

impl<'a> Property<'a> {
    /// The property's identifier.
    #[must_use]
    pub const fn id(&self) -> u8 {
        match self {
            Self::PayloadFormatIndicator(_) => 0x01,
            Self::MessageExpiryInterval(_) => 0x02,
            Self::ContentType(_) => 0x03,
            Self::ResponseTopic(_) => 0x08,
            Self::CorrelationData(_) => 0x09,
            Self::SubscriptionIdentifier(_) => 0x0B,
            Self::SessionExpiryInterval(_) => 0x11,
            Self::AssignedClientIdentifier(_) => 0x12,
            Self::ServerKeepAlive(_) => 0x13,
            Self::AuthenticationMethod(_) => 0x15,
            Self::AuthenticationData(_) => 0x16,
            Self::RequestProblemInformation(_) => 0x17,
            Self::WillDelayInterval(_) => 0x18,
            Self::RequestResponseInformation(_) => 0x19,
            Self::ResponseInformation(_) => 0x1A,
            Self::ServerReference(_) => 0x1C,
            Self::ReasonString(_) => 0x1F,
            Self::ReceiveMaximum(_) => 0x21,
            Self::TopicAliasMaximum(_) => 0x22,
            Self::TopicAlias(_) => 0x23,
            Self::MaximumQoS(_) => 0x24,
            Self::RetainAvailable(_) => 0x25,
            Self::UserProperty(..) => 0x26,
            Self::MaximumPacketSize(_) => 0x27,
            Self::WildcardSubscriptionAvailable(_) => 0x28,
            Self::SubscriptionIdentifierAvailable(_) => 0x29,
            Self::SharedSubscriptionAvailable(_) => 0x2A,
        }
    }

    /// Appends the property, identifier first. Text and data of more than 65,535 bytes are cut.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.id());
        match *self {
            Self::PayloadFormatIndicator(value) => out.push(value),
            Self::MaximumQoS(value) => out.push(value.as_u8()),
            Self::RequestProblemInformation(value)
            | Self::RequestResponseInformation(value)
            | Self::RetainAvailable(value)
            | Self::WildcardSubscriptionAvailable(value)
            | Self::SubscriptionIdentifierAvailable(value)
            | Self::SharedSubscriptionAvailable(value) => out.push(u8::from(value)),
            Self::ServerKeepAlive(value) | Self::TopicAliasMaximum(value) => {
                out.extend_from_slice(&value.to_be_bytes());
            }
            Self::ReceiveMaximum(value) | Self::TopicAlias(value) => {
                out.extend_from_slice(&value.get().to_be_bytes());
            }
            Self::MessageExpiryInterval(value)
            | Self::SessionExpiryInterval(value)
            | Self::WillDelayInterval(value) => out.extend_from_slice(&value.to_be_bytes()),
            Self::MaximumPacketSize(value) => out.extend_from_slice(&value.get().to_be_bytes()),
            Self::SubscriptionIdentifier(value) => put_varint(out, value.get()),
            Self::CorrelationData(value) | Self::AuthenticationData(value) => put_bytes(out, value),
            Self::ContentType(value)
            | Self::ResponseTopic(value)
            | Self::AssignedClientIdentifier(value)
            | Self::AuthenticationMethod(value)
            | Self::ResponseInformation(value)
            | Self::ServerReference(value)
            | Self::ReasonString(value) => put_bytes(out, value.as_bytes()),
            Self::UserProperty(name, value) => {
                put_bytes(out, name.as_bytes());
                put_bytes(out, value.as_bytes());
            }
        }
    }

    /// Reads one property; an identifier the specification does not know is malformed [2.2.2.2].
    fn read(r: &mut Reader<'a>) -> Result<Self, DecodeError> {
        // Identifiers are Variable Byte Integers, all of one byte so far.
        Ok(match r.u8()? {
            0x01 => Self::PayloadFormatIndicator(u8::from(flag(r)?)),
            0x02 => Self::MessageExpiryInterval(r.u32()?),
            0x03 => Self::ContentType(r.text()?),
            0x08 => Self::ResponseTopic(response_topic(r)?),
            0x09 => Self::CorrelationData(r.bytes()?),
            0x0B => Self::SubscriptionIdentifier(non_zero_u32(
                r.varint()?,
                "Subscription Identifier 0",
            )?),
            0x11 => Self::SessionExpiryInterval(r.u32()?),
            0x12 => Self::AssignedClientIdentifier(r.text()?),
            0x13 => Self::ServerKeepAlive(r.u16()?),
            0x15 => Self::AuthenticationMethod(r.text()?),
            0x16 => Self::AuthenticationData(r.bytes()?),
            0x17 => Self::RequestProblemInformation(flag(r)?),
            0x18 => Self::WillDelayInterval(r.u32()?),
            0x19 => Self::RequestResponseInformation(flag(r)?),
            0x1A => Self::ResponseInformation(r.text()?),
            0x1C => Self::ServerReference(r.text()?),
            0x1F => Self::ReasonString(r.text()?),
            0x21 => Self::ReceiveMaximum(non_zero_u16(r)?),
            0x22 => Self::TopicAliasMaximum(r.u16()?),
            0x23 => Self::TopicAlias(topic_alias(r)?),
            0x24 => Self::MaximumQoS(maximum_qos(r)?),
            0x25 => Self::RetainAvailable(flag(r)?),
            0x26 => Self::UserProperty(r.text()?, r.text()?),
            0x27 => Self::MaximumPacketSize(non_zero_u32(r.u32()?, "Maximum Packet Size 0")?),
            0x28 => Self::WildcardSubscriptionAvailable(flag(r)?),
            0x29 => Self::SubscriptionIdentifierAvailable(flag(r)?),
            0x2A => Self::SharedSubscriptionAvailable(flag(r)?),
            _ => return Err(DecodeError::malformed("unknown property")),
        })
    }
}

/// Checks a block, handing each property and where it stands in the block to `each`.
///
/// Malformed (0x81): a property unknown, or not allowed here. Protocol Error (0x82): one repeated
/// that may not be, or of a forbidden value. 0x97: too many User Properties.
pub(super) fn check_block<'a>(
    raw: &'a [u8],
    of: PropertiesOf,
    limits: &Limits,
    mut each: impl FnMut(Property<'a>, Range<usize>),
) -> Result<(), DecodeError> {
    let mut r = Reader::new(raw);
    let mut seen = 0u64;
    let mut user_properties = 0u16;
    while let Some(&id) = r.rest.first() {
        let start = raw.len() - r.rest.len();
        let bit = 1u64.checked_shl(u32::from(id)).unwrap_or(0);
        if bit & of.allowed() == 0 {
            return Err(DecodeError::malformed("property unknown or not allowed in this packet"));
        }
        if bit & seen & !of.repeatable() != 0 {
            return Err(DecodeError::protocol("property repeated"));
        }
        seen |= bit;
        if bit == USER {
            if user_properties >= limits.max_user_properties {
                let detail = "too many User Properties (limits.max_user_properties)";
                return Err(DecodeError::new(ReasonCode::QuotaExceeded, detail));
            }
            user_properties += 1;
        }
        let property = Property::read(&mut r)?;
        each(property, start..raw.len() - r.rest.len());
    }
    Ok(())
}

/// Properties in their wire form, checked: those of a packet that have no field of their own.
///
/// Two are equal if they hold the same properties in the same order.
#[derive(Clone, Copy, Debug, Default)]
pub struct Properties<'a> {
    raw: &'a [u8],
    /// Identifiers that stand in `raw` but are left out: they have fields.
    hidden: u64,
}

impl<'a> Properties<'a> {
    /// No properties.
    pub const EMPTY: Self = Self { raw: &[], hidden: 0 };

    /// Checks a block (without its length) and wraps it.
    pub fn parse(raw: &'a [u8], of: PropertiesOf, limits: &Limits) -> Result<Self, DecodeError> {
        check_block(raw, of, limits, |_, _| {})?;
        Ok(Self { raw, hidden: 0 })
    }

    /// Wraps a block that [`Property::encode`] wrote.
    #[must_use]
    pub const fn trusted(raw: &'a [u8]) -> Self {
        Self { raw, hidden: 0 }
    }

    /// The same without the properties whose bits are set.
    pub(super) const fn hiding(raw: &'a [u8], hidden: u64) -> Self {
        Self { raw, hidden }
    }

    /// Those that a server passes on with a message.
    pub(super) const fn forwardable(raw: &'a [u8]) -> Self {
        Self { raw, hidden: !FORWARDABLE }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.raw.is_empty() || self.iter().next().is_none()
    }

    /// The properties, in order.
    pub fn iter(&self) -> impl Iterator<Item = Property<'a>> + use<'a> {
        let mut r = Reader::new(self.raw);
        let hidden = self.hidden;
        std::iter::from_fn(move || {
            loop {
                let property = Property::read(&mut r).ok()?;
                if hidden >> property.id() & 1 == 0 {
                    return Some(property);
                }
            }
        })
    }

    /// The bytes of each property, in order.
    pub fn spans(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut r = Reader::new(self.raw);
        let hidden = self.hidden;
        std::iter::from_fn(move || {
            loop {
                let before = r.rest;
                let property = Property::read(&mut r).ok()?;
                if hidden >> property.id() & 1 == 0 {
                    return before.get(..before.len() - r.rest.len());
                }
            }
        })
    }

    /// Appends the properties' bytes, without a length.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        if self.hidden == 0 {
            return out.extend_from_slice(self.raw);
        }
        self.spans().for_each(|span| out.extend_from_slice(span));
    }

    /// The User Properties, in order.
    pub fn user_properties(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        self.iter().filter_map(|property| match property {
            Property::UserProperty(name, value) => Some((name, value)),
            _ => None,
        })
    }

    /// The Reason String, if there is one.
    #[must_use]
    pub fn reason_string(&self) -> Option<&'a str> {
        self.iter().find_map(|property| match property {
            Property::ReasonString(text) => Some(text),
            _ => None,
        })
    }
}

impl PartialEq for Properties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Properties<'_> {}
