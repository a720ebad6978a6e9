use super::super::settings::Settings;
use super::super::{Shard, Shared, Stored};
use super::*;
use crate::hooks::Hooks;
use crate::mqtt::Message;
use crate::net::sim::{ClientId, Faults, SimDriver, SimOptions, World};
use crate::store::{Memory, Writer};

/// While a store fails for hours, other shards send turn after turn.
#[test]
fn of_the_confirmations_that_wait_for_one_commit_there_is_one_for_each_shard() {
    const TURNS: u64 = 100;
    let (stored, mut writer) = Stored::in_memory(&Memory::default(), 3);
    let shared = Shared::new(Settings::for_tests(), Hooks::default(), 3, 1).into();
    let world = World::new(1, SimOptions::default());
    let drivers = (0..3).map(|_| world.add_driver()).collect();
    let mut shards = Shard::assemble_stored(drivers, &shared, stored);
    let core = &mut shards[0].core;
    core.store.as_ref().expect("there is one").journal.note(Change::Undone);
    let mut first = 0;
    for of in 1..=TURNS {
        for to in [1, 2] {
            assert!(!core.confirm_to(to, of, Outcomes::new(true), first));
            first = core.noted();
        }
    }
    let deferred = |core: &mut Core<_>| core.store.as_ref().map(|store| store.deferred.len());
    assert_eq!(deferred(core), Some(2));
    core.hand_over();
    writer.step();
    core.take_committed();
    assert_eq!(deferred(core), Some(0));
    core.mailbox.post(core.turn, core.now);
    for shard in &mut shards[1..] {
        let batch = shard.core.mailbox.take().expect("a batch");
        let confirmed = batch.items.iter().map(|item| match item {
            Item::Confirm { turn, .. } => *turn,
            other => unreachable!("{other:?}"),
        });
        assert_eq!(confirmed.collect::<Vec<_>>(), [TURNS]);
    }
}

/// What a turn has of an act is one, however many messages it is of: the writer looks at each of them again
/// with each commit.
#[test]
fn what_is_done_in_a_turn_is_one_part() {
    let (stored, _writer) = Stored::in_memory(&Memory::default(), 3);
    let shared = Shared::new(Settings::for_tests(), Hooks::default(), 3, 1).into();
    let world = World::new(1, SimOptions::default());
    let drivers = (0..3).map(|_| world.add_driver()).collect();
    let core = &mut Shard::assemble_stored(drivers, &shared, stored)[0].core;
    let note = |core: &mut Core<_>| {
        core.store.as_ref().expect("there is one").journal.note(Change::Undone)
    };
    for to in [1, 2, 1] {
        let first = core.begin_act();
        note(core);
        core.passes_on(false);
        let act = core.act_with(to);
        core.end_act(first);
        assert_eq!(act, Some((0, core.turn)));
    }
    note(core);
    let first = core.join_act(Some((2, 7)));
    note(core);
    core.end_act(first);
    let act = (0, core.turn);
    let Keeper { parts, handed, unstored, .. } = core.store.as_ref().expect("there is one");
    let part = |first, end, act| Part { first, end, act };
    assert_eq!(*parts, [part(0, 3, act), part(4, 5, (2, 7))]);
    assert_eq!((&**handed, &**unstored), (&[(act, 0b110)][..], &[act][..]));
}

/// A shard whose writer takes nothing in until it is told to, and clients of 3.1.1.
struct Behind {
    world: World,
    shard: Shard<SimDriver>,
    writer: Writer,
}

impl Behind {
    fn new() -> Self {
        let (stored, writer) = Stored::in_memory(&Memory::default(), 1);
        let shared = Shared::new(Settings::for_tests(), Hooks::default(), 1, 1).into();
        let world = World::new(1, SimOptions { faults: Faults::NONE, buffer_bytes: 4 << 20 });
        let drivers = vec![world.add_driver()];
        let shard = Shard::assemble_stored(drivers, &shared, stored).remove(0);
        Self { world, shard, writer }
    }

    fn turns(&mut self) {
        for _ in 0..4 {
            assert!(self.shard.turn(false).expect("a simulated driver does not fail"));
        }
    }

    fn send(&mut self, client: ClientId, bytes: &[u8]) {
        assert_eq!(self.world.client_send(client, bytes).expect("it is open"), bytes.len());
    }

    /// A client whose session lasts, or not.
    fn connect(&mut self, name: u8, lasts: bool) -> ClientId {
        let client = self.world.connect();
        let flags = if lasts { 0 } else { 2 };
        let head = [b"\x10\x0d\0\x04MQTT\x04", &[flags][..], b"\0\0\0\x01"].concat();
        self.send(client, &[&head[..], &[name]].concat());
        self.commit();
        client
    }

    fn note(&mut self, change: fn() -> Change, count: usize) {
        let journal = &self.shard.core.store.as_ref().expect("there is one").journal;
        (0..count).for_each(|_| _ = journal.note(change()));
        self.turns();
    }

    fn commit(&mut self) {
        self.turns();
        self.writer.step();
        self.turns();
    }

    fn turns_until(&mut self, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..1000 {
            if is_so(self) {
                return;
            }
            self.turns();
        }
        unreachable!("{} messages, and no more", self.published());
    }

    fn published(&self) -> u64 {
        self.shard.core.stats.publishes_received.value()
    }
}

fn retained() -> Change {
    let payload = vec![0; 1 << 20];
    let large = Message::new("large", QoS::AtMostOnce, true, &payload, b"", None, Time(0));
    Change::Retained("large".into(), (1, 0), Some(large))
}

/// What is retained at QoS 0 is answered by nobody: who sends more of it than the writer takes in is slowed
/// by TCP alone.
#[test]
fn who_retains_is_not_read_while_the_writer_is_far_behind() {
    let cases: [(fn() -> Change, usize); 2] = [(|| Change::Undone, 1 << 17), (retained, 64)];
    for (change, count) in cases {
        let mut behind = Behind::new();
        let [retains, other] = [b'a', b'b'].map(|name| behind.connect(name, false));
        behind.note(change, count);
        behind.send(retains, b"\x31\x04\0\x01t.");
        behind.send(other, b"\x30\x04\0\x01t.");
        behind.turns();
        let retained = |behind: &Behind| behind.shard.core.router.retained_count();
        assert_eq!((behind.published(), retained(&behind)), (1, 0), "{count} changes");
        behind.commit();
        assert_eq!((behind.published(), retained(&behind)), (2, 1));
    }
}

/// What is stored is bounded by the Receive Maximum of each publisher, and that may be a lot. Who has
/// nothing stored is read on.
#[test]
fn who_waits_for_a_writer_that_is_far_behind_is_not_read() {
    let is_full = |behind: &Behind| behind.shard.core.mailbox.is_store_full();
    let mut behind = Behind::new();
    let [stored, other] = [b'a', b'b'].map(|name| behind.connect(name, false));
    let absent = behind.connect(b'c', true);
    behind.send(absent, b"\x82\x06\0\x01\0\x01t\x01");
    behind.commit();
    behind.note(retained, 62);
    for id in 1..=6 {
        let head = b"\x32\x85\x80\x20\0\x01t\0";
        behind.send(stored, &[&head[..], &[id], &vec![0; 1 << 19]].concat());
    }
    behind.turns_until(is_full);
    // Large messages take turns to read.
    (0..16).for_each(|_| behind.turns());
    assert_eq!(behind.published(), 4);
    for id in 1..=3 {
        behind.send(other, &[b"\x32\x06\0\x01u\0", &[id, b'.'][..]].concat());
    }
    behind.turns();
    assert_eq!(behind.published(), 7, "nobody stores it");
    behind.commit();
    assert!(!is_full(&behind));
    behind.turns_until(|behind| behind.published() == 9);
}

/// Three shards over a store; clients of 5.0.
struct Three {
    world: World,
    memory: Memory,
    writer: crate::store::Writer,
    shards: Vec<Shard<SimDriver>>,
}

impl Three {
    fn turn(&mut self, shards: &[usize]) {
        for shard in shards.repeat(8) {
            assert!(self.shards[shard].turn(false).expect("a simulated driver does not fail"));
        }
        self.writer.step();
    }

    fn settle(&mut self) {
        (0..3).for_each(|_| self.turn(&[0, 1, 2]));
    }

    fn send(&mut self, client: ClientId, bytes: &[u8]) {
        assert_eq!(self.world.client_send(client, bytes).expect("it is open"), bytes.len());
    }

    /// A client at home on a shard, with a session of so many seconds, that is subscribed at QoS 2.
    fn connect(&mut self, home: u8, expiry: u8, filter: &str) -> (ClientId, String) {
        let core = &self.shards[0].core;
        let is_free = |name: &String| {
            core.home(name) == home
                && self.shards.iter().all(|one| one.core.sessions.find(name).is_none())
        };
        let name = (100..).map(|n| format!("{n}")).find(is_free).expect("one");
        let client = self.world.connect();
        let head = b"\x10\x15\0\x04MQTT\x05\x02\0\0\x05\x11\0\0\0";
        self.send(client, &[head, &[expiry, 0, 3][..], name.as_bytes()].concat());
        let len = filter.len() as u8;
        let head = [0x82, len + 6, 0, 1, 0, 0, len];
        self.send(client, &[&head, filter.as_bytes(), &[2]].concat());
        self.settle();
        (client, name)
    }

    /// What a start would find of a session: identifiers that it holds, and messages in its queue.
    fn stored(&self, name: &str) -> (usize, u32) {
        let sessions = Stored::in_memory(&self.memory.crashed(), 3).0.recovered.sessions;
        let session = sessions.iter().find(|one| &*one.record.client_id == name).expect("it is");
        (session.inbound.len(), session.paged.messages)
    }
}

/// [MQTT-4.3.3-10] What a session that ends had in memory only goes to another one of its group, and what was
/// stored when it was published is not committed yet: after a crash its publisher repeats it.
#[test]
fn what_goes_on_from_who_stores_nothing_is_not_committed_before_its_identifier() {
    let memory = Memory::default();
    let (stored, writer) = Stored::in_memory(&memory, 3);
    let mut settings = Settings::for_tests();
    settings.session.max_inflight = 1;
    let shared = Shared::new(settings, Hooks::default(), 3, 1).into();
    let world = World::new(1, SimOptions { faults: Faults::NONE, ..SimOptions::default() });
    let drivers = (0..3).map(|_| world.add_driver()).collect();
    let shards = Shard::assemble_stored(drivers, &shared, stored);
    let mut three = Three { world, memory, writer, shards };
    let (away, member) = three.connect(1, 100, "$share/g/t");
    three.connect(2, 100, "t");
    three.world.client_close(away);
    let (visitor, _) = three.connect(1, 0, "$share/g/t");
    let (client, publisher) = three.connect(0, 100, "none");
    three.send(client, b"\x34\x07\0\x01t\0\x01\0a\x34\x07\0\x01t\0\x02\0b");
    // The third shard is behind.
    three.turn(&[0, 1]);
    three.world.client_close(visitor);
    three.turn(&[1]);
    let found = |three: &Three| [&publisher, &member].map(|name| three.stored(name));
    assert_eq!(found(&three), [(0, 0), (0, 0)]);
    three.settle();
    assert_eq!(found(&three), [(2, 0), (0, 1)]);
}

mod threaded;
