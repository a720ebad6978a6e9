//! What became of the messages of another shard's batch that their publishers wait for.

use crate::router::SessionKey;
use crate::store::ActId;

use super::remote::Returned;

/// A message that its publisher waits to have acknowledged, as another shard is handed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Awaited {
    /// Its [number](crate::session::PublishOutcome::number).
    pub(super) number: u64,
    pub(super) why: Why,
}

/// Why a shard is handed a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// Somebody there wants it.
    Wanted,
    /// To retain it: nobody is known to want it there.
    Retained,
    /// Somebody there wants it, and another shard has returned it.
    Returned,
}

/// What became of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The publisher's.
    pub(super) session: SessionKey,
    pub(super) serial: u32,
    /// The message's.
    pub(super) number: u64,
    /// Another shard had returned it.
    pub(super) again: bool,
    /// Its publisher takes it to be kept here, or somebody is subscribed after all.
    pub(super) wanted: bool,
    /// A session here has it.
    pub(super) kept: bool,
    /// Its publisher has to wait: it is to be committed, or goes back to be routed again.
    pub(super) waits: bool,
    /// Somebody is subscribed.
    pub(super) matched: bool,
    /// Somebody could not keep it because the store fails.
    pub(super) unstored: bool,
    /// The act that it is part of: one that is refused leaves no identifier behind.
    pub(super) act: Option<ActId>,
}

impl Outcome {
    fn add(&mut self, other: &Self) {
        self.wanted |= other.wanted;
        self.kept |= other.kept;
        self.waits |= other.waits;
        self.matched |= other.matched;
        self.unstored |= other.unstored;
    }

    /// Whether one report tells of both. What was returned is told of each time.
    fn is_of_same(&self, other: &Self) -> bool {
        let name = |one: &Self| (one.session, one.serial, one.number);
        name(self) == name(other) && !self.again && !other.again
    }

    fn is_refused(&self) -> bool {
        self.unstored || self.wanted && !self.kept
    }

    /// Whether its publisher need not wait for this shard: it waits anyhow for all that retain it, and for
    /// those that were handed it again.
    fn passes(&self) -> bool {
        self.wanted && !self.waits && !self.again
    }
}

/// What became of the messages of a batch.
#[derive(Default)]
pub(super) struct Outcomes {
    /// No session here could keep them.
    pub(super) refused: Vec<Outcome>,
    /// Sessions here have them, and their publishers need not wait, though others may have to.
    pub(super) passed: Vec<Outcome>,
    /// Their group has no member here any more.
    pub(super) returned: Vec<Returned>,
    last: Option<Outcome>,
    /// Some may have to wait: without a store, nobody has.
    tells_passed: bool,
}

impl Outcomes {
    pub(super) fn new(has_store: bool) -> Self {
        Self { tells_passed: has_store, ..Self::default() }
    }

    /// A message may come twice in a row: for plain subscribers, and for a group.
    pub(super) fn note(&mut self, outcome: Outcome) {
        match &mut self.last {
            Some(last) if last.is_of_same(&outcome) => last.add(&outcome),
            _ => {
                self.settle();
                self.last = Some(outcome);
            }
        }
    }

    /// Nothing more follows.
    pub(super) fn settle(&mut self) {
        let Some(last) = self.last.take() else { return };
        if last.is_refused() {
            self.refused.push(last);
        } else if self.tells_passed && last.passes() {
            self.passed.push(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(number: u64, kept: bool, matched: bool) -> Outcome {
        let (session, serial, again, wanted) = (1, 1, false, true);
        let (waits, unstored) = (false, false);
        let act = None;
        Outcome { session, serial, number, again, wanted, kept, waits, matched, unstored, act }
    }

    fn of(outcomes: &[Outcome]) -> Outcomes {
        let mut all = Outcomes::new(true);
        outcomes.iter().for_each(|outcome| all.note(*outcome));
        all.settle();
        all
    }

    #[test]
    fn what_was_kept_is_not_refused() {
        let kept = |number| outcome(number, true, true);
        let full = |number| outcome(number, false, true);
        assert_eq!(of(&[kept(1), kept(2)]).refused, []);
        assert_eq!(of(&[full(1), kept(2)]).refused, [full(1)]);
        assert_eq!(of(&[kept(1), full(2)]).refused, [full(2)]);
    }

    #[test]
    fn a_message_for_subscribers_and_a_group_is_one() {
        let (nobody, full, kept) =
            (outcome(1, false, false), outcome(1, false, true), outcome(1, true, true));
        for both in [[kept, full], [full, kept], [kept, nobody]] {
            assert_eq!(of(&both).refused, [], "one of them has it");
        }
        assert_eq!(of(&[nobody, full]).refused, [full], "somebody had no room");
        assert_eq!(of(&[full, nobody]).refused, [full]);
    }

    #[test]
    fn what_is_stored_for_one_or_goes_back_does_not_pass() {
        let kept = outcome(1, true, true);
        let stored = Outcome { waits: true, ..kept };
        let returned = Outcome { waits: true, ..outcome(1, false, false) };
        let unstored = Outcome { unstored: true, ..kept };
        assert_eq!(of(&[kept]).passed, [kept]);
        for both in [[kept, stored], [stored, kept], [kept, returned], [kept, unstored]] {
            assert_eq!(of(&both).passed, []);
        }
        assert_eq!(of(&[kept, unstored]).refused.len(), 1);
        let mut without_a_store = Outcomes::new(false);
        without_a_store.note(kept);
        without_a_store.settle();
        assert_eq!(without_a_store.passed, []);
    }

    /// A shard that was handed a message to retain it says nothing of it, unless somebody could not keep it.
    #[test]
    fn what_is_only_retained_is_not_reported() {
        let retained = Outcome { wanted: false, ..outcome(1, false, false) };
        let stored = Outcome { waits: true, ..retained };
        let (full, kept) = (outcome(1, false, true), outcome(1, true, true));
        for one in [retained, stored] {
            let all = of(&[one]);
            assert_eq!((all.refused, all.passed), (vec![], vec![]));
            assert_eq!(of(&[one, full]).refused.len(), 1);
            assert_eq!(of(&[one, kept]).refused, []);
        }
        assert_eq!(of(&[retained, kept]).passed.len(), 1);
        assert_eq!(of(&[stored, kept]).passed, [], "the retained message is to be committed");
    }

    /// A shard may be handed a message again for several groups: each time counts.
    #[test]
    fn what_was_returned_is_refused_each_time_and_does_not_pass() {
        let kept = Outcome { again: true, ..outcome(1, true, true) };
        let full = Outcome { again: true, ..outcome(1, false, true) };
        assert_eq!(of(&[full, kept, full]).refused, [full, full]);
        assert_eq!(of(&[full, kept, full]).passed, []);
        let first = outcome(1, true, true);
        assert_eq!(of(&[first, full]).passed, [first]);
    }
}
