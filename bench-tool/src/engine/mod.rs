//! Load clients by the thousand on one thread: one poll loop, few system calls, no allocation in steady state.
//!
//! A turn reads each ready socket once or until it is drained, takes the packets apart in place, and then writes
//! once to each connection that has something to say: acknowledgements, and the messages that fill a window again.

mod connection;
mod counters;
mod dial;
mod endpoint;
mod failure;
mod fleet;
mod flow;
mod flow_spec;
mod intake;
mod keep_alive;
mod large;
mod monitor;
mod pace;
mod payload;
mod peers;
mod stream;
mod timer;
mod tls;
mod tls_verify;
mod transport;
mod turn;
mod web_socket;
mod wire;

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::measure::{Latencies, StreamFaults, monotonic_ns};
use connection::{Connection, Phase};
use flow::{Flow, Overdue};
use keep_alive::Round;
use mio::{Events, Poll};
use monitor::Board;
use pace::Agenda;
use peers::Peers;
use stream::Stream;
use timer::Timer;

pub(crate) use connection::{Session, Subscription};
pub(crate) use counters::Counters;
pub(crate) use dial::{is_listening, make_room_for};
pub(crate) use endpoint::{Carrier, Endpoint};
pub(crate) use failure::{EngineError, Failure};
pub(crate) use fleet::Fleet;
pub(crate) use flow::{LATE_NS, MAX_WINDOW, Unacknowledged};
pub(crate) use flow_spec::FlowSpec;
pub(crate) use monitor::{Monitor, Snapshot, Stage};
pub(crate) use pace::check_rate;
pub(crate) use payload::HEAD_LEN as MIN_PAYLOAD;
pub(crate) use tls::{TlsOptions, TlsVersion};
pub(crate) use turn::STANDSTILL;
pub(crate) use web_socket::{USUAL_PATH, WebSocketTarget};
pub(crate) use wire::{Login, numbered};

/// How all clients of an engine connect.
#[derive(Clone, Debug)]
pub(crate) struct EngineOptions {
    pub(crate) endpoint: Endpoint,
    pub(crate) login: Login,
    /// Clients that are connecting at the same time, at most.
    pub(crate) connect_burst: usize,
    /// Between one client and the next, at least.
    pub(crate) connect_interval: Duration,
    /// Never sleep: polls in a loop, so that the broker need not wake this thread.
    pub(crate) spin: bool,
    /// Set when the run shall end early.
    pub(crate) stop: Arc<AtomicBool>,
    /// Where it shows how it is getting on.
    pub(crate) monitor: Arc<Monitor>,
}

/// One client: what it subscribes to, and what it publishes.
#[derive(Debug, Default)]
pub(crate) struct ClientSpec {
    pub(crate) client_id: String,
    /// Instead of the common one.
    pub(crate) username: Option<String>,
    pub(crate) subscription: Option<Subscription>,
    pub(crate) receives: Receives,
    pub(crate) publishes: Option<FlowSpec>,
    pub(crate) session: Session,
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
    /// All messages of whoever publishes.
    FromAnyone,
    /// An unknown part of somebody's messages.
    Share,
}

/// How far open loops are behind their time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Behind {
    /// Sent more than [`LATE_NS`] after they were due.
    pub(crate) late: u64,
    /// Due and not sent.
    pub(crate) unsent: u64,
}

impl Behind {
    /// Without what was sent late by then.
    pub(crate) fn since(self, earlier: Self) -> Self {
        Self { late: self.late - earlier.late, ..self }
    }
}

/// The load clients of one thread.
pub(crate) struct Engine {
    options: EngineOptions,
    peers: Peers,
    run: u32,
    poll: Poll,
    events: Events,
    connections: Vec<Connection>,
    flows: Vec<Flow>,
    streams: Vec<Stream>,
    /// Next connection to dial, and how many are being dialled or logged in.
    next_to_dial: usize,
    connecting: usize,
    /// When dialling began.
    first_dial_ns: Option<u64>,
    publishing: bool,
    agenda: Agenda,
    timer: Timer,
    closing: bool,
    touched_flows: Vec<u32>,
    /// The list of the turn that is being flushed; kept for its capacity.
    flushed_flows: Vec<u32>,
    touched_connections: Vec<u32>,
    read_buffer: Vec<u8>,
    write_buffer: Vec<u8>,
    next_stall_check_ns: u64,
    /// At the last of those checks, and for how many of them it has been that.
    progress: u64,
    still_checks: u32,
    keep_alive_seconds: u16,
    round: Round,
    board: Arc<Board>,
    times_logins: bool,
    counters: Counters,
    latencies: Latencies,
    acknowledgements: Latencies,
    first_failure: Option<String>,
}

impl Engine {
    /// How long a broker may take to close after DISCONNECT.
    const CLOSE_PATIENCE: Duration = Duration::from_secs(3);

    /// Without progress for this long, connecting is given up.
    const CONNECT_PATIENCE: Duration = Duration::from_secs(15);

    pub(crate) fn new(options: EngineOptions, run: u32, peers: Peers) -> io::Result<Self> {
        let poll = Poll::new()?;
        let timer = Timer::new(poll.registry())?;
        peers.register(poll.registry())?;
        Ok(Self {
            board: options.monitor.board(),
            keep_alive_seconds: options.login.keep_alive_seconds,
            round: Round::default(),
            times_logins: true,
            options,
            peers,
            run,
            poll,
            events: Events::with_capacity(1024),
            connections: Vec::new(),
            flows: Vec::new(),
            streams: Vec::new(),
            next_to_dial: 0,
            connecting: 0,
            first_dial_ns: None,
            publishing: false,
            agenda: Agenda::default(),
            timer,
            closing: false,
            touched_flows: Vec::new(),
            flushed_flows: Vec::new(),
            touched_connections: Vec::new(),
            read_buffer: vec![0; turn::READ_CHUNK],
            write_buffer: Vec::new(),
            next_stall_check_ns: 0,
            progress: 0,
            still_checks: 0,
            counters: Counters::default(),
            latencies: Latencies::new(),
            acknowledgements: Latencies::new(),
            first_failure: None,
        })
    }

    /// Adds a client that [`connect_who_can`](Self::connect_who_can) will connect.
    pub(crate) fn add_client(&mut self, spec: ClientSpec) {
        let index = self.connections.len() as u32;
        let mut connection = Connection::new(spec.client_id, spec.subscription);
        connection.session = spec.session;
        connection.username = spec.username;
        connection.expendable = spec.expendable;
        connection.latency_from_ns = spec.latency_since_login.then_some(0);
        match spec.receives {
            Receives::Nothing => {}
            Receives::From(publishers) => {
                connection.stream = Some(self.add_stream(Stream::own(self.run, publishers)));
            }
            Receives::FromAnyone => {
                connection.stream = Some(self.add_stream(Stream::anyone()));
            }
            Receives::Share => connection.stream = Some(self.add_stream(Stream::Share)),
            Receives::With(client) => {
                connection.stream = self.connections.get(client).and_then(|other| other.stream);
            }
        }
        if let Some(publishes) = &spec.publishes {
            let flow_index = self.flows.len() as u32;
            let publisher = self.peers.publisher(flow_index);
            connection.flow = Some(flow_index);
            let templates = wire::publish_templates(self.options.login.version, publishes);
            let flow = Flow::new(publishes, templates, index, self.run, publisher);
            self.make_room_for_frames_of(flow.frame_len());
            self.flows.push(flow);
        }
        self.connections.push(connection);
    }

    fn add_stream(&mut self, stream: Stream) -> u32 {
        self.streams.push(stream);
        self.streams.len() as u32 - 1
    }

    /// Room for what was kept of one packet and a whole chunk behind it.
    fn make_room_for_frames_of(&mut self, bytes: usize) {
        let needed = turn::READ_CHUNK + 2 * bytes;
        self.read_buffer.resize(self.read_buffer.len().max(needed), 0);
    }

    /// Connects every client added so far, and subscribes; those that cannot are counted.
    ///
    /// # Errors
    /// If nothing moves for 15 s.
    pub(crate) fn connect_who_can(&mut self) -> Result<(), EngineError> {
        let connected = self.connect_own();
        // Whoever is in already must be heard until all are.
        let is_in = |_: &Self| true;
        connected.and(self.run_until(Self::CONNECT_PATIENCE, is_in).map(drop))
    }

    fn connect_own(&mut self) -> Result<(), EngineError> {
        let patience = Self::CONNECT_PATIENCE.max(2 * self.options.connect_interval);
        let settled = |counters: Counters| counters.ready + counters.failed;
        let clients = self.connections.len();
        let mut reached = settled(self.counters);
        let mut patience_ends_ns = monotonic_ns() + nanoseconds(patience);
        while self.next_to_dial < clients || self.connecting > 0 {
            let wait = self.dial_more()?;
            self.turn(wait)?;
            self.check_stop()?;
            let now_ns = monotonic_ns();
            if settled(self.counters) > reached {
                reached = settled(self.counters);
                patience_ends_ns = now_ns + nanoseconds(patience);
            } else if now_ns > patience_ends_ns {
                let is_in = |one: &&Connection| matches!(one.phase, Phase::Ready | Phase::Closed);
                let missing = (clients - self.connections.iter().filter(is_in).count()) as u64;
                let Endpoint { address, .. } = self.options.endpoint;
                let seconds = patience.as_secs();
                let hint = match self.counters.ready {
                    0 => format!(": {}", self.options.endpoint.carrier().doubt()),
                    _ => String::new(),
                };
                return Err(EngineError::ConnectTimeout {
                    missing,
                    clients,
                    address,
                    seconds,
                    hint,
                });
            }
        }
        Ok(())
    }

    /// Starts or stops filling windows; what is outstanding is still awaited.
    pub(crate) fn set_publishing(&mut self, publishing: bool) {
        self.publishing = publishing;
        let now_ns = monotonic_ns();
        let flows = self.flows.len() as f64;
        self.agenda = Agenda::default();
        for (index, flow) in (0..).zip(&mut self.flows) {
            flow.waiting = false;
            flow.start(now_ns, f64::from(index) / flows);
            intake::touch(flow, index, &mut self.touched_flows);
        }
    }

    /// Tells whoever watches where the run stands.
    pub(crate) fn enter(&self, stage: Stage) {
        self.options.monitor.enter(stage);
    }

    /// Lets the clients work until it is done, or for a time, or until all connections are gone.
    pub(crate) fn run_until_done(
        &mut self,
        time: Option<Duration>,
        is_done: impl Fn(&Self) -> bool,
    ) -> Result<(), EngineError> {
        let time_ns = time.map_or(u64::MAX, nanoseconds);
        let deadline_ns = monotonic_ns().saturating_add(time_ns);
        loop {
            let now_ns = monotonic_ns();
            if now_ns >= deadline_ns || self.is_stage_over(is_done(self)) {
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
        self.run_until(patience, Self::flows_are_done)
    }

    /// Whether all that is to be published is sent, and nothing is outstanding.
    pub(crate) fn flows_are_done(&self) -> bool {
        self.flows.iter().all(Flow::is_done)
    }

    /// The same, but nothing more is expected of a publisher that has no connection.
    pub(crate) fn flows_have_ended(&self) -> bool {
        let connection = |flow: &Flow| self.connections.get(flow.connection as usize);
        let is_gone = |flow| connection(flow).is_none_or(|one| one.phase == Phase::Closed);
        self.flows.iter().all(|flow| flow.is_done() || is_gone(flow))
    }

    /// Whether all publishers wait, and nothing has been sent, received or acknowledged for a
    /// [while](STANDSTILL).
    pub(crate) fn stands_still(&self) -> bool {
        self.still_checks >= turn::STANDSTILL_CHECKS && self.peers.are_all_stalled()
    }

    /// Of what is outstanding, what the broker has not acknowledged.
    pub(crate) fn unacknowledged(&self) -> Unacknowledged {
        let mut sum = Unacknowledged::default();
        for Unacknowledged { messages, deliveries } in self.flows.iter().map(Flow::unacknowledged) {
            sum.messages += messages;
            sum.deliveries += deliveries;
        }
        sum
    }

    /// Publishers.
    pub(crate) fn publishers(&self) -> usize {
        self.flows.len()
    }

    /// Messages received by the clients of all threads.
    pub(crate) fn received_by_all(&self) -> u64 {
        self.peers.received()
    }

    /// To be called before every stage of a run, while no thread is at work.
    pub(crate) fn begin_stage(&self) {
        self.peers.begin_stage();
    }

    /// Tells the other threads whether this one is done. Returns whether nobody has anything left to do.
    fn is_stage_over(&self, is_done: bool) -> bool {
        let is_abandoned = self.counters.failed > 0 || self.connections.is_empty();
        self.peers.are_all_done(is_done)
            || self.peers.are_all_abandoned(is_abandoned && !self.has_connections())
    }

    /// Waits until so many messages were delivered in all, or until nothing has come for `patience`.
    pub(crate) fn receive_until(
        &mut self,
        delivered: u64,
        patience: Duration,
    ) -> Result<bool, EngineError> {
        self.run_until(patience, |engine| engine.peers.delivered() >= delivered)
    }

    fn run_until(
        &mut self,
        patience: Duration,
        is_done: impl Fn(&Self) -> bool,
    ) -> Result<bool, EngineError> {
        let mut reached = self.peers.progress();
        let mut patience_ends_ns = monotonic_ns() + nanoseconds(patience);
        let mut done = is_done(self);
        while !self.is_stage_over(done) {
            if self.publishing {
                self.check_stop()?;
            }
            self.turn(Duration::from_millis(20))?;
            done = is_done(self);
            let now_ns = monotonic_ns();
            if self.peers.progress() > reached {
                reached = self.peers.progress();
                patience_ends_ns = now_ns + nanoseconds(patience);
            } else if now_ns > patience_ends_ns {
                break;
            }
        }
        Ok(done)
    }

    /// Whether any connection is open.
    pub(crate) fn has_connections(&self) -> bool {
        self.connections.iter().any(Connection::is_open)
    }

    /// Which of the threads this is.
    pub(crate) fn thread(&self) -> u32 {
        self.peers.publisher(0)
    }

    /// From now on these clients, numbered as they were added, read or do not read.
    pub(crate) fn set_stalled(&mut self, clients: Range<usize>, stalled: bool) {
        for connection in self.connections.get_mut(clients).unwrap_or_default() {
            connection.stalled = stalled;
        }
    }

    /// Disconnects these clients and waits a moment for the broker to see it.
    pub(crate) fn disconnect(&mut self, clients: &[usize]) -> Result<(), EngineError> {
        for &index in clients {
            if let Some(connection) = self.connections.get_mut(index) {
                connection.expendable = true;
            }
            self.say_goodbye(index);
        }
        self.await_closed(clients.iter().copied())
    }

    /// Says DISCONNECT on every connection and waits a moment for the broker to close them.
    pub(crate) fn disconnect_all(&mut self) -> Result<(), EngineError> {
        self.closing = true;
        self.publishing = false;
        for index in 0..self.connections.len() {
            self.say_goodbye(index);
        }
        self.await_closed(0..self.connections.len())
    }

    /// Waits until the broker has closed these connections, for a moment at most.
    fn await_closed(
        &mut self,
        mut clients: impl Iterator<Item = usize>,
    ) -> Result<(), EngineError> {
        let deadline_ns = monotonic_ns() + nanoseconds(Self::CLOSE_PATIENCE);
        let mut next = clients.next();
        while let Some(index) = next
            && monotonic_ns() < deadline_ns
        {
            if self.connections.get(index).is_some_and(Connection::is_open) {
                self.turn(Duration::from_millis(5))?;
            } else {
                next = clients.next();
            }
        }
        Ok(())
    }

    /// Clients added so far.
    pub(crate) fn clients(&self) -> usize {
        self.connections.len()
    }

    /// Whether the time from dialling to being let in is a latency.
    pub(crate) fn times_logins(&mut self, times_logins: bool) {
        self.times_logins = times_logins;
    }

    pub(crate) fn counters(&self) -> Counters {
        self.counters
    }

    /// Time from sending to receiving, and for connections from dialling to ready.
    pub(crate) fn latencies(&self) -> &Latencies {
        &self.latencies
    }

    /// Time from sending to the broker's acknowledgement, of what is [timed](FlowSpec::times_acknowledgements).
    pub(crate) fn acknowledgements(&self) -> &Latencies {
        &self.acknowledgements
    }

    pub(crate) fn forget_latencies(&mut self) {
        self.latencies.clear();
        self.acknowledgements.clear();
    }

    /// Losses, duplicates and reorderings since the start, given how much each publisher has sent.
    pub(crate) fn faults(&self, sent_by: impl Fn(u32) -> u64) -> StreamFaults {
        let mut faults = StreamFaults::default();
        self.streams.iter().for_each(|stream| faults.add(stream.faults(&sent_by)));
        faults
    }

    /// Bytes of the longest PUBLISH of anybody.
    pub(crate) fn frame_len(&self) -> usize {
        self.flows.iter().map(Flow::frame_len).max().unwrap_or(0)
    }

    /// Messages sent by the publisher with this index here.
    pub(crate) fn sent_by_flow(&self, flow: usize) -> u64 {
        self.flows.get(flow).map_or(0, Flow::sent)
    }

    /// Messages missed of what publishers elsewhere sent at QoS 1 or 2.
    pub(crate) fn reliable_lost(&self) -> u64 {
        self.streams.iter().map(Stream::reliable_lost).sum()
    }

    /// Open loops: messages sent late, and messages that are due and not sent.
    pub(crate) fn behind(&self, now_ns: u64) -> Behind {
        Behind {
            late: self.flows.iter().map(Flow::late).sum(),
            unsent: self.flows.iter().map(|flow| flow.unsent(now_ns)).sum(),
        }
    }

    /// What is due and has not come, or has not been acknowledged, has waited until now at least: its latency counts as
    /// that, so that the end of a run hides no stall.
    pub(crate) fn note_overdue(&mut self, now_ns: u64) {
        for overdue in self.flows.iter().flat_map(|flow| flow.overdue(now_ns)) {
            let Overdue { due_ns, receivers, is_unacknowledged } = overdue;
            let waited_ns = now_ns.saturating_sub(due_ns);
            if receivers > 0 {
                self.latencies.record(waited_ns, receivers.into());
            }
            if is_unacknowledged {
                self.acknowledgements.record(waited_ns, 1);
            }
        }
    }

    /// Why the first of the failed connections failed.
    pub(crate) fn first_failure(&self) -> Option<&str> {
        self.first_failure.as_deref()
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
