//! One turn of the loop: poll, read, fill the windows, write.

use std::io;
use std::time::Duration;

use mio::Token;

use super::connection::{Phase, Read};
use super::intake::{Intake, LatencyRun, touch};
use super::large::LEAST_SKIPPED;
use super::peers::{ReceiptKind, WAKER};
use super::timer::TIMER;
use super::{Engine, Failure, dial, nanoseconds, wire};
use crate::measure::monotonic_ns;

/// Read at once from one socket, in bytes.
pub(crate) const READ_CHUNK: usize = 64 * 1024;

/// Messages written at once to one socket, in bytes, unless one is larger.
const WRITE_CHUNK: usize = 256 * 1024;

/// What a TLS server says to a client that speaks MQTT: the head of an alert.
const TLS_ALERT: [u8; 2] = [21, 3];

/// What a WebSocket server says to a client that speaks MQTT, if it says anything.
const HTTP: &[u8] = b"HTTP/";

/// A publisher is stalled when nothing of its window has come for this many stall checks. At QoS 0 the window is
/// opened again.
const STALLED_CHECKS: u32 = 4;
const STALL_CHECK_NS: u64 = 250_000_000;

/// When nothing has happened for this many of them, and all publishers are stalled, nothing will.
pub(super) const STANDSTILL_CHECKS: u32 = 20;
pub(crate) const STANDSTILL: Duration =
    Duration::from_nanos(STANDSTILL_CHECKS as u64 * STALL_CHECK_NS);

impl Engine {
    /// Waits for events, for `wait` at most, and handles them.
    pub(super) fn turn(&mut self, wait: Duration) -> io::Result<()> {
        let is_busy = self.options.spin || !self.touched_flows.is_empty();
        let wait = if is_busy { Duration::ZERO } else { wait };
        let wait = self.await_due(wait)?;
        match self.poll.poll(&mut self.events, Some(wait.min(Duration::from_millis(100)))) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(error) => return Err(error),
        }
        let events = std::mem::replace(&mut self.events, mio::Events::with_capacity(0));
        for event in &events {
            if event.token() == TIMER || event.token() == WAKER {
                continue;
            }
            let index = event.token().0;
            if event.is_writable() {
                self.on_writable(index);
            }
            if event.is_readable() || event.is_error() {
                self.on_readable(index, event.is_read_closed() || event.is_error());
            }
        }
        self.events = events;
        self.peers.send();
        self.take_receipts();
        if self.agenda.next_ns().is_some() {
            self.touch_due(monotonic_ns());
        }
        self.fill_windows();
        let now_ns = monotonic_ns();
        self.keep_alive(now_ns);
        self.flush_touched();
        self.check_stalls(now_ns);
        self.peers.show(&self.counters, self.flows.len());
        // Where nobody receives, what there is to show is how long acknowledgements take.
        let is_heard = self.latencies.count() > 0;
        let latencies = if is_heard { &self.latencies } else { &self.acknowledgements };
        self.board.show(now_ns, self.connections.len(), &self.counters, latencies);
        Ok(())
    }

    /// What was received on other threads of what was sent here.
    fn take_receipts(&mut self) {
        while let Some(receipts) = self.peers.receive() {
            for receipt in receipts {
                let Some(flow) = self.flows.get_mut(receipt.flow as usize) else { continue };
                match receipt.kind {
                    ReceiptKind::PassedOver => flow.passed_over(receipt.sequences),
                    ReceiptKind::Received(seen) => {
                        receipt.sequences.for_each(|sequence| flow.delivered(sequence, seen));
                    }
                }
                touch(flow, receipt.flow, &mut self.touched_flows);
            }
        }
    }

    /// Sees to it that the loop wakes when the next message of an open loop is due: to the microsecond, where
    /// a poll's own time limit would round to milliseconds. Returns how long to poll.
    fn await_due(&mut self, wait: Duration) -> io::Result<Duration> {
        let Some(next_ns) = self.agenda.next_ns() else { return Ok(wait) };
        let now_ns = monotonic_ns();
        if next_ns > now_ns {
            if !wait.is_zero() {
                self.timer.set(next_ns)?;
            }
            return Ok(wait);
        }
        self.touch_due(now_ns);
        Ok(Duration::ZERO)
    }

    /// Has the flows that have a message due by now send it in this turn.
    fn touch_due(&mut self, now_ns: u64) {
        while let Some(index) = self.agenda.take_due(now_ns) {
            let Some(flow) = self.flows.get_mut(index as usize) else { continue };
            flow.waiting = false;
            touch(flow, index, &mut self.touched_flows);
        }
    }

    /// Dials until the burst is full, or nobody else is to be dialled yet. Returns how long to wait for events.
    pub(super) fn dial_more(&mut self) -> io::Result<Duration> {
        let now_ns = monotonic_ns();
        let passed_ns = now_ns - *self.first_dial_ns.get_or_insert(now_ns);
        let interval_ns = nanoseconds(self.options.connect_interval);
        let allowed = passed_ns.checked_div(interval_ns).map_or(usize::MAX, |n| n as usize + 1);
        while self.connecting < self.options.connect_burst
            && self.next_to_dial < allowed
            && let Some(connection) = self.connections.get_mut(self.next_to_dial)
        {
            let index = self.next_to_dial;
            self.next_to_dial += 1;
            self.connecting += 1;
            match dial::dial(&self.options.endpoint, self.peers.publisher(index as u32)) {
                Ok(transport) => {
                    transport.register(self.poll.registry(), Token(index))?;
                    connection.open(transport, monotonic_ns());
                    self.on_dialled(index);
                }
                Err(error) => self.fail(index, &error.into()),
            }
        }
        self.flush_touched();
        let is_paced = interval_ns > 0 && self.next_to_dial < self.connections.len();
        let next_ns = if is_paced { interval_ns - passed_ns % interval_ns } else { u64::MAX };
        Ok(Duration::from_nanos(next_ns).min(Duration::from_millis(100)))
    }

    pub(super) fn say_goodbye(&mut self, index: usize) {
        let version = self.options.login.version;
        let Some(connection) = self.connections.get_mut(index) else { return };
        // Who does not read would not see the broker close either.
        if connection.phase != Phase::Ready || connection.stalled {
            connection.close();
            return;
        }
        wire::disconnect(version, &mut connection.out);
        match connection.flush() {
            Err(_) => connection.close(),
            Ok(()) if !connection.blocked => connection.finish(),
            Ok(()) => {}
        }
    }

    fn on_writable(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if connection.phase == Phase::Dialling {
            self.on_dialled(index);
            return;
        }
        if !connection.blocked {
            return;
        }
        connection.blocked = false;
        self.touch_connection(index);
        let flow = self.connections.get(index).and_then(|connection| connection.flow);
        if let Some(flow_index) = flow
            && let Some(flow) = self.flows.get_mut(flow_index as usize)
        {
            touch(flow, flow_index, &mut self.touched_flows);
        }
    }

    fn on_dialled(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let Some(transport) = connection.transport() else { return };
        match transport.establish() {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return self.fail(index, &Failure::ClosedInHandshake);
            }
            Err(error) => return self.fail(index, &error.into()),
            Ok(false) => return,
            Ok(true) => {}
        }
        connection.phase = Phase::Connecting;
        if let Some(from_ns) = &mut connection.latency_from_ns {
            *from_ns = connection.dialled_ns;
        }
        let (login, out) = (&self.options.login, &mut connection.out);
        let username = connection.username.as_deref();
        wire::connect(login, &connection.client_id, username, connection.session, out);
        self.touch_connection(index);
    }

    fn on_readable(&mut self, index: usize, is_closed: bool) {
        while let Some(connection) = self.connections.get_mut(index) {
            if connection.stalled && !self.closing {
                return;
            }
            if connection.phase == Phase::Dialling {
                return self.on_dialled(index);
            }
            let was_connecting = connection.phase != Phase::Ready;
            let needed = connection.kept() + READ_CHUNK;
            if self.read_buffer.len() < needed {
                self.read_buffer.resize(2 * needed, 0);
            }
            let Read { filled, drained, large } = match connection.read(&mut self.read_buffer) {
                Ok(Some(read)) => read,
                Ok(None) => return,
                Err(failure) => return self.fail(index, &failure),
            };
            let bytes = self.read_buffer.get(..filled).unwrap_or_default();
            let stream = connection.stream.and_then(|index| self.streams.get_mut(index as usize));
            let mut intake = Intake {
                connection,
                stream,
                flows: &mut self.flows,
                touched_flows: &mut self.touched_flows,
                peers: &mut self.peers,
                counters: &mut self.counters,
                latencies: &mut self.latencies,
                acknowledgements: &mut self.acknowledgements,
                login: &self.options.login,
                keep_alive_seconds: &mut self.keep_alive_seconds,
                times_logins: self.times_logins,
                now_ns: monotonic_ns(),
                run: LatencyRun::default(),
                acknowledged_run: LatencyRun::default(),
            };
            match intake.take_in(large, bytes) {
                Ok(used) => {
                    let rest = bytes.get(used..).unwrap_or_default();
                    connection.keep(self.options.login.version, rest);
                }
                Err(Failure::Codec(_)) if bytes.starts_with(&TLS_ALERT) && was_connecting => {
                    return self.fail(index, &Failure::SpeaksTls);
                }
                Err(Failure::Codec(_)) if bytes.starts_with(HTTP) && was_connecting => {
                    return self.fail(index, &Failure::SpeaksHttp);
                }
                Err(failure) => return self.fail(index, &failure),
            }
            if was_connecting && connection.phase == Phase::Ready {
                self.connecting = self.connecting.saturating_sub(1);
            }
            if !connection.out.is_empty() {
                self.touch_connection(index);
            }
            // A short read has drained the socket: no second one to be told so. Unless it is closed: then the
            // end is still to be read.
            if drained && !is_closed {
                return;
            }
        }
    }

    /// Refills the window of each flow that something was delivered of, with one write for each.
    fn fill_windows(&mut self) {
        if !self.publishing {
            for index in self.touched_flows.drain(..) {
                if let Some(flow) = self.flows.get_mut(index as usize) {
                    flow.touched = false;
                }
            }
            return;
        }
        std::mem::swap(&mut self.touched_flows, &mut self.flushed_flows);
        for at in 0..self.flushed_flows.len() {
            let Some(&index) = self.flushed_flows.get(at) else { break };
            self.fill_window(index);
        }
        self.flushed_flows.clear();
    }

    fn fill_window(&mut self, index: u32) {
        let Some(flow) = self.flows.get_mut(index as usize) else { return };
        flow.touched = false;
        let connection_index = flow.connection as usize;
        let Some(connection) = self.connections.get_mut(connection_index) else { return };
        // Who is blocked, or not in yet, is touched again when that changes.
        if connection.blocked || connection.phase != Phase::Ready {
            return;
        }
        let now_ns = monotonic_ns();
        if flow.sendable(now_ns) > 0 {
            self.write_buffer.clear();
            self.write_buffer.extend_from_slice(connection.output());
            let written = if flow.frame_len() >= LEAST_SKIPPED {
                self.counters.sent += 1;
                let rest = flow.begin_frame(now_ns, &mut self.write_buffer);
                connection.write_parts(&self.write_buffer, rest)
            } else {
                self.counters.sent += flow.fill(now_ns, WRITE_CHUNK, &mut self.write_buffer);
                connection.write(&self.write_buffer)
            };
            if let Err(failure) = written {
                return self.fail(connection_index, &failure);
            }
            if connection.blocked {
                return;
            }
            if flow.sendable(now_ns) > 0 {
                return touch(flow, index, &mut self.touched_flows);
            }
        }
        if !flow.waiting
            && let Some(due_ns) = flow.next_due_ns()
        {
            flow.waiting = true;
            self.agenda.add(due_ns, index);
        }
    }

    fn flush_touched(&mut self) {
        while let Some(index) = self.touched_connections.pop() {
            let index = index as usize;
            let Some(connection) = self.connections.get_mut(index) else { continue };
            connection.touched = false;
            if connection.blocked || !connection.has_output() {
                continue;
            }
            if let Err(failure) = connection.flush() {
                self.fail(index, &failure);
            }
        }
    }

    pub(super) fn touch_connection(&mut self, index: usize) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        if !connection.touched {
            connection.touched = true;
            self.touched_connections.push(index as u32);
        }
    }

    fn check_stalls(&mut self, now_ns: u64) {
        if now_ns < self.next_stall_check_ns {
            return;
        }
        self.next_stall_check_ns = now_ns + STALL_CHECK_NS;
        self.counters.stalled = 0;
        for (index, flow) in (0..).zip(&mut self.flows) {
            if flow.stalled_checks() < STALLED_CHECKS {
                continue;
            }
            if flow.may_lose() {
                self.counters.given_up += flow.outstanding();
                flow.give_up_outstanding();
                touch(flow, index, &mut self.touched_flows);
            } else {
                self.counters.stalled += 1;
            }
        }
        let progress = self.peers.progress();
        self.still_checks = if progress == self.progress { self.still_checks + 1 } else { 0 };
        self.progress = progress;
    }

    pub(super) fn fail(&mut self, index: usize, failure: &Failure) {
        let Some(connection) = self.connections.get_mut(index) else { return };
        let phase = connection.phase;
        if phase == Phase::Closed {
            return;
        }
        connection.close();
        self.counters.closed += u64::from(phase == Phase::Ready);
        if self.closing || (connection.expendable && phase == Phase::Ready) {
            return;
        }
        if phase != Phase::Ready {
            self.connecting = self.connecting.saturating_sub(1);
        }
        self.counters.failed += 1;
        let client_id = &connection.client_id;
        // Who else was let in spoke what is spoken there.
        let is_unheard =
            self.counters.ready == 0 && matches!(phase, Phase::Dialling | Phase::Connecting);
        let doubt = match is_unheard && failure.may_be_another_carrier() {
            true => format!(" ({})", self.options.endpoint.carrier().doubt()),
            false => String::new(),
        };
        self.first_failure.get_or_insert_with(|| format!("client {client_id}: {failure}{doubt}"));
    }
}
