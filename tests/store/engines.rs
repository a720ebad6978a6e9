//! The engines under one name.

use std::fs;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::symlink;
use std::path::Path;

use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create};
use sluice::hooks::{Commit, Store, StoreError, Table, Write};
use sluice::store::{Directory, Engine, Logged, Memory, MemorySegments};
use tempfile::TempDir;

/// Something that can be opened again and again.
pub(crate) enum Place {
    Memory(Memory),
    /// Behind a log whose segments are soon full.
    Logged(Memory, MemorySegments),
    Files(TempDir, Engine),
}

/// A store, and what has to stay while it is open.
pub(crate) struct Opened {
    pub(crate) store: Box<dyn Store>,
    _directory: Option<Directory>,
    /// Files in memory that do not grow.
    _full: Vec<OwnedFd>,
}

/// Bytes that there is room for in a place [without much](Place::open_without_room).
const ROOM: u64 = 4096;

impl Place {
    pub(crate) fn all() -> [Self; 4] {
        let files = |engine| Self::Files(TempDir::new().expect("a directory"), engine);
        [
            Self::Memory(Memory::default()),
            Self::Logged(Memory::default(), MemorySegments::default()),
            files(Engine::Fjall),
            files(Engine::Sqlite),
        ]
    }

    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Memory(_) => "memory",
            Self::Logged(..) => "memory behind a log",
            Self::Files(_, engine) => engine.name(),
        }
    }

    pub(crate) fn open(&self) -> Opened {
        match self {
            Self::Memory(memory) => Opened::of(Box::new(memory.clone())),
            Self::Logged(memory, segments) => {
                let store = Logged::open(memory.clone(), segments.clone(), 3_000).expect("whole");
                Opened::of(Box::new(store))
            }
            Self::Files(path, engine) => {
                let directory = Directory::open(path.path(), *engine).expect("nobody has it");
                let store = directory.records().expect("whole");
                Opened { _directory: Some(directory), ..Opened::of(store) }
            }
        }
    }

    /// Opens it such that a large commit fails, until there is [room](Self::give_room) again.
    pub(crate) fn open_without_room(&self) -> Opened {
        match self {
            Self::Memory(memory) => {
                let opened = self.open();
                memory.fail(Some("no room"));
                opened
            }
            Self::Logged(_, segments) => {
                let opened = self.open();
                segments.fail_after(0);
                opened
            }
            Self::Files(path, Engine::Fjall) => {
                let mut full = Vec::new();
                for name in ["a.log", "b.log"] {
                    let path = path.path().join("log").join(name);
                    let file = memfd_create(name, MemfdFlags::ALLOW_SEALING).expect("memory");
                    ftruncate(&file, ROOM).expect("memory");
                    fcntl_add_seals(&file, SealFlags::GROW).expect("it may be sealed");
                    fs::remove_file(&path).expect("it is there");
                    symlink(format!("/proc/self/fd/{}", file.as_raw_fd()), path).expect("made");
                    full.push(file);
                }
                Opened { _full: full, ..self.open() }
            }
            Self::Files(path, Engine::Sqlite) => {
                let opened = self.open();
                sqlite(
                    path,
                    "create trigger full before insert on queued begin select raise(abort, 'full'); end",
                );
                opened
            }
        }
    }

    /// There is room again. Nobody has it open.
    pub(crate) fn give_room(&self) {
        match self {
            Self::Memory(memory) => memory.fail(None),
            Self::Logged(_, segments) => segments.fail_after(u32::MAX),
            Self::Files(path, Engine::Fjall) => {
                for name in ["a.log", "b.log"] {
                    fs::remove_file(path.path().join("log").join(name)).expect("it is there");
                }
            }
            Self::Files(path, Engine::Sqlite) => sqlite(path, "drop trigger full"),
        }
    }

    /// What would be there if the process ended at once: the files as they are now.
    pub(crate) fn snapshot(&self) -> Self {
        match self {
            Self::Memory(memory) => Self::Memory(memory.killed()),
            Self::Logged(memory, segments) => Self::Logged(memory.killed(), segments.killed()),
            Self::Files(path, engine) => {
                let copy = TempDir::new().expect("a directory");
                copy_all(path.path(), copy.path());
                Self::Files(copy, *engine)
            }
        }
    }
}

impl Opened {
    fn of(store: Box<dyn Store>) -> Self {
        Self { store, _directory: None, _full: Vec::new() }
    }
}

fn sqlite(path: &TempDir, sql: &str) {
    let path = path.path().join("sluice.sqlite");
    let database = rusqlite::Connection::open(path).expect("a database");
    database.execute_batch(sql).expect("it is done");
}

fn copy_all(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("a directory") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            fs::create_dir(&target).expect("new");
            copy_all(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), &target).expect("a copy");
        }
    }
}

pub(crate) fn put(table: Table, key: &[u8], value: &[u8]) -> Write {
    Write { table, key: key.into(), value: Some(value.to_vec()), fresh: false }
}

pub(crate) fn delete(table: Table, key: &[u8]) -> Write {
    Write { table, key: key.into(), value: None, fresh: false }
}

pub(crate) fn commit(store: &mut dyn Store, writes: &[Write]) {
    store.commit(writes, Commit::System).expect("room");
}

/// A table's records, in the order of the scan.
pub(crate) fn records(store: &dyn Store, table: Table) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    store.scan(table, &mut |key, value| found.push((key.to_vec(), value.to_vec()))).expect("whole");
    found
}

/// Records in memory, of which each commit is looked at before it is made.
pub(crate) struct Watched<F> {
    memory: Memory,
    look: F,
}

impl<F: FnMut(&Memory, &[Write]) -> Result<(), StoreError>> Watched<F> {
    pub(crate) fn new(memory: Memory, look: F) -> Self {
        Self { memory, look }
    }
}

impl<F: FnMut(&Memory, &[Write]) -> Result<(), StoreError> + Send> Store for Watched<F> {
    fn commit(&mut self, writes: &[Write], commit: Commit) -> Result<(), StoreError> {
        (self.look)(&self.memory, writes)?;
        self.memory.commit(writes, commit)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.memory.get(table, key)
    }

    fn range(
        &self,
        table: Table,
        from: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.memory.range(table, from, each)
    }
}

/// On a disk that cannot be read at some places: where records of a table from a key on are.
pub(crate) struct Unreadable<F> {
    memory: Memory,
    is_unreadable: F,
}

impl<F: Fn(Table, &[u8]) -> bool> Unreadable<F> {
    pub(crate) fn new(memory: Memory, is_unreadable: F) -> Self {
        Self { memory, is_unreadable }
    }
}

impl<F: Fn(Table, &[u8]) -> bool + Send> Store for Unreadable<F> {
    fn commit(&mut self, writes: &[Write], commit: Commit) -> Result<(), StoreError> {
        self.memory.commit(writes, commit)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.memory.get(table, key)
    }

    fn range(
        &self,
        table: Table,
        from: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        match (self.is_unreadable)(table, from) {
            true => Err(StoreError("Input/output error".to_owned())),
            false => self.memory.range(table, from, each),
        }
    }
}
