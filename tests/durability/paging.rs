//! Queues that are larger than what of them may be in memory: two messages here, if not said otherwise.

use std::time::{Duration, Instant};

use crate::clients::{away, publish, publish_long};
use crate::common::property::{message_expiry, receive_maximum};
use crate::common::wire::PUBACK;
use crate::common::{Client, Connect, Message, V5, V311, let_pass};
use crate::process::Broker;

fn back(broker: &Broker, id: &str) -> Client {
    let (client, connack) = broker.connect_with(&Connect::lasting(V5, id));
    assert!(connack.session_present);
    client
}

/// [MQTT-4.6.0-6] [MQTT-3.3.2-5] In order, whatever is in memory, and what has expired does not come.
#[test]
fn a_long_queue_comes_back_in_order() {
    for engine in ["fjall", "sqlite"] {
        let mut broker = Broker::start(engine, 2);
        away(&broker, "client", "t");
        let mut publisher = broker.connect(V5, "publisher");
        publish(&mut publisher, "t", 0..200);
        publisher.deliver(Message::new("t", "brief").qos(1).with(message_expiry(1)));
        let_pass(Duration::from_millis(1100));
        broker.restart_with(3);
        let mut publisher = broker.connect(V311, "publisher");
        publish(&mut publisher, "t", 200..300);
        let mut client = back(&broker, "client");
        for n in 0..150 {
            client.expect("t", n.to_string());
        }
        // What comes while the queue is read comes behind it.
        publish(&mut publisher, "t", 300..310);
        for n in 150..310 {
            client.expect("t", n.to_string());
        }
        client.expect_nothing();
        publish(&mut publisher, "t", 310..311);
        client.expect("t", "310");
    }
}

/// `overflow.offline = "drop_oldest"`: the newest stay, also if all of the queue was on disk.
#[test]
fn the_oldest_are_dropped() {
    let settings =
        &[("SLUICE_OVERFLOW_OFFLINE", "drop_oldest"), ("SLUICE_QUEUE_MAX_MESSAGES", "20")];
    let mut broker = Broker::start_set("fjall", 1, settings);
    away(&broker, "client", "t");
    let mut publisher = broker.connect(V5, "publisher");
    publish(&mut publisher, "t", 0..50);
    broker.restart();
    let mut publisher = broker.connect(V5, "publisher");
    publish(&mut publisher, "t", 50..90);
    broker.wait_said("its queue is full, and it misses messages");
    let mut client = back(&broker, "client");
    let mut next: u32 = client.receive().payload_text().parse().expect("a number");
    assert!((50..=70).contains(&next), "begins with {next}");
    while next < 89 {
        next += 1;
        client.expect("t", next.to_string());
    }
    client.expect_nothing();
}

/// `queue.store_qos0_offline`: what is not stored has to be in memory, and what has no room there is missed.
#[test]
fn what_is_missed_at_qos_0_is_told() {
    let broker = Broker::start_set("fjall", 1, &[("SLUICE_QUEUE_STORE_QOS0_OFFLINE", "true")]);
    away(&broker, "client", "t");
    let mut publisher = broker.connect(V5, "publisher");
    for n in 0..4 {
        publisher.publish("t", n.to_string(), 0);
    }
    broker.wait_said("its queue is full, and it misses messages");
    let mut client = back(&broker, "client");
    for n in 0..2 {
        client.expect("t", n.to_string());
    }
    client.expect_nothing();
}

/// [MQTT-4.8.2-5] What a member had queued goes to others when its session ends, and when it leaves the
/// group and comes to it.
#[test]
fn what_a_member_leaves_behind_is_read_for_the_others() {
    for leaves in ["session", "group", "session, after a restart"] {
        let mut broker = Broker::start("fjall", 2);
        away(&broker, "leaves", "$share/g/t");
        let mut publisher = broker.connect(V5, "publisher");
        publish(&mut publisher, "t", 0..60);
        let mut stays = broker.connect_with(&Connect::lasting(V5, "stays")).0;
        stays.subscribe("$share/g/t", 1);
        let mut left = None;
        if leaves == "group" {
            // The rest stays in its queue.
            let connect = Connect::lasting(V5, "leaves").with(receive_maximum(1));
            let mut client = broker.connect_with(&connect).0;
            let first = client.take_publish();
            client.unsubscribe(&["$share/g/t"]);
            client.send_ack(PUBACK, first.id);
            client.expect_nothing();
            left = Some(client);
        } else {
            drop(broker.connect_with(&Connect::new(V5, "leaves")));
        }
        if leaves.ends_with("restart") {
            stays.subscribe("commit", 0);
            broker.restart();
            stays = back(&broker, "stays");
        }
        let least = if leaves == "group" { 59 } else { 60 };
        let mut found = Vec::new();
        let begun = Instant::now();
        while found.len() < least && begun.elapsed() < Duration::from_secs(20) {
            found.push(stays.receive().payload_text().parse::<u32>().expect("a number"));
        }
        drop(left);
        found.sort_unstable();
        found.dedup();
        assert!(found.iter().copied().eq(60 - least as u32..60), "{leaves}: {found:?}");
    }
}

/// [MQTT-4.8.2-5] Of a queue on disk, too, what others of a group shall have is read for them, and only
/// the rest is lost, and counted.
#[test]
fn what_nobody_else_gets_is_counted() {
    let settings = &[
        ("SLUICE_QUEUE_MAX_MESSAGES", "20"),
        ("SLUICE_OVERFLOW_OFFLINE", "end_session"),
        ("SLUICE_SYS_INTERVAL", "1s"),
    ];
    for (shared, lost) in [(true, 10), (false, 20)] {
        let broker = Broker::start_set("fjall", 2, settings);
        let (mut ends, _) = broker.connect_with(&Connect::lasting(V5, "ends"));
        ends.subscribe("plain", 1);
        ends.subscribe(if shared { "$share/g/t" } else { "t" }, 1);
        ends.disconnect();
        let mut publisher = broker.connect(V5, "publisher");
        for n in 0..10 {
            publish(&mut publisher, "plain", n..n + 1);
            publish(&mut publisher, "t", n..n + 1);
        }
        let mut stays = broker.connect(V5, "stays");
        stays.subscribe("$share/g/t", 1);
        // One too many.
        publisher.try_publish(Message::new("plain", "x").qos(1));
        for n in 0..if shared { 10 } else { 0 } {
            stays.expect("t", n.to_string());
        }
        publisher.subscribe("$SYS/broker/publish/messages/dropped/session_ended", 0);
        let begun = Instant::now();
        while publisher.receive().payload_text() != lost.to_string() {
            assert!(begun.elapsed() < Duration::from_secs(10), "{shared}");
        }
        stays.expect_nothing();
    }
}

fn resident_bytes(broker: &Broker) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", broker.process().id()));
    let status = status.expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("it says so");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

/// 229 MB of messages, and whatever their engine does with them.
fn a_long_queue_takes_disk_and_not_memory(engine: &'static str) {
    const COUNT: u32 = 14_000;
    const SIZE: usize = 16_384;
    // Less than the messages; what fjall has in memory depends on how soon its thread gets to sort it.
    const MOST: u64 = 200 << 20;
    let settings = &[
        ("SLUICE_QUEUE_MAX_MESSAGES", "1000000"),
        ("SLUICE_QUEUE_MAX_BYTES", "1GiB"),
        ("SLUICE_QUEUE_IN_MEMORY", "100"),
    ];
    let mut broker = Broker::start_set(engine, 1, settings);
    away(&broker, "client", "t");
    let mut publisher = broker.connect(V5, "publisher");
    publish_long(&mut publisher, "t", 0..COUNT, SIZE);
    let queued = resident_bytes(&broker);
    assert!(queued < MOST, "{queued} bytes with all of it queued");
    broker.restart();
    let started = resident_bytes(&broker);
    assert!(started < MOST, "{started} bytes after the start");
    let mut client = back(&broker, "client");
    for n in 0..COUNT {
        assert_eq!(client.receive().payload, format!("{n:0SIZE$}").into_bytes());
    }
    let read = resident_bytes(&broker);
    eprintln!("{engine}: {queued} bytes queued, {started} started, {read} read");
    assert!(read < MOST, "{read} bytes with the queue read");
}

#[test]
fn a_long_queue_under_fjall() {
    a_long_queue_takes_disk_and_not_memory("fjall");
}

#[test]
fn a_long_queue_under_sqlite() {
    a_long_queue_takes_disk_and_not_memory("sqlite");
}
