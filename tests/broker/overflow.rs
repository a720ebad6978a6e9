//! Queues and what happens when they are full (`[overflow]`), of clients that are connected or not.

use crate::common::cases::{shards, versions};
use crate::common::property;
use crate::common::{
    Broker, Client, Connect, Message, V5, V311, Version, broker, broker_with_shards, code,
};
use crate::sys_topics::expect_drops;

fn number(payload: &[u8]) -> usize {
    std::str::from_utf8(payload).unwrap().parse().unwrap()
}

// Queues of absent clients.

fn absent(broker: &Broker, filter: &str) -> Connect {
    let connect = Connect::lasting(V5, "absent");
    let (mut client, _) = broker.connect_with(&connect);
    client.subscribe(filter, 2);
    client.disconnect();
    connect
}

fn publish_numbers(publisher: &mut Client, count: usize) -> Vec<u8> {
    (0..count)
        .map(|n| publisher.try_publish(Message::new("t", n.to_string()).qos(1 + (n % 2) as u8)))
        .collect()
}

fn expect_numbers(client: &mut Client, numbers: impl IntoIterator<Item = usize>) {
    for n in numbers {
        assert_eq!(number(&client.receive().payload), n);
    }
    client.expect_nothing();
}

/// `overflow.offline = "drop_newest"`, the default: what finds the queue full is not kept, and a v5
/// publisher is told 0x97.
fn drops_the_newest_of_an_absent_client(shards: u16) {
    let broker = broker_with_shards(shards, "[queue]\nmax_messages = 4");
    let connect = absent(&broker, "t");
    let mut publisher = broker.connect(V5, "publisher");
    let codes = publish_numbers(&mut publisher, 10);
    assert_eq!(codes[..4], [code::SUCCESS; 4]);
    assert_eq!(codes[4..], [code::QUOTA_EXCEEDED; 6]);
    let (mut client, _) = broker.connect_with(&connect);
    expect_numbers(&mut client, 0..4);
}
shards!(drops_the_newest_of_an_absent_client);

/// `overflow.offline = "drop_oldest"`: the last ones are kept, and their publisher has success.
fn drops_the_oldest_of_an_absent_client(shards: u16) {
    let toml = "[queue]\nmax_messages = 4\n[overflow]\noffline = \"drop_oldest\"";
    let broker = broker_with_shards(shards, toml);
    let connect = absent(&broker, "t");
    let mut publisher = broker.connect(V5, "publisher");
    assert_eq!(publish_numbers(&mut publisher, 10), [code::SUCCESS; 10]);
    let (mut client, _) = broker.connect_with(&connect);
    expect_numbers(&mut client, 6..10);
}
shards!(drops_the_oldest_of_an_absent_client);

/// `overflow.offline = "end_session"`: the session ends, with its subscriptions. What it had is lost, and
/// counted.
fn ends_the_session_of_an_absent_client(shards: u16) {
    let toml = "[queue]\nmax_messages = 4\n[overflow]\noffline = \"end_session\"\n\
                [sys]\ninterval = \"1s\"";
    let broker = broker_with_shards(shards, toml);
    let connect = absent(&broker, "t");
    let mut publisher = broker.connect(V5, "publisher");
    let codes = publish_numbers(&mut publisher, 10);
    assert_eq!(codes[..4], [code::SUCCESS; 4]);
    assert_ne!(codes[4], code::SUCCESS, "nobody kept it");
    assert_eq!(codes[5..], [code::NO_MATCHING_SUBSCRIBERS; 5]);
    let (mut client, connack) = broker.connect_with(&connect);
    assert!(!connack.session_present);
    client.expect_nothing();
    expect_drops(&mut publisher, &[("session_ended", 4)]);
}
shards!(ends_the_session_of_an_absent_client);

/// A message that one session can keep is a success, whatever the others do.
fn succeeds_if_anyone_keeps_it(shards: u16) {
    let broker = broker_with_shards(shards, "[queue]\nmax_messages = 2");
    let connect = absent(&broker, "t");
    let mut present = broker.connect(V5, "present");
    present.subscribe("t", 2);
    let mut publisher = broker.connect(V5, "publisher");
    for n in 0..5 {
        let message = Message::new("t", n.to_string()).qos(1);
        assert_eq!(publisher.try_publish(message), code::SUCCESS);
        present.expect("t", n.to_string());
    }
    present.disconnect();
    let message = Message::new("t", "x").qos(2);
    assert_eq!(publisher.try_publish(message), code::QUOTA_EXCEEDED);
    let (mut client, _) = broker.connect_with(&connect);
    expect_numbers(&mut client, 0..2);
}
shards!(succeeds_if_anyone_keeps_it);

/// That it is retained makes no success of what its subscribers could not keep; of what nobody is
/// subscribed to, it does.
fn retaining_is_not_keeping(shards: u16) {
    let broker = broker_with_shards(shards, "[queue]\nmax_messages = 1");
    let connect = absent(&broker, "t");
    // On three shards, publishers that are at home on each.
    let mut publishers: Vec<_> =
        (0..6).map(|n| broker.connect(V5, &format!("publisher-{n}"))).collect();
    publishers[0].publish("t", "0", 1);
    for publisher in &mut publishers {
        for qos in [1, 2] {
            let retained = |topic: &str| Message::new(topic, "1").qos(qos).retain();
            assert_eq!(publisher.try_publish(retained("t")), code::QUOTA_EXCEEDED);
            assert_eq!(publisher.try_publish(retained("other")), code::SUCCESS);
        }
    }
    let (mut client, _) = broker.connect_with(&connect);
    expect_numbers(&mut client, 0..1);
    client.subscribe("t", 1);
    assert!(client.expect("t", "1").retain);
}
shards!(retaining_is_not_keeping);

/// A subscription of QoS 0 asks nobody to keep anything: that it misses a message is no failure.
fn a_qos_0_subscription_keeps_nothing(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let (mut client, _) = broker.connect_with(&Connect::lasting(V5, "absent"));
    client.subscribe("t", 0);
    client.disconnect();
    for n in 0..6 {
        let mut publisher = broker.connect(V5, &format!("publisher-{n}"));
        assert_eq!(publisher.try_publish(Message::new("t", "x").qos(1)), code::SUCCESS);
    }
}
shards!(a_qos_0_subscription_keeps_nothing);

/// Nor does one whose messages wait in memory for who is away, as far as there is room.
fn a_full_queue_at_qos_0_is_no_failure(version: Version) {
    for filter in ["t", "$share/g/t"] {
        let toml = "[queue]\nmax_messages = 2\nstore_qos0_offline = true";
        let broker = broker_with_shards(2, toml);
        let connect = Connect::lasting(V5, "absent");
        let (mut client, _) = broker.connect_with(&connect);
        client.subscribe_with(&[(filter, 0)], &[property::subscription_identifier(7)]);
        client.disconnect();
        let mut publisher = broker.connect(version, "publisher");
        for n in 0..4 {
            publisher.publish("t", n.to_string(), 1 + n % 2);
        }
        let (mut client, _) = broker.connect_with(&connect);
        expect_numbers(&mut client, 0..2);
    }
}
versions!(a_full_queue_at_qos_0_is_no_failure);

/// [MQTT-4.3.3-9] After a PUBREC of 0x80 or more the identifier is free, and the message a new one.
#[test]
fn takes_a_refused_qos_2_message_again() {
    let broker = broker("[queue]\nmax_messages = 1");
    let connect = absent(&broker, "t");
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish("t", "0", 2);
    let again = || Message::new("t", "1").qos(2).id(50);
    assert_eq!(publisher.try_publish(again()), code::QUOTA_EXCEEDED);
    let (mut client, _) = broker.connect_with(&connect);
    client.expect("t", "0");
    assert_eq!(publisher.try_publish(again()), code::SUCCESS);
    client.expect("t", "1");
}

/// 3.x knows no refusal: a publisher whose message nobody could keep is not told success, it is
/// closed, and may send again.
fn gives_older_publishers_no_false_success(version: Version) {
    let broker = broker("[queue]\nmax_messages = 2");
    let connect = absent(&broker, "t");
    for qos in [1, 2] {
        let mut publisher = broker.connect(version, "publisher");
        if qos == 1 {
            publisher.publish("t", "0", 1);
            publisher.publish("t", "1", 2);
        }
        publisher.start_publish(Message::new("t", "2").qos(qos));
        publisher.expect_closed();
    }
    let (mut client, _) = broker.connect_with(&connect);
    expect_numbers(&mut client, 0..2);
    let mut publisher = broker.connect(version, "publisher");
    publisher.publish("t", "2", 1);
    client.expect("t", "2");
}
versions!(gives_older_publishers_no_false_success, 3.x);

/// `overflow.v3_publisher = "acknowledge"`: a 3.x publisher is told success for what was dropped,
/// wherever the full queue is; a v5 publisher is told the truth all the same.
fn acknowledges_what_it_drops_if_told(version: Version) {
    let toml = "[queue]\nmax_messages = 2\n[overflow]\nv3_publisher = \"acknowledge\"";
    let broker = broker_with_shards(3, toml);
    let connect = absent(&broker, "t");
    // Three shards, and publishers that are at home on each of them.
    for n in 0..9 {
        let mut publisher = broker.connect(version, &format!("publisher-{n}"));
        for qos in [1, 2] {
            publisher.publish("t", if n == 0 { ["0", "1"][qos - 1] } else { "late" }, qos as u8);
        }
        publisher.ping();
    }
    let mut v5 = broker.connect(V5, "v5");
    for qos in [1, 2] {
        assert_eq!(v5.try_publish(Message::new("t", "late").qos(qos)), code::QUOTA_EXCEEDED);
    }
    let (mut client, _) = broker.connect_with(&connect);
    expect_numbers(&mut client, 0..2);
    client.expect_nothing();
}
versions!(acknowledges_what_it_drops_if_told, 3.x);

/// `queue.max_bytes` bounds the queue as well.
#[test]
fn bounds_the_queue_in_bytes() {
    let broker = broker(
        "[limits]\nmax_packet_size = \"2KiB\"\nmax_topic_bytes = \"1KiB\"\n\
         [queue]\nmax_bytes = \"16KiB\"",
    );
    let connect = absent(&broker, "t");
    let mut publisher = broker.connect(V5, "publisher");
    let codes: Vec<u8> = (0..40)
        .map(|n| publisher.try_publish(Message::new("t", format!("{n:01000}")).qos(1)))
        .collect();
    let kept = codes.iter().filter(|code| **code == code::SUCCESS).count();
    assert!((10..=16).contains(&kept), "{kept} of 1,000 bytes in 16 KiB");
    assert!(codes[kept..].iter().all(|code| *code == code::QUOTA_EXCEEDED));
    let (mut client, _) = broker.connect_with(&connect);
    expect_numbers(&mut client, 0..kept);
}

/// QoS 0 is not for absent clients, unless `queue.store_qos0_offline` says so.
fn keeps_qos_0_only_if_told(version: Version) {
    for (toml, kept) in [("", false), ("[queue]\nstore_qos0_offline = true", true)] {
        let broker = broker(toml);
        let connect = Connect::lasting(version, "absent");
        let (mut client, _) = broker.connect_with(&connect);
        client.subscribe("t/#", 1);
        client.disconnect();
        let mut publisher = broker.connect(version, "publisher");
        publisher.publish("t/0", "x", 0);
        publisher.publish("t/1", "y", 1);
        let (mut client, _) = broker.connect_with(&connect);
        if kept {
            assert_eq!(client.expect("t/0", "x").qos, 0);
        }
        client.expect("t/1", "y");
        client.expect_nothing();
    }
}
versions!(keeps_qos_0_only_if_told);

// Queues of connected clients.

/// A receiver with a window of one that acknowledges nothing yet, and its publisher.
fn stuck_receiver(broker: &Broker) -> (Client, Client) {
    let connect = Connect::lasting(V5, "stuck").with(property::receive_maximum(1));
    let (mut receiver, _) = broker.connect_with(&connect);
    receiver.subscribe("t", 1);
    (receiver, broker.connect(V5, "publisher"))
}

fn start_numbers(publisher: &mut Client, count: usize) -> Vec<u16> {
    (0..count).map(|n| publisher.start_publish(Message::new("t", n.to_string()).qos(1))).collect()
}

/// Publishes, waiting for each PUBACK; returns their Reason Codes.
fn one_by_one(publisher: &mut Client, count: usize) -> Vec<u8> {
    (0..count).map(|n| publisher.try_publish(Message::new("t", n.to_string()).qos(1))).collect()
}

/// Within `overflow.patience` a full queue slows its publishers and loses nothing: a receiver that
/// is slow, but goes on, gets everything in order.
fn slows_publishers_of_a_slow_receiver(shards: u16) {
    let toml = "[queue]\nmax_messages = 5\n[overflow]\npatience = \"60s\"";
    let broker = broker_with_shards(shards, toml);
    let (mut receiver, mut publisher) = stuck_receiver(&broker);
    let ids = start_numbers(&mut publisher, 200);
    for id in &ids[..6] {
        assert_eq!(publisher.wait_puback(*id).code, code::SUCCESS);
    }
    for n in 0..200 {
        let publish = receiver.receive();
        assert_eq!(number(&publish.payload), n);
    }
    for id in &ids[6..] {
        assert_eq!(publisher.wait_puback(*id).code, code::SUCCESS);
    }
    receiver.expect_nothing();
    publisher.ping();
}
shards!(slows_publishers_of_a_slow_receiver);

/// `overflow.online = "disconnect"`, the default: when patience ends, the receiver goes (0x97), and
/// its publisher is served again; the receiver's session stays.
fn disconnects_a_receiver_that_does_not_move(shards: u16) {
    let toml = "[queue]\nmax_messages = 5\n[overflow]\npatience = \"200ms\"";
    let broker = broker_with_shards(shards, toml);
    let (mut receiver, mut publisher) = stuck_receiver(&broker);
    let ids = start_numbers(&mut publisher, 20);
    assert_eq!(receiver.take_publish().payload_text(), "0");
    receiver.expect_disconnect(&[code::QUOTA_EXCEEDED]);
    let codes: Vec<u8> = ids.iter().map(|id| publisher.wait_puback(*id).code).collect();
    let kept = codes.iter().filter(|code| **code == code::SUCCESS).count();
    assert!(kept >= 6, "what was queued stays: {codes:x?}");
    assert!(codes[kept..].iter().all(|code| *code == code::QUOTA_EXCEEDED), "{codes:x?}");
    let (mut receiver, connack) = broker.connect_with(&Connect::lasting(V5, "stuck"));
    assert!(connack.session_present);
    expect_numbers(&mut receiver, 0..kept);
}
shards!(disconnects_a_receiver_that_does_not_move);

/// `overflow.online = "drop_newest"`: when patience ends, what comes is dropped, and said to be.
fn drops_the_newest_of_a_stuck_receiver(shards: u16) {
    let toml = "[queue]\nmax_messages = 5\n\
                [overflow]\npatience = \"100ms\"\nonline = \"drop_newest\"";
    let broker = broker_with_shards(shards, toml);
    let (mut receiver, mut publisher) = stuck_receiver(&broker);
    let codes = one_by_one(&mut publisher, 12);
    let told = codes.iter().filter(|code| **code == code::SUCCESS).count();
    // One in flight, five queued; and what was on its way from another shard when it was full.
    assert!((6..=7).contains(&told), "{codes:x?}");
    assert!(codes[told..].iter().all(|code| *code == code::QUOTA_EXCEEDED), "{codes:x?}");
    expect_numbers(&mut receiver, 0..told);
}
shards!(drops_the_newest_of_a_stuck_receiver);

/// `overflow.online = "drop_oldest"`: when patience ends, what waits longest makes room.
fn drops_the_oldest_of_a_stuck_receiver(shards: u16) {
    let toml = "[queue]\nmax_messages = 5\n\
                [overflow]\npatience = \"100ms\"\nonline = \"drop_oldest\"";
    let broker = broker_with_shards(shards, toml);
    let (mut receiver, mut publisher) = stuck_receiver(&broker);
    assert_eq!(one_by_one(&mut publisher, 16), [code::SUCCESS; 16]);
    assert_eq!(receiver.receive().payload_text(), "0", "it was in flight");
    let first = number(&receiver.receive().payload);
    // As above: one more may have been on its way.
    assert!((10..=11).contains(&first), "{first} was not dropped");
    expect_numbers(&mut receiver, first + 1..16);
}
shards!(drops_the_oldest_of_a_stuck_receiver);

/// A slowed publisher slows nobody else: others publish and receive meanwhile.
fn slows_only_the_publishers_of_the_full_queue(shards: u16) {
    let toml = "[queue]\nmax_messages = 5\n[overflow]\npatience = \"60s\"";
    let broker = broker_with_shards(shards, toml);
    let (mut receiver, mut publisher) = stuck_receiver(&broker);
    let ids = start_numbers(&mut publisher, 50);
    publisher.wait_puback(ids[5]);
    for n in 0..6 {
        let mut other = broker.connect(V311, &format!("other-{n}"));
        other.subscribe("elsewhere", 2);
        for qos in 0..=2 {
            other.publish("elsewhere", "x", qos);
            other.expect("elsewhere", "x");
        }
        other.disconnect();
    }
    // A slowed publisher that goes takes nothing with it.
    publisher.hang_up_unread();
    receiver.subscribe("end", 0);
    receiver.ping();
}
shards!(slows_only_the_publishers_of_the_full_queue);

/// QoS 0 to a reader that does not read is dropped beyond `queue.qos0_backlog_bytes`; the order of
/// what comes through is kept, its publisher is not slowed, and others get everything.
fn drops_qos_0_of_a_slow_reader(shards: u16) {
    const COUNT: usize = 700;
    let toml = "[limits]\nmax_packet_size = \"64KiB\"\n\
                [queue]\nqos0_backlog_bytes = \"64KiB\"\nmax_bytes = \"1MiB\"\n\
                [sys]\ninterval = \"1s\"";
    let broker = broker_with_shards(shards, toml);
    let mut slow = broker.connect(V311, "slow");
    slow.subscribe("t", 0);
    slow.subscribe("end", 1);
    let mut quick = broker.connect(V311, "quick");
    quick.subscribe("t", 0);
    let mut publisher = broker.connect(V311, "publisher");
    for n in 0..COUNT {
        // Far more in all than the buffers of both sockets hold.
        let payload = format!("{n:020000}");
        publisher.publish("t", &payload, 0);
        assert_eq!(number(&quick.take_publish().payload), n);
    }
    publisher.ping();
    publisher.publish("end", "x", 1);
    let mut last = None;
    let mut count = 0;
    loop {
        let publish = slow.receive();
        if publish.topic == "end" {
            break;
        }
        let n = number(&publish.payload);
        assert!(last < Some(n), "{n} after {last:?}");
        last = Some(n);
        count += 1;
    }
    assert!(count < COUNT, "nothing was dropped");
    publisher.publish("t", "4711", 0);
    assert_eq!(number(&slow.take_publish().payload), 4711);
    let dropped = u32::try_from(COUNT - count).expect("it is small");
    expect_drops(&mut publisher, &[("slow_reader", dropped)]);
}
shards!(drops_qos_0_of_a_slow_reader);

/// What a client sends while its own window is full of unacknowledged messages is served: no
/// circle of waiting.
fn does_not_deadlock_on_echo(version: Version) {
    let broker = broker("[queue]\nmax_messages = 5\n[overflow]\npatience = \"30s\"");
    let mut client = broker.connect(version, "echo");
    client.subscribe("t", 1);
    for n in 0..50 {
        client.publish("t", n.to_string(), 1);
        assert_eq!(number(&client.receive().payload), n);
    }
    client.expect_nothing();
}
versions!(does_not_deadlock_on_echo);

/// `overflow.offline = "drop_oldest"`: a message that would not fit an empty queue costs no other its
/// place.
#[test]
fn drops_nothing_for_what_cannot_fit() {
    let toml = "[limits]\nmax_packet_size = \"8KiB\"\n[queue]\nmax_bytes = \"8KiB\"\n\
                [overflow]\noffline = \"drop_oldest\"";
    let broker = broker(toml);
    let connect = absent(&broker, "t");
    let mut publisher = broker.connect(V5, "publisher");
    publish_numbers(&mut publisher, 3);
    let large = Message::new("t", vec![b'x'; 8_180]).qos(1);
    assert_eq!(publisher.try_publish(large), code::QUOTA_EXCEEDED);
    let (mut client, _) = broker.connect_with(&connect);
    expect_numbers(&mut client, 0..3);
}
