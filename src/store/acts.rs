//! What several shards do as one: all of it is committed at once, or nothing.
//!
//! When a QoS 2 message has receivers on other shards, its identifier and the places of its receivers
//! must be stored together. With one of them missing after a crash, it would be lost or come twice. The
//! same holds for what a session that ends leaves to members of its shared groups on other shards.
//!
//! The shard where it begins names its turn and the shards that it handed a part to. What they change by
//! it is set aside until each has said that it did its share. One that hands its part on names those it
//! goes to; one that gives it back keeps the act open until the shard where it began has seen to it. The acts of a shard are committed in the order
//! of its turns, so that none that needs no other shard overtakes: whoever sends again after a crash what
//! was not acknowledged would send it behind.

use std::collections::BTreeMap;

use hashbrown::{HashMap, HashSet};

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
    changes: Vec<Change>,
    /// Turns of shards that are not committed before it.
    turns: Vec<(u8, u64)>,
}

/// What a change that is set aside is of.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Subject {
    Place(u64, u64),
    Inbound(u64, PacketId),
    Topic(Box<str>),
}

fn subject(change: &Change) -> Option<Subject> {
    match change {
        Change::Queued(session, place, _)
        | Change::InFlight(session, place, _)
        | Change::Removed { session, place, .. } => Some(Subject::Place(*session, *place)),
        Change::Held(session, id) | Change::Freed(session, id) => {
            Some(Subject::Inbound(*session, *id))
        }
        Change::Retained(topic, ..) => Some(Subject::Topic(topic.clone())),
        _ => None,
    }
}

/// The client whose session's own record a change is of. Only its home makes such changes.
fn client(change: &Change) -> Option<&str> {
    match change {
        Change::Session(record) => Some(&record.client_id),
        Change::Ended { client_id } => Some(client_id),
        _ => None,
    }
}

/// The acts that are not complete.
#[derive(Debug, Default)]
pub(super) struct Acts {
    open: BTreeMap<ActId, Act>,
    /// The last act that changes the record of a client's session: later changes go behind it, or else
    /// the end of a session would take the next one with it.
    clients: HashMap<Box<str>, ActId>,
    /// By shard, then by shard: how far the second has done its share of what the first handed it.
    done: BTreeMap<(u8, u8), u64>,
    aside: HashSet<Subject>,
}

impl Acts {
    /// `shard` has done all parts that the other one handed it up to a turn.
    pub(super) fn done(&mut self, shard: u8, (of, turn): (u8, u64)) {
        let done = self.done.entry((of, shard)).or_default();
        *done = turn.max(*done);
    }

    /// A shard handed parts to the shards `with` in its turn.
    pub(super) fn handed(&mut self, id: ActId, with: u64, (shard, turn): (u8, u64)) {
        self.open.entry(id).or_default().handed.push((with, shard, turn));
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

    /// Sets changes of `shard` in its `turn` aside.
    pub(super) fn add(
        &mut self,
        id: ActId,
        (shard, turn): (u8, u64),
        changes: impl Iterator<Item = Change>,
    ) {
        let mut kept = Vec::new();
        for change in changes {
            if let Some(client) = client(&change) {
                self.clients.insert(client.into(), id);
                kept.push(change);
            } else if matches!(change, Change::Removed { .. }) {
                // The act in which it was queued may be committed, and answered for, before this one.
                kept.push(change);
            } else {
                kept.extend(self.reconcile(change));
            }
        }
        self.aside.extend(kept.iter().filter_map(subject));
        let act = self.open.entry(id).or_default();
        act.turns.push((shard, turn));
        act.changes.append(&mut kept);
    }

    /// Applies a change to what it is about, if that is set aside. Gives it back if it has to be made
    /// all the same.
    pub(super) fn reconcile(&mut self, change: Change) -> Option<Change> {
        if !self.clients.is_empty()
            && let Some(client) = client(&change)
            && let Some(act) = self.clients.get(client).and_then(|id| self.open.get_mut(id))
        {
            act.changes.push(change);
            return None;
        }
        if self.aside.is_empty() {
            return Some(change);
        }
        let Some(about) = subject(&change).filter(|subject| self.aside.contains(subject)) else {
            return Some(change);
        };
        let mut found = None;
        for act in self.open.values_mut() {
            let is_it = |other: &Change| subject(other).as_ref() == Some(&about);
            if let Some(at) = act.changes.iter().position(is_it) {
                found = Some((act, at));
                break;
            }
        }
        let Some((act, at)) = found else { return Some(change) };
        match change {
            Change::InFlight(_, _, packet_id) => {
                if let Some(Change::Queued(_, _, record)) = act.changes.get_mut(at) {
                    record.packet_id = Some(packet_id);
                }
                None
            }
            // What nobody has stored yet need not be removed.
            Change::Removed { .. } | Change::Freed(..) => {
                if matches!(act.changes.get(at), Some(Change::Queued(..) | Change::Held(..))) {
                    act.changes.remove(at);
                    self.aside.remove(&about);
                    return None;
                }
                Some(change)
            }
            // The later one wins, whatever becomes of the act.
            _ => {
                act.changes.remove(at);
                self.aside.remove(&about);
                Some(change)
            }
        }
    }

    /// Takes out what is complete.
    pub(super) fn complete(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        let (done, clients) = (&self.done, &mut self.clients);
        let has_done = |shard, by, turn| done.get(&(by, shard)).is_some_and(|&done| done >= turn);
        let complete = |act: &Act| {
            act.returned == 0
                && act.handed.iter().all(|&(with, by, turn)| {
                    (0..u64::BITS as u8)
                        .filter(|shard| with & 1 << shard != 0)
                        .all(|shard| has_done(shard, by, turn))
                })
        };
        let mut held_up = 0_u64;
        self.open.retain(|id, act| {
            if held_up & 1 << id.0 != 0 || !complete(act) {
                held_up |= 1 << id.0;
                return true;
            }
            for client in act.changes.iter().filter_map(client) {
                if clients.get(client) == Some(id) {
                    clients.remove(client);
                }
            }
            changes.append(&mut act.changes);
            false
        });
        for subject in changes.iter().filter_map(subject) {
            self.aside.remove(&subject);
        }
        changes
    }

    /// The first place of a session where something waits for an act.
    pub(super) fn first_place(&self, session: SessionNumber) -> Option<u64> {
        let changes = self.open.values().flat_map(|act| &act.changes);
        let places = changes.filter_map(|change| match change {
            Change::Queued(of, place, _) if *of == session => Some(*place),
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
