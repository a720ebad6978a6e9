//! A writer that runs by itself, as in a broker, and a machine that may crash at any moment.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::super::super::settings::Settings;
use super::{Shard, Shared, Stored};
use crate::hooks::{Commit, Hooks, Store, StoreError, Table, Write};
use crate::net::sim::{ClientId, Faults, SimDriver, SimOptions, World};
use crate::session::Restored;
use crate::store::{Epoch, Memory, PROGRESS_RECORDS, StoredSession, Writer, recover};

/// Messages that a receiver has not acknowledged, at most.
const OUTSTANDING: usize = 8;

/// A store whose commits take as long as those of a disk.
struct Slow(Memory);

impl Store for Slow {
    fn commit(&mut self, writes: &[Write], commit: Commit) -> Result<(), StoreError> {
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..1000)));
        self.0.commit(writes, commit)?;
        std::thread::sleep(Duration::from_micros(fastrand::u64(0..300)));
        Ok(())
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.get(table, key)
    }

    fn range(
        &self,
        table: Table,
        from: &[u8],
        each: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        self.0.range(table, from, each)
    }
}

fn open(memory: &Memory) -> (Stored, Writer) {
    let memory = memory.clone();
    let open = Box::new(move || Ok(Box::new(Slow(memory.clone())) as Box<dyn Store>));
    let epoch = Epoch { unix_ms: 1 << 40 };
    let (recovered, writer, links) =
        recover(open, Commit::Disk, epoch, 2, PROGRESS_RECORDS).expect("whole records");
    (Stored { links, recovered }, writer)
}

struct Receiver {
    client: ClientId,
    name: String,
    input: Vec<u8>,
    /// What it has not acknowledged, with identifiers.
    owed: Vec<(u32, [u8; 2])>,
    acknowledged: BTreeSet<u32>,
}

impl Receiver {
    /// Takes in what has come: nothing but PUBLISH of one length.
    fn listen(&mut self, world: &World) {
        world.client_recv(self.client, &mut self.input);
        let len = publish(0, 0).len();
        while self.input.len() >= len {
            let frame: Vec<u8> = self.input.drain(..len).collect();
            assert_eq!((frame[0], frame[4]), (0x32, b't'), "{frame:?}");
            let number = u32::from_be_bytes(frame[len - 4..].try_into().expect("four"));
            self.owed.push((number, [frame[5], frame[6]]));
        }
    }

    fn acknowledge(&mut self, world: &World, count: usize) {
        for (number, id) in self.owed.drain(..count) {
            let ack = [0x40, 2, id[0], id[1]];
            assert_eq!(world.client_send(self.client, &ack).expect("it is open"), 4);
            self.acknowledged.insert(number);
        }
    }
}

fn publish(number: u32, id: u16) -> Vec<u8> {
    [&[0x32, 10, 0, 1, b't'][..], &id.to_be_bytes(), &[0], &number.to_be_bytes()].concat()
}

struct Scene {
    world: World,
    shards: Vec<Shard<SimDriver>>,
    memory: Memory,
    receivers: Vec<Receiver>,
    publisher: ClientId,
    sent: u32,
    /// How many the publisher was told of.
    told: u32,
    answers: Vec<u8>,
}

impl Scene {
    fn turns(&mut self) {
        for shard in [0, 1, 0, 1] {
            assert!(self.shards[shard].turn(false).expect("a simulated driver does not fail"));
        }
    }

    fn send(&mut self, client: ClientId, bytes: &[u8]) {
        assert_eq!(self.world.client_send(client, bytes).expect("it is open"), bytes.len());
    }

    /// A client at home on a shard, whose CONNACK has come.
    fn connect(&mut self, home: u8, expiry: u8) -> (ClientId, String) {
        let core = &self.shards[0].core;
        let name = (100 * u32::from(expiry > 0)..).map(|n| format!("{n:04}"));
        let name = name.into_iter().find(|name| core.home(name) == home).expect("one");
        let client = self.world.connect();
        let head = b"\x10\x16\0\x04MQTT\x05\x02\0\0\x05\x11\0\0\0";
        self.send(client, &[head, &[expiry, 0, 4][..], name.as_bytes()].concat());
        self.until_answered(client);
        (client, name)
    }

    fn until_answered(&mut self, client: ClientId) {
        let begun = Instant::now();
        while self.world.client_recv(client, &mut Vec::new()) == 0 {
            assert!(begun.elapsed() < Duration::from_secs(10), "no answer");
            self.turns();
        }
    }

    fn hear_answers(&mut self) {
        self.world.client_recv(self.publisher, &mut self.answers);
        while self.answers.len() >= 4 {
            let answer: Vec<u8> = self.answers.drain(..4).collect();
            assert_eq!(answer[..2], [0x40, 2], "{answer:?}");
            self.told += 1;
        }
    }

    /// What the machine would find now: all that the publisher was told of is there for those who have not
    /// acknowledged it, and they get nothing once more but in front of the last of it.
    fn check(&self) {
        let (stored, _) = open(&self.memory.crashed());
        for receiver in &self.receivers {
            let is_it = |one: &&StoredSession| *one.record.client_id == *receiver.name;
            let session = stored.recovered.sessions.iter().find(is_it).expect("it is stored");
            assert_eq!(session.paged.messages, 0);
            let number = |restored: &Restored| match restored {
                Restored::Message { record, .. } => {
                    u32::from_be_bytes(record.message.payload().try_into().expect("four"))
                }
                Restored::Released { .. } => unreachable!("they are of QoS 1"),
            };
            let there: BTreeSet<u32> = session.kept.iter().map(|(_, one)| number(one)).collect();
            for told in 0..self.told {
                let is_had = receiver.acknowledged.contains(&told);
                assert!(is_had || there.contains(&told), "{told} is lost: {there:?}");
            }
            if let (Some(first), Some(last)) = (there.first(), self.told.checked_sub(1)) {
                let comes = *first >= last || there.contains(&last);
                assert!(comes, "{last} does not come again behind {there:?}");
            }
        }
    }
}

/// Receivers acknowledge before the writer has taken what they get, while it commits that, and later.
#[test]
fn what_was_answered_is_there_or_was_received_whenever_the_machine_crashes() {
    let memory = Memory::default();
    let (stored, writer) = open(&memory);
    let shared: Arc<Shared> = Shared::new(Settings::for_tests(), Hooks::default(), 2, 1).into();
    let options = SimOptions { faults: Faults::NONE, ..SimOptions::default() };
    let world = World::new(1, options);
    let drivers = vec![world.add_driver(), world.add_driver()];
    let shards = Shard::assemble_stored(drivers, &shared, stored);
    std::thread::scope(|scope| {
        scope.spawn(move || writer.run(|_| {}, || None));
        let publisher = world.connect();
        let mut scene = Scene {
            world,
            shards,
            memory,
            receivers: Vec::new(),
            publisher,
            sent: 0,
            told: 0,
            answers: Vec::new(),
        };
        for home in [0, 1] {
            let (client, name) = scene.connect(home, 100);
            scene.send(client, b"\x82\x07\0\x01\0\0\x01t\x01");
            scene.until_answered(client);
            let (input, owed, acknowledged) = (Vec::new(), Vec::new(), BTreeSet::new());
            scene.receivers.push(Receiver { client, name, input, owed, acknowledged });
        }
        scene.publisher = scene.connect(0, 0).0;
        let begun = Instant::now();
        let mut at_once = 0;
        while begun.elapsed() < Duration::from_secs(1) {
            let owes = scene.receivers.iter().map(|one| one.owed.len()).max();
            let is_quick = (begun.elapsed().as_millis() / 100).is_multiple_of(2);
            if owes.is_some_and(|owes| owes < OUTSTANDING) && scene.sent - scene.told < 8 {
                let id = (scene.sent % 1000 + 1) as u16;
                scene.send(scene.publisher, &publish(scene.sent, id));
                scene.sent += 1;
            }
            scene.turns();
            for receiver in &mut scene.receivers {
                receiver.listen(&scene.world);
                let count = match is_quick || fastrand::u8(0..20) == 0 {
                    true => receiver.owed.len(),
                    false => fastrand::usize(0..=receiver.owed.len().min(1)),
                };
                receiver.acknowledge(&scene.world, count);
            }
            scene.turns();
            scene.hear_answers();
            at_once += u32::from(scene.told == scene.sent);
            if fastrand::u8(0..10) == 0 {
                scene.check();
            }
        }
        assert!(scene.told > 100 && at_once > 10, "{} told, {at_once} times all", scene.told);
        drop(scene);
    });
}
