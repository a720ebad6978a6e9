//! Filters: their syntax and `topic::matches` against a naive matcher, and the routes of a router,
//! while subscriptions come and go, against a plain list of them.

use std::num::NonZeroU32;

use sluice::mqtt::{Limits, QoS, topic};
use sluice::router::{
    Delivery, GroupCount, Router, RouterLimits, SessionKey, SubscriptionHandle, SubscriptionOptions,
};

use crate::input::Input;
use crate::naive;

const SESSIONS: usize = 6;
const SHARDS: u8 = 4;

struct Subscription {
    session: SessionKey,
    share: Option<String>,
    filter: String,
    options: SubscriptionOptions,
    handle: SubscriptionHandle,
}

/// The router, and what it should know.
struct Pair {
    router: Router,
    subscriptions: Vec<Subscription>,
    /// Plain filters of other shards.
    interest: Vec<(u8, String)>,
    /// Names that were routed, to be asked for again when their routes are cached.
    names: Vec<String>,
}

/// Subscribes, unsubscribes and asks for routes as the input says.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    let limits = RouterLimits {
        route_cache_entries: 1 + input.below(8),
        route_cache_bytes: 1 << (8 + input.below(16)),
        ..RouterLimits::default()
    };
    let mut pair = Pair {
        router: Router::new(0, SHARDS, 1, limits),
        subscriptions: Vec::new(),
        interest: Vec::new(),
        names: Vec::new(),
    };
    let nodes = pair.router.node_count();
    while !input.is_empty() {
        pair.step(&mut input);
    }
    for name in std::mem::take(&mut pair.names) {
        pair.ask(&name);
    }
    for index in (0..pair.subscriptions.len()).rev() {
        pair.end(index);
    }
    for (shard, filter) in std::mem::take(&mut pair.interest) {
        pair.router.remove_interest(shard, &filter);
    }
    assert_eq!(pair.router.subscription_count(), 0);
    assert_eq!(pair.router.group_count(), 0);
    assert_eq!(pair.router.node_count(), nodes, "nodes that nobody needs any more");
}

impl Pair {
    fn step(&mut self, input: &mut Input<'_>) {
        match input.byte() % 8 {
            0 | 1 => {
                let session = input.below(SESSIONS) as SessionKey;
                let filter = text(input);
                self.subscribe(session, &filter, options(input));
            }
            2 => {
                let session = input.below(SESSIONS) as SessionKey;
                let filter = text(input);
                self.unsubscribe(session, &filter);
            }
            3 => {
                let index = usize::from(input.byte());
                if !self.subscriptions.is_empty() {
                    self.end(index % self.subscriptions.len());
                }
            }
            4 => {
                let shard = 1 + input.byte() % (SHARDS - 1);
                let filter = text(input);
                if let Some((None, filter)) = naive::parse(&filter) {
                    self.change_interest(shard, filter);
                }
            }
            5 => {
                let index = input.below(self.names.len().max(1));
                if let Some(name) = self.names.get(index).cloned() {
                    self.ask(&name);
                }
            }
            _ => {
                let name = input.name();
                if !name.is_empty() {
                    self.ask(&name);
                    self.names.push(name);
                }
            }
        }
        assert_eq!(self.router.subscription_count(), self.subscriptions.len());
    }

    fn find(&self, session: SessionKey, share: Option<&str>, filter: &str) -> Option<usize> {
        self.subscriptions.iter().position(|one| {
            one.session == session && one.share.as_deref() == share && one.filter == filter
        })
    }

    fn has_plain(&self, filter: &str) -> bool {
        self.subscriptions.iter().any(|one| one.share.is_none() && one.filter == filter)
    }

    fn members(&self, share: &str, filter: &str) -> u32 {
        let is_member =
            |one: &&Subscription| one.share.as_deref() == Some(share) && one.filter == filter;
        self.subscriptions.iter().filter(is_member).count() as u32
    }

    /// What the other shards are to be told of a group whose members have changed.
    fn check_count(&self, group: Option<&GroupCount>, share: Option<&str>, filter: &str) {
        let told = group.map(|one| (one.share.as_str(), one.filter.as_str(), one.members));
        assert_eq!(told, share.map(|share| (share, filter, self.members(share, filter))));
    }

    fn subscribe(&mut self, session: SessionKey, text: &str, mut options: SubscriptionOptions) {
        let parsed = topic::Filter::parse(text, &Limits::NONE).ok();
        let expected = naive::parse(text);
        assert_eq!(parsed.map(|one| (one.share, one.filter)), expected, "{text:?}");
        let Some(filter) = parsed else { return };
        options.no_local &= filter.share.is_none();
        let known = self.find(session, filter.share, filter.filter);
        let first = filter.share.is_none() && !self.has_plain(filter.filter);
        let done = self.router.subscribe(session, &filter, options);
        assert_eq!((done.existed, done.interest), (known.is_some(), first), "{text:?}");
        if let Some(known) = known {
            assert_eq!(done.handle, self.subscriptions[known].handle);
            self.subscriptions[known].options = options;
        } else {
            self.subscriptions.push(Subscription {
                session,
                share: filter.share.map(str::to_owned),
                filter: filter.filter.to_owned(),
                options,
                handle: done.handle,
            });
            self.check_count(done.group.as_ref(), filter.share, filter.filter);
        }
        assert!(self.router.has_subscription(session, &filter));
        let found = self.router.subscription(session, done.handle).expect("it was just made");
        assert_eq!((found.share.as_deref(), &*found.filter), (filter.share, filter.filter));
        assert_eq!(found.options, options);
    }

    fn unsubscribe(&mut self, session: SessionKey, text: &str) {
        let Ok(filter) = topic::Filter::parse(text, &Limits::NONE) else { return };
        let known = self.find(session, filter.share, filter.filter);
        assert_eq!(self.router.has_subscription(session, &filter), known.is_some());
        let done = self.router.unsubscribe(session, &filter);
        assert_eq!(done.is_some(), known.is_some(), "{text:?}");
        let Some((done, known)) = done.zip(known) else { return };
        let gone = self.subscriptions.swap_remove(known);
        assert_eq!(done.handle, gone.handle);
        let last = gone.share.is_none() && !self.has_plain(filter.filter);
        assert_eq!(done.interest, last);
        self.check_count(done.group.as_ref(), filter.share, filter.filter);
    }

    /// A subscription ends with its session.
    fn end(&mut self, index: usize) {
        let gone = self.subscriptions.swap_remove(index);
        let stranger = SESSIONS as SessionKey;
        assert!(self.router.subscription(stranger, gone.handle).is_none());
        let done = self.router.unsubscribe_handle(gone.session, gone.handle).expect("its own");
        let last = gone.share.is_none() && !self.has_plain(&gone.filter);
        assert_eq!((&*done.filter, done.interest), (&*gone.filter, last));
        self.check_count(done.group.as_ref(), gone.share.as_deref(), &gone.filter);
    }

    fn change_interest(&mut self, shard: u8, filter: &str) {
        let same = |one: &(u8, String)| one.0 == shard && one.1 == filter;
        if let Some(index) = self.interest.iter().position(same) {
            self.interest.swap_remove(index);
            self.router.remove_interest(shard, filter);
            // What is gone already is not missed.
            self.router.remove_interest(shard, filter);
        } else {
            self.interest.push((shard, filter.to_owned()));
            self.router.add_interest(shard, filter);
        }
    }

    /// Asks for the route of a name, and whether it is the right one.
    fn ask(&mut self, name: &str) {
        let id = self.router.route(name);
        assert!(self.router.recall(id, name.as_bytes()));
        assert!(!self.router.recall(id, b"another"));
        let route = self.router.get(id);
        assert_eq!(route.topic(), name);
        let wanting = |filter: &str| {
            let wants = naive::selects(filter, name);
            assert_eq!(topic::matches(filter, name), wants, "{filter:?} {name:?}");
            wants
        };
        let matching: Vec<&Subscription> =
            self.subscriptions.iter().filter(|one| wanting(&one.filter)).collect();
        let remote = self
            .interest
            .iter()
            .filter(|(_, filter)| wanting(filter))
            .fold(0, |bits, (shard, _)| bits | 1 << shard);
        assert_eq!(route.remote, remote, "{name:?}");
        assert!(route.targets.is_sorted_by_key(|target| target.session));
        for session in 0..SESSIONS as SessionKey {
            let target = route.targets.iter().find(|target| target.session == session);
            for own in [false, true] {
                let (delivery, mut identifiers) = merged(&matching, session, own);
                assert_eq!(target.and_then(|one| one.for_publisher(own)), delivery, "{name:?}");
                let mut there = target.map_or(&[][..], |one| route.identifiers(one, own)).to_vec();
                there.sort_unstable();
                identifiers.sort_unstable();
                assert_eq!(there, identifiers, "{name:?}");
            }
        }
        let mut groups: Vec<_> = matching
            .iter()
            .filter_map(|one| self.router.group(one.share.as_deref()?, &one.filter))
            .collect();
        let mut there = route.groups.to_vec();
        for group in &there {
            assert_eq!(self.router.group_wanting(group.index(), name), Some(*group));
        }
        groups.sort_unstable_by_key(|group| group.index());
        groups.dedup();
        there.sort_unstable_by_key(|group| group.index());
        assert_eq!(there, groups, "{name:?}");
    }
}

/// One delivery for all the plain subscriptions of a session.
fn merged(
    matching: &[&Subscription],
    session: SessionKey,
    own: bool,
) -> (Option<Delivery>, Vec<u32>) {
    let mut delivery: Option<Delivery> = None;
    let mut identifiers = Vec::new();
    for one in matching {
        let options = one.options;
        if one.session != session || one.share.is_some() || (own && options.no_local) {
            continue;
        }
        let so_far = delivery.unwrap_or(Delivery { qos: options.qos, retain_as_published: false });
        delivery = Some(Delivery {
            qos: so_far.qos.max(options.qos),
            retain_as_published: so_far.retain_as_published || options.retain_as_published,
        });
        identifiers.extend(options.identifier.map(NonZeroU32::get));
    }
    (delivery, identifiers)
}

fn options(input: &mut Input<'_>) -> SubscriptionOptions {
    let bits = input.byte();
    SubscriptionOptions {
        qos: QoS::from_u8(bits & 3).unwrap_or_default(),
        no_local: bits & 4 != 0,
        retain_as_published: bits & 8 != 0,
        identifier: NonZeroU32::new(u32::from(bits >> 4)),
    }
}

/// The text of a filter, at times any text at all.
fn text(input: &mut Input<'_>) -> String {
    let kind = input.byte();
    match kind {
        0..0x80 => input.filter(),
        0x80..0xC0 => format!("$share/g{}/{}", kind % 3, input.filter()),
        _ => {
            let bytes = input.bytes(usize::from(kind - 0xC0));
            String::from_utf8_lossy(bytes).into_owned()
        }
    }
}
