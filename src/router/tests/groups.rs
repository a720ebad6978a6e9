use std::collections::{BTreeMap, BTreeSet};

use super::*;

const NOBODY: Publisher<'static> = Publisher { client: 0, topic: "" };

fn group_of(strategy: Pick, members: u32) -> (Router, GroupId, Vec<SubscriptionHandle>) {
    let limits = RouterLimits { strategy, ..RouterLimits::default() };
    let mut router = Router::new(0, 4, 7, limits);
    let handles = (0..members)
        .map(|one| router.subscribe(one, &shared("g", "a/+"), options(QoS::AtLeastOnce)).handle)
        .collect();
    let id = router.group("g", "a/+").unwrap();
    (router, id, handles)
}

fn choose(router: &mut Router, group: GroupId, times: usize) -> Vec<SessionKey> {
    (0..times)
        .filter_map(|_| router.choose_member(group, &NOBODY, |_| 0))
        .map(|one| one.0)
        .collect()
}

#[test]
fn each_in_turn() {
    let (mut router, group, handles) = group_of(Pick::RoundRobin, 3);
    assert_eq!(choose(&mut router, group, 7), [0, 1, 2, 0, 1, 2, 0]);
    router.member_online(1, handles[1], false);
    assert_eq!(choose(&mut router, group, 4).iter().collect::<BTreeSet<_>>().len(), 2);
    // Nobody connected: the messages wait for members in turn.
    router.member_online(0, handles[0], false);
    router.member_online(2, handles[2], false);
    let count = router.next_group_news().unwrap();
    assert_eq!((count.online, count.members), (0, 3));
    router.member_online(2, handles[2], false);
    assert!(!router.has_group_news());
    assert_eq!(choose(&mut router, group, 3).iter().collect::<BTreeSet<_>>().len(), 3);
    router.member_online(1, handles[1], true);
    assert_eq!(choose(&mut router, group, 2), [1, 1]);
}

#[test]
fn whoever_cannot_take_it_is_passed_over() {
    use super::Pick::*;
    for strategy in [RoundRobin, Random, LeastInFlight, Sticky, ClientId, Topic] {
        let (mut router, group, handles) = group_of(strategy, 4);
        router.member_online(3, handles[3], false);
        let full = |free: &'static [u32]| {
            move |session| if free.contains(&session) { 5 } else { usize::MAX }
        };
        for _ in 0..10 {
            let chosen = router.choose_member(group, &NOBODY, full(&[1, 3])).unwrap();
            assert_eq!((chosen.0, chosen.1.qos), (1, QoS::AtLeastOnce), "{strategy:?}");
            let chosen = router.choose_member(group, &NOBODY, full(&[3])).unwrap();
            assert_eq!(chosen.0, 3, "{strategy:?}");
            assert_eq!(router.choose_member(group, &NOBODY, full(&[])), None);
        }
    }
}

#[test]
fn at_random_everybody_gets_a_share() {
    let (mut router, group, _) = group_of(Pick::Random, 5);
    let mut counts = BTreeMap::new();
    for one in choose(&mut router, group, 5000) {
        *counts.entry(one).or_insert(0) += 1;
    }
    assert!(counts.len() == 5 && counts.values().all(|&n| (800..1200).contains(&n)), "{counts:?}");
}

#[test]
fn the_fewest_in_flight() {
    let (mut router, group, _) = group_of(Pick::LeastInFlight, 3);
    let load = [4, 2, 9];
    let chosen = router.choose_member(group, &NOBODY, |one| load[one as usize]).unwrap();
    assert_eq!(chosen.0, 1);
    // Where all are equal, each in turn.
    assert_eq!(choose(&mut router, group, 3).iter().collect::<BTreeSet<_>>().len(), 3);
}

#[test]
fn sticky_keeps_to_one_until_it_goes() {
    let (mut router, group, handles) = group_of(Pick::Sticky, 3);
    let first = choose(&mut router, group, 10);
    assert!(first.iter().all(|&one| one == first[0]));
    router.member_online(first[0], handles[first[0] as usize], false);
    let second = choose(&mut router, group, 10);
    assert!(second.iter().all(|&one| one == second[0]) && second[0] != first[0]);
    // That the first is back does not matter now.
    router.member_online(first[0], handles[first[0] as usize], true);
    assert_eq!(choose(&mut router, group, 10), second);
    router.unsubscribe(second[0], &shared("g", "a/+")).unwrap();
    let third = choose(&mut router, group, 10);
    assert!(third.iter().all(|&one| one == third[0]) && third[0] != second[0]);
}

#[test]
fn by_client_id_and_by_topic() {
    for strategy in [Pick::ClientId, Pick::Topic] {
        let (mut router, group, _) = group_of(strategy, 4);
        let mut chosen = BTreeMap::new();
        for n in 0..400u32 {
            let (client, topic) = match strategy {
                Pick::ClientId => (n % 100, n),
                _ => (n, n % 100),
            };
            let (client, topic) = (client.into(), &*topic.to_string());
            let publisher = Publisher { client, topic };
            let (member, _) = router.choose_member(group, &publisher, |_| 0).unwrap();
            assert_eq!(*chosen.entry(n % 100).or_insert(member), member);
        }
        assert_eq!(chosen.values().collect::<BTreeSet<_>>().len(), 4);
    }
}

fn count(online: u32, members: u32) -> GroupCount {
    let (share, filter) = ("g".to_owned(), "a/+".to_owned());
    GroupCount { share, filter, id: GroupId::NONE, online, members, since: 0, load: None }
}

#[test]
fn shards_by_their_connected_members() {
    let (mut router, group, handles) = group_of(Pick::RoundRobin, 1);
    let id = router.route("a/x");
    assert_eq!(router.get(id).groups[..], [group]);
    router.set_group_online(1, &count(2, 5));
    router.set_group_online(2, &count(0, 9));
    let shards = |router: &mut Router| {
        let mut counts = [0; 4];
        for _ in 0..90 {
            counts[usize::from(router.choose_shard(group, &NOBODY).unwrap().shard)] += 1;
        }
        counts
    };
    assert_eq!(shards(&mut router), [30, 60, 0, 0]);
    router.member_online(0, handles[0], false);
    assert_eq!(shards(&mut router), [0, 90, 0, 0]);
    router.set_group_online(1, &count(0, 5));
    assert_eq!(shards(&mut router), [6, 30, 54, 0]);
    router.set_group_online(1, &count(0, 0));
    router.set_group_online(2, &count(0, 0));
    assert_eq!(shards(&mut router), [90, 0, 0, 0]);
    let ended = router.unsubscribe_handle(0, handles[0]).unwrap().group.unwrap();
    assert_eq!((ended.members, ended.filter.as_str()), (0, "a/+"));
    assert_eq!(router.choose_shard(group, &NOBODY), None);
    assert_eq!(router.choose_member(group, &NOBODY, |_| 0), None);
    assert_eq!((router.group_count(), router.node_count()), (0, 0));
}

/// Shards that have told each other how many members of the group they have.
fn shards_with(strategy: Pick, members: &[u32]) -> Vec<Router> {
    let limits = RouterLimits { strategy, ..RouterLimits::default() };
    let shards = members.len() as u8;
    let mut routers: Vec<Router> =
        (0..shards).map(|shard| Router::new(shard, shards, shard.into(), limits)).collect();
    for shard in 0..routers.len() {
        let told = (0..members[shard]).filter_map(|session| {
            let options = options(QoS::AtLeastOnce);
            routers[shard].subscribe(session, &shared("g", "a/+"), options).group
        });
        let told = told.last();
        tell(&mut routers, shard, told);
    }
    routers
}

fn tell(routers: &mut [Router], shard: usize, count: Option<GroupCount>) {
    let Some(count) = count else { return };
    for (_, router) in routers.iter_mut().enumerate().filter(|(other, _)| *other != shard) {
        router.set_group_online(shard as u8, &count);
    }
}

fn chosen_shard(router: &mut Router, publisher: &Publisher<'_>) -> u8 {
    let group = router.group("g", "a/+").unwrap();
    router.choose_shard(group, publisher).unwrap().shard
}

#[test]
fn all_shards_choose_the_same_shard_for_one_key() {
    use super::Pick::*;
    for strategy in [Sticky, ClientId, Topic] {
        let mut routers = shards_with(strategy, &[3, 1, 4, 2]);
        for n in 0..50u32 {
            let publisher = Publisher { client: n.into(), topic: &n.to_string() };
            let chosen: BTreeSet<u8> =
                routers.iter_mut().map(|router| chosen_shard(router, &publisher)).collect();
            assert_eq!(chosen.len(), 1, "{strategy:?}");
        }
    }
}

#[test]
fn sticky_keeps_to_the_shard_that_was_first() {
    let mut routers = shards_with(Pick::Sticky, &[0, 0, 0]);
    let filter = shared("g", "a/+");
    let chosen = |routers: &mut [Router]| -> Vec<u8> {
        routers.iter_mut().map(|router| chosen_shard(router, &NOBODY)).collect()
    };
    // Shards 1 and 2 have members, and do not know of each other: the lower number is first.
    let told = [1, 2].map(|shard: usize| {
        let joined = routers[shard].subscribe(0, &filter, options(QoS::AtMostOnce));
        (shard, joined.group)
    });
    for (shard, count) in told.into_iter().rev() {
        tell(&mut routers, shard, count);
    }
    assert_eq!(chosen(&mut routers), [1, 1, 1]);
    let joined = routers[0].subscribe(0, &filter, options(QoS::AtMostOnce)).group;
    tell(&mut routers, 0, joined);
    assert_eq!(chosen(&mut routers), [1, 1, 1]);
    // Of those who stay shard 2 was first. Who leaves in favour of another here is last.
    routers[1].subscribe(9, &filter, options(QoS::AtMostOnce));
    let left = routers[1].unsubscribe(0, &filter).unwrap().group;
    tell(&mut routers, 1, left);
    assert_eq!(chosen(&mut routers), [2, 2, 2]);
    let left = routers[2].unsubscribe(0, &filter).unwrap().group;
    tell(&mut routers, 2, left);
    assert_eq!(chosen(&mut routers), [0, 0, 0]);
}

/// A message for the group, from a shard, to the shard it chooses.
fn route(routers: &mut [Router], from: usize) -> usize {
    let group = routers[from].group("g", "a/+").unwrap();
    let choice = routers[from].choose_shard(group, &NOBODY).unwrap();
    routers[from].routed_to(group, choice.shard);
    choice.shard.into()
}

#[test]
fn the_shard_with_the_least_busy_members() {
    let mut routers = shards_with(Pick::LeastInFlight, &[1, 2, 1]);
    let load = [vec![4], vec![5, 2], vec![3]];
    let measure = |routers: &mut [Router], load: &[Vec<usize>]| {
        for (router, load) in routers.iter_mut().zip(load) {
            router.measure_loads(|session| load[session as usize]);
        }
    };
    measure(&mut routers, &load);
    // What is on the way counts, whoever sent it.
    let mut routed = [0; 3];
    for from in [0, 1, 2, 0, 1, 2] {
        let shard = route(&mut routers, from);
        routed[shard] += 1;
        if shard != from {
            let group = routers[shard].group("g", "a/+").unwrap();
            routers[shard].arrived(group);
        }
    }
    assert_eq!(routed, [1, 3, 2], "to members with 4, 2, 3");
    // It was measured with the rest, and acknowledged.
    measure(&mut routers, &[vec![4], vec![5, 5], vec![0]]);
    assert!((0..4).all(|n| route(&mut routers, n % 3) == 2));
    // Who can take nothing is the last.
    measure(&mut routers, &[vec![usize::MAX], vec![100, 200], vec![usize::MAX]]);
    assert!((0..9).all(|n| route(&mut routers, n % 3) == 1));
}

#[test]
fn loads_are_measured_in_steps_while_there_are_any() {
    let limits = RouterLimits { strategy: Pick::LeastInFlight, ..RouterLimits::default() };
    let mut router = Router::new(0, 2, 1, limits);
    for session in 0..3000 {
        let filter = format!("t/{session}");
        router.subscribe(session, &shared("g", &filter), options(QoS::AtLeastOnce));
    }
    let measured = |router: &mut Router, load: usize| {
        let count = std::cell::Cell::new(0);
        router.measure_loads(|_| {
            count.set(count.get() + 1);
            load
        });
        count.get()
    };
    // Whoever has something is looked at again.
    assert_eq!([1, 1, 1, 1].map(|load| measured(&mut router, load)), [1024; 4]);
    assert_eq!([0, 0, 0, 0].map(|load| measured(&mut router, load)), [1024, 1024, 952, 0]);
    assert!(!router.has_loads());
    // One shard alone has nobody to show it to.
    let mut router = Router::new(0, 1, 1, limits);
    router.subscribe(0, &shared("g", "t"), options(QoS::AtLeastOnce));
    assert!(!router.has_loads());
}

#[test]
fn an_id_of_a_group_that_went_names_no_other() {
    let (mut router, old, _) = group_of(Pick::RoundRobin, 1);
    router.subscribe(9, &shared("other", "b"), options(QoS::AtMostOnce));
    router.unsubscribe(0, &shared("g", "a/+")).unwrap();
    router.subscribe(1, &shared("h", "c"), options(QoS::AtMostOnce));
    assert_ne!(router.group("h", "c"), Some(old));
    assert_eq!(router.choose_member(old, &NOBODY, |_| 0), None);
}

proptest! {
    #[test]
    fn only_members_are_chosen_and_connected_ones_first(
        steps in prop::collection::vec((0..3u8, 0..40u32), 1..200),
        strategy in prop::sample::select(vec![
            Pick::RoundRobin, Pick::Random, Pick::LeastInFlight,
            Pick::Sticky, Pick::ClientId, Pick::Topic,
        ]),
    ) {
        let limits = RouterLimits { strategy, ..RouterLimits::default() };
        let mut router = Router::new(0, 1, 3, limits);
        let mut model: BTreeMap<u32, (SubscriptionHandle, bool)> = BTreeMap::new();
        let filter = shared("g", "x");
        for (step, session) in steps {
            match (step, model.get_mut(&session)) {
                (0, _) => {
                    let done = router.subscribe(session, &filter, options(QoS::AtMostOnce));
                    prop_assert_eq!(done.existed, model.contains_key(&session));
                    let online = model.get(&session).is_none_or(|one| one.1);
                    model.insert(session, (done.handle, online));
                }
                (1, Some((handle, online))) => {
                    *online = !*online;
                    router.member_online(session, *handle, *online);
                }
                (2, Some(_)) => {
                    prop_assert!(router.unsubscribe(session, &filter).is_some());
                    model.remove(&session);
                }
                _ => prop_assert_eq!(router.unsubscribe(99, &filter), None),
            }
            let group = router.group("g", "x");
            prop_assert_eq!(group.is_some(), !model.is_empty());
            let Some(group) = group else { continue };
            let any_online = model.values().any(|one| one.1);
            for _ in 0..3 {
                let (chosen, _) = router.choose_member(group, &NOBODY, |_| 0).unwrap();
                prop_assert_eq!(model.get(&chosen).map(|one| one.1), Some(any_online));
            }
            prop_assert_eq!(router.choose_shard(group, &NOBODY).unwrap().online, any_online);
        }
    }
}
