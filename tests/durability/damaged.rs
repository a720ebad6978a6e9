//! Files that the machine left in part, or that have rotted: the broker starts, and says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::{Connect, V5, let_pass};
use crate::offline::store;
use crate::process::Broker;

const MESSAGES: u32 = 12;

fn payload(n: u32) -> String {
    format!("the message of the number {n:04}")
}

/// A broker that was killed, with messages for a client that is away.
fn killed(engine: &'static str) -> Broker {
    let mut broker = Broker::start(engine, 1);
    let mut client = broker.connect_with(&Connect::lasting(V5, "client")).0;
    client.subscribe("t", 1);
    client.disconnect();
    let mut publisher = broker.connect(V5, "publisher");
    for n in 0..MESSAGES {
        publisher.publish("t", payload(n), 1);
    }
    broker.kill();
    broker
}

/// The file that has a payload, and where.
fn find(within: &Path, payload: &str) -> Option<(PathBuf, Vec<u8>, usize)> {
    let text = payload.as_bytes();
    let mut paths = vec![within.to_owned()];
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(path).expect("a directory");
            paths.extend(entries.map(|entry| entry.expect("an entry").path()));
        } else {
            let bytes = fs::read(&path).expect("a file");
            if let Some(at) = memchr::memmem::find(&bytes, text) {
                return Some((path, bytes, at));
            }
        }
    }
    None
}

/// Starts it again: the client gets these messages, and then what is published from now on.
fn starts_with(broker: &mut Broker, messages: impl Iterator<Item = u32>) {
    broker.restart();
    let mut client = broker.connect_with(&Connect::lasting(V5, "client")).0;
    for n in messages {
        client.expect("t", payload(n));
    }
    client.expect_nothing();
    broker.connect(V5, "publisher").publish("t", "next", 1);
    client.expect("t", "next");
}

/// What was there in part had not been acknowledged.
#[test]
fn a_torn_tail_is_cut_off_and_told() {
    for engine in ["fjall", "sqlite"] {
        let mut broker = killed(engine);
        let (path, bytes, at) = find(broker.data(), &payload(MESSAGES - 1)).expect("stored");
        fs::write(path, &bytes[..at + 10]).expect("shorter");
        starts_with(&mut broker, 0..MESSAGES - 1);
        assert!(broker.log().contains("the last commit is there in part"), "{}", broker.log());
        broker.restart();
        assert!(!broker.log().contains("in part"), "{}", broker.log());
    }
}

#[test]
fn a_damaged_commit_is_set_aside_and_told_and_those_behind_it_stay() {
    let mut broker = killed("fjall");
    let (path, mut bytes, at) = find(broker.data(), &payload(5)).expect("stored");
    bytes[at] ^= 4;
    fs::write(path, &bytes).expect("written");
    starts_with(&mut broker, (0..MESSAGES).filter(|n| *n != 5));
    assert!(broker.log().contains("are damaged, and were set aside"), "{}", broker.log());
    broker.kill();
    let (status, out, _) = store(&["check"], &[broker.data()]);
    let last = out.lines().last().unwrap_or_default();
    let aside = broker.data().join("log/a.damaged-").display().to_string();
    assert!(last.starts_with(&aside) && last.ends_with("set aside as damaged"), "{out}");
    assert_eq!(status, 1, "{out}");
}

/// Without its head nobody knows what in a segment is whole.
#[test]
fn a_damaged_segment_is_set_aside_and_told() {
    let mut broker = killed("fjall");
    let path = broker.data().join("log/a.log");
    let mut bytes = fs::read(&path).expect("a file");
    bytes[..64].fill(7);
    fs::write(&path, &bytes).expect("written");
    broker.restart();
    assert!(broker.log().contains("its beginning is damaged"), "{}", broker.log());
    assert!(fs::read(broker.data().join("log/a.damaged-0")).expect("set aside") == bytes);
    broker.restart();
    assert!(!broker.log().contains("damaged"), "{}", broker.log());
}

/// A file of fjall's tables, or a page of SQLite: what cannot be read is lost, and nothing else.
#[test]
fn what_can_be_read_of_a_damaged_database_stays() {
    // More than the log takes, and fjall before it sorts it into a file.
    for (engine, count) in [("fjall", 900), ("sqlite", 100)] {
        let mut broker = Broker::start_set(engine, 1, &[("SLUICE_QUEUE_MAX_BYTES", "128MiB")]);
        let mut client = broker.connect_with(&Connect::lasting(V5, "client")).0;
        client.subscribe("t", 1);
        client.disconnect();
        let mut publisher = broker.connect(V5, "publisher");
        let message = |n: usize| format!("{n:04}{}", "-".repeat(80_000));
        for n in 0..count {
            publisher.publish("t", message(n), 1);
        }
        let within = if engine == "fjall" { "fjall/keyspaces" } else { "sluice.sqlite" };
        let within = broker.data().join(within);
        while engine == "fjall" && find(&within, &message(10)[..50]).is_none() {
            let_pass(Duration::from_millis(20));
        }
        broker.stop();
        let (path, mut bytes, at) = find(&within, &message(10)[..50]).expect("it stays there");
        bytes[at] ^= 4;
        if engine == "sqlite" {
            // It has no checksums: a page is damaged when it makes no sense.
            let page = at / 4096 * 4096;
            bytes[page..page + 8].fill(0xA5);
        }
        fs::write(path, &bytes).expect("written");
        broker.restart();
        assert!(broker.log().contains("the damaged database was set aside"), "{}", broker.log());
        let mut client = broker.connect_with(&Connect::lasting(V5, "client")).0;
        broker.connect(V5, "publisher").publish("t", "last", 1);
        let mut got = Vec::new();
        while let Ok(n) = client.receive().payload_text()[..4].parse::<usize>() {
            got.push(n);
        }
        assert!(got.is_sorted() && got.len() > count - 20, "{}", got.len());
        broker.stop();
        let (status, out, _) = store(&["check"], &[broker.data()]);
        assert!(status == 1 && out.contains("set aside as damaged"), "{out}");
    }
}

/// The log of SQLite ends where it is damaged.
#[test]
fn a_damaged_log_of_sqlite_is_told() {
    let mut broker = killed("sqlite");
    let (path, mut bytes, at) = find(broker.data(), &payload(MESSAGES - 1)).expect("stored");
    bytes[at] ^= 4;
    fs::write(path, &bytes).expect("written");
    starts_with(&mut broker, 0..MESSAGES - 1);
    assert!(broker.log().contains("the last commit is there in part"), "{}", broker.log());
}
