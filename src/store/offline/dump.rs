//! A store as text, and back.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read as _, Write};

use hashbrown::HashSet;

use super::line::{Line, VERSION};
use crate::hooks::{Key, Store, StoreError, Table};
use crate::store::batches::Batches;
use crate::store::record::{damaged_key, longest_key};

/// Bytes of the first line at most.
const FIRST_LINE_BYTES: u64 = 1024;
/// Bytes of any other: a byte of a message takes six characters at most.
const LINE_BYTES: u64 = 2 << 30;

/// Why a store is not written out.
#[derive(Debug, thiserror::Error)]
pub enum DumpError {
    /// It cannot be read.
    #[error("cannot be read: {0}")]
    Store(#[from] StoreError),
    /// The text cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Why a store is not filled.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// A line is wrong.
    #[error("line {number}: {wrong}")]
    Line {
        /// From 1 on.
        number: u64,
        /// What is wrong with it.
        wrong: String,
    },
    /// The text cannot be read.
    #[error("cannot read the dump: {0}")]
    Io(#[from] io::Error),
    /// The records cannot be written.
    #[error("cannot be written: {0}")]
    Store(#[from] StoreError),
}

/// What was written out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dumped {
    /// Records.
    pub records: u64,
    /// Those among them that are damaged.
    pub damaged: u64,
}

/// Writes a line for each record, in the order of tables and keys, the damaged ones at the end.
///
/// # Errors
/// What cannot be read or written.
pub fn dump(store: &dyn Store, out: &mut dyn Write) -> Result<Dumped, DumpError> {
    let mut done = Dumped::default();
    // What was set aside, or would be: both are the same in the text.
    let mut damaged = BTreeMap::new();
    put(out, &Line::Dump { version: VERSION })?;
    store.scan(Table::Damaged, &mut |key, value| {
        _ = damaged.insert(Key::from(key), value.to_vec())
    })?;
    for table in Table::ALL.into_iter().filter(|table| *table != Table::Damaged) {
        let mut written = Ok(());
        store.scan(table, &mut |key, value| match Line::of(table, key, value) {
            _ if written.is_err() => {}
            Line::Damaged { .. } => {
                damaged.insert(damaged_key(table, key), value.to_vec());
            }
            line => {
                done.records += 1;
                written = put(out, &line);
            }
        })?;
        written?;
    }
    for (key, value) in &damaged {
        put(out, &Line::damaged(key, value))?;
    }
    put(out, &Line::End)?;
    out.flush()?;
    done.damaged = damaged.len() as u64;
    done.records += done.damaged;
    Ok(done)
}

fn put(out: &mut dyn Write, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

/// Takes in what [`dump`] wrote; gives how many records that are. The store must be empty, and is of no
/// use if this fails.
///
/// # Errors
/// A line is wrong, or not in order; what cannot be read or written.
pub fn restore(text: &mut dyn BufRead, store: &mut dyn Store) -> Result<u64, RestoreError> {
    let mut batches = Batches::new(store);
    let mut last: [Option<Key>; Table::COUNT] = Default::default();
    let mut lines = Lines { text, number: 0 };
    lines.first()?;
    let mut sessions = HashSet::new();
    loop {
        let line = lines.next()?;
        if matches!(line, Line::End) {
            break;
        }
        let session = if let Line::Session(session) = &line { Some(session.number) } else { None };
        let write = line.write().map_err(|wrong| lines.wrong(wrong))?;
        let write = write.ok_or_else(|| lines.wrong("a second dump begins here".to_owned()))?;
        let (len, longest) = (write.key.len(), longest_key(write.table));
        if !(1..=longest).contains(&len) {
            return Err(lines.wrong(format!("a key of {len} bytes: from 1 to {longest}")));
        }
        let last = &mut last[write.table as usize];
        if last.as_ref().is_some_and(|last| *last >= write.key) {
            return Err(lines.wrong(format!(
                "not in the order of {}: another with the same or a higher key stands before it",
                write.table.name()
            )));
        }
        if let Some(number) = session.filter(|number| !sessions.insert(*number)) {
            return Err(lines.wrong(format!("number {number}: another session has it")));
        }
        *last = Some(write.key.clone());
        batches.put(write)?;
    }
    lines.end()?;
    Ok(batches.finish()?)
}

struct Lines<'a> {
    text: &'a mut dyn BufRead,
    number: u64,
}

impl Lines<'_> {
    /// Of what is no dump no more is read than that.
    fn first(&mut self) -> Result<(), RestoreError> {
        let line = self.bytes(FIRST_LINE_BYTES)?;
        match serde_json::from_slice(line.trim_ascii_end()) {
            Ok(Line::Dump { version: VERSION }) => Ok(()),
            Ok(Line::Dump { version }) => {
                Err(self.wrong(format!("a dump of version {version}, not {VERSION}")))
            }
            Ok(_) | Err(_) => {
                let first = serde_json::to_string(&Line::Dump { version: VERSION });
                let first = first.unwrap_or_default();
                Err(self.wrong(format!("not the first line of a dump, {first}")))
            }
        }
    }

    fn next(&mut self) -> Result<Line, RestoreError> {
        let line = self.bytes(LINE_BYTES)?;
        serde_json::from_slice(line.trim_ascii_end()).map_err(|error| self.wrong(plain(&error)))
    }

    /// The next line, or the beginning of one that is longer than that.
    fn bytes(&mut self, most: u64) -> Result<Vec<u8>, RestoreError> {
        self.number += 1;
        let mut line = Vec::new();
        match (&mut *self.text).take(most).read_until(b'\n', &mut line)? {
            0 => Err(self.wrong("missing: the dump was cut off".to_owned())),
            _ => Ok(line),
        }
    }

    fn end(&mut self) -> Result<(), RestoreError> {
        self.number += 1;
        match self.text.fill_buf()? {
            [] => Ok(()),
            _ => Err(self.wrong("after the end".to_owned())),
        }
    }

    fn wrong(&self, wrong: String) -> RestoreError {
        RestoreError::Line { number: self.number, wrong }
    }
}

/// What is wrong with a line, without its number within itself, which is always 1.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rsplit_once(" at line 1 column ") {
        Some((what, column)) if column != "0" => format!("{what} at column {column}"),
        Some((what, _)) => what.to_owned(),
        None => text,
    }
}
