//! The changes of a shard's turns, until whoever commits them takes them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::change::{Change, PageRequest, Waiter};

/// Where a change was noted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noted {
    pub(super) turn: u64,
    pub(super) at: u32,
}

/// The changes of a turn, and who may wait for them.
#[derive(Debug, Default)]
struct Noting {
    changes: Vec<Change>,
    /// How many of them were taken back.
    undone: usize,
    /// How many somebody may wait for who need not any more when they are taken back; what cannot be, like acts of
    /// others, is among them until the commit.
    open: usize,
    /// How many wait for the commit besides.
    awaited: usize,
}

impl Noting {
    /// Undoes a change, if it is there still; says whether it is. Who waits for it may have to wait all the same.
    fn take_back(&mut self, at: u32, waits: bool) -> bool {
        self.open = self.open.saturating_sub(1);
        self.awaited += usize::from(waits);
        let Some(change) = self.changes.get_mut(at as usize) else { return false };
        *change = Change::Undone;
        self.undone += 1;
        true
    }
}

/// The changes of a turn on their way to whoever commits them. All clones are one.
#[derive(Clone, Debug, Default)]
pub struct Changes {
    noting: Arc<Mutex<Noting>>,
    count: usize,
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
        let open = changes.len();
        Self::new(Noting { changes, undone: 0, open, awaited: 0 }, message_bytes, is_urgent)
    }
}

impl Changes {
    fn new(noting: Noting, message_bytes: usize, is_urgent: bool) -> Self {
        let count = noting.changes.len();
        Self { noting: Arc::new(Mutex::new(noting)), count, message_bytes, is_urgent }
    }

    fn noting(&self) -> MutexGuard<'_, Noting> {
        self.noting.lock().unwrap_or_else(PoisonError::into_inner)
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

    /// How many were handed over.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes them. From now on none can be [taken back](Journal::take_back).
    #[must_use]
    pub fn take(&self) -> Vec<Change> {
        std::mem::take(&mut self.noting().changes)
    }

    /// Whether nobody can wait for them any more.
    #[must_use]
    pub fn are_settled(&self) -> bool {
        let noting = self.noting();
        noting.open == 0 && noting.awaited == 0
    }

    /// Whether some of them may be [taken back](Journal::take_back) yet, for whom that is of use.
    #[must_use]
    pub fn are_open(&self) -> bool {
        self.noting().open != 0
    }

    /// Whether nobody else has them any more.
    fn are_done(&self) -> bool {
        Arc::strong_count(&self.noting) == 1
    }

    fn take_back(&self, at: u32, waits: bool) -> bool {
        let mut noting = self.noting();
        let is_undone = noting.take_back(at, waits);
        if noting.undone == noting.changes.len() {
            noting.changes = Vec::new();
        }
        is_undone
    }
}

/// Changes of a turn that there is room for before they come, at most.
const ROOM_FOR_CHANGES: usize = 4096;

/// Turns that are handed over and not settled, before of those that were taken some count as one.
const MAX_HANDED: usize = 1024;

/// A turn that was handed over.
#[derive(Debug)]
struct Handed {
    turn: u64,
    /// It is not as good as committed before this turn is.
    behind: u64,
    changes: Changes,
}

#[derive(Debug, Default)]
struct Notes {
    turn: u64,
    /// The last turn that is known to be committed.
    committed: u64,
    noting: Noting,
    message_bytes: usize,
    is_urgent: bool,
    /// Some of them came by shared groups, which have to be named.
    has_groups: bool,
    /// What is noted is part of an act of another shard.
    is_others: bool,
    /// Earlier turns that are not settled, in their order.
    handed: VecDeque<Handed>,
    /// Merged again when there are so many, twice what the last time has left, or [`MAX_HANDED`] if that is more.
    most_handed: usize,
    waiters: Vec<Waiter>,
    asked: Vec<PageRequest>,
}

impl Handed {
    /// Whether nobody has to wait for it, if those before it are committed up to a turn.
    fn is_settled(&self, committed: u64) -> bool {
        self.behind <= committed && (self.turn <= committed || self.changes.are_settled())
    }
}

impl Notes {
    /// Where in `handed` a turn is.
    fn at(&self, turn: u64) -> Option<usize> {
        self.handed.binary_search_by_key(&turn, |handed| handed.turn).ok()
    }

    /// Somebody waits for the commit of a turn, of which nobody had to.
    fn awaits(&mut self, turn: u64) {
        if turn == self.turn {
            self.noting.awaited += 1;
        } else if let Some(handed) = self.at(turn).and_then(|at| self.handed.get(at)) {
            handed.changes.noting().awaited += 1;
        }
    }

    /// Of turns that were taken one behind the other the last one stays: who waits for those before it waits for
    /// that. The first ones stay as they are, and may still settle.
    fn merge_taken(&mut self) {
        let mut rest = self.handed.split_off(MAX_HANDED / 2).into_iter();
        self.handed.extend(rest.next());
        for mut next in rest {
            let is_done = next.changes.are_done();
            let are_done = |last: &mut Handed| is_done && last.changes.are_done();
            if let Some(last) = self.handed.pop_back_if(are_done) {
                next.behind = next.behind.max(last.behind);
                next.changes.noting().awaited += usize::from(!last.changes.are_settled());
            }
            self.handed.push_back(next);
        }
        self.most_handed = 2 * self.handed.len();
    }
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

    /// Adds a change. Says where it is, if it may be [taken back](Self::take_back).
    pub fn note(&self, change: Change) -> Option<Noted> {
        let notes = &mut *self.notes();
        let noted = self.add(notes, change, 1);
        (!notes.is_others).then_some(noted)
    }

    /// Adds a change whose commit nobody waits for. Gives the turn.
    pub fn note_unawaited(&self, change: Change) -> u64 {
        self.add(&mut self.notes(), change, 0).turn
    }

    /// Whether what is noted from now on is part of an act of another shard. That may not be taken back: as long as
    /// the act is not committed, a crash would have it happen again, behind what was settled meanwhile.
    pub fn set_others(&self, is_others: bool) {
        self.notes().is_others = is_others;
    }

    fn add(&self, notes: &mut Notes, change: Change, open: usize) -> Noted {
        notes.noting.open += open;
        #[expect(clippy::cast_possible_truncation, reason = "memory ends before")]
        let noted = Noted { turn: notes.turn, at: notes.noting.changes.len() as u32 };
        notes.has_groups |=
            matches!(&change, Change::Queued(.., record) if record.group().is_some());
        notes.message_bytes += change.adds_bytes(notes.noting.changes.last());
        notes.is_urgent |= change.is_urgent();
        notes.noting.changes.push(change);
        self.0.count.store(notes.noting.changes.len(), Ordering::Relaxed);
        noted
    }

    /// A message that was [noted](Self::note) to be queued has been acknowledged by whom it is for: nobody has to
    /// wait for that to be committed any more. Makes it undone as well, if nobody has begun to commit it; says
    /// whether it could. What else was noted in between has to make sense without it.
    ///
    /// Until the turn `repeats_until` is committed a crash would have the receiver get something else again that came
    /// before: as long as that is so, this is waited for, or else it would not come behind that once more.
    #[must_use]
    pub fn take_back(&self, noted: Noted, repeats_until: u64) -> bool {
        let notes = &mut *self.notes();
        let waits = repeats_until > notes.committed;
        if noted.turn == notes.turn {
            return notes.noting.take_back(noted.at, waits);
        }
        let Some(at) = notes.at(noted.turn) else { return false };
        let Some(handed) = notes.handed.get_mut(at) else { return false };
        let is_undone = handed.changes.take_back(noted.at, waits);
        if is_undone && waits && repeats_until > noted.turn {
            handed.behind = handed.behind.max(repeats_until);
            notes.awaits(repeats_until);
        }
        is_undone
    }

    /// Takes notice that all turns up to one are committed. Gives the last one up to which nobody has to wait any
    /// more: those behind it are as good as committed if all that they had queued was
    /// [acknowledged](Self::take_back), and nothing else of them is waited for.
    #[must_use]
    pub fn settle(&self, committed: u64) -> u64 {
        let (mut notes, mut settled) = (self.notes(), committed);
        notes.committed = committed;
        while let Some(first) = notes.handed.pop_front_if(|first| first.is_settled(committed)) {
            settled = settled.max(first.turn);
        }
        let next = notes.handed.front().map_or(u64::MAX, |first| first.turn);
        settled.min(next.saturating_sub(1))
    }

    /// Whether there is a turn that is [settled](Self::settle), with or without a commit, and that is not known.
    #[must_use]
    pub fn has_settled(&self, committed: u64) -> bool {
        let notes = self.notes();
        let is_settled = |first: &Handed| first.is_settled(notes.committed);
        committed > notes.committed || notes.handed.front().is_some_and(is_settled)
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
        notes.noting.awaited += usize::from(!waiters.is_empty());
        notes.is_urgent |= !waiters.is_empty();
        // Who waits without a change of its own waits for those of earlier turns.
        if notes.noting.changes.is_empty() && waiters.is_empty() {
            return (None, waiters);
        }
        if notes.handed.len() >= notes.most_handed.max(MAX_HANDED) {
            notes.merge_taken();
        }
        // The next turn will have about as many.
        let room = notes.noting.changes.len().min(ROOM_FOR_CHANGES);
        let next = Noting { changes: Vec::with_capacity(room), ..Noting::default() };
        let mut noting = std::mem::replace(&mut notes.noting, next);
        if std::mem::take(&mut notes.has_groups) {
            for change in &mut noting.changes {
                if let Change::Queued(.., record) = change
                    && let Some(by) = &mut record.came_by
                {
                    by.share = by.group.and_then(&name);
                }
            }
        }
        let message_bytes = std::mem::take(&mut notes.message_bytes);
        let is_urgent = std::mem::take(&mut notes.is_urgent);
        let changes = Changes::new(noting, message_bytes, is_urgent);
        notes.handed.push_back(Handed { turn, behind: 0, changes: changes.clone() });
        (Some(changes), waiters)
    }
}

#[cfg(test)]
mod tests {
    use super::super::change::{CameBy, QueuedRecord};
    use super::*;
    use crate::mqtt::{Message, PacketId, QoS};
    use crate::timer::Time;

    fn completed(place: u64) -> Change {
        Change::Completed(1, place)
    }

    fn note(journal: &Journal, place: u64) -> Noted {
        journal.note(completed(place)).expect("it is no other shard's")
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
            noted.extend([1, 2].map(|place| note(&journal, 10 * turn + place)));
            assert!(journal.take_back(noted[noted.len() - 1], 0), "in its own turn");
            noted.pop();
            noted.push(note(&journal, 10 * turn + 3));
            let (changes, _) = journal.end_turn(turn + 1, |_| None);
            handed.push(changes.expect("some"));
        }
        assert_eq!(places(handed[0].take()), [1, 0, 3]);
        assert!(!journal.take_back(noted[0], 0), "it was taken");
        assert!(journal.take_back(noted[2], 0));
        assert!(journal.take_back(noted[5], 0));
        assert_eq!(places(handed[1].take()), [0, 0, 13]);
        assert_eq!(places(handed[2].take()), [21, 0, 0]);
        let (none, _) = journal.end_turn(4, |_| None);
        assert!(none.is_none());
        assert_eq!(journal.settle(2), 2);
        assert!(journal.notes().handed.is_empty(), "nothing is kept that is committed");
    }

    /// It is one for who waits whether a turn is committed, or all that it queued is acknowledged.
    #[test]
    fn a_turn_is_settled_when_nobody_waits_for_anything_in_it() {
        let journal = Journal::default();
        let end = |turn: u64| journal.end_turn(turn + 1, |_| None).0.expect("some");
        let _ = journal.end_turn(1, |_| None);
        let noted = [1, 2].map(|place| note(&journal, place));
        let first = end(1);
        journal.note_unawaited(completed(3));
        let second = end(2);
        journal.note_unawaited(completed(4));
        assert_eq!(journal.wait((0, 0)), 3);
        let third = end(3);
        assert!(journal.take_back(noted[1], 0));
        assert!(!journal.has_settled(0) && second.are_settled() && !third.are_settled());
        assert_eq!(journal.settle(0), 0, "somebody waits for the first change");
        // It is being committed.
        assert_eq!(places(first.take()), [1, 0]);
        assert!(!journal.take_back(noted[0], 0));
        assert!(journal.has_settled(0));
        assert_eq!(journal.settle(0), 2, "a session waits for the third turn");
        assert_eq!((places(second.take()), places(third.take())), (vec![3], vec![4]));
        assert_eq!(journal.settle(3), 3);
    }

    /// Of two messages a receiver is sent the first once more, after a crash, and not the second.
    #[test]
    fn what_comes_behind_what_would_come_again_waits_until_it_would_not() {
        let journal = Journal::default();
        let end = |turn: u64| journal.end_turn(turn + 1, |_| None).0.expect("some");
        let _ = journal.end_turn(1, |_| None);
        let noted = note(&journal, 1);
        let second = end(1);
        let repeats_until = journal.note_unawaited(completed(2));
        assert!(journal.take_back(noted, repeats_until));
        let third = end(2);
        assert!(!second.are_settled() && !third.are_settled(), "both are to be committed");
        assert_eq!(journal.settle(0), 0);
        assert!(journal.has_settled(1));
        assert_eq!(journal.settle(1), 0, "there is nothing of it in that commit");
        assert!(!journal.has_settled(1));
        assert_eq!(journal.settle(2), 2);
        let noted = note(&journal, 3);
        let fourth = end(3);
        assert!(journal.take_back(noted, repeats_until) && fourth.are_settled());
        assert_eq!(journal.settle(2), 3);
    }

    #[test]
    fn what_is_part_of_an_act_of_another_shard_is_not_taken_back() {
        let journal = Journal::default();
        journal.set_others(true);
        assert_eq!(journal.note(completed(1)), None);
        journal.set_others(false);
        assert!(journal.take_back(note(&journal, 2), 0));
        let changes = journal.end_turn(1, |_| None).0.expect("one");
        assert!(!changes.are_settled());
        assert_eq!(places(changes.take()), [1, 0]);
    }

    /// A QoS 2 message is not sent before it is committed.
    #[test]
    fn who_waits_for_a_commit_is_in_a_hurry() {
        let journal = Journal::default();
        journal.note(Change::InFlight(1, 1, PacketId::MIN));
        let is_urgent = |turn| journal.end_turn(turn, |_| None).0.expect("one").is_urgent();
        assert!(!is_urgent(1));
        journal.note(Change::InFlight(1, 1, PacketId::MIN));
        journal.wait((0, 0));
        assert!(is_urgent(2));
        journal.note(Change::InFlight(1, 1, PacketId::MIN));
        assert!(!is_urgent(3));
    }

    /// Of what is undone as a whole there is nothing left to be taken.
    #[test]
    fn what_was_taken_back_takes_no_memory_until_it_is_taken() {
        let journal = Journal::default();
        let noted = [1, 2].map(|place| note(&journal, place));
        let changes = journal.end_turn(1, |_| None).0.expect("two");
        assert!(noted.into_iter().all(|noted| journal.take_back(noted, 0)));
        assert_eq!((changes.count(), changes.noting().changes.capacity()), (2, 0));
        assert_eq!(changes.take().len(), 0);
    }

    /// A store may fail for hours.
    #[test]
    fn turns_that_were_taken_and_not_committed_are_few() {
        let journal = Journal::default();
        let turns = 3 * MAX_HANDED as u64;
        let mut noted = Vec::new();
        for turn in 0..turns {
            noted.push(note(&journal, turn));
            let changes = journal.end_turn(turn + 1, |_| None).0.expect("one");
            assert_eq!(changes.take().len(), 1);
        }
        assert!(journal.notes().handed.len() <= 2 * MAX_HANDED);
        assert!(noted.into_iter().all(|noted| !journal.take_back(noted, 0)));
        let settled = journal.settle(0);
        assert!(
            settled < MAX_HANDED as u64,
            "{settled}: the last stands for those that are not there"
        );
        assert_eq!(journal.settle(turns), turns);
        assert_eq!(journal.notes().handed.len(), 0);
    }

    /// The writer may always be a little behind.
    #[test]
    fn turns_that_were_taken_late_and_not_committed_are_few() {
        let journal = Journal::default();
        let turns = 4 * MAX_HANDED as u64;
        let mut late = VecDeque::new();
        for turn in 0..turns {
            journal.note(completed(turn));
            late.extend(journal.end_turn(turn + 1, |_| None).0);
            if late.len() > 2 {
                assert_eq!(late.pop_front().expect("three").take().len(), 1);
            }
        }
        let handed = journal.notes().handed.len();
        assert!(handed <= 2 * MAX_HANDED, "{handed}");
        assert_eq!(journal.settle(0), 0);
        assert_eq!(journal.settle(turns), turns);
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
