use std::collections::BTreeSet;

use super::*;
use crate::mqtt::topic;

/// The shards that want a topic, by plain matching.
fn wanting(interest: &BTreeSet<(u8, String)>, name: &str) -> u64 {
    let matching = interest.iter().filter(|(_, filter)| topic::matches(filter, name));
    matching.fold(0, |shards, (shard, _)| shards | 1 << shard)
}

fn remote(router: &mut Router, topic: &str) -> u64 {
    let id = router.route(topic);
    router.get(id).remote
}

/// Filters of more shapes than are kept apart.
fn many_shapes() -> impl Strategy<Value = String> {
    let level = prop_oneof![2 => level(), 2 => Just("+")];
    (prop::collection::vec(level, 1..8), prop::bool::weighted(0.5)).prop_map(
        |(mut levels, hash)| {
            levels.extend(hash.then_some("#"));
            levels.join("/")
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Shards tell and withdraw filters in any order, whatever shape has a place at the time.
    #[test]
    fn shards_get_what_they_want_and_nothing_else(
        filters in prop::collection::vec(many_shapes(), 150),
        toggles in prop::collection::vec((1..64u8, 0..150usize), 1..400),
        names in prop::collection::vec(topic_name(), 1..8),
    ) {
        let mut router = Router::new(0, 64, 1, RouterLimits::default());
        let mut interest = BTreeSet::new();
        for (step, (shard, filter)) in toggles.into_iter().enumerate() {
            // A few shards only: they shall meet in the same filters.
            let one = (if step % 8 == 0 { shard } else { 1 + shard % 3 }, filters[filter].clone());
            if one.1.is_empty() {
                continue;
            }
            if interest.remove(&one) {
                router.remove_interest(one.0, &one.1);
            } else {
                router.add_interest(one.0, &one.1);
                interest.insert(one);
            }
            let name = &names[step % names.len()];
            prop_assert_eq!(remote(&mut router, name), wanting(&interest, name), "{}", name);
        }
        for name in &names {
            prop_assert_eq!(remote(&mut router, name), wanting(&interest, name), "{}", name);
        }
        for (shard, filter) in interest {
            router.remove_interest(shard, &filter);
        }
        prop_assert_eq!((router.node_count(), router.foreign.len()), (0, 0));
        names.iter().for_each(|name| assert_eq!(remote(&mut router, name), 0));
    }
}

#[test]
fn a_filter_of_one_shape_too_many_is_wanted_all_the_same() {
    let mut router = Router::new(0, 3, 1, RouterLimits::default());
    let filters: Vec<String> = (0..128u32)
        .map(|plus| {
            let level = |depth: u32| if plus >> depth & 1 != 0 { "+" } else { "a" };
            (0..7).map(level).collect::<Vec<_>>().join("/")
        })
        .collect();
    filters.iter().for_each(|filter| router.add_interest(1, filter));
    assert!(router.node_count() > 0, "some are with the trie");
    router.add_interest(2, &filters[127]);
    // The others go, so that there would be a place for it now.
    filters[..127].iter().for_each(|filter| router.remove_interest(1, filter));
    assert_eq!(remote(&mut router, "x/x/x/x/x/x/x"), 0b110);
    router.remove_interest(1, &filters[127]);
    assert_eq!(remote(&mut router, "x/x/x/x/x/x/x"), 0b100);
    router.add_interest(1, &filters[127]);
    router.remove_interest(2, &filters[127]);
    assert_eq!(remote(&mut router, "x/x/x/x/x/x/x"), 0b010);
    router.remove_interest(1, &filters[127]);
    assert_eq!((router.node_count(), router.foreign.len()), (0, 0));
}
