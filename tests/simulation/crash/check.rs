//! What the actors saw has to fit together.

use std::collections::BTreeSet;

use sluice::mqtt::QoS;

use super::actor::{Actor, Role};

pub(super) fn retains(actor: &Actor) -> bool {
    matches!(actor.role, Role::Publisher { retain: true, .. })
}

fn filter(actor: &Actor) -> Option<(&'static str, QoS)> {
    match actor.role {
        Role::Subscriber { filter, qos } | Role::Deserter { filter, qos } => Some((filter, qos)),
        Role::Publisher { .. } => None,
    }
}

/// Every message that was acknowledged reached everybody, in order, at QoS 2 once.
pub(super) fn check(actors: &[Actor]) -> Result<(), String> {
    for publisher in actors {
        let Role::Publisher { topic, qos, .. } = &publisher.role else { continue };
        for actor in actors {
            let Some((filter, granted)) = filter(actor) else { continue };
            let group = filter.starts_with("$share/");
            let plain = filter.rsplit('/').nth(1).unwrap_or_default();
            if !topic.starts_with(plain) {
                continue;
            }
            let exactly_once = qos.min(&granted) == &QoS::ExactlyOnce;
            let received = |actor: &Actor| actor.received.get(topic).cloned().unwrap_or_default();
            let all = match group {
                true => actors
                    .iter()
                    .filter(|other| self::filter(other).is_some_and(|(of, _)| of == filter))
                    .flat_map(received)
                    .collect(),
                false => received(actor),
            };
            complete(publisher, &actor.name, &all, exactly_once)?;
            if !group {
                in_order(topic, &actor.name, &all)?;
            }
        }
    }
    Ok(())
}

fn complete(publisher: &Actor, name: &str, all: &[u32], exactly_once: bool) -> Result<(), String> {
    let topic = &publisher.name;
    let distinct: BTreeSet<u32> = all.iter().copied().collect();
    if let Some(lost) = publisher.acknowledged.difference(&distinct).next() {
        return Err(format!("{name} never got {lost} of {topic}: {all:?}"));
    }
    if let Some(strange) = distinct.iter().find(|number| **number >= publisher.sent) {
        return Err(format!("{name} got {strange} of {topic}, which was never sent"));
    }
    if exactly_once && all.len() != distinct.len() {
        return Err(format!("{name} got some of {topic} twice: {all:?}"));
    }
    Ok(())
}

/// What comes again may come out of order; its first coming must not.
fn in_order(topic: &str, name: &str, all: &[u32]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    let first: Vec<_> = all.iter().filter(|number| seen.insert(**number)).collect();
    match first.is_sorted() {
        true => Ok(()),
        false => Err(format!("{name} got {topic} out of order: {all:?}")),
    }
}

/// The retained value is the last that was acknowledged: all was, at the end.
pub(super) fn retained(publisher: &Actor, late: &Actor) -> Result<(), String> {
    let found = late.received.get(&publisher.name).and_then(|list| list.first()).copied();
    let wanted = publisher.sent.checked_sub(1);
    match found == wanted {
        true => Ok(()),
        false => Err(format!("retained on {}: {found:?}, not {wanted:?}", publisher.name)),
    }
}
