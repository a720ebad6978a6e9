//! Files that the machine left in part, or that have rotted: the broker starts, and says so.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::time::Duration;

use sluice::hooks::{Commit, Table, Write};
use sluice::store::Directory;

use crate::common::{Client, Connect, V5, let_pass};
use crate::offline::store;
use crate::process::{Broker, OPENS, engines};

const MESSAGES: u32 = 12;

fn payload(n: u32) -> String {
    format!("the message of the number {n:04}")
}

/// A broker that was killed, with messages for a client that is away.
fn killed(engine: &'static str) -> Broker {
    let mut broker = Broker::start(engine, 1);
    fill(&broker);
    broker.kill();
    broker
}

/// Messages for a client that is away; gives who has sent them.
fn fill(broker: &Broker) -> Client {
    let mut client = broker.connect_with(&Connect::lasting(V5, "client")).0;
    client.subscribe("t", 1);
    client.disconnect();
    let mut publisher = broker.connect(V5, "publisher");
    for n in 0..MESSAGES {
        publisher.publish("t", payload(n), 1);
    }
    publisher
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

/// A record of a directory that nobody uses has one bit less, and the checksum that it had before.
fn damage(data: &Path, table: Table, which: usize) {
    let _opens = OPENS.write().unwrap_or_else(PoisonError::into_inner);
    let directory = Directory::existing(data).expect("nobody has it");
    let mut store = directory.records().expect("whole");
    let mut found = Vec::new();
    store.scan(table, &mut |key, value| found.push((key.to_vec(), value.to_vec()))).expect("whole");
    let (key, mut value) = found.swap_remove(which);
    value[0] ^= 1;
    let write = Write { table, key: key.into(), value: Some(value), fresh: false };
    store.commit(&[write], Commit::System).expect("room");
}

/// What `sluice store check` ends with, of a store that something was wrong with.
fn checked(broker: &Broker) -> String {
    let (status, out, _) = store(&["check"], &[broker.data()]);
    assert_eq!(status, 1, "{out}");
    out.lines().last().unwrap_or_default().to_owned()
}

/// What is left of a message without its record goes, too; nothing else is missed.
fn a_damaged_record_is_set_aside_and_told(mut broker: Broker) {
    let mut publisher = fill(&broker);
    for topic in ["r/1", "r/2"] {
        publisher.publish_retained(topic, topic, 1);
    }
    broker.kill();
    damage(broker.data(), Table::Messages, 5);
    damage(broker.data(), Table::Retained, 0);
    assert_eq!(
        checked(&broker),
        "2 damaged, 0 set aside as damaged earlier, 1 that belong to nothing"
    );
    starts_with(&mut broker, (0..MESSAGES).filter(|n| *n != 5));
    let said = "2 records are damaged and were set aside, 1 belonged to nothing and were removed";
    assert!(broker.log().contains(said), "{}", broker.log());
    let mut late = broker.connect(V5, "late");
    late.subscribe("r/+", 1);
    late.expect("r/2", "r/2");
    late.expect_nothing();
    broker.stop();
    assert_eq!(
        checked(&broker),
        "0 damaged, 2 set aside as damaged earlier, 0 that belong to nothing"
    );
    broker.restart();
    assert!(!broker.log().contains("damaged"), "{}", broker.log());
}
engines!(a_damaged_record_is_set_aside_and_told);

/// What waits in a queue is read when its client comes.
#[test]
fn a_record_that_is_damaged_later_is_set_aside_when_it_is_read() {
    let mut broker = killed("sqlite");
    broker.restart();
    let database = broker.data().join("sluice.sqlite");
    let database = rusqlite::Connection::open(database).expect("a database");
    let damage = "update messages set value = x'FF' || substr(value, 2) \
                  where key = (select key from messages order by key limit 1 offset 7)";
    assert_eq!(database.execute(damage, []), Ok(1));
    drop(database);
    let mut client = broker.connect_with(&Connect::lasting(V5, "client")).0;
    for n in (0..MESSAGES).filter(|n| *n != 7) {
        client.expect("t", payload(n));
    }
    client.expect_nothing();
    let said = broker.wait_to_say("cannot be read");
    assert!(said.contains("1 messages of a queue cannot be read, and were set aside"), "{said}");
    broker.stop();
    assert_eq!(
        checked(&broker),
        "0 damaged, 1 set aside as damaged earlier, 0 that belong to nothing"
    );
}

/// What may take long is told before.
#[test]
fn what_is_read_at_a_start_is_told() {
    let mut broker = killed("fjall");
    broker.restart();
    let log = broker.data().join("log/a.log").display().to_string();
    let bytes = number_before(&broker.log(), &format!("{log}: "), " bytes of commits are handed");
    let payloads = MESSAGES as usize * payload(0).len();
    assert!(bytes > payloads && bytes < 10 * payloads, "{bytes}");
    broker.stop();
    broker.restart();
    assert!(!broker.log().contains("bytes of commits"), "it is empty: {}", broker.log());

    let mut broker = killed("sqlite");
    let file = |name: &str| fs::metadata(broker.data().join(name)).map_or(0, |it| it.len());
    let on_disk: u64 = ["sluice.sqlite", "sluice.sqlite-wal"].map(file).iter().sum();
    broker.restart();
    let begin = format!("{}: ", broker.data().join("sluice.sqlite").display());
    let bytes =
        number_before(&broker.log(), &format!("{begin}SQLite looks at all pages of "), " bytes");
    assert_eq!(bytes as u64, on_disk);
}

/// The number in a line of a log between two texts.
fn number_before(log: &str, begin: &str, end: &str) -> usize {
    let (_, rest) = log.split_once(begin).unwrap_or_else(|| panic!("no \"{begin}\" in {log}"));
    let (number, _) = rest.split_once(end).unwrap_or_else(|| panic!("no \"{end}\" in {log}"));
    number.parse().unwrap_or_else(|_| panic!("\"{number}\" is no number"))
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

#[test]
fn a_damaged_format_is_told_once() {
    let mut broker = killed("fjall");
    fs::write(broker.data().join("format"), "2 fjXll 00000000\n").expect("written");
    starts_with(&mut broker, 0..MESSAGES);
    let log = broker.log();
    assert_eq!(log.matches("format: ").count(), 1, "{log}");
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
        if engine == "fjall" {
            let read = number_before(&broker.log(), ": tables of ", " bytes are compared with");
            assert!(read > 8 << 20, "{read} bytes");
        }
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

/// A log that somebody took for rubbish. A good end leaves none, nor the index that SQLite has of it.
#[test]
fn a_log_of_sqlite_that_is_gone_is_told() {
    let mut broker = killed("sqlite");
    fs::remove_file(broker.data().join("sluice.sqlite-wal")).expect("it is there");
    broker.restart();
    let said =
        "sluice.sqlite-wal: missing, though the database was in use: what only it had is lost";
    assert!(broker.log().contains(said), "{}", broker.log());
    for is_killed in [true, false] {
        if !is_killed {
            broker.stop();
        }
        broker.restart();
        assert!(!broker.log().contains("missing"), "{}", broker.log());
    }
}

/// What is behind the damage is lost, too, though it was acknowledged: that is not the last commit in part.
#[test]
fn what_is_behind_the_damage_in_a_log_of_sqlite_is_set_aside() {
    const FRAME: usize = 24 + 4096;
    // In a page, and where its frame says to which round of the log it belongs, which no checksum covers.
    for in_frame in [None, Some(8)] {
        let mut broker = killed("sqlite");
        let (path, mut bytes, at) = find(broker.data(), &payload(5)).expect("stored");
        let frame = 32 + (at - 32) / FRAME * FRAME;
        bytes[in_frame.map_or(at, |place| frame + place)] ^= 4;
        fs::write(path, &bytes).expect("written");
        starts_with(&mut broker, 0..5);
        let said = broker.wait_to_say("bytes of commits are damaged, or come behind what is");
        assert!(said.contains("ERROR") && !broker.log().contains("in part"), "{}", broker.log());
        broker.restart();
        assert!(!broker.log().contains("damaged"), "{}", broker.log());
        broker.stop();
        let (_, out, _) = store(&["check"], &[broker.data()]);
        let aside = broker.data().join("sluice.damaged-").display().to_string();
        assert!(out.contains(&aside), "{out}");
    }
}
