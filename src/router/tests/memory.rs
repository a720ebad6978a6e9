use super::*;

const MILLION: u32 = 1_000_000;

/// Bytes a subscription with the handle its session keeps, over a million of them.
fn bytes_each(filter: impl Fn(u32) -> String, share: Option<&str>) -> usize {
    let mut router = Router::new(0, 1, 1, RouterLimits::default());
    for n in 0..MILLION {
        let filter = filter(n);
        let subscribed =
            router.subscribe(n, &Filter { share, filter: &filter }, options(QoS::AtMostOnce));
        assert!(!subscribed.existed);
    }
    assert_eq!(router.subscription_count(), MILLION as usize);
    router.subscription_bytes() / MILLION as usize + size_of::<SubscriptionHandle>()
}

#[test]
fn a_million_subscriptions_take_at_most_200_bytes_each() {
    let common = bytes_each(|n| format!("site{}/device{n}/state", n % 1000), None);
    let distinct = bytes_each(|n| format!("a{n}/b{n}/c{n}"), None);
    let wild = bytes_each(|n| format!("site{}/device{n}/#", n % 1000), None);
    let one_filter = bytes_each(|_| "one/for/all".to_owned(), None);
    println!(
        "{common} shared first level, {distinct} nothing shared, {wild} `#`, {one_filter} one filter"
    );
    assert!(common <= 200 && distinct <= 200 && wild <= 200 && one_filter <= 200);
}

#[test]
fn a_million_shared_subscriptions_take_at_most_200_bytes_each() {
    let each = bytes_each(|n| format!("site{}/device/{n}", n % 1000), Some("group"));
    let members = bytes_each(|_| "jobs".to_owned(), Some("group"));
    println!("{each} a group of one each, {members} one group");
    assert!(each <= 200 && members <= 200);
}
