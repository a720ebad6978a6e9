//! A broker with a store in memory that forgets what was not synced.

use std::sync::Arc;

use fastrand::Rng;
use sluice::hooks::{Commit, Hooks, Store, StoreError, Table, Write};
use sluice::net::sim::{SimDriver, World};
use sluice::shard::{Settings, Shard, Shared, Stored};
use sluice::store::{
    Epoch, Logged, Memory, MemorySegments, PROGRESS_RECORDS, StoredSession, Writer, recover,
};

/// When the store says that a commit is on disk.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Confirms {
    /// When it is.
    Truly,
    /// One commit earlier: what a broker would do whose gate does not hold.
    TooEarly,
}

/// What the machine has on its disk: the records, perhaps behind a log whose segments are soon full.
#[derive(Clone)]
pub(crate) struct Disk {
    memory: Memory,
    log: Option<(MemorySegments, u64)>,
    /// The broker has come to a good end: nobody is connected, for all that is stored.
    is_closed: bool,
}

impl Disk {
    pub(crate) fn new(rng: &mut Rng) -> Self {
        let log = rng.bool().then(|| (MemorySegments::default(), rng.u64(200..20_000)));
        Self { memory: Memory::default(), log, is_closed: false }
    }

    fn open(&self) -> Result<Box<dyn Store>, StoreError> {
        let memory = self.memory.clone();
        Ok(match &self.log {
            Some((segments, bytes)) => Box::new(Logged::open(memory, segments.clone(), *bytes)?),
            None => Box::new(memory),
        })
    }

    /// Nothing can be written, or not to all of it.
    fn fail(&self, rng: &mut Rng) {
        let which = rng.u8(0..3);
        if which < 2 || self.log.is_none() {
            self.memory.fail(Some("the disk is full"));
        }
        if let Some((segments, _)) = self.log.as_ref().filter(|_| which > 0) {
            segments.fail_after(rng.u32(0..6));
        }
    }

    fn mend(&self) {
        self.memory.fail(None);
        if let Some((segments, _)) = &self.log {
            segments.fail_after(u32::MAX);
        }
    }

    /// What is there when the machine stops now.
    fn crashed(&self, rng: &mut Rng) -> Self {
        let crashed =
            |(segments, bytes): &(MemorySegments, u64)| (segments.crashed(|| rng.bool()), *bytes);
        let (memory, log) = (self.memory.crashed(), self.log.as_ref().map(crashed));
        Self { memory, log, is_closed: false }
    }
}

/// The records as the writer sees them.
struct Records {
    store: Box<dyn Store>,
    confirms: Confirms,
}

impl Store for Records {
    fn commit(&mut self, writes: &[Write], commit: Commit) -> Result<(), StoreError> {
        // A log does not tell the engine of the removal of what is said to be new.
        for Write { table, key, fresh, .. } in writes {
            assert!(!fresh || self.get(*table, key)?.is_none(), "{table:?} {key:?} is there");
        }
        match self.confirms {
            Confirms::Truly => self.store.commit(writes, commit),
            Confirms::TooEarly => {
                // What was said to be there before now is.
                self.store.commit(&[], commit)?;
                self.store.commit(writes, Commit::System)
            }
        }
    }

    fn wants_reopening(&self) -> bool {
        self.store.wants_reopening()
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(table, key)
    }

    fn range(
        &self,
        table: Table,
        from: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.store.range(table, from, each)
    }
}

pub(crate) struct Broker {
    world: World,
    disk: Disk,
    shared: Arc<Shared>,
    shards: Vec<Shard<SimDriver>>,
    writer: Writer,
    awake: Vec<bool>,
    stopped: Vec<bool>,
    /// Messages that it found for somebody, expired or not.
    found: u64,
}

impl Broker {
    /// Starts with what is on the disk, by the time of day of the world's time 0.
    pub(crate) fn start(
        world: &World,
        epoch: Epoch,
        disk: Disk,
        confirms: Confirms,
        settings: &Settings,
        (shards, seed): (u8, u64),
    ) -> Self {
        let drivers: Vec<_> = (0..shards).map(|_| world.add_driver()).collect();
        let opened = disk.clone();
        let open = Box::new(move || {
            Ok(Box::new(Records { store: opened.open()?, confirms }) as Box<dyn Store>)
        });
        let (recovered, writer, links) =
            recover(open, Commit::Disk, epoch, shards, PROGRESS_RECORDS)
                .expect("its records are whole");
        // What sessions had queued that ended is removed in steps after their end.
        assert_eq!(recovered.report.damaged, 0);
        let waiting = |session: &StoredSession| {
            session.kept.len() as u64 + u64::from(session.paged.messages + session.expired)
        };
        let found = recovered.sessions.iter().map(waiting).sum();
        let mut connected = recovered.sessions.iter().map(|session| &session.record);
        let connected = connected.find(|record| record.disconnected_at.is_none());
        assert!(!disk.is_closed || connected.is_none(), "connected: {connected:?}");
        let shared = Arc::new(Shared::new(settings.clone(), Hooks::default(), drivers.len(), seed));
        let shards = Shard::assemble_stored(drivers, &shared, Stored { links, recovered });
        let (awake, stopped) = (vec![true; shards.len()], vec![false; shards.len()]);
        Self { world: world.clone(), disk, shared, shards, writer, awake, stopped, found }
    }

    /// The machine stops: gives what it finds when it starts again.
    pub(crate) fn crash(self, rng: &mut Rng) -> Disk {
        let Self { world, disk, shards, writer, .. } = self;
        // Before anything is closed as it should be.
        let left = disk.crashed(rng);
        drop((shards, writer));
        world.crash();
        left
    }

    /// It is told to stop.
    pub(crate) fn begin_stop(&self) {
        self.shared.stop();
        self.shards.iter().for_each(|shard| shard.bell().ring());
    }

    /// Whether all of its shards have.
    pub(crate) fn has_stopped(&self) -> bool {
        self.stopped.iter().all(|stopped| *stopped)
    }

    /// All of its shards have stopped: writes what is left to be written, and gives what the next one finds.
    pub(crate) fn close(self, rng: &mut Rng) -> Disk {
        let Self { world, disk, shards, mut writer, .. } = self;
        drop(shards);
        while writer.step() {}
        drop(writer);
        world.crash();
        Disk { is_closed: true, ..disk.crashed(rng) }
    }

    /// Nothing can be written any more.
    pub(crate) fn fail(&self, rng: &mut Rng) {
        self.disk.fail(rng);
    }

    /// All can be written again.
    pub(crate) fn mend(&self) {
        self.disk.mend();
    }

    /// How many messages waited for somebody when it started.
    pub(crate) fn found(&self) -> u64 {
        self.found
    }

    /// What of messages, and of sessions that have ended, would be there if the machine stopped now, in words.
    pub(crate) fn left(&self, rng: &mut Rng) -> Vec<String> {
        let disk = self.disk.crashed(rng);
        let store = disk.open().expect("its records are whole");
        let mut left = Vec::new();
        for table in [Table::Queued, Table::Flights, Table::Messages, Table::Inbound] {
            let mut found = |key: &[u8], _: &[u8]| {
                left.push(format!("{} {key:?}", table.name()));
                true
            };
            store.range(table, &[], &mut found).expect("memory does not fail");
        }
        let mut retired = |key: &[u8], _: &[u8]| {
            let is_retired = key.first() == Some(&0);
            left.extend(is_retired.then(|| format!("a session that has ended: {key:?}")));
            true
        };
        store.range(Table::Sessions, &[], &mut retired).expect("memory does not fail");
        left
    }

    pub(crate) fn ready(&self) -> Vec<usize> {
        let is_ready = |shard: &usize| {
            !self.stopped[*shard] && (self.awake[*shard] || self.world.is_ready(*shard))
        };
        (0..self.shards.len()).filter(is_ready).collect()
    }

    pub(crate) fn turn(&mut self, shard: usize) {
        let this = &mut self.shards[shard];
        self.stopped[shard] = !this.turn(true).expect("a simulated driver does not fail");
        self.awake[shard] = this.rest().is_zero();
    }

    /// Commits what the shards have handed over.
    pub(crate) fn commit(&mut self) {
        self.writer.step();
        for shard in &self.shards {
            shard.bell().ring();
        }
    }
}
