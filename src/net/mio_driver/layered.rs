//! What transports with a layer of their own ask of the driver: TLS, WebSocket, the PROXY protocol.

use std::io;

use super::MioDriver;
use super::conn::{Conn, Read, Step, flag};
use crate::net::driver::{Completion, ConnId};
use crate::net::tls::Handshake;

/// Steps of TLS handshakes in one turn: each takes as long as hundreds of messages, and those who are
/// connected are not to wait for all who come back at once.
pub(super) const HANDSHAKES_PER_TURN: usize = 8;

impl MioDriver {
    /// Goes on with a handshake.
    pub(super) fn handshake(&mut self, id: ConnId) -> Step {
        let Some(conn) = self.conns.get_mut(id) else { return Step::Rest };
        if conn.transport.is_handshake_costly() {
            if self.handshakes_left == 0 {
                return Step::Later;
            }
            self.handshakes_left -= 1;
        }
        let result = conn.transport.handshake();
        self.await_pending(id);
        let Some(conn) = self.conns.get_mut(id) else { return Step::Rest };
        match result {
            Ok(Handshake::Relayed(peer)) => {
                self.conns
                    .change(id, |conn| Conn { transport: conn.transport.unwrapped(), ..conn });
                match peer {
                    Some(peer) => Step::More(Completion::Relayed { conn: id, peer }),
                    None => Step::Later,
                }
            }
            // What the client has sent already is read next.
            Ok(Handshake::Upgraded) => Step::Later,
            Ok(Handshake::Done(certificate)) => {
                conn.end_handshake(&mut self.handshakes);
                Step::More(Completion::HandshakeDone { conn: id, certificate })
            }
            Ok(Handshake::Waits) => {
                match conn.read_result(Err(io::ErrorKind::WouldBlock.into()), 0) {
                    Read::End(cause) => conn.tell_closed(id, cause),
                    _ => Step::Rest,
                }
            }
            Err(error) => match conn.read_result(Err(error), 0) {
                Read::End(cause) => conn.tell_closed(id, cause),
                _ => Step::Rest,
            },
        }
    }

    /// Waits for room if something that a layer has taken is not out.
    pub(super) fn await_pending(&mut self, id: ConnId) {
        let Some(conn) = self.conns.get_mut(id) else { return };
        let waits = conn.transport.has_pending() && !conn.has(flag::BLOCKED | flag::BROKEN);
        if waits && self.await_room(id).is_err() {
            self.broken(id);
        }
    }
}
