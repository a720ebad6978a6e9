//! A writer over records in memory, stepped by hand, and turns for it.

use std::collections::HashSet;
use std::sync::Arc;

use sluice::hooks::{Commit, Store, StoreError, Table, Write};
use sluice::mqtt::{Message, PacketId, QoS};
use sluice::session::{Change, PageOfQueue, PageRequest, QueuedRecord, SessionRecord};
use sluice::store::{
    ActId, Epoch, Link, Memory, PROGRESS_RECORDS, Part, Recovered, Turn, Writer, recover,
};
use sluice::timer::Time;

use crate::engines::{Watched, records};

pub(crate) struct Bench {
    pub(crate) memory: Memory,
    pub(crate) recovered: Recovered,
    pub(crate) writer: Writer,
    pub(crate) links: Vec<Link>,
}

/// The time of day at which the first start is.
pub(crate) const START: Epoch = Epoch { unix_ms: 1_700_000_000_000 };

impl Bench {
    pub(crate) fn new(shards: u8) -> Self {
        Self::on(Memory::default(), shards, START)
    }

    pub(crate) fn on(memory: Memory, shards: u8, epoch: Epoch) -> Self {
        let again = memory.clone();
        let strict = move || Watched::new(again.clone(), is_owed);
        let open = Box::new(move || Ok(Box::new(strict()) as Box<dyn Store>));
        let (recovered, writer, links) =
            recover(open, Commit::Disk, epoch, shards, PROGRESS_RECORDS).expect("whole records");
        Self { memory, recovered, writer, links }
    }

    /// The machine stops, and starts again.
    pub(crate) fn restart(self) -> Self {
        self.restart_at(START)
    }

    pub(crate) fn restart_at(self, epoch: Epoch) -> Self {
        let Self { memory, links, .. } = self;
        let memory = memory.crashed();
        let shards = u8::try_from(links.len()).expect("few");
        Self::on(memory, shards, epoch)
    }

    /// One turn of shard 0 with these changes, committed.
    pub(crate) fn commit(&mut self, turn: u64, changes: Vec<Change>) {
        self.links[0].submit(Turn { turn, changes: changes.into(), ..Turn::default() });
        self.writer.step();
    }

    /// What a session has queued from a place on, read in a turn of shard 0.
    pub(crate) fn page(&mut self, turn: u64, session: u64, from: u64) -> PageOfQueue {
        self.ask(turn, request(session, from, 100)).expect("at once")
    }

    pub(crate) fn ask(&mut self, turn: u64, request: PageRequest) -> Option<PageOfQueue> {
        let of = (request.session, request.waiter);
        let asked = vec![request];
        self.links[0].submit(Turn { turn, asked, ..Turn::default() });
        self.writer.step();
        let page = self.links[0].take_page()?;
        assert_eq!((page.session, page.waiter), of);
        Some(page.page)
    }

    pub(crate) fn count(&self, table: Table) -> usize {
        records(&self.memory, table).len()
    }

    /// How far each shard is committed.
    pub(crate) fn committed(&self) -> Vec<u64> {
        self.links.iter().map(Link::committed).collect()
    }
}

/// Holds the writer to what it owes a store: no key occurs twice in a commit, and what it says to be new is.
fn is_owed(memory: &Memory, writes: &[Write]) -> Result<(), StoreError> {
    let mut keys = HashSet::new();
    for Write { table, key, fresh, .. } in writes {
        assert!(keys.insert((table, key)), "{table:?} {key:?} twice in a commit");
        assert!(!fresh || memory.get(*table, key)?.is_none(), "{table:?} {key:?} is there");
    }
    Ok(())
}

/// A turn of a shard whose changes are all of an act.
pub(crate) fn part(shard: u8, turn: u64, act: ActId, changes: Vec<Change>) -> Turn {
    let parts = vec![Part { first: 0, end: changes.len(), act }];
    Turn { shard, turn, parts, changes: changes.into(), ..Turn::default() }
}

/// For a page.
pub(crate) fn request(session: u64, from: u64, messages: u32) -> PageRequest {
    let (bytes, expired_by, in_flight, waiter) = (1 << 20, None, Arc::default(), (1, 1));
    let passes_on = false;
    PageRequest { session, from, messages, bytes, expired_by, in_flight, passes_on, waiter }
}

pub(crate) fn id(packet_id: u16) -> PacketId {
    PacketId::new(packet_id).expect("not 0")
}

pub(crate) fn message(payload: &str) -> Message {
    Message::new("a/b", QoS::ExactlyOnce, false, payload.as_bytes(), b"", None, Time(0))
}

pub(crate) fn retained(topic: &str, stamp: (u64, u8), payload: &str) -> Change {
    let (qos, payload) = (QoS::AtLeastOnce, payload.as_bytes());
    let message = Message::new(topic, qos, true, payload, b"", None, Time(0));
    Change::Retained(topic.into(), stamp, Some(message))
}

pub(crate) fn session(client_id: &str, session: u64) -> Change {
    Change::Session(Box::new(SessionRecord {
        client_id: client_id.into(),
        session,
        session_expiry_interval: 3600,
        disconnected_at: None,
        will: None,
        will_at: None,
        identity: None,
    }))
}

pub(crate) fn queued(session: u64, place: u64, message: &Message) -> Change {
    Change::Queued(session, place, QueuedRecord::new(message.clone(), QoS::AtLeastOnce))
}

pub(crate) fn removed(session: u64, place: u64, message: &Message) -> Change {
    Change::Removed { session, place, message: message.clone(), number: 0, flew: false }
}

/// As [`queued`], in the store only.
pub(crate) fn paged(session: u64, place: u64, message: &Message) -> Change {
    match queued(session, place, message) {
        Change::Queued(session, place, mut record) => {
            record.paged = true;
            Change::Queued(session, place, record)
        }
        other => unreachable!("{other:?}"),
    }
}
