//! `conn`: connections that are opened, held and watched.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::{Load, outcome};
use crate::cli::ConnArgs;
use crate::engine::ClientSpec;
use crate::report::{Outcome, Status, Work};

pub(crate) fn run(args: &ConnArgs, stop: &Arc<AtomicBool>) -> Result<Status, crate::Error> {
    let mut load = Load::new(&args.clients, args.count, stop)?;
    for index in 0..args.count {
        let who = load.who('c', index);
        load.engine.add_client(ClientSpec {
            client_id: who.id,
            username: who.username,
            session: load.session(),
            ..ClientSpec::default()
        });
    }
    let done = load.work(|_| false)?;
    let counters = load.engine.counters();
    let stand = counters.ready - counters.closed;
    let held = done.working.elapsed.as_secs_f64();
    let outcome = Outcome {
        work: Work::Connections(counters.ready),
        remarks: vec![("held", format!("{stand} of {} for {held:.1} s", args.count))],
        ..outcome(&load, format!("conn: {} clients", args.count), &done.connecting)
    };
    load.finish(outcome)
}
