//! What the broker sends, taken apart strictly: whatever the specification forbids a server to
//! send fails the test that received it.

use super::property::*;
use super::wire::{self, Cursor, Version};

/// A packet of the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Packet {
    ConnAck(ConnAck),
    Publish(Publish),
    PubAck(Ack),
    PubRec(Ack),
    PubRel(Ack),
    PubComp(Ack),
    SubAck(Codes),
    UnsubAck(Codes),
    PingResp,
    Disconnect(Reason),
    Auth(Reason),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ConnAck {
    pub(crate) session_present: bool,
    pub(crate) code: u8,
    pub(crate) properties: Properties,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Publish {
    pub(crate) dup: bool,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) topic: String,
    pub(crate) id: u16,
    pub(crate) properties: Properties,
    pub(crate) payload: Vec<u8>,
}

impl Publish {
    pub(crate) fn payload_text(&self) -> &str {
        std::str::from_utf8(&self.payload).expect("a payload of text")
    }
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ack {
    pub(crate) id: u16,
    pub(crate) code: u8,
    pub(crate) properties: Properties,
}

/// SUBACK, UNSUBACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Codes {
    pub(crate) id: u16,
    pub(crate) codes: Vec<u8>,
    pub(crate) properties: Properties,
}

/// DISCONNECT, AUTH.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reason {
    pub(crate) code: u8,
    pub(crate) properties: Properties,
}

const CONNACK_CODES: &[u8] = &[
    0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97,
    0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
];
const PUBACK_CODES: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
const PUBREL_CODES: &[u8] = &[0x00, 0x92];
const SUBACK_CODES: &[u8] =
    &[0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2];
const UNSUBACK_CODES: &[u8] = &[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91];
/// Those of table 3-10 that a server may send.
/// Those of 3.14.2.1, and 0x8C, which is DISCONNECT's by 2.4 alone.
const DISCONNECT_CODES: &[u8] = &[
    0x00, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8C, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95,
    0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
];

const CONNACK_PROPERTIES: &[u8] = &[
    SESSION_EXPIRY_INTERVAL,
    RECEIVE_MAXIMUM,
    MAXIMUM_QOS,
    RETAIN_AVAILABLE,
    MAXIMUM_PACKET_SIZE,
    ASSIGNED_CLIENT_IDENTIFIER,
    TOPIC_ALIAS_MAXIMUM,
    REASON_STRING,
    USER_PROPERTY,
    WILDCARD_SUBSCRIPTION_AVAILABLE,
    SUBSCRIPTION_IDENTIFIERS_AVAILABLE,
    SHARED_SUBSCRIPTION_AVAILABLE,
    SERVER_KEEP_ALIVE,
    RESPONSE_INFORMATION,
    SERVER_REFERENCE,
    AUTHENTICATION_METHOD,
    AUTHENTICATION_DATA,
];
const PUBLISH_PROPERTIES: &[u8] = &[
    PAYLOAD_FORMAT_INDICATOR,
    MESSAGE_EXPIRY_INTERVAL,
    TOPIC_ALIAS,
    RESPONSE_TOPIC,
    CORRELATION_DATA,
    USER_PROPERTY,
    SUBSCRIPTION_IDENTIFIER,
    CONTENT_TYPE,
];
const ACK_PROPERTIES: &[u8] = &[REASON_STRING, USER_PROPERTY];
/// No Session Expiry Interval: a server must not send it [MQTT-3.14.2-2].
const DISCONNECT_PROPERTIES: &[u8] = &[REASON_STRING, USER_PROPERTY, SERVER_REFERENCE];
const AUTH_PROPERTIES: &[u8] =
    &[AUTHENTICATION_METHOD, AUTHENTICATION_DATA, REASON_STRING, USER_PROPERTY];

impl Packet {
    /// Reads one whole packet.
    pub(crate) fn read(version: Version, first_byte: u8, body: &[u8]) -> Self {
        let flags = first_byte & 0x0F;
        let kind = first_byte & 0xF0;
        let reserved = if kind == wire::PUBREL & 0xF0 { 0x02 } else { 0x00 };
        assert!(
            kind == wire::PUBLISH || flags == reserved,
            "reserved flags of {first_byte:#04x} [MQTT-2.1.3-1]"
        );
        match kind {
            wire::CONNACK => Self::ConnAck(ConnAck::read(version, body)),
            wire::PUBLISH => Self::Publish(Publish::read(version, flags, body)),
            wire::PUBACK => Self::PubAck(Ack::read(version, body, PUBACK_CODES)),
            wire::PUBREC => Self::PubRec(Ack::read(version, body, PUBACK_CODES)),
            0x60 => Self::PubRel(Ack::read(version, body, PUBREL_CODES)),
            wire::PUBCOMP => Self::PubComp(Ack::read(version, body, PUBREL_CODES)),
            wire::SUBACK => Self::SubAck(read_suback(version, body)),
            wire::UNSUBACK => Self::UnsubAck(read_unsuback(version, body)),
            wire::PINGRESP => {
                assert!(body.is_empty(), "PINGRESP has no body");
                Self::PingResp
            }
            wire::DISCONNECT => {
                assert!(version.is_v5(), "a server sends no DISCONNECT before version 5");
                Self::Disconnect(Reason::read(body, DISCONNECT_CODES, DISCONNECT_PROPERTIES))
            }
            wire::AUTH => {
                assert!(version.is_v5(), "there is no AUTH before version 5");
                Self::Auth(Reason::read(body, &[0x00, 0x18], AUTH_PROPERTIES))
            }
            _ => panic!("a server does not send packets of type {first_byte:#04x}"),
        }
    }
}

impl ConnAck {
    fn read(version: Version, body: &[u8]) -> Self {
        let mut cursor = Cursor::new(body, "CONNACK");
        let flags = cursor.u8();
        assert!(flags <= 1, "reserved CONNACK flags {flags:#04x} [MQTT-3.2.2-1]");
        let session_present = flags == 1;
        let code = cursor.u8();
        let properties = if version.is_v5() {
            assert!(CONNACK_CODES.contains(&code), "CONNACK {code:#04x} [MQTT-3.2.2-8]");
            Properties::read(&mut cursor, CONNACK_PROPERTIES)
        } else {
            assert!(code <= 5, "CONNACK return code {code} is reserved");
            Properties::default()
        };
        cursor.end();
        assert!(code == 0 || !session_present, "a refusal with Session Present [MQTT-3.2.2-6]");
        assert!(
            version != Version::V31 || !session_present,
            "version 3.1 has no Session Present: that byte is reserved"
        );
        Self { session_present, code, properties }
    }
}

impl Publish {
    fn read(version: Version, flags: u8, body: &[u8]) -> Self {
        let (dup, qos, retain) = (flags & 8 != 0, flags >> 1 & 3, flags & 1 != 0);
        assert!(qos <= 2, "PUBLISH at QoS 3 [MQTT-3.3.1-4]");
        assert!(qos > 0 || !dup, "DUP at QoS 0 [MQTT-3.3.1-2]");
        let mut cursor = Cursor::new(body, "PUBLISH");
        let topic = cursor.text();
        assert!(!topic.contains(['+', '#']), "wildcards in topic {topic:?} [MQTT-3.3.2-2]");
        let id = if qos > 0 { cursor.u16() } else { 0 };
        assert!(qos == 0 || id != 0, "Packet Identifier 0 [MQTT-2.2.1-4]");
        let properties = if version.is_v5() {
            Properties::read(&mut cursor, PUBLISH_PROPERTIES)
        } else {
            Properties::default()
        };
        assert_ne!(properties.number(TOPIC_ALIAS), Some(0), "Topic Alias 0 [MQTT-3.3.2-8]");
        let aliased = properties.has(TOPIC_ALIAS);
        assert!(aliased || !topic.is_empty(), "an empty topic without an alias");
        Self { dup, qos, retain, topic, id, properties, payload: cursor.rest().to_vec() }
    }
}

impl Ack {
    fn read(version: Version, body: &[u8], codes: &[u8]) -> Self {
        let mut cursor = Cursor::new(body, "an acknowledgement");
        let id = cursor.u16();
        assert_ne!(id, 0, "Packet Identifier 0");
        let (mut code, mut properties) = (0, Properties::default());
        if version.is_v5() && !cursor.is_empty() {
            code = cursor.u8();
            assert!(codes.contains(&code), "reason code {code:#04x} in an acknowledgement");
            if !cursor.is_empty() {
                properties = Properties::read(&mut cursor, ACK_PROPERTIES);
            }
        }
        cursor.end();
        Self { id, code, properties }
    }
}

fn read_suback(version: Version, body: &[u8]) -> Codes {
    let mut cursor = Cursor::new(body, "SUBACK");
    let id = cursor.u16();
    let (properties, allowed) = if version.is_v5() {
        (Properties::read(&mut cursor, ACK_PROPERTIES), SUBACK_CODES)
    } else {
        (Properties::default(), &[0x00, 0x01, 0x02, 0x80][..])
    };
    let codes = cursor.rest().to_vec();
    assert!(codes.iter().all(|code| allowed.contains(code)), "SUBACK {codes:x?} [MQTT-3.9.3-2]");
    Codes { id, codes, properties }
}

fn read_unsuback(version: Version, body: &[u8]) -> Codes {
    let mut cursor = Cursor::new(body, "UNSUBACK");
    let id = cursor.u16();
    if !version.is_v5() {
        cursor.end();
        return Codes { id, codes: Vec::new(), properties: Properties::default() };
    }
    let properties = Properties::read(&mut cursor, ACK_PROPERTIES);
    let codes = cursor.rest().to_vec();
    let known = codes.iter().all(|code| UNSUBACK_CODES.contains(code));
    assert!(known, "UNSUBACK {codes:x?} [MQTT-3.11.3-2]");
    Codes { id, codes, properties }
}

impl Reason {
    fn read(body: &[u8], codes: &[u8], allowed: &[u8]) -> Self {
        let mut cursor = Cursor::new(body, "DISCONNECT or AUTH");
        let (mut code, mut properties) = (0, Properties::default());
        if !cursor.is_empty() {
            code = cursor.u8();
            assert!(codes.contains(&code), "reason code {code:#04x} from a server");
        }
        if !cursor.is_empty() {
            properties = Properties::read(&mut cursor, allowed);
        }
        cursor.end();
        Self { code, properties }
    }
}
