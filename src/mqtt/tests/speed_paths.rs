//! The short forms: acknowledgements, reuse of a frame, what is left out, reason codes.

use super::*;

#[test]
fn acknowledgements_are_short() {
    let id = PacketId::new(0x1234).unwrap();
    let mut out = Vec::new();
    encode_ack(Version::V5, AckKind::PubRel, id, ReasonCode::Success, &mut out);
    assert_eq!(out, [0x62, 2, 0x12, 0x34]);
    out.clear();
    let reason = ReasonCode::NoMatchingSubscribers;
    encode_ack(Version::V5, AckKind::PubAck, id, reason, &mut out);
    assert_eq!(out, [0x40, 3, 0x12, 0x34, 0x10]);
    let ack = decode_ack(Version::V5, AckKind::PubAck, &out[2..], &Limits::default()).unwrap();
    assert_eq!((ack.packet_id, ack.reason), (id, reason));
    out.clear();
    encode_ack(Version::V311, AckKind::PubAck, id, reason, &mut out);
    assert_eq!(out, [0x40, 2, 0x12, 0x34]);
}

#[test]
fn diagnostics_give_way() {
    let mut raw = Vec::new();
    Property::UserProperty("name", "value").encode(&mut raw);
    let user = Properties::trusted(&raw);
    let disconnect = Disconnect {
        reason_string: Some("why"),
        server_reference: Some("there"),
        properties: user,
        ..Disconnect::new(ReasonCode::UseAnotherServer)
    };
    let frame = |max| {
        let mut out = Vec::new();
        encode(Version::V5, &Packet::Disconnect(disconnect), max, &mut out).then_some(out)
    };
    let len = |max| frame(max).map(|frame| frame.len());
    assert_eq!(len(32), Some(32));
    assert_eq!(len(31), Some(18));
    assert_eq!(len(17), Some(12));
    assert_eq!(len(11), None);
}

#[test]
fn publish_in_3_1_1() {
    let mut out = Vec::new();
    let publish = PublishOut { properties: b"\x01\x01", ..PublishOut::new(b"a/b", b"hi") };
    encode_publish(Version::V311, &publish, &mut out);
    assert_eq!(out, b"\x30\x07\0\x03a/bhi");
    out.clear();
    encode_publish(Version::V5, &publish, &mut out);
    assert_eq!(out, b"\x30\x0A\0\x03a/b\x02\x01\x01hi");
}

#[test]
fn scattered_properties_are_gathered() {
    // Content Type, expiry, User Property, alias, identifier, User Property.
    let raw = b"\x03\0\x01c\x02\0\0\0\x09\x26\0\x01a\0\0\x23\0\x05\x0B\x07\x26\0\x01b\0\0";
    let properties = PublishProperties::parse(raw, &Limits::default()).unwrap();
    assert_eq!(properties.message_expiry_interval, Some(9));
    assert_eq!(properties.topic_alias.map(u16::from), Some(5));
    assert!(properties.identifiers().map(u32::from).eq([7]));
    let mut scratch = vec![1];
    let block = properties.forwardable_in(&mut scratch);
    assert_eq!(block, b"\x03\0\x01c\x26\0\x01a\0\0\x26\0\x01b\0\0");
    // Hop-by-hop ones at either end leave one slice.
    let raw = b"\x23\0\x05\x26\0\x01a\0\0\x0B\x07";
    let properties = PublishProperties::parse(raw, &Limits::default()).unwrap();
    let mut scratch = Vec::new();
    assert_eq!(properties.forwardable_in(&mut scratch), &raw[3..9]);
    assert!(scratch.is_empty(), "nothing was copied");
}

#[test]
fn reason_codes() {
    for value in 0..=255 {
        if let Some(reason) = ReasonCode::from_u8(value) {
            assert_eq!(reason.as_u8(), value);
            assert_eq!(reason.is_error(), value >= 0x80);
        }
    }
    assert!(ReasonCode::ALL.is_sorted());
    assert_eq!(ReasonCode::ALL.len(), (0..=255).filter_map(ReasonCode::from_u8).count());
    assert_eq!(ReasonCode::NotAuthorized.connack_v3(), Some(5));
    assert_eq!(ReasonCode::BadUserNameOrPassword.connack_v3(), Some(4));
    assert_eq!(ReasonCode::ServerBusy.connack_v3(), Some(3));
    assert_eq!(ReasonCode::MalformedPacket.connack_v3(), None);
}
