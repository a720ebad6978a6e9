//! Shards on a simulated network, turned by hand.

use std::sync::Arc;

use sluice::Config;
use sluice::hooks::{Commit, Hooks, Store};
use sluice::net::sim::{ClientId, Faults, SimDriver, SimOptions, World};
use sluice::server::settings;
use sluice::session::DropCause;
use sluice::shard::{Shard, Shared, Stored};
use sluice::store::{Epoch, Memory, PROGRESS_RECORDS, Writer, recover};

use crate::common::connect::Connect;
use crate::common::wire::{self, Cursor};
use crate::common::{Packet, V311, Version};

pub(crate) struct Rig {
    pub(crate) world: World,
    pub(crate) shards: Vec<Shard<SimDriver>>,
    shared: Arc<Shared>,
    writer: Option<Writer>,
}

impl Rig {
    pub(crate) fn new(shards: usize, toml: &str) -> Self {
        Self::with_buffers(SimOptions::default().buffer_bytes, shards, toml)
    }

    /// Connections hold so many bytes each way.
    pub(crate) fn with_buffers(buffer_bytes: usize, shards: usize, toml: &str) -> Self {
        let (world, shared, drivers) = parts(buffer_bytes, shards, toml);
        Self { shards: Shard::assemble(drivers, &shared), world, shared, writer: None }
    }

    /// With a store, which commits after each round of [`turns`](Self::turns).
    pub(crate) fn with_store(store: &Memory, shards: usize, toml: &str) -> Self {
        let (world, shared, drivers) = parts(SimOptions::default().buffer_bytes, shards, toml);
        let store = store.clone();
        let open = Box::new(move || Ok(Box::new(store.clone()) as Box<dyn Store>));
        let (epoch, count) = (Epoch { unix_ms: 0 }, u8::try_from(shards).expect("few"));
        let (recovered, writer, links) =
            recover(open, Commit::Disk, epoch, count, PROGRESS_RECORDS).expect("whole records");
        let shards = Shard::assemble_stored(drivers, &shared, Stored { links, recovered });
        Self { shards, world, shared, writer: Some(writer) }
    }

    /// Whoever writes to the store is gone, as by a panic.
    pub(crate) fn lose_writer(&mut self) {
        self.writer = None;
    }

    /// Gives all shards another configuration.
    pub(crate) fn change(&self, toml: &str) {
        let config = Config::parse("test.toml", toml, []).expect("a configuration");
        self.shared.change_settings(settings(&config));
    }

    /// A Client Identifier that is at home on a shard.
    pub(crate) fn name_at(&mut self, shard: usize, prefix: &str) -> String {
        let connects = |rig: &Self| rig.shared.stats[shard].connects.value();
        for n in 0.. {
            let name = format!("{prefix}-{shard}-{n}");
            let before = connects(self);
            let probe = self.connect(&Connect::new(V311, &name));
            self.world.client_close(probe);
            self.turns(4);
            if connects(self) > before {
                return name;
            }
        }
        unreachable!("some name is at home there")
    }

    /// Messages dropped for a cause, over all shards.
    pub(crate) fn dropped(&self, cause: DropCause) -> u64 {
        self.shared.stats.iter().map(|stats| stats.dropped[cause as usize].value()).sum()
    }

    /// One shard takes so many turns, and no other.
    pub(crate) fn turns_of(&mut self, shard: usize, turns: usize) {
        for _ in 0..turns {
            assert!(self.shards[shard].turn(false).expect("a simulated driver does not fail"));
        }
    }

    /// Every shard takes so many turns.
    pub(crate) fn turns(&mut self, turns: usize) {
        for _ in 0..turns {
            for shard in &mut self.shards {
                assert!(shard.turn(false).expect("a simulated driver does not fail"));
            }
            if let Some(writer) = &mut self.writer {
                writer.step();
            }
        }
    }

    /// Has every shard stop.
    pub(crate) fn stop(&self) {
        self.shared.stop();
    }

    /// Every shard takes so many turns of its stop; whether all have stopped.
    pub(crate) fn last_turns(&mut self, turns: usize) -> bool {
        let mut running = true;
        for _ in 0..turns {
            running = false;
            for shard in &mut self.shards {
                running |= shard.turn(false).expect("a simulated driver does not fail");
            }
        }
        !running
    }

    pub(crate) fn connect(&mut self, connect: &Connect) -> ClientId {
        let client = self.world.connect();
        self.send(client, &connect.bytes());
        self.turns(4);
        assert_eq!(self.receive(client)[0], wire::CONNACK);
        client
    }

    /// Sends all of it, the shards taking turns meanwhile.
    pub(crate) fn send(&mut self, client: ClientId, bytes: &[u8]) {
        assert_eq!(self.send_until_stuck(client, bytes), bytes.len());
    }

    /// Sends until the broker takes no more; says how much it took.
    pub(crate) fn send_until_stuck(&mut self, client: ClientId, bytes: &[u8]) -> usize {
        let mut sent = 0;
        let mut stuck = 0;
        while sent < bytes.len() && stuck < 10 {
            let taken = self.world.client_send(client, &bytes[sent..]).unwrap_or(0);
            stuck = if taken == 0 { stuck + 1 } else { 0 };
            sent += taken;
            self.turns(1);
        }
        sent
    }

    /// What has come for a client.
    pub(crate) fn receive(&mut self, client: ClientId) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut quiet = 0;
        while quiet < 10 {
            let got = self.world.client_recv(client, &mut bytes);
            quiet = if got == 0 { quiet + 1 } else { 0 };
            self.turns(1);
        }
        bytes
    }

    /// What has come for a client; no shard takes a turn for it.
    pub(crate) fn take(&mut self, client: ClientId) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.world.client_recv(client, &mut bytes) > 0 {}
        bytes
    }

    /// Takes what has come for a client, and acknowledges each QoS 1 message; the messages' payloads.
    pub(crate) fn take_all(&mut self, client: ClientId, version: Version) -> Vec<Vec<u8>> {
        let bytes = self.receive(client);
        let mut payloads = Vec::new();
        for packet in packets(&bytes, version) {
            if let Packet::Publish(publish) = packet {
                if publish.qos == 1 {
                    self.send(client, &wire::packet(wire::PUBACK, &publish.id.to_be_bytes()));
                }
                payloads.push(publish.payload);
            }
        }
        payloads
    }
}

fn parts(buffer_bytes: usize, shards: usize, toml: &str) -> (World, Arc<Shared>, Vec<SimDriver>) {
    let world = World::new(1, SimOptions { faults: Faults::NONE, buffer_bytes });
    let config = Config::parse("test.toml", toml, []).expect("a configuration");
    let shared = Shared::new(settings(&config), Hooks::default(), shards, 1).into();
    let drivers = (0..shards).map(|_| world.add_driver()).collect();
    (world, shared, drivers)
}

/// Whole packets.
pub(crate) fn packets(mut bytes: &[u8], version: Version) -> Vec<Packet> {
    let mut packets = Vec::new();
    while let Some((first_byte, rest)) = bytes.split_first() {
        let mut cursor = Cursor::new(rest, "a packet");
        let length = cursor.variable() as usize;
        packets.push(Packet::read(version, *first_byte, cursor.take(length)));
        bytes = cursor.rest();
    }
    packets
}

/// The identifiers acknowledged by PUBACK, with their Reason Codes.
pub(crate) fn pubacks(bytes: &[u8], version: Version) -> Vec<(u16, u8)> {
    let acks = packets(bytes, version).into_iter();
    acks.filter_map(|packet| match packet {
        Packet::PubAck(ack) => Some((ack.id, ack.code)),
        _ => None,
    })
    .collect()
}
