//! The `$SYS` topics, as Mosquitto's users know them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::common::cases::{shards, versions};
use crate::common::property::{maximum_packet_size, message_expiry, session_expiry};
use crate::common::{
    Client, Connect, Message, V5, V311, Version, Will, broker, broker_with_shards, code, let_pass,
};

const QUICK: &str = "[sys]\ninterval = \"1s\"";

/// Reads until `enough` says so of the latest value of each topic.
#[track_caller]
fn watch(client: &mut Client, enough: impl Fn(&BTreeMap<String, String>) -> bool) {
    let mut values = BTreeMap::new();
    let start = Instant::now();
    while !enough(&values) {
        assert!(start.elapsed() < Duration::from_secs(10), "up to now: {values:#?}");
        let publish = client.receive();
        values.insert(publish.topic.clone(), publish.payload_text().to_owned());
    }
}

fn number(values: &BTreeMap<String, String>, topic: &str) -> Option<f64> {
    values.get(&format!("$SYS/broker/{topic}"))?.parse().ok()
}

/// What waits for clients, queued or in flight, is counted as stored.
fn counts_what_is_stored(shards: u16) {
    let broker = broker_with_shards(shards, QUICK);
    let connect = Connect::lasting(V311, "away");
    let (mut away, _) = broker.connect_with(&connect);
    away.subscribe("t", 1);
    away.disconnect();
    let mut client = broker.connect(V311, "watcher");
    for _ in 0..3 {
        client.publish("t", "x", 1);
    }
    client.subscribe("$SYS/#", 0);
    watch(&mut client, |values| number(values, "messages/stored") == Some(3.0));
    let (mut back, _) = broker.connect_with(&connect);
    for _ in 0..3 {
        back.expect("t", "x");
    }
    watch(&mut client, |values| number(values, "messages/stored") == Some(0.0));
}
shards!(counts_what_is_stored);

/// Every topic is there, at an interval, and is a number where Mosquitto's is one.
fn has_the_known_topics(version: Version) {
    let broker = broker(QUICK);
    let mut client = broker.connect(version, "watcher");
    client.subscribe("$SYS/#", 0);
    let numbers = [
        "clients/connected",
        "clients/disconnected",
        "clients/total",
        "clients/maximum",
        "messages/received",
        "messages/sent",
        "bytes/received",
        "bytes/sent",
        "publish/messages/received",
        "publish/messages/sent",
        "publish/messages/dropped",
        "subscriptions/count",
        "retained messages/count",
        "load/messages/received/1min",
        "load/messages/received/5min",
        "load/messages/received/15min",
        "load/messages/sent/1min",
        "load/bytes/received/1min",
        "load/bytes/sent/1min",
        "load/connections/1min",
    ];
    watch(&mut client, |values| {
        numbers.iter().all(|topic| number(values, topic).is_some())
            && values.get("$SYS/broker/version").is_some_and(|version| !version.is_empty())
            && values
                .get("$SYS/broker/uptime")
                .is_some_and(|uptime| uptime.starts_with(|first: char| first.is_ascii_digit()))
    });
}
versions!(has_the_known_topics);

/// The version is this broker's.
#[test]
fn tells_its_version() {
    let broker = broker(QUICK);
    let mut client = broker.connect(V311, "watcher");
    client.subscribe("$SYS/broker/version", 0);
    client.receive();
    // Retained: at once for whoever comes later.
    client.unsubscribe(&["$SYS/broker/version"]);
    client.subscribe("$SYS/broker/version", 0);
    let version = client.receive();
    assert!(version.retain);
    assert!(version.payload_text().contains(env!("CARGO_PKG_VERSION")));
    assert!(version.payload_text().to_lowercase().contains("sluice"));
}

/// The numbers are those of all shards, and true.
fn counts_truly(shards: u16) {
    let broker = broker_with_shards(shards, QUICK);
    let mut clients: Vec<Client> = (0..5)
        .map(|n| {
            let mut client = broker.connect(V5, &format!("client-{n}"));
            client.subscribe("t", 0);
            client
        })
        .collect();
    broker.connect_with(&Connect::lasting(V311, "away")).0.disconnect();
    for n in 0..10 {
        clients[n % 5].publish("t", "x", 1);
    }
    clients[0].publish_retained("kept", "x", 1);
    let mut watcher = broker.connect(V5, "watcher");
    watcher.subscribe("$SYS/broker/#", 0);
    watch(&mut watcher, |values| {
        let is = |topic, expected: f64| number(values, topic) == Some(expected);
        let at_least = |topic, least: f64| number(values, topic) >= Some(least);
        is("clients/connected", 6.0)
            && is("clients/disconnected", 1.0)
            && is("clients/total", 7.0)
            && is("clients/maximum", 6.0)
            && is("subscriptions/count", 6.0)
            && at_least("publish/messages/received", 11.0)
            && at_least("publish/messages/sent", 50.0)
            && at_least("messages/received", 22.0)
            && at_least("bytes/received", 100.0)
            && at_least("load/messages/received/1min", 0.01)
    });
}
shards!(counts_truly);

/// Waits until so many drops of these causes are told.
#[track_caller]
pub(crate) fn expect_drops(watcher: &mut Client, expected: &[(&str, u32)]) {
    watcher.subscribe("$SYS/broker/publish/messages/dropped/+", 0);
    watch(watcher, |values| {
        let told = |cause| number(values, &format!("publish/messages/dropped/{cause}"));
        expected.iter().all(|(cause, count)| told(cause) == Some(f64::from(*count)))
    });
}

/// Drops are counted, by cause and in all.
#[test]
fn counts_drops() {
    let toml = "[queue]\nmax_messages = 1\n[mqtt]\nmax_inflight = 1";
    let broker = broker(&format!("{QUICK}\n{toml}"));
    let session = |id: &str, expiry, filter: &str| {
        let connect = Connect::new(V5, id).with(session_expiry(expiry)).resume();
        let (mut client, _) = broker.connect_with(&connect);
        client.subscribe(filter, 1);
        client.disconnect();
        connect
    };
    let mut publisher = broker.connect(V5, "publisher");
    session("full", 60, "full");
    for n in 0..4 {
        publisher.try_publish(Message::new("full", n.to_string()).qos(1));
    }
    for _ in 0..2 {
        publisher.publish("full", "not for the absent", 0);
    }
    let late = session("late", 60, "late");
    publisher.deliver(Message::new("late", "x").qos(1).with(message_expiry(1)));
    session("short", 1, "short");
    publisher.publish("short", "x", 1);
    session("member", 60, "$share/group/alone");
    publisher.publish("alone", "x", 1);
    broker.connect(V5, "member").disconnect();
    let small = Connect::new(V5, "small").with(maximum_packet_size(60));
    let (mut small, _) = broker.connect_with(&small);
    small.subscribe("large", 1);
    for qos in [0, 1, 0, 1, 1] {
        publisher.publish("large", [b'x'; 60], qos);
    }
    small.expect_nothing_from(&mut publisher);
    let_pass(Duration::from_millis(1_100));
    broker.connect_with(&late).0.expect_nothing();
    let mut watcher = broker.connect(V5, "watcher");
    let causes = [
        ("queue_full", 3),
        ("slow_reader", 0),
        ("expired", 1),
        ("packet_too_large", 5),
        ("offline", 2),
        ("orphaned", 1),
        ("store_failed", 0),
        ("session_ended", 1),
    ];
    expect_drops(&mut watcher, &causes);
    let total: u32 = causes.iter().map(|(_, count)| count).sum();
    watcher.subscribe("$SYS/broker/publish/messages/dropped", 0);
    watch(&mut watcher, |values| {
        number(values, "publish/messages/dropped") == Some(f64::from(total))
    });
}

/// [MQTT-4.7.2-1] Filters that begin with a wildcard do not take them in.
fn hides_from_wildcards(version: Version) {
    let broker = broker(QUICK);
    let mut client = broker.connect(version, "client");
    client.subscribe("#", 0);
    client.subscribe("+/broker/uptime", 0);
    let mut watcher = broker.connect(version, "watcher");
    watcher.subscribe("$SYS/broker/uptime", 0);
    // Two updates have gone out.
    for _ in 0..2 {
        watcher.receive();
    }
    client.expect_nothing();
}
versions!(hides_from_wildcards);

/// With `sys.interval = "0s"` there are none.
#[test]
fn may_be_switched_off() {
    let broker = broker("[sys]\ninterval = \"0s\"");
    let mut client = broker.connect(V5, "client");
    client.subscribe("$SYS/#", 0);
    client.expect_nothing_from_itself();
}

/// Section 4.7.2: nobody forges the broker's own topics, not by a Topic Alias either.
#[test]
fn are_not_forged_by_alias() {
    let broker = broker("");
    let mut watcher = broker.connect(V5, "watcher");
    watcher.subscribe("$SYS/forged", 0);
    let mut forger = broker.connect(V5, "forger");
    let alias = crate::common::property::topic_alias(1);
    forger.send(&Message::new("$SYS/forged", "x").with(alias.clone()).bytes(V5));
    forger.send(&Message::new("", "y").with(alias.clone()).bytes(V5));
    let refused = forger.try_publish(Message::new("$SYS/forged", "z").qos(1).with(alias));
    assert_eq!(refused, code::NOT_AUTHORIZED);
    watcher.expect_nothing_from(&mut forger);
}

/// Section 4.7.2: nor by a Will, which outlives its client when it is retained.
fn are_not_forged_by_will(version: Version) {
    let broker = broker("");
    let mut watcher = broker.connect(version, "watcher");
    watcher.subscribe("$SYS/broker/version", 0);
    assert!(watcher.receive().payload_text().contains("sluice"));
    let will = Will::new("$SYS/broker/version", "forged").retain();
    let mut refused = broker.open(version);
    refused.send(&Connect::new(version, "forger").will(will).bytes());
    refused.expect_refused_connect(&[code::NOT_AUTHORIZED]);
    let mut other = broker.connect(version, "other");
    watcher.expect_nothing_from(&mut other);
}
versions!(are_not_forged_by_will);
