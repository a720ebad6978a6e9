//! Sessions, queued and retained messages over restarts.
//!
//! Shards hand each turn's [changes](crate::session::Change) to one [`Writer`], which makes writes to
//! records of them, commits those of many turns at once, and says up to which turn each shard is
//! committed. At the start [`recover`] reads everything back.

mod acts;
mod batches;
mod damage;
#[cfg(test)]
mod damaged_files;
mod directory;
mod lock;
mod logged;
mod lsm;
mod memory;
mod messages;
pub mod offline;
mod pages;
mod record;
mod recovery;
mod replace;
mod sqlite;
mod staging;
mod writer;

pub use acts::ActId;
pub(crate) use damage::{free_bytes, room};
pub use directory::{Directory, DirectoryError, Engine, Filling};
pub(crate) use directory::{MISSING, absolute, whole};
pub(crate) use lock::until_let_go;
pub use logged::{Logged, Segment, Segments};
pub use memory::{Memory, MemorySegments};
pub use record::{Epoch, MAX_NAME_BYTES};
pub use recovery::{PROGRESS_RECORDS, Recovered, Report, RetainedRecord, StoredSession, recover};
pub use writer::{Link, Open, Page, Part, Turn, Writer};

/// Whether the log of the process is told of a last commit that is there in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Torn {
    IsTold,
    /// Whoever made it makes it again.
    IsExpected,
}

/// Said of what is damaged, to who finds it when it is not a start that reads it.
const MENDS: &str = "; a start of the broker mends what is damaged, as far as it can be read";

/// Files that a store keeps open at most.
pub const OPEN_FILES: usize = lsm::OPEN_FILES + 32;
