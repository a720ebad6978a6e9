//! How one life of the broker ends and the next begins: the machine stops, or the broker is told to, and time
//! passes until it is there again.

use sluice::net::sim::World;
use sluice::store::Epoch;

use super::actor::Actor;
use super::broker::{Broker, Disk};
use super::scene::{DRAIN_STEPS, Scene};

impl Scene {
    /// It begins, with some shards.
    pub(super) fn restart(&mut self, disk: Disk) {
        let shards = self.rng.u8(1..=4);
        self.slow = self.rng.bool().then(|| self.rng.usize(0..4));
        if self.changes {
            self.change_settings();
        }
        self.start(disk, shards);
    }

    /// What may be in memory, in flight and on its way is another thing in each life.
    fn change_settings(&mut self) {
        let Self { settings, rng, .. } = self;
        settings.session.in_memory.messages = if rng.bool() { rng.u32(0..4) } else { 1000 };
        settings.session.max_inflight = if rng.bool() { rng.u16(1..5) } else { 1000 };
        settings.mailbox_bytes = if rng.bool() { rng.usize(1..3_000) } else { 1 << 20 };
        let total = if rng.u8(0..4) == 0 { rng.u64(0..3_000) } else { u64::MAX };
        settings.max_total_queued_bytes = total;
    }

    pub(super) fn start(&mut self, disk: Disk, shards: u8) {
        let seed = self.seed ^ self.rng.u64(..);
        let Self { world, settings, confirms, since_1970, .. } = self;
        let epoch = Epoch { unix_ms: *since_1970 };
        let broker = Broker::start(world, epoch, disk, *confirms, settings, (shards, seed));
        self.broker = Some(broker);
    }

    /// One life is over, and another begins.
    pub(super) fn end_a_life(&mut self, actors: &mut [Actor]) -> Result<(), String> {
        if self.failing || self.rng.u8(0..4) > 0 {
            return self.crash(actors);
        }
        let disk = self.stop_gracefully(actors)?;
        self.restart(disk);
        Ok(())
    }

    pub(super) fn crash(&mut self, actors: &mut [Actor]) -> Result<(), String> {
        let disk = self.stop(actors)?;
        self.restart(disk);
        Ok(())
    }

    /// The machine stops.
    pub(super) fn stop(&mut self, actors: &mut [Actor]) -> Result<Disk, String> {
        self.say("crash");
        let disk = self.broker.take().expect("it runs").crash(&mut self.rng);
        self.pass_the_pause(actors, false)?;
        Ok(disk)
    }

    /// The broker is told to stop, and does; or the machine stops in the middle of that.
    fn stop_gracefully(&mut self, actors: &mut [Actor]) -> Result<Disk, String> {
        self.say("told to stop");
        if self.fails {
            // While it fails nothing is waited for.
            self.broker.as_mut().expect("it runs").commit();
        }
        self.broker.as_ref().expect("it runs").begin_stop();
        actors.iter_mut().for_each(Actor::broker_begins_to_stop);
        let steps = if self.rng.bool() { self.rng.u32(0..500) } else { DRAIN_STEPS };
        let mut left = steps;
        while left > 0 && !self.broker.as_ref().expect("it runs").has_stopped() {
            self.step(actors, false)?;
            left -= 1;
        }
        if !self.broker.as_ref().expect("it runs").has_stopped() {
            return if steps < DRAIN_STEPS { self.stop(actors) } else { Err("never stops".into()) };
        }
        self.say("has stopped");
        let disk = self.broker.take().expect("it runs").close(&mut self.rng);
        self.pass_the_pause(actors, true)?;
        Ok(disk)
    }

    /// Everybody notices that the broker is gone, and time passes. The clock of the next life begins anew.
    fn pass_the_pause(&mut self, actors: &mut [Actor], was_closed: bool) -> Result<(), String> {
        self.failing = false;
        self.clock.set(self.since_1970 + self.world.now().0);
        for actor in &mut *actors {
            actor.broker_is_gone(&self.world, self.rng.bool())?;
        }
        self.since_1970 += self.world.now().0 + self.rng.u64(0..self.pause);
        self.world = World::new(self.rng.u64(..), self.options);
        for actor in actors {
            actor.broker_begins(was_closed, self.since_1970);
        }
        Ok(())
    }

    fn say(&self, what: &str) {
        if self.verbose {
            eprintln!("{:>8} {what}", self.since_1970 + self.world.now().0);
        }
    }
}
