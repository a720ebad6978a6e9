//! Data directories without a broker: checked, written out, filled, copied.

use std::fs;
use std::io::{self, Read};
use std::path::Path;

use sluice::hooks::{Commit, Store, Table};
use sluice::mqtt::{Message, Property, QoS};
use sluice::session::Will;
use sluice::session::{
    CameBy, Change, IdentityRecord, QueuedRecord, SessionRecord, SubscriptionRecord,
};
use sluice::store::offline::{Findings, RestoreError, check, copy, dump, restore};
use sluice::store::{
    Directory, DirectoryError, Engine, Filling, Memory, PROGRESS_RECORDS, Turn, recover,
};
use sluice::timer::Time;
use tempfile::TempDir;

use crate::engines::{Place, Unreadable, commit, delete, put, records};
use crate::turns::{Bench, START, id, message, queued, session};

/// A message with all that one can have, and a payload that is no text.
fn rich(topic: &str) -> Message {
    let mut properties = Vec::new();
    for property in [
        Property::PayloadFormatIndicator(0),
        Property::ContentType("application/octet-stream"),
        Property::UserProperty("a", "1"),
        Property::ResponseTopic("answers/\u{1F600}"),
        Property::CorrelationData(&[0, 255]),
        Property::UserProperty("a", "2"),
    ] {
        property.encode(&mut properties);
    }
    let expires_after = Some(86_400);
    let (qos, payload) = (QoS::ExactlyOnce, [b'x', 0xFF, 0]);
    Message::new(topic, qos, true, &payload, &properties, expires_after, Time(1))
}

fn bare(topic: &str) -> Message {
    Message::new(topic, QoS::ExactlyOnce, false, b"", b"", None, Time(0))
}

/// Records of every kind.
fn everything() -> Vec<Change> {
    let away = SessionRecord {
        client_id: "away \"\u{1F600}\"\n".into(),
        session: 7,
        session_expiry_interval: u32::MAX,
        disconnected_at: Some(Time(1_234)),
        will: Some(Will {
            message: rich("wills/7"),
            message_expiry_interval: Some(9),
            delay_interval: 60,
        }),
        will_at: Some(Time(61_234)),
        identity: Some(IdentityRecord {
            user: Some("alice".into()),
            certificate: Some("Alice's".into()),
            peer: "[::1]:1883".parse().expect("an address"),
            protocol_version: 5,
        }),
    };
    let filter = |filter: &str| SubscriptionRecord {
        filter: filter.into(),
        qos: QoS::ExactlyOnce,
        no_local: filter == "#",
        retain_as_published: filter != "#",
        identifier: filter.len() as u32,
        retained_after: (filter != "#").then(|| "a/topic".into()),
    };
    let shared = rich("a/b");
    let place = |number, place, packet_id, share: Option<&str>| {
        let record = QueuedRecord {
            message: shared.clone(),
            qos: QoS::AtLeastOnce,
            retain: true,
            packet_id,
            number: 0,
            paged: false,
            came_by: CameBy::new(&[1, 268_435_455], None, share),
        };
        Change::Queued(number, place, record)
    };
    let released = message("released");
    vec![
        Change::Session(Box::new(away)),
        session("here", 8),
        Change::Subscribed(7, Box::new(filter("#"))),
        Change::Subscribed(7, Box::new(filter("$share/g/a/+"))),
        Change::Held(8, id(65_535)),
        place(7, 1, Some(id(9)), None),
        place(7, 2, None, Some("$share/g/a/+")),
        place(8, 1, None, None),
        Change::InFlight(8, 1, id(1)),
        queued(8, 2, &released),
        Change::Released {
            session: 8,
            place: 2,
            message: released,
            number: 0,
            packet_id: id(2),
            order: 3,
            flew: false,
        },
        queued(8, 3, &message("text \"\u{1F600}\"\r\n")),
        Change::Retained("r/1".into(), (4, 2), Some(rich("r/1"))),
        Change::Retained("r/2".into(), (5, 0), Some(bare("r/2"))),
    ]
}

fn a_store() -> Memory {
    let mut bench = Bench::new(1);
    bench.commit(1, everything());
    for table in Table::ALL.into_iter().filter(|table| *table != Table::Damaged) {
        assert_ne!(bench.count(table), 0, "{table:?}");
    }
    bench.memory
}

fn all(store: &dyn Store) -> Vec<Vec<(Vec<u8>, Vec<u8>)>> {
    Table::ALL.into_iter().map(|table| records(store, table)).collect()
}

fn text(store: &dyn Store) -> String {
    let mut out = Vec::new();
    dump(store, &mut out).expect("written");
    String::from_utf8(out).expect("text")
}

fn taken_in(text: &str) -> (Result<u64, RestoreError>, Memory) {
    let mut memory = Memory::default();
    (restore(&mut text.as_bytes(), &mut memory), memory)
}

#[test]
fn what_is_written_out_and_taken_in_is_the_same_in_every_engine() {
    let store = a_store();
    let dumped = text(&store);
    for place in Place::all() {
        let mut opened = place.open();
        let count = restore(&mut dumped.as_bytes(), &mut *opened.store).expect("right");
        assert_eq!(count, 15, "{}", place.name());
        assert_eq!(all(&*opened.store), all(&store), "{}", place.name());
        assert_eq!(text(&*opened.store), dumped, "{}", place.name());
    }
}

#[test]
fn people_can_read_it() {
    let dumped = text(&a_store());
    for line in [
        r#"{"record":"dump","version":1}"#,
        r#"{"record":"session","client_id":"here","number":8,"session_expiry_interval":3600}"#,
        r##"{"record":"subscription","session":7,"filter":"#","qos":2,"no_local":true,"subscription_identifier":1}"##,
        r#"{"record":"in_flight","session":8,"place":1,"packet_identifier":1}"#,
        r#"{"record":"retained","stamp":5,"shard":0,"message":{"topic":"r/2","qos":2}}"#,
        r#"{"record":"end"}"#,
    ] {
        assert!(dumped.lines().any(|found| found == line), "{line} is not in\n{dumped}");
    }
    assert!(dumped.contains(r#""disconnected_at":"2023-11-14T22:13:21.234Z""#), "{dumped}");
    assert!(dumped.contains(r#""payload":"text \"😀\"\r\n""#), "{dumped}");
    assert!(dumped.contains(r#""payload_base64":"eP8A""#), "{dumped}");
    assert!(dumped.contains(r#"{"user_property":["a","1"]}"#), "{dumped}");
}

#[test]
fn damaged_records_are_written_out_as_they_are() {
    let mut store = a_store();
    let (key, mut value) = records(&store, Table::Retained).remove(0);
    value[3] ^= 1;
    commit(&mut store, &[put(Table::Retained, &key, &value), put(Table::Damaged, b"x/y", b"z")]);
    let dumped = text(&store);
    let (count, restored) = taken_in(&dumped);
    assert_eq!(count.expect("right"), 16);
    // What was damaged in its place is set aside.
    assert_eq!(records(&restored, Table::Retained).len(), 1);
    let aside = [(b"retained/r/1".to_vec(), value), (b"x/y".to_vec(), b"z".to_vec())];
    assert_eq!(records(&restored, Table::Damaged), aside);
    assert_eq!(text(&restored), dumped);
}

/// Of what is no dump.
const FIRST: &str = r#"line 1: not the first line of a dump, {"record":"dump","version":1}"#;

/// Of a file without lines no more is read than a first line may have.
#[test]
fn what_has_no_lines_is_no_dump() {
    let mut endless = io::BufReader::new(io::repeat(b'{').take(1 << 40));
    let error = restore(&mut endless, &mut Memory::default()).expect_err("no dump");
    assert_eq!(error.to_string(), FIRST);
}

#[test]
fn two_sessions_with_one_number_are_a_wrong_line() {
    let line = |id: &str| {
        format!(
            r#"{{"record":"session","client_id":"{id}","number":9,"session_expiry_interval":1}}"#
        )
    };
    let (one, other) = (line("a"), line("b"));
    let dump = [r#"{"record":"dump","version":1}"#, &one, &other, r#"{"record":"end"}"#].join("\n");
    let error = taken_in(&dump).0.expect_err("one of them").to_string();
    assert_eq!(error, "line 3: number 9: another session has it");
}

#[test]
fn a_wrong_line_is_named() {
    let dumped = text(&a_store());
    let lines: Vec<&str> = dumped.lines().collect();
    let at = |number: usize, line: &str| {
        let mut lines = lines.clone();
        lines[number - 1] = line;
        lines.join("\n")
    };
    let cut = lines[..5].join("\n");
    let cut_within = &dumped[..dumped.len() / 2];
    let number = cut_within.lines().count();
    let cases = [
        (String::new(), "line 1: missing: the dump was cut off".to_owned()),
        (cut, "line 6: missing: the dump was cut off".to_owned()),
        (cut_within.to_owned(), format!("line {number}: EOF while parsing")),
        (at(1, lines[1]), FIRST.to_owned()),
        (at(1, "# a list of things"), FIRST.to_owned()),
        (at(1, &"x".repeat(1 << 20)), FIRST.to_owned()),
        (at(1, r#"{"record":"dump","version":2}"#), "line 1: a dump of version 2, not 1".into()),
        (at(4, lines[0]), "line 4: a second dump begins here".to_owned()),
        (at(3, "{"), "line 3: EOF while parsing an object at column 1".to_owned()),
        (at(3, ""), "line 3: EOF while parsing a value".to_owned()),
        (at(3, r#"{"record":"cow"}"#), "line 3: unknown variant `cow`".to_owned()),
        (at(3, lines[1]), "line 3: not in the order of sessions".to_owned()),
        (
            at(4, r##"{"record":"subscription","session":7,"filter":"#/a","qos":1}"##),
            "line 4: filter \"#/a\": Topic Filter invalid (0x8F): # before the last level".into(),
        ),
        (
            at(4, r#"{"record":"subscription","session":7,"filter":"a","qos":3}"#),
            "line 4: qos 3: 0, 1 or 2".to_owned(),
        ),
        (
            at(6, r#"{"record":"inbound","session":8,"packet_identifier":0}"#),
            "line 6: packet_identifier 0: from 1 on".to_owned(),
        ),
        (
            at(6, r#"{"record":"retained","stamp":1,"shard":0,"message":{"topic":"+","qos":1}}"#),
            "line 6: topic \"+\": Topic Name invalid (0x90): wildcard in a topic name".to_owned(),
        ),
        (
            at(6, r#"{"record":"inbound","session":8,"packet_identifier":1,"cow":0}"#),
            "line 6: unknown field `cow`".to_owned(),
        ),
        (format!("{dumped}\n"), format!("line {}: after the end", lines.len() + 1)),
    ];
    for (text, wrong) in cases {
        let error = taken_in(&text).0.expect_err(&wrong).to_string();
        assert!(error.starts_with(&wrong), "{error}\n{wrong}");
    }
}

/// 0 is none; behind the highest number there would be no other, and fjall takes no longer keys.
#[test]
fn what_could_not_be_kept_is_a_wrong_line() {
    let client = |id: &str| {
        format!(
            r#"{{"record":"session","client_id":"{id}","number":9,"session_expiry_interval":1}}"#
        )
    };
    for (line, wrong) in [
        (
            r#"{"record":"inbound","session":0,"packet_identifier":1}"#,
            "session 0: from 1 to 9223372036854775807",
        ),
        (
            r#"{"record":"message","number":9223372036854775808,"message":{"topic":"t","qos":1}}"#,
            "number 9223372036854775808: from 1 to 9223372036854775807",
        ),
        (
            r#"{"record":"subscription","session":7,"filter":"a","qos":1,"subscription_identifier":268435456}"#,
            "subscription_identifier 268435456: at most 268435455",
        ),
        (client("").as_str(), "a key of 0 bytes: from 1 to 65526"),
        (client(&"x".repeat(65_527)).as_str(), "a key of 65527 bytes: from 1 to 65526"),
    ] {
        let dump = [r#"{"record":"dump","version":1}"#, line, r#"{"record":"end"}"#].join("\n");
        let error = taken_in(&dump).0.expect_err(wrong).to_string();
        assert_eq!(error, format!("line 2: {wrong}"));
    }
}

#[test]
fn any_bytes_at_all_are_right_or_wrong() {
    let dumped = text(&a_store());
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..2_000 {
        let mut bytes = dumped.clone().into_bytes();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        let mut memory = Memory::default();
        if restore(&mut bytes.as_slice(), &mut memory).is_ok() {
            let again = text(&memory);
            let (count, restored) = taken_in(&again);
            count.expect("what was written out is right");
            assert_eq!(text(&restored), again);
        }
    }
}

fn orphans(findings: &Findings) -> Vec<(Table, u64)> {
    let all = Table::ALL.into_iter().map(|table| (table, findings.orphans[table as usize]));
    all.filter(|(_, count)| *count > 0).collect()
}

#[test]
fn check_counts_and_finds_nothing_in_a_whole_store() {
    let store = a_store();
    let findings = check(&store);
    assert!(findings.are_whole(), "{findings}");
    assert_eq!(orphans(&findings), []);
    for table in Table::ALL {
        let found = records(&store, table);
        let bytes: usize = found.iter().map(|(key, value)| key.len() + value.len()).sum();
        assert_eq!(findings.records[table as usize], (found.len() as u64, bytes as u64));
    }
}

/// What it says is what a start finds.
#[test]
fn check_finds_what_is_damaged_and_what_belongs_to_nothing() {
    let mut store = a_store();
    for (table, at) in [(Table::Messages, 1), (Table::Sessions, 0), (Table::Queued, 0)] {
        let (key, mut value) = records(&store, table).remove(at);
        value[1] ^= 0x80;
        commit(&mut store, &[put(table, &key, &value)]);
    }
    let findings = check(&store);
    assert!(!findings.are_whole());
    let said = findings.to_string();
    assert!(said.contains(r#"damaged: sessions "away"#), "{said}");
    assert!(said.contains("damaged: messages 3"), "{said}");
    assert!(said.contains("damaged: queued place 1 of session 7"), "{said}");
    let orphaned = [(Table::Subscriptions, 2), (Table::Queued, 2)];
    assert_eq!(orphans(&findings), orphaned, "the session's, and the place of the message");
    let report = Bench::on(store.clone(), 1, START).recovered.report;
    let stray = findings.orphans.iter().sum::<u64>();
    assert_eq!((report.damaged, report.stray), (findings.damaged, stray));
    // The start has set aside what is damaged, and what belongs to nothing, as a session may have had it.
    let findings = check(&store);
    assert_eq!((findings.damaged, orphans(&findings)), (0, vec![]));
    assert!(!findings.are_whole() && findings.to_string().contains("7 set aside"), "{findings}");
}

/// Of a place whose message is gone, too, also if it is in flight.
#[test]
fn check_finds_all_that_a_start_removes() {
    let mut store = a_store();
    for (key, _) in records(&store, Table::Messages) {
        commit(&mut store, &[delete(Table::Messages, &key)]);
    }
    let stray = orphans(&check(&store)).iter().map(|(_, count)| count).sum::<u64>();
    assert_eq!(Bench::on(store, 1, START).recovered.report.stray, stray);
}

#[test]
fn check_goes_on_where_a_table_cannot_be_read() {
    let findings = check(&Unreadable::new(a_store(), |table, _| table == Table::Retained));
    assert!(!findings.are_whole());
    let said = findings.to_string();
    assert!(said.contains("retained cannot be read to the end: Input/output error"), "{said}");
    assert_eq!(findings.records[Table::Sessions as usize].0, 2);
    let mut out = io::sink();
    dump(&Unreadable::new(a_store(), |table, _| table == Table::Retained), &mut out)
        .expect_err("half a dump is none");
    copy(&Unreadable::new(a_store(), |table, _| table == Table::Retained), &mut Memory::default())
        .expect_err("nor half a copy");
}

#[test]
fn a_copy_is_the_same_in_another_engine() {
    let mut store = a_store();
    commit(&mut store, &[put(Table::Messages, b"no number", b"no message")]);
    for engine in [Engine::Fjall, Engine::Sqlite] {
        let path = TempDir::new().expect("a directory");
        let filling = Filling::new(path.path(), engine).expect("empty");
        let mut to = filling.records().expect("new");
        assert_eq!(copy(&store, &mut *to).expect("room"), 16);
        drop(to);
        filling.finish().expect("room");
        let directory = Directory::existing(path.path()).expect("there");
        assert_eq!(directory.engine(), engine);
        assert_eq!(all(&*directory.records().expect("whole")), all(&store));
    }
}

fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).expect("a directory");
    entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect()
}

#[test]
fn what_is_not_filled_to_the_end_leaves_nothing() {
    let path = TempDir::new().expect("a directory");
    let deep = path.path().join("data");
    for engine in [Engine::Fjall, Engine::Sqlite] {
        let filling = Filling::new(&deep, engine).expect("new");
        let mut store = filling.records().expect("new");
        commit(&mut *store, &[put(Table::Retained, b"t", b"x")]);
        assert!(matches!(Directory::existing(&deep), Err(DirectoryError::InUse(_))));
        drop((store, filling));
        assert!(!deep.exists(), "{:?}", names(&deep));
        // One that was there stays, empty.
        drop(Filling::new(path.path(), engine).expect("empty"));
        assert_eq!(names(path.path()), ["lock"]);
    }
}

#[test]
fn a_filling_that_was_killed_is_refused_and_can_be_begun_anew() {
    let path = TempDir::new().expect("a directory");
    let filling = Filling::new(path.path(), Engine::Sqlite).expect("empty");
    let mut store = filling.records().expect("new");
    commit(&mut *store, &[put(Table::Retained, b"t", b"x")]);
    // As if killed: what would clean up is not run.
    let copied = Place::Files(path, Engine::Sqlite).snapshot();
    drop((store, filling));
    let Place::Files(path, _) = copied else { unreachable!() };
    for refused in [Directory::open(path.path(), Engine::Sqlite), Directory::existing(path.path())]
    {
        let refused = refused.expect_err("it is not whole");
        assert!(matches!(refused, DirectoryError::Unfinished(_)), "{refused:?}");
        let way_out = ": fill it anew, with sluice store restore or migrate";
        assert!(refused.to_string().ends_with(way_out), "{refused}");
    }
    let filling = Filling::new(path.path(), Engine::Fjall).expect("it counts as empty");
    filling.finish().expect("room");
    let directory = Directory::existing(path.path()).expect("there");
    assert_eq!(records(&*directory.records().expect("whole"), Table::Retained), []);
    assert!(!path.path().join("sluice.sqlite").exists());
}

/// Not even the draft of its format.
#[test]
fn a_filling_whose_end_fails_leaves_nothing() {
    let path = TempDir::new().expect("a directory");
    for engine in [Engine::Fjall, Engine::Sqlite] {
        let filling = Filling::new(path.path(), engine).expect("empty");
        drop(filling.records().expect("new"));
        let format = path.path().join("format");
        fs::remove_file(&format).expect("it is there");
        fs::create_dir(&format).expect("made");
        filling.finish().expect_err("that cannot be replaced");
        let mut left = names(path.path());
        left.sort();
        assert_eq!(left, ["format", "lock"]);
        fs::remove_dir(&format).expect("it is empty");
    }
}

/// Who was killed before there was a format has stored nothing.
#[test]
fn a_draft_of_a_format_counts_as_nothing() {
    let path = TempDir::new().expect("a directory");
    for name in ["lock", "format.new"] {
        fs::write(path.path().join(name), "").expect("written");
    }
    Filling::new(path.path(), Engine::Fjall).expect("it counts as empty").finish().expect("room");
    assert!(!path.path().join("format.new").exists());
}

#[test]
fn only_an_empty_directory_is_filled() {
    let path = TempDir::new().expect("a directory");
    fs::write(path.path().join("letter"), "dear").expect("written");
    let error = Filling::new(path.path(), Engine::Fjall).expect_err("not empty");
    assert!(error.to_string().contains(" is not empty: "), "{error}");
    assert_eq!(names(path.path()), ["letter"], "nothing was changed");
    let error = Directory::existing(path.path()).expect_err("no data directory");
    assert!(error.to_string().contains("is no data directory"), "{error}");
    assert_eq!(names(path.path()), ["letter"]);
}

#[test]
fn a_broker_starts_on_what_was_filled() {
    let path = TempDir::new().expect("a directory");
    let filling = Filling::new(path.path(), Engine::Fjall).expect("empty");
    let mut store = filling.records().expect("new");
    restore(&mut text(&a_store()).as_bytes(), &mut *store).expect("right");
    drop(store);
    filling.finish().expect("room");
    let directory = Directory::open(path.path(), Engine::Fjall).expect("finished");
    let open = Box::new(move || directory.records());
    let (recovered, mut writer, links) =
        recover(open, Commit::Disk, START, 1, PROGRESS_RECORDS).expect("whole");
    assert_eq!((recovered.report.damaged, recovered.report.stray), (0, 0));
    assert_eq!((recovered.sessions.len(), recovered.retained.len()), (2, 2));
    links[0].submit(Turn { turn: 1, changes: vec![session("new", 9)].into(), ..Turn::default() });
    writer.step();
    assert_eq!(links[0].committed(), 1);
}
