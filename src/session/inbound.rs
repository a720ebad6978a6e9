//! Messages from the client: QoS 2 identifiers held, and our Receive Maximum.

use super::durable::{answer, answer_again};
use super::gate::{PublishOutcome, What};
use super::{Session, Sink};
use crate::mqtt::{AckKind, DecodeError, PacketId, QoS, ReasonCode};

/// What a PUBLISH with QoS 1 or 2 is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Begin {
    /// A new message: route it, then call [`Session::finish_publish`].
    New,
    /// One that is held or pending already: do not route it [MQTT-4.3.3-10]. It is acknowledged
    /// by the session itself, now or when the pending one is.
    Duplicate,
    /// More than our Receive Maximum: DISCONNECT with 0x93 [MQTT-3.3.4-7], or close for 3.x.
    ReceiveMaximumExceeded,
}

/// Answered with PUBREC when its pending entry completes.
const PENDING: u8 = 1;
/// Answered with PUBREC; PUBREL is awaited.
pub(super) const HELD: u8 = 2;
/// A second PUBREC is in the gate.
const AGAIN: u8 = 4;
/// Counts against our Receive Maximum on this connection.
const CHARGED: u8 = 8;
/// Its client was to be told 0x97, but has no connection: PUBLISH is awaited once more.
const REFUSED: u8 = 16;

impl Session {
    /// Takes in the identifier of a PUBLISH with QoS 1 or 2, before routing. Changes nothing when
    /// it says [`Begin::New`], so the same PUBLISH may begin again later.
    #[inline]
    pub fn begin_publish<S: Sink>(
        &mut self,
        qos: QoS,
        packet_id: PacketId,
        dup: bool,
        sink: &mut S,
    ) -> Begin {
        if let Some(active) = self.active.as_mut() {
            let known = match qos {
                QoS::ExactlyOnce => {
                    !active.held.is_empty() && self.repeat_qos2(packet_id, dup, sink)
                }
                QoS::AtLeastOnce => dup && !active.gate.is_empty() && self.repeat_qos1(packet_id),
                QoS::AtMostOnce => false,
            };
            if known {
                return Begin::Duplicate;
            }
        }
        if self.link.charged >= u32::from(self.link.our_receive_maximum) {
            return Begin::ReceiveMaximumExceeded;
        }
        Begin::New
    }

    /// Ends the receiver's half of a QoS 2 flow with PUBCOMP [MQTT-4.3.3-11]; 0x92 when the
    /// identifier is unknown and the client speaks 5.0. `Ok` says whether it was known.
    ///
    /// # Errors
    /// 0x82 for an identifier whose PUBREC has not been sent: it is known, so 0x92 would not be true
    /// (3.7.2.1), and what is to follow PUBREC does not come before it (4.3.3, 4.13.1).
    #[inline]
    pub fn pubrel<S: Sink>(
        &mut self,
        packet_id: PacketId,
        sink: &mut S,
    ) -> Result<bool, DecodeError> {
        let held = self.active.as_mut().map(|active| &mut active.held);
        let flags = match held {
            None => 0,
            Some(held) => match held.get(packet_id) {
                0 => 0,
                flags if flags & PENDING != 0 => {
                    return Err(DecodeError::protocol("PUBREL before PUBREC"));
                }
                _ => held.remove(packet_id) & !REFUSED,
            },
        };
        if flags & CHARGED != 0 {
            self.link.charged -= 1;
        }
        let known = flags != 0;
        if known {
            self.note_released_inbound(packet_id);
            answer(&mut self.durable, AckKind::PubComp, packet_id, sink);
        } else {
            let reason = match self.version().is_v5() {
                true => ReasonCode::PacketIdentifierNotFound,
                false => ReasonCode::Success,
            };
            answer_again(&self.durable, AckKind::PubComp, packet_id, reason, sink);
        }
        Ok(known)
    }

    /// How many inbound QoS 2 flows are open.
    #[must_use]
    pub fn inbound_qos2(&self) -> usize {
        self.active.as_ref().map_or(0, |active| active.held.len())
    }

    /// Records a new QoS 2 identifier.
    #[inline]
    pub(super) fn hold(&mut self, packet_id: PacketId, pending: bool) {
        self.link.charged += 1;
        let state = if pending { PENDING } else { HELD };
        self.active_mut().held.insert(packet_id, state | CHARGED);
        self.note_held(packet_id);
    }

    /// Its PUBREC has been (or could have been) sent.
    pub(super) fn settle_held(&mut self, packet_id: PacketId) {
        let Some(active) = self.active.as_mut() else { return };
        let flags = active.held.get(packet_id);
        if flags != 0 {
            active.held.insert(packet_id, (flags & !PENDING) | HELD);
        }
    }

    /// The flow ended with an error: the identifier is free again.
    pub(super) fn forget_held(&mut self, packet_id: PacketId) {
        let Some(active) = self.active.as_mut() else { return };
        let flags = active.held.remove(packet_id);
        if flags & CHARGED != 0 {
            self.link.charged -= 1;
        }
        if flags != 0 {
            self.note_released_inbound(packet_id);
        }
    }

    /// The refusal of a message could not be told; the identifier is free in the store.
    pub(super) fn hold_refusal(&mut self, packet_id: PacketId) {
        self.active_mut().held.insert(packet_id, REFUSED);
    }

    /// Whether a second PUBREC is still wanted when its turn comes.
    pub(super) fn take_again(&mut self, packet_id: PacketId) -> bool {
        let Some(active) = self.active.as_mut() else { return false };
        let flags = active.held.get(packet_id);
        if flags & AGAIN != 0 {
            active.held.insert(packet_id, flags & !AGAIN);
        }
        flags & (AGAIN | HELD) == AGAIN | HELD
    }

    /// A new connection starts with its full quota [MQTT-4.9.0-1].
    pub(super) fn uncharge_all(&mut self) {
        self.link.charged = 0;
        if let Some(active) = self.active.as_mut() {
            active.held.for_each(|flags| *flags &= !(CHARGED | AGAIN));
        }
    }

    fn repeat_qos2<S: Sink>(&mut self, packet_id: PacketId, dup: bool, sink: &mut S) -> bool {
        let Some(active) = self.active.as_mut() else { return false };
        let flags = active.held.get(packet_id);
        if flags == 0 {
            return false;
        }
        if flags == REFUSED {
            return self.refuse_again_if(dup, packet_id, sink);
        }
        let mut now = flags | CHARGED;
        if flags & PENDING != 0 {
            active.arm(QoS::ExactlyOnce, packet_id);
            self.link.doubtful |= !self.link.version.is_v5();
        } else if active.gate.is_empty() {
            sink.ack(AckKind::PubRec, packet_id, ReasonCode::Success);
        } else if flags & AGAIN == 0 {
            now |= AGAIN;
            active.append(What::PubRecAgain(packet_id), 0, 0);
        }
        active.held.insert(packet_id, now);
        self.link.charged += u32::from(flags & CHARGED == 0);
        true
    }

    /// A PUBLISH under an identifier whose refusal could not be told: it is told now to who repeats it.
    #[cold]
    fn refuse_again_if<S: Sink>(&mut self, dup: bool, packet_id: PacketId, sink: &mut S) -> bool {
        let is_repeated = dup && self.version().is_v5();
        let active = self.active_mut();
        active.held.remove(packet_id);
        if is_repeated {
            let number = active.last_number();
            let outcome = PublishOutcome { number, unstored: true, ..PublishOutcome::UNMATCHED };
            // 5.0 is told, and goes on.
            let _ = self.finish_publish(QoS::ExactlyOnce, packet_id, outcome, sink);
        }
        is_repeated
    }

    #[cold]
    fn repeat_qos1(&mut self, packet_id: PacketId) -> bool {
        let Some(active) = self.active.as_mut() else { return false };
        let Some(newly) = active.arm(QoS::AtLeastOnce, packet_id) else { return false };
        self.link.charged += u32::from(newly);
        self.link.doubtful |= !self.link.version.is_v5();
        true
    }
}

/// Identifiers with flags: open addressing. Clients count upwards, and multiplying by the golden
/// ratio lays a run of numbers out evenly, so there is hardly a collision and always a gap near
/// by. A connection adds no more than the Receive Maximum, but the next one may add as many again. With
/// every identifier there is, the table takes 512 KiB.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// Identifier in the low half, flags above; 0 is free. A power of two long, or empty.
    table: Vec<u32>,
    len: usize,
}

impl Held {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The flags of `id`; 0 when it is not there.
    #[inline]
    pub(super) fn get(&self, id: PacketId) -> u8 {
        self.find(id).map_or(0, |(_, word)| flags_of(word))
    }

    /// Sets the flags of `id`, which are not 0.
    #[inline]
    pub(super) fn insert(&mut self, id: PacketId, flags: u8) {
        let word = u32::from(id.get()) | u32::from(flags) << 16;
        if let Some((at, _)) = self.find(id) {
            self.set(at, word);
            return;
        }
        if (self.len + 1) * 2 > self.table.len() {
            self.grow();
        }
        self.place(word);
        self.len += 1;
    }

    /// Takes `id` out and gives its flags; 0 when it was not there.
    #[inline]
    pub(super) fn remove(&mut self, id: PacketId) -> u8 {
        let Some((mut hole, found)) = self.find(id) else { return 0 };
        self.len -= 1;
        // Shift back what was pushed beyond the hole, so that no tombstones are needed.
        let mask = self.table.len() - 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let word = self.word(at);
            if word == 0 {
                break;
            }
            let home = self.home(word);
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                self.set(hole, word);
                hole = at;
            }
        }
        self.set(hole, 0);
        flags_of(found)
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = PacketId> + '_ {
        let words = self.table.iter().filter(|word| **word != 0);
        words.filter_map(|word| PacketId::new((word & 0xFFFF) as u16))
    }

    fn for_each(&mut self, f: impl Fn(&mut u8)) {
        for word in self.table.iter_mut().filter(|word| **word != 0) {
            let mut flags = flags_of(*word);
            f(&mut flags);
            *word = (*word & 0xFFFF) | u32::from(flags) << 16;
        }
    }

    #[inline]
    fn find(&self, id: PacketId) -> Option<(usize, u32)> {
        let mask = self.table.len().checked_sub(1)?;
        let mut at = self.home(id.get().into());
        loop {
            match self.word(at) {
                0 => return None,
                word if word & 0xFFFF == u32::from(id.get()) => return Some((at, word)),
                _ => at = (at + 1) & mask,
            }
        }
    }

    fn place(&mut self, word: u32) {
        let mask = self.table.len() - 1;
        let mut at = self.home(word);
        while self.word(at) != 0 {
            at = (at + 1) & mask;
        }
        self.set(at, word);
    }

    #[cold]
    fn grow(&mut self) {
        let len = (self.table.len() * 2).max(8);
        for word in std::mem::replace(&mut self.table, vec![0; len]) {
            if word != 0 {
                self.place(word);
            }
        }
    }

    /// Where the identifier of `word` is looked for first. The table is not empty.
    #[inline]
    fn home(&self, word: u32) -> usize {
        let hash = (word & 0xFFFF).wrapping_mul(0x9E37_79B1);
        (hash >> (u32::BITS - self.table.len().trailing_zeros())) as usize
    }

    #[inline]
    fn word(&self, at: usize) -> u32 {
        self.table.get(at).copied().unwrap_or(0)
    }

    #[inline]
    fn set(&mut self, at: usize, word: u32) {
        if let Some(slot) = self.table.get_mut(at) {
            *slot = word;
        }
    }
}

#[inline]
fn flags_of(word: u32) -> u8 {
    word.to_be_bytes()[1]
}
