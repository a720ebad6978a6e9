//! How bytes reach the broker. Everything above reads and writes through this type alone, so that what lies
//! between it and the socket (TLS, WebSocket) has one place to be added.

use std::io::{self, Read, Write};

use mio::event::Source;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

#[derive(Debug)]
pub(crate) enum Transport {
    Tcp(TcpStream),
}

impl Transport {
    /// Goes on with what has to happen before the first byte of MQTT. Returns whether that is done; if not,
    /// another event follows.
    pub(crate) fn establish(&mut self) -> io::Result<bool> {
        let Self::Tcp(socket) = self;
        match socket.take_error()? {
            Some(error) => Err(error),
            None => Ok(socket.peer_addr().is_ok()),
        }
    }

    #[inline]
    pub(crate) fn read(&mut self, space: &mut [u8]) -> io::Result<usize> {
        let Self::Tcp(socket) = self;
        socket.read(space)
    }

    #[inline]
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Self::Tcp(socket) = self;
        socket.write(bytes)
    }

    pub(crate) fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let Self::Tcp(socket) = self;
        socket.register(registry, token, Interest::READABLE | Interest::WRITABLE)
    }
}
