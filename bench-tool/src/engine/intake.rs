//! What one read brought: packets taken apart in place.

use sluice::mqtt::{AckKind, PacketId, QoS, ReasonCode};

use super::connection::{Connection, Phase};
use super::flow::Flow;
use super::large::{LEAST_SKIPPED, LargePublish};
use super::payload::{PayloadHead, this_machine};
use super::peers::{Home, Peers, Receipt, ReceiptKind};
use super::stream::{Observed, Stream};
use super::wire::{self, Incoming, Login, Welcome};
use super::{Counters, Failure};
use crate::measure::{Latencies, Seen, monotonic_ns};

/// Everything of the engine that a packet may concern.
pub(crate) struct Intake<'e> {
    pub(crate) connection: &'e mut Connection,
    pub(crate) stream: Option<&'e mut Stream>,
    pub(crate) flows: &'e mut [Flow],
    pub(crate) touched_flows: &'e mut Vec<u32>,
    pub(crate) peers: &'e mut Peers,
    pub(crate) counters: &'e mut Counters,
    pub(crate) latencies: &'e mut Latencies,
    pub(crate) acknowledgements: &'e mut Latencies,
    pub(crate) login: &'e Login,
    pub(crate) keep_alive_seconds: &'e mut u16,
    pub(crate) times_logins: bool,
    /// When the bytes were read.
    pub(crate) now_ns: u64,
    pub(crate) run: LatencyRun,
    pub(crate) acknowledged_run: LatencyRun,
}

/// Messages in a row that were sent at the same time, and so took the same time.
#[derive(Default)]
pub(crate) struct LatencyRun {
    sent_ns: u64,
    count: u64,
}

impl Intake<'_> {
    /// Handles a message whose end was dropped, and then every whole packet in `bytes`; returns how many bytes those
    /// were.
    pub(crate) fn take_in(
        &mut self,
        large: Option<LargePublish>,
        bytes: &[u8],
    ) -> Result<usize, Failure> {
        self.connection.reads_heads = large.is_some();
        if let Some(LargePublish { qos, packet_id, payload, .. }) = &large {
            let (qos, packet_id) = (*qos, *packet_id);
            self.handle(Incoming::Publish { qos, packet_id, payload })?;
        }
        let mut used = 0;
        while let Some((incoming, len)) =
            wire::next(self.login.version, bytes.get(used..).unwrap_or_default())?
        {
            used += len;
            self.connection.reads_heads |= len >= LEAST_SKIPPED;
            self.handle(incoming)?;
        }
        self.run.end(self.now_ns, self.latencies);
        self.acknowledged_run.end(self.now_ns, self.acknowledgements);
        Ok(used)
    }

    #[inline]
    fn handle(&mut self, incoming: Incoming<'_>) -> Result<(), Failure> {
        match incoming {
            Incoming::Publish { qos, packet_id, payload } => {
                self.on_publish(payload, qos != QoS::AtMostOnce);
                if let Some(packet_id) = packet_id {
                    let kind =
                        if qos == QoS::AtLeastOnce { AckKind::PubAck } else { AckKind::PubRec };
                    self.reply(kind, packet_id);
                }
            }
            Incoming::Ack { kind, packet_id, reason } => self.on_ack(kind, packet_id, reason),
            Incoming::ConnAck(welcome) => self.on_connack(&welcome)?,
            Incoming::SubAck { refused: Some(code) } => return Err(Failure::NotSubscribed(code)),
            Incoming::SubAck { refused: None } => {
                self.connection.subscribing = self.connection.subscribing.saturating_sub(1);
                if self.connection.subscribing == 0 {
                    self.become_ready();
                }
            }
            Incoming::Disconnect { reason } => return Err(Failure::Disconnected(reason)),
            Incoming::Other => {}
        }
        Ok(())
    }

    #[inline]
    fn on_publish(&mut self, payload: &[u8], is_reliable: bool) {
        self.counters.received += 1;
        let stream = self.stream.as_mut();
        let observed = stream.and_then(|stream| stream.observe(payload, is_reliable));
        let Some(Observed { head, seen, expected, is_own }) = observed else { return };
        if seen != Seen::Fresh || head.sequence != expected {
            self.note_out_of_turn(seen, head.sequence, expected);
        }
        if seen == Seen::Duplicate {
            return;
        }
        self.counters.delivered += 1;
        if is_own || head.machine == this_machine() {
            self.note_latency(head);
        }
        if !is_own {
            return;
        }
        let passed_over = expected..if seen == Seen::Fresh { head.sequence } else { expected };
        match self.peers.home(head.publisher) {
            Home::Here(index) => {
                let Some(flow) = self.flows.get_mut(index as usize) else { return };
                if !passed_over.is_empty() {
                    flow.passed_over(passed_over);
                }
                flow.delivered(head.sequence, seen);
                touch(flow, index, self.touched_flows);
            }
            Home::There { thread, flow } => {
                if !passed_over.is_empty() {
                    let kind = ReceiptKind::PassedOver;
                    self.peers.note(thread, Receipt { flow, sequences: passed_over, kind });
                }
                let sequences = head.sequence..head.sequence + 1;
                let kind = ReceiptKind::Received(seen);
                self.peers.note(thread, Receipt { flow, sequences, kind });
            }
        }
    }

    #[cold]
    fn note_out_of_turn(&mut self, seen: Seen, sequence: u64, expected: u64) {
        let counters = &mut *self.counters;
        match seen {
            Seen::Fresh => counters.missing += sequence - expected,
            Seen::Late => {
                counters.missing = counters.missing.saturating_sub(1);
                counters.reordered += 1;
            }
            Seen::Duplicate => counters.duplicates += 1,
        }
    }

    #[inline]
    fn on_ack(&mut self, kind: AckKind, packet_id: PacketId, reason: ReasonCode) {
        match kind {
            AckKind::PubAck | AckKind::PubComp => self.on_final_ack(packet_id, reason),
            // A refusal ends the exchange [MQTT-4.3.3-4].
            AckKind::PubRec if reason.is_error() => self.on_final_ack(packet_id, reason),
            AckKind::PubRec => self.reply(AckKind::PubRel, packet_id),
            AckKind::PubRel => self.reply(AckKind::PubComp, packet_id),
        }
    }

    #[inline]
    fn on_final_ack(&mut self, packet_id: PacketId, reason: ReasonCode) {
        self.counters.acknowledged += 1;
        self.counters.refused += u64::from(reason.is_error());
        let Some(index) = self.connection.flow else { return };
        let Some(flow) = self.flows.get_mut(index as usize) else { return };
        if let Some(sent_ns) = flow.acknowledged(packet_id.get()) {
            self.acknowledged_run.note(sent_ns, self.now_ns, self.acknowledgements);
        }
        touch(flow, index, self.touched_flows);
    }

    #[inline]
    fn reply(&mut self, kind: AckKind, packet_id: PacketId) {
        wire::ack(self.login.version, kind, packet_id, &mut self.connection.out);
    }

    fn on_connack(&mut self, welcome: &Welcome) -> Result<(), Failure> {
        if welcome.reason.is_error() {
            return Err(Failure::Refused(welcome.reason));
        }
        if let Some(seconds) = welcome.keep_alive_seconds.filter(|seconds| *seconds > 0) {
            let own = *self.keep_alive_seconds;
            *self.keep_alive_seconds = if own == 0 { seconds } else { own.min(seconds) };
        }
        let flow = self.connection.flow.and_then(|index| self.flows.get_mut(index as usize));
        if let Some(flow) = flow {
            flow.heed(welcome)?;
        }
        let connection = &mut *self.connection;
        let Some(subscription) = &connection.subscription else {
            self.become_ready();
            return Ok(());
        };
        connection.phase = Phase::Subscribing;
        let (filters, qos) = (&subscription.filters, subscription.qos);
        connection.subscribing =
            wire::subscribe(self.login.version, filters, qos, &mut connection.out);
        if let Some(from_ns) = &mut connection.latency_from_ns {
            *from_ns = monotonic_ns();
        }
        Ok(())
    }

    fn become_ready(&mut self) {
        if self.connection.phase == Phase::Ready {
            return;
        }
        self.connection.phase = Phase::Ready;
        self.counters.ready += 1;
        if self.times_logins && self.connection.latency_from_ns.is_none() {
            self.latencies.record(self.now_ns.saturating_sub(self.connection.dialled_ns), 1);
        }
        if let Some(index) = self.connection.flow
            && let Some(flow) = self.flows.get_mut(index as usize)
        {
            touch(flow, index, self.touched_flows);
        }
    }

    #[inline]
    fn note_latency(&mut self, head: PayloadHead) {
        let sent_ns = self.connection.latency_from_ns.unwrap_or(head.sent_ns);
        self.run.note(sent_ns, self.now_ns, self.latencies);
    }
}

impl LatencyRun {
    #[inline]
    fn note(&mut self, sent_ns: u64, now_ns: u64, latencies: &mut Latencies) {
        if sent_ns != self.sent_ns {
            self.end(now_ns, latencies);
            self.sent_ns = sent_ns;
        }
        self.count += 1;
    }

    fn end(&mut self, now_ns: u64, latencies: &mut Latencies) {
        if self.count > 0 {
            latencies.record(now_ns.saturating_sub(self.sent_ns), self.count);
            self.count = 0;
        }
    }
}

#[inline]
pub(crate) fn touch(flow: &mut Flow, index: u32, touched_flows: &mut Vec<u32>) {
    if !flow.touched {
        flow.touched = true;
        touched_flows.push(index);
    }
}
