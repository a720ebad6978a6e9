//! What a broker that keeps its word has of each session, field by field.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Instant;

use crate::common::property::{
    MESSAGE_EXPIRY_INTERVAL, Property, SUBSCRIPTION_IDENTIFIER, message_expiry,
    subscription_identifier,
};
use crate::common::{Message, Publish, V311, Version};

/// A message as it was published.
#[derive(Debug)]
pub(crate) struct Sent {
    pub(crate) message: Message,
    /// Its Message Expiry Interval, and since when that counts.
    pub(crate) expires: Option<(u32, Instant)>,
}

impl Sent {
    /// For a history.
    pub(crate) fn told(&self) -> String {
        let Message { topic, payload, qos, retain, .. } = &self.message;
        let payload = String::from_utf8_lossy(payload);
        format!("{:?} to {topic:?}, QoS {qos}, retain: {retain}", payload.trim_end())
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Subscription {
    pub(crate) qos: u8,
    pub(crate) no_local: bool,
    pub(crate) retain_as_published: bool,
    pub(crate) identifier: Option<u32>,
}

/// How far a message has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Queued,
    /// Under this identifier.
    InFlight(u16),
    /// The same, and the order among the PUBRELs.
    Released(u16, u64),
}

/// A message for a session.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    pub(crate) sent: Rc<Sent>,
    pub(crate) qos: u8,
    pub(crate) retain: bool,
    pub(crate) identifiers: Vec<u32>,
    /// Those of one batch may come in any order; 0: in no batch.
    pub(crate) batch: u32,
    pub(crate) state: State,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Session {
    pub(crate) expiry: u32,
    /// It had a Session Expiry Interval when it began.
    pub(crate) is_stored: bool,
    pub(crate) subscriptions: BTreeMap<&'static str, Subscription>,
    /// In the order of delivery.
    pub(crate) kept: Vec<Kept>,
    /// Identifiers of the client's QoS 2 messages that wait for PUBREL.
    pub(crate) held: BTreeSet<u16>,
    pub(crate) releases: u64,
    pub(crate) will: Option<(Rc<Sent>, u32)>,
}

impl Session {
    /// What a message becomes that comes by the subscriptions of this session.
    pub(crate) fn delivery(&self, sent: &Rc<Sent>, is_own: bool, batch: u32) -> Option<Kept> {
        let matching = |(filter, subscription): &(&&str, &Subscription)| {
            matches(filter, &sent.message.topic) && !(is_own && subscription.no_local)
        };
        let found: Vec<_> =
            self.subscriptions.iter().filter(matching).map(|(_, found)| found).collect();
        let highest = found.iter().map(|one| one.qos).max()?;
        let as_published = found.iter().any(|one| one.retain_as_published);
        let mut identifiers: Vec<_> = found.iter().filter_map(|one| one.identifier).collect();
        identifiers.sort_unstable();
        Some(Kept {
            sent: sent.clone(),
            qos: highest.min(sent.message.qos),
            retain: sent.message.retain && as_published,
            identifiers,
            batch,
            state: State::Queued,
        })
    }

    pub(crate) fn released(&self) -> usize {
        self.kept.iter().filter(|kept| matches!(kept.state, State::Released(..))).count()
    }

    pub(crate) fn position(&self, state: State) -> Option<usize> {
        self.kept.iter().position(|kept| kept.state == state)
    }
}

impl Kept {
    /// The properties that it is delivered with, but for the expiry.
    fn properties(&self) -> Vec<Property> {
        let identifiers = self.identifiers.iter().map(|&one| subscription_identifier(one));
        self.sent.message.properties.iter().cloned().chain(identifiers).collect()
    }

    /// Bytes of its PUBLISH.
    pub(crate) fn size(&self, version: Version) -> usize {
        let mut message = self.sent.message.clone().qos(self.qos).id(1);
        message.properties = self.properties();
        if let Some((seconds, _)) = self.sent.expires {
            message.properties.push(message_expiry(seconds));
        }
        if !version.is_v5() {
            message.properties.clear();
        }
        message.bytes(version).len()
    }

    /// Whether it is this one, to be told from others of its batch.
    pub(crate) fn is_what_came(&self, publish: &Publish) -> bool {
        (&publish.topic, &publish.payload) == (&self.sent.message.topic, &self.sent.message.payload)
    }

    /// Every field of a PUBLISH that should be this one; but for the identifier.
    pub(crate) fn assert_is(&self, publish: &Publish, dup: bool, version: Version) {
        let message = &self.sent.message;
        let text = |payload| String::from_utf8_lossy(payload).trim_end().to_owned();
        let found = (&publish.topic, text(&publish.payload));
        let wanted = (&message.topic, text(&message.payload));
        assert_eq!(found, wanted, "topic and payload");
        let found = (publish.qos, publish.retain, publish.dup);
        assert_eq!(found, (self.qos, self.retain, dup), "QoS, RETAIN, DUP of {wanted:?}");
        if version == V311 {
            return;
        }
        let (mut found, mut wanted) = (publish.properties.0.clone(), self.properties());
        found.retain(|property| property.id != MESSAGE_EXPIRY_INTERVAL);
        // Only the order of User Properties means something.
        let order = |property: &Property| {
            let identifier = [property].into_iter().filter(|one| one.id == SUBSCRIPTION_IDENTIFIER);
            (property.id, identifier.map(|one| format!("{one:?}")).next())
        };
        found.sort_by_key(order);
        wanted.sort_by_key(order);
        assert_eq!(found, wanted, "properties of {}", self.sent.told());
        let left = publish.properties.number(MESSAGE_EXPIRY_INTERVAL);
        match (self.sent.expires, left) {
            (None, None) => {}
            (Some((seconds, since)), Some(left)) => {
                let passed = u32::try_from(since.elapsed().as_secs()).expect("not so long") + 2;
                let fits = (seconds.saturating_sub(passed)..=seconds).contains(&left);
                assert!(fits, "{left} of {seconds} seconds left");
            }
            other => panic!("Message Expiry Interval: {other:?}"),
        }
    }
}

/// Whether a topic matches a filter (4.7); none of them begins with `$`.
pub(crate) fn matches(filter: &str, topic: &str) -> bool {
    let (mut filter, mut topic) = (filter.split('/'), topic.split('/'));
    loop {
        match (filter.next(), topic.next()) {
            (Some("#"), _) | (None, None) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
}
