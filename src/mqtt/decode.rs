//! Decoding any packet, of either direction.

use std::num::NonZeroU32;

use super::ack::reason_code;
use super::frame::{Reader, check_flags};
use super::property::{self, USER};
use super::{
    AckKind, Auth, ConnAck, ConnectError, DecodeError, Disconnect, Limits, Packet, PacketType,
    Properties, PropertiesOf, Property, QoS, ReasonCode, SubAck, Subscribe, SubscribeFilter,
    SubscribeFilters, UnsubAck, Unsubscribe, UnsubscribeFilters, Version, decode_ack,
    decode_connect, decode_publish, topic,
};

/// Decodes the body of any packet and checks it whole, the topic of a PUBLISH included.
///
/// `version` is the connection's; a CONNECT says its own.
pub fn decode<'a>(
    version: Version,
    first_byte: u8,
    body: &'a [u8],
    limits: &Limits,
) -> Result<Packet<'a>, DecodeError> {
    check_flags(version, first_byte)?;
    let ack = |kind| decode_ack(version, kind, body, limits);
    Ok(match PacketType::from_first_byte(first_byte) {
        Some(PacketType::Connect) => Packet::Connect(
            decode_connect(body, limits).map_err(|ConnectError { error, .. }| error)?,
        ),
        Some(PacketType::ConnAck) => Packet::ConnAck(connack(version, body, limits)?),
        Some(PacketType::Publish) => {
            let publish = decode_publish(version, first_byte, body, limits)?;
            if !publish.topic.is_empty() {
                topic::check_name(publish.topic, limits)?;
            }
            Packet::Publish(publish)
        }
        Some(PacketType::PubAck) => Packet::PubAck(ack(AckKind::PubAck)?),
        Some(PacketType::PubRec) => Packet::PubRec(ack(AckKind::PubRec)?),
        Some(PacketType::PubRel) => Packet::PubRel(ack(AckKind::PubRel)?),
        Some(PacketType::PubComp) => Packet::PubComp(ack(AckKind::PubComp)?),
        Some(PacketType::Subscribe) => Packet::Subscribe(subscribe(version, body, limits)?),
        Some(PacketType::SubAck) => Packet::SubAck(suback(version, body, limits)?),
        Some(PacketType::Unsubscribe) => Packet::Unsubscribe(unsubscribe(version, body, limits)?),
        Some(PacketType::UnsubAck) => Packet::UnsubAck(unsuback(version, body, limits)?),
        Some(PacketType::PingReq) => Reader::new(body).end().map(|()| Packet::PingReq)?,
        Some(PacketType::PingResp) => Reader::new(body).end().map(|()| Packet::PingResp)?,
        Some(PacketType::Disconnect) => Packet::Disconnect(disconnect(version, body, limits)?),
        Some(PacketType::Auth) => Packet::Auth(auth(version, body, limits)?),
        None => return Err(DecodeError::malformed("reserved packet type")),
    })
}

/// A property block with its length in 5.0; nothing at all in 3.x.
fn block<'a>(
    r: &mut Reader<'a>,
    version: Version,
    of: PropertiesOf,
    limits: &Limits,
) -> Result<Properties<'a>, DecodeError> {
    if !version.is_v5() {
        return Ok(Properties::EMPTY);
    }
    Properties::parse(r.block()?, of, limits)
}

fn connack<'a>(
    version: Version,
    body: &'a [u8],
    limits: &Limits,
) -> Result<ConnAck<'a>, DecodeError> {
    let mut r = Reader::new(body);
    let flags = r.u8()?;
    let code = r.u8()?;
    if version != Version::V31 && flags > 1 {
        return Err(DecodeError::malformed("reserved CONNACK flags [MQTT-3.2.2-1]"));
    }
    let reason = if version.is_v5() {
        reason_code(code, PacketType::ConnAck)?
    } else {
        ReasonCode::from_connack_v3(code)
            .ok_or(DecodeError::protocol("reserved CONNACK return code"))?
    };
    // The byte is reserved in 3.1.
    let session_present = version != Version::V31 && flags == 1;
    if session_present && reason != ReasonCode::Success {
        return Err(DecodeError::protocol("session present in a refusal [MQTT-3.2.2-6]"));
    }
    let mut this = ConnAck::new(session_present, reason);
    if version.is_v5() {
        connack_properties(&mut this, r.block()?, limits)?;
    }
    r.end()?;
    Ok(this)
}

fn connack_properties<'a>(
    this: &mut ConnAck<'a>,
    raw: &'a [u8],
    limits: &Limits,
) -> Result<(), DecodeError> {
    property::check_block(raw, PropertiesOf::ConnAck, limits, |property, _| match property {
        Property::SessionExpiryInterval(value) => this.session_expiry_interval = Some(value),
        Property::ReceiveMaximum(value) => this.receive_maximum = Some(value),
        Property::MaximumQoS(value) => this.maximum_qos = Some(value),
        Property::RetainAvailable(value) => this.retain_available = Some(value),
        Property::MaximumPacketSize(value) => this.maximum_packet_size = Some(value),
        Property::AssignedClientIdentifier(value) => this.assigned_client_identifier = Some(value),
        Property::TopicAliasMaximum(value) => this.topic_alias_maximum = Some(value),
        Property::ReasonString(value) => this.reason_string = Some(value),
        Property::WildcardSubscriptionAvailable(value) => {
            this.wildcard_subscription_available = Some(value);
        }
        Property::SubscriptionIdentifierAvailable(value) => {
            this.subscription_identifiers_available = Some(value);
        }
        Property::SharedSubscriptionAvailable(value) => {
            this.shared_subscription_available = Some(value);
        }
        Property::ServerKeepAlive(value) => this.server_keep_alive = Some(value),
        Property::ResponseInformation(value) => this.response_information = Some(value),
        Property::ServerReference(value) => this.server_reference = Some(value),
        Property::AuthenticationMethod(value) => this.authentication_method = Some(value),
        Property::AuthenticationData(value) => this.authentication_data = Some(value),
        _ => {}
    })?;
    this.properties = Properties::hiding(raw, !USER);
    Ok(())
}

fn subscribe<'a>(
    version: Version,
    body: &'a [u8],
    limits: &Limits,
) -> Result<Subscribe<'a>, DecodeError> {
    let mut r = Reader::new(body);
    let packet_id = r.packet_id()?;
    let mut subscription_identifier: Option<NonZeroU32> = None;
    let raw = if version.is_v5() { r.block()? } else { &[] };
    property::check_block(raw, PropertiesOf::Subscribe, limits, |property, _| {
        if let Property::SubscriptionIdentifier(id) = property {
            subscription_identifier = Some(id);
        }
    })?;
    let filters = SubscribeFilters::trusted(r.rest);
    let mut count = 0;
    while !r.rest.is_empty() {
        count_filter(&mut count, limits)?;
        let filter = r.text()?;
        check_options(version, filter, r.u8()?)?;
    }
    check_some(count, "SUBSCRIBE without a filter [MQTT-3.8.3-2]")?;
    let properties = Properties::hiding(raw, !USER);
    Ok(Subscribe { packet_id, subscription_identifier, filters, properties })
}

fn check_options(version: Version, filter: &str, options: u8) -> Result<(), DecodeError> {
    let reserved = if version.is_v5() { 0xC0 } else { 0xFC };
    if options & reserved != 0 {
        return Err(DecodeError::malformed("reserved Subscription Options [MQTT-3.8.3-5]"));
    }
    if QoS::from_u8(options & 0x03).is_none() {
        return Err(if version.is_v5() {
            DecodeError::protocol("Maximum QoS 3")
        } else {
            DecodeError::malformed("requested QoS 3")
        });
    }
    match SubscribeFilter::from_options(filter, options) {
        None => Err(DecodeError::protocol("Retain Handling 3")),
        Some(SubscribeFilter { no_local: true, .. }) if filter.starts_with("$share/") => {
            Err(DecodeError::protocol("No Local on a Shared Subscription [MQTT-3.8.3-4]"))
        }
        Some(_) => Ok(()),
    }
}

fn count_filter(count: &mut u16, limits: &Limits) -> Result<(), DecodeError> {
    if *count >= limits.max_filters_per_packet {
        let detail = "too many filters in one packet (limits.max_filters_per_packet)";
        return Err(DecodeError::new(ReasonCode::QuotaExceeded, detail));
    }
    *count += 1;
    Ok(())
}

fn check_some(count: u16, detail: &'static str) -> Result<(), DecodeError> {
    if count == 0 { Err(DecodeError::protocol(detail)) } else { Ok(()) }
}

fn suback<'a>(
    version: Version,
    body: &'a [u8],
    limits: &Limits,
) -> Result<SubAck<'a>, DecodeError> {
    let mut r = Reader::new(body);
    let packet_id = r.packet_id()?;
    let properties = block(&mut r, version, PropertiesOf::SubAck, limits)?;
    let reasons = r.rest;
    for &reason in reasons {
        match (version, reason) {
            (Version::V5, _) => drop(reason_code(reason, PacketType::SubAck)?),
            (_, 0..=2) | (Version::V311, 0x80) => {}
            _ => return Err(DecodeError::protocol("reserved SUBACK return code [MQTT-3.9.3-2]")),
        }
    }
    if reasons.is_empty() {
        return Err(DecodeError::protocol("SUBACK without a reason code"));
    }
    Ok(SubAck { packet_id, reasons, properties })
}

fn unsubscribe<'a>(
    version: Version,
    body: &'a [u8],
    limits: &Limits,
) -> Result<Unsubscribe<'a>, DecodeError> {
    let mut r = Reader::new(body);
    let packet_id = r.packet_id()?;
    let properties = block(&mut r, version, PropertiesOf::Unsubscribe, limits)?;
    let filters = UnsubscribeFilters::trusted(r.rest);
    let mut count = 0;
    while !r.rest.is_empty() {
        count_filter(&mut count, limits)?;
        r.text()?;
    }
    check_some(count, "UNSUBSCRIBE without a filter [MQTT-3.10.3-2]")?;
    Ok(Unsubscribe { packet_id, filters, properties })
}

fn unsuback<'a>(
    version: Version,
    body: &'a [u8],
    limits: &Limits,
) -> Result<UnsubAck<'a>, DecodeError> {
    let mut r = Reader::new(body);
    let packet_id = r.packet_id()?;
    if !version.is_v5() {
        r.end()?;
        return Ok(UnsubAck { packet_id, reasons: &[], properties: Properties::EMPTY });
    }
    let properties = block(&mut r, version, PropertiesOf::UnsubAck, limits)?;
    let reasons = r.rest;
    for &reason in reasons {
        reason_code(reason, PacketType::UnsubAck)?;
    }
    if reasons.is_empty() {
        return Err(DecodeError::protocol("UNSUBACK without a reason code"));
    }
    Ok(UnsubAck { packet_id, reasons, properties })
}

fn disconnect<'a>(
    version: Version,
    body: &'a [u8],
    limits: &Limits,
) -> Result<Disconnect<'a>, DecodeError> {
    let mut r = Reader::new(body);
    let mut this = Disconnect::new(ReasonCode::Success);
    if !version.is_v5() {
        r.end()?;
        return Ok(this);
    }
    if r.rest.is_empty() {
        return Ok(this);
    }
    this.reason = reason_code(r.u8()?, PacketType::Disconnect)?;
    // With a Remaining Length below 2 there is no Property Length [3.14.2.2.1].
    let raw = if r.rest.is_empty() { &[] } else { r.block()? };
    property::check_block(raw, PropertiesOf::Disconnect, limits, |property, _| match property {
        Property::SessionExpiryInterval(value) => this.session_expiry_interval = Some(value),
        Property::ReasonString(value) => this.reason_string = Some(value),
        Property::ServerReference(value) => this.server_reference = Some(value),
        _ => {}
    })?;
    this.properties = Properties::hiding(raw, !USER);
    r.end()?;
    Ok(this)
}

fn auth<'a>(version: Version, body: &'a [u8], limits: &Limits) -> Result<Auth<'a>, DecodeError> {
    if !version.is_v5() {
        return Err(DecodeError::malformed("reserved packet type"));
    }
    let mut this = Auth {
        reason: ReasonCode::Success,
        method: None,
        data: None,
        reason_string: None,
        properties: Properties::EMPTY,
    };
    if body.is_empty() {
        return Ok(this);
    }
    let mut r = Reader::new(body);
    this.reason = reason_code(r.u8()?, PacketType::Auth)?;
    let raw = r.block()?;
    property::check_block(raw, PropertiesOf::Auth, limits, |property, _| match property {
        Property::AuthenticationMethod(value) => this.method = Some(value),
        Property::AuthenticationData(value) => this.data = Some(value),
        Property::ReasonString(value) => this.reason_string = Some(value),
        _ => {}
    })?;
    this.properties = Properties::hiding(raw, !USER);
    r.end()?;
    if this.method.is_none() {
        return Err(DecodeError::protocol("AUTH without an Authentication Method"));
    }
    Ok(this)
}
