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
use seeds::{Seeds, caught};

const SEEDS: Seeds = Seeds { plain: 300, many: "SIM_SEEDS", one: "SIM_SEED", test: "promises" };

fn play(seed: u64) -> Result<Outcome, String> {
    caught(|| run(seed, false))
}

#[test]
fn the_broker_keeps_its_promises() {
    SEEDS.play("messages delivered", |seed, verbose| {
        let outcome = run(seed, verbose)?;
        if verbose {
            eprintln!("{outcome:?}");
        }
        Ok(outcome.delivered)
    });
}

#[test]
fn a_seed_names_a_history() {
    for seed in [3, 7, 20] {
        let (one, other) = (play(seed), play(seed));
        assert_eq!(one, other, "seed {seed}");
    }
    assert_ne!(play(3).map(|it| it.trace), play(7).map(|it| it.trace));
}
