//! How many connections are accepted in a second, over all shards: of each listener, and in all.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::net::Turnstile;
use crate::timer::Time;

use super::settings::Settings;

/// What stands for no limit.
const UNLIMITED: u32 = u32::MAX;

/// What has been accepted in the present second.
#[derive(Debug, Default)]
pub(crate) struct AcceptRates {
    all: Rate,
    by_listener: Vec<Rate>,
}

/// A limit, and how many have passed: a second in the upper half, and the count of that in the lower.
#[derive(Debug, Default)]
struct Rate {
    most: AtomicU32,
    passed: AtomicU64,
}

impl AcceptRates {
    pub(super) fn new(settings: &Settings) -> Self {
        let by_listener = settings.listeners.iter().map(|_| Rate::default()).collect();
        let rates = Self { by_listener, ..Self::default() };
        rates.follow(settings);
        rates
    }

    /// Goes by other settings from now on.
    pub(super) fn follow(&self, settings: &Settings) {
        self.all.set(settings.connections_per_second);
        for (rate, listener) in self.by_listener.iter().zip(&settings.listeners) {
            rate.set(listener.connections_per_second);
        }
    }
}

impl Turnstile for AcceptRates {
    fn pass(&self, listener: usize, now: Time) -> Result<(), Time> {
        let own = self.by_listener.get(listener);
        own.map_or(Ok(()), |own| own.pass(now))?;
        self.all.pass(now).inspect_err(|_| {
            if let Some(own) = own {
                own.give_back(now);
            }
        })
    }

    fn give_back(&self, listener: usize, now: Time) {
        self.all.give_back(now);
        if let Some(own) = self.by_listener.get(listener) {
            own.give_back(now);
        }
    }
}

impl Rate {
    fn set(&self, most: Option<u32>) {
        self.most.store(most.unwrap_or(UNLIMITED), Ordering::Relaxed);
    }

    fn pass(&self, now: Time) -> Result<(), Time> {
        let most = self.most.load(Ordering::Relaxed);
        if most == UNLIMITED {
            return Ok(());
        }
        let pass = |passed| {
            // Another shard may be further on in time.
            let (second, count) = match unpack(passed) {
                (second, _) if second < second_of(now) => (second_of(now), 0),
                present => present,
            };
            (count < most).then(|| pack(second, count + 1))
        };
        match self.passed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pass) {
            Ok(_) => Ok(()),
            Err(passed) => Err(Time((u64::from(unpack(passed).0) + 1) * 1000)),
        }
    }

    fn give_back(&self, now: Time) {
        let give_back = |passed| {
            let (second, count) = unpack(passed);
            (second == second_of(now) && count > 0).then(|| pack(second, count - 1))
        };
        // What was of a second that is over is of no use.
        let _ = self.passed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, give_back);
    }
}

fn second_of(now: Time) -> u32 {
    u32::try_from(now.0 / 1000).unwrap_or(u32::MAX)
}

fn pack(second: u32, count: u32) -> u64 {
    u64::from(second) << 32 | u64::from(count)
}

fn unpack(passed: u64) -> (u32, u32) {
    #[expect(clippy::cast_possible_truncation, reason = "the halves")]
    ((passed >> 32) as u32, passed as u32)
}

#[cfg(test)]
mod tests {
    use super::super::settings::ListenerSettings;
    use super::*;

    const NOW: Time = Time(5_300);
    const LATER: Result<(), Time> = Err(Time(6_000));

    fn rates(all: Option<u32>, own: [Option<u32>; 2]) -> AcceptRates {
        let listener = ListenerSettings::for_tests();
        let listener = |most| ListenerSettings { connections_per_second: most, ..listener.clone() };
        AcceptRates::new(&Settings {
            connections_per_second: all,
            listeners: own.map(listener).to_vec(),
            ..Settings::for_tests()
        })
    }

    #[test]
    fn so_many_pass_in_a_second() {
        let rates = rates(Some(3), [Some(1), None]);
        assert_eq!(rates.pass(0, NOW), Ok(()));
        assert_eq!(rates.pass(0, NOW), LATER, "of the listener");
        assert_eq!([(); 3].map(|()| rates.pass(1, NOW)), [Ok(()), Ok(()), LATER], "of all");
        assert_eq!(rates.pass(1, Time(4_900)), LATER, "another shard is further on");
        assert_eq!([(); 2].map(|()| rates.pass(0, Time(6_000))), [Ok(()), Err(Time(7_000))]);
    }

    #[test]
    fn who_did_not_come_does_not_count() {
        let rates = rates(Some(2), [Some(1), None]);
        for _ in 0..5 {
            assert_eq!(rates.pass(0, NOW), Ok(()));
            rates.give_back(0, NOW);
        }
        assert_eq!([(); 2].map(|()| rates.pass(1, NOW)), [Ok(()); 2]);
        for _ in 0..5 {
            assert_eq!(rates.pass(0, NOW), LATER);
        }
        rates.give_back(1, NOW);
        assert_eq!(rates.pass(0, NOW), Ok(()), "whom all had no room for did not count here");
        rates.give_back(0, Time(6_000));
        assert_eq!(rates.pass(0, NOW), LATER, "one of another second is not given back");
    }

    #[test]
    fn other_limits_count_at_once() {
        let rates = rates(None, [None, None]);
        assert_eq!([(); 9].map(|()| rates.pass(0, NOW)), [Ok(()); 9]);
        let some = Settings { connections_per_second: Some(1), ..Settings::for_tests() };
        rates.follow(&some);
        assert_eq!([(); 2].map(|()| rates.pass(0, NOW)), [Ok(()), LATER]);
    }
}
