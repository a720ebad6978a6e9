//! A whole broker, several shards of it, in one thread, over a simulated network, with virtual time
//! and seeded faults, against clients that check what they are promised.
//!
//! A seed names a run. `SIM_SEEDS=5000` runs that many, from a random one on or from
//! `SIM_FROM`; `SIM_SEED=42` runs one and writes its history to stderr.

mod broker;
mod client;
mod crash;
mod flows;
mod model;
mod plan;
mod run;
mod session;
mod turns;
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use run::{Outcome, run};

/// Seeds of a plain test run.
const SEEDS: u64 = 300;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plays a seed; a panic of the broker is a failure, too.
fn play(seed: u64, verbose: bool) -> Result<Outcome, String> {
    let played = catch_unwind(AssertUnwindSafe(|| run(seed, verbose)));
    played.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

#[test]
fn the_broker_keeps_its_promises() {
    if let Some(seed) = variable("SIM_SEED") {
        let outcome = play(seed, true);
        eprintln!("{outcome:?}");
        assert!(outcome.is_ok(), "seed {seed} fails");
        return;
    }
    let count = variable("SIM_SEEDS");
    let random = if count.is_some() { fastrand::u64(..1 << 48) } else { 0 };
    let first = variable("SIM_FROM").unwrap_or(random);
    let (next, end) = (AtomicU64::new(first), first + count.unwrap_or(SEEDS));
    let failures = Mutex::new(Vec::new());
    let delivered = AtomicU64::new(0);
    let threads = std::thread::available_parallelism().map_or(2, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= end {
                        break;
                    }
                    match play(seed, false) {
                        Ok(outcome) => {
                            delivered.fetch_add(outcome.delivered, Ordering::Relaxed);
                        }
                        Err(failure) => {
                            failures.lock().expect("no panic holds it").push((seed, failure));
                        }
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().expect("no panic holds it");
    failures.sort();
    for (seed, failure) in &failures {
        eprintln!(
            "seed {seed}: {failure}\n  again: SIM_SEED={seed} cargo test --test simulation promises"
        );
    }
    eprintln!("seeds {first}..{end}: {} messages delivered", delivered.into_inner());
    assert!(failures.is_empty(), "{} of {} seeds fail", failures.len(), end - first);
}

#[test]
fn a_seed_names_a_history() {
    for seed in [3, 7, 20] {
        let (one, other) = (play(seed, false), play(seed, false));
        assert_eq!(one, other, "seed {seed}");
    }
    assert_ne!(play(3, false).map(|it| it.trace), play(7, false).map(|it| it.trace));
}
