//! What a session had when it ended: counted as lost, unless its client gave it up, or others have it.

use std::time::Duration;

use sluice::net::sim::ClientId;
use sluice::session::DropCause;

use crate::common::client::subscribe;
use crate::common::connect::Connect;
use crate::common::message::Message;
use crate::common::property::{receive_maximum, session_expiry};
use crate::common::wire;
use crate::common::{V5, code};
use crate::rig::{Rig, pubacks};

/// A client that takes two messages at a time and acknowledges none.
fn idle(expiry: u32) -> Connect {
    let connect = Connect::new(V5, "s").resume();
    connect.with(session_expiry(expiry)).with(receive_maximum(2))
}

/// Has five messages wait for a new client: two in flight, three queued.
fn with_messages(rig: &mut Rig, connect: &Connect, filter: &str) -> ClientId {
    let client = rig.connect(connect);
    rig.send(client, &subscribe(V5, 1, &[(filter, 2)], &[]));
    rig.receive(client);
    let publisher = rig.connect(&Connect::new(V5, "publisher"));
    for id in 1..=5 {
        let message = Message::new("t", "x").qos(1 + (id % 2) as u8).id(id);
        rig.send(publisher, &message.bytes(V5));
    }
    rig.receive(publisher);
    rig.send(publisher, &wire::packet(wire::DISCONNECT, &[]));
    rig.turns(4);
    client
}

fn lost(rig: &Rig) -> u64 {
    rig.dropped(DropCause::SessionEnded)
}

#[test]
fn what_ends_with_a_lost_connection_is_lost() {
    let mut rig = Rig::new(2, "");
    let client = with_messages(&mut rig, &idle(0), "t");
    rig.world.client_close(client);
    rig.turns(4);
    assert_eq!(lost(&rig), 5);
}

#[test]
fn what_an_expired_session_had_is_lost() {
    let mut rig = Rig::new(2, "");
    let client = with_messages(&mut rig, &idle(10), "t");
    rig.send(client, &wire::packet(wire::DISCONNECT, &[]));
    rig.turns(4);
    rig.world.advance(Duration::from_millis(9_900));
    rig.turns(4);
    assert_eq!(lost(&rig), 0);
    rig.world.advance(Duration::from_millis(200));
    rig.turns(4);
    assert_eq!(lost(&rig), 5);
}

/// Section 4.3.3: a QoS 2 message that was answered by PUBREC is the client's.
#[test]
fn what_was_acknowledged_is_not_lost() {
    let mut rig = Rig::new(1, "");
    let client = with_messages(&mut rig, &idle(0), "t");
    // The first is QoS 2; its place is free at PUBCOMP only.
    rig.send(client, &wire::packet(wire::PUBREC, &1_u16.to_be_bytes()));
    rig.world.client_close(client);
    rig.turns(4);
    assert_eq!(lost(&rig), 4);
}

/// Who says goodbye, or begins anew, wants nothing of it any more.
#[test]
fn what_a_client_gives_up_is_not_lost() {
    let anew = Connect::new(V5, "s");
    let goodbye: &dyn Fn(&mut Rig, ClientId) =
        &|rig, client| rig.send(client, &wire::packet(wire::DISCONNECT, &[]));
    let come_again: &dyn Fn(&mut Rig, ClientId) = &|rig, _| {
        rig.connect(&anew);
    };
    let cases = [("goodbye", 0, goodbye), ("again", 0, come_again), ("anew", 60, come_again)];
    for (case, expiry, end) in cases {
        let mut rig = Rig::new(2, "");
        let client = with_messages(&mut rig, &idle(expiry), "t");
        end(&mut rig, client);
        rig.turns(4);
        let publisher = rig.connect(&Connect::new(V5, "publisher"));
        rig.send(publisher, &Message::new("t", "x").qos(1).id(1).bytes(V5));
        let told = pubacks(&rig.receive(publisher), V5);
        assert_eq!(told, [(1, code::NO_MATCHING_SUBSCRIBERS)], "{case}: it ended");
        assert_eq!(lost(&rig), 0, "{case}");
    }
}

/// [MQTT-4.8.2-5] Of a shared group's messages only QoS 2 that was sent is lost.
#[test]
fn what_others_of_a_group_get_is_not_lost() {
    let mut rig = Rig::new(2, "");
    let client = with_messages(&mut rig, &idle(0), "$share/group/t");
    let other = rig.connect(&Connect::new(V5, "other"));
    rig.send(other, &subscribe(V5, 1, &[("$share/group/t", 1)], &[]));
    rig.receive(other);
    rig.world.client_close(client);
    rig.turns(4);
    assert_eq!(rig.take_all(other, V5).len(), 4);
    assert_eq!((lost(&rig), rig.dropped(DropCause::Orphaned)), (1, 0));
}
