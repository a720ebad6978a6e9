//! What clients saw, whatever broker they were at.

use std::collections::{BTreeMap, BTreeSet};

use sluice::mqtt::QoS;

/// What all clients saw.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// One for each publisher; no two publish to the same topic.
    pub published: Vec<Published>,
    /// One for each subscriber.
    pub received: Vec<Received>,
    /// One for each CONNACK whose Session Present was known before.
    pub presences: Vec<Presence>,
    /// One for each look at a retained message.
    pub reads: Vec<Read>,
    /// What else should not have been, in words.
    pub oddities: Vec<String>,
}

/// What a publisher did: it sends numbers from 0 on.
#[derive(Clone, Debug)]
pub struct Published {
    /// Its name.
    pub client: String,
    /// Its topic.
    pub topic: String,
    /// The QoS of all its messages.
    pub qos: QoS,
    /// The numbers below this one were sent.
    pub sent: u32,
    /// Those the broker has taken: by PUBACK, or PUBREC.
    pub acknowledged: BTreeSet<u32>,
    /// Those it has refused, by a reason code: it owes nothing for them.
    pub refused: BTreeSet<u32>,
    /// Whether they have to come in the order of the numbers.
    pub is_ordered: bool,
}

/// What a subscriber received.
#[derive(Clone, Debug)]
pub struct Received {
    /// Its name.
    pub client: String,
    /// Its filter, `$share/` included. Those with the same shared filter are one group.
    pub filter: String,
    /// The QoS it was granted.
    pub qos: QoS,
    /// By topic, the numbers in the order in which they came. What QoS 2 sends again is not among them:
    /// the client knows it by its identifier.
    pub numbers: BTreeMap<String, Vec<u32>>,
}

/// Session Present, as it had to be and as it was.
#[derive(Clone, Debug)]
pub struct Presence {
    /// Whose.
    pub client: String,
    /// What the client's history calls for.
    pub expected: bool,
    /// What CONNACK said.
    pub found: bool,
}

/// A look at the retained message of a topic, by a new subscription.
#[derive(Clone, Debug)]
pub struct Read {
    /// The topic.
    pub topic: String,
    /// The last number that was acknowledged before SUBSCRIBE was sent: by PUBACK, or PUBCOMP.
    pub acknowledged: Option<u32>,
    /// The number that came, if one did.
    pub found: Option<u32>,
    /// Numbers from this one on had not been sent when it came.
    pub sent: u32,
    /// The last of so many numbers is sent as an empty message, which clears the topic; 0: none is.
    pub clears_every: u32,
}

impl Read {
    /// Whether a look may find that: the last acknowledged, or a later one.
    #[must_use]
    pub fn is_right(&self) -> bool {
        match (self.acknowledged, self.found) {
            (None, None) => true,
            (last, Some(found)) => last.is_none_or(|last| last <= found) && found < self.sent,
            (Some(last), None) => (last..self.sent).any(|n| clears(n, self.clears_every)),
        }
    }
}

/// Whether a number is the last of so many.
pub(super) fn clears(number: u32, every: u32) -> bool {
    every > 0 && (number + 1).is_multiple_of(every)
}
