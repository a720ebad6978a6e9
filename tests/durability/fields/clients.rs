//! What the clients do.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Instant;

use super::model::{Kept, Sent, Session, State, Subscription};
use super::{Connection, FILTERS, TOPICS, World};
use crate::common::property::{
    ASSIGNED_CLIENT_IDENTIFIER, maximum_packet_size, message_expiry, receive_maximum,
    session_expiry, subscription_identifier, topic_alias_maximum, will_delay,
};
use crate::common::wire::{PUBACK, PUBCOMP, PUBREC, PUBREL};
use crate::common::{Client, Connect, V5, V311, Version, Will, code};

const NEVER: u32 = u32::MAX;
const EXPIRIES: [u32; 4] = [0, 3600, 3600, NEVER];

/// Longer than any run, and shorter than an expiry.
const DELAY: u32 = 2000;

impl World {
    /// Connects; takes the connection over that is there.
    pub(super) fn connect(&mut self, at: usize) {
        self.settle(at);
        let clean = self.one_in(8) || self.names[at].is_empty();
        let is_v5 = self.names[at].is_empty() || self.one_in(2);
        let version = if is_v5 { V5 } else { V311 };
        let mut connect = Connect::new(version, &self.names[at]);
        connect.clean = clean;
        let mut expiry = if clean { 0 } else { NEVER };
        let (mut window, mut most) = (self.max_inflight, usize::MAX);
        if is_v5 {
            expiry = EXPIRIES[self.rng.usize(..4)];
            let maximum = [1, 2, 5, u16::MAX][self.rng.usize(..4)];
            window = window.min(maximum.into());
            connect = connect.with(session_expiry(expiry)).with(receive_maximum(maximum));
            if self.rng.bool() {
                connect = connect.with(topic_alias_maximum(self.rng.u16(1..4)));
            }
            if self.one_in(3) {
                most = 500;
                connect = connect.with(maximum_packet_size(500));
            }
        }
        let will = self.one_in(2).then(|| self.will(at, &mut connect));
        self.tell(|| {
            let Connect { clean, properties, .. } = &connect;
            let will = will.as_ref().map(|(will, delay)| (will.told(), delay));
            format!("{at} connects: {version:?}, clean: {clean}, {properties:?}, will: {will:?}")
        });
        let mut client = Client::open(self.broker.address(), version);
        client.send(&connect.bytes());
        if let Some(old) = self.connections[at].take() {
            self.gone(at, true);
            old.taken_over();
        }
        if clean {
            self.end(at);
        }
        let connack = client.connack();
        let present = self.sessions[at].is_some();
        assert_eq!((connack.code, connack.session_present), (0, present), "of {at}");
        if let Some(assigned) = connack.properties.text(ASSIGNED_CLIENT_IDENTIFIER) {
            assert!(self.names[at].is_empty() && !self.names.iter().any(|name| name == assigned));
            self.names[at] = assigned.to_owned();
        }
        let is_new = Session { is_stored: expiry > 0, ..Session::default() };
        let session = self.sessions[at].get_or_insert(is_new);
        (session.expiry, session.will) = (expiry, will);
        let mut released: Vec<_> = session.kept.iter().filter_map(Kept::released).collect();
        released.sort_unstable();
        for (_, id) in released {
            assert_eq!(client.wait_pubrel(id).code, code::SUCCESS);
        }
        let (maximum_packet_size, sent) = (most, BTreeSet::new());
        let (unseen, aliases) = (0, BTreeMap::new());
        let connection =
            Connection { client, version, window, maximum_packet_size, sent, unseen, aliases };
        self.connections[at] = Some(connection);
        self.pump(at);
        self.sync_wills();
    }

    /// Nobody is told that a Will was published, and what comes after it comes from elsewhere.
    fn sync_wills(&mut self) {
        self.sync(self.batch);
        self.batch += 1;
    }

    fn will(&mut self, at: usize, connect: &mut Connect) -> (Rc<Sent>, u32) {
        let version = connect.version;
        let (topic, retain, qos) = (format!("will/{at}"), self.one_in(3), self.rng.u8(1..=2));
        // A short one: which of a batch is too large could not be told.
        let mut sent = self.message(&topic, qos, true, version);
        sent.message.retain = retain;
        let mut will = Will::new(&topic, "").qos(qos);
        will.payload.clone_from(&sent.message.payload);
        (will.retain, will.properties) = (retain, sent.message.properties.clone());
        let mut delay = 0;
        if version == V5 {
            will.properties.extend(sent.expires.map(|(seconds, _)| message_expiry(seconds)));
            if self.rng.bool() {
                delay = DELAY;
                will.properties.push(will_delay(delay));
            }
        }
        connect.will = Some(will);
        (Rc::new(sent), delay)
    }

    /// A connection has ended.
    pub(super) fn gone(&mut self, at: usize, with_will: bool) {
        let Some(session) = &mut self.sessions[at] else { return };
        let expiry = session.expiry;
        if !with_will {
            session.will = None;
        }
        if session.will.as_ref().is_some_and(|(_, delay)| expiry.min(*delay) == 0) {
            let will = session.will.take();
            self.publish_will(at, will);
        }
        if expiry == 0 {
            self.sessions[at] = None;
        }
    }

    /// A session ends, and what is left of it is its Will.
    fn end(&mut self, at: usize) {
        let Some(mut session) = self.sessions[at].take() else { return };
        let will = session.will.take();
        self.publish_will(at, will);
    }

    fn publish_will(&mut self, at: usize, will: Option<(Rc<Sent>, u32)>) {
        self.batch += 1;
        self.route_will(at, will, self.batch);
    }

    pub(super) fn route_will(&mut self, at: usize, will: Option<(Rc<Sent>, u32)>, batch: u32) {
        let Some((will, _)) = will else { return };
        self.watched += 1;
        // It counts from now on.
        let expires = will.expires.map(|(seconds, _)| (seconds, Instant::now()));
        let sent = Sent { message: will.message.clone(), expires };
        self.route(&Rc::new(sent), Some(at), batch);
    }

    /// DISCONNECT, perhaps with another Session Expiry Interval or for the Will.
    pub(super) fn leave(&mut self, at: usize) {
        self.settle(at);
        let with_will = self.one_in(3);
        let expiry = EXPIRIES[self.rng.usize(..4)];
        let changes = self.rng.bool();
        let Some(connection) = self.connections[at].take() else { return };
        let Some(session) = &mut self.sessions[at] else { return };
        if connection.version == V311 {
            connection.client.disconnect();
            self.gone(at, false);
            return self.sync_wills();
        }
        let mut properties = Vec::new();
        // Zero in CONNECT stays (3.14.2.2.2).
        if changes && session.expiry > 0 {
            session.expiry = expiry;
            properties.push(session_expiry(expiry));
        }
        self.tell(|| format!("{at} leaves: {properties:?}, will: {with_will}"));
        let reason = if with_will { code::DISCONNECT_WITH_WILL } else { code::SUCCESS };
        connection.client.disconnect_with(reason, &properties);
        self.gone(at, with_will);
        self.sync_wills();
    }

    pub(super) fn hang_up(&mut self, at: usize) {
        self.settle(at);
        self.tell(|| format!("{at} hangs up"));
        let Some(connection) = self.connections[at].take() else { return };
        connection.client.hang_up();
        self.gone(at, true);
        self.sync_wills();
    }

    pub(super) fn subscribe(&mut self, at: usize) {
        let filter = FILTERS[self.rng.usize(..FILTERS.len())];
        let (qos, handling) = (self.rng.u8(..3), self.rng.u8(..3));
        let (no_local, retain_as_published) = (self.one_in(3), self.rng.bool());
        let identifier = [None, Some(self.rng.u32(1..100)), Some(268_435_455)][self.rng.usize(..3)];
        self.batch += 1;
        let Some(connection) = &mut self.connections[at] else { return };
        let Some(session) = &mut self.sessions[at] else { return };
        let is_v5 = connection.version.is_v5();
        let mut subscription = Subscription { qos, no_local, retain_as_published, identifier };
        if !is_v5 {
            (subscription.no_local, subscription.retain_as_published) = (false, false);
            subscription.identifier = None;
        }
        let flags = u8::from(no_local) << 2 | u8::from(retain_as_published) << 3 | handling << 4;
        let options = if is_v5 { qos | flags } else { qos };
        let identifiers = subscription.identifier.map(subscription_identifier);
        let identifiers = Vec::from_iter(identifiers);
        if self.tells {
            eprintln!("{at} subscribes to {filter:?} {options:#x} {identifiers:?}");
        }
        let codes = connection.client.subscribe_with(&[(filter, options)], &identifiers).codes;
        assert_eq!(codes, [qos]);
        let identifiers = Vec::from_iter(subscription.identifier);
        let existed = session.subscriptions.insert(filter, subscription).is_some();
        if is_v5 && (handling == 2 || handling == 1 && existed) {
            return;
        }
        let matching =
            self.retained.iter().filter(|(topic, _)| super::model::matches(filter, topic));
        let found: Vec<_> = matching
            .map(|(_, sent)| Kept {
                sent: sent.clone(),
                qos: qos.min(sent.message.qos),
                retain: true,
                identifiers: identifiers.clone(),
                batch: self.batch,
                state: State::Queued,
            })
            .collect();
        if qos == 0 {
            return connection.expect_at_once(found);
        }
        session.kept.extend(found);
        self.pump(at);
    }

    pub(super) fn unsubscribe(&mut self, at: usize) {
        let filter = FILTERS[self.rng.usize(..FILTERS.len())];
        self.tell(|| format!("{at} unsubscribes from {filter:?}"));
        let Some(connection) = &mut self.connections[at] else { return };
        let Some(session) = &mut self.sessions[at] else { return };
        let existed = session.subscriptions.remove(filter).is_some();
        let codes = connection.client.unsubscribe(&[filter]).codes;
        let wanted = if existed { code::SUCCESS } else { code::NO_SUBSCRIPTION_EXISTED };
        assert!(!connection.version.is_v5() || codes == [wanted], "{codes:?}");
    }

    /// The first half of a QoS 2 flow; or again, with DUP [MQTT-4.3.3-10].
    pub(super) fn hold(&mut self, at: usize) {
        let id = self.rng.u16(60_000..60_006);
        let topic = TOPICS[self.rng.usize(..TOPICS.len())];
        let version = self.version(at);
        let mut sent = self.message(topic, 2, false, version);
        sent.expires = None;
        sent.message.id = id;
        self.tell(|| format!("{at} sends under {id}: {}", sent.told()));
        let Some(connection) = &mut self.connections[at] else { return };
        let Some(session) = &mut self.sessions[at] else { return };
        let is_new = session.held.insert(id);
        sent.message.dup = !is_new;
        connection.client.send(&sent.message.bytes(version));
        assert!(connection.client.wait_pubrec(id).code < 0x80);
        sent.message.dup = false;
        if is_new {
            self.route(&Rc::new(sent), Some(at), 0);
        }
    }

    /// The second half.
    pub(super) fn let_go(&mut self, at: usize) {
        let id = self.rng.u16(60_000..60_006);
        self.tell(|| format!("{at} releases {id}"));
        let Some(connection) = &mut self.connections[at] else { return };
        let Some(session) = &mut self.sessions[at] else { return };
        connection.client.send_ack(PUBREL, id);
        let is_unknown = !session.held.remove(&id) && connection.version.is_v5();
        let wanted = if is_unknown { code::PACKET_IDENTIFIER_NOT_FOUND } else { code::SUCCESS };
        assert_eq!(connection.client.wait_pubcomp(id).code, wanted);
    }

    fn version(&self, at: usize) -> Version {
        self.connections[at].as_ref().map_or(V5, |connection| connection.version)
    }

    /// Goes on with something that is in flight.
    pub(super) fn acknowledge(&mut self, at: usize) {
        let refuses = self.one_in(6);
        let Some(connection) = &mut self.connections[at] else { return };
        let Some(session) = &mut self.sessions[at] else { return };
        let goes_on = |kept: &Kept| match kept.state {
            State::Queued => false,
            State::InFlight(id) => connection.sent.contains(&id),
            State::Released(..) => true,
        };
        let all: Vec<_> = (0..session.kept.len()).filter(|&n| goes_on(&session.kept[n])).collect();
        if all.is_empty() {
            return;
        }
        let which = all[self.rng.usize(..all.len())];
        let kept = &mut session.kept[which];
        if self.tells {
            eprintln!("{at} acknowledges {:?} of QoS {}", kept.state, kept.qos);
        }
        match kept.state {
            State::Queued => unreachable!("it is not chosen"),
            State::InFlight(id) if kept.qos == 2 && !(refuses && connection.version.is_v5()) => {
                connection.client.send_ack(PUBREC, id);
                connection.client.wait_pubrel(id);
                session.releases += 1;
                kept.state = State::Released(id, session.releases);
                connection.sent.remove(&id);
            }
            State::InFlight(id) => {
                match kept.qos {
                    2 => connection.client.send_ack_code(PUBREC, id, code::UNSPECIFIED_ERROR),
                    _ => connection.client.send_ack(PUBACK, id),
                }
                connection.sent.remove(&id);
                session.kept.remove(which);
            }
            State::Released(id, _) => {
                connection.client.send_ack(PUBCOMP, id);
                session.kept.remove(which);
            }
        }
        self.pump(at);
    }
}

impl Kept {
    /// The order and the identifier of its PUBREL.
    fn released(&self) -> Option<(u64, u16)> {
        match self.state {
            State::Released(id, order) => Some((order, id)),
            State::Queued | State::InFlight(_) => None,
        }
    }
}

impl Connection {
    /// Another connection has its session now [MQTT-3.1.4-3].
    fn taken_over(mut self) {
        self.client.expect_disconnect(&[code::SESSION_TAKEN_OVER]);
    }
}
