//! The small types every packet shares.

use std::fmt;
use std::num::NonZeroU16;

use super::ReasonCode;

/// A protocol version; the value is its Protocol Level byte.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// MQTT 3.1 (`MQIsdp`).
    V31 = 3,
    /// MQTT 3.1.1.
    V311 = 4,
    /// MQTT 5.0.
    V5 = 5,
}

impl Version {
    /// Whether packets carry properties and reason codes.
    #[inline]
    #[must_use]
    pub const fn is_v5(self) -> bool {
        matches!(self, Self::V5)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V31 => "3.1",
            Self::V311 => "3.1.1",
            Self::V5 => "5.0",
        })
    }
}

/// Quality of Service.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QoS {
    /// QoS 0.
    #[default]
    AtMostOnce = 0,
    /// QoS 1.
    AtLeastOnce = 1,
    /// QoS 2.
    ExactlyOnce = 2,
}

impl QoS {
    /// The value on the wire, 0 to 2.
    #[inline]
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// The QoS of a value on the wire; `None` above 2.
    #[inline]
    #[must_use]
    pub const fn from_u8(value: u8) -> Option<Self> {
        match value {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

impl TryFrom<u8> for QoS {
    type Error = DecodeError;

    fn try_from(value: u8) -> Result<Self, DecodeError> {
        Self::from_u8(value).ok_or(DecodeError::malformed("QoS 3"))
    }
}

/// A Packet Identifier; never zero [MQTT-2.2.1-3].
pub type PacketId = NonZeroU16;

/// A packet's type; the value is the high half of its first byte.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum PacketType {
    Connect = 1,
    ConnAck = 2,
    Publish = 3,
    PubAck = 4,
    PubRec = 5,
    PubRel = 6,
    PubComp = 7,
    Subscribe = 8,
    SubAck = 9,
    Unsubscribe = 10,
    UnsubAck = 11,
    PingReq = 12,
    PingResp = 13,
    Disconnect = 14,
    Auth = 15,
}

impl PacketType {
    /// The type a first byte names; `None` for the reserved type 0.
    #[inline]
    #[must_use]
    pub const fn from_first_byte(first_byte: u8) -> Option<Self> {
        Some(match first_byte >> 4 {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }
}

/// One of the four acknowledgements of a PUBLISH; the value is its first byte.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum AckKind {
    PubAck = 0x40,
    PubRec = 0x50,
    PubRel = 0x62,
    PubComp = 0x70,
}

/// Why bytes were refused: the reason code a 5.0 peer is told, and words for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// What a 5.0 peer is told.
    pub reason: ReasonCode,
    /// What exactly was wrong.
    pub detail: &'static str,
}

impl DecodeError {
    /// An error with any reason code.
    #[must_use]
    pub const fn new(reason: ReasonCode, detail: &'static str) -> Self {
        Self { reason, detail }
    }

    /// The bytes cannot be parsed: 0x81.
    #[must_use]
    pub const fn malformed(detail: &'static str) -> Self {
        Self::new(ReasonCode::MalformedPacket, detail)
    }

    /// They parse to something the protocol forbids: 0x82.
    #[must_use]
    pub const fn protocol(detail: &'static str) -> Self {
        Self::new(ReasonCode::ProtocolError, detail)
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02X}): {}", self.reason, self.reason.as_u8(), self.detail)
    }
}

impl std::error::Error for DecodeError {}

/// Why a CONNECT was refused, and in which version's form to answer, where that was readable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectError {
    /// The version to answer in. `None`: not MQTT as far as can be told; close without a word.
    pub version: Option<Version>,
    /// What was wrong.
    pub error: DecodeError,
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for ConnectError {}

/// What one packet may contain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Longest packet, fixed header included, in bytes; beyond it 0x95.
    pub max_packet_size: u32,
    /// Longest topic name or filter in bytes; beyond it 0x90 or 0x8F.
    pub max_topic_bytes: u16,
    /// Most levels in a topic name or filter; beyond it 0x90 or 0x8F.
    pub max_topic_levels: u16,
    /// Most User Properties in one property block; beyond it 0x97.
    pub max_user_properties: u16,
    /// Most filters in a SUBSCRIBE or UNSUBSCRIBE; beyond it 0x97.
    pub max_filters_per_packet: u16,
    /// Longest client identifier in bytes; beyond it 0x85.
    pub max_client_id_bytes: u16,
}

impl Limits {
    /// Everything the wire format itself can carry.
    pub const NONE: Self = Self {
        max_packet_size: u32::MAX,
        max_topic_bytes: u16::MAX,
        max_topic_levels: u16::MAX,
        max_user_properties: u16::MAX,
        max_filters_per_packet: u16::MAX,
        max_client_id_bytes: u16::MAX,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_packet_size: 1024 * 1024,
            max_topic_bytes: 4096,
            max_topic_levels: 128,
            max_user_properties: 128,
            max_filters_per_packet: 1024,
            max_client_id_bytes: 1024,
        }
    }
}
