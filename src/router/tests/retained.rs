use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::mqtt::{Message, topic};
use crate::timer::Time;

const NOW: Time = Time(1000);

fn message(topic: &str, payload: &str, expiry: Option<u32>, now: Time) -> Message {
    Message::new(topic, QoS::AtLeastOnce, true, payload.as_bytes(), b"", expiry, now)
}

fn set(router: &mut Router, topic: &str, payload: &str, stamp: u64) -> Result<bool, RetainedFull> {
    router.retain(topic, Some(message(topic, payload, None, NOW)), Stamp(stamp, 0), NOW)
}

/// All of them, in pages of `limit`.
fn found(router: &Router, filter: &str, limit: usize, now: Time) -> Vec<String> {
    let mut topics = Vec::new();
    let mut after: Option<String> = None;
    for _ in 0..100_000 {
        let before = topics.len();
        after = router.retained(filter, after.as_deref(), limit, now, |one| {
            topics.push(one.topic().to_owned());
        });
        assert!(topics.len() - before <= limit);
        if after.is_none() {
            return topics;
        }
    }
    panic!("the cursor does not move on");
}

#[test]
fn the_last_writer_wins() {
    let mut router = router();
    assert_eq!(set(&mut router, "a/b", "1", 10), Ok(true));
    assert_eq!(set(&mut router, "a/b", "0", 9), Ok(false));
    assert_eq!(set(&mut router, "a/b", "0", 10), Ok(false));
    let from_shard_1 =
        router.retain("a/b", Some(message("a/b", "2", None, NOW)), Stamp(10, 1), NOW);
    assert_eq!(from_shard_1, Ok(true));
    router.retained("a/b", None, 1, NOW, |one| assert_eq!(one.payload(), b"2"));
    assert_eq!(router.retain("a/b", None, Stamp(11, 0), NOW), Ok(true));
    assert_eq!(router.retained_count(), 0);
    // What is late does not come back.
    assert_eq!(set(&mut router, "a/b", "1", 10), Ok(false));
    assert_eq!(router.retain("never/set", None, Stamp(20, 0), NOW), Ok(true));
    assert_eq!(set(&mut router, "never/set", "late", 19), Ok(false));
    assert_eq!(router.tombstone_count(), 2);
    assert_eq!(set(&mut router, "never/set", "new", 21), Ok(true));
    assert_eq!((router.tombstone_count(), router.retained_count()), (1, 1));
    let next = router.next_retained_expiry().unwrap();
    assert!(next.since(NOW) >= Duration::from_secs(60));
    assert!(!router.expire_retained(next, |_, _| {}));
    assert_eq!(router.tombstone_count(), 0);
}

#[test]
fn messages_expire() {
    let mut router = router();
    let soon = message("a", "x", Some(5), NOW);
    router.retain("a", Some(soon.clone()), Stamp(1, 0), NOW).unwrap();
    let at = soon.expires_at().unwrap();
    assert!(router.next_retained_expiry().unwrap() <= at);
    assert_eq!(found(&router, "#", 10, at), Vec::<String>::new());
    assert_eq!(found(&router, "a", 10, Time(at.0 - 1)), ["a"]);
    router.expire_retained(Time(at.0 - 1), |_, _| {});
    assert_eq!(router.retained_count(), 1);
    // A new value in the meantime is not the one whose time has come.
    router.retain("a", Some(message("a", "y", Some(9), NOW)), Stamp(2, 0), NOW).unwrap();
    router.expire_retained(at, |_, _| {});
    assert_eq!(router.retained_count(), 1);
    router.expire_retained(Time(at.0 + 5000), |_, _| {});
    assert_eq!((router.retained_count(), router.retained_bytes()), (0, 0));
    assert_eq!(set(&mut router, "a", "late", 1), Ok(false));
}

#[test]
fn what_expires_at_once_goes_step_by_step() {
    let mut router = router();
    for n in 0..5000 {
        let topic = format!("t/{n}");
        let message = message(&topic, "x", Some(5), NOW);
        router.retain(&topic, Some(message), Stamp(1, 0), NOW).unwrap();
    }
    let at = NOW.plus(Duration::from_secs(5));
    let (mut calls, mut left) = (1, router.retained_count());
    while router.expire_retained(at, |_, _| {}) {
        assert!((left - 256..left).contains(&router.retained_count()), "bounded, and counted off");
        left = router.retained_count();
        calls += 1;
    }
    assert_eq!((router.retained_count(), router.retained_bytes(), calls), (0, 0, 5000 / 256 + 1));
}

#[test]
fn limits_hold_by_count_and_bytes() {
    let limits = RouterLimits {
        max_retained_messages: 2,
        max_retained_bytes: 2000,
        max_tombstones: 3,
        ..RouterLimits::default()
    };
    let mut router = Router::new(0, 1, 1, limits);
    assert_eq!(set(&mut router, "a", "1", 1), Ok(true));
    assert_eq!(set(&mut router, "b", "1", 1), Ok(true));
    assert_eq!(set(&mut router, "c", "1", 1), Err(RetainedFull));
    assert_eq!(set(&mut router, "b", "2", 2), Ok(true));
    assert_eq!(set(&mut router, "b", &"x".repeat(2000), 3), Err(RetainedFull));
    router.retained("b", None, 1, NOW, |one| assert_eq!(one.payload(), b"2"));
    assert_eq!(router.retain("a", None, Stamp(4, 0), NOW), Ok(true));
    assert_eq!(set(&mut router, "c", "1", 4), Ok(true));
    for n in 0..1000 {
        router.retain(&format!("endless/{n}"), None, Stamp(n, 0), NOW).unwrap();
    }
    assert_eq!(router.tombstone_count(), 3);
    assert_eq!(found(&router, "#", 10, NOW), ["b", "c"]);
}

#[test]
fn long_topics_are_not_remembered_beyond_their_bytes() {
    let limits = RouterLimits { max_tombstone_bytes: 10_000, ..RouterLimits::default() };
    let mut router = Router::new(0, 1, 1, limits);
    let long = |n: u64| format!("{n}/{}", "x".repeat(1000));
    for n in 0..1000 {
        assert_eq!(router.retain(&long(n), None, Stamp(2, 0), NOW), Ok(true));
    }
    assert!((5..10).contains(&router.tombstone_count()), "{} topics", router.tombstone_count());
    assert_eq!(set(&mut router, &long(999), "late", 1), Ok(false), "the last are remembered");
    for n in 0..1000 {
        assert_eq!(set(&mut router, &long(n), "new", 3), Ok(true));
    }
    assert_eq!((router.tombstone_count(), router.retained_count()), (0, 1000));
    assert_eq!(router.retain(&long(0), None, Stamp(4, 0), NOW), Ok(true));
    assert_eq!(router.tombstone_count(), 1, "what is no longer cleared does not count");
}

#[test]
fn a_call_does_bounded_work() {
    let mut router = router();
    for n in 0..20_000 {
        set(&mut router, &format!("d/{n}/x"), "", 1).unwrap();
    }
    set(&mut router, "d/777/y", "", 1).unwrap();
    let (mut calls, mut after, mut seen) = (0, None, 0);
    loop {
        after = router.retained("d/+/y", after.as_deref(), 100, NOW, |_| seen += 1);
        calls += 1;
        if after.is_none() {
            break;
        }
    }
    // Two looks a device, 400 a call.
    assert!(seen == 1 && (50..=110).contains(&calls), "{calls} calls");
    // One look is enough where nothing can match.
    assert!(router.retained("nothing/#", None, 1, NOW, |_| ()).is_none());
}

#[derive(Clone, Debug)]
enum Step {
    Set(String, u64, Option<u32>),
    Clear(String, u64),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let expiry = prop::option::weighted(0.3, 1..100u32);
    prop_oneof![
        6 => (topic_name(), 0..50u64, expiry).prop_map(|(t, stamp, e)| Step::Set(t, stamp, e)),
        2 => (topic_name(), 0..50u64).prop_map(|(topic, stamp)| Step::Clear(topic, stamp)),
        1 => (0..20_000u64).prop_map(Step::Wait),
    ]
}

proptest! {
    #[test]
    fn finds_what_a_naive_scan_finds(
        steps in prop::collection::vec(step(), 1..100),
        filters in prop::collection::vec(topic_filter(), 1..20),
        limit in 1..10usize,
    ) {
        let mut router = router();
        let mut model: BTreeMap<String, (u64, Option<Message>, Time)> = BTreeMap::new();
        let mut now = NOW;
        for step in steps {
            let (name, value, stamp) = match step {
                Step::Set(name, stamp, expiry) => {
                    let message = message(&name, "", expiry, now);
                    (name, Some(message), stamp)
                }
                Step::Clear(name, stamp) => (name, None, stamp),
                Step::Wait(ms) => {
                    now = now.plus(Duration::from_millis(ms));
                    let more = router.expire_retained(now, |_, _| {});
                    prop_assert!(!more);
                    for one in model.values_mut() {
                        if one.1.as_ref().is_some_and(|message| message.is_expired(now)) {
                            (one.1, one.2) = (None, now.plus(Duration::from_secs(60)));
                        }
                    }
                    model.retain(|_, one| one.1.is_some() || one.2 > now);
                    continue;
                }
            };
            let newer = model.get(&name).is_none_or(|old| old.0 < stamp);
            prop_assert_eq!(router.retain(&name, value.clone(), Stamp(stamp, 0), now), Ok(newer));
            if newer {
                model.insert(name, (stamp, value, now.plus(Duration::from_secs(60))));
            }
        }
        let live = |name: &str| model[name].1.as_ref().is_some_and(|one| !one.is_expired(now));
        for filter in filters.iter().chain(model.keys()) {
            let mut expected: Vec<&String> =
                model.keys().filter(|name| topic::matches(filter, name) && live(name)).collect();
            expected.sort_by_key(|name| name.split('/').collect::<Vec<_>>());
            let found = found(&router, filter, limit, now);
            prop_assert_eq!(found.iter().collect::<Vec<_>>(), expected, "{}", filter);
        }
        let count = model.values().filter(|one| one.1.is_some()).count();
        prop_assert_eq!(router.retained_count(), count);
        prop_assert_eq!(router.tombstone_count(), model.len() - count);
    }
}
