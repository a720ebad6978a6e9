//! A client that subscribes and unsubscribes again and again.

use std::cell::Cell;
use std::rc::Rc;

use sluice::mqtt::{PacketId, QoS, SubscribeFilter, Version};

use crate::wire;

/// What its publisher publishes to.
pub(crate) const TOPIC: &str = "u/1";

/// What it wants, and what it has been told.
#[derive(Clone, Debug)]
pub(crate) struct Fickle {
    pub(crate) filter: &'static str,
    /// What its publisher has sent: the numbers below.
    sent: Rc<Cell<u32>>,
    pub(crate) is_subscribed: bool,
    /// SUBACK or UNSUBACK has come.
    pub(crate) is_answered: bool,
    /// Since UNSUBACK: numbers from this one on must not come [MQTT-3.10.4-2].
    nothing_from: Option<u32>,
}

impl Fickle {
    pub(crate) fn new(filter: &'static str, sent: Rc<Cell<u32>>) -> Self {
        Self { filter, sent, is_subscribed: true, is_answered: false, nothing_from: None }
    }

    /// Wants the opposite of what it has.
    pub(crate) fn turn(&mut self, version: Version, out: &mut Vec<u8>) {
        self.is_subscribed = !self.is_subscribed;
        (self.is_answered, self.nothing_from) = (false, None);
        self.ask(version, out);
    }

    /// Says what it wants, until it is answered.
    pub(crate) fn ask(&self, version: Version, out: &mut Vec<u8>) {
        if self.is_answered {
            return;
        }
        if self.is_subscribed {
            let filter = SubscribeFilter::new(self.filter, QoS::ExactlyOnce);
            wire::put_subscribe(version, PacketId::MIN, filter, None, out);
        } else {
            wire::put_unsubscribe(version, PacketId::MIN, self.filter, out);
        }
    }

    pub(crate) fn answered(&mut self) {
        self.is_answered = true;
        self.nothing_from = (!self.is_subscribed).then(|| self.sent.get());
    }

    pub(crate) fn may_get(&self, number: u32) -> bool {
        self.nothing_from.is_none_or(|from| number < from)
    }
}
