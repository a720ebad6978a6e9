//! What the actors saw has to fit together.

use std::collections::BTreeSet;

use sluice::mqtt::QoS;
use sluice_bench::torture::{self, History, Published, Read, Received};

use super::actor::{Actor, Role};

pub(super) fn retains(actor: &Actor) -> bool {
    matches!(actor.role, Role::Publisher { retain: true, .. })
}

/// What a sleeper got is in order, at QoS 2 once; what it did not get may have expired.
fn check_sleeper(sleeper: &Actor) -> Result<(), String> {
    for (topic, numbers) in &sleeper.received {
        let mut seen = BTreeSet::new();
        let new: Vec<_> = numbers.iter().filter(|number| seen.insert(**number)).collect();
        let twice = topic.ends_with("/2") && new.len() < numbers.len();
        if twice && matches!(sleeper.role, Role::Sleeper { qos: QoS::ExactlyOnce, .. }) {
            return Err(format!("{}: {topic} at QoS 2 comes twice: {numbers:?}", sleeper.name));
        }
        if !new.is_sorted() {
            return Err(format!("{}: {topic} is not in order: {numbers:?}", sleeper.name));
        }
    }
    Ok(())
}

/// Every message that was acknowledged reached everybody, in order, at QoS 2 once; `late` found the
/// last value of each that is retained: all were acknowledged, at the end.
pub(super) fn check(actors: &[Actor], late: &Actor) -> Result<(), String> {
    let mut history = History::default();
    for actor in actors {
        match &actor.role {
            Role::Publisher { .. } if actor.is_brief() => {}
            Role::Publisher { topic, qos, .. } => history.published.push(Published {
                client: actor.name.clone(),
                topic: topic.clone(),
                qos: *qos,
                sent: actor.sent,
                acknowledged: actor.acknowledged.clone(),
                refused: BTreeSet::new(),
            }),
            Role::Beginner => {}
            Role::Sleeper { .. } => check_sleeper(actor)?,
            Role::Subscriber { filter, qos }
            | Role::Deserter { filter, qos }
            | Role::Leaver { filter, qos } => {
                history.received.push(Received {
                    client: actor.name.clone(),
                    filter: (*filter).to_owned(),
                    qos: *qos,
                    numbers: actor.received.clone(),
                });
            }
        }
    }
    for publisher in actors.iter().filter(|actor| retains(actor)) {
        history.reads.push(Read {
            topic: publisher.name.clone(),
            acknowledged: publisher.sent.checked_sub(1),
            found: late.received.get(&publisher.name).and_then(|list| list.first()).copied(),
            sent: publisher.sent,
        });
    }
    let verdict = torture::check(&history);
    if verdict.is_right() { Ok(()) } else { Err(verdict.to_string()) }
}
