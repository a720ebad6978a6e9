//! Each thing that was acknowledged is there after a kill.

use std::time::{Duration, Instant};

use sluice::hooks::Table;
use sluice::store::Directory;

use crate::common::property::{
    MESSAGE_EXPIRY_INTERVAL, message_expiry, session_expiry, will_delay,
};
use crate::common::wire::{PUBACK, PUBREC, PUBREL};
use crate::common::{Client, Connect, Message, V5, V31, V311, Version, Will, code, let_pass};
use crate::process::{Broker, engines};

/// Runs a test for each engine and version.
macro_rules! everywhere {
    ($test:ident) => {
        mod $test {
            use super::*;

            #[test]
            fn fjall_v5() {
                super::$test(Broker::start("fjall", 2), V5);
            }

            #[test]
            fn fjall_v31() {
                super::$test(Broker::start("fjall", 1), V31);
            }

            #[test]
            fn sqlite_v311() {
                super::$test(Broker::start("sqlite", 3), V311);
            }
        }
    };
}

fn lasting(broker: &Broker, version: Version, id: &str) -> (Client, bool) {
    let (client, connack) = broker.connect_with(&Connect::lasting(version, id));
    (client, connack.session_present || version == V31)
}

/// What the client acknowledged has no answer, but this has, and is committed after it.
fn commit(client: &mut Client) {
    client.subscribe("commit", 0);
}

/// [MQTT-3.1.2-5] [MQTT-3.2.2-3] [MQTT-4.5.0-1]
fn a_session_with_subscriptions_and_queue(mut broker: Broker, version: Version) {
    let (mut client, _) = lasting(&broker, version, "client");
    client.subscribe("t/+", 2);
    client.subscribe("gone", 2);
    client.unsubscribe(&["gone"]);
    client.disconnect();
    let mut publisher = broker.connect(version, "publisher");
    for n in 0..20 {
        publisher.publish(&format!("t/{n}"), n.to_string(), 1 + n % 2);
    }
    for shards in [3, 1, 2] {
        broker.restart_with(shards);
        assert!(broker.log().contains(" 20 messages "), "{}", broker.log());
    }
    let (mut client, present) = lasting(&broker, version, "client");
    assert!(present);
    for n in 0..20 {
        let publish = client.expect(&format!("t/{n}"), n.to_string());
        assert_eq!((publish.qos, publish.dup), (1 + n % 2, false));
    }
    let mut publisher = broker.connect(version, "publisher");
    publisher.publish("gone", "x", 1);
    publisher.publish("t/live", "x", 1);
    client.expect("t/live", "x");
    commit(&mut client);
    broker.restart();
    let (mut client, _) = lasting(&broker, version, "client");
    client.expect_nothing();
}
everywhere!(a_session_with_subscriptions_and_queue);

/// [MQTT-4.4.0-1] [MQTT-4.6.0-1] [MQTT-4.6.0-4] Under the same identifiers, with DUP.
fn what_is_in_flight(mut broker: Broker, version: Version) {
    let (mut client, _) = lasting(&broker, version, "client");
    client.subscribe("t", 2);
    let mut publisher = broker.connect(version, "publisher");
    for n in 0..6 {
        publisher.publish("t", n.to_string(), 1 + n % 2);
    }
    let sent: Vec<_> = (0..6).map(|_| client.take_publish()).collect();
    // 0 is done, 3 and 1 are half done, in this order.
    client.send_ack(PUBACK, sent[0].id);
    for n in [3, 1] {
        client.send_ack(PUBREC, sent[n].id);
        client.wait_pubrel(sent[n].id);
    }
    // What it acknowledged itself has no answer; this is committed after it.
    publisher.publish("t", "last", 2);
    let last = client.take_publish();
    broker.restart();
    let (mut client, present) = lasting(&broker, version, "client");
    assert!(present);
    client.wait_pubrel(sent[3].id);
    client.wait_pubrel(sent[1].id);
    for old in [&sent[2], &sent[4], &sent[5], &last] {
        let again = client.take_publish();
        assert_eq!((again.id, again.qos, again.dup), (old.id, old.qos, true));
        assert_eq!(again.payload, old.payload);
    }
}
everywhere!(what_is_in_flight);

/// [MQTT-4.3.3-10] The identifier is known: the message is not routed again.
fn an_identifier_of_qos_2(mut broker: Broker, version: Version) {
    let (mut subscriber, _) = lasting(&broker, version, "subscriber");
    subscriber.subscribe("t", 2);
    subscriber.disconnect();
    let (mut publisher, _) = lasting(&broker, version, "publisher");
    let message = Message::new("t", "once").qos(2).id(7);
    publisher.send(&message.bytes(version));
    publisher.wait_pubrec(7);
    broker.restart();
    let (mut publisher, present) = lasting(&broker, version, "publisher");
    assert!(present);
    publisher.send(&message.dup().bytes(version));
    publisher.wait_pubrec(7);
    publisher.send_ack(PUBREL, 7);
    publisher.wait_pubcomp(7);
    publisher.publish("t", "next", 2);
    broker.restart();
    let (mut subscriber, _) = lasting(&broker, version, "subscriber");
    subscriber.expect("t", "once");
    subscriber.expect("t", "next");
    subscriber.expect_nothing();
    // The flow has ended: the identifier is free.
    let (mut publisher, _) = lasting(&broker, version, "publisher");
    publisher.send(&Message::new("t", "twice").qos(2).id(7).bytes(version));
    publisher.wait_pubrec(7);
    subscriber.expect("t", "twice");
}
everywhere!(an_identifier_of_qos_2);

/// [MQTT-3.3.1-5] [MQTT-3.3.1-6] The last acknowledged value, or none if that cleared it.
fn retained_messages(mut broker: Broker, version: Version) {
    let mut publisher = broker.connect(version, "publisher");
    for n in 0..10 {
        publisher.publish_retained("changed", n.to_string(), 1);
        publisher.publish_retained(&format!("many/{n}"), n.to_string(), 2);
    }
    publisher.publish_retained("cleared", "x", 1);
    publisher.publish_retained("cleared", "", 1);
    for shards in [1, 3] {
        broker.restart_with(shards);
        let mut client = broker.connect(version, "client");
        client.subscribe("cleared", 1);
        client.subscribe("changed", 1);
        let publish = client.expect("changed", "9");
        assert!(publish.retain);
        client.subscribe("many/#", 1);
        let mut found: Vec<_> = (0..10).map(|_| client.receive().payload).collect();
        found.sort();
        assert!(found.into_iter().eq((0..10).map(|n: u8| n.to_string().into_bytes())));
        client.expect_nothing();
        // What comes after a restart is newer than all before it.
        let mut publisher = broker.connect(version, "publisher");
        publisher.publish_retained("changed", "9", 1);
    }
}
everywhere!(retained_messages);

/// [MQTT-3.1.2-8] The broker's end is the end of the connection too; [MQTT-3.1.3-9] a client that is
/// back in time has its Will not published.
fn wills(mut broker: Broker, version: Version) {
    let (mut watcher, _) = lasting(&broker, version, "watcher");
    watcher.subscribe("will/#", 2);
    let willing = |id: &str, delay| {
        let will = Will::new(&format!("will/{id}"), "gone").qos(2);
        // Before version 5 no Will waits.
        let will = if version.is_v5() { will.with(will_delay(delay)) } else { will };
        broker.connect_with(&Connect::lasting(version, id).will(will)).0
    };
    let mut clients = vec![willing("at once", 0)];
    willing("left", 0).disconnect();
    if version.is_v5() {
        clients.extend([willing("back", 2), willing("late", 2)]);
    }
    // The CONNACK says that this is stored.
    clients.push(lasting(&broker, version, "left").0);
    broker.restart();
    let back = version.is_v5().then(|| lasting(&broker, version, "back"));
    assert!(back.as_ref().is_none_or(|(_, present)| *present));
    let (mut watcher, _) = lasting(&broker, version, "watcher");
    watcher.expect("will/at once", "gone");
    commit(&mut watcher);
    broker.restart();
    let (mut watcher, _) = lasting(&broker, version, "watcher");
    if version.is_v5() {
        watcher.expect("will/late", "gone");
    }
    watcher.expect_nothing();
    commit(&mut watcher);
    broker.restart();
    let (mut watcher, _) = lasting(&broker, version, "watcher");
    watcher.expect_nothing();
}
everywhere!(wills);

/// [MQTT-3.1.3-9] The delay of who went before the broker did is not begun anew with it.
fn a_delayed_will_comes_when_it_was_due(mut broker: Broker) {
    const DELAY: Duration = Duration::from_secs(2);
    let (mut watcher, _) = lasting(&broker, V5, "watcher");
    watcher.subscribe("will", 2);
    let will = Will::new("will", "gone").qos(2).with(will_delay(2));
    broker.connect_with(&Connect::lasting(V5, "client").will(will)).0.hang_up();
    let gone = Instant::now();
    let_pass(DELAY / 2);
    broker.restart();
    let started = Instant::now();
    let (mut watcher, _) = lasting(&broker, V5, "watcher");
    watcher.expect("will", "gone");
    // The broker saw it go a little earlier than this client saw the broker close, and its clock began a
    // little earlier than it listened.
    let early = Duration::from_millis(200);
    assert!(gone.elapsed() + early > DELAY, "{:?} after it went", gone.elapsed());
    assert!(started.elapsed() + early < DELAY, "{:?} after the start", started.elapsed());
}
engines!(a_delayed_will_comes_when_it_was_due);

/// [MQTT-3.1.2-23] [MQTT-3.3.2-5] Time passes while the broker is not there.
fn what_expires_meanwhile(mut broker: Broker) {
    let short = Connect::new(V5, "short").resume().with(session_expiry(1));
    let mut client = broker.connect_with(&short).0;
    client.subscribe("t", 1);
    client.disconnect();
    let (mut long, _) = lasting(&broker, V5, "long");
    long.subscribe("t", 1);
    long.disconnect();
    let mut publisher = broker.connect(V5, "publisher");
    publisher.deliver(Message::new("t", "brief").qos(1).with(message_expiry(1)));
    publisher.deliver(Message::new("t", "stays").qos(1).with(message_expiry(100)));
    broker.kill();
    let_pass(Duration::from_millis(1500));
    broker.restart();
    assert!(!broker.connect_with(&short).1.session_present);
    let (mut long, present) = lasting(&broker, V5, "long");
    assert!(present);
    let publish = long.take_publish();
    assert_eq!(publish.payload, b"stays");
    let left = publish.properties.number(MESSAGE_EXPIRY_INTERVAL).expect("it has one");
    assert!((90..100).contains(&left), "{left} seconds left");
}
engines!(what_expires_meanwhile);

/// [MQTT-3.3.2-5] An expired retained message does not stay on disk until its topic has another.
fn retained_messages_that_expire_are_removed(mut broker: Broker) {
    let mut publisher = broker.connect(V5, "publisher");
    for n in 0..8 {
        let brief = Message::new(&format!("brief/{n}"), "x").qos(1).retain();
        publisher.deliver(brief.with(message_expiry(1)));
    }
    publisher.publish_retained("stays", "x", 1);
    let_pass(Duration::from_millis(2500));
    broker.kill();
    let directory = Directory::existing(broker.data()).expect("nobody has it");
    let mut topics = Vec::new();
    let mut note = |key: &[u8], _: &[u8]| topics.push(key.to_vec());
    directory.records().expect("whole").scan(Table::Retained, &mut note).expect("whole");
    assert_eq!(topics, [b"stays".to_vec()]);
}
engines!(retained_messages_that_expire_are_removed);

/// A session that a client ended or began anew does not come back [MQTT-3.1.2-4] [MQTT-3.1.2-6].
fn an_ended_session_stays_ended(mut broker: Broker, version: Version) {
    let mut ids = vec!["begun anew", "not lasting"];
    if version.is_v5() {
        ids.push("left for good");
    }
    for id in &ids {
        let connect = match *id {
            "not lasting" => Connect::new(version, id),
            _ => Connect::lasting(version, id),
        };
        let (mut client, _) = broker.connect_with(&connect);
        client.subscribe("t", 1);
        match *id {
            "begun anew" => drop(broker.connect_with(&Connect::new(version, id))),
            "left for good" => client.disconnect_with(0, &[session_expiry(0)]),
            _ => {}
        }
    }
    // Whoever sees this sees all before it: it is the same shard or one that was told.
    let (mut client, _) = lasting(&broker, version, "later");
    client.subscribe("other", 1);
    let mut publisher = broker.connect(version, "publisher");
    publisher.publish("other", "x", 1);
    broker.restart();
    let mut publisher = broker.connect(version, "publisher");
    for id in ids {
        let (mut client, connack) = broker.connect_with(&Connect::lasting(version, id));
        assert!(!connack.session_present, "{id}");
        // Version 3.1 does not say whether it is there.
        publisher.publish("t", id, 1);
        client.expect_nothing_from(&mut publisher);
    }
}
everywhere!(an_ended_session_stays_ended);

/// A member of a shared group that is away is one after a restart, too.
fn shared_groups(mut broker: Broker, version: Version) {
    for n in 0..4 {
        let (mut client, _) = lasting(&broker, version, &format!("member {n}"));
        client.subscribe("$share/g/t", 1);
        client.disconnect();
    }
    let mut publisher = broker.connect(version, "publisher");
    for n in 0..40 {
        publisher.publish("t", n.to_string(), 1);
    }
    broker.restart_with(2);
    let mut publisher = broker.connect(version, "publisher");
    for n in 40..80 {
        publisher.publish("t", n.to_string(), 1);
    }
    broker.restart_with(3);
    let mut members = Vec::new();
    for n in 0..4 {
        let (client, present) = lasting(&broker, version, &format!("member {n}"));
        assert!(present);
        members.push(client);
    }
    let mut found: Vec<u32> = Vec::new();
    let begun = Instant::now();
    while found.len() < 80 && begun.elapsed() < Duration::from_secs(20) {
        for client in &mut members {
            // What it has queued is read from the disk meanwhile.
            client.ping();
            while let Some(publish) = client.take_publish_if_any() {
                found.push(publish.payload_text().parse().expect("a number"));
            }
        }
    }
    for client in &mut members {
        client.expect_nothing();
    }
    found.sort_unstable();
    assert!(found.into_iter().eq(0..80));
}
everywhere!(shared_groups);

#[test]
fn a_second_broker_on_the_directory_is_refused() {
    let broker = Broker::start("fjall", 1);
    let output = broker.command().output().expect("it starts");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let why = format!(
        "another process uses the data directory {}: stop it first, or name another with --data",
        broker.data().display()
    );
    assert!(said.contains(&why), "{said}");
    // The first one minds nothing.
    assert!(broker.connect(V5, "client").survives());
}

#[test]
fn a_stop_in_good_order_loses_nothing_either() {
    let mut broker = Broker::start("fjall", 2);
    let (mut client, _) = lasting(&broker, V5, "client");
    client.subscribe("t", 2);
    client.disconnect();
    broker.connect(V5, "publisher").publish("t", "x", 2);
    let pid = rustix::process::Pid::from_child(broker.process());
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is ours");
    assert!(broker.wait().success());
    broker.restart();
    lasting(&broker, V5, "client").0.expect("t", "x");
}

/// [MQTT-3.1.2-4] A session that takes the place of another is stored, and the other is gone.
fn a_session_begun_anew(mut broker: Broker) {
    let anew = Connect::new(V5, "client").with(session_expiry(100));
    for filter in ["old", "new"] {
        let (mut client, connack) = broker.connect_with(&anew);
        assert!(!connack.session_present);
        client.subscribe(filter, 1);
    }
    broker.restart();
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish("old", "x", 1);
    publisher.publish("new", "y", 1);
    let (mut client, present) = lasting(&broker, V5, "client");
    assert!(present);
    client.expect("new", "y");
    client.expect_nothing();
}
engines!(a_session_begun_anew);

/// [MQTT-3.3.1-9] [MQTT-4.4.0-1] A subscription gets all retained messages, each once, although there is no
/// room for them at once and the broker is killed meanwhile: who has a session does not subscribe again.
fn retained_messages_of_a_new_subscription(engine: &'static str) {
    const COUNT: usize = 300;
    let settings = &[("SLUICE_QUEUE_MAX_MESSAGES", "20"), ("SLUICE_MQTT_MAX_INFLIGHT", "10")];
    let mut broker = Broker::start_set(engine, 2, settings);
    let mut publisher = broker.connect(V5, "publisher");
    let topics: Vec<_> = (0..COUNT).map(|n| format!("r/{n:03}")).collect();
    for (n, topic) in topics.iter().enumerate() {
        publisher.publish_retained(topic, "x", 1 + n as u8 % 2);
    }
    let (mut client, _) = lasting(&broker, V5, "client");
    client.subscribe("r/#", 2);
    let mut got = Vec::new();
    for (left, shards) in [(200, 3), (100, 1), (0, 2)] {
        while got.len() < COUNT - left {
            let publish = client.receive();
            assert!(publish.retain);
            // What it acknowledged was not committed yet.
            if !(publish.dup && got.contains(&publish.topic)) {
                got.push(publish.topic);
            }
        }
        commit(&mut client);
        broker.restart_with(shards);
        let present;
        (client, present) = lasting(&broker, V5, "client");
        assert!(present);
    }
    client.expect_nothing();
    got.sort_unstable();
    assert_eq!(got, topics);
}

#[test]
fn retained_messages_of_a_new_subscription_under_fjall() {
    retained_messages_of_a_new_subscription("fjall");
}

#[test]
fn retained_messages_of_a_new_subscription_under_sqlite() {
    retained_messages_of_a_new_subscription("sqlite");
}

/// [MQTT-4.7.3-3] Names as long as the configuration lets them be are stored, and read back.
fn the_longest_names(engine: &'static str) {
    const LONGEST: &str = "65000B";
    let settings = &[
        ("SLUICE_LIMITS_MAX_TOPIC_BYTES", LONGEST),
        ("SLUICE_LIMITS_MAX_CLIENT_ID_BYTES", LONGEST),
    ];
    let mut broker = Broker::start_set(engine, 2, settings);
    let long = |first: &str| first.repeat(65_000);
    let (mut client, _) = lasting(&broker, V5, &long("c"));
    client.subscribe(&long("t"), 1);
    client.disconnect();
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish_retained(&long("t"), "x", 1);
    for _ in 0..2 {
        broker.restart();
    }
    let (mut client, present) = lasting(&broker, V5, &long("c"));
    assert!(present);
    client.expect(&long("t"), "x");
    let mut other = broker.connect(V5, "other");
    other.subscribe(&long("t"), 0);
    assert!(other.expect(&long("t"), "x").retain);
}

#[test]
fn the_longest_names_under_fjall() {
    the_longest_names("fjall");
}

#[test]
fn the_longest_names_under_sqlite() {
    the_longest_names("sqlite");
}

/// What is left of a session that ended goes before the broker has stopped, and does not come back after a
/// crash.
#[test]
fn many_subscriptions_of_a_session_that_ends() {
    const FILTERS: usize = 4000;
    let mut broker = Broker::start("fjall", 2);
    let connect = Connect::lasting(V5, "client");
    for crash in [false, true] {
        let (mut client, _) = broker.connect_with(&connect);
        for first in (0..FILTERS).step_by(1000) {
            let filters: Vec<_> = (first..first + 1000).map(|n| format!("t/{n}")).collect();
            let filters: Vec<_> = filters.iter().map(|filter| (filter.as_str(), 1)).collect();
            client.subscribe_with(&filters, &[]);
        }
        let mut next = broker.connect_with(&Connect::new(V5, "client").with(session_expiry(100))).0;
        next.subscribe("new", 1);
        if crash {
            broker.kill();
        } else {
            broker.stop();
        }
        broker.restart();
        let stray = broker.log().contains("belonged to nothing");
        assert!(crash || !stray, "{}", broker.log());
        let mut publisher = broker.connect(V5, "publisher");
        let codes =
            ["t/0", "t/3999"].map(|topic| publisher.try_publish(Message::new(topic, "x").qos(1)));
        assert_eq!(codes, [code::NO_MATCHING_SUBSCRIBERS; 2]);
        publisher.publish("new", "x", 1);
        let (mut client, present) = lasting(&broker, V5, "client");
        assert!(present);
        client.expect("new", "x");
    }
}

/// Messages that nobody has to keep pass while others wait for their commit, between shards, too.
#[test]
fn what_nobody_keeps_waits_for_no_commit() {
    let broker = Broker::start("sqlite", 2);
    // At home on either shard, each kind of them.
    let clients = |kind: &str| -> Vec<Client> {
        (0..6).map(|n| broker.connect(V5, &format!("{kind}-{n}"))).collect()
    };
    for n in 0..6 {
        let mut absent = broker.connect_with(&Connect::lasting(V5, &format!("absent-{n}"))).0;
        absent.subscribe("kept", 1);
        absent.disconnect();
    }
    let (mut keepers, mut publishers) = (clients("keeper"), clients("publisher"));
    let mut subscribers = clients("subscriber");
    for (n, subscriber) in subscribers.iter_mut().enumerate() {
        subscriber.subscribe(&format!("t/{n}"), 2);
    }
    // Nobody else commits meanwhile.
    let path = broker.data().join("sluice.sqlite");
    let database = rusqlite::Connection::open(path).expect("it is there");
    database.execute_batch("begin immediate").expect("the lock");
    let ids: Vec<_> =
        keepers.iter_mut().map(|it| it.start_publish(Message::new("kept", "x").qos(1))).collect();
    for keeper in &mut keepers {
        keeper.ping();
    }
    for (n, subscriber) in subscribers.iter_mut().enumerate() {
        for (m, publisher) in publishers.iter_mut().enumerate() {
            publisher.publish(&format!("t/{n}"), m.to_string(), 1 + (m % 2) as u8);
            subscriber.expect(&format!("t/{n}"), m.to_string());
        }
    }
    for keeper in &mut keepers {
        keeper.ping();
        assert!(keeper.take_puback_if_any().is_none(), "what is kept waits");
    }
    database.execute_batch("rollback").expect("the lock is given back");
    for (keeper, id) in keepers.iter_mut().zip(ids) {
        assert_eq!(keeper.wait_puback(id).code, code::SUCCESS);
    }
}
