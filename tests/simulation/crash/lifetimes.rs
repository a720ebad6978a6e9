//! Messages that expire, and those who wait for them: by the clock, over all lives of the broker.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use sluice::mqtt::{Publish, QoS};

/// Message Expiry Intervals in seconds, by turns.
const INTERVALS: [u32; 7] = [1, 2, 100, 5, 10, 1_000, 30];

/// When a message was sent first, and acknowledged, in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
struct Span {
    sent: u64,
    acknowledged: Option<u64>,
}

/// The messages of a publisher.
#[derive(Clone, Debug)]
pub(crate) struct Hurried {
    pub(crate) topic: &'static str,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    clock: Rc<Cell<u64>>,
    spans: Rc<RefCell<Vec<Span>>>,
}

impl Hurried {
    pub(crate) fn new(topic: &'static str, qos: QoS, retain: bool, clock: &Rc<Cell<u64>>) -> Self {
        Self { topic, qos, retain, clock: clock.clone(), spans: Rc::default() }
    }

    pub(crate) fn interval(number: u32) -> u32 {
        INTERVALS[number as usize % INTERVALS.len()]
    }

    pub(crate) fn begins(&self) {
        let span = Span { sent: self.clock.get(), acknowledged: None };
        self.spans.borrow_mut().push(span);
    }

    pub(crate) fn acknowledged(&self, number: u32) {
        let mut spans = self.spans.borrow_mut();
        let span = spans.get_mut(number as usize);
        span.into_iter().for_each(|span| _ = span.acknowledged.get_or_insert(self.clock.get()));
    }

    /// Until when a message is there at least, and from when on it is not.
    fn end(&self, number: u32) -> Option<(u64, u64)> {
        let span = *self.spans.borrow().get(number as usize)?;
        let after = |since: u64| since + u64::from(Self::interval(number)) * 1000;
        Some((after(span.sent), span.acknowledged.map_or(u64::MAX, after)))
    }

    fn is_acknowledged(&self, number: u32) -> bool {
        self.spans.borrow()[number as usize].acknowledged.is_some()
    }

    fn count(&self) -> u32 {
        self.spans.borrow().len() as u32
    }
}

/// A subscriber to them.
#[derive(Clone, Debug)]
pub(crate) struct Patient {
    pub(crate) filter: &'static str,
    clock: Rc<Cell<u64>>,
    sources: Vec<Hurried>,
    asked_at: u64,
    /// Messages that came.
    pub(crate) count: u64,
}

impl Patient {
    pub(crate) fn new(filter: &'static str, sources: &[Hurried], clock: &Rc<Cell<u64>>) -> Self {
        let (clock, sources) = (clock.clone(), sources.to_vec());
        Self { filter, clock, sources, asked_at: 0, count: 0 }
    }

    /// Connects.
    pub(crate) fn asks(&mut self) {
        self.asked_at = self.clock.get();
    }

    fn source(&self, topic: &str) -> Result<&Hurried, String> {
        let found = self.sources.iter().find(|source| source.topic == topic);
        found.ok_or(format!("nobody publishes to {topic}"))
    }

    /// What had expired before it came is not sent [MQTT-3.3.2-5], unless it was before; the interval is what is
    /// left [MQTT-3.3.2-6].
    pub(crate) fn takes(&mut self, publish: &Publish<'_>, number: u32) -> Result<(), String> {
        self.count += 1;
        let (asked, now) = (self.asked_at, self.clock.get());
        let topic = String::from_utf8_lossy(publish.topic);
        let (least, most) = self.source(&topic)?.end(number).ok_or("nobody sent it")?;
        let left = publish.properties.message_expiry_interval.map(u64::from);
        let is_over = asked >= most || left == Some(0);
        let is_wrong = left.is_some_and(|left| {
            least > now + left * 1000 || (left > 0 && asked + (left - 1) * 1000 > most)
        });
        if is_wrong || (is_over && !publish.dup) {
            return Err(format!(
                "{number} of {topic}, there until {least}..{most}, came in {asked}..{now}: {publish:?}"
            ));
        }
        Ok(())
    }

    /// All that is not over has come; of what is retained, the last.
    pub(crate) fn check(&self, received: &BTreeMap<String, Vec<u32>>) -> Result<(), String> {
        for source in &self.sources {
            let got = received.get(source.topic).map_or(&[][..], Vec::as_slice);
            let seen: BTreeSet<_> = got.iter().collect();
            let now = self.clock.get();
            let is_due = |number: &u32| {
                source.is_acknowledged(*number)
                    && source.end(*number).is_some_and(|(least, _)| least > now)
            };
            let missed: Vec<_> =
                (0..source.count()).filter(|n| is_due(n) && !seen.contains(n)).collect();
            if !missed.is_empty() {
                return Err(format!("{}: {missed:?} of {got:?} at {now}", source.topic));
            }
        }
        Ok(())
    }

    /// One that has come at the end has what is retained, if that is not over.
    pub(crate) fn check_retained(
        &self,
        received: &BTreeMap<String, Vec<u32>>,
    ) -> Result<(), String> {
        for source in self.sources.iter().filter(|source| source.retain) {
            let found = received.get(source.topic).and_then(|list| list.first()).copied();
            let Some(last) = source.count().checked_sub(1) else { continue };
            let (least, _) = source.end(last).ok_or("nobody sent it")?;
            let is_there = found == Some(last);
            if found.is_some() != is_there || (least > self.clock.get() && !is_there) {
                return Err(format!("{}: {found:?} for {last}", source.topic));
            }
        }
        Ok(())
    }
}
