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
