//! Flow control (section 4.9): the Receive Maximum of either side.

use crate::common::cases::{shards, versions};
use crate::common::property;
use crate::common::wire;
use crate::common::{Connect, Message, V5, Version, broker, broker_with_shards, code};

fn number(payload: &[u8]) -> usize {
    std::str::from_utf8(payload).unwrap().parse().unwrap()
}

// The client's Receive Maximum.

/// [MQTT-3.3.4-9] No more than Receive Maximum messages are unacknowledged at a time; what does
/// not fit waits, in order, and is not lost.
fn respects_the_receive_maximum(shards: u16) {
    let broker = broker_with_shards(shards, "");
    for maximum in [1, 2, 10] {
        let connect = Connect::new(V5, "subscriber").with(property::receive_maximum(maximum));
        let (mut subscriber, _) = broker.connect_with(&connect);
        subscriber.subscribe("t", 2);
        let mut publisher = broker.connect(V5, "publisher");
        for n in 0..30 {
            publisher.publish("t", n.to_string(), 1 + (n % 2) as u8);
        }
        let mut window: Vec<_> = (0..maximum).map(|_| subscriber.take_publish()).collect();
        for n in 0..30 {
            subscriber.expect_nothing();
            let publish = window.remove(0);
            assert_eq!(number(&publish.payload), n);
            subscriber.acknowledge(&publish);
            if n + usize::from(maximum) < 30 {
                window.push(subscriber.take_publish());
            }
        }
        subscriber.expect_nothing();
        subscriber.disconnect();
    }
}
shards!(respects_the_receive_maximum);

/// Section 4.9: at QoS 2 the place is free at PUBCOMP, not at PUBREC; at a PUBREC of 0x80 or more
/// at once.
#[test]
fn frees_the_place_of_qos_2_at_its_end() {
    let broker = broker("");
    let connect = Connect::new(V5, "subscriber").with(property::receive_maximum(1));
    let (mut subscriber, _) = broker.connect_with(&connect);
    subscriber.subscribe("t", 2);
    let mut publisher = broker.connect(V5, "publisher");
    for n in 0..3 {
        publisher.publish("t", n.to_string(), 2);
    }
    let first = subscriber.take_publish();
    subscriber.send_ack(wire::PUBREC, first.id);
    subscriber.wait_pubrel(first.id);
    subscriber.expect_nothing();
    subscriber.send_ack(wire::PUBCOMP, first.id);
    let second = subscriber.take_publish();
    assert_eq!(second.payload_text(), "1");
    subscriber.send_ack_code(wire::PUBREC, second.id, code::UNSPECIFIED_ERROR);
    subscriber.expect("t", "2");
}

/// [MQTT-3.3.4-10], [MQTT-4.9.0-3] A full window holds back neither QoS 0 nor other packets.
#[test]
fn passes_everything_else_while_the_window_is_full() {
    let broker = broker("");
    let connect = Connect::new(V5, "subscriber").with(property::receive_maximum(1));
    let (mut subscriber, _) = broker.connect_with(&connect);
    subscriber.subscribe("t", 1);
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish("t", "in flight", 1);
    publisher.publish("t", "waits", 1);
    let in_flight = subscriber.take_publish();
    publisher.publish("t", "at once", 0);
    subscriber.expect("t", "at once");
    subscriber.subscribe("own", 0);
    assert_eq!(subscriber.unsubscribe(&["own"]).codes, [0]);
    subscriber.publish("elsewhere", "x", 2);
    subscriber.expect_nothing();
    subscriber.acknowledge(&in_flight);
    subscriber.expect("t", "waits");
}

/// Section 3.1.2.11.3: Receive Maximum belongs to the connection; a resumed session has the new
/// one.
#[test]
fn takes_the_receive_maximum_of_the_present_connection() {
    let broker = broker("");
    let lasting =
        |maximum| Connect::lasting(V5, "subscriber").with(property::receive_maximum(maximum));
    let (mut subscriber, _) = broker.connect_with(&lasting(5));
    subscriber.subscribe("t", 1);
    let mut publisher = broker.connect(V5, "publisher");
    for n in 0..10 {
        publisher.publish("t", n.to_string(), 1);
    }
    for _ in 0..5 {
        subscriber.take_publish();
    }
    subscriber.expect_nothing();
    subscriber.hang_up();
    // Those in flight alone are more than it takes now.
    let (mut subscriber, _) = broker.connect_with(&lasting(2));
    for n in (0..10).step_by(2) {
        let two = [subscriber.take_publish(), subscriber.take_publish()];
        subscriber.expect_nothing();
        for (at, publish) in two.iter().enumerate() {
            assert_eq!((number(&publish.payload), publish.dup), (n + at, n + at < 5));
        }
        subscriber.send(&two.map(|publish| puback(publish.id)).concat());
    }
    subscriber.expect_nothing();
}

fn puback(id: u16) -> Vec<u8> {
    wire::packet(wire::PUBACK, &id.to_be_bytes())
}

/// Configuration `mqtt.max_inflight` bounds the window of clients that state none.
fn bounds_the_window_by_configuration(version: Version) {
    let broker = broker("[mqtt]\nmax_inflight = 3");
    let mut subscriber = broker.connect(version, "subscriber");
    subscriber.subscribe("t", 1);
    let mut publisher = broker.connect(version, "publisher");
    for n in 0..10 {
        publisher.publish("t", n.to_string(), 1);
    }
    let window: Vec<_> = (0..3).map(|_| subscriber.take_publish()).collect();
    subscriber.expect_nothing();
    subscriber.acknowledge(&window[0]);
    assert_eq!(subscriber.take_publish().payload_text(), "3");
    subscriber.expect_nothing();
}
versions!(bounds_the_window_by_configuration);

// Our own Receive Maximum.

/// [MQTT-3.3.4-7] The broker's Receive Maximum is stated, and a client beyond it gets 0x93.
#[test]
fn answers_a_flood_with_0x93() {
    let broker = broker("[mqtt]\nreceive_maximum = 5");
    let (mut client, connack) = broker.connect_with(&Connect::new(V5, "client"));
    assert_eq!(connack.properties.number(property::RECEIVE_MAXIMUM), Some(5));
    // Without PUBREL a QoS 2 message holds its place.
    for id in 1..=5 {
        client.start_publish(Message::new("t", "x").qos(2).id(id));
        client.wait_pubrec(id);
    }
    client.ping();
    // A repeated one is no further one.
    client.start_publish(Message::new("t", "x").qos(2).id(3).dup());
    client.wait_pubrec(3);
    // QoS 0 does not count.
    client.publish("t", "x", 0);
    client.send_ack(wire::PUBREL, 1);
    client.wait_pubcomp(1);
    client.start_publish(Message::new("t", "x").qos(2).id(6));
    client.wait_pubrec(6);
    client.start_publish(Message::new("t", "x").qos(2).id(7));
    client.expect_disconnect(&[code::RECEIVE_MAXIMUM_EXCEEDED]);
}

/// [MQTT-4.9.0-3] With the quota used up, the broker still answers everything else.
#[test]
fn serves_a_client_that_used_its_quota_up() {
    let broker = broker("[mqtt]\nreceive_maximum = 1");
    let mut client = broker.connect(V5, "client");
    client.subscribe("t", 2);
    client.start_publish(Message::new("elsewhere", "x").qos(2).id(100));
    client.wait_pubrec(100);
    client.subscribe("other", 1);
    client.publish("t", "own", 0);
    client.expect("t", "own");
    client.unsubscribe(&["other"]);
    client.ping();
    client.send_ack(wire::PUBREL, 100);
    client.wait_pubcomp(100);
    client.publish("t", "now", 1);
    client.expect("t", "now");
}

/// QoS 1 messages are acknowledged as they come, so a burst above the maximum in one write is fine
/// as long as its receivers keep up; all of them count once.
#[test]
fn takes_bursts_above_the_maximum() {
    let broker = broker("");
    let (mut client, connack) = broker.connect_with(&Connect::new(V5, "client"));
    assert_eq!(connack.properties.number(property::RECEIVE_MAXIMUM), Some(1000));
    let bytes: Vec<u8> =
        (1..=3000).flat_map(|id| Message::new("t", "x").qos(1).id(id).bytes(V5)).collect();
    client.send(&bytes);
    for id in 1..=3000 {
        client.wait_puback(id);
    }
}
