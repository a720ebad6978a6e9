//! `sub`: clients that subscribe, count, and follow what `pub` sends.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use sluice::mqtt::{Limits, QoS, topic};

use super::{Load, outcome};
use crate::Misuse;
use crate::cli::SubArgs;
use crate::engine::{ClientSpec, Receives, Subscription};
use crate::report::{Outcome, Problem, Status, Work};

pub(crate) fn run(args: &SubArgs, stop: &Arc<AtomicBool>) -> Result<Status, crate::Error> {
    let qos = QoS::from_u8(args.qos).ok_or("QoS: 0 to 2")?;
    let mut load = Load::new(&args.clients, args.count, stop)?;
    let is_shared = args.topic.iter().any(|filter| filter.starts_with("$share/"));
    for index in 0..args.count {
        let who = load.who('s', index);
        let filters: Vec<String> = args.topic.iter().map(|filter| who.fill(filter)).collect();
        for filter in &filters {
            topic::Filter::parse(filter, &Limits::NONE)
                .map_err(|_| Misuse(format!("\"{filter}\" is no topic filter")))?;
        }
        load.engine.add_client(ClientSpec {
            client_id: who.id,
            username: who.username,
            session: load.session(),
            subscription: Some(Subscription { filters, qos }),
            receives: if is_shared { Receives::Share } else { Receives::FromAnyone },
            ..ClientSpec::default()
        });
    }
    load.engine.times_logins(false);
    let limit = if args.limit == 0 { u64::MAX } else { args.limit };
    let done = load.work(|engine| engine.received_by_all() >= limit)?;
    let counters = load.engine.counters();
    let mut outcome = Outcome {
        work: Work::Messages(counters.received),
        faults: load.engine.faults(),
        unordered: is_shared.then_some("the members of a group are owed none [MQTT-4.6.0-6]"),
        ..outcome(&load, label(args), &done.working)
    };
    let others = counters.received - counters.delivered - counters.duplicates;
    if others > 0 {
        outcome.remarks.push(("not measured", format!("{others} messages that pub did not make")));
    }
    if is_shared {
        let text = "members of a group receive a part each: losses cannot be told";
        outcome.remarks.push(("note", text.into()));
    }
    let lost = load.engine.reliable_lost();
    if lost > 0 {
        let text = format!("{lost} messages of QoS 1 or 2 were lost");
        outcome.problems.push(Problem::new(Status::Messages, text));
    }
    load.finish(outcome)
}

fn label(args: &SubArgs) -> String {
    format!("sub: {} clients to {}, QoS {}", args.count, args.topic.join(", "), args.qos)
}
