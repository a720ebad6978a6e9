//! The driver over readiness: epoll by way of mio.
//!
//! Sockets are watched edge-triggered and for reading only: one `epoll_ctl` in the life of most
//! connections, and no event to say that a fresh socket is writable. Clients speak first, so a fresh one
//! is read first, and watched when that turn ends if it is here still. The first short send of a
//! connection adds the interest in writing, which looks again at the socket and so cannot miss that
//! room came in between, and leaves it there: the kernel then reports room only after a send that fell
//! short, so it costs no wake-up.

mod conn;
mod layered;
mod linger;
mod ready;
mod watch;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token};

use self::conn::{Conn, LINGER_KIB, Read, Step, after, flag};
use self::layered::HANDSHAKES_PER_TURN;
use self::ready::Ready;
use super::acceptor::{Acceptor, Listening};
use super::arena::Arena;
use super::driver::{CloseMode, Completion, ConnId, Driver, READ_CHUNK, Turnstile, Wake};
use super::kept::{Kept, KeptPool};
use super::slots::Slots;
use super::tcp::Transport;
use crate::timer::Time;

const WAKER: Token = Token(usize::MAX);
const FIRST_LISTENER: usize = usize::MAX - 1;
const EVENTS_PER_TURN: usize = 1024;

/// A graceful close waits so long for the other side to close (and discards [`LINGER_KIB`]).
const LINGER: Duration = Duration::from_secs(2);

/// A connection between two [`MioDriver`]s.
#[derive(Debug)]
pub struct MioSocket {
    transport: Transport,
    flags: u16,
    kept: Option<Box<Kept>>,
}

/// Wakes a [`MioDriver`] by its eventfd.
#[derive(Clone, Debug)]
pub struct MioWaker(Arc<mio::Waker>);

impl Wake for MioWaker {
    fn wake(&self) {
        // Fails only without a reader, and then nobody is left to be woken.
        let _ = self.0.wake();
    }
}

/// The [`Driver`] of real sockets.
#[derive(Debug)]
pub struct MioDriver {
    poll: Poll,
    events: Events,
    waker: MioWaker,
    woken: bool,
    start: Instant,
    now: Time,
    /// When the present round began, after `start`, and how long the one before took.
    round_began: Duration,
    last_round: Duration,
    acceptor: Acceptor,
    conns: Slots<Conn>,
    next_serial: u32,
    ready: Ready,
    /// Accepted, and not watched yet.
    fresh: Vec<ConnId>,
    pool: KeptPool,
    /// Connections that linger, with serial, by deadline.
    lingering: VecDeque<(Time, ConnId, u32)>,
    scratch: Box<[u8]>,
    /// Steps of handshakes that this turn may still take.
    handshakes_left: usize,
    /// TLS handshakes in progress, and how many there may be.
    handshakes: usize,
    max_handshakes: usize,
    /// Accepts nobody any more.
    stopped: bool,
}

impl MioDriver {
    /// A driver with listeners of its own ([`bind_group`](super::bind_group)), in the order in which
    /// [`Completion::Accepted`] counts them. All shards of a broker are given the same `start`, from
    /// which their clocks count.
    ///
    /// # Errors
    /// The system has no more descriptors or memory.
    pub fn new(
        listeners: impl IntoIterator<Item = impl Into<Listening>>,
        start: Instant,
    ) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = MioWaker(Arc::new(mio::Waker::new(poll.registry(), WAKER)?));
        let listeners = listeners.into_iter().map(Into::into).collect();
        let acceptor = Acceptor::new(poll.registry(), listeners, FIRST_LISTENER)?;
        Ok(Self {
            poll,
            events: Events::with_capacity(EVENTS_PER_TURN),
            waker,
            woken: false,
            start,
            now: time_of(start.elapsed()),
            round_began: start.elapsed(),
            last_round: Duration::ZERO,
            acceptor,
            conns: Slots::new(),
            next_serial: 0,
            ready: Ready::default(),
            fresh: Vec::new(),
            pool: KeptPool::default(),
            lingering: VecDeque::new(),
            scratch: vec![0; READ_CHUNK].into_boxed_slice(),
            handshakes_left: HANDSHAKES_PER_TURN,
            handshakes: 0,
            max_handshakes: usize::MAX,
            stopped: false,
        })
    }

    /// Limits the TLS handshakes in progress. With `most` of them, nobody is accepted on listeners of TLS:
    /// connections wait in the system's queue.
    #[must_use]
    pub fn with_max_handshakes(self, most: usize) -> Self {
        Self { max_handshakes: most, ..self }
    }

    /// How many sockets it holds, those that linger after a graceful close included.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.conns.len()
    }

    /// The connection, if the shard has not released it.
    #[inline]
    fn conn(&mut self, id: ConnId) -> Option<&mut Conn> {
        self.conns.get_mut(id).filter(|conn| !conn.has(flag::LINGERS))
    }

    fn timeout(&self, timeout: Option<Duration>) -> Option<Duration> {
        if self.has_more() {
            return Some(Duration::ZERO);
        }
        let linger = self.lingering.front().map(|(deadline, ..)| *deadline);
        let own = linger.into_iter().chain(self.acceptor.retry_at()).min();
        let own = own.map(|at| at.since(self.now));
        own.into_iter().chain(timeout).min()
    }

    fn may_handshake(&self) -> bool {
        self.handshakes < self.max_handshakes
    }

    /// Notes what the poll said.
    fn take_events(&mut self) {
        for event in &self.events {
            let Token(token) = event.token();
            if event.token() == WAKER {
                self.woken = true;
                continue;
            }
            let id = match u32::try_from(token) {
                Ok(id) => ConnId(id),
                Err(_) => {
                    self.acceptor.set_ready(FIRST_LISTENER - token);
                    continue;
                }
            };
            let Some(conn) = self.conns.get_mut(id) else { continue };
            let finishing = event.is_read_closed() || event.is_error();
            if finishing {
                conn.set(flag::FINISHING);
            }
            if event.is_readable() || finishing {
                conn.set(flag::READABLE);
            }
            if conn.has(flag::BLOCKED) && event.is_writable() {
                conn.set(flag::UNBLOCKED);
            }
            if !conn.has(flag::QUEUED) && conn.has(flag::READABLE | flag::UNBLOCKED) {
                conn.set(flag::QUEUED);
                let is_expected = conn.take_expected();
                self.ready.push((id, conn.serial), is_expected);
            }
        }
    }

    /// Lets go of the socket.
    fn release(&mut self, id: ConnId) {
        if let Some(mut conn) = self.conns.remove(id) {
            conn.end_handshake(&mut self.handshakes);
            if let Some(kept) = conn.kept {
                self.pool.give(kept);
            }
            self.acceptor.retry_soon();
        }
    }

    /// Takes in a socket, which is not watched yet. On failure it is closed.
    fn insert(&mut self, transport: Transport, kept: Option<Box<Kept>>) -> io::Result<ConnId> {
        self.next_serial = self.next_serial.wrapping_add(1);
        let serial = self.next_serial;
        let flags = flag::UNWATCHED;
        let conn = Conn { transport, flags, linger_kib: LINGER_KIB, serial, kept };
        self.conns.insert(conn).map_err(|_| io::ErrorKind::OutOfMemory.into())
    }

    /// Looks at a connection of the ready queue.
    fn step(&mut self, id: ConnId, arena: &mut Arena) -> Step {
        let Some(conn) = self.conns.get_mut(id) else { return Step::Rest };
        if conn.has(flag::LINGERS) {
            return self.linger(id);
        }
        if conn.has(flag::UNBLOCKED) {
            conn.clear(flag::UNBLOCKED);
            match conn.transport.flush() {
                Ok(false) => {}
                Ok(true) => {
                    conn.clear(flag::BLOCKED);
                    return Step::Again(Completion::Sent { conn: id });
                }
                Err(_) => self.broken(id),
            }
        }
        let Some(conn) = self.conns.get_mut(id) else { return Step::Rest };
        if conn.has(flag::PAUSED | flag::CLOSED) || !conn.has(flag::READABLE | flag::REDELIVER) {
            return Step::Rest;
        }
        if conn.transport.is_handshaking() {
            return self.handshake(id);
        }
        let step = if conn.kept.as_ref().is_some_and(|kept| kept.is_frame()) {
            self.read_frame(id)
        } else {
            self.read(id, arena)
        };
        self.await_pending(id);
        step
    }

    /// One read behind the kept bytes, into the arena.
    fn read(&mut self, id: ConnId, arena: &mut Arena) -> Step {
        let Some(conn) = self.conns.get_mut(id) else { return Step::Rest };
        let kept = conn.kept.as_ref().map_or(0, |kept| kept.bytes().len());
        if !arena.make_room(READ_CHUNK.max(kept)) {
            return Step::Again(Completion::ArenaFull);
        }
        let spare = arena.spare();
        if let Some(held) = &conn.kept
            && let Some(front) = spare.get_mut(..kept)
        {
            front.copy_from_slice(held.bytes());
        }
        let room = spare.get_mut(kept..READ_CHUNK.max(kept)).unwrap_or_default();
        let read = if room.is_empty() || !conn.has(flag::READABLE) {
            // As if the socket were full: it was not asked.
            Read::Full(0)
        } else {
            let asked = room.len();
            let result = conn.transport.recv(room);
            conn.read_result(result, asked)
        };
        let redeliver = conn.has(flag::REDELIVER) && kept > 0;
        self.ready.note_read(read.bytes());
        let len = match read {
            Read::Full(len) | Read::Short(len) => kept + len,
            Read::Nothing | Read::End(_) if redeliver => kept,
            Read::Nothing => 0,
            Read::End(cause) => return conn.tell_closed(id, cause),
        };
        conn.clear(flag::REDELIVER);
        if len == 0 {
            let more = matches!(read, Read::Full(_)) && conn.has(flag::READABLE);
            return if more { Step::Later } else { Step::Rest };
        }
        if let Some(kept) = conn.kept.take() {
            self.pool.give(kept);
        }
        let range = arena.commit(len);
        after(read, conn, Completion::Received { conn: id, range })
    }

    /// One read into the buffer of a large frame.
    fn read_frame(&mut self, id: ConnId) -> Step {
        let Some(conn) = self.conns.get_mut(id) else { return Step::Rest };
        conn.clear(flag::REDELIVER);
        if !conn.has(flag::READABLE) {
            return Step::Rest;
        }
        let Some(kept) = &mut conn.kept else { return Step::Rest };
        let (buf, most) = kept.frame_room();
        let result = conn.transport.recv_spare(buf, most);
        let frame = kept.take_frame();
        if frame.is_some() {
            conn.kept = None;
        }
        let read = conn.read_result(result, most);
        self.ready.note_read(read.bytes());
        match (frame, read) {
            (Some(frame), read) => after(read, conn, Completion::ReceivedFrame { conn: id, frame }),
            (None, Read::Nothing) => Step::Rest,
            (None, Read::End(cause)) => conn.tell_closed(id, cause),
            (None, Read::Full(0)) => Step::Later,
            (None, Read::Full(_)) => Step::More(Completion::Receiving { conn: id }),
            (None, read) => after(read, conn, Completion::Receiving { conn: id }),
        }
    }

    fn accept(&mut self) -> Option<Completion> {
        let may_handshake = self.may_handshake();
        let (transport, listener, peer) = self.acceptor.accept(self.now, may_handshake)?;
        match self.insert(transport, None) {
            Ok(conn) => {
                let has_tls = self.acceptor.has_tls(listener);
                if let Some(entry) = self.conns.get_mut(conn) {
                    entry.set(flag::READABLE | flag::QUEUED);
                    self.ready.push((conn, entry.serial), false);
                    if has_tls {
                        entry.set(flag::HANDSHAKES);
                        self.handshakes += 1;
                    }
                }
                self.fresh.push(conn);
                Some(Completion::Accepted { conn, listener, peer })
            }
            Err(error) => {
                self.acceptor.exhausted(self.now, &error);
                None
            }
        }
    }
}

fn time_of(since_start: Duration) -> Time {
    Time(u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX))
}

impl Driver for MioDriver {
    type Socket = MioSocket;
    type Waker = MioWaker;

    #[inline]
    fn now(&self) -> Time {
        self.now
    }

    fn last_round(&self) -> Duration {
        self.last_round
    }

    fn wall_clock(&self) -> SystemTime {
        SystemTime::now()
    }

    fn has_more(&self) -> bool {
        !self.ready.is_empty() || self.acceptor.has_more(self.may_handshake())
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.watch_fresh();
        self.conns.end_turn();
        self.ready.begin_turn();
        let timeout = self.timeout(timeout);
        let round = self.start.elapsed().saturating_sub(self.round_began);
        let goes_on = self.ready.round_goes_on();
        self.last_round = if goes_on { round.max(self.last_round) } else { round };
        match self.poll.poll(&mut self.events, timeout) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.events.clear(),
            Err(error) => return Err(error),
        }
        let began = self.start.elapsed();
        self.now = time_of(began);
        self.handshakes_left = HANDSHAKES_PER_TURN;
        self.acceptor.begin_turn(self.now);
        if !self.lingering.is_empty() {
            self.expire_lingering();
        }
        self.take_events();
        if !goes_on {
            self.round_began = began;
            self.ready.begin_round();
        }
        Ok(())
    }

    fn next(&mut self, arena: &mut Arena) -> Option<Completion> {
        if self.woken {
            self.woken = false;
            return Some(Completion::Woken);
        }
        while let Some((id, serial)) = self.ready.first() {
            if self.conns.get_mut(id).is_none_or(|conn| conn.serial != serial) {
                self.ready.pop_first();
                continue;
            }
            let step = self.step(id, arena);
            if let Step::Again(completion) = step {
                return Some(completion);
            }
            self.ready.pop_first();
            if let Some(conn) = self.conns.get_mut(id) {
                if matches!(step, Step::Later | Step::More(_)) {
                    self.ready.push_later((id, serial));
                } else {
                    conn.clear(flag::QUEUED);
                }
            }
            if let Step::Done(completion) | Step::More(completion) = step {
                return Some(completion);
            }
        }
        self.accept()
    }

    fn keep(&mut self, conn: ConnId, rest: &[u8], frame_len: Option<usize>) {
        let Some(entry) = self.conns.get_mut(conn).filter(|c| !c.has(flag::LINGERS)) else {
            return;
        };
        if rest.is_empty() {
            if let Some(kept) = entry.kept.take() {
                self.pool.give(kept);
            }
            return;
        }
        entry.kept.get_or_insert_with(|| self.pool.take()).fill(rest, frame_len);
    }

    #[inline]
    fn send(&mut self, conn: ConnId, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(entry) = self.conn(conn) else { return Err(io::ErrorKind::NotConnected.into()) };
        if entry.has(flag::BLOCKED) {
            return Ok(0);
        }
        match entry.transport.send(bufs) {
            Ok(sent) => {
                let all = sent == bufs.iter().map(|buf| buf.len()).sum::<usize>();
                if !all || entry.transport.has_pending() {
                    self.await_room(conn).inspect_err(|_| self.broken(conn))?;
                }
                Ok(sent)
            }
            Err(error) => {
                self.broken(conn);
                Err(error)
            }
        }
    }

    #[inline]
    fn expect(&mut self, conn: ConnId) {
        if let Some(entry) = self.conn(conn) {
            entry.set(flag::EXPECTED);
        }
    }

    fn is_unread(&mut self, conn: ConnId) -> bool {
        let entry = self.conn(conn).filter(|c| c.has(flag::QUEUED) && c.has(flag::READABLE));
        entry.is_some_and(|entry| !entry.has(flag::PAUSED | flag::CLOSED))
    }

    fn pause(&mut self, conn: ConnId) {
        if let Some(entry) = self.conn(conn) {
            entry.set(flag::PAUSED);
        }
    }

    fn resume(&mut self, conn: ConnId) {
        let Some(entry) = self.conn(conn).filter(|c| c.has(flag::PAUSED)) else { return };
        entry.clear(flag::PAUSED);
        entry.set(flag::REDELIVER);
        self.queue_later(conn);
    }

    fn close(&mut self, conn: ConnId, mode: CloseMode) {
        let stopped = self.stopped;
        let Some(entry) = self.conn(conn) else { return };
        let unheard = mode == CloseMode::Abort || entry.has(flag::CLOSED | flag::BROKEN);
        let at_once = (unheard && !entry.transport.has_last_words())
            || entry.transport.shutdown_write(stopped).is_err();
        if at_once {
            self.release(conn);
            return;
        }
        self.await_pending(conn);
        let Some(entry) = self.conns.get_mut(conn) else { return };
        entry.set(flag::LINGERS);
        entry.end_handshake(&mut self.handshakes);
        let serial = entry.serial;
        if let Some(kept) = entry.kept.take() {
            self.pool.give(kept);
        }
        if let Step::Later = self.linger(conn) {
            self.queue_later(conn);
        }
        if self.conns.get_mut(conn).is_some() {
            self.lingering.push_back((self.now.plus(LINGER), conn, serial));
        }
    }

    fn detach(&mut self, conn: ConnId) -> Option<MioSocket> {
        self.conn(conn)?;
        let mut entry = self.conns.remove(conn)?;
        entry.end_handshake(&mut self.handshakes);
        let Conn { transport, flags, kept, .. } = entry;
        if flags & flag::UNWATCHED == 0 {
            // A failure would mean that it was not watched.
            let _ = self.poll.registry().deregister(&mut SourceFd(&transport.as_raw_fd()));
        }
        Some(MioSocket { transport, flags: flags & (flag::BLOCKED | flag::BROKEN), kept })
    }

    fn attach(&mut self, socket: MioSocket) -> io::Result<ConnId> {
        let has_kept = socket.kept.is_some();
        let id = self.insert(socket.transport, socket.kept)?;
        let watched = if socket.flags & flag::BLOCKED == 0 {
            self.watch(id, Interest::READABLE)
        } else {
            self.await_room(id)
        };
        watched.inspect_err(|_| self.release(id))?;
        if socket.flags & flag::BROKEN != 0 {
            self.broken(id);
        }
        if let Some(conn) = self.conn(id) {
            let layered = conn.transport.is_layered();
            if layered {
                conn.set(flag::READABLE);
            }
            if has_kept {
                conn.set(flag::REDELIVER);
            }
            if layered || has_kept {
                self.queue_later(id);
            }
        }
        Ok(id)
    }

    fn waker(&self) -> MioWaker {
        self.waker.clone()
    }

    fn stop_accepting(&mut self) {
        self.stopped = true;
        self.acceptor.stop(self.poll.registry());
    }

    fn set_turnstile(&mut self, turnstile: Arc<dyn Turnstile>) {
        self.acceptor.set_turnstile(turnstile);
    }
}

impl MioDriver {
    /// After a failed send: a `Closed` is due.
    fn broken(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id) {
            conn.set(flag::BROKEN | flag::FINISHING | flag::READABLE);
            self.queue_later(id);
        }
    }

    fn queue_later(&mut self, id: ConnId) {
        if let Some(conn) = self.conns.get_mut(id).filter(|conn| !conn.has(flag::QUEUED)) {
            conn.set(flag::QUEUED);
            self.ready.push_later((id, conn.serial));
        }
    }
}

#[cfg(test)]
mod tests;
