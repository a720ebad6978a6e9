//! What clients of many tests do.

use std::ops::Range;
use std::time::Duration;

use crate::common::{Client, Connect, Message, V5, code, let_pass};
use crate::process::Broker;

/// Messages of a publisher that are not acknowledged, at most.
const OUTSTANDING: usize = 100;

/// A stored session that has a filter, and whose client is away.
pub(crate) fn away(broker: &Broker, id: &str, filter: &str) {
    let (mut client, _) = broker.connect_with(&Connect::lasting(V5, id));
    client.subscribe(filter, 2);
    client.disconnect();
}

/// Publishes numbers; each is acknowledged.
pub(crate) fn publish(publisher: &mut Client, topic: &str, numbers: Range<u32>) {
    publish_long(publisher, topic, numbers, 1);
}

/// As [`publish`], with so many digits each.
pub(crate) fn publish_long(
    publisher: &mut Client,
    topic: &str,
    numbers: Range<u32>,
    digits: usize,
) {
    let numbers: Vec<_> = numbers.collect();
    for some in numbers.chunks(OUTSTANDING) {
        let message = |n| Message::new(topic, format!("{n:0digits$}")).qos(1);
        let ids: Vec<_> = some.iter().map(|n| publisher.start_publish(message(n))).collect();
        for id in ids {
            assert_eq!(publisher.wait_puback(id).code, code::SUCCESS);
        }
    }
}

/// Publishes until the store works.
pub(crate) fn publish_until_kept(publisher: &mut Client, topic: &str) {
    while publisher.try_publish(Message::new(topic, "probe").qos(1)) != code::SUCCESS {
        let_pass(Duration::from_millis(5));
    }
}
