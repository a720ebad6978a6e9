//! What a session that is stored has beside others: its number, its journal, and patience.
//!
//! A QoS 2 message must not be sent to the client before it is stored under its identifier: after a
//! crash the client would be sent it anew, under another one. Nor must PUBREL, or the client, which
//! forgets the identifier then, would take the message for a new one; nor PUBCOMP, or the next message
//! under the identifier would be taken for the old one. QoS 1 may come twice, and goes at once unless
//! that would change the order: what was dropped to make room would come back behind it.

use std::collections::{BTreeSet, VecDeque};

use super::change::{
    CameBy, Change, IdentityRecord, PageRequest, Paged, QueuedRecord, SessionNumber, SessionRecord,
    SubscriptionRecord, Waiter,
};
use super::journal::{Journal, Noted};
use super::limits::{DropCause, InMemory};
use super::outbound::{Delivery, millis, write};
use super::queue::{Entry, OnDisk};
use super::window::{Release, Slot};
use super::{Session, Sink};
use crate::mqtt::{AckKind, Message, PacketId, QoS, ReasonCode};
use crate::timer::Time;

#[derive(Debug)]
pub(super) struct Durable {
    number: SessionNumber,
    waiter: Waiter,
    journal: Journal,
    in_memory: InMemory,
    next_place: u64,
    /// In the window and not sent: with the turn that has to be committed first.
    uncommitted: VecDeque<(u64, PacketId)>,
    /// PUBREL and PUBCOMP that wait for a commit in the same way.
    answers: VecDeque<(u64, AckKind, PacketId)>,
    /// The last turn in which messages were dropped that came before all that is sent since, until it is
    /// committed.
    dropped: Option<u64>,
    /// The last turn in which it was noted that the client has a message that is stored: before that is committed a
    /// crash has it sent once more.
    repeats_until: u64,
}

/// How the journal of a session that may have none is written.
pub(super) type Noter = Option<Box<Durable>>;

impl Durable {
    /// Notes a message that is new to the session, and gives it a place.
    fn queued(&mut self, entry: &mut Entry, packet_id: Option<PacketId>) {
        let (place, noted) = self.note(&entry.delivery(), packet_id, false);
        entry.set_place(place, noted);
    }

    /// Notes a message that is new to the session; gives its place, and where that was noted if it may be taken back.
    fn note(
        &mut self,
        delivery: &Delivery<'_>,
        packet_id: Option<PacketId>,
        paged: bool,
    ) -> (u64, Option<Noted>) {
        let place = self.next_place;
        self.next_place += 1;
        let record = QueuedRecord {
            message: delivery.message.clone(),
            qos: delivery.qos,
            retain: delivery.retain,
            packet_id,
            number: 0,
            paged,
            came_by: CameBy::new(delivery.identifiers, delivery.group, None),
        };
        (place, self.journal.note(Change::Queued(self.number, place, record)))
    }

    /// Notes a message that the session keeps in the store only, and gives its place.
    pub(super) fn page_out(&mut self, delivery: &Delivery<'_>) -> u64 {
        self.note(delivery, None, true).0
    }

    /// How much of the queue is in memory.
    pub(super) fn in_memory(&self) -> InMemory {
        self.in_memory
    }

    /// Asks for what comes next of the queue.
    pub(super) fn ask_page(&self, disk: &OnDisk, messages: u32, bytes: u64) {
        self.ask(disk, disk.paged.first, (messages, bytes), None);
    }

    /// Asks for the removal of what has expired, of so many messages from a place on.
    pub(super) fn ask_to_expire(&self, disk: &OnDisk, from: u64, messages: u32, by: Time) {
        self.ask(disk, from, (messages, 0), Some(by));
    }

    fn ask(&self, disk: &OnDisk, from: u64, most: (u32, u64), expired_by: Option<Time>) {
        let (session, waiter, (messages, bytes)) = (self.number, self.waiter, most);
        let in_flight = disk.in_flight.clone();
        let passes_on = false;
        self.journal.ask(PageRequest {
            session,
            from,
            messages,
            bytes,
            expired_by,
            in_flight,
            passes_on,
            waiter,
        });
    }

    /// That a message is not the session's any more, if it was stored.
    fn removal(&self, entry: &Entry) -> Option<Change> {
        let (place, flew) = entry.place()?;
        let (session, message, number) = (self.number, entry.message.clone(), entry.number());
        Some(Change::Removed { session, place, message, number, flew })
    }

    /// Notes that a message is not the session's any more.
    fn gone(&self, entry: &Entry) {
        if let Some(removal) = self.removal(entry) {
            self.journal.note(removal);
        }
    }

    /// What is sent from now on waits until this turn is committed, which it gives.
    fn note_dropped(&mut self) -> u64 {
        let turn = self.journal.wait(self.waiter);
        self.dropped = Some(turn);
        turn
    }

    /// Notes that a message that was read just now is not the session's any more.
    pub(super) fn removed(&self, place: u64, message: Message, number: u64) {
        let (session, flew) = (self.number, false);
        self.journal.note(Change::Removed { session, place, message, number, flew });
    }
}

/// Notes a message that is new to the session: in flight if it has an identifier.
#[inline]
pub(super) fn note_queued(durable: &mut Noter, entry: &mut Entry, packet_id: Option<PacketId>) {
    if let Some(durable) = durable
        && entry.qos != QoS::AtMostOnce
    {
        durable.queued(entry, packet_id);
    }
}

/// Notes that a queued message is in flight.
pub(super) fn note_in_flight(durable: &mut Noter, entry: &mut Entry, packet_id: PacketId) {
    if let Some(durable) = durable
        && let Some(place) = entry.set_flew()
    {
        let change = Change::InFlight(durable.number, place, packet_id);
        if entry.qos == QoS::ExactlyOnce {
            durable.journal.note(change);
        } else {
            // It is sent at once, and its publisher waits for what was noted before.
            durable.journal.note_unawaited(change);
        }
    }
}

/// Notes that a message is not the session's any more.
#[inline]
pub(super) fn note_removed(durable: &Noter, entry: &Entry) {
    if let Some(durable) = durable {
        durable.gone(entry);
    }
}

/// Notes that the client has acknowledged what was in a slot: nobody needs it any more, so what nobody has
/// begun to commit is as if it had never been. What goes to somebody else must not be taken back: who
/// published it may be told of the commit of the one turn before that of the other.
#[inline]
pub(super) fn note_acknowledged(durable: &mut Noter, slot: &Slot) {
    let (Some(stored), Slot::Publish(entry)) = (durable.as_mut(), slot) else {
        return note_freed(durable, slot);
    };
    if let Some(noted) = entry.noted()
        // Of one that was told to be in flight something else was noted, too.
        && entry.place().is_some_and(|(_, flew)| !flew)
        && stored.journal.take_back(noted, stored.repeats_until)
    {
        return;
    }
    if let Some(removal) = stored.removal(entry) {
        stored.repeats_until = stored.journal.note_unawaited(removal);
    }
}

/// Notes what was in a slot that is free now.
#[inline]
pub(super) fn note_freed(durable: &Noter, slot: &Slot) {
    let Some(stored) = durable else { return };
    match slot {
        Slot::Publish(entry) => note_removed(durable, entry),
        Slot::Release(Release { place, .. }) if *place != 0 => {
            stored.journal.note_unawaited(Change::Completed(stored.number, *place));
        }
        Slot::Release(_) | Slot::Free => {}
    }
}

/// Notes that the client has a message that was in flight.
pub(super) fn note_released(durable: &mut Noter, entry: &Entry, packet_id: PacketId) {
    if let Some(durable) = durable
        && let Some((place, flew)) = entry.place()
    {
        let order = durable.next_place;
        durable.next_place += 1;
        let (session, message, number) = (durable.number, entry.message.clone(), entry.number());
        durable.journal.note(Change::Released {
            session,
            place,
            message,
            number,
            packet_id,
            order,
            flew,
        });
    }
}

/// Whether this message has to be committed before it is sent, or waits behind one that has to be.
#[inline]
pub(super) fn waits(durable: &mut Noter, qos: QoS, packet_id: PacketId) -> bool {
    match durable {
        Some(durable)
            if qos == QoS::ExactlyOnce
                || !durable.uncommitted.is_empty()
                || durable.dropped.is_some() =>
        {
            let turn = durable.journal.wait(durable.waiter);
            durable.uncommitted.push_back((turn, packet_id));
            true
        }
        _ => false,
    }
}

/// The oldest messages were dropped: what is sent from now on waits until that is committed.
pub(super) fn note_dropped_oldest(durable: &mut Noter) {
    if let Some(durable) = durable {
        durable.note_dropped();
    }
}

/// Sends PUBREL or PUBCOMP: at once, or for a session that is stored when what it is for is committed.
#[inline]
pub(super) fn answer<S: Sink>(
    durable: &mut Noter,
    kind: AckKind,
    packet_id: PacketId,
    sink: &mut S,
) {
    match durable {
        Some(durable) => {
            let turn = durable.journal.wait(durable.waiter);
            durable.answers.push_back((turn, kind, packet_id));
        }
        None => sink.ack(kind, packet_id, ReasonCode::Success),
    }
}

/// Sends PUBREL or PUBCOMP for what was answered before: at once, unless that answer waits, which is one to
/// both. Or else the client would forget the identifier before that is committed, and answers to a client
/// that asks again and again would pile up.
pub(super) fn answer_again<S: Sink>(
    durable: &Noter,
    kind: AckKind,
    packet_id: PacketId,
    reason: ReasonCode,
    sink: &mut S,
) {
    let waits = |durable: &Durable| {
        durable.answers.iter().any(|(_, of, id)| (*of, *id) == (kind, packet_id))
    };
    if !durable.as_deref().is_some_and(waits) {
        sink.ack(kind, packet_id, reason);
    }
}

/// What stands at a place of a session that was stored.
#[derive(Debug)]
pub enum Restored {
    /// A message; in flight if it has an identifier.
    Message {
        /// As it was queued; [`Session::restore`] is to be given the group of this process in it.
        record: QueuedRecord,
        /// Whether it was noted to be in flight after it was queued.
        flew: bool,
    },
    /// The second half of a QoS 2 flow.
    Released {
        /// Its identifier.
        packet_id: PacketId,
        /// Its order among the PUBRELs.
        order: u64,
    },
}

impl Session {
    /// Has the session stored from now on, under a number of its own. `waiter` is told to
    /// [send](Self::send_committed) what was committed.
    pub fn store_as(
        &mut self,
        number: SessionNumber,
        waiter: Waiter,
        journal: Journal,
        in_memory: InMemory,
    ) {
        self.durable = Some(Box::new(Durable {
            number,
            waiter,
            journal,
            in_memory,
            next_place: 1,
            uncommitted: VecDeque::new(),
            answers: VecDeque::new(),
            dropped: None,
            repeats_until: 0,
        }));
    }

    /// Its number, if it is stored.
    #[must_use]
    pub fn number(&self) -> Option<SessionNumber> {
        self.durable.as_ref().map(|durable| durable.number)
    }

    /// Whether it is stored.
    #[inline]
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.durable.is_some()
    }

    /// Notes the session itself: it has connected, lost its connection, or given its Will away.
    pub fn note_session(
        &self,
        will_at: Option<Time>,
        identity: impl FnOnce() -> Option<IdentityRecord>,
    ) {
        let Some(durable) = &self.durable else { return };
        let record = SessionRecord {
            client_id: self.client_id.clone(),
            session: durable.number,
            session_expiry_interval: self.session_expiry_interval,
            disconnected_at: (!self.link.connected).then_some(self.disconnected_at),
            will: self.will.as_deref().cloned(),
            will_at,
            identity: identity(),
        };
        durable.journal.note(Change::Session(Box::new(record)));
    }

    /// Notes a subscription, new or with other options.
    pub fn note_subscribed(&self, record: impl FnOnce() -> SubscriptionRecord) {
        if let Some(durable) = &self.durable {
            durable.journal.note(Change::Subscribed(durable.number, Box::new(record())));
        }
    }

    /// Notes the end of a subscription; `filter` as in [`SubscriptionRecord`].
    pub fn note_unsubscribed(&self, filter: impl FnOnce() -> Box<str>) {
        if let Some(durable) = &self.durable {
            durable.journal.note(Change::Unsubscribed(durable.number, filter()));
        }
    }

    /// Notes the end of the session and of all it has but subscriptions; it is not stored any more.
    pub fn note_ended(&mut self) {
        let Some(active) = self.active.as_mut() else { return self.end_record() };
        for (_, slot) in active.window.in_order() {
            note_freed(&self.durable, slot);
        }
        for entry in active.queue.iter() {
            note_removed(&self.durable, entry);
        }
        if let Some(durable) = &self.durable {
            // What others shall have of it is read before.
            if let Some(disk) = active.queue.on_disk().filter(|disk| !disk.paged.shared) {
                durable.journal.note(Change::Forgotten(durable.number, disk.paged.first));
            }
            for id in active.held.ids() {
                durable.journal.note(Change::Freed(durable.number, id));
            }
        }
        self.end_record();
    }

    fn end_record(&mut self) {
        if let Some(durable) = self.durable.take() {
            durable.journal.note(Change::Ended { client_id: self.client_id.clone() });
        }
    }

    /// Sends what waited for the commit of its turn, up to `turn`, which is [settled](super::Journal::settle): whatever
    /// waits here keeps its turn from being so before it is committed.
    pub fn send_committed<S: Sink>(&mut self, turn: u64, now: Time, sink: &mut S) {
        let Self { active, link, drops, durable, .. } = self;
        let Some(stored) = durable.as_mut().filter(|_| link.live) else { return };
        stored.dropped = stored.dropped.filter(|dropped| *dropped > turn);
        while let Some((_, kind, id)) = stored.answers.pop_front_if(|(of, ..)| *of <= turn) {
            sink.ack(kind, id, ReasonCode::Success);
        }
        let Some(active) = active.as_mut() else { return };
        while let Some((_, packet_id)) = stored.uncommitted.pop_front_if(|(of, _)| *of <= turn) {
            let Some(Slot::Publish(entry)) = active.window.get_mut(packet_id) else { continue };
            entry.sent_at_ms = millis(now);
            // Its delivery has not begun [MQTT-3.3.2-5].
            let is_late = entry.message.is_expired(now) && !entry.message.is_for_now();
            let written = match is_late {
                true => Err(DropCause::Expired),
                false => write(link, &entry.delivery(), Some(packet_id), false, now, sink),
            };
            if let Err(cause) = written {
                if let Slot::Publish(entry) = active.window.remove(packet_id) {
                    stored.gone(&entry);
                }
                drops.record(cause);
                sink.dropped(cause);
                // What has an identifier comes again after a crash: nothing is sent before its end is committed.
                let end = stored.note_dropped();
                stored.uncommitted.iter_mut().for_each(|(of, _)| *of = end);
            }
        }
        self.pump(now, sink);
    }

    /// Takes in what was stored: what is in flight in the order of places, and that the rest is in the
    /// store. The session is as it was created, and [stored](Self::store_as).
    pub fn restore(
        &mut self,
        record: SessionRecord,
        inbound: &[PacketId],
        kept: Vec<(u64, Restored)>,
        paged: Paged,
        now: Time,
    ) {
        self.session_expiry_interval = record.session_expiry_interval;
        self.disconnected_at = record.disconnected_at.unwrap_or(now);
        self.will = record.will.map(Box::new);
        let active = self.active_mut();
        for id in inbound {
            active.held.insert(*id, super::inbound::HELD);
        }
        let mut next_place = 1;
        let (mut released, mut behind) = (Vec::new(), Vec::new());
        for (place, restored) in kept {
            next_place = place + 1;
            match restored {
                Restored::Message { record, flew } => {
                    let mut entry = Entry::restore(place, &record);
                    if place > paged.first {
                        behind.push(place);
                    }
                    if flew {
                        entry.set_flew();
                    }
                    match record.packet_id {
                        Some(id) => active.window.restore(id, Slot::Publish(entry)),
                        None => active.queue.push(entry),
                    }
                }
                Restored::Released { packet_id, order } => {
                    released.push((order, packet_id));
                    active.window.restore(packet_id, Slot::Release(Release::restored(place)));
                }
            }
        }
        released.sort_unstable();
        for (order, id) in released {
            next_place = next_place.max(order + 1);
            active.window.order_release(id);
        }
        active.queue.set_on_disk(paged, behind);
        if let Some(durable) = &mut self.durable {
            durable.next_place = next_place.max(paged.end);
        }
        self.shrink();
    }

    /// A connection has ended: what was not sent on it is sent again on the next, as all in flight.
    pub(super) fn forget_uncommitted(&mut self) {
        if let Some(durable) = &mut self.durable {
            durable.uncommitted = VecDeque::new();
            durable.answers = VecDeque::new();
            // The next one begins when all of this is committed.
            durable.dropped = None;
        }
    }

    pub(super) fn note_held(&self, packet_id: PacketId) {
        if let Some(durable) = &self.durable {
            durable.journal.note(Change::Held(durable.number, packet_id));
        }
    }

    pub(super) fn note_released_inbound(&self, packet_id: PacketId) {
        if let Some(durable) = &self.durable {
            durable.journal.note(Change::Freed(durable.number, packet_id));
        }
    }
}

impl Durable {
    /// The identifiers of what is in flight, and waits for its commit.
    pub(super) fn uncommitted(&self) -> BTreeSet<PacketId> {
        let released = self.answers.iter().filter(|(_, kind, _)| *kind == AckKind::PubRel);
        let released = released.map(|(.., id)| *id);
        self.uncommitted.iter().map(|(_, id)| *id).chain(released).collect()
    }
}
