//! A client that subscribes anew again and again to what is retained.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;

use sluice::mqtt::{PacketId, QoS, SubscribeFilter, Version};

use crate::wire;

/// What the founder's topics begin with, of which each has one of its numbers, retained.
pub(crate) const TOPICS: &str = "s/";
const FILTER: &str = "s/#";

/// How often it has subscribed, and what has come for each time, by the Subscription Identifier.
#[derive(Clone, Debug)]
pub(crate) struct Collector {
    /// The last Subscription Identifier.
    asked: u32,
    /// SUBACK has come for it.
    pub(crate) is_answered: bool,
    received: BTreeMap<u32, Vec<u32>>,
}

impl Collector {
    pub(crate) fn new() -> Self {
        Self { asked: 0, is_answered: false, received: BTreeMap::new() }
    }

    /// Subscribes anew; perhaps it has ended the subscription before.
    pub(crate) fn ask(&mut self, version: Version, unsubscribes: bool, out: &mut Vec<u8>) {
        if unsubscribes {
            let id = PacketId::MAX;
            wire::put_unsubscribe(version, id, FILTER, out);
        }
        self.asked += 1;
        self.is_answered = false;
        let filter = SubscribeFilter::new(FILTER, QoS::ExactlyOnce);
        let id = u16::try_from(self.asked % 60_000 + 1).ok().and_then(PacketId::new);
        let identifier = NonZeroU32::new(self.asked);
        wire::put_subscribe(version, id.expect("not 0"), filter, identifier, out);
    }

    pub(crate) fn answered(&mut self, id: PacketId) {
        self.is_answered |= u32::from(id.get()) == self.asked % 60_000 + 1;
    }

    pub(crate) fn take(&mut self, identifiers: &[u32], number: u32) -> Result<(), String> {
        let &[identifier] = identifiers else { return Err(format!("came for {identifiers:?}")) };
        self.received.entry(identifier).or_default().push(number);
        Ok(())
    }

    /// How many times something came.
    pub(crate) fn count(&self) -> u64 {
        self.received.len() as u64
    }

    /// Each time it has got everything once; but for the last, it may have ended before that.
    pub(crate) fn check(&self, all: u32) -> Result<(), String> {
        for (identifier, numbers) in &self.received {
            let mut seen = BTreeSet::new();
            if let Some(twice) = numbers.iter().find(|number| !seen.insert(**number)) {
                return Err(format!("{twice} came twice for subscription {identifier}"));
            }
        }
        let last = self.received.get(&self.asked).map_or(0, Vec::len);
        match last == all as usize {
            true => Ok(()),
            false => Err(format!("{last} of {all} came for subscription {}", self.asked)),
        }
    }
}
