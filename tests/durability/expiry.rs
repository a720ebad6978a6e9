//! [MQTT-3.3.2-5] What has expired in the queue of a client that is away leaves the disk, whether the broker runs
//! meanwhile or not, and makes room for others. Two messages of a queue are in memory, or all.

use std::time::{Duration, Instant};

use crate::clients;
use crate::common::property::message_expiry;
use crate::common::{Client, Connect, Message, V5, code, let_pass};
use crate::offline::store;
use crate::process::Broker;

const QUEUE: u32 = 20;

const PAGED: &[(&str, &str)] =
    &[("SLUICE_QUEUE_MAX_MESSAGES", "20"), ("SLUICE_SYS_INTERVAL", "1s")];
const IN_MEMORY: &[(&str, &str)] = &[
    ("SLUICE_QUEUE_MAX_MESSAGES", "20"),
    ("SLUICE_SYS_INTERVAL", "1s"),
    ("SLUICE_QUEUE_IN_MEMORY", "20"),
];

/// Runs a test for each engine, with a part of the queue in memory and with all of it.
macro_rules! everywhere {
    ($test:ident) => {
        mod $test {
            use super::*;

            #[test]
            fn fjall_in_memory() {
                super::$test(away("fjall", IN_MEMORY));
            }

            #[test]
            fn fjall_paged() {
                super::$test(away("fjall", PAGED));
            }

            #[test]
            fn sqlite_paged() {
                super::$test(away("sqlite", PAGED));
            }
        }
    };
}

/// A broker with a client that is away.
fn away(engine: &'static str, settings: &'static [(&'static str, &'static str)]) -> Broker {
    let broker = Broker::start_set(engine, 2, settings);
    clients::away(&broker, "away", "t");
    broker
}

fn brief(publisher: &mut Client, numbers: std::ops::Range<u32>) {
    let message = |n: u32| Message::new("t", n.to_string()).qos(1).with(message_expiry(1));
    // All of them before the first expires.
    let sent: Vec<_> = numbers.map(|n| publisher.start_publish(message(n))).collect();
    for id in sent {
        assert_eq!(publisher.wait_puback(id).code, code::SUCCESS);
    }
}

fn lasting(publisher: &mut Client, numbers: std::ops::Range<u32>) {
    for n in numbers {
        assert_eq!(publisher.try_publish(Message::new("t", n.to_string()).qos(1)), 0, "{n}");
    }
}

/// Waits until so many have been dropped because they expired; never more.
fn wait_expired(publisher: &mut Client, count: u32) {
    publisher.subscribe("$SYS/broker/publish/messages/dropped/expired", 0);
    let begun = Instant::now();
    loop {
        let now: u32 = publisher.receive().payload_text().parse().expect("a number");
        assert!(now <= count && begun.elapsed() < Duration::from_secs(20), "{now} of {count}");
        if now == count {
            break;
        }
    }
    publisher.unsubscribe(&["$SYS/broker/publish/messages/dropped/expired"]);
}

/// Queued records and messages in the store of a broker that does not run.
fn on_disk(broker: &Broker) -> (usize, usize) {
    let (status, dump, err) = store(&["dump"], &[broker.data()]);
    assert_eq!((status, err.as_str()), (0, ""));
    let count = |record| dump.lines().filter(|line| line.starts_with(record)).count();
    (count(r#"{"record":"queued""#), count(r#"{"record":"message""#))
}

fn it_leaves_the_disk_though_nobody_comes(mut broker: Broker) {
    let mut publisher = broker.connect(V5, "publisher");
    brief(&mut publisher, 0..QUEUE);
    assert_eq!(publisher.try_publish(Message::new("t", "x").qos(1)), 0x97, "it is full");
    wait_expired(&mut publisher, QUEUE);
    lasting(&mut publisher, 0..1);
    broker.stop();
    assert_eq!(on_disk(&broker), (1, 1));
}
everywhere!(it_leaves_the_disk_though_nobody_comes);

fn nobody_is_refused_for_it(mut broker: Broker) {
    let mut publisher = broker.connect(V5, "publisher");
    lasting(&mut publisher, 0..5);
    brief(&mut publisher, 5..QUEUE);
    let_pass(Duration::from_millis(1_050));
    lasting(&mut publisher, QUEUE..QUEUE + 15);
    assert_eq!(publisher.try_publish(Message::new("t", "x").qos(1)), 0x97, "it is full");
    let mut client = broker.connect_with(&Connect::lasting(V5, "away")).0;
    for n in (0..5).chain(QUEUE..QUEUE + 15) {
        client.expect("t", n.to_string());
    }
    client.expect_nothing();
    broker.stop();
    assert_eq!(on_disk(&broker), (0, 0));
}
everywhere!(nobody_is_refused_for_it);

fn it_does_not_come_back(mut broker: Broker) {
    let mut publisher = broker.connect(V5, "publisher");
    lasting(&mut publisher, 0..1);
    brief(&mut publisher, 1..QUEUE);
    broker.kill();
    let_pass(Duration::from_millis(1_050));
    broker.restart();
    let mut publisher = broker.connect(V5, "publisher");
    lasting(&mut publisher, 1..QUEUE);
    wait_expired(&mut publisher, QUEUE - 1);
    broker.kill();
    assert_eq!(on_disk(&broker), (QUEUE as usize, QUEUE as usize));
    broker.restart();
    let mut client = broker.connect_with(&Connect::lasting(V5, "away")).0;
    for n in 0..QUEUE {
        client.expect("t", n.to_string());
    }
    client.expect_nothing();
}
everywhere!(it_does_not_come_back);
