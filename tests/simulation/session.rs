//! What the model knows of one session.

use std::collections::{BTreeMap, BTreeSet};

use sluice::mqtt::QoS;
use sluice::timer::Time;

use crate::model::{Flow, wants};

/// One subscription, as its client knows it.
#[derive(Debug)]
struct Subscription {
    /// Since when the broker may know of it.
    asked: u64,
    /// Since when the client knows that it is there, and at QoS 1 or 2.
    since: Option<u64>,
    /// Since when the client knows that it is gone.
    gone: Option<u64>,
    qos: QoS,
    lowest_qos: QoS,
    highest_qos: QoS,
}

#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) client: String,
    pub(crate) alive: bool,
    pub(crate) connection: Option<u32>,
    /// When it ends if nobody comes back for it.
    pub(crate) ends_at: Option<Time>,
    filters: BTreeMap<String, Subscription>,
    pub(crate) expected: BTreeSet<usize>,
    pub(crate) got: BTreeSet<usize>,
    /// QoS 2 that was not retained.
    pub(crate) got_once: BTreeSet<usize>,
    pub(crate) wills: BTreeSet<usize>,
    /// The last message with RETAIN as published, by topic.
    pub(crate) retained: BTreeMap<String, usize>,
    pub(crate) order: BTreeMap<Flow, u64>,
}

impl Session {
    pub(crate) fn new(client: &str) -> Self {
        Self {
            client: client.to_owned(),
            alive: true,
            connection: None,
            ends_at: None,
            filters: BTreeMap::new(),
            expected: BTreeSet::new(),
            got: BTreeSet::new(),
            got_once: BTreeSet::new(),
            wills: BTreeSet::new(),
            retained: BTreeMap::new(),
            order: BTreeMap::new(),
        }
    }

    /// The client sends SUBSCRIBE.
    pub(crate) fn subscribing(&mut self, filter: &str, qos: QoS, asked: u64) {
        let (lowest_qos, highest_qos) = (qos, qos);
        let fresh = Subscription { asked, since: None, gone: None, qos, lowest_qos, highest_qos };
        let it = self.filters.entry(filter.to_owned()).or_insert(fresh);
        if it.qos.min(qos) == QoS::AtMostOnce {
            it.since = None;
        }
        it.gone = None;
        it.qos = qos;
        it.lowest_qos = it.lowest_qos.min(qos);
        it.highest_qos = it.highest_qos.max(qos);
    }

    /// The client has SUBACK.
    pub(crate) fn subscribed(&mut self, filter: &str, moment: u64) {
        if let Some(it) = self.filters.get_mut(filter)
            && it.qos > QoS::AtMostOnce
        {
            it.since.get_or_insert(moment);
        }
    }

    /// The client sends UNSUBSCRIBE.
    pub(crate) fn unsubscribing(&mut self, filter: &str) {
        if let Some(it) = self.filters.get_mut(filter) {
            it.since = None;
        }
    }

    /// The client has UNSUBACK.
    pub(crate) fn unsubscribed(&mut self, filter: &str, moment: u64) {
        if let Some(it) = self.filters.get_mut(filter) {
            it.gone = Some(moment);
        }
    }

    fn matching<'a>(&'a self, topic: &'a str) -> impl Iterator<Item = &'a Subscription> + 'a {
        self.filters.iter().filter(move |(filter, _)| wants(filter, topic)).map(|(_, it)| it)
    }

    /// Since when it must get what is published to a topic at QoS 1 or 2.
    pub(crate) fn wants_since(&self, topic: &str) -> u64 {
        self.matching(topic).filter_map(|it| it.since).min().unwrap_or(u64::MAX)
    }

    /// Whether it may get what was published at that moment.
    pub(crate) fn may_want(&self, topic: &str, moment: u64, qos: QoS) -> bool {
        self.matching(topic)
            .any(|it| it.highest_qos >= qos && it.gone.is_none_or(|gone| gone > moment))
    }

    /// Whether a message that was acknowledged at that moment may have been for it.
    pub(crate) fn asked_before(&self, topic: &str, moment: u64) -> bool {
        self.matching(topic).any(|it| it.asked < moment)
    }

    pub(crate) fn ever_at_most_once(&self, topic: &str) -> bool {
        self.matching(topic).any(|it| it.lowest_qos == QoS::AtMostOnce)
    }
}
