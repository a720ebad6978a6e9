//! A disk on which there is no room, under `fsync`.

use std::fs::File;
use std::io::Write;

use crate::clients::{away, publish_until_kept};
use crate::common::{Connect, Message, V5, code};
use crate::failing::{FAILS, WORKS};
use crate::offline::store;
use crate::process::Broker;

const DISK_BYTES: u64 = 16 << 20;

/// Takes all room that is left.
fn fill(broker: &Broker) {
    let mut file = File::create(broker.file("filler")).expect("room for a name");
    while file.write(&[1; 64 << 10]).is_ok_and(|len| len > 0) {}
}

fn make_room(broker: &Broker) {
    std::fs::remove_file(broker.file("filler")).expect("it was filled");
}

fn nothing_is_lost(engine: &'static str) {
    let mut broker = Broker::start_on_disk(engine, DISK_BYTES);
    away(&broker, "stored", "t");
    let mut subscriber = broker.connect(V5, "subscriber");
    subscriber.subscribe("t", 1);
    let mut publisher = broker.connect(V5, "publisher");
    let mut acknowledged = Vec::new();
    for round in 0..2 {
        fill(&broker);
        for n in 0.. {
            // What a page of a file has room for goes on being written.
            let payload = format!("{round} {n} {}", "x".repeat(5000));
            let kept = publisher.try_publish(Message::new("t", &payload).qos(1));
            subscriber.expect("t", &payload);
            if kept != code::SUCCESS {
                assert_eq!(kept, code::QUOTA_EXCEEDED);
                break;
            }
            acknowledged.push(payload);
        }
        subscriber.publish("t", "at QoS 0", 0);
        subscriber.expect("t", "at QoS 0");
        let line = broker.wait_to_say(FAILS);
        assert!(line.contains(" bytes are free on that disk: make room"), "{line}");
        let log = broker.log();
        assert_eq!(log.matches(FAILS).count(), 1, "{log}");
        if round == 0 {
            make_room(&broker);
            publish_until_kept(&mut publisher, "t");
            broker.wait_said(WORKS);
            let log = broker.log();
            assert_eq!(log.matches(WORKS).count(), 1, "{log}");
            acknowledged.push("probe".to_owned());
            broker.restart();
            subscriber = broker.connect(V5, "subscriber");
            subscriber.subscribe("t", 1);
            publisher = broker.connect(V5, "publisher");
        }
    }
    broker.kill();
    if engine == "fjall" {
        // It writes as a start does.
        let (status, _, err) = store(&["check"], &[&broker.file("")]);
        assert!(status == 1 && err.contains(" bytes are free on that disk: make room"), "{err}");
    }
    make_room(&broker);
    broker.restart();
    let (mut stored, connack) = broker.connect_with(&Connect::lasting(V5, "stored"));
    assert!(connack.session_present);
    let mut stays = acknowledged.iter();
    let mut next = stays.next();
    // What was refused may be there, too.
    while let Some(wanted) = next {
        if stored.receive().payload == wanted.as_bytes() {
            next = stays.next();
        }
    }
}

#[test]
fn nothing_is_lost_under_fjall() {
    nothing_is_lost("fjall");
}

#[test]
fn nothing_is_lost_under_sqlite() {
    nothing_is_lost("sqlite");
}
