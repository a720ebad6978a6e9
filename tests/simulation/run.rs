//! One run: everybody acts by chance, then the faults are healed and everything has to end well.

use std::collections::BTreeMap;
use std::time::Duration;

use fastrand::Rng;
use sluice::net::sim::World;

use crate::broker::Broker;
use crate::client::{Client, Stage};
use crate::model::Model;
use crate::plan::Plan;

/// How long everything may take to end well, once nothing goes wrong any more.
const DRAIN: Duration = Duration::from_secs(120);

/// The longest that nothing may have come, for all to be quiet: longer than any timer but keep alive.
const QUIET: Duration = Duration::from_secs(7);

/// Steps before the end in which everybody publishes to one topic.
const FLURRY: usize = 100;

/// How long a chunk may be on its way.
const TRAVEL: Duration = Duration::from_millis(250);

/// What a run came to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Of everything that was seen.
    pub(crate) trace: u64,
    pub(crate) delivered: u64,
}

pub(crate) struct Run {
    plan: Plan,
    world: World,
    broker: Broker,
    clients: Vec<Client>,
    model: Model,
    rng: Rng,
    flurry: bool,
}

/// Plays a seed to its end.
pub(crate) fn run(seed: u64, verbose: bool) -> Result<Outcome, String> {
    let plan = Plan::new(seed);
    if verbose {
        eprintln!("{plan:#?}");
    }
    let mut rng = Rng::with_seed(seed);
    let world = World::new(seed, plan.options);
    let broker = Broker::new(&world, &plan, seed);
    let clients = (0..plan.clients).map(|index| Client::new(index, &plan, &mut rng)).collect();
    let model = Model::new(&plan, verbose);
    let mut run = Run { plan, world, broker, clients, model, rng, flurry: false };
    for step in 0..run.plan.steps {
        run.flurry = step + FLURRY > run.plan.steps;
        run.step()?;
    }
    run.drain()?;
    run.probe()?;
    Ok(Outcome { trace: run.model.trace(), delivered: run.model.delivered })
}

impl Run {
    fn step(&mut self) -> Result<(), String> {
        let ready = self.broker.ready();
        if ready.is_empty() {
            self.check_sleep()?;
        }
        match self.rng.u8(0..10) {
            0..5 if !ready.is_empty() => {
                let shard = ready[self.rng.usize(0..ready.len())];
                self.turn(shard)
            }
            9 => {
                let most = Duration::from_millis(self.rng.u64(1..20));
                self.pass(most);
                Ok(())
            }
            _ if ready.is_empty() && self.rng.bool() => {
                self.pass(Duration::from_millis(100));
                Ok(())
            }
            _ => {
                let client = self.rng.usize(0..self.clients.len());
                self.act(client, false)
            }
        }
    }

    fn turn(&mut self, shard: usize) -> Result<(), String> {
        let moment = self.model.tick();
        self.model.turns.note(shard, moment);
        for event in self.broker.turn(shard) {
            self.model.told(shard, event, self.world.now())?;
        }
        Ok(())
    }

    fn act(&mut self, client: usize, draining: bool) -> Result<(), String> {
        let Self { plan, world, clients, model, rng, flurry, .. } = self;
        let flurry = *flurry && !draining;
        clients[client].step(&mut Stage { world, model, rng, plan, draining, flurry })
    }

    /// Lets time pass until something happens, at most so long.
    fn pass(&self, most: Duration) {
        let until = self.world.now().plus(most);
        self.world.advance_to(self.world.next_event().map_or(until, |next| next.min(until)));
    }

    /// No shard sleeps: none may have mail.
    fn check_sleep(&mut self) -> Result<(), String> {
        let shard = self.broker.oversleeps();
        shard.map_or(Ok(()), |shard| Err(format!("shard {shard} sleeps through its mail")))
    }

    /// Everybody sleeps, nothing is on its way, all have sent what they can: nobody may wait.
    fn check_wait(&self) -> Result<(), String> {
        let soon = self.world.now().plus(TRAVEL);
        let travels = self.world.next_event().is_some_and(|next| next <= soon);
        let waits = self.clients.iter().find(|client| client.waits());
        match waits.filter(|_| self.plan.is_prompt() && !travels) {
            Some(client) => Err(format!("everybody sleeps, and this one waits: {client:?}")),
            None => Ok(()),
        }
    }

    /// Nothing goes wrong any more: what was begun has to end.
    fn drain(&mut self) -> Result<(), String> {
        self.world.heal();
        self.model.note(self.world.now(), format_args!("healed"));
        let end = self.world.now().plus(DRAIN);
        let mut busy = self.world.now();
        let mut idle = 0;
        loop {
            for client in 0..self.clients.len() {
                self.act(client, true)?;
            }
            let ready = self.broker.ready();
            for &shard in &ready {
                self.turn(shard)?;
            }
            let now = self.world.now();
            if now >= end {
                let unsettled = self.clients.iter().find(|client| !client.is_settled());
                let missing = unsettled.map(|client| format!("{client:?}"));
                let missing = missing.or_else(|| self.model.missing()).unwrap_or_default();
                return Err(format!("never ends: {missing}"));
            }
            if !self.clients.iter().all(Client::is_settled) {
                busy = now;
            } else if now >= busy.plus(QUIET) && self.model.missing().is_none() {
                return Ok(());
            }
            // What came in the last round is answered in the next.
            idle = if ready.is_empty() { idle + 1 } else { 0 };
            if idle > 2 {
                self.check_sleep()?;
                self.check_wait()?;
                self.pass(Duration::from_millis(50));
                idle = 0;
            }
        }
    }

    /// Asks every shard for its retained messages: all have to say the same, and the truth.
    fn probe(&mut self) -> Result<(), String> {
        let first = self.clients.len();
        for index in first..first + 3 * self.plan.shards {
            self.clients.push(Client::probe(index, &self.plan, &mut self.rng));
        }
        self.drain()?;
        let mut all: Option<BTreeMap<String, usize>> = None;
        for client in &self.clients[first..] {
            let session = self.model.sessions.iter().rev().find(|it| it.client == client.name);
            let seen = session.map(|it| it.retained.clone()).unwrap_or_default();
            match &all {
                Some(all) if *all != seen => {
                    return Err(format!("retained: {all:?}, or {seen:?} for {}", client.name));
                }
                _ => all = Some(seen),
            }
        }
        let all = all.unwrap_or_default();
        for topic in self.model.topics_retained() {
            let (is, may) = (all.get(&topic).copied(), self.model.may_be_retained(&topic));
            if topic != "r/shared" && !may.contains(&is) {
                return Err(format!("retained on {topic}: {is:?}, not one of {may:?}"));
            }
        }
        Ok(())
    }
}
