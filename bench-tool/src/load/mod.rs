//! Plain load: clients that connect, publish or subscribe, until they are told to end.

mod conn;
mod publish;
mod subscribe;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use sluice::mqtt::Version;

use crate::Misuse;
use crate::cli::ClientArgs;
use crate::engine::{
    Endpoint, Engine, EngineError, EngineOptions, Fleet, Monitor, Session, Stage, make_room_for,
};
use crate::live::Live;
use crate::measure::{ProcessGroup, Reading, Spent};
use crate::report::{Outcome, Problem, Status};
use crate::scenario::RunError;

pub(crate) use conn::run as run_conn;
pub(crate) use publish::run as run_pub;
pub(crate) use subscribe::run as run_sub;

/// After the end, how long to wait for the next of the acknowledgements that are still missing.
const DRAIN_PATIENCE: Duration = Duration::from_secs(3);

/// A load that is set up and not yet connected.
struct Load<'a> {
    args: &'a ClientArgs,
    engine: Fleet,
    endpoint: Endpoint,
    broker: ProcessGroup,
    monitor: Arc<Monitor>,
    /// Of the broker, before the first client.
    resident_before: Option<u64>,
    problems: Vec<Problem>,
}

/// What became of it.
struct Done {
    /// From the first client on.
    connecting: Spent,
    /// From when all were in.
    working: Spent,
}

/// One of the clients.
struct Who {
    number: u32,
    id: String,
    username: Option<String>,
}

impl Who {
    /// Puts the client's number, identifier and user name in place of `%i`, `%c` and `%u`.
    fn fill(&self, text: &str) -> String {
        let username = self.username.as_deref().unwrap_or_default();
        let number = self.number.to_string();
        text.replace("%i", &number).replace("%c", &self.id).replace("%u", username)
    }
}

impl<'a> Load<'a> {
    fn new(args: &'a ClientArgs, count: u32, stop: &Arc<AtomicBool>) -> Result<Self, crate::Error> {
        check(args, count)?;
        make_room_for(count as usize)?;
        let monitor = Arc::new(Monitor::default());
        let is_positive = |value: f64| value.is_finite() && value >= 0.0;
        let interval = match args.connrate {
            Some(rate) if !is_positive(rate) => {
                return Err(Misuse::from("connrate: at least 0").into());
            }
            Some(0.0) => Duration::ZERO,
            Some(rate) => Duration::from_secs_f64(1.0 / rate.max(1e-3)),
            None if !is_positive(args.interval) => {
                return Err(Misuse::from("interval: at least 0").into());
            }
            None => Duration::from_secs_f64(args.interval.min(1e6) / 1e3),
        };
        if args.seconds.is_some_and(|seconds| !(is_positive(seconds) && seconds < 1e9)) {
            return Err(Misuse::from("seconds: at least 0").into());
        }
        let endpoint = args.broker.endpoint()?;
        let options = EngineOptions {
            endpoint: endpoint.clone(),
            login: args.broker.login(),
            connect_burst: args.broker.connect_burst.max(1),
            connect_interval: interval,
            spin: false,
            stop: Arc::clone(stop),
            monitor: Arc::clone(&monitor),
        };
        let engine = Fleet::new(&options, args.broker.threads()?)?;
        let broker = args.broker.processes();
        if let Some(pid) = broker.vanished() {
            return Err(RunError::NoProcess(pid).into());
        }
        let resident_before = broker.resident_bytes().ok().filter(|bytes| *bytes > 0);
        Ok(Self { args, engine, endpoint, broker, monitor, resident_before, problems: Vec::new() })
    }

    /// Client `index`, counted from 0; `kind` is a letter that tells its command.
    fn who(&self, kind: char, index: u32) -> Who {
        let number = self.args.startnumber.saturating_add(index).saturating_add(1);
        let id = match (&self.args.id, &self.args.broker.id_prefix) {
            (Some(id), _) => id.replace("%i", &number.to_string()),
            (None, Some(prefix)) => format!("{prefix}{number}"),
            (None, None) => format!("bench-{}-{kind}{number}", std::process::id()),
        };
        let username = self.args.broker.login().username;
        let username = username.map(|name| name.replace("%i", &number.to_string()));
        let username = username.map(|name| name.replace("%c", &id));
        Who { number, id, username }
    }

    fn version(&self) -> Version {
        self.args.broker.login().version
    }

    fn session(&self) -> Session {
        Session { clean_start: self.args.clean, expiry_seconds: self.args.session_expiry }
    }

    /// Connects everybody, lets them work until it is done, or time is up, or somebody says stop.
    ///
    /// # Errors
    /// If nobody could connect.
    fn work(&mut self, is_done: impl Fn(&Engine) -> bool + Sync) -> Result<Done, crate::Error> {
        let live = Live::start(&self.monitor, String::new());
        let began = Reading::take(&self.broker);
        match self.engine.connect_who_can() {
            Ok(()) => {}
            Err(error @ EngineError::ConnectTimeout { .. }) => {
                self.problems.push(Problem::new(Status::Connections, error.to_string()));
            }
            Err(EngineError::Interrupted) => self.problems.push(Problem::interrupted()),
            Err(error) => return Err(error.into()),
        }
        if self.engine.counters().ready == 0 && self.engine.counters().failed > 0 {
            return Err(self.engine.not_connected().into());
        }
        let all_in = Reading::take(&self.broker);
        self.engine.enter(Stage::Measuring);
        self.engine.set_publishing(true);
        if self.problems.iter().all(|one| one.status != Status::Interrupted) {
            let time = self.args.seconds.map(Duration::from_secs_f64);
            self.work_for(time, is_done)?;
        }
        let ended = Reading::take(&self.broker);
        drop(live);
        Ok(Done { connecting: began.until(&all_in), working: all_in.until(&ended) })
    }

    fn work_for(
        &mut self,
        time: Option<Duration>,
        is_done: impl Fn(&Engine) -> bool + Sync,
    ) -> Result<(), crate::Error> {
        match self.engine.run_until_done(time, is_done) {
            // Without a time Ctrl-C is how it ends.
            Err(EngineError::Interrupted) if time.is_none() => {}
            Err(EngineError::Interrupted) => self.problems.push(Problem::interrupted()),
            ended => ended?,
        }
        Ok(())
    }

    /// Adds what went wrong with connections to the outcome, says goodbye, and tells the result.
    fn finish(mut self, mut outcome: Outcome) -> Result<Status, crate::Error> {
        let counters = self.engine.counters();
        self.problems.extend(Problem::with_connections(&self.engine));
        if counters.refused > 0 {
            let text = format!("{} messages were refused by the broker", counters.refused);
            self.problems.push(Problem::new(Status::Messages, text));
        }
        self.engine.disconnect_all()?;
        self.problems.append(&mut outcome.problems);
        outcome.problems = self.problems;
        outcome.carrier = self.endpoint.carrier();
        outcome.remarks.extend(self.endpoint.remark());
        crate::tell(&outcome, &self.args.broker.shown(), self.args.out.as_deref())
    }
}

/// Refuses what would not do what it says.
fn check(args: &ClientArgs, count: u32) -> Result<(), Misuse> {
    args.broker.check()?;
    if args.session_expiry > 0 && !args.broker.login().version.is_v5() {
        return Err("--session-expiry: it takes 5.0 (-V 5)".into());
    }
    let is_same = args.id.as_ref().is_some_and(|id| !id.contains("%i"));
    if is_same && count > 1 {
        return Err("--id: without %i in it, clients would take each other's session over".into());
    }
    Ok(())
}

/// What every result begins with.
fn outcome(load: &Load<'_>, label: String, spent: &Spent) -> Outcome {
    Outcome {
        label,
        elapsed: spent.elapsed,
        broker_cpu_ns: spent.broker_cpu_ns,
        own_cpu_ns: spent.own_cpu_ns,
        others_cores: spent.others_cores,
        stolen_cores: spent.stolen_cores,
        latencies: load.engine.latencies(),
        resident_before: load.resident_before,
        resident_bytes: load.broker.resident_bytes().ok().filter(|bytes| *bytes > 0),
        ..Outcome::default()
    }
}
