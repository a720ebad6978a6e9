//! The machine stops at any moment, or the broker when it is told to, and starts again with what was synced:
//! what was acknowledged is there, and nothing of QoS 2 comes twice.
//!
//! `CRASH_SEEDS=5000` plays that many seeds, from `SIM_FROM` or a random one on; `CRASH_SEED=42` plays
//! one and writes what happens to stderr. So do `FULL_SEEDS` with queues that are soon full, `QUICK_SEEDS` with few
//! clients that are there, `DROP_SEEDS` with some that lose their oldest then, `END_SEEDS` with sessions that end then,
//! `MEMBER_SEEDS` with shared groups whose members come and go, `COLLECT_SEEDS` with clients that subscribe to what is
//! retained, `WILL_SEEDS` with Wills that are, `EXPIRY_SEEDS` with sessions and `HURRY_SEEDS` with messages that expire.

mod actor;
mod broker;
mod check;
mod collector;
mod dying;
mod fickle;
mod lifetimes;
mod lives;
mod members;
mod moments;
mod mortal;
mod plays;
mod register;
mod role;
mod scene;

use sluice::mqtt::Version;

use self::broker::Confirms;
use crate::seeds::{Seeds, caught};

const SEEDS: Seeds = Seeds { plain: 100, many: "CRASH_SEEDS", one: "CRASH_SEED", test: "outlives" };
const FULL: Seeds = Seeds { plain: 60, many: "FULL_SEEDS", one: "FULL_SEED", test: "full_queues" };
const QUICK: Seeds = Seeds { plain: 60, many: "QUICK_SEEDS", one: "QUICK_SEED", test: "at_once" };
const MEMBERS: Seeds =
    Seeds { plain: 50, many: "MEMBER_SEEDS", one: "MEMBER_SEED", test: "members" };
const DROPS: Seeds = Seeds { plain: 60, many: "DROP_SEEDS", one: "DROP_SEED", test: "dropped" };
const COLLECTS: Seeds =
    Seeds { plain: 40, many: "COLLECT_SEEDS", one: "COLLECT_SEED", test: "retained" };
const WILLS: Seeds = Seeds { plain: 25, many: "WILL_SEEDS", one: "WILL_SEED", test: "newest" };
const ENDS: Seeds = Seeds { plain: 25, many: "END_SEEDS", one: "END_SEED", test: "overflow" };
const EXPIRES: Seeds = Seeds { plain: 25, many: "EXPIRY_SEEDS", one: "EXPIRY_SEED", test: "away" };
const HURRIES: Seeds = Seeds { plain: 20, many: "HURRY_SEEDS", one: "HURRY_SEED", test: "expires" };
/// Seeds with a store that confirms too early, at most.
const SEEDS_TOO_EARLY: u64 = 30;

#[test]
fn what_is_acknowledged_outlives_the_machine() {
    SEEDS.play("messages received", |seed, verbose| plays::play(seed, Confirms::Truly, verbose));
}

/// What was refused, for lack of room or because the store fails, is refused after a crash, too, or as if it
/// had never come; what was not is there.
#[test]
fn full_queues_and_crashes_lose_nothing_acknowledged() {
    FULL.play("messages received", plays::play_full);
}

/// What all receivers have acknowledged its publisher is told of before that is committed, and of nothing else.
#[test]
fn what_is_acknowledged_at_once_waits_for_no_commit() {
    QUICK.play("messages received", plays::play_quick);
}

/// What a member leaves behind that has gone, or goes in the middle of it, others have once, and nothing is
/// left on the disk that nobody waits for.
#[test]
fn members_that_come_and_go_lose_nothing_acknowledged() {
    MEMBERS.play("messages received", plays::play_members);
}

/// What was dropped to make room does not come behind what was sent since.
#[test]
fn what_was_dropped_is_not_delivered_late() {
    DROPS.play("messages received", plays::play_dropping);
}

/// Who subscribes gets what is retained, all of it and once, however often the machine stops in between.
#[test]
fn what_is_retained_comes_once_for_each_subscription() {
    COLLECTS.play("messages received", plays::play_collecting);
}

/// Whoever had a value retained that was acknowledged finds no older one in its place, Wills among them.
#[test]
fn of_what_is_retained_the_newest_stays() {
    WILLS.play("values found", plays::play_wills);
}

/// A session that overflows ends as a whole, and for all time, and no other one loses anything.
#[test]
fn sessions_that_overflow_end_as_a_whole() {
    ENDS.play("sessions ended", plays::play_ending);
}

/// A session is there until its client has been away for as long as it last said, whatever stops meanwhile, and no
/// longer.
#[test]
fn sessions_last_as_long_as_their_clients_may_be_away() {
    EXPIRES.play("sessions ended", plays::play_expiring);
}

/// A message that expires comes before it does, with the time that is left, or never, whatever stops meanwhile.
#[test]
fn what_expires_comes_in_time_or_never() {
    HURRIES.play("messages received", plays::play_hurrying);
}

/// What says of each commit that it is on disk one commit too early is found out: the other test can
/// fail. Under the same seeds, it does not.
#[test]
fn a_gate_that_does_not_hold_is_found_out() {
    let play = |seed| caught(|| plays::play(seed, Confirms::TooEarly, false)).err();
    assert!((0..SEEDS_TOO_EARLY).find_map(play).is_some(), "nobody misses anything");
}

#[test]
fn what_a_clean_start_has_ended_does_not_come_back() {
    for version in [Version::V311, Version::V5] {
        assert_eq!(moments::end_by_a_clean_start(version), Ok(()), "{version}");
        let ended = moments::end_by_a_clean_start_that_nobody_waits_for(version);
        assert_eq!(ended, Ok(()), "{version}");
    }
}

#[test]
fn a_will_reaches_all_from_the_first_turn_on() {
    assert_eq!(moments::reach_all_from_the_first_turn_on(), Ok(()));
}

#[test]
fn what_was_refused_is_not_known_after_a_crash() {
    for steps in 0..80 {
        for subscriber in ["one", "two", "three", "four"] {
            let seen = moments::refuse_and_stop(steps, subscriber);
            assert_eq!(seen, Ok(()), "{steps} steps, {subscriber}");
        }
    }
}
