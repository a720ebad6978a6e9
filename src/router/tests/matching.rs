use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::mqtt::topic;

#[test]
fn no_filter_that_starts_with_a_wildcard_matches_a_dollar_topic() {
    // [MQTT-4.7.2-1]
    let mut router = router();
    for (session, filter) in
        [(1, "#"), (2, "+/a"), (3, "$SYS/#"), (4, "$SYS/+"), (5, "+/+"), (6, "/#")]
    {
        router.subscribe(session, &plain(filter), options(QoS::AtMostOnce));
    }
    assert_eq!(sessions(&mut router, "$SYS/a"), [3, 4]);
    assert_eq!(sessions(&mut router, "$SYS"), [3]);
    assert_eq!(sessions(&mut router, "x/a"), [1, 2, 5]);
    assert_eq!(sessions(&mut router, "/"), [1, 5, 6]);
    assert_eq!(sessions(&mut router, "x/$SYS"), [1, 5]);
}

#[test]
fn overlapping_subscriptions_are_one_delivery() {
    // [MQTT-3.3.4-2], [MQTT-3.3.4-4], [MQTT-3.8.3-3]
    let mut router = router();
    let mut subscribe = |filter, qos, no_local, retain_as_published, identifier| {
        let identifier = NonZeroU32::new(identifier);
        let options = SubscriptionOptions { qos, no_local, retain_as_published, identifier };
        router.subscribe(7, &plain(filter), options);
    };
    subscribe("a/b", QoS::AtLeastOnce, false, false, 11);
    subscribe("a/+", QoS::ExactlyOnce, true, true, 268_435_455);
    subscribe("#", QoS::AtMostOnce, false, false, 0);
    subscribe("c", QoS::ExactlyOnce, true, true, 5);
    let id = router.route("a/b");
    let route = router.get(id);
    let [target] = route.targets[..] else { panic!("one target") };
    let all = target.for_publisher(false).unwrap();
    assert_eq!((all.qos, all.retain_as_published), (QoS::ExactlyOnce, true));
    assert_eq!(route.identifiers(&target, false), [11, 268_435_455]);
    let own = target.for_publisher(true).unwrap();
    assert_eq!((own.qos, own.retain_as_published), (QoS::AtLeastOnce, false));
    assert_eq!(route.identifiers(&target, true), [11]);
    let id = router.route("c");
    let route = router.get(id);
    let target = route.targets[1 - usize::from(route.targets.len() == 1)];
    // `#` lets the publisher have its own, `c` does not.
    assert_eq!(target.for_publisher(true).map(|own| own.qos), Some(QoS::AtMostOnce));
    assert!(route.identifiers(&target, true).is_empty());
    assert_eq!(route.identifiers(&target, false), [5]);
    assert!(size_of::<Target>() <= 16);
}

#[test]
fn says_what_the_other_shards_are_to_be_told() {
    let mut router = router();
    let filter = plain("a/b");
    let first = router.subscribe(1, &filter, options(QoS::AtMostOnce));
    assert!(first.interest && !first.existed && first.group.is_none());
    let second = router.subscribe(2, &filter, options(QoS::AtMostOnce));
    assert!(!second.interest);
    router.set_place(second.handle, 7);
    let again = router.subscribe(1, &filter, options(QoS::ExactlyOnce));
    assert!(again.existed && !again.interest && again.handle == first.handle);
    let known = router.subscription(1, first.handle).unwrap();
    assert_eq!((known.filter.as_str(), known.options.qos), ("a/b", QoS::ExactlyOnce));
    assert_eq!(router.subscription(2, first.handle), None);
    let gone = router.unsubscribe(2, &filter).unwrap();
    assert_eq!((gone.interest, gone.handle, gone.place), (false, second.handle, 7));
    assert_eq!(router.unsubscribe(2, &filter), None);
    assert_eq!(router.unsubscribe_handle(9, first.handle), None);
    let ended = router.unsubscribe_handle(1, first.handle).unwrap();
    assert_eq!((ended.filter.as_str(), ended.interest, ended.group), ("a/b", true, None));
    assert_eq!((router.subscription_count(), router.node_count()), (0, 0));
}

#[test]
fn long_lists_are_found_by_session() {
    let mut router = router();
    let filter = plain("all/of/us");
    let handles: Vec<_> = (0..10_000)
        .map(|session| router.subscribe(session, &filter, options(QoS::AtMostOnce)).handle)
        .collect();
    assert!(router.subscribe(5000, &filter, options(QoS::AtLeastOnce)).existed);
    assert_eq!(sessions(&mut router, "all/of/us"), (0..10_000).collect::<Vec<_>>());
    for session in 0..5000 {
        assert!(!router.unsubscribe(session, &filter).unwrap().interest);
    }
    for session in 5000..10_000 {
        let ended = router.unsubscribe_handle(session, handles[session as usize]);
        assert_eq!(ended.unwrap().interest, session == 9999);
    }
    assert_eq!((router.subscription_count(), router.node_count()), (0, 0));
}

#[derive(Clone, Debug)]
enum Step {
    Subscribe(u32, Option<&'static str>, String, SubscriptionOptions),
    Unsubscribe(usize, bool),
    Interest(u8, String),
    NoInterest(usize),
    Group(u8, String, u32),
}

fn any_options() -> impl Strategy<Value = SubscriptionOptions> {
    (0..3u8, any::<bool>(), any::<bool>(), 0..4u32).prop_map(|(qos, no_local, rap, identifier)| {
        SubscriptionOptions {
            qos: QoS::from_u8(qos).unwrap(),
            no_local,
            retain_as_published: rap,
            identifier: NonZeroU32::new(identifier),
        }
    })
}

fn step() -> impl Strategy<Value = Step> {
    let share = prop::option::weighted(0.3, prop::sample::select(vec!["g", "h"]));
    prop_oneof![
        6 => (0..40u32, share, topic_filter(), any_options())
            .prop_map(|(session, share, filter, options)| {
                Step::Subscribe(session, share, filter, options)
            }),
        3 => (any::<usize>(), any::<bool>()).prop_map(|(n, handle)| Step::Unsubscribe(n, handle)),
        1 => (1..4u8, topic_filter()).prop_map(|(shard, filter)| Step::Interest(shard, filter)),
        1 => any::<usize>().prop_map(Step::NoInterest),
        1 => (1..4u8, topic_filter(), 0..3u32).prop_map(|(s, f, n)| Step::Group(s, f, n)),
    ]
}

type Key = (Option<&'static str>, String, u32);

/// Everything the router should know, as lists.
#[derive(Default)]
struct Model {
    subscriptions: BTreeMap<Key, (SubscriptionOptions, SubscriptionHandle)>,
    interest: BTreeSet<(u8, String)>,
    remote_groups: BTreeMap<(String, u8), u32>,
}

impl Model {
    fn apply(&mut self, router: &mut Router, step: Step) {
        match step {
            Step::Subscribe(session, share, text, options) => {
                let filter = Filter { share, filter: &text };
                let done = router.subscribe(session, &filter, options);
                let first = !self.subscriptions.keys().any(|key| key.0.is_none() && key.1 == text);
                assert_eq!(done.interest, share.is_none() && first);
                let old = self.subscriptions.insert((share, text, session), (options, done.handle));
                assert_eq!(done.existed, old.is_some());
            }
            Step::Unsubscribe(which, by_handle) => self.unsubscribe(router, which, by_handle),
            Step::Interest(shard, filter) => {
                if self.interest.insert((shard, filter.clone())) {
                    router.add_interest(shard, &filter);
                }
            }
            Step::NoInterest(which) => {
                let Some(one) = nth(self.interest.iter(), which).cloned() else { return };
                router.remove_interest(one.0, &one.1);
                self.interest.remove(&one);
            }
            Step::Group(shard, filter, members) => {
                let count = GroupCount {
                    share: "g".to_owned(),
                    filter: filter.clone(),
                    id: GroupId::NONE,
                    online: members / 2,
                    members,
                    since: 0,
                    load: None,
                };
                router.set_group_online(shard, &count);
                self.remote_groups.insert((filter, shard), members);
                self.remote_groups.retain(|_, members| *members > 0);
            }
        }
    }

    fn unsubscribe(&mut self, router: &mut Router, which: usize, by_handle: bool) {
        let Some((key, _)) = nth(self.subscriptions.iter(), which) else { return };
        let (share, text, session) = key.clone();
        let (options, handle) = self.subscriptions.remove(&(share, text.clone(), session)).unwrap();
        let known = router.subscription(session, handle).unwrap();
        assert_eq!(known.share.as_deref(), share);
        assert_eq!((&known.filter, known.options), (&text, options));
        let interest = if by_handle {
            router.unsubscribe_handle(session, handle).unwrap().interest
        } else {
            let done = router.unsubscribe(session, &Filter { share, filter: &text }).unwrap();
            assert_eq!(done.handle, handle);
            done.interest
        };
        let last = !self.subscriptions.keys().any(|key| key.0.is_none() && key.1 == text);
        assert_eq!(interest, share.is_none() && last);
    }

    fn check(&self, router: &mut Router, name: &str) {
        let id = router.route(name);
        assert!(router.recall(id, name.as_bytes()));
        let route = router.get(id);
        let mut expected: BTreeMap<u32, Vec<SubscriptionOptions>> = BTreeMap::new();
        let mut groups = BTreeSet::new();
        for ((share, filter, session), (options, _)) in &self.subscriptions {
            match share {
                _ if !topic::matches(filter, name) => {}
                None => expected.entry(*session).or_default().push(*options),
                Some(share) => {
                    groups.insert(router.group(share, filter).unwrap());
                }
            }
        }
        for (filter, _) in self.remote_groups.keys().filter(|one| topic::matches(&one.0, name)) {
            groups.insert(router.group("g", filter).unwrap());
        }
        assert_eq!(route.groups.iter().copied().collect::<BTreeSet<_>>(), groups);
        assert_eq!(route.groups.len(), groups.len());
        let interest = self.interest.iter().filter(|one| topic::matches(&one.1, name));
        assert_eq!(route.remote, interest.fold(0, |bits, one| bits | 1 << one.0));
        let sessions: Vec<u32> = route.targets.iter().map(|target| target.session).collect();
        assert_eq!(sessions, expected.keys().copied().collect::<Vec<_>>());
        for (target, options) in route.targets.iter().zip(expected.values()) {
            check_target(route, target, options, false);
            check_target(route, target, options, true);
        }
    }
}

fn check_target(route: &Route, target: &Target, options: &[SubscriptionOptions], own: bool) {
    let counted: Vec<_> = options.iter().filter(|one| !(own && one.no_local)).collect();
    let delivery = target.for_publisher(own);
    assert_eq!(delivery.map(|one| one.qos), counted.iter().map(|one| one.qos).max());
    let rap = counted.iter().any(|one| one.retain_as_published);
    assert_eq!(delivery.is_some_and(|one| one.retain_as_published), rap);
    let mut expected: Vec<u32> =
        counted.iter().filter_map(|one| one.identifier).map(NonZeroU32::get).collect();
    let mut identifiers = route.identifiers(target, own).to_vec();
    expected.sort_unstable();
    identifiers.sort_unstable();
    assert_eq!(identifiers, expected);
}

fn nth<T>(iter: impl ExactSizeIterator<Item = T>, which: usize) -> Option<T> {
    let len = iter.len();
    { iter }.nth(which.checked_rem(len)?)
}

proptest! {
    #[test]
    fn routes_are_what_the_naive_matcher_finds(
        steps in prop::collection::vec(step(), 1..80),
        names in prop::collection::vec(topic_name(), 1..10),
        entries in prop::sample::select(vec![1, 3, 100]),
    ) {
        let limits = RouterLimits { route_cache_entries: entries, ..RouterLimits::default() };
        let mut router = Router::new(0, 4, 1, limits);
        let mut model = Model::default();
        for step in steps {
            model.apply(&mut router, step);
            names.iter().for_each(|name| model.check(&mut router, name));
        }
        prop_assert_eq!(router.subscription_count(), model.subscriptions.len());
        // Everything ends, and nothing is left behind.
        while !model.subscriptions.is_empty() {
            let by_handle = model.subscriptions.len() % 2 == 0;
            model.unsubscribe(&mut router, 0, by_handle);
        }
        for (shard, filter) in std::mem::take(&mut model.interest) {
            router.remove_interest(shard, &filter);
        }
        for ((filter, shard), _) in std::mem::take(&mut model.remote_groups) {
            model.apply(&mut router, Step::Group(shard, filter, 0));
        }
        prop_assert_eq!((router.node_count(), router.group_count()), (0, 0));
        prop_assert_eq!(router.foreign.len(), 0);
        names.iter().for_each(|name| model.check(&mut router, name));
    }
}
