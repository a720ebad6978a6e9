//! One run: everybody acts by chance, the machine crashes now and then, and at the end all is there.

use std::cell::Cell;
use std::num::NonZeroU16;
use std::ops::Range;
use std::rc::Rc;
use std::time::Duration;

use fastrand::Rng;
use sluice::net::sim::{Faults, SimOptions, World};
use sluice::shard::Settings;

use super::actor::{Actor, OUTSTANDING, Role};
use super::broker::{Broker, Confirms, Disk};

/// The time of day at the beginning, in milliseconds.
const SINCE_1970: u64 = 1_700_000_000_000;

/// Steps in which everything has to end well, once nothing goes wrong any more.
pub(super) const DRAIN_STEPS: u32 = 200_000;

/// Rounds without anything to do after which nothing more will come.
const QUIET_ROUNDS: u32 = 200;

/// Steps in which messages are published that expire, and time in which they have to be gone then.
const EXPIRING_STEPS: u32 = 400;
const EXPIRY: Duration = Duration::from_secs(6);

pub(super) struct Scene {
    pub(super) world: World,
    pub(super) options: SimOptions,
    /// Milliseconds since 1970 at the world's time 0.
    pub(super) since_1970: u64,
    /// The time of day, for those who look at it.
    pub(super) clock: Rc<Cell<u64>>,
    pub(super) settings: Settings,
    pub(super) broker: Option<Broker>,
    pub(super) rng: Rng,
    pub(super) seed: u64,
    pub(super) confirms: Confirms,
    /// Of the moments in which the store could commit, it does in one of so many.
    pub(super) commits_in: u8,
    /// A shard that has one turn where others have fifty.
    pub(super) slow: Option<usize>,
    /// Now and then nothing can be written, and then it can again; and whether that is so now.
    pub(super) fails: bool,
    pub(super) failing: bool,
    /// Milliseconds that may pass at once.
    pub(super) pace: u64,
    /// Milliseconds that may pass between two lives.
    pub(super) pause: u64,
    /// The settings are others in each life.
    pub(super) changes: bool,
    /// How long it goes on, and how often the machine crashes.
    pub(super) steps: Range<usize>,
    pub(super) crashes: Range<usize>,
    /// Steps until it does so once more.
    crashes_after: Option<u32>,
    pub(super) verbose: bool,
}

impl Scene {
    /// Nobody is there yet.
    pub(super) fn new(seed: u64, confirms: Confirms, verbose: bool) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0xC8A5);
        let faults = match rng.u8(0..3) {
            0 => Faults::NONE,
            1 => Faults::default(),
            _ => Faults { reset: 0.005, ..Faults::default() },
        };
        let options = SimOptions { faults, ..SimOptions::default() };
        let mut settings = sluice::server::settings(&sluice::Config::default());
        settings.sys_interval = Duration::ZERO;
        settings.shutdown_timeout = Duration::from_secs(3600);
        if rng.bool() {
            settings.session.max_inflight = rng.u16(1..5);
            settings.receive_maximum = NonZeroU16::new(100).expect("not 0");
        }
        if rng.bool() {
            settings.receive_maximum = NonZeroU16::new(OUTSTANDING).expect("not 0");
        }
        if rng.u8(0..4) > 0 {
            settings.session.in_memory.messages = rng.u32(0..4);
        }
        if rng.bool() {
            settings.mailbox_bytes = rng.usize(1..3_000);
        }
        // With a slow disk an answer that does not wait for it is there long before.
        let commits_in = if rng.bool() { 1 } else { 30 };
        let fails = rng.u8(0..3) == 0;
        let pause = if rng.bool() { 1 } else { 3_000 };
        Self {
            world: World::new(seed, options),
            options,
            since_1970: SINCE_1970,
            clock: Rc::default(),
            settings,
            broker: None,
            rng,
            seed,
            confirms,
            commits_in,
            slow: None,
            fails,
            failing: false,
            pace: 20,
            pause,
            changes: false,
            steps: 500..4_000,
            crashes: 1..6,
            crashes_after: None,
            verbose,
        }
    }

    /// Nobody is there, and nothing goes wrong.
    pub(super) fn calm(change: impl FnOnce(&mut Settings)) -> Self {
        let options = SimOptions { faults: Faults::NONE, ..SimOptions::default() };
        let mut settings = sluice::server::settings(&sluice::Config::default());
        change(&mut settings);
        Self {
            world: World::new(1, options),
            options,
            since_1970: SINCE_1970,
            clock: Rc::default(),
            settings,
            broker: None,
            rng: Rng::with_seed(1),
            seed: 1,
            confirms: Confirms::Truly,
            commits_in: 1,
            slow: None,
            fails: false,
            failing: false,
            pace: 20,
            pause: 1,
            changes: false,
            steps: 500..4_000,
            crashes: 1..6,
            crashes_after: None,
            verbose: false,
        }
    }

    /// They act by chance, and come to an end.
    pub(super) fn go(&mut self, actors: &mut [Actor]) -> Result<(), String> {
        actors.iter_mut().for_each(|actor| actor.may_be_refused |= self.fails);
        let disk = Disk::new(&mut self.rng);
        self.go_on(disk, actors)
    }

    /// The same, with what is on a disk.
    pub(super) fn go_on(&mut self, disk: Disk, actors: &mut [Actor]) -> Result<(), String> {
        self.restart(disk);
        for actor in actors.iter_mut().filter(|actor| actor.subscribes()) {
            self.until_settled(actor)?;
        }
        let steps = self.rng.usize(self.steps.clone());
        let crashes = self.rng.usize(self.crashes.clone());
        for _ in 0..steps {
            if self.rng.usize(0..steps) < crashes || self.crashes_after == Some(0) {
                self.end_a_life(actors)?;
                // It may not come to much in between.
                self.crashes_after = self.rng.bool().then(|| self.rng.u32(0..200));
            } else {
                self.crashes_after = self.crashes_after.map(|steps| steps - 1);
            }
            self.fail_or_mend(actors);
            self.step(actors, false)?;
        }
        self.options.faults = Faults::NONE;
        self.world.heal();
        self.mend();
        self.drain(actors)?;
        self.crash(actors)?;
        self.drain(actors)
    }
}

impl Scene {
    /// One thing happens.
    pub(super) fn step(&mut self, actors: &mut [Actor], draining: bool) -> Result<(), String> {
        self.clock.set(self.since_1970 + self.world.now().0);
        let Self { world, broker, rng, commits_in, slow, pace, .. } = self;
        let broker = broker.as_mut().expect("it runs");
        match rng.u8(0..12) {
            0..5 => {
                let ready = broker.ready();
                if let Some(shard) = rng.choice(ready)
                    && (draining || Some(shard) != *slow || rng.u8(0..50) == 0)
                {
                    broker.turn(shard);
                }
            }
            5 if draining || rng.u8(0..*commits_in) == 0 => broker.commit(),
            5 => {}
            6 => {
                let until = world.now().plus(Duration::from_millis(rng.u64(1..*pace)));
                world.advance_to(world.next_event().map_or(until, |next| next.min(until)));
            }
            _ => {
                let actor = rng.usize(0..actors.len());
                actors[actor].step(world, rng, draining)?;
            }
        }
        Ok(())
    }

    fn fail_or_mend(&mut self, actors: &mut [Actor]) {
        if self.failing && self.rng.u8(0..30) == 0 {
            // Long enough for what waits to be given up.
            self.world.advance(Duration::from_secs(1));
            actors.iter_mut().for_each(|actor| actor.clock_went_on(&self.world));
        }
        if self.failing && self.rng.u8(0..100) == 0 {
            self.mend();
        } else if self.fails && !self.failing && self.rng.u16(0..300) == 0 {
            self.failing = true;
            let broker = self.broker.as_mut().expect("it runs");
            broker.fail(&mut self.rng);
        }
    }

    fn mend(&mut self) {
        self.failing = false;
        self.broker.as_ref().expect("it runs").mend();
    }

    pub(super) fn until_settled(&mut self, actor: &mut Actor) -> Result<(), String> {
        for _ in 0..DRAIN_STEPS {
            self.step(std::slice::from_mut(actor), true)?;
            if actor.is_settled() {
                return Ok(());
            }
        }
        Err(format!("never settles: {actor:?}"))
    }

    /// A beginner connects anew; the store commits when nothing else is to do.
    pub(super) fn until_begun(&mut self, actor: &mut Actor, clean: bool) -> Result<(), String> {
        let Self { world, broker, rng, .. } = self;
        let broker = broker.as_mut().expect("it runs");
        actor.reconnect(world, clean);
        for _ in 0..DRAIN_STEPS {
            actor.step(world, rng, true)?;
            if actor.is_settled() {
                return Ok(());
            }
            match broker.ready().first() {
                Some(&shard) => broker.turn(shard),
                None => {
                    // What is on its way arrives.
                    world.advance_to(world.now().plus(Duration::from_millis(50)));
                    actor.step(world, rng, true)?;
                    if !actor.is_settled() && broker.ready().is_empty() {
                        broker.commit();
                    }
                }
            }
        }
        Err("it is never let in".to_owned())
    }

    /// Time passes, and the broker does what there is to do.
    pub(super) fn pass(&mut self, time: Duration) {
        let broker = self.broker.as_mut().expect("it runs");
        for _ in 0..time.as_millis() / 100 {
            self.world.advance(Duration::from_millis(100));
            while let Some(&shard) = broker.ready().first() {
                broker.turn(shard);
            }
            broker.commit();
        }
    }

    /// What expires for those who are away leaves the disk, though nobody comes [MQTT-3.3.2-5].
    pub(super) fn expire(&mut self, actors: &mut [Actor]) -> Result<(), String> {
        for actor in actors.iter_mut().filter(|actor| matches!(actor.role, Role::Sleeper { .. })) {
            actor.leave(&self.world);
        }
        // Or else it is sent to them.
        self.pass(Duration::from_secs(1));
        actors.sort_by_key(|actor| !actor.is_brief());
        let count = actors.iter().filter(|actor| actor.is_brief()).count();
        let publishers = &mut actors[..count];
        for _ in 0..EXPIRING_STEPS {
            self.step(publishers, false)?;
        }
        self.drain(publishers)?;
        self.pass(EXPIRY);
        self.crash(actors)?;
        match self.broker.as_ref().expect("it runs").found() {
            0 => Ok(()),
            left => Err(format!("{left} messages are left that have expired")),
        }
    }

    /// Nothing new is begun: what was begun has to end.
    pub(super) fn drain(&mut self, actors: &mut [Actor]) -> Result<(), String> {
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
