//! One run: everybody acts by chance, the machine crashes now and then, and at the end all is compared.

use std::num::NonZeroU16;
use std::time::Duration;

use fastrand::Rng;
use sluice::mqtt::{QoS, Version};
use sluice::net::sim::{Faults, SimOptions, World};
use sluice::shard::Settings;
use sluice::store::Memory;

use super::actor::{Actor, Role};
use super::broker::Broker;
use super::check;

/// Steps in which everything has to end well, once nothing goes wrong any more.
const DRAIN_STEPS: u32 = 200_000;

/// Rounds without anything to do after which nothing more will come.
const QUIET_ROUNDS: u32 = 200;

pub(super) struct Scene {
    world: World,
    settings: Settings,
    broker: Option<Broker>,
    rng: Rng,
    seed: u64,
    verbose: bool,
}

/// Plays a seed; gives how many messages were received.
pub(super) fn play(seed: u64, verbose: bool) -> Result<u64, String> {
    let mut rng = Rng::with_seed(seed ^ 0xC8A5);
    let faults = match rng.u8(0..3) {
        0 => Faults::NONE,
        1 => Faults::default(),
        _ => Faults { reset: 0.005, ..Faults::default() },
    };
    let world = World::new(seed, SimOptions { faults, ..SimOptions::default() });
    let mut settings = sluice::server::settings(&sluice::Config::default());
    settings.sys_interval = Duration::ZERO;
    settings.session.max_queued_messages = u32::MAX;
    if rng.bool() {
        settings.session.max_inflight = rng.u16(1..5);
        settings.receive_maximum = NonZeroU16::new(100).expect("not 0");
    }
    let mut actors = cast();
    let mut scene = Scene { world, settings, broker: None, rng, seed, verbose };
    scene.restart(&Memory::default());
    for actor in &mut actors {
        if !matches!(actor.role, Role::Publisher { .. }) {
            scene.until_settled(actor)?;
        }
    }
    let steps = scene.rng.usize(500..4_000);
    let crashes = scene.rng.usize(1..6);
    for _ in 0..steps {
        if scene.rng.usize(0..steps) < crashes {
            scene.crash();
        }
        scene.step(&mut actors, false)?;
    }
    scene.world.heal();
    scene.drain(&mut actors)?;
    scene.crash();
    scene.drain(&mut actors)?;
    check::check(&actors)?;
    let topics: Vec<_> = actors.iter().filter(|actor| check::retains(actor)).collect();
    let mut late =
        Actor::new("late", Version::V5, Role::Subscriber { filter: "r/#", qos: QoS::AtLeastOnce });
    scene.drain(std::slice::from_mut(&mut late))?;
    for publisher in topics {
        check::retained(publisher, &late)?;
    }
    Ok(actors.iter().flat_map(|actor| actor.received.values()).map(|list| list.len() as u64).sum())
}

fn cast() -> Vec<Actor> {
    use QoS::{AtLeastOnce as One, ExactlyOnce as Two};
    let publisher = |name: &str, version, qos| {
        let retain = name.starts_with("r/");
        Actor::new(name, version, Role::Publisher { topic: name.to_owned(), qos, retain })
    };
    let subscriber = |name: &str, version, filter, qos| {
        Actor::new(name, version, Role::Subscriber { filter, qos })
    };
    vec![
        subscriber("sub a", Version::V311, "t/#", Two),
        subscriber("sub b", Version::V5, "t/+", Two),
        subscriber("sub c", Version::V5, "t/#", One),
        subscriber("sub d", Version::V31, "r/#", Two),
        subscriber("member a", Version::V5, "$share/g/t/#", Two),
        subscriber("member b", Version::V311, "$share/g/t/#", Two),
        subscriber("stays", Version::V5, "$share/h/d/#", One),
        Actor::new("leaves", Version::V5, Role::Deserter { filter: "$share/h/d/#", qos: One }),
        publisher("t/1a", Version::V311, One),
        publisher("t/1b", Version::V5, One),
        publisher("t/2a", Version::V5, Two),
        publisher("t/2b", Version::V311, Two),
        publisher("t/2c", Version::V5, Two),
        publisher("r/1", Version::V5, One),
        publisher("r/2", Version::V5, Two),
        publisher("d/1", Version::V5, One),
        publisher("d/2", Version::V5, Two),
    ]
}

impl Scene {
    fn restart(&mut self, memory: &Memory) {
        let shards = self.rng.u8(1..=4);
        let seed = self.seed ^ self.rng.u64(..);
        self.broker = Some(Broker::start(&self.world, memory, &self.settings, shards, seed));
    }

    fn crash(&mut self) {
        if self.verbose {
            eprintln!("{:>8} crash", self.world.now().0);
        }
        let memory = self.broker.take().expect("it runs").crash();
        self.restart(&memory);
    }

    /// One thing happens.
    fn step(&mut self, actors: &mut [Actor], draining: bool) -> Result<(), String> {
        let Self { world, broker, rng, .. } = self;
        let broker = broker.as_mut().expect("it runs");
        match rng.u8(0..12) {
            0..5 => {
                let ready = broker.ready();
                if let Some(shard) = rng.choice(ready) {
                    broker.turn(shard);
                }
            }
            5 => broker.commit(),
            6 => {
                let until = world.now().plus(Duration::from_millis(rng.u64(1..20)));
                world.advance_to(world.next_event().map_or(until, |next| next.min(until)));
            }
            _ => {
                let actor = rng.usize(0..actors.len());
                actors[actor].step(world, rng, draining)?;
            }
        }
        Ok(())
    }

    fn until_settled(&mut self, actor: &mut Actor) -> Result<(), String> {
        for _ in 0..DRAIN_STEPS {
            self.step(std::slice::from_mut(actor), true)?;
            if actor.is_settled() {
                return Ok(());
            }
        }
        Err(format!("never settles: {actor:?}"))
    }

    /// Nothing new is begun: what was begun has to end.
    fn drain(&mut self, actors: &mut [Actor]) -> Result<(), String> {
        let mut quiet = 0;
        let mut seen = 0;
        for _ in 0..DRAIN_STEPS {
            for _ in 0..actors.len() {
                self.step(actors, true)?;
            }
            let received =
                actors.iter().flat_map(|actor| actor.received.values()).map(Vec::len).sum();
            let still = seen == received && actors.iter().all(Actor::is_settled);
            quiet = if still { quiet + 1 } else { 0 };
            seen = received;
            if quiet >= QUIET_ROUNDS {
                return Ok(());
            }
        }
        let unsettled = actors.iter().find(|actor| !actor.is_settled());
        Err(format!("never ends: {unsettled:?}"))
    }
}
