//! Timed redelivery on a live connection, for 3.1 and 3.1.1 clients (`mqtt.retry`).

use std::time::{Duration, Instant};

use crate::common::cases::versions;
use crate::common::wire;
use crate::common::{Connect, Event, Packet, V5, V311, Version, broker, code, let_pass};

const TWICE: &str = "[mqtt.retry]\nafter = [\"1s\", \"1s\"]\ngive_up = \"disconnect\"";

fn about_a_second(since: Instant) {
    let took = since.elapsed();
    assert!((900..3_500).contains(&took.as_millis()), "after {took:?}");
}

/// (3.1.1) [MQTT-4.4.0-1], [MQTT-3.3.1-1] An unacknowledged message comes again with DUP and its
/// identifier; after the last attempt the connection is closed, and the message waits for the next.
fn sends_publish_again(version: Version) {
    let broker = broker(TWICE);
    let connect = Connect::lasting(version, "client");
    let (mut client, _) = broker.connect_with(&connect);
    client.subscribe("t", 1);
    let mut publisher = broker.connect(version, "publisher");
    publisher.publish("t", "x", 1);
    let first = client.take_publish();
    assert!(!first.dup);
    for _ in 0..2 {
        let last = Instant::now();
        let again = client.take_publish();
        about_a_second(last);
        assert_eq!((again.id, again.dup), (first.id, true));
        assert_eq!(again.payload, first.payload);
    }
    // After the last of the list the broker gives up.
    client.expect_closed();
    let (mut client, _) = broker.connect_with(&connect);
    let again = client.receive();
    assert_eq!((again.id, again.dup), (first.id, true));
    client.expect_nothing();
}
versions!(sends_publish_again, 3.x);

/// (3.1.1) [MQTT-4.3.3-1] At QoS 2 it is PUBLISH before PUBREC, and PUBREL after, never PUBLISH
/// again.
fn sends_pubrel_again(version: Version) {
    let broker = broker("[mqtt.retry]\nafter = [\"1s\"]\ngive_up = \"never\"");
    let mut client = broker.connect(version, "client");
    client.subscribe("t", 2);
    let mut publisher = broker.connect(version, "publisher");
    publisher.publish("t", "x", 2);
    let first = client.take_publish();
    let again = client.take_publish();
    assert_eq!((again.id, again.dup, again.qos), (first.id, true, 2));
    client.send_ack(wire::PUBREC, first.id);
    for _ in 0..2 {
        assert!(matches!(client.next(), Packet::PubRel(ack) if ack.id == first.id));
    }
    client.send_ack(wire::PUBCOMP, first.id);
    client.expect_nothing();
}
versions!(sends_pubrel_again, 3.x);

/// With `give_up = "never"` the last delay repeats.
#[test]
fn goes_on_for_ever() {
    let broker = broker("[mqtt.retry]\nafter = [\"1s\"]\ngive_up = \"never\"");
    let mut client = broker.connect(V311, "client");
    client.subscribe("t", 1);
    let mut publisher = broker.connect(V311, "publisher");
    publisher.publish("t", "x", 1);
    let first = client.take_publish();
    for _ in 0..3 {
        let last = Instant::now();
        assert_eq!(client.take_publish().id, first.id);
        about_a_second(last);
    }
    client.send_ack(wire::PUBACK, first.id);
    client.expect_nothing();
}

/// What is acknowledged in time does not come again, and closes nothing; [MQTT-4.4.0-1] a version
/// 5 client gets nothing again while it is connected, whatever is configured.
#[test]
fn leaves_others_alone() {
    let broker = broker(TWICE);
    let mut prompt = broker.connect(V311, "prompt");
    prompt.subscribe("t", 2);
    let mut silent = broker.connect(V5, "silent");
    silent.subscribe("t", 2);
    let mut publisher = broker.connect(V5, "publisher");
    for qos in [1, 2] {
        publisher.publish("t", "x", qos);
        prompt.expect("t", "x");
        silent.take_publish();
    }
    let_pass(Duration::from_millis(3_500));
    prompt.expect_nothing();
    silent.expect_nothing();
}

/// Without the key there is no timed redelivery: on resume only.
#[test]
fn is_off_by_default() {
    let broker = broker("");
    let mut client = broker.connect(V311, "client");
    client.subscribe("t", 1);
    let mut publisher = broker.connect(V311, "publisher");
    publisher.publish("t", "x", 1);
    let publish = client.take_publish();
    let_pass(Duration::from_millis(2_000));
    client.expect_nothing();
    client.acknowledge(&publish);
    client.expect_nothing();
}

/// One message that is not acknowledged does not hold the others up, nor make them come again.
#[test]
fn sends_only_the_late_ones_again() {
    let broker = broker(TWICE);
    let mut client = broker.connect(V311, "client");
    client.subscribe("t", 1);
    let mut publisher = broker.connect(V5, "publisher");
    for n in 0..10 {
        publisher.publish("t", n.to_string(), 1);
    }
    let all: Vec<_> = (0..10).map(|_| client.take_publish()).collect();
    for publish in all.iter().filter(|publish| publish.payload_text() != "4") {
        client.acknowledge(publish);
    }
    match client.event() {
        Event::Packet(Packet::Publish(again)) => {
            assert_eq!((again.payload_text(), again.dup), ("4", true));
            client.acknowledge(&again);
        }
        other => panic!("unexpected {other:?}"),
    }
    client.expect_nothing();
    assert_eq!(publisher.try_publish(crate::common::Message::new("t", "x").qos(1)), code::SUCCESS);
}

/// Each message waits for as long as the list says, whenever the broker looked last.
fn looks_in_time_for_later_messages(version: Version) {
    let broker = broker("[mqtt.retry]\nafter = [\"1s\", \"30s\"]\ngive_up = \"never\"");
    let mut client = broker.connect(version, "client");
    client.subscribe("t", 1);
    let mut publisher = broker.connect(version, "publisher");
    for n in 0..2 {
        publisher.publish("t", n.to_string(), 1);
        let first = client.take_publish();
        let last = Instant::now();
        let again = client.take_publish();
        about_a_second(last);
        assert_eq!((again.id, again.dup), (first.id, true));
    }
}
versions!(looks_in_time_for_later_messages, 3.x);
