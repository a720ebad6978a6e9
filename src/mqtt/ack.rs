//! PUBACK, PUBREC, PUBREL and PUBCOMP: as hot as PUBLISH, and far smaller.

use super::frame::Reader;
use super::{
    Ack, AckKind, DecodeError, Limits, PacketId, PacketType, Properties, PropertiesOf, ReasonCode,
    Version,
};

impl AckKind {
    /// The packet's type.
    #[must_use]
    pub const fn packet_type(self) -> PacketType {
        match self {
            Self::PubAck => PacketType::PubAck,
            Self::PubRec => PacketType::PubRec,
            Self::PubRel => PacketType::PubRel,
            Self::PubComp => PacketType::PubComp,
        }
    }
}

/// Decodes the body of an acknowledgement. `kind` says which reason codes are allowed.
///
/// Malformed: a wrong length, a misplaced property. Protocol Error: Packet Identifier 0, a reason
/// code that is not this packet's [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1].
#[inline]
pub fn decode_ack<'a>(
    version: Version,
    kind: AckKind,
    body: &'a [u8],
    limits: &Limits,
) -> Result<Ack<'a>, DecodeError> {
    if let &[hi, lo] = body
        && let Some(packet_id) = PacketId::new(u16::from_be_bytes([hi, lo]))
    {
        return Ok(Ack { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY });
    }
    long_ack(version, kind, body, limits)
}

fn long_ack<'a>(
    version: Version,
    kind: AckKind,
    body: &'a [u8],
    limits: &Limits,
) -> Result<Ack<'a>, DecodeError> {
    let mut r = Reader::new(body);
    let packet_id = r.packet_id()?;
    if !version.is_v5() {
        r.end()?;
        return Ok(Ack { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY });
    }
    // With a Remaining Length below 4 there is no Property Length [3.4.2.2.1].
    let reason = reason_code(r.u8()?, kind.packet_type())?;
    let properties = if r.rest.is_empty() {
        Properties::EMPTY
    } else {
        Properties::parse(r.block()?, PropertiesOf::Ack, limits)?
    };
    r.end()?;
    Ok(Ack { packet_id, reason, properties })
}

/// A reason code that `packet` may carry; any other is a Protocol Error.
pub(super) fn reason_code(value: u8, packet: PacketType) -> Result<ReasonCode, DecodeError> {
    ReasonCode::from_u8(value)
        .filter(|reason| reason.allowed_in(packet))
        .ok_or(DecodeError::protocol("reason code not allowed in this packet"))
}

/// Appends an acknowledgement without properties: 4 bytes, 5 with a reason in 5.0.
#[inline]
pub fn encode_ack(
    version: Version,
    kind: AckKind,
    packet_id: PacketId,
    reason: ReasonCode,
    out: &mut Vec<u8>,
) {
    let [hi, lo] = packet_id.get().to_be_bytes();
    if reason == ReasonCode::Success || !version.is_v5() {
        out.extend_from_slice(&[kind as u8, 2, hi, lo]);
    } else {
        out.extend_from_slice(&[kind as u8, 3, hi, lo, reason.as_u8()]);
    }
}
