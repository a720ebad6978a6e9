//! What has to hold at one moment, without chance.

use std::time::Duration;

use fastrand::Rng;
use sluice::mqtt::{QoS, Version};

use super::actor::{Actor, Role};
use super::broker::Disk;
use super::dying::Dying;
use super::scene::Scene;

/// A clean session takes the place of a stored one, and the machine stops as soon as that is said: the
/// stored one must not come back [MQTT-3.1.2-4].
pub(super) fn end_by_a_clean_start(version: Version) -> Result<(), String> {
    let mut scene = Scene::calm(|_| {});
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
    let mut scene = Scene::calm(|_| {});
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
    let mut scene = Scene::calm(|settings| settings.mailbox_bytes = 1);
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
    let mut scene = Scene::calm(|settings| settings.session.max_queued_messages = 1);
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
