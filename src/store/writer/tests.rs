use std::sync::mpsc;

use super::*;
use crate::mqtt::{Message, PacketId, QoS};
use crate::session::{Journal, Noted, QueuedRecord};
use crate::store::{Memory, PROGRESS_RECORDS, recover};

#[test]
fn what_waited_for_a_store_that_failed_takes_no_memory_when_it_works() {
    const COUNT: u64 = 10_000;
    let (memory, mut writer, link) = one();
    memory.fail(Some("no space left"));
    let queued = |place| {
        let message = Message::new("t", QoS::AtLeastOnce, false, b"", b"", None, Time(0));
        let record = QueuedRecord { paged: true, ..QueuedRecord::new(message, QoS::AtLeastOnce) };
        Change::Queued(1, place, record)
    };
    let changes: Vec<_> = (1..=COUNT).map(queued).collect();
    link.submit(Turn { turn: 1, changes: changes.into(), ..Turn::default() });
    writer.step();
    assert!(link.is_failing() && writer.staging.room() > COUNT as usize);
    memory.fail(None);
    writer.step();
    assert_eq!((link.committed(), writer.staging.room()), (1, 0));
}

/// Thousands of commits a second may be of one shard only: the others sleep on.
#[test]
fn who_has_nothing_to_hear_of_a_commit_is_not_told() {
    let memory = Memory::default();
    let opened = memory.clone();
    let open = Box::new(move || Ok(Box::new(opened.clone()) as Box<dyn Store>));
    let (_, writer, links) =
        recover(open, Commit::Disk, Epoch::default(), 3, PROGRESS_RECORDS).expect("empty");
    let (told, tells) = mpsc::channel();
    let subscribed = || vec![Change::Unsubscribed(1, "t".into())];
    let next = || tells.iter().find(|shards| *shards != 0);
    // The writer ends with the links.
    std::thread::scope(move |scope| {
        scope.spawn(|| writer.run(move |shards| _ = told.send(shards), || None));
        let mut turn = 0;
        let mut submit = |shard: u8, changes: Vec<Change>| {
            turn += 1;
            let changes = changes.into();
            links[usize::from(shard)].submit(Turn { shard, turn, changes, ..Turn::default() });
        };
        submit(1, subscribed());
        assert_eq!(next(), Some(0b010));
        assert_eq!(links[1].committed(), 1);
        memory.fail(Some("no space left"));
        submit(0, subscribed());
        assert_eq!(next(), Some(ALL), "the store fails");
        assert!(links[2].is_failing());
        memory.fail(None);
        assert_eq!(next(), Some(ALL), "it works again");
        assert!(!links[2].is_failing());
        // Any of them may have seen that, and wait until it is over.
        submit(2, vec![Change::Undone; 1 << 17]);
        assert_eq!(next(), Some(ALL), "it was far behind");
        submit(2, subscribed());
        assert_eq!(next(), Some(0b100));
        drop(links);
    });
}

/// A writer of one shard, and what is in its store.
fn one() -> (Memory, Writer, Link) {
    let memory = Memory::default();
    let opened = memory.clone();
    let open = Box::new(move || Ok(Box::new(opened.clone()) as Box<dyn Store>));
    let (_, writer, mut links) =
        recover(open, Commit::Disk, Epoch::default(), 1, PROGRESS_RECORDS).expect("empty");
    (memory, writer, links.remove(0))
}

/// A journal whose first turn is 1.
fn journal() -> Journal {
    let journal = Journal::default();
    let _ = journal.end_turn(1, |_| None);
    journal
}

/// Notes that a message is sent, or is queued if it has no identifier.
fn send(journal: &Journal, place: u64, packet_id: Option<PacketId>) -> Noted {
    let message = Message::new("t", QoS::AtLeastOnce, false, b"", b"", None, Time(0));
    let record = QueuedRecord { packet_id, ..QueuedRecord::new(message, QoS::AtLeastOnce) };
    journal.note(Change::Queued(1, place, record)).expect("it is no other shard's")
}

fn submit(journal: &Journal, link: &Link, turn: u64) {
    let changes = journal.end_turn(turn + 1, |_| None).0.expect("some");
    link.submit(Turn { turn, changes, ..Turn::default() });
}

fn queued(memory: &Memory) -> Vec<u8> {
    let mut places = Vec::new();
    memory.scan(Table::Queued, &mut |key, _| places.extend(key.last().copied())).expect("readable");
    places
}

const LONG: Duration = Duration::from_secs(3600);

/// Nor is there a commit of it. That it is no more is told all the same: a shard that ends asks for it.
#[test]
fn what_is_acknowledged_at_once_is_not_written() {
    let (memory, mut writer, link) = one();
    let journal = journal();
    let noted = send(&journal, 1, PacketId::new(1));
    submit(&journal, &link, 1);
    assert!(journal.take_back(noted, 0), "it was not taken in");
    assert!(!writer.receive(None));
    assert!(writer.inbox.left_since.is_some(), "it came back because that is to be told");
    writer.step();
    assert_eq!((link.committed(), queued(&memory)), (1, vec![]));
    assert_eq!(writer.inbox.min_patience, receive::MIN_PATIENCE, "no commit took any time");
    assert!(writer.inbox.left_since.is_none());
}

#[test]
fn what_comes_while_turns_are_let_come_is_not_written_with_them() {
    let (memory, mut writer, link) = one();
    let journal = journal();
    let first = send(&journal, 1, PacketId::new(1));
    send(&journal, 2, PacketId::new(2));
    submit(&journal, &link, 1);
    assert!(!writer.receive(None));
    assert!(journal.take_back(first, 0), "it has not been taken in");
    send(&journal, 3, PacketId::new(3));
    submit(&journal, &link, 2);
    writer.step();
    assert_eq!((link.committed(), queued(&memory)), (1, vec![2]));
    writer.step();
    assert_eq!((link.committed(), queued(&memory)), (2, vec![2, 3]));
}

/// What is for a client that is not there can only be committed.
#[test]
fn who_waits_for_a_commit_alone_is_not_let_wait() {
    let (memory, mut writer, link) = one();
    writer.state.set_writer();
    let wait = |writer: &mut Writer| {
        (writer.inbox.skip, writer.inbox.min_patience) = (1, LONG);
        assert!(!writer.receive(None));
    };
    let journal = journal();
    send(&journal, 1, None);
    submit(&journal, &link, 1);
    wait(&mut writer);
    writer.step();
    assert_eq!(link.committed(), 1);
    std::thread::scope(|scope| {
        send(&journal, 2, PacketId::new(1));
        submit(&journal, &link, 2);
        scope.spawn(|| {
            send(&journal, 3, None);
            submit(&journal, &link, 3);
        });
        wait(&mut writer);
    });
    writer.step();
    assert_eq!((link.committed(), queued(&memory)), (3, vec![1, 2, 3]));
    (0..link::ENOUGH as u64).for_each(|place| _ = send(&journal, place, PacketId::new(1)));
    submit(&journal, &link, 4);
    // So many are not let wait either.
    wait(&mut writer);
}

/// It is not known then who has acknowledged what.
#[test]
fn a_shard_that_has_not_looked_at_answers_is_waited_for() {
    let (_, writer, link) = one();
    assert!(writer.state.has_looked(0, 7), "it has not begun");
    link.is_at(7, true);
    assert!(writer.state.has_looked(0, 7), "it has nothing to look at");
    for turn in 7..10 {
        link.is_at(turn, false);
        assert!(!writer.state.has_looked(0, 7));
    }
    link.is_at(10, false);
    assert!(writer.state.has_looked(0, 7));
}

/// It is tried again and again, but the more rarely the more often it was in vain.
#[test]
fn turns_are_let_come_for_as_long_as_is_of_use() {
    let (_, mut writer, link) = one();
    let journal = journal();
    let mut turn = 0;
    let mut tries = |writer: &mut Writer, are_acknowledged: bool| {
        turn += 1;
        let noted = send(&journal, turn, PacketId::new(1));
        submit(&journal, &link, turn);
        if are_acknowledged {
            assert!(journal.take_back(noted, 0));
        }
        assert!(!writer.receive(Some(Instant::now() + LONG)));
        writer.step();
        assert_eq!(link.committed(), turn);
        writer.inbox.skip
    };
    assert_eq!(tries(&mut writer, true), 0);
    let in_vain: Vec<_> = (0..8).map(|_| tries(&mut writer, false)).collect();
    assert_eq!(in_vain, [2, 1, 0, 4, 3, 2, 1, 0]);
    (0..1000).for_each(|_| _ = tries(&mut writer, false));
    assert_eq!(writer.inbox.doubt, 6);
    assert_eq!(tries(&mut writer, true), 0);
    assert_eq!(tries(&mut writer, false), 2);
    writer.inbox.took(LONG);
    assert_eq!(writer.inbox.min_patience, receive::PATIENCE);
}

/// What is left was to be committed within a moment: as long as that fails, the next attempt is waited for.
#[test]
fn a_store_that_fails_is_not_asked_again_and_again_for_what_nobody_waits_for() {
    let (memory, mut writer, link) = one();
    let journal = journal();
    let noted = send(&journal, 1, PacketId::new(1));
    submit(&journal, &link, 1);
    assert!(journal.take_back(noted, 0));
    assert!(!writer.receive(None));
    memory.fail(Some("no space left"));
    send(&journal, 2, None);
    submit(&journal, &link, 2);
    writer.step();
    assert!(link.is_failing());
    let begun = Instant::now();
    let pause = Duration::from_millis(50);
    assert!(!writer.receive(Some(begun + pause)));
    assert!(begun.elapsed() >= pause, "{:?}", begun.elapsed());
}

/// Shards that never look are waited for no longer than others may have to.
#[test]
fn turns_are_let_come_for_so_long_at_most() {
    let begun = Instant::now();
    let mut now = begun + receive::PATIENCE;
    let looks = std::iter::from_fn(|| {
        let next = receive::look_again(begun, now);
        (std::mem::replace(&mut now, next) < next).then_some(next)
    });
    assert_eq!(looks.take(9).last(), Some(begun + receive::MAX_DELAY));
}
