//! The ports: what the broker asks of, and tells to, code that is not of its core.
//!
//! Traits and plain values only. Shards call them on their own threads, so an implementation must
//! return at once; what takes time belongs on a thread of its own. A [`Store`] has one: it may wait.

mod rights;
mod store;

pub use rights::{Effect, Grant, PublishRights, Rights};
pub use store::{Commit, Key, Store, StoreError, Table, Write};

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

/// Who a connection is, once its CONNECT is read.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The Client Identifier, the assigned one if the client sent none.
    pub client_id: &'a str,
    /// The User Name, if it sent one.
    pub username: Option<&'a str>,
    /// The user that its certificate names, if it has shown one and names in it count.
    pub certificate: Option<&'a str>,
    /// The name in its certificate, if it has shown one: the one that is a user, or if names in it do not
    /// count, the Common Name of its subject.
    pub certificate_name: Option<&'a str>,
    /// Where it connects from.
    pub peer: SocketAddr,
    /// The listener it connects to, by its place in the configuration; `None` once it is let in.
    pub listener: Option<u16>,
    /// The Protocol Version: 3 (MQTT 3.1), 4 (3.1.1) or 5.
    pub protocol_version: u8,
}

/// Is told what happens to clients.
pub trait Hook: Send + Sync + 'static {
    /// A client was let in; its CONNACK is about to be sent.
    fn connected(&self, client: &Client<'_>, session_present: bool) {
        let _ = (client, session_present);
    }

    /// The connection of a client that was let in has ended.
    fn disconnected(&self, client_id: &str) {
        let _ = client_id;
    }
}

/// Decides who comes in.
pub trait Authenticator: Send + Sync + 'static {
    /// Decides on a client and the Password it sent, if any. What takes time is decided elsewhere, and
    /// [`Answer::Later`] returned: the decision then comes by a [`Reply`] taken from `asking`. The client
    /// waits meanwhile, and is not read; its `connect_timeout` runs on.
    fn authenticate(
        &self,
        client: &Client<'_>,
        password: Option<&[u8]>,
        asking: Asking<'_>,
    ) -> Answer;

    /// Begins enhanced authentication by the Authentication Method that a client names, in CONNECT or, when
    /// it is connected, in AUTH. `None`: the method is not supported. What the client is let in as is what
    /// the exchange finds: the User Name and the Password in CONNECT are not looked at.
    fn exchange(&self, client: &Client<'_>, method: &str) -> Option<Box<dyn Exchange>> {
        let _ = (client, method);
        None
    }
}

/// Enhanced authentication of one client [MQTT-4.12.0-1].
pub trait Exchange: Send {
    /// Takes the client's next Authentication Data, and answers at once; it is empty if there was none.
    fn step(&mut self, data: &[u8]) -> Step;

    /// The user that the client says it is, once it has said so: for the log, if it is refused.
    fn user(&self) -> Option<&str> {
        None
    }
}

/// What an [`Exchange`] answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This data; the client has to say more.
    Continue(Vec<u8>),
    /// Let in, and told this.
    Done(Login, Vec<u8>),
    /// Refused.
    Deny(Denial),
}

/// What an [`Authenticator`] says at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// This.
    Now(Decision),
    /// Nothing yet: a [`Reply`] was taken.
    Later,
}

/// What becomes of a client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Let in, as the user it says it is.
    Allow,
    /// Let in like this, whoever it says it is.
    AllowAs(Login),
    /// Refused.
    Deny(Denial),
}

/// Who a client was found to be, and what follows from that alone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Login {
    /// Its user, that of a certificate or a token for example; `None`: nobody in particular.
    pub user: Option<Arc<str>>,
    /// What it may do, in place of what the [`Authorizer`] says; `None`: what that says. These are not stored:
    /// after a restart, and until its client logs in again, a session keeps all that its subscriptions match,
    /// also what [`Effect::Deny`] takes out of them.
    pub rights: Option<Arc<Rights>>,
    /// How long it may stay connected. Then it is disconnected with Maximum connect time (0xA0).
    pub valid_for: Option<Duration>,
}

impl Login {
    /// As this user, with the rights that it has, for as long as the client likes.
    #[must_use]
    pub fn user(user: Option<Arc<str>>) -> Self {
        Self { user, ..Self::default() }
    }
}

/// Says what a client may do.
pub trait Authorizer: Send + Sync + 'static {
    /// The rights of a client that was let in; `client` has the user name that it was let in with. `None`:
    /// it may do everything.
    fn rights(&self, client: &Client<'_>) -> Option<Arc<Rights>>;
}

/// Takes decisions that were not made at once to the client they are about.
pub trait Inbox: Send + Sync {
    /// Takes the decision on the client with this ticket. One whose client has gone is of no use, and no
    /// harm.
    fn deliver(&self, ticket: u64, decision: Decision);
}

/// A client that is asked about.
#[derive(Clone, Copy)]
pub struct Asking<'a> {
    inbox: &'a Arc<dyn Inbox>,
    ticket: u64,
}

impl<'a> Asking<'a> {
    /// Replies go to `inbox` under `ticket`.
    #[must_use]
    pub fn new(inbox: &'a Arc<dyn Inbox>, ticket: u64) -> Self {
        Self { inbox, ticket }
    }

    /// The way back for a decision that is made later, on any thread.
    #[must_use]
    pub fn reply(self) -> Reply {
        Reply { inbox: Some(self.inbox.clone()), ticket: self.ticket }
    }
}

impl std::fmt::Debug for Asking<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Asking").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

/// The way back of one decision. Dropped without one, it says [`Denial::ServerUnavailable`].
pub struct Reply {
    inbox: Option<Arc<dyn Inbox>>,
    ticket: u64,
}

impl Reply {
    /// Sends the decision.
    pub fn decide(mut self, decision: Decision) {
        self.send(decision);
    }

    fn send(&mut self, decision: Decision) {
        if let Some(inbox) = self.inbox.take() {
            inbox.deliver(self.ticket, decision);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.send(Decision::Deny(Denial::ServerUnavailable));
    }
}

impl std::fmt::Debug for Reply {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reply").field("ticket", &self.ticket).finish_non_exhaustive()
    }
}

/// Why a client is refused, with the Connect Reason Code of MQTT 5 that it is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// The User Name or Password is not the right one (0x86).
    BadUserNameOrPassword,
    /// The client is known, but may not connect (0x87).
    NotAuthorized,
    /// The client has a token that was signed with no key that is known (0x86).
    TokenSignature,
    /// The client has a token that does not let it in, for this cause, which is for the log (0x87).
    Token(&'static str),
    /// It cannot be decided now (0x88).
    ServerUnavailable,
    /// The same, because too many clients wait to be decided on (0x88).
    Busy,
    /// The client, its user or its address is banned (0x8A).
    Banned,
}

/// The code at the ports of one broker.
#[derive(Clone)]
pub struct Hooks {
    /// Who is told what happens to clients.
    pub hook: Arc<dyn Hook>,
    /// Who decides about them; in its absence whoever the configuration names, or else everybody is let
    /// in.
    pub authenticator: Option<Arc<dyn Authenticator>>,
    /// Who says what they may do; in its absence the configuration, or else they may do everything.
    pub authorizer: Option<Arc<dyn Authorizer>>,
}

/// Tells nobody, and leaves the decisions to the configuration.
impl Default for Hooks {
    fn default() -> Self {
        Self { hook: Arc::new(Nobody), authenticator: None, authorizer: None }
    }
}

impl std::fmt::Debug for Hooks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hooks").finish_non_exhaustive()
    }
}

/// Is told, and does nothing.
struct Nobody;

impl Hook for Nobody {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    /// Keeps what is delivered.
    #[derive(Default)]
    struct Kept(Mutex<Vec<(u64, Decision)>>);

    impl Inbox for Kept {
        fn deliver(&self, ticket: u64, decision: Decision) {
            self.0.lock().unwrap().push((ticket, decision));
        }
    }

    #[test]
    fn a_reply_says_one_thing_once() {
        let kept = Arc::new(Kept::default());
        let inbox: Arc<dyn Inbox> = kept.clone();
        Asking::new(&inbox, 1).reply().decide(Decision::Allow);
        drop(Asking::new(&inbox, 2).reply());
        let nobody_can_say = Decision::Deny(Denial::ServerUnavailable);
        assert_eq!(*kept.0.lock().unwrap(), [(1, Decision::Allow), (2, nobody_can_say)]);
    }
}
