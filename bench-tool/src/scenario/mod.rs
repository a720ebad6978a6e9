//! The scenarios: which clients there are, what they do, and what is measured about it.

mod crowd;
mod leftovers;
mod steady;
mod stored;

pub(crate) use steady::describe_behind;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::ValueEnum;
use serde::Deserialize;
use sluice::mqtt::QoS;

use crate::engine::{
    Endpoint, EngineError, EngineOptions, Fleet, FlowSpec, Login, MAX_WINDOW, Monitor, Snapshot,
    Stage, is_listening, make_room_for,
};
use crate::measure::{DiskMeter, DiskUse, ProcessGroup};
use crate::report::{Outcome, Problem, Status};

/// Outstanding at most in an open loop.
pub(crate) const OPEN_WINDOW: u32 = MAX_WINDOW;

/// What can be run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ScenarioName {
    /// Pairs: each publisher has a topic and a subscriber of its own (50).
    P2p,
    /// Few publishers, one topic each, and every subscriber wants all of them (1 to 500).
    Fanout,
    /// Many publishers, few subscribers that each want all of them (50 to 1).
    Fanin,
    /// Publishers whose messages the members of one group share (50 to 10).
    Shared,
    /// Pairs with topics by the thousand, matched by filters with wildcards, beside 10,000 that match nothing.
    Wildcard,
    /// Subscribers that each ask for every retained message (10 for 10,000).
    Retained,
    /// Pairs with payloads of 256 KiB (10).
    Large,
    /// Queues of absent clients are filled, and then fetched (20 of 500).
    Persistent,
    /// A fan-out in which some of the subscribers stop reading: does anybody else suffer? (10 beside 50).
    Slow,
    /// Connections that do nothing but be there: memory of each (15,000).
    Idle,
    /// Clients that connect and subscribe as fast as they are let in (10,000).
    Storm,
}

/// How large a scenario is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Parameters {
    /// For `idle` and `storm`.
    pub(crate) clients: u32,
    pub(crate) publishers: u32,
    pub(crate) subscribers: u32,
    pub(crate) qos: QoS,
    /// Messages outstanding per publisher; with a rate [`OPEN_WINDOW`], or those that are due wait beyond it.
    pub(crate) window: u32,
    /// Bytes.
    pub(crate) payload_len: usize,
    /// Messages a second of each publisher (open loop); `None`: as the window allows.
    pub(crate) rate: Option<f64>,
    /// Messages of a rate that are due at the same time.
    pub(crate) burst: u32,
    /// For `retained` and `persistent`: retained messages, or messages per queue.
    pub(crate) messages: u32,
    /// For `slow`: subscribers, besides the others, that stop reading.
    pub(crate) stalled: u32,
    /// Subscriptions with wildcards that no message matches.
    pub(crate) ballast: u32,
    /// For `wildcard`: topics of each publisher.
    pub(crate) topics: u32,
    /// Subscribers have sessions that outlive their connections.
    pub(crate) lasting: bool,
    /// The tool polls without sleeping: neither does the broker pay for waking it, nor do messages wait for that.
    pub(crate) spin: bool,
    pub(crate) seconds: f64,
    pub(crate) warm_up_seconds: f64,
}

/// Against what, and how, a scenario is run.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub(crate) endpoint: Endpoint,
    pub(crate) login: Login,
    pub(crate) id_prefix: String,
    pub(crate) connect_burst: usize,
    /// That the clients are spread over.
    pub(crate) threads: usize,
    /// The broker's processes; empty if they cannot be measured.
    pub(crate) broker: ProcessGroup,
    /// A directory on the disk where the broker keeps its data, if what it does there is to be measured.
    pub(crate) disk: Option<PathBuf>,
    /// Set when the run shall end early.
    pub(crate) stop: Arc<AtomicBool>,
    /// Where the run can be watched.
    pub(crate) monitor: Arc<Monitor>,
}

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RunError {
    #[error("{0}")]
    Engine(#[from] EngineError),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("interrupted while {}, with {connected} of {clients} clients connected: there is no result", .stage.name())]
    Interrupted { stage: Stage, connected: u64, clients: usize },
    #[error("at {rate}/s of each of {publishers} publishers not one message is due in {seconds} s")]
    NothingDue { rate: f64, publishers: u32, seconds: f64 },
    #[error("there is no process {0} (--pid)")]
    NoProcess(u32),
    #[error("the broker died, and there is no result: {0}")]
    Died(EngineError),
    #[error("the broker's process {0} ended during the run")]
    BrokerDied(u32),
}

impl RunError {
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::Engine(EngineError::Interrupted) | Self::Interrupted { .. } => {
                Status::Interrupted
            }
            Self::Engine(EngineError::Io(_)) | Self::Io(_) => Status::Error,
            Self::NoProcess(_) => Status::Error,
            Self::NothingDue { .. } => Status::Usage,
            Self::Engine(_) => Status::Connections,
            Self::Died(_) | Self::BrokerDied(_) => Status::BrokerDied,
        }
    }
}

impl ScenarioName {
    /// The size at which the scenario is usually run.
    pub(crate) fn defaults(self) -> Parameters {
        let base = Parameters {
            clients: 10_000,
            publishers: 50,
            subscribers: 50,
            qos: QoS::AtMostOnce,
            window: 64,
            payload_len: 64,
            rate: None,
            burst: 1,
            messages: 1_000,
            stalled: 10,
            ballast: 0,
            topics: 1,
            lasting: false,
            spin: false,
            seconds: 5.0,
            warm_up_seconds: 1.0,
        };
        match self {
            Self::P2p | Self::Storm => base,
            Self::Fanout => Parameters { publishers: 1, subscribers: 500, ..base },
            Self::Fanin => Parameters { subscribers: 1, ..base },
            Self::Shared => Parameters { subscribers: 10, ..base },
            Self::Wildcard => Parameters { ballast: 10_000, topics: 1_000, ..base },
            Self::Retained => {
                Parameters { publishers: 1, subscribers: 10, messages: 10_000, ..base }
            }
            Self::Large => Parameters {
                publishers: 10,
                subscribers: 10,
                window: 2,
                payload_len: 256 * 1024,
                ..base
            },
            Self::Persistent => Parameters {
                publishers: 20,
                subscribers: 20,
                qos: QoS::AtLeastOnce,
                messages: 500,
                ..base
            },
            Self::Slow => Parameters { publishers: 1, subscribers: 50, ..base },
            Self::Idle => Parameters { clients: 15_000, ..base },
        }
    }

    /// Whether the scenario is anything with these parameters.
    ///
    /// # Errors
    /// What it has no use for, in one line.
    pub(crate) fn check(self, parameters: &Parameters) -> Result<(), String> {
        let has_sessions = match self {
            Self::P2p | Self::Fanout | Self::Fanin | Self::Shared => true,
            Self::Wildcard | Self::Large | Self::Slow => true,
            Self::Retained | Self::Persistent | Self::Idle | Self::Storm => false,
        };
        if parameters.lasting && !has_sessions {
            return Err("lasting sessions: not in retained, persistent, idle and storm".into());
        }
        Ok(())
    }

    /// The name and what matters of the parameters.
    pub(crate) fn label(self, parameters: &Parameters) -> String {
        let Parameters { clients, publishers, subscribers, qos, window, payload_len, .. } =
            *parameters;
        let Parameters { messages: count, stalled, ballast, topics, .. } = *parameters;
        let qos = qos.as_u8();
        let mut pace = match parameters.rate {
            None => String::new(),
            Some(rate) if parameters.burst > 1 => {
                format!(", {rate}/s each in bursts of {}", parameters.burst)
            }
            Some(rate) => format!(", {rate}/s each"),
        };
        if window < OPEN_WINDOW {
            pace += &format!(", {window} outstanding");
        }
        let mut messages = format!("QoS {qos}{pace}, {payload_len} bytes");
        if ballast > 0 {
            messages.push_str(&format!(", {ballast} other subscriptions"));
        }
        if parameters.lasting {
            messages.push_str(", lasting sessions");
        }
        match self {
            Self::Shared => format!("shared: {publishers} to a group of {subscribers}, {messages}"),
            Self::Wildcard => {
                format!("wildcard: {publishers} pairs, {topics} topics each, {messages}")
            }
            Self::Retained => format!(
                "retained: {subscribers} subscribe to {count} messages, QoS {qos}, {payload_len} bytes"
            ),
            Self::Large => format!("large: {publishers} pairs, {messages}"),
            Self::Persistent => {
                format!(
                    "persistent: {publishers} queues of {count}, QoS {qos}, {payload_len} bytes"
                )
            }
            Self::Slow => format!(
                "slow: {publishers} to {subscribers}, and {stalled} that stop reading, {messages}"
            ),
            Self::P2p => format!("p2p: {publishers} pairs, {messages}"),
            Self::Fanout => format!("fanout: {publishers} to {subscribers}, {messages}"),
            Self::Fanin => format!("fanin: {publishers} to {subscribers}, {messages}"),
            Self::Idle => format!("idle: {clients} connections, one subscription each"),
            Self::Storm => format!("storm: {clients} clients connect and subscribe"),
        }
    }

    /// Runs it and measures.
    ///
    /// # Errors
    /// If there is nothing to report: no broker, not everybody let in, or stopped before the measured part.
    pub(crate) fn run(self, setup: &Setup, parameters: &Parameters) -> Result<Outcome, RunError> {
        if let Some(pid) = setup.broker.vanished() {
            return Err(RunError::NoProcess(pid));
        }
        let outcome = match self {
            Self::Retained => stored::run_retained(setup, parameters),
            Self::Persistent => stored::run_persistent(setup, parameters),
            Self::Idle | Self::Storm => crowd::run(self, setup, parameters),
            _ => steady::run(self, setup, parameters),
        };
        let mut outcome = outcome.map_err(|error| setup.explain(error))?;
        outcome.scenario = self;
        outcome.label = self.label(parameters);
        outcome.version = Some(setup.login.version);
        outcome.parameters = Some(*parameters);
        outcome.carrier = setup.endpoint.carrier();
        outcome.remarks.extend(setup.endpoint.remark());
        if let Some(pid) = setup.broker.vanished() {
            let text = RunError::BrokerDied(pid).to_string();
            outcome.problems.push(Problem::new(Status::BrokerDied, text));
        }
        Ok(outcome)
    }
}

impl Parameters {
    /// What one publisher does, to one topic and one receiver.
    fn flow(&self, topic: String) -> FlowSpec {
        FlowSpec {
            rate: self.rate,
            burst: self.burst,
            times_acknowledgements: self.qos != QoS::AtMostOnce,
            ..FlowSpec::new(topic, self.qos, self.payload_len, self.window)
        }
    }

    /// The window of a scenario that has these defaults, if none is asked for: with a rate, whatever becomes of the
    /// earlier messages.
    pub(crate) fn window(&self, has_rate: bool) -> u32 {
        if has_rate { OPEN_WINDOW } else { self.window }
    }

    /// What the broker took in, as far as it is known without a look at the disk.
    fn taken_in(&self, messages: u64, message_bytes: usize, elapsed: Duration) -> DiskUse {
        let outstanding = u64::from(self.publishers) * u64::from(self.window);
        let paced = self.rate.is_some();
        DiskUse { messages, outstanding, paced, message_bytes, elapsed, ..DiskUse::default() }
    }

    /// Connections that a scenario makes at the same time.
    pub(crate) fn connections(&self, scenario: ScenarioName) -> usize {
        let count = match scenario {
            ScenarioName::Idle | ScenarioName::Storm => self.clients,
            _ => {
                let ballast = self.ballast.div_ceil(steady::BALLAST_PER_CLIENT);
                // A client of `persistent` connects again under its own name.
                2 * self.publishers.max(self.subscribers)
                    + self.subscribers
                    + self.stalled
                    + ballast
            }
        };
        count as usize
    }
}

impl Setup {
    /// Says how far a run without a result has come.
    fn explain(&self, error: RunError) -> RunError {
        let Snapshot { stage, counters, clients, .. } = self.monitor.snapshot();
        let was_there = counters.ready > 0;
        match error {
            RunError::Engine(EngineError::Interrupted) => {
                let connected = counters.ready.saturating_sub(counters.closed);
                RunError::Interrupted { stage, connected, clients }
            }
            RunError::Engine(error @ EngineError::NotConnected { .. })
                if was_there && !is_listening(self.endpoint.address) =>
            {
                RunError::Died(error)
            }
            error => error,
        }
    }

    /// For what the broker does with the disk, if that is asked for.
    fn attach_disk_meter(&self) -> Option<DiskMeter> {
        self.disk.as_ref().map(|directory| DiskMeter::attach(&self.broker, directory))
    }

    fn engine(&self, clients: usize, spin: bool) -> Result<Fleet, RunError> {
        make_room_for(clients)?;
        let options = EngineOptions {
            endpoint: self.endpoint.clone(),
            login: self.login.clone(),
            connect_burst: self.connect_burst.max(1),
            spin,
            stop: Arc::clone(&self.stop),
            monitor: Arc::clone(&self.monitor),
            connect_interval: Duration::ZERO,
        };
        Ok(Fleet::new(&options, self.threads)?)
    }
}

#[cfg(test)]
mod tests;
