use super::*;
use AckKind::PubRel;
use QoS::{AtLeastOnce, ExactlyOnce};

const AFTER: [Duration; 3] =
    [Duration::from_secs(10), Duration::from_secs(20), Duration::from_secs(60)];

/// [MQTT-4.4.0-1] [MQTT-4.6.0-1] [MQTT-3.3.1-1] On resume what is unacknowledged is sent again
/// with DUP, the same identifiers, in order; then new messages.
#[test]
fn resends_in_order_with_dup() {
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut rig = Rig::new(version, 3);
        for payload in ["a", "b", "c", "d"] {
            let _ = rig.send(AtLeastOnce, payload);
        }
        assert_eq!(rig.puback(2), Ok(Acked::Done));
        rig.disconnect();
        let _ = rig.send(AtLeastOnce, "e");
        rig.connect(&parameters(version, 4));
        let sent = rig.wire.publishes();
        let expected = [(1, true, "a"), (3, true, "c"), (4, true, "d"), (5, false, "e")];
        assert_eq!(sent, expected.map(|(id, dup, p)| (id, dup, p.to_string())));
    }
}

/// [MQTT-4.6.0-4] PUBRELs are sent again in the order of the PUBRECs; [MQTT-4.3.3-7] what was
/// released is not published again.
#[test]
fn resends_pubrel_in_the_order_of_pubrec() {
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut rig = Rig::new(version, 10);
        for payload in ["a", "b", "c"] {
            let _ = rig.send(ExactlyOnce, payload);
        }
        for packet_id in [3, 1] {
            assert_eq!(rig.pubrec(packet_id), Ok(Acked::Released));
        }
        rig.disconnect();
        rig.connect(&parameters(version, 10));
        assert_eq!(rig.wire.out[..2], [ok(PubRel, 3), ok(PubRel, 1)]);
        assert_eq!(rig.wire.publishes(), [(2, true, "b".into())]);
    }
}

/// [MQTT-4.9.0-2] A Receive Maximum smaller than before bounds what is sent again, too.
#[test]
fn a_smaller_window_bounds_what_is_sent_again() {
    let mut rig = Rig::new(Version::V5, 10);
    for payload in ["a", "b", "c", "d"] {
        let _ = rig.send(AtLeastOnce, payload);
    }
    rig.disconnect();
    rig.connect(&parameters(Version::V5, 2));
    assert_eq!(rig.wire.publishes(), [(1, true, "a".into()), (2, true, "b".into())]);
    assert_eq!(rig.send(AtLeastOnce, "e"), Delivered::Queued);
    // One acknowledged before it was sent again is not sent again.
    assert_eq!(rig.puback(3), Ok(Acked::Done));
    assert!(rig.wire.publishes().is_empty());
    assert_eq!(rig.puback(1), Ok(Acked::Done));
    assert_eq!(rig.wire.publishes(), [(4, true, "d".into())]);
    assert_eq!(rig.puback(2), Ok(Acked::Done));
    assert_eq!(rig.wire.publishes(), [(5, false, "e".into())]);
    // And again a smaller one, in the middle of it.
    rig.disconnect();
    rig.connect(&parameters(Version::V5, 1));
    assert_eq!(rig.wire.publishes(), [(4, true, "d".into())]);
    rig.disconnect();
    rig.connect(&parameters(Version::V5, 1));
    assert_eq!(rig.wire.publishes(), [(4, true, "d".into())]);
    assert_eq!(rig.puback(4), Ok(Acked::Done));
    assert_eq!(rig.wire.publishes(), [(5, true, "e".into())]);
}

/// [MQTT-4.4.0-1] Delivery that has begun goes on, past the expiry; [MQTT-3.3.2-6] with what is
/// left of it.
#[test]
fn resends_with_the_remaining_expiry() {
    let mut rig = Rig::new(Version::V5, 10);
    let m = expiring("m", 30, T0);
    assert_eq!(rig.deliver(&delivery(&m, ExactlyOnce)), Delivered::Sent);
    for (waited, left) in [(10, 20), (30, 0)] {
        rig.disconnect();
        rig.wait(waited);
        rig.connect(&parameters(Version::V5, 10));
        let sent = rig.wire.one_publish();
        assert_eq!((sent.expiry, sent.dup), (Some(left), true));
    }
}

/// [MQTT-3.1.2-25] What is too large for the new connection counts as delivered.
#[test]
fn too_large_for_the_new_connection() {
    let mut rig = Rig::new(Version::V5, 10);
    let _ = rig.send(AtLeastOnce, "large enough");
    let _ = rig.send(AtLeastOnce, "b");
    rig.disconnect();
    rig.connect(&LinkParameters { maximum_packet_size: 12, ..parameters(Version::V5, 10) });
    assert_eq!(rig.wire.publishes(), [(2, true, "b".into())]);
    assert_eq!((rig.session.in_flight(), rig.session.drops().total()), (1, 1));
}

/// Takeover: the flows of the old connection go on in the new one [MQTT-3.1.4-3].
#[test]
fn takeover_resumes() {
    let mut rig = Rig::new(Version::V5, 10);
    let _ = rig.send(AtLeastOnce, "a");
    rig.wire.take();
    rig.connect(&parameters(Version::V311, 10));
    assert_eq!(rig.wire.publishes(), [(1, true, "a".into())]);
}

/// 4.4 of 3.1.1: timed redelivery, as configured: each interval once, then giving up.
#[test]
fn timed_redelivery() {
    let mut rig = Rig::new(Version::V311, 10);
    let _ = rig.send(AtLeastOnce, "a");
    rig.wait(4);
    let _ = rig.send(ExactlyOnce, "b");
    assert_eq!(rig.pubrec(2), Ok(Acked::Released));
    rig.wire.take();
    let mut due = Vec::new();
    let mut give_up = false;
    while !give_up {
        let outcome = rig.session.retry(rig.now, &AFTER, true, &mut rig.wire);
        for out in rig.wire.take() {
            let after = rig.now.since(T0).as_secs();
            match out {
                Out::Publish(p) if p.dup => due.push((after, p.id)),
                Out::Ack(PubRel, id, _) => due.push((after, id)),
                other => panic!("{other:?}"),
            }
        }
        give_up = outcome.give_up;
        rig.now = outcome.next.unwrap();
    }
    assert_eq!(due, [(10, 1), (14, 2), (30, 1), (34, 2), (90, 1), (94, 2), (150, 1)]);
    assert_eq!(rig.puback(1), Ok(Acked::Done));
    assert_eq!(rig.pubcomp(2), Ok(Acked::Done));
    let outcome = rig.session.retry(rig.now, &AFTER, true, &mut rig.wire);
    assert_eq!(outcome, RetryOutcome { next: None, give_up: false });
}

/// [MQTT-4.4.0-1] 5.0 must not send again but on a new connection.
#[test]
fn no_timed_redelivery_in_5() {
    let mut rig = Rig::new(Version::V5, 10);
    let _ = rig.send(AtLeastOnce, "a");
    rig.wire.take();
    rig.wait(1000);
    let outcome = rig.session.retry(rig.now, &AFTER, true, &mut rig.wire);
    assert_eq!(outcome, RetryOutcome { next: None, give_up: false });
    assert!(rig.wire.take().is_empty());
}

/// What a client does not read is not sent again and again behind itself.
#[test]
fn timed_redelivery_waits_for_room() {
    let mut rig = Rig::new(Version::V311, 10);
    let _ = rig.send(AtLeastOnce, "a");
    rig.wire.take();
    rig.wire.blocked = true;
    rig.wait(10);
    let outcome = rig.session.retry(rig.now, &AFTER, true, &mut rig.wire);
    assert!(rig.wire.take().is_empty() && outcome.next.is_some());
    rig.wire.blocked = false;
    rig.now = outcome.next.unwrap();
    let _ = rig.session.retry(rig.now, &AFTER, true, &mut rig.wire);
    assert_eq!(rig.wire.publishes(), [(1, true, "a".into())]);
}

fn queued_record(place: u64, payload: &str, packet_id: Option<PacketId>) -> QueuedRecord {
    let message = Message::new("t", AtLeastOnce, false, payload.as_bytes(), b"", None, Time(0));
    QueuedRecord { packet_id, number: place, ..QueuedRecord::new(message, AtLeastOnce) }
}

fn in_flight(place: u64, packet_id: u16, payload: &str) -> (u64, Restored) {
    let record = queued_record(place, payload, Some(id(packet_id)));
    (place, Restored::Message { record, flew: false })
}

fn session_record() -> SessionRecord {
    SessionRecord {
        client_id: "client".into(),
        session: 1,
        session_expiry_interval: u32::MAX,
        disconnected_at: None,
        will: None,
        will_at: None,
        identity: None,
    }
}

/// [MQTT-4.3.3-2] What was sent before a restart may stand in the store behind what was not: that is asked for
/// without it, also when the client has acknowledged it.
#[test]
fn what_is_in_flight_comes_with_no_page() {
    let mut session = Session::new("client");
    let (limits, journal) = (SessionLimits::default(), Journal::default());
    session.store_as(1, (0, 0), journal.clone(), limits.in_memory);
    let expiring = Some(Time(1000));
    let paged = Paged { first: 3, end: 6, messages: 2, next_expiry: expiring, ..Paged::default() };
    let kept = vec![in_flight(1, 1, "1"), in_flight(4, 2, "4"), in_flight(6, 3, "6")];
    session.restore(session_record(), &[], kept, paged, Time(0));
    session.connect(&parameters(Version::V311, 10), &limits, Time(0));
    let mut wire = Wire::default();
    session.resume(Time(0), &mut wire);
    let resent = [(1, true, "1".into()), (2, true, "4".into()), (3, true, "6".into())];
    assert_eq!(wire.publishes(), resent);
    assert_eq!(session.puback(id(2), Time(0), &mut wire), Ok(Acked::Done));
    let asked = |expired_by| {
        let asked = journal.take_asked().into_iter();
        let asked = asked.map(|page| (page.from, page.expired_by, page.in_flight.to_vec()));
        assert_eq!(asked.collect::<Vec<_>>(), [(3, expired_by, vec![4, 6])]);
    };
    asked(None);
    let page = PageOfQueue { end: 3, ..PageOfQueue::default() };
    session.take_page(page, Time(0), &limits, |_| false);
    session.expire(Time(1000), 1);
    asked(expiring);
    let expired = Some(ExpiredOnDisk::default());
    let looked = PageOfQueue { end: 6, is_last: true, expired, ..PageOfQueue::default() };
    session.take_page(looked, Time(1000), &limits, |_| false);
    let messages = [3, 5].map(|n| (n, queued_record(n, &n.to_string(), None))).into();
    let page = PageOfQueue { messages, end: 6, is_last: true, ..PageOfQueue::default() };
    session.take_page(page, Time(1000), &limits, |_| false);
    session.pump(Time(1000), &mut wire);
    assert_eq!(wire.publishes(), [(4, false, "3".into()), (5, false, "5".into())]);
}

/// A store that was filled by hand may have an identifier twice: it is in flight once.
#[test]
fn an_identifier_that_was_stored_twice_is_in_flight_once() {
    let mut session = Session::new("client");
    let kept = vec![in_flight(1, 1, "first"), in_flight(2, 1, "second")];
    session.restore(session_record(), &[], kept, Paged::default(), Time(0));
    assert_eq!(session.in_flight(), 1);
    session.connect(&parameters(Version::V311, 10), &SessionLimits::default(), Time(0));
    let mut wire = Wire::default();
    session.resume(Time(0), &mut wire);
    assert_eq!(wire.publishes(), [(1, true, "second".into())]);
    assert_eq!(session.puback(PacketId::MIN, Time(0), &mut wire), Ok(Acked::Done));
    assert_eq!(session.in_flight(), 0);
}
