//! What of this shard's turns the other shards have confirmed, and which sessions wait for it.

use std::collections::{BTreeSet, VecDeque};

use hashbrown::HashMap;

use crate::mqtt::ReasonCode;
use crate::router::SessionKey;
use crate::session::{STORE, Session, Verdict};

use super::Core;
use super::connection::State;
use super::input::Reader;

/// What one client may have in its session's gate before the next packet that would wait there is
/// not read for a while.
const MAX_PENDING: usize = 1024;

/// Of those who wait for a shard, so many are not looked through for who waits for nothing any more.
const WAITING_KEPT: usize = 1024;

/// Why a client with a session to be stored is not let in.
pub(super) const STORE_FAILS: &str = "its session cannot be stored now";

/// Confirmations, by shard; the last place is the store's.
pub(super) struct Gate {
    confirmed: [u64; 64],
    shards: u8,
    /// The last turn in which a shard was told of a new filter.
    interest: [u64; 64],
    /// The last turn of whose filters a shard has said that it knows them.
    known: [u64; 64],
    /// Sessions that hold something back, by shard and in the order of turns.
    waiting: Vec<VecDeque<Waiting>>,
    /// The last that was given to a PUBLISH.
    number: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Waiting {
    turn: u64,
    session: SessionKey,
    serial: u32,
}

impl Gate {
    pub(super) fn new(shards: u8) -> Self {
        Self {
            confirmed: [0; 64],
            shards,
            interest: [0; 64],
            known: [0; 64],
            waiting: (0..64).map(|_| VecDeque::new()).collect(),
            number: 0,
        }
    }

    /// A number for a PUBLISH that is to be acknowledged: no other of this shard has it, ever.
    #[inline]
    pub(super) fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// Notes that `turn` told each shard in `mask` of a filter.
    pub(super) fn told(&mut self, mut mask: u64, turn: u64) {
        while mask != 0 {
            self.interest[mask.trailing_zeros() as usize] = turn;
            mask &= mask - 1;
        }
    }

    /// The shards that may not know every filter of this one yet.
    pub(super) fn uninformed(&self) -> u64 {
        (0..usize::from(self.shards))
            .filter(|&shard| self.interest[shard] > self.confirmed[shard].max(self.known[shard]))
            .fold(0, |mask, shard| mask | 1 << shard)
    }

    /// The last turn of this shard that the store has committed, or [need not](crate::session::Journal::settle).
    pub(super) fn settled(&self) -> u64 {
        self.confirmed[STORE as usize]
    }

    /// Who waits for a shard to confirm a turn up to `turn`.
    fn waiting_for(&self, shard: u8, turn: u64) -> BTreeSet<(SessionKey, u32)> {
        let queue = self.waiting.get(usize::from(shard)).into_iter().flatten();
        let old = queue.take_while(|one| one.turn <= turn);
        old.map(|one| (one.session, one.serial)).collect()
    }

    /// Who waits for the confirmation of a turn up to `turn`.
    fn waiting_until(&self, turn: u64) -> BTreeSet<(SessionKey, u32)> {
        let old = |queue: &VecDeque<Waiting>| queue.partition_point(|one| one.turn <= turn);
        let waiting = self.waiting.iter().flat_map(|queue| queue.iter().take(old(queue)));
        waiting.map(|one| (one.session, one.serial)).collect()
    }

    /// A session waits for every shard in `mask` to confirm `turn`.
    pub(super) fn wait(&mut self, mut mask: u64, turn: u64, session: SessionKey, serial: u32) {
        let waiting = Waiting { turn, session, serial };
        while mask != 0 {
            if let Some(queue) = self.waiting.get_mut(mask.trailing_zeros() as usize)
                && queue.back() != Some(&waiting)
            {
                queue.push_back(waiting);
            }
            mask &= mask - 1;
        }
    }
}

/// Whether nothing more is to come into a session's gate before something leaves it, or is confirmed.
#[inline]
fn is_full(session: &mut Session, confirmed: &[u64; 64]) -> bool {
    session.pending() >= MAX_PENDING || session.refuses_perhaps(confirmed)
}

impl<S> Core<S> {
    /// `shard` (or the [`STORE`]) has done everything that this shard sent it up to `turn`.
    pub(super) fn confirmed(&mut self, shard: u8, turn: u64) {
        let index = usize::from(shard);
        self.gate.confirmed[index] = self.gate.confirmed[index].max(turn);
        loop {
            let Some(queue) = self.gate.waiting.get_mut(index) else { return };
            let Some(first) = queue.pop_front_if(|first| first.turn <= turn) else { return };
            self.let_out(first.session, first.serial);
        }
    }

    /// `shard` knows all filters that it was told of up to `turn`, of which it has not confirmed
    /// everything: SUBACK and UNSUBACK need not wait for what it has to commit.
    pub(super) fn knows(&mut self, shard: u8, turn: u64) {
        let known = &mut self.gate.known[usize::from(shard)];
        *known = turn.max(*known);
        for (key, serial) in self.gate.waiting_for(shard, turn) {
            if let Some(slot) = self.sessions.get_serial(key, serial) {
                slot.session.pass_frames(shard, turn);
                self.let_out(key, serial);
            }
        }
    }

    /// Holds the reader if too many of its answers wait for confirmations, or one may end the connection.
    pub(super) fn hold_for_gate(&mut self, reader: &Reader<'_>) -> bool {
        let slot = self.sessions.get_mut(reader.session);
        let full = slot.is_some_and(|slot| is_full(&mut slot.session, &self.gate.confirmed));
        if full && let Some(connection) = self.connections.get_mut(reader.id) {
            connection.held_for_gate = true;
        }
        full
    }

    /// Whether the answer to something that a client has sent waits for others.
    pub(super) fn waits_in_gate(&self, key: SessionKey) -> bool {
        self.sessions.get(key).is_some_and(|slot| slot.session.pending() > 0)
    }

    pub(super) fn let_out(&mut self, key: SessionKey, serial: u32) {
        let Some(slot) = self.sessions.get_serial(key, serial) else { return };
        let connection = slot.connection;
        let mut out = connection.and_then(|id| self.connections.out(id));
        let verdict = slot.session.confirm(&self.gate.confirmed, out.as_mut());
        if !is_full(&mut slot.session, &self.gate.confirmed)
            && let Some(connection) = connection.and_then(|id| self.connections.get_mut(id))
            && std::mem::take(&mut connection.held_for_gate)
        {
            self.resumed.extend(slot.connection);
        }
        if let Verdict::Close(why) = verdict
            && let Some(id) = connection
        {
            self.end_unkept(id, why, None);
        }
        self.go_on_stored(key);
    }

    /// While the store fails: refuses what has waited for it since the last call.
    pub(super) fn refuse_unstored(&mut self) {
        let (turn, failed) = (self.turn, self.store_failed());
        let Some(since) = self.store.as_mut().and_then(|store| store.fails_since(turn)) else {
            if failed && !self.store_failed() {
                self.renew_patience();
            }
            return;
        };
        for (key, serial) in self.gate.waiting_until(since) {
            let Some(slot) = self.sessions.get_serial(key, serial) else { continue };
            let id = slot.connection;
            if let Some(id) = id
                && let Some(connection) = self.connections.get(id)
                && connection.state == State::Committing
            {
                let version = Some(connection.version);
                let will_at = self.restore_former(key);
                self.refuse(id, version, ReasonCode::ServerUnavailable, STORE_FAILS);
                self.will_is_due(key, will_at);
                continue;
            }
            let verdict = slot.session.give_up_storing(since, &self.gate.confirmed);
            self.let_out(key, serial);
            if let Verdict::Close(why) = verdict
                && let Some(id) = id
            {
                self.end_unkept(id, why, None);
            }
        }
    }

    /// Forgets who waits for nothing any more: of a shard that has something to commit others hear what need
    /// not wait for that, but no turn is confirmed meanwhile, however long that takes.
    pub(super) fn forget_passed(&mut self) {
        let Self { gate, sessions, .. } = self;
        let mut since = HashMap::new();
        let shards = gate.waiting.iter_mut().take(STORE as usize);
        for queue in shards.filter(|queue| queue.len() > WAITING_KEPT) {
            queue.retain(|&Waiting { turn, session, serial }| {
                let since = since.entry((session, serial)).or_insert_with(|| {
                    let slot = sessions.get_serial(session, serial);
                    slot.and_then(|slot| slot.session.waits_since())
                });
                since.is_some_and(|since| since <= turn)
            });
            queue.shrink_to(WAITING_KEPT);
        }
    }

    /// Goes on with what a session waits for from the store, beside what is in its gate.
    fn go_on_stored(&mut self, key: SessionKey) {
        let Some(slot) = self.sessions.get_mut(key) else { return };
        let Some(id) = slot.connection else { return };
        let admitted = self.connections.get(id).is_some_and(|one| one.state == State::Committing);
        if admitted {
            if !slot.session.has_pending() {
                self.finish_admission(key, id);
            }
            return;
        }
        if let Some(mut out) = self.connections.live_out(id, &self.settings)
            && slot.session.is_stored()
        {
            slot.session.send_committed(self.gate.settled(), self.now, &mut out);
            self.relieve(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::settings::{OverflowOffline, Settings};
    use super::super::store::Keeper;
    use super::super::{Shard, Shared, Stored};
    use super::*;
    use crate::hooks::{Hooks, Store, Table};
    use crate::net::sim::{ClientId, Faults, SimDriver, SimOptions, World};
    use crate::store::{Memory, Writer};

    /// Two shards on a network.
    struct Two {
        world: World,
        shards: Vec<Shard<SimDriver>>,
    }

    impl Two {
        fn start(memory: &Memory, settings: Settings) -> (Self, Writer) {
            let (stored, writer) = Stored::in_memory(memory, 2);
            let shared = Shared::new(settings, Hooks::default(), 2, 1).into();
            let world = World::new(1, SimOptions { faults: Faults::NONE, ..SimOptions::default() });
            let drivers = vec![world.add_driver(), world.add_driver()];
            (Self { world, shards: Shard::assemble_stored(drivers, &shared, stored) }, writer)
        }

        /// Bytes that have come for a client since it was last asked.
        fn received(&mut self, client: ClientId) -> usize {
            self.send(client, b"");
            self.world.client_recv(client, &mut Vec::new())
        }

        /// A name of four bytes, of a client that is at home on a shard.
        fn name(&self, home: u8) -> String {
            let core = &self.shards[0].core;
            let mut names = (0..).map(|n| format!("{home}{n:03}"));
            let is_free = |name: &String| {
                self.shards.iter().all(|shard| shard.core.sessions.find(name).is_none())
            };
            names.find(|name| core.home(name) == home && is_free(name)).expect("one")
        }

        /// A client that is at home on a shard, with a session of so many seconds.
        fn connect(&mut self, home: u8, expiry: u8) -> ClientId {
            self.connect_with(home, expiry, 0x02, b"")
        }

        /// As [`connect`](Self::connect), with a Will for `t` at QoS 1.
        fn connect_with_will(&mut self, home: u8, expiry: u8) -> ClientId {
            self.connect_with(home, expiry, 0x0c, b"\0\0\x01t\0\x01.")
        }

        fn connect_with(&mut self, home: u8, expiry: u8, flags: u8, will: &[u8]) -> ClientId {
            let (name, client) = (self.name(home), self.world.connect());
            let front = [&[0x10, 22 + will.len() as u8][..], b"\0\x04MQTT\x05", &[flags]].concat();
            let session = [0, 0, 5, 0x11, 0, 0, 0, expiry, 0, 4];
            self.send(client, &[&front, &session[..], name.as_bytes(), will].concat());
            client
        }

        /// Subscribes at QoS 1.
        fn subscribe(&mut self, client: ClientId, filter: &str) {
            let len = filter.len() as u8;
            let head = [0x82, len + 6, 0, 1, 0, 0, len];
            self.send(client, &[&head, filter.as_bytes(), &[1]].concat());
        }

        /// One whose session lasts, and that has subscribed to `t` at QoS 1, which is committed.
        fn subscriber(&mut self, home: u8, writer: &mut Writer) -> ClientId {
            let client = self.connect(home, 100);
            writer.step();
            self.subscribe(client, "t");
            for _ in 0..2 {
                writer.step();
                self.send(client, b"");
            }
            client
        }

        /// Commits until nothing more comes for a client.
        fn settle(&mut self, client: ClientId, writer: &mut Writer) {
            while self.received(client) != 0 || writer.step() {}
        }

        fn send(&mut self, client: ClientId, bytes: &[u8]) {
            assert_eq!(self.world.client_send(client, bytes).expect("it is open"), bytes.len());
            for shard in [0, 1, 0, 1, 0] {
                assert!(self.shards[shard].turn(false).expect("a simulated driver does not fail"));
            }
        }
    }

    /// The receivers have it: nobody has to keep it any more, here or on another shard.
    #[test]
    fn what_all_receivers_have_acknowledged_waits_for_no_commit() {
        for homes in [[0, 0], [1, 1], [0, 1]] {
            let memory = Memory::default();
            let (mut two, mut writer) = Two::start(&memory, Settings::for_tests());
            let receivers = homes.map(|home| two.subscriber(home, &mut writer));
            let publisher = two.connect(0, 0);
            receivers.into_iter().chain([publisher]).for_each(|of| _ = two.received(of));
            two.send(publisher, b"\x32\x06\0\x01t\0\x01\0\x32\x06\0\x01t\0\x02\0");
            for receiver in receivers {
                assert_eq!(two.received(receiver), 16);
                assert_eq!(two.received(publisher), 0, "{homes:?}");
                two.send(receiver, b"\x40\x02\0\x01\x40\x02\0\x02");
            }
            assert_eq!(two.received(publisher), 8, "{homes:?}");
            writer.step();
            let mut stored = 0;
            memory.scan(Table::Queued, &mut |_, _| stored += 1).expect("readable");
            assert_eq!(stored, 0);
            // What nobody waits for is committed all the same.
            assert!(
                two.shards
                    .iter()
                    .all(|shard| { shard.core.store.as_ref().is_some_and(Keeper::is_at_rest) })
            );
        }
    }

    /// What was acknowledged last is not to come before what was acknowledged earlier: a receiver goes by the last
    /// value of a topic, and nobody would send that again.
    #[test]
    fn after_a_crash_nothing_comes_behind_what_its_publisher_was_told_of() {
        let memory = Memory::default();
        let (mut two, mut writer) = Two::start(&memory, Settings::for_tests());
        let receiver = two.subscriber(0, &mut writer);
        let publisher = two.connect(0, 0);
        [receiver, publisher].into_iter().for_each(|of| _ = two.received(of));
        two.send(publisher, b"\x32\x06\0\x01t\0\x01\0");
        writer.step();
        two.send(receiver, b"\x40\x02\0\x01");
        assert_ne!(two.received(publisher), 0);
        two.send(publisher, b"\x32\x06\0\x01t\0\x02\0");
        two.send(receiver, b"\x40\x02\0\x02");
        let is_told = two.received(publisher) != 0;
        let mut stored = 0;
        memory.crashed().scan(Table::Queued, &mut |_, _| stored += 1).expect("readable");
        assert!(!is_told || stored == 0, "the first comes again behind the second");
        writer.step();
        assert!(is_told || two.received(publisher) != 0);
    }

    /// What a session had goes to a client of another shard as it ends, and so does its Will: until that is committed a
    /// crash would have it happen again.
    #[test]
    fn what_another_shard_passes_on_does_not_come_again_behind_what_is_acknowledged() {
        for by_will in [true, false] {
            let memory = Memory::default();
            let (mut two, mut writer) = Two::start(&memory, Settings::for_tests());
            let (filter, publisher) = ("$share/g/t", two.connect(1, 0));
            let away = if by_will { two.connect_with_will(0, 100) } else { two.connect(0, 1) };
            if !by_will {
                two.subscribe(away, filter);
                two.settle(away, &mut writer);
                two.world.client_close(away);
                two.send(publisher, b"\x32\x06\0\x01t\0\x01\0");
            }
            let receiver = two.connect(1, 100);
            two.subscribe(receiver, filter);
            [receiver, publisher].into_iter().for_each(|of| two.settle(of, &mut writer));
            if by_will {
                two.world.client_close(away);
            } else {
                two.world.advance(Duration::from_secs(1));
            }
            assert_ne!(two.received(receiver), 0, "by a will: {by_will}");
            two.send(receiver, b"\x40\x02\0\x01");
            two.send(publisher, b"\x32\x06\0\x01t\0\x02\0");
            assert_ne!(two.received(receiver), 0, "by a will: {by_will}");
            two.send(receiver, b"\x40\x02\0\x02");
            assert_eq!(two.received(publisher), 0, "by a will: {by_will}");
            while writer.step() {}
            assert_ne!(two.received(publisher), 0, "by a will: {by_will}");
        }
    }

    /// However long the store fails, nothing is left behind by what need not be stored, where that is waited
    /// for.
    #[test]
    fn nothing_piles_up_while_the_store_fails() {
        const COUNT: usize = 4 * WAITING_KEPT;
        let memory = Memory::default();
        let (mut two, mut writer) = Two::start(&memory, Settings::for_tests());
        let away = two.connect(1, 100);
        writer.step();
        two.subscribe(away, "s");
        writer.step();
        two.world.client_close(away);
        let subscriber = two.connect(1, 0);
        two.send(subscriber, b"\x82\x07\0\x01\0\0\x01t\0");
        let publisher = two.connect(0, 0);
        memory.fail(Some("no space left"));
        two.send(publisher, b"\x32\x06\0\x01s\0\x01\0");
        writer.step();
        let other = two.connect(0, 0);
        let mut acknowledged = Vec::new();
        for n in 0..COUNT {
            two.send(other, b"\x32\x06\0\x01t\0\x01\0");
            two.world.client_recv(other, &mut acknowledged);
            two.world.client_recv(subscriber, &mut Vec::new());
            if n % WAITING_KEPT == 0 {
                two.world.advance(Duration::from_secs(1));
            }
        }
        assert!(acknowledged.len() > COUNT * 4, "{} bytes", acknowledged.len());
        let waiting = two.shards[0].core.gate.waiting[1].len();
        assert!(waiting <= 2 * WAITING_KEPT + 1, "{waiting}");
    }

    /// [MQTT-3.1.3-9] A CONNECT comes to nothing, because the store begins to fail: the session is there as it was
    /// before, and its Will is published when it is due.
    #[test]
    fn who_is_refused_has_the_session_and_the_will_of_before() {
        let memory = Memory::default();
        let (mut two, mut writer) = Two::start(&memory, Settings::for_tests());
        let watcher = two.connect(0, 0);
        two.send(watcher, b"\x82\x07\0\x01\0\0\x01w\0");
        let mut settle = |two: &mut Two, seconds| {
            two.world.advance(Duration::from_secs(seconds));
            two.send(watcher, b"");
            writer.step();
            two.received(watcher)
        };
        let will = b"\x10\x1f\0\x04MQTT\x05\x04\0\0\x05\x11\0\0\0\x64\0\x01a\x05\x18\0\0\0\x0a\0\x01w\0\x01.";
        let client = two.world.connect();
        two.send(client, will);
        settle(&mut two, 0);
        assert_ne!(two.received(client), 0, "CONNACK");
        two.world.client_close(client);
        settle(&mut two, 0);
        memory.fail(Some("no space left"));
        let again = two.world.connect();
        two.send(again, b"\x10\x13\0\x04MQTT\x05\0\0\0\x05\x11\0\0\0\0\0\x01a");
        let before: usize = (0..5).map(|_| settle(&mut two, 1)).sum();
        let mut answer = Vec::new();
        two.world.client_recv(again, &mut answer);
        assert_eq!(answer.get(..4).map(|head| head[3]), Some(0x88), "CONNACK");
        memory.fail(None);
        let later: usize = (0..6).map(|_| settle(&mut two, 1)).sum();
        let is_there = two.shards.iter().any(|one| one.core.sessions.find("a").is_some());
        assert_eq!((before, later, is_there), (0, 7, true));
    }

    /// A session has expired, and would be there again after a crash: nobody has to keep what it would have had,
    /// but it is acknowledged when that cannot happen any more.
    #[test]
    fn what_comes_for_who_has_ended_waits_until_that_is_committed() {
        for (filter, home) in [("t", 0), ("t", 1), ("$share/g/t", 0), ("$share/g/t", 1)] {
            let memory = Memory::default();
            let (mut two, mut writer) = Two::start(&memory, Settings::for_tests());
            let away = two.connect(home, 1);
            writer.step();
            two.subscribe(away, filter);
            writer.step();
            two.world.client_close(away);
            let publisher = two.connect(0, 0);
            two.send(publisher, b"");
            writer.step();
            assert_ne!(two.received(publisher), 0, "CONNACK");
            let there = || Stored::in_memory(&memory.crashed(), 2).0.recovered.sessions.len();
            two.world.advance(Duration::from_secs(1));
            two.send(publisher, b"");
            assert!(two.shards[usize::from(home)].core.sessions.len() == usize::from(home == 0));
            two.send(publisher, b"\x32\x06\0\x01t\0\x01\0");
            assert_eq!((two.received(publisher), there()), (0, 1), "{filter} on {home}");
            while writer.step() {}
            assert_eq!((two.received(publisher), there()), (5, 0), "{filter} on {home}");
            while writer.step() {}
            two.send(publisher, b"");
            // It is forgotten for good.
            two.send(publisher, b"\x32\x06\0\x01t\0\x02\0");
            assert_eq!(two.received(publisher), 5, "{filter} on {home}");
        }
    }

    /// A session ends because a message finds its queue full, which somebody else gets: a crash would bring it back
    /// without that.
    #[test]
    fn what_ends_a_session_waits_until_that_is_committed() {
        for home in [0, 1] {
            let memory = Memory::default();
            let mut settings = Settings::for_tests();
            settings.overflow_offline = OverflowOffline::EndSession;
            settings.session.max_queued_messages = 1;
            let (mut two, mut writer) = Two::start(&memory, settings);
            for expiry in [100, 0] {
                let subscriber = two.connect(home, expiry);
                writer.step();
                two.subscribe(subscriber, "t");
                writer.step();
                if expiry > 0 {
                    two.world.client_close(subscriber);
                }
            }
            let publisher = two.connect(0, 0);
            let mut publish = |two: &mut Two| {
                two.received(publisher);
                two.send(publisher, b"\x32\x06\0\x01t\0\x01\0");
                let before = two.received(publisher);
                while writer.step() {}
                (before, two.received(publisher))
            };
            assert_eq!(publish(&mut two), (0, 4), "it is queued");
            let there = || Stored::in_memory(&memory.crashed(), 2).0.recovered.sessions.len();
            assert_eq!(there(), 1);
            assert_eq!(publish(&mut two), (0, 4), "at home on {home}");
            assert_eq!(there(), 0);
        }
    }

    #[test]
    fn a_shard_is_uninformed_until_it_confirms_the_last_filter() {
        let mut gate = Gate::new(3);
        gate.told(0b110, 4);
        gate.told(0b010, 5);
        assert_eq!(gate.uninformed(), 0b110);
        gate.confirmed[1] = 4;
        gate.confirmed[2] = 4;
        assert_eq!(gate.uninformed(), 0b010);
        // A later turn stands for all before it.
        gate.confirmed[1] = 9;
        assert_eq!(gate.uninformed(), 0);
    }

    #[test]
    fn a_session_stands_once_a_turn_in_each_queue() {
        let mut gate = Gate::new(3);
        for (mask, turn, session) in [(0b110, 1, 7), (0b010, 1, 7), (0b010, 1, 8), (0b010, 2, 7)] {
            gate.wait(mask, turn, session, 0);
        }
        let queued: Vec<Vec<_>> = gate
            .waiting
            .iter()
            .map(|queue| queue.iter().map(|one| (one.turn, one.session)).collect())
            .collect();
        assert_eq!(queued[..3], [vec![], vec![(1, 7), (1, 8), (2, 7)], vec![(1, 7)]]);
    }

    #[test]
    fn the_store_is_waited_for_as_a_shard_but_knows_no_filters() {
        let mut gate = Gate::new(2);
        gate.wait(1 << STORE, 1, 7, 0);
        assert_eq!(gate.waiting[STORE as usize].len(), 1);
        gate.told(0b10, 1);
        assert_eq!(gate.uninformed(), 0b10);
    }
}
