//! What a client may publish in a second, and what listeners and users get: over it a client waits, and
//! loses nothing.

use std::time::{Duration, Instant};

use crate::common::client::subscribe;
use crate::common::connect::Connect;
use crate::common::message::Message;
use crate::common::{Client, Packet, V5, V311, Version, code, fixture, property, wire};
use crate::rig::{Rig, packets, pubacks};

const PING: [u8; 2] = [wire::PINGREQ, 0];

/// A publisher, and a subscriber of "t".
fn pair(rig: &mut Rig, publisher: &Connect) -> [sluice::net::sim::ClientId; 2] {
    let subscriber = rig.connect(&Connect::new(V311, "subscriber"));
    rig.send(subscriber, &subscribe(V311, 1, &[("t", 0)], &[]));
    rig.receive(subscriber);
    [rig.connect(publisher), subscriber]
}

fn messages(count: usize) -> Vec<u8> {
    Message::new("t", "x").bytes(V311).repeat(count)
}

/// How many messages have come.
fn came(rig: &mut Rig, client: sluice::net::sim::ClientId) -> usize {
    let bytes = rig.receive(client);
    packets(&bytes, V311).iter().filter(|packet| matches!(packet, Packet::Publish(_))).count()
}

/// `publish_messages_per_second`: a burst at once, the rest at the rate, and in order with what else the
/// client sends; it is not taken for dead meanwhile [MQTT-3.1.2-22].
#[test]
fn a_client_that_publishes_too_much_is_read_no_faster_than_it_may() {
    let mut rig = Rig::new(1, "[limits]\npublish_messages_per_second = 10");
    let connect = Connect::new(V311, "publisher").keep_alive(1);
    let [publisher, subscriber] = pair(&mut rig, &connect);
    rig.world.advance(Duration::from_millis(500));
    rig.send(publisher, &[&messages(45)[..], &PING].concat());
    assert_eq!(came(&mut rig, subscriber), 10);
    let mut all = 10;
    for _ in 0..34 {
        rig.world.advance(Duration::from_millis(100));
        assert_eq!(came(&mut rig, subscriber), 1);
        all += 1;
        assert!(rig.take(publisher).is_empty(), "PINGREQ is behind them");
    }
    rig.world.advance(Duration::from_millis(200));
    assert_eq!(all + came(&mut rig, subscriber), 45);
    assert_eq!(rig.receive(publisher), [wire::PINGRESP, 0]);
    // What it saves up is no more than a burst.
    rig.send(publisher, &PING);
    rig.world.advance(Duration::from_millis(1400));
    rig.send(publisher, &[&messages(15)[..], &PING].concat());
    assert_eq!(came(&mut rig, subscriber), 10);
}

/// Who comes again goes on with what it had left, whether it left or took itself over; another has its own.
#[test]
fn to_come_again_fills_no_bucket() {
    let mut rig = Rig::new(2, "[limits]\npublish_messages_per_second = 10");
    let connect = Connect::new(V311, "publisher");
    let [mut publisher, subscriber] = pair(&mut rig, &connect);
    rig.send(publisher, &messages(10));
    assert_eq!(came(&mut rig, subscriber), 10);
    for takes_over in [false, true] {
        if !takes_over {
            rig.world.client_close(publisher);
            rig.turns(4);
        }
        publisher = rig.connect(&connect);
        rig.send(publisher, &messages(10));
        assert_eq!(came(&mut rig, subscriber), 0);
        rig.world.advance(Duration::from_millis(100));
        assert_eq!(came(&mut rig, subscriber), 1);
    }
    let other = rig.connect(&Connect::new(V311, "other"));
    rig.send(other, &messages(10));
    assert_eq!(came(&mut rig, subscriber), 10);
}

/// `publish_bytes_per_second`, of all, a listener or a user: a packet is taken whole, and paid for afterwards.
#[test]
fn bytes_are_limited_too() {
    let limits = "publish_bytes_per_second = \"1000B\"\npublish_burst = \"2s\"";
    let quota = "[[quota]]\nusers = [\"ann\"]";
    for of in ["[limits]", "[[listener]]\nbind = \"127.0.0.1:0\"\n[listener.limits]", quota] {
        let mut rig = Rig::new(1, &format!("{of}\n{limits}"));
        let connect = Connect::new(V311, "publisher").user("ann", "secret");
        let [publisher, subscriber] = pair(&mut rig, &connect);
        let large = Message::new("t", "x".repeat(100_000)).bytes(V311);
        rig.send(publisher, &large);
        assert_eq!(came(&mut rig, subscriber), 1);
        rig.send(publisher, &messages(1));
        rig.world.advance(Duration::from_millis(97_900));
        assert_eq!(came(&mut rig, subscriber), 0, "{of}");
        rig.world.advance(Duration::from_millis(300));
        assert_eq!(came(&mut rig, subscriber), 1, "{of}");
    }
}

/// Acknowledged messages are delayed, and all of them arrive.
#[test]
fn no_acknowledged_message_is_lost_on_the_way() {
    let mut rig = Rig::new(2, "[limits]\npublish_messages_per_second = 100");
    let [publisher, subscriber] = pair(&mut rig, &Connect::new(V311, "publisher"));
    for id in 1..=250 {
        let message = Message::new("t", "x").qos(1).id(id).bytes(V311);
        rig.world.client_send(publisher, &message).expect("there is room");
    }
    rig.turns(4);
    let mut acknowledged = Vec::new();
    let mut all = 0;
    for second in 1..=3 {
        acknowledged.extend(pubacks(&rig.receive(publisher), V311));
        all += came(&mut rig, subscriber);
        assert_eq!((acknowledged.len(), all), ((second * 100).min(250), (second * 100).min(250)));
        rig.world.advance(Duration::from_secs(1));
    }
    assert!(acknowledged.iter().map(|(id, _)| *id).eq(1..=250));
}

/// What follows CONNECT at once is limited as what comes later.
#[test]
fn what_comes_with_connect_counts() {
    let mut rig = Rig::new(1, "[limits]\npublish_messages_per_second = 10");
    let [_, subscriber] = pair(&mut rig, &Connect::new(V311, "publisher"));
    let client = rig.world.connect();
    rig.send(client, &[Connect::new(V311, "hasty").bytes(), messages(30)].concat());
    rig.turns(4);
    assert_eq!(came(&mut rig, subscriber), 10);
    rig.world.advance(Duration::from_secs(1));
    assert_eq!(came(&mut rig, subscriber), 10);
}

/// A quota goes before the limits for all, and `*` is for users that none names; who gives no user name has none.
#[test]
fn a_user_has_its_own_rate() {
    let quota = |users: &str, rate: &str| {
        format!("[[quota]]\nusers = [{users}]\npublish_messages_per_second = {rate}\n")
    };
    let quotas = [quota("\"gateway\"", "\"unlimited\""), quota("\"*\"", "20")].concat();
    let mut rig = Rig::new(2, &format!("[limits]\npublish_messages_per_second = 5\n{quotas}"));
    for (name, user, most) in [
        ("a", Some("gateway"), 50),
        ("b", Some("somebody"), 20),
        ("c", Some("another"), 20),
        ("d", None, 5),
    ] {
        let connect = Connect::new(V311, name);
        let connect = user.iter().fold(connect, |connect, user| connect.user(user, "p"));
        let [publisher, subscriber] = pair(&mut rig, &connect);
        rig.send(publisher, &messages(50));
        assert_eq!(came(&mut rig, subscriber), most, "{name}");
    }
}

/// The publishers of messages that have come, by their payloads.
fn came_from(rig: &mut Rig, client: sluice::net::sim::ClientId) -> [usize; 3] {
    let mut counts = [0; 3];
    for packet in packets(&rig.receive(client), V311) {
        if let Packet::Publish(publish) = packet {
            counts[usize::from(publish.payload[0] - b'0')] += 1;
        }
    }
    counts
}

/// Each that has to wait has its turn, on whichever shards they are.
#[test]
fn the_clients_of_a_user_share_its_rate() {
    let quota = "[[quota]]\nusers = [\"ann\", \"bob\"]\npublish_messages_per_second = 30";
    let mut rig = Rig::new(3, quota);
    let names = [0, 1, 2].map(|shard| rig.name_at(shard, "publisher"));
    let ann = |name: &str| Connect::new(V311, name).user("ann", "p");
    let [first, subscriber] = pair(&mut rig, &ann(&names[0]));
    let clients = [first, rig.connect(&ann(&names[1])), rig.connect(&ann(&names[2]))];
    for (n, client) in clients.iter().enumerate() {
        rig.send(*client, &Message::new("t", n.to_string()).bytes(V311).repeat(200));
    }
    let burst = came_from(&mut rig, subscriber);
    assert_eq!(burst.iter().sum::<usize>(), 30, "{burst:?}");
    let all_in = |rig: &mut Rig, steps: usize| {
        let mut all = [0; 3];
        for step in 0..steps {
            rig.world.advance(Duration::from_millis(100));
            let came = came_from(rig, subscriber);
            assert_eq!(came.iter().sum::<usize>(), 3, "{came:?} in step {step}");
            all.iter_mut().zip(came).for_each(|(all, came)| *all += came);
        }
        all
    };
    assert_eq!(all_in(&mut rig, 20), [20; 3]);
    // What it has paid for is given back.
    rig.connect(&ann(&names[2]));
    let [one, two, gone] = all_in(&mut rig, 10);
    assert!(one >= 10 && two >= 10 && gone == 0, "{one} {two} {gone}");
    // Another of its clients finds what these leave, and another user has its own.
    for (user, most) in [("ann", 0), ("bob", 30)] {
        let other = rig.connect(&Connect::new(V311, &format!("of-{user}")).user(user, "p"));
        rig.send(other, &Message::new("t", "2").bytes(V311).repeat(50));
        assert_eq!(came_from(&mut rig, subscriber)[2], most, "{user}");
    }
}

/// Who waits for its user's bucket and goes has not taken anything of its own either.
#[test]
fn who_does_not_wait_gets_back_what_it_paid() {
    let limits = "[limits]\npublish_bytes_per_second = \"1000B\"\n\
                  [[quota]]\nusers = [\"ann\"]\npublish_messages_per_second = 100";
    let mut rig = Rig::new(2, limits);
    let connect = Connect::new(V311, "publisher").user("ann", "p");
    let [mut publisher, subscriber] = pair(&mut rig, &connect);
    let large = Message::new("t", "x".repeat(10_000)).bytes(V311);
    rig.send(publisher, &large);
    assert_eq!(came(&mut rig, subscriber), 1);
    for _ in 0..3 {
        rig.send(publisher, &large);
        rig.world.advance(Duration::from_secs(1));
        assert_eq!(came(&mut rig, subscriber), 0);
        rig.world.client_close(publisher);
        rig.turns(4);
        publisher = rig.connect(&connect);
    }
    rig.send(publisher, &large);
    rig.world.advance(Duration::from_millis(5_900));
    assert_eq!(came(&mut rig, subscriber), 0);
    rig.world.advance(Duration::from_millis(300));
    assert_eq!(came(&mut rig, subscriber), 1, "10 s for the one that came, less the burst");
}

/// A message that is an error was none: nobody pays for it, whether it had to wait or not.
#[test]
fn an_error_costs_nothing() {
    let limits = "[limits]\npublish_bytes_per_second = \"1000B\"\n\
                  [[quota]]\nusers = [\"ann\"]\npublish_messages_per_second = 10";
    // A topic with a wildcard [MQTT-3.3.2-2].
    let wrong = Message::new("t/#", "x".repeat(2_000)).bytes(V311);
    for before in [0, 10] {
        let mut rig = Rig::new(2, limits);
        let ann = |name: &str| Connect::new(V311, name).user("ann", "p");
        let [publisher, subscriber] = pair(&mut rig, &ann("publisher"));
        rig.send(publisher, &messages(before));
        assert_eq!(came(&mut rig, subscriber), before);
        rig.send(publisher, &wrong);
        rig.world.advance(Duration::from_secs(1));
        rig.turns(4);
        assert!(rig.world.client_end(publisher).is_some());
        let publisher = rig.connect(&ann("publisher"));
        rig.send(publisher, &messages(20));
        assert_eq!(came(&mut rig, subscriber), 10, "after {before}");
    }
}

/// `quota.publish_bytes_per_second`, beside a limit that each client has for itself.
#[test]
fn a_user_may_publish_so_many_bytes() {
    let quota = "[limits]\npublish_messages_per_second = 5\n\
                 [[quota]]\nusers = [\"ann\"]\npublish_bytes_per_second = \"100B\"";
    let mut rig = Rig::new(2, quota);
    let names = [0, 1].map(|shard| rig.name_at(shard, "publisher"));
    let ann = |name: &str| Connect::new(V311, name).user("ann", "p");
    let [first, subscriber] = pair(&mut rig, &ann(&names[0]));
    let second = rig.connect(&ann(&names[1]));
    // Of 20 bytes each.
    let message = |n: &str, count| Message::new("t", n.repeat(15)).bytes(V311).repeat(count);
    rig.send(first, &message("0", 3));
    rig.send(second, &message("1", 5));
    assert_eq!(came_from(&mut rig, subscriber), [3, 2, 0]);
    rig.world.advance(Duration::from_secs(2));
    assert_eq!(came_from(&mut rig, subscriber), [0, 3, 0]);
    rig.send(second, &message("1", 2));
    assert_eq!(came_from(&mut rig, subscriber), [0, 2, 0], "the bucket is full again");
}

/// `quota.max_connections` counts over all shards: one more gets 0x97, in 3.x return code 3. A client that
/// comes again takes the place of itself.
#[test]
fn a_user_has_so_many_connections() {
    let mut rig = Rig::new(3, "[[quota]]\nusers = [\"alice\", \"bob\"]\nmax_connections = 3");
    let of = |version: Version, name: String, user| Connect::new(version, &name).user(user, "p");
    let clients: Vec<_> = (0..3)
        .map(|n| answer(&mut rig, &of(V5, format!("alice-{n}"), "alice")))
        .inspect(|(_, code)| assert_eq!(*code, 0))
        .collect();
    for (version, refusal) in [(V5, code::QUOTA_EXCEEDED), (V311, 3)] {
        for n in 3..9 {
            let connect = of(version, format!("alice-{n}"), "alice");
            assert_eq!(answer(&mut rig, &connect).1, refusal);
        }
    }
    assert_eq!(answer(&mut rig, &of(V5, "bob".to_owned(), "bob")).1, 0);
    assert_eq!(answer(&mut rig, &Connect::new(V5, "nobody")).1, 0);
    let (again, taken_over) = answer(&mut rig, &of(V5, "alice-0".to_owned(), "alice"));
    assert_eq!(taken_over, 0);
    assert_eq!(answer(&mut rig, &of(V5, "alice-3".to_owned(), "alice")).1, code::QUOTA_EXCEEDED);
    for gone in [again, clients[2].0] {
        rig.world.client_close(gone);
    }
    rig.turns(4);
    for (n, refusal) in [(4, 0), (5, 0), (6, code::QUOTA_EXCEEDED)] {
        assert_eq!(answer(&mut rig, &of(V5, format!("alice-{n}"), "alice")).1, refusal);
    }
}

/// `[listener.limits]`: CONNACK states what is in force where the client is [MQTT-3.2.2-15]
/// [MQTT-3.2.2-21], and it is.
#[test]
fn a_listener_has_its_own_limits() {
    let limits = "[listener.limits]\nmax_packet_size = \"1KiB\"\nmax_keep_alive = \"60s\"\n\
                  publish_messages_per_second = 5\n[[listener]]\nbind = \"127.0.0.1:0\"";
    let config = fixture::config(2, limits, "[mqtt]\nmax_keep_alive = \"100s\"");
    let broker = sluice::Broker::start(config).expect("the broker starts");
    let addresses = broker.addresses().to_vec();
    let terms = [(1024, 60), (1024 * 1024, 100)];
    for (address, (packet_size, keep_alive)) in addresses.iter().zip(terms) {
        for n in 0..4 {
            let connect = Connect::new(V5, &format!("client-{n}")).keep_alive(0);
            let (_, connack) = Client::connect(*address, &connect);
            let stated = |name| connack.properties.number(name);
            assert_eq!(stated(property::MAXIMUM_PACKET_SIZE), Some(packet_size));
            assert_eq!(stated(property::SERVER_KEEP_ALIVE), Some(keep_alive));
        }
    }
    let [mut small, mut large] = [0, 1].map(|index: usize| {
        Client::connect(addresses[index], &Connect::new(V5, &format!("c-{index}"))).0
    });
    large.subscribe("t", 0);
    large.publish("t", "x".repeat(1100), 1);
    large.expect("t", "x".repeat(1100));
    let start = Instant::now();
    for _ in 0..8 {
        small.publish("t", "x", 1);
        large.expect("t", "x");
    }
    assert!(start.elapsed() > Duration::from_millis(500), "8 at 5 a second");
    small.send(&[wire::PUBLISH, 0xFE, 0x07]);
    small.expect_disconnect(&[code::PACKET_TOO_LARGE]);
}

/// `listener.limits.connections_per_second`: those beyond wait, and hold up no other listener.
#[test]
fn a_listener_has_its_own_connection_rate() {
    for (shards, rate, count) in [(1, 10, 25), (3, 10, 25), (3, 2, 5)] {
        let limits = format!(
            "[listener.limits]\nconnections_per_second = {rate}\n[[listener]]\nbind = \"127.0.0.1:0\""
        );
        let broker = sluice::Broker::start(fixture::config(shards, &limits, "")).unwrap();
        let [slow, fast] = [0, 1].map(|index: usize| broker.addresses()[index]);
        let start = Instant::now();
        let mut clients: Vec<Client> = (0..count).map(|_| Client::open(slow, V311)).collect();
        for (n, client) in clients.iter_mut().enumerate() {
            client.send(&Connect::new(V311, &format!("slow-{n}")).bytes());
        }
        let others = Instant::now();
        for n in 0..40 {
            assert_eq!(Client::connect(fast, &Connect::new(V311, &format!("fast-{n}"))).1.code, 0);
        }
        let fast = others.elapsed();
        for client in &mut clients {
            assert_eq!(client.connack().code, code::SUCCESS);
        }
        let took = start.elapsed();
        let all = format!("{count} in {took:?} at {rate} a second on {shards} shards");
        assert!(took >= Duration::from_millis(990), "{all}");
        assert!(fast < took, "40 others in {fast:?}");
    }
}

/// What CONNECT is answered with.
fn answer(rig: &mut Rig, connect: &Connect) -> (sluice::net::sim::ClientId, u8) {
    let client = rig.world.connect();
    rig.send(client, &connect.bytes());
    rig.turns(4);
    match packets(&rig.receive(client), connect.version).first() {
        Some(Packet::ConnAck(connack)) => (client, connack.code),
        other => panic!("CONNACK expected, got {other:?}"),
    }
}

/// What a listener takes changes while the broker runs, for those who connect then.
#[test]
fn limits_of_a_listener_are_read_again() {
    let listener = |most: u32, size: &str| {
        format!(
            "defer_accept = false\nmax_connections = {most}\n[listener.limits]\nmax_packet_size = \"{size}\""
        )
    };
    let broker = fixture::broker_with_listener(2, &listener(1, "16KiB"), "");
    let mut clients = Vec::new();
    for (most, size) in [(1, 16), (2, 8)] {
        broker.reload_with_listener(&listener(most, &format!("{size}KiB")), "").unwrap();
        let (client, connack) = broker.connect_with(&Connect::new(V5, &format!("c{most}")));
        let told = connack.properties.number(property::MAXIMUM_PACKET_SIZE);
        assert_eq!(told, Some(size << 10));
        clients.push(client);
        broker.open(V5).expect_closed();
    }
    for client in &mut clients {
        client.ping();
    }
}

/// What users get, too.
#[test]
fn quotas_are_read_again() {
    let quota = |most: u32| format!("[[quota]]\nusers = [\"ann\"]\nmax_connections = {most}");
    let mut rig = Rig::new(2, &quota(1));
    let connect = |n: u32| Connect::new(V5, &format!("c{n}")).user("ann", "secret");
    for most in 1..4 {
        rig.change(&quota(most));
        assert_eq!(answer(&mut rig, &connect(most)).1, 0);
        assert_eq!(answer(&mut rig, &connect(9)).1, code::QUOTA_EXCEEDED);
    }
}

/// `max_turn`: a shard whose turns take too long refuses new clients with 0x89, in 3.x return code 3, and
/// serves those it has; it lets them in again when turns take half as long.
#[test]
fn who_comes_is_refused_when_turns_take_long() {
    let mut rig = Rig::new(2, "[limits]\nmax_turn = \"100ms\"");
    let [publisher, subscriber] = pair(&mut rig, &Connect::new(V311, "publisher"));
    let pass = |rig: &mut Rig, turn: u64| {
        let turn = Duration::from_millis(turn);
        rig.world.set_turn(turn);
        for _ in 0..40 {
            rig.world.advance(turn);
            rig.turns(1);
        }
    };
    for (turn, refused) in [(90, false), (120, true), (60, true), (40, false), (60, false)] {
        pass(&mut rig, turn);
        for (version, refusal) in [(V5, code::SERVER_BUSY), (V311, 3)] {
            for n in 0..4 {
                let connect = Connect::new(version, &format!("{turn}-{n}"));
                assert_eq!(answer(&mut rig, &connect).1, if refused { refusal } else { 0 });
            }
        }
        rig.send(publisher, &messages(3));
        assert_eq!(came(&mut rig, subscriber), 3);
    }
}

/// Before the handshake of TLS there is no word for it, and to get there would cost the time that is short:
/// the connection is closed.
#[test]
fn who_comes_over_tls_is_closed_when_turns_take_long() {
    let plain = "[[listener]]\nbind = \"127.0.0.1:0\"";
    let tls: &str = &format!("{plain}\n[listener.tls]\ncertificate = \"c.pem\"\nkey = \"c.key\"");
    for (listener, turn, stays) in [(tls, 90, true), (tls, 120, false), (plain, 120, true)] {
        let mut rig = Rig::new(2, &format!("[limits]\nmax_turn = \"100ms\"\n{listener}"));
        let turn = Duration::from_millis(turn);
        rig.world.set_turn(turn);
        for _ in 0..40 {
            rig.world.advance(turn);
            rig.turns(1);
        }
        let clients: Vec<_> = (0..4).map(|_| rig.world.connect()).collect();
        rig.turns(4);
        for client in clients {
            assert!(rig.take(client).is_empty(), "nothing is said");
            assert_eq!(rig.world.client_end(client).is_none(), stays, "{listener} {turn:?}");
        }
    }
}

/// `max_memory`: when the process has more, new clients are refused with 0x97, in 3.x return code 3.
#[test]
fn who_comes_is_refused_when_memory_is_short() {
    let mut rig = Rig::new(2, "[limits]\nmax_memory = \"1MiB\"");
    let early = rig.connect(&Connect::new(V311, "early"));
    rig.world.advance(Duration::from_secs(1));
    rig.turns(2);
    for (version, refusal) in [(V5, code::QUOTA_EXCEEDED), (V311, 3)] {
        assert_eq!(answer(&mut rig, &Connect::new(version, "late")).1, refusal);
    }
    rig.send(early, &PING);
    assert_eq!(rig.receive(early), [wire::PINGRESP, 0]);
}

/// The client whose queue takes the memory is the one who can free it, wherever it comes in.
#[test]
fn who_has_messages_waiting_is_let_in_when_memory_is_short() {
    let mut rig = Rig::new(2, "[limits]\nmax_memory = \"1MiB\"");
    let names = [0, 1].map(|shard| rig.name_at(shard, "queue"));
    for name in &names {
        let client = rig.connect(&Connect::lasting(V311, name));
        rig.send(client, &subscribe(V311, 1, &[(name, 1)], &[]));
        rig.turns(4);
        rig.world.client_close(client);
    }
    let early = rig.connect(&Connect::new(V311, "early"));
    rig.send(early, &Message::new(&names[0], "kept").qos(1).id(1).bytes(V311));
    rig.turns(4);
    rig.receive(early);
    rig.world.advance(Duration::from_secs(1));
    rig.turns(2);
    for clean in [false, true] {
        let connect = |name: &str| match clean {
            false => Connect::lasting(V311, name),
            true => Connect::new(V311, name),
        };
        assert_eq!(answer(&mut rig, &connect(&names[1])).1, 3, "nothing waits for it");
        assert_eq!(answer(&mut rig, &connect(&names[0])).1, 0);
    }
    assert_eq!(answer(&mut rig, &Connect::new(V311, "")).1, 3);
}
