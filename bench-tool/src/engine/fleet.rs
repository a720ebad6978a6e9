//! Clients spread over threads, one a core at most, that work as one.

use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::peers::{MAX_THREADS, Peers};
use super::{
    Behind, ClientSpec, Counters, Engine, EngineError, EngineOptions, Receives, Stage,
    Unacknowledged, dial,
};
use crate::measure::{Latencies, StreamFaults, thread_cpu_ns};

/// The load clients of one run. Publishers are dealt out to the threads in turn, and so are subscribers; who
/// receives from one publisher alone is on its thread.
pub(crate) struct Fleet {
    engines: Vec<Engine>,
    /// Of each client, in the order in which they were added: its thread, and its number there.
    places: Vec<(usize, usize)>,
    publishers: usize,
    address: SocketAddr,
    /// CPU time that each thread has used for its clients, in nanoseconds.
    busy_ns: Vec<u64>,
}

impl Fleet {
    /// Clients for so many threads, 1 to the number of cores.
    pub(crate) fn new(options: &EngineOptions, threads: usize) -> io::Result<Self> {
        let threads = threads.clamp(1, MAX_THREADS);
        let run = fastrand::u32(..);
        let engine = |peers| {
            let options = EngineOptions {
                connect_burst: options.connect_burst.div_ceil(threads).max(1),
                connect_interval: options.connect_interval * threads as u32,
                stop: Arc::clone(&options.stop),
                ..options.clone()
            };
            Engine::new(options, run, peers)
        };
        let engines = Peers::group(threads).into_iter().map(engine);
        Ok(Self {
            engines: engines.collect::<io::Result<_>>()?,
            places: Vec::new(),
            publishers: 0,
            address: options.endpoint.address,
            busy_ns: vec![0; threads],
        })
    }

    /// Adds a client that [`connect_all`](Self::connect_all) will connect. Publishers are numbered in the order
    /// in which they are added.
    pub(crate) fn add_client(&mut self, mut spec: ClientSpec) {
        let threads = self.engines.len();
        let mut thread = self.places.len() % threads;
        match &mut spec.receives {
            Receives::From(publishers) if publishers.len() == 1 => {
                thread = publishers.start as usize % threads;
            }
            Receives::With(client) => {
                if let Some((place, number)) = self.places.get(*client) {
                    (thread, *client) = (*place, *number);
                }
            }
            _ => {}
        }
        if spec.publishes.is_some() {
            thread = self.publishers % threads;
            self.publishers += 1;
        }
        if let Some(engine) = self.engines.get_mut(thread) {
            self.places.push((thread, engine.clients()));
            engine.add_client(spec);
        }
    }

    /// Connects every client added so far, and subscribes.
    ///
    /// # Errors
    /// If one cannot connect, or nothing moves for 15 s.
    pub(crate) fn connect_all(&mut self) -> Result<(), EngineError> {
        self.connect_who_can()?;
        match self.first_failure() {
            None => Ok(()),
            Some(_) => Err(self.not_connected()),
        }
    }

    /// Connects every client added so far, and subscribes; those that cannot are counted.
    ///
    /// # Errors
    /// If nothing moves for 15 s.
    pub(crate) fn connect_who_can(&mut self) -> Result<(), EngineError> {
        self.enter(Stage::Connecting);
        self.each(Engine::connect_who_can).into_iter().collect()
    }

    /// What is to be said when nobody, or not everybody, could connect.
    pub(crate) fn not_connected(&self) -> EngineError {
        EngineError::NotConnected {
            failed: self.counters().failed,
            clients: self.clients(),
            address: self.address,
            first: self.first_failure().unwrap_or_default().to_owned(),
        }
    }

    /// Starts or stops filling windows; what is outstanding is still awaited.
    pub(crate) fn set_publishing(&mut self, publishing: bool) {
        self.engines.iter_mut().for_each(|engine| engine.set_publishing(publishing));
    }

    /// Lets the clients work for a time, or until all publishers have waited in vain for a [while](super::STANDSTILL).
    pub(crate) fn run_for(&mut self, time: Duration) -> Result<(), EngineError> {
        self.run_until_done(Some(time), Engine::stands_still)
    }

    /// Whether the last [`run_for`](Self::run_for) has ended, or could have, before its time.
    pub(crate) fn stands_still(&self) -> bool {
        self.engines.iter().all(Engine::stands_still)
    }

    /// Of what is outstanding, what the broker has not acknowledged.
    pub(crate) fn unacknowledged(&self) -> Unacknowledged {
        let mut sum = Unacknowledged::default();
        for Unacknowledged { messages, deliveries } in
            self.engines.iter().map(Engine::unacknowledged)
        {
            sum.messages += messages;
            sum.deliveries += deliveries;
        }
        sum
    }

    /// Publishers on all threads.
    pub(crate) fn publishers(&self) -> usize {
        self.engines.iter().map(Engine::publishers).sum()
    }

    /// Lets the clients work until each thread says that it is done, or for a time, or until all connections
    /// are gone.
    pub(crate) fn run_until_done(
        &mut self,
        time: Option<Duration>,
        is_done: impl Fn(&Engine) -> bool + Sync,
    ) -> Result<(), EngineError> {
        let run = |engine: &mut Engine| engine.run_until_done(time, &is_done);
        self.each(run).into_iter().collect()
    }

    /// Waits until nothing is outstanding, or until nothing has come for `patience`.
    pub(crate) fn drain(&mut self, patience: Duration) -> Result<(), EngineError> {
        self.each(|engine| engine.drain(patience)).into_iter().collect()
    }

    /// Lets the clients work until all limits are reached and nothing is outstanding, or until nothing has
    /// come for `patience`. Returns whether all is done.
    pub(crate) fn finish_flows(&mut self, patience: Duration) -> Result<bool, EngineError> {
        all(self.each(|engine| engine.finish_flows(patience)))
    }

    /// Waits until so many messages were delivered in all, or until nothing has come for `patience`.
    pub(crate) fn receive_until(
        &mut self,
        delivered: u64,
        patience: Duration,
    ) -> Result<bool, EngineError> {
        all(self.each(|engine| engine.receive_until(delivered, patience)))
    }

    /// From now on these clients, numbered as they were added, read or do not read.
    pub(crate) fn set_stalled(&mut self, clients: Range<usize>, stalled: bool) {
        for (thread, number) in self.places.get(clients).unwrap_or_default() {
            if let Some(engine) = self.engines.get_mut(*thread) {
                engine.set_stalled(*number..number + 1, stalled);
            }
        }
    }

    /// Disconnects these clients, numbered as they were added, and waits a moment for the broker to see it.
    pub(crate) fn disconnect(&mut self, clients: Range<usize>) -> Result<(), EngineError> {
        let mut numbers = vec![Vec::new(); self.engines.len()];
        for (thread, number) in self.places.get(clients).unwrap_or_default() {
            numbers[*thread].push(*number);
        }
        let disconnect =
            |engine: &mut Engine| engine.disconnect(&numbers[engine.thread() as usize]);
        self.each(disconnect).into_iter().collect()
    }

    /// Says DISCONNECT on every connection and waits a moment for the broker to close them.
    pub(crate) fn disconnect_all(&mut self) -> Result<(), EngineError> {
        self.enter(Stage::Disconnecting);
        self.each(Engine::disconnect_all).into_iter().collect()
    }

    /// Tells whoever watches where the run stands.
    pub(crate) fn enter(&self, stage: Stage) {
        self.engines.iter().for_each(|engine| engine.enter(stage));
    }

    /// Whether the time from dialling to being let in is a latency.
    pub(crate) fn times_logins(&mut self, times_logins: bool) {
        self.engines.iter_mut().for_each(|engine| engine.times_logins(times_logins));
    }

    pub(crate) fn clients(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn counters(&self) -> Counters {
        let mut sum = [0; Counters::COUNT];
        for engine in &self.engines {
            for (sum, value) in sum.iter_mut().zip(engine.counters().to_array()) {
                *sum += value;
            }
        }
        Counters::from_array(sum)
    }

    /// Time from sending to receiving, and for connections from dialling to ready.
    pub(crate) fn latencies(&self) -> Latencies {
        let mut latencies = Latencies::new();
        self.engines.iter().for_each(|engine| latencies.merge(engine.latencies()));
        latencies
    }

    /// Time from sending to the broker's acknowledgement, of what is timed.
    pub(crate) fn acknowledgements(&self) -> Latencies {
        let mut latencies = Latencies::new();
        self.engines.iter().for_each(|engine| latencies.merge(engine.acknowledgements()));
        latencies
    }

    /// Bytes of the longest PUBLISH of anybody.
    pub(crate) fn frame_len(&self) -> usize {
        self.engines.iter().map(Engine::frame_len).max().unwrap_or(0)
    }

    pub(crate) fn forget_latencies(&mut self) {
        self.engines.iter_mut().for_each(Engine::forget_latencies);
    }

    /// Losses, duplicates and reorderings since the start, over all receivers.
    pub(crate) fn faults(&self) -> StreamFaults {
        let threads = self.engines.len();
        let sent_by = |publisher: u32| {
            let engine = self.engines.get(publisher as usize % threads);
            engine.map_or(0, |engine| engine.sent_by_flow(publisher as usize / threads))
        };
        let mut faults = StreamFaults::default();
        self.engines.iter().for_each(|engine| faults.add(engine.faults(sent_by)));
        faults
    }

    /// Messages missed of what publishers elsewhere sent at QoS 1 or 2.
    pub(crate) fn reliable_lost(&self) -> u64 {
        self.engines.iter().map(Engine::reliable_lost).sum()
    }

    /// Open loops: messages sent late, and messages that are due and not sent.
    pub(crate) fn behind(&self, now_ns: u64) -> Behind {
        let mut sum = Behind::default();
        for behind in self.engines.iter().map(|engine| engine.behind(now_ns)) {
            sum.late += behind.late;
            sum.unsent += behind.unsent;
        }
        sum
    }

    /// What is due and has not come, or has not been acknowledged, has waited until now at least: its latency counts as
    /// that, so that the end of a run hides no stall.
    pub(crate) fn note_overdue(&mut self, now_ns: u64) {
        self.engines.iter_mut().for_each(|engine| engine.note_overdue(now_ns));
    }

    /// Why the first of the failed connections failed.
    pub(crate) fn first_failure(&self) -> Option<&str> {
        self.engines.iter().find_map(Engine::first_failure)
    }

    /// Where the broker is.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether every connection was closed by the broker: nothing can come any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.counters().failed > 0 && !self.engines.iter().any(Engine::has_connections)
    }

    /// Whether nobody is let in any more since every connection was closed.
    pub(crate) fn broker_is_gone(&self) -> bool {
        self.is_abandoned() && !dial::is_listening(self.address)
    }

    /// CPU time that each thread has used for its clients, in nanoseconds.
    pub(crate) fn busy_ns(&self) -> Vec<u64> {
        self.busy_ns.clone()
    }

    /// Lets every thread do its part; the first, or only, one is the caller's.
    fn each<T: Send>(&mut self, act: impl Fn(&mut Engine) -> T + Sync) -> Vec<T> {
        let timed = |engine: &mut Engine, busy_ns: &mut u64| {
            let before = thread_cpu_ns();
            let done = act(engine);
            *busy_ns += thread_cpu_ns() - before;
            done
        };
        let timed = &timed;
        self.engines.iter().for_each(Engine::begin_stage);
        let mut engines = self.engines.iter_mut().zip(&mut self.busy_ns);
        let Some((first, first_busy_ns)) = engines.next() else { return Vec::new() };
        thread::scope(|scope| {
            let others: Vec<_> = engines
                .map(|(engine, busy_ns)| scope.spawn(move || timed(engine, busy_ns)))
                .collect();
            let first = timed(first, first_busy_ns);
            let others = others
                .into_iter()
                .map(|other| other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            [first].into_iter().chain(others).collect()
        })
    }
}

fn all(done: Vec<Result<bool, EngineError>>) -> Result<bool, EngineError> {
    done.into_iter().try_fold(true, |all, one| Ok(all && one?))
}
