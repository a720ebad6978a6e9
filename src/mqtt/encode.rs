//! Encoding any packet, of either direction.

use super::frame::{MAX_REMAINING_LENGTH, put_bytes, put_varint, varint_len};
use super::{
    Ack, Auth, ConnAck, Connect, Disconnect, Packet, Properties, Property, Publish, QoS,
    ReasonCode, SubAck, Subscribe, UnsubAck, Unsubscribe, Version,
};

/// What of the diagnostics may go along [MQTT-3.2.2-19] [MQTT-3.2.2-20].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Keep {
    Nothing,
    ReasonString,
    All,
}

/// Appends a packet of at most `max_packet_size` bytes, the receiver's Maximum Packet Size.
///
/// Where a server's or client's answer does not fit, its User Properties are left out, then its
/// Reason String. Says whether the packet was appended: one that does not fit is not
/// [MQTT-3.1.2-24], nor is what 3.x does not have: an AUTH, a CONNACK with a reason it has no return
/// code for. A CONNECT goes by its own version.
pub fn encode(
    version: Version,
    packet: &Packet<'_>,
    max_packet_size: u32,
    out: &mut Vec<u8>,
) -> bool {
    let foreign = match packet {
        Packet::Auth(_) => true,
        Packet::ConnAck(connack) => connack.reason.connack_v3().is_none(),
        _ => false,
    };
    if foreign && !version.is_v5() {
        return false;
    }
    let start = out.len();
    let max = usize::try_from(max_packet_size).unwrap_or(usize::MAX);
    for keep in [Keep::All, Keep::ReasonString, Keep::Nothing] {
        out.push(first_byte(packet));
        put_body(version, packet, keep, out);
        let body = out.len() - start - 1;
        if body <= MAX_REMAINING_LENGTH as usize && 1 + varint_len(body as u32) + body <= max {
            insert_length(out, start + 1);
            return true;
        }
        out.truncate(start);
    }
    false
}

fn first_byte(packet: &Packet<'_>) -> u8 {
    match packet {
        Packet::Connect(_) => 0x10,
        Packet::ConnAck(_) => 0x20,
        Packet::Publish(p) => 0x30 | u8::from(p.dup) << 3 | p.qos.as_u8() << 1 | u8::from(p.retain),
        Packet::PubAck(_) => 0x40,
        Packet::PubRec(_) => 0x50,
        Packet::PubRel(_) => 0x62,
        Packet::PubComp(_) => 0x70,
        Packet::Subscribe(_) => 0x82,
        Packet::SubAck(_) => 0x90,
        Packet::Unsubscribe(_) => 0xA2,
        Packet::UnsubAck(_) => 0xB0,
        Packet::PingReq => 0xC0,
        Packet::PingResp => 0xD0,
        Packet::Disconnect(_) => 0xE0,
        Packet::Auth(_) => 0xF0,
    }
}

fn put_body(version: Version, packet: &Packet<'_>, keep: Keep, out: &mut Vec<u8>) {
    match packet {
        Packet::Connect(p) => connect(p, out),
        Packet::ConnAck(p) => connack(version, p, keep, out),
        Packet::Publish(p) => publish(version, p, out),
        Packet::PubAck(p) | Packet::PubRec(p) | Packet::PubRel(p) | Packet::PubComp(p) => {
            ack(version, p, keep, out);
        }
        Packet::Subscribe(p) => subscribe(version, p, out),
        Packet::SubAck(p) => suback(version, p, keep, out),
        Packet::Unsubscribe(p) => unsubscribe(version, p, out),
        Packet::UnsubAck(p) => unsuback(version, p, keep, out),
        Packet::PingReq | Packet::PingResp => {}
        Packet::Disconnect(p) => disconnect(version, p, keep, out),
        Packet::Auth(p) => auth(p, keep, out),
    }
}

/// Makes room at `at` and writes there how many bytes follow it.
fn insert_length(out: &mut Vec<u8>, at: usize) {
    let len = out.len() - at;
    let end = out.len();
    put_varint(out, len as u32);
    let width = out.len() - end;
    if let Some(tail) = out.get_mut(at..) {
        tail.rotate_right(width);
    }
}

/// Appends a property block behind its length; nothing in 3.x.
fn block(version: Version, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    if version.is_v5() {
        let start = out.len();
        write(out);
        insert_length(out, start);
    }
}

/// Appends a property if there is a value for it.
fn put<'a, T>(out: &mut Vec<u8>, value: Option<T>, property: impl FnOnce(T) -> Property<'a>) {
    if let Some(value) = value {
        property(value).encode(out);
    }
}

/// Appends Reason String and User Properties as far as they may go along.
fn put_diagnostics(properties: &Properties<'_>, keep: Keep, out: &mut Vec<u8>) {
    match keep {
        Keep::All => properties.write_to(out),
        Keep::ReasonString => put(out, properties.reason_string(), Property::ReasonString),
        Keep::Nothing => {}
    }
}

fn put_reason_string(reason_string: Option<&str>, keep: Keep, out: &mut Vec<u8>) {
    if keep >= Keep::ReasonString {
        put(out, reason_string, Property::ReasonString);
    }
}

fn put_user_properties(properties: &Properties<'_>, keep: Keep, out: &mut Vec<u8>) {
    if keep == Keep::All {
        properties.write_to(out);
    }
}

fn connect(p: &Connect<'_>, out: &mut Vec<u8>) {
    let name: &[u8] = if p.version == Version::V31 { b"MQIsdp" } else { b"MQTT" };
    put_bytes(out, name);
    let bridge = if p.bridge && !p.version.is_v5() { 0x80 } else { 0 };
    out.push(p.version as u8 | bridge);
    let mut flags = u8::from(p.clean_start) << 1;
    if let Some(will) = &p.will {
        flags |= 0x04 | will.qos.as_u8() << 3 | u8::from(will.retain) << 5;
    }
    flags |= u8::from(p.password.is_some()) << 6 | u8::from(p.username.is_some()) << 7;
    out.push(flags);
    out.extend_from_slice(&p.keep_alive.to_be_bytes());
    block(p.version, out, |out| connect_properties(p, out));
    put_bytes(out, p.client_id.as_bytes());
    if let Some(will) = &p.will {
        block(p.version, out, |out| {
            let delay = (will.delay_interval != 0).then_some(will.delay_interval);
            put(out, delay, Property::WillDelayInterval);
            put(out, will.message_expiry_interval, Property::MessageExpiryInterval);
            will.properties.write_to(out);
        });
        put_bytes(out, will.topic.as_bytes());
        put_bytes(out, will.payload);
    }
    if let Some(username) = p.username {
        put_bytes(out, username.as_bytes());
    }
    if let Some(password) = p.password {
        put_bytes(out, password);
    }
}

fn connect_properties(p: &Connect<'_>, out: &mut Vec<u8>) {
    let of = &p.properties;
    put(out, of.session_expiry_interval, Property::SessionExpiryInterval);
    put(out, of.receive_maximum, Property::ReceiveMaximum);
    put(out, of.maximum_packet_size, Property::MaximumPacketSize);
    let aliases = (of.topic_alias_maximum != 0).then_some(of.topic_alias_maximum);
    put(out, aliases, Property::TopicAliasMaximum);
    if of.request_response_information {
        Property::RequestResponseInformation(true).encode(out);
    }
    if !of.request_problem_information {
        Property::RequestProblemInformation(false).encode(out);
    }
    put(out, of.authentication_method, Property::AuthenticationMethod);
    put(out, of.authentication_data, Property::AuthenticationData);
    of.properties.write_to(out);
}

fn connack(version: Version, p: &ConnAck<'_>, keep: Keep, out: &mut Vec<u8>) {
    // The byte is reserved in 3.1.
    out.push(u8::from(p.session_present && version != Version::V31));
    out.push(match p.reason.connack_v3() {
        Some(code) if !version.is_v5() => code,
        _ => p.reason.as_u8(),
    });
    block(version, out, |out| {
        put(out, p.session_expiry_interval, Property::SessionExpiryInterval);
        put(out, p.receive_maximum, Property::ReceiveMaximum);
        put(out, p.maximum_qos, Property::MaximumQoS);
        put(out, p.retain_available, Property::RetainAvailable);
        put(out, p.maximum_packet_size, Property::MaximumPacketSize);
        put(out, p.assigned_client_identifier, Property::AssignedClientIdentifier);
        put(out, p.topic_alias_maximum, Property::TopicAliasMaximum);
        put(out, p.wildcard_subscription_available, Property::WildcardSubscriptionAvailable);
        put(out, p.subscription_identifiers_available, Property::SubscriptionIdentifierAvailable);
        put(out, p.shared_subscription_available, Property::SharedSubscriptionAvailable);
        put(out, p.server_keep_alive, Property::ServerKeepAlive);
        put(out, p.response_information, Property::ResponseInformation);
        put(out, p.server_reference, Property::ServerReference);
        put(out, p.authentication_method, Property::AuthenticationMethod);
        put(out, p.authentication_data, Property::AuthenticationData);
        put_reason_string(p.reason_string, keep, out);
        put_user_properties(&p.properties, keep, out);
    });
}

fn publish(version: Version, p: &Publish<'_>, out: &mut Vec<u8>) {
    put_bytes(out, p.topic);
    if p.qos != QoS::AtMostOnce {
        debug_assert!(p.packet_id.is_some(), "QoS above 0 without a Packet Identifier");
        out.extend_from_slice(&p.packet_id.map_or(0, |id| id.get()).to_be_bytes());
    }
    block(version, out, |out| {
        put(out, p.properties.message_expiry_interval, Property::MessageExpiryInterval);
        put(out, p.properties.topic_alias, Property::TopicAlias);
        p.properties.without_fields().write_to(out);
    });
    out.extend_from_slice(p.payload);
}

fn ack(version: Version, p: &Ack<'_>, keep: Keep, out: &mut Vec<u8>) {
    out.extend_from_slice(&p.packet_id.get().to_be_bytes());
    if !version.is_v5() {
        return;
    }
    let diagnostics = keep != Keep::Nothing && !p.properties.is_empty();
    if diagnostics || p.reason != ReasonCode::Success {
        out.push(p.reason.as_u8());
    }
    if diagnostics {
        block(version, out, |out| put_diagnostics(&p.properties, keep, out));
    }
}

fn subscribe(version: Version, p: &Subscribe<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&p.packet_id.get().to_be_bytes());
    block(version, out, |out| {
        put(out, p.subscription_identifier, Property::SubscriptionIdentifier);
        p.properties.write_to(out);
    });
    p.filters.iter().for_each(|filter| filter.encode(version, out));
}

fn suback(version: Version, p: &SubAck<'_>, keep: Keep, out: &mut Vec<u8>) {
    out.extend_from_slice(&p.packet_id.get().to_be_bytes());
    block(version, out, |out| put_diagnostics(&p.properties, keep, out));
    out.extend(p.reasons.iter().map(|&reason| match version {
        Version::V311 if reason >= 0x80 => 0x80,
        Version::V31 if reason >= 0x80 => 0,
        _ => reason,
    }));
}

fn unsubscribe(version: Version, p: &Unsubscribe<'_>, out: &mut Vec<u8>) {
    out.extend_from_slice(&p.packet_id.get().to_be_bytes());
    block(version, out, |out| p.properties.write_to(out));
    out.extend_from_slice(p.filters.raw);
}

fn unsuback(version: Version, p: &UnsubAck<'_>, keep: Keep, out: &mut Vec<u8>) {
    out.extend_from_slice(&p.packet_id.get().to_be_bytes());
    block(version, out, |out| put_diagnostics(&p.properties, keep, out));
    if version.is_v5() {
        out.extend_from_slice(p.reasons);
    }
}

fn disconnect(version: Version, p: &Disconnect<'_>, keep: Keep, out: &mut Vec<u8>) {
    if !version.is_v5() {
        return;
    }
    let start = out.len();
    out.push(p.reason.as_u8());
    block(version, out, |out| {
        put(out, p.session_expiry_interval, Property::SessionExpiryInterval);
        put(out, p.server_reference, Property::ServerReference);
        put_reason_string(p.reason_string, keep, out);
        put_user_properties(&p.properties, keep, out);
    });
    // Without properties no Property Length; without a reason either, nothing [3.14.2.1].
    if out.len() - start == 2 {
        out.truncate(start + usize::from(p.reason != ReasonCode::Success));
    }
}

fn auth(p: &Auth<'_>, keep: Keep, out: &mut Vec<u8>) {
    let start = out.len();
    out.push(p.reason.as_u8());
    block(Version::V5, out, |out| {
        put(out, p.method, Property::AuthenticationMethod);
        put(out, p.data, Property::AuthenticationData);
        put_reason_string(p.reason_string, keep, out);
        put_user_properties(&p.properties, keep, out);
    });
    if out.len() - start == 2 && p.reason == ReasonCode::Success {
        out.truncate(start);
    }
}
