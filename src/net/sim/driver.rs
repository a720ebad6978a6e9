//! The driver of one simulated shard.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, IoSlice};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, SystemTime};

use super::link::Link;
use super::{Net, Shard, Shared, lock};
use crate::net::arena::Arena;
use crate::net::driver::{
    ACCEPTS_PER_TURN, CloseCause, CloseMode, Completion, ConnId, Driver, READ_CHUNK, Turnstile,
    Wake,
};
use crate::net::kept::Kept;
use crate::net::slots::Slots;
use crate::timer::Time;

/// The time of day at time 0 of a world, in seconds of the Unix epoch.
const EPOCH_SECS: u64 = 1_700_000_000;

/// What a driver knows of one connection.
#[derive(Debug, Default)]
pub(super) struct SimConn {
    link: u32,
    paused: bool,
    redeliver: bool,
    blocked: bool,
    broken: bool,
    closed: bool,
    /// An answer was [expected](Driver::expect).
    was_expected: bool,
    kept: Option<Box<Kept>>,
}

impl SimConn {
    fn is_unblocked(&self, link: &Link) -> bool {
        self.blocked && (link.down.room() > 0 || !link.client_open)
    }

    /// Whether there is anything to tell.
    pub(super) fn is_ready(&self, links: &mut BTreeMap<u32, Link>, now: Time) -> bool {
        let Some(link) = links.get_mut(&self.link) else { return false };
        self.is_unblocked(link) || self.is_readable(link, now)
    }

    fn is_readable(&self, link: &mut Link, now: Time) -> bool {
        if self.paused || self.closed {
            return false;
        }
        self.redeliver || self.broken || link.up.settle(now) > 0 || link.up.ended(now).is_some()
    }
}

impl Shard {
    pub(super) fn new() -> Self {
        Self {
            conns: Slots::new(),
            ids: Vec::new(),
            ready: VecDeque::new(),
            backlog: VecDeque::new(),
            accepts_left: 0,
            accepting: true,
            turnstile: None,
            shut_until: None,
            woken: false,
            wakes: 0,
            deadline: None,
            busy: true,
        }
    }

    fn insert(&mut self, conn: SimConn) -> Option<ConnId> {
        let id = self.conns.insert(conn).ok()?;
        self.ids.push(id);
        Some(id)
    }

    fn remove(&mut self, id: ConnId) -> Option<SimConn> {
        let conn = self.conns.remove(id)?;
        self.ids.retain(|other| *other != id);
        Some(conn)
    }
}

/// A [`Driver`] of a [`World`](super::World). Its waits never block.
#[derive(Debug)]
pub struct SimDriver {
    net: Shared,
    shard: usize,
    now: Time,
}

/// A connection between two [`SimDriver`]s; dropped on the way, it is closed.
#[derive(Debug)]
pub struct SimSocket {
    net: Shared,
    conn: Option<SimConn>,
}

impl Drop for SimSocket {
    fn drop(&mut self) {
        if let Some(conn) = self.conn.take() {
            lock(&self.net).link(conn.link, |link, now, faults, rng| {
                link.server_close(false, now, faults, rng);
            });
        }
    }
}

/// Wakes a [`SimDriver`].
#[derive(Clone, Debug)]
pub struct SimWaker {
    net: Shared,
    shard: usize,
}

impl Wake for SimWaker {
    fn wake(&self) {
        if let Some(shard) = lock(&self.net).shards.get_mut(self.shard) {
            shard.woken = true;
            shard.wakes += 1;
        }
    }
}

impl Net {
    /// Decides by chance who is looked at in the turn that begins, and in what order.
    fn begin_turn(&mut self, shard: usize, timeout: Option<Duration>) {
        let now = self.now;
        let Self { shards, links, rng, options, .. } = self;
        let Some(shard) = shards.get_mut(shard) else { return };
        shard.busy = shard.deadline.is_some_and(|at| at <= now);
        shard.deadline = timeout.map(|timeout| now.plus(timeout));
        shard.conns.end_turn();
        let Shard { conns, ids, ready, .. } = shard;
        ready.clear();
        for id in ids.iter() {
            let Some(conn) = conns.get_mut(*id) else { continue };
            if conn.is_ready(links, now) && !options.faults.hits(options.faults.late, rng) {
                ready.push_back(*id);
            }
        }
        rng.shuffle(ready.make_contiguous());
        shard.accepts_left = ACCEPTS_PER_TURN;
    }

    fn accept(&mut self, shard: usize) -> Option<Completion> {
        let now = self.now;
        let this = self.shards.get_mut(shard)?;
        this.shut_until = this.shut_until.filter(|at| *at > now);
        if this.shut_until.is_some() || this.accepts_left == 0 {
            return None;
        }
        let first = this.backlog.iter().position(|(at, _)| *at <= now)?;
        if let Some(turnstile) = &this.turnstile
            && let Err(until) = turnstile.pass(0, now)
        {
            this.shut_until = Some(until);
            return None;
        }
        let (_, link) = this.backlog.remove(first)?;
        this.accepts_left -= 1;
        let peer = self.links.get(&link)?.peer;
        let conn = this.insert(SimConn { link, ..SimConn::default() })?;
        Some(Completion::Accepted { conn, listener: 0, peer })
    }

    /// Looks at the first of the ready connections, which has had its turn unless it says `Again`.
    fn step(&mut self, shard: usize, id: ConnId, arena: &mut Arena) -> Step {
        let now = self.now;
        let Some(conn) = self.shards.get_mut(shard).and_then(|s| s.conns.get_mut(id)) else {
            return Step::Rest;
        };
        let Some(link) = self.links.get_mut(&conn.link) else { return Step::Rest };
        if conn.is_unblocked(link) {
            conn.blocked = false;
            return Step::Again(Completion::Sent { conn: id });
        }
        if conn.paused || conn.closed {
            return Step::Rest;
        }
        let (faults, rng) = (&self.options.faults, &mut self.rng);
        if let Some(kept) = conn.kept.as_mut().filter(|kept| kept.is_frame()) {
            conn.redeliver = false;
            let (buf, most) = kept.frame_room();
            buf.extend(link.up.read(most, now, faults, rng));
            if let Some(frame) = kept.take_frame() {
                conn.kept = None;
                return Step::Done(Completion::ReceivedFrame { conn: id, frame });
            }
        } else {
            let kept = conn.kept.as_ref().map_or(&[][..], |kept| kept.bytes());
            if !arena.make_room(READ_CHUNK.max(kept.len())) {
                return Step::Again(Completion::ArenaFull);
            }
            let most = READ_CHUNK.saturating_sub(kept.len());
            let read = link.up.read(most, now, faults, rng);
            let redeliver = std::mem::take(&mut conn.redeliver);
            if read.len() > 0 || (redeliver && !kept.is_empty()) || most == 0 {
                let len = kept.len() + read.len();
                for (to, from) in arena.spare().iter_mut().zip(kept.iter().copied().chain(read)) {
                    *to = from;
                }
                conn.kept = None;
                return Step::Done(Completion::Received { conn: id, range: arena.commit(len) });
            }
        }
        let cause = link.up.ended(now).or(conn.broken.then_some(CloseCause::Reset));
        match cause {
            Some(cause) => {
                conn.closed = true;
                Step::Done(Completion::Closed { conn: id, cause })
            }
            None => Step::Rest,
        }
    }
}

enum Step {
    Rest,
    Done(Completion),
    Again(Completion),
}

impl SimDriver {
    pub(super) fn new(net: Shared, shard: usize, now: Time) -> Self {
        Self { net, shard, now }
    }

    /// How many connections it holds.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.with(|shard| shard.conns.len()).unwrap_or(0)
    }

    /// Whether an answer of a connection was ever [expected](Driver::expect). Nobody is looked at earlier for that:
    /// chance tries every order.
    #[must_use]
    pub fn has_expected(&self, id: ConnId) -> bool {
        self.with_conn(id, |conn| conn.was_expected).unwrap_or(false)
    }

    fn net(&self) -> MutexGuard<'_, Net> {
        lock(&self.net)
    }

    fn with<R>(&self, f: impl FnOnce(&mut Shard) -> R) -> Option<R> {
        self.net().shards.get_mut(self.shard).map(f)
    }

    fn with_conn<R>(&self, id: ConnId, f: impl FnOnce(&mut SimConn) -> R) -> Option<R> {
        self.with(|shard| shard.conns.get_mut(id).map(f)).flatten()
    }
}

impl Driver for SimDriver {
    type Socket = SimSocket;
    type Waker = SimWaker;

    fn now(&self) -> Time {
        self.now
    }

    fn last_round(&self) -> Duration {
        self.net().turn
    }

    fn wall_clock(&self) -> SystemTime {
        let now = self.net().now;
        SystemTime::UNIX_EPOCH + Duration::from_secs(EPOCH_SECS) + Duration::from_millis(now.0)
    }

    fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let shard = self.shard;
        let mut net = self.net();
        net.begin_turn(shard, timeout);
        let now = net.now;
        drop(net);
        self.now = now;
        Ok(())
    }

    fn next(&mut self, arena: &mut Arena) -> Option<Completion> {
        let mut net = lock(&self.net);
        if net.shards.get_mut(self.shard).is_some_and(|shard| std::mem::take(&mut shard.woken)) {
            net.shards.get_mut(self.shard)?.busy = true;
            return Some(Completion::Woken);
        }
        while let Some(&id) = net.shards.get(self.shard)?.ready.front() {
            let step = net.step(self.shard, id, arena);
            let shard = net.shards.get_mut(self.shard)?;
            if !matches!(step, Step::Again(_)) {
                shard.ready.pop_front();
            }
            if let Step::Done(completion) | Step::Again(completion) = step {
                shard.busy = true;
                return Some(completion);
            }
        }
        let accepted = net.accept(self.shard)?;
        net.shards.get_mut(self.shard)?.busy = true;
        Some(accepted)
    }

    fn keep(&mut self, conn: ConnId, rest: &[u8], frame_len: Option<usize>) {
        self.with_conn(conn, |conn| {
            conn.kept = None;
            if !rest.is_empty() {
                conn.kept.insert(Box::default()).fill(rest, frame_len);
            }
        });
    }

    fn send(&mut self, conn: ConnId, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        let state = self.with_conn(conn, |conn| (conn.link, conn.blocked));
        let (link, blocked) = state.ok_or(io::ErrorKind::NotConnected)?;
        if blocked {
            return Ok(0);
        }
        let mut bytes = Vec::new();
        bufs.iter().for_each(|buf| bytes.extend_from_slice(buf));
        let mut net = self.net();
        let sent =
            net.link(link, |link, now, faults, rng| link.server_send(&bytes, now, faults, rng));
        net.reset_by_chance(link);
        drop(net);
        let sent = sent.unwrap_or(Err(io::ErrorKind::ConnectionReset.into()));
        self.with_conn(conn, |conn| match &sent {
            Ok(sent) => conn.blocked = *sent < bytes.len(),
            Err(_) => conn.broken = true,
        });
        sent
    }

    fn expect(&mut self, conn: ConnId) {
        self.with_conn(conn, |conn| conn.was_expected = true);
    }

    fn is_unread(&mut self, conn: ConnId) -> bool {
        let mut net = self.net();
        let Net { shards, links, now, .. } = &mut *net;
        let entry = shards.get_mut(self.shard).and_then(|shard| shard.conns.get_mut(conn));
        let Some(entry) = entry else { return false };
        links.get_mut(&entry.link).is_some_and(|link| entry.is_readable(link, *now))
    }

    fn pause(&mut self, conn: ConnId) {
        self.with_conn(conn, |conn| conn.paused = true);
    }

    fn resume(&mut self, conn: ConnId) {
        self.with_conn(conn, |conn| conn.redeliver |= std::mem::take(&mut conn.paused));
    }

    fn close(&mut self, conn: ConnId, mode: CloseMode) {
        let Some(conn) = self.with(|shard| shard.remove(conn)).flatten() else { return };
        let graceful = mode == CloseMode::Graceful;
        self.net().link(conn.link, |link, now, faults, rng| {
            link.server_close(graceful, now, faults, rng);
        });
    }

    fn detach(&mut self, conn: ConnId) -> Option<SimSocket> {
        let mut conn = self.with(|shard| shard.remove(conn)).flatten()?;
        conn.paused = false;
        conn.closed = false;
        Some(SimSocket { net: Arc::clone(&self.net), conn: Some(conn) })
    }

    fn attach(&mut self, mut socket: SimSocket) -> io::Result<ConnId> {
        let mut conn = socket.conn.take().ok_or(io::ErrorKind::NotConnected)?;
        conn.redeliver = conn.kept.is_some();
        let id = self.with(|shard| shard.insert(conn)).flatten();
        id.ok_or_else(|| io::ErrorKind::OutOfMemory.into())
    }

    fn waker(&self) -> SimWaker {
        SimWaker { net: Arc::clone(&self.net), shard: self.shard }
    }

    fn stop_accepting(&mut self) {
        let shard = self.shard;
        let mut net = self.net();
        let Some(this) = net.shards.get_mut(shard) else { return };
        this.accepting = false;
        for (_, link) in std::mem::take(&mut this.backlog) {
            net.link(link, |link, now, faults, rng| link.server_close(false, now, faults, rng));
        }
    }

    fn set_turnstile(&mut self, turnstile: Arc<dyn Turnstile>) {
        self.with(|shard| shard.turnstile = Some(turnstile));
    }
}

impl Drop for SimDriver {
    /// A shard that dies takes its connections with it.
    fn drop(&mut self) {
        self.stop_accepting();
        for id in self.with(|shard| shard.ids.clone()).unwrap_or_default() {
            self.close(id, CloseMode::Abort);
        }
    }
}
