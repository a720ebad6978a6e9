//! One message for one session of this shard: written to its connection, queued, or dropped and counted.

use crate::mqtt::{PublishOut, QoS, Version, encode_publish, encode_publish_head, publish_len};
use crate::net::ConnId;
use crate::router::{GroupId, SessionKey};
use crate::session::{AliasUse, Delivered, Delivery, Direct, DropCause};

use super::Core;
use super::connection::State;
use super::outbox::Place;
use super::parcel::Parcel;
use super::remote::Publisher;
use super::settings::OverflowOffline;

/// Whether a session has a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// It has it, or needs no more of it: at QoS 0 it never does.
    Yes,
    /// There was no room.
    No,
    /// The store fails.
    Unstored,
}

impl From<bool> for Kept {
    fn from(kept: bool) -> Self {
        if kept { Self::Yes } else { Self::No }
    }
}

/// The wire forms of one QoS 0 message, encoded once each: for 3.x and 5.0, with and without RETAIN.
#[derive(Default)]
pub(super) struct Forms([Option<(usize, usize)>; 4]);

/// What a member of a shared group gets, or a session with plain subscriptions.
pub(super) struct Share<'a> {
    pub(super) qos: QoS,
    pub(super) retain_as_published: bool,
    pub(super) identifiers: &'a [u32],
    pub(super) group: Option<GroupId>,
}

impl Share<'_> {
    pub(super) const AT_MOST_ONCE: Self =
        Self { qos: QoS::AtMostOnce, retain_as_published: false, identifiers: &[], group: None };
}

impl<S> Core<S> {
    /// Hands a session a message that nobody may have made an owned one of.
    pub(super) fn deliver_share(
        &mut self,
        parcel: &mut Parcel<'_>,
        key: SessionKey,
        share: &Share<'_>,
    ) -> Kept {
        if share.qos > QoS::AtMostOnce {
            return self.deliver(parcel, key, share);
        }
        self.deliver_at_most_once(parcel, key, share, &mut Forms::default());
        // Nobody asks for it to be kept.
        Kept::Yes
    }

    /// QoS 0: in the bytes that others get, too, where that is possible.
    pub(super) fn deliver_at_most_once(
        &mut self,
        parcel: &mut Parcel<'_>,
        key: SessionKey,
        share: &Share<'_>,
        forms: &mut Forms,
    ) {
        if parcel.is_expired(self.now) {
            // The session says what becomes of it.
            self.deliver(parcel, key, share);
            return;
        }
        let retain = parcel.retain && share.retain_as_published;
        let Some(slot) = self.sessions.get_mut(key) else { return };
        let connection = slot.connection.and_then(|id| Some((id, self.connections.get(id)?)));
        let live = connection.filter(|(_, connection)| connection.state == State::Connected);
        let Some((id, connection)) = live else {
            match self.settings.session.queue_qos0 {
                true => _ = self.deliver(parcel, key, share),
                false => self.count_drops(key, DropCause::Offline, 1),
            }
            return;
        };
        let version = connection.version;
        if connection.is_slow(self.settings.qos0_backlog_bytes) {
            slot.session.count_drops(DropCause::SlowReader, 1);
            self.stats.dropped[DropCause::SlowReader as usize].add(1);
            return;
        }
        let mut publish = parcel.out(retain);
        publish.subscription_identifiers = share.identifiers;
        let direct = if connection.minds_frames {
            slot.session.direct(parcel.topic.as_bytes(), publish_len(version, &publish))
        } else {
            Direct::Plain
        };
        match direct {
            Direct::Plain if share.identifiers.is_empty() => {
                let index = usize::from(version.is_v5()) << 1 | usize::from(retain);
                self.write_form(parcel, id, (version, &publish), &mut forms.0[index]);
            }
            Direct::Plain | Direct::Alias(_) => {
                match direct {
                    Direct::Alias(AliasUse::First(alias)) => publish.topic_alias = Some(alias),
                    Direct::Alias(AliasUse::Known(alias)) => {
                        publish.topic_alias = Some(alias);
                        publish.topic = b"";
                    }
                    _ => {}
                }
                let large = parcel.large(self.now);
                if let Some(mut out) = self.connections.out(id) {
                    out.publish_from(&publish, large);
                }
            }
            Direct::TooLarge => self.stats.dropped[DropCause::PacketTooLarge as usize].add(1),
            Direct::Deliver => _ = self.deliver(parcel, key, share),
        }
    }

    /// Writes a QoS 0 message to a connection in a form that is encoded when it is first needed.
    #[inline]
    fn write_form(
        &mut self,
        parcel: &mut Parcel<'_>,
        id: ConnId,
        (version, publish): (Version, &PublishOut<'_>),
        form: &mut Option<(usize, usize)>,
    ) {
        let large = parcel.large(self.now);
        let (start, end) = *form.get_or_insert_with(|| {
            let scratch = &mut self.connections.scratch;
            let start = scratch.len();
            match large {
                Some(_) => encode_publish_head(version, publish, scratch),
                None => encode_publish(version, publish, scratch),
            }
            (start, scratch.len())
        });
        let Some(mut out) = self.connections.out(id) else { return };
        out.frames(Place::Scratch, start, end, 1);
        if let Some(payload) = large {
            out.shared(payload);
        }
    }

    /// Hands a session a message in a form that outlives the turn.
    fn deliver(&mut self, parcel: &mut Parcel<'_>, key: SessionKey, share: &Share<'_>) -> Kept {
        let publisher = parcel.publisher;
        let retain = parcel.retain && share.retain_as_published;
        let message = parcel.message(self.now);
        let delivery = Delivery {
            message,
            qos: share.qos,
            retain,
            identifiers: share.identifiers,
            group: share.group.map(GroupId::index),
        };
        self.deliver_message(key, delivery, publisher)
    }

    /// Hands a session an owned message.
    pub(super) fn deliver_message(
        &mut self,
        key: SessionKey,
        delivery: Delivery<'_>,
        publisher: Publisher,
    ) -> Kept {
        let tight = self.tight_limits(key, delivery.message.size());
        let Some(slot) = self.sessions.get_mut(key) else { return Kept::No };
        if slot.session.is_stored() && delivery.qos > QoS::AtMostOnce && publisher.is_unstored {
            self.count_drops(key, DropCause::StoreFailed, 1);
            return Kept::Unstored;
        }
        let online = slot.connection;
        let mut out = online.and_then(|id| self.connections.live_out(id, &self.settings));
        let limits = tight.as_ref().unwrap_or(&self.settings.session);
        let mut delivered = slot.session.deliver(delivery, self.now, out.as_mut(), limits);
        if delivered == Delivered::Full {
            let expired = slot.session.make_room(delivery.message.size(), limits, self.now);
            self.stats.dropped[DropCause::Expired as usize].add(expired.into());
            delivered = slot.session.deliver(delivery, self.now, out.as_mut(), limits);
        }
        match delivered {
            Delivered::Sent => Kept::Yes,
            Delivered::Queued if online.is_none() => {
                self.arm_expiry(key);
                Kept::Yes
            }
            Delivered::Queued => {
                if slot.session.is_full(limits) {
                    let limits = *limits;
                    if !self.has_room(key, 1, &limits) {
                        self.became_full(key);
                    }
                }
                Kept::Yes
            }
            Delivered::Dropped(cause) => {
                self.count_dropped(key, cause, 1);
                (cause != DropCause::QueueFull).into()
            }
            Delivered::Full if online.is_some() => {
                self.deliver_to_full(key, delivery, publisher).into()
            }
            Delivered::Full => self.deliver_to_absent(key, delivery).into(),
        }
    }

    /// The queue of an absent session is full.
    fn deliver_to_absent(&mut self, key: SessionKey, delivery: Delivery<'_>) -> bool {
        match self.settings.overflow_offline {
            OverflowOffline::DropNewest => {
                self.misses(key, delivery.message.topic());
                false
            }
            OverflowOffline::DropOldest => self.deliver_instead_of_oldest(key, delivery),
            OverflowOffline::EndSession => {
                self.misses(key, delivery.message.topic());
                let Some(slot) = self.sessions.get(key) else { return false };
                self.doomed.push((key, slot.serial));
                if slot.session.is_stored() {
                    // A crash before its end is committed would bring it back without the message.
                    self.wait_for_commit();
                }
                false
            }
        }
    }

    /// Makes room at the front of a full queue; says whether the message has a place then.
    pub(super) fn deliver_instead_of_oldest(
        &mut self,
        key: SessionKey,
        delivery: Delivery<'_>,
    ) -> bool {
        let tight = self.tight_limits(key, delivery.message.size());
        let limits = tight.unwrap_or(self.settings.session);
        let Some(slot) = self.sessions.get_mut(key) else { return false };
        let dropped = slot.session.drop_oldest(delivery.message.size(), &limits);
        self.count_dropped(key, DropCause::QueueFull, dropped);
        let Some(slot) = self.sessions.get_mut(key) else { return false };
        let mut out = slot.connection.and_then(|id| self.connections.live_out(id, &self.settings));
        let delivered = slot.session.deliver(delivery, self.now, out.as_mut(), &limits);
        self.is_kept(key, delivery.message.topic(), delivered)
    }

    /// Counts what a session dropped of a message that had met a full queue before; says whether the
    /// session has it, or needs no more of it.
    pub(super) fn is_kept(&mut self, key: SessionKey, topic: &str, delivered: Delivered) -> bool {
        match delivered {
            Delivered::Sent => true,
            Delivered::Queued => {
                if self.sessions.get(key).is_some_and(|slot| slot.connection.is_none()) {
                    self.arm_expiry(key);
                }
                true
            }
            Delivered::Dropped(cause) => {
                self.count_dropped(key, cause, 1);
                true
            }
            Delivered::Full => {
                self.misses(key, topic);
                false
            }
        }
    }

    /// Counts messages that a session dropped, which it has counted itself.
    #[inline]
    pub(super) fn count_dropped(&mut self, key: SessionKey, cause: DropCause, count: u32) {
        self.stats.dropped[cause as usize].add(count.into());
        if cause == DropCause::QueueFull
            && count > 0
            && let Some(slot) = self.sessions.get(key)
            && slot.session.drops().get(cause) == count
        {
            self.log.queue_full(self.now, slot.session.client_id(), None);
        }
    }

    /// Counts a message that finds the queue of a session full.
    pub(super) fn misses(&mut self, key: SessionKey, topic: &str) {
        if let Some(slot) = self.sessions.get(key)
            && slot.session.drops().get(DropCause::QueueFull) == 0
        {
            self.log.queue_full(self.now, slot.session.client_id(), Some(topic));
        }
        self.count_drops(key, DropCause::QueueFull, 1);
    }

    /// Counts messages that the shard, not the session, dropped.
    pub(super) fn count_drops(&mut self, key: SessionKey, cause: DropCause, count: u64) {
        self.stats.dropped[cause as usize].add(count);
        if let Some(slot) = self.sessions.get_mut(key) {
            slot.session.count_drops(cause, count);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::num::NonZeroU32;

    use super::super::connection::{Connection, MAX_UNFLUSHED};
    use super::super::runs::Run;
    use super::super::settings::Settings;
    use super::super::{Shard, Shared};
    use super::*;
    use crate::hooks::Hooks;
    use crate::mqtt::Message;
    use crate::mqtt::topic::Filter;
    use crate::net::sim::{Faults, SimDriver, SimOptions, World};
    use crate::router::{RouteId, SubscriptionOptions};
    use crate::session::{LinkParameters, Session};

    /// A shard with so many clients that are subscribed to `t`.
    fn shard(clients: u32, state: State) -> Shard<SimDriver> {
        let shared = Shared::new(Settings::for_tests(), Hooks::default(), 1, 1).into();
        let world = World::new(1, SimOptions { faults: Faults::NONE, buffer_bytes: 1 });
        let mut shard = Shard::assemble(vec![world.add_driver()], &shared).remove(0);
        let core = &mut shard.core;
        for n in 0..clients {
            let mut session = Session::new(&n.to_string());
            let (parameters, limits) = (LinkParameters::new(Version::V311), core.settings.session);
            session.connect(&parameters, &limits, core.now);
            let key = core.sessions.insert(session);
            let mut connection =
                Connection::new(0, SocketAddr::from(([127, 0, 0, 1], 1)), 1 << 20, core.now);
            (connection.session, connection.state) = (key, state);
            core.connections.insert(ConnId(n), connection);
            let slot = core.sessions.get_mut(key).expect("it was added");
            slot.connection = Some(ConnId(n));
            if state == State::Connected {
                let mut out = core.connections.out(ConnId(n)).expect("it was added");
                slot.session.resume(core.now, &mut out);
            }
            let options = SubscriptionOptions { qos: QoS::AtLeastOnce, ..Default::default() };
            core.router.subscribe(key, &Filter { share: None, filter: "t" }, options);
        }
        shard
    }

    fn publish(shard: &mut Shard<SimDriver>, qos: QoS, payload: &[u8]) {
        let message = Message::new("t", qos, false, payload, &[], None, shard.core.now);
        shard.core.publish_message(&message, Publisher::NOBODY);
    }

    #[test]
    fn what_comes_before_connack_has_left_is_counted() {
        let mut shard = shard(3, State::Committing);
        publish(&mut shard, QoS::AtMostOnce, b"x");
        assert_eq!(shard.core.stats.dropped[DropCause::Offline as usize].value(), 3);
        publish(&mut shard, QoS::AtLeastOnce, b"x");
        let session = &shard.core.sessions.get(0).expect("it is there").session;
        assert_eq!((session.queued(), session.drops().get(DropCause::Offline)), (1, 1));
        let mut frames = Vec::new();
        encode_publish(Version::V311, &PublishOut::new(b"t", b"x"), &mut frames);
        let (route, place, end) = (RouteId::NONE, Place::Scratch, frames.len());
        let (start, longest, version) = (0, end, Version::V311);
        let run = Run { route, place, start, end, count: 1, longest, version };
        shard.core.run_from_mail(run, &frames);
        assert_eq!(shard.core.stats.dropped[DropCause::Offline as usize].value(), 6);
    }

    /// [MQTT-3.3.2-5] As one that has waited for this shard to take in its mail.
    #[test]
    fn what_has_expired_is_written_to_nobody() {
        let mut shard = shard(2, State::Connected);
        let message = Message::new("t", QoS::AtMostOnce, false, b"x", &[], Some(1), shard.core.now);
        shard.core.now = shard.core.now.plus(std::time::Duration::from_secs(1));
        shard.core.publish_message(&message, Publisher::NOBODY);
        let dropped = shard.core.stats.dropped[DropCause::Expired as usize].value();
        assert_eq!((dropped, shard.core.connections.written.publishes), (2, 0));
    }

    /// A subscription of QoS 0 asks nobody to keep anything, whatever else is asked for with it.
    #[test]
    fn a_full_queue_of_qos_0_refuses_nobody() {
        let mut shard = shard(1, State::Connected);
        let core = &mut shard.core;
        let mut settings = Settings::for_tests();
        settings.session.queue_qos0 = true;
        settings.session.max_queued_messages = 1;
        core.settings = settings.into();
        let slot = core.sessions.get_mut(0).expect("it is there");
        slot.connection = None;
        slot.session.disconnect(core.now);
        let filters = [("plain", None), ("identified", NonZeroU32::new(1))];
        for (filter, identifier) in filters {
            let options = SubscriptionOptions { identifier, ..Default::default() };
            core.router.subscribe(0, &Filter { share: None, filter }, options);
        }
        let mut publish = |topic| {
            let message = Message::new(topic, QoS::AtLeastOnce, false, b"x", &[], None, core.now);
            core.publish_message(&message, Publisher::NOBODY)
        };
        let kept = ["plain", "plain", "identified"].map(|topic| publish(topic).kept);
        let full = shard.core.stats.dropped[DropCause::QueueFull as usize].value();
        assert_eq!((kept, full), ([true; 3], 2));
    }

    #[test]
    fn one_message_is_not_copied_for_each_of_very_many() {
        const PAYLOAD: usize = 4_000;
        const CLIENTS: u32 = 2_000;
        let mut shard = shard(CLIENTS, State::Connected);
        publish(&mut shard, QoS::AtLeastOnce, &[b'.'; PAYLOAD]);
        let written = &shard.core.connections.written;
        assert_eq!(written.publishes, u64::from(CLIENTS));
        assert!(written.bytes < MAX_UNFLUSHED + CLIENTS as usize * 50, "{} bytes", written.bytes);
        let backlog = |n| shard.core.connections.get(ConnId(n)).map(Connection::backlog);
        assert_eq!(backlog(CLIENTS - 1), backlog(0), "all of it");
    }
}
