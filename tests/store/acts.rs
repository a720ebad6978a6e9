//! Acts that meet: what one has put somewhere is touched by another before the first is whole.

use sluice::hooks::Table;
use sluice::mqtt::Message;
use sluice::session::{Change, SubscriptionRecord};
use sluice::store::Turn;

use crate::engines::records;
use crate::turns::{Bench, START, id, message, part, queued, removed, retained, session};

/// Three shards, and so many sessions.
fn bench(sessions: u64) -> Bench {
    let mut bench = Bench::new(3);
    bench.commit(1, (1..=sessions).map(|n| session(&n.to_string(), n)).collect());
    bench
}

/// Session and place of all that is queued.
fn places(bench: &Bench) -> Vec<(u64, u64)> {
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("8 bytes"));
    let keys = records(&bench.memory, Table::Queued).into_iter().map(|(key, _)| key);
    keys.map(|key| (number(&key[..8]), number(&key[8..]))).collect()
}

fn flight(session: u64, place: u64) -> Change {
    Change::InFlight(session, place, id(7))
}

/// Nothing is left that a start would have to put away.
fn assert_tidy(bench: Bench) {
    let report = bench.restart().recovered.report;
    assert_eq!((report.damaged, report.stray), (0, 0));
}

/// A QoS 2 message goes on to another member of a group while the act that brought it is open: nobody has it
/// before that is whole [MQTT-4.3.3-10].
#[test]
fn nothing_moves_out_of_an_act_that_is_open() {
    let mut bench = bench(4);
    let message = message("moves on");
    let act = (0, 2);
    let held = vec![Change::Held(4, id(9))];
    bench.links[0].submit(Turn { handed: vec![(act, 0b110)], ..part(0, 2, act, held) });
    let share = part(1, 5, act, vec![queued(1, 1, &message)]);
    bench.links[1].submit(Turn { done: vec![act], ..share });
    // The first receiver leaves its group, and the other one is here, too.
    let moved = vec![removed(1, 1, &message), queued(2, 1, &message)];
    bench.links[1].submit(part(1, 6, (1, 6), moved));
    bench.writer.step();
    assert_eq!((places(&bench), bench.count(Table::Inbound)), (vec![], 0));
    assert_eq!(bench.committed(), [1, 4, 0]);
    bench.links[2].submit(Turn { shard: 2, turn: 3, done: vec![act], ..Turn::default() });
    bench.writer.step();
    assert_eq!((places(&bench), bench.count(Table::Inbound)), (vec![(2, 1)], 1));
    assert_eq!(bench.committed(), [2, 6, 3]);
    bench.links[1].submit(Turn {
        shard: 1,
        turn: 7,
        changes: vec![removed(2, 1, &message)].into(),
        ..Turn::default()
    });
    bench.writer.step();
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Messages)), (0, 0));
    assert_tidy(bench);
}

/// The shard where the second act began comes first in the order of shards.
#[test]
fn what_came_and_went_on_in_acts_of_one_commit_is_where_it_went_to() {
    let mut bench = bench(2);
    let message = message("moves on");
    let first = part(2, 1, (2, 1), vec![queued(1, 1, &message)]);
    bench.links[2].submit(Turn { handed: vec![((2, 1), 0b10)], ..first });
    let moved = vec![removed(1, 1, &message), queued(2, 1, &message)];
    bench.links[0].submit(part(0, 2, (0, 2), moved));
    bench.links[1].submit(Turn { shard: 1, turn: 1, done: vec![(2, 1)], ..Turn::default() });
    bench.writer.step();
    assert_eq!((places(&bench), bench.count(Table::Messages)), (vec![(2, 1)], 1));
    assert_tidy(bench);
}

/// Each of two acts moves what the other one brought: neither is whole without the other.
#[test]
fn acts_that_come_behind_each_other_are_committed_together() {
    let mut bench = bench(4);
    let (one, two) = (message("one"), message("two"));
    let (first, second) = ((1, 1), (2, 1));
    let begin = part(1, 1, first, vec![queued(1, 1, &one)]);
    bench.links[1].submit(Turn { handed: vec![(first, 0b101)], ..begin });
    let begin = part(2, 1, second, vec![queued(2, 1, &two)]);
    bench.links[2].submit(Turn { handed: vec![(second, 0b11)], ..begin });
    // Something that needs nobody comes behind what waits.
    bench.links[1].submit(part(1, 2, (1, 2), vec![queued(3, 9, &message("later"))]));
    let moved = vec![removed(1, 1, &one), queued(3, 1, &one)];
    bench.links[1].submit(Turn { done: vec![second], ..part(1, 3, second, moved) });
    let moved = vec![removed(2, 1, &two), queued(4, 1, &two)];
    bench.links[2].submit(Turn { done: vec![first], ..part(2, 3, first, moved) });
    bench.links[0].submit(Turn { shard: 0, turn: 2, done: vec![first], ..Turn::default() });
    bench.writer.step();
    assert_eq!((places(&bench), bench.committed()), (vec![], vec![2, 0, 0]), "one is whole");
    bench.links[0].submit(Turn { shard: 0, turn: 3, done: vec![second], ..Turn::default() });
    bench.writer.step();
    assert_eq!(places(&bench), [(3, 1), (3, 9), (4, 1)]);
    assert_eq!(bench.committed(), [3, 3, 3]);
    assert_tidy(bench);
}

/// A queue that is full drops its oldest for what an act brings, and that is of another act.
#[test]
fn what_one_act_drops_of_another_does_not_come_back() {
    let mut bench = bench(1);
    let (oldest, newest) = (message("oldest"), message("newest"));
    let begin = part(0, 2, (0, 2), vec![queued(1, 1, &oldest)]);
    bench.links[0].submit(Turn { handed: vec![((0, 2), 0b10)], ..begin });
    let dropped = vec![removed(1, 1, &oldest), queued(1, 2, &newest)];
    let share = part(0, 3, (2, 1), dropped);
    bench.links[2].submit(Turn {
        shard: 2,
        turn: 1,
        handed: vec![((2, 1), 0b1)],
        ..Turn::default()
    });
    bench.links[0].submit(Turn { done: vec![(2, 1)], ..share });
    bench.writer.step();
    assert_eq!(places(&bench), []);
    bench.links[1].submit(Turn { shard: 1, turn: 1, done: vec![(0, 2)], ..Turn::default() });
    bench.writer.step();
    assert_eq!((places(&bench), bench.count(Table::Messages)), (vec![(1, 2)], 1));
    assert_eq!(bench.committed(), [3, 1, 1]);
    assert_tidy(bench);
}

/// The end of a session frees the identifier of a message in an act that is open: a crash between the two
/// must not find the message and not the identifier [MQTT-4.3.3-10].
#[test]
fn a_later_act_frees_an_identifier_when_it_is_whole_itself() {
    let mut bench = bench(2);
    let received = vec![queued(1, 1, &message("once")), Change::Held(2, id(9))];
    bench.links[0].submit(Turn { handed: vec![((0, 2), 0b10)], ..part(0, 2, (0, 2), received) });
    let end = vec![Change::Freed(2, id(9)), Change::Ended { client_id: "2".into() }];
    bench.links[0].submit(Turn { handed: vec![((0, 3), 0b100)], ..part(0, 3, (0, 3), end) });
    bench.links[1].submit(Turn { shard: 1, turn: 1, done: vec![(0, 2)], ..Turn::default() });
    bench.writer.step();
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Inbound)), (1, 1));
    bench.links[2].submit(Turn { shard: 2, turn: 1, done: vec![(0, 3)], ..Turn::default() });
    bench.writer.step();
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Inbound)), (1, 0));
    assert_tidy(bench);
}

/// UNSUBSCRIBE is part of an act, because what is queued goes to others; SUBSCRIBE follows before that is
/// whole.
#[test]
fn a_later_subscription_is_not_undone_by_an_act() {
    let mut bench = bench(1);
    let filter = "$share/g/a/b";
    let subscribed = |identifier| {
        let (qos, no_local, retain_as_published) = (sluice::mqtt::QoS::ExactlyOnce, false, false);
        let filter = filter.into();
        let record = SubscriptionRecord {
            filter,
            qos,
            no_local,
            retain_as_published,
            identifier,
            retained_after: None,
        };
        Change::Subscribed(1, Box::new(record))
    };
    bench.commit(2, vec![subscribed(1)]);
    let left = vec![Change::Unsubscribed(1, filter.into())];
    bench.links[0].submit(Turn { handed: vec![((0, 3), 0b10)], ..part(0, 3, (0, 3), left) });
    bench.commit(4, vec![subscribed(2)]);
    assert_eq!(bench.committed()[0], 2, "SUBACK waits");
    bench.links[1].submit(Turn { shard: 1, turn: 1, done: vec![(0, 3)], ..Turn::default() });
    bench.writer.step();
    assert_eq!(bench.committed()[0], 4);
    let bench = bench.restart();
    let found = &bench.recovered.sessions[0].subscriptions;
    assert_eq!(found.iter().map(|one| one.identifier).collect::<Vec<_>>(), [2]);
}

/// A Will is retained in an act that is open, and two other values follow, the first by an act of another shard:
/// none of them is there before the Will is gone from its session, and in the end the last one is.
#[test]
fn what_is_retained_comes_behind_the_acts_of_those_before() {
    let retained_now = |bench: &Bench| {
        let recovered = Bench::on(bench.memory.crashed(), 3, START).recovered;
        recovered.retained.first().map(|one| String::from_utf8_lossy(one.message.payload()).into())
    };
    let mut bench = bench(0);
    let (will, other) = ((1, 1), (0, 2));
    bench.links[1].submit(Turn {
        shard: 1,
        turn: 1,
        handed: vec![(will, 0b101)],
        ..Turn::default()
    });
    let share = part(2, 20, will, vec![retained("t", (20, 1), "will")]);
    bench.links[2].submit(Turn { done: vec![will], ..share });
    bench.links[0].submit(Turn {
        shard: 0,
        turn: 2,
        handed: vec![(other, 0b100)],
        ..Turn::default()
    });
    let share = part(2, 21, other, vec![retained("t", (21, 0), "other")]);
    bench.links[2].submit(Turn { done: vec![other], ..share });
    let last = vec![retained("t", (22, 2), "last"), retained("u", (23, 2), "elsewhere")];
    bench.links[2].submit(Turn { shard: 2, turn: 22, changes: last.into(), ..Turn::default() });
    bench.writer.step();
    assert_eq!(retained_now(&bench), Some("elsewhere".to_owned()));
    assert_eq!(bench.committed(), [1, 0, 19]);
    bench.links[0].submit(Turn { shard: 0, turn: 3, done: vec![will], ..Turn::default() });
    bench.writer.step();
    assert_eq!(bench.committed(), [3, 1, 22]);
    assert_eq!((retained_now(&bench), bench.count(Table::Retained)), (Some("last".to_owned()), 2));
}

/// An older value than what an open act has retained came to nothing: whoever published it is told when the act is
/// whole.
#[test]
fn what_is_older_than_what_an_open_act_retains_waits_for_it() {
    let mut bench = bench(0);
    let act = (0, 2);
    bench.links[0].submit(Turn {
        shard: 0,
        turn: 2,
        handed: vec![(act, 0b110)],
        ..Turn::default()
    });
    let share = part(2, 20, act, vec![retained("t", (20, 0), "newer")]);
    bench.links[2].submit(Turn { done: vec![act], ..share });
    let older = vec![Change::Undone];
    bench.links[2].submit(Turn { shard: 2, turn: 21, changes: older.into(), ..Turn::default() });
    bench.writer.step();
    assert_eq!(bench.committed(), [1, 0, 19]);
    bench.links[1].submit(Turn { shard: 1, turn: 1, done: vec![act], ..Turn::default() });
    bench.writer.step();
    assert_eq!(bench.committed(), [2, 1, 21]);
}

/// QoS 1 is acknowledged before the act is whole in which it was noted to be in flight.
#[test]
fn what_was_in_flight_and_has_gone_leaves_nothing() {
    let mut bench = bench(1);
    let (stored, brief) = (message("stored"), message("brief"));
    bench.commit(2, vec![queued(1, 1, &stored)]);
    let flights = vec![flight(1, 1), queued(1, 2, &brief), flight(1, 2), Change::Held(1, id(9))];
    bench.links[0].submit(Turn { handed: vec![((0, 3), 0b10)], ..part(0, 3, (0, 3), flights) });
    bench.writer.step();
    let gone = [(1, &stored), (2, &brief)].map(|(place, message)| {
        let (message, number, flew) = (message.clone(), 0, true);
        Change::Removed { session: 1, place, message, number, flew }
    });
    bench.commit(4, gone.into());
    bench.links[1].submit(Turn { shard: 1, turn: 1, done: vec![(0, 3)], ..Turn::default() });
    bench.writer.step();
    for table in [Table::Queued, Table::Flights, Table::Messages] {
        assert_eq!(bench.count(table), 0, "{table:?}");
    }
    assert_eq!(bench.count(Table::Inbound), 1);
    assert_tidy(bench);
}

/// What is left of the queue of a session that has ended is removed once, and others who wait for a message
/// of it have it.
#[test]
fn what_an_open_act_removes_is_not_forgotten_as_well() {
    let mut bench = bench(2);
    let both = message("of two");
    bench.commit(2, vec![queued(1, 1, &both), queued(2, 1, &both)]);
    // Shard 1 drops it for something that another one handed it.
    bench.links[2].submit(Turn { shard: 2, turn: 1, handed: vec![((2, 1), 1)], ..Turn::default() });
    bench.links[1].submit(part(1, 1, (2, 1), vec![removed(1, 1, &both)]));
    let end = vec![Change::Forgotten(1, 0), Change::Ended { client_id: "1".into() }];
    bench.links[1].submit(Turn { shard: 1, turn: 2, changes: end.into(), ..Turn::default() });
    while bench.writer.step() {}
    assert_eq!(bench.count(Table::Messages), 1);
    bench.links[0].submit(Turn { shard: 0, turn: 3, done: vec![(2, 1)], ..Turn::default() });
    while bench.writer.step() {}
    assert_eq!((places(&bench), bench.count(Table::Messages)), (vec![(2, 1)], 1));
    assert_tidy(bench);
}

/// A client answers what it was not sent yet: that takes nothing from others who wait for the message, and
/// leaves nothing behind.
#[test]
fn an_answer_to_what_an_open_act_brings_waits_for_it() {
    let mut bench = bench(3);
    let message = message("moves on");
    bench.commit(2, vec![queued(1, 1, &message), queued(2, 1, &message)]);
    let act = (0, 3);
    let moved = vec![removed(1, 1, &message), queued(3, 1, &message)];
    bench.links[0].submit(Turn { handed: vec![(act, 0b10)], ..part(0, 3, act, moved) });
    let (session, place, message) = (3, 1, message.clone());
    let released = Change::Released {
        session,
        place,
        message: message.clone(),
        number: 0,
        packet_id: id(1),
        order: 2,
        flew: false,
    };
    bench.commit(4, vec![released]);
    bench.commit(5, vec![removed(2, 1, &message)]);
    assert_eq!((bench.count(Table::Messages), bench.count(Table::Flights)), (1, 0));
    bench.links[1].submit(Turn { shard: 1, turn: 1, done: vec![act], ..Turn::default() });
    bench.writer.step();
    assert_eq!((places(&bench), bench.count(Table::Messages)), (vec![], 0));
    assert_eq!(bench.count(Table::Flights), 1);
    bench.commit(6, vec![Change::Completed(3, 1)]);
    assert_eq!(bench.count(Table::Flights), 0);
    assert_tidy(bench);
}

/// [MQTT-4.4.0-1] A session ends by an act that is open: after a crash it is there, with what is half done, or else its
/// client would wait for a PUBREL that never comes.
#[test]
fn what_is_half_done_goes_with_its_session() {
    let mut bench = bench(2);
    let message = message("half done");
    let (session, place, number, packet_id, order) = (1, 1, 0, id(1), 2);
    let released = Change::Released {
        session,
        place,
        message: message.clone(),
        number,
        packet_id,
        order,
        flew: false,
    };
    bench.commit(2, vec![queued(1, 1, &message), released]);
    let act = (0, 3);
    let ended = vec![Change::Completed(1, 1), Change::Ended { client_id: "1".into() }];
    bench.links[0].submit(Turn { handed: vec![(act, 0b10)], ..part(0, 3, act, ended) });
    bench.writer.step();
    assert_eq!((bench.count(Table::Sessions), bench.count(Table::Flights)), (2, 1));
    bench.links[1].submit(Turn { shard: 1, turn: 1, done: vec![act], ..Turn::default() });
    bench.writer.step();
    assert_eq!((bench.count(Table::Sessions), bench.count(Table::Flights)), (1, 0));
    assert_tidy(bench);
}

/// What an act that is open drops is there again after a crash, and nothing that was queued later is in flight by
/// then: that would be sent first [MQTT-4.6.0-1].
#[test]
fn nothing_is_in_flight_before_what_an_open_act_drops() {
    let in_flight = |bench: &Bench| {
        let recovered = Bench::on(bench.memory.crashed(), 3, START).recovered;
        let kept =
            recovered.sessions.iter().flat_map(|one| one.kept.iter().map(|(place, _)| *place));
        kept.collect::<Vec<_>>()
    };
    let mut bench = bench(1);
    let [first, second, third] = ["first", "second", "third"].map(message);
    bench.commit(2, vec![queued(1, 1, &first), queued(1, 2, &second)]);
    let act = (1, 5);
    bench.links[1].submit(Turn { handed: vec![(act, 0b101)], ..part(1, 5, act, vec![]) });
    let share = part(0, 3, act, vec![removed(1, 1, &first), queued(1, 3, &third)]);
    bench.links[0].submit(Turn { done: vec![act], ..share });
    let mut new = queued(1, 4, &message("fourth"));
    if let Change::Queued(_, _, record) = &mut new {
        record.packet_id = Some(id(8));
    }
    bench.links[0].submit(Turn {
        shard: 0,
        turn: 4,
        changes: vec![flight(1, 2), new].into(),
        ..Turn::default()
    });
    bench.writer.step();
    assert_eq!((places(&bench), in_flight(&bench)), (vec![(1, 1), (1, 2)], vec![]));
    assert_eq!(bench.committed()[0], 2);
    bench.links[2].submit(Turn { shard: 2, turn: 2, done: vec![act], ..Turn::default() });
    bench.writer.step();
    assert_eq!(places(&bench), [(1, 2), (1, 3), (1, 4)]);
    assert_eq!((in_flight(&bench), bench.committed()[0]), (vec![2, 4], 4));
}

/// What is said to be in flight behind that may have gone itself before the act is whole.
#[test]
fn what_has_gone_was_not_in_flight_behind_what_an_open_act_drops() {
    let mut bench = bench(1);
    let [first, second, third] = ["first", "second", "third"].map(message);
    let all = vec![queued(1, 1, &first), queued(1, 2, &second), queued(1, 3, &third)];
    bench.commit(2, all);
    let act = (1, 5);
    bench.links[1].submit(Turn { handed: vec![(act, 0b101)], ..part(1, 5, act, vec![]) });
    let share = part(0, 3, act, vec![removed(1, 1, &first)]);
    bench.links[0].submit(Turn { done: vec![act], ..share });
    let gone = |place, message: &Message| {
        let (session, message, number) = (1, message.clone(), 0);
        Change::Removed { session, place, message, number, flew: true }
    };
    let turn = |turn, changes: Vec<Change>| Turn {
        shard: 0,
        turn,
        changes: changes.into(),
        ..Turn::default()
    };
    bench.links[0].submit(turn(4, vec![flight(1, 2), flight(1, 3), gone(2, &second)]));
    // The other goes with the act.
    bench.links[0].submit(part(0, 5, act, vec![gone(3, &third)]));
    bench.writer.step();
    assert_eq!(places(&bench), [(1, 1), (1, 3)]);
    bench.links[2].submit(Turn { shard: 2, turn: 2, done: vec![act], ..Turn::default() });
    bench.writer.step();
    assert_eq!((places(&bench), bench.count(Table::Flights)), (vec![], 0));
    assert_eq!((bench.count(Table::Messages), bench.committed()[0]), (0, 5));
    assert_tidy(bench);
}
