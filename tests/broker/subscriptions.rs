//! SUBSCRIBE, UNSUBSCRIBE, topic names and filters (sections 3.8 to 3.11, 4.7).

use crate::common::cases::{shards, versions};
use crate::common::property::subscription_identifier;
use crate::common::wire::{self, packet};
use crate::common::{
    Client, Connect, Message, V5, V31, V311, Version, broker, broker_with_shards, code,
};

const NO_LOCAL: u8 = 1 << 2;

/// [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.2-1], [MQTT-4.7.3-4] Which names a filter takes in.
fn matches_by_the_rules(version: Version) {
    // Filter, what it takes in, what it does not.
    let cases: [(&str, &[&str], &[&str]); 20] = [
        ("a/b", &["a/b"], &["a", "a/b/c", "A/b", "a/B", "/a/b", "a/b/", "a//b", "ab"]),
        ("#", &["a", "/", "a/b/c", "/a", "a/", "//"], &["$a", "$a/b", "$SYS/x"]),
        ("+", &["a", "ab c"], &["/a", "a/", "a/b", "/", "$a"]),
        ("/+", &["/a", "/"], &["a", "a/b", "//"]),
        ("+/", &["a/", "/"], &["a", "a/b", "$a/"]),
        ("+/+", &["/a", "a/b", "/", "a/"], &["a", "a/b/c", "$a/b", "//"]),
        ("a/#", &["a", "a/", "a/b", "a/b/c/d"], &["b", "ab", "/a"]),
        ("a/+/c", &["a/b/c", "a//c"], &["a/c", "a/b/b/c"]),
        ("+/b/#", &["a/b", "/b", "a/b/c/d"], &["a/c/b", "b", "$a/b"]),
        (
            "sport/tennis/player1/#",
            &["sport/tennis/player1", "sport/tennis/player1/score/w"],
            &["sport/tennis/player2"],
        ),
        ("$a/#", &["$a", "$a/b", "$a/b/c"], &["a", "$b"]),
        ("$a/+", &["$a/b"], &["$a", "$a/b/c"]),
        ("a/$b", &["a/$b"], &["a/b"]),
        ("+/$b", &["a/$b"], &["$a/$b"]),
        ("Accounts payable", &["Accounts payable"], &["Accounts  payable", "accounts payable"]),
        ("\u{e9}", &["\u{e9}"], &["e\u{301}", "e"]),
        ("\u{feff}x", &["\u{feff}x"], &["x"]),
        ("💧/+", &["💧/a", "💧/💧"], &["💧"]),
        ("//#", &["//", "/", "//a/b"], &["a//"]),
        ("+/+/+/+", &["///", "a/b/c/d"], &["a/b/c", "//"]),
    ];
    let broker = broker("");
    let mut publisher = broker.connect(version, "publisher");
    for (n, (filter, takes, leaves)) in cases.into_iter().enumerate() {
        let mut subscriber = broker.connect(version, &format!("subscriber-{n}"));
        subscriber.subscribe(filter, 0);
        for name in takes {
            publisher.publish(name, filter, 0);
            let publish = subscriber.take_publish();
            assert_eq!((publish.topic.as_str(), publish.payload_text()), (*name, filter));
        }
        for name in leaves {
            publisher.publish(name, filter, 0);
        }
        subscriber.expect_nothing_from(&mut publisher);
    }
}
versions!(matches_by_the_rules);

/// [MQTT-3.8.4-1], [MQTT-3.8.4-2], [MQTT-3.9.3-1] SUBACK has the packet's identifier and a code for
/// each filter, in their order.
fn answers_each_filter(version: Version) {
    let broker = broker("");
    let mut client = broker.connect(version, "client");
    let filters = [("a", 2), ("b/+", 0), ("c/#", 1), ("a", 1), ("d", 2)];
    let suback = client.subscribe_with(&filters, &[]);
    assert_eq!(suback.codes, [2, 0, 1, 1, 2]);
    for id in [1, 0x1234, 0xFFFF] {
        client.send(&crate::common::client::subscribe(version, id, &[("x", 1)], &[]));
        assert_eq!(client.wait_suback(id).codes, [1]);
    }
    // As if they had come one by one [MQTT-3.8.4-5]: the later of two alike counts.
    client.publish("a", "x", 2);
    assert_eq!(client.expect("a", "x").qos, 1);
}
versions!(answers_each_filter);

/// [MQTT-3.8.4-3] The same filter again replaces the subscription.
fn replaces_the_same_filter(version: Version) {
    let broker = broker("");
    let mut client = broker.connect(version, "client");
    for qos in [2, 0, 1] {
        client.subscribe("same/+", qos);
        client.publish("same/topic", "x", 2);
        assert_eq!(client.expect("same/topic", "x").qos, qos);
        client.expect_nothing_from_itself();
    }
}
versions!(replaces_the_same_filter);

/// [MQTT-3.3.4-2], (3.1.1) [MQTT-3.3.5-1] Overlapping subscriptions: the highest QoS of those that
/// match, in one delivery.
fn delivers_once_for_overlapping_filters(version: Version) {
    let broker = broker("");
    let mut client = broker.connect(version, "client");
    for (filter, qos) in [("a/#", 0), ("a/+", 2), ("a/b", 1), ("#", 0)] {
        client.subscribe(filter, qos);
    }
    client.publish("a/b", "x", 2);
    assert_eq!(client.expect("a/b", "x").qos, 2);
    client.publish("a/b/c", "y", 2);
    assert_eq!(client.expect("a/b/c", "y").qos, 0);
    // The filter # takes in what would come behind a second delivery.
    client.publish("end", "z", 0);
    client.expect("end", "z");
    client.expect_nothing();
}
versions!(delivers_once_for_overlapping_filters);

/// [MQTT-4.7.1-1] to [MQTT-4.7.3-1] Filters that are none: 0x8F, in 3.1.1 0x80 [MQTT-3.8.4-5]
/// (3.1.1), in 3.1, which has no failure, QoS 0; and the other filters of the packet are served.
fn refuses_bad_filters(version: Version) {
    let broker = broker("");
    let mut client = broker.connect(version, "client");
    let refusal = match version {
        V5 => code::TOPIC_FILTER_INVALID,
        V311 => 0x80,
        V31 => 0,
    };
    let bad = ["", "a#", "#/a", "a/#/b", "a/b#", "a+", "+a", "a/+b", "a/b+/c", "##", "++", "/#/"];
    for filter in bad {
        let suback = client.subscribe_with(&[("good/1", 1), (filter, 0), ("good/2", 2)], &[]);
        assert_eq!(suback.codes, [1, refusal, 2], "{filter:?}");
    }
    client.publish("good/2", "x", 2);
    client.expect("good/2", "x");
}
versions!(refuses_bad_filters);

/// [MQTT-3.10.4-2] After UNSUBACK nothing new comes; [MQTT-3.10.4-5] it has the packet's
/// identifier; [MQTT-3.11.3-1] in version 5 a code for each filter.
fn unsubscribes(version: Version) {
    let broker = broker("");
    let mut client = broker.connect(version, "client");
    client.subscribe("a/#", 1);
    client.subscribe("b", 1);
    client.subscribe("c", 1);
    let unsuback = client.unsubscribe(&["b", "unknown", "a/#"]);
    if version.is_v5() {
        let expected = [code::SUCCESS, code::NO_SUBSCRIPTION_EXISTED, code::SUCCESS];
        assert_eq!(unsuback.codes, expected);
    }
    for topic in ["a", "a/b", "b", "c"] {
        client.publish(topic, "x", 1);
    }
    client.expect("c", "x");
    client.expect_nothing_from_itself();
}
versions!(unsubscribes);

/// [MQTT-3.10.4-1] Filters are compared character by character, not matched; [MQTT-3.10.4-4] an
/// UNSUBSCRIBE that hits nothing is acknowledged all the same.
fn unsubscribes_by_the_letter(version: Version) {
    let broker = broker("");
    let mut client = broker.connect(version, "client");
    client.subscribe("a/b", 0);
    for filter in ["a/+", "#", "a/B", "a/b/", "/a/b", "a"] {
        let codes = client.unsubscribe(&[filter]).codes;
        if version.is_v5() {
            assert_eq!(codes, [code::NO_SUBSCRIPTION_EXISTED], "{filter}");
        }
    }
    // One that is no filter is told so in version 5.
    let codes = client.unsubscribe(&["a/#/b"]).codes;
    assert_eq!(codes, if version.is_v5() { vec![code::TOPIC_FILTER_INVALID] } else { vec![] });
    client.publish("a/b", "still", 0);
    client.expect("a/b", "still");
}
versions!(unsubscribes_by_the_letter);

/// [MQTT-3.10.4-3] What was begun is completed after UNSUBSCRIBE.
fn completes_deliveries_after_unsubscribe(version: Version) {
    let broker = broker("");
    let mut client = broker.connect(version, "client");
    client.subscribe("a", 2);
    let mut publisher = broker.connect(version, "publisher");
    publisher.publish("a", "begun", 2);
    let publish = client.take_publish();
    client.unsubscribe(&["a"]);
    client.send_ack(wire::PUBREC, publish.id);
    client.wait_pubrel(publish.id);
    client.send_ack(wire::PUBCOMP, publish.id);
    client.expect_nothing();
}
versions!(completes_deliveries_after_unsubscribe);

/// Two wildcard filters of several clients do not disturb each other when one goes.
fn keeps_the_others_on_unsubscribe(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let mut clients: Vec<_> = (0..6)
        .map(|n| {
            let mut client = broker.connect(V5, &format!("client-{n}"));
            client.subscribe("common/+/x", 1);
            client.subscribe("common/#", 0);
            client
        })
        .collect();
    let mut publisher = broker.connect(V5, "publisher");
    for n in 0..clients.len() {
        publisher.publish("common/1/x", n.to_string(), 1);
        for client in &mut clients[n..] {
            assert_eq!(client.expect("common/1/x", n.to_string()).qos, 1);
        }
        assert_eq!(clients[n].unsubscribe(&["common/#", "common/+/x"]).codes, [0, 0]);
    }
    let alone = Message::new("common/1/x", "x").qos(1);
    assert_eq!(publisher.try_publish(alone), code::NO_MATCHING_SUBSCRIBERS);
    for client in &mut clients {
        client.expect_nothing_from(&mut publisher);
    }
}
shards!(keeps_the_others_on_unsubscribe);

/// A topic published before stays deliverable to who subscribes later, and from then on (the
/// broker remembers receivers of a topic).
fn sees_new_subscriptions_of_a_known_topic(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let mut publisher = broker.connect(V311, "publisher");
    let filters = ["a/b/c", "a/+/c", "a/#", "#", "+/b/c"];
    let mut clients: Vec<Client> = Vec::new();
    for (n, filter) in filters.into_iter().enumerate() {
        publisher.publish("a/b/c", "before", 1);
        for client in &mut clients {
            client.expect("a/b/c", "before");
        }
        let mut client = broker.connect(V311, &format!("client-{n}"));
        client.subscribe(filter, 0);
        clients.push(client);
    }
    while let Some(leaver) = clients.pop() {
        leaver.hang_up();
        publisher.publish("a/b/c", "after", 0);
        for client in &mut clients {
            client.expect("a/b/c", "after");
        }
    }
}
shards!(sees_new_subscriptions_of_a_known_topic);

/// [MQTT-3.8.3-3] No Local: not what this client published itself, but everybody else's; decided
/// for each subscription.
#[test]
fn minds_no_local() {
    let broker = broker("");
    let mut client = broker.connect(V5, "client");
    client.subscribe_with(&[("chat/#", NO_LOCAL | 1)], &[]);
    client.publish("chat/room", "mine", 1);
    client.expect_nothing_from_itself();
    let mut other = broker.connect(V5, "other");
    other.publish("chat/room", "yours", 1);
    client.expect("chat/room", "yours");
    // A second subscription without the option brings the client's own.
    client.subscribe("chat/room", 0);
    client.publish("chat/room", "mine too", 1);
    assert_eq!(client.expect("chat/room", "mine too").qos, 0);
    other.publish("chat/room", "yours too", 1);
    assert_eq!(client.expect("chat/room", "yours too").qos, 1);
}

/// [MQTT-3.8.3-3] No Local goes by ClientID: also over a reconnect in between.
#[test]
fn minds_no_local_over_a_reconnect() {
    let broker = broker("");
    let connect = Connect::lasting(V5, "client");
    let (mut client, _) = broker.connect_with(&connect);
    client.subscribe_with(&[("chat", NO_LOCAL | 1)], &[]);
    client.disconnect();
    let (mut client, connack) = broker.connect_with(&connect);
    assert!(connack.session_present);
    client.publish("chat", "mine", 1);
    client.expect_nothing_from_itself();
}

/// [MQTT-4.7.2-1], section 4.7.2: clients do not exchange messages by the server's own topics.
fn keeps_sys_topics_for_the_server(version: Version) {
    let broker = broker("");
    let mut watcher = broker.connect(version, "watcher");
    watcher.subscribe("$SYS/forged", 0);
    let mut client = broker.connect(version, "forger");
    client.start_publish(Message::new("$SYS/forged", "x"));
    let mut other = broker.connect(version, "other");
    watcher.expect_nothing_from(&mut other);
}
versions!(keeps_sys_topics_for_the_server);

/// Section 3.8.3.1: switching wildcards off is stated, and refused with 0xA2, in 3.1.1 0x80.
#[test]
fn may_refuse_wildcards() {
    let broker = broker("[mqtt]\nwildcard_subscription_available = false");
    let (mut client, connack) = broker.connect_with(&Connect::new(V5, "client"));
    let available = crate::common::property::WILDCARD_SUBSCRIPTION_AVAILABLE;
    assert_eq!(connack.properties.number(available), Some(0));
    let suback = client.subscribe_with(&[("a/+", 0), ("a", 0), ("#", 0)], &[]);
    let refused = code::WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED;
    assert_eq!(suback.codes, [refused, 0, refused]);
    let mut old = broker.connect(V311, "old");
    assert_eq!(old.subscribe_with(&[("a/+", 0), ("a", 0)], &[]).codes, [0x80, 0]);
}

/// A client may hold many subscriptions, and one packet may bring many of them.
#[test]
fn serves_many_filters() {
    let broker = broker("");
    let mut client = broker.connect(V5, "client");
    let names: Vec<String> = (0..1_000).map(|n| format!("many/{n}/+")).collect();
    let filters: Vec<(&str, u8)> = names.iter().map(|name| (name.as_str(), 1)).collect();
    let suback = client.subscribe_with(&filters, &[subscription_identifier(3)]);
    assert_eq!(suback.codes, vec![1; 1_000]);
    for n in [0, 1, 500, 999] {
        let topic = format!("many/{n}/x");
        client.publish(&topic, "x", 1);
        client.expect(&topic, "x");
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(client.unsubscribe(&names).codes, vec![0; 1_000]);
    client.publish("many/0/x", "x", 1);
    client.expect_nothing_from_itself();
}

/// Section 3.10.3: an empty filter list in UNSUBSCRIBE [MQTT-3.10.3-2] or SUBSCRIBE
/// [MQTT-3.8.3-2] is a protocol error.
fn refuses_empty_lists(version: Version) {
    let broker = broker("");
    let body: &[u8] = if version.is_v5() { &[0, 1, 0] } else { &[0, 1] };
    for first_byte in [wire::SUBSCRIBE, wire::UNSUBSCRIBE] {
        let mut client = broker.connect(version, "client");
        client.send(&packet(first_byte, body));
        client.expect_disconnect(&[code::PROTOCOL_ERROR]);
    }
}
versions!(refuses_empty_lists);
