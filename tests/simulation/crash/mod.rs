//! The machine stops at any moment and starts again with what was synced: what was acknowledged is
//! there, and nothing of QoS 2 comes twice.
//!
//! `CRASH_SEEDS=5000` plays that many seeds, from `SIM_FROM` or a random one on; `CRASH_SEED=42` plays
//! one and writes what happens to stderr.

mod actor;
mod broker;
mod check;
mod scene;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use sluice::mqtt::Version;

use self::broker::Confirms;
use crate::variable;

/// Seeds of a plain test run.
const SEEDS: u64 = 100;
/// Seeds with a store that confirms too early, at most.
const SEEDS_TOO_EARLY: u64 = 30;

fn play(seed: u64, confirms: Confirms) -> Result<u64, String> {
    let verbose = variable("CRASH_SEED").is_some();
    let played = catch_unwind(AssertUnwindSafe(|| scene::play(seed, confirms, verbose)));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

#[test]
fn what_is_acknowledged_outlives_the_machine() {
    if let Some(seed) = variable("CRASH_SEED") {
        assert_eq!(play(seed, Confirms::Truly).err(), None);
        return;
    }
    let count = variable("CRASH_SEEDS");
    let random = if count.is_some() { fastrand::u64(..1 << 48) } else { 0 };
    let first = variable("SIM_FROM").unwrap_or(random);
    let (next, end) = (AtomicU64::new(first), first + count.unwrap_or(SEEDS));
    let (failures, received) = (Mutex::new(Vec::new()), AtomicU64::new(0));
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    match play(seed, Confirms::Truly) {
                        Ok(count) => _ = received.fetch_add(count, Ordering::Relaxed),
                        Err(why) => failures.lock().expect("no panic holds it").push((seed, why)),
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("no panic holds it");
    failures.sort();
    for (seed, why) in &failures {
        eprintln!(
            "seed {seed}: {why}\n  again: CRASH_SEED={seed} cargo test --test simulation outlives"
        );
    }
    eprintln!("seeds {first}..{end}: {} messages received", received.into_inner());
    assert!(failures.is_empty(), "{} of {} seeds fail", failures.len(), end - first);
}

/// What says of each commit that it is on disk one commit too early is found out: the other test can
/// fail. Under the same seeds, it does not.
#[test]
fn a_gate_that_does_not_hold_is_found_out() {
    let found = (0..SEEDS_TOO_EARLY).find_map(|seed| play(seed, Confirms::TooEarly).err());
    assert!(found.is_some(), "nobody misses anything");
}

#[test]
fn what_a_clean_start_has_ended_does_not_come_back() {
    for version in [Version::V311, Version::V5] {
        assert_eq!(scene::end_by_a_clean_start(version), Ok(()), "{version}");
    }
}
