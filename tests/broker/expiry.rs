//! [MQTT-3.3.2-5] A message that expires while it waits is deleted: nobody is refused for it, it does not stay
//! because nobody comes for it, and it is counted once.

use std::time::Duration;

use sluice::net::sim::ClientId;
use sluice::session::DropCause;

use crate::common::client::subscribe;
use crate::common::connect::Connect;
use crate::common::message::Message;
use crate::common::property::{message_expiry, receive_maximum};
use crate::common::wire;
use crate::common::{V5, V311, Version, code};
use crate::rig::{Rig, pubacks};

const QUEUE: u16 = 20;

/// A broker with a lasting client that is away.
fn rig(toml: &str) -> Rig {
    let mut rig = Rig::new(2, &format!("queue.max_messages = {QUEUE}\n{toml}"));
    let client = rig.connect(&Connect::lasting(V5, "away"));
    rig.send(client, &subscribe(V5, 1, &[("t", 2)], &[]));
    rig.receive(client);
    rig.send(client, &wire::packet(wire::DISCONNECT, &[]));
    rig.turns(4);
    rig
}

fn publisher(rig: &mut Rig, version: Version) -> ClientId {
    rig.connect(&Connect::new(version, "publisher"))
}

fn brief(id: u16, seconds: u32) -> Message {
    Message::new("t", format!("brief {id}")).qos(1).id(id).with(message_expiry(seconds))
}

fn lasting(id: u16) -> Message {
    Message::new("t", format!("lasting {id}")).qos(1).id(id)
}

/// Publishes all of them; gives the Reason Codes.
fn publish(rig: &mut Rig, publisher: ClientId, messages: &[Message]) -> Vec<u8> {
    let bytes: Vec<u8> = messages.iter().flat_map(|message| message.bytes(V5)).collect();
    rig.send(publisher, &bytes);
    let received = rig.receive(publisher);
    pubacks(&received, V5).into_iter().map(|(_, code)| code).collect()
}

fn fill(rig: &mut Rig, publisher: ClientId) {
    let messages: Vec<_> = (1..=QUEUE).map(|id| brief(id, 1)).collect();
    assert_eq!(publish(rig, publisher, &messages), [code::SUCCESS; QUEUE as usize]);
    assert_eq!(publish(rig, publisher, &[lasting(99)]), [code::QUOTA_EXCEEDED]);
}

fn expired(rig: &Rig) -> u64 {
    rig.dropped(DropCause::Expired)
}

fn payloads(rig: &mut Rig) -> Vec<String> {
    let client = rig.world.connect();
    rig.send(client, &Connect::lasting(V5, "away").bytes());
    let text = |payload| String::from_utf8(payload).expect("text");
    rig.take_all(client, V5).into_iter().map(text).collect()
}

#[test]
fn nobody_is_refused_for_what_has_expired() {
    let mut rig = rig("");
    let publisher = publisher(&mut rig, V5);
    fill(&mut rig, publisher);
    rig.world.advance(Duration::from_millis(1_000));
    assert_eq!(publish(&mut rig, publisher, &[lasting(1), lasting(2)]), [code::SUCCESS; 2]);
    assert_eq!(expired(&rig), 2, "no more than had to go");
    let more: Vec<_> = (3..=QUEUE).map(lasting).collect();
    assert_eq!(publish(&mut rig, publisher, &more), [code::SUCCESS; QUEUE as usize - 2]);
    assert_eq!(publish(&mut rig, publisher, &[lasting(99)]), [code::QUOTA_EXCEEDED]);
    rig.world.advance(Duration::from_secs(5));
    rig.turns(4);
    assert_eq!((expired(&rig), rig.dropped(DropCause::QueueFull)), (u64::from(QUEUE), 2));
    let all: Vec<_> = (1..=QUEUE).map(|id| format!("lasting {id}")).collect();
    assert_eq!(payloads(&mut rig), all);
    assert_eq!(expired(&rig), u64::from(QUEUE));
}

/// Nor is a 3.x publisher disconnected.
#[test]
fn nobody_is_disconnected_for_what_has_expired() {
    let mut rig = rig("");
    let five = publisher(&mut rig, V5);
    fill(&mut rig, five);
    rig.world.advance(Duration::from_millis(1_000));
    let three = rig.connect(&Connect::new(V311, "three"));
    rig.send(three, &lasting(1).bytes(V311));
    assert_eq!(pubacks(&rig.receive(three), V311), [(1, 0)]);
}

#[test]
fn nothing_else_is_dropped_for_it() {
    for policy in ["drop_oldest", "end_session"] {
        let mut rig = rig(&format!("overflow.offline = \"{policy}\"\n"));
        let publisher = publisher(&mut rig, V5);
        let some: Vec<_> = (1..QUEUE).map(|id| brief(id, 1)).chain([lasting(QUEUE)]).collect();
        assert_eq!(publish(&mut rig, publisher, &some), [code::SUCCESS; QUEUE as usize]);
        rig.world.advance(Duration::from_millis(1_000));
        assert_eq!(publish(&mut rig, publisher, &[lasting(21)]), [code::SUCCESS], "{policy}");
        assert_eq!((expired(&rig), rig.dropped(DropCause::QueueFull)), (1, 0), "{policy}");
        assert_eq!(payloads(&mut rig), ["lasting 20", "lasting 21"], "{policy}");
    }
}

/// Within two seconds, in steps, and nothing else goes.
#[test]
fn what_has_expired_goes_though_nobody_comes() {
    let mut rig = Rig::new(1, "queue.max_messages = 5000");
    let mut clients = Vec::new();
    for name in ["a", "b"] {
        let client = rig.connect(&Connect::lasting(V5, name));
        rig.send(client, &subscribe(V5, 1, &[("t", 2)], &[]));
        rig.receive(client);
        clients.push(client);
    }
    for client in clients {
        rig.send(client, &wire::packet(wire::DISCONNECT, &[]));
    }
    let publisher = publisher(&mut rig, V5);
    let messages: Vec<_> =
        (1..=3000).map(|id| brief(id, if id % 3 == 0 { 60 } else { 5 })).collect();
    for some in messages.chunks(500) {
        assert_eq!(publish(&mut rig, publisher, some), [code::SUCCESS; 500]);
    }
    rig.world.advance(Duration::from_millis(4_900));
    rig.turns(4);
    assert_eq!(expired(&rig), 0);
    rig.world.advance(Duration::from_millis(2_000));
    let mut before = 0;
    for _ in 0..20 {
        rig.turns(1);
        let step = expired(&rig) - before;
        assert!(step <= 1024, "{step} in one turn");
        before += step;
    }
    assert_eq!(before, 4000);
    rig.world.advance(Duration::from_secs(60));
    rig.turns(20);
    assert_eq!(expired(&rig), 6000);
}

/// A connected receiver that is full of what has expired holds nobody.
#[test]
fn a_connected_receiver_is_not_full_of_what_has_expired() {
    let mut rig = Rig::new(1, "queue.max_messages = 5\noverflow.patience = \"60s\"");
    let client = rig.connect(&Connect::new(V5, "slow").with(receive_maximum(1)));
    rig.send(client, &subscribe(V5, 1, &[("t", 1)], &[]));
    rig.receive(client);
    let publisher = publisher(&mut rig, V5);
    let mut messages = vec![lasting(1)];
    messages.extend((2..=5).map(|id| brief(id, 1)));
    assert_eq!(publish(&mut rig, publisher, &messages), [code::SUCCESS; 5]);
    rig.world.advance(Duration::from_millis(1_000));
    let more: Vec<_> = (6..=9).map(lasting).collect();
    assert_eq!(publish(&mut rig, publisher, &more), [code::SUCCESS; 4]);
    for n in [1, 6, 7, 8, 9] {
        assert_eq!(rig.take_all(client, V5), [format!("lasting {n}").into_bytes()]);
    }
    assert_eq!((expired(&rig), rig.dropped(DropCause::QueueFull)), (4, 0));
}
