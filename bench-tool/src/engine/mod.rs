//! Load clients by the thousand on one thread: one poll loop, few system calls, no allocation in steady state.
//!
//! A turn reads each ready socket once or until it is drained, takes the packets apart in place, and then writes
//! once to each connection that has something to say: acknowledgements, and the messages that fill a window again.

mod connection;
mod dial;
mod flow;
mod intake;
mod payload;
mod stream;
mod timer;
mod turn;
mod wire;

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mio::{Events, Poll};
use sluice::mqtt::{DecodeError, ReasonCode};

use crate::measure::{Latencies, StreamFaults, monotonic_ns};
use connection::Connection;
use flow::Flow;
use stream::Stream;
use timer::Timer;

pub(crate) use connection::{Phase, Subscription};
pub(crate) use dial::make_room_for;
pub(crate) use flow::{FlowSpec, MAX_WINDOW};
pub(crate) use payload::HEAD_LEN as MIN_PAYLOAD;
pub(crate) use wire::{Login, numbered};

/// How all clients of an engine connect.
#[derive(Clone, Debug)]
pub(crate) struct EngineOptions {
    pub(crate) target: SocketAddr,
    pub(crate) login: Login,
    /// Clients that are connecting at the same time, at most.
    pub(crate) connect_burst: usize,
    /// Never sleep: polls in a loop, so that the broker need not wake this thread.
    pub(crate) spin: bool,
    /// Set when the run shall end early.
    pub(crate) stop: Arc<AtomicBool>,
}

/// One client: what it subscribes to, and what it publishes.
#[derive(Debug, Default)]
pub(crate) struct ClientSpec {
    pub(crate) client_id: String,
    pub(crate) subscription: Option<Subscription>,
    pub(crate) receives: Receives,
    pub(crate) publishes: Option<FlowSpec>,
    /// The broker keeps its session.
    pub(crate) keeps_session: bool,
    /// Its end is no failure.
    pub(crate) expendable: bool,
    /// Latencies count from its SUBSCRIBE or, without one, from when it was dialled.
    pub(crate) latency_since_login: bool,
}

/// Whose messages a client is to receive.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Receives {
    #[default]
    Nothing,
    /// All messages of these publishers.
    From(Range<u32>),
    /// Its share of what the client that was added as this one receives.
    With(usize),
}

/// What has happened since the engine was made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    /// Clients that connected, and subscribed if they wanted to.
    pub(crate) ready: u64,
    /// Messages sent.
    pub(crate) sent: u64,
    /// Messages received, each once by each receiver.
    pub(crate) delivered: u64,
    /// Messages received, whatever they hold.
    pub(crate) received: u64,
    /// Messages that the broker has acknowledged for good.
    pub(crate) acknowledged: u64,
    /// Acknowledgements that carried an error.
    pub(crate) refused: u64,
    /// QoS 0 messages no longer waited for.
    pub(crate) given_up: u64,
    /// Connections that failed or were closed by the broker.
    pub(crate) failed: u64,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("{0}")]
    Socket(#[from] io::Error),
    #[error("closed by the broker")]
    ClosedByBroker,
    #[error("connection refused by the broker: {}", .0.name())]
    Refused(ReasonCode),
    #[error("subscription refused with 0x{0:02x}")]
    NotSubscribed(u8),
    #[error("disconnected by the broker: {}", .0.name())]
    Disconnected(ReasonCode),
    #[error("the broker sent what is no MQTT: {0}")]
    Codec(#[from] DecodeError),
    #[error("the broker sent a packet larger than any of this run")]
    PacketTooLarge,
}

/// Why a run cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EngineError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{failed} of {clients} clients could not connect, the first: {first}")]
    NotConnected { failed: u64, clients: usize, first: String },
    #[error("{missing} of {clients} clients were still not connected after {0} s without progress", .seconds)]
    ConnectTimeout { missing: u64, clients: usize, seconds: u64 },
    #[error("interrupted")]
    Interrupted,
}

/// The load clients of one run.
pub(crate) struct Engine {
    options: EngineOptions,
    run: u32,
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    flows: Vec<Flow>,
    streams: Vec<Stream>,
    /// Next connection to dial, and how many are being dialled or logged in.
    next_to_dial: usize,
    connecting: usize,
    publishing: bool,
    /// There is a flow with a rate.
    is_paced: bool,
    timer: Timer,
    closing: bool,
    touched_flows: Vec<u32>,
    /// The list of the turn that is being flushed; kept for its capacity.
    flushed_flows: Vec<u32>,
    touched_connections: Vec<u32>,
    read_buffer: Vec<u8>,
    write_buffer: Vec<u8>,
    next_stall_check_ns: u64,
    counters: Counters,
    latencies: Latencies,
    first_failure: Option<String>,
}

impl Engine {
    /// Without progress for this long, connecting is given up.
    const CONNECT_PATIENCE: Duration = Duration::from_secs(15);

    pub(crate) fn new(options: EngineOptions) -> io::Result<Self> {
        let poll = Poll::new()?;
        let timer = Timer::new(poll.registry())?;
        Ok(Self {
            options,
            run: fastrand::u32(..),
            poll,
            events: Events::with_capacity(1024),
            connections: Vec::new(),
            flows: Vec::new(),
            streams: Vec::new(),
            next_to_dial: 0,
            connecting: 0,
            publishing: false,
            is_paced: false,
            timer,
            closing: false,
            touched_flows: Vec::new(),
            flushed_flows: Vec::new(),
            touched_connections: Vec::new(),
            read_buffer: vec![0; turn::READ_CHUNK],
            write_buffer: Vec::new(),
            next_stall_check_ns: 0,
            counters: Counters::default(),
            latencies: Latencies::new(),
            first_failure: None,
        })
    }

    /// Adds a client that [`connect_all`](Self::connect_all) will connect. Publishers are numbered in the order
    /// in which they are added.
    pub(crate) fn add_client(&mut self, spec: ClientSpec) {
        let index = self.connections.len() as u32;
        let mut connection = Connection::new(spec.client_id, spec.subscription);
        connection.keeps_session = spec.keeps_session;
        connection.expendable = spec.expendable;
        connection.latency_from_ns = spec.latency_since_login.then_some(0);
        match spec.receives {
            Receives::Nothing => {}
            Receives::From(publishers) => {
                connection.stream = Some(self.streams.len() as u32);
                self.streams.push(Stream::new(self.run, publishers));
            }
            Receives::With(client) => {
                connection.stream = self.connections.get(client).and_then(|other| other.stream);
            }
        }
        if let Some(publishes) = &spec.publishes {
            let publisher = self.flows.len() as u32;
            connection.flow = Some(publisher);
            self.is_paced |= publishes.rate.is_some();
            let template = wire::publish_template(self.options.login.version, publishes);
            // Room for what was kept of one packet and a whole chunk behind it.
            let needed = turn::READ_CHUNK + 2 * template.frame.len();
            self.read_buffer.resize(self.read_buffer.len().max(needed), 0);
            self.flows.push(Flow::new(publishes, template, index, self.run, publisher));
        }
        self.connections.push(connection);
    }

    /// Connects every client added so far, and subscribes.
    ///
    /// # Errors
    /// If one cannot connect, or nothing moves for 15 s.
    pub(crate) fn connect_all(&mut self) -> Result<(), EngineError> {
        let clients = self.connections.len();
        let mut ready = self.counters.ready;
        let mut patience_ends_ns = monotonic_ns() + nanoseconds(Self::CONNECT_PATIENCE);
        while self.counters.ready + self.counters.failed < clients as u64 {
            self.dial_more()?;
            self.turn(Duration::from_millis(100))?;
            self.check_stop()?;
            let now_ns = monotonic_ns();
            if self.counters.ready > ready {
                ready = self.counters.ready;
                patience_ends_ns = now_ns + nanoseconds(Self::CONNECT_PATIENCE);
            } else if now_ns > patience_ends_ns {
                let missing = clients as u64 - ready;
                let seconds = Self::CONNECT_PATIENCE.as_secs();
                return Err(EngineError::ConnectTimeout { missing, clients, seconds });
            }
        }
        match self.first_failure.take() {
            None => Ok(()),
            Some(first) => {
                Err(EngineError::NotConnected { failed: self.counters.failed, clients, first })
            }
        }
    }

    /// Starts or stops filling windows; what is outstanding is still awaited.
    pub(crate) fn set_publishing(&mut self, publishing: bool) {
        self.publishing = publishing;
        let now_ns = monotonic_ns();
        let flows = self.flows.len() as f64;
        for (index, flow) in (0..).zip(&mut self.flows) {
            flow.start(now_ns, f64::from(index) / flows);
            intake::touch(flow, index, &mut self.touched_flows);
        }
    }

    /// Lets the clients work for a time.
    pub(crate) fn run_for(&mut self, time: Duration) -> Result<(), EngineError> {
        let deadline_ns = monotonic_ns() + nanoseconds(time);
        loop {
            let now_ns = monotonic_ns();
            if now_ns >= deadline_ns || self.is_abandoned() {
                return Ok(());
            }
            self.check_stop()?;
            self.turn(Duration::from_nanos(deadline_ns - now_ns))?;
        }
    }

    /// Waits until nothing is outstanding, or until nothing has come for `patience`.
    pub(crate) fn drain(&mut self, patience: Duration) -> Result<(), EngineError> {
        self.run_until(patience, |engine| engine.flows.iter().all(|flow| flow.outstanding() == 0))?;
        Ok(())
    }

    /// Lets the clients work until all limits are reached and nothing is outstanding, or until nothing has
    /// come for `patience`. Returns whether all is done.
    pub(crate) fn finish_flows(&mut self, patience: Duration) -> Result<bool, EngineError> {
        self.run_until(patience, |engine| engine.flows.iter().all(Flow::is_done))
    }

    /// Waits until so many messages were delivered in all, or until nothing has come for `patience`.
    pub(crate) fn receive_until(
        &mut self,
        delivered: u64,
        patience: Duration,
    ) -> Result<bool, EngineError> {
        self.run_until(patience, |engine| engine.counters.delivered >= delivered)
    }

    fn run_until(
        &mut self,
        patience: Duration,
        is_done: impl Fn(&Self) -> bool,
    ) -> Result<bool, EngineError> {
        let progress =
            |counters: Counters| counters.delivered + counters.acknowledged + counters.sent;
        let mut reached = progress(self.counters);
        let mut patience_ends_ns = monotonic_ns() + nanoseconds(patience);
        while !is_done(self) {
            if self.is_abandoned() {
                return Ok(false);
            }
            if self.publishing {
                self.check_stop()?;
            }
            self.turn(Duration::from_millis(20))?;
            let now_ns = monotonic_ns();
            if progress(self.counters) > reached {
                reached = progress(self.counters);
                patience_ends_ns = now_ns + nanoseconds(patience);
            } else if now_ns > patience_ends_ns {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether every connection was closed by the broker: nothing can come any more.
    fn is_abandoned(&self) -> bool {
        self.counters.failed > 0 && !self.connections.iter().any(Connection::is_open)
    }

    /// From now on these clients, numbered as they were added, read or do not read.
    pub(crate) fn set_stalled(&mut self, clients: Range<usize>, stalled: bool) {
        for connection in self.connections.get_mut(clients).unwrap_or_default() {
            connection.stalled = stalled;
        }
    }

    /// Disconnects these clients, numbered as they were added, and waits a moment for the broker to see it.
    pub(crate) fn disconnect(&mut self, clients: Range<usize>) -> Result<(), EngineError> {
        clients.clone().for_each(|index| {
            if let Some(connection) = self.connections.get_mut(index) {
                connection.expendable = true;
            }
            self.say_goodbye(index);
        });
        let deadline_ns = monotonic_ns() + nanoseconds(Duration::from_secs(3));
        let is_open = |engine: &Self| {
            let clients = engine.connections.get(clients.clone()).unwrap_or_default();
            clients.iter().any(Connection::is_open)
        };
        while is_open(self) && monotonic_ns() < deadline_ns {
            self.turn(Duration::from_millis(5))?;
        }
        Ok(())
    }

    /// Says DISCONNECT on every connection and waits a moment for the broker to close them.
    pub(crate) fn disconnect_all(&mut self) -> Result<(), EngineError> {
        self.closing = true;
        self.publishing = false;
        for index in 0..self.connections.len() {
            self.say_goodbye(index);
        }
        let deadline_ns = monotonic_ns() + nanoseconds(Duration::from_secs(3));
        while self.connections.iter().any(Connection::is_open) && monotonic_ns() < deadline_ns {
            for _ in 0..64 {
                self.turn(Duration::from_millis(5))?;
            }
        }
        Ok(())
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// Time from sending to receiving, and for connections from dialling to ready.
    pub(crate) fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    pub(crate) fn forget_latencies(&mut self) {
        self.latencies.clear();
    }

    /// Losses, duplicates and reorderings since the start, over all receivers.
    pub(crate) fn faults(&self) -> StreamFaults {
        let sent_by = |publisher: u32| self.flows.get(publisher as usize).map_or(0, Flow::sent);
        let mut faults = StreamFaults::default();
        for stream in &self.streams {
            faults.add(stream.faults(sent_by));
        }
        faults
    }

    /// Why the first of the failed connections failed.
    pub(crate) fn first_failure(&self) -> Option<&str> {
        self.first_failure.as_deref()
    }

    /// Connections that stand.
    pub(crate) fn connected(&self) -> usize {
        self.connections.iter().filter(|connection| connection.phase == Phase::Ready).count()
    }

    fn check_stop(&self) -> Result<(), EngineError> {
        if self.options.stop.load(Ordering::Relaxed) {
            return Err(EngineError::Interrupted);
        }
        Ok(())
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
