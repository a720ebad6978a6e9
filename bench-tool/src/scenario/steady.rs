//! Scenarios with a steady stream of messages: pairs, fan-out, fan-in, groups, stalled readers.

use std::ops::Range;
use std::time::Duration;

use sluice::mqtt::QoS;

use super::leftovers::{forget_sessions, note_left_behind};
use super::{Parameters, RunError, ScenarioName, Setup};
use crate::engine::{
    Behind, ClientSpec, Counters, EngineError, Fleet, FlowSpec, LATE_NS, Receives, STANDSTILL,
    Session, Stage, Subscription, Unacknowledged, numbered,
};
use crate::measure::{DiskMeter, Reading, monotonic_ns};
use crate::report::{Outcome, Problem, Status, Work, percentiles, short};

/// After the measured time, how long to wait for the next of the messages that are still missing.
const DRAIN_PATIENCE: Duration = Duration::from_secs(3);

/// Subscriptions of one of the clients that only hold ballast.
pub(super) const BALLAST_PER_CLIENT: u32 = 5_000;

pub(super) fn run(
    scenario: ScenarioName,
    setup: &Setup,
    parameters: &Parameters,
) -> Result<Outcome, RunError> {
    let Parameters { publishers, seconds, .. } = *parameters;
    let is_due = |rate: &f64| rate * f64::from(publishers) * seconds >= 1.0;
    if let Some(rate) = parameters.rate.filter(|rate| !is_due(rate)) {
        return Err(RunError::NothingDue { rate, publishers, seconds });
    }
    if !parameters.lasting {
        return measure(scenario, setup, parameters);
    }
    let subscribers = subscribers(scenario, parameters);
    forget_sessions(setup, subscribers)?;
    let mut outcome = measure(scenario, setup, parameters)?;
    note_left_behind("sessions", forget_sessions(setup, subscribers), &mut outcome);
    Ok(outcome)
}

fn measure(
    scenario: ScenarioName,
    setup: &Setup,
    parameters: &Parameters,
) -> Result<Outcome, RunError> {
    let (mut engine, stalled) = connect(scenario, setup, parameters)?;
    let mut meter = setup.attach_disk_meter();
    setup.monitor.enter(Stage::WarmingUp);
    engine.set_publishing(true);
    engine.run_for(Duration::from_secs_f64(parameters.warm_up_seconds))?;
    setup.monitor.enter(Stage::Measuring);
    let time = Duration::from_secs_f64(parameters.seconds);
    let mut remarks = Vec::new();
    // Of two measured times the second is told.
    let first = meter.take_if(|_| scenario != ScenarioName::Slow);
    let mut start = Start::here(&mut engine, setup, first);
    let mut ended = engine.run_for(time);
    if scenario == ScenarioName::Slow {
        remarks.push(("while all read", start.describe(&engine)));
        if ended.is_ok() && !engine.is_abandoned() {
            engine.set_stalled(stalled, true);
            start = Start::here(&mut engine, setup, meter);
            ended = engine.run_for(time);
        } else {
            remarks.push(("note", "it ended before anybody stopped reading".into()));
        }
    }
    let after = Reading::take(&setup.broker);
    let disk = start.disk.take().map(|disk| disk.end(&setup.broker));
    let behind = engine.behind(after.at_ns).since(start.behind);
    engine.note_overdue(after.at_ns);
    if parameters.rate.is_some() {
        remarks.push(("behind", describe_behind(behind)));
    }
    let counters = engine.counters();
    let resident_bytes = setup.broker.resident_bytes().ok().filter(|bytes| *bytes > 0);

    let spent = start.reading.until(&after);
    let sent = counters.sent - start.counters.sent;
    let used = parameters.taken_in(sent, engine.frame_len(), spent.elapsed);
    let mut outcome = Outcome {
        work: Work::Messages(counters.delivered - start.counters.delivered),
        sent,
        elapsed: spent.elapsed,
        broker_cpu_ns: spent.broker_cpu_ns,
        broker_busiest_ns: spent.broker_busiest_ns,
        own_cpu_ns: spent.own_cpu_ns,
        own_busiest_ns: busiest_since(&engine, &start.busy_ns),
        others_cores: spent.others_cores,
        stolen_cores: spent.stolen_cores,
        latencies: engine.latencies(),
        acknowledgements: engine.acknowledgements(),
        disk: disk.map(|disk| disk.count(used)),
        resident_bytes,
        remarks,
        ..Outcome::default()
    };
    outcome.unordered = unordered(scenario);
    finish(&mut engine, parameters.qos, 0, ended, &mut outcome)?;
    outcome.sent_in_all = engine.counters().sent;
    Ok(outcome)
}

/// Where the measured time began.
struct Start {
    disk: Option<DiskMeter>,
    counters: Counters,
    behind: Behind,
    busy_ns: Vec<u64>,
    reading: Reading,
}

impl Start {
    /// Latencies count from here, too.
    fn here(engine: &mut Fleet, setup: &Setup, meter: Option<DiskMeter>) -> Self {
        let disk = meter.map(|meter| meter.begin(&setup.broker));
        engine.forget_latencies();
        Self {
            disk,
            counters: engine.counters(),
            behind: engine.behind(monotonic_ns()),
            busy_ns: engine.busy_ns(),
            reading: Reading::take(&setup.broker),
        }
    }

    /// How everybody has fared since.
    fn describe(&self, engine: &Fleet) -> String {
        let delivered = (engine.counters().delivered - self.counters.delivered) as f64;
        let seconds = (monotonic_ns() - self.reading.at_ns) as f64 / 1e9;
        format!("{:.0}/s, {}", delivered / seconds, percentiles(&engine.latencies()))
    }
}

/// Everybody, connected. Returns who is to stall, too.
fn connect(
    scenario: ScenarioName,
    setup: &Setup,
    parameters: &Parameters,
) -> Result<(Fleet, Range<usize>), RunError> {
    let mut clients = clients(scenario, &setup.id_prefix, parameters);
    let first_stalled = clients.len();
    if scenario == ScenarioName::Slow {
        clients.extend(stalled(&setup.id_prefix, parameters));
    }
    let stalled = first_stalled..clients.len();
    clients.extend(ballast(&setup.id_prefix, parameters));
    let mut engine = setup.engine(clients.len(), parameters.spin)?;
    clients.into_iter().for_each(|client| engine.add_client(client));
    engine.connect_all()?;
    Ok((engine, stalled))
}

/// What could not be sent in time.
pub(crate) fn describe_behind(behind: Behind) -> String {
    let late = Duration::from_nanos(LATE_NS);
    format!(
        "{} messages sent more than {} late, {} due and not sent at the end",
        behind.late,
        short(late),
        behind.unsent
    )
}

/// CPU time of the thread that has used the most since then.
fn busiest_since(engine: &Fleet, earlier_ns: &[u64]) -> Option<u64> {
    let now_ns = engine.busy_ns();
    now_ns.iter().zip(earlier_ns).map(|(now_ns, earlier_ns)| now_ns - earlier_ns).max()
}

/// Why order is nobody's duty in a scenario, if it is not: it is owed to each subscriber, for each topic.
fn unordered(scenario: ScenarioName) -> Option<&'static str> {
    match scenario {
        ScenarioName::Shared => Some("the members of a group are owed none [MQTT-4.6.0-6]"),
        ScenarioName::Wildcard => Some(NONE_BETWEEN_TOPICS),
        _ => None,
    }
}

pub(super) const NONE_BETWEEN_TOPICS: &str = "there is none between topics [MQTT-4.6.0-5]";

/// Publishers that wait in vain, what they wait for, and what may help.
fn note_stall(engine: &Fleet, stalled: u64, stood_still: bool, outcome: &mut Outcome) {
    let Unacknowledged { messages, .. } = engine.unacknowledged();
    let (lost, publishers) = (outcome.faults.lost, engine.publishers());
    if stalled == 0 || lost + messages == 0 {
        return;
    }
    outcome.stalled = stalled;
    let what = match (lost, messages) {
        (_, 0) => "messages that were acknowledged and did not come",
        (0, _) => "acknowledgements that did not come",
        _ => "messages and acknowledgements that did not come",
    };
    let mut text = format!("{stalled} of {publishers} publishers stalled, waiting for {what}");
    if stood_still {
        let time = short(STANDSTILL);
        text += &format!("; the run was ended when nothing had happened for {time}");
    }
    outcome.problems.push(Problem::new(Status::Messages, text));
}

/// What is behind most losses at QoS 1 and 2.
const FULL_QUEUE: &str = "a broker whose queue for a subscriber is full drops what it has acknowledged: let it queue more (Mosquitto: max_queued_messages, Sluice: queue.max_messages), or have less outstanding (-F)";

/// Lets the last messages arrive, and says what went wrong. `later` are the receivers of each message who come when all
/// of them have been sent.
pub(super) fn finish(
    engine: &mut Fleet,
    qos: QoS,
    later: u32,
    ended: Result<(), EngineError>,
    outcome: &mut Outcome,
) -> Result<(), RunError> {
    outcome.problems.extend(Problem::with_end(ended)?);
    let (stalled, stood_still) = (engine.counters().stalled, engine.stands_still());
    engine.enter(Stage::Draining);
    engine.set_publishing(false);
    engine.drain(DRAIN_PATIENCE)?;
    let Counters { refused, failed, .. } = engine.counters();
    let waited_for = engine.unacknowledged();
    let unacknowledged = waited_for.messages;
    let mut faults = engine.faults();
    faults.lost = lost(faults.lost, waited_for, later);
    outcome.faults = faults;
    outcome.unacknowledged = unacknowledged;
    outcome.problems.extend(Problem::with_connections(engine));
    let may_lose = qos == QoS::AtMostOnce;
    if !may_lose {
        note_stall(engine, stalled, stood_still, outcome);
    }
    let is_unordered = outcome.unordered.is_some();
    let mut problem = |is_one: bool, text: String| {
        if is_one {
            outcome.problems.push(Problem::new(Status::Messages, text));
        }
    };
    problem(refused > 0, format!("{refused} messages were refused by the broker"));
    problem(!may_lose && faults.lost > 0, format!("{} messages were lost", faults.lost));
    // Whose connection is gone waits for more than that.
    let is_unacknowledged = !may_lose && unacknowledged > 0 && failed == 0;
    problem(is_unacknowledged, format!("{unacknowledged} messages were not acknowledged"));
    let may_repeat = qos == QoS::AtLeastOnce;
    let duplicates = faults.duplicates;
    problem(!may_repeat && duplicates > 0, format!("{duplicates} messages came twice"));
    let is_overtaken = !is_unordered && faults.reordered > 0;
    problem(is_overtaken, format!("{} messages were overtaken", faults.reordered));
    if outcome.work == Work::Messages(0) && outcome.problems.is_empty() {
        let text = "not one message was delivered";
        outcome.problems.push(Problem::new(Status::Messages, text));
    }
    if !may_lose && faults.lost > 0 && failed == 0 {
        outcome.remarks.push(("note", FULL_QUEUE.into()));
    }
    engine.disconnect_all()?;
    Ok(())
}

/// Of what is missing; what the broker never took on, it has not lost.
pub(super) fn lost(missing: u64, unacknowledged: Unacknowledged, later: u32) -> u64 {
    let Unacknowledged { messages, deliveries } = unacknowledged;
    missing.saturating_sub(deliveries + messages * u64::from(later))
}

/// Subscribers and publishers, in the order in which they connect.
fn clients(scenario: ScenarioName, prefix: &str, parameters: &Parameters) -> Vec<ClientSpec> {
    let Parameters { publishers, qos, topics, .. } = *parameters;
    let is_pairs = is_pairs(scenario);
    let subscribers = subscribers(scenario, parameters);
    let session = if parameters.lasting { Session::KEPT } else { Session::default() };
    let topics = if scenario == ScenarioName::Wildcard { topics.max(2) } else { 1 };
    let subscriber = |n: u32| ClientSpec {
        client_id: format!("{prefix}-s{n}"),
        subscription: Some(Subscription { filters: vec![filter(scenario, publishers, n)], qos }),
        receives: match scenario {
            _ if is_pairs => Receives::From(n..n + 1),
            ScenarioName::Shared if n > 0 => Receives::With(0),
            _ => Receives::From(0..publishers),
        },
        session,
        ..ClientSpec::default()
    };
    let ordered = unordered(scenario).is_none();
    let receivers = if is_pairs || scenario == ScenarioName::Shared { 1 } else { subscribers };
    let publisher = |n: u32| ClientSpec {
        client_id: format!("{prefix}-p{n}"),
        publishes: Some(FlowSpec { receivers, topics, ordered, ..parameters.flow(topic(n)) }),
        ..ClientSpec::default()
    };
    (0..subscribers).map(subscriber).chain((0..publishers).map(publisher)).collect()
}

/// How many there are; in pairs, as many as publishers.
fn subscribers(scenario: ScenarioName, parameters: &Parameters) -> u32 {
    if is_pairs(scenario) { parameters.publishers } else { parameters.subscribers }
}

fn is_pairs(scenario: ScenarioName) -> bool {
    matches!(scenario, ScenarioName::P2p | ScenarioName::Large | ScenarioName::Wildcard)
}

/// What subscriber `n` subscribes to.
fn filter(scenario: ScenarioName, publishers: u32, n: u32) -> String {
    match scenario {
        ScenarioName::Wildcard => format!("{}/+", topic(n)),
        _ if is_pairs(scenario) => topic(n),
        ScenarioName::Shared => "$share/bench/bench/+".into(),
        _ if publishers == 1 => topic(0),
        _ => "bench/+".into(),
    }
}

/// Those that will stop reading: nobody waits for what they receive.
fn stalled(prefix: &str, parameters: &Parameters) -> impl Iterator<Item = ClientSpec> {
    let filter = filter(ScenarioName::Slow, parameters.publishers, 0);
    let qos = parameters.qos;
    (0..parameters.stalled).map(move |n| ClientSpec {
        client_id: format!("{prefix}-z{n}"),
        subscription: Some(Subscription { filters: vec![filter.clone()], qos }),
        expendable: true,
        ..ClientSpec::default()
    })
}

/// Clients with subscriptions that share levels with the topics in use, and match none of them.
fn ballast(prefix: &str, parameters: &Parameters) -> impl Iterator<Item = ClientSpec> {
    let (total, publishers) = (parameters.ballast, parameters.publishers);
    (0..total.div_ceil(BALLAST_PER_CLIENT)).map(move |client| {
        let numbers = client * BALLAST_PER_CLIENT..total.min((client + 1) * BALLAST_PER_CLIENT);
        let filter = |n: u32| format!("{}/+/none", numbered(&topic(n % publishers), n.into()));
        ClientSpec {
            client_id: format!("{prefix}-b{client}"),
            subscription: Some(Subscription {
                filters: numbers.map(filter).collect(),
                qos: QoS::AtMostOnce,
            }),
            ..ClientSpec::default()
        }
    })
}

fn topic(publisher: u32) -> String {
    format!("bench/{publisher}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_pairs() {
        let parameters = Parameters { publishers: 3, ..ScenarioName::P2p.defaults() };
        let clients = clients(ScenarioName::P2p, "x", &parameters);
        assert_eq!(clients.len(), 6);
        assert_eq!(clients[2].subscription.as_ref().unwrap().filters, ["bench/2"]);
        assert_eq!(clients[2].receives, Receives::From(2..3));
        let flow = clients[5].publishes.as_ref().unwrap();
        assert_eq!((flow.topic.as_str(), flow.receivers), ("bench/2", 1));
    }

    #[test]
    fn only_subscribers_last() {
        let parameters = Parameters { lasting: true, ..ScenarioName::Fanin.defaults() };
        let clients = clients(ScenarioName::Fanin, "x", &parameters);
        assert_eq!(clients[0].session, Session::KEPT);
        assert!(clients[1..].iter().all(|one| one.session == Session::default()));
    }

    #[test]
    fn a_fan_out_has_one_topic_and_as_many_receivers_as_subscribers() {
        let clients = clients(ScenarioName::Fanout, "x", &ScenarioName::Fanout.defaults());
        assert_eq!(clients.len(), 501);
        assert_eq!(clients[499].subscription.as_ref().unwrap().filters, ["bench/0"]);
        assert_eq!(clients[500].publishes.as_ref().unwrap().receivers, 500);
    }

    #[test]
    fn ballast_is_spread_and_matches_nothing() {
        let parameters = Parameters { ballast: 12_000, ..ScenarioName::Wildcard.defaults() };
        let filters: Vec<String> =
            ballast("x", &parameters).flat_map(|one| one.subscription.unwrap().filters).collect();
        assert_eq!(filters.len(), 12_000);
        assert_eq!(filters[51], "bench/1/00000051/+/none");
        let topic = numbered(&topic(1), 51);
        assert!(!filters.iter().any(|filter| sluice::mqtt::topic::matches(filter, &topic)));
    }
}
