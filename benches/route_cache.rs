//! The route cache: a publisher that repeats its topic, many topics, endless topics; and the choice
//! in a shared group.

#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use sluice::mqtt::topic::Filter;
use sluice::router::{Publisher, Router, RouterLimits, Strategy, SubscriptionOptions};

fn router(further: u32) -> Router {
    let mut router = Router::new(0, 1, 1, RouterLimits::default());
    for n in 0..1000 + further {
        let filter = format!("site{}/device{n}/state", n % 100);
        let filter = Filter { share: None, filter: &filter };
        router.subscribe(n, &filter, SubscriptionOptions::default());
    }
    router
}

fn topics(count: u32) -> Vec<String> {
    (0..count).map(|n| format!("site{}/device{n}/state", n % 100)).collect()
}

fn route_cache(c: &mut Criterion) {
    let topics = topics(1000);
    for further in [0, 1_000_000] {
        let mut router = router(further);
        let ids: Vec<_> = topics[..50].iter().map(|topic| router.route(topic)).collect();
        let mut n = 0;
        c.bench_function(&format!("route_cache/recall_50_publishers_{further}_further"), |b| {
            b.iter(|| {
                n = (n + 1) % ids.len();
                let known = router.recall(ids[n], black_box(topics[n].as_bytes()));
                assert!(known);
                black_box(router.get(ids[n]).targets.len());
            });
        });
        c.bench_function(&format!("route_cache/hit_1000_topics_{further}_further"), |b| {
            b.iter(|| {
                n = (n + 1) % topics.len();
                black_box(router.route(black_box(&topics[n])));
            });
        });
    }

    let mut router = router(0);
    let endless: Vec<String> = (0..200_000).map(|n| format!("endless/{n}/topic")).collect();
    let mut n = 0;
    c.bench_function("route_cache/endless_topics", |b| {
        b.iter(|| {
            n = (n + 1) % endless.len();
            black_box(router.route(&endless[n]));
        });
    });
}

fn groups(c: &mut Criterion) {
    let publisher = Publisher::default();
    for strategy in [Strategy::RoundRobin, Strategy::LeastInFlight] {
        let limits = RouterLimits { strategy, ..RouterLimits::default() };
        let mut router = Router::new(0, 1, 1, limits);
        for n in 0..16 {
            let filter = Filter { share: Some("g"), filter: "jobs" };
            router.subscribe(n, &filter, SubscriptionOptions::default());
        }
        let group = router.group("g", "jobs").expect("just made");
        c.bench_function(&format!("groups/choose_of_16_{strategy:?}"), |b| {
            b.iter(|| {
                router.choose_shard(group, &publisher);
                black_box(router.choose_member(group, &publisher, |session| session as usize % 3))
            });
        });
    }
}

criterion_group!(benches, route_cache, groups);
criterion_main!(benches);
