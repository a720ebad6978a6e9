//! A disk that takes nothing more, and a data directory that has gone.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use tempfile::TempDir;

use crate::clients::{away, publish, publish_until_kept};
use crate::common::property::receive_maximum;
use crate::common::{Client, Connect, Message, V5, V311, code, let_pass};
use crate::process::Broker;

/// How the log says that the store begins to fail, and that it has ended to.
pub(crate) const FAILS: &str = "the store fails";
pub(crate) const WORKS: &str = "the store works again";
const SYS: &str = "$SYS/broker/store/failing";

/// Has the store fail, of which there is a session that gets "away".
fn begin_to_fail(broker: &Broker) -> Client {
    limit(broker, Some(0));
    let mut publisher = broker.connect(V5, "has it fail");
    publisher.start_publish(Message::new("away", "waits").qos(1));
    broker.wait_said(FAILS);
    publisher
}

/// Lets no file of the broker grow beyond that.
fn limit(broker: &Broker, bytes: Option<u64>) {
    let pid = Pid::from_child(broker.process());
    prlimit(Some(pid), Resource::Fsize, Rlimit { current: bytes, maximum: None }).expect("set");
}

fn a_full_disk(engine: &'static str) {
    let mut broker = Broker::start(engine, 2);
    away(&broker, "stored", "t");
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
    broker.wait_said("closed: its message was not kept: nothing can be stored now");
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
    publish_until_kept(&mut publisher, "t");
    assert_eq!(publisher.try_publish(Message::new("t", "after").qos(1)), code::SUCCESS);
    broker.wait_said(WORKS);
    let log = broker.log();
    assert_eq!((log.matches(FAILS).count(), log.matches(WORKS).count()), (1, 1), "{log}");
    broker.restart();
    let (mut stored, connack) = broker.connect_with(&Connect::lasting(V5, "stored"));
    assert!(connack.session_present);
    for n in 0..5 {
        stored.expect("t", format!("before {n}"));
    }
    let mut rest = Vec::new();
    while rest.last().is_none_or(|payload| payload != "after") {
        rest.push(String::from_utf8(stored.receive().payload).expect("text"));
    }
    // Between publishers there is no order.
    assert!(rest.iter().any(|payload| payload == "waits"), "{rest:?}");
    rest.retain(|payload| !["waits", "refused", "probe"].contains(&payload.as_str()));
    assert_eq!(rest, ["after"]);
}

#[test]
fn full_under_fjall() {
    a_full_disk("fjall");
}

#[test]
fn full_under_sqlite() {
    a_full_disk("sqlite");
}

/// Without waiting for the interval.
#[test]
fn the_sys_topics_tell() {
    let settings = &[("SLUICE_SYS_INTERVAL", "1h")];
    for (engine, shards) in [("fjall", 1), ("sqlite", 2)] {
        let broker = Broker::start_set(engine, shards, settings);
        away(&broker, "away", "away");
        let mut watcher = broker.connect(V5, "watcher");
        watcher.subscribe(SYS, 0);
        watcher.expect(SYS, "0");
        let mut publisher = begin_to_fail(&broker);
        watcher.expect(SYS, "1");
        let mut later = broker.connect(V5, "later");
        later.subscribe(SYS, 0);
        assert!(later.expect(SYS, "1").retain);
        limit(&broker, None);
        publish_until_kept(&mut publisher, "away");
        watcher.expect(SYS, "0");
        later.expect(SYS, "0");
        watcher.expect_nothing();
    }
}

/// What the system says of a full disk does not tell which.
#[test]
fn the_log_names_the_directory() {
    for engine in ["fjall", "sqlite"] {
        let broker = Broker::start(engine, 1);
        away(&broker, "away", "away");
        let _publisher = begin_to_fail(&broker);
        let line = broker.wait_to_say(FAILS);
        let why = format!("until it works again: {}: ", broker.data().display());
        assert!(line.contains(&why), "{line}");
    }
}

/// A stored session that is connected gets what it has, also what it has on disk only, while nothing can be
/// written.
fn a_long_queue_is_read(engine: &'static str) {
    let mut broker = Broker::start(engine, 2);
    away(&broker, "away", "away");
    let lasting = Connect::lasting(V5, "reader");
    let (mut reader, _) = broker.connect_with(&lasting.clone().with(receive_maximum(10)));
    reader.subscribe("t", 1);
    let mut publisher = broker.connect(V5, "publisher");
    publish(&mut publisher, "t", 0..500);
    let mut refused = begin_to_fail(&broker);
    for n in 0..500 {
        reader.expect("t", n.to_string());
    }
    reader.expect_nothing();
    assert!(!broker.log().contains(WORKS));
    limit(&broker, None);
    broker.wait_said(WORKS);
    publish_until_kept(&mut refused, "away");
    publish(&mut publisher, "t", 500..501);
    reader.expect("t", "500");
    reader.disconnect();
    broker.stop();
    broker.restart();
    let (mut reader, connack) = broker.connect_with(&lasting.resume());
    assert!(connack.session_present);
    reader.expect_nothing();
}

#[test]
fn a_long_queue_under_fjall() {
    a_long_queue_is_read("fjall");
}

#[test]
fn a_long_queue_under_sqlite() {
    a_long_queue_is_read("sqlite");
}

/// A stored receiver with a full queue is not disconnected for what the store does, and those who were held
/// for it are told that it does not get what they publish.
#[test]
fn a_full_receiver_stays_and_its_publishers_go_on() {
    let settings = &[("SLUICE_QUEUE_MAX_MESSAGES", "20"), ("SLUICE_OVERFLOW_PATIENCE", "1s")];
    let broker = Broker::start_set("fjall", 1, settings);
    away(&broker, "away", "away");
    let lasting = Connect::lasting(V5, "reader").with(receive_maximum(1));
    let (mut reader, _) = broker.connect_with(&lasting);
    reader.subscribe("t", 1);
    let mut publisher = broker.connect(V5, "publisher");
    publish(&mut publisher, "t", 0..21);
    let mut held = broker.connect(V5, "held");
    let id = held.start_publish(Message::new("t", "held").qos(1));
    begin_to_fail(&broker);
    // Nobody is held any more, and who was goes on when patience is over.
    let refused = publisher.try_publish(Message::new("t", "refused").qos(1));
    assert_eq!(refused, code::QUOTA_EXCEEDED);
    assert_eq!(held.wait_puback(id).code, code::QUOTA_EXCEEDED);
    for n in 0..21 {
        reader.expect("t", n.to_string());
    }
    limit(&broker, None);
    broker.wait_said(WORKS);
    publish_until_kept(&mut publisher, "t");
    reader.expect("t", "probe");
}

/// [MQTT-3.3.1-5] [MQTT-4.3.3-10] What cannot be stored is refused, with the reason codes that the
/// documentation names, and goes well afterwards.
fn what_is_refused(engine: &'static str) {
    let mut broker = Broker::start(engine, 2);
    away(&broker, "away", "away");
    let lasting = Connect::lasting(V5, "stored");
    let (mut stored, _) = broker.connect_with(&lasting);
    stored.subscribe("t", 2);
    let mut publisher = broker.connect(V5, "publisher");
    let mut subscriber = broker.connect(V5, "subscriber");
    subscriber.subscribe("r", 1);
    subscriber.subscribe("clean", 1);
    publisher.publish_retained("r", "first", 1);
    subscriber.expect("r", "first");
    let retained = |payload: &str| Message::new("r", payload).qos(1).retain();
    let twice = |payload: &str| Message::new("t", payload).qos(2);

    begin_to_fail(&broker);
    assert_eq!(publisher.try_publish(retained("refused")), code::QUOTA_EXCEEDED);
    assert_eq!(publisher.try_publish(twice("refused")), code::QUOTA_EXCEEDED);
    // A 3.x client would repeat it under its identifier, and some may have it.
    let mut old = broker.connect(V311, "old");
    let waits = old.start_publish(twice("waits"));
    old.ping();
    assert_eq!(stored.subscribe_with(&[("later", 1)], &[]).codes, [code::QUOTA_EXCEEDED]);
    // What ends with its connection is not stored, wherever something waits that is.
    let mut others: Vec<_> =
        ["one", "two", "three"].into_iter().map(|id| broker.connect(V5, id)).collect();
    for (n, other) in others.iter_mut().enumerate() {
        other.subscribe(&format!("of {n}"), 1);
        publisher.publish(&format!("of {n}"), "goes on", 1);
        other.expect(&format!("of {n}"), "goes on");
        other.unsubscribe(&[&format!("of {n}")]);
    }
    publisher.publish("clean", "goes on", 1);
    subscriber.expect("clean", "goes on");
    subscriber.expect_nothing();

    limit(&broker, None);
    broker.wait_said(WORKS);
    assert_eq!(old.wait_pubrec(waits).code, code::SUCCESS);
    stored.expect("t", "waits");
    publish_until_kept(&mut publisher, "away");
    stored.subscribe("later", 1);
    assert_eq!(publisher.try_publish(retained("second")), code::SUCCESS);
    subscriber.expect("r", "second");
    stored.hang_up();
    assert_eq!(publisher.try_publish(twice("kept")), code::SUCCESS);
    publisher.publish("later", "kept, too", 1);

    // Killed while it fails.
    limit(&broker, Some(0));
    let refused = publisher.try_publish(Message::new("t", "refused").qos(1));
    assert_eq!(refused, code::QUOTA_EXCEEDED);
    broker.restart();
    let (mut stored, connack) = broker.connect_with(&lasting.resume());
    assert!(connack.session_present);
    stored.expect("t", "kept");
    stored.expect("later", "kept, too");
    let mut subscriber = broker.connect(V5, "subscriber");
    subscriber.subscribe("r", 1);
    subscriber.expect("r", "second");
}

#[test]
fn what_is_refused_under_fjall() {
    what_is_refused("fjall");
}

#[test]
fn what_is_refused_under_sqlite() {
    what_is_refused("sqlite");
}

/// A commit that is written in part is told of once: at the next start, if it was not made again before.
fn a_commit_in_part(engine: &'static str, log: &str) {
    let mut broker = Broker::start(engine, 1);
    away(&broker, "away", "away");
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish("away", "kept", 1);
    let most = broker.file(log).metadata().expect("it is there").len() + 2000;
    limit(&broker, Some(most));
    // There is no room for it wherever in the file it begins.
    let large = Message::new("away", vec![b'x'; usize::try_from(most).expect("short")]).qos(1);
    // That takes some attempts.
    assert_eq!(publisher.try_publish(large.clone()), code::QUOTA_EXCEEDED);
    assert_eq!(publisher.try_publish(large), code::QUOTA_EXCEEDED);
    broker.wait_said(FAILS);
    let said = broker.log();
    assert!(!said.contains("in part"), "{said}");
    assert_eq!(said.matches(FAILS).count(), 1, "{said}");
    broker.restart();
    assert_eq!(broker.log().matches("the last commit is there in part").count(), 1);
    let (mut away, _) = broker.connect_with(&Connect::lasting(V5, "away"));
    away.expect("away", "kept");
    away.expect_nothing();
}

#[test]
fn a_commit_in_part_under_fjall() {
    a_commit_in_part("fjall", "log/a.log");
}

#[test]
fn a_commit_in_part_under_sqlite() {
    a_commit_in_part("sqlite", "sluice.sqlite-wal");
}

/// What is written to files without a name would be gone with the process.
fn a_directory_moved_away(engine: &'static str) {
    let mut broker = Broker::start(engine, 1);
    away(&broker, "stored", "t");
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish("t", "before", 1);
    let above = TempDir::new().expect("a directory");
    let away = above.path().join("away");
    std::fs::rename(broker.data(), &away).expect("moved");
    let refused = publisher.try_publish(Message::new("t", "waits").qos(1));
    assert_eq!(refused, code::QUOTA_EXCEEDED);
    assert!(!broker.data().exists(), "nothing is made anew");

    std::fs::rename(&away, broker.data()).expect("moved");
    publish_until_kept(&mut publisher, "t");
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
