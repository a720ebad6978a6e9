//! What every engine has to do.

use std::fs;
use std::path::{Path, PathBuf};

use sluice::hooks::{Commit, Table};

use crate::engines::{Place, commit, delete, put, records};

fn with_each(test: impl Fn(Place)) {
    for place in Place::all() {
        eprintln!("{}", place.name());
        test(place);
    }
}

#[test]
fn records_are_put_replaced_and_removed() {
    with_each(|place| {
        let mut opened = place.open();
        let store = &mut *opened.store;
        commit(store, &[put(Table::Sessions, b"a", b"1"), put(Table::Sessions, b"b", b"2")]);
        commit(store, &[put(Table::Sessions, b"a", b"3"), delete(Table::Sessions, b"b")]);
        commit(store, &[delete(Table::Sessions, b"never there")]);
        assert_eq!(records(store, Table::Sessions), [(b"a".to_vec(), b"3".to_vec())]);
    });
}

#[test]
fn tables_are_apart_and_in_the_order_of_bytes() {
    with_each(|place| {
        let mut opened = place.open();
        let store = &mut *opened.store;
        let keys: [&[u8]; 5] = [&[0xFF], b"b", &[0], b"ba", &[0, 0xFF, 1]];
        let mut writes: Vec<_> = keys.iter().map(|key| put(Table::Queued, key, key)).collect();
        writes.extend(Table::ALL.iter().map(|table| put(*table, b"own", table.name().as_bytes())));
        commit(store, &writes);
        for table in Table::ALL {
            let found = records(store, table);
            assert!(found.is_sorted());
            let own = (b"own".to_vec(), table.name().as_bytes().to_vec());
            assert!(found.contains(&own), "{table:?} has its record");
            assert_eq!(found.len(), if table == Table::Queued { 6 } else { 1 });
        }
    });
}

#[test]
fn values_of_any_length_come_back() {
    with_each(|place| {
        let values: Vec<Vec<u8>> =
            [0, 1, 4095, 70_000, 1 << 20].iter().map(|len| vec![0xA5; *len]).collect();
        let key = |value: &Vec<u8>| (value.len() as u32).to_be_bytes();
        let writes: Vec<_> =
            values.iter().map(|value| put(Table::Messages, &key(value), value)).collect();
        commit(&mut *place.open().store, &writes);
        let found = records(&*place.open().store, Table::Messages);
        assert!(found.into_iter().map(|(_, value)| value).eq(values));
    });
}

#[test]
fn keys_of_up_to_65535_bytes_are_taken() {
    with_each(|place| {
        let key = [b'k'; u16::MAX as usize];
        let writes = Table::ALL.map(|table| put(table, &key, b"x"));
        commit(&mut *place.open().store, &writes);
        let opened = place.open();
        for table in Table::ALL {
            assert_eq!(records(&*opened.store, table), [(key.to_vec(), b"x".to_vec())]);
        }
    });
}

#[test]
fn what_is_committed_is_there_after_a_reopening() {
    with_each(|place| {
        for round in 0..5_u8 {
            let mut opened = place.open();
            assert_eq!(records(&*opened.store, Table::Retained).len(), usize::from(round));
            let level = if round % 2 == 0 { Commit::Disk } else { Commit::System };
            let writes = [put(Table::Retained, &[round], b"x"), delete(Table::Retained, b"no")];
            opened.store.commit(&writes, level).expect("room");
        }
    });
}

#[test]
fn what_is_committed_is_there_after_the_process_was_killed() {
    with_each(|place| {
        let mut opened = place.open();
        for number in 0..200_u32 {
            let key = number.to_be_bytes();
            let also = [put(Table::Queued, &key, b"m"), put(Table::Messages, &key, &[7; 300])];
            commit(&mut *opened.store, &also);
            if number % 50 == 49 {
                let left = place.snapshot().open();
                assert_eq!(records(&*left.store, Table::Queued).len(), number as usize + 1);
                assert_eq!(records(&*left.store, Table::Messages).len(), number as usize + 1);
            }
        }
    });
}

#[test]
fn a_torn_commit_is_cut_off_whole() {
    const MARK: [u8; 64] = *b"the last commit, of which the machine wrote only the first part.";
    with_each(|place| {
        let Place::Files(..) = &place else { return };
        let mut opened = place.open();
        for number in 0..20_u32 {
            commit(&mut *opened.store, &[put(Table::Queued, &number.to_be_bytes(), b"whole")]);
        }
        commit(
            &mut *opened.store,
            &[put(Table::Messages, b"1", &MARK), put(Table::Queued, b"z", &MARK)],
        );
        let torn = place.snapshot();
        let Place::Files(path, _) = &torn else { unreachable!() };
        let mut cut = 0;
        for file in files(path.path()) {
            let bytes = fs::read(&file).expect("a file");
            if let Some(at) = bytes.windows(MARK.len()).position(|window| window == MARK) {
                fs::write(&file, &bytes[..at + MARK.len() / 2]).expect("shorter");
                cut += 1;
            }
        }
        assert_eq!(cut, 1, "the log has it");
        let left = torn.open();
        assert_eq!(records(&*left.store, Table::Queued).len(), 20, "all before it");
        assert!(records(&*left.store, Table::Messages).is_empty(), "nothing of it");
    });
}

#[test]
fn a_record_is_found_by_its_key() {
    with_each(|place| {
        for is_reopened in [false, true] {
            let mut opened = place.open();
            let store = &mut *opened.store;
            if !is_reopened {
                let gone = put(Table::Messages, b"gone", b"x");
                commit(store, &[put(Table::Messages, b"a", b"old"), gone]);
                let writes = [put(Table::Messages, b"a", b"new"), put(Table::Messages, b"ab", b"")];
                commit(store, &writes);
                commit(store, &[delete(Table::Messages, b"gone")]);
            }
            let get = |table, key: &[u8]| store.get(table, key).expect("whole");
            assert_eq!(get(Table::Messages, b"a"), Some(b"new".to_vec()));
            assert_eq!(get(Table::Messages, b"ab"), Some(Vec::new()));
            for (table, key) in [
                (Table::Messages, &b"gone"[..]),
                (Table::Messages, b"never there"),
                (Table::Messages, b""),
                (Table::Queued, b"a"),
            ] {
                assert_eq!(get(table, key), None, "{table:?} {key:?}");
            }
        }
    });
}

#[test]
fn a_range_begins_at_a_key_and_ends_when_it_is_told_to() {
    with_each(|place| {
        let mut opened = place.open();
        let keys: [&[u8]; 6] = [&[1], &[2], &[2, 0], &[2, 0, 7], &[3], &[255, 255]];
        let writes: Vec<_> = keys.iter().map(|key| put(Table::Queued, key, key)).collect();
        commit(&mut *opened.store, &writes);
        commit(&mut *opened.store, &[put(Table::Flights, &[2, 1], b"of another table")]);
        let visited = |from: &[u8], most: usize| {
            let mut found = Vec::new();
            let mut each = |key: &[u8], value: &[u8]| {
                assert_eq!(key, value);
                found.push(key.to_vec());
                found.len() < most
            };
            opened.store.range(Table::Queued, from, &mut each).expect("whole");
            found
        };
        assert_eq!(visited(&[], 9), keys);
        // A key that is there, and one between two.
        assert_eq!(visited(&[2], 9), keys[1..]);
        assert_eq!(visited(&[2, 0, 0], 9), keys[3..]);
        assert_eq!(visited(&[2], 1), keys[1..2]);
        assert_eq!(visited(&[2, 0], 3), keys[2..5]);
        assert_eq!(visited(&[255, 255], 9), keys[5..]);
        assert!(visited(&[255, 255, 0], 9).is_empty());
    });
}

/// [`Store::commit`](sluice::hooks::Store::commit): after an error its owner opens it anew, and makes the
/// commit once more.
#[test]
fn a_commit_that_fails_is_made_or_not_and_can_be_made_again() {
    with_each(|place| {
        commit(&mut *place.open().store, &[put(Table::Queued, b"a", b"before")]);
        let large = put(Table::Messages, b"m", &[7; 64 << 10]);
        let writes = [large, put(Table::Queued, b"b", b"after"), delete(Table::Queued, b"a")];
        for _ in 0..2 {
            let mut opened = place.open_without_room();
            let failed = opened.store.commit(&writes, Commit::Disk);
            assert!(failed.is_err(), "there is room");
            drop(opened);
            place.give_room();
            let opened = place.open();
            let queued = records(&*opened.store, Table::Queued);
            let messages = records(&*opened.store, Table::Messages).len();
            let key = if messages == 0 { b"a" } else { b"b" };
            assert_eq!(queued.iter().map(|(key, _)| &key[..]).collect::<Vec<_>>(), [key]);
        }
        commit(&mut *place.open().store, &writes);
        let opened = place.open();
        let queued = [(b"b".to_vec(), b"after".to_vec())];
        assert_eq!(records(&*opened.store, Table::Queued), queued);
        assert_eq!(records(&*opened.store, Table::Messages).len(), 1);
    });
}

fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(path).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}
