use super::*;
use QoS::{AtLeastOnce, AtMostOnce};

fn alias(alias: u16) -> NonZeroU16 {
    NonZeroU16::new(alias).unwrap()
}

fn on_topic(topic: &str, payload: &str) -> Message {
    Message::new(topic, QoS::AtLeastOnce, false, payload.as_bytes(), &[], None, T0)
}

fn with_aliases(topic_alias_maximum: u16, maximum_packet_size: u32) -> Rig {
    let mut rig = Rig::new(Version::V5, 100);
    rig.connect(&LinkParameters {
        topic_alias_maximum,
        maximum_packet_size,
        ..parameters(Version::V5, 100)
    });
    rig
}

/// [MQTT-3.3.2-12] An alias stands for the topic it was last sent with; [MQTT-3.3.2-9] none above
/// our maximum; [MQTT-3.3.2-7] none of an earlier connection.
#[test]
fn inbound() {
    let mut rig = Rig::new(Version::V5, 10);
    let p = LinkParameters { our_topic_alias_maximum: 2, ..parameters(Version::V5, 10) };
    rig.connect(&p);
    let reason = |result: Result<&Arc<str>, DecodeError>| result.unwrap_err().reason;
    let s = &mut rig.session;
    assert_eq!(reason(s.resolve_topic_alias(alias(1), "")), ReasonCode::TopicAliasInvalid);
    assert_eq!(reason(s.resolve_topic_alias(alias(3), "a")), ReasonCode::TopicAliasInvalid);
    assert_eq!(&**s.resolve_topic_alias(alias(2), "a").unwrap(), "a");
    assert_eq!(&**s.resolve_topic_alias(alias(2), "").unwrap(), "a");
    assert_eq!(&**s.resolve_topic_alias(alias(2), "b").unwrap(), "b");
    assert_eq!(&**s.resolve_topic_alias(alias(2), "").unwrap(), "b");
    assert_eq!(reason(s.resolve_topic_alias(alias(1), "")), ReasonCode::TopicAliasInvalid);
    rig.connect(&p);
    let unknown = reason(rig.session.resolve_topic_alias(alias(2), ""));
    assert_eq!(unknown, ReasonCode::TopicAliasInvalid);
}

/// [MQTT-3.3.2-9] Without a maximum of ours any alias is invalid.
#[test]
fn inbound_without_aliases() {
    let mut rig = Rig::new(Version::V5, 10);
    assert!(rig.session.resolve_topic_alias(alias(1), "a").is_err());
}

/// [MQTT-3.1.2-27] No alias unless the client takes them.
#[test]
fn outbound_none() {
    let mut rig = Rig::new(Version::V5, 10);
    let _ = rig.send(AtLeastOnce, "a");
    assert_eq!(rig.wire.one_publish().alias, 0);
}

/// [MQTT-3.1.2-26] No more aliases than the client's maximum; a topic's first message has both,
/// later ones only the alias.
#[test]
fn outbound() {
    let mut rig = with_aliases(2, u32::MAX);
    let mut seen = Vec::new();
    for topic in ["a", "b", "a", "c", "b", "c"] {
        let m = on_topic(topic, "x");
        assert_eq!(rig.deliver(&delivery(&m, AtMostOnce)), Delivered::Sent);
        let sent = rig.wire.one_publish();
        seen.push((sent.topic, sent.alias));
    }
    let expected = [("a", 1), ("b", 2), ("", 1), ("c", 0), ("", 2), ("c", 0)];
    assert_eq!(seen, expected.map(|(topic, alias)| (topic.to_string(), alias)));
}

/// [MQTT-3.3.2-7] What is sent again on a new connection names its topic again.
#[test]
fn outbound_after_resume() {
    let mut rig = with_aliases(2, u32::MAX);
    for _ in 0..2 {
        let _ = rig.deliver(&delivery(&on_topic("a", "x"), AtLeastOnce));
    }
    rig.disconnect();
    rig.connect(&LinkParameters { topic_alias_maximum: 1, ..parameters(Version::V5, 10) });
    let topics = rig.wire.take().into_iter().map(|out| match out {
        Out::Publish(p) => (p.topic, p.alias),
        other => panic!("{other:?}"),
    });
    let topics: Vec<_> = topics.collect();
    assert_eq!(topics, [("a".to_string(), 1), (String::new(), 1)]);
}

/// [MQTT-3.1.2-24] An alias that makes the packet too large is left out, and not assumed known.
#[test]
fn outbound_and_packet_size() {
    // 2 + 2 + 1 + 2 + 1 bytes around the payload, and 3 for an alias.
    let mut rig = with_aliases(5, 20);
    let long = on_topic("a", "123456789012");
    assert_eq!(rig.deliver(&delivery(&long, AtLeastOnce)), Delivered::Sent);
    let sent = rig.wire.one_publish();
    assert_eq!((sent.topic.as_str(), sent.alias), ("a", 0));
    let short = on_topic("a", "1");
    assert_eq!(rig.deliver(&delivery(&short, AtLeastOnce)), Delivered::Sent);
    let sent = rig.wire.one_publish();
    assert_eq!((sent.topic.as_str(), sent.alias), ("a", 1));
    // A known alias may be longer than the topic, too.
    assert_eq!(rig.deliver(&delivery(&long, AtLeastOnce)), Delivered::Sent);
    let sent = rig.wire.one_publish();
    assert_eq!((sent.topic.as_str(), sent.alias), ("a", 0));
    // What only fits by its alias is sent by it.
    let m = on_topic("long topic", "1");
    assert_eq!(rig.deliver(&delivery(&m, AtMostOnce)), Delivered::Sent);
    assert_eq!(rig.wire.one_publish().alias, 2);
    let m = on_topic("long topic", "12345678");
    assert_eq!(rig.deliver(&delivery(&m, AtMostOnce)), Delivered::Sent);
    let sent = rig.wire.one_publish();
    assert_eq!((sent.topic.as_str(), sent.alias), ("", 2));
}

/// The same for QoS 0 that is written without the session's help.
#[test]
fn direct() {
    let mut rig = with_aliases(1, 50);
    let (first, known) = (AliasUse::First(alias(1)), AliasUse::Known(alias(1)));
    assert_eq!(rig.session.direct(b"topic", 49), Direct::Plain);
    assert_eq!(rig.session.direct(b"topic", 51), Direct::TooLarge);
    assert_eq!(rig.session.direct(b"topic", 40), Direct::Alias(first));
    assert_eq!(rig.session.direct(b"topic", 50), Direct::Alias(known));
    assert_eq!(rig.session.direct(b"other", 40), Direct::Plain);
    assert_eq!(rig.session.drops().get(DropCause::PacketTooLarge), 1);
    let m = on_topic("topic", "x");
    assert_eq!(rig.deliver(&delivery(&m, AtMostOnce)), Delivered::Sent);
    assert_eq!(rig.wire.one_publish().topic, "");
    rig.disconnect();
    assert_eq!(rig.session.direct(b"topic", 40), Direct::Deliver);
}
