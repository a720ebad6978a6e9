//! From turns to commits.

use sluice::hooks::Table;
use sluice::session::{Change, QueuedRecord};
use sluice::store::{Part, Turn};

use crate::turns::{Bench, id, message, queued, removed, retained, session};

#[test]
fn a_message_is_stored_once_whoever_waits_for_it() {
    let mut bench = Bench::new(2);
    let shared = message("shared");
    let mut changes = vec![session("a", 1), session("b", 2), session("c", 3)];
    changes.extend((1..=3).map(|number| queued(number, 1, &shared)));
    bench.commit(1, changes);
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Messages)), (3, 1));
    // Another shard that was handed the same message.
    bench.links[1].submit(Turn {
        shard: 1,
        turn: 1,
        changes: vec![session("d", 4), queued(4, 1, &shared)].into(),
        ..Turn::default()
    });
    bench.writer.step();
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Messages)), (4, 1));
    for number in 1..=3 {
        bench.commit(1 + number, vec![removed(number, 1, &shared)]);
        assert_eq!(bench.count(Table::Messages), 1);
    }
    bench.commit(5, vec![removed(4, 1, &shared)]);
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Messages)), (0, 0));
}

/// What is read back is told by its number.
fn removed_again(session: u64, (place, record): &(u64, QueuedRecord)) -> Change {
    let (place, message, number) = (*place, record.message.clone(), record.number);
    Change::Removed { session, place, message, number, flew: false }
}

#[test]
fn references_count_on_over_a_restart() {
    let mut bench = Bench::new(1);
    let shared = message("shared");
    bench.commit(1, vec![session("a", 1), queued(1, 1, &shared), queued(1, 2, &shared)]);
    let mut bench = bench.restart();
    let found = bench.page(1, 1, 1).messages;
    assert!(found[0].1.message.ptr_eq(&found[1].1.message), "one in memory, too");
    bench.commit(2, vec![removed_again(1, &found[0])]);
    assert_eq!(bench.count(Table::Messages), 1);
    bench.commit(3, vec![removed_again(1, &found[1]), queued(1, 3, &message("new"))]);
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Messages)), (1, 1));
}

#[test]
fn turns_that_wait_are_committed_together_and_what_came_and_went_is_not_written() {
    let mut bench = Bench::new(1);
    let message = message("brief");
    bench.commit(1, vec![session("a", 1), queued(1, 1, &message)]);
    for turn in 2..50_u64 {
        let changes = vec![queued(1, turn, &message), removed(1, turn - 1, &message)];
        bench.links[0].submit(Turn { turn, changes: changes.into(), ..Turn::default() });
    }
    assert_eq!(bench.links[0].committed(), 1);
    bench.writer.step();
    assert_eq!(bench.links[0].committed(), 49);
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Messages)), (1, 1));
}

/// A QoS 2 message of a client of shard 0, with receivers on shards 0, 1 and 2 [MQTT-4.3.3-10].
#[test]
fn an_act_of_several_shards_is_committed_as_one() {
    let mut bench = Bench::new(3);
    let message = message("exactly once");
    bench.commit(1, (1..=4).map(|n| session(&n.to_string(), n)).collect());
    let act = (0, 2);
    bench.links[0].submit(Turn {
        shard: 0,
        turn: 2,
        changes: vec![session("5", 5), queued(1, 1, &message), Change::Held(4, id(9))].into(),
        parts: vec![Part { first: 1, end: 3, act }],
        handed: vec![(act, 0b110)],
        ..Turn::default()
    });
    bench.writer.step();
    assert_eq!(bench.links[0].committed(), 1, "the turn is not whole");
    assert_eq!(bench.count(Table::Sessions), 5, "what is not of the act is committed");
    let share = |shard: u8, place| Turn {
        shard,
        turn: 7,
        changes: vec![queued(shard.into(), place, &message)].into(),
        parts: vec![Part { first: 0, end: 1, act }],
        done: vec![act],
        ..Turn::default()
    };
    bench.links[1].submit(share(1, 8));
    bench.writer.step();
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Inbound)), (0, 0));
    assert_eq!(bench.links[1].committed(), 6);
    // Later turns are written meanwhile.
    bench.commit(3, vec![session("6", 6)]);
    assert_eq!((bench.count(Table::Sessions), bench.links[0].committed()), (6, 1));
    bench.links[2].submit(share(2, 8));
    bench.writer.step();
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Inbound)), (3, 1));
    assert_eq!(bench.count(Table::Messages), 1);
    let committed: Vec<_> = bench.links.iter().map(sluice::store::Link::committed).collect();
    assert_eq!(committed, [3, 7, 7]);
}

/// Shard 1 has no member of the group any more: the message goes on to shard 2, and so does the act
/// [MQTT-4.3.3-10].
#[test]
fn an_act_stays_open_for_a_part_that_came_back() {
    let mut bench = Bench::new(3);
    let message = message("routed again");
    bench.commit(1, vec![session("a", 1), session("b", 2)]);
    let act = (0, 2);
    bench.links[0].submit(Turn {
        shard: 0,
        turn: 2,
        changes: vec![Change::Held(1, id(9))].into(),
        parts: vec![Part { first: 0, end: 1, act }],
        handed: vec![(act, 0b10)],
        ..Turn::default()
    });
    let (returned, done) = (vec![act], vec![act]);
    bench.links[1].submit(Turn { shard: 1, turn: 4, returned, done, ..Turn::default() });
    // What shard 2 was handed earlier does not count for what it is handed now.
    bench.links[2].submit(Turn { shard: 2, turn: 3, done: vec![(0, 2)], ..Turn::default() });
    bench.writer.step();
    assert_eq!((bench.count(Table::Inbound), bench.links[0].committed()), (0, 1));
    bench.links[0].submit(Turn {
        shard: 0,
        turn: 3,
        handed: vec![(act, 0b100)],
        taken_back: vec![act],
        ..Turn::default()
    });
    bench.writer.step();
    assert_eq!((bench.count(Table::Inbound), bench.links[0].committed()), (0, 1));
    bench.links[2].submit(Turn {
        shard: 2,
        turn: 5,
        changes: vec![queued(2, 1, &message)].into(),
        parts: vec![Part { first: 0, end: 1, act }],
        done: vec![(0, 3)],
        ..Turn::default()
    });
    bench.writer.step();
    assert_eq!((bench.count(Table::Inbound), bench.count(Table::Queued)), (1, 1));
    let committed: Vec<_> = bench.links.iter().map(sluice::store::Link::committed).collect();
    assert_eq!(committed, [3, 4, 5]);
}

#[test]
fn a_crash_in_the_middle_of_an_act_leaves_nothing_of_it() {
    let mut bench = Bench::new(2);
    bench.commit(1, vec![session("a", 1), session("b", 2)]);
    bench.links[0].submit(Turn {
        shard: 0,
        turn: 2,
        changes: vec![queued(1, 1, &message("half")), Change::Held(2, id(1))].into(),
        parts: vec![Part { first: 0, end: 2, act: (0, 2) }],
        handed: vec![((0, 2), 0b10)],
        ..Turn::default()
    });
    bench.writer.step();
    let bench = bench.restart();
    assert_eq!(bench.recovered.sessions.len(), 2);
    for session in &bench.recovered.sessions {
        assert!(session.paged.messages == 0 && session.inbound.is_empty(), "{session:?}");
    }
}

#[test]
fn what_ends_before_its_act_is_whole_is_never_stored() {
    let mut bench = Bench::new(2);
    let message = message("dropped");
    bench.commit(1, vec![session("a", 1)]);
    bench.links[0].submit(Turn {
        shard: 0,
        turn: 2,
        changes: vec![queued(1, 1, &message), Change::Held(1, id(1))].into(),
        parts: vec![Part { first: 0, end: 2, act: (0, 2) }],
        handed: vec![((0, 2), 0b10)],
        ..Turn::default()
    });
    bench.commit(3, vec![removed(1, 1, &message), Change::Freed(1, id(1))]);
    bench.links[1].submit(Turn { shard: 1, turn: 1, done: vec![(0, 2)], ..Turn::default() });
    bench.writer.step();
    assert_eq!(bench.links[0].committed(), 3);
    for table in [Table::Queued, Table::Inbound, Table::Messages] {
        assert_eq!(bench.count(table), 0, "{table:?}");
    }
}

#[test]
fn a_later_retained_message_is_not_undone_by_an_act() {
    let mut bench = Bench::new(2);
    bench.links[0].submit(Turn {
        shard: 0,
        turn: 1,
        changes: vec![retained("t", (1, 0), "older")].into(),
        parts: vec![Part { first: 0, end: 1, act: (0, 1) }],
        handed: vec![((0, 1), 0b10)],
        ..Turn::default()
    });
    bench.commit(2, vec![retained("t", (2, 0), "newer")]);
    bench.links[1].submit(Turn { shard: 1, turn: 1, done: vec![(0, 1)], ..Turn::default() });
    bench.writer.step();
    let bench = bench.restart();
    assert_eq!(bench.recovered.retained[0].message.payload(), b"newer");
    assert_eq!(bench.recovered.retained[0].stamp, (2, 0));
}

#[test]
fn the_end_of_a_session_does_not_take_the_next_one_of_its_client() {
    let mut bench = Bench::new(2);
    bench.commit(1, vec![session("a", 1)]);
    let ended = || Change::Ended { client_id: "a".into() };
    for (turn, with) in [(2, 0b10), (3, 0)] {
        bench.links[0].submit(Turn {
            shard: 0,
            turn,
            changes: vec![ended(), session("a", turn)].into(),
            parts: vec![Part { first: 0, end: 1, act: (0, turn) }],
            handed: vec![((0, turn), with)],
            ..Turn::default()
        });
    }
    bench.writer.step();
    assert_eq!((bench.count(Table::Sessions), bench.links[0].committed()), (1, 1));
    bench.links[1].submit(Turn { shard: 1, turn: 1, done: vec![(0, 2)], ..Turn::default() });
    bench.writer.step();
    assert_eq!(bench.links[0].committed(), 3);
    let bench = bench.restart();
    assert_eq!(bench.recovered.sessions[0].record.session, 3);
}

#[test]
fn a_store_that_fails_keeps_what_it_was_handed_and_goes_on() {
    let mut bench = Bench::new(1);
    let brief = message("brief");
    bench.commit(1, vec![session("a", 1)]);
    bench.memory.fail(Some("No space left on device"));
    bench.commit(2, vec![queued(1, 1, &brief), queued(1, 2, &message("kept"))]);
    assert!(bench.links[0].is_failing());
    assert_eq!(bench.links[0].committed(), 1);
    bench.commit(3, vec![removed(1, 1, &brief)]);
    assert_eq!(bench.count(Table::Queued), 0);
    bench.memory.fail(None);
    bench.writer.step();
    assert!(!bench.links[0].is_failing());
    assert_eq!(bench.links[0].committed(), 3);
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Messages)), (1, 1));
}

/// A commit that failed may have been made all the same.
#[test]
fn what_a_failed_commit_may_have_written_is_removed_when_it_goes() {
    let mut bench = Bench::new(1);
    let brief = message("brief");
    bench.commit(1, vec![session("a", 1), queued(1, 1, &brief)]);
    // As a store that wrote everything, and then said that it failed.
    bench.memory.fail(Some("Input/output error"));
    bench.commit(2, vec![queued(1, 2, &brief)]);
    bench.memory.fail(None);
    let ghost = crate::engines::records(&bench.memory, Table::Queued)[0].1.clone();
    let key = [1_u64.to_be_bytes(), 2_u64.to_be_bytes()].concat();
    let write = crate::engines::put(Table::Queued, &key, &ghost);
    crate::engines::commit(&mut bench.memory.clone(), &[write]);
    bench.commit(3, vec![removed(1, 1, &brief), removed(1, 2, &brief)]);
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Messages)), (0, 0));
}

/// What a later act takes from a queue was promised by an earlier one, which may be committed first.
#[test]
fn what_a_later_act_removes_is_stored_until_that_is_whole() {
    let mut bench = Bench::new(3);
    let message = message("goes on to another");
    bench.commit(1, (1..=2).map(|n| session(&n.to_string(), n)).collect());
    let turn = |turn, changes: Vec<Change>, with| Turn {
        turn,
        parts: vec![Part { first: 0, end: changes.len(), act: (0, turn) }],
        changes: changes.into(),
        handed: vec![((0, turn), with)],
        ..Turn::default()
    };
    bench.links[0].submit(turn(2, vec![queued(1, 1, &message)], 0b010));
    bench.links[0].submit(turn(3, vec![removed(1, 1, &message), queued(2, 1, &message)], 0b100));
    bench.writer.step();
    assert_eq!((bench.count(Table::Queued), bench.links[0].committed()), (0, 1));
    bench.links[1].submit(Turn { shard: 1, turn: 5, done: vec![(0, 2)], ..Turn::default() });
    bench.writer.step();
    assert_eq!((bench.count(Table::Queued), bench.links[0].committed()), (1, 2));
    bench.links[2].submit(Turn { shard: 2, turn: 5, done: vec![(0, 3)], ..Turn::default() });
    bench.writer.step();
    assert_eq!((bench.count(Table::Queued), bench.links[0].committed()), (1, 3));
    assert_eq!(bench.count(Table::Messages), 1);
}
