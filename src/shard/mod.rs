//! One event loop, and everything it owns: connections, sessions, subscriptions, timers, counters.
//!
//! A turn reads what the sockets have and handles every whole frame in place, takes in the mail of the
//! other shards, does what is due, and writes each touched connection once. Nothing here blocks, and
//! nothing is shared with another shard but mailboxes and counters.

mod accept;
mod authenticate;
mod budget;
mod connect;
mod connection;
mod deliver;
mod distribute;
mod ended;
mod ending;
mod exchange;
mod expiry;
mod flush;
mod gate;
mod groups;
mod input;
mod long_packets;
pub mod mail;
mod outbox;
mod outcomes;
mod overload;
mod paging;
mod parcel;
mod pressure;
mod publish;
mod rate;
mod remote;
mod restore;
mod retained;
mod rights;
mod runs;
mod scans;
mod sessions;
mod settings;
mod stats;
mod stop;
mod store;
mod subscribe;
mod sys;
mod timers;
mod turnstile;
mod user_rate;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

pub use self::mail::{Bell, MAX_SHARDS};
pub use self::restore::Stored;
pub use self::settings::{
    GiveUp, ListenerSettings, OverflowOffline, OverflowOnline, PublishRate, PublishRateChange,
    Quota, Quotas, Retry, Settings, Terms,
};
pub use self::stats::{Counter, ShardStats};

use crate::hooks::Hooks;
use crate::net::{Arena, Completion, ConnId, Driver};
use crate::router::{Router, RouterLimits};
use crate::timer::{Time, Wheel};

use self::accept::Admission;
use self::authenticate::Authentication;
use self::budget::{Allowance, Budget};
use self::connection::Connections;
use self::ended::EndedSessions;
use self::expiry::ExpiringQueues;
use self::flush::{flush, flush_output};
use self::gate::Gate;
use self::input::{Taken, Then};
use self::long_packets::LongPackets;
use self::overload::Overload;
use self::pressure::Pressure;
use self::rate::LeftBuckets;
use self::remote::Item;
use self::rights::RightsChange;
use self::scans::RetainedScans;
use self::sessions::Sessions;
use self::stop::Stopping;
use self::store::Keeper;
use self::sys::LogLimit;
use self::timers::Timer;

/// What all shards of a broker share.
#[derive(Debug)]
pub struct Shared {
    settings: Mutex<Arc<Settings>>,
    /// Counts its changes.
    settings_changes: AtomicU64,
    /// Seed of the hash that gives each client its home shard, and of everything random.
    pub seed: u64,
    /// By shard.
    pub stats: Vec<Arc<ShardStats>>,
    /// What others want to know or decide.
    pub hooks: Hooks,
    pub(crate) admission: Admission,
    /// Counts the changes of what clients may do.
    rules: AtomicU64,
    pub(crate) budget: Budget,
    stop: AtomicBool,
    short_of_memory: AtomicBool,
    /// Shards that ended by themselves.
    failed: AtomicU64,
}

impl Shared {
    /// What `shards` shards share.
    #[must_use]
    pub fn new(settings: Settings, hooks: Hooks, shards: usize, seed: u64) -> Self {
        let admission = Admission::new(&settings);
        let budget = Budget::new(settings.max_total_queued_bytes, shards);
        Self {
            settings: Mutex::new(Arc::new(settings)),
            settings_changes: AtomicU64::new(0),
            seed,
            stats: (0..shards).map(|_| Arc::default()).collect(),
            hooks,
            admission,
            rules: AtomicU64::new(0),
            budget,
            stop: AtomicBool::new(false),
            short_of_memory: AtomicBool::new(false),
            failed: AtomicU64::new(0),
        }
    }

    /// The configuration, as it is now.
    #[must_use]
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has all shards go by other settings, for those who connect from now on. Only the quotas, the limits of
    /// listeners but for their proxies, and the limits of connections may be others.
    pub fn change_settings(&self, settings: Settings) {
        let mut current = self.settings.lock().unwrap_or_else(PoisonError::into_inner);
        self.admission.turnstile.follow(&settings);
        *current = Arc::new(settings);
        self.settings_changes.fetch_add(1, Ordering::Release);
    }

    /// Says that what clients may do has changed: shards asleep have to be woken.
    pub fn rules_changed(&self) {
        self.rules.fetch_add(1, Ordering::AcqRel);
    }

    fn set_short_of_memory(&self, short: bool) {
        self.short_of_memory.store(short, Ordering::Relaxed);
    }

    fn is_short_of_memory(&self) -> bool {
        self.short_of_memory.load(Ordering::Relaxed)
    }

    /// Has every shard stop: those asleep have to be woken.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
    }

    /// Says that this shard has ended by itself: the stop of the others does not wait for it. They
    /// have to be woken.
    pub fn shard_failed(&self, shard: u8) {
        self.failed.fetch_or(1 << shard, Ordering::Release);
    }
}

/// One event loop.
pub struct Shard<D: Driver> {
    driver: D,
    arena: Arena,
    core: Core<D::Socket>,
}

/// All of a shard but its driver and the bytes just read.
struct Core<S> {
    id: u8,
    shards: u8,
    shared: Arc<Shared>,
    settings: Arc<Settings>,
    /// The changes of the settings that these have.
    settings_seen: u64,
    now: Time,
    /// Numbers the turns for confirmations.
    turn: u64,
    connections: Connections,
    sessions: Sessions,
    router: Router,
    timers: Wheel<Timer>,
    due: Vec<Timer>,
    mailbox: mail::Mailbox<Item<S>>,
    gate: Gate,
    /// Nothing is stored without one.
    store: Option<Keeper>,
    pressure: Pressure,
    left_buckets: LeftBuckets,
    /// What this shard may queue.
    allowance: Allowance,
    scans: RetainedScans,
    /// There is more to remove of what is retained and expired.
    expiring: bool,
    expiring_queues: ExpiringQueues,
    stats: Arc<ShardStats>,
    /// Connections to read again.
    resumed: Vec<ConnId>,
    long_packets: LongPackets,
    /// Connections whose sessions have more to send as soon as what was written is gone.
    pumping: Vec<ConnId>,
    /// Logs about clients, at a bounded rate.
    log: LogLimit,
    stopping: Stopping,
    sys: sys::Sys,
    /// Reused by whoever needs a moment's buffer.
    buffer: Vec<u8>,
    /// Reused for the topic of the message at hand.
    topic: String,
    /// The clock of retained messages: later than every stamp seen.
    clock: u64,
    /// Sessions to end when the turn ends, by key and serial.
    doomed: Vec<(crate::router::SessionKey, u32)>,
    ended: EndedSessions,
    /// What other shards know of the bytes that subscriptions take here.
    subscription_bytes: usize,
    /// Sessions with a connection.
    connected: u64,
    overload: Overload,
    authentication: Authentication,
    rights_change: RightsChange,
    random: fastrand::Rng,
}

/// Batches of mail taken in per turn, at most: sockets are not to wait for a flood of mail.
const BATCHES_PER_TURN: usize = 64;

/// Memory that the buffer for a moment keeps.
const BUFFER_KEPT: usize = 64 * 1024;

/// The longest sleep; timers, sockets and mail end it earlier.
const MAX_SLEEP: Duration = Duration::from_secs(60);

impl<D: Driver> Shard<D> {
    /// The shards of a broker, one for each driver: at most [`MAX_SHARDS`].
    #[must_use]
    pub fn assemble(drivers: Vec<D>, shared: &Arc<Shared>) -> Vec<Self> {
        let bells: Vec<_> = drivers.iter().map(|driver| Bell::new(driver.waker())).collect();
        let mailboxes = mail::mailboxes(&bells, shared.settings().mailbox_bytes);
        (0..)
            .zip(drivers.into_iter().zip(mailboxes))
            .map(|(id, (driver, mailbox))| Self::new(id, driver, mailbox, shared.clone()))
            .collect()
    }

    /// As [`assemble`](Self::assemble), for a broker that stores its sessions: with all that was stored.
    #[must_use]
    pub fn assemble_stored(drivers: Vec<D>, shared: &Arc<Shared>, stored: Stored) -> Vec<Self> {
        let mut shards = Self::assemble(drivers, shared);
        Self::restore(&mut shards, stored);
        shards
    }

    fn new(
        id: u8,
        mut driver: D,
        mailbox: mail::Mailbox<Item<D::Socket>>,
        shared: Arc<Shared>,
    ) -> Self {
        driver.set_turnstile(shared.admission.turnstile.clone());
        let now = driver.now();
        let settings = shared.settings();
        #[expect(clippy::cast_possible_truncation, reason = "at most MAX_SHARDS")]
        let shards = shared.stats.len() as u8;
        let limits = RouterLimits {
            max_retained_messages: settings.max_retained_messages,
            max_retained_bytes: settings.max_retained_bytes,
            route_cache_entries: settings.route_cache_entries,
            strategy: settings.strategy,
            ..RouterLimits::default()
        };
        let mut core = Core {
            id,
            shards,
            now,
            turn: 1,
            connections: Connections::default(),
            sessions: Sessions::new(shared.seed),
            router: Router::new(id, shards, shared.seed, limits),
            timers: Wheel::new(now),
            due: Vec::new(),
            authentication: Authentication::new(mailbox.bell()),
            rights_change: RightsChange::default(),
            mailbox,
            gate: Gate::new(shards),
            store: None,
            pressure: Pressure::default(),
            left_buckets: LeftBuckets::default(),
            allowance: Allowance::default(),
            scans: RetainedScans::default(),
            expiring: false,
            expiring_queues: ExpiringQueues::default(),
            stats: shared.stats[usize::from(id)].clone(),
            resumed: Vec::new(),
            long_packets: LongPackets::default(),
            pumping: Vec::new(),
            log: LogLimit::new(settings.client_lines_per_second),
            stopping: Stopping::default(),
            sys: sys::Sys::default(),
            buffer: Vec::new(),
            topic: String::new(),
            clock: 0,
            doomed: Vec::new(),
            ended: EndedSessions::default(),
            subscription_bytes: 0,
            connected: 0,
            overload: Overload::new(settings.max_turn, settings.max_memory, now),
            random: fastrand::Rng::with_seed(shared.seed ^ u64::from(id)),
            settings,
            settings_seen: 0,
            shared,
        };
        core.timers.insert(now.plus(timers::SWEEP_INTERVAL), Timer::Sweep);
        core.start_sys();
        Self { driver, arena: Arena::default(), core }
    }

    /// Wakes this shard from another thread.
    #[must_use]
    pub fn bell(&self) -> Arc<Bell> {
        self.core.mailbox.bell()
    }

    /// Turns until the broker is told to stop and this shard has let everyone go.
    ///
    /// # Errors
    /// The driver is of no use any more.
    pub fn run(mut self) -> io::Result<()> {
        while self.turn(true)? {}
        Ok(())
    }

    /// One turn; with `sleep` it may wait for something to do. False when the shard has stopped.
    ///
    /// # Errors
    /// The driver is of no use any more.
    pub fn turn(&mut self, sleep: bool) -> io::Result<bool> {
        let sleep = sleep && !self.driver.has_more();
        let timeout = if sleep { self.core.sleep() } else { Duration::ZERO };
        self.core.tell_writer(!timeout.is_zero());
        let waited = self.driver.wait(Some(timeout));
        self.core.tell_writer(false);
        self.core.mailbox.awake();
        waited?;
        self.core.now = self.driver.now();
        self.core.measure_round(self.driver.last_round());
        self.core.take_committed();
        self.take_mail();
        self.core.take_decisions();
        self.core.follow_rules();
        self.take_completions();
        self.core.run_timers(&mut self.driver);
        self.core.follow_store();
        self.core.expire_retained();
        self.core.expire_queues();
        self.scan_retained();
        self.pump_on();
        // By now receivers may have acknowledged what was waited for.
        self.core.take_committed();
        self.core.end_doomed();
        self.core.remove_remains();
        self.core.check_stop(&mut self.driver);
        self.finish_turn();
        self.core.finish_stop();
        Ok(!self.core.stopping.is_done())
    }

    /// Prepares to sleep as [`turn`](Self::turn) does, for a test that runs several shards in one
    /// thread: between two turns mail wakes the shard. Gives how long it may sleep; zero: not at all.
    pub fn rest(&mut self) -> Duration {
        self.core.sleep()
    }

    fn take_completions(&mut self) {
        while let Some(completion) = self.driver.next(&mut self.arena) {
            match completion {
                Completion::Accepted { conn, listener, peer } => {
                    self.core.accepted(&mut self.driver, conn, listener, peer);
                }
                Completion::Relayed { conn, peer } => {
                    self.core.relayed(&mut self.driver, conn, peer);
                }
                Completion::HandshakeDone { conn, certificate } => {
                    self.core.handshake_done(conn, certificate);
                }
                Completion::Received { conn, mut range } => loop {
                    let start = range.start;
                    let bytes = self.arena.bytes(range.clone());
                    let taken = self.core.receive(conn, bytes, input::Source::Arena(start));
                    if taken.then != Then::Flush {
                        follow(&mut self.core, &mut self.driver, conn, bytes, taken);
                        self.flush_if_much();
                        break;
                    }
                    flush_output(&mut self.core, &mut self.driver, &self.arena);
                    range.start += taken.consumed;
                },
                Completion::Receiving { conn } => {
                    if let Some(connection) = self.core.connections.get_mut(conn) {
                        connection.last_received = self.core.now;
                    }
                }
                Completion::ReceivedFrame { conn, frame } => {
                    let taken = self.core.receive(conn, &frame, input::Source::Frame(&frame));
                    if taken.then == Then::Flush {
                        flush_output(&mut self.core, &mut self.driver, &self.arena);
                    }
                    follow(&mut self.core, &mut self.driver, conn, &frame, taken);
                }
                Completion::Sent { conn } => {
                    flush::drained(&mut self.core, &mut self.driver, &self.arena, conn);
                }
                Completion::Closed { conn, cause } => self.core.peer_closed(conn, cause),
                Completion::ArenaFull => flush(&mut self.core, &mut self.driver, &mut self.arena),
                Completion::Woken => {}
            }
        }
    }

    /// Goes on with retained messages for new subscriptions, so many steps in a turn.
    fn scan_retained(&mut self) {
        for _ in 0..scans::STEPS_PER_TURN {
            if !self.core.scan_on() {
                return;
            }
            self.flush_if_much();
        }
    }

    /// Goes on with queues of which as much was written in the last turn as one may hold.
    fn pump_on(&mut self) {
        for id in std::mem::take(&mut self.core.pumping) {
            self.core.pump(id);
            self.flush_if_much();
        }
    }

    fn flush_if_much(&mut self) {
        if self.core.connections.wants_flush() {
            flush_output(&mut self.core, &mut self.driver, &self.arena);
        }
    }

    /// Takes in what other shards sent.
    fn take_mail(&mut self) {
        let mut bytes = 0;
        for _ in 0..BATCHES_PER_TURN {
            // No more than a lane holds: its senders are not held before the turn ends.
            if bytes >= self.core.settings.mailbox_bytes {
                break;
            }
            let Some(weight) = self.take_one_batch() else { break };
            bytes += weight;
        }
    }

    /// Takes in what other shards have sent, however much it is: before the first turn.
    fn take_all_mail(&mut self) {
        while self.take_one_batch().is_some() {}
    }

    /// Gives what it weighed.
    fn take_one_batch(&mut self) -> Option<usize> {
        let batch = self.core.mailbox.take()?;
        self.core.mailbox.taken(&batch);
        // It may be of a turn that began after this one: what it brings would expire later than it should.
        self.core.now = self.core.now.max(batch.sent_at);
        let weight = batch.weight();
        self.core.take_batch(&mut self.driver, &self.arena, batch);
        Some(weight)
    }

    /// Writes to sockets and peers what the turn produced.
    fn finish_turn(&mut self) {
        // Before the answers leave: whoever sees one finds its acknowledgements counted.
        self.core.measure_loads();
        flush(&mut self.core, &mut self.driver, &mut self.arena);
        self.core.hand_over();
        self.core.mailbox.post(self.core.turn, self.core.now);
        self.core.turn += 1;
        self.core.release_lanes();
        self.core.allowance.settle(&self.core.shared.budget);
        self.core.settle_subscriptions();
        self.core.long_packets.take_next(&mut self.core.resumed);
        for conn in std::mem::take(&mut self.core.resumed) {
            if self.core.may_read(conn)
                && let Some(connection) = self.core.connections.get_mut(conn)
            {
                connection.held = false;
                self.driver.resume(conn);
            }
        }
    }
}

/// Does with a connection what its input asked for.
fn follow<D: Driver>(
    core: &mut Core<D::Socket>,
    driver: &mut D,
    conn: ConnId,
    bytes: &[u8],
    taken: Taken,
) {
    let Taken { consumed, frame_len, then } = taken;
    let rest = bytes.get(consumed..).unwrap_or_default();
    match then {
        Then::Continue | Then::Flush => {
            if !rest.is_empty() {
                driver.keep(conn, rest, frame_len);
            }
        }
        Then::Hold => {
            driver.pause(conn);
            if !rest.is_empty() {
                driver.keep(conn, rest, frame_len);
            }
            if let Some(connection) = core.connections.get_mut(conn) {
                connection.held = true;
            }
        }
        Then::Stop => {}
        Then::Move(home) => {
            driver.keep(conn, rest, frame_len);
            core.send_home(driver, conn, home);
        }
    }
}

impl<S> Core<S> {
    /// Gives the buffer that everybody uses back.
    fn give_back(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        buffer.shrink_to(BUFFER_KEPT);
        self.buffer = buffer;
    }

    /// Takes over the settings of today, before somebody is let in by them.
    fn follow_settings(&mut self) {
        let now = self.shared.settings_changes.load(Ordering::Acquire);
        if self.settings_seen != now {
            self.settings_seen = now;
            self.settings = self.shared.settings();
        }
    }

    /// How long to sleep; announces the sleep to those who would wake us.
    fn sleep(&mut self) -> Duration {
        if self.scans.are_ready()
            || self.expiring
            || self.may_expire_queues()
            || self.has_remains()
            || !self.resumed.is_empty()
            || self.long_packets.go_on()
            || !self.pumping.is_empty()
            || !self.mailbox.may_sleep()
            || self.has_committed()
            || self.authentication.has_news()
            || self.has_new_rules()
            || self.stop_goes_on()
        {
            return Duration::ZERO;
        }
        let deadlines = [self.timers.next_deadline(), self.stop_deadline()];
        let first = deadlines.into_iter().flatten().min();
        first.map_or(MAX_SLEEP, |at| at.since(self.now).min(MAX_SLEEP))
    }
}
