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
use lsm_tree::compaction::PullDown;
use lsm_tree::{AbstractTree, SeqNo};

use super::free_bytes;
use crate::hooks::Table;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Bytes of a keyspace below which nothing is merged.
const LEAST_BYTES: u64 = 64 << 20;
/// Bytes that have to be free on the disk beside those that are written, also on the way to the last level.
const SPARE_BYTES: u64 = 256 << 20;
/// So many times as long as it took to merge a keyspace, it is left alone.
const REST: u32 = 20;
/// For so long if it could not be merged.
const REST_OF_FAILURE: Duration = Duration::from_secs(600);
/// How long a merge is waited for when the database is closed. It holds the database, and ends with the process at
/// the latest: what it has written by then counts for nothing, and the next start removes it.
const END_WITHIN: Duration = Duration::from_secs(5);
/// How long to wait for what is to be sorted into files before.
const SORT_WITHIN: Duration = Duration::from_secs(10);
const LOOK_AGAIN_AFTER: Duration = Duration::from_millis(10);
/// The lowest level of a tree: below it there is nothing that could be gone.
const LAST_LEVEL: u8 = 6;

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
    path: PathBuf,
    database: Database,
    keyspaces: Vec<Looked>,
    removed: Arc<[AtomicU64; Table::COUNT]>,
    least_bytes: u64,
    /// What was visible at the last look. Who reads what was there before has its files since.
    seen: SeqNo,
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
        Self {
            path: path.to_owned(),
            database: database.clone(),
            keyspaces: tables.iter().map(looked).collect(),
            removed: Arc::default(),
            least_bytes,
            seen: 0,
        }
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
        let seen = std::mem::replace(&mut self.seen, self.database.visible_seqno());
        if seen == 0 {
            return;
        }
        let Self { path, keyspaces, removed, least_bytes, .. } = self;
        for (looked, removed) in keyspaces.iter_mut().zip(&**removed) {
            if is_stopped() {
                return;
            }
            if let Err(error) = looked.look(path, removed, *least_bytes, seen, is_stopped) {
                looked.rests_until = Instant::now() + REST_OF_FAILURE;
                tracing::warn!(
                    "{}: the room of records that were removed is not given back now: {error}",
                    path.display()
                );
            }
        }
    }
}

impl Looked {
    /// Merges it, if that is worth it and there is room at `path`.
    fn look(
        &mut self,
        path: &Path,
        removed: &AtomicU64,
        least_bytes: u64,
        seen: SeqNo,
        is_stopped: &dyn Fn() -> bool,
    ) -> Result<(), fjall::Error> {
        let keyspace = &self.keyspace;
        // Files of before it was merged, which nobody reads any more. If that goes wrong, it is for the next look.
        let _ = keyspace.tree.get_version_history_lock().maintenance(keyspace.path(), seen);
        let (now, count) = (Instant::now(), removed.load(Ordering::Relaxed));
        let Some(bytes) = worth(keyspace, count, least_bytes) else { return Ok(()) };
        let wanted = bytes + on_the_way(keyspace) + SPARE_BYTES;
        let has_room = free_bytes(path).is_none_or(|free| free >= wanted);
        if now < self.rests_until || !has_room {
            return Ok(());
        }
        removed.fetch_sub(count, Ordering::Relaxed);
        let before = keyspace.tree.disk_space();
        let merged = sort(keyspace, is_stopped).and_then(|is_sorted| match is_sorted {
            true => merge(keyspace, seen, is_stopped),
            false => Ok(()),
        });
        self.rests_until = Instant::now() + now.elapsed() * REST;
        let given_back = before.saturating_sub(keyspace.tree.disk_space());
        if given_back > 0 {
            tracing::info!(
                "{}: {given_back} of {before} bytes of {:?} are given back to the disk",
                path.display(),
                keyspace.name()
            );
        }
        merged
    }
}

/// The bytes that merging a keyspace would write, about, if there is more in it that is gone than is there.
fn worth(keyspace: &Keyspace, removed: u64, least_bytes: u64) -> Option<u64> {
    let bytes = keyspace.tree.disk_space();
    if bytes < least_bytes {
        return None;
    }
    // A record that is gone is there twice: as it was, and that it is gone.
    let gone = removed.max(keyspace.tree.tombstone_count());
    let all = (keyspace.tree.approximate_len() as u64).max(1);
    let left = all.saturating_sub(gone.saturating_mul(2));
    (gone > left).then(|| (u128::from(bytes) * u128::from(left) / u128::from(all)) as u64)
}

/// The bytes that merging a keyspace would write on the way down to the last level, at most. They are there until a
/// later look removes them.
fn on_the_way(keyspace: &Keyspace) -> u64 {
    let version = keyspace.tree.current_version();
    let size = |level: u8| version.level(level.into()).map_or(0, |level| level.size());
    let above = |level: u8| (0..level).map(size).sum::<u64>();
    (1..LAST_LEVEL).filter(|level| above(*level) > 0).map(|level| above(level) + size(level)).sum()
}

/// Has what is in memory sorted into files. Says whether that was done in time.
fn sort(keyspace: &Keyspace, is_stopped: &dyn Fn() -> bool) -> Result<bool, fjall::Error> {
    keyspace.rotate_memtable()?;
    let until = Instant::now() + SORT_WITHIN;
    // fjall has no call for this that ends if its thread has failed.
    while keyspace.sealed_memtable_count() > 0 {
        if is_stopped() || Instant::now() > until {
            return Ok(false);
        }
        thread::sleep(LOOK_AGAIN_AFTER);
    }
    Ok(true)
}

/// Merges each level into the one below it, down to the last. None is skipped, though most are empty: fjall may put
/// something there at the same time, and what is newer must not come to lie below it.
fn merge(
    keyspace: &Keyspace,
    seen: SeqNo,
    is_stopped: &dyn Fn() -> bool,
) -> Result<(), fjall::Error> {
    for level in 0..LAST_LEVEL {
        let version = keyspace.tree.current_version();
        if version.level(level.into()).is_none_or(|level| level.is_empty()) {
            continue;
        }
        drop(version);
        if is_stopped() {
            break;
        }
        keyspace.tree.compact(Arc::new(PullDown(level, level + 1)), seen)?;
    }
    Ok(())
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
            key: key(n),
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

    /// What is merged on the way takes room, too, until nobody can read it any more.
    #[test]
    fn what_is_written_on_the_way_is_counted() {
        const COUNT: u64 = 1_000;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("fjall");
        let mut lsm = Lsm::open(&path).expect("new");
        let sorted = |lsm: &mut Lsm, numbers| {
            write(lsm, numbers, true);
            lsm.sort(Table::Messages);
        };
        // What overlaps with what is below stays where it is until somebody merges it.
        sorted(&mut lsm, 0..COUNT);
        sorted(&mut lsm, COUNT - 10..COUNT + COUNT / 2);
        write(&mut lsm, 0..COUNT - 10, false);
        let mut looker = looker(&lsm);
        looker.look(&|| false);
        let keyspace = lsm.tables[Table::Messages as usize].clone();
        let removed = COUNT - 10;
        let last = worth(&keyspace, removed, 0).expect("it is worth it");
        let (counted, before) = (last + on_the_way(&keyspace), files(&lsm));
        looker.look(&|| false);
        let written = files(&lsm) - before;
        assert!(written > last && written < counted + (1 << 20), "{last}, {counted}, {written}");
        has(&lsm, COUNT - 10..COUNT + COUNT / 2);
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
}
