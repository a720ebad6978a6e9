//! A graceful stop.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::common::cases::shards;
use crate::common::fixture::broker_with_listener;
use crate::common::property::will_delay;
use crate::common::{
    Broker, Client, Connect, Event, Message, Packet, V5, Version, Will, broker, broker_with_shards,
    code,
};

/// What a client still gets, up to the close; its last packet is DISCONNECT 0x8B in version 5.
fn goodbye(mut client: Client) -> Vec<String> {
    let mut payloads = Vec::new();
    loop {
        match client.event() {
            Event::Packet(Packet::Publish(publish)) => {
                payloads.push(publish.payload_text().to_owned());
            }
            Event::Packet(Packet::Disconnect(reason)) => {
                assert_eq!(reason.code, code::SERVER_SHUTTING_DOWN);
                client.expect_closed();
                return payloads;
            }
            Event::Closed if !client.version.is_v5() => return payloads,
            other => panic!("unexpected {other:?}"),
        }
    }
}

fn stop(broker: Broker) {
    let start = Instant::now();
    broker.stop();
    assert!(start.elapsed() < Duration::from_secs(9), "took {:?}", start.elapsed());
}

/// Section 4.13.2: version 5 clients are told 0x8B, all are closed, and nobody comes in any more.
fn says_goodbye(shards: u16) {
    // Or else the silent one would not be the broker's yet.
    let broker = broker_with_listener(shards, "defer_accept = false", "");
    let address = broker.address();
    let clients: Vec<Client> =
        (0..9).map(|n| broker.connect(Version::ALL[n % 3], &format!("client-{n}"))).collect();
    // One that never connected, and one half way.
    let mut silent = broker.open(V5);
    let mut half = broker.open(V5);
    half.send(&Connect::new(V5, "half").bytes()[..5]);
    stop(broker);
    for client in clients {
        assert_eq!(goodbye(client), [""; 0]);
    }
    silent.expect_closed();
    half.expect_closed();
    assert!(TcpStream::connect(address).is_err(), "the listener is closed");
}
shards!(says_goodbye);

/// What was acknowledged to its publisher is written out before the goodbye.
fn flushes_what_it_owes(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let mut subscriber = broker.connect(V5, "subscriber");
    subscriber.subscribe("t", 1);
    let mut publisher = broker.connect(V5, "publisher");
    let expected: Vec<String> = (0..300).map(|n| format!("{n:01000}")).collect();
    for payload in &expected {
        publisher.publish("t", payload, 1);
    }
    stop(broker);
    assert!(goodbye(subscriber) == expected);
    goodbye(publisher);
}
shards!(flushes_what_it_owes);

/// `shutdown.publish_wills`, true unless configured: the wills of those that are disconnected are
/// published, before their watchers are.
fn publishes_wills(shards: u16) {
    for (toml, published) in [("", true), ("[shutdown]\npublish_wills = false", false)] {
        let broker = broker_with_shards(shards, toml);
        let mut watcher = broker.connect(V5, "watcher");
        watcher.subscribe("will/+", 1);
        let clients: Vec<Client> = (0..4)
            .map(|n| {
                let will = Will::new(&format!("will/{n}"), &n.to_string()).qos(n % 2);
                let connect = Connect::new(V5, &format!("client-{n}")).will(will);
                broker.connect_with(&connect).0
            })
            .collect();
        stop(broker);
        let mut wills = goodbye(watcher);
        wills.sort_unstable();
        let expected: &[&str] = if published { &["0", "1", "2", "3"] } else { &[] };
        assert_eq!(wills, expected);
        for client in clients {
            goodbye(client);
        }
    }
}
shards!(publishes_wills);

/// A will that waits for its delay is not sent early by a stop that publishes none.
#[test]
fn keeps_delayed_wills_back_if_told() {
    let broker = broker("[shutdown]\npublish_wills = false");
    let mut watcher = broker.connect(V5, "watcher");
    watcher.subscribe("will", 1);
    let will = Will::new("will", "x").with(will_delay(100));
    let connect = Connect::lasting(V5, "client").will(will);
    broker.connect_with(&connect).0.hang_up();
    stop(broker);
    assert_eq!(goodbye(watcher), [""; 0]);
}

/// `shutdown.timeout` bounds the stop: a reader that does not read is cut.
#[test]
fn does_not_wait_for_ever() {
    let broker = broker("[shutdown]\ntimeout = \"500ms\"");
    let mut stuck = broker.connect(V5, "stuck");
    stuck.subscribe("t", 1);
    let mut publisher = broker.connect(V5, "publisher");
    // More than socket buffers hold, so that something is left to write.
    for _ in 0..40 {
        publisher.deliver(Message::new("t", vec![b'x'; 400_000]).qos(1));
    }
    let start = Instant::now();
    broker.stop();
    assert!(start.elapsed() < Duration::from_secs(5), "took {:?}", start.elapsed());
}
