mod cache;
mod groups;
mod interest;
mod matching;
mod memory;
mod retained;

use proptest::prelude::*;
// Not ours of the same name.
use proptest::strategy::Strategy;

use super::Strategy as Pick;
use super::*;
use crate::mqtt::topic::Filter;

fn router() -> Router {
    Router::new(0, 4, 1, RouterLimits::default())
}

fn plain(filter: &str) -> Filter<'_> {
    Filter { share: None, filter }
}

fn shared<'a>(share: &'a str, filter: &'a str) -> Filter<'a> {
    Filter { share: Some(share), filter }
}

fn options(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions { qos, ..SubscriptionOptions::default() }
}

fn sessions(router: &mut Router, topic: &str) -> Vec<SessionKey> {
    let id = router.route(topic);
    router.get(id).targets.iter().map(|target| target.session).collect()
}

/// Levels few enough that filters and topics meet.
fn level() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec!["a", "b", "", "$x", "a-1", "a level of many bytes"])
}

fn topic_name() -> impl Strategy<Value = String> {
    prop::collection::vec(level(), 1..5)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("not empty", |topic| !topic.is_empty())
}

fn topic_filter() -> impl Strategy<Value = String> {
    let level = prop_oneof![3 => level(), 1 => Just("+")];
    (prop::collection::vec(level, 0..5), prop::bool::weighted(0.3))
        .prop_map(|(mut levels, hash)| {
            levels.extend(hash.then_some("#"));
            levels.join("/")
        })
        .prop_filter("not empty", |filter| !filter.is_empty())
}

#[test]
fn a_router_moves_to_its_shards_thread() {
    fn is_send<T: Send>() {}
    is_send::<Router>();
    assert!(size_of::<RouteId>() == 8 && size_of::<SubscriptionHandle>() == 4);
}
