//! What must be refused, and by which reason code.

use super::ReasonCode as R;
use super::*;

/// The version to answer in, and the reason code.
type Refusal = (Option<Version>, R);

fn refused(version: Version, first_byte: u8, body: &[u8]) -> Option<R> {
    decode(version, first_byte, body, &Limits::default()).err().map(|error| error.reason)
}

/// Whether a packet is refused, and how.
type Case<'a> = (Version, u8, &'a [u8], Option<R>);

fn assert_refused(cases: &[Case<'_>]) {
    for &(version, first_byte, body, reason) in cases {
        assert_eq!(
            refused(version, first_byte, body),
            reason,
            "{version:?} {first_byte:02x} {body:02x?}"
        );
    }
}

#[test]
fn fixed_headers() {
    let head = |bytes: &[u8]| frame_head(bytes, 1000).map_err(|error| error.reason);
    let some =
        |first_byte, head_len, body_len| Ok(Some(FrameHead { first_byte, head_len, body_len }));
    assert_eq!(head(&[]), Ok(None));
    assert_eq!(head(&[0x30]), Ok(None));
    assert_eq!(head(&[0x30, 0x80]), Ok(None));
    assert_eq!(head(&[0x30, 0x80, 0x80, 0x80]), Ok(None));
    assert_eq!(head(&[0x30, 0x7F]), some(0x30, 2, 127));
    assert_eq!(head(&[0x30, 0x80, 0x01]), some(0x30, 3, 128));
    assert_eq!(head(&[0x30, 0x81, 0x80, 0x80, 0x00]), some(0x30, 5, 1));
    // The whole packet counts: 3 + 997.
    assert_eq!(head(&[0x30, 0xE5, 0x07]), some(0x30, 3, 997));
    assert_eq!(head(&[0x30, 0xE6, 0x07]), Err(R::PacketTooLarge));
    assert_eq!(head(&[0x30, 0xFF, 0xFF, 0xFF, 0x7F]), Err(R::PacketTooLarge));
    assert_eq!(head(&[0x30, 0x80, 0x80, 0x80, 0x80]), Err(R::MalformedPacket));
    for first_byte in 0..=255u8 {
        let (packet, flags) = (first_byte >> 4, first_byte & 0x0F);
        let good = match packet {
            0 => false,
            3 => flags & 0x06 != 0x06,
            6 | 8 | 10 => flags & 0x07 == 0x02,
            _ => flags == 0,
        };
        assert_eq!(head(&[first_byte]).is_ok(), good, "{first_byte:02x}");
    }
    let minimal = |bytes: &[u8]| frame_head(bytes, u32::MAX).unwrap().unwrap().is_minimal();
    assert!(minimal(&[0xC0, 0]) && minimal(&[0x30, 0x80, 1]) && minimal(&[0x30, 0x80, 0x80, 1]));
    assert!(!minimal(&[0x30, 0x80, 0]) && !minimal(&[0x30, 0xFF, 0x80, 0x80, 0]));
}

#[test]
fn dup_on_other_packets_only_in_3_1() {
    for (first_byte, body) in
        [(0x6A, &b"\0\x01"[..]), (0x8A, b"\0\x01\0\x01a\0"), (0xAA, b"\0\x01\0\x01a")]
    {
        assert_eq!(refused(Version::V31, first_byte, body), None);
        assert_eq!(refused(Version::V311, first_byte, body), Some(R::MalformedPacket));
        assert_eq!(refused(Version::V5, first_byte, body), Some(R::MalformedPacket));
    }
}

#[test]
fn publish() {
    use Version::{V5, V31, V311};
    assert_refused(&[
        (V311, 0x30, b"\0\x01t", None),
        (V311, 0x30, b"\0\x02t", Some(R::MalformedPacket)),
        (V311, 0x30, b"\0", Some(R::MalformedPacket)),
        (V311, 0x30, b"\0\0payload", Some(R::TopicNameInvalid)),
        (V311, 0x38, b"\0\x01t", Some(R::MalformedPacket)),
        (V31, 0x38, b"\0\x01t", None),
        (V5, 0x38, b"\0\x01t\0", Some(R::MalformedPacket)),
        (V311, 0x36, b"\0\x01t\0\x01", Some(R::MalformedPacket)),
        (V311, 0x32, b"\0\x01t\0\x01", None),
        (V311, 0x32, b"\0\x01t\0\0", Some(R::ProtocolError)),
        (V311, 0x32, b"\0\x01t\0", Some(R::MalformedPacket)),
        (V311, 0x30, b"\0\x03a/#", Some(R::TopicNameInvalid)),
        (V311, 0x30, b"\0\x01\0", Some(R::MalformedPacket)),
        (V311, 0x30, b"\0\x03\xED\xA0\x80", Some(R::MalformedPacket)),
        (V311, 0x30, b"\0\x02\xC1\x81", Some(R::MalformedPacket)),
        (V5, 0x30, b"\0\x01t\0", None),
        (V5, 0x30, b"\0\x01t", Some(R::MalformedPacket)),
        (V5, 0x30, b"\0\0\0", Some(R::ProtocolError)),
        (V5, 0x30, b"\0\0\x03\x23\0\x01", None),
        (V5, 0x30, b"\0\x01t\x03\x23\0\0", Some(R::TopicAliasInvalid)),
        (V5, 0x30, b"\0\x01t\x06\x23\0\x01\x23\0\x01", Some(R::ProtocolError)),
        (V5, 0x30, b"\0\x01t\x02\x01\x01", None),
        (V5, 0x30, b"\0\x01t\x02\x01\x02", Some(R::ProtocolError)),
        (V5, 0x30, b"\0\x01t\x04\x01\x01\x01\x01", Some(R::ProtocolError)),
        (V5, 0x30, b"\0\x01t\x04\x0B\x01\x0B\x02", None),
        (V5, 0x30, b"\0\x01t\x02\x0B\0", Some(R::ProtocolError)),
        (V5, 0x30, b"\0\x01t\x03\x0B\x81\0", Some(R::MalformedPacket)),
        (V5, 0x30, b"\0\x01t\x06\x0B\x80\x80\x80\x80\x01", Some(R::MalformedPacket)),
        (V5, 0x30, b"\0\x01t\x04\x08\0\x01+", Some(R::ProtocolError)),
        (V5, 0x30, b"\0\x01t\x03\x08\0\0", Some(R::ProtocolError)),
        (V5, 0x30, b"\0\x01t\x04\x03\0\x01\0", Some(R::MalformedPacket)),
        // Not of this packet, unknown, cut short, longer than the packet, a padded length.
        (V5, 0x30, b"\0\x01t\x05\x11\0\0\0\x01", Some(R::MalformedPacket)),
        (V5, 0x30, b"\0\x01t\x02\x7F\0", Some(R::MalformedPacket)),
        (V5, 0x30, b"\0\x01t\x02\xFF\0", Some(R::MalformedPacket)),
        (V5, 0x30, b"\0\x01t\x02\x02\0", Some(R::MalformedPacket)),
        (V5, 0x30, b"\0\x01t\x03\x01\x01", Some(R::MalformedPacket)),
        (V5, 0x30, b"\0\x01t\x80\0", Some(R::MalformedPacket)),
    ]);
    let limits = Limits { max_user_properties: 1, ..Limits::default() };
    let twice = b"\0\x01t\x0A\x26\0\0\0\0\x26\0\0\0\0";
    assert_eq!(decode(V5, 0x30, twice, &limits).unwrap_err().reason, R::QuotaExceeded);
}

#[test]
fn connack_and_acknowledgements() {
    use Version::{V5, V31, V311};
    assert_refused(&[
        // CONNACK
        (V311, 0x20, b"\0\0", None),
        (V311, 0x20, b"\x02\0", Some(R::MalformedPacket)),
        (V311, 0x20, b"\x01\x05", Some(R::ProtocolError)),
        (V311, 0x20, b"\0\x06", Some(R::ProtocolError)),
        (V31, 0x20, b"\xFF\0", None),
        (V5, 0x20, b"\0\0", Some(R::MalformedPacket)),
        (V5, 0x20, b"\0\x01\0", Some(R::ProtocolError)),
        (V5, 0x20, b"\0\0\x02\x24\x02", Some(R::ProtocolError)),
        (V5, 0x20, b"\0\0\x03\x21\0\0", Some(R::ProtocolError)),
        // Acknowledgements
        (V311, 0x40, b"\0\x01", None),
        (V311, 0x40, b"\0\0", Some(R::ProtocolError)),
        (V311, 0x40, b"\0\x01\0", Some(R::MalformedPacket)),
        (V5, 0x40, b"\0", Some(R::MalformedPacket)),
        (V5, 0x40, b"\0\x01\x10", None),
        (V5, 0x62, b"\0\x01\x10", Some(R::ProtocolError)),
        (V5, 0x62, b"\0\x01\x92\0", None),
        (V5, 0x40, b"\0\x01\0\x01", Some(R::MalformedPacket)),
        (V5, 0x40, b"\0\x01\0\0\0", Some(R::MalformedPacket)),
        (V5, 0x40, b"\0\x01\0\x06\x1F\0\0\x1F\0\0", Some(R::ProtocolError)),
        (V5, 0x40, b"\0\x01\0\x02\x01\0", Some(R::MalformedPacket)),
    ]);
}

#[test]
fn subscribe_and_suback() {
    use Version::{V5, V31, V311};
    assert_refused(&[
        // SUBSCRIBE
        (V311, 0x82, b"\0\x01\0\x01a\x02", None),
        (V311, 0x82, b"\0\x01", Some(R::ProtocolError)),
        (V311, 0x82, b"\0\0\0\x01a\0", Some(R::ProtocolError)),
        (V311, 0x82, b"\0\x01\0\x01a", Some(R::MalformedPacket)),
        (V311, 0x82, b"\0\x01\0\x01a\x03", Some(R::MalformedPacket)),
        (V311, 0x82, b"\0\x01\0\x01a\x04", Some(R::MalformedPacket)),
        (V311, 0x80, b"\0\x01\0\x01a\0", Some(R::MalformedPacket)),
        (V5, 0x82, b"\0\x01\0\0\x01a\x2E", None),
        (V5, 0x82, b"\0\x01\0\0\x01a\x03", Some(R::ProtocolError)),
        (V5, 0x82, b"\0\x01\0\0\x01a\x30", Some(R::ProtocolError)),
        (V5, 0x82, b"\0\x01\0\0\x01a\x40", Some(R::MalformedPacket)),
        (V5, 0x82, b"\0\x01\0", Some(R::ProtocolError)),
        (V5, 0x82, b"\0\x01\0\0\x0A$share/g/a\x04", Some(R::ProtocolError)),
        (V5, 0x82, b"\0\x01\0\0\x0A$share/g/a\x01", None),
        (V5, 0x82, b"\0\x01\x04\x0B\x01\x0B\x02\0\x01a\0", Some(R::ProtocolError)),
        (V5, 0x82, b"\0\x01\x02\x0B\0\0\x01a\0", Some(R::ProtocolError)),
        (V5, 0x82, b"\0\x01\0\0\x01\0\0", Some(R::MalformedPacket)),
        // SUBACK
        (V311, 0x90, b"\0\x01\x80", None),
        (V31, 0x90, b"\0\x01\x80", Some(R::ProtocolError)),
        (V311, 0x90, b"\0\x01\x03", Some(R::ProtocolError)),
        (V5, 0x90, b"\0\x01\0\x03", Some(R::ProtocolError)),
        (V5, 0x90, b"\0\x01\0\x97", None),
    ]);
}

#[test]
fn unsubscribe_and_unsuback() {
    use Version::{V5, V311};
    assert_refused(&[
        (V311, 0xA2, b"\0\x01\0\x01a", None),
        (V311, 0xA2, b"\0\x01", Some(R::ProtocolError)),
        (V5, 0xA2, b"\0\x01\x02\x0B\x01\0\x01a", Some(R::MalformedPacket)),
        (V311, 0xB0, b"\0\x01\0", Some(R::MalformedPacket)),
        (V5, 0xB0, b"\0\x01\0\x11", None),
        (V5, 0xB0, b"\0\x01\0\x01", Some(R::ProtocolError)),
    ]);
}

#[test]
fn ping_disconnect_and_auth() {
    use Version::{V5, V311};
    assert_refused(&[
        (V311, 0xC0, b"\0", Some(R::MalformedPacket)),
        (V5, 0xD0, b"\0", Some(R::MalformedPacket)),
        (V311, 0xE0, b"", None),
        (V311, 0xE0, b"\0", Some(R::MalformedPacket)),
        (V5, 0xE0, b"", None),
        (V5, 0xE0, b"\x04", None),
        (V5, 0xE0, b"\x01", Some(R::ProtocolError)),
        (V5, 0xE0, b"\0\x05\x11\0\0\0\x01", None),
        (V5, 0xE0, b"\0\0\0", Some(R::MalformedPacket)),
        (V311, 0xF0, b"", Some(R::MalformedPacket)),
        (V5, 0xF0, b"", None),
        (V5, 0xF0, b"\x18\0", Some(R::ProtocolError)),
        (V5, 0xF0, b"\x18", Some(R::MalformedPacket)),
        (V5, 0xF0, b"\x18\x04\x15\0\x01m", None),
        (V5, 0xF0, b"\x10\x04\x15\0\x01m", Some(R::ProtocolError)),
        (V5, 0x00, b"", Some(R::MalformedPacket)),
    ]);
}

#[test]
fn connect() {
    use Version::{V5, V31, V311};
    let table: &[(&[u8], Option<Refusal>)] = &[
        (b"\0\x04MQTT\x04\x02\0\0\0\0", None),
        (b"\0\x06MQIsdp\x03\x02\0\0\0\x01c", None),
        (b"\0\x04MQTT\x05\0\0\0\0\0\0", None),
        // A bridge of Mosquitto; not in 5.0.
        (b"\0\x04MQTT\x84\x02\0\0\0\x01c", None),
        (b"\0\x04MQTT\x85\x02\0\0\0\0\x01c", Some((Some(V5), R::UnsupportedProtocolVersion))),
        (b"\0\x04MQTT\x06\x02\0\0\0\0", Some((Some(V5), R::UnsupportedProtocolVersion))),
        (b"\0\x04MQTT\x03\x02\0\0\0\0", Some((Some(V311), R::UnsupportedProtocolVersion))),
        (b"\0\x06MQIsdp\x04\x02\0\0\0\0", Some((Some(V31), R::UnsupportedProtocolVersion))),
        (b"\0\x04mqtt\x04\x02\0\0\0\0", Some((None, R::UnsupportedProtocolVersion))),
        (b"\0\x04MQTT", Some((None, R::MalformedPacket))),
        (b"", Some((None, R::MalformedPacket))),
        // Flags: reserved, Will QoS 3, will parts without a will, password without a user name.
        (b"\0\x04MQTT\x04\x03\0\0\0\0", Some((Some(V311), R::MalformedPacket))),
        (b"\0\x04MQTT\x05\x01\0\0\0\0\0", Some((Some(V5), R::MalformedPacket))),
        (b"\0\x04MQTT\x04\x1E\0\0\0\0\0\x01t\0\0", Some((Some(V311), R::MalformedPacket))),
        (b"\0\x04MQTT\x04\x0A\0\0\0\0", Some((Some(V311), R::MalformedPacket))),
        (b"\0\x04MQTT\x04\x22\0\0\0\0", Some((Some(V311), R::MalformedPacket))),
        (b"\0\x04MQTT\x04\x42\0\0\0\0\0\0", Some((Some(V311), R::MalformedPacket))),
        (b"\0\x04MQTT\x05\x42\0\0\0\0\0\0\0", None),
        // Client identifiers.
        (b"\0\x04MQTT\x04\0\0\0\0\0", Some((Some(V311), R::ClientIdentifierNotValid))),
        (b"\0\x06MQIsdp\x03\x02\0\0\0\0", Some((Some(V31), R::ClientIdentifierNotValid))),
        (b"\0\x04MQTT\x04\x02\0\0\0\x01\0", Some((Some(V311), R::MalformedPacket))),
        // 3.1: flags of what is missing.
        (b"\0\x06MQIsdp\x03\xC2\0\0\0\x01c", None),
        (b"\0\x06MQIsdp\x03\xC2\0\0\0\x01c\0\x01u", None),
        (b"\0\x04MQTT\x04\xC2\0\0\0\x01c\0\x01u", Some((Some(V311), R::MalformedPacket))),
        // The end.
        (b"\0\x04MQTT\x04\x02\0\0\0\0\0", Some((Some(V311), R::MalformedPacket))),
        // Wills.
        (b"\0\x04MQTT\x04\x06\0\0\0\0\0\x01t\0\x01p", None),
        (b"\0\x04MQTT\x04\x06\0\0\0\0\0\x01#\0\x01p", Some((Some(V311), R::TopicNameInvalid))),
        (b"\0\x04MQTT\x04\x06\0\0\0\0\0\0\0\x01p", Some((Some(V311), R::TopicNameInvalid))),
        (b"\0\x04MQTT\x05\x06\0\0\0\0\0\0\0\x01t\0\0", None),
        (
            b"\0\x04MQTT\x05\x06\0\0\0\0\0\x03\x23\0\x01\0\x01t\0\0",
            Some((Some(V5), R::MalformedPacket)),
        ),
        // Properties.
        (b"\0\x04MQTT\x05\0\0\0\x03\x21\0\0\0\0", Some((Some(V5), R::ProtocolError))),
        (b"\0\x04MQTT\x05\0\0\0\x05\x27\0\0\0\0\0\0", Some((Some(V5), R::ProtocolError))),
        (b"\0\x04MQTT\x05\0\0\0\x02\x17\x02\0\0", Some((Some(V5), R::ProtocolError))),
        (b"\0\x04MQTT\x05\0\0\0\x02\x19\x02\0\0", Some((Some(V5), R::ProtocolError))),
        (b"\0\x04MQTT\x05\0\0\0\x04\x19\0\x19\0\0\0", Some((Some(V5), R::ProtocolError))),
        (b"\0\x04MQTT\x05\0\0\0\x03\x16\0\0\0\0", Some((Some(V5), R::ProtocolError))),
        (b"\0\x04MQTT\x05\0\0\0\x05\x18\0\0\0\0\0\0", Some((Some(V5), R::MalformedPacket))),
    ];
    for &(body, refusal) in table {
        let got = decode_connect(body, &Limits::default()).err();
        assert_eq!(got.map(|e| (e.version, e.error.reason)), refusal, "{body:02x?}");
    }
    let bridge = decode_connect(b"\0\x06MQIsdp\x83\x02\0\0\0\x01c", &Limits::default()).unwrap();
    assert!(bridge.bridge && bridge.version == V31);
    let limits = Limits { max_client_id_bytes: 1, ..Limits::default() };
    let long = decode_connect(b"\0\x04MQTT\x04\x02\0\0\0\x02ab", &limits).unwrap_err();
    assert_eq!(long.error.reason, R::ClientIdentifierNotValid);
}

#[test]
fn limits_on_filters() {
    let limits = Limits { max_filters_per_packet: 1, ..Limits::default() };
    let subscribe = decode(Version::V311, 0x82, b"\0\x01\0\x01a\0\0\x01b\0", &limits);
    assert_eq!(subscribe.unwrap_err().reason, R::QuotaExceeded);
    let unsubscribe = decode(Version::V311, 0xA2, b"\0\x01\0\x01a\0\x01b", &limits);
    assert_eq!(unsubscribe.unwrap_err().reason, R::QuotaExceeded);
}
