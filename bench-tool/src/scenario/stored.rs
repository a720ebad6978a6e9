//! Scenarios about what a broker keeps: retained messages, and queues of absent clients.

use std::time::Duration;

use sluice::mqtt::QoS;

use super::leftovers::{forget_sessions, note_left_behind};
use super::steady::{NONE_BETWEEN_TOPICS, finish};
use super::{Parameters, RunError, ScenarioName, Setup};
use crate::engine::{
    ClientSpec, Counters, EngineError, Fleet, FlowSpec, Receives, Session, Stage, Subscription,
};
use crate::measure::Reading;
use crate::report::{Outcome, Problem, Status, Work};

/// Without progress for this long, filling or fetching is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Stores retained messages, lets everybody subscribe to all of them, and removes them.
pub(super) fn run_retained(setup: &Setup, parameters: &Parameters) -> Result<Outcome, RunError> {
    let Parameters { subscribers, messages, qos, payload_len, .. } = *parameters;
    let prefix = &setup.id_prefix;
    let mut engine =
        setup.engine(parameters.connections(ScenarioName::Retained), parameters.spin)?;
    let limit = Some(u64::from(messages));
    let store = FlowSpec {
        retain: true,
        topics: messages.max(2),
        limit,
        receivers: 0,
        ..FlowSpec::new(RETAINED.into(), QoS::AtLeastOnce, payload_len, parameters.window)
    };
    engine.add_client(ClientSpec {
        client_id: format!("{prefix}-p0"),
        publishes: Some(store.clone()),
        ..ClientSpec::default()
    });
    engine.connect_all()?;
    let resident_before = setup.broker.resident_bytes().ok().filter(|bytes| *bytes > 0);
    let filling = Reading::take(&setup.broker);
    setup.monitor.enter(Stage::Measuring);
    engine.set_publishing(true);
    let stored = engine.finish_flows(PATIENCE);
    let filled = Reading::take(&setup.broker);
    let kept = engine.counters().acknowledged;
    let resident_bytes = setup.broker.resident_bytes().ok().filter(|bytes| *bytes > 0);
    engine.forget_latencies();
    let before = Reading::take(&setup.broker);
    let is_stored = matches!(stored, Ok(true));
    let mut ended = stored.map(drop);
    if ended.is_ok() && !engine.is_abandoned() {
        for n in 0..subscribers {
            engine.add_client(ClientSpec {
                client_id: format!("{prefix}-s{n}"),
                subscription: Some(Subscription { filters: vec![format!("{RETAINED}/#")], qos }),
                receives: Receives::From(0..1),
                latency_since_login: true,
                ..ClientSpec::default()
            });
        }
        ended = fetch(&mut engine, u64::from(subscribers) * u64::from(messages));
    }
    let mut outcome = measure(setup, &engine, &before)?;
    outcome.remarks.push(("stored", speed(kept, &filling, &filled)));
    outcome.remarks.extend(memory(resident_before, resident_bytes, kept));
    outcome.resident_bytes = resident_bytes;
    if !is_stored && ended.is_ok() {
        let text = "not all retained messages were acknowledged";
        outcome.problems.push(Problem::new(Status::Messages, text));
    }
    outcome.unordered = Some(NONE_BETWEEN_TOPICS);
    let is_fetched = ended.is_ok() && !engine.is_abandoned();
    // Lost is what did not come at any QoS: a retained message has no excuse.
    conclude(&mut engine, QoS::AtLeastOnce, subscribers, is_fetched, ended, &mut outcome)?;
    let removed = remove_retained(setup, FlowSpec { payload_len: 0, ..store });
    note_left_behind("retained messages", removed, &mut outcome);
    Ok(outcome)
}

const RETAINED: &str = "bench/retained";

/// Lets everybody in who is to fetch, and waits for so many messages.
fn fetch(engine: &mut Fleet, expected: u64) -> Result<(), EngineError> {
    engine.connect_all()?;
    engine.receive_until(expected, PATIENCE).map(drop)
}

/// What nobody was there to fetch to the end is not lost.
fn conclude(
    engine: &mut Fleet,
    qos: QoS,
    later: u32,
    is_fetched: bool,
    ended: Result<(), EngineError>,
    outcome: &mut Outcome,
) -> Result<(), RunError> {
    let judged = if is_fetched { qos } else { QoS::AtMostOnce };
    finish(engine, judged, later, ended, outcome)?;
    if !is_fetched {
        outcome.faults.lost = 0;
    }
    Ok(())
}

/// An empty retained message removes the one that is there.
fn remove_retained(setup: &Setup, remove: FlowSpec) -> Result<(), RunError> {
    let mut engine = setup.engine(1, false)?;
    engine.add_client(ClientSpec {
        client_id: format!("{}-p0", setup.id_prefix),
        publishes: Some(remove),
        ..ClientSpec::default()
    });
    engine.connect_all()?;
    engine.set_publishing(true);
    engine.finish_flows(PATIENCE)?;
    engine.disconnect_all()?;
    Ok(())
}

/// For each queue one that fills it.
fn add_queue_publishers(engine: &mut Fleet, setup: &Setup, parameters: &Parameters) {
    for n in 0..parameters.publishers {
        let publishes = FlowSpec {
            receivers: 0,
            limit: Some(parameters.messages.into()),
            ..parameters.flow(format!("bench/queue/{n}"))
        };
        engine.add_client(ClientSpec {
            client_id: format!("{}-p{n}", setup.id_prefix),
            publishes: Some(publishes),
            ..ClientSpec::default()
        });
    }
}

/// Fills the queues of absent clients, each from a publisher of its own, and lets them fetch.
pub(super) fn run_persistent(setup: &Setup, parameters: &Parameters) -> Result<Outcome, RunError> {
    let Parameters { publishers: pairs, messages, qos, .. } = *parameters;
    let mut engine =
        setup.engine(parameters.connections(ScenarioName::Persistent), parameters.spin)?;
    let absent = |n: u32| ClientSpec {
        client_id: format!("{}-s{n}", setup.id_prefix),
        session: Session::KEPT,
        latency_since_login: true,
        ..ClientSpec::default()
    };
    forget_sessions(setup, pairs)?;
    for n in 0..pairs {
        let subscription = Some(Subscription { filters: vec![format!("bench/queue/{n}")], qos });
        engine.add_client(ClientSpec {
            subscription,
            receives: Receives::From(n..n + 1),
            ..absent(n)
        });
    }
    engine.connect_all()?;
    engine.disconnect(0..pairs as usize)?;
    add_queue_publishers(&mut engine, setup, parameters);
    engine.connect_all()?;
    let resident_before = setup.broker.resident_bytes().ok().filter(|bytes| *bytes > 0);
    let disk = setup.attach_disk_meter().map(|meter| meter.begin(&setup.broker));
    let before = Reading::take(&setup.broker);
    setup.monitor.enter(Stage::Measuring);
    engine.set_publishing(true);
    let mut ended = engine.finish_flows(PATIENCE).map(drop);
    let filled = Reading::take(&setup.broker);
    let sent = engine.counters().sent;
    let used = parameters.taken_in(sent, engine.frame_len(), before.until(&filled).elapsed);
    let disk = disk.map(|disk| disk.end(&setup.broker));
    let resident_bytes = setup.broker.resident_bytes().ok().filter(|bytes| *bytes > 0);
    for n in 0..pairs {
        engine.add_client(ClientSpec { receives: Receives::With(n as usize), ..absent(n) });
    }
    let expected = u64::from(pairs) * u64::from(messages);
    // A broker whose queues are full may close the publishers: that is the result then.
    let is_refused = engine.counters().failed > 0;
    if ended.is_ok() && !is_refused {
        ended = fetch(&mut engine, expected);
    }
    let fetched = Reading::take(&setup.broker);
    let mut outcome = measure(setup, &engine, &before)?;
    outcome.disk = disk.map(|disk| disk.count(used));
    outcome.remarks.push(("filled", speed(sent, &before, &filled)));
    outcome.remarks.push(("fetched", speed(outcome.work.count(), &filled, &fetched)));
    outcome.remarks.extend(memory(resident_before, resident_bytes, expected));
    outcome.resident_bytes = resident_bytes;
    if is_refused {
        let Counters { sent, acknowledged, .. } = engine.counters();
        let taken = if qos == QoS::AtMostOnce { sent } else { acknowledged };
        let text = match taken < expected {
            true => format!("the queues did not take {expected} messages, and none was fetched"),
            false => format!("none of {expected} messages was fetched"),
        };
        let text = format!("{text}: the broker closed publishers after {sent}");
        let text = match taken < expected {
            true => format!("{text}; let it queue more, or fill less (--messages)"),
            false => text,
        };
        outcome.problems.push(Problem::new(Status::Connections, text));
    }
    let is_fetched = ended.is_ok() && !is_refused && !engine.is_abandoned();
    conclude(&mut engine, qos, 1, is_fetched, ended, &mut outcome)?;
    note_left_behind("sessions", forget_sessions(setup, pairs), &mut outcome);
    Ok(outcome)
}

fn measure(setup: &Setup, engine: &Fleet, before: &Reading) -> Result<Outcome, RunError> {
    let spent = before.until(&Reading::take(&setup.broker));
    let counters = engine.counters();
    Ok(Outcome {
        work: Work::Messages(counters.delivered),
        sent: counters.sent,
        elapsed: spent.elapsed,
        broker_cpu_ns: spent.broker_cpu_ns,
        own_cpu_ns: spent.own_cpu_ns,
        others_cores: spent.others_cores,
        stolen_cores: spent.stolen_cores,
        latencies: engine.latencies(),
        acknowledgements: engine.acknowledgements(),
        ..Outcome::default()
    })
}

fn speed(messages: u64, from: &Reading, to: &Reading) -> String {
    let spent = from.until(to);
    let per_second = messages as f64 / spent.elapsed.as_secs_f64().max(1e-9);
    let cost = spent.broker_cpu_ns.map_or_else(String::new, |ns| {
        format!(", {:.3} µs of the broker's CPU each", ns as f64 / 1e3 / messages.max(1) as f64)
    });
    format!("{messages}, {per_second:.0}/s{cost}")
}

fn memory(
    before: Option<u64>,
    after: Option<u64>,
    messages: u64,
) -> Option<(&'static str, String)> {
    let each = after?.saturating_sub(before?) as f64 / messages.max(1) as f64;
    let doubt = match each {
        0.0 => ", unless the broker took memory that it had from before: start it afresh",
        _ => "",
    };
    Some(("memory", format!("{each:.0} bytes per stored message{doubt}")))
}
