//! Who wants this message: subscriptions, shared groups, the interest of other shards, retained
//! messages, and the route cache in front of them.
//!
//! A [`Router`] belongs to one shard. It matches the sessions of this shard in a trie of its own. Of
//! the filters that the other shards want it keeps fingerprints. The answer for a topic, its [`Route`],
//! stays in a bounded cache until a subscription changes that may touch it: a filter without
//! wildcards touches one route, one with wildcards those that begin with the same two levels,
//! or all of them when a wildcard stands there.

mod cache;
mod choice;
mod foreign;
mod groups;
mod hash;
mod interest;
mod load;
mod retained;
mod retained_scan;
mod route;
mod slab;
mod subscribe;
mod subscriptions;
#[cfg(test)]
mod tests;
mod trie;

use std::num::NonZeroU32;

pub use cache::RouteId;
pub use choice::{Publisher, ShardChoice, Strategy};
pub use groups::{GroupCount, GroupId};
pub use hash::stable_hash;
pub use load::GroupLoad;
pub use retained::{RetainedFull, Stamp};
pub use route::{Delivery, Receives, Route, Target};
pub use subscribe::{Ended, Subscribed, Subscription, Unsubscribed};

use crate::mqtt::QoS;
use crate::mqtt::topic::Filter;

/// Slab key of a session on this shard. The two highest values are reserved.
pub type SessionKey = u32;

/// Finds a subscription of a session again; 4 bytes. Valid until the subscription ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SubscriptionHandle(u32);

/// What a client asks for with a filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscriptionOptions {
    /// The highest QoS to deliver at.
    pub qos: QoS,
    /// Not the client's own messages.
    pub no_local: bool,
    /// RETAIN is forwarded as the publisher set it.
    pub retain_as_published: bool,
    /// The Subscription Identifier, 28 bits.
    pub identifier: Option<NonZeroU32>,
}

/// What a router may hold, and how its shared groups choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterLimits {
    /// Most retained messages; a further topic is refused.
    pub max_retained_messages: usize,
    /// Most bytes in retained messages; what exceeds them is refused.
    pub max_retained_bytes: usize,
    /// Most cleared topics remembered (for at least 60 s each, unless more are cleared meanwhile).
    pub max_tombstones: usize,
    /// Most bytes that these take together, with the same end.
    pub max_tombstone_bytes: usize,
    /// Most topics in the route cache; the least used give way.
    pub route_cache_entries: usize,
    /// Most bytes in the routes of the cache; the least used give way.
    pub route_cache_bytes: usize,
    /// How shared groups choose.
    pub strategy: Strategy,
}

impl Default for RouterLimits {
    fn default() -> Self {
        Self {
            max_retained_messages: 1_000_000,
            max_retained_bytes: 1 << 30,
            max_tombstones: 65_536,
            max_tombstone_bytes: 32 << 20,
            route_cache_entries: 65_536,
            route_cache_bytes: 32 << 20,
            strategy: Strategy::RoundRobin,
        }
    }
}

/// How many entries of a route's making the buffers for it keep.
const KEPT: usize = 4096;

/// The router of one shard.
#[derive(Debug)]
pub struct Router {
    cache: cache::Cache,
    trie: trie::Trie,
    foreign: foreign::Foreign,
    subs: subscriptions::Subscriptions,
    groups: groups::Groups,
    retained: retained::Retained,
    shard: u8,
    shards: u8,
    random: fastrand::Rng,
    /// The shards to choose from; emptied after each use.
    candidates: Vec<choice::Standing>,
    walk: trie::Walk,
    matched: Vec<route::Matched>,
}

impl Router {
    /// A router for shard number `shard` of `shards`, of which there can be 64. `seed` goes into
    /// its hash tables and random choices.
    #[must_use]
    pub fn new(shard: u8, shards: u8, seed: u64, limits: RouterLimits) -> Self {
        debug_assert!(shards <= 64 && shard < shards);
        let hash = hash::Seed::new(seed);
        Self {
            cache: cache::Cache::new(hash, limits.route_cache_entries, limits.route_cache_bytes),
            trie: trie::Trie::new(hash),
            foreign: foreign::Foreign::new(hash),
            subs: subscriptions::Subscriptions::new(hash),
            groups: groups::Groups::new(hash, limits.strategy, shards),
            retained: retained::Retained::new(hash, &limits),
            shard,
            shards,
            random: fastrand::Rng::with_seed(seed ^ u64::from(shard)),
            candidates: Vec::new(),
            walk: trie::Walk::default(),
            matched: Vec::new(),
        }
    }

    /// The route of a topic (a checked Topic Name), from the cache or computed: as
    /// [`route_to`](Self::route_to), to everybody who wants it.
    pub fn route(&mut self, topic: &str) -> RouteId {
        self.route_to(topic, |_| Receives::Yes)
    }

    /// The route of a topic to those sessions of this shard that may receive it: asked of those with plain
    /// subscriptions when the route is computed. If the answer would be another one later, see
    /// [`forget_routes`](Self::forget_routes).
    ///
    /// The id is good for [`get`](Self::get) until the next call of `route`, and for
    /// [`recall`](Self::recall) for ever.
    pub fn route_to(&mut self, topic: &str, may: impl Fn(SessionKey) -> Receives) -> RouteId {
        let hash = self.cache.hash(topic);
        let index = match self.cache.find(hash, topic) {
            cache::Found::Valid(id) => return id,
            cache::Found::Stale(index) => index,
            cache::Found::Missing => self.cache.admit(hash, topic),
        };
        let Self { cache, trie, foreign, subs, groups, walk, matched, .. } = self;
        let id = cache.refresh(index, |route| {
            let Route { topic, groups: wanted, leaving, .. } = route;
            let mut remote = foreign.shards(topic);
            trie.matches(topic, walk, |index, node| {
                remote |= trie.interest(index);
                for one in subs.list(node.list) {
                    match one {
                        subscriptions::Listed::Plain(session, granted) => match may(session) {
                            Receives::Yes => matched.push(route::Matched { session, granted }),
                            Receives::Leaving => *leaving |= granted.qos() > QoS::AtMostOnce,
                            Receives::No => {}
                        },
                        subscriptions::Listed::Group(group) => wanted.push(groups.id(group)),
                    }
                }
            });
            route.remote = remote;
            route.set_targets(matched);
        });
        matched.clear();
        matched.shrink_to(KEPT);
        walk.shrink_to(KEPT);
        id
    }

    /// Has every route computed anew.
    pub fn forget_routes(&mut self) {
        self.cache.invalidate_all();
    }

    /// Whether `id` is still the route of exactly these topic bytes: for a publisher that
    /// repeats its topic, and cheaper than [`route`](Self::route).
    #[inline]
    #[must_use]
    pub fn recall(&self, id: RouteId, topic: &[u8]) -> bool {
        self.cache.recall(id, topic)
    }

    /// The route an id names; the empty one if the id is stale.
    #[inline]
    #[must_use]
    pub fn get(&self, id: RouteId) -> &Route {
        self.cache.get(id)
    }

    /// How many subscriptions this shard's sessions have.
    #[must_use]
    pub fn subscription_count(&self) -> usize {
        self.subs.len()
    }

    /// How many shared groups are known, those with members only on other shards included.
    #[must_use]
    pub fn group_count(&self) -> usize {
        self.groups.len()
    }

    /// How many nodes the trie of filters has.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.trie.node_count()
    }

    /// How many topics are in the route cache.
    #[must_use]
    pub fn cached_route_count(&self) -> usize {
        self.cache.len()
    }

    /// Bytes on the heap for subscriptions of all kinds and the interest of other shards.
    #[must_use]
    pub fn subscription_bytes(&self) -> usize {
        self.trie.heap_bytes()
            + self.foreign.heap_bytes()
            + self.subs.heap_bytes()
            + self.groups.heap_bytes()
    }

    /// About the bytes that all this takes by number and length of what there is: for a limit, as this
    /// costs nothing to ask.
    #[must_use]
    pub fn counted_subscription_bytes(&self) -> usize {
        self.trie.counted_bytes()
            + self.foreign.counted_bytes()
            + self.subs.counted_bytes()
            + self.groups.counted_bytes()
    }

    /// The most that a subscription adds to
    /// [`counted_subscription_bytes`](Self::counted_subscription_bytes).
    #[must_use]
    pub fn most_subscription_bytes(&self, filter: &Filter<'_>) -> usize {
        let group = filter.share.map_or(0, |share| self.groups.most_bytes(share));
        // A group has an entry of its own in the list of its node.
        let entries = 2 * subscriptions::Subscriptions::ENTRY_BYTES;
        trie::Trie::most_bytes(filter.filter) + entries + group
    }

    /// Bytes on the heap for the route cache.
    #[must_use]
    pub fn route_cache_bytes(&self) -> usize {
        self.cache.heap_bytes()
    }
}
