//! What version 5 adds to messages: aliases, expiry, identifiers, user properties, formats,
//! request and response, packet sizes.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::common::cases::shards;
use crate::common::property::{self, *};
use crate::common::wire::{self, Version};
use crate::common::{
    Broker, Client, Connect, Message, Packet, Publish, V5, V311, broker, broker_with_shards, code,
    let_pass,
};

fn pair(broker: &Broker, filter: &str, qos: u8) -> (Client, Client) {
    let mut subscriber = broker.connect(V5, "subscriber");
    subscriber.subscribe(filter, qos);
    (broker.connect(V5, "publisher"), subscriber)
}

// Topic aliases from the client.

/// Section 3.3.2.3.4: an alias stands for the topic it came with, at every QoS, until set anew.
#[test]
fn resolves_aliases() {
    let broker = broker("");
    let (mut publisher, mut subscriber) = pair(&broker, "#", 2);
    publisher.deliver(Message::new("first", "0").with(topic_alias(5)));
    subscriber.expect("first", "0");
    for qos in 0..=2 {
        publisher.deliver(Message::new("", "again").qos(qos).with(topic_alias(5)));
        let publish = subscriber.expect("first", "again");
        // [MQTT-3.1.2-27] This subscriber takes no aliases.
        assert!(!publish.properties.has(TOPIC_ALIAS));
    }
    publisher.deliver(Message::new("second", "1").with(topic_alias(5)));
    subscriber.expect("second", "1");
    publisher.deliver(Message::new("", "again").with(topic_alias(5)));
    subscriber.expect("second", "again");
    // The alias is the publisher's own.
    let mut other = broker.connect(V5, "other");
    other.start_publish(Message::new("", "x").with(topic_alias(5)));
    other.expect_disconnect(&[code::PROTOCOL_ERROR, code::TOPIC_ALIAS_INVALID]);
}

/// [MQTT-3.3.2-12] Every alias up to the stated maximum is taken; beyond it, and for 0, 0x94.
#[test]
fn takes_aliases_up_to_its_maximum() {
    let broker = broker("[mqtt]\ntopic_alias_maximum = 7");
    let mut subscriber = broker.connect(V5, "subscriber");
    subscriber.subscribe("#", 0);
    let (mut publisher, connack) = broker.connect_with(&Connect::new(V5, "publisher"));
    assert_eq!(connack.properties.number(TOPIC_ALIAS_MAXIMUM), Some(7));
    for round in 0..2 {
        for alias in 1..=7 {
            let topic = if round == 0 { format!("topic/{alias}") } else { String::new() };
            publisher.deliver(Message::new(&topic, "x").with(topic_alias(alias)));
            subscriber.expect(&format!("topic/{alias}"), "x");
        }
    }
    for bad in [0, 8, 0xFFFF] {
        let mut client = broker.connect(V5, "client");
        client.start_publish(Message::new("t", "x").with(topic_alias(bad)));
        client.expect_disconnect(&[code::TOPIC_ALIAS_INVALID]);
    }
    subscriber.expect_nothing_from(&mut publisher);
}

/// Section 3.2.2.3.8: switched off, no maximum above 0 is stated, and any alias is invalid.
#[test]
fn may_take_no_aliases() {
    let broker = broker("[mqtt]\ntopic_alias_maximum = 0");
    let (mut client, connack) = broker.connect_with(&Connect::new(V5, "client"));
    assert_eq!(connack.properties.number(TOPIC_ALIAS_MAXIMUM).unwrap_or(0), 0);
    client.start_publish(Message::new("t", "x").with(topic_alias(1)));
    client.expect_disconnect(&[code::TOPIC_ALIAS_INVALID]);
}

/// [MQTT-3.3.2-7] Aliases end with their connection, though the session goes on.
#[test]
fn forgets_aliases_with_the_connection() {
    let broker = broker("");
    let connect = Connect::lasting(V5, "publisher");
    let (mut publisher, _) = broker.connect_with(&connect);
    publisher.deliver(Message::new("topic", "x").qos(1).with(topic_alias(1)));
    publisher.disconnect();
    let (mut publisher, connack) = broker.connect_with(&connect);
    assert!(connack.session_present);
    publisher.start_publish(Message::new("", "x").with(topic_alias(1)));
    publisher.expect_disconnect(&[code::PROTOCOL_ERROR, code::TOPIC_ALIAS_INVALID]);
}

/// Section 3.3.2.1: an empty topic without an alias is a protocol error.
#[test]
fn refuses_an_empty_topic_without_alias() {
    let broker = broker("");
    let mut client = broker.connect(V5, "client");
    client.start_publish(Message::new("", "x"));
    client.expect_disconnect(&[code::PROTOCOL_ERROR, code::TOPIC_NAME_INVALID]);
}

// Topic aliases from the broker.

/// [MQTT-3.3.2-11], [MQTT-3.1.2-26] The broker sets aliases up to the client's maximum, each with
/// its topic first; topics beyond go in full.
fn sets_aliases(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let (mut subscriber, _) =
        broker.connect_with(&Connect::new(V5, "subscriber").with(topic_alias_maximum(2)));
    subscriber.subscribe("#", 1);
    let mut publisher = broker.connect(V5, "publisher");
    let mut known: Vec<(u32, String)> = Vec::new();
    for round in 0..3 {
        for topic in ["one", "two", "three"] {
            publisher.publish(topic, "x", round % 2);
            let Publish { topic: sent, properties, .. } = subscriber.receive();
            match properties.number(TOPIC_ALIAS) {
                None => assert_eq!((sent.as_str(), topic), (topic, "three")),
                Some(alias) => {
                    assert!((1..=2).contains(&alias));
                    if round == 0 {
                        assert_eq!(sent, topic, "an alias comes with its topic first");
                        known.push((alias, sent));
                    } else {
                        assert_eq!(sent, "", "a known alias replaces its topic");
                        let (_, meant) = known.iter().find(|(known, _)| *known == alias).unwrap();
                        assert_eq!(meant, topic);
                    }
                }
            }
        }
    }
    assert_eq!(known.len(), 2);
}
shards!(sets_aliases);

/// [MQTT-3.1.2-26] `mqtt.topic_alias_maximum_outbound` bounds the aliases, the client's maximum does, too.
#[test]
fn sets_no_more_aliases_than_configured() {
    for (configured, expected) in [(None, 32), (Some(0), 0), (Some(1), 1), (Some(100), 60)] {
        let line = |n| format!("[mqtt]\ntopic_alias_maximum_outbound = {n}");
        let broker = broker(&configured.map_or_else(String::new, line));
        let connect = Connect::new(V5, "subscriber").with(topic_alias_maximum(60));
        let (mut subscriber, _) = broker.connect_with(&connect);
        subscriber.subscribe("#", 1);
        let mut publisher = broker.connect(V5, "publisher");
        for round in 0..2_u8 {
            let mut aliases = BTreeSet::new();
            for topic in (0..70).map(|n| format!("topic/{n}")) {
                publisher.publish(&topic, "x", round);
                let publish = subscriber.receive();
                let alias = publish.properties.number(TOPIC_ALIAS);
                let known = round == 1 && alias.is_some();
                assert_eq!(publish.topic, if known { "" } else { &topic });
                aliases.extend(alias);
            }
            assert!(aliases.into_iter().eq(1..=expected), "{configured:?}");
        }
    }
}

/// [MQTT-3.3.2-7] On the next connection the broker starts over, also for what it sends again.
#[test]
fn sets_aliases_anew_on_each_connection() {
    let broker = broker("");
    let connect = Connect::lasting(V5, "subscriber").with(topic_alias_maximum(5));
    let (mut subscriber, _) = broker.connect_with(&connect);
    subscriber.subscribe("#", 1);
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish("topic", "0", 1);
    publisher.publish("topic", "1", 1);
    assert_eq!(subscriber.take_publish().topic, "topic");
    subscriber.take_publish();
    subscriber.hang_up();
    publisher.publish("topic", "2", 1);
    let (mut subscriber, _) = broker.connect_with(&connect);
    let first = subscriber.receive();
    assert_eq!((first.topic.as_str(), first.payload_text(), first.dup), ("topic", "0", true));
    let alias = first.properties.number(TOPIC_ALIAS);
    for payload in ["1", "2"] {
        let publish = subscriber.receive();
        assert_eq!(publish.payload_text(), payload);
        let fine = publish.topic == "topic" || publish.properties.number(TOPIC_ALIAS) == alias;
        assert!(fine && (alias.is_some() || publish.topic == "topic"));
    }
    subscriber.hang_up();
    // Without a maximum on the new connection there are none [MQTT-3.1.2-27].
    let (mut subscriber, _) = broker.connect_with(&Connect::lasting(V5, "subscriber"));
    publisher.publish("topic", "3", 1);
    let publish = subscriber.expect("topic", "3");
    assert!(!publish.properties.has(TOPIC_ALIAS));
}

// Message expiry.

/// [MQTT-3.3.2-6] The interval goes on less the time waited; [MQTT-3.3.2-5] what expires in the
/// queue is not delivered.
fn expires_in_the_queue(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let connect = Connect::lasting(V5, "subscriber");
    let (mut subscriber, _) = broker.connect_with(&connect);
    subscriber.subscribe("t", 2);
    subscriber.disconnect();
    let mut publisher = broker.connect(V5, "publisher");
    for (payload, expiry) in [("a", Some(1)), ("b", Some(100)), ("c", None), ("d", Some(1))] {
        let mut message = Message::new("t", payload).qos(1);
        message.properties.extend(expiry.map(property::message_expiry));
        publisher.deliver(message);
    }
    let_pass(Duration::from_millis(2_100));
    let (mut subscriber, _) = broker.connect_with(&connect);
    let left = subscriber.expect("t", "b").properties.number(MESSAGE_EXPIRY_INTERVAL).unwrap();
    assert!((80..=98).contains(&left), "{left}");
    assert!(!subscriber.expect("t", "c").properties.has(MESSAGE_EXPIRY_INTERVAL));
    subscriber.expect_nothing();
}
shards!(expires_in_the_queue);

/// [MQTT-3.3.2-6] A message that does not wait keeps its interval.
#[test]
fn passes_expiry_on() {
    let broker = broker("");
    let (mut publisher, mut subscriber) = pair(&broker, "t", 1);
    for qos in [0, 1] {
        publisher.deliver(Message::new("t", "x").qos(qos).with(property::message_expiry(500)));
        let left = subscriber.expect("t", "x").properties.number(MESSAGE_EXPIRY_INTERVAL).unwrap();
        assert!((490..=500).contains(&left), "{left}");
    }
}

/// [MQTT-3.3.2-5] What waits behind a full window of a connected receiver expires there, too.
#[test]
fn expires_behind_a_full_window() {
    let broker = broker("");
    let connect = Connect::new(V5, "subscriber").with(property::receive_maximum(1));
    let (mut subscriber, _) = broker.connect_with(&connect);
    subscriber.subscribe("t", 1);
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish("t", "in flight", 1);
    publisher.deliver(Message::new("t", "expires").qos(1).with(property::message_expiry(1)));
    publisher.publish("t", "stays", 1);
    let in_flight = subscriber.take_publish();
    let_pass(Duration::from_millis(2_100));
    subscriber.acknowledge(&in_flight);
    subscriber.expect("t", "stays");
    subscriber.expect_nothing();
}

/// [MQTT-4.3.3-7] What was sent at QoS 2 does not expire any more.
#[test]
fn does_not_expire_what_was_sent() {
    let broker = broker("");
    let connect = Connect::lasting(V5, "subscriber");
    let (mut subscriber, _) = broker.connect_with(&connect);
    subscriber.subscribe("t", 2);
    let mut publisher = broker.connect(V5, "publisher");
    publisher.deliver(Message::new("t", "sent").qos(2).with(property::message_expiry(1)));
    let sent = subscriber.take_publish();
    subscriber.hang_up();
    let_pass(Duration::from_millis(2_100));
    let (mut subscriber, _) = broker.connect_with(&connect);
    let again = subscriber.expect("t", "sent");
    assert_eq!((again.id, again.dup, again.qos), (sent.id, true, 2));
}

/// [MQTT-3.3.2-5], [MQTT-3.3.2-6] An interval of 0 allows no waiting: who can be sent the message at
/// once gets it, with an interval of 0, at any QoS; in no queue and among the retained it stays.
fn delivers_at_once_or_never(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let connect = Connect::lasting(V5, "absent");
    let (mut absent, _) = broker.connect_with(&connect);
    absent.subscribe("t", 2);
    absent.disconnect();
    let narrow = Connect::new(V5, "narrow").with(property::receive_maximum(1));
    let (mut narrow, _) = broker.connect_with(&narrow);
    narrow.subscribe("t", 2);
    let mut present = broker.connect(V5, "present");
    present.subscribe("t", 2);
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish_retained("t", "older", 1);
    present.expect("t", "older");
    let unacknowledged = narrow.take_publish();
    for qos in [0, 1, 2] {
        let message = Message::new("t", "now").qos(qos).retain();
        publisher.deliver(message.with(property::message_expiry(0)));
        let publish = present.expect("t", "now");
        assert_eq!(publish.properties.number(MESSAGE_EXPIRY_INTERVAL), Some(0), "QoS {qos}");
    }
    narrow.expect("t", "now");
    narrow.acknowledge(&unacknowledged);
    narrow.expect_nothing();
    let mut late = broker.connect(V5, "late");
    late.subscribe("t", 2);
    late.expect_nothing();
    let (mut absent, _) = broker.connect_with(&connect);
    absent.expect("t", "older");
    absent.expect_nothing();
}
shards!(delivers_at_once_or_never);

// Subscription identifiers.

/// [MQTT-3.3.4-3], [MQTT-3.3.4-4] Every matching subscription's identifier comes along, in one
/// message; [MQTT-3.8.4-3] a replaced subscription's does not.
fn carries_subscription_identifiers(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let mut subscriber = broker.connect(V5, "subscriber");
    let filters = [("a/b", 1), ("a/#", 0x0FFF_FFFF), ("+/b", 128), ("a/c", 5)];
    for (filter, identifier) in filters {
        subscriber.subscribe_with(&[(filter, 1)], &[subscription_identifier(identifier)]);
    }
    subscriber.subscribe("a/+", 2);
    let mut publisher = broker.connect(V5, "publisher");
    let mut identifiers = |subscriber: &mut Client, topic: &str| {
        publisher.publish(topic, "x", 2);
        subscriber.expect(topic, "x").properties.subscription_identifiers()
    };
    assert_eq!(identifiers(&mut subscriber, "a/b"), [1, 128, 0x0FFF_FFFF]);
    assert_eq!(identifiers(&mut subscriber, "a/c"), [5, 0x0FFF_FFFF]);
    assert_eq!(identifiers(&mut subscriber, "a/d"), [0x0FFF_FFFF]);
    subscriber.subscribe_with(&[("a/b", 1)], &[subscription_identifier(2)]);
    subscriber.subscribe("a/#", 1);
    assert_eq!(identifiers(&mut subscriber, "a/b"), [2, 128]);
    assert_eq!(identifiers(&mut subscriber, "a/d"), [0; 0]);
    subscriber.expect_nothing();
}
shards!(carries_subscription_identifiers);

/// Section 3.8.2.1.2: an identifier belongs to every filter of its packet, and to the session: it
/// comes with queued messages after a resume.
#[test]
fn keeps_subscription_identifiers_with_the_session() {
    let broker = broker("");
    let connect = Connect::lasting(V5, "subscriber");
    let (mut subscriber, _) = broker.connect_with(&connect);
    subscriber.subscribe_with(&[("a", 1), ("b", 1)], &[subscription_identifier(77)]);
    subscriber.subscribe("c", 1);
    subscriber.disconnect();
    let mut publisher = broker.connect(V311, "publisher");
    for topic in ["a", "b", "c"] {
        publisher.publish(topic, "x", 1);
    }
    let (mut subscriber, _) = broker.connect_with(&connect);
    for (topic, identifiers) in [("a", &[77][..]), ("b", &[77]), ("c", &[])] {
        let publish = subscriber.expect(topic, "x");
        assert_eq!(publish.properties.subscription_identifiers(), identifiers);
    }
    publisher.publish("b", "live", 0);
    assert_eq!(subscriber.expect("b", "live").properties.subscription_identifiers(), [77]);
}

// What passes through.

/// [MQTT-3.3.2-4], [MQTT-3.3.2-15], [MQTT-3.3.2-16], [MQTT-3.3.2-17], [MQTT-3.3.2-18],
/// [MQTT-3.3.2-20] Properties of a message pass unaltered, user properties in order and repeated.
fn passes_properties_unaltered(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let mut subscribers: Vec<Client> = (0..3)
        .map(|n| {
            let mut client = broker.connect(V5, &format!("subscriber-{n}"));
            client.subscribe("t", n);
            client
        })
        .collect();
    let mut publisher = broker.connect(V5, "publisher");
    let every_byte: Vec<u8> = (0..=255).collect();
    let names = ["b", "a", "b", "", "b", "žluť"];
    for qos in 0..=2 {
        let mut message = Message::new("t", "payload")
            .qos(qos)
            .with(user("first", "of all"))
            .with(byte(PAYLOAD_FORMAT_INDICATOR, 1))
            .with(text(CONTENT_TYPE, "application/x"))
            .with(text(RESPONSE_TOPIC, "answer/💧"))
            .with(binary(CORRELATION_DATA, &every_byte));
        message.properties.extend(names.iter().map(|name| user(name, &name.repeat(20))));
        publisher.deliver(message);
        for subscriber in &mut subscribers {
            let properties = subscriber.expect("t", "payload").properties;
            assert_eq!(properties.0.len(), 11);
            assert_eq!(properties.number(PAYLOAD_FORMAT_INDICATOR), Some(1));
            assert_eq!(properties.text(CONTENT_TYPE), Some("application/x"));
            assert_eq!(properties.text(RESPONSE_TOPIC), Some("answer/💧"));
            assert_eq!(properties.binary(CORRELATION_DATA), Some(every_byte.as_slice()));
            let pairs = properties.user();
            assert_eq!(pairs[0], ("first", "of all"));
            for ((name, value), expected) in pairs[1..].iter().zip(names) {
                assert_eq!((*name, *value), (expected, expected.repeat(20).as_str()));
            }
        }
    }
}
shards!(passes_properties_unaltered);

/// Section 3.3.2.3.2: 0 is a value of the indicator as well, and is passed on or left out.
#[test]
fn passes_payload_format_0() {
    let broker = broker("");
    let (mut publisher, mut subscriber) = pair(&broker, "t", 1);
    let message = Message::new("t", [0xFF]).qos(1).with(byte(PAYLOAD_FORMAT_INDICATOR, 0));
    publisher.deliver(message);
    let properties = subscriber.expect("t", [0xFF]).properties;
    assert_eq!(properties.number(PAYLOAD_FORMAT_INDICATOR), Some(0), "unaltered [MQTT-3.3.2-4]");
}

/// Section 3.3.2.3.2: a payload that is declared text and is none gets 0x99, in PUBACK, PUBREC or
/// DISCONNECT, and goes nowhere.
#[test]
fn checks_the_payload_format() {
    let broker = broker("");
    let (mut publisher, mut subscriber) = pair(&broker, "t", 1);
    for payload in [&[0xFF][..], b"\xC3", b"\xED\xA0\x80", b"\xC0\xAF"] {
        for qos in 0..=2 {
            let mut client = broker.connect(V5, "sends-no-text");
            let message = Message::new("t", payload).qos(qos);
            client.start_publish(message.with(byte(PAYLOAD_FORMAT_INDICATOR, 1)));
            match client.next() {
                Packet::PubAck(ack) if qos == 1 => {
                    assert_eq!(ack.code, code::PAYLOAD_FORMAT_INVALID);
                }
                Packet::PubRec(ack) if qos == 2 => {
                    assert_eq!(ack.code, code::PAYLOAD_FORMAT_INVALID);
                }
                Packet::Disconnect(reason) => {
                    assert_eq!(reason.code, code::PAYLOAD_FORMAT_INVALID);
                    client.expect_closed();
                }
                other => panic!("{payload:x?} at QoS {qos} got {other:?}"),
            }
        }
    }
    let fine = Message::new("t", "žluť").qos(1).with(byte(PAYLOAD_FORMAT_INDICATOR, 1));
    publisher.deliver(fine);
    subscriber.expect("t", "žluť");
    subscriber.expect_nothing_from(&mut publisher);
}

/// The check can be switched off.
#[test]
fn may_leave_the_payload_format_unchecked() {
    let broker = broker("[mqtt]\nvalidate_payload_format = false");
    let (mut publisher, mut subscriber) = pair(&broker, "t", 1);
    let message = Message::new("t", [0xFF]).qos(1).with(byte(PAYLOAD_FORMAT_INDICATOR, 1));
    assert_eq!(publisher.try_publish(message), code::SUCCESS);
    subscriber.expect("t", [0xFF]);
}

/// Section 4.10: a request and its response.
#[test]
fn carries_request_and_response() {
    let broker = broker("");
    let ask = Connect::new(V5, "requester").with(byte(REQUEST_RESPONSE_INFORMATION, 1));
    let (mut requester, connack) = broker.connect_with(&ask);
    let base = connack.properties.text(RESPONSE_INFORMATION).expect("requested").to_owned();
    let own = format!("{}/answers", base.trim_end_matches('/'));
    requester.subscribe(&own, 1);
    let (mut answerer, _) = broker.connect_with(&Connect::new(V5, "responder"));
    answerer.subscribe("service", 1);
    let request = Message::new("service", "question").qos(1);
    requester.deliver(
        request.with(text(RESPONSE_TOPIC, &own)).with(binary(CORRELATION_DATA, b"\x00\x01")),
    );
    let request = answerer.expect("service", "question").properties;
    let correlation = request.binary(CORRELATION_DATA).unwrap();
    let answer = Message::new(request.text(RESPONSE_TOPIC).unwrap(), "answer").qos(1);
    answerer.deliver(answer.with(binary(CORRELATION_DATA, correlation)));
    let answer = requester.expect(&own, "answer");
    assert_eq!(answer.properties.binary(CORRELATION_DATA), Some(&b"\x00\x01"[..]));
}

/// Properties mean nothing to older clients; their messages have none.
#[test]
fn leaves_properties_out_for_older_clients() {
    let broker = broker("");
    let mut publisher = broker.connect(V5, "publisher");
    for version in [Version::V31, Version::V311] {
        let mut subscriber = broker.connect(version, "subscriber");
        subscriber.subscribe("t", 1);
        let message = Message::new("t", "x").qos(1).with(user("a", "b"));
        publisher.deliver(message.with(text(CONTENT_TYPE, "text")).with(message_expiry(9)));
        subscriber.expect("t", "x");
    }
}

// The client's Maximum Packet Size.

/// [MQTT-3.1.2-24], [MQTT-3.1.2-25] What is larger than the client takes is not sent, and counts
/// as sent: it holds no place in the window.
fn respects_the_maximum_packet_size(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let connect = Connect::new(V5, "subscriber")
        .with(property::maximum_packet_size(100))
        .with(property::receive_maximum(1));
    let (mut small, _) = broker.connect_with(&connect);
    small.subscribe("t", 2);
    let mut large = broker.connect(V5, "large");
    large.subscribe("t", 2);
    let mut publisher = broker.connect(V5, "publisher");
    // Fixed header 2, topic 3, Packet Identifier 2, property length 1.
    for (qos, overhead) in [(0, 6), (1, 8), (2, 8)] {
        for size in [200, 101 - overhead, 100 - overhead] {
            publisher.publish("t", vec![b'x'; size], qos);
            large.expect("t", vec![b'x'; size]);
        }
        small.expect("t", vec![b'x'; 100 - overhead]);
    }
    small.expect_nothing();
}
shards!(respects_the_maximum_packet_size);

/// [MQTT-3.1.2-24] Properties count as well.
#[test]
fn counts_properties_into_the_packet_size() {
    let broker = broker("");
    let connect = Connect::new(V5, "subscriber").with(property::maximum_packet_size(60));
    let (mut subscriber, _) = broker.connect_with(&connect);
    subscriber.subscribe("t", 1);
    let mut publisher = broker.connect(V5, "publisher");
    let fat = Message::new("t", "fat").qos(1).with(user("name", &"v".repeat(60)));
    publisher.deliver(fat);
    publisher.publish("t", "slim", 1);
    subscriber.expect("t", "slim");
}

/// [MQTT-3.1.2-24] Queued and retained messages are held to it, too, on the connection they go to.
#[test]
fn respects_the_packet_size_of_the_present_connection() {
    let broker = broker("");
    let connect = Connect::lasting(V5, "subscriber");
    let (mut subscriber, _) = broker.connect_with(&connect);
    subscriber.subscribe("t", 1);
    subscriber.disconnect();
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish("t", vec![b'x'; 500], 1);
    publisher.publish("t", "small", 1);
    publisher.publish_retained("kept/large", vec![b'x'; 500], 1);
    publisher.publish_retained("kept/small", "x", 1);
    let (mut subscriber, _) =
        broker.connect_with(&connect.with(property::maximum_packet_size(100)));
    subscriber.expect("t", "small");
    subscriber.subscribe("kept/+", 1);
    subscriber.expect("kept/small", "x");
    subscriber.expect_nothing();
}

/// [MQTT-3.2.2-19], [MQTT-3.4.2-2] Whatever the broker would like to explain, its packets fit.
#[test]
fn keeps_its_explanations_within_the_packet_size() {
    let broker = broker("");
    let connect = Connect::new(V5, "subscriber").with(property::maximum_packet_size(64));
    let (mut client, _) = broker.connect_with(&connect);
    let suback = client.subscribe_with(&[("a#b", 0)], &[]);
    assert_eq!(suback.codes, [code::TOPIC_FILTER_INVALID]);
    client.send(&wire::packet(wire::SUBSCRIBE, &[0, 1, 0]));
    client.expect_disconnect(&[code::PROTOCOL_ERROR]);
    assert!(client.largest_packet() <= 64, "a packet of {} bytes", client.largest_packet());
}

/// [MQTT-3.1.2-24] A SUBACK or UNSUBACK cannot be shortened: a packet whose answer would be too large
/// is refused, and nothing of it is done.
#[test]
fn refuses_what_it_could_not_answer() {
    let broker = broker("");
    let connect = Connect::lasting(V5, "client").with(property::maximum_packet_size(40));
    let names: Vec<String> = (0..36).map(|n| format!("t/{n}")).collect();
    // 40 bytes of SUBACK: fixed header 2, Packet Identifier 2, Property Length 1, 35 codes.
    let fitting: Vec<(&str, u8)> = names[1..].iter().map(|name| (name.as_str(), 1)).collect();
    let (mut client, _) = broker.connect_with(&connect);
    assert_eq!(client.subscribe_with(&fitting, &[]).codes, [1; 35]);
    let all: Vec<(&str, u8)> = names.iter().map(|name| (name.as_str(), 0)).collect();
    client.send(&crate::common::client::subscribe(V5, 9, &all, &[]));
    client.expect_disconnect(&[code::PACKET_TOO_LARGE]);
    let filters: Vec<&str> = names.iter().map(String::as_str).collect();
    let (mut client, _) = broker.connect_with(&connect);
    client.send(&crate::common::client::unsubscribe(V5, 9, &filters));
    client.expect_disconnect(&[code::PACKET_TOO_LARGE]);
    let (mut client, _) = broker.connect_with(&connect);
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish("t/0", "not subscribed", 1);
    publisher.publish("t/1", "as before", 1);
    assert_eq!(client.expect("t/1", "as before").qos, 1);
    client.expect_nothing();
}
