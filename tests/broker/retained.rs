//! Retained messages (section 3.3.1.3).

use std::time::Duration;

use crate::common::cases::{shards, versions};
use crate::common::property::{self, *};
use crate::common::{
    Connect, Message, Packet, V5, V311, Version, broker, broker_with_shards, code, let_pass,
};

/// Retain Handling, in its bits of the Subscription Options.
const SEND_IF_NEW: u8 = 1 << 4;
const DO_NOT_SEND: u8 = 2 << 4;
const RETAIN_AS_PUBLISHED: u8 = 1 << 3;

/// [MQTT-3.3.1-5], [MQTT-3.3.1-9] A retained message is kept, beyond its publisher, for whoever
/// subscribes later, and comes with RETAIN set ([MQTT-3.3.1-8] (3.1.1)), at the lesser QoS.
fn keeps_for_later_subscribers(version: Version) {
    let broker = broker("");
    let mut publisher = broker.connect(version, "publisher");
    for qos in 0..=2 {
        publisher.publish_retained(&format!("kept/{qos}"), format!("at {qos}"), qos);
    }
    publisher.disconnect();
    for granted in 0..=2 {
        let mut subscriber = broker.connect(version, "subscriber");
        for qos in 0..=2 {
            let topic = format!("kept/{qos}");
            subscriber.subscribe(&topic, granted);
            let publish = subscriber.expect(&topic, format!("at {qos}"));
            assert!(publish.retain && !publish.dup);
            assert_eq!(publish.qos, qos.min(granted));
        }
        subscriber.expect_nothing();
        subscriber.disconnect();
    }
}
versions!(keeps_for_later_subscribers);

/// [MQTT-3.3.1-12], (3.1.1) [MQTT-3.3.1-9] To who subscribes already it comes with RETAIN clear.
fn passes_on_without_the_flag(version: Version) {
    let broker = broker("");
    let mut client = broker.connect(version, "client");
    client.subscribe("kept", 0);
    client.publish_retained("kept", "now", 0);
    assert!(!client.expect("kept", "now").retain);
    client.expect_nothing_from_itself();
}
versions!(passes_on_without_the_flag);

/// [MQTT-3.3.1-5] One message a topic: the last.
fn replaces(version: Version) {
    let broker = broker("");
    let mut publisher = broker.connect(version, "publisher");
    for (n, qos) in [0, 2, 0, 1].into_iter().enumerate() {
        publisher.publish_retained("kept", n.to_string(), qos);
    }
    let mut subscriber = broker.connect(version, "subscriber");
    subscriber.subscribe("kept", 2);
    let publish = subscriber.expect("kept", "3");
    assert_eq!((publish.qos, publish.retain), (1, true));
    subscriber.expect_nothing();
}
versions!(replaces);

/// [MQTT-3.3.1-6] An empty payload clears, is delivered as any message, and [MQTT-3.3.1-7] is not
/// kept itself.
fn clears_by_an_empty_payload(version: Version) {
    let broker = broker("");
    let mut publisher = broker.connect(version, "publisher");
    publisher.publish_retained("kept", "value", 1);
    let mut watcher = broker.connect(version, "watcher");
    watcher.subscribe("kept", 1);
    assert!(watcher.expect("kept", "value").retain);
    publisher.publish_retained("kept", "", 1);
    assert!(!watcher.expect("kept", "").retain);
    publisher.publish_retained("never/was", "", 1);
    let mut late = broker.connect(version, "late");
    late.subscribe("#", 1);
    late.expect_nothing();
}
versions!(clears_by_an_empty_payload);

/// [MQTT-3.3.1-8] A message without RETAIN neither stays nor touches what is kept.
fn leaves_the_kept_alone(version: Version) {
    let broker = broker("");
    let mut publisher = broker.connect(version, "publisher");
    publisher.publish_retained("kept", "stays", 1);
    publisher.publish("kept", "passes", 1);
    publisher.publish("kept", "", 1);
    publisher.publish("other", "passes", 1);
    let mut subscriber = broker.connect(version, "subscriber");
    subscriber.subscribe("#", 1);
    subscriber.expect("kept", "stays");
    subscriber.expect_nothing();
}
versions!(leaves_the_kept_alone);

/// [MQTT-4.7.1-1], [MQTT-4.7.1-2] What a filter with wildcards takes in, it takes in of the kept.
#[test]
fn finds_by_wildcards() {
    let topics = ["a", "a/b", "a/b/c", "a/c", "/a", "a/", "b/b", "$data/a"];
    let cases: [(&str, &[&str]); 12] = [
        ("#", &["a", "a/b", "a/b/c", "a/c", "/a", "a/", "b/b"]),
        ("+", &["a"]),
        ("+/+", &["a/b", "a/c", "/a", "a/", "b/b"]),
        ("a/#", &["a", "a/b", "a/b/c", "a/c", "a/"]),
        ("a/+", &["a/b", "a/c", "a/"]),
        ("+/b", &["a/b", "b/b"]),
        ("+/b/#", &["a/b", "a/b/c", "b/b"]),
        ("/+", &["/a"]),
        ("a/+/c", &["a/b/c"]),
        ("$data/#", &["$data/a"]),
        ("+/a", &["/a"]),
        ("c/#", &[]),
    ];
    let broker = broker("");
    let mut publisher = broker.connect(V311, "publisher");
    for topic in topics {
        publisher.publish_retained(topic, topic, 1);
    }
    for (n, (filter, expected)) in cases.into_iter().enumerate() {
        let mut subscriber = broker.connect(V311, &format!("subscriber-{n}"));
        subscriber.subscribe(filter, 0);
        let mut got: Vec<String> =
            (0..expected.len()).map(|_| subscriber.take_publish().topic).collect();
        got.sort_unstable();
        let mut expected = expected.to_vec();
        expected.sort_unstable();
        assert_eq!(got, expected, "{filter}");
        subscriber.expect_nothing();
    }
}

/// (3.1.1) [MQTT-3.8.4-3] Whoever subscribes again gets it again.
fn sends_again_on_a_repeated_subscription(version: Version) {
    let broker = broker("");
    let mut client = broker.connect(version, "client");
    client.publish_retained("kept", "value", 0);
    for _ in 0..3 {
        client.subscribe("kept", 0);
        assert!(client.expect("kept", "value").retain);
    }
    client.expect_nothing();
}
versions!(sends_again_on_a_repeated_subscription);

/// [MQTT-3.3.1-9], [MQTT-3.3.1-10], [MQTT-3.3.1-11] Retain Handling 0, 1 and 2.
#[test]
fn minds_retain_handling() {
    let broker = broker("");
    let mut client = broker.connect(V5, "client");
    client.publish_retained("kept", "value", 0);
    client.subscribe_with(&[("kept", DO_NOT_SEND)], &[]);
    client.expect_nothing();
    // The subscription exists already.
    client.subscribe_with(&[("kept", SEND_IF_NEW)], &[]);
    client.expect_nothing();
    client.subscribe_with(&[("kept", 0)], &[]);
    client.expect("kept", "value");
    assert_eq!(client.unsubscribe(&["kept"]).codes, [code::SUCCESS]);
    client.subscribe_with(&[("kept", SEND_IF_NEW)], &[]);
    client.expect("kept", "value");
    client.subscribe_with(&[("kept", SEND_IF_NEW | 1)], &[]);
    client.expect_nothing();
}

/// [MQTT-3.3.1-13] Retain As Published leaves the flag as its publisher set it; a kept message
/// comes with RETAIN set in any case.
#[test]
fn minds_retain_as_published() {
    let broker = broker("");
    let mut plain = broker.connect(V5, "plain");
    let mut as_published = broker.connect(V5, "as-published");
    plain.subscribe("flag", 0);
    as_published.subscribe_with(&[("flag", RETAIN_AS_PUBLISHED)], &[]);
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish_retained("flag", "set", 0);
    publisher.publish("flag", "clear", 0);
    assert!(as_published.expect("flag", "set").retain);
    assert!(!as_published.expect("flag", "clear").retain);
    assert!(!plain.expect("flag", "set").retain);
    assert!(!plain.expect("flag", "clear").retain);
    for (client, options) in [(&mut plain, 0), (&mut as_published, RETAIN_AS_PUBLISHED)] {
        client.subscribe_with(&[("flag", options)], &[]);
        assert!(client.expect("flag", "set").retain);
    }
}

/// Section 3.3.2.3: a kept message keeps its properties, except Topic Alias.
#[test]
fn keeps_properties() {
    let broker = broker("");
    let mut publisher = broker.connect(V5, "publisher");
    let properties = [
        byte(PAYLOAD_FORMAT_INDICATOR, 1),
        text(CONTENT_TYPE, "text/plain"),
        text(RESPONSE_TOPIC, "answer"),
        binary(CORRELATION_DATA, &[1, 0, 2]),
        user("one", "1"),
        user("two", "2"),
        user("one", "3"),
    ];
    let mut message = Message::new("kept", "value").qos(1).retain();
    message.properties = properties.to_vec();
    publisher.deliver(message);
    let mut subscriber = broker.connect(V5, "subscriber");
    let suback = subscriber.subscribe_with(&[("kept", 1)], &[subscription_identifier(7)]);
    assert_eq!(suback.codes, [1]);
    let publish = subscriber.expect("kept", "value");
    assert_eq!(publish.properties.subscription_identifiers(), [7]);
    for property in &properties[..4] {
        assert_eq!(publish.properties.find(property.id), Some(&property.value));
    }
    assert_eq!(publish.properties.user(), [("one", "1"), ("two", "2"), ("one", "3")]);
    let mut old = broker.connect(V311, "old");
    old.subscribe("kept", 1);
    old.expect("kept", "value");
}

/// [MQTT-3.3.2-6] The Message Expiry Interval of a kept message counts down, and [MQTT-3.3.2-5]
/// when it has passed the message is gone.
#[test]
fn expires() {
    let broker = broker("");
    let mut client = broker.connect(V5, "client");
    client.deliver(Message::new("short", "x").retain().with(property::message_expiry(1)));
    client.deliver(Message::new("long", "x").retain().with(property::message_expiry(100)));
    client.deliver(Message::new("ever", "x").retain());
    let_pass(Duration::from_millis(2_100));
    for filter in ["short", "ever", "long"] {
        client.subscribe(filter, 0);
    }
    assert!(!client.expect("ever", "x").properties.has(MESSAGE_EXPIRY_INTERVAL));
    let left = client.expect("long", "x").properties.number(MESSAGE_EXPIRY_INTERVAL).unwrap();
    assert!((80..=98).contains(&left), "{left}");
    client.expect_nothing();
}

/// One store for all shards: whoever retains, whoever asks; and what comes later is never older.
fn is_one_store_for_all_shards(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let mut clients: Vec<_> = (0..6).map(|n| broker.connect(V5, &format!("client-{n}"))).collect();
    for round in 0..5 {
        for n in 0..clients.len() {
            let value = format!("{round}/{n}");
            clients[n].publish_retained("one/value", &value, 1);
            let asks = (n + 1) % clients.len();
            let asker = &mut clients[asks];
            asker.subscribe("one/value", 0);
            assert!(asker.expect("one/value", &value).retain);
            asker.unsubscribe(&["one/value"]);
        }
    }
    clients[0].publish_retained("one/value", "", 1);
    for client in &mut clients {
        client.subscribe("one/value", 0);
        client.expect_nothing();
    }
}
shards!(is_one_store_for_all_shards);

/// A subscription may bring more messages than fit a window: all come.
fn sends_many(shards: u16) {
    const COUNT: usize = 1_500;
    let broker = broker_with_shards(shards, "");
    let mut publisher = broker.connect(V311, "publisher");
    for n in 0..COUNT {
        publisher.start_publish(Message::new(&format!("many/{n}"), n.to_string()).retain());
    }
    publisher.publish_retained("many/last", "end", 1);
    for qos in [0, 1] {
        let mut subscriber = broker.connect(V311, &format!("subscriber-{qos}"));
        subscriber.subscribe("many/#", qos);
        let mut topics: Vec<String> = (0..=COUNT).map(|_| subscriber.receive().topic).collect();
        topics.sort_unstable();
        topics.dedup();
        assert_eq!(topics.len(), COUNT + 1);
        subscriber.expect_nothing();
    }
}
shards!(sends_many);

/// Configuration `retained.max_messages`: what finds the store full is refused (0x97) and delivered to
/// nobody, so that whoever sends it once more is not heard twice; replacing and clearing still work.
fn refuses_what_finds_the_store_full(shards: u16) {
    let broker =
        broker_with_shards(shards, "[retained]\nmax_messages = 2\n[sys]\ninterval = \"0s\"");
    let mut watcher = broker.connect(V5, "watcher");
    watcher.subscribe("kept/#", 2);
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish_retained("kept/1", "x", 1);
    publisher.publish_retained("kept/2", "x", 1);
    for qos in [1, 2] {
        let third = Message::new("kept/3", "x").qos(qos).retain();
        assert_eq!(publisher.try_publish(third), code::QUOTA_EXCEEDED);
    }
    publisher.publish_retained("kept/2", "y", 1);
    publisher.publish_retained("kept/1", "", 1);
    let third = Message::new("kept/3", "x").qos(2).retain();
    assert_eq!(publisher.try_publish(third), code::SUCCESS);
    for (topic, payload) in [("1", "x"), ("2", "x"), ("2", "y"), ("1", ""), ("3", "x")] {
        watcher.expect(&format!("kept/{topic}"), payload);
    }
    watcher.expect_nothing_from(&mut publisher);
}
shards!(refuses_what_finds_the_store_full);

/// 3.x knows no refusal: its publisher is closed. [MQTT-4.3.3-2] What it sends again in its session is
/// delivered once.
fn closes_who_finds_the_store_full(version: Version) {
    let broker = broker("[retained]\nmax_messages = 1");
    let mut watcher = broker.connect(V5, "watcher");
    watcher.subscribe("kept/#", 2);
    let connect = Connect::lasting(version, "publisher");
    let (mut publisher, _) = broker.connect_with(&connect);
    publisher.publish_retained("kept/1", "x", 1);
    for qos in [1, 2] {
        let message = Message::new("kept/2", qos.to_string()).qos(qos).retain().id(7);
        publisher.start_publish(message.clone());
        publisher.expect_closed();
        (publisher, _) = broker.connect_with(&connect);
        publisher.start_publish(message.dup());
        publisher.expect_closed();
        (publisher, _) = broker.connect_with(&connect);
    }
    publisher.publish_retained("kept/1", "", 1);
    publisher.deliver(Message::new("kept/2", "2").qos(2).retain().id(7));
    for (topic, payload) in [("1", "x"), ("1", ""), ("2", "2")] {
        watcher.expect(&format!("kept/{topic}"), payload);
    }
    watcher.expect_nothing_from(&mut publisher);
}
versions!(closes_who_finds_the_store_full, 3.x);

/// [MQTT-3.3.5-1] Who prefers success to the truth (`overflow.v3_publisher = "acknowledge"`) is told that, and
/// the subscribers get what is not retained. A v5 publisher is told the truth.
fn delivers_what_finds_the_store_full_if_it_is_acknowledged(version: Version) {
    let toml = "[retained]\nmax_messages = 1\n[overflow]\nv3_publisher = \"acknowledge\"\n\
                [sys]\ninterval = \"1s\"";
    let broker = broker_with_shards(3, toml);
    let mut watchers = ["a", "b", "c", "d"].map(|name| broker.connect(V5, name));
    for watcher in &mut watchers {
        watcher.subscribe("kept/#", 2);
    }
    let mut publisher = broker.connect(version, "publisher");
    publisher.publish_retained("kept/1", "x", 1);
    for qos in [1, 2] {
        publisher.publish_retained("kept/2", qos.to_string(), qos);
        publisher.publish_retained("nobody", qos.to_string(), qos);
    }
    let mut v5 = broker.connect(V5, "v5");
    let third = Message::new("kept/2", "3").qos(1).retain();
    assert_eq!(v5.try_publish(third), code::QUOTA_EXCEEDED);
    for watcher in &mut watchers {
        for (topic, payload) in [("kept/1", "x"), ("kept/2", "1"), ("kept/2", "2")] {
            watcher.expect(topic, payload);
        }
        watcher.expect_nothing_from(&mut publisher);
    }
    let mut late = broker.connect(V5, "late");
    late.subscribe("#", 2);
    late.expect("kept/1", "x");
    late.expect_nothing_from(&mut publisher);
    crate::sys_topics::expect_drops(&mut late, &[("not_retained", 5)]);
}
versions!(delivers_what_finds_the_store_full_if_it_is_acknowledged, 3.x);

/// QoS 0 knows no answer: it is delivered, and not retained, which is counted.
#[test]
fn delivers_qos_0_that_finds_the_store_full() {
    let broker = broker("[retained]\nmax_messages = 1\n[sys]\ninterval = \"1s\"");
    let mut client = broker.connect(V5, "client");
    client.subscribe("kept/#", 0);
    client.publish_retained("kept/1", "x", 0);
    client.publish_retained("kept/2", "x", 0);
    client.expect("kept/1", "x");
    client.expect("kept/2", "x");
    client.subscribe("kept/2", 0);
    client.expect_nothing_from_itself();
    crate::sys_topics::expect_drops(&mut client, &[("not_retained", 1)]);
}

/// Section 3.2.2.3.5: without Retain Available such a message is a protocol error, 0x9A.
#[test]
fn may_be_switched_off() {
    let broker = broker("[mqtt]\nretain_available = false");
    let (mut client, connack) = broker.connect_with(&crate::common::Connect::new(V5, "client"));
    assert_eq!(connack.properties.number(RETAIN_AVAILABLE), Some(0));
    client.publish("t", "not retained", 1);
    client.start_publish(Message::new("t", "retained").retain());
    client.expect_disconnect(&[code::RETAIN_NOT_SUPPORTED]);
    // [MQTT-3.2.2-13]
    let will = crate::common::Will::new("w", "x").retain();
    let connect = crate::common::Connect::new(V5, "will").will(will);
    let (mut client, connack) = crate::common::Client::connect(broker.address(), &connect);
    assert_eq!(connack.code, code::RETAIN_NOT_SUPPORTED);
    client.expect_closed();
}

/// A QoS 2 retained message is delivered by the QoS 2 flow.
#[test]
fn delivers_at_qos_2_exactly_once() {
    let broker = broker("");
    let mut client = broker.connect(V5, "client");
    client.publish_retained("kept", "value", 2);
    client.subscribe("kept", 2);
    let publish = client.take_publish();
    assert_eq!(publish.qos, 2);
    client.send_ack(crate::common::wire::PUBREC, publish.id);
    assert!(matches!(client.next(), Packet::PubRel(ack) if ack.id == publish.id));
    client.send_ack(crate::common::wire::PUBCOMP, publish.id);
    client.expect_nothing();
}
