//! Computing a route, with few and with a million other subscriptions, here or on another shard, and
//! changing subscriptions.

#![allow(missing_docs)]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use sluice::mqtt::topic::Filter;
use sluice::router::{Router, RouterLimits, SubscriptionOptions};

fn plain(filter: &str) -> Filter<'_> {
    Filter { share: None, filter }
}

/// The receivers of the topics `t/0` to `t/63`, and `further` others.
fn router(further: u32) -> Router {
    // One entry: every topic is a miss.
    let limits = RouterLimits { route_cache_entries: 1, ..RouterLimits::default() };
    let mut router = Router::new(0, 1, 1, limits);
    for n in 0..64 {
        router.subscribe(n, &plain(&format!("t/{n}")), SubscriptionOptions::default());
    }
    router.subscribe(64, &plain("t/+"), SubscriptionOptions::default());
    for n in 0..further {
        let filter = format!("site{}/device{n}/state", n % 1000);
        router.subscribe(100 + n, &plain(&filter), SubscriptionOptions::default());
    }
    router
}

fn trie(c: &mut Criterion) {
    let topics: Vec<String> = (0..64).map(|n| format!("t/{n}")).collect();
    for further in [0, 1_000_000] {
        let mut router = router(further);
        let mut n = 0;
        c.bench_function(&format!("trie/miss_2_levels_{further}_further"), |b| {
            b.iter(|| {
                n = (n + 1) % topics.len();
                black_box(router.route(&topics[n]));
            });
        });
    }

    let mut router = router(1_000_000);
    let spread: Vec<String> = (0..4096u32)
        .map(|n| n * 7919 % 1_000_000)
        .map(|n| format!("site{}/device{n}/state", n % 1000))
        .collect();
    let mut n = 0;
    c.bench_function("trie/miss_3_levels_spread_over_a_million", |b| {
        b.iter(|| {
            n = (n + 1) % spread.len();
            black_box(router.route(&spread[n]));
        });
    });

    c.bench_function("trie/subscribe_unsubscribe_among_a_million", |b| {
        b.iter_batched(
            || {
                n += 1;
                format!("site{}/new{n}/state", n % 1000)
            },
            |filter| {
                router.subscribe(7, &plain(&filter), SubscriptionOptions::default());
                router.unsubscribe(7, &plain(&filter));
            },
            BatchSize::SmallInput,
        );
    });
}

/// A million filters that another shard wants, a few of them with wildcards.
fn of_another_shard() -> Router {
    let limits = RouterLimits { route_cache_entries: 1, ..RouterLimits::default() };
    let mut router = Router::new(0, 2, 1, limits);
    for n in 0..64 {
        router.subscribe(n, &plain(&format!("t/{n}")), SubscriptionOptions::default());
    }
    for n in 0..1_000_000 {
        router.add_interest(1, &format!("site{}/device{n}/state", n % 1000));
    }
    for filter in ["alarm/#", "site1/+/state", "+/+/battery", "site7/device7/#", "#"] {
        router.add_interest(1, filter);
    }
    router
}

fn foreign(c: &mut Criterion) {
    let mut router = of_another_shard();
    let near: Vec<String> = (0..64).map(|n| format!("t/{n}")).collect();
    let spread: Vec<String> = (0..4096u32)
        .map(|n| n * 7919 % 1_000_000)
        .map(|n| format!("site{}/device{n}/state", n % 1000))
        .collect();
    for (name, topics) in [("2_levels_near", near), ("3_levels_spread", spread)] {
        let mut n = 0;
        c.bench_function(&format!("foreign/miss_{name}_over_a_million"), |b| {
            b.iter(|| {
                n = (n + 1) % topics.len();
                black_box(router.route(&topics[n]));
            });
        });
    }
    c.bench_function("foreign/add_remove_among_a_million", |b| {
        b.iter(|| {
            router.add_interest(1, black_box("site17/new/state"));
            router.remove_interest(1, black_box("site17/new/state"));
        });
    });
}

criterion_group!(benches, trie, foreign);
criterion_main!(benches);
