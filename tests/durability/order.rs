//! Under `fsync`, what a client is told has reached the disk before: the order of the system calls shows
//! it, which no kill of the process could.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use std::{fs, slice};

use crate::common::wire::{PUBREC, PUBREL};
use crate::common::{Client, Connect, Message, V5, V311, let_pass};
use crate::process::Broker;
use crate::trace::{Call, calls, has_ended};
use crate::written::{Record, records};

/// All of what a client sends in one exchange.
const WHOLE: usize = 100_000;

/// What has to be on disk before an answer.
enum Stored {
    /// A record with these bytes in it.
    Has(&'static str),
    /// That the receiver has a message, under this identifier, and PUBREL is next.
    Released(u16),
    /// That a record is gone: another one of its table is there beside it, which is in the same page of
    /// SQLite. Keys are named without the number of the session that some begin with.
    Gone { key: &'static [u8], beside: &'static [u8] },
}

impl Stored {
    fn is_in(&self, records: &[Record]) -> bool {
        let with = |wanted: &[u8]| {
            let is_it = |record: &&Record| {
                record.key == wanted || record.key.get(8..).is_some_and(|key| key == wanted)
            };
            records.iter().find(is_it).map(|record| &record.value)
        };
        match self {
            Self::Has(text) => records.iter().any(|Record { key, value }| {
                let is_in = |bytes: &Vec<u8>| holds(bytes, text.as_bytes());
                is_in(key) || value.as_ref().is_some_and(is_in)
            }),
            Self::Released(id) => {
                let [low, high] = id.to_le_bytes();
                records.iter().any(|Record { key, value }| {
                    let value = value.as_deref().unwrap_or_default();
                    key.len() == 16 && value.starts_with(&[1, low, high])
                })
            }
            Self::Gone { key, beside } => match with(key) {
                Some(value) => value.is_none(),
                None => with(beside).is_some_and(Option::is_some),
            },
        }
    }
}

/// What a client sent, what has to be on disk then, and how it was answered.
struct Step {
    what: &'static str,
    sent: Vec<u8>,
    stored: Stored,
    answer: Vec<u8>,
}

fn step(what: &'static str, sent: impl Into<Vec<u8>>, stored: Stored, answer: &[u8]) -> Step {
    Step { what, sent: sent.into(), stored, answer: answer.to_vec() }
}

/// One exchange after the other, nothing else.
fn exchanges(broker: &Broker) -> Vec<Step> {
    use Stored::{Gone, Has};
    let (mut stored, _) = broker.connect_with(&Connect::lasting(V311, "client-of-mine"));
    stored.subscribe("filter-beside", 0);
    stored.subscribe("filter-of-mine/#", 2);
    let mut steps = vec![
        step("CONNACK", "client-of-mine", Has("client-of-mine"), &[0x20, 2, 0, 0]),
        step("SUBACK", "filter-of-mine/#", Has("filter-of-mine/#"), &[0x90, 3]),
    ];
    let mut publisher = broker.connect_with(&Connect::lasting(V311, "publisher")).0;
    steps.extend(publishing(&mut publisher));
    // Those of QoS 1 and the one whose identifier stays in use.
    let second = (0..3).map(|_| stored.take_publish()).last().expect("three");
    let [high, low] = second.id.to_be_bytes();
    stored.send_ack(PUBREC, second.id);
    stored.wait_pubrel(second.id);
    let released = Stored::Released(second.id);
    steps.push(step("PUBREL", [0x50, 2, high, low], released, &[0x62, 2, high, low]));

    stored.unsubscribe(&["filter-of-mine/#"]);
    let gone = Gone { key: b"filter-of-mine/#", beside: b"filter-beside" };
    steps.push(step("UNSUBACK", "filter-of-mine/#", gone, &[0xB0, 2]));
    drop(broker.connect(V311, "client-of-mine"));
    let gone = Gone { key: b"client-of-mine", beside: b"publisher" };
    let what = "CONNACK of a Clean Session in place of another";
    steps.push(step(what, "client-of-mine", gone, &[0x20, 2, 0, 0]));
    steps
}

fn publishing(publisher: &mut Client) -> [Step; 5] {
    use Stored::{Gone, Has};
    let topic = "filter-of-mine/x";
    let one = publisher.start_publish(Message::new(topic, "payload-at-qos-1").qos(1).id(0x0101));
    publisher.wait_puback(one);
    // This one's identifier stays beside the next one's.
    let beside = publisher.start_publish(Message::new(topic, "beside").qos(2).id(0x0A0B));
    publisher.wait_pubrec(beside);
    let two = publisher.start_publish(Message::new(topic, "payload-at-qos-2").qos(2).id(0x0202));
    publisher.wait_pubrec(two);
    publisher.send_ack(PUBREL, two);
    publisher.wait_pubcomp(two);
    let kept = Message::new("retained", "payload-retained").qos(1).retain().id(0x0303);
    let three = publisher.start_publish(kept);
    publisher.wait_puback(three);
    let gone = Gone { key: &[2, 2], beside: &[0x0A, 0x0B] };
    let what = "PUBACK of a retained message";
    [
        step("PUBACK", "payload-at-qos-1", Has("payload-at-qos-1"), &[0x40, 2, 1, 1]),
        step("PUBREC beside", "beside", Has("beside"), &[0x50, 2, 0x0A, 0x0B]),
        step("PUBREC", "payload-at-qos-2", Has("payload-at-qos-2"), &[0x50, 2, 2, 2]),
        step("PUBCOMP", [0x62, 2, 2, 2], gone, &[0x70, 2, 2, 2]),
        step(what, "payload-retained", Has("payload-retained"), &[0x40, 2, 3, 3]),
    ]
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Goes from what came in to a write of it, to the end of a sync of that file, to the answer.
fn check(calls: &mut slice::Iter<'_, Call>, step: &Step) -> Result<(), String> {
    let missing = |what: &str| format!("{}: {what}", step.what);
    let came = |call: &Call| matches!(call, Call::Received(bytes) if holds(bytes, &step.sent));
    calls.find(|call| came(call)).ok_or_else(|| missing("it never came"))?;
    let mut written: Vec<&str> = Vec::new();
    let mut is_synced = false;
    for call in calls {
        match call {
            Call::Wrote(file, _, bytes) if step.stored.is_in(&records(file, bytes)) => {
                written.push(file);
            }
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

/// What a broker did, up to its end.
fn trace_of(mut broker: Broker) -> Vec<Call> {
    broker.kill();
    // The tracer's last line is about the end of the process.
    let until = Instant::now() + Duration::from_secs(10);
    while !has_ended(&broker.trace()) {
        assert!(Instant::now() < until, "the tracer goes on");
        let_pass(Duration::from_millis(5));
    }
    calls(&broker.trace())
}

/// What every exchange came to.
fn traced(engine: &'static str, durability: &'static str) -> Vec<Result<(), String>> {
    let broker = Broker::start_traced(engine, durability, WHOLE, &[]);
    let steps = exchanges(&broker);
    let seen = trace_of(broker);
    let mut seen = seen.iter();
    steps.iter().map(|step| check(&mut seen, step)).collect()
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

/// A segment of the log is written over from its beginning, also to say that it is not needed. Whatever is
/// still there of its records has to be in fjall by then, and on disk.
#[test]
fn a_segment_of_the_log_is_kept_until_fjall_has_it_on_disk() {
    // As much as one holds, and three quarters of the other: after the first of them, fjall is given twice what
    // has come in each commit.
    const MESSAGES: usize = 68;
    const SIZE: usize = 900_000;
    const FULL: u64 = 32 << 20;
    let settings = &[("SLUICE_QUEUE_MAX_BYTES", "128MiB")];
    let broker = Broker::start_traced("fjall", "fsync", 64, settings);
    let mut absent = broker.connect_with(&Connect::lasting(V5, "absent")).0;
    absent.subscribe("t", 1);
    absent.disconnect();
    let mut publisher = broker.connect(V5, "publisher");
    for _ in 0..MESSAGES {
        publisher.publish("t", [b'-'; SIZE], 1);
    }
    let mut ends: BTreeMap<String, u64> = BTreeMap::new();
    let mut unsynced = BTreeSet::new();
    let (mut given, mut over) = (0, 0);
    for call in trace_of(broker) {
        match call {
            Call::Wrote(file, at, _) if file.ends_with(".log") => {
                let at = at.expect("it is written at places");
                let end = ends.entry(file).or_default();
                if at == 0 && *end > 0 {
                    assert!(unsynced.is_empty(), "written over too early: {unsynced:?}");
                    over += usize::from(*end + 2 * SIZE as u64 > FULL && given > 0);
                }
                *end = if at == 0 { 0 } else { at.max(*end) };
            }
            Call::Wrote(file, ..) if file.ends_with(".jnl") => {
                given += 1;
                unsynced.insert(file);
            }
            Call::Synced(file) => _ = unsynced.remove(&file),
            _ => {}
        }
    }
    assert_eq!(over, 1, "a full one was written over, after {given} writes of fjall");
}

/// After a write to the disk that failed the system goes on giving what was to be written. A start writes that
/// again before it adds to it, if what was before did not come to a good end.
fn what_only_the_system_may_have_is_written_again(
    engine: &'static str,
    files: &str,
    extension: &str,
) {
    const PAGE: usize = 4096;
    let mut broker = Broker::start_with(engine, "fsync", 1);
    let mut absent = broker.connect_with(&Connect::lasting(V5, "absent")).0;
    absent.subscribe("t", 1);
    absent.disconnect();
    for _ in 0..2 {
        let mut publisher = broker.connect(V5, "publisher");
        publisher.publish("t", [b'-'; 3 * PAGE], 1);
        publisher.publish("t", [b'+'; 3 * PAGE], 1);
        // What the log in front of fjall has goes to fjall.
        broker.restart();
    }
    broker.connect(V5, "publisher").publish("t", "in the log", 1);
    broker.kill();
    let is_it = |path: &str| path.ends_with(extension);
    let within = fs::read_dir(broker.data().join(files)).expect("a directory");
    let mut within = within.map(|entry| entry.expect("an entry").path());
    let file = within.find(|path| path.to_str().is_some_and(is_it));
    let written = fs::read(file.expect("one")).expect("a file");
    let is_written = |page: &&[u8]| page.iter().any(|byte| *byte != 0);
    let pages = written.chunks(PAGE).filter(is_written).count();
    assert!(pages > 12, "{pages}");

    broker.restart_traced(PAGE);
    let mut again = BTreeSet::new();
    for call in trace_of(broker) {
        match call {
            Call::Wrote(file, at, bytes) if is_it(&file) => {
                let at = usize::try_from(at.expect("at a place")).expect("it is short");
                assert!(written[at..].starts_with(&bytes), "at {at}");
                again.insert(at);
            }
            Call::Synced(file) if is_it(&file) => break,
            _ => {}
        }
    }
    assert_eq!(again.len(), pages);
}

#[test]
fn a_journal_of_fjall_is_written_again() {
    what_only_the_system_may_have_is_written_again("fjall", "fjall", ".jnl");
}

#[test]
fn the_log_of_sqlite_is_written_again() {
    what_only_the_system_may_have_is_written_again("sqlite", "", ".sqlite-wal");
}

/// What is in a directory is lost with its name.
#[test]
fn the_disk_knows_of_the_directories_that_fjall_makes() {
    let mut broker = Broker::start("fjall", 1);
    broker.kill();
    for made in ["fjall", "log"] {
        fs::remove_dir_all(broker.data().join(made)).expect("it is there");
    }
    broker.restart_traced(0);
    let fjall = format!("{}/fjall", broker.data().display());
    let data = broker.data().display().to_string();
    let synced = trace_of(broker).into_iter().filter_map(|call| match call {
        Call::Synced(path) => Some(path),
        _ => None,
    });
    let synced: Vec<_> = synced.collect();
    let last = |path: &str| synced.iter().rposition(|found| found == path);
    let tables = format!("{fjall}/keyspaces");
    let newest = synced.iter().position(|found| *found == format!("{tables}/8"));
    assert!(newest.is_some() && last(&tables) > newest, "{synced:?}");
    assert!(last(&data) > last(&fjall), "{synced:?}");
}
