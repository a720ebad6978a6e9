//! How long it takes to open what is stored. A small store here;
//! `STORED_MESSAGES=1000000 STORED_SESSIONS=10000 cargo test --release --test store opening -- --nocapture`
//! for a large one.

use std::ops::Range;
use std::time::{Duration, Instant};

use sluice::hooks::Commit;
use sluice::mqtt::{Message, QoS};
use sluice::session::{Change, Restored};
use sluice::store::{Directory, Engine, Open, PROGRESS_RECORDS, Turn, recover};
use sluice::timer::Time;
use tempfile::TempDir;

use crate::engines::Place;
use crate::turns::{START, id, paged, session};

/// A million messages over ten thousand sessions.
const WITHIN: Duration = Duration::from_secs(10);
/// Of each message.
const PAYLOAD: usize = 256;
/// Of each session, in flight.
const IN_FLIGHT: u64 = 2;
/// In one turn.
const MESSAGES: u64 = 2_000;

/// A number from the environment.
fn size(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn open_of(directory: Directory) -> Open {
    Box::new(move || directory.mended_records())
}

/// The messages of a range, each for one session, in turn.
fn changes(range: Range<u64>, sessions: u64) -> Vec<Change> {
    let mut changes = Vec::new();
    for n in range {
        let (number, place) = (n % sessions + 1, n / sessions + 1);
        let payload = format!("{n:PAYLOAD$}");
        let topic = format!("sensors/{number}/temperature");
        let qos = QoS::AtLeastOnce;
        let message = Message::new(&topic, qos, false, payload.as_bytes(), b"", None, Time(0));
        changes.push(paged(number, place, &message));
        if place <= IN_FLIGHT {
            changes.push(Change::InFlight(number, place, id(place as u16)));
        }
    }
    changes
}

/// What a broker leaves that is killed after it has stored so much.
fn filled(engine: Engine, messages: u64, sessions: u64) -> Place {
    let place = Place::Files(TempDir::new().expect("a directory"), engine);
    let Place::Files(path, _) = &place else { unreachable!() };
    let directory = Directory::open(path.path(), engine).expect("new");
    let opened = recover(open_of(directory), Commit::System, START, 1, PROGRESS_RECORDS);
    let (_, mut writer, links) = opened.expect("new");
    let mut turn = 0;
    let mut commit = |changes: Vec<Change>| {
        turn += 1;
        links[0].submit(Turn { turn, changes: changes.into(), ..Turn::default() });
        writer.step();
        assert_eq!(links[0].committed(), turn);
    };
    commit((1..=sessions).map(|n| session(&format!("client {n}"), n)).collect());
    for first in (0..messages).step_by(MESSAGES as usize) {
        commit(changes(first..messages.min(first + MESSAGES), sessions));
    }
    place.snapshot()
}

fn opens_in_time(engine: Engine) {
    let is_large = size("STORED_MESSAGES").is_some();
    let messages = size("STORED_MESSAGES").unwrap_or(5_000);
    let sessions = size("STORED_SESSIONS").unwrap_or(50);
    let place = filled(engine, messages, sessions);
    let Place::Files(path, _) = &place else { unreachable!() };
    let begun = Instant::now();
    let directory = Directory::open(path.path(), engine).expect("nobody has it");
    let opened = recover(open_of(directory), Commit::System, START, 2, PROGRESS_RECORDS);
    let (recovered, ..) = opened.expect("whole");
    let took = begun.elapsed();
    eprintln!("{messages} messages over {sessions} sessions, {}: {took:?}", engine.name());
    assert_eq!((recovered.report.messages, recovered.report.stray), (messages, 0));
    assert_eq!(recovered.sessions.len() as u64, sessions);
    let (mut waiting, mut in_flight) = (0, 0);
    for session in &recovered.sessions {
        waiting += u64::from(session.paged.messages);
        let is_message = |kept: &&(u64, Restored)| matches!(kept.1, Restored::Message { .. });
        in_flight += session.kept.iter().filter(is_message).count() as u64;
    }
    assert_eq!((waiting + in_flight, in_flight), (messages, sessions * IN_FLIGHT));
    // What little there is waits for a disk that others may use.
    assert!(!is_large || took < WITHIN, "{took:?}");
}

#[test]
fn opening_fjall() {
    opens_in_time(Engine::Fjall);
}

#[test]
fn opening_sqlite() {
    opens_in_time(Engine::Sqlite);
}
