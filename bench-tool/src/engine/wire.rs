//! The packets of a load client, made and read by the broker's own codec.

use sluice::mqtt::{
    self, AckKind, ConnAck, Connect, ConnectProperties, DecodeError, Disconnect, FrameHead, Limits,
    Packet, PacketId, PacketType, Properties, PublishOut, QoS, ReasonCode, Subscribe,
    SubscribeFilter, SubscribeFilters, Version,
};

use super::connection::Session;
use super::flow_spec::FlowSpec;

/// The largest packet taken from a broker.
const MAX_PACKET: u32 = mqtt::MAX_REMAINING_LENGTH;

/// Filters in one SUBSCRIBE.
const FILTERS_PER_PACKET: usize = 64;

/// A PUBLISH ready to be copied, of which only the packet identifier and the payload's head change.
#[derive(Debug)]
pub(crate) struct PublishTemplate {
    pub(crate) frame: Box<[u8]>,
    pub(crate) payload_at: usize,
    pub(crate) packet_id_at: Option<usize>,
    /// Where in the topic the number of a numbered topic goes, [`TOPIC_DIGITS`] of them.
    pub(crate) number_at: Option<usize>,
}

/// Digits of a numbered topic.
pub(crate) const TOPIC_DIGITS: usize = 8;

/// One of the topics of a publisher that has many.
pub(crate) fn numbered(topic: &str, number: u64) -> String {
    format!("{topic}/{number:0TOPIC_DIGITS$}")
}

/// Who connects, and how.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) version: Version,
    pub(crate) keep_alive_seconds: u16,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
}

/// What a broker says about itself in CONNACK.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Welcome {
    pub(crate) reason: ReasonCode,
    /// QoS 1 and 2 messages unacknowledged at most `[MQTT-3.3.4-9]`.
    pub(crate) receive_maximum: u16,
    /// Bytes of a packet at most `[MQTT-3.2.2-15]`.
    pub(crate) maximum_packet_size: u32,
    /// `[MQTT-3.2.2-11]`
    pub(crate) maximum_qos: QoS,
    /// `[MQTT-3.2.2-14]`
    pub(crate) retain_available: bool,
    /// Seconds, if the broker sets it `[MQTT-3.2.2-21]`.
    pub(crate) keep_alive_seconds: Option<u16>,
}

impl Welcome {
    fn of(packet: &ConnAck<'_>) -> Self {
        Self {
            reason: packet.reason,
            receive_maximum: packet.receive_maximum.map_or(u16::MAX, Into::into),
            maximum_packet_size: packet.maximum_packet_size.map_or(u32::MAX, Into::into),
            maximum_qos: packet.maximum_qos.unwrap_or(QoS::ExactlyOnce),
            retain_available: packet.retain_available.unwrap_or(true),
            keep_alive_seconds: packet.server_keep_alive,
        }
    }
}

/// What a client makes of a packet from the broker.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    Publish { qos: QoS, packet_id: Option<PacketId>, payload: &'a [u8] },
    Ack { kind: AckKind, packet_id: PacketId, reason: ReasonCode },
    ConnAck(Welcome),
    SubAck { refused: Option<u8> },
    Disconnect { reason: ReasonCode },
    Other,
}

/// Appends a CONNECT, with a user name instead of the common one if there is one.
pub(crate) fn connect(
    login: &Login,
    client_id: &str,
    username: Option<&str>,
    session: Session,
    out: &mut Vec<u8>,
) {
    let is_kept = login.version.is_v5() && session.expiry_seconds > 0;
    let expiry = is_kept.then_some(session.expiry_seconds);
    let packet = Packet::Connect(Connect {
        version: login.version,
        bridge: false,
        clean_start: session.clean_start,
        keep_alive: login.keep_alive_seconds,
        client_id,
        will: None,
        username: username.or(login.username.as_deref()),
        password: login.password.as_deref().map(str::as_bytes),
        properties: ConnectProperties {
            session_expiry_interval: expiry,
            ..ConnectProperties::default()
        },
    });
    mqtt::encode(login.version, &packet, MAX_PACKET, out);
}

/// Appends SUBSCRIBE packets for all of the filters; returns how many.
pub(crate) fn subscribe(
    version: Version,
    filters: &[String],
    qos: QoS,
    out: &mut Vec<u8>,
) -> usize {
    let packet_ids = (1..=u16::MAX).filter_map(PacketId::new);
    let mut packets = 0;
    for (filters, packet_id) in filters.chunks(FILTERS_PER_PACKET).zip(packet_ids) {
        let mut encoded = Vec::new();
        for filter in filters {
            SubscribeFilter::new(filter, qos).encode(version, &mut encoded);
        }
        let packet = Packet::Subscribe(Subscribe {
            packet_id,
            subscription_identifier: None,
            filters: SubscribeFilters::trusted(&encoded),
            properties: Properties::EMPTY,
        });
        mqtt::encode(version, &packet, MAX_PACKET, out);
        packets += 1;
    }
    packets
}

/// Appends a PINGREQ.
pub(crate) fn ping(version: Version, out: &mut Vec<u8>) {
    mqtt::encode(version, &Packet::PingReq, MAX_PACKET, out);
}

/// Appends a DISCONNECT.
pub(crate) fn disconnect(version: Version, out: &mut Vec<u8>) {
    let packet = Packet::Disconnect(Disconnect::new(ReasonCode::Success));
    mqtt::encode(version, &packet, MAX_PACKET, out);
}

/// Appends an acknowledgement with reason code Success.
#[inline]
pub(crate) fn ack(version: Version, kind: AckKind, packet_id: PacketId, out: &mut Vec<u8>) {
    mqtt::encode_ack(version, kind, packet_id, ReasonCode::Success, out);
}

/// Makes the frames that one publisher sends in turn, over and over: one for each of its contents.
pub(crate) fn publish_templates(version: Version, spec: &FlowSpec) -> Vec<PublishTemplate> {
    if spec.contents.is_empty() {
        return vec![publish_template(version, spec, &vec![b'.'; spec.payload_len])];
    }
    spec.contents.iter().map(|content| publish_template(version, spec, content)).collect()
}

fn publish_template(version: Version, spec: &FlowSpec, payload: &[u8]) -> PublishTemplate {
    let FlowSpec { qos, retain, .. } = *spec;
    let is_numbered = spec.topics > 1;
    let topic = if is_numbered { numbered(&spec.topic, 0) } else { spec.topic.clone() };
    let packet_id = (qos != QoS::AtMostOnce).then_some(PacketId::MIN);
    let payload_len = payload.len();
    let publish =
        PublishOut { qos, packet_id, retain, ..PublishOut::new(topic.as_bytes(), payload) };
    let mut frame = Vec::new();
    mqtt::encode_publish(version, &publish, &mut frame);
    let payload_at = frame.len() - payload_len;
    // The identifier is followed by the length of no properties in 5.0, and by the payload in 3.x.
    let properties_len = usize::from(version.is_v5());
    let packet_id_at = packet_id.map(|_| payload_at - properties_len - 2);
    let topic_end = payload_at - properties_len - packet_id.map_or(0, |_| 2);
    let number_at = is_numbered.then(|| topic_end - TOPIC_DIGITS);
    PublishTemplate { frame: frame.into_boxed_slice(), payload_at, packet_id_at, number_at }
}

/// The packet at the front of `bytes` and its length; `None` until it is there whole.
#[inline]
pub(crate) fn next<'a>(
    version: Version,
    bytes: &'a [u8],
) -> Result<Option<(Incoming<'a>, usize)>, DecodeError> {
    let Some(head) = mqtt::frame_head(bytes, MAX_PACKET)? else { return Ok(None) };
    let Some(body) = bytes.get(usize::from(head.head_len)..head.frame_len()) else {
        return Ok(None);
    };
    let incoming = match ack_kind(head) {
        _ if head.packet_type() == Some(PacketType::Publish) => {
            let publish = mqtt::decode_publish(version, head.first_byte, body, &Limits::NONE)?;
            let (qos, packet_id, payload) = (publish.qos, publish.packet_id, publish.payload);
            Incoming::Publish { qos, packet_id, payload }
        }
        Some(kind) => {
            let ack = mqtt::decode_ack(version, kind, body, &Limits::NONE)?;
            Incoming::Ack { kind, packet_id: ack.packet_id, reason: ack.reason }
        }
        None => read_control(version, head, body)?,
    };
    Ok(Some((incoming, head.frame_len())))
}

#[inline]
fn ack_kind(head: FrameHead) -> Option<AckKind> {
    match head.packet_type()? {
        PacketType::PubAck => Some(AckKind::PubAck),
        PacketType::PubRec => Some(AckKind::PubRec),
        PacketType::PubRel => Some(AckKind::PubRel),
        PacketType::PubComp => Some(AckKind::PubComp),
        _ => None,
    }
}

fn read_control<'a>(
    version: Version,
    head: FrameHead,
    body: &'a [u8],
) -> Result<Incoming<'a>, DecodeError> {
    Ok(match mqtt::decode(version, head.first_byte, body, &Limits::NONE)? {
        Packet::ConnAck(packet) => Incoming::ConnAck(Welcome::of(&packet)),
        Packet::SubAck(packet) => {
            Incoming::SubAck { refused: packet.reasons.iter().copied().find(|code| *code >= 0x80) }
        }
        Packet::Disconnect(packet) => Incoming::Disconnect { reason: packet.reason },
        _ => Incoming::Other,
    })
}
