//! Sessions: present, resumed, taken over, expired (sections 3.1.2.4, 3.1.2.11.2, 4.1, 4.4).

use std::time::Duration;

use crate::common::cases::{shards, versions};
use crate::common::client::disconnect;
use crate::common::property::{self, *};
use crate::common::wire;
use crate::common::{
    Broker, Client, Connect, Message, Packet, V5, V31, V311, Version, broker, broker_with_shards,
    code, let_pass,
};

/// Resumes `id`'s session; before 3.1.1 there is no Session Present to look at.
fn resume(broker: &Broker, version: Version, id: &str) -> (Client, bool) {
    let (client, connack) = broker.connect_with(&Connect::lasting(version, id));
    (client, connack.session_present || version == V31)
}

/// [MQTT-3.1.2-5], [MQTT-3.2.2-3] A session is resumed with its subscriptions, and what came
/// meanwhile at QoS 1 and 2 is delivered, in order; [MQTT-4.5.0-1] the queue is part of it.
fn resumes_with_subscriptions_and_queue(version: Version) {
    let broker = broker("");
    let (mut client, connack) = broker.connect_with(&Connect::lasting(version, "client"));
    assert!(!connack.session_present, "[MQTT-3.1.2-6]");
    client.subscribe("t/+", 2);
    client.disconnect();
    let mut publisher = broker.connect(version, "publisher");
    for n in 0..10 {
        publisher.publish(&format!("t/{n}"), n.to_string(), 1 + n % 2);
    }
    let (mut client, present) = resume(&broker, version, "client");
    assert!(present);
    for n in 0..10 {
        let publish = client.expect(&format!("t/{n}"), n.to_string());
        assert_eq!((publish.qos, publish.dup), (1 + n % 2, false));
    }
    client.expect_nothing();
    publisher.publish("t/live", "x", 0);
    client.expect("t/live", "x");
}
versions!(resumes_with_subscriptions_and_queue);

/// The same over shards.
fn resumes_on_every_shard(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let ids: Vec<String> = (0..8).map(|n| format!("client-{n}")).collect();
    for id in &ids {
        let (mut client, _) = broker.connect_with(&Connect::lasting(V311, id));
        client.subscribe("t", 1);
        client.disconnect();
    }
    let mut publisher = broker.connect(V311, "publisher");
    for n in 0..20 {
        publisher.publish("t", n.to_string(), 1);
    }
    for id in &ids {
        let (mut client, present) = resume(&broker, V311, id);
        assert!(present);
        for n in 0..20 {
            client.expect("t", n.to_string());
        }
        client.expect_nothing();
    }
}
shards!(resumes_on_every_shard);

/// [MQTT-3.1.2-4], [MQTT-3.2.2-2] Clean Start ends an old session: no subscriptions, no queue.
fn starts_clean(version: Version) {
    let broker = broker("");
    let (mut client, _) = broker.connect_with(&Connect::lasting(version, "client"));
    client.subscribe("t", 1);
    client.disconnect();
    let mut publisher = broker.connect(version, "publisher");
    publisher.publish("t", "lost", 1);
    let (mut client, connack) = broker.connect_with(&Connect::new(version, "client"));
    assert!(!connack.session_present);
    client.expect_nothing_from(&mut publisher);
    publisher.publish("t", "lost", 1);
    client.expect_nothing_from(&mut publisher);
    client.disconnect();
    let (mut client, connack) = broker.connect_with(&Connect::lasting(version, "client"));
    assert!(!connack.session_present);
    publisher.publish("t", "lost", 1);
    client.expect_nothing_from(&mut publisher);
}
versions!(starts_clean);

/// (3.1.1) [MQTT-3.1.2-6], [MQTT-4.1.0-2] A clean session, in version 5 one with Session Expiry
/// Interval 0 or none, ends with its connection, however that ends.
fn ends_with_the_connection(version: Version) {
    let broker = broker("");
    let end: [fn(Client); 2] = [Client::disconnect, Client::hang_up];
    for end in end {
        let (mut client, _) = broker.connect_with(&Connect::new(version, "client"));
        client.subscribe("t", 1);
        end(client);
        let (_, connack) = broker.connect_with(&Connect::new(version, "client").resume());
        assert!(!connack.session_present);
        broker.connect(version, "client").disconnect();
    }
}
versions!(ends_with_the_connection);

/// [MQTT-4.4.0-1] What was not acknowledged comes again with DUP and its own identifiers, in order:
/// PUBLISH before PUBREC, PUBREL after.
fn sends_unacknowledged_again(version: Version) {
    let broker = broker("");
    let (mut client, _) = broker.connect_with(&Connect::lasting(version, "client"));
    client.subscribe("t", 2);
    let mut publisher = broker.connect(version, "publisher");
    for (n, qos) in [1, 2, 2, 1, 2].into_iter().enumerate() {
        publisher.publish("t", n.to_string(), qos);
    }
    let sent: Vec<_> = (0..5).map(|_| client.take_publish()).collect();
    // The third is received, not yet released.
    client.send_ack(wire::PUBREC, sent[2].id);
    client.wait_pubrel(sent[2].id);
    // The fourth is done.
    client.send_ack(wire::PUBACK, sent[3].id);
    client.ping();
    client.hang_up();
    let (mut client, present) = resume(&broker, version, "client");
    assert!(present);
    let mut released = false;
    let mut again = Vec::new();
    for _ in 0..4 {
        match client.next() {
            Packet::Publish(publish) => again.push(publish),
            Packet::PubRel(ack) => {
                assert_eq!(ack.id, sent[2].id);
                released = true;
            }
            other => panic!("unexpected {other:?}"),
        }
    }
    assert!(released);
    for (publish, first) in again.iter().zip([&sent[0], &sent[1], &sent[4]]) {
        assert!(publish.dup, "[MQTT-3.3.1-1]");
        assert_eq!((publish.id, publish.qos), (first.id, first.qos));
        assert_eq!(publish.payload, first.payload);
    }
    client.send_ack(wire::PUBCOMP, sent[2].id);
    for publish in &again {
        client.acknowledge(publish);
    }
    client.expect_nothing();
    client.disconnect();
    let (mut client, _) = resume(&broker, version, "client");
    client.expect_nothing();
}
versions!(sends_unacknowledged_again);

/// [MQTT-4.3.3-10], section 4.1: the broker remembers received QoS 2 identifiers over a reconnect,
/// so that a repeated PUBLISH is not delivered twice.
fn remembers_received_qos_2_identifiers(version: Version) {
    let broker = broker("");
    let mut subscriber = broker.connect(version, "subscriber");
    subscriber.subscribe("t", 2);
    let (mut publisher, _) = broker.connect_with(&Connect::lasting(version, "publisher"));
    publisher.start_publish(Message::new("t", "once").qos(2).id(11));
    publisher.wait_pubrec(11);
    publisher.hang_up();
    let (mut publisher, present) = resume(&broker, version, "publisher");
    assert!(present);
    publisher.start_publish(Message::new("t", "once").qos(2).id(11).dup());
    assert!(publisher.wait_pubrec(11).code < 0x80);
    publisher.hang_up();
    let (mut publisher, _) = resume(&broker, version, "publisher");
    publisher.send_ack(wire::PUBREL, 11);
    assert_eq!(publisher.wait_pubcomp(11).code, code::SUCCESS);
    subscriber.expect("t", "once");
    subscriber.expect_nothing_from(&mut publisher);
    // Released: the identifier is free for a new message.
    publisher.deliver(Message::new("t", "new").qos(2).id(11));
    subscriber.expect("t", "new");
}
versions!(remembers_received_qos_2_identifiers);

/// A new session knows nothing of the identifiers of the old one.
fn forgets_identifiers_with_the_session(version: Version) {
    let broker = broker("");
    let mut subscriber = broker.connect(version, "subscriber");
    subscriber.subscribe("t", 2);
    let (mut publisher, _) = broker.connect_with(&Connect::lasting(version, "publisher"));
    publisher.start_publish(Message::new("t", "one").qos(2).id(11));
    publisher.wait_pubrec(11);
    publisher.hang_up();
    let mut publisher = broker.connect(version, "publisher");
    publisher.deliver(Message::new("t", "two").qos(2).id(11));
    let mut last = subscriber.receive();
    // Whether the first went on at its receipt or never was released is the broker's choice.
    if last.payload_text() == "one" {
        last = subscriber.receive();
    }
    assert_eq!(last.payload_text(), "two");
    subscriber.expect_nothing_from(&mut publisher);
}
versions!(forgets_identifiers_with_the_session);

/// [MQTT-3.1.4-3], (3.1.1) [MQTT-3.1.4-2] A second connection with the same id takes the session
/// over: the first is closed, in version 5 with 0x8E, and its flows go on in the new one.
fn takes_over(version: Version) {
    let broker = broker_with_shards(3, "");
    let (mut old, _) = broker.connect_with(&Connect::lasting(version, "client"));
    old.subscribe("t", 2);
    let mut publisher = broker.connect(version, "publisher");
    publisher.publish("t", "0", 2);
    publisher.publish("t", "1", 1);
    let first = old.take_publish();
    let second = old.take_publish();
    let (mut new, present) = resume(&broker, version, "client");
    assert!(present);
    old.expect_disconnect(&[code::SESSION_TAKEN_OVER]);
    let again = new.receive();
    assert_eq!((again.id, again.dup), (first.id, true));
    let again = new.receive();
    assert_eq!((again.id, again.dup), (second.id, true));
    publisher.publish("t", "2", 1);
    assert!(!new.expect("t", "2").dup);
    new.expect_nothing();
}
versions!(takes_over);

/// A takeover by a client of another version, clean or not, closes the old one as well.
#[test]
fn takes_over_across_versions() {
    let broker = broker("");
    for old_version in Version::ALL {
        for new_version in Version::ALL {
            let mut old = broker.connect(old_version, "client");
            let mut new = broker.connect(new_version, "client");
            old.expect_disconnect(&[code::SESSION_TAKEN_OVER]);
            new.ping();
            new.disconnect();
        }
    }
}

/// Many takeovers in a row leave one connection and lose nothing.
fn survives_takeovers_in_a_row(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let connect = Connect::lasting(V5, "client");
    let (mut client, _) = broker.connect_with(&connect);
    client.subscribe("t", 1);
    let mut publisher = broker.connect(V5, "publisher");
    for n in 0..30 {
        publisher.publish("t", n.to_string(), 1);
        let (mut next, connack) = broker.connect_with(&connect);
        assert!(connack.session_present);
        next.expect("t", n.to_string());
        next.ping();
        client = next;
    }
    client.expect_nothing();
}
shards!(survives_takeovers_in_a_row);

/// Connections that race for one id: one is left, all the others are closed.
fn lets_one_of_racing_connections_win(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let mut racers: Vec<Client> = (0..20).map(|_| broker.open(V311)).collect();
    for racer in &mut racers {
        racer.send(&Connect::new(V311, "racer").bytes());
    }
    let alive = racers
        .into_iter()
        .filter_map(|mut racer| racer.survives().then_some(racer))
        .collect::<Vec<_>>();
    // A racer may have answered before it was taken over; then it is closed by now.
    let left = alive.into_iter().filter_map(|mut racer| racer.survives().then_some(())).count();
    assert_eq!(left, 1);
}
shards!(lets_one_of_racing_connections_win);

/// [MQTT-3.1.2-23], [MQTT-4.1.0-2] A session outlives its connection for its Session Expiry
/// Interval, and no longer.
#[test]
fn expires_after_its_interval() {
    let broker = broker("");
    let make = |id: &str, expiry: u32| {
        let connect = Connect::new(V5, id).with(property::session_expiry(expiry));
        let (mut client, _) = broker.connect_with(&connect);
        client.subscribe("t", 1);
        client.hang_up();
    };
    make("short", 1);
    make("long", 60);
    make("ever", 0xFFFF_FFFF);
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish("t", "x", 1);
    let_pass(Duration::from_millis(2_200));
    for (id, present) in [("short", false), ("long", true), ("ever", true)] {
        let (mut client, connack) = broker.connect_with(&Connect::new(V5, id).resume());
        assert_eq!(connack.session_present, present, "{id}");
        if present {
            client.expect("t", "x");
        }
        client.expect_nothing();
        client.disconnect();
        // Without an interval of its own the connection ends the session.
        let (_, connack) = broker.connect_with(&Connect::new(V5, id).resume());
        assert!(!connack.session_present, "{id}");
    }
    let lonely = Message::new("t", "x").qos(1);
    assert_eq!(publisher.try_publish(lonely), code::NO_MATCHING_SUBSCRIBERS);
}

/// Section 3.14.2.2.2: DISCONNECT may set another Session Expiry Interval.
#[test]
fn takes_a_new_expiry_in_disconnect() {
    let broker = broker("");
    let connect = Connect::new(V5, "client").with(property::session_expiry(60)).resume();
    // Ended at once.
    let (client, _) = broker.connect_with(&connect);
    client.disconnect_with(code::SUCCESS, &[session_expiry(0)]);
    let (client, connack) = broker.connect_with(&connect);
    assert!(!connack.session_present);
    // Longer.
    client.disconnect_with(code::SUCCESS, &[session_expiry(3600)]);
    let (client, connack) = broker.connect_with(&connect);
    assert!(connack.session_present);
    // Shorter.
    client.disconnect_with(code::SUCCESS, &[session_expiry(1)]);
    let_pass(Duration::from_millis(2_200));
    let (client, connack) = broker.connect_with(&connect);
    assert!(!connack.session_present);
    // Not named: the one of CONNECT holds.
    client.disconnect_with(code::SUCCESS, &[]);
    let (_, connack) = broker.connect_with(&connect);
    assert!(connack.session_present);
}

/// Section 3.14.2.2.2: a session that was to end with its connection cannot be prolonged; a
/// protocol error.
#[test]
fn refuses_to_prolong_a_session_without_expiry() {
    let broker = broker("");
    for connect in [Connect::new(V5, "none"), Connect::new(V5, "zero").with(session_expiry(0))] {
        let (mut client, _) = broker.connect_with(&connect);
        client.send(&crate::common::client::disconnect(0, &[session_expiry(10)]));
        client.expect_disconnect(&[code::PROTOCOL_ERROR]);
        let (_, connack) = broker.connect_with(&connect.resume());
        assert!(!connack.session_present);
    }
    let connect = Connect::new(V5, "fine").with(session_expiry(0));
    broker.connect_with(&connect).0.disconnect_with(0, &[session_expiry(0)]);
}

/// Section 3.14.2.1: a DISCONNECT that is refused for its Reason Code sets no Session Expiry Interval.
#[test]
fn takes_no_expiry_of_a_refused_disconnect() {
    let broker = broker("");
    let connect = Connect::lasting(V5, "client");
    let (mut client, _) = broker.connect_with(&connect);
    client.send(&disconnect(code::SERVER_SHUTTING_DOWN, &[session_expiry(0)]));
    client.expect_disconnect(&[code::PROTOCOL_ERROR]);
    assert!(broker.connect_with(&connect).1.session_present);
}

/// Section 3.2.2.3.2: a server that keeps sessions for less than asked says so.
#[test]
fn states_a_lower_expiry() {
    let broker = broker("[mqtt]\nmax_session_expiry = \"1s\"");
    for (asked, told) in [(600, Some(1)), (0xFFFF_FFFF, Some(1)), (1, None), (0, None)] {
        let id = format!("client-{asked}");
        let (client, connack) =
            broker.connect_with(&Connect::new(V5, &id).with(session_expiry(asked)));
        let stated = connack.properties.number(SESSION_EXPIRY_INTERVAL);
        assert!(stated == told || told.is_none() && stated == Some(asked), "{asked}: {stated:?}");
        client.hang_up();
    }
    let_pass(Duration::from_millis(2_200));
    let (_, connack) = broker.connect_with(&Connect::new(V5, "client-600").resume());
    assert!(!connack.session_present);
}

/// `mqtt.v3_session_expiry` bounds the sessions of clients that cannot name an interval.
#[test]
fn expires_older_sessions_as_configured() {
    let broker = broker("[mqtt]\nv3_session_expiry = \"1s\"");
    for version in [V31, V311] {
        broker.connect_with(&Connect::lasting(version, &format!("{version:?}"))).0.disconnect();
    }
    let (_, connack) = broker.connect_with(&Connect::lasting(V311, "V311"));
    assert!(connack.session_present);
    let_pass(Duration::from_millis(2_200));
    let (_, connack) = broker.connect_with(&Connect::lasting(V311, "V31"));
    assert!(!connack.session_present);
}

/// A session made by one version may be resumed by another.
#[test]
fn resumes_across_versions() {
    let broker = broker("");
    let mut publisher = broker.connect(V5, "publisher");
    for from in Version::ALL {
        for to in [V311, V5] {
            let id = format!("{from:?}-{to:?}");
            let (mut client, _) = broker.connect_with(&Connect::lasting(from, &id));
            client.subscribe(&id, 1);
            client.disconnect();
            publisher.publish(&id, "x", 1);
            let (mut client, connack) = broker.connect_with(&Connect::lasting(to, &id));
            assert!(connack.session_present, "{id}");
            client.expect(&id, "x");
        }
    }
}

/// [MQTT-4.1.0-1], (3.1.1) [MQTT-4.1.0-2] A session is not discarded while its connection is open,
/// whatever its interval.
fn lives_while_it_is_connected(version: Version) {
    let broker = broker("[mqtt]\nv3_session_expiry = \"1s\"");
    let connect = match version {
        V5 => Connect::new(V5, "client").with(session_expiry(1)).resume(),
        V31 | V311 => Connect::lasting(version, "client"),
    };
    let (mut client, _) = broker.connect_with(&connect);
    client.subscribe("t", 1);
    // A timer of an earlier connection must not end the resumed session.
    client.hang_up();
    let (mut client, connack) = broker.connect_with(&connect);
    assert_eq!(connack.session_present, version != V31);
    let_pass(Duration::from_millis(2_200));
    client.publish("t", "still", 1);
    client.expect("t", "still");
}
versions!(lives_while_it_is_connected);

/// Unsubscribing is part of the session: it holds after a resume.
fn keeps_the_subscriptions_as_they_were(version: Version) {
    let broker = broker("");
    let (mut client, _) = broker.connect_with(&Connect::lasting(version, "client"));
    client.subscribe("gone", 1);
    client.subscribe("changed", 2);
    client.subscribe("changed", 1);
    client.unsubscribe(&["gone"]);
    client.disconnect();
    let (mut client, _) = resume(&broker, version, "client");
    let mut publisher = broker.connect(version, "publisher");
    publisher.publish("gone", "x", 1);
    publisher.publish("changed", "x", 2);
    assert_eq!(client.expect("changed", "x").qos, 1);
    client.expect_nothing_from(&mut publisher);
}
versions!(keeps_the_subscriptions_as_they_were);

/// A resume brings no retained messages: nothing was subscribed anew (section 3.8.4).
fn resumes_without_retained_messages(version: Version) {
    let broker = broker("");
    let (mut client, _) = broker.connect_with(&Connect::lasting(version, "client"));
    client.publish_retained("t", "kept", 1);
    client.subscribe("t", 1);
    client.expect("t", "kept");
    client.disconnect();
    let (mut client, present) = resume(&broker, version, "client");
    assert!(present);
    client.expect_nothing();
}
versions!(resumes_without_retained_messages);
