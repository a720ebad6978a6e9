//! Queues that are in the store only.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use sluice::hooks::{Commit, Store, Table};
use sluice::mqtt::{Message, QoS};
use sluice::session::{Change, ExpiredOnDisk, PageRequest};
use sluice::store::{Memory, PROGRESS_RECORDS, Part, Turn, recover};
use sluice::timer::Time;

use crate::engines::{Unreadable, commit, put, records};
use crate::turns::{Bench, START, id, message, paged, queued, removed, request, session};

fn payloads(page: &sluice::session::PageOfQueue) -> Vec<String> {
    let payload = |(_, record): &(u64, sluice::session::QueuedRecord)| {
        String::from_utf8(record.message.payload().to_vec()).expect("text")
    };
    page.messages.iter().map(payload).collect()
}

#[test]
fn a_queue_is_read_in_pages_of_so_many_messages_and_bytes() {
    let mut bench = Bench::new(1);
    let mut changes = vec![session("a", 1), session("b", 2)];
    changes.extend((1..=10).map(|place| paged(1, place, &message(&place.to_string()))));
    changes.push(paged(2, 1, &message("another's")));
    bench.commit(1, changes);
    let request = PageRequest { waiter: (7, 7), ..request(1, 4, 3) };
    let page = bench.ask(2, request.clone()).expect("at once");
    assert_eq!((payloads(&page), page.end, page.is_last), (text(4..7), 7, false));
    let size = page.messages[0].1.message.size() as u64;
    let page = bench.ask(3, PageRequest { bytes: 2 * size, ..request.clone() }).expect("at once");
    assert_eq!((payloads(&page), page.end, page.is_last), (text(4..6), 6, false));
    let page = bench.ask(4, PageRequest { bytes: 0, ..request }).expect("at once");
    assert_eq!(payloads(&page), text(4..5), "one in any case");
    let page = bench.page(5, 1, 8);
    assert_eq!((payloads(&page), page.end, page.is_last), (text(8..11), 11, true));
}

fn text(numbers: std::ops::Range<u32>) -> Vec<String> {
    numbers.map(|number| number.to_string()).collect()
}

#[test]
fn a_message_that_is_in_the_store_only_for_some_is_one() {
    let mut bench = Bench::new(1);
    let both = message("both");
    let changes = vec![session("a", 1), session("b", 2), queued(1, 1, &both), paged(2, 1, &both)];
    bench.commit(1, changes);
    assert_eq!(bench.count(Table::Messages), 1);
    let record = bench.page(2, 2, 1).messages.remove(0).1;
    assert!(!record.message.ptr_eq(&both), "read anew");
    bench.commit(3, vec![removed(1, 1, &both)]);
    assert_eq!(bench.count(Table::Messages), 1);
    drop(both);
    let (message, number) = (record.message, record.number);
    let gone = Change::Removed { session: 2, place: 1, message, number, flew: false };
    bench.commit(4, vec![gone]);
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Messages)), (0, 0));
}

/// What belongs to an act is read when that is committed, and nothing behind it before.
#[test]
fn a_page_ends_before_what_is_not_committed() {
    let mut bench = Bench::new(2);
    bench.commit(1, vec![session("a", 1), paged(1, 1, &message("1"))]);
    bench.links[0].submit(Turn {
        shard: 0,
        turn: 2,
        changes: vec![paged(1, 2, &message("2")), paged(1, 3, &message("3"))].into(),
        parts: vec![Part { first: 0, end: 1, act: (0, 2) }],
        handed: vec![((0, 2), 0b10)],
        ..Turn::default()
    });
    let page = bench.page(3, 1, 1);
    assert_eq!((payloads(&page), page.end, page.is_last), (text(1..2), 2, false));
    assert!(bench.ask(4, request(1, 2, 9)).is_none(), "nothing to read yet");
    bench.links[1].submit(Turn { shard: 1, turn: 1, done: vec![(0, 2)], ..Turn::default() });
    bench.writer.step();
    let page = bench.links[0].take_page().expect("the act is complete").page;
    assert_eq!((payloads(&page), page.is_last), (text(2..4), true));
}

#[test]
fn the_queue_of_a_session_that_ended_goes_in_steps() {
    const COUNT: u64 = 10_000;
    let mut bench = Bench::new(1);
    let shared = message("of both");
    let mut changes = vec![session("a", 1), session("b", 2), paged(2, 1, &shared)];
    changes.push(paged(1, 1, &shared));
    changes.extend((2..=COUNT).map(|place| paged(1, place, &message("own"))));
    bench.commit(1, changes);
    bench.links[0].submit(Turn {
        turn: 2,
        changes: vec![Change::Forgotten(1, 1), Change::Ended { client_id: "a".into() }].into(),
        ..Turn::default()
    });
    let (most, left) = (Cell::new(0), Cell::new(bench.count(Table::Queued)));
    while bench.writer.step() {
        let now = bench.count(Table::Queued);
        most.set(most.get().max(left.replace(now) - now));
    }
    assert!((1..=5000).contains(&most.get()), "{} at once", most.get());
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Messages)), (1, 1));
    assert_eq!(bench.count(Table::Sessions), 1);
}

/// [MQTT-3.3.2-5] In parts, without a look at the messages that stay, and what others wait for stays for them.
#[test]
fn what_has_expired_is_removed() {
    let mut bench = Bench::new(2);
    let brief =
        |seconds| Message::new("t", QoS::AtLeastOnce, false, b"x", b"", Some(seconds), Time(0));
    let shared = brief(1);
    let size = shared.size() as u64;
    let mut changes = vec![session("a", 1), session("b", 2), queued(2, 1, &message("t"))];
    changes.extend([paged(1, 1, &shared), queued(2, 2, &shared), paged(1, 2, &message("stays"))]);
    changes.extend([3, 1, 2].into_iter().zip(3..).map(|(s, place)| paged(1, place, &brief(s))));
    bench.commit(1, changes);
    let by = |seconds: u64| Some(Time(1000 * seconds));
    let look = |from, seconds| PageRequest { expired_by: by(seconds), ..request(1, from, 3) };
    let expired = |messages, next_expiry| {
        Some(ExpiredOnDisk { messages, bytes: u64::from(messages) * size, next_expiry })
    };
    let page = bench.ask(2, look(1, 1)).expect("at once");
    assert_eq!((page.end, page.is_last, page.expired), (4, false, expired(1, by(3))));
    let page = bench.ask(3, look(4, 1)).expect("at once");
    assert_eq!((page.end, page.is_last, page.expired), (6, true, expired(1, by(2))));
    bench.writer.step();
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Messages)), (5, 5));
    bench.commit(4, vec![removed(2, 2, &shared)]);
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Messages)), (4, 4));
    let page = bench.ask(5, look(1, 1)).expect("at once");
    assert_eq!((page.end, page.is_last, page.expired), (6, true, expired(0, by(2))));
}

/// A look goes no further than what is committed, and tells that there may be more.
#[test]
fn a_look_ends_before_what_is_not_committed() {
    let mut bench = Bench::new(2);
    let brief = || Message::new("t", QoS::AtLeastOnce, false, b"x", b"", Some(1), Time(0));
    bench.commit(1, vec![session("a", 1), paged(1, 1, &brief())]);
    bench.links[0].submit(Turn {
        shard: 0,
        turn: 2,
        changes: vec![paged(1, 2, &brief()), paged(1, 3, &brief())].into(),
        parts: vec![Part { first: 0, end: 1, act: (0, 2) }],
        handed: vec![((0, 2), 0b10)],
        ..Turn::default()
    });
    let by = Some(Time(1000));
    let look = |from| PageRequest { expired_by: by, ..request(1, from, 9) };
    let page = bench.ask(3, look(1)).expect("at once");
    let expired = page.expired.expect("a look");
    assert_eq!((page.is_last, expired.messages, expired.next_expiry), (true, 1, by));
    bench.links[1].submit(Turn { shard: 1, turn: 1, done: vec![(0, 2)], ..Turn::default() });
    let expired = bench.ask(4, look(2)).expect("at once").expired.expect("a look");
    assert_eq!((expired.messages, expired.next_expiry), (2, None));
    bench.writer.step();
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Messages)), (0, 0));
}

/// What a look removes is there until the next commit, and nobody is given it meanwhile.
#[test]
fn a_page_does_not_bring_what_a_look_has_removed() {
    let mut bench = Bench::new(1);
    let brief = Message::new("t", QoS::AtLeastOnce, false, b"x", b"", Some(1), Time(0));
    bench.commit(1, vec![session("a", 1), paged(1, 1, &brief), paged(1, 2, &message("stays"))]);
    let page = request(1, 1, 9);
    let look = PageRequest { expired_by: Some(Time(1000)), ..page.clone() };
    bench.links[0].submit(Turn { turn: 2, asked: vec![look, page], ..Turn::default() });
    while bench.writer.step() {}
    let looked = bench.links[0].take_page().expect("the look").page;
    assert_eq!(looked.expired.map(|expired| expired.messages), Some(1));
    let page = bench.links[0].take_page().expect("the page").page;
    assert_eq!((payloads(&page), page.is_last), (vec!["stays".to_owned()], true));
}

/// What was in flight when the broker began may stand behind what was not: it is neither read again, whatever
/// becomes of it meanwhile, nor removed when it expires [MQTT-3.3.2-5]: its delivery has begun.
#[test]
fn what_is_in_flight_is_left_alone() {
    let mut bench = Bench::new(1);
    let brief =
        |n: &str| Message::new("t", QoS::ExactlyOnce, false, n.as_bytes(), b"", Some(1), Time(0));
    let mut changes = vec![session("a", 1)];
    changes.extend((1..=4).map(|place| queued(1, place, &brief(&place.to_string()))));
    changes.extend([2, 4].map(|place| Change::InFlight(1, place, id(5))));
    bench.commit(1, changes);
    let request = PageRequest { in_flight: [2, 4].into(), ..request(1, 1, 9) };
    let page = bench.ask(2, request.clone()).expect("at once");
    assert_eq!((payloads(&page), page.end, page.is_last), (vec!["1".into(), "3".into()], 5, true));
    let look = PageRequest { expired_by: Some(Time(1000)), ..request };
    let expired = bench.ask(3, look).expect("at once").expired.expect("a look");
    assert_eq!((expired.messages, expired.next_expiry), (2, None));
    bench.writer.step();
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Messages)), (2, 2));
}

/// A session ends that had asked for a look: what others wait for is not taken from them.
#[test]
fn a_look_at_a_queue_that_is_being_removed() {
    let mut bench = Bench::new(1);
    let shared = Message::new("t", QoS::AtLeastOnce, false, b"x", b"", Some(1), Time(0));
    let mut changes: Vec<_> =
        ["a", "b", "c"].into_iter().zip(1..).map(|(n, s)| session(n, s)).collect();
    changes.extend((1..=3).map(|session| paged(session, 1, &shared)));
    drop(shared);
    bench.commit(1, changes);
    let look = PageRequest { expired_by: Some(Time(1000)), ..request(1, 1, 9) };
    bench.links[0].submit(Turn {
        turn: 2,
        changes: vec![Change::Forgotten(1, 1), Change::Ended { client_id: "a".into() }].into(),
        asked: vec![look],
        ..Turn::default()
    });
    while bench.writer.step() {}
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Messages)), (2, 1));
    bench.commit(3, vec![Change::Forgotten(2, 1), Change::Ended { client_id: "b".into() }]);
    while bench.writer.step() {}
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Messages)), (1, 1));
}

#[test]
fn a_page_goes_past_what_cannot_be_read() {
    let mut bench = Bench::new(1);
    let mut changes = vec![session("a", 1)];
    changes.extend((1..=5).map(|place| paged(1, place, &message(&place.to_string()))));
    bench.commit(1, changes);
    for (table, at) in [(Table::Queued, 1), (Table::Messages, 3)] {
        let (key, mut value) = records(&bench.memory, table).remove(at);
        value[0] ^= 1;
        commit(&mut bench.memory.clone(), &[put(table, &key, &value)]);
    }
    let page = bench.page(2, 1, 1);
    assert_eq!(
        (payloads(&page), page.lost, page.end),
        (["1", "3", "5"].map(String::from).to_vec(), 2, 6)
    );
    bench.writer.step();
    assert_eq!((bench.count(Table::Damaged), bench.count(Table::Queued)), (2, 3));
}

/// While nothing can be committed, what was committed is read: nothing else, and nothing twice.
#[test]
fn pages_are_read_from_a_store_that_fails() {
    let mut bench = Bench::new(1);
    let mut changes = vec![session("a", 1)];
    changes.extend((1..=4).map(|place| paged(1, place, &message(&place.to_string()))));
    bench.commit(1, changes);
    bench.memory.fail(Some("No space left on device"));
    bench.commit(2, vec![paged(1, 5, &message("5"))]);
    assert!(bench.links[0].is_failing());
    let page = bench.page(3, 1, 1);
    assert_eq!((payloads(&page), page.end, page.is_last), (text(1..5), 5, false));
    let gone = |(place, record): &(u64, sluice::session::QueuedRecord)| {
        let (message, number) = (record.message.clone(), record.number);
        Change::Removed { session: 1, place: *place, message, number, flew: false }
    };
    bench.commit(4, page.messages[..2].iter().map(gone).collect());
    assert_eq!(payloads(&bench.page(5, 1, 1)), text(3..5));
    assert!(bench.ask(6, request(1, 5, 9)).is_none(), "nothing to read yet");
    assert_eq!(bench.count(Table::Queued), 4);
    bench.memory.fail(None);
    bench.writer.step();
    let page = bench.links[0].take_page().expect("it is committed").page;
    assert_eq!((payloads(&page), page.end, page.is_last), (text(5..6), 6, true));
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Messages)), (3, 3));
}

/// What a session that has ended leaves to others does not come into memory while they cannot store it.
#[test]
fn what_goes_to_others_waits_for_a_store_that_works() {
    let mut bench = Bench::new(1);
    bench.commit(1, vec![session("a", 1), paged(1, 1, &message("1"))]);
    bench.memory.fail(Some("No space left on device"));
    bench.commit(2, vec![session("b", 2)]);
    let request = PageRequest { passes_on: true, ..request(1, 1, 9) };
    assert!(bench.ask(3, request).is_none(), "nobody could store it");
    assert!(!bench.writer.step(), "nor is there anything to do");
    assert_eq!(payloads(&bench.page(4, 1, 1)), text(1..2), "its own client has it");
    bench.memory.fail(None);
    bench.writer.step();
    let page = bench.links[0].take_page().expect("it works again").page;
    assert_eq!((payloads(&page), page.is_last), (text(1..2), true));
}

/// A client waits for a page of its queue, and what others have left behind takes many commits to remove.
#[test]
fn a_long_queue_that_is_removed_keeps_no_page_waiting() {
    const COUNT: u64 = 20_000;
    let mut bench = Bench::new(1);
    let left = message("left");
    let mut changes = vec![session("a", 1), session("b", 2), paged(2, 1, &message("wanted"))];
    changes.extend((1..=COUNT).map(|place| paged(1, place, &left)));
    bench.commit(1, changes);
    let ended = vec![Change::Ended { client_id: "a".into() }, Change::Forgotten(1, 0)];
    let asked = vec![request(2, 1, 9)];
    bench.links[0].submit(Turn { turn: 2, changes: ended.into(), asked, ..Turn::default() });
    assert!(bench.writer.step());
    let page = bench.links[0].take_page().expect("at once").page;
    assert_eq!(payloads(&page), ["wanted"]);
    assert!(bench.count(Table::Queued) > COUNT as usize / 2);
    while bench.writer.step() {}
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Messages)), (1, 1));
}

/// Nobody else waits for what cannot be read, and it is tried again.
#[test]
fn what_cannot_be_read_keeps_nobody_else_waiting() {
    let session_1 = Arc::new(AtomicU64::new(0));
    let (memory, scratched) = (Memory::default(), session_1.clone());
    let again = memory.clone();
    let open = Box::new(move || {
        let scratched = scratched.clone();
        let is_scratched = move |table, from: &[u8]| {
            let session = scratched.load(Ordering::Relaxed).to_be_bytes();
            table == Table::Queued && from.starts_with(&session)
        };
        Ok(Box::new(Unreadable::new(again.clone(), is_scratched)) as Box<dyn Store>)
    });
    let (recovered, writer, links) =
        recover(open, Commit::Disk, START, 1, PROGRESS_RECORDS).expect("empty");
    let mut bench = Bench { memory, recovered, writer, links };
    let queues = [1, 2, 3].map(|of| paged(of, 1, &message(&of.to_string())));
    let sessions = [session("a", 1), session("b", 2), session("c", 3)];
    bench.commit(1, sessions.into_iter().chain(queues).collect());
    session_1.store(1, Ordering::Relaxed);
    bench.links[0].submit(Turn {
        turn: 2,
        asked: vec![request(1, 1, 9), request(2, 1, 9)],
        ..Turn::default()
    });
    assert!(bench.writer.step(), "the other one is still to be read");
    bench.writer.step();
    let page = bench.links[0].take_page().expect("the other one").page;
    assert_eq!((payloads(&page), bench.links[0].put_off(false)), (text(2..3), 1));
    bench.commit(3, vec![paged(1, 2, &message("later"))]);
    assert!(!bench.links[0].is_failing());
    assert_eq!(bench.links[0].committed(), 3);
    // A session whose queue cannot be read ends, and one whose queue can.
    let ended = |of, client_id: &str| {
        vec![Change::Ended { client_id: client_id.into() }, Change::Forgotten(of, 0)]
    };
    bench.commit(4, ended(1, "a").into_iter().chain(ended(3, "c")).collect());
    for turn in 5..9 {
        bench.commit(turn, vec![session("d", 4)]);
    }
    assert_eq!(bench.count(Table::Queued), 3, "two of the one, one of another");
    session_1.store(0, Ordering::Relaxed);
    let Bench { memory, writer, links, .. } = bench;
    let (told, tells) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| writer.run(move |_| _ = told.send(()), || None));
        while records(&memory, Table::Queued).len() > 1 || links[0].put_off(false) > 0 {
            tells.recv_timeout(Duration::from_secs(10)).expect("it is tried again");
        }
        drop(links);
    });
}
