//! Killed at random instants while clients publish and receive: what they saw must fit together.
//!
//! `KILLS=100 cargo test --test durability killed` kills more often.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use fastrand::Rng;

use crate::common::{Connect, V5, V311};
use crate::history::{Published, Publisher, Received, Subscriber};
use crate::process::Broker;

fn kills() -> u32 {
    std::env::var("KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(5)
}

fn publishers() -> Vec<Publisher> {
    let publisher = |name: &str, version, qos, retain| Publisher {
        connect: Connect::lasting(version, name),
        topic: format!("{}/{name}", if retain { "retained" } else { "t" }),
        qos,
        retain,
    };
    vec![
        publisher("one-a", V311, 1, false),
        publisher("one-b", V5, 1, false),
        publisher("two-a", V311, 2, false),
        publisher("two-b", V5, 2, false),
        publisher("two-c", V5, 2, false),
        publisher("value", V5, 1, true),
    ]
}

fn subscribers() -> Vec<Subscriber> {
    let subscriber = |name: &str, version, filter, qos| Subscriber {
        connect: Connect::lasting(version, name),
        filter,
        qos,
    };
    vec![
        subscriber("all-a", V311, "t/#", 2),
        subscriber("all-b", V5, "t/+", 2),
        subscriber("all-c", V5, "t/#", 1),
        subscriber("member-a", V5, "$share/g/t/#", 2),
        subscriber("member-b", V5, "$share/g/t/#", 2),
    ]
}

fn play(engine: &'static str, shards: u8, seed: u64) {
    // They pass through one queue, which nobody must overflow.
    let mut broker = Broker::start(engine, shards);
    let address = broker.address();
    let (publishers, subscribers) = (publishers(), subscribers());
    let (ended, drained) = (AtomicBool::new(false), AtomicBool::new(false));
    let ready = Barrier::new(subscribers.len() + 1);
    let mut rng = Rng::with_seed(seed);
    let (published, received) = thread::scope(|scope| {
        let receiving: Vec<_> = subscribers
            .iter()
            .map(|one| {
                let (drained, ready) = (&drained, &ready);
                scope.spawn(move || one.run(address, drained, || _ = ready.wait()))
            })
            .collect();
        ready.wait();
        let publishing: Vec<_> =
            publishers.iter().map(|one| scope.spawn(|| one.run(address, &ended))).collect();
        for _ in 0..kills() {
            thread::sleep(Duration::from_millis(rng.u64(20..250)));
            broker.restart_with(rng.u8(1..=shards));
        }
        ended.store(true, Ordering::Relaxed);
        let published: Vec<_> =
            publishing.into_iter().map(|one| one.join().expect("it ends")).collect();
        drained.store(true, Ordering::Relaxed);
        let received: Vec<_> =
            receiving.into_iter().map(|one| one.join().expect("it ends")).collect();
        (published, received)
    });
    check(&publishers, &published, &subscribers, &received);
    check_retained(&broker, &publishers, &published);
}

fn check(
    publishers: &[Publisher],
    published: &[Published],
    subscribers: &[Subscriber],
    received: &[Received],
) {
    let mut groups: Vec<(String, u8, Vec<&Received>)> = Vec::new();
    for (subscriber, received) in subscribers.iter().zip(received) {
        let name = subscriber.connect.client_id.clone();
        match groups.iter_mut().find(|_| name == "member-b") {
            Some(_) => groups.last_mut().expect("its group").2.push(received),
            None => groups.push((name, subscriber.qos, vec![received])),
        }
    }
    for (publisher, published) in publishers.iter().zip(published).filter(|(one, _)| !one.retain) {
        assert!(published.acknowledged.len() > 20, "it got on: {published:?}");
        for (name, qos, received) in &groups {
            let topic = &publisher.topic;
            let qos = publisher.qos.min(*qos);
            let lists = received.iter().filter_map(|received| received.get(topic));
            let all: Vec<u32> = lists.clone().flatten().copied().collect();
            let distinct: BTreeSet<u32> = all.iter().copied().collect();
            let lost: Vec<_> = published.acknowledged.difference(&distinct).collect();
            assert!(lost.is_empty(), "{name} lost {lost:?} of {topic} at QoS {qos}");
            assert!(distinct.iter().all(|number| *number < published.sent));
            if qos == 2 {
                assert_eq!(all.len(), distinct.len(), "{name} has some of {topic} twice");
            }
            for list in lists {
                // What comes again may come out of order; its first coming must not.
                let mut seen = BTreeSet::new();
                let first: Vec<_> = list.iter().filter(|number| seen.insert(**number)).collect();
                assert!(
                    first.is_sorted() || received.len() > 1,
                    "{name}: order of {topic}: {list:?}"
                );
            }
        }
    }
}

/// The last value that was acknowledged, or one that was sent after it.
fn check_retained(broker: &Broker, publishers: &[Publisher], published: &[Published]) {
    for (publisher, published) in publishers.iter().zip(published).filter(|(one, _)| one.retain) {
        let mut client = broker.connect(V5, "late");
        client.subscribe(&publisher.topic, 0);
        let value: u32 = client.take_publish().payload_text().parse().expect("a number");
        let last = *published.acknowledged.last().expect("it got on");
        assert!((last..published.sent).contains(&value), "{value}, not {last}");
    }
}

#[test]
fn fjall_on_three_shards() {
    play("fjall", 3, 1);
}

#[test]
fn fjall_on_one_shard() {
    play("fjall", 1, 2);
}

#[test]
fn sqlite_on_two_shards() {
    play("sqlite", 2, 3);
}
