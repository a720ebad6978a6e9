//! One message on its way to everybody who wants it.

use bytes::Bytes;
use smallvec::SmallVec;

use crate::mqtt::{
    LARGE_PAYLOAD, Message, Publish, PublishOut, QoS, ReasonCode, Version, encode_publish,
    encode_publish_head, publish_len,
};
use crate::net::ConnId;
use crate::router::{GroupId, RouteId, SessionKey, Stamp, stable_hash};
use crate::session::{AliasUse, Delivered, Delivery, Direct, DropCause};
use crate::timer::Time;

use super::Core;
use super::connection::State;
use super::outbox::Place;
use super::outcomes::{Awaited, Why};
use super::remote::{Item, Publisher, Routed, RoutedGroup};
use super::settings::OverflowOffline;

/// A message and who it came from. Owned only once somebody has to keep it.
pub(super) struct Parcel<'a> {
    pub(super) topic: &'a str,
    pub(super) qos: QoS,
    pub(super) retain: bool,
    pub(super) payload: &'a [u8],
    properties: &'a [u8],
    message_expiry_interval: Option<u32>,
    /// What to make the owned form from, and the buffer that is this message's alone.
    publish: Option<(&'a Publish<'a>, Option<&'a Bytes>)>,
    message: Option<Message>,
    pub(super) publisher: Publisher,
    /// [What it is named by](crate::session::PublishOutcome::number) if it is to be acknowledged.
    pub(super) number: Option<u64>,
}

impl<'a> Parcel<'a> {
    /// A PUBLISH under its topic; `frame` is the buffer it was decoded from if that is its own.
    #[inline]
    pub(super) fn from_publish(
        publish: &'a Publish<'a>,
        topic: &'a str,
        frame: Option<&'a Bytes>,
        scratch: &'a mut Vec<u8>,
        publisher: Publisher,
    ) -> Self {
        Self {
            topic,
            qos: publish.qos,
            retain: publish.retain,
            payload: publish.payload,
            properties: publish.properties.forwardable_in(scratch),
            message_expiry_interval: publish.properties.message_expiry_interval,
            publish: Some((publish, frame)),
            message: None,
            publisher,
            number: None,
        }
    }

    pub(super) fn from_message(message: &'a Message, now: Time, publisher: Publisher) -> Self {
        Self {
            topic: message.topic(),
            qos: message.qos(),
            retain: message.retain(),
            payload: message.payload(),
            properties: message.properties(),
            message_expiry_interval: message.message_expiry_interval(now),
            publish: None,
            message: Some(message.clone()),
            publisher,
            number: None,
        }
    }

    /// The owned form, made at its first use.
    #[inline]
    pub(super) fn message(&mut self, now: Time) -> &Message {
        self.message.get_or_insert_with(|| match self.publish {
            Some((publish, frame)) => Message::from_publish(publish, self.topic, frame, now),
            None => {
                let expiry = self.message_expiry_interval;
                let (topic, payload, properties) = (self.topic, self.payload, self.properties);
                Message::new(topic, self.qos, self.retain, payload, properties, expiry, now)
            }
        })
    }

    fn out(&self, retain: bool) -> PublishOut<'a> {
        PublishOut {
            retain,
            properties: self.properties,
            message_expiry_interval: self.message_expiry_interval,
            ..PublishOut::new(self.topic.as_bytes(), self.payload)
        }
    }

    pub(super) fn router_publisher(&self) -> crate::router::Publisher {
        crate::router::Publisher {
            // Its home was chosen by the very hash; where it goes has to be independent of that.
            client_id_hash: stable_hash(&self.publisher.client.to_le_bytes()),
            topic_hash: stable_hash(self.topic.as_bytes()),
        }
    }
}

/// How far a message came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    /// Somebody on this shard is subscribed.
    pub(super) matched: bool,
    /// A session of this shard has it.
    pub(super) kept: bool,
    /// A session of this shard has it not, because the store fails.
    pub(super) unstored: bool,
    pub(super) retained: bool,
    /// The shards that were handed it.
    pub(super) remote: u64,
    /// Those among them where somebody wants it.
    pub(super) wanted: u64,
    pub(super) reason: ReasonCode,
}

impl Reach {
    pub(super) const NONE: Self = Self {
        matched: false,
        kept: false,
        unstored: false,
        retained: false,
        remote: 0,
        wanted: 0,
        reason: ReasonCode::Success,
    };

    pub(super) fn refused(reason: ReasonCode) -> Self {
        Self { reason, ..Self::NONE }
    }

    /// Somebody on this shard is subscribed, and has it or not.
    pub(super) fn add(&mut self, kept: Kept) {
        self.matched = true;
        self.kept |= kept == Kept::Yes;
        self.unstored |= kept == Kept::Unstored;
    }
}

/// Whether a session has a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// It has it, or needs no more of it.
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
struct Forms([Option<(usize, usize)>; 4]);

/// What a member of a shared group gets, or a session with plain subscriptions.
pub(super) struct Share<'a> {
    pub(super) qos: QoS,
    pub(super) retain_as_published: bool,
    pub(super) identifiers: &'a [u32],
    pub(super) group: Option<GroupId>,
}

impl Share<'_> {
    const AT_MOST_ONCE: Self =
        Self { qos: QoS::AtMostOnce, retain_as_published: false, identifiers: &[], group: None };
}

impl<S> Core<S> {
    /// Hands a message to every session of this shard, and to every shard, that wants it.
    pub(super) fn distribute(
        &mut self,
        parcel: &mut Parcel<'_>,
        route: RouteId,
        stamp: Option<Stamp>,
    ) -> Reach {
        let mut reach = self.distribute_here(parcel, route);
        reach.retained = stamp.is_some();
        reach.wanted = self.router.get(route).remote;
        // What is retained is retained by every shard.
        reach.remote = if stamp.is_some() { self.mailbox.others() } else { reach.wanted };
        self.hand_on(parcel, &reach, stamp);
        if !self.router.get(route).groups.is_empty() {
            self.distribute_to_groups(parcel, route, &mut reach);
        }
        reach
    }

    /// Hands a message to the shards that it is to reach.
    fn hand_on(&mut self, parcel: &mut Parcel<'_>, reach: &Reach, stamp: Option<Stamp>) {
        let mut mask = reach.remote;
        while mask != 0 {
            let to = mask.trailing_zeros();
            mask &= mask - 1;
            let wanted = reach.wanted & 1 << to != 0;
            let why = if wanted { Why::Wanted } else { Why::Retained };
            self.send_routed(to as u8, parcel, why, stamp, None);
        }
    }

    /// Hands a message to another shard: to a group there, or to the plain subscribers.
    pub(super) fn send_routed(
        &mut self,
        to: u8,
        parcel: &mut Parcel<'_>,
        why: Why,
        stamp: Option<Stamp>,
        group: Option<RoutedGroup>,
    ) {
        let publisher = parcel.publisher;
        let awaited = parcel.number.map(|number| Awaited { number, why });
        let message = parcel.message(self.now).clone();
        let weight = message.size();
        let act = self.act_with(to);
        let routed = Routed { message, stamp, publisher, awaited, group, act };
        self.mailbox.push(to, weight, Item::Routed(routed));
    }

    /// Hands a message to the plain subscribers of this shard.
    pub(super) fn distribute_here(&mut self, parcel: &mut Parcel<'_>, route: RouteId) -> Reach {
        let mut reach = Reach::NONE;
        let mut forms = Forms::default();
        let count = self.router.get(route).targets.len();
        let own_session = (parcel.publisher.shard == self.id).then_some(parcel.publisher.session);
        for index in 0..count {
            // By index, because delivering needs the rest of the shard; the route stays as it is.
            let Some(target) = self.router.get(route).targets.get(index) else { break };
            let own = own_session == Some(target.session);
            let Some(wanted) = target.for_publisher(own) else { continue };
            if wanted.qos.min(parcel.qos) == QoS::AtMostOnce && !target.has_identifiers() {
                let (key, retain_as_published) = (target.session, wanted.retain_as_published);
                let share = Share { retain_as_published, ..Share::AT_MOST_ONCE };
                self.deliver_at_most_once(parcel, key, &share, &mut forms);
                reach.add(Kept::Yes);
            } else {
                reach.add(self.deliver_to_target(parcel, route, index, own));
            }
        }
        if self.router.get(route).leaving {
            self.pass_over(parcel, &mut reach);
        }
        reach
    }

    /// Hands a message to one plain subscriber, by its place in the route.
    pub(super) fn deliver_to_target(
        &mut self,
        parcel: &mut Parcel<'_>,
        route: RouteId,
        index: usize,
        own: bool,
    ) -> Kept {
        let route = self.router.get(route);
        let Some(target) = route.targets.get(index) else { return Kept::No };
        let Some(wanted) = target.for_publisher(own) else { return Kept::No };
        let identifiers: SmallVec<[u32; 4]> = route.identifiers(target, own).into();
        let key = target.session;
        let share = Share {
            qos: wanted.qos.min(parcel.qos),
            retain_as_published: wanted.retain_as_published,
            identifiers: &identifiers,
            group: None,
        };
        self.deliver_share(parcel, key, &share)
    }

    /// Hands a session a message that nobody may have made an owned one of.
    pub(super) fn deliver_share(
        &mut self,
        parcel: &mut Parcel<'_>,
        key: SessionKey,
        share: &Share<'_>,
    ) -> Kept {
        // An owned message may have waited, and expired: only the session looks at that.
        if share.qos == QoS::AtMostOnce && parcel.message.is_none() {
            return self.deliver_at_most_once(parcel, key, share, &mut Forms::default());
        }
        self.deliver(parcel, key, share)
    }

    /// QoS 0: in the bytes that others get, too, where that is possible.
    fn deliver_at_most_once(
        &mut self,
        parcel: &mut Parcel<'_>,
        key: SessionKey,
        share: &Share<'_>,
        forms: &mut Forms,
    ) -> Kept {
        let retain = parcel.retain && share.retain_as_published;
        let Some(slot) = self.sessions.get_mut(key) else { return Kept::No };
        let connection = slot.connection.and_then(|id| Some((id, self.connections.get(id)?)));
        let live = connection.filter(|(_, connection)| connection.state == State::Connected);
        let Some((id, connection)) = live else {
            if self.settings.session.queue_qos0 {
                return self.deliver(parcel, key, share);
            }
            self.count_drops(key, DropCause::Offline, 1);
            return Kept::Yes;
        };
        let version = connection.version;
        if connection.is_slow(self.settings.qos0_backlog_bytes) {
            slot.session.count_drops(DropCause::SlowReader, 1);
            self.stats.dropped[DropCause::SlowReader as usize].add(1);
            return Kept::Yes;
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
            Direct::Deliver => return self.deliver(parcel, key, share),
        }
        Kept::Yes
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

    /// Hands a session an owned message.
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
        let Some(slot) = self.sessions.get_mut(key) else { return Kept::No };
        let online = slot.connection;
        let mut out = online.and_then(|id| self.connections.live_out(id, &self.settings));
        let limits = tight.as_ref().unwrap_or(&self.settings.session);
        let mut delivered = slot.session.deliver(delivery, self.now, out.as_mut(), limits);
        if delivered == Delivered::Full {
            let expired = slot.session.make_room(delivery.message.size(), limits, self.now);
            self.stats.dropped[DropCause::Expired as usize].add(expired.into());
            delivered = slot.session.deliver(delivery, self.now, out.as_mut(), limits);
        }
        // At QoS 0 nobody has to keep it.
        let asks_for_nothing = delivery.qos == QoS::AtMostOnce;
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
                (cause != DropCause::QueueFull || asks_for_nothing).into()
            }
            Delivered::Full if online.is_some() => {
                self.deliver_to_full(key, delivery, publisher).into()
            }
            Delivered::Full => (self.deliver_to_absent(key, delivery) || asks_for_nothing).into(),
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

impl Parcel<'_> {
    /// The payload, to be written by reference, if it is large.
    fn large(&mut self, now: Time) -> Option<Bytes> {
        if self.payload.len() < LARGE_PAYLOAD { None } else { self.message(now).payload_shared() }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::super::connection::{Connection, MAX_UNFLUSHED};
    use super::super::settings::Settings;
    use super::super::{Shard, Shared};
    use super::*;
    use crate::hooks::Hooks;
    use crate::mqtt::topic::Filter;
    use crate::net::sim::{Faults, SimDriver, SimOptions, World};
    use crate::router::SubscriptionOptions;
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
