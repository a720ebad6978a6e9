//! The ports: what the broker asks of, and tells to, code that is not of its core.
//!
//! Traits and plain values only. Shards call them on their own threads, so an implementation must
//! return at once; what takes time belongs on a thread of its own. A [`Store`] has one: it may wait.

mod store;

pub use store::{Commit, Store, StoreError, Table, Write};

use std::net::SocketAddr;
use std::sync::Arc;

/// Who a connection is, once its CONNECT is read.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// The Client Identifier, the assigned one if the client sent none.
    pub client_id: &'a str,
    /// The User Name, if it sent one.
    pub username: Option<&'a str>,
    /// Where it connects from.
    pub peer: SocketAddr,
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
    /// Decides on a client and the Password it sent, if any.
    fn authenticate(&self, client: &Client<'_>, password: Option<&[u8]>) -> Decision;
}

/// What an [`Authenticator`] says. More answers may come, such as one that is still pending.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Decision {
    /// Let in.
    Allow,
    /// Refused.
    Deny(Denial),
}

/// Why a client is refused; the value is the Connect Reason Code of MQTT 5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Denial {
    /// The User Name or Password is not the right one.
    BadUserNameOrPassword = 0x86,
    /// The client is known, but may not connect.
    NotAuthorized = 0x87,
    /// It cannot be decided now.
    ServerUnavailable = 0x88,
    /// The client, its user or its address is banned.
    Banned = 0x8A,
}

/// Lets everybody in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Anonymous;

impl Authenticator for Anonymous {
    fn authenticate(&self, _: &Client<'_>, _: Option<&[u8]>) -> Decision {
        Decision::Allow
    }
}

/// The code at the ports of one broker.
#[derive(Clone)]
pub struct Hooks {
    /// Who is told what happens to clients.
    pub hook: Arc<dyn Hook>,
    /// Who decides about them.
    pub authenticator: Arc<dyn Authenticator>,
}

/// Lets everybody in and tells nobody.
impl Default for Hooks {
    fn default() -> Self {
        Self { hook: Arc::new(Nobody), authenticator: Arc::new(Anonymous) }
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
    use std::net::Ipv4Addr;

    #[test]
    fn anonymous_lets_everybody_in() {
        let client = Client {
            client_id: "a",
            username: None,
            peer: SocketAddr::from((Ipv4Addr::LOCALHOST, 1)),
            protocol_version: 5,
        };
        assert_eq!(Anonymous.authenticate(&client, None), Decision::Allow);
        assert_eq!(Anonymous.authenticate(&client, Some(b"secret")), Decision::Allow);
    }
}
