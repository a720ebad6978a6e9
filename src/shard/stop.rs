//! The graceful stop: route what was read, tell every client, write what waits, within a bound.

use std::sync::atomic::Ordering;

use crate::net::{ConnId, Driver};
use crate::timer::Time;

use super::Core;
use super::ending::Ending;
use super::remote::Item;
use super::store::Keeper;

/// How far the stop of a shard has come.
#[derive(Debug, Default)]
pub(super) struct Stopping {
    phase: Phase,
    /// Shards that route nothing more for clients.
    quiet: u64,
    /// Shards that have let everyone go.
    empty: u64,
    /// Shards whose lane still holds that this one has.
    untold: u64,
    deadline: Time,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Running,
    /// Every connection has been told; messages of other shards still come in.
    Quieting,
    /// What is written still leaves, and sessions that end leave messages to others of their groups.
    Closing,
    /// Everybody is gone from here, and what is left to others is stored; others may leave something to members
    /// here yet.
    Empty,
    Done,
}

impl Stopping {
    pub(super) fn is_stopping(&self) -> bool {
        self.phase != Phase::Running
    }

    /// When it has to be done, once it has begun.
    pub(super) fn deadline(&self) -> Option<Time> {
        self.is_stopping().then_some(self.deadline)
    }

    pub(super) fn is_done(&self) -> bool {
        self.phase == Phase::Done
    }

    pub(super) fn peer_is_quiet(&mut self, shard: u8) {
        self.quiet |= 1 << shard;
    }

    pub(super) fn peer_is_empty(&mut self, shard: u8) {
        self.empty |= 1 << shard;
    }
}

impl<S> Core<S> {
    /// Goes on with the stop, if there is one.
    pub(super) fn check_stop<D: Driver<Socket = S>>(&mut self, driver: &mut D) {
        if self.stopping.phase == Phase::Running && self.shared.stop.load(Ordering::Acquire) {
            self.begin_stop(driver);
        }
        let late = self.now >= self.stopping.deadline;
        if self.stopping.phase == Phase::Quieting && (late || self.are_others(self.stopping.quiet))
        {
            let ids: Vec<ConnId> = self.connections.ids().collect();
            for id in ids {
                self.end(id, Ending::Stopping);
            }
            self.stopping.phase = Phase::Closing;
        }
        if self.stopping.phase == Phase::Closing && (late || self.has_let_all_go()) {
            self.stopping.phase = Phase::Empty;
            self.tell_all_others(|| Item::Empty);
            self.stopping.untold = self.mailbox.others();
        }
    }

    /// Ends the stop when nobody needs this shard any more, or at its deadline. Asked when mail was posted.
    pub(super) fn finish_stop(&mut self) {
        self.stopping.untold &= self.mailbox.full();
        let late = self.now >= self.stopping.deadline;
        if self.stopping.phase == Phase::Empty && (late || self.is_needed_no_more()) {
            self.log.tell_suppressed();
            self.stopping.phase = Phase::Done;
        }
    }

    /// When the stop has to go on whatever happens.
    pub(super) fn stop_deadline(&self) -> Option<Time> {
        self.stopping.deadline()
    }

    /// Whether the next phase of the stop can begin. Asked before a sleep, out of which a shard is
    /// not woken for it.
    pub(super) fn stop_goes_on(&self) -> bool {
        match self.stopping.phase {
            Phase::Running => self.shared.stop.load(Ordering::Acquire),
            Phase::Done => false,
            Phase::Quieting => self.are_others(self.stopping.quiet),
            Phase::Closing => self.has_let_all_go(),
            Phase::Empty => self.is_needed_no_more(),
        }
    }

    /// Whether nobody is connected any more, nothing of an ended session is stored, and all that was handed over
    /// is: what other shards do for that they have done.
    fn has_let_all_go(&self) -> bool {
        self.connections.open() == 0
            && !self.has_stored_remains()
            && self.store.as_ref().is_none_or(Keeper::is_at_rest)
    }

    /// Whether no other shard leaves anything to this one, and all have been told as much. A lane may be full
    /// for good: who has heard it of all takes nothing more.
    fn is_needed_no_more(&self) -> bool {
        self.are_others(!self.stopping.untold) && self.are_others(self.stopping.empty)
    }

    /// Whether all other shards have said so. One that failed never will.
    fn are_others(&self, so: u64) -> bool {
        let silent = so | self.shared.failed.load(Ordering::Acquire);
        self.mailbox.others() & !silent == 0
    }

    fn tell_all_others(&mut self, item: impl Fn() -> Item<S>) {
        let mut others = self.mailbox.others();
        while others != 0 {
            self.mailbox.push(others.trailing_zeros() as u8, 0, item());
            others &= others - 1;
        }
    }

    /// Reads nothing more, publishes the wills if so configured, and says that it is quiet.
    fn begin_stop<D: Driver<Socket = S>>(&mut self, driver: &mut D) {
        self.stopping.phase = Phase::Quieting;
        self.stopping.deadline = self.now.plus(self.settings.shutdown_timeout);
        driver.stop_accepting();
        let ids: Vec<ConnId> = self.connections.ids().collect();
        for id in ids {
            driver.pause(id);
        }
        if self.settings.shutdown_wills {
            let keys: Vec<_> = self.sessions.keys().collect();
            for key in keys {
                let connected = self.sessions.get_mut(key).filter(|slot| slot.connection.is_some());
                if let Some(will) = connected.and_then(|slot| slot.session.take_will()) {
                    self.note_and_publish(key, Some(will));
                }
            }
        }
        self.tell_all_others(|| Item::Quiet);
    }
}

#[cfg(test)]
mod tests {
    use super::super::remote::Item;
    use super::super::settings::Settings;
    use super::super::{Shard, Shared, Stored};
    use crate::hooks::Hooks;
    use crate::net::sim::{ClientId, Faults, SimDriver, SimOptions, World};
    use crate::store::{Memory, Recovered, Writer};

    /// Two shards over a store.
    struct Two {
        world: World,
        memory: Memory,
        writer: Writer,
        shared: std::sync::Arc<Shared>,
        shards: Vec<Shard<SimDriver>>,
    }

    impl Two {
        fn start() -> Self {
            Self::with(Settings::for_tests())
        }

        fn with(settings: Settings) -> Self {
            let memory = Memory::default();
            let (stored, writer) = Stored::in_memory(&memory, 2);
            let shared = std::sync::Arc::new(Shared::new(settings, Hooks::default(), 2, 1));
            let world = World::new(1, SimOptions { faults: Faults::NONE, ..SimOptions::default() });
            let drivers = vec![world.add_driver(), world.add_driver()];
            let shards = Shard::assemble_stored(drivers, &shared, stored);
            Self { world, memory, writer, shared, shards }
        }

        /// Says whether the shard goes on.
        fn turn(&mut self, shard: usize) -> bool {
            self.shards[shard].turn(false).expect("a simulated driver does not fail")
        }

        fn settle(&mut self) {
            for shard in [0, 1].repeat(6) {
                self.turn(shard);
                self.writer.step();
            }
        }

        fn send(&mut self, client: ClientId, bytes: &[u8]) {
            assert_eq!(self.world.client_send(client, bytes).expect("it is open"), bytes.len());
            self.settle();
        }

        /// A client of 5.0 that is at home on a shard, with a session of so many seconds and perhaps a Will.
        fn connect(&mut self, home: u8, expiry: u8, will: &[u8]) -> ClientId {
            self.connect_with(if will.is_empty() { 0x02 } else { 0x0E }, home, expiry, will)
        }

        fn connect_with(&mut self, flags: u8, home: u8, expiry: u8, will: &[u8]) -> ClientId {
            let core = &self.shards[0].core;
            let mut names = (0..).map(|n| format!("{home}{n:03}"));
            let is_free = |name: &String| {
                core.home(name) == home
                    && self.shards.iter().all(|one| one.core.sessions.find(name).is_none())
            };
            let name = names.find(is_free).expect("one");
            let len = 22 + will.len() as u8;
            let head = [0x10, len, 0, 4, b'M', b'Q', b'T', b'T', 5, flags, 0, 0, 5, 0x11, 0, 0, 0];
            let client = self.world.connect();
            let rest = [&[expiry, 0, 4][..], name.as_bytes(), will].concat();
            self.send(client, &[&head[..], &rest].concat());
            client
        }

        fn stored(&self) -> Recovered {
            Stored::in_memory(&self.memory.crashed(), 2).0.recovered
        }
    }

    /// Subscribes to `filter` at QoS 1.
    fn subscribe(filter: &str) -> Vec<u8> {
        let len = filter.len() as u8;
        [&[0x82, len + 6, 0, 1, 0, 0, len][..], filter.as_bytes(), &[1]].concat()
    }

    /// A Will of QoS 1 on `w`, as CONNECT has it behind the Client Identifier.
    const WILL: &[u8] = b"\0\0\x01w\0\x01.";

    /// The machine stops when Wills have been published, and connections not ended yet: they are not published
    /// once more.
    #[test]
    fn a_will_is_gone_as_soon_as_it_is_published() {
        let mut two = Two::start();
        two.connect(0, 100, WILL);
        let heir = two.connect(0, 100, &[]);
        two.send(heir, &subscribe("w"));
        two.world.client_close(heir);
        two.settle();
        let wills = |two: &Two| {
            let sessions = two.stored().sessions;
            let has_will = sessions.iter().filter(|one| one.record.will.is_some()).count();
            let queued = sessions.iter().map(|one| one.paged.messages).sum::<u32>();
            (has_will, queued)
        };
        assert_eq!(wills(&two), (1, 0));
        two.shared.stop();
        two.turn(0);
        two.writer.step();
        assert_eq!(wills(&two), (0, 1));
    }

    /// A publisher was held, and what it waited for is there when the broker stops already: it is not read on.
    #[test]
    fn nothing_is_read_any_more_when_others_were_told_so() {
        let mut two = Two::start();
        let publisher = two.connect(0, 0, &[]);
        two.shared.stop();
        two.turn(0);
        let publish = b"\x30\x05\0\x01t\0.";
        assert_eq!(two.world.client_send(publisher, publish).expect("it is open"), publish.len());
        let core = &mut two.shards[0].core;
        core.resumed = core.connections.ids().collect();
        assert_eq!(core.resumed.len(), 1);
        for _ in 0..3 {
            two.turn(0);
        }
        assert_eq!(two.shards[0].core.stats.publishes_received.value(), 0);
    }

    /// A shard that has been told that all have gone takes nothing more: what it is told later fills its lane.
    #[test]
    fn nobody_waits_for_a_shard_that_is_done() {
        let mut two = Two::with(Settings { mailbox_bytes: 1, ..Settings::for_tests() });
        two.connect(1, 0, &[]);
        two.shared.stop();
        for shard in [0, 1, 0] {
            assert!(two.turn(shard));
        }
        for turns in 0.. {
            assert!(turns < 10, "it has been told");
            two.writer.step();
            if !two.turn(1) {
                break;
            }
        }
        let core = &mut two.shards[0].core;
        for _ in 0..2 {
            core.tell_all_others(|| Item::Quiet);
            core.mailbox.post(core.turn, core.now);
        }
        assert_ne!(core.mailbox.full(), 0);
        assert!(!two.turn(0), "it waits for its deadline");
    }

    /// The same for what retains it: it would come again in the place of what others have had retained since.
    #[test]
    fn a_will_is_retained_or_still_to_come() {
        for home in [0, 1] {
            let mut two = Two::start();
            let client = two.connect_with(0x2E, home, 100, WILL);
            let stored = |two: &Two| {
                let Recovered { sessions, retained, .. } = two.stored();
                (sessions.iter().filter(|one| one.record.will.is_some()).count(), retained.len())
            };
            two.world.client_close(client);
            two.turn(home.into());
            two.writer.step();
            assert_eq!(stored(&two), (1, 0), "at home on {home}");
            two.settle();
            assert_eq!(stored(&two), (0, 1), "at home on {home}");
        }
    }

    /// What a session that ends with the broker leaves to its group goes to a member on another
    /// shard, where nobody is connected any more; and it is stored that all others have gone.
    #[test]
    fn what_is_left_to_a_shard_that_has_nobody_to_let_go_is_stored() {
        for order in [[0, 1], [1, 0]] {
            let mut two = Two::start();
            let away = two.connect(1, 100, &[]);
            two.send(away, &subscribe("$share/g/t"));
            two.world.client_close(away);
            two.connect(0, 100, WILL);
            let member = two.connect(0, 0, &[]);
            two.send(member, &subscribe("$share/g/t"));
            two.send(member, b"\x32\x07\0\x01t\0\x01\0.");
            two.shared.stop();
            let mut goes_on = vec![0, 1];
            for turns in 0.. {
                assert!(turns < 100, "it does not stop");
                for shard in order {
                    if goes_on.contains(&shard) && !two.turn(shard) {
                        goes_on.retain(|one| *one != shard);
                    }
                }
                if goes_on.is_empty() {
                    break;
                }
                two.writer.step();
                two.world.advance(std::time::Duration::from_millis(100));
            }
            two.shards.clear();
            while two.writer.step() {}
            let sessions = two.stored().sessions;
            let connected = sessions.iter().filter(|one| one.record.disconnected_at.is_none());
            let (connected, count) = (connected.count(), sessions.len());
            let queued = sessions.iter().map(|one| one.paged.messages).sum::<u32>();
            assert_eq!((count, connected, queued), (2, 0, 1), "{order:?}");
        }
    }
}
