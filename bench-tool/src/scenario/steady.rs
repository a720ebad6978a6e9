//! Scenarios with a steady stream of messages: pairs, fan-out, fan-in.

use std::time::Duration;

use sluice::mqtt::QoS;

use super::{Ballast, Parameters, Reading, RunError, ScenarioName, Setup};
use crate::engine::{ClientSpec, Counters, Engine, EngineError, FlowSpec, Subscription};
use crate::report::{Outcome, Work};

/// After the measured time, how long to wait for the next of the messages that are still missing.
const DRAIN_PATIENCE: Duration = Duration::from_secs(3);

/// After further subscriptions: what making them took is freed, and shards tell each other.
const SETTLE: Duration = Duration::from_secs(1);

pub(super) fn run(
    scenario: ScenarioName,
    setup: &Setup,
    parameters: &Parameters,
) -> Result<Outcome, RunError> {
    let clients = clients(scenario, &setup.id_prefix, parameters);
    let ballast = ballast_clients(&setup.id_prefix, parameters.ballast);
    let mut engine = setup.engine(clients.len() + ballast.len())?;
    let ballast_bytes = load_ballast(&mut engine, setup, ballast)?;
    clients.into_iter().for_each(|client| engine.add_client(client));
    engine.connect_all()?;
    engine.set_publishing(true);
    engine.run_for(Duration::from_secs_f64(parameters.warm_up_seconds))?;
    engine.forget_latencies();
    let counters_before = engine.counters();
    let before = Reading::take(&setup.broker)?;
    let ended = engine.run_for(Duration::from_secs_f64(parameters.seconds));
    let after = Reading::take(&setup.broker)?;
    let counters = engine.counters();
    let resident_bytes = setup.broker.resident_bytes().ok().filter(|bytes| *bytes > 0);

    let spent = before.until(&after);
    let mut outcome = Outcome {
        work: Work::Messages(counters.delivered - counters_before.delivered),
        sent: counters.sent - counters_before.sent,
        elapsed: spent.elapsed,
        broker_cpu_ns: spent.broker_cpu_ns,
        own_cpu_ns: spent.own_cpu_ns,
        others_cores: spent.others_cores,
        latencies: engine.latencies().clone(),
        resident_bytes,
        ballast: parameters.ballast.subscriptions,
        ballast_bytes,
        ..Outcome::default()
    };
    finish(&mut engine, parameters.qos, ended, &mut outcome)?;
    Ok(outcome)
}

/// Lets the last messages arrive, and says what went wrong.
fn finish(
    engine: &mut Engine,
    qos: QoS,
    ended: Result<(), EngineError>,
    outcome: &mut Outcome,
) -> Result<(), RunError> {
    match ended {
        Err(EngineError::Interrupted) => outcome.problems.push("interrupted".into()),
        ended => ended?,
    }
    engine.set_publishing(false);
    engine.drain(DRAIN_PATIENCE)?;
    let faults = engine.faults();
    let Counters { failed, refused, given_up, .. } = engine.counters();
    outcome.faults = faults;
    outcome.given_up = given_up;
    let mut problem = |is_one: bool, text: String| {
        if is_one {
            outcome.problems.push(text);
        }
    };
    let first = engine.first_failure().unwrap_or_default();
    problem(failed > 0, format!("{failed} connections failed, the first: {first}"));
    problem(refused > 0, format!("{refused} messages were refused by the broker"));
    let may_lose = qos == QoS::AtMostOnce;
    problem(!may_lose && faults.lost > 0, format!("{} messages were lost", faults.lost));
    let may_repeat = qos == QoS::AtLeastOnce;
    let duplicates = faults.duplicates;
    problem(!may_repeat && duplicates > 0, format!("{duplicates} messages came twice"));
    problem(faults.reordered > 0, format!("{} messages were overtaken", faults.reordered));
    if outcome.work == Work::Messages(0) {
        outcome.problems.push("not one message was delivered".into());
    }
    engine.disconnect_all()?;
    Ok(())
}

/// Subscribers and publishers, in the order in which they connect.
fn clients(scenario: ScenarioName, prefix: &str, parameters: &Parameters) -> Vec<ClientSpec> {
    let Parameters { publishers, subscribers, qos, window, payload_len, .. } = *parameters;
    let is_pairs = scenario == ScenarioName::P2p;
    let subscribers = if is_pairs { publishers } else { subscribers };
    let subscriber = |n: u32| ClientSpec {
        client_id: format!("{prefix}-s{n}"),
        subscription: Some(Subscription::One {
            filter: match (is_pairs, publishers) {
                (true, _) => topic(n),
                (false, 1) => topic(0),
                (false, _) => "bench/+".into(),
            },
            qos,
        }),
        receives_from: if is_pairs { n..n + 1 } else { 0..publishers },
        publishes: None,
    };
    let publisher = |n: u32| ClientSpec {
        client_id: format!("{prefix}-p{n}"),
        subscription: None,
        receives_from: 0..0,
        publishes: Some(FlowSpec {
            topic: topic(n),
            qos,
            payload_len,
            window,
            receivers: if is_pairs { 1 } else { subscribers },
        }),
    };
    (0..subscribers).map(subscriber).chain((0..publishers).map(publisher)).collect()
}

/// The clients that hold the further subscriptions.
fn ballast_clients(prefix: &str, ballast: Ballast) -> Vec<ClientSpec> {
    let Ballast { subscriptions, per_client, per_packet } = ballast;
    let starts = (0..subscriptions).step_by(per_client.max(1) as usize);
    let client = |start: u32| ClientSpec {
        client_id: format!("{prefix}-b{start}"),
        subscription: Some(Subscription::Ballast {
            numbers: start..subscriptions.min(start.saturating_add(per_client)),
            per_packet,
        }),
        receives_from: 0..0,
        publishes: None,
    };
    starts.map(client).collect()
}

/// Connects and subscribes them; says by how much the broker's memory grew, if that can be known.
fn load_ballast(
    engine: &mut Engine,
    setup: &Setup,
    clients: Vec<ClientSpec>,
) -> Result<Option<u64>, RunError> {
    if clients.is_empty() {
        return Ok(None);
    }
    let resident = || setup.broker.resident_bytes().ok().filter(|bytes| *bytes > 0);
    let before = resident();
    clients.into_iter().for_each(|client| engine.add_client(client));
    engine.connect_all()?;
    engine.run_for(SETTLE)?;
    Ok(resident().zip(before).map(|(after, before)| after.saturating_sub(before)))
}

fn topic(publisher: u32) -> String {
    format!("bench/{publisher}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(client: &ClientSpec) -> String {
        client.subscription.clone().unwrap().next().unwrap().0.remove(0)
    }

    #[test]
    fn ballast_is_spread_over_clients() {
        let ballast = Ballast { subscriptions: 25, per_client: 10, per_packet: 4 };
        let clients = ballast_clients("x", ballast);
        let numbers = clients.iter().map(|client| match &client.subscription {
            Some(Subscription::Ballast { numbers, per_packet: 4 }) => numbers.clone(),
            other => panic!("{other:?}"),
        });
        assert_eq!(numbers.collect::<Vec<_>>(), [0..10, 10..20, 20..25]);
        assert!(ballast_clients("x", Ballast::default()).is_empty());
    }

    #[test]
    fn pairs_are_pairs() {
        let parameters = Parameters { publishers: 3, ..ScenarioName::P2p.defaults() };
        let clients = clients(ScenarioName::P2p, "x", &parameters);
        assert_eq!(clients.len(), 6);
        assert_eq!(filter(&clients[2]), "bench/2");
        assert_eq!(clients[2].receives_from, 2..3);
        let flow = clients[5].publishes.as_ref().unwrap();
        assert_eq!((flow.topic.as_str(), flow.receivers), ("bench/2", 1));
    }

    #[test]
    fn a_fan_out_has_one_topic_and_as_many_receivers_as_subscribers() {
        let clients = clients(ScenarioName::Fanout, "x", &ScenarioName::Fanout.defaults());
        assert_eq!(clients.len(), 501);
        assert_eq!(filter(&clients[499]), "bench/0");
        assert_eq!(clients[500].publishes.as_ref().unwrap().receivers, 500);
    }
}
