//! What several shards do as one: all of it is committed at once, or nothing.
//!
//! When a QoS 2 message has receivers on other shards, its identifier and the places of its receivers
//! must be stored together. With one of them missing after a crash, it would be lost or come twice. The
//! same holds for what a session that ends leaves to members of its shared groups on other shards.
//!
//! The shard where it begins names its turn and the shards that it handed a part to. What they change by
//! it is set aside until each has said that it did its share. One that hands its part on names those it
//! goes to; one that gives it back, or refuses it, keeps the act open until the shard where it began has
//! seen to it: with it goes the identifier of what all have refused. The acts of a shard are committed in
//! the order of its turns, so that none that needs no other shard overtakes: whoever sends again after a
//! crash what was not acknowledged would send it behind.
//!
//! An act that removes what another has put somewhere comes behind that one, wherever the two began: or
//! else a message that goes on to another session would be stored there without the identifier it came under.
//! One that passes on what a session had in memory only comes behind all that are open. What is retained of a topic
//! comes behind what was retained there before: or else a Will that is published again after a crash would be what is
//! retained, in the place of what others have had retained since.
//! Two acts may come behind each other by what they did on different shards. Those are committed together.
//!
//! What an act takes from a queue stands there again after a crash, and what is in flight is sent before all that is
//! queued. So nothing behind it is in flight before the act is committed.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;

use crate::mqtt::PacketId;
use crate::session::{Change, SessionNumber};

/// Names an act: the shard where it begins, and its turn.
pub type ActId = (u8, u64);

#[derive(Debug, Default)]
struct Act {
    /// Shards that were handed a part, by whom, and in which turn of that.
    handed: Vec<(u64, u8, u64)>,
    /// Parts on their way back.
    returned: u32,
    /// In their order, with their numbers among all that were set aside.
    changes: Vec<(u64, Change)>,
    /// Turns of shards that are not committed before it.
    turns: Vec<(u8, u64)>,
    /// Acts that are not committed after it.
    behind: BTreeSet<ActId>,
}

impl Act {
    /// It is not committed before others.
    fn comes_behind(&mut self, id: ActId, mut others: BTreeSet<ActId>) {
        others.remove(&id);
        self.behind.append(&mut others);
    }

    /// A turn of a shard is not committed before it.
    fn is_of(&mut self, shard: u8, turn: u64) {
        if self.turns.last() != Some(&(shard, turn)) {
            self.turns.push((shard, turn));
        }
    }
}

/// What a change is of that others may follow which have to find it.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Subject {
    Place(SessionNumber, u64),
    Inbound(SessionNumber, PacketId),
    /// A session's own record. Only its home changes that and the next.
    Client(Box<str>),
    Subscription(SessionNumber, Box<str>),
    /// What is retained of a topic. Only one shard changes that.
    Retained(Box<str>),
}

fn subject(change: &Change) -> Option<Subject> {
    Some(match change {
        Change::Queued(session, place, _)
        | Change::InFlight(session, place, _)
        | Change::Completed(session, place)
        | Change::Released { session, place, .. }
        | Change::Removed { session, place, .. } => Subject::Place(*session, *place),
        Change::Held(session, id) | Change::Freed(session, id) => Subject::Inbound(*session, *id),
        Change::Session(record) => Subject::Client(record.client_id.clone()),
        Change::Ended { client_id } => Subject::Client(client_id.clone()),
        Change::Subscribed(session, record) => {
            Subject::Subscription(*session, record.filter.clone())
        }
        Change::Unsubscribed(session, filter) => Subject::Subscription(*session, filter.clone()),
        Change::Retained(topic, ..) => Subject::Retained(topic.clone()),
        _ => return None,
    })
}

/// Where a change is that was set aside.
#[derive(Clone, Copy, Debug)]
struct At {
    act: ActId,
    index: usize,
}

/// The acts that are not complete.
#[derive(Debug, Default)]
pub(super) struct Acts {
    open: BTreeMap<ActId, Act>,
    /// By shard, then by shard: how far the second has done its share of what the first handed it.
    done: BTreeMap<(u8, u8), u64>,
    /// Where something was queued or held, and where a record was last changed, of what is set aside.
    aside: HashMap<Subject, At>,
    /// By session: what takes something from its queue, and the first place of that.
    taking: HashMap<SessionNumber, BTreeMap<ActId, u64>>,
    /// Changes that were set aside, ever.
    count: u64,
}

impl Acts {
    /// `shard` has done all parts that the other one handed it up to a turn.
    pub(super) fn done(&mut self, shard: u8, (of, turn): (u8, u64)) {
        let done = self.done.entry((of, shard)).or_default();
        *done = turn.max(*done);
    }

    /// A shard handed parts to the shards `with` in its turn.
    pub(super) fn handed(&mut self, id: ActId, with: u64, (shard, turn): (u8, u64)) {
        let act = self.open.entry(id).or_default();
        act.handed.push((with, shard, turn));
        act.is_of(shard, turn);
    }

    /// A part is on its way back to where the act began.
    pub(super) fn returned(&mut self, id: ActId) {
        self.open.entry(id).or_default().returned += 1;
    }

    /// A part is back, and what became of it is said.
    pub(super) fn taken_back(&mut self, id: ActId) {
        if let Some(act) = self.open.get_mut(&id) {
            act.returned -= 1;
        }
    }

    /// An act passes on what was not stored where it was: it comes behind all that are open, by whichever of
    /// them that came there.
    pub(super) fn comes_behind_all(&mut self, id: ActId) {
        let others = self.open.keys().copied().collect();
        if let Some(act) = self.open.get_mut(&id) {
            act.comes_behind(id, others);
        }
    }

    /// Sets a change aside that a shard makes in a turn as a part of an act. Gives it back if it need not
    /// wait for the act.
    pub(super) fn add(&mut self, id: ActId, turn: (u8, u64), change: Change) -> Option<Change> {
        let about = self.find(&change);
        let behind = match &change {
            // What is in flight may be queued by another act, or stored.
            Change::InFlight(..) | Change::Released { .. } | Change::Undone => {
                return self.reconcile(change);
            }
            Change::Removed { .. } | Change::Completed(..) | Change::Freed(..) => match about {
                Some(at) if at.act == id && !self.is_flight(at) => return self.reconcile(change),
                about => about.map(|at| at.act).into_iter().collect(),
            },
            // Acts of several shards may follow each other here.
            Change::Retained(..) => about.map(|at| at.act).into_iter().collect(),
            _ => self.taken_before(&change),
        };
        if let Change::Removed { session, place, flew: false, .. } = &change {
            let first = self.taking.entry(*session).or_default().entry(id).or_insert(*place);
            *first = (*first).min(*place);
        }
        let act = self.open.entry(id).or_default();
        act.comes_behind(id, behind);
        act.is_of(turn.0, turn.1);
        self.push(id, change);
        None
    }

    /// Applies a change to what it is about, if that is set aside; sets it aside if it has to wait for an act.
    /// Gives it back if it has to be made all the same.
    #[inline]
    pub(super) fn reconcile(&mut self, change: Change) -> Option<Change> {
        if self.open.is_empty() {
            return Some(change);
        }
        self.reconcile_with_open(change)
    }

    fn reconcile_with_open(&mut self, change: Change) -> Option<Change> {
        let mut behind = self.taken_before(&change);
        let Some(at) = self.find(&change) else {
            let Some(act) = behind.pop_last() else { return Some(change) };
            self.push(act, change);
            self.open.get_mut(&act)?.comes_behind(act, behind);
            return None;
        };
        let Some(act) = self.open.get_mut(&at.act) else { return Some(change) };
        act.comes_behind(at.act, behind);
        let Some((_, found)) = act.changes.get_mut(at.index) else { return Some(change) };
        match change {
            Change::InFlight(_, _, packet_id) => {
                if let Change::Queued(_, _, record) = found {
                    record.packet_id = Some(packet_id);
                }
            }
            // What nobody has stored yet need not be removed.
            Change::Removed { .. } | Change::Freed(..) => {
                let gone = std::mem::replace(found, Change::Undone);
                subject(&gone).map(|subject| self.aside.remove(&subject));
                return matches!(gone, Change::InFlight(..)).then_some(change);
            }
            // Or else the earlier one would undo it, or it would be counted before that.
            change => self.push(at.act, change),
        }
        None
    }

    /// The acts that take something from a queue that stands before what a change says is in flight.
    fn taken_before(&self, change: &Change) -> BTreeSet<ActId> {
        let (session, place) = match change {
            Change::InFlight(session, place, _) => (session, *place),
            Change::Queued(session, place, record) if record.packet_id.is_some() => {
                (session, *place)
            }
            _ => return BTreeSet::new(),
        };
        let taking = self.taking.get(session).into_iter().flatten();
        taking.filter(|(_, first)| **first < place).map(|(act, _)| *act).collect()
    }

    /// Whether what is set aside there is of a message that is stored.
    fn is_flight(&self, at: At) -> bool {
        let change = self.open.get(&at.act).and_then(|act| act.changes.get(at.index));
        matches!(change, Some((_, Change::InFlight(..))))
    }

    /// Where something is set aside that a change is about.
    fn find(&self, change: &Change) -> Option<At> {
        if self.aside.is_empty() {
            return None;
        }
        self.aside.get(&subject(change)?).copied()
    }

    fn push(&mut self, id: ActId, change: Change) {
        let act = self.open.entry(id).or_default();
        if !matches!(change, Change::Removed { .. } | Change::Freed(..))
            && let Some(subject) = subject(&change)
        {
            self.aside.insert(subject, At { act: id, index: act.changes.len() });
        }
        act.changes.push((self.count, change));
        self.count += 1;
    }

    /// Takes out what is complete, in the order in which it came.
    pub(super) fn complete(&mut self) -> impl Iterator<Item = Change> + use<> {
        let until = self.held_up();
        let mut changes = Vec::new();
        let Self { open, aside, taking, .. } = self;
        open.retain(|id, act| {
            if is_held_up(&until, id) {
                return true;
            }
            for subject in act.changes.iter().filter_map(|(_, change)| subject(change)) {
                // Unless another act has changed the same since.
                if aside.get(&subject).is_some_and(|at| at.act == *id) {
                    aside.remove(&subject);
                }
            }
            changes.append(&mut act.changes);
            false
        });
        taking.retain(|_, acts| {
            acts.retain(|id, _| open.contains_key(id));
            !acts.is_empty()
        });
        changes.sort_by_key(|(number, _)| *number);
        changes.into_iter().map(|(_, change)| change)
    }

    /// By shard: the first of its acts that has to wait. It is not complete itself, or one that it comes
    /// behind has to wait.
    fn held_up(&self) -> BTreeMap<u8, u64> {
        let mut until = BTreeMap::new();
        loop {
            let mut found = false;
            for (id, act) in &self.open {
                let waits = |of| self.open.contains_key(of) && is_held_up(&until, of);
                if !is_held_up(&until, id)
                    && (!self.is_complete(act) || act.behind.iter().any(waits))
                {
                    until.insert(id.0, id.1);
                    found = true;
                }
            }
            if !found {
                return until;
            }
        }
    }

    fn is_complete(&self, act: &Act) -> bool {
        let has_done =
            |shard, by, turn| self.done.get(&(by, shard)).is_some_and(|&done| done >= turn);
        act.returned == 0
            && act
                .handed
                .iter()
                .all(|&(with, by, turn)| shards(with).all(|shard| has_done(shard, by, turn)))
    }

    /// The first place of a session, from one on, where something waits for an act.
    pub(super) fn first_place(&self, session: SessionNumber, from: u64) -> Option<u64> {
        let changes = self.open.values().flat_map(|act| &act.changes);
        let places = changes.filter_map(|(_, change)| match change {
            Change::Queued(of, place, _) | Change::Removed { session: of, place, .. } => {
                (*of == session && *place >= from).then_some(*place)
            }
            _ => None,
        });
        places.min()
    }

    /// The first turn of `shard` that waits for an act.
    pub(super) fn first_turn(&self, shard: u8) -> Option<u64> {
        let turns = self.open.values().flat_map(|act| &act.turns);
        turns.filter(|(of, _)| *of == shard).map(|(_, turn)| *turn).min()
    }
}

/// The shards of a mask.
fn shards(mut mask: u64) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let shard = u8::try_from(mask.trailing_zeros()).ok().filter(|_| mask != 0)?;
        mask &= mask - 1;
        Some(shard)
    })
}

/// Whether an act is one that has to wait, or a later one of the same shard.
fn is_held_up(until: &BTreeMap<u8, u64>, (shard, turn): &ActId) -> bool {
    until.get(shard).is_some_and(|first| turn >= first)
}
