//! What a store has to be told: the changes of sessions that outlive their connections.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::will::Will;
use crate::mqtt::{Message, PacketId, QoS};
use crate::timer::Time;

/// A session's number: it stays the same over restarts, and no other session has it, ever.
pub type SessionNumber = u64;

/// Who the client of a session was when it last connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityRecord {
    /// The user it was let in as.
    pub user: Option<Box<str>>,
    /// Where it connected from.
    pub peer: SocketAddr,
    /// The Protocol Version.
    pub protocol_version: u8,
}

/// What is stored of a session itself.
#[derive(Clone, Debug)]
pub struct SessionRecord {
    /// The Client Identifier.
    pub client_id: Box<str>,
    /// Its number.
    pub session: SessionNumber,
    /// Session Expiry Interval in seconds.
    pub session_expiry_interval: u32,
    /// Since when it has no connection; `None` while it has one.
    pub disconnected_at: Option<Time>,
    /// Its Will.
    pub will: Option<Will>,
    /// When the Will is due, after the end of a connection.
    pub will_at: Option<Time>,
    /// Its client, if anybody decides what clients may do.
    pub identity: Option<IdentityRecord>,
}

/// What is stored of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionRecord {
    /// The filter as it was asked for, with `$share/` in front of a shared one.
    pub filter: Box<str>,
    /// The highest QoS to deliver at.
    pub qos: QoS,
    /// Not the client's own messages.
    pub no_local: bool,
    /// RETAIN is forwarded as the publisher set it.
    pub retain_as_published: bool,
    /// The Subscription Identifier; 0: none.
    pub identifier: u32,
}

/// What is stored of a message that a session has to deliver.
#[derive(Clone, Debug)]
pub struct QueuedRecord {
    /// The message itself, which may be that of others, too.
    pub message: Message,
    /// The QoS to deliver at.
    pub qos: QoS,
    /// The RETAIN flag to deliver with.
    pub retain: bool,
    /// The Subscription Identifiers to deliver with.
    pub identifiers: Box<[u32]>,
    /// The shared group it came by, as the router numbers it.
    pub group: Option<u32>,
    /// The filter of that subscription, which the shard adds: numbers do not outlive the process.
    pub share: Option<Box<str>>,
    /// The identifier it is in flight under, if it never waited.
    pub packet_id: Option<PacketId>,
    /// The number of the message in the store, if it was read from there; else 0.
    pub number: u64,
    /// Whether the session keeps it in the store only.
    pub paged: bool,
}

/// What of a session's queue is in the store only, behind all that it has in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paged {
    /// The place from which on.
    pub first: u64,
    /// The place after the last.
    pub end: u64,
    /// How many messages.
    pub messages: u32,
    /// Their bytes, by [`Message::size`].
    pub bytes: u64,
    /// Whether some of them came by shared groups.
    pub shared: bool,
}

/// Asks the store for the next part of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Whose.
    pub session: SessionNumber,
    /// The place from which on.
    pub from: u64,
    /// Messages, at most.
    pub messages: u32,
    /// Bytes, at most; but one message in any case.
    pub bytes: u64,
    /// Who it is for.
    pub waiter: Waiter,
}

/// One change.
#[derive(Clone, Debug)]
pub enum Change {
    /// A session is as the record says from now on.
    Session(Box<SessionRecord>),
    /// A session has ended; what else there was of it is told to be gone one by one.
    Ended {
        /// The Client Identifier.
        client_id: Box<str>,
    },
    /// A subscription is new, or has other options.
    Subscribed(SessionNumber, Box<SubscriptionRecord>),
    /// A subscription has ended.
    Unsubscribed(SessionNumber, Box<str>),
    /// A message is queued or in flight at a place; later ones have higher places.
    Queued(SessionNumber, u64, Box<QueuedRecord>),
    /// A message that was queued is in flight.
    InFlight(SessionNumber, u64, PacketId),
    /// The client has a message, and was or is to be sent PUBREL.
    Released {
        /// Whose.
        session: SessionNumber,
        /// The message's place.
        place: u64,
        /// The message, which is needed no more.
        message: Message,
        /// Its number, if it was read from the store; else 0.
        number: u64,
        /// Its identifier.
        packet_id: PacketId,
        /// The order among the PUBRELs of the session.
        order: u64,
    },
    /// PUBCOMP has come.
    Completed(SessionNumber, u64),
    /// A message is not the session's any more.
    Removed {
        /// Whose.
        session: SessionNumber,
        /// The message's place.
        place: u64,
        /// The message.
        message: Message,
        /// Its number, if it was read from the store; else 0.
        number: u64,
        /// Whether it was told to be in flight after it was queued.
        flew: bool,
    },
    /// All that is queued from a place on is not the session's any more. It has ended.
    Forgotten(SessionNumber, u64),
    /// A QoS 2 message of the client has come: its identifier is taken.
    Held(SessionNumber, PacketId),
    /// The identifier is free again.
    Freed(SessionNumber, PacketId),
    /// The retained message of a topic; `None`: there is none any more. Stamp and shard order the changes.
    Retained(Box<str>, (u64, u8), Option<Message>),
}

/// Who waits for a commit: a session's key and serial on its shard.
pub type Waiter = (u32, u32);

#[derive(Debug, Default)]
struct Notes {
    turn: u64,
    changes: Vec<Change>,
    waiters: Vec<Waiter>,
    asked: Vec<PageRequest>,
}

/// The changes of one shard's turn, in their order. All clones are one.
///
/// Only the shard's thread uses it, so its lock is always free: it is one because each session that
/// writes here moves between threads with its shard.
#[derive(Clone, Debug, Default)]
pub struct Journal(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    notes: Mutex<Notes>,
    /// Changes in `notes`: asked for with each message, which takes no lock for it.
    count: AtomicUsize,
}

impl Journal {
    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.0.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a change.
    pub fn note(&self, change: Change) {
        let mut notes = self.notes();
        notes.changes.push(change);
        self.0.count.store(notes.changes.len(), Ordering::Relaxed);
    }

    /// Has a session told when this turn is committed; gives the turn.
    pub fn wait(&self, waiter: Waiter) -> u64 {
        let mut notes = self.notes();
        if notes.waiters.last() != Some(&waiter) {
            notes.waiters.push(waiter);
        }
        notes.turn
    }

    /// Asks for a part of a queue, which comes in a later turn.
    pub fn ask(&self, request: PageRequest) {
        self.notes().asked.push(request);
    }

    /// Takes what was asked for.
    #[must_use]
    pub fn take_asked(&self) -> Vec<PageRequest> {
        std::mem::take(&mut self.notes().asked)
    }

    /// How many changes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.count.load(Ordering::Relaxed)
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends a turn: takes its changes, and those who wait for them. `next` is the next turn.
    #[must_use]
    pub fn end_turn(&self, next: u64) -> (Vec<Change>, Vec<Waiter>) {
        let mut notes = self.notes();
        notes.turn = next;
        self.0.count.store(0, Ordering::Relaxed);
        (std::mem::take(&mut notes.changes), std::mem::take(&mut notes.waiters))
    }
}
