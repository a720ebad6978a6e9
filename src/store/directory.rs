//! The data directory: who has it, which format and engine it is of.

mod filling;
mod format_file;

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use self::filling::Filling;
use self::format_file::{
    BEGUN, FORMAT, FORMAT_FILE, Format, Written, format, read_format, write_format,
};
use super::damage::{SET_ASIDE, bytes, entries, sync_above};
use super::lock::{Lock, Locked};
use super::logged::{Files, LOGS, Logged, SEGMENT_BYTES, is_in_use};
use super::lsm::{self, Lsm};
use super::replace::{self, beside};
use super::sqlite::{self, Sqlite};
use crate::hooks::{Store, StoreError};

/// What keeps the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// A log-structured merge tree.
    #[default]
    Fjall,
    /// An SQLite database.
    Sqlite,
}

impl Engine {
    /// As it is named in the configuration and in the directory.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fjall => "fjall",
            Self::Sqlite => "sqlite",
        }
    }

    /// By its [`name`](Self::name).
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Fjall, Self::Sqlite].into_iter().find(|engine| engine.name() == name)
    }
}

/// The log in front of fjall. SQLite has one of its own, and what other tools read is current.
const LOG: &str = "log";
/// Said of what is missing.
pub(crate) const MISSING: &str =
    "missing or empty; if a broker has started here before, what it kept there is lost";

/// A data directory that this process has to itself, until it and its records are dropped.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    engine: Engine,
    lock: Arc<Lock>,
    stage: Stage,
}

/// How far a data directory has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Filling,
    /// No start by this version has made all of its files.
    Begun,
    /// One has, or it is not known: what is not there is lost.
    Used,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process has it, and did not end within a second.
    #[error("another process uses the data directory {}: stop it first", whole(.0))]
    InUse(PathBuf),
    /// A newer version wrote it.
    #[error(
        "the data directory {} has format {found}, this version knows {FORMAT}: use a newer version",
        whole(.path)
    )]
    Newer {
        /// Where.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Its records are kept by another engine than the one asked for.
    #[error(
        "the data directory {} is of the engine \"{found}\", not \"{}\"", whole(.path), .asked.name()
    )]
    OtherEngine {
        /// Where.
        path: PathBuf,
        /// The engine's name as it stands there.
        found: String,
        /// What was asked for.
        asked: Engine,
    },
    /// Nothing is there.
    #[error("there is no data directory {}", whole(.0))]
    Missing(PathBuf),
    /// A file is there.
    #[error("cannot use the data directory {}: it is a file", whole(.0))]
    IsFile(PathBuf),
    /// It was to be filled, and is within another.
    #[error(
        "{} would be in the data directory {}: name one outside of it", whole(.path), whole(.outer)
    )]
    Within {
        /// What was to be filled.
        path: PathBuf,
        /// What it is in.
        outer: PathBuf,
    },
    /// What is there is none.
    #[error("{} is no data directory: it has no file \"{FORMAT_FILE}\"", whole(.0))]
    NotOne(PathBuf),
    /// It was to be filled, and that did not come to its end.
    #[error(
        "the data directory {} was being filled, and that did not end: fill it anew, with sluice store restore \
         or migrate",
        whole(.0)
    )]
    Unfinished(PathBuf),
    /// There is something in a directory that was to be filled.
    #[error("the directory {} is not empty: name one that is, or that is not there yet", whole(.0))]
    NotEmpty(PathBuf),
    /// Its format cannot be told.
    #[error(
        "{} does not say a format and an engine; if records are beside it, write \"{FORMAT} fjall\" or \
         \"{FORMAT} sqlite\" into it, for the engine that they are of",
        whole(.0)
    )]
    NoFormat(PathBuf),
    /// Its format is damaged, and may have said that it is [unfinished](Self::Unfinished).
    #[error(
        "{} is damaged, and may have said that the data directory was being filled, and that did not end: then \
         remove that directory, and fill it anew, with sluice store restore or migrate; if a broker has used it, \
         write \"{FORMAT} fjall\" or \"{FORMAT} sqlite\" into the file, for the engine that its records are of",
        whole(.0)
    )]
    MaybeUnfinished(PathBuf),
    /// The system refuses.
    #[error("cannot use the data directory {}: {error}", whole(.path))]
    System {
        /// What.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl Directory {
    /// The format of a directory that is in use.
    pub const FORMAT: u32 = FORMAT;

    /// Takes a directory into use, and makes it if it is not there.
    ///
    /// # Errors
    /// See [`DirectoryError`].
    pub fn open(path: &Path, engine: Engine) -> Result<Self, DirectoryError> {
        make(path)?;
        let lock = Arc::new(Lock::take(path)?);
        let format = read_format(path)?;
        if let Some(Format { engine: found, .. }) = &format
            && found != engine.name()
        {
            let (path, found) = (path.to_owned(), found.clone());
            return Err(DirectoryError::OtherEngine { path, found, asked: engine });
        }
        Self::of(path, engine, lock, format.as_ref())
    }

    /// Takes a directory that is there, of whatever engine.
    ///
    /// # Errors
    /// See [`DirectoryError`].
    pub fn existing(path: &Path) -> Result<Self, DirectoryError> {
        if !path.try_exists().map_err(failed(path))? {
            return Err(DirectoryError::Missing(path.to_owned()));
        }
        is_no_file(path)?;
        let has_format = path.join(FORMAT_FILE).try_exists().map_err(failed(path))?;
        if !has_format && engines_there(path).is_empty() {
            return Err(DirectoryError::NotOne(path.to_owned()));
        }
        let lock = Arc::new(Lock::take(path)?);
        let format = read_format(path)?;
        let engine = format.as_ref().and_then(|format| Engine::named(&format.engine));
        let engine = engine.ok_or_else(|| DirectoryError::NoFormat(path.join(FORMAT_FILE)))?;
        Self::of(path, engine, lock, format.as_ref())
    }

    /// Has it say this version's format, before anything is written that an earlier one would not read.
    fn of(
        path: &Path,
        engine: Engine,
        lock: Arc<Lock>,
        found: Option<&Format>,
    ) -> Result<Self, DirectoryError> {
        let (file, name) = (path.join(FORMAT_FILE), engine.name());
        let file = file.display();
        match found.map(|found| found.written) {
            Some(Written::Damaged) => {
                tracing::error!(
                    "{file}: the file is damaged; the records are of the engine \"{name}\""
                );
            }
            Some(Written::Gone) => {
                tracing::error!(
                    "{file}: it is not there; the records are of the engine \"{name}\""
                );
            }
            Some(Written::ByThis | Written::Begun | Written::ByHand | Written::Earlier) | None => {}
        }
        let written = found.map(|found| found.written);
        let stage = match written {
            None | Some(Written::Begun | Written::Earlier) => Stage::Begun,
            Some(_) => Stage::Used,
        };
        match written {
            Some(Written::ByThis | Written::Begun) => {}
            Some(Written::ByHand | Written::Damaged | Written::Gone) => {
                write_format(path, &format(engine))?;
            }
            None | Some(Written::Earlier) => {
                write_format(path, &format!("{} {BEGUN}", format(engine)))?;
            }
        }
        Ok(Self { path: path.to_owned(), engine, lock, stage })
    }

    /// What keeps its records.
    #[must_use]
    pub fn engine(&self) -> Engine {
        self.engine
    }

    /// What starts have set aside as damaged, commits and databases, with their bytes.
    ///
    /// # Errors
    /// The system refuses.
    pub fn set_aside(&self) -> Result<Vec<(PathBuf, u64)>, DirectoryError> {
        let mut found = Vec::new();
        for within in ["", LOG, records_in(Engine::Fjall)].map(|name| self.path.join(name)) {
            for path in entries(&within).map_err(failed(&within))? {
                let extension = path.extension().unwrap_or_default().as_encoded_bytes();
                if extension.starts_with(SET_ASIDE.as_bytes()) {
                    let len = bytes(&path).map_err(failed(&path))?;
                    found.push((path, len));
                }
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// What is not there, or has nothing in it, of the files that are made before there are records: what they
    /// had is lost, but if no start has come to its end.
    ///
    /// # Errors
    /// The system refuses.
    pub fn missing(&self) -> Result<Vec<PathBuf>, DirectoryError> {
        let (mut made, mut missing) = (Vec::new(), Vec::new());
        if self.stage != Stage::Used {
            return Ok(missing);
        }
        let records = self.path.join(records_in(self.engine));
        let has_new = replace::is_under_way(&records).map_err(failed(&records))?;
        match self.engine {
            Engine::Fjall => {
                made.extend(self.logs());
                made.extend((!has_new).then(|| records.join(lsm::KEYSPACES)));
            }
            Engine::Sqlite => made.extend((!has_new).then_some(records)),
        }
        for path in made {
            if bytes(&path).map_err(failed(&path))? == 0 {
                missing.push(path);
            }
        }
        Ok(missing)
    }

    /// Opens its records. They have to be dropped before they are opened again.
    ///
    /// # Errors
    /// What the engine says; or the directory is no longer at its path, which a commit says, too.
    pub fn records(&self) -> Result<Box<dyn Store>, StoreError> {
        self.open_with(Lsm::open, Logged::open, Sqlite::open)
    }

    /// As [`records`](Self::records), after they failed. Of a last commit that is there in part the log
    /// says nothing: whoever made it makes it again. If only writing fails, they can be read.
    ///
    /// # Errors
    /// As there.
    pub fn records_again(&self) -> Result<Box<dyn Store>, StoreError> {
        self.open_with(Lsm::reopen, Logged::reopen, Sqlite::reopen)
    }

    /// As [`records`](Self::records), and reads all files of the engine before. What can be read of damaged
    /// ones goes into new ones, those are set aside, and the log tells of it, and of what is
    /// [missing](Self::missing).
    ///
    /// # Errors
    /// As there.
    pub fn mended_records(&self) -> Result<Box<dyn Store>, StoreError> {
        for path in self.missing().map_err(|error| StoreError(error.to_string()))? {
            tracing::error!("{}: {MISSING}", path.display());
        }
        self.open_with(Lsm::open_mended, Logged::open, Sqlite::open_mended)
    }

    fn logs(&self) -> [PathBuf; 2] {
        LOGS.map(|name| self.path.join(LOG).join(name))
    }

    fn open_with(
        &self,
        lsm: impl FnOnce(&Path) -> Result<Lsm, StoreError>,
        logged: impl FnOnce(Lsm, Files, u64) -> Result<Logged<Lsm, Files>, StoreError>,
        sqlite: impl FnOnce(&Path) -> Result<Sqlite, StoreError>,
    ) -> Result<Box<dyn Store>, StoreError> {
        // An engine would begin a new one.
        self.lock.check()?;
        let path = self.path.join(records_in(self.engine));
        let lock = self.lock.clone();
        let store: Box<dyn Store> = match self.engine {
            Engine::Fjall => {
                let log = Files::open(&self.path.join(LOG))?;
                if is_in_use(&log)? {
                    Lsm::write_again(&path)?;
                }
                let store = logged(lsm(&path)?, log, SEGMENT_BYTES)?;
                let [a, b] = self.logs();
                Box::new(Locked::new(store, lock, &[a, b, path.join(lsm::LOCK)])?)
            }
            Engine::Sqlite => {
                let store = sqlite(&path)?;
                let files = [path.clone(), beside(&path, sqlite::LOG)];
                Box::new(Locked::new(store, lock, &files)?)
            }
        };
        if self.stage == Stage::Begun {
            // From here on something may be stored.
            write_format(&self.path, &format(self.engine))
                .map_err(|error| StoreError(error.to_string()))?;
        }
        Ok(store)
    }
}

/// Where in a directory an engine has its records.
const fn records_in(engine: Engine) -> &'static str {
    match engine {
        Engine::Fjall => "fjall",
        Engine::Sqlite => "sluice.sqlite",
    }
}

/// A path from the root: a relative one tells little to who does not know where the process was started.
pub(crate) fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}

/// The same, to be shown.
pub(crate) fn whole(path: &Path) -> String {
    absolute(path).display().to_string()
}

pub(super) fn failed(path: &Path) -> impl Fn(io::Error) -> DirectoryError {
    |error| DirectoryError::System { path: path.to_owned(), error }
}

/// Makes a directory that is not there, with all above it, for its user alone: messages are in it. Says whether
/// it did.
fn make(path: &Path) -> Result<bool, DirectoryError> {
    is_no_file(path)?;
    if path.is_symlink() && !path.exists() {
        // As to a disk that is not mounted. The system says that it exists.
        let error = io::Error::new(io::ErrorKind::NotFound, "it is a link to what is not there");
        return Err(failed(path)(error));
    }
    let new: Vec<_> = path.ancestors().take_while(|above| !above.exists()).collect();
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(path).map_err(failed(path))?;
    for made in &new {
        // Or else the machine could end without it.
        sync_above(made).map_err(failed(path))?;
    }
    Ok(!new.is_empty())
}

fn is_no_file(path: &Path) -> Result<(), DirectoryError> {
    match path.metadata() {
        Ok(found) if !found.is_dir() => Err(DirectoryError::IsFile(path.to_owned())),
        // What else is wrong, who uses it finds.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// The engines of which there are records.
fn engines_there(path: &Path) -> Vec<Engine> {
    let is_there = |engine: &Engine| path.join(records_in(*engine)).exists();
    [Engine::Fjall, Engine::Sqlite].into_iter().filter(is_there).collect()
}
