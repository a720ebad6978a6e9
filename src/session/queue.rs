//! Messages that wait for their turn.

use std::collections::VecDeque;
use std::slice;

use super::limits::SessionLimits;
use super::outbound::Delivery;
use crate::mqtt::{Message, QoS};

/// One message to one client, as it will be delivered.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) message: Message,
    identifiers: Identifiers,
    group: u32,
    pub(super) qos: QoS,
    retain: bool,
}

/// No shared group.
const NO_GROUP: u32 = u32::MAX;

impl Entry {
    #[inline]
    pub(super) fn new(delivery: &Delivery<'_>) -> Self {
        Self {
            message: delivery.message.clone(),
            identifiers: Identifiers::new(delivery.identifiers),
            group: delivery.group.unwrap_or(NO_GROUP),
            qos: delivery.qos,
            retain: delivery.retain,
        }
    }

    #[inline]
    pub(super) fn delivery(&self) -> Delivery<'_> {
        Delivery {
            message: &self.message,
            qos: self.qos,
            retain: self.retain,
            identifiers: self.identifiers.as_slice(),
            group: self.group(),
        }
    }

    pub(super) fn group(&self) -> Option<u32> {
        (self.group != NO_GROUP).then_some(self.group)
    }
}

/// Subscription Identifiers; one is the common case and takes no allocation.
#[derive(Debug)]
struct Identifiers {
    many: Option<Box<Many>>,
    /// 0: none here.
    one: u32,
}

#[derive(Debug)]
struct Many(Box<[u32]>);

impl Identifiers {
    #[inline]
    fn new(identifiers: &[u32]) -> Self {
        match identifiers {
            [] => Self { many: None, one: 0 },
            [one] => Self { many: None, one: *one },
            many => Self { many: Some(Box::new(Many(many.into()))), one: 0 },
        }
    }

    #[inline]
    fn as_slice(&self) -> &[u32] {
        match &self.many {
            Some(many) => &many.0,
            None if self.one == 0 => &[],
            None => slice::from_ref(&self.one),
        }
    }
}

/// An empty queue keeps memory for this many entries.
const CAPACITY_KEPT: usize = 256;

/// The queue of one session, oldest first.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    bytes: u64,
    /// How many of the entries are QoS 0.
    qos0: u32,
}

impl Queue {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether a QoS 0 message waits, which a later one must not overtake.
    #[inline]
    pub(super) fn has_qos0(&self) -> bool {
        self.qos0 > 0
    }

    pub(super) fn has_room(&self, size: usize, limits: &SessionLimits) -> bool {
        self.entries.len() < limits.max_queued_messages as usize
            && self.bytes.saturating_add(size as u64) <= limits.max_queued_bytes
    }

    pub(super) fn push(&mut self, entry: Entry) {
        self.bytes += entry.message.size() as u64;
        self.qos0 += u32::from(entry.qos == QoS::AtMostOnce);
        self.entries.push_back(entry);
    }

    #[inline]
    pub(super) fn front(&self) -> Option<&Entry> {
        self.entries.front()
    }

    pub(super) fn pop(&mut self) -> Option<Entry> {
        let entry = self.entries.pop_front()?;
        self.uncount(&entry);
        if self.entries.is_empty() && self.entries.capacity() > CAPACITY_KEPT {
            self.entries = VecDeque::new();
        }
        Some(entry)
    }

    /// Takes out every entry that `which` says, in order.
    pub(super) fn take(&mut self, which: impl Fn(&Entry) -> bool) -> Vec<Entry> {
        let mut taken = Vec::new();
        for _ in 0..self.entries.len() {
            let Some(entry) = self.entries.pop_front() else { break };
            if which(&entry) {
                self.uncount(&entry);
                taken.push(entry);
            } else {
                self.entries.push_back(entry);
            }
        }
        taken
    }

    fn uncount(&mut self, entry: &Entry) {
        self.bytes -= entry.message.size() as u64;
        self.qos0 -= u32::from(entry.qos == QoS::AtMostOnce);
    }
}
