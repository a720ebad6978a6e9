use super::*;

/// An eighth of a million: tables grow by doubling, so they are as full as with a million.
const MANY: u32 = 125_000;

/// Bytes a subscription with the handle its session keeps, over many of them.
fn bytes_each(filter: impl Fn(u32) -> String, share: Option<&str>) -> usize {
    let mut router = Router::new(0, 1, 1, RouterLimits::default());
    for n in 0..MANY {
        let filter = filter(n);
        let subscribed =
            router.subscribe(n, &Filter { share, filter: &filter }, options(QoS::AtMostOnce));
        assert!(!subscribed.existed);
    }
    assert_eq!(router.subscription_count(), MANY as usize);
    router.subscription_bytes() / MANY as usize + size_of::<SubscriptionHandle>()
}

/// Bytes a subscription takes on all shards together, when each has its part of them.
fn bytes_each_on(shards: u8, filter: impl Fn(u32) -> String) -> usize {
    let mut router = Router::new(0, shards, 1, RouterLimits::default());
    for n in 0..MANY {
        let filter = filter(n);
        match (n % u32::from(shards)) as u8 {
            0 => drop(router.subscribe(n, &plain(&filter), options(QoS::AtMostOnce))),
            other => router.add_interest(other, &filter),
        }
    }
    let all = router.subscription_bytes() * usize::from(shards);
    all / MANY as usize + size_of::<SubscriptionHandle>()
}

#[test]
fn a_subscription_takes_at_most_200_bytes_with_all_shards_that_know_it() {
    for shards in [1, 2, 4] {
        let common = bytes_each_on(shards, |n| format!("site{}/device{n}/state", n % 1000));
        let distinct = bytes_each_on(shards, |n| format!("a{n}/b{n}/c{n}"));
        println!("{shards} shards: {common} shared first level, {distinct} nothing shared");
        assert!(common <= 200 && distinct <= 200);
    }
    let wild = bytes_each_on(4, |n| format!("site{}/device{n}/#", n % 1000));
    println!("4 shards: {wild} `#`");
    assert!(wild <= 200);
}

#[test]
fn a_filter_that_everybody_wants_takes_little() {
    let one_filter = bytes_each(|_| "one/for/all".to_owned(), None);
    println!("{one_filter} bytes each");
    assert!(one_filter <= 50);
}

#[test]
fn a_shared_subscription_takes_at_most_200_bytes() {
    let each = bytes_each(|n| format!("site{}/device/{n}", n % 1000), Some("group"));
    let members = bytes_each(|_| "jobs".to_owned(), Some("group"));
    println!("{each} a group of one each, {members} one group");
    assert!(each <= 200 && members <= 200);
}

/// What is counted is near what is taken, and never more than was said before it was added.
#[test]
fn what_subscriptions_take_is_counted() {
    let deep = "/level".repeat(40);
    let long = "x".repeat(200);
    let filters: [(&str, &dyn Fn(u32) -> String); 4] = [
        ("common", &|n| format!("site{}/device{n}/state", n % 1000)),
        ("one filter", &|_| "one/for/all".to_owned()),
        ("deep", &|n| format!("{n}{deep}")),
        ("long", &|n| format!("{n}{long}")),
    ];
    for (name, filter) in filters {
        let shared = [Pick::RoundRobin, Pick::Sticky, Pick::LeastInFlight];
        let shared = shared.map(|strategy| (Some("group"), strategy));
        for (share, strategy) in [(None, Pick::RoundRobin)].into_iter().chain(shared) {
            let limits = RouterLimits { strategy, ..RouterLimits::default() };
            let mut router = Router::new(0, 2, 1, limits);
            let mut subscribed = Vec::new();
            for n in 0..20_000 {
                let (before, text) = (router.counted_subscription_bytes(), filter(n));
                let filter = Filter { share, filter: &text };
                let most = router.most_subscription_bytes(&filter);
                subscribed.push(router.subscribe(n, &filter, options(QoS::AtMostOnce)).handle);
                let added = router.counted_subscription_bytes() - before;
                assert!(added <= most, "{name}: {added}");
            }
            let (counted, taken) =
                (router.counted_subscription_bytes(), router.subscription_bytes());
            assert!((taken / 2..2 * taken).contains(&counted), "{name}: {counted} of {taken}");
            for (session, handle) in (0..).zip(subscribed) {
                router.unsubscribe_handle(session, handle);
            }
            assert_eq!(router.counted_subscription_bytes(), 0);
        }
    }
}

/// What a strategy keeps of each group counts as well.
#[test]
fn what_strategies_keep_is_counted() {
    let counted = |strategy: Pick| {
        let limits = RouterLimits { strategy, ..RouterLimits::default() };
        let mut router = Router::new(0, 2, 1, limits);
        for n in 0..1000 {
            let filter = format!("t/{n}");
            router.subscribe(n, &shared("group", &filter), options(QoS::AtMostOnce));
        }
        (router.counted_subscription_bytes(), router.subscription_bytes())
    };
    let (least, taken) = counted(Pick::RoundRobin);
    for strategy in [Pick::Sticky, Pick::LeastInFlight] {
        let (more, more_taken) = counted(strategy);
        assert!(more_taken > taken, "{strategy:?}");
        // Lists grow in steps.
        let (more, more_taken) = (more - least, more_taken - taken);
        assert!(
            (more_taken / 2..=more_taken).contains(&more),
            "{strategy:?}: {more} of {more_taken}"
        );
    }
}
