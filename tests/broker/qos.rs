//! Delivery at QoS 0, 1 and 2, both ways (sections 4.3, 3.3 to 3.7).

use crate::common::cases::{shards, versions};
use crate::common::wire::{self, packet};
use crate::common::{Connect, Message, V5, V31, V311, Version, broker, broker_with_shards, code};

/// [MQTT-3.8.4-8] A message arrives at the lesser of its own QoS and the granted one, in all nine
/// combinations; [MQTT-3.3.1-3] never marked as duplicate, and [MQTT-3.3.1-12] not as retained.
fn delivers_at_the_lesser_qos(version: Version) {
    let broker = broker("");
    let mut publisher = broker.connect(version, "publisher");
    for granted in 0..=2 {
        let mut subscriber = broker.connect(version, &format!("subscriber-{granted}"));
        subscriber.subscribe("a/topic", granted);
        for qos in 0..=2 {
            let payload = format!("{qos} to {granted}");
            publisher.publish("a/topic", &payload, qos);
            let publish = subscriber.expect("a/topic", &payload);
            assert_eq!(publish.qos, qos.min(granted), "{payload}");
            assert!(!publish.dup && !publish.retain);
        }
        subscriber.expect_nothing();
    }
}
versions!(delivers_at_the_lesser_qos);

/// A message passes unaltered between clients of all versions, at each QoS.
#[test]
fn delivers_across_versions() {
    let broker = broker("");
    let mut subscribers: Vec<_> = Version::ALL
        .into_iter()
        .map(|version| {
            let mut client = broker.connect(version, &format!("subscriber-{version:?}"));
            client.subscribe("across/+", 2);
            client
        })
        .collect();
    for version in Version::ALL {
        let mut publisher = broker.connect(version, &format!("publisher-{version:?}"));
        for qos in 0..=2 {
            let payload = format!("{version:?} at {qos}");
            publisher.publish("across/all", &payload, qos);
            for subscriber in &mut subscribers {
                assert_eq!(subscriber.expect("across/all", &payload).qos, qos);
            }
        }
    }
}

/// The same over shards: publishers and subscribers on every one of them.
fn delivers_across_shards(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let mut clients: Vec<_> = (0..8)
        .map(|n| {
            let mut client = broker.connect(V311, &format!("client-{n}"));
            client.subscribe("all/of/us", 2);
            client
        })
        .collect();
    for qos in 0..=2 {
        for publisher in 0..clients.len() {
            let payload = format!("from {publisher} at {qos}");
            clients[publisher].publish("all/of/us", &payload, qos);
            for client in &mut clients {
                assert_eq!(client.expect("all/of/us", &payload).qos, qos);
            }
        }
    }
}
shards!(delivers_across_shards);

/// Payloads are opaque: empty, every byte value, one large.
fn delivers_payloads_unaltered(version: Version) {
    let broker = broker("");
    let mut publisher = broker.connect(version, "publisher");
    let mut subscriber = broker.connect(version, "subscriber");
    subscriber.subscribe("payload", 2);
    let every_byte: Vec<u8> = (0..=255).collect();
    // Around the steps of Remaining Length, and around a large frame.
    let sizes = [0, 1, 100, 127, 128, 16_000, 16_383, 16_384, 33_000, 300_000];
    let mut payloads = vec![every_byte.clone()];
    payloads.extend(sizes.map(|size| every_byte.iter().copied().cycle().take(size).collect()));
    for payload in payloads {
        for qos in 0..=2 {
            publisher.publish("payload", &payload, qos);
            let publish = subscriber.receive();
            assert_eq!(publish.topic, "payload");
            assert!(publish.payload == payload, "{} bytes at QoS {qos}", payload.len());
        }
    }
}
versions!(delivers_payloads_unaltered);

/// [MQTT-4.3.2-4] PUBACK carries the PUBLISH's own Packet Identifier, whatever it is.
fn acknowledges_with_the_same_packet_identifier(version: Version) {
    let broker = broker("");
    let mut client = broker.connect(version, "ids");
    for id in [1, 2, 255, 256, 0x7FFF, 0xFFFF] {
        client.send(&Message::new("t", "x").qos(1).id(id).bytes(version));
        client.wait_puback(id);
        client.send(&Message::new("t", "x").qos(2).id(id).bytes(version));
        client.wait_pubrec(id);
        client.send_ack(wire::PUBREL, id);
        client.wait_pubcomp(id);
    }
    client.expect_nothing();
}
versions!(acknowledges_with_the_same_packet_identifier);

/// Section 3.4.2.1: 0x10 says that nobody subscribes; a subscriber turns it into success. (That a
/// server says so is optional; ours does.)
#[test]
fn tells_that_nobody_subscribes() {
    let broker = broker("");
    let mut client = broker.connect(V5, "lonely");
    for qos in [1, 2] {
        let message = Message::new("nobody/here", "x").qos(qos);
        assert_eq!(client.try_publish(message), code::NO_MATCHING_SUBSCRIBERS);
    }
    let mut subscriber = broker.connect(V5, "company");
    subscriber.subscribe("nobody/+", 0);
    for qos in [1, 2] {
        let message = Message::new("nobody/here", "x").qos(qos);
        assert_eq!(client.try_publish(message), code::SUCCESS);
        subscriber.expect("nobody/here", "x");
    }
}

/// [MQTT-4.3.2-5] After PUBACK the same Packet Identifier is a new message, DUP or not.
fn takes_an_acknowledged_identifier_as_new(version: Version) {
    let broker = broker("");
    let mut subscriber = broker.connect(version, "subscriber");
    subscriber.subscribe("t", 1);
    let mut publisher = broker.connect(version, "publisher");
    publisher.deliver(Message::new("t", "first").qos(1).id(7));
    publisher.deliver(Message::new("t", "second").qos(1).id(7).dup());
    subscriber.expect("t", "first");
    // [MQTT-3.3.1-3] DUP is not passed on.
    assert!(!subscriber.expect("t", "second").dup);
}
versions!(takes_an_acknowledged_identifier_as_new);

/// [MQTT-4.3.3-10] Until PUBREL a repeated PUBLISH is answered with PUBREC and delivered once.
fn delivers_a_repeated_qos_2_message_once(version: Version) {
    let broker = broker("");
    let mut subscriber = broker.connect(version, "subscriber");
    subscriber.subscribe("t", 2);
    let mut publisher = broker.connect(version, "publisher");
    publisher.send(&Message::new("t", "once").qos(2).id(9).bytes(version));
    publisher.wait_pubrec(9);
    for _ in 0..3 {
        publisher.send(&Message::new("t", "once").qos(2).id(9).dup().bytes(version));
        assert!(publisher.wait_pubrec(9).code < 0x80);
    }
    publisher.send_ack(wire::PUBREL, 9);
    assert_eq!(publisher.wait_pubcomp(9).code, code::SUCCESS);
    subscriber.expect("t", "once");
    subscriber.expect_nothing_from(&mut publisher);
}
versions!(delivers_a_repeated_qos_2_message_once);

/// [MQTT-4.3.3-12] After PUBCOMP the same Packet Identifier is a new message.
fn takes_a_completed_identifier_as_new(version: Version) {
    let broker = broker("");
    let mut subscriber = broker.connect(version, "subscriber");
    subscriber.subscribe("t", 2);
    let mut publisher = broker.connect(version, "publisher");
    publisher.deliver(Message::new("t", "first").qos(2).id(3));
    publisher.deliver(Message::new("t", "second").qos(2).id(3));
    subscriber.expect("t", "first");
    subscriber.expect("t", "second");
}
versions!(takes_a_completed_identifier_as_new);

/// [MQTT-4.3.3-11] PUBREL is answered with PUBCOMP, a repeated or unknown one too; version 5 says
/// that it knows of nothing (section 3.7.2.1).
fn completes_unknown_releases(version: Version) {
    let broker = broker("");
    let mut client = broker.connect(version, "releases");
    client.send_ack(wire::PUBREL, 77);
    let pubcomp = client.wait_pubcomp(77);
    if version.is_v5() {
        assert_eq!(pubcomp.code, code::PACKET_IDENTIFIER_NOT_FOUND);
    }
    client.deliver(Message::new("t", "x").qos(2).id(5));
    client.send_ack(wire::PUBREL, 5);
    client.wait_pubcomp(5);
    client.expect_nothing();
}
versions!(completes_unknown_releases);

/// Section 4.3.3: a QoS 2 message goes on when it is received, or when it is released, but
/// whichever: once, and before PUBCOMP it has gone.
fn delivers_qos_2_by_its_completion(version: Version) {
    let broker = broker("");
    let mut subscriber = broker.connect(version, "subscriber");
    subscriber.subscribe("t", 0);
    let mut publisher = broker.connect(version, "publisher");
    let ids: Vec<u16> =
        (0..5).map(|n| publisher.start_publish(Message::new("t", [b'0' + n]).qos(2))).collect();
    for id in &ids {
        publisher.wait_pubrec(*id);
    }
    for id in &ids {
        publisher.send_ack(wire::PUBREL, *id);
        publisher.wait_pubcomp(*id);
    }
    for n in 0..5 {
        subscriber.expect("t", [b'0' + n]);
    }
    subscriber.expect_nothing_from(&mut publisher);
}
versions!(delivers_qos_2_by_its_completion);

/// [MQTT-2.2.1-4] The broker's Packet Identifiers are unused ones, and its own: they have nothing
/// to do with the publisher's.
fn assigns_unused_packet_identifiers(version: Version) {
    let broker = broker("");
    let mut subscriber = broker.connect(version, "subscriber");
    subscriber.subscribe("t", 2);
    let mut publisher = broker.connect(version, "publisher");
    for n in 0..20 {
        publisher.deliver(Message::new("t", "x").qos(1 + n % 2).id(4711));
    }
    let publishes: Vec<_> = (0..20).map(|_| subscriber.take_publish()).collect();
    let mut ids: Vec<u16> = publishes.iter().map(|publish| publish.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 20, "identifiers in use at the same time must differ");
    for publish in &publishes {
        subscriber.acknowledge(publish);
    }
    subscriber.expect_nothing();
}
versions!(assigns_unused_packet_identifiers);

/// [MQTT-4.3.3-4] PUBREC is answered with PUBREL of the same identifier, [MQTT-4.4.0-1] and in
/// version 5 nothing is sent again while the connection lives.
fn releases_what_was_received(version: Version) {
    let broker = broker("");
    let mut subscriber = broker.connect(version, "subscriber");
    subscriber.subscribe("t", 2);
    let mut publisher = broker.connect(version, "publisher");
    publisher.publish("t", "one", 2);
    publisher.publish("t", "two", 2);
    let one = subscriber.take_publish();
    let two = subscriber.take_publish();
    subscriber.expect_nothing();
    subscriber.send_ack(wire::PUBREC, one.id);
    subscriber.send_ack(wire::PUBREC, two.id);
    subscriber.wait_pubrel(one.id);
    subscriber.wait_pubrel(two.id);
    subscriber.send_ack(wire::PUBCOMP, one.id);
    subscriber.send_ack(wire::PUBCOMP, two.id);
    subscriber.expect_nothing();
}
versions!(releases_what_was_received);

/// Section 3.5.4 and [MQTT-4.4.0-2]: a PUBREC of 0x80 or more ends the flow: no PUBREL, and the
/// identifier is free; so does a PUBACK of 0x80 or more.
#[test]
fn ends_the_flow_at_a_refusal_of_the_receiver() {
    let broker = broker("");
    let connect = Connect::lasting(V5, "refuses");
    let (mut subscriber, _) = broker.connect_with(&connect);
    subscriber.subscribe("t", 2);
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish("t", "one", 1);
    publisher.publish("t", "two", 2);
    let one = subscriber.take_publish();
    let two = subscriber.take_publish();
    subscriber.send_ack_code(wire::PUBACK, one.id, code::UNSPECIFIED_ERROR);
    subscriber.send_ack_code(wire::PUBREC, two.id, code::QUOTA_EXCEEDED);
    subscriber.expect_nothing();
    subscriber.disconnect();
    let (mut subscriber, connack) = broker.connect_with(&connect);
    assert!(connack.session_present);
    subscriber.expect_nothing();
}

/// Acknowledgements of what was never sent harm nobody; section 3.6.2.1: PUBREC of an unknown
/// identifier gets PUBREL 0x92 in version 5.
fn survives_unknown_acknowledgements(version: Version) {
    let broker = broker("");
    let mut client = broker.connect(version, "confused");
    client.send_ack(wire::PUBACK, 1);
    client.send_ack(wire::PUBCOMP, 2);
    client.expect_nothing();
    if version.is_v5() {
        client.send_ack(wire::PUBREC, 3);
        assert_eq!(client.wait_pubrel(3).code, code::PACKET_IDENTIFIER_NOT_FOUND);
    }
    client.expect_nothing();
}
versions!(survives_unknown_acknowledgements);

/// Section 3.4.2: version 5 acknowledgements come in three lengths.
#[test]
fn reads_every_length_of_acknowledgement() {
    let broker = broker("");
    let mut subscriber = broker.connect(V5, "subscriber");
    subscriber.subscribe("t", 1);
    let mut publisher = broker.connect(V5, "publisher");
    let user = crate::common::property::user("name", "value");
    let tails = [vec![], vec![0x00], vec![0x00, 0x00], {
        let mut tail = vec![0x10];
        tail.extend(crate::common::property::block(&[user.clone(), user]));
        tail
    }];
    for tail in tails {
        publisher.publish("t", "x", 1);
        let publish = subscriber.take_publish();
        let mut body = publish.id.to_be_bytes().to_vec();
        body.extend(tail);
        subscriber.send(&packet(wire::PUBACK, &body));
        subscriber.expect_nothing();
    }
}

/// Version 3.1, section 2.1: a SUBSCRIBE with DUP set, as those clients repeat it, is served.
#[test]
fn serves_repeated_subscribes_of_31() {
    let broker = broker("");
    let mut client = broker.connect(V31, "repeats");
    let mut bytes = crate::common::client::subscribe(V31, 5, &[("t", 1)], &[]);
    client.send(&bytes);
    assert_eq!(client.wait_suback(5).codes, [1]);
    bytes[0] |= 0x08;
    client.send(&bytes);
    assert_eq!(client.wait_suback(5).codes, [1]);
}
