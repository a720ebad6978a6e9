//! Gives the disk back the room of records that were removed.
//!
//! fjall merges a level of its tree when that has become large. What says that a record is gone is small, so what was
//! a long queue of large messages would stay on disk for good, and each start would compare it with its checksums. So
//! a thread looks, now and then, which keyspaces have more that is gone than is there, and merges their levels.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use fjall::{Database, Keyspace};
use lsm_tree::{AbstractTree, SeqNo};

use super::{LOOK_AGAIN_AFTER, free_bytes};
use crate::hooks::Table;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Bytes of a keyspace below which nothing is merged.
const LEAST_BYTES: u64 = 64 << 20;
/// Bytes that have to be free on the disk beside those that are written.
const SPARE_BYTES: u64 = 256 << 20;
/// Bytes of a record beside its key and value, at most.
const RECORD_BYTES: u64 = 32;
/// Bytes of the files that are written, about: as fjall has them.
const FILE_BYTES: u64 = 64 << 20;
/// So many times as long as it took to merge a keyspace, it is left alone.
const REST: u32 = 20;
/// For so long if it could not be merged.
const REST_OF_FAILURE: Duration = Duration::from_secs(600);
/// How long a merge is waited for when the database is closed. It holds the database, and ends with the process at
/// the latest: what it has written by then counts for nothing, and the next start removes it.
const END_WITHIN: Duration = Duration::from_secs(5);
/// How long to wait for what is to be sorted into files before.
const SORT_WITHIN: Duration = Duration::from_secs(10);

/// The thread. Dropped, it ends.
#[derive(Debug)]
pub(super) struct Compaction {
    removed: Arc<[AtomicU64; Table::COUNT]>,
    /// Goes away with this.
    running: Option<Sender<()>>,
    /// Is left by the thread when it has ended.
    ended: Receiver<()>,
}

impl Compaction {
    pub(super) fn start(
        path: &Path,
        database: &Database,
        tables: &[Keyspace],
    ) -> fjall::Result<Self> {
        let (running, stopped) = crossbeam_channel::bounded(0);
        let (end, ended) = crossbeam_channel::bounded::<()>(0);
        let mut looker = Looker::new(path, database, tables, LEAST_BYTES);
        let removed = looker.removed.clone();
        thread::Builder::new().name("sluice-compact".to_owned()).spawn(move || {
            // Not before the database is let go.
            let _end = end;
            looker.run(&stopped);
            drop(looker);
        })?;
        Ok(Self { removed, running: Some(running), ended })
    }

    /// So many records of each table were removed.
    pub(super) fn note_removed(&self, counts: &[u64; Table::COUNT]) {
        for (removed, count) in self.removed.iter().zip(counts) {
            removed.fetch_add(*count, Ordering::Relaxed);
        }
    }
}

impl Drop for Compaction {
    fn drop(&mut self) {
        self.running = None;
        let _ = self.ended.recv_timeout(END_WITHIN);
    }
}

struct Looker {
    place: Place,
    keyspaces: Vec<Looked>,
    removed: Arc<[AtomicU64; Table::COUNT]>,
    least_bytes: u64,
    /// What was visible at the last look. Who reads what was there before has its files since.
    seen: SeqNo,
}

/// Where it looks.
struct Place {
    path: PathBuf,
    database: Database,
    tables: Vec<Keyspace>,
    /// On the disk of a path, if that can be told.
    free_bytes: fn(&Path) -> Option<u64>,
}

struct Looked {
    keyspace: Keyspace,
    /// It is left alone until then.
    rests_until: Instant,
}

impl Looker {
    fn new(path: &Path, database: &Database, tables: &[Keyspace], least_bytes: u64) -> Self {
        let looked = |keyspace: &Keyspace| Looked {
            keyspace: keyspace.clone(),
            rests_until: Instant::now(),
        };
        let place = Place {
            path: path.to_owned(),
            database: database.clone(),
            tables: tables.to_vec(),
            free_bytes,
        };
        let keyspaces = tables.iter().map(looked).collect();
        Self { place, keyspaces, removed: Arc::default(), least_bytes, seen: 0 }
    }

    fn run(&mut self, stopped: &Receiver<()>) {
        while let Err(RecvTimeoutError::Timeout) = stopped.recv_timeout(LOOK_EVERY) {
            self.look(&|| {
                !matches!(stopped.try_recv(), Err(crossbeam_channel::TryRecvError::Empty))
            });
        }
    }

    /// Merges what is worth it, and removes the files of what was merged before.
    fn look(&mut self, is_stopped: &dyn Fn() -> bool) {
        let visible = self.place.database.visible_seqno();
        let seen = std::mem::replace(&mut self.seen, visible);
        if seen == 0 {
            return;
        }
        let Self { place, keyspaces, removed, least_bytes, .. } = self;
        for (looked, removed) in keyspaces.iter_mut().zip(&**removed) {
            if is_stopped() {
                return;
            }
            if let Err(error) = looked.look(place, removed, *least_bytes, seen, is_stopped) {
                looked.rests_until = Instant::now() + REST_OF_FAILURE;
                tracing::warn!(
                    "{}: the room of records that were removed is not given back now: {error}",
                    place.path.display()
                );
            }
        }
    }
}

impl Looked {
    /// Merges it, if that is worth it and there is room.
    fn look(
        &mut self,
        place: &Place,
        removed: &AtomicU64,
        least_bytes: u64,
        seen: SeqNo,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<(), fjall::Error> {
        let keyspace = &self.keyspace;
        // Files of before it was merged, which nobody reads any more. If that goes wrong, it is for the next look.
        let _ = keyspace.tree.get_version_history_lock().maintenance(keyspace.path(), seen);
        let (now, count) = (Instant::now(), removed.load(Ordering::Relaxed));
        if now < self.rests_until || !is_worth_it(keyspace, count, least_bytes) {
            return Ok(());
        }
        let before = keyspace.tree.disk_space();
        let merged = place.has_room(keyspace, is_stopped).and_then(|has_room| {
            if !has_room {
                return Ok(());
            }
            removed.fetch_sub(count, Ordering::Relaxed);
            match place.sort(is_stopped)? {
                // All levels at once, and nobody else merges it meanwhile. Or else fjall moves files down past those that
                // are being merged, levels have runs that overlap, of which it knows the first one only, and what is
                // older comes up again.
                true => Ok(keyspace.tree.major_compact(FILE_BYTES, seen)?),
                false => Ok(()),
            }
        });
        self.rests_until = Instant::now() + now.elapsed() * REST;
        let given_back = before.saturating_sub(keyspace.tree.disk_space());
        if given_back > 0 {
            tracing::info!(
                "{}: {given_back} of {before} bytes of {:?} are given back to the disk, in {:.1} s",
                place.path.display(),
                keyspace.name(),
                now.elapsed().as_secs_f64()
            );
        }
        merged
    }
}

impl Place {
    /// Whether what is left of a keyspace can be written once more. If it is not all that much, only who reads it
    /// can tell: the records that are gone may be small ones.
    fn has_room(
        &self,
        keyspace: &Keyspace,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<bool, fjall::Error> {
        let Some(free) = (self.free_bytes)(&self.path) else { return Ok(true) };
        let Some(mut room) = free.checked_sub(SPARE_BYTES) else { return Ok(false) };
        if keyspace.tree.disk_space() <= room {
            return Ok(true);
        }
        for record in keyspace.range::<&[u8], _>(..) {
            let (key, value) = record.into_inner()?;
            match room.checked_sub((key.len() + value.len()) as u64 + RECORD_BYTES) {
                Some(left) if !is_stopped() => room = left,
                _ => return Ok(false),
            }
        }
        Ok(true)
    }

    /// Has what is in memory sorted into files. Says whether that was done in time.
    ///
    /// Of all keyspaces: fjall keeps a journal until each that is in it has a higher number in its files, and the highest
    /// may be merged away.
    fn sort(&self, is_stopped: &dyn Fn() -> bool) -> Result<bool, fjall::Error> {
        for table in &self.tables {
            table.rotate_memtable()?;
        }
        let until = Instant::now() + SORT_WITHIN;
        // fjall has no call for this that ends if its thread has failed.
        loop {
            let is_sorted = self.tables.iter().all(|table| table.sealed_memtable_count() == 0);
            let is_late = Instant::now() > until;
            if is_sorted && (self.database.journal_count() == 1 || is_late) {
                return Ok(true);
            }
            if is_stopped() || is_late {
                return Ok(false);
            }
            thread::sleep(LOOK_AGAIN_AFTER);
        }
    }
}

/// Whether there is more in a keyspace that is gone than is there.
fn is_worth_it(keyspace: &Keyspace, removed: u64, least_bytes: u64) -> bool {
    if keyspace.tree.disk_space() < least_bytes {
        return false;
    }
    // A record that is gone is there twice: as it was, and that it is gone.
    let gone = removed.max(keyspace.tree.tombstone_count());
    gone > (keyspace.tree.approximate_len() as u64).saturating_sub(gone.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use super::super::Lsm;
    use super::*;
    use crate::hooks::{Commit, Store, Write};

    const VALUE_BYTES: usize = 4096;

    fn key(n: u64) -> Vec<u8> {
        n.to_be_bytes().to_vec()
    }

    /// It does not get smaller by being packed.
    fn value(n: u64) -> Vec<u8> {
        let mut state = n;
        let word = |_| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 32).to_be_bytes()
        };
        (0..VALUE_BYTES / 8).flat_map(word).collect()
    }

    fn write(lsm: &mut Lsm, numbers: impl Iterator<Item = u64>, is_there: bool) {
        let write = |n| Write {
            table: Table::Messages,
            key: key(n).into(),
            value: is_there.then(|| value(n)),
            fresh: is_there,
        };
        let writes: Vec<_> = numbers.map(write).collect();
        for writes in writes.chunks(100) {
            lsm.commit(writes, Commit::System).expect("room");
        }
    }

    fn has(lsm: &Lsm, numbers: impl Iterator<Item = u64>) {
        let mut numbers = numbers;
        lsm.range(Table::Messages, &[], &mut |found, bytes| {
            let n = numbers.next().expect("no more than those");
            assert_eq!((found, bytes), (&*key(n), &*value(n)));
            true
        })
        .expect("whole");
        assert_eq!(numbers.next(), None);
    }

    fn looker(lsm: &Lsm) -> Looker {
        let mut looker = Looker::new(&lsm.path, &lsm.database, &lsm.tables, 1 << 20);
        looker.removed = lsm.compaction.removed.clone();
        looker
    }

    fn files(lsm: &Lsm) -> u64 {
        super::super::tree::bytes(&lsm.path).expect("readable")
    }

    /// Also of what was removed in a life before, and when the last removals are in memory only.
    #[test]
    fn the_room_of_what_was_removed_is_given_back() {
        const COUNT: u64 = 2_000;
        /// One sees where it is, one merges, and the one after the next has the files go.
        const LOOKS: u32 = 4;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fjall");
        let mut lsm = Lsm::open(&path).expect("new");
        for part in 0..4 {
            write(&mut lsm, part * COUNT / 4..(part + 1) * COUNT / 4, true);
            lsm.sort(Table::Messages);
        }
        let full = COUNT * VALUE_BYTES as u64;
        assert!(files(&lsm) > full);
        let mut looker = looker(&lsm);
        let look = |looker: &mut Looker| (0..LOOKS).for_each(|_| looker.look(&|| false));
        write(&mut lsm, 0..COUNT / 4, false);
        look(&mut looker);
        assert!(files(&lsm) > full, "that is not worth it");
        // What lasts is among it.
        let stays = |n: &u64| n.is_multiple_of(100);
        write(&mut lsm, (COUNT / 4..COUNT).filter(|n| !stays(n)), false);
        write(&mut lsm, COUNT..COUNT + 10, true);
        look(&mut looker);
        let left = || (COUNT / 4..COUNT).filter(stays).chain(COUNT..COUNT + 10);
        assert!(files(&lsm) < full / 10, "{} of {full}", files(&lsm));
        has(&lsm, left());
        drop(looker);
        drop(lsm);
        let mut lsm = Lsm::open_mended(&path).expect("whole");
        has(&lsm, left());
        write(&mut lsm, 0..COUNT, true);
        write(&mut lsm, 0..COUNT + 10, false);
        drop(lsm);
        let lsm = Lsm::open(&path).expect("whole");
        lsm.sort(Table::Messages);
        let mut looker = self::looker(&lsm);
        look(&mut looker);
        has(&lsm, std::iter::empty());
        assert!(files(&lsm) < full / 10, "{} of {full}", files(&lsm));
    }

    /// They come there with files that fjall moves down as they are.
    #[test]
    fn that_records_are_gone_is_forgotten_on_the_last_level_too() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut lsm = Lsm::open(&directory.path().join("fjall")).expect("new");
        let tree = lsm.tables[Table::Messages as usize].tree.clone();
        let sort = |lsm: &Lsm| {
            lsm.sort(Table::Messages);
            while tree.l0_run_count() > 0 {
                thread::yield_now();
            }
        };
        write(&mut lsm, 0..300, true);
        sort(&lsm);
        write(&mut lsm, 300..1_000, true);
        write(&mut lsm, 300..1_000, false);
        sort(&lsm);
        assert!(tree.tombstone_count() > 0);
        let mut looker = looker(&lsm);
        (0..2).for_each(|_| looker.look(&|| false));
        assert_eq!(tree.tombstone_count(), 0);
        has(&lsm, 0..300);
    }

    /// fjall goes by the highest number in the files of each keyspace, which may be of what is gone.
    #[test]
    fn no_journal_stays_for_what_was_merged() {
        /// When it is as large as that, the next one begins.
        const JOURNAL: u64 = 64_000_000;
        const LEN: usize = 1 << 20;
        let directory = tempfile::tempdir().expect("a directory");
        let mut lsm = Lsm::open(&directory.path().join("fjall")).expect("new");
        let commit = |lsm: &mut Lsm, table, n, value| {
            let write = Write { table, key: key(n).into(), value, fresh: false };
            lsm.commit(&[write], Commit::System).expect("room");
        };
        commit(&mut lsm, Table::Retained, 0, Some(vec![7]));
        let count = JOURNAL / LEN as u64 + 1;
        for n in 0..count {
            commit(&mut lsm, Table::Messages, n, Some(vec![7; LEN]));
        }
        lsm.sort(Table::Messages);
        assert!(lsm.database.journal_count() > 1, "it is needed for what is retained");
        for n in 0..count {
            commit(&mut lsm, Table::Messages, n, None);
        }
        let mut looker = looker(&lsm);
        (0..2).for_each(|_| looker.look(&|| false));
        has(&lsm, std::iter::empty());
        // What was sorted before lets one go.
        for n in 1..4 {
            commit(&mut lsm, Table::Retained, n, Some(vec![7]));
            lsm.sort(Table::Retained);
        }
        assert_eq!(lsm.database.journal_count(), 1);
    }

    /// Two looks with so much room, of which the second one may merge.
    fn look_with(looker: &mut Looker, free_bytes: fn(&Path) -> Option<u64>) {
        looker.place.free_bytes = free_bytes;
        looker.keyspaces.iter_mut().for_each(|looked| looked.rests_until = Instant::now());
        (0..2).for_each(|_| looker.look(&|| false));
    }

    #[test]
    fn some_room_is_left_to_others() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut lsm = Lsm::open(&directory.path().join("fjall")).expect("new");
        let table = lsm.tables[Table::Messages as usize].clone();
        write(&mut lsm, 0..500, true);
        lsm.sort(Table::Messages);
        write(&mut lsm, 0..500, false);
        let mut looker = looker(&lsm);
        look_with(&mut looker, |_| Some(SPARE_BYTES - 1));
        assert!(table.tree.disk_space() > 0);
        look_with(&mut looker, |_| Some(SPARE_BYTES));
        assert_eq!(table.tree.disk_space(), 0);
    }

    /// Of what is gone the records were small.
    #[test]
    fn what_is_left_has_room() {
        const SMALL: std::ops::Range<u64> = 300..2_000;
        let directory = tempfile::tempdir().expect("a directory");
        let mut lsm = Lsm::open(&directory.path().join("fjall")).expect("new");
        let table = lsm.tables[Table::Messages as usize].clone();
        write(&mut lsm, 0..300, true);
        let small = |n| Write {
            table: Table::Messages,
            key: key(n).into(),
            value: Some(vec![7]),
            fresh: true,
        };
        lsm.commit(&SMALL.map(small).collect::<Vec<_>>(), Commit::System).expect("room");
        lsm.sort(Table::Messages);
        write(&mut lsm, SMALL, false);
        lsm.sort(Table::Messages);
        let mut looker = looker(&lsm);
        look_with(&mut looker, |_| Some(SPARE_BYTES + 300 * VALUE_BYTES as u64));
        assert_eq!(table.tree.tombstone_count(), SMALL.count() as u64);
        look_with(&mut looker, |_| Some(SPARE_BYTES + 310 * VALUE_BYTES as u64));
        assert_eq!(table.tree.tombstone_count(), 0);
        has(&lsm, 0..300);
    }
}
