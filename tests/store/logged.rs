//! The log in front of an engine: whatever stops, and when, all that was committed is there.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use fastrand::Rng;
use sluice::hooks::{Commit, Store, Table, Write};
use sluice::session::Change;
use sluice::store::{Logged, Memory, MemorySegments, PROGRESS_RECORDS, Turn, recover};

use crate::engines::{Watched, records};
use crate::turns::{START, id, message, queued, session};

const SEEDS: u64 = 150;

type Model = BTreeMap<(Table, Vec<u8>), Vec<u8>>;

/// A store, and what has to be in it.
struct Scene {
    rng: Rng,
    engine: Memory,
    segments: MemorySegments,
    segment_bytes: u64,
    store: Logged<Memory, MemorySegments>,
    /// After the last commit.
    model: Model,
    /// Nothing was committed since the last commit to disk.
    is_on_disk: bool,
}

fn nothing() -> Logged<Memory, MemorySegments> {
    Logged::open(Memory::default(), MemorySegments::default(), 1).expect("new")
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let (engine, segments) = (Memory::default(), MemorySegments::default());
        let segment_bytes = rng.u64(100..4_000);
        let store = Logged::open(engine.clone(), segments.clone(), segment_bytes).expect("new");
        let (model, is_on_disk) = (Model::default(), true);
        Self { rng, engine, segments, segment_bytes, store, model, is_on_disk }
    }

    /// Some records; those that are new said to be so, as a rule.
    fn writes(&mut self) -> Vec<Write> {
        let mut writes = BTreeMap::new();
        for _ in 0..self.rng.usize(1..12) {
            let table = *self.rng.choice(&[Table::Queued, Table::Retained]).expect("two");
            let len = if table == Table::Queued { 16 } else { self.rng.usize(1..30) };
            let key = vec![self.rng.u8(0..25); len];
            let value =
                (self.rng.u8(0..5) > 1).then(|| vec![self.rng.u8(..); self.rng.usize(0..150)]);
            let fresh = value.is_some()
                && !self.model.contains_key(&(table, key.clone()))
                && self.rng.u8(0..5) > 0;
            writes.insert((table, key.clone()), Write { table, key: key.into(), value, fresh });
        }
        writes.into_values().collect()
    }

    fn commit(&mut self) {
        let writes = self.writes();
        let commit = if self.rng.bool() { Commit::Disk } else { Commit::System };
        self.store.commit(&writes, commit).expect("room");
        self.apply(&writes);
        self.is_on_disk = commit == Commit::Disk;
    }

    fn apply(&mut self, writes: &[Write]) {
        apply(&mut self.model, writes);
    }

    fn open(&mut self, engine: Memory, segments: MemorySegments) {
        // One at a time.
        self.store = nothing();
        (self.engine, self.segments) = (engine, segments);
        let (engine, segments) = (self.engine.clone(), self.segments.clone());
        self.store = Logged::open(engine, segments, self.segment_bytes).expect("whole");
    }

    /// The process is killed; nothing may be lost.
    fn kill(&mut self) {
        let (engine, segments) = (self.engine.killed(), self.segments.killed());
        self.open(engine, segments);
        // To open is to commit to disk.
        self.is_on_disk = true;
    }

    /// The machine stops in the middle of what it does: of a commit all is there, or nothing.
    fn crash(&mut self) {
        self.segments.fail_after(self.rng.u32(0..8));
        let mut before = self.model.clone();
        while self.rng.u8(0..4) > 0 {
            before.clone_from(&self.model);
            let writes = self.writes();
            let done = self.store.commit(&writes, Commit::Disk);
            self.apply(&writes);
            if done.is_err() {
                break;
            }
            before.clone_from(&self.model);
        }
        // It may have been closing, too.
        if self.rng.bool() {
            self.store = nothing();
        }
        let mut rng = self.rng.fork();
        let segments = self.segments.crashed(|| rng.bool());
        let engine = if rng.bool() { self.engine.crashed() } else { self.engine.killed() };
        self.open(engine, segments);
        let found = contents(&self.store);
        if found == before {
            self.model = before;
        }
        assert!(found == self.model, "what was never committed");
        self.is_on_disk = true;
    }

    /// What is found while it fails: all that was committed, and perhaps what failed.
    fn check_failing(&self, store: &dyn Store, writes: &[Write]) {
        let found = contents(store);
        let mut after = self.model.clone();
        apply(&mut after, writes);
        assert!(found == self.model || found == after);
        let key = vec![3; 16];
        let one = store.get(Table::Queued, &key).expect("it can be read");
        assert_eq!(one.as_ref(), found.get(&(Table::Queued, key)));
    }

    /// The log takes nothing for a while. If that was found before anything was written, the same store goes
    /// on.
    fn refuse(&mut self) {
        self.segments.fail_after(self.rng.u32(0..4));
        let mut writes = loop {
            let writes = self.writes();
            if self.store.commit(&writes, Commit::Disk).is_err() {
                break writes;
            }
            self.apply(&writes);
        };
        let attempts = self.rng.usize(0..3);
        for _ in 0..attempts {
            self.store.commit(&writes, Commit::Disk).expect_err("it goes on failing");
        }
        self.check_failing(&self.store, &writes);
        self.segments.fail_after(u32::MAX);
        writes.iter_mut().for_each(|write| write.fresh = false);
        if self.store.wants_reopening() {
            self.store.commit(&writes, Commit::Disk).expect_err("it is not known what it has");
            let (engine, segments) = (self.engine.clone(), self.segments.clone());
            self.open(engine, segments);
        } else {
            assert!(contents(&self.store) == self.model);
        }
        self.store.commit(&writes, Commit::Disk).expect("room again");
        self.apply(&writes);
        self.is_on_disk = true;
    }

    /// A commit fails, with nothing or all of it made; whoever made it opens the store anew, and makes it
    /// once more.
    fn fail(&mut self) {
        let mut writes = self.writes();
        self.engine.fail(Some("full"));
        if self.rng.bool() {
            let _ = self.store.get(Table::Queued, b"any");
        }
        if self.store.commit(&writes, Commit::Disk).is_err() {
            self.check_failing(&self.store, &writes);
        }
        let (engine, segments) = (self.engine.clone(), self.segments.clone());
        if self.rng.bool() {
            self.store = nothing();
            let read = Logged::reopen(engine.clone(), segments.clone(), self.segment_bytes);
            let read = read.expect("it can be read");
            assert!(read.wants_reopening());
            self.check_failing(&read, &writes);
            drop(read);
            let again = Logged::open(engine.clone(), segments.clone(), self.segment_bytes);
            assert!(again.is_err(), "the engine has to have what is in the log");
        }
        // What failed does not take it for granted that it works again.
        self.engine.fail(None);
        self.open(engine, segments);
        writes.iter_mut().for_each(|write| write.fresh = false);
        self.store.commit(&writes, Commit::Disk).expect("room again");
        self.apply(&writes);
        self.is_on_disk = true;
    }

    fn step(&mut self) {
        match self.rng.u8(0..40) {
            0 => self.kill(),
            1 if self.is_on_disk => self.crash(),
            2 => self.fail(),
            6 => self.refuse(),
            3 => {
                let (engine, segments) = (self.engine.clone(), self.segments.clone());
                self.open(engine, segments);
                self.is_on_disk = true;
            }
            4 => assert!(contents(&self.store) == self.model),
            5 => {
                let key = vec![self.rng.u8(0..25); 16];
                let found = self.store.get(Table::Queued, &key).expect("whole");
                assert_eq!(found.as_ref(), self.model.get(&(Table::Queued, key)));
            }
            _ => self.commit(),
        }
    }
}

fn apply(model: &mut Model, writes: &[Write]) {
    for Write { table, key, value, .. } in writes {
        match value {
            Some(value) => model.insert((*table, key.to_vec()), value.clone()),
            None => model.remove(&(*table, key.to_vec())),
        };
    }
}

fn contents(store: &dyn Store) -> Model {
    let table =
        |table| records(store, table).into_iter().map(move |(key, value)| ((table, key), value));
    Table::ALL.into_iter().flat_map(table).collect()
}

#[test]
fn whatever_stops_what_was_committed_is_there() {
    for seed in 0..SEEDS {
        eprintln!("seed {seed}");
        let mut scene = Scene::new(seed);
        for _ in 0..scene.rng.usize(1..300) {
            scene.step();
        }
        assert!(contents(&scene.store) == scene.model);
    }
}

/// The engine cannot be brought up to date before; that is said of the next commit, in the engine's words.
#[test]
fn who_reads_does_not_need_an_engine_that_takes_something() {
    let (engine, segments) = (Memory::default(), MemorySegments::default());
    let mut store = Logged::open(engine.clone(), segments, 4_000).expect("new");
    let put = |n: u8| {
        let (key, value) = (vec![n; 16], Some(vec![n; 60]));
        [Write { table: Table::Queued, key: key.into(), value, fresh: true }]
    };
    store.commit(&put(1), Commit::Disk).expect("room");
    engine.fail(Some("no room"));
    assert_eq!(store.get(Table::Queued, &[1; 16]), Ok(Some(vec![1; 60])));
    assert_eq!(contents(&store).len(), 1);
    for _ in 0..2 {
        let error =
            store.commit(&put(2), Commit::Disk).expect_err("the engine has to have the first");
        assert_eq!(error.to_string(), "no room");
    }
    assert!(store.wants_reopening());
    assert_eq!(contents(&store).len(), 1);
}

/// What few commits remove would be the engine's for long, and take room there.
#[test]
fn the_engine_is_told_what_is_gone_when_nothing_goes_on() {
    let (engine, segments) = (Memory::default(), MemorySegments::default());
    let mut store = Logged::open(engine.clone(), segments, 4_000).expect("new");
    let commit = |store: &mut Logged<_, _>, n: u8, is_there: bool| {
        let (key, value) = (vec![n; 16], is_there.then(|| vec![n; 60]));
        let write = Write { table: Table::Queued, key: key.into(), value, fresh: is_there };
        store.commit(&[write], Commit::Disk).expect("room");
    };
    let counts = |store: &mut Logged<_, _>| (store.catch_up(), contents(&engine).len());
    commit(&mut store, 0, true);
    assert_eq!(counts(&mut store), (false, 1));
    commit(&mut store, 0, false);
    assert_eq!(counts(&mut store), (false, 0));
    // With so many commits it goes by itself.
    (0..60).for_each(|n| commit(&mut store, n, true));
    let before = contents(&engine).len();
    assert_eq!(counts(&mut store), (true, before));
    assert_eq!(counts(&mut store), (false, 60));
}

/// That a segment is given up counts when the disk knows, and an opening sees to that.
#[test]
fn what_was_given_up_does_not_come_back() {
    let (engine, segments) = (Memory::default(), MemorySegments::default());
    let open = |engine: &Memory, segments: &MemorySegments| {
        Logged::open(engine.clone(), segments.clone(), 100)
    };
    let put = |n: u8| {
        let (key, value) = (vec![n; 16], Some(vec![n; 60]));
        [Write { table: Table::Queued, key: key.into(), value, fresh: true }]
    };
    let mut store = open(&engine, &segments).expect("new");
    // The second segment is begun.
    for n in 0..3 {
        store.commit(&put(n), Commit::Disk).expect("room");
    }
    for operations in 0..4 {
        let (engine, segments) = (engine.killed(), segments.killed());
        let store = open(&engine, &segments.killed()).expect("whole");
        drop(store);
        let closing = open(&engine, &segments).expect("whole");
        segments.fail_after(operations);
        drop(closing);
        let (engine, segments) = (engine.killed(), segments.killed());
        let mut store = open(&engine, &segments).expect("whole");
        store.commit(&put(9), Commit::Disk).expect("room");
        let segments = segments.crashed(|| false);
        let left = open(&engine.crashed(), &segments).expect("whole");
        assert_eq!(contents(&left).len(), 4, "after {operations} operations");
    }
}

/// Of commits to the system some may be gone when the machine stops, but never one before one that is there.
#[test]
fn the_engine_has_nothing_that_the_log_could_lose() {
    for seed in 0..SEEDS {
        let mut rng = Rng::with_seed(seed);
        let (engine, segments) = (Memory::default(), MemorySegments::default());
        let mut store = Logged::open(engine.clone(), segments.clone(), 1_000).expect("new");
        let (mut model, mut models) = (Model::default(), vec![Model::default()]);
        for _ in 0..rng.usize(1..200) {
            let (table, key) = (Table::Queued, vec![rng.u8(0..6); 16]);
            let value = rng.bool().then(|| vec![rng.u8(..); 50]);
            match &value {
                Some(value) => _ = model.insert((table, key.clone()), value.clone()),
                None => _ = model.remove(&(table, key.clone())),
            }
            store
                .commit(&[Write { table, key: key.into(), value, fresh: false }], Commit::System)
                .expect("room");
            models.push(model.clone());
            if rng.u8(0..20) == 0 {
                assert!(contents(&store) == model);
            }
        }
        let left = if rng.bool() { engine.crashed() } else { engine.killed() };
        let store = Logged::open(left, segments.crashed(|| false), 1_000).expect("whole");
        assert!(models.contains(&contents(&store)), "seed {seed}");
    }
}

/// Each step is committed by itself, over many segments.
#[test]
fn the_engine_has_nothing_of_a_delivery_at_qos_2_that_goes_on() {
    let (engine, segments) = (Memory::default(), MemorySegments::default());
    let told = Arc::new(Mutex::new(Vec::new()));
    let tells = told.clone();
    let open = Box::new(move || {
        let told = tells.clone();
        let engine = Watched::new(engine.clone(), move |_, writes| {
            told.lock().expect("whole").extend_from_slice(writes);
            Ok(())
        });
        let store = Logged::open(engine, segments.clone(), 8_000)?;
        Ok(Box::new(store) as Box<dyn Store>)
    });
    let (_recovered, mut writer, links) =
        recover(open, Commit::Disk, START, 1, PROGRESS_RECORDS).expect("nothing is in it");
    let mut turn = 0;
    let mut commit = |changes: Vec<Change>| {
        turn += 1;
        links[0].submit(Turn { turn, changes: changes.into(), ..Turn::default() });
        writer.step();
    };
    commit(vec![session("sender", 1), session("receiver", 2)]);
    for place in 1..500 {
        let (session, message, number) = (2, message("text"), 0);
        let packet_id = id(u16::try_from(place).expect("few") % 5 + 1);
        // With its identifier at once, or later.
        let flew = place % 2 == 0;
        let mut sent = queued(session, place, &message);
        if let Change::Queued(_, _, record) = &mut sent {
            record.packet_id = (!flew).then_some(packet_id);
        }
        commit(vec![Change::Held(1, packet_id), sent]);
        if flew {
            commit(vec![Change::InFlight(session, place, packet_id)]);
        }
        commit(vec![Change::Freed(1, packet_id)]);
        let order = place;
        commit(vec![Change::Released { session, place, message, number, packet_id, order, flew }]);
        commit(vec![Change::Completed(session, place)]);
    }
    let told = told.lock().expect("whole");
    assert!(!told.is_empty(), "no segment was full");
    assert!(told.iter().all(|write| write.table == Table::Sessions), "{told:?}");
}
