//! In steady state a shard allocates nothing for a QoS 0 message within it, nor to choose among the shards with
//! members of a shared group.

use sluice::mqtt::topic::Filter;
use sluice::router::{
    GroupCount, GroupId, GroupLoad, Publisher, Router, RouterLimits, Strategy, SubscriptionOptions,
};

use crate::client::{Client, V5, V311, Version, broker, publish};
use crate::counting::{Counted, Watch, alone};

const PAYLOAD: [u8; 64] = [b'.'; 64];
/// Messages sent at once, at most.
const BURST: usize = 64;
/// Of one message and one burst, after as many to warm up.
const ROUNDS: usize = 50;

/// User Property "name" "value".
const USER_PROPERTY: &[u8] = b"\x26\x00\x04name\x00\x05value";
/// Message Expiry Interval of 60 s.
const EXPIRY: &[u8] = b"\x02\x00\x00\x00\x3C";
/// Topic Alias 1.
const ALIAS: &[u8] = b"\x23\x00\x01";
/// Topic Alias Maximum 5.
const ALIAS_MAXIMUM: &[u8] = b"\x22\x00\x05";
/// Session Expiry Interval of 60 s.
const SESSION_EXPIRY: &[u8] = b"\x11\x00\x00\x00\x3C";
/// Subscription Identifier 9.
const IDENTIFIER: &[u8] = b"\x0B\x09";

const DISCONNECT: [u8; 2] = [0xE0, 0];
const PINGREQ: [u8; 2] = [0xC0, 0];
const PINGRESP: u8 = 0xD0;

/// Who receives.
#[derive(Clone, Copy)]
struct Receivers<'a> {
    count: usize,
    version: Version,
    connect: &'a [u8],
    subscribe: &'a [u8],
    filter: &'a str,
    rounds: usize,
}

const ONE: Receivers<'_> = Receivers {
    count: 1,
    version: V311,
    connect: &[],
    subscribe: &[],
    filter: "a/b/c",
    rounds: ROUNDS,
};

/// Sends the messages of `frames` round and round, first one and then a burst, and counts what the shard
/// allocates.
#[track_caller]
fn no_allocations(version: Version, first: &[u8], frames: &[Vec<u8>], receivers: Receivers<'_>) {
    let turn = alone();
    let broker = broker(1, "");
    let address = broker.addresses()[0];
    let mut subscribers: Vec<_> = (0..receivers.count)
        .map(|n| {
            let Receivers { version, connect, .. } = receivers;
            let mut client = Client::connect_with(address, version, &format!("s{n}"), connect);
            client.subscribe(receivers.filter, 0, receivers.subscribe);
            client
        })
        .collect();
    let mut publisher = Client::connect(address, version, "p");
    if !first.is_empty() {
        publisher.send(first);
        subscribers.iter_mut().for_each(|client| {
            client.publishes(1);
        });
    }
    let burst: Vec<u8> = frames.iter().cycle().take(BURST).flatten().copied().collect();
    let mut rounds = || {
        for _ in 0..receivers.rounds {
            for (bytes, messages) in [(&frames[0], 1), (&burst, BURST)] {
                publisher.send(bytes);
                subscribers.iter_mut().for_each(|client| {
                    client.publishes(messages);
                });
            }
        }
    };
    rounds();
    let watch = Watch::begin(&turn, true);
    rounds();
    nothing(&watch.end(), receivers.rounds * (BURST + 1));
    assert_eq!(broker.stop(), Ok(()));
}

/// QoS 0 for a session that is not connected is dropped; so nobody needs a message of its own.
#[test]
fn a_receiver_that_is_absent() {
    let turn = alone();
    let broker = broker(1, "");
    let address = broker.addresses()[0];
    let mut absent = Client::connect_with(address, V5, "s", SESSION_EXPIRY);
    absent.subscribe("a/b/c", 0, IDENTIFIER);
    absent.send(&DISCONNECT);
    let mut publisher = Client::connect(address, V5, "p");
    let mut rounds = || {
        for _ in 0..ROUNDS {
            publisher.send(&plain(V5)[0]);
            publisher.send(&publish(V5, "a/b/c", None, ALIAS, &PAYLOAD));
            publisher.send(&PINGREQ);
            assert_eq!(publisher.packet()[0], PINGRESP);
        }
    };
    rounds();
    let watch = Watch::begin(&turn, true);
    rounds();
    nothing(&watch.end(), 2 * ROUNDS);
    assert_eq!(broker.stop(), Ok(()));
}

#[track_caller]
fn nothing(counted: &Counted, messages: usize) {
    let Counted { allocations, first_stack, .. } = counted;
    let stack = first_stack.as_ref().map(ToString::to_string).unwrap_or_default();
    assert_eq!(*allocations, 0, "for {messages} messages; the first at\n{stack}");
}

fn plain(version: Version) -> Vec<Vec<u8>> {
    vec![publish(version, "a/b/c", None, &[], &PAYLOAD)]
}

#[test]
fn v311_to_v311() {
    no_allocations(V311, &[], &plain(V311), ONE);
}

#[test]
fn v5_to_v5() {
    no_allocations(V5, &[], &plain(V5), Receivers { version: V5, ..ONE });
}

#[test]
fn v311_to_v5() {
    no_allocations(V311, &[], &plain(V311), Receivers { version: V5, ..ONE });
}

#[test]
fn v5_to_v311() {
    let frames = [publish(V5, "a/b/c", None, USER_PROPERTY, &PAYLOAD)];
    no_allocations(V5, &[], &frames, ONE);
}

#[test]
fn v5_with_user_properties() {
    let frames = [publish(V5, "a/b/c", None, USER_PROPERTY, &PAYLOAD)];
    no_allocations(V5, &[], &frames, Receivers { version: V5, ..ONE });
}

#[test]
fn v5_with_an_expiry_between_user_properties() {
    let properties = [USER_PROPERTY, EXPIRY, USER_PROPERTY].concat();
    let frames = [publish(V5, "a/b/c", None, &properties, &PAYLOAD)];
    no_allocations(V5, &[], &frames, Receivers { version: V5, ..ONE });
}

#[test]
fn v5_with_a_publishers_topic_alias() {
    let first = publish(V5, "a/b/c", None, ALIAS, &PAYLOAD);
    let by_alias = publish(V5, "", None, ALIAS, &PAYLOAD);
    for version in [V5, V311] {
        let receivers = Receivers { version, ..ONE };
        no_allocations(V5, &first, &[by_alias.clone(), first.clone()], receivers);
    }
}

#[test]
fn v5_with_a_subscribers_topic_alias() {
    let receivers = Receivers { version: V5, connect: ALIAS_MAXIMUM, ..ONE };
    no_allocations(V5, &[], &plain(V5), receivers);
    no_allocations(V311, &[], &plain(V311), receivers);
    let first = publish(V5, "a/b/c", None, ALIAS, &PAYLOAD);
    let by_alias = publish(V5, "", None, &[ALIAS, USER_PROPERTY].concat(), &PAYLOAD);
    no_allocations(V5, &first, &[by_alias], receivers);
}

#[test]
fn v5_with_a_subscription_identifier() {
    let receivers = Receivers { version: V5, subscribe: IDENTIFIER, ..ONE };
    no_allocations(V5, &[], &plain(V5), receivers);
    no_allocations(V311, &[], &plain(V311), receivers);
}

#[test]
fn a_shared_subscription() {
    for version in [V311, V5] {
        let receivers = Receivers { version, filter: "$share/group/a/+/c", ..ONE };
        no_allocations(version, &[], &plain(version), receivers);
    }
}

/// A group with a member on each of many shards.
fn group_on_many_shards(strategy: Strategy) -> (Router, GroupId) {
    const SHARDS: u8 = 20;
    let limits = RouterLimits { strategy, ..RouterLimits::default() };
    let mut router = Router::new(9, SHARDS, 1, limits);
    let (share, filter) = ("group".to_owned(), "a/+/c".to_owned());
    let both = Filter { share: Some(&share), filter: &filter };
    router.subscribe(0, &both, SubscriptionOptions::default());
    let load = (strategy == Strategy::LeastInFlight).then(GroupLoad::default);
    let id = GroupId::NONE;
    let one = GroupCount { share, filter, id, online: 1, members: 1, since: 9, load };
    for shard in (0..SHARDS).filter(|shard| *shard != 9) {
        router.set_group_online(shard, &one);
    }
    let group = router.group("group", "a/+/c").expect("it has a member");
    (router, group)
}

#[test]
fn a_shared_group_on_many_shards() {
    use Strategy::{ClientId, LeastInFlight, Random, RoundRobin, Sticky, Topic};
    let turn = alone();
    let choose_with = |strategy| {
        let (mut router, group) = group_on_many_shards(strategy);
        let mut choose = || {
            let publisher = Publisher::default();
            assert!(router.choose_shard(group, &publisher).is_some());
            assert!(router.choose_other_shard(group, &publisher).is_some());
        };
        choose();
        let watch = Watch::begin(&turn, true);
        (0..ROUNDS).for_each(|_| choose());
        nothing(&watch.end(), ROUNDS);
    };
    let choose_with_each = || {
        for strategy in [RoundRobin, Random, LeastInFlight, Sticky, ClientId, Topic] {
            choose_with(strategy);
        }
    };
    // What other threads allocate is not counted.
    std::thread::scope(|scope| {
        let shard = std::thread::Builder::new().name("shard-0".to_owned());
        let shard = shard.spawn_scoped(scope, choose_with_each).expect("a thread");
        shard.join().expect("it allocates nothing");
    });
}

#[test]
fn a_fan_out_to_20() {
    for version in [V311, V5] {
        let receivers = Receivers { version, count: 20, ..ONE };
        no_allocations(V311, &[], &plain(V311), receivers);
    }
}

#[test]
fn a_fan_out_to_500() {
    no_allocations(V311, &[], &plain(V311), Receivers { count: 500, rounds: 5, ..ONE });
}

#[test]
fn one_topic_after_another() {
    let frames: Vec<_> =
        (0..50).map(|n| publish(V311, &format!("a/{n}/c"), None, &[], &PAYLOAD)).collect();
    no_allocations(V311, &[], &frames, Receivers { filter: "a/+/c", ..ONE });
}

/// Every read ends within a frame, of more publishers at the same time than most brokers have.
#[test]
fn frames_in_two_pieces() {
    const PUBLISHERS: usize = 100;
    let turn = alone();
    let broker = broker(1, "");
    let address = broker.addresses()[0];
    let mut subscriber = Client::connect(address, V311, "s");
    subscriber.subscribe("a/b/c", 0, &[]);
    let mut publishers: Vec<_> =
        (0..PUBLISHERS).map(|n| Client::connect(address, V311, &format!("p{n}"))).collect();
    let frame = publish(V311, "a/b/c", None, &[], &PAYLOAD);
    let (head, tail) = frame.split_at(30);
    publishers.iter_mut().for_each(|client| client.send(head));
    // What ends one frame begins the next.
    let piece = [tail, head].concat();
    let mut rounds = || {
        for _ in 0..30 {
            publishers.iter_mut().for_each(|client| client.send(&piece));
            subscriber.publishes(PUBLISHERS);
        }
    };
    let mut counted = || {
        rounds();
        let watch = Watch::begin(&turn, true);
        rounds();
        watch.end()
    };
    // The machine says how many are ready at a time, and there is a place for each of the most so far.
    let mut last = counted();
    for _ in 0..PUBLISHERS.ilog2() {
        if last.allocations > 0 {
            last = counted();
        }
    }
    nothing(&last, 30 * PUBLISHERS);
    assert_eq!(broker.stop(), Ok(()));
}
