//! The server's side of TLS: what a listener goes by, and whom a client's certificate names.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConnection;
use rustls::server::ServerConfig;

use super::certificate::{CertificateUser, ClientCertificate};
use super::tls_stream::TlsStream;

/// What a listener of TLS goes by, shared by all shards. It can be replaced while connections are open,
/// which keep what they began with.
#[derive(Debug)]
pub struct TlsAcceptor {
    current: RwLock<Current>,
}

#[derive(Clone, Debug)]
struct Current {
    config: Arc<ServerConfig>,
    user: CertificateUser,
}

impl TlsAcceptor {
    /// An acceptor; `user` says which name in a client's certificate is its user name.
    #[must_use]
    pub fn new(config: Arc<ServerConfig>, user: CertificateUser) -> Arc<Self> {
        Arc::new(Self { current: RwLock::new(Current { config, user }) })
    }

    /// Has new connections go by another configuration.
    pub fn replace(&self, config: Arc<ServerConfig>, user: CertificateUser) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        *current = Current { config, user };
    }

    /// Begins TLS on a socket.
    pub(super) fn accept(&self, fd: OwnedFd) -> io::Result<Box<Tls>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner).clone();
        let session = ServerConnection::new(current.config).map_err(io::Error::other)?;
        Ok(Box::new(Tls { stream: TlsStream::new(fd, session), user: current.user }))
    }
}

/// One connection.
#[derive(Debug)]
pub(super) struct Tls {
    pub(super) stream: TlsStream<ServerConnection>,
    user: CertificateUser,
}

/// How a handshake goes on.
#[derive(Debug)]
pub(super) enum Handshake {
    /// The client is to say more.
    Waits,
    /// It is done, and this is the client's certificate.
    Done(Option<ClientCertificate>),
    /// WebSocket has begun.
    Upgraded,
    /// The header of the PROXY protocol has come; it names who connected, unless that is the proxy itself.
    Relayed(Option<SocketAddr>),
}

impl Tls {
    #[inline]
    pub(super) fn is_handshaking(&self) -> bool {
        self.stream.session().is_handshaking()
    }

    /// Takes the handshake as far as it goes with what has come.
    pub(super) fn handshake(&mut self) -> io::Result<Handshake> {
        if !self.stream.handshake()? {
            return Ok(Handshake::Waits);
        }
        let chain = self.stream.session().peer_certificates();
        let certificate = chain.and_then(|chain| chain.first());
        let read = |certificate| ClientCertificate::read(certificate, self.user);
        Ok(Handshake::Done(certificate.and_then(|certificate| read(certificate))))
    }
}
