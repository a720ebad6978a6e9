//! What is wrong, and how it is answered (section 4.13): a reason code in version 5, a close
//! before; and nobody else notices.
//!
//! Where the specification leaves open which of Malformed Packet and Protocol Error it is, both
//! are taken.

use crate::common::cases::versions;
use crate::common::client::subscribe;
use crate::common::property::{self, *};
use crate::common::wire::{self, concat, field, packet};
use crate::common::{Broker, Client, Connect, Message, V5, V31, V311, Version, Will, broker, code};

const MALFORMED: &[u8] = &[code::MALFORMED_PACKET];
const EITHER: &[u8] = &[code::MALFORMED_PACKET, code::PROTOCOL_ERROR];
const TOPIC: &[u8] = &[code::MALFORMED_PACKET, code::PROTOCOL_ERROR, code::TOPIC_NAME_INVALID];
const FILTER: &[u8] = &[code::MALFORMED_PACKET, code::PROTOCOL_ERROR, code::TOPIC_FILTER_INVALID];

/// Strings that are no UTF-8 Encoded Strings: [MQTT-1.5.4-1], [MQTT-1.5.4-2].
const BAD_TEXT: [(&str, &[u8]); 10] = [
    ("U+0000", b"a\0b"),
    ("a surrogate, U+D800", b"a\xED\xA0\x80"),
    ("a surrogate, U+DFFF", b"\xED\xBF\xBFb"),
    ("a pair of surrogates", b"\xED\xA0\xBD\xED\xB8\x80"),
    ("an overlong U+0000", b"\xC0\x80"),
    ("an overlong slash", b"\xE0\x80\xAF"),
    ("a lone continuation", b"a\x80"),
    ("a cut sequence", b"a\xE2\x82"),
    ("beyond U+10FFFF", b"\xF4\x90\x80\x80"),
    ("0xFF", b"\xFF"),
];

/// A connection that misbehaves after CONNACK, one case after the other, and a bystander whose
/// messages keep flowing.
struct Misbehaviour {
    broker: Broker,
    version: Version,
    bystander: Client,
}

impl Misbehaviour {
    fn new(version: Version) -> Self {
        let broker = broker("");
        let mut bystander = broker.connect(version, "bystander");
        bystander.subscribe("#", 1);
        Self { broker, version, bystander }
    }

    /// The bytes are answered by one of these codes and a close.
    fn refused(&mut self, what: &str, bytes: &[u8], codes: &[u8]) {
        eprintln!("{:?}: {what}: {bytes:02x?}", self.version);
        let mut client = self.broker.connect(self.version, "misbehaves");
        client.send_lossy(bytes);
        client.expect_disconnect(codes);
    }

    /// A CONNECT that is answered by one of these codes, or before version 5 by a close.
    fn refused_connect(&mut self, what: &str, bytes: &[u8], codes: &[u8]) {
        eprintln!("{:?}: {what}: {bytes:02x?}", self.version);
        let mut client = self.broker.open(self.version);
        client.send_lossy(bytes);
        client.expect_refused_connect(codes);
    }

    /// Nothing of all that reached the bystander.
    fn unnoticed(mut self) {
        let mut client = self.broker.connect(self.version, "behaves");
        client.publish("fine", "x", 1);
        self.bystander.expect("fine", "x");
        self.bystander.expect_nothing();
    }
}

/// An empty property block in version 5, nothing before.
fn none(version: Version) -> &'static [u8] {
    if version.is_v5() { &[0] } else { &[] }
}

/// [MQTT-2.1.3-1], (3.1.1) [MQTT-2.2.2-2] Reserved flags of the fixed header, [MQTT-3.8.1-1],
/// [MQTT-3.10.1-1], [MQTT-3.6.1-1], [MQTT-3.14.1-1].
fn reserved_flags(version: Version) {
    let mut test = Misbehaviour::new(version);
    let id = [0, 1];
    let filter = concat(&[&id, none(version), &field("a"), &[0]]);
    let bare = concat(&[&id, none(version), &field("a")]);
    let cases: [(&str, u8, &[u8]); 13] = [
        ("SUBSCRIBE with 0", 0x80, &filter),
        ("SUBSCRIBE with 3", 0x83, &filter),
        ("SUBSCRIBE with 6", 0x86, &filter),
        ("UNSUBSCRIBE with 0", 0xA0, &bare),
        ("UNSUBSCRIBE with 0xF", 0xAF, &bare),
        ("PUBREL with 0", 0x60, &id),
        ("PUBREL with 1", 0x61, &id),
        ("PUBACK with 2", 0x42, &id),
        ("PUBREC with 2", 0x52, &id),
        ("PUBCOMP with 2", 0x72, &id),
        ("PINGREQ with 1", 0xC1, &[]),
        ("DISCONNECT with 8", 0xE8, &[]),
        ("DISCONNECT with 1", 0xE1, &[]),
    ];
    for (what, first_byte, body) in cases {
        test.refused(what, &packet(first_byte, body), MALFORMED);
    }
    if version.is_v5() {
        // [MQTT-3.15.1-1]
        test.refused("AUTH with 1", &packet(0xF1, &[]), MALFORMED);
    }
    let mut connect = Connect::new(version, "flags").bytes();
    connect[0] = 0x11;
    test.refused_or_closed(&connect);
    test.unnoticed();
}
versions!(reserved_flags, from 3.1.1);

/// Section 2.1.2: types that do not exist, or that only a server sends.
fn wrong_packet_types(version: Version) {
    let mut test = Misbehaviour::new(version);
    test.refused("type 0", &[0x00, 0x00], EITHER);
    test.refused("type 0 with a body", &[0x00, 0x02, 0x00, 0x01], EITHER);
    let connack: &[u8] = if version.is_v5() { &[0, 0, 0] } else { &[0, 0] };
    test.refused("CONNACK", &packet(wire::CONNACK, connack), EITHER);
    let suback = concat(&[&[0, 1], none(version), &[0]]);
    test.refused("SUBACK", &packet(wire::SUBACK, &suback), EITHER);
    let unsuback: &[u8] = if version.is_v5() { &[0, 1, 0, 0] } else { &[0, 1] };
    test.refused("UNSUBACK", &packet(wire::UNSUBACK, unsuback), EITHER);
    test.refused("PINGRESP", &packet(wire::PINGRESP, &[]), EITHER);
    if !version.is_v5() {
        test.refused("type 15", &[0xF0, 0x00], EITHER);
    }
    test.unnoticed();
}
versions!(wrong_packet_types);

/// Section 2.1.4: a Remaining Length has four bytes at most.
fn over_long_remaining_length(version: Version) {
    let mut test = Misbehaviour::new(version);
    let publish = [0x30, 0x80, 0x80, 0x80, 0x80, 0x01];
    test.refused("five bytes", &publish, MALFORMED);
    test.refused("five bytes of 0xFF", &[0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], MALFORMED);
    test.refused("five bytes of PINGREQ", &[0xC0, 0x80, 0x80, 0x80, 0x80, 0x00], MALFORMED);
    let mut client = test.broker.open(version);
    client.send(&[0x10, 0xFF, 0xFF, 0xFF, 0xFF, 0x7F]);
    client.raw_until_close();
    test.unnoticed();
}
versions!(over_long_remaining_length);

/// Bodies that are too short or too long for their type.
fn wrong_lengths(version: Version) {
    let mut test = Misbehaviour::new(version);
    let mut cases = vec![
        ("PINGREQ with a body", packet(wire::PINGREQ, &[0])),
        ("PUBACK of one byte", packet(wire::PUBACK, &[1])),
        ("PUBACK of none", packet(wire::PUBACK, &[])),
        ("PUBREC of one byte", packet(wire::PUBREC, &[1])),
        ("PUBREL of one byte", packet(wire::PUBREL, &[1])),
        ("PUBCOMP of one byte", packet(wire::PUBCOMP, &[1])),
        ("PUBLISH of none", packet(wire::PUBLISH, &[])),
        ("PUBLISH of one byte", packet(wire::PUBLISH, &[0])),
        ("a topic beyond the packet", packet(wire::PUBLISH, &[0, 9, b'a'])),
        ("no room for the identifier", packet(0x32, &concat(&[&field("a"), &[1]]))),
        ("SUBSCRIBE of one byte", packet(wire::SUBSCRIBE, &[1])),
        ("UNSUBSCRIBE of one byte", packet(wire::UNSUBSCRIBE, &[1])),
    ];
    if !version.is_v5() {
        cases.extend([
            ("PUBACK of three bytes", packet(wire::PUBACK, &[0, 1, 0])),
            ("PUBREL of four bytes", packet(wire::PUBREL, &[0, 1, 0, 0])),
            ("DISCONNECT with a body", packet(wire::DISCONNECT, &[0])),
        ]);
    } else {
        cases.extend([
            ("behind the properties", packet(wire::DISCONNECT, &[0, 0, 0])),
            ("behind the properties", packet(wire::PUBACK, &[0, 1, 0, 0, 0])),
            ("no options", packet(wire::SUBSCRIBE, &concat(&[&[0, 1, 0], &field("a")]))),
        ]);
    }
    for (what, bytes) in cases {
        test.refused(what, &bytes, EITHER);
    }
    test.unnoticed();
}
versions!(wrong_lengths);

/// A SUBSCRIBE and an UNSUBSCRIBE that end anywhere too early.
fn cut_subscriptions(version: Version) {
    let mut test = Misbehaviour::new(version);
    let whole = concat(&[&[0, 1], none(version), &field("filter"), &[1]]);
    for length in 0..whole.len() {
        test.refused("cut SUBSCRIBE", &packet(wire::SUBSCRIBE, &whole[..length]), EITHER);
        let unsubscribe = &whole[..length.min(whole.len() - 2)];
        test.refused("cut UNSUBSCRIBE", &packet(wire::UNSUBSCRIBE, unsubscribe), EITHER);
    }
    test.unnoticed();
}
versions!(cut_subscriptions);

/// [MQTT-3.3.1-4] QoS 3; [MQTT-3.3.1-2] DUP at QoS 0; [MQTT-2.2.1-3] identifier 0.
fn bad_publishes(version: Version) {
    let mut test = Misbehaviour::new(version);
    let with_id = |id: u8| concat(&[&field("a"), &[0, id], none(version), b"x"]);
    test.refused("QoS 3", &packet(0x36, &with_id(1)), MALFORMED);
    test.refused("QoS 3, DUP, RETAIN", &packet(0x3F, &with_id(1)), MALFORMED);
    test.refused("identifier 0 at QoS 1", &packet(0x32, &with_id(0)), EITHER);
    test.refused("identifier 0 at QoS 2", &packet(0x34, &with_id(0)), EITHER);
    if version != V31 {
        let body = concat(&[&field("a"), none(version), b"x"]);
        test.refused("DUP at QoS 0", &packet(0x38, &body), EITHER);
    }
    test.unnoticed();
}
versions!(bad_publishes);

/// [MQTT-3.3.2-2] Wildcards in a topic name, [MQTT-4.7.3-1] an empty one, [MQTT-3.3.2-1] ill-formed
/// text.
fn bad_topics(version: Version) {
    let mut test = Misbehaviour::new(version);
    for topic in ["#", "+", "a/#", "a/+/b", "a+", "a#b"] {
        test.refused(topic, &Message::new(topic, "x").bytes(version), TOPIC);
    }
    if !version.is_v5() {
        test.refused("no topic", &Message::new("", "x").bytes(version), TOPIC);
    }
    for (what, text) in BAD_TEXT {
        let body = concat(&[&field(text), none(version), b"x"]);
        test.refused(what, &packet(wire::PUBLISH, &body), TOPIC);
    }
    test.unnoticed();
}
versions!(bad_topics);

/// [MQTT-3.8.3-1], [MQTT-3.10.3-1] Ill-formed filters; [MQTT-2.2.1-3] identifier 0;
/// [MQTT-3.8.3-5] options that do not exist, (3.1.1) [MQTT-3.8.3-4].
fn bad_subscriptions(version: Version) {
    let mut test = Misbehaviour::new(version);
    for (what, text) in BAD_TEXT {
        let body = concat(&[&[0, 1], none(version), &field(text)]);
        test.refused(what, &packet(wire::UNSUBSCRIBE, &body), FILTER);
        let body = concat(&[&body, &[0]]);
        test.refused(what, &packet(wire::SUBSCRIBE, &body), FILTER);
    }
    test.refused("identifier 0", &subscribe(version, 0, &[("a", 0)], &[]), EITHER);
    let body = concat(&[&[0, 0], none(version), &field("a")]);
    test.refused("identifier 0", &packet(wire::UNSUBSCRIBE, &body), EITHER);
    test.refused("QoS 3", &subscribe(version, 1, &[("a", 3)], &[]), EITHER);
    test.refused("a bad one second", &subscribe(version, 1, &[("a", 0), ("b", 3)], &[]), EITHER);
    match version {
        V5 => {
            test.refused("Retain Handling 3", &subscribe(version, 1, &[("a", 0x30)], &[]), EITHER);
            test.refused("reserved bit 6", &subscribe(version, 1, &[("a", 0x40)], &[]), MALFORMED);
            test.refused("reserved bit 7", &subscribe(version, 1, &[("a", 0x80)], &[]), MALFORMED);
        }
        V311 => {
            for options in [0x04, 0x08, 0x10, 0x80, 0xFD] {
                test.refused("options", &subscribe(version, 1, &[("a", options)], &[]), EITHER);
            }
        }
        V31 => {}
    }
    test.unnoticed();
}
versions!(bad_subscriptions);

/// A property block, and a PUBLISH that holds it.
fn publish_with(block: &[u8]) -> Vec<u8> {
    packet(wire::PUBLISH, &concat(&[&field("a"), block, b"x"]))
}

/// Section 2.2.2: property blocks that do not add up, and properties that do not exist
/// (section 2.2.2.2), have a wrong type or stand in the wrong packet.
#[test]
fn bad_property_blocks() {
    let mut test = Misbehaviour::new(V5);
    let cases: [(&str, &[u8]); 11] = [
        ("longer than the packet", &[0x50]),
        ("of a length of five bytes", &[0x80, 0x80, 0x80, 0x80, 0x01]),
        ("of a length in two bytes for one [MQTT-1.5.5-1]", &[0x80, 0x00]),
        ("an unknown property", &[2, 0x7F, 0]),
        ("property 0", &[2, 0x00, 0]),
        ("an identifier of two bytes", &[3, 0x81, 0x01, 0]),
        ("a cut property", &[3, 0x02, 0, 0]),
        ("a cut string", &[4, 0x03, 0, 9, b'a']),
        ("a cut pair", &[4, 0x26, 0, 1, b'a']),
        ("a lone identifier", &[1, 0x01]),
        ("a Topic Alias of one byte", &[2, 0x23, 1]),
    ];
    for (what, block) in cases {
        test.refused(what, &publish_with(block), MALFORMED);
    }
    for (what, text) in BAD_TEXT {
        for id in [CONTENT_TYPE, RESPONSE_TOPIC] {
            let raw = concat(&[&[id], &field(text)]);
            let block = concat(&[&[raw.len() as u8], &raw]);
            test.refused(what, &publish_with(&block), TOPIC);
        }
        for raw in [
            // [MQTT-1.5.7-1] Both strings of a pair.
            concat(&[&[USER_PROPERTY], &field(text), &field("value")]),
            concat(&[&[USER_PROPERTY], &field("name"), &field(text)]),
        ] {
            let block = concat(&[&[raw.len() as u8], &raw]);
            test.refused(what, &publish_with(&block), EITHER);
        }
    }
    test.unnoticed();
}

/// [MQTT-3.1.4-1] Connect Flags that contradict themselves or the payload: the reserved one
/// [MQTT-3.1.2-3], a will's without a will [MQTT-3.1.2-11], [MQTT-3.1.2-13], its QoS 3
/// [MQTT-3.1.2-12], fields that are missing [MQTT-3.1.2-9], [MQTT-3.1.2-17], [MQTT-3.1.2-19], or
/// too many [MQTT-3.1.2-16].
fn bad_connect_flags(version: Version) {
    let mut test = Misbehaviour::new(version);
    let plain = Connect::new(version, "c");
    if version != V31 {
        test.refused_connect("reserved", &plain.bytes_with_flags(0x03), MALFORMED);
        test.refused_connect("Will QoS without a will", &plain.bytes_with_flags(0x0A), EITHER);
        test.refused_connect("Will Retain without", &plain.bytes_with_flags(0x22), EITHER);
    }
    let will = Connect::new(version, "c").will(Will::new("w", "x"));
    test.refused_connect("Will QoS 3", &will.bytes_with_flags(0x1E), EITHER);
    test.refused_connect("a will", &plain.bytes_with_flags(0x06), EITHER);
    if version != V31 {
        test.refused_connect("a user name", &plain.bytes_with_flags(0x82), EITHER);
        test.refused_connect("a password", &plain.bytes_with_flags(0xC2), EITHER);
    }
    test.refused_connect("a will unannounced", &will.bytes_with_flags(0x02), EITHER);
    let mut named = Connect::new(version, "c");
    named.username = Some("name".into());
    test.refused_connect("a user name unannounced", &named.bytes_with_flags(0x02), EITHER);
    named.password = Some(b"word".to_vec());
    test.refused_connect("a password unannounced", &named.bytes_with_flags(0x82), EITHER);
    test.unnoticed();
}
versions!(bad_connect_flags);

/// Texts of CONNECT that are none, a will's topic that is none.
fn bad_connect_texts(version: Version) {
    let mut test = Misbehaviour::new(version);
    // A place of its own for each text, filled with bytes that are replaced.
    let mut connect = Connect::new(version, "CCCC").will(Will::new("WWWW", "x"));
    connect.username = Some("UUUU".into());
    let template = connect.bytes();
    for (what, bad) in BAD_TEXT {
        for mark in [b'C', b'W', b'U'] {
            let mut bytes = template.clone();
            let at = bytes.windows(4).position(|window| window == [mark; 4]).unwrap();
            let mut text = [b'a'; 4];
            if bad.len() > 4 {
                continue;
            }
            text[..bad.len()].copy_from_slice(bad);
            if bad.len() < 4 && bad.ends_with(b"\x82") {
                // A cut sequence must be the end of its string.
                text = *b"aa\xE2\x82";
            }
            bytes[at..at + 4].copy_from_slice(&text);
            let what = format!("{what} in {}", mark as char);
            let codes = [
                code::MALFORMED_PACKET,
                code::PROTOCOL_ERROR,
                code::CLIENT_IDENTIFIER_NOT_VALID,
                code::TOPIC_NAME_INVALID,
            ];
            test.refused_connect(&what, &bytes, &codes);
        }
    }
    for topic in ["w/#", "+", ""] {
        let connect = Connect::new(version, "c").will(Will::new(topic, "x"));
        test.refused_connect("a will's topic", &connect.bytes(), TOPIC);
    }
    test.unnoticed();
}
versions!(bad_connect_texts);

/// [MQTT-3.1.4-1] A CONNECT that ends anywhere too early, or goes on behind its end.
fn cut_connects(version: Version) {
    let mut test = Misbehaviour::new(version);
    let mut connect = Connect::new(version, "client").will(Will::new("will", "x"));
    connect.username = Some("name".into());
    connect.password = Some(b"word".to_vec());
    if version.is_v5() {
        connect = connect.with(property::session_expiry(1)).with(user("a", "b"));
    }
    let bytes = connect.bytes();
    let body = &bytes[2..];
    let version_known = if version == V31 { 9 } else { 7 };
    for length in 0..body.len() {
        // Version 3.1 lets user name and password be missing, whatever the flags say.
        if version == V31 && [6, 12].contains(&(body.len() - length)) {
            continue;
        }
        let cut = packet(wire::CONNECT, &body[..length]);
        if length < version_known {
            // Too short to tell whose answer it would be.
            let mut client = test.broker.open(version);
            client.send_lossy(&cut);
            client.raw_until_close();
        } else {
            test.refused_connect("cut CONNECT", &cut, EITHER);
        }
    }
    let long = packet(wire::CONNECT, &concat(&[body, &[0]]));
    test.refused_connect("a byte too many", &long, EITHER);
    test.unnoticed();
}
versions!(cut_connects);

/// Garbage of every kind, before CONNECT and after: nobody else notices.
fn garbage(version: Version) {
    let mut test = Misbehaviour::new(version);
    test.bystander.unsubscribe(&["#"]);
    test.bystander.subscribe("fine", 1);
    // xorshift64: the same bytes in every run.
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for n in 0..300 {
        let mut bytes: Vec<u8> = (0..next() % 200).map(|_| (next() >> 24) as u8).collect();
        let mut client = if n % 3 == 0 {
            test.broker.open(version)
        } else {
            test.broker.connect(version, "garbage")
        };
        if n % 3 == 2 {
            // A sound fixed header around it, of every type.
            bytes = packet((n as u8) << 4 | if n % 2 == 0 { 2 } else { 0 }, &bytes);
        }
        client.send_lossy(&bytes);
        client.hang_up_unread();
        if n % 50 == 0 {
            test.bystander.ping();
        }
    }
    test.unnoticed();
}
versions!(garbage);

impl Misbehaviour {
    /// A first packet that is not even a CONNECT: refused in whatever way, and closed.
    fn refused_or_closed(&mut self, bytes: &[u8]) {
        let mut client = self.broker.open(self.version);
        client.send_lossy(bytes);
        let answer = client.raw_until_close();
        assert!(answer.is_empty() || answer[0] == wire::CONNACK && answer[3] != 0, "{answer:x?}");
    }
}

/// [MQTT-1.5.5-1] A Remaining Length in more bytes than it takes is malformed in version 5; older
/// versions do not forbid it.
#[test]
fn padded_remaining_length() {
    let broker = crate::common::broker("");
    let mut client = broker.connect(V5, "client");
    client.send(&[wire::PINGREQ, 0x80, 0x00]);
    client.expect_disconnect(MALFORMED);
    let mut client = broker.connect(crate::common::V311, "client");
    client.send(&[wire::PINGREQ, 0x80, 0x00]);
    client.ping();
}
