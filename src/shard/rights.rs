//! What the client of each session may do.
//!
//! Rights are found when a client connects, and again when the rules change. The router asks for them when
//! it makes a route, and a reader keeps how it may publish beside its last route: on the way of a
//! message nobody looks anything up.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use hashbrown::HashMap;

use crate::hooks::{Client, Login, PublishRights, Rights};
use crate::mqtt::topic::Filter;
use crate::mqtt::{Connect, Publish};
use crate::router::{RouteId, SessionKey, SubscriptionOptions};
use crate::session::IdentityRecord;

use super::Core;
use super::ending::Ending;
use super::input::{Reader, Then};
use super::sessions::{Sessions, Slot};

/// Topics of one client for which its rights to publish are remembered. Beyond it they are found anew.
const MAX_TOPICS: usize = 64;

/// Sessions whose rights are found anew in one turn, when the rules have changed.
const SESSIONS_PER_TURN: usize = 1024;

/// Who the client of a session is, and what follows from that.
#[derive(Debug)]
pub(super) struct Identity {
    user: Option<Arc<str>>,
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
}

impl Sessions {
    /// Whether the session's client may be sent messages of a topic.
    pub(super) fn may_receive(&self, key: SessionKey, topic: &str) -> bool {
        // One that has ended may have subscriptions yet.
        let Some(slot) = self.get(key) else { return false };
        slot.rights().is_none_or(|rights| rights.receives(topic))
    }
}

impl Slot {
    pub(super) fn rights(&self) -> Option<&Rights> {
        self.identity.as_ref()?.rights.as_deref()
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
        let IdentityRecord { user, peer, protocol_version } = record;
        let (user, publish) = (user.map(Arc::from), HashMap::default());
        let (rights, is_granted) = (None, false);
        let mut identity = Identity { user, peer, protocol_version, rights, is_granted, publish };
        identity.rights = authorizer.rights(&identity.client(slot.session.client_id()));
        self.set_identity(key, Some(Box::new(identity)));
    }

    /// Finds out what a client may do; `None` if nobody is there to say.
    pub(super) fn identify(
        &self,
        client_id: &str,
        login: &Login,
        peer: SocketAddr,
        connect: &Connect<'_>,
    ) -> Option<Box<Identity>> {
        let Login { user, rights, .. } = login.clone();
        let (protocol_version, publish) = (connect.version as u8, HashMap::default());
        let is_granted = rights.is_some();
        let mut identity = Identity { user, peer, protocol_version, rights, is_granted, publish };
        if !is_granted {
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
            self.rights_changed(key, rights);
        }
    }

    fn rights_changed(&mut self, key: SessionKey, rights: Option<Arc<Rights>>) {
        let Some(slot) = self.sessions.get(key) else { return };
        let handles = slot.subscriptions.clone();
        if handles.is_empty() {
            return;
        }
        self.router.forget_routes();
        let Some(rights) = rights else { return };
        for handle in handles {
            let Some(one) = self.router.subscription(key, handle) else { continue };
            let filter = Filter { share: one.share.as_deref(), filter: &one.filter };
            match rights.subscribe(&one.filter, one.share.is_some()) {
                None => {
                    self.unsubscribe_one(key, &filter);
                }
                Some(qos) if qos < one.options.qos => {
                    let options = SubscriptionOptions { qos, ..one.options };
                    self.router.subscribe(key, &filter, options);
                }
                Some(_) => {}
            }
        }
    }

    /// The route of a topic: those who want its messages, and may have them.
    pub(super) fn route(&mut self, topic: &str) -> RouteId {
        let sessions = &self.sessions;
        self.router.route_to(topic, |key| sessions.may_receive(key, topic))
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
            self.end(reader.id, Ending::Silent(DETAIL));
            return Ok(Then::Stop);
        }
        if let (Some(connection), Some(slot)) =
            (self.connections.get(reader.id), self.sessions.get(reader.session))
        {
            self.log.offence(self.now, connection.peer, slot.session.client_id(), DETAIL);
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
        for _ in 0..SESSIONS_PER_TURN {
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
                self.rights_changed(key, rights);
            }
        }
    }

    /// Whether there are rights to find anew. Asked before a sleep.
    pub(super) fn has_new_rules(&self) -> bool {
        !self.rights_change.left.is_empty()
            || self.rights_change.seen != self.shared.rules.load(Ordering::Acquire)
    }
}
