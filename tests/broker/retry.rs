//! Timed redelivery on a live connection, for 3.1 and 3.1.1 clients (`mqtt.retry`).

use std::time::{Duration, Instant};

use crate::common::cases::versions;
use crate::common::wire;
use crate::common::{Client, Connect, Event, Packet, V5, V311, Version, broker, code, let_pass};

const TWICE: &str = "[mqtt.retry]\nafter = [\"1s\", \"1s\"]\ngive_up = \"disconnect\"";

/// So many delays of a second after a time before the first attempt. The time between two attempts would say
/// less: one that is read late is followed the sooner by the next.
fn after_about(seconds: u128, since: Instant) {
    let took = since.elapsed();
    assert!((seconds * 900..seconds * 1_000 + 8_000).contains(&took.as_millis()), "after {took:?}");
}

/// Nothing comes again, but for what the broker sent before it had read the acknowledgement.
#[track_caller]
fn expect_no_more(client: &mut Client, is_again: impl Fn(&Packet) -> bool) {
    client.send(&wire::packet(wire::PINGREQ, &[]));
    loop {
        match client.next() {
            Packet::PingResp => break,
            again => assert!(is_again(&again), "{again:?}"),
        }
    }
    client.expect_nothing();
}

fn is_publish_again(packet: &Packet, id: u16) -> bool {
    matches!(packet, Packet::Publish(again) if again.dup && again.id == id)
}

/// (3.1.1) [MQTT-4.4.0-1], [MQTT-3.3.1-1] An unacknowledged message comes again with DUP and its
/// identifier; after the last attempt the connection is closed, and the message waits for the next.
fn sends_publish_again(version: Version) {
    let broker = broker(TWICE);
    let connect = Connect::lasting(version, "client");
    let (mut client, _) = broker.connect_with(&connect);
    client.subscribe("t", 1);
    let mut publisher = broker.connect(version, "publisher");
    let start = Instant::now();
    publisher.publish("t", "x", 1);
    let first = client.take_publish();
    assert!(!first.dup);
    for attempt in 1..=2 {
        let again = client.take_publish();
        after_about(attempt, start);
        assert_eq!((again.id, again.dup), (first.id, true));
        assert_eq!(again.payload, first.payload);
    }
    // After the last of the list the broker gives up.
    client.expect_closed();
    let (mut client, _) = broker.connect_with(&connect);
    let again = client.receive();
    assert_eq!((again.id, again.dup), (first.id, true));
    expect_no_more(&mut client, |packet| is_publish_again(packet, first.id));
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
    let is_pubrel = |packet: &Packet| matches!(packet, Packet::PubRel(ack) if ack.id == first.id);
    let mut next = client.next();
    while is_publish_again(&next, first.id) {
        // It was sent before PUBREC came.
        next = client.next();
    }
    assert!(is_pubrel(&next), "{next:?}");
    let next = client.next();
    assert!(is_pubrel(&next), "{next:?}");
    client.send_ack(wire::PUBCOMP, first.id);
    expect_no_more(&mut client, is_pubrel);
}
versions!(sends_pubrel_again, 3.x);

/// With `give_up = "never"` the last delay repeats.
#[test]
fn goes_on_for_ever() {
    let broker = broker("[mqtt.retry]\nafter = [\"1s\"]\ngive_up = \"never\"");
    let mut client = broker.connect(V311, "client");
    client.subscribe("t", 1);
    let mut publisher = broker.connect(V311, "publisher");
    let start = Instant::now();
    publisher.publish("t", "x", 1);
    let first = client.take_publish();
    for attempt in 1..=3 {
        assert_eq!(client.take_publish().id, first.id);
        after_about(attempt, start);
    }
    client.send_ack(wire::PUBACK, first.id);
    expect_no_more(&mut client, |packet| is_publish_again(packet, first.id));
}

/// What is acknowledged in time does not come again, and closes nothing; [MQTT-4.4.0-1] a version
/// 5 client gets nothing again while it is connected, whatever is configured.
#[test]
fn leaves_others_alone() {
    let broker = broker("[mqtt.retry]\nafter = [\"2s\"]\ngive_up = \"disconnect\"");
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
    let_pass(Duration::from_millis(4_500));
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
    // All but one are acknowledged within this.
    let broker = broker("[mqtt.retry]\nafter = [\"3s\"]\ngive_up = \"disconnect\"");
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
        let start = Instant::now();
        publisher.publish("t", n.to_string(), 1);
        let first = client.take_publish();
        let again = client.take_publish();
        after_about(1, start);
        assert_eq!((again.id, again.dup), (first.id, true));
    }
}
versions!(looks_in_time_for_later_messages, 3.x);
