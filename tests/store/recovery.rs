//! Everything comes back as it was.

use sluice::hooks::{Commit, Store, StoreError, Table};
use sluice::mqtt::{Message, QoS};
use sluice::session::{
    CameBy, Change, IdentityRecord, PageOfQueue, PageRequest, Paged, QueuedRecord, Restored,
    SessionRecord, SubscriptionRecord, Will,
};
use sluice::store::{Epoch, Memory, PROGRESS_RECORDS, StoredSession, recover};
use sluice::timer::Time;

use crate::engines::{Watched, commit, put, records};
use crate::said::said;
use crate::turns::{Bench, START, id, message, paged, queued, request, retained, session};

fn will(delay_interval: u32) -> Will {
    let message = Message::new("will", QoS::AtLeastOnce, true, b"gone", b"\x01\x01", None, Time(0));
    Will { message, message_expiry_interval: Some(60), delay_interval }
}

fn identity() -> IdentityRecord {
    IdentityRecord {
        user: Some("alice".into()),
        certificate: Some("Alice's".into()),
        peer: ([192, 0, 2, 1], 4711).into(),
        protocol_version: 5,
    }
}

/// 50 s after [`START`] its client was gone, 80 s after it its Will is due.
fn full_session() -> SessionRecord {
    SessionRecord {
        client_id: "cliënt".into(),
        session: 5,
        session_expiry_interval: 100,
        disconnected_at: Some(Time(50_000)),
        will: Some(will(30)),
        will_at: Some(Time(80_000)),
        identity: Some(identity()),
    }
}

fn full_subscriptions() -> [SubscriptionRecord; 2] {
    let shared = SubscriptionRecord {
        filter: "$share/g/a/#".into(),
        qos: QoS::ExactlyOnce,
        no_local: false,
        retain_as_published: true,
        identifier: 268_435_455,
        retained_after: Some("a/topic".into()),
    };
    let filter = "a/ü/+".into();
    let own = SubscriptionRecord { filter, no_local: true, identifier: 0, ..shared.clone() };
    [shared, own]
}

fn full_queued() -> QueuedRecord {
    QueuedRecord {
        message: message("waits"),
        qos: QoS::ExactlyOnce,
        retain: true,
        packet_id: None,
        number: 0,
        paged: false,
        came_by: CameBy::new(&[7, 8], Some(3), Some("$share/g/a/#")),
    }
}

#[test]
fn a_session_comes_back_with_all_that_belongs_to_it() {
    let mut bench = Bench::new(1);
    let [shared, own] = full_subscriptions();
    let brief = SubscriptionRecord { filter: "x".into(), ..own.clone() };
    let subscribed = |record| Change::Subscribed(5, Box::new(record));
    let (sent, text) = (message("sent"), message("released"));
    let (session, place, number, packet_id, order, flew) = (5, 1, 0, id(10), 77, true);
    let message = text.clone();
    let released = Change::Released { session, place, message, number, packet_id, order, flew };
    let changes = vec![
        Change::Session(Box::new(full_session())),
        subscribed(shared),
        subscribed(own),
        subscribed(brief),
        Change::Unsubscribed(5, "x".into()),
        Change::Held(5, id(65_535)),
        Change::Held(5, id(2)),
        Change::Freed(5, id(2)),
        queued(5, 1, &text),
        queued(5, 2, &sent),
        Change::Queued(5, 3, full_queued()),
        Change::InFlight(5, 1, id(10)),
        Change::InFlight(5, 2, id(11)),
        released,
    ];
    bench.commit(1, changes);
    // 60 s later on the clock on the wall; the broker's begins anew.
    let mut bench = bench.restart_at(Epoch { unix_ms: START.unix_ms + 60_000 });
    assert_eq!(bench.recovered.next_session, 6);
    let found = bench.recovered.sessions.pop().expect("one");
    assert_is_full(&found);
    assert_is_full_page(&bench.page(1, 5, 3), found.paged);
    assert_eq!(bench.count(Table::Messages), 2, "the one released needs no message");
}

/// Ten seconds after its client was gone.
fn assert_is_full(found: &StoredSession) {
    let record = &found.record;
    assert_eq!((&*record.client_id, record.session), ("cliënt", 5));
    assert_eq!(record.disconnected_at, Some(Time(0)));
    assert_eq!(record.session_expiry_interval, 90, "10 of 100 s have passed");
    assert_eq!(record.will_at, Some(Time(20_000)));
    assert_eq!(record.identity, Some(identity()));
    let will = record.will.as_ref().expect("a will");
    assert_eq!((will.delay_interval, will.message_expiry_interval), (30, Some(60)));
    let m = &will.message;
    assert_eq!((m.topic(), m.payload(), m.properties()), ("will", &b"gone"[..], &[1, 1][..]));
    assert_eq!((m.qos(), m.retain()), (QoS::AtLeastOnce, true));
    assert_eq!(found.subscriptions, full_subscriptions());
    assert_eq!(found.inbound, [id(65_535)]);
    let [
        (1, Restored::Released { packet_id, order: 77 }),
        (2, Restored::Message { record: second, flew: true }),
    ] = &found.kept[..]
    else {
        unreachable!("{:?}", found.kept)
    };
    assert_eq!((*packet_id, second.packet_id), (id(10), Some(id(11))));
    assert_eq!(second.message.payload(), b"sent");
    let (bytes, next_expiry) = (found.paged.bytes, None);
    let paged = Paged { first: 3, end: 4, messages: 1, bytes, shared: true, next_expiry };
    assert_eq!(found.paged, paged);
}

fn assert_is_full_page(page: &PageOfQueue, paged: Paged) {
    assert!(page.is_last && page.lost == 0 && page.end == 4);
    let [(3, found)] = &page.messages[..] else { unreachable!("{page:?}") };
    let queued = full_queued();
    assert_eq!(found.message.size() as u64, paged.bytes);
    assert_eq!(found.message.payload(), queued.message.payload());
    assert_eq!((found.qos, found.retain, found.packet_id), (queued.qos, queued.retain, None));
    assert_eq!((found.identifiers(), found.share()), (queued.identifiers(), queued.share()));
}

#[test]
fn a_session_that_was_connected_and_one_that_never_ends() {
    let mut bench = Bench::new(1);
    let forever = SessionRecord {
        client_id: "forever".into(),
        session: 2,
        session_expiry_interval: u32::MAX,
        disconnected_at: Some(Time(1)),
        will: None,
        will_at: None,
        identity: None,
    };
    bench.commit(1, vec![session("connected", 1), Change::Session(Box::new(forever))]);
    let bench = bench.restart_at(Epoch { unix_ms: START.unix_ms + 5_000_000 });
    let found: Vec<_> = bench
        .recovered
        .sessions
        .iter()
        .map(|session| (session.record.disconnected_at, session.record.session_expiry_interval))
        .collect();
    assert_eq!(found, [(None, 3600), (Some(Time(0)), u32::MAX)]);
}

#[test]
fn messages_expire_by_the_clock_on_the_wall() {
    let mut bench = Bench::new(1);
    let expiring = |topic, seconds| {
        Message::new(topic, QoS::AtLeastOnce, true, b"x", b"", Some(seconds), Time(1_000))
    };
    let retained = |m: Message| Change::Retained(m.topic().into(), (1, 0), Some(m));
    bench.commit(
        1,
        vec![
            session("a", 1),
            queued(1, 1, &expiring("q", 100)),
            retained(expiring("gone", 10)),
            retained(expiring("there", 100)),
        ],
    );
    let mut bench = bench.restart_at(Epoch { unix_ms: START.unix_ms + 60_000 });
    let (_, record) = bench.page(1, 1, 1).messages.remove(0);
    assert_eq!(record.message.message_expiry_interval(Time(0)), Some(41));
    let topics: Vec<_> = bench.recovered.retained.iter().map(|found| &*found.topic).collect();
    assert_eq!(topics, ["there"]);
    assert_eq!(bench.count(Table::Retained), 1, "what has expired is removed");
}

/// [MQTT-3.1.2-23] [MQTT-3.3.2-5] The clock on the wall is set, on which this start went by another time: what
/// is written from then on goes by the new one, or else the next start would take it to be older.
#[test]
fn a_clock_that_is_set_ends_nothing_before_its_time() {
    const DAYS: u64 = 200_000_000;
    for set in [START.unix_ms + DAYS, START.unix_ms - DAYS] {
        let mut bench = Bench::new(1);
        bench.writer.follow(Epoch { unix_ms: set });
        let away = SessionRecord {
            client_id: "away".into(),
            session: 1,
            session_expiry_interval: 100,
            disconnected_at: Some(Time(50_000)),
            will: None,
            will_at: Some(Time(80_000)),
            identity: None,
        };
        let expiring =
            |topic| Message::new(topic, QoS::AtLeastOnce, true, b"x", b"", Some(100), Time(1_000));
        let retained = Change::Retained("r".into(), (1, 0), Some(expiring("r")));
        let changes = vec![Change::Session(Box::new(away)), queued(1, 1, &expiring("q")), retained];
        bench.commit(1, changes);
        let mut bench = bench.restart_at(Epoch { unix_ms: set + 60_000 });
        let found = &bench.recovered.sessions[0];
        assert_eq!(found.record.session_expiry_interval, 90);
        assert_eq!(found.record.will_at, Some(Time(20_000)));
        assert_eq!(found.paged.next_expiry, Some(Time(41_000)));
        let left = |message: &Message| message.message_expiry_interval(Time(0));
        assert_eq!(left(&bench.recovered.retained[0].message), Some(41));
        let (_, record) = bench.page(1, 1, 1).messages.remove(0);
        assert_eq!(left(&record.message), Some(41));
    }
}

/// [MQTT-3.1.3-9] The clock is behind at this start, as that of a machine without a battery for it is: who was away
/// is away since now, and not until a day that may be years from now.
#[test]
fn a_clock_that_is_behind_puts_nothing_off_for_longer_than_it_was_to_wait() {
    let mut bench = Bench::new(1);
    let will = Will {
        message: Message::new("will", QoS::AtLeastOnce, false, b"gone", b"", None, Time(0)),
        message_expiry_interval: None,
        delay_interval: 30,
    };
    let away = SessionRecord {
        client_id: "away".into(),
        session: 1,
        session_expiry_interval: 100,
        disconnected_at: Some(Time(50_000)),
        will: Some(will),
        will_at: Some(Time(80_000)),
        identity: None,
    };
    bench.commit(1, vec![Change::Session(Box::new(away))]);
    let memory = bench.memory.crashed();
    let mut found = None;
    let lines = said(|| found = Some(Bench::on(memory, 1, Epoch { unix_ms: 0 })));
    let why = "the time of day is earlier, by 1700000050 s at least, than when this was stored";
    assert!(lines.contains(why), "{lines}");
    let found = found.expect("it opens").recovered.sessions.pop().expect("one").record;
    assert_eq!((found.session_expiry_interval, found.disconnected_at), (100, Some(Time(0))));
    assert_eq!(found.will_at, Some(Time(30_000)));
}

/// [MQTT-3.3.2-5] In the life in which it was queued a message expires when it should, however the clock on
/// the wall is set before or afterwards.
#[test]
fn a_clock_that_is_set_does_not_change_what_is_read_back() {
    const TIMES: u64 = 40;
    let mut bench = Bench::new(1);
    bench.commit(1, vec![session("a", 1)]);
    for n in 1..=TIMES {
        let at = Time(n * 1000);
        let message = Message::new("t", QoS::AtLeastOnce, false, b"x", b"", Some(500), at);
        bench.commit(1 + n, vec![paged(1, n, &message)]);
        bench.writer.follow(Epoch { unix_ms: START.unix_ms + (n * 7 % 11) * 1_000_000 });
    }
    let look = PageRequest { expired_by: Some(Time(500_000)), ..request(1, 1, 100) };
    let looked = bench.ask(100, look).expect("at once").expired.expect("a look");
    assert_eq!((looked.messages, looked.next_expiry), (0, Some(Time(501_000))));
    let page = bench.page(101, 1, 1);
    assert_eq!(page.messages.len() as u64, TIMES);
    for (place, record) in page.messages {
        assert_eq!(record.message.expires_at(), Some(Time(place * 1000 + 500_000)));
    }
}

/// There are sixteen epochs in a life. What is not followed any more, the log says once.
#[test]
fn a_clock_that_is_set_too_often_is_told_of() {
    let mut bench = Bench::new(1);
    let mut told = |times: std::ops::Range<u64>| {
        said(|| {
            let set = times.map(|n| Epoch { unix_ms: START.unix_ms + n * 10_000 });
            set.for_each(|set| bench.writer.follow(set));
        })
    };
    assert_eq!(told(1..16), "");
    let lines = told(16..20);
    assert_eq!(
        lines.matches("the time of day was set more often than is followed").count(),
        1,
        "{lines}"
    );
}

/// [MQTT-3.3.2-5] What expired while nobody was there is removed, unless its delivery had begun.
#[test]
fn what_expired_meanwhile_is_removed() {
    let mut bench = Bench::new(1);
    let brief =
        |seconds| Message::new("t", QoS::AtLeastOnce, false, b"x", b"", Some(seconds), Time(1_000));
    let (both, sent, later) = (brief(10), brief(10), brief(100));
    let changes = vec![
        session("a", 1),
        session("b", 2),
        queued(1, 1, &sent),
        Change::InFlight(1, 1, id(7)),
        queued(1, 2, &both),
        paged(1, 3, &later),
        paged(1, 4, &message("ever")),
        paged(2, 1, &both),
        paged(2, 2, &brief(10)),
    ];
    bench.commit(1, changes);
    let bench = bench.restart_at(Epoch { unix_ms: START.unix_ms + 60_000 });
    let [a, b] = &bench.recovered.sessions[..] else { panic!("two sessions") };
    assert_eq!((a.kept.len(), a.paged.messages, a.expired), (1, 2, 1));
    assert_eq!((a.paged.first, a.paged.next_expiry), (3, Some(Time(41_000))));
    assert_eq!((b.paged.messages, b.expired), (0, 2));
    let report = bench.recovered.report;
    assert_eq!((report.expired, report.stray, report.damaged), (3, 0, 0));
    assert_eq!((bench.count(Table::Queued), bench.count(Table::Messages)), (3, 3));
    let bench = bench.restart_at(Epoch { unix_ms: START.unix_ms + 60_000 });
    assert_eq!(bench.recovered.report.expired, 0);
}

#[test]
fn an_ended_session_leaves_nothing() {
    let mut bench = Bench::new(1);
    let m = message("m");
    bench.commit(1, vec![session("a", 1), queued(1, 1, &m), Change::Held(1, id(1))]);
    bench.commit(
        2,
        vec![
            crate::turns::removed(1, 1, &m),
            Change::Freed(1, id(1)),
            Change::Ended { client_id: "a".into() },
        ],
    );
    for table in Table::ALL {
        assert_eq!(bench.count(table), 0, "{table:?}");
    }
}

#[test]
fn damaged_records_are_set_aside_and_the_rest_comes_back() {
    let mut bench = Bench::new(1);
    bench.commit(
        1,
        vec![
            session("a", 1),
            session("b", 2),
            queued(1, 1, &message("first")),
            queued(1, 2, &message("second")),
            queued(2, 1, &message("third")),
        ],
    );
    let mut memory = bench.memory.clone();
    for (table, at) in [(Table::Messages, 1), (Table::Sessions, 1)] {
        let (key, mut value) = records(&memory, table).remove(at);
        let middle = value.len() / 2;
        value[middle] ^= 0x10;
        commit(&mut memory, &[put(table, &key, &value)]);
    }
    let bench = Bench::on(memory, 1, START);
    let report = bench.recovered.report;
    assert_eq!(report.damaged, 2, "a message and a session");
    // The place of "second"; the place of "third", whose session is damaged, and its message.
    assert_eq!(report.stray, 3);
    assert_eq!(bench.recovered.sessions.len(), 1);
    assert_eq!(bench.recovered.sessions[0].paged.messages, 1);
    // With what may be what the session had.
    assert_eq!(bench.count(Table::Damaged), 5);
    assert_eq!((bench.count(Table::Messages), bench.count(Table::Queued)), (1, 1));
    // What was set aside stays there.
    let bench = bench.restart();
    assert_eq!(bench.recovered.report.damaged, 0);
    assert_eq!(bench.count(Table::Damaged), 5);
}

/// What a damaged session had is set aside, though the machine stops in the middle of that.
#[test]
fn wherever_a_start_stops_the_next_sets_the_rest_aside() {
    const MESSAGES: u64 = 4_000;
    let mut bench = Bench::new(1);
    let mut changes = vec![session("a", 1), session("b", 2)];
    changes.extend((1..=MESSAGES).map(|place| queued(1, place, &message("text"))));
    bench.commit(1, changes);
    let mut memory = bench.memory.clone();
    let (key, mut value) = records(&memory, Table::Sessions).remove(0);
    value[3] ^= 1;
    commit(&mut memory, &[put(Table::Sessions, &key, &value)]);
    let mut stops = 0;
    for commits in 0.. {
        let memory = memory.killed();
        let dying = memory.clone();
        let open = Box::new(move || {
            let mut left: u32 = commits;
            let dying = Watched::new(dying.clone(), move |_, _| {
                let stops = || StoreError("the machine stops".to_owned());
                left = left.checked_sub(1).ok_or_else(stops)?;
                Ok(())
            });
            Ok(Box::new(dying) as Box<dyn Store>)
        });
        let is_ended = recover(open, Commit::Disk, START, 1, PROGRESS_RECORDS).is_ok();
        let bench = Bench::on(memory, 1, START);
        assert_eq!(bench.count(Table::Damaged) as u64, 1 + 2 * MESSAGES, "after {commits} commits");
        assert_eq!((bench.count(Table::Sessions), bench.count(Table::Messages)), (1, 0));
        if is_ended {
            break;
        }
        stops += 1;
    }
    assert!(stops > 2, "{stops}");
}

/// 0 is none, and behind the highest number there would be no other.
#[test]
fn what_has_a_number_that_is_none_or_has_none_behind_it_is_damaged() {
    let text = message("text");
    let released = |order| {
        let (session, place, message, number) = (1, 1, text.clone(), 0);
        Change::Released { session, place, message, number, packet_id: id(1), order, flew: false }
    };
    for number in [0, u64::MAX] {
        for changes in [
            vec![session("a", number)],
            vec![session("a", 1), queued(1, number, &text)],
            vec![session("a", 1), released(number)],
            vec![retained("t", (number, 0), "text")],
        ] {
            let what = format!("{changes:?}");
            let mut bench = Bench::new(1);
            bench.commit(1, changes);
            let bench = bench.restart();
            assert_eq!(bench.recovered.report.damaged, 1, "{what}");
            assert_eq!(bench.count(Table::Damaged), 1, "{what}");
        }
    }
}

/// [MQTT-4.7.1-1]
#[test]
fn a_subscription_to_what_is_no_filter_is_damaged() {
    let mut bench = Bench::new(1);
    let subscribed = |filter: &str| {
        Change::Subscribed(
            1,
            Box::new(SubscriptionRecord {
                filter: filter.into(),
                qos: QoS::AtLeastOnce,
                no_local: false,
                retain_as_published: false,
                identifier: 0,
                retained_after: None,
            }),
        )
    };
    bench.commit(1, vec![session("a", 1), subscribed("a/#"), subscribed("a/#/b")]);
    let bench = bench.restart();
    let subscriptions = &bench.recovered.sessions[0].subscriptions;
    assert_eq!(subscriptions.iter().map(|one| &*one.filter).collect::<Vec<_>>(), ["a/#"]);
    assert_eq!((bench.recovered.report.damaged, bench.count(Table::Damaged)), (1, 1));
}

/// What is stored under a number belongs to the first session that has it: the other is none.
#[test]
fn of_two_sessions_with_one_number_there_is_one() {
    let mut bench = Bench::new(1);
    bench.commit(1, vec![session("a", 1), session("b", 1), queued(1, 1, &message("text"))]);
    let bench = bench.restart();
    let names: Vec<_> = bench.recovered.sessions.iter().map(|one| &*one.record.client_id).collect();
    assert_eq!((names, bench.recovered.report.stray), (vec!["a"], 1));
    assert_eq!(bench.count(Table::Sessions), 1);
}

#[test]
fn any_bytes_at_all_are_records_or_damaged() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let mut memory = Memory::default();
        let mut writes = Vec::new();
        for table in Table::ALL {
            let key: Vec<u8> = (0..random.usize(1..24)).map(|_| random.u8(..)).collect();
            let value: Vec<u8> = (0..random.usize(0..64)).map(|_| random.u8(..)).collect();
            writes.push(put(table, &key, &value));
        }
        commit(&mut memory, &writes);
        let bench = Bench::on(memory, 1, START);
        assert_eq!(bench.recovered.report.damaged, Table::COUNT as u64 - 1);
        assert!(bench.recovered.sessions.is_empty() && bench.recovered.retained.is_empty());
    }
}

#[test]
fn how_far_it_is_is_told() {
    let mut bench = Bench::new(1);
    let mut changes = vec![session("a", 1)];
    changes.extend((1..=5).map(|place| queued(1, place, &message(&place.to_string()))));
    bench.commit(1, changes);
    let memory = bench.memory.clone();
    let told = |progress| {
        let memory = memory.clone();
        let open = Box::new(move || Ok(Box::new(memory.clone()) as Box<dyn Store>));
        said(|| _ = recover(open, Commit::Disk, START, 1, progress).expect("whole records"))
    };
    // Five messages, a session, five places.
    let lines = told(4);
    let lines: Vec<_> = lines.lines().filter_map(|line| line.split_once("INFO ")).collect();
    let ends = ["4 records, now messages", "8 records, now queued"];
    assert!(
        lines
            .iter()
            .map(|(_, line)| *line)
            .eq(ends.map(|end| format!("sluice::store::recovery: reading the store: {end}"))),
        "{lines:?}"
    );
    assert_eq!(told(12), "");
}
