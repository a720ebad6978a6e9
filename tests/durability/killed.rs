//! Killed at random instants while clients publish and receive: what they saw must fit together.
//!
//! `KILLS=100 cargo test --test durability killed` kills more often.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use fastrand::Rng;
use sluice_bench::torture::{self, Kind, Plan, Verdict, check};

use crate::process::Broker;

/// Starts with any number of shards up to a highest one.
struct Killed {
    broker: Broker,
    shards: u8,
    rng: Rng,
}

impl torture::Broker for Killed {
    fn address(&self) -> SocketAddr {
        self.broker.address()
    }

    fn restart(&mut self) -> io::Result<()> {
        self.broker.restart_with(self.rng.u8(1..=self.shards));
        Ok(())
    }
}

fn play(broker: Broker, shards: u8, seed: u64, overdue: Duration) -> Verdict {
    let kills = std::env::var("KILLS").ok().and_then(|text| text.parse().ok()).unwrap_or(5);
    let plan = Plan { kills, kill_after_ms: 20..=250, rate: 300.0, overdue, seed };
    let mut killed = Killed { broker, shards, rng: Rng::with_seed(seed) };
    let history = torture::play(&mut killed, &plan, &AtomicBool::new(false), |_| {});
    let history = history.expect("it starts again");
    for published in &history.published {
        assert!(published.acknowledged.len() > 2, "it got on: {published:?}");
    }
    check(&history)
}

/// The queue of a client that is away takes all: who publishes is not told that another's was full.
const ROOM: &[(&str, &str)] = &[("SLUICE_QUEUE_MAX_MESSAGES", "1000000")];

fn keeps_all(engine: &'static str, shards: u8, seed: u64) {
    let overdue = Plan::default().overdue;
    let verdict = play(Broker::start_set(engine, shards, ROOM), shards, seed, overdue);
    assert!(verdict.is_right(), "{verdict}");
}

#[test]
fn fjall_on_three_shards() {
    keeps_all("fjall", 3, 1);
}

#[test]
fn fjall_on_one_shard() {
    keeps_all("fjall", 1, 2);
}

#[test]
fn sqlite_on_two_shards() {
    keeps_all("sqlite", 2, 3);
}

/// A broker that keeps nothing is found out.
#[test]
fn without_a_store() {
    let overdue = Duration::from_secs(1);
    let verdict = play(Broker::start_with("fjall", "memory", 2), 2, 4, overdue);
    for kind in [Kind::Lost, Kind::Session, Kind::Retained] {
        assert!(verdict.count(kind) > 0, "{kind:?} is not in\n{verdict}");
    }
}
