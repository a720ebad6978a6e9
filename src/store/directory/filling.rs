//! A data directory that is filled with records, by `sluice store`: it is whole, or nobody can use it.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use super::format_file::{DRAFT, FORMAT_FILE, UNFINISHED, format, read_format, write_format};
use super::{
    Directory, DirectoryError, Engine, LOG, Stage, engines_there, failed, make, records_in,
};
use crate::hooks::{Store, StoreError};
use crate::store::lock::{LOCK_FILE, Lock};
use crate::store::replace::beside;
use crate::store::sqlite;

/// What may be in a directory that counts as empty: a file system's own, and what is there before a format.
const NOTHING: [&str; 3] = ["lost+found", LOCK_FILE, DRAFT];

/// An empty directory that is filled with records. Nobody can use it before that has come to its end;
/// dropped before, it is empty again.
#[derive(Debug)]
pub struct Filling {
    directory: Directory,
    /// It was not there before.
    is_new: bool,
    is_finished: bool,
}

impl Filling {
    /// Takes an empty directory, or makes one. One of which a filling did not end counts as empty.
    ///
    /// # Errors
    /// See [`DirectoryError`].
    pub fn new(path: &Path, engine: Engine) -> Result<Self, DirectoryError> {
        is_outside(path)?;
        let is_new = make(path)?;
        is_nothing(path)?;
        let lock = Arc::new(Lock::take(path)?);
        // It may have been filled just now.
        is_nothing(path)?;
        let directory = Directory { path: path.to_owned(), engine, lock, stage: Stage::Filling };
        let filling = Self { directory, is_new, is_finished: false };
        filling.clear();
        write_format(path, UNFINISHED)?;
        Ok(filling)
    }

    /// Opens its records. They have to be dropped before they are opened again.
    ///
    /// # Errors
    /// What the engine says.
    pub fn records(&self) -> Result<Box<dyn Store>, StoreError> {
        self.directory.records()
    }

    /// Everything is there, on disk.
    ///
    /// # Errors
    /// The system refuses: then it is as if it had not been filled.
    pub fn finish(mut self) -> Result<(), DirectoryError> {
        let Directory { path, engine, .. } = &self.directory;
        write_format(path, &format(*engine))?;
        self.is_finished = true;
        Ok(())
    }

    /// Removes what was filled in, as far as that is possible: what stays is marked as unfinished.
    fn clear(&self) {
        let path = &self.directory.path;
        let _ = fs::remove_dir_all(path.join(records_in(Engine::Fjall)));
        let _ = fs::remove_dir_all(path.join(LOG));
        let database = path.join(records_in(Engine::Sqlite));
        for suffix in sqlite::BESIDE.into_iter().chain([""]) {
            let _ = fs::remove_file(beside(&database, suffix));
        }
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        if self.is_finished {
            return;
        }
        self.clear();
        let path = &self.directory.path;
        if engines_there(path).is_empty() {
            let _ = fs::remove_file(path.join(FORMAT_FILE));
        }
        if self.is_new {
            let _ = fs::remove_file(path.join(LOCK_FILE));
            let _ = fs::remove_dir(path);
        }
    }
}

/// Whether a directory is in no other that has records: whoever copies or removes that does not expect it.
fn is_outside(path: &Path) -> Result<(), DirectoryError> {
    let whole = std::path::absolute(path).map_err(failed(path))?;
    // Links are followed as far as something is there.
    let is_there = |above: &&Path| above.exists();
    let there = whole.ancestors().find(is_there).map(fs::canonicalize);
    let there = there.transpose().map_err(failed(path))?.unwrap_or_default();
    // It may be one that is filled anew itself.
    let above = if whole.exists() { there.parent() } else { Some(&*there) };
    let is_one =
        |above: &&Path| above.join(FORMAT_FILE).exists() && !engines_there(above).is_empty();
    match above.and_then(|above| above.ancestors().find(is_one)) {
        Some(outer) => {
            Err(DirectoryError::Within { path: path.to_owned(), outer: outer.to_owned() })
        }
        None => Ok(()),
    }
}

/// Whether there is nothing in a directory, or what was not finished.
fn is_nothing(path: &Path) -> Result<(), DirectoryError> {
    if matches!(read_format(path), Err(DirectoryError::Unfinished(_))) {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(failed(path))? {
        let name = entry.map_err(failed(path))?.file_name();
        if !NOTHING.iter().any(|nothing| name == *nothing) {
            return Err(DirectoryError::NotEmpty(path.to_owned()));
        }
    }
    Ok(())
}
