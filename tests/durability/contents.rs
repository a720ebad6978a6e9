//! What a subscription and a message have besides comes back, too; and a message is there once.

use crate::common::property::{
    CONTENT_TYPE, CORRELATION_DATA, PAYLOAD_FORMAT_INDICATOR, Property, RESPONSE_TOPIC, binary,
    byte, receive_maximum, subscription_identifier, text, user,
};
use crate::common::{Client, Connect, Message, V5};
use crate::offline::store;
use crate::process::{Broker, engines};

/// Subscription Options (3.8.3.1), to be added to a QoS.
const NO_LOCAL: u8 = 0x04;
const RETAIN_AS_PUBLISHED: u8 = 0x08;
const RETAIN_IF_NEW: u8 = 0x10;

fn here(broker: &Broker) -> Client {
    broker.connect_with(&Connect::lasting(V5, "client")).0
}

/// What was acknowledged before this is stored, too.
fn commit(client: &mut Client) {
    client.subscribe("commit", 0);
}

/// What comes next: its topic, whether it says to be retained, and by which subscriptions it came.
#[track_caller]
fn expect(client: &mut Client, topic: &str, retain: bool, identifiers: &[u32]) {
    let publish = client.receive();
    let found = publish.properties.subscription_identifiers();
    assert_eq!((publish.topic.as_str(), publish.retain, &found[..]), (topic, retain, identifiers));
}

/// [MQTT-3.8.3-3] [MQTT-3.3.1-10] [MQTT-3.3.1-12] [MQTT-3.3.1-13] [MQTT-3.3.4-3]
fn subscription_options(mut broker: Broker) {
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish_retained("new/r", "x", 1);
    let mut client = here(&broker);
    for (filter, options, identifier) in [
        ("own", 1 | NO_LOCAL, 7),
        ("as-published/#", 1 | RETAIN_AS_PUBLISHED, 268_435_455),
        ("+/#", 1, 1),
        ("new/r", 1 | RETAIN_IF_NEW, 3),
    ] {
        client.subscribe_with(&[(filter, options)], &[subscription_identifier(identifier)]);
    }
    expect(&mut client, "new/r", true, &[1]);
    expect(&mut client, "new/r", true, &[3]);
    commit(&mut client);
    broker.restart();

    // Absent: what it has queued.
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish_retained("as-published/a", "x", 1);
    publisher.publish_retained("plain/a", "x", 1);
    broker.restart();
    let mut client = here(&broker);
    expect(&mut client, "as-published/a", true, &[1, 268_435_455]);
    expect(&mut client, "plain/a", false, &[1]);

    // Present.
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish_retained("as-published/b", "x", 1);
    publisher.publish_retained("plain/b", "x", 1);
    expect(&mut client, "as-published/b", true, &[1, 268_435_455]);
    expect(&mut client, "plain/b", false, &[1]);
    client.unsubscribe(&["+/#"]);
    client.publish("own", "its own", 1);
    publisher.publish("own", "another's", 1);
    let publish = client.receive();
    assert_eq!(publish.payload_text(), "another's");
    assert_eq!(publish.properties.subscription_identifiers(), [7]);

    // The subscription is there: it is not a new one.
    client.subscribe_with(&[("new/r", 1 | RETAIN_IF_NEW)], &[]);
    client.expect_nothing();
    client.subscribe_with(&[("new/+", 1 | RETAIN_IF_NEW)], &[]);
    expect(&mut client, "new/r", true, &[]);
    client.expect_nothing();
}
engines!(subscription_options);

fn properties(n: u8) -> Vec<Property> {
    vec![
        byte(PAYLOAD_FORMAT_INDICATOR, 1),
        text(CONTENT_TYPE, "text/plain; charset=utf-8"),
        text(RESPONSE_TOPIC, "answers/\u{1F600}"),
        binary(CORRELATION_DATA, &[0, 255, n]),
        user("a", "1"),
        user("b", ""),
        user("a", &n.to_string()),
    ]
}

/// [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-17] [MQTT-3.3.2-18] [MQTT-3.3.2-20]
fn properties_of_messages(mut broker: Broker) {
    let is_whole = |client: &mut Client, n: u8| {
        let publish = client.take_publish();
        assert_eq!(publish.payload, [b'0' + n]);
        let mut found = publish.properties.0.clone();
        // Only the order of User Properties means something.
        found.sort_by_key(|property| property.id);
        let mut sent = properties(n);
        sent.sort_by_key(|property| property.id);
        assert_eq!(found, sent, "message {n}");
        publish
    };
    let message = |n: u8| {
        let message = Message::new("t", [b'0' + n]).qos(1 + n % 2);
        properties(n).into_iter().fold(message, Message::with)
    };
    let mut client = here(&broker);
    client.subscribe("t", 2);
    let mut publisher = broker.connect(V5, "publisher");
    publisher.deliver(message(9).retain());
    is_whole(&mut client, 9);
    client.disconnect();
    // More than there is room for in memory.
    for n in 0..6 {
        publisher.deliver(message(n));
    }
    broker.restart();
    let few = Connect::lasting(V5, "client").with(receive_maximum(3));
    let mut client = broker.connect_with(&few).0;
    for n in [9, 0, 1] {
        is_whole(&mut client, n);
    }
    // Some are in flight now, the others queued.
    commit(&mut client);
    broker.restart();
    let mut client = here(&broker);
    for n in [9, 0, 1, 2, 3, 4, 5] {
        let publish = is_whole(&mut client, n);
        assert_eq!(publish.dup, [9, 0, 1].contains(&n), "message {n}");
    }
    let mut late = broker.connect(V5, "late");
    late.subscribe("t", 1);
    assert!(is_whole(&mut late, 9).retain);
}
engines!(properties_of_messages);

/// Each message is on disk once, and beside it a place in each queue.
#[test]
fn a_message_is_stored_once_for_all_who_wait() {
    const SESSIONS: usize = 40;
    for engine in ["fjall", "sqlite"] {
        let mut broker = Broker::start(engine, 4);
        let connect = |broker: &Broker, n| {
            broker.connect_with(&Connect::lasting(V5, &format!("client {n}"))).0
        };
        for n in 0..SESSIONS {
            let mut client = connect(&broker, n);
            client.subscribe("t", 2);
            client.disconnect();
        }
        let mut publisher = broker.connect(V5, "publisher");
        for n in 0..10 {
            publisher.publish("t", n.to_string(), 1 + n % 2);
        }
        broker.kill();
        let (status, dump, _) = store(&["dump"], &[broker.data()]);
        let count = |record: &str| {
            let begin = format!("{{\"record\":\"{record}\"");
            dump.lines().filter(|line| line.starts_with(&begin)).count()
        };
        assert_eq!((status, count("session"), count("queued")), (0, SESSIONS, 10 * SESSIONS));
        assert_eq!(count("message"), 10, "{engine}");
        broker.restart();
        for n in [0, SESSIONS - 1] {
            let mut client = connect(&broker, n);
            for n in 0..10 {
                client.expect("t", n.to_string());
            }
            client.expect_nothing();
        }
    }
}
