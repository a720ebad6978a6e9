//! Shards on a simulated network, step by step: what takes full buffers, or the right turn.

use sluice::Config;
use sluice::hooks::Hooks;
use sluice::net::sim::{ClientId, Faults, SimDriver, SimOptions, World};
use sluice::server::settings;
use sluice::shard::{Shard, Shared};

use crate::common::client::subscribe;
use crate::common::connect::Connect;
use crate::common::message::Message;
use crate::common::wire;
use crate::common::{V5, V311};

struct Rig {
    world: World,
    shards: Vec<Shard<SimDriver>>,
}

impl Rig {
    fn new(shards: usize, toml: &str) -> Self {
        let world = World::new(1, SimOptions { faults: Faults::NONE, ..SimOptions::default() });
        let config = Config::parse("test.toml", toml, []).expect("a configuration");
        let shared = Shared::new(settings(&config), Hooks::default(), shards, 1).into();
        let drivers = (0..shards).map(|_| world.add_driver()).collect();
        Self { shards: Shard::assemble(drivers, &shared), world }
    }

    /// Every shard takes so many turns.
    fn turns(&mut self, turns: usize) {
        for _ in 0..turns {
            for shard in &mut self.shards {
                assert!(shard.turn(false).expect("a simulated driver does not fail"));
            }
        }
    }

    fn connect(&mut self, connect: &Connect) -> ClientId {
        let client = self.world.connect();
        self.send(client, &connect.bytes());
        self.turns(4);
        assert_eq!(self.receive(client)[0], wire::CONNACK);
        client
    }

    /// Sends all of it, the shards taking turns meanwhile.
    fn send(&mut self, client: ClientId, bytes: &[u8]) {
        assert_eq!(self.send_until_stuck(client, bytes), bytes.len());
    }

    /// Sends until the broker takes no more; says how much it took.
    fn send_until_stuck(&mut self, client: ClientId, bytes: &[u8]) -> usize {
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
    fn receive(&mut self, client: ClientId) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut quiet = 0;
        while quiet < 10 {
            let got = self.world.client_recv(client, &mut bytes);
            quiet = if got == 0 { quiet + 1 } else { 0 };
            self.turns(1);
        }
        bytes
    }
}

/// A client that sends and does not read makes the broker hold a bounded number of answers; it is
/// not read until it reads, and then goes on where it was.
#[test]
fn a_client_that_does_not_read_is_not_read() {
    let toml = "[limits]\nmax_packet_size = \"16KiB\"\n[queue]\nqos0_backlog_bytes = \"16KiB\"";
    let mut rig = Rig::new(1, toml);
    let client = rig.connect(&Connect::new(V311, "a"));
    let ping = wire::packet(wire::PINGREQ, &[]);
    let pings = ping.repeat(1 << 20);
    let mut sent = rig.send_until_stuck(client, &pings);
    assert!(sent < 1 << 20, "{sent} bytes were taken");
    let mut answers = rig.receive(client).len();
    while sent < pings.len() {
        let more = rig.send_until_stuck(client, &pings[sent..]);
        assert!(more > 0, "stuck for good");
        sent += more;
        answers += rig.receive(client).len();
    }
    assert_eq!(answers, pings.len(), "every PINGREQ is answered");
}

/// SUBSCRIBEs wait for other shards; any number of them at once is answered, each in its turn.
#[test]
fn any_number_of_subscribes_is_answered() {
    for version in [V311, V5] {
        let mut rig = Rig::new(2, "");
        let client = rig.connect(&Connect::new(version, "a"));
        let count = 5_000_u16;
        let subscribes: Vec<u8> = (1..=count)
            .flat_map(|id| subscribe(version, id, &[(&format!("t/{id}"), 0)], &[]))
            .collect();
        rig.send(client, &subscribes);
        rig.turns(20);
        let answers = rig.receive(client);
        let len = if version == V5 { 6 } else { 5 };
        let ids = answers.chunks(len).map(|suback| u16::from_be_bytes([suback[2], suback[3]]));
        assert!(ids.eq(1..=count), "{} answers", answers.len() / len);
    }
}

/// What waited for a session may be far more than that: its client, which reads, is served.
#[test]
fn a_client_that_reads_a_long_queue_may_send_meanwhile() {
    let mut rig = Rig::new(1, "[queue]\nmax_messages = 1000");
    let subscriber = Connect::lasting(V311, "a");
    let client = rig.connect(&subscriber);
    rig.send(client, &subscribe(V311, 1, &[("t", 1)], &[]));
    rig.turns(2);
    rig.world.client_close(client);
    let publisher = rig.connect(&Connect::new(V311, "b"));
    let payload = "x".repeat(20_000);
    for id in 1..=500 {
        rig.send(publisher, &Message::new("t", &payload).qos(1).id(id).bytes(V311));
    }
    let client = rig.world.connect();
    rig.send(client, &subscriber.bytes());
    rig.turns(4);
    rig.send(client, &wire::packet(wire::PINGREQ, &[]));
    let received = rig.receive(client);
    assert!(received.len() > 500 * 20_000, "{} bytes came", received.len());
    assert_eq!(received[received.len() - 2..], [wire::PINGRESP, 0]);
}
