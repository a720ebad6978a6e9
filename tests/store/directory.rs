//! Who may use a data directory.

use std::fs;

use sluice::hooks::{Commit, Table, Write};
use sluice::store::{Directory, DirectoryError, Engine};
use tempfile::TempDir;

use crate::said::said;

#[test]
fn a_second_one_is_refused_until_the_first_has_gone() {
    let path = TempDir::new().expect("a directory");
    let first = Directory::open(path.path(), Engine::Fjall).expect("nobody has it");
    let second = Directory::open(path.path(), Engine::Fjall);
    assert!(matches!(second, Err(DirectoryError::InUse(_))), "{second:?}");
    drop(first);
    Directory::open(path.path(), Engine::Fjall).expect("nobody has it any more");
}

#[test]
fn a_directory_is_made_with_all_above_it() {
    let path = TempDir::new().expect("a directory");
    let deep = path.path().join("a/b/c");
    let directory = Directory::open(&deep, Engine::Sqlite).expect("made");
    let format = || fs::read_to_string(deep.join("format")).expect("a file");
    assert_eq!(format(), "2 sqlite 640e95d4 new\n");
    directory.records().expect("new");
    assert_eq!(format(), "2 sqlite 640e95d4\n");
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    let path = TempDir::new().expect("a directory");
    fs::write(path.path().join("format"), "3 fjall\n").expect("written");
    let error = Directory::open(path.path(), Engine::Fjall).expect_err("newer");
    let text = error.to_string();
    assert!(text.ends_with("format 3, this version knows 2: use a newer version"), "{text}");
    let left = fs::read_dir(path.path()).expect("a directory").count();
    assert_eq!(left, 2, "format and lock");
}

#[test]
fn the_records_of_another_engine_are_not_taken_for_its_own() {
    let path = TempDir::new().expect("a directory");
    drop(Directory::open(path.path(), Engine::Fjall).expect("new"));
    let error = Directory::open(path.path(), Engine::Sqlite).expect_err("the other engine's");
    let text = error.to_string();
    assert!(text.contains("\"fjall\", not \"sqlite\""), "{text}");
}

/// Whoever knows the first format only would not find what is in the log.
#[test]
fn the_first_format_is_read_and_becomes_this_one() {
    for existing in [false, true] {
        let path = TempDir::new().expect("a directory");
        let format = path.path().join("format");
        drop(Directory::open(path.path(), Engine::Fjall).expect("new").records().expect("new"));
        fs::write(&format, "1 fjall\n").expect("written");
        let directory = match existing {
            true => Directory::existing(path.path()),
            false => Directory::open(path.path(), Engine::Fjall),
        };
        directory.expect("known").records().expect("whole");
        let text = fs::read_to_string(&format).expect("a file");
        assert!(text.starts_with("2 fjall "), "{text}");
    }
}

#[test]
fn what_is_no_format_is_refused() {
    let path = TempDir::new().expect("a directory");
    for text in ["", "fjall", "1", "one fjall"] {
        fs::write(path.path().join("format"), text).expect("written");
        let error = Directory::open(path.path(), Engine::Fjall).expect_err("no format");
        assert!(matches!(error, DirectoryError::NoFormat(_)), "{text:?}: {error}");
    }
}

/// What is in it says of which engine it is.
#[test]
fn a_damaged_format_is_written_anew() {
    for engine in [Engine::Fjall, Engine::Sqlite] {
        let path = TempDir::new().expect("a directory");
        let format = path.path().join("format");
        drop(Directory::open(path.path(), engine).expect("new").records().expect("new"));
        let whole = fs::read(&format).expect("a file");
        for bit in 0..8 * (whole.len() - 1) {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&format, &bytes).expect("written");
            drop(Directory::existing(path.path()).expect("it is told by what is there"));
            assert_eq!(fs::read(&format).expect("a file"), whole, "bit {bit}");
        }
        for len in 0..whole.len() - 1 {
            fs::write(&format, &whole[..len]).expect("written");
            drop(Directory::open(path.path(), engine).expect("it is told by what is there"));
            assert_eq!(fs::read(&format).expect("a file"), whole, "cut to {len}");
        }
        // One that was not filled to its end is never taken for whole.
        for bit in 0..8 * "unfinished".len() {
            let mut bytes = *b"unfinished\n";
            bytes[bit / 8] ^= 1 << (bit % 8);
            fs::write(&format, bytes).expect("written");
            let error = Directory::existing(path.path()).expect_err("it was not finished");
            let (error, way) = (error.to_string(), "fill it anew, with sluice store restore");
            assert!(error.contains(way), "bit {bit}: {error}");
        }
    }
}

/// Or else the other engine would begin anew beside them.
#[test]
fn without_its_format_a_directory_is_of_the_engine_whose_records_are_there() {
    for (engine, other) in [(Engine::Fjall, Engine::Sqlite), (Engine::Sqlite, Engine::Fjall)] {
        let path = TempDir::new().expect("a directory");
        let format = path.path().join("format");
        drop(Directory::open(path.path(), engine).expect("new").records().expect("new"));
        let whole = fs::read(&format).expect("a file");
        fs::remove_file(&format).expect("it is there");
        let error = Directory::open(path.path(), other).expect_err("the other engine's");
        assert!(matches!(error, DirectoryError::OtherEngine { .. }), "{error}");
        assert!(!format.exists());
        for existing in [false, true] {
            let log = said(|| {
                let opened = match existing {
                    true => Directory::existing(path.path()),
                    false => Directory::open(path.path(), engine),
                };
                drop(opened.expect("it is told by what is there"));
            });
            assert_eq!(log.matches("format: ").count(), 1, "{log}");
            assert_eq!(fs::read(&format).expect("a file"), whole);
            fs::remove_file(&format).expect("it is there");
        }
        drop(Directory::open(path.path(), engine).expect("known"));
        let name = if other == Engine::Fjall { "fjall" } else { "sluice.sqlite" };
        fs::write(path.path().join(name), "").expect("written");
        fs::remove_file(&format).expect("it is there");
        for opened in [Directory::open(path.path(), engine), Directory::existing(path.path())] {
            let error = opened.expect_err("there are two");
            assert!(matches!(error, DirectoryError::NoFormat(_)), "{error}");
            let way = "write \"2 fjall\" or \"2 sqlite\" into it";
            assert!(error.to_string().contains(way), "{error}");
        }
    }
}

/// Once a start has come to its end, all of it is there.
#[test]
fn what_is_missing_at_a_start_is_told() {
    for (engine, names) in [
        (Engine::Fjall, &["fjall", "fjall/keyspaces", "log", "log/a.log", "log/b.log"][..]),
        (Engine::Sqlite, &["sluice.sqlite"]),
    ] {
        let path = TempDir::new().expect("a directory");
        let start = || {
            said(|| {
                let directory = Directory::open(path.path(), engine).expect("nobody has it");
                drop(directory.mended_records().expect("it opens"));
            })
        };
        let first = start();
        assert!(!first.contains("missing"), "{first}");
        for name in names {
            let gone = path.path().join(name);
            match gone.is_dir() {
                true => fs::remove_dir_all(&gone).expect("removed"),
                false => fs::remove_file(&gone).expect("removed"),
            }
            let log = start();
            let is_told = |line: &str| line.contains(name) && line.contains("missing or empty");
            assert!(log.lines().any(is_told), "{name}: {log}");
            let again = start();
            assert!(!again.contains("missing"), "{name}: {again}");
        }
    }
    // One that was written by hand says no less.
    let path = TempDir::new().expect("a directory");
    let start = || {
        said(|| {
            let directory = Directory::open(path.path(), Engine::Fjall).expect("nobody has it");
            drop(directory.mended_records().expect("it opens"));
        })
    };
    start();
    for format in ["2 fjall\n", "2 fjall 238c5376 xyz\n"] {
        fs::remove_file(path.path().join("log/a.log")).expect("removed");
        fs::write(path.path().join("format"), format).expect("written");
        let log = start();
        assert!(log.contains("a.log: missing"), "{format}: {log}");
    }
    // The first format had no log.
    let path = TempDir::new().expect("a directory");
    let start = || {
        let directory = Directory::open(path.path(), Engine::Fjall).expect("nobody has it");
        drop(directory.mended_records().expect("it opens"));
    };
    start();
    fs::remove_dir_all(path.path().join("log")).expect("removed");
    fs::write(path.path().join("format"), "1 fjall\n").expect("written");
    let log = said(start);
    assert!(!log.contains("missing"), "{log}");
}

/// Until a start has made everything nothing is stored, so nothing is lost that is not there.
#[test]
fn what_a_first_start_did_not_come_to_is_not_missed() {
    for (engine, made) in [
        (Engine::Fjall, &["log", "log/a.log", "log/b.log", "fjall"][..]),
        (Engine::Sqlite, &["sluice.sqlite"]),
    ] {
        for so_many in 0..=made.len() {
            let path = TempDir::new().expect("a directory");
            drop(Directory::open(path.path(), engine).expect("new"));
            for name in &made[..so_many] {
                let path = path.path().join(name);
                match name.contains('.') {
                    true => fs::write(path, "").expect("written"),
                    false => fs::create_dir(path).expect("made"),
                }
            }
            let log = said(|| {
                let directory = Directory::open(path.path(), engine).expect("nobody has it");
                drop(directory.mended_records().expect("it opens"));
            });
            assert_eq!(log, "", "{engine:?}, {so_many}");
        }
    }
}

#[test]
fn what_is_no_data_directory_is_told_from_what_is_not_there() {
    let path = TempDir::new().expect("a directory");
    let said = |path: &std::path::Path| Directory::existing(path).expect_err("none").to_string();
    let is_none =
        format!("{} is no data directory: it has no file \"format\"", path.path().display());
    assert_eq!(said(path.path()), is_none);
    let nowhere = path.path().join("nowhere");
    assert_eq!(said(&nowhere), format!("there is no data directory {}", nowhere.display()));
    assert_eq!(fs::read_dir(path.path()).expect("a directory").count(), 0, "nothing is made");
}

#[test]
fn a_directory_that_cannot_be_made_is_an_error_with_its_name() {
    let path = TempDir::new().expect("a directory");
    let file = path.path().join("file");
    fs::write(&file, "").expect("written");
    let error = Directory::open(&file.join("data"), Engine::Fjall).expect_err("below a file");
    assert!(error.to_string().contains("file/data"), "{error}");
}

#[test]
fn what_is_no_longer_at_its_path_takes_nothing() {
    for engine in [Engine::Fjall, Engine::Sqlite] {
        let above = TempDir::new().expect("a directory");
        let (path, away) = (above.path().join("data"), above.path().join("away"));
        let write = |key| {
            [Write {
                table: Table::Retained,
                key: [key].into(),
                value: Some(vec![key]),
                fresh: false,
            }]
        };
        let directory = Directory::open(&path, engine).expect("new");
        let mut store = directory.records().expect("new");
        store.commit(&write(1), Commit::System).expect("it is there");

        fs::rename(&path, &away).expect("moved");
        let error = store.commit(&write(2), Commit::System).expect_err("it is gone").to_string();
        assert!(error.contains("was removed or replaced"), "{error}");
        drop(store);
        directory.records().err().expect("it is gone");
        assert!(!path.exists(), "nothing is made anew");

        let other = Directory::open(&path, engine).expect("nobody has this one");
        let error = directory.records().err().expect("it is another's").to_string();
        assert!(error.contains("was removed or replaced"), "{error}");
        drop(other);
        fs::remove_dir_all(&path).expect("removed");

        fs::rename(&away, &path).expect("moved");
        let mut store = directory.records().expect("it is there again");
        store.commit(&write(3), Commit::System).expect("it is there again");
        assert!(store.get(Table::Retained, &[1]).expect("whole").is_some());
    }
}

/// Writing to a file that has no name any more goes on as if nothing had happened.
#[test]
fn what_has_lost_a_file_takes_nothing() {
    let write = |key| {
        [Write { table: Table::Retained, key: [key].into(), value: Some(vec![key]), fresh: false }]
    };
    for (engine, name) in [
        (Engine::Fjall, "log"),
        (Engine::Fjall, "log/a.log"),
        (Engine::Fjall, "fjall"),
        (Engine::Sqlite, "sluice.sqlite"),
        (Engine::Sqlite, "sluice.sqlite-wal"),
    ] {
        let above = TempDir::new().expect("a directory");
        let (path, away) = (above.path().join("data"), above.path().join("away"));
        let directory = Directory::open(&path, engine).expect("new");
        let mut store = directory.records().expect("new");
        store.commit(&write(1), Commit::System).expect("it is there");
        let gone = path.join(name);
        fs::rename(&gone, &away).expect("moved");
        for _ in 0..2 {
            let error =
                store.commit(&write(2), Commit::System).expect_err("it is gone").to_string();
            let is_said = error.contains("was removed or replaced");
            assert!(is_said && error.contains(&gone.display().to_string()), "{name}: {error}");
            assert!(!store.wants_reopening(), "{name}: what has no name would be lost with it");
        }
        fs::rename(&away, &gone).expect("moved");
        store.commit(&write(3), Commit::System).expect("it is there again");
        for key in [1, 3] {
            assert_eq!(store.get(Table::Retained, &[key]), Ok(Some(vec![key])), "{name}");
        }
    }
}

/// A good end hands on what only the log has.
#[test]
fn what_was_in_a_log_that_was_removed_is_there_after_a_good_end() {
    let path = TempDir::new().expect("a directory");
    let directory = Directory::open(path.path(), Engine::Fjall).expect("new");
    let mut store = directory.records().expect("new");
    let write =
        Write { table: Table::Retained, key: [1].into(), value: Some(vec![1]), fresh: false };
    store.commit(&[write], Commit::Disk).expect("it is there");
    fs::remove_dir_all(path.path().join("log")).expect("removed");
    store.commit(&[], Commit::Disk).expect_err("it is gone");
    drop(store);
    let store = directory.records().expect("whole");
    assert_eq!(store.get(Table::Retained, &[1]), Ok(Some(vec![1])));
}

/// Who removes the lock of a broker that runs, and starts another one, has only that one write.
#[test]
fn who_has_lost_the_lock_writes_nothing() {
    for engine in [Engine::Fjall, Engine::Sqlite] {
        let path = TempDir::new().expect("a directory");
        let write = |value: &[u8]| {
            let value = Some(value.to_vec());
            [Write { table: Table::Retained, key: (*b"key").into(), value, fresh: false }]
        };
        let first = Directory::open(path.path(), engine).expect("new");
        let mut old = first.records().expect("new");
        old.commit(&write(b"old"), Commit::System).expect("it has the lock");
        fs::remove_file(path.path().join("lock")).expect("it is there");

        let second = Directory::open(path.path(), engine).expect("the lock is free");
        let Ok(mut new) = second.records() else {
            assert_eq!(engine, Engine::Fjall, "it has a lock of its own");
            continue;
        };
        new.commit(&write(b"new"), Commit::System).expect("it has the lock");
        let error = old.commit(&write(b"old"), Commit::System).expect_err("it has lost the lock");
        assert!(error.to_string().contains("was removed or replaced"), "{error}");
        drop(old);
        assert_eq!(new.get(Table::Retained, b"key").expect("whole"), Some(b"new".to_vec()));
    }
}
