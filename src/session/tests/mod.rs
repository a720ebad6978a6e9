//! Each test names the statement of the specification that it checks.

mod aliases;
mod end;
mod expiry;
mod gate;
mod inbound;
mod model;
mod outbound;
mod queue;
mod resume;

use super::*;
use crate::mqtt::{AckKind, QoS};

/// What a session wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Out {
    Publish(Published),
    Ack(AckKind, u16, ReasonCode),
    Raw(Vec<u8>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Published {
    pub(super) id: u16,
    pub(super) qos: QoS,
    pub(super) dup: bool,
    pub(super) retain: bool,
    pub(super) topic: String,
    pub(super) alias: u16,
    pub(super) expiry: Option<u32>,
    pub(super) identifiers: Vec<u32>,
    pub(super) payload: Vec<u8>,
}

/// A sink that remembers.
#[derive(Debug, Default)]
pub(super) struct Wire {
    pub(super) out: Vec<Out>,
    pub(super) blocked: bool,
    pub(super) dropped: Vec<DropCause>,
}

impl Sink for Wire {
    fn publish(&mut self, p: &PublishOut<'_>, message: &Message) {
        assert_eq!(p.payload, message.payload());
        self.out.push(Out::Publish(Published {
            id: p.packet_id.map_or(0, PacketId::get),
            qos: p.qos,
            dup: p.dup,
            retain: p.retain,
            topic: String::from_utf8(p.topic.to_vec()).unwrap(),
            alias: p.topic_alias.map_or(0, NonZeroU16::get),
            expiry: p.message_expiry_interval,
            identifiers: p.subscription_identifiers.to_vec(),
            payload: p.payload.to_vec(),
        }));
    }

    fn ack(&mut self, kind: AckKind, packet_id: PacketId, reason: ReasonCode) {
        self.out.push(Out::Ack(kind, packet_id.get(), reason));
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.out.push(Out::Raw(bytes.to_vec()));
    }

    fn has_room(&self) -> bool {
        !self.blocked
    }

    fn dropped(&mut self, cause: DropCause) {
        self.dropped.push(cause);
    }
}

impl Wire {
    pub(super) fn take(&mut self) -> Vec<Out> {
        std::mem::take(&mut self.out)
    }

    /// The publishes written since the last call, as `(id, dup, payload)`.
    pub(super) fn publishes(&mut self) -> Vec<(u16, bool, String)> {
        let out = self.take().into_iter().filter_map(|out| match out {
            Out::Publish(p) => Some((p.id, p.dup, String::from_utf8(p.payload).unwrap())),
            _ => None,
        });
        out.collect()
    }

    pub(super) fn one_publish(&mut self) -> Published {
        match self.take().as_slice() {
            [Out::Publish(p)] => p.clone(),
            other => panic!("not one PUBLISH: {other:?}"),
        }
    }
}

pub(super) const LIMITS: SessionLimits = SessionLimits {
    max_inflight: 100,
    max_inflight_bytes: u32::MAX,
    max_queued_messages: 1000,
    max_queued_bytes: 1 << 20,
    queue_qos0: false,
    in_memory: InMemory { messages: 1000, bytes: 1 << 20 },
};

pub(super) const T0: Time = Time(1_000_000);

pub(super) fn id(id: u16) -> PacketId {
    PacketId::new(id).unwrap()
}

pub(super) fn message(payload: &str) -> Message {
    Message::new("t", QoS::ExactlyOnce, false, payload.as_bytes(), &[], None, T0)
}

pub(super) fn expiring(payload: &str, seconds: u32, now: Time) -> Message {
    Message::new("t", QoS::ExactlyOnce, false, payload.as_bytes(), &[], Some(seconds), now)
}

/// A session and its wire.
pub(super) struct Rig {
    pub(super) session: Session,
    pub(super) wire: Wire,
    pub(super) limits: SessionLimits,
    pub(super) now: Time,
}

pub(super) fn parameters(version: Version, receive_maximum: u16) -> LinkParameters {
    LinkParameters {
        receive_maximum,
        session_expiry_interval: 1000,
        ..LinkParameters::new(version)
    }
}

impl Rig {
    /// A connected session with a window of `receive_maximum`.
    pub(super) fn new(version: Version, receive_maximum: u16) -> Self {
        let mut rig = Self {
            session: Session::new("client"),
            wire: Wire::default(),
            limits: LIMITS,
            now: T0,
        };
        rig.connect(&parameters(version, receive_maximum));
        rig
    }

    pub(super) fn connect(&mut self, parameters: &LinkParameters) {
        self.session.connect(parameters, &self.limits, self.now);
        self.session.resume(self.now, &mut self.wire);
    }

    pub(super) fn disconnect(&mut self) {
        self.session.disconnect(self.now);
        self.wire.take();
    }

    pub(super) fn wait(&mut self, seconds: u64) {
        self.now = self.now.plus(Duration::from_secs(seconds));
    }

    pub(super) fn send(&mut self, qos: QoS, payload: &str) -> Delivered {
        self.deliver(&delivery(&message(payload), qos))
    }

    pub(super) fn deliver(&mut self, delivery: &Delivery<'_>) -> Delivered {
        let sink = self.session.is_connected().then_some(&mut self.wire);
        self.session.deliver(*delivery, self.now, sink, &self.limits)
    }

    pub(super) fn puback(&mut self, packet_id: u16) -> Result<Acked, DecodeError> {
        self.session.puback(id(packet_id), self.now, &mut self.wire)
    }

    pub(super) fn pubrec(&mut self, packet_id: u16) -> Result<Acked, DecodeError> {
        let (now, wire) = (self.now, &mut self.wire);
        self.session.pubrec(id(packet_id), ReasonCode::Success, now, wire)
    }

    pub(super) fn pubcomp(&mut self, packet_id: u16) -> Result<Acked, DecodeError> {
        self.session.pubcomp(id(packet_id), self.now, &mut self.wire)
    }

    pub(super) fn begin(&mut self, qos: QoS, packet_id: u16, dup: bool) -> Begin {
        self.session.begin_publish(qos, id(packet_id), dup, &mut self.wire)
    }

    /// A new PUBLISH with that outcome.
    pub(super) fn publish(&mut self, qos: QoS, packet_id: u16, outcome: PublishOutcome) -> Verdict {
        assert_eq!(self.begin(qos, packet_id, false), Begin::New);
        self.session.finish_publish(qos, id(packet_id), outcome, &mut self.wire)
    }

    pub(super) fn pubrel(&mut self, packet_id: u16) -> Result<bool, DecodeError> {
        self.session.pubrel(id(packet_id), &mut self.wire)
    }

    /// Shard 1 (or whichever) has confirmed `turn`.
    pub(super) fn confirm(&mut self, confirmed: &[(usize, u64)]) -> Verdict {
        let mut turns = [0; 64];
        for &(shard, turn) in confirmed {
            turns[shard] = turn;
        }
        let sink = self.session.is_connected().then_some(&mut self.wire);
        self.session.confirm(&turns, sink)
    }
}

pub(super) fn delivery(message: &Message, qos: QoS) -> Delivery<'_> {
    Delivery { message, qos, retain: false, identifiers: &[], group: None }
}

pub(super) fn ack(kind: AckKind, packet_id: u16, reason: ReasonCode) -> Out {
    Out::Ack(kind, packet_id, reason)
}

pub(super) fn ok(kind: AckKind, packet_id: u16) -> Out {
    ack(kind, packet_id, ReasonCode::Success)
}
