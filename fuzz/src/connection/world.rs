//! The broker and its virtual time.

use std::sync::Arc;
use std::time::Duration;

use sluice::Config;
use sluice::config::{OfflineOverflow, OnlineOverflow, SharedStrategy};
use sluice::hooks::Hooks;
use sluice::net::sim::{Faults, SimDriver, SimOptions, World};
use sluice::server::settings;
use sluice::shard::{Shard, Shared};

use crate::input::Input;

const SHARDS: usize = 2;

/// So many turns without a moment passing are one that spins.
const TURNS_AT_ONCE: usize = 20_000;

pub(super) struct Broker {
    pub(super) world: World,
    shards: Vec<Shard<SimDriver>>,
    shared: Arc<Shared>,
}

impl Broker {
    /// A broker as the first bytes configure it.
    pub(super) fn start(input: &mut Input<'_>) -> Self {
        let config = config(input);
        let options = SimOptions {
            faults: Faults::NONE,
            buffer_bytes: if input.byte() & 1 == 0 { 16 * 1024 } else { 512 },
        };
        let seed = u64::from(input.byte());
        let world = World::new(seed, options);
        let drivers = (0..SHARDS).map(|_| world.add_driver()).collect();
        let shared = Arc::new(Shared::new(settings(&config), Hooks::default(), SHARDS, seed));
        let shards = Shard::assemble(drivers, &shared);
        Self { world, shards, shared }
    }

    pub(super) fn set_faults(&self, input: &mut Input<'_>) {
        self.world.set_faults(super::faults(input.byte()));
    }

    /// One shard's turn, whether or not it has anything to do.
    pub(super) fn turn(&mut self, shard: usize) -> bool {
        self.shards[shard].turn(true).expect("the driver does not fail")
    }

    /// Turns until nothing is left to do at this moment.
    pub(super) fn settle(&mut self) {
        for _ in 0..TURNS_AT_ONCE {
            let Some(shard) = self.world.ready_shard() else { return };
            self.turn(shard);
        }
        panic!("the shards spin");
    }

    /// Lets time pass, with everything that falls due.
    pub(super) fn run_for(&mut self, time: Duration) {
        let end = self.world.now().plus(time);
        self.settle();
        while let Some(at) = self.world.next_event().filter(|at| *at <= end) {
            self.world.advance_to(at);
            self.settle();
        }
        self.world.advance_to(end);
        self.settle();
    }

    /// Stops the broker, which takes no longer than it may.
    pub(super) fn stop(mut self) {
        self.shared.stop();
        for shard in &self.shards {
            shard.bell().ring();
        }
        let end = self.world.now().plus(self.shared.settings().shutdown_timeout * 2);
        while self.world.now() <= end {
            for at in (0..self.shards.len()).rev() {
                if !self.turn(at) {
                    self.shards.remove(at);
                }
            }
            if self.shards.is_empty() {
                return;
            }
            self.world.advance(Duration::from_millis(10));
        }
        panic!("the broker does not stop");
    }
}

/// Narrow limits at times, so that a few packets reach them.
fn config(input: &mut Input<'_>) -> Config {
    let (bits, more) = (input.byte(), input.byte());
    let mut config = Config::default();
    config.limits.max_packet_size = 64 * 1024;
    config.sys.interval = Duration::from_secs(if bits & 1 == 0 { 0 } else { 10 });
    if bits & 2 != 0 {
        config.queue.max_messages = 4;
        config.queue.max_bytes = 1024;
        config.queue.qos0_backlog_bytes = 256;
        config.mqtt.max_inflight = 3;
        config.mqtt.receive_maximum = 5;
    }
    if bits & 4 != 0 {
        config.mailbox.max_bytes = 1024;
        config.route_cache.entries = 4;
    }
    config.queue.store_qos0_offline = bits & 8 != 0;
    config.overflow.online = match bits >> 4 & 3 {
        0 => OnlineOverflow::Disconnect,
        1 => OnlineOverflow::DropOldest,
        _ => OnlineOverflow::DropNewest,
    };
    config.overflow.offline = match bits >> 6 {
        0 => OfflineOverflow::EndSession,
        1 => OfflineOverflow::DropOldest,
        _ => OfflineOverflow::DropNewest,
    };
    config.shared.strategy = match more & 7 {
        0 => SharedStrategy::Random,
        1 => SharedStrategy::LeastInFlight,
        2 => SharedStrategy::Sticky,
        3 => SharedStrategy::ClientId,
        4 => SharedStrategy::Topic,
        _ => SharedStrategy::RoundRobin,
    };
    if more & 8 != 0 {
        config.limits.max_subscriptions_per_client = 3;
        config.retained.max_messages = 3;
    }
    config.shutdown.publish_wills = more & 16 != 0;
    config
}
