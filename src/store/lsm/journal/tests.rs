//! Journals as fjall writes them, cut and damaged.

use super::super::Lsm;
use super::*;
use crate::hooks::{Commit, Store, Table, Write};

const BATCHES: usize = 8;

/// A journal as fjall writes it, without the room behind.
fn journal() -> Vec<u8> {
    journal_with(&[])
}

/// With two more batches, which have this as a value.
fn journal_with(value: &[u8]) -> Vec<u8> {
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = Lsm::open(directory.path()).expect("new");
    for n in 0..BATCHES {
        let put = |table| Write {
            table,
            key: [n as u8; 5].into(),
            value: Some(vec![7; 40 * n]),
            fresh: false,
        };
        let gone = Write { table: Table::Inbound, key: [1].into(), value: None, fresh: false };
        let writes = [put(Table::Queued), put(Table::Messages), gone];
        store.commit(&writes, Commit::System).expect("room");
    }
    for n in 0..if value.is_empty() { 0 } else { 2 } {
        let (table, key, value) = (Table::Messages, vec![n; 5], Some(value.to_vec()));
        let write = Write { table, key: key.into(), value, fresh: false };
        store.commit(&[write], Commit::System).expect("room");
    }
    let path = fs::read_dir(directory.path()).expect("a directory").find_map(|entry| {
        let path = entry.expect("an entry").path();
        (path.extension()? == "jnl").then_some(path)
    });
    let mut bytes = fs::read(path.expect("a journal")).expect("a file");
    bytes.truncate(bytes.iter().rposition(|byte| *byte != 0).expect("batches") + 1);
    bytes
}

#[test]
fn what_fjall_writes_is_whole() {
    let mut bytes = journal();
    let found = Found::of(&bytes);
    assert!(found.whole.len() >= BATCHES && found.damaged.is_empty() && found.torn == 0);
    assert_eq!(found.whole.last().expect("some").end, bytes.len());
    bytes.resize(bytes.len() + 1000, 0);
    assert_eq!(Found::of(&bytes), found);
}

#[test]
fn wherever_it_is_cut_the_whole_ones_stay() {
    let bytes = journal();
    let all = Found::of(&bytes).whole;
    for len in 0..bytes.len() {
        let found = Found::of(&bytes[..len]);
        let whole = all.iter().filter(|range| range.end <= len).count();
        assert_eq!(found.whole, all[..whole], "cut to {len}");
        assert!(found.damaged.is_empty());
    }
}

/// As a client can send it: whole, with a number that comes later, and of whatever table.
fn forged() -> Vec<u8> {
    let item = |keyspace: u64, key: &[u8], value: &[u8]| {
        let mut item = vec![ITEM, VALUE, 0];
        item.extend(keyspace.to_le_bytes());
        item.extend((key.len() as u16).to_le_bytes());
        item.extend([(value.len() as u32).to_le_bytes(); 2].concat());
        [&item, key, value].concat()
    };
    let items = item(1, b"forged", b"a session of whoever it likes");
    let mut batch = [&[START][..], &1_u32.to_le_bytes(), &(1_u64 << 40).to_le_bytes()].concat();
    batch.extend(&items);
    batch.push(END);
    batch.extend(xxh3_64(&items).to_le_bytes());
    batch.extend(MAGIC);
    assert_eq!(Found::of(&batch).whole.first(), Some(&(0..batch.len())));
    batch
}

/// Forged batches, with zeros between them, so that one ends wherever a page does.
fn payload() -> Vec<u8> {
    let mut payload = Vec::new();
    while payload.len() < 12_000 {
        payload.extend(forged());
        payload.resize(payload.len() + 300, 0);
        payload.extend([forged(), forged()].concat());
    }
    payload
}

#[test]
fn what_a_client_sends_is_never_taken_for_a_batch() {
    let bytes = journal_with(&payload());
    let all = Found::of(&bytes).whole;
    let own = |bytes: &[u8], how: &str| {
        let found = Found::of(bytes);
        for whole in &found.whole {
            assert!(all.contains(whole), "{how}: {whole:?}");
        }
        found
    };
    let (last, others) = all.split_last().expect("some");
    // It is torn wherever the process may be killed.
    for len in (last.start + 1..last.end).step_by(29) {
        let found = own(&bytes[..len], "cut");
        assert_eq!((found.whole.as_slice(), found.damaged.len()), (others, 0), "cut to {len}");
    }
    // Of what was not synced, the disk has some pages, and not others.
    let pages = last.start / 4096..bytes.len().div_ceil(4096);
    for hole in pages.clone() {
        for end in pages.clone() {
            let mut bytes = bytes.clone();
            let len = bytes.len();
            bytes
                [(hole * 4096).max(others.last().expect("some").end)..((hole + 1) * 4096).min(len)]
                .fill(0);
            bytes.truncate((end + 1) * 4096);
            own(&bytes, &format!("without page {hole}, up to {end}"));
        }
    }
    // One bit of what leads through it is wrong.
    for batch in &all[all.len() - 2..] {
        for bit in 0..8 * (BATCH_HEAD + ITEM_HEAD + 5) {
            let mut bytes = bytes.clone();
            bytes[batch.start + bit / 8] ^= 1 << (bit % 8);
            let found = Found::of(&bytes);
            for whole in &found.whole {
                let is_own = all.iter().any(|own| own.start == whole.start);
                assert!(is_own, "bit {bit} of {batch:?}: {whole:?}");
            }
        }
    }
}

/// No checksum covers it, and of two records with one key fjall takes the one with the higher number.
#[test]
fn a_number_that_is_wrong_is_set_right() {
    let directory = tempfile::tempdir().expect("a directory");
    let write = |value: Option<u8>| Write {
        table: Table::Retained,
        key: [1].into(),
        value: value.map(|value| vec![value]),
        fresh: false,
    };
    let mut store = Lsm::open(directory.path()).expect("new");
    store.commit(&[write(Some(0))], Commit::Disk).expect("room");
    // What is older than what is sorted into a file counts as being there.
    store.sort(Table::Retained);
    for value in [Some(1), None, Some(3), Some(4), Some(5)] {
        store.commit(&[write(value)], Commit::Disk).expect("room");
    }
    drop(store);
    let path = damage::entries(directory.path()).expect("a directory").into_iter();
    let path = path.filter(|path| path.extension().is_some_and(|it| it == "jnl")).max();
    let path = path.expect("a journal");
    let mut whole = fs::read(&path).expect("a file");
    whole.truncate(damage::written_len(&whole));
    let all = Found::of(&whole).whole;
    assert_eq!(all.len(), 6);
    let numbers = |bytes: &[u8]| -> Vec<u64> {
        let number = |batch: &Range<usize>| head(&mut Reader::at(bytes, batch.start));
        all.iter().map(|batch| number(batch).expect("whole").1).collect()
    };
    for (batch, bit) in all.iter().flat_map(|batch| (0..64).map(move |bit| (batch, bit))) {
        let mut bytes = whole.clone();
        bytes[batch.start + NUMBER + bit / 8] ^= 1 << (bit % 8);
        let right = numbers::in_order(&numbers(&bytes));
        fs::write(&path, &bytes).expect("written");
        mend_one(&path, Torn::IsTold).expect("mended");
        let mended = fs::read(&path).expect("a file");
        assert_eq!(numbers(&mended), right, "bit {bit} of {batch:?}");
        assert!(Found::of(&mended).whole == all, "bit {bit} of {batch:?}");
    }
    let last = all.last().expect("some");
    for at in [0, 7] {
        let mut bytes = whole.clone();
        bytes[last.start + NUMBER + at] ^= 0x80;
        fs::write(&path, &bytes).expect("written");
        let mut store = Lsm::open(directory.path()).expect("it opens");
        assert_eq!(store.get(Table::Retained, &[1]), Ok(Some(vec![5])), "byte {at}");
        store.commit(&[write(Some(6))], Commit::Disk).expect("there are numbers left");
        assert_eq!(store.get(Table::Retained, &[1]), Ok(Some(vec![6])), "byte {at}");
    }
}

/// A client may send what looks like the beginning of a batch at every byte, each up to the end.
#[test]
fn no_payload_makes_the_search_for_the_next_batch_long() {
    const LEN: usize = 1 << 20;
    let mut bytes = vec![START];
    bytes.extend([1, 0, 0, 0, 9, 9, 9, 9, 9, 9, 9, 9, 0xAA, 0xBB]);
    let end = [&[END][..], &[7; 8], MAGIC].concat();
    while bytes.len() < LEN {
        bytes.extend([&[START][..], &1_u32.to_le_bytes(), &u64::MAX.to_le_bytes()].concat());
        bytes.extend([ITEM, VALUE, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        let len = u32::try_from(2 * LEN - bytes.len() - 8).expect("it is short");
        bytes.extend([len.to_le_bytes(), len.to_le_bytes()].concat());
    }
    bytes.resize(2 * LEN, 5);
    bytes.extend(&end);
    let begun = std::time::Instant::now();
    let found = Found::of(&bytes);
    assert_eq!((found.whole.len(), found.damaged.len()), (0, 1));
    assert!(begun.elapsed() < std::time::Duration::from_secs(20), "{:?}", begun.elapsed());
}

#[test]
fn what_was_not_written_is_no_damage() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("0.jnl");
    let mut bytes = journal_with(&[7; 20_000]);
    let all = Found::of(&bytes).whole;
    let before = &all[all.len() - 2];
    let page = (before.start + 200).next_multiple_of(4096);
    assert!(page + 4096 < before.end);
    bytes[page..page + 4096].fill(0);
    fs::write(&path, &bytes).expect("written");
    mend_one(&path, Torn::IsTold).expect("mended");
    assert_eq!(damage::entries(directory.path()).expect("a directory").len(), 1);
    let found = Found::of(&fs::read(&path).expect("a file"));
    assert_eq!((found.whole.len(), found.torn), (all.len() - 1, 0));
}

#[test]
fn what_nobody_can_tell_is_set_aside_whatever_is_in_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("0.jnl");
    let mut bytes = journal_with(&[0; 20_000]);
    let all = Found::of(&bytes).whole;
    let [.., before, last] = &all[..] else { panic!("two") };
    bytes[before.start + BATCH_HEAD] ^= 4;
    bytes[last.end - 1] ^= 4;
    fs::write(&path, &bytes).expect("written");
    mend_one(&path, Torn::IsTold).expect("mended");
    let aside = path.with_extension(format!("{}{}", damage::SET_ASIDE, before.start));
    assert!(fs::read(aside).expect("set aside") == bytes[before.start..]);
    let found = Found::of(&fs::read(&path).expect("a file"));
    assert_eq!((found.whole.len(), found.torn), (all.len() - 2, 0));
}

#[test]
fn whichever_bit_is_wrong_all_other_batches_stay() {
    let bytes = journal();
    let all = Found::of(&bytes).whole;
    let mut cut = 0;
    for at in 0..bytes.len() {
        let (number, batch) =
            all.iter().enumerate().find(|(_, range)| range.contains(&at)).expect("of one");
        if (5..13).contains(&(at - batch.start)) {
            // The number in the sequence, which no checksum covers.
            continue;
        }
        let mut bytes = bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        let found = Found::of(&bytes);
        let others: Vec<_> = all.iter().filter(|range| !range.contains(&at)).cloned().collect();
        assert_eq!(found.damaged.len() + usize::from(found.torn > 0), 1);
        // A key that is said to be longer than all there is looks like a tail that was not written.
        let is_cut = found.torn > 0 && found.whole == all[..number];
        assert!(found.whole == others || is_cut, "bit {} of byte {at}", at % 8);
        cut += usize::from(is_cut && number + 1 < all.len());
    }
    assert!(cut < bytes.len() / 40, "{cut}");
}
