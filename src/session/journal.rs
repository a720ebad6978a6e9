//! What a store has to be told: the changes of sessions that outlive their connections.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::will::Will;
use crate::mqtt::{Message, PacketId, QoS};
use crate::timer::Time;

/// A session's number: it stays the same over restarts, and no other session has it as long as anything of the session
/// is stored.
pub type SessionNumber = u64;

/// Who the client of a session was when it last connected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityRecord {
    /// The user it was let in as.
    pub user: Option<Box<str>>,
    /// The name in the certificate that it showed.
    pub certificate: Option<Box<str>>,
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
    /// Behind which topic the retained messages begin that it still has to get [MQTT-3.3.1-9]; empty: behind
    /// none. `None`: it has them.
    pub retained_after: Option<Box<str>>,
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
    /// The identifier it is in flight under, if it never waited.
    pub packet_id: Option<PacketId>,
    /// The number of the message in the store, if it was read from there; else 0.
    pub number: u64,
    /// Whether the session keeps it in the store only.
    pub paged: bool,
    /// What there is to say of the subscriptions that it came by: of most nothing.
    pub came_by: Option<Box<CameBy>>,
}

/// What a message is delivered with because of the subscriptions that it came by.
#[derive(Clone, Debug)]
pub struct CameBy {
    /// The Subscription Identifiers.
    pub identifiers: Box<[u32]>,
    /// The shared group, as the router numbers it.
    pub group: Option<u32>,
    /// The filter of that subscription, which the shard adds: numbers do not outlive the process.
    pub share: Option<Box<str>>,
}

impl CameBy {
    /// Nothing, if there is nothing to say.
    #[inline]
    #[must_use]
    pub fn new(identifiers: &[u32], group: Option<u32>, share: Option<&str>) -> Option<Box<Self>> {
        if identifiers.is_empty() && group.is_none() && share.is_none() {
            return None;
        }
        let (identifiers, share) = (identifiers.into(), share.map(Into::into));
        Some(Box::new(Self { identifiers, group, share }))
    }
}

impl QueuedRecord {
    /// A message that came by a subscription of which there is nothing to say, and waits in memory.
    #[must_use]
    pub fn new(message: Message, qos: QoS) -> Self {
        let (retain, packet_id, number, paged, came_by) = (false, None, 0, false, None);
        Self { message, qos, retain, packet_id, number, paged, came_by }
    }

    /// The Subscription Identifiers to deliver with.
    #[must_use]
    pub fn identifiers(&self) -> &[u32] {
        self.came_by.as_ref().map_or(&[], |by| &by.identifiers)
    }

    /// The shared group it came by.
    #[inline]
    #[must_use]
    pub fn group(&self) -> Option<u32> {
        self.came_by.as_ref()?.group
    }

    /// The filter of the shared subscription it came by.
    #[must_use]
    pub fn share(&self) -> Option<&str> {
        self.came_by.as_ref()?.share.as_deref()
    }

    /// It was read from the store: `group_of` gives the group of a filter in this process.
    pub fn set_group(&mut self, group_of: impl FnOnce(&str) -> Option<u32>) {
        if let Some(by) = &mut self.came_by {
            by.group = by.share.as_deref().and_then(group_of);
        }
    }
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
    /// None of them expires before; `None`: none ever does.
    pub next_expiry: Option<Time>,
}

/// Asks the store for the next part of a queue, or to remove what has expired in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Whose.
    pub session: SessionNumber,
    /// The place from which on.
    pub from: u64,
    /// Messages, at most: to give, or to look at.
    pub messages: u32,
    /// Bytes, at most; but one message in any case.
    pub bytes: u64,
    /// Nothing is to be given: what has expired by then is to be removed [MQTT-3.3.2-5].
    pub expired_by: Option<Time>,
    /// Places, ascending, of what was in flight when the broker began and stands behind what was not: that is
    /// neither given nor removed.
    pub in_flight: Arc<[u64]>,
    /// What is read goes to other sessions, which have to have it stored: that waits while the store fails, or
    /// whole queues would come into memory.
    pub passes_on: bool,
    /// Who it is for.
    pub waiter: Waiter,
}

impl PageRequest {
    /// Whether what stands at a place is [in flight](Self::in_flight).
    #[must_use]
    pub fn is_in_flight(&self, place: u64) -> bool {
        self.in_flight.binary_search(&place).is_ok()
    }
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
    Queued(SessionNumber, u64, QueuedRecord),
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
        /// Whether it was told to be in flight after it was queued.
        flew: bool,
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
    /// None: one that was taken back, or only what has somebody wait until the turn is committed.
    Undone,
    /// The retained message of a topic; `None`: there is none any more. Stamp and shard order the changes.
    Retained(Box<str>, (u64, u8), Option<Message>),
}

/// Who waits for a commit: a session's key and serial on its shard.
pub type Waiter = (u32, u32);

/// Where a change was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    pub(super) turn: u64,
    pub(super) at: u32,
}

/// The changes of a turn on their way to whoever commits them. All clones are one.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    changes: Arc<Mutex<Vec<Change>>>,
    message_bytes: usize,
    is_urgent: bool,
}

impl From<Vec<Change>> for Changes {
    fn from(changes: Vec<Change>) -> Self {
        let (mut message_bytes, mut last) = (0, None);
        for change in &changes {
            message_bytes += change.adds_bytes(last);
            last = Some(change);
        }
        let is_urgent = changes.iter().any(Change::is_urgent);
        Self { changes: Arc::new(Mutex::new(changes)), message_bytes, is_urgent }
    }
}

impl Change {
    /// The message that the change has stored.
    fn message(&self) -> Option<&Message> {
        match self {
            Self::Queued(.., record) => Some(&record.message),
            Self::Retained(.., message) => message.as_ref(),
            _ => None,
        }
    }

    /// As [`Changes::is_urgent`] says of all.
    fn is_urgent(&self) -> bool {
        match self {
            // It may be acknowledged, and [taken back](Journal::take_back).
            Self::Queued(.., record) => {
                record.qos != QoS::AtLeastOnce || record.packet_id.is_none()
            }
            Self::InFlight(..) | Self::Removed { .. } | Self::Completed(..) => false,
            _ => true,
        }
    }

    /// Bytes of the message that the change has stored, unless the `last` change had the same one stored.
    fn adds_bytes(&self, last: Option<&Self>) -> usize {
        let Some(message) = self.message() else { return 0 };
        match last.and_then(Self::message) {
            Some(counted) if counted.ptr_eq(message) => 0,
            _ => message.size(),
        }
    }
}

impl Changes {
    fn changes(&self) -> MutexGuard<'_, Vec<Change>> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// About the bytes of the messages that are to be queued or retained.
    #[must_use]
    pub fn message_bytes(&self) -> usize {
        self.message_bytes
    }

    /// Whether somebody waits for them that nothing but a commit can help: not so for messages that were sent at
    /// QoS 1, which their receivers may acknowledge before.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.is_urgent
    }

    /// How many are there.
    #[must_use]
    pub fn len(&self) -> usize {
        self.changes().len()
    }

    /// Whether there are none, or they were taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes them. From now on none can be [taken back](Journal::take_back).
    #[must_use]
    pub fn take(&self) -> Vec<Change> {
        std::mem::take(&mut self.changes())
    }

    /// Whether nobody else has them any more.
    fn are_done(&self) -> bool {
        Arc::strong_count(&self.changes) == 1
    }
}

/// Changes of a turn that there is room for before they come, at most.
const ROOM_FOR_CHANGES: usize = 4096;

#[derive(Debug, Default)]
struct Notes {
    turn: u64,
    changes: Vec<Change>,
    message_bytes: usize,
    is_urgent: bool,
    /// Some of them came by shared groups, which have to be named.
    has_groups: bool,
    /// Those of earlier turns that may not have been taken, with the turns.
    handed: VecDeque<(u64, Changes)>,
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

    /// Adds a change. Says where it is.
    pub fn note(&self, change: Change) -> Noted {
        let mut notes = self.notes();
        #[expect(clippy::cast_possible_truncation, reason = "memory ends before")]
        let noted = Noted { turn: notes.turn, at: notes.changes.len() as u32 };
        notes.has_groups |=
            matches!(&change, Change::Queued(.., record) if record.group().is_some());
        notes.message_bytes += change.adds_bytes(notes.changes.last());
        notes.is_urgent |= change.is_urgent();
        notes.changes.push(change);
        self.0.count.store(notes.changes.len(), Ordering::Relaxed);
        noted
    }

    /// Makes a change undone, if nobody has begun to commit it; says whether it could. What else
    /// was noted in between has to make sense without it.
    #[must_use]
    pub fn take_back(&self, noted: Noted) -> bool {
        let undo = |changes: &mut Vec<Change>| {
            let change = changes.get_mut(noted.at as usize);
            change.map(|change| std::mem::replace(change, Change::Undone))
        };
        let mut notes = self.notes();
        let undone = match noted.turn == notes.turn {
            true => undo(&mut notes.changes),
            false => {
                let at = notes.handed.binary_search_by_key(&noted.turn, |(turn, _)| *turn);
                let handed = at.ok().and_then(|at| notes.handed.get(at));
                handed.and_then(|(_, of)| undo(&mut of.changes()))
            }
        };
        drop(notes);
        undone.is_some()
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

    /// How much was asked for since that was [taken](Self::take_asked).
    #[must_use]
    pub fn wants(&self) -> usize {
        self.notes().asked.len()
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

    /// Ends a turn: takes its changes, and those who wait for them. `next` is the next turn; `name`
    /// gives the filter of a shared group, whose number does not outlive the process.
    #[must_use]
    pub fn end_turn(
        &self,
        next: u64,
        name: impl Fn(u32) -> Option<Box<str>>,
    ) -> (Option<Changes>, Vec<Waiter>) {
        let mut notes = self.notes();
        let turn = std::mem::replace(&mut notes.turn, next);
        self.0.count.store(0, Ordering::Relaxed);
        let waiters = std::mem::take(&mut notes.waiters);
        while notes.handed.pop_front_if(|(_, first)| first.are_done()).is_some() {}
        if notes.changes.is_empty() {
            return (None, waiters);
        }
        // The next turn will have about as many.
        let next = Vec::with_capacity(notes.changes.len().min(ROOM_FOR_CHANGES));
        let mut changes = std::mem::replace(&mut notes.changes, next);
        if std::mem::take(&mut notes.has_groups) {
            for change in &mut changes {
                if let Change::Queued(.., record) = change
                    && let Some(by) = &mut record.came_by
                {
                    by.share = by.group.and_then(&name);
                }
            }
        }
        let message_bytes = std::mem::take(&mut notes.message_bytes);
        let is_urgent = std::mem::take(&mut notes.is_urgent);
        let changes = Changes { changes: Arc::new(Mutex::new(changes)), message_bytes, is_urgent };
        notes.handed.push_back((turn, changes.clone()));
        (Some(changes), waiters)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn completed(place: u64) -> Change {
        Change::Completed(1, place)
    }

    fn places(changes: Vec<Change>) -> Vec<u64> {
        let place = |change| match change {
            Change::Completed(_, place) => place,
            Change::Undone => 0,
            other => unreachable!("{other:?}"),
        };
        changes.into_iter().map(place).collect()
    }

    #[test]
    fn a_change_can_be_taken_back_until_it_is_taken() {
        let journal = Journal::default();
        let mut handed = Vec::new();
        let mut noted = Vec::new();
        for turn in 0..3 {
            noted.extend([1, 2].map(|place| journal.note(completed(10 * turn + place))));
            assert!(journal.take_back(noted[noted.len() - 1]), "in its own turn");
            noted.pop();
            noted.push(journal.note(completed(10 * turn + 3)));
            let (changes, _) = journal.end_turn(turn + 1, |_| None);
            handed.push(changes.expect("some"));
        }
        assert_eq!(places(handed[0].take()), [1, 0, 3]);
        assert!(!journal.take_back(noted[0]), "it was taken");
        assert!(journal.take_back(noted[2]));
        assert!(journal.take_back(noted[5]));
        assert_eq!(places(handed[1].take()), [0, 0, 13]);
        assert_eq!(places(handed[2].take()), [21, 0, 0]);
        handed.clear();
        let (none, _) = journal.end_turn(4, |_| None);
        assert!(none.is_none());
        assert!(journal.notes().handed.is_empty(), "nothing is kept that was taken");
    }

    /// Of what came by no group there is nothing to be named.
    #[test]
    fn a_group_is_named_when_the_turn_ends() {
        let journal = Journal::default();
        let message = Message::new("t", QoS::AtLeastOnce, false, b"", b"", None, Time(0));
        let came_by = [(&[][..], None), (&[7], None), (&[], Some(3)), (&[7], Some(4))];
        for (place, (identifiers, group)) in (1..).zip(came_by) {
            let record = QueuedRecord::new(message.clone(), QoS::AtLeastOnce);
            let came_by = CameBy::new(identifiers, group, None);
            journal.note(Change::Queued(1, place, QueuedRecord { came_by, ..record }));
        }
        let (changes, _) = journal.end_turn(1, |group| (group == 3).then(|| "$share/g/t".into()));
        let changes = changes.expect("four").take();
        let said = changes.iter().map(|change| match change {
            Change::Queued(.., record) => (record.identifiers(), record.group(), record.share()),
            other => unreachable!("{other:?}"),
        });
        let expected: [(&[u32], _, _); 4] = [
            (&[], None, None),
            (&[7], None, None),
            (&[], Some(3), Some("$share/g/t")),
            (&[7], Some(4), None),
        ];
        assert!(said.eq(expected));
    }
}
