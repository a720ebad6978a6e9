//! Decoding CONNECT, which says itself what version it is.

use super::frame::Reader;
use super::property::{self, EXPIRY, USER, WILL_DELAY};
use super::{
    ConnectError, ConnectProperties, DecodeError, Limits, Properties, PropertiesOf, Property, QoS,
    ReasonCode, Version, Will, packet::Connect, topic,
};

const CLEAN_START: u8 = 0x02;
const WILL: u8 = 0x04;
const WILL_QOS: u8 = 0x18;
const WILL_RETAIN: u8 = 0x20;
const PASSWORD: u8 = 0x40;
const USER_NAME: u8 = 0x80;
/// What Mosquitto's bridges set in the Protocol Level of 3.x.
const BRIDGE: u8 = 0x80;

/// Decodes the body of a CONNECT.
///
/// Unsupported levels are 0x84, an unacceptable Client Identifier 0x85, a bad Will Topic 0x90; the
/// rest Malformed or a Protocol Error. 3.1 is read as leniently as it was written: a Client
/// Identifier may have more than 23 characters, reserved flags are not looked at, and User Name and
/// Password may be missing although their flags are set.
pub fn decode_connect<'a>(body: &'a [u8], limits: &Limits) -> Result<Connect<'a>, ConnectError> {
    let mut r = Reader::new(body);
    let (version, bridge) = protocol(&mut r)?;
    rest(r, version, bridge, limits).map_err(|error| ConnectError { version: Some(version), error })
}

/// Protocol name and level.
fn protocol(r: &mut Reader<'_>) -> Result<(Version, bool), ConnectError> {
    let unknown = |error| ConnectError { version: None, error };
    let name = r.bytes().map_err(unknown)?;
    if name != b"MQTT" && name != b"MQIsdp" {
        let detail = "unknown protocol name";
        let error = DecodeError::new(ReasonCode::UnsupportedProtocolVersion, detail);
        return Err(unknown(error));
    }
    let level = r.u8().map_err(unknown)?;
    let bridge = level & BRIDGE != 0;
    match (name, level) {
        (b"MQIsdp", 0x03 | 0x83) => Ok((Version::V31, bridge)),
        (b"MQTT", 0x04 | 0x84) => Ok((Version::V311, bridge)),
        (b"MQTT", 0x05) => Ok((Version::V5, false)),
        _ => {
            // Answered in the nearest form the client may understand [MQTT-3.1.2-2].
            let version = match (name, level) {
                (b"MQIsdp", _) => Version::V31,
                (_, 0..5) => Version::V311,
                _ => Version::V5,
            };
            let detail = "unsupported protocol level";
            let error = DecodeError::new(ReasonCode::UnsupportedProtocolVersion, detail);
            Err(ConnectError { version: Some(version), error })
        }
    }
}

fn rest<'a>(
    mut r: Reader<'a>,
    version: Version,
    bridge: bool,
    limits: &Limits,
) -> Result<Connect<'a>, DecodeError> {
    let flags = r.u8()?;
    check_flags(version, flags)?;
    let clean_start = flags & CLEAN_START != 0;
    let keep_alive = r.u16()?;
    let properties = if version.is_v5() {
        connect_properties(r.block()?, limits)?
    } else {
        ConnectProperties::default()
    };
    let client_id = r.text()?;
    check_client_id(version, clean_start, client_id, limits)?;
    let will = if flags & WILL != 0 { Some(will(&mut r, version, flags, limits)?) } else { None };
    // 3.1: the Remaining Length takes precedence over these two flags.
    let present =
        |r: &Reader<'_>, flag| flags & flag != 0 && !(version == Version::V31 && r.rest.is_empty());
    let username = if present(&r, USER_NAME) { Some(r.text()?) } else { None };
    let password = if present(&r, PASSWORD) { Some(r.bytes()?) } else { None };
    r.end()?;
    Ok(Connect {
        version,
        bridge,
        clean_start,
        keep_alive,
        client_id,
        will,
        username,
        password,
        properties,
    })
}

fn check_flags(version: Version, flags: u8) -> Result<(), DecodeError> {
    if flags & WILL != 0 && flags & WILL_QOS == WILL_QOS {
        return Err(DecodeError::malformed("Will QoS 3 [MQTT-3.1.2-12]"));
    }
    if !version.is_v5() && flags & (USER_NAME | PASSWORD) == PASSWORD {
        return Err(DecodeError::malformed("Password without a User Name [MQTT-3.1.2-22]"));
    }
    if version == Version::V31 {
        return Ok(());
    }
    if flags & 0x01 != 0 {
        return Err(DecodeError::malformed("reserved CONNECT flag [MQTT-3.1.2-3]"));
    }
    if flags & WILL == 0 && flags & (WILL_QOS | WILL_RETAIN) != 0 {
        return Err(DecodeError::malformed("Will QoS or Retain without a Will [MQTT-3.1.2-11]"));
    }
    Ok(())
}

fn check_client_id(
    version: Version,
    clean_start: bool,
    client_id: &str,
    limits: &Limits,
) -> Result<(), DecodeError> {
    let bad = |detail| Err(DecodeError::new(ReasonCode::ClientIdentifierNotValid, detail));
    if client_id.len() > usize::from(limits.max_client_id_bytes) {
        return bad("Client Identifier too long (limits.max_client_id_bytes)");
    }
    if !client_id.is_empty() {
        return Ok(());
    }
    match version {
        Version::V31 => bad("empty Client Identifier in 3.1"),
        Version::V311 if !clean_start => {
            bad("empty Client Identifier without Clean Session [MQTT-3.1.3-8]")
        }
        _ => Ok(()),
    }
}

fn connect_properties<'a>(
    raw: &'a [u8],
    limits: &Limits,
) -> Result<ConnectProperties<'a>, DecodeError> {
    let mut this = ConnectProperties::default();
    property::check_block(raw, PropertiesOf::Connect, limits, |property, _| match property {
        Property::SessionExpiryInterval(value) => this.session_expiry_interval = Some(value),
        Property::ReceiveMaximum(value) => this.receive_maximum = Some(value),
        Property::MaximumPacketSize(value) => this.maximum_packet_size = Some(value),
        Property::TopicAliasMaximum(value) => this.topic_alias_maximum = value,
        Property::RequestResponseInformation(value) => this.request_response_information = value,
        Property::RequestProblemInformation(value) => this.request_problem_information = value,
        Property::AuthenticationMethod(value) => this.authentication_method = Some(value),
        Property::AuthenticationData(value) => this.authentication_data = Some(value),
        _ => {}
    })?;
    if this.authentication_data.is_some() && this.authentication_method.is_none() {
        return Err(DecodeError::protocol("Authentication Data without a method"));
    }
    this.properties = Properties::hiding(raw, !USER);
    Ok(this)
}

fn will<'a>(
    r: &mut Reader<'a>,
    version: Version,
    flags: u8,
    limits: &Limits,
) -> Result<Will<'a>, DecodeError> {
    let (mut delay_interval, mut message_expiry_interval) = (0, None);
    let mut payload_format_indicator = None;
    let raw = if version.is_v5() { r.block()? } else { &[] };
    property::check_block(raw, PropertiesOf::Will, limits, |property, _| match property {
        Property::WillDelayInterval(seconds) => delay_interval = seconds,
        Property::MessageExpiryInterval(seconds) => message_expiry_interval = Some(seconds),
        Property::PayloadFormatIndicator(value) => payload_format_indicator = Some(value),
        _ => {}
    })?;
    Ok(Will {
        topic: topic::check_name(r.bytes()?, limits)?,
        payload: r.bytes()?,
        qos: QoS::try_from((flags & WILL_QOS) >> 3)?,
        retain: flags & WILL_RETAIN != 0,
        delay_interval,
        message_expiry_interval,
        payload_format_indicator,
        properties: Properties::hiding(raw, EXPIRY | WILL_DELAY),
    })
}
