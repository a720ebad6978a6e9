//! The data directory: who has it, which format and engine it is of.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::lsm::Lsm;
use super::sqlite::Sqlite;
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
}

/// The format that this version writes, and the only one it reads.
const FORMAT: u32 = 1;
const FORMAT_FILE: &str = "format";
const LOCK_FILE: &str = "lock";

/// A data directory that this process has to itself, until it is dropped.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    engine: Engine,
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process has it.
    #[error("another process uses the data directory {}", .0.display())]
    InUse(PathBuf),
    /// A newer version wrote it.
    #[error(
        "the data directory {} has format {found}, this version knows {FORMAT}: use a newer one",
        .path.display()
    )]
    Newer {
        /// Where.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// Its records are kept by another engine than the one asked for.
    #[error(
        "the data directory {} is of the engine \"{found}\", not \"{}\": take another directory",
        .path.display(), .asked.name()
    )]
    OtherEngine {
        /// Where.
        path: PathBuf,
        /// The engine's name as it stands there.
        found: String,
        /// What was asked for.
        asked: Engine,
    },
    /// Its format cannot be told.
    #[error("{} does not say a format and an engine", .0.display())]
    NoFormat(PathBuf),
    /// The system refuses.
    #[error("cannot use the data directory {}: {error}", .path.display())]
    System {
        /// What.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl Directory {
    /// Takes a directory into use, and makes it if it is not there.
    ///
    /// # Errors
    /// See [`DirectoryError`].
    pub fn open(path: &Path, engine: Engine) -> Result<Self, DirectoryError> {
        let failed = |error| DirectoryError::System { path: path.to_owned(), error };
        let is_new = !path.exists();
        fs::create_dir_all(path).map_err(failed)?;
        if is_new && let Some(above) = path.parent() {
            // Or else the machine could end without it.
            let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
            File::open(above).and_then(|above| above.sync_all()).map_err(failed)?;
        }
        let lock = File::create(path.join(LOCK_FILE)).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DirectoryError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        let format = path.join(FORMAT_FILE);
        match fs::read_to_string(&format) {
            Ok(text) => check_format(path, &text, engine)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write_format(path, engine).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
        }
        Ok(Self { path: path.to_owned(), engine, _lock: lock })
    }

    /// Opens its records: once, and again after they failed.
    ///
    /// # Errors
    /// What the engine says.
    pub fn records(&self) -> Result<Box<dyn Store>, StoreError> {
        Ok(match self.engine {
            Engine::Fjall => Box::new(Lsm::open(&self.path.join("fjall"))?),
            Engine::Sqlite => Box::new(Sqlite::open(&self.path.join("sluice.sqlite"))?),
        })
    }
}

/// The file is whole or not there: a crash leaves no half of it.
fn write_format(path: &Path, engine: Engine) -> io::Result<()> {
    let draft = path.join("format.new");
    fs::write(&draft, format!("{FORMAT} {}\n", engine.name()))?;
    File::open(&draft)?.sync_all()?;
    fs::rename(&draft, path.join(FORMAT_FILE))?;
    File::open(path)?.sync_all()
}

fn check_format(path: &Path, text: &str, engine: Engine) -> Result<(), DirectoryError> {
    let mut words = text.split_whitespace();
    let format = words.next().and_then(|word| word.parse::<u32>().ok());
    let (Some(format), Some(found)) = (format, words.next()) else {
        return Err(DirectoryError::NoFormat(path.join(FORMAT_FILE)));
    };
    if format > FORMAT {
        return Err(DirectoryError::Newer { path: path.to_owned(), found: format });
    }
    if found != engine.name() {
        let (path, found) = (path.to_owned(), found.to_owned());
        return Err(DirectoryError::OtherEngine { path, found, asked: engine });
    }
    Ok(())
}
