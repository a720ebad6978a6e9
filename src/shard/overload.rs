//! Overload: when turns take long, or the process takes much memory, those who come are refused, before
//! those who are connected suffer.

use std::fs;
use std::time::Duration;

use tracing::{info, warn};

use crate::mqtt::ReasonCode;
use crate::timer::Time;

use super::Core;

/// The time over which turns are averaged, in microseconds.
const WINDOW_US: i64 = 1_000_000;

/// The least time between two log lines that say a limit is passed.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// A value against its limit. It passes that from above it on, until it is no more than `back`.
#[derive(Debug)]
struct Mark {
    limit: Option<u64>,
    back: u64,
    passed: bool,
}

impl Mark {
    fn new(limit: Option<u64>, back: u64) -> Self {
        Self { limit, back, passed: false }
    }

    /// Takes a new value; whether that changes something.
    fn update(&mut self, value: u64) -> bool {
        let Some(limit) = self.limit else { return false };
        let passed = value > if self.passed { self.back } else { limit };
        std::mem::replace(&mut self.passed, passed) != passed
    }
}

/// How loaded a shard is.
#[derive(Debug)]
pub(super) struct Overload {
    /// How long rounds take, in microseconds, averaged over about a second.
    mean_us: i64,
    measured: Time,
    turns: Mark,
    memory: Mark,
    warned: Option<Time>,
}

impl Overload {
    pub(super) fn new(max_turn: Option<Duration>, max_memory: Option<u64>, now: Time) -> Self {
        let turn_us = max_turn.map(|max| u64::try_from(max.as_micros()).unwrap_or(u64::MAX));
        Self {
            mean_us: 0,
            measured: now,
            turns: Mark::new(turn_us, turn_us.unwrap_or(0) / 2),
            memory: Mark::new(max_memory, max_memory.unwrap_or(0) / 10 * 9),
            warned: None,
        }
    }

    /// Takes the round of the turn before the one that begins at `now` into the mean. It counts for as long as it took,
    /// of a longer one what came since the last, and the sleep after it as rounds that take no time.
    fn take_round(&mut self, round: Duration, now: Time) {
        let micros = |time: Duration| i64::try_from(time.as_micros()).unwrap_or(i64::MAX);
        let (round, since) = (micros(round), micros(now.since(self.measured)));
        self.measured = now;
        let busy = round.min(since);
        self.approach(round, busy);
        self.approach(0, since - busy);
    }

    /// Moves the mean to a value that holds for so many microseconds.
    fn approach(&mut self, value: i64, time: i64) {
        let weight = time.min(WINDOW_US);
        self.mean_us += (value - self.mean_us).saturating_mul(weight) / WINDOW_US;
    }

    fn may_warn(&mut self, now: Time) -> bool {
        let may = self.warned.is_none_or(|at| now.since(at) >= WARN_INTERVAL);
        if may {
            self.warned = Some(now);
        }
        may
    }
}

impl<S> Core<S> {
    /// Notes how long a [round](crate::net::Driver::last_round) took.
    #[inline]
    pub(super) fn measure_round(&mut self, round: Duration) {
        if self.overload.measured != self.now && self.overload.turns.limit.is_some() {
            self.judge_round(round);
        }
    }

    fn judge_round(&mut self, round: Duration) {
        let (shard, now, overload) = (self.id, self.now, &mut self.overload);
        overload.take_round(round, now);
        let mean_us = u64::try_from(overload.mean_us).unwrap_or(0);
        if overload.turns.update(mean_us) {
            let turn_ms = mean_us / 1000;
            if !overload.turns.passed {
                info!(shard, turn_ms, "new clients are let in again");
            } else if overload.may_warn(now) {
                warn!(
                    shard,
                    turn_ms, "turns take longer than limits.max_turn: new clients are refused"
                );
            }
        }
    }

    /// Looks at the memory of the process: one shard does, for all.
    pub(super) fn measure_memory(&mut self) {
        if self.id != 0 || self.overload.memory.limit.is_none() {
            return;
        }
        let Some(bytes) = resident_memory() else { return };
        let (now, overload) = (self.now, &mut self.overload);
        if overload.memory.update(bytes) {
            self.shared.set_short_of_memory(overload.memory.passed);
            if !overload.memory.passed {
                info!(bytes, "new clients are let in again");
            } else if overload.may_warn(now) {
                warn!(bytes, "the process is beyond limits.max_memory: new clients are refused");
            }
        }
    }

    /// Why nobody more may come now, whoever it is, if so.
    pub(super) fn is_slow(&self) -> Option<(ReasonCode, &'static str)> {
        let detail = "turns take longer than limits.max_turn";
        self.overload.turns.passed.then_some((ReasonCode::ServerBusy, detail))
    }

    /// Why a client that is at home here may not come now, if so. One whose session holds messages is let in:
    /// nobody else can free what they take.
    pub(super) fn is_short_of_memory(&self, client_id: &str) -> Option<(ReasonCode, &'static str)> {
        if !self.shared.is_short_of_memory() {
            return None;
        }
        let slot = self.sessions.find(client_id).and_then(|key| self.sessions.get(key));
        let holds = slot.is_some_and(|slot| slot.session.queued() + slot.session.in_flight() > 0);
        let detail = "the process is beyond limits.max_memory";
        (!holds).then_some((ReasonCode::QuotaExceeded, detail))
    }
}

/// Bytes of the process that are in memory, where the system tells.
fn resident_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_passed_until_the_value_is_well_below() {
        let mut mark = Mark::new(Some(100), 90);
        let changes = [100, 101, 95, 200, 91, 90, 100, 101].map(|value| mark.update(value));
        assert_eq!(changes, [false, true, false, false, false, true, false, true]);
        assert!(!Mark::new(None, 0).update(u64::MAX));
    }

    #[test]
    fn turns_count_for_the_time_they_take() {
        let mut overload = Overload::new(None, None, Time(0));
        let mut mean = |turn_ms, now| {
            overload.take_round(Duration::from_millis(turn_ms), Time(now));
            overload.mean_us / 1000
        };
        assert_eq!(mean(200, 200), 40);
        assert_eq!(mean(200, 400), 72);
        assert_eq!(mean(0, 401), 71);
        assert_eq!(mean(0, 1401), 0, "after a second nothing is left of it");
        assert_eq!(mean(5_000, 6_401), 5_000);
        assert_eq!(mean(5_000, 12_401), 0, "it was long ago");
    }

    #[test]
    fn the_memory_of_this_process_is_known() {
        let bytes = resident_memory().expect("Linux tells");
        assert!((1 << 20..1 << 40).contains(&bytes), "{bytes}");
    }
}
