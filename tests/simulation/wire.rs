//! Packets of the simulated clients, in bytes.

use std::num::{NonZeroU16, NonZeroU32};

use sluice::mqtt::{
    Connect, ConnectProperties, Limits, Packet, PacketId, Properties, PublishOut, QoS, Subscribe,
    SubscribeFilter, SubscribeFilters, Unsubscribe, UnsubscribeFilters, Version, Will, decode,
    encode, encode_publish, frame_head,
};

/// What a client says of itself in CONNECT.
#[derive(Clone, Debug)]
pub(crate) struct Hello {
    pub(crate) version: Version,
    pub(crate) client_id: String,
    pub(crate) clean_start: bool,
    /// Seconds; 5.0.
    pub(crate) session_expiry: u32,
    pub(crate) keep_alive: u16,
    pub(crate) receive_maximum: Option<NonZeroU16>,
    pub(crate) topic_alias_maximum: u16,
    pub(crate) will: Option<Testament>,
}

#[derive(Clone, Debug)]
pub(crate) struct Testament {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    pub(crate) qos: QoS,
    pub(crate) retain: bool,
    pub(crate) delay: u32,
}

pub(crate) fn put(version: Version, packet: &Packet<'_>, out: &mut Vec<u8>) {
    assert!(encode(version, packet, u32::MAX, out), "a packet that cannot be encoded");
}

pub(crate) fn put_connect(hello: &Hello, out: &mut Vec<u8>) {
    let v5 = hello.version.is_v5();
    let will = hello.will.as_ref().map(|will| Will {
        qos: will.qos,
        retain: will.retain,
        topic: &will.topic,
        payload: &will.payload,
        delay_interval: if v5 { will.delay } else { 0 },
        message_expiry_interval: None,
        payload_format_indicator: None,
        properties: Properties::EMPTY,
    });
    let properties = match v5 {
        true => ConnectProperties {
            session_expiry_interval: Some(hello.session_expiry),
            receive_maximum: hello.receive_maximum,
            topic_alias_maximum: hello.topic_alias_maximum,
            ..ConnectProperties::default()
        },
        false => ConnectProperties::default(),
    };
    let packet = Connect {
        version: hello.version,
        bridge: false,
        clean_start: hello.clean_start,
        keep_alive: hello.keep_alive,
        client_id: &hello.client_id,
        will,
        username: None,
        password: None,
        properties,
    };
    put(hello.version, &Packet::Connect(packet), out);
}

pub(crate) fn put_subscribe(
    version: Version,
    packet_id: PacketId,
    filter: SubscribeFilter<'_>,
    identifier: Option<NonZeroU32>,
    out: &mut Vec<u8>,
) {
    let mut raw = Vec::new();
    filter.encode(version, &mut raw);
    let packet = Subscribe {
        packet_id,
        subscription_identifier: identifier.filter(|_| version.is_v5()),
        filters: SubscribeFilters::trusted(&raw),
        properties: Properties::EMPTY,
    };
    put(version, &Packet::Subscribe(packet), out);
}

pub(crate) fn put_unsubscribe(
    version: Version,
    packet_id: PacketId,
    filter: &str,
    out: &mut Vec<u8>,
) {
    let mut raw = Vec::new();
    UnsubscribeFilters::encode(filter, &mut raw);
    let filters = UnsubscribeFilters::trusted(&raw);
    let packet = Unsubscribe { packet_id, filters, properties: Properties::EMPTY };
    put(version, &Packet::Unsubscribe(packet), out);
}

pub(crate) fn put_publish(
    version: Version,
    (topic, payload): (&str, &[u8]),
    (qos, dup, retain): (QoS, bool, bool),
    (packet_id, message_expiry_interval): (Option<PacketId>, Option<u32>),
    out: &mut Vec<u8>,
) {
    let plain = PublishOut::new(topic.as_bytes(), payload);
    let publish = PublishOut { qos, dup, retain, packet_id, message_expiry_interval, ..plain };
    encode_publish(version, &publish, out);
}

/// Hands the first whole packet in `bytes` to `handle`, and gives its length.
pub(crate) fn first_packet<R>(
    version: Version,
    bytes: &[u8],
    handle: impl FnOnce(Packet<'_>) -> R,
) -> Result<Option<(usize, R)>, String> {
    let error = |error: sluice::mqtt::DecodeError| format!("the broker sent nonsense: {error}");
    let Some(head) = frame_head(bytes, u32::MAX).map_err(error)? else { return Ok(None) };
    let Some(frame) = bytes.get(..head.frame_len()) else { return Ok(None) };
    let body = &frame[usize::from(head.head_len)..];
    let packet = decode(version, head.first_byte, body, &Limits::NONE).map_err(error)?;
    Ok(Some((frame.len(), handle(packet))))
}

/// Which message a payload is, and in which sending; what follows is filling up to a length.
pub(crate) fn payload(message: usize, sending: u64, filling: usize) -> Vec<u8> {
    let mut bytes = format!("{message}.{sending}.{filling}.").into_bytes();
    let pattern: [u8; 64] = std::array::from_fn(|at| (at + message) as u8);
    while bytes.len() < filling {
        bytes.extend_from_slice(&pattern);
    }
    bytes
}

/// The reverse of [`payload`].
pub(crate) fn identify(bytes: &[u8]) -> Option<(usize, u64)> {
    let mut parts = bytes.splitn(4, |byte| *byte == b'.');
    let mut number = || std::str::from_utf8(parts.next()?).ok()?.parse::<u64>().ok();
    let (message, sending, filling) = (number()?, number()?, number()?);
    let expected = payload(message as usize, sending, filling as usize);
    (expected == bytes).then_some((message as usize, sending))
}
