//! What the actors saw has to fit together.

use std::collections::{BTreeMap, BTreeSet};

use sluice::mqtt::QoS;
use sluice_bench::torture::{self, History, Published, Read, Received};

use super::actor::{Actor, CLEARS_EVERY, Role};
use super::dying::Dying;
use super::fickle::{Fickle, TOPIC};
use super::members::LOSING;

/// What a sleeper got is in order, at QoS 2 once; what it did not get may have expired. The first of
/// two equal ones may have, and the second comes after what was published between them.
fn check_sleeper(sleeper: &Actor, actors: &[Actor]) -> Result<(), String> {
    for (topic, numbers) in &sleeper.received {
        let mut seen = BTreeSet::new();
        let mut new: Vec<_> = numbers.iter().filter(|number| seen.insert(**number)).collect();
        let twice = topic.ends_with("/2") && new.len() < numbers.len();
        if twice && matches!(sleeper.role, Role::Sleeper { qos: QoS::ExactlyOnce, .. }) {
            return Err(format!("{}: {topic} at QoS 2 comes twice: {numbers:?}", sleeper.name));
        }
        let publisher =
            actors.iter().find(|actor| actor.name == *topic).ok_or("nobody publishes")?;
        let is_once = matches!(publisher.role, Role::Publisher { qos: QoS::ExactlyOnce, .. });
        if !is_once || publisher.may_be_refused {
            new.retain(|number| !publisher.repeated.contains(number));
        }
        if !new.is_sorted() {
            return Err(format!("{}: {topic} is not in order: {numbers:?}", sleeper.name));
        }
    }
    Ok(())
}

/// Every message that was acknowledged reached everybody, in order, at QoS 2 once, and so did every Will
/// that was due; `late` found the last value of each that is retained: all were acknowledged, at the end.
pub(super) fn check(actors: &[Actor], late: &Actor) -> Result<(), String> {
    let mut history = History::default();
    for actor in actors {
        match &actor.role {
            Role::Publisher { topic, qos, clears, .. } => {
                history.published.push(published(actor, topic, *qos, *clears));
            }
            Role::Beginner | Role::Watcher { .. } | Role::Founder { .. } => {}
            Role::Setter(..) | Role::Reader(_) | Role::Hurried(_) => {}
            Role::Patient(patient, _) => {
                let checked = patient.check(&actor.received);
                checked.map_err(|why| format!("{}: {why}", actor.name))?;
            }
            Role::Mortal(mortal, qos) => {
                let checked = mortal.check(*qos, actors);
                checked.map_err(|why| format!("{}: {why}", actor.name))?;
            }
            Role::Collector(collector) => {
                let all = actors.iter().find_map(|actor| match actor.role {
                    Role::Founder { count } => Some(count),
                    _ => None,
                });
                let checked = collector.check(all.unwrap_or(0));
                checked.map_err(|why| format!("{}: {why}", actor.name))?;
            }
            Role::Dying(Dying { heritage: Some(_), .. }) => {}
            Role::Dying(dying) => history.published.push(wills(actor, dying)),
            Role::Fickle(fickle) => steadiness(actor, fickle, actors)?,
            Role::Sleeper { .. } => check_sleeper(actor, actors)?,
            Role::Subscriber { filter: LOSING, .. } | Role::Deserter { filter: LOSING, .. } => {}
            Role::Subscriber { filter, qos }
            | Role::Deserter { filter, qos, .. }
            | Role::Leaver { filter, qos } => {
                history.received.push(Received {
                    client: actor.name.clone(),
                    filter: (*filter).to_owned(),
                    qos: *qos,
                    numbers: numbers_of(actor, actors),
                });
            }
        }
    }
    once_between_them(actors)?;
    history.reads.extend(actors.iter().filter_map(|actor| read(actor, late)));
    let verdict = torture::check(&history);
    if verdict.is_right() { Ok(()) } else { Err(verdict.to_string()) }
}

/// What a publisher has sent, and what of it has to have come.
fn published(actor: &Actor, topic: &str, qos: QoS, clears: bool) -> Published {
    // Any message of one that is brief may have expired.
    let acknowledged = match clears {
        _ if actor.is_brief() || actor.may_be_dropped => BTreeSet::new(),
        true => with_a_number(&actor.acknowledged),
        false => actor.acknowledged.clone(),
    };
    let is_ordered = match actor.is_brief() {
        true => qos == QoS::ExactlyOnce && !actor.may_be_refused,
        false => overtaken(actor).is_none(),
    };
    Published {
        client: actor.name.clone(),
        topic: topic.to_owned(),
        qos,
        sent: actor.sent.get(),
        acknowledged,
        refused: actor.refused.clone(),
        is_ordered,
    }
}

/// What `late` has found retained of a publisher, if that retains.
fn read(publisher: &Actor, late: &Actor) -> Option<Read> {
    let Role::Publisher { topic, retain: true, clears, .. } = &publisher.role else { return None };
    Some(Read {
        topic: topic.clone(),
        acknowledged: publisher.acknowledged.last().map(|&last| match overtaken(publisher) {
            Some(first) => first.min(last),
            None => last,
        }),
        found: late.received.get(topic).and_then(|list| list.first()).copied(),
        sent: publisher.sent.get(),
        clears_every: if *clears { CLEARS_EVERY } else { 0 },
    })
}

/// What is published at QoS 2 comes once to a group that may lose it. Not counted is what a member had whose session
/// ended with the broker: that its publisher may repeat, and it is new to those who are there then.
fn once_between_them(actors: &[Actor]) -> Result<(), String> {
    let is_member = |actor: &&Actor| {
        let is_of_it = actor.role.filter().is_some_and(|(of, _)| of == LOSING);
        is_of_it && !matches!(actor.role, Role::Watcher { .. })
    };
    let mut seen = BTreeSet::new();
    for actor in actors.iter().filter(is_member) {
        for (topic, number) in
            actor.received.iter().flat_map(|(t, all)| all.iter().map(move |n| (t, n)))
        {
            let is_publisher = |other: &&Actor| other.name == *topic;
            let role = actors.iter().find(is_publisher).map(|publisher| &publisher.role);
            let is_once = matches!(role, Some(Role::Publisher { qos: QoS::ExactlyOnce, .. }));
            if is_once && !seen.insert((topic, number)) {
                return Err(format!("{}: {number} of {topic} comes twice", actor.name));
            }
        }
    }
    Ok(())
}

/// The first that may have come behind later ones: a v5 client that has not heard of a refusal repeats what
/// the broker has taken others after, and so does a 3.x client for which there was no room.
fn overtaken(publisher: &Actor) -> Option<u32> {
    let may_be = publisher.may_be_refused && publisher.version.is_v5() || publisher.may_be_full;
    publisher.repeated.first().copied().filter(|_| may_be)
}

/// What it received. Of what may be dropped a first sending may have been, and the second comes behind what came
/// in between: that is left out.
fn numbers_of(receiver: &Actor, actors: &[Actor]) -> BTreeMap<String, Vec<u32>> {
    let mut received = receiver.received.clone();
    for (topic, numbers) in &mut received {
        let publisher = actors
            .iter()
            .find(|actor| (actor.may_be_dropped || actor.is_brief()) && actor.name == *topic);
        if let Some(publisher) = publisher {
            numbers.retain(|number| !publisher.repeated.contains(number));
        }
    }
    received
}

/// Those that did not clear what is retained.
fn with_a_number(acknowledged: &BTreeSet<u32>) -> BTreeSet<u32> {
    let numbers = acknowledged.iter().copied();
    numbers.filter(|number| !(number + 1).is_multiple_of(CLEARS_EVERY)).collect()
}

/// Those of a client that is connected: its last one is not to come.
fn wills(actor: &Actor, dying: &Dying) -> Published {
    Published {
        client: actor.name.clone(),
        topic: dying.topic.to_owned(),
        qos: QoS::ExactlyOnce,
        sent: dying.begun - 1,
        acknowledged: dying.due.clone(),
        refused: BTreeSet::new(),
        // Of two connections the later one may end first.
        is_ordered: false,
    }
}

/// It got nothing twice; and what was published at the end, if it is subscribed.
fn steadiness(actor: &Actor, fickle: &Fickle, actors: &[Actor]) -> Result<(), String> {
    let name = &actor.name;
    let publisher = actors.iter().find(|actor| actor.name == TOPIC).ok_or("nobody publishes")?;
    let numbers = actor.received.get(TOPIC).map_or(&[][..], Vec::as_slice);
    let mut seen = BTreeSet::new();
    if let Some(twice) = numbers.iter().find(|number| !seen.insert(**number)) {
        return Err(format!("{name}: {twice} came twice"));
    }
    let is_there = seen.contains(&(publisher.sent.get() - 1));
    match is_there == fickle.is_subscribed {
        true => Ok(()),
        false => Err(format!("{name}: subscribed {}, got {is_there}", fickle.is_subscribed)),
    }
}
