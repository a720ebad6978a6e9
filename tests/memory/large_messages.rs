//! A large message is held once, however many wait for it.

use std::time::{Duration, Instant};

use crate::client::{Client, V5, V311, Version, broker, publish};
use crate::counting::{Watch, alone};

const SUBSCRIBERS: usize = 100;
const LARGE: usize = 256 * 1024;
/// What a message that waits may cost each subscriber: its place in a window, its head, buffers.
const EACH: usize = 2 * 1024;

/// Publishes one large message to subscribers that do not read, looks at what the shards hold then, and has
/// it read.
#[track_caller]
fn held_once(shards: u16, version: Version, qos: u8) {
    let turn = alone();
    let broker = broker(shards, "");
    let address = broker.addresses()[0];
    let mut subscribers: Vec<_> = (0..SUBSCRIBERS)
        .map(|n| {
            let mut client = Client::connect_narrow(address, version, &format!("s{n}"));
            client.subscribe("a/+", qos, &[]);
            client
        })
        .collect();
    let mut publisher = Client::connect(address, version, "p");
    let mut publish_and_wait = |topic: &str, payload: &[u8]| {
        let id = (qos > 0).then_some(1);
        publisher.send(&publish(version, topic, id, &[], payload));
        publisher.send(&[0xC0, 0]);
        let acks = if qos > 0 { 2 } else { 1 };
        (0..acks).for_each(|_| drop(publisher.packet()));
    };
    // Every subscription is known everywhere, and every path has been taken.
    publish_and_wait("a/small", b"first");
    subscribers.iter_mut().for_each(|client| drop(client.packet()));

    let payload: Vec<u8> = (0..LARGE).map(|n| (n % 251) as u8).collect();
    let sent = || broker.stats().iter().map(|shard| shard.bytes_sent.value()).sum::<u64>();
    let sent_before = sent();
    let watch = Watch::begin(&turn, false);
    publish_and_wait("a/large", &payload);
    let held = settled(&watch);
    let most = 2 * LARGE + SUBSCRIBERS * EACH;
    assert!(held < most, "{held} bytes held, expected fewer than {most}");
    // Otherwise it proves nothing: the kernel has it all.
    assert!(held >= LARGE, "only {held} bytes held");
    let sent = sent() - sent_before;
    assert!(sent < (SUBSCRIBERS * LARGE / 2) as u64, "{sent} bytes sent to who does not read");

    let expected = publish(version, "a/large", None, &[], &payload);
    for client in &mut subscribers {
        let packet = client.packet();
        if qos == 0 {
            assert!(packet == expected, "delivered as it was published");
            continue;
        }
        assert_eq!(packet[0], 0x32);
        assert!(packet.ends_with(&payload), "delivered intact");
        assert_eq!(packet.len(), expected.len() + 2);
        let id = &packet[packet.len() - payload.len() - 2 - usize::from(version == V5)..][..2];
        client.send(&[0x40, 2, id[0], id[1]]);
        client.send(&[0xC0, 0]);
        assert_eq!(client.packet(), [0xD0, 0]);
    }
    let left = settled(&watch);
    let most = SUBSCRIBERS * EACH;
    assert!(left < most, "{left} bytes still held, expected fewer than {most}");
    drop(watch);
    assert_eq!(broker.stop(), Ok(()));
}

/// What the shards hold, once that no longer changes. Nobody tells when the last of it is freed.
fn settled(watch: &Watch<'_>) -> usize {
    let mut last = watch.live_bytes();
    let mut since = Instant::now();
    while since.elapsed() < Duration::from_millis(100) {
        std::thread::sleep(Duration::from_millis(5));
        let now = watch.live_bytes();
        if now != last {
            last = now;
            since = Instant::now();
        }
    }
    usize::try_from(last).unwrap_or(0)
}

#[test]
fn at_qos_0_within_a_shard() {
    held_once(1, V311, 0);
    held_once(1, V5, 0);
}

#[test]
fn at_qos_0_over_two_shards() {
    held_once(2, V311, 0);
}

#[test]
fn at_qos_1_within_a_shard() {
    held_once(1, V311, 1);
    held_once(1, V5, 1);
}

#[test]
fn at_qos_1_over_two_shards() {
    held_once(2, V5, 1);
}
