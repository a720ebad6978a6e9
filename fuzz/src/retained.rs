//! Retained messages against a map that keeps every topic's last writer.

use std::collections::BTreeMap;
use std::time::Duration;

use sluice::mqtt::{Message, QoS};
use sluice::router::{Router, RouterLimits, Stamp};
use sluice::timer::Time;

use crate::input::Input;
use crate::naive;

/// What a topic's last writer left.
struct Last {
    stamp: Stamp,
    message: Option<Message>,
}

const MAX_MESSAGES: usize = 12;

/// Sets, clears and asks as the input says.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let limits = RouterLimits { max_retained_messages: MAX_MESSAGES, ..RouterLimits::default() };
    let mut router = Router::new(0, 1, 1, limits);
    let mut model: BTreeMap<String, Last> = BTreeMap::new();
    let mut now = Time(1);
    while !input.is_empty() {
        match input.byte() % 5 {
            0 | 1 => write(&mut router, &mut model, &mut input, now),
            2 => {
                // Less than what cleared topics are remembered for, all told.
                now = now.plus(Duration::from_millis(u64::from(input.byte())));
                expire(&mut router, &mut model, now);
            }
            _ => {
                let filter = input.filter();
                if let Some((None, filter)) = naive::parse(&filter) {
                    let at_a_time = 1 + input.below(3);
                    ask(&router, &model, filter, at_a_time, now);
                }
            }
        }
        let live = model.values().filter(|one| one.message.is_some()).count();
        assert_eq!(router.retained_count(), live);
        if now.0 > 50_000 {
            break;
        }
    }
    ask(&router, &model, "#", 1, now);
    forget(&mut router, &model, now);
}

fn write(
    router: &mut Router,
    model: &mut BTreeMap<String, Last>,
    input: &mut Input<'_>,
    now: Time,
) {
    let topic = input.name();
    if topic.is_empty() {
        return;
    }
    let stamp = Stamp(u64::from(input.byte()) + 1, input.byte() % 3);
    let bits = input.byte();
    let message = (bits & 3 != 0).then(|| {
        let expiry = (bits & 4 != 0).then_some(u32::from(bits >> 3));
        let payload = bits.to_be_bytes();
        Message::new(&topic, QoS::AtMostOnce, true, &payload, &[], expiry, now)
    });
    let known = model.get(&topic);
    let newer = known.is_none_or(|one| stamp > one.stamp);
    let live = model.values().filter(|one| one.message.is_some()).count();
    let replaces = known.is_some_and(|one| one.message.is_some());
    let full = newer && message.is_some() && !replaces && live >= MAX_MESSAGES;
    let done = router.retain(&topic, message.clone(), stamp, now);
    assert_eq!(done.ok(), (!full).then_some(newer), "{topic:?} {stamp:?}");
    if newer && !full {
        model.insert(topic, Last { stamp, message });
    }
}

fn expire(router: &mut Router, model: &mut BTreeMap<String, Last>, now: Time) {
    while router.expire_retained(now, |_, _| {}) {}
    assert!(router.next_retained_expiry().is_none_or(|at| at > now));
    for last in model.values_mut() {
        last.message.take_if(|message| message.is_expired(now));
    }
}

/// Asks for what a filter matches, so many at a time.
fn ask(router: &Router, model: &BTreeMap<String, Last>, filter: &str, at_a_time: usize, now: Time) {
    let mut found = Vec::new();
    let mut after = None;
    for _ in 0..4 * (model.len() + 1) {
        let mut messages = 0;
        after = router.retained(filter, after.as_deref(), at_a_time, now, |message| {
            messages += 1;
            found.push(message.clone());
        });
        assert!(messages <= at_a_time);
        if after.is_none() {
            break;
        }
    }
    assert!(after.is_none(), "the search for {filter:?} does not end");
    let mut expected: Vec<&Message> = model
        .iter()
        .filter(|(topic, _)| naive::selects(filter, topic))
        .filter_map(|(_, last)| last.message.as_ref())
        .filter(|message| !message.is_expired(now))
        .collect();
    expected.sort_by_key(|message| message.topic().split('/').collect::<Vec<_>>());
    assert_eq!(found.len(), expected.len(), "{filter:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.ptr_eq(expected), "{:?} for {filter:?}", found.topic());
    }
}

/// Clears everything, which leaves nothing behind after a while.
fn forget(router: &mut Router, model: &BTreeMap<String, Last>, now: Time) {
    for topic in model.keys() {
        let done = router.retain(topic, None, Stamp(1_000, 0), now);
        assert_eq!(done, Ok(true));
    }
    assert_eq!((router.retained_count(), router.retained_bytes()), (0, 0));
    assert_eq!(router.tombstone_count(), model.len());
    while router.expire_retained(now.plus(Duration::from_secs(61)), |_, _| {}) {}
    assert_eq!(router.tombstone_count(), 0);
    assert_eq!(router.next_retained_expiry(), None);
}
