//! Whom a shared group chooses when its members, and those who publish to it, are at home on three
//! shards: each strategy holds over all of them.

use std::collections::{BTreeSet, HashMap};

use crate::common::client::{disconnect, subscribe};
use crate::common::connect::Connect;
use crate::common::message::Message;
use crate::common::{Packet, V5, code};
use crate::rig::{Rig, packets};
use sluice::net::sim::ClientId;

const SHARDS: usize = 3;

/// A broker with a publisher at home on each shard, and members of `$share/g/t/+`.
struct Group {
    rig: Rig,
    publishers: Vec<ClientId>,
    members: Vec<ClientId>,
    packet_id: u16,
}

impl Group {
    /// A group of nobody.
    fn new(strategy: &str) -> Self {
        let mut rig = Rig::new(SHARDS, &format!("[shared]\nstrategy = \"{strategy}\""));
        let publishers = (0..SHARDS)
            .map(|home| {
                let name = rig.name_at(home, "publisher");
                rig.connect(&Connect::new(V5, &name))
            })
            .collect();
        Self { rig, publishers, members: Vec::new(), packet_id: 0 }
    }

    /// A group whose members are at home on these shards.
    fn of(strategy: &str, homes: &[usize]) -> Self {
        let mut group = Self::new(strategy);
        homes.iter().for_each(|&home| group.join(home));
        group
    }

    fn join(&mut self, home: usize) {
        let name = self.rig.name_at(home, &format!("member-{}", self.members.len()));
        self.join_as(&Connect::new(V5, &name));
    }

    fn join_as(&mut self, connect: &Connect) {
        let member = self.rig.connect(connect);
        self.rig.send(member, &subscribe(V5, 1, &[("$share/g/t/+", 1)], &[]));
        self.rig.turns(4);
        let answer = packets(&self.rig.take(member), V5);
        assert!(matches!(answer[..], [Packet::SubAck(_)]), "{answer:?}");
        self.members.push(member);
    }

    fn leave(&mut self, member: usize) {
        let client = self.members.remove(member);
        self.rig.send(client, &disconnect(code::SUCCESS, &[]));
        self.rig.turns(4);
    }

    /// Sends a message, and lets no time pass.
    fn send(&mut self, publisher: ClientId, topic: &str) {
        self.packet_id += 1;
        let message = Message::new(topic, "x").qos(1).id(self.packet_id);
        self.rig.world.client_send(publisher, &message.bytes(V5)).expect("it is open");
    }

    /// So many messages from each publisher, one after the other.
    fn publish(&mut self, each: usize) {
        for _ in 0..each {
            for publisher in self.publishers.clone() {
                self.send(publisher, "t/0");
                self.rig.turns(3);
            }
        }
    }

    /// How many messages have come for each member, all of them acknowledged.
    fn received(&mut self) -> Vec<usize> {
        let Self { rig, members, .. } = self;
        members.iter().map(|&member| rig.take_all(member, V5).len()).collect()
    }

    /// Who got these messages, if it is one member.
    #[track_caller]
    fn only_receiver(&mut self, messages: usize) -> usize {
        let received = self.received();
        let only = received.iter().position(|&count| count == messages);
        assert_eq!(received.iter().sum::<usize>(), messages, "{received:?}");
        only.unwrap_or_else(|| panic!("{messages} messages went to several: {received:?}"))
    }
}

/// Strategy "sticky": who joins later, on whichever shard, takes nothing from the member that gets all;
/// nor does the shard matter where somebody publishes.
#[test]
fn sticky_stays_when_others_join() {
    for home in 0..SHARDS {
        let mut group = Group::of("sticky", &[home]);
        group.publish(1);
        assert_eq!(group.received(), [3]);
        for joins in 0..5 {
            group.join((home + joins) % SHARDS);
            group.publish(2);
            assert_eq!(group.only_receiver(6), 0, "home {home}, {joins} have joined");
        }
        while group.members.len() > 1 {
            let before = group.only_receiver(0);
            group.leave(before);
            group.publish(2);
            let heir = group.only_receiver(6);
            group.publish(2);
            assert_eq!(group.only_receiver(6), heir);
            // The next to leave.
            group.members.swap(0, heir);
        }
    }
}

/// Strategy "sticky": a member that was away is like one that joins.
#[test]
fn sticky_does_not_go_back() {
    for homes in [[0, 1], [1, 0], [2, 2]] {
        let mut group = Group::new("sticky");
        let names = [group.rig.name_at(homes[0], "first"), group.rig.name_at(homes[1], "second")];
        let [first, second] = names.map(|name| Connect::lasting(V5, &name));
        group.join_as(&first);
        group.join_as(&second);
        group.publish(1);
        assert_eq!(group.only_receiver(3), 0);
        group.leave(0);
        group.publish(1);
        assert_eq!(group.received(), [3]);
        let back = group.rig.connect(&first);
        group.rig.turns(4);
        group.members.push(back);
        group.publish(1);
        assert_eq!(group.received(), [3, 0], "homes {homes:?}");
        // When nobody is there, one member's queue has all of it.
        group.leave(0);
        group.leave(0);
        group.publish(2);
        let queued = [first, second].map(|connect| {
            let client = group.rig.world.connect();
            group.rig.send(client, &connect.bytes());
            group.rig.take_all(client, V5).len()
        });
        assert!(queued == [6, 0] || queued == [0, 6], "{queued:?}");
    }
}

/// Strategy "least_in_flight": one at a time, a member that never acknowledges is passed over as long
/// as there is one that has acknowledged everything, on whichever shard.
#[test]
fn least_in_flight_passes_over_who_does_not_acknowledge() {
    for homes in [[0, 1, 2, 2], [1, 0, 2, 0], [2, 2, 1, 0]] {
        // The first never acknowledges.
        let mut group = Group::of("least_in_flight", &homes);
        let mut received = [0; 4];
        for _ in 0..20 {
            for publisher in group.publishers.clone() {
                group.send(publisher, "t/0");
                group.rig.turns(4);
                for (count, &member) in received.iter_mut().zip(&group.members).skip(1) {
                    *count += group.rig.take_all(member, V5).len();
                }
            }
        }
        received[0] = packets(&group.rig.receive(group.members[0]), V5).len();
        assert_eq!(received.iter().sum::<usize>(), 60, "{received:?}");
        assert!(received[0] <= 1, "homes {homes:?}: {received:?}");
        assert!(received[1..].iter().all(|count| (15..=25).contains(count)), "{received:?}");
    }
}

/// Strategy "least_in_flight": in a burst everybody has as many in flight; and of the next one a member
/// gets no more than what makes it even with the others.
#[test]
fn least_in_flight_levels_bursts() {
    for homes in [[0, 1, 2, 2], [1, 0, 2, 0], [2, 2, 1, 0]] {
        let mut group = Group::of("least_in_flight", &homes);
        let burst = |group: &mut Group| {
            for _ in 0..20 {
                for publisher in group.publishers.clone() {
                    group.send(publisher, "t/0");
                }
            }
            group.rig.turns(6);
        };
        burst(&mut group);
        let lazy = group.members.remove(0);
        let mut of_lazy = packets(&group.rig.take(lazy), V5).len();
        let received = group.received();
        assert_eq!(of_lazy + received.iter().sum::<usize>(), 60);
        assert!((12..=18).contains(&of_lazy), "homes {homes:?}: {of_lazy} and {received:?}");
        assert!(received.iter().all(|count| (12..=18).contains(count)), "{received:?}");
        burst(&mut group);
        of_lazy += packets(&group.rig.take(lazy), V5).len();
        let received = group.received();
        assert!(of_lazy <= 22, "homes {homes:?}: {of_lazy} in flight, and {received:?}");
        assert!(received.iter().all(|count| (14..=24).contains(count)), "{received:?}");
    }
}

/// Strategy "least_in_flight": what waits in a queue counts, too. A member with a small window gets no
/// more than the others.
#[test]
fn least_in_flight_counts_the_queue() {
    for home in 0..SHARDS {
        let mut group = Group::new("least_in_flight");
        let name = group.rig.name_at(home, "narrow");
        let narrow = crate::common::property::receive_maximum(1);
        group.join_as(&Connect::new(V5, &name).with(narrow));
        group.join(1);
        group.publish(10);
        assert_eq!(packets(&group.rig.take(group.members[0]), V5).len(), 1);
        let wide = packets(&group.rig.take(group.members[1]), V5).len();
        assert!((14..=16).contains(&wide), "home {home}: {wide} of 30");
    }
}

/// Strategy "round_robin": each shard goes round all members, wherever they are.
#[test]
fn round_robin_gives_each_its_share() {
    let mut group = Group::of("round_robin", &[0, 1, 1, 2, 2, 2]);
    group.publish(60);
    let received = group.received();
    assert_eq!(received.iter().sum::<usize>(), 180);
    assert!(received.iter().all(|count| (28..=32).contains(count)), "{received:?}");
    // Shards do not all begin with the same member.
    let mut group = Group::of("round_robin", &[0, 1, 2]);
    group.publish(1);
    assert_eq!(group.received(), [1, 1, 1]);
}

/// Strategy "random": all have equal chances, wherever they are.
#[test]
fn random_gives_each_its_share() {
    let mut group = Group::of("random", &[0, 1, 1, 2, 2, 2]);
    group.publish(300);
    let received = group.received();
    assert_eq!(received.iter().sum::<usize>(), 900);
    assert!(received.iter().all(|count| (100..=200).contains(count)), "{received:?}");
}

/// Strategy "client_id": the messages of a client all go to one member; each member has its share of
/// the clients.
#[test]
fn by_client_id_over_shards() {
    let mut group = Group::of("client_id", &[0, 1, 1, 2, 2, 2]);
    let mut clients = vec![0; group.members.len()];
    for n in 0..180 {
        let publisher = group.rig.connect(&Connect::new(V5, &format!("client-{n}")));
        for topic in ["t/0", "t/1", "t/2"] {
            group.send(publisher, topic);
        }
        group.rig.turns(3);
        clients[group.only_receiver(3)] += 1;
    }
    assert!(clients.iter().all(|count| (15..=50).contains(count)), "{clients:?}");
}

/// Strategy "topic": the messages of a topic all go to one member, whoever publishes on whichever
/// shard; each member has its share of the topics.
#[test]
fn by_topic_over_shards() {
    let mut group = Group::of("topic", &[0, 1, 1, 2, 2, 2]);
    for n in 0..180 {
        for publisher in group.publishers.clone() {
            group.send(publisher, &format!("t/{n}"));
        }
    }
    group.rig.turns(6);
    let mut receivers: HashMap<String, BTreeSet<usize>> = HashMap::new();
    let mut topics = vec![BTreeSet::new(); group.members.len()];
    for (n, member) in group.members.clone().into_iter().enumerate() {
        for packet in packets(&group.rig.take(member), V5) {
            let Packet::Publish(publish) = packet else { panic!("unexpected {packet:?}") };
            receivers.entry(publish.topic.clone()).or_default().insert(n);
            topics[n].insert(publish.topic);
        }
    }
    assert_eq!(receivers.len(), 180);
    assert!(receivers.values().all(|members| members.len() == 1), "{receivers:?}");
    let counts: Vec<_> = topics.iter().map(BTreeSet::len).collect();
    assert!(counts.iter().all(|count| (15..=50).contains(count)), "{counts:?}");
}
