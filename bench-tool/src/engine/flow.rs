//! One publisher's window: what is outstanding, and the frames that fill it.

use std::ops::Range;

use super::payload::{HEAD_LEN, PayloadHead};
use super::wire::{PublishTemplate, TOPIC_DIGITS};
use crate::measure::Seen;
use sluice::mqtt::QoS;

/// The largest window; packet identifiers are taken in turn from twice as many.
pub(crate) const MAX_WINDOW: u32 = 16 * 1024;

const PACKET_IDS: u64 = 2 * MAX_WINDOW as u64;
const ACK_AWAITED: u32 = 1 << 31;

/// What a flow publishes and how much of it may be outstanding.
#[derive(Clone, Debug)]
pub(crate) struct FlowSpec {
    pub(crate) topic: String,
    pub(crate) qos: QoS,
    pub(crate) payload_len: usize,
    /// Messages outstanding at most: 1 to [`MAX_WINDOW`].
    pub(crate) window: u32,
    /// How many subscribers receive each message; it is outstanding until the last of them has it.
    /// 0: it is complete when the broker has taken it.
    pub(crate) receivers: u32,
    /// Messages a second, at times that do not depend on how the earlier ones fare; `None`: as the window allows.
    pub(crate) rate: Option<f64>,
    /// Messages in all.
    pub(crate) limit: Option<u64>,
    /// Topics that are used in turn; more than one get a number as last level.
    pub(crate) topics: u32,
    pub(crate) retain: bool,
    /// Sent as it is, instead of what can be measured.
    pub(crate) content: Option<Vec<u8>>,
}

impl FlowSpec {
    /// A plain stream of messages to one receiver.
    pub(crate) fn new(topic: String, qos: QoS, payload_len: usize, window: u32) -> Self {
        Self {
            topic,
            qos,
            payload_len,
            window,
            receivers: 1,
            rate: None,
            limit: None,
            topics: 1,
            retain: false,
            content: None,
        }
    }
}

/// When the messages of an open loop are due.
#[derive(Clone, Copy, Debug)]
struct Pace {
    interval_ns: f64,
    origin_ns: u64,
    sent_at_origin: u64,
}

impl Pace {
    fn due_ns(&self, sequence: u64) -> u64 {
        let number = sequence - self.sent_at_origin;
        self.origin_ns + (number as f64 * self.interval_ns) as u64
    }

    /// Messages due by now, counted from sequence 0.
    fn due_until(&self, now_ns: u64) -> u64 {
        match now_ns.checked_sub(self.origin_ns) {
            None => self.sent_at_origin,
            Some(since) => self.sent_at_origin + (since as f64 / self.interval_ns) as u64 + 1,
        }
    }
}

/// A publisher at work. A message is complete when every receiver has it and, for QoS 1 and 2, the broker has
/// acknowledged it (PUBACK, PUBCOMP).
#[derive(Debug)]
pub(crate) struct Flow {
    pub(crate) connection: u32,
    template: PublishTemplate,
    head: PayloadHead,
    acknowledged: bool,
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
    /// In the engine's list of flows to refill in this turn.
    pub(crate) touched: bool,
    completed_at_last_check: u64,
    stalled_checks: u32,
}

impl Flow {
    pub(crate) fn new(
        spec: &FlowSpec,
        template: PublishTemplate,
        connection: u32,
        run: u32,
        publisher: u32,
    ) -> Self {
        let slots = spec.window.next_power_of_two() as usize;
        Self {
            connection,
            template,
            head: PayloadHead { run, publisher, sequence: 0, sent_ns: 0 },
            acknowledged: spec.qos != QoS::AtMostOnce,
            receivers: spec.receivers,
            window: u64::from(spec.window),
            limit: spec.limit.unwrap_or(u64::MAX),
            topics: u64::from(spec.topics.max(1)),
            pace: spec.rate.map(|rate| Pace {
                interval_ns: 1e9 / rate,
                origin_ns: u64::MAX,
                sent_at_origin: 0,
            }),
            is_marked: spec.content.is_none() && spec.payload_len >= HEAD_LEN,
            sent: 0,
            completed: 0,
            slots: vec![0; slots].into_boxed_slice(),
            touched: false,
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

    pub(crate) fn frame_len(&self) -> usize {
        self.template.frame.len()
    }

    /// Appends frames until the window is full, but not many more than `room_bytes`. Returns how many.
    pub(crate) fn fill(&mut self, now_ns: u64, room_bytes: usize, out: &mut Vec<u8>) -> u64 {
        let room_messages = (room_bytes / self.frame_len()).max(1) as u64;
        let count = self.sendable(now_ns).min(room_messages);
        self.head.sent_ns = now_ns;
        let slot_mask = self.slots.len() as u64 - 1;
        let fresh_slot = self.receivers | if self.acknowledged { ACK_AWAITED } else { 0 };
        for sequence in self.sent..self.sent + count {
            if let Some(slot) = self.slots.get_mut((sequence & slot_mask) as usize) {
                *slot = fresh_slot;
            }
            if let Some(pace) = &self.pace {
                self.head.sent_ns = pace.due_ns(sequence);
            }
            self.head.sequence = sequence;
            self.append_frame(out);
        }
        self.sent += count;
        if fresh_slot == 0 {
            self.completed = self.sent;
        }
        count
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
            pace.origin_ns = now_ns + (pace.interval_ns * share) as u64;
            pace.sent_at_origin = sent;
        }
    }

    /// Whether everything up to the limit is sent and complete.
    pub(crate) fn is_done(&self) -> bool {
        self.sent >= self.limit && self.outstanding() == 0
    }

    /// A receiver has the message, for the first time.
    #[inline]
    pub(crate) fn delivered(&mut self, sequence: u64, seen: Seen) {
        if seen == Seen::Late && self.may_lose() {
            return; // not waited for since it was passed over
        }
        self.received(sequence);
    }

    /// A receiver has a later message before these. With QoS 0 they will hardly come any more, and the
    /// window does not wait for them.
    #[cold]
    pub(crate) fn passed_over(&mut self, sequences: Range<u64>) {
        if self.may_lose() {
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

    /// The broker has acknowledged the message for good.
    #[inline]
    pub(crate) fn acknowledged(&mut self, packet_id: u16) {
        let slot_mask = self.slots.len() as u64 - 1;
        let index = u64::from(packet_id.wrapping_sub(1)) & slot_mask;
        let Some(slot) = self.slots.get_mut(index as usize) else { return };
        *slot &= !ACK_AWAITED;
        if *slot == 0 && index == self.completed & slot_mask {
            self.advance();
        }
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

    #[inline]
    fn append_frame(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&self.template.frame);
        let frame = &mut out[start..];
        let payload_at = self.template.payload_at;
        if self.is_marked {
            frame[payload_at..payload_at + HEAD_LEN].copy_from_slice(&self.head.encode());
        }
        if let Some(at) = self.template.number_at {
            let mut number = self.head.sequence % self.topics;
            for digit in frame[at..at + TOPIC_DIGITS].iter_mut().rev() {
                *digit = b'0' + (number % 10) as u8;
                number /= 10;
            }
        }
        if let Some(at) = self.template.packet_id_at {
            let packet_id = (self.head.sequence % PACKET_IDS) as u16 + 1;
            frame[at..at + 2].copy_from_slice(&packet_id.to_be_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::wire;
    use sluice::mqtt::Version;

    fn flow(qos: QoS, window: u32, receivers: u32) -> Flow {
        let spec = FlowSpec { receivers, ..FlowSpec::new("a/b".into(), qos, 64, window) };
        let template = wire::publish_template(Version::V311, &spec);
        Flow::new(&spec, template, 0, 1, 2)
    }

    fn fill(flow: &mut Flow) -> u64 {
        flow.fill(5, usize::MAX, &mut Vec::new())
    }

    #[test]
    fn fills_up_to_the_window_and_again_what_was_delivered() {
        let mut flow = flow(QoS::AtMostOnce, 3, 1);
        assert_eq!(fill(&mut flow), 3);
        assert_eq!(fill(&mut flow), 0);
        flow.delivered(0, Seen::Fresh);
        flow.delivered(1, Seen::Fresh);
        assert_eq!(fill(&mut flow), 2);
        assert_eq!(flow.sent(), 5);
    }

    #[test]
    fn each_receiver_counts() {
        let mut flow = flow(QoS::AtMostOnce, 1, 2);
        fill(&mut flow);
        flow.delivered(0, Seen::Fresh);
        assert_eq!(flow.outstanding(), 1);
        flow.delivered(0, Seen::Fresh);
        assert_eq!(flow.outstanding(), 0);
        flow.delivered(0, Seen::Fresh);
        assert_eq!(flow.outstanding(), 0);
    }

    #[test]
    fn an_acknowledged_flow_waits_for_both_in_any_order() {
        let mut flow = flow(QoS::AtLeastOnce, 4, 1);
        fill(&mut flow);
        flow.acknowledged(1);
        assert_eq!(flow.outstanding(), 4);
        flow.delivered(1, Seen::Fresh);
        flow.delivered(0, Seen::Fresh);
        assert_eq!(flow.outstanding(), 3);
        flow.acknowledged(2);
        assert_eq!(flow.outstanding(), 2);
    }

    #[test]
    fn frames_carry_their_own_sequence_and_packet_identifier() {
        let mut flow = flow(QoS::AtLeastOnce, 2, 1);
        let mut out = Vec::new();
        flow.fill(77, usize::MAX, &mut out);
        for (n, frame) in out.chunks(flow.frame_len()).enumerate() {
            let payload = &frame[frame.len() - 64..];
            let head = PayloadHead::decode(payload).unwrap();
            let expected = PayloadHead { run: 1, publisher: 2, sequence: n as u64, sent_ns: 77 };
            assert_eq!(head, expected);
            assert_eq!(&frame[7..9], &(n as u16 + 1).to_be_bytes());
        }
    }

    #[test]
    fn an_open_loop_counts_from_when_a_message_was_due() {
        let spec = FlowSpec {
            rate: Some(1e6),
            topics: 3,
            limit: Some(7),
            ..FlowSpec::new("a".into(), QoS::AtMostOnce, 64, 64)
        };
        let template = wire::publish_template(Version::V5, &spec);
        let mut flow = Flow::new(&spec, template, 0, 1, 2);
        assert_eq!(fill(&mut flow), 0);
        flow.start(1_000_000, 0.0);
        let mut out = Vec::new();
        // The sender comes 3.5 intervals late.
        assert_eq!(flow.fill(1_003_500, usize::MAX, &mut out), 4);
        for (n, frame) in out.chunks(flow.frame_len()).enumerate() {
            let head = PayloadHead::decode(&frame[frame.len() - 64..]).unwrap();
            assert_eq!(head.sent_ns, 1_000_000 + n as u64 * 1_000);
            assert_eq!(&frame[4..14], format!("a/{:08}", n % 3).as_bytes());
        }
        assert_eq!(flow.next_due_ns(), Some(1_004_000));
        assert_eq!(flow.fill(2_000_000, usize::MAX, &mut out), 3);
        assert_eq!(flow.next_due_ns(), None);
    }

    #[test]
    fn what_was_given_up_may_still_arrive() {
        let mut flow = flow(QoS::AtMostOnce, 2, 1);
        fill(&mut flow);
        assert_eq!(flow.stalled_checks(), 1);
        assert_eq!(flow.stalled_checks(), 2);
        flow.give_up_outstanding();
        assert_eq!(fill(&mut flow), 2);
        flow.delivered(0, Seen::Fresh);
        assert_eq!(flow.outstanding(), 2);
        flow.delivered(2, Seen::Fresh);
        assert_eq!(flow.outstanding(), 1);
        assert_eq!(flow.stalled_checks(), 0);
        assert_eq!(flow.stalled_checks(), 1);
    }

    #[test]
    fn qos_0_does_not_wait_for_what_was_passed_over_and_qos_1_does() {
        for (qos, outstanding) in [(QoS::AtMostOnce, 1), (QoS::AtLeastOnce, 4)] {
            let mut flow = flow(qos, 4, 1);
            fill(&mut flow);
            (1..=4).for_each(|packet_id| flow.acknowledged(packet_id));
            flow.passed_over(0..2);
            flow.delivered(2, Seen::Fresh);
            assert_eq!(flow.outstanding(), outstanding);
            flow.delivered(0, Seen::Late);
            flow.delivered(1, Seen::Late);
            assert_eq!(flow.outstanding(), 1);
        }
    }
}
