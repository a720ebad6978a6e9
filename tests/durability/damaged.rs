//! Files that the machine left in part, or that have rotted: the broker starts, and says so.

use std::fs;
use std::path::{Path, PathBuf};

use crate::common::{Connect, V5};
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
fn find(directory: &Path, n: u32) -> (PathBuf, Vec<u8>, usize) {
    let text = payload(n).into_bytes();
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                directories.push(path);
                continue;
            }
            let bytes = fs::read(&path).expect("a file");
            if let Some(at) = bytes.windows(text.len()).position(|window| window == text) {
                return (path, bytes, at);
            }
        }
    }
    unreachable!("it is stored")
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
        let (path, bytes, at) = find(broker.data(), MESSAGES - 1);
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
    let (path, mut bytes, at) = find(broker.data(), 5);
    bytes[at] ^= 4;
    fs::write(path, &bytes).expect("written");
    starts_with(&mut broker, (0..MESSAGES).filter(|n| *n != 5));
    assert!(broker.log().contains("are damaged, and were set aside"), "{}", broker.log());
    broker.kill();
    let (status, out, _) = store(&["check"], &[broker.data()]);
    let last = out.lines().last().unwrap_or_default();
    let aside = broker.data().join("log/a.damaged-").display().to_string();
    assert!(last.starts_with(&aside) && last.ends_with("of damaged commits, set aside"), "{out}");
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

/// The log of SQLite ends where it is damaged.
#[test]
fn a_damaged_log_of_sqlite_is_told() {
    let mut broker = killed("sqlite");
    let (path, mut bytes, at) = find(broker.data(), MESSAGES - 1);
    bytes[at] ^= 4;
    fs::write(path, &bytes).expect("written");
    starts_with(&mut broker, 0..MESSAGES - 1);
    assert!(broker.log().contains("the last commit is there in part"), "{}", broker.log());
}
