//! Scenarios of many connections: what one costs in memory, and in CPU time to let it in.

use std::ops::Range;
use std::time::Duration;

use sluice::mqtt::QoS;

use super::{Parameters, RunError, ScenarioName, Setup};
use crate::engine::{ClientSpec, EngineError, Fleet, Subscription};
use crate::measure::Reading;
use crate::report::{Outcome, Problem, Work};

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
    let mut engine = setup.engine(clients as usize, parameters.spin)?;
    let is_weighed = scenario == ScenarioName::Idle && !setup.broker.is_empty();
    let half = if is_weighed && clients >= LEAST_HALVED { clients / 2 } else { 0 };
    // Of a broker that has died there is nothing to be read; what else is known of it stands.
    let resident = || setup.broker.resident_bytes().ok().filter(|bytes| *bytes > 0);
    let resident_before = resident();
    let mut resident_between = None;
    let before = Reading::take(&setup.broker);
    let mut ended = Ok(());
    if half > 0 {
        ended = connect(&mut engine, setup, 0..half);
        resident_between = resident().filter(|_| ended.is_ok());
    }
    if ended.is_ok() {
        ended = connect(&mut engine, setup, half..clients);
    }
    let all_in = Reading::take(&setup.broker);
    let count = engine.counters().ready;
    if count == 0 {
        ended?;
        ended = Ok(());
    }
    // Whose connection was closed meanwhile is to be seen, too.
    let ended = ended.and(engine.run_for(SETTLE));
    let settled = Reading::take(&setup.broker);
    let ended = match ended {
        Ok(()) if is_weighed => engine.run_for(SETTLE_MEMORY),
        ended => ended,
    };
    let resident_bytes = resident().filter(|_| is_weighed);
    let mut problems: Vec<Problem> = Problem::with_end(ended)?.into_iter().collect();
    problems.extend(Problem::with_connections(&engine));
    let outcome = Outcome {
        work: match scenario {
            ScenarioName::Idle => Work::Connections(count),
            _ => Work::Logins(count),
        },
        elapsed: before.until(&all_in).elapsed,
        broker_cpu_ns: before.until(&settled).broker_cpu_ns,
        own_cpu_ns: before.until(&all_in).own_cpu_ns,
        others_cores: before.until(&settled).others_cores,
        stolen_cores: before.until(&settled).stolen_cores,
        latencies: engine.latencies(),
        resident_before,
        resident_between,
        resident_bytes,
        problems,
        ..Outcome::default()
    };
    engine.disconnect_all()?;
    Ok(outcome)
}

/// Lets these clients in.
fn connect(engine: &mut Fleet, setup: &Setup, clients: Range<u32>) -> Result<(), EngineError> {
    for n in clients {
        engine.add_client(ClientSpec {
            client_id: format!("{}-c{n}", setup.id_prefix),
            subscription: Some(Subscription {
                filters: vec![format!("bench/{n}")],
                qos: QoS::AtMostOnce,
            }),
            ..ClientSpec::default()
        });
    }
    engine.connect_all()
}
