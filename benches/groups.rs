//! Choosing the shard that serves a message of a shared group.

#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use sluice::mqtt::topic::Filter;
use sluice::router::{
    GroupCount, GroupId, GroupLoad, Publisher, Router, RouterLimits, Strategy, SubscriptionOptions,
};

/// A group with two members on each of so many shards.
fn group(strategy: Strategy, shards: u8) -> (Router, GroupId) {
    let limits = RouterLimits { strategy, ..RouterLimits::default() };
    let mut router = Router::new(0, shards, 1, limits);
    let (share, filter) = ("group".to_owned(), "jobs/+".to_owned());
    for session in 0..2 {
        let both = Filter { share: Some(&share), filter: &filter };
        router.subscribe(session, &both, SubscriptionOptions::default());
    }
    for shard in 1..shards {
        let count = GroupCount {
            share: share.clone(),
            filter: filter.clone(),
            id: GroupId::NONE,
            online: 2,
            members: 2,
            since: shard.into(),
            load: (strategy == Strategy::LeastInFlight).then(GroupLoad::default),
        };
        router.set_group_online(shard, &count);
    }
    let group = router.group("group", "jobs/+").expect("it has members");
    (router, group)
}

fn shards(c: &mut Criterion) {
    use Strategy::{ClientId, LeastInFlight, Random, RoundRobin, Sticky};
    for shards in [2, 4, 8, 16, 63] {
        for strategy in [RoundRobin, Random, LeastInFlight, Sticky, ClientId] {
            let (mut router, group) = group(strategy, shards);
            c.bench_function(&format!("groups/{strategy:?}_of_{shards}_shards"), |b| {
                b.iter(|| router.choose_shard(black_box(group), &Publisher::default()));
            });
        }
    }
}

criterion_group!(benches, shards);
criterion_main!(benches);
