//! [MQTT-3.3.2-5] What expires before its delivery has begun is deleted: when there is need of its place, or
//! when it is looked for.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::session::queue::{Entry, Queue};
use QoS::AtLeastOnce;

/// A client that is away, and has a queue of six.
fn away() -> Rig {
    let mut rig = Rig::new(Version::V5, 10);
    rig.limits.max_queued_messages = 6;
    rig.disconnect();
    rig
}

impl Rig {
    fn send_brief(&mut self, payload: &str, seconds: u32) -> Delivered {
        let message = expiring(payload, seconds, self.now);
        self.deliver(&delivery(&message, AtLeastOnce))
    }

    fn make_room(&mut self) -> u32 {
        self.session.make_room(1, &self.limits, self.now)
    }

    fn expired(&self) -> u32 {
        self.session.drops().get(DropCause::Expired)
    }
}

#[test]
fn what_has_expired_makes_room() {
    let mut rig = away();
    for (payload, seconds) in [("a", 3), ("b", 1), ("c", 2), ("d", 1), ("e", 9), ("f", 1)] {
        assert_eq!(rig.send_brief(payload, seconds), Delivered::Queued);
    }
    assert_eq!(rig.session.next_expiry(), Some(rig.now.plus(Duration::from_secs(1))));
    assert_eq!((rig.make_room(), rig.send(AtLeastOnce, "x")), (0, Delivered::Full));
    rig.wait(2);
    // No more than has to go, what expired first before the rest.
    for n in 1..=4 {
        assert_eq!((rig.make_room(), rig.expired()), (1, n));
        assert_eq!(rig.send(AtLeastOnce, "x"), Delivered::Queued);
    }
    assert_eq!((rig.make_room(), rig.send(AtLeastOnce, "x")), (0, Delivered::Full));
    rig.connect(&parameters(Version::V5, 10));
    let sent: Vec<_> = rig.wire.publishes().into_iter().map(|(.., payload)| payload).collect();
    assert_eq!(sent, ["a", "e", "x", "x", "x", "x"]);
    assert_eq!((rig.expired(), rig.session.drops().total()), (4, 4), "once each");
    assert_eq!((rig.session.queued_bytes(), rig.session.next_expiry()), (0, None));
}

/// A message of QoS 2 expires while it waits to be stored under its identifier, and what stands behind it does not:
/// it was not sent, and is not any more. One for those who are there is not too late by that.
#[test]
fn what_expires_before_it_is_committed_is_not_sent() {
    let mut rig = Rig::new(Version::V5, 10);
    let journal = Journal::default();
    rig.session.store_as(1, (0, 0), journal.clone(), rig.limits.in_memory);
    for (payload, seconds) in [("a", 2), ("b", 3), ("now", 0)] {
        let message = expiring(payload, seconds, rig.now);
        assert_eq!(rig.deliver(&delivery(&message, QoS::ExactlyOnce)), Delivered::Sent);
    }
    assert_eq!(rig.send(AtLeastOnce, "c"), Delivered::Sent);
    let _ = journal.end_turn(1, |_| None);
    rig.wait(2);
    rig.session.send_committed(0, rig.now, &mut rig.wire);
    // After a crash it would be sent, behind the others.
    assert_eq!((rig.wire.publishes().len(), rig.expired()), (0, 1));
    let _ = journal.end_turn(2, |_| None);
    rig.session.send_committed(1, rig.now, &mut rig.wire);
    let sent: Vec<_> = rig.wire.publishes().into_iter().map(|(.., payload)| payload).collect();
    assert_eq!((sent, rig.expired()), (vec!["b".into(), "now".into(), "c".into()], 1));
    assert_eq!(rig.session.in_flight(), 3);
}

#[test]
fn it_goes_in_steps() {
    let mut rig = away();
    for n in 0..6 {
        assert_eq!(rig.send_brief(&n.to_string(), 1 + n / 5), Delivered::Queued);
    }
    assert_eq!(rig.session.expire(rig.now, 100), 0);
    rig.wait(1);
    assert_eq!(rig.session.expire(rig.now, 3), 3);
    assert!(rig.session.next_expiry().is_some_and(|at| at <= rig.now), "there is more");
    assert_eq!(rig.session.expire(rig.now, 3), 2);
    assert_eq!(rig.session.next_expiry(), Some(rig.now.plus(Duration::from_secs(1))));
    assert_eq!((rig.session.queued(), rig.expired()), (1, 5));
}

/// [MQTT-4.3.3-7] What was sent does not expire, nor what stands behind it in the window.
#[test]
fn what_is_in_flight_stays() {
    let mut rig = Rig::new(Version::V5, 10);
    assert_eq!(rig.send_brief("sent", 1), Delivered::Sent);
    rig.disconnect();
    rig.wait(5);
    assert_eq!((rig.session.expire(rig.now, 10), rig.session.next_expiry()), (0, None));
    rig.connect(&parameters(Version::V5, 10));
    assert_eq!(rig.wire.publishes(), [(1, true, "sent".into())]);
}

/// The place of what is gone from the middle is closed up: the queue takes memory for what is in it.
#[test]
fn gaps_do_not_add_up() {
    let mut queue = Queue::new(QueuedBytes::default());
    let push = |queue: &mut Queue, message: &Message| {
        queue.push(Entry::new(&delivery(message, AtLeastOnce), 0));
    };
    push(&mut queue, &message("stays"));
    for n in 0..10_000_u64 {
        let now = Time(n * 1000);
        while queue.pop_expired(now).is_some() {}
        push(&mut queue, &expiring("brief", 5, now));
        assert!(queue.places() <= 2 * queue.len() + 33, "{} for {}", queue.places(), queue.len());
    }
    assert_eq!((queue.len(), queue.front().map(|e| e.message.payload())), (6, Some(&b"stays"[..])));
    assert_eq!(size_of::<Option<Entry>>(), size_of::<Entry>());
}

/// A session with two of its messages in memory, the rest in a store that the test is.
fn stored(max_queued_messages: u32) -> (Rig, Journal) {
    let mut rig = Rig::new(Version::V5, 10);
    let journal = Journal::default();
    rig.limits.in_memory.messages = 2;
    rig.limits.max_queued_messages = max_queued_messages;
    rig.session.store_as(1, (7, 7), journal.clone(), rig.limits.in_memory);
    rig.disconnect();
    (rig, journal)
}

fn looked(messages: u32, bytes: u64, next_expiry: Option<Time>, end: Option<u64>) -> PageOfQueue {
    let expired = Some(ExpiredOnDisk { messages, bytes, next_expiry });
    PageOfQueue {
        end: end.unwrap_or(100),
        is_last: end.is_none(),
        expired,
        ..PageOfQueue::default()
    }
}

#[test]
fn the_store_looks_for_what_it_alone_has() {
    let (mut rig, journal) = stored(6);
    let size = expiring("0", 1, rig.now).size() as u64;
    for n in 0..6 {
        assert_eq!(rig.send_brief(&n.to_string(), 1 + n / 5), Delivered::Queued);
    }
    assert_eq!((rig.session.paged().map(|paged| paged.messages), journal.len()), (Some(4), 6));
    rig.wait(1);
    assert_eq!((rig.session.expire(rig.now, 100), rig.session.queued()), (2, 4));
    let [request] = &journal.take_asked()[..] else { panic!("one look") };
    assert_eq!((request.from, request.expired_by), (3, Some(rig.now)));
    // Not again while it is under way.
    assert_eq!((rig.session.next_expiry(), rig.session.expire(rig.now, 100)), (None, 0));
    assert!(journal.take_asked().is_empty());
    let (now, limits) = (rig.now, rig.limits);
    let soon = now.plus(Duration::from_millis(1));
    let taken = rig.session.take_page(looked(2, 2 * size, None, Some(5)), now, &limits, |_| false);
    assert_eq!((taken.expired, rig.expired(), rig.session.queued()), (2, 4, 2));
    let [request] = &journal.take_asked()[..] else { panic!("it goes on") };
    assert_eq!((request.from, request.expired_by), (5, Some(rig.now)));
    let taken = rig.session.take_page(looked(1, size, Some(soon), None), now, &limits, |_| false);
    assert_eq!((taken.expired, rig.session.queued(), rig.session.queued_bytes()), (1, 1, size));
    let next = now.plus(Duration::from_secs(1));
    assert_eq!(rig.session.next_expiry(), Some(next), "not all the time");
    rig.wait(2);
    assert_eq!((rig.session.expire(rig.now, 100), journal.take_asked().len()), (0, 1));
    let taken = rig.session.take_page(looked(1, size, None, None), rig.now, &limits, |_| false);
    assert_eq!((taken.expired, rig.session.queued(), rig.session.queued_bytes()), (1, 0, 0));
    assert_eq!((rig.session.paged(), rig.expired()), (None, 6));
}

/// A full queue of which some has expired in the store takes messages while that is being removed.
#[test]
fn a_look_makes_room_at_once() {
    let (mut rig, journal) = stored(4);
    for payload in ["a", "b"] {
        assert_eq!(rig.send(AtLeastOnce, payload), Delivered::Queued);
    }
    for payload in ["c", "d"] {
        assert_eq!(rig.send_brief(payload, 1), Delivered::Queued);
    }
    assert_eq!((rig.make_room(), rig.send(AtLeastOnce, "x")), (0, Delivered::Full));
    assert!(journal.take_asked().is_empty());
    rig.wait(1);
    assert_eq!((rig.make_room(), rig.send(AtLeastOnce, "x")), (0, Delivered::Queued));
    assert_eq!((journal.take_asked().len(), rig.session.queued()), (1, 5));
    let limits = rig.limits;
    let page = looked(2, 0, None, None);
    assert_eq!(rig.session.take_page(page, rig.now, &limits, |_| false).expired, 2);
    assert_eq!(rig.send(AtLeastOnce, "y"), Delivered::Queued);
    assert_eq!((rig.make_room(), rig.send(AtLeastOnce, "z")), (0, Delivered::Full));
    assert_eq!(rig.expired(), 2);
}

/// What a page brings and has expired is not taken in.
#[test]
fn a_page_brings_nothing_that_has_expired() {
    let (mut rig, journal) = stored(100);
    for n in 0..6 {
        assert_eq!(rig.send_brief(&n.to_string(), 1 + n % 2), Delivered::Queued);
    }
    let (handed, _) = journal.end_turn(1, |_| None);
    let queued = handed.expect("some").take().into_iter().filter_map(|change| match change {
        Change::Queued(_, place, record) if record.paged => Some((place, record)),
        _ => None,
    });
    let messages: Vec<_> = queued.collect();
    assert_eq!(messages.len(), 4);
    rig.wait(1);
    rig.connect(&parameters(Version::V5, 10));
    let page = PageOfQueue { messages, end: 7, is_last: true, ..PageOfQueue::default() };
    let taken = rig.session.take_page(page, rig.now, &LIMITS, |_| false);
    rig.session.pump(rig.now, &mut rig.wire);
    let sent: Vec<_> = rig.wire.publishes().into_iter().map(|(.., payload)| payload).collect();
    assert_eq!(sent, ["1", "3", "5"]);
    assert_eq!((taken.expired, rig.expired(), rig.wire.dropped.len()), (2, 3, 1));
}

#[derive(Clone, Debug)]
enum Step {
    Push(Option<u32>),
    Pop,
    PopExpired,
    Wait(u32),
    TakeEvery(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => proptest::option::of(1..6_u32).prop_map(Step::Push),
        2 => Just(Step::Pop),
        4 => Just(Step::PopExpired),
        2 => (0..3_u32).prop_map(Step::Wait),
        1 => (2..5_usize).prop_map(Step::TakeEvery),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// The queue is a sorted map: number, and when it expires.
    #[test]
    fn the_queue_is_what_a_plain_one_is(steps in prop::collection::vec(step(), 0..400)) {
        let total = QueuedBytes::default();
        let mut queue = Queue::new(total.clone());
        let mut model: BTreeMap<usize, Option<Time>> = BTreeMap::new();
        let mut now = T0;
        let number = |entry: &Entry| -> usize {
            std::str::from_utf8(entry.message.payload()).unwrap().parse().unwrap()
        };
        for (n, step) in steps.into_iter().enumerate() {
            match step {
                Step::Push(seconds) => {
                    let payload = format!("{n:04}");
                    let message = match seconds {
                        Some(seconds) => expiring(&payload, seconds, now),
                        None => message(&payload),
                    };
                    queue.push(Entry::new(&delivery(&message, AtLeastOnce), 0));
                    model.insert(n, message.expires_at());
                }
                Step::Pop => {
                    let popped = queue.pop().map(|entry| number(&entry));
                    prop_assert_eq!(popped, model.pop_first().map(|(n, _)| n));
                }
                Step::PopExpired => {
                    let first = model.iter().filter_map(|(n, at)| Some(((*at)?, *n))).min();
                    let due = first.filter(|(at, _)| *at <= now).map(|(_, n)| n);
                    due.map(|n| model.remove(&n));
                    prop_assert_eq!(queue.pop_expired(now).map(|entry| number(&entry)), due);
                }
                Step::Wait(seconds) => now = now.plus(Duration::from_secs(seconds.into())),
                Step::TakeEvery(nth) => {
                    let taken = queue.take(|entry| number(entry) % nth == 0);
                    let theirs = model.keys().copied().filter(|n| n % nth == 0);
                    prop_assert!(taken.iter().map(number).eq(theirs));
                    model.retain(|n, _| n % nth > 0);
                }
            }
            prop_assert!(queue.iter().map(number).eq(model.keys().copied()));
            prop_assert_eq!(queue.front().map(number), model.keys().next().copied());
            prop_assert_eq!((queue.len(), queue.is_empty()), (model.len(), model.is_empty()));
            prop_assert_eq!(queue.next_expiry(), model.values().flatten().min().copied());
            let bytes = queue.iter().map(|entry| entry.message.size() as u64).sum::<u64>();
            prop_assert_eq!((queue.bytes(), total.get()), (bytes, bytes));
        }
    }
}
