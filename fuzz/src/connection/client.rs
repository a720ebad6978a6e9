//! A client: what it sends, at times well formed, and whether it can read what it gets.

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use sluice::mqtt::{
    Ack, AckKind, Connect, ConnectProperties, Disconnect, Limits, Packet, PacketId, Properties,
    PublishOut, QoS, ReasonCode, RetainHandling, Subscribe, SubscribeFilter, SubscribeFilters,
    Version, Will, decode, encode, encode_publish, frame_head,
};
use sluice::net::sim::{ClientId, World};

use crate::input::Input;

use super::world::Broker;

/// Far longer than a full receiver may slow anyone.
const PATIENCE: Duration = Duration::from_secs(120);
/// Bytes a client holds back at most.
const MOST_UNSENT: usize = 128 * 1024;
const WITNESS_FILTER: &str = "seen by/+";
const WITNESS_TOPIC: &str = "seen by/witnesses";

pub(super) struct Client {
    id: ClientId,
    version: Version,
    /// What there was no room for yet.
    unsent: Vec<u8>,
    /// What has come and is not a whole packet yet.
    unread: Vec<u8>,
    /// A CONNACK has come, and says the version.
    answered: bool,
    /// Nothing else comes behind a DISCONNECT.
    dismissed: bool,
    /// Of PUBLISH packets that came, not yet acknowledged.
    acks: Vec<(AckKind, PacketId)>,
    /// Payloads that came at the witnesses' topic.
    seen: Vec<Vec<u8>>,
    subscribed: bool,
    acknowledged: bool,
    sent: u8,
}

impl Client {
    /// Somebody whose CONNECT is still to come.
    pub(super) fn connect(broker: &mut Broker) -> Self {
        Self {
            id: broker.world.connect(),
            version: Version::V311,
            unsent: Vec::new(),
            unread: Vec::new(),
            answered: false,
            dismissed: false,
            acks: Vec::new(),
            seen: Vec::new(),
            subscribed: false,
            acknowledged: false,
            sent: 0,
        }
    }

    /// Sends a packet or not, the rest of it when there is room.
    pub(super) fn send(&mut self, world: &World, bytes: &[u8]) {
        if self.unsent.len() < MOST_UNSENT {
            self.unsent.extend_from_slice(bytes);
        }
        self.flush(world);
    }

    pub(super) fn flush(&mut self, world: &World) {
        match world.client_send(self.id, &self.unsent) {
            Ok(sent) => drop(self.unsent.drain(..sent)),
            Err(_) => self.unsent.clear(),
        }
    }

    /// Whether the connection has ended.
    pub(super) fn is_gone(&self, world: &World) -> bool {
        self.dismissed || world.client_end(self.id).is_some()
    }

    fn send_packet(&mut self, world: &World, version: Version, packet: &Packet<'_>) {
        let mut out = Vec::new();
        encode(version, packet, u32::MAX, &mut out);
        self.send(world, &out);
    }

    pub(super) fn send_connect(&mut self, world: &World, input: &mut Input<'_>) {
        let (bits, more) = (input.byte(), input.byte());
        let version = match bits & 3 {
            0 => Version::V31,
            1 => Version::V311,
            _ => Version::V5,
        };
        if !self.answered {
            self.version = version;
        }
        let topic = if bits & 4 != 0 { input.name() } else { String::new() };
        let will = Will {
            qos: QoS::from_u8(more & 3).unwrap_or_default(),
            retain: more & 4 != 0,
            topic: &topic,
            payload: b"the end",
            delay_interval: u32::from(more >> 3 & 7),
            message_expiry_interval: (more & 64 != 0).then_some(2),
            payload_format_indicator: None,
            properties: Properties::EMPTY,
        };
        let connect = Connect {
            version,
            bridge: false,
            clean_start: bits & 8 != 0,
            keep_alive: if bits & 16 != 0 { 2 } else { 0 },
            client_id: ["a", "b", "c", ""][usize::from(bits >> 5 & 3)],
            will: (bits & 4 != 0).then_some(will),
            username: None,
            password: None,
            properties: ConnectProperties {
                session_expiry_interval: (more & 128 != 0).then_some(u32::from(more)),
                receive_maximum: NonZeroU16::new(u16::from(more & 7)),
                maximum_packet_size: NonZeroU32::new(u32::from(more >> 5) * 20),
                topic_alias_maximum: u16::from(more & 3),
                ..ConnectProperties::default()
            },
        };
        self.send_packet(world, version, &Packet::Connect(connect));
    }

    pub(super) fn send_publish(&mut self, world: &World, input: &mut Input<'_>) {
        let (bits, length) = (input.byte(), input.byte());
        let topic = input.name();
        let qos = QoS::from_u8(bits & 3).unwrap_or_default();
        let v5 = self.version.is_v5();
        let payload = vec![b'x'; usize::from(length) << (length & 7)];
        let publish = PublishOut {
            qos,
            dup: bits & 4 != 0,
            retain: bits & 8 != 0,
            packet_id: (qos > QoS::AtMostOnce)
                .then(|| PacketId::MIN.saturating_add(u16::from(bits >> 4))),
            topic_alias: if v5 { NonZeroU16::new(u16::from(length & 3)) } else { None },
            message_expiry_interval: (v5 && bits & 64 != 0).then_some(1),
            ..PublishOut::new(topic.as_bytes(), &payload)
        };
        let mut out = Vec::new();
        encode_publish(self.version, &publish, &mut out);
        for _ in 0..1 + input.byte() % 16 {
            self.send(world, &out);
        }
    }

    pub(super) fn send_subscribe(&mut self, world: &World, input: &mut Input<'_>) {
        let bits = input.byte();
        let share = if bits & 64 != 0 { "$share/g/" } else { "" };
        let filter = SubscribeFilter {
            filter: &format!("{share}{}", input.filter()),
            qos: QoS::from_u8(bits & 3).unwrap_or_default(),
            no_local: bits & 4 != 0 && bits & 64 == 0,
            retain_as_published: bits & 8 != 0,
            retain_handling: RetainHandling::Send,
        };
        let mut filters = Vec::new();
        filter.encode(self.version, &mut filters);
        let subscribe = Subscribe {
            packet_id: PacketId::MIN,
            subscription_identifier: NonZeroU32::new(u32::from(bits >> 4 & 3)),
            filters: SubscribeFilters::trusted(&filters),
            properties: Properties::EMPTY,
        };
        self.send_packet(world, self.version, &Packet::Subscribe(subscribe));
    }

    /// Acknowledges what has come, or, so asked, what has not.
    pub(super) fn send_acks(&mut self, world: &World, input: &mut Input<'_>) {
        self.receive(world);
        let bits = input.byte();
        if bits & 1 == 0 {
            return self.acknowledge(world);
        }
        let Some(packet_id) = PacketId::new(input.number() & 15) else { return };
        let kinds = [AckKind::PubAck, AckKind::PubRec, AckKind::PubRel, AckKind::PubComp];
        let reason = if bits & 2 == 0 { ReasonCode::Success } else { ReasonCode::UnspecifiedError };
        self.send_ack(world, kinds[usize::from(bits >> 2 & 3)], packet_id, reason);
    }

    fn send_ack(&mut self, world: &World, kind: AckKind, packet_id: PacketId, reason: ReasonCode) {
        let ack = Ack { packet_id, reason, properties: Properties::EMPTY };
        let packet = match kind {
            AckKind::PubAck => Packet::PubAck(ack),
            AckKind::PubRec => Packet::PubRec(ack),
            AckKind::PubRel => Packet::PubRel(ack),
            AckKind::PubComp => Packet::PubComp(ack),
        };
        self.send_packet(world, self.version, &packet);
    }

    fn acknowledge(&mut self, world: &World) {
        for (kind, packet_id) in std::mem::take(&mut self.acks) {
            self.send_ack(world, kind, packet_id, ReasonCode::Success);
        }
    }

    pub(super) fn stall(&self, world: &World, stalled: bool) {
        world.client_stall(self.id, stalled);
    }

    pub(super) fn vanish(&self, world: &World) {
        world.client_reset(self.id);
    }

    pub(super) fn close(&mut self, world: &World, politely: bool) {
        if politely {
            let packet = Packet::Disconnect(Disconnect::new(ReasonCode::Success));
            self.send_packet(world, self.version, &packet);
        }
        world.client_close(self.id);
    }

    /// Reads what has come. All of it must be packets, and such as a server sends.
    pub(super) fn receive(&mut self, world: &World) {
        let mut unread = std::mem::take(&mut self.unread);
        world.client_recv(self.id, &mut unread);
        let mut rest = &unread[..];
        while let Some(head) = frame_head(rest, u32::MAX).expect("a good fixed header") {
            assert!(head.is_minimal());
            let Some((frame, after)) = rest.split_at_checked(head.frame_len()) else { break };
            let body = &frame[usize::from(head.head_len)..];
            if !self.answered {
                // What 3.1 sends is good 3.1.1.
                self.version = if head.body_len > 2 { Version::V5 } else { Version::V311 };
            }
            let packet = decode(self.version, head.first_byte, body, &Limits::NONE);
            let packet = packet.unwrap_or_else(|error| panic!("{error} in {frame:x?}"));
            self.received(&packet);
            rest = after;
        }
        self.unread = rest.to_vec();
    }

    fn received(&mut self, packet: &Packet<'_>) {
        assert!(!self.dismissed, "{packet:?} behind a DISCONNECT");
        assert_eq!(!self.answered, matches!(packet, Packet::ConnAck(_)), "{packet:?}");
        match packet {
            Packet::ConnAck(connack) => {
                self.answered = true;
                self.dismissed = connack.reason != ReasonCode::Success;
            }
            Packet::Publish(publish) => {
                match (publish.qos, publish.packet_id) {
                    (QoS::AtLeastOnce, Some(id)) => self.acks.push((AckKind::PubAck, id)),
                    (QoS::ExactlyOnce, Some(id)) => self.acks.push((AckKind::PubRec, id)),
                    _ => {}
                }
                if publish.topic == WITNESS_TOPIC.as_bytes() {
                    self.seen.push(publish.payload.to_vec());
                }
            }
            Packet::PubRel(ack) => self.acks.push((AckKind::PubComp, ack.packet_id)),
            Packet::PubRec(ack) if !ack.reason.is_error() => {
                self.acks.push((AckKind::PubRel, ack.packet_id));
            }
            Packet::PubAck(ack) => self.acknowledged |= ack.reason == ReasonCode::Success,
            Packet::SubAck(_) => self.subscribed = true,
            Packet::Disconnect(_) => {
                assert!(self.version.is_v5(), "a server's DISCONNECT in 3.x");
                self.dismissed = true;
            }
            Packet::PubRec(_) | Packet::PubComp(_) | Packet::UnsubAck(_) | Packet::PingResp => {}
            other => panic!("not a server's: {other:?}"),
        }
    }
}

/// What a well-behaved client does.
impl Client {
    /// Connects, and is let in.
    pub(super) fn witness(broker: &mut Broker, client_id: &str) -> Self {
        let mut this = Self::connect(broker);
        this.version = Version::V5;
        let connect = Connect {
            version: Version::V5,
            bridge: false,
            clean_start: true,
            keep_alive: 0,
            client_id,
            will: None,
            username: None,
            password: None,
            properties: ConnectProperties::default(),
        };
        this.send_packet(&broker.world, Version::V5, &Packet::Connect(connect));
        this.until(broker, "CONNACK", |this| this.answered);
        assert!(!this.dismissed, "a good client is refused");
        this
    }

    pub(super) fn subscribe(&mut self, broker: &mut Broker) {
        let mut filters = Vec::new();
        SubscribeFilter::new(WITNESS_FILTER, QoS::AtMostOnce).encode(self.version, &mut filters);
        let subscribe = Subscribe {
            packet_id: PacketId::MIN,
            subscription_identifier: None,
            filters: SubscribeFilters::trusted(&filters),
            properties: Properties::EMPTY,
        };
        self.send_packet(&broker.world, self.version, &Packet::Subscribe(subscribe));
        self.until(broker, "SUBACK", |this| this.subscribed);
    }

    /// One publishes at QoS 1, both receive it.
    pub(super) fn publish_between(broker: &mut Broker, from: &mut Self, to: &mut Self) {
        from.sent += 1;
        from.acknowledged = false;
        let payload = format!("{:?} for {:?}, {}", from.id, to.id, from.sent).into_bytes();
        let publish = PublishOut {
            qos: QoS::AtLeastOnce,
            packet_id: Some(PacketId::MIN),
            ..PublishOut::new(WITNESS_TOPIC.as_bytes(), &payload)
        };
        let mut out = Vec::new();
        encode_publish(from.version, &publish, &mut out);
        from.send(&broker.world, &out);
        from.until(broker, "PUBACK", |this| this.acknowledged);
        from.until(broker, "PUBLISH", |this| this.seen.contains(&payload));
        to.until(broker, "PUBLISH", |this| this.seen.contains(&payload));
    }

    fn until(&mut self, broker: &mut Broker, what: &str, mut is_so: impl FnMut(&Self) -> bool) {
        let end = broker.world.now().plus(PATIENCE);
        broker.settle();
        self.receive(&broker.world);
        while !is_so(self) {
            let next = broker.world.next_event().filter(|at| *at <= end);
            let next = next.unwrap_or_else(|| panic!("no {what} in {PATIENCE:?}"));
            broker.world.advance_to(next);
            broker.settle();
            self.receive(&broker.world);
            self.flush(&broker.world);
        }
    }
}
