//! The store of a broker: its directory, what was in it, its thread.

use std::fs;
use std::io::{self, ErrorKind};
use std::iter;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crossbeam_channel::Sender;
use rustix::process::geteuid;

use super::StartError;
use super::failure::{self, BrokerThread, Handle, ThreadFailure};
use crate::config::{self, Config, Durability, StoreEngine};
use crate::hooks::Commit;
use crate::shard::{Bell, Stored};
use crate::store::{
    Directory, DirectoryError, Engine, Epoch, PROGRESS_RECORDS, Report, Writer, recover, whole,
};

/// Where Mosquitto keeps what it has.
const MOSQUITTO: &str = "mosquitto.db";
/// A look at a clock takes far less.
const LOOK: Duration = Duration::from_millis(100);

/// Takes the data directory into use; nothing if nothing is to be stored.
pub(super) fn directory(store: &config::Store) -> Result<Option<Directory>, DirectoryError> {
    if store.durability == Durability::Memory {
        tracing::info!("nothing is stored (store.durability): what it has to keep ends with it");
        return Ok(None);
    }
    let engine = match store.engine {
        StoreEngine::Fjall => Engine::Fjall,
        StoreEngine::Sqlite => Engine::Sqlite,
    };
    let directory = Directory::open(&store.data, engine)?;
    if store.data.join(MOSQUITTO).exists() {
        tracing::warn!(
            "{}: it is Mosquitto's, and is not read: retained messages have to be published again, and clients \
             to subscribe",
            store.data.join(MOSQUITTO).display()
        );
    }
    Ok(Some(directory))
}

const HAS_TO_BE: &str = "; it has to be a directory that the broker can make, or write to: name one with \
                         --data, or store.data";

/// What to do about a data directory that cannot be used, to be read after what is wrong with it.
pub(super) fn way_out(error: &DirectoryError) -> String {
    match error {
        DirectoryError::System { path, error } => match of_another(path) {
            Some((found, owner)) if error.kind() == ErrorKind::PermissionDenied => {
                let (own, found, path) = (geteuid().as_raw(), whole(&found), whole(path));
                format!(
                    "; {found} belongs to the user {owner}, and this is {own}: start the broker as that user, \
                     or give all of it away: chown -R {own} {path}"
                )
            }
            _ => HAS_TO_BE.to_owned(),
        },
        DirectoryError::IsFile(_) => HAS_TO_BE.to_owned(),
        DirectoryError::InUse(_) => ", or name another with --data, or store.data".to_owned(),
        DirectoryError::OtherEngine { path, found, .. } if Engine::named(found).is_some() => {
            format!(
                "; write store.engine = \"{found}\" (SLUICE_STORE_ENGINE={found}) to go on with it, or copy it \
             for the other: sluice store migrate {} NEW",
                whole(path)
            )
        }
        _ => String::new(),
    }
}

/// What of a data directory belongs to another user than the broker's, and whose it is: the directory, or a file
/// in it.
fn of_another(directory: &Path) -> Option<(PathBuf, u32)> {
    let within = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut all = iter::once(directory.to_owned()).chain(within);
    all.find_map(|path| {
        let owner = path.symlink_metadata().ok()?.uid();
        (owner != geteuid().as_raw()).then_some((path, owner))
    })
}

/// The time of day now, which the clock of the shards counts from.
pub(super) fn epoch() -> Epoch {
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Epoch { unix_ms: u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX) }
}

/// Reads everything back.
pub(super) fn open(
    directory: Directory,
    config: &Config,
    epoch: Epoch,
) -> Result<(Stored, Writer), StartError> {
    let commit = match config.store.durability {
        Durability::Memory | Durability::Os => Commit::System,
        Durability::Fsync => Commit::Disk,
    };
    let mut is_start = true;
    let open = Box::new(move || match std::mem::take(&mut is_start) {
        true => directory.mended_records(),
        false => directory.records_again(),
    });
    let path = &config.store.data;
    let shards = config.shard_count();
    let (recovered, writer, links) = recover(open, commit, epoch, shards, PROGRESS_RECORDS)
        .map_err(|error| StartError::Store { directory: path.clone(), error })?;
    let Report { records, messages, damaged, stray, expired, has_lost_session } = recovered.report;
    let (sessions, retained) = (recovered.sessions.len(), recovered.retained.len());
    tracing::info!(
        "{}: {records} records, of which {sessions} sessions, {messages} messages and {retained} \
         retained messages",
        whole(path)
    );
    if expired > 0 {
        tracing::info!("{}: {expired} messages had expired and were removed", path.display());
    }
    if damaged > 0 || stray > 0 {
        let became = match has_lost_session {
            true => "set aside as well, as they may be what a session had whose record is damaged",
            false => "removed",
        };
        tracing::warn!(
            "{}: {damaged} records are damaged and were set aside, {stray} belonged to nothing and \
             were {became}",
            path.display()
        );
    }
    Ok((Stored { links, recovered }, writer))
}

/// As [`epoch`] would have been at `start` if the time of day had been what it is now. Nothing if this thread
/// was kept waiting between its looks at the two clocks.
fn epoch_since(start: Instant) -> Option<Epoch> {
    let before = start.elapsed();
    let Epoch { unix_ms } = epoch();
    let passed = start.elapsed();
    let unix_ms = unix_ms.saturating_sub(u64::try_from(passed.as_millis()).ok()?);
    (passed - before < LOOK).then_some(Epoch { unix_ms })
}

/// Starts the thread that writes, for shards whose clock began at `start`. It ends with the last of them.
pub(super) fn run(
    writer: Writer,
    bells: Vec<Arc<Bell>>,
    start: Instant,
    failures: Sender<ThreadFailure>,
) -> io::Result<Handle> {
    let tell = move |shards: u64| {
        for (shard, bell) in bells.iter().enumerate() {
            if shards & 1 << shard != 0 {
                bell.ring();
            }
        }
    };
    let seen = move || epoch_since(start);
    let run = move || {
        writer.run(tell, seen);
        Ok(())
    };
    // That it has ended, the links say.
    failure::spawn(BrokerThread::Store, failures, run, || {})
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::{Store, StoreError, Table, Write};
    use crate::session::Change;
    use crate::store::Turn;

    /// A store that is the end of whoever writes to it.
    struct Fatal;

    impl Store for Fatal {
        fn commit(&mut self, _: &[Write], _: Commit) -> Result<(), StoreError> {
            panic!("no more");
        }

        fn get(&self, _: Table, _: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
            Ok(None)
        }

        fn range(
            &self,
            _: Table,
            _: &[u8],
            _: &mut dyn FnMut(&[u8], &[u8]) -> bool,
        ) -> Result<(), StoreError> {
            Ok(())
        }
    }

    /// As a directory that came from another machine, or was filled by root.
    #[test]
    fn who_has_the_directory_is_said_to_who_may_not_use_it() {
        let dir = tempfile::tempdir().unwrap();
        let denied = |path: &Path| {
            let error = ErrorKind::PermissionDenied.into();
            way_out(&DirectoryError::System { path: path.to_owned(), error })
        };
        assert!(denied(dir.path()).contains("it has to be a directory"), "all of it is ours");
        let own = geteuid().as_raw();
        // Only root can give files away, and what root has is of another for everybody else.
        let (path, found, owner) = if own == 0 {
            let lock = dir.path().join("lock");
            fs::write(&lock, "").unwrap();
            std::os::unix::fs::chown(&lock, Some(65_534), None).unwrap();
            (dir.path(), lock, 65_534)
        } else {
            (Path::new("/"), PathBuf::from("/"), 0)
        };
        let said = denied(path);
        let whose =
            format!("; {} belongs to the user {owner}, and this is {own}: ", found.display());
        assert!(said.starts_with(&whose), "{said}");
        assert!(said.ends_with(&format!(": chown -R {own} {}", path.display())), "{said}");
    }

    /// Who waits for it finds a store that fails, and nothing piles up.
    #[test]
    fn a_thread_that_ends_by_a_panic_is_told() {
        let open = Box::new(|| Ok(Box::new(Fatal) as Box<dyn Store>));
        let (_, writer, links) =
            recover(open, Commit::Disk, Epoch::default(), 1, PROGRESS_RECORDS).expect("empty");
        let (tell, failures) = crossbeam_channel::unbounded();
        let thread = run(writer, Vec::new(), Instant::now(), tell).expect("a thread");
        let hand_over = |turn, changes: Vec<Change>| {
            links[0].submit(Turn { turn, changes: changes.into(), ..Turn::default() });
        };
        hand_over(1, vec![Change::Completed(1, 1)]);
        let failure = failures.recv().expect("told");
        assert_eq!(failure.to_string(), "the store's thread panicked: no more");
        assert_eq!(thread.join().expect("it was caught"), Err(failure));
        hand_over(2, vec![Change::Completed(1, 1); 1 << 17]);
        assert!(links[0].is_failing() && !links[0].is_full());
        assert_eq!(links[0].committed(), 0);
    }

    #[test]
    fn the_time_of_day_at_the_start_stays_what_it_was() {
        let Some(start) = Instant::now().checked_sub(Duration::from_secs(5)) else { return };
        let then = epoch().unix_ms - 5_000;
        let seen = std::iter::repeat_with(|| epoch_since(start)).flatten().next();
        assert!(seen.is_some_and(|seen| seen.unix_ms.abs_diff(then) < 1_000), "{seen:?}");
    }
}
