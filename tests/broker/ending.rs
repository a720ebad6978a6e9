//! The end of a session with many subscriptions, turn by turn: they go in steps, and match nothing any
//! more meanwhile.

use crate::common::client::subscribe;
use crate::common::connect::Connect;
use crate::common::message::Message;
use crate::common::{Packet, V5, V311, code};
use crate::rig::{Rig, packets, pubacks};
use sluice::net::sim::ClientId;

/// Far more than a turn removes.
const FILTERS: usize = 6000;

/// Subscribes to many filters that end in these levels.
fn subscribe_many(rig: &mut Rig, client: ClientId, end: &str) {
    for first in (0..FILTERS).step_by(1000) {
        let filters: Vec<_> = (first..first + 1000).map(|n| format!("{n}/{end}")).collect();
        let filters: Vec<_> = filters.iter().map(|filter| (filter.as_str(), 1)).collect();
        rig.send(client, &subscribe(V5, 1, &filters, &[]));
        // They are done in steps, too.
        rig.turns(40);
    }
    rig.receive(client);
}

/// Nobody is subscribed from the turn on in which the session ends: a publisher is told so, and no
/// session that follows under the same name, or the same key, is sent anything.
#[test]
fn what_ended_matches_nothing() {
    let mut rig = Rig::new(1, "");
    let publisher = rig.connect(&Connect::new(V5, "p"));
    let old = rig.connect(&Connect::new(V5, "s"));
    subscribe_many(&mut rig, old, "x");
    // A route of before.
    rig.send(publisher, &Message::new("5/x", "before").qos(1).id(1).bytes(V5));
    rig.turns(2);
    assert_eq!(pubacks(&rig.take(publisher), V5), [(1, code::SUCCESS)]);
    rig.world.client_close(old);
    rig.turns(2);
    let new = rig.world.connect();
    rig.world.client_send(new, &Connect::new(V5, "s").bytes()).expect("it is open");
    let other = rig.world.connect();
    rig.world.client_send(other, &Connect::new(V5, "t").bytes()).expect("it is open");
    let mut ids = 2..;
    for topic in ["5/x", "7/x", "1999/x", "5999/x"] {
        let id = ids.next().expect("endless");
        rig.send(publisher, &Message::new(topic, "after").qos(1).id(id).bytes(V5));
    }
    rig.turns(2);
    let told = [2, 3, 4, 5].map(|id| (id, code::NO_MATCHING_SUBSCRIBERS));
    assert_eq!(pubacks(&rig.take(publisher), V5), told);
    // While the old ones go, the new session has filters of its own, the same.
    rig.send(new, &subscribe(V5, 1, &[("7/x", 1)], &[]));
    rig.send(publisher, &Message::new("7/x", "new").qos(1).id(9).bytes(V5));
    rig.turns(50);
    rig.send(publisher, &Message::new("7/x", "later").qos(1).id(10).bytes(V5));
    rig.turns(2);
    assert_eq!(pubacks(&rig.take(publisher), V5), [9, 10].map(|id| (id, code::SUCCESS)));
    assert_eq!(rig.take_all(new, V5), [b"new".to_vec(), b"later".to_vec()]);
    let connack = packets(&rig.take(other), V5);
    assert!(matches!(connack[..], [Packet::ConnAck(_)]), "{connack:?}");
}

/// A member that has ended is not chosen, and what it had not acknowledged at QoS 1 goes to another (section
/// 4.8.2); on whatever shard.
#[test]
fn a_group_goes_on_without_who_ended() {
    for home in [0, 1] {
        let mut rig = Rig::new(2, "");
        let names = [rig.name_at(0, "old"), rig.name_at(home, "other"), rig.name_at(1, "p")];
        let [old, other, publisher] = names.map(|name| rig.connect(&Connect::new(V5, &name)));
        rig.send(old, &subscribe(V5, 2, &[("$share/g/t", 1)], &[]));
        subscribe_many(&mut rig, old, "x");
        rig.send(publisher, &Message::new("t", "orphan").qos(1).id(1).bytes(V5));
        rig.turns(4);
        rig.send(other, &subscribe(V5, 2, &[("$share/g/t", 1)], &[]));
        rig.turns(4);
        rig.receive(other);
        rig.receive(publisher);
        rig.world.client_close(old);
        rig.turns(4);
        for id in 2..10_u16 {
            rig.send(publisher, &Message::new("t", id.to_be_bytes()).qos(1).id(id).bytes(V5));
        }
        rig.turns(6);
        let told = pubacks(&rig.take(publisher), V5);
        assert_eq!(told, [2, 3, 4, 5, 6, 7, 8, 9].map(|id| (id, code::SUCCESS)), "home {home}");
        let mut received = rig.take_all(other, V5);
        assert_eq!(received.remove(0), b"orphan", "home {home}, then {received:?}");
        assert!(received.into_iter().eq((2..10_u16).map(|id| id.to_be_bytes().to_vec())));
    }
}

/// Other shards are told as fast as they take it in; then none of them wants anything any more.
#[test]
fn other_shards_are_told_in_steps() {
    let toml = "[mailbox]\nmax_bytes = \"16KiB\"\n[limits]\nmax_packet_size = \"16KiB\"";
    let mut rig = Rig::new(2, toml);
    let names = [rig.name_at(0, "s"), rig.name_at(1, "p")];
    let [old, publisher] = names.map(|name| rig.connect(&Connect::new(V5, &name)));
    for first in (0..FILTERS).step_by(500) {
        let filters: Vec<_> = (first..first + 500).map(|n| format!("{n}/x")).collect();
        let filters: Vec<_> = filters.iter().map(|filter| (filter.as_str(), 1)).collect();
        rig.send(old, &subscribe(V5, 1, &filters, &[]));
        rig.turns(20);
    }
    rig.world.client_close(old);
    rig.turns_of(0, 100);
    assert!(!rig.shards[0].rest().is_zero(), "it waits for the other shard");
    rig.turns(400);
    for shard in &mut rig.shards {
        assert!(!shard.rest().is_zero(), "nothing is left to do");
    }
    rig.send(publisher, &Message::new("5999/x", "x").qos(1).id(1).bytes(V5));
    rig.turns_of(1, 1);
    let told = pubacks(&rig.take(publisher), V5);
    assert_eq!(told, [(1, code::NO_MATCHING_SUBSCRIBERS)], "no other shard is asked");
}

/// A broker stops although much is to be removed.
#[test]
fn a_stop_does_not_wait_for_what_nobody_stored() {
    let mut rig = Rig::new(2, "");
    let clients = [rig.name_at(0, "a"), rig.name_at(1, "b")].map(|name| {
        let client = rig.connect(&Connect::new(V5, &name));
        subscribe_many(&mut rig, client, &name);
        client
    });
    rig.world.client_close(clients[0]);
    rig.turns(1);
    rig.stop();
    assert!(rig.last_turns(10), "all have stopped");
    let goodbye = packets(&rig.take(clients[1]), V5);
    assert!(matches!(goodbye.last(), Some(Packet::Disconnect(_))), "{goodbye:?}");
}

/// A client with many shared subscriptions comes and goes; other shards know in the end.
#[test]
fn members_come_and_go() {
    let mut rig = Rig::new(2, "");
    let names = [rig.name_at(0, "m"), rig.name_at(1, "n"), rig.name_at(1, "p")];
    let member = Connect::lasting(V5, &names[0]);
    let many = rig.connect(&member);
    let filters: Vec<_> = (0..1000).map(|n| format!("$share/g/{n}")).collect();
    let filters: Vec<_> = filters.iter().map(|filter| (filter.as_str(), 1)).collect();
    rig.send(many, &subscribe(V5, 1, &filters, &[]));
    let one = rig.connect(&Connect::new(V5, &names[1]));
    rig.send(one, &subscribe(V5, 1, &[("$share/g/999", 1)], &[]));
    rig.turns(4);
    rig.receive(one);
    let publisher = rig.connect(&Connect::new(V311, &names[2]));
    let publish = |rig: &mut Rig, count: u16| {
        for id in 1..=count {
            rig.send(publisher, &Message::new("999", "x").qos(1).id(id).bytes(V311));
        }
        rig.turns(4);
        assert_eq!(rig.receive(publisher).len(), usize::from(count) * 4);
    };
    rig.world.client_close(many);
    rig.turns(30);
    publish(&mut rig, 10);
    assert_eq!(rig.take_all(one, V5).len(), 10, "the other is not connected");
    let _many = rig.connect(&member);
    rig.turns(30);
    publish(&mut rig, 10);
    assert_eq!(rig.take_all(one, V5).len(), 5, "each in turn");
}
