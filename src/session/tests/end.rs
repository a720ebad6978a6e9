use super::*;
use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};

fn will(delay_interval: u32) -> Will {
    Will { message: message("will"), message_expiry_interval: None, delay_interval }
}

fn with_will(delay_interval: u32, session_expiry_interval: u32) -> Rig {
    let mut rig = Rig::new(Version::V5, 10);
    rig.connect(&LinkParameters { session_expiry_interval, ..parameters(Version::V5, 10) });
    rig.session.set_will(Some(will(delay_interval)));
    rig
}

fn due(rig: &mut Rig, departure: Departure) -> WillDue {
    rig.disconnect();
    rig.session.will_due(departure, rig.now)
}

fn after(seconds: u64) -> Time {
    T0.plus(Duration::from_secs(seconds))
}

/// [MQTT-3.1.2-10] [MQTT-3.14.4-3] A normal DISCONNECT discards the Will.
#[test]
fn no_will_after_normal_disconnection() {
    let mut rig = with_will(0, 100);
    assert!(matches!(due(&mut rig, Departure::Normal), WillDue::Never));
    assert!(rig.session.take_will().is_none());
}

/// [MQTT-3.1.2-8] Any other end publishes it: once.
#[test]
fn will_without_delay_is_due_at_once() {
    let mut rig = with_will(0, 100);
    assert!(matches!(due(&mut rig, Departure::WithWill), WillDue::Now(_)));
    assert!(matches!(rig.session.will_due(Departure::WithWill, T0), WillDue::Never));
}

/// [MQTT-3.1.2-8] A delayed one is due at the end of the delay or of the session, whichever is
/// earlier.
#[test]
fn will_delay() {
    for (delay, expiry, expected) in
        [(10, 100, Some(10)), (100, 10, Some(10)), (10, 0, None), (10, u32::MAX, Some(10))]
    {
        let mut rig = with_will(delay, expiry);
        match (due(&mut rig, Departure::WithWill), expected) {
            (WillDue::Now(_), None) => {}
            (WillDue::At(at), Some(seconds)) => {
                assert_eq!(at, after(seconds));
                assert!(rig.session.take_will().is_some());
                assert!(rig.session.take_will().is_none());
            }
            (other, _) => panic!("{delay} {expiry}: {other:?}"),
        }
    }
}

/// [MQTT-3.1.3-9] It is not sent if the client is back before.
#[test]
fn will_is_cancelled_by_resume() {
    let mut rig = with_will(10, 100);
    assert!(matches!(due(&mut rig, Departure::WithWill), WillDue::At(_)));
    rig.connect(&parameters(Version::V5, 10));
    assert!(rig.session.take_will().is_none());
}

/// [MQTT-3.3.2-6] 3.1.3.2.4: the expiry of a Will counts from its publication.
#[test]
fn will_expiry_counts_from_publication() {
    let w = Will { message_expiry_interval: Some(5), ..will(0) };
    let m = w.into_message(after(1000));
    assert_eq!((m.expires_at(), m.topic(), m.payload()), (Some(after(1005)), "t", &b"will"[..]));
    assert_eq!(will(0).into_message(T0).expires_at(), None);
}

/// [MQTT-3.1.2-23] The session is kept for its expiry interval, and forever at 0xFFFFFFFF.
#[test]
fn session_expiry() {
    for (interval, end) in [(0, Some(T0)), (30, Some(after(30))), (u32::MAX, None)] {
        let mut rig = with_will(0, interval);
        assert_eq!(rig.session.ends_at(), None);
        rig.disconnect();
        assert_eq!(rig.session.ends_at(), end);
    }
    assert_eq!(Session::new("never connected").ends_at(), Some(Time(0)));
}

/// 3.14.2.2.2: DISCONNECT may change the interval, but not from zero.
#[test]
fn session_expiry_changed_by_disconnect() {
    let mut rig = with_will(0, 0);
    let error = rig.session.change_session_expiry_interval(1).unwrap_err();
    assert_eq!(error.reason, ReasonCode::ProtocolError);
    assert_eq!(rig.session.change_session_expiry_interval(0), Ok(()));
    let p = LinkParameters { session_expiry_maximum: 50, ..parameters(Version::V5, 10) };
    rig.connect(&LinkParameters { session_expiry_interval: 20, ..p });
    assert_eq!(rig.session.change_session_expiry_interval(u32::MAX), Ok(()));
    assert_eq!(rig.session.session_expiry_interval(), 50);
    assert_eq!(rig.session.change_session_expiry_interval(0), Ok(()));
    rig.disconnect();
    assert_eq!(rig.session.ends_at(), Some(T0));
}

fn payloads(taken: &[Redistribution]) -> Vec<(u32, &str, bool)> {
    taken
        .iter()
        .map(|r| (r.group, std::str::from_utf8(r.message.payload()).unwrap(), r.sent))
        .collect()
}

fn grouped() -> Rig {
    let mut rig = Rig::new(Version::V5, 4);
    for (payload, qos, group) in [
        ("1a", AtLeastOnce, Some(1)),
        ("2b", ExactlyOnce, Some(2)),
        ("plain", AtLeastOnce, None),
        ("2c", AtLeastOnce, Some(2)),
        ("1d", ExactlyOnce, Some(1)),
        ("plain2", AtLeastOnce, None),
        ("2e", AtLeastOnce, Some(2)),
    ] {
        let m = message(payload);
        let _ = rig.deliver(&Delivery { group, ..delivery(&m, qos) });
    }
    let zero = message("zero");
    assert_eq!(
        rig.deliver(&Delivery { group: Some(1), ..delivery(&zero, AtMostOnce) }),
        Delivered::Sent
    );
    rig.wire.take();
    rig
}

/// QoS 1 of shared groups that was not acknowledged, and what was queued, goes to others when the
/// session ends (section 4.8.2); QoS 2 that was sent does not [MQTT-4.8.2-5].
#[test]
fn redistribution_at_the_end() {
    let mut rig = grouped();
    rig.disconnect();
    let taken = rig.session.take_for_redistribution();
    let expected = [(1, "1a", true), (2, "2c", true), (1, "1d", false), (2, "2e", false)];
    assert_eq!(payloads(&taken), expected);
    assert_eq!((rig.session.in_flight(), rig.session.queued()), (2, 1));
}

/// What goes to another member is removed by a change of its own, which may be committed later than what its
/// publisher was promised; what the client has acknowledged is taken back.
#[test]
fn what_goes_to_another_member_stays_as_it_was_noted() {
    let mut rig = grouped();
    let journal = Journal::default();
    let in_memory = InMemory { messages: 100, bytes: 1 << 20 };
    rig.session.store_as(1, (0, 0), journal.clone(), in_memory);
    let new = message("new");
    rig.disconnect();
    for group in [Some(1), Some(2)] {
        let _ = rig.deliver(&Delivery { group, ..delivery(&new, AtLeastOnce) });
    }
    let (queued, _) = journal.end_turn(1, |_| None);
    assert_eq!(rig.session.take_queued(2).len(), 2);
    let queued = queued.expect("two").take();
    assert!(matches!(queued[..], [Change::Queued(..), Change::Queued(..)]), "{queued:?}");
    let (removed, _) = journal.end_turn(2, |_| None);
    let removed = removed.expect("one").take();
    assert!(matches!(removed[..], [Change::Removed { place: 2, .. }]), "{removed:?}");
}

/// [MQTT-3.10.4-3] Leaving a group gives back what was queued by it; what is in flight is
/// completed.
#[test]
fn redistribution_of_one_group() {
    let mut rig = grouped();
    let taken = rig.session.take_queued(2);
    assert_eq!(payloads(&taken), [(2, "2e", false)]);
    assert_eq!((rig.session.in_flight(), rig.session.queued()), (4, 2));
    assert_eq!(rig.puback(4), Ok(Acked::Done));
    assert_eq!(rig.puback(1), Ok(Acked::Done));
    assert_eq!(rig.wire.publishes(), [(5, false, "1d".into()), (6, false, "plain2".into())]);
}
