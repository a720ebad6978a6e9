//! How many connections are accepted in a second, over all shards: of each listener, from each address, and in
//! all.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use hashbrown::HashMap;

use crate::net::Turnstile;
use crate::timer::Time;

use super::settings::Settings;

/// What stands for no limit.
const UNLIMITED: u32 = u32::MAX;

/// Addresses remembered in one second, at most; beyond that all of them count as one.
const MAX_ADDRESSES: usize = 65_536;

/// What has been accepted in the present second.
#[derive(Debug, Default)]
pub(crate) struct AcceptRates {
    all: Rate,
    by_listener: Vec<Rate>,
}

/// How many have come from each address in the present second.
#[derive(Debug, Default)]
pub(super) struct AddressRates {
    second: u32,
    by_address: HashMap<IpAddr, u32, foldhash::fast::RandomState>,
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
        let Some(own) = self.by_listener.get(listener) else {
            return self.all.pass(now).map(drop);
        };
        let second = own.pass(now)?;
        self.all.pass(now).map(drop).inspect_err(|_| own.give_back(second))
    }
}

impl AddressRates {
    /// Counts one more from an address; false if there are `most`.
    pub(super) fn pass(&mut self, address: IpAddr, most: u32, now: Time) -> bool {
        if self.second != second_of(now) {
            self.second = second_of(now);
            self.by_address.clear();
        }
        let known = self.by_address.len() < MAX_ADDRESSES || self.by_address.contains_key(&address);
        let key = if known { address } else { IpAddr::from([0, 0, 0, 0]) };
        let count = self.by_address.entry(key).or_insert(0);
        let passes = *count < most;
        *count += u32::from(passes);
        passes
    }
}

impl Rate {
    fn set(&self, most: Option<u32>) {
        self.most.store(most.unwrap_or(UNLIMITED), Ordering::Relaxed);
    }

    /// Counts one more; gives the second that it counts in, or when to try again.
    fn pass(&self, now: Time) -> Result<u32, Time> {
        let most = self.most.load(Ordering::Relaxed);
        if most == UNLIMITED {
            return Ok(second_of(now));
        }
        // Another shard may be further on in time.
        let present = |passed| match unpack(passed) {
            (second, _) if second < second_of(now) => (second_of(now), 0),
            present => present,
        };
        let pass = |passed| {
            let (second, count) = present(passed);
            (count < most).then(|| pack(second, count + 1))
        };
        match self.passed.fetch_update(Ordering::Relaxed, Ordering::Relaxed, pass) {
            Ok(passed) => Ok(present(passed).0),
            Err(passed) => Err(Time((u64::from(unpack(passed).0) + 1) * 1000)),
        }
    }

    /// One that was counted in that second does not come.
    fn give_back(&self, of: u32) {
        let give_back = |passed| {
            let (second, count) = unpack(passed);
            (second == of && count > 0).then(|| pack(second, count - 1))
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
    fn whom_all_have_no_room_for_does_not_count_for_its_listener() {
        let rates = rates(Some(1), [Some(2), None]);
        assert_eq!(rates.pass(1, NOW), Ok(()));
        assert_eq!([(); 5].map(|()| rates.pass(0, NOW)), [LATER; 5]);
        rates.all.set(None);
        assert_eq!([(); 3].map(|()| rates.pass(0, NOW)), [Ok(()), Ok(()), LATER]);
    }

    #[test]
    fn one_is_given_back_in_the_second_that_it_counts_in() {
        let rate = Rate::default();
        rate.set(Some(1));
        assert_eq!(rate.pass(Time(6_000)), Ok(6));
        rate.give_back(6);
        // This shard is behind.
        assert_eq!(rate.pass(NOW), Ok(6));
        rate.give_back(5);
        assert_eq!(rate.pass(NOW), Err(Time(7_000)), "nobody was counted in that second");
        rate.give_back(6);
        assert_eq!(rate.pass(Time(6_000)), Ok(6));
    }

    #[test]
    fn an_address_has_its_rate_anew_each_second() {
        let mut rates = AddressRates::default();
        let address = |last| IpAddr::from([10, 0, 0, last]);
        let mut pass = |last, now| rates.pass(address(last), 2, Time(now));
        assert_eq!([1, 1, 1, 2].map(|last| pass(last, 5_000)), [true, true, false, true]);
        assert_eq!([5_999, 6_000].map(|now| pass(1, now)), [false, true]);
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
