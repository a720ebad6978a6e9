//! What this shard has stored: it hands each turn's changes to the writer, and lets those go on who
//! wait for the commit.

use std::collections::VecDeque;

use hashbrown::HashMap;

use crate::mqtt::topic::Filter;
use crate::mqtt::{Limits, QoS};
use crate::router::{GroupId, SessionKey};
use crate::session::{Change, Journal, STORE, Will};
use crate::store::{ActId, Link, Part, Recovered, Turn};
use crate::timer::Time;

use super::Core;
use super::outcomes::Outcomes;
use super::paging::Paging;
use super::remote::{Item, Returned};

/// The store, as a shard has it.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) link: Link,
    pub(super) journal: Journal,
    parts: Vec<Part>,
    handed: Vec<(ActId, u64)>,
    returned: Vec<ActId>,
    taken_back: Vec<ActId>,
    unstored: Vec<ActId>,
    done: Vec<ActId>,
    /// Confirmations that wait for the commit of a turn of this shard.
    deferred: VecDeque<Deferred>,
    next_session: u64,
    /// Session numbers between two of this shard's.
    stride: u64,
    /// What is being done, if that is an act or a part of one, and the shards that were handed a part.
    act: Option<(ActId, u64)>,
    /// The last turn that was handed over.
    handed_over: u64,
    /// The turn in which the store was last seen to fail.
    failed_at: Option<u64>,
    pub(super) paging: Paging,
    /// Clients whose stored sessions have ended, with the turns, until those are committed.
    ends: HashMap<Box<str>, u64>,
    /// The same in the order of turns; of some that have ended again since, too.
    ends_in_order: VecDeque<(u64, Box<str>)>,
    /// Of sessions whose client waits for CONNACK: how they were before.
    former: HashMap<SessionKey, Former>,
}

/// What CONNECT changes of a session that it resumes.
#[derive(Debug)]
pub(super) struct Former {
    will: Option<Will>,
    will_at: Option<Time>,
    session_expiry_interval: u32,
}

#[derive(Debug)]
struct Deferred {
    turn: u64,
    to: u8,
    of: u64,
}

impl Keeper {
    pub(super) fn new(link: Link, id: u8, shards: u8, recovered: &Recovered, turn: u64) -> Self {
        let journal = Journal::default();
        let _ = journal.end_turn(turn, |_| None);
        Self {
            link,
            journal,
            parts: Vec::new(),
            handed: Vec::new(),
            returned: Vec::new(),
            taken_back: Vec::new(),
            unstored: Vec::new(),
            done: Vec::new(),
            deferred: VecDeque::new(),
            next_session: recovered.next_session + 1 + u64::from(id),
            stride: shards.into(),
            act: None,
            handed_over: 0,
            failed_at: None,
            paging: Paging::default(),
            ends: HashMap::new(),
            ends_in_order: VecDeque::new(),
            former: HashMap::new(),
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

    /// Whether all that was handed over is committed; or the store fails, and nobody knows when it will be.
    pub(super) fn is_at_rest(&self) -> bool {
        self.link.committed() >= self.handed_over || self.link.is_failing()
    }

    /// Whether the store failed when it was last looked at.
    pub(super) fn has_failed(&self) -> bool {
        self.failed_at.is_some()
    }

    /// Puts the confirmation of another shard's turn off until a turn of this one is committed, and with it
    /// those before: however long that takes, there is one for each shard.
    fn defer(&mut self, turn: u64, to: u8, of: u64) {
        let mut same = self.deferred.iter_mut().rev().take_while(|one| one.turn == turn);
        match same.find(|one| one.to == to) {
            Some(one) => one.of = of,
            None => self.deferred.push_back(Deferred { turn, to, of }),
        }
    }

    /// Notes that the stored session of a client ends in a turn.
    pub(super) fn ends_session(&mut self, client_id: &str, turn: u64) {
        self.ends.insert(client_id.into(), turn);
        self.ends_in_order.push_back((turn, client_id.into()));
    }

    /// Whether a crash would bring back a session of this client that has ended: nobody may be told that it is
    /// not there.
    pub(super) fn may_come_back(&self, client_id: &str) -> bool {
        self.ends.contains_key(client_id)
    }

    /// What has ended up to a turn does not come back.
    fn forget_ends(&mut self, settled: u64) {
        while let Some((turn, client_id)) =
            self.ends_in_order.pop_front_if(|(turn, _)| *turn <= settled)
        {
            if self.ends.get(&client_id) == Some(&turn) {
                self.ends.remove(&client_id);
            }
        }
    }

    /// Notes changes that belong to an act. All that a turn begins is one.
    fn note_part(&mut self, part: Part) {
        match self.parts.last_mut() {
            _ if part.first == part.end => {}
            Some(last) if last.act == part.act && last.end == part.first => last.end = part.end,
            _ => self.parts.push(part),
        }
    }

    /// Notes that the shards of a mask were handed a part of an act.
    fn note_handed(&mut self, act: ActId, with: u64) {
        match self.handed.last_mut() {
            _ if with == 0 => {}
            Some((last, mask)) if *last == act => *mask |= with,
            _ => self.handed.push((act, with)),
        }
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

impl<S> Core<S> {
    /// How many changes are noted in this turn.
    #[inline]
    pub(super) fn noted(&self) -> usize {
        self.store.as_ref().map_or(0, |store| store.journal.len())
    }

    /// Whoever is told of what is done now waits until this turn is committed, though nothing is stored for it.
    pub(super) fn wait_for_commit(&self) {
        if let Some(store) = &self.store {
            store.journal.note(Change::Undone);
        }
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

    /// Remembers how a stored session is that a client is about to resume.
    pub(super) fn remember_former(&mut self, key: SessionKey) {
        let slot = self.sessions.get_mut(key).filter(|slot| slot.session.is_stored());
        let (Some(store), Some(slot)) = (&mut self.store, slot) else { return };
        let will = slot.session.take_will();
        let (will_at, session_expiry_interval) =
            (slot.will_at, slot.session.session_expiry_interval());
        store.former.insert(key, Former { will, will_at, session_expiry_interval });
    }

    /// A client is let in, or its connection has ended.
    pub(super) fn forget_former(&mut self, key: SessionKey) -> Option<Former> {
        self.store.as_mut()?.former.remove(&key)
    }

    /// A client is not let in: it leaves no Will, and its session is as it was before.
    pub(super) fn restore_former(&mut self, key: SessionKey) -> Option<Time> {
        let former = self.forget_former(key);
        let slot = self.sessions.get_mut(key)?;
        slot.session.set_will(None);
        let Former { will, will_at, session_expiry_interval } = former?;
        slot.session.set_will(will);
        slot.session.restore_session_expiry_interval(session_expiry_interval);
        will_at
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
                debug_assert!(store.act.is_none(), "an act is over before the next one begins");
                store.act = act.map(|act| (act, 0));
                if act.is_some_and(|(shard, _)| shard != self.id) {
                    store.journal.set_others(true);
                }
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
            if act.0 != self.id {
                store.journal.set_others(false);
            }
            store.note_part(Part { first, end: store.journal.len(), act });
            store.note_handed(act, with);
        }
    }

    /// Notes that what a session has goes to others by the act at hand.
    pub(super) fn passes_on(&mut self, is_stored: bool) {
        if let Some(store) = self.store.as_mut().filter(|_| !is_stored)
            && let Some((act, _)) = store.act
        {
            // Of all sessions that do so in a turn it is one.
            if store.unstored.last() != Some(&act) {
                store.unstored.push(act);
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
                store.defer(turn, to, of);
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

    /// Whether the writer has committed what somebody here may wait for, or that need not be any more.
    #[inline]
    pub(super) fn has_committed(&self) -> bool {
        self.store.as_ref().is_some_and(|store| {
            store.journal.has_settled(store.link.committed())
                || store.link.has_page()
                || store.link.is_full() != self.mailbox.is_store_full()
        })
    }

    /// Lets go on what waited for what is committed by now, or [settled](Journal::settle).
    pub(super) fn take_committed(&mut self) {
        if !self.has_committed() {
            return;
        }
        self.take_pages();
        let Some(store) = &mut self.store else { return };
        self.mailbox.set_store_full(store.link.is_full());
        let settled = store.journal.settle(store.link.committed());
        store.forget_ends(settled);
        while let Some(deferred) = store.deferred.pop_front_if(|first| first.turn <= settled) {
            let Deferred { to, of, .. } = deferred;
            let (refused, returned) = (Vec::new(), Vec::new());
            self.mailbox.push(to, 0, Item::Confirm { turn: of, refused, returned });
        }
        #[expect(clippy::cast_possible_truncation, reason = "63")]
        self.confirmed(STORE as u8, settled);
    }

    /// Tells the writer which turn this is, and whether it sleeps.
    pub(super) fn tell_writer(&self, sleeps: bool) {
        if let Some(store) = &self.store {
            store.link.is_at(self.turn, sleeps);
        }
    }

    /// Hands the turn's changes to the writer: before its mail, of which other shards may make
    /// changes that come after them.
    pub(super) fn hand_over(&mut self) {
        let Some(store) = &mut self.store else { return };
        let router = &self.router;
        let name = |group| router.group_filter(group).map(Into::into);
        let (changes, waiters) = store.journal.end_turn(self.turn + 1, name);
        let asked = store.paging.ask(store.journal.take_asked(), &store.link);
        if changes.is_none()
            && store.done.is_empty()
            && store.handed.is_empty()
            && store.returned.is_empty()
            && store.taken_back.is_empty()
            && store.unstored.is_empty()
            && asked.is_empty()
        {
            return;
        }
        store.handed_over = self.turn;
        store.link.submit(Turn {
            shard: self.id,
            turn: self.turn,
            changes: changes.unwrap_or_default(),
            parts: std::mem::take(&mut store.parts),
            handed: std::mem::take(&mut store.handed),
            returned: std::mem::take(&mut store.returned),
            taken_back: std::mem::take(&mut store.taken_back),
            unstored: std::mem::take(&mut store.unstored),
            done: std::mem::take(&mut store.done),
            asked,
        });
        self.mailbox.set_store_full(store.link.is_full());
        for (session, serial) in waiters {
            self.gate.wait(1 << STORE, self.turn, session, serial);
        }
    }

    /// The shared group of a filter as a client writes it, if there is one here.
    pub(super) fn group_of(&self, share: &str) -> Option<u32> {
        let filter = Filter::parse(share, &Limits::NONE).ok()?;
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

#[cfg(test)]
mod tests;
