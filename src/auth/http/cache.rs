//! What a server said lately.

use std::time::{Duration, Instant};

use hashbrown::HashMap;

use crate::auth::scram::{KEY_LEN, hmac};

use super::Answer;

/// Answers by question. Only digests of questions are kept: there are passwords in them.
#[derive(Debug)]
pub(super) struct Cache {
    answers: HashMap<[u8; KEY_LEN], (Answer, Instant), foldhash::fast::RandomState>,
    secret: [u8; KEY_LEN],
    time: Duration,
    entries: usize,
}

impl Cache {
    /// One of so many answers, each good for so long.
    pub(super) fn new(time: Duration, entries: usize) -> Self {
        let mut secret = [0; KEY_LEN];
        let filled = rustix::rand::getrandom(&mut secret, rustix::rand::GetRandomFlags::empty());
        // Without a secret nothing is kept.
        let entries = if filled == Ok(KEY_LEN) && !time.is_zero() { entries } else { 0 };
        Self { answers: HashMap::default(), secret, time, entries }
    }

    pub(super) fn get(&self, question: &[u8], now: Instant) -> Option<Answer> {
        if self.answers.is_empty() {
            return None;
        }
        let (answer, at) = self.answers.get(&hmac(&self.secret, question))?;
        (now.duration_since(*at) < self.time).then(|| answer.clone())
    }

    /// Keeps an answer. Where there is no room, what is over goes, or else the older half.
    pub(super) fn insert(&mut self, question: &[u8], answer: Answer, now: Instant) {
        if self.entries == 0 {
            return;
        }
        let key = hmac(&self.secret, question);
        if self.answers.len() >= self.entries && !self.answers.contains_key(&key) {
            let time = self.time;
            self.answers.retain(|_, (_, at)| now.duration_since(*at) < time);
            if self.answers.len() >= self.entries {
                let mut times: Vec<Instant> = self.answers.values().map(|(_, at)| *at).collect();
                let middle = times.len() / 2;
                let middle = *times.select_nth_unstable(middle).1;
                self.answers.retain(|_, (_, at)| *at > middle);
            }
        }
        self.answers.insert(key, (answer, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_count_for_a_time() {
        let start = Instant::now();
        let mut cache = Cache::new(Duration::from_secs(10), 2);
        cache.insert(b"a", Answer::Deny, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(cache.get(b"a", at(9)), Some(Answer::Deny));
        assert_eq!(cache.get(b"a", at(10)), None);
        assert_eq!(cache.get(b"b", at(0)), None);
        let mut none = Cache::new(Duration::ZERO, 2);
        none.insert(b"a", Answer::Deny, start);
        assert_eq!(none.get(b"a", start), None);
    }

    #[test]
    fn there_is_room_for_so_many() {
        let start = Instant::now();
        let mut cache = Cache::new(Duration::from_secs(3600), 8);
        for number in 0..100u64 {
            let now = start + Duration::from_secs(number);
            cache.insert(&number.to_be_bytes(), Answer::Pass, now);
            assert!(cache.answers.len() <= 8);
            assert_eq!(cache.get(&number.to_be_bytes(), now), Some(Answer::Pass), "the newest");
        }
    }
}
