//! The packets of a load client, made and read by the broker's own codec.

use sluice::mqtt::{
    self, AckKind, Connect, ConnectProperties, DecodeError, Disconnect, FrameHead, Limits, Packet,
    PacketId, PacketType, Properties, PublishOut, QoS, ReasonCode, Subscribe, SubscribeFilter,
    SubscribeFilters, Version,
};

/// The largest packet taken from a broker.
const MAX_PACKET: u32 = mqtt::MAX_REMAINING_LENGTH;

/// A PUBLISH ready to be copied, of which only the packet identifier and the payload's head change.
#[derive(Debug)]
pub(crate) struct PublishTemplate {
    pub(crate) frame: Box<[u8]>,
    pub(crate) payload_at: usize,
    pub(crate) packet_id_at: Option<usize>,
}

/// Who connects, and how.
#[derive(Clone, Debug)]
pub(crate) struct Login {
    pub(crate) version: Version,
    pub(crate) keep_alive_seconds: u16,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
}

/// What a client makes of a packet from the broker.
#[derive(Debug)]
pub(crate) enum Incoming<'a> {
    Publish { qos: QoS, packet_id: Option<PacketId>, payload: &'a [u8] },
    Ack { kind: AckKind, packet_id: PacketId, reason: ReasonCode },
    ConnAck { reason: ReasonCode },
    SubAck { refused: Option<u8> },
    Disconnect { reason: ReasonCode },
    Other,
}

/// Appends a CONNECT with a clean start.
pub(crate) fn connect(login: &Login, client_id: &str, out: &mut Vec<u8>) {
    let packet = Packet::Connect(Connect {
        version: login.version,
        bridge: false,
        clean_start: true,
        keep_alive: login.keep_alive_seconds,
        client_id,
        will: None,
        username: login.username.as_deref(),
        password: login.password.as_deref().map(str::as_bytes),
        properties: ConnectProperties::default(),
    });
    mqtt::encode(login.version, &packet, MAX_PACKET, out);
}

/// Appends a SUBSCRIBE for these filters, all at one QoS.
pub(crate) fn subscribe(version: Version, wanted: &[String], qos: QoS, out: &mut Vec<u8>) {
    let mut filters = Vec::new();
    for filter in wanted {
        SubscribeFilter::new(filter, qos).encode(version, &mut filters);
    }
    let packet = Packet::Subscribe(Subscribe {
        packet_id: PacketId::MIN,
        subscription_identifier: None,
        filters: SubscribeFilters::trusted(&filters),
        properties: Properties::EMPTY,
    });
    mqtt::encode(version, &packet, MAX_PACKET, out);
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

/// Makes the frame that one publisher sends over and over.
pub(crate) fn publish_template(
    version: Version,
    topic: &str,
    qos: QoS,
    payload_len: usize,
) -> PublishTemplate {
    let packet_id = (qos != QoS::AtMostOnce).then_some(PacketId::MIN);
    let payload = vec![b'.'; payload_len];
    let publish = PublishOut { qos, packet_id, ..PublishOut::new(topic.as_bytes(), &payload) };
    let mut frame = Vec::new();
    mqtt::encode_publish(version, &publish, &mut frame);
    let payload_at = frame.len() - payload_len;
    // The identifier is followed by the length of no properties in 5.0, and by the payload in 3.x.
    let properties_len = usize::from(version.is_v5());
    let packet_id_at = packet_id.map(|_| payload_at - properties_len - 2);
    PublishTemplate { frame: frame.into_boxed_slice(), payload_at, packet_id_at }
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
        Packet::ConnAck(packet) => Incoming::ConnAck { reason: packet.reason },
        Packet::SubAck(packet) => {
            Incoming::SubAck { refused: packet.reasons.iter().copied().find(|code| *code >= 0x80) }
        }
        Packet::Disconnect(packet) => Incoming::Disconnect { reason: packet.reason },
        _ => Incoming::Other,
    })
}
