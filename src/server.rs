//! Start and stop: listeners, shards and the threads they run on.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::config::{self, Config, ConfigError};
use crate::hooks::Hooks;
use crate::mqtt::{Limits, QoS};
use crate::net::{ListenOptions, MioDriver, bind_group};
use crate::router::Strategy;
use crate::session::SessionLimits;
use crate::shard::{
    Bell, GiveUp, ListenerSettings, OverflowOffline, OverflowOnline, Retry, Settings, Shard,
    ShardStats, Shared,
};

/// A running broker. Dropped, it stops as by [`Broker::stop`].
#[derive(Debug)]
pub struct Broker {
    addresses: Vec<SocketAddr>,
    shared: Arc<Shared>,
    bells: Vec<Arc<Bell>>,
    threads: Vec<JoinHandle<io::Result<()>>>,
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration contradicts itself.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address}: {error}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// A shard cannot be set up.
    #[error("cannot start a shard: {0}")]
    Shard(#[source] io::Error),
}

impl Broker {
    /// Starts a broker: when this returns, clients can connect.
    ///
    /// # Errors
    /// If the configuration contradicts itself, an address cannot be listened on, or the system
    /// gives no thread or poll.
    pub fn start(config: Config) -> Result<Self, StartError> {
        Self::start_with(config, Hooks::default())
    }

    /// As [`Broker::start`], with code of the embedding program at the ports.
    ///
    /// # Errors
    /// As [`Broker::start`].
    pub fn start_with(config: Config, hooks: Hooks) -> Result<Self, StartError> {
        config.check()?;
        let shards = usize::from(config.shard_count());
        let (listeners, addresses) = bind_all(&config, shards)?;
        let start = Instant::now();
        let drivers = listeners
            .into_iter()
            .map(|listeners| MioDriver::new(listeners, start))
            .collect::<io::Result<Vec<_>>>()
            .map_err(StartError::Shard)?;
        let shared = Arc::new(Shared::new(settings(&config), hooks, shards, random_seed()));
        let shards = Shard::assemble(drivers, &shared);
        let bells = shards.iter().map(Shard::bell).collect();
        let mut broker = Self { addresses, shared, bells, threads: Vec::new() };
        for (id, shard) in shards.into_iter().enumerate() {
            let thread = std::thread::Builder::new()
                .name(format!("shard-{id}"))
                .spawn(move || shard.run())
                .map_err(StartError::Shard)?;
            broker.threads.push(thread);
        }
        Ok(broker)
    }

    /// Where it listens, in the order of the configuration.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What each shard counts.
    #[must_use]
    pub fn stats(&self) -> &[Arc<ShardStats>] {
        &self.shared.stats
    }

    /// Stops it: accepts nobody more, tells 5.0 clients (0x8B), publishes wills if so configured,
    /// writes what waits, and returns within `shutdown.timeout`.
    pub fn stop(mut self) {
        self.join();
    }

    /// Whether a shard has ended by itself, which only a failing system makes it do.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.threads.iter().any(JoinHandle::is_finished)
    }

    fn join(&mut self) {
        self.shared.stop();
        for bell in &self.bells {
            bell.ring();
        }
        for (id, thread) in self.threads.drain(..).enumerate() {
            match thread.join() {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::error!("shard {id} failed: {error}"),
                Err(_) => tracing::error!("shard {id} panicked"),
            }
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.join();
    }
}

/// Listens on every address once for each shard; gives the listeners by shard.
fn bind_all(
    config: &Config,
    shards: usize,
) -> Result<(Vec<Vec<TcpListener>>, Vec<SocketAddr>), StartError> {
    let mut by_shard: Vec<Vec<TcpListener>> = (0..shards).map(|_| Vec::new()).collect();
    let mut addresses = Vec::new();
    for listener in &config.listeners {
        let address = listener.bind;
        let options = ListenOptions {
            nodelay: listener.nodelay,
            defer_accept: listener.defer_accept,
            ..ListenOptions::default()
        };
        let backlog = i32::try_from(listener.backlog).unwrap_or(i32::MAX);
        let bound = bind_group(address, shards, backlog, &options)
            .map_err(|error| StartError::Bind { address, error })?;
        let at = bound.first().map_or(Ok(address), TcpListener::local_addr);
        addresses.push(at.map_err(|error| StartError::Bind { address, error })?);
        for (shard, socket) in by_shard.iter_mut().zip(bound) {
            shard.push(socket);
        }
    }
    Ok((by_shard, addresses))
}

/// Clients must not be able to tell which hash they meet.
fn random_seed() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(std::process::id())
}

fn seconds(limit: Option<Duration>) -> u32 {
    limit.map_or(u32::MAX, |limit| u32::try_from(limit.as_secs()).unwrap_or(u32::MAX))
}

/// The configuration as the shards take it, for those who put shards together themselves.
#[must_use]
pub fn settings(config: &Config) -> Settings {
    let Config { limits, mqtt, queue, overflow, retained, .. } = config;
    let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    Settings {
        limits: Limits {
            max_packet_size: limits.max_packet_size,
            max_topic_bytes: limits.max_topic_bytes,
            max_topic_levels: limits.max_topic_levels,
            max_user_properties: limits.max_user_properties,
            max_filters_per_packet: limits.max_filters_per_packet,
            max_client_id_bytes: limits.max_client_id_bytes,
        },
        listeners: config
            .listeners
            .iter()
            .map(|listener| ListenerSettings {
                max_connections: listener.max_connections.map_or(usize::MAX, |max| max as usize),
            })
            .collect(),
        max_connections: limits.max_connections as usize,
        max_sessions: limits.max_sessions as usize,
        connections_per_second: limits.connections_per_second,
        connections_per_second_per_address: limits.connections_per_second_per_address,
        connect_timeout: limits.connect_timeout,
        receive_maximum: NonZeroU16::new(mqtt.receive_maximum).unwrap_or(NonZeroU16::MAX),
        maximum_qos: QoS::from_u8(mqtt.max_qos).unwrap_or(QoS::ExactlyOnce),
        topic_alias_maximum: mqtt.topic_alias_maximum,
        topic_alias_maximum_outbound: mqtt.topic_alias_maximum_outbound,
        max_keep_alive: mqtt
            .max_keep_alive
            .map_or(0, |max| u16::try_from(max.as_secs()).unwrap_or(u16::MAX)),
        max_session_expiry: seconds(mqtt.max_session_expiry),
        persistent_session_expiry: seconds(mqtt.v3_session_expiry),
        retain_available: mqtt.retain_available,
        wildcard_subscription_available: mqtt.wildcard_subscription_available,
        shared_subscription_available: mqtt.shared_subscription_available,
        validate_payload_format: mqtt.validate_payload_format,
        response_information_prefix: mqtt.response_information_prefix.clone(),
        allow_zero_length_client_id: mqtt.allow_zero_length_client_id,
        max_subscriptions_per_client: limits.max_subscriptions_per_client as usize,
        session: SessionLimits {
            max_inflight: mqtt.max_inflight,
            max_queued_messages: queue.max_messages,
            max_queued_bytes: queue.max_bytes,
            queue_qos0: queue.store_qos0_offline,
        },
        qos0_backlog_bytes: bytes(queue.qos0_backlog_bytes),
        retry: mqtt.retry.as_ref().map(|retry| Retry {
            after: retry.after.clone(),
            give_up: match retry.give_up {
                config::GiveUp::Disconnect => GiveUp::Disconnect,
                config::GiveUp::Never => GiveUp::Never,
            },
        }),
        patience: overflow.patience,
        overflow_online: match overflow.online {
            config::OnlineOverflow::Disconnect => OverflowOnline::Disconnect,
            config::OnlineOverflow::DropOldest => OverflowOnline::DropOldest,
            config::OnlineOverflow::DropNewest => OverflowOnline::DropNewest,
        },
        overflow_offline: match overflow.offline {
            config::OfflineOverflow::DropNewest => OverflowOffline::DropNewest,
            config::OfflineOverflow::DropOldest => OverflowOffline::DropOldest,
            config::OfflineOverflow::EndSession => OverflowOffline::EndSession,
        },
        strategy: strategy(config.shared.strategy),
        max_retained_messages: retained.max_messages as usize,
        max_retained_bytes: bytes(retained.max_bytes),
        route_cache_entries: config.route_cache.entries as usize,
        mailbox_bytes: bytes(config.mailbox.max_bytes),
        sys_interval: config.sys.interval,
        shutdown_timeout: config.shutdown.timeout,
        shutdown_wills: config.shutdown.publish_wills,
        client_lines_per_second: config.log.client_lines_per_second,
    }
}

fn strategy(strategy: config::SharedStrategy) -> Strategy {
    match strategy {
        config::SharedStrategy::RoundRobin => Strategy::RoundRobin,
        config::SharedStrategy::Random => Strategy::Random,
        config::SharedStrategy::LeastInFlight => Strategy::LeastInFlight,
        config::SharedStrategy::Sticky => Strategy::Sticky,
        config::SharedStrategy::ClientId => Strategy::ClientId,
        config::SharedStrategy::Topic => Strategy::Topic,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;
    use crate::config::Listener;

    fn broker() -> Broker {
        broker_with_shards(2)
    }

    fn broker_with_shards(shards: u8) -> Broker {
        let listeners = vec![Listener::on(SocketAddr::from(([127, 0, 0, 1], 0)))];
        Broker::start(Config { shards, listeners, ..Config::default() }).expect("a free port")
    }

    #[test]
    fn as_many_shards_as_the_configuration_allows_do_start() {
        let broker = broker_with_shards(crate::shard::MAX_SHARDS);
        assert!(!broker.is_broken());
        broker.stop();
    }

    #[test]
    fn an_idle_broker_stops_at_once() {
        let stop = || {
            let broker = broker();
            let start = Instant::now();
            broker.stop();
            start.elapsed()
        };
        // A shard that sleeps on in the middle of it takes a second.
        let quick = |_| stop() < Duration::from_millis(300);
        assert!((0..5).any(quick), "all five stops took long");
    }

    /// What the broker answers to these bytes, up to the end of the connection.
    fn answer(broker: &Broker, bytes: &[u8]) -> Vec<u8> {
        let mut socket = TcpStream::connect(broker.addresses()[0]).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        socket.write_all(bytes).unwrap();
        socket.shutdown(std::net::Shutdown::Write).unwrap();
        let mut answer = Vec::new();
        socket.read_to_end(&mut answer).unwrap();
        answer
    }

    /// Who cannot be told that it was let in is not [MQTT-3.1.2-24].
    #[test]
    fn a_client_without_room_for_connack_is_refused() {
        let broker = broker();
        let answer = |maximum_packet_size: u8| {
            let head = b"\x10\x12\0\x04MQTT\x05\x02\0\0\x05\x27\0\0\0";
            answer(&broker, &[&head[..], &[maximum_packet_size, 0, 0]].concat())
        };
        let accepted = answer(u8::MAX);
        assert_eq!((accepted[0], accepted[3]), (0x20, 0x00));
        let len = u8::try_from(accepted.len()).unwrap();
        assert_eq!(answer(len).len(), accepted.len());
        for too_few in [len - 1, 5] {
            assert_eq!(answer(too_few), [0x20, 3, 0, 0x95, 0]);
        }
        assert_eq!(answer(4), []);
    }

    /// Its own errors do not count: their reason codes are not DISCONNECT's [MQTT-3.1.0-2].
    #[test]
    fn a_second_connect_is_a_protocol_error() {
        let broker = broker();
        let first = b"\x10\x0D\0\x04MQTT\x05\x02\0\0\0\0\0";
        let seconds: [&[u8]; 3] =
            [first, b"\x10\x0E\0\x06MQIsdp\x03\x02\0\0\0\0", b"\x10\x07\0\x04MQTT\x09"];
        for second in seconds {
            let answer = answer(&broker, &[first, second].concat());
            let connack_len = 2 + usize::from(answer[1]);
            assert_eq!(answer[connack_len], 0xE0);
            assert_eq!(answer[connack_len + 2], 0x82);
        }
    }
}
