//! Will Messages (sections 3.1.2.5, 3.1.3.2).

use std::time::{Duration, Instant};

use crate::common::cases::{shards, versions};
use crate::common::property::{self, *};
use crate::common::wire::{self, packet};
use crate::common::{
    Broker, Client, Connect, V5, V31, V311, Version, Will, broker, broker_with_shards, code,
};

fn watcher(broker: &Broker, version: Version) -> Client {
    let mut client = broker.connect(version, "watcher");
    client.subscribe("will/#", 2);
    client
}

/// No will of `id` is outstanding: a further client's end is told first.
fn expect_no_will(broker: &Broker, watcher: &mut Client) {
    let connect = Connect::new(watcher.version, "marker").will(Will::new("will/marker", ""));
    broker.connect_with(&connect).0.hang_up();
    watcher.expect("will/marker", "");
}

/// [MQTT-3.1.2-8] A connection that breaks publishes its will, at each QoS.
fn follows_a_broken_connection(version: Version) {
    let broker = broker("");
    let mut watcher = watcher(&broker, version);
    for qos in 0..=2 {
        let will = Will::new(&format!("will/{qos}"), "broken").qos(qos);
        broker.connect_with(&Connect::new(version, "client").will(will)).0.hang_up();
        let publish = watcher.expect(&format!("will/{qos}"), "broken");
        assert_eq!((publish.qos, publish.retain, publish.dup), (qos, false, false));
    }
    // [MQTT-3.1.2-10] Published once.
    broker.connect(version, "client").hang_up();
    expect_no_will(&broker, &mut watcher);
}
versions!(follows_a_broken_connection);

/// The same over shards.
fn reaches_every_shard(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let mut watchers: Vec<_> = (0..6)
        .map(|n| {
            let mut client = broker.connect(V311, &format!("watcher-{n}"));
            client.subscribe("will/+", 1);
            client
        })
        .collect();
    for n in 0..4 {
        let topic = format!("will/{n}");
        let connect = Connect::new(V5, &format!("client-{n}")).will(Will::new(&topic, "x").qos(1));
        broker.connect_with(&connect).0.hang_up();
        for watcher in &mut watchers {
            watcher.expect(&topic, "x");
        }
    }
}
shards!(reaches_every_shard);

/// [MQTT-3.14.4-3] DISCONNECT, in version 5 with Reason Code 0x00, discards it.
fn is_discarded_by_disconnect(version: Version) {
    let broker = broker("");
    let mut watcher = watcher(&broker, version);
    let connect = Connect::new(version, "client").will(Will::new("will/client", "no"));
    broker.connect_with(&connect).0.disconnect();
    if version.is_v5() {
        broker.connect_with(&connect).0.disconnect_with(code::SUCCESS, &[]);
    }
    expect_no_will(&broker, &mut watcher);
}
versions!(is_discarded_by_disconnect);

/// Section 3.14.2.1: DISCONNECT with 0x04, or with any other Reason Code but 0x00, publishes it.
#[test]
fn follows_a_disconnect_with_will() {
    let broker = broker("");
    let mut watcher = watcher(&broker, V5);
    for reason in [
        code::DISCONNECT_WITH_WILL,
        code::UNSPECIFIED_ERROR,
        code::MALFORMED_PACKET,
        code::ADMINISTRATIVE_ACTION,
    ] {
        let topic = format!("will/{reason}");
        let connect = Connect::new(V5, "client").will(Will::new(&topic, "yes"));
        broker.connect_with(&connect).0.disconnect_with(reason, &[]);
        watcher.expect(&topic, "yes");
    }
}

/// [MQTT-3.1.2-15] With Will Retain it is retained, [MQTT-3.1.2-14] without it is not.
fn is_retained_as_asked(version: Version) {
    let broker = broker("");
    let mut watcher = watcher(&broker, version);
    for will in [Will::new("will/kept", "x").qos(1).retain(), Will::new("will/gone", "x").qos(1)] {
        let topic = will.topic.clone();
        broker.connect_with(&Connect::new(version, "client").will(will)).0.hang_up();
        assert!(!watcher.expect(&topic, "x").retain);
    }
    watcher.unsubscribe(&["will/#"]);
    watcher.subscribe("will/#", 1);
    assert!(watcher.expect("will/kept", "x").retain);
    watcher.expect_nothing();
}
versions!(is_retained_as_asked);

/// Section 3.1.2.5: a will with an empty payload is published as such.
fn may_be_empty(version: Version) {
    let broker = broker("");
    let mut watcher = watcher(&broker, version);
    let connect = Connect::new(version, "client").will(Will::new("will/empty", ""));
    broker.connect_with(&connect).0.hang_up();
    watcher.expect("will/empty", "");
}
versions!(may_be_empty);

/// Section 3.1.2.5: a connection the server closes for an error publishes it.
fn follows_a_protocol_error(version: Version) {
    let broker = broker("");
    let mut watcher = watcher(&broker, version);
    let connect = Connect::new(version, "client").will(Will::new("will/error", "x"));
    let (mut client, _) = broker.connect_with(&connect);
    // SUBSCRIBE without a filter.
    let body: &[u8] = if version.is_v5() { &[0, 1, 0] } else { &[0, 1] };
    client.send(&packet(wire::SUBSCRIBE, body));
    client.expect_disconnect(&[code::PROTOCOL_ERROR, code::MALFORMED_PACKET]);
    watcher.expect("will/error", "x");
}
versions!(follows_a_protocol_error);

/// [MQTT-3.1.2-22], section 3.1.2.5: silence beyond the keep alive publishes it.
fn follows_a_keep_alive_timeout(version: Version) {
    let broker = broker("");
    let mut watcher = watcher(&broker, version);
    let connect = Connect::new(version, "client").keep_alive(1).will(Will::new("will/silent", "x"));
    let (mut client, _) = broker.connect_with(&connect);
    watcher.expect("will/silent", "x");
    client.expect_disconnect(&[code::KEEP_ALIVE_TIMEOUT]);
}
versions!(follows_a_keep_alive_timeout);

/// [MQTT-3.1.4-3], section 3.1.4: the connection that was taken over is closed, so its will is
/// published.
fn follows_a_takeover(version: Version) {
    let broker = broker("");
    let mut watcher = watcher(&broker, version);
    let connect = Connect::new(version, "client").will(Will::new("will/old", "x"));
    let (mut old, _) = broker.connect_with(&connect);
    let mut new = broker.connect(version, "client");
    old.expect_disconnect(&[code::SESSION_TAKEN_OVER]);
    watcher.expect("will/old", "x");
    new.ping();
}
versions!(follows_a_takeover);

/// [MQTT-3.1.3-9] A delayed will is not sent when the session is taken over and goes on;
/// it is, when Clean Start ends the session (section 3.1.4).
#[test]
fn minds_its_delay_in_a_takeover() {
    let broker = broker("");
    let mut watcher = watcher(&broker, V5);
    let connect = Connect::lasting(V5, "client")
        .will(Will::new("will/delayed", "x").with(property::will_delay(3600)));
    let (mut first, _) = broker.connect_with(&connect);
    let (mut second, connack) = broker.connect_with(&connect);
    first.expect_disconnect(&[code::SESSION_TAKEN_OVER]);
    assert!(connack.session_present);
    expect_no_will(&broker, &mut watcher);
    let _third = broker.connect(V5, "client");
    second.expect_disconnect(&[code::SESSION_TAKEN_OVER]);
    watcher.expect("will/delayed", "x");
}

/// [MQTT-3.1.2-8] The Will Delay Interval passes before the will is sent.
#[test]
fn waits_for_its_delay() {
    let broker = broker("");
    let mut watcher = watcher(&broker, V5);
    let will = Will::new("will/delayed", "x").with(property::will_delay(1));
    let connect = Connect::new(V5, "client").with(property::session_expiry(60)).will(will);
    let (client, _) = broker.connect_with(&connect);
    let start = Instant::now();
    client.hang_up();
    expect_no_will(&broker, &mut watcher);
    let publish = watcher.expect("will/delayed", "x");
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(950), "after {took:?}");
    assert!(took < Duration::from_secs(4), "after {took:?}");
    assert!(!publish.properties.has(WILL_DELAY_INTERVAL));
}

/// [MQTT-3.1.3-9] A client that comes back before the delay has passed cancels its will.
#[test]
fn is_cancelled_by_a_resume() {
    let broker = broker("");
    let mut watcher = watcher(&broker, V5);
    let will = Will::new("will/cancelled", "x").with(property::will_delay(1));
    let connect = Connect::new(V5, "client").with(property::session_expiry(60)).will(will);
    broker.connect_with(&connect).0.hang_up();
    let (_client, connack) =
        broker.connect_with(&Connect::new(V5, "client").resume().with(session_expiry(60)));
    assert!(connack.session_present);
    // A will with the same delay, of a client that left later, is what comes first.
    let will = Will::new("will/later", "x").with(property::will_delay(1));
    let later = Connect::new(V5, "later").with(property::session_expiry(60)).will(will);
    broker.connect_with(&later).0.hang_up();
    watcher.expect("will/later", "x");
    watcher.expect_nothing();
}

/// Section 3.1.3.2.2: the will comes when the session ends, if that is before its delay.
#[test]
fn follows_the_end_of_its_session() {
    let broker = broker("");
    let mut watcher = watcher(&broker, V5);
    let delayed = |id: &str| {
        let will = Will::new(&format!("will/{id}"), "x").with(property::will_delay(3600));
        Connect::new(V5, id).will(will)
    };
    // Session Expiry Interval 0: the session ends with its connection.
    broker.connect_with(&delayed("at-once")).0.hang_up();
    watcher.expect("will/at-once", "x");
    // The session expires.
    broker.connect_with(&delayed("expires").with(session_expiry(1))).0.hang_up();
    watcher.expect("will/expires", "x");
    // Clean Start ends it.
    broker.connect_with(&delayed("cleaned").with(session_expiry(3600))).0.hang_up();
    expect_no_will(&broker, &mut watcher);
    broker.connect(V5, "cleaned").disconnect();
    watcher.expect("will/cleaned", "x");
    // DISCONNECT with will ends it.
    let (client, _) = broker.connect_with(&delayed("ended").with(session_expiry(3600)));
    client.disconnect_with(code::DISCONNECT_WITH_WILL, &[session_expiry(0)]);
    watcher.expect("will/ended", "x");
}

/// Section 3.1.3.2: the Will Properties go along; the Will Delay Interval does not.
#[test]
fn carries_its_properties() {
    let broker = broker("");
    let mut watcher = watcher(&broker, V5);
    let will = Will::new("will/all", "text")
        .qos(1)
        .with(byte(PAYLOAD_FORMAT_INDICATOR, 1))
        .with(property::message_expiry(60))
        .with(text(CONTENT_TYPE, "text/plain"))
        .with(text(RESPONSE_TOPIC, "answers"))
        .with(binary(CORRELATION_DATA, &[9, 0]))
        .with(user("b", "1"))
        .with(user("a", "2"))
        .with(property::will_delay(0));
    broker.connect_with(&Connect::new(V5, "client").will(will)).0.hang_up();
    let properties = watcher.expect("will/all", "text").properties;
    assert_eq!(properties.number(PAYLOAD_FORMAT_INDICATOR), Some(1));
    assert!(
        properties.number(MESSAGE_EXPIRY_INTERVAL).is_some_and(|left| (50..=60).contains(&left))
    );
    assert_eq!(properties.text(CONTENT_TYPE), Some("text/plain"));
    assert_eq!(properties.text(RESPONSE_TOPIC), Some("answers"));
    assert_eq!(properties.binary(CORRELATION_DATA), Some(&[9, 0][..]));
    assert_eq!(properties.user(), [("b", "1"), ("a", "2")]);
}

/// [MQTT-3.1.2-7] A will waits with its client's session for an absent subscriber.
#[test]
fn is_queued_for_an_absent_subscriber() {
    let broker = broker("");
    let absent = Connect::lasting(V311, "absent");
    let (mut subscriber, _) = broker.connect_with(&absent);
    subscriber.subscribe("will/+", 1);
    subscriber.disconnect();
    let mut watcher = watcher(&broker, V31);
    let connect = Connect::new(V31, "client").will(Will::new("will/queued", "x").qos(1));
    broker.connect_with(&connect).0.hang_up();
    watcher.expect("will/queued", "x");
    let (mut subscriber, _) = broker.connect_with(&absent);
    assert_eq!(subscriber.expect("will/queued", "x").qos, 1);
}
