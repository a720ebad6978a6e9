//! The broker under test: its shards on simulated drivers, in one thread.

use std::sync::{Arc, Mutex, PoisonError};

use sluice::hooks::{Client, Hook, Hooks};
use sluice::net::sim::{SimDriver, World};
use sluice::shard::{Shard, Shared};

use crate::plan::Plan;

/// What the broker says of itself.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Over which connection of the simulated network, and with Session Present or not.
    Connected {
        connection: u32,
        client: String,
        present: bool,
    },
    Disconnected {
        client: String,
    },
}

#[derive(Clone, Default)]
struct Record(Arc<Mutex<Vec<Event>>>);

impl Record {
    fn note(&self, event: Event) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }
}

impl Hook for Record {
    fn connected(&self, client: &Client<'_>, present: bool) {
        // The simulated network numbers its clients in their addresses.
        let std::net::IpAddr::V4(address) = client.peer.ip() else { unreachable!() };
        let connection = u32::from(address) & 0x00FF_FFFF;
        let client = client.client_id.to_owned();
        self.note(Event::Connected { connection, client, present });
    }

    fn disconnected(&self, client_id: &str) {
        self.note(Event::Disconnected { client: client_id.to_owned() });
    }
}

pub(crate) struct Broker {
    world: World,
    shards: Vec<Shard<SimDriver>>,
    /// Shards that found mail when they were about to sleep.
    awake: Vec<bool>,
    record: Record,
}

impl Broker {
    pub(crate) fn new(world: &World, plan: &Plan, seed: u64) -> Self {
        let record = Record::default();
        let hooks = Hooks { hook: Arc::new(record.clone()), ..Hooks::default() };
        let shared = Arc::new(Shared::new(plan.settings.clone(), hooks, plan.shards, seed));
        let drivers = (0..plan.shards).map(|_| world.add_driver()).collect();
        let shards: Vec<_> = Shard::assemble(drivers, &shared);
        let awake = vec![true; shards.len()];
        Self { world: world.clone(), shards, awake, record }
    }

    /// The shards that would not sleep now.
    pub(crate) fn ready(&self) -> Vec<usize> {
        let is_ready = |shard: &usize| self.awake[*shard] || self.world.is_ready(*shard);
        (0..self.shards.len()).filter(is_ready).collect()
    }

    /// A shard that sleeps although it has mail: nobody has woken it.
    pub(crate) fn oversleeps(&mut self) -> Option<usize> {
        self.shards.iter_mut().position(|shard| shard.rest().is_zero())
    }

    pub(crate) fn turn(&mut self, shard: usize) -> Vec<Event> {
        let this = &mut self.shards[shard];
        assert!(this.turn(true).expect("a simulated driver does not fail"), "nobody stopped it");
        self.awake[shard] = this.rest().is_zero();
        std::mem::take(&mut *self.record.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
