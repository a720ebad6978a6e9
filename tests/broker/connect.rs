//! CONNECT and CONNACK (sections 3.1, 3.2).

use crate::common::cases::versions;
use crate::common::client::{no_properties, subscribe};
use crate::common::property::{self, *};
use crate::common::wire::{self, field, packet};
use crate::common::{
    Client, Connect, Event, Message, Packet, V5, V31, V311, Version, Will, broker, code,
};

/// [MQTT-3.1.4-5] A CONNECT is acknowledged with success; a clean one has no session present
/// [MQTT-3.2.2-2].
fn accepts_and_acknowledges(version: Version) {
    let broker = broker("");
    let (mut client, connack) = broker.connect_with(&Connect::new(version, "client"));
    assert!(!connack.session_present);
    client.expect_nothing();
}
versions!(accepts_and_acknowledges);

/// [MQTT-3.1.3-1] Every field there is, in order: id, will, user name, password.
fn accepts_every_field(version: Version) {
    let broker = broker("");
    let mut connect = Connect::new(version, "everything")
        .keep_alive(600)
        .will(Will::new("will/topic", "gone").qos(2).retain());
    connect.username = Some("somebody".into());
    connect.password = Some(vec![0x00, 0xFF, 0x80]);
    let (mut client, _) = broker.connect_with(&connect);
    client.ping();
}
versions!(accepts_every_field);

/// Section 3.1.2.11: every property CONNECT and a will may have.
#[test]
fn accepts_every_connect_property() {
    let broker = broker("");
    let will = Will::new("will", "gone")
        .with(property::will_delay(1))
        .with(byte(PAYLOAD_FORMAT_INDICATOR, 1))
        .with(property::message_expiry(60))
        .with(text(CONTENT_TYPE, "text/plain"))
        .with(text(RESPONSE_TOPIC, "answers"))
        .with(binary(CORRELATION_DATA, &[0, 1, 2]))
        .with(property::user("a", "1"))
        .with(property::user("a", "1"));
    let connect = Connect::new(V5, "properties")
        .with(property::session_expiry(5))
        .with(property::receive_maximum(7))
        .with(property::maximum_packet_size(100_000))
        .with(property::topic_alias_maximum(3))
        .with(byte(REQUEST_RESPONSE_INFORMATION, 1))
        .with(byte(REQUEST_PROBLEM_INFORMATION, 1))
        .with(property::user("b", "2"))
        .with(property::user("b", "3"))
        .will(will);
    let (mut client, _) = broker.connect_with(&connect);
    client.ping();
}

/// [MQTT-3.2.0-1] CONNACK comes before anything else, [MQTT-3.2.0-2] once, also when a client
/// does not wait for it; several packets in one write are all answered.
fn answers_packets_sent_along_with_connect(version: Version) {
    let broker = broker("");
    let mut client = broker.open(version);
    let mut bytes = Connect::new(version, "hasty").bytes();
    bytes.extend(subscribe(version, 1, &[("own", 1)], &[]));
    bytes.extend(Message::new("own", "hello").qos(1).id(2).bytes(version));
    bytes.extend(packet(wire::PINGREQ, &[]));
    client.send(&bytes);
    assert!(matches!(client.next(), Packet::ConnAck(connack) if connack.code == 0));
    assert_eq!(client.wait_suback(1).codes, [1]);
    assert_eq!(client.wait_puback(2).code, code::SUCCESS);
    client.ping();
    client.expect("own", "hello");
    client.expect_nothing();
}
versions!(answers_packets_sent_along_with_connect);

/// Section 4.2: the stream has no packet boundaries; a byte at a time is the same.
fn reads_packets_byte_by_byte(version: Version) {
    let broker = broker("");
    let mut client = broker.open(version);
    let mut bytes = Connect::new(version, "slow").will(Will::new("w", "x")).bytes();
    bytes.extend(subscribe(version, 1, &[("own", 2)], &[]));
    bytes.extend(Message::new("own", vec![b'x'; 200]).qos(1).id(2).bytes(version));
    for byte in bytes {
        client.send(&[byte]);
    }
    assert_eq!(client.connack().code, code::SUCCESS);
    assert_eq!(client.wait_suback(1).codes, [2]);
    assert_eq!(client.wait_puback(2).code, code::SUCCESS);
    client.expect("own", vec![b'x'; 200]);
}
versions!(reads_packets_byte_by_byte);

/// [MQTT-3.1.0-1] The first packet must be CONNECT; [MQTT-3.14.0-1] without a CONNACK there is no
/// DISCONNECT either.
fn closes_when_the_first_packet_is_not_connect(version: Version) {
    let broker = broker("");
    let firsts = [
        packet(wire::PINGREQ, &[]),
        Message::new("topic", "early").retain().bytes(version),
        subscribe(version, 1, &[("topic", 0)], &[]),
        packet(wire::DISCONNECT, &[]),
        packet(wire::PUBACK, &[0, 1]),
    ];
    for first in firsts {
        let mut client = broker.open(version);
        client.send(&first);
        client.expect_closed();
    }
    let mut client = broker.connect(version, "later");
    client.subscribe("topic", 0);
    client.expect_nothing();
}
versions!(closes_when_the_first_packet_is_not_connect);

/// [MQTT-3.1.0-2] A second CONNECT is a protocol error.
fn closes_on_a_second_connect(version: Version) {
    let broker = broker("");
    let mut client = broker.connect(version, "twice");
    client.send(&Connect::new(version, "twice").bytes());
    client.expect_disconnect(&[code::PROTOCOL_ERROR]);
}
versions!(closes_on_a_second_connect);

/// [MQTT-3.1.2-2] A protocol level that is not served: Return Code 1 or Reason Code 0x84, close.
#[test]
fn refuses_unknown_protocol_levels() {
    let broker = broker("");
    for (name, level) in [("MQTT", 6), ("MQTT", 2), ("MQTT", 0x7F), ("MQIsdp", 9)] {
        let mut body = field(name);
        body.extend([level, 0x02, 0, 0, 0]);
        body.extend(field("client"));
        let mut client = broker.open(V311);
        client.send(&packet(wire::CONNECT, &body));
        let connack = client.raw_until_close();
        // A broker answers in the form of version 3.1.1 or of version 5.
        let refusals: [&[u8]; 2] = [&[0x20, 0x02, 0x00, 0x01], &[0x20, 0x03, 0x00, 0x84, 0x00]];
        let fine = refusals.contains(&connack.as_slice())
            || connack.starts_with(&[0x20]) && connack.get(2..4) == Some(&[0x00, 0x84]);
        assert!(fine, "{name} {level}: {connack:x?}");
    }
}

/// [MQTT-3.1.2-1] A protocol name that is none: close, at most with a refusal before it.
#[test]
fn refuses_unknown_protocol_names() {
    let broker = broker("");
    let names = ["MQTX", "mqtt", "", "MQTTT", "MQIsdp"];
    for (version, name) in names.into_iter().flat_map(|name| [(V311, name), (V5, name)]) {
        let level = if version == V5 { 5 } else { 4 };
        let mut body = field(name);
        body.extend([level, 0x02, 0, 0]);
        body.extend((version == V5).then_some(0));
        body.extend(field("client"));
        let mut client = broker.open(version);
        client.send(&packet(wire::CONNECT, &body));
        let answer = client.raw_until_close();
        let refused = answer.is_empty() || answer[0] == 0x20 && answer[2] == 0 && answer[3] != 0;
        assert!(refused, "{name} {level}: {answer:x?}");
    }
}

/// Mosquitto's bridges set the highest bit of the protocol level.
#[test]
fn accepts_the_bridge_bit() {
    let broker = broker("");
    for (version, level) in [(V31, 0x83), (V311, 0x84)] {
        let mut bytes = Connect::new(version, "bridge").bytes();
        let at = if version == V31 { 10 } else { 8 };
        assert_eq!(bytes[at], version as u8);
        bytes[at] = level;
        let mut client = broker.open(version);
        client.send(&bytes);
        assert_eq!(client.connack().code, code::SUCCESS);
    }
}

/// A bridge in 3.x gets nothing back that it sent itself, and sees which messages are retained, as
/// Mosquitto has it: without the first a loop of bridges would never end.
#[test]
fn treats_bridges_as_such() {
    let broker = broker("");
    for (version, at) in [(V31, 10), (V311, 8)] {
        let mut bytes = Connect::new(version, "bridge").bytes();
        bytes[at] |= 0x80;
        let mut bridge = broker.open(version);
        bridge.send(&bytes);
        assert_eq!(bridge.connack().code, code::SUCCESS);
        bridge.subscribe("#", 1);
        bridge.publish("from/the/bridge", "x", 1);
        let mut other = broker.connect(version, "other");
        other.publish_retained("t", "kept", 1);
        assert!(bridge.expect("t", "kept").retain);
        other.publish_retained("t", "", 1);
        assert!(bridge.expect("t", "").retain);
        bridge.expect_nothing();
    }
}

/// A bridge of Mosquitto says under `$SYS` of the other broker whether it is there, if it is not told to be silent.
/// That goes nowhere, and is no reason to refuse it.
#[test]
fn a_bridge_that_tells_of_itself_comes_in() {
    const STATE: &str = "$SYS/broker/connection/edge.up/state";
    let broker = broker("");
    for (version, at) in [(V31, 10), (V311, 8)] {
        let mut watcher = broker.connect(version, "watcher");
        watcher.subscribe("$SYS/broker/connection/#", 1);
        let will = Will::new(STATE, "0").qos(1).retain();
        let mut bytes = Connect::new(version, "edge.up").will(will).bytes();
        bytes[at] |= 0x80;
        let mut bridge = broker.open(version);
        bridge.send(&bytes);
        assert_eq!(bridge.connack().code, code::SUCCESS);
        bridge.publish_retained(STATE, "1", 1);
        drop(bridge);
        watcher.expect_nothing();
    }
}

/// [MQTT-1.5.4-3] U+FEFF is a character like any other: not skipped, not stripped.
fn keeps_byte_order_marks(version: Version) {
    let broker = broker("");
    let mut client = broker.connect(version, "client");
    client.subscribe("\u{FEFF}t", 0);
    client.publish("t", "without", 0);
    client.publish("\u{FEFF}t", "with", 0);
    client.expect("\u{FEFF}t", "with");
    client.expect_nothing();
    let mut other = broker.connect(version, "\u{FEFF}client");
    other.ping();
    client.ping();
}
versions!(keeps_byte_order_marks);

/// [MQTT-3.1.3-5] Ids of 1 to 23 letters and digits are always allowed.
fn accepts_plain_client_ids(version: Version) {
    let broker = broker("");
    for id in ["0", "abcdefghijklmnopqrstuvw", "ABCDEFGHIJKLMNOPQRSTUVW", "XYZxyz0123456789"] {
        broker.connect(version, id).ping();
    }
}
versions!(accepts_plain_client_ids);

/// [MQTT-3.1.3-4] An id is any UTF-8 Encoded String; longer ones are allowed too.
fn accepts_other_client_ids(version: Version) {
    let broker = broker("");
    let long = "x".repeat(100);
    for id in ["a/b c", "žluťoučký", "\u{feff}id", "💧", long.as_str()] {
        broker.connect(version, id).ping();
    }
}
versions!(accepts_other_client_ids, from 3.1.1);

/// [MQTT-3.1.3-6] (3.1.1) A zero-length id is accepted in a clean session.
#[test]
fn accepts_an_empty_client_id_in_311() {
    let broker = broker("");
    let (mut one, _) = broker.connect_with(&Connect::new(V311, ""));
    let (mut other, _) = broker.connect_with(&Connect::new(V311, ""));
    // Each got an id of its own: neither took the other over.
    one.ping();
    other.ping();
}

/// [MQTT-3.1.3-8] (3.1.1) A zero-length id without Clean Session: Return Code 2, close.
#[test]
fn refuses_an_empty_client_id_that_wants_to_last() {
    let broker = broker("");
    let (mut client, connack) = Client::connect(broker.address(), &Connect::new(V311, "").resume());
    assert_eq!(connack.code, 2);
    client.expect_closed();
}

/// Version 3.1, section 3.1: an id has 1 to 23 characters; Return Code 2.
#[test]
fn refuses_an_empty_client_id_in_31() {
    let broker = broker("");
    let (mut client, connack) = Client::connect(broker.address(), &Connect::new(V31, ""));
    assert_eq!(connack.code, 2);
    client.expect_closed();
}

/// [MQTT-3.2.2-16] A zero-length id is answered with an Assigned Client Identifier, a new one each
/// time; [MQTT-3.1.3-7] it then serves as if the client had chosen it.
#[test]
fn assigns_client_ids() {
    let broker = broker("");
    let connect = Connect::new(V5, "").with(property::session_expiry(600));
    let mut ids = Vec::new();
    for _ in 0..4 {
        let (mut client, connack) = broker.connect_with(&connect);
        let id = connack.properties.text(ASSIGNED_CLIENT_IDENTIFIER).expect("an id").to_owned();
        assert!(!id.is_empty());
        assert!(!ids.contains(&id), "{id} assigned twice");
        client.subscribe("topic", 1);
        client.disconnect();
        ids.push(id);
    }
    for id in &ids {
        let (_, connack) = broker.connect_with(&Connect::new(V5, id).resume());
        assert!(connack.session_present, "{id}");
        assert!(!connack.properties.has(ASSIGNED_CLIENT_IDENTIFIER));
    }
}

/// Section 3.1.3.1: in version 5 a zero-length id may go with Clean Start 0 as well.
#[test]
fn assigns_client_ids_without_clean_start() {
    let broker = broker("");
    let (_, connack) = broker.connect_with(&Connect::new(V5, "").resume());
    assert!(!connack.session_present);
    assert!(connack.properties.has(ASSIGNED_CLIENT_IDENTIFIER));
}

/// Section 3.2.2.3: CONNACK states the limits; what it does not state is available.
#[test]
fn states_its_limits() {
    let broker = broker("");
    let (_, connack) = broker.connect_with(&Connect::new(V5, "limits"));
    let properties = &connack.properties;
    assert_eq!(properties.number(RECEIVE_MAXIMUM), Some(1000));
    assert_eq!(properties.number(MAXIMUM_PACKET_SIZE), Some(1024 * 1024));
    assert_eq!(properties.number(TOPIC_ALIAS_MAXIMUM), Some(32));
    assert_eq!(properties.number(MAXIMUM_QOS), None, "QoS 2 is served, and 2 is no valid value");
    for available in [
        RETAIN_AVAILABLE,
        WILDCARD_SUBSCRIPTION_AVAILABLE,
        SUBSCRIPTION_IDENTIFIERS_AVAILABLE,
        SHARED_SUBSCRIPTION_AVAILABLE,
    ] {
        assert_ne!(properties.number(available), Some(0), "{available:#x}");
    }
    assert!(!properties.has(ASSIGNED_CLIENT_IDENTIFIER));
    // [MQTT-3.2.2-22] Without a Server Keep Alive the client's own (none) is in force.
    assert!(!properties.has(SERVER_KEEP_ALIVE));
    // [MQTT-4.12.0-6]
    assert!(!properties.has(AUTHENTICATION_METHOD));
}

/// [MQTT-3.1.2-28] Without the request there is no Response Information.
#[test]
fn sends_response_information_only_on_request() {
    let broker = broker("");
    for asked in [None, Some(0)] {
        let mut connect = Connect::new(V5, "asks-not");
        connect.properties.extend(asked.map(|value| byte(REQUEST_RESPONSE_INFORMATION, value)));
        let (_, connack) = broker.connect_with(&connect);
        assert!(!connack.properties.has(RESPONSE_INFORMATION));
    }
}

/// Section 3.2.2.3.15: with the request it comes, and tells this client from others.
#[test]
fn sends_response_information_on_request() {
    let broker = broker("[mqtt]\nresponse_information_prefix = \"answers/to/\"");
    let connect = Connect::new(V5, "asks").with(byte(REQUEST_RESPONSE_INFORMATION, 1));
    let (_, connack) = broker.connect_with(&connect);
    let information = connack.properties.text(RESPONSE_INFORMATION).expect("it was requested");
    assert!(information.starts_with("answers/to/"), "{information}");
    assert!(information.contains("asks"), "{information}");
}

/// [MQTT-3.1.2-29] With Request Problem Information 0 neither Reason String nor User Property
/// comes in any packet but PUBLISH, CONNACK and DISCONNECT.
#[test]
fn keeps_problem_information_to_itself() {
    let broker = broker("");
    let connect = Connect::new(V5, "terse").with(byte(REQUEST_PROBLEM_INFORMATION, 0));
    let (mut client, _) = broker.connect_with(&connect);
    let suback = client.subscribe_with(&[("a/#/b", 0), ("fine", 0)], &[]);
    assert_eq!(suback.codes, [code::TOPIC_FILTER_INVALID, 0]);
    assert_eq!(suback.properties, no_properties());
    let unsuback = client.unsubscribe(&["unknown"]);
    assert_eq!(unsuback.codes, [code::NO_SUBSCRIPTION_EXISTED]);
    assert_eq!(unsuback.properties, no_properties());
    let id = client.start_publish(Message::new("nobody", "x").qos(1));
    assert_eq!(client.wait_puback(id).properties, no_properties());
    client.send_ack(wire::PUBREL, 999);
    let pubcomp = client.wait_pubcomp(999);
    assert_eq!(pubcomp.code, code::PACKET_IDENTIFIER_NOT_FOUND);
    assert_eq!(pubcomp.properties, no_properties());
}

/// Sections 3.2.2.3.9 and 3.14.2.2.3: who is refused or disconnected is told in words, too; with Request
/// Problem Information 0 DISCONNECT is without.
#[test]
fn says_why_in_words() {
    let broker = broker("");
    let unknown = text(AUTHENTICATION_METHOD, "SCRAM-SHA-1");
    let (_, connack) =
        Client::connect(broker.address(), &Connect::new(V5, "refused").with(unknown));
    assert_eq!(connack.code, code::BAD_AUTHENTICATION_METHOD);
    let words = connack.properties.text(REASON_STRING);
    assert!(words.is_some_and(|words| !words.is_empty()), "{connack:?}");
    for wants in [None, Some(1), Some(0)] {
        let mut connect = Connect::new(V5, "client");
        connect = match wants {
            Some(wants) => connect.with(byte(REQUEST_PROBLEM_INFORMATION, wants)),
            None => connect,
        };
        let end = |mut client: Client, expected| {
            let Event::Packet(Packet::Disconnect(reason)) = client.event() else {
                panic!("no DISCONNECT")
            };
            assert_eq!(reason.code, expected);
            let words = reason.properties.text(REASON_STRING);
            assert_eq!(words.is_some(), wants != Some(0), "{reason:?}");
            assert_ne!(words, Some(""));
        };
        let (taken_over, _) = broker.connect_with(&connect);
        let (mut wrong, _) = broker.connect_with(&connect);
        end(taken_over, code::SESSION_TAKEN_OVER);
        wrong.send(&connect.bytes());
        end(wrong, code::PROTOCOL_ERROR);
    }
}

/// [MQTT-4.12.0-1] An Authentication Method that is not supported: 0x8C, close.
#[test]
fn refuses_unknown_authentication_methods() {
    let broker = broker("");
    let connect = Connect::new(V5, "auth")
        .with(text(AUTHENTICATION_METHOD, "SCRAM-SHA-1"))
        .with(binary(AUTHENTICATION_DATA, b"client first"));
    let (mut client, connack) = Client::connect(broker.address(), &connect);
    assert!([code::BAD_AUTHENTICATION_METHOD, code::NOT_AUTHORIZED].contains(&connack.code));
    client.expect_closed();
}

/// Section 4.12: AUTH without an Authentication Method in CONNECT is a protocol error.
#[test]
fn refuses_auth_out_of_the_blue() {
    let broker = broker("");
    let mut client = broker.connect(V5, "auth");
    let mut body = vec![0x19];
    body.extend(property::block(&[text(AUTHENTICATION_METHOD, "PLAIN")]));
    client.send(&packet(wire::AUTH, &body));
    client.expect_disconnect(&[code::PROTOCOL_ERROR]);
}

/// [MQTT-3.1.4-6] Nothing that follows a refused CONNECT is processed.
#[test]
fn ignores_what_follows_a_refused_connect() {
    let broker = broker("");
    let refused = [
        (V31, Connect::new(V31, "").bytes()),
        (V311, Connect::new(V311, "").resume().bytes()),
        (V5, Connect::new(V5, "x").with(text(AUTHENTICATION_METHOD, "none")).bytes()),
        (V5, Connect::new(V5, "x").bytes_with_flags(0x03)),
        (V311, Connect::new(V311, "x").bytes_with_flags(0x03)),
    ];
    let mut watcher = broker.connect(V5, "watcher");
    watcher.subscribe("smuggled", 1);
    for (version, mut bytes) in refused {
        bytes.extend(Message::new("smuggled", "in").qos(1).id(1).retain().bytes(version));
        let mut client = broker.open(version);
        client.send_lossy(&bytes);
        match client.event() {
            Event::Packet(Packet::ConnAck(connack)) => {
                assert_ne!(connack.code, 0);
                client.expect_closed();
            }
            other => assert_eq!(other, Event::Closed),
        }
    }
    let mut late = broker.connect(V5, "late");
    late.subscribe("smuggled", 1);
    late.expect_nothing();
    watcher.expect_nothing_from(&mut late);
}

/// [MQTT-3.1.2-22] (3.1.1) A password without a user name is not allowed; version 5 allows it
/// (section 3.1.2.9).
#[test]
fn takes_a_password_without_user_name_in_version_5_only() {
    let broker = broker("");
    for version in [V311, V5] {
        let mut connect = Connect::new(version, "password");
        connect.password = Some(b"secret".to_vec());
        if version.is_v5() {
            broker.connect_with(&connect);
        } else {
            let mut client = broker.open(version);
            client.send(&connect.bytes());
            client.expect_refused_connect(&[]);
        }
    }
}

/// Version 3.1, section 3.1: where the packet ends before the user name or the password that its
/// flags announce, the Remaining Length takes precedence; the connection goes on.
#[test]
fn allows_missing_user_names_in_31() {
    let broker = broker("");
    for flags in [0x82, 0xC2] {
        let mut client = broker.open(V31);
        client.send(&Connect::new(V31, "client").bytes_with_flags(flags));
        assert_eq!(client.connack().code, code::SUCCESS);
        client.disconnect();
    }
    let mut named = Connect::new(V31, "client");
    named.username = Some("name".into());
    let mut client = broker.open(V31);
    client.send(&named.bytes_with_flags(0xC2));
    assert_eq!(client.connack().code, code::SUCCESS);
}

/// Section 3.1.2.11.9: Authentication Data without a method is a protocol error.
#[test]
fn refuses_authentication_data_without_method() {
    let broker = broker("");
    let connect = Connect::new(V5, "data").with(binary(AUTHENTICATION_DATA, b"x"));
    let (mut client, connack) = Client::connect(broker.address(), &connect);
    assert_eq!(connack.code, code::PROTOCOL_ERROR);
    client.expect_closed();
}

/// [MQTT-3.14.4-2] After DISCONNECT the connection closes, and nothing behind it counts
/// [MQTT-3.14.4-1].
fn ignores_what_follows_a_disconnect(version: Version) {
    let broker = broker("");
    let mut watcher = broker.connect(version, "watcher");
    watcher.subscribe("late", 0);
    let mut client = broker.connect(version, "leaves");
    let mut bytes = packet(wire::DISCONNECT, &[]);
    bytes.extend(Message::new("late", "x").bytes(version));
    client.send(&bytes);
    client.expect_closed();
    let mut other = broker.connect(version, "other");
    watcher.expect_nothing_from(&mut other);
}
versions!(ignores_what_follows_a_disconnect);

/// [MQTT-3.12.4-1] PINGREQ is answered, each one.
fn answers_pings(version: Version) {
    let broker = broker("");
    let mut client = broker.connect(version, "pings");
    client.send(&packet(wire::PINGREQ, &[]).repeat(3));
    for _ in 0..3 {
        assert_eq!(client.next(), Packet::PingResp);
    }
    client.expect_nothing();
}
versions!(answers_pings);
