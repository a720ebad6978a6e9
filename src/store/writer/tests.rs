use std::sync::mpsc;

use super::*;
use crate::mqtt::{Message, PacketId, QoS};
use crate::session::{Journal, QueuedRecord};
use crate::store::{Memory, PROGRESS_RECORDS, recover};

#[test]
fn what_waited_for_a_store_that_failed_takes_no_memory_when_it_works() {
    const COUNT: u64 = 10_000;
    let memory = Memory::default();
    let opened = memory.clone();
    let open = Box::new(move || Ok(Box::new(opened.clone()) as Box<dyn Store>));
    let (_, mut writer, links) =
        recover(open, Commit::Disk, Epoch::default(), 1, PROGRESS_RECORDS).expect("empty");
    memory.fail(Some("no space left"));
    let queued = |place| {
        let message = Message::new("t", QoS::AtLeastOnce, false, b"", b"", None, Time(0));
        let record = QueuedRecord { paged: true, ..QueuedRecord::new(message, QoS::AtLeastOnce) };
        Change::Queued(1, place, record)
    };
    let changes: Vec<_> = (1..=COUNT).map(queued).collect();
    links[0].submit(Turn { turn: 1, changes: changes.into(), ..Turn::default() });
    writer.step();
    assert!(links[0].is_failing() && writer.staging.room() > COUNT as usize);
    memory.fail(None);
    writer.step();
    assert_eq!((links[0].committed(), writer.staging.room()), (1, 0));
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

/// What is acknowledged while a commit is put off is not written. It is put off no longer when somebody waits who
/// can be helped by nothing else, or when there is enough.
#[test]
fn a_commit_is_put_off_for_what_may_be_acknowledged_at_once() {
    let memory = Memory::default();
    let opened = memory.clone();
    let open = Box::new(move || Ok(Box::new(opened.clone()) as Box<dyn Store>));
    let (_, mut writer, links) =
        recover(open, Commit::Disk, Epoch::default(), 1, PROGRESS_RECORDS).expect("empty");
    writer.patience = Duration::from_secs(3600);
    let journal = Journal::default();
    let _ = journal.end_turn(1, |_| None);
    let sent = |place, packet_id| {
        let message = Message::new("t", QoS::AtLeastOnce, false, b"", b"", None, Time(0));
        let record = QueuedRecord { packet_id, ..QueuedRecord::new(message, QoS::AtLeastOnce) };
        journal.note(Change::Queued(1, place, record))
    };
    let submit = |turn| {
        let changes = journal.end_turn(turn + 1, |_| None).0.expect("some");
        links[0].submit(Turn { turn, changes, ..Turn::default() });
    };
    let first = sent(1, PacketId::new(1));
    submit(1);
    sent(2, PacketId::new(2));
    submit(2);
    sent(3, None);
    submit(3);
    writer.let_come();
    assert_eq!(writer.come.len(), 3, "the third is for a client that is not there");
    assert!(journal.take_back(first), "it was received, and not taken in");
    writer.step();
    assert_eq!(links[0].committed(), 3);
    let mut places = Vec::new();
    memory.scan(Table::Queued, &mut |key, _| places.extend(key.last().copied())).expect("readable");
    assert_eq!(places, [2, 3]);
    writer.patience = Duration::from_secs(3600);
    (0..1 << 12).for_each(|place| _ = sent(4 + place, PacketId::new(1)));
    submit(4);
    writer.let_come();
    assert_eq!(writer.come.len(), 1, "that is enough");
}
