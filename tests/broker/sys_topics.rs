//! The `$SYS` topics, as Mosquitto's users know them.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::common::cases::{shards, versions};
use crate::common::{
    Client, Connect, Message, V5, V311, Version, Will, broker, broker_with_shards, code,
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

/// Drops are counted.
#[test]
fn counts_drops() {
    let broker = broker("[sys]\ninterval = \"1s\"\n[queue]\nmax_messages = 1");
    let connect = Connect::lasting(V5, "away");
    let (mut client, _) = broker.connect_with(&connect);
    client.subscribe("t", 1);
    client.disconnect();
    let mut watcher = broker.connect(V5, "watcher");
    for n in 0..4 {
        watcher.try_publish(Message::new("t", n.to_string()).qos(1));
    }
    watcher.subscribe("$SYS/broker/publish/messages/dropped", 0);
    watch(&mut watcher, |values| number(values, "publish/messages/dropped") == Some(3.0));
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
