//! The commit gate: acknowledgements leave in order, and none before its deed is done.
//!
//! A PUBACK or PUBREC must not leave before every session that has to keep the message has it.
//! Sessions of the publisher's own shard have it at once; those of other shards, and the store,
//! confirm a whole turn at a time. What has to wait does so in a queue, because acknowledgements
//! leave in the order of the PUBLISH packets [MQTT-4.6.0-2] [MQTT-4.6.0-3].

use super::link::Link;
use super::{Active, Session, Sink};
use crate::mqtt::{AckKind, PacketId, QoS, ReasonCode};

/// The bit of [`PublishOutcome::waiting`] that stands for the store, not for a shard.
pub const STORE: u32 = 63;
const STORE_BIT: u64 = 1 << STORE;

/// What routing made of a PUBLISH with QoS 1 or 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishOutcome {
    /// The turn that has to be confirmed.
    pub turn: u64,
    /// Who has to confirm it: a bit for each shard that was handed the message, and [`STORE`].
    pub waiting: u64,
    /// Whether a session of this shard has kept it, or was given it at QoS 0.
    pub kept: bool,
    /// Whether a session of this shard has a matching subscription. Shards that were handed the
    /// message are taken to have one until they refuse.
    pub matched: bool,
    /// Whether it is retained: then it has not come for nothing if nobody is subscribed.
    pub retained: bool,
    /// What to acknowledge when it is kept. An error (0x80 and above) is acknowledged in any
    /// case; 3.x, which cannot, is closed for it (but see
    /// [`LinkParameters::acknowledge_unkept`](super::LinkParameters::acknowledge_unkept)).
    pub reason: ReasonCode,
    /// Whether a session could not keep it because the store fails: then it is not acknowledged with
    /// success, whoever else has it.
    pub unstored: bool,
}

impl PublishOutcome {
    /// Kept, with nothing to wait for.
    pub const KEPT: Self = Self {
        turn: 0,
        waiting: 0,
        kept: true,
        matched: true,
        retained: false,
        reason: ReasonCode::Success,
        unstored: false,
    };
    /// Nobody is subscribed.
    pub const UNMATCHED: Self = Self { kept: false, matched: false, ..Self::KEPT };

    /// Not accepted at all.
    #[must_use]
    pub const fn refused(reason: ReasonCode) -> Self {
        Self { reason, ..Self::UNMATCHED }
    }
}

/// What has to happen to the connection.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Continue,
    /// It has to be closed: a 3.x client cannot be told that its message was not kept, and must
    /// not be told that it was.
    Close,
}

/// One entry of the gate.
#[derive(Debug)]
pub(super) struct Pending {
    turn: u64,
    waiting: u64,
    what: What,
}

/// What an entry of the gate lets out.
#[derive(Debug)]
pub(super) enum What {
    /// PUBACK or PUBREC.
    Publish(PendingPublish),
    /// A PUBREC sent before, again.
    PubRecAgain(PacketId),
    /// SUBACK or UNSUBACK.
    Frame(Box<[u8]>),
}

#[derive(Debug)]
pub(super) struct PendingPublish {
    /// Shards that may have kept it: those handed it that have not refused.
    handed: u64,
    packet_id: PacketId,
    qos: QoS,
    reason: ReasonCode,
    kept: bool,
    matched: bool,
    retained: bool,
    unstored: bool,
    /// Whether this connection awaits the acknowledgement: the PUBLISH came over it.
    armed: bool,
}

impl PendingPublish {
    /// The reason code to acknowledge with over `link`. `None`: must not be acknowledged.
    fn result(&self, link: &Link) -> Option<ReasonCode> {
        if self.unstored {
            return link.version.is_v5().then_some(ReasonCode::QuotaExceeded);
        }
        let kept = self.kept || self.handed != 0;
        let reason = if kept || self.reason.is_error() {
            self.reason
        } else if self.matched {
            ReasonCode::QuotaExceeded
        } else if self.retained {
            ReasonCode::Success
        } else {
            ReasonCode::NoMatchingSubscribers
        };
        match reason {
            reason if link.version.is_v5() => Some(reason),
            ReasonCode::QuotaExceeded if link.acknowledge_unkept => Some(ReasonCode::Success),
            reason if reason.is_error() => None,
            _ => Some(ReasonCode::Success),
        }
    }
}

impl Pending {
    /// An entry that waits only for those in front of it.
    pub(super) fn settled(what: What) -> Self {
        Self { turn: 0, waiting: 0, what }
    }

    #[inline]
    fn confirm(&mut self, confirmed: &[u64; 64]) -> bool {
        let mut open = self.waiting;
        while open != 0 {
            let bit = open.trailing_zeros();
            open &= open - 1;
            if confirmed.get(bit as usize).is_some_and(|&turn| turn >= self.turn) {
                self.waiting &= !(1 << bit);
            }
        }
        self.waiting == 0
    }
}

impl Active {
    /// Has the pending PUBLISH of `packet_id` acknowledged on this connection, in the order of the
    /// repetitions. Says whether it would not have been; `None` when there is no such PUBLISH.
    pub(super) fn arm(&mut self, qos: QoS, packet_id: PacketId) -> Option<bool> {
        let is_it = |p: &PendingPublish| p.packet_id == packet_id && p.qos == qos;
        let at = self.gate.iter().position(
            |pending| matches!(&pending.what, What::Publish(publish) if is_it(publish)),
        )?;
        if matches!(self.gate.get(at)?.what, What::Publish(PendingPublish { armed: true, .. })) {
            return Some(false);
        }
        let mut pending = self.gate.remove(at)?;
        if let What::Publish(publish) = &mut pending.what {
            publish.armed = true;
        }
        self.gate.push_back(pending);
        Some(true)
    }

    /// The connection is gone: frames of it are void, acknowledgements await a repetition.
    pub(super) fn disarm_gate(&mut self) {
        self.gate.retain_mut(|pending| match &mut pending.what {
            What::Publish(p) => {
                p.armed = false;
                true
            }
            What::PubRecAgain(_) | What::Frame(_) => false,
        });
    }
}

impl Session {
    /// Acknowledges a PUBLISH that [began](Session::begin_publish) as new: at once if nothing is
    /// pending for it or before it, else when that is confirmed.
    #[inline]
    pub fn finish_publish<S: Sink>(
        &mut self,
        qos: QoS,
        packet_id: PacketId,
        outcome: PublishOutcome,
        sink: &mut S,
    ) -> Verdict {
        let publish = PendingPublish {
            handed: outcome.waiting & !STORE_BIT,
            packet_id,
            qos,
            reason: outcome.reason,
            kept: outcome.kept,
            matched: outcome.matched,
            retained: outcome.retained,
            unstored: outcome.unstored,
            armed: true,
        };
        if outcome.waiting != 0 || self.has_pending() {
            self.wait(outcome, publish);
            return Verdict::Continue;
        }
        let Some(reason) = publish.result(&self.link) else { return Verdict::Close };
        match qos {
            QoS::AtMostOnce => return Verdict::Continue,
            QoS::AtLeastOnce => sink.ack(AckKind::PubAck, packet_id, reason),
            QoS::ExactlyOnce => {
                if !reason.is_error() {
                    self.hold(packet_id, false);
                }
                sink.ack(AckKind::PubRec, packet_id, reason);
            }
        }
        Verdict::Continue
    }

    /// Writes a whole frame (SUBACK, UNSUBACK) once `turn` is confirmed by all in `waiting` and
    /// everything before it has left; at once if that is so. It is void if the connection ends
    /// before.
    pub fn send_when_confirmed<S: Sink>(
        &mut self,
        frame: &[u8],
        turn: u64,
        waiting: u64,
        sink: &mut S,
    ) {
        if waiting == 0 && !self.has_pending() {
            sink.raw(frame);
            return;
        }
        let what = What::Frame(frame.into());
        self.active_mut().gate.push_back(Pending { turn, waiting, what });
    }

    /// Lets out what is complete: `confirmed` has the last confirmed turn of each shard, and of
    /// the store at [`STORE`]. Without a connection, `sink` is `None`.
    pub fn confirm<S: Sink>(&mut self, confirmed: &[u64; 64], mut sink: Option<&mut S>) -> Verdict {
        let mut verdict = Verdict::Continue;
        while let Some(active) = self.active.as_mut() {
            if !active.gate.front_mut().is_some_and(|front| front.confirm(confirmed)) {
                break;
            }
            let Some(done) = active.gate.pop_front() else { break };
            if self.let_out(done.what, sink.as_deref_mut()) == Verdict::Close {
                // Nobody will ask again for what is complete behind it: it leaves the gate
                // unacknowledged, for the client to repeat on its next connection.
                verdict = Verdict::Close;
                sink = None;
            }
        }
        verdict
    }

    /// Records that no session of `shard` could keep the message of `packet_id` of `turn`, and
    /// whether one `matched` it at all. To be called before that shard's confirmation of the turn.
    pub fn refuse(&mut self, shard: u8, turn: u64, packet_id: PacketId, matched: bool) {
        let bit = 1_u64.checked_shl(shard.into()).unwrap_or(0);
        for (_, _, publish) in self.pending_publishes(turn, packet_id) {
            publish.handed &= !bit;
            publish.matched |= matched;
        }
    }

    /// Records that a session of `shard` could not keep the message of `packet_id` of `turn` because
    /// the store fails. That shard need not be waited for any more.
    pub fn refuse_unstored(&mut self, shard: u8, turn: u64, packet_id: PacketId) {
        for (_, waiting, publish) in self.pending_publishes(turn, packet_id) {
            publish.unstored = true;
            *waiting &= !(1_u64.checked_shl(shard.into()).unwrap_or(0));
        }
    }

    /// Records that sessions of `shard` have the message of `packet_id` of `turn`, and that nothing is to be
    /// stored for it there.
    pub fn pass(&mut self, shard: u8, turn: u64, packet_id: PacketId) {
        for (_, waiting, _) in self.pending_publishes(turn, packet_id) {
            *waiting &= !(1_u64.checked_shl(shard.into()).unwrap_or(0));
        }
    }

    /// Records that frames up to `turn` need not wait for `shard`.
    pub fn pass_frames(&mut self, shard: u8, turn: u64) {
        let bit = 1_u64.checked_shl(shard.into()).unwrap_or(0);
        let gate = self.active.as_mut().map(|active| &mut active.gate);
        for pending in gate.into_iter().flatten().filter(|pending| pending.turn <= turn) {
            if matches!(pending.what, What::Frame(_)) {
                pending.waiting &= !bit;
            }
        }
    }

    /// Has QoS 1 messages up to `turn` that are not confirmed answered as not stored. They are stored all the
    /// same when that is possible again. Not QoS 2: who is told so may send the message once more.
    pub fn give_up_storing(&mut self, turn: u64) {
        let gate = self.active.as_mut().map(|active| &mut active.gate);
        for pending in gate.into_iter().flatten().filter(|pending| pending.turn <= turn) {
            if let What::Publish(publish) = &mut pending.what
                && publish.qos == QoS::AtLeastOnce
                && pending.waiting != 0
            {
                pending.waiting = 0;
                publish.unstored = true;
            }
        }
    }

    /// Records that the message of `packet_id` of `turn` was handed to a session of the
    /// publisher's own shard afterwards, and whether that has `kept` it.
    pub fn route_here(&mut self, turn: u64, packet_id: PacketId, kept: bool) {
        for (_, _, publish) in self.pending_publishes(turn, packet_id) {
            publish.matched = true;
            publish.kept |= kept;
        }
    }

    /// Records that the message of `packet_id` of `turn` came back, and was handed to shard `to` in the
    /// turn `again`. Gives the shards that have to confirm that turn, all that it waited for among them;
    /// 0 if nobody waits for the message.
    pub fn route_again(&mut self, turn: u64, packet_id: PacketId, to: u8, again: u64) -> u64 {
        let bit = 1_u64.checked_shl(to.into()).unwrap_or(0);
        let mut to_confirm = 0;
        for (of_turn, waiting, publish) in self.pending_publishes(turn, packet_id) {
            *of_turn = again;
            *waiting |= bit;
            publish.handed |= bit;
            to_confirm |= *waiting & !STORE_BIT;
        }
        to_confirm
    }

    /// Records that what [`route_here`](Self::route_here) told of was stored in the turn `again`. Gives
    /// the shards that have to confirm that turn.
    pub fn store_again(&mut self, turn: u64, packet_id: PacketId, again: u64) -> u64 {
        let mut to_confirm = 0;
        for (of_turn, waiting, _) in self.pending_publishes(turn, packet_id) {
            *of_turn = again;
            to_confirm |= *waiting & !STORE_BIT;
            *waiting |= STORE_BIT;
        }
        to_confirm
    }

    /// The PUBLISH of `packet_id` that was routed in `turn`, and again since if none is of that
    /// turn; with the turn and the shards it waits for. More than one only if the client used the
    /// identifier twice.
    fn pending_publishes(
        &mut self,
        turn: u64,
        packet_id: PacketId,
    ) -> impl Iterator<Item = (&mut u64, &mut u64, &mut PendingPublish)> {
        let is_it = |pending: &Pending| matches!(&pending.what, What::Publish(p) if p.packet_id == packet_id);
        let gate = self.active.as_mut().map(|active| &mut active.gate);
        let turns = gate.iter().flat_map(|gate| gate.iter()).filter(|pending| is_it(pending));
        let turn = turns.map(|pending| pending.turn).filter(|&other| other >= turn).min();
        let gate = gate.into_iter().flat_map(|gate| gate.iter_mut());
        gate.filter(move |pending| Some(pending.turn) == turn).filter_map(move |pending| {
            match &mut pending.what {
                What::Publish(publish) if publish.packet_id == packet_id => {
                    Some((&mut pending.turn, &mut pending.waiting, publish))
                }
                _ => None,
            }
        })
    }

    /// Whether anything waits in the gate.
    #[inline]
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.active.as_ref().is_some_and(|active| !active.gate.is_empty())
    }

    /// How many entries wait in the gate. Frames are not bounded by the Receive Maximum: stop
    /// reading from a client that has too many.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.gate.len())
    }

    fn wait(&mut self, outcome: PublishOutcome, publish: PendingPublish) {
        match publish.qos {
            QoS::AtMostOnce => return,
            QoS::AtLeastOnce => self.link.charged += 1,
            QoS::ExactlyOnce => self.hold(publish.packet_id, true),
        }
        let PublishOutcome { turn, waiting, .. } = outcome;
        let what = What::Publish(publish);
        self.active_mut().gate.push_back(Pending { turn, waiting, what });
    }

    fn let_out<S: Sink>(&mut self, what: What, sink: Option<&mut S>) -> Verdict {
        match what {
            What::Publish(publish) => return self.let_out_publish(&publish, sink),
            What::PubRecAgain(packet_id) => {
                if self.take_again(packet_id)
                    && let Some(sink) = sink
                {
                    sink.ack(AckKind::PubRec, packet_id, ReasonCode::Success);
                }
            }
            What::Frame(frame) => {
                if let Some(sink) = sink {
                    sink.raw(&frame);
                }
            }
        }
        Verdict::Continue
    }

    fn let_out_publish<S: Sink>(
        &mut self,
        publish: &PendingPublish,
        sink: Option<&mut S>,
    ) -> Verdict {
        let packet_id = publish.packet_id;
        let result = publish.result(&self.link);
        let kept = result.is_some_and(|reason| !reason.is_error());
        let kind = match publish.qos {
            QoS::ExactlyOnce if kept => {
                self.settle_held(packet_id);
                AckKind::PubRec
            }
            QoS::ExactlyOnce => {
                self.forget_held(packet_id);
                AckKind::PubRec
            }
            QoS::AtLeastOnce | QoS::AtMostOnce => {
                self.link.charged -= u32::from(publish.armed);
                AckKind::PubAck
            }
        };
        // Who sent it over an earlier connection and has not repeated it awaits nothing.
        let Some(sink) = sink.filter(|_| publish.armed) else { return Verdict::Continue };
        match result {
            Some(reason) => sink.ack(kind, packet_id, reason),
            None => return Verdict::Close,
        }
        Verdict::Continue
    }
}
