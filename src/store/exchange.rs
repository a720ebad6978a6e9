//! A damaged database gives way to one that was made of what can be read of it.
//!
//! The new one is whole before it has the name that says so, and from then on every opening brings the
//! exchange to its end, wherever it was broken off.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::directory::SET_ASIDE;

/// The new database until everything is in it.
const DRAFT: &str = "draft";
/// The new database until it is in the place of the old one.
const SALVAGED: &str = "salvaged";

/// Where a new database for the place of another is made; nothing is there yet. A database of files has
/// one of that name, and others beside it whose names go on with a suffix.
pub(super) fn draft(path: &Path, suffixes: &[&str]) -> io::Result<PathBuf> {
    let draft = path.with_extension(DRAFT);
    remove(&draft)?;
    for suffix in suffixes {
        remove(&beside(&draft, suffix))?;
    }
    Ok(draft)
}

/// Puts the draft, which is closed and on disk, in the place of the damaged database.
pub(super) fn take_draft(path: &Path, suffixes: &[&str]) -> io::Result<()> {
    fs::rename(path.with_extension(DRAFT), path.with_extension(SALVAGED))?;
    sync_above(path)?;
    end(path, suffixes)
}

/// Ends an exchange that was begun. The damaged database is set aside with the files beside it, and the log
/// says where.
pub(super) fn end(path: &Path, suffixes: &[&str]) -> io::Result<()> {
    let salvaged = path.with_extension(SALVAGED);
    if !salvaged.try_exists()? {
        return Ok(());
    }
    let aside = aside(path)?;
    for suffix in suffixes.iter().chain(&[""]) {
        match fs::rename(beside(path, suffix), beside(&aside, suffix)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    sync_above(path)?;
    fs::rename(salvaged, path)?;
    sync_above(path)?;
    tracing::error!("{}: the damaged database was set aside there", aside.display());
    Ok(())
}

/// A name that nothing has.
fn aside(path: &Path) -> io::Result<PathBuf> {
    let mut count = 0;
    loop {
        let aside = path.with_extension(format!("{SET_ASIDE}{count}"));
        if !aside.try_exists()? {
            return Ok(aside);
        }
        count += 1;
    }
}

/// The file of a database whose name goes on with a suffix.
pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn sync_above(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |above| File::open(above)?.sync_all())
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
            for _ in 0..2 {
                end(&path, &["-wal"]).expect("possible");
                let names = names(directory.path());
                assert!(names.contains(&"db.x is new".to_owned()), "{names:?}");
                assert!(names.contains(&"db.damaged-0 is earlier".to_owned()), "{names:?}");
                let old = names.iter().filter(|name| name.ends_with("is old")).count();
                assert_eq!((names.len(), old), (4, 2), "{names:?}");
            }
        }
    }
}
