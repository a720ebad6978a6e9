use super::*;
use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};

fn offline(limits: SessionLimits) -> Rig {
    let mut rig = Rig::new(Version::V5, 10);
    rig.limits = limits;
    rig.disconnect();
    rig
}

/// 4.1: QoS 1 and 2 messages for an absent client are stored; QoS 0 only if configured.
#[test]
fn an_absent_client_gets_what_was_queued_in_order() {
    let mut rig = offline(LIMITS);
    assert_eq!(rig.send(AtLeastOnce, "a"), Delivered::Queued);
    assert_eq!(rig.send(AtMostOnce, "b"), Delivered::Dropped(DropCause::Offline));
    assert_eq!(rig.send(ExactlyOnce, "c"), Delivered::Queued);
    rig.connect(&parameters(Version::V5, 10));
    assert_eq!(rig.wire.publishes(), [(1, false, "a".into()), (2, false, "c".into())]);
}

/// [MQTT-4.6.0-6] A QoS 0 message does not overtake an earlier one that was queued.
#[test]
fn queued_qos0_keeps_its_order() {
    let mut rig = offline(SessionLimits { queue_qos0: true, ..LIMITS });
    for (qos, payload) in [(AtMostOnce, "1"), (AtLeastOnce, "x"), (AtMostOnce, "2")] {
        assert_eq!(rig.send(qos, payload), Delivered::Queued);
    }
    rig.wire.blocked = true;
    rig.connect(&parameters(Version::V5, 10));
    assert_eq!(rig.session.direct(b"t", 10), Direct::Deliver);
    assert_eq!(rig.send(AtMostOnce, "3"), Delivered::Queued);
    rig.wire.blocked = false;
    rig.session.pump(rig.now, &mut rig.wire);
    let order: Vec<_> = rig.wire.publishes().into_iter().map(|(_, _, p)| p).collect();
    assert_eq!(order, ["1", "x", "2", "3"]);
    assert_eq!(rig.session.direct(b"t", 10), Direct::Plain);
    assert_eq!(rig.send(AtMostOnce, "4"), Delivered::Sent);
}

/// Nothing is sent before the session was resumed: CONNACK comes first [MQTT-3.2.0-1].
#[test]
fn nothing_is_sent_before_resume() {
    let mut rig = offline(LIMITS);
    rig.session.connect(&parameters(Version::V5, 10), &LIMITS, T0);
    assert_eq!(rig.send(AtLeastOnce, "a"), Delivered::Queued);
    assert_eq!(rig.session.direct(b"t", 10), Direct::Deliver);
    assert!(rig.wire.take().is_empty());
    rig.session.resume(T0, &mut rig.wire);
    assert_eq!(rig.wire.publishes().len(), 1);
}

/// The queue is bounded by count; what to do when it is full is said by the caller.
#[test]
fn bounded_by_count() {
    let mut rig = offline(SessionLimits { max_queued_messages: 2, ..LIMITS });
    assert!(rig.session.has_room(1, &rig.limits));
    assert_eq!(rig.send(AtLeastOnce, "a"), Delivered::Queued);
    assert_eq!(rig.send(AtLeastOnce, "b"), Delivered::Queued);
    assert!(rig.session.is_full(&rig.limits));
    assert_eq!(rig.send(AtLeastOnce, "c"), Delivered::Full);
    assert_eq!(rig.session.drops().total(), 0);
    // Drop the newest: it is counted, that is all.
    rig.session.count_drops(DropCause::QueueFull, 1);
    // Drop the oldest: then it fits.
    let m = message("d");
    assert_eq!(rig.session.drop_oldest(m.size(), &rig.limits), 1);
    assert_eq!(rig.send(AtLeastOnce, "d"), Delivered::Queued);
    assert_eq!(rig.session.drops().get(DropCause::QueueFull), 2);
    rig.connect(&parameters(Version::V5, 10));
    assert_eq!(rig.wire.publishes(), [(1, false, "b".into()), (2, false, "d".into())]);
}

/// The queue is bounded by bytes, too, and knows what it holds.
#[test]
fn bounded_by_bytes() {
    let size = message("12345").size();
    let max_queued_bytes = 3 * size as u64 - 1;
    let mut rig = offline(SessionLimits { max_queued_bytes, ..LIMITS });
    assert_eq!(rig.send(AtLeastOnce, "12345"), Delivered::Queued);
    assert_eq!(rig.send(AtLeastOnce, "12345"), Delivered::Queued);
    assert_eq!(rig.send(AtLeastOnce, "12345"), Delivered::Full);
    assert!(!rig.session.has_room(size, &rig.limits));
    assert!(rig.session.has_room(size - 1, &rig.limits));
    assert_eq!(rig.session.queued_bytes(), 2 * size as u64);
    assert_eq!(rig.session.drop_oldest(2 * size, &rig.limits), 2);
    assert_eq!((rig.session.queued_bytes(), rig.session.queued()), (0, 0));
    // What can never fit empties the queue, and no more.
    assert_eq!(rig.session.drop_oldest(9 * size, &rig.limits), 0);
}

/// [MQTT-4.6.0-6] What was dropped to make room would come back in a crash as long as that is not committed, and
/// then behind what was sent since: so that waits.
#[test]
fn what_is_sent_after_a_drop_waits_for_its_commit() {
    let mut rig = Rig::new(Version::V5, 1);
    rig.limits.max_queued_messages = 2;
    let journal = Journal::default();
    rig.session.store_as(1, (7, 7), journal.clone(), rig.limits.in_memory);
    let end_turn = |next| journal.end_turn(next, |_| None).1;
    for (payload, delivered) in [("a", Delivered::Sent), ("b", Delivered::Queued)] {
        assert_eq!(rig.send(AtLeastOnce, payload), delivered);
    }
    assert_eq!(rig.send(AtLeastOnce, "c"), Delivered::Queued);
    assert_eq!(end_turn(1), []);
    assert_eq!(rig.session.drop_oldest(1, &rig.limits), 1);
    assert_eq!(end_turn(2), [(7, 7)], "it is told");
    assert_eq!(rig.wire.publishes(), [(1, false, "a".into())]);
    assert_eq!(rig.puback(1), Ok(Acked::Done));
    assert!(rig.wire.publishes().is_empty());
    assert_eq!(end_turn(3), [(7, 7)]);
    rig.session.send_committed(1, rig.now, &mut rig.wire);
    assert!(rig.wire.publishes().is_empty());
    rig.session.send_committed(2, rig.now, &mut rig.wire);
    assert_eq!(rig.wire.publishes(), [(2, false, "c".into())]);
    assert_eq!(rig.puback(2), Ok(Acked::Done));
    assert_eq!(rig.send(AtLeastOnce, "d"), Delivered::Sent);
    assert_eq!(rig.wire.publishes(), [(3, false, "d".into())]);
}

/// Who published it waits for what was noted before. At QoS 2 the message itself waits.
#[test]
fn nobody_waits_until_it_is_stored_that_a_queued_message_is_in_flight() {
    for (qos, settled) in [(AtLeastOnce, 2), (ExactlyOnce, 0)] {
        let mut rig = Rig::new(Version::V5, 1);
        let journal = Journal::default();
        rig.session.store_as(1, (7, 7), journal.clone(), rig.limits.in_memory);
        assert_eq!(rig.send(AtLeastOnce, "a"), Delivered::Sent);
        assert_eq!(rig.send(qos, "b"), Delivered::Queued);
        let _ = journal.end_turn(1, |_| None);
        assert_eq!(rig.puback(1), Ok(Acked::Done));
        let _ = journal.end_turn(2, |_| None);
        if qos == AtLeastOnce {
            assert_eq!(rig.puback(2), Ok(Acked::Done));
            let _ = journal.end_turn(3, |_| None);
        }
        assert_eq!(journal.settle(0), settled, "{qos:?}");
    }
}

/// A connected client with room in its window has room, whatever the queue may hold.
#[test]
fn the_window_counts_as_room() {
    let mut rig = Rig::new(Version::V5, 1);
    rig.limits.max_queued_messages = 0;
    assert!(rig.session.has_room(1, &rig.limits));
    assert_eq!(rig.send(AtLeastOnce, "a"), Delivered::Sent);
    assert!(rig.session.is_full(&rig.limits));
    assert_eq!(rig.send(AtLeastOnce, "b"), Delivered::Full);
    assert_eq!(rig.puback(1), Ok(Acked::Done));
    assert!(rig.session.has_room(1, &rig.limits));
}

/// What was sent and is not acknowledged is bounded in bytes as well; a message that alone is more is
/// in flight alone.
#[test]
fn bytes_in_flight_are_bounded() {
    let size = message("12345").size();
    let mut rig = Rig::new(Version::V5, 10);
    rig.limits.max_inflight_bytes = 2 * size as u32;
    rig.disconnect();
    rig.connect(&parameters(Version::V5, 10));
    let large = "x".repeat(1000);
    let qos = [AtLeastOnce, ExactlyOnce, AtLeastOnce];
    assert_eq!(qos.map(|qos| rig.send(qos, "12345")), {
        use Delivered::{Queued, Sent};
        [Sent, Sent, Queued]
    });
    assert_eq!(rig.send(AtLeastOnce, &large), Delivered::Queued);
    assert_eq!(rig.wire.publishes().len(), 2);
    // A message of which PUBREC came is the client's.
    assert_eq!(rig.pubrec(2), Ok(Acked::Released));
    rig.wire.take();
    assert_eq!(rig.puback(1), Ok(Acked::Done));
    assert_eq!(rig.wire.publishes(), [(3, false, "12345".into())], "and the large one waits");
    assert_eq!(rig.puback(3), Ok(Acked::Done));
    assert_eq!(rig.wire.publishes(), [(4, false, large.clone())]);
    assert_eq!(rig.send(AtLeastOnce, "a"), Delivered::Queued);
    // The same holds for what is sent again.
    rig.disconnect();
    rig.connect(&parameters(Version::V5, 10));
    rig.wire.take();
    assert_eq!(rig.puback(4), Ok(Acked::Done));
    assert_eq!(rig.wire.publishes(), [(5, false, "a".into())]);
}

/// Of several messages to be sent again, as many go at once as may be in flight.
#[test]
fn bytes_sent_again_are_bounded() {
    let size = message("12345").size();
    let mut rig = Rig::new(Version::V5, 10);
    for _ in 0..4 {
        assert_eq!(rig.send(AtLeastOnce, "12345"), Delivered::Sent);
    }
    rig.disconnect();
    rig.limits.max_inflight_bytes = 3 * size as u32 - 1;
    rig.connect(&parameters(Version::V5, 10));
    let ids = |rig: &mut Rig| -> Vec<u16> {
        rig.wire.publishes().into_iter().map(|(id, _, _)| id).collect()
    };
    assert_eq!(ids(&mut rig), [1, 2]);
    assert_eq!(rig.puback(1), Ok(Acked::Done));
    assert_eq!(ids(&mut rig), [3]);
    assert_eq!(rig.puback(2), Ok(Acked::Done));
    assert_eq!(ids(&mut rig), [4]);
}
