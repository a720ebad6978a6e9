//! `sluice store`: what can be done with a data directory while no broker runs on it.

use std::error::Error;
use std::fmt;
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use clap::{Subcommand, ValueEnum};

use crate::hooks::StoreError;
use crate::store::offline::{self, AsOwner, DumpError, RestoreError};
use crate::store::{Directory, DirectoryError, Engine, Filling, MISSING, room};

/// What to do with a data directory.
#[derive(Clone, Debug, Subcommand)]
pub enum StoreTool {
    /// Say what is in it, and whether all of it can be read and fits together
    ///
    /// The exit status is 1 if anything is damaged or missing, or was set aside as damaged when a broker started. No
    /// record changes, but as when a broker starts, a log is brought to its end, and the format to this one.
    Check {
        /// The data directory
        dir: PathBuf,
    },
    /// Write every record to standard output, as a line of JSON
    ///
    /// No record changes, but as when a broker starts, a log is brought to its end, and the format to this one.
    Dump {
        /// The data directory
        dir: PathBuf,
    },
    /// Fill an empty data directory with what `dump` wrote
    Restore {
        /// The data directory; made if it is not there
        dir: PathBuf,
        /// The dump (without it, standard input)
        file: Option<PathBuf>,
        /// What keeps the records
        #[arg(long, value_enum, default_value_t)]
        engine: EngineName,
    },
    /// Copy every record to an empty data directory, for another engine
    Migrate {
        /// The data directory, whose records stay as they are
        from: PathBuf,
        /// The new one; made if it is not there
        to: PathBuf,
        /// What keeps the records there (by default, the one that FROM is not of)
        #[arg(long, value_enum)]
        engine: Option<EngineName>,
    },
}

/// What keeps the records of a data directory.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
#[allow(missing_docs)]
pub enum EngineName {
    #[default]
    Fjall,
    Sqlite,
}

impl From<EngineName> for Engine {
    fn from(name: EngineName) -> Self {
        match name {
            EngineName::Fjall => Self::Fjall,
            EngineName::Sqlite => Self::Sqlite,
        }
    }
}

impl StoreTool {
    /// Does it, and writes what there is to say to `out`. Whether all is well. Root does it as the user that the
    /// directory belongs to, but for `migrate`.
    ///
    /// # Errors
    /// A directory cannot be used, its records not be read or written, a line of a dump is wrong.
    pub fn run(&self, out: &mut dyn Write) -> Result<bool, Box<dyn Error>> {
        match self {
            Self::Check { dir } => check(dir, out),
            Self::Dump { dir } => dump(dir, out),
            Self::Restore { dir, file, engine } => {
                let count = match file {
                    Some(path) => {
                        let file = File::open(path)
                            .map_err(|error| in_(path)(format!("cannot be read: {error}")))?;
                        restore(dir, path, &mut BufReader::new(file), *engine)?
                    }
                    None => {
                        let name = Path::new("standard input");
                        restore(dir, name, &mut io::stdin().lock(), *engine)?
                    }
                };
                say(out, &format!("{}: {count} records\n", dir.display()))
            }
            Self::Migrate { from, to, engine } => {
                let count = migrate(from, to, *engine)?;
                say(out, &format!("{}: {count} records\n", to.display()))
            }
        }
    }
}

/// A directory that is read, with what to do if it cannot be written to.
fn existing(dir: &Path) -> Result<Directory, Box<dyn Error>> {
    Directory::existing(dir).map_err(|error| {
        let DirectoryError::System { error: why, .. } = &error else { return error.into() };
        let whose = match (why.kind(), dir.metadata()) {
            (io::ErrorKind::PermissionDenied, Ok(found)) => {
                format!("call this as its user ({}) or root, or ", found.uid())
            }
            (io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem, _) => String::new(),
            _ => return error.into(),
        };
        format!(
            "{error}; to read it is to write to it, as a start does: {whose}copy the whole directory to where \
             you can write"
        )
        .into()
    })
}

fn check(dir: &Path, out: &mut dyn Write) -> Result<bool, Box<dyn Error>> {
    let _owner = AsOwner::of(dir);
    let directory = existing(dir)?;
    // To open the records is to make what is not there.
    let missing = directory.missing()?;
    let findings = offline::check(&*directory.records().map_err(unopened(dir))?);
    let (dir, format, engine) = (dir.display(), Directory::FORMAT, directory.engine().name());
    say(out, &format!("{dir}: format {format}, engine {engine}\n{findings}\n"))?;
    for path in &missing {
        say(out, &format!("{}: {MISSING}\n", path.display()))?;
    }
    let set_aside = directory.set_aside()?;
    for (path, len) in &set_aside {
        say(out, &format!("{}: {len} bytes, set aside as damaged\n", path.display()))?;
    }
    Ok(findings.are_whole() && set_aside.is_empty() && missing.is_empty())
}

fn dump(dir: &Path, out: &mut dyn Write) -> Result<bool, Box<dyn Error>> {
    let _owner = AsOwner::of(dir);
    let directory = existing(dir)?;
    let store = directory.records().map_err(unopened(dir))?;
    let dumped = offline::dump(&*store, &mut BufWriter::new(out)).map_err(|error| match error {
        DumpError::Io(error) => format!("cannot write the dump: {error}"),
        DumpError::Store(_) => format!("{}: {error}", dir.display()),
    })?;
    if dumped.damaged > 0 {
        let (dir, damaged) = (dir.display(), dumped.damaged);
        let said = format!("{dir}: {damaged} of its records are damaged, and written as they are");
        // The dump is whole, even if that cannot be said.
        let _ = writeln!(io::stderr(), "sluice: {said}");
    }
    Ok(true)
}

fn restore(
    dir: &Path,
    name: &Path,
    text: &mut dyn BufRead,
    engine: EngineName,
) -> Result<u64, Box<dyn Error>> {
    let _owner = AsOwner::of(dir);
    let filling = Filling::new(dir, engine.into()).map_err(|error| match error {
        DirectoryError::IsFile(_) => {
            format!("{error}: the directory comes first, sluice store restore DIR FILE").into()
        }
        error => Box::<dyn Error>::from(error),
    })?;
    let mut store = filling.records().map_err(in_(dir))?;
    let count = offline::restore(text, &mut *store).map_err(|error| match error {
        RestoreError::Store(_) => in_(dir)(error),
        _ => in_(name)(error),
    })?;
    drop(store);
    filling.finish()?;
    Ok(count)
}

fn migrate(from: &Path, to: &Path, engine: Option<EngineName>) -> Result<u64, Box<dyn Error>> {
    let owner = AsOwner::of(from);
    let old = existing(from)?;
    let source = old.records().map_err(unopened(from))?;
    // The new one is the caller's.
    drop(owner);
    let engine = engine.map_or_else(|| other(old.engine()), Engine::from);
    let filling = Filling::new(to, engine)?;
    let mut store = filling.records().map_err(in_(to))?;
    let count = offline::copy(&*source, &mut *store)
        .map_err(|error| format!("from {} to {}: {error}", from.display(), to.display()))?;
    drop(store);
    filling.finish()?;
    Ok(count)
}

/// As a start says it, which needs room as well.
fn unopened(dir: &Path) -> impl Fn(StoreError) -> Box<dyn Error> {
    move |error| in_(dir)(format!("{error}{}", room(dir, &error.to_string())))
}

/// What went wrong, with where.
fn in_<E: fmt::Display>(path: &Path) -> impl Fn(E) -> Box<dyn Error> {
    move |error| format!("{}: {error}", path.display()).into()
}

fn other(engine: Engine) -> Engine {
    match engine {
        Engine::Fjall => Engine::Sqlite,
        Engine::Sqlite => Engine::Fjall,
    }
}

/// That nobody reads it to its end is no error.
fn say(out: &mut dyn Write, text: &str) -> Result<bool, Box<dyn Error>> {
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(true),
    }
}
