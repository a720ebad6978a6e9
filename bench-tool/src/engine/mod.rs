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

pub(crate) use connection::{Phase, Subscription};
pub(crate) use dial::make_room_for;
pub(crate) use flow::{FlowSpec, MAX_WINDOW};
pub(crate) use payload::HEAD_LEN as MIN_PAYLOAD;
pub(crate) use wire::Login;

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
#[derive(Debug)]
pub(crate) struct ClientSpec {
    pub(crate) client_id: String,
    pub(crate) subscription: Option<Subscription>,
    /// Publishers whose messages it is to receive, all of them.
    pub(crate) receives_from: Range<u32>,
    pub(crate) publishes: Option<FlowSpec>,
}

/// What has happened since the engine was made.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    /// Clients that connected, and subscribed if they wanted to.
    pub(crate) ready: u64,
    /// SUBACKs.
    pub(crate) subscribed: u64,
    /// Messages sent.
    pub(crate) sent: u64,
    /// Messages received, each once by each receiver.
    pub(crate) delivered: u64,
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
        Ok(Self {
            options,
            run: fastrand::u32(..),
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            connections: Vec::new(),
            flows: Vec::new(),
            streams: Vec::new(),
            next_to_dial: 0,
            connecting: 0,
            publishing: false,
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
        if !spec.receives_from.is_empty() {
            connection.stream = Some(self.streams.len() as u32);
            self.streams.push(Stream::new(self.run, spec.receives_from));
        }
        if let Some(publishes) = &spec.publishes {
            let publisher = self.flows.len() as u32;
            connection.flow = Some(publisher);
            let template = wire::publish_template(
                self.options.login.version,
                &publishes.topic,
                publishes.qos,
                publishes.payload_len,
            );
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
        let mut progress = self.counters.ready + self.counters.subscribed;
        let mut patience_ends_ns = monotonic_ns() + nanoseconds(Self::CONNECT_PATIENCE);
        while self.counters.ready + self.counters.failed < clients as u64 {
            self.dial_more()?;
            self.turn(Duration::from_millis(100))?;
            self.check_stop()?;
            let now_ns = monotonic_ns();
            if self.counters.ready + self.counters.subscribed > progress {
                progress = self.counters.ready + self.counters.subscribed;
                patience_ends_ns = now_ns + nanoseconds(Self::CONNECT_PATIENCE);
            } else if now_ns > patience_ends_ns {
                let missing = clients as u64 - self.counters.ready;
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
        for (index, flow) in (0..).zip(&mut self.flows) {
            intake::touch(flow, index, &mut self.touched_flows);
        }
    }

    /// Lets the clients work for a time.
    pub(crate) fn run_for(&mut self, time: Duration) -> Result<(), EngineError> {
        let deadline_ns = monotonic_ns() + nanoseconds(time);
        loop {
            let now_ns = monotonic_ns();
            if now_ns >= deadline_ns {
                return Ok(());
            }
            self.check_stop()?;
            self.turn(Duration::from_nanos(deadline_ns - now_ns))?;
        }
    }

    /// Waits until nothing is outstanding, or until nothing has come for `patience`.
    pub(crate) fn drain(&mut self, patience: Duration) -> Result<(), EngineError> {
        let mut delivered = self.counters.delivered;
        let mut patience_ends_ns = monotonic_ns() + nanoseconds(patience);
        while self.flows.iter().any(|flow| flow.outstanding() > 0) {
            self.turn(Duration::from_millis(20))?;
            let now_ns = monotonic_ns();
            if self.counters.delivered > delivered {
                delivered = self.counters.delivered;
                patience_ends_ns = now_ns + nanoseconds(patience);
            } else if now_ns > patience_ends_ns {
                break;
            }
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
