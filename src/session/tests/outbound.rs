use super::*;
use AckKind::PubRel;
use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};

/// [MQTT-2.2.1-4] The server gives each new QoS 1 and 2 PUBLISH an identifier not in use;
/// [MQTT-2.2.1-2] none with QoS 0.
#[test]
fn identifiers_are_the_receivers_own_and_in_sequence() {
    let mut rig = Rig::new(Version::V311, 100);
    for (i, qos) in [AtLeastOnce, ExactlyOnce, AtMostOnce, AtLeastOnce].into_iter().enumerate() {
        assert_eq!(rig.send(qos, &i.to_string()), Delivered::Sent);
    }
    let ids: Vec<_> = rig.wire.publishes().into_iter().map(|(id, dup, _)| (id, dup)).collect();
    assert_eq!(ids, [(1, false), (2, false), (0, false), (3, false)]);
    assert_eq!(rig.session.in_flight(), 3);
}

/// [MQTT-2.2.1-4] Identifiers wrap past 65,535, and skip one still in use.
#[test]
fn identifiers_wrap_and_skip() {
    let mut rig = Rig::new(Version::V5, 100);
    assert_eq!(rig.send(AtLeastOnce, "stays"), Delivered::Sent);
    for round in 0..140_000_u32 {
        assert_eq!(rig.send(AtLeastOnce, "x"), Delivered::Sent);
        let (id, ..) = rig.wire.publishes()[if round == 0 { 1 } else { 0 }];
        assert_ne!(id, 1);
        assert_eq!(u32::from(id), round % 65_534 + 2);
        assert_eq!(rig.puback(id), Ok(Acked::Done));
    }
    assert_eq!(rig.session.in_flight(), 1);
    assert_eq!(rig.puback(1), Ok(Acked::Done));
    assert_eq!(rig.session.in_flight(), 0);
}

/// [MQTT-4.9.0-2] No more than the client's Receive Maximum in flight; the rest waits, in order
/// [MQTT-4.6.0-6].
#[test]
fn the_window_is_the_receive_maximum() {
    let mut rig = Rig::new(Version::V5, 2);
    for payload in ["a", "b", "c", "d"] {
        let _ = rig.send(AtLeastOnce, payload);
    }
    assert_eq!(rig.wire.publishes().len(), 2);
    assert_eq!((rig.session.in_flight(), rig.session.queued()), (2, 2));
    // QoS 0 is not held up by it [MQTT-4.9.0-3].
    assert_eq!(rig.send(AtMostOnce, "zero"), Delivered::Sent);
    rig.wire.take();
    assert_eq!(rig.puback(2), Ok(Acked::Done));
    assert_eq!(rig.wire.publishes(), [(3, false, "c".into())]);
    assert_eq!(rig.puback(1), Ok(Acked::Done));
    assert_eq!(rig.wire.publishes(), [(4, false, "d".into())]);
    assert_eq!((rig.session.queued(), rig.session.queued_bytes()), (0, 0));
}

/// The window is bounded by the configuration, too.
#[test]
fn the_window_is_at_most_max_inflight() {
    let mut rig = Rig::new(Version::V311, u16::MAX);
    for _ in 0..150 {
        let _ = rig.send(AtLeastOnce, "m");
    }
    assert_eq!((rig.session.in_flight(), rig.session.queued()), (100, 50));
}

/// [MQTT-4.3.3-1] [MQTT-4.3.3-5] The sender's half of QoS 2: PUBREC is answered with PUBREL, the
/// window is held until PUBCOMP.
#[test]
fn qos2_flow() {
    let mut rig = Rig::new(Version::V5, 1);
    let _ = rig.send(ExactlyOnce, "a");
    let _ = rig.send(ExactlyOnce, "b");
    rig.wire.take();
    assert_eq!(rig.pubrec(1), Ok(Acked::Released));
    assert_eq!(rig.wire.take(), [ok(PubRel, 1)]);
    // A repeated PUBREC is answered again.
    assert_eq!(rig.pubrec(1), Ok(Acked::Released));
    assert_eq!(rig.wire.take(), [ok(PubRel, 1)]);
    assert_eq!(rig.pubcomp(1), Ok(Acked::Done));
    assert_eq!(rig.wire.publishes(), [(2, false, "b".into())]);
}

/// [MQTT-4.3.3-4] A PUBREC with an error ends the flow, and no PUBREL follows.
#[test]
fn pubrec_with_an_error_ends_the_flow() {
    let mut rig = Rig::new(Version::V5, 1);
    let _ = rig.send(ExactlyOnce, "a");
    let _ = rig.send(ExactlyOnce, "b");
    rig.wire.take();
    let (now, wire) = (rig.now, &mut rig.wire);
    let acked = rig.session.pubrec(id(1), ReasonCode::QuotaExceeded, now, wire);
    assert_eq!(acked, Ok(Acked::Done));
    assert_eq!(rig.wire.publishes(), [(2, false, "b".into())]);
}

/// 3.6.2.1, 4.3: strays. A PUBREC that is unknown is answered with PUBREL 0x92 in 5.0, plainly in 3.x;
/// PUBACK and PUBCOMP are ignored.
#[test]
fn unknown_identifiers() {
    for (version, reason) in
        [(Version::V5, ReasonCode::PacketIdentifierNotFound), (Version::V311, ReasonCode::Success)]
    {
        let mut rig = Rig::new(version, 10);
        for in_flight in [false, true] {
            if in_flight {
                let _ = rig.send(AtLeastOnce, "a");
                rig.wire.take();
            }
            assert_eq!(rig.pubrec(7), Ok(Acked::Unknown));
            assert_eq!(rig.wire.take(), [ack(PubRel, 7, reason)]);
            assert_eq!(rig.puback(7), Ok(Acked::Unknown));
            assert_eq!(rig.pubcomp(7), Ok(Acked::Unknown));
            assert!(rig.wire.take().is_empty());
        }
    }
}

/// 4.13: an acknowledgement of the wrong kind is a protocol error.
#[test]
fn the_wrong_acknowledgement_is_a_protocol_error() {
    let mut rig = Rig::new(Version::V5, 10);
    let _ = rig.send(AtLeastOnce, "a");
    let _ = rig.send(ExactlyOnce, "b");
    rig.wire.take();
    let reason = |result: Result<Acked, DecodeError>| result.unwrap_err().reason;
    assert_eq!(reason(rig.pubrec(1)), ReasonCode::ProtocolError);
    assert_eq!(reason(rig.pubcomp(1)), ReasonCode::ProtocolError);
    assert_eq!(reason(rig.puback(2)), ReasonCode::ProtocolError);
    assert_eq!(reason(rig.pubcomp(2)), ReasonCode::ProtocolError);
    assert_eq!(rig.pubrec(2), Ok(Acked::Released));
    assert_eq!(reason(rig.puback(2)), ReasonCode::ProtocolError);
    assert_eq!(rig.session.in_flight(), 2);
}

/// [MQTT-3.3.4-3] Every Subscription Identifier is carried, also when sent from the queue and
/// again.
#[test]
fn subscription_identifiers_and_retain_are_kept() {
    let mut rig = Rig::new(Version::V5, 1);
    let _ = rig.send(AtLeastOnce, "first");
    let m = message("m");
    let d = Delivery { identifiers: &[7, 268_435_455], retain: true, ..delivery(&m, AtLeastOnce) };
    assert_eq!(rig.deliver(&d), Delivered::Queued);
    rig.wire.take();
    assert_eq!(rig.puback(1), Ok(Acked::Done));
    let sent = rig.wire.one_publish();
    assert_eq!((sent.identifiers.as_slice(), sent.retain), (&[7, 268_435_455][..], true));
    rig.disconnect();
    rig.connect(&parameters(Version::V5, 1));
    let again = rig.wire.one_publish();
    assert_eq!(again, Published { dup: true, ..sent });
}

/// [MQTT-3.3.2-5] An expired message is not sent; [MQTT-3.3.2-6] the interval counts down, in the
/// queue, too.
#[test]
fn expiry_counts_down_in_the_queue() {
    let mut rig = Rig::new(Version::V5, 1);
    let _ = rig.send(AtLeastOnce, "first");
    let (short, long) = (expiring("short", 5, T0), expiring("long", 60, T0));
    assert_eq!(rig.deliver(&delivery(&short, AtLeastOnce)), Delivered::Queued);
    assert_eq!(rig.deliver(&delivery(&long, AtLeastOnce)), Delivered::Queued);
    rig.wire.take();
    rig.wait(10);
    assert_eq!(rig.puback(1), Ok(Acked::Done));
    let sent = rig.wire.one_publish();
    assert_eq!((sent.payload.as_slice(), sent.expiry), (&b"long"[..], Some(50)));
    assert_eq!(rig.wire.dropped, [DropCause::Expired]);
    let late = rig.deliver(&delivery(&short, AtMostOnce));
    assert_eq!(late, Delivered::Dropped(DropCause::Expired));
    assert_eq!(rig.session.drops().get(DropCause::Expired), 2);
    assert_eq!(rig.session.drops().total(), 2);
}

/// [MQTT-3.1.2-24] A packet larger than the client's Maximum Packet Size is not sent;
/// [MQTT-3.1.2-25] its delivery counts as completed.
#[test]
fn too_large_packets_are_dropped_and_done() {
    let mut rig = Rig::new(Version::V5, 10);
    rig.disconnect();
    // 2 + 2 + 1 + 2 + 1 bytes around the payload.
    rig.connect(&LinkParameters { maximum_packet_size: 12, ..parameters(Version::V5, 1) });
    let too_large = Delivered::Dropped(DropCause::PacketTooLarge);
    assert_eq!(rig.send(AtLeastOnce, "12345"), too_large);
    assert_eq!(rig.send(AtMostOnce, "1234567"), too_large);
    assert_eq!(rig.send(AtLeastOnce, "1234"), Delivered::Sent);
    assert_eq!(rig.session.in_flight(), 1);
    // From the queue, too.
    assert_eq!(rig.send(AtLeastOnce, "12345"), Delivered::Queued);
    assert_eq!(rig.send(AtLeastOnce, "next"), Delivered::Queued);
    rig.wire.take();
    assert_eq!(rig.puback(1), Ok(Acked::Done));
    assert_eq!(rig.wire.publishes(), [(2, false, "next".into())]);
    assert_eq!(rig.wire.dropped, [DropCause::PacketTooLarge]);
    assert_eq!(rig.session.drops().get(DropCause::PacketTooLarge), 3);
}

/// Output that does not drain: QoS 0 is dropped and counted, QoS 1 and 2 wait for it.
#[test]
fn slow_readers() {
    let mut rig = Rig::new(Version::V311, 10);
    rig.wire.blocked = true;
    assert_eq!(rig.send(AtMostOnce, "a"), Delivered::Dropped(DropCause::SlowReader));
    assert_eq!(rig.send(AtLeastOnce, "b"), Delivered::Queued);
    rig.session.pump(rig.now, &mut rig.wire);
    assert!(rig.wire.publishes().is_empty());
    rig.wire.blocked = false;
    rig.session.pump(rig.now, &mut rig.wire);
    assert_eq!(rig.wire.publishes(), [(1, false, "b".into())]);
    assert_eq!(rig.session.drops().get(DropCause::SlowReader), 1);
}

/// Acknowledgements in any order, with one that never comes, keep the span of slots bounded.
#[test]
fn a_forgotten_message_costs_no_span() {
    let mut rig = Rig::new(Version::V5, 10);
    for _ in 0..5 {
        let _ = rig.send(ExactlyOnce, "stays");
    }
    assert_eq!(rig.pubrec(3), Ok(Acked::Released));
    rig.wire.take();
    for _ in 0..70_000 {
        let _ = rig.send(AtLeastOnce, "x");
        let (packet_id, ..) = rig.wire.publishes()[0];
        assert!(packet_id > 5);
        assert_eq!(rig.puback(packet_id), Ok(Acked::Done));
    }
    assert!(rig.session.active.as_ref().unwrap().window.span() < 300);
    rig.disconnect();
    rig.connect(&parameters(Version::V5, 10));
    let again: Vec<_> = rig.wire.out.clone();
    assert_eq!(again[0], ok(PubRel, 3));
    let ids: Vec<_> = rig.wire.publishes().into_iter().map(|(id, dup, _)| (id, dup)).collect();
    assert_eq!(ids, [(1, true), (2, true), (4, true), (5, true)]);
    for packet_id in [5, 1, 4, 2] {
        assert_eq!(rig.pubrec(packet_id), Ok(Acked::Released));
    }
    for packet_id in 1..=5 {
        assert_eq!(rig.pubcomp(packet_id), Ok(Acked::Done));
    }
    assert_eq!(rig.session.in_flight(), 0);
}

/// The room an idle session takes is bounded.
#[test]
fn an_idle_session_is_small() {
    assert!(size_of::<Session>() <= 200, "{}", size_of::<Session>());
    assert!(size_of::<window::Slot>() <= 64, "{}", size_of::<window::Slot>());
    let mut rig = Rig::new(Version::V5, 10);
    assert!(rig.session.active.is_none());
    let _ = rig.send(AtMostOnce, "a");
    assert!(rig.session.active.is_none());
    assert_eq!(rig.publish(AtLeastOnce, 1, PublishOutcome::KEPT), Verdict::Continue);
    assert!(rig.session.active.is_none());
    let _ = rig.send(AtLeastOnce, "a");
    assert_eq!(rig.puback(1), Ok(Acked::Done));
    rig.disconnect();
    assert!(rig.session.active.is_none());
}
