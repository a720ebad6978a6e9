//! Back-pressure between shards, step by step: holds, lanes, shared groups all of whose members
//! are full, and what is acknowledged meanwhile.

use std::time::Duration;

use sluice::net::sim::ClientId;
use sluice::session::DropCause;

use crate::common::client::{subscribe, unsubscribe};
use crate::common::connect::Connect;
use crate::common::message::Message;
use crate::common::property;
use crate::common::{Packet, V5, V311, code, wire};
use crate::rig::{Rig, packets, pubacks};

/// QoS 1 messages to one topic, numbered from `first` on.
fn numbered(topic: &str, first: u16, count: u16, payload_len: usize) -> Vec<u8> {
    let publish = |id: u16| {
        let payload = format!("{id:0payload_len$}");
        Message::new(topic, payload).qos(1).id(id).bytes(V5)
    };
    (first..first + count).flat_map(publish).collect()
}

fn numbers(payloads: &[Vec<u8>]) -> Vec<u16> {
    let number = |payload: &Vec<u8>| std::str::from_utf8(payload).unwrap().parse().unwrap();
    payloads.iter().map(number).collect()
}

/// A subscriber on `shard` that takes one message at a time.
fn narrow(rig: &mut Rig, shard: usize, filter: &str) -> ClientId {
    let name = rig.name_at(shard, "narrow");
    let client = rig.connect(&Connect::new(V5, &name).with(property::receive_maximum(1)));
    rig.send(client, &subscribe(V5, 1, &[(filter, 1)], &[]));
    rig.turns(6);
    rig.take(client);
    client
}

const SMALL_QUEUE: &str = "[queue]\nmax_messages = 5\n[overflow]\npatience = \"60s\"";

const SMALL_LANE: &str = "[mailbox]\nmax_bytes = \"4KiB\"\n[limits]\nmax_packet_size = \"4KiB\"\nmax_topic_bytes = \"1KiB\"";

/// A client that is held for a full receiver is held over its next connection as well, be it that
/// its session goes on or that it begins a new one.
#[test]
fn a_new_connection_is_no_way_out_of_a_hold() {
    for lasting in [true, false] {
        for home in [0, 1] {
            let mut rig = Rig::new(2, SMALL_QUEUE);
            let receiver = narrow(&mut rig, 0, "t");
            let name = rig.name_at(home, "publisher");
            let connect =
                if lasting { Connect::lasting(V5, &name) } else { Connect::new(V5, &name) };
            let first = rig.connect(&connect);
            rig.send(first, &numbered("t", 1, 20, 3));
            rig.turns(10);
            let told = pubacks(&rig.receive(first), V5).len();
            assert!(told < 20 || home == 1, "a publisher beside its receiver is held at once");
            let second = rig.connect(&connect);
            rig.send(second, &numbered("t", 101, 20, 3));
            rig.turns(10);
            assert_eq!(rig.receive(second), Vec::<u8>::new(), "lasting {lasting}, home {home}");
            let mut got = Vec::new();
            while got.last() != Some(&120) {
                let more = numbers(&rig.take_all(receiver, V5));
                assert!(!more.is_empty(), "{got:?} came");
                got.extend(more);
            }
            assert_eq!(pubacks(&rig.receive(second), V5).len(), 20, "it goes on");
        }
    }
}

/// A group whose members beside the publisher are full is served by its members on another shard.
#[test]
fn members_with_room_elsewhere_serve_a_group() {
    let mut rig = Rig::new(2, SMALL_QUEUE);
    let _stuck = narrow(&mut rig, 0, "$share/group/t");
    let quick = narrow(&mut rig, 1, "$share/group/t");
    let name = rig.name_at(0, "publisher");
    let publisher = rig.connect(&Connect::new(V5, &name));
    rig.send(publisher, &numbered("t", 1, 100, 3));
    let mut told = Vec::new();
    for _ in 0..120 {
        rig.take_all(quick, V5);
        told.extend(pubacks(&rig.receive(publisher), V5));
    }
    assert_eq!(told.len(), 100);
    assert!(told.iter().all(|&(_, reason)| reason == code::SUCCESS));
}

/// However much comes from another shard before its publisher is held: what a full receiver, or a full
/// group, cannot take yet is kept for it.
#[test]
fn what_was_on_its_way_to_a_full_receiver_comes() {
    let toml = "[queue]\nmax_messages = 5\nmax_bytes = \"20KiB\"\n\
                [mailbox]\nmax_bytes = \"64KiB\"\n\
                [limits]\nmax_packet_size = \"8KiB\"\n[overflow]\npatience = \"60s\"";
    for filter in ["t", "$share/group/t"] {
        let mut rig = Rig::with_buffers(1 << 20, 2, toml);
        let receiver = narrow(&mut rig, 1, filter);
        let name = rig.name_at(0, "publisher");
        let publisher = rig.connect(&Connect::new(V5, &name));
        let messages = numbered("t", 1, 200, 4_000);
        let mut sent = 0;
        let mut got = Vec::new();
        let mut told = Vec::new();
        while sent < messages.len() || told.len() < 200 {
            // Whoever publishes is far ahead of who receives.
            sent += rig.world.client_send(publisher, &messages[sent..]).unwrap_or(0);
            rig.turns_of(0, 20);
            got.extend(numbers(&rig.take_all(receiver, V5)));
            told.extend(pubacks(&rig.receive(publisher), V5));
        }
        assert!(told.iter().all(|&(_, reason)| reason == code::SUCCESS), "{told:?}");
        while got.len() < 200 {
            let more = rig.take_all(receiver, V5);
            assert!(!more.is_empty(), "{} came", got.len());
            got.extend(numbers(&more));
        }
        assert_eq!(rig.dropped(DropCause::QueueFull), 0);
    }
}

/// A message for a group whose members have left the shard it was sent to is acknowledged when a
/// shard has it, not when it is on its way there.
#[test]
fn a_message_passed_on_is_not_acknowledged_on_the_way() {
    let mut rig = Rig::new(3, SMALL_LANE);
    let leaving = narrow(&mut rig, 1, "$share/group/t");
    let staying = narrow(&mut rig, 2, "$share/group/t");
    let name = rig.name_at(0, "publisher");
    let publisher = rig.connect(&Connect::new(V5, &name));
    let name = rig.name_at(0, "reader");
    let reader = rig.connect(&Connect::new(V311, &name));
    rig.send(reader, &subscribe(V311, 1, &[("fill", 0)], &[]));
    let name = rig.name_at(1, "filler");
    let filler = rig.connect(&Connect::new(V311, &name));
    rig.send(publisher, &numbered("t", 1, 1, 3));
    rig.turns(6);
    assert_eq!(pubacks(&rig.receive(publisher), V5), [(1, code::SUCCESS)], "it went to shard 2");
    // The lane from shard 1 to shard 0 is full when the member leaves: shard 0 learns of it late.
    let fill = Message::new("fill", "x".repeat(3_000)).bytes(V311).repeat(2);
    rig.world.client_send(filler, &fill).unwrap();
    rig.turns_of(1, 1);
    rig.world.client_send(leaving, &wire::packet(wire::DISCONNECT, &[])).unwrap();
    rig.turns_of(1, 2);
    rig.world.client_send(publisher, &numbered("t", 2, 2, 3)).unwrap();
    rig.turns_of(0, 1);
    for _ in 0..5 {
        rig.turns_of(1, 1);
        rig.turns_of(0, 1);
    }
    let on_the_way = rig.take(publisher);
    assert_eq!(on_the_way, Vec::<u8>::new(), "shard 2 has seen nothing yet");
    let mut got = Vec::new();
    for _ in 0..4 {
        got.extend(numbers(&rig.take_all(staying, V5)));
    }
    got.sort_unstable();
    assert_eq!(got, [1, 2, 3]);
    assert_eq!(pubacks(&rig.receive(publisher), V5), [(2, code::SUCCESS), (3, code::SUCCESS)]);
}

/// What a member of a group leaves behind with nobody else in it is counted.
#[test]
fn what_the_last_member_leaves_behind_is_counted() {
    let mut rig = Rig::new(2, "");
    let member = narrow(&mut rig, 1, "$share/group/t");
    let name = rig.name_at(0, "publisher");
    let publisher = rig.connect(&Connect::new(V5, &name));
    rig.send(publisher, &numbered("t", 1, 4, 3));
    rig.turns(6);
    assert_eq!(pubacks(&rig.receive(publisher), V5).len(), 4);
    rig.send(member, &wire::packet(wire::DISCONNECT, &[]));
    rig.turns(6);
    assert_eq!(rig.dropped(DropCause::Orphaned), 4);
}

/// A publisher whose lane has room again goes on, though another lane is still full.
#[test]
fn lanes_are_released_one_by_one() {
    let mut rig = Rig::new(3, SMALL_LANE);
    let mut publishers = Vec::new();
    for shard in [1, 2] {
        let name = rig.name_at(shard, "subscriber");
        let subscriber = rig.connect(&Connect::new(V311, &name));
        rig.send(subscriber, &subscribe(V311, 1, &[(&format!("to/{shard}"), 0)], &[]));
        let name = rig.name_at(0, &format!("publisher{shard}-"));
        publishers.push((shard, rig.connect(&Connect::new(V311, &name))));
    }
    rig.turns(6);
    let ping = wire::packet(wire::PINGREQ, &[]);
    for &(shard, publisher) in &publishers {
        let message = Message::new(&format!("to/{shard}"), "x".repeat(3_000)).bytes(V311);
        for _ in 0..4 {
            rig.world.client_send(publisher, &message).unwrap();
            rig.turns_of(0, 1);
        }
        rig.world.client_send(publisher, &ping).unwrap();
    }
    rig.turns_of(0, 3);
    let (first, second) = (publishers[0].1, publishers[1].1);
    assert_eq!(
        [rig.take(first), rig.take(second)].concat(),
        Vec::<u8>::new(),
        "both lanes are full"
    );
    for _ in 0..6 {
        rig.turns_of(2, 1);
        rig.turns_of(0, 1);
    }
    assert_eq!(rig.take(second), [wire::PINGRESP, 0]);
    assert_eq!(rig.take(first), Vec::<u8>::new(), "shard 1 still has taken nothing");
    rig.turns(6);
    assert_eq!(rig.take(first), [wire::PINGRESP, 0]);
}

const SMALL_TOTAL: &str = "[queue]\nmax_bytes = \"64KiB\"\nmax_total_bytes = \"64KiB\"\n\
    [limits]\nmax_packet_size = \"8KiB\"\n[overflow]\npatience = \"60s\"";

/// A session on `shard` that is not connected.
fn absent(rig: &mut Rig, shard: usize, filter: &str) -> Connect {
    let connect = Connect::lasting(V5, &rig.name_at(shard, "absent"));
    let client = rig.connect(&connect);
    rig.send(client, &subscribe(V5, 1, &[(filter, 1)], &[]));
    rig.turns(6);
    rig.world.client_close(client);
    rig.turns(4);
    connect
}

/// Publishes one by one; the Reason Codes.
fn one_by_one(rig: &mut Rig, publisher: ClientId, topic: &str, count: u16) -> Vec<u8> {
    let one = |id| {
        rig.send(publisher, &numbered(topic, id, 1, 4_000));
        rig.turns(4);
        let told = pubacks(&rig.receive(publisher), V5);
        assert_eq!(told.len(), 1);
        told[0].1
    };
    (1..=count).map(one).collect()
}

/// `queue.max_total_bytes` bounds what waits for all sessions, on whatever shards: for an absent session
/// the overflow rule holds then. What is taken out gives room.
#[test]
fn all_queues_together_are_bounded() {
    let mut rig = Rig::new(2, SMALL_TOTAL);
    let sessions = [absent(&mut rig, 0, "t/0"), absent(&mut rig, 1, "t/1")];
    let publisher = rig.connect(&Connect::new(V5, "publisher"));
    let mut kept = Vec::new();
    for topic in ["t/0", "t/1", "t/0"] {
        let codes = one_by_one(&mut rig, publisher, topic, 10);
        let successes = codes.iter().take_while(|&&one| one == code::SUCCESS).count();
        assert!(codes[successes..].iter().all(|&one| one == code::QUOTA_EXCEEDED), "{codes:x?}");
        kept.push(successes);
    }
    let total: usize = kept.iter().sum();
    assert!((12..=16).contains(&total), "{kept:?} of 4,000 bytes in 64 KiB");
    assert_eq!(rig.dropped(DropCause::QueueFull), 30 - total as u64);
    for (connect, count) in sessions.iter().zip([kept[0] + kept[2], kept[1]]) {
        let client = rig.world.connect();
        rig.send(client, &connect.bytes());
        assert_eq!(rig.take_all(client, V5).len(), count);
        rig.turns(4);
        rig.world.client_close(client);
        rig.turns(4);
    }
    assert_eq!(one_by_one(&mut rig, publisher, "t/1", 10), [code::SUCCESS; 10]);
}

/// While all that may be queued is, a connected receiver counts as full: its publishers wait, and what
/// they send comes as it acknowledges.
#[test]
fn a_receiver_slows_its_publishers_when_all_queues_are_full() {
    for shard in [0, 1] {
        let mut rig = Rig::new(2, SMALL_TOTAL);
        absent(&mut rig, 0, "hog");
        let name = rig.name_at(0, "publisher");
        let publisher = rig.connect(&Connect::new(V5, &name));
        one_by_one(&mut rig, publisher, "hog", 20);
        let receiver = narrow(&mut rig, shard, "t");
        let messages = numbered("t", 1, 40, 4_000);
        let mut sent = rig.send_until_stuck(publisher, &messages);
        assert!(sent < messages.len(), "its publisher is slowed");
        let (mut got, mut told) = (Vec::new(), Vec::new());
        while got.len() < 40 {
            let more = numbers(&rig.take_all(receiver, V5));
            assert!(!more.is_empty(), "{} came", got.len());
            got.extend(more);
            sent += rig.send_until_stuck(publisher, &messages[sent..]);
            told.extend(pubacks(&rig.receive(publisher), V5));
        }
        assert!(got.iter().copied().eq(1..=40));
        assert!(told.len() == 40 && told.iter().all(|&(_, reason)| reason == code::SUCCESS));
    }
}

/// A reader that does not read at all, and what is sent to it, hold nobody up for longer than patience;
/// QoS 1 messages it was not sent wait for its next connection.
#[test]
fn a_reader_that_never_reads_is_got_rid_of() {
    let toml = "[queue]\nmax_messages = 10\nqos0_backlog_bytes = \"16KiB\"\n\
                [limits]\nmax_packet_size = \"8KiB\"\n[overflow]\npatience = \"100ms\"";
    for home in [0, 1] {
        let mut rig = Rig::new(2, toml);
        let connect = Connect::lasting(V311, &rig.name_at(home, "dead"));
        let dead = rig.connect(&connect);
        rig.send(dead, &subscribe(V311, 1, &[("t", 1)], &[]));
        rig.turns(6);
        let name = rig.name_at(0, "publisher");
        let publisher = rig.connect(&Connect::new(V5, &name));
        let messages = numbered("t", 1, 100, 4_000);
        let mut sent = rig.send_until_stuck(publisher, &messages);
        assert!(sent < messages.len(), "its publisher is slowed");
        rig.world.advance(Duration::from_millis(150));
        rig.turns(6);
        sent += rig.send_until_stuck(publisher, &messages[sent..]);
        assert_eq!(sent, messages.len(), "its publisher goes on");
        let told = pubacks(&rig.receive(publisher), V5);
        let kept = told.iter().filter(|(_, reason)| *reason == code::SUCCESS).count();
        assert!(told.len() == 100 && (10..100).contains(&kept), "{kept} of {}", told.len());
        let back = rig.world.connect();
        rig.send(back, &connect.bytes());
        rig.turns(6);
        let packets = packets(&rig.receive(back), V311);
        assert!(matches!(&packets[0], Packet::ConnAck(connack) if connack.session_present));
        assert!(matches!(&packets[1], Packet::Publish(publish) if publish.dup), "it had been sent");
        assert_eq!(packets.len(), 1 + kept);
    }
}

/// A client that goes on publishing while another shard confirms nothing is not read for as long, so
/// what waits to be acknowledged is bounded, also in 3.x, which knows no Receive Maximum.
#[test]
fn a_publisher_is_not_read_while_too_many_acknowledgements_wait() {
    let mut rig = Rig::with_buffers(4096, 2, "[queue]\nmax_messages = 5000");
    let name = rig.name_at(1, "receiver");
    let receiver = rig.connect(&Connect::new(V5, &name));
    rig.send(receiver, &subscribe(V5, 1, &[("t", 1)], &[]));
    rig.receive(receiver);
    let name = rig.name_at(0, "publisher");
    let publisher = rig.connect(&Connect::new(V311, &name));
    let message = |id| Message::new("t", "text").qos(1).id(id).bytes(V311);
    let messages: Vec<u8> = (1..=5000).flat_map(message).collect();
    let mut sent = 0;
    for _ in 0..100 {
        sent += rig.world.client_send(publisher, &messages[sent..]).unwrap_or(0);
        rig.turns_of(0, 1);
    }
    let most = 1024 * message(1).len() + 4 * 4096;
    assert!(sent < most, "{sent} bytes were taken in, of {}", messages.len());
    let mut acknowledged = 0;
    for _ in 0..1000 {
        sent += rig.world.client_send(publisher, &messages[sent..]).unwrap_or(0);
        rig.turns(1);
        rig.take_all(receiver, V5);
        acknowledged += pubacks(&rig.take(publisher), V311).len();
        if acknowledged == 5000 {
            return;
        }
    }
    panic!("{acknowledged} of 5000 were acknowledged");
}

/// Patience is a session's, not a connection's: whoever connects again and again, and acknowledges
/// nothing, slows publishers for no longer. Once its queue has drained it has its patience anew.
#[test]
fn a_new_connection_is_no_new_patience() {
    for online in ["disconnect", "drop_newest", "drop_oldest"] {
        let toml = format!(
            "[queue]\nmax_messages = 5\n[overflow]\npatience = \"2s\"\nonline = \"{online}\""
        );
        for home in [0, 1] {
            let mut rig = Rig::new(2, &toml);
            let name = rig.name_at(home, "idle");
            let connect = Connect::lasting(V5, &name).with(property::receive_maximum(1));
            let idle = rig.connect(&connect);
            rig.send(idle, &subscribe(V5, 1, &[("t", 1)], &[]));
            let name = rig.name_at(0, "publisher");
            let publisher = rig.connect(&Connect::new(V5, &name));
            rig.send(publisher, &numbered("t", 1, 100, 3));
            for _ in 0..3 {
                rig.connect(&connect);
                rig.world.advance(Duration::from_millis(900));
                rig.turns(10);
            }
            assert_eq!(pubacks(&rig.receive(publisher), V5).len(), 100, "{online}, {home}");
            // The session suffers until it has drained.
            let back = rig.connect(&connect);
            rig.send(publisher, &numbered("t", 101, 20, 3));
            rig.turns(10);
            assert_eq!(pubacks(&rig.receive(publisher), V5).len(), 20, "{online}, {home}");
            rig.world.client_close(back);
            rig.turns(4);
            let back = rig.world.connect();
            rig.send(back, &connect.bytes());
            while !rig.take_all(back, V5).is_empty() {}
            rig.send(publisher, &numbered("t", 201, 100, 3));
            rig.turns(10);
            let told = pubacks(&rig.receive(publisher), V5).len();
            let mut got = 0;
            while got < 100 {
                let more = rig.take_all(back, V5).len();
                assert!(more > 0, "{got} came: {online}, {home}, {told} told");
                got += more;
            }
        }
    }
}

/// Nobody waits for a full receiver that does not want his messages any more.
#[test]
fn who_unsubscribes_slows_nobody() {
    for home in [0, 1] {
        let mut rig = Rig::new(2, SMALL_QUEUE);
        let receiver = narrow(&mut rig, home, "t");
        let name = rig.name_at(0, "publisher");
        let publisher = rig.connect(&Connect::new(V5, &name));
        let mut messages = numbered("t", 1, 20, 3);
        messages.extend([wire::PINGREQ, 0]);
        rig.send(publisher, &messages);
        rig.turns(10);
        let before = rig.receive(publisher);
        assert!(!before.ends_with(&[wire::PINGRESP, 0]) || home == 1, "it is held");
        rig.send(publisher, &[wire::PINGREQ, 0]);
        assert!(!rig.receive(publisher).ends_with(&[wire::PINGRESP, 0]), "it is held");
        rig.send(receiver, &unsubscribe(V5, 2, &["t"]));
        rig.turns(10);
        assert!(rig.receive(publisher).ends_with(&[wire::PINGRESP, 0]), "home {home}");
    }
}
