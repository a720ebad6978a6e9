use super::*;
use AckKind::{PubAck, PubComp, PubRec};
use PublishOutcome as O;
use QoS::{AtLeastOnce, ExactlyOnce};
use ReasonCode::{NoMatchingSubscribers, NotAuthorized, QuotaExceeded, Success};

/// Handed to the shards of `waiting`, kept by nobody here.
fn handed(turn: u64, shards: &[u32]) -> O {
    let waiting = shards.iter().map(|&shard| 1 << shard).sum();
    O { turn, waiting, wanted: waiting, kept: false, ..O::KEPT }
}

/// Nothing pending: acknowledged at once.
#[test]
fn nothing_pending() {
    let mut rig = Rig::new(Version::V5, 10);
    for (outcome, reason) in [
        (O::KEPT, Success),
        (O::UNMATCHED, NoMatchingSubscribers),
        (O { kept: false, ..O::KEPT }, QuotaExceeded),
        (O::refused(NotAuthorized), NotAuthorized),
    ] {
        assert_eq!(rig.publish(AtLeastOnce, 1, outcome), Verdict::Continue);
        assert_eq!(rig.wire.take(), [ack(PubAck, 1, reason)]);
        assert_eq!(rig.publish(ExactlyOnce, 1, outcome), Verdict::Continue);
        assert_eq!(rig.wire.take(), [ack(PubRec, 1, reason)]);
        assert_eq!(rig.pubrel(1), Ok(!reason.is_error()));
        rig.wire.take();
    }
}

/// No success without the deed: 3.x has no reason code, so the connection has to end. That
/// nobody is subscribed is no failure.
#[test]
fn version_3_is_closed_for_what_was_not_kept() {
    let mut rig = Rig::new(Version::V311, 10);
    assert_eq!(rig.publish(AtLeastOnce, 1, O::UNMATCHED), Verdict::Continue);
    assert_eq!(rig.wire.take(), [ok(PubAck, 1)]);
    for (outcome, why) in [
        (O { kept: false, ..O::KEPT }, Unkept::Full),
        (O::refused(QuotaExceeded), Unkept::NotRetained),
        (O { unstored: true, ..O::KEPT }, Unkept::Unstored),
    ] {
        assert_eq!(rig.publish(AtLeastOnce, 1, outcome), Verdict::Close(why));
        assert_eq!(rig.publish(ExactlyOnce, 2, outcome), Verdict::Close(why));
    }
    assert!(rig.wire.take().is_empty());
    assert_eq!(rig.session.inbound_qos2(), 0);
}

/// Unless the configuration prefers to acknowledge what there was no room for. Any other refusal is
/// none of its business.
#[test]
fn version_3_is_told_success_for_what_was_not_kept_if_so_configured() {
    let unkept = O { kept: false, ..O::KEPT };
    for version in [Version::V31, Version::V311, Version::V5] {
        let mut rig = Rig::new(version, 10);
        rig.connect(&LinkParameters { acknowledge_unkept: true, ..parameters(version, 10) });
        let told = if version.is_v5() { QuotaExceeded } else { Success };
        for outcome in [unkept, O::refused(QuotaExceeded)] {
            assert_eq!(rig.publish(AtLeastOnce, 1, outcome), Verdict::Continue);
            assert_eq!(rig.publish(ExactlyOnce, 2, outcome), Verdict::Continue);
            assert_eq!(rig.wire.take(), [ack(PubAck, 1, told), ack(PubRec, 2, told)]);
            assert_eq!(rig.pubrel(2), Ok(!version.is_v5()));
            rig.wire.take();
        }
        // The same when other shards have to say so first.
        assert_eq!(rig.publish(ExactlyOnce, 3, handed(1, &[1])), Verdict::Continue);
        rig.session.refuse(1, 5, true);
        assert_eq!(rig.confirm(&[(1, 1)]), Verdict::Continue);
        assert_eq!(rig.wire.take(), [ack(PubRec, 3, told)]);
        assert_eq!(rig.pubrel(3), Ok(!version.is_v5()));
        rig.wire.take();
        let refused = rig.publish(AtLeastOnce, 4, O::refused(NotAuthorized));
        assert_eq!(refused == Verdict::Continue, version.is_v5());
    }
}

/// [MQTT-4.6.0-2] [MQTT-4.6.0-3] Acknowledgements leave in the order of the PUBLISHes, each once
/// all that it waits for have confirmed.
#[test]
fn leaves_in_order() {
    for (version, unmatched) in
        [(Version::V31, Success), (Version::V311, Success), (Version::V5, NoMatchingSubscribers)]
    {
        let mut rig = Rig::new(version, 10);
        for (packet_id, qos, outcome) in [
            (1, AtLeastOnce, handed(1, &[1, 2])),
            (2, ExactlyOnce, handed(1, &[2])),
            (3, AtLeastOnce, O::KEPT),
            (4, ExactlyOnce, handed(2, &[1])),
            (5, AtLeastOnce, O { turn: 2, ..O::UNMATCHED }),
        ] {
            assert_eq!(rig.publish(qos, packet_id, outcome), Verdict::Continue);
        }
        assert_eq!(rig.session.pending(), 5);
        assert_eq!(rig.confirm(&[(2, 9)]), Verdict::Continue);
        assert!(rig.wire.take().is_empty());
        assert_eq!(rig.confirm(&[(1, 1), (2, 9)]), Verdict::Continue);
        assert_eq!(rig.wire.take(), [ok(PubAck, 1), ok(PubRec, 2), ok(PubAck, 3)]);
        assert_eq!(rig.confirm(&[(1, 2), (2, 9)]), Verdict::Continue);
        assert_eq!(rig.wire.take(), [ok(PubRec, 4), ack(PubAck, 5, unmatched)]);
        assert!(!rig.session.has_pending());
    }
}

/// The store confirms like a shard, but keeps for no session.
#[test]
fn the_store_confirms_but_keeps_nothing() {
    let mut rig = Rig::new(Version::V5, 10);
    let store = 1 << STORE;
    let kept = O { turn: 1, waiting: store, ..O::KEPT };
    assert_eq!(rig.publish(AtLeastOnce, 1, kept), Verdict::Continue);
    assert_eq!(rig.publish(AtLeastOnce, 2, O { kept: false, ..kept }), Verdict::Continue);
    assert!(rig.wire.take().is_empty());
    assert_eq!(rig.confirm(&[(STORE as usize, 1)]), Verdict::Continue);
    assert_eq!(rig.wire.take(), [ok(PubAck, 1), ack(PubAck, 2, QuotaExceeded)]);
}

/// A message that a shard returns waits for the shard it is handed next, and for those that have not
/// confirmed yet; a refusal of the first turn still counts.
#[test]
fn a_message_routed_again_waits_for_where_it_goes() {
    let mut rig = Rig::new(Version::V5, 10);
    assert_eq!(rig.publish(AtLeastOnce, 1, handed(1, &[1, 2])), Verdict::Continue);
    rig.session.refuse(1, 1, false);
    assert_eq!(rig.session.route_again(1, 3, 5), 1 << 1 | 1 << 2 | 1 << 3);
    assert_eq!(rig.confirm(&[(1, 4), (2, 4)]), Verdict::Continue);
    assert!(rig.wire.take().is_empty());
    rig.session.refuse(2, 1, true);
    rig.session.refuse_again(1, true);
    assert_eq!(rig.confirm(&[(1, 5), (2, 5), (3, 5)]), Verdict::Continue);
    assert_eq!(rig.wire.take(), [ack(PubAck, 1, QuotaExceeded)]);
    assert_eq!(rig.session.route_again(1, 3, 6), 0, "nobody waits for it");
}

/// Shard 2 is handed a message for a plain subscriber, and once more when shard 1 has returned it: what it
/// says of one time is not true of the other.
#[test]
fn what_a_shard_says_of_one_time_is_not_said_of_the_other() {
    // That nothing is stored for the first.
    let mut rig = Rig::new(Version::V5, 10);
    assert_eq!(rig.publish(AtLeastOnce, 1, handed(5, &[1, 2])), Verdict::Continue);
    rig.session.refuse(1, 1, false);
    assert_eq!(rig.session.route_again(1, 2, 8), 1 << 1 | 1 << 2);
    rig.session.pass(2, 1);
    assert_eq!(rig.confirm(&[(1, 8), (2, 7)]), Verdict::Continue);
    assert!(rig.wire.take().is_empty());
    assert_eq!(rig.confirm(&[(1, 8), (2, 8)]), Verdict::Continue);
    assert_eq!(rig.wire.take(), [ok(PubAck, 1)]);
    // Nor that nobody kept it, in whichever order: once of two times, and twice.
    for (first, again, reason) in
        [(1, 0, Success), (0, 1, Success), (1, 1, Success), (0, 2, Success), (1, 2, QuotaExceeded)]
    {
        let mut rig = Rig::new(Version::V5, 10);
        assert_eq!(rig.publish(AtLeastOnce, 1, handed(5, &[1, 2])), Verdict::Continue);
        rig.session.refuse(1, 1, false);
        for _ in 0..2 {
            let _ = rig.session.route_again(1, 2, 8);
        }
        (0..first).for_each(|_| rig.session.refuse(2, 1, true));
        (0..again).for_each(|_| rig.session.refuse_again(1, true));
        assert_eq!(rig.confirm(&[(1, 8), (2, 8)]), Verdict::Continue);
        assert_eq!(rig.wire.take(), [ack(PubAck, 1, reason)], "{first}, {again}");
    }
}

/// What is said late of a message that has left is not said of the next one with its identifier.
#[test]
fn what_is_said_of_one_message_is_not_said_of_the_next() {
    let mut rig = Rig::new(Version::V5, 10);
    assert_eq!(rig.publish(AtLeastOnce, 1, handed(1, &[1, 2])), Verdict::Continue);
    assert_eq!(rig.session.give_up_storing(1, &[0; 64]), Verdict::Continue);
    assert_eq!(rig.confirm(&[]), Verdict::Continue);
    assert_eq!(rig.wire.take(), [ack(PubAck, 1, QuotaExceeded)]);
    assert_eq!(rig.publish(AtLeastOnce, 1, handed(2, &[1, 2])), Verdict::Continue);
    rig.session.pass(1, 1);
    rig.session.refuse(2, 1, true);
    rig.session.refuse_unstored(1);
    rig.session.route_here(1, false);
    assert_eq!(rig.session.route_again(1, 3, 3), 0);
    assert_eq!(rig.confirm(&[(2, 2)]), Verdict::Continue);
    assert!(rig.wire.take().is_empty());
    assert_eq!(rig.confirm(&[(1, 2), (2, 2)]), Verdict::Continue);
    assert_eq!(rig.wire.take(), [ok(PubAck, 1)]);
}

/// Messages that a client repeats stand in another order, and are found all the same.
#[test]
fn what_is_said_of_a_message_reaches_it_where_it_stands() {
    let mut rig = Rig::new(Version::V5, 10);
    for packet_id in 1..=4 {
        assert_eq!(rig.publish(AtLeastOnce, packet_id, handed(1, &[1])), Verdict::Continue);
        rig.session.send_when_confirmed(b"frame", 1, 1 << 1, &mut rig.wire);
    }
    for number in [4, 2] {
        rig.session.refuse(1, number, true);
    }
    rig.disconnect();
    rig.connect(&parameters(Version::V5, 10));
    for packet_id in [3, 1, 4, 2] {
        assert_eq!(rig.begin(AtLeastOnce, packet_id, true), Begin::Duplicate);
    }
    rig.session.refuse(1, 3, true);
    assert_eq!(rig.confirm(&[(1, 1)]), Verdict::Continue);
    let refused = |packet_id| ack(PubAck, packet_id, QuotaExceeded);
    assert_eq!(rig.wire.take(), [refused(3), ok(PubAck, 1), refused(4), refused(2)]);
}

/// A shard that is handed a message only to retain it is waited for, and is not taken to have kept it.
#[test]
fn who_only_retains_is_waited_for() {
    for (matched, reason) in [(false, Success), (true, QuotaExceeded)] {
        let mut rig = Rig::new(Version::V5, 10);
        let outcome = O { waiting: 0b110, retained: true, ..O::UNMATCHED };
        assert_eq!(rig.publish(AtLeastOnce, 1, O { turn: 1, ..outcome }), Verdict::Continue);
        rig.session.refuse(2, 1, matched);
        assert_eq!(rig.confirm(&[(1, 1)]), Verdict::Continue);
        assert!(rig.wire.take().is_empty());
        assert_eq!(rig.confirm(&[(1, 1), (2, 1)]), Verdict::Continue);
        assert_eq!(rig.wire.take(), [ack(PubAck, 1, reason)]);
    }
}

/// A shard that has nothing to store for a message is not waited for; others are, and so is it for the rest.
#[test]
fn what_a_shard_does_not_store_passes_it() {
    let mut rig = Rig::new(Version::V5, 10);
    for (packet_id, shards) in [(1, &[1, 2][..]), (2, &[1]), (3, &[1])] {
        assert_eq!(rig.publish(AtLeastOnce, packet_id, handed(1, shards)), Verdict::Continue);
    }
    for number in [1, 2] {
        rig.session.pass(1, number);
    }
    assert_eq!(rig.confirm(&[]), Verdict::Continue);
    assert!(rig.wire.take().is_empty());
    assert_eq!(rig.confirm(&[(2, 1)]), Verdict::Continue);
    assert_eq!(rig.wire.take(), [ok(PubAck, 1), ok(PubAck, 2)]);
    assert_eq!(rig.confirm(&[(1, 1), (2, 1)]), Verdict::Continue);
    assert_eq!(rig.wire.take(), [ok(PubAck, 3)]);
}

/// One that comes back to a session of the publisher's own shard needs no more than that, unless the store
/// fails.
#[test]
fn a_message_that_is_kept_here_in_the_end_is_a_success() {
    for (kept, unstored, reason) in
        [(true, false, Success), (false, false, QuotaExceeded), (false, true, QuotaExceeded)]
    {
        let mut rig = Rig::new(Version::V5, 10);
        assert_eq!(rig.publish(AtLeastOnce, 1, handed(1, &[1])), Verdict::Continue);
        rig.session.refuse(1, 1, false);
        rig.session.route_here(1, kept);
        if unstored {
            rig.session.refuse_unstored(1);
        }
        assert_eq!(rig.confirm(&[(1, 1)]), Verdict::Continue);
        assert_eq!(rig.wire.take(), [ack(PubAck, 1, reason)]);
    }
}

/// A message that is refused for good waits for nobody, and its identifier is not stored: who refuses it may
/// be another shard, or a session of this one that it has come back to.
#[test]
fn what_is_not_stored_waits_for_nobody() {
    for comes_back in [false, true] {
        let mut rig = Rig::new(Version::V5, 10);
        let journal = Journal::default();
        rig.session.store_as(1, (0, 0), journal.clone(), rig.limits.in_memory);
        let outcome = handed(1, &[1, 2, STORE]);
        assert_eq!(rig.publish(ExactlyOnce, 7, outcome), Verdict::Continue);
        if comes_back {
            rig.session.route_here(1, false);
        }
        rig.session.refuse_unstored(1);
        let changes = journal.end_turn(2, |_| None).0.expect("changes").take();
        assert!(matches!(changes[..], [Change::Held(1, _), Change::Freed(1, _)]), "{changes:?}");
        assert_eq!(rig.confirm(&[]), Verdict::Continue);
        assert_eq!(rig.wire.take(), [ack(PubRec, 7, QuotaExceeded)]);
        assert_eq!(rig.begin(ExactlyOnce, 7, false), Begin::New);
    }
}

/// [MQTT-4.3.3-9] [MQTT-4.3.3-10] A QoS 2 message is refused while its client is away, though sessions that
/// are not stored have it: who sends it again has not heard of that, and is told instead of them getting it
/// twice. From then on the identifier is that of a new message, as it is for who has forgotten all.
#[test]
fn a_refusal_that_could_not_be_told_is_told_later() {
    for (waits, dup) in [(false, true), (true, true), (false, false)] {
        let mut rig = Rig::new(Version::V5, 10);
        let journal = Journal::default();
        rig.session.store_as(1, (0, 0), journal, rig.limits.in_memory);
        assert_eq!(rig.publish(ExactlyOnce, 7, handed(1, &[1, 2])), Verdict::Continue);
        rig.disconnect();
        rig.session.refuse_unstored(1);
        assert_eq!(rig.confirm(&[]), Verdict::Continue);
        rig.connect(&parameters(Version::V5, 10));
        if !dup {
            assert_eq!(rig.begin(ExactlyOnce, 7, false), Begin::New);
            continue;
        }
        if waits {
            assert_eq!(rig.publish(ExactlyOnce, 8, handed(2, &[1])), Verdict::Continue);
        }
        assert_eq!(rig.begin(ExactlyOnce, 7, true), Begin::Duplicate);
        if waits {
            assert_eq!(rig.begin(ExactlyOnce, 7, true), Begin::Duplicate);
            assert!(rig.wire.take().is_empty());
            assert_eq!(rig.confirm(&[(1, 2)]), Verdict::Continue);
        }
        let others = rig.wire.take();
        assert_eq!(others.last(), Some(&ack(PubRec, 7, QuotaExceeded)));
        assert_eq!(others.len(), 1 + usize::from(waits));
        assert_eq!(rig.begin(ExactlyOnce, 7, true), Begin::New);
        assert_eq!(rig.session.link.charged, u32::from(waits));
    }
    // Nor is there anything to be released.
    let mut rig = Rig::new(Version::V5, 10);
    assert_eq!(rig.publish(ExactlyOnce, 7, handed(1, &[1])), Verdict::Continue);
    rig.disconnect();
    rig.session.refuse_unstored(1);
    assert_eq!(rig.confirm(&[]), Verdict::Continue);
    rig.connect(&parameters(Version::V5, 10));
    assert_eq!(rig.pubrel(7), Ok(false));
}

/// A 3.x client is not read on from when its connection may have to be closed until it is known.
#[test]
fn doubt_lasts_until_all_is_decided() {
    let doubtful = O { doubtful: true, ..handed(1, &[1]) };
    let confirmed = |turn| std::array::from_fn(|shard| if shard == 1 { turn } else { 0 });
    let (before, after) = (confirmed(0), confirmed(1));
    let mut rig = Rig::new(Version::V311, 10);
    assert_eq!(rig.publish(ExactlyOnce, 1, handed(1, &[STORE])), Verdict::Continue);
    assert!(!rig.session.refuses_perhaps(&before), "it waits, and is taken");
    assert_eq!(rig.publish(AtLeastOnce, 2, doubtful), Verdict::Continue);
    assert!(rig.session.refuses_perhaps(&before));
    assert!(!rig.session.refuses_perhaps(&after), "though it has not left");
    assert_eq!(rig.session.give_up_storing(1, &after), Verdict::Continue);
    // Sent again, it is in doubt again.
    assert_eq!(rig.publish(AtLeastOnce, 3, doubtful), Verdict::Continue);
    rig.disconnect();
    rig.connect(&parameters(Version::V311, 10));
    assert!(!rig.session.refuses_perhaps(&before));
    assert_eq!(rig.begin(AtLeastOnce, 3, true), Begin::Duplicate);
    assert!(rig.session.refuses_perhaps(&before) && !rig.session.refuses_perhaps(&after));
    rig.session.refuse(1, 3, true);
    assert!(rig.session.refuses_perhaps(&after), "it is to be closed");
    assert_eq!(rig.session.give_up_storing(1, &after), Verdict::Close(Unkept::Full));
    // What is refused at once, behind another.
    let mut rig = Rig::new(Version::V311, 10);
    assert_eq!(rig.publish(AtLeastOnce, 1, handed(1, &[1])), Verdict::Continue);
    assert_eq!(rig.publish(AtLeastOnce, 2, O { kept: false, ..O::KEPT }), Verdict::Continue);
    assert!(rig.session.refuses_perhaps(&after));
    assert_eq!(rig.confirm(&[(1, 1)]), Verdict::Close(Unkept::Full));
    assert_eq!(rig.wire.take(), [ok(PubAck, 1)]);
    assert!(!rig.session.refuses_perhaps(&after));
}

/// Whether there is doubt is looked for in the whole gate, with each message that comes: no more when there is none,
/// though the gate may never be empty again.
#[test]
fn who_is_in_no_doubt_any_more_is_not_asked_again() {
    let doubtful = O { doubtful: true, ..handed(1, &[1]) };
    let confirmed = std::array::from_fn(|shard| if shard == 1 { 1 } else { 0 });
    let mut rig = Rig::new(Version::V311, 10);
    for (packet_id, outcome) in [(1, doubtful), (2, handed(2, &[1]))] {
        assert_eq!(rig.publish(AtLeastOnce, packet_id, outcome), Verdict::Continue);
    }
    assert!(rig.session.refuses_perhaps(&[0; 64]));
    assert!(!rig.session.refuses_perhaps(&confirmed) && !rig.session.link.doubtful);
    // A shard gives it back, and it goes to another one.
    assert_ne!(rig.session.route_again(1, 2, 3), 0);
    assert!(rig.session.refuses_perhaps(&confirmed));
}

/// A message that every shard refused gets 0x97 in 5.0, and a QoS 2 identifier is free again.
#[test]
fn refused_by_all() {
    let mut rig = Rig::new(Version::V5, 10);
    assert_eq!(rig.publish(AtLeastOnce, 1, handed(1, &[1, 2])), Verdict::Continue);
    assert_eq!(rig.publish(ExactlyOnce, 2, handed(1, &[1, 2])), Verdict::Continue);
    assert_eq!(rig.publish(AtLeastOnce, 1, handed(2, &[1])), Verdict::Continue);
    rig.session.refuse(1, 1, true);
    rig.session.refuse(1, 2, true);
    rig.session.refuse(2, 2, true);
    assert_eq!(rig.confirm(&[(1, 2), (2, 1)]), Verdict::Continue);
    assert_eq!(rig.wire.take(), [ok(PubAck, 1), ack(PubRec, 2, QuotaExceeded), ok(PubAck, 1)]);
    assert_eq!(rig.session.inbound_qos2(), 0);
    assert_eq!(rig.session.link.charged, 0);
    assert_eq!(rig.begin(ExactlyOnce, 2, false), Begin::New);
}

/// A message that every shard refused closes 3.x; the client sends it again and it is routed.
#[test]
fn refused_by_all_in_3() {
    let mut rig = Rig::new(Version::V311, 10);
    assert_eq!(rig.publish(ExactlyOnce, 1, handed(1, &[1])), Verdict::Continue);
    assert_eq!(rig.publish(AtLeastOnce, 2, handed(1, &[2])), Verdict::Continue);
    rig.session.refuse(1, 1, true);
    assert_eq!(rig.confirm(&[(1, 1), (2, 1)]), Verdict::Close(Unkept::Full));
    assert!(rig.wire.take().is_empty());
    assert!(!rig.session.has_pending(), "what is confirmed is not confirmed again");
    rig.disconnect();
    rig.connect(&parameters(Version::V311, 10));
    assert_eq!(rig.begin(ExactlyOnce, 1, true), Begin::New);
    assert_eq!(rig.begin(AtLeastOnce, 2, true), Begin::New);
}

/// Pending messages survive a reconnection: the same again is not routed again, nor acknowledged
/// early [MQTT-4.3.3-10].
#[test]
fn pending_survives_reconnection() {
    let mut rig = Rig::new(Version::V5, 10);
    for (packet_id, qos) in [(1, AtLeastOnce), (2, ExactlyOnce), (3, AtLeastOnce), (4, ExactlyOnce)]
    {
        assert_eq!(rig.publish(qos, packet_id, handed(1, &[1])), Verdict::Continue);
    }
    rig.disconnect();
    rig.connect(&parameters(Version::V5, 10));
    assert_eq!(rig.session.link.charged, 0);
    assert_eq!(rig.begin(AtLeastOnce, 1, true), Begin::Duplicate);
    assert_eq!(rig.begin(ExactlyOnce, 2, true), Begin::Duplicate);
    assert_eq!(rig.session.link.charged, 2);
    assert!(rig.wire.take().is_empty());
    assert_eq!(rig.confirm(&[(1, 1)]), Verdict::Continue);
    // What was not sent again on this connection is not acknowledged on it.
    assert_eq!(rig.wire.take(), [ok(PubAck, 1), ok(PubRec, 2)]);
    assert_eq!(rig.begin(ExactlyOnce, 4, true), Begin::Duplicate);
    assert_eq!(rig.wire.take(), [ok(PubRec, 4)]);
    assert_eq!(rig.pubrel(2), Ok(true));
    assert_eq!(rig.pubrel(4), Ok(true));
    assert_eq!(rig.session.link.charged, 0);
}

/// Confirmed while the client is away: QoS 2 is remembered as received.
#[test]
fn confirmed_while_absent() {
    let mut rig = Rig::new(Version::V5, 10);
    assert_eq!(rig.publish(ExactlyOnce, 2, handed(1, &[1])), Verdict::Continue);
    rig.disconnect();
    assert_eq!(rig.confirm(&[(1, 1)]), Verdict::Continue);
    assert!(!rig.session.has_pending());
    rig.connect(&parameters(Version::V5, 10));
    assert_eq!(rig.begin(ExactlyOnce, 2, true), Begin::Duplicate);
    assert_eq!(rig.wire.take(), [ok(PubRec, 2)]);
}

/// A client without state of its own that reuses an identifier sends a new message.
#[test]
fn qos1_without_dup_is_new() {
    let mut rig = Rig::new(Version::V311, 10);
    assert_eq!(rig.publish(AtLeastOnce, 1, handed(1, &[1])), Verdict::Continue);
    rig.disconnect();
    rig.connect(&parameters(Version::V311, 10));
    assert_eq!(rig.publish(AtLeastOnce, 1, handed(2, &[1])), Verdict::Continue);
    assert_eq!(rig.confirm(&[(1, 1)]), Verdict::Continue);
    assert!(rig.wire.take().is_empty());
    assert_eq!(rig.confirm(&[(1, 2)]), Verdict::Continue);
    assert_eq!(rig.wire.take(), [ok(PubAck, 1)]);
}

/// A PUBREC sent again keeps its place, and is void once PUBREL has come [MQTT-4.3.3-11].
#[test]
fn a_second_pubrec_waits_its_turn() {
    let mut rig = Rig::new(Version::V5, 10);
    assert_eq!(rig.publish(ExactlyOnce, 1, O::KEPT), Verdict::Continue);
    assert_eq!(rig.publish(ExactlyOnce, 2, O::KEPT), Verdict::Continue);
    assert_eq!(rig.publish(AtLeastOnce, 3, handed(1, &[1])), Verdict::Continue);
    rig.wire.take();
    for _ in 0..3 {
        assert_eq!(rig.begin(ExactlyOnce, 1, true), Begin::Duplicate);
        assert_eq!(rig.begin(ExactlyOnce, 2, true), Begin::Duplicate);
    }
    assert_eq!(rig.session.pending(), 3);
    assert_eq!(rig.pubrel(1), Ok(true));
    assert_eq!(rig.wire.take(), [ok(PubComp, 1)]);
    assert_eq!(rig.confirm(&[(1, 1)]), Verdict::Continue);
    assert_eq!(rig.wire.take(), [ok(PubAck, 3), ok(PubRec, 2)]);
}

/// 4.13: PUBREL cannot come before PUBREC.
#[test]
fn pubrel_before_pubrec() {
    let mut rig = Rig::new(Version::V5, 10);
    assert_eq!(rig.publish(ExactlyOnce, 1, handed(1, &[1])), Verdict::Continue);
    assert_eq!(rig.pubrel(1).unwrap_err().reason, ReasonCode::ProtocolError);
}

/// SUBACK waits for its shards, after what is before it [MQTT-3.8.4-1], and ends with its
/// connection.
#[test]
fn frames_wait_too() {
    let mut rig = Rig::new(Version::V5, 10);
    rig.session.send_when_confirmed(b"now", 1, 0, &mut rig.wire);
    assert_eq!(rig.wire.take(), [Out::Raw(b"now".to_vec())]);
    rig.session.send_when_confirmed(b"later", 1, 0b110, &mut rig.wire);
    assert_eq!(rig.publish(AtLeastOnce, 1, O::KEPT), Verdict::Continue);
    assert_eq!(rig.confirm(&[(1, 1)]), Verdict::Continue);
    assert!(rig.wire.take().is_empty());
    assert_eq!(rig.confirm(&[(2, 1)]), Verdict::Continue);
    assert_eq!(rig.wire.take(), [Out::Raw(b"later".to_vec()), ok(PubAck, 1)]);
    rig.session.send_when_confirmed(b"void", 2, 0b110, &mut rig.wire);
    rig.disconnect();
    rig.connect(&parameters(Version::V5, 10));
    assert_eq!(rig.confirm(&[(1, 2), (2, 2)]), Verdict::Continue);
    assert!(rig.wire.take().is_empty());
}
