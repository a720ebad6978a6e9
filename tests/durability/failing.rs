//! A disk that takes nothing more, and a data directory that has gone.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tempfile::TempDir;

use crate::common::{Client, Connect, Message, V5, V311, code, let_pass};
use crate::process::Broker;

/// Lets no file of the broker grow beyond that.
fn limit(broker: &Broker, bytes: Option<u64>) {
    let pid = Pid::from_child(broker.process());
    prlimit(Some(pid), Resource::Fsize, Rlimit { current: bytes, maximum: None }).expect("set");
}

fn a_full_disk(engine: &'static str) {
    let mut broker = Broker::start(engine, 2);
    let (mut stored, _) = broker.connect_with(&Connect::lasting(V5, "stored"));
    stored.subscribe("t", 1);
    stored.disconnect();
    let mut subscriber = broker.connect(V5, "subscriber");
    subscriber.subscribe("t", 1);
    let mut publisher = broker.connect(V5, "publisher");
    let mut old = broker.connect(V311, "old");
    for n in 0..5 {
        publisher.publish("t", format!("before {n}"), 1);
        subscriber.expect("t", format!("before {n}"));
    }
    limit(&broker, Some(0));
    // The first one is in the store's hands when it fails.
    let first = publisher.start_publish(Message::new("t", "waits").qos(1));
    subscriber.expect("t", "waits");
    // Nor is what comes before the failure is known.
    let (mut second, refused) = loop {
        let mut second = broker.connect(V5, "second");
        second.start_publish(Message::new("t", "refused").qos(1));
        subscriber.expect("t", "refused");
        second.ping();
        if let Some(ack) = second.take_puback_if_any() {
            break (second, ack.code);
        }
        let_pass(Duration::from_millis(5));
    };
    assert_eq!(refused, code::QUOTA_EXCEEDED);
    // A 3.x client cannot be told, and is not told that it was kept.
    old.start_publish(Message::new("t", "old").qos(1));
    old.expect_closed();
    subscriber.expect("t", "old");
    // Nobody needs to keep this.
    second.publish("nobody", "x", 0);
    assert_eq!(
        second.try_publish(Message::new("nobody", "x").qos(1)),
        code::NO_MATCHING_SUBSCRIBERS
    );
    // What waits for the store is refused after a while, and those who want a session to be stored.
    assert_eq!(publisher.wait_puback(first).code, code::QUOTA_EXCEEDED);
    for version in [V5, V311] {
        let (_, connack) = Client::connect(broker.address(), &Connect::lasting(version, "new"));
        let unavailable = if version == V5 { code::SERVER_UNAVAILABLE } else { 3 };
        assert_eq!((connack.code, connack.session_present), (unavailable, false));
    }
    limit(&broker, None);
    while publisher.try_publish(Message::new("t", "probe").qos(1)) != code::SUCCESS {
        let_pass(Duration::from_millis(5));
    }
    assert_eq!(publisher.try_publish(Message::new("t", "after").qos(1)), code::SUCCESS);
    broker.restart();
    let (mut stored, connack) = broker.connect_with(&Connect::lasting(V5, "stored"));
    assert!(connack.session_present);
    for n in 0..5 {
        stored.expect("t", format!("before {n}"));
    }
    stored.expect("t", "waits");
    let mut next = stored.receive();
    while next.payload == b"refused" || next.payload == b"probe" {
        next = stored.receive();
    }
    assert_eq!(next.payload, b"after");
}

#[test]
fn full_under_fjall() {
    a_full_disk("fjall");
}

#[test]
fn full_under_sqlite() {
    a_full_disk("sqlite");
}

/// What is written to files without a name would be gone with the process.
fn a_directory_moved_away(engine: &'static str) {
    let mut broker = Broker::start(engine, 1);
    let (mut stored, _) = broker.connect_with(&Connect::lasting(V5, "stored"));
    stored.subscribe("t", 1);
    stored.disconnect();
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish("t", "before", 1);
    let above = TempDir::new().expect("a directory");
    let away = above.path().join("away");
    std::fs::rename(broker.data(), &away).expect("moved");
    let refused = publisher.try_publish(Message::new("t", "waits").qos(1));
    assert_eq!(refused, code::QUOTA_EXCEEDED);
    assert!(!broker.data().exists(), "nothing is made anew");

    std::fs::rename(&away, broker.data()).expect("moved");
    while publisher.try_publish(Message::new("t", "probe").qos(1)) != code::SUCCESS {
        let_pass(Duration::from_millis(5));
    }
    broker.restart();
    let (mut stored, connack) = broker.connect_with(&Connect::lasting(V5, "stored"));
    assert!(connack.session_present);
    stored.expect("t", "before");
    stored.expect("t", "waits");
}

#[test]
fn moved_under_fjall() {
    a_directory_moved_away("fjall");
}

#[test]
fn moved_under_sqlite() {
    a_directory_moved_away("sqlite");
}
