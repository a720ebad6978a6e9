//! How bytes reach the broker. Everything above reads and writes through this type alone, so that what lies
//! between it and the socket (TLS, WebSocket) has one place.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use mio::event::Source;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use rustix::io::writev;
use rustix::net::sockopt::set_socket_linger;
use rustix::net::{RecvFlags, SendFlags, recv, send};
use rustls::ClientConnection;
use sluice::net::TlsStream;
use socket2::Socket;

use super::endpoint::Endpoint;
use super::tls::TlsClient;
use super::web_socket::WebSocket;

#[derive(Debug)]
pub(crate) enum Transport {
    Tcp(OwnedFd),
    Tls(Box<Tls>),
    WebSocket(Box<WebSocket>),
}

#[derive(Debug)]
pub(crate) struct Tls {
    stream: TlsStream<ClientConnection>,
    client: Arc<TlsClient>,
}

impl Transport {
    /// On a socket that is connecting.
    pub(crate) fn new(socket: Socket, endpoint: &Endpoint) -> io::Result<Self> {
        let inner = match &endpoint.tls {
            None => Self::Tcp(socket.into()),
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
        Ok(Self::Tls(Box::new(Tls { stream, client })))
    }

    /// Goes on with what has to happen before the first byte of MQTT. Returns whether that is done; if not,
    /// another event follows. That a socket is not connected yet shows when it is written to.
    pub(crate) fn establish(&mut self) -> io::Result<bool> {
        match self {
            Self::Tcp(_) => Ok(true),
            Self::Tls(tls) => tls.establish(),
            Self::WebSocket(web_socket) => web_socket.establish(),
        }
    }

    /// 0 is the end; less than there is space for means that there is no more.
    #[inline]
    pub(crate) fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => Ok(recv(socket, space, RecvFlags::empty())?.1),
            Self::Tls(tls) => tls.read(space),
            Self::WebSocket(web_socket) => web_socket.read(space),
        }
    }

    /// Returns how much was taken, of which some may still be [pending](Self::has_pending).
    #[inline]
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => Ok(send(socket, bytes, SendFlags::NOSIGNAL)?),
            Self::Tls(tls) => tls.stream.send(&[IoSlice::new(bytes)]),
            Self::WebSocket(web_socket) => web_socket.write(bytes),
        }
    }

    /// The same with two parts, one behind the other.
    pub(crate) fn write_parts(&mut self, front: &[u8], rest: &[u8]) -> io::Result<usize> {
        let parts = [IoSlice::new(front), IoSlice::new(rest)];
        match self {
            Self::Tcp(socket) => Ok(writev(socket, &parts)?),
            Self::Tls(tls) => tls.stream.send(&parts),
            Self::WebSocket(web_socket) => web_socket.write(&[front, rest].concat()),
        }
    }

    /// Whether what comes can be [dropped](Self::skip) unseen.
    pub(crate) fn can_skip(&self) -> bool {
        matches!(self, Self::Tcp(_))
    }

    /// Drops what comes, as much as there is space for, without a copy of it. Otherwise like [`read`](Self::read).
    pub(crate) fn skip(&mut self, space: &mut [u8]) -> io::Result<usize> {
        match self {
            // To TCP the flag means that nobody wants the bytes.
            Self::Tcp(socket) => Ok(recv(socket, space, RecvFlags::TRUNC)?.1),
            _ => self.read(space),
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

    /// Closes it at once, whatever is under way: a run that closes thousands of connections shall not leave their
    /// ports blocked for a minute.
    pub(crate) fn abort(self) {
        // Closed it is in any case.
        let _ = set_socket_linger(self.socket(), Some(Duration::ZERO));
    }

    fn socket(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(socket) => socket.as_fd(),
            Self::Tls(tls) => tls.stream.as_fd(),
            Self::WebSocket(web_socket) => web_socket.inner().socket(),
        }
    }

    pub(crate) fn register(&self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        SourceFd(&self.socket().as_raw_fd()).register(registry, token, interest)
    }
}

impl Tls {
    fn establish(&mut self) -> io::Result<bool> {
        if !self.stream.handshake()? {
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
