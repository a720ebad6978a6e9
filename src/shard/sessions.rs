//! The sessions whose home is this shard.

use std::hash::{BuildHasher, Hasher};

use hashbrown::HashTable;
use smallvec::SmallVec;

use crate::net::ConnId;
use crate::router::{SessionKey, SubscriptionHandle};
use crate::session::Session;
use crate::timer::{Time, TimerKey};

use super::connection::PLACES_RESERVED;
use super::rights::Identity;

/// A session and what the shard knows of it.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) session: Session,
    /// Most have few.
    pub(super) subscriptions: SmallVec<[SubscriptionHandle; 4]>,
    pub(super) connection: Option<ConnId>,
    /// Tells this session from an earlier one under the same key.
    pub(super) serial: u32,
    pub(super) timer: Option<TimerKey>,
    /// When a delayed will is due.
    pub(super) will_at: Option<Time>,
    /// Until when its full queue may slow publishers, over however many connections: set with the
    /// first that is slowed, gone when the queue has drained.
    pub(super) patience_until: Option<Time>,
    /// Who its client is; `None` if nobody limits what it may do.
    pub(super) identity: Option<Box<Identity>>,
}

/// Sessions by key and by client identifier.
#[derive(Debug)]
pub(super) struct Sessions {
    /// `None`: the session has ended, and its key is not free yet.
    slots: Vec<Option<Slot>>,
    free: Vec<SessionKey>,
    len: usize,
    by_client: HashTable<SessionKey>,
    hasher: foldhash::fast::FixedState,
    serial: u32,
}

impl Sessions {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            slots: Vec::with_capacity(PLACES_RESERVED),
            free: Vec::new(),
            len: 0,
            by_client: HashTable::new(),
            hasher: foldhash::fast::FixedState::with_seed(seed),
            serial: 0,
        }
    }

    pub(super) fn hash(&self, client_id: &str) -> u64 {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(client_id.as_bytes());
        hasher.finish()
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn get(&self, key: SessionKey) -> Option<&Slot> {
        self.slots.get(key as usize)?.as_ref()
    }

    #[inline]
    pub(super) fn get_mut(&mut self, key: SessionKey) -> Option<&mut Slot> {
        self.slots.get_mut(key as usize)?.as_mut()
    }

    /// The session, unless it ended and another took its key.
    pub(super) fn get_serial(&mut self, key: SessionKey, serial: u32) -> Option<&mut Slot> {
        self.get_mut(key).filter(|slot| slot.serial == serial)
    }

    pub(super) fn find(&self, client_id: &str) -> Option<SessionKey> {
        let is_it =
            |&key: &SessionKey| self.get(key).is_some_and(|s| s.session.client_id() == client_id);
        self.by_client.find(self.hash(client_id), is_it).copied()
    }

    /// The session of the client whose identifier [hashes](Self::hash) to `hash`.
    pub(super) fn find_hash(&self, hash: u64) -> Option<SessionKey> {
        let is_it = |&key: &SessionKey| {
            self.get(key).is_some_and(|slot| self.hash(slot.session.client_id()) == hash)
        };
        self.by_client.find(hash, is_it).copied()
    }

    /// Adds a session under a client identifier that has none.
    pub(super) fn insert(&mut self, session: Session) -> SessionKey {
        let hash = self.hash(session.client_id());
        self.serial = self.serial.wrapping_add(1);
        let slot = Some(Slot {
            session,
            subscriptions: SmallVec::new(),
            connection: None,
            serial: self.serial,
            timer: None,
            will_at: None,
            patience_until: None,
            identity: None,
        });
        #[expect(clippy::cast_possible_truncation, reason = "sessions are fewer than 2^32")]
        let key = self.free.pop().unwrap_or(self.slots.len() as SessionKey);
        match self.slots.get_mut(key as usize) {
            Some(place) => *place = slot,
            None => self.slots.push(slot),
        }
        self.len += 1;
        let (slots, hasher) = (&self.slots, &self.hasher);
        self.by_client.insert_unique(hash, key, |&key| {
            let mut state = hasher.build_hasher();
            if let Some(Some(slot)) = slots.get(key as usize) {
                state.write(slot.session.client_id().as_bytes());
            }
            state.finish()
        });
        key
    }

    /// Takes a session out. Its key stays taken until it is [freed](Self::free).
    pub(super) fn take(&mut self, key: SessionKey) -> Option<Slot> {
        let slot = self.slots.get_mut(key as usize)?.take()?;
        self.len -= 1;
        let hash = self.hash(slot.session.client_id());
        if let Ok(entry) = self.by_client.find_entry(hash, |&other| other == key) {
            entry.remove();
        }
        Some(slot)
    }

    /// Frees the key of a session that was taken out.
    pub(super) fn free(&mut self, key: SessionKey) {
        debug_assert!(self.get(key).is_none(), "the session has not ended");
        self.free.push(key);
    }

    /// Messages queued and in flight in `most` places from `first` on; and where to go on, if there
    /// are more places.
    pub(super) fn stored_messages(&self, first: usize, most: usize) -> (u64, Option<usize>) {
        let places = self.slots.len();
        let end = first.saturating_add(most).min(places);
        let stored = (first..end)
            .filter_map(|index| self.slots.get(index)?.as_ref())
            .map(|slot| (slot.session.queued() + slot.session.in_flight()) as u64)
            .sum();
        (stored, (end < places).then_some(end))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = SessionKey> + '_ {
        let keys = self.slots.iter().enumerate().filter(|(_, slot)| slot.is_some());
        #[expect(clippy::cast_possible_truncation, reason = "sessions are fewer than 2^32")]
        keys.map(|(index, _)| index as SessionKey)
    }
}
