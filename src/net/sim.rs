//! A network in memory, with virtual time and seeded faults.
//!
//! A [`World`] holds any number of [`SimDriver`]s, one for each shard, and the clients that connect to
//! them. Nothing happens by itself: the test moves the time, lets shards take their turns, and acts for
//! the clients. All chance, the test's own included ([`World::below`], [`World::chance`]), comes from
//! one seed: the same calls in the same order give the same run.
//!
//! ```
//! use sluice::net::sim::{SimOptions, World};
//! use sluice::net::{Arena, Completion, Driver};
//! use std::io::IoSlice;
//! use std::time::Duration;
//!
//! let world = World::new(7, SimOptions::default());
//! let mut shard = world.add_driver();
//! let mut arena = Arena::default();
//! let client = world.connect();
//! let mut unsent: &[u8] = b"ping";
//! let mut echoed = Vec::new();
//! while echoed != b"ping" {
//!     if let Ok(sent) = world.client_send(client, unsent) {
//!         unsent = &unsent[sent..];
//!     }
//!     // In one thread wait() never blocks.
//!     shard.wait(None)?;
//!     while let Some(completion) = shard.next(&mut arena) {
//!         match completion {
//!             Completion::Received { conn, range } => {
//!                 // Short sends are left out here; a shard waits for `Sent`.
//!                 shard.send(conn, &[IoSlice::new(arena.bytes(range))])?;
//!             }
//!             _ => {}
//!         }
//!     }
//!     world.client_recv(client, &mut echoed);
//!     world.advance(Duration::from_millis(1));
//! #   if world.client_end(client).is_some() || world.now().0 > 1000 { break; }
//! }
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! A run over several shards usually steps like this: act for a random client, or let a random ready
//! shard ([`World::ready_shard`]) take a turn; when no shard is ready, [`World::advance_to`] the
//! [`World::next_event`]. At the end [`World::heal`], and step until all is quiet.
//!
//! What the faults do: reads and writes fall short, chunks take their time (and so overtake those of
//! other connections, never of their own), readiness is noticed a turn late, connections are reset.
//! Ready connections come in random order. Buffers are bounded in both directions, so that a client
//! that does not read stops the broker from sending, and a paused connection stops the client.

mod driver;
mod link;

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;

use self::driver::SimConn;
pub use self::driver::{SimDriver, SimSocket, SimWaker};
use self::link::Link;
use super::driver::{CloseCause, ConnId, Turnstile};
use super::slots::Slots;
use crate::timer::Time;

/// How often what goes wrong. Probabilities are from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Faults {
    /// A read gets only some of what has arrived.
    pub short_read: f64,
    /// A write takes only some of what there is room for, or nothing.
    pub short_write: f64,
    /// A connection that is ready is not looked at in this turn.
    pub late: f64,
    /// A connection is reset, for each write of either side.
    pub reset: f64,
    /// The longest a chunk, an end or a new connection is on the way.
    pub max_delay: Duration,
}

impl Faults {
    /// A network that does its best, at once.
    pub const NONE: Self = Self {
        short_read: 0.0,
        short_write: 0.0,
        late: 0.0,
        reset: 0.0,
        max_delay: Duration::ZERO,
    };

    fn hits(&self, probability: f64, rng: &mut Rng) -> bool {
        // No draw for what never happens: a fault switched off leaves the rest of a run as it was.
        probability > 0.0 && rng.f64() < probability
    }

    fn delayed(&self, now: Time, rng: &mut Rng) -> Time {
        let most = u64::try_from(self.max_delay.as_millis()).unwrap_or(u64::MAX);
        if most == 0 { now } else { now.plus(Duration::from_millis(rng.u64(0..=most))) }
    }
}

impl Default for Faults {
    /// Everything but resets, which change what a model may expect.
    fn default() -> Self {
        Self {
            short_read: 0.2,
            short_write: 0.2,
            late: 0.1,
            reset: 0.0,
            max_delay: Duration::from_millis(20),
        }
    }
}

/// How a [`World`] is set up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SimOptions {
    /// What goes wrong.
    pub faults: Faults,
    /// Bytes under way in one direction of a connection, in flight and not yet read together.
    pub buffer_bytes: usize,
}

impl Default for SimOptions {
    fn default() -> Self {
        Self { faults: Faults::default(), buffer_bytes: 16 * 1024 }
    }
}

/// A client of the simulated network. Never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientId(pub u32);

/// The simulated network. Clones are the same world.
#[derive(Clone, Debug)]
pub struct World {
    net: Shared,
}

type Shared = Arc<Mutex<Net>>;

fn lock(net: &Shared) -> MutexGuard<'_, Net> {
    net.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Net {
    rng: Rng,
    options: SimOptions,
    now: Time,
    shards: Vec<Shard>,
    links: BTreeMap<u32, Link>,
    next_client: u32,
    turn: Duration,
}

/// What the world knows of one driver.
#[derive(Debug)]
struct Shard {
    conns: Slots<SimConn>,
    /// Ids in use, in order: chance needs a defined order to choose from.
    ids: Vec<ConnId>,
    /// To be looked at in this turn.
    ready: VecDeque<ConnId>,
    backlog: VecDeque<(Time, u32)>,
    accepts_left: usize,
    accepting: bool,
    turnstile: Option<Arc<dyn Turnstile>>,
    /// Nobody passes until then.
    shut_until: Option<Time>,
    woken: bool,
    wakes: u64,
    /// When the last wait would have timed out.
    deadline: Option<Time>,
    /// Its last turn did something, so its timers may have changed since it stated a timeout.
    busy: bool,
}

impl Net {
    /// Runs `f` on a connection, and forgets the connection if that was the end of it.
    fn link<R>(
        &mut self,
        id: u32,
        f: impl FnOnce(&mut Link, Time, &Faults, &mut Rng) -> R,
    ) -> Option<R> {
        let link = self.links.get_mut(&id)?;
        let result = f(link, self.now, &self.options.faults, &mut self.rng);
        if link.is_dead() {
            self.links.remove(&id);
        }
        Some(result)
    }

    fn reset_by_chance(&mut self, id: u32) {
        let faults = self.options.faults;
        if faults.hits(faults.reset, &mut self.rng) {
            self.link(id, |link, now, faults, rng| link.reset(now, faults, rng));
        }
    }

    fn connect(&mut self, shard: usize) -> ClientId {
        let id = self.next_client;
        self.next_client += 1;
        let [.., a, b, c] = id.to_be_bytes();
        let peer = SocketAddr::from(([10, a, b, c], 40_000));
        let mut link = Link::new(peer, self.options.buffer_bytes);
        let at = self.options.faults.delayed(self.now, &mut self.rng);
        match self.shards.get_mut(shard).filter(|shard| shard.accepting) {
            Some(shard) => shard.backlog.push_back((at, id)),
            None => link.server_close(false, self.now, &Faults::NONE, &mut self.rng),
        }
        self.links.insert(id, link);
        ClientId(id)
    }

    fn is_ready(&mut self, shard: usize) -> bool {
        let Some(this) = self.shards.get_mut(shard) else { return false };
        let now = self.now;
        let open = this.shut_until.is_none_or(|at| at <= now);
        let accepts = open && this.backlog.iter().any(|(at, _)| *at <= now);
        if this.busy || this.woken || accepts || this.deadline.is_some_and(|at| at <= now) {
            return true;
        }
        let Self { shards, links, .. } = self;
        let Some(Shard { conns, ids, .. }) = shards.get_mut(shard) else { return false };
        ids.iter().any(|id| conns.get_mut(*id).is_some_and(|conn| conn.is_ready(links, now)))
    }
}

impl World {
    /// A world without drivers or clients, at time 0.
    #[must_use]
    pub fn new(seed: u64, options: SimOptions) -> Self {
        let net = Net {
            rng: Rng::with_seed(seed),
            options,
            now: Time(0),
            shards: Vec::new(),
            links: BTreeMap::new(),
            next_client: 0,
            turn: Duration::ZERO,
        };
        Self { net: Arc::new(Mutex::new(net)) }
    }

    /// A driver for the next shard (0, 1, ...), with one listener.
    #[must_use]
    pub fn add_driver(&self) -> SimDriver {
        let mut net = lock(&self.net);
        net.shards.push(Shard::new());
        SimDriver::new(Arc::clone(&self.net), net.shards.len() - 1, net.now)
    }

    /// The machine of all drivers stops: its connections break, and the drivers are of no use any
    /// more. Those that are added from now on are shards 0, 1, ... again.
    pub fn crash(&self) {
        let mut net = lock(&self.net);
        net.shards.clear();
        let ids: Vec<u32> = net.links.keys().copied().collect();
        for id in ids {
            net.link(id, |link, now, _, rng| link.server_close(false, now, &Faults::NONE, rng));
        }
    }

    /// The time, which only the test moves.
    #[must_use]
    pub fn now(&self) -> Time {
        lock(&self.net).now
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let mut net = lock(&self.net);
        net.now = net.now.plus(by);
    }

    /// Has every turn say that it took so long; no time passes for it.
    pub fn set_turn(&self, turn: Duration) {
        lock(&self.net).turn = turn;
    }

    /// Lets time pass until `at`; never back.
    pub fn advance_to(&self, at: Time) {
        let mut net = lock(&self.net);
        net.now = net.now.max(at);
    }

    /// The next moment at which something arrives anywhere, or the timeout of a shard's last wait is
    /// over; `None` if there is nothing to wait for.
    #[must_use]
    pub fn next_event(&self) -> Option<Time> {
        let net = lock(&self.net);
        let now = net.now;
        let arrivals = net
            .links
            .values()
            .flat_map(|link| [&link.up, &link.down])
            .filter_map(|p| p.next_arrival(now));
        let shards = net.shards.iter().flat_map(|shard| {
            let arrivals = shard.backlog.iter().map(|(at, _)| *at);
            arrivals.chain(shard.deadline).chain(shard.shut_until).filter(|at| *at > now)
        });
        arrivals.chain(shards).min()
    }

    /// Whether a wait of this shard's driver would return at once: there is something to complete, its
    /// timeout is over, or its last turn had something to do (so that it may want another timeout).
    #[must_use]
    pub fn is_ready(&self, shard: usize) -> bool {
        lock(&self.net).is_ready(shard)
    }

    /// One of the ready shards, by chance.
    #[must_use]
    pub fn ready_shard(&self) -> Option<usize> {
        let mut net = lock(&self.net);
        let ready: Vec<usize> = (0..net.shards.len()).filter(|s| net.is_ready(*s)).collect();
        net.rng.choice(ready)
    }

    /// A number below `n` (0 if `n` is 0), by chance.
    #[must_use]
    pub fn below(&self, n: usize) -> usize {
        lock(&self.net).rng.usize(0..n.max(1))
    }

    /// True with this probability.
    #[must_use]
    pub fn chance(&self, probability: f64) -> bool {
        lock(&self.net).rng.f64() < probability
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        lock(&self.net).options.faults = faults;
    }

    /// From now on nothing goes wrong. What is on the way still takes its time.
    pub fn heal(&self) {
        self.set_faults(Faults::NONE);
    }

    /// How often another thread or shard woke this one.
    #[must_use]
    pub fn wakes(&self, shard: usize) -> u64 {
        lock(&self.net).shards.get(shard).map_or(0, |shard| shard.wakes)
    }

    /// How many connections exist, seen from either end.
    #[must_use]
    pub fn connections(&self) -> usize {
        lock(&self.net).links.len()
    }

    /// A new client, on its way to the listener of a shard chosen by chance.
    #[must_use]
    pub fn connect(&self) -> ClientId {
        let mut net = lock(&self.net);
        let shards = net.shards.len();
        let shard = net.rng.usize(0..shards.max(1));
        net.connect(shard)
    }

    /// A new client, on its way to the listener of `shard`. If nobody listens there, its connection is
    /// over at once.
    #[must_use]
    pub fn connect_to(&self, shard: usize) -> ClientId {
        lock(&self.net).connect(shard)
    }

    /// The client sends; returns how many bytes were taken, perhaps 0.
    ///
    /// # Errors
    /// It has closed, or knows of a reset.
    pub fn client_send(&self, client: ClientId, bytes: &[u8]) -> io::Result<usize> {
        let mut net = lock(&self.net);
        let sent =
            net.link(client.0, |link, now, faults, rng| link.client_send(bytes, now, faults, rng));
        net.reset_by_chance(client.0);
        sent.unwrap_or(Err(io::ErrorKind::BrokenPipe.into()))
    }

    /// The client reads what has arrived, perhaps not all of it, and appends it to `out`; returns how
    /// many bytes.
    pub fn client_recv(&self, client: ClientId, out: &mut Vec<u8>) -> usize {
        let mut net = lock(&self.net);
        let read = net.link(client.0, |link, now, faults, rng| {
            if link.client_stalled || !link.client_open {
                return 0;
            }
            let bytes = link.down.read(usize::MAX, now, faults, rng);
            let len = bytes.len();
            out.extend(bytes);
            len
        });
        read.unwrap_or(0)
    }

    /// How the connection ended as the client sees it, once it has read everything before that.
    #[must_use]
    pub fn client_end(&self, client: ClientId) -> Option<CloseCause> {
        lock(&self.net).link(client.0, |link, now, _, _| link.down.ended(now)).flatten()
    }

    /// Whether nothing and nobody has ended the connection yet, whether or not a side knows.
    #[must_use]
    pub fn client_is_whole(&self, client: ClientId) -> bool {
        lock(&self.net).link(client.0, |link, _, _, _| link.is_whole()).unwrap_or(false)
    }

    /// While stalled, the client reads nothing, whatever [`World::client_recv`] is asked.
    pub fn client_stall(&self, client: ClientId, stalled: bool) {
        lock(&self.net).link(client.0, |link, _, _, _| link.client_stalled = stalled);
    }

    /// The client says that it sends no more. It still reads.
    pub fn client_shutdown(&self, client: ClientId) {
        let mut net = lock(&self.net);
        net.link(client.0, |link, now, faults, rng| link.client_shutdown(now, faults, rng));
    }

    /// The client closes. What it sent arrives; if it left something unread, the broker sees a reset
    /// behind that, otherwise an orderly end.
    pub fn client_close(&self, client: ClientId) {
        let mut net = lock(&self.net);
        net.link(client.0, |link, now, faults, rng| link.client_close(now, faults, rng));
    }

    /// The client resets the connection. What it sent and is not yet there may be lost.
    pub fn client_reset(&self, client: ClientId) {
        let mut net = lock(&self.net);
        net.link(client.0, |link, now, faults, rng| {
            link.reset(now, faults, rng);
            link.client_open = false;
        });
    }
}

#[cfg(test)]
mod tests;
