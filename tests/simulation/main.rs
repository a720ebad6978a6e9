//! A whole broker, several shards of it, in one thread, over a simulated network, with virtual time
//! and seeded faults, against clients that check what they are promised.
//!
//! A seed names a run. `SIM_SEEDS=5000` runs that many, from a random one on or from
//! `SIM_FROM`; `SIM_SEED=42` runs one and writes its history to stderr.

mod broker;
mod client;
mod crash;
mod flows;
mod model;
mod plan;
mod run;
mod seeds;
mod session;
mod turns;
mod wire;

use run::{Outcome, run};
use seeds::{Seeds, caught, variable};

const SEEDS: Seeds = Seeds { plain: 300, many: "SIM_SEEDS", one: "SIM_SEED", test: "promises" };

fn play(seed: u64, verbose: bool) -> Result<Outcome, String> {
    caught(|| run(seed, verbose))
}

#[test]
fn the_broker_keeps_its_promises() {
    if let Some(seed) = variable(SEEDS.one) {
        let outcome = play(seed, true);
        eprintln!("{outcome:?}");
        assert!(outcome.is_ok(), "seed {seed} fails");
        return;
    }
    SEEDS.play("messages delivered", |seed| play(seed, false).map(|outcome| outcome.delivered));
}

#[test]
fn a_seed_names_a_history() {
    for seed in [3, 7, 20] {
        let (one, other) = (play(seed, false), play(seed, false));
        assert_eq!(one, other, "seed {seed}");
    }
    assert_ne!(play(3, false).map(|it| it.trace), play(7, false).map(|it| it.trace));
}
