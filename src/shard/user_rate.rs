//! What the clients of one user may publish together, on whichever shards they are.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;

use crate::timer::Time;

use super::rate::{Bucket, Buckets, nanoseconds};

/// Users whose buckets are looked through for those that may be forgotten, at least.
const MIN_KEPT: usize = 4096;

/// The buckets of a user, as the times when they are full, in nanoseconds.
#[derive(Debug, Default)]
pub(super) struct UserBuckets {
    messages: AtomicU64,
    bytes: AtomicU64,
}

/// Those of all users whose quotas limit what they publish.
#[derive(Debug, Default)]
pub(super) struct UserRates(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    by_user: HashMap<Arc<str>, Arc<UserBuckets>, foldhash::fast::RandomState>,
    /// So many, and those that are full and nobody's are forgotten.
    most: usize,
}

impl UserRates {
    /// The buckets of a user.
    pub(super) fn of(&self, user: &Arc<str>, now: Time) -> Arc<UserBuckets> {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(buckets) = known.by_user.get(user) {
            return buckets.clone();
        }
        if known.by_user.len() >= known.most.max(MIN_KEPT) {
            known.by_user.retain(|_, one| Arc::strong_count(one) > 1 || !one.are_full(now));
            known.most = known.by_user.len() * 2;
        }
        known.by_user.entry(user.clone()).or_default().clone()
    }
}

impl UserBuckets {
    fn each<'a>(
        &'a self,
        buckets: &'a mut Buckets,
    ) -> [(&'a AtomicU64, Option<&'a mut Bucket>); 2] {
        let shared = |bucket: &'a mut Option<Bucket>| bucket.as_mut().filter(|one| one.is_shared);
        [(&self.messages, shared(&mut buckets.messages)), (&self.bytes, shared(&mut buckets.bytes))]
    }

    fn are_full(&self, now: Time) -> bool {
        let full_at = [&self.messages, &self.bytes].map(|one| one.load(Ordering::Relaxed));
        full_at.into_iter().all(|at| at <= nanoseconds(now))
    }

    /// Fills in what is left in those that are shared.
    pub(super) fn look(&self, buckets: &mut Buckets) {
        for (all, bucket) in self.each(buckets) {
            if let Some(bucket) = bucket {
                bucket.full_at = all.load(Ordering::Relaxed);
            }
        }
    }

    /// Takes what makes one into the other; false, and nothing is taken, if somebody else has taken something
    /// since the first was looked at.
    pub(super) fn take(&self, before: &Buckets, after: &Buckets, now: Time) -> bool {
        let (mut from, mut to) = (*before, *after);
        let [messages, bytes] = self.each(&mut from);
        let [(_, to_messages), (_, to_bytes)] = self.each(&mut to);
        let swap = |(all, from): (&AtomicU64, Option<&mut Bucket>), to: Option<&mut Bucket>| {
            let (Some(from), Some(to)) = (from, to) else { return true };
            from.full_at == to.full_at
                || all
                    .compare_exchange(
                        from.full_at,
                        to.full_at,
                        Ordering::Relaxed,
                        Ordering::Relaxed,
                    )
                    .is_ok()
        };
        if !swap(messages, to_messages) {
            return false;
        }
        if swap(bytes, to_bytes) {
            return true;
        }
        // That of bytes has not been changed.
        let mut undo = *after;
        undo.bytes = None;
        self.give_back(&undo, before, now);
        false
    }

    /// Gives back what made the one out of the other.
    pub(super) fn give_back(&self, after: &Buckets, before: &Buckets, now: Time) {
        let (mut after, mut before) = (*after, *before);
        let before = self.each(&mut before).map(|(_, bucket)| bucket.map_or(0, |one| one.full_at));
        for ((all, after), before) in self.each(&mut after).into_iter().zip(before) {
            if let Some(after) = after {
                // A full bucket was full at any time before.
                let taken = after.full_at.saturating_sub(before.max(nanoseconds(now)));
                let less = |full_at: u64| Some(full_at.saturating_sub(taken));
                let _ = all.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::settings::PublishRate;
    use super::*;

    const NOW: Time = Time(5_000);

    fn shared(messages: u32, bytes: u64) -> Buckets {
        let rate = PublishRate {
            messages_per_second: Some(messages),
            bytes_per_second: Some(bytes),
            burst: Duration::from_secs(1),
        };
        let mut buckets = Buckets::new(&rate);
        for bucket in [&mut buckets.messages, &mut buckets.bytes].into_iter().flatten() {
            bucket.is_shared = true;
        }
        buckets
    }

    /// Takes so many messages of 10 bytes.
    fn taken(user: &UserBuckets, buckets: &Buckets, count: u64) -> [Buckets; 2] {
        let mut before = *buckets;
        user.look(&mut before);
        let mut after = before;
        after.messages.as_mut().unwrap().take(count, nanoseconds(NOW));
        after.bytes.as_mut().unwrap().take(10 * count, nanoseconds(NOW));
        [before, after]
    }

    #[test]
    fn nothing_is_taken_twice() {
        let (user, buckets) = (UserBuckets::default(), shared(10, 1000));
        let [one, other] = [taken(&user, &buckets, 3), taken(&user, &buckets, 4)];
        assert!(user.take(&one[0], &one[1], NOW));
        assert!(!user.take(&other[0], &other[1], NOW), "it has to look again");
        let other = taken(&user, &buckets, 4);
        assert!(user.take(&other[0], &other[1], NOW));
        let full_at = |one: &AtomicU64| one.load(Ordering::Relaxed) / 1_000_000;
        assert_eq!((full_at(&user.messages), full_at(&user.bytes)), (5_700, 5_070));
        user.give_back(&one[1], &one[0], NOW);
        assert_eq!((full_at(&user.messages), full_at(&user.bytes)), (5_400, 5_040));
    }

    #[test]
    fn of_two_buckets_both_are_taken_from_or_none() {
        let (user, buckets) = (UserBuckets::default(), shared(10, 1000));
        let [before, after] = taken(&user, &buckets, 3);
        user.bytes.store(1, Ordering::Relaxed);
        assert!(!user.take(&before, &after, NOW));
        let mut left = buckets;
        user.look(&mut left);
        let full = |bucket: Option<Bucket>| bucket.unwrap().full_at <= nanoseconds(NOW);
        assert!(full(left.messages) && full(left.bytes));
    }

    #[test]
    fn users_that_have_gone_are_forgotten_when_their_buckets_are_full() {
        let rates = UserRates::default();
        let of = |n: usize, now| rates.of(&Arc::from(n.to_string()), now);
        let there = of(0, NOW);
        of(1, NOW).messages.store(nanoseconds(NOW) + 1, Ordering::Relaxed);
        for n in 2..MIN_KEPT {
            of(n, NOW);
        }
        assert!(Arc::ptr_eq(&there, &of(0, NOW)));
        of(MIN_KEPT, NOW);
        assert_eq!(rates.0.lock().unwrap().by_user.len(), 3, "one is there, one not full, one new");
    }
}
