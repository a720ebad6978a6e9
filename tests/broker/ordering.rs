//! Message ordering (section 4.6).

use crate::common::cases::{shards, versions};
use crate::common::wire;
use crate::common::{Connect, Message, V5, V311, Version, broker, broker_with_shards};

const COUNT: usize = 2_000;

fn number(payload: &[u8]) -> usize {
    std::str::from_utf8(payload).unwrap().parse().unwrap()
}

/// [MQTT-4.6.0-5] Many publishers, many subscribers on all shards: each subscriber sees each
/// publisher's messages in the order sent, at QoS 0.
fn keeps_the_order_of_every_publisher(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let mut subscribers: Vec<_> = (0..4)
        .map(|n| {
            let mut client = broker.connect(V311, &format!("subscriber-{n}"));
            client.subscribe("from/+", 0);
            client
        })
        .collect();
    let mut publishers: Vec<_> =
        (0..4).map(|n| broker.connect(V311, &format!("publisher-{n}"))).collect();
    for n in 0..COUNT / 4 {
        for (p, publisher) in publishers.iter_mut().enumerate() {
            publisher.publish(&format!("from/{p}"), n.to_string(), 0);
        }
    }
    for subscriber in &mut subscribers {
        let mut seen = [0; 4];
        for _ in 0..COUNT {
            let publish = subscriber.take_publish();
            let publisher = number(&publish.topic.as_bytes()["from/".len()..]);
            assert_eq!(number(&publish.payload), seen[publisher], "of publisher {publisher}");
            seen[publisher] += 1;
        }
        assert_eq!(seen, [COUNT / 4; 4]);
        subscriber.expect_nothing();
    }
}
shards!(keeps_the_order_of_every_publisher);

/// [MQTT-4.6.0-5] The same at QoS 1 and 2, with a window far smaller than the stream, so that most
/// of it waits in the queue.
fn keeps_the_order_through_the_queue(shards: u16) {
    let broker = broker_with_shards(shards, "");
    for qos in [1, 2] {
        let mut connect = Connect::new(V5, &format!("subscriber-{qos}"));
        connect = connect.with(crate::common::property::receive_maximum(5));
        let (mut subscriber, _) = broker.connect_with(&connect);
        subscriber.subscribe("queue", qos);
        let mut publisher = broker.connect(V5, &format!("publisher-{qos}"));
        for start in (0..600).step_by(200) {
            let sent: Vec<u16> = (start..start + 200)
                .map(|n: usize| {
                    publisher.start_publish(Message::new("queue", n.to_string()).qos(qos))
                })
                .collect();
            for id in sent {
                if qos == 1 {
                    publisher.wait_puback(id);
                } else {
                    publisher.wait_pubrec(id);
                    publisher.send_ack(wire::PUBREL, id);
                    publisher.wait_pubcomp(id);
                }
            }
        }
        for n in 0..600 {
            let publish = subscriber.receive();
            assert_eq!((number(&publish.payload), publish.qos), (n, qos));
            assert!(!publish.dup);
        }
        subscriber.expect_nothing();
    }
}
shards!(keeps_the_order_through_the_queue);

/// [MQTT-4.6.0-6] A publisher that is pipelined into one write keeps its order, over one topic and
/// over several that one filter takes in.
fn keeps_the_order_of_a_burst(version: Version) {
    let broker = broker_with_shards(3, "");
    let mut subscriber = broker.connect(version, "subscriber");
    subscriber.subscribe("burst/#", 0);
    let mut publisher = broker.connect(version, "publisher");
    let bytes: Vec<u8> =
        (0..COUNT).flat_map(|n| Message::new("burst/same", n.to_string()).bytes(version)).collect();
    publisher.send(&bytes);
    for n in 0..COUNT {
        assert_eq!(number(&subscriber.take_publish().payload), n);
    }
    subscriber.expect_nothing();
}
versions!(keeps_the_order_of_a_burst);

/// [MQTT-4.6.0-5] Large messages do not fall behind small ones.
fn keeps_the_order_of_large_and_small(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let mut subscriber = broker.connect(V311, "subscriber");
    subscriber.subscribe("mixed", 1);
    let mut publisher = broker.connect(V311, "publisher");
    for n in 0..40 {
        let size = [1, 60_000, 20, 17_000][n % 4];
        let payload = format!("{n:0size$}");
        publisher.start_publish(Message::new("mixed", payload).qos(1));
    }
    for n in 0..40 {
        assert_eq!(number(&subscriber.receive().payload), n);
    }
}
shards!(keeps_the_order_of_large_and_small);

/// [MQTT-4.6.0-1] Everything unacknowledged comes again in its order when the session resumes, and
/// what was queued meanwhile comes after it.
fn keeps_the_order_over_a_reconnect(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let connect = Connect::lasting(V311, "subscriber");
    let (mut subscriber, _) = broker.connect_with(&connect);
    subscriber.subscribe("kept", 1);
    let mut publisher = broker.connect(V311, "publisher");
    for n in 0..20 {
        publisher.publish("kept", n.to_string(), 1);
    }
    for n in 0..20 {
        assert_eq!(number(&subscriber.take_publish().payload), n);
    }
    subscriber.hang_up();
    for n in 20..40 {
        publisher.publish("kept", n.to_string(), 1);
    }
    let (mut subscriber, connack) = broker.connect_with(&connect);
    assert!(connack.session_present);
    for n in 0..40 {
        let publish = subscriber.receive();
        assert_eq!(number(&publish.payload), n);
        assert_eq!(publish.dup, n < 20, "{n}");
    }
    subscriber.expect_nothing();
}
shards!(keeps_the_order_over_a_reconnect);

/// DESIGN: who sees a SUBACK misses nothing published after it, by anyone on any shard.
fn misses_nothing_after_suback(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let mut publishers: Vec<_> =
        (0..4).map(|n| broker.connect(V5, &format!("publisher-{n}"))).collect();
    for round in 0..50 {
        let mut subscriber = broker.connect(V5, &format!("subscriber-{round}"));
        let filter = format!("fresh/{round}/+");
        subscriber.subscribe(&filter, 0);
        for (p, publisher) in publishers.iter_mut().enumerate() {
            publisher.publish(&format!("fresh/{round}/{p}"), "x", 0);
        }
        for _ in 0..publishers.len() {
            subscriber.take_publish();
        }
        subscriber.disconnect();
    }
}
shards!(misses_nothing_after_suback);

/// [MQTT-3.8.4-4] Replacing a subscription loses nothing of a running stream.
#[test]
fn loses_nothing_while_a_subscription_is_replaced() {
    let broker = broker("");
    let mut subscriber = broker.connect(V5, "subscriber");
    subscriber.subscribe("stream", 1);
    let mut publisher = broker.connect(V5, "publisher");
    let address = publisher.local_address();
    let stream = std::thread::spawn(move || {
        for n in 0..COUNT {
            publisher.publish("stream", n.to_string(), 1);
        }
        publisher
    });
    for n in 0..COUNT {
        if n % 50 == 0 {
            subscriber.subscribe("stream", 1);
        }
        assert_eq!(number(&subscriber.receive().payload), n);
    }
    assert_eq!(stream.join().unwrap().local_address(), address);
    subscriber.expect_nothing();
}
