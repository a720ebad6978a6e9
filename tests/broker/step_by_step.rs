//! Shards on a simulated network, step by step: what takes full buffers, or the right turn.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::common::client::subscribe;
use crate::common::connect::{Connect, Will};
use crate::common::message::Message;
use crate::common::property::{session_expiry, will_delay};
use crate::common::wire;
use crate::common::{Packet, V5, V31, V311};
use crate::rig::{Rig, packets, pubacks};

/// A client that sends and does not read makes the broker hold a bounded number of answers; it is
/// not read until it reads, and then goes on where it was.
#[test]
fn a_client_that_does_not_read_is_not_read() {
    let toml = "[limits]\nmax_packet_size = \"16KiB\"\n[queue]\nqos0_backlog_bytes = \"16KiB\"";
    let mut rig = Rig::new(1, toml);
    let client = rig.connect(&Connect::new(V311, "a"));
    let ping = wire::packet(wire::PINGREQ, &[]);
    let pings = ping.repeat(1 << 17);
    let mut sent = rig.send_until_stuck(client, &pings);
    assert!(sent < 1 << 17, "{sent} bytes were taken");
    let mut answers = rig.receive(client).len();
    while sent < pings.len() {
        let more = rig.send_until_stuck(client, &pings[sent..]);
        assert!(more > 0, "stuck for good");
        sent += more;
        answers += rig.receive(client).len();
    }
    assert_eq!(answers, pings.len(), "every PINGREQ is answered");
}

/// SUBSCRIBEs wait for other shards; any number of them at once is answered, each in its turn.
#[test]
fn any_number_of_subscribes_is_answered() {
    for version in [V311, V5] {
        let mut rig = Rig::new(2, "");
        let client = rig.connect(&Connect::new(version, "a"));
        let count = 5_000_u16;
        let subscribes: Vec<u8> = (1..=count)
            .flat_map(|id| subscribe(version, id, &[(&format!("t/{id}"), 0)], &[]))
            .collect();
        rig.send(client, &subscribes);
        rig.turns(20);
        let answers = rig.receive(client);
        let len = if version == V5 { 6 } else { 5 };
        let ids = answers.chunks(len).map(|suback| u16::from_be_bytes([suback[2], suback[3]]));
        assert!(ids.eq(1..=count), "{} answers", answers.len() / len);
    }
}

/// [MQTT-3.1.2-23] [MQTT-3.1.3-9] A session whose time is over is gone, and a Will that is due is sent, though
/// the client comes in the very turn that ends the time.
#[test]
fn what_is_due_comes_before_a_client_of_the_same_turn() {
    let mut rig = Rig::new(1, "");
    let watcher = rig.connect(&Connect::new(V5, "watcher"));
    rig.send(watcher, &subscribe(V5, 1, &[("will", 0)], &[]));
    rig.receive(watcher);
    let mut comes_back = |id, connect: &Connect, after| {
        let client = rig.connect(connect);
        rig.world.client_close(client);
        let again = rig.world.connect();
        rig.turns(4);
        rig.world.advance(Duration::from_millis(after));
        assert_eq!(
            rig.world.client_send(again, &connect.bytes()).ok(),
            Some(connect.bytes().len())
        );
        let session_present = rig.receive(again)[2] == 1;
        let wills = packets(&rig.receive(watcher), V5).len();
        rig.send(again, &wire::packet(wire::DISCONNECT, &[]));
        rig.world.advance(Duration::from_secs(60));
        rig.turns(4);
        (id, after, session_present, wills)
    };
    let short = Connect::new(V5, "short").resume().with(session_expiry(1));
    let will = Will::new("will", "gone").with(will_delay(1));
    let missed = Connect::new(V5, "missed").resume().with(session_expiry(9)).will(will);
    assert_eq!(comes_back("short", &short, 900), ("short", 900, true, 0));
    assert_eq!(comes_back("short", &short, 1000), ("short", 1000, false, 0));
    assert_eq!(comes_back("missed", &missed, 900), ("missed", 900, true, 0));
    assert_eq!(comes_back("missed", &missed, 1000), ("missed", 1000, true, 1));
}

/// What waited for a session may be far more than that, and its client read it slowly: it is served,
/// and not taken for dead.
#[test]
fn a_client_that_reads_a_long_queue_slowly_is_served() {
    let mut rig = Rig::new(1, "[queue]\nmax_messages = 1000");
    let subscriber = Connect::lasting(V311, "a").keep_alive(10);
    let client = rig.connect(&subscriber);
    rig.send(client, &subscribe(V311, 1, &[("t", 1)], &[]));
    rig.turns(2);
    rig.world.client_close(client);
    let publisher = rig.connect(&Connect::new(V311, "b"));
    let payload = "x".repeat(20_000);
    for id in 1..=150 {
        rig.send(publisher, &Message::new("t", &payload).qos(1).id(id).bytes(V311));
    }
    let client = rig.world.connect();
    rig.send(client, &subscriber.bytes());
    rig.turns(4);
    let mut received = Vec::new();
    let mut seconds = 0;
    rig.send(client, &wire::packet(wire::PINGREQ, &[]));
    while rig.world.client_recv(client, &mut received) > 0 {
        rig.world.advance(Duration::from_secs(1));
        seconds += 1;
        if seconds % 8 == 0 {
            rig.send(client, &wire::packet(wire::PINGREQ, &[]));
        }
        rig.turns(4);
    }
    assert!(seconds > 60, "it took {seconds} s");
    assert!(received.len() > 150 * 20_000, "{} bytes came in {seconds} s", received.len());
    assert_eq!(received[received.len() - 2..], [wire::PINGRESP, 0]);
}

/// Retained messages that an absent session has no room for wait until its client is back; the shard
/// sleeps meanwhile.
#[test]
fn retained_messages_wait_for_an_absent_client() {
    let mut rig = Rig::new(1, "[queue]\nmax_messages = 10\n[mqtt]\nmax_inflight = 1");
    let publisher = rig.connect(&Connect::new(V311, "p"));
    for id in 1..=100_u16 {
        let message = Message::new(&format!("t/{id}"), id.to_be_bytes()).qos(1).id(id).retain();
        rig.send(publisher, &message.bytes(V311));
    }
    let subscriber = Connect::lasting(V311, "s");
    let client = rig.connect(&subscriber);
    rig.send(client, &subscribe(V311, 1, &[("t/#", 1)], &[]));
    rig.turns(2);
    rig.world.client_close(client);
    rig.turns(2);
    // It is looked at once more than ever after.
    rig.world.advance(Duration::from_millis(20));
    rig.turns(2);
    let sleep = rig.shards[0].rest();
    assert!(sleep > Duration::from_millis(100), "it sleeps for {sleep:?}");

    let client = rig.world.connect();
    rig.send(client, &subscriber.bytes());
    let mut received = BTreeSet::new();
    for _ in 0..200 {
        received.extend(rig.take_all(client, V311));
        rig.world.advance(Duration::from_millis(10));
    }
    assert_eq!(received.len(), 100);
}

/// One SUBSCRIBE with many filters that each match many retained messages is not served in one turn.
#[test]
fn retained_messages_of_many_filters_come_in_steps() {
    const LEVELS: u32 = 9;
    const COUNT: usize = 64;
    let mut rig = Rig::with_buffers(16 << 20, 1, "");
    let publisher = rig.connect(&Connect::new(V311, "p"));
    for n in 0..COUNT {
        let topic = format!("{}{n}", "a/".repeat(LEVELS as usize));
        rig.send(publisher, &Message::new(&topic, "x").retain().bytes(V311));
    }
    let filters: Vec<String> = (0..1_u32 << LEVELS)
        .map(|bits| (0..LEVELS).map(|n| if bits & 1 << n == 0 { "a/" } else { "+/" }).collect())
        .map(|levels: String| levels + "+")
        .collect();
    let filters: Vec<_> = filters.iter().map(|filter| (filter.as_str(), 0)).collect();
    let client = rig.connect(&Connect::new(V311, "s"));
    rig.world.client_send(client, &subscribe(V311, 1, &filters, &[])).expect("it is open");
    let mut received = Vec::new();
    while received.iter().sum::<usize>() < COUNT * filters.len() {
        rig.turns(1);
        let bytes = rig.take(client);
        let publishes =
            packets(&bytes, V311).iter().filter(|p| matches!(p, Packet::Publish(_))).count();
        received.push(publishes);
        assert!(publishes <= 64 * 64, "{received:?}");
        assert!(received.len() < 100, "{received:?}");
    }
    assert_eq!(received.iter().sum::<usize>(), COUNT * filters.len());
}

/// A long queue is not written to its client at once, however much the network takes.
#[test]
fn a_long_queue_is_sent_in_steps() {
    let toml = "[queue]\nstore_qos0_offline = true\nqos0_backlog_bytes = \"64KiB\"\n\
                [limits]\nmax_packet_size = \"32KiB\"";
    let mut rig = Rig::with_buffers(64 << 20, 1, toml);
    let subscriber = Connect::lasting(V311, "s");
    let client = rig.connect(&subscriber);
    rig.send(client, &subscribe(V311, 1, &[("t", 1)], &[]));
    rig.world.client_close(client);
    let publisher = rig.connect(&Connect::new(V311, "p"));
    let payload = "x".repeat(4_000);
    for qos in [0, 1].repeat(200) {
        rig.send(publisher, &Message::new("t", &payload).qos(qos).id(1).bytes(V311));
    }
    let client = rig.world.connect();
    rig.world.client_send(client, &subscriber.bytes()).expect("it is open");
    let mut received = 0;
    for turn in 0.. {
        rig.turns(1);
        let bytes = rig.take(client).len();
        received += bytes;
        assert!(bytes <= 64 * 1024 + 4_100, "{bytes} bytes in one turn");
        if received > 400 * 4_000 {
            break;
        }
        assert!(turn < 100, "{received} bytes came");
    }
}

/// [MQTT-4.6.0-6] A 3.x client whose connection is to be closed for a message is not read on: what is behind
/// it on its topic would come before it, which is sent again.
#[test]
fn nothing_overtakes_what_closes_its_connection() {
    let toml = "[queue]\nmax_bytes = \"4KiB\"\n[limits]\nmax_packet_size = \"2KiB\"\n\
                max_topic_bytes = \"1KiB\"";
    let large = [b'.'; 1500];
    for (version, full) in [(V31, 0), (V311, 0), (V31, 1), (V311, 1)] {
        let mut rig = Rig::new(3, toml);
        let client = |rig: &mut Rig, home, name, filter| {
            let name = rig.name_at(home, name);
            let client = rig.connect(&Connect::lasting(V311, &name));
            rig.send(client, &subscribe(V311, 1, &[(filter, 1)], &[]));
            rig.receive(client);
            (client, name)
        };
        client(&mut rig, 2, "slow", "slow");
        let (away, name) = client(&mut rig, full, "away", "t");
        rig.world.client_close(away);
        let publisher = rig.name_at(0, "publisher");
        let publisher = rig.connect(&Connect::new(version, &publisher));
        let publish = |rig: &Rig, topic: &str, payload: &[u8], id| {
            let bytes = Message::new(topic, payload).qos(1).id(id).bytes(version);
            assert_eq!(rig.world.client_send(publisher, &bytes).ok(), Some(bytes.len()));
        };
        for id in 1..=2 {
            publish(&rig, "t", &large, id);
        }
        rig.receive(publisher);
        // One shard does not say for a while that it has what comes before.
        publish(&rig, "slow", b"x", 3);
        publish(&rig, "t", &large, 4);
        for _ in 0..4 {
            rig.turns_of(0, 1);
            rig.turns_of(1, 1);
        }
        publish(&rig, "t", b"small", 5);
        for _ in 0..4 {
            rig.turns_of(0, 1);
            rig.turns_of(1, 1);
        }
        assert_eq!(pubacks(&rig.receive(publisher), version).len(), 1);
        assert!(rig.world.client_end(publisher).is_some());
        let away = rig.world.connect();
        rig.send(away, &Connect::lasting(V311, &name).bytes());
        assert_eq!(rig.take_all(away, V311).len(), 2, "{version:?}, full on shard {full}");
    }
}
