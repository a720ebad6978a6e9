//! A route: everybody who wants the messages of one topic, computed once and then only read.

use smallvec::SmallVec;

use super::groups::GroupId;
use super::subscriptions::Granted;
use super::{SessionKey, SubscriptionOptions};
use crate::mqtt::QoS;

/// Who wants the messages of one topic.
#[derive(Debug, Default)]
#[repr(C)]
pub struct Route {
    pub(super) topic: String,
    /// The sessions of this shard with plain subscriptions, each once, in order of their keys.
    pub targets: Vec<Target>,
    /// One bit for each other shard where somebody has a plain subscription, and hardly ever one
    /// for a shard where nobody has.
    pub remote: u64,
    /// The shared groups, each of which gets the message once.
    pub groups: SmallVec<[GroupId; 2]>,
    /// A session had a plain subscription above QoS 0, and a crash would bring it back.
    pub leaving: bool,
    identifiers: Vec<u32>,
}

impl Route {
    /// The topic this is the route of.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Whether nobody at all wants it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.groups.is_empty() && self.remote == 0
    }

    /// The Subscription Identifiers a delivery carries [MQTT-3.3.4-3]; `own` as in
    /// [`Target::for_publisher`]. `target` must be of this route.
    #[inline]
    #[must_use]
    pub fn identifiers<'a>(&'a self, target: &'a Target, own: bool) -> &'a [u32] {
        let wanted = if own { target.own_identifier_count() } else { target.identifier_count };
        match (wanted, target.identifier_count) {
            (0, _) => &[],
            (_, 1) => std::slice::from_ref(&target.identifiers),
            _ => {
                let start = target.identifiers as usize;
                self.identifiers.get(start..start + wanted as usize).unwrap_or_default()
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.targets.clear();
        self.groups.clear();
        self.identifiers.clear();
        self.remote = 0;
        self.leaving = false;
    }

    /// Makes the targets of all matching plain subscriptions, which it sorts by session.
    pub(super) fn set_targets(&mut self, matched: &mut [Matched]) {
        matched.sort_unstable_by_key(|one| one.session);
        self.targets.reserve(matched.len());
        for of_session in matched.chunk_by(|a, b| a.session == b.session) {
            let target = match of_session {
                [one] => Target::single(one.session, one.granted),
                several => self.merge(several),
            };
            self.targets.push(target);
        }
    }

    /// Overlapping subscriptions of one session: one delivery at the highest QoS, with every
    /// identifier [MQTT-3.3.4-2], [MQTT-3.3.4-4].
    fn merge(&mut self, several: &[Matched]) -> Target {
        let session = several.first().map_or(0, |one| one.session);
        let mut all = Grade::default();
        let mut own = Grade::default();
        let start = self.identifiers.len();
        // Those that count for the publisher itself stand first.
        for one in several.iter().filter(|one| !one.granted.no_local()) {
            all.add(one.granted);
            own.add(one.granted);
            self.identifiers.extend(one.granted.identifier());
        }
        let own_count = self.identifiers.len() - start;
        for one in several.iter().filter(|one| one.granted.no_local()) {
            all.add(one.granted);
            self.identifiers.extend(one.granted.identifier());
        }
        let count = self.identifiers.len() - start;
        let identifiers = match count {
            1 => self.identifiers.pop().unwrap_or_default(),
            _ => start as u32,
        };
        Target::new(session, all, own, identifiers, count as u32, own_count as u32)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let groups = if self.groups.spilled() { self.groups.capacity() } else { 0 };
        self.topic.capacity()
            + self.targets.capacity() * size_of::<Target>()
            + self.identifiers.capacity() * size_of::<u32>()
            + groups * size_of::<GroupId>()
    }
}

/// Whether a session with a plain subscription gets a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receives {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// It does not, as it has ended; but it would be there again after a crash.
    Leaving,
}

/// A plain subscription that matched.
#[derive(Clone, Copy, Debug)]
pub(super) struct Matched {
    pub(super) session: SessionKey,
    pub(super) granted: Granted,
}

/// What merging subscriptions comes to.
#[derive(Clone, Copy, Default)]
struct Grade {
    qos: QoS,
    retain_as_published: bool,
    any: bool,
}

impl Grade {
    fn add(&mut self, granted: Granted) {
        self.qos = self.qos.max(granted.qos());
        self.retain_as_published |= granted.retain_as_published();
        self.any = true;
    }

    fn bits(self) -> u32 {
        u32::from(self.qos.as_u8())
            | if self.retain_as_published { RETAIN_AS_PUBLISHED } else { 0 }
            | if self.any { DELIVER } else { 0 }
    }
}

const QOS: u32 = 0b11;
const RETAIN_AS_PUBLISHED: u32 = 1 << 2;
const DELIVER: u32 = 1 << 3;
const OWN: u32 = 4;
const OWN_COUNT: u32 = 8;
const MAX_OWN_COUNT: u32 = u32::MAX >> OWN_COUNT;

/// One session that gets the message: its overlapping subscriptions merged. 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The session.
    pub session: SessionKey,
    /// The one identifier, or where several begin in the route.
    identifiers: u32,
    identifier_count: u32,
    /// Four bits of `Grade` for everybody, four for the publisher itself, its identifier count.
    grades: u32,
}

/// At what QoS, and with which RETAIN flag, a message is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The highest QoS granted; the message goes out at the lower of this and its own.
    pub qos: QoS,
    /// Whether RETAIN is forwarded as it came [MQTT-3.3.1-12], [MQTT-3.3.1-13].
    pub retain_as_published: bool,
}

impl Target {
    /// What the session gets; `own`: whether the publisher is this very session, which takes No
    /// Local subscriptions out [MQTT-3.8.3-3]. `None`: nothing.
    #[inline]
    #[must_use]
    pub fn for_publisher(&self, own: bool) -> Option<Delivery> {
        let bits = if own { self.grades >> OWN } else { self.grades };
        (bits & DELIVER != 0).then_some(Delivery {
            qos: match bits & QOS {
                0 => QoS::AtMostOnce,
                1 => QoS::AtLeastOnce,
                _ => QoS::ExactlyOnce,
            },
            retain_as_published: bits & RETAIN_AS_PUBLISHED != 0,
        })
    }

    /// Whether a delivery may carry Subscription Identifiers: a cheap test before asking which.
    #[inline]
    #[must_use]
    pub fn has_identifiers(&self) -> bool {
        self.identifier_count != 0
    }

    fn single(session: SessionKey, granted: Granted) -> Self {
        let mut all = Grade::default();
        all.add(granted);
        let own = if granted.no_local() { Grade::default() } else { all };
        let count = u32::from(granted.identifier().is_some());
        let own_count = if granted.no_local() { 0 } else { count };
        Self::new(session, all, own, granted.identifier().unwrap_or(0), count, own_count)
    }

    fn new(
        session: SessionKey,
        all: Grade,
        own: Grade,
        identifiers: u32,
        identifier_count: u32,
        own_count: u32,
    ) -> Self {
        let own_count = own_count.min(MAX_OWN_COUNT) << OWN_COUNT;
        let grades = all.bits() | (own.bits() << OWN) | own_count;
        Self { session, identifiers, identifier_count, grades }
    }

    fn own_identifier_count(&self) -> u32 {
        self.grades >> OWN_COUNT
    }
}

impl From<Granted> for SubscriptionOptions {
    fn from(granted: Granted) -> Self {
        Self {
            qos: granted.qos(),
            no_local: granted.no_local(),
            retain_as_published: granted.retain_as_published(),
            identifier: granted.identifier().and_then(std::num::NonZeroU32::new),
        }
    }
}
