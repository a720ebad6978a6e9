//! What clients may do: at PUBLISH, at SUBSCRIBE, at delivery, and after the rules have changed.

use std::fs;

use crate::authentication::{ALICE, BOB, Passwords};
use crate::common::property::{session_expiry, topic_alias};
use crate::common::{Broker, Client, Connect, Message, V5, V31, V311, Version, Will, broker, code};

/// The client "p" may publish below a/, "s" may subscribe to it but for a/secret.
const RULES: &str = "
[acl]
default = \"deny\"
[[acl.rule]]
effect = \"deny\"
topics = [\"a/secret\"]
clients = [\"s\"]
[[acl.rule]]
effect = \"allow\"
action = \"subscribe\"
topics = [\"a/#\", \"%c/in\"]
clients = [\"s\"]
[[acl.rule]]
effect = \"allow\"
action = \"publish\"
topics = [\"a/#\"]
clients = [\"p\"]
[[acl.rule]]
effect = \"allow\"
action = \"publish\"
topics = [\"limited\"]
max_qos = 1
retain = false
[[acl.rule]]
effect = \"allow\"
action = \"subscribe\"
topics = [\"limited\"]
max_qos = 1
[[acl.rule]]
effect = \"allow\"
topics = [\"#\"]
clients = [\"all\"]
";

const VERSIONS: [Version; 3] = [V31, V311, V5];

/// One who may do everything.
fn watcher(broker: &Broker) -> Client {
    let mut watcher = broker.connect(V5, "all");
    watcher.subscribe("#", 2);
    watcher
}

#[test]
fn who_may_not_publish_is_told_if_it_can_be() {
    let broker = broker(RULES);
    let mut watcher = watcher(&broker);
    for version in VERSIONS {
        let mut client = broker.connect(version, "p");
        for qos in 0..=2 {
            let denied = client.try_publish(Message::new("b", "no").qos(qos));
            let expected = if version.is_v5() && qos > 0 { code::NOT_AUTHORIZED } else { 0 };
            assert_eq!(denied, expected, "{version:?} QoS {qos}");
            client.publish("a/b", "yes", qos);
            watcher.expect("a/b", "yes");
        }
    }
}

#[test]
fn a_3x_publisher_can_be_disconnected_instead() {
    let broker = broker(&RULES.replace("[acl]", "[acl]\nv3_publisher = \"disconnect\""));
    for qos in 1..=2 {
        let mut client = broker.connect(V311, "p");
        client.publish("b", "no", 0);
        client.publish("a", "yes", qos);
        client.start_publish(Message::new("b", "no").qos(qos));
        client.expect_closed();
    }
    let mut newer = broker.connect(V5, "p");
    assert_eq!(newer.try_publish(Message::new("b", "no").qos(1)), code::NOT_AUTHORIZED);
    assert!(newer.survives());
}

/// However the messages lie in one read, and whatever was decided for the one before.
#[test]
fn each_topic_of_a_burst_has_its_own_decision() {
    let broker = broker(RULES);
    let mut watcher = watcher(&broker);
    for version in VERSIONS {
        let mut client = broker.connect(version, "p");
        let topics = ["a/1", "b/1", "b/1", "a/1", "a/2", "b/2", "a/2", "a/2", "b/1"];
        let burst = topics.iter().enumerate();
        let burst = burst.flat_map(|(n, topic)| Message::new(topic, n.to_string()).bytes(version));
        client.send(&burst.collect::<Vec<_>>());
        for (n, topic) in topics.iter().enumerate().filter(|(_, topic)| topic.starts_with('a')) {
            watcher.expect(topic, n.to_string());
        }
    }
    watcher.expect_nothing_from_itself();
}

#[test]
fn many_topics_are_decided_one_by_one() {
    let broker = broker(RULES);
    let mut watcher = watcher(&broker);
    let mut client = broker.connect(V5, "p");
    for round in 0..2 {
        for n in 0..100 {
            let (allowed, denied) = (format!("a/{n}"), format!("b/{n}"));
            client.publish(&allowed, round.to_string(), 0);
            client.publish(&denied, round.to_string(), 0);
            watcher.expect(&allowed, round.to_string());
        }
    }
    watcher.expect_nothing_from_itself();
}

#[test]
fn a_topic_alias_is_no_way_around() {
    let broker = broker(RULES);
    let mut watcher = watcher(&broker);
    let mut client = broker.connect(V5, "p");
    let (good, bad) = (topic_alias(1), topic_alias(2));
    for (topic, alias, code) in [
        ("a", &good, 0),
        ("b", &bad, code::NOT_AUTHORIZED),
        ("", &good, 0),
        ("", &bad, code::NOT_AUTHORIZED),
    ] {
        let message = Message::new(topic, "m").qos(1).with(alias.clone());
        assert_eq!(client.try_publish(message), code);
    }
    watcher.expect("a", "m");
    watcher.expect("a", "m");
    watcher.expect_nothing_from_itself();
}

#[test]
fn limits_of_qos_and_retain() {
    let broker = broker(RULES);
    let mut client = broker.connect(V5, "x");
    for (qos, retain, code) in [
        (0, false, 0),
        (1, false, 0),
        (2, false, code::NOT_AUTHORIZED),
        (1, true, code::NOT_AUTHORIZED),
    ] {
        let message = Message { retain, ..Message::new("limited", "m").qos(qos) };
        let got = client.try_publish(message);
        assert!(got == code || (code == 0 && got == code::NO_MATCHING_SUBSCRIBERS), "{got:#x}");
    }
    assert_eq!(client.subscribe_with(&[("limited", 2), ("limited", 0)], &[]).codes, [1, 0]);
}

#[test]
fn a_subscription_that_may_not_be_is_refused() {
    let broker = broker(RULES);
    for version in VERSIONS {
        let mut client = broker.connect(version, "s");
        let filters = [
            ("a/#", 2),
            ("a/secret", 2),
            ("b", 0),
            ("#", 1),
            ("s/in", 1),
            ("other/in", 1),
            ("$share/g/a/b", 1),
            ("$share/g/a/+", 1),
        ];
        let refused = match version {
            V5 => code::NOT_AUTHORIZED,
            V311 => 0x80,
            // Its SUBACK knows no refusal.
            V31 => 0,
        };
        let codes = client.subscribe_with(&filters, &[]).codes;
        assert_eq!(codes, [2, refused, refused, refused, 1, refused, 1, refused], "{version:?}");
    }
}

/// On every shard, to connected and to absent sessions, at every QoS, retained or not.
#[test]
fn what_may_not_be_read_is_withheld_at_delivery() {
    for shards in [1, 3] {
        let broker = crate::common::broker_with_shards(shards, RULES);
        let mut all = broker.connect(V5, "all");
        all.publish_retained("a/secret", "old", 1);
        all.publish_retained("a/known", "old", 1);
        let mut client = broker.connect_with(&Connect::lasting(V5, "s")).0;
        client.subscribe("a/#", 2);
        client.expect("a/known", "old");
        for qos in 0..=2 {
            all.publish("a/secret", "no", qos);
            all.publish("a/known", "yes", qos);
            client.expect("a/known", "yes");
        }
        client.disconnect();
        all.publish("a/secret", "no", 1);
        all.publish("a/known", "later", 1);
        let mut client = broker.connect_with(&Connect::lasting(V5, "s")).0;
        client.expect("a/known", "later");
        all.publish("a/known", "end", 1);
        client.expect("a/known", "end");
    }
}

#[test]
fn a_will_is_a_message_like_others() {
    let broker = broker(RULES);
    let mut watcher = watcher(&broker);
    for version in VERSIONS {
        let mut denied = broker.open(version);
        denied.send(&Connect::new(version, "p").will(Will::new("b", "will")).bytes());
        denied.expect_refused_connect(&[code::NOT_AUTHORIZED]);
        let allowed = Connect::new(version, "p").will(Will::new("a", "will"));
        broker.connect_with(&allowed).0.hang_up();
        watcher.expect("a", "will");
    }
}

/// Two shards, as [`Broker::reload`] has it.
#[test]
fn who_loses_a_right_loses_the_subscription() {
    let broker = broker(RULES);
    let mut all = broker.connect(V5, "all");
    let mut clients: Vec<Client> = (0..8).map(|n| broker.connect(V5, &format!("c{n}"))).collect();
    broker.reload("[acl]\ndefault = \"allow\"").unwrap();
    for client in &mut clients {
        // The turn of its shard that answers takes the new rules in first.
        client.ping();
        client.subscribe("t/1", 1);
        client.subscribe("t/2", 1);
    }
    all.publish("t/1", "before", 1);
    for client in &mut clients {
        client.expect("t/1", "before");
    }
    let rule = "[acl]\ndefault = \"allow\"\n[[acl.rule]]\neffect = \"deny\"\ntopics = [\"t/1\"]\n\
                action = \"subscribe\"";
    let wrong = broker.reload(&format!("{rule}\n[auth]\npassword_file = \"/nonexistent/file\""));
    assert!(wrong.unwrap_err().contains("/nonexistent/file"));
    all.publish("t/1", "still", 1);
    for client in &mut clients {
        client.expect("t/1", "still");
    }
    broker.reload(rule).unwrap();
    for client in &mut clients {
        client.ping();
    }
    all.publish("t/1", "after", 1);
    all.publish("t/2", "after", 1);
    for client in &mut clients {
        client.expect("t/2", "after");
        assert_eq!(client.unsubscribe(&["t/1"]).codes, [code::NO_SUBSCRIPTION_EXISTED]);
    }
}

#[test]
fn a_session_that_another_user_resumes_keeps_what_that_one_may() {
    let passwords = Passwords::new(&[ALICE, BOB]);
    let rules = "[acl]\ndefault = \"deny\"\n[[acl.group]]\nname = \"g\"\nusers = [\"alice\"]\n\
                 [[acl.rule]]\neffect = \"allow\"\ntopics = [\"%u/#\"]\n\
                 [[acl.rule]]\neffect = \"allow\"\ntopics = [\"group\"]\ngroups = [\"g\"]\n\
                 [[acl.rule]]\neffect = \"allow\"\ntopics = [\"shared\"]\nusers = [\"alice\", \"bob\"]\n";
    let broker = broker(&passwords.toml(rules));
    let connect = Connect::new(V5, "c").resume().with(session_expiry(3600));
    let mut alice = broker.connect_with(&connect.clone().user("alice", "wonderland")).0;
    let filters = [("alice/#", 1), ("group", 1), ("shared", 1), ("bob/#", 1)];
    assert_eq!(alice.subscribe_with(&filters, &[]).codes, [1, 1, 1, code::NOT_AUTHORIZED]);
    alice.publish("shared", "1", 1);
    alice.expect("shared", "1");
    let (mut bob, connack) = broker.connect_with(&connect.user("bob", "builder"));
    assert!(connack.session_present);
    assert_eq!(bob.try_publish(Message::new("alice/x", "2").qos(1)), code::NOT_AUTHORIZED);
    bob.publish("shared", "2", 1);
    bob.expect("shared", "2");
    let none = code::NO_SUBSCRIPTION_EXISTED;
    assert_eq!(bob.unsubscribe(&["alice/#", "group", "shared"]).codes, [none, none, 0]);
}

#[test]
fn a_rule_may_be_for_addresses() {
    for (addresses, may) in [("127.0.0.0/8", true), ("10.0.0.0/8", false)] {
        let rules = format!(
            "[acl]\ndefault = \"deny\"\n[[acl.rule]]\neffect = \"allow\"\ntopics = [\"t\"]\n\
             addresses = [\"{addresses}\"]"
        );
        let broker = broker(&rules);
        let mut client = broker.connect(V5, "c");
        let granted = if may { 1 } else { code::NOT_AUTHORIZED };
        assert_eq!(client.subscribe_with(&[("t", 1)], &[]).codes, [granted], "{addresses}");
    }
}

#[test]
fn a_file_of_mosquitto_is_read_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let (users, acl) = (dir.path().join("users"), dir.path().join("acl"));
    fs::write(&users, format!("{ALICE}{BOB}")).unwrap();
    let text = "topic read news/#\n\nuser alice\ntopic news/#\ntopic deny news/secret\n\n\
                pattern readwrite own/%u/#\n";
    fs::write(&acl, text).unwrap();
    let toml = format!(
        "[auth]\nanonymous = true\npassword_file = {users:?}\n[acl]\nmosquitto_file = {acl:?}"
    );
    let broker = broker(&toml);
    let mut alice = broker.connect_with(&Connect::new(V5, "a").user("alice", "wonderland")).0;
    let mut bob = broker.connect_with(&Connect::new(V5, "b").user("bob", "builder")).0;
    let mut anybody = broker.connect(V5, "c");
    // What stands before the first user is for those who have no name.
    for (client, granted) in [(&mut alice, 1), (&mut bob, code::NOT_AUTHORIZED), (&mut anybody, 1)]
    {
        assert_eq!(client.subscribe_with(&[("news/+", 1)], &[]).codes, [granted]);
    }
    alice.publish("news/secret", "1", 0);
    alice.publish("news/today", "2", 1);
    for client in [&mut alice, &mut anybody] {
        client.expect("news/today", "2");
    }
    assert_eq!(anybody.try_publish(Message::new("news/x", "3").qos(1)), code::NOT_AUTHORIZED);
    assert_eq!(bob.subscribe_with(&[("#", 0)], &[]).codes, [0], "some of it comes from own/bob");
    bob.publish("own/bob/x", "4", 1);
    bob.expect("own/bob/x", "4");
    fs::write(&acl, "topic news\nnonsense\n").unwrap();
    let error = broker.reload(&toml).unwrap_err();
    assert!(error.contains("acl:2: has nothing after"), "{error}");
    bob.publish("own/bob/x", "5", 1);
    bob.expect("own/bob/x", "5");
}
