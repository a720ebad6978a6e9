//! A subscriber whose session ends though it does not say so: its queue is full, or it is away for too long.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use fastrand::Rng;
use sluice::mqtt::QoS;

use super::actor::{Actor, OUTSTANDING, Role};

/// One of its sessions, by topic.
#[derive(Clone, Debug, Default)]
struct Life {
    /// Numbers from these on were sent after SUBACK.
    from: BTreeMap<String, u32>,
    got: BTreeMap<String, Vec<u32>>,
}

/// How its sessions end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Death {
    /// When more than so many messages wait for it.
    Overflow(u32),
    /// After so many seconds, which DISCONNECT may make others of these.
    Expiry(&'static [u32]),
}

#[derive(Clone, Debug)]
pub(crate) struct Mortal {
    pub(crate) filter: &'static str,
    death: Death,
    /// Milliseconds since 1970.
    clock: Rc<Cell<u64>>,
    /// What it is subscribed to, and the numbers below which were sent there.
    sources: Vec<(String, Rc<Cell<u32>>)>,
    life: Life,
    former: Vec<Life>,
    /// Numbers below these were answered before it subscribed.
    below: BTreeMap<String, u32>,
    /// Session Expiry Intervals in seconds: of the connection to come, of the last one, and what DISCONNECT said.
    next: u32,
    expiry: u32,
    shortened: Option<u32>,
    /// Since when, at the earliest and at the latest, the broker counts that.
    left_at: u64,
    /// Until then its connection has been there for both sides, whoever noticed its end first.
    there_at: u64,
    gone_by: Option<u64>,
    /// That is stored for sure; and which of the two intervals is, is not known.
    is_stored: bool,
    is_either: bool,
    /// CONNECTs since the last CONNACK, and when the last one was sent.
    attempts: u32,
    asked_at: u64,
    /// A CONNECT without CONNACK may be read after a later one; and may have been.
    has_stray: bool,
    is_tainted: bool,
}

impl Mortal {
    pub(crate) fn new(filter: &'static str, death: Death, clock: &Rc<Cell<u64>>) -> Self {
        Self {
            filter,
            death,
            clock: clock.clone(),
            sources: Vec::new(),
            life: Life::default(),
            former: Vec::new(),
            below: BTreeMap::new(),
            next: 0,
            expiry: 0,
            shortened: None,
            left_at: 0,
            there_at: 0,
            gone_by: None,
            is_stored: false,
            is_either: false,
            attempts: 0,
            asked_at: 0,
            has_stray: false,
            is_tainted: false,
        }
    }

    pub(crate) fn listens_to(&mut self, sources: Vec<(String, Rc<Cell<u32>>)>) {
        self.sources = sources;
    }

    /// The Session Expiry Interval of its next connection.
    pub(crate) fn next(&mut self) -> u32 {
        self.asked_at = self.clock.get();
        self.there_at = self.asked_at;
        let mut interval = 1_000_000;
        if let Death::Expiry(intervals) = self.death {
            interval = intervals[self.asked_at as usize % intervals.len()];
        }
        self.next = interval;
        self.attempts += 1;
        interval
    }

    /// What DISCONNECT says instead.
    pub(crate) fn shortens(&mut self, rng: &mut Rng) -> Option<u32> {
        let Death::Expiry(intervals) = self.death else { return None };
        let interval = *rng.choice(intervals)?;
        (self.shortened, self.left_at) = (Some(interval), self.there_at);
        self.shortened
    }

    /// Its connection is there.
    pub(crate) fn is_there(&mut self) {
        self.there_at = self.clock.get();
    }

    /// Its connection has ended; by the broker, or else that may not know.
    pub(crate) fn gone(&mut self, was_admitted: bool, by_broker: bool) {
        self.has_stray |= self.attempts > 0;
        match self.shortened {
            None if was_admitted => self.left_at = self.there_at,
            Some(_) if by_broker && self.attempts == 0 => self.gone_by = Some(self.clock.get()),
            _ => {}
        }
    }

    /// The broker has come to a good end, or crashed; the next one begins at `now`.
    pub(crate) fn broker_is_gone(&mut self, is_closed: bool, now: u64) {
        if !(self.is_stored || is_closed && self.gone_by.is_some()) {
            // What DISCONNECT said may be forgotten.
            (self.gone_by, self.is_either) = (Some(now), true);
        }
        self.is_stored |= is_closed;
        self.has_stray = false;
    }

    /// Says whether it is the session that it had, for all that it knows.
    pub(crate) fn admitted(&mut self, present: bool) -> Result<bool, String> {
        // Or else one may have ended, and another begun that it has not heard of.
        let is_known = self.attempts == 1 && !self.is_tainted;
        self.is_tainted = self.has_stray;
        if !self.life.from.is_empty() && is_known {
            self.check_presence(present)?;
        }
        if !present {
            self.below.clear();
        }
        if !present || !is_known {
            self.former.push(std::mem::take(&mut self.life));
        }
        (self.expiry, self.shortened, self.gone_by) = (self.next, None, None);
        (self.attempts, self.is_stored, self.is_either) = (0, false, false);
        Ok(present && is_known)
    }

    fn check_presence(&self, present: bool) -> Result<(), String> {
        let intervals = match self.death {
            Death::Overflow(most) => {
                let waiting = self.waiting();
                let may_end = present || waiting > most;
                return may_end.then_some(()).ok_or(format!("it has ended for {waiting}"));
            }
            Death::Expiry(_) => [self.expiry, self.shortened.unwrap_or(self.expiry)],
        };
        let (least, most) = (intervals[0].min(intervals[1]), intervals[0].max(intervals[1]));
        let until = |since: u64, seconds: u32| since + u64::from(seconds) * 1000;
        let last = if self.is_either { most } else { intervals[1] };
        if !present && self.clock.get() < until(self.left_at, least) {
            return Err(format!("it has ended too early: {self:?}"));
        }
        // A start counts whole seconds.
        if present && self.gone_by.is_some_and(|by| self.asked_at >= until(by, last) + 1000) {
            return Err(format!("it has not ended: {self:?}"));
        }
        Ok(())
    }

    /// How many messages were sent to it, at most: it may have acknowledged none.
    fn waiting(&self) -> u32 {
        let below = |topic| self.below.get(topic).copied().unwrap_or(0);
        self.sources.iter().map(|(topic, sent)| sent.get() - below(topic)).sum()
    }

    pub(crate) fn subscribes(&mut self) {
        let before = |sent: &Rc<Cell<u32>>| sent.get().saturating_sub(OUTSTANDING.into());
        if self.below.is_empty() {
            let sources = self.sources.iter();
            self.below = sources.map(|(topic, sent)| (topic.clone(), before(sent))).collect();
        }
    }

    pub(crate) fn subscribed(&mut self) {
        for (topic, sent) in &self.sources {
            self.life.from.entry(topic.clone()).or_insert(sent.get());
        }
    }

    pub(crate) fn takes(&mut self, topic: &str, number: u32) -> Result<(), String> {
        if self.below.get(topic).is_some_and(|below| number < *below) {
            return Err(format!("{number} of {topic} is of a session that has ended"));
        }
        self.life.got.entry(topic.to_owned()).or_default().push(number);
        Ok(())
    }

    /// How many sessions have ended.
    pub(crate) fn count(&self) -> u64 {
        self.former.len() as u64
    }

    /// Of what was acknowledged a session has all, or all up to where it ended; in order, at QoS 2 once.
    pub(crate) fn check(&self, qos: QoS, actors: &[Actor]) -> Result<(), String> {
        let lives = self.former.iter().map(|life| (life, false)).chain([(&self.life, true)]);
        for (life, is_last) in lives {
            for (topic, from) in &life.from {
                let publisher =
                    actors.iter().find(|actor| actor.name == *topic).ok_or("nobody publishes")?;
                let got = life.got.get(topic).map_or(&[][..], Vec::as_slice);
                let mut seen = BTreeSet::new();
                let new: Vec<_> = got.iter().filter(|number| seen.insert(**number)).collect();
                let is_once =
                    matches!(publisher.role, Role::Publisher { qos: QoS::ExactlyOnce, .. });
                if is_once && qos == QoS::ExactlyOnce && new.len() < got.len() {
                    return Err(format!("{topic} comes twice: {got:?}"));
                }
                let end = if is_last { u32::MAX } else { seen.last().map_or(0, |last| *last) };
                let due = publisher.acknowledged.range(*from..end.max(*from));
                // What its publisher had to repeat may have been to come yet.
                let is_due = |number: &&u32| is_last || !publisher.repeated.contains(*number);
                let due = due.filter(is_due);
                let missed: Vec<_> = due.filter(|number| !seen.contains(number)).collect();
                if !missed.is_empty() {
                    return Err(format!("{topic}: {missed:?} of {got:?} from {from}, {is_last}"));
                }
            }
        }
        Ok(())
    }
}
