//! The seam between an event loop and what moves its bytes.

use std::borrow::Cow;
use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::arena::Arena;
use super::certificate::ClientCertificate;
use crate::timer::Time;

/// The most one connection is read in one turn, in bytes.
pub const READ_CHUNK: usize = 64 * 1024;

/// From this length in bytes on a frame is read into a buffer of its own, see [`Driver::keep`].
pub const LARGE_FRAME: usize = 32 * 1024;

/// The most connections taken from one listener in one turn.
pub const ACCEPTS_PER_TURN: usize = 64;

/// A connection of one driver: a small, dense number, good as a slab key.
///
/// An id that was released (by [`Driver::close`] or [`Driver::detach`]) is not given out again before
/// the next [`Driver::wait`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u32);

impl ConnId {
    /// The id as an index.
    #[must_use]
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ConnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// Something that happened.
#[derive(Debug)]
pub enum Completion {
    /// A connection came in.
    Accepted {
        /// Its id from now on.
        conn: ConnId,
        /// Index of the listener it came through.
        listener: usize,
        /// Who is at the other end. One on a socket of this machine counts as 127.0.0.1, with port 0.
        peer: SocketAddr,
    },
    /// A proxy says who is at the other end. Comes before anything else of the connection.
    Relayed {
        /// The connection.
        conn: ConnId,
        /// Who it is.
        peer: SocketAddr,
    },
    /// The handshake of a transport that has one is done. Comes before anything is received.
    HandshakeDone {
        /// The connection.
        conn: ConnId,
        /// The other end's certificate, if it has shown one with a name in it.
        certificate: Option<ClientCertificate>,
    },
    /// Bytes came in: those kept earlier first, then new ones. Never empty.
    Received {
        /// The connection.
        conn: ConnId,
        /// Where in the arena.
        range: Range<usize>,
    },
    /// More of a large frame came in, which is not complete yet: the peer is not silent. A driver may
    /// leave it out.
    Receiving {
        /// The connection.
        conn: ConnId,
    },
    /// A large frame is complete, see [`Driver::keep`].
    ReceivedFrame {
        /// The connection.
        conn: ConnId,
        /// The whole frame, and nothing else, in an allocation of its own.
        frame: Bytes,
    },
    /// There is room again after a short [`Driver::send`].
    Sent {
        /// The connection.
        conn: ConnId,
    },
    /// Nothing more will come in. Everything received was completed before, save for kept bytes.
    /// The id stays taken, and sending may still work, until [`Driver::close`].
    Closed {
        /// The connection.
        conn: ConnId,
        /// Why.
        cause: CloseCause,
    },
    /// The arena has no room for another read: be done with its ranges, reset it, and ask again.
    ArenaFull,
    /// A [`Wake`] of this driver was used since the last turn.
    Woken,
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseCause {
    /// The peer closed its side in an orderly way.
    PeerClosed,
    /// The peer reset the connection.
    Reset,
    /// What the peer sent is not what its transport takes, for this reason.
    Refused(Cow<'static, str>),
    /// Anything else the system reports, such as a timeout.
    Error(io::ErrorKind),
}

/// Why a transport does not take what came, within an [`io::Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Refused(pub(super) &'static str);

impl CloseCause {
    /// Why reading gave this error.
    pub(super) fn of(error: &io::Error) -> Self {
        let source = error.get_ref();
        if let Some(Refused(why)) = source.and_then(|source| source.downcast_ref()) {
            return Self::Refused(Cow::Borrowed(why));
        }
        match source.and_then(|source| source.downcast_ref::<rustls::Error>()) {
            Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
                Self::Refused(Cow::Borrowed("TLS: what came is no TLS"))
            }
            Some(error) => Self::Refused(Cow::Owned(format!("TLS: {error}"))),
            None => Self::Error(error.kind()),
        }
    }
}

impl From<Refused> for io::Error {
    fn from(refused: Refused) -> Self {
        Self::new(io::ErrorKind::InvalidData, refused)
    }
}

/// How to close a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseMode {
    /// What was sent arrives, even if the peer is still sending: the driver reads on and discards for a
    /// bounded time before it lets go of the socket. For when a last packet has to be read.
    Graceful,
    /// At once. If the peer has sent what was not read, the system answers with a reset, which may
    /// destroy what was sent last. Cheaper: right where nobody waits for an answer.
    Abort,
}

/// Lets connections in one by one, over all drivers that have it.
pub trait Turnstile: fmt::Debug + Send + Sync {
    /// Lets one connection of a listener pass, which is there.
    ///
    /// # Errors
    /// There are enough; with the time when to try again.
    fn pass(&self, listener: usize, now: Time) -> Result<(), Time>;
}

/// Interrupts the [`Driver::wait`] of another thread.
pub trait Wake: Send + Sync + 'static {
    /// Makes the driver's present or next wait return, and complete with [`Completion::Woken`].
    fn wake(&self);
}

/// Moves the bytes of one shard. Not shared: every shard has its own.
///
/// A turn is one [`wait`](Self::wait), then [`next`](Self::next) until `None`, then whatever the shard
/// sends. Methods that take a connection ignore an id that is not in use: a connection that is gone is
/// an ordinary event.
pub trait Driver {
    /// A connection on its way from one driver to another.
    type Socket: Send + 'static;
    /// The handle by which other threads wake this driver.
    type Waker: Wake + Clone;

    /// The time when the present turn began. Costs nothing: the clock is read where turns
    /// begin and end.
    fn now(&self) -> Time;

    /// How long it took to get round to everybody who had something: the turn before this one, from the end of its
    /// [`wait`](Self::wait) to the beginning of the next, or as many turns as that takes, so far if it goes on.
    fn last_round(&self) -> Duration;

    /// The time of day, read now.
    fn wall_clock(&self) -> SystemTime;

    /// Whether the next turn begins without waiting, as this one has left something to be looked at.
    fn has_more(&self) -> bool {
        false
    }

    /// Ends the turn and starts the next as soon as there is something to complete, or `timeout` is
    /// over (`None`: however long it takes). May return early with nothing.
    ///
    /// # Errors
    /// Only what leaves the driver useless.
    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()>;

    /// The next completion of this turn. Received bytes are appended to `arena`.
    ///
    /// Each connection is read once a turn, at most [`READ_CHUNK`] bytes with those kept; one that has
    /// more to give is read again next turn, which then begins without waiting. So does the turn after one that ended
    /// before everybody was read who had something.
    fn next(&mut self, arena: &mut Arena) -> Option<Completion>;

    /// Gives back what could not be used of a [`Completion::Received`]: the head of a frame whose rest
    /// has not come, or, with the connection paused, everything. It comes again in front of the next
    /// bytes; after a [`resume`](Self::resume) also without any. A second call before that replaces the
    /// first.
    ///
    /// `frame_len` is the whole length of the frame that `rest` begins with, when known. From
    /// [`LARGE_FRAME`] on the driver collects the frame in a buffer of its own, which grows with what
    /// has arrived, and completes with [`Completion::ReceivedFrame`]. The caller has checked it
    /// against the largest packet it accepts.
    fn keep(&mut self, conn: ConnId, rest: &[u8], frame_len: Option<usize>);

    /// Sends as much as there is room for, and says how many bytes. If that is not everything (0
    /// included), a [`Completion::Sent`] follows when there is room; until then further calls send
    /// nothing and cost nothing.
    ///
    /// # Errors
    /// The connection is broken. A [`Completion::Closed`] follows, after what was received before.
    fn send(&mut self, conn: ConnId, bufs: &[IoSlice<'_>]) -> io::Result<usize>;

    /// What is to be sent to a connection asks for an answer, which finishes what is under way: when something comes
    /// from it the next time, that is received before what others begin. For the order only; a driver may do without.
    fn expect(&mut self, conn: ConnId) {
        let _ = conn;
    }

    /// Whether there may be something of a connection, which is not paused, that has not been read yet.
    fn is_unread(&mut self, conn: ConnId) -> bool {
        let _ = conn;
        false
    }

    /// Stops reading. Neither received bytes nor the end of the connection complete until
    /// [`resume`](Self::resume).
    fn pause(&mut self, conn: ConnId);

    /// Reads on. Kept bytes complete in the next turn at the latest, whether or not more have come.
    fn resume(&mut self, conn: ConnId);

    /// Closes the connection and releases its id. No completion follows.
    fn close(&mut self, conn: ConnId, mode: CloseMode);

    /// Takes a connection out, with its kept bytes and its place in a large frame, and releases its
    /// id; `None` if there is no such connection. A pause does not travel.
    fn detach(&mut self, conn: ConnId) -> Option<Self::Socket>;

    /// Takes in a connection from another driver. Its kept bytes complete as after
    /// [`resume`](Self::resume); what had been told of its state before (an end seen, room after a
    /// short send still awaited) is told again.
    ///
    /// # Errors
    /// The system cannot watch one more socket. It is closed.
    fn attach(&mut self, socket: Self::Socket) -> io::Result<ConnId>;

    /// A handle for other threads.
    fn waker(&self) -> Self::Waker;

    /// Closes the listeners, for good. Whoever is closed from now on is told that this side is going away, if
    /// its transport has a word for that.
    fn stop_accepting(&mut self);

    /// Lets in only who passes this. Of each listener one waits for that, the others in the system's queue.
    fn set_turnstile(&mut self, turnstile: Arc<dyn Turnstile>);
}
