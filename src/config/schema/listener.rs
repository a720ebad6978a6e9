//! Where clients come in.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::auth::Network;

use super::{AuthLink, ListenerLimits};

/// One place where clients come in. Every shard listens on it.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// Address and port, where port 0 takes one the system chooses; or the path of a socket for programs
    /// of this machine. Required in a configured listener.
    pub bind: Bind,
    /// The permissions of that socket (default 0660): who may write to it may connect. Its clients count as
    /// 127.0.0.1.
    pub socket_mode: u32,
    /// Whether an address of IPv6 is for IPv6 alone (`IPV6_V6ONLY`, default false): `[::]` is for IPv4, too,
    /// then.
    pub v6only: bool,
    /// Connections the system may hold for each shard before they are accepted (default 1,024; the
    /// system may cut it, see `net.core.somaxconn`). Beyond it the system lets clients try again.
    pub backlog: u32,
    /// Whether small packets leave at once (`TCP_NODELAY`, default true).
    pub nodelay: bool,
    /// Whether the system keeps a new connection to itself until its client sends something
    /// (`TCP_DEFER_ACCEPT`, default true), which makes connecting cheaper. Of a client that sends
    /// nothing the broker learns about a second later: until then it counts in no limit, is not
    /// turned away, and [`connect_timeout`](super::Limits::connect_timeout) does not run.
    pub defer_accept: bool,
    /// How long a client is silent before the system asks whether it is there (`SO_KEEPALIVE`, default
    /// unlimited: never), in whole seconds. Meant for clients whose MQTT has no Keep Alive.
    pub keepalive: Option<Duration>,
    /// How long the system then waits between two questions (default 15 s), in whole seconds.
    pub keepalive_interval: Duration,
    /// Questions without an answer after which it closes the connection (default 4).
    pub keepalive_probes: u8,
    /// What the system holds of a connection's input, in bytes (`SO_RCVBUF`, default none: it finds out by
    /// itself). A client that sends more waits.
    pub receive_buffer: Option<u32>,
    /// What the system holds of a connection's output, in bytes (`SO_SNDBUF`, default none: it finds out by
    /// itself). More waits in the broker.
    pub send_buffer: Option<u32>,
    /// Whether each connection begins with a header of the PROXY protocol, version 1 or 2, in front of
    /// whatever else is spoken (default false). The address in it counts for bans, rules, limits and the
    /// log. A connection without one, or with one of more than 4 KiB, is closed.
    pub proxy_protocol: bool,
    /// The proxies that are believed (at most 1,024; none by default, and then `proxy_protocol` needs some).
    /// A connection from elsewhere is closed and counted. On a socket of this machine who may connect is
    /// believed.
    pub proxy_from: Vec<Network>,
    /// Connections on this listener, over all shards (default unlimited, but for
    /// [`max_connections`](super::Limits::max_connections)). One more is closed at once and counted.
    pub max_connections: Option<u32>,
    /// What of `[auth]` counts here (default all of it): a client of this listener comes in by one of
    /// these links, or not at all. Read again on SIGHUP.
    pub authentication: Option<Vec<AuthLink>>,
    /// Limits in place of those for all (`[listener.limits]`).
    pub limits: ListenerLimits,
    /// TLS (`[listener.tls]`); without it the listener speaks plain TCP.
    pub tls: Option<ListenerTls>,
    /// WebSocket (`[listener.websocket]`), over TLS if the listener has that, too; without it the listener
    /// speaks MQTT directly.
    pub websocket: Option<ListenerWebSocket>,
}

/// WebSocket on a listener (RFC 6455). The subprotocol `mqtt` (or, for MQTT 3.1, `mqttv3.1`) must be asked
/// for, text is closed with 1003, and the handshake counts in
/// [`connect_timeout`](super::Limits::connect_timeout), over TLS in
/// [`handshake_timeout`](ListenerTls::handshake_timeout). Of the pings of one read the last is answered.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerWebSocket {
    /// The path that is served (default `/mqtt`); others are not found (404).
    pub path: String,
    /// Origins whose pages may connect, like `https://example.org` (default none, which is any; at most
    /// 1,024). Pages of others are refused (403). Who gives no origin is no browser, and is let in.
    pub origins: Vec<String>,
    /// Bytes of the head of the request (default 8 KiB). A longer one is refused (431).
    pub max_head_bytes: u32,
    /// Bytes of the payload of one frame (default 16 MiB, at least
    /// [`max_packet_size`](super::Limits::max_packet_size)). A longer one is closed with 1009. None is
    /// collected, so this is no memory.
    pub max_frame_bytes: u32,
}

impl Default for ListenerWebSocket {
    fn default() -> Self {
        Self {
            path: "/mqtt".to_owned(),
            origins: Vec::new(),
            max_head_bytes: 8 * 1024,
            max_frame_bytes: 16 * 1024 * 1024,
        }
    }
}

/// What a listener listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Bind {
    /// An address and a port of TCP.
    Ip(SocketAddr),
    /// A socket of this machine; the file is made, and removed when the broker stops.
    Unix(PathBuf),
}

impl Bind {
    /// Whether only this machine reaches it.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Ip(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }

    /// Whether the system chooses what it is.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Ip(address) if address.port() == 0)
    }
}

impl From<SocketAddr> for Bind {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address)
    }
}

/// As it is written in the configuration.
impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// TLS on a listener, 1.2 and 1.3. What is in it but `handshake_timeout`, and the files it names, is read
/// again on SIGHUP, for new connections; a broken file leaves the old ones in force.
#[derive(Clone, Debug, PartialEq)]
pub struct ListenerTls {
    /// The certificate of the server, and those between it and its CA, in PEM. Required.
    pub certificate: Option<PathBuf>,
    /// Its private key, in PEM. Required.
    pub key: Option<PathBuf>,
    /// Further certificates (`[[listener.tls.more]]`): a client that names a host gets the first that is
    /// for it; others get the one above.
    pub more: Vec<ListenerCertificate>,
    /// Whether clients show certificates (default none).
    pub client_certificates: ClientCertificates,
    /// The CA of the clients' certificates, or several, in PEM.
    pub client_ca: Option<PathBuf>,
    /// What that CA has revoked, in PEM (default none).
    pub client_crl: Option<PathBuf>,
    /// Which name in a client's certificate is its user name (default none). Such a client needs no
    /// password, and the user name in its CONNECT counts for nothing.
    pub certificate_user: UserFrom,
    /// The oldest version spoken (default 1.2).
    pub min_version: TlsVersion,
    /// Time for the handshake, with that of WebSocket behind it (default 10 s). Then the connection is
    /// closed. The time for CONNECT ([`connect_timeout`](super::Limits::connect_timeout)) begins when it
    /// is done.
    pub handshake_timeout: Duration,
}

impl Default for ListenerTls {
    fn default() -> Self {
        Self {
            certificate: None,
            key: None,
            more: Vec::new(),
            client_certificates: ClientCertificates::None,
            client_ca: None,
            client_crl: None,
            certificate_user: UserFrom::None,
            min_version: TlsVersion::Tls12,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// A further certificate.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListenerCertificate {
    /// As in [`ListenerTls`].
    pub certificate: Option<PathBuf>,
    /// As in [`ListenerTls`].
    pub key: Option<PathBuf>,
}

/// Whether clients show certificates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// They are not asked to.
    #[default]
    None,
    /// They are; who has none goes on without, who has a bad one does not come in.
    Optional,
    /// Who has none does not come in.
    Required,
}

/// Which name in a certificate is the user name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UserFrom {
    /// None.
    #[default]
    None,
    /// The Common Name of its subject.
    CommonName,
    /// The first DNS name, e-mail address or URI of its Subject Alternative Name.
    SubjectAlternativeName,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TlsVersion {
    /// 1.2.
    #[default]
    Tls12,
    /// 1.3.
    Tls13,
}

impl Listener {
    /// Whether nobody comes in here without a certificate.
    #[must_use]
    pub fn demands_certificates(&self) -> bool {
        let clients = self.tls.as_ref().map(|tls| tls.client_certificates);
        clients == Some(ClientCertificates::Required)
    }
}

impl Listener {
    /// A listener on `bind`, everything else at its default.
    #[must_use]
    pub fn on(bind: impl Into<Bind>) -> Self {
        Self {
            bind: bind.into(),
            socket_mode: 0o660,
            v6only: false,
            backlog: 1024,
            nodelay: true,
            defer_accept: true,
            keepalive: None,
            keepalive_interval: Duration::from_secs(15),
            keepalive_probes: 4,
            receive_buffer: None,
            send_buffer: None,
            proxy_protocol: false,
            proxy_from: Vec::new(),
            max_connections: None,
            authentication: None,
            limits: ListenerLimits::default(),
            tls: None,
            websocket: None,
        }
    }
}

impl Default for Listener {
    fn default() -> Self {
        Self::on(SocketAddr::from((Ipv4Addr::LOCALHOST, 1883)))
    }
}
