//! A message that another shard returns, because the last member of its group has left there: whoever is
//! handed it next has to have it before it is acknowledged.

use sluice::net::sim::ClientId;
use sluice::store::Memory;

use crate::common::client::subscribe;
use crate::common::connect::Connect;
use crate::common::message::Message;
use crate::common::wire;
use crate::common::{Packet, V5, code};
use crate::rig::{Rig, packets, pubacks};

/// A batch of one message with this payload fills a lane.
const LARGE: [u8; 4_050] = [b'.'; 4_050];

const STICKY: &str = "[mailbox]\nmax_bytes = \"4KiB\"\n[shared]\nstrategy = \"sticky\"\n\
                      [limits]\nmax_packet_size = \"4KiB\"\nmax_topic_bytes = \"1KiB\"";

/// Shard 0 has a publisher, shard 1 the member that a group keeps to, shard 2 those who are to get more.
struct Scene {
    rig: Rig,
    publisher: ClientId,
    leaves: ClientId,
}

impl Scene {
    fn new(mut rig: Rig) -> Self {
        let publisher = client(&mut rig, 0, &Connect::new(V5, "publisher"), &[]);
        let leaves = client(&mut rig, 1, &Connect::new(V5, "leaves"), &["$share/g/t", "fill"]);
        Self { rig, publisher, leaves }
    }

    /// One that stays, with a session that is not stored.
    fn present(&mut self, home: usize, name: &str, filters: &[&str]) -> ClientId {
        client(&mut self.rig, home, &Connect::new(V5, name), filters)
    }

    /// One that goes, and whose session stays.
    fn absent(&mut self, home: usize, name: &str, filters: &[&str]) {
        let client = client(&mut self.rig, home, &Connect::lasting(V5, name), filters);
        self.rig.world.client_close(client);
        self.rig.turns(4);
    }

    fn publish(&self, message: &Message) {
        let bytes = message.bytes(V5);
        assert_eq!(self.rig.world.client_send(self.publisher, &bytes).ok(), Some(bytes.len()));
    }

    /// Publishes to `t` what shard 1 returns, and behind it something that fills the lane to shard 2: that
    /// has a batch with both, and one with what is routed again does not come before this is taken. Gives
    /// what was acknowledged by then.
    fn publish_while_the_member_leaves(&mut self) -> Vec<(u16, u8)> {
        // The lane to shard 1 is full: the next batch waits while the member leaves.
        self.publish(&Message::new("fill", LARGE));
        self.rig.turns_of(0, 1);
        self.publish(&Message::new("t", "x").qos(1).id(1));
        self.publish(&Message::new("other", LARGE).qos(1).id(2));
        self.rig.turns_of(0, 1);
        let goodbye = wire::packet(wire::DISCONNECT, &[]);
        self.rig.world.client_send(self.leaves, &goodbye).expect("it is open");
        self.rig.turns_of(1, 1);
        // It comes back, goes out again, and shard 1 has nothing more to say.
        for _ in 0..3 {
            self.rig.turns_of(0, 1);
            self.rig.turns_of(1, 1);
        }
        self.rig.turns_of(0, 1);
        self.acknowledged()
    }

    /// Shard 2 takes one batch, and its answer is read.
    fn shard_2_takes_a_batch(&mut self) -> Vec<(u16, u8)> {
        self.rig.turns_of(2, 1);
        self.rig.turns_of(0, 1);
        self.acknowledged()
    }

    /// What was acknowledged in the turns that were.
    fn acknowledged(&mut self) -> Vec<(u16, u8)> {
        pubacks(&self.rig.take(self.publisher), V5)
    }

    fn acknowledged_in_the_end(&mut self) -> Vec<(u16, u8)> {
        self.rig.turns(8);
        self.acknowledged()
    }
}

/// A client that is at home on a shard, with subscriptions of QoS 1.
fn client(rig: &mut Rig, home: usize, connect: &Connect, filters: &[&str]) -> ClientId {
    let client_id = rig.name_at(home, &connect.client_id);
    let client = rig.connect(&Connect { client_id, ..connect.clone() });
    for filter in filters {
        rig.send(client, &subscribe(V5, 1, &[(filter, 1)], &[]));
    }
    rig.receive(client);
    client
}

fn publishes(bytes: &[u8]) -> usize {
    packets(bytes, V5).iter().filter(|packet| matches!(packet, Packet::Publish(_))).count()
}

const NOTHING_SEEN: &str = "shard 2 has seen nothing";

/// [MQTT-4.3.2-4] That a session of the first turn has nothing to store says nothing of the one that is
/// handed the message later.
#[test]
fn is_not_acknowledged_for_what_another_session_has() {
    let mut scene = Scene::new(Rig::with_store(&Memory::default(), 3, STICKY));
    let plain = scene.present(2, "plain", &["t"]);
    scene.absent(2, "stays", &["$share/g/t"]);
    scene.absent(2, "stored", &["other"]);
    assert_eq!(scene.publish_while_the_member_leaves(), [], "{NOTHING_SEEN}");
    assert_eq!(scene.shard_2_takes_a_batch(), [], "the member has not seen it");
    assert_eq!(publishes(&scene.rig.take(plain)), 1);
    let expected = [(1, code::SUCCESS), (2, code::SUCCESS)];
    assert_eq!(scene.acknowledged_in_the_end(), expected);
}

/// [MQTT-4.3.2-4] Nor does what is not stored for the member, of what is stored for the session before.
#[test]
fn is_not_acknowledged_for_what_a_member_has() {
    let mut scene = Scene::new(Rig::with_store(&Memory::default(), 3, STICKY));
    let joins = scene.present(2, "joins", &["$share/g/t"]);
    scene.absent(2, "stored", &["t", "other"]);
    assert_eq!(scene.publish_while_the_member_leaves(), [], "{NOTHING_SEEN}");
    assert_eq!(scene.shard_2_takes_a_batch(), [], "nothing is committed");
    assert_eq!(scene.shard_2_takes_a_batch(), [], "nothing is committed");
    assert_eq!(publishes(&scene.rig.take(joins)), 1);
    let expected = [(1, code::SUCCESS), (2, code::SUCCESS)];
    assert_eq!(scene.acknowledged_in_the_end(), expected);
}

const NO_ROOM: &str = "[queue]\nmax_messages = 1";

/// A session that had no room for it says nothing of the member that keeps it: a false 0x97 would have it
/// come twice.
#[test]
fn is_not_refused_when_a_member_keeps_it() {
    let mut scene = Scene::new(Rig::new(3, &format!("{STICKY}\n{NO_ROOM}")));
    scene.absent(2, "full", &["t", "first"]);
    scene.absent(2, "stays", &["$share/g/t"]);
    scene.present(2, "other", &["other"]);
    scene.publish(&Message::new("first", "x").qos(1).id(9));
    assert_eq!(scene.acknowledged_in_the_end(), [(9, code::SUCCESS)]);
    assert_eq!(scene.publish_while_the_member_leaves(), [], "{NOTHING_SEEN}");
    let mut acknowledged = scene.shard_2_takes_a_batch();
    acknowledged.extend(scene.acknowledged_in_the_end());
    assert_eq!(acknowledged, [(1, code::SUCCESS), (2, code::SUCCESS)]);
}

/// Of two groups that lose their member, new ones are on one shard: it is enough that one of these has room.
#[test]
fn is_refused_only_if_no_member_keeps_it() {
    for (full, reason) in [(0, code::SUCCESS), (1, code::SUCCESS), (2, code::QUOTA_EXCEEDED)] {
        let mut scene = Scene::new(Rig::new(3, &format!("{STICKY}\n{NO_ROOM}")));
        scene.rig.send(scene.leaves, &subscribe(V5, 1, &[("$share/h/t", 1)], &[]));
        for (n, (name, group)) in (0..).zip([("g", "$share/g/t"), ("h", "$share/h/t")]) {
            scene.absent(2, name, &[group, if n < full { "first" } else { "never" }]);
        }
        scene.present(2, "other", &["other"]);
        scene.publish(&Message::new("first", "x").qos(1).id(9));
        assert_eq!(scene.acknowledged_in_the_end().len(), 1);
        assert_eq!(scene.publish_while_the_member_leaves(), [], "{NOTHING_SEEN}");
        assert_eq!(scene.acknowledged_in_the_end(), [(1, reason), (2, code::SUCCESS)], "{full}");
    }
}

/// It comes back to a session of the publisher's own shard, which cannot store it: that is said of this
/// message, and of no other.
#[test]
fn is_refused_if_the_store_fails_where_it_comes_back_to() {
    let store = Memory::default();
    let mut scene = Scene::new(Rig::with_store(&store, 3, STICKY));
    scene.absent(0, "stays", &["$share/g/t"]);
    scene.present(0, "plain", &["t", "later"]);
    scene.present(2, "other", &["other"]);
    let goes = client(&mut scene.rig, 0, &Connect::lasting(V5, "goes"), &[]);
    store.fail(Some("no space left"));
    // With the end of its connection it is noticed.
    scene.rig.world.client_close(goes);
    scene.rig.turns(4);
    let mut acknowledged = scene.publish_while_the_member_leaves();
    acknowledged.extend(scene.acknowledged_in_the_end());
    scene.publish(&Message::new("later", "x").qos(1).id(3));
    acknowledged.extend(scene.acknowledged_in_the_end());
    let expected = [(1, code::QUOTA_EXCEEDED), (2, code::SUCCESS), (3, code::SUCCESS)];
    assert_eq!(acknowledged, expected);
}
