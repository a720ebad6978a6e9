//! What is in a store, and whether all of it fits together.

use std::fmt;

use hashbrown::{HashMap, HashSet};

use super::entry::Entry;
use crate::hooks::{Store, StoreError, Table};

/// Damaged records that are named.
const NAMED: usize = 20;

/// What a store has in it.
#[derive(Debug, Default)]
pub struct Findings {
    /// By table: records, and the bytes of their keys and values.
    pub records: [(u64, u64); Table::COUNT],
    /// Damaged records, where they belong; those that were set aside are in [`Table::Damaged`].
    pub damaged: u64,
    /// The first of them, by table and key.
    pub named: Vec<(Table, Vec<u8>)>,
    /// Records that belong to nothing, by table. A broker removes them when it starts.
    pub orphans: [u64; Table::COUNT],
    /// Tables that cannot be read to their end.
    pub unread: Vec<(Table, StoreError)>,
}

/// Reads everything.
#[must_use]
pub fn check(store: &dyn Store) -> Findings {
    let mut reading = Reading::default();
    // What others belong to comes first.
    for table in [
        Table::Sessions,
        Table::Messages,
        Table::Subscriptions,
        Table::Inbound,
        Table::Queued,
        Table::Flights,
        Table::Retained,
        Table::Damaged,
    ] {
        let scanned = store.scan(table, &mut |key, value| reading.record(table, key, value));
        if let Err(error) = scanned {
            reading.findings.unread.push((table, error));
        }
    }
    let unused = reading.messages.values().filter(|is_used| !**is_used).count() as u64;
    reading.findings.orphans[Table::Messages as usize] = unused;
    reading.findings
}

#[derive(Default)]
struct Reading {
    findings: Findings,
    sessions: HashSet<u64>,
    /// By number: whether anybody waits for it.
    messages: HashMap<u64, bool>,
    /// Session and place of what is queued, and belongs to something.
    queued: HashSet<(u64, u64)>,
}

impl Reading {
    fn record(&mut self, table: Table, key: &[u8], value: &[u8]) {
        let (records, bytes) = &mut self.findings.records[table as usize];
        *records += 1;
        *bytes += (key.len() + value.len()) as u64;
        if table == Table::Damaged {
            return;
        }
        let Some(entry) = Entry::read(table, key, value) else {
            self.findings.damaged += 1;
            if self.findings.named.len() < NAMED {
                self.findings.named.push((table, key.to_vec()));
            }
            return;
        };
        if !self.belongs(&entry) {
            self.findings.orphans[table as usize] += 1;
        }
    }

    fn belongs(&mut self, entry: &Entry) -> bool {
        match entry {
            Entry::Session(record) => self.sessions.insert(record.session),
            Entry::Message(number, _) => {
                self.messages.insert(*number, false);
                true
            }
            Entry::Subscription(session, _)
            | Entry::Inbound(session, _)
            | Entry::Released { session, .. } => self.sessions.contains(session),
            Entry::Queued { session, place, fields } => {
                let message = self.messages.get_mut(&fields.message);
                let is_there = message.is_some();
                let belongs = is_there && self.sessions.contains(session);
                if let Some(is_used) = message {
                    *is_used |= belongs;
                }
                if belongs {
                    self.queued.insert((*session, *place));
                }
                belongs
            }
            Entry::InFlight { session, place, .. } => self.queued.contains(&(*session, *place)),
            Entry::Retained { .. } => true,
        }
    }
}

impl Findings {
    /// Whether nothing is damaged, nothing was, and everything can be read.
    #[must_use]
    pub fn are_whole(&self) -> bool {
        let (set_aside, _) = self.records[Table::Damaged as usize];
        self.damaged == 0 && set_aside == 0 && self.unread.is_empty()
    }
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<14}{:>12}{:>16}{:>10}", "table", "records", "bytes", "orphans")?;
        for table in Table::ALL {
            let (records, bytes) = self.records[table as usize];
            let orphans = self.orphans[table as usize];
            writeln!(f, "{:<14}{records:>12}{bytes:>16}{orphans:>10}", table.name())?;
        }
        for (table, error) in &self.unread {
            writeln!(f, "{} cannot be read to the end: {error}", table.name())?;
        }
        for (table, key) in &self.named {
            writeln!(f, "damaged: {} {}", table.name(), name(*table, key))?;
        }
        let more = self.damaged - self.named.len() as u64;
        if more > 0 {
            writeln!(f, "and {more} more that are damaged")?;
        }
        let (set_aside, _) = self.records[Table::Damaged as usize];
        let orphans: u64 = self.orphans.iter().sum();
        write!(
            f,
            "{} damaged, {set_aside} set aside as damaged earlier, {orphans} that belong to nothing",
            self.damaged
        )
    }
}

/// A key as people read it.
fn name(table: Table, key: &[u8]) -> String {
    let number = |at: usize| {
        let bytes = key.get(at..).and_then(<[u8]>::first_chunk)?;
        Some(u64::from_be_bytes(*bytes))
    };
    let text = |from: usize| String::from_utf8_lossy(key.get(from..).unwrap_or_default());
    let known = match table {
        Table::Sessions | Table::Retained | Table::Damaged => Some(format!("{:?}", text(0))),
        Table::Messages => number(0).map(|message| message.to_string()),
        Table::Subscriptions => {
            number(0).map(|session| format!("{:?} of session {session}", text(8)))
        }
        Table::Inbound => {
            number(0).zip(key.get(8..).and_then(<[u8]>::first_chunk)).map(|(session, id)| {
                format!("identifier {} of session {session}", u16::from_be_bytes(*id))
            })
        }
        Table::Queued | Table::Flights => number(0)
            .zip(number(8))
            .map(|(session, place)| format!("place {place} of session {session}")),
    };
    known.unwrap_or_else(|| format!("{key:?}"))
}
