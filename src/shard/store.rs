//! What this shard has stored: it hands each turn's changes to the writer, and lets those go on who
//! wait for the commit.

use std::collections::VecDeque;
use std::num::NonZeroU32;

use crate::mqtt::QoS;
use crate::mqtt::topic::Filter;
use crate::net::Driver;
use crate::router::{GroupId, SessionKey, Stamp, SubscriptionOptions};
use crate::session::{
    Departure, DropCause, Journal, Restored, STORE, Session, SubscriptionRecord, WillDue,
};
use crate::store::{ActId, Kept, Link, Part, Recovered, StoredSession, Turn};

use super::outcomes::Outcomes;
use super::paging::{Paging, is_retired};
use super::remote::{Item, Returned};
use super::scans::RetainedScan;
use super::{Core, Shard};

/// What a broker with a store gives its shards.
#[derive(Debug)]
pub struct Stored {
    /// One for each shard.
    pub links: Vec<Link>,
    /// What was there.
    pub recovered: Recovered,
}

/// The store, as a shard has it.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) link: Link,
    pub(super) journal: Journal,
    parts: Vec<Part>,
    handed: Vec<(ActId, u64)>,
    returned: Vec<ActId>,
    taken_back: Vec<ActId>,
    done: Vec<ActId>,
    /// Confirmations that wait for the commit of a turn of this shard.
    deferred: VecDeque<Deferred>,
    next_session: u64,
    /// Session numbers between two of this shard's.
    stride: u64,
    /// What is being done, if that is an act or a part of one, and the shards that were handed a part.
    act: Option<(ActId, u64)>,
    /// The turn in which the store was last seen to fail.
    failed_at: Option<u64>,
    pub(super) paging: Paging,
}

#[derive(Debug)]
struct Deferred {
    turn: u64,
    to: u8,
    of: u64,
}

impl Keeper {
    fn new(link: Link, id: u8, shards: u8, recovered: &Recovered, turn: u64) -> Self {
        let journal = Journal::default();
        let _ = journal.end_turn(turn, |_| None);
        Self {
            link,
            journal,
            parts: Vec::new(),
            handed: Vec::new(),
            returned: Vec::new(),
            taken_back: Vec::new(),
            done: Vec::new(),
            deferred: VecDeque::new(),
            next_session: recovered.next_session + 1 + u64::from(id),
            stride: shards.into(),
            act: None,
            failed_at: None,
            paging: Paging::default(),
        }
    }

    /// The turn up to which what waits for the store has done so for a while, and in vain.
    pub(super) fn fails_since(&mut self, turn: u64) -> Option<u64> {
        match self.link.is_failing() {
            true => self.failed_at.replace(turn),
            false => {
                self.failed_at = None;
                None
            }
        }
    }

    /// Has a confirmation wait. It stands for all of that shard before it, so a store that fails, or takes
    /// long, has no more of them wait than there are shards for each turn that changes something.
    fn defer(&mut self, deferred: Deferred) {
        let mut of_turn =
            self.deferred.iter_mut().rev().take_while(|one| one.turn == deferred.turn);
        match of_turn.find(|one| one.to == deferred.to) {
            Some(one) => one.of = deferred.of,
            None => self.deferred.push_back(deferred),
        }
    }

    /// How many confirmations wait.
    #[cfg(test)]
    pub(super) fn deferred(&self) -> usize {
        self.deferred.len()
    }

    /// Whether the store failed when it was last looked at.
    pub(super) fn has_failed(&self) -> bool {
        self.failed_at.is_some()
    }

    /// Notes that all parts of another shard's acts up to a turn are done.
    pub(super) fn did_all(&mut self, acts: ActId) {
        self.done.push(acts);
    }

    /// Notes that a part of an act goes back to the shard where that began, and stays open for it.
    pub(super) fn gives_back(&mut self, act: ActId) {
        self.returned.push(act);
    }

    /// [Gives back](Self::gives_back) the part at hand, if it is one.
    pub(super) fn gives_part_back(&mut self) -> Option<ActId> {
        let (act, _) = self.act?;
        self.gives_back(act);
        Some(act)
    }

    /// Notes that this shard has back what another one [gave back](Self::gives_back).
    pub(super) fn has_back(&mut self, act: ActId) {
        self.taken_back.push(act);
    }
}

impl<D: Driver> Shard<D> {
    /// Gives the shards of a broker their store and what was in it: before their first turn.
    pub(super) fn restore(shards: &mut [Self], stored: Stored) {
        let Stored { links, recovered } = stored;
        #[expect(clippy::cast_possible_truncation, reason = "at most MAX_SHARDS")]
        let count = shards.len() as u8;
        for (shard, link) in shards.iter_mut().zip(links) {
            let core = &mut shard.core;
            core.store = Some(Keeper::new(link, core.id, count, &recovered, core.turn));
        }
        for session in recovered.sessions {
            let home = shards.first().map_or(0, |shard| shard.core.home(&session.record.client_id));
            if let Some(shard) = shards.get_mut(usize::from(home)) {
                shard.core.restore_session(session);
            }
        }
        for shard in shards.iter_mut() {
            for one in &recovered.retained {
                let stamp = Stamp(one.stamp.0, one.stamp.1);
                shard.core.clock = shard.core.clock.max(stamp.0);
                let (message, now) = (Some(one.message.clone()), shard.core.now);
                shard.core.router.accept_retained(&one.topic, message, stamp, now);
            }
        }
        // Whoever publishes from the first turn on knows all who are subscribed.
        for shard in shards.iter_mut() {
            shard.core.mailbox.post(shard.core.turn);
        }
        for shard in shards {
            shard.take_all_mail();
        }
    }
}

impl<S> Core<S> {
    /// How many changes are noted in this turn.
    #[inline]
    pub(super) fn noted(&self) -> usize {
        self.store.as_ref().map_or(0, |store| store.journal.len())
    }

    /// Whether nothing new may be kept, because it could not be committed.
    #[inline]
    pub(super) fn store_fails(&self) -> bool {
        self.store.as_ref().is_some_and(|store| store.link.is_failing())
    }

    /// Whether the store fails, or did when it was last [looked at](Keeper::fails_since).
    pub(super) fn store_failed(&self) -> bool {
        self.store_fails() || self.store.as_ref().is_some_and(Keeper::has_failed)
    }

    /// Stores a new session from now on.
    pub(super) fn store_session(&mut self, key: SessionKey) {
        let Some(store) = &mut self.store else { return };
        let Some(slot) = self.sessions.get_mut(key) else { return };
        let number = store.next_session;
        store.next_session += store.stride;
        let (journal, in_memory) = (store.journal.clone(), self.settings.session.in_memory);
        slot.session.store_as(number, (key, slot.serial), journal, in_memory);
    }

    /// Begins something whose changes, here and on the shards that are handed a message meanwhile, are
    /// to be stored as one. Gives what [`end_act`](Self::end_act) needs.
    #[inline]
    pub(super) fn begin_act(&mut self) -> usize {
        self.join_act(Some((self.id, self.turn)))
    }

    /// Goes on with an act that began earlier or on another shard, if what comes is part of one.
    #[inline]
    pub(super) fn join_act(&mut self, act: Option<ActId>) -> usize {
        match &mut self.store {
            Some(store) => {
                store.act = act.map(|act| (act, 0));
                store.journal.len()
            }
            None => 0,
        }
    }

    #[inline]
    pub(super) fn end_act(&mut self, first: usize) {
        if let Some(store) = &mut self.store
            && let Some((act, with)) = store.act.take()
        {
            let end = store.journal.len();
            if end > first {
                store.parts.push(Part { first, end, act });
            }
            if with != 0 {
                store.handed.push((act, with));
            }
        }
    }

    /// The act that handing a message to a shard belongs to.
    #[inline]
    pub(super) fn act_with(&mut self, shard: u8) -> Option<ActId> {
        let (act, with) = self.store.as_mut()?.act.as_mut()?;
        *with |= 1 << shard;
        Some(*act)
    }

    /// Confirms a turn of another shard: once what was noted since `first` is committed. What nobody
    /// here keeps goes back at once: what is to be committed may wait for what becomes of it. What is not
    /// stored is not waited for. Says whether the turn is confirmed.
    pub(super) fn confirm_to(&mut self, to: u8, of: u64, outcomes: Outcomes, first: usize) -> bool {
        let Outcomes { refused, passed, returned, .. } = outcomes;
        let turn = self.turn;
        let mut confirmed = of;
        if let Some(store) = &mut self.store {
            let last = store.deferred.back().map(|last| last.turn);
            let noted = (store.journal.len() > first).then_some(turn);
            if let Some(turn) = noted.or(last) {
                store.defer(Deferred { turn, to, of });
                if !passed.is_empty() {
                    self.mailbox.push(to, 0, Item::Passed(passed));
                }
                if refused.is_empty() && returned.is_empty() {
                    return false;
                }
                confirmed = 0;
            }
        }
        let weight = returned.iter().map(Returned::size).sum();
        self.mailbox.push(to, weight, Item::Confirm { turn: confirmed, refused, returned });
        confirmed == of
    }

    /// Whether the writer has committed what somebody here may wait for.
    #[inline]
    pub(super) fn has_committed(&self) -> bool {
        self.store.as_ref().is_some_and(|store| {
            store.link.committed() > self.gate.committed()
                || store.link.has_page()
                || store.link.is_full() != self.mailbox.is_store_full()
        })
    }

    /// Lets go on what waited for the commits since the last turn.
    pub(super) fn take_committed(&mut self) {
        if !self.has_committed() {
            return;
        }
        self.take_pages();
        let Some(store) = &mut self.store else { return };
        self.mailbox.set_store_full(store.link.is_full());
        let committed = store.link.committed();
        while let Some(deferred) = store.deferred.pop_front_if(|first| first.turn <= committed) {
            let Deferred { to, of, .. } = deferred;
            let (refused, returned) = (Vec::new(), Vec::new());
            self.mailbox.push(to, 0, Item::Confirm { turn: of, refused, returned });
        }
        #[expect(clippy::cast_possible_truncation, reason = "63")]
        self.confirmed(STORE as u8, committed);
    }

    /// Hands the turn's changes to the writer: before its mail, of which other shards may make
    /// changes that come after them.
    pub(super) fn hand_over(&mut self) {
        let Some(store) = &mut self.store else { return };
        let router = &self.router;
        let name = |group| router.group_filter(group).map(Into::into);
        let (changes, waiters) = store.journal.end_turn(self.turn + 1, name);
        let asked = store.paging.ask(store.journal.take_asked());
        // Who waits without a change of its own waits for those of earlier turns.
        if changes.is_none()
            && waiters.is_empty()
            && store.done.is_empty()
            && store.handed.is_empty()
            && store.taken_back.is_empty()
            && asked.is_empty()
        {
            return;
        }
        store.link.submit(Turn {
            shard: self.id,
            turn: self.turn,
            changes: changes.unwrap_or_default(),
            parts: std::mem::take(&mut store.parts),
            handed: std::mem::take(&mut store.handed),
            returned: std::mem::take(&mut store.returned),
            taken_back: std::mem::take(&mut store.taken_back),
            done: std::mem::take(&mut store.done),
            asked,
        });
        self.mailbox.set_store_full(store.link.is_full());
        for (session, serial) in waiters {
            self.gate.wait(1 << STORE, self.turn, session, serial);
        }
    }

    /// Puts a session back that was stored.
    fn restore_session(&mut self, stored: StoredSession) {
        let StoredSession { mut record, subscriptions, inbound, kept, paged, expired } = stored;
        self.stats.dropped[DropCause::Expired as usize].add(expired.into());
        if is_retired(&record) {
            return self.retire_again(record.session);
        }
        let identity = record.identity.take();
        let now = self.now;
        let Some(store) = &self.store else { return };
        let journal = store.journal.clone();
        let key =
            self.sessions.insert(Session::counted(&record.client_id, self.allowance.account()));
        // One beyond a limit that is lower now than it was keeps its place.
        self.shared.admission.add_session();
        let Some(slot) = self.sessions.get_mut(key) else { return };
        let in_memory = self.settings.session.in_memory;
        slot.session.store_as(record.session, (key, slot.serial), journal, in_memory);
        for subscription in &subscriptions {
            self.restore_subscription(key, subscription);
        }
        self.restore_identity(key, identity);
        let kept = kept.into_iter().map(|(place, kept)| (place, self.restored(kept))).collect();
        let was_connected = record.disconnected_at.is_none();
        let will_at = record.will_at;
        let Some(slot) = self.sessions.get_mut(key) else { return };
        slot.session.restore(record, &inbound, kept, paged, now);
        slot.session.count_drops(DropCause::Expired, expired.into());
        slot.will_at = will_at;
        if was_connected {
            // Its connection ended with the process.
            slot.will_at = match slot.session.will_due(Departure::WithWill, now) {
                WillDue::Never => None,
                WillDue::At(at) => Some(at),
                WillDue::Now(will) => {
                    slot.session.set_will(Some(will));
                    Some(now)
                }
            };
            slot.note();
        }
        self.arm_absent(key);
    }

    fn restore_subscription(&mut self, key: SessionKey, record: &SubscriptionRecord) {
        // The limits of today do not take away what was granted.
        let limits = crate::mqtt::Limits::NONE;
        let Ok(filter) = Filter::parse(&record.filter, &limits) else { return };
        let options = SubscriptionOptions {
            qos: record.qos,
            no_local: record.no_local,
            retain_as_published: record.retain_as_published,
            identifier: NonZeroU32::new(record.identifier),
        };
        let subscribed = self.router.subscribe(key, &filter, options);
        if let Some(slot) = self.sessions.get_mut(key)
            && !subscribed.existed
        {
            self.router.set_place(subscribed.handle, slot.subscriptions.len());
            slot.subscriptions.push(subscribed.handle);
            self.shared.admission.add_subscription();
        }
        if let Some(after) = &record.retained_after {
            let (identifier, qos) = (options.identifier.map(NonZeroU32::get), options.qos);
            let after = (!after.is_empty()).then(|| String::from(&**after));
            let filter = filter.filter.into();
            // It begins when its client comes.
            let scan = RetainedScan { filter, qos, identifier, after, noted: true };
            self.scans.insert(key, subscribed.handle, scan);
        }
        if subscribed.interest {
            self.tell_all(filter.filter.len(), || Item::Interest(filter.filter.into()));
        }
        self.router.member_online(key, subscribed.handle, false);
        self.tell_group(subscribed.group);
    }

    fn restored(&self, kept: Kept) -> Restored {
        match kept {
            Kept::Released { packet_id, order } => Restored::Released(packet_id, order),
            Kept::Message { mut record, flew } => {
                record.group = record.share.as_deref().and_then(|share| self.group_of(share));
                Restored::Message { record, flew }
            }
        }
    }

    pub(super) fn group_of(&self, share: &str) -> Option<u32> {
        let filter = Filter::parse(share, &crate::mqtt::Limits::NONE).ok()?;
        self.router.group(filter.share?, filter.filter).map(GroupId::index)
    }

    /// Whether a message that is published at this QoS by this session is stored with its identifier.
    #[inline]
    pub(super) fn stores_identifier(&self, key: SessionKey, qos: QoS) -> bool {
        qos == QoS::ExactlyOnce
            && self.store.is_some()
            && self.sessions.get(key).is_some_and(|slot| slot.session.is_stored())
    }
}
