//! What the client of each session may do.
//!
//! Rights are found when a client connects, and again when the rules change. The router asks for them when
//! it makes a route, and a reader keeps how it may publish beside its last route: on the way of a
//! message nobody looks anything up.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;

use crate::hooks::{Client, Login, PublishRights, Rights};
use crate::mqtt::topic::{self, Filter};
use crate::mqtt::{Connect, Publish};
use crate::router::{Receives, RouteId, SessionKey, SubscriptionHandle, SubscriptionOptions};
use crate::session::IdentityRecord;

use super::Core;
use super::connection::Connection;
use super::ended::{LEVELS_EACH, LEVELS_PER_TURN};
use super::input::{Reader, Then};
use super::sessions::{Sessions, Slot};
use super::subscribe::{full_filter, record};

/// Topics of one client for which its rights to publish are remembered. Beyond it they are found anew.
const MAX_TOPICS: usize = 64;

/// Sessions whose rights are found anew in one turn, when the rules have changed.
const SESSIONS_PER_TURN: usize = 1024;

/// Who the client of a session is, and what follows from that.
#[derive(Debug)]
pub(super) struct Identity {
    user: Option<Arc<str>>,
    /// The name in its certificate.
    certificate: Option<Arc<str>>,
    peer: SocketAddr,
    protocol_version: u8,
    /// `None`: it may do everything.
    rights: Option<Arc<Rights>>,
    /// The rights came with its login: the rules say nothing about it.
    is_granted: bool,
    publish: HashMap<Box<str>, PublishRights, foldhash::fast::RandomState>,
}

/// How far this shard has taken in that the rules have changed.
#[derive(Debug, Default)]
pub(super) struct RightsChange {
    seen: u64,
    /// Sessions to look at.
    left: Vec<SessionKey>,
    /// Sessions with other rights, and their subscriptions to look at.
    reviews: BTreeMap<SessionKey, Vec<SubscriptionHandle>>,
    /// What was looked at in this turn, in levels of filters.
    reviewed: usize,
}

impl Sessions {
    /// Whether the session's client may be sent messages of a topic.
    pub(super) fn may_receive(&self, key: SessionKey, topic: &str) -> bool {
        // One that has ended may have subscriptions yet.
        self.get(key).is_some_and(|slot| slot.may_receive(topic))
    }
}

impl Slot {
    /// The user as whom its client is known.
    pub(super) fn user(&self) -> Option<&str> {
        self.identity.as_ref()?.user.as_deref()
    }

    pub(super) fn rights(&self) -> Option<&Rights> {
        self.identity.as_ref()?.rights.as_deref()
    }

    /// Whether its client may be sent messages of a topic.
    pub(super) fn may_receive(&self, topic: &str) -> bool {
        self.rights().is_none_or(|rights| rights.receives(topic))
    }

    /// Whether the will may be published.
    pub(super) fn may_publish(&self, message: &crate::mqtt::Message) -> bool {
        let rights = self.rights().map(|rights| rights.publish(message.topic()));
        rights.is_none_or(|rights| rights.allows(message.qos(), message.retain()))
    }
}

impl Identity {
    fn client<'a>(&'a self, client_id: &'a str) -> Client<'a> {
        Client {
            client_id,
            username: self.user.as_deref(),
            certificate: None,
            certificate_name: self.certificate.as_deref(),
            peer: self.peer,
            listener: None,
            protocol_version: self.protocol_version,
        }
    }
}

impl Slot {
    /// Notes the session in its journal.
    pub(super) fn note(&self) {
        // Rights that came with a login are not stored: what such a session has, it had by them, and
        // what it may have next time its client brings along.
        let by_rules = self.identity.as_ref().filter(|identity| !identity.is_granted);
        self.session.note_session(self.will_at, || {
            by_rules.map(|identity| IdentityRecord {
                user: identity.user.as_deref().map(Into::into),
                certificate: identity.certificate.as_deref().map(Into::into),
                peer: identity.peer,
                protocol_version: identity.protocol_version,
            })
        });
    }
}

impl<S> Core<S> {
    /// Gives a session that was stored its client, with the rights of today.
    pub(super) fn restore_identity(&mut self, key: SessionKey, record: Option<IdentityRecord>) {
        let Some(authorizer) = self.shared.hooks.authorizer.clone() else { return };
        let (Some(slot), Some(record)) = (self.sessions.get(key), record) else { return };
        let IdentityRecord { user, certificate, peer, protocol_version } = record;
        let mut identity = Identity {
            user: user.map(Arc::from),
            certificate: certificate.map(Arc::from),
            peer,
            protocol_version,
            rights: None,
            is_granted: false,
            publish: HashMap::default(),
        };
        identity.rights = authorizer.rights(&identity.client(slot.session.client_id()));
        self.set_identity(key, Some(Box::new(identity)));
    }

    /// Finds out what a client may do; `None` if nobody is there to say.
    pub(super) fn identify(
        &self,
        client_id: &str,
        login: &Login,
        connection: &Connection,
        connect: &Connect<'_>,
    ) -> Option<Box<Identity>> {
        let Login { user, rights, .. } = login.clone();
        let mut identity = Identity {
            user,
            certificate: connection.certificate.as_ref().map(|one| one.name.clone()),
            peer: connection.peer,
            protocol_version: connect.version as u8,
            is_granted: rights.is_some(),
            rights,
            publish: HashMap::default(),
        };
        if !identity.is_granted {
            let authorizer = self.shared.hooks.authorizer.as_ref()?;
            identity.rights = authorizer.rights(&identity.client(client_id));
        }
        Some(Box::new(identity))
    }

    /// Whether a client's will is one that it may publish.
    pub(super) fn will_is_allowed(identity: Option<&Identity>, connect: &Connect<'_>) -> bool {
        let rights = identity.and_then(|identity| identity.rights.as_ref());
        let (Some(rights), Some(will)) = (rights, &connect.will) else { return true };
        rights.publish(will.topic).allows(will.qos, will.retain)
    }

    /// Gives a session its client; it loses the subscriptions that this client may not have.
    pub(super) fn set_identity(&mut self, key: SessionKey, identity: Option<Box<Identity>>) {
        let Some(slot) = self.sessions.get_mut(key) else { return };
        let old = std::mem::replace(&mut slot.identity, identity);
        let rights = slot.identity.as_ref().and_then(|identity| identity.rights.clone());
        if old.and_then(|old| old.rights) != rights {
            self.rights_changed(key);
        }
    }

    /// A session is sent nothing from now on that it may not have. Subscriptions that it may not have are
    /// taken from it in steps.
    fn rights_changed(&mut self, key: SessionKey) {
        let Some(slot) = self.sessions.get(key) else { return };
        if slot.subscriptions.is_empty() {
            return;
        }
        self.rights_change.reviews.insert(key, slot.subscriptions.to_vec());
        self.router.forget_routes();
        self.review();
    }

    /// Looks at more subscriptions of sessions whose rights have changed: so many in a turn, while other
    /// shards can be told.
    fn review(&mut self) {
        while self.rights_change.reviewed < LEVELS_PER_TURN
            && self.mailbox.full() == 0
            && let Some(mut first) = self.rights_change.reviews.first_entry()
        {
            let (key, handle) = (*first.key(), first.get_mut().pop());
            match handle {
                Some(handle) => self.review_one(key, handle),
                None => drop(first.remove()),
            }
        }
    }

    fn review_one(&mut self, key: SessionKey, handle: SubscriptionHandle) {
        let Some(one) = self.router.subscription(key, handle) else { return };
        self.rights_change.reviewed += LEVELS_EACH + topic::level_count(&one.filter);
        let Some(rights) = self.sessions.get(key).and_then(Slot::rights) else { return };
        let filter = Filter { share: one.share.as_deref(), filter: &one.filter };
        match rights.subscribe(&one.filter, one.share.is_some()) {
            None => {
                self.unsubscribe_one(key, &filter);
            }
            Some(qos) if qos < one.options.qos => {
                self.lower(key, &filter, SubscriptionOptions { qos, ..one.options });
            }
            Some(_) => {}
        }
    }

    /// Leaves a session less of a subscription, also after a restart.
    fn lower(&mut self, key: SessionKey, filter: &Filter<'_>, options: SubscriptionOptions) {
        let handle = self.router.subscribe(key, filter, options).handle;
        self.scans.lower(key, handle, options.qos);
        let retained_after = self.scans.noted(key, handle);
        if let Some(slot) = self.sessions.get(key) {
            slot.session.note_subscribed(|| {
                record(&full_filter(filter.share, filter.filter), options, retained_after)
            });
        }
    }

    /// The route of a topic: those who want its messages, and may have them.
    pub(super) fn route(&mut self, topic: &str) -> RouteId {
        let Self { sessions, ended, .. } = self;
        self.router.route_to(topic, |key| match sessions.may_receive(key, topic) {
            true => Receives::Yes,
            false if ended.may_come_back(key) => Receives::Leaving,
            false => Receives::No,
        })
    }

    /// How the client of a session may publish on a topic.
    pub(super) fn publish_rights(&mut self, key: SessionKey, topic: &str) -> PublishRights {
        let Some(slot) = self.sessions.get_mut(key) else { return PublishRights::NONE };
        let Some(identity) = &mut slot.identity else { return PublishRights::ALL };
        let Some(rights) = &identity.rights else { return PublishRights::ALL };
        if let Some(known) = identity.publish.get(topic) {
            return *known;
        }
        let found = rights.publish(topic);
        if identity.publish.len() >= MAX_TOPICS {
            identity.publish.clear();
        }
        identity.publish.insert(topic.into(), found);
        found
    }

    /// A client's message on a topic where it may not publish goes nowhere.
    #[cold]
    pub(super) fn publish_denied(
        &mut self,
        reader: &mut Reader<'_>,
        publish: &Publish<'_>,
    ) -> Result<Then, crate::mqtt::DecodeError> {
        const DETAIL: &str = "published where it may not";
        if !self.settings.acknowledge_denied
            && publish.packet_id.is_some()
            && !reader.version.is_v5()
        {
            self.flush_run(reader);
            self.end_denied(reader.id, reader.route, DETAIL);
            return Ok(Then::Stop);
        }
        if let (Some(connection), Some(slot)) =
            (self.connections.get(reader.id), self.sessions.get(reader.session))
        {
            let topic = self.router.get(reader.route).topic();
            self.log.refused(self.now, connection.peer, slot, topic, DETAIL);
        }
        self.publish_reserved(reader, publish)
    }

    /// Finds the rights of some more sessions anew, if the rules have changed.
    pub(super) fn follow_rules(&mut self) {
        let now = self.shared.rules.load(Ordering::Acquire);
        if self.rights_change.seen != now {
            self.rights_change.seen = now;
            self.rights_change.left = self.sessions.keys().collect();
        }
        self.rights_change.reviewed = 0;
        self.review();
        for _ in 0..SESSIONS_PER_TURN {
            if !self.rights_change.reviews.is_empty() {
                return;
            }
            let Some(key) = self.rights_change.left.pop() else { return };
            let Some(slot) = self.sessions.get_mut(key) else { continue };
            let Some(identity) = slot.identity.as_mut().filter(|one| !one.is_granted) else {
                continue;
            };
            let Some(authorizer) = &self.shared.hooks.authorizer else { return };
            let rights = authorizer.rights(&identity.client(slot.session.client_id()));
            if rights != identity.rights {
                identity.rights.clone_from(&rights);
                identity.publish.clear();
                // Readers keep how they may publish as long as their route is good.
                self.router.forget_routes();
                self.rights_changed(key);
            }
        }
    }

    /// Whether there are rights to find anew. Asked before a sleep.
    pub(super) fn has_new_rules(&self) -> bool {
        let RightsChange { left, reviews, .. } = &self.rights_change;
        (!(left.is_empty() && reviews.is_empty()) && self.mailbox.full() == 0)
            || self.rights_change.seen != self.shared.rules.load(Ordering::Acquire)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::super::settings::Settings;
    use super::super::{Shard, Shared, Stored};
    use super::*;
    use crate::hooks::{Authorizer, Effect, Grant, Hooks};
    use crate::mqtt::QoS;
    use crate::net::sim::{Faults, SimDriver, SimOptions, World};
    use crate::store::Memory;

    const COUNT: usize = 3000;

    /// Everybody may do everything, or what is granted.
    #[derive(Default)]
    struct Switch {
        is_off: AtomicBool,
        grants: Vec<Grant>,
    }

    impl Authorizer for Switch {
        fn rights(&self, _: &Client<'_>) -> Option<Arc<Rights>> {
            let off = self.is_off.load(Ordering::Relaxed);
            off.then(|| Arc::new(Rights::new(self.grants.clone(), false, false)))
        }
    }

    fn turn(shard: &mut Shard<SimDriver>) {
        assert!(shard.turn(false).expect("a simulated driver does not fail"));
    }

    #[test]
    fn subscriptions_are_taken_in_steps_and_none_is_served_meanwhile() {
        let switch = Arc::new(Switch::default());
        let hooks = Hooks { authorizer: Some(switch.clone()), ..Hooks::default() };
        let shared = Arc::new(Shared::new(Settings::for_tests(), hooks, 1, 1));
        let world = World::new(1, SimOptions { faults: Faults::NONE, buffer_bytes: 1 << 20 });
        let mut shard = Shard::assemble(vec![world.add_driver()], &shared).remove(0);
        let client = world.connect();
        let mut sent = b"\x10\x0d\0\x04MQTT\x04\x02\0\0\0\x01c".to_vec();
        for number in 0..COUNT {
            let share = if number % 2 == 0 { "" } else { "$share/g/" };
            let filter = format!("{share}{number:04}");
            sent.extend([0x82, filter.len() as u8 + 5, 0, 1, 0, filter.len() as u8]);
            sent.extend([filter.as_bytes(), b"\x01"].concat());
        }
        assert_eq!(world.client_send(client, &sent).expect("it is open"), sent.len());
        while shard.core.router.subscription_count() < COUNT {
            turn(&mut shard);
        }
        let key = shard.core.sessions.find("c").expect("it is connected");
        switch.is_off.store(true, Ordering::Relaxed);
        shared.rules_changed();
        let mut left = COUNT;
        while left > 0 {
            turn(&mut shard);
            let now = shard.core.router.subscription_count();
            let most = LEVELS_PER_TURN / (LEVELS_EACH + 1) + 1;
            assert!((1..=most).contains(&(left - now)), "{} of {left}", left - now);
            left = now;
            assert_eq!(shard.core.has_new_rules(), left > 0);
            for topic in ["0000", "0001"] {
                let message = crate::mqtt::Message::new(
                    topic,
                    crate::mqtt::QoS::AtLeastOnce,
                    false,
                    b"x",
                    &[],
                    None,
                    shard.core.now,
                );
                shard.core.publish_message(&message, super::super::remote::Publisher::NOBODY);
            }
            assert_eq!(shard.core.sessions.get(key).expect("it is there").session.in_flight(), 0);
        }
    }

    /// What the rules have left of a subscription is what comes back after a restart, whatever they say then.
    #[test]
    fn a_lower_qos_is_stored() {
        let memory = Memory::default();
        let topics = ["#".into()].into();
        let effect = Effect::Allow { max_qos: QoS::AtMostOnce, retain: true };
        let grants = vec![Grant { effect, publish: true, subscribe: true, topics }];
        let switch = Arc::new(Switch { grants, ..Switch::default() });
        let hooks = Hooks { authorizer: Some(switch.clone()), ..Hooks::default() };
        let shared = Arc::new(Shared::new(Settings::for_tests(), hooks, 1, 1));
        let world = World::new(1, SimOptions { faults: Faults::NONE, buffer_bytes: 1 << 20 });
        let (stored, mut writer) = Stored::in_memory(&memory, 1);
        let mut shard = Shard::assemble_stored(vec![world.add_driver()], &shared, stored).remove(0);
        let client = world.connect();
        let sent = b"\x10\x0d\0\x04MQTT\x04\0\0\0\0\x01c\x82\x06\0\x01\0\x01t\x02";
        assert_eq!(world.client_send(client, sent).expect("it is open"), sent.len());
        let granted = || {
            let stored = Stored::in_memory(&memory.crashed(), 1).0.recovered.sessions;
            let subscriptions = stored.iter().flat_map(|session| &session.subscriptions);
            subscriptions.map(|one| (one.filter.to_string(), one.qos)).collect::<Vec<_>>()
        };
        while granted().is_empty() {
            turn(&mut shard);
            writer.step();
        }
        assert_eq!(granted(), [("t".to_owned(), QoS::ExactlyOnce)]);
        switch.is_off.store(true, Ordering::Relaxed);
        shared.rules_changed();
        turn(&mut shard);
        writer.step();
        assert_eq!(granted(), [("t".to_owned(), QoS::AtMostOnce)]);
    }
}
