//! Connections that were closed gracefully, and wait for the other side to close.

use std::io;

use super::MioDriver;
use super::conn::{Conn, Step, flag};
use crate::net::driver::ConnId;

/// So many linger at once; beyond, the oldest is closed.
const LINGER_CONNECTIONS: usize = 4096;

impl MioDriver {
    /// Closes what has lingered for too long.
    pub(super) fn expire_lingering(&mut self) {
        while let Some(&(deadline, id, serial)) = self.lingering.front() {
            if deadline > self.now && self.lingering.len() <= LINGER_CONNECTIONS {
                break;
            }
            self.lingering.pop_front();
            let is_it = |conn: &&mut Conn| conn.serial == serial && conn.has(flag::LINGERS);
            if self.conns.get_mut(id).filter(is_it).is_some() {
                self.release(id);
            }
        }
    }

    /// Discards what a connection that was closed gracefully still receives.
    pub(super) fn linger(&mut self, id: ConnId) -> Step {
        let Some(conn) = self.conns.get_mut(id) else { return Step::Rest };
        if conn.has(flag::UNBLOCKED) {
            conn.clear(flag::UNBLOCKED);
            if conn.transport.shutdown_write(self.stopped).is_err() {
                self.release(id);
                return Step::Rest;
            }
        }
        match conn.transport.discard(&mut self.scratch) {
            Ok(len) if len > 0 => {
                // What is begun counts as whole, so that nobody sends bytes one by one for ever.
                let kib = u16::try_from(len.div_ceil(1024)).unwrap_or(u16::MAX);
                conn.linger_kib = conn.linger_kib.saturating_sub(kib);
                if conn.linger_kib > 0 {
                    if len == self.scratch.len() || conn.has(flag::FINISHING) {
                        return Step::Later;
                    }
                    return Step::Rest;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Step::Rest,
            Ok(_) | Err(_) => {}
        }
        self.release(id);
        Step::Rest
    }
}
