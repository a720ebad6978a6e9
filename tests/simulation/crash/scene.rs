//! One run: everybody acts by chance, the machine crashes now and then, and at the end all is compared.

use std::num::NonZeroU16;
use std::ops::Range;
use std::time::Duration;

use fastrand::Rng;
use sluice::mqtt::{QoS, Version};
use sluice::net::sim::{Faults, SimOptions, World};
use sluice::shard::{OverflowOffline, OverflowOnline, Settings};

use super::actor::{Actor, EndsBy, OUTSTANDING, Role};
use super::broker::{Broker, Confirms, Disk};
use super::check;
use super::collector::Collector;
use super::dying::Dying;
use super::fickle::{self, Fickle};
use super::members;

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
    pub(super) settings: Settings,
    pub(super) broker: Option<Broker>,
    pub(super) rng: Rng,
    pub(super) seed: u64,
    pub(super) confirms: Confirms,
    /// Of the moments in which the store could commit, it does in one of so many.
    commits_in: u8,
    /// A shard that has one turn where others have fifty.
    pub(super) slow: Option<usize>,
    /// Now and then nothing can be written, and then it can again; and whether that is so now.
    fails: bool,
    pub(super) failing: bool,
    /// Milliseconds that may pass at once.
    pace: u64,
    /// Milliseconds that may pass between two lives.
    pub(super) pause: u64,
    /// The settings are others in each life.
    pub(super) changes: bool,
    /// How long it goes on, and how often the machine crashes.
    steps: Range<usize>,
    crashes: Range<usize>,
    /// Steps until it does so once more.
    crashes_after: Option<u32>,
    pub(super) verbose: bool,
}

/// Plays a seed; gives how many messages were received.
pub(super) fn play(seed: u64, confirms: Confirms, verbose: bool) -> Result<u64, String> {
    let mut scene = Scene::new(seed, confirms, verbose);
    scene.settings.session.max_queued_messages = u32::MAX;
    scene.changes = scene.rng.bool();
    let mut actors = cast();
    scene.go(&mut actors)?;
    // Who has been told to be subscribed, or not to be, is so.
    actors.iter_mut().filter(|actor| actor.name == fickle::TOPIC).for_each(Actor::begin_message);
    scene.drain(&mut actors)?;
    let mut late =
        Actor::new("late", Version::V5, Role::Subscriber { filter: "r/#", qos: QoS::AtLeastOnce });
    scene.drain(std::slice::from_mut(&mut late))?;
    check::check(&actors, &late)?;
    scene.expire(&mut actors)?;
    Ok(received(&actors))
}

/// Plays a seed in which queues are soon full, and their clients away; gives how many messages were received.
pub(super) fn play_full(seed: u64, verbose: bool) -> Result<u64, String> {
    let mut scene = Scene::new(seed, Confirms::Truly, verbose);
    scene.settings.session.max_queued_messages = scene.rng.u32(1..10);
    let mut actors = cast_for_full_queues(&mut scene.rng);
    for actor in &mut actors {
        (actor.may_be_refused, actor.may_be_full) = (true, true);
    }
    scene.go(&mut actors)?;
    let nobody = Actor::new("nobody", Version::V5, Role::Beginner);
    check::check(&actors, &nobody)?;
    Ok(received(&actors))
}

/// Plays a seed in which members of groups come and go; gives how many messages were received.
pub(super) fn play_members(seed: u64, verbose: bool) -> Result<u64, String> {
    let mut scene = Scene::new(seed, Confirms::Truly, verbose);
    let settings = &mut scene.settings.session;
    settings.max_queued_messages = u32::MAX;
    settings.in_memory.messages = scene.rng.u32(0..4);
    (scene.steps, scene.crashes) = (4_000..20_000, 1..30);
    scene.pace = *scene.rng.choice(&[20, 200, 1000]).expect("some");
    let mut actors = members::cast(&mut scene.rng, scene.fails);
    scene.go(&mut actors)?;
    let nobody = Actor::new("nobody", Version::V5, Role::Beginner);
    check::check(&actors, &nobody)?;
    scene.pass(Duration::from_secs(2));
    let left = scene.broker.as_ref().expect("it runs").left(&mut scene.rng);
    match left.first() {
        None => Ok(received(&actors)),
        Some(first) => Err(format!("{} records are left: {first}", left.len())),
    }
}

/// Plays a seed in which full queues lose their oldest messages; gives how many messages were received.
pub(super) fn play_dropping(seed: u64, verbose: bool) -> Result<u64, String> {
    let mut scene = Scene::new(seed, Confirms::Truly, verbose);
    let settings = &mut scene.settings;
    settings.session.max_queued_messages = scene.rng.u32(1..6);
    settings.session.max_inflight = scene.rng.u16(1..4);
    settings.overflow_online = OverflowOnline::DropOldest;
    settings.overflow_offline = OverflowOffline::DropOldest;
    settings.patience = Duration::from_millis(scene.rng.u64(0..50));
    (scene.steps, scene.crashes) = (2_000..8_000, 1..20);
    let mut actors = members::cast_for_dropping(&mut scene.rng);
    actors.iter_mut().for_each(|actor| actor.may_be_dropped = true);
    scene.go(&mut actors)?;
    let nobody = Actor::new("nobody", Version::V5, Role::Beginner);
    check::check(&actors, &nobody)?;
    Ok(received(&actors))
}

/// Plays a seed in which clients subscribe to what is retained; gives how many subscriptions had all of it.
pub(super) fn play_collecting(seed: u64, verbose: bool) -> Result<u64, String> {
    let mut scene = Scene::new(seed, Confirms::Truly, verbose);
    scene.fails = false;
    scene.changes = true;
    scene.settings.session.max_queued_messages =
        if scene.rng.bool() { scene.rng.u32(1..20) } else { u32::MAX };
    let founder = Role::Founder { count: scene.rng.u32(0..150) };
    let mut actors = vec![Actor::new("founder", Version::V5, founder)];
    for name in ["collects a", "collects b", "collects c"] {
        let collector = Actor::new(name, Version::V5, Role::Collector(Collector::new()));
        actors.push(if scene.rng.bool() { collector.lazy() } else { collector });
    }
    // All is there before anybody comes.
    let disk = Disk::new(&mut scene.rng);
    scene.restart(disk);
    scene.until_settled(&mut actors[0])?;
    let disk = scene.stop(&mut actors)?;
    scene.go_on(disk, &mut actors)?;
    let nobody = Actor::new("nobody", Version::V5, Role::Beginner);
    check::check(&actors, &nobody)?;
    Ok(actors.iter().map(|actor| actor.role.collected()).sum())
}

fn received(actors: &[Actor]) -> u64 {
    actors.iter().flat_map(|actor| actor.received.values()).map(|list| list.len() as u64).sum()
}

/// Publishers with one subscriber each, or one group: what that has not got was refused.
fn cast_for_full_queues(rng: &mut Rng) -> Vec<Actor> {
    const TOPICS: [&str; 5] = ["f/0", "f/1", "f/2", "f/3", "f/4"];
    let mut cast = Vec::new();
    let mut any = || *rng.choice(&[Version::V31, Version::V311, Version::V5]).expect("some");
    let versions: Vec<_> = TOPICS.iter().map(|_| (any(), any(), any())).collect();
    for (topic, (of_publisher, of_one, of_other)) in TOPICS.into_iter().zip(versions) {
        let qos = *rng.choice(&[QoS::AtLeastOnce, QoS::ExactlyOnce]).expect("some");
        let role = Role::Publisher { topic: topic.into(), qos, retain: false, clears: false };
        let publisher = Actor::new(topic, of_publisher, role);
        cast.push(if rng.u8(0..3) == 0 { publisher.guest() } else { publisher });
        let qos = *rng.choice(&[QoS::AtLeastOnce, QoS::ExactlyOnce]).expect("some");
        let mut subscriber = |name: String, version, filter| {
            cast.push(Actor::new(&name, version, Role::Subscriber { filter, qos }).lazy());
        };
        if topic == "f/4" {
            subscriber("member a".to_owned(), of_one, "$share/f/f/4");
            subscriber("member b".to_owned(), of_other, "$share/f/f/4");
        } else {
            subscriber(format!("of {topic}"), of_one, topic);
        }
    }
    cast
}

impl Scene {
    /// Nobody is there yet.
    fn new(seed: u64, confirms: Confirms, verbose: bool) -> Self {
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

    /// They act by chance, and come to an end.
    fn go(&mut self, actors: &mut [Actor]) -> Result<(), String> {
        actors.iter_mut().for_each(|actor| actor.may_be_refused |= self.fails);
        let disk = Disk::new(&mut self.rng);
        self.go_on(disk, actors)
    }

    /// The same, with what is on a disk.
    fn go_on(&mut self, disk: Disk, actors: &mut [Actor]) -> Result<(), String> {
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

fn cast() -> Vec<Actor> {
    use QoS::{AtLeastOnce as One, ExactlyOnce as Two};
    let publisher = |name: &str, version, qos| {
        let (retain, clears) = (name.starts_with("r/"), name.starts_with("r/c"));
        Actor::new(name, version, Role::Publisher { topic: name.to_owned(), qos, retain, clears })
    };
    let dying = |name: &str, version, topic, delay| {
        Actor::new(name, version, Role::Dying(Dying::new(topic, delay)))
    };
    let subscriber = |name: &str, version, filter, qos| {
        Actor::new(name, version, Role::Subscriber { filter, qos })
    };
    let unsteady = publisher(fickle::TOPIC, Version::V5, Two);
    let wavering = |name: &str, version, filter| {
        Actor::new(name, version, Role::Fickle(Fickle::new(filter, unsteady.sent.clone())))
    };
    let wavering =
        [wavering("wavers a", Version::V5, "u/+"), wavering("wavers b", Version::V311, "u/1")];
    let mut cast = vec![
        subscriber("sub a", Version::V311, "t/#", Two),
        subscriber("sub b", Version::V5, "t/+", Two),
        subscriber("sub c", Version::V5, "t/#", One),
        subscriber("sub d", Version::V31, "r/#", Two),
        subscriber("member a", Version::V5, "$share/g/t/#", Two),
        subscriber("member b", Version::V311, "$share/g/t/#", Two),
        subscriber("stays", Version::V5, "$share/h/d/#", One),
        Actor::new("sleeps a", Version::V5, Role::Sleeper { filter: "e/#", qos: Two }),
        Actor::new("sleeps b", Version::V311, Role::Sleeper { filter: "e/+", qos: One }),
        Actor::new(
            "leaves",
            Version::V5,
            Role::Deserter { filter: "$share/h/d/#", qos: One, by: EndsBy::Disconnect },
        ),
        Actor::new("watches", Version::V5, Role::Watcher { filter: "d/#", qos: One }),
        subscriber("keeps", Version::V5, "$share/k/t/#", Two),
        Actor::new("turns", Version::V5, Role::Leaver { filter: "$share/k/t/#", qos: Two }),
        Actor::new("begins a", Version::V311, Role::Beginner),
        Actor::new("begins b", Version::V5, Role::Beginner),
        publisher("t/1a", Version::V311, One),
        publisher("t/1b", Version::V5, One),
        publisher("t/2a", Version::V5, Two),
        publisher("t/2b", Version::V311, Two),
        publisher("t/2c", Version::V5, Two),
        publisher("r/1", Version::V5, One),
        publisher("r/2", Version::V5, Two),
        publisher("d/1", Version::V5, One),
        publisher("d/2", Version::V5, Two),
        publisher("t/3a", Version::V311, One).guest(),
        publisher("t/3b", Version::V5, One).guest(),
        publisher("t/3c", Version::V31, Two).guest(),
        publisher("t/3d", Version::V5, Two).guest(),
        publisher("t/4a", Version::V31, One),
        publisher("t/4b", Version::V31, Two),
        publisher("e/1", Version::V5, One),
        publisher("e/2", Version::V5, Two),
        publisher("r/c", Version::V5, Two),
        subscriber("heir a", Version::V5, "w/#", Two),
        subscriber("heir b", Version::V5, "$share/i/w/#", Two),
        subscriber("heir c", Version::V311, "$share/i/w/#", Two),
        dying("dies a", Version::V311, "w/a", 0),
        dying("dies b", Version::V5, "w/b", 0),
        dying("dies c", Version::V5, "w/c", 1),
        unsteady,
    ];
    cast.extend(wavering);
    cast
}

impl Scene {
    /// One thing happens.
    pub(super) fn step(&mut self, actors: &mut [Actor], draining: bool) -> Result<(), String> {
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

    fn until_settled(&mut self, actor: &mut Actor) -> Result<(), String> {
        for _ in 0..DRAIN_STEPS {
            self.step(std::slice::from_mut(actor), true)?;
            if actor.is_settled() {
                return Ok(());
            }
        }
        Err(format!("never settles: {actor:?}"))
    }

    /// A beginner connects anew; the store commits when nothing else is to do.
    fn until_begun(&mut self, actor: &mut Actor, clean: bool) -> Result<(), String> {
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
    fn pass(&mut self, time: Duration) {
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
    fn expire(&mut self, actors: &mut [Actor]) -> Result<(), String> {
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

/// A clean session takes the place of a stored one, and the machine stops as soon as that is said: the
/// stored one must not come back [MQTT-3.1.2-4].
pub(super) fn end_by_a_clean_start(version: Version) -> Result<(), String> {
    let mut scene = calm(|_| {});
    let disk = Disk::new(&mut scene.rng);
    scene.restart(disk);
    let mut actor = Actor::new("begins", version, Role::Beginner);
    scene.until_begun(&mut actor, false)?;
    scene.until_begun(&mut actor, true)?;
    scene.crash(std::slice::from_mut(&mut actor))?;
    scene.until_begun(&mut actor, false)
}

/// The same, if its client does not wait for that, and is told of the clean session that it begins next.
pub(super) fn end_by_a_clean_start_that_nobody_waits_for(version: Version) -> Result<(), String> {
    let mut scene = calm(|_| {});
    let disk = Disk::new(&mut scene.rng);
    scene.restart(disk);
    let mut actor = Actor::new("begins", version, Role::Beginner);
    scene.until_begun(&mut actor, false)?;
    actor.reconnect(&scene.world, true);
    for _ in 0..20 {
        actor.step(&scene.world, &mut scene.rng, true)?;
        scene.world.advance(Duration::from_millis(50));
        let broker = scene.broker.as_mut().expect("it runs");
        while let Some(&shard) = broker.ready().first() {
            broker.turn(shard);
        }
    }
    scene.until_begun(&mut actor, true)?;
    scene.crash(std::slice::from_mut(&mut actor))?;
    scene.until_begun(&mut actor, false)
}

/// However little a mailbox holds, every shard knows from its first turn on who is subscribed on others:
/// what is due then, a Will, reaches all of them.
pub(super) fn reach_all_from_the_first_turn_on() -> Result<(), String> {
    const SHARDS: u8 = 4;
    const SUBSCRIBERS: u32 = 16;
    let mut scene = calm(|settings| settings.mailbox_bytes = 1);
    let disk = Disk::new(&mut scene.rng);
    scene.start(disk, SHARDS);
    let role = Role::Subscriber { filter: "w/#", qos: QoS::ExactlyOnce };
    let subscriber = |n| Actor::new(&format!("sub {n}"), Version::V5, role.clone());
    let mut actors: Vec<_> = (0..SUBSCRIBERS).map(subscriber).collect();
    actors.push(Actor::new("dies", Version::V5, Role::Dying(Dying::new("w/a", 0))));
    for actor in &mut actors {
        scene.until_settled(actor)?;
    }
    let disk = scene.stop(&mut actors)?;
    scene.start(disk, SHARDS);
    scene.drain(&mut actors)?;
    let mut subscribers = actors.iter().filter(|actor| actor.subscribes());
    match subscribers.find(|actor| !actor.received.contains_key("w/a")) {
        None => Ok(()),
        Some(missed) => Err(format!("{} got nothing", missed.name)),
    }
}

/// The machine stops some steps after a QoS 2 message was sent that nobody has room for. When it is sent
/// again, it is not taken for one that is here already.
pub(super) fn refuse_and_stop(steps: u32, subscriber: &str) -> Result<(), String> {
    const SHARDS: u8 = 4;
    let mut scene = calm(|settings| settings.session.max_queued_messages = 1);
    scene.rng = Rng::with_seed(steps.into());
    let disk = Disk::new(&mut scene.rng);
    scene.start(disk, SHARDS);
    let role = Role::Subscriber { filter: "t/#", qos: QoS::ExactlyOnce };
    let mut subscriber = Actor::new(subscriber, Version::V5, role);
    scene.until_settled(&mut subscriber)?;
    subscriber.leave(&scene.world);
    let (topic, qos) = ("t/1".to_owned(), QoS::ExactlyOnce);
    let role = Role::Publisher { topic, qos, retain: false, clears: false };
    let mut publisher = Actor::new("publisher", Version::V311, role);
    scene.until_settled(&mut publisher)?;
    publisher.begin_message();
    scene.until_settled(&mut publisher)?;
    publisher.begin_message();
    for _ in 0..steps {
        scene.step(std::slice::from_mut(&mut publisher), true)?;
    }
    let mut actors = [publisher, subscriber];
    let disk = scene.stop(&mut actors)?;
    scene.start(disk, SHARDS);
    scene.drain(&mut actors)?;
    match actors[1].received.get("t/1").map(Vec::as_slice) {
        Some([0, 1]) => Ok(()),
        other => Err(format!("{other:?}")),
    }
}

/// Nobody is there, and nothing goes wrong.
fn calm(change: impl FnOnce(&mut Settings)) -> Scene {
    let options = SimOptions { faults: Faults::NONE, ..SimOptions::default() };
    let mut settings = sluice::server::settings(&sluice::Config::default());
    change(&mut settings);
    Scene {
        world: World::new(1, options),
        options,
        since_1970: SINCE_1970,
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
