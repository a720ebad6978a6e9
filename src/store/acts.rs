//! What several shards do as one: all of it is committed at once, or nothing.
//!
//! When a QoS 2 message has receivers on other shards, its identifier and the places of its receivers
//! must be stored together. With one of them missing after a crash, it would be lost or come twice. The
//! same holds for what a session that ends leaves to members of its shared groups on other shards.
//!
//! The shard where it begins names its turn and the shards that take part. What they change by it is
//! set aside until each has said that it did its share. The acts of a shard are committed in the order
//! of its turns, so that none that needs no other shard overtakes: whoever sends again after a crash what
//! was not acknowledged would send it behind.

use std::collections::BTreeMap;

use hashbrown::{HashMap, HashSet};

use crate::mqtt::PacketId;
use crate::session::Change;

/// Names an act: the shard where it begins, and its turn.
pub type ActId = (u8, u64);

#[derive(Debug, Default)]
struct Act {
    /// Shards that take part, beside the one where it begins.
    with: u64,
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
    /// By shard where they begin, then by shard: how far it has done its share.
    done: BTreeMap<(u8, u8), u64>,
    aside: HashSet<Subject>,
}

impl Acts {
    /// `shard` has done its share of all acts of `id.0` up to `id.1`.
    pub(super) fn done(&mut self, shard: u8, id: ActId) {
        let done = self.done.entry((id.0, shard)).or_default();
        *done = id.1.max(*done);
    }

    /// Sets changes of `shard` in its `turn` aside; `with` are shards that take part.
    pub(super) fn add(
        &mut self,
        id: ActId,
        with: u64,
        (shard, turn): (u8, u64),
        changes: impl Iterator<Item = Change>,
    ) {
        let mut kept = Vec::new();
        for change in changes {
            if let Some(client) = client(&change) {
                self.clients.insert(client.into(), id);
                kept.push(change);
            } else {
                kept.extend(self.reconcile(change));
            }
        }
        self.aside.extend(kept.iter().filter_map(subject));
        let act = self.open.entry(id).or_default();
        act.with |= with;
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
        let complete = |id: &ActId, act: &Act| {
            let mut with = act.with;
            while with != 0 {
                let shard = with.trailing_zeros() as u8;
                with &= with - 1;
                if done.get(&(id.0, shard)).is_none_or(|&turn| turn < id.1) {
                    return false;
                }
            }
            true
        };
        let mut held_up = 0_u64;
        self.open.retain(|id, act| {
            if held_up & 1 << id.0 != 0 || !complete(id, act) {
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

    /// The first turn of `shard` that waits for an act.
    pub(super) fn first_turn(&self, shard: u8) -> Option<u64> {
        let turns = self.open.values().flat_map(|act| &act.turns);
        turns.filter(|(of, _)| *of == shard).map(|(_, turn)| *turn).min()
    }
}
