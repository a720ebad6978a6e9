//! What became of the messages of another shard's batch that their publishers wait for.

use crate::mqtt::PacketId;
use crate::router::SessionKey;

use super::remote::Returned;

/// What became of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The publisher's.
    pub(super) session: SessionKey,
    pub(super) serial: u32,
    pub(super) packet_id: PacketId,
    pub(super) turn: u64,
    /// A session here has it.
    pub(super) kept: bool,
    /// Its publisher has to wait: it is to be committed, or goes back to be routed again.
    pub(super) waits: bool,
    /// Somebody is subscribed.
    pub(super) matched: bool,
    /// Somebody could not keep it because the store fails.
    pub(super) unstored: bool,
}

impl Outcome {
    fn add(&mut self, other: &Self) {
        self.kept |= other.kept;
        self.waits |= other.waits;
        self.matched |= other.matched;
        self.unstored |= other.unstored;
    }

    fn is_of_same(&self, other: &Self) -> bool {
        let name = |one: &Self| (one.session, one.serial, one.packet_id, one.turn);
        name(self) == name(other)
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
        if !last.kept || last.unstored {
            self.refused.push(last);
        } else if self.tells_passed && !last.waits {
            self.passed.push(last);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(packet_id: u16, kept: bool, matched: bool) -> Outcome {
        let packet_id = PacketId::new(packet_id).expect("not 0");
        let (session, serial, turn) = (1, 1, 1);
        let (waits, unstored) = (false, false);
        Outcome { session, serial, packet_id, turn, kept, waits, matched, unstored }
    }

    fn of(outcomes: &[Outcome]) -> Outcomes {
        let mut all = Outcomes::new(true);
        outcomes.iter().for_each(|outcome| all.note(*outcome));
        all.settle();
        all
    }

    #[test]
    fn what_was_kept_is_not_refused() {
        let kept = |packet_id| outcome(packet_id, true, true);
        let full = |packet_id| outcome(packet_id, false, true);
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
}
