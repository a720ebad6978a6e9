//! Under `fsync`, what a client is told has reached the disk before: the order of the system calls shows
//! it, which no kill of the process could.

use std::time::{Duration, Instant};

use crate::common::wire::PUBREL;
use crate::common::{Client, Connect, Message, V311, let_pass};
use crate::process::Broker;
use crate::trace::{Call, calls, has_ended};

/// What a client sent, what has to be on disk then, and how it was answered.
struct Step {
    what: &'static str,
    sent: Vec<u8>,
    /// Stands in what is written, if it is text.
    stored: &'static str,
    answer: Vec<u8>,
}

fn step(what: &'static str, sent: impl Into<Vec<u8>>, stored: &'static str, answer: &[u8]) -> Step {
    Step { what, sent: sent.into(), stored, answer: answer.to_vec() }
}

/// One exchange after the other, each with words of its own.
fn exchanges(broker: &Broker) -> Vec<Step> {
    let (mut stored, _) = broker.connect_with(&Connect::lasting(V311, "client-of-mine"));
    stored.subscribe("filter-of-mine/#", 2);
    let mut publisher = publisher(broker);
    let one = Message::new("filter-of-mine/x", "payload-at-qos-1").qos(1).id(0x0101);
    let first = publisher.start_publish(one);
    publisher.wait_puback(first);
    let two = Message::new("filter-of-mine/x", "payload-at-qos-2").qos(2).id(0x0202);
    let second = publisher.start_publish(two);
    publisher.wait_pubrec(second);
    publisher.send_ack(PUBREL, second);
    publisher.wait_pubcomp(second);
    let kept = Message::new("retained", "payload-retained").qos(1).retain().id(0x0303);
    let third = publisher.start_publish(kept);
    publisher.wait_puback(third);
    vec![
        step("CONNACK", "client-of-mine", "client-of-mine", &[0x20, 2, 0, 0]),
        step("SUBACK", "filter-of-mine/#", "filter-of-mine/#", &[0x90, 3]),
        step("PUBACK", "payload-at-qos-1", "payload-at-qos-1", &[0x40, 2, 1, 1]),
        step("PUBREC", "payload-at-qos-2", "payload-at-qos-2", &[0x50, 2, 2, 2]),
        step("PUBCOMP", [0x62, 2, 2, 2], "", &[0x70, 2, 2, 2]),
        step(
            "PUBACK of a retained message",
            "payload-retained",
            "payload-retained",
            &[0x40, 2, 3, 3],
        ),
    ]
}

fn publisher(broker: &Broker) -> Client {
    broker.connect_with(&Connect::lasting(V311, "publisher")).0
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    part.is_empty() || bytes.windows(part.len()).any(|window| window == part)
}

/// Goes from what came in to a write of it, to the end of a sync of that file, to the answer.
fn check(calls: &[Call], step: &Step) -> Result<(), String> {
    let mut calls = calls.iter();
    let missing = |what: &str| format!("{}: {what}", step.what);
    let came = |call: &Call| matches!(call, Call::Received(bytes) if holds(bytes, &step.sent));
    calls.find(|call| came(call)).ok_or_else(|| missing("it never came"))?;
    let mut written: Vec<&str> = Vec::new();
    let mut is_synced = false;
    for call in calls {
        match call {
            Call::Wrote(file, bytes) if holds(bytes, step.stored.as_bytes()) => written.push(file),
            Call::Synced(file) => is_synced |= written.contains(&file.as_str()),
            Call::Sent(bytes) if holds(bytes, &step.answer) => {
                return match (written.is_empty(), is_synced) {
                    (true, _) => Err(missing("answered before it was written")),
                    (_, false) => Err(missing("answered before it was on disk")),
                    (_, true) => Ok(()),
                };
            }
            _ => {}
        }
    }
    Err(missing("never answered"))
}

/// What every exchange came to.
fn traced(engine: &'static str, durability: &'static str) -> Vec<Result<(), String>> {
    let mut broker = Broker::start_traced(engine, durability);
    let steps = exchanges(&broker);
    broker.kill();
    // The tracer's last line is about the end of the process.
    let until = Instant::now() + Duration::from_secs(10);
    while !has_ended(&broker.trace()) {
        assert!(Instant::now() < until, "the tracer goes on");
        let_pass(Duration::from_millis(5));
    }
    let seen = calls(&broker.trace());
    steps.iter().map(|step| check(&seen, step)).collect()
}

fn is_on_disk_first(engine: &'static str) {
    for result in traced(engine, "fsync") {
        assert_eq!(result, Ok(()));
    }
}

/// The same look finds that under `os` nothing waits for the disk.
fn is_not_under_os(engine: &'static str) {
    for result in traced(engine, "os") {
        let error = result.expect_err("nothing is synced");
        assert!(error.ends_with("answered before it was on disk"), "{error}");
    }
}

#[test]
fn fjall_syncs_before_it_is_said() {
    is_on_disk_first("fjall");
}

#[test]
fn sqlite_syncs_before_it_is_said() {
    is_on_disk_first("sqlite");
}

#[test]
fn under_os_fjall_does_not() {
    is_not_under_os("fjall");
}

#[test]
fn under_os_sqlite_does_not() {
    is_not_under_os("sqlite");
}
