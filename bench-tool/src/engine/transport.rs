//! How bytes reach the broker. Everything above reads and writes through this type alone, so that what lies
//! between it and the socket (TLS, WebSocket) has one place.

use std::io::{self, IoSlice, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;

use mio::event::Source;
use mio::net::TcpStream;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustls::ClientConnection;
use sluice::net::TlsStream;
use socket2::Socket;

use super::endpoint::Endpoint;
use super::tls::TlsClient;
use super::web_socket::WebSocket;

#[derive(Debug)]
pub(crate) enum Transport {
    Tcp(TcpStream),
    Tls(Box<Tls>),
    WebSocket(Box<WebSocket>),
}

#[derive(Debug)]
pub(crate) struct Tls {
    stream: TlsStream<ClientConnection>,
    client: Arc<TlsClient>,
    is_connected: bool,
}

impl Transport {
    /// On a socket that is connecting.
    pub(crate) fn new(socket: Socket, endpoint: &Endpoint) -> io::Result<Self> {
        let inner = match &endpoint.tls {
            None => Self::Tcp(TcpStream::from_std(socket.into())),
            Some(client) => Self::tls(socket, client)?,
        };
        Ok(match &endpoint.web_socket {
            None => inner,
            Some(target) => Self::WebSocket(Box::new(WebSocket::new(inner, target.clone()))),
        })
    }

    fn tls(socket: Socket, client: &Arc<TlsClient>) -> io::Result<Self> {
        let client = Arc::clone(client);
        let (config, name) = (Arc::clone(&client.config), client.name.clone());
        let stream = TlsStream::client(socket.into(), config, name)?;
        Ok(Self::Tls(Box::new(Tls { stream, client, is_connected: false })))
    }

    /// Goes on with what has to happen before the first byte of MQTT. Returns whether that is done; if not,
    /// another event follows.
    pub(crate) fn establish(&mut self) -> io::Result<bool> {
        match self {
            Self::Tcp(socket) => is_connected(socket),
            Self::Tls(tls) => tls.establish(),
            Self::WebSocket(web_socket) => web_socket.establish(),
        }
    }

    /// 0 is the end; less than there is space for means that there is no more.
    #[inline]
    pub(crate) fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(space),
            Self::Tls(tls) => tls.read(space),
            Self::WebSocket(web_socket) => web_socket.read(space),
        }
    }

    /// Returns how much was taken, of which some may still be [pending](Self::has_pending).
    #[inline]
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(bytes),
            Self::Tls(tls) => tls.stream.send(&[IoSlice::new(bytes)]),
            Self::WebSocket(web_socket) => web_socket.write(bytes),
        }
    }

    /// Whether something that was taken waits for room in the socket: it leaves with the next write.
    #[inline]
    pub(crate) fn has_pending(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Tls(tls) => tls.stream.has_pending(),
            Self::WebSocket(web_socket) => web_socket.has_pending(),
        }
    }

    /// Says that this was the last, where there is a word for it beneath MQTT.
    pub(crate) fn finish(&mut self) {
        // A peer that has closed already does not hear it.
        match self {
            Self::Tcp(_) => {}
            Self::Tls(tls) => drop(tls.stream.shutdown_write()),
            Self::WebSocket(web_socket) => drop(web_socket.finish()),
        }
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self {
            Self::Tcp(socket) => socket.register(registry, token, interest),
            Self::Tls(tls) => SourceFd(&tls.stream.as_raw_fd()).register(registry, token, interest),
            Self::WebSocket(web_socket) => web_socket.inner().register(registry, token),
        }
    }
}

impl Tls {
    fn establish(&mut self) -> io::Result<bool> {
        if !self.is_connected {
            self.is_connected = is_connected(&self.stream)?;
        }
        if !self.is_connected || !self.stream.handshake()? {
            return Ok(false);
        }
        self.client.note(self.stream.session());
        Ok(true)
    }

    fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.recv(space);
        if self.stream.has_pending() {
            // An answer of TLS's own. What does not leave now leaves with the next write.
            self.stream.flush()?;
        }
        read
    }
}

/// Whether a socket has done connecting.
fn is_connected(socket: impl AsFd) -> io::Result<bool> {
    rustix::net::sockopt::socket_error(&socket)??;
    Ok(rustix::net::getpeername(&socket).is_ok())
}
