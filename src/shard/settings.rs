//! What a shard is told: the configuration as plain values.

use std::collections::HashMap;
use std::num::NonZeroU16;
use std::time::Duration;

use crate::auth::Network;
use crate::mqtt::{Limits, QoS};
use crate::router::Strategy;
use crate::session::SessionLimits;

/// What happens to a connected receiver whose queue stayed full for [`Settings::patience`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverflowOnline {
    /// It is disconnected (v5: 0x97).
    Disconnect,
    /// The oldest queued message makes room.
    DropOldest,
    /// The new message is not queued.
    DropNewest,
}

/// What happens when the queue of an absent session is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OverflowOffline {
    /// The new message is not queued.
    DropNewest,
    /// The oldest queued message makes room.
    DropOldest,
    /// The session ends.
    EndSession,
}

/// What follows the last timed redelivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GiveUp {
    /// The connection is closed; a persistent session keeps its messages.
    Disconnect,
    /// The last interval repeats.
    Never,
}

/// Timed redelivery for 3.1 and 3.1.1 clients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How long after the previous sending the next one follows.
    pub after: Vec<Duration>,
    /// What follows the last.
    pub give_up: GiveUp,
}

/// What one listener takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSettings {
    /// Most connections at a time through this listener, over all shards.
    pub max_connections: usize,
    /// Who brings the connections of others, and is believed whose they are; nobody else may connect then.
    pub proxies: Option<Vec<Network>>,
    /// How long a TLS handshake may take; none if there is no TLS.
    pub handshake_timeout: Option<Duration>,
    /// Most connections accepted in a second, over all shards; beyond it they wait.
    pub connections_per_second: Option<u32>,
    /// What its clients are told.
    pub terms: Terms,
    /// How much one of its clients may publish.
    pub publish_rate: PublishRate,
}

/// What the clients of a listener are told in CONNACK.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Terms {
    /// The largest packet taken from them, in bytes.
    pub max_packet_size: u32,
    /// The longest Keep Alive, in seconds; 0: any, none included.
    pub max_keep_alive: u16,
}

/// How much one client may publish; without end if absent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PublishRate {
    /// PUBLISH packets.
    pub messages_per_second: Option<u32>,
    /// Bytes of PUBLISH packets.
    pub bytes_per_second: Option<u64>,
    /// What may be saved up.
    pub burst: Duration,
}

/// What a user gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Most connections at a time, over all shards.
    pub max_connections: Option<u32>,
    /// How much the user's clients may publish: what is here is of all together, over all shards.
    pub publish_rate: PublishRateChange,
}

/// What takes the place of a [`PublishRate`], as far as it is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PublishRateChange {
    /// As in [`PublishRate`].
    pub messages_per_second: Option<Option<u32>>,
    /// As in [`PublishRate`].
    pub bytes_per_second: Option<Option<u64>>,
    /// As in [`PublishRate`].
    pub burst: Option<Duration>,
}

impl PublishRateChange {
    /// The rate with this in its place.
    #[must_use]
    pub fn over(&self, rate: PublishRate) -> PublishRate {
        PublishRate {
            messages_per_second: self.messages_per_second.unwrap_or(rate.messages_per_second),
            bytes_per_second: self.bytes_per_second.unwrap_or(rate.bytes_per_second),
            burst: self.burst.unwrap_or(rate.burst),
        }
    }
}

/// The quotas of users.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Quotas {
    /// Of those who are named.
    pub by_user: HashMap<String, Quota>,
    /// Of all other users.
    pub others: Option<Quota>,
}

impl Quotas {
    /// The quota of a user.
    #[must_use]
    pub fn of(&self, user: &str) -> Option<&Quota> {
        self.by_user.get(user).or(self.others.as_ref())
    }
}

/// Every value that a shard goes by. Made once, shared by all shards.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Bounds of what a packet may hold.
    pub limits: Limits,
    /// By listener index.
    pub listeners: Vec<ListenerSettings>,
    /// What users get.
    pub quotas: Quotas,
    /// Most connections at a time over all shards and listeners.
    pub max_connections: usize,
    /// Most sessions at a time over all shards.
    pub max_sessions: usize,
    /// Most connections accepted in a second, over all shards; beyond it they wait.
    pub connections_per_second: Option<u32>,
    /// Most connections in a second from one address, over all shards; beyond it they are closed.
    pub connections_per_second_per_address: Option<u32>,
    /// From which mean time of a turn on new clients are refused.
    pub max_turn: Option<Duration>,
    /// From which memory of the process on, in bytes, new clients are refused.
    pub max_memory: Option<u64>,
    /// A connection without a CONNECT for this long is closed.
    pub connect_timeout: Duration,
    /// Bytes of CONNECT.
    pub max_connect_size: u32,
    /// QoS 1 and 2 messages we take unacknowledged from one client.
    pub receive_maximum: NonZeroU16,
    /// The highest QoS offered.
    pub maximum_qos: QoS,
    /// Aliases a client may use towards us.
    pub topic_alias_maximum: u16,
    /// Aliases we use towards a client, within its own maximum.
    pub topic_alias_maximum_outbound: u16,
    /// The longest Session Expiry Interval, in seconds; `u32::MAX`: without end.
    pub max_session_expiry: u32,
    /// Session expiry of 3.x clients without Clean Session, in seconds; `u32::MAX`: without end.
    pub persistent_session_expiry: u32,
    /// Whether retained messages are offered.
    pub retain_available: bool,
    /// Whether wildcard filters are offered.
    pub wildcard_subscription_available: bool,
    /// Whether shared subscriptions are offered.
    pub shared_subscription_available: bool,
    /// Whether a payload said to be text is checked to be UTF-8.
    pub validate_payload_format: bool,
    /// What the Response Information of clients that ask begins with; empty: none is given.
    pub response_information_prefix: String,
    /// Whether a client may leave its identifier to us.
    pub allow_zero_length_client_id: bool,
    /// Subscriptions one client may hold.
    pub max_subscriptions_per_client: usize,
    /// Subscriptions over all shards.
    pub max_subscriptions: usize,
    /// Bytes that these take over all shards.
    pub max_subscription_bytes: usize,
    /// Bytes queued for all sessions of all shards.
    pub max_total_queued_bytes: u64,
    /// Bounds of one session.
    pub session: SessionLimits,
    /// Bytes that may wait for a slow reader before QoS 0 is dropped and the rest stays queued; at
    /// twice as many it is not read.
    pub qos0_backlog_bytes: usize,
    /// Timed redelivery; none if absent.
    pub retry: Option<Retry>,
    /// How long a full receiver may slow its publishers.
    pub patience: Duration,
    /// What happens to it then.
    pub overflow_online: OverflowOnline,
    /// What happens when an absent session's queue is full.
    pub overflow_offline: OverflowOffline,
    /// Whether a 3.x publisher is told success for a message that there was no room for, instead
    /// of being closed.
    pub acknowledge_unkept: bool,
    /// Whether a 3.x client's message that it may not publish is acknowledged; otherwise its connection is
    /// closed.
    pub acknowledge_denied: bool,
    /// How shared subscriptions are dealt out.
    pub strategy: Strategy,
    /// Retained messages at most.
    pub max_retained_messages: usize,
    /// Bytes of retained messages at most.
    pub max_retained_bytes: usize,
    /// Topics whose routes are remembered, per shard.
    pub route_cache_entries: usize,
    /// Bytes on the way from one shard to another.
    pub mailbox_bytes: usize,
    /// Interval of the `$SYS` topics; zero: none.
    pub sys_interval: Duration,
    /// How long a stop may take.
    pub shutdown_timeout: Duration,
    /// Whether a stop publishes the wills of connected clients.
    pub shutdown_wills: bool,
    /// Log lines about clients in a second, per shard.
    pub client_lines_per_second: u32,
}

impl Settings {
    /// What the clients of a listener are told.
    pub(super) fn terms(&self, listener: u16) -> Terms {
        let any = Terms { max_packet_size: self.limits.max_packet_size, max_keep_alive: 0 };
        self.listeners.get(usize::from(listener)).map_or(any, |listener| listener.terms)
    }
}

#[cfg(test)]
impl ListenerSettings {
    /// Nothing special: a test names what it is about.
    pub(super) fn for_tests() -> Self {
        Self {
            max_connections: usize::MAX,
            proxies: None,
            handshake_timeout: None,
            connections_per_second: None,
            terms: Terms { max_packet_size: 1 << 20, max_keep_alive: 0 },
            publish_rate: PublishRate::default(),
        }
    }
}

#[cfg(test)]
impl Settings {
    /// Nothing special: a test names what it is about.
    pub(super) fn for_tests() -> Self {
        Self {
            limits: Limits::default(),
            listeners: Vec::new(),
            quotas: Quotas::default(),
            max_connections: usize::MAX,
            max_sessions: usize::MAX,
            connections_per_second: None,
            connections_per_second_per_address: None,
            max_turn: None,
            max_memory: None,
            connect_timeout: Duration::from_secs(10),
            max_connect_size: 1 << 20,
            receive_maximum: NonZeroU16::MAX,
            maximum_qos: QoS::ExactlyOnce,
            topic_alias_maximum: 0,
            topic_alias_maximum_outbound: 0,
            max_session_expiry: u32::MAX,
            persistent_session_expiry: u32::MAX,
            retain_available: true,
            wildcard_subscription_available: true,
            shared_subscription_available: true,
            validate_payload_format: true,
            response_information_prefix: String::new(),
            allow_zero_length_client_id: true,
            max_subscriptions_per_client: usize::MAX,
            max_subscriptions: usize::MAX,
            max_subscription_bytes: usize::MAX,
            max_total_queued_bytes: u64::MAX,
            session: SessionLimits::default(),
            qos0_backlog_bytes: 1 << 20,
            retry: None,
            patience: Duration::from_secs(2),
            overflow_online: OverflowOnline::Disconnect,
            overflow_offline: OverflowOffline::DropNewest,
            acknowledge_unkept: false,
            acknowledge_denied: true,
            strategy: Strategy::default(),
            max_retained_messages: usize::MAX,
            max_retained_bytes: usize::MAX,
            route_cache_entries: 1 << 10,
            mailbox_bytes: 1 << 20,
            sys_interval: Duration::ZERO,
            shutdown_timeout: Duration::from_secs(10),
            shutdown_wills: true,
            client_lines_per_second: 10,
        }
    }
}
