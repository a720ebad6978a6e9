//! The engines under one name.

use std::fs;
use std::path::Path;

use sluice::hooks::{Commit, Store, Table, Write};
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
}

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
            Self::Memory(memory) => Opened { store: Box::new(memory.clone()), _directory: None },
            Self::Logged(memory, segments) => {
                let store = Logged::open(memory.clone(), segments.clone(), 3_000).expect("whole");
                Opened { store: Box::new(store), _directory: None }
            }
            Self::Files(path, engine) => {
                let directory = Directory::open(path.path(), *engine).expect("nobody has it");
                let store = directory.records().expect("whole");
                Opened { store, _directory: Some(directory) }
            }
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
    Write { table, key: key.to_vec(), value: Some(value.to_vec()), fresh: false }
}

pub(crate) fn delete(table: Table, key: &[u8]) -> Write {
    Write { table, key: key.to_vec(), value: None, fresh: false }
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
