//! Scenarios of many connections: what one costs in memory, and in CPU time to let it in.

use std::thread;
use std::time::Duration;

use sluice::mqtt::QoS;

use super::{Parameters, RunError, ScenarioName, Setup};
use crate::engine::{ClientSpec, Subscription};
use crate::measure::Reading;
use crate::report::{Outcome, Problem, Status, Work};

/// The broker may still have work to do when the last client knows that it is in.
const SETTLE: Duration = Duration::from_millis(50);

/// What is freed late shall not be counted as a connection's memory.
const SETTLE_MEMORY: Duration = Duration::from_secs(1);

/// Fewer connections than this are less than a step in which memory is taken.
const LEAST_HALVED: u32 = 500;

pub(super) fn run(
    scenario: ScenarioName,
    setup: &Setup,
    parameters: &Parameters,
) -> Result<Outcome, RunError> {
    let clients = parameters.clients;
    let mut engine = setup.engine(clients as usize)?;
    let client = |n: u32| ClientSpec {
        client_id: format!("{}-c{n}", setup.id_prefix),
        subscription: Some(Subscription {
            filters: vec![format!("bench/{n}")],
            qos: QoS::AtMostOnce,
        }),
        ..ClientSpec::default()
    };
    let is_measured = !setup.broker.is_empty();
    let resident_before = if is_measured { Some(setup.broker.resident_bytes()?) } else { None };
    let mut resident_between = None;
    let before = Reading::take(&setup.broker);
    let mut next = 0;
    if scenario == ScenarioName::Idle && is_measured && clients >= LEAST_HALVED {
        next = clients / 2;
        (0..next).for_each(|n| engine.add_client(client(n)));
        engine.connect_all()?;
        resident_between = Some(setup.broker.resident_bytes()?);
    }
    (next..clients).for_each(|n| engine.add_client(client(n)));
    engine.connect_all()?;
    let all_in = Reading::take(&setup.broker);
    thread::sleep(SETTLE);
    let settled = Reading::take(&setup.broker);
    let mut problems = Vec::new();
    let mut resident_after = None;
    if scenario == ScenarioName::Idle && is_measured {
        engine.run_for(SETTLE_MEMORY)?;
        resident_after = Some(setup.broker.resident_bytes()?);
        let connected = engine.connected();
        if connected < clients as usize {
            let text = format!("only {connected} of {clients} connections stood");
            problems.push(Problem::new(Status::Connections, text));
        }
    }
    let outcome = Outcome {
        work: match scenario {
            ScenarioName::Idle => Work::Connections(u64::from(clients)),
            _ => Work::Logins(u64::from(clients)),
        },
        elapsed: before.until(&all_in).elapsed,
        broker_cpu_ns: before.until(&settled).broker_cpu_ns,
        own_cpu_ns: before.until(&all_in).own_cpu_ns,
        others_cores: before.until(&settled).others_cores,
        latencies: engine.latencies(),
        resident_before,
        resident_between,
        resident_bytes: resident_after,
        problems,
        ..Outcome::default()
    };
    engine.disconnect_all()?;
    Ok(outcome)
}
