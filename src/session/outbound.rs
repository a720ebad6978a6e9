//! Messages to the client: in flight, queued, sent again.

use std::num::NonZeroU16;

use super::alias::AliasUse;
use super::durable::{
    answer, answer_again, note_acknowledged, note_dropped_oldest, note_freed, note_in_flight,
    note_queued, note_released, note_removed, waits,
};
use super::limits::{DropCause, SessionLimits};
use super::link::Link;
use super::queue::{Entry, Queue};
use super::window::Slot;
use super::{Active, Session, Sink};
use crate::mqtt::{
    AckKind, DecodeError, Message, PacketId, PublishOut, QoS, ReasonCode, publish_len,
};
use crate::timer::Time;

/// One message for one session.
#[derive(Clone, Copy, Debug)]
pub struct Delivery<'a> {
    /// The message; the session takes a reference of its own if it keeps it.
    pub message: &'a Message,
    /// The QoS to deliver at: the smaller of those granted and published.
    pub qos: QoS,
    /// The RETAIN flag to deliver with.
    pub retain: bool,
    /// Every Subscription Identifier to deliver with [MQTT-3.3.4-3].
    pub identifiers: &'a [u32],
    /// The shared group whose member the session is for this message; not `u32::MAX`.
    pub group: Option<u32>,
}

/// What became of a [`Delivery`].
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// Written to the connection.
    Sent,
    /// In the queue.
    Queued,
    /// Not taken, because the queue is full, nor counted: [make room](Session::make_room) and try again, or
    /// choose what to do, and [count](Session::count_drops) the drop if it is one.
    Full,
    /// Dropped, and counted.
    Dropped(DropCause),
}

/// What an acknowledgement from the client did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Acked {
    /// It ended a flow: there is room in the window, and maybe in the queue.
    Done,
    /// It took a QoS 2 flow to its second half.
    Released,
    /// Its identifier was unknown; it was answered or ignored as the specification has it.
    Unknown,
}

/// How a QoS 0 message may be written without the session's help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direct {
    /// As it is: in the same bytes as for any receiver of this version and these flags.
    Plain,
    /// Naming the topic by that alias: `First` or `Known`, which counts as sent.
    Alias(AliasUse),
    /// Not at all: larger than the client's Maximum Packet Size. Counted.
    TooLarge,
    /// Not directly: use [`Session::deliver`].
    Deliver,
}

impl Session {
    /// Hands the session a message. `sink` is the connection, if there is one.
    ///
    /// QoS 1 and 2 are sent in the order of the calls; QoS 0 among itself, too.
    #[inline]
    pub fn deliver<S: Sink>(
        &mut self,
        delivery: Delivery<'_>,
        now: Time,
        sink: Option<&mut S>,
        limits: &SessionLimits,
    ) -> Delivered {
        if delivery.message.is_expired(now) && !delivery.message.is_for_now() {
            return self.dropped(DropCause::Expired);
        }
        match sink {
            Some(sink) if self.link.live => {
                if delivery.qos == QoS::AtMostOnce {
                    return self.deliver_qos0(&delivery, now, sink, limits);
                }
                let (size, window) = (delivery.message.size(), self.link.window);
                let idle = self
                    .active
                    .as_ref()
                    .is_none_or(|a| a.queue.is_empty() && a.window.has_room(size, window));
                if idle && sink.has_room() {
                    return self.send_new(&delivery, now, sink);
                }
            }
            _ => {
                if delivery.qos == QoS::AtMostOnce && !limits.queue_qos0 {
                    return self.dropped(DropCause::Offline);
                }
            }
        }
        self.enqueue(&delivery, limits)
    }

    /// How a QoS 0 message on `topic`, whose frame without an alias takes `frame_len` bytes, may
    /// be written straight to the connection. The answer `Alias(First(..))` is remembered: the
    /// caller must write it.
    #[inline]
    pub fn direct(&mut self, topic: &[u8], frame_len: usize) -> Direct {
        let waiting = self.active.as_ref().is_some_and(|active| active.queue.has_qos0());
        if waiting || !self.link.live {
            return Direct::Deliver;
        }
        if self.link.is_plain() {
            return Direct::Plain;
        }
        self.direct_minding(topic, frame_len)
    }

    fn direct_minding(&mut self, topic: &[u8], frame_len: usize) -> Direct {
        // An alias takes 3 bytes, and may make either length field longer by one.
        const ALIAS_LEN: usize = 3 + 2;
        let maximum = self.link.maximum_packet_size as usize;
        match self.link.plan_alias(topic) {
            AliasUse::Known(alias)
                if (frame_len + ALIAS_LEN).saturating_sub(topic.len()) <= maximum =>
            {
                Direct::Alias(AliasUse::Known(alias))
            }
            AliasUse::First(alias) if frame_len + ALIAS_LEN <= maximum => {
                self.link.assign_alias(topic, alias);
                Direct::Alias(AliasUse::First(alias))
            }
            _ if frame_len <= maximum => Direct::Plain,
            _ => {
                self.drops.record(DropCause::PacketTooLarge);
                Direct::TooLarge
            }
        }
    }

    /// Takes PUBACK: the end of a QoS 1 flow, whatever its reason code.
    ///
    /// # Errors
    /// 0x82 for the identifier of a QoS 2 message.
    #[inline]
    pub fn puback<S: Sink>(
        &mut self,
        packet_id: PacketId,
        now: Time,
        sink: &mut S,
    ) -> Result<Acked, DecodeError> {
        let Self { active, durable, .. } = self;
        let Some(active) = active.as_mut() else { return Ok(Acked::Unknown) };
        if durable.is_some() || !active.window.ack_oldest(packet_id) {
            match active.window.get_mut(packet_id) {
                None => return Ok(Acked::Unknown),
                Some(Slot::Publish(p)) if p.qos == QoS::AtLeastOnce => {}
                Some(_) => return Err(DecodeError::protocol("PUBACK for a QoS 2 message")),
            }
            note_acknowledged(durable, &active.window.remove(packet_id));
        }
        self.pump(now, sink);
        Ok(Acked::Done)
    }

    /// Takes PUBREC: answers with PUBREL, or ends the flow if `reason` is an error
    /// [MQTT-4.3.3-4]. An unknown identifier is answered with PUBREL, too: with 0x92 in 5.0.
    ///
    /// # Errors
    /// 0x82 for the identifier of a QoS 1 message.
    #[inline]
    pub fn pubrec<S: Sink>(
        &mut self,
        packet_id: PacketId,
        reason: ReasonCode,
        now: Time,
        sink: &mut S,
    ) -> Result<Acked, DecodeError> {
        let is_v5 = self.version().is_v5();
        let slot = self.active.as_mut().and_then(|active| {
            let Active { window, .. } = &mut **active;
            window.get_mut(packet_id).map(|slot| match slot {
                Slot::Publish(p) => p.qos,
                Slot::Release(_) | Slot::Free => QoS::AtMostOnce,
            })
        });
        match slot {
            None if reason.is_error() => return Ok(Acked::Unknown),
            None => {
                let reason = match is_v5 {
                    true => ReasonCode::PacketIdentifierNotFound,
                    false => ReasonCode::Success,
                };
                sink.ack(AckKind::PubRel, packet_id, reason);
                return Ok(Acked::Unknown);
            }
            Some(QoS::AtLeastOnce) => {
                return Err(DecodeError::protocol("PUBREC for a QoS 1 message"));
            }
            Some(_) if reason.is_error() => {
                self.free(packet_id);
                self.pump(now, sink);
                return Ok(Acked::Done);
            }
            Some(QoS::ExactlyOnce) => {
                if let Some(active) = self.active.as_mut()
                    && let Some(entry) = active.window.release(packet_id, millis(now))
                {
                    note_released(&mut self.durable, &entry, packet_id);
                }
            }
            // PUBREL was sent already, or waits; the PUBREC was sent again.
            Some(QoS::AtMostOnce) => {
                let (kind, reason) = (AckKind::PubRel, ReasonCode::Success);
                answer_again(&self.durable, kind, packet_id, reason, sink);
                return Ok(Acked::Released);
            }
        }
        answer(&mut self.durable, AckKind::PubRel, packet_id, sink);
        Ok(Acked::Released)
    }

    /// Takes PUBCOMP: the end of a QoS 2 flow, whatever its reason code.
    ///
    /// # Errors
    /// 0x82 for the identifier of a message whose PUBREL was not sent.
    #[inline]
    pub fn pubcomp<S: Sink>(
        &mut self,
        packet_id: PacketId,
        now: Time,
        sink: &mut S,
    ) -> Result<Acked, DecodeError> {
        let Some(active) = self.active.as_mut() else { return Ok(Acked::Unknown) };
        match active.window.get_mut(packet_id) {
            None => return Ok(Acked::Unknown),
            Some(Slot::Release(_)) => {}
            Some(_) => return Err(DecodeError::protocol("PUBCOMP before PUBREL")),
        }
        note_freed(&self.durable, &active.window.remove(packet_id));
        self.pump(now, sink);
        Ok(Acked::Done)
    }

    /// Starts sending on a new connection, after CONNACK: PUBRELs in the order of their PUBRECs
    /// [MQTT-4.6.0-4], then PUBLISHes with DUP in their order [MQTT-4.4.0-1] [MQTT-4.6.0-1] as far
    /// as the window allows, then the queue. To be called for a new session, too.
    pub fn resume<S: Sink>(&mut self, now: Time, sink: &mut S) {
        self.link.live = true;
        let Some(active) = self.active.as_mut() else { return };
        for packet_id in active.window.start_resend() {
            if let Some(Slot::Release(release)) = active.window.get_mut(packet_id) {
                release.sent_at_ms = millis(now);
            }
            sink.ack(AckKind::PubRel, packet_id, ReasonCode::Success);
        }
        self.pump(now, sink);
    }

    /// Sends what waits, as far as the window and the connection's output have room. The session
    /// does so itself after acknowledgements; call it when the output has drained.
    #[inline]
    pub fn pump<S: Sink>(&mut self, now: Time, sink: &mut S) {
        let Some(active) = self.active.as_mut() else { return };
        if self.link.live && (active.window.has_unsent() || !active.queue.is_empty()) {
            self.pump_waiting(now, sink);
        }
    }

    fn pump_waiting<S: Sink>(&mut self, now: Time, sink: &mut S) {
        self.pump_memory(now, sink);
        self.ask_page();
    }

    fn pump_memory<S: Sink>(&mut self, now: Time, sink: &mut S) {
        let Self { active, link, drops, durable, .. } = self;
        let Some(active) = active.as_mut() else { return };
        let mut drop_one = |sink: &mut S, cause| {
            drops.record(cause);
            sink.dropped(cause);
        };
        while sink.may_pump()
            && let Some(packet_id) = active.window.next_resend(link.window)
        {
            let Some(Slot::Publish(p)) = active.window.get_mut(packet_id) else { continue };
            p.sent_at_ms = millis(now);
            if let Err(cause) = write(link, &p.delivery(), Some(packet_id), true, now, sink) {
                note_freed(durable, &active.window.remove(packet_id));
                drop_one(sink, cause);
            }
        }
        while let Some(front) = active.queue.front() {
            let qos0 = front.qos == QoS::AtMostOnce;
            let size = front.message.size();
            if !(qos0 || active.window.has_room(size, link.window)) || !sink.may_pump() {
                return;
            }
            let Some(mut entry) = active.queue.pop() else { return };
            entry.sent_at_ms = millis(now);
            let packet_id = (!qos0).then(|| active.window.next_id());
            let written = match entry.message.is_expired(now) {
                true => Err(DropCause::Expired),
                false if packet_id.is_some_and(|id| waits(durable, entry.qos, id)) => Ok(()),
                false => write(link, &entry.delivery(), packet_id, false, now, sink),
            };
            match written {
                Err(cause) => {
                    note_removed(durable, &entry);
                    drop_one(sink, cause);
                }
                Ok(()) => {
                    if let Some(packet_id) = packet_id {
                        note_in_flight(durable, &mut entry, packet_id);
                        active.window.insert(entry);
                    }
                }
            }
        }
    }

    /// Whether [`deliver`](Self::deliver) at QoS 1 or 2 would take a message of `size` bytes
    /// (by [`Message::size`]).
    #[must_use]
    pub fn has_room(&self, size: usize, limits: &SessionLimits) -> bool {
        match &self.active {
            Some(active) => {
                let at_once = self.link.live
                    && active.queue.is_empty()
                    && active.window.has_room(size, self.link.window);
                at_once || active.queue.has_room(size, limits)
            }
            None => {
                self.link.live
                    || (limits.max_queued_messages > 0 && size as u64 <= limits.max_queued_bytes)
            }
        }
    }

    /// Whether the queue takes nothing more.
    #[must_use]
    pub fn is_full(&self, limits: &SessionLimits) -> bool {
        !self.has_room(1, limits)
    }

    /// Drops from the front of the queue, counted as [`DropCause::QueueFull`], until a message of
    /// `size` bytes fits; nothing at all if it would not fit an empty one. Gives how many it
    /// dropped.
    pub fn drop_oldest(&mut self, size: usize, limits: &SessionLimits) -> u32 {
        if limits.max_queued_messages == 0 || size as u64 > limits.max_queued_bytes {
            return 0;
        }
        self.drop_while(|queue| !queue.has_room(size, limits))
    }

    /// Drops from the front of a queue that was let grow beyond its limits, until it is within
    /// them; counted as [`DropCause::QueueFull`]. Gives how many it dropped.
    pub fn trim_oldest(&mut self, limits: &SessionLimits) -> u32 {
        self.drop_while(|queue| queue.exceeds(limits))
    }

    fn drop_while(&mut self, is_too_long: impl Fn(&Queue) -> bool) -> u32 {
        let mut dropped = 0;
        let Some(active) = self.active.as_mut() else { return dropped };
        while is_too_long(&active.queue)
            && let Some(entry) = active.queue.pop()
        {
            note_removed(&self.durable, &entry);
            self.drops.record(DropCause::QueueFull);
            dropped += 1;
        }
        // Who is away is sent nothing before all of this is committed.
        if dropped > 0 && self.link.connected {
            note_dropped_oldest(&mut self.durable);
        }
        if is_too_long(&active.queue) {
            self.drop_from_disk();
        }
        dropped
    }

    fn deliver_qos0<S: Sink>(
        &mut self,
        delivery: &Delivery<'_>,
        now: Time,
        sink: &mut S,
        limits: &SessionLimits,
    ) -> Delivered {
        if self.active.as_ref().is_some_and(|active| active.queue.has_qos0()) {
            return match self.enqueue(delivery, limits) {
                Delivered::Full => self.dropped(DropCause::QueueFull),
                queued => queued,
            };
        }
        if !sink.has_room() {
            return self.dropped(DropCause::SlowReader);
        }
        match write(&mut self.link, delivery, None, false, now, sink) {
            Ok(()) => Delivered::Sent,
            Err(cause) => self.dropped(cause),
        }
    }

    #[inline]
    fn send_new<S: Sink>(&mut self, delivery: &Delivery<'_>, now: Time, sink: &mut S) -> Delivered {
        let Self { active, link, durable, queued_bytes, .. } = self;
        let active = active.get_or_insert_with(|| Active::new(queued_bytes.clone()));
        let packet_id = active.window.next_id();
        if waits(durable, delivery.qos, packet_id) {
            let mut entry = Entry::new(delivery, millis(now));
            note_queued(durable, &mut entry, Some(packet_id));
            active.window.insert(entry);
            return Delivered::Sent;
        }
        match write(link, delivery, Some(packet_id), false, now, sink) {
            Ok(()) => {
                let mut entry = Entry::new(delivery, millis(now));
                note_queued(durable, &mut entry, Some(packet_id));
                active.window.insert(entry);
                Delivered::Sent
            }
            Err(cause) => self.dropped(cause),
        }
    }

    fn enqueue(&mut self, delivery: &Delivery<'_>, limits: &SessionLimits) -> Delivered {
        if delivery.message.is_for_now() {
            return self.dropped(DropCause::Expired);
        }
        let Self { active, durable, queued_bytes, .. } = self;
        let queue = &mut active.get_or_insert_with(|| Active::new(queued_bytes.clone())).queue;
        let size = delivery.message.size();
        let full = !queue.has_room(size, limits);
        if full && !queue.takes_excess() {
            return Delivered::Full;
        }
        if let Some(durable) = durable
            && queue.pages(size, limits.in_memory)
        {
            if delivery.qos == QoS::AtMostOnce {
                // It is not stored, and memory is for what comes before.
                return self.dropped(DropCause::QueueFull);
            }
            let place = durable.page_out(delivery);
            queue.page_out(place, delivery.message, delivery.group.is_some(), full);
            return Delivered::Queued;
        }
        let mut entry = Entry::new(delivery, 0);
        note_queued(durable, &mut entry, None);
        queue.push(entry);
        Delivered::Queued
    }

    #[cold]
    fn dropped(&mut self, cause: DropCause) -> Delivered {
        self.drops.record(cause);
        Delivered::Dropped(cause)
    }

    fn free(&mut self, packet_id: PacketId) {
        if let Some(active) = self.active.as_mut() {
            note_freed(&self.durable, &active.window.remove(packet_id));
        }
    }
}

/// Writes a PUBLISH, unless it is larger than the client takes.
#[inline]
pub(super) fn write<S: Sink>(
    link: &mut Link,
    delivery: &Delivery<'_>,
    packet_id: Option<PacketId>,
    dup: bool,
    now: Time,
    sink: &mut S,
) -> Result<(), DropCause> {
    let message = delivery.message;
    let publish = PublishOut {
        dup,
        qos: delivery.qos,
        retain: delivery.retain,
        topic: message.topic_bytes(),
        packet_id,
        properties: message.properties(),
        message_expiry_interval: message.message_expiry_interval(now),
        topic_alias: None,
        subscription_identifiers: delivery.identifiers,
        payload: message.payload(),
    };
    if link.is_plain() {
        sink.publish(&publish, message);
        return Ok(());
    }
    write_minding(link, publish, message, sink)
}

/// As [`write`], minding aliases and size. An alias is assigned only when its packet is sent.
fn write_minding<'a, S: Sink>(
    link: &mut Link,
    mut publish: PublishOut<'a>,
    message: &'a Message,
    sink: &mut S,
) -> Result<(), DropCause> {
    let maximum = link.maximum_packet_size as usize;
    let fits = |publish: &PublishOut<'_>| {
        maximum == u32::MAX as usize || publish_len(link.version, publish) <= maximum
    };
    let mut first: Option<NonZeroU16> = None;
    match link.plan_alias(publish.topic) {
        AliasUse::None => {}
        AliasUse::Known(alias) => {
            publish.topic = b"";
            publish.topic_alias = Some(alias);
        }
        AliasUse::First(alias) => {
            publish.topic_alias = Some(alias);
            first = Some(alias);
        }
    }
    if !fits(&publish) {
        // A short topic may be shorter than its alias.
        publish.topic = message.topic_bytes();
        publish.topic_alias = None;
        first = None;
        if !fits(&publish) {
            return Err(DropCause::PacketTooLarge);
        }
    }
    if let Some(alias) = first {
        link.assign_alias(publish.topic, alias);
    }
    sink.publish(&publish, message);
    Ok(())
}

/// The truncated clock that slots keep.
#[inline]
pub(super) fn millis(now: Time) -> u32 {
    (now.0 & u64::from(u32::MAX)) as u32
}
