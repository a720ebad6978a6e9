//! The floor: a relay that forwards frames by topic and does nothing else that a broker does.
//!
//! What it costs is what the kernel and the copying cost; no broker on sockets can be cheaper. It reads every
//! ready socket into one buffer, finds the frames' ends and topics, and at the end of the turn writes each receiver
//! its stretches of that buffer. There are no sessions, no queues, no packet identifiers of its own:
//! acknowledgements go straight through to the publisher last heard, those of a topic's first subscriber
//! only, so QoS 1 and 2 work as long as a subscriber hears one publisher.

mod peer;
mod relay;

use std::io;
use std::net::SocketAddr;

use mio::net::TcpListener;
use mio::{Events, Interest, Poll, Token};

use relay::Relay;

const LISTENER: Token = Token(usize::MAX);

/// The relay, listening.
pub(crate) struct Floor {
    listener: TcpListener,
    poll: Poll,
    relay: Relay,
}

impl Floor {
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let mut listener = TcpListener::bind(address)?;
        let poll = Poll::new()?;
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        Ok(Self { listener, poll, relay: Relay::new() })
    }

    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Relays until the process is ended.
    pub(crate) fn serve(mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(1024);
        loop {
            match self.poll.poll(&mut events, None) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled?,
            }
            for event in &events {
                if event.token() == LISTENER {
                    self.accept_all()?;
                    continue;
                }
                let index = event.token().0;
                if event.is_writable() {
                    self.relay.on_writable(index);
                }
                if event.is_readable() || event.is_error() {
                    self.relay.on_readable(index, event.is_read_closed() || event.is_error());
                }
            }
            self.relay.end_turn();
        }
    }

    fn accept_all(&mut self) -> io::Result<()> {
        loop {
            match self.listener.accept() {
                Ok((mut socket, _)) => {
                    socket.set_nodelay(true)?;
                    let token = Token(self.relay.vacant());
                    let interest = Interest::READABLE | Interest::WRITABLE;
                    self.poll.registry().register(&mut socket, token, interest)?;
                    self.relay.add(socket);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                // Of one connection, or no file descriptors left: another event follows.
                Err(error) => {
                    say!("floor: cannot accept: {error}");
                    return Ok(());
                }
            }
        }
    }
}
