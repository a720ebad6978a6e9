//! What a store has to be told: the changes of sessions that outlive their connections.

use std::net::SocketAddr;
use std::sync::Arc;

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
    pub(super) fn is_urgent(&self) -> bool {
        match self {
            // It may be acknowledged, and [taken back](super::Journal::take_back).
            Self::Queued(.., record) => {
                record.qos != QoS::AtLeastOnce || record.packet_id.is_none()
            }
            Self::InFlight(..) | Self::Removed { .. } | Self::Completed(..) => false,
            _ => true,
        }
    }

    /// Bytes of the message that the change has stored, unless the `last` change had the same one stored.
    pub(super) fn adds_bytes(&self, last: Option<&Self>) -> usize {
        let Some(message) = self.message() else { return 0 };
        match last.and_then(Self::message) {
            Some(counted) if counted.ptr_eq(message) => 0,
            _ => message.size(),
        }
    }
}
