//! The files of a database of fjall, held against their checksums before fjall opens it.
//!
//! It opens what is damaged as if it were whole, or not at all, and removes what nothing speaks of any more:
//! that can be everything, when the list of what there is has rotted.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::journal::Journals;
use super::reader::Reader;
use super::table::{Records, section, sections};
use crate::hooks::Table;
use crate::store::damage;

/// Where the keyspaces are, each in a directory with its number.
pub(in crate::store) const KEYSPACES: &str = "keyspaces";
/// The keyspace that has the names of the others.
const NAMES: u64 = 0;
/// In front of a number, in its keys.
const NAME: u8 = b'n';
/// Where a keyspace has its files with records, each named by its number.
const TABLES: &str = "tables";
/// It is open, and locked, as long as the database is.
pub(in crate::store) const LOCK: &str = "lock";
/// Says which database it is; written when one is made, before the keyspaces.
const MARKER: &str = "version";
const MARK: &[u8] = b"FJL\x03";
/// Bytes of a file that are read at once.
const READ_BYTES: usize = 256 << 10;

/// Whether somebody has it open: what is being written there is not to be mended.
pub(super) fn is_open(path: &Path) -> io::Result<bool> {
    let lock = path.join(LOCK);
    let file = match File::options().append(true).open(&lock) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file.map_err(damage::of(&lock))?,
    };
    match file.try_lock() {
        Ok(()) => file.unlock().map(|()| false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Removes what was begun when a database was to be made, and did not get to anything that can be opened.
pub(super) fn clear_unmade(path: &Path) -> io::Result<()> {
    let has_something = is_made(path)?
        || !damage::entries(&path.join(KEYSPACES))?.is_empty()
        || !Journals::read(path)?.are_empty();
    if has_something || !path.try_exists()? { Ok(()) } else { fs::remove_dir_all(path) }
}

/// Whether it was made, up to what comes last but for the keyspaces.
pub(super) fn is_made(path: &Path) -> io::Result<bool> {
    path.join(MARKER).try_exists()
}

/// Has fjall open it at all, whatever is in its files: without its lock it does not, and what it does not
/// expect beside them is the end of the process.
pub(super) fn make_openable(path: &Path) -> io::Result<()> {
    let stray = |path: &Path| {
        let said = format!("{}: it does not belong there: move it away", path.display());
        Err(io::Error::other(said))
    };
    let is_file = |path: &Path| fs::symlink_metadata(path).map(|found| found.is_file());
    for entry in damage::entries(path)? {
        if entry.extension().is_some_and(|extension| extension == "jnl") && !is_file(&entry)? {
            return stray(&entry);
        }
    }
    for keyspace in damage::entries(&path.join(KEYSPACES))? {
        if is_file(&keyspace)? {
            continue;
        }
        if id(&keyspace).is_none() {
            return stray(&keyspace);
        }
        if let Some(stray_one) =
            damage::entries(&keyspace.join(TABLES))?.iter().find(|table| table.is_dir())
        {
            return stray(stray_one);
        }
    }
    if is_made(path)? {
        File::options().create(true).append(true).open(path.join(LOCK))?;
    }
    Ok(())
}

/// Of all files that [`Files::read`] may read.
pub(super) fn bytes(path: &Path) -> io::Result<u64> {
    damage::bytes(&path.join(KEYSPACES))
}

/// How much of the files is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    /// Whether those are there that there have to be.
    AtNames,
    /// Whether they have their checksums, too.
    AtAll,
}

/// The files that hold records, and what is wrong.
#[derive(Debug, Default)]
pub(super) struct Files {
    /// By table. If nobody knows which are in use, all that are there.
    pub(super) tables: [Vec<PathBuf>; Table::COUNT],
    /// The number of the keyspace of each table.
    pub(super) keyspaces: [u64; Table::COUNT],
    /// Files that are damaged, or not there.
    pub(super) damaged: Vec<PathBuf>,
}

impl Files {
    /// Looks at a database, of which it is known whether something was ever written to it. One that was
    /// not made to its end has nothing in it.
    pub(super) fn read(path: &Path, was_written: bool, look: Look) -> io::Result<Self> {
        let mut files = Self::default();
        let (marker, keyspaces) = (path.join(MARKER), path.join(KEYSPACES));
        let count = damage::entries(&keyspaces)?.len();
        if count == 0 && was_written {
            files.damaged.push(keyspaces.clone());
        } else if count == 0 && !marker.try_exists()? {
            return Ok(files);
        }
        if !marker.try_exists()? || damage::read(&marker)?.0 != MARK {
            files.damaged.push(marker);
        }
        let names = files.keyspace(&keyspaces, NAMES, count > 1, look)?;
        let names = Names::read(&names)?;
        let is_known = files.damaged.is_empty();
        for table in Table::ALL {
            let name = names.number(table.name());
            let number = match name {
                Some(number) => number,
                // All are made in their order, before there is anything in one of them.
                None if !is_known => table as u64 + 1,
                None => continue,
            };
            let found = files.keyspace(&keyspaces, number, name.is_some(), look)?;
            files.keyspaces[table as usize] = number;
            files.tables[table as usize] = found;
        }
        Ok(files)
    }

    /// The table files of a keyspace, of which it is known that it was made, or not.
    fn keyspace(
        &mut self,
        keyspaces: &Path,
        number: u64,
        is_made: bool,
        look: Look,
    ) -> io::Result<Vec<PathBuf>> {
        let path = keyspaces.join(number.to_string());
        let folder = path.join(TABLES);
        let Some(listed) = listed(&path)? else {
            let mut all = damage::entries(&folder)?;
            all.retain(|file| id(file).is_some());
            if is_made || !all.is_empty() || path.join("current").try_exists()? {
                self.damaged.push(path.join("current"));
            }
            return Ok(all);
        };
        let (mut found, mut buffer) = (Vec::new(), vec![0; READ_BYTES]);
        for (id, right) in listed {
            let file = folder.join(id.to_string());
            let is_there = file.try_exists()?;
            let is_whole = match look {
                Look::AtNames => is_there,
                Look::AtAll => is_there && checksum(&file, &mut buffer)? == Some(right),
            };
            if !is_whole {
                self.damaged.push(file.clone());
            }
            if is_there {
                found.push(file);
            }
        }
        Ok(found)
    }
}

/// The number that a table file has as its name.
fn id(file: &Path) -> Option<u64> {
    file.file_name()?.to_str()?.parse().ok()
}

/// The tables that are in use, with their checksums; nothing if the list is damaged.
fn listed(path: &Path) -> io::Result<Option<Vec<(u64, u128)>>> {
    let current = match damage::read(&path.join("current")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        current => current?.0,
    };
    let mut reader = Reader::new(&current);
    let (Some(version), Some(checksum)) = (reader.u64(), reader.u128()) else { return Ok(None) };
    let list = path.join(format!("v{version}"));
    let bytes = match damage::read(&list) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        bytes => bytes?.0,
    };
    if xxh3_128(&bytes) != checksum {
        return Ok(None);
    }
    let tables = section(&sections(&File::open(&list)?)?, b"tables").and_then(|tables| {
        let (start, len) = (usize::try_from(tables.start).ok()?, usize::try_from(tables.len).ok()?);
        bytes.get(start..start.checked_add(len)?).map(<[u8]>::to_vec)
    });
    Ok(tables.as_deref().and_then(parse_tables))
}

/// Levels of runs of tables.
fn parse_tables(bytes: &[u8]) -> Option<Vec<(u64, u128)>> {
    let (mut reader, mut tables) = (Reader::new(bytes), Vec::new());
    for _ in 0..reader.u8()? {
        for _ in 0..reader.u8()? {
            for _ in 0..reader.u32()? {
                let (id, _kind, checksum) = (reader.u64()?, reader.u8()?, reader.u128()?);
                let _sequence = reader.u64()?;
                tables.push((id, checksum));
            }
        }
    }
    Some(tables)
}

/// Nothing if the disk does not give all of it.
fn checksum(path: &Path, buffer: &mut [u8]) -> io::Result<Option<u128>> {
    let (mut file, mut checksum) = (File::open(path)?, Xxh3::new());
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(Some(checksum.digest128())),
            Ok(len) => checksum.update(buffer.get(..len).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if damage::is_unreadable(&error) => return Ok(None),
            Err(error) => return Err(error),
        }
    }
}

/// Which keyspace has which name.
struct Names(Vec<(u64, Vec<u8>)>);

impl Names {
    fn read(files: &[PathBuf]) -> io::Result<Self> {
        let mut names = Vec::new();
        for file in files {
            let mut records = Records::of(file)?;
            while let Some(record) = records.next()? {
                if let (Some((&NAME, number)), Some(name)) =
                    (record.key.split_first(), record.value)
                    && let Ok(number) = number.try_into()
                {
                    names.push((u64::from_be_bytes(number), name));
                }
            }
        }
        Ok(Self(names))
    }

    fn number(&self, of: &str) -> Option<u64> {
        self.0.iter().find(|(_, name)| name == of.as_bytes()).map(|(number, _)| *number)
    }
}
