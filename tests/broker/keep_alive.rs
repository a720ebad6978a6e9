//! Keep Alive (section 3.1.2.10).

use std::time::{Duration, Instant};

use crate::common::cases::versions;
use crate::common::client::subscribe;
use crate::common::property::SERVER_KEEP_ALIVE;
use crate::common::wire::{self, packet};
use crate::common::{
    Client, Connect, Message, Packet, V5, V31, V311, Version, broker, broker_with_shards, code,
    let_pass,
};
use crate::rig::{Rig, packets};
use sluice::net::sim::Faults;

/// One and a half seconds of silence end a keep alive of one. How soon, [`closes_within_a_second`] says: here it
/// depends on what else the machine does.
fn expect_timeout(client: &mut Client, last_sent: Instant) {
    client.expect_disconnect(&[code::KEEP_ALIVE_TIMEOUT]);
    let took = last_sent.elapsed();
    assert!(took >= Duration::from_millis(1_450), "after {took:?}");
    assert!(took < Duration::from_secs(10), "after {took:?}");
}

/// [MQTT-3.1.2-22], (3.1.1) [MQTT-3.1.2-24] Silence for one and a half times the Keep Alive closes
/// the connection, in version 5 with 0x8D; not before.
fn closes_a_silent_connection(version: Version) {
    let broker = broker("");
    let start = Instant::now();
    let (mut client, _) = broker.connect_with(&Connect::new(version, "silent").keep_alive(1));
    let (mut without, _) = broker.connect_with(&Connect::new(version, "without"));
    expect_timeout(&mut client, start);
    // Keep Alive 0 turns it off.
    without.expect_nothing();
}
versions!(closes_a_silent_connection);

/// [MQTT-3.1.2-22] The same to the second: nothing before one and a half times the Keep Alive, and the end
/// within a second after.
#[test]
fn closes_within_a_second() {
    let mut rig = Rig::new(1, "");
    let silent = [V311, V5].map(|version| {
        let connect = Connect::new(version, &format!("{version:?}")).keep_alive(10);
        rig.connect(&connect)
    });
    let mut pass = |millis| {
        rig.world.advance(Duration::from_millis(millis));
        silent.map(|client| (rig.receive(client), rig.world.client_end(client).is_some()))
    };
    assert_eq!(pass(14_900), [(vec![], false), (vec![], false)]);
    let [old, new] = pass(1_100);
    assert_eq!(old, (vec![], true));
    let told = packets(&new.0, V5);
    assert!(
        matches!(&told[..], [Packet::Disconnect(reason)] if reason.code == code::KEEP_ALIVE_TIMEOUT)
    );
    assert!(new.1);
}

/// [MQTT-3.1.2-22] Who has sent something that a busy broker has not read yet is not silent, nor late with CONNECT.
#[test]
fn who_waits_to_be_read_is_not_silent() {
    let mut rig = Rig::new(1, "");
    let (pings, silent) = (rig.connect(&connect("pings")), rig.connect(&connect("silent")));
    let comes = rig.world.connect();
    let (bytes, ping) = (connect("comes").bytes(), wire::packet(wire::PINGREQ, &[]));
    rig.turns(4);
    rig.world.advance(Duration::from_millis(8_000));
    rig.world.set_faults(Faults { late: 1.0, ..Faults::NONE });
    for (client, bytes) in [(pings, &ping), (comes, &bytes)] {
        assert_eq!(rig.world.client_send(client, bytes).ok(), Some(bytes.len()));
    }
    for _ in 0..20 {
        rig.world.advance(Duration::from_millis(1_000));
        rig.turns(4);
    }
    rig.world.set_faults(Faults::NONE);
    assert_eq!(rig.receive(pings), wire::packet(wire::PINGRESP, &[]));
    assert_eq!(rig.receive(comes)[0], wire::CONNACK);
    rig.receive(silent);
    let ended = [pings, comes, silent].map(|client| rig.world.client_end(client).is_some());
    assert_eq!(ended, [false, false, true]);
}

fn connect(client_id: &str) -> Connect {
    Connect::new(V311, client_id).keep_alive(10)
}

/// [MQTT-3.1.2-22] Any packet counts, whatever its type; the time runs from the last one.
fn lives_on_any_packet(version: Version) {
    let broker = broker("");
    let (mut client, _) = broker.connect_with(&Connect::new(version, "busy").keep_alive(1));
    let mut last = Instant::now();
    for n in 0..4 {
        let_pass(Duration::from_millis(600));
        last = Instant::now();
        match n {
            0 => client.ping(),
            1 => client.publish("t", "x", 0),
            2 => client.subscribe("t", 0),
            _ => client.send_ack(wire::PUBACK, 1),
        }
    }
    expect_timeout(&mut client, last);
}
versions!(lives_on_any_packet);

/// [MQTT-3.1.2-22] What the broker sends does not count.
#[test]
fn does_not_live_on_what_it_receives() {
    let mut rig = Rig::new(1, "");
    let client = rig.connect(&Connect::new(V311, "listens").keep_alive(10));
    let publisher = rig.connect(&Connect::new(V311, "publisher"));
    rig.send(client, &subscribe(V311, 1, &[("t", 0)], &[]));
    rig.receive(client);
    for _ in 0..14 {
        rig.world.advance(Duration::from_secs(1));
        rig.send(publisher, &Message::new("t", "x").bytes(V311));
        assert!(!rig.receive(client).is_empty());
    }
    assert!(rig.world.client_end(client).is_none());
    rig.world.advance(Duration::from_secs(2));
    rig.receive(client);
    assert!(rig.world.client_end(client).is_some());
}

/// [MQTT-3.2.2-21], section 3.2.2.3.14: a Keep Alive above the server's maximum, or none, is
/// replaced by the maximum, stated in CONNACK and enforced; a lower one stays.
#[test]
fn has_a_maximum_in_version_5() {
    let broker = broker("[mqtt]\nmax_keep_alive = \"2s\"");
    for (asked, stated) in [(60, Some(2)), (0, Some(2)), (1, None), (2, None)] {
        let connect = Connect::new(V5, &format!("client-{asked}")).keep_alive(asked);
        let (_, connack) = broker.connect_with(&connect);
        assert_eq!(connack.properties.number(SERVER_KEEP_ALIVE), stated, "{asked}");
    }
    let start = Instant::now();
    let (mut client, _) = broker.connect_with(&Connect::new(V5, "forced").keep_alive(600));
    client.expect_disconnect(&[code::KEEP_ALIVE_TIMEOUT]);
    let took = start.elapsed();
    assert!((2_950..12_000).contains(&took.as_millis()), "after {took:?}");
}

/// Older clients cannot be told of a maximum: their own Keep Alive stays.
#[test]
fn has_no_maximum_for_older_clients() {
    let broker = broker("[mqtt]\nmax_keep_alive = \"1s\"");
    let mut clients: Vec<Client> = [(V31, 60), (V311, 60), (V311, 0)]
        .into_iter()
        .enumerate()
        .map(|(n, (version, keep_alive))| {
            let connect = Connect::new(version, &format!("{n}")).keep_alive(keep_alive);
            broker.connect_with(&connect).0
        })
        .collect();
    let (mut forced, _) = broker.connect_with(&Connect::new(V5, "forced").keep_alive(60));
    forced.expect_disconnect(&[code::KEEP_ALIVE_TIMEOUT]);
    for client in &mut clients {
        client.expect_nothing();
    }
}

/// The session, and what it waits for, outlives the timeout.
#[test]
fn leaves_the_session() {
    let broker = broker("");
    let connect = Connect::lasting(V5, "client").keep_alive(1);
    let (mut client, _) = broker.connect_with(&connect);
    client.subscribe("t", 1);
    client.expect_disconnect(&[code::KEEP_ALIVE_TIMEOUT]);
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish("t", "x", 1);
    let (mut client, connack) = broker.connect_with(&connect);
    assert!(connack.session_present);
    client.expect("t", "x");
}

/// Many silent connections over all shards all time out.
#[test]
fn closes_every_silent_connection() {
    let broker = broker_with_shards(3, "");
    let start = Instant::now();
    let mut clients: Vec<Client> = (0..60)
        .map(|n| {
            let connect = Connect::new(V5, &format!("client-{n}")).keep_alive(1);
            broker.connect_with(&connect).0
        })
        .collect();
    for client in &mut clients {
        client.expect_disconnect(&[code::KEEP_ALIVE_TIMEOUT]);
    }
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
}

/// A publisher that is not read from, because its receiver's queue is full, is not silent: it
/// stays.
#[test]
fn spares_a_publisher_that_is_slowed() {
    let toml = "[queue]\nmax_messages = 2\n[overflow]\npatience = \"60s\"";
    let broker = broker(toml);
    let connect = Connect::new(V5, "receiver").with(crate::common::property::receive_maximum(1));
    let (mut receiver, _) = broker.connect_with(&connect);
    receiver.subscribe("t", 1);
    let (mut publisher, _) = broker.connect_with(&Connect::new(V5, "publisher").keep_alive(1));
    for n in 0..10 {
        publisher.start_publish(Message::new("t", n.to_string()).qos(1));
    }
    for _ in 0..6 {
        let_pass(Duration::from_millis(500));
        publisher.send(&packet(wire::PINGREQ, &[]));
    }
    for n in 0..10 {
        receiver.expect("t", n.to_string());
    }
    for id in 1..=10 {
        assert_eq!(publisher.wait_puback(id).code, code::SUCCESS);
    }
    publisher.ping();
}

/// A packet may take longer than the Keep Alive to arrive, and its sender can send no PINGREQ within
/// it: as long as it comes on, the connection lives.
fn lives_while_a_large_packet_arrives(version: Version) {
    let broker = broker("");
    let (mut client, _) = broker.connect_with(&Connect::new(version, "slow").keep_alive(1));
    let payload = vec![b'x'; 300_000];
    for chunk in Message::new("t", &payload).bytes(version).chunks(60_000) {
        client.send(chunk);
        let_pass(Duration::from_millis(700));
    }
    client.ping();
    // Not for ever: one that stops in the middle is silent.
    client.send(&Message::new("t", &payload).bytes(version)[..150_000]);
    expect_timeout(&mut client, Instant::now());
}
versions!(lives_while_a_large_packet_arrives);
