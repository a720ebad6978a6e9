//! The codec: what decodes, encodes again to what decodes to the same; its short ways agree.

use sluice::mqtt::{
    Ack, AckKind, ConnectError, Limits, MAX_REMAINING_LENGTH, Message, Packet, PacketType, Publish,
    PublishOut, Version, decode, decode_ack, decode_connect, decode_publish, encode, encode_ack,
    encode_publish, encode_publish_head, frame_head, publish_len, topic,
};
use sluice::timer::Time;

/// Takes `data` for packets of a connection of this version, one behind the other.
pub fn run(version: Version, data: &[u8]) {
    let mut rest = data;
    while let Some(head) = head(rest) {
        let frame = &rest[..head.0.min(rest.len())];
        // The last one is taken as it is, even if it should be longer.
        packet(version, frame[0], &frame[head.1..]);
        rest = &rest[frame.len()..];
        if rest.is_empty() {
            break;
        }
    }
}

/// Lengths of the frame and of its head; none if the bytes are not, or do not hold, a head.
fn head(bytes: &[u8]) -> Option<(usize, usize)> {
    let whole = frame_head(bytes, u32::MAX);
    for len in 0..bytes.len().min(6) {
        // Fewer bytes say the same or nothing yet.
        let part = frame_head(&bytes[..len], u32::MAX);
        assert!(part == Ok(None) || part == whole, "{part:?} of {len} bytes, then {whole:?}");
    }
    let head = whole.ok()??;
    let (frame_len, head_len) = (head.frame_len(), usize::from(head.head_len));
    assert!((2..=5).contains(&head_len) && head.body_len <= MAX_REMAINING_LENGTH);
    assert_eq!(frame_len, head_len + head.body_len as usize);
    let size = u32::try_from(frame_len).expect("below 2^29");
    assert_eq!(frame_head(bytes, size), whole);
    assert!(frame_head(bytes, size - 1).is_err(), "beyond the largest packet");
    Some((frame_len, head_len))
}

fn packet(version: Version, first_byte: u8, body: &[u8]) {
    let tight = Limits {
        max_packet_size: 64,
        max_topic_bytes: 8,
        max_topic_levels: 2,
        max_user_properties: 1,
        max_filters_per_packet: 2,
        max_client_id_bytes: 4,
    };
    let all = decode(version, first_byte, body, &Limits::NONE);
    for limits in [Limits::default(), tight] {
        if let Ok(packet) = decode(version, first_byte, body, &limits) {
            assert_eq!(all, Ok(packet), "what narrow limits let in, wide ones do");
        }
    }
    short_ways(version, first_byte, body, &all.map_err(|error| error.reason));
    if let Ok(packet) = &all {
        encodes(version, packet);
        check_parts(version, packet);
    }
}

/// The decoders of one packet type each say what `decode` says.
fn short_ways(
    version: Version,
    first_byte: u8,
    body: &[u8],
    all: &Result<Packet<'_>, sluice::mqtt::ReasonCode>,
) {
    let dup = first_byte & 0x08 != 0;
    let kind = PacketType::from_first_byte(first_byte).expect("checked by frame_head");
    if kind != PacketType::Publish && dup && version != Version::V31 {
        assert!(all.is_err(), "reserved flags");
        return;
    }
    let limits = &Limits::NONE;
    let ack = |kind| decode_ack(version, kind, body, limits).map_err(|error| error.reason);
    let short = match kind {
        PacketType::Connect => decode_connect(body, limits)
            .map(Packet::Connect)
            .map_err(|ConnectError { error, .. }| error.reason),
        PacketType::Publish => decode_publish(version, first_byte, body, limits)
            .and_then(|publish| match publish.topic {
                b"" => Ok(publish),
                name => topic::check_name(name, limits).map(|_| publish),
            })
            .map(Packet::Publish)
            .map_err(|error| error.reason),
        PacketType::PubAck => ack(AckKind::PubAck).map(Packet::PubAck),
        PacketType::PubRec => ack(AckKind::PubRec).map(Packet::PubRec),
        PacketType::PubRel => ack(AckKind::PubRel).map(Packet::PubRel),
        PacketType::PubComp => ack(AckKind::PubComp).map(Packet::PubComp),
        _ => return,
    };
    assert_eq!(&short, all);
}

/// Encodes a packet for a receiver that takes so much; none if it does not take it.
fn frame(version: Version, packet: &Packet<'_>, max: usize) -> Option<Vec<u8>> {
    let mut out = b"before".to_vec();
    let max = u32::try_from(max).unwrap_or(u32::MAX);
    let done = encode(version, packet, max, &mut out);
    assert!(out.starts_with(b"before"));
    let frame = out.split_off(6);
    assert_eq!(done, !frame.is_empty());
    done.then_some(frame)
}

fn read(version: Version, frame: &[u8]) -> Packet<'_> {
    let head = frame_head(frame, u32::MAX).expect("a good head").expect("a whole head");
    assert_eq!(head.frame_len(), frame.len());
    assert!(head.is_minimal());
    let body = &frame[usize::from(head.head_len)..];
    decode(version, head.first_byte, body, &Limits::NONE).expect("what was encoded decodes")
}

fn encodes(version: Version, packet: &Packet<'_>) {
    let whole = frame(version, packet, usize::MAX).expect("it was as long before");
    let again = read(version, &whole);
    assert_eq!(&again, packet);
    assert_eq!(frame(version, &again, whole.len()).as_ref(), Some(&whole));
    for max in [whole.len() - 1, whole.len() / 2] {
        if let Some(less) = frame(version, packet, max) {
            assert!(less.len() <= max);
            let less = read(version, &less);
            assert_eq!(std::mem::discriminant(&less), std::mem::discriminant(packet));
        }
    }
}

/// What is to be had from a decoded packet.
fn check_parts(version: Version, packet: &Packet<'_>) {
    match packet {
        Packet::Publish(publish) => check_publish(version, publish),
        Packet::PubAck(ack) => check_ack(version, AckKind::PubAck, ack),
        Packet::PubRec(ack) => check_ack(version, AckKind::PubRec, ack),
        Packet::PubRel(ack) => check_ack(version, AckKind::PubRel, ack),
        Packet::PubComp(ack) => check_ack(version, AckKind::PubComp, ack),
        Packet::Subscribe(subscribe) => {
            assert!(subscribe.filters.iter().next().is_some());
            subscribe.filters.iter().for_each(|one| check_filter(one.filter));
        }
        Packet::Unsubscribe(unsubscribe) => {
            assert!(unsubscribe.filters.iter().next().is_some());
            unsubscribe.filters.iter().for_each(check_filter);
        }
        Packet::Connect(connect) => {
            if let Some(will) = &connect.will {
                assert!(topic::check_name(will.topic.as_bytes(), &Limits::NONE).is_ok());
            }
        }
        _ => {}
    }
}

fn check_filter(text: &str) {
    let parsed = topic::Filter::parse(text, &Limits::NONE).ok();
    assert_eq!(parsed.map(|one| (one.share, one.filter)), crate::naive::parse(text), "{text:?}");
}

fn check_ack(version: Version, kind: AckKind, ack: &Ack<'_>) {
    let bare = Ack { properties: sluice::mqtt::Properties::EMPTY, ..*ack };
    let packet = match kind {
        AckKind::PubAck => Packet::PubAck(bare),
        AckKind::PubRec => Packet::PubRec(bare),
        AckKind::PubRel => Packet::PubRel(bare),
        AckKind::PubComp => Packet::PubComp(bare),
    };
    let mut out = Vec::new();
    encode_ack(version, kind, ack.packet_id, ack.reason, &mut out);
    assert_eq!(Some(out), frame(version, &packet, usize::MAX));
}

/// The encoders of the delivery path, and the message that outlives its packet.
fn check_publish(version: Version, publish: &Publish<'_>) {
    let mut scratch = vec![0xFF];
    let properties = &publish.properties;
    let identifiers: Vec<u32> = properties.identifiers().map(|id| id.get()).collect();
    let out = PublishOut {
        dup: publish.dup,
        qos: publish.qos,
        retain: publish.retain,
        packet_id: publish.packet_id,
        properties: properties.forwardable_in(&mut scratch),
        message_expiry_interval: properties.message_expiry_interval,
        topic_alias: properties.topic_alias,
        subscription_identifiers: &identifiers,
        ..PublishOut::new(publish.topic, publish.payload)
    };
    let (mut frame, mut head) = (Vec::new(), Vec::new());
    encode_publish(version, &out, &mut frame);
    encode_publish_head(version, &out, &mut head);
    assert_eq!(publish_len(version, &out), frame.len());
    assert_eq!(frame, [&head, publish.payload].concat());
    let Packet::Publish(again) = read(version, &frame) else { panic!("no longer a PUBLISH") };
    assert_eq!(again.properties.forwardable(), properties.forwardable());
    assert!(again.properties.identifiers().eq(properties.identifiers()));
    // The order among the other properties is the encoder's.
    let aside = sluice::mqtt::PublishProperties::default();
    let mut pair = [again, *publish];
    for (index, one) in pair.iter_mut().enumerate() {
        assert_eq!(one.properties.topic_alias, properties.topic_alias, "{index}");
        let expiry = one.properties.message_expiry_interval;
        assert_eq!(expiry, properties.message_expiry_interval, "{index}");
        one.properties = aside;
    }
    assert_eq!(pair[0], pair[1]);
    check_message(publish);
}

fn check_message(publish: &Publish<'_>) {
    let Ok(topic) = std::str::from_utf8(publish.topic) else { panic!("a checked topic") };
    let now = Time(1_000);
    let message = Message::from_publish(publish, topic, None, now);
    let mut scratch = Vec::new();
    assert_eq!(message.topic(), topic);
    assert_eq!(message.payload(), publish.payload);
    assert_eq!(message.properties(), publish.properties.forwardable_in(&mut scratch));
    assert_eq!((message.qos(), message.retain()), (publish.qos, publish.retain));
    let expiry = publish.properties.message_expiry_interval;
    assert_eq!(message.message_expiry_interval(now), expiry);
    assert_eq!(message.is_expired(now), expiry == Some(0));
}
