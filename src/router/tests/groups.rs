use std::collections::{BTreeMap, BTreeSet};

use super::*;

const NOBODY: Publisher = Publisher { client_id_hash: 0, topic_hash: 0 };

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
            let key = stable_hash(&(n % 100).to_le_bytes());
            let other = stable_hash(&n.to_be_bytes());
            let by_client = strategy == Pick::ClientId;
            let publisher = Publisher {
                client_id_hash: if by_client { key } else { other },
                topic_hash: if by_client { other } else { key },
            };
            let (member, _) = router.choose_member(group, &publisher, |_| 0).unwrap();
            assert_eq!(*chosen.entry(n % 100).or_insert(member), member);
        }
        assert_eq!(chosen.values().collect::<BTreeSet<_>>().len(), 4);
    }
}

fn count(online: u32, members: u32) -> GroupCount {
    let (share, filter) = ("g".to_owned(), "a/+".to_owned());
    GroupCount { share, filter, id: GroupId::NONE, online, members }
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

#[test]
fn all_shards_choose_the_same_shard_for_one_key() {
    use super::Pick::*;
    for strategy in [Sticky, ClientId, Topic] {
        let members = [3, 1, 4, 2];
        let limits = RouterLimits { strategy, ..RouterLimits::default() };
        let mut routers: Vec<Router> =
            (0..4).map(|shard| Router::new(shard, 4, shard.into(), limits)).collect();
        for (shard, router) in routers.iter_mut().enumerate() {
            for session in 0..members[shard] {
                router.subscribe(session, &shared("g", "a/+"), options(QoS::AtMostOnce));
            }
            for other in (0..4).filter(|&other| other != shard) {
                router.set_group_online(other as u8, &count(members[other], members[other]));
            }
        }
        for n in 0..50u32 {
            let key = stable_hash(&n.to_le_bytes());
            let publisher = Publisher { client_id_hash: key, topic_hash: key };
            let chosen: BTreeSet<u8> = routers
                .iter_mut()
                .map(|router| {
                    let group = router.group("g", "a/+").unwrap();
                    router.choose_shard(group, &publisher).unwrap().shard
                })
                .collect();
            assert_eq!(chosen.len(), 1, "{strategy:?}");
        }
    }
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
