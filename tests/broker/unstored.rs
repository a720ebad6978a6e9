//! While the store fails: who is told so, and who is not.

use sluice::net::sim::ClientId;
use sluice::store::Memory;

use crate::common::client::subscribe;
use crate::common::connect::Connect;
use crate::common::message::Message;
use crate::common::{Packet, V5, V311, Version, code};
use crate::rig::{Rig, packets, pubacks};

/// Two shards whose store fails.
fn failing() -> Rig {
    let store = Memory::default();
    let mut rig = Rig::with_store(&store, 2, "");
    let client = rig.connect(&Connect::lasting(V5, "goes"));
    store.fail(Some("no space left"));
    // With the end of its connection it is noticed.
    rig.world.client_close(client);
    rig.turns(4);
    rig
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
