//! Every file of a filled data directory, damaged in every way: the store opens, says so, and has all that
//! was not in the damaged part.
//!
//! Nothing is said of a lock, which is empty, of the segment of the log that is not in use, of the index that
//! SQLite has of its log and makes anew, and of a format without its checksum, which earlier versions wrote. Nor
//! of a log of SQLite that is empty, or of the first or last journal of fjall: a good end leaves none, and both are
//! removed when they have served.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;

use super::lsm::Lsm;
use super::{Directory, Engine, damage, record};
use crate::hooks::{Commit, Table, Write};

/// Numbers that have a record in each table.
const NUMBERS: u32 = 600;
/// Records in one commit.
const PER_COMMIT: usize = 20;
/// Records of a block of fjall, or of a page of SQLite, at most.
const PER_BLOCK: usize = 150;
const TABLES: [Table; 3] = [Table::Sessions, Table::Queued, Table::Retained];
/// Said of nothing.
const SILENT: [&str; 3] = ["lock", "b.log", "sluice.sqlite-shm"];

type Key = (Table, Vec<u8>);

/// A directory with records, and all that each of them has ever been.
struct Filled {
    path: TempDir,
    versions: HashMap<Key, Vec<Option<Vec<u8>>>>,
}

/// In memory: there are many, and nobody wants them afterwards.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { TempDir::new_in(memory) } else { TempDir::new() }.expect("a directory")
}

fn write(table: Table, n: u32, text: Option<&str>) -> Write {
    let key = n.to_be_bytes().to_vec();
    let value = text.map(|text| {
        // Now and then one that is longer than a page.
        let len = if n % 211 == 100 { 9_000 } else { 20 };
        record::sealed(table, &key, format!("{text} of {n}{}", "-".repeat(len)).as_bytes())
    });
    Write { table, key: key.into(), value, fresh: false }
}

/// What there is first of all, then what changes it, what removes some of it, and what comes last.
const STEPS: [(&str, u32); 4] = [("old", 1), ("new", 3), ("", 5), ("last", 7)];

impl Filled {
    fn new(engine: Engine) -> Self {
        let mut filled = Self { path: directory(), versions: HashMap::new() };
        let directory = Directory::open(filled.path.path(), engine).expect("nobody has it");
        for (text, each) in STEPS {
            let text = (!text.is_empty()).then_some(text);
            let numbers = (0..NUMBERS).filter(|n| n.is_multiple_of(each));
            let writes: Vec<_> =
                numbers.flat_map(|n| TABLES.map(|table| write(table, n, text))).collect();
            let mut store = match (engine, text) {
                // Without the log in front.
                (Engine::Fjall, Some("old" | "new") | None) => {
                    Box::new(Lsm::open(&filled.path.path().join("fjall")).expect("whole"))
                }
                _ => directory.records().expect("whole"),
            };
            for writes in writes.chunks(PER_COMMIT) {
                store.commit(writes, Commit::Disk).expect("room");
            }
            for Write { table, key, value, .. } in writes {
                filled.versions.entry((table, key.to_vec())).or_default().push(value);
            }
            if text == Some("last") {
                // As it is while it is in use.
                let copy = filled.copy();
                drop(store);
                filled.path = copy;
                break;
            }
            drop(store);
            // What was removed is in the journal only.
            if engine == Engine::Fjall && text.is_some() {
                let lsm = Lsm::open(&filled.path.path().join("fjall")).expect("whole");
                TABLES.iter().for_each(|table| lsm.sort(*table));
            }
        }
        filled
    }

    fn copy(&self) -> TempDir {
        let copy = directory();
        for file in files(self.path.path()) {
            let target = copy.path().join(file.strip_prefix(self.path.path()).expect("below"));
            fs::create_dir_all(target.parent().expect("it has one")).expect("made");
            let mut bytes = fs::read(&file).expect("a file");
            if file.extension().is_some_and(|extension| extension == "jnl") {
                bytes.truncate(damage::written_len(&bytes));
            }
            fs::write(target, bytes).expect("written");
        }
        copy
    }

    /// How many records are not what they were last.
    fn wrong(&self, found: &BTreeMap<Key, Vec<u8>>) -> usize {
        for (key, value) in found {
            let versions = self.versions.get(key).unwrap_or_else(|| panic!("never: {key:?}"));
            assert!(versions.contains(&Some(value.clone())), "it was never that: {key:?}");
        }
        let last = |versions: &Vec<Option<Vec<u8>>>| versions.last().cloned().flatten();
        self.versions.iter().filter(|(key, all)| found.get(*key).cloned() != last(all)).count()
    }
}

/// All files below a directory, in their order.
fn files(path: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in damage::entries(path).expect("a directory") {
        if entry.is_dir() { found.extend(files(&entry)) } else { found.push(entry) }
    }
    found.sort();
    found
}

/// What was said while something was done.
fn listen<T>(to: impl FnOnce() -> T) -> (T, String) {
    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("nobody panics").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::WARN)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let done = tracing::subscriber::with_default(subscriber, to);
    let text = String::from_utf8_lossy(&lines.0.lock().expect("nobody panics")).into_owned();
    (done, text)
}

/// Opens it as a start does. A record that is not whole is one that a start tells of and sets aside.
fn open(path: &Path, engine: Engine) -> (BTreeMap<Key, Vec<u8>>, String) {
    listen(|| {
        let directory = Directory::open(path, engine).expect("nobody has it");
        let store = directory.mended_records().expect("it opens");
        let mut found = BTreeMap::new();
        for table in Table::ALL {
            let mut each = |key: &[u8], value: &[u8]| {
                if record::is_whole(table, key, value) {
                    found.insert((table, key.to_vec()), value.to_vec());
                } else {
                    tracing::warn!("a record is damaged");
                }
            };
            store.scan(table, &mut each).expect("all of it can be read");
        }
        found
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    /// One bit is another where a file says what it is.
    Beginning,
    /// One bit in the middle is another.
    Middle,
    /// One bit of the last byte that is not 0.
    End,
    /// The second half is not there.
    Half,
    /// Nothing is in it.
    Empty,
    /// It is not there.
    Gone,
}

impl Damage {
    const ALL: [Self; 6] =
        [Self::Middle, Self::End, Self::Half, Self::Empty, Self::Gone, Self::Beginning];

    fn to(self, file: &Path) {
        let mut bytes = fs::read(file).expect("a file");
        let len = damage::written_len(&bytes);
        match self {
            Self::Gone => return fs::remove_file(file).expect("it is there"),
            Self::Half => bytes.truncate(len / 2),
            Self::Empty => bytes.clear(),
            _ if len == 0 => {}
            Self::Beginning => bytes[8.min(len - 1)] ^= 4,
            Self::Middle => bytes[len / 2] ^= 4,
            Self::End => bytes[len - 1] ^= 4,
        }
        fs::write(file, bytes).expect("written");
    }
}

/// Damages each file in turn, in all ways if it is the first of its kind, and looks at what is left.
fn damage_each(engine: Engine, may_lose: impl Fn(&str, Damage) -> usize) {
    let filled = Filled::new(engine);
    let whole = filled.copy();
    let (found, said) = open(whole.path(), engine);
    assert_eq!((filled.wrong(&found), said.as_str()), (0, ""));
    let mut kinds = HashSet::new();
    for (count, file) in files(filled.path.path()).into_iter().enumerate() {
        let name = file.strip_prefix(filled.path.path()).expect("below").display().to_string();
        let kind: String = name.chars().filter(|c| !c.is_ascii_digit()).collect();
        let is_first = kinds.insert(kind);
        for (way, how) in Damage::ALL.into_iter().enumerate() {
            if !is_first && way != count % 3 {
                continue;
            }
            let copy = filled.copy();
            how.to(&copy.path().join(&name));
            let (found, said) = open(copy.path(), engine);
            let wrong = filled.wrong(&found);
            let most = may_lose(&name, how);
            assert!(wrong <= most, "{name}, {how:?}: {wrong} are wrong\n{said}");
            let is_silent = SILENT.iter().any(|silent| name.ends_with(silent))
                || (name.as_str(), how) == ("format", Damage::Half);
            // What is in a page that is not in use any more, or in SQLite's log, is not lost.
            let is_silent = is_silent || name.ends_with(".sqlite") && wrong == 0;
            let is_silent = match how {
                Damage::Empty => is_silent || name.ends_with("-wal") || name.ends_with(".jnl"),
                Damage::Gone => is_silent || name.ends_with(".jnl"),
                _ => is_silent,
            };
            // What the log says of itself it says twice.
            let is_silent = is_silent || how == Damage::Beginning && wrong == 0;
            assert!(is_silent || !said.is_empty(), "{name}, {how:?}: nothing is said");
            if !is_first {
                continue;
            }
            // And all is well from then on.
            let (again, said) = open(copy.path(), engine);
            assert!(again == found, "{name}, {how:?}: others");
            assert!(!said.contains("ERROR"), "{name}, {how:?}: {said}");
        }
    }
}

/// All records that one step has written.
fn all_of(step: usize) -> usize {
    TABLES.len() * (NUMBERS / STEPS[step].1) as usize
}

#[test]
fn of_fjall() {
    damage_each(Engine::Fjall, |name, how| match how {
        Damage::Empty | Damage::Gone => match name {
            name if name.contains("/tables/") => all_of(0) / TABLES.len() + PER_BLOCK,
            name if name.ends_with(".jnl") => all_of(2) + all_of(3),
            name if name.ends_with("a.log") => all_of(3) + PER_COMMIT,
            _ => 0,
        },
        Damage::Half if name.contains("/tables/") => all_of(0) / TABLES.len() / 2 + PER_BLOCK,
        _ if name.contains("/tables/") => PER_BLOCK,
        // What was removed is in its second half.
        Damage::Half if name.ends_with(".jnl") => all_of(2),
        Damage::Half if name.ends_with("a.log") => all_of(3) / 2 + PER_COMMIT,
        _ if name.ends_with(".jnl") || name.ends_with("a.log") => PER_COMMIT,
        _ => 0,
    });
}

/// Its log ends where it is damaged: what comes behind is about pages that only the lost part has.
#[test]
fn of_sqlite() {
    damage_each(Engine::Sqlite, |name, how| match how {
        _ if name.ends_with("-wal") => all_of(0) + all_of(1),
        Damage::Half if name.ends_with(".sqlite") => all_of(0) * 2 / 3,
        // What its log has is there.
        Damage::Empty | Damage::Gone if name.ends_with(".sqlite") => all_of(0) - PER_BLOCK,
        _ if name.ends_with(".sqlite") => PER_BLOCK,
        _ => 0,
    });
}
