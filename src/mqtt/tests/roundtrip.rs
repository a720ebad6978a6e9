//! decode(encode(p)) == p, and arbitrary bytes never panic.

use std::num::{NonZeroU16, NonZeroU32};

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::*;

// Tests may leak: borrowed packets then need no owner.
fn leak<T>(items: Vec<T>) -> &'static [T] {
    Box::leak(items.into_boxed_slice())
}

fn text() -> impl Strategy<Value = &'static str> {
    vec(any::<char>().prop_filter("U+0000", |&c| c != '\0'), 0..12)
        .prop_map(|chars| &*Box::leak(chars.into_iter().collect::<String>().into_boxed_str()))
}

fn name() -> impl Strategy<Value = &'static str> {
    text().prop_map(|text| {
        let text = format!("t{}", text.replace(['+', '#'], "/"));
        &*Box::leak(text.into_boxed_str())
    })
}

fn data() -> impl Strategy<Value = &'static [u8]> {
    prop_oneof![9 => vec(any::<u8>(), 0..40), 1 => vec(any::<u8>(), 120..300)].prop_map(leak)
}

fn qos() -> impl Strategy<Value = QoS> {
    prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce), Just(QoS::ExactlyOnce)]
}

fn id() -> impl Strategy<Value = PacketId> {
    (1..=u16::MAX).prop_map(|id| PacketId::new(id).unwrap())
}

fn version() -> impl Strategy<Value = Version> {
    prop_oneof![Just(Version::V31), Just(Version::V311), Just(Version::V5)]
}

fn varint() -> impl Strategy<Value = NonZeroU32> {
    prop_oneof![1..300u32, 1..=MAX_REMAINING_LENGTH].prop_map(|n| NonZeroU32::new(n).unwrap())
}

fn reason_of(packet: PacketType) -> impl Strategy<Value = ReasonCode> {
    let codes: Vec<_> = ReasonCode::ALL.into_iter().filter(|c| c.allowed_in(packet)).collect();
    prop::sample::select(codes)
}

fn block(properties: Vec<Property<'static>>) -> Properties<'static> {
    let mut out = Vec::new();
    properties.iter().for_each(|property| property.encode(&mut out));
    Properties::trusted(leak(out))
}

fn user() -> impl Strategy<Value = Property<'static>> {
    (text(), text()).prop_map(|(name, value)| Property::UserProperty(name, value))
}

fn users() -> impl Strategy<Value = Properties<'static>> {
    vec(user(), 0..3).prop_map(block)
}

fn diagnostics() -> impl Strategy<Value = Properties<'static>> {
    (vec(user(), 0..3), of(text())).prop_map(|(mut properties, reason)| {
        properties.extend(reason.map(Property::ReasonString));
        block(properties)
    })
}

fn forwardable() -> impl Strategy<Value = Vec<Property<'static>>> {
    (vec(user(), 0..3), of(0..2u8), of(text()), of(name()), of(data())).prop_map(
        |(mut all, format, content_type, response_topic, correlation_data)| {
            all.extend(format.map(Property::PayloadFormatIndicator));
            all.extend(content_type.map(Property::ContentType));
            all.extend(response_topic.map(Property::ResponseTopic));
            all.extend(correlation_data.map(Property::CorrelationData));
            all
        },
    )
}

fn publish_properties() -> impl Strategy<Value = Vec<Property<'static>>> {
    (forwardable(), of(any::<u32>()), of(any::<NonZeroU16>()), vec(varint(), 0..3))
        .prop_map(|(mut all, expiry, alias, ids)| {
            all.extend(expiry.map(Property::MessageExpiryInterval));
            all.extend(alias.map(Property::TopicAlias));
            all.extend(ids.into_iter().map(Property::SubscriptionIdentifier));
            all
        })
        .prop_shuffle()
}

fn publish(version: Version) -> impl Strategy<Value = Publish<'static>> {
    (any::<(bool, bool)>(), qos(), name(), id(), publish_properties(), data()).prop_map(
        move |((dup, retain), qos, topic, id, properties, payload)| {
            let mut raw = Vec::new();
            if version.is_v5() {
                properties.iter().for_each(|property| property.encode(&mut raw));
            }
            Publish {
                dup: dup && qos != QoS::AtMostOnce,
                qos,
                retain,
                topic: topic.as_bytes(),
                packet_id: (qos != QoS::AtMostOnce).then_some(id),
                properties: PublishProperties::parse(leak(raw), &Limits::default()).unwrap(),
                payload,
            }
        },
    )
}

fn will(v5: bool) -> impl Strategy<Value = Will<'static>> {
    (qos(), any::<bool>(), name(), data(), any::<u32>(), of(any::<u32>()), forwardable()).prop_map(
        move |(qos, retain, topic, payload, delay, expiry, properties)| {
            let format = properties.iter().find_map(|property| match property {
                Property::PayloadFormatIndicator(value) => Some(*value),
                _ => None,
            });
            Will {
                qos,
                retain,
                topic,
                payload,
                delay_interval: if v5 { delay } else { 0 },
                message_expiry_interval: expiry.filter(|_| v5),
                payload_format_indicator: format.filter(|_| v5),
                properties: if v5 { block(properties) } else { Properties::EMPTY },
            }
        },
    )
}

fn connect_properties() -> impl Strategy<Value = ConnectProperties<'static>> {
    (
        of(any::<u32>()),
        of(any::<NonZeroU16>()),
        of(any::<NonZeroU32>()),
        any::<(u16, bool, bool)>(),
        of((text(), of(data()))),
        users(),
    )
        .prop_map(|(expiry, receive, size, (aliases, response, problem), auth, properties)| {
            ConnectProperties {
                session_expiry_interval: expiry,
                receive_maximum: receive,
                maximum_packet_size: size,
                topic_alias_maximum: aliases,
                request_response_information: response,
                request_problem_information: problem,
                authentication_method: auth.map(|(method, _)| method),
                authentication_data: auth.and_then(|(_, data)| data),
                properties,
            }
        })
}

fn connect(version: Version) -> impl Strategy<Value = Connect<'static>> {
    let v5 = version.is_v5();
    (any::<(bool, bool, u16)>(), name(), of(will(v5)), of(text()), of(data()), connect_properties())
        .prop_map(
            move |((bridge, clean_start, keep_alive), id, will, user, password, properties)| {
                Connect {
                    version,
                    bridge: bridge && !v5,
                    clean_start,
                    keep_alive,
                    client_id: id,
                    will,
                    username: user,
                    password: password.filter(|_| v5 || user.is_some()),
                    properties: if v5 { properties } else { ConnectProperties::default() },
                }
            },
        )
}

fn connack(version: Version) -> BoxedStrategy<ConnAck<'static>> {
    let plain =
        (any::<bool>(), reason_of(PacketType::ConnAck)).prop_map(move |(present, reason)| {
            let reason = match version {
                Version::V5 => reason,
                _ => ReasonCode::from_connack_v3(reason.connack_v3().unwrap_or(3)).unwrap(),
            };
            let present = present && reason == ReasonCode::Success && version != Version::V31;
            ConnAck::new(present, reason)
        });
    if !version.is_v5() {
        return plain.boxed();
    }
    let maximum_qos = prop_oneof![Just(QoS::AtMostOnce), Just(QoS::AtLeastOnce)];
    (
        (plain, of(any::<u32>()), of(any::<NonZeroU16>()), of(maximum_qos)),
        (of(any::<bool>()), of(any::<NonZeroU32>()), of(text()), of(any::<u16>()), of(text())),
        (of(any::<bool>()), of(any::<bool>()), of(any::<bool>()), of(any::<u16>())),
        (of(text()), of(text()), of(text()), of(data()), users()),
    )
        .prop_map(|(a, b, c, d)| ConnAck {
            session_present: a.0.session_present,
            reason: a.0.reason,
            session_expiry_interval: a.1,
            receive_maximum: a.2,
            maximum_qos: a.3,
            retain_available: b.0,
            maximum_packet_size: b.1,
            assigned_client_identifier: b.2,
            topic_alias_maximum: b.3,
            reason_string: b.4,
            wildcard_subscription_available: c.0,
            subscription_identifiers_available: c.1,
            shared_subscription_available: c.2,
            server_keep_alive: c.3,
            response_information: d.0,
            server_reference: d.1,
            authentication_method: d.2,
            authentication_data: d.3,
            properties: d.4,
        })
        .boxed()
}

fn ack(version: Version, packet: PacketType) -> impl Strategy<Value = Ack<'static>> {
    (id(), reason_of(packet), diagnostics()).prop_map(move |(packet_id, reason, properties)| {
        if version.is_v5() {
            Ack { packet_id, reason, properties }
        } else {
            Ack { packet_id, reason: ReasonCode::Success, properties: Properties::EMPTY }
        }
    })
}

fn subscribe(version: Version) -> impl Strategy<Value = Subscribe<'static>> {
    let handling = prop_oneof![
        Just(RetainHandling::Send),
        Just(RetainHandling::SendIfNew),
        Just(RetainHandling::DoNotSend)
    ];
    let filter = (text(), qos(), any::<(bool, bool)>(), handling).prop_map(
        |(filter, qos, (no_local, retain_as_published), retain_handling)| SubscribeFilter {
            filter,
            qos,
            no_local: no_local && !filter.starts_with("$share/"),
            retain_as_published,
            retain_handling,
        },
    );
    (id(), of(varint()), vec(filter, 1..5), users()).prop_map(move |(packet_id, id, filters, p)| {
        let mut raw = Vec::new();
        filters.iter().for_each(|filter| filter.encode(version, &mut raw));
        Subscribe {
            packet_id,
            subscription_identifier: id.filter(|_| version.is_v5()),
            filters: SubscribeFilters::trusted(leak(raw)),
            properties: if version.is_v5() { p } else { Properties::EMPTY },
        }
    })
}

fn suback(version: Version) -> impl Strategy<Value = SubAck<'static>> {
    let reason = reason_of(PacketType::SubAck).prop_map(move |reason| match version {
        Version::V311 if reason.is_error() => 0x80,
        Version::V31 if reason.is_error() => 0,
        _ => reason.as_u8(),
    });
    (id(), vec(reason, 1..5), diagnostics()).prop_map(move |(packet_id, reasons, p)| SubAck {
        packet_id,
        reasons: leak(reasons),
        properties: if version.is_v5() { p } else { Properties::EMPTY },
    })
}

fn unsubscribe(version: Version) -> impl Strategy<Value = Unsubscribe<'static>> {
    (id(), vec(text(), 1..5), users()).prop_map(move |(packet_id, filters, p)| {
        let mut raw = Vec::new();
        filters.iter().for_each(|filter| UnsubscribeFilters::encode(filter, &mut raw));
        let filters = UnsubscribeFilters::trusted(leak(raw));
        Unsubscribe {
            packet_id,
            filters,
            properties: if version.is_v5() { p } else { Properties::EMPTY },
        }
    })
}

fn unsuback(version: Version) -> impl Strategy<Value = UnsubAck<'static>> {
    (id(), vec(reason_of(PacketType::UnsubAck), 1..5), diagnostics()).prop_map(
        move |(packet_id, reasons, properties)| {
            if !version.is_v5() {
                return UnsubAck { packet_id, reasons: &[], properties: Properties::EMPTY };
            }
            let reasons = leak(reasons.into_iter().map(ReasonCode::as_u8).collect());
            UnsubAck { packet_id, reasons, properties }
        },
    )
}

fn disconnect(version: Version) -> impl Strategy<Value = Disconnect<'static>> {
    (reason_of(PacketType::Disconnect), of(any::<u32>()), of(text()), of(text()), users()).prop_map(
        move |(reason, session_expiry_interval, reason_string, server_reference, properties)| {
            if !version.is_v5() {
                return Disconnect::new(ReasonCode::Success);
            }
            Disconnect {
                reason,
                session_expiry_interval,
                reason_string,
                server_reference,
                properties,
            }
        },
    )
}

fn auth() -> impl Strategy<Value = Auth<'static>> {
    (reason_of(PacketType::Auth), text(), of(data()), of(text()), users()).prop_map(
        |(reason, method, data, reason_string, properties)| Auth {
            reason,
            method: Some(method),
            data,
            reason_string,
            properties,
        },
    )
}

fn packet() -> impl Strategy<Value = (Version, Packet<'static>)> {
    version().prop_flat_map(|v| {
        let rest = prop_oneof![
            Just(Packet::PingReq),
            Just(Packet::PingResp),
            disconnect(v).prop_map(Packet::Disconnect),
            if v.is_v5() {
                auth().prop_map(Packet::Auth).boxed()
            } else {
                Just(Packet::PingReq).boxed()
            },
        ];
        let packet = prop_oneof![
            connect(v).prop_map(Packet::Connect),
            connack(v).prop_map(Packet::ConnAck),
            publish(v).prop_map(Packet::Publish),
            ack(v, PacketType::PubAck).prop_map(Packet::PubAck),
            ack(v, PacketType::PubRec).prop_map(Packet::PubRec),
            ack(v, PacketType::PubRel).prop_map(Packet::PubRel),
            ack(v, PacketType::PubComp).prop_map(Packet::PubComp),
            subscribe(v).prop_map(Packet::Subscribe),
            suback(v).prop_map(Packet::SubAck),
            unsubscribe(v).prop_map(Packet::Unsubscribe),
            unsuback(v).prop_map(Packet::UnsubAck),
            rest,
        ];
        packet.prop_map(move |packet| (v, packet))
    })
}

/// Goes over everything that iterates lazily.
fn touch(packet: &Packet<'_>) {
    match packet {
        Packet::Publish(p) => drop(p.properties.iter().count()),
        Packet::Subscribe(p) => assert!(p.filters.iter().count() > 0),
        Packet::Unsubscribe(p) => assert!(p.filters.iter().count() > 0),
        _ => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn what_goes_in_comes_out((version, packet) in packet()) {
        let mut frame = Vec::new();
        prop_assert!(encode(version, &packet, u32::MAX, &mut frame));
        let (head, body) = body(&frame);
        let decoded = decode(version, head.first_byte, body, &Limits::default());
        prop_assert_eq!(decoded, Ok(packet));
        // Cut short anywhere it is refused or another packet, never a panic.
        for end in 0..body.len() {
            let _ = decode(version, head.first_byte, &body[..end], &Limits::default());
        }
    }

    #[test]
    fn a_changed_byte_never_panics(
        (version, packet) in packet(), at in any::<prop::sample::Index>(), to in any::<u8>(),
    ) {
        let mut frame = Vec::new();
        encode(version, &packet, u32::MAX, &mut frame);
        let (head, body) = body(&frame);
        let mut body = body.to_vec();
        if !body.is_empty() {
            let at = at.index(body.len());
            body[at] = to;
        }
        if let Ok(packet) = decode(version, head.first_byte, &body, &Limits::default()) {
            touch(&packet);
            let mut again = Vec::new();
            prop_assert!(encode(version, &packet, u32::MAX, &mut again));
            let (head, body) = super::body(&again);
            // An own version in a CONNECT may differ from the connection's.
            if !matches!(packet, Packet::Connect(_)) {
                let decoded = decode(version, head.first_byte, body, &Limits::default());
                prop_assert_eq!(decoded, Ok(packet));
            }
        }
    }

    #[test]
    fn arbitrary_bytes_never_panic(version in version(), first in any::<u8>(), body in data()) {
        let _ = frame_head(body, 1000);
        let _ = decode_connect(body, &Limits::default());
        if let Ok(packet) = decode(version, first, body, &Limits::default()) {
            touch(&packet);
        }
    }

    #[test]
    fn never_longer_than_the_receiver_allows((version, packet) in packet(), max in 2..200u32) {
        let mut frame = vec![0xEE];
        if encode(version, &packet, max, &mut frame) {
            prop_assert!(frame.len() - 1 <= max as usize);
            let (head, body) = body(&frame[1..]);
            prop_assert!(decode(version, head.first_byte, body, &Limits::default()).is_ok());
        } else {
            prop_assert_eq!(frame, vec![0xEE]);
        }
    }

    #[test]
    fn both_publish_encoders_agree(
        (version, p) in version().prop_flat_map(|v| (Just(v), publish(v))),
        scratch in vec(any::<u8>(), 0..9),
    ) {
        let mut scratch = scratch;
        let ids: Vec<u32> = p.properties.identifiers().map(NonZeroU32::get).collect();
        let out = PublishOut {
            dup: p.dup, qos: p.qos, retain: p.retain, topic: p.topic, packet_id: p.packet_id,
            properties: p.properties.forwardable_in(&mut scratch),
            message_expiry_interval: p.properties.message_expiry_interval,
            topic_alias: p.properties.topic_alias,
            subscription_identifiers: &ids,
            payload: p.payload,
        };
        let mut frame = Vec::new();
        encode_publish(version, &out, &mut frame);
        prop_assert_eq!(frame.len(), publish_len(version, &out));
        let mut head_only = Vec::new();
        encode_publish_head(version, &out, &mut head_only);
        prop_assert_eq!(&frame[..head_only.len()], &head_only[..]);
        prop_assert_eq!(&frame[head_only.len()..], p.payload);
        let (head, body) = body(&frame);
        let q = decode_publish(version, head.first_byte, body, &Limits::default()).unwrap();
        prop_assert_eq!((q.dup, q.qos, q.retain, q.topic, q.packet_id, q.payload),
            (p.dup, p.qos, p.retain, p.topic, p.packet_id, p.payload));
        prop_assert_eq!(q.properties.forwardable(), p.properties.forwardable());
        prop_assert!(q.properties.identifiers().eq(p.properties.identifiers()));
        let hop = q.properties.message_expiry_interval.is_some()
            || q.properties.topic_alias.is_some() || q.properties.subscription_identifiers;
        prop_assert_eq!(publish_wire_reusable(version, &q),
            !hop && !q.dup && !q.retain && q.qos == QoS::AtMostOnce);
        let mut scratch = Vec::new();
        prop_assert_eq!(Properties::trusted(q.properties.forwardable_in(&mut scratch)), q.properties.forwardable());
        prop_assert!(scratch.is_empty() || hop);
    }
}
