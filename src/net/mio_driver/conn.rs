//! The state of one connection of the mio driver.

use std::io;

use crate::net::driver::{CloseCause, Completion, ConnId};
use crate::net::kept::Kept;
use crate::net::tcp::Transport;

/// The most a connection closed gracefully may still send, in KiB.
pub(super) const LINGER_KIB: u16 = 1024;

/// The state bits of a connection.
pub(super) mod flag {
    /// There may be something to read.
    pub(in crate::net::mio_driver) const READABLE: u16 = 1;
    /// The end or an error is there to be read: a short read does not mean there is no more.
    pub(in crate::net::mio_driver) const FINISHING: u16 = 1 << 1;
    /// A send fell short.
    pub(in crate::net::mio_driver) const BLOCKED: u16 = 1 << 2;
    /// And there is room since.
    pub(in crate::net::mio_driver) const UNBLOCKED: u16 = 1 << 3;
    /// The poll reports room.
    pub(in crate::net::mio_driver) const WATCHES_WRITE: u16 = 1 << 4;
    /// The shard does not want to read.
    pub(in crate::net::mio_driver) const PAUSED: u16 = 1 << 5;
    /// Kept bytes complete even if nothing comes.
    pub(in crate::net::mio_driver) const REDELIVER: u16 = 1 << 6;
    /// In [`Ready`](super::super::ready::Ready).
    pub(in crate::net::mio_driver) const QUEUED: u16 = 1 << 7;
    /// Sending failed.
    pub(in crate::net::mio_driver) const BROKEN: u16 = 1 << 8;
    /// The end was read, and told.
    pub(in crate::net::mio_driver) const CLOSED: u16 = 1 << 9;
    /// Released by the shard, closed gracefully.
    pub(in crate::net::mio_driver) const LINGERS: u16 = 1 << 10;
    /// Counts among the TLS handshakes in progress.
    pub(in crate::net::mio_driver) const HANDSHAKES: u16 = 1 << 11;
    /// Not known to the poll yet.
    pub(in crate::net::mio_driver) const UNWATCHED: u16 = 1 << 12;
    /// What comes next finishes what is under way.
    pub(in crate::net::mio_driver) const EXPECTED: u16 = 1 << 13;
}

/// A socket the driver watches, or will when the turn ends.
#[derive(Debug)]
pub(super) struct Conn {
    pub(super) transport: Transport,
    pub(super) flags: u16,
    /// What a lingering connection may still discard, in KiB.
    pub(super) linger_kib: u16,
    /// Tells connections apart that had the same id.
    pub(super) serial: u32,
    pub(super) kept: Option<Box<Kept>>,
}

impl Conn {
    #[inline]
    pub(super) fn has(&self, flags: u16) -> bool {
        self.flags & flags != 0
    }

    #[inline]
    pub(super) fn set(&mut self, flags: u16) {
        self.flags |= flags;
    }

    #[inline]
    pub(super) fn clear(&mut self, flags: u16) {
        self.flags &= !flags;
    }

    /// Whether what there is to read now is expected; what comes behind it is not.
    #[inline]
    pub(super) fn take_expected(&mut self) -> bool {
        let is_expected =
            self.has(flag::EXPECTED) && self.has(flag::READABLE) && !self.has(flag::PAUSED);
        if is_expected {
            self.clear(flag::EXPECTED);
        }
        is_expected
    }

    /// Counts it out of the handshakes in progress.
    pub(super) fn end_handshake(&mut self, handshakes: &mut usize) {
        if self.has(flag::HANDSHAKES) {
            self.clear(flag::HANDSHAKES);
            *handshakes -= 1;
        }
    }

    /// Judges a read that asked for `asked` bytes, and notes whether there may be more.
    #[inline]
    pub(super) fn read_result(&mut self, result: io::Result<usize>, asked: usize) -> Read {
        match result {
            Ok(0) => Read::End(CloseCause::PeerClosed),
            Ok(len) if len == asked => Read::Full(len),
            Ok(len) => {
                if !self.has(flag::FINISHING) && !self.transport.has_more() {
                    self.clear(flag::READABLE);
                }
                Read::Short(len)
            }
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock if self.transport.has_more() => Read::Full(0),
                io::ErrorKind::WouldBlock if self.has(flag::BROKEN) => Read::End(CloseCause::Reset),
                io::ErrorKind::WouldBlock => {
                    self.clear(flag::READABLE);
                    Read::Nothing
                }
                io::ErrorKind::ConnectionReset => Read::End(CloseCause::Reset),
                _ => Read::End(CloseCause::of(&error)),
            },
        }
    }

    pub(super) fn tell_closed(&mut self, id: ConnId, cause: CloseCause) -> Step {
        self.set(flag::CLOSED);
        Step::Done(Completion::Closed { conn: id, cause })
    }
}

/// What one look at a connection came to.
pub(super) enum Step {
    /// Nothing to tell, nothing to do in this turn.
    Rest,
    /// A completion, and nothing more to do in this turn.
    Done(Completion),
    /// A completion, to be looked at once more in this turn.
    Again(Completion),
    /// A completion, to be looked at again next turn.
    More(Completion),
    /// Nothing to tell, to be looked at again next turn.
    Later,
}

/// What came of a read.
pub(super) enum Read {
    /// All that was asked for, or all that a layer gives at once: there may be more.
    Full(usize),
    /// Some, and there is no more.
    Short(usize),
    Nothing,
    End(CloseCause),
}

impl Read {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Full(len) | Self::Short(len) => *len,
            Self::Nothing | Self::End(_) => 0,
        }
    }
}

/// When to look again at a connection that had something to tell.
#[inline]
pub(super) fn after(read: Read, conn: &mut Conn, completion: Completion) -> Step {
    match read {
        // A short read leaves this flag when only the end is left.
        Read::Full(_) | Read::Short(_) if conn.has(flag::READABLE) => Step::More(completion),
        // Kept bytes went before it.
        Read::End(_) => Step::More(completion),
        _ => Step::Done(completion),
    }
}
