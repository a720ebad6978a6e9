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
    /// What other shards name the message by that were handed it: greater than those before it.
    pub number: u64,
    /// The turn that has to be confirmed.
    pub turn: u64,
    /// Who has to confirm it: a bit for each shard that was handed the message, and [`STORE`].
    pub waiting: u64,
    /// The shards that were handed it because somebody there wants it. They are taken to have kept it
    /// until they refuse.
    pub wanted: u64,
    /// Whether a session of this shard has kept it, or was given it at QoS 0.
    pub kept: bool,
    /// Whether a session of this shard has a matching subscription.
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
    /// Whether another shard may find it to be so, too, and the connection has to be closed then: the
    /// client's is 3.x.
    pub doubtful: bool,
}

impl PublishOutcome {
    /// Kept, with nothing to wait for.
    pub const KEPT: Self = Self {
        number: 0,
        turn: 0,
        waiting: 0,
        wanted: 0,
        kept: true,
        matched: true,
        retained: false,
        reason: ReasonCode::Success,
        unstored: false,
        doubtful: false,
    };
    /// Nobody is subscribed.
    pub const UNMATCHED: Self = Self { kept: false, matched: false, ..Self::KEPT };

    /// Not accepted at all.
    #[must_use]
    pub const fn refused(reason: ReasonCode) -> Self {
        Self { reason, ..Self::UNMATCHED }
    }
}

fn bit(shard: u8) -> u64 {
    1_u64.checked_shl(shard.into()).unwrap_or(0)
}

/// What has to happen to the connection.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Continue,
    /// It has to be closed: a 3.x client cannot be told that its message was not kept, and must
    /// not be told that it was.
    Close(Unkept),
}

/// Why a message was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unkept {
    /// Nobody who was to get it had room for it.
    Full,
    /// It was to be retained, and there was no room for that.
    NotRetained,
    /// The store fails.
    Unstored,
}

/// One entry of the gate.
#[derive(Debug)]
pub(super) struct Pending {
    /// Of a PUBLISH, [its own](PublishOutcome::number); of anything else, that of the PUBLISH before it.
    number: u64,
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
    /// Shards that may have kept it: those that want it and have not refused.
    wanted: u64,
    /// Shards that were handed it after another one had returned it.
    again: u64,
    /// How many times they were, and have not refused.
    wanted_again: u32,
    packet_id: PacketId,
    qos: QoS,
    reason: ReasonCode,
    kept: bool,
    matched: bool,
    retained: bool,
    unstored: bool,
    /// Whether the connection may have to be closed for it.
    doubtful: bool,
    /// Whether this connection awaits the acknowledgement: the PUBLISH came over it.
    armed: bool,
}

impl PendingPublish {
    /// The reason code to acknowledge with over `link`. `None`: must not be acknowledged.
    fn result(&self, link: &Link) -> Option<ReasonCode> {
        if self.unstored {
            return link.version.is_v5().then_some(ReasonCode::QuotaExceeded);
        }
        let kept = self.kept || self.wanted != 0 || self.wanted_again != 0;
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

    /// Why its [result](Self::result) is not success.
    fn unkept(&self) -> Unkept {
        match self {
            Self { unstored: true, .. } => Unkept::Unstored,
            // A 3.x client, for whom this is asked, is refused for nothing else.
            Self { reason, .. } if reason.is_error() => Unkept::NotRetained,
            _ => Unkept::Full,
        }
    }

    /// Whether its connection has to be closed when it leaves the gate.
    fn is_to_close(&self, link: &Link) -> bool {
        self.armed && self.result(link).is_none()
    }
}

/// Whether a [result](PendingPublish::result) is success.
fn is_kept(result: Option<ReasonCode>) -> bool {
    result.is_some_and(|reason| !reason.is_error())
}

impl Pending {
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

    /// Whether its connection may have to be closed for it, as things are.
    fn may_close(&self, link: &Link, confirmed: &[u64; 64]) -> bool {
        let What::Publish(publish) = &self.what else { return false };
        let has_confirmed = |bit: usize| confirmed.get(bit).is_some_and(|&turn| turn >= self.turn);
        let is_decided = || (0..64).all(|bit| self.waiting & 1 << bit == 0 || has_confirmed(bit));
        publish.is_to_close(link) || publish.armed && publish.doubtful && !is_decided()
    }
}

/// A pending PUBLISH: its turn, who has to confirm that, and what leaves then.
type Found<'a> = (&'a mut u64, &'a mut u64, &'a mut PendingPublish);

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

    /// Adds what is no PUBLISH: it leaves when `turn` is confirmed by all in `waiting`, after what is
    /// there.
    pub(super) fn append(&mut self, what: What, turn: u64, waiting: u64) {
        let number = self.last_number();
        self.gate.push_back(Pending { number, turn, waiting, what });
    }

    /// The number of the last entry; 0 if there is none.
    pub(super) fn last_number(&self) -> u64 {
        self.gate.back().map_or(0, |last| last.number)
    }

    /// The PUBLISH of that number.
    fn pending_publish(&mut self, number: u64) -> Option<Found<'_>> {
        let is_it = |pending: &Pending| {
            pending.number == number && matches!(pending.what, What::Publish(_))
        };
        let mut at = self.gate.partition_point(|pending| pending.number < number);
        if !self.gate.get(at).is_some_and(is_it) {
            // Out, or behind later ones: its client has come back and repeated it.
            at = self.gate.iter().position(is_it)?;
        }
        let Pending { turn, waiting, what, .. } = self.gate.get_mut(at)?;
        match what {
            What::Publish(publish) => Some((turn, waiting, publish)),
            What::PubRecAgain(_) | What::Frame(_) => None,
        }
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
            wanted: outcome.wanted,
            again: 0,
            wanted_again: 0,
            packet_id,
            qos,
            reason: outcome.reason,
            kept: outcome.kept,
            matched: outcome.matched,
            retained: outcome.retained,
            unstored: outcome.unstored,
            doubtful: outcome.doubtful,
            armed: true,
        };
        if outcome.waiting != 0 || self.has_pending() {
            self.wait(outcome, publish);
            return Verdict::Continue;
        }
        let Some(reason) = publish.result(&self.link) else {
            return Verdict::Close(publish.unkept());
        };
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
        self.active_mut().append(What::Frame(frame.into()), turn, waiting);
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
            if let close @ Verdict::Close(_) = self.let_out(done.what, sink.as_deref_mut()) {
                // Nobody will ask again for what is complete behind it: it leaves the gate
                // unacknowledged, for the client to repeat on its next connection.
                verdict = close;
                sink = None;
            }
        }
        verdict
    }

    /// Records that no session of `shard` could keep the message of that number, and whether one
    /// `matched` it at all. To be called before that shard's confirmation of the turn.
    pub fn refuse(&mut self, shard: u8, number: u64, matched: bool) {
        self.note_refusal(number, |_, publish| {
            publish.wanted &= !bit(shard);
            publish.matched |= matched;
        });
    }

    /// Records as much of a shard that was handed the message [again](Self::route_again), each time it was.
    pub fn refuse_again(&mut self, number: u64, matched: bool) {
        self.note_refusal(number, |_, publish| {
            publish.wanted_again = publish.wanted_again.saturating_sub(1);
            publish.matched |= matched;
        });
    }

    /// Records that a session could not keep the message of that number because the store fails. Nobody
    /// need be waited for any more, least of all the store.
    pub fn refuse_unstored(&mut self, number: u64) {
        self.note_refusal(number, |waiting, publish| {
            publish.unstored = true;
            *waiting = 0;
        });
    }

    /// Notes that a message was refused. The identifier of what nobody keeps is not stored: after a crash its
    /// client repeats the message, which has to be taken for a new one.
    fn note_refusal(&mut self, number: u64, note: impl FnOnce(&mut u64, &mut PendingPublish)) {
        let (Some((_, waiting, publish)), link) = self.pending_publish(number) else { return };
        note(waiting, publish);
        if is_kept(publish.result(link)) {
            return;
        }
        link.doubtful |= publish.is_to_close(link);
        let PendingPublish { packet_id, qos, .. } = *publish;
        if qos == QoS::ExactlyOnce {
            self.note_released_inbound(packet_id);
        }
    }

    /// Records that sessions of `shard` have the message of that number, and that nothing is to be stored
    /// for it there. If it was handed to that shard again, this tells of one time only: it is waited for.
    pub fn pass(&mut self, shard: u8, number: u64) {
        let (Some((_, waiting, publish)), _) = self.pending_publish(number) else { return };
        *waiting &= !(bit(shard) & !publish.again);
    }

    /// Records that frames up to `turn` need not wait for `shard`.
    pub fn pass_frames(&mut self, shard: u8, turn: u64) {
        let gate = self.active.as_mut().map(|active| &mut active.gate);
        for pending in gate.into_iter().flatten().filter(|pending| pending.turn <= turn) {
            if matches!(pending.what, What::Frame(_)) {
                pending.waiting &= !bit(shard);
            }
        }
    }

    /// Has QoS 1 messages up to `turn` that are not confirmed answered as not stored. They are stored all the
    /// same when that is possible again. Not QoS 2: who is told so may send the message once more. `confirmed`
    /// is as for [`confirm`](Self::confirm). Says whether the connection has to be closed for one of them, be
    /// there something before it that waits on.
    pub fn give_up_storing(&mut self, turn: u64, confirmed: &[u64; 64]) -> Verdict {
        let Self { active, link, .. } = self;
        let mut verdict = Verdict::Continue;
        let gate = active.as_mut().map(|active| &mut active.gate);
        for pending in gate.into_iter().flatten().filter(|pending| pending.turn <= turn) {
            let is_done = pending.confirm(confirmed);
            if let What::Publish(publish) = &mut pending.what
                && publish.qos == QoS::AtLeastOnce
            {
                publish.unstored |= !is_done;
                pending.waiting = 0;
                if publish.is_to_close(link) {
                    verdict = Verdict::Close(publish.unkept());
                }
            }
        }
        verdict
    }

    /// Records that the message of that number came back to a session of the publisher's own shard, and
    /// whether that has `kept` it.
    pub fn route_here(&mut self, number: u64, kept: bool) {
        let (Some((_, _, publish)), link) = self.pending_publish(number) else { return };
        publish.matched = true;
        publish.kept |= kept;
        link.doubtful |= publish.is_to_close(link);
    }

    /// Records that the message of that number came back, and was handed to shard `to` in `turn`. Gives the
    /// shards that have to confirm that turn, all that it waited for among them; 0 if nobody waits for it.
    pub fn route_again(&mut self, number: u64, to: u8, turn: u64) -> u64 {
        self.wait_again(number, turn, bit(to), |publish| {
            publish.again |= bit(to);
            publish.wanted_again += 1;
        })
    }

    /// Records that what [`route_here`](Self::route_here) told of was stored in `turn`. Gives the shards
    /// that have to confirm that turn.
    pub fn store_again(&mut self, number: u64, turn: u64) -> u64 {
        self.wait_again(number, turn, STORE_BIT, |_| {})
    }

    /// A message waits for a later turn, and for one more.
    fn wait_again(
        &mut self,
        number: u64,
        turn: u64,
        more: u64,
        note: impl FnOnce(&mut PendingPublish),
    ) -> u64 {
        let (Some((of_turn, waiting, publish)), link) = self.pending_publish(number) else {
            return 0;
        };
        note(publish);
        *of_turn = turn;
        *waiting |= more;
        link.doubtful |= publish.doubtful;
        *waiting & !STORE_BIT
    }

    /// As [`Active::pending_publish`], with the connection.
    fn pending_publish(&mut self, number: u64) -> (Option<Found<'_>>, &mut Link) {
        let Self { active, link, .. } = self;
        (active.as_mut().and_then(|active| active.pending_publish(number)), link)
    }

    /// Whether anything waits in the gate.
    #[inline]
    #[must_use]
    pub fn has_pending(&self) -> bool {
        self.active.as_ref().is_some_and(|active| !active.gate.is_empty())
    }

    /// The first turn whose confirmation something in the gate may wait for; `None` if nothing is there.
    #[must_use]
    pub fn waits_since(&self) -> Option<u64> {
        self.active.as_ref()?.gate.iter().map(|pending| pending.turn).min()
    }

    /// Whether the connection may have to be closed for what waits in the gate, `confirmed` as for
    /// [`confirm`](Self::confirm). Until that is known, take nothing more from it: its client would send
    /// again what was refused, behind what was not.
    #[inline]
    pub fn refuses_perhaps(&mut self, confirmed: &[u64; 64]) -> bool {
        let Self { active, link, .. } = self;
        let may_close =
            |active: &Active| active.gate.iter().any(|pending| pending.may_close(link, confirmed));
        // If not, whatever changes that says so.
        link.doubtful = link.doubtful && active.as_deref().is_some_and(may_close);
        link.doubtful
    }

    /// How many entries wait in the gate. Frames are not bounded by the Receive Maximum: stop
    /// reading from a client that has too many.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.gate.len())
    }

    fn wait(&mut self, outcome: PublishOutcome, publish: PendingPublish) {
        let result = publish.result(&self.link);
        match publish.qos {
            QoS::AtMostOnce => return,
            QoS::AtLeastOnce => self.link.charged += 1,
            QoS::ExactlyOnce => {
                self.hold(publish.packet_id, true);
                if !is_kept(result) {
                    self.note_released_inbound(publish.packet_id);
                }
            }
        }
        let PublishOutcome { number, turn, waiting, .. } = outcome;
        let is_in_doubt = self.link.doubtful && self.has_pending();
        self.link.doubtful = is_in_doubt || publish.doubtful || result.is_none();
        let what = What::Publish(publish);
        self.active_mut().gate.push_back(Pending { number, turn, waiting, what });
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
        let kept = is_kept(result);
        let kind = match publish.qos {
            QoS::ExactlyOnce if kept => {
                self.settle_held(packet_id);
                AckKind::PubRec
            }
            QoS::ExactlyOnce => {
                self.forget_held(packet_id);
                // Some may have it: when its client asks again, it is not new.
                if publish.unstored && !(publish.armed && sink.is_some()) {
                    self.hold_refusal(packet_id);
                }
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
            None => return Verdict::Close(publish.unkept()),
        }
        Verdict::Continue
    }
}
