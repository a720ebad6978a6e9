use super::*;
use AckKind::{PubAck, PubComp, PubRec};
use PublishOutcome as O;
use QoS::{AtLeastOnce, ExactlyOnce};

fn with_receive_maximum(version: Version, our_receive_maximum: u16) -> Rig {
    let mut rig = Rig::new(version, 10);
    rig.connect(&LinkParameters { our_receive_maximum, ..parameters(version, 10) });
    rig
}

/// [MQTT-4.3.2-4] QoS 1 is acknowledged; [MQTT-4.3.2-5] after that the identifier is new, DUP or
/// not.
#[test]
fn qos1() {
    let mut rig = Rig::new(Version::V311, 10);
    for dup in [false, true] {
        assert_eq!(rig.begin(AtLeastOnce, 5, dup), Begin::New);
        let verdict = rig.session.finish_publish(AtLeastOnce, id(5), O::KEPT, &mut rig.wire);
        assert_eq!(verdict, Verdict::Continue);
        assert_eq!(rig.wire.take(), [ok(PubAck, 5)]);
    }
}

/// [MQTT-4.3.3-8] [MQTT-4.3.3-10] [MQTT-4.3.3-11] QoS 2: until PUBREL the same identifier is the
/// same message, DUP or not; after PUBCOMP it is new.
#[test]
fn qos2() {
    let mut rig = Rig::new(Version::V5, 10);
    assert_eq!(rig.publish(ExactlyOnce, 5, O::KEPT), Verdict::Continue);
    assert_eq!(rig.wire.take(), [ok(PubRec, 5)]);
    for dup in [true, false] {
        assert_eq!(rig.begin(ExactlyOnce, 5, dup), Begin::Duplicate);
        assert_eq!(rig.wire.take(), [ok(PubRec, 5)]);
    }
    assert_eq!(rig.pubrel(5), Ok(true));
    assert_eq!(rig.wire.take(), [ok(PubComp, 5)]);
    assert_eq!(rig.publish(ExactlyOnce, 5, O::KEPT), Verdict::Continue);
}

/// [MQTT-4.1.0-1] QoS 2 identifiers received outlive the connection, but not their charge.
#[test]
fn qos2_identifiers_survive_reconnection() {
    let mut rig = with_receive_maximum(Version::V5, 2);
    assert_eq!(rig.publish(ExactlyOnce, 5, O::KEPT), Verdict::Continue);
    assert_eq!(rig.publish(ExactlyOnce, 6, O::KEPT), Verdict::Continue);
    assert_eq!(rig.begin(ExactlyOnce, 7, false), Begin::ReceiveMaximumExceeded);
    rig.disconnect();
    rig.connect(&LinkParameters { our_receive_maximum: 2, ..parameters(Version::V5, 10) });
    assert_eq!(rig.begin(ExactlyOnce, 5, true), Begin::Duplicate);
    assert_eq!(rig.pubrel(6), Ok(true));
    assert_eq!(rig.publish(ExactlyOnce, 7, O::KEPT), Verdict::Continue);
    assert_eq!(rig.begin(ExactlyOnce, 8, false), Begin::ReceiveMaximumExceeded);
    assert_eq!(rig.pubrel(5), Ok(true));
    assert_eq!(rig.pubrel(7), Ok(true));
    assert_eq!(rig.session.inbound_qos2(), 0);
    assert_eq!(rig.session.link.charged, 0);
}

/// [MQTT-4.4.0-1] Whatever is said again on a new connection counts, were it every identifier and more.
#[test]
fn every_identifier_at_once() {
    let parameters =
        LinkParameters { our_receive_maximum: u16::MAX, ..parameters(Version::V311, 10) };
    let mut rig = Rig::new(Version::V311, 10);
    rig.connect(&parameters);
    for packet_id in 1..=u16::MAX {
        assert_eq!(rig.publish(ExactlyOnce, packet_id, O::KEPT), Verdict::Continue);
    }
    assert_eq!(rig.begin(AtLeastOnce, 1, false), Begin::ReceiveMaximumExceeded);
    rig.disconnect();
    rig.connect(&parameters);
    let handed = O { turn: 1, waiting: 0b10, ..O::KEPT };
    assert_eq!(rig.publish(AtLeastOnce, 1, handed), Verdict::Continue);
    rig.disconnect();
    rig.connect(&parameters);
    for packet_id in 1..=u16::MAX {
        assert_eq!(rig.begin(ExactlyOnce, packet_id, true), Begin::Duplicate);
    }
    assert_eq!(rig.begin(AtLeastOnce, 1, true), Begin::Duplicate);
    for packet_id in 1..=u16::MAX {
        assert_eq!(rig.pubrel(packet_id), Ok(true));
    }
    assert_eq!(rig.confirm(&[(1, 1)]), Verdict::Continue);
    assert_eq!((rig.session.link.charged, rig.session.inbound_qos2()), (0, 0));
}

/// 3.7.2.1: PUBREL with an unknown identifier is answered with 0x92 in 5.0, plainly in 3.x.
#[test]
fn pubrel_unknown() {
    for (version, reason) in
        [(Version::V5, ReasonCode::PacketIdentifierNotFound), (Version::V311, ReasonCode::Success)]
    {
        let mut rig = Rig::new(version, 10);
        assert_eq!(rig.pubrel(9), Ok(false));
        assert_eq!(rig.wire.take(), [ack(PubComp, 9, reason)]);
    }
}

/// [MQTT-3.3.4-7] More unacknowledged messages than our Receive Maximum are refused; what was
/// acknowledged, or is the same again, does not count.
#[test]
fn receive_maximum() {
    let mut rig = with_receive_maximum(Version::V5, 3);
    let waiting = O { turn: 1, waiting: 1 << 1, wanted: 1 << 1, kept: false, ..O::KEPT };
    for packet_id in 1..=10 {
        assert_eq!(rig.publish(AtLeastOnce, packet_id, O::KEPT), Verdict::Continue);
    }
    assert_eq!(rig.publish(AtLeastOnce, 1, waiting), Verdict::Continue);
    assert_eq!(rig.publish(ExactlyOnce, 2, waiting), Verdict::Continue);
    assert_eq!(rig.publish(ExactlyOnce, 3, waiting), Verdict::Continue);
    assert_eq!(rig.begin(ExactlyOnce, 3, true), Begin::Duplicate);
    assert_eq!(rig.begin(AtLeastOnce, 4, false), Begin::ReceiveMaximumExceeded);
    assert_eq!(rig.confirm(&[(1, 1)]), Verdict::Continue);
    // QoS 1 is done; QoS 2 counts until PUBCOMP.
    assert_eq!(rig.publish(AtLeastOnce, 4, waiting), Verdict::Continue);
    assert_eq!(rig.begin(AtLeastOnce, 5, false), Begin::ReceiveMaximumExceeded);
    assert_eq!(rig.pubrel(2), Ok(true));
    assert_eq!(rig.begin(AtLeastOnce, 5, false), Begin::New);
}

/// [MQTT-4.3.3-9] A PUBREC with an error frees the identifier.
#[test]
fn refused_qos2_frees_the_identifier() {
    let mut rig = with_receive_maximum(Version::V5, 1);
    let refused = O::refused(ReasonCode::NotAuthorized);
    for _ in 0..3 {
        assert_eq!(rig.publish(ExactlyOnce, 5, refused), Verdict::Continue);
        assert_eq!(rig.wire.take(), [ack(PubRec, 5, ReasonCode::NotAuthorized)]);
    }
    assert_eq!(rig.session.inbound_qos2(), 0);
}

/// The table of held identifiers against a map, with identifiers that collide.
#[test]
fn held_is_a_map() {
    use std::collections::BTreeMap;
    let mut held = crate::session::inbound::Held::default();
    let mut model = BTreeMap::new();
    let mut state = 1_u32;
    for _ in 0..50_000 {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let packet_id = id((((state >> 16) as u16 % 40) * 64 + (state >> 8) as u16 % 3).max(1));
        if state >> 30 < 2 && model.len() < 60 {
            held.insert(packet_id, 1 + (state >> 28) as u8);
            model.insert(packet_id, 1 + (state >> 28) as u8);
        } else {
            assert_eq!(held.remove(packet_id), model.remove(&packet_id).unwrap_or(0));
        }
        assert_eq!(held.len(), model.len());
        assert_eq!(held.get(packet_id), model.get(&packet_id).copied().unwrap_or(0));
    }
    for (&packet_id, &flags) in &model {
        assert_eq!(held.get(packet_id), flags);
    }
}

/// [MQTT-4.3.3-11] [MQTT-4.3.3-12] A PUBREL that is sent again while PUBCOMP waits for the store is answered by
/// that: told that its identifier is unknown, the client would use it again before it is free on disk. So is
/// a PUBREC that is sent again.
#[test]
fn a_second_pubrel_is_answered_with_the_first() {
    for (version, reason) in
        [(Version::V5, ReasonCode::PacketIdentifierNotFound), (Version::V311, ReasonCode::Success)]
    {
        let mut rig = Rig::new(version, 10);
        let journal = Journal::default();
        rig.session.store_as(1, (0, 0), journal.clone(), rig.limits.in_memory);
        assert_eq!(rig.publish(ExactlyOnce, 5, O::KEPT), Verdict::Continue);
        assert_eq!(rig.send(ExactlyOnce, "out"), Delivered::Sent);
        rig.session.send_committed(0, rig.now, &mut rig.wire);
        rig.wire.take();
        let _ = journal.end_turn(1, |_| None);
        for again in [false, true, true] {
            assert_eq!(rig.pubrel(5), Ok(!again));
            assert_eq!(rig.pubrec(1), Ok(Acked::Released));
            assert_eq!(rig.wire.take(), []);
        }
        rig.session.send_committed(1, rig.now, &mut rig.wire);
        assert_eq!(rig.wire.take(), [ok(PubComp, 5), ok(AckKind::PubRel, 1)]);
        assert_eq!(rig.pubrel(5), Ok(false));
        assert_eq!(rig.pubrec(1), Ok(Acked::Released));
        let expected = [ack(PubComp, 5, reason), ok(AckKind::PubRel, 1)];
        assert_eq!(rig.wire.take(), expected);
    }
}
