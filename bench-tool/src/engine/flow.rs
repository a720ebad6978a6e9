//! One publisher's window: what is outstanding, and the frames that fill it.

use std::ops::Range;

use super::Failure;
use super::flow_spec::FlowSpec;
use super::pace::Pace;
use super::payload::{HEAD_LEN, PayloadHead, this_machine};
use super::wire::{PublishTemplate, TOPIC_DIGITS, Welcome};
use crate::measure::Seen;
use sluice::mqtt::QoS;

/// A message of an open loop that is sent later than this after its time is counted as late.
pub(crate) const LATE_NS: u64 = 1_000_000;

/// The largest window; packet identifiers are taken in turn from twice as many.
pub(crate) const MAX_WINDOW: u32 = 16 * 1024;

const PACKET_IDS: u64 = 2 * MAX_WINDOW as u64;
const ACK_AWAITED: u32 = 1 << 31;

/// A publisher at work. A message is complete when every receiver has it and, for QoS 1 and 2, the broker has
/// acknowledged it (PUBACK, PUBCOMP).
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) connection: u32,
    /// Used in turn.
    templates: Vec<PublishTemplate>,
    longest_frame: usize,
    head: PayloadHead,
    qos: QoS,
    retain: bool,
    acknowledged: bool,
    /// The window does not wait for what a receiver has a later message than.
    passes_over: bool,
    receivers: u32,
    window: u64,
    limit: u64,
    topics: u64,
    pace: Option<Pace>,
    /// There is room in the payload for its head.
    is_marked: bool,
    sent: u64,
    completed: u64,
    /// One slot a message that may be outstanding: receivers still missing, and [`ACK_AWAITED`].
    slots: Box<[u32]>,
    /// When each of those was sent, if acknowledgements are timed.
    sent_times: Option<Box<[u64]>>,
    late: u64,
    /// In the engine's list of flows to refill in this turn.
    pub(crate) touched: bool,
    /// In the engine's list of flows that wait for their time.
    pub(crate) waiting: bool,
    completed_at_last_check: u64,
    stalled_checks: u32,
}

/// What a broker was sent and has not taken on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unacknowledged {
    pub(crate) messages: u64,
    /// How often these are still to be received.
    pub(crate) deliveries: u64,
}

/// A message that is due, and not where it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overdue {
    /// When it should have been sent.
    pub(crate) due_ns: u64,
    /// Receivers that do not have it.
    pub(crate) receivers: u32,
    /// Whether an acknowledgement that is timed has not come.
    pub(crate) is_unacknowledged: bool,
}

impl Flow {
    pub(crate) fn new(
        spec: &FlowSpec,
        templates: Vec<PublishTemplate>,
        connection: u32,
        run: u32,
        publisher: u32,
    ) -> Self {
        let slots = spec.window.next_power_of_two() as usize;
        Self {
            connection,
            longest_frame: templates.iter().map(|one| one.frame.len()).max().unwrap_or(1),
            templates,
            head: PayloadHead { machine: this_machine(), run, publisher, sequence: 0, sent_ns: 0 },
            qos: spec.qos,
            retain: spec.retain,
            acknowledged: spec.qos != QoS::AtMostOnce,
            passes_over: spec.ordered || spec.qos == QoS::AtMostOnce,
            receivers: spec.receivers,
            window: u64::from(spec.window),
            limit: spec.limit.unwrap_or(u64::MAX),
            topics: u64::from(spec.topics.max(1)),
            pace: spec.rate.map(|rate| Pace::new(rate, spec.burst)),
            is_marked: spec.contents.is_empty() && spec.payload_len >= HEAD_LEN,
            sent: 0,
            completed: 0,
            slots: vec![0; slots].into_boxed_slice(),
            sent_times: spec.times_acknowledgements.then(|| vec![0; slots].into_boxed_slice()),
            late: 0,
            touched: false,
            waiting: false,
            completed_at_last_check: 0,
            stalled_checks: 0,
        }
    }

    /// Messages sent so far.
    pub(crate) fn sent(&self) -> u64 {
        self.sent
    }

    /// Messages sent and not complete.
    pub(crate) fn outstanding(&self) -> u64 {
        self.sent - self.completed
    }

    /// Of the outstanding ones, those that the broker has not acknowledged.
    pub(crate) fn unacknowledged(&self) -> Unacknowledged {
        let slot_mask = self.slots.len() as u64 - 1;
        let slots = (self.completed..self.sent)
            .filter_map(|sequence| self.slots.get((sequence & slot_mask) as usize))
            .filter(|slot| **slot & ACK_AWAITED != 0);
        slots.fold(Unacknowledged::default(), |sum, slot| Unacknowledged {
            messages: sum.messages + 1,
            deliveries: sum.deliveries + u64::from(slot & !ACK_AWAITED),
        })
    }

    /// The length of the longest frame.
    pub(crate) fn frame_len(&self) -> usize {
        self.longest_frame
    }

    /// Keeps to what the broker said about itself.
    ///
    /// # Errors
    /// If it cannot take these messages at all.
    pub(crate) fn heed(&mut self, welcome: &Welcome) -> Result<(), Failure> {
        if self.acknowledged {
            // What is outstanding is never less than what is unacknowledged [MQTT-3.3.4-9].
            self.window = self.window.min(u64::from(welcome.receive_maximum));
        }
        let (frame, most) = (self.longest_frame, welcome.maximum_packet_size);
        if frame > most as usize {
            return Err(Failure::LargerThanMaximum { frame, most });
        }
        if self.qos > welcome.maximum_qos {
            return Err(Failure::QosNotSupported(self.qos));
        }
        if self.retain && !welcome.retain_available {
            return Err(Failure::RetainNotSupported);
        }
        Ok(())
    }

    /// Appends frames until the window is full, but not many more than `room_bytes`. Returns how many.
    pub(crate) fn fill(&mut self, now_ns: u64, room_bytes: usize, out: &mut Vec<u8>) -> u64 {
        let room_messages = (room_bytes / self.frame_len()).max(1) as u64;
        let count = self.sendable(now_ns).min(room_messages);
        for sequence in self.sent..self.sent + count {
            self.prepare(sequence, now_ns);
            let template = self.template();
            self.append_frame(template, template.frame.len(), out);
        }
        self.add_sent(count);
        count
    }

    /// Appends how one more frame begins, and returns how it goes on.
    pub(crate) fn begin_frame(&mut self, now_ns: u64, out: &mut Vec<u8>) -> &[u8] {
        self.prepare(self.sent, now_ns);
        self.add_sent(1);
        let template = self.template();
        let front_len = self.front_len(template);
        self.append_frame(template, front_len, out);
        &template.frame[front_len..]
    }

    /// Takes a slot for a message, and notes when it is sent.
    #[inline]
    fn prepare(&mut self, sequence: u64, now_ns: u64) {
        let slot = (sequence & (self.slots.len() as u64 - 1)) as usize;
        let fresh = self.fresh_slot();
        if let Some(slot) = self.slots.get_mut(slot) {
            *slot = fresh;
        }
        self.head.sequence = sequence;
        self.head.sent_ns = now_ns;
        if let Some(pace) = &self.pace {
            self.head.sent_ns = pace.due_ns(sequence);
            self.late += u64::from(self.head.sent_ns + LATE_NS < now_ns);
        }
        if let Some(times) = &mut self.sent_times {
            times[slot] = self.head.sent_ns;
        }
    }

    fn add_sent(&mut self, count: u64) {
        self.sent += count;
        if self.fresh_slot() == 0 {
            self.completed = self.sent;
        }
    }

    fn fresh_slot(&self) -> u32 {
        self.receivers | if self.acknowledged { ACK_AWAITED } else { 0 }
    }

    /// Messages for which the window has room, and which are due.
    pub(crate) fn sendable(&self, now_ns: u64) -> u64 {
        let due = self.pace.map_or(u64::MAX, |pace| pace.due_until(now_ns)).min(self.limit);
        (self.window - self.outstanding()).min(due.saturating_sub(self.sent))
    }

    /// When the next message is to be sent, if only the time is waited for.
    pub(crate) fn next_due_ns(&self) -> Option<u64> {
        let has_room = self.outstanding() < self.window && self.sent < self.limit;
        self.pace.filter(|_| has_room).map(|pace| pace.due_ns(self.sent))
    }

    /// Begins to send: what is to be sent at a rate starts after `share` (0 to 1) of its interval.
    pub(crate) fn start(&mut self, now_ns: u64, share: f64) {
        let sent = self.sent;
        if let Some(pace) = &mut self.pace {
            pace.start(now_ns, share, sent);
        }
    }

    /// Messages of an open loop that are due and could not be sent.
    pub(crate) fn unsent(&self, now_ns: u64) -> u64 {
        self.due_until(now_ns) - self.sent
    }

    /// Messages of an open loop that are due and not complete, in the order in which they were due.
    pub(crate) fn overdue(&self, now_ns: u64) -> impl Iterator<Item = Overdue> + '_ {
        let slot_mask = self.slots.len() as u64 - 1;
        self.pace.into_iter().flat_map(move |pace| {
            (self.completed..self.due_until(now_ns)).map(move |sequence| {
                let is_sent = sequence < self.sent;
                let sent = self.slots.get((sequence & slot_mask) as usize).filter(|_| is_sent);
                let slot = sent.copied().unwrap_or_else(|| self.fresh_slot());
                Overdue {
                    due_ns: pace.due_ns(sequence),
                    receivers: slot & !ACK_AWAITED,
                    is_unacknowledged: slot & ACK_AWAITED != 0 && self.sent_times.is_some(),
                }
            })
        })
    }

    /// The first message that is not due and not sent.
    fn due_until(&self, now_ns: u64) -> u64 {
        let due = self.pace.map_or(self.sent, |pace| pace.due_until(now_ns));
        due.min(self.limit).max(self.sent)
    }

    /// Messages of an open loop that were sent more than [`LATE_NS`] after their time.
    pub(crate) fn late(&self) -> u64 {
        self.late
    }

    /// Whether everything up to the limit is sent and complete.
    pub(crate) fn is_done(&self) -> bool {
        self.sent >= self.limit && self.outstanding() == 0
    }

    /// A receiver has the message, for the first time.
    #[inline]
    pub(crate) fn delivered(&mut self, sequence: u64, seen: Seen) {
        if seen == Seen::Late && self.passes_over {
            return; // not waited for since then
        }
        self.received(sequence);
    }

    /// A receiver has a later message before these. With QoS 0, and where order is owed, they will hardly come any
    /// more.
    #[cold]
    pub(crate) fn passed_over(&mut self, sequences: Range<u64>) {
        if self.passes_over {
            let outstanding = sequences.start.max(self.completed)..sequences.end.min(self.sent);
            outstanding.for_each(|sequence| self.received(sequence));
        }
    }

    #[inline]
    fn received(&mut self, sequence: u64) {
        if sequence < self.completed || sequence >= self.sent {
            return; // given up already, or never sent
        }
        let slot_mask = self.slots.len() as u64 - 1;
        let Some(slot) = self.slots.get_mut((sequence & slot_mask) as usize) else { return };
        if *slot & !ACK_AWAITED != 0 {
            *slot -= 1;
        }
        if *slot == 0 && sequence == self.completed {
            self.advance();
        }
    }

    /// The broker has acknowledged the message for good. Returns when it was sent, if that is timed.
    #[inline]
    pub(crate) fn acknowledged(&mut self, packet_id: u16) -> Option<u64> {
        let slot_mask = self.slots.len() as u64 - 1;
        let index = u64::from(packet_id.wrapping_sub(1)) & slot_mask;
        let slot = self.slots.get_mut(index as usize)?;
        let was_awaited = *slot & ACK_AWAITED != 0;
        *slot &= !ACK_AWAITED;
        if *slot == 0 && index == self.completed & slot_mask {
            self.advance();
        }
        let times = self.sent_times.as_ref().filter(|_| was_awaited)?;
        times.get(index as usize).copied()
    }

    /// To be called at an interval: for how many calls now messages have been outstanding and none was completed.
    pub(crate) fn stalled_checks(&mut self) -> u32 {
        let stalled = self.outstanding() > 0 && self.completed == self.completed_at_last_check;
        self.stalled_checks = if stalled { self.stalled_checks + 1 } else { 0 };
        self.completed_at_last_check = self.completed;
        self.stalled_checks
    }

    /// Opens the window although messages are missing: QoS 0 may lose them.
    pub(crate) fn give_up_outstanding(&mut self) {
        self.completed = self.sent;
    }

    /// Whether waiting for what is outstanding makes no sense after a stall.
    pub(crate) fn may_lose(&self) -> bool {
        !self.acknowledged
    }

    fn advance(&mut self) {
        let slot_mask = self.slots.len() as u64 - 1;
        while self.completed < self.sent
            && self.slots.get((self.completed & slot_mask) as usize) == Some(&0)
        {
            self.completed += 1;
        }
    }

    fn template(&self) -> &PublishTemplate {
        match self.templates.as_slice() {
            [only] => only,
            several => &several[(self.head.sequence % several.len() as u64) as usize],
        }
    }

    /// Bytes of a frame in which frames differ.
    fn front_len(&self, template: &PublishTemplate) -> usize {
        template.payload_at + if self.is_marked { HEAD_LEN } else { 0 }
    }

    /// Appends so much of the message's frame, no less than its front.
    #[inline]
    fn append_frame(&self, template: &PublishTemplate, len: usize, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&template.frame[..len]);
        let frame = &mut out[start..];
        let payload_at = template.payload_at;
        if self.is_marked {
            frame[payload_at..payload_at + HEAD_LEN].copy_from_slice(&self.head.encode());
        }
        if let Some(at) = template.number_at {
            let mut number = self.head.sequence % self.topics;
            for digit in frame[at..at + TOPIC_DIGITS].iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
        }
        if let Some(at) = template.packet_id_at {
            let packet_id = (self.head.sequence % PACKET_IDS) as u16 + 1;
            frame[at..at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests;
