//! Playing seeds: one that is asked for, or many on all cores.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// A number from the environment.
pub(crate) fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What a run comes to; a panic is a failure, too.
pub(crate) fn caught<T>(run: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("panic: {}", text.unwrap_or_default()))
    })
}

/// How many seeds are played, and how one of them is played again.
pub(crate) struct Seeds {
    /// Of a plain test run, from 0 on.
    pub(crate) plain: u64,
    /// The variable that says how many instead, from `SIM_FROM` or a random one on.
    pub(crate) many: &'static str,
    /// The variable that names one.
    pub(crate) one: &'static str,
    /// A word by which cargo finds the test.
    pub(crate) test: &'static str,
}

impl Seeds {
    /// Plays them on all cores, or the one that is named. `play` says how much happened, in `what`, or what went
    /// wrong; it is told whether to write a history to stderr.
    ///
    /// # Panics
    /// A seed fails.
    pub(crate) fn play(&self, what: &str, play: impl Fn(u64, bool) -> Result<u64, String> + Sync) {
        match variable(self.one) {
            Some(seed) => assert_eq!(caught(|| play(seed, true)).err(), None),
            None => self.play_many(what, |seed| caught(|| play(seed, false))),
        }
    }

    fn play_many(&self, what: &str, play: impl Fn(u64) -> Result<u64, String> + Sync) {
        let count = variable(self.many);
        let random = if count.is_some() { fastrand::u64(..1 << 48) } else { 0 };
        let first = variable("SIM_FROM").unwrap_or(random);
        let (next, end) = (AtomicU64::new(first), first + count.unwrap_or(self.plain));
        let (failures, total) = (Mutex::new(Vec::new()), AtomicU64::new(0));
        let work = || {
            loop {
                let seed = next.fetch_add(1, Ordering::Relaxed);
                if seed >= end {
                    break;
                }
                match play(seed) {
                    Ok(count) => _ = total.fetch_add(count, Ordering::Relaxed),
                    Err(why) => failures.lock().expect("no panic holds it").push((seed, why)),
                }
            }
        };
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        std::thread::scope(|scope| (0..threads).for_each(|_| _ = scope.spawn(work)));
        let mut failures = failures.into_inner().expect("no panic holds it");
        failures.sort();
        let Self { one, test, .. } = self;
        for (seed, why) in &failures {
            eprintln!(
                "seed {seed}: {why}\n  again: {one}={seed} cargo test --test simulation {test}"
            );
        }
        eprintln!("seeds {first}..{end}: {} {what}", total.into_inner());
        assert!(failures.is_empty(), "{} of {} seeds fail", failures.len(), end - first);
    }
}
