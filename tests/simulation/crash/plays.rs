//! What is played: who is there, under which settings, and what is compared at the end.

use std::time::Duration;

use fastrand::Rng;
use sluice::mqtt::{QoS, Version};
use sluice::shard::{OverflowOffline, OverflowOnline};

use super::actor::{Actor, EndsBy, Role};
use super::broker::{Confirms, Disk};
use super::check;
use super::collector::Collector;
use super::dying::Dying;
use super::fickle::{self, Fickle};
use super::lifetimes::{Hurried, Patient};
use super::members;
use super::mortal::Death;
use super::register::{Reader, Register, Setter};
use super::scene::Scene;

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
    compare(&actors)?;
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
    compare(&actors)?;
    nothing_is_left(&mut scene)?;
    Ok(received(&actors))
}

/// Plays a seed in which most messages are acknowledged by all who get them before that is committed; gives how
/// many were received.
pub(super) fn play_quick(seed: u64, verbose: bool) -> Result<u64, String> {
    let mut scene = Scene::new(seed, Confirms::Truly, verbose);
    scene.settings.session.max_queued_messages = u32::MAX;
    scene.settings.session.max_inflight = 1000;
    scene.commits_in = *scene.rng.choice(&[2, 5, 20]).expect("some");
    (scene.steps, scene.crashes) = (4_000..12_000, 5..60);
    let mut actors = members::quick(&mut scene.rng);
    scene.go(&mut actors)?;
    compare(&actors)?;
    nothing_is_left(&mut scene)?;
    Ok(received(&actors))
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
    compare(&actors)?;
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
    compare(&actors)?;
    Ok(collected(&actors))
}

/// Plays a seed in which full queues end the sessions of those who are away; gives how many did.
pub(super) fn play_ending(seed: u64, verbose: bool) -> Result<u64, String> {
    let mut scene = Scene::new(seed, Confirms::Truly, verbose);
    let most = scene.rng.u32(1..8);
    scene.settings.session.max_queued_messages = most;
    scene.settings.overflow_offline = OverflowOffline::EndSession;
    (scene.steps, scene.crashes) = (2_000..8_000, 1..20);
    // At QoS 1 it may be filled by what is sent twice.
    let (death, qos) = match scene.rng.bool() {
        true => (Death::Overflow(most), QoS::ExactlyOnce),
        false => (Death::Overflow(0), QoS::AtLeastOnce),
    };
    let mut actors = members::cast_of_mortals(&mut scene.rng, (death, qos), &scene.clock);
    for actor in &mut actors {
        (actor.may_be_refused, actor.may_be_full) = (true, true);
    }
    mortals(scene, actors)
}

/// Plays a seed in which sessions expire, by intervals that DISCONNECT may change; gives how many did.
pub(super) fn play_expiring(seed: u64, verbose: bool) -> Result<u64, String> {
    let mut scene = Scene::new(seed, Confirms::Truly, verbose);
    scene.settings.session.max_queued_messages = u32::MAX;
    scene.pace = *scene.rng.choice(&[20, 200, 1_000]).expect("some");
    scene.pause = *scene.rng.choice(&[1, 3_000, 20_000]).expect("some");
    scene.changes = scene.rng.bool();
    (scene.steps, scene.crashes) = (2_000..8_000, 1..20);
    let death = Death::Expiry(&[1, 2, 3, 5, 10, 30, 1_000]);
    let qos = if scene.rng.bool() { QoS::ExactlyOnce } else { QoS::AtLeastOnce };
    let actors = members::cast_of_mortals(&mut scene.rng, (death, qos), &scene.clock);
    mortals(scene, actors)
}

/// Plays a seed in which messages expire; gives how many came.
pub(super) fn play_hurrying(seed: u64, verbose: bool) -> Result<u64, String> {
    use QoS::{AtLeastOnce as One, ExactlyOnce as Two};
    let mut scene = Scene::new(seed, Confirms::Truly, verbose);
    (scene.fails, scene.changes) = (false, scene.rng.bool());
    scene.settings.session.max_queued_messages = u32::MAX;
    scene.pace = *scene.rng.choice(&[20, 200, 1_000]).expect("some");
    scene.pause = *scene.rng.choice(&[1, 3_000, 20_000]).expect("some");
    (scene.steps, scene.crashes) = (1_000..5_000, 1..15);
    let hurried = [("h/1", One, false), ("h/2", Two, false), ("h/r", Two, true)];
    let hurried =
        hurried.map(|(topic, qos, retain)| Hurried::new(topic, qos, retain, &scene.clock));
    let of = |actor: &Hurried| Actor::new(actor.topic, Version::V5, Role::Hurried(actor.clone()));
    let mut actors: Vec<_> = hurried.iter().map(of).collect();
    let patient = |name: &str, version, qos| {
        let patient = Patient::new("h/#", &hurried, &scene.clock);
        Actor::new(name, version, Role::Patient(patient, qos))
    };
    actors.push(patient("waits a", Version::V5, Two).lazy());
    actors.push(patient("waits b", Version::V5, One).lazy());
    actors.push(patient("waits c", Version::V311, Two).lazy());
    let mut late = [patient("late", Version::V5, Two).guest()];
    scene.go(&mut actors)?;
    compare(&actors)?;
    scene.drain(&mut late)?;
    if let Role::Patient(patient, _) = &late[0].role {
        patient.check_retained(&late[0].received)?;
    }
    Ok(collected(&actors))
}

fn mortals(mut scene: Scene, mut actors: Vec<Actor>) -> Result<u64, String> {
    scene.go(&mut actors)?;
    compare(&actors)?;
    nothing_is_left(&mut scene)?;
    Ok(collected(&actors))
}

/// Plays a seed in which topics retain Wills, and what others publish there; gives how often somebody found
/// something.
pub(super) fn play_wills(seed: u64, verbose: bool) -> Result<u64, String> {
    let mut scene = Scene::new(seed, Confirms::Truly, verbose);
    (scene.fails, scene.changes) = (false, scene.rng.bool());
    scene.pace = *scene.rng.choice(&[20, 200]).expect("some");
    (scene.steps, scene.crashes) = (1_000..6_000, 1..20);
    let registers = HERITAGES.map(|topic| (topic, Register::default()));
    scene.settings.shutdown_wills = scene.rng.bool();
    let without = !scene.settings.shutdown_wills;
    let mut actors = cast_for_wills(&registers, without, &mut scene.rng);
    scene.go(&mut actors)?;
    let filter = "w/#";
    let role = Role::Subscriber { filter, qos: QoS::AtLeastOnce };
    let mut late = Actor::new("late", Version::V5, role);
    scene.drain(std::slice::from_mut(&mut late))?;
    for (topic, register) in registers {
        let found = late.received.get(topic).and_then(|list| list.first()).copied();
        register.check(found, register.now()).map_err(|why| format!("{topic}: {why}"))?;
    }
    Ok(collected(&actors))
}

/// Topics that retain Wills.
const HERITAGES: [&str; 4] = ["w/a", "w/b", "w/c", "w/d"];

/// For each topic those who leave Wills to it, and others who write and read it.
fn cast_for_wills(
    registers: &[(&'static str, Register)],
    without_at_a_stop: bool,
    rng: &mut Rng,
) -> Vec<Actor> {
    let mut cast = Vec::new();
    for (topic, register) in registers {
        let mut add = |what: &str, role, rng: &mut Rng| {
            let version = match what {
                "reads" => Version::V5,
                _ => *rng.choice(&[Version::V311, Version::V5]).expect("some"),
            };
            cast.push(Actor::new(&format!("{what} {topic}"), version, role));
        };
        for what in ["dies", "dies too"].iter().take(rng.usize(1..=2)) {
            let dying = Dying::new(topic, u32::from(rng.bool())).retained(register);
            let dying = dying.without_wills_at_a_stop(without_at_a_stop);
            add(what, Role::Dying(dying), rng);
        }
        for what in ["sets", "sets too"].iter().take(rng.usize(1..=2)) {
            let qos = *rng.choice(&[QoS::AtLeastOnce, QoS::ExactlyOnce]).expect("some");
            add(what, Role::Setter(Setter::new(topic, register), qos), rng);
        }
        add("reads", Role::Reader(Reader::new(topic, register)), rng);
        let reader = cast.pop().expect("it is there");
        cast.push(reader.guest());
    }
    cast
}

/// Where nobody looks at what is retained, in the end.
fn compare(actors: &[Actor]) -> Result<(), String> {
    check::check(actors, &Actor::new("nobody", Version::V5, Role::Beginner))
}

/// On the disk, of what nobody waits for.
fn nothing_is_left(scene: &mut Scene) -> Result<(), String> {
    scene.pass(Duration::from_secs(2));
    let left = scene.broker.as_ref().expect("it runs").left(&mut scene.rng);
    match left.first() {
        None => Ok(()),
        Some(first) => Err(format!("{} records are left: {first}", left.len())),
    }
}

fn collected(actors: &[Actor]) -> u64 {
    actors.iter().map(|actor| actor.role.collected()).sum()
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
