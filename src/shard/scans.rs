//! The retained messages that follow a subscription: in steps, as there is room for them.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::time::Duration;

use hashbrown::HashMap;

use crate::mqtt::{Message, QoS};
use crate::router::{SessionKey, SubscriptionHandle};
use crate::session::{Delivery, Sink};

use super::Core;
use super::remote::Publisher;
use super::subscribe::record;
use super::timers::Timer;

/// Retained messages handed to one subscription in one go: others want their turn.
const RETAINED_PER_STEP: usize = 64;

/// Steps in one turn of the loop: sockets want theirs.
pub(super) const STEPS_PER_TURN: usize = 64;

/// How soon a scan goes on whose connected subscriber had no room.
const SCAN_PAUSE: Duration = Duration::from_millis(10);

/// The retained messages that a new subscription still has to get.
#[derive(Debug)]
pub(super) struct RetainedScan {
    pub(super) filter: Box<str>,
    pub(super) qos: QoS,
    pub(super) identifier: Option<u32>,
    /// The topic after which it goes on.
    pub(super) after: Option<String>,
    /// The store knows of it, and has to be told how far it is.
    pub(super) noted: bool,
}

/// Where a step left a scan.
enum Step {
    Done,
    More(RetainedScan),
    /// Its session has no room.
    NoRoom(RetainedScan),
}

/// The scans of a shard: one for each subscription at most.
#[derive(Debug, Default)]
pub(super) struct RetainedScans {
    waiting: HashMap<SessionKey, BTreeMap<SubscriptionHandle, RetainedScan>>,
    /// Sessions whose scans go on.
    ready: BTreeSet<SessionKey>,
    /// Connected sessions without room: they are looked at again after a pause. Absent ones are in
    /// neither set, and go on when they connect, or something expires in their queues.
    resting: BTreeSet<SessionKey>,
    /// Whose step was last: the next one is the turn of the session after it.
    last: SessionKey,
    is_timer_set: bool,
}

impl RetainedScans {
    /// Whether there is something to do without waiting.
    pub(super) fn are_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    /// The pause is over.
    pub(super) fn wake(&mut self) {
        self.is_timer_set = false;
        self.ready.append(&mut self.resting);
    }

    /// There may be room in a session.
    pub(super) fn resume(&mut self, session: SessionKey) {
        if self.waiting.contains_key(&session) {
            self.resting.remove(&session);
            self.ready.insert(session);
        }
    }

    /// A subscription is gone, or begins anew.
    pub(super) fn remove(&mut self, session: SessionKey, handle: SubscriptionHandle) {
        let Some(scans) = self.waiting.get_mut(&session) else { return };
        scans.remove(&handle);
        if scans.is_empty() {
            self.forget(session);
        }
    }

    /// A session is gone, or has all that it waited for.
    pub(super) fn forget(&mut self, session: SessionKey) {
        if self.waiting.remove(&session).is_some() {
            self.ready.remove(&session);
            self.resting.remove(&session);
        }
    }

    /// How far the scan of a subscription is that the store knows of: as it is noted.
    pub(super) fn noted(
        &self,
        session: SessionKey,
        handle: SubscriptionHandle,
    ) -> Option<Box<str>> {
        let scan = self.waiting.get(&session)?.get(&handle)?;
        scan.noted.then(|| scan.after.as_deref().unwrap_or_default().into())
    }

    /// Another scan is to take the place of the one that a subscription has: how far this is, the store is told no
    /// more.
    pub(super) fn follow_no_more(&mut self, session: SessionKey, handle: SubscriptionHandle) {
        let scans = self.waiting.get_mut(&session);
        if let Some(scan) = scans.and_then(|scans| scans.get_mut(&handle)) {
            scan.noted = false;
        }
    }

    /// A subscription goes on at a lower QoS.
    pub(super) fn lower(&mut self, session: SessionKey, handle: SubscriptionHandle, qos: QoS) {
        let scans = self.waiting.get_mut(&session);
        if let Some(scan) = scans.and_then(|scans| scans.get_mut(&handle)) {
            scan.qos = qos.min(scan.qos);
        }
    }

    /// Takes in a scan. It begins when it is [resumed](Self::resume).
    pub(super) fn insert(
        &mut self,
        session: SessionKey,
        handle: SubscriptionHandle,
        scan: RetainedScan,
    ) {
        self.waiting.entry(session).or_default().insert(handle, scan);
    }

    /// The first scan of the session whose turn it is.
    fn take_next(&mut self) -> Option<(SessionKey, SubscriptionHandle, RetainedScan)> {
        let after = (Bound::Excluded(self.last), Bound::Unbounded);
        let session = *self.ready.range(after).next().or(self.ready.first())?;
        self.last = session;
        let (handle, scan) = self.waiting.get_mut(&session)?.pop_first()?;
        Some((session, handle, scan))
    }
}

impl<S> Core<S> {
    /// Begins the scan of a new subscription.
    pub(super) fn start_scan(
        &mut self,
        session: SessionKey,
        handle: SubscriptionHandle,
        scan: RetainedScan,
    ) {
        self.scans.remove(session, handle);
        self.scans.insert(session, handle, scan);
        self.scans.resume(session);
    }

    /// Takes the next step of a scan; false if none is to be taken now.
    pub(super) fn scan_on(&mut self) -> bool {
        let Some((session, handle, scan)) = self.scans.take_next() else { return false };
        let from = scan.noted.then(|| scan.after.clone());
        let step = self.scan_step(session, scan);
        if let Some(from) = from {
            match &step {
                Step::Done => self.note_scan(session, handle, None),
                // With what it has delivered.
                Step::More(scan) | Step::NoRoom(scan) if scan.after != from => {
                    self.note_scan(session, handle, scan.after.as_deref());
                }
                Step::More(_) | Step::NoRoom(_) => {}
            }
        }
        let scans = &mut self.scans;
        match step {
            Step::Done => scans.remove(session, handle),
            Step::More(scan) => {
                scans.insert(session, handle, scan);
                scans.resume(session);
            }
            Step::NoRoom(scan) => {
                scans.insert(session, handle, scan);
                scans.ready.remove(&session);
                let slot = self.sessions.get(session);
                if slot.is_some_and(|slot| slot.connection.is_some()) {
                    scans.resting.insert(session);
                    if !std::mem::replace(&mut scans.is_timer_set, true) {
                        self.timers.insert(self.now.plus(SCAN_PAUSE), Timer::Scans);
                    }
                }
            }
        }
        true
    }

    /// Notes how far a scan is.
    fn note_scan(&self, session: SessionKey, handle: SubscriptionHandle, after: Option<&str>) {
        if let Some(slot) = self.sessions.get(session)
            && let Some(of) = self.router.subscription(session, handle)
        {
            let after = after.map(Into::into);
            slot.session.note_subscribed(|| record(&of.filter, of.options, after));
        }
    }

    /// Hands on some retained messages.
    fn scan_step(&mut self, session: SessionKey, mut scan: RetainedScan) -> Step {
        if !self.has_room_for(session, 0) {
            return Step::NoRoom(scan);
        }
        let mut found: Vec<Message> = Vec::new();
        let next = self.router.retained(
            &scan.filter,
            scan.after.as_deref(),
            RETAINED_PER_STEP,
            self.now,
            |message| found.push(message.clone()),
        );
        for message in found {
            if !self.sessions.may_receive(session, message.topic()) {
                scan.after = Some(message.topic().to_owned());
                continue;
            }
            if !self.has_room_for(session, message.size()) {
                return Step::NoRoom(scan);
            }
            let delivery = Delivery {
                message: &message,
                qos: scan.qos.min(message.qos()),
                retain: true,
                identifiers: scan.identifier.as_slice(),
                group: None,
            };
            self.deliver_message(session, delivery, Publisher::NOBODY);
            scan.after = Some(message.topic().to_owned());
        }
        match next {
            Some(after) => Step::More(RetainedScan { after: Some(after), ..scan }),
            None => Step::Done,
        }
    }

    /// Whether a session can take a message of that many bytes.
    fn has_room_for(&mut self, key: SessionKey, bytes: usize) -> bool {
        let limits = self.tight_limits(key, bytes).unwrap_or(self.settings.session);
        let Some(slot) = self.sessions.get(key) else { return true };
        let output = slot.connection.and_then(|id| self.connections.live_out(id, &self.settings));
        output.is_none_or(|out| out.has_room() && out.connection.backlog() < out.backlog_limit)
            && self.has_room(key, bytes, &limits)
    }
}

#[cfg(test)]
mod tests {
    use super::super::settings::Settings;
    use super::super::{Shard, Shared, Stored};
    use super::*;
    use crate::hooks::Hooks;
    use crate::net::sim::{ClientId, Faults, SimDriver, SimOptions, World};
    use crate::store::{Memory, Writer};

    /// Scans of the sessions 1 to 3, two subscriptions each.
    fn scans() -> (RetainedScans, [SubscriptionHandle; 2]) {
        let mut router =
            crate::router::Router::new(0, 1, 1, crate::router::RouterLimits::default());
        let handles = ["a/#", "b/#"].map(|filter| {
            let filter = crate::mqtt::topic::Filter { share: None, filter };
            router.subscribe(1, &filter, Default::default()).handle
        });
        let mut scans = RetainedScans::default();
        for (session, handle) in (1..4).flat_map(|session| handles.map(|handle| (session, handle)))
        {
            let qos = QoS::ExactlyOnce;
            let (identifier, after, noted) = (None, None, false);
            let scan = RetainedScan { filter: "a/#".into(), qos, identifier, after, noted };
            scans.insert(session, handle, scan);
            scans.resume(session);
        }
        (scans, handles)
    }

    #[test]
    fn sessions_take_turns() {
        let (mut scans, _) = scans();
        let mut order = Vec::new();
        for _ in 0..6 {
            order.extend(scans.take_next().map(|(session, ..)| session));
        }
        assert_eq!(order, [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn a_subscription_that_is_lowered_gets_the_rest_at_the_lower_qos() {
        let (mut scans, handles) = scans();
        scans.lower(1, handles[0], QoS::AtLeastOnce);
        scans.lower(9, handles[0], QoS::AtLeastOnce);
        let mut found: [Vec<QoS>; 2] = Default::default();
        while let Some((session, _, scan)) = scans.take_next() {
            found[usize::from(session > 1)].push(scan.qos);
            if scans.waiting[&session].is_empty() {
                scans.forget(session);
            }
        }
        found[0].sort_unstable();
        let highest = QoS::ExactlyOnce;
        assert_eq!(found, [vec![QoS::AtLeastOnce, highest], vec![highest; 4]]);
    }

    /// A shard over a store, and a client that waits for what is retained, because its queue is full.
    struct Waiting {
        world: World,
        memory: Memory,
        writer: Writer,
        shard: Shard<SimDriver>,
        client: ClientId,
    }

    impl Waiting {
        fn new() -> Self {
            let memory = Memory::default();
            let (stored, writer) = Stored::in_memory(&memory, 1);
            let mut settings = Settings::for_tests();
            (settings.session.max_inflight, settings.session.max_queued_messages) = (1, 1);
            let shared = Shared::new(settings, Hooks::default(), 1, 1).into();
            let world = World::new(1, SimOptions { faults: Faults::NONE, ..SimOptions::default() });
            let mut shards = Shard::assemble_stored(vec![world.add_driver()], &shared, stored);
            let (shard, client) = (shards.remove(0), world.connect());
            let mut this = Self { world, memory, writer, shard, client };
            this.retain(b"there");
            this.send(b"\x10\x13\0\x04MQTT\x05\x02\0\0\x05\x11\0\0\0\x64\0\x01a");
            this.send(&subscribe(0));
            assert_eq!(this.stored().as_deref(), Some("r/2"));
            this
        }

        fn retain(&mut self, payload: &[u8]) {
            let core = &mut self.shard.core;
            for topic in ["r/1", "r/2", "r/3", "r/4", "r/5"] {
                let qos = QoS::AtLeastOnce;
                let message = Message::new(topic, qos, true, payload, &[], None, core.now);
                core.publish_message(&message, Publisher::NOBODY);
            }
        }

        fn send(&mut self, bytes: &[u8]) {
            let sent = self.world.client_send(self.client, bytes).expect("it is open");
            assert_eq!(sent, bytes.len());
            for _ in 0..40 {
                assert!(self.shard.turn(false).expect("a simulated driver does not fail"));
                self.writer.step();
                self.world.advance(SCAN_PAUSE);
            }
        }

        /// Behind which topic it would go on after a crash.
        fn stored(&self) -> Option<Box<str>> {
            let sessions = Stored::in_memory(&self.memory.crashed(), 1).0.recovered.sessions;
            let subscriptions = &sessions[0].subscriptions;
            let of_all = subscriptions.iter().find(|one| &*one.filter == "r/#");
            of_all.expect("it is subscribed").retained_after.clone()
        }
    }

    /// Subscribes to all that is retained, and so many filters more.
    fn subscribe(more: usize) -> Vec<u8> {
        let mut body = b"\0\x01\0\0\x03r/#\x01".to_vec();
        (0..more).for_each(|n| body.extend(format!("\0\x05n/{n:03}\x01").bytes()));
        let len = body.len();
        let bytes = [len as u8 | 0x80, (len >> 7) as u8];
        let head = if len < 0x80 { vec![0x82, len as u8] } else { [&[0x82], &bytes[..]].concat() };
        [head, body].concat()
    }

    /// What is retained has gone when a client subscribes anew: after a crash it waits for nothing.
    #[test]
    fn who_subscribes_anew_when_nothing_is_retained_waits_for_nothing() {
        let mut waiting = Waiting::new();
        waiting.retain(b"");
        waiting.send(&subscribe(0));
        assert_eq!(waiting.stored(), None);
    }

    /// A client subscribes anew by a packet that takes several turns, in which it gets some more of what the first
    /// subscription has to give: after a crash it gets all that the second has to.
    #[test]
    fn who_subscribes_anew_at_length_waits_for_all_of_it() {
        let mut waiting = Waiting::new();
        let received = b"\x40\x02\0\x01";
        waiting.send(&[received, &*subscribe(300)].concat());
        assert_eq!(waiting.stored().as_deref(), Some(""));
    }

    #[test]
    fn nothing_is_left_of_what_ended() {
        let (mut scans, handles) = scans();
        scans.ready.remove(&1);
        scans.resting.insert(2);
        scans.ready.remove(&2);
        for session in 1..4 {
            scans.remove(session, handles[0]);
        }
        assert_eq!(scans.waiting.len(), 3, "each has another one");
        scans.remove(1, handles[1]);
        scans.remove(2, handles[1]);
        scans.forget(3);
        assert!(scans.waiting.is_empty() && scans.resting.is_empty() && !scans.are_ready());
        scans.resume(1);
        assert!(!scans.are_ready(), "it waits for nothing any more");
    }
}
