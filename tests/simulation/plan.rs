//! What one seed stands for: how many shards and clients, which limits, what goes wrong.

use std::num::NonZeroU16;
use std::time::Duration;

use fastrand::Rng;
use sluice::net::sim::{Faults, SimOptions};
use sluice::router::Strategy;
use sluice::shard::{GiveUp, OverflowOffline, OverflowOnline, Retry, Settings};

/// The setting of a run.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) shards: usize,
    pub(crate) clients: usize,
    pub(crate) steps: usize,
    pub(crate) options: SimOptions,
    pub(crate) settings: Settings,
    /// No message with QoS above 0 may be dropped.
    pub(crate) lossless: bool,
    /// A message that was acknowledged is still kept by somebody when it had to be dropped elsewhere.
    pub(crate) honest: bool,
    /// Whoever subscribes stays, with a session that stays, at QoS 1 or 2.
    pub(crate) steadfast: bool,
    /// Nothing breaks and nobody is slow: not even QoS 0 is lost.
    pub(crate) calm: bool,
    /// Of a thousand things that a client does, how many times it subscribes.
    pub(crate) appetite: u32,
    /// Of a thousand things that a client does, how many end its connection.
    pub(crate) unrest: u32,
    /// Of a thousand things that a client does, how many times it stops reading.
    pub(crate) stalls: u32,
    /// 3.x clients are sent again what they do not acknowledge in time.
    pub(crate) retries: bool,
}

impl Plan {
    pub(crate) fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed ^ 0x5EED);
        let mut plan = Self {
            shards: rng.usize(1..=4),
            clients: rng.usize(2..=10),
            steps: rng.usize(800..3_000),
            options: SimOptions {
                faults: faults(&mut rng),
                buffer_bytes: [300, 2_000, 16_384][rng.usize(0..3)],
            },
            settings: sluice::server::settings(&sluice::Config::default()),
            lossless: true,
            honest: true,
            steadfast: false,
            calm: false,
            appetite: [20, 120, 250][rng.usize(0..3)],
            unrest: [0, 10, 40, 120][rng.usize(0..4)],
            stalls: [0, 0, 10, 40][rng.usize(0..4)],
            retries: false,
        };
        plan.limit(&mut rng);
        plan.calm = plan.unrest == 0
            && plan.stalls == 0
            && plan.options.faults.reset == 0.0
            && plan.settings.qos0_backlog_bytes > 1_000_000
            && plan.lossless;
        plan
    }

    /// When all is quiet nothing waits for a timer: no queue overflows, nothing is sent again.
    pub(crate) fn is_prompt(&self) -> bool {
        self.lossless && !self.retries
    }

    fn limit(&mut self, rng: &mut Rng) {
        let settings = &mut self.settings;
        settings.sys_interval = Duration::ZERO;
        settings.max_session_expiry = u32::MAX;
        settings.persistent_session_expiry = u32::MAX;
        settings.strategy = [
            Strategy::RoundRobin,
            Strategy::Random,
            Strategy::LeastInFlight,
            Strategy::Sticky,
            Strategy::ClientId,
            Strategy::Topic,
        ][rng.usize(0..6)];
        settings.patience = Duration::from_millis(rng.u64(20..2_000));
        if rng.bool() {
            settings.route_cache_entries = rng.usize(1..8);
        }
        if rng.bool() {
            settings.mailbox_bytes = rng.usize(1..3_000);
        }
        if rng.bool() {
            settings.receive_maximum =
                NonZeroU16::new(rng.u16(1..8)).unwrap_or(settings.receive_maximum);
            settings.session.max_inflight = rng.u16(1..8);
        }
        if rng.bool() {
            settings.qos0_backlog_bytes = rng.usize(100..4_000);
        }
        if rng.u8(0..4) == 0 {
            self.retries = true;
            let count = rng.usize(1..4);
            let after = (0..count).map(|_| Duration::from_millis(rng.u64(50..2_000))).collect();
            let give_up = [GiveUp::Disconnect, GiveUp::Never][rng.usize(0..2)];
            settings.retry = Some(Retry { after, give_up });
        }
        if rng.bool() {
            settings.session.max_inflight_bytes = rng.u32(1..2_000);
        }
        let everybody_stays = self.unrest == 0 && self.options.faults.reset == 0.0 && !self.retries;
        if rng.u8(0..3) == 0 {
            self.starve(rng);
        } else if everybody_stays && rng.bool() {
            self.slow_down(rng);
        }
    }

    /// Queues so small that publishers are slowed, for as long as it takes: nobody loses anything.
    fn slow_down(&mut self, rng: &mut Rng) {
        let settings = &mut self.settings;
        settings.session.max_inflight = rng.u16(1..4);
        settings.session.max_queued_messages = rng.u32(1..6);
        if rng.bool() {
            settings.max_total_queued_bytes = rng.u64(200..4_000);
        }
        settings.patience = Duration::from_secs(3_600);
    }

    /// Queues so small that they overflow.
    fn starve(&mut self, rng: &mut Rng) {
        let settings = &mut self.settings;
        settings.session.max_queued_messages = rng.u32(1..20);
        if rng.bool() {
            settings.session.max_queued_bytes = rng.u64(200..4_000);
        }
        if rng.bool() {
            settings.max_total_queued_bytes = rng.u64(200..8_000);
        }
        settings.session.queue_qos0 = rng.bool();
        use {OverflowOffline as Offline, OverflowOnline as Online};
        settings.overflow_online =
            [Online::Disconnect, Online::DropOldest, Online::DropNewest][rng.usize(0..3)];
        settings.overflow_offline =
            [Offline::DropNewest, Offline::DropOldest, Offline::EndSession][rng.usize(0..3)];
        self.lossless = false;
        self.honest = settings.overflow_online != Online::DropOldest
            && settings.overflow_offline == Offline::DropNewest;
        self.steadfast = rng.bool();
    }
}

fn faults(rng: &mut Rng) -> Faults {
    match rng.u8(0..5) {
        0 => Faults::NONE,
        1 => Faults::default(),
        2 => Faults { reset: 0.002, ..Faults::default() },
        3 => Faults { reset: 0.01, max_delay: Duration::from_millis(200), ..Faults::default() },
        _ => Faults {
            short_read: 0.6,
            short_write: 0.6,
            late: 0.5,
            reset: 0.0,
            max_delay: Duration::from_millis(5),
        },
    }
}
