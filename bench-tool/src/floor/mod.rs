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

/// Relays until the process is ended.
pub(crate) fn serve(address: SocketAddr) -> io::Result<()> {
    let mut listener = TcpListener::bind(address)?;
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    eprintln!("floor: relaying on {}", listener.local_addr()?);
    let mut relay = Relay::new();
    let mut events = Events::with_capacity(1024);
    loop {
        match poll.poll(&mut events, None) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            polled => polled?,
        }
        for event in &events {
            if event.token() == LISTENER {
                accept_all(&listener, &poll, &mut relay)?;
                continue;
            }
            let index = event.token().0;
            if event.is_writable() {
                relay.on_writable(index);
            }
            if event.is_readable() || event.is_error() {
                relay.on_readable(index, event.is_read_closed() || event.is_error());
            }
        }
        relay.end_turn();
    }
}

fn accept_all(listener: &TcpListener, poll: &Poll, relay: &mut Relay) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((mut socket, _)) => {
                socket.set_nodelay(true)?;
                let token = Token(relay.vacant());
                let interest = Interest::READABLE | Interest::WRITABLE;
                poll.registry().register(&mut socket, token, interest)?;
                relay.add(socket);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => eprintln!("floor: cannot accept: {error}"),
        }
    }
}
