//! `pub`: clients that publish, at a rate or as fast as their window allows.

use std::fs;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sluice::mqtt::{Limits, QoS, topic};

use super::{DRAIN_PATIENCE, Load, outcome};
use crate::Misuse;
use crate::cli::PubArgs;
use crate::engine::{ClientSpec, Counters, FlowSpec, MAX_WINDOW, MIN_PAYLOAD, Stage, check_rate};
use crate::measure::{check_memory, monotonic_ns};
use crate::report::{Outcome, Problem, Status, Work};
use crate::scenario::describe_behind;

/// The window without a rate.
const USUAL_WINDOW: u32 = 64;

/// Messages that a QoS 0 client without a rate puts into one write, at most.
const QOS_0_BATCH: u32 = 1024;

pub(crate) fn run(args: &PubArgs, stop: &Arc<AtomicBool>) -> Result<Status, crate::Error> {
    let qos = QoS::from_u8(args.qos).ok_or("QoS: 0 to 2")?;
    let rate = rate(args).map_err(Misuse)?;
    let contents = contents(args)?;
    let payloads = contents.iter().map(Vec::len).sum::<usize>().max(args.size);
    check_memory(args.count, payloads)?;
    let mut load = Load::new(&args.clients, args.count, stop)?;
    for index in 0..args.count {
        let who = load.who('p', index);
        let topic = who.fill(&args.topic);
        topic::check_name(topic.as_bytes(), &Limits::NONE)
            .map_err(|_| Misuse(format!("\"{topic}\" is no topic to publish to")))?;
        let spec = FlowSpec {
            receivers: 0,
            rate,
            limit: share_of(args.limit, args.count, index),
            retain: args.retain,
            contents: contents.clone(),
            times_acknowledgements: qos != QoS::AtMostOnce,
            ..FlowSpec::new(topic, qos, args.size, window(args, qos, rate))
        };
        spec.check_size(load.version()).map_err(Misuse)?;
        load.engine.add_client(ClientSpec {
            client_id: who.id,
            username: who.username,
            session: load.session(),
            publishes: Some(spec),
            ..ClientSpec::default()
        });
    }
    load.engine.times_logins(false);
    let done = load.work(|engine| engine.flows_have_ended())?;
    let behind = load.engine.behind(monotonic_ns());
    let Counters { sent, acknowledged, refused, .. } = load.engine.counters();
    // What is acknowledged later took longer than what is told.
    let taken = acknowledged - refused;
    load.engine.enter(Stage::Draining);
    load.engine.set_publishing(false);
    load.engine.drain(DRAIN_PATIENCE)?;
    let counters = load.engine.counters();
    let is_acknowledged = qos != QoS::AtMostOnce;
    let published = if is_acknowledged { taken } else { sent };
    let mut outcome = Outcome {
        work: Work::Published(published),
        sent,
        latencies: load.engine.acknowledgements(),
        ..outcome(&load, label(args, rate), &done.working)
    };
    if rate.is_some() {
        outcome.remarks.push(("behind", describe_behind(behind)));
    }
    if contents.is_empty() && args.size < MIN_PAYLOAD {
        let text = format!("payloads under {MIN_PAYLOAD} bytes cannot be measured by sub");
        outcome.remarks.push(("note", text));
    }
    if is_acknowledged && counters.acknowledged < sent {
        let text = format!("{} messages were not acknowledged", sent - counters.acknowledged);
        outcome.problems.push(Problem::new(Status::Messages, text));
    }
    load.finish(outcome)
}

/// Messages a second of each client.
fn rate(args: &PubArgs) -> Result<Option<f64>, String> {
    let rate = match args.rate {
        Some(rate) => rate,
        None if args.interval_of_msg == 0.0 => return Ok(None),
        None => 1e3 / args.interval_of_msg,
    };
    check_rate(rate).map(|()| Some(rate))
}

/// What is published as it is.
fn contents(args: &PubArgs) -> Result<Vec<Vec<u8>>, crate::Error> {
    if let Some(text) = &args.message {
        return Ok(vec![text.clone().into_bytes()]);
    }
    if let Some(path) = &args.file {
        let content = fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        return Ok(vec![content]);
    }
    if !args.stdin_lines {
        return Ok(Vec::new());
    }
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text)?;
    let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let lines: Vec<Vec<u8>> = lines.map(<[u8]>::to_vec).collect();
    if lines.is_empty() { Err("standard input holds no line".into()) } else { Ok(lines) }
}

/// Of a number of messages for all clients together, the first get what does not divide.
fn share_of(limit: u64, count: u32, index: u32) -> Option<u64> {
    let (count, index) = (u64::from(count), u64::from(index));
    (limit > 0).then(|| limit / count + u64::from(index < limit % count))
}

fn window(args: &PubArgs, qos: QoS, rate: Option<f64>) -> u32 {
    match (args.inflight, rate) {
        (Some(inflight), _) => inflight,
        (None, Some(rate)) => (rate * 10.0).clamp(16.0, MAX_WINDOW.into()) as u32,
        (None, None) if qos == QoS::AtMostOnce => QOS_0_BATCH,
        (None, None) => USUAL_WINDOW,
    }
}

fn label(args: &PubArgs, rate: Option<f64>) -> String {
    let pace = match (rate, args.inflight) {
        (Some(rate), _) => format!("{rate}/s each"),
        (None, _) if args.qos == 0 => "as fast as it goes".into(),
        (None, inflight) => format!("{} outstanding", inflight.unwrap_or(USUAL_WINDOW)),
    };
    format!("pub: {} clients to {}, QoS {}, {pace}", args.count, args.topic, args.qos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_shared_out_whole() {
        let shares: Vec<_> = (0..4).map(|index| share_of(10, 4, index).unwrap()).collect();
        assert_eq!(shares, [3, 3, 2, 2]);
        assert_eq!(share_of(0, 4, 1), None);
    }
}
