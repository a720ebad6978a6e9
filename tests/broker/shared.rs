//! Shared subscriptions (section 4.8.2).

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::common::cases::{shards, versions};
use crate::common::property::{self, subscription_identifier};
use crate::common::wire;
use crate::common::{
    Broker, Client, Connect, Event, Message, Packet, Publish, V5, V311, Version, broker,
    broker_with_shards, code,
};

const NO_LOCAL: u8 = 1 << 2;

/// Members of `$share/group/<filter>` at `qos`.
fn members(broker: &Broker, count: usize, filter: &str, qos: u8) -> Vec<Client> {
    let filter = format!("$share/group/{filter}");
    (0..count)
        .map(|n| {
            let mut client = broker.connect(V5, &format!("member-{n}"));
            client.subscribe(&filter, qos);
            client
        })
        .collect()
}

/// Everything that reached a member before its answer to a ping, acknowledged.
fn drain(client: &mut Client) -> Vec<Publish> {
    let mut got = Vec::new();
    client.send(&wire::packet(wire::PINGREQ, &[]));
    loop {
        match client.next() {
            Packet::Publish(publish) => {
                client.acknowledge(&publish);
                got.push(publish);
            }
            Packet::PingResp => return got,
            other => panic!("unexpected {other:?}"),
        }
    }
}

/// Collects `count` messages from the members, each once; what is too much, or never comes, fails.
#[track_caller]
fn collect(members: &mut [Client], publisher: &mut Client, count: usize) -> Vec<Vec<Publish>> {
    let mut got: Vec<Vec<Publish>> = members.iter().map(|_| Vec::new()).collect();
    let start = Instant::now();
    while got.iter().map(Vec::len).sum::<usize>() < count {
        let have = got.iter().map(Vec::len).sum::<usize>();
        assert!(start.elapsed() < Duration::from_secs(5), "{have} of {count} came: {got:?}");
        for (member, list) in members.iter_mut().zip(&mut got) {
            list.extend(drain(member));
        }
    }
    for member in members.iter_mut() {
        member.expect_nothing_from(publisher);
    }
    got
}

fn payloads(all: &[Vec<Publish>]) -> Vec<String> {
    let mut list: Vec<String> =
        all.iter().flatten().map(|publish| publish.payload_text().to_owned()).collect();
    list.sort_unstable();
    list
}

fn numbered(count: usize) -> Vec<String> {
    let mut list: Vec<String> = (0..count).map(|n| format!("{n:03}")).collect();
    list.sort_unstable();
    list
}

/// Section 4.8.2: each message goes to one member of the group, at each QoS; round robin, the
/// default, gives every member its part.
fn delivers_to_one_member(shards: u16) {
    for qos in 0..=2 {
        let broker = broker_with_shards(shards, "");
        let mut members = members(&broker, 4, "work/+", qos);
        let mut publisher = broker.connect(V5, "publisher");
        for n in 0..80 {
            publisher.publish(&format!("work/{n}"), format!("{n:03}"), qos);
        }
        let got = collect(&mut members, &mut publisher, 80);
        assert_eq!(payloads(&got), numbered(80));
        for (n, list) in got.iter().enumerate() {
            assert!((10..=30).contains(&list.len()), "member {n} got {}", list.len());
            assert!(list.iter().all(|publish| publish.qos == qos && !publish.retain));
        }
    }
}
shards!(delivers_to_one_member);

/// Section 4.8.2: clients of 3.1.1 may be members as well.
fn serves_members_of_every_version(version: Version) {
    let broker = broker("");
    let mut member = broker.connect(version, "member");
    member.subscribe("$share/group/work", 1);
    let mut publisher = broker.connect(version, "publisher");
    publisher.publish("work", "x", 1);
    member.expect("work", "x");
    assert!(member.unsubscribe(&["$share/group/work"]).codes.iter().all(|code| *code == 0));
    publisher.publish("work", "y", 1);
    member.expect_nothing_from(&mut publisher);
}
versions!(serves_members_of_every_version, from 3.1.1);

/// Section 4.8.2: groups of other names, other filters and plain subscriptions each get their own
/// copy.
fn keeps_groups_apart(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let filters =
        ["$share/one/work/#", "$share/two/work/#", "$share/one/work/+", "work/#", "$share/one/#"];
    let mut clients: Vec<Client> = filters
        .iter()
        .enumerate()
        .map(|(n, filter)| {
            let mut client = broker.connect(V5, &format!("client-{n}"));
            client.subscribe(filter, 1);
            client
        })
        .collect();
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish("work/a", "x", 1);
    for client in &mut clients {
        client.expect("work/a", "x");
    }
    for client in &mut clients {
        client.expect_nothing();
    }
}
shards!(keeps_groups_apart);

/// Section 4.8.2: a client may have a shared and a plain subscription; it gets a message for each.
#[test]
fn adds_to_plain_subscriptions_of_the_same_client() {
    let broker = broker("");
    let mut client = broker.connect(V5, "both");
    client.subscribe_with(&[("work", 1)], &[subscription_identifier(1)]);
    client.subscribe_with(&[("$share/group/work", 1)], &[subscription_identifier(2)]);
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish("work", "x", 1);
    let mut identifiers: Vec<u32> = Vec::new();
    while identifiers.len() < 2 {
        identifiers.extend(client.expect("work", "x").properties.subscription_identifiers());
    }
    identifiers.sort_unstable();
    assert_eq!(identifiers, [1, 2]);
    client.expect_nothing_from(&mut publisher);
}

/// [MQTT-4.8.2-3] Each member's granted QoS holds for what it gets.
#[test]
fn respects_the_granted_qos() {
    let broker = broker("");
    let mut clients: Vec<Client> = (0..3)
        .map(|qos| {
            let mut client = broker.connect(V5, &format!("member-{qos}"));
            client.subscribe("$share/group/work", qos);
            client
        })
        .collect();
    let mut publisher = broker.connect(V5, "publisher");
    for n in 0..12 {
        publisher.publish("work", format!("{n:03}"), 2);
    }
    let got = collect(&mut clients, &mut publisher, 12);
    assert_eq!(payloads(&got), numbered(12));
    for (qos, list) in got.iter().enumerate() {
        assert!(!list.is_empty());
        assert!(list.iter().all(|publish| usize::from(publish.qos) == qos));
    }
}

/// Section 4.8.2: retained messages are not sent when a shared subscription is made.
#[test]
fn brings_no_retained_messages() {
    let broker = broker("");
    let mut client = broker.connect(V5, "member");
    client.publish_retained("work", "kept", 1);
    client.subscribe("$share/group/work", 1);
    client.expect_nothing_from_itself();
}

/// [MQTT-3.8.3-4] No Local on a shared subscription is a protocol error.
#[test]
fn refuses_no_local() {
    let broker = broker("");
    let mut client = broker.connect(V5, "member");
    client.send(&crate::common::client::subscribe(V5, 1, &[("$share/g/t", NO_LOCAL)], &[]));
    client.expect_disconnect(&[code::PROTOCOL_ERROR]);
}

/// [MQTT-4.8.2-1], [MQTT-4.8.2-2] A ShareName has a character at least, none of `/+#`, and a
/// filter follows it.
fn refuses_bad_names(version: Version) {
    let broker = broker("");
    let mut client = broker.connect(version, "client");
    let refusal = if version.is_v5() { code::TOPIC_FILTER_INVALID } else { 0x80 };
    for filter in ["$share//t", "$share/g", "$share/g/", "$share/a+/t", "$share/#/t", "$share/g/a#"]
    {
        let suback = client.subscribe_with(&[(filter, 0), ("fine", 1)], &[]);
        assert_eq!(suback.codes, [refusal, 1], "{filter}");
    }
    // Not the reserved word: an ordinary filter.
    client.subscribe("$shared/g/t", 0);
}
versions!(refuses_bad_names, from 3.1.1);

/// Section 4.8.2: a member that unsubscribes or goes gets nothing more; the others get all of it.
fn follows_the_membership(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let mut members = members(&broker, 3, "work", 1);
    let mut publisher = broker.connect(V5, "publisher");
    let unsuback = members[0].unsubscribe(&["$share/group/work"]);
    assert_eq!(unsuback.codes, [code::SUCCESS]);
    assert_eq!(
        members[0].unsubscribe(&["$share/group/work"]).codes,
        [code::NO_SUBSCRIPTION_EXISTED]
    );
    members.remove(2).hang_up();
    for n in 0..20 {
        publisher.publish("work", format!("{n:03}"), 1);
    }
    let got = collect(&mut members, &mut publisher, 20);
    assert_eq!(got[0].len(), 0);
    assert_eq!(payloads(&got), numbered(20));
    members.pop().unwrap().hang_up();
    let message = Message::new("work", "x").qos(1);
    assert_eq!(publisher.try_publish(message), code::NO_MATCHING_SUBSCRIBERS);
}
shards!(follows_the_membership);

/// Members that are connected go before absent ones; when all are absent the message waits.
fn prefers_connected_members(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let lasting: Vec<Connect> =
        (0..4).map(|n| Connect::lasting(V5, &format!("member-{n}"))).collect();
    for connect in &lasting {
        let (mut client, _) = broker.connect_with(connect);
        client.subscribe("$share/group/work", 1);
        client.disconnect();
    }
    let mut publisher = broker.connect(V5, "publisher");
    let (mut online, _) = broker.connect_with(&lasting[1]);
    // With the SUBACK every shard knows what this one has told before: the member is online.
    online.subscribe("known", 0);
    for n in 0..10 {
        publisher.publish("work", format!("{n:03}"), 1);
    }
    for n in 0..10 {
        online.expect("work", format!("{n:03}"));
    }
    online.disconnect();
    for n in 10..20 {
        publisher.publish("work", format!("{n:03}"), 1);
    }
    let mut got = Vec::new();
    for connect in &lasting {
        let (mut client, connack) = broker.connect_with(connect);
        assert!(connack.session_present);
        got.push(drain(&mut client));
    }
    assert_eq!(payloads(&got), (10..20).map(|n| format!("{n:03}")).collect::<Vec<_>>());
}
shards!(prefers_connected_members);

/// Section 4.8.2: what a member had not acknowledged at QoS 1, in flight or still queued, goes to
/// another when its session ends.
fn hands_on_what_a_member_leaves(shards: u16) {
    let broker = broker_with_shards(shards, "");
    let connect = Connect::new(V5, "leaver").with(property::receive_maximum(2));
    let (mut leaver, _) = broker.connect_with(&connect);
    leaver.subscribe("$share/group/work", 1);
    let mut publisher = broker.connect(V5, "publisher");
    for n in 0..10 {
        publisher.publish("work", format!("{n:03}"), 1);
    }
    let first = leaver.receive();
    assert_eq!(first.payload_text(), "000");
    leaver.take_publish();
    leaver.take_publish();
    leaver.expect_nothing();
    let mut heir = broker.connect(V5, "heir");
    heir.subscribe("$share/group/work", 1);
    leaver.hang_up();
    let mut got: Vec<String> = (1..10).map(|_| heir.receive().payload_text().to_owned()).collect();
    got.sort_unstable();
    assert_eq!(got, numbered(10)[1..]);
    heir.expect_nothing();
}
shards!(hands_on_what_a_member_leaves);

/// [MQTT-4.8.2-4] A QoS 2 message in flight is completed with its client when that comes back.
#[test]
fn completes_qos_2_with_the_same_member() {
    let broker = broker("");
    let connect = Connect::lasting(V5, "chosen");
    let (mut chosen, _) = broker.connect_with(&connect);
    chosen.subscribe("$share/group/work", 2);
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish("work", "x", 2);
    let begun = chosen.take_publish();
    chosen.send_ack(wire::PUBREC, begun.id);
    chosen.wait_pubrel(begun.id);
    let mut other = broker.connect(V5, "other");
    other.subscribe("$share/group/work", 2);
    chosen.hang_up();
    let (mut chosen, _) = broker.connect_with(&connect);
    assert!(matches!(chosen.next(), Packet::PubRel(ack) if ack.id == begun.id));
    chosen.send_ack(wire::PUBCOMP, begun.id);
    chosen.expect_nothing();
    other.expect_nothing();
}

/// [MQTT-4.8.2-5] If the session ends instead, a QoS 2 message in flight goes to nobody else.
#[test]
fn gives_begun_qos_2_messages_to_nobody_else() {
    let broker = broker("");
    let mut chosen = broker.connect(V5, "chosen");
    chosen.subscribe("$share/group/work", 2);
    let mut publisher = broker.connect(V5, "publisher");
    publisher.publish("work", "x", 2);
    let begun = chosen.take_publish();
    chosen.send_ack(wire::PUBREC, begun.id);
    chosen.wait_pubrel(begun.id);
    let mut other = broker.connect(V5, "other");
    other.subscribe("$share/group/work", 2);
    chosen.hang_up();
    other.expect_nothing_from(&mut publisher);
}

/// [MQTT-4.8.2-6] A member's refusal (0x80 or more) ends the message; nobody else gets it.
#[test]
fn gives_refused_messages_to_nobody_else() {
    let broker = broker("");
    let mut members = members(&broker, 2, "work", 2);
    let mut publisher = broker.connect(V5, "publisher");
    for qos in [1, 2, 1, 2] {
        publisher.publish("work", "x", qos);
    }
    let mut refused = 0;
    let start = Instant::now();
    while refused < 4 {
        assert!(start.elapsed() < Duration::from_secs(5), "{refused} of 4 came");
        for member in &mut members {
            member.send(&wire::packet(wire::PINGREQ, &[]));
            while let Packet::Publish(publish) = member.next() {
                let kind = if publish.qos == 1 { wire::PUBACK } else { wire::PUBREC };
                member.send_ack_code(kind, publish.id, code::UNSPECIFIED_ERROR);
                refused += 1;
            }
        }
    }
    for member in &mut members {
        member.expect_nothing_from(&mut publisher);
    }
}

/// Section 3.8.2.1.2: the identifier of a shared subscription comes with its messages, each
/// member's own.
#[test]
fn carries_subscription_identifiers() {
    let broker = broker("");
    let mut clients: Vec<Client> = (1..=3)
        .map(|identifier| {
            let mut client = broker.connect(V5, &format!("member-{identifier}"));
            let properties = [subscription_identifier(identifier)];
            client.subscribe_with(&[("$share/group/+", 0)], &properties);
            client
        })
        .collect();
    let mut publisher = broker.connect(V5, "publisher");
    for n in 0..9 {
        publisher.publish("work", format!("{n:03}"), 0);
    }
    let got = collect(&mut clients, &mut publisher, 9);
    assert_eq!(payloads(&got), numbered(9));
    for (n, list) in got.iter().enumerate() {
        let own = u32::try_from(n).unwrap() + 1;
        assert!(list.iter().all(|p| p.properties.subscription_identifiers() == [own]));
    }
}

fn with_strategy(strategy: &str, shards: u16) -> Broker {
    broker_with_shards(shards, &format!("[shared]\nstrategy = \"{strategy}\""))
}

/// Whose messages went where: key of a message to the members that got such.
fn spread(got: &[Vec<Publish>], key: impl Fn(&Publish) -> String) -> HashMap<String, Vec<usize>> {
    let mut spread: HashMap<String, Vec<usize>> = HashMap::new();
    for (member, list) in got.iter().enumerate() {
        for publish in list {
            let members = spread.entry(key(publish)).or_default();
            if !members.contains(&member) {
                members.push(member);
            }
        }
    }
    spread
}

/// Strategy "random": every message once, nobody left out.
fn can_choose_at_random(shards: u16) {
    let broker = with_strategy("random", shards);
    let mut members = members(&broker, 3, "work", 0);
    let mut publisher = broker.connect(V5, "publisher");
    for n in 0..300 {
        publisher.publish("work", format!("{n:03}"), 0);
    }
    let got = collect(&mut members, &mut publisher, 300);
    assert_eq!(payloads(&got), numbered(300));
    assert!(got.iter().all(|list| list.len() > 30));
}
shards!(can_choose_at_random);

/// Strategy "sticky": one member gets all, until it leaves.
fn can_stick_to_one_member(shards: u16) {
    let broker = with_strategy("sticky", shards);
    let mut members = members(&broker, 3, "work", 1);
    let mut publisher = broker.connect(V5, "publisher");
    while !members.is_empty() {
        for n in 0..12 {
            publisher.publish("work", format!("{n:03}"), 1);
        }
        let got = collect(&mut members, &mut publisher, 12);
        assert_eq!(payloads(&got), numbered(12));
        let at = got.iter().position(|list| list.len() == 12).expect("one member with all");
        members.remove(at).hang_up();
        // Its answer comes behind the news that the member has left.
        if !members.is_empty() {
            publisher.publish("work", "whose turn", 1);
            collect(&mut members, &mut publisher, 1);
        }
    }
}
shards!(can_stick_to_one_member);

/// So many publishers, with so many topics each, under a strategy: what has the same key goes to one member, and
/// there is work for more.
fn one_member_for_each(
    key: impl Fn(&Publish) -> String,
    strategy: &str,
    (publishers, topics): (usize, usize),
    shards: u16,
) {
    let broker = with_strategy(strategy, shards);
    let mut members = members(&broker, 3, "work/#", 1);
    let mut last = None;
    for p in 0..publishers {
        let mut publisher = broker.connect(V5, &format!("publisher-{p}"));
        for n in 0..topics {
            publisher.publish(&format!("work/{n}"), p.to_string(), 1);
        }
        last = Some(publisher);
    }
    let got = collect(&mut members, &mut last.unwrap(), publishers * topics);
    let spread = spread(&got, key);
    assert!(spread.values().all(|members| members.len() == 1), "{spread:?}");
    assert!(got.iter().filter(|list| !list.is_empty()).count() > 1);
}

/// Strategy "client_id": one publisher, one member; many publishers, more members.
fn can_choose_by_publisher(shards: u16) {
    let publisher = |publish: &Publish| publish.payload_text().to_owned();
    one_member_for_each(publisher, "client_id", (20, 4), shards);
}
shards!(can_choose_by_publisher);

/// Strategy "topic": one topic, one member, whoever publishes.
fn can_choose_by_topic(shards: u16) {
    one_member_for_each(|publish| publish.topic.clone(), "topic", (4, 20), shards);
}
shards!(can_choose_by_topic);

/// Strategy "least_in_flight": who does not acknowledge gets no more than who does.
fn can_choose_the_least_busy(shards: u16) {
    let broker = with_strategy("least_in_flight", shards);
    let mut members = members(&broker, 2, "work", 1);
    let mut publisher = broker.connect(V5, "publisher");
    let mut lazy = 0;
    for n in 0..20 {
        publisher.publish("work", format!("{n:03}"), 1);
        for (at, member) in members.iter_mut().enumerate() {
            member.send(&wire::packet(wire::PINGREQ, &[]));
            while let Event::Packet(Packet::Publish(publish)) = member.event() {
                // The first member never acknowledges.
                if at == 0 {
                    lazy += 1;
                } else {
                    member.acknowledge(&publish);
                    member.ping();
                }
            }
        }
    }
    assert!((1..=2).contains(&lazy), "the busy member got {lazy} of 20");
}
shards!(can_choose_the_least_busy);

/// Section 3.2.2.3.13: switched off it is stated, and refused with 0x9E.
#[test]
fn may_be_switched_off() {
    let broker = broker("[mqtt]\nshared_subscription_available = false");
    let (mut client, connack) = broker.connect_with(&Connect::new(V5, "client"));
    let available = property::SHARED_SUBSCRIPTION_AVAILABLE;
    assert_eq!(connack.properties.number(available), Some(0));
    let suback = client.subscribe_with(&[("$share/g/t", 1), ("t", 1)], &[]);
    assert_eq!(suback.codes, [code::SHARED_SUBSCRIPTIONS_NOT_SUPPORTED, 1]);
    let mut old = broker.connect(V311, "old");
    assert_eq!(old.subscribe_with(&[("$share/g/t", 1), ("t", 1)], &[]).codes, [0x80, 1]);
}

/// A member whose full queue goes to the others as it leaves the group is full no longer: it is
/// not disconnected for it, and its publisher goes on.
fn relieves_a_member_that_leaves(shards: u16) {
    let toml = "[queue]\nmax_messages = 5\n[overflow]\npatience = \"300ms\"";
    let broker = broker_with_shards(shards, toml);
    let connect = Connect::new(V5, "member").with(property::receive_maximum(1));
    let (mut member, _) = broker.connect_with(&connect);
    member.subscribe("$share/group/t", 1);
    let mut publisher = broker.connect(V5, "publisher");
    for n in 0..6 {
        publisher.start_publish(Message::new("t", n.to_string()).qos(1));
    }
    publisher.wait_puback(6);
    member.unsubscribe(&["$share/group/t"]);
    crate::common::let_pass(std::time::Duration::from_millis(600));
    member.ping();
    publisher.publish("elsewhere", "x", 1);
}
shards!(relieves_a_member_that_leaves);

/// A group all of whose members are full slows its publishers as any full receiver does: what
/// it cannot take yet is not refused, and comes in the end.
fn slows_publishers_when_all_members_are_full(shards: u16) {
    let toml = "[queue]\nmax_messages = 5\nmax_bytes = \"20KiB\"\n\
                [mailbox]\nmax_bytes = \"64KiB\"\n\
                [limits]\nmax_packet_size = \"8KiB\"\n[overflow]\npatience = \"60s\"";
    let broker = broker_with_shards(shards, toml);
    let connect = |name| Connect::new(V5, name).with(property::receive_maximum(1));
    let mut members = ["one", "two"].map(|name| broker.connect_with(&connect(name)).0);
    for member in &mut members {
        member.subscribe("$share/group/t", 1);
    }
    let mut publisher = broker.connect(V5, "publisher");
    let payload = "x".repeat(4_000);
    let ids: Vec<u16> =
        (0..200).map(|_| publisher.start_publish(Message::new("t", &payload).qos(1))).collect();
    let mut got = 0;
    let start = Instant::now();
    while got < 200 {
        assert!(start.elapsed() < Duration::from_secs(15), "{got} came");
        for member in &mut members {
            member.ping();
            while let Some(publish) = member.take_publish_if_any() {
                member.acknowledge(&publish);
                got += 1;
            }
        }
    }
    for id in ids {
        assert_eq!(publisher.wait_puback(id).code, code::SUCCESS);
    }
}
shards!(slows_publishers_when_all_members_are_full);
