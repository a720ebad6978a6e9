//! What each packet from a client may hold, whole tables of it written down from the
//! specification: properties (table 2-4), reason codes (sections 3.4 to 3.14), flags of the fixed
//! header (table 2-2), first packets, refusals of CONNECT.

use crate::common::cases::versions;
use crate::common::client::{disconnect, subscribe, unsubscribe};
use crate::common::property::{self, *};
use crate::common::wire::{self, concat, field, packet};
use crate::common::{
    Broker, Client, Connect, Event, Message, Packet, V5, V31, Version, Will, broker, code,
};

const MALFORMED: &[u8] = &[code::MALFORMED_PACKET];
const PROTOCOL: &[u8] = &[code::PROTOCOL_ERROR];
const EITHER: &[u8] = &[code::MALFORMED_PACKET, code::PROTOCOL_ERROR];

/// The places of properties that a client sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Connect,
    Will,
    Publish,
    Acknowledgement(u8),
    Subscribe,
    Unsubscribe,
    Disconnect,
}

const PLACES: [Place; 10] = [
    Place::Connect,
    Place::Will,
    Place::Publish,
    Place::Acknowledgement(wire::PUBACK),
    Place::Acknowledgement(wire::PUBREC),
    Place::Acknowledgement(wire::PUBREL),
    Place::Acknowledgement(wire::PUBCOMP),
    Place::Subscribe,
    Place::Unsubscribe,
    Place::Disconnect,
];

/// Table 2-4: every property with a sound value, and where a client may send it.
fn property_table() -> Vec<(Property, &'static [Place])> {
    use Place::{Connect, Disconnect, Publish, Subscribe, Will};
    vec![
        (byte(PAYLOAD_FORMAT_INDICATOR, 1), &[Publish, Will]),
        (message_expiry(0), &[Publish, Will]),
        (text(CONTENT_TYPE, ""), &[Publish, Will]),
        (text(RESPONSE_TOPIC, "r"), &[Publish, Will]),
        (binary(CORRELATION_DATA, b""), &[Publish, Will]),
        // In PUBLISH only from a server [MQTT-3.3.4-6].
        (subscription_identifier(268_435_455), &[Subscribe]),
        (session_expiry(0), &[Connect, Disconnect]),
        (text(ASSIGNED_CLIENT_IDENTIFIER, "x"), &[]),
        (two(SERVER_KEEP_ALIVE, 1), &[]),
        (text(AUTHENTICATION_METHOD, "x"), &[Connect]),
        (binary(AUTHENTICATION_DATA, b"x"), &[Connect]),
        (byte(REQUEST_PROBLEM_INFORMATION, 0), &[Connect]),
        (will_delay(0), &[Will]),
        (byte(REQUEST_RESPONSE_INFORMATION, 0), &[Connect]),
        (text(RESPONSE_INFORMATION, "x"), &[]),
        (text(SERVER_REFERENCE, "x"), &[Disconnect]),
        (text(REASON_STRING, ""), &PLACES[3..7]),
        (receive_maximum(1), &[Connect]),
        (topic_alias_maximum(0), &[Connect]),
        (topic_alias(1), &[Publish]),
        (byte(MAXIMUM_QOS, 1), &[]),
        (byte(RETAIN_AVAILABLE, 1), &[]),
        (user("", ""), &PLACES),
        (maximum_packet_size(1_000), &[Connect]),
        (byte(WILDCARD_SUBSCRIPTION_AVAILABLE, 1), &[]),
        (byte(SUBSCRIPTION_IDENTIFIERS_AVAILABLE, 1), &[]),
        (byte(SHARED_SUBSCRIPTION_AVAILABLE, 1), &[]),
    ]
}

fn allowed(property: &Property, places: &[Place], place: Place) -> bool {
    // Reason String in DISCONNECT besides the acknowledgements.
    places.contains(&place) || property.id == REASON_STRING && place == Place::Disconnect
}

/// A packet with these properties, sound but for them.
fn packet_with(place: Place, properties: &[Property]) -> Vec<u8> {
    let block = block(properties);
    match place {
        Place::Connect => {
            let mut connect = Connect::new(V5, "table");
            connect.properties = properties.to_vec();
            connect.bytes()
        }
        Place::Will => {
            let mut will = Will::new("will", "x");
            will.properties = properties.to_vec();
            Connect::new(V5, "table").will(will).bytes()
        }
        Place::Publish => packet(wire::PUBLISH, &concat(&[&field("topic"), &block, b"x"])),
        Place::Acknowledgement(first) => packet(first, &concat(&[&[0, 9, 0], &block])),
        Place::Subscribe => subscribe(V5, 7, &[("filter", 0)], properties),
        Place::Unsubscribe => {
            packet(wire::UNSUBSCRIBE, &concat(&[&[0, 7], &block, &field("filter")]))
        }
        Place::Disconnect => disconnect(0, properties),
    }
}

/// What became of a packet: nothing but what it asks for, or a refusal by this code.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Taken,
    Refused(u8),
}

fn outcome(broker: &Broker, place: Place, properties: &[Property]) -> Outcome {
    let bytes = packet_with(place, properties);
    if matches!(place, Place::Connect | Place::Will) {
        let mut client = broker.open(V5);
        client.send(&bytes);
        let code = client.connack().code;
        if code == code::SUCCESS {
            client.ping();
            return Outcome::Taken;
        }
        client.expect_closed();
        return Outcome::Refused(code);
    }
    let connect = Connect::new(V5, "table").with(session_expiry(1));
    let mut client = broker.connect_with(&connect).0;
    client.send(&bytes);
    if place == Place::Disconnect {
        return match client.event() {
            Event::Closed => Outcome::Taken,
            other => refusal(&mut client, other),
        };
    }
    after(&mut client)
}

/// Whether the connection goes on after what was sent on it.
fn after(client: &mut Client) -> Outcome {
    client.send_lossy(&packet(wire::PINGREQ, &[]));
    loop {
        match client.event() {
            Event::Packet(Packet::PingResp) => return Outcome::Taken,
            other @ Event::Packet(Packet::Disconnect(_)) => return refusal(client, other),
            Event::Packet(_) => {}
            Event::Closed if client.version.is_v5() => panic!("closed without DISCONNECT"),
            Event::Closed => return Outcome::Refused(0),
        }
    }
}

fn refusal(client: &mut Client, event: Event) -> Outcome {
    match event {
        Event::Packet(Packet::Disconnect(reason)) => {
            client.expect_closed();
            Outcome::Refused(reason.code)
        }
        other => panic!("{other:?}"),
    }
}

#[track_caller]
fn refused(what: &str, outcome: &Outcome, codes: &[u8]) {
    match outcome {
        Outcome::Refused(code) if codes.contains(code) => {}
        other => panic!("{what}: {other:x?}, expected one of {codes:#x?}"),
    }
}

/// Table 2-4: a property where it may be, and where it may not (section 2.2.2.2).
#[test]
fn properties_stand_where_they_may() {
    let broker = broker("");
    for (property, places) in property_table() {
        for place in PLACES {
            let what = format!("{property:?} in {place:?}");
            // Needs its method beside it, and no method is supported.
            let authentication = [AUTHENTICATION_METHOD, AUTHENTICATION_DATA];
            if place == Place::Connect && authentication.contains(&property.id) {
                let method = text(AUTHENTICATION_METHOD, "x");
                let data = binary(AUTHENTICATION_DATA, b"x");
                let got = outcome(&broker, place, &[method, data]);
                refused(&what, &got, &[code::BAD_AUTHENTICATION_METHOD]);
                continue;
            }
            let got = outcome(&broker, place, std::slice::from_ref(&property));
            if allowed(&property, places, place) {
                assert_eq!(got, Outcome::Taken, "{what}");
            } else if (property.id, place) == (SUBSCRIPTION_IDENTIFIER, Place::Publish) {
                // Known there, but not from a client.
                refused(&what, &got, PROTOCOL);
            } else {
                refused(&what, &got, MALFORMED);
            }
        }
    }
}

/// Sections 3.1.2.11 to 3.14.2.2: a property that is there twice is a Protocol Error; only the User
/// Property is not.
#[test]
fn properties_stand_there_once() {
    let broker = broker("");
    for (property, places) in property_table() {
        for place in PLACES.into_iter().filter(|place| allowed(&property, places, *place)) {
            let got = outcome(&broker, place, &[property.clone(), property.clone()]);
            let what = format!("{property:?} twice in {place:?}");
            if property.id == USER_PROPERTY {
                assert_eq!(got, Outcome::Taken, "{what}");
            } else {
                refused(&what, &got, PROTOCOL);
            }
        }
    }
}

/// Section 2.2.2.2: identifiers that no property has are malformed wherever they stand.
#[test]
fn unknown_properties_are_malformed() {
    let broker = broker("");
    let known: Vec<u8> = property_table().iter().map(|(property, _)| property.id).collect();
    for id in (0..=0x7F).filter(|id| !known.contains(id)) {
        let place = PLACES[usize::from(id) % PLACES.len()];
        let got = outcome(&broker, place, &[byte(id, 0)]);
        refused(&format!("property {id:#x} in {place:?}"), &got, MALFORMED);
    }
    for place in PLACES {
        let got = outcome(&broker, place, &[byte(0x7F, 0)]);
        refused(&format!("property 0x7F in {place:?}"), &got, MALFORMED);
    }
}

/// Values that a property may not have, each with the code that the specification names.
#[test]
fn properties_have_values_they_may() {
    let broker = broker("");
    let cases = [
        // Sections 3.1.2.11.3 and .4, 3.8.2.1.2, [MQTT-3.3.2-8] and 3.3.2.3.4.
        (Place::Connect, receive_maximum(0), PROTOCOL),
        (Place::Connect, maximum_packet_size(0), PROTOCOL),
        (Place::Subscribe, subscription_identifier(0), PROTOCOL),
        (Place::Publish, topic_alias(0), &[code::TOPIC_ALIAS_INVALID]),
        // Above the broker's maximum [MQTT-3.3.2-9].
        (Place::Publish, topic_alias(u16::MAX), &[code::TOPIC_ALIAS_INVALID]),
        // Sections 3.1.2.11.6 and .7, 3.3.2.3.2.
        (Place::Connect, byte(REQUEST_RESPONSE_INFORMATION, 2), PROTOCOL),
        (Place::Connect, byte(REQUEST_PROBLEM_INFORMATION, 0xFF), PROTOCOL),
        (Place::Publish, byte(PAYLOAD_FORMAT_INDICATOR, 2), EITHER),
        (Place::Will, byte(PAYLOAD_FORMAT_INDICATOR, 2), EITHER),
        // [MQTT-3.3.2-14]
        (Place::Publish, text(RESPONSE_TOPIC, "a/#"), EITHER),
        (Place::Will, text(RESPONSE_TOPIC, "+"), EITHER),
    ];
    for (place, property, codes) in cases {
        let got = outcome(&broker, place, std::slice::from_ref(&property));
        refused(&format!("{property:?} in {place:?}"), &got, codes);
    }
    for (place, property) in [
        (Place::Connect, session_expiry(u32::MAX)),
        (Place::Connect, receive_maximum(u16::MAX)),
        (Place::Connect, topic_alias_maximum(u16::MAX)),
        (Place::Connect, maximum_packet_size(u32::MAX)),
        (Place::Will, will_delay(u32::MAX)),
        (Place::Publish, message_expiry(u32::MAX)),
        (Place::Subscribe, subscription_identifier(1)),
    ] {
        let got = outcome(&broker, place, std::slice::from_ref(&property));
        assert_eq!(got, Outcome::Taken, "{property:?}");
    }
}

/// [MQTT-3.4.2-1], [MQTT-3.5.2-1], [MQTT-3.6.2-1], [MQTT-3.7.2-1]: all 256 reason codes in each
/// acknowledgement.
#[test]
fn acknowledgements_have_their_reason_codes() {
    const OF_PUBLISH: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
    const OF_RELEASE: &[u8] = &[0x00, 0x92];
    let broker = broker("");
    for (first_byte, codes) in [
        (wire::PUBACK, OF_PUBLISH),
        (wire::PUBREC, OF_PUBLISH),
        (wire::PUBREL, OF_RELEASE),
        (wire::PUBCOMP, OF_RELEASE),
    ] {
        let mut client = broker.connect(V5, "codes");
        for code in 0..=0xFF {
            client.send_ack_code(first_byte, 9, code);
            let got = after(&mut client);
            if codes.contains(&code) {
                assert_eq!(got, Outcome::Taken, "{code:#x} in {first_byte:#x}");
            } else {
                refused(&format!("{code:#x} in {first_byte:#x}"), &got, EITHER);
                client = broker.connect(V5, "codes");
            }
        }
    }
}

/// [MQTT-3.14.2-1] All 256 reason codes in DISCONNECT: a client has 14 of them.
#[test]
fn disconnect_has_its_reason_codes() {
    const OF_CLIENTS: &[u8] =
        &[0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99];
    let broker = broker("");
    for code in 0..=0xFF {
        let mut client = broker.connect(V5, "codes");
        client.send(&packet(wire::DISCONNECT, &[code]));
        match client.event() {
            Event::Closed => assert!(OF_CLIENTS.contains(&code), "DISCONNECT {code:#x} was taken"),
            other => {
                let got = refusal(&mut client, other);
                assert!(!OF_CLIENTS.contains(&code), "DISCONNECT {code:#x} was refused");
                refused(&format!("DISCONNECT {code:#x}"), &got, EITHER);
            }
        }
    }
}

/// A body that is sound in a packet of this type.
fn sound_body(version: Version, kind: u8, flags: u8) -> Vec<u8> {
    let none: &[u8] = if version.is_v5() { &[0] } else { &[] };
    let id = [0, 9];
    match kind {
        1 => Connect::new(version, "flags").bytes()[2..].to_vec(),
        2 if version.is_v5() => vec![0, 0, 0],
        2 => vec![0, 0],
        3 if flags & 0x06 == 0 => concat(&[&field("topic"), none, b"x"]),
        3 => concat(&[&field("topic"), &id, none, b"x"]),
        4..=7 => id.to_vec(),
        8 => subscribe(version, 9, &[("filter", 0)], &[])[2..].to_vec(),
        9 => concat(&[&id, none, &[0]]),
        10 => unsubscribe(version, 9, &["filter"])[2..].to_vec(),
        11 if version.is_v5() => vec![0, 9, 0, 0],
        11 => id.to_vec(),
        15 => concat(&[&[0x18], &block(&[text(AUTHENTICATION_METHOD, "x")])]),
        _ => Vec::new(),
    }
}

/// The flags a client may set in a packet of this type.
fn flags_allowed(version: Version, kind: u8, flags: u8) -> bool {
    match (kind, flags) {
        (3, _) => flags & 0x06 != 0x06 && (flags & 0x0E != 0x08 || version == V31),
        // Version 3.1 sends these again, with DUP.
        (6 | 8 | 10, 0x0A) => version == V31,
        (6 | 8 | 10, _) => flags == 0x02,
        (4 | 5 | 7 | 12 | 14, _) => flags == 0,
        // Reserved, a second CONNECT, those that only a server sends, AUTH without a method.
        _ => false,
    }
}

/// [MQTT-2.1.3-1], (3.1.1) [MQTT-2.2.2-1], [MQTT-2.2.2-2], [MQTT-3.3.1-4], [MQTT-3.6.1-1],
/// [MQTT-3.8.1-1], [MQTT-3.10.1-1], [MQTT-3.14.1-1], [MQTT-3.15.1-1]: all 256 first bytes after
/// CONNECT.
fn first_bytes_after_connect(version: Version) {
    let broker = broker("");
    for first_byte in 0..=0xFF_u8 {
        let (kind, flags) = (first_byte >> 4, first_byte & 0x0F);
        let mut client = broker.connect(version, "flags");
        client.send_lossy(&packet(first_byte, &sound_body(version, kind, flags)));
        let what = format!("{version:?}: first byte {first_byte:#04x}");
        if !flags_allowed(version, kind, flags) {
            let codes = if [3, 4, 5, 6, 7, 8, 10, 12, 14].contains(&kind) && kind << 4 != 0x30 {
                MALFORMED
            } else {
                EITHER
            };
            eprintln!("{what}");
            client.expect_disconnect(codes);
        } else if kind == 14 {
            client.expect_closed();
        } else {
            assert_eq!(after(&mut client), Outcome::Taken, "{what}");
        }
    }
}
versions!(first_bytes_after_connect);

/// [MQTT-3.1.0-1], [MQTT-3.14.0-1] All 256 first bytes of a first packet: only CONNECT's own is
/// answered, all others are closed without a word.
fn first_bytes_before_connect(version: Version) {
    let broker = broker("");
    for first_byte in 0..=0xFF_u8 {
        let mut client = broker.open(version);
        client.send_lossy(&packet(first_byte, &Connect::new(version, "first").bytes()[2..]));
        if first_byte == wire::CONNECT {
            assert_eq!(client.connack().code, code::SUCCESS);
        } else {
            let answer = client.raw_until_close();
            assert!(answer.is_empty(), "{version:?}: {first_byte:#04x}: {answer:x?}");
        }
    }
}
versions!(first_bytes_before_connect);

/// The CONNECT that `change` made of a plain one's bytes, and the answer to it.
fn answer_to(broker: &Broker, connect: &Connect, change: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = connect.bytes();
    change(&mut bytes);
    let mut client = broker.open(connect.version);
    client.send_lossy(&bytes);
    client.raw_until_close()
}

/// Where the protocol level stands.
fn level_at(version: Version) -> usize {
    if version == V31 { 10 } else { 8 }
}

/// (3.1.1) [MQTT-3.1.2-2] Return code 1, [MQTT-3.1.3-8] and [MQTT-3.1.3-9] return code 2, and
/// [MQTT-3.1.4-1], [MQTT-3.2.2-6] no CONNACK at all where there is no return code for it;
/// [MQTT-3.2.2-4] session present 0, [MQTT-3.2.2-5] close. The same in 3.1.
fn refuses_connects_by_return_code(version: Version) {
    let broker = broker("[limits]\nmax_client_id_bytes = \"23B\"");
    let plain = Connect::new(version, "client");
    let unchanged = |_: &mut Vec<u8>| {};
    let answer = answer_to(&broker, &plain, |bytes| bytes[level_at(version)] = 2);
    assert_eq!(answer, [0x20, 2, 0, 1]);
    let answer = answer_to(&broker, &Connect::new(version, &"x".repeat(24)), unchanged);
    assert_eq!(answer, [0x20, 2, 0, 2]);
    let answer = answer_to(&broker, &Connect::new(version, "").resume(), unchanged);
    assert_eq!(answer, [0x20, 2, 0, 2]);
    let with_will = |topic: &str| Connect::new(version, "client").will(Will::new(topic, "x"));
    let answer = answer_to(&broker, &with_will("$SYS/x"), unchanged);
    assert_eq!(answer, [0x20, 2, 0, 5], "a will that is not authorized");
    for (what, connect, flags) in [
        ("a Will QoS of 3", with_will("will"), 0x1E),
        ("a will that is not there", plain.clone(), 0x06),
        ("a user name and password out of nowhere", plain.clone(), 0x42),
        ("a will's topic with wildcards", with_will("#"), 0x06),
        ("bytes behind its end", with_will("will"), 0x02),
    ] {
        let mut client = broker.open(version);
        client.send_lossy(&connect.bytes_with_flags(flags));
        assert_eq!(client.raw_until_close(), b"", "{what}");
    }
    let answer = answer_to(&broker, &plain, |bytes| {
        let last = bytes.len() - 1;
        bytes[last] = 0;
    });
    assert_eq!(answer, b"", "U+0000");
}
versions!(refuses_connects_by_return_code, 3.x);

/// Section 4.13.1, [MQTT-3.1.4-1], [MQTT-3.1.4-2]: a CONNECT is refused by the code of its error.
#[test]
fn refuses_connects_by_reason_code() {
    let broker = broker("[limits]\nmax_client_id_bytes = \"23B\"");
    let plain = Connect::new(V5, "client");
    let will = |payload: &str| Will::new("will", payload);
    let code_of = |bytes: &[u8]| {
        let mut client = broker.open(V5);
        client.send_lossy(bytes);
        let connack = client.connack();
        assert!(!connack.session_present, "[MQTT-3.2.2-6]");
        client.expect_closed();
        connack.code
    };
    let changed = |at: usize, value: u8| {
        let mut bytes = plain.bytes();
        bytes[at] = value;
        bytes
    };
    // [MQTT-1.5.5-1]
    let mut padded = plain.bytes();
    padded[1] |= 0x80;
    padded.insert(2, 0x00);
    let zero = plain.clone().with(receive_maximum(0));
    let data = plain.clone().with(binary(AUTHENTICATION_DATA, b"x"));
    let method = plain.clone().with(text(AUTHENTICATION_METHOD, "x"));
    let mut not_text = will("").with(byte(PAYLOAD_FORMAT_INDICATOR, 1));
    not_text.payload = vec![0xFF];
    for (what, bytes, code) in [
        ("a padded Remaining Length", padded, 0x81),
        ("the reserved flag", plain.bytes_with_flags(0x03), 0x81),
        ("a Will QoS of 3", plain.clone().will(will("x")).bytes_with_flags(0x1E), 0x81),
        ("U+0000", changed(plain.bytes().len() - 1, 0), 0x81),
        ("Receive Maximum 0", zero.bytes(), 0x82),
        ("Authentication Data alone", data.bytes(), 0x82),
        ("an unknown level", changed(level_at(V5), 6), 0x84),
        ("a long Client Identifier", Connect::new(V5, &"x".repeat(24)).bytes(), 0x85),
        ("a will on $SYS", plain.clone().will(Will::new("$SYS/x", "x")).bytes(), 0x87),
        ("an unknown method", method.bytes(), 0x8C),
        ("a will's topic", plain.clone().will(Will::new("a/#", "x")).bytes(), 0x90),
        ("a will that is no text", plain.clone().will(not_text).bytes(), 0x99),
    ] {
        assert_eq!(code_of(&bytes), code, "{what}");
    }
}

/// [MQTT-4.13.1-1], (3.1.1) [MQTT-4.8.0-1]: what comes before an error is done, what comes behind
/// it is not, whether all is read at once or byte by byte.
fn an_error_ends_what_it_stands_in(version: Version) {
    let broker = broker("");
    let mut watcher = broker.connect(version, "watcher");
    watcher.subscribe("t", 0);
    let errors = [packet(0x36, &[]), packet(wire::SUBSCRIBE, &[0, 1]), packet(0x00, &[])];
    for (n, error) in errors.iter().enumerate() {
        for singly in [false, true] {
            let before = format!("before {n} {singly}");
            let bytes = concat(&[
                &Message::new("t", &before).bytes(version),
                error,
                &Message::new("t", "behind").bytes(version),
            ]);
            let mut client = broker.connect(version, "errs");
            if singly {
                bytes.iter().for_each(|&byte| client.send_lossy(&[byte]));
            } else {
                client.send_lossy(&bytes);
            }
            client.expect_disconnect(MALFORMED);
            watcher.expect("t", &before);
        }
    }
    let mut last = broker.connect(version, "last");
    watcher.expect_nothing_from(&mut last);
}
versions!(an_error_ends_what_it_stands_in);

/// [MQTT-1.5.5-1] A Remaining Length in more bytes than it takes: versions before 5 do not forbid it,
/// in CONNECT as in any packet.
fn takes_padded_lengths(version: Version) {
    let broker = broker("");
    let mut bytes = Connect::new(version, "padded").bytes();
    bytes[1] |= 0x80;
    bytes.insert(2, 0x80);
    bytes.insert(3, 0x00);
    let mut client = broker.open(version);
    client.send(&bytes);
    assert_eq!(client.connack().code, code::SUCCESS);
    client.send(&[wire::PINGREQ, 0x80, 0x80, 0x80, 0x00]);
    assert_eq!(client.event(), Event::Packet(Packet::PingResp));
}
versions!(takes_padded_lengths, 3.x);

/// A property block: its length and these.
fn block(properties: &[Property]) -> Vec<u8> {
    property::block(properties)
}
