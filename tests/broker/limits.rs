//! The limits of `[limits]` and `[mqtt]`: what is beyond is told, and costs nobody else.

use std::time::{Duration, Instant};

use crate::common::cases::versions;
use crate::common::client::{subscribe, unsubscribe};
use crate::common::property::{self, user};
use crate::common::wire::{self, packet};
use crate::common::{
    Client, Connect, Event, Message, V5, V31, V311, Version, Will, broker, broker_with_shards, code,
};

/// [MQTT-3.2.2-15] A packet of the stated size is served; a larger one gets 0x95 as soon as its
/// length is seen.
fn packet_size(version: Version) {
    let broker = broker("[limits]\nmax_packet_size = \"8KiB\"");
    let (mut client, connack) = broker.connect_with(&Connect::new(version, "client"));
    if version.is_v5() {
        let stated = connack.properties.number(property::MAXIMUM_PACKET_SIZE);
        assert_eq!(stated, Some(8192));
    }
    client.subscribe("t", 0);
    let overhead = Message::new("t", vec![0; 1000]).bytes(version).len() - 1000;
    let exact = vec![b'x'; 8192 - overhead];
    assert_eq!(Message::new("t", &exact).bytes(version).len(), 8192);
    client.publish("t", &exact, 0);
    client.expect("t", &exact);
    // The fixed header of 8,193 bytes, and nothing behind it.
    client.send(&[wire::PUBLISH, 0xFE, 0x3F]);
    client.expect_disconnect(&[code::PACKET_TOO_LARGE]);
    let mut client = broker.connect(version, "client");
    client.send(&[wire::PUBLISH, 0xFF, 0xFF, 0xFF, 0x7F]);
    client.expect_disconnect(&[code::PACKET_TOO_LARGE]);
}
versions!(packet_size);

/// The limit holds for CONNECT as well.
fn packet_size_of_connect(version: Version) {
    let broker = broker("[limits]\nmax_packet_size = \"8KiB\"");
    let will = Will::new("w", &"x".repeat(9_000));
    let mut client = broker.open(version);
    client.send_lossy(&Connect::new(version, "c").will(will).bytes());
    client.expect_refused_connect(&[code::PACKET_TOO_LARGE]);
}
versions!(packet_size_of_connect);

/// `max_topic_bytes` and `max_topic_levels`: 0x90 for a name, 0x8F (3.x: 0x80) for a filter.
fn topics(version: Version) {
    let broker = broker("[limits]\nmax_topic_bytes = \"40B\"\nmax_topic_levels = 5");
    let refusal = if version.is_v5() { code::TOPIC_FILTER_INVALID } else { 0x80 };
    let long = "x".repeat(40);
    let mut client = broker.connect(version, "client");
    for fine in [long.as_str(), "1/2/3/4/5", "////"] {
        client.subscribe(fine, 1);
        client.publish(fine, "x", 1);
        client.expect(fine, "x");
    }
    let too_long = "x".repeat(41);
    for bad in [too_long.as_str(), "1/2/3/4/5/6", "/////"] {
        assert_eq!(client.subscribe_with(&[(bad, 0), ("fine", 0)], &[]).codes, [refusal, 0]);
        let mut publisher = broker.connect(version, "publisher");
        publisher.start_publish(Message::new(bad, "x"));
        publisher.expect_disconnect(&[code::TOPIC_NAME_INVALID]);
        let connect = Connect::new(version, "will").will(Will::new(bad, "x"));
        let mut refused = broker.open(version);
        refused.send(&connect.bytes());
        refused.expect_refused_connect(&[code::TOPIC_NAME_INVALID]);
    }
    client.ping();
}
versions!(topics, from 3.1.1);

/// `max_user_properties`: 0x97.
#[test]
fn user_properties() {
    let broker = broker("[limits]\nmax_user_properties = 3");
    let with = |count: usize| {
        let mut message = Message::new("t", "x").qos(1).id(1);
        message.properties.extend((0..count).map(|n| user("name", &n.to_string())));
        message
    };
    let mut client = broker.connect(V5, "client");
    client.subscribe("t", 1);
    client.deliver(with(3));
    assert_eq!(client.expect("t", "x").properties.user().len(), 3);
    client.send(&with(4).bytes(V5));
    client.expect_disconnect(&[code::QUOTA_EXCEEDED]);
    let mut connect = Connect::new(V5, "client");
    connect.properties.extend((0..4).map(|_| user("a", "b")));
    let mut client = broker.open(V5);
    client.send(&connect.bytes());
    client.expect_refused_connect(&[code::QUOTA_EXCEEDED]);
}

/// `max_filters_per_packet`: 0x97.
fn filters_per_packet(version: Version) {
    let broker = broker("[limits]\nmax_filters_per_packet = 3");
    let mut client = broker.connect(version, "client");
    let four = [("a", 0), ("b", 0), ("c", 0), ("d", 0)];
    assert_eq!(client.subscribe_with(&four[..3], &[]).codes, [0; 3]);
    client.unsubscribe(&["a", "b", "c"]);
    client.send(&subscribe(version, 9, &four, &[]));
    client.expect_disconnect(&[code::QUOTA_EXCEEDED]);
    let mut client = broker.connect(version, "client");
    client.send(&unsubscribe(version, 9, &["a", "b", "c", "d"]));
    client.expect_disconnect(&[code::QUOTA_EXCEEDED]);
}
versions!(filters_per_packet);

/// `max_subscriptions_per_client`: 0x97 (3.x: 0x80) in SUBACK for what is too many; replacing one
/// takes no room, unsubscribing gives room.
fn subscriptions_per_client(version: Version) {
    let broker = broker("[limits]\nmax_subscriptions_per_client = 3");
    let refusal = if version.is_v5() { code::QUOTA_EXCEEDED } else { 0x80 };
    let mut client = broker.connect(version, "client");
    let four = [("a", 0), ("b/+", 1), ("$share/g/c", 1), ("d", 0)];
    assert_eq!(client.subscribe_with(&four, &[]).codes, [0, 1, 1, refusal]);
    assert_eq!(client.subscribe_with(&[("b/+", 2), ("e", 0)], &[]).codes, [2, refusal]);
    client.unsubscribe(&["a"]);
    assert_eq!(client.subscribe_with(&[("d", 1), ("e", 0)], &[]).codes, [1, refusal]);
    client.publish("d", "x", 1);
    client.publish("e", "y", 1);
    client.expect("d", "x");
    client.expect_nothing();
    // Each client has its own.
    broker.connect(version, "other").subscribe("other", 1);
}
versions!(subscriptions_per_client, from 3.1.1);

/// `max_subscriptions`: over all shards, 0x97 (3.x: 0x80) for what is too many. A subscription that ends,
/// by UNSUBSCRIBE or with its session, gives room; replacing one takes none.
fn subscriptions_of_all(version: Version) {
    let broker = broker_with_shards(3, "[limits]\nmax_subscriptions = 4");
    let refusal = if version.is_v5() { code::QUOTA_EXCEEDED } else { 0x80 };
    let mut clients: Vec<_> =
        (0..4).map(|n| broker.connect(version, &format!("client-{n}"))).collect();
    for client in &mut clients {
        assert_eq!(client.subscribe_with(&[("a/+", 1)], &[]).codes, [1]);
    }
    for client in &mut clients {
        let two = [("a/+", 2), ("$share/g/b", 0)];
        assert_eq!(client.subscribe_with(&two, &[]).codes, [2, refusal]);
    }
    clients[0].unsubscribe(&["a/+", "never there"]);
    assert_eq!(clients[1].subscribe_with(&[("b", 1), ("c", 1)], &[]).codes, [1, refusal]);
    clients.remove(1).disconnect();
    let mut again = broker.connect(version, "client-1");
    assert_eq!(again.subscribe_with(&[("b", 0), ("c", 0), ("d", 0)], &[]).codes, [0, 0, refusal]);
}
versions!(subscriptions_of_all, from 3.1.1);

/// `max_subscription_bytes`: over all shards, 0x97 (3.x: 0x80) for a filter that might take more; a
/// shorter one has room.
fn subscription_bytes(version: Version) {
    let broker = broker_with_shards(2, "[limits]\nmax_subscription_bytes = \"16KiB\"");
    let refusal = if version.is_v5() { code::QUOTA_EXCEEDED } else { 0x80 };
    let deep = |n| format!("{n}{}", "/level".repeat(100));
    let mut clients: Vec<_> = (0..4).map(|n| broker.connect(version, &format!("c{n}"))).collect();
    let codes: Vec<_> =
        (0..8).map(|n| clients[n % 4].subscribe_with(&[(&deep(n), 1)], &[]).codes[0]).collect();
    let granted = codes.iter().filter(|&&code| code == 1).count();
    assert!((1..4).contains(&granted), "{codes:?}");
    assert!(codes[granted..].iter().all(|&code| code == refusal), "{codes:?}");
    // What it has already takes nothing more.
    assert_eq!(clients[0].subscribe_with(&[(&deep(0), 2), ("short", 1)], &[]).codes, [2, 1]);
    clients[0].unsubscribe(&[&deep(0)]);
    assert_eq!(clients[0].subscribe_with(&[(&deep(9), 1)], &[]).codes, [1]);
}
versions!(subscription_bytes, from 3.1.1);

/// `max_connect_size`: 0x95, without a word in 3.x; as soon as the length and the version are there.
fn connect_size(version: Version) {
    let broker = broker("[limits]\nmax_connect_size = \"200B\"");
    let connect = |len: usize| {
        let will = Will::new("will", &"x".repeat(len));
        Connect::new(version, "client").will(will).bytes()
    };
    let most = (0..200).rfind(|&len| connect(len).len() <= 200).expect("small ones fit");
    let mut client = broker.open(version);
    client.send(&connect(most));
    assert_eq!(client.connack().code, code::SUCCESS);
    let larger = connect(most + 1);
    for sent in [vec![&larger[..20]], larger.chunks(1).take(20).collect()] {
        let mut client = broker.open(version);
        for bytes in sent {
            client.send_lossy(bytes);
        }
        client.expect_refused_connect(&[code::PACKET_TOO_LARGE]);
    }
    client.ping();
}
versions!(connect_size);

/// `max_client_id_bytes`: 0x85, 3.x return code 2.
fn client_ids(version: Version) {
    let broker = broker("[limits]\nmax_client_id_bytes = \"30B\"");
    broker.connect(version, &"x".repeat(30)).ping();
    let connect = Connect::new(version, &"x".repeat(31));
    let (mut client, connack) = Client::connect(broker.address(), &connect);
    let refusal = if version.is_v5() { code::CLIENT_IDENTIFIER_NOT_VALID } else { 2 };
    assert_eq!(connack.code, refusal);
    client.expect_closed();
}
versions!(client_ids, from 3.1.1);

/// `mqtt.allow_zero_length_client_id = false`: 0x85, 3.x return code 2.
fn zero_length_client_ids(version: Version) {
    let broker = broker("[mqtt]\nallow_zero_length_client_id = false");
    let (mut client, connack) = Client::connect(broker.address(), &Connect::new(version, ""));
    let refusal = if version.is_v5() { code::CLIENT_IDENTIFIER_NOT_VALID } else { 2 };
    assert_eq!(connack.code, refusal);
    client.expect_closed();
}
versions!(zero_length_client_ids);

/// `mqtt.max_qos`: stated; a message above it gets 0x9B, a subscription is granted less
/// [MQTT-3.2.2-10], a will above it is refused [MQTT-3.2.2-12].
#[test]
fn qos() {
    for maximum in [0, 1] {
        let broker = broker(&format!("[mqtt]\nmax_qos = {maximum}"));
        let (mut client, connack) = broker.connect_with(&Connect::new(V5, "client"));
        let stated = connack.properties.number(property::MAXIMUM_QOS);
        assert_eq!(stated, Some(u32::from(maximum)));
        for asked in 0..=2 {
            let suback = client.subscribe_with(&[("t", asked)], &[]);
            assert_eq!(suback.codes, [asked.min(maximum)]);
        }
        client.publish("t", "x", maximum);
        assert_eq!(client.expect("t", "x").qos, maximum);
        client.start_publish(Message::new("t", "x").qos(maximum + 1));
        client.expect_disconnect(&[code::QOS_NOT_SUPPORTED]);
        let will = Will::new("w", "x").qos(maximum + 1);
        let mut client = broker.open(V5);
        client.send(&Connect::new(V5, "will").will(will).bytes());
        client.expect_refused_connect(&[code::QOS_NOT_SUPPORTED]);
    }
}

/// `max_connections`, over all shards: one more is closed at once; when one goes there is room.
#[test]
fn connections() {
    let broker = broker_with_shards(3, "[limits]\nmax_connections = 4");
    let mut clients: Vec<Client> =
        (0..4).map(|n| broker.connect(V311, &format!("client-{n}"))).collect();
    for n in 0..3 {
        let mut extra = broker.open(V311);
        extra.send_lossy(&Connect::new(V311, &format!("extra-{n}")).bytes());
        extra.expect_closed();
    }
    for client in &mut clients {
        client.ping();
    }
    clients.pop().unwrap().disconnect();
    // The place is free when the broker has closed; it may take note a moment later.
    until_accepted(|| {
        let mut client = broker.open(V5);
        client.send_lossy(&Connect::new(V5, "next").bytes());
        client.event() != Event::Closed
    });
}

/// Tries again for a while, for what is free "at once", but on another thread.
fn until_accepted(mut attempt: impl FnMut() -> bool) {
    let until = Instant::now() + Duration::from_secs(10);
    while !attempt() {
        assert!(Instant::now() < until, "never accepted");
        std::thread::yield_now();
    }
}

/// `max_connections` of one listener.
#[test]
fn connections_of_a_listener() {
    let broker = crate::common::fixture::broker_with_listener(2, "max_connections = 2", "");
    let mut one = broker.connect(V5, "one");
    let _two = broker.connect(V5, "two");
    let mut extra = broker.open(V5);
    extra.send_lossy(&Connect::new(V5, "extra").bytes());
    extra.expect_closed();
    one.ping();
}

/// `max_sessions`: a client that would need one more gets 0x97, 3.x return code 3; who has a
/// session is served.
#[test]
fn sessions() {
    let broker = broker("[limits]\nmax_connections = 3\nmax_sessions = 3");
    for n in 0..3 {
        let connect = Connect::lasting(V5, &format!("client-{n}"));
        broker.connect_with(&connect).0.disconnect();
    }
    for (version, refusal) in [(V5, code::QUOTA_EXCEEDED), (V311, 3), (V31, 3)] {
        let (mut client, connack) =
            Client::connect(broker.address(), &Connect::new(version, "one-more"));
        assert_eq!(connack.code, refusal);
        client.expect_closed();
    }
    let (client, connack) = broker.connect_with(&Connect::lasting(V5, "client-1"));
    assert!(connack.session_present);
    client.disconnect_with(0, &[property::session_expiry(0)]);
    broker.connect(V311, "one-more").ping();
}

/// `connections_per_second_per_address`: those beyond are closed at once; a second later there is
/// room again.
#[test]
fn connection_rate_of_an_address() {
    let broker = broker_with_shards(1, "[limits]\nconnections_per_second_per_address = 5");
    let mut accepted = 0;
    let start = Instant::now();
    for n in 0..40 {
        let mut client = broker.open(V311);
        client.send_lossy(&Connect::new(V311, &format!("client-{n}")).bytes());
        accepted += usize::from(client.event() != Event::Closed);
    }
    let seconds = start.elapsed().as_secs_f64();
    // A burst of as many as a second brings, and what came while the loop ran.
    let most = 5.0 * (seconds + 2.0);
    assert!(accepted >= 5, "{accepted} accepted");
    assert!((accepted as f64) <= most, "{accepted} accepted in {seconds} s");
    until_accepted(|| {
        let mut client = broker.open(V311);
        client.send_lossy(&Connect::new(V311, "later").bytes());
        client.event() != Event::Closed
    });
}

/// `connections_per_second`: over all shards, those beyond wait, and are all served.
#[test]
fn connection_rate() {
    // In two seconds, and before them.
    for (shards, rate, count) in [(1, 20, 50), (3, 20, 50), (3, 2, 5)] {
        let limit = format!("[limits]\nconnections_per_second = {rate}");
        let broker = broker_with_shards(shards, &limit);
        let start = Instant::now();
        let mut clients: Vec<Client> = (0..count).map(|_| broker.open(V311)).collect();
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(&Connect::new(V311, &format!("client-{n}")).bytes());
        }
        for client in &mut clients {
            assert_eq!(client.connack().code, code::SUCCESS);
        }
        let took = start.elapsed();
        let all = format!("{count} in {took:?} at {rate} a second on {shards} shards");
        assert!(took >= Duration::from_millis(990), "{all}");
    }
}

/// `connect_timeout`: a connection that says nothing, or not all, is closed; one that connected
/// in time stays.
fn time_to_connect(version: Version) {
    let broker = broker("[limits]\nconnect_timeout = \"500ms\"");
    let mut connected = broker.connect(version, "connected");
    let mut silent = broker.open(version);
    let mut slow = broker.open(version);
    let start = Instant::now();
    let bytes = Connect::new(version, "slow").bytes();
    slow.send(&bytes[..bytes.len() - 1]);
    for client in [&mut silent, &mut slow] {
        client.expect_closed();
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(400), "after {took:?}");
        assert!(took < Duration::from_secs(4), "after {took:?}");
    }
    connected.expect_nothing();
}
versions!(time_to_connect);

/// A packet that is never finished holds nobody up, and no other packet behind it counts.
fn unfinished_packets(version: Version) {
    let broker = broker("");
    let mut client = broker.connect(version, "unfinished");
    client.subscribe("t", 0);
    let bytes = Message::new("t", vec![b'x'; 500]).bytes(version);
    client.send(&bytes[..100]);
    let mut other = broker.connect(version, "other");
    other.publish("t", "fine", 0);
    client.expect("t", "fine");
    client.send(&bytes[100..]);
    client.expect("t", vec![b'x'; 500]);
    client.send(&packet(wire::PUBLISH, &[0, 1, b't'])[..3]);
    client.hang_up();
    other.ping();
}
versions!(unfinished_packets);

/// Section 4.13: an error that a PUBLISH has on any topic is not hidden by one where the client may not
/// publish.
#[test]
fn a_topic_hides_no_error() {
    let toml = "[mqtt]\nmax_qos = 1\nretain_available = false\n\
                [acl]\ndefault = \"allow\"\n\
                [[acl.rule]]\neffect = \"deny\"\naction = \"publish\"\ntopics = [\"denied\"]";
    let broker = broker(toml);
    for topic in ["t", "denied", "$SYS/x"] {
        let bad_text = property::byte(property::PAYLOAD_FORMAT_INDICATOR, 1);
        let message = || Message::new(topic, [0xFF]);
        let errors = [
            (message().qos(2), code::QOS_NOT_SUPPORTED),
            (message().retain(), code::RETAIN_NOT_SUPPORTED),
            (message().with(property::subscription_identifier(1)), code::PROTOCOL_ERROR),
            (message().with(bad_text.clone()), code::PAYLOAD_FORMAT_INVALID),
        ];
        for (message, reason) in errors {
            let mut client = broker.connect(V5, "client");
            client.start_publish(message);
            client.expect_disconnect(&[reason]);
        }
        let mut client = broker.connect(V5, "client");
        let answer = client.try_publish(message().qos(1).with(bad_text));
        assert_eq!(answer, code::PAYLOAD_FORMAT_INVALID, "{topic}");
    }
}
