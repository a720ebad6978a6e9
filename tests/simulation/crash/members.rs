//! Shared groups whose members are away, leave, end their sessions and come back.

use std::cell::Cell;
use std::rc::Rc;

use fastrand::Rng;
use sluice::mqtt::{QoS, Version};

use super::actor::{Actor, EndsBy, Role};
use super::mortal::{Death, Mortal};

/// A group that loses what was being sent at QoS 2 when a session ended [MQTT-4.8.2-4].
pub(super) const LOSING: &str = "$share/d/#";

/// Those who publish, those who get all of it, and groups of which one member stays; the store may fail.
pub(super) fn cast(rng: &mut Rng, fails: bool) -> Vec<Actor> {
    use QoS::{AtLeastOnce as One, ExactlyOnce as Two};
    const OFFERED: [(&str, QoS); 6] =
        [("m/1", One), ("m/2", Two), ("m/3", Two), ("m/4", Two), ("e/1", One), ("e/2", Two)];
    let mut cast: Vec<_> = OFFERED
        .map(|(topic, qos)| {
            let role =
                Role::Publisher { topic: topic.to_owned(), qos, retain: false, clears: false };
            Actor::new(topic, Version::V5, role)
        })
        .into();
    let mut add = |name: &str, version, role| {
        let actor = Actor::new(name, version, role);
        cast.push(if rng.u8(0..4) > 0 { actor.lazy() } else { actor });
    };
    let deserter = |filter, by| Role::Deserter { filter, qos: One, by };
    let forgetful = |by| Role::Deserter { filter: LOSING, qos: Two, by };
    let subscriber = |filter, qos| Role::Subscriber { filter, qos };
    let leaver = |filter, qos| Role::Leaver { filter, qos };
    add("all a", Version::V5, subscriber("#", Two));
    add("all b", Version::V311, subscriber("+/#", One));
    add("stays a", Version::V5, subscriber("$share/a/#", One));
    add("goes a", Version::V5, deserter("$share/a/#", EndsBy::Disconnect));
    add("ends a", Version::V5, deserter("$share/a/#", EndsBy::CleanStart));
    add("expires a", Version::V5, deserter("$share/a/#", EndsBy::Expiry));
    add("turns a", Version::V311, leaver("$share/a/#", One));
    add("stays b", Version::V311, subscriber("$share/b/#", Two));
    add("turns b", Version::V5, leaver("$share/b/#", Two));
    add("turns c", Version::V311, leaver("$share/b/#", Two));
    add("stays c", Version::V5, subscriber("$share/c/m/+", One));
    add("goes c", Version::V5, deserter("$share/c/m/+", EndsBy::Disconnect));
    add("expires c", Version::V5, deserter("$share/c/m/+", EndsBy::Expiry));
    add("stays d", Version::V5, subscriber(LOSING, Two));
    add("goes d", Version::V5, forgetful(EndsBy::Disconnect));
    add("ends d", Version::V5, forgetful(EndsBy::CleanStart));
    add("expires d", Version::V5, forgetful(EndsBy::Expiry));
    if !fails {
        // What is refused, because others cannot store it, comes to who stores nothing all the same.
        add("visits d", Version::V5, Role::Watcher { filter: LOSING, qos: Two });
    }
    cast
}

/// Few who publish, at QoS 1 but for one now and then, and few who are there and get it; and a group of them, of
/// which one stays.
pub(super) fn quick(rng: &mut Rng) -> Vec<Actor> {
    use QoS::{AtLeastOnce as One, ExactlyOnce as Two};
    let offered = [("m/1", One), ("m/2", One), ("m/3", if rng.u8(0..4) == 0 { Two } else { One })];
    let mut cast = Vec::new();
    for (topic, qos) in offered.into_iter().take(rng.usize(1..=3)) {
        let version = *rng.choice(&[Version::V311, Version::V5]).expect("some");
        let role = Role::Publisher { topic: topic.to_owned(), qos, retain: false, clears: false };
        let publisher = Actor::new(topic, version, role);
        cast.push(if rng.bool() { publisher.guest() } else { publisher });
    }
    let mut add = |name: &str, role| cast.push(Actor::new(name, Version::V5, role));
    add("one", Role::Subscriber { filter: "m/1", qos: One });
    if rng.bool() {
        add("all", Role::Subscriber { filter: "#", qos: One });
    }
    if rng.bool() {
        let filter = "$share/a/#";
        let by =
            *rng.choice(&[EndsBy::Disconnect, EndsBy::CleanStart, EndsBy::Expiry]).expect("some");
        add("stays", Role::Subscriber { filter, qos: One });
        add("goes", Role::Deserter { filter, qos: One, by });
    }
    cast
}

/// Those who publish more than others take.
pub(super) fn cast_for_dropping(rng: &mut Rng) -> Vec<Actor> {
    use QoS::{AtLeastOnce as One, ExactlyOnce as Two};
    const TOPICS: [(&str, QoS); 5] =
        [("f/0", Two), ("f/1", Two), ("f/2", Two), ("f/3", One), ("f/4", One)];
    let mut cast: Vec<_> = TOPICS
        .map(|(topic, qos)| {
            let role =
                Role::Publisher { topic: topic.to_owned(), qos, retain: false, clears: false };
            Actor::new(topic, Version::V5, role)
        })
        .into();
    for (name, filter) in
        [("all a", "#"), ("all b", "f/#"), ("one a", "f/0"), ("one b", "f/1"), ("one c", "f/3")]
    {
        let qos = if rng.u8(0..4) == 0 { Two } else { One };
        let subscriber = Actor::new(name, Version::V5, Role::Subscriber { filter, qos });
        cast.push(if rng.u8(0..4) == 0 { subscriber.lazy() } else { subscriber });
    }
    cast
}

/// Those who publish, and those whose sessions end by themselves.
pub(super) fn cast_of_mortals(
    rng: &mut Rng,
    (death, qos): (Death, QoS),
    clock: &Rc<Cell<u64>>,
) -> Vec<Actor> {
    use QoS::{AtLeastOnce as One, ExactlyOnce as Two};
    let mut cast: Vec<_> = ["f/0", "f/1", "f/2"]
        .map(|topic| {
            let version = *rng.choice(&[Version::V311, Version::V5]).expect("some");
            let topic = topic.to_owned();
            let role = Role::Publisher { topic: topic.clone(), qos, retain: false, clears: false };
            Actor::new(&topic, version, role)
        })
        .into();
    let sources: Vec<_> =
        cast.iter().map(|actor| (actor.name.clone(), actor.sent.clone())).collect();
    for (name, filter) in [("all a", "f/#"), ("all b", "f/+"), ("one a", "f/0"), ("one b", "f/1")] {
        let qos = if rng.bool() { Two } else { One };
        let version = match death {
            Death::Expiry(_) => Version::V5,
            Death::Overflow(_) => *rng.choice(&[Version::V311, Version::V5]).expect("some"),
        };
        let mut mortal = Mortal::new(filter, death, clock);
        let heard = sources
            .iter()
            .filter(|(topic, _)| topic == filter || !filter.ends_with(char::is_numeric));
        mortal.listens_to(heard.cloned().collect());
        let actor = Actor::new(name, version, Role::Mortal(mortal, qos));
        cast.push(if rng.u8(0..4) > 0 { actor.lazy() } else { actor });
    }
    cast.push(Actor::new("watches", Version::V5, Role::Watcher { filter: "f/#", qos: Two }));
    cast
}
