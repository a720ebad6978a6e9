//! A damaged database gives way to one that was made of what can be read of it.
//!
//! The new one is whole before it has the name that says so, and from then on every opening brings the
//! exchange to its end, wherever it was broken off.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::damage::{DRAFT, SET_ASIDE, bytes, sync_above, without_room};
use crate::hooks::StoreError;

/// The new database until it is in the place of the old one.
const SALVAGED: &str = "salvaged";

/// Whether a new database is about to take that place.
pub(super) fn is_under_way(path: &Path) -> io::Result<bool> {
    path.with_extension(SALVAGED).try_exists()
}

/// Has a new database made, which takes the place of a damaged one once it is closed and on disk. One of
/// files has others beside it, whose names go on with a suffix. What goes wrong leaves nothing behind.
pub(super) fn with(
    path: &Path,
    suffixes: &[&str],
    make: impl FnOnce(&Path) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let draft = path.with_extension(DRAFT);
    remove_all(&draft, suffixes)?;
    if let Err(StoreError(error)) = make(&draft) {
        let room = without_room(path, bytes(path)?);
        remove_all(&draft, suffixes)?;
        return Err(StoreError(match room {
            Some(room) => format!("{error}; {room}"),
            None => error,
        }));
    }
    fs::rename(draft, path.with_extension(SALVAGED))?;
    sync_above(path)?;
    Ok(end(path, suffixes)?)
}

/// Ends what was begun and broken off. The damaged database is set aside with the files beside it, and the
/// log says where.
pub(super) fn end(path: &Path, suffixes: &[&str]) -> io::Result<()> {
    if let Some(aside) = take_place(path, suffixes)? {
        tracing::error!("{}: the damaged database was set aside there", aside.display());
    }
    Ok(())
}

/// Says where the damaged one is, if there is a new one.
fn take_place(path: &Path, suffixes: &[&str]) -> io::Result<Option<PathBuf>> {
    if !is_under_way(path)? {
        return Ok(None);
    }
    let salvaged = path.with_extension(SALVAGED);
    let (free, last) = names_aside(path)?;
    // It goes last: if it is not there any more, it has been set aside already.
    let aside = if path.try_exists()? { free } else { last.unwrap_or(free) };
    for suffix in suffixes.iter().chain(&[""]) {
        match fs::rename(beside(path, suffix), beside(&aside, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    sync_above(path)?;
    fs::rename(salvaged, path)?;
    sync_above(path)?;
    Ok(Some(aside))
}

/// A name that nothing has, and the one before it.
fn names_aside(path: &Path) -> io::Result<(PathBuf, Option<PathBuf>)> {
    let (mut count, mut last) = (0, None);
    loop {
        let aside = path.with_extension(format!("{SET_ASIDE}{count}"));
        if !aside.try_exists()? {
            return Ok((aside, last));
        }
        (count, last) = (count + 1, Some(aside));
    }
}

/// The file of a database whose name goes on with a suffix.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn remove_all(path: &Path, suffixes: &[&str]) -> io::Result<()> {
    remove(path)?;
    suffixes.iter().try_for_each(|suffix| remove(&beside(path, suffix)))
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).expect("a directory");
        let name = |entry: io::Result<fs::DirEntry>| {
            let entry = entry.expect("an entry");
            let text = fs::read_to_string(entry.path()).expect("a file");
            format!("{} is {text}", entry.file_name().display())
        };
        let mut names: Vec<_> = entries.map(name).collect();
        names.sort();
        names
    }

    #[test]
    fn wherever_it_is_broken_off_the_next_opening_ends_it() {
        // What each step, in their order, has moved already.
        for steps in 0..4 {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().join("db.x");
            let put = |name: &str, text| fs::write(directory.path().join(name), text);
            put("db.damaged-0", "earlier").expect("written");
            put("db.salvaged", "new").expect("written");
            put(if steps < 1 { "db.x-wal" } else { "db.damaged-1-wal" }, "old").expect("written");
            put(if steps < 2 { "db.x" } else { "db.damaged-1" }, "old").expect("written");
            if steps == 3 {
                fs::rename(path.with_extension(SALVAGED), &path).expect("renamed");
            }
            for again in [false, true] {
                let aside = take_place(&path, &["-wal"]).expect("possible");
                let expected = (steps < 3 && !again).then(|| directory.path().join("db.damaged-1"));
                assert_eq!(aside, expected, "after {steps} steps");
                let names = names(directory.path());
                assert!(names.contains(&"db.x is new".to_owned()), "{names:?}");
                assert!(names.contains(&"db.damaged-0 is earlier".to_owned()), "{names:?}");
                let old = names.iter().filter(|name| name.ends_with("is old")).count();
                assert_eq!((names.len(), old), (4, 2), "{names:?}");
            }
        }
    }

    #[test]
    fn what_goes_wrong_leaves_the_old_one_and_nothing_else() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("db.x");
        fs::write(&path, "old").expect("written");
        let fails = |draft: &Path| {
            fs::write(draft, "half")?;
            fs::write(beside(draft, "-wal"), "half")?;
            Err(StoreError("no space".to_owned()))
        };
        let error = with(&path, &["-wal"], fails).expect_err("it fails");
        assert_eq!(error.to_string(), "no space");
        assert_eq!(names(directory.path()), ["db.x is old"]);
        with(&path, &["-wal"], |draft| Ok(fs::write(draft, "new")?)).expect("possible");
        assert_eq!(names(directory.path()), ["db.damaged-0 is old", "db.x is new"]);
    }
}
