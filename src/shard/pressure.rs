//! Back-pressure: a full receiver slows those who publish to it, for a while.
//!
//! A QoS 1 or 2 message for a connected session whose queue is full is not taken in: its publisher's
//! socket is not read until there is room, or until the receiver's patience is over. A publisher on
//! another shard is told to hold; what it had sent by then is queued beyond the limit.
//!
//! A publisher that is a full receiver itself is never held: what drains its queue are
//! acknowledgements that come over the same socket, and two full clients that publish to each other
//! would wait for each other. What it publishes meanwhile is queued beyond the limit, too. That
//! has a limit of its own: twice the bytes of a queue, and what mailboxes hold.

use std::collections::BTreeSet;

use hashbrown::HashMap;
use smallvec::SmallVec;

use crate::mqtt::{QoS, ReasonCode};
use crate::net::{ConnId, Driver};
use crate::router::{GroupId, RouteId, SessionKey};
use crate::session::{Delivery, DropCause, InMemory, SessionLimits};
use crate::timer::TimerKey;

use super::Core;
use super::connection::State;
use super::ending::Ending;
use super::expiry::EXPIRED_PER_TURN;
use super::input::{Reader, Then};
use super::mail::STORE_LANE;
use super::remote::{Item, Publisher};
use super::sessions::Slot;
use super::settings::{OverflowOnline, Settings};
use super::timers::Timer;

/// Receivers whose queues are full, and who waits for them.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    full: HashMap<SessionKey, Full, foldhash::fast::RandomState>,
    /// Clients of this shard, by [`Publisher::client`], that other shards asked to hold, and how
    /// often. Not by session: who connects anew, or begins a new session, is still held.
    held: HashMap<u64, u32, foldhash::fast::RandomState>,
    /// Connections that wait for the lanes to other shards, and which.
    lanes: HashMap<ConnId, u64, foldhash::fast::RandomState>,
}

/// A full receiver.
#[derive(Debug, Default)]
struct Full {
    waiting: BTreeSet<ConnId>,
    /// Held publishers of other shards: the shard, and the client.
    afar: Vec<(u8, u64)>,
    patience: Option<TimerKey>,
    /// Patience is over: it loses messages instead of slowing anyone.
    suffers: bool,
    /// Patience was over on an earlier connection: it slows nobody, and loses what is beyond
    /// [`Core::beyond`]. Not what is beyond its queue: clients that publish to each other would be
    /// refused before they come to acknowledge anything.
    came_back: bool,
}

impl Pressure {
    /// Whether any receiver is full.
    #[inline]
    pub(super) fn any(&self) -> bool {
        !self.full.is_empty()
    }

    fn is_full(&self, session: SessionKey) -> bool {
        self.full.contains_key(&session)
    }

    fn slows(&self, session: SessionKey) -> bool {
        self.full.get(&session).is_some_and(|full| !full.suffers && !full.came_back)
    }
}

impl<S> Core<S> {
    /// The full lanes that a message on `route` might add to.
    #[inline]
    pub(super) fn lanes_blocked(&self, route: RouteId, retain: bool) -> u64 {
        match self.mailbox.full() {
            0 => 0,
            full => full & self.lanes_of(route, retain),
        }
    }

    #[cold]
    fn lanes_of(&self, route: RouteId, retain: bool) -> u64 {
        if retain {
            // Who has it answered waits for the store by that; at QoS 0 only this keeps it from being too far behind.
            return self.mailbox.others() | STORE_LANE;
        }
        let route = self.router.get(route);
        let groups = route.groups.iter().map(|group| self.router.shards_with_members(*group));
        groups.fold(route.remote, |all, shards| all | shards)
    }

    /// Holds the reader until these lanes have room.
    pub(super) fn hold_for_lanes(&mut self, reader: &mut Reader<'_>, lanes: u64) -> Then {
        self.flush_run(reader);
        self.pressure.lanes.insert(reader.id, lanes);
        Then::Hold
    }

    /// Lets those go on who waited for lanes that have room again.
    pub(super) fn release_lanes(&mut self) {
        if self.pressure.lanes.is_empty() {
            return;
        }
        let (full, resumed) = (self.mailbox.full(), &mut self.resumed);
        self.pressure.lanes.retain(|id, lanes| {
            let waits = *lanes & full != 0;
            if !waits {
                resumed.push(*id);
            }
            waits
        });
    }

    /// Holds the reader if a receiver of its topic is full.
    pub(super) fn hold_for_receivers(&mut self, reader: &Reader<'_>) -> bool {
        if self.pressure.is_full(reader.session) {
            return false;
        }
        let route = self.router.get(reader.route);
        let wants = |target: &crate::router::Target| {
            let own = target.session == reader.session;
            target.for_publisher(own).is_some_and(|wanted| wanted.qos > QoS::AtMostOnce)
        };
        let full = route
            .targets
            .iter()
            .find(|target| self.slows(target.session) && wants(target))
            .map(|target| target.session);
        let full: SmallVec<[SessionKey; 4]> = match full {
            Some(key) => SmallVec::from_slice(&[key]),
            None => self.full_group(reader.route),
        };
        for key in &full {
            self.start_patience(*key);
            if let Some(full) = self.pressure.full.get_mut(key) {
                full.waiting.insert(reader.id);
            }
        }
        !full.is_empty()
    }

    /// Whether a publisher waits for a receiver. Not while its messages cannot be stored: that is said at
    /// once.
    fn slows(&self, key: SessionKey) -> bool {
        self.pressure.slows(key) && !self.is_kept_from(key)
    }

    /// Whether it is the store that keeps a session from going on: it fails, or has until just now.
    fn is_kept_from(&self, key: SessionKey) -> bool {
        let is_stored = |slot: &Slot| slot.session.is_stored();
        self.store_failed() && self.sessions.get(key).is_some_and(is_stored)
    }

    /// The connected members of a shared group of the route, if they are all here and full; any of
    /// them that gets room will do.
    fn full_group(&self, route: RouteId) -> SmallVec<[SessionKey; 4]> {
        let slows = |(key, qos): (SessionKey, QoS)| qos > QoS::AtMostOnce && self.slows(key);
        let members = |group: &GroupId| self.router.online_here(*group);
        let mut groups = self.router.get(route).groups.iter();
        let full = groups.find(|group| {
            members(group).next().is_some()
                && members(group).all(slows)
                && self.router.shards_online(**group) == 0
        });
        full.map_or_else(SmallVec::new, |group| members(group).map(|(key, _)| key).collect())
    }

    /// Whether the connected members here of a group are all full.
    pub(super) fn is_group_full(&self, group: GroupId) -> bool {
        let mut members = self.router.online_here(group);
        self.pressure.any() && members.all(|(key, _)| self.pressure.is_full(key))
    }

    fn start_patience(&mut self, key: SessionKey) {
        if let Some(full) = self.pressure.full.get_mut(&key)
            && full.patience.is_none()
            && !full.suffers
            && let Some(slot) = self.sessions.get_mut(key)
        {
            let deadline = self.now.plus(self.settings.patience);
            let deadline = *slot.patience_until.get_or_insert(deadline);
            full.patience = Some(self.timers.insert(deadline, Timer::Patience(key)));
        }
    }

    /// A session has a connection again. Publishers were slowed for it before: they are only for what
    /// is left of its patience, or else whoever comes back again and again would stop them for good.
    pub(super) fn remember_patience(&mut self, key: SessionKey) {
        if self.sessions.get(key).is_some_and(|slot| slot.patience_until.is_some()) {
            self.became_full(key);
            self.relieve(key);
        }
    }

    /// A session's queue has taken its last message.
    pub(super) fn became_full(&mut self, key: SessionKey) {
        let Some(slot) = self.sessions.get(key) else { return };
        let Some(id) = slot.connection else { return };
        if self.pressure.is_full(key) {
            return;
        }
        let came_back = slot.patience_until.is_some_and(|until| until <= self.now);
        self.pressure.full.insert(key, Full { came_back, ..Full::default() });
        if self.connections.get(id).is_some_and(|connection| connection.held) {
            self.resumed.push(id);
        }
    }

    /// A message for a connected session whose queue is full; says whether the session has it.
    pub(super) fn deliver_to_full(
        &mut self,
        key: SessionKey,
        delivery: Delivery<'_>,
        publisher: Publisher,
    ) -> bool {
        if delivery.qos == QoS::AtMostOnce {
            self.misses(key, delivery.message.topic());
            return true;
        }
        self.became_full(key);
        let full = self.pressure.full.entry(key).or_default();
        if full.suffers {
            if self.settings.overflow_online == OverflowOnline::DropOldest {
                return self.deliver_instead_of_oldest(key, delivery);
            }
            self.misses(key, delivery.message.topic());
            return false;
        }
        if !full.came_back {
            let Publisher { shard, client, .. } = publisher;
            if shard != self.id && publisher.is_client() && !full.afar.contains(&(shard, client)) {
                full.afar.push((shard, client));
                self.mailbox.push(shard, 0, Item::Hold { client });
            }
            self.start_patience(key);
        }
        let limits = self.beyond();
        let Some(slot) = self.sessions.get_mut(key) else { return false };
        let mut out = slot.connection.and_then(|id| self.connections.live_out(id, &self.settings));
        let delivered = slot.session.deliver(delivery, self.now, out.as_mut(), &limits);
        self.is_kept(key, delivery.message.topic(), delivered)
    }

    /// Bounds of a session whose message of `size` bytes may find no room among all that is queued;
    /// nothing if there is room. A stored session keeps it in the store only.
    #[inline]
    pub(super) fn tight_limits(&mut self, key: SessionKey, size: usize) -> Option<SessionLimits> {
        if self.allowance.has(size, &self.shared.budget) {
            return None;
        }
        let limits = &self.settings.session;
        if self.sessions.get(key).is_some_and(|slot| slot.session.is_stored()) {
            let in_memory = InMemory { messages: 0, bytes: 0 };
            return Some(SessionLimits { in_memory, ..*limits });
        }
        let queued = self.sessions.get(key).map_or(0, |slot| slot.session.queued_bytes());
        let max_queued_bytes = limits.max_queued_bytes.min(queued + self.allowance.free());
        Some(SessionLimits { max_queued_bytes, ..*limits })
    }

    /// Bounds for what comes to a full queue from those who cannot be held, or not yet.
    fn beyond(&self) -> SessionLimits {
        let Settings { session, mailbox_bytes, limits, .. } = &*self.settings;
        // Of each shard: what it has collected, what is in its lane, what was taken in this turn.
        let each = (*mailbox_bytes as u64).saturating_add(limits.max_packet_size.into());
        let on_the_way = each.saturating_mul(3 * u64::from(self.shards));
        let max_queued_bytes =
            session.max_queued_bytes.saturating_mul(2).saturating_add(on_the_way);
        SessionLimits { max_queued_messages: u32::MAX, max_queued_bytes, ..*session }
    }

    /// Lets publishers go on if the queue of `key` has drained to three quarters.
    pub(super) fn relieve(&mut self, key: SessionKey) {
        if !self.pressure.full.contains_key(&key) {
            return;
        }
        let limits = &self.settings.session;
        let room = self.allowance.has(1, &self.shared.budget);
        let drained = self.sessions.get(key).is_none_or(|slot| {
            slot.session.queued() as u64 * 4 <= u64::from(limits.max_queued_messages) * 3
                && slot.session.queued_bytes() <= limits.max_queued_bytes / 4 * 3
                && (room || slot.session.queued() == 0)
        });
        if drained {
            if let Some(slot) = self.sessions.get_mut(key) {
                slot.patience_until = None;
            }
            self.forget_receiver(key);
        }
    }

    /// Lets everybody go on who waits for `key`: it has room, or is gone.
    pub(super) fn forget_receiver(&mut self, key: SessionKey) {
        let Some(mut full) = self.pressure.full.remove(&key) else { return };
        if let Some(timer) = full.patience.take() {
            self.timers.cancel(timer);
        }
        self.let_go_on(full);
    }

    fn let_go_on(&mut self, full: Full) {
        self.resumed.extend(full.waiting);
        for (shard, client) in full.afar {
            self.mailbox.push(shard, 0, Item::Release { client });
        }
    }

    /// A receiver stayed full for too long.
    pub(super) fn patience_over(&mut self, key: SessionKey) {
        let is_kept_from = self.is_kept_from(key);
        // What has expired keeps nobody waiting.
        let mut budget = EXPIRED_PER_TURN;
        self.expire_queue(key, &mut budget);
        let Some(full) = self.pressure.full.get_mut(&key) else { return };
        full.patience = None;
        if let Some(slot) = self.sessions.get_mut(key)
            && (is_kept_from || slot.session.awaits_page())
        {
            // It has taken what there was; what comes next, the disk keeps from it.
            slot.patience_until = None;
            self.start_patience(key);
            if is_kept_from {
                // They are told that it does not get what they publish.
                self.ask_again(key);
            }
            return;
        }
        if self.settings.overflow_online == OverflowOnline::Disconnect {
            let connection = self.sessions.get(key).and_then(|slot| slot.connection);
            if let Some(id) = connection {
                let detail = "its queue stayed full for longer than overflow.patience";
                self.end(id, Ending::Refused(ReasonCode::QuotaExceeded, detail));
            }
            self.forget_receiver(key);
            return;
        }
        full.suffers = true;
        if self.settings.overflow_online == OverflowOnline::DropOldest
            && let Some(slot) = self.sessions.get_mut(key)
        {
            // What came from other shards before they held may be beyond the limits.
            let dropped = slot.session.trim_oldest(&self.settings.session);
            self.count_dropped(key, DropCause::QueueFull, dropped);
        }
        self.ask_again(key);
    }

    /// The store works again: patience with those whom it kept from going on begins anew.
    pub(super) fn renew_patience(&mut self) {
        let full: Vec<_> = self.pressure.full.keys().copied().collect();
        for key in full {
            let timer = self.pressure.full.get_mut(&key).and_then(|full| full.patience.take());
            let Some(timer) = timer else { continue };
            self.timers.cancel(timer);
            if let Some(slot) = self.sessions.get_mut(key)
                && slot.session.is_stored()
            {
                slot.patience_until = None;
            }
            self.start_patience(key);
        }
    }

    /// Lets those go on who wait for `key`, which may not be in their way any more. If it is, they are
    /// held again.
    pub(super) fn ask_again(&mut self, key: SessionKey) {
        let Some(full) = self.pressure.full.get_mut(&key) else { return };
        let released = Full {
            waiting: std::mem::take(&mut full.waiting),
            afar: std::mem::take(&mut full.afar),
            ..Full::default()
        };
        self.let_go_on(released);
    }

    /// Whether a connection may be read again: it is open, no other shard asked to hold it, and the broker does not
    /// stop.
    pub(super) fn may_read(&self, id: ConnId) -> bool {
        !self.stopping.is_stopping()
            && self.connections.get(id).is_some_and(|connection| {
                connection.state != State::Closing && !self.is_held_from_afar(connection.session)
            })
    }

    /// Whether another shard asked to hold the client of this session.
    pub(super) fn is_held_from_afar(&self, key: SessionKey) -> bool {
        if self.pressure.held.is_empty() || self.pressure.is_full(key) {
            return false;
        }
        let held = |slot: &Slot| {
            self.pressure.held.contains_key(&self.sessions.hash(slot.session.client_id()))
        };
        self.sessions.get(key).is_some_and(held)
    }

    /// Another shard cannot take more from a client of this one.
    pub(super) fn hold_publisher<D: Driver<Socket = S>>(&mut self, driver: &mut D, client: u64) {
        *self.pressure.held.entry(client).or_insert(0) += 1;
        if let Some(key) = self.sessions.find_hash(client)
            && !self.pressure.is_full(key)
            && let Some(id) = self.sessions.get(key).and_then(|slot| slot.connection)
            && let Some(connection) = self.connections.get_mut(id)
        {
            connection.held = true;
            driver.pause(id);
        }
    }

    pub(super) fn release_publisher(&mut self, client: u64) {
        let Some(holds) = self.pressure.held.get_mut(&client) else { return };
        *holds -= 1;
        if *holds == 0 {
            self.pressure.held.remove(&client);
            let key = self.sessions.find_hash(client);
            let slot = key.and_then(|key| self.sessions.get(key));
            self.resumed.extend(slot.and_then(|slot| slot.connection));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Shard, Shared};
    use super::*;
    use crate::hooks::Hooks;
    use crate::mqtt::Message;
    use crate::net::sim::{SimDriver, SimOptions, World};
    use crate::session::{Journal, PageOfQueue, Session};
    use crate::shard::connection::Out;
    use crate::timer::Time;

    const CONN: ConnId = ConnId(0);

    fn shard() -> Shard<SimDriver> {
        let shared = Shared::new(Settings::for_tests(), Hooks::default(), 1, 1).into();
        let driver = World::new(1, SimOptions::default()).add_driver();
        let mut shard = Shard::assemble(vec![driver], &shared).remove(0);
        let peer = std::net::SocketAddr::from(([127, 0, 0, 1], 1));
        shard.core.add_connection(CONN, 0, peer);
        shard
    }

    /// A new session behind the connection, and the number of its client.
    fn session(core: &mut Core<<SimDriver as Driver>::Socket>) -> (SessionKey, u64) {
        let key = core.sessions.insert(Session::new("publisher"));
        core.sessions.get_mut(key).expect("it was inserted").connection = Some(CONN);
        core.connections.get_mut(CONN).expect("it was added").session = key;
        (key, core.sessions.hash("publisher"))
    }

    #[test]
    fn a_publisher_is_held_until_every_shard_releases_it() {
        let Shard { mut driver, mut core, .. } = shard();
        let (_, client) = session(&mut core);
        core.hold_publisher(&mut driver, client);
        core.hold_publisher(&mut driver, client);
        core.release_publisher(client);
        assert!(!core.may_read(CONN));
        assert!(core.resumed.is_empty());
        core.release_publisher(client);
        assert!(core.may_read(CONN));
        assert_eq!(core.resumed, [CONN]);
        core.release_publisher(client);
        assert_eq!(core.resumed, [CONN], "one release too many does nothing");
    }

    #[test]
    fn a_hold_passes_to_the_next_session_of_the_client_and_to_no_other() {
        let Shard { mut driver, mut core, .. } = shard();
        let (key, client) = session(&mut core);
        core.hold_publisher(&mut driver, client);
        core.sessions.take(key);
        core.sessions.free(key);
        let other = core.sessions.insert(Session::new("other"));
        assert_eq!(other, key, "the key is used again");
        core.connections.get_mut(CONN).expect("it was added").session = other;
        assert!(core.may_read(CONN));
        session(&mut core);
        assert!(!core.may_read(CONN));
        core.release_publisher(client);
        assert!(core.may_read(CONN) && core.pressure.held.is_empty());
    }

    #[test]
    fn who_is_full_itself_is_not_held() {
        let Shard { mut driver, mut core, .. } = shard();
        let (key, client) = session(&mut core);
        core.hold_publisher(&mut driver, client);
        assert!(!core.may_read(CONN));
        core.became_full(key);
        assert!(core.may_read(CONN), "its acknowledgements drain its queue");
        core.forget_receiver(key);
        assert!(!core.may_read(CONN));
    }

    #[test]
    fn everybody_goes_on_when_patience_is_over() {
        let Shard { mut core, .. } = shard();
        let (key, _) = session(&mut core);
        core.became_full(key);
        core.start_patience(key);
        core.pressure.full.get_mut(&key).expect("full").waiting.insert(ConnId(7));
        assert!(core.pressure.slows(key));
        core.patience_over(key);
        assert!(!core.pressure.any(), "it was disconnected, which the default is");
        assert_eq!(core.resumed, [ConnId(7)]);
        assert_eq!(core.connections.get(CONN).map(|one| one.state), Some(State::Closing));
    }

    /// A client that has taken all that is in memory of its queue waits for the disk, and is not to blame.
    #[test]
    fn patience_does_not_end_while_a_page_is_awaited() {
        let Shard { mut core, .. } = shard();
        let (key, _) = session(&mut core);
        let in_memory = InMemory { messages: 2, bytes: 1 << 20 };
        let limits = SessionLimits { in_memory, ..SessionLimits::default() };
        let message = Message::new("t", QoS::AtLeastOnce, false, b"", b"", None, Time(0));
        let slot = core.sessions.get_mut(key).expect("it was inserted");
        slot.session.store_as(1, (key, slot.serial), Journal::default(), in_memory);
        for _ in 0..6 {
            let (message, qos) = (&message, QoS::AtLeastOnce);
            let delivery = Delivery { message, qos, retain: false, identifiers: &[], group: None };
            let _ = slot.session.deliver(delivery, Time(0), None::<&mut Out<'_>>, &limits);
        }
        assert_eq!(slot.session.paged().map(|paged| paged.messages), Some(4));
        core.became_full(key);
        core.start_patience(key);
        let mut out = core.connections.out(CONN).expect("it was added");
        core.sessions.get_mut(key).expect("it is there").session.resume(Time(0), &mut out);
        let slot = core.sessions.get(key).expect("it is there");
        assert!(slot.session.awaits_page());
        core.now = core.now.plus(core.settings.patience);
        core.patience_over(key);
        assert!(core.pressure.slows(key), "its publishers wait on");
        let until = core.sessions.get(key).and_then(|slot| slot.patience_until);
        assert_eq!(until, Some(core.now.plus(core.settings.patience)));
        let page = PageOfQueue { end: 100, is_last: true, ..PageOfQueue::default() };
        let slot = core.sessions.get_mut(key).expect("it is there");
        let _ = slot.session.take_page(page, Time(0), &limits, |_| false);
        core.patience_over(key);
        assert!(!core.pressure.any(), "now it is its turn");
    }
}
