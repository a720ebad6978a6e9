//! The control packets, borrowing what they were decoded from.
//!
//! In each, `properties` holds what has no field of its own: the User Properties, and in the
//! acknowledgements the Reason String too.

use std::num::{NonZeroU16, NonZeroU32};

use super::frame::{Reader, put_bytes};
use super::{PacketId, Properties, Publish, QoS, ReasonCode, Version};

/// Any control packet, sent by either side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, clippy::large_enum_variant)]
pub enum Packet<'a> {
    Connect(Connect<'a>),
    ConnAck(ConnAck<'a>),
    Publish(Publish<'a>),
    PubAck(Ack<'a>),
    PubRec(Ack<'a>),
    PubRel(Ack<'a>),
    PubComp(Ack<'a>),
    Subscribe(Subscribe<'a>),
    SubAck(SubAck<'a>),
    Unsubscribe(Unsubscribe<'a>),
    UnsubAck(UnsubAck<'a>),
    PingReq,
    PingResp,
    Disconnect(Disconnect<'a>),
    Auth(Auth<'a>),
}

/// CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version, from protocol name and level.
    pub version: Version,
    /// A 3.x level with the highest bit set: a bridge, as Mosquitto's are.
    pub bridge: bool,
    /// Clean Start; Clean Session in 3.x.
    pub clean_start: bool,
    /// Seconds; 0 is off.
    pub keep_alive: u16,
    /// The Client Identifier; may be empty in 5.0, and in 3.1.1 with a clean session.
    pub client_id: &'a str,
    /// The Will.
    pub will: Option<Will<'a>>,
    /// The User Name.
    pub username: Option<&'a str>,
    /// The Password.
    pub password: Option<&'a [u8]>,
    /// The properties; the defaults in 3.x.
    pub properties: ConnectProperties<'a>,
}

/// The properties of CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectProperties<'a> {
    /// Seconds; `u32::MAX` is never, absent is 0.
    pub session_expiry_interval: Option<u32>,
    /// Absent is 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// Bytes; absent is no limit.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Absent is 0.
    pub topic_alias_maximum: u16,
    /// Absent is false.
    pub request_response_information: bool,
    /// Absent is true.
    pub request_problem_information: bool,
    /// The Authentication Method.
    pub authentication_method: Option<&'a str>,
    /// The Authentication Data; never without a method.
    pub authentication_data: Option<&'a [u8]>,
    /// The User Properties.
    pub properties: Properties<'a>,
}

impl Default for ConnectProperties<'_> {
    fn default() -> Self {
        Self {
            session_expiry_interval: None,
            receive_maximum: None,
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            request_response_information: false,
            request_problem_information: true,
            authentication_method: None,
            authentication_data: None,
            properties: Properties::EMPTY,
        }
    }
}

/// The Will in a CONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Will<'a> {
    /// The Will QoS.
    pub qos: QoS,
    /// The Will Retain flag.
    pub retain: bool,
    /// The Will Topic, a well-formed topic name.
    pub topic: &'a str,
    /// The Will Payload.
    pub payload: &'a [u8],
    /// Seconds; absent is 0.
    pub delay_interval: u32,
    /// Seconds.
    pub message_expiry_interval: Option<u32>,
    /// 0 or 1: the payload is UTF-8. Also in `properties`.
    pub payload_format_indicator: Option<u8>,
    /// Those that go out with the will message: [`Properties::write_to`] gives the block.
    pub properties: Properties<'a>,
}

/// CONNACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// Session Present.
    pub session_present: bool,
    /// The Connect Reason Code; in 3.x its return code is sent.
    pub reason: ReasonCode,
    /// Seconds, if not what the client asked for.
    pub session_expiry_interval: Option<u32>,
    /// Absent is 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// QoS 0 or 1; absent is 2.
    pub maximum_qos: Option<QoS>,
    /// Absent is true.
    pub retain_available: Option<bool>,
    /// Bytes; absent is no limit.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// The id of a client that sent none.
    pub assigned_client_identifier: Option<&'a str>,
    /// Absent is 0.
    pub topic_alias_maximum: Option<u16>,
    /// Left out if it does not fit.
    pub reason_string: Option<&'a str>,
    /// Absent is true.
    pub wildcard_subscription_available: Option<bool>,
    /// Absent is true.
    pub subscription_identifiers_available: Option<bool>,
    /// Absent is true.
    pub shared_subscription_available: Option<bool>,
    /// Seconds; the client's own does not count then.
    pub server_keep_alive: Option<u16>,
    /// What to build response topics of.
    pub response_information: Option<&'a str>,
    /// Another server to use.
    pub server_reference: Option<&'a str>,
    /// The Authentication Method.
    pub authentication_method: Option<&'a str>,
    /// The Authentication Data.
    pub authentication_data: Option<&'a [u8]>,
    /// The User Properties; left out if they do not fit.
    pub properties: Properties<'a>,
}

impl ConnAck<'_> {
    /// A CONNACK without properties.
    #[must_use]
    pub const fn new(session_present: bool, reason: ReasonCode) -> Self {
        Self {
            session_present,
            reason,
            session_expiry_interval: None,
            receive_maximum: None,
            maximum_qos: None,
            retain_available: None,
            maximum_packet_size: None,
            assigned_client_identifier: None,
            topic_alias_maximum: None,
            reason_string: None,
            wildcard_subscription_available: None,
            subscription_identifiers_available: None,
            shared_subscription_available: None,
            server_keep_alive: None,
            response_information: None,
            server_reference: None,
            authentication_method: None,
            authentication_data: None,
            properties: Properties::EMPTY,
        }
    }
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack<'a> {
    /// Of the PUBLISH.
    pub packet_id: PacketId,
    /// Always Success in 3.x.
    pub reason: ReasonCode,
    /// Reason String and User Properties; left out where they do not fit.
    pub properties: Properties<'a>,
}

/// SUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// The Packet Identifier.
    pub packet_id: PacketId,
    /// For every subscription in the packet.
    pub subscription_identifier: Option<NonZeroU32>,
    /// At least one.
    pub filters: SubscribeFilters<'a>,
    /// The User Properties.
    pub properties: Properties<'a>,
}

/// Which retained messages a subscription brings.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum RetainHandling {
    /// All.
    #[default]
    Send = 0,
    /// All, if the subscription is new.
    SendIfNew = 1,
    /// None.
    DoNotSend = 2,
}

/// One Topic Filter of a SUBSCRIBE and its options. In 3.x all but the QoS have their defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscribeFilter<'a> {
    /// UTF-8 without U+0000; its syntax is still to be checked by
    /// [`topic::Filter::parse`](super::topic::Filter::parse).
    pub filter: &'a str,
    /// The maximum QoS.
    pub qos: QoS,
    /// No Local; never with `$share/`.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Retain Handling.
    pub retain_handling: RetainHandling,
}

impl<'a> SubscribeFilter<'a> {
    /// A filter with the default options.
    #[must_use]
    pub const fn new(filter: &'a str, qos: QoS) -> Self {
        let retain_handling = RetainHandling::Send;
        Self { filter, qos, no_local: false, retain_as_published: false, retain_handling }
    }

    /// Appends its wire form; 3.x has only the QoS.
    pub fn encode(&self, version: Version, out: &mut Vec<u8>) {
        put_bytes(out, self.filter.as_bytes());
        let mut options = self.qos.as_u8();
        if version.is_v5() {
            options |= u8::from(self.no_local) << 2
                | u8::from(self.retain_as_published) << 3
                | (self.retain_handling as u8) << 4;
        }
        out.push(options);
    }

    pub(super) fn from_options(filter: &'a str, options: u8) -> Option<Self> {
        let retain_handling = match options >> 4 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return None,
        };
        Some(Self {
            filter,
            qos: QoS::from_u8(options & 0x03)?,
            no_local: options & 0x04 != 0,
            retain_as_published: options & 0x08 != 0,
            retain_handling,
        })
    }
}

/// The payload of a SUBSCRIBE, checked: filters and their options, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeFilters<'a> {
    pub(super) raw: &'a [u8],
}

impl<'a> SubscribeFilters<'a> {
    /// Wraps what [`SubscribeFilter::encode`] wrote.
    #[must_use]
    pub const fn trusted(raw: &'a [u8]) -> Self {
        Self { raw }
    }

    /// The filters, in order.
    pub fn iter(&self) -> impl Iterator<Item = SubscribeFilter<'a>> + use<'a> {
        let mut r = Reader::new(self.raw);
        std::iter::from_fn(move || {
            let filter = r.text().ok()?;
            SubscribeFilter::from_options(filter, r.u8().ok()?)
        })
    }
}

/// SUBACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// Of the SUBSCRIBE.
    pub packet_id: PacketId,
    /// One reason code a filter, as 5.0 has them. 3.1.1 is sent 0x80 for every failure; 3.1, which
    /// has no failure, is told QoS 0.
    pub reasons: &'a [u8],
    /// Reason String and User Properties; left out where they do not fit.
    pub properties: Properties<'a>,
}

/// UNSUBSCRIBE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// The Packet Identifier.
    pub packet_id: PacketId,
    /// At least one.
    pub filters: UnsubscribeFilters<'a>,
    /// The User Properties.
    pub properties: Properties<'a>,
}

/// The payload of an UNSUBSCRIBE, checked: filters, in order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnsubscribeFilters<'a> {
    pub(super) raw: &'a [u8],
}

impl<'a> UnsubscribeFilters<'a> {
    /// Wraps what [`encode`](Self::encode) wrote.
    #[must_use]
    pub const fn trusted(raw: &'a [u8]) -> Self {
        Self { raw }
    }

    /// Appends one filter's wire form.
    pub fn encode(filter: &str, out: &mut Vec<u8>) {
        put_bytes(out, filter.as_bytes());
    }

    /// The filters, in order; their syntax is still to be checked.
    pub fn iter(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut r = Reader::new(self.raw);
        std::iter::from_fn(move || r.text().ok())
    }
}

/// UNSUBACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnsubAck<'a> {
    /// Of the UNSUBSCRIBE.
    pub packet_id: PacketId,
    /// One reason code a filter; none in 3.x.
    pub reasons: &'a [u8],
    /// Reason String and User Properties; left out where they do not fit.
    pub properties: Properties<'a>,
}

/// DISCONNECT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Always Success (normal disconnection) in 3.x.
    pub reason: ReasonCode,
    /// Seconds; only a client may send it.
    pub session_expiry_interval: Option<u32>,
    /// Left out if it does not fit.
    pub reason_string: Option<&'a str>,
    /// Another server to use.
    pub server_reference: Option<&'a str>,
    /// The User Properties; left out if they do not fit.
    pub properties: Properties<'a>,
}

impl Disconnect<'_> {
    /// A DISCONNECT without properties.
    #[must_use]
    pub const fn new(reason: ReasonCode) -> Self {
        Self {
            reason,
            session_expiry_interval: None,
            reason_string: None,
            server_reference: None,
            properties: Properties::EMPTY,
        }
    }
}

/// AUTH.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Auth<'a> {
    /// Success, Continue authentication or Re-authenticate.
    pub reason: ReasonCode,
    /// The Authentication Method; absent only from the AUTH of no bytes, which means Success.
    pub method: Option<&'a str>,
    /// The Authentication Data.
    pub data: Option<&'a [u8]>,
    /// Left out if it does not fit.
    pub reason_string: Option<&'a str>,
    /// The User Properties; left out if they do not fit.
    pub properties: Properties<'a>,
}
