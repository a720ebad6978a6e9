//! While the store fails: who is told so, and who is not.

use std::time::Duration;

use sluice::net::sim::ClientId;
use sluice::store::Memory;

use crate::common::client::{subscribe, unsubscribe};
use crate::common::connect::Connect;
use crate::common::message::Message;
use crate::common::wire;
use crate::common::{Packet, V5, V31, V311, Version, code};
use crate::rig::{Rig, packets, pubacks};

/// Two shards whose store fails.
fn failing() -> Rig {
    failing_after(|_| ()).0
}

/// The same; before, the store works.
fn failing_after<T>(before: impl FnOnce(&mut Rig) -> T) -> (Rig, Memory, T) {
    let store = Memory::default();
    let mut rig = Rig::with_store(&store, 2, "");
    let client = rig.connect(&Connect::lasting(V5, "goes"));
    let done = before(&mut rig);
    store.fail(Some("no space left"));
    // With the end of its connection it is noticed.
    rig.world.client_close(client);
    rig.turns(4);
    (rig, store, done)
}

/// A client at home on shard 0 whose session is stored. On shard 1 there is one for `stored`.
fn lasting(rig: &mut Rig, version: Version) -> ClientId {
    let away = rig.name_at(1, "away");
    let away = rig.connect(&Connect::lasting(V5, &away));
    rig.send(away, &subscribe(V5, 1, &[("stored", 2)], &[]));
    rig.receive(away);
    rig.world.client_close(away);
    let name = rig.name_at(0, "lasting");
    rig.connect(&Connect::lasting(version, &name))
}

/// As long as what waits for the store is waited for.
fn long(rig: &mut Rig) {
    for _ in 0..4 {
        rig.world.advance(Duration::from_secs(1));
        rig.turns(4);
    }
}

fn client(rig: &mut Rig, version: Version, home: usize, name: &str) -> ClientId {
    let name = rig.name_at(home, name);
    rig.connect(&Connect::new(version, &name))
}

/// [MQTT-4.3.2-4] What one client has retained at QoS 0, and is not, is none of the others' business: a
/// session that is not stored has their messages.
#[test]
fn what_is_not_retained_at_qos_0_has_nobody_else_refused() {
    for version in [V311, V5] {
        for (elsewhere, subscriber) in [(0, 0), (1, 1), (0, 1)] {
            let mut rig = failing();
            let retains = client(&mut rig, V5, elsewhere, "retains");
            let subscribes = client(&mut rig, version, subscriber, "subscribes");
            rig.send(subscribes, &subscribe(version, 1, &[("t", 1)], &[]));
            rig.receive(subscribes);
            let publishes = client(&mut rig, version, 0, "publishes");
            rig.send(retains, &Message::new("kept", "x").retain().bytes(V5));
            rig.turns(4);
            for (id, qos) in [(1, 1), (2, 2)] {
                let message = Message::new("t", "x").qos(qos).id(id);
                rig.send(publishes, &message.bytes(version));
            }
            let answers = rig.receive(publishes);
            assert_eq!(pubacks(&answers, version), [(1, code::SUCCESS)], "{version:?}");
            let answers = packets(&answers, version);
            assert!(
                matches!(&answers[1..], [Packet::PubRec(ack)] if ack.code == code::SUCCESS),
                "{answers:?}"
            );
        }
    }
}

/// Who has something retained at QoS 1 or 2 is told that it is not.
#[test]
fn what_is_not_retained_at_qos_1_is_refused() {
    let mut rig = failing();
    for (shard, id) in [(0, 1), (1, 2)] {
        let publisher = client(&mut rig, V5, shard, "publisher");
        rig.send(publisher, &Message::new("kept", "x").qos(1).id(id).retain().bytes(V5));
        assert_eq!(pubacks(&rig.receive(publisher), V5), [(id, code::QUOTA_EXCEEDED)]);
        rig.send(publisher, &Message::new("nobody", "x").qos(1).id(id).bytes(V5));
        let expected = [(id, code::NO_MATCHING_SUBSCRIBERS)];
        assert_eq!(pubacks(&rig.receive(publisher), V5), expected);
    }
}

/// [MQTT-4.3.3-9] Who is told by another shard that its QoS 2 message is not stored, is told at once: there
/// is nothing for which the store would have to work first. The identifier is free again.
#[test]
fn a_refusal_does_not_wait_for_the_store() {
    let (mut rig, _, publisher) = failing_after(|rig| lasting(rig, V5));
    for _ in 0..2 {
        rig.send(publisher, &Message::new("stored", "x").qos(2).id(1).bytes(V5));
        let answers = packets(&rig.receive(publisher), V5);
        assert!(
            matches!(&answers[..], [Packet::PubRec(ack)] if ack.code == code::QUOTA_EXCEEDED),
            "{answers:?}"
        );
    }
}

/// What a 3.x client publishes to sessions that are not stored goes on, though what is answered before it
/// waits for the store.
#[test]
fn what_need_not_be_stored_goes_on_behind_what_has_to_be() {
    for version in [V31, V311] {
        let waits = Message::new("stored", "waits").qos(2).id(9);
        for first in [unsubscribe(version, 9, &["mine"]), waits.bytes(version)] {
            let (mut rig, store, publisher) = failing_after(|rig| {
                let publisher = lasting(rig, version);
                rig.send(publisher, &subscribe(version, 1, &[("mine", 1)], &[]));
                rig.receive(publisher);
                publisher
            });
            let subscriber = client(&mut rig, V5, 1, "subscriber");
            rig.send(subscriber, &subscribe(V5, 1, &[("live", 1)], &[]));
            rig.receive(subscriber);
            rig.send(publisher, &first);
            for id in 1..=3 {
                rig.send(publisher, &Message::new("live", "x").qos(1).id(id).bytes(version));
            }
            rig.send(publisher, &wire::packet(wire::PINGREQ, &[]));
            assert_eq!(packets(&rig.receive(publisher), version), [Packet::PingResp]);
            assert_eq!(rig.take_all(subscriber, V5).len(), 3);
            // They have it: nobody gives up.
            long(&mut rig);
            store.fail(None);
            let answers = rig.receive(publisher);
            assert_eq!(packets(&answers, version).len(), 4, "{answers:?}");
            let acknowledged = [1, 2, 3].map(|id| (id, code::SUCCESS));
            assert_eq!(pubacks(&answers, version), acknowledged);
        }
    }
}

/// A 3.x client is disconnected for what is not stored, though what is answered before it waits.
#[test]
fn what_is_refused_behind_what_waits_is_told() {
    let (mut rig, _, publisher) = failing_after(|rig| lasting(rig, V311));
    for qos in [2, 1] {
        let message = Message::new("stored", "x").qos(qos).id(qos.into());
        rig.send(publisher, &message.bytes(V311));
    }
    assert!(rig.receive(publisher).is_empty());
    long(&mut rig);
    assert!(rig.receive(publisher).is_empty());
    assert!(rig.world.client_end(publisher).is_some());
}

/// [MQTT-4.3.2-4] Without a thread that writes, as after a panic in a program that embeds the broker, nobody
/// is told that something was kept, nor let in to a session that would have to be stored.
#[test]
fn without_a_writer_nothing_is_acknowledged() {
    let mut rig = Rig::with_store(&Memory::default(), 2, "");
    let away = rig.connect(&Connect::lasting(V5, "away"));
    rig.send(away, &subscribe(V5, 1, &[("t", 1)], &[]));
    rig.receive(away);
    rig.world.client_close(away);
    rig.turns(4);
    let publishers = [0, 1].map(|shard| client(&mut rig, V5, shard, "publisher"));
    rig.lose_writer();
    for publisher in publishers {
        rig.send(publisher, &Message::new("t", "x").qos(1).id(1).bytes(V5));
        assert_eq!(pubacks(&rig.receive(publisher), V5), [(1, code::QUOTA_EXCEEDED)]);
    }
    let late = rig.world.connect();
    rig.send(late, &Connect::lasting(V5, "late").bytes());
    let answers = packets(&rig.receive(late), V5);
    assert!(
        matches!(&answers[..], [Packet::ConnAck(ack)] if ack.code == code::SERVER_UNAVAILABLE),
        "{answers:?}"
    );
}
