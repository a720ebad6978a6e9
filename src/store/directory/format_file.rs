//! The file `format` of a data directory: of which format and engine that is, and whether it is finished.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::{DirectoryError, Engine, engines_there, failed};
use crate::store::damage::{self, sync_directory};

/// The format that this version writes. It reads the first one, too, which had no log in front of fjall.
pub(super) const FORMAT: u32 = 2;
pub(super) const FORMAT_FILE: &str = "format";
/// Where it is written before it is renamed.
pub(super) const DRAFT: &str = "format.new";
/// Stands in place of the format until everything is there.
pub(super) const UNFINISHED: &str = "unfinished";
/// Stands behind the format until a start has made all of its files: before that this version stores nothing.
pub(super) const BEGUN: &str = "new";

/// What it says of a directory that is in use.
pub(super) fn format(engine: Engine) -> String {
    let words = format!("{FORMAT} {}", engine.name());
    format!("{words} {}", sum(&words))
}

/// The file is whole or not there: a crash leaves no half of it.
pub(super) fn write_format(path: &Path, text: &str) -> Result<(), DirectoryError> {
    let draft = path.join(DRAFT);
    fs::write(&draft, format!("{text}\n"))
        .and_then(|()| File::open(&draft)?.sync_all())
        .and_then(|()| fs::rename(&draft, path.join(FORMAT_FILE)))
        .inspect_err(|_| _ = fs::remove_file(&draft))
        .and_then(|()| sync_directory(path))
        .map_err(failed(path))
}

/// What a directory says of itself.
pub(super) struct Format {
    /// The engine's name.
    pub(super) engine: String,
    pub(super) written: Written,
}

/// In which state what says so is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Written {
    /// As this version writes it.
    ByThis,
    /// So, too, before a start had made all of its files.
    Begun,
    /// This format, but not as it is written: as those do who are told what to write.
    ByHand,
    Earlier,
    /// It is told by the records.
    Damaged,
    /// So is this: it was written before there were any.
    Gone,
}

/// Format and engine, if they have been written.
pub(super) fn read_format(path: &Path) -> Result<Option<Format>, DirectoryError> {
    let file = path.join(FORMAT_FILE);
    let told_by_records = |written| match engines_there(path)[..] {
        [engine] => Some(Format { engine: engine.name().to_owned(), written }),
        _ => None,
    };
    let bytes = match damage::read(&file) {
        Ok((bytes, _)) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return match told_by_records(Written::Gone) {
                None if !engines_there(path).is_empty() => Err(DirectoryError::NoFormat(file)),
                told => Ok(told),
            };
        }
        Err(error) => return Err(failed(path)(error)),
    };
    let text = String::from_utf8_lossy(&bytes);
    let words: Vec<_> = text.split_whitespace().collect();
    if words == [UNFINISHED] {
        return Err(DirectoryError::Unfinished(path.to_owned()));
    }
    if let [number, engine, sums @ ..] = &words[..]
        && let Ok(found) = number.parse::<u32>()
    {
        let is_right = match sums {
            // Earlier versions wrote none.
            [] => found > FORMAT || Engine::named(engine).is_some(),
            [found, ..] => *found == sum(&format!("{number} {engine}")),
        };
        match is_right {
            true if found > FORMAT => {
                return Err(DirectoryError::Newer { path: path.to_owned(), found });
            }
            true => {
                let written = match sums {
                    _ if found < FORMAT => Written::Earlier,
                    [_] => Written::ByThis,
                    [_, BEGUN] => Written::Begun,
                    _ => Written::ByHand,
                };
                return Ok(Some(Format { engine: (*engine).to_owned(), written }));
            }
            false => {}
        }
    }
    if may_be_unfinished(&bytes) {
        return Err(DirectoryError::MaybeUnfinished(file));
    }
    told_by_records(Written::Damaged).map(Some).ok_or(DirectoryError::NoFormat(file))
}

/// Whether a damaged format may have said that a directory was not filled to its end.
fn may_be_unfinished(damaged: &[u8]) -> bool {
    let same = damaged.iter().zip(UNFINISHED.as_bytes()).filter(|(one, other)| one == other);
    same.count() > UNFINISHED.len() / 2
}

/// A checksum, as text.
fn sum(words: &str) -> String {
    format!("{:08x}", crc32fast::hash(words.as_bytes()))
}
