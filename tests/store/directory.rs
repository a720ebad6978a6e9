//! Who may use a data directory.

use std::fs;

use sluice::hooks::{Commit, Table, Write};
use sluice::store::{Directory, DirectoryError, Engine};
use tempfile::TempDir;

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
    Directory::open(&deep, Engine::Sqlite).expect("made");
    assert_eq!(fs::read_to_string(deep.join("format")).expect("a file"), "2 sqlite 640e95d4\n");
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
            Directory::existing(path.path()).expect_err("it was not finished");
        }
    }
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
            [Write { table: Table::Retained, key: vec![key], value: Some(vec![key]), fresh: false }]
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

/// Who removes the lock of a broker that runs, and starts another one, has only that one write.
#[test]
fn who_has_lost_the_lock_writes_nothing() {
    for engine in [Engine::Fjall, Engine::Sqlite] {
        let path = TempDir::new().expect("a directory");
        let write = |value: &[u8]| {
            let value = Some(value.to_vec());
            [Write { table: Table::Retained, key: b"key".to_vec(), value, fresh: false }]
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
