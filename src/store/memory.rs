//! Records in memory: for tests, which can take from it what a crash of the machine would.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::hooks::{Commit, Store, StoreError, Table, Write};

type Tables = [BTreeMap<Vec<u8>, Vec<u8>>; Table::COUNT];

#[derive(Debug, Default)]
struct Disk {
    tables: Tables,
    /// As of the last commit to disk.
    synced: Tables,
    fails: Option<String>,
}

/// The records that all its clones share, as those who open one directory do.
#[derive(Clone, Debug, Default)]
pub struct Memory(Arc<Mutex<Disk>>);

impl Memory {
    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The machine stops: what was not committed to disk is gone.
    pub fn crash(&self) {
        let disk = &mut *self.disk();
        disk.tables.clone_from(&disk.synced);
    }

    /// Has every commit fail for this reason, or with `None` go on.
    pub fn fail(&self, reason: Option<&str>) {
        self.disk().fails = reason.map(str::to_owned);
    }
}

impl Store for Memory {
    fn commit(&mut self, writes: &[Write], commit: Commit) -> Result<(), StoreError> {
        let disk = &mut *self.disk();
        if let Some(reason) = &disk.fails {
            return Err(StoreError(reason.clone()));
        }
        for Write { table, key, value, .. } in writes {
            let Some(records) = disk.tables.get_mut(*table as usize) else { continue };
            match value {
                Some(value) => records.insert(key.clone(), value.clone()),
                None => records.remove(key),
            };
        }
        if commit == Commit::Disk {
            disk.synced.clone_from(&disk.tables);
        }
        Ok(())
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.disk().tables.get(table as usize).and_then(|records| records.get(key).cloned()))
    }

    fn range(
        &self,
        table: Table,
        from: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let disk = self.disk();
        let records = disk.tables.get(table as usize).into_iter();
        for (key, value) in records.flat_map(|records| records.range(from.to_vec()..)) {
            if !each(key, value) {
                break;
            }
        }
        Ok(())
    }
}
