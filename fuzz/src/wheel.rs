//! The timer wheel against a sorted list.

use std::collections::BTreeMap;
use std::time::Duration;

use sluice::timer::{Time, TimerKey, Wheel};

use crate::input::Input;

/// Inserts, cancels and lets time pass as the input says.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let mut now = Time(u64::from(input.number()) << (input.byte() % 32));
    let mut wheel = Wheel::new(now);
    // By time, then by order of insertion.
    let mut pending: BTreeMap<(u64, usize), TimerKey> = BTreeMap::new();
    let mut keys: Vec<TimerKey> = Vec::new();
    while !input.is_empty() {
        match input.byte() % 4 {
            0 | 1 => {
                let id = keys.len();
                let at = now.plus(span(&mut input));
                let key = wheel.insert(at, (at.0, id));
                assert_eq!(wheel.deadline(key), Some(at));
                keys.push(key);
                pending.insert((at.0, id), key);
            }
            2 => {
                let id = usize::from(input.number());
                let Some(&key) = keys.get(id % keys.len().max(1)) else { continue };
                let there = pending.iter().find(|(_, one)| **one == key).map(|(at, _)| *at);
                assert_eq!(wheel.deadline(key).map(|at| at.0), there.map(|(at, _)| at));
                assert_eq!(wheel.cancel(key), there);
                there.map(|there| pending.remove(&there));
            }
            _ => {
                now = now.plus(span(&mut input));
                advance(&mut wheel, &mut pending, now);
            }
        }
        assert_eq!(wheel.len(), pending.len());
        assert_eq!(wheel.is_empty(), pending.is_empty());
        let first = pending.keys().next().map(|(at, _)| *at);
        match (wheel.next_deadline(), first) {
            (Some(bound), Some(first)) => assert!(bound.0 <= first, "{bound:?} is after {first}"),
            (bound, first) => assert_eq!(bound.map(|at| at.0), first),
        }
    }
    drain(&mut wheel, &mut pending, now);
}

/// Follows the deadlines, as an event loop does, until nothing is left.
fn drain(
    wheel: &mut Wheel<(u64, usize)>,
    pending: &mut BTreeMap<(u64, usize), TimerKey>,
    mut now: Time,
) {
    let most = 16 * (pending.len() + 1);
    for _ in 0..most {
        let Some(at) = wheel.next_deadline() else { break };
        now = now.max(at);
        advance(wheel, pending, now);
    }
    assert!(wheel.is_empty() && pending.is_empty(), "{most} wakings did not do");
}

fn advance(
    wheel: &mut Wheel<(u64, usize)>,
    pending: &mut BTreeMap<(u64, usize), TimerKey>,
    now: Time,
) {
    let mut expired = Vec::new();
    wheel.advance(now, &mut expired);
    let later = pending.split_off(&(now.0 + 1, 0));
    let due = std::mem::replace(pending, later);
    assert!(expired.iter().eq(due.keys()), "{expired:?} at {now:?}, not {due:?}");
}

/// Anything from nothing to some decades.
fn span(input: &mut Input<'_>) -> Duration {
    let shift = input.byte() % 25;
    Duration::from_millis(u64::from(input.number()) << shift)
}
