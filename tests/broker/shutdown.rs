//! A graceful stop.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use sluice::net::CloseCause;
use sluice::net::sim::ClientId;

use crate::common::cases::shards;
use crate::common::client::subscribe;
use crate::common::fixture::broker_with_listener;
use crate::common::property::will_delay;
use crate::common::{
    Broker, Client, Connect, Event, Message, Packet, V5, Version, Will, broker, broker_with_shards,
    code,
};
use crate::rig::{Rig, packets, pubacks};

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

/// A subscriber of `t` that reads nothing yet, although more waits for it than the network holds: its
/// messages, all acknowledged to their publisher.
fn slow_reader(rig: &mut Rig) -> (ClientId, usize) {
    let subscriber = rig.connect(&Connect::new(V5, "subscriber"));
    rig.send(subscriber, &subscribe(V5, 1, &[("t", 1)], &[]));
    rig.turns(4);
    rig.take(subscriber);
    let publisher = rig.connect(&Connect::new(V5, "publisher"));
    let payload = "x".repeat(10_000);
    let count = 40;
    for id in 1..=count {
        rig.send(publisher, &Message::new("t", &payload).qos(1).id(id).bytes(V5));
    }
    rig.turns(4);
    let acknowledged = pubacks(&rig.take(publisher), V5);
    assert_eq!(acknowledged, (1..=count).map(|id| (id, code::SUCCESS)).collect::<Vec<_>>());
    (subscriber, count.into())
}

/// The payloads of all that came, which ends with DISCONNECT 0x8B.
fn payloads_and_goodbye(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut all = packets(bytes, V5);
    let Some(Packet::Disconnect(reason)) = all.pop() else { panic!("no DISCONNECT at the end") };
    assert_eq!(reason.code, code::SERVER_SHUTTING_DOWN);
    let payload = |packet| match packet {
        Packet::Publish(publish) => Some(publish.payload),
        _ => None,
    };
    all.into_iter().filter_map(payload).collect()
}

/// A reader that is slow is waited for as long as `shutdown.timeout` says.
fn waits_for_a_slow_reader(shards: u16) {
    let mut rig = Rig::with_buffers(16 << 10, shards.into(), "[shutdown]\ntimeout = \"60s\"");
    let (subscriber, count) = slow_reader(&mut rig);
    rig.stop();
    for _ in 0..50 {
        assert!(!rig.last_turns(4), "it is not done yet");
        rig.world.advance(Duration::from_secs(1));
    }
    let mut bytes = Vec::new();
    let mut turns = 0;
    while !rig.last_turns(1) {
        rig.world.client_recv(subscriber, &mut bytes);
        turns += 1;
        assert!(turns < 10_000, "it does not end, though its last client reads");
    }
    while rig.world.client_recv(subscriber, &mut bytes) > 0 {}
    assert_eq!(payloads_and_goodbye(&bytes).len(), count);
    assert_eq!(rig.world.client_end(subscriber), Some(CloseCause::PeerClosed));
}
shards!(waits_for_a_slow_reader);

/// And no longer.
fn cuts_a_reader_at_the_timeout(shards: u16) {
    let mut rig = Rig::with_buffers(16 << 10, shards.into(), "[shutdown]\ntimeout = \"60s\"");
    let (_subscriber, _) = slow_reader(&mut rig);
    rig.stop();
    for second in 0..60 {
        assert!(!rig.last_turns(4), "cut after {second} s");
        rig.world.advance(Duration::from_secs(1));
    }
    assert!(rig.last_turns(4), "it goes on after its timeout");
}
shards!(cuts_a_reader_at_the_timeout);

/// What is on its way to another shard when the stop begins still arrives there, and what is
/// acknowledged was delivered: whichever shard hears of the stop first.
#[test]
fn messages_between_shards_arrive() {
    for order in [[0, 1], [1, 0]] {
        for head_start in 0..4 {
            let mut rig = Rig::new(2, "");
            let (there, here) = (rig.name_at(1, "subscriber"), rig.name_at(0, "publisher"));
            let subscriber = rig.connect(&Connect::new(V5, &there));
            rig.send(subscriber, &subscribe(V5, 1, &[("t", 2)], &[]));
            rig.turns(4);
            rig.take(subscriber);
            let publisher = rig.connect(&Connect::new(V5, &here));
            let both = [
                Message::new("t", "one").qos(1).id(1).bytes(V5),
                Message::new("t", "two").qos(2).id(2).bytes(V5),
            ];
            assert!(rig.world.client_send(publisher, &both.concat()).is_ok());
            // Read and handed to the other shard, which knows nothing yet.
            rig.turns_of(0, 1);
            rig.stop();
            for _ in 0..head_start {
                let _ = rig.shards[order[0]].turn(false);
            }
            assert!(rig.last_turns(20), "all have stopped");
            let received = payloads_and_goodbye(&rig.take(subscriber));
            assert_eq!(received, [b"one", b"two"], "{order:?} {head_start}");
            let answers = packets(&rig.take(publisher), V5);
            let Some(Packet::Disconnect(reason)) = answers.last() else {
                panic!("no DISCONNECT at the end: {answers:?}")
            };
            assert_eq!(reason.code, code::SERVER_SHUTTING_DOWN);
        }
    }
}

/// A connection on its way to the home of its client when the stop begins ends like all others.
#[test]
fn connections_between_shards_end() {
    for head_start in [[0, 0], [3, 0], [0, 3]] {
        let mut rig = Rig::new(2, "");
        let name = rig.name_at(1, "client");
        let client = rig.world.connect_to(0);
        assert!(rig.world.client_send(client, &Connect::new(V5, &name).bytes()).is_ok());
        rig.turns_of(0, 2);
        rig.stop();
        for (shard, turns) in head_start.into_iter().enumerate() {
            for _ in 0..turns {
                let _ = rig.shards[shard].turn(false);
            }
        }
        assert!(rig.last_turns(20), "all have stopped");
        drop(std::mem::take(&mut rig.shards));
        let bytes = rig.take(client);
        match packets(&bytes, V5).first() {
            None => {}
            Some(Packet::ConnAck(connack)) => {
                assert!([code::SUCCESS, code::SERVER_SHUTTING_DOWN].contains(&connack.code));
            }
            other => panic!("unexpected {other:?}"),
        }
        assert!(rig.world.client_end(client).is_some(), "{head_start:?}: it is still open");
    }
}
