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
