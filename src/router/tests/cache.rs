use super::*;

fn small(entries: usize, bytes: usize) -> Router {
    let limits = RouterLimits {
        route_cache_entries: entries,
        route_cache_bytes: bytes,
        ..RouterLimits::default()
    };
    Router::new(0, 2, 1, limits)
}

#[test]
fn recall_knows_only_the_very_topic_and_only_while_nothing_changed() {
    let mut router = router();
    assert!(!router.recall(RouteId::NONE, b""));
    let id = router.route("a/b/c");
    assert!(router.recall(id, b"a/b/c"));
    assert!(!router.recall(id, b"a/b/d") && !router.recall(id, b"a/b"));
    assert_eq!(router.route("a/b/c"), id);
    router.subscribe(1, &plain("a/b/c"), options(QoS::AtMostOnce));
    assert!(!router.recall(id, b"a/b/c"));
    let new = router.route("a/b/c");
    assert!(new != id && !router.recall(id, b"a/b/c"));
    assert!(router.get(id).is_empty());
    assert_eq!(router.get(new).targets.len(), 1);
}

#[test]
fn a_change_invalidates_only_what_it_may_touch() {
    let mut router = router();
    let mut still_there = |filter: &str, unsubscribe: bool| {
        let topics = ["a", "a/b", "a/b/c", "d/e"];
        let ids = topics.map(|topic| router.route(topic));
        if unsubscribe {
            router.unsubscribe(1, &plain(filter)).unwrap();
        } else {
            router.subscribe(1, &plain(filter), options(QoS::AtMostOnce));
        }
        let mut index = 0;
        topics.map(|topic| {
            index += 1;
            router.recall(ids[index - 1], topic.as_bytes())
        })
    };
    for unsubscribe in [false, true] {
        assert_eq!(still_there("a/b", unsubscribe), [true, false, true, true]);
        assert_eq!(still_there("a/b/#", unsubscribe), [true, false, false, true]);
        assert_eq!(still_there("a/b/+", unsubscribe), [true, false, false, true]);
        assert_eq!(still_there("a/#", unsubscribe), [false; 4]);
        assert_eq!(still_there("+/b", unsubscribe), [false; 4]);
    }
    // The same subscription once more changes nothing.
    router.subscribe(1, &plain("#"), options(QoS::AtMostOnce));
    let id = router.route("a");
    router.subscribe(1, &plain("#"), options(QoS::AtMostOnce));
    assert!(router.recall(id, b"a"));
    router.subscribe(1, &plain("#"), options(QoS::AtLeastOnce));
    assert!(!router.recall(id, b"a"));
}

#[test]
fn endless_topics_neither_grow_it_nor_drive_out_what_is_used() {
    let mut router = small(1000, 1 << 20);
    let hot: Vec<String> = (0..100).map(|n| format!("hot/{n}")).collect();
    let mut ids: Vec<RouteId> = hot.iter().map(|topic| router.route(topic)).collect();
    let mut computed = 0;
    for n in 0..50_000 {
        router.route(&format!("endless/{n}"));
        let at = n % hot.len();
        if !router.recall(ids[at], hot[at].as_bytes()) {
            computed += 1;
            ids[at] = router.route(&hot[at]);
        }
    }
    assert_eq!(router.cached_route_count(), 1000);
    assert!(computed <= 100, "{computed} hot routes computed anew");
    assert!(router.route_cache_bytes() < 1 << 20);
}

#[test]
fn large_routes_are_bounded_in_bytes() {
    let mut router = small(100_000, 1 << 20);
    let long = "x".repeat(4000);
    for n in 0..10_000 {
        router.route(&format!("{n}/{long}"));
    }
    assert!(router.route_cache_bytes() < (3 << 20) / 2);
    for session in 0..10_000 {
        router.subscribe(session, &plain("#"), options(QoS::AtMostOnce));
    }
    for n in 0..200 {
        let id = router.route(&format!("wide/{n}"));
        assert_eq!(router.get(id).targets.len(), 10_000);
    }
    assert!(router.route_cache_bytes() < (3 << 20) / 2);
    // One that is too large for the whole cache serves all the same.
    for session in 0..100_000 {
        router.subscribe(session, &plain("#"), options(QoS::AtMostOnce));
    }
    let id = router.route("too/wide");
    assert_eq!(router.get(id).targets.len(), 100_000);
    assert_eq!(router.cached_route_count(), 1);
}
