//! What the poll is to report.

use std::io;
use std::os::fd::AsRawFd;

use mio::unix::SourceFd;
use mio::{Interest, Token};

use super::MioDriver;
use super::conn::flag;
use crate::net::driver::ConnId;

impl MioDriver {
    /// Watches a socket, if it is not watched for that already.
    pub(super) fn watch(&mut self, id: ConnId, interest: Interest) -> io::Result<()> {
        let Some(conn) = self.conns.get_mut(id) else { return Ok(()) };
        let fd = conn.transport.as_raw_fd();
        let (registry, token) = (self.poll.registry(), Token(id.index()));
        if conn.has(flag::UNWATCHED) {
            registry.register(&mut SourceFd(&fd), token, interest)?;
        } else if interest.is_writable() && !conn.has(flag::WATCHES_WRITE) {
            registry.reregister(&mut SourceFd(&fd), token, interest)?;
        }
        conn.clear(flag::UNWATCHED);
        if interest.is_writable() {
            conn.set(flag::WATCHES_WRITE);
        }
        Ok(())
    }

    /// Watches what was accepted, was looked at and is still here.
    pub(super) fn watch_fresh(&mut self) {
        let mut fresh = std::mem::take(&mut self.fresh);
        fresh.retain(|id| {
            let conn = self.conns.get_mut(*id).filter(|conn| conn.has(flag::UNWATCHED));
            let Some(conn) = conn else { return false };
            if conn.has(flag::QUEUED) {
                return true;
            }
            if let Err(error) = self.watch(*id, Interest::READABLE) {
                self.acceptor.exhausted(self.now, &error);
                self.broken(*id);
            }
            false
        });
        self.fresh = fresh;
    }

    /// After a short send: a `Sent` is due.
    pub(super) fn await_room(&mut self, id: ConnId) -> io::Result<()> {
        let Some(conn) = self.conns.get_mut(id) else { return Ok(()) };
        conn.set(flag::BLOCKED);
        self.watch(id, Interest::READABLE | Interest::WRITABLE)
    }
}
